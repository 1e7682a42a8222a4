//! librdkafka in the comparison, through the crate rdkafka: `BaseConsumer` and `ThreadedProducer`, the crate's quickest.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use contract::{Args, Codec, Latencies, Meter, Profile, Role, Shape, Usage, Values};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

fn main() -> Result<()> {
    let args = Args::parse()?;
    match args.role {
        Role::Consume => consume(&args),
        Role::Produce => produce(&args),
        Role::Latency => latency(&args),
    }
}

/// What both sides have in common.
fn client(args: &Args) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.bootstrap);
    if let Some(authority) = &args.tls {
        config.set("security.protocol", "ssl").set("ssl.ca.location", authority);
    }
    config
}

fn consumer(args: &Args) -> Result<BaseConsumer> {
    let mut config = client(args);
    config.set("group.id", "bench").set("enable.auto.commit", "false");
    if args.profile == Profile::Tuned {
        config
            .set("check.crcs", "true")
            .set("queued.min.messages", "1000000")
            .set("queued.max.messages.kbytes", "65536");
    }
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..args.partitions as i32 {
        list.add_partition_offset(&args.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

fn consume(args: &Args) -> Result<()> {
    let consumer = consumer(args)?;
    let mut meter = Meter::new(args);
    while meter.records < args.total() {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        if args.shape == Shape::Keys {
            meter.part(message.key().unwrap_or_default());
            for header in message.headers().context("a record without headers")?.iter() {
                meter.name(header.key.as_bytes());
                meter.part(header.value.unwrap_or_default());
            }
        }
        meter.value(message.payload().unwrap_or_default());
    }
    meter.finish("rdkafka", args, &[])
}

/// Counts what became of records.
#[derive(Clone, Default)]
struct Counts {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Counts {}

impl ProducerContext for Counts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.acknowledged } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn producer(args: &Args, linger: &str, counts: &Counts) -> Result<ThreadedProducer<Counts>> {
    let mut config = client(args);
    config.set("enable.idempotence", "true").set("acks", "all");
    config.set(
        "compression.type",
        match args.codec {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        },
    );
    if args.profile == Profile::Tuned || args.role == Role::Latency {
        config.set("linger.ms", linger);
    }
    if args.profile == Profile::Tuned {
        config.set("queue.buffering.max.messages", "500000").set("batch.num.messages", "100000");
    }
    Ok(config.create_with_context(counts.clone())?)
}

fn produce(args: &Args) -> Result<()> {
    let counts = Counts::default();
    let producer = producer(args, "5", &counts)?;
    let mut values = Values::load(args)?;
    let mut meter = Meter::new(args);
    write(args, &producer, &mut values, args.warm)?;
    let begin = Usage::now();
    write(args, &producer, &mut values, args.records)?;
    let end = Usage::now();
    write(args, &producer, &mut values, args.tail)?;
    meter.window(begin, end);
    values.account(&mut meter);
    meter.records = counts.acknowledged.load(Ordering::Relaxed);
    ensure!(counts.failed.load(Ordering::Relaxed) == 0, "records failed");
    meter.finish("rdkafka", args, &[])
}

fn write(args: &Args, producer: &ThreadedProducer<Counts>, values: &mut Values, records: u64) -> Result<()> {
    let mut partition = (values.records % u64::from(args.partitions)) as i32;
    for _ in 0..records {
        send(args, producer, partition, values.next_value())?;
        partition = if partition + 1 == args.partitions as i32 { 0 } else { partition + 1 };
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

fn send(args: &Args, producer: &ThreadedProducer<Counts>, partition: i32, value: &[u8]) -> Result<()> {
    let mut record = BaseRecord::<[u8], [u8]>::to(&args.topic).partition(partition).payload(value);
    if args.shape == Shape::Keys {
        let mut headers = OwnedHeaders::new_with_capacity(3);
        for (name, value) in Values::headers(value) {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        record = record.key(Values::key(value)).headers(headers);
    }
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => bail!("{error}"),
        }
    }
}

fn latency(args: &Args) -> Result<()> {
    let epoch = Instant::now();
    let counts = Counts::default();
    let producer = producer(args, "0", &counts)?;
    let consumer = consumer(args)?;
    let total = args.warm + args.records;
    let writing = args.clone();
    let mut values = Values::load(args)?;
    let writer = thread::spawn(move || {
        let step = Duration::from_secs(1) / u32::try_from(writing.rate)?;
        let start = Instant::now();
        for index in 0..total {
            let due = start + step * u32::try_from(index)?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut value = values.next_value().to_vec();
            Latencies::stamp(epoch, &mut value);
            send(&writing, &producer, (index % u64::from(writing.partitions)) as i32, &value)?;
        }
        producer.flush(Duration::from_secs(60))?;
        anyhow::Ok(())
    });
    let mut latencies = Latencies::new(args, epoch);
    while latencies.seen() < total {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            latencies.receive(message?.payload().unwrap_or_default());
        }
    }
    writer.join().ok().context("a thread panicked")??;
    latencies.finish("rdkafka", args)
}
