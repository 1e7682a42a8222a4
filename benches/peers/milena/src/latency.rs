//! Writes at a fixed rate and reads the same records, with one client for both.
//!
//! The writer is a thread of its own, as the floor's: tokio's timer counts whole milliseconds, so that a task which waits for one of 1,000
//! turns a second sends two records every two milliseconds.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use contract::{Args, Latencies, Values};
use milena::{Producer, ProducerConfig, ProducerRecord};

pub(crate) async fn run(args: &Args) -> Result<()> {
    let epoch = Instant::now();
    let client = crate::connect(args, None).await?;
    let producer =
        Producer::new(&client, ProducerConfig { linger: Duration::ZERO, ..crate::produce::config(args) })?;
    let total = args.warm + args.records;
    let mut values = Values::load(args)?;
    let (topic, partitions, rate) = (args.topic.clone(), args.partitions, args.rate);
    let runtime = tokio::runtime::Handle::current();
    let writer = thread::spawn(move || {
        let step = Duration::from_secs(1) / u32::try_from(rate)?;
        let start = Instant::now();
        for index in 0..total {
            let due = start + step * u32::try_from(index)?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut value = values.next_value().to_vec();
            Latencies::stamp(epoch, &mut value);
            let partition = (index % u64::from(partitions)) as i32;
            let record = ProducerRecord::to(&topic).partition(partition).value(&value);
            let _ticket = runtime.block_on(producer.send(record))?;
        }
        runtime.block_on(producer.close(Duration::from_secs(30)))?;
        anyhow::Ok(())
    });
    let mut latencies = Latencies::new(args, epoch);
    let mut consumer = crate::consume::consumer(args, &client)?;
    while latencies.seen() < total {
        let part = consumer.poll(Duration::from_secs(10)).await?.context("no more records")?;
        for record in &part {
            latencies.receive(record?.value.unwrap_or_default());
        }
    }
    tokio::task::spawn_blocking(|| writer.join()).await?.ok().context("the writer panicked")??;
    latencies.finish("milena", args)
}
