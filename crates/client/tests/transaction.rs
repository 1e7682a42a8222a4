//! Transactions on the embedded broker and on a real Kafka, written both ways.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::time::Duration;

use milena::{
    Client, CommittedOffset, EndTxnAnswer, ErrorCode, ErrorKind, GroupMetadata, Isolation, Offset,
    ProducerRecord, ProducerState, TopicPartition, TransactionConfig, TransactionVersion,
    TransactionalProducer,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use support::{
    ADD_PARTITIONS, END_TXN, PRODUCE, TXN_OFFSET_COMMIT, embedded, quick, real, topic, unique, values,
};

const WAYS: [TransactionVersion; 2] = [TransactionVersion::V1, TransactionVersion::V2];

fn config(id: &str, version: TransactionVersion) -> TransactionConfig {
    TransactionConfig { version: Some(version), ..TransactionConfig::new(id) }
}

async fn ready(client: &Client, id: &str, version: TransactionVersion) -> TransactionalProducer {
    let mut producer = TransactionalProducer::new(client, config(id, version)).unwrap();
    producer.init().await.unwrap();
    producer
}

async fn send(producer: &TransactionalProducer, topic: &str, partition: i32, value: &str) {
    drop(producer.send(ProducerRecord::to(topic).partition(partition).value(value)).await.unwrap());
}

/// Committed values, once the markers are there.
async fn committed(client: &Client, topic: &str, partitions: i32, expected: &[&[&str]]) {
    let mut found = Vec::new();
    for _ in 0..200 {
        found = values(client, topic, partitions, Isolation::ReadCommitted).await;
        if found == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(found, expected);
}

/// Commit, abort, empty, commit again, several partitions.
async fn ends_as_told(client: &Client, version: TransactionVersion) {
    let topic = topic(client, "ends", 2).await;
    let mut producer = ready(client, &unique("tx"), version).await;
    assert_eq!(producer.version(), Some(version));
    for (round, commit) in [true, false, true].into_iter().enumerate() {
        producer.begin().await.unwrap();
        send(&producer, &topic, 0, &format!("a{round}")).await;
        send(&producer, &topic, 1, &format!("b{round}")).await;
        send(&producer, &topic, 0, &format!("c{round}")).await;
        let ended = if commit { producer.commit().await } else { producer.abort().await };
        ended.unwrap();
        producer.begin().await.unwrap();
        producer.commit().await.unwrap();
    }
    committed(client, &topic, 2, &[&["a0", "c0", "a2", "c2"], &["b0", "b2"]]).await;
}

/// Offsets follow the transaction's fate.
async fn offsets_are_part_of_it(client: &Client, version: TransactionVersion) {
    let topic = topic(client, "offsets", 1).await;
    let tp = TopicPartition::new(topic.as_str(), 0);
    let group = unique("group");
    let metadata = GroupMetadata::without_member(&group);
    let mut producer = ready(client, &unique("tx"), version).await;
    for (offset, commit, expected) in [(7, true, 7), (9, false, 7), (11, true, 11)] {
        producer.begin().await.unwrap();
        send(&producer, &topic, 0, "x").await;
        producer
            .send_offsets(&[(tp.clone(), CommittedOffset::from(Offset(offset)))], &metadata)
            .await
            .unwrap();
        let ended = if commit { producer.commit().await } else { producer.abort().await };
        ended.unwrap();
        let found = client.group(&group).fetch(Some(std::slice::from_ref(&tp)), true).await.unwrap();
        let found = found.into_iter().next().unwrap().1.unwrap().unwrap();
        assert_eq!(found.offset, Offset(expected), "{version:?}");
    }
    // A transaction of offsets alone.
    producer.begin().await.unwrap();
    producer.send_offsets(&[(tp.clone(), CommittedOffset::from(Offset(20)))], &metadata).await.unwrap();
    assert!(producer.prepare().await.unwrap().unwrap().first_offsets.is_empty());
    producer.commit().await.unwrap();
    let found = client.group(&group).fetch(Some(std::slice::from_ref(&tp)), true).await.unwrap();
    assert_eq!(found.into_iter().next().unwrap().1.unwrap().unwrap().offset, Offset(20));
}

/// What one client prepared another commits, also when the writer is gone.
async fn another_process_ends_it(client: &Client, bootstrap: &str, version: TransactionVersion) {
    let topic = topic(client, "prepared", 2).await;
    let id = unique("tx");
    for commit in [true, false] {
        let mut producer = ready(client, &id, version).await;
        producer.begin().await.unwrap();
        assert!(producer.prepare().await.unwrap().is_none(), "nothing was written");
        producer.begin().await.unwrap();
        for value in ["1", "2"] {
            send(&producer, &topic, 0, value).await;
            send(&producer, &topic, 1, value).await;
        }
        let prepared = producer.prepare().await.unwrap().unwrap();
        assert_eq!(producer.state(), ProducerState::Prepared);
        assert!(producer.send(ProducerRecord::to(&topic).value("no")).await.is_err());
        drop(producer);
        assert_eq!(prepared.first_offsets.len(), 2);
        let first = if commit { 0 } else { 3 };
        assert!(prepared.first_offsets.iter().all(|(_, offset)| offset.0 == first), "{prepared:?}");
        assert!(prepared.start_time_ms.is_some());

        let other = Client::connect(bootstrap).await.unwrap();
        for _ in 0..2 {
            let answer = other.transactions().end(&prepared, commit).await.unwrap();
            assert!(matches!(answer, EndTxnAnswer::Done { .. }), "{version:?} {answer:?}");
        }
        other.close(Duration::from_secs(5)).await.unwrap();
    }
    committed(client, &topic, 2, &[&["1", "2"], &["1", "2"]]).await;
}

/// The repeated commit of a prepared transaction never ends a later one of the same producer.
async fn a_repeated_commit_ends_nothing_else(client: &Client, version: TransactionVersion) {
    let topic = topic(client, "repeat", 1).await;
    let mut producer = ready(client, &unique("tx"), version).await;
    producer.begin().await.unwrap();
    send(&producer, &topic, 0, "first").await;
    let prepared = producer.prepare().await.unwrap().unwrap();
    producer.commit().await.unwrap();
    producer.begin().await.unwrap();
    send(&producer, &topic, 0, "second").await;
    producer.flush().await.unwrap();
    let answer = client.transactions().end(&prepared, true).await.unwrap();
    assert!(matches!(answer, EndTxnAnswer::Refused(_)), "{version:?} {answer:?}");
    producer.abort().await.unwrap();
    committed(client, &topic, 1, &[&["first"]]).await;
}

/// An abort after another process committed is refused, not confirmed.
async fn an_abort_after_a_commit_elsewhere_is_refused(client: &Client, version: TransactionVersion) {
    let topic = topic(client, "elsewhere", 1).await;
    let mut producer = ready(client, &unique("tx"), version).await;
    producer.begin().await.unwrap();
    send(&producer, &topic, 0, "kept").await;
    let prepared = producer.prepare().await.unwrap().unwrap();
    let answer = client.transactions().end(&prepared, true).await.unwrap();
    assert!(matches!(answer, EndTxnAnswer::Done { .. }), "{answer:?}");
    assert!(producer.abort().await.is_err(), "{version:?}");
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    send(&producer, &topic, 0, "more").await;
    producer.commit().await.unwrap();
    committed(client, &topic, 1, &[&["kept", "more"]]).await;
}

/// A new instance fences the old one, which says so.
async fn fencing_is_said(client: &Client, version: TransactionVersion) {
    let topic = topic(client, "fenced", 1).await;
    let id = unique("tx");
    let mut old = ready(client, &id, version).await;
    old.begin().await.unwrap();
    send(&old, &topic, 0, "old").await;
    old.flush().await.unwrap();
    let mut new = ready(client, &id, version).await;
    drop(old.send(ProducerRecord::to(&topic).partition(0).value("late")).await);
    let error = old.commit().await.unwrap_err();
    assert!(error.to_string().contains("another instance"), "{version:?} {error}");
    assert_ne!(old.state(), ProducerState::Open);
    assert!(old.begin().await.is_err());
    new.begin().await.unwrap();
    send(&new, &topic, 0, "new").await;
    new.commit().await.unwrap();
    committed(client, &topic, 1, &[&["new"]]).await;
}

/// The broker's limit is in the error.
async fn a_long_timeout_is_explained(client: &Client) {
    let config =
        TransactionConfig { timeout: Duration::from_secs(3600), ..TransactionConfig::new(unique("tx")) };
    let mut producer = TransactionalProducer::new(client, config).unwrap();
    let error = producer.init().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::INVALID_TRANSACTION_TIMEOUT));
    assert!(error.to_string().contains("900000"), "{error}");
}

