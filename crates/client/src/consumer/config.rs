//! What a consumer is told at its start.

use std::str::FromStr;
use std::time::Duration;

use milena_core::fetch::{Loss, Start};
use milena_protocol::types::Isolation;

use crate::error::{Error, Result};

/// Where to start a partition that has no committed offset. Kafka: `auto.offset.reset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// At the first offset of the log.
    Earliest,
    /// At its end: with what is written from then on. Kafka's default, and ours.
    #[default]
    Latest,
    /// At the first record that is not older than this (KIP-1106). At the end if there is none.
    ByDuration(Duration),
    /// Nowhere: the application is told, and seeks. Kafka: `none`.
    Error,
}

/// What to do when the records at a position that was known are gone: deleted by retention before they were read, or lost in an
/// election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDataLoss {
    /// Stop reading the partition and return an error of kind [`DataLoss`](crate::ErrorKind::DataLoss). The default: Kafka's
    /// consumers go on elsewhere, and nobody learns of it.
    #[default]
    Error,
    /// Go on as [`OffsetReset`] says, with a warning in the log. After an election that took records away: where the log took another way.
    Reset,
}

/// The settings of a [`Consumer`](super::Consumer). The defaults are the fast ones.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerConfig {
    /// The group whose offsets are read at the start and committed; without one there are no commits. Default none.
    /// Kafka: `group.id`.
    pub group: Option<String>,
    /// Where to start without a committed offset. Default latest. Kafka: `auto.offset.reset`.
    pub reset: OffsetReset,
    /// What to do when the records at a known position are gone. Default error.
    pub on_data_loss: OnDataLoss,
    /// Which records of transactions are seen. Default read_uncommitted. Kafka: `isolation.level`.
    pub isolation: Isolation,
    /// Whether the checksum of each batch is verified. Default `true`. Kafka: `check.crcs`.
    pub check_crcs: bool,
    /// How long a broker may wait for `min_bytes`. Default 500 ms. Kafka: `fetch.max.wait.ms`.
    pub max_wait: Duration,
    /// A broker answers at once when it has so many bytes. Default 1. Kafka: `fetch.min.bytes`.
    pub min_bytes: u32,
    /// The most bytes of one answer, or one batch if that is larger. Default 2 MiB, which a processor's cache holds: Kafka's 50 MiB
    /// costs more time per record, not less. Kafka: `fetch.max.bytes`.
    pub max_bytes: u32,
    /// The most bytes of one partition in an answer, or one batch if that is larger. Default 1 MiB. Kafka: `max.partition.fetch.bytes`.
    pub partition_max_bytes: u32,
    /// The most bytes that answers and what they decompress to take in memory, those on their way and those not yet taken, over all
    /// brokers, buffers kept for reuse included. Default 16 MiB. Brokers are asked for less at a time if there are many of them. A batch
    /// that is larger than what a request may bring can exceed it, and the batches that are being decompressed when it is full: one for
    /// each of at most four threads, and one at a time for an application that keeps what it took and waits for more, each of up to
    /// `max_batch_bytes`. So can 64 KiB a broker while partitions that are held back fill it and the application waits for others.
    /// Ours: `fetch.buffer.bytes`.
    pub buffer_bytes: usize,
    /// The most bytes that one compressed batch may decompress to, at least 1. Default 128 MiB. A batch that holds more is an error
    /// when its records are looked at, and takes no more memory than this: a few bytes can be made to hold gigabytes. Batches that are
    /// not compressed have no limit but [`ClientConfig::max_frame`](crate::ClientConfig::max_frame). Ours: `fetch.max.batch.bytes`.
    pub max_batch_bytes: u32,
    /// Whether [`Consumer::poll`](super::Consumer::poll) also gives parts without records: where the position moved over what may not be
    /// seen (markers, aborted records), and where an answer said that nothing is left. Default `false`.
    pub progress: bool,
    /// The rack this consumer is in: brokers then name a replica in it to be read instead of the leader (KIP-392). Default none.
    /// Kafka: `client.rack`.
    pub rack: Option<String>,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            reset: OffsetReset::default(),
            on_data_loss: OnDataLoss::default(),
            isolation: Isolation::default(),
            check_crcs: true,
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 2 << 20,
            partition_max_bytes: 1 << 20,
            buffer_bytes: 16 << 20,
            max_batch_bytes: 128 << 20,
            progress: false,
            rack: None,
        }
    }
}

