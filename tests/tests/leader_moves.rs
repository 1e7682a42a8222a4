//! Leaders that move: producer, fetcher and group find the new ones by themselves.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena::{
    Client, ClientConfig, CommittedOffset, FetchFrom, FetchOptions, Fetcher, Isolation, NewTopic, Offset,
    Producer, ProducerConfig, ProducerRecord, TopicPartition,
};
use milena_testkit::check::Judge;
use milena_testkit::kafka::{KafkaOptions, or_skip};
use milena_tests::records::{eventually, read, text, values, within, write_values};
use milena_tests::{Env, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_away_for_a_moment_is_waited_for() {
    let env = Env::embedded().await;
    let broker = env.as_embedded().unwrap();
    let client = env.client().await;
    let topic = env.topic("away", 1).await;
    write_values(&client, &topic, 0, &["before"]).await;
    broker.with_broker(|broker| assert!(broker.set_leaderless(&topic, 0, true)));
    let reading = {
        let (fetcher, tp) = (client.fetcher(), TopicPartition::new(topic.as_str(), 0));
        tokio::spawn(async move { read_one(&fetcher, &tp, Offset(1)).await })
    };
    let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
    let ticket = producer.send(ProducerRecord::to(&topic).value("meanwhile")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(producer.metrics().records, 0, "there is no leader to write to");
    assert!(!reading.is_finished());
    broker.with_broker(|broker| {
        assert!(broker.set_leaderless(&topic, 0, false));
        assert!(broker.bump_leader_epoch(&topic, 0));
    });
    assert_eq!(within("the write", ticket).await.unwrap().offset, Some(Offset(1)));
    assert_eq!(within("the fetch", reading).await.unwrap(), "meanwhile");
    assert_eq!(values(&client, &topic, 0, Isolation::ReadUncommitted).await, ["before", "meanwhile"]);
}

/// Fetches until a record comes, whatever happens to the leader meanwhile.
async fn read_one(fetcher: &Fetcher, tp: &TopicPartition, at: Offset) -> String {
    let from = [FetchFrom::new(tp.clone(), at)];
    loop {
        if let Ok(answer) = fetcher.fetch(&from, &FetchOptions::default()).await
            && let Some(record) = answer[0].owned_records().unwrap().first()
        {
            return text(record.value.as_deref());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Three brokers, each killed once while a producer writes and a reader reads: nothing is lost or doubled.
// scenario: 5.1.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_cluster_each_leader_dies_once_and_nothing_is_lost_or_doubled() {
    let start = async { KafkaOptions::from_env()?.heap_mib(256).start_cluster(3).await };
    let Some(cluster) = or_skip(start.await) else { return };
    let mut config = ClientConfig::from(cluster.bootstrap());
    config.request_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.unwrap();
    let topic = unique("moves");
    let mut new = NewTopic::new(&topic, 3);
    new.replication = 3;
    new.configs.push(("min.insync.replicas".to_owned(), "2".to_owned()));
    let made = client.admin().create_topics(&[new], Duration::from_secs(30)).await.unwrap();
    made[0].1.as_ref().unwrap();

    let producer_config = ProducerConfig {
        batch_size: 4_000,
        request_timeout: Duration::from_secs(5),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(&client, producer_config).unwrap();
    // The reader stops first: at the end of the log it waits for a record, and somebody has to write it.
    let reads = Arc::new(AtomicBool::new(true));
    let running = Arc::new(AtomicBool::new(true));
    let writer = {
        let (producer, topic, running) = (producer.clone(), topic.clone(), Arc::clone(&running));
        tokio::spawn(async move {
            let mut tickets = Vec::new();
            let mut number = 0u64;
            while running.load(Ordering::Relaxed) {
                let (key, value) = (format!("key-{}", number % 11), number.to_string());
                let record = ProducerRecord::to(&topic).key(&key).value(&value);
                tickets.push((key.clone(), producer.send(record).await.unwrap()));
                number += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            tickets
        })
    };
    let reading = {
        let (fetcher, tp, reads) =
            (client.fetcher(), TopicPartition::new(topic.as_str(), 0), Arc::clone(&reads));
        tokio::spawn(async move {
            let mut next = 0;
            while reads.load(Ordering::Relaxed) || next < 10 {
                read_one(&fetcher, &tp, Offset(next)).await;
                next += 1;
            }
            next
        })
    };
    let group = client.group(&unique("group"));
    let tp = TopicPartition::new(topic.as_str(), 1);
    for broker in 1..=3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.kill9(broker).await.unwrap();
        let commit = [(tp.clone(), CommittedOffset::from(Offset(i64::from(broker))))];
        within("a commit while a broker is gone", group.commit(&commit)).await.unwrap();
        let written = producer.metrics().records;
        within("records while a broker is gone", async {
            while producer.metrics().records < written + 50 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        cluster.restart(broker).await.unwrap();
        // The next one may go when all replicas are in sync again.
        let in_sync = || async {
            let described = client.admin().describe_topics(&[&topic]).await;
            described.is_ok_and(|described| {
                described[0]
                    .1
                    .as_ref()
                    .is_ok_and(|topic| topic.partitions.iter().all(|partition| partition.isr.len() == 3))
            })
        };
        eventually("all replicas are in sync", in_sync, true).await;
    }
    reads.store(false, Ordering::Relaxed);
    assert!(within("the reader", reading).await.unwrap() >= 10);
    running.store(false, Ordering::Relaxed);
    let tickets = within("the writer", writer).await.unwrap();
    within("the flush", producer.flush()).await.unwrap();
    let mut judge = Judge::new();
    for ((key, ticket), number) in tickets.into_iter().zip(0..) {
        ticket.await.unwrap();
        judge.expect(key.as_bytes(), number);
    }
    for partition in 0..3 {
        let tp = TopicPartition::new(topic.as_str(), partition);
        for record in read(&client, &tp, Isolation::ReadUncommitted).await {
            let number = text(record.value.as_deref()).parse().unwrap();
            judge.see(&topic, partition, record.offset.0, record.key.as_deref().unwrap(), number);
        }
    }
    let verdict = judge.verdict();
    assert!(verdict.is_clean(), "{verdict}");
    let found = group.fetch(Some(std::slice::from_ref(&tp)), true).await.unwrap();
    assert_eq!(found[0].1.as_ref().unwrap().as_ref().map(|found| found.offset.0), Some(3));
}
