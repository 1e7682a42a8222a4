//! Starts, stops and discovery, as the brokers answer them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod source_stage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena::protocol::types::Isolation;
use milena::{CommittedOffset, ErrorCode, Offset, TopicPartition};
use milena_connector::source::{
    KafkaSourceBuilder, OffsetReset, Pattern, ResolveRequest, StartFrom, StartRule, StopAt, Subscription,
    resolve_offsets, run_discovery,
};
use milena_connector::{ErrorKind, Result};
use milena_testkit::broker::{BrokerConfig, Fault};

use source_stage::{End, Stage, TOPIC, tp};

const METADATA: i16 = 3;
const LIST_OFFSETS: i16 = 2;

/// A log of the offsets 10 to 30, of which 24 to 27 are in an open transaction; timestamps are 100 more than offsets.
async fn stage() -> (Stage, milena::TransactionalProducer) {
    let stage = Stage::new(2).await;
    for batch in 0..4 {
        stage.write(0, 100 + batch * 6..106 + batch * 6).await;
    }
    let open = stage.open("open", 0, 124..128).await;
    stage.write(0, 128..130).await;
    stage.broker.with_broker(|broker| broker.lose_before(TOPIC, 0, 10));
    assert_eq!(stage.offsets(0), (10, 24, 30));
    (stage, open)
}

async fn commit(stage: &Stage, partition: i32, offset: i64) {
    let committed = CommittedOffset { offset: Offset(offset), leader_epoch: None, metadata: None };
    stage.client.group("g").commit(&[(tp(partition), committed)]).await.unwrap();
}

/// Start and stop of partition 0.
async fn resolve(stage: &Stage, builder: KafkaSourceBuilder<String>) -> Result<(i64, Option<i64>)> {
    resolve_by(stage, builder, StartRule::Configured).await
}

async fn resolve_by(
    stage: &Stage,
    builder: KafkaSourceBuilder<String>,
    start: StartRule,
) -> Result<(i64, Option<i64>)> {
    let request = ResolveRequest { topic_partition: tp(0), topic_id: None, start };
    let resolved = resolve_offsets(&stage.client, &builder.build().unwrap(), &[request]).await?;
    assert_eq!(resolved.len(), 1);
    assert_eq!(resolved[0].topic_partition, tp(0));
    Ok((resolved[0].start.offset.0, resolved[0].stop.map(|stop| stop.0)))
}

fn given(offset: i64, or: OffsetReset) -> StartFrom {
    StartFrom::Offsets { offsets: BTreeMap::from([(tp(0), Offset(offset))]), or }
}

// scenario: 5.4.33, 5.4.34
#[tokio::test(start_paused = true)]
async fn each_start_is_the_number_that_the_log_gives_it() {
    use OffsetReset::{Earliest, Fail, Latest};
    let (stage, _open) = stage().await;
    let lost = Err(ErrorKind::DataLoss);
    let elsewhere = |or| StartFrom::Offsets { offsets: BTreeMap::from([(tp(1), Offset(3))]), or };
    let table = [
        (StartFrom::Earliest, None, Ok(10)),
        (StartFrom::Latest, None, Ok(24)),
        (StartFrom::Committed { or: Fail }, None, lost),
        (StartFrom::Committed { or: Earliest }, None, Ok(10)),
        (StartFrom::Committed { or: Latest }, None, Ok(24)),
        (StartFrom::Committed { or: Fail }, Some(17), Ok(17)),
        (StartFrom::Committed { or: Fail }, Some(3), lost),
        (StartFrom::Committed { or: Earliest }, Some(3), Ok(10)),
        (StartFrom::Committed { or: Latest }, Some(99), Ok(24)),
        (StartFrom::Timestamp(117), None, Ok(17)),
        (StartFrom::Timestamp(0), None, Ok(10)),
        (StartFrom::Timestamp(1_000_000), None, Ok(24)),
        (given(12, Fail), None, Ok(12)),
        (given(9, Fail), None, lost),
        (given(31, Fail), None, lost),
        (given(31, Latest), None, Ok(24)),
        (given(9, Earliest), Some(20), Ok(10)),
        (elsewhere(Fail), Some(20), Ok(20)),
        (elsewhere(Fail), None, lost),
        (elsewhere(Earliest), None, Ok(10)),
    ];
    for (start, committed, expected) in table {
        let group = format!("g{}", committed.unwrap_or(-1));
        if let Some(offset) = committed {
            let committed = CommittedOffset { offset: Offset(offset), leader_epoch: None, metadata: None };
            stage.client.group(&group).commit(&[(tp(0), committed)]).await.unwrap();
        }
        let resolved = resolve(&stage, stage.builder().group_id(group).start(start.clone())).await;
        let resolved = resolved.map(|(start, _)| start).map_err(|error| error.kind());
        assert_eq!(resolved, expected, "{start} with {committed:?} committed");
    }
}

