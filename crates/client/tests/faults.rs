//! The client against an embedded broker that fails on demand: what is retried, what is reported, what is not repeated.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

use std::time::Duration;

use milena::{
    Client, ClientConfig, EndTxnAnswer, ErrorCode, ErrorKind, FetchFrom, FetchOptions, Isolation, NewTopic,
    Offset, OffsetSpec, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition, TransactionVersion,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use milena_testkit::listen::EmbeddedBroker;

const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const CREATE_TOPICS: i16 = 19;
const INIT_PRODUCER_ID: i16 = 22;
const END_TXN: i16 = 26;

async fn start() -> (EmbeddedBroker, Client, TopicPartition) {
    let broker = EmbeddedBroker::start(BrokerConfig::default().with_topic("t", 1)).await.unwrap();
    let mut config = ClientConfig::from(broker.bootstrap());
    config.request_timeout = Duration::from_secs(2);
    config.api_timeout = Duration::from_secs(4);
    config.connect_timeout = Duration::from_secs(2);
    let client = Client::connect(config).await.unwrap();
    (broker, client, TopicPartition::new("t", 0))
}

/// Every fault that was ordered happened.
fn all_used(broker: &EmbeddedBroker) {
    let unused = broker.faults().unused();
    assert!(unused.is_empty(), "{unused:?}");
}

#[tokio::test]
async fn offsets_are_listed_after_leader_errors_and_lost_connections() {
    let (broker, client, tp) = start().await;
    let faults = [Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER), Fault::DropBefore, Fault::DropAfter];
    for fault in faults {
        broker.faults().on(LIST_OFFSETS, fault, 2);
        let wanted = [(tp.clone(), OffsetSpec::Latest)];
        let listed = client.list_offsets(&wanted, Isolation::ReadUncommitted).await.unwrap();
        assert_eq!(listed[0].1.as_ref().unwrap().offset, Some(Offset(0)));
        all_used(&broker);
    }
}

#[tokio::test]
async fn a_retried_call_that_never_succeeds_says_how_often_it_was_tried() {
    let (broker, client, tp) = start().await;
    broker.faults().on(LIST_OFFSETS, Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER), 1000);
    let since = std::time::Instant::now();
    let wanted = [(tp, OffsetSpec::Latest)];
    let listed = client.list_offsets(&wanted, Isolation::ReadUncommitted).await.unwrap();
    let error = listed[0].1.as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert!(error.attempts() > 3 && error.to_string().contains("tries in"), "{error}");
    assert!(since.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn commits_follow_the_coordinator() {
    let (broker, client, tp) = start().await;
    let group = client.group("g");
    for code in [ErrorCode::NOT_COORDINATOR, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS] {
        broker.faults().on(OFFSET_COMMIT, Fault::Error(code), 2);
        broker.faults().on(OFFSET_FETCH, Fault::Error(code), 2);
        group.commit(&[(tp.clone(), Offset(7).into())]).await.unwrap();
        let committed =
            group.fetch(Some(std::slice::from_ref(&tp)), true).await.unwrap().remove(0).1.unwrap();
        assert_eq!(committed.unwrap().offset, Offset(7));
        all_used(&broker);
    }
    broker.faults().on(FIND_COORDINATOR, Fault::Error(ErrorCode::COORDINATOR_NOT_AVAILABLE), 2);
    client.group("other").commit(&[(tp.clone(), Offset(1).into())]).await.unwrap();
    broker.faults().on(OFFSET_COMMIT, Fault::DropAfter, 1);
    group.commit(&[(tp, Offset(8).into())]).await.unwrap();
    all_used(&broker);
}

#[tokio::test]
async fn a_topic_created_by_a_try_whose_answer_was_lost_counts_as_created() {
    let (broker, client, _) = start().await;
    let create = async |name: &str| {
        let topics = [NewTopic::new(name, 1)];
        client.admin().create_topics(&topics, Duration::from_secs(1)).await.unwrap().remove(0).1
    };
    broker.faults().on(CREATE_TOPICS, Fault::Error(ErrorCode::NOT_CONTROLLER), 2);
    create("one").await.unwrap();
    broker.faults().on(CREATE_TOPICS, Fault::DropAfter, 1);
    create("two").await.unwrap();
    all_used(&broker);
    assert_eq!(create("two").await.unwrap_err().code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
}

#[tokio::test]
async fn a_transactions_end_waits_for_the_coordinator_and_reports_refusals() {
    let (broker, client, _) = start().await;
    let transactions = client.transactions();
    broker.faults().on(INIT_PRODUCER_ID, Fault::Error(ErrorCode::CONCURRENT_TRANSACTIONS), 3);
    let (producer_id, producer_epoch) = transactions.fence("tx", Duration::from_secs(30)).await.unwrap();
    all_used(&broker);
    let prepared = |producer_epoch: ProducerEpoch| PreparedTransaction {
        transactional_id: "tx".to_owned(),
        producer_id,
        producer_epoch,
        version: TransactionVersion::V2,
        first_offsets: Vec::new(),
        start_time_ms: None,
        timeout: Duration::from_secs(30),
    };
    broker.faults().on(END_TXN, Fault::Error(ErrorCode::CONCURRENT_TRANSACTIONS), 3);
    broker.faults().on(END_TXN, Fault::Error(ErrorCode::NOT_COORDINATOR), 1);
    broker.faults().on(END_TXN, Fault::DropBefore, 1);
    let answer = transactions.end(&prepared(producer_epoch), false).await.unwrap();
    let next = Some((ProducerId(producer_id.0), ProducerEpoch(producer_epoch.0 + 1)));
    assert_eq!(answer, EndTxnAnswer::Done { next });
    all_used(&broker);
    let stale = transactions.end(&prepared(ProducerEpoch(producer_epoch.0 - 1)), true).await.unwrap();
    assert!(matches!(stale, EndTxnAnswer::Refused(_)), "{stale:?}");
    broker.faults().on(END_TXN, Fault::Error(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED), 1);
    let error = transactions.end(&prepared(producer_epoch), true).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED));
    assert!(error.to_string().contains("grant this principal"), "{error}");
}

