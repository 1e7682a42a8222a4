//! The settings of a producer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::compression::Compression;
use milena_protocol::types::PartitionId;

use crate::error::{Error, Result};

/// When a record counts as written. Kafka: `acks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Acks {
    /// When it was sent. Nothing is known about it then: no offset, no error.
    None,
    /// When the leader wrote it. It is lost if the leader fails before a follower has it.
    Leader,
    /// When all in-sync replicas have it. The default, and what idempotence needs.
    #[default]
    All,
}

impl Acks {
    pub(crate) fn wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Whether a record that is sent again because an answer was lost is written once only, and in order (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idempotence {
    /// No. A repeat can write records twice, and with more than one request in flight change their order.
    Off,
    /// Where brokers can: since 0.11. On older ones the producer warns once, sends one batch of a partition at a time, which keeps the
    /// order, and a repeat can write records twice; [`Producer::is_idempotent`](crate::Producer::is_idempotent) tells. The default.
    #[default]
    WhenPossible,
    /// Yes; a broker that cannot is an error of kind [`Unsupported`](crate::ErrorKind::Unsupported).
    Required,
}

/// What a custom [`Partitioner`] sees of a record.
#[derive(Clone, Copy, Debug)]
pub struct Partitioning<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's value.
    pub value: Option<&'a [u8]>,
    /// How many partitions the topic has; at least 1.
    pub partitions: u32,
}

/// Chooses the partition of a record that names none. Kafka: `partitioner.class`.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Partitioner {
    /// Records with a key go where Kafka's Java client sends them (murmur2 of the key); records without one stick to a
    /// partition for a batch's worth of bytes, and then go to another, rather to one where fewer batches wait (KIP-480, KIP-794). The
    /// default.
    #[default]
    Default,
    /// Sticky for all records, whatever their key. Kafka: `partitioner.ignore.keys`.
    Sticky,
    /// One partition after the other, whatever the key. Makes small batches.
    RoundRobin,
    /// A function of its own. A partition that does not exist fails the record with [`Misuse`](crate::ErrorKind::Misuse).
    Custom(Arc<dyn Fn(&Partitioning<'_>) -> PartitionId + Send + Sync>),
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "Default",
            Self::Sticky => "Sticky",
            Self::RoundRobin => "RoundRobin",
            Self::Custom(_) => "Custom(..)",
        })
    }
}

/// The settings of a [`Producer`](crate::Producer). All have defaults.
///
/// ```
/// use std::time::Duration;
/// use milena::protocol::compression::Compression;
/// use milena::{Acks, ProducerConfig};
///
/// let config = ProducerConfig {
///     linger: Duration::from_millis(20),
///     compression: Compression::Zstd,
///     ..ProducerConfig::default()
/// };
/// config.validate().unwrap();
/// assert_eq!(config.acks, Acks::All);
/// ```
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// When a record counts as written. Default [`Acks::All`].
    pub acks: Acks,
    /// Whether a record that is sent again because an answer was lost is written once only, and in order. Needs [`Acks::All`]; with
    /// other acks it is off unless it is required, which is an error then. Default [`Idempotence::WhenPossible`]. Kafka:
    /// `enable.idempotence`; `true` is [`Idempotence::Required`].
    pub idempotence: Idempotence,
    /// How long a batch waits for more records once it has one. Default 5 ms. Kafka: `linger.ms`.
    pub linger: Duration,
    /// How large a batch may grow, in bytes before compression, its header included. A larger record gets a batch of its
    /// own. Default 256 KiB; at most `max_request_size` is useful. Kafka: `batch.size`.
    pub batch_size: usize,
    /// The codec. Default none. Brokers before 2.1 cannot store zstd: records fail with
    /// [`Unsupported`](crate::ErrorKind::Unsupported) there. Kafka: `compression.type`.
    pub compression: Compression,
    /// The codec's level; `None`, the default, is the codec's own. Levels of lz4 are accepted and change nothing: it has one way to compress
    /// here. Kafka: `compression.gzip.level` and so on.
    pub compression_level: Option<i32>,
    /// Chooses the partition of a record that names none.
    pub partitioner: Partitioner,
    /// The rack of this client: records without a key then go to partitions that are led in the same rack, if there are any (KIP-1123).
    /// Default `None`: racks do not count. Kafka: `client.rack`, with `partitioner.rack.aware=true`.
    pub rack: Option<String>,
    /// How many bytes the records take that are not acknowledged yet: in open batches, waiting, and in flight. When it is
    /// used up, [`send`](crate::Producer::send) waits. Default 32 MiB. Kafka: `buffer.memory`.
    pub buffer_memory: usize,
    /// How many bytes of batches a request to a broker holds, and how large a record may be. Brokers refuse batches over
    /// `message.max.bytes` (1 MiB unless changed). Default 1 MiB. Kafka: `max.request.size`.
    pub max_request_size: usize,
    /// How long a record may wait for its acknowledgement, from the first record of its batch on. What is in flight then is
    /// judged when its answer comes or its request times out. Default 120 s. Kafka: `delivery.timeout.ms`.
    pub delivery_timeout: Duration,
    /// How long a broker may take to answer a Produce request before the connection is closed and the records are sent
    /// again. Default 30 s. Kafka: `request.timeout.ms`.
    pub request_timeout: Duration,
    /// How many requests may wait for their answers at one broker; up to 5 with idempotence. Without idempotence more than
    /// one can change the order of records when one is repeated. Default 5.
    /// Kafka: `max.in.flight.requests.per.connection`.
    pub max_in_flight: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotence: Idempotence::default(),
            linger: Duration::from_millis(5),
            batch_size: 256 * 1024,
            compression: Compression::None,
            compression_level: None,
            partitioner: Partitioner::Default,
            rack: None,
            buffer_memory: 32 * 1024 * 1024,
            max_request_size: 1024 * 1024,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            max_in_flight: 5,
        }
    }
}

