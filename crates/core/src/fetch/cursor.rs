//! The cursor of one partition: where it reads, and why it does not.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, TopicPartition};

/// A place in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the record before it, if known. With it a broker can tell that its log took another way.
    pub epoch: Option<LeaderEpoch>,
}

impl From<Offset> for Position {
    fn from(offset: Offset) -> Self {
        Self { offset, epoch: None }
    }
}

/// Where reading starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Here.
    At(Position),
    /// Where the group committed, or by the policy if it did not.
    Committed,
    /// The first offset of the log.
    Earliest,
    /// The end of the log: what is written from now on.
    Latest,
    /// The first record with this time or a later one, in milliseconds since 1970; the end if there is none.
    Time(i64),
    /// As `Time`, so long before the lookup.
    Ago(Duration),
}

/// What to do when the records at a known position are gone: deleted by retention, or lost in an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loss {
    /// Stop, and tell the application.
    #[default]
    Error,
    /// Go on: where the log took another way if that is known, else at this place.
    Reset(Start),
}

/// Why a partition is not read now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The broker said so.
    Code(ErrorCode),
    /// The request or its answer was lost.
    Connection(Arc<str>),
    /// The answer did not name the partition.
    NotNamed,
    /// What came cannot be read.
    Unreadable(Arc<str>),
    /// Records before the position were lost in an election: the log took another way (KIP-320).
    Truncated {
        /// Where reading stood.
        position: Offset,
        /// The first offset that is not what was read; `None` if the broker does not know.
        at: Option<Offset>,
    },
    /// The position is not in the log.
    OutOfRange {
        /// Where reading stood.
        position: Offset,
        /// The first offset of the log, if the broker said so.
        start: Option<Offset>,
        /// Its end, if the broker said so.
        end: Option<Offset>,
    },
    /// There is no committed offset, and the policy is to start nowhere else.
    NoStart,
    /// Looking up where to start failed.
    Lookup(Arc<str>),
}

impl Reason {
    /// The log took another way before the position. The end of the newest epoch that both may have says where, if it is before the position.
    pub(super) fn parted(position: Offset, end: Option<Offset>) -> Self {
        Self::Truncated { position, at: end.filter(|end| *end < position) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Connection(text) | Self::Unreadable(text) | Self::Lookup(text) => f.write_str(text),
            Self::NotNamed => f.write_str("the answer does not name the partition"),
            Self::Truncated { position, at: Some(at) } => {
                write!(f, "the log took another way at offset {at}, before the position {position}")
            }
            Self::Truncated { position, at: None } => {
                write!(f, "the log took another way somewhere before the position {position}")
            }
            Self::OutOfRange { position, start, end } => {
                write!(f, "offset {position} is not in the log")?;
                match (start, end) {
                    (Some(start), Some(end)) => write!(f, ", which is {start}..{end}"),
                    (Some(start), None) => write!(f, ", which begins at {start}"),
                    _ => Ok(()),
                }
            }
            Self::NoStart => f.write_str("no offset is committed, and no other place to start at was set"),
        }
    }
}

/// What a partition is doing: always exactly one of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// In a request that waits for its answer.
    Fetching {
        /// Where it is read.
        broker: BrokerId,
    },
    /// Goes into the next request to this broker.
    Queued {
        /// Where it will be read.
        broker: BrokerId,
    },
    /// Records wait for the application, and no request is out.
    Buffered {
        /// How many bytes.
        bytes: usize,
    },
    /// Its broker's requests wait until the application has taken records of others: the buffer is full.
    WaitingForRoom {
        /// Where it will be read.
        broker: BrokerId,
    },
    /// Its broker wants to be left alone for now, since the client is over a quota (KIP-219).
    Throttled {
        /// Where it will be read.
        broker: BrokerId,
        /// Until when.
        until: Instant,
    },
    /// The application paused it.
    Paused,
    /// The application holds it back; what was fetched waits.
    Held {
        /// How many bytes.
        bytes: usize,
    },
    /// Fetched to the stop that was set for it.
    AtStop,
    /// Tried again at a time.
    BackOff {
        /// When.
        until: Instant,
        /// What went wrong.
        reason: Reason,
    },
    /// No leader is known.
    WaitingForLeader,
    /// Where to start is being looked up.
    Resetting,
    /// A new leader is asked whether its log holds what was read (KIP-320).
    Validating {
        /// The leader.
        broker: BrokerId,
    },
    /// Not read any more, until the application seeks. It was told why. This is also the status of a partition that is paused or held besides.
    Failed {
        /// Why.
        reason: Reason,
    },
}

