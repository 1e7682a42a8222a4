//! A consumer whose application does not want everything now: partitions that are held back, stops, ends, parts taken batch by batch.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

mod support;

use std::time::Duration;

use milena::{
    Client, Compression, Consumer, ConsumerConfig, Isolation, Offset, PartitionRecords, PartitionStatus,
    Producer, ProducerConfig, ProducerRecord, Start, TopicPartition, TransactionConfig,
    TransactionalProducer,
};
use milena_testkit::broker::BrokerConfig;
use support::{CODECS, embedded};

/// Only a hang takes so long.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

async fn write(client: &Client, tp: &TopicPartition, numbers: std::ops::Range<usize>, codec: Compression) {
    let config = ProducerConfig { batch_size: 1000, compression: codec, ..ProducerConfig::default() };
    let producer = Producer::new(client, config).unwrap();
    for number in numbers {
        let value = format!("{number:0100}");
        let record = ProducerRecord::to(&tp.topic).partition(tp.partition.0).value(&value);
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
}

fn consumer(client: &Client, tps: &[TopicPartition], config: ConsumerConfig) -> Consumer {
    let consumer = Consumer::new(client, config).unwrap();
    consumer.assign(tps.iter().map(|tp| (tp.clone(), Start::At(Offset(0).into()))));
    consumer
}

fn numbers(part: &PartitionRecords) -> Vec<usize> {
    let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse().unwrap();
    part.iter().map(|record| number(record.unwrap().value.unwrap())).collect()
}

/// The next `count` numbers, all of one partition.
async fn read(consumer: &mut Consumer, tp: &TopicPartition, count: usize) -> Vec<usize> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let part = consumer.poll(LONG).await.unwrap();
        let part = part.unwrap_or_else(|| panic!("{} of {count}: {:?}", seen.len(), consumer.partitions()));
        assert_eq!(part.tp(), tp);
        seen.extend(numbers(&part));
    }
    seen
}

/// Waits until it is so.
async fn until(consumer: &Consumer, tp: &TopicPartition, is_so: impl Fn(&PartitionStatus, usize) -> bool) {
    for _ in 0..2000 {
        let state = consumer.partition(tp).unwrap();
        if is_so(&state.status, state.buffered) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", consumer.partition(tp));
}

#[tokio::test]
async fn what_is_held_back_is_kept_and_not_fetched_again() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    for codec in [Compression::None, Compression::Lz4] {
        let topic = support::topic(&client, "held", 2).await;
        let tps = [0, 1].map(|partition| TopicPartition::new(topic.as_str(), partition));
        write(&client, &tps[0], 0..500, codec).await;
        let mut consumer = consumer(&client, &tps, ConsumerConfig::default());
        until(&consumer, &tps[0], |_, buffered| buffered > 0).await;
        consumer.hold(&tps[0]).unwrap();
        write(&client, &tps[1], 0..10, codec).await;
        write(&client, &tps[0], 500..600, codec).await;
        assert_eq!(read(&mut consumer, &tps[1], 10).await, Vec::from_iter(0..10));
        assert!(consumer.poll(SHORT).await.unwrap().is_none());
        let state = consumer.partition(&tps[0]).unwrap();
        assert!(matches!(state.status, PartitionStatus::Held { bytes } if bytes > 0), "{state:?}");
        assert_eq!(state.position.unwrap().offset, Offset(0));
        let bytes = consumer.metrics().bytes;
        consumer.release(&tps[0]).unwrap();
        assert_eq!(read(&mut consumer, &tps[0], 600).await, Vec::from_iter(0..600), "{codec:?}");
        let metrics = consumer.metrics();
        assert_eq!(metrics.stale_parts, 0);
        assert!(codec != Compression::None || metrics.bytes - bytes < 20_000, "{bytes} and then {metrics:?}");
    }
}

/// What waits for others must not keep them from coming.
#[tokio::test]
async fn a_buffer_full_of_what_is_held_back_starves_nobody() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    for codec in [Compression::None, Compression::Zstd] {
        let topic = support::topic(&client, "full", 2).await;
        let tps = [0, 1].map(|partition| TopicPartition::new(topic.as_str(), partition));
        write(&client, &tps[0], 0..8000, codec).await;
        let config =
            ConsumerConfig { buffer_bytes: 256 * 1024, max_bytes: 50_000, ..ConsumerConfig::default() };
        let mut consumer = consumer(&client, &tps, config);
        // Taken and kept by the application, which is what fills the buffer for good.
        let mut kept = Vec::new();
        while consumer.metrics().buffered_bytes < 230_000 {
            match consumer.poll(SHORT).await.unwrap() {
                Some(part) => kept.push(part),
                None => break,
            }
        }
        consumer.hold(&tps[0]).unwrap();
        tokio::time::sleep(SHORT).await;
        write(&client, &tps[1], 0..3000, codec).await;
        assert_eq!(read(&mut consumer, &tps[1], 3000).await, Vec::from_iter(0..3000), "{codec:?}");
        let peak = consumer.metrics().peak_buffered_bytes;
        assert!(peak < 256 * 1024 + 300_000, "{peak} bytes");
        consumer.release(&tps[0]).unwrap();
        let kept: Vec<usize> = kept.drain(..).flat_map(|part| numbers(&part)).collect();
        assert_eq!(kept, Vec::from_iter(0..kept.len()));
        let rest = read(&mut consumer, &tps[0], 8000 - kept.len()).await;
        assert_eq!(rest, Vec::from_iter(kept.len()..8000), "{codec:?}");
    }
}

