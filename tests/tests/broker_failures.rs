//! A broker that is frozen, killed and brought back under a producer and a reader.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use milena::{
    Client, ClientConfig, ErrorKind, FetchFrom, FetchOptions, Isolation, Offset, Producer, ProducerConfig,
    ProducerRecord, TopicPartition, TransactionConfig, TransactionalProducer,
};
use milena_testkit::check::Judge;
use milena_tests::records::{PATIENCE, eventually, read, text, values, within, write_values};
use milena_tests::{create_topic, own_kafka, unique};

fn impatient(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new([bootstrap]);
    config.connect_timeout = Duration::from_secs(2);
    config.request_timeout = Duration::from_secs(5);
    config
}

/// One broker for all of it: its start costs more than the tests do.
// scenario: 5.3.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_is_frozen_killed_and_brought_back() {
    let Some(kafka) = own_kafka(|options| options).await else { return };
    let bootstrap = kafka.bootstrap().to_owned();
    let client = Client::connect(impatient(&bootstrap)).await.unwrap();
    frozen_while_closing(&kafka, &client).await;
    killed_while_writing(&kafka, &client).await;
    killed_between_prepare_and_commit(&kafka, &client).await;
    stopped_for_good(&kafka, &client).await;
}

/// A close ends in its time though nothing is answered, and every ticket has an outcome.
async fn frozen_while_closing(kafka: &milena_testkit::kafka::Kafka, client: &Client) {
    let topic = unique("frozen");
    create_topic(client, &topic, 1).await;
    let producer = Producer::new(client, ProducerConfig::default()).unwrap();
    producer.send(ProducerRecord::to(&topic).value("0")).await.unwrap().await.unwrap();
    kafka.pause().await.unwrap();
    let mut tickets = Vec::new();
    for number in 1..20 {
        tickets.push(producer.send(ProducerRecord::to(&topic).value(&number.to_string())).await.unwrap());
    }
    let begun = Instant::now();
    let error = producer.close(Duration::from_secs(2)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    for ticket in tickets {
        let error = within("a ticket", ticket).await.unwrap_err();
        assert!(!error.to_string().is_empty());
    }
    let begun = Instant::now();
    let other = impatient(kafka.bootstrap()).with_api_timeout(Duration::from_secs(3));
    let error = Client::connect(other).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
    kafka.unpause().await.unwrap();
    write_values(client, &topic, 0, &["after"]).await;
    let found = values(client, &topic, 0, Isolation::ReadUncommitted).await;
    assert_eq!(found.first().map(String::as_str), Some("0"));
    assert_eq!(found.last().map(String::as_str), Some("after"));
}

/// `kill -9` in the middle of writing, twice: nothing is lost, nothing doubled, and a reader that goes on sees it all.
async fn killed_while_writing(kafka: &milena_testkit::kafka::Kafka, client: &Client) {
    let topic = unique("killed");
    create_topic(client, &topic, 2).await;
    let config = ProducerConfig {
        batch_size: 2_000,
        request_timeout: Duration::from_secs(5),
        delivery_timeout: Duration::from_secs(110),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(client, config).unwrap();
    let running = Arc::new(AtomicBool::new(true));
    let writer = {
        let (producer, topic, running) = (producer.clone(), topic.clone(), Arc::clone(&running));
        tokio::spawn(async move {
            let mut tickets = Vec::new();
            let mut number = 0u64;
            while running.load(Ordering::Relaxed) {
                let (key, value) = (format!("key-{}", number % 5), number.to_string());
                let record = ProducerRecord::to(&topic).key(&key).value(&value);
                tickets.push((key.clone(), number, producer.send(record).await.unwrap()));
                number += 1;
                if number.is_multiple_of(20) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            tickets
        })
    };
    let reader = tokio::spawn(follow(client.clone(), topic.clone(), Arc::clone(&running)));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        kafka.kill9().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        kafka.restart().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    running.store(false, Ordering::Relaxed);
    let tickets = within("the writer", writer).await.unwrap();
    within("the flush", producer.flush()).await.unwrap();
    let mut judge = Judge::new();
    let count = tickets.len();
    for (key, number, ticket) in tickets {
        ticket.await.unwrap();
        judge.expect(key.as_bytes(), number);
    }
    for partition in 0..2 {
        let tp = TopicPartition::new(topic.as_str(), partition);
        for record in read(client, &tp, Isolation::ReadUncommitted).await {
            let number = text(record.value.as_deref()).parse().unwrap();
            judge.see(&topic, partition, record.offset.0, record.key.as_deref().unwrap(), number);
        }
    }
    let verdict = judge.verdict();
    assert!(verdict.is_clean(), "{count} records: {verdict}");
    assert_eq!(judge.seen(), count);
    let read = within("the reader", reader).await.unwrap();
    assert!(read > 0 && read <= count, "{read} of {count}");
}

/// Reads partition 0 from its start as long as the flag stands; offsets must come without a gap. Returns how many it saw.
async fn follow(client: Client, topic: String, running: Arc<AtomicBool>) -> usize {
    let tp = TopicPartition::new(topic, 0);
    let fetcher = client.fetcher();
    let mut next = Offset(0);
    let mut seen = 0;
    while running.load(Ordering::Relaxed) {
        let from = [FetchFrom::new(tp.clone(), next)];
        let Ok(answer) = fetcher.fetch(&from, &FetchOptions::default()).await else { continue };
        if answer[0].error.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        for record in answer[0].owned_records().unwrap() {
            assert_eq!(record.offset.0, seen as i64);
            seen += 1;
        }
        next = answer[0].next_offset();
    }
    seen
}

/// A prepared transaction outlives its writer and its broker.
async fn killed_between_prepare_and_commit(kafka: &milena_testkit::kafka::Kafka, client: &Client) {
    let topic = unique("prepared");
    create_topic(client, &topic, 1).await;
    let mut producer = TransactionalProducer::new(client, TransactionConfig::new(unique("tx"))).unwrap();
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    drop(producer.send(ProducerRecord::to(&topic).value("kept")).await.unwrap());
    let prepared = producer.prepare().await.unwrap().unwrap();
    drop(producer);
    kafka.kill9().await.unwrap();
    kafka.restart().await.unwrap();
    let other = Client::connect(impatient(kafka.bootstrap())).await.unwrap();
    let answer = within("the commit", other.transactions().end(&prepared, true)).await.unwrap();
    assert!(matches!(answer, milena::EndTxnAnswer::Done { .. }), "{answer:?}");
    eventually("the record", || values(&other, &topic, 0, Isolation::ReadCommitted), vec!["kept".to_owned()])
        .await;
}

/// With the broker gone, calls end with an error in their time.
async fn stopped_for_good(kafka: &milena_testkit::kafka::Kafka, client: &Client) {
    let topic = unique("gone");
    create_topic(client, &topic, 1).await;
    let config = ProducerConfig {
        delivery_timeout: Duration::from_secs(3),
        request_timeout: Duration::from_secs(2),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(client, config).unwrap();
    producer.send(ProducerRecord::to(&topic).value("0")).await.unwrap().await.unwrap();
    kafka.kill9().await.unwrap();
    let begun = Instant::now();
    let ticket = producer.send(ProducerRecord::to(&topic).value("1")).await.unwrap();
    let error = within("the ticket", ticket).await.unwrap_err();
    assert!(begun.elapsed() < PATIENCE / 2, "{error}");
    // The ticket's error is a flush's too, once.
    let _ = producer.flush().await;
    producer.flush().await.unwrap();
    let begun = Instant::now();
    let mut short = impatient(kafka.bootstrap());
    short.api_timeout = Duration::from_secs(3);
    let error = Client::connect(short).await.unwrap_err();
    assert!(error.to_string().contains(kafka.bootstrap()), "{error}");
    assert!(begun.elapsed() < PATIENCE / 2, "{error}");
    client.close(Duration::from_secs(2)).await.unwrap();
}
