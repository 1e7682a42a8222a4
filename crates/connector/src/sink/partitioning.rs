//! Which partition a record goes to when its serializer names none.

use std::fmt;
use std::sync::Arc;

use milena::PartitionId;

use crate::schema::SinkRecord;

/// Chooses a partition. Each subtask asks the same value, so it keeps no state of its own.
pub trait SinkPartitioner: Send + Sync {
    /// The partition for a record: one of `place.partitions`.
    fn partition(&self, record: &SinkRecord, place: &Place<'_>) -> PartitionId;
}

impl<F> SinkPartitioner for F
where
    F: Fn(&SinkRecord, &Place<'_>) -> PartitionId + Send + Sync,
{
    fn partition(&self, record: &SinkRecord, place: &Place<'_>) -> PartitionId {
        self(record, place)
    }
}

/// Who asks, and what there is to choose from.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The subtask, from 0.
    pub subtask: u32,
    /// How many subtasks there are.
    pub parallelism: u32,
    /// The topic's partitions in ascending order, as the newest metadata has them: partitions that are added are seen.
    pub partitions: &'a [PartitionId],
}

/// Where a sink writes a record whose serializer names no partition.
#[derive(Clone, Default)]
pub enum SinkPartitioning {
    /// The producer's partitioner decides: by default the key's hash, or the emptiest batch without a key. The default.
    #[default]
    Producer,
    /// Each subtask writes one partition: subtask number modulo partition count (Flink's fixed partitioner). With fewer
    /// subtasks than partitions some partitions stay empty.
    Fixed,
    /// Each subtask takes the partitions in turns, record by record, beginning at its own number.
    RoundRobin,
    /// A function of the record.
    Custom(Arc<dyn SinkPartitioner>),
}

impl SinkPartitioning {
    /// A function of the record and of the partitions there are.
    #[must_use]
    pub fn custom(partitioner: impl SinkPartitioner + 'static) -> Self {
        Self::Custom(Arc::new(partitioner))
    }

    /// The partition; `None` leaves it to the producer. `turn` counts the subtask's records.
    #[must_use]
    pub fn choose(&self, record: &SinkRecord, place: &Place<'_>, turn: u64) -> Option<PartitionId> {
        let nth = |number: u64| {
            let count = u64::try_from(place.partitions.len()).ok().filter(|&count| count > 0)?;
            place.partitions.get(usize::try_from(number % count).ok()?).copied()
        };
        match self {
            Self::Producer => None,
            Self::Fixed => nth(u64::from(place.subtask)),
            Self::RoundRobin => nth(u64::from(place.subtask).wrapping_add(turn)),
            Self::Custom(custom) => Some(custom.partition(record, place)),
        }
    }

    /// Whether the partitions of the topic must be known.
    #[must_use]
    pub fn needs_partitions(&self) -> bool {
        !matches!(self, Self::Producer)
    }
}

impl fmt::Debug for SinkPartitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Producer => "Producer",
            Self::Fixed => "Fixed",
            Self::RoundRobin => "RoundRobin",
            Self::Custom(_) => "Custom",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(partitioning: &SinkPartitioning, subtask: u32, count: i32, turn: u64) -> Option<i32> {
        let partitions: Vec<PartitionId> = (0..count).map(PartitionId).collect();
        let place = Place { subtask, parallelism: 4, partitions: &partitions };
        partitioning.choose(&SinkRecord::new(), &place, turn).map(|partition| partition.0)
    }

    // scenario: 5.3.19
    #[test]
    fn fixed_gives_each_subtask_one_partition() {
        let all = |count| -> Vec<_> {
            (0..4).map(|subtask| chosen(&SinkPartitioning::Fixed, subtask, count, 9).unwrap()).collect()
        };
        assert_eq!(all(4), [0, 1, 2, 3]);
        assert_eq!(all(2), [0, 1, 0, 1], "more subtasks than partitions");
        assert_eq!(all(6), [0, 1, 2, 3], "fewer: some stay empty");
        assert_eq!(chosen(&SinkPartitioning::Fixed, 0, 0, 0), None);
    }

    #[test]
    fn round_robin_takes_all_in_turns_and_begins_apart() {
        let turns = |subtask| -> Vec<_> {
            (0..4).map(|turn| chosen(&SinkPartitioning::RoundRobin, subtask, 3, turn).unwrap()).collect()
        };
        assert_eq!(turns(0), [0, 1, 2, 0]);
        assert_eq!(turns(2), [2, 0, 1, 2]);
    }

    #[test]
    fn a_function_sees_record_and_partitions() {
        let last =
            SinkPartitioning::custom(|_: &SinkRecord, place: &Place<'_>| *place.partitions.last().unwrap());
        assert_eq!(chosen(&last, 0, 7, 0), Some(6));
        assert_eq!(chosen(&SinkPartitioning::Producer, 0, 7, 0), None);
    }
}
