//! Leaders that move: producer, fetcher and group find the new ones by themselves.
//!
//! `cargo xtask kafka kill-leaders --rounds 10` kills more leaders of a real cluster than a test run does, for longer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use milena::{
    Client, ClientConfig, CommittedOffset, FetchFrom, FetchOptions, Fetcher, Idempotence, Isolation,
    NewTopic, Offset, Producer, ProducerConfig, ProducerRecord, Ticket, TopicPartition,
};
use milena_testkit::check::Judge;
use milena_testkit::kafka::{KafkaOptions, or_skip};
use milena_tests::records::{read, text, values, within, write_values};
use milena_tests::{Env, unique};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

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
    sleep(Duration::from_millis(500)).await;
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
        sleep(Duration::from_millis(50)).await;
    }
}

const PARTITIONS: i32 = 6;

/// The number of the first record that is sent right after a kill.
const PROBES: u64 = 1 << 40;

/// Records a second that are written while leaders die.
const RATE: u64 = 5_000;

/// A number that the environment gives, for a longer run than that of every test run.
fn asked(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")),
        Err(_) => usual,
    }
}

/// Three brokers with three replicas of each partition, of which two must be in sync. The leader of one partition after the other is
/// killed while a producer writes, a reader reads and a group commits: what was acknowledged is there once and in order.
// scenario: 5.1.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_cluster_leaders_die_in_turn_and_nothing_is_lost_doubled_or_reordered() {
    let start = async { KafkaOptions::from_env()?.heap_mib(320).start_cluster(3).await };
    let Some(cluster) = or_skip(start.await) else { return };
    let (rounds, seconds) = (asked("MILENA_KILL_ROUNDS", 2), asked("MILENA_KILL_SECONDS", 1));
    let mut config = ClientConfig::from(cluster.bootstrap());
    config.request_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.unwrap();
    let topic = replicated(&client).await;
    let config = ProducerConfig {
        idempotence: Idempotence::Required,
        batch_size: 4_000,
        request_timeout: Duration::from_secs(5),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(&client, config).unwrap();
    let (reads, writes) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let writer = tokio::spawn(load(producer.clone(), topic.clone(), Arc::clone(&writes)));
    let reader = reader(&client, &topic, &reads);
    let group = client.group(&unique("group"));
    let tp = TopicPartition::new(topic.as_str(), 1);
    let (begun, mut judge) = (Instant::now(), Judge::new());
    for round in 1..=rounds {
        sleep(Duration::from_secs(seconds)).await;
        let partition = (round % PARTITIONS as u64) as i32;
        let leader = leader(&client, &topic, partition).await;
        let before = producer.metrics();
        cluster.kill9(leader).await.unwrap();
        let killed = Instant::now();
        let away = probe(&producer, &topic, partition, PROBES + round, &mut judge).await;
        let commit = [(tp.clone(), CommittedOffset::from(Offset(round as i64)))];
        within("a commit while a broker is gone", group.commit(&commit)).await.unwrap();
        within("records while a broker is gone", async {
            while producer.metrics().records < before.records + RATE * seconds {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        cluster.restart(leader).await.unwrap();
        // The next one may go when all replicas are in sync again.
        within("all replicas in sync", async {
            while !in_sync(&client, &topic).await {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let after = producer.metrics();
        println!(
            "round {round}: broker {leader} killed, its partition written again after {away:.1?}; until all were in sync, {:.0?} later, \
             {} records were acknowledged and {} batches sent again",
            killed.elapsed(),
            after.records - before.records,
            after.retries - before.retries
        );
    }
    // The reader stops first: at the end of the log it waits for a record, and somebody has to write it.
    reads.store(false, Ordering::Relaxed);
    assert!(within("the reader", reader).await.unwrap() >= 10);
    writes.store(false, Ordering::Relaxed);
    let sent = within("the writer", writer).await.unwrap();
    within("the flush", producer.flush()).await.unwrap();
    let count = sent.len() as u64;
    for ((partition, ticket), number) in sent.into_iter().zip(0..) {
        ticket.await.unwrap();
        judge.expect(partition.to_string().as_bytes(), number);
    }
    see(&client, &topic, &mut judge).await;
    let verdict = judge.verdict();
    println!(
        "{rounds} rounds in {:.0?}: {} records acknowledged, {} read: {verdict}",
        begun.elapsed(),
        count + rounds,
        judge.seen()
    );
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(producer.metrics().records, count + rounds);
    let found = group.fetch(Some(std::slice::from_ref(&tp)), true).await.unwrap();
    assert_eq!(found[0].1.as_ref().unwrap().as_ref().map(|found| found.offset.0), Some(rounds as i64));
}

async fn replicated(client: &Client) -> String {
    let mut topic = NewTopic::new(unique("moves"), PARTITIONS);
    topic.replication = 3;
    topic.configs.push(("min.insync.replicas".to_owned(), "2".to_owned()));
    let name = topic.name.clone();
    let made = client.admin().create_topics(&[topic], Duration::from_secs(30)).await.unwrap();
    made[0].1.as_ref().unwrap();
    name
}

/// Writes at [`RATE`], to the partitions in turn, until it is told to stop.
async fn load(producer: Producer, topic: String, running: Arc<AtomicBool>) -> Vec<(i32, Ticket)> {
    let mut sent = Vec::new();
    let mut turn = interval(Duration::from_millis(10));
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while running.load(Ordering::Relaxed) {
        turn.tick().await;
        for _ in 0..RATE / 100 {
            let number = sent.len();
            let partition = number as i32 % PARTITIONS;
            let (key, value) = (partition.to_string(), number.to_string());
            let record = ProducerRecord::to(&topic).partition(partition).key(&key).value(&value);
            sent.push((partition, producer.send(record).await.unwrap()));
        }
    }
    sent
}

/// Reads one record after the other of one partition until it is told to stop, ten at least. Returns how many.
fn reader(client: &Client, topic: &str, running: &Arc<AtomicBool>) -> JoinHandle<i64> {
    let (fetcher, tp, running) = (client.fetcher(), TopicPartition::new(topic, 0), Arc::clone(running));
    tokio::spawn(async move {
        let mut next = 0;
        while running.load(Ordering::Relaxed) || next < 10 {
            read_one(&fetcher, &tp, Offset(next)).await;
            next += 1;
        }
        next
    })
}

async fn leader(client: &Client, topic: &str, partition: i32) -> i32 {
    let described = client.admin().describe_topics(&[topic]).await.unwrap();
    let partitions = &described[0].1.as_ref().unwrap().partitions;
    partitions.iter().find(|found| found.id.0 == partition).unwrap().leader.unwrap().0
}

async fn in_sync(client: &Client, topic: &str) -> bool {
    let Ok(described) = client.admin().describe_topics(&[topic]).await else { return false };
    let topic = described[0].1.as_ref();
    topic.is_ok_and(|topic| topic.partitions.iter().all(|partition| partition.isr.len() == 3))
}

/// Writes a record with a key of its own, for nothing tells its place among those of the load. Returns how long that took.
async fn probe(producer: &Producer, topic: &str, partition: i32, number: u64, judge: &mut Judge) -> Duration {
    let (begun, key, value) = (Instant::now(), format!("probe {number}"), number.to_string());
    let record = ProducerRecord::to(topic).partition(partition).key(&key).value(&value);
    within("a record to a dead leader", producer.send(record).await.unwrap()).await.unwrap();
    judge.expect(key.as_bytes(), number);
    begun.elapsed()
}

async fn see(client: &Client, topic: &str, judge: &mut Judge) {
    for partition in 0..PARTITIONS {
        let tp = TopicPartition::new(topic, partition);
        for record in read(client, &tp, Isolation::ReadUncommitted).await {
            let number = text(record.value.as_deref()).parse().unwrap();
            judge.see(topic, partition, record.offset.0, record.key.as_deref().unwrap(), number);
        }
    }
}
