//! Consume, transform, produce, exactly once and without a checkpoint store: the offsets of a consumer group are part of the transactions
//! that hold the output (KIP-98), so both become visible together or not at all.
//!
//! Each input partition has a transactional id of its own, `group-topic-partition`: whoever takes a partition over fences off the one who
//! had it, and waits for what that one had decided. So partitions may be given to other instances at any time, by hand or by whatever deals
//! them, and a zombie does no harm. An instance can be killed at any point; the next one goes on from the group's offsets.
//!
//! Against [`Job`](crate::runtime::Job): no checkpoint directory, output visible every [`commit_interval`](PipelineBuilder::commit_interval),
//! and no state but the offsets.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use milena::{
    Client, ClientConfig, CommittedOffset, Consumer, ConsumerConfig, ErrorCode, GroupMetadata, Header,
    Isolation, Offset, OffsetSpec, OnDataLoss, PartitionRecords, ProducerConfig, ProducerRecord,
    ProducerState, Record, Start, TopicPartition, TransactionConfig, TransactionalProducer,
};

use crate::schema::SinkRecord;
use crate::source::OffsetReset;
use crate::{BoxError, Error, ErrorKind, Result};

/// A lane that fails so often in a row, without a commit in between, fails the pipeline.
const FAILURES_IN_A_ROW: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_POLL: Duration = Duration::from_millis(200);
const ABORT_WITHIN: Duration = Duration::from_secs(5);

/// A record that was read.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Where it was read.
    pub partition: &'a TopicPartition,
    /// The record.
    pub record: &'a Record<'a>,
}

/// What a record becomes: any number of records.
#[derive(Debug, Default)]
pub struct Output {
    records: Vec<SinkRecord>,
    last: Option<SinkRecord>,
}

impl Output {
    /// Another record for a topic. Fill in the rest; the time is that of the input unless it is set.
    pub fn record(&mut self, topic: impl Into<std::sync::Arc<str>>) -> &mut SinkRecord {
        self.records.extend(self.last.take());
        let mut record = SinkRecord::new();
        record.set_topic(topic);
        self.last.insert(record)
    }

    fn iter(&self) -> impl Iterator<Item = &SinkRecord> {
        self.records.iter().chain(&self.last)
    }
}

/// What a pipeline did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineReport {
    /// Records read and committed.
    pub records_in: u64,
    /// Records written and committed.
    pub records_out: u64,
    /// Transactions committed.
    pub transactions: u64,
    /// How often a partition was begun again from the group's offset after a failure.
    pub restarts: u64,
}

/// Collects the settings of a [`Pipeline`].
#[derive(Clone, Debug)]
pub struct PipelineBuilder {
    client: ClientConfig,
    group: String,
    partitions: Vec<TopicPartition>,
    reset: OffsetReset,
    commit_interval: Duration,
    transaction_timeout: Duration,
    producer: ProducerConfig,
    consumer: ConsumerConfig,
}

impl PipelineBuilder {
    /// Where a partition begins for which the group has no offset. Default: at its earliest record.
    #[must_use]
    pub fn without_offset(mut self, reset: OffsetReset) -> Self {
        self.reset = reset;
        self
    }

    /// From one commit to the next, and how long output stays invisible. Default 100 ms (Kafka Streams: `commit.interval.ms` under exactly
    /// once).
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = interval;
        self
    }

    /// How long a broker lets a transaction be open. Default 60 s; it only has to cover the commit interval and the time one fetch's records
    /// take.
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.transaction_timeout = timeout;
        self
    }

    /// How records are batched and sent.
    #[must_use]
    pub fn producer(mut self, config: ProducerConfig) -> Self {
        self.producer = config;
        self
    }

    /// How records are read. Where they begin, and that only committed ones count, is the pipeline's.
    #[must_use]
    pub fn consumer(mut self, config: ConsumerConfig) -> Self {
        self.consumer = config;
        self
    }

    /// The pipeline.
    ///
    /// # Errors
    /// `Misuse` without a group or partitions, for a partition given twice, and when the transaction timeout does not cover the commit interval.
    pub fn build(self) -> Result<Pipeline> {
        let misuse = |text: &str| Err(Error::new(ErrorKind::Misuse, text));
        if self.group.is_empty() {
            return misuse("a pipeline needs a group: its offsets are where it goes on");
        }
        if self.partitions.is_empty() {
            return misuse("a pipeline needs partitions to read");
        }
        let mut sorted = self.partitions.clone();
        sorted.sort();
        sorted.dedup();
        if sorted.len() != self.partitions.len() {
            return misuse("a partition is given twice");
        }
        if self.transaction_timeout <= self.commit_interval {
            return misuse("the transaction timeout does not cover the commit interval");
        }
        Ok(Pipeline { settings: self })
    }
}

