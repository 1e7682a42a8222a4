//! The topology of a cluster: brokers, topics, leaders, as an immutable snapshot.
//!
//! A [`Cluster`] is made from metadata answers. [`Cluster::merge`] builds the next snapshot from the last one:
//!
//! ```text
//! Cluster (generation n) + MetadataResponse + Scope -> Cluster (generation n + 1)
//! ```
//!
//! # Invariants
//! - The leader epoch of a partition never goes back while the topic is the same one (same id, or ids unknown):
//!   an answer from a broker that lags behind changes nothing (KIP-320).
//! - Another cluster id starts from nothing: epochs of different clusters do not compare.
//! - What was not asked is not forgotten: an answer for some topics leaves the others as they were.
//!
//! # References
//! <https://kafka.apache.org/protocol#The_Messages_Metadata>, KIP-320 (leader epochs), KIP-516 (topic ids).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::MetadataResponse;
use milena_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use milena_protocol::types::{BrokerId, LeaderEpoch, PartitionId, TopicPartition};
use uuid::Uuid;

/// What a metadata request asked for; says what an absent topic means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All topics were asked: one that is absent from the answer does not exist.
    All,
    /// Some topics were asked: the others stay as they were.
    Some,
}

/// A snapshot of a cluster's topology.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    generation: u64,
    id: Option<Arc<str>>,
    controller: Option<BrokerId>,
    brokers: BTreeMap<BrokerId, Broker>,
    topics: HashMap<Arc<str>, Arc<Topic>>,
    errors: HashMap<Arc<str>, ErrorCode>,
}

/// A broker as the cluster advertises it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its node id.
    pub id: BrokerId,
    /// The host name or address that clients shall use.
    pub host: Arc<str>,
    /// The TCP port.
    pub port: u16,
    /// The rack, when the broker has one.
    pub rack: Option<Arc<str>>,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The name.
    pub name: Arc<str>,
    /// The topic id (brokers since 2.8, Metadata v10); `None` when the broker did not tell.
    pub id: Option<Uuid>,
    /// Whether the topic belongs to Kafka itself, such as `__consumer_offsets`.
    pub internal: bool,
    /// The partitions by number.
    pub partitions: BTreeMap<PartitionId, PartitionInfo>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// The number.
    pub id: PartitionId,
    /// The leader; `None` while there is none.
    pub leader: Option<BrokerId>,
    /// The leader epoch (Metadata v7); `None` when the broker did not tell.
    pub leader_epoch: Option<LeaderEpoch>,
    /// All replicas, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// The in-sync replicas.
    pub isr: Vec<BrokerId>,
    /// What the broker said about the partition, when it was not "no error".
    pub error: Option<ErrorCode>,
}

impl Topic {
    /// How many partitions the topic has.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&PartitionInfo> {
        self.partitions.get(&id)
    }
}

impl Cluster {
    /// A cluster nothing is known of.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many answers made this snapshot; grows with each [`Cluster::merge`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The cluster id (Metadata v2).
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The broker that takes requests for the controller.
    #[must_use]
    pub fn controller(&self) -> Option<BrokerId> {
        self.controller
    }

