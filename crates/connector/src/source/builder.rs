//! Describing a source.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena::{Client, ClientConfig, Isolation, TopicPartition};

use super::assign::Assigner;
use super::commit_mode::CommitMode;
use super::enumerator::{Enumerator, EnumeratorConfig};
use super::enumerator_state::EnumeratorState;
use super::policy::{
    Discovery, DiscoveryRetry, OnOutOfRange, RecreatedTopic, RemovedPartition, UnsubscribedPartition,
};
use super::reader::SourceReader;
use super::split::Split;
use super::start::{OffsetReset, StartFrom, StopAt};
use super::subscription::{Pattern, Subscriber, Subscription};
use crate::progress::{Alignment, AlignmentGroup, WatermarkStrategy};
use crate::schema::{Deserializer, OnRecordError};
use crate::{Error, ErrorKind, Result};

type DeserializerFactory<T> = dyn Fn() -> Box<dyn Deserializer<T>> + Send + Sync;
type EndOfStream<T> = dyn Fn(&T) -> bool + Send + Sync;
type RackSupplier = dyn Fn() -> Option<String> + Send + Sync;

/// What to read, from where to where, and how. Cheap to clone.
///
/// ```
/// use milena::ClientConfig;
/// use milena_connector::schema::StringDeserializer;
/// use milena_connector::source::{KafkaSource, StartFrom, StopAt};
///
/// let source = KafkaSource::<String>::builder()
///     .client(ClientConfig::new(["localhost:9092"]))
///     .topics(["orders"])
///     .start(StartFrom::Earliest)
///     .bounded(StopAt::Latest)
///     .deserializer(StringDeserializer)
///     .build()?;
/// assert!(source.is_bounded());
/// # Ok::<(), milena_connector::Error>(())
/// ```
pub struct KafkaSource<T> {
    settings: Arc<SourceSettings<T>>,
}

/// The checked settings of a source, shared by its enumerator and readers.
pub(crate) struct SourceSettings<T> {
    pub(crate) client: ClientConfig,
    pub(crate) enumerator: EnumeratorConfig,
    pub(crate) group_id: Option<String>,
    pub(crate) commits: CommitMode,
    pub(crate) alignment: Option<Alignment>,
    pub(crate) isolation: Isolation,
    pub(crate) watermarks: WatermarkStrategy<T>,
    pub(crate) watermark_interval: Duration,
    pub(crate) deserializer: Arc<DeserializerFactory<T>>,
    pub(crate) on_record_error: OnRecordError,
    pub(crate) on_out_of_range: OnOutOfRange,
    pub(crate) end_of_stream: Option<Arc<EndOfStream<T>>>,
    pub(crate) fetch: FetchSettings,
    pub(crate) rack: Option<Arc<RackSupplier>>,
}

/// How records are fetched, and how much memory they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// How long a broker may wait for data before it answers, at most. Default 500 ms.
    pub max_wait: Duration,
    /// Bytes a broker waits for before it answers earlier. Default 1.
    pub min_bytes: u32,
    /// Bytes of one answer, at most (a single larger batch still comes through). Default 2 MiB, which a processor's cache holds.
    pub max_bytes: u32,
    /// Bytes of one partition in one answer, at most. Default 1 MiB.
    pub partition_max_bytes: u32,
    /// Whether the checksum of each batch is verified. Default `true`. Kafka: `check.crcs`.
    pub check_crcs: bool,
    /// The most bytes that a reader's answers and what they decompress to take in memory, those on their way and those not handed out, over
    /// all brokers; when reached, it stops fetching until the job caught up. See [`ConsumerConfig::buffer_bytes`](milena::ConsumerConfig)
    /// for the little that may exceed it. Less than 256 KiB counts as that. Default 16 MiB. Ours: `fetch.buffer.bytes`.
    pub prefetch_bytes: usize,
    /// The most bytes that one batch may decompress to; more ends the job. Default 128 MiB. Ours: `fetch.max.batch.bytes`.
    pub max_batch_bytes: u32,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 2 << 20,
            partition_max_bytes: 1 << 20,
            check_crcs: true,
            prefetch_bytes: 16 << 20,
            max_batch_bytes: 128 << 20,
        }
    }
}

