//! The sink: records to topics, at least once or exactly once.
//!
//! ```text
//! element ─ serializer ─▶ Writer ─ flush, prepare ─▶ Committable ─ in the checkpoint ─▶ Committer ─▶ visible
//!                         (one a subtask)            (one a subtask and checkpoint)     (one a job)
//! ```
//!
//! With [`Delivery::ExactlyOnce`] each subtask writes one transaction per checkpoint. At the barrier it is flushed and
//! prepared; the checkpoint that holds it is written; only then is it committed, by the coordinator, with a request that any
//! process could send. After a crash the next job commits what the checkpoint holds and aborts what it does not.

pub mod committable;
pub mod committer;
pub mod lingering;
pub mod naming;
pub mod outcome;
pub mod policy;
pub mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena::{ClientConfig, ProducerConfig};

use crate::schema::Serializer;
use crate::{Error, ErrorKind, Result};
use naming::check_prefix;
use outcome::Limits;

pub use policy::{LossPolicy, OnHanging, OnLoss, OutcomeCounts};

/// What a sink promises about each element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Nothing: a crash may lose elements that the source will not give again, and repeat others.
    None,
    /// Each element is in the log when the checkpoint that covers it is complete; after a crash some appear twice. The default.
    #[default]
    AtLeastOnce,
    /// Each element appears exactly once to readers of committed records, when the checkpoint that covers it is complete.
    /// Needs a transactional id prefix and a checkpoint directory.
    ExactlyOnce,
}

/// Where a sink writes a record whose serializer names no partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SinkPartitioning {
    /// The producer's partitioner decides: by default the key's hash, or the emptiest batch without a key. The default.
    #[default]
    Producer,
    /// Each subtask writes one partition: subtask number modulo partition count (Flink's fixed partitioner). With fewer
    /// subtasks than partitions some partitions stay empty.
    Fixed,
}

type SerializerFactory<T> = Arc<dyn Fn() -> Box<dyn Serializer<T>> + Send + Sync>;

/// Checked settings of a sink, without its serializer.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// How to reach the cluster.
    pub client: ClientConfig,
    /// What is promised.
    pub delivery: Delivery,
    /// The first part of the names of transactions.
    pub prefix: Option<String>,
    /// How long a broker lets a transaction be open.
    pub transaction_timeout: Duration,
    /// How records are batched and sent.
    pub producer: ProducerConfig,
    /// Where records without a partition go.
    pub partitioning: SinkPartitioning,
    /// How long commits are tried and verified.
    pub commit: Limits,
    /// What happens when a transaction is lost, by outcome.
    pub on_loss: LossPolicy,
}

/// A description of where and how to write elements of type `T`. The runtime makes one writer per subtask from it.
pub struct KafkaSink<T> {
    pub(crate) settings: SinkSettings,
    pub(crate) serializer: SerializerFactory<T>,
}

impl<T> KafkaSink<T> {
    /// A builder with the defaults.
    #[must_use]
    pub fn builder() -> KafkaSinkBuilder<T> {
        KafkaSinkBuilder {
            client: None,
            serializer: None,
            delivery: Delivery::default(),
            prefix: None,
            transaction_timeout: DEFAULT_TRANSACTION_TIMEOUT,
            producer: ProducerConfig::default(),
            partitioning: SinkPartitioning::default(),
            commit: Limits::default(),
            on_loss: LossPolicy::default(),
        }
    }

    /// The checked settings.
    #[must_use]
    pub fn settings(&self) -> &SinkSettings {
        &self.settings
    }
}

impl<T> Clone for KafkaSink<T> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), serializer: Arc::clone(&self.serializer) }
    }
}

impl<T> fmt::Debug for KafkaSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Below the 15 minutes that brokers allow unless told otherwise (`transaction.max.timeout.ms`).
const DEFAULT_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(600);

/// Collects the settings of a [`KafkaSink`].
pub struct KafkaSinkBuilder<T> {
    client: Option<ClientConfig>,
    serializer: Option<SerializerFactory<T>>,
    delivery: Delivery,
    prefix: Option<String>,
    transaction_timeout: Duration,
    producer: ProducerConfig,
    partitioning: SinkPartitioning,
    commit: Limits,
    on_loss: LossPolicy,
}

impl<T> fmt::Debug for KafkaSinkBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSinkBuilder")
            .field("delivery", &self.delivery)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl<T> KafkaSinkBuilder<T> {
    /// How to reach the cluster. Needed.
    #[must_use]
    pub fn client(mut self, config: ClientConfig) -> Self {
        self.client = Some(config);
        self
    }

    /// How elements become records. Needed; each subtask gets a clone.
    #[must_use]
    pub fn serializer<S>(mut self, serializer: S) -> Self
    where
        S: Serializer<T> + Clone + Send + Sync + 'static,
    {
        self.serializer = Some(Arc::new(move || Box::new(serializer.clone())));
        self
    }

    /// What is promised. Default [`Delivery::AtLeastOnce`].
    #[must_use]
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// The first part of the names of this job's transactions. Needed for exactly once, and to clean up after a job that was
    /// exactly once before. It belongs to one job on the cluster: a second one would abort this one's transactions.
    #[must_use]
    pub fn transactional_id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long a broker lets a transaction be open before it aborts it. Must cover a checkpoint interval, the checkpoint, and
    /// the longest downtime to survive without loss. Default 10 minutes; brokers allow 15 unless configured otherwise.
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

    /// Where records without a partition go. Default: the producer's partitioner.
    #[must_use]
    pub fn partitioning(mut self, partitioning: SinkPartitioning) -> Self {
        self.partitioning = partitioning;
        self
    }

    /// How long commits are tried and verified.
    #[must_use]
    pub fn commit(mut self, limits: Limits) -> Self {
        self.commit = limits;
        self
    }

    /// What happens when a transaction is lost: one answer to all, or a [`LossPolicy`] with one for each outcome. Default: the job
    /// fails.
    #[must_use]
    pub fn on_loss(mut self, on_loss: impl Into<LossPolicy>) -> Self {
        self.on_loss = on_loss.into();
        self
    }

    /// The sink.
    ///
    /// # Errors
    /// `Misuse` if the client or the serializer is missing, the prefix can't be used or is missing for exactly once, or the
    /// transaction timeout is below a second.
    pub fn build(self) -> Result<KafkaSink<T>> {
        let misuse = |text: &str| Error::new(ErrorKind::Misuse, text);
        let client =
            self.client.ok_or_else(|| misuse("a sink needs a client configuration: call `client`"))?;
        let serializer =
            self.serializer.ok_or_else(|| misuse("a sink needs a serializer: call `serializer`"))?;
        if let Some(prefix) = &self.prefix {
            check_prefix(prefix).map_err(|error| misuse(&error.to_string()))?;
        } else if self.delivery == Delivery::ExactlyOnce {
            return Err(misuse(
                "exactly once needs `transactional_id_prefix`: a name that only this job uses on the cluster",
            ));
        }
        if self.transaction_timeout < Duration::from_secs(1) {
            return Err(misuse("the transaction timeout is below one second"));
        }
        let settings = SinkSettings {
            client,
            delivery: self.delivery,
            prefix: self.prefix,
            transaction_timeout: self.transaction_timeout,
            producer: self.producer,
            partitioning: self.partitioning,
            commit: self.commit,
            on_loss: self.on_loss,
        };
        Ok(KafkaSink { settings, serializer })
    }
}
