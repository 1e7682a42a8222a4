//! What an answer says of each partition, and what follows from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use milena_protocol::error_code::ErrorCode;
use milena_protocol::fetch::{CurrentLeader, TopicKey};
use milena_protocol::types::{BrokerId, LeaderEpoch, Offset, PartitionId};

use super::cursor::{Leader, Loss, Position, Reason, Start, State};
use super::cursors::{Cursors, Denied, Ticket};
use super::session::{Asked, Mismatch};

/// Whether an answer about a partition is news.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It was asked for, and is still wanted.
    News {
        /// For what follows.
        ticket: Ticket,
        /// What was asked.
        asked: Asked,
    },
    /// It was asked for, and then the application went elsewhere.
    Stale,
}

/// What an answer says of a partition.
#[derive(Clone, PartialEq, Debug)]
pub struct PartitionAnswer {
    /// The error.
    pub code: ErrorCode,
    /// The end of what is replicated.
    pub high_watermark: Option<Offset>,
    /// Below it every transaction has ended.
    pub last_stable_offset: Option<Offset>,
    /// The first offset of the log.
    pub log_start: Option<Offset>,
    /// The replica to be read instead.
    pub preferred: Option<BrokerId>,
    /// The log took another way than the reader's: where the newest epoch ends that is not newer than the reader's.
    pub diverged_at: Option<Offset>,
    /// Who leads the partition now.
    pub leader: Option<CurrentLeader>,
    /// What came, if it can be read.
    pub read: Result<Option<ReadTo>, Arc<str>>,
}

/// Records that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadTo {
    /// The offset after the last batch.
    pub next: Offset,
    /// That batch's leader epoch.
    pub epoch: Option<LeaderEpoch>,
    /// How many bytes they are.
    pub bytes: usize,
}

/// What to do with a partition's part of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its records go to the application; [`Cursors::on_delivered`] when they did.
    Deliver,
    /// Nothing came.
    Nothing,
    /// Something went wrong; the cursor knows what to do.
    Trouble,
}

/// After so many tries what cannot be read is taken for damaged in the log, not on its way.
const UNREADABLE_TRIES: u32 = 3;

