//! The consumer on an embedded broker: what is delivered, from where, and what goes wrong on the way.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{
    Client, Compression, Consumer, ConsumerConfig, ErrorCode, ErrorKind, Isolation, Offset, OffsetReset,
    OnDataLoss, PartitionStatus, Producer, ProducerConfig, ProducerRecord, Start, TopicPartition,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use support::{CODECS, embedded};

const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const OFFSET_FETCH: i16 = 9;
/// Only a hang takes so long.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// Writes `count` records to each partition: their numbers.
async fn write(client: &Client, topic: &str, partitions: i32, numbers: std::ops::Range<usize>) {
    write_with(client, topic, partitions, numbers, Compression::None).await;
}

async fn write_with(
    client: &Client,
    topic: &str,
    partitions: i32,
    numbers: std::ops::Range<usize>,
    compression: Compression,
) {
    let config = ProducerConfig { batch_size: 1000, compression, ..ProducerConfig::default() };
    let producer = Producer::new(client, config).unwrap();
    for number in numbers {
        for partition in 0..partitions {
            let value = number.to_string();
            let record = ProducerRecord::to(topic).partition(partition).value(&value);
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
}

fn consumer(client: &Client, topic: &str, partitions: i32, config: ConsumerConfig) -> Consumer {
    let consumer = Consumer::new(client, config).unwrap();
    consumer
        .assign((0..partitions).map(|partition| (TopicPartition::new(topic, partition), Start::Earliest)));
    consumer
}

/// Polls until `count` records came; the numbers of each partition, in their order.
async fn read(consumer: &mut Consumer, count: usize) -> BTreeMap<i32, Vec<usize>> {
    let (mut found, mut seen) = (BTreeMap::new(), 0);
    while seen < count {
        let part = consumer.poll(LONG).await.unwrap();
        let part = part.unwrap_or_else(|| panic!("{seen} of {count}: {:?}", consumer.partitions()));
        let numbers: &mut Vec<usize> = found.entry(part.tp().partition.0).or_default();
        for record in &part {
            let value = record.unwrap().value.unwrap();
            numbers.push(std::str::from_utf8(value).unwrap().parse().unwrap());
            seen += 1;
        }
    }
    found
}

fn all(partitions: i32, numbers: std::ops::Range<usize>) -> BTreeMap<i32, Vec<usize>> {
    (0..partitions).map(|partition| (partition, numbers.clone().collect())).collect()
}

#[tokio::test]
async fn every_record_comes_once_and_in_order_in_every_codec() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    for codec in CODECS {
        let topic = support::topic(&client, "all", 4).await;
        write_with(&client, &topic, 4, 0..2000, codec).await;
        let mut consumer = consumer(&client, &topic, 4, ConsumerConfig::default());
        assert_eq!(read(&mut consumer, 8000).await, all(4, 0..2000), "{codec:?}");
        // What is written later comes as well.
        write_with(&client, &topic, 4, 2000..2100, codec).await;
        assert_eq!(read(&mut consumer, 400).await, all(4, 2000..2100), "{codec:?}");
        for partition in consumer.partitions() {
            assert_eq!(partition.position.unwrap().offset, Offset(2100));
            assert_eq!(consumer.lag(&partition.tp), Some(0));
        }
        assert!(consumer.poll(SHORT).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_by_errors_and_lost_answers() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "faults", 3).await;
    write(&client, &topic, 3, 0..3000).await;
    let config = ConsumerConfig { max_bytes: 2000, ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &topic, 3, config);
    let faults = broker.faults();
    for fault in [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        Fault::Error(ErrorCode::FENCED_LEADER_EPOCH),
        Fault::Error(ErrorCode::UNKNOWN_LEADER_EPOCH),
        Fault::Error(ErrorCode::FETCH_SESSION_ID_NOT_FOUND),
        Fault::Delay(Duration::from_millis(300)),
    ] {
        faults.on_after(2, FETCH, fault, 2);
    }
    faults.on(LIST_OFFSETS, Fault::Error(ErrorCode::LEADER_NOT_AVAILABLE), 2);
    faults.on(LIST_OFFSETS, Fault::DropAfter, 1);
    assert_eq!(read(&mut consumer, 9000).await, all(3, 0..3000));
    assert!(faults.unused().is_empty(), "{:?}", faults.unused());
    assert!(consumer.metrics().failed_fetches >= 4, "{:?}", consumer.metrics());
}

/// Waits until something of each partition waits for the application.
async fn buffered(consumer: &Consumer) {
    for _ in 0..2000 {
        if consumer.partitions().iter().all(|partition| partition.buffered > 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", consumer.partitions());
}

#[tokio::test]
async fn paused_sought_and_removed_partitions_drop_what_waits_of_them() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "drop", 4).await;
    write(&client, &topic, 4, 0..500).await;
    let mut consumer = consumer(&client, &topic, 4, ConsumerConfig::default());
    let tp = |partition: i32| TopicPartition::new(topic.as_str(), partition);
    buffered(&consumer).await;
    consumer.pause(&tp(0)).unwrap();
    consumer.seek(&tp(1), Start::At(Offset(400).into())).unwrap();
    consumer.unassign([&tp(2)]);
    assert_eq!(consumer.partition(&tp(0)).unwrap().status, PartitionStatus::Paused);
    assert_eq!(consumer.partition(&tp(0)).unwrap().buffered, 0);
    assert!(consumer.partition(&tp(2)).is_none() && consumer.seek(&tp(2), Start::Latest).is_err());
    let expected = BTreeMap::from([(1, (400..500).collect()), (3, (0..500).collect())]);
    assert_eq!(read(&mut consumer, 600).await, expected);
    assert!(consumer.poll(SHORT).await.unwrap().is_none());
    consumer.resume(&tp(0)).unwrap();
    assert_eq!(read(&mut consumer, 500).await, all(1, 0..500));
    // A pause in the middle goes on there; a seek back reads again.
    write(&client, &topic, 1, 500..600).await;
    consumer.pause(&tp(0)).unwrap();
    consumer.resume(&tp(0)).unwrap();
    assert_eq!(read(&mut consumer, 100).await, all(1, 500..600));
    consumer.seek(&tp(0), Start::Earliest).unwrap();
    assert_eq!(read(&mut consumer, 600).await, all(1, 0..600));
    assert!(consumer.metrics().stale_parts >= 3, "{:?}", consumer.metrics());
}

#[tokio::test]
async fn records_that_are_gone_are_an_error_unless_a_reset_was_asked_for() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "gone", 2).await;
    write(&client, &topic, 2, 0..1000).await;
    assert!(broker.with_broker(|broker| broker.lose_before(&topic, 0, 300)));
    let (start, _, _) = broker.with_broker(|broker| broker.offsets(&topic, 0)).unwrap();
    let start = usize::try_from(start).unwrap();
    let tp = TopicPartition::new(topic.as_str(), 0);
    let mut strict = consumer(&client, &topic, 2, ConsumerConfig::default());
    strict.seek(&tp, Start::At(Offset(7).into())).unwrap();
    let error = loop {
        match strict.poll(LONG).await {
            Ok(part) => assert_eq!(part.unwrap().tp().partition.0, 1),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.partition()), (ErrorKind::DataLoss, Some(tp.partition)), "{error}");
    assert!(error.to_string().contains("offset 7"), "{error}");
    assert!(matches!(strict.partition(&tp).unwrap().status, PartitionStatus::Failed { .. }));
    strict.unassign([&TopicPartition::new(topic.as_str(), 1)]);
    strict.seek(&tp, Start::Earliest).unwrap();
    assert_eq!(read(&mut strict, 1000 - start).await, all(1, start..1000));
    // A truncated log: the reader had more than there is now.
    broker.with_broker(|broker| broker.truncate(&topic, 0, 900));
    let error = loop {
        if let Err(error) = strict.poll(LONG).await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");

    let config = ConsumerConfig {
        reset: OffsetReset::Earliest,
        on_data_loss: OnDataLoss::Reset,
        ..ConsumerConfig::default()
    };
    let mut easy = consumer(&client, &topic, 1, config);
    easy.seek(&tp, Start::At(Offset(7).into())).unwrap();
    let part = easy.poll(LONG).await.unwrap().unwrap();
    assert_eq!(part.iter().next().unwrap().unwrap().offset.0, start as i64);
}

#[tokio::test]
async fn a_partition_without_leader_says_so_and_holds_up_nobody() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "slow", 3).await;
    write(&client, &topic, 3, 0..500).await;
    broker.with_broker(|broker| broker.set_leaderless(&topic, 0, true));
    client.metadata(Some(&[&topic])).await.unwrap();
    let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
    let tp = |partition: i32| TopicPartition::new(topic.as_str(), partition);
    consumer.assign((0..3).map(|partition| (tp(partition), Start::At(Offset(0).into()))));
    let others = read(&mut consumer, 1000).await;
    assert!(others.len() == 2 && others.values().all(|numbers| numbers.len() == 500));
    let status = consumer.partition(&tp(0)).unwrap().status;
    assert!(
        matches!(status, PartitionStatus::WaitingForLeader | PartitionStatus::BackOff { .. }),
        "{status:?}"
    );
    broker.with_broker(|broker| broker.set_leaderless(&topic, 0, false));
    assert_eq!(read(&mut consumer, 500).await, all(1, 0..500));
}