impl<T> Clone for KafkaSource<T> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings) }
    }
}

impl<T> fmt::Debug for KafkaSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource")
            .field("enumerator", &self.settings.enumerator)
            .field("group_id", &self.settings.group_id)
            .field("isolation", &self.settings.isolation)
            .field("watermarks", &self.settings.watermarks)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> KafkaSource<T> {
    /// A builder; a client configuration, a subscription and a deserializer are mandatory.
    #[must_use]
    pub fn builder() -> KafkaSourceBuilder<T> {
        KafkaSourceBuilder::default()
    }

    /// The configuration of the client that reads.
    #[must_use]
    pub fn client_config(&self) -> &ClientConfig {
        &self.settings.client
    }

    /// Whether the source ends by itself.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.settings.enumerator.bounded
    }

    /// The consumer group whose offsets are read at the start and committed at checkpoints.
    #[must_use]
    pub fn group_id(&self) -> Option<&str> {
        self.settings.group_id.as_deref()
    }

    /// The subscription and policies of the enumerator.
    #[must_use]
    pub fn enumerator_config(&self) -> &EnumeratorConfig {
        &self.settings.enumerator
    }

    /// Which records are read: those of committed transactions only, or all.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.settings.isolation
    }

    /// An enumerator of a fresh job.
    #[must_use]
    pub fn enumerator(&self, parallelism: u32) -> Enumerator {
        Enumerator::new(self.settings.enumerator.clone(), parallelism)
    }

    /// An enumerator of a restored job, see [`Enumerator::restore`].
    ///
    /// # Errors
    /// What [`Enumerator::restore`] refuses.
    pub fn restore_enumerator(
        &self,
        parallelism: u32,
        state: EnumeratorState,
        splits: impl IntoIterator<Item = Split>,
    ) -> Result<Enumerator> {
        Enumerator::restore(self.settings.enumerator.clone(), parallelism, state, splits)
    }

    /// A reader without splits.
    #[must_use]
    pub fn reader(&self, client: &Client) -> SourceReader<T> {
        SourceReader::new(client.clone(), self.clone())
    }

    pub(crate) fn settings(&self) -> &SourceSettings<T> {
        &self.settings
    }
}

/// Builds a [`KafkaSource`].
pub struct KafkaSourceBuilder<T> {
    client: Option<ClientConfig>,
    subscriptions: Vec<Result<Subscription>>,
    group_id: Option<String>,
    start: StartFrom,
    stop: StopAt,
    bounded: bool,
    discovery: Discovery,
    retry: DiscoveryRetry,
    assigner: Assigner,
    removed: RemovedPartition,
    recreated: RecreatedTopic,
    unsubscribed: UnsubscribedPartition,
    commits: Option<CommitMode>,
    alignment: Option<Alignment>,
    isolation: Isolation,
    watermarks: WatermarkStrategy<T>,
    watermark_interval: Duration,
    deserializer: Option<Arc<DeserializerFactory<T>>>,
    on_record_error: OnRecordError,
    on_out_of_range: OnOutOfRange,
    end_of_stream: Option<Arc<EndOfStream<T>>>,
    fetch: FetchSettings,
    rack: Option<Arc<RackSupplier>>,
}

impl<T> Default for KafkaSourceBuilder<T> {
    fn default() -> Self {
        Self {
            client: None,
            subscriptions: Vec::new(),
            group_id: None,
            start: StartFrom::default(),
            stop: StopAt::default(),
            bounded: false,
            discovery: Discovery::default(),
            retry: DiscoveryRetry::default(),
            assigner: Assigner::default(),
            removed: RemovedPartition::default(),
            recreated: RecreatedTopic::default(),
            unsubscribed: UnsubscribedPartition::default(),
            commits: None,
            alignment: None,
            isolation: Isolation::ReadCommitted,
            watermarks: WatermarkStrategy::none(),
            watermark_interval: Duration::from_millis(200),
            deserializer: None,
            on_record_error: OnRecordError::default(),
            on_out_of_range: OnOutOfRange::default(),
            end_of_stream: None,
            fetch: FetchSettings::default(),
            rack: None,
        }
    }
}

