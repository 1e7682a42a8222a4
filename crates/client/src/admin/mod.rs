//! Topics, configurations and producers: what an administrator, a test or the command line needs.
//!
//! Changes go to the controller and are retried while it moves. A change whose answer was lost is not repeated blindly:
//! "exists already" after a lost answer counts as done.

mod changes;

use std::collections::HashMap;

use futures_util::future::join_all;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::describe_configs_request::DescribeConfigsResource;
use milena_protocol::messages::describe_producers_request::TopicRequest;
use milena_protocol::messages::{DescribeConfigsRequest, DescribeProducersRequest, TopicName};
use milena_protocol::types::{
    BrokerId, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicPartition,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::call::{CallOptions, Target};
use crate::client::Client;
use crate::error::{Error, Result};

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// The name.
    pub name: String,
    /// How many partitions; -1 is the broker's default.
    pub partitions: i32,
    /// How many replicas; -1 is the broker's default.
    pub replication: i16,
    /// Topic configurations by name.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with this many partitions and the broker's default replication.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, replication: -1, configs: Vec::new() }
    }
}

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// The name.
    pub name: String,
    /// The id, when brokers have ids (2.8).
    pub id: Option<Uuid>,
    /// Whether it belongs to Kafka itself.
    pub internal: bool,
}

/// A topic in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// The name.
    pub name: String,
    /// The id, when brokers have ids (2.8).
    pub id: Option<Uuid>,
    /// Whether it belongs to Kafka itself.
    pub internal: bool,
    /// The partitions in order.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition in detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// The number.
    pub id: PartitionId,
    /// The leader; `None` while there is none.
    pub leader: Option<BrokerId>,
    /// The leader epoch, when the broker says it.
    pub leader_epoch: Option<LeaderEpoch>,
    /// All replicas.
    pub replicas: Vec<BrokerId>,
    /// The in-sync replicas.
    pub isr: Vec<BrokerId>,
}

/// One configuration of a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` for a secret or an unset one.
    pub value: Option<String>,
    /// Whether it is a secret.
    pub sensitive: bool,
    /// Whether it cannot be changed while the broker runs.
    pub read_only: bool,
}

impl std::fmt::Debug for ConfigEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = if self.sensitive { Some("(hidden)") } else { self.value.as_deref() };
        f.debug_struct("ConfigEntry").field("name", &self.name).field("value", &value).finish_non_exhaustive()
    }
}

/// A producer that a partition's leader remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of its last record; `None` when it wrote none with a sequence.
    pub last_sequence: Option<Sequence>,
    /// The time of its last record, milliseconds since 1970.
    pub last_timestamp: i64,
    /// The epoch of the coordinator that wrote its last marker.
    pub coordinator_epoch: Option<i32>,
    /// Where its open transaction begins in this partition; `None` when it has none here.
    pub transaction_start: Option<Offset>,
}