#[tokio::test]
async fn a_slow_application_bounds_what_is_fetched() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "bounded", 20).await;
    write(&client, &topic, 20, 0..10_000).await;
    let limit = 512 * 1024;
    let config = ConsumerConfig { buffer_bytes: limit, max_bytes: 100_000, ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &topic, 20, config);
    let mut held = 0;
    // As long as it grows.
    while held == 0 || consumer.metrics().buffered_bytes != held {
        held = consumer.metrics().buffered_bytes;
        tokio::time::sleep(SHORT).await;
    }
    let full = consumer.metrics();
    assert!(full.peak_buffered_bytes <= limit as u64 && full.bytes > 200_000, "{full:?}");
    let starved = |status: &PartitionStatus| {
        matches!(status, PartitionStatus::WaitingForRoom { .. } | PartitionStatus::Buffered { .. })
    };
    assert!(consumer.partitions().iter().all(|partition| starved(&partition.status)));
    let found = read(&mut consumer, 200_000).await;
    assert_eq!(found, all(20, 0..10_000));
    assert!(consumer.metrics().peak_buffered_bytes <= limit as u64, "{:?}", consumer.metrics());
}

#[tokio::test]
async fn decompressed_records_are_bounded_too_and_an_application_that_waits_gets_some() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "unpacked", 4).await;
    let config =
        ProducerConfig { batch_size: 100_000, compression: Compression::Zstd, ..ProducerConfig::default() };
    let producer = Producer::new(&client, config).unwrap();
    let (records, zeros) = (3000, [b'0'; 990]);
    for number in 0..records {
        for partition in 0..4 {
            // Mostly the same bytes: 12 MB that come as a few kilobytes.
            let value = [number.to_string().as_bytes(), b" ", &zeros].concat();
            let record = ProducerRecord::to(&topic).partition(partition).value(&value);
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
    let limit = 1 << 20;
    let config = ConsumerConfig { buffer_bytes: limit, ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &topic, 4, config);
    let mut held = 0;
    while held == 0 || consumer.metrics().buffered_bytes != held {
        held = consumer.metrics().buffered_bytes;
        tokio::time::sleep(SHORT).await;
    }
    // What is decompressed fills the buffer. A batch more for each thread, and no more than that.
    let most = (limit + 5 * 110_000) as u64;
    let full = consumer.metrics();
    assert!(full.buffered_bytes >= limit as u64 * 3 / 4 && full.peak_buffered_bytes <= most, "{full:?}");
    // A partition that is not wanted any more gives its room to the others, wherever its records wait.
    consumer.pause(&TopicPartition::new(topic.as_str(), 3)).unwrap();
    let (mut next, mut kept) = ([0; 4], Vec::new());
    while next[..3].iter().sum::<usize>() < 3 * records {
        let part = consumer.poll(LONG).await.unwrap().unwrap();
        let partition = part.tp().partition.0 as usize;
        for record in &part {
            let value = record.unwrap().value.unwrap();
            let number = value.split(|&byte| byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(number).unwrap(), next[partition].to_string());
            next[partition] += 1;
        }
        assert_eq!(consumer.partition(part.tp()).unwrap().position.unwrap().offset, part.next_offset());
        // One that keeps what it took and asks for more is served, too.
        if kept.len() < 20 {
            kept.push(part);
        }
    }
    assert_eq!(next, [records, records, records, 0]);
    drop(kept);
    consumer.resume(&TopicPartition::new(topic.as_str(), 3)).unwrap();
    let mut rest = 0;
    while rest < records {
        rest += consumer.poll(LONG).await.unwrap().unwrap().iter().count();
    }
    assert_eq!(rest, records);
}

#[tokio::test]
async fn a_dropped_poll_loses_nothing() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "cancel", 3).await;
    write(&client, &topic, 3, 0..3000).await;
    let config = ConsumerConfig { max_bytes: 1000, ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &topic, 3, config);
    let (mut found, mut seen, mut dropped) = (BTreeMap::new(), 0, 0);
    while seen < 9000 {
        let polled = futures_util::future::FutureExt::now_or_never(consumer.poll(LONG));
        let Some(part) = polled else {
            dropped += 1;
            tokio::task::yield_now().await;
            continue;
        };
        let part = part.unwrap().unwrap();
        let numbers: &mut Vec<usize> = found.entry(part.tp().partition.0).or_default();
        for record in &part {
            numbers.push(std::str::from_utf8(record.unwrap().value.unwrap()).unwrap().parse().unwrap());
            seen += 1;
        }
    }
    assert_eq!(found, all(3, 0..3000));
    assert!(dropped > 10, "{dropped}");
}