impl Cursors {
    /// The head of an answer: `Ok(false)` if the broker refused the request as a whole.
    ///
    /// # Errors
    /// The answer is of another session; nothing in it can be used.
    pub fn handle_session(
        &mut self,
        now: Instant,
        broker: BrokerId,
        code: ErrorCode,
        session: i32,
    ) -> Result<bool, Mismatch> {
        let Some(queue) = self.queues.get_mut(&broker) else { return Ok(false) };
        let result = queue.session.handle_answer(code, session);
        if result.is_err() || code.is_ok() {
            return result.map(|()| true);
        }
        queue.in_flight = false;
        self.troubled = true;
        // A lost session is nobody's fault: the next request asks anew at once. A second error in a row waits.
        let lost_session = matches!(
            code,
            ErrorCode::FETCH_SESSION_ID_NOT_FOUND
                | ErrorCode::INVALID_FETCH_SESSION_EPOCH
                | ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR
        ) && !queue.full;
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor_mut(slot) else { continue };
            match cursor.state {
                State::Fetching(position, from) if from == broker && lost_session => {
                    cursor.enter(now, State::Ready(position));
                }
                State::Fetching(_, from) if from == broker => self.back_off(now, slot, Reason::Code(code)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The number of a topic that an answer names.
    #[must_use]
    pub fn topic_of(&self, key: TopicKey<'_>) -> Option<u32> {
        match key {
            TopicKey::Id(id) => self.by_id.get(&id).copied(),
            TopicKey::Name(name) => self.topic_by_name(name),
        }
    }

    /// What was asked of a partition.
    ///
    /// # Errors
    /// It was not asked for.
    pub fn expect(&self, broker: BrokerId, topic: u32, partition: PartitionId) -> Result<Expected, Mismatch> {
        let entry = self.queues.get(&broker).and_then(|queue| queue.session.entry((topic, partition)));
        let Some(entry) = entry else {
            let name = self.topics.get(topic as usize).map_or("", |topic| &topic.name);
            return Err(Mismatch(format!("the answer is about {name}-{partition}, which was not asked for")));
        };
        let wanted = self.cursor(entry.slot).is_some_and(|cursor| {
            cursor.generation == entry.generation
                && matches!(cursor.state, State::Fetching(_, from) if from == broker)
        });
        let ticket = Ticket { slot: entry.slot, generation: entry.generation };
        Ok(if wanted { Expected::News { ticket, asked: entry.asked } } else { Expected::Stale })
    }

    /// One partition of an answer. A second word about the same partition changes nothing.
    pub fn handle_partition(
        &mut self,
        now: Instant,
        broker: BrokerId,
        ticket: Ticket,
        answer: &PartitionAnswer,
    ) -> Outcome {
        let replica_window = self.settings.replica_window;
        let Some(cursor) = self.current(ticket) else { return Outcome::Nothing };
        let State::Fetching(position, from) = cursor.state else { return Outcome::Nothing };
        if from != broker {
            return Outcome::Nothing;
        }
        if !answer.code.is_ok() {
            self.troubled = true;
            self.handle_error(now, broker, ticket.slot, position, answer);
            return Outcome::Trouble;
        }
        cursor.high_watermark = answer.high_watermark.or(cursor.high_watermark);
        cursor.last_stable = answer.last_stable_offset.or(cursor.last_stable);
        cursor.log_start = answer.log_start.or(cursor.log_start);
        if let Some(at) = answer.diverged_at {
            self.troubled = true;
            self.lose(now, ticket.slot, Reason::parted(position.offset, Some(at)));
            return Outcome::Trouble;
        }
        match &answer.read {
            Ok(Some(read)) if read.next > position.offset => {
                cursor.succeed();
                cursor.forget_end();
                cursor.buffered += read.bytes;
                let count = cursor.delivering.map_or(0, |(_, count)| count);
                cursor.delivering = Some((broker, count + 1));
                let next = Position { offset: read.next, epoch: read.epoch.or(position.epoch) };
                cursor.enter(now, State::Ready(next));
                if cursor.asked_under == cursor.leader {
                    cursor.validated = cursor.leader;
                }
                cursor.brought = true;
                if let Some(queue) = self.queues.get_mut(&broker) {
                    queue.brought = true;
                }
                Outcome::Deliver
            }
            Ok(_) => {
                cursor.succeed();
                cursor.enter(now, State::Ready(position));
                cursor.brought_nothing = answer.preferred.is_none();
                if let Some(replica) = answer.preferred.filter(|&replica| replica != broker) {
                    cursor.preferred = Some((replica, now + replica_window));
                    self.troubled = true;
                    self.relist(now, ticket.slot);
                }
                Outcome::Nothing
            }
            Err(text) => {
                self.handle_unreadable(now, ticket.slot, Arc::clone(text));
                Outcome::Trouble
            }
        }
    }

    /// All of an answer was handled. `throttle`: how long the broker wants to be left alone.
    pub fn handle_end(&mut self, now: Instant, broker: BrokerId, throttle: Duration) {
        let Some(queue) = self.queues.get_mut(&broker) else { return };
        queue.in_flight = false;
        let full = queue.full;
        let alone = !queue.brought;
        if !throttle.is_zero() {
            queue.not_before = Some(now + throttle);
            self.troubled = true;
        }
        if throttle.is_zero() || !alone {
            queue.denied = None;
        } else {
            queue.denied.get_or_insert(Denied { since: now, reported: None });
        }
        // Who brought data goes last.
        if std::mem::take(&mut queue.brought) {
            let mut order = std::mem::take(&mut queue.order);
            let mut last = Vec::new();
            order.retain(|&slot| {
                let brought = self.cursor_mut(slot).is_some_and(|cursor| std::mem::take(&mut cursor.brought));
                if brought {
                    last.push(slot);
                }
                !brought
            });
            order.append(&mut last);
            if let Some(queue) = self.queues.get_mut(&broker) {
                queue.order = order;
            }
        }
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor_mut(slot) else { continue };
            let named = std::mem::take(&mut cursor.brought_nothing);
            let unnamed = match cursor.state {
                State::Fetching(position, from) if from == broker => Some(position),
                _ => None,
            };
            if let Some(position) = unnamed {
                // A session's answer names only what has news; and a broker that holds back names nothing.
                if full && throttle.is_zero() {
                    self.back_off(now, slot, Reason::NotNamed);
                    continue;
                }
                cursor.enter(now, State::Ready(position));
            }
            if (named || unnamed.is_some()) && throttle.is_zero() {
                self.handle_nothing(now, slot, alone);
            }
        }
        // Leaders that changed while they were asked.
        let wants = |cursor: &super::cursor::Cursor| cursor.needs_validation() && !cursor.rests();
        self.troubled |= self.slots.iter().flatten().any(wants);
    }

    /// The records of a part went to the application's queue.
    pub fn on_delivered(&mut self, ticket: Ticket) {
        if let Some(cursor) = self.current(ticket) {
            cursor.delivering = match cursor.delivering {
                Some((broker, count)) if count > 1 => Some((broker, count - 1)),
                _ => None,
            };
        }
    }

    /// Some of what came turned out to be unreadable when it was looked at: what begins at `position`. It is read again from there;
    /// what was asked since, behind it, is not news any more. Tickets stay good for what is before.
    pub fn on_unreadable(&mut self, now: Instant, ticket: Ticket, position: Position, text: Arc<str>) {
        if let Some(cursor) = self.current(ticket) {
            cursor.enter(now, State::Ready(position));
            self.handle_unreadable(now, ticket.slot, text);
        }
    }

    fn handle_unreadable(&mut self, now: Instant, slot: usize, text: Arc<str>) {
        let Some(cursor) = self.cursor_mut(slot) else { return };
        let Some(position) = cursor.position() else { return };
        let tries = match cursor.damaged {
            Some((at, tries)) if at == position.offset => tries + 1,
            _ => 1,
        };
        cursor.damaged = Some((position.offset, tries));
        if tries >= UNREADABLE_TRIES {
            self.fail(now, slot, Reason::Unreadable(text));
        } else {
            self.back_off(now, slot, Reason::Unreadable(text));
        }
    }

    fn handle_error(
        &mut self,
        now: Instant,
        broker: BrokerId,
        slot: usize,
        position: Position,
        answer: &PartitionAnswer,
    ) {
        let code = answer.code;
        let window = self.settings.unknown_window;
        let Some(cursor) = self.cursor_mut(slot) else { return };
        let topic = Arc::clone(&cursor.tp.topic);
        let from_replica = cursor.leader.map(|leader| leader.id) != Some(broker);
        if let Some(leader) = answer.leader.filter(|leader| leader.id.0 >= 0 && leader.epoch.0 >= 0)
            && cursor.leader.and_then(|known| known.epoch) < Some(leader.epoch)
        {
            // The broker says who leads now: no need to wait for the topology (KIP-951).
            cursor.leader = Some(Leader { id: leader.id, epoch: Some(leader.epoch) });
            cursor.preferred = None;
            cursor.enter(now, State::Ready(position));
            self.relist(now, slot);
            return;
        }
        let failing_since = cursor.failing_since;
        if code.refreshes_metadata() {
            self.stale_topics.insert(topic);
        }
        if from_replica {
            // Whatever a replica refuses, the leader may know better.
            self.leave_replica(now, slot, broker);
            if let Some(cursor) = self.cursor_mut(slot) {
                cursor.enter(now, State::Ready(position));
            }
            return;
        }
        if code == ErrorCode::OFFSET_OUT_OF_RANGE {
            let (start, end) = (answer.log_start, answer.high_watermark);
            self.lose(now, slot, Reason::OutOfRange { position: position.offset, start, end });
            return;
        }
        let unknown = code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION || code == ErrorCode::UNKNOWN_TOPIC_ID;
        let too_long =
            unknown && failing_since.is_some_and(|since| now.saturating_duration_since(since) >= window);
        if code.is_retriable() && !too_long {
            self.back_off(now, slot, Reason::Code(code));
        } else {
            self.fail(now, slot, Reason::Code(code));
        }
    }

    /// The records at the position are gone.
    pub(super) fn lose(&mut self, now: Instant, slot: usize, reason: Reason) {
        let loss = self.settings.loss;
        let Some(cursor) = self.cursor_mut(slot) else { return };
        match (loss, &reason) {
            (Loss::Error, _) => self.fail(now, slot, reason),
            (Loss::Reset(_), &Reason::Truncated { at: Some(at), .. }) => {
                tracing::warn!(partition = %cursor.tp, %reason, "records were lost; reading goes on there");
                cursor.enter(now, State::Ready(Position::from(at)));
            }
            (Loss::Reset(start), _) => {
                tracing::warn!(partition = %cursor.tp, %reason, ?start, "the position is reset");
                let state = match start {
                    Start::At(position) => State::Ready(position),
                    start => State::Resetting { start, asked: false, not_before: None },
                };
                cursor.enter(now, state);
            }
        }
    }

    pub(super) fn back_off(&mut self, now: Instant, slot: usize, reason: Reason) {
        let Some(failures) = self.cursor(slot).map(|cursor| cursor.failures) else { return };
        let delay = self.settings.backoff.delay(failures, &mut self.rng);
        self.back_off_for(now, slot, reason, delay);
    }

    pub(super) fn back_off_for(&mut self, now: Instant, slot: usize, reason: Reason, delay: Duration) {
        let Some(cursor) = self.cursor_mut(slot) else { return };
        let failures = cursor.failures;
        let Some(position) = cursor.position() else { return };
        cursor.failures = failures.saturating_add(1);
        cursor.failing_since.get_or_insert(now);
        cursor.enter(now, State::BackOff { position, until: now + delay, reason });
        self.troubled = true;
    }

    /// Goes back to the leader, if this broker was read in its stead.
    pub(super) fn leave_replica(&mut self, now: Instant, slot: usize, broker: BrokerId) {
        if let Some(cursor) = self.cursor_mut(slot)
            && cursor.preferred.is_some_and(|(replica, _)| replica == broker)
        {
            cursor.preferred = None;
            self.relist(now, slot);
        }
    }
}