impl ConsumerConfig {
    /// Checks every setting; the error names the first that is wrong.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse).
    pub fn validate(&self) -> Result<()> {
        if self.max_wait > Duration::from_millis(i32::MAX as u64 / 2) {
            return Err(Error::misuse("max_wait must be at most 12 days"));
        }
        if self.max_bytes == 0 || self.partition_max_bytes == 0 {
            return Err(Error::misuse("max_bytes and partition_max_bytes must be at least 1"));
        }
        if self.buffer_bytes < MIN_BUFFER {
            return Err(Error::misuse(format!("buffer_bytes must be at least {MIN_BUFFER}")));
        }
        if self.max_batch_bytes == 0 {
            return Err(Error::misuse("max_batch_bytes must be at least 1"));
        }
        if self.group.as_ref().is_some_and(String::is_empty) {
            return Err(Error::misuse("group is empty").with_remedy("name a group, or set none"));
        }
        Ok(())
    }

    /// Where to start without a committed offset.
    pub(crate) fn reset_start(&self) -> Option<Start> {
        match self.reset {
            OffsetReset::Earliest => Some(Start::Earliest),
            OffsetReset::Latest => Some(Start::Latest),
            OffsetReset::ByDuration(age) => Some(Start::Ago(age)),
            OffsetReset::Error => None,
        }
    }

    pub(crate) fn loss(&self) -> Loss {
        match (self.on_data_loss, self.reset_start()) {
            (OnDataLoss::Reset, Some(start)) => Loss::Reset(start),
            _ => Loss::Error,
        }
    }

    /// Reads settings by the names Kafka's Java consumer uses, and `fetch.buffer.bytes`, `fetch.max.batch.bytes` and `on.data.loss` (`error`
    /// or `reset`), which are ours. Returns the configuration and the names it did not know, which may belong to the client.
    ///
    /// ```
    /// use milena::{ConsumerConfig, OffsetReset};
    ///
    /// let (config, unknown) =
    ///     ConsumerConfig::from_properties([("auto.offset.reset", "earliest"), ("client.id", "x")])?;
    /// assert_eq!(config.reset, OffsetReset::Earliest);
    /// assert_eq!(unknown, ["client.id"]);
    /// # Ok::<(), milena::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a value that cannot be read or is out of its range.
    pub fn from_properties<K, V>(properties: impl IntoIterator<Item = (K, V)>) -> Result<(Self, Vec<String>)>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut config = Self::default();
        let mut unknown = Vec::new();
        for (name, value) in properties {
            let (name, value) = (name.as_ref(), value.as_ref().trim());
            match name {
                "group.id" => config.group = Some(value.to_owned()).filter(|group| !group.is_empty()),
                "auto.offset.reset" => config.reset = reset(name, value)?,
                "on.data.loss" => {
                    config.on_data_loss = match value {
                        "error" => OnDataLoss::Error,
                        "reset" => OnDataLoss::Reset,
                        _ => return Err(unreadable(name, value, "error or reset")),
                    }
                }
                "isolation.level" => {
                    config.isolation = match value {
                        "read_committed" => Isolation::ReadCommitted,
                        "read_uncommitted" => Isolation::ReadUncommitted,
                        _ => return Err(unreadable(name, value, "read_committed or read_uncommitted")),
                    }
                }
                "check.crcs" => config.check_crcs = read(name, value, "true or false")?,
                "fetch.max.wait.ms" => {
                    config.max_wait = Duration::from_millis(read(name, value, "a number of milliseconds")?);
                }
                "fetch.min.bytes" => config.min_bytes = read(name, value, "a number of bytes")?,
                "fetch.max.bytes" => config.max_bytes = read(name, value, "a number of bytes")?,
                "max.partition.fetch.bytes" => {
                    config.partition_max_bytes = read(name, value, "a number of bytes")?;
                }
                "fetch.buffer.bytes" => config.buffer_bytes = read(name, value, "a number of bytes")?,
                "fetch.max.batch.bytes" => config.max_batch_bytes = read(name, value, "a number of bytes")?,
                "client.rack" => config.rack = Some(value.to_owned()).filter(|rack| !rack.is_empty()),
                _ => unknown.push(name.to_owned()),
            }
        }
        config.validate()?;
        Ok((config, unknown))
    }
}

/// With less, one request could not bring an ordinary batch.
const MIN_BUFFER: usize = 256 * 1024;

