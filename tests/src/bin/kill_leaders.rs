//! Three real brokers under load, of which the leader of a partition is killed with SIGKILL, round after round: what was acknowledged is read
//! once and in order. Run by `cargo xtask kill-leaders`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use milena::{
    Client, ClientConfig, Isolation, NewTopic, Producer, ProducerConfig, ProducerRecord, Ticket,
    TopicPartition,
};
use milena_testkit::check::Judge;
use milena_testkit::kafka::KafkaOptions;
use milena_tests::records::{eventually, read, text, within};
use milena_tests::unique;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PARTITIONS: i32 = 6;
const KEYS: u64 = 48;

/// Records a second, of which each waits for its turn.
const RATE: u64 = 5_000;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let rounds: u32 = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    let cluster = KafkaOptions::from_env()?.heap_mib(320).start_cluster(3).await?;
    let mut config = ClientConfig::from(cluster.bootstrap());
    config.request_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await?;
    let topic = unique("kill-leaders");
    let mut new = NewTopic::new(&topic, PARTITIONS);
    new.replication = 3;
    new.configs.push(("min.insync.replicas".to_owned(), "2".to_owned()));
    for (_, made) in client.admin().create_topics(&[new], Duration::from_secs(30)).await? {
        made?;
    }
    let config = ProducerConfig { request_timeout: Duration::from_secs(5), ..ProducerConfig::default() };
    let producer = Producer::new(&client, config)?;
    let running = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn(load(producer.clone(), topic.clone(), Arc::clone(&running)));
    let started = Instant::now();
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let partition = (round as i32) % PARTITIONS;
        let leader = leader(&client, &topic, partition).await?.ok_or("no leader")?;
        let before = producer.metrics();
        cluster.kill9(leader).await?;
        let killed = Instant::now();
        // Every partition is written to without the dead one: ten seconds' load, less what waited for the election.
        within("records while a broker is gone", async {
            while producer.metrics().records < before.records + RATE * 5 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let (after, took) = (producer.metrics(), killed.elapsed());
        println!(
            "round {round}: broker {leader} killed; {} records acknowledged in the {took:.1?} after it, {} batches sent again",
            after.records - before.records,
            after.retries - before.retries
        );
        cluster.restart(leader).await?;
        eventually("all replicas are in sync", || in_sync(&client, &topic), true).await;
    }
    running.store(false, Ordering::Relaxed);
    let sent = writer.await??;
    within("the flush", producer.flush()).await?;
    let mut judge = Judge::new();
    let count = sent.len();
    for ((key, ticket), number) in sent.into_iter().zip(0..) {
        ticket.await?;
        judge.expect(key.as_bytes(), number);
    }
    for partition in 0..PARTITIONS {
        let tp = TopicPartition::new(topic.as_str(), partition);
        for record in read(&client, &tp, Isolation::ReadUncommitted).await {
            let number = text(record.value.as_deref()).parse()?;
            judge.see(&topic, partition, record.offset.0, record.key.as_deref().unwrap_or_default(), number);
        }
    }
    let verdict = judge.verdict();
    println!(
        "{rounds} rounds in {:.0?}: {count} acknowledged, {} read; {verdict}",
        started.elapsed(),
        judge.seen()
    );
    producer.close(Duration::from_secs(10)).await?;
    if verdict.is_clean() && judge.seen() == count {
        Ok(())
    } else {
        Err("the log is not what was acknowledged".into())
    }
}

/// Writes at [`RATE`] until it is told to stop.
async fn load(
    producer: Producer,
    topic: String,
    running: Arc<AtomicBool>,
) -> Result<Vec<(String, Ticket)>, Failure> {
    let mut sent = Vec::new();
    let mut turn = tokio::time::interval(Duration::from_millis(10));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0u64;
    while running.load(Ordering::Relaxed) {
        turn.tick().await;
        for _ in 0..RATE / 100 {
            let (key, value) = (format!("key-{}", number % KEYS), number.to_string());
            let record = ProducerRecord::to(&topic).key(&key).value(&value);
            let ticket = producer.send(record).await?;
            sent.push((key, ticket));
            number += 1;
        }
    }
    Ok(sent)
}

async fn leader(client: &Client, topic: &str, partition: i32) -> Result<Option<i32>, Failure> {
    for (_, described) in client.admin().describe_topics(&[topic]).await? {
        let described = described?;
        let found = described.partitions.iter().find(|found| found.partition.0 == partition);
        return Ok(found.and_then(|found| found.leader).map(|leader| leader.0));
    }
    Ok(None)
}

async fn in_sync(client: &Client, topic: &str) -> bool {
    let Ok(described) = client.admin().describe_topics(&[topic]).await else { return false };
    described.iter().all(|(_, topic)| {
        topic.as_ref().is_ok_and(|topic| topic.partitions.iter().all(|partition| partition.isr.len() == 3))
    })
}
