//! A stage for jobs: numbered input records, a job that copies them, and a judge of the output.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use milena::{
    Client, Isolation, ListFilter, Offset, OffsetSpec, ProducerConfig, ProducerRecord, TopicPartition,
    TransactionState,
};
use milena_connector::Result;
use milena_connector::runtime::{
    CheckpointConfig, Job, JobConfig, JobControl, JobMetrics, JobReport, Step, Verdict as HookVerdict,
};
use milena_connector::schema::{
    Emit, OwnedKafkaRecord, RecordDeserializer, Serializer, SinkRecord, serialize_with,
};
use milena_connector::sink::{Delivery, KafkaSink, KafkaSinkBuilder};
use milena_connector::source::{KafkaSource, KafkaSourceBuilder, StartFrom, StopAt};
use milena_testkit::check::{Judge, Verdict};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Env;
use crate::records::{offset, read, text, within, write};

/// The time of record 0; each record is 10 ms after the one before.
pub const FIRST_TIME: i64 = 1_700_000_000_000;

/// An input topic, an output topic, and names for a job between them.
#[derive(Debug)]
pub struct Stage {
    /// The broker.
    pub env: Env,
    /// A client of it, for looks from outside.
    pub client: Client,
    /// The input topic.
    pub input: String,
    /// The output topic.
    pub output: String,
    /// The prefix of the job's transactions.
    pub prefix: String,
    /// The job's consumer group.
    pub group: String,
    /// How many partitions both topics have.
    pub partitions: i32,
}

impl Stage {
    /// Two new topics on this broker.
    ///
    /// # Panics
    /// If they can't be made.
    pub async fn new(env: Env, partitions: i32) -> Self {
        Self {
            client: env.client().await,
            input: env.topic("in", partitions).await,
            output: env.topic("out", partitions).await,
            prefix: env.name("job"),
            group: env.name("group"),
            env,
            partitions,
        }
    }

    /// A stage on each kind of broker.
    ///
    /// # Panics
    /// As [`Env::each`].
    pub async fn each(partitions: i32) -> Vec<Self> {
        let mut stages = Vec::new();
        for env in Env::each().await {
            stages.push(Self::new(env, partitions).await);
        }
        stages
    }

    /// Writes the records with these numbers to the input. The key follows from the number, the partition from the key.
    ///
    /// # Panics
    /// If one can't be written.
    pub async fn produce(&self, numbers: std::ops::Range<u64>) {
        let records: Vec<_> = numbers.map(|number| (key(number), number.to_string(), time(number))).collect();
        let records = records
            .iter()
            .map(|(key, value, time)| ProducerRecord::to(&self.input).key(key).value(value).timestamp(*time));
        write(&self.client, ProducerConfig::default(), records).await;
    }

    /// The source: the input from its start, by the stage's group.
    pub fn source(&self) -> KafkaSourceBuilder<OwnedKafkaRecord> {
        KafkaSource::builder()
            .client(self.env.config())
            .topics([&self.input])
            .group_id(&self.group)
            .start(StartFrom::Earliest)
            .deserializer(RecordDeserializer::new())
    }

    /// The sink: to the output, each record to the partition it came from.
    pub fn sink(&self, delivery: Delivery) -> KafkaSinkBuilder<OwnedKafkaRecord> {
        KafkaSink::builder()
            .client(self.env.config())
            .delivery(delivery)
            .transactional_id_prefix(&self.prefix)
            .transaction_timeout(Duration::from_secs(60))
            .serializer(copy(&self.output))
    }

