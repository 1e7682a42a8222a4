//! krafka in the comparison.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use contract::{Args, Codec, Latencies, Meter, Profile, Role, Shape, Usage, Values};
use krafka::consumer::{AutoOffsetReset, Consumer};
use krafka::producer::{Acks, Producer};
use krafka::{Compression, Kafka, Record};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    match args.role {
        Role::Consume => consume(&args).await,
        Role::Produce => produce(&args).await,
        Role::Latency => latency(&args).await,
    }
}

async fn consumer(args: &Args, kafka: &Kafka) -> Result<Consumer> {
    let mut builder =
        kafka.consumer_without_group().auto_offset_reset(AutoOffsetReset::Earliest).enable_auto_commit(false);
    if args.profile == Profile::Tuned {
        builder = builder.max_poll_records(-1).max_buffered_records(0).metrics_push(false);
    }
    let consumer = builder.build().await?;
    consumer.assign(&args.topic, (0..args.partitions as i32).collect()).await?;
    Ok(consumer)
}

async fn consume(args: &Args) -> Result<()> {
    let kafka = Kafka::builder(args.bootstrap.as_str()).connect().await?;
    let consumer = consumer(args, &kafka).await?;
    let mut meter = Meter::new(args);
    while meter.records < args.total() {
        for record in consumer.poll(Duration::from_secs(1)).await? {
            if args.shape == Shape::Keys {
                meter.part(record.key.as_deref().unwrap_or_default());
                for (name, value) in &record.headers {
                    meter.name(name.as_bytes());
                    meter.part(value.as_deref().unwrap_or_default());
                }
            }
            meter.value(record.value.as_deref().unwrap_or_default());
        }
    }
    meter.finish("krafka", args, &[])
}

async fn producer(args: &Args, kafka: &Kafka, linger: Duration) -> Result<Producer> {
    let mut builder = kafka.producer().acks(Acks::All).idempotent(true).compression(match args.codec {
        Codec::None => Compression::None,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    });
    if args.profile == Profile::Tuned || args.role == Role::Latency {
        builder = builder.linger(linger);
    }
    if args.profile == Profile::Tuned {
        builder = builder.batch_size(1 << 20).buffer_memory(64 << 20).metrics_push(false);
    }
    Ok(builder.build().await?)
}

fn record(args: &Args, partition: u32, value: &Bytes) -> Record {
    let mut record = Record::new(args.topic.as_str(), value.clone()).partition(partition as i32);
    if args.shape == Shape::Keys {
        record = record.key(value.slice(..16));
        for (name, header) in Values::headers(value) {
            record = record.header(name, value.slice_ref(header));
        }
    }
    record
}

async fn produce(args: &Args) -> Result<()> {
    let kafka = Kafka::builder(args.bootstrap.as_str()).connect().await?;
    let producer = producer(args, &kafka, Duration::from_millis(5)).await?;
    let mut source = Source::load(args)?;
    let mut meter = Meter::new(args);
    write(args, &producer, &mut source, args.warm).await?;
    let begin = Usage::now();
    write(args, &producer, &mut source, args.records).await?;
    let end = Usage::now();
    write(args, &producer, &mut source, args.tail).await?;
    meter.window(begin, end);
    source.values.account(&mut meter);
    producer.close().await?;
    meter.finish("krafka", args, &[])
}

/// Values that are reference-counted once, so that a record is a reference to one.
struct Source {
    values: Values,
    shared: Vec<Bytes>,
    next: usize,
    partition: u32,
}

impl Source {
    fn load(args: &Args) -> Result<Self> {
        let values = Values::load(args)?;
        let shared = values.all().map(Bytes::copy_from_slice).collect();
        Ok(Self { values, shared, next: 0, partition: 0 })
    }
}

async fn write(args: &Args, producer: &Producer, source: &mut Source, records: u64) -> Result<()> {
    for _ in 0..records {
        source.values.next_value();
        let value = &source.shared[source.next];
        // Flush reports what failed; what was written is read back.
        let _handle = producer.enqueue(record(args, source.partition, value)).await?;
        source.next = if source.next + 1 == source.shared.len() { 0 } else { source.next + 1 };
        source.partition = if source.partition + 1 == args.partitions { 0 } else { source.partition + 1 };
    }
    producer.flush().await?;
    Ok(())
}

async fn latency(args: &Args) -> Result<()> {
    let epoch = Instant::now();
    let kafka = Kafka::builder(args.bootstrap.as_str()).connect().await?;
    // The mode two has a handle, and so connections, for each side.
    let other = match args.mode.as_str() {
        "two" => Kafka::builder(args.bootstrap.as_str()).connect().await?,
        _ => kafka.clone(),
    };
    let producer = producer(args, &other, Duration::ZERO).await?;
    let consumer = consumer(args, &kafka).await?;
    let total = args.warm + args.records;
    let writing = args.clone();
    let mut values = Values::load(args)?;
    let writer = tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_secs(1) / u32::try_from(writing.rate)?);
        for index in 0..total {
            clock.tick().await;
            let mut value = values.next_value().to_vec();
            Latencies::stamp(epoch, &mut value);
            let partition = (index % u64::from(writing.partitions)) as u32;
            let _handle = producer.enqueue(record(&writing, partition, &Bytes::from(value))).await?;
        }
        producer.flush().await?;
        anyhow::Ok(())
    });
    let mut latencies = Latencies::new(args, epoch);
    while latencies.seen() < total {
        for record in consumer.poll(Duration::from_secs(1)).await? {
            latencies.receive(record.value.as_deref().unwrap_or_default());
        }
    }
    writer.await??;
    ensure!(latencies.seen() == total, "{} records came", latencies.seen());
    latencies.finish("krafka", args)
}
