//! Producer settings by the names Kafka's Java clients use.

use std::str::FromStr;
use std::time::Duration;

use super::config::{Acks, Idempotence, Partitioner, ProducerConfig};
use crate::error::{Error, Result};
use crate::protocol::compression::Compression;

impl ProducerConfig {
    /// Reads settings by the names Kafka's Java producer uses. Returns the configuration and the names it did not know,
    /// which may belong to the client or a job.
    ///
    /// ```
    /// use milena::{Acks, ProducerConfig};
    ///
    /// let (config, unknown) = ProducerConfig::from_properties([("acks", "1"), ("bootstrap.servers", "a:9092")])?;
    /// assert_eq!(config.acks, Acks::Leader);
    /// assert_eq!(unknown, ["bootstrap.servers"]);
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
        // Java's levels are per codec; only the one of the codec in use counts, and the codec may be named later.
        let mut levels = Vec::new();
        let (mut rack, mut rack_aware) = (None, false);
        for (name, value) in properties {
            let (name, value) = (name.as_ref(), value.as_ref().trim());
            match name {
                "acks" => {
                    config.acks = match value {
                        "0" => Acks::None,
                        "1" => Acks::Leader,
                        "-1" | "all" => Acks::All,
                        _ => return Err(unreadable(name, value, "0, 1 or all")),
                    }
                }
                "enable.idempotence" => {
                    config.idempotence = match read(name, value, "true or false")? {
                        true => Idempotence::Required,
                        false => Idempotence::Off,
                    }
                }
                "linger.ms" => config.linger = millis(name, value)?,
                "batch.size" => config.batch_size = read(name, value, "a number of bytes")?,
                "buffer.memory" => config.buffer_memory = read(name, value, "a number of bytes")?,
                "max.request.size" => config.max_request_size = read(name, value, "a number of bytes")?,
                "delivery.timeout.ms" => config.delivery_timeout = millis(name, value)?,
                "request.timeout.ms" => config.request_timeout = millis(name, value)?,
                "max.in.flight.requests.per.connection" => {
                    config.max_in_flight = read(name, value, "a number")?;
                }
                "partitioner.ignore.keys" => {
                    config.partitioner = if read(name, value, "true or false")? {
                        Partitioner::Sticky
                    } else {
                        Partitioner::Default
                    }
                }
                "client.rack" => rack = Some(value.to_owned()).filter(|rack| !rack.is_empty()),
                "partitioner.rack.aware" => rack_aware = read(name, value, "true or false")?,
                "compression.type" => {
                    config.compression = value
                        .parse()
                        .map_err(|_| unreadable(name, value, "none, gzip, snappy, lz4 or zstd"))?;
                }
                "compression.gzip.level" => levels.push((Compression::Gzip, read(name, value, "a level")?)),
                "compression.lz4.level" => levels.push((Compression::Lz4, read(name, value, "a level")?)),
                "compression.zstd.level" => levels.push((Compression::Zstd, read(name, value, "a level")?)),
                _ => unknown.push(name.to_owned()),
            }
        }
        config.compression_level =
            levels.into_iter().rev().find(|(codec, _)| *codec == config.compression).map(|(_, level)| level);
        config.rack = rack.filter(|_| rack_aware);
        config.validate()?;
        Ok((config, unknown))
    }
}

fn read<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T> {
    value.parse().map_err(|_| unreadable(name, value, expected))
}

fn millis(name: &str, value: &str) -> Result<Duration> {
    read(name, value, "a number of milliseconds").map(Duration::from_millis)
}

fn unreadable(name: &str, value: &str, expected: &str) -> Error {
    Error::misuse(format!("{name} is {value:?}; it must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_the_codec_in_use_counts() {
        let (config, unknown) = ProducerConfig::from_properties([
            ("compression.zstd.level", "7"),
            ("compression.gzip.level", "2"),
            ("compression.type", "zstd"),
            ("linger.ms", "20"),
        ])
        .unwrap();
        assert_eq!((config.compression, config.compression_level), (Compression::Zstd, Some(7)));
        assert_eq!(config.linger, Duration::from_millis(20));
        assert!(unknown.is_empty());
    }

    #[test]
    fn the_rack_counts_only_where_the_partitioner_shall_be_aware_of_it() {
        let read = |aware| {
            let properties = [("client.rack", "b"), ("partitioner.rack.aware", aware)];
            ProducerConfig::from_properties(properties).unwrap().0.rack
        };
        assert_eq!((read("true").as_deref(), read("false")), (Some("b"), None));
    }

    #[test]
    fn idempotence_that_is_asked_for_is_required() {
        let read =
            |value| ProducerConfig::from_properties([("enable.idempotence", value)]).unwrap().0.idempotence;
        assert_eq!((read("true"), read("false")), (Idempotence::Required, Idempotence::Off));
        assert_eq!(ProducerConfig::default().idempotence, Idempotence::WhenPossible);
    }

    #[test]
    fn a_wrong_value_names_its_property() {
        for (name, value) in
            [("acks", "2"), ("linger.ms", "soon"), ("compression.type", "rar"), ("batch.size", "-1")]
        {
            let error = ProducerConfig::from_properties([(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(ProducerConfig::from_properties([("batch.size", "0")]).is_err());
    }
}
