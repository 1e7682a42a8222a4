//! The face of Flink's classic consumer, for jobs that come from it: its constructor, its setters, its defaults.
//!
//! | `FlinkKafkaConsumer` | here |
//! |---|---|
//! | start | the group's offsets, and `auto.offset.reset` (default `latest`) where there are none |
//! | isolation | `read_uncommitted`, unless `isolation.level` says otherwise, as Kafka's consumer |
//! | discovery | off, unless `flink.partition-discovery.interval-millis` is set |
//! | restored partitions of topics that are not subscribed any more | dropped with a warning, unless the filter is disabled |
//! | offsets | committed with checkpoints; without them every 5 s, unless `enable.auto.commit=false` |
//! | assignment | by the hash of the topic |
//!
//! What Flink does in silence stays an error here: an offset that retention has deleted, a topic that was created again, a partition
//! that is gone. [`FlinkKafkaConsumer::into_builder`] gives the builder, on which each of those policies can be chosen.
//!
//! # References
//! Flink 1.x: `FlinkKafkaConsumer`, `FlinkKafkaConsumerBase`.

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{Isolation, Offset, TopicPartition};

use super::builder::{KafkaSource, KafkaSourceBuilder};
use super::commit_mode::{AUTO_COMMIT_INTERVAL, CommitMode};
use super::policy::{Discovery, UnsubscribedPartition};
use super::start::{OffsetReset, StartFrom};
use crate::progress::WatermarkStrategy;
use crate::schema::Deserializer;
use crate::{Error, ErrorKind, Result};

/// A source with the names and defaults of Flink's classic consumer.
///
/// ```
/// use milena_connector::schema::StringDeserializer;
/// use milena_connector::source::flink::FlinkKafkaConsumer;
///
/// let properties = [("bootstrap.servers", "localhost:9092"), ("group.id", "orders-job")];
/// let source = FlinkKafkaConsumer::new(["orders"], StringDeserializer, properties)?
///     .set_start_from_earliest()
///     .into_source()?;
/// assert_eq!(source.group_id(), Some("orders-job"));
/// # Ok::<(), milena_connector::Error>(())
/// ```
pub struct FlinkKafkaConsumer<T> {
    builder: KafkaSourceBuilder<T>,
    unknown: Vec<String>,
    reset: OffsetReset,
    start: ClassicStart,
    checkpointing: bool,
    commit_on_checkpoints: bool,
    auto_commit: bool,
    interval: Duration,
    has_group: bool,
}

impl<T> std::fmt::Debug for FlinkKafkaConsumer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlinkKafkaConsumer").field("start", &self.start).finish_non_exhaustive()
    }
}

/// Flink's `StartupMode`.
#[derive(Clone, Debug)]
enum ClassicStart {
    Group,
    Earliest,
    Latest,
    Timestamp(i64),
    Specific(BTreeMap<TopicPartition, Offset>),
}

