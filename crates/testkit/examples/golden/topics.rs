//! Topics: made, filled, read, changed and deleted.

use milena_protocol::compression::Compression;
use milena_protocol::messages::ApiKey;
use serde_json::{Value, json};

use crate::Failure;
use crate::records::{FIRST_TIMESTAMP, record_set};
use crate::session::Session;

/// One for each codec.
pub(crate) const PARTITIONS: i32 = 5;

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// The topic that is written and read.
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    /// As hexadecimal digits; zeros where brokers have no topic ids.
    pub(crate) id: String,
}

impl Topic {
    /// A topic in a request with these partitions: under every name that requests have for that.
    pub(crate) fn with(&self, partitions: &Value) -> Value {
        json!({
            "name": self.name, "topic": self.name, "topic_id": self.id, "partitions": partitions,
            "partition_data": partitions, "partition_indexes": partitions,
        })
    }
}

/// Whether an answer has an error that passes by itself: leaders are elected, coordinators load.
pub(crate) fn is_settled(answer: &Value) -> bool {
    match answer {
        Value::Object(fields) => fields.iter().all(|(name, value)| {
            let passes = name.ends_with("error_code")
                && value.as_i64().is_some_and(|code| [3, 5, 6, 14, 15, 16, 51].contains(&code));
            !passes && is_settled(value)
        }),
        Value::Array(elements) => elements.iter().all(is_settled),
        _ => true,
    }
}

/// Creates the topic by asking for it, and asks for it in every version.
pub(crate) fn prepare(session: &mut Session) -> Result<Topic, Failure> {
    let body = json!({
        "topics": [{"name": "golden"}], "allow_auto_topic_creation": true,
        "include_cluster_authorized_operations": true, "include_topic_authorized_operations": true,
    });
    session.ask_until(ApiKey::Metadata, 0, &body, is_settled)?;
    session.ask_all(ApiKey::Metadata, |_| body.clone())?;
    let answer = session.ask(ApiKey::Metadata, usize::MAX, &body)?;
    let id = answer.pointer("/topics/0/topic_id").and_then(Value::as_str).unwrap_or_default();
    Ok(Topic { name: "golden", id: id.to_owned() })
}

/// Writes records in every version, with every codec that it has.
pub(crate) fn produce(session: &mut Session, topic: &Topic) -> Result<(), Failure> {
    for (turn, version) in session.versions(ApiKey::Produce).into_iter().enumerate() {
        let mut partitions = Vec::new();
        for (index, codec) in CODECS.into_iter().enumerate() {
            if let Some(records) = record_set(version, codec)? {
                partitions.push(json!({"index": index, "records": records}));
            }
        }
        let topic_data = topic.with(&Value::Array(partitions));
        let body = json!({"acks": -1, "timeout_ms": 5000, "topic_data": [topic_data]});
        session.ask_until(ApiKey::Produce, turn, &body, is_settled)?;
    }
    Ok(())
}

/// Reads records, offsets and epochs in every version.
pub(crate) fn read(session: &mut Session, topic: &Topic) -> Result<(), Failure> {
    // Less than is there, and no multiple of a batch's length: brokers cut what they send. The last partition begins with
    // the transactions, aborted ones among them.
    let lengths = [130, 370, 440, 510, 2500];
    let body = |version: i16| {
        let newest = if version >= 7 { -3 } else { 0 };
        let times = [-1, -2, FIRST_TIMESTAMP + 500, newest, i64::MAX];
        let partitions: Vec<Value> = (0..PARTITIONS)
            .zip(lengths.into_iter().zip(times))
            .map(|(index, (length, time))| {
                json!({
                    "partition": index, "partition_index": index, "current_leader_epoch": -1, "fetch_offset": 0,
                    "last_fetched_epoch": -1, "log_start_offset": -1, "leader_epoch": 0, "max_num_offsets": 1,
                    "partition_max_bytes": length, "timestamp": time,
                })
            })
            .collect();
        json!({
            "replica_id": -1, "max_wait_ms": 500, "min_bytes": 1, "max_bytes": 1 << 20, "isolation_level": 1,
            "session_id": 0, "session_epoch": -1, "topics": [topic.with(&Value::Array(partitions))],
            "timeout_ms": 5000,
        })
    };
    session.ask_all(ApiKey::Fetch, body)?;
    session.ask_all(ApiKey::ListOffsets, body)?;
    session.ask_all(ApiKey::OffsetForLeaderEpoch, body)
}

