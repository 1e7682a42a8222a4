//! What a test looks at, or does, behind the protocol's back.

use std::time::Instant;

use bytes::Bytes;

use super::Broker;

/// A batch in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedBatch {
    /// Its first offset.
    pub base_offset: i64,
    /// Its last offset.
    pub last_offset: i64,
    /// The leader epoch it was written in.
    pub leader_epoch: i32,
    /// The batch as Fetch gives it.
    pub bytes: Bytes,
}

/// A transactional id as the coordinator knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionView {
    /// Kafka's name of its state, such as `CompleteCommit`.
    pub state: &'static str,
    /// Its producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Start of its transaction in milliseconds since 1970; `None` after InitProducerId.
    pub start_ms: Option<i64>,
    /// Partitions without marker, by topic and number.
    pub partitions: Vec<(String, i32)>,
}

impl Broker {
    /// How many requests of an API were taken so far, those with faults included.
    #[must_use]
    pub fn requests(&self, api_key: i16) -> u64 {
        self.counts.get(&api_key).copied().unwrap_or(0)
    }

    /// How many connections have sent something and are open.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// The names of the topics.
    pub fn topic_names(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|(name, _)| name)
    }

    /// Creates a topic, unless there is one of that name. False if there is.
    pub fn create_topic(&mut self, name: &str, partitions: i32) -> bool {
        let new = self.topics.by_name(name).is_none();
        if new {
            self.topics.create(name, partitions, Default::default());
        }
        new
    }

    /// Deletes a topic and creates it anew, with another id and an empty log. False if there was none.
    pub fn recreate_topic(&mut self, name: &str, partitions: i32) -> bool {
        let known = self.topics.delete(name).is_some();
        if known {
            self.topics.create(name, partitions, Default::default());
            self.touched = true;
        }
        known
    }

    /// The batches of a partition, markers included; empty if it does not exist.
    pub fn log(&self, topic: &str, partition: i32) -> impl Iterator<Item = LoggedBatch> {
        self.topics.partition(topic, partition).into_iter().flat_map(|log| {
            log.batches().map(|batch| LoggedBatch {
                base_offset: batch.base,
                last_offset: batch.last,
                leader_epoch: batch.leader_epoch,
                bytes: batch.bytes.clone(),
            })
        })
    }

    /// Log start, last stable offset and log end of a partition.
    #[must_use]
    pub fn offsets(&self, topic: &str, partition: i32) -> Option<(i64, i64, i64)> {
        self.topics.partition(topic, partition).map(|log| (log.start(), log.stable(), log.end()))
    }

    /// A group's committed offset.
    #[must_use]
    pub fn committed_offset(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.groups.committed(group, &(topic.to_owned(), partition))
    }

    /// What the coordinator knows of a transactional id.
    #[must_use]
    pub fn transaction(&self, transactional_id: &str) -> Option<TransactionView> {
        self.coordinator.find(transactional_id).map(|transaction| TransactionView {
            state: transaction.state.name(),
            producer_id: transaction.identity.id,
            producer_epoch: transaction.identity.epoch,
            start_ms: transaction.start_ms,
            partitions: transaction.partitions.iter().cloned().collect(),
        })
    }

    /// Forgets a transactional id, as Kafka does after `transactional.id.expiration.ms`. False if it is unknown.
    pub fn expire_transactional_id(&mut self, transactional_id: &str) -> bool {
        self.coordinator.expire(transactional_id)
    }

    /// Sets the epoch of a transactional id, to bring it near exhaustion (32766). False if it is unknown.
    pub fn set_producer_epoch(&mut self, transactional_id: &str, epoch: i16) -> bool {
        self.coordinator.set_epoch(transactional_id, epoch)
    }

    /// How many fetch sessions the broker holds.
    #[must_use]
    pub fn fetch_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Forgets all fetch sessions, as Kafka does with those that others need the room of.
    pub fn forget_fetch_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Forgets a producer id in all partitions where it has no open transaction, as Kafka does after
    /// `producer.id.expiration.ms`.
    pub fn forget_producer(&mut self, producer_id: i64) {
        self.topics.for_each_log(|log| log.forget_producer(producer_id));
    }

    /// Forgets all producer ids in this way.
    pub fn forget_producers(&mut self) {
        self.topics.for_each_log(|log| log.forget_producers());
    }

    /// Loses what is before an offset, as retention does. False if there is no such partition.
    pub fn lose_before(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        self.touched = true;
        self.topics.partition_mut(topic, partition).map(|log| log.delete_before(offset)).is_some()
    }

    /// Loses what is at and after an offset (whole batches), as an unclean leader election does, in a new leader epoch.
    /// False if there is no such partition.
    pub fn truncate(&mut self, topic: &str, partition: i32, offset: i64) -> bool {
        self.touched = true;
        self.topics.partition_mut(topic, partition).map(|log| log.truncate(offset)).is_some()
    }

    /// Puts these bytes, as they are, in the place of the batch that holds an offset: what a disk does that flips a bit, or what the broker
    /// would not have taken. False if there is none.
    pub fn replace_batch(&mut self, topic: &str, partition: i32, offset: i64, bytes: Bytes) -> bool {
        self.topics.partition_mut(topic, partition).is_some_and(|log| log.replace(offset, bytes))
    }

    /// Begins a new leader epoch, as an election does. False if there is no such partition.
    pub fn bump_leader_epoch(&mut self, topic: &str, partition: i32) -> bool {
        self.touched = true;
        self.topics.partition_mut(topic, partition).map(|log| log.bump_leader_epoch()).is_some()
    }

    /// Takes a partition's leader away, or gives it back: without one, requests are answered NOT_LEADER_OR_FOLLOWER and
    /// markers wait. What waits is looked at again with the next request or tick. False if there is no such topic.
    pub fn set_leaderless(&mut self, topic: &str, partition: i32, leaderless: bool) -> bool {
        self.touched = true;
        let Some(topic) = self.topics.by_name_mut(topic) else { return false };
        if leaderless {
            topic.leaderless.insert(partition);
        } else {
            topic.leaderless.remove(&partition);
        }
        true
    }

    /// The next marker for a partition is not written although the coordinator believes so: the hanging transaction of
    /// Kafka 4.3 with a leaderless partition. False if there is no such topic.
    pub fn lose_next_marker(&mut self, topic: &str, partition: i32) -> bool {
        self.topics.by_name_mut(topic).map(|topic| topic.lost_markers.insert(partition)).is_some()
    }

    /// Looks for expired transactions at once instead of at the next periodic check. Markers follow as configured.
    pub fn check_transactions(&mut self, now: Instant) {
        self.abort_expired(now);
        self.wake(now);
    }
}
