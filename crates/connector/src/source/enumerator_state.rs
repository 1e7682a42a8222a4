//! What an enumerator stores in a checkpoint, and how it goes together with what the readers stored.

use std::collections::BTreeMap;

use milena::TopicPartition;

use super::split::Split;
use crate::checkpoint::state::{Decoder, Encoder, StateResult};
use crate::{Error, ErrorKind, Result};

/// An enumerator's part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnumeratorState {
    /// Whether the first discovery was done: partitions unknown to the checkpoint then start at their first offset.
    pub initial_discovery_finished: bool,
    /// The start mode in words, to tell when it was changed.
    pub start: String,
    /// Every known partition with its start, or where it was when it last came back from a reader.
    pub splits: Vec<Split>,
}

impl EnumeratorState {
    /// Writes the state into a checkpoint.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_u8(VERSION);
        out.put_bool(self.initial_discovery_finished);
        out.put_str(&self.start);
        out.put_list(&self.splits, |out, split| split.encode(out));
    }

    /// Reads the state from a checkpoint.
    ///
    /// # Errors
    /// For bytes that no version of [`EnumeratorState::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> StateResult<Self> {
        match from.take_u8()? {
            1 => Ok(Self {
                initial_discovery_finished: from.take_bool()?,
                start: from.take_str()?.to_owned(),
                splits: from.take_list(Split::decode)?,
            }),
            other => {
                Err(from
                    .error(format!("enumerator state of version {other}; this build reads 1 to {VERSION}")))
            }
        }
    }
}

/// All splits of a checkpoint, each once: the readers' positions where they had the partition, the enumerator's else.
pub(super) fn merge(state: EnumeratorState, readers: impl IntoIterator<Item = Split>) -> Result<Vec<Split>> {
    let mut merged: BTreeMap<TopicPartition, Split> = BTreeMap::new();
    for split in readers {
        let at = split.topic_partition.clone();
        if merged.insert(at.clone(), split).is_some() {
            let text = "two readers of the checkpoint have the same partition";
            return Err(Error::new(ErrorKind::State, text).with_topic_partition(at));
        }
    }
    for split in state.splits {
        merged.entry(split.topic_partition.clone()).or_insert(split);
    }
    Ok(merged.into_values().collect())
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::super::split::tests::splits;
    use super::*;
    use milena::{Offset, PartitionId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_and_every_cut_is_an_error(
            initial_discovery_finished: bool,
            start in "[a-z ]{0,9}",
            splits in proptest::collection::vec(splits(), 0..5),
        ) {
            let state = EnumeratorState { initial_discovery_finished, start, splits };
            let mut out = Encoder::new();
            state.encode(&mut out);
            let bytes = out.finish();
            prop_assert_eq!(EnumeratorState::decode(&mut Decoder::new(&bytes)).unwrap(), state);
            for cut in 0..bytes.len() {
                prop_assert!(EnumeratorState::decode(&mut Decoder::new(&bytes[..cut])).is_err());
            }
        }
    }

    fn at(partition: i32, offset: i64) -> Split {
        Split::new(TopicPartition::new("t", PartitionId(partition)), Offset(offset))
    }

    #[test]
    fn the_readers_positions_count_and_nothing_is_lost() {
        let state = EnumeratorState { splits: vec![at(0, 0), at(1, 0)], ..EnumeratorState::default() };
        let merged = merge(state, [at(1, 9), at(2, 4)]).unwrap();
        assert_eq!(merged, [at(0, 0), at(1, 9), at(2, 4)]);
    }

    #[test]
    fn one_partition_in_two_readers_is_refused() {
        let error = merge(EnumeratorState::default(), [at(1, 9), at(1, 4)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
    }
}