async fn all(client: &Client, bootstrap: &str) {
    // Brokers before 4.0 know the first way only.
    let newest = client.transaction_version().await.unwrap();
    for version in WAYS.into_iter().filter(|way| *way == TransactionVersion::V1 || *way == newest) {
        ends_as_told(client, version).await;
        offsets_are_part_of_it(client, version).await;
        another_process_ends_it(client, bootstrap, version).await;
        a_repeated_commit_ends_nothing_else(client, version).await;
        an_abort_after_a_commit_elsewhere_is_refused(client, version).await;
        fencing_is_said(client, version).await;
    }
    a_long_timeout_is_explained(client).await;
}

#[tokio::test]
async fn transactions_on_the_embedded_broker() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    all(&client, &broker.bootstrap()).await;
}

#[tokio::test]
async fn transactions_on_a_real_kafka() {
    let Some((kafka, client)) = real().await else { return };
    all(&client, kafka.bootstrap()).await;
}

#[tokio::test]
async fn transactions_on_a_slow_coordinator() {
    let broker = BrokerConfig { marker_delay: Duration::from_millis(150), ..BrokerConfig::default() };
    let (broker, client) = embedded(broker).await;
    all(&client, &broker.bootstrap()).await;
}

#[tokio::test]
async fn lost_answers_change_nothing() {
    for version in WAYS {
        let (broker, _) = embedded(BrokerConfig::default()).await;
        let client = Client::connect(quick(&broker.bootstrap())).await.unwrap();
        let topic = topic(&client, "lost", 1).await;
        let group = GroupMetadata::without_member("g");
        let mut producer = ready(&client, "tx", version).await;
        let keys = [PRODUCE, END_TXN, ADD_PARTITIONS, TXN_OFFSET_COMMIT];
        for round in 0..3 {
            for key in
                keys.into_iter().filter(|&key| key != ADD_PARTITIONS || version == TransactionVersion::V1)
            {
                broker.faults().on(key, if round == 1 { Fault::DropBefore } else { Fault::DropAfter }, 1);
            }
            producer.begin().await.unwrap();
            send(&producer, &topic, 0, &round.to_string()).await;
            producer.flush().await.unwrap();
            let offset = CommittedOffset::from(Offset(round));
            producer.send_offsets(&[(TopicPartition::new(topic.as_str(), 0), offset)], &group).await.unwrap();
            producer.commit().await.unwrap();
            assert_eq!(broker.faults().unused(), []);
        }
        committed(&client, &topic, 1, &[&["0", "1", "2"]]).await;
    }
}

