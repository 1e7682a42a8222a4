//! Which subtask reads which partition.
//!
//! [`Assigner::FlinkHash`] deals the partitions of a topic round-robin, from a start that the topic's name decides, exactly as
//! Flink's Kafka connector does: the same job gets the same layout. [`Assigner::Balanced`] looks at what each subtask
//! already reads, and so evens out several topics and changed parallelism.
//!
//! # References
//! Flink: `KafkaTopicPartitionAssigner` (classic), `KafkaSourceEnumerator` (FLIP-27).

use std::fmt;
use std::sync::Arc;

use milena::TopicPartition;

/// What a subtask reads already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// Partitions of all topics.
    pub partitions: usize,
    /// Of them, those of the topic in question.
    pub of_topic: usize,
}

/// A rule of the user's own.
pub trait Assign: fmt::Debug + Send + Sync {
    /// The subtask that reads a partition, among `load.len()` subtasks, of which `load[i]` says what each reads already. It is asked
    /// for each partition when it is found, and for each again after a restore. A number beyond the last subtask counts
    /// from 0 again.
    fn owner(&self, partition: &TopicPartition, load: &[Load]) -> u32;
}

/// The rule that gives each partition its subtask.
#[derive(Clone, Debug, Default)]
pub enum Assigner {
    /// Flink's: by the hash of the topic's name, then round-robin over its partitions. The default.
    #[default]
    FlinkHash,
    /// The subtask with the fewest partitions of all topics; on a tie the one with the fewest of this topic, then the lowest
    /// index.
    Balanced,
    /// By the partition's number alone: partitions of one number of all topics are read by one subtask, as joins need it.
    CoPartitioned,
    /// The user's own.
    Custom(Arc<dyn Assign>),
}

impl Assigner {
    /// The owner of a partition, among subtasks that read so much already.
    ///
    /// Returns 0 if there are no subtasks.
    #[must_use]
    pub fn owner(&self, partition: &TopicPartition, load: &[Load]) -> u32 {
        let parallelism = u32::try_from(load.len()).unwrap_or(u32::MAX);
        match self {
            Self::FlinkHash => owner(&partition.topic, partition.partition.0, parallelism),
            Self::Balanced => {
                let least = load.iter().enumerate().min_by_key(|(index, load)| (**load, *index));
                least.map_or(0, |(index, _)| u32::try_from(index).unwrap_or(u32::MAX))
            }
            Self::CoPartitioned => partition.partition.0.unsigned_abs().checked_rem(parallelism).unwrap_or(0),
            Self::Custom(rule) => rule.owner(partition, load).checked_rem(parallelism).unwrap_or(0),
        }
    }
}

/// The subtask that owns a partition under Flink's rule; 0 if `parallelism` is 0.
///
/// ```
/// use milena_connector::source::assign::owner;
/// let owners: Vec<u32> = (0..6).map(|partition| owner("topic-1", partition, 4)).collect();
/// assert_eq!(owners, [1, 2, 3, 0, 1, 2]);
/// ```
#[must_use]
pub fn owner(topic: &str, partition: i32, parallelism: u32) -> u32 {
    let Some(parallelism) = std::num::NonZeroU64::new(u64::from(parallelism)) else {
        return 0;
    };
    let mixed = java_hash(topic).wrapping_mul(31) & i32::MAX;
    let start = u64::from(mixed.unsigned_abs()) % parallelism;
    let owner = (start + u64::from(partition.unsigned_abs())) % parallelism;
    u32::try_from(owner).unwrap_or(0)
}

