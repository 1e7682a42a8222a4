//! Where reading starts and stops: the modes, and the rules that turn them into offsets. Pure; [`super::discover`] asks the
//! brokers.
//!
//! A mode is resolved once, to numbers, before the first checkpoint: a restored job never resolves it again, so `Latest` can't skip
//! what was written while the job was down (FLINK-28303).
//!
//! # References
//! Flink: `OffsetsInitializer`, `ReaderHandledOffsetsInitializer`, `TimestampOffsetsInitializer`.

use std::collections::BTreeMap;
use std::fmt;

use milena::{Offset, TopicPartition};

use crate::progress::Position;
use crate::{Error, ErrorKind, Result};

/// What to do where the wanted offset doesn't exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// Fail with an error that names the partition and what is available. The default.
    #[default]
    Fail,
    /// Go on at the first offset that is there.
    Earliest,
    /// Go on at the end.
    Latest,
}

/// Where partitions found by the first discovery start. Partitions found later always start at their first offset, so nothing
/// written to them is missed (FLINK-32019). With a restored checkpoint the mode is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// The first offset that is there. The default.
    #[default]
    Earliest,
    /// The end: the last stable offset for a read-committed source.
    Latest,
    /// What the consumer group has committed.
    Committed {
        /// For partitions without a committed offset, or whose committed offset is no longer there.
        or: OffsetReset,
    },
    /// The first record at or after a time in milliseconds since 1970; the end if there is none.
    Timestamp(i64),
    /// Given offsets.
    Offsets {
        /// The offsets. A partition that is not named starts at the group's committed offset if there is one.
        offsets: BTreeMap<TopicPartition, Offset>,
        /// For partitions with neither, and for offsets that are not there.
        or: OffsetReset,
    },
}

impl fmt::Display for StartFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Committed { or } => write!(f, "committed, or {or:?}"),
            Self::Timestamp(at) => write!(f, "timestamp {at}"),
            Self::Offsets { offsets, or } => write!(f, "{} given offsets, or {or:?}", offsets.len()),
        }
    }
}

/// Where partitions stop. Resolved once per partition, when it is found; the stop itself is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StopAt {
    /// Nowhere. The default.
    #[default]
    Never,
    /// The end at the time the partition is found: the last stable offset for a read-committed source.
    Latest,
    /// What the consumer group has committed; it must exist.
    Committed,
    /// The first record at or after a time in milliseconds since 1970; the end at that moment if there is none.
    Timestamp(i64),
    /// Given offsets; a partition that is not named stops at its end.
    Offsets(BTreeMap<TopicPartition, Offset>),
}

/// What the brokers said about one partition. Only what the modes need is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The first offset that is there.
    pub earliest: Option<Position>,
    /// The end for the source's isolation level, asked for *before* any time was looked up.
    pub end: Option<Position>,
    /// The end of the log, with open transactions.
    pub high: Option<Offset>,
    /// The first record at or after the start time.
    pub at_start_time: Option<Offset>,
    /// The first record at or after the stop time.
    pub at_stop_time: Option<Offset>,
    /// What the group has committed.
    pub committed: Option<Position>,
}

impl Found {
    fn need(known: Option<Position>, what: &str, at: &TopicPartition) -> Result<Position> {
        known.ok_or_else(|| {
            Error::new(ErrorKind::Client, format!("the broker gave no {what} offset"))
                .with_topic_partition(at.clone())
        })
    }

    fn reset(&self, to: OffsetReset, at: &TopicPartition, why: &str) -> Result<Position> {
        match to {
            OffsetReset::Earliest => Self::need(self.earliest, "earliest", at),
            OffsetReset::Latest => Self::need(self.end, "latest", at),
            OffsetReset::Fail => {
                let text = format!("{why}; choose what happens then with a reset to earliest or latest");
                Err(Error::new(ErrorKind::DataLoss, text).with_topic_partition(at.clone()))
            }
        }
    }