#[tokio::test(start_paused = true)]
async fn each_stop_is_the_number_that_the_log_gives_it() {
    let (stage, _open) = stage().await;
    let table = [
        (StopAt::Never, None, Ok(None)),
        (StopAt::Latest, None, Ok(Some(24))),
        (StopAt::Committed, None, Err(ErrorKind::Misuse)),
        (StopAt::Committed, Some(17), Ok(Some(17))),
        (StopAt::Timestamp(117), None, Ok(Some(17))),
        (StopAt::Timestamp(1_000_000), None, Ok(Some(24))),
        (StopAt::Offsets(BTreeMap::from([(tp(0), Offset(21))])), None, Ok(Some(21))),
        (StopAt::Offsets(BTreeMap::new()), None, Ok(Some(24))),
    ];
    for (stop, committed, expected) in table {
        if let Some(offset) = committed {
            commit(&stage, 0, offset).await;
        }
        for rule in [StartRule::Configured, StartRule::Earliest, StartRule::Kept] {
            let builder = stage.builder().group_id("g").stop(stop.clone());
            let resolved = resolve_by(&stage, builder, rule).await;
            let resolved = resolved.map(|(_, stop)| stop).map_err(|error| error.kind());
            assert_eq!(resolved, expected, "{stop:?} with {committed:?} committed, {rule:?}");
        }
    }
}

/// FLINK-32019: what is found later is read from its first record, whatever the mode says.
#[tokio::test(start_paused = true)]
async fn a_partition_found_later_does_not_start_by_the_mode() {
    let (stage, _open) = stage().await;
    let builder = || stage.builder().start(StartFrom::Latest);
    assert_eq!(resolve_by(&stage, builder(), StartRule::Earliest).await.unwrap(), (10, None));
    assert_eq!(resolve_by(&stage, builder(), StartRule::Configured).await.unwrap(), (24, None));
}