impl ProducerConfig {
    /// Checks every setting; the error names the first that is wrong and its range.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("batch_size", self.batch_size, 256),
            ("max_request_size", self.max_request_size, 1024),
            ("buffer_memory", self.buffer_memory, 4096),
        ];
        for (name, value, least) in sizes {
            if value < least || value > i32::MAX as usize {
                return Err(Error::misuse(format!("{name} is {value}; it must be from {least} to 2 GiB")));
            }
        }
        if self.buffer_memory < self.batch_size {
            return Err(Error::misuse("buffer_memory is below batch_size")
                .with_remedy("make it a multiple of batch_size: every partition in use fills a batch"));
        }
        let longest = Duration::from_millis(i32::MAX as u64 / 2);
        for (name, value) in
            [("delivery_timeout", self.delivery_timeout), ("request_timeout", self.request_timeout)]
        {
            if value < Duration::from_millis(1) || value > longest {
                return Err(Error::misuse(format!("{name} is {value:?}; it must be from 1 ms to 12 days")));
            }
        }
        if self.linger >= self.delivery_timeout {
            return Err(Error::misuse("linger is not below delivery_timeout"));
        }
        if self.idempotence == Idempotence::Required && self.acks != Acks::All {
            return Err(Error::misuse("idempotence is required, and acks is not All"));
        }
        let most = if self.is_idempotent() { 5 } else { 1000 };
        if self.max_in_flight == 0 || self.max_in_flight > most {
            return Err(Error::misuse(format!("max_in_flight must be from 1 to {most}")).with_remedy(
                "a broker remembers the last five batches of a producer; more need idempotence = Off",
            ));
        }
        self.compression
            .check_level(self.compression_level)
            .map_err(|error| Error::misuse(error.to_string()))?;
        Ok(())
    }

    /// Whether batches shall carry a producer id, if brokers can take it.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        self.idempotence != Idempotence::Off && self.acks == Acks::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_nonsense_is_named() {
        ProducerConfig::default().validate().unwrap();
        type Change = fn(&mut ProducerConfig);
        let wrong: [(&str, Change); 6] = [
            ("batch_size", |c| c.batch_size = 0),
            ("buffer_memory", |c| c.buffer_memory = 5000),
            ("delivery_timeout", |c| c.delivery_timeout = Duration::ZERO),
            ("linger", |c| c.linger = Duration::from_secs(500)),
            ("max_in_flight", |c| c.max_in_flight = 6),
            ("max_request_size", |c| c.max_request_size = usize::MAX),
        ];
        for (name, change) in wrong {
            let mut config = ProducerConfig::default();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn idempotence_needs_all_acks() {
        let leader = ProducerConfig { acks: Acks::Leader, max_in_flight: 50, ..ProducerConfig::default() };
        leader.validate().unwrap();
        assert!(!leader.is_idempotent());
        let contradiction = ProducerConfig { idempotence: Idempotence::Required, ..leader };
        assert!(contradiction.validate().is_err());
    }
}
