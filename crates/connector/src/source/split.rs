//! A split: one partition with its start, its stop and its progress. It is what the enumerator assigns, what a reader
//! snapshots, and what a checkpoint stores.

use milena::{LeaderEpoch, Offset, PartitionId, TopicPartition};

use crate::checkpoint::state::{Decoder, Encoder, StateResult};

/// The id a broker gave a topic when it was created (KIP-516). A topic that is deleted and re-created gets another.
pub type TopicId = [u8; 16];

/// One partition being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The topic's id, where the broker knows ids (2.8 and later).
    pub topic_id: Option<TopicId>,
    /// The next offset to read: everything before it was handed out, or is before the start.
    pub next_offset: Offset,
    /// The leader epoch of the last record handed out: with it a truncated log is found after a restore (KIP-320).
    pub leader_epoch: Option<LeaderEpoch>,
    /// The offset at which reading ends, not read any more. `None` for reading on for ever.
    pub stop: Option<Offset>,
    /// The largest event timestamp handed out, in milliseconds: with it the watermark resumes after a restore.
    pub max_timestamp: Option<i64>,
}

impl Split {
    /// A split without end at an offset.
    #[must_use]
    pub fn new(topic_partition: TopicPartition, next_offset: Offset) -> Self {
        Self {
            topic_partition,
            topic_id: None,
            next_offset,
            leader_epoch: None,
            stop: None,
            max_timestamp: None,
        }
    }

    /// The same split with an end.
    #[must_use]
    pub fn with_stop(mut self, stop: Option<Offset>) -> Self {
        self.stop = stop;
        self
    }

    /// The same split with its topic's id.
    #[must_use]
    pub fn with_topic_id(mut self, topic_id: Option<TopicId>) -> Self {
        self.topic_id = topic_id;
        self
    }

    /// Whether everything up to its stop has been read. It is the *position* that decides, not a record: the tail may be
    /// control markers, aborted records or a gap that compaction left (FLINK-34470).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stop.is_some_and(|stop| self.next_offset >= stop)
    }

    /// Writes the split into a checkpoint.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_u8(VERSION);
        out.put_str(&self.topic_partition.topic);
        out.put_i32(self.topic_partition.partition.0);
        out.put_opt(self.topic_id, |out, id| out.put_raw(&id));
        out.put_i64(self.next_offset.0);
        out.put_opt(self.leader_epoch, |out, epoch| out.put_i32(epoch.0));
        out.put_opt(self.stop, |out, stop| out.put_i64(stop.0));
        out.put_opt(self.max_timestamp, Encoder::put_i64);
    }

    /// Reads a split from a checkpoint.
    ///
    /// # Errors
    /// For bytes that no version of [`Split::encode`] wrote, and for negative offsets and partitions.
    pub fn decode(from: &mut Decoder<'_>) -> StateResult<Self> {
        match from.take_u8()? {
            1 => Self::decode_v1(from),
            other => {
                Err(from
                    .error(format!("a split of version {other}; this build reads versions 1 to {VERSION}")))
            }
        }
    }

    fn decode_v1(from: &mut Decoder<'_>) -> StateResult<Self> {
        let topic_partition = take_partition(from)?;
        let topic_id = from.take_opt(take_topic_id)?;
        let next_offset = take_offset(from)?;
        let leader_epoch = from.take_opt(Decoder::take_i32)?.map(LeaderEpoch);
        let stop = from.take_opt(take_offset)?;
        let max_timestamp = from.take_opt(Decoder::take_i64)?;
        Ok(Self { topic_partition, topic_id, next_offset, leader_epoch, stop, max_timestamp })
    }
}

pub(super) fn take_partition(from: &mut Decoder<'_>) -> StateResult<TopicPartition> {
    let topic = from.take_str()?;
    let partition = from.take_i32()?;
    if topic.is_empty() || partition < 0 {
        return Err(from.error(format!("partition {partition} of topic {topic:?}")));
    }
    Ok(TopicPartition::new(topic, PartitionId(partition)))
}

pub(crate) fn take_topic_id(from: &mut Decoder<'_>) -> StateResult<TopicId> {
    let raw = from.take_raw(16)?;
    TopicId::try_from(raw).map_err(|_| from.error("a topic id has 16 bytes"))
}

fn take_offset(from: &mut Decoder<'_>) -> StateResult<Offset> {
    match from.take_i64()? {
        offset if offset >= 0 => Ok(Offset(offset)),
        negative => Err(from.error(format!("offset {negative} is negative"))),
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn splits() -> impl Strategy<Value = Split> {
        (
            "[a-z.]{1,9}",
            0..9_i32,
            any::<Option<[u8; 16]>>(),
            0..i64::MAX,
            any::<Option<i32>>(),
            proptest::option::of(0..i64::MAX),
            any::<Option<i64>>(),
        )
            .prop_map(|(topic, partition, topic_id, next, epoch, stop, max_timestamp)| Split {
                topic_partition: TopicPartition::new(topic, PartitionId(partition)),
                topic_id,
                next_offset: Offset(next),
                leader_epoch: epoch.map(LeaderEpoch),
                stop: stop.map(Offset),
                max_timestamp,
            })
    }

    proptest! {
        // scenario: 5.4.32
        #[test]
        fn what_was_written_is_read_and_every_cut_is_an_error(split in splits()) {
            let mut out = Encoder::new();
            split.encode(&mut out);
            let bytes = out.finish();
            let mut from = Decoder::new(&bytes);
            prop_assert_eq!(Split::decode(&mut from).unwrap(), split);
            from.finish().unwrap();
            for cut in 0..bytes.len() {
                prop_assert!(Split::decode(&mut Decoder::new(&bytes[..cut])).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Split::decode(&mut Decoder::new(&bytes));
        }
    }

    // scenario: 5.2.35, 5.4.32, 5.2.14
    #[test]
    fn the_first_version_stays_readable() {
        let golden = [
            1, 0, 0, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0,
            0, 9, 0,
        ];
        let split = Split::decode(&mut Decoder::new(&golden)).unwrap();
        let expected = Split {
            leader_epoch: Some(LeaderEpoch(4)),
            ..Split::new(TopicPartition::new("t", PartitionId(2)), Offset(7)).with_stop(Some(Offset(9)))
        };
        assert_eq!(split, expected);
    }

    #[test]
    fn a_stop_at_or_before_the_start_is_an_empty_split() {
        let split = Split::new(TopicPartition::new("t", PartitionId(0)), Offset(5));
        assert!(!split.is_finished());
        assert!(!split.clone().with_stop(Some(Offset(6))).is_finished());
        assert!(split.clone().with_stop(Some(Offset(5))).is_finished());
        assert!(split.with_stop(Some(Offset(2))).is_finished());
    }
}