    /// A wanted position, if it is inside the log, else the reset.
    fn inside(
        &self,
        wanted: Position,
        or: OffsetReset,
        at: &TopicPartition,
        whose: &str,
    ) -> Result<Position> {
        let first = Self::need(self.earliest, "earliest", at)?.offset;
        let last = self.high.or(self.end.map(|end| end.offset)).unwrap_or(wanted.offset);
        if wanted.offset >= first && wanted.offset <= last {
            return Ok(wanted);
        }
        let why = format!("the {whose} offset {} is not there: offsets {first} to {last} are", wanted.offset);
        if or != OffsetReset::Fail {
            tracing::warn!(partition = %at, reset = ?or, "{why}");
        }
        self.reset(or, at, &why)
    }
}

/// The start of one partition.
///
/// # Errors
/// `DataLoss` where the mode's reset is `Fail` and the wanted offset is missing or out of range; `Client` if an answer that the mode
/// needs is missing.
pub fn decide_start(from: &StartFrom, at: &TopicPartition, found: &Found) -> Result<Position> {
    match from {
        StartFrom::Earliest => Found::need(found.earliest, "earliest", at),
        StartFrom::Latest => Found::need(found.end, "latest", at),
        StartFrom::Committed { or } => match found.committed {
            Some(committed) => found.inside(committed, *or, at, "committed"),
            None => found.reset(*or, at, "the group has no committed offset"),
        },
        StartFrom::Timestamp(_) => match found.at_start_time {
            Some(offset) => Ok(Position { offset, leader_epoch: None }),
            None => Found::need(found.end, "latest", at),
        },
        StartFrom::Offsets { offsets, or } => match (offsets.get(at), found.committed) {
            (Some(offset), _) => {
                found.inside(Position { offset: *offset, leader_epoch: None }, *or, at, "given")
            }
            (None, Some(committed)) => found.inside(committed, *or, at, "committed"),
            (None, None) => found.reset(*or, at, "no offset is given for it and the group has none"),
        },
    }
}