#[tokio::test]
async fn a_part_in_hand_waits_with_its_partition() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "hand", 1).await;
    let tps = [TopicPartition::new(topic.as_str(), 0)];
    write(&client, &tps[0], 0..300, Compression::None).await;
    let mut consumer = consumer(&client, &tps, ConsumerConfig::default());
    for offset in 0..100 {
        assert_eq!(consumer.recv().await.unwrap().offset(), Offset(offset));
    }
    consumer.hold(&tps[0]).unwrap();
    assert!(consumer.try_recv().is_none() && consumer.try_poll().unwrap().is_none());
    assert_eq!(consumer.position(&tps[0]).unwrap().offset, Offset(100));
    consumer.release(&tps[0]).unwrap();
    for offset in 100..300 {
        assert_eq!(consumer.recv().await.unwrap().offset(), Offset(offset));
    }
}

#[tokio::test]
async fn nothing_is_asked_behind_a_stop() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "stop", 1).await;
    let tps = [TopicPartition::new(topic.as_str(), 0)];
    write(&client, &tps[0], 0..300, Compression::None).await;
    let config = ConsumerConfig { max_bytes: 1000, ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &tps, config);
    consumer.stop_at(&tps[0], Some(Offset(100))).unwrap();
    let first = read(&mut consumer, &tps[0], 100).await;
    assert!(first.len() < 120, "no more than the batch with the stop, and one that was on its way");
    until(&consumer, &tps[0], |status, _| *status == PartitionStatus::AtStop).await;
    let fetches = broker.with_broker(|broker| broker.requests(1));
    assert!(consumer.poll(SHORT).await.unwrap().is_none());
    assert_eq!(broker.with_broker(|broker| broker.requests(1)), fetches);
    consumer.stop_at(&tps[0], None).unwrap();
    let rest = read(&mut consumer, &tps[0], 300 - first.len()).await;
    assert_eq!([first, rest].concat(), Vec::from_iter(0..300));
}

/// A position that moves over what nobody sees is told, and that nothing is left is told once.
#[tokio::test]
async fn progress_without_records_is_told_if_asked_for() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "progress", 1).await;
    let tps = [TopicPartition::new(topic.as_str(), 0)];
    let mut producer = TransactionalProducer::new(&client, TransactionConfig::new("t")).unwrap();
    producer.init().await.unwrap();
    for _ in 0..2 {
        producer.begin().await.unwrap();
        let record = ProducerRecord::to(topic.as_str()).partition(0).value("x");
        // What is aborted has to be in the log before.
        producer.send(record).await.unwrap().await.unwrap();
        producer.abort().await.unwrap();
    }
    let config =
        ConsumerConfig { progress: true, isolation: Isolation::ReadCommitted, ..ConsumerConfig::default() };
    let mut told = consumer(&client, &tps, config.clone());
    for _ in 0..3 {
        let mut position = Offset(0);
        let begun = std::time::Instant::now();
        let end = loop {
            let part = told.poll(LONG).await.unwrap().expect("progress");
            assert!(part.is_empty() && part.iter().next().is_none() && part.front().is_none());
            if part.is_end() {
                break part;
            }
            assert!(part.next_offset() > position);
            position = part.next_offset();
        };
        assert!(begun.elapsed() < LONG / 2, "it is told when the answer comes, not when the wait is over");
        assert_eq!((end.next_offset(), end.last_stable_offset()), (Offset(4), Some(Offset(4))));
        assert!(told.partition(&tps[0]).unwrap().caught_up.is_some());
        assert!(told.poll(SHORT).await.unwrap().is_none(), "the end is told once");
        told.seek(&tps[0], Start::At(Offset(0).into())).unwrap();
    }
    // Who did not ask hears of records only.
    let mut quiet = consumer(&client, &tps, ConsumerConfig { progress: false, ..config });
    until(&quiet, &tps[0], |status, _| matches!(status, PartitionStatus::Fetching { .. })).await;
    assert!(quiet.poll(SHORT).await.unwrap().is_none());
    assert_eq!(quiet.position(&tps[0]).unwrap().offset, Offset(4));
}

#[tokio::test]
async fn batches_taken_one_by_one_are_the_records_of_the_part() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    for codec in CODECS {
        let topic = support::topic(&client, "front", 1).await;
        let tps = [TopicPartition::new(topic.as_str(), 0)];
        write(&client, &tps[0], 0..200, codec).await;
        let mut consumer = consumer(&client, &tps, ConsumerConfig::default());
        // From the middle of a batch on: what lies before it is not news.
        consumer.seek(&tps[0], Start::At(Offset(3).into())).unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&199) {
            let mut part = consumer.poll(LONG).await.unwrap().unwrap();
            let expected: Vec<i64> = part.iter().map(|record| record.unwrap().offset.0).collect();
            let (batches, first) = (part.batches().count(), seen.len());
            let mut taken = 0;
            while let Some(batch) = part.front() {
                let batch = batch.unwrap();
                assert_eq!(batch.batch.leader_epoch(), part.leader_epoch());
                seen.extend(
                    batch.records.map(|record| record.unwrap().offset.0).filter(|&offset| offset >= 3),
                );
                part.pop_front();
                taken += 1;
                assert_eq!(part.batches().count(), batches - taken);
            }
            assert!(part.is_empty() && !part.is_end());
            assert_eq!(seen[first..], expected, "{codec:?}");
        }
    }
}
