//! What the next request to a broker asks for.

use std::sync::Arc;
use std::time::Instant;

use milena_protocol::fetch::TOPIC_IDS_FROM;
use milena_protocol::types::{BrokerId, PartitionId};
use uuid::Uuid;

use super::cursor::{Reason, State};
use super::cursors::Cursors;
use super::session::{Asked, SessionHead, Wanted};

/// The first version of Fetch with sessions.
const SESSIONS_FROM: i16 = 7;

/// That there is something to be asked of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wants {
    /// Whether every topic has an id, so that a version that names them by id alone can be used.
    pub by_id: bool,
}

/// A request.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The session.
    pub session: SessionHead,
    /// What is asked: everything, or what changed in the session. The partitions of a topic stand together as far as their
    /// order allows.
    pub partitions: Vec<PlannedPartition>,
    /// What the session shall forget.
    pub forgotten: Vec<ForgottenPartition>,
    /// How many partitions the broker will read.
    pub reading: usize,
}

impl Plan {
    /// A request for nothing, outside of any session.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            session: SessionHead { id: 0, epoch: -1 },
            partitions: Vec::new(),
            forgotten: Vec::new(),
            reading: 0,
        }
    }
}

/// One partition of a request.
#[derive(Clone, PartialEq, Debug)]
pub struct PlannedPartition {
    /// Its topic.
    pub topic: Arc<str>,
    /// The topic's id, if the cluster gave one.
    pub topic_id: Option<Uuid>,
    /// Its number.
    pub partition: PartitionId,
    /// What is asked of it.
    pub asked: Asked,
}

/// One partition that a session shall forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForgottenPartition {
    /// Its topic.
    pub topic: Arc<str>,
    /// The id under which the broker holds it.
    pub topic_id: Option<Uuid>,
    /// Its number.
    pub partition: PartitionId,
}

impl Cursors {
    /// Whether a request to this broker has something to ask for now. One request at a time.
    #[must_use]
    pub fn wants(&self, now: Instant, broker: BrokerId) -> Option<Wants> {
        let queue = self.queues.get(&broker)?;
        if queue.in_flight || queue.rests_until(now).is_some() {
            return None;
        }
        let mut any = false;
        let mut by_id = true;
        for cursor in queue.order.iter().filter_map(|&slot| self.cursor(slot)) {
            any |= cursor.is_fetchable(broker) && cursor.target(now) == Some(broker);
            by_id &= self.topics.get(cursor.topic as usize).is_some_and(|topic| topic.id.is_some());
            if any && !by_id {
                break;
            }
        }
        any.then_some(Wants { by_id })
    }

    /// The next request to this broker waits for room in the buffer, or does not any more.
    pub fn on_starved(&mut self, broker: BrokerId, starved: bool) {
        if let Some(queue) = self.queues.get_mut(&broker) {
            queue.starved = starved;
        }
    }

    /// The next request to this broker, in this version of Fetch; `None` if there is nothing to ask for. It counts as sent.
    /// If the one before was never answered it counts as lost.
    pub fn poll_request(&mut self, now: Instant, broker: BrokerId, version: i16) -> Option<Plan> {
        if self.queues.get(&broker)?.in_flight {
            self.handle_unsent(now, broker);
        }
        let mut queue = self.queues.remove(&broker)?;
        let plan = self.plan(now, broker, version, &mut queue.order, &mut queue.session);
        queue.in_flight = plan.is_some();
        queue.full = plan.as_ref().is_some_and(|plan| plan.session.epoch <= 0);
        queue.starved = false;
        let order = std::mem::take(&mut queue.order);
        self.queues.insert(broker, queue);
        // The time of a preferred replica may be up.
        let moved: Vec<usize> = order
            .iter()
            .copied()
            .filter(|&slot| self.cursor(slot).is_some_and(|cursor| cursor.target(now) != Some(broker)))
            .collect();
        if let Some(queue) = self.queues.get_mut(&broker) {
            queue.order = order;
        }
        for slot in moved {
            self.relist(now, slot);
        }
        plan
    }