#[tokio::test]
async fn a_start_that_cannot_be_found_is_told_and_committed_ones_are_used() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "start", 2).await;
    write(&client, &topic, 2, 0..100).await;
    let tp = |partition: i32| TopicPartition::new(topic.as_str(), partition);
    client.group("g").commit(&[(tp(0), Offset(60).into())]).await.unwrap();
    broker.faults().on(OFFSET_FETCH, Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS), 1);
    let config = ConsumerConfig {
        group: Some("g".to_owned()),
        reset: OffsetReset::Error,
        ..ConsumerConfig::default()
    };
    let mut consumer = Consumer::new(&client, config.clone()).unwrap();
    consumer.assign((0..2).map(|partition| (tp(partition), Start::Committed)));
    let mut errors = 0;
    let mut found = Vec::new();
    while found.len() < 40 || errors == 0 {
        match consumer.poll(LONG).await {
            Ok(part) => found.extend(part.unwrap().iter().map(|record| record.unwrap().offset.0)),
            Err(error) => {
                assert_eq!(error.partition(), Some(tp(1).partition), "{error}");
                errors += 1;
            }
        }
    }
    assert_eq!((found, errors), ((60..100).collect(), 1));
    assert!(matches!(consumer.partition(&tp(1)).unwrap().status, PartitionStatus::Failed { .. }));

    let config = ConsumerConfig { reset: OffsetReset::Earliest, ..config };
    let mut consumer = Consumer::new(&client, config).unwrap();
    consumer.assign((0..2).map(|partition| (tp(partition), Start::Committed)));
    let found = read(&mut consumer, 140).await;
    assert_eq!(found, BTreeMap::from([(0, (60..100).collect()), (1, (0..100).collect())]));
    assert!(broker.faults().unused().is_empty());
}

