//! A Fetch request as it is written.

use milena_core::fetch::{Asked, Plan};
use milena_protocol::StrBytes;
use milena_protocol::fetch::TOPIC_IDS_FROM;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
use milena_protocol::messages::{BrokerId as WireBroker, TopicName};
use milena_protocol::types::{BrokerId, PartitionId};
use tokio::time::Instant;

use super::config::ConsumerConfig;
use super::shared::Shared;
use crate::call::{CallOptions, Target};
use crate::pool::Purpose;

/// Writes a plan down. `max_bytes`: how much the answer may bring.
pub(super) fn build(plan: &Plan, config: &ConsumerConfig, max_bytes: usize, version: i16) -> FetchRequest {
    let mut request = FetchRequest::default();
    request.replica_id = WireBroker(-1);
    request.max_wait_ms = i32::try_from(config.max_wait.as_millis()).unwrap_or(i32::MAX);
    request.min_bytes = wire_bytes(config.min_bytes as usize);
    if version >= 3 {
        request.max_bytes = wire_bytes(max_bytes);
    }
    if version >= 4 {
        request.isolation_level = config.isolation.wire();
    }
    if version >= 7 {
        request.session_id = plan.session.id;
        request.session_epoch = plan.session.epoch;
        request.forgotten_topics_data = forgotten(plan, version);
    }
    if version >= 11
        && let Some(rack) = &config.rack
    {
        request.rack_id = StrBytes::from_string(rack.clone());
    }
    // Without a limit of the whole answer that of a partition is the only one.
    let partition_max = (config.partition_max_bytes as usize).min(match version {
        ..3 => (max_bytes / plan.partitions.len().max(1)).max(MIN_PARTITION),
        _ => usize::MAX,
    });
    for part in &plan.partitions {
        let partition = partition(part.partition, &part.asked, partition_max, version);
        match request.topics.last_mut() {
            Some(last) if is_topic(last, part, version) => last.partitions.push(partition),
            _ => {
                let mut topic = FetchTopic::default();
                if version >= TOPIC_IDS_FROM {
                    topic.topic_id = part.topic_id.unwrap_or_default();
                } else {
                    topic.topic = name(&part.topic);
                }
                topic.partitions.push(partition);
                request.topics.push(topic);
            }
        }
    }
    request
}

/// Brokers without a limit of the whole answer cut a message that is larger than a partition's limit.
const MIN_PARTITION: usize = 256 * 1024;

fn is_topic(topic: &FetchTopic, part: &milena_core::fetch::PlannedPartition, version: i16) -> bool {
    match version {
        TOPIC_IDS_FROM.. => Some(topic.topic_id) == part.topic_id,
        _ => topic.topic.as_str() == &*part.topic,
    }
}

fn partition(id: PartitionId, asked: &Asked, max_bytes: usize, version: i16) -> FetchPartition {
    let mut partition = FetchPartition::default();
    partition.partition = id.0;
    partition.fetch_offset = asked.offset.0;
    partition.partition_max_bytes = wire_bytes(max_bytes);
    if version >= 9 {
        partition.current_leader_epoch = asked.leader_epoch.map_or(-1, |epoch| epoch.0);
    }
    if version >= 12 {
        partition.last_fetched_epoch = asked.last_epoch.map_or(-1, |epoch| epoch.0);
    }
    partition
}

fn forgotten(plan: &Plan, version: i16) -> Vec<ForgottenTopic> {
    let mut topics: Vec<ForgottenTopic> = Vec::new();
    for gone in &plan.forgotten {
        let same = |topic: &ForgottenTopic| match version {
            TOPIC_IDS_FROM.. => Some(topic.topic_id) == gone.topic_id,
            _ => topic.topic.as_str() == &*gone.topic,
        };
        match topics.last_mut() {
            Some(last) if same(last) => last.partitions.push(gone.partition.0),
            _ => {
                let mut topic = ForgottenTopic::default();
                if version >= TOPIC_IDS_FROM {
                    topic.topic_id = gone.topic_id.unwrap_or_default();
                } else {
                    topic.topic = name(&gone.topic);
                }
                topic.partitions.push(gone.partition.0);
                topics.push(topic);
            }
        }
    }
    topics
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Tells a broker that a session is over, so that it can give the room to others. Best effort.
pub(super) async fn say_goodbye(shared: &Shared, broker: BrokerId, session: i32, deadline: Instant) {
    // Not behind the long poll that may still wait there.
    let options = CallOptions {
        purpose: Some(Purpose::Other),
        max_version: Some(TOPIC_IDS_FROM - 1),
        ..CallOptions::until(deadline)
    };
    let build = |version: i16| {
        let mut request = FetchRequest::default();
        request.replica_id = WireBroker(-1);
        if version >= 7 {
            (request.session_id, request.session_epoch) = (session, -1);
        }
        request
    };
    let said = shared.client.call_with::<FetchRequest, _>(Target::Broker(broker), options, build).await;
    if let Err(error) = said {
        tracing::debug!(%broker, %error, "a session was not closed");
    }
}

fn wire_bytes(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