/// Where a cursor stands. The status is this, pausing, and what is buffered.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum State {
    Resetting { start: Start, asked: bool, not_before: Option<Instant> },
    Ready(Position),
    Fetching(Position, BrokerId),
    Validating { position: Position, leader: Leader },
    BackOff { position: Position, until: Instant, reason: Reason },
    Failed { position: Option<Position>, reason: Reason },
}

/// A leader as it was last heard of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leader {
    pub(super) id: BrokerId,
    pub(super) epoch: Option<LeaderEpoch>,
}

#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) tp: TopicPartition,
    pub(super) topic: u32,
    /// Another one after each assignment, seek and pause: what was asked before is not news any more.
    pub(super) generation: u64,
    pub(super) state: State,
    /// When `state` was entered.
    pub(super) since: Instant,
    pub(super) paused: bool,
    pub(super) held: bool,
    /// Nothing is asked of it from here on.
    pub(super) stop: Option<Offset>,
    pub(super) leader: Option<Leader>,
    /// The leader whose log is known to hold what was read.
    pub(super) validated: Option<Leader>,
    /// The leader as it was when the request that is out was made.
    pub(super) asked_under: Option<Leader>,
    /// A replica to read from instead of the leader, until then (KIP-392).
    pub(super) preferred: Option<(BrokerId, Instant)>,
    /// The broker whose records of this partition are on their way to the application.
    pub(super) delivering: Option<(BrokerId, usize)>,
    /// The broker in whose order it stands.
    pub(super) listed: Option<BrokerId>,
    pub(super) buffered: usize,
    /// Where the application stands; `None` before the start is known.
    pub(super) consumed: Option<Position>,
    pub(super) high_watermark: Option<Offset>,
    pub(super) last_stable: Option<Offset>,
    pub(super) log_start: Option<Offset>,
    /// Tries in a row that failed, and since when.
    pub(super) failures: u32,
    pub(super) failing_since: Option<Instant>,
    /// Where something could not be read, and how often.
    pub(super) damaged: Option<(Offset, u32)>,
    /// Whether the answer that is being handled brought records of it.
    pub(super) brought: bool,
    /// When an answer last said that nothing is left, if the last one did.
    pub(super) caught_up: Option<Instant>,
    /// Answers in a row that were without records of anything, though the log goes on.
    pub(super) empty_answers: u32,
    /// Whether the answer that is being handled names it without records.
    pub(super) brought_nothing: bool,
    /// Whether the application is to be told that nothing is left.
    pub(super) end_due: bool,
    /// Whether it stands in the list of those.
    pub(super) end_listed: bool,
    /// When a stall of it was last reported.
    pub(super) reported: Option<Instant>,
}

impl Cursor {
    pub(super) fn enter(&mut self, now: Instant, state: State) {
        if !matches!(state, State::Ready(_) | State::Fetching(..) | State::Validating { .. }) {
            self.forget_end();
        }
        self.state = state;
        self.since = now;
        self.reported = None;
    }

    /// Where it is read: the preferred replica while that is valid, else the leader.
    pub(super) fn target(&self, now: Instant) -> Option<BrokerId> {
        match self.preferred {
            Some((replica, until)) if now < until => Some(replica),
            _ => self.leader.map(|leader| leader.id),
        }
    }

    /// Whether a request to this broker, its target, may ask for it.
    pub(super) fn is_fetchable(&self, broker: BrokerId) -> bool {
        // Records that are still on their way from another broker come first.
        !self.rests()
            && matches!(self.state, State::Ready(_))
            && !self.needs_validation()
            && self.delivering.is_none_or(|(from, _)| from == broker)
    }

    /// Whether nothing is to be asked of it, by the application's will.
    pub(super) fn rests(&self) -> bool {
        self.paused || self.held || self.is_at_stop()
    }

    pub(super) fn is_at_stop(&self) -> bool {
        let at = |stop| self.position().is_some_and(|position| position.offset >= stop);
        self.stop.is_some_and(at)
    }

    /// What answers said of the end of the log does not hold any more.
    pub(super) fn forget_end(&mut self) {
        self.caught_up = None;
        self.empty_answers = 0;
        self.end_due = false;
    }

    /// The end of what can be read, as the last answer said.
    pub(super) fn end(&self, isolation: Isolation) -> Option<Offset> {
        match isolation {
            Isolation::ReadCommitted => self.last_stable.or(self.high_watermark),
            Isolation::ReadUncommitted => self.high_watermark,
        }
    }

    /// The position of the next fetch.
    pub(super) fn position(&self) -> Option<Position> {
        match &self.state {
            State::Resetting { .. } => None,
            State::Ready(position)
            | State::Fetching(position, _)
            | State::Validating { position, .. }
            | State::BackOff { position, .. } => Some(*position),
            State::Failed { position, .. } => *position,
        }
    }

    /// Nothing went wrong any more.
    pub(super) fn succeed(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }
}
