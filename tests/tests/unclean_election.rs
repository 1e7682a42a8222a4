//! An unclean election on a real cluster: the new leader lacks records that were acknowledged and read (KIP-320). Readers see it, whatever
//! was written in the place of those records meanwhile; an idempotent producer goes on, and what it is told from then on is there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::protocol::StrBytes;
use milena::protocol::messages::elect_leaders_request::TopicPartitions;
use milena::protocol::messages::{ElectLeadersRequest, TopicName};
use milena::{
    BrokerId, Client, ClientConfig, Consumer, ConsumerConfig, ErrorKind, Idempotence, Isolation, NewTopic,
    Offset, OffsetReset, OnDataLoss, PartitionDescription, Position, Producer, ProducerConfig,
    ProducerRecord, Start, Target, Ticket, TopicPartition,
};
use milena_testkit::kafka::{KafkaCluster, KafkaOptions, or_skip};
use milena_tests::records::{values, within};
use milena_tests::unique;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// The records that both replicas have.
const KEPT: i64 = 7;
/// Those that only the leader gets, and that are read before it dies.
const READ: i64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_cluster_an_unclean_election_hides_nothing_from_readers_and_stops_no_producer() {
    let start = async {
        let options = KafkaOptions::from_env()?.heap_mib(320);
        // A follower that stands still is soon out of sync, and a leader that is dead is soon known to be.
        let options = options.property("replica.lag.time.max.ms", "2000");
        options.property("broker.session.timeout.ms", "6000").start_cluster(3).await
    };
    let Some(cluster) = or_skip(start.await) else { return };
    let client = connect(&cluster).await;
    let topic = two_replicas(&client).await;
    let tp = TopicPartition::new(topic.as_str(), 0);
    // A topic that was just made may have no leader yet.
    in_sync(&client, &topic, 2).await;
    let (found, leader) = led(&client, &topic).await;
    let follower = *found.replicas.iter().find(|replica| **replica != leader).unwrap();

    let settings = ProducerConfig { idempotence: Idempotence::Required, ..ProducerConfig::default() };
    let producer = Producer::new(&client, settings).unwrap();
    let mut sent = write(&producer, &topic, 0..KEPT).await;
    // It has them, and gets no more: not even by a fetch that it sent before.
    in_sync(&client, &topic, 2).await;
    cluster.pause(follower.0).await.unwrap();
    in_sync(&client, &topic, 1).await;
    sent.extend(write(&producer, &topic, KEPT..READ).await);

    let mut stopping = reader(&client, &tp, ConsumerConfig::default()).await;
    let mut paused = reader(&client, &tp, ConsumerConfig::default()).await;
    paused.pause(&tp).unwrap();
    let resetting = ConsumerConfig {
        reset: OffsetReset::Latest,
        on_data_loss: OnDataLoss::Reset,
        ..ConsumerConfig::default()
    };
    let mut resetting = reader(&client, &tp, resetting).await;
    let stood = paused.position(&tp).unwrap();
    assert!(stood.offset == Offset(READ) && stood.epoch.is_some(), "{stood:?}");

    // Writing goes on all the time.
    let (stop, stopped) = oneshot::channel();
    let writing = tokio::spawn(load(producer.clone(), topic.clone(), stopped));
    sleep(Duration::from_millis(300)).await;
    cluster.kill9(leader.0).await.unwrap();
    cluster.unpause(follower.0).await.unwrap();
    elect(&client, &topic, follower.0).await;

    let mut seen = Vec::new();
    let error = loop {
        match within("records, then the loss", stopping.recv()).await {
            Ok(record) => seen.push(number(record.value().unwrap())),
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.topic()), (ErrorKind::DataLoss, Some(topic.as_str())), "{error}");
    // What was fetched and not yet handed out is behind the error.
    let parted = format!("at offset {KEPT}, before the position");
    assert!(error.to_string().contains(&parted), "{error}");
    assert_eq!(seen, Vec::from_iter(READ..READ + seen.len() as i64), "all are of the old log");

    // Until the new log is longer than the old one was, as far as the producer knows.
    let longer = producer.metrics().records + 2 * READ.unsigned_abs() + seen.len() as u64;
    within("records on the new leader", async {
        while producer.metrics().records < longer {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stop.send(()).unwrap();
    sent.extend(within("the writer", writing).await.unwrap());
    // What was on its way when the leader died is told as possibly written.
    let flushed = within("the flush", producer.flush()).await;
    assert!(flushed.as_ref().map_or_else(milena::Error::maybe_applied, |()| true), "{flushed:?}");
    let log = values(&client, &topic, 0, Isolation::ReadUncommitted).await;
    let log: Vec<i64> = log.iter().map(|value| number(value.as_bytes())).collect();
    assert!(log.len() as i64 > READ + seen.len() as i64, "{} records", log.len());
    let (lost, open) = judge(sent, &log).await;
    assert!(lost >= READ - KEPT, "{lost} lost: the election was no unclean one");

    stopping.seek(&tp, Start::At(Offset(KEPT).into())).unwrap();
    assert_eq!(rest(&mut stopping, log.len()).await, log[KEPT as usize..]);
    paused.resume(&tp).unwrap();
    let error = within("the loss", paused.recv()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "the log is longer now than the position: {error}");
    let again = rest(&mut resetting, log.len()).await;
    let at = again.len().checked_sub(log.len() - KEPT as usize).expect("none is left out");
    assert_eq!(again[..at], Vec::from_iter(READ..READ + at as i64), "all are of the old log");
    assert_eq!(again[at..], log[KEPT as usize..]);
    restored(&client, &tp, stood, &log).await;
    println!(
        "on Kafka {}: {lost} acknowledged records were lost, {open} perhaps, {} written afterwards, {} batches sent again",
        cluster.version(),
        log.len() as i64 - KEPT,
        producer.metrics().retries
    );
}

async fn connect(cluster: &KafkaCluster) -> Client {
    let mut config = ClientConfig::from(cluster.bootstrap());
    config.request_timeout = Duration::from_secs(5);
    Client::connect(config).await.unwrap()
}

/// A topic with one partition on two of the brokers, either of which may acknowledge alone.
async fn two_replicas(client: &Client) -> String {
    let mut topic = NewTopic::new(unique("unclean"), 1);
    topic.replication = 2;
    topic.configs.push(("min.insync.replicas".to_owned(), "1".to_owned()));
    let name = topic.name.clone();
    let made = client.admin().create_topics(&[topic], Duration::from_secs(30)).await.unwrap();
    made[0].1.as_ref().unwrap();
    in_sync(client, &name, 2).await;
    name
}

async fn describe(client: &Client, topic: &str) -> Option<PartitionDescription> {
    let mut described = client.admin().describe_topics(&[topic]).await.ok()?;
    described.remove(0).1.ok()?.partitions.pop()
}

/// The partition once it has a leader.
async fn led(client: &Client, topic: &str) -> (PartitionDescription, BrokerId) {
    within("a leader", async {
        loop {
            if let Some(found) = describe(client, topic).await
                && let Some(leader) = found.leader
            {
                break (found, leader);
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
}

async fn in_sync(client: &Client, topic: &str, count: usize) {
    within("replicas in sync, or not", async {
        while describe(client, topic).await.is_none_or(|partition| partition.isr.len() != count) {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

fn record<'a>(topic: &'a str, value: &'a str) -> ProducerRecord<'a> {
    ProducerRecord::to(topic).partition(0).value(value)
}

async fn write(producer: &Producer, topic: &str, numbers: std::ops::Range<i64>) -> Vec<(i64, Ticket)> {
    let mut sent = Vec::new();
    for number in numbers {
        sent.push((number, producer.send(record(topic, &number.to_string())).await.unwrap()));
    }
    within("the flush", producer.flush()).await.unwrap();
    sent
}

/// Writes from [`READ`] on until it is told to stop.
async fn load(producer: Producer, topic: String, mut stopped: oneshot::Receiver<()>) -> Vec<(i64, Ticket)> {
    let mut sent = Vec::new();
    for number in READ.. {
        if stopped.try_recv().is_ok() {
            break;
        }
        sent.push((number, producer.send(record(&topic, &number.to_string())).await.unwrap()));
        sleep(Duration::from_millis(10)).await;
    }
    sent
}

/// A consumer that has read the first ten records.
async fn reader(client: &Client, tp: &TopicPartition, config: ConsumerConfig) -> Consumer {
    let mut consumer = Consumer::new(client, config).unwrap();
    consumer.assign([(tp.clone(), Start::At(Offset(0).into()))]);
    for expected in 0..READ {
        let record = within("a record", consumer.recv()).await.unwrap();
        assert_eq!((record.offset(), number(record.value().unwrap())), (Offset(expected), expected));
    }
    consumer
}

fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Makes the one replica that is left the leader.
async fn elect(client: &Client, topic: &str, replica: i32) {
    let partition = TopicPartitions::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![0]);
    let unclean = ElectLeadersRequest::default()
        .with_election_type(1)
        .with_timeout_ms(10_000)
        .with_topic_partitions(Some(vec![partition]));
    within("the election", async {
        while describe(client, topic)
            .await
            .and_then(|found| found.leader)
            .is_none_or(|leader| leader.0 != replica)
        {
            // Refused as long as the dead one is not known to be dead; and there may be no controller for a while.
            let _ = client.call(Target::Controller, &unclean).await;
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
}

/// What became of the records: first some that are in the log, then acknowledged ones that are lost, then some of which the producer said
/// that it does not know, then such that are in the log again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fate {
    Kept,
    Lost,
    Open,
    Written,
}

/// Holds what the producer was told against the log. Returns how many acknowledged records are not in it, and how many were told as open.
async fn judge(sent: Vec<(i64, Ticket)>, log: &[i64]) -> (i64, i64) {
    assert!(
        log.is_sorted_by(|one, other| one < other),
        "none is there twice, and the order is kept: {log:?}"
    );
    let mut fates = Vec::new();
    for (number, ticket) in sent {
        fates.push(match ticket.await {
            Ok(told) if log.binary_search(&number).is_err() => {
                assert_eq!(told.offset, Some(Offset(number)), "told by the old leader");
                Fate::Lost
            }
            Ok(_) if number < KEPT => Fate::Kept,
            Ok(told) => {
                // The answer to a repeated batch may come without a place.
                let place = told.offset.map(|offset| log[offset.0 as usize]);
                assert!(
                    place.is_none_or(|there| there == number),
                    "{number} is not where the producer was told"
                );
                Fate::Written
            }
            Err(error) => {
                assert!(error.maybe_applied(), "{number}: {error}");
                Fate::Open
            }
        });
    }
    assert!(fates.is_sorted(), "acknowledged by the new leader, and lost: {fates:?}");
    let count = |wanted| fates.iter().filter(|fate| **fate == wanted).count() as i64;
    assert_eq!(count(Fate::Kept), KEPT);
    (count(Fate::Lost), count(Fate::Open))
}

/// What a reader still gets, up to the end of the log.
async fn rest(consumer: &mut Consumer, end: usize) -> Vec<i64> {
    let mut found = Vec::new();
    loop {
        let record = within("the records of the new log", consumer.recv()).await.unwrap();
        found.push(number(record.value().unwrap()));
        // The old log was shorter.
        if record.offset() == Offset(end as i64 - 1) {
            return found;
        }
    }
}

/// As after a restore: positions with the epoch of the record before them, behind the loss and at its beginning.
async fn restored(client: &Client, tp: &TopicPartition, stood: Position, log: &[i64]) {
    let mut consumer = Consumer::new(client, ConsumerConfig::default()).unwrap();
    consumer.assign([(tp.clone(), Start::At(stood))]);
    let error = within("the loss", consumer.recv()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    let mut consumer = Consumer::new(client, ConsumerConfig::default()).unwrap();
    consumer.assign([(tp.clone(), Start::At(Position { offset: Offset(KEPT), epoch: stood.epoch }))]);
    assert_eq!(rest(&mut consumer, log.len()).await, log[KEPT as usize..]);
}