impl<T: Send + 'static> FlinkKafkaConsumer<T> {
    /// Reads all partitions of topics.
    ///
    /// # Errors
    /// `Misuse` for a property that can't be read, or without `bootstrap.servers`.
    pub fn new<S, D, K, V>(
        topics: impl IntoIterator<Item = S>,
        deserializer: D,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        S: AsRef<str>,
        D: Deserializer<T> + Clone + Sync + 'static,
        K: AsRef<str>,
        V: AsRef<str>,
    {
        Self::with(KafkaSource::builder().topics(topics).deserializer(deserializer), properties)
    }

    /// Reads the topics whose whole name matches.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_pattern<D, K, V>(
        pattern: &str,
        deserializer: D,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        D: Deserializer<T> + Clone + Sync + 'static,
        K: AsRef<str>,
        V: AsRef<str>,
    {
        Self::with(KafkaSource::builder().topic_pattern(pattern).deserializer(deserializer), properties)
    }

    fn with<K, V>(
        builder: KafkaSourceBuilder<T>,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut properties: BTreeMap<String, String> = properties
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().trim().to_owned()))
            .collect();
        let reset = match properties.get("auto.offset.reset").map(String::as_str) {
            None | Some("latest" | "largest") => OffsetReset::Latest,
            Some("earliest" | "smallest") => OffsetReset::Earliest,
            Some(_) => OffsetReset::Fail,
        };
        // The modes below decide with these together, so the builder does not see them.
        let auto_commit = properties.remove("enable.auto.commit").is_none_or(|flag| flag == "true");
        let interval = match properties.remove("auto.commit.interval.ms") {
            None => AUTO_COMMIT_INTERVAL,
            Some(text) => Duration::from_millis(text.parse().map_err(|_| {
                Error::new(ErrorKind::Misuse, format!("auto.commit.interval.ms is {text:?}"))
            })?),
        };
        let has_group = properties.contains_key("group.id");
        let isolation = builder.isolation(Isolation::ReadUncommitted).discovery(Discovery::Once);
        let (builder, unknown) = isolation.from_properties(properties)?;
        Ok(Self {
            builder: builder.unsubscribed_partitions(UnsubscribedPartition::Drop),
            unknown,
            reset,
            start: ClassicStart::Group,
            checkpointing: true,
            commit_on_checkpoints: true,
            auto_commit,
            interval,
            has_group,
        })
    }

    /// Properties that nobody knows.
    #[must_use]
    pub fn unknown_properties(&self) -> &[String] {
        &self.unknown
    }

    /// Starts at the group's offsets. The default.
    #[must_use]
    pub fn set_start_from_group_offsets(self) -> Self {
        self.starting(ClassicStart::Group)
    }

    /// Starts at the first offsets.
    #[must_use]
    pub fn set_start_from_earliest(self) -> Self {
        self.starting(ClassicStart::Earliest)
    }

    /// Starts at the ends.
    #[must_use]
    pub fn set_start_from_latest(self) -> Self {
        self.starting(ClassicStart::Latest)
    }

    /// Starts at the first record at or after a time, in milliseconds since 1970.
    #[must_use]
    pub fn set_start_from_timestamp(self, timestamp: i64) -> Self {
        self.starting(ClassicStart::Timestamp(timestamp))
    }

    /// Starts at these offsets, and at the group's where none is given.
    #[must_use]
    pub fn set_start_from_specific_offsets(
        self,
        offsets: impl IntoIterator<Item = (TopicPartition, Offset)>,
    ) -> Self {
        self.starting(ClassicStart::Specific(offsets.into_iter().collect()))
    }

    /// Whether offsets are committed when a checkpoint completes. Default yes.
    #[must_use]
    pub fn set_commit_offsets_on_checkpoints(mut self, commit: bool) -> Self {
        self.commit_on_checkpoints = commit;
        self
    }

    /// Whether the job takes checkpoints, as Flink's `enableCheckpointing` says. Default yes. Without them `enable.auto.commit`
    /// decides about commits.
    #[must_use]
    pub fn with_checkpointing(mut self, checkpointing: bool) -> Self {
        self.checkpointing = checkpointing;
        self
    }

    /// Reads restored partitions whose topics are not subscribed any more.
    #[must_use]
    pub fn disable_filter_restored_partitions_with_subscribed_topics(mut self) -> Self {
        self.builder = self.builder.unsubscribed_partitions(UnsubscribedPartition::Keep);
        self
    }

    /// How watermarks are made, for each partition by itself.
    #[must_use]
    pub fn assign_timestamps_and_watermarks(mut self, watermarks: WatermarkStrategy<T>) -> Self {
        self.builder = self.builder.watermarks(watermarks);
        self
    }

    fn starting(mut self, start: ClassicStart) -> Self {
        self.start = start;
        self
    }

    /// The builder of this source, for settings that the classic consumer did not have.
    #[must_use]
    pub fn into_builder(self) -> KafkaSourceBuilder<T> {
        let or = self.reset;
        let start = match self.start {
            ClassicStart::Group => StartFrom::Committed { or },
            ClassicStart::Earliest => StartFrom::Earliest,
            ClassicStart::Latest => StartFrom::Latest,
            ClassicStart::Timestamp(at) => StartFrom::Timestamp(at),
            ClassicStart::Specific(offsets) => StartFrom::Offsets { offsets, or },
        };
        let mode = CommitMode::classic(
            self.checkpointing,
            self.commit_on_checkpoints,
            self.auto_commit,
            self.interval,
        );
        let builder = self.builder.start(start);
        if self.has_group { builder.commit_mode(mode) } else { builder }
    }

    /// The source.
    ///
    /// # Errors
    /// What [`KafkaSourceBuilder::build`] refuses: the group's offsets without a `group.id`, for one.
    pub fn into_source(self) -> Result<KafkaSource<T>> {
        self.into_builder().build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::StringDeserializer;

    fn consumer(more: &[(&str, &str)]) -> FlinkKafkaConsumer<String> {
        let base = [("bootstrap.servers", "a:1"), ("group.id", "g")];
        let properties: Vec<(&str, &str)> = base.iter().chain(more).copied().collect();
        FlinkKafkaConsumer::new(["t"], StringDeserializer, properties).unwrap()
    }

    // scenario: 5.2.8, 5.2.9, 5.2.11, D41
    #[test]
    fn the_defaults_are_those_of_the_classic_consumer() {
        let source = consumer(&[]).into_source().unwrap();
        let config = source.enumerator_config();
        assert_eq!(config.start, StartFrom::Committed { or: OffsetReset::Latest });
        assert_eq!(config.discovery, Discovery::Once);
        assert_eq!(config.unsubscribed, UnsubscribedPartition::Drop);
        assert_eq!(source.isolation(), Isolation::ReadUncommitted);
        assert_eq!(source.settings().commits, CommitMode::OnCheckpoints);
        let source = consumer(&[]).disable_filter_restored_partitions_with_subscribed_topics();
        let source = source.into_source().unwrap();
        assert_eq!(source.enumerator_config().unsubscribed, UnsubscribedPartition::Keep);
    }

    // scenario: 5.2.5, 5.2.6, 5.2.7
    #[test]
    fn offsets_are_committed_as_flags_and_properties_say() {
        let mode = |consumer: FlinkKafkaConsumer<String>| consumer.into_source().unwrap().settings().commits;
        let periodic = CommitMode::Periodic(Duration::from_millis(100));
        let every = [("auto.commit.interval.ms", "100")];
        assert_eq!(mode(consumer(&every).with_checkpointing(false)), periodic);
        assert_eq!(mode(consumer(&every)), CommitMode::OnCheckpoints);
        assert_eq!(mode(consumer(&every).set_commit_offsets_on_checkpoints(false)), CommitMode::Off);
        let off = [("enable.auto.commit", "false")];
        assert_eq!(mode(consumer(&off).with_checkpointing(false)), CommitMode::Off);
    }

    #[test]
    fn each_start_replaces_the_one_before() {
        let at = TopicPartition::new("t", 0);
        let start = |consumer: FlinkKafkaConsumer<String>| {
            consumer.into_source().map(|source| source.enumerator_config().start.clone())
        };
        let given = consumer(&[("auto.offset.reset", "earliest")])
            .set_start_from_latest()
            .set_start_from_specific_offsets([(at.clone(), Offset(7))]);
        let expected =
            StartFrom::Offsets { offsets: BTreeMap::from([(at, Offset(7))]), or: OffsetReset::Earliest };
        assert_eq!(start(given).unwrap(), expected);
        assert_eq!(start(consumer(&[]).set_start_from_timestamp(5)).unwrap(), StartFrom::Timestamp(5));
        assert!(start(consumer(&[]).set_start_from_timestamp(-5)).is_err());
        let nobody: [(&str, &str); 1] = [("bootstrap.servers", "a:1")];
        let nobody = FlinkKafkaConsumer::new(["t"], StringDeserializer, nobody).unwrap();
        assert!(nobody.into_source().is_err(), "the group's offsets need a group");
    }
}
