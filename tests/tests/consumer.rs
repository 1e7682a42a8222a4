//! The consumer on the embedded broker and on a real Kafka: codecs, transactions, sessions, seeks, commits.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{
    Compression, Consumer, ConsumerConfig, ErrorKind, Isolation, Offset, OffsetReset, OffsetSpec,
    PartitionStatus, ProducerConfig, ProducerRecord, Start, TopicPartition, TransactionConfig,
    TransactionalProducer,
};
use milena_tests::Env;
use milena_tests::records::{within, write};

/// Takes `count` records; the values of each partition, in their order.
async fn take(consumer: &mut Consumer, count: usize) -> BTreeMap<i32, Vec<usize>> {
    let (mut found, mut seen) = (BTreeMap::new(), 0);
    while seen < count {
        let part = within("records", consumer.poll(Duration::from_secs(600))).await.unwrap().unwrap();
        let values: &mut Vec<usize> = found.entry(part.tp().partition.0).or_default();
        for record in &part {
            values.push(std::str::from_utf8(record.unwrap().value.unwrap()).unwrap().parse().unwrap());
            seen += 1;
        }
    }
    assert_eq!(seen, count);
    found
}

fn each(partitions: i32, numbers: std::ops::Range<usize>) -> BTreeMap<i32, Vec<usize>> {
    (0..partitions).map(|partition| (partition, numbers.clone().collect())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_partitions_are_read_to_their_ends_and_on_in_every_codec() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("consumed", 6).await;
        let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
        let tps = || (0..6).map(|partition| TopicPartition::new(topic.as_str(), partition));
        consumer.assign(tps().map(|tp| (tp, Start::Earliest)));
        let codecs =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        let size = 3000;
        for (round, compression) in codecs.into_iter().enumerate() {
            let numbers = round * size..(round + 1) * size;
            let texts: Vec<String> = numbers.clone().map(|number| number.to_string()).collect();
            let records = texts.iter().flat_map(|text| {
                (0..6).map(|partition| ProducerRecord::to(&topic).partition(partition).value(text))
            });
            write(&client, ProducerConfig { compression, ..ProducerConfig::default() }, records).await;
            assert_eq!(take(&mut consumer, 6 * size).await, each(6, numbers), "{}", env.describe());
        }
        for partition in consumer.partitions() {
            let end = Offset(codecs.len() as i64 * size as i64);
            assert_eq!((partition.position.unwrap().offset, consumer.lag(&partition.tp)), (end, Some(0)));
        }
        // A seek back, a pause, and a partition taken away, in the middle of it all.
        let tp = |partition: i32| TopicPartition::new(topic.as_str(), partition);
        consumer.seek(&tp(1), Start::At(Offset(14_000).into())).unwrap();
        consumer.seek(&tp(2), Start::Earliest).unwrap();
        consumer.pause(&tp(2)).unwrap();
        consumer.unassign([&tp(3)]);
        let found = take(&mut consumer, 1000).await;
        assert_eq!(found, BTreeMap::from([(1, (14_000..15_000).collect())]), "{}", env.describe());
        assert_eq!(consumer.partition(&tp(2)).unwrap().status, PartitionStatus::Paused);
        consumer.resume(&tp(2)).unwrap();
        for number in 0..15_000 {
            let record = within("a record", consumer.recv()).await.unwrap();
            assert_eq!(
                (record.tp().partition.0, record.offset(), record.value()),
                (2, Offset(number), Some(number.to_string().as_bytes()))
            );
        }
        let metrics = consumer.metrics();
        assert_eq!((metrics.failed_fetches, metrics.failures, metrics.stalls), (0, 0, 0), "{metrics:?}");
        within("closing", consumer.close(Duration::from_secs(30))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_records_are_left_out_and_open_ones_waited_for() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("consumed-txn", 1).await;
        let id = env.name("consumer");
        let mut producer = TransactionalProducer::new(&client, TransactionConfig::new(id)).unwrap();
        producer.init().await.unwrap();
        let config = ConsumerConfig { isolation: Isolation::ReadCommitted, ..ConsumerConfig::default() };
        let mut consumer = Consumer::new(&client, config).unwrap();
        consumer.assign([(TopicPartition::new(topic.as_str(), 0), Start::Earliest)]);
        for transaction in 0..4 {
            producer.begin().await.unwrap();
            for number in 0..50 {
                let value = (transaction * 50 + number).to_string();
                let record = ProducerRecord::to(&topic).partition(0).value(&value);
                producer.send(record).await.unwrap().await.unwrap();
            }
            let early = consumer.poll(Duration::from_millis(50)).await.unwrap();
            assert!(early.is_none(), "{}: an open transaction was read", env.describe());
            if transaction % 2 == 0 {
                producer.commit().await.unwrap();
                let numbers = transaction * 50..(transaction + 1) * 50;
                assert_eq!(take(&mut consumer, 50).await, each(1, numbers), "{}", env.describe());
            } else {
                producer.abort().await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_where_the_group_committed() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("consumed-group", 2).await;
        let texts: Vec<String> = (0..200).map(|number: usize| number.to_string()).collect();
        let records = texts.iter().flat_map(|text| {
            (0..2)
                .map(|partition| ProducerRecord::to(&topic).partition(partition).value(text).timestamp(5000))
        });
        write(&client, ProducerConfig::default(), records).await;
        let config = ConsumerConfig {
            group: Some(env.name("consumers")),
            reset: OffsetReset::Earliest,
            ..ConsumerConfig::default()
        };
        let tps = || (0..2).map(|partition| TopicPartition::new(topic.as_str(), partition));
        let mut seen: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        // Three lives, each of which takes some, commits, and ends.
        for _ in 0..4 {
            let mut consumer = Consumer::new(&client, config.clone()).unwrap();
            consumer.assign(tps().map(|tp| (tp, Start::Committed)));
            for _ in 0..100 {
                let record = within("a record", consumer.recv()).await.unwrap();
                let number = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
                seen.entry(record.tp().partition.0).or_default().push(number);
            }
            within("the commit", consumer.commit()).await.unwrap();
            within("closing", consumer.close(Duration::from_secs(30))).await.unwrap();
        }
        assert_eq!(seen, each(2, 0..200), "{}", env.describe());
        // By time: the first record of that time, and the end where there is none.
        let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
        let tp = TopicPartition::new(topic.as_str(), 0);
        consumer.assign([(tp.clone(), Start::Time(5000))]);
        assert_eq!(within("a record", consumer.next()).await.unwrap().record.offset, Offset(0));
        let found = consumer.offsets(&[(tp.clone(), OffsetSpec::Timestamp(5001))]).await.unwrap();
        assert_eq!(found[0].1.as_ref().unwrap().offset, None);
        // A position behind the end is told, not moved.
        consumer.seek(&tp, Start::At(Offset(1000).into())).unwrap();
        let error = within("the error", consumer.recv()).await.unwrap_err();
        assert_eq!((error.kind(), error.partition()), (ErrorKind::DataLoss, Some(tp.partition)), "{error}");
    }
}