impl<T: Send + 'static> KafkaSourceBuilder<T> {
    /// How to reach the cluster. Mandatory.
    #[must_use]
    pub fn client(mut self, client: ClientConfig) -> Self {
        self.client = Some(client);
        self
    }

    /// Reads all partitions of these topics. Exactly one of `topics`, `topic_pattern`,
    /// `partitions` and `subscriber` must be called, once.
    #[must_use]
    pub fn topics<S: AsRef<str>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        let topics: BTreeSet<Arc<str>> = topics.into_iter().map(|topic| Arc::from(topic.as_ref())).collect();
        self.subscriptions.push(Ok(Subscription::Topics(topics)));
        self
    }

    /// Reads all topics whose whole name matches a regular expression, also those created later.
    #[must_use]
    pub fn topic_pattern(mut self, expression: &str) -> Self {
        self.subscriptions.push(Pattern::new(expression).map(Subscription::Pattern));
        self
    }

    /// Reads these partitions only.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.subscriptions.push(Ok(Subscription::Partitions(partitions.into_iter().collect())));
        self
    }

    /// Reads what a subscriber of the user's own says, at each discovery.
    #[must_use]
    pub fn subscriber(mut self, subscriber: impl Subscriber + 'static) -> Self {
        self.subscriptions.push(Ok(Subscription::Custom(Arc::new(subscriber))));
        self
    }

    /// The consumer group whose committed offsets may be the start, and to which positions are committed.
    #[must_use]
    pub fn group_id(mut self, group_id: impl Into<String>) -> Self {
        self.group_id = Some(group_id.into());
        self
    }

    /// Where partitions of the first discovery start. Default: earliest.
    #[must_use]
    pub fn start(mut self, start: StartFrom) -> Self {
        self.start = start;
        self
    }

    /// Where partitions stop, in a source that goes on for partitions still to come. Default: nowhere.
    #[must_use]
    pub fn stop(mut self, stop: StopAt) -> Self {
        self.stop = stop;
        self.bounded = false;
        self
    }

    /// Where partitions stop, in a source that ends when all have. Discovery then runs once.
    #[must_use]
    pub fn bounded(mut self, stop: StopAt) -> Self {
        self.stop = stop;
        self.bounded = true;
        self
    }

    /// How often partitions are looked for. Default: every 5 minutes.
    #[must_use]
    pub fn discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// How often partitions are looked for; `None` for once.
    #[must_use]
    pub fn discovery_interval(self, interval: Option<Duration>) -> Self {
        self.discovery(interval.map_or(Discovery::Once, Discovery::Every))
    }

    /// What happens when looking for partitions fails.
    #[must_use]
    pub fn discovery_retry(mut self, retry: DiscoveryRetry) -> Self {
        self.retry = retry;
        self
    }

    /// Which subtask reads which partition. Default: Flink's rule.
    #[must_use]
    pub fn assigner(mut self, assigner: Assigner) -> Self {
        self.assigner = assigner;
        self
    }

    /// What happens when a partition disappears. Default: fail after three discoveries agree.
    #[must_use]
    pub fn removed_partitions(mut self, removed: RemovedPartition) -> Self {
        self.removed = removed;
        self
    }

    /// What happens when a topic was deleted and created again. Default: fail.
    #[must_use]
    pub fn recreated_topics(mut self, recreated: RecreatedTopic) -> Self {
        self.recreated = recreated;
        self
    }

    /// What happens to a restored partition that is not subscribed any more. Default: fail.
    #[must_use]
    pub fn unsubscribed_partitions(mut self, unsubscribed: UnsubscribedPartition) -> Self {
        self.unsubscribed = unsubscribed;
        self
    }

    /// Whether positions are committed to the group when a checkpoint completes. Default: yes, if there is a group.
    #[must_use]
    pub fn commit_on_checkpoint(self, commit: bool) -> Self {
        self.commit_mode(if commit { CommitMode::OnCheckpoints } else { CommitMode::Off })
    }

    /// When positions are committed to the group. Default: with checkpoints, if there is a group.
    #[must_use]
    pub fn commit_mode(mut self, mode: CommitMode) -> Self {
        self.commits = Some(mode);
        self
    }

    /// Lets partitions that are ahead in event time wait for others, of this source and of others of the same group. Default: not.
    #[must_use]
    pub fn alignment(mut self, group: &AlignmentGroup, max_drift: Duration) -> Self {
        self.alignment = Some(Alignment { group: group.clone(), max_drift });
        self
    }

    /// Which records are read. Default: those of committed transactions only.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// How watermarks are made. Default: not at all.
    #[must_use]
    pub fn watermarks(mut self, watermarks: WatermarkStrategy<T>) -> Self {
        self.watermarks = watermarks;
        self
    }

    /// How often periodic watermarks are made and idleness is looked at. Default 200 ms.
    #[must_use]
    pub fn watermark_interval(mut self, interval: Duration) -> Self {
        self.watermark_interval = interval;
        self
    }

    /// What turns records into elements; each reader gets a clone. Mandatory, or `deserializer_with`.
    #[must_use]
    pub fn deserializer<D>(self, deserializer: D) -> Self
    where
        D: Deserializer<T> + Clone + Sync + 'static,
    {
        self.deserializer_with(move || Box::new(deserializer.clone()))
    }

    /// What turns records into elements; the function makes one for each reader.
    #[must_use]
    pub fn deserializer_with(
        mut self,
        make: impl Fn() -> Box<dyn Deserializer<T>> + Send + Sync + 'static,
    ) -> Self {
        self.deserializer = Some(Arc::new(make));
        self
    }

    /// What happens to a record that the deserializer refuses. Default: fail.
    #[must_use]
    pub fn on_record_error(mut self, policy: OnRecordError) -> Self {
        self.on_record_error = policy;
        self
    }

    /// What happens when the wanted offset is outside the log. Default: fail with `DataLoss`.
    #[must_use]
    pub fn on_out_of_range(mut self, policy: OnOutOfRange) -> Self {
        self.on_out_of_range = policy;
        self
    }

    /// Ends a partition at the first element for which the function is true; that element is not handed out.
    #[must_use]
    pub fn end_of_stream(mut self, is_end: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.end_of_stream = Some(Arc::new(is_end));
        self
    }

    /// How records are fetched.
    #[must_use]
    pub fn fetch(mut self, fetch: FetchSettings) -> Self {
        self.fetch = fetch;
        self
    }

    /// The rack (on clouds: the zone) that the readers are in: brokers then name a replica in it to be read instead of the leader, if they are
    /// set up for it (KIP-392). Default none. Kafka: `client.rack`.
    #[must_use]
    pub fn rack(self, rack: impl Into<String>) -> Self {
        let rack = rack.into();
        self.rack_supplier(move || Some(rack.clone()))
    }

    /// The rack as [`KafkaSourceBuilder::rack`], asked for where and when a reader gets its first split, for readers that run elsewhere than
    /// this is built; `None` or an empty one for no rack. Flink: `setRackIdSupplier`.
    #[must_use]
    pub fn rack_supplier(mut self, rack: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.rack = Some(Arc::new(rack));
        self
    }

    /// The topic, if exactly one is named.
    pub(super) fn only_topic(&self) -> Option<Arc<str>> {
        match self.subscriptions.last() {
            Some(Ok(Subscription::Topics(topics))) if topics.len() == 1 => topics.first().cloned(),
            _ => None,
        }
    }

    /// What happens at the start where the wanted offset is not there, in the modes that have such a choice.
    pub(super) fn start_reset(mut self, reset: OffsetReset) -> Self {
        if let StartFrom::Committed { or } | StartFrom::Offsets { or, .. } = &mut self.start {
            *or = reset;
        }
        self
    }

    pub(super) fn fetch_settings(&self) -> FetchSettings {
        self.fetch
    }

    /// Checks everything.
    ///
    /// # Errors
    /// `Misuse`, with what to change: a mandatory part is missing, two subscriptions, a mode that needs a group without one, a bounded
    /// source without a stop, a negative time or offset, a setting out of range.
    pub fn build(self) -> Result<KafkaSource<T>> {
        let misuse = |text: &str| Error::new(ErrorKind::Misuse, text);
        self.check_modes()?;
        let mut subscriptions = self.subscriptions;
        let subscription = match (subscriptions.pop(), subscriptions.is_empty()) {
            (Some(subscription), true) => subscription?,
            (None, _) => return Err(misuse("say what to read: topics, topic_pattern or partitions")),
            (Some(_), false) => {
                return Err(misuse("say what to read once: topics, topic_pattern or partitions"));
            }
        };
        if subscription.named_topics().is_some_and(|topics| topics.is_empty()) {
            return Err(misuse("the subscription is empty: name at least one topic"));
        }
        let client =
            self.client.ok_or_else(|| misuse("say how to reach the cluster: client(ClientConfig)"))?;
        let deserializer =
            self.deserializer.ok_or_else(|| misuse("say how to read records: deserializer(..)"))?;
        let commits = match (self.commits, &self.group_id) {
            (Some(CommitMode::OnCheckpoints | CommitMode::Periodic(_)), None) => {
                return Err(misuse("offsets are committed to a group: set group_id"));
            }
            (Some(CommitMode::Periodic(Duration::ZERO)), _) => {
                return Err(misuse("a commit interval of zero never rests; use CommitMode::Off for none"));
            }
            (None, None) => CommitMode::Off,
            (wanted, _) => wanted.unwrap_or_default(),
        };
        if self.alignment.is_some() && !self.watermarks.generates() {
            return Err(misuse("alignment needs watermarks"));
        }
        let enumerator = EnumeratorConfig {
            subscription,
            start: self.start,
            stop: self.stop,
            bounded: self.bounded,
            discovery: if self.bounded { Discovery::Once } else { self.discovery },
            retry: self.retry,
            assigner: self.assigner,
            removed: self.removed,
            recreated: self.recreated,
            unsubscribed: self.unsubscribed,
        };
        let settings = SourceSettings {
            client,
            enumerator,
            group_id: self.group_id,
            commits,
            alignment: self.alignment,
            isolation: self.isolation,
            watermarks: self.watermarks,
            watermark_interval: self.watermark_interval,
            deserializer,
            on_record_error: self.on_record_error,
            on_out_of_range: self.on_out_of_range,
            end_of_stream: self.end_of_stream,
            fetch: self.fetch,
            rack: self.rack,
        };
        Ok(KafkaSource { settings: Arc::new(settings) })
    }

    fn check_modes(&self) -> Result<()> {
        let misuse = |text: &str| Err(Error::new(ErrorKind::Misuse, text));
        if self.group_id.as_deref() == Some("") {
            return misuse("the group_id is empty");
        }
        if self.group_id.is_none() {
            if matches!(self.start, StartFrom::Committed { .. }) {
                return misuse("a start at committed offsets needs a group_id");
            }
            if matches!(self.stop, StopAt::Committed) {
                return misuse("a stop at committed offsets needs a group_id");
            }
        }
        if self.bounded && self.stop == StopAt::Never {
            return misuse("a bounded source needs a stop: bounded(StopAt::Latest), for example");
        }
        if matches!(self.start, StartFrom::Timestamp(at) if at < 0)
            || matches!(self.stop, StopAt::Timestamp(at) if at < 0)
        {
            return misuse("timestamps are milliseconds since 1970 and not negative");
        }
        let starts = match &self.start {
            StartFrom::Offsets { offsets, .. } => offsets.values().all(|offset| offset.0 >= 0),
            _ => true,
        };
        let stops = match &self.stop {
            StopAt::Offsets(offsets) => offsets.values().all(|offset| offset.0 >= 0),
            _ => true,
        };
        if !starts || !stops {
            return misuse("offsets are not negative; use the modes for earliest, latest and committed");
        }
        if self.discovery == Discovery::Every(Duration::ZERO) {
            return misuse("a discovery interval of zero never rests; use Discovery::Once to look only once");
        }
        if self.watermark_interval.is_zero()
            || self.fetch.prefetch_bytes == 0
            || self.fetch.partition_max_bytes == 0
            || self.fetch.max_batch_bytes == 0
        {
            return misuse("watermark_interval and the sizes of FetchSettings must be more than zero");
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
