//! Several nodes in front of one set of logs: who leads what, who may be asked, and how long it takes until followers have a batch.
//!
//! All nodes share this state machine, so a follower is never behind but in one respect: what was appended less than
//! [`replication_lag`](super::BrokerConfig::replication_lag) ago has not reached it. If the partition moves to another node within that
//! time, those records are gone, and a Produce with acks -1 that waits for them is answered NOT_LEADER_OR_FOLLOWER: as on Kafka the client
//! cannot know what became of them.

use std::time::Instant;

use milena_protocol::ErrorCode;
use milena_protocol::messages::ProduceResponse;
use milena_protocol::messages::produce_response::PartitionProduceResponse;

use super::connection::{Reply, Wait};
use super::topics::Topic;
use super::{Broker, BrokerConfig, ConnectionId, Outcome};

impl BrokerConfig {
    /// The ids of the nodes.
    pub(super) fn node_ids(&self) -> impl Iterator<Item = i32> + use<> {
        let first = self.node_id;
        (0..self.nodes.max(1)).map(move |place| first + place)
    }

    /// The port of a node: the first node's, and one more for each after it.
    pub(super) fn port_of(&self, node: i32) -> i32 {
        i32::from(self.port) + (node - self.node_id)
    }

    /// The node at an address that the broker announces.
    #[must_use]
    pub fn node_at(&self, host: &str, port: u16) -> Option<i32> {
        let node = self.node_id + i32::from(port.checked_sub(self.port)?);
        (host == self.host && self.node_ids().any(|id| id == node)).then_some(node)
    }
}

impl Topic {
    /// Who leads a partition; `None` if nobody does.
    pub(super) fn leader(&self, partition: i32, config: &BrokerConfig) -> Option<i32> {
        if self.leaderless.contains(&partition) {
            return None;
        }
        // Spread over the nodes until a leader is moved.
        let usual = config.node_id + partition.checked_rem(config.nodes.max(1)).unwrap_or(0);
        Some(self.leaders.get(&partition).copied().unwrap_or(usual))
    }
}

/// A batch that has not reached the followers yet.
#[derive(Debug)]
pub(super) struct Unreplicated {
    pub(super) at: Instant,
    pub(super) topic: String,
    pub(super) partition: i32,
    /// The log's end behind it.
    pub(super) end: i64,
}

/// Where a batch of a request has to be before the request is answered.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) end: i64,
    pub(super) epoch: i32,
}

impl Broker {
    /// The node that a connection was made to; without this call it is the first one.
    pub fn attach(&mut self, connection: ConnectionId, node: i32) {
        self.attached.insert(connection, node);
    }

    pub(super) fn node_of(&self, connection: ConnectionId) -> i32 {
        self.attached.get(&connection).copied().unwrap_or(self.config.node_id)
    }

    /// The node that leads a partition; `None` if nobody does, or there is no such topic.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        self.topics.by_name(topic)?.leader(partition, &self.config)
    }

    /// Another node leads a partition from now on, in a new leader epoch. What has not reached the followers is lost. False if there is no
    /// such partition.
    pub fn move_leader(&mut self, topic: &str, partition: i32, node: i32) -> bool {
        let Some(known) = self.topics.by_name_mut(topic) else { return false };
        known.leaders.insert(partition, node);
        let Some(log) = known.partition_mut(partition) else { return false };
        let before = self.unreplicated.len();
        self.unreplicated.retain(|one| one.partition != partition || one.topic != topic);
        if self.unreplicated.len() < before {
            log.truncate(log.replicated());
        } else {
            log.bump_leader_epoch();
        }
        self.touched = true;
        true
    }

    /// Notes that a batch was appended; the followers have it after a while.
    pub(super) fn on_appended(&mut self, now: Instant, topic: &str, partition: i32) {
        let Some(log) = self.topics.partition_mut(topic, partition) else { return };
        if self.config.replication_lag.is_zero() {
            log.set_replicated(log.end());
            return;
        }
        let (at, end) = (now + self.config.replication_lag, log.end());
        self.unreplicated.push_back(Unreplicated { at, topic: topic.to_owned(), partition, end });
    }

    /// Lets the followers catch up.
    pub(super) fn replicate(&mut self, now: Instant) {
        let due = self.unreplicated.partition_point(|one| one.at <= now);
        for one in self.unreplicated.drain(..due).collect::<Vec<_>>() {
            if let Some(log) = self.topics.partition_mut(&one.topic, one.partition) {
                log.set_replicated(one.end);
                self.touched = true;
            }
        }
    }

    /// Answers a Produce as soon as the followers have its batches, or cannot get them any more.
    pub(super) fn when_replicated(
        &self,
        reply: &Reply,
        mut response: Box<ProduceResponse>,
        held: Vec<Held>,
    ) -> Outcome {
        let mut waits = false;
        for one in &held {
            let log = self.topics.partition(&one.topic, one.partition);
            match log.map(|log| (log.leader_epoch(), log.replicated())) {
                Some((epoch, _)) if epoch != one.epoch => self.lose(&mut response, one),
                Some((_, replicated)) => waits |= replicated < one.end,
                None => self.lose(&mut response, one),
            }
        }
        if waits {
            return Outcome::Wait(Wait::Replicas { reply: reply.clone(), response, held });
        }
        (*response).into()
    }

    /// The leader of a partition changed while a request waited for its followers.
    fn lose(&self, response: &mut ProduceResponse, lost: &Held) {
        let id = self.topics.by_name(&lost.topic).map(|topic| topic.id);
        let mut answers = response.responses.iter_mut().filter(|topic| {
            if topic.topic_id.is_nil() { *topic.name.0 == *lost.topic } else { Some(topic.topic_id) == id }
        });
        let found = answers.find_map(|topic| {
            topic.partition_responses.iter_mut().find(|answer| answer.index == lost.partition)
        });
        if let Some(found) = found.filter(|found| found.error_code == ErrorCode::NONE.0) {
            *found = PartitionProduceResponse::default()
                .with_index(lost.partition)
                .with_base_offset(-1)
                .with_error_code(ErrorCode::NOT_LEADER_OR_FOLLOWER.0);
        }
    }
}