#[tokio::test]
async fn what_is_not_committed_is_not_read_as_committed() {
    use milena::{TransactionConfig, TransactionalProducer};
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "txn", 1).await;
    let mut producer = TransactionalProducer::new(&client, TransactionConfig::new("consumer-txn")).unwrap();
    producer.init().await.unwrap();
    for (transaction, commit) in [true, false, true, false].into_iter().enumerate() {
        producer.begin().await.unwrap();
        for number in 0..10 {
            let value = (transaction * 10 + number).to_string();
            let record = ProducerRecord::to(&topic).partition(0).value(&value);
            // What is aborted has to be in the log before.
            producer.send(record).await.unwrap().await.unwrap();
        }
        match commit {
            true => producer.commit().await.unwrap(),
            false => producer.abort().await.unwrap(),
        }
    }
    let config = ConsumerConfig { isolation: Isolation::ReadCommitted, ..ConsumerConfig::default() };
    let mut committed = consumer(&client, &topic, 1, config);
    let expected: Vec<usize> = (0..10).chain(20..30).collect();
    assert_eq!(read(&mut committed, 20).await, BTreeMap::from([(0, expected)]));
    // Nothing visible comes, and the position goes on behind the markers and the aborted records all the same.
    assert!(committed.poll(SHORT).await.unwrap().is_none());
    let tp = TopicPartition::new(topic.as_str(), 0);
    assert_eq!(committed.position(&tp).unwrap().offset, Offset(44));
    let mut everything = consumer(&client, &topic, 1, ConsumerConfig::default());
    assert_eq!(read(&mut everything, 40).await, all(1, 0..40));
}

