//! The committer against a broker: what it says became of a transaction is what readers see.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use milena::{ProducerRecord, TransactionConfig, TransactionVersion as Generation, TransactionalProducer};
use milena_connector::sink::committable::Committable;
use milena_connector::sink::committer::{Committer, failure};
use milena_connector::sink::outcome::{Limits, Outcome};
use milena_testkit::broker::{Fault, TransactionVersion};
use support::{OUTPUT, Stage, broker_config};

const END_TXN: i16 = 26;
const DESCRIBE_TRANSACTIONS: i16 = 65;
const COMMITTED: Outcome = Outcome::Committed { verified: true };

fn limits() -> Limits {
    Limits { decide: Some(Duration::from_secs(10)), visible: Duration::from_secs(4), verify: true }
}

async fn commit(stage: &Stage, committable: &Committable) -> Outcome {
    let committer = Committer::new(stage.client.clone(), limits());
    committer.commit(committable, || Ok::<_, std::convert::Infallible>(())).await.unwrap()
}

async fn open(stage: &Stage, id: &str, numbers: &[u64]) -> TransactionalProducer {
    let config = TransactionConfig { timeout: Duration::from_secs(60), ..TransactionConfig::new(id) };
    let mut producer = TransactionalProducer::new(&stage.client, config).unwrap();
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    for number in numbers {
        let (key, value) = (support::key(*number), number.to_string());
        let partition = i32::try_from(*number).unwrap() % stage.partitions;
        let record = ProducerRecord::to(OUTPUT).partition(partition).key(&key).value(&value);
        producer.send(record).await.unwrap().await.unwrap();
    }
    producer
}

async fn prepared(stage: &Stage, id: &str, numbers: &[u64], described: bool) -> Committable {
    let mut transaction = open(stage, id, numbers).await.prepare().await.unwrap().unwrap();
    if described {
        assert!(transaction.start_time_ms.is_some(), "the producer asked the coordinator");
    } else {
        transaction.start_time_ms = None;
    }
    Committable { checkpoint: 1, subtask: 0, transaction }
}

async fn numbers(stage: &Stage) -> Vec<u64> {
    let mut numbers: Vec<u64> = stage.output().await.into_iter().map(|(.., record)| record.number).collect();
    numbers.sort_unstable();
    numbers
}

/// Every case on both generations, with and without a start time, with and without DescribeTransactions.
async fn everywhere(mut case: impl AsyncFnMut(&Stage, bool)) {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for (asks, described) in [(true, true), (true, false), (false, false)] {
            let mut config = broker_config(2, version);
            if !asks {
                config = config.with_version_limit(DESCRIBE_TRANSACTIONS, -1);
            }
            let stage = Stage::with(config).await;
            case(&stage, described).await;
        }
    }
}

// scenario: 5.3.14, 5.6.27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_visible_and_may_be_repeated() {
    everywhere(async |stage, described| {
        let committable = prepared(stage, "a-0-0", &[0, 1, 2], described).await;
        assert!(numbers(stage).await.is_empty());
        for _ in 0..3 {
            assert_eq!(commit(stage, &committable).await, COMMITTED);
        }
        assert_eq!(numbers(stage).await, [0, 1, 2]);
    })
    .await;
}

// scenario: 5.6.28, 5.8.7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_requests_and_answers_change_nothing() {
    everywhere(async |stage, described| {
        for (at, fault) in [Fault::DropAfter, Fault::DropBefore].into_iter().enumerate() {
            let id = format!("a-0-{at}");
            let number = u64::try_from(at).unwrap();
            let committable = prepared(stage, &id, &[number], described).await;
            stage.broker.faults().on(END_TXN, fault, 2);
            assert_eq!(commit(stage, &committable).await, COMMITTED);
            assert!(stage.broker.faults().unused().is_empty(), "the fault was met");
        }
        assert_eq!(numbers(stage).await, [0, 1]);
    })
    .await;
}

// scenario: 5.6.28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_taken_over_is_lost_with_its_place() {
    everywhere(async |stage, described| {
        let committable = prepared(stage, "a-0-0", &[0, 1], described).await;
        stage.client.transactions().fence("a-0-0", Duration::from_secs(60)).await.unwrap();
        let outcome = commit(stage, &committable).await;
        let Outcome::Aborted { lost, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(lost.len(), 2);
        let error = failure(&committable, &outcome).unwrap().to_string();
        assert!(error.contains("out-0 from offset 0") && error.contains("out-1 from offset 0"), "{error}");
        assert!(numbers(stage).await.is_empty());
    })
    .await;
}

/// The name went on to another transaction after our commit: "fenced" is no loss.
// scenario: 5.3.8, D13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_from_before_the_name_was_used_again_stands() {
    everywhere(async |stage, described| {
        let committable = prepared(stage, "a-0-0", &[0, 1], described).await;
        assert_eq!(commit(stage, &committable).await, COMMITTED);
        let newer = open(stage, "a-0-0", &[5]).await;
        assert_eq!(commit(stage, &committable).await, COMMITTED);
        assert_eq!(stage.open_transactions().await, ["a-0-0"], "the newer one is not touched");
        drop(newer);
        assert_eq!(numbers(stage).await, [0, 1]);
    })
    .await;
}