    /// An exactly-once copy of all that is in the input now. Each record takes a millisecond, so that there is more than one
    /// checkpoint.
    ///
    /// # Panics
    /// If the job's parts can't be built.
    pub fn copy_job(&self) -> Job {
        let source = self.source().bounded(StopAt::Latest).build();
        let sink = self.sink(Delivery::ExactlyOnce).build();
        Job::from_source(source.unwrap_or_else(|error| panic!("{error}")))
            .map_async(2, |record| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(record)
            })
            .to(sink.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Judges what readers of committed records see in the output.
    ///
    /// # Panics
    /// If the output can't be read.
    pub async fn judge(&self, numbers: std::ops::Range<u64>) -> Verdict {
        let mut judge = Judge::new();
        for number in numbers {
            judge.expect(key(number).as_bytes(), number);
        }
        for partition in 0..self.partitions {
            let tp = TopicPartition::new(self.output.as_str(), partition);
            for record in read(&self.client, &tp, Isolation::ReadCommitted).await {
                let value = text(record.value.as_deref());
                let number = value.parse().unwrap_or_else(|error| panic!("{value:?} in {tp}: {error}"));
                judge.see(
                    &self.output,
                    partition,
                    record.offset.0,
                    record.key.as_deref().unwrap_or_default(),
                    number,
                );
            }
        }
        judge.verdict()
    }

    /// How many committed records the output has.
    ///
    /// # Panics
    /// If the output can't be read.
    pub async fn committed(&self) -> usize {
        let mut count = 0;
        for partition in 0..self.partitions {
            let tp = TopicPartition::new(self.output.as_str(), partition);
            count += read(&self.client, &tp, Isolation::ReadCommitted).await.len();
        }
        count
    }

    /// Transactional ids with this prefix in which a transaction is open.
    ///
    /// # Panics
    /// If they can't be listed.
    pub async fn open_transactions(&self, prefix: &str) -> Vec<String> {
        let filter = ListFilter {
            states: vec![TransactionState::Ongoing],
            prefix: Some(prefix.to_owned()),
            ..ListFilter::default()
        };
        let listed = within("the list", self.client.transactions().list(&filter)).await;
        let mut ids: Vec<_> = listed
            .unwrap_or_else(|error| panic!("listing transactions: {error}"))
            .into_iter()
            .map(|listing| listing.id)
            .collect();
        ids.sort();
        ids
    }

    /// The group's lag by partition: the end that committed readers see, less what is committed.
    ///
    /// # Panics
    /// If it can't be looked up.
    pub async fn lag(&self) -> BTreeMap<i32, i64> {
        let all: Vec<_> = (0..self.partitions)
            .map(|partition| TopicPartition::new(self.input.as_str(), partition))
            .collect();
        let fetched = within("the offsets", self.client.group(&self.group).fetch(Some(&all), true)).await;
        let mut lags = BTreeMap::new();
        for (tp, committed) in fetched.unwrap_or_else(|error| panic!("the group's offsets: {error}")) {
            let committed = committed.unwrap_or_else(|error| panic!("{tp}: {error}"));
            let end = offset(&self.client, &tp, OffsetSpec::Latest, Isolation::ReadCommitted).await;
            let committed = committed.map_or(Offset(-1), |committed| committed.offset);
            lags.insert(tp.partition.0, end.unwrap_or_default() - committed.0);
        }
        lags
    }
}

/// The key of a record.
pub fn key(number: u64) -> String {
    format!("key-{}", number % 7)
}

/// The time of a record.
pub fn time(number: u64) -> i64 {
    FIRST_TIME + i64::try_from(number).unwrap_or(i64::MAX / 2) * 10
}

/// Writes each record as it was, to the partition it came from.
pub fn copy(topic: &str) -> impl Serializer<OwnedKafkaRecord> + Clone + Sync + 'static {
    let topic = topic.to_owned();
    serialize_with(move |record: &OwnedKafkaRecord, _timestamp: i64, out: &mut SinkRecord| {
        out.set_topic(topic.as_str()).set_partition(record.partition);
        out.set_key(record.key.as_deref().unwrap_or_default());
        out.set_value(record.value.as_deref().unwrap_or_default());
        Ok(Emit::Write)
    })
}

/// The configuration of a job with a checkpoint directory.
pub fn job_config(dir: &Path, parallelism: u32, interval: Duration) -> JobConfig {
    JobConfig {
        parallelism,
        checkpoint: CheckpointConfig { interval, ..CheckpointConfig::new(dir) },
        ..JobConfig::new("test")
    }
}

/// Runs a job, two minutes at most.
///
/// # Errors
/// The job's.
///
/// # Panics
/// When it hangs.
pub async fn run(job: Job, config: JobConfig, control: JobControl) -> Result<JobReport> {
    let limit = Duration::from_secs(120);
    tokio::time::timeout(limit, job.run(config, control)).await.unwrap_or_else(|_| panic!("the job hangs"))
}

/// Ends a job as if it were killed when a step is reached for the n-th time.
pub fn crash_at(step: Step, nth: u32) -> JobControl {
    let left = AtomicU32::new(nth);
    JobControl::with_hooks(move |reached: Step, _subtask: Option<u32>| {
        if reached == step && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            HookVerdict::Crash
        } else {
            HookVerdict::Continue
        }
    })
}

/// A job that runs beside the test.
#[derive(Debug)]
pub struct Running {
    control: JobControl,
    task: tokio::task::JoinHandle<Result<JobReport>>,
}

impl Running {
    /// Starts a job.
    pub fn start(job: Job, config: JobConfig) -> Self {
        let control = JobControl::new();
        let task = tokio::spawn(run(job, config, control.clone()));
        Self { control, task }
    }

    /// Waits until the job's numbers are as wanted.
    ///
    /// # Panics
    /// After 60 s, or when the job ends before.
    pub async fn until(&self, what: &str, mut seen: impl FnMut(&JobMetrics) -> bool) {
        let metrics = self.control.metrics();
        for _ in 0..1200 {
            if seen(&metrics.borrow()) {
                return;
            }
            assert!(!self.task.is_finished(), "{what}: the job ended before: {:?}", *metrics.borrow());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: not within 60 s: {:?}", *metrics.borrow());
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// The job's.
    ///
    /// # Panics
    /// When it hangs.
    pub async fn ended(self) -> Result<JobReport> {
        self.task.await.unwrap_or_else(|error| panic!("the job's task: {error}"))
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// The job's.
    ///
    /// # Panics
    /// When it hangs.
    pub async fn stop(self) -> Result<JobReport> {
        self.control.stop();
        self.task.await.unwrap_or_else(|error| panic!("the job's task: {error}"))
    }
}
