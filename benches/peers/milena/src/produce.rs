//! Writes records.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use contract::{Args, Codec, Meter, Profile, Shape, Usage, Values};
use milena::{Compression, Header, Idempotence, Producer, ProducerConfig, ProducerRecord, Ticket};

/// Records of a partition that are sent at a time by `Many`.
const RUN: usize = 16;

/// Tickets that are held before they are awaited.
const HELD: usize = 50_000;

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `send`, the ticket dropped.
    Ticket,
    /// `send`, every ticket awaited.
    Awaited,
    /// `send_all` of some records of a partition at a time.
    Many,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let (mode, cryptography) = crate::mode(args);
    let way = match mode.trim_end_matches("-mt") {
        "" | "ticket" => Way::Ticket,
        "awaited" => Way::Awaited,
        "many" => Way::Many,
        other => bail!("no mode {other:?}"),
    };
    let client = crate::connect(args, cryptography).await?;
    let producer = Producer::new(&client, config(args))?;
    let mut meter = Meter::new(args);
    write(args, &producer, args.warm, way, &mut meter).await?;
    let begin = Usage::now();
    write(args, &producer, args.records, way, &mut meter).await?;
    let end = Usage::now();
    write(args, &producer, args.tail, way, &mut meter).await?;
    meter.window(begin, end);
    let metrics = producer.metrics();
    ensure!(metrics.errors == 0, "{} records failed", metrics.errors);
    producer.close(Duration::from_secs(30)).await?;
    meter.finish(
        "milena",
        args,
        &[("batches", metrics.batches.to_string()), ("requests", metrics.requests.to_string())],
    )
}

pub(crate) fn config(args: &Args) -> ProducerConfig {
    let mut config = ProducerConfig { idempotence: Idempotence::Required, ..ProducerConfig::default() };
    config.compression = match args.codec {
        Codec::None => Compression::None,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    };
    if args.profile == Profile::Tuned {
        config.linger = Duration::from_millis(5);
        config.batch_size = 512 << 10;
        if args.partitions < 100 {
            // What is in use fits the processor's cache then; among many partitions it would make small batches.
            config.buffer_memory = 16 << 20;
        }
    }
    config
}

/// Sends this many records from all threads and waits until they are acknowledged.
async fn write(args: &Args, producer: &Producer, records: u64, way: Way, meter: &mut Meter) -> Result<()> {
    let threads = args.threads as u64;
    let mut tasks = Vec::new();
    for thread in 0..threads {
        let share = records / threads + u64::from(thread < records % threads);
        let (args, producer) = (args.clone(), producer.clone());
        let first = meter.records + records / threads * thread;
        let work = async move { send(&args, &producer, first, share, way).await };
        if threads == 1 {
            work.await?.account(meter);
        } else {
            tasks.push(tokio::spawn(work));
        }
    }
    for task in tasks {
        task.await??.account(meter);
    }
    producer.flush().await?;
    Ok(())
}

async fn send(args: &Args, producer: &Producer, first: u64, records: u64, way: Way) -> Result<Values> {
    let mut values = Values::load(args)?;
    values.skip(first);
    if way == Way::Many {
        send_runs(args, producer, &mut values, records).await?;
        return Ok(values);
    }
    let mut held: Vec<Ticket> = Vec::new();
    let mut partition = 0;
    for _ in 0..records {
        let value = values.next_value();
        let record = ProducerRecord::to(&args.topic).partition(partition).value(value);
        partition = if partition + 1 == args.partitions as i32 { 0 } else { partition + 1 };
        let ticket = if args.shape == Shape::Keys {
            let headers = Values::headers(value).map(|(name, value)| Header::new(name, Some(value)));
            producer.send(record.key(Values::key(value)).headers(&headers)).await?
        } else {
            producer.send(record).await?
        };
        if way == Way::Awaited {
            held.push(ticket);
            if held.len() == HELD {
                settle(&mut held).await?;
            }
        }
    }
    settle(&mut held).await?;
    Ok(values)
}

/// Sends runs of records of one partition after the other.
async fn send_runs(args: &Args, producer: &Producer, values: &mut Values, records: u64) -> Result<()> {
    let mut partition = 0;
    let mut left = records as usize;
    while left > 0 {
        let count = left.min(RUN);
        let mut indexes = [0; RUN];
        for index in &mut indexes[..count] {
            *index = values.next_index();
        }
        let run = indexes
            .map(|index| ProducerRecord::to(&args.topic).partition(partition).value(values.value(index)));
        let _tickets = producer.send_all(&run[..count]).await?;
        partition = if partition + 1 == args.partitions as i32 { 0 } else { partition + 1 };
        left -= count;
    }
    Ok(())
}

async fn settle(held: &mut Vec<Ticket>) -> Result<()> {
    for ticket in held.drain(..) {
        ticket.await?;
    }
    Ok(())
}
