//! Positions after elections (KIP-320): no record comes of a log that lost what was read of it, unless that was asked for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

mod support;

use std::time::Duration;

use milena::{
    Client, Consumer, ConsumerConfig, ErrorCode, ErrorKind, FetchFrom, FetchOptions, LeaderEpoch, Offset,
    OffsetReset, OnDataLoss, PartitionStatus, Position, Producer, ProducerConfig, ProducerRecord, Start,
    TopicPartition,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use milena_testkit::listen::EmbeddedBroker;
use support::embedded;

const FETCH: i16 = 1;
const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
/// Only a hang takes so long.
const LONG: Duration = Duration::from_secs(20);

async fn write(client: &Client, tp: &TopicPartition, numbers: std::ops::Range<i64>) {
    let producer = Producer::new(client, ProducerConfig::default()).unwrap();
    for number in numbers {
        let value = number.to_string();
        let record = ProducerRecord::to(&tp.topic).partition(tp.partition.0).value(&value);
        producer.send(record).await.unwrap().await.unwrap();
    }
}

/// The next `count` records, as numbers.
async fn read(consumer: &mut Consumer, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let part = consumer.poll(LONG).await.unwrap();
        let part = part.unwrap_or_else(|| panic!("{} of {count}: {:?}", seen.len(), consumer.partitions()));
        for record in &part {
            seen.push(std::str::from_utf8(record.unwrap().value.unwrap()).unwrap().parse().unwrap());
        }
    }
    seen
}

fn asked(broker: &EmbeddedBroker) -> u64 {
    broker.with_broker(|broker| broker.requests(OFFSET_FOR_LEADER_EPOCH))
}

/// A consumer that has read ten records, of which an election then takes the last three; others take their place.
async fn truncated(
    broker: &EmbeddedBroker,
    client: &Client,
    config: ConsumerConfig,
) -> (Consumer, TopicPartition) {
    let topic = support::topic(client, "epochs", 1).await;
    let tp = TopicPartition::new(topic.as_str(), 0);
    write(client, &tp, 0..10).await;
    let before = asked(broker);
    let mut consumer = Consumer::new(client, config).unwrap();
    consumer.assign([(tp.clone(), Start::At(Offset(0).into()))]);
    assert_eq!(read(&mut consumer, 10).await, Vec::from_iter(0..10));
    assert_eq!(asked(broker), before, "what came from a leader need not be held against its log");
    broker.with_broker(|broker| assert!(broker.truncate(&topic, 0, 7)));
    write(client, &tp, 100..110).await;
    (consumer, tp)
}

/// Kafka from 2.7 on, where answers to fetches say so as well; from 2.3 on, where only the question does; and answers alone.
fn brokers() -> [(BrokerConfig, bool); 3] {
    let limited = |limits: &[(i16, i16)]| BrokerConfig {
        version_limits: limits.iter().copied().collect(),
        ..BrokerConfig::default()
    };
    [
        (BrokerConfig::default(), true),
        (limited(&[(FETCH, 11)]), true),
        (limited(&[(OFFSET_FOR_LEADER_EPOCH, -1)]), false),
    ]
}

#[tokio::test]
async fn a_log_that_lost_what_was_read_is_an_error_or_read_on_from_where_it_parted() {
    for (config, asks) in brokers() {
        let (broker, client) = embedded(config).await;
        let (mut consumer, tp) = truncated(&broker, &client, ConsumerConfig::default()).await;
        let error = consumer.poll(LONG).await.unwrap_err();
        assert_eq!((error.kind(), error.partition()), (ErrorKind::DataLoss, Some(tp.partition)), "{error}");
        assert!(error.to_string().contains("at offset 7, before the position 10"), "{error}");
        let state = consumer.partition(&tp).unwrap();
        assert!(matches!(state.status, PartitionStatus::Failed { .. }), "{state:?}");
        assert_eq!((asked(&broker) > 0, consumer.metrics().validations > 0), (asks, true));
        let config = ConsumerConfig {
            reset: OffsetReset::Latest,
            on_data_loss: OnDataLoss::Reset,
            ..ConsumerConfig::default()
        };
        let (mut consumer, _) = truncated(&broker, &client, config).await;
        assert_eq!(read(&mut consumer, 10).await, Vec::from_iter(100..110));
    }
}

/// As after a restore: the position comes with the epoch of the record before it.
#[tokio::test]
async fn a_position_of_an_older_log_is_noticed_before_anything_is_read() {
    for (config, _) in brokers() {
        let (broker, client) = embedded(config).await;
        let (_, tp) = truncated(&broker, &client, ConsumerConfig::default()).await;
        for (offset, lost) in [(10, true), (7, false)] {
            let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
            let position = Position { offset: Offset(offset), epoch: Some(LeaderEpoch(0)) };
            consumer.assign([(tp.clone(), Start::At(position))]);
            match lost {
                true => assert_eq!(consumer.poll(LONG).await.unwrap_err().kind(), ErrorKind::DataLoss),
                false => assert_eq!(read(&mut consumer, 10).await, Vec::from_iter(100..110)),
            }
        }
    }
}