/// Creates a topic in every version of CreateTopics, changes and describes it, and deletes it.
pub(crate) fn administer(session: &mut Session) -> Result<(), Failure> {
    let turns =
        [ApiKey::CreateTopics, ApiKey::DeleteTopics, ApiKey::DescribeConfigs, ApiKey::CreatePartitions]
            .map(|key| session.versions(key).len());
    for turn in 0..turns.into_iter().max().unwrap_or(0) {
        let name = format!("made-{turn}");
        let new = |name: &str| {
            json!({
                "name": name, "num_partitions": 1, "replication_factor": 1,
                "configs": [{"name": "retention.ms", "value": "3600000"}],
            })
        };
        // One more that is there already, for an error and its text.
        let body = json!({"topics": [new(&name), new("golden")], "timeout_ms": 10000});
        session.ask(ApiKey::CreateTopics, turn, &body)?;
        let resource = |configs: Value| {
            json!({"resources": [{
                "resource_type": 2, "resource_name": name, "configs": configs,
                "configuration_keys": ["retention.ms", "cleanup.policy"],
            }], "include_synonyms": true, "include_documentation": true})
        };
        session.ask_until(ApiKey::DescribeConfigs, turn, &resource(Value::Null), is_settled)?;
        // Before the policy changes: from a compacted topic no records can be deleted.
        let partitions = json!({"topics": [{"name": name, "partitions": [{"partition_index": 0, "offset": 0}]}], "timeout_ms": 5000});
        session.ask(ApiKey::DeleteRecords, turn, &partitions)?;
        let config = json!([{"name": "cleanup.policy", "value": "compact", "config_operation": 0}]);
        session.ask(ApiKey::AlterConfigs, turn, &resource(config.clone()))?;
        session.ask(ApiKey::IncrementalAlterConfigs, turn, &resource(config))?;
        let more = json!({"topics": [{"name": name, "count": 2}], "timeout_ms": 10000});
        session.ask(ApiKey::CreatePartitions, turn, &more)?;
        let election = json!({"topic_partitions": [{"topic": name, "partitions": [0]}], "timeout_ms": 5000});
        session.ask(ApiKey::ElectLeaders, turn, &election)?;
        let moves = json!({"topics": [{"name": name, "partitions": [{"partition_index": 0, "replicas": [1]}]}], "timeout_ms": 5000});
        session.ask(ApiKey::AlterPartitionReassignments, turn, &moves)?;
        let topics = json!({"topics": [{"name": name}], "response_partition_limit": 10});
        session.ask(ApiKey::DescribeTopicPartitions, turn, &topics)?;
        let deletion = json!({"topics": [{"name": name}], "topic_names": [name], "timeout_ms": 10000});
        session.ask(ApiKey::DeleteTopics, turn, &deletion)?;
    }
    administer_cluster(session)
}

fn administer_cluster(session: &mut Session) -> Result<(), Failure> {
    session.ask_all(ApiKey::DescribeCluster, |_| {
        json!({"include_cluster_authorized_operations": true, "endpoint_type": 1, "include_fenced_brokers": true})
    })?;
    session.ask_all(
        ApiKey::DescribeQuorum,
        |_| json!({"topics": [{"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]}]}),
    )?;
    let acl = json!({
        "resource_type": 2, "resource_name": "golden", "resource_pattern_type": 3, "principal": "User:golden",
        "host": "*", "operation": 3, "permission_type": 3,
    });
    session.ask_all(ApiKey::CreateAcls, |_| json!({"creations": [acl]}))?;
    let filter = json!({
        "resource_type_filter": 2, "pattern_type_filter": 3, "operation": 1, "permission_type": 1,
    });
    session.ask_all(ApiKey::DescribeAcls, |_| filter.clone())?;
    session.ask_all(ApiKey::DeleteAcls, |_| json!({"filters": [filter]}))?;
    let entity = json!([{"entity_type": "client-id", "entity_name": "golden"}]);
    session.ask_all(ApiKey::AlterClientQuotas, |_| {
        json!({"entries": [{"entity": entity, "ops": [{"key": "producer_byte_rate", "value": 1_000_000.0}]}]})
    })?;
    session.ask_all(
        ApiKey::DescribeClientQuotas,
        |_| json!({"components": [{"entity_type": "client-id", "match_type": 2}]}),
    )?;
    session.ask_all(ApiKey::AlterUserScramCredentials, |_| {
        json!({"upsertions": [{
            "name": "golden", "mechanism": 1, "iterations": 4096, "salt": "00112233", "salted_password": "44556677",
        }]})
    })?;
    session.ask_all(ApiKey::DescribeUserScramCredentials, |_| json!({"users": [{"name": "golden"}]}))?;
    session.ask_all(ApiKey::SaslHandshake, |_| json!({"mechanism": "PLAIN"}))
}
