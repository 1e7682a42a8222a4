//! The cursors of all assigned partitions, and what the application does to them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, PartitionId, TopicPartition};
use uuid::Uuid;

use super::cursor::{Cursor, Leader, Loss, Position, Reason, Start, State, Status};
use super::session::Session;
use crate::cluster::Cluster;
use crate::retry::Backoff;
use crate::rng::Rng;

/// The rules of a set of cursors.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to start a partition without a committed offset; `None` makes it an error.
    pub reset: Option<Start>,
    /// What to do when the records at a known position are gone.
    pub loss: Loss,
    /// Which of a log's ends counts.
    pub isolation: Isolation,
    /// Whether [`Cursors::poll_end`] is asked.
    pub tell_ends: bool,
    /// The waits between tries.
    pub backoff: Backoff,
    /// How long a partition that brokers do not know is looked for before the application is told.
    pub unknown_window: Duration,
    /// How long a preferred replica is read before the leader is asked again (KIP-392).
    pub replica_window: Duration,
}

/// Names a cursor from one event to the next. It is of no use once the partition was removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SlotId(pub(super) usize);

/// A cursor, and which of its lives: after a seek, a pause or an assignment an old ticket is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    pub(super) slot: usize,
    pub(super) generation: u64,
}

impl Ticket {
    /// The cursor.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        SlotId(self.slot)
    }
}

/// Something the application has to know: the partition is not read any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The partition.
    pub tp: TopicPartition,
    /// Why.
    pub reason: Reason,
}

/// What is known of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CursorView {
    /// The partition.
    pub tp: TopicPartition,
    /// What it is doing.
    pub status: Status,
    /// Since when.
    pub since: Instant,
    /// Where the application stands; `None` before the start is known.
    pub position: Option<Position>,
    /// The end of what is replicated, as the last answer said.
    pub high_watermark: Option<Offset>,
    /// Below it every transaction has ended, as the last answer said.
    pub last_stable_offset: Option<Offset>,
    /// The first offset of the log, as the last answer said.
    pub log_start: Option<Offset>,
    /// When an answer last said that nothing is left to read; `None` while there is more, or nothing is known. A gap that compaction left
    /// at the end counts as nothing.
    pub caught_up: Option<Instant>,
    /// Bytes that wait for the application.
    pub buffered: usize,
    /// Since when every try to read it has failed; `None` while nothing is wrong.
    pub failing_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) id: Option<Uuid>,
}

/// What goes to one broker.
#[derive(Debug)]
pub(super) struct Queue {
    /// The cursors that are read there; who brought data goes last.
    pub(super) order: Vec<usize>,
    pub(super) session: Session,
    pub(super) in_flight: bool,
    /// Whether the request in flight named everything.
    pub(super) full: bool,
    /// The broker wants to be left alone until then (KIP-219).
    pub(super) not_before: Option<Instant>,
    /// Since its last answers have all been without records for the sake of a quota.
    pub(super) denied: Option<Denied>,
    /// Whether the answer that is being handled brought records.
    pub(super) brought: bool,
    /// Its next request waits for room in the buffer.
    pub(super) starved: bool,
}

/// A broker that answers, but for the sake of a quota brings nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denied {
    pub(super) since: Instant,
    /// When that was last reported as a stall. A request goes out between two answers, so no state of a cursor lasts long enough to tell.
    pub(super) reported: Option<Instant>,
}

/// All cursors. See the [module](super) for the order of calls.
#[derive(Debug)]
pub struct Cursors {
    pub(super) settings: Settings,
    pub(super) rng: Rng,
    pub(super) slots: Vec<Option<Cursor>>,
    free: Vec<usize>,
    pub(super) by_tp: HashMap<(u32, PartitionId), usize>,
    pub(super) topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, u32>,
    pub(super) by_id: HashMap<Uuid, u32>,
    pub(super) queues: BTreeMap<BrokerId, Queue>,
    next_generation: u64,
    pub(super) failures: VecDeque<Failure>,
    /// Partitions whose end the application may have to be told of.
    pub(super) ends: VecDeque<usize>,
    pub(super) stale_topics: BTreeSet<Arc<str>>,
    /// Whether something went wrong since the last [`Cursors::poll_resets`].
    pub(super) troubled: bool,
}