/// The stop of one partition.
///
/// # Errors
/// `Misuse` for a committed stop that doesn't exist; `Client` if an answer that the mode needs is missing.
pub fn decide_stop(stop: &StopAt, at: &TopicPartition, found: &Found) -> Result<Option<Offset>> {
    let end = || Found::need(found.end, "latest", at).map(|end| Some(end.offset));
    match stop {
        StopAt::Never => Ok(None),
        StopAt::Latest => end(),
        StopAt::Committed => match found.committed {
            Some(committed) => Ok(Some(committed.offset)),
            None => Err(Error::new(ErrorKind::Misuse, "the group has no committed offset to stop at")
                .with_topic_partition(at.clone())),
        },
        StopAt::Timestamp(_) => found.at_stop_time.map_or_else(end, |offset| Ok(Some(offset))),
        StopAt::Offsets(offsets) => offsets.get(at).map_or_else(end, |offset| Ok(Some(*offset))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::{LeaderEpoch, PartitionId};

    fn tp() -> TopicPartition {
        TopicPartition::new("t", PartitionId(0))
    }

    fn at(offset: i64) -> Position {
        Position { offset: Offset(offset), leader_epoch: Some(LeaderEpoch(3)) }
    }

    /// A log with offsets 10 to 90, of which 80 to 90 belong to an open transaction; 50 is committed.
    fn found() -> Found {
        Found {
            earliest: Some(at(10)),
            end: Some(at(80)),
            high: Some(Offset(90)),
            at_start_time: None,
            at_stop_time: None,
            committed: Some(at(50)),
        }
    }

    fn start(from: &StartFrom, found: &Found) -> std::result::Result<i64, ErrorKind> {
        decide_start(from, &tp(), found).map(|position| position.offset.0).map_err(|error| error.kind())
    }

    fn given(offset: i64, or: OffsetReset) -> StartFrom {
        StartFrom::Offsets { offsets: BTreeMap::from([(tp(), Offset(offset))]), or }
    }

    // scenario: 5.4.35, 5.4.39
    #[test]
    fn the_table_of_starts() {
        let (full, bare) = (found(), Found { committed: None, ..found() });
        let elsewhere = |or| StartFrom::Offsets { offsets: BTreeMap::new(), or };
        let loss = Err(ErrorKind::DataLoss);
        use OffsetReset::{Earliest, Fail, Latest};
        let table = [
            (StartFrom::Earliest, full, Ok(10)),
            (StartFrom::Latest, full, Ok(80)),
            (StartFrom::Committed { or: Fail }, full, Ok(50)),
            (StartFrom::Committed { or: Fail }, bare, loss),
            (StartFrom::Committed { or: Earliest }, bare, Ok(10)),
            (StartFrom::Committed { or: Latest }, bare, Ok(80)),
            (StartFrom::Committed { or: Fail }, Found { committed: Some(at(5)), ..full }, loss),
            (StartFrom::Committed { or: Earliest }, Found { committed: Some(at(5)), ..full }, Ok(10)),
            (StartFrom::Committed { or: Fail }, Found { committed: Some(at(85)), ..full }, Ok(85)),
            (StartFrom::Committed { or: Latest }, Found { committed: Some(at(91)), ..full }, Ok(80)),
            (StartFrom::Timestamp(1), Found { at_start_time: Some(Offset(33)), ..full }, Ok(33)),
            (StartFrom::Timestamp(1), full, Ok(80)),
            (given(20, Fail), full, Ok(20)),
            (given(10, Fail), full, Ok(10)),
            (given(90, Fail), full, Ok(90)),
            (given(9, Fail), full, loss),
            (given(91, Fail), full, loss),
            (given(9, Earliest), full, Ok(10)),
            (elsewhere(Fail), full, Ok(50)),
            (elsewhere(Fail), bare, loss),
            (elsewhere(Earliest), bare, Ok(10)),
            (elsewhere(Latest), bare, Ok(80)),
        ];
        for (from, found, expected) in table {
            assert_eq!(start(&from, &found), expected, "{from} with {found:?}");
        }
    }

    #[test]
    fn the_table_of_stops() {
        let full = found();
        let stop = |stop: &StopAt, found: &Found| {
            decide_stop(stop, &tp(), found).map(|stop| stop.map(|stop| stop.0)).map_err(|error| error.kind())
        };
        assert_eq!(stop(&StopAt::Never, &full), Ok(None));
        assert_eq!(stop(&StopAt::Latest, &full), Ok(Some(80)), "not beyond the open transaction (C26)");
        assert_eq!(stop(&StopAt::Committed, &full), Ok(Some(50)));
        assert_eq!(stop(&StopAt::Committed, &Found { committed: None, ..full }), Err(ErrorKind::Misuse));
        assert_eq!(stop(&StopAt::Timestamp(1), &full), Ok(Some(80)));
        let timed = Found { at_stop_time: Some(Offset(44)), ..full };
        assert_eq!(stop(&StopAt::Timestamp(1), &timed), Ok(Some(44)));
        assert_eq!(stop(&StopAt::Offsets(BTreeMap::from([(tp(), Offset(7))])), &full), Ok(Some(7)));
        assert_eq!(stop(&StopAt::Offsets(BTreeMap::new()), &full), Ok(Some(80)));
    }

    #[test]
    fn a_refusal_names_what_was_wanted_and_what_is_there() {
        let error = decide_start(&given(9, OffsetReset::Fail), &tp(), &found()).unwrap_err().to_string();
        for part in ["t-0", "9", "10", "90", "reset"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn an_answer_that_is_missing_is_an_error_and_not_offset_zero() {
        assert_eq!(start(&StartFrom::Earliest, &Found::default()), Err(ErrorKind::Client));
        assert_eq!(start(&StartFrom::Latest, &Found::default()), Err(ErrorKind::Client));
    }
}