    /// All brokers by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    /// One broker.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// All known topics in no order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// One topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic with this id.
    #[must_use]
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.values().find(|topic| topic.id == Some(id))
    }

    /// Why the last answer about this topic had no topic in it.
    #[must_use]
    pub fn topic_error(&self, name: &str) -> Option<ErrorCode> {
        self.errors.get(name).copied()
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, tp: &TopicPartition) -> Option<&PartitionInfo> {
        self.topic(&tp.topic)?.partition(tp.partition)
    }

    /// The leader of a partition, when there is one.
    #[must_use]
    pub fn leader(&self, tp: &TopicPartition) -> Option<BrokerId> {
        self.partition(tp)?.leader
    }

    /// The leader epoch of a partition.
    #[must_use]
    pub fn leader_epoch(&self, tp: &TopicPartition) -> Option<LeaderEpoch> {
        self.partition(tp)?.leader_epoch
    }

    /// The next snapshot: this one with an answer merged in. See the module for what never goes back.
    #[must_use]
    pub fn merge(&self, response: &MetadataResponse, scope: Scope) -> Self {
        let id = response.cluster_id.as_ref().map(|id| Arc::<str>::from(id.as_str()));
        let moved = matches!((&self.id, &id), (Some(old), Some(new)) if old != new);
        let mut next = if moved { Self::default() } else { self.clone() };
        next.generation = self.generation + 1;
        next.id = id.or(next.id);
        next.controller = (response.controller_id.0 >= 0).then_some(BrokerId(response.controller_id.0));
        // A broker that is still starting knows no brokers: that is no news.
        if !response.brokers.is_empty() {
            next.brokers =
                response.brokers.iter().filter_map(read_broker).map(|broker| (broker.id, broker)).collect();
        }
        let before = match scope {
            Scope::All => {
                next.errors.clear();
                std::mem::take(&mut next.topics)
            }
            Scope::Some => next.topics.clone(),
        };
        for topic in &response.topics {
            let Some(name) = topic.name.as_ref().map(|name| name.as_str()) else { continue };
            next.merge_topic(name, topic, before.get(name));
        }
        next
    }

    fn merge_topic(&mut self, name: &str, answer: &MetadataResponseTopic, before: Option<&Arc<Topic>>) {
        let name = before.map_or_else(|| Arc::<str>::from(name), |topic| Arc::clone(&topic.name));
        let code = ErrorCode(answer.error_code);
        if !code.is_ok() {
            let gone = code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION || code == ErrorCode::UNKNOWN_TOPIC_ID;
            match before {
                // LEADER_NOT_AVAILABLE and the like say "not now": the old knowledge is the best there is.
                Some(topic) if !gone => {
                    self.topics.insert(Arc::clone(&name), Arc::clone(topic));
                }
                _ => {
                    self.topics.remove(&name);
                }
            }
            self.errors.insert(name, code);
            return;
        }
        self.errors.remove(&name);
        let id = (!answer.topic_id.is_nil()).then_some(answer.topic_id);
        let same = before.filter(|topic| match (topic.id, id) {
            (Some(old), Some(new)) => old == new,
            _ => true,
        });
        // A topic never loses partitions: with equal ids, an answer with fewer of them is an old one.
        let mut partitions = match same {
            Some(topic) if topic.id.is_some() && topic.id == id => topic.partitions.clone(),
            _ => BTreeMap::new(),
        };
        for partition in &answer.partitions {
            let new = read_partition(partition);
            let old = same.and_then(|topic| topic.partitions.get(&new.id));
            partitions.insert(new.id, newer(old, new));
        }
        let topic = Topic { name: Arc::clone(&name), id, internal: answer.is_internal, partitions };
        self.topics.insert(name, Arc::new(topic));
    }
}

fn newer(old: Option<&PartitionInfo>, new: PartitionInfo) -> PartitionInfo {
    match old {
        Some(old) if new.leader_epoch.is_some() && new.leader_epoch < old.leader_epoch => old.clone(),
        _ => new,
    }
}

fn read_broker(
    answer: &milena_protocol::messages::metadata_response::MetadataResponseBroker,
) -> Option<Broker> {
    Some(Broker {
        id: BrokerId(answer.node_id.0),
        host: Arc::from(answer.host.as_str()),
        port: u16::try_from(answer.port).ok()?,
        rack: answer.rack.as_ref().map(|rack| Arc::from(rack.as_str())),
    })
}

