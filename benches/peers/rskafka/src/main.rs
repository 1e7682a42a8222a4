//! rskafka in the comparison. It has no idempotence and no consumer over several partitions: each partition is read by a loop, and batches
//! are made by hand. Its clients share a connection, so a fetch that waits would hold up the others: there is no role latency.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use contract::{Args, Codec, Meter, Profile, Role, Shape, Usage, Values};
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use tokio::task::{JoinHandle, LocalSet};

/// Batches that wait for their answers.
const IN_FLIGHT: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let client = ClientBuilder::new(vec![args.bootstrap.clone()]).build().await?;
    let mut partitions = Vec::new();
    for partition in 0..args.partitions as i32 {
        let handling = UnknownTopicHandling::Retry;
        partitions.push(Arc::new(client.partition_client(args.topic.clone(), partition, handling).await?));
    }
    match args.role {
        Role::Consume => LocalSet::new().run_until(consume(&args, &partitions)).await,
        Role::Produce => produce(&args, &partitions).await,
        Role::Latency => bail!("not measured"),
    }
}

async fn consume(args: &Args, partitions: &[Arc<PartitionClient>]) -> Result<()> {
    let meter = Rc::new(RefCell::new(Meter::new(args)));
    let mut loops = Vec::new();
    for partition in partitions {
        let (partition, meter, args) = (Arc::clone(partition), Rc::clone(&meter), args.clone());
        loops.push(tokio::task::spawn_local(async move {
            // It has no default: a fetch always names its limit.
            let mut next = 0;
            loop {
                let (records, high_watermark) = partition.fetch_records(next, 1..1 << 20, 500).await?;
                let mut meter = meter.borrow_mut();
                for record in &records {
                    take(&args, &record.record, &mut meter);
                }
                next = records.last().map_or(next, |record| record.offset + 1);
                if next >= high_watermark {
                    return anyhow::Ok(());
                }
            }
        }));
    }
    for each in loops {
        each.await??;
    }
    meter.borrow().finish("rskafka", args, &[])
}

fn take(args: &Args, record: &Record, meter: &mut Meter) {
    if args.shape == Shape::Keys {
        meter.part(record.key.as_deref().unwrap_or_default());
        for (name, value) in &record.headers {
            meter.name(name.as_bytes());
            meter.part(value);
        }
    }
    meter.value(record.value.as_deref().unwrap_or_default());
}

/// Collects batches by partition and keeps several on their way.
struct Writer<'a> {
    args: &'a Args,
    partitions: &'a [Arc<PartitionClient>],
    open: Vec<Vec<Record>>,
    sent: VecDeque<JoinHandle<Result<usize>>>,
    batch_records: usize,
    acknowledged: u64,
    partition: usize,
}

async fn produce(args: &Args, partitions: &[Arc<PartitionClient>]) -> Result<()> {
    let bytes = if args.profile == Profile::Tuned { 512 << 10 } else { 16 << 10 };
    let batch_records = match args.partitions {
        1000.. => 64,
        _ => bytes / (args.value_size + 10),
    };
    let mut writer = Writer {
        args,
        partitions,
        open: vec![Vec::new(); partitions.len()],
        sent: VecDeque::new(),
        batch_records,
        acknowledged: 0,
        partition: 0,
    };
    let mut values = Values::load(args)?;
    let mut meter = Meter::new(args);
    writer.write(&mut values, args.warm).await?;
    let begin = Usage::now();
    writer.write(&mut values, args.records).await?;
    let end = Usage::now();
    writer.write(&mut values, args.tail).await?;
    meter.window(begin, end);
    values.account(&mut meter);
    meter.records = writer.acknowledged;
    meter.finish("rskafka", args, &[])
}

impl Writer<'_> {
    async fn write(&mut self, values: &mut Values, records: u64) -> Result<()> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now =
            DateTime::from_timestamp_millis(i64::try_from(since_epoch)?).context("a clock out of range")?;
        for _ in 0..records {
            let record = record(self.args, values.next_value(), now);
            let partition = self.partition;
            self.partition = (partition + 1) % self.open.len();
            self.open[partition].push(record);
            if self.open[partition].len() == self.batch_records {
                self.send(partition).await?;
            }
        }
        for partition in 0..self.open.len() {
            self.send(partition).await?;
        }
        while let Some(sent) = self.sent.pop_front() {
            self.acknowledged += sent.await?? as u64;
        }
        Ok(())
    }

    async fn send(&mut self, partition: usize) -> Result<()> {
        let batch = std::mem::take(&mut self.open[partition]);
        if batch.is_empty() {
            return Ok(());
        }
        let codec = match self.args.codec {
            Codec::None => Compression::NoCompression,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        };
        let client = Arc::clone(&self.partitions[partition]);
        self.sent.push_back(tokio::spawn(async move { Ok(client.produce(batch, codec).await?.len()) }));
        if self.sent.len() > IN_FLIGHT
            && let Some(sent) = self.sent.pop_front()
        {
            self.acknowledged += sent.await?? as u64;
        }
        Ok(())
    }
}

fn record(args: &Args, value: &[u8], timestamp: DateTime<Utc>) -> Record {
    let (mut key, mut headers) = (None, BTreeMap::new());
    if args.shape == Shape::Keys {
        key = Some(Values::key(value).to_vec());
        headers.extend(Values::headers(value).map(|(name, value)| (name.to_owned(), value.to_vec())));
    }
    Record { key, value: Some(value.to_vec()), headers, timestamp }
}
