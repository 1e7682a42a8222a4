//! What an enumerator stores in a checkpoint, and how it goes together with what the readers stored.

use std::collections::BTreeMap;

use milena::TopicPartition;

use super::split::{Split, take_partition};
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
    /// Partitions of an imported state that had no offset there: they get theirs by the first discovery that finds them.
    pub unresolved: Vec<UnresolvedSplit>,
}

/// A partition whose start is not an offset yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnresolvedSplit {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// Where it starts.
    pub start: StoredStart,
}

/// A start that an imported state has in the place of an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredStart {
    /// The first offset there is.
    Earliest,
    /// The end when the job is restored. Only where somebody chose it: it passes over what was written since.
    Latest,
    /// What the group has committed; without such an offset the restore fails.
    Committed,
    /// The source's own start mode.
    Configured,
}

impl StoredStart {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Earliest, "earliest"),
        (Self::Latest, "latest"),
        (Self::Committed, "committed"),
        (Self::Configured, "configured"),
    ];

    /// Its name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(start, _)| *start == self).map_or("", |(_, name)| name)
    }

    /// The start of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(start, _)| *start)
    }

    fn code(self) -> u8 {
        match self {
            Self::Earliest => 0,
            Self::Latest => 1,
            Self::Committed => 2,
            Self::Configured => 3,
        }
    }
}

impl UnresolvedSplit {
    fn encode(&self, out: &mut Encoder) {
        out.put_str(&self.topic_partition.topic);
        out.put_i32(self.topic_partition.partition.0);
        out.put_u8(self.start.code());
    }

    fn decode(from: &mut Decoder<'_>) -> StateResult<Self> {
        let topic_partition = take_partition(from)?;
        let code = from.take_u8()?;
        let start = StoredStart::ALL.iter().find(|(start, _)| start.code() == code);
        let (start, _) = start.ok_or_else(|| from.error(format!("start {code}")))?;
        Ok(Self { topic_partition, start: *start })
    }
}

impl EnumeratorState {
    /// Writes the state into a checkpoint.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_u8(VERSION);
        out.put_bool(self.initial_discovery_finished);
        out.put_str(&self.start);
        out.put_list(&self.splits, |out, split| split.encode(out));
        out.put_list(&self.unresolved, |out, split| split.encode(out));
    }

    /// Reads the state from a checkpoint.
    ///
    /// # Errors
    /// For bytes that no version of [`EnumeratorState::encode`] wrote.
    pub fn decode(from: &mut Decoder<'_>) -> StateResult<Self> {
        let version = from.take_u8()?;
        if !(1..=VERSION).contains(&version) {
            let text = format!("enumerator state of version {version}; this build reads 1 to {VERSION}");
            return Err(from.error(text));
        }
        Ok(Self {
            initial_discovery_finished: from.take_bool()?,
            start: from.take_str()?.to_owned(),
            splits: from.take_list(Split::decode)?,
            unresolved: if version == 1 { Vec::new() } else { from.take_list(UnresolvedSplit::decode)? },
        })
    }
}

/// All splits of a checkpoint, each once: the readers' positions where they had the partition, the enumerator's else.
pub(super) fn merge(splits: Vec<Split>, readers: impl IntoIterator<Item = Split>) -> Result<Vec<Split>> {
    let mut merged: BTreeMap<TopicPartition, Split> = BTreeMap::new();
    for split in readers {
        let at = split.topic_partition.clone();
        if merged.insert(at.clone(), split).is_some() {
            let text = "two readers of the checkpoint have the same partition";
            return Err(Error::new(ErrorKind::State, text).with_topic_partition(at));
        }
    }
    for split in splits {
        merged.entry(split.topic_partition.clone()).or_insert(split);
    }
    Ok(merged.into_values().collect())
}

const VERSION: u8 = 2;

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
            let unresolved = StoredStart::ALL.iter().take(splits.len()).map(|(start, name)| UnresolvedSplit {
                topic_partition: TopicPartition::new(*name, PartitionId(1)),
                start: *start,
            });
            let unresolved = unresolved.collect();
            let state = EnumeratorState { initial_discovery_finished, start, splits, unresolved };
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
        let merged = merge(vec![at(0, 0), at(1, 0)], [at(1, 9), at(2, 4)]).unwrap();
        assert_eq!(merged, [at(0, 0), at(1, 9), at(2, 4)]);
    }

    // scenario: 5.4.31, 5.2.14
    #[test]
    fn every_version_stays_readable() {
        let first = [1, 1, 0, 0, 0, 1, b'e', 0, 0, 0, 0];
        let expected = EnumeratorState {
            initial_discovery_finished: true,
            start: String::from("e"),
            ..EnumeratorState::default()
        };
        assert_eq!(EnumeratorState::decode(&mut Decoder::new(&first)).unwrap(), expected);
        let second = [2, 0, 0, 0, 0, 1, b'e', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 5, 2];
        let unresolved = UnresolvedSplit {
            topic_partition: TopicPartition::new("t", PartitionId(5)),
            start: StoredStart::Committed,
        };
        let expected = EnumeratorState {
            start: String::from("e"),
            unresolved: vec![unresolved],
            ..EnumeratorState::default()
        };
        assert_eq!(EnumeratorState::decode(&mut Decoder::new(&second)).unwrap(), expected);
        let mut out = Encoder::new();
        expected.encode(&mut out);
        assert_eq!(out.finish(), second, "the format may only change with its version");
    }

    #[test]
    fn one_partition_in_two_readers_is_refused() {
        let error = merge(Vec::new(), [at(1, 9), at(1, 4)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
    }
}