fn reset(name: &str, value: &str) -> Result<OffsetReset> {
    Ok(match value {
        "earliest" => OffsetReset::Earliest,
        "latest" => OffsetReset::Latest,
        "none" => OffsetReset::Error,
        _ => {
            let duration = value.strip_prefix("by_duration:").and_then(iso_duration);
            let duration = duration.ok_or_else(|| {
                unreadable(
                    name,
                    value,
                    "earliest, latest, none or by_duration: and a duration such as PT1H30M",
                )
            })?;
            OffsetReset::ByDuration(duration)
        }
    })
}

/// A duration as Java writes it (ISO 8601): `P2DT3H4M5.5S` or a part of it.
fn iso_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('P')?;
    let (days, time) = text.split_once('T').unwrap_or((text, ""));
    let mut seconds = 0.0;
    let mut any = false;
    for (part, units) in [(days, &[('D', 86_400.0)][..]), (time, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)])] {
        let mut rest = part;
        for &(unit, factor) in units {
            if let Some((number, after)) = rest.split_once(unit) {
                seconds += number.parse::<f64>().ok().filter(|number| *number >= 0.0)? * factor;
                rest = after;
                any = true;
            }
        }
        if !rest.is_empty() {
            return None;
        }
    }
    any.then(|| Duration::try_from_secs_f64(seconds).ok())?
}

fn read<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T> {
    value.parse().map_err(|_| unreadable(name, value, expected))
}

fn unreadable(name: &str, value: &str, expected: &str) -> Error {
    Error::misuse(format!("{name} is {value:?}; it must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_value_names_its_property() {
        for (name, value) in [
            ("auto.offset.reset", "newest"),
            ("auto.offset.reset", "by_duration:1h"),
            ("isolation.level", "dirty"),
            ("fetch.max.bytes", "-1"),
            ("on.data.loss", "ignore"),
            ("check.crcs", "no"),
            ("fetch.max.batch.bytes", "4294967296"),
        ] {
            let error = ConsumerConfig::from_properties([(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(ConsumerConfig::from_properties([("fetch.buffer.bytes", "1000")]).is_err());
        assert!(ConsumerConfig::from_properties([("fetch.max.batch.bytes", "0")]).is_err());
    }

    #[test]
    fn kafkas_names_are_read() {
        let (config, unknown) = ConsumerConfig::from_properties([
            ("group.id", "g"),
            ("auto.offset.reset", "none"),
            ("isolation.level", "read_committed"),
            ("check.crcs", "false"),
            ("fetch.max.wait.ms", "70"),
            ("fetch.min.bytes", "2"),
            ("fetch.max.bytes", "8192"),
            ("max.partition.fetch.bytes", "4096"),
            ("fetch.buffer.bytes", "300000"),
            ("fetch.max.batch.bytes", "5000"),
            ("client.rack", "r"),
            ("no.such.name", "x"),
        ])
        .unwrap();
        assert_eq!(unknown, ["no.such.name"]);
        let expected = ConsumerConfig {
            group: Some("g".to_owned()),
            reset: OffsetReset::Error,
            isolation: Isolation::ReadCommitted,
            check_crcs: false,
            max_wait: Duration::from_millis(70),
            min_bytes: 2,
            max_bytes: 8192,
            partition_max_bytes: 4096,
            buffer_bytes: 300_000,
            max_batch_bytes: 5000,
            rack: Some("r".to_owned()),
            ..ConsumerConfig::default()
        };
        assert_eq!(config, expected);
        assert!(ConsumerConfig::default().check_crcs);
    }

    #[test]
    fn a_reset_by_duration_is_read_as_java_writes_it() {
        for (text, seconds) in [
            ("P1D", Some(86_400)),
            ("PT1H30M", Some(5400)),
            ("P1DT1S", Some(86_401)),
            ("PT", None),
            ("P-1D", None),
        ] {
            assert_eq!(iso_duration(text), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn data_loss_is_an_error_unless_a_reset_was_asked_for() {
        let loss =
            |pairs: &[(&str, &str)]| ConsumerConfig::from_properties(pairs.iter().copied()).unwrap().0.loss();
        assert_eq!(loss(&[("auto.offset.reset", "earliest")]), Loss::Error);
        let both = [("auto.offset.reset", "earliest"), ("on.data.loss", "reset")];
        assert_eq!(loss(&both), Loss::Reset(Start::Earliest));
        assert_eq!(loss(&[("auto.offset.reset", "none"), ("on.data.loss", "reset")]), Loss::Error);
    }
}
