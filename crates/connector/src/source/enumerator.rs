//! The enumerator: one per source. It finds partitions, has their offsets resolved, gives each to the subtask that reads it, and says when
//! nothing more will come. A pure state machine: call `handle_*` with what happened, `tick` when [`Enumerator::next_deadline`]
//! passes, and carry out what `poll_command` returns.
//!
//! ```text
//!            +--------- interval -----------+
//!            v                              |
//!  Waiting -> Discovering -> Resolving -> Waiting | Settled
//!     ^           |              |
//!     +- back-off +- back-off ---+             any -> Failed
//! ```
//!
//! # Invariants
//! - One discovery or resolution is under way at a time; late and unasked answers change nothing (no duplicates by racing rounds).
//! - A partition is known from the moment its offsets are numbers, and it is assigned to at most one reader.
//! - No partition is dropped because an answer didn't list it: only a named policy drops, after several answers agree.
//! - "No more splits" is derived from the state after every event, so a restored bounded source always ends.
//!
//! # References
//! Flink: `KafkaSourceEnumerator` (FLIP-27, FLIP-288), FLINK-31006, FLINK-28303, FLINK-32019, FLINK-40128.

mod discovery;
mod restore;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use milena::{Offset, TopicPartition};

use super::assign::{Assigner, Load};
use super::enumerator_state::{EnumeratorState, StoredStart, UnresolvedSplit};
use super::policy::{
    Discovery, DiscoveryRetry, RecreatedTopic, RemovedPartition, UnsubscribedPartition, is_transient,
    same_topic,
};
use super::split::{Split, TopicId};
use super::start::{StartFrom, StopAt};
use super::subscription::Subscription;
use crate::progress::Position;
use crate::{Error, ErrorKind, Result};

/// How an enumerator behaves; made by the source's builder.
#[derive(Clone, Debug)]
pub struct EnumeratorConfig {
    /// What is read.
    pub subscription: Subscription,
    /// Where partitions of the first discovery start.
    pub start: StartFrom,
    /// Where partitions stop.
    pub stop: StopAt,
    /// Whether the source ends when all its splits have; then discovery runs once.
    pub bounded: bool,
    /// How often partitions are looked for.
    pub discovery: Discovery,
    /// What happens when looking fails.
    pub retry: DiscoveryRetry,
    /// Who reads what.
    pub assigner: Assigner,
    /// What happens when a partition disappears.
    pub removed: RemovedPartition,
    /// What happens when a topic was deleted and created again.
    pub recreated: RecreatedTopic,
    /// What happens to a restored partition that is not subscribed any more.
    pub unsubscribed: UnsubscribedPartition,
}

/// A partition that discovery found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiscoveredPartition {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The id of its topic, where the broker knows ids.
    pub topic_id: Option<TopicId>,
}

/// The answer of one discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Everything subscribed that exists.
    pub partitions: Vec<DiscoveredPartition>,
    /// Named topics and partitions that don't exist, as text for people.
    pub missing: Vec<String>,
}

/// Which rule gives a partition its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StartRule {
    /// The source's own mode: it was found by the first discovery.
    Configured,
    /// Its first offset: it was found later.
    Earliest,
    /// None: the checkpoint has its position, and only its stop is wanted.
    Kept,
    /// What an imported state says in the place of an offset.
    Stored(StoredStart),
}

/// A partition whose start and stop are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveRequest {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The id of its topic.
    pub topic_id: Option<TopicId>,
    /// The rule for its start.
    pub start: StartRule,
}

/// A partition with start and stop as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// Where it starts.
    pub start: Position,
    /// Where it stops.
    pub stop: Option<Offset>,
}

/// What the enumerator wants done.
#[derive(Debug)]
pub enum Command {
    /// Look for partitions, and answer with [`Enumerator::handle_discovered`].
    Discover,
    /// Resolve starts and stops, and answer with [`Enumerator::handle_offsets_resolved`].
    ResolveOffsets(Vec<ResolveRequest>),
    /// Give splits to a reader. An empty list says that it has none for now: it is idle.
    Assign {
        /// The reader.
        subtask: u32,
        /// Its new splits.
        splits: Vec<Split>,
    },
    /// Take partitions away from a reader: they are gone and the policy says to go on without.
    Remove {
        /// The reader.
        subtask: u32,
        /// The partitions.
        partitions: Vec<TopicPartition>,
    },
    /// Tell a reader that it gets no more splits: it ends after those it has.
    NoMoreSplits {
        /// The reader.
        subtask: u32,
    },
    /// The source can't go on.
    Fail(Error),
}

