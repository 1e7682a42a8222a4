//! Writes records as fast as it can and says what a record cost.
//!
//! `cargo run --release -p milena --example produce -- BOOTSTRAP TOPIC RECORDS [BYTES] [CODEC]`

use std::time::{Duration, Instant};

use milena::{Client, Compression, Producer, ProducerConfig, ProducerRecord};

/// Processor time of this process so far: user and system, in clock ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> milena::Result<()> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let topic = args.next().unwrap_or_else(|| "produce-example".to_owned());
    let records: u64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let bytes: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(100);
    let compression: Compression = args.next().and_then(|text| text.parse().ok()).unwrap_or_default();

    let client = Client::connect(bootstrap).await?;
    let config = ProducerConfig { compression, buffer_memory: 8 << 20, ..ProducerConfig::default() };
    let producer = Producer::new(&client, config)?;
    let value = vec![b'x'; bytes];
    producer.send(ProducerRecord::to(&topic).value(&value)).await?.await?;

    let (started, before) = (Instant::now(), ticks());
    for _ in 0..records {
        drop(producer.send(ProducerRecord::to(&topic).value(&value)).await?);
    }
    producer.flush().await?;
    let (elapsed, spent) = (started.elapsed(), (ticks() - before) * 10_000_000);
    let metrics = producer.metrics();
    println!(
        "{records} records of {bytes} bytes in {elapsed:.2?}: {:.2} million a second, {} ns of processor time each; {} batches, {} requests",
        records as f64 / elapsed.as_secs_f64() / 1e6,
        spent / records.max(1),
        metrics.batches,
        metrics.requests,
    );
    producer.close(Duration::from_secs(10)).await
}