/// Another transaction began before ours in the partition and is still open: the last stable offset says nothing about ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_is_found_behind_an_older_open_transaction() {
    everywhere(async |stage, described| {
        let _older = open(stage, "old-0-0", &[10, 11]).await;
        let committable = prepared(stage, "a-0-0", &[0, 1], described).await;
        assert_eq!(commit(stage, &committable).await, COMMITTED);
        let lost = prepared(stage, "b-0-0", &[2, 3], described).await;
        stage.client.transactions().end(&lost.transaction, false).await.unwrap();
        let outcome = commit(stage, &lost).await;
        assert!(matches!(&outcome, Outcome::Aborted { lost, .. } if lost.len() == 2), "{outcome:?}");
    })
    .await;
}

// scenario: 5.8.10, D8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_id_is_decided_by_the_log() {
    everywhere(async |stage, described| {
        let committable = prepared(stage, "a-0-0", &[0, 1], described).await;
        assert_eq!(commit(stage, &committable).await, COMMITTED);
        let lost = prepared(stage, "b-0-0", &[2], described).await;
        stage.client.transactions().end(&lost.transaction, false).await.unwrap();
        stage.broker.with_broker(|broker| {
            assert!(broker.expire_transactional_id("a-0-0"));
            assert!(broker.expire_transactional_id("b-0-0"));
        });
        assert_eq!(commit(stage, &committable).await, COMMITTED);
        assert!(matches!(commit(stage, &lost).await, Outcome::Aborted { .. }));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_log_and_coordinator_forgot_it_is_unknown() {
    everywhere(async |stage, described| {
        let committable = prepared(stage, "a-0-0", &[0, 1], described).await;
        assert_eq!(commit(stage, &committable).await, COMMITTED);
        stage.broker.with_broker(|broker| {
            broker.expire_transactional_id("a-0-0");
            broker.recreate_topic(OUTPUT, 2);
        });
        let outcome = commit(stage, &committable).await;
        assert!(matches!(outcome, Outcome::Unknown { decided: false, .. }), "{outcome:?}");
    })
    .await;
}

/// What Kafka 4.3.1 does with a leaderless partition (KAFKA-20734): the coordinator is done, the marker never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_marker_is_hanging() {
    let stage = Stage::new(2).await;
    let committable = prepared(&stage, "a-0-0", &[0, 1], true).await;
    assert!(stage.broker.with_broker(|broker| broker.lose_next_marker(OUTPUT, 1)));
    let outcome = commit(&stage, &committable).await;
    let Outcome::Hanging { open, decided: true } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(open.iter().map(|(at, _)| at.to_string()).collect::<Vec<_>>(), ["out-1"]);
    let error = failure(&committable, &outcome).unwrap().to_string();
    assert!(error.contains("readers of committed records are stuck"), "{error}");
}

/// What Kafka's own tool can't do: it only aborts, which loses what was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_marker_can_be_written_and_the_commit_is_finished() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let stage = Stage::with(broker_config(2, version)).await;
        let committable = prepared(&stage, "a-0-0", &[0, 1], true).await;
        let committer = Committer::new(stage.client.clone(), limits());
        let firsts = committable.transaction.first_offsets.clone();
        assert!(stage.broker.with_broker(|broker| broker.lose_next_marker(OUTPUT, 1)));
        let outcome = commit(&stage, &committable).await;
        let Outcome::Hanging { open, decided: true } = &outcome else { panic!("{outcome:?}") };
        committer.finish(&committable.transaction, open).await.unwrap();
        assert_eq!(commit(&stage, &committable).await, COMMITTED);
        assert_eq!(numbers(&stage).await, [0, 1]);
        let error = committer.finish(&committable.transaction, &firsts).await.unwrap_err();
        assert_eq!(
            error.kind(),
            milena_connector::ErrorKind::DataLoss,
            "what is not open is left alone: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_that_come_late_are_waited_for() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let mut config = broker_config(2, version);
        config.marker_delay = Duration::from_millis(1500);
        let stage = Stage::with(config).await;
        let committable = prepared(&stage, "a-0-0", &[0, 1], true).await;
        stage.broker.faults().on(END_TXN, Fault::DropAfter, 1);
        assert_eq!(commit(&stage, &committable).await, COMMITTED);
        assert_eq!(numbers(&stage).await, [0, 1], "verified means visible");
    }
}

// scenario: D7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_epoch_is_no_loss() {
    let stage = Stage::new(1).await;
    stage.client.transactions().fence("a-0-0", Duration::from_secs(60)).await.unwrap();
    assert!(stage.broker.with_broker(|broker| broker.set_producer_epoch("a-0-0", i16::MAX - 2)));
    let committable = prepared(&stage, "a-0-0", &[0], true).await;
    assert_eq!(committable.transaction.version, Generation::V2);
    for _ in 0..2 {
        assert_eq!(commit(&stage, &committable).await, COMMITTED);
    }
    stage.client.transactions().fence("a-0-0", Duration::from_secs(60)).await.unwrap();
    assert_eq!(commit(&stage, &committable).await, COMMITTED);
}

// scenario: D9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_answers_is_no_outcome() {
    let stage = Stage::new(1).await;
    let committable = prepared(&stage, "a-0-0", &[0], true).await;
    stage.broker.go_down().await;
    let committer =
        Committer::new(stage.client.clone(), Limits { decide: Some(Duration::from_secs(1)), ..limits() });
    let outcome = committer.commit(&committable, || Ok::<_, std::convert::Infallible>(())).await.unwrap();
    assert!(matches!(outcome, Outcome::Unanswered { .. }), "{outcome:?}");
    stage.broker.come_back().await.unwrap();
    assert_eq!(commit(&stage, &committable).await, COMMITTED, "it was kept and is committed later");
}