/// Counters and gauges of an enumerator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnumeratorMetrics {
    /// Discoveries that were answered.
    pub discoveries: u64,
    /// Discoveries and resolutions that failed, in total.
    pub failures: u64,
    /// Partitions known.
    pub partitions: usize,
    /// Partitions dropped because they disappeared or are not subscribed any more.
    pub dropped: u64,
    /// Restored partitions that are read though they are not subscribed any more.
    pub kept_unsubscribed: u64,
    /// Partitions that are gone and waited for.
    pub waited_for: u64,
    /// Topics, counted by partition, that were found created again.
    pub recreated: u64,
}

/// Finds partitions and deals them to readers.
#[derive(Debug)]
pub struct Enumerator {
    config: EnumeratorConfig,
    parallelism: u32,
    known: BTreeMap<TopicPartition, Known>,
    /// Restored splits that get a new stop before they are dealt.
    reopened: BTreeMap<TopicPartition, Split>,
    /// Partitions of an imported state that get an offset when they are found.
    unresolved: BTreeMap<TopicPartition, StoredStart>,
    readers: BTreeMap<u32, Reader>,
    phase: Phase,
    failures: u32,
    initial_discovery_finished: bool,
    commands: VecDeque<Command>,
    metrics: EnumeratorMetrics,
}

#[derive(Debug)]
struct Known {
    split: Split,
    place: Place,
    /// How many discoveries in a row did not list it.
    absent: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting {
        owner: u32,
    },
    Assigned {
        owner: u32,
    },
    /// Read to its stop; a failed reader may still give it back at an earlier position.
    Finished {
        owner: Option<u32>,
    },
}

#[derive(Debug, Default)]
struct Reader {
    /// It has been told its assignment, be it empty.
    told: bool,
    no_more: bool,
}

#[derive(Debug)]
enum Phase {
    Waiting { due: Instant },
    Discovering,
    Resolving { asked: Vec<ResolveRequest> },
    ResolvingLater { due: Instant, asked: Vec<ResolveRequest> },
    Settled,
    Failed,
}

impl Enumerator {
    /// An enumerator of a fresh job, for `parallelism` readers. It asks for a discovery at once.
    #[must_use]
    pub fn new(config: EnumeratorConfig, parallelism: u32) -> Self {
        Self {
            config,
            parallelism: parallelism.max(1),
            known: BTreeMap::new(),
            reopened: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            readers: BTreeMap::new(),
            phase: Phase::Discovering,
            failures: 0,
            initial_discovery_finished: false,
            commands: VecDeque::from([Command::Discover]),
            metrics: EnumeratorMetrics::default(),
        }
    }

    /// Makes a split known and decides who is to read it.
    fn learn(&mut self, split: Split) {
        let owner = self.deal(&split.topic_partition);
        self.learn_for(split, owner);
    }

    fn learn_for(&mut self, split: Split, owner: u32) {
        let place =
            if split.is_finished() { Place::Finished { owner: None } } else { Place::Waiting { owner } };
        self.known.insert(split.topic_partition.clone(), Known { split, place, absent: 0 });
        self.metrics.partitions = self.known.len();
    }

    fn deal(&self, partition: &TopicPartition) -> u32 {
        let mut load = vec![Load::default(); self.parallelism as usize];
        if !matches!(self.config.assigner, Assigner::FlinkHash) {
            for (at, owner) in self.owners() {
                if let Some(load) = load.get_mut(owner as usize) {
                    load.partitions += 1;
                    load.of_topic += usize::from(at.topic == partition.topic);
                }
            }
        }
        self.config.assigner.owner(partition, &load)
    }

    /// A reader is there, for the first time or again after a failure; its splits of before must have come back by
    /// [`Enumerator::add_splits_back`], if they did not finish.
    pub fn register_reader(&mut self, subtask: u32) {
        if subtask >= self.parallelism {
            let text = format!("reader {subtask} registered with a parallelism of {}", self.parallelism);
            return self.fail(Error::new(ErrorKind::Misuse, text));
        }
        self.readers.insert(subtask, Reader::default());
        self.hand_out();
    }

    /// A reader is gone; nothing is given to it until it registers again.
    pub fn remove_reader(&mut self, subtask: u32) {
        self.readers.remove(&subtask);
    }

    /// Splits of a reader that failed, with the positions of the last checkpoint. Splits it did not have are refused, so that no
    /// partition is ever read twice.
    pub fn add_splits_back(&mut self, subtask: u32, splits: Vec<Split>) {
        for split in splits {
            let at = split.topic_partition.clone();
            let theirs = self.known.get(&at).is_some_and(|known| {
                [Place::Assigned { owner: subtask }, Place::Finished { owner: Some(subtask) }]
                    .contains(&known.place)
            });
            if theirs {
                // It waits for its reader: the others may have been told already that no more comes.
                self.learn_for(split, subtask);
            } else {
                tracing::warn!(partition = %at, subtask, "given back by a reader that doesn't have it; ignored");
            }
        }
        self.hand_out();
    }

