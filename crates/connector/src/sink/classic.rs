//! The face of Flink's classic producer, for jobs that come from there: its names, and its defaults.

use std::fmt;
use std::time::Duration;

use milena::{ClientConfig, ProducerConfig};

use super::naming::{ClassicNames, Naming};
use super::{Delivery, KafkaSink, LossPolicy, OnLoss, SinkPartitioning};
use crate::Result;
use crate::schema::Serializer;

/// What is promised, by the names of Flink's `FlinkKafkaProducer.Semantic`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Semantic {
    /// Nothing.
    None,
    /// Flushed at each checkpoint. The default.
    #[default]
    AtLeastOnce,
    /// Transactions tied to the checkpoints.
    ExactlyOnce,
}

/// Flink's `FlinkKafkaProducer` with its defaults: at least once, each subtask to one partition, transactions of an hour, classic names in a
/// pool of five. [`build`](Self::build) makes an ordinary [`KafkaSink`] of it.
///
/// | Flink | here |
/// |---|---|
/// | constructor with topic, schema, properties | [`new`](Self::new); the topic is the serializer's |
/// | constructor with `Semantic` | [`semantic`](Self::semantic) |
/// | constructor with a partitioner, or `Optional.empty()` | [`partitioner`](Self::partitioner) |
/// | `kafkaProducersPoolSize` | [`producers_pool_size`](Self::producers_pool_size); a pool that is used up is no error here |
/// | `setTransactionalIdPrefix` | [`set_transactional_id_prefix`](Self::set_transactional_id_prefix); needed, since there is no operator id to derive it from |
/// | `setWriteTimestampToKafka` | the serializer decides, or else the event time is written |
/// | `setLogFailuresOnly` | [`OnRecordError::Drop`](super::OnRecordError::Drop) on a [`KafkaSink`]: only records that can never be written |
/// | `ignoreFailuresAfterTransactionTimeout` | [`ignore_failures_after_transaction_timeout`](Self::ignore_failures_after_transaction_timeout) |
/// | `transaction.timeout.ms`, an hour by default | as there; brokers allow 15 minutes unless configured otherwise, and the start says so |
pub struct FlinkKafkaProducer<T> {
    builder: super::KafkaSinkBuilder<T>,
    semantic: Semantic,
    prefix: Option<String>,
    names: ClassicNames,
    partitioner: SinkPartitioning,
    timeout: Duration,
    ignore_loss: bool,
}

impl<T> fmt::Debug for FlinkKafkaProducer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlinkKafkaProducer").field("semantic", &self.semantic).finish_non_exhaustive()
    }
}

impl<T> FlinkKafkaProducer<T> {
    /// A producer with a serializer, for a cluster.
    #[must_use]
    pub fn new<S>(client: ClientConfig, serializer: S) -> Self
    where
        S: Serializer<T> + Clone + Send + Sync + 'static,
    {
        Self {
            builder: KafkaSink::builder().client(client).serializer(serializer),
            semantic: Semantic::default(),
            prefix: None,
            names: ClassicNames::default(),
            partitioner: SinkPartitioning::Fixed,
            timeout: Duration::from_secs(3600),
            ignore_loss: false,
        }
    }

    /// What is promised. Default [`Semantic::AtLeastOnce`].
    #[must_use]
    pub fn semantic(mut self, semantic: Semantic) -> Self {
        self.semantic = semantic;
        self
    }

    /// Where records without a partition go. Default [`SinkPartitioning::Fixed`]; Flink's "no partitioner" is
    /// [`SinkPartitioning::Producer`].
    #[must_use]
    pub fn partitioner(mut self, partitioner: SinkPartitioning) -> Self {
        self.partitioner = partitioner;
        self
    }

    /// How many names a subtask has in its first range. Default 5.
    #[must_use]
    pub fn producers_pool_size(mut self, size: u32) -> Self {
        self.names.pool_size = size.max(1);
        self
    }

    /// The first part of the names of transactions. Needed for exactly once.
    #[must_use]
    pub fn set_transactional_id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// `transaction.timeout.ms`. Default an hour.
    #[must_use]
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How records are batched and sent.
    #[must_use]
    pub fn producer(mut self, config: ProducerConfig) -> Self {
        self.builder = self.builder.producer(config);
        self
    }

    /// A transaction that was aborted before its commit, as by its timeout, is logged and counted, and the job goes on. Without, it fails:
    /// Flink's producer passes over most of these losses without a word.
    #[must_use]
    pub fn ignore_failures_after_transaction_timeout(mut self) -> Self {
        self.ignore_loss = true;
        self
    }

    /// The sink.
    ///
    /// # Errors
    /// As [`KafkaSinkBuilder::build`](super::KafkaSinkBuilder::build).
    pub fn build(self) -> Result<KafkaSink<T>> {
        let delivery = match self.semantic {
            Semantic::None => Delivery::None,
            Semantic::AtLeastOnce => Delivery::AtLeastOnce,
            Semantic::ExactlyOnce => Delivery::ExactlyOnce,
        };
        let mut builder = self
            .builder
            .delivery(delivery)
            .partitioning(self.partitioner)
            .naming(Naming::Classic(self.names))
            .transaction_timeout(self.timeout);
        if let Some(prefix) = self.prefix {
            builder = builder.transactional_id_prefix(prefix);
        }
        if self.ignore_loss {
            builder = builder.on_loss(LossPolicy { aborted: OnLoss::Continue, ..LossPolicy::default() });
        }
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::StringSerializer;

    fn producer() -> FlinkKafkaProducer<String> {
        FlinkKafkaProducer::new(ClientConfig::new(["a:9092"]), StringSerializer::new("t"))
    }

    #[test]
    fn the_defaults_are_flinks() {
        let sink = producer().build().unwrap();
        let settings = sink.settings();
        assert_eq!(settings.delivery, Delivery::AtLeastOnce);
        assert!(matches!(settings.partitioning, SinkPartitioning::Fixed));
        assert_eq!(settings.transaction_timeout, Duration::from_secs(3600));
        assert_eq!(
            settings.naming,
            Naming::Classic(ClassicNames { pool_size: 5, safe_scale_down_factor: 5 })
        );
        assert_eq!(settings.on_loss, LossPolicy::default());
    }

    // scenario: 5.3.12, 5.3.18
    #[test]
    fn exactly_once_needs_a_prefix() {
        let exactly_once = || producer().semantic(Semantic::ExactlyOnce);
        assert!(exactly_once().build().is_err());
        let sink = exactly_once()
            .set_transactional_id_prefix("job")
            .producers_pool_size(2)
            .ignore_failures_after_transaction_timeout()
            .build()
            .unwrap();
        assert_eq!(sink.settings().on_loss.aborted, OnLoss::Continue);
        assert_eq!(sink.settings().on_loss.partial, OnLoss::Fail);
    }
}
