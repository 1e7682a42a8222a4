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

pub mod classic;
pub mod committable;
pub mod committer;
pub mod lingering;
pub mod naming;
mod options;
pub mod outcome;
pub mod partitioning;
pub mod pending;
pub mod policy;
pub mod records;
pub mod serialization;
pub mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena::{ClientConfig, ProducerConfig};

use crate::schema::Serializer;
use crate::{Error, ErrorKind, Result};
use naming::{Naming, check_prefix};
use outcome::Limits;

pub use classic::{FlinkKafkaProducer, Semantic};
pub use partitioning::{Place, SinkPartitioner, SinkPartitioning};
pub use policy::{LossPolicy, OnHanging, OnLoss, OutcomeCounts};
pub use records::{DEAD_LETTER_HEADERS, OnRecordError, OnWritten, Written};
pub use serialization::{RecordSerializer, RecordSerializerBuilder};

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
    /// How transactions are named.
    pub naming: Naming,
    /// Prefixes and namings of earlier deployments, whose leftovers are aborted too.
    pub former_names: Vec<(String, Naming)>,
    /// How long a broker lets a transaction be open.
    pub transaction_timeout: Duration,
    /// How records are batched and sent.
    pub producer: ProducerConfig,
    /// Where records without a partition go.
    pub partitioning: SinkPartitioning,
    /// What happens to a record that can't be written.
    pub on_record_error: OnRecordError,
    /// Who is told of records that are written.
    pub written: Written,
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
            naming: Naming::default(),
            former_names: Vec::new(),
            transaction_timeout: DEFAULT_TRANSACTION_TIMEOUT,
            producer: ProducerConfig::default(),
            partitioning: SinkPartitioning::default(),
            on_record_error: OnRecordError::default(),
            written: Written::default(),
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
    naming: Naming,
    former_names: Vec<(String, Naming)>,
    transaction_timeout: Duration,
    producer: ProducerConfig,
    partitioning: SinkPartitioning,
    on_record_error: OnRecordError,
    written: Written,
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

    /// How transactions are named. Default [`Naming::Pooling`]. It may change from run to run: say which it was with
    /// [`former_names`](Self::former_names).
    #[must_use]
    pub fn naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// A prefix and naming that an earlier deployment of this job used, other than the restored checkpoint's: what it left open is aborted
    /// at the start, too. Again for more.
    #[must_use]
    pub fn former_names(mut self, prefix: impl Into<String>, naming: Naming) -> Self {
        self.former_names.push((prefix.into(), naming));
        self
    }

    /// What happens to a record that can never be written. Default: the job fails.
    #[must_use]
    pub fn on_record_error(mut self, policy: OnRecordError) -> Self {
        self.on_record_error = policy;
        self
    }

    /// Calls a function for each record that is in the log, with its partition and offset: see [`OnWritten`].
    #[must_use]
    pub fn on_written(mut self, callback: impl Fn(&milena::RecordMetadata) + Send + Sync + 'static) -> Self {
        self.written = Written(Some(Arc::new(callback)));
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
        for (prefix, _) in &self.former_names {
            check_prefix(prefix).map_err(|error| misuse(&error.to_string()))?;
        }
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
            naming: self.naming,
            former_names: self.former_names,
            transaction_timeout: self.transaction_timeout,
            producer: self.producer,
            partitioning: self.partitioning,
            on_record_error: self.on_record_error,
            written: self.written,
            commit: self.commit,
            on_loss: self.on_loss,
        };
        Ok(KafkaSink { settings, serializer })
    }
}
