//! What the consumer allocates while records are taken: something for each batch, nothing for a record.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::time::Duration;

use allocation_counter::measure;
use milena::{
    Consumer, ConsumerConfig, Header, Offset, Producer, ProducerConfig, ProducerRecord, Start, TopicPartition,
};
use milena_testkit::broker::BrokerConfig;
use support::embedded;

const RECORDS: usize = 20_000;

#[tokio::test]
async fn no_record_costs_an_allocation_in_any_way_it_is_taken() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "allocations", 1).await;
    let config = ProducerConfig { batch_size: 100_000, ..ProducerConfig::default() };
    let producer = Producer::new(&client, config).unwrap();
    for number in 0..RECORDS {
        let value = [number as u8; 50];
        let headers = [Header::new("name", Some(b"x"))];
        let record = ProducerRecord::to(&topic).partition(0).key(b"key").value(&value).headers(&headers);
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let tp = TopicPartition::new(topic.as_str(), 0);
    let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
    let start = Start::At(Offset(0).into());
    // Everything lies in the queue before it is looked at, so that only looking is counted.
    let settle = async |consumer: &Consumer| {
        let mut before = 0;
        while before == 0 || consumer.partitions()[0].buffered != before {
            before = consumer.partitions()[0].buffered;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let batches = RECORDS * 64 / 100_000 + 2;

    consumer.assign([(tp.clone(), start)]);
    settle(&consumer).await;
    let (mut seen, mut bytes) = (0, 0);
    let info = measure(|| {
        while let Some(record) = consumer.try_recv() {
            seen += 1;
            bytes += record.value().unwrap().len() + record.key().unwrap().len();
            bytes += record.headers().iter().map(|header| header.name.len()).sum::<usize>();
        }
    });
    assert_eq!((seen, bytes), (RECORDS, RECORDS * 57));
    assert!(info.count_total < 8 * batches as u64, "{info:?} for {batches} batches");

    consumer.seek(&tp, start).unwrap();
    settle(&consumer).await;
    let mut seen = 0;
    while seen < RECORDS {
        let part = consumer.poll(Duration::from_secs(20)).await.unwrap().unwrap();
        let info = measure(|| {
            seen += part.iter().map(|record| usize::from(record.unwrap().value.is_some())).sum::<usize>();
        });
        assert_eq!(info.count_total, 0, "{info:?}");
    }
}
