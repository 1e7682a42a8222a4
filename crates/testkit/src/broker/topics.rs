//! The topics of the broker and the APIs about them: Metadata, CreateTopics, DeleteTopics, CreatePartitions,
//! DescribeCluster.

use std::collections::{BTreeMap, BTreeSet};

use milena_protocol::ErrorCode;
use milena_protocol::StrBytes;
use milena_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use milena_protocol::messages::create_topics_request::CreatableTopic;
use milena_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use milena_protocol::messages::delete_topics_response::DeletableTopicResult;
use milena_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use milena_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use milena_protocol::messages::{
    self, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, DescribeClusterResponse,
    MetadataRequest, MetadataResponse, TopicName,
};
use uuid::Uuid;

use super::Broker;
use super::log::PartitionLog;
use super::rng::Rng;

/// Most partitions a topic may have here: enough for any test, and a bound for what a request can make us allocate.
const MAX_PARTITIONS: i32 = 100_000;

#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<PartitionLog>,
    pub(crate) configs: BTreeMap<String, String>,
    /// Partitions that no broker leads at present.
    pub(crate) leaderless: BTreeSet<i32>,
    /// Who leads a partition that was moved.
    pub(crate) leaders: BTreeMap<i32, i32>,
    /// Partitions whose next markers get lost.
    pub(crate) lost_markers: BTreeSet<i32>,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<&PartitionLog> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn partition_mut(&mut self, index: i32) -> Option<&mut PartitionLog> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }

    pub(crate) fn config(&self, name: &str) -> Option<&str> {
        self.configs.get(name).map(String::as_str)
    }
}

#[derive(Debug)]
pub(crate) struct Topics {
    by_name: BTreeMap<String, Topic>,
    names: BTreeMap<Uuid, String>,
    rng: Rng,
}

impl Topics {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { by_name: BTreeMap::new(), names: BTreeMap::new(), rng }
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Topic> {
        self.by_name.get(name)
    }

    pub(crate) fn by_name_mut(&mut self, name: &str) -> Option<&mut Topic> {
        self.by_name.get_mut(name)
    }

    pub(crate) fn name_of(&self, id: Uuid) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Topic)> {
        self.by_name.iter().map(|(name, topic)| (name.as_str(), topic))
    }

    pub(crate) fn partition(&self, name: &str, index: i32) -> Option<&PartitionLog> {
        self.by_name(name)?.partition(index)
    }

    pub(crate) fn partition_mut(&mut self, name: &str, index: i32) -> Option<&mut PartitionLog> {
        self.by_name_mut(name)?.partition_mut(index)
    }

    pub(crate) fn for_each_log(&mut self, each: impl FnMut(&mut PartitionLog)) {
        self.by_name.values_mut().flat_map(|topic| &mut topic.partitions).for_each(each);
    }

    pub(crate) fn create(&mut self, name: &str, partitions: i32, configs: BTreeMap<String, String>) -> Uuid {
        let id = Uuid::from_u64_pair(self.rng.next(), self.rng.next() | 1);
        let partitions = (0..partitions.clamp(1, MAX_PARTITIONS)).map(|_| PartitionLog::new()).collect();
        let topic = Topic {
            id,
            partitions,
            configs,
            leaderless: BTreeSet::new(),
            leaders: BTreeMap::new(),
            lost_markers: BTreeSet::new(),
        };
        self.by_name.insert(name.to_owned(), topic);
        self.names.insert(id, name.to_owned());
        id
    }

    pub(crate) fn delete(&mut self, name: &str) -> Option<Topic> {
        let topic = self.by_name.remove(name)?;
        self.names.remove(&topic.id);
        Some(topic)
    }
}

/// Kafka's rule for topic names: 1 to 249 of letters, digits, `.`, `_`, `-`; not `.` nor `..`.
pub(crate) fn valid_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name != "." && name != ".." && name.chars().all(legal)
}

impl Broker {
    pub(super) fn metadata(&mut self, version: i16, request: &MetadataRequest) -> MetadataResponse {
        let mut answers = Vec::new();
        match &request.topics {
            Some(topics) if !(topics.is_empty() && version == 0) => {
                for topic in topics {
                    let name = topic.name.as_ref().map(|name| name.0.to_string());
                    answers.push(match name {
                        Some(name) => {
                            let create = version < 4 || request.allow_auto_topic_creation;
                            self.describe_by_name(version, &name, create)
                        }
                        None => self.describe_by_id(version, topic.topic_id),
                    });
                }
            }
            _ => {
                answers.extend(self.topics.iter().map(|(name, topic)| self.describe(version, name, topic)));
            }
        }
        let brokers = self.config.node_ids().map(|node| {
            MetadataResponseBroker::default()
                .with_node_id(node.into())
                .with_host(StrBytes::from_string(self.config.host.clone()))
                .with_port(self.config.port_of(node))
                .with_rack(self.rack().filter(|_| version >= 1))
        });
        let nobody = self.topics.iter().next().is_none() && self.config.knows_nobody_without_topics();
        MetadataResponse::default()
            .with_brokers(if nobody { Vec::new() } else { brokers.collect() })
            .with_cluster_id(Some(self.cluster_id()).filter(|_| version >= 2))
            .with_controller_id(self.config.node_id.into())
            .with_topics(answers)
    }

