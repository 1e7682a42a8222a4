//! What a byte costs over TLS, beside plaintext: processor time of this process, by producing to and consuming from a real broker.
//!
//! `cargo xtask bench tls` runs it: `cargo run --release -p milena --example tls_cost -- [FILE]` writes the table to FILE too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails has no figures")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use milena::tls::{Store, TlsConfig, TlsVersions, Trust};
use milena::{
    Client, ClientConfig, Consumer, ConsumerConfig, NewTopic, Producer, ProducerConfig, ProducerRecord,
    Start, TopicPartition,
};
use milena_testkit::kafka::{Listener, NEWEST, SecuredKafka};

const ROUNDS: usize = 5;
const VALUE: usize = 1000;
const MIB: u64 = 256;
const RECORDS: u64 = MIB * 1024 * 1024 / VALUE as u64;

/// Processor time of all threads of this process.
fn processor() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Milliseconds of processor time per MiB, and MiB per second of the clock.
type Cost = (f64, f64);

async fn measured(work: impl Future<Output = ()>) -> Cost {
    let (before, began) = (processor(), Instant::now());
    work.await;
    let used = (processor() - before).as_secs_f64();
    (used * 1000.0 / MIB as f64, MIB as f64 / began.elapsed().as_secs_f64())
}

/// Writes a topic and reads it.
async fn round(config: ClientConfig, name: &str) -> [Cost; 2] {
    let client = Client::connect(config).await.unwrap();
    client.admin().create_topics(&[NewTopic::new(name, 1)], Duration::from_secs(20)).await.unwrap();
    let value: Vec<u8> = (0..VALUE).map(|at| (at * 31 % 251) as u8).collect();
    let produced = measured(async {
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        for _ in 0..RECORDS {
            let _ticket = producer.send(ProducerRecord::to(name).partition(0).value(&value)).await.unwrap();
        }
        producer.close(Duration::from_secs(120)).await.unwrap();
    })
    .await;
    let consumed = measured(async {
        let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
        consumer.assign([(TopicPartition::new(name, 0), Start::Earliest)]);
        for _ in 0..RECORDS {
            assert_eq!(consumer.next().await.unwrap().value().map(<[u8]>::len), Some(VALUE));
        }
    })
    .await;
    client.admin().delete_topics(&[name]).await.unwrap();
    client.close(Duration::from_secs(10)).await.unwrap();
    [produced, consumed]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let kafka = SecuredKafka::start(NEWEST, &[]).await.unwrap();
    let tls = |versions| TlsConfig {
        trust: Trust::Store(Store::pem_file(kafka.file("ca.pem"))),
        versions,
        ..TlsConfig::default()
    };
    let config = |listener| ClientConfig::new([kafka.bootstrap(listener)]);
    let kinds = [
        ("plaintext", config(Listener::Plaintext)),
        ("TLS 1.2", config(Listener::Ssl).with_tls(tls(TlsVersions::Tls12))),
        ("TLS 1.3", config(Listener::Ssl).with_tls(tls(TlsVersions::Tls13))),
    ];
    let mut costs = vec![Vec::new(); kinds.len()];
    // The first round warms the broker, and is not counted.
    for number in 0..=ROUNDS {
        for (kind, (name, config)) in kinds.iter().enumerate() {
            let cost = round(config.clone(), &format!("cost-{number}-{kind}")).await;
            eprintln!("round {number}, {name}: {cost:.3?}");
            if number > 0 {
                costs[kind].push(cost);
            }
        }
    }
    let table = table(&kinds.map(|(name, _)| name), &costs);
    println!("{table}");
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, table).unwrap();
    }
}

fn table(names: &[&str], costs: &[Vec<[Cost; 2]>]) -> String {
    let mut text = format!(
        "# What TLS costs\n\nMilliseconds of a processor per MiB, and MiB a second of the clock, of the client's process: {MIB} MiB of values of \
         {VALUE} bytes to one partition of Kafka {NEWEST} on the same machine, without compression, and back; medians of {ROUNDS} rounds, in each of \
         which every kind has its turn. In brackets the times of plaintext in the same round. The clock's figure is the broker's more than ours: \
         Java's TLS copies what plaintext sends from file to socket.\n\n\
         | | produce, ms/MiB | consume, ms/MiB | produce, MiB/s | consume, MiB/s |\n|---|--:|--:|--:|--:|\n"
    );
    for (name, own) in names.iter().zip(costs) {
        let of = |take: fn(&Cost) -> f64, work: usize| {
            let values: Vec<f64> = own.iter().map(|round| take(&round[work])).collect();
            let shares = own.iter().zip(&costs[0]).map(|(own, plain)| take(&own[work]) / take(&plain[work]));
            (median(values), median(shares.collect()))
        };
        let _ = write!(text, "| {name} |");
        for work in 0..2 {
            let (cost, share) = of(|cost| cost.0, work);
            let _ = write!(text, " {cost:.2} ({share:.2}) |");
        }
        for work in 0..2 {
            let _ = write!(text, " {:.0} |", of(|cost| cost.1, work).0);
        }
        text.push('\n');
    }
    text.push_str("\n`cargo xtask bench tls --write-docs` makes this file anew.\n");
    text
}
