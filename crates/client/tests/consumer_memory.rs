//! What a process that consumes takes in memory: the buffer that was set and a constant, whatever lies in the log.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::time::Duration;

use milena::{
    Client, Compression, Consumer, ConsumerConfig, Offset, Producer, ProducerConfig, ProducerRecord, Start,
    TopicPartition,
};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::damage::bomb;
use support::embedded;

const PARTITIONS: i32 = 50;
/// Of each partition; with values of a kilobyte the log is 12 times the buffer when it is decompressed.
const RECORDS: i32 = 1000;
const BUFFER: usize = 4 << 20;
/// For the client itself, its threads, and what allocators keep of freed memory.
const CONSTANT: usize = 16 << 20;

/// A number of `/proc/self/status`, in bytes.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_memory_takes_the_buffer_and_a_constant() {
    // The broker holds the log in memory, so what consumes it is another process: this test once more.
    if let Ok(bootstrap) = std::env::var("MILENA_TEST_BACKLOG") {
        return consume(&bootstrap).await;
    }
    let (broker, client) = embedded(BrokerConfig::default()).await;
    for (topic, compression) in [("plain", Compression::None), ("zstd", Compression::Zstd)] {
        let topic = support::topic(&client, topic, PARTITIONS).await;
        fill(&client, &topic, compression).await;
        let test = "a_backlog_larger_than_memory_takes_the_buffer_and_a_constant";
        let took = in_a_process(test, "MILENA_TEST_BACKLOG", format!("{} {topic}", broker.bootstrap())).await;
        assert!(took <= BUFFER + CONSTANT, "{compression:?}: {took} bytes, where {BUFFER} were allowed");
    }
}

/// A gigabyte of zeros in a batch of 32 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_takes_what_a_batch_may_hold_and_a_constant() {
    if let Ok(bootstrap) = std::env::var("MILENA_TEST_BOMB") {
        return defuse(&bootstrap).await;
    }
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "bomb", 1).await;
    let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
    producer.send(ProducerRecord::to(&topic).value(b"v")).await.unwrap().await.unwrap();
    let bomb = bomb(Offset(0), 1 << 30).unwrap();
    assert!(bomb.len() < 40_000, "{}", bomb.len());
    assert!(broker.with_broker(|broker| broker.replace_batch(&topic, 0, 0, bomb)));
    for limit in [ConsumerConfig::default().max_batch_bytes, 1 << 20] {
        let place = format!("{} {topic} {limit}", broker.bootstrap());
        let took =
            in_a_process("a_bomb_takes_what_a_batch_may_hold_and_a_constant", "MILENA_TEST_BOMB", place)
                .await;
        assert!(took <= limit as usize + CONSTANT, "{took} bytes, where {limit} were allowed");
    }
}

/// What a test says that it took, run once more by itself.
async fn in_a_process(test: &str, variable: &str, place: String) -> usize {
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(variable, place)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), child).await.expect("it hangs").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let took = text.lines().find_map(|line| line.split("took ").nth(1)).expect("its memory");
    took.trim().parse().unwrap()
}

/// Reads a batch that cannot be read, more than once, and says how much memory that took.
async fn defuse(place: &str) {
    let [bootstrap, topic, limit] = place.split(' ').collect::<Vec<_>>()[..] else { panic!("{place}") };
    let client = Client::connect(bootstrap).await.unwrap();
    let before = status("VmRSS");
    let config = ConsumerConfig { max_batch_bytes: limit.parse().unwrap(), ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(&client, config).unwrap();
    consumer.assign([(TopicPartition::new(topic, 0), Start::Earliest)]);
    let part = consumer.poll(Duration::from_secs(60)).await.unwrap().unwrap();
    for _ in 0..3 {
        let error = part.iter().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("max_batch_bytes"), "{error}");
    }
    drop(part);
    let held = consumer.metrics().buffered_bytes;
    assert!(
        held <= u64::from(consumer.config().max_bytes),
        "{held} bytes, and no more than the next request is due"
    );
    println!("took {}", status("VmHWM") - before);
}

async fn fill(client: &Client, topic: &str, compression: Compression) {
    let producer =
        Producer::new(client, ProducerConfig { compression, ..ProducerConfig::default() }).unwrap();
    let mut value = [b'x'; 1000];
    for number in 0..RECORDS {
        for partition in 0..PARTITIONS {
            value[..4].copy_from_slice(&(number * PARTITIONS + partition).to_be_bytes());
            let record = ProducerRecord::to(topic).partition(partition).value(&value);
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
}

/// Lets the buffer fill, reads everything, and says how much memory that took.
async fn consume(place: &str) {
    let (bootstrap, topic) = place.split_once(' ').unwrap();
    let client = Client::connect(bootstrap).await.unwrap();
    let before = status("VmRSS");
    let config = ConsumerConfig { buffer_bytes: BUFFER, ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(&client, config).unwrap();
    let tps = (0..PARTITIONS).map(|partition| TopicPartition::new(topic, partition));
    consumer.assign(tps.map(|tp| (tp, Start::Earliest)));
    let mut held = 0;
    while held == 0 || consumer.metrics().buffered_bytes != held {
        held = consumer.metrics().buffered_bytes;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut seen = 0;
    while seen < RECORDS * PARTITIONS {
        let part = consumer.poll(Duration::from_secs(60)).await.unwrap().unwrap();
        for record in &part {
            assert_eq!(record.unwrap().value.unwrap().len(), 1000);
            seen += 1;
        }
    }
    println!("took {}", status("VmHWM") - before);
}