    fn describe_by_name(&mut self, version: i16, name: &str, create: bool) -> MetadataResponseTopic {
        if let Some(topic) = self.topics.by_name(name) {
            return self.describe(version, name, topic);
        }
        let error = if !valid_topic_name(name) {
            ErrorCode::INVALID_TOPIC_EXCEPTION
        } else {
            if create && self.config.auto_create_topics {
                self.topics.create(name, self.config.default_partitions, BTreeMap::new());
            }
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        };
        MetadataResponseTopic::default().with_error_code(error.0).with_name(Some(topic_name(name)))
    }

    fn describe_by_id(&self, version: i16, id: Uuid) -> MetadataResponseTopic {
        match self.topics.name_of(id).and_then(|name| Some((name, self.topics.by_name(name)?))) {
            Some((name, topic)) => self.describe(version, name, topic),
            None => {
                let name = (version < 12).then(TopicName::default);
                MetadataResponseTopic::default()
                    .with_error_code(ErrorCode::UNKNOWN_TOPIC_ID.0)
                    .with_name(name)
                    .with_topic_id(id)
            }
        }
    }

    fn describe(&self, version: i16, name: &str, topic: &Topic) -> MetadataResponseTopic {
        let nodes: Vec<_> = self.config.node_ids().map(messages::BrokerId).collect();
        let partitions = topic.partitions.iter().zip(0i32..).map(|(log, index)| {
            let leader = topic.leader(index, &self.config);
            let error = if leader.is_none() { ErrorCode::LEADER_NOT_AVAILABLE } else { ErrorCode::NONE };
            MetadataResponsePartition::default()
                .with_error_code(error.0)
                .with_partition_index(index)
                .with_leader_id(messages::BrokerId(leader.unwrap_or(-1)))
                .with_leader_epoch(if version >= 7 { log.leader_epoch() } else { -1 })
                .with_replica_nodes(nodes.clone())
                .with_isr_nodes(nodes.clone())
        });
        MetadataResponseTopic::default()
            .with_name(Some(topic_name(name)))
            .with_topic_id(if version >= 10 { topic.id } else { Uuid::nil() })
            .with_partitions(partitions.collect())
    }

    pub(super) fn create_topics(
        &mut self,
        version: i16,
        request: &CreateTopicsRequest,
    ) -> CreateTopicsResponse {
        let mut results = Vec::new();
        for topic in &request.topics {
            let twice = request.topics.iter().filter(|other| other.name == topic.name).count() > 1;
            let checked = if twice { Err(ErrorCode::INVALID_REQUEST) } else { self.check_new_topic(topic) };
            results.push(match checked {
                Ok(partitions) => self.created(version, topic, partitions, request.validate_only),
                Err(error) => CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(error.0)
                    .with_error_message(Some(StrBytes::from_static_str(error.message()))),
            });
        }
        CreateTopicsResponse::default().with_topics(results)
    }

    fn check_new_topic(&self, topic: &CreatableTopic) -> Result<i32, ErrorCode> {
        if !valid_topic_name(&topic.name.0) {
            return Err(ErrorCode::INVALID_TOPIC_EXCEPTION);
        }
        if self.topics.by_name(&topic.name.0).is_some() {
            return Err(ErrorCode::TOPIC_ALREADY_EXISTS);
        }
        if !topic.assignments.is_empty() {
            let only_us = |assignment: &messages::create_topics_request::CreatableReplicaAssignment| {
                assignment.broker_ids.iter().map(|id| id.0).eq([self.config.node_id])
            };
            let consecutive = (0i32..).zip(&topic.assignments).all(|(index, a)| a.partition_index == index);
            if topic.num_partitions != -1 || topic.replication_factor != -1 {
                return Err(ErrorCode::INVALID_REQUEST);
            }
            if !consecutive || !topic.assignments.iter().all(only_us) {
                return Err(ErrorCode::INVALID_REPLICA_ASSIGNMENT);
            }
            return i32::try_from(topic.assignments.len()).map_err(|_| ErrorCode::INVALID_PARTITIONS);
        }
        if !matches!(topic.replication_factor, -1 | 1) {
            return Err(ErrorCode::INVALID_REPLICATION_FACTOR);
        }
        match topic.num_partitions {
            -1 => Ok(self.config.default_partitions),
            n @ 1..=MAX_PARTITIONS => Ok(n),
            _ => Err(ErrorCode::INVALID_PARTITIONS),
        }
    }

