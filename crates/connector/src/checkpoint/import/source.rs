//! The modern source: splits and the enumerator.

use std::collections::BTreeMap;

use milena::{Offset, PartitionId, TopicPartition};

use super::java::{take_count, take_utf};
use crate::checkpoint::state::{Decoder, StateResult};
use crate::source::{EnumeratorState, Split, StoredStart, UnresolvedSplit};
use crate::{Error, ErrorKind, Result};

/// Where a partition of a foreign state is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportedStart {
    /// At an offset.
    At(Offset),
    /// At the first offset there is.
    Earliest,
    /// At the end, as it is when the state is restored: see [`LatestMarker`].
    Latest,
    /// At what the group has committed.
    Committed,
    /// By the source's start mode: state from before offsets were part of it.
    Configured,
}

/// Where a partition of a foreign state is read to. A restored source stops where its own configuration says: this is told only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportedStop {
    /// Nowhere.
    Never,
    /// At an offset.
    At(Offset),
    /// At the end when the reader got it.
    Latest,
    /// At what the group had committed.
    Committed,
}

/// A partition of a foreign state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedSplit {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// Where it goes on.
    pub start: ImportedStart,
    /// Where it ends.
    pub stop: ImportedStop,
}

/// The source's part of a foreign state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedSource {
    /// Its partitions.
    pub splits: Vec<ImportedSplit>,
    /// Whether partitions that are not among them start at their first offset, as those found later do.
    pub initial_discovery_finished: bool,
}

/// What becomes of a partition whose stored start is "the end". Flink resolves it when the state is restored, which passes over
/// what was written since it was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatestMarker {
    /// The import fails and names the partition. The default.
    #[default]
    Refuse,
    /// It starts at its first offset: nothing is missed, older records come again.
    Earliest,
    /// It starts at the end when the state is restored, as Flink does.
    Latest,
}

impl ImportedSource {
    /// Adds what another part of the same state holds. A partition that both have must be the same in both, but that one with an
    /// offset wins over one without.
    ///
    /// # Errors
    /// `State` if a partition has two different offsets.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        self.initial_discovery_finished |= other.initial_discovery_finished;
        let mut all: BTreeMap<TopicPartition, ImportedSplit> = BTreeMap::new();
        for split in self.splits.drain(..).chain(other.splits) {
            let at = split.topic_partition.clone();
            match all.get(&at) {
                Some(there) if there.start == split.start || split.is_open() => {}
                Some(there) if !there.is_open() => {
                    let text =
                        format!("two positions for one partition: {:?} and {:?}", there.start, split.start);
                    return Err(Error::new(ErrorKind::State, text).with_topic_partition(at));
                }
                _ => {
                    all.insert(at, split);
                }
            }
        }
        self.splits = all.into_values().collect();
        Ok(())
    }

    /// The state of an enumerator that goes on from here.
    ///
    /// # Errors
    /// `State` for a start at the end that [`LatestMarker::Refuse`] does not accept.
    pub fn into_state(self, latest: LatestMarker) -> Result<EnumeratorState> {
        let mut state = EnumeratorState {
            initial_discovery_finished: self.initial_discovery_finished,
            start: String::from("imported"),
            ..EnumeratorState::default()
        };
        for ImportedSplit { topic_partition, start, .. } in self.splits {
            let start = match (start, latest) {
                (ImportedStart::At(offset), _) => {
                    state.splits.push(Split::new(topic_partition, offset));
                    continue;
                }
                (ImportedStart::Latest, LatestMarker::Refuse) => {
                    let text = "the state says \"at the end\", which passes over what was written since; say whether it starts at \
                                its first offset or at the end";
                    return Err(Error::new(ErrorKind::State, text).with_topic_partition(topic_partition));
                }
                (ImportedStart::Earliest, _) | (ImportedStart::Latest, LatestMarker::Earliest) => {
                    StoredStart::Earliest
                }
                (ImportedStart::Latest, LatestMarker::Latest) => StoredStart::Latest,
                (ImportedStart::Committed, _) => StoredStart::Committed,
                (ImportedStart::Configured, _) => StoredStart::Configured,
            };
            state.unresolved.push(UnresolvedSplit { topic_partition, start });
        }
        Ok(state)
    }
}