#[tokio::test]
async fn a_fetch_reports_what_happened_and_the_next_one_goes_on() {
    let (broker, client, tp) = start().await;
    let fetcher = client.fetcher();
    let from = [FetchFrom::new(tp, Offset(0))];
    let options = FetchOptions { max_wait: Duration::from_millis(50), ..FetchOptions::default() };
    for (fault, kind) in [
        (Fault::DropBefore, ErrorKind::Io),
        (
            Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
            ErrorKind::Broker(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        ),
        (Fault::Silence, ErrorKind::Timeout),
    ] {
        broker.faults().on(FETCH, fault, 1);
        let fetched = fetcher.fetch(&from, &options).await.unwrap().remove(0);
        assert_eq!(fetched.error.unwrap().kind(), kind);
        assert!(fetcher.fetch(&from, &options).await.unwrap().remove(0).error.is_none());
        all_used(&broker);
    }
}

#[tokio::test]
async fn a_slow_broker_is_waited_for_and_a_restarted_one_is_found_again() {
    let (broker, client, tp) = start().await;
    broker.faults().on(METADATA, Fault::Delay(Duration::from_millis(300)), 1);
    client.metadata(None).await.unwrap();
    all_used(&broker);
    let wanted = [(tp.clone(), OffsetSpec::Latest)];
    for _ in 0..3 {
        broker.restart();
        let listed = client.list_offsets(&wanted, Isolation::ReadUncommitted).await.unwrap();
        listed[0].1.as_ref().unwrap();
        client.group("g").commit(&[(tp.clone(), Offset(0).into())]).await.unwrap();
    }
    broker.go_down().await;
    let since = std::time::Instant::now();
    let error = client.metadata(None).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(client.group("g").fetch(None, false).await.is_err());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.list_offsets(&wanted, Isolation::ReadUncommitted).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    broker.come_back().await.unwrap();
    waiting.await.unwrap().unwrap().remove(0).1.unwrap();
}
