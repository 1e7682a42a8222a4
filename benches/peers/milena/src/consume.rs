//! Reads a topic.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use contract::{Args, Meter, Shape};
use milena::{Client, Consumer, ConsumerConfig, Record, Start, TopicPartition};

/// How long a poll waits; nothing for so long means that records are missing.
const WAIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: &Args) -> Result<()> {
    let (mode, cryptography) = crate::mode(args);
    let client = crate::connect(args, cryptography).await?;
    let mut meter = Meter::new(args);
    match mode.trim_end_matches("-mt") {
        "" | "batches" => batches(args, &mut consumer(args, &client)?, &mut meter).await?,
        "next" => next(args, &mut consumer(args, &client)?, &mut meter).await?,
        "backlog" => backlog(args, &client, &mut meter).await?,
        "recv" => recv(args, &mut consumer(args, &client)?, &mut meter).await?,
        other => bail!("no mode {other:?}"),
    }
    meter.finish("milena", args, &[])
}

/// A consumer of the whole topic. Its defaults are its fast settings, so the profiles do not differ.
pub(crate) fn consumer(args: &Args, client: &Client) -> Result<Consumer> {
    consumer_with(args, client, ConsumerConfig::default())
}

fn consumer_with(args: &Args, client: &Client, config: ConsumerConfig) -> Result<Consumer> {
    let consumer = Consumer::new(client, config)?;
    let partitions = 0..args.partitions as i32;
    consumer.assign(
        partitions.map(|partition| (TopicPartition::new(args.topic.as_str(), partition), Start::Earliest)),
    );
    Ok(consumer)
}

/// What an answer brought of a partition, records borrowed.
async fn batches(args: &Args, consumer: &mut Consumer, meter: &mut Meter) -> Result<()> {
    while meter.records < args.total() {
        let part = consumer.poll(WAIT).await?.context("no more records")?;
        for record in &part {
            take(args.shape, &record?, meter);
        }
    }
    Ok(())
}

/// With a buffer of 64 MiB, which is full before the first record is taken.
async fn backlog(args: &Args, client: &Client, meter: &mut Meter) -> Result<()> {
    let config = ConsumerConfig { buffer_bytes: 64 << 20, ..ConsumerConfig::default() };
    let mut consumer = consumer_with(args, client, config)?;
    let mut held = 0;
    while held == 0 || consumer.metrics().buffered_bytes != held {
        held = consumer.metrics().buffered_bytes;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    batches(args, &mut consumer, meter).await
}

/// Record by record, borrowed.
async fn next(args: &Args, consumer: &mut Consumer, meter: &mut Meter) -> Result<()> {
    while meter.records < args.total() {
        take(args.shape, &consumer.next().await?.record, meter);
    }
    Ok(())
}

/// Record by record, to keep.
async fn recv(args: &Args, consumer: &mut Consumer, meter: &mut Meter) -> Result<()> {
    while meter.records < args.total() {
        let record = consumer.recv().await?;
        take(args.shape, &record.as_record(), meter);
    }
    Ok(())
}

#[inline(always)]
fn take(shape: Shape, record: &Record<'_>, meter: &mut Meter) {
    if shape == Shape::Keys {
        meter.part(record.key.unwrap_or_default());
        for header in record.headers.iter() {
            meter.name(header.name.as_bytes());
            meter.part(header.value.unwrap_or_default());
        }
    }
    meter.value(record.value.unwrap_or_default());
}
