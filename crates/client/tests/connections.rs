//! What brokers ask for and where they are found: quotas that hold a client back (KIP-219), clusters that moved away from under a client
//! (KIP-899, KIP-1102), and partitions that nobody serves. Time stands still while nobody waits for it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod stops;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use milena::{
    BrokerId, CallOptions, Client, ClientConfig, Consumer, ConsumerConfig, ErrorCode, ErrorKind, Isolation,
    Offset, OffsetSpec, PartitionStatus, Producer, ProducerConfig, ProducerRecord, Start, Target,
    TopicPartition, transport,
};
use milena_protocol::messages::ListOffsetsRequest;
use milena_testkit::broker::{BrokerConfig, Fault};
use milena_testkit::listen::EmbeddedBroker;
use milena_testkit::sim::{self, Dice, Weather, World};
use stops::{TOPIC, connect};
use tokio::time::{Instant, sleep};

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
/// How long the broker wants to be left alone.
const REST: Duration = Duration::from_secs(7);

fn calm(_: &Dice) -> (BrokerConfig, Weather) {
    (BrokerConfig::default().with_topic(TOPIC, 3), Weather::CALM)
}

async fn write(producer: &Producer, partition: i32, value: &str) {
    let record = ProducerRecord::to(TOPIC).partition(partition).value(value);
    producer.send(record).await.unwrap().await.unwrap();
}

async fn consumer(client: &Client, partitions: std::ops::Range<i32>) -> Consumer {
    let consumer = Consumer::new(client, ConsumerConfig::default()).unwrap();
    consumer.assign(
        partitions.map(|partition| (TopicPartition::new(TOPIC, partition), Start::At(Offset(0).into()))),
    );
    consumer
}

