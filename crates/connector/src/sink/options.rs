//! A sink from option strings: Flink's for its table connector and Kafka's for producers.

use std::time::Duration;

use milena::{ClientConfig, ProducerConfig};

use super::naming::{ClassicNames, Naming};
use super::{Delivery, KafkaSink, KafkaSinkBuilder, SinkPartitioning};
use crate::{Error, ErrorKind, Result};

/// Names that mean something to Flink only: metrics of theirs, and retries in place of a deadline.
const WITHOUT_EFFECT: [&str; 3] =
    ["register.producer.metrics", "flink.disable-metrics", "sink.committer.retries"];

impl<T> KafkaSink<T> {
    /// A builder with what the options say, and the names of those that nobody knows.
    ///
    /// | option | meaning |
    /// |---|---|
    /// | `sink.delivery-guarantee`, once `sink.semantic` | `none`, `at-least-once` or `exactly-once` |
    /// | `sink.transactional-id-prefix` | see [`transactional_id_prefix`](KafkaSinkBuilder::transactional_id_prefix) |
    /// | `sink.transaction-naming-strategy` | `DEFAULT`, `POOLING`, `INCREMENTING` or `CLASSIC` |
    /// | `sink.partitioner` | `default`, `fixed` or `round-robin` |
    /// | `transaction.timeout.ms` | see [`transaction_timeout`](KafkaSinkBuilder::transaction_timeout) |
    /// | Kafka's client and producer properties | as [`ClientConfig`] and [`ProducerConfig`] read them |
    ///
    /// Kafka's names may begin with `properties.`, as Flink's tables write them.
    ///
    /// # Errors
    /// `Misuse` for a value that is not understood.
    pub fn from_properties<K, V>(
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(KafkaSinkBuilder<T>, Vec<String>)>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let mut builder = Self::builder();
        let mut rest = Vec::new();
        for (name, value) in properties {
            let (name, value) = (name.as_ref(), value.as_ref());
            let name = name.strip_prefix("properties.").unwrap_or(name);
            builder = match name {
                "sink.delivery-guarantee" | "sink.semantic" => builder.delivery(delivery(name, value)?),
                "sink.transactional-id-prefix" => builder.transactional_id_prefix(value),
                "sink.transaction-naming-strategy" => builder.naming(naming(name, value)?),
                "sink.partitioner" => builder.partitioning(partitioning(name, value)?),
                "transaction.timeout.ms" => {
                    let millis = value.parse().map_err(|_| wrong(name, value, "a number of milliseconds"))?;
                    builder.transaction_timeout(Duration::from_millis(millis))
                }
                _ if WITHOUT_EFFECT.contains(&name) => {
                    tracing::info!(name, "this setting has no meaning here");
                    builder
                }
                _ => {
                    rest.push((name.to_owned(), value.to_owned()));
                    builder
                }
            };
        }
        let (client, unknown) =
            ClientConfig::from_properties(rest.iter().map(|(name, value)| (name, value)))?;
        let left = rest.iter().filter(|(name, _)| unknown.contains(name));
        let (producer, unknown) = ProducerConfig::from_properties(left.map(|(name, value)| (name, value)))?;
        // Flink forces them to bytes.
        let unknown = unknown.into_iter().filter(|name| !name.ends_with(".serializer")).collect();
        Ok((builder.client(client).producer(producer), unknown))
    }
}

fn delivery(name: &str, value: &str) -> Result<Delivery> {
    Ok(match value {
        "none" => Delivery::None,
        "at-least-once" => Delivery::AtLeastOnce,
        "exactly-once" => Delivery::ExactlyOnce,
        _ => return Err(wrong(name, value, "none, at-least-once or exactly-once")),
    })
}

fn naming(name: &str, value: &str) -> Result<Naming> {
    Ok(match value.to_ascii_uppercase().as_str() {
        "DEFAULT" | "POOLING" => Naming::Pooling,
        "INCREMENTING" => Naming::Incrementing,
        "CLASSIC" => Naming::Classic(ClassicNames::default()),
        _ => return Err(wrong(name, value, "DEFAULT, POOLING, INCREMENTING or CLASSIC")),
    })
}