/// Java's `String.hashCode`: over UTF-16 code units, wrapping.
#[must_use]
pub fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The topic, its hash, and the owner of partition 0 for each parallelism of [`WIDTHS`].
    const VECTORS: &[(&str, i32, [u32; 9])] = &[
        ("a", 97, [0, 1, 1, 3, 2, 4, 7, 15, 63]),
        ("test-topic", 639_758_388, [0, 0, 0, 0, 1, 5, 4, 12, 76]),
        ("topic-1", -1_139_260_653, [0, 1, 1, 1, 3, 2, 5, 13, 77]),
        ("orders.v1", -390_712_796, [0, 0, 1, 0, 2, 4, 4, 12, 92]),
        ("flink-kafka", 1_141_117_049, [0, 1, 0, 3, 1, 2, 7, 7, 39]),
        ("主题", 659_901, [0, 1, 0, 3, 1, 5, 3, 3, 99]),
        ("😀", 1_772_899, [0, 1, 1, 1, 4, 6, 5, 13, 125]),
        ("polygenelubricants", i32::MIN, [0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    const WIDTHS: [u32; 9] = [1, 2, 3, 4, 5, 7, 8, 16, 128];

    // scenario: 5.2.32, 5.2.33
    #[test]
    fn the_layout_is_flinks() {
        for (topic, hash, owners) in VECTORS {
            assert_eq!(java_hash(topic), *hash, "{topic}");
            for (width, expected) in WIDTHS.iter().zip(owners) {
                assert_eq!(owner(topic, 0, *width), *expected, "{topic} over {width}");
            }
        }
    }

    /// What Flink's own classes answered; `cargo xtask flink-hash` asks them again.
    // scenario: 5.2.32
    #[test]
    fn owners_are_those_that_flinks_own_classes_name() {
        let mut lines = include_str!("flink_owners.tsv").lines().skip(1);
        let numbers =
            |text: &str| -> Vec<u32> { text.split('\t').map(|number| number.parse().unwrap()).collect() };
        let head = lines.next().and_then(|line| line.strip_prefix("topic\tparallelism\t")).unwrap();
        let partitions = numbers(head);
        let (mut asked, mut negative) = (0, 0);
        for line in lines {
            let (topic, rest) = line.split_once('\t').unwrap();
            let (width, owners) = rest.split_once('\t').unwrap();
            let width: u32 = width.parse().unwrap();
            let load = vec![Load::default(); width as usize];
            for (partition, expected) in partitions.iter().zip(numbers(owners)) {
                let at = TopicPartition::new(topic, i32::try_from(*partition).unwrap());
                assert_eq!(Assigner::FlinkHash.owner(&at, &load), expected, "{at:?} over {width}");
                asked += 1;
            }
            negative += u32::from(java_hash(topic) < 0);
        }
        assert!(asked > 3000 && negative > 100, "{asked} of them, {negative} of negative hashes");
    }

    // scenario: 5.2.28, 5.2.29, 5.2.30
    #[test]
    fn partitions_of_one_topic_are_dealt_evenly() {
        for width in 1..9_u32 {
            let mut load = vec![0_usize; width as usize];
            for partition in 0..20 {
                load[owner("orders.v1", partition, width) as usize] += 1;
            }
            let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
            assert!(most - least <= 1, "{load:?}");
        }
    }

    fn tp(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    /// Two topics with as many partitions as there are subtasks: nobody reads both partitions of one topic.
    // scenario: D48
    #[test]
    fn topics_that_all_start_at_one_subtask_are_balanced_when_asked() {
        let mut load = vec![Load::default(); 4];
        for topic in ["test-topic", "orders.v1", "polygenelubricants", "AaAa"] {
            let chosen = Assigner::Balanced.owner(&tp(topic, 0), &load);
            load[chosen as usize].partitions += 1;
        }
        assert!(load.iter().all(|load| load.partitions == 1), "{load:?}");
        let uneven = [(1, 1), (1, 0), (2, 0)].map(|(partitions, of_topic)| Load { partitions, of_topic });
        assert_eq!(Assigner::Balanced.owner(&tp("t", 0), &uneven), 1, "the topic is spread, too");
    }

    #[test]
    fn a_rule_of_the_users_own_is_asked_and_stays_in_range() {
        #[derive(Debug)]
        struct ByNumber;
        impl Assign for ByNumber {
            fn owner(&self, partition: &TopicPartition, _: &[Load]) -> u32 {
                partition.partition.0.unsigned_abs() + 100
            }
        }
        let rule = Assigner::Custom(Arc::new(ByNumber));
        assert_eq!(rule.owner(&tp("t", 5), &[Load::default(); 4]), 1);
        assert_eq!(rule.owner(&tp("t", 5), &[]), 0);
    }

    #[test]
    fn no_subtasks_is_not_a_division_by_zero() {
        assert_eq!(owner("a", 3, 0), 0);
        assert_eq!(Assigner::Balanced.owner(&tp("a", 0), &[]), 0);
        assert_eq!(Assigner::CoPartitioned.owner(&tp("a", 0), &[]), 0);
    }

    #[test]
    fn co_partitioned_topics_stay_together() {
        let load = [Load::default(); 4];
        for partition in 0..9 {
            let owners = ["orders", "payments"]
                .map(|topic| Assigner::CoPartitioned.owner(&tp(topic, partition), &load));
            assert_eq!(owners, [partition.unsigned_abs() % 4; 2]);
        }
    }
}