/// The answer comes at once, the next request when the time is up.
#[test]
fn a_producer_that_is_throttled_leaves_the_broker_alone() {
    sim::run(1, calm, |world: World| async move {
        let client = connect(&world).await.unwrap();
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        write(&producer, 0, "first").await;
        world.broker.faults().on(PRODUCE, Fault::Throttle(REST), 1);
        let begun = Instant::now();
        write(&producer, 0, "throttled").await;
        assert!(begun.elapsed() < REST, "{:?}", begun.elapsed());
        write(&producer, 0, "after it").await;
        assert!((REST..REST * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(world.broker.faults().unused().is_empty());
    });
}

#[test]
fn a_consumer_that_is_throttled_leaves_the_broker_alone() {
    sim::run(2, calm, |world: World| async move {
        let client = connect(&world).await.unwrap();
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        write(&producer, 1, "held back").await;
        world.broker.faults().on(FETCH, Fault::Throttle(REST), 1);
        let begun = Instant::now();
        let mut consumer = consumer(&client, 0..3).await;
        sleep(REST / 2).await;
        assert_eq!(world.broker.with_broker(|broker| broker.requests(FETCH)), 1);
        let state = consumer.partition(&TopicPartition::new(TOPIC, 1)).unwrap();
        assert!(matches!(state.status, PartitionStatus::Throttled { .. }), "{state:?}");
        assert_eq!(consumer.recv().await.unwrap().value(), Some(&b"held back"[..]));
        assert!((REST..REST * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!(consumer.metrics().throttled, REST);
        assert!(world.broker.faults().unused().is_empty());
    });
}

/// To be asked for again and again is no progress: who gets nothing for the sake of a quota is told.
#[test]
fn a_consumer_that_a_quota_starves_is_reported() {
    sim::run(5, calm, |world: World| async move {
        let client = connect(&world).await.unwrap();
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        write(&producer, 2, "held back").await;
        world.broker.faults().on(FETCH, Fault::Throttle(Duration::from_secs(1)), u32::MAX);
        let mut consumer = consumer(&client, 2..3).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(consumer.metrics().stalls, 0, "not yet: {:?}", consumer.partitions());
        sleep(Duration::from_secs(600)).await;
        let metrics = consumer.metrics();
        assert!((5..=15).contains(&metrics.stalls), "reports in ten minutes: {metrics:?}");
        assert!(metrics.throttled > Duration::from_secs(500), "{metrics:?}");
        world.broker.faults().clear();
        assert_eq!(consumer.recv().await.unwrap().value(), Some(&b"held back"[..]));
        sleep(Duration::from_secs(300)).await;
        assert_eq!(consumer.metrics().stalls, metrics.stalls, "{:?}", consumer.partitions());
    });
}

/// Every answer may say so, and it holds for the connection that the answer came by.
#[test]
fn what_is_asked_by_a_throttled_connection_waits_and_nothing_else_does() {
    sim::run(4, calm, |world: World| async move {
        let client = connect(&world).await.unwrap();
        let tp = TopicPartition::new(TOPIC, 0);
        let end =
            async || client.list_offsets(&[(tp.clone(), OffsetSpec::Latest)], Isolation::default()).await;
        end().await.unwrap();
        world.broker.faults().on(LIST_OFFSETS, Fault::Throttle(REST), 1);
        let begun = Instant::now();
        end().await.unwrap();
        assert!(begun.elapsed() < REST, "the answer came at once: {:?}", begun.elapsed());
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        write(&producer, 0, "by another connection").await;
        assert!(begun.elapsed() < REST, "{:?}", begun.elapsed());
        end().await.unwrap();
        assert!((REST..REST * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());

        // Who can't wait so long is told why.
        world.broker.faults().on(LIST_OFFSETS, Fault::Throttle(REST * 8), 1);
        end().await.unwrap();
        let options = CallOptions::until(Instant::now() + REST);
        let again = client.call_with(Target::Broker(BrokerId(1)), options, |_| ListOffsetsRequest::default());
        let error = again.await.unwrap_err();
        assert!(error.kind() == ErrorKind::Timeout && !error.maybe_applied(), "{error:?}");
        assert!(error.to_string().contains("quota"), "{error}");
        assert!(world.broker.faults().unused().is_empty());
    });
}

/// Two clusters; what is called "boot" moves from the first to the second.
fn moved(dead: bool) {
    sim::run(3, calm, |_: World| async move {
        let [old, new] = ["old", "new"].map(|name| {
            let broker = EmbeddedBroker::in_memory(BrokerConfig::default().with_topic(name, 1));
            broker.with_broker(|broker| broker.set_address(name, 9092));
            broker
        });
        let has_moved = Arc::new(AtomicBool::new(false));
        let dialer = {
            let (old, new, has_moved) = (old.clone(), new.clone(), Arc::clone(&has_moved));
            transport::from_fn(move |host, _| {
                let is_there = has_moved.load(Ordering::SeqCst);
                let found = match host.as_str() {
                    "boot" if is_there => Some(&new),
                    "boot" | "old" => (!(is_there && dead)).then_some(&old),
                    _ => Some(&new),
                };
                let node = |broker: &EmbeddedBroker| broker.with_broker(|broker| broker.config().node_id);
                let stream = found.map(|broker| broker.connect_to(node(broker)));
                async move { stream.ok_or_else(|| io::ErrorKind::ConnectionRefused.into()) }
            })
        };
        let client = Client::connect(ClientConfig::new(["boot:1"]).with_dialer(dialer)).await.unwrap();
        assert_eq!(client.topic("old").await.unwrap().partition_count(), 1);
        has_moved.store(true, Ordering::SeqCst);
        match dead {
            true => old.restart(),
            false => old.faults().on(METADATA, Fault::Error(ErrorCode::REBOOTSTRAP_REQUIRED), u32::MAX),
        }
        assert_eq!(client.topic("new").await.unwrap().partition_count(), 1);
        let brokers: Vec<String> = client.cluster().brokers().map(|broker| broker.host.to_string()).collect();
        assert_eq!(brokers, ["new"]);
    });
}

#[test]
fn a_client_whose_brokers_are_all_gone_looks_where_it_began() {
    moved(true);
}

#[test]
fn a_client_that_is_told_to_begin_anew_looks_where_it_began() {
    moved(false);
}

/// A partition that should be fetched and is not is reported, and none that has a reason to rest.
#[test]
fn a_partition_without_a_fetch_is_reported_and_one_at_rest_is_not() {
    sim::run(4, calm, |world: World| async move {
        let client = connect(&world).await.unwrap();
        let consumer = consumer(&client, 0..3).await;
        consumer.pause(&TopicPartition::new(TOPIC, 1)).unwrap();
        sleep(Duration::from_secs(300)).await;
        assert_eq!(consumer.metrics().stalls, 0, "{:?}", consumer.partitions());
        world.broker.with_broker(|broker| assert!(broker.set_leaderless(TOPIC, 0, true)));
        sleep(Duration::from_secs(600)).await;
        let state = consumer.partition(&TopicPartition::new(TOPIC, 0)).unwrap();
        assert_eq!(state.status, PartitionStatus::WaitingForLeader);
        let stalls = consumer.metrics().stalls;
        assert!((1..=15).contains(&stalls), "{stalls} reports in ten minutes");
        world.broker.with_broker(|broker| assert!(broker.set_leaderless(TOPIC, 0, false)));
        sleep(Duration::from_secs(60)).await;
        let stalls = consumer.metrics().stalls;
        sleep(Duration::from_secs(300)).await;
        assert_eq!(consumer.metrics().stalls, stalls, "{:?}", consumer.partitions());
    });
}