    /// A reader read a split to its end, which may come before the stop it was given (end of stream).
    pub fn handle_finished(&mut self, split: &Split) {
        if let Some(known) = self.known.get_mut(&split.topic_partition) {
            let owner = match known.place {
                Place::Assigned { owner } => Some(owner),
                Place::Waiting { .. } | Place::Finished { .. } => return,
            };
            known.place = Place::Finished { owner };
            known.split =
                Split { topic_id: known.split.topic_id, stop: Some(split.next_offset), ..split.clone() };
        }
    }

    /// The answer to [`Command::Discover`].
    pub fn handle_discovered(&mut self, now: Instant, answer: Result<Discovered>) {
        if !matches!(self.phase, Phase::Discovering) {
            return;
        }
        match answer.and_then(|found| self.check_missing(found)) {
            Err(error) => self.discovery_failed(now, error, None),
            Ok(found) => {
                self.metrics.discoveries += 1;
                self.discovered(now, found);
            }
        }
    }

    /// The answer to [`Command::ResolveOffsets`]. Partitions that the answer leaves out are looked for again, as they may be gone;
    /// those it was not asked for are ignored.
    pub fn handle_offsets_resolved(&mut self, now: Instant, answer: Result<Vec<Resolved>>) {
        let Phase::Resolving { asked } = &mut self.phase else {
            return;
        };
        let asked = std::mem::take(asked);
        let resolved = match answer {
            Ok(resolved) => resolved,
            Err(error) => return self.discovery_failed(now, error, Some(asked)),
        };
        let mut asked: BTreeMap<TopicPartition, ResolveRequest> =
            asked.into_iter().map(|request| (request.topic_partition.clone(), request)).collect();
        for Resolved { topic_partition, start, stop } in resolved {
            let Some(request) = asked.remove(&topic_partition) else {
                continue;
            };
            if let Some(split) = self.reopened.remove(&topic_partition) {
                self.learn(split.with_stop(stop));
                continue;
            }
            self.unresolved.remove(&topic_partition);
            self.learn(Split {
                topic_id: request.topic_id,
                leader_epoch: start.leader_epoch,
                ..Split::new(topic_partition, start.offset).with_stop(stop)
            });
        }
        if let Some(missing) = asked.keys().next() {
            let text = format!("offsets of {missing} and {} more are still open", asked.len() - 1);
            return self.discovery_failed(now, Error::new(ErrorKind::Timeout, text), None);
        }
        self.initial_discovery_finished = true;
        self.rest(now);
        self.hand_out();
    }

    /// A round is over: wait for the next one, if there is one. One that found too little is repeated: partitions that are not
    /// there are never waited for in silence.
    fn rest(&mut self, now: Instant) {
        self.failures = 0;
        let confirmations = self.config.removed.confirmations;
        let absent = self.known.values().filter(|known| !known.is_finished()).map(|known| known.absent);
        let doubtful = absent.filter(|absent| (1..confirmations).contains(absent)).max();
        let interval = match self.config.discovery {
            Discovery::Every(interval) if !self.config.bounded => Some(interval),
            Discovery::Every(_) | Discovery::Once => doubtful.map(|absent| self.config.retry.delay(absent)),
        };
        self.phase = match interval.and_then(|interval| now.checked_add(interval)) {
            Some(due) => Phase::Waiting { due },
            None => Phase::Settled,
        };
    }

    /// Tries again later, or fails: at once for what no retry mends, after the limit for the rest.
    fn discovery_failed(&mut self, now: Instant, error: Error, asked: Option<Vec<ResolveRequest>>) {
        self.metrics.failures += 1;
        self.failures = self.failures.saturating_add(1);
        let limit = match error.kind() {
            ErrorKind::Topic => self.config.retry.limit.min(MISSING_TRIES - 1),
            _ => self.config.retry.limit,
        };
        if !is_transient(&error) || self.failures > limit {
            return self.fail(error);
        }
        tracing::warn!(%error, failures = self.failures, "discovery failed; trying again");
        let due = now.checked_add(self.config.retry.delay(self.failures)).unwrap_or(now);
        self.phase = match asked {
            Some(asked) => Phase::ResolvingLater { due, asked },
            None => Phase::Waiting { due },
        };
        self.hand_out();
    }

    fn fail(&mut self, error: Error) {
        if !matches!(self.phase, Phase::Failed) {
            self.phase = Phase::Failed;
            self.commands.clear();
            self.commands.push_back(Command::Fail(error));
        }
    }

