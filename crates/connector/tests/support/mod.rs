//! A stage for jobs: an embedded broker, numbered input records, and a judge of the output.
#![allow(dead_code, reason = "each test file uses its part of the stage")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::protocol::types::Isolation;
use milena::{
    Client, ClientConfig, FetchFrom, FetchOptions, ListFilter, NewTopic, Offset, OffsetSpec, Producer,
    ProducerConfig, ProducerRecord, TopicPartition, TransactionState,
};
use milena_connector::runtime::{
    CheckpointConfig, Job, JobConfig, JobControl, JobReport, Step, Verdict as HookVerdict,
};
use milena_connector::schema::{
    Emit, OwnedKafkaRecord, RecordDeserializer, Serializer, SinkRecord, serialize_with,
};
use milena_connector::sink::{Delivery, KafkaSink, KafkaSinkBuilder};
use milena_connector::source::{KafkaSource, StartFrom, StopAt};
use milena_testkit::broker::{BrokerConfig, TransactionVersion};
use milena_testkit::check::{Judge, Verdict};
use milena_testkit::kafka::{Kafka, or_skip};
use milena_testkit::listen::EmbeddedBroker;

pub(crate) const INPUT: &str = "in";
pub(crate) const OUTPUT: &str = "out";
pub(crate) const PREFIX: &str = "job";
pub(crate) const GROUP: &str = "group";

static SEED: AtomicU64 = AtomicU64::new(1);

/// A broker with an input and an output topic.
pub(crate) struct Stage<B = EmbeddedBroker> {
    pub(crate) broker: B,
    pub(crate) bootstrap: String,
    pub(crate) client: Client,
    pub(crate) partitions: i32,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) prefix: String,
}

pub(crate) fn broker_config(partitions: i32, version: TransactionVersion) -> BrokerConfig {
    BrokerConfig {
        auto_create_topics: false,
        transaction_check_interval: Duration::from_millis(100),
        // Brokers of one seed have one cluster id, and a prefix is one job's on a cluster.
        seed: SEED.fetch_add(1, Ordering::Relaxed),
        ..BrokerConfig::default()
    }
    .with_topic(INPUT, partitions)
    .with_topic(OUTPUT, partitions)
    .with_transaction_version(version)
}

impl Stage {
    pub(crate) async fn new(partitions: i32) -> Self {
        Self::with(broker_config(partitions, TransactionVersion::V2)).await
    }

    pub(crate) async fn with(config: BrokerConfig) -> Self {
        let partitions = config.topics.iter().find(|(name, _)| name == INPUT).map_or(1, |(_, count)| *count);
        let broker = EmbeddedBroker::start(config).await.unwrap();
        let bootstrap = broker.bootstrap();
        let client = Client::connect(ClientConfig::new([bootstrap.as_str()])).await.unwrap();
        let (input, output, prefix) = (INPUT.to_owned(), OUTPUT.to_owned(), PREFIX.to_owned());
        Self { broker, bootstrap, client, partitions, input, output, prefix }
    }
}

impl Stage<Kafka> {
    /// A stage on a real broker, or `None` after saying why there is none.
    pub(crate) async fn real(partitions: i32) -> Option<Self> {
        let broker = or_skip(Kafka::obtain().await)?;
        let bootstrap = broker.bootstrap().to_owned();
        let client = Client::connect(ClientConfig::new([bootstrap.as_str()])).await.unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let name = format!("job{}x{}", std::process::id(), now.as_nanos() % 1_000_000_000);
        let (input, output) = (format!("{name}.in"), format!("{name}.out"));
        let topics = [NewTopic::new(&input, partitions), NewTopic::new(&output, partitions)];
        for (_, created) in client.admin().create_topics(&topics, Duration::from_secs(20)).await.unwrap() {
            created.unwrap();
        }
        Some(Self { broker, bootstrap, client, partitions, input, output, prefix: name })
    }
}

