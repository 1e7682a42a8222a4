//! The set-up of the tests itself: what [`Env`] hands out is a broker that keeps what it acknowledged.
#![allow(clippy::unwrap_used)] // in a test a panic is the report

use std::time::Duration;

use milena::{
    Client, FetchFrom, FetchOptions, Isolation, Offset, OffsetSpec, PartitionId, Producer, ProducerConfig,
    ProducerRecord, TopicPartition,
};
use milena_tests::{Env, create_topic, own_kafka, unique};

async fn write(client: &Client, topic: &str, values: std::ops::Range<u32>) {
    let producer = Producer::new(client, ProducerConfig::default()).unwrap();
    for number in values {
        let value = number.to_be_bytes();
        let record = ProducerRecord::to(topic).partition(PartitionId(0)).value(&value);
        let _ticket = producer.send(record).await.unwrap();
    }
    producer.flush().await.unwrap();
    producer.close(Duration::from_secs(10)).await.unwrap();
}

async fn read(client: &Client, topic: &str) -> Vec<u32> {
    let fetcher = client.fetcher();
    let tp = TopicPartition::new(topic, PartitionId(0));
    let latest = [(tp.clone(), OffsetSpec::Latest)];
    let end = client.list_offsets(&latest, Isolation::ReadCommitted).await.unwrap().remove(0).1.unwrap();
    let (mut next, mut values) = (Offset(0), Vec::new());
    while next < end.offset.unwrap() {
        for fetched in
            fetcher.fetch(&[FetchFrom::new(tp.clone(), next)], &FetchOptions::default()).await.unwrap()
        {
            assert!(fetched.error.is_none(), "{:?}", fetched.error);
            next = fetched.next_offset();
            let records = fetched.owned_records().unwrap();
            values.extend(
                records
                    .iter()
                    .map(|record| u32::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())),
            );
        }
    }
    values
}

#[tokio::test]
async fn every_broker_returns_what_was_written() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("env", 3).await;
        write(&client, &topic, 0..500).await;
        assert_eq!(read(&client, &topic).await, (0..500).collect::<Vec<_>>(), "{}", env.describe());
    }
}

#[tokio::test]
async fn what_a_real_kafka_acknowledged_survives_kill_9() {
    let Some(kafka) = own_kafka(|options| options).await else { return };
    let client = Client::connect(kafka.bootstrap()).await.unwrap();
    let topic = unique("killed");
    create_topic(&client, &topic, 1).await;
    write(&client, &topic, 0..500).await;
    kafka.kill9().await.unwrap();
    kafka.restart().await.unwrap();
    write(&client, &topic, 500..600).await;
    assert_eq!(read(&client, &topic).await, (0..600).collect::<Vec<_>>());
}
