//! Transactions: even turns abort, odd ones commit.

use milena_protocol::messages::ApiKey;
use serde_json::{Value, json};

use crate::Failure;
use crate::records::transactional;
use crate::session::Session;
use crate::topics::{self, Topic, is_settled};

const APIS: [ApiKey; 5] = [
    ApiKey::InitProducerId,
    ApiKey::AddPartitionsToTxn,
    ApiKey::AddOffsetsToTxn,
    ApiKey::TxnOffsetCommit,
    ApiKey::EndTxn,
];

/// Where the transactions' records go.
const PARTITION: i32 = topics::PARTITIONS - 1;

/// One transaction a turn, each turn one version further.
pub(crate) fn converse(session: &mut Session, topic: &Topic) -> Result<(), Failure> {
    let turns = APIS.map(|key| session.versions(key).len()).into_iter().max().unwrap_or(0);
    if turns == 0 {
        return Ok(());
    }
    for (kind, key) in [(0, "golden-offsets"), (1, "golden-0")] {
        let body = json!({"key": key, "key_type": kind, "coordinator_keys": [key]});
        session.ask_until(ApiKey::FindCoordinator, usize::MAX, &body, is_settled)?;
    }
    // Twice at least: one that aborts and one that commits.
    for turn in 0..turns.max(2) {
        one_transaction(session, topic, turn)?;
    }
    let name = format!("golden-{}", turns.max(2) - 1);
    session.ask_all(ApiKey::DescribeTransactions, |_| json!({"transactional_ids": [name, "absent"]}))?;
    session.ask_all(ApiKey::ListTransactions, |_| json!({"duration_filter": -1}))?;
    session.ask_all(ApiKey::DescribeProducers, |_| json!({"topics": [topic.with(&json!([PARTITION]))]}))
}

fn one_transaction(session: &mut Session, topic: &Topic, turn: usize) -> Result<(), Failure> {
    let name = format!("golden-{turn}");
    let init = json!({
        "transactional_id": name, "transaction_timeout_ms": 60000, "producer_id": -1, "producer_epoch": -1,
    });
    let answer = session.ask_until(ApiKey::InitProducerId, turn, &init, is_settled)?;
    let id = answer["producer_id"].as_i64().ok_or("no producer id")?;
    let epoch = answer["producer_epoch"].as_i64().ok_or("no producer epoch")?;
    let topics = json!([topic.with(&json!([PARTITION]))]);
    let identity = json!({
        "transactional_id": name, "producer_id": id, "producer_epoch": epoch, "group_id": "golden-offsets",
        "generation_id": -1, "member_id": "", "committed": turn % 2 == 1, "verify_only": false,
        "v3_and_below_transactional_id": name, "v3_and_below_producer_id": id, "v3_and_below_producer_epoch": epoch,
        "v3_and_below_topics": topics, "topics": topics,
    });
    let mut add = identity.clone();
    add["transactions"] = json!([identity]);
    session.ask_until(ApiKey::AddPartitionsToTxn, turn, &add, is_settled)?;
    session.ask_until(ApiKey::AddOffsetsToTxn, turn, &identity, is_settled)?;
    let mut commit = identity.clone();
    commit["topics"] = json!([topic.with(&json!([
        {"partition_index": 0, "committed_offset": 2, "committed_leader_epoch": 0, "committed_metadata": "golden"},
    ]))]);
    session.ask_until(ApiKey::TxnOffsetCommit, turn, &commit, is_settled)?;
    let records = transactional(id, i16::try_from(epoch)?)?;
    let partitions = Value::Array(vec![json!({"index": PARTITION, "records": records})]);
    session.ask_until(
        ApiKey::Produce,
        usize::MAX,
        &json!({"transactional_id": name, "acks": -1, "timeout_ms": 5000, "topic_data": [topic.with(&partitions)]}),
        is_settled,
    )?;
    session.ask_until(ApiKey::EndTxn, turn, &identity, is_settled)?;
    Ok(())
}