impl<B> Stage<B> {
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new([self.bootstrap.as_str()]);
        config.api_timeout = Duration::from_secs(10);
        config
    }

    /// Writes records with these numbers. The key follows from the number, the partition from the key.
    pub(crate) async fn produce(&self, numbers: impl IntoIterator<Item = u64>) {
        let producer = Producer::new(&self.client, ProducerConfig::default()).unwrap();
        for number in numbers {
            let (key, value) = (key(number), number.to_string());
            let record = ProducerRecord::to(&self.input).key(&key).value(&value).timestamp(timestamp(number));
            drop(producer.send(record).await.unwrap());
        }
        producer.flush().await.unwrap();
        producer.close(Duration::from_secs(5)).await.unwrap();
    }

    pub(crate) fn source(&self) -> milena_connector::source::KafkaSourceBuilder<OwnedKafkaRecord> {
        KafkaSource::builder()
            .client(self.config())
            .topics([&self.input])
            .group_id(GROUP)
            .start(StartFrom::Earliest)
            .deserializer(RecordDeserializer::new())
    }

    pub(crate) fn bounded(&self) -> KafkaSource<OwnedKafkaRecord> {
        self.source().bounded(StopAt::Latest).build().unwrap()
    }

    pub(crate) fn sink(&self, delivery: Delivery) -> KafkaSinkBuilder<OwnedKafkaRecord> {
        let producer = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
        KafkaSink::builder()
            .client(self.config())
            .delivery(delivery)
            .transactional_id_prefix(&self.prefix)
            .transaction_timeout(Duration::from_secs(60))
            .producer(producer)
            .serializer(copy(&self.output))
    }

    pub(crate) fn exactly_once(&self) -> KafkaSink<OwnedKafkaRecord> {
        self.sink(Delivery::ExactlyOnce).build().unwrap()
    }

    /// A copy of the whole input that takes a moment for each record, so that there are several checkpoints.
    pub(crate) fn slow_copy(&self) -> Job {
        Job::from_source(self.bounded())
            .map_async(2, |record| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(record)
            })
            .to(self.exactly_once())
    }

    /// Everything that readers of committed records see: partition, offset, number.
    pub(crate) async fn output(&self) -> Vec<(i32, i64, OwnedRecord)> {
        self.read(Isolation::ReadCommitted).await
    }

    pub(crate) async fn read(&self, isolation: Isolation) -> Vec<(i32, i64, OwnedRecord)> {
        self.read_topic(&self.output, isolation).await
    }

    pub(crate) async fn read_topic(&self, topic: &str, isolation: Isolation) -> Vec<(i32, i64, OwnedRecord)> {
        let mut seen = Vec::new();
        for partition in 0..self.partitions {
            let at = TopicPartition::new(topic, partition);
            let ends =
                self.client.list_offsets(&[(at.clone(), OffsetSpec::Latest)], isolation).await.unwrap();
            let end = ends[0].1.as_ref().unwrap().offset.unwrap_or(Offset(0));
            let mut next = Offset(0);
            while next < end {
                let from = FetchFrom { tp: at.clone(), offset: next, max_bytes: None, leader_epoch: None };
                let options = FetchOptions {
                    isolation,
                    max_wait: Duration::from_millis(10),
                    ..FetchOptions::default()
                };
                let fetched = self.client.fetcher().fetch(&[from], &options).await.unwrap().remove(0);
                assert!(fetched.error.is_none(), "{:?}", fetched.error);
                for record in fetched.owned_records().unwrap() {
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    let record = OwnedRecord {
                        key: record.key.unwrap().to_vec(),
                        number: value.parse().unwrap(),
                        timestamp: record.timestamp,
                    };
                    seen.push((partition, record_offset(&fetched.requested, seen.len()), record));
                }
                assert!(fetched.next_offset() > next, "the reader is stuck at {next} before {end}");
                next = fetched.next_offset();
            }
        }
        seen
    }

    /// Judges the output against an input of these numbers.
    pub(crate) async fn judge(&self, numbers: impl IntoIterator<Item = u64>) -> Verdict {
        let mut judge = Judge::new();
        for number in numbers {
            judge.expect(key(number).as_bytes(), number);
        }
        for (partition, place, record) in self.output().await {
            judge.see(&self.output, partition, place, &record.key, record.number);
        }
        judge.verdict()
    }

    /// Open transactions on the cluster.
    pub(crate) async fn open_transactions(&self) -> Vec<String> {
        let filter = ListFilter { states: vec![TransactionState::Ongoing], ..ListFilter::default() };
        self.client
            .transactions()
            .list(&filter)
            .await
            .unwrap()
            .into_iter()
            .map(|listing| listing.id)
            .collect()
    }
}

/// Order is all that counts within a partition, so the place in the read is as good as the offset.
fn record_offset(_requested: &Offset, place: usize) -> i64 {
    i64::try_from(place).unwrap()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedRecord {
    pub(crate) key: Vec<u8>,
    pub(crate) number: u64,
    pub(crate) timestamp: i64,
}

pub(crate) fn key(number: u64) -> String {
    format!("key-{}", number % 7)
}

pub(crate) fn timestamp(number: u64) -> i64 {
    1_700_000_000_000 + i64::try_from(number).unwrap() * 10
}

/// Writes each record as it was, to the partition that its key asks for.
pub(crate) fn copy(topic: &str) -> impl Serializer<OwnedKafkaRecord> + Clone + Sync + 'static + use<> {
    let topic: Arc<str> = topic.into();
    serialize_with(move |record: &OwnedKafkaRecord, _timestamp: i64, out: &mut SinkRecord| {
        out.set_topic(Arc::clone(&topic)).set_partition(record.partition);
        out.set_key(record.key.as_deref().unwrap_or_default());
        out.set_value(record.value.as_deref().unwrap_or_default());
        Ok(Emit::Write)
    })
}

pub(crate) fn job_config(dir: &Path, parallelism: u32, interval: Duration) -> JobConfig {
    JobConfig {
        parallelism,
        checkpoint: CheckpointConfig { interval, ..CheckpointConfig::new(dir) },
        stop_timeout: Duration::from_secs(20),
        ..JobConfig::new("test")
    }
}

/// A control that crashes the job when a step is reached for the n-th time.
pub(crate) fn crash_at(step: Step, nth: u32) -> JobControl {
    let left = Mutex::new(nth);
    JobControl::with_hooks(move |reached: Step, _subtask: Option<u32>| {
        let mut left = left.lock().unwrap();
        if reached == step && *left > 0 {
            *left -= 1;
            if *left == 0 {
                return HookVerdict::Crash;
            }
        }
        HookVerdict::Continue
    })
}

/// A run that must not take longer than a minute.
pub(crate) async fn run(
    job: Job,
    config: JobConfig,
    control: JobControl,
) -> milena_connector::Result<JobReport> {
    tokio::time::timeout(Duration::from_secs(60), job.run(config, control)).await.expect("the job hangs")
}

/// A small generator of random numbers with a seed, for test histories.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Waits for something that must come true within 20 seconds.
pub(crate) async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}
