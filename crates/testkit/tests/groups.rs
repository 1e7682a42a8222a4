//! Offsets of groups, plain and within transactions.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use milena_protocol::ErrorCode;
use milena_protocol::messages::{self, GroupId};
use support::txn::{Pair, Transactions};
use support::{Client, Driver, topic_name, transactional_id};

const NONE: ErrorCode = ErrorCode::NONE;

fn group(name: &str) -> GroupId {
    GroupId(name.to_owned().into())
}

fn commit(
    driver: &mut Driver,
    version: i16,
    generation: i32,
    member: &str,
    topic: &str,
    offset: i64,
) -> ErrorCode {
    use messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some("m".into()));
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = messages::OffsetCommitRequest::default()
        .with_group_id(group("g"))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(member.to_owned().into())
        .with_topics(vec![topic]);
    ErrorCode(driver.ask(version, &request).topics[0].partitions[0].error_code)
}

fn fetch(driver: &mut Driver, stable: bool) -> (ErrorCode, i64) {
    use messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
    let topic =
        OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_partition_indexes(vec![0]);
    let asked = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(Some(vec![topic]));
    let request =
        messages::OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(stable);
    let answer = driver.ask(9, &request).groups.remove(0).topics.remove(0).partitions.remove(0);
    (ErrorCode(answer.error_code), answer.committed_offset)
}

fn txn_commit(
    driver: &mut Driver,
    version: i16,
    pair: Pair,
    offset: i64,
    generation: i32,
    member: &str,
) -> ErrorCode {
    use messages::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
    let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic =
        TxnOffsetCommitRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
    let request = messages::TxnOffsetCommitRequest::default()
        .with_transactional_id(transactional_id("x"))
        .with_group_id(group("g"))
        .with_producer_id(pair.0.into())
        .with_producer_epoch(pair.1)
        .with_generation_id(generation)
        .with_member_id(member.to_owned().into())
        .with_topics(vec![topic]);
    ErrorCode(driver.ask(version, &request).topics[0].partitions[0].error_code)
}

#[test]
fn offsets_are_kept_for_groups_without_members() {
    let mut driver = Driver::with_topic("t", 1);
    assert_eq!(fetch(&mut driver, true), (NONE, -1));
    assert_eq!(commit(&mut driver, 8, 3, "x", "t", 5), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(commit(&mut driver, 9, 3, "x", "t", 5), ErrorCode::GROUP_ID_NOT_FOUND);
    assert_eq!(commit(&mut driver, 9, -1, "", "nope", 5), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(commit(&mut driver, 9, -1, "", "t", 5), NONE);
    assert_eq!(commit(&mut driver, 9, 3, "x", "t", 6), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(fetch(&mut driver, true), (NONE, 5));
    assert_eq!(driver.broker.committed_offset("g", "t", 0), Some(5));
    let all = messages::offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(group("g"))
        .with_topics(None);
    let answer = driver.ask(9, &messages::OffsetFetchRequest::default().with_groups(vec![all]));
    let told = &answer.groups[0].topics[0];
    assert_eq!((told.name.clone(), told.partitions[0].committed_offset), (topic_name("t"), 5));
    assert_eq!(told.partitions[0].metadata, Some("m".into()));
    let listed = driver.ask(5, &messages::ListGroupsRequest::default());
    assert_eq!(listed.groups[0].group_id, group("g"));
}

#[test]
fn offsets_in_a_transaction_count_with_its_commit_and_not_with_its_abort() {
    for version in [4, 5] {
        let mut driver = Driver::with_topic("t", 1);
        assert_eq!(commit(&mut driver, 9, -1, "", "t", 5), NONE);
        let mut pair = driver.init("x");
        for (offset, end) in [(7, true), (9, false), (11, true)] {
            let before = fetch(&mut driver, true);
            if version == 4 {
                let refused = txn_commit(&mut driver, 4, pair, offset, -1, "");
                assert_eq!(refused, ErrorCode::TRANSACTION_ABORTABLE, "AddOffsetsToTxn is missing");
                let request = messages::AddOffsetsToTxnRequest::default()
                    .with_transactional_id(transactional_id("x"))
                    .with_producer_id(pair.0.into())
                    .with_producer_epoch(pair.1)
                    .with_group_id(group("g"));
                assert_eq!(driver.ask(3, &request).error_code, 0);
            }
            assert_eq!(txn_commit(&mut driver, version, pair, offset, -1, ""), NONE);
            assert_eq!(fetch(&mut driver, true), (ErrorCode::UNSTABLE_OFFSET_COMMIT, -1));
            assert_eq!(fetch(&mut driver, false), before);
            let (error, next) = driver.end(version, "x", pair, end);
            assert_eq!(error, NONE);
            assert_eq!(fetch(&mut driver, true), if end { (NONE, offset) } else { before });
            if version == 5 {
                pair = next;
            }
        }
    }
}

#[test]
fn a_refused_offset_commit_does_not_spoil_the_transaction() {
    let mut driver = Driver::with_topic("t", 1);
    let pair = driver.init("x");
    assert_eq!(driver.write(support::txn::Kind::New, "x", pair, 0, 0, 1).0, NONE);
    assert_eq!(txn_commit(&mut driver, 5, pair, 1, 3, "m"), ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(commit(&mut driver, 9, -1, "", "t", 0), NONE);
    assert_eq!(txn_commit(&mut driver, 5, pair, 1, 3, "m"), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(txn_commit(&mut driver, 5, pair, 1, 0, ""), ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(
        txn_commit(&mut driver, 5, (pair.0, pair.1 + 1), 1, -1, ""),
        ErrorCode::INVALID_PRODUCER_EPOCH
    );
    assert_eq!(
        txn_commit(&mut driver, 5, (pair.0 + 1, pair.1), 1, -1, ""),
        ErrorCode::INVALID_PRODUCER_ID_MAPPING
    );
    assert_eq!(txn_commit(&mut driver, 5, pair, 1, -1, "x"), NONE);
    assert_eq!(driver.end(5, "x", pair, true).0, NONE);
    assert_eq!(fetch(&mut driver, true), (NONE, 1));
}