impl Cursors {
    /// No cursors yet.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            rng: Rng::new(seed),
            slots: Vec::new(),
            free: Vec::new(),
            by_tp: HashMap::new(),
            topics: Vec::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            queues: BTreeMap::new(),
            next_generation: 0,
            failures: VecDeque::new(),
            ends: VecDeque::new(),
            stale_topics: BTreeSet::new(),
            troubled: false,
        }
    }

    /// Adds a partition. `None` if it is there already; then nothing changes.
    pub fn assign(&mut self, now: Instant, tp: &TopicPartition, start: Start) -> Option<SlotId> {
        let topic = self.intern(&tp.topic);
        if self.by_tp.contains_key(&(topic, tp.partition)) {
            return None;
        }
        let cursor = Cursor {
            // One name for all partitions of a topic.
            tp: TopicPartition {
                topic: self
                    .topics
                    .get(topic as usize)
                    .map_or_else(|| Arc::clone(&tp.topic), |t| Arc::clone(&t.name)),
                partition: tp.partition,
            },
            topic,
            generation: self.generation(),
            state: started(start),
            since: now,
            paused: false,
            held: false,
            stop: None,
            leader: None,
            validated: None,
            asked_under: None,
            preferred: None,
            delivering: None,
            listed: None,
            buffered: 0,
            consumed: consumed(start),
            high_watermark: None,
            last_stable: None,
            log_start: None,
            failures: 0,
            failing_since: None,
            damaged: None,
            brought: false,
            caught_up: None,
            empty_answers: 0,
            brought_nothing: false,
            end_due: false,
            end_listed: false,
            reported: None,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(cursor);
        }
        self.by_tp.insert((topic, tp.partition), slot);
        Some(SlotId(slot))
    }

    /// Takes a partition away; what is on its way of it is not news any more.
    pub fn remove(&mut self, tp: &TopicPartition) -> Option<SlotId> {
        let slot = self.slot(tp)?.0;
        let cursor = self.slots.get_mut(slot)?.take()?;
        self.by_tp.remove(&(cursor.topic, cursor.tp.partition));
        self.unlist(cursor.listed, slot);
        self.free.push(slot);
        Some(SlotId(slot))
    }

    /// Reads on from another place. Errors of the partition are forgotten.
    pub fn seek(&mut self, now: Instant, tp: &TopicPartition, start: Start) -> Option<SlotId> {
        let slot = self.slot(tp)?;
        let generation = self.generation();
        let cursor = self.cursor_mut(slot.0)?;
        renew(cursor, generation);
        cursor.consumed = consumed(start);
        cursor.succeed();
        cursor.enter(now, started(start));
        Some(slot)
    }

    /// Stops reading a partition until [`Cursors::resume`]. What waits for the application is to be dropped; it is read again
    /// from the application's position.
    pub fn pause(&mut self, now: Instant, tp: &TopicPartition) -> Option<SlotId> {
        let slot = self.slot(tp)?;
        let generation = self.generation();
        let cursor = self.cursor_mut(slot.0)?;
        if !cursor.paused {
            renew(cursor, generation);
            cursor.paused = true;
            let state = match (&cursor.state, cursor.consumed) {
                // The answer of a lookup that is under way will not be news.
                (&State::Resetting { start, not_before, .. }, _) => {
                    State::Resetting { start, asked: false, not_before }
                }
                (State::Failed { .. }, _) => cursor.state.clone(),
                (_, Some(position)) => State::Ready(position),
                (state, None) => state.clone(),
            };
            cursor.enter(now, state);
        }
        Some(slot)
    }

    /// Reads a paused partition on.
    pub fn resume(&mut self, now: Instant, tp: &TopicPartition) -> Option<SlotId> {
        let slot = self.slot(tp)?;
        let cursor = self.cursor_mut(slot.0)?;
        if std::mem::take(&mut cursor.paused) {
            cursor.since = now;
            cursor.reported = None;
        }
        Some(slot)
    }

    /// The cursor of a partition.
    #[must_use]
    pub fn slot(&self, tp: &TopicPartition) -> Option<SlotId> {
        let topic = *self.by_name.get(&tp.topic)?;
        self.by_tp.get(&(topic, tp.partition)).copied().map(SlotId)
    }

    /// Whether a ticket is still good.
    #[must_use]
    pub fn is_current(&self, ticket: Ticket) -> bool {
        self.cursor(ticket.slot).is_some_and(|cursor| cursor.generation == ticket.generation)
    }

    /// The partition of a ticket that is still good.
    #[must_use]
    pub fn tp(&self, ticket: Ticket) -> Option<&TopicPartition> {
        self.cursor(ticket.slot)
            .filter(|cursor| cursor.generation == ticket.generation)
            .map(|cursor| &cursor.tp)
    }

    /// The assigned partitions.
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.slots.iter().flatten().map(|cursor| &cursor.tp)
    }

    /// How many partitions are assigned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_tp.len()
    }

    /// Whether no partition is assigned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_tp.is_empty()
    }

    /// What is known of each partition, in the order of their slots.
    pub fn views(&self, now: Instant) -> Vec<CursorView> {
        self.slots.iter().flatten().map(|cursor| self.view_of(now, cursor)).collect()
    }

    /// What is known of one partition.
    #[must_use]
    pub fn view(&self, now: Instant, tp: &TopicPartition) -> Option<CursorView> {
        let slot = self.slot(tp)?;
        self.cursor(slot.0).map(|cursor| self.view_of(now, cursor))
    }

    fn view_of(&self, now: Instant, cursor: &Cursor) -> CursorView {
        CursorView {
            tp: cursor.tp.clone(),
            status: self.status(now, cursor),
            since: cursor.since,
            position: cursor.consumed,
            high_watermark: cursor.high_watermark,
            last_stable_offset: cursor.last_stable,
            log_start: cursor.log_start,
            caught_up: cursor.caught_up,
            buffered: cursor.buffered,
            failing_since: cursor.failing_since,
        }
    }

    pub(super) fn status(&self, now: Instant, cursor: &Cursor) -> Status {
        match &cursor.state {
            // What only a seek ends is not hidden behind what the application may end by itself.
            State::Failed { .. } => {}
            _ if cursor.paused => return Status::Paused,
            _ if cursor.held => return Status::Held { bytes: cursor.buffered },
            State::Ready(_) if cursor.is_at_stop() => return Status::AtStop,
            _ => {}
        }
        match &cursor.state {
            State::Resetting { .. } => Status::Resetting,
            State::Failed { reason, .. } => Status::Failed { reason: reason.clone() },
            State::BackOff { until, reason, .. } => Status::BackOff { until: *until, reason: reason.clone() },
            State::Fetching(_, broker) => Status::Fetching { broker: *broker },
            State::Validating { leader, .. } => Status::Validating { broker: leader.id },
            State::Ready(_) => match cursor.target(now) {
                None => Status::WaitingForLeader,
                Some(broker) if cursor.needs_validation() => Status::Validating { broker },
                Some(_) if cursor.buffered > 0 => Status::Buffered { bytes: cursor.buffered },
                Some(broker) => {
                    let queue = self.queues.get(&broker);
                    match queue.and_then(|queue| queue.rests_until(now)) {
                        _ if queue.is_some_and(|queue| queue.starved) => Status::WaitingForRoom { broker },
                        Some(until) => Status::Throttled { broker, until },
                        None => Status::Queued { broker },
                    }
                }
            },
        }
    }

    /// The application took records of a partition, or threw them away: it stands at `position` now.
    pub fn on_taken(&mut self, ticket: Ticket, bytes: usize, position: Position) {
        if let Some(cursor) = self.current(ticket) {
            cursor.buffered = cursor.buffered.saturating_sub(bytes);
            cursor.consumed = Some(position);
        }
    }

    /// Records that the application took turned out to be broken at `position`: the partition is not read any more.
    pub fn on_broken(&mut self, now: Instant, ticket: Ticket, position: Position, text: Arc<str>) {
        let generation = self.generation();
        if let Some(cursor) = self.current(ticket) {
            renew(cursor, generation);
            cursor.consumed = Some(position);
            cursor.enter(now, State::Ready(position));
            self.fail(now, ticket.slot, Reason::Unreadable(text));
        }
    }

    /// The application moved on inside of records it took.
    pub fn on_moved(&mut self, ticket: Ticket, position: Position) {
        if let Some(cursor) = self.current(ticket) {
            cursor.consumed = Some(position);
        }
    }

    /// New topology: leaders are looked up again.
    pub fn handle_cluster(&mut self, now: Instant, cluster: &Cluster) {
        for (index, topic) in self.topics.iter_mut().enumerate() {
            let id = cluster.topic(&topic.name).and_then(|known| known.id);
            if id.is_some() && id != topic.id {
                topic.id = id;
                if let (Some(id), Ok(index)) = (id, u32::try_from(index)) {
                    self.by_id.insert(id, index);
                }
            }
        }
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor_mut(slot) else { continue };
            let known = cluster.partition(&cursor.tp);
            let new = known.and_then(|info| info.leader.map(|id| Leader { id, epoch: info.leader_epoch }));
            // A hint that came with an answer may be newer than the topology (KIP-951).
            let hint_is_newer =
                cursor.leader.and_then(|leader| leader.epoch) > known.and_then(|info| info.leader_epoch);
            if !hint_is_newer && new != cursor.leader {
                if matches!(cursor.state, State::Ready(_)) {
                    cursor.since = now;
                }
                cursor.leader = new;
                cursor.preferred = None;
                cursor.forget_end();
                // What the old leader refused says nothing about the new one.
                if let State::BackOff { position, reason: Reason::Code(code), .. } = cursor.state
                    && new.is_some()
                    && code.refreshes_metadata()
                {
                    cursor.enter(now, State::Ready(position));
                }
            }
            self.relist(now, slot);
        }
    }

    /// Topics whose leaders are to be looked up now; each is named once.
    pub fn poll_stale_topics(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.stale_topics)
    }

    /// Topics with a partition that waits for a leader.
    pub fn leaderless_topics(&self, now: Instant) -> BTreeSet<Arc<str>> {
        let waiting = self.slots.iter().flatten().filter(|cursor| {
            matches!(cursor.state, State::Ready(_) | State::BackOff { .. })
                && !cursor.rests()
                && cursor.target(now).is_none()
        });
        waiting.map(|cursor| Arc::clone(&cursor.tp.topic)).collect()
    }

    /// The next partition that is not read any more.
    pub fn poll_failure(&mut self) -> Option<Failure> {
        self.failures.pop_front()
    }

    /// The brokers that partitions are read from.
    pub fn brokers(&self) -> impl Iterator<Item = BrokerId> + '_ {
        self.queues.iter().filter(|(_, queue)| !queue.order.is_empty()).map(|(&id, _)| id)
    }

    /// How many brokers partitions are read from.
    #[must_use]
    pub fn broker_count(&self) -> usize {
        self.brokers().count()
    }

    /// Whether the last answer left something to do besides the next request: topics to look up, starts, back-offs.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.troubled || !self.stale_topics.is_empty()
    }

    pub(super) fn cursor(&self, slot: usize) -> Option<&Cursor> {
        self.slots.get(slot)?.as_ref()
    }

    pub(super) fn cursor_mut(&mut self, slot: usize) -> Option<&mut Cursor> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(super) fn current(&mut self, ticket: Ticket) -> Option<&mut Cursor> {
        self.cursor_mut(ticket.slot).filter(|cursor| cursor.generation == ticket.generation)
    }

    /// Puts a cursor into the order of the broker it is read from.
    pub(super) fn relist(&mut self, now: Instant, slot: usize) {
        let Some(cursor) = self.cursor(slot) else { return };
        let (from, to) = (cursor.listed, cursor.target(now));
        if from == to {
            return;
        }
        self.unlist(from, slot);
        if let Some(broker) = to {
            self.queues.entry(broker).or_insert_with(Queue::new).order.push(slot);
        }
        if let Some(cursor) = self.cursor_mut(slot) {
            cursor.listed = to;
        }
    }

    fn unlist(&mut self, from: Option<BrokerId>, slot: usize) {
        if let Some(queue) = from.and_then(|broker| self.queues.get_mut(&broker)) {
            queue.order.retain(|&other| other != slot);
        }
    }

    pub(super) fn fail(&mut self, now: Instant, slot: usize, reason: Reason) {
        let Some(cursor) = self.cursor_mut(slot) else { return };
        let position = cursor.position();
        cursor.enter(now, State::Failed { position, reason: reason.clone() });
        let failure = Failure { tp: cursor.tp.clone(), reason };
        self.failures.push_back(failure);
    }

    fn generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }

    fn intern(&mut self, name: &Arc<str>) -> u32 {
        if let Some(&topic) = self.by_name.get(name) {
            return topic;
        }
        // As many topics as 32 bits count do not fit into memory.
        let topic = u32::try_from(self.topics.len()).unwrap_or(u32::MAX);
        self.topics.push(Topic { name: Arc::clone(name), id: None });
        self.by_name.insert(Arc::clone(name), topic);
        topic
    }

    pub(super) fn topic_by_name(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The epoch of the leader the client knows, for requests.
    pub(super) fn leader_epoch(cursor: &Cursor) -> Option<LeaderEpoch> {
        cursor.leader.and_then(|leader| leader.epoch)
    }
}

impl Queue {
    fn new() -> Self {
        Self {
            order: Vec::new(),
            session: Session::new(),
            in_flight: false,
            full: true,
            not_before: None,
            denied: None,
            brought: false,
            starved: false,
        }
    }

    /// Until when its broker wants to be left alone, if it does.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| now < *at)
    }
}

/// What was asked and fetched before is not news any more.
fn renew(cursor: &mut Cursor, generation: u64) {
    cursor.generation = generation;
    cursor.delivering = None;
    cursor.buffered = 0;
    cursor.forget_end();
}

pub(super) fn started(start: Start) -> State {
    match start {
        Start::At(position) => State::Ready(position),
        other => State::Resetting { start: other, asked: false, not_before: None },
    }
}

fn consumed(start: Start) -> Option<Position> {
    match start {
        Start::At(position) => Some(position),
        _ => None,
    }
}