/// Takes `count` records one by one, in turns by every way there is; the numbers of each partition, in their order.
async fn read_each(consumer: &mut Consumer, count: usize) -> BTreeMap<i32, Vec<usize>> {
    use futures_util::StreamExt;
    let mut found: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    let number = |value: Option<&[u8]>| std::str::from_utf8(value.unwrap()).unwrap().parse().unwrap();
    for seen in 0..count {
        let (partition, number) = match seen % 5 {
            0 => {
                let record = tokio::time::timeout(LONG, consumer.next()).await.unwrap().unwrap();
                (record.tp.partition.0, number(record.record.value))
            }
            1 | 2 => {
                let record = tokio::time::timeout(LONG, consumer.recv()).await.unwrap().unwrap();
                assert_eq!(record.value_bytes().as_deref(), record.value());
                (record.tp().partition.0, number(record.value()))
            }
            3 => {
                let record = tokio::time::timeout(LONG, consumer.stream().next()).await.unwrap();
                let record = record.unwrap().unwrap();
                (record.tp().partition.0, number(record.as_record().value))
            }
            _ => {
                let Some(record) = consumer.try_recv() else {
                    let record = consumer.recv().await.unwrap();
                    found.entry(record.tp().partition.0).or_default().push(number(record.value()));
                    continue;
                };
                (record.tp().partition.0, number(record.value()))
            }
        };
        let numbers = found.entry(partition).or_default();
        numbers.push(number);
        let tp = TopicPartition::new(consumer.partitions()[0].tp.topic.clone(), partition);
        let expected = Offset(*numbers.last().unwrap() as i64 + 1);
        assert_eq!(consumer.position(&tp).unwrap().offset, expected);
    }
    found
}

#[tokio::test]
async fn records_come_one_by_one_in_every_way_and_the_position_is_behind_the_last() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    for codec in [Compression::None, Compression::Lz4] {
        let topic = support::topic(&client, "each", 2).await;
        write_with(&client, &topic, 2, 0..700, codec).await;
        let mut consumer = consumer(&client, &topic, 2, ConsumerConfig::default());
        assert_eq!(read_each(&mut consumer, 1400).await, all(2, 0..700));
        // Who takes whole parts afterwards gets the rest of what was begun.
        consumer.seek(&TopicPartition::new(topic.as_str(), 0), Start::Earliest).unwrap();
        for number in 0..100 {
            assert_eq!(consumer.recv().await.unwrap().offset(), Offset(number));
        }
        let rest = read(&mut consumer, 600).await;
        assert_eq!(rest, BTreeMap::from([(0, (100..700).collect())]));
    }
}

#[tokio::test]
async fn a_part_in_hand_is_left_when_its_partition_is_paused_sought_or_taken_away() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "hand", 1).await;
    write(&client, &topic, 1, 0..500).await;
    let mut consumer = consumer(&client, &topic, 1, ConsumerConfig::default());
    let tp = TopicPartition::new(topic.as_str(), 0);
    for number in 0..10 {
        assert_eq!(consumer.recv().await.unwrap().offset(), Offset(number));
    }
    consumer.pause(&tp).unwrap();
    assert!(consumer.try_recv().is_none());
    assert!(tokio::time::timeout(SHORT, consumer.next()).await.is_err());
    consumer.resume(&tp).unwrap();
    assert_eq!(consumer.recv().await.unwrap().offset(), Offset(10));
    consumer.seek(&tp, Start::At(Offset(77).into())).unwrap();
    assert_eq!(consumer.next().await.unwrap().record.offset, Offset(77));
    consumer.unassign([&tp]);
    assert!(consumer.try_recv().is_none() && consumer.position(&tp).is_none());
    consumer.assign([(tp.clone(), Start::At(Offset(499).into()))]);
    assert_eq!(consumer.recv().await.unwrap().offset(), Offset(499));
}