impl ImportedSplit {
    fn is_open(&self) -> bool {
        !matches!(self.start, ImportedStart::At(_))
    }
}

/// Marks in the place of offsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const COMMITTED: i64 = -3;
/// As a start: state without offsets; as a stop: none.
const NONE: i64 = i64::MIN;

/// A split, as `KafkaPartitionSplitSerializer` writes it: topic, partition, start, stop.
///
/// # Errors
/// For another version than 0, and for bytes that it does not write.
pub fn split(version: i32, bytes: &[u8]) -> StateResult<ImportedSplit> {
    let mut from = Decoder::new(bytes);
    if version != 0 {
        return Err(from.error(format!("a split of version {version}; version 0 is read")));
    }
    let topic_partition = take_partition(&mut from)?;
    let start = match from.take_i64()? {
        offset @ 0.. => ImportedStart::At(Offset(offset)),
        LATEST => ImportedStart::Latest,
        EARLIEST => ImportedStart::Earliest,
        COMMITTED => ImportedStart::Committed,
        NONE => ImportedStart::Configured,
        other => return Err(from.error(format!("a start at {other}"))),
    };
    let stop = match from.take_i64()? {
        offset @ 0.. => ImportedStop::At(Offset(offset)),
        LATEST => ImportedStop::Latest,
        COMMITTED => ImportedStop::Committed,
        NONE => ImportedStop::Never,
        other => return Err(from.error(format!("a stop at {other}"))),
    };
    from.finish()?;
    Ok(ImportedSplit { topic_partition, start, stop })
}

pub(super) fn take_partition(from: &mut Decoder<'_>) -> StateResult<TopicPartition> {
    let topic = take_utf(from)?;
    let partition = from.take_i32()?;
    if topic.is_empty() || partition < 0 {
        return Err(from.error(format!("partition {partition} of topic {topic:?}")));
    }
    Ok(TopicPartition::new(topic, PartitionId(partition)))
}

/// The enumerator's state, as `KafkaSourceEnumStateSerializer` writes it: version 3 holds splits with offsets and whether each was
/// assigned; version 2 partitions and whether each was; version 1 assigned partitions; version 0 partitions by reader.
///
/// Of the versions without offsets, assigned partitions have theirs in the readers' splits; what no split names starts by
/// the source's own mode.
///
/// # Errors
/// For other versions, and for bytes that it does not write.
pub fn enumerator(version: i32, bytes: &[u8]) -> StateResult<ImportedSource> {
    let mut from = Decoder::new(bytes);
    let configured = |topic_partition| ImportedSplit {
        topic_partition,
        start: ImportedStart::Configured,
        stop: ImportedStop::Never,
    };
    let mut splits = Vec::new();
    let mut initial_discovery_finished = true;
    match version {
        0 => {
            for _ in 0..take_count(&mut from)? {
                let _reader = from.take_i32()?;
                for _ in 0..take_count(&mut from)? {
                    splits.push(take_framed_split(&mut from)?);
                }
            }
        }
        1 => {
            for _ in 0..take_count(&mut from)? {
                splits.push(configured(take_partition(&mut from)?));
            }
        }
        2 => {
            for _ in 0..take_count(&mut from)? {
                splits.push(configured(take_partition(&mut from)?));
                take_status(&mut from)?;
            }
            initial_discovery_finished = from.take_bool()?;
        }
        3 => {
            let count = take_count(&mut from)?;
            let of_splits = from.take_i32()?;
            for _ in 0..count {
                splits.push(split(of_splits, from.take_bytes()?)?);
                take_status(&mut from)?;
            }
            initial_discovery_finished = from.take_bool()?;
        }
        other => return Err(from.error(format!("enumerator state of version {other}; 0 to 3 are read"))),
    }
    from.finish()?;
    Ok(ImportedSource { splits, initial_discovery_finished })
}

/// A split behind its version and length, as version 0 of the enumerator holds it.
fn take_framed_split(from: &mut Decoder<'_>) -> StateResult<ImportedSplit> {
    let version = from.take_i32()?;
    split(version, from.take_bytes()?)
}

/// Whether a partition was assigned, which a restored job decides anew.
fn take_status(from: &mut Decoder<'_>) -> StateResult<()> {
    match from.take_i32()? {
        0 | 1 => Ok(()),
        other => Err(from.error(format!("assignment status {other}"))),
    }
}