/// Two elections after which a replica of an older epoch leads, whose log goes on where the reader read other records. Its log ends that
/// epoch behind the position, and still holds nothing of what was read.
#[tokio::test]
async fn a_position_of_an_epoch_that_the_log_does_not_have_is_not_taken_for_a_good_one() {
    for (config, _) in brokers() {
        // Brokers before 2.7 do not say it in their answers to fetches.
        let says = !config.version_limits.contains_key(&FETCH);
        let (broker, client) = embedded(config).await;
        let (_, tp) = truncated(&broker, &client, ConsumerConfig::default()).await;
        // Epoch 0 is 0 to 6, epoch 1 is 7 to 16; the records of epoch 2 are lost, those of epoch 3 follow.
        broker.with_broker(|broker| {
            assert!(broker.bump_leader_epoch(&tp.topic, 0));
            assert!(broker.truncate(&tp.topic, 0, 17));
        });
        write(&client, &tp, 200..203).await;
        let stood = Position { offset: Offset(12), epoch: Some(LeaderEpoch(2)) };
        let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
        consumer.assign([(tp.clone(), Start::At(stood))]);
        let error = consumer.poll(LONG).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
        assert!(error.to_string().contains("somewhere before the position 12"), "{error}");
        // Where the two parted nobody knows: the policy decides, and nothing in between is left out.
        let config = ConsumerConfig {
            reset: OffsetReset::Earliest,
            on_data_loss: OnDataLoss::Reset,
            ..ConsumerConfig::default()
        };
        let mut consumer = Consumer::new(&client, config).unwrap();
        consumer.assign([(tp.clone(), Start::At(stood))]);
        assert_eq!(read(&mut consumer, 20).await, Vec::from_iter((0..7).chain(100..110).chain(200..203)));
        let from = FetchFrom { leader_epoch: stood.epoch, ..FetchFrom::new(tp.clone(), stood.offset) };
        let fetched = client.fetcher().fetch(&[from], &FetchOptions::default()).await.unwrap().remove(0);
        let told = fetched.error.map(|error| error.kind());
        assert_eq!((told, fetched.diverged_at), (says.then_some(ErrorKind::DataLoss), None));
    }
}

/// An election that took nothing away holds up nobody, and all positions of a broker are asked about at once.
#[tokio::test]
async fn an_election_without_loss_costs_one_question_a_broker() {
    const PARTITIONS: i32 = 20;
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "elections", PARTITIONS).await;
    let tps: Vec<_> = (0..PARTITIONS).map(|index| TopicPartition::new(topic.as_str(), index)).collect();
    let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
    consumer.assign(tps.iter().map(|tp| (tp.clone(), Start::At(Offset(0).into()))));
    for round in 0..4 {
        for tp in &tps {
            write(&client, tp, round..round + 1).await;
        }
        assert_eq!(read(&mut consumer, tps.len()).await, vec![round; tps.len()]);
        broker.with_broker(|broker| {
            tps.iter().for_each(|tp| assert!(broker.bump_leader_epoch(&topic, tp.partition.0)));
        });
        let trouble = [ErrorCode::FENCED_LEADER_EPOCH, ErrorCode::UNKNOWN_LEADER_EPOCH, ErrorCode::NONE];
        match trouble.get(round as usize) {
            Some(&ErrorCode::NONE) => broker.faults().on(OFFSET_FOR_LEADER_EPOCH, Fault::DropAfter, 1),
            Some(&code) => broker.faults().on(OFFSET_FOR_LEADER_EPOCH, Fault::Error(code), 1),
            None => {}
        }
    }
    for tp in &tps {
        write(&client, tp, 9..10).await;
    }
    assert_eq!(read(&mut consumer, tps.len()).await, vec![9; tps.len()]);
    assert!(broker.faults().unused().is_empty());
    // Four elections, three questions that went wrong; and a refresh may see an election by halves.
    assert!((4..=16).contains(&asked(&broker)), "{} questions", asked(&broker));
    assert!(consumer.metrics().validations >= 4 * 20, "{:?}", consumer.metrics());
}

#[tokio::test]
async fn nothing_is_fetched_while_the_new_leader_is_asked() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "validating", 1).await;
    let tp = TopicPartition::new(topic.as_str(), 0);
    write(&client, &tp, 0..3).await;
    let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
    consumer.assign([(tp.clone(), Start::At(Offset(0).into()))]);
    assert_eq!(read(&mut consumer, 3).await, [0, 1, 2]);
    broker.faults().on(OFFSET_FOR_LEADER_EPOCH, Fault::Delay(Duration::from_secs(2)), 1);
    broker.with_broker(|broker| assert!(broker.bump_leader_epoch(&topic, 0)));
    write(&client, &tp, 3..4).await;
    let validating = |status: &PartitionStatus| matches!(status, PartitionStatus::Validating { .. });
    for _ in 0..2000 {
        if validating(&consumer.partition(&tp).unwrap().status) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(consumer.poll(Duration::from_millis(300)).await.unwrap().is_none());
    let state = consumer.partition(&tp).unwrap();
    assert!(validating(&state.status) && state.position.unwrap().offset == Offset(3), "{state:?}");
    assert_eq!(read(&mut consumer, 1).await, [3]);
}