/// Administrative calls. Clones share the client's connections.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// All topics by name.
    ///
    /// # Errors
    /// When no broker answers within `api_timeout`.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>> {
        let cluster = self.client.metadata(None).await?;
        let mut listings: Vec<TopicListing> = cluster
            .topics()
            .map(|topic| TopicListing {
                name: topic.name.to_string(),
                id: topic.id,
                internal: topic.internal,
            })
            .collect();
        listings.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(listings)
    }

    /// Topics in detail, in the order asked. One question: a topic that is not there is an error inside.
    ///
    /// # Errors
    /// When no broker answers within `api_timeout`.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn describe_topics(&self, names: &[&str]) -> Result<Vec<(String, Result<TopicDescription>)>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let cluster = self.client.metadata(Some(names)).await?;
        let describe = |name: &str| match cluster.topic(name) {
            Some(topic) => Ok(TopicDescription {
                name: name.to_owned(),
                id: topic.id,
                internal: topic.internal,
                partitions: topic
                    .partitions
                    .values()
                    .map(|partition| PartitionDescription {
                        id: partition.id,
                        leader: partition.leader,
                        leader_epoch: partition.leader_epoch,
                        replicas: partition.replicas.clone(),
                        isr: partition.isr.clone(),
                    })
                    .collect(),
            }),
            None => {
                let code = cluster.topic_error(name).unwrap_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
                Err(Error::broker_code(code, None).with_api("Metadata").with_topic(name))
            }
        };
        Ok(names.iter().map(|&name| (name.to_owned(), describe(name))).collect())
    }

    /// A broker's configurations: those named, or all with an empty list.
    ///
    /// # Errors
    /// The broker's refusal, or what concerns the request as a whole, after retries until `api_timeout`.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn describe_broker_config(&self, broker: BrokerId, names: &[&str]) -> Result<Vec<ConfigEntry>> {
        let mut attempts = self.client.attempts();
        loop {
            match self.describe_config_once(broker, names, attempts.deadline()).await {
                Ok(entries) => return Ok(entries),
                Err(error) => attempts.pause(error.with_api("DescribeConfigs")).await?,
            }
        }
    }

    async fn describe_config_once(
        &self,
        broker: BrokerId,
        names: &[&str],
        deadline: Instant,
    ) -> Result<Vec<ConfigEntry>> {
        let answer = self
            .client
            .call_with::<DescribeConfigsRequest, _>(
                Target::Broker(broker),
                CallOptions::until(deadline),
                |_| {
                    let mut resource = DescribeConfigsResource::default();
                    resource.resource_type = BROKER_RESOURCE;
                    resource.resource_name = text(&broker.to_string());
                    resource.configuration_keys =
                        (!names.is_empty()).then(|| names.iter().map(|name| text(name)).collect());
                    let mut request = DescribeConfigsRequest::default();
                    request.resources = vec![resource];
                    request
                },
            )
            .await?;
        let [result] = answer.response.results.as_slice() else {
            return Err(
                Error::peer("one resource was asked, another number answered").with_broker(answer.broker)
            );
        };
        let code = ErrorCode(result.error_code);
        if !code.is_ok() {
            let note = note(result.error_message.as_ref());
            return Err(Error::broker_code(code, note.as_deref()).with_broker(answer.broker));
        }
        let entry =
            |config: &milena_protocol::messages::describe_configs_response::DescribeConfigsResourceResult| {
                ConfigEntry {
                    name: config.name.to_string(),
                    value: config.value.as_ref().map(|value| value.to_string()),
                    sensitive: config.is_sensitive,
                    read_only: config.read_only,
                }
            };
        Ok(result.configs.iter().map(entry).collect())
    }

    /// The producers that the leaders of these partitions remember, in the order asked (KIP-664, brokers since 2.8). Leader
    /// errors are inside; call again after a moment.
    ///
    /// # Errors
    /// When a leader cannot be found or reached within `api_timeout`.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn describe_producers(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<(TopicPartition, Result<Vec<ActiveProducer>>)>> {
        let mut by_leader: HashMap<BrokerId, Vec<TopicPartition>> = HashMap::new();
        for tp in partitions {
            let leader = self.client.leader(tp).await?;
            by_leader.entry(leader).or_default().push(tp.clone());
        }
        let requests = by_leader.iter().map(|(leader, tps)| self.describe_producers_at(*leader, tps));
        let mut found = HashMap::new();
        for answer in join_all(requests).await {
            found.extend(answer?);
        }
        let missing = |tp: &TopicPartition| {
            Err(Error::peer("the answer does not name the partition").with_topic_partition(tp))
        };
        Ok(partitions
            .iter()
            .map(|tp| (tp.clone(), found.remove(tp).unwrap_or_else(|| missing(tp))))
            .collect())
    }

    async fn describe_producers_at(
        &self,
        leader: BrokerId,
        tps: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Result<Vec<ActiveProducer>>>> {
        let topic = |tp: &TopicPartition| {
            TopicRequest::default()
                .with_name(TopicName(text(&tp.topic)))
                .with_partition_indexes(vec![tp.partition.0])
        };
        let request = DescribeProducersRequest::default().with_topics(tps.iter().map(topic).collect());
        let response = self.client.call(Target::Broker(leader), &request).await?;
        let mut found = HashMap::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                let tp = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                let code = ErrorCode(partition.error_code);
                let producers = if code.is_ok() {
                    Ok(partition.active_producers.iter().map(read_producer).collect())
                } else {
                    if code.refreshes_metadata() {
                        self.client.refresh_topic_soon(&tp.topic);
                    }
                    let note = note(partition.error_message.as_ref());
                    Err(Error::broker_code(code, note.as_deref())
                        .with_api("DescribeProducers")
                        .with_topic_partition(&tp))
                };
                found.insert(tp, producers);
            }
        }
        Ok(found)
    }
}

const BROKER_RESOURCE: i8 = 4;

fn read_producer(
    state: &milena_protocol::messages::describe_producers_response::ProducerState,
) -> ActiveProducer {
    ActiveProducer {
        producer_id: ProducerId(state.producer_id.0),
        producer_epoch: ProducerEpoch(i16::try_from(state.producer_epoch).unwrap_or(i16::MAX)),
        last_sequence: (state.last_sequence >= 0).then_some(Sequence(state.last_sequence)),
        last_timestamp: state.last_timestamp,
        coordinator_epoch: (state.coordinator_epoch >= 0).then_some(state.coordinator_epoch),
        transaction_start: (state.current_txn_start_offset >= 0)
            .then_some(Offset(state.current_txn_start_offset)),
    }
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn note(message: Option<&StrBytes>) -> Option<String> {
    message.map(|message| message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_value_never_shows_in_debug() {
        let entry = ConfigEntry {
            name: "ssl.key.password".to_owned(),
            value: Some("hunter2".to_owned()),
            sensitive: true,
            read_only: true,
        };
        assert!(!format!("{entry:?}").contains("hunter2"));
    }
}