    /// When [`Enumerator::tick`] has something to do, if time alone brings it.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Waiting { due } | Phase::ResolvingLater { due, .. } => Some(*due),
            Phase::Discovering | Phase::Resolving { .. } | Phase::Settled | Phase::Failed => None,
        }
    }

    /// Time passes: a discovery or a retry may be due.
    pub fn tick(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|due| due > now) {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Discovering) {
            Phase::ResolvingLater { asked, .. } => {
                self.commands.push_back(Command::ResolveOffsets(asked.clone()));
                self.phase = Phase::Resolving { asked };
            }
            _ => self.commands.push_back(Command::Discover),
        }
    }

    /// Gives waiting splits to the readers that are there, and tells them what they need to know of the future.
    fn hand_out(&mut self) {
        if matches!(self.phase, Phase::Failed) {
            return;
        }
        let complete =
            self.initial_discovery_finished && self.reopened.is_empty() && !self.is_resolving_stored();
        let ends =
            self.config.bounded && self.initial_discovery_finished && matches!(self.phase, Phase::Settled);
        for (subtask, reader) in &mut self.readers {
            let mut splits = Vec::new();
            for known in self.known.values_mut() {
                if known.place == (Place::Waiting { owner: *subtask }) {
                    known.place = Place::Assigned { owner: *subtask };
                    splits.push(known.split.clone());
                }
            }
            if !splits.is_empty() || (complete && !reader.told) {
                reader.told = true;
                self.commands.push_back(Command::Assign { subtask: *subtask, splits });
            }
            if ends && !reader.no_more {
                reader.no_more = true;
                self.commands.push_back(Command::NoMoreSplits { subtask: *subtask });
            }
        }
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether the first discovery is done and its offsets are numbers. A checkpoint taken before makes a restored job apply its
    /// start mode again: the runtime waits for this before the first one.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.initial_discovery_finished && !self.is_resolving_stored()
    }

    /// Whether restored partitions wait for a new stop.
    #[must_use]
    pub fn is_reopening(&self) -> bool {
        !self.reopened.is_empty()
    }

    /// What goes into a checkpoint. Positions of assigned splits are the readers' to give.
    #[must_use]
    pub fn snapshot(&self) -> EnumeratorState {
        EnumeratorState {
            initial_discovery_finished: self.initial_discovery_finished,
            start: self.config.start.to_string(),
            splits: self
                .known
                .values()
                .map(|known| &known.split)
                .chain(self.reopened.values())
                .cloned()
                .collect(),
            unresolved: self
                .unresolved
                .iter()
                .map(|(at, start)| UnresolvedSplit { topic_partition: at.clone(), start: *start })
                .collect(),
        }
    }

    /// Who reads which partition: waiting and assigned ones, not the finished ones.
    pub fn owners(&self) -> impl Iterator<Item = (&TopicPartition, u32)> {
        self.known.iter().filter_map(|(at, known)| match known.place {
            Place::Waiting { owner } | Place::Assigned { owner } => Some((at, owner)),
            Place::Finished { .. } => None,
        })
    }

    /// The partitions that were read to their stops.
    pub fn finished(&self) -> impl Iterator<Item = &TopicPartition> {
        let finished = |known: &Known| matches!(known.place, Place::Finished { .. });
        self.known.iter().filter(move |(_, known)| finished(known)).map(|(at, _)| at)
    }

    /// The partitions at their stops that no reader of this run was given: their positions are only for the group.
    pub fn never_read(&self) -> impl Iterator<Item = &Split> {
        let unread = |known: &&Known| matches!(known.place, Place::Finished { owner: None });
        self.known.values().filter(unread).map(|known| &known.split)
    }

    /// The partitions that are read, or will be: waiting, assigned, or without their offsets yet.
    pub fn open(&self) -> impl Iterator<Item = &TopicPartition> {
        self.owners().map(|(at, _)| at).chain(self.reopened.keys()).chain(self.unresolved.keys())
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> EnumeratorMetrics {
        self.metrics
    }

    /// The topics of everything known, for keeping metadata fresh.
    #[must_use]
    pub fn topics(&self) -> BTreeSet<Arc<str>> {
        self.known.keys().chain(self.reopened.keys()).map(|at| Arc::clone(&at.topic)).collect()
    }
}

impl Known {
    fn is_finished(&self) -> bool {
        matches!(self.place, Place::Finished { .. })
    }

    /// The partition is there; its topic must be the one it was. Where the policy is to start over, the reader does, by the id that
    /// its split came with. Returns whether the topic is another one.
    fn confirm(&mut self, topic_id: Option<TopicId>, policy: RecreatedTopic) -> Result<bool> {
        self.absent = 0;
        let other = !self.is_finished() && !same_topic(&self.split, topic_id, policy)?;
        if !other || policy == RecreatedTopic::Ignore {
            self.split.topic_id = topic_id.or(self.split.topic_id);
        }
        Ok(other)
    }
}

/// A topic just created takes a moment to reach all brokers; a misspelt one never does.
const MISSING_TRIES: u32 = 4;

#[cfg(test)]
#[path = "enumerator_tests.rs"]
mod tests;