/// Consume, transform, produce: see the [module](self).
///
/// ```no_run
/// use milena::{ClientConfig, TopicPartition};
/// use milena_connector::pipeline::{Input, Output, Pipeline};
///
/// # async fn example() -> Result<(), milena_connector::Error> {
/// let mine = (0..4).map(|partition| TopicPartition::new("orders", partition));
/// let pipeline = Pipeline::builder(ClientConfig::new(["localhost:9092"]), "shouting", mine).build()?;
/// let report = pipeline
///     .run(
///         |input: &Input<'_>, out: &mut Output| {
///             let value = input.record.value.unwrap_or_default().to_ascii_uppercase();
///             out.record("shouted").set_value(value);
///             Ok(())
///         },
///         std::future::pending(),
///     )
///     .await?;
/// println!("{} records", report.records_out);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Pipeline {
    settings: PipelineBuilder,
}

impl Pipeline {
    /// A builder: the cluster, the group whose offsets say where to go on, and the partitions this instance is to read. Every partition must
    /// be given to one instance; while it moves, two may have it for a moment.
    #[must_use]
    pub fn builder(
        client: ClientConfig,
        group: impl Into<String>,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> PipelineBuilder {
        PipelineBuilder {
            client,
            group: group.into(),
            partitions: partitions.into_iter().collect(),
            reset: OffsetReset::Earliest,
            commit_interval: Duration::from_millis(100),
            transaction_timeout: Duration::from_secs(60),
            producer: ProducerConfig::default(),
            consumer: ConsumerConfig::default(),
        }
    }

    /// Runs until `stop` is ready: then commits what was read, and returns. The function is called for each record, in the order of its
    /// partition; after a failure it is called again for what was not committed.
    ///
    /// # Errors
    /// `Schema` with partition and offset if the function fails; `Client` when another instance took a partition over, when a record can't be
    /// written, or when nothing works for long; `DataLoss` if the group's offset is not in the log any more. What was not committed is
    /// aborted, as well as possible.
    ///
    /// # Cancellation
    /// Dropping the future is as safe as killing the process, at any point.
    pub async fn run<F>(&self, transform: F, stop: impl Future<Output = ()>) -> Result<PipelineReport>
    where
        F: FnMut(&Input<'_>, &mut Output) -> Result<(), BoxError>,
    {
        let client = Client::connect(self.settings.client.clone()).await?;
        let mut lanes = Vec::new();
        for partition in &self.settings.partitions {
            lanes.push(Lane::new(&self.settings, &client, partition.clone())?);
        }
        let config = ConsumerConfig {
            group: None,
            on_data_loss: OnDataLoss::Error,
            isolation: Isolation::ReadCommitted,
            progress: true,
            ..self.settings.consumer.clone()
        };
        let consumer = Consumer::new(&client, config)?;
        let report = PipelineReport::default();
        let mut run = Run { settings: &self.settings, consumer, lanes, transform, report };
        let ended = run.drive(stop).await;
        if ended.is_err() {
            let aborts = join_all(run.lanes.iter_mut().map(Lane::abort));
            if tokio::time::timeout(ABORT_WITHIN, aborts).await.is_err() {
                tracing::warn!(
                    "not every open transaction could be aborted in time; whoever comes next does it"
                );
            }
        }
        ended.map(|()| run.report)
    }
}

/// One input partition.
struct Lane {
    partition: TopicPartition,
    group: String,
    reset: OffsetReset,
    client: Client,
    producer: TransactionalProducer,
    /// The next offset to read; `None` before the lane has begun, and after a failure.
    position: Option<Offset>,
    /// Since when there is something to commit.
    dirty: Option<Instant>,
    records_in: u64,
    records_out: u64,
    failures: u32,
    not_before: Instant,
}

impl Lane {
    fn new(settings: &PipelineBuilder, client: &Client, partition: TopicPartition) -> Result<Self> {
        let id = format!("{}-{}-{}", settings.group, partition.topic, partition.partition);
        let config = TransactionConfig {
            timeout: settings.transaction_timeout,
            producer: settings.producer.clone(),
            ..TransactionConfig::new(id)
        };
        Ok(Self {
            group: settings.group.clone(),
            reset: settings.reset,
            client: client.clone(),
            producer: TransactionalProducer::new(client, config)?,
            partition,
            position: None,
            dirty: None,
            records_in: 0,
            records_out: 0,
            failures: 0,
            not_before: Instant::now(),
        })
    }

    /// Fences off whoever had the partition, then asks where to go on: in this order, and stable.
    async fn begin(&mut self) -> Result<()> {
        self.producer.init().await?;
        let tp = std::slice::from_ref(&self.partition);
        let found = self.client.group(&self.group).fetch(Some(tp), true).await?;
        let committed = match found.into_iter().next() {
            Some((_, committed)) => committed?,
            None => None,
        };
        let at = match (committed, self.reset) {
            (Some(committed), _) => committed.offset,
            (None, OffsetReset::Earliest) => self.end_of_log(OffsetSpec::Earliest).await?,
            (None, OffsetReset::Latest) => self.end_of_log(OffsetSpec::Latest).await?,
            (None, OffsetReset::Fail) => {
                let text = format!("group {} has no offset, and the policy is to fail", self.group);
                return Err(
                    Error::new(ErrorKind::DataLoss, text).with_topic_partition(self.partition.clone())
                );
            }
        };
        self.position = Some(at);
        Ok(())
    }

    async fn end_of_log(&self, spec: OffsetSpec) -> Result<Offset> {
        let asked = [(self.partition.clone(), spec)];
        let listed = self.client.list_offsets(&asked, Isolation::ReadCommitted).await?;
        let found = listed.into_iter().next().map(|(_, found)| found).transpose()?;
        Ok(found.and_then(|found| found.offset).unwrap_or(Offset(0)))
    }

    /// Takes what was fetched into the open transaction.
    async fn take<F>(&mut self, fetched: &PartitionRecords, transform: &mut F) -> Result<()>
    where
        F: FnMut(&Input<'_>, &mut Output) -> Result<(), BoxError>,
    {
        if self.dirty.is_none() {
            self.producer.begin().await?;
            self.dirty = Some(Instant::now());
        }
        for record in fetched {
            let record = record?;
            let mut out = Output::default();
            let input = Input { partition: &self.partition, record: &record };
            transform(&input, &mut out).map_err(|error| {
                Error::new(ErrorKind::Schema, "the function failed")
                    .with_topic_partition(self.partition.clone())
                    .with_offset(record.offset)
                    .with_source(error)
            })?;
            self.records_in += 1;
            for output in out.iter() {
                self.send(output, record.timestamp).await?;
            }
        }
        self.position = Some(fetched.next_offset());
        Ok(())
    }

    async fn send(&mut self, output: &SinkRecord, timestamp: i64) -> Result<()> {
        let headers: Vec<Header<'_>> =
            output.headers().iter().map(|(name, value)| Header::new(name, value.as_deref())).collect();
        let record = ProducerRecord {
            topic: output.topic().map_or("", |topic| topic),
            partition: output.partition(),
            key: output.key(),
            value: output.value(),
            headers: &headers,
            timestamp: output.timestamp().or(Some(timestamp)).filter(|&timestamp| timestamp >= 0),
        };
        // Its failure is the transaction's, which the commit reports.
        drop(self.producer.send(record).await?);
        self.records_out += 1;
        Ok(())
    }

    /// Commits output and offset together.
    async fn commit(&mut self) -> Result<()> {
        let Some(position) = self.position else { return Ok(()) };
        let offsets = [(self.partition.clone(), CommittedOffset::from(position))];
        self.producer.send_offsets(&offsets, &GroupMetadata::without_member(&self.group)).await?;
        let give_up = Instant::now() + self.producer.config().timeout;
        loop {
            match self.producer.commit().await {
                Ok(()) => break,
                // Whether it is committed is open: only the same commit again can tell.
                Err(error) if self.producer.state() == ProducerState::Ending && Instant::now() < give_up => {
                    tracing::debug!(%error, partition = %self.partition, "the commit is asked for again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.dirty = None;
        self.failures = 0;
        Ok(())
    }

    /// After a failure: whatever is open is given up, and the group's offset says where to go on.
    async fn give_up(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        let lasting = matches!(error.kind(), ErrorKind::Schema | ErrorKind::DataLoss | ErrorKind::Misuse);
        if lasting || is_fenced(&error) || self.failures > FAILURES_IN_A_ROW || !may_pass(&error) {
            return Err(explain(error, &self.partition));
        }
        tracing::warn!(%error, partition = %self.partition, "beginning again from the group's offset");
        self.abort().await;
        (self.position, self.dirty, self.records_in, self.records_out) = (None, None, 0, 0);
        self.not_before = Instant::now() + PAUSE * self.failures.min(10);
        Ok(())
    }

    async fn abort(&mut self) {
        if matches!(self.producer.state(), ProducerState::Open | ProducerState::Failed)
            && let Err(error) = self.producer.abort().await
        {
            tracing::debug!(%error, partition = %self.partition, "the transaction could not be aborted");
        }
    }
}

/// Whether the same may succeed later.
fn may_pass(error: &Error) -> bool {
    let Some(client) = error.client() else { return false };
    let doubtful = client.code().is_some_and(|code| {
        matches!(
            code,
            ErrorCode::INVALID_TXN_STATE
                | ErrorCode::TRANSACTION_ABORTABLE
                | ErrorCode::INVALID_PRODUCER_ID_MAPPING
        )
    });
    client.is_retriable()
        || doubtful
        || matches!(client.kind(), milena::ErrorKind::Timeout | milena::ErrorKind::Io)
}

fn is_fenced(error: &Error) -> bool {
    let code = error.client().and_then(milena::Error::code);
    code.is_some_and(|code| {
        matches!(
            code,
            ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::UNKNOWN_MEMBER_ID
        )
    })
}

fn explain(error: Error, partition: &TopicPartition) -> Error {
    if !is_fenced(&error) {
        return error;
    }
    let text = "another instance took this partition over, or its transaction timed out";
    Error::new(ErrorKind::Client, text).with_topic_partition(partition.clone()).with_source(error)
}

struct Run<'a, F> {
    settings: &'a PipelineBuilder,
    consumer: Consumer,
    lanes: Vec<Lane>,
    transform: F,
    report: PipelineReport,
}

impl<F> fmt::Debug for Run<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<F> Run<'_, F>
where
    F: FnMut(&Input<'_>, &mut Output) -> Result<(), BoxError>,
{
    async fn drive(&mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut stopping = false;
        while !stopping {
            self.begin_lanes().await?;
            stopping = tokio::select! {
                biased;
                () = &mut stop => true,
                fetched = fetch(&mut self.consumer, self.settings, &self.lanes) => {
                    self.take(fetched).await?;
                    false
                }
            };
            self.commit_due(stopping).await?;
        }
        Ok(())
    }

    async fn begin_lanes(&mut self) -> Result<()> {
        let now = Instant::now();
        let waiting = |lane: &&mut Lane| lane.position.is_none() && now >= lane.not_before;
        let begun = join_all(self.lanes.iter_mut().filter(waiting).map(|lane| async {
            let begun = lane.begin().await;
            (lane, begun)
        }));
        for (lane, begun) in begun.await {
            match (begun, lane.position) {
                (Ok(()), Some(at)) => {
                    self.consumer.assign([(lane.partition.clone(), Start::At(at.into()))]);
                }
                (Ok(()), None) => {}
                (Err(error), _) => {
                    // A fence here is of the moment: two instances began at once, and the later one wins.
                    lane.give_up(error).await?;
                    self.report.restarts += 1;
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, fetched: milena::Result<Option<PartitionRecords>>) -> Result<()> {
        let part = match fetched {
            Ok(Some(part)) if !part.is_end() => part,
            Ok(_) => return Ok(()),
            Err(error) => return self.refused(error).await,
        };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.partition == *part.tp()) else {
            return Ok(());
        };
        if let Err(error) = lane.take(&part, &mut self.transform).await {
            self.consumer.unassign([&lane.partition]);
            lane.give_up(error).await?;
            self.report.restarts += 1;
        }
        Ok(())
    }

    /// The consumer does not read a partition any more, or could not ask a broker at all.
    async fn refused(&mut self, error: milena::Error) -> Result<()> {
        let named = |lane: &&Lane| {
            error.topic() == Some(&*lane.partition.topic)
                && error.partition() == Some(lane.partition.partition)
        };
        let lane = self.lanes.iter().find(named);
        let lost = error.kind() == milena::ErrorKind::DataLoss;
        let error = Error::from(error);
        match lane.and_then(|lane| Some((lane, lane.position?))) {
            Some((lane, at)) if lost => {
                let text = "the group's offset is not in the log any more";
                let error = Error::new(ErrorKind::DataLoss, text).with_source(error);
                Err(error.with_topic_partition(lane.partition.clone()).with_offset(at))
            }
            lane if may_pass(&error) => {
                tracing::debug!(%error, "a partition could not be read");
                tokio::time::sleep(PAUSE).await;
                if let Some((lane, at)) = lane {
                    self.consumer.seek(&lane.partition, Start::At(at.into()))?;
                }
                Ok(())
            }
            Some((lane, _)) => Err(error.with_topic_partition(lane.partition.clone())),
            None => Err(error),
        }
    }

    async fn commit_due(&mut self, all: bool) -> Result<()> {
        let interval = self.settings.commit_interval;
        let due = |lane: &&mut Lane| lane.dirty.is_some_and(|since| all || since.elapsed() >= interval);
        let committed = join_all(self.lanes.iter_mut().filter(due).map(|lane| async {
            let committed = lane.commit().await;
            (lane, committed)
        }));
        for (lane, committed) in committed.await {
            match committed {
                Ok(()) => {
                    self.report.records_in += std::mem::take(&mut lane.records_in);
                    self.report.records_out += std::mem::take(&mut lane.records_out);
                    self.report.transactions += 1;
                }
                // At the end there is no next time: what was not committed is for whoever comes next.
                Err(error) if all => return Err(explain(error, &lane.partition)),
                Err(error) => {
                    self.consumer.unassign([&lane.partition]);
                    lane.give_up(error).await?;
                    self.report.restarts += 1;
                }
            }
        }
        Ok(())
    }
}

/// What comes next of any lane; waits no longer than until something is to be committed.
async fn fetch(
    consumer: &mut Consumer,
    settings: &PipelineBuilder,
    lanes: &[Lane],
) -> milena::Result<Option<PartitionRecords>> {
    let due = lanes.iter().filter_map(|lane| lane.dirty).min();
    let left = due.map(|since| settings.commit_interval.saturating_sub(since.elapsed()));
    consumer.poll(left.unwrap_or(LONGEST_POLL).min(LONGEST_POLL)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(partitions: &[i32]) -> PipelineBuilder {
        let partitions = partitions.iter().map(|&partition| TopicPartition::new("t", partition));
        Pipeline::builder(ClientConfig::new(["a:1"]), "g", partitions)
    }

    #[test]
    fn a_wrong_call_is_refused() {
        assert!(builder(&[0, 1]).build().is_ok());
        assert!(builder(&[]).build().is_err());
        assert!(builder(&[1, 1]).build().is_err());
        assert!(builder(&[0]).transaction_timeout(Duration::from_millis(100)).build().is_err());
        assert!(
            Pipeline::builder(ClientConfig::new(["a:1"]), "", [TopicPartition::new("t", 0)]).build().is_err()
        );
    }
}
