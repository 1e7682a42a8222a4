//! Groups of every kind, from the first member to the end of the group.

use milena_protocol::messages::ApiKey;
use serde_json::{Value, json};

use crate::session::Session;
use crate::topics::{Topic, is_settled};
use crate::{Failure, wire};

const APIS: [ApiKey; 9] = [
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::Heartbeat,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::LeaveGroup,
    ApiKey::DeleteGroups,
];

/// One group a turn, each turn one version further.
pub(crate) fn converse(session: &mut Session, topic: &Topic) -> Result<(), Failure> {
    let coordinator = json!({"key": "golden-0", "key_type": 0, "coordinator_keys": ["golden-0"]});
    session.ask_until(ApiKey::FindCoordinator, 0, &coordinator, is_settled)?;
    session.ask_all(ApiKey::FindCoordinator, |_| coordinator.clone())?;
    let turns = APIS.map(|key| session.versions(key).len());
    for turn in 0..turns.into_iter().max().unwrap_or(0) {
        one_group(session, topic, turn)?;
    }
    consumer_group(session, topic)?;
    share_group(session, topic)
}

fn one_group(session: &mut Session, topic: &Topic, turn: usize) -> Result<(), Failure> {
    let group = format!("golden-{turn}");
    let name = topic.name.as_bytes();
    // ConsumerProtocolSubscription and ConsumerProtocolAssignment in version 0.
    let subscription = [&[0, 0, 0, 0, 0, 1, 0, 6], name, &[0xff; 4]].concat();
    let assignment = [&[0, 0, 0, 0, 0, 1, 0, 6], name, &[0, 0, 0, 1, 0, 0, 0, 0], &[0xff; 4]].concat();
    let join = |member: &str| {
        json!({
            "group_id": group, "session_timeout_ms": 30000, "rebalance_timeout_ms": 30000, "member_id": member,
            "protocol_type": "consumer", "reason": "golden",
            "protocols": [{"name": "range", "metadata": wire::to_hex(&subscription)}],
        })
    };
    let mut answer = session.ask_until(ApiKey::JoinGroup, turn, &join(""), is_settled)?;
    if answer["error_code"] == 79 {
        // MEMBER_ID_REQUIRED: the answer has the id to come back with (KIP-394).
        let member = answer["member_id"].as_str().unwrap_or_default().to_owned();
        answer = session.ask(ApiKey::JoinGroup, turn, &join(&member))?;
    }
    let member = answer["member_id"].as_str().unwrap_or_default();
    let generation = answer["generation_id"].as_i64().unwrap_or(-1);
    let identity = json!({
        "group_id": group, "generation_id": generation, "member_id": member, "protocol_type": "consumer",
        "protocol_name": "range",
        "assignments": [{"member_id": member, "assignment": wire::to_hex(&assignment)}],
        "members": [{"member_id": member, "reason": "golden"}],
    });
    session.ask(ApiKey::SyncGroup, turn, &identity)?;
    session.ask(ApiKey::Heartbeat, turn, &identity)?;
    offsets(session, topic, turn, &group, member, generation)?;
    session.ask(
        ApiKey::DescribeGroups,
        turn,
        &json!({"groups": [group], "include_authorized_operations": true}),
    )?;
    session.ask(ApiKey::ListGroups, turn, &json!({}))?;
    let deletion = json!({"group_id": group, "topics": [topic.with(&json!([{"partition_index": 0}]))]});
    session.ask(ApiKey::OffsetDelete, turn, &deletion)?;
    session.ask(ApiKey::LeaveGroup, turn, &identity)?;
    session.ask(ApiKey::DeleteGroups, turn, &json!({"groups_names": [group, "absent"]}))?;
    Ok(())
}

