//! The producer on three real brokers whose leaders are killed and frozen.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::time::Duration;

use milena::{Client, Isolation, NewTopic, Producer, ProducerConfig, ProducerRecord, TopicPartition};
use milena_testkit::kafka::{KafkaCluster, or_skip};
use support::{unique, values};

const RECORDS: usize = 12_000;

#[tokio::test]
async fn leaders_that_are_killed_or_frozen_lose_double_and_reorder_nothing() {
    let Some(cluster) = or_skip(KafkaCluster::start(3).await) else { return };
    let mut config =
        milena::ClientConfig::from(cluster.bootstrap()).with_request_timeout(Duration::from_secs(3));
    config.connect_timeout = Duration::from_secs(3);
    let client = Client::connect(config).await.unwrap();
    let name = unique("moved");
    let mut new = NewTopic::new(&name, 3);
    new.replication = 3;
    for (_, outcome) in client.admin().create_topics(&[new], Duration::from_secs(20)).await.unwrap() {
        outcome.unwrap();
    }
    let config = ProducerConfig {
        batch_size: 2048,
        request_timeout: Duration::from_secs(3),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(&client, config).unwrap();
    let sender = {
        let (producer, name) = (producer.clone(), name.clone());
        tokio::spawn(async move {
            for number in 0..RECORDS {
                for partition in 0..3 {
                    let value = number.to_string();
                    let record = ProducerRecord::to(&name).partition(partition).value(&value);
                    drop(producer.send(record).await.unwrap());
                }
                if number % 10 == 0 {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
            }
        })
    };
    let leader = |partition: i32| {
        let (client, tp) = (client.clone(), TopicPartition::new(name.as_str(), partition));
        async move { client.leader(&tp).await.unwrap().0 }
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let killed = leader(0).await;
    cluster.kill9(killed).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!sender.is_finished(), "it is killed in the middle");
    cluster.restart(killed).await.unwrap();
    cluster.wait_for_members(3).await.unwrap();
    let frozen = leader(1).await;
    cluster.pause(frozen).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.unpause(frozen).await.unwrap();
    sender.await.unwrap();
    producer.flush().await.unwrap();
    let found = values(&client, &name, 3, Isolation::ReadUncommitted).await;
    for found in found {
        let differs = found.iter().enumerate().find(|(place, value)| **value != place.to_string());
        assert_eq!((differs, found.len()), (None, RECORDS), "{:?}", producer.metrics());
    }
    println!("{:?}", producer.metrics());
}