/// C26: start and stop are those of the source's isolation.
// scenario: 5.4.33
#[tokio::test(start_paused = true)]
async fn the_end_depends_on_the_isolation() {
    let (stage, _open) = stage().await;
    for (isolation, end) in [(Isolation::ReadCommitted, 24), (Isolation::ReadUncommitted, 30)] {
        let builder = stage.builder().isolation(isolation).start(StartFrom::Latest).bounded(StopAt::Latest);
        assert_eq!(resolve(&stage, builder).await.unwrap(), (end, Some(end)), "{isolation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_moves_is_asked_again() {
    let stage = Stage::new(1).await;
    stage.transaction(0, 0..3, End::Commit).await;
    stage.broker.faults().on(LIST_OFFSETS, Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER), 2);
    stage.broker.faults().on(LIST_OFFSETS, Fault::DropAfter, 1);
    let builder = stage.builder().bounded(StopAt::Latest);
    assert_eq!(resolve(&stage, builder).await.unwrap(), (0, Some(4)));
    assert_eq!(stage.broker.faults().unused(), []);
}

async fn names(stage: &Stage, subscription: &Subscription) -> (Vec<String>, Vec<String>) {
    let found = run_discovery(&stage.client, subscription).await.unwrap();
    assert!(found.partitions.iter().all(|found| found.topic_id.is_some_and(|id| id != [0; 16])));
    let mut names: Vec<String> =
        found.partitions.iter().map(|found| found.topic_partition.to_string()).collect();
    names.sort();
    (names, found.missing)
}

// scenario: 5.4.36
#[tokio::test(start_paused = true)]
async fn discovery_finds_what_is_subscribed_and_names_what_is_missing() {
    let topics = BrokerConfig::default().with_topic("orders", 2).with_topic("orders.old", 1);
    let stage = Stage::with(topics.with_topic("pay", 1).with_topic("__consumer_offsets", 1)).await;
    let named = |names: &[&str]| Subscription::Topics(names.iter().map(|name| Arc::from(*name)).collect());
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let pattern = |text: &str| Subscription::Pattern(Pattern::new(text).unwrap());
    let all = ["orders-0", "orders-1", "orders.old-0", "pay-0"];
    let table = [
        (named(&["orders", "pay"]), owned(&["orders-0", "orders-1", "pay-0"]), owned(&[])),
        (named(&["orders", "nope"]), owned(&["orders-0", "orders-1"]), owned(&["topic nope"])),
        (pattern("orders"), owned(&all[..2]), owned(&[])),
        (pattern("orders.*"), owned(&all[..3]), owned(&[])),
        (pattern(".*"), owned(&all), owned(&[])),
        (pattern("x|pay"), owned(&all[3..]), owned(&[])),
        (pattern("nothing"), owned(&[]), owned(&[])),
    ];
    for (subscription, partitions, missing) in table {
        assert_eq!(names(&stage, &subscription).await, (partitions, missing), "{subscription:?}");
    }
    let partitions = [("orders", 1), ("orders", 7), ("nope", 0)];
    let partitions = partitions.map(|(topic, partition)| TopicPartition::new(topic, partition));
    let (found, mut missing) = names(&stage, &Subscription::Partitions(partitions.into())).await;
    missing.sort();
    assert_eq!((found, missing), (owned(&["orders-1"]), owned(&["partition orders-7", "topic nope"])));
}

#[tokio::test(start_paused = true)]
async fn discovery_sees_topics_partitions_and_ids_of_now() {
    let stage = Stage::with(BrokerConfig::default().with_topic("a", 1)).await;
    let any = Subscription::Pattern(Pattern::new("[a-c]").unwrap());
    let before = run_discovery(&stage.client, &any).await.unwrap();
    stage.broker.with_broker(|broker| {
        broker.recreate_topic("a", 2);
        broker.create_topic("b", 1);
    });
    let after = run_discovery(&stage.client, &any).await.unwrap();
    assert_eq!((before.partitions.len(), after.partitions.len()), (1, 3));
    assert_ne!(before.partitions[0].topic_id, after.partitions[0].topic_id);
}

/// A broker that is away is not an empty one.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_looked_at_is_an_error_and_not_an_empty_answer() {
    let stage = Stage::new(1).await;
    let named = Subscription::Topics([Arc::from(TOPIC)].into());
    stage.broker.faults().on(METADATA, Fault::Silence, 1000);
    let waited = tokio::time::timeout(Duration::from_secs(60), run_discovery(&stage.client, &named)).await;
    assert_eq!(waited.expect("it ends within api_timeout").unwrap_err().kind(), ErrorKind::Client);
    stage.broker.faults().clear();
    stage.broker.faults().on(METADATA, Fault::DropBefore, 2);
    assert_eq!(run_discovery(&stage.client, &named).await.unwrap().partitions.len(), 1);
}

/// A topic that lives for a moment only must not keep the others from being read.
#[tokio::test(start_paused = true)]
async fn a_partition_that_is_gone_before_its_offsets_are_known_does_not_fail_the_others() {
    let stage = Stage::with(BrokerConfig::default().with_topic(TOPIC, 1)).await;
    stage.write(0, 0..4).await;
    let gone = TopicPartition::new("gone", 0);
    let requests = [tp(0), gone].map(|topic_partition| ResolveRequest {
        topic_partition,
        topic_id: None,
        start: StartRule::Configured,
    });
    for start in [StartFrom::Earliest, StartFrom::Latest, StartFrom::Timestamp(2)] {
        let source = stage.builder().start(start).bounded(StopAt::Latest).build().unwrap();
        let resolved = resolve_offsets(&stage.client, &source, &requests).await.unwrap();
        let resolved: Vec<_> =
            resolved.iter().map(|resolved| (&resolved.topic_partition, resolved.stop)).collect();
        assert_eq!(resolved, [(&tp(0), Some(Offset(4)))]);
    }
}