fn read_partition(answer: &MetadataResponsePartition) -> PartitionInfo {
    let brokers =
        |nodes: &[milena_protocol::messages::BrokerId]| nodes.iter().map(|node| BrokerId(node.0)).collect();
    let code = ErrorCode(answer.error_code);
    PartitionInfo {
        id: PartitionId(answer.partition_index),
        leader: (answer.leader_id.0 >= 0).then_some(BrokerId(answer.leader_id.0)),
        leader_epoch: (answer.leader_epoch >= 0).then_some(LeaderEpoch(answer.leader_epoch)),
        replicas: brokers(&answer.replica_nodes),
        isr: brokers(&answer.isr_nodes),
        error: (!code.is_ok()).then_some(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::StrBytes;
    use milena_protocol::messages::metadata_response::MetadataResponseBroker;
    use milena_protocol::messages::{BrokerId as WireBroker, TopicName};
    use proptest::prelude::*;

    fn text(value: &str) -> StrBytes {
        StrBytes::from_string(value.to_owned())
    }

    fn partition(index: i32, leader: i32, epoch: i32) -> MetadataResponsePartition {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(WireBroker(leader))
            .with_leader_epoch(epoch)
    }

    fn topic(name: &str, id: u128, partitions: Vec<MetadataResponsePartition>) -> MetadataResponseTopic {
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(text(name))))
            .with_topic_id(Uuid::from_u128(id))
            .with_partitions(partitions)
    }

    fn answer(cluster: &str, topics: Vec<MetadataResponseTopic>) -> MetadataResponse {
        let broker = |id: i32| {
            MetadataResponseBroker::default()
                .with_node_id(WireBroker(id))
                .with_host(text("h"))
                .with_port(9092)
        };
        MetadataResponse::default()
            .with_cluster_id(Some(text(cluster)))
            .with_controller_id(WireBroker(1))
            .with_brokers(vec![broker(1), broker(2)])
            .with_topics(topics)
    }

    fn leader(cluster: &Cluster, name: &str, index: i32) -> Option<i32> {
        cluster.leader(&TopicPartition::new(name, PartitionId(index))).map(|id| id.0)
    }

    #[test]
    fn leader_epochs_never_go_back_for_the_same_topic() {
        let one =
            Cluster::new().merge(&answer("c", vec![topic("t", 7, vec![partition(0, 1, 5)])]), Scope::Some);
        let two = one.merge(&answer("c", vec![topic("t", 7, vec![partition(0, 2, 4)])]), Scope::Some);
        assert_eq!(leader(&two, "t", 0), Some(1));
        let three = two.merge(&answer("c", vec![topic("t", 7, vec![partition(0, 2, 6)])]), Scope::Some);
        assert_eq!(leader(&three, "t", 0), Some(2));
        assert_eq!(three.generation(), 3);
    }

    #[test]
    fn a_recreated_topic_starts_with_low_epochs() {
        let one =
            Cluster::new().merge(&answer("c", vec![topic("t", 7, vec![partition(0, 1, 5)])]), Scope::Some);
        let two = one.merge(&answer("c", vec![topic("t", 8, vec![partition(0, 2, 0)])]), Scope::Some);
        assert_eq!(leader(&two, "t", 0), Some(2));
        assert_eq!(two.topic("t").and_then(|topic| topic.id), Some(Uuid::from_u128(8)));
    }

    #[test]
    fn another_cluster_id_forgets_everything() {
        let one =
            Cluster::new().merge(&answer("c", vec![topic("t", 7, vec![partition(0, 1, 5)])]), Scope::Some);
        let two = one.merge(&answer("d", vec![topic("u", 9, vec![partition(0, 2, 0)])]), Scope::Some);
        assert!(two.topic("t").is_none());
        assert_eq!(leader(&two, "u", 0), Some(2));
    }

    #[test]
    fn an_answer_for_all_topics_removes_those_that_are_gone_and_one_for_some_does_not() {
        let both = vec![topic("t", 7, vec![partition(0, 1, 5)]), topic("u", 8, vec![partition(0, 1, 5)])];
        let one = Cluster::new().merge(&answer("c", both), Scope::All);
        let only = vec![topic("t", 7, vec![partition(0, 1, 5)])];
        assert!(one.merge(&answer("c", only.clone()), Scope::Some).topic("u").is_some());
        assert!(one.merge(&answer("c", only), Scope::All).topic("u").is_none());
    }

    #[test]
    fn a_topic_error_is_kept_until_the_topic_is_answered() {
        let one =
            Cluster::new().merge(&answer("c", vec![topic("t", 7, vec![partition(0, 1, 5)])]), Scope::Some);
        let not_now = topic("t", 7, vec![]).with_error_code(ErrorCode::LEADER_NOT_AVAILABLE.0);
        let two = one.merge(&answer("c", vec![not_now]), Scope::Some);
        assert_eq!(leader(&two, "t", 0), Some(1));
        assert_eq!(two.topic_error("t"), Some(ErrorCode::LEADER_NOT_AVAILABLE));
        let gone = topic("t", 0, vec![]).with_error_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0);
        let three = two.merge(&answer("c", vec![gone]), Scope::Some);
        assert!(three.topic("t").is_none());
        let back = three.merge(&answer("c", vec![topic("t", 9, vec![partition(0, 2, 0)])]), Scope::Some);
        assert_eq!(back.topic_error("t"), None);
    }

    #[test]
    fn an_old_answer_with_fewer_partitions_takes_none_away() {
        let two = vec![topic("t", 7, vec![partition(0, 1, 5), partition(1, 2, 5)])];
        let one = Cluster::new().merge(&answer("c", two), Scope::Some);
        let next = one.merge(&answer("c", vec![topic("t", 7, vec![partition(0, 1, 5)])]), Scope::Some);
        assert_eq!(leader(&next, "t", 1), Some(2));
    }

    proptest! {
        #[test]
        fn any_order_of_answers_ends_at_the_highest_epoch(epochs in proptest::collection::vec(0i32..20, 1..20)) {
            let mut cluster = Cluster::new();
            for &epoch in &epochs {
                // The leader tells the epoch it was chosen in.
                let answer = answer("c", vec![topic("t", 7, vec![partition(0, 100 + epoch, epoch)])]);
                cluster = cluster.merge(&answer, Scope::Some);
            }
            let highest = epochs.iter().max().copied();
            prop_assert_eq!(leader(&cluster, "t", 0), highest.map(|epoch| 100 + epoch));
        }
    }
}