#[tokio::test]
async fn commits_are_serial_and_the_newest_wins() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "commit", 1).await;
    write(&client, &topic, 1, 0..100).await;
    let config = ConsumerConfig { group: Some("c".to_owned()), ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &topic, 1, config);
    let committed = || broker.with_broker(|broker| broker.committed_offset("c", &topic, 0));
    let before = broker.with_broker(|broker| broker.requests(8));
    // The first is held up; what follows meanwhile goes as one, and not before it.
    broker.faults().on(8, Fault::Delay(Duration::from_millis(300)), 1);
    let mut tickets = Vec::new();
    for number in 1..=50 {
        assert_eq!(consumer.recv().await.unwrap().offset(), Offset(number - 1));
        tickets.push(consumer.begin_commit().unwrap());
        if number == 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for ticket in tickets {
        ticket.done().await.unwrap();
    }
    assert_eq!(committed(), Some(50));
    let sent = broker.with_broker(|broker| broker.requests(8)) - before;
    assert!((2..=3).contains(&sent), "{sent} commits were sent");
    assert_eq!(consumer.recv().await.unwrap().offset(), Offset(50));
    drop(consumer.begin_commit().unwrap());
    consumer.close(LONG).await.unwrap();
    assert_eq!(committed(), Some(51));
    let lonely = Consumer::new(&client, ConsumerConfig::default()).unwrap();
    assert_eq!(lonely.commit().await.unwrap_err().kind(), ErrorKind::Misuse);
    // Without a broker it ends in time as well.
    let config = ConsumerConfig { group: Some("c".to_owned()), ..ConsumerConfig::default() };
    let last = Consumer::new(&client, config).unwrap();
    broker.go_down().await;
    let since = std::time::Instant::now();
    let tp = TopicPartition::new(topic.as_str(), 0);
    drop(last.begin_commit_of([(tp, Offset(60).into())]).unwrap());
    assert!(last.close(SHORT).await.is_err());
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_session_is_kept_renewed_when_it_is_lost_and_closed() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "session", 5).await;
    let config = ConsumerConfig { max_wait: Duration::from_millis(50), ..ConsumerConfig::default() };
    let mut consumer = consumer(&client, &topic, 5, config);
    let sessions = || broker.with_broker(|broker| broker.fetch_sessions());
    for round in 0..6 {
        write(&client, &topic, 5, round * 100..(round + 1) * 100).await;
        if round % 2 == 1 {
            broker.with_broker(|broker| broker.forget_fetch_sessions());
        }
        if round == 4 {
            // A lost answer leaves the session in doubt: the broker moved on, the consumer did not.
            broker.faults().on(FETCH, Fault::DropAfter, 1);
        }
        assert_eq!(read(&mut consumer, 500).await, all(5, round * 100..(round + 1) * 100));
    }
    // The application has the records of an answer before the next request goes out.
    for _ in 0..100 {
        if sessions() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sessions(), 1, "old ones are ended by new ones");
    // A partition that is paused is forgotten: nothing more comes of it.
    let tp = TopicPartition::new(topic.as_str(), 0);
    consumer.pause(&tp).unwrap();
    write(&client, &topic, 5, 600..700).await;
    let rest = read(&mut consumer, 400).await;
    assert!(!rest.contains_key(&0));
    let bytes = consumer.metrics().bytes;
    tokio::time::sleep(SHORT).await;
    let idle = consumer.metrics().bytes - bytes;
    assert!(idle < 2000, "{idle} bytes came of partitions without news");
    consumer.close(LONG).await.unwrap();
    for _ in 0..100 {
        if sessions() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} sessions", sessions());
}