    fn created(
        &mut self,
        version: i16,
        topic: &CreatableTopic,
        partitions: i32,
        validate_only: bool,
    ) -> CreatableTopicResult {
        let configs: BTreeMap<String, String> = topic
            .configs
            .iter()
            .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())))
            .collect();
        let mut result =
            CreatableTopicResult::default().with_name(topic.name.clone()).with_error_message(None);
        if version >= 5 {
            let told = configs.iter().map(|(name, value)| {
                CreatableTopicConfigs::default()
                    .with_name(StrBytes::from_string(name.clone()))
                    .with_value(Some(StrBytes::from_string(value.clone())))
                    .with_config_source(1)
            });
            result.configs = Some(told.collect());
            result.num_partitions = partitions;
            result.replication_factor = 1;
        }
        if !validate_only {
            let id = self.topics.create(&topic.name.0, partitions, configs);
            if version >= 7 {
                result.topic_id = id;
            }
        }
        result
    }

    pub(super) fn delete_topics(
        &mut self,
        version: i16,
        request: &DeleteTopicsRequest,
    ) -> DeleteTopicsResponse {
        let mut results = Vec::new();
        for name in &request.topic_names {
            let error = self.delete_topic_named(&name.0);
            results
                .push(DeletableTopicResult::default().with_name(Some(name.clone())).with_error_code(error.0));
        }
        for topic in &request.topics {
            let name = match &topic.name {
                Some(name) => Some(name.0.to_string()),
                None => self.topics.name_of(topic.topic_id).map(str::to_owned),
            };
            let mut result = DeletableTopicResult::default().with_topic_id(topic.topic_id);
            let error = match &name {
                Some(name) => {
                    if let Some(known) = self.topics.by_name(name) {
                        result.topic_id = known.id;
                    }
                    self.delete_topic_named(name)
                }
                None => ErrorCode::UNKNOWN_TOPIC_ID,
            };
            result.name = name.as_deref().map(topic_name);
            results.push(result.with_error_code(error.0));
        }
        if version >= 5 {
            for result in results.iter_mut().filter(|result| result.error_code != 0) {
                let text = ErrorCode(result.error_code).message();
                result.error_message = Some(StrBytes::from_static_str(text));
            }
        }
        DeleteTopicsResponse::default().with_responses(results)
    }

    fn delete_topic_named(&mut self, name: &str) -> ErrorCode {
        match self.topics.delete(name) {
            Some(_) => {
                self.touched = true;
                self.on_topic_deleted(name);
                ErrorCode::NONE
            }
            None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        }
    }

    pub(super) fn create_partitions(
        &mut self,
        request: &CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        let mut results = Vec::new();
        for asked in &request.topics {
            let error = match self.topics.by_name_mut(&asked.name.0) {
                None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Some(topic) => match usize::try_from(asked.count) {
                    Ok(count) if count > topic.partitions.len() && asked.count <= MAX_PARTITIONS => {
                        if !request.validate_only {
                            topic.partitions.resize_with(count, PartitionLog::new);
                        }
                        ErrorCode::NONE
                    }
                    _ => ErrorCode::INVALID_PARTITIONS,
                },
            };
            let message = (!error.is_ok()).then(|| StrBytes::from_static_str(error.message()));
            results.push(
                CreatePartitionsTopicResult::default()
                    .with_name(asked.name.clone())
                    .with_error_code(error.0)
                    .with_error_message(message),
            );
        }
        CreatePartitionsResponse::default().with_results(results)
    }

    pub(super) fn describe_cluster(
        &self,
        version: i16,
        request: &DescribeClusterRequest,
    ) -> DescribeClusterResponse {
        let brokers = self.config.node_ids().map(|node| {
            DescribeClusterBroker::default()
                .with_broker_id(node.into())
                .with_host(StrBytes::from_string(self.config.host.clone()))
                .with_port(self.config.port_of(node))
                .with_rack(self.rack())
        });
        let mut response = DescribeClusterResponse::default()
            .with_cluster_id(self.cluster_id())
            .with_controller_id(self.config.node_id.into());
        if version >= 1 && request.endpoint_type != 1 {
            response.error_code = ErrorCode::MISMATCHED_ENDPOINT_TYPE.0;
            response.endpoint_type = request.endpoint_type;
            return response;
        }
        response.with_brokers(brokers.collect())
    }

    fn rack(&self) -> Option<StrBytes> {
        self.config.rack.clone().map(StrBytes::from_string)
    }
}

/// A topic name as the messages have it.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