#[tokio::test]
async fn a_failed_record_makes_the_transaction_abortable_and_no_more() {
    for version in WAYS {
        let (broker, client) = embedded(BrokerConfig::default()).await;
        let topic = topic(&client, "failed", 1).await;
        let mut producer = ready(&client, "tx", version).await;
        for code in [
            ErrorCode::INVALID_RECORD,
            ErrorCode::TOPIC_AUTHORIZATION_FAILED,
            ErrorCode::TRANSACTION_ABORTABLE,
        ] {
            producer.begin().await.unwrap();
            send(&producer, &topic, 0, "good").await;
            producer.flush().await.unwrap();
            broker.faults().on(PRODUCE, Fault::Error(code), 1);
            send(&producer, &topic, 0, "bad").await;
            let error = producer.commit().await.unwrap_err();
            assert_eq!(error.code(), Some(code), "{version:?} {error}");
            assert_eq!(producer.state(), ProducerState::Failed);
            let again = producer.commit().await.unwrap_err();
            assert!(again.code() == Some(code) && again.to_string().contains("abort"), "{again}");
            assert!(producer.send(ProducerRecord::to(&topic).value("x")).await.is_err());
            producer.abort().await.unwrap();
            assert_eq!(broker.faults().unused(), []);
        }
        producer.begin().await.unwrap();
        send(&producer, &topic, 0, "after").await;
        producer.commit().await.unwrap();
        committed(&client, &topic, 1, &[&["after"]]).await;
    }
}

#[tokio::test]
async fn a_commit_that_was_dropped_can_only_be_repeated() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = topic(&client, "dropped", 1).await;
    let mut producer = ready(&client, "tx", TransactionVersion::V1).await;
    producer.begin().await.unwrap();
    send(&producer, &topic, 0, "x").await;
    producer.flush().await.unwrap();
    broker.faults().on(END_TXN, Fault::Delay(Duration::from_millis(300)), 1);
    assert!(tokio::time::timeout(Duration::from_millis(50), producer.commit()).await.is_err());
    assert_eq!(producer.state(), ProducerState::Ending);
    assert_eq!(producer.abort().await.unwrap_err().kind(), ErrorKind::Misuse);
    producer.commit().await.unwrap();
    committed(&client, &topic, 1, &[&["x"]]).await;
}

#[tokio::test]
async fn misuse_is_said_before_anything_is_sent() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = topic(&client, "misuse", 1).await;
    let mut producer = TransactionalProducer::new(&client, TransactionConfig::new("tx")).unwrap();
    assert!(producer.begin().await.unwrap_err().to_string().contains("init"));
    producer.init().await.unwrap();
    assert_eq!(producer.version(), Some(TransactionVersion::V2));
    let record = ProducerRecord::to(&topic).value("x");
    assert!(producer.send(record).await.unwrap_err().to_string().contains("begin"));
    assert!(producer.commit().await.is_err());
    producer.begin().await.unwrap();
    assert!(producer.begin().await.is_err());
    assert!(TransactionalProducer::new(&client, TransactionConfig::new("")).is_err());
}