    fn plan(
        &mut self,
        now: Instant,
        broker: BrokerId,
        version: i16,
        order: &mut [usize],
        session: &mut super::session::Session,
    ) -> Option<Plan> {
        let fetchable = |cursors: &Self, slot: usize| {
            cursors.cursor(slot).is_some_and(|cursor| {
                let named = version < TOPIC_IDS_FROM
                    || cursors.topics.get(cursor.topic as usize).is_some_and(|topic| topic.id.is_some());
                named && cursor.is_fetchable(broker) && cursor.target(now) == Some(broker)
            })
        };
        if !order.iter().any(|&slot| fetchable(self, slot)) {
            return None;
        }
        let sessions = version >= SESSIONS_FROM;
        session.begin(sessions);
        let mut plan = Plan {
            session: session.head(sessions),
            partitions: Vec::new(),
            forgotten: Vec::new(),
            reading: 0,
        };
        for &slot in order.iter() {
            if !fetchable(self, slot) {
                continue;
            }
            let Some(cursor) = self.slots.get_mut(slot).and_then(Option::as_mut) else { continue };
            let State::Ready(position) = cursor.state else { continue };
            let Some(topic) = self.topics.get(cursor.topic as usize) else { continue };
            let asked = Asked {
                offset: position.offset,
                last_epoch: position.epoch,
                leader_epoch: Self::leader_epoch(cursor),
            };
            let wanted = Wanted {
                key: (cursor.topic, cursor.tp.partition),
                topic_id: topic.id.filter(|_| version >= TOPIC_IDS_FROM),
                asked,
                slot,
                generation: cursor.generation,
            };
            let (say, old_id) = session.want(&wanted);
            let (name, partition) = (&topic.name, cursor.tp.partition);
            if old_id.is_some() && old_id != wanted.topic_id {
                plan.forgotten.push(ForgottenPartition {
                    topic: Arc::clone(name),
                    topic_id: old_id,
                    partition,
                });
            }
            if say {
                let topic_id = wanted.topic_id;
                plan.partitions.push(PlannedPartition {
                    topic: Arc::clone(name),
                    topic_id,
                    partition,
                    asked,
                });
            }
            plan.reading += 1;
            cursor.asked_under = cursor.leader;
            cursor.enter(now, State::Fetching(position, broker));
        }
        let gone = session.forget();
        plan.forgotten.extend(gone.into_iter().filter_map(|((topic, partition), topic_id)| {
            let topic = Arc::clone(&self.topics.get(topic as usize)?.name);
            Some(ForgottenPartition { topic, topic_id, partition })
        }));
        Some(plan)
    }

    /// A request that was planned did not go out after all.
    pub fn handle_unsent(&mut self, now: Instant, broker: BrokerId) {
        let Some(queue) = self.queues.get_mut(&broker) else { return };
        queue.in_flight = false;
        queue.session.handle_loss();
        for cursor in self.slots.iter_mut().flatten() {
            if let State::Fetching(position, from) = cursor.state
                && from == broker
            {
                cursor.enter(now, State::Ready(position));
            }
        }
    }

    /// A request could not be sent, went unanswered, or its answer cannot be used. The broker's partitions are tried again after a
    /// back-off, wherever their leaders are then.
    pub fn handle_failure(&mut self, now: Instant, broker: BrokerId, reason: &Reason) {
        let Some(queue) = self.queues.get_mut(&broker) else { return };
        queue.in_flight = false;
        queue.session.handle_loss();
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor(slot) else { continue };
            let hit = match cursor.state {
                // Its leader may be another one by now.
                State::Fetching(_, from) => from == broker,
                // What would have been in the next request fares no better.
                State::Ready(_) => cursor.listed == Some(broker) && !cursor.rests(),
                _ => false,
            };
            if !hit {
                continue;
            }
            let topic = Arc::clone(&cursor.tp.topic);
            self.stale_topics.insert(topic);
            self.back_off(now, slot, reason.clone());
            self.leave_replica(now, slot, broker);
        }
    }

    /// The session that this broker still holds, if any: what a goodbye would name.
    #[must_use]
    pub fn held_session(&self, broker: BrokerId) -> Option<i32> {
        self.queues.get(&broker)?.session.held()
    }
}