fn partitioning(name: &str, value: &str) -> Result<SinkPartitioning> {
    Ok(match value {
        "default" => SinkPartitioning::Producer,
        "fixed" => SinkPartitioning::Fixed,
        "round-robin" => SinkPartitioning::RoundRobin,
        _ => {
            return Err(wrong(
                name,
                value,
                "default, fixed or round-robin; a partitioner of your own is set in code",
            ));
        }
    })
}

fn wrong(name: &str, value: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Misuse, format!("{name} is {value:?}; it must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::StringSerializer;

    #[test]
    fn flinks_and_kafkas_names_are_read() {
        let (builder, unknown) = KafkaSink::<String>::from_properties([
            ("properties.bootstrap.servers", "a:9092"),
            ("sink.delivery-guarantee", "exactly-once"),
            ("sink.transactional-id-prefix", "orders"),
            ("sink.transaction-naming-strategy", "INCREMENTING"),
            ("sink.partitioner", "round-robin"),
            ("transaction.timeout.ms", "90000"),
            ("linger.ms", "7"),
            ("sink.committer.retries", "10"),
            ("key.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer"),
            ("no.such.option", "1"),
        ])
        .unwrap();
        assert_eq!(unknown, ["no.such.option"]);
        let sink = builder.serializer(StringSerializer::new("t")).build().unwrap();
        let settings = sink.settings();
        assert_eq!(settings.delivery, Delivery::ExactlyOnce);
        assert_eq!((settings.prefix.as_deref(), settings.naming), (Some("orders"), Naming::Incrementing));
        assert_eq!(settings.transaction_timeout, Duration::from_secs(90));
        assert_eq!(settings.producer.linger, Duration::from_millis(7));
        assert!(matches!(settings.partitioning, SinkPartitioning::RoundRobin));
    }

    // scenario: 5.3.17, 5.6.17
    #[test]
    fn what_is_set_last_counts_and_a_sink_needs_brokers_a_serializer_and_a_prefix() {
        let options = [
            ("sink.delivery-guarantee", "exactly-once"),
            ("sink.transactional-id-prefix", "first"),
            ("transaction.timeout.ms", "90000"),
            ("transaction.timeout.ms", "80000"),
            ("properties.bootstrap.servers", "a:9092"),
        ];
        let read = || KafkaSink::<String>::from_properties(options).unwrap().0;
        let serializer = || StringSerializer::new("t");
        let sink = read().serializer(serializer()).build().unwrap();
        assert_eq!(sink.settings().transaction_timeout, Duration::from_secs(80), "the later of two options");
        assert_eq!(sink.settings().client.bootstrap, ["a:9092"]);
        let changed = read()
            .client(ClientConfig::new(["b:9092"]))
            .transactional_id_prefix("second")
            .transaction_timeout(Duration::from_secs(70))
            .serializer(serializer())
            .build()
            .unwrap();
        let settings = changed.settings();
        assert_eq!(
            (settings.client.bootstrap.as_slice(), settings.delivery),
            (&["b:9092".to_owned()][..], Delivery::ExactlyOnce)
        );
        assert_eq!(
            (settings.prefix.as_deref(), settings.transaction_timeout.as_secs()),
            (Some("second"), 70)
        );

        let refused = |builder: KafkaSinkBuilder<String>, word: &str| {
            let error = builder.build().unwrap_err();
            assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains(word), "{word}: {error}");
        };
        refused(KafkaSink::builder().serializer(serializer()), "client");
        refused(read(), "serializer");
        let client = ClientConfig::new(["a:9092"]);
        let sink = || KafkaSink::builder().client(client.clone()).serializer(serializer());
        refused(sink().delivery(Delivery::ExactlyOnce), "transactional_id_prefix");
        refused(sink().transactional_id_prefix("x".repeat(32_001)), "32001 bytes");
        refused(sink().transaction_timeout(Duration::from_millis(999)), "second");
    }

    #[test]
    fn a_wrong_value_says_what_it_must_be() {
        for option in [
            "sink.delivery-guarantee",
            "sink.semantic",
            "sink.transaction-naming-strategy",
            "sink.partitioner",
        ] {
            let error = KafkaSink::<String>::from_properties([(option, "x")]).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains("must be"), "{error}");
        }
        assert!(KafkaSink::<String>::from_properties([("transaction.timeout.ms", "soon")]).is_err());
    }
}