fn offsets(
    session: &mut Session,
    topic: &Topic,
    turn: usize,
    group: &str,
    member: &str,
    generation: i64,
) -> Result<(), Failure> {
    let partitions = json!([
        {"partition_index": 0, "committed_offset": 3, "committed_leader_epoch": 0, "commit_timestamp": -1,
         "committed_metadata": "golden"},
        {"partition_index": 1, "committed_offset": 0, "committed_leader_epoch": -1, "commit_timestamp": -1,
         "committed_metadata": ""},
    ]);
    let commit = json!({
        "group_id": group, "generation_id_or_member_epoch": generation, "member_id": member, "retention_time_ms": -1,
        "topics": [topic.with(&partitions)],
    });
    session.ask_until(ApiKey::OffsetCommit, turn, &commit, is_settled)?;
    let topics = json!([topic.with(&json!([0, 1, 2]))]);
    let fetch = json!({
        "group_id": group, "topics": topics,
        "groups": [{"group_id": group, "member_id": null, "member_epoch": -1, "topics": topics}],
    });
    session.ask_until(ApiKey::OffsetFetch, turn, &fetch, |answer| {
        // Version 0 calls an offset that was never committed an unknown partition.
        turn == 0 || is_settled(answer)
    })?;
    Ok(())
}

/// A group of KIP-848.
fn consumer_group(session: &mut Session, topic: &Topic) -> Result<(), Failure> {
    for version in session.versions(ApiKey::ConsumerGroupHeartbeat) {
        let body = json!({
            "group_id": format!("consumer-{version}"), "member_id": if version == 0 { "" } else { "golden-member" },
            "member_epoch": 0, "rebalance_timeout_ms": 30000, "subscribed_topic_names": [topic.name],
            "topic_partitions": [],
        });
        session.say(ApiKey::ConsumerGroupHeartbeat as i16, version, &body)?;
    }
    session.ask_all(ApiKey::ConsumerGroupDescribe, |version| {
        json!({"group_ids": [format!("consumer-{version}")], "include_authorized_operations": true})
    })
}

/// A share group of KIP-932.
fn share_group(session: &mut Session, topic: &Topic) -> Result<(), Failure> {
    // A share group's sessions know members by a UUID in base 64.
    let member = "Z29sZGVuLWdvbGRlbi1nbw";
    let heartbeat = json!({
        "group_id": "share", "member_id": member, "member_epoch": 0, "subscribed_topic_names": [topic.name],
    });
    session.ask_all(ApiKey::ShareGroupHeartbeat, |_| heartbeat.clone())?;
    session.ask_all(
        ApiKey::ShareGroupDescribe,
        |_| json!({"group_ids": ["share"], "include_authorized_operations": true}),
    )?;
    let offsets = json!({
        "group_id": "share-offsets", "groups": [{"group_id": "share-offsets", "topics": [{"topic_name": topic.name, "partitions": [0]}]}],
        "topics": [{"topic_name": topic.name, "partitions": [{"partition_index": 0, "start_offset": 0}]}],
    });
    session.ask_all(ApiKey::AlterShareGroupOffsets, |_| offsets.clone())?;
    session.ask_all(ApiKey::DescribeShareGroupOffsets, |_| offsets.clone())?;
    session.ask_all(ApiKey::DeleteShareGroupOffsets, |_| offsets.clone())?;
    let mut epoch = 0;
    for version in session.versions(ApiKey::ShareFetch) {
        let partitions = json!([{"partition_index": 0, "partition_max_bytes": 4096}]);
        let body = json!({
            "group_id": "share", "member_id": member, "share_session_epoch": epoch, "max_wait_ms": 500, "min_bytes": 1,
            "max_bytes": 4096, "max_records": 10, "batch_size": 10, "topics": [topic.with(&partitions)],
        });
        // The group's state is read on the first fetch, which finds nothing.
        for _ in 0..3 {
            let mut body = body.clone();
            body["share_session_epoch"] = Value::from(epoch);
            session.say(ApiKey::ShareFetch as i16, version, &body)?;
            epoch += 1;
        }
    }
    session.ask_all(ApiKey::ShareAcknowledge, |_| {
        let body = json!({
            "group_id": "share", "member_id": member, "share_session_epoch": epoch,
            "topics": [topic.with(&json!([{
                "partition_index": 0,
                "acknowledgement_batches": [{"first_offset": 0, "last_offset": 0, "acknowledge_types": [1]}],
            }]))],
        });
        epoch += 1;
        body
    })
}
