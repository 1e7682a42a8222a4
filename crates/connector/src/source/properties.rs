//! A source's settings by the names of Flink's connector, its SQL options and Kafka's consumer.
//!
//! `docs/migrating-from-flink.md` has the table of names. Names that are not known, here or to the client, are given back, so that
//! nothing is ignored in silence; those that have no meaning here are accepted and logged.

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{ClientConfig, Isolation, Offset, PartitionId, TopicPartition};

use super::builder::KafkaSourceBuilder;
use super::commit_mode::{AUTO_COMMIT_INTERVAL, CommitMode};
use super::policy::Discovery;
use super::start::{OffsetReset, StartFrom, StopAt};
use crate::{Error, ErrorKind, Result};

/// Names that mean something to Flink or to the Java client only: threads, queues and metrics of theirs.
const WITHOUT_EFFECT: [&str; 9] = [
    "register.consumer.metrics",
    "poll.timeout.ms",
    "source.reader.element.queue.capacity",
    "source.reader.close.timeout",
    "flink.poll-timeout",
    "flink.disable-metrics",
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.records",
];

const BYTES: &str = "org.apache.kafka.common.serialization.ByteArrayDeserializer";

/// What properties say about a source, before it is put into a builder.
#[derive(Debug, Default)]
struct Read {
    values: BTreeMap<String, String>,
}

impl<T: Send + 'static> KafkaSourceBuilder<T> {
    /// Takes settings by Flink's and Kafka's names; those of the client (`bootstrap.servers` and so on) too, which replace a
    /// [`client`](Self::client) set before. Returns the names that nobody knows.
    ///
    /// `auto.offset.reset` is what happens at a first start without a usable offset, as in Flink's `KafkaSource`; it never moves
    /// the position of a restored or running source, for which [`on_out_of_range`](Self::on_out_of_range) is chosen by itself.
    ///
    /// # Errors
    /// `Misuse` for a value that can't be read, with the name and what is expected.
    pub fn from_properties<K, V>(
        self,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(Self, Vec<String>)>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let values = properties.into_iter().map(|(name, value)| {
            let name = name.as_ref();
            // Flink's SQL puts the client's own names behind this.
            let name = name.strip_prefix("properties.").unwrap_or(name);
            (name.to_owned(), value.as_ref().trim().to_owned())
        });
        let mut read = Read { values: values.collect() };
        let mut builder = self.subscription_of(&mut read)?;
        builder = builder.positions_of(&mut read)?;
        builder = builder.group_of(&mut read)?;
        builder = builder.fetching_of(&mut read)?;
        for name in WITHOUT_EFFECT {
            if read.values.remove(name).is_some() {
                tracing::info!(name, "this setting has no meaning here");
            }
        }
        for name in ["key.deserializer", "value.deserializer"] {
            if let Some(class) = read.values.remove(name).filter(|class| class != BYTES) {
                tracing::warn!(
                    name,
                    class,
                    "records are read by the source's deserializer, not by this class"
                );
            }
        }
        let (client, unknown) = ClientConfig::from_properties(&read.values)?;
        Ok((builder.client(client), unknown))
    }

    fn subscription_of(self, read: &mut Read) -> Result<Self> {
        Ok(match (read.take("topic"), read.take("topic-pattern")) {
            (Some(topics), None) => self.topics(topics.split(';').map(str::trim).filter(|it| !it.is_empty())),
            (None, Some(pattern)) => self.topic_pattern(&pattern),
            (None, None) => self,
            (Some(_), Some(_)) => return Err(misuse("topic and topic-pattern exclude each other")),
        })
    }

    fn positions_of(mut self, read: &mut Read) -> Result<Self> {
        let reset = read.choice(
            "auto.offset.reset",
            &[
                ("earliest", OffsetReset::Earliest),
                ("smallest", OffsetReset::Earliest),
                ("latest", OffsetReset::Latest),
                ("largest", OffsetReset::Latest),
                ("none", OffsetReset::Fail),
            ],
        )?;
        let topic = self.only_topic();
        let time = read.number("scan.startup.timestamp-millis")?;
        let offsets = read.take("scan.startup.specific-offsets");
        let start =
            match read.take("scan.startup.mode").as_deref() {
                None => None,
                Some("earliest-offset") => Some(StartFrom::Earliest),
                Some("latest-offset") => Some(StartFrom::Latest),
                Some("group-offsets") => Some(StartFrom::Committed { or: OffsetReset::Fail }),
                Some("timestamp") => Some(StartFrom::Timestamp(time.ok_or_else(|| {
                    misuse("scan.startup.mode timestamp needs scan.startup.timestamp-millis")
                })?)),
                Some("specific-offsets") => {
                    let offsets =
                        specific(offsets.as_deref(), topic.as_deref(), "scan.startup.specific-offsets")?;
                    Some(StartFrom::Offsets { offsets, or: OffsetReset::Earliest })
                }
                Some(other) => return Err(misuse(format!("scan.startup.mode {other:?} is none of Flink's"))),
            };
        if let Some(start) = start {
            self = self.start(start);
        }
        if let Some(reset) = reset {
            self = self.start_reset(reset);
        }
        let time = read.number("scan.bounded.timestamp-millis")?;
        let offsets = read.take("scan.bounded.specific-offsets");
        Ok(match read.take("scan.bounded.mode").as_deref() {
            None | Some("unbounded") => self,
            Some("latest-offset") => self.bounded(StopAt::Latest),
            Some("group-offsets") => self.bounded(StopAt::Committed),
            Some("timestamp") => {
                self.bounded(StopAt::Timestamp(time.ok_or_else(|| {
                    misuse("scan.bounded.mode timestamp needs scan.bounded.timestamp-millis")
                })?))
            }
            Some("specific-offsets") => {
                let name = "scan.bounded.specific-offsets";
                self.bounded(StopAt::Offsets(specific(offsets.as_deref(), topic.as_deref(), name)?))
            }
            Some(other) => return Err(misuse(format!("scan.bounded.mode {other:?} is none of Flink's"))),
        })
    }

    fn group_of(mut self, read: &mut Read) -> Result<Self> {
        if let Some(group_id) = read.take("group.id") {
            self = self.group_id(group_id);
        }
        let interval = read.millis("auto.commit.interval.ms")?.unwrap_or(AUTO_COMMIT_INTERVAL);
        let auto = read.flag("enable.auto.commit")?;
        let on_checkpoint = read.flag("commit.offsets.on.checkpoint")?;
        match (on_checkpoint, auto) {
            (_, Some(true)) => self = self.commit_mode(CommitMode::Periodic(interval)),
            (Some(on), _) => self = self.commit_on_checkpoint(on),
            (None, _) => {}
        }
        for name in [
            "partition.discovery.interval.ms",
            "flink.partition-discovery.interval-millis",
            "scan.topic-partition-discovery.interval",
        ] {
            let Some(value) = read.take(name) else { continue };
            let interval = duration(&value).ok_or_else(|| misuse(format!("{name} is {value:?}")))?;
            self = self.discovery(interval.map_or(Discovery::Once, Discovery::Every));
        }
        Ok(self)
    }

    fn fetching_of(mut self, read: &mut Read) -> Result<Self> {
        let isolation = read.choice(
            "isolation.level",
            &[("read_committed", Isolation::ReadCommitted), ("read_uncommitted", Isolation::ReadUncommitted)],
        )?;
        if let Some(isolation) = isolation {
            self = self.isolation(isolation);
        }
        let mut fetch = self.fetch_settings();
        if let Some(wait) = read.millis("fetch.max.wait.ms")? {
            fetch.max_wait = wait;
        }
        for (name, setting) in [
            ("fetch.min.bytes", &mut fetch.min_bytes),
            ("fetch.max.bytes", &mut fetch.max_bytes),
            ("max.partition.fetch.bytes", &mut fetch.partition_max_bytes),
            ("fetch.max.batch.bytes", &mut fetch.max_batch_bytes),
        ] {
            if let Some(bytes) = read.number(name)? {
                *setting = u32::try_from(bytes).map_err(|_| misuse(format!("{name} is {bytes}")))?;
            }
        }
        if let Some(bytes) = read.number("fetch.buffer.bytes")? {
            fetch.prefetch_bytes =
                usize::try_from(bytes).map_err(|_| misuse(format!("fetch.buffer.bytes is {bytes}")))?;
        }
        if let Some(check) = read.flag("check.crcs")? {
            fetch.check_crcs = check;
        }
        if let Some(rack) = read.take("client.rack") {
            self = self.rack(rack);
        }
        // Flink's readers name themselves by it.
        if let Some(prefix) = read.take("client.id.prefix") {
            read.values.entry("client.id".to_owned()).or_insert(prefix);
        }
        Ok(self.fetch(fetch))
    }
}

impl Read {
    fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    fn number(&mut self, name: &str) -> Result<Option<i64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| misuse(format!("{name} is {value:?}; it must be a number")))
    }

    fn millis(&mut self, name: &str) -> Result<Option<Duration>> {
        let Some(number) = self.number(name)? else { return Ok(None) };
        let number = u64::try_from(number).map_err(|_| misuse(format!("{name} is negative")))?;
        Ok(Some(Duration::from_millis(number)))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.choice(name, &[("true", true), ("false", false)])
    }

    fn choice<C: Clone>(&mut self, name: &str, choices: &[(&str, C)]) -> Result<Option<C>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = choices.iter().find(|(choice, _)| value.eq_ignore_ascii_case(choice));
        let (_, choice) = found.ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            misuse(format!("{name} is {value:?}; it must be one of {}", names.join(", ")))
        })?;
        Ok(Some(choice.clone()))
    }
}

fn misuse(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misuse, text)
}

/// `partition:0,offset:42;partition:1,offset:300`, for one topic.
fn specific(text: Option<&str>, topic: Option<&str>, name: &str) -> Result<BTreeMap<TopicPartition, Offset>> {
    let text = text.ok_or_else(|| misuse(format!("{name} is missing")))?;
    let topic = topic.ok_or_else(|| misuse(format!("{name} needs exactly one topic")))?;
    let wrong = |part: &str| misuse(format!("{name}: {part:?} is not of the form partition:0,offset:42"));
    let mut offsets = BTreeMap::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let pair = part.split_once(',').and_then(|(partition, offset)| {
            let partition: i32 = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
            let offset: i64 = offset.trim().strip_prefix("offset:")?.trim().parse().ok()?;
            Some((PartitionId(partition), Offset(offset)))
        });
        let (partition, offset) = pair.ok_or_else(|| wrong(part))?;
        if offsets.insert(TopicPartition::new(topic, partition), offset).is_some() {
            return Err(misuse(format!("{name} names partition {partition} twice")));
        }
    }
    Ok(offsets)
}

/// Milliseconds, or a number with one of Flink's units; zero and less are never.
fn duration(text: &str) -> Option<Option<Duration>> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim() {
        "" | "ms" | "milli" | "millis" => 1,
        "s" | "sec" | "second" | "seconds" => 1_000,
        "m" | "min" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        "d" | "day" | "days" => 86_400_000,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    let millis = u64::try_from(number).unwrap_or(0).checked_mul(factor)?;
    Some((millis > 0).then(|| Duration::from_millis(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::StringDeserializer;
    use crate::source::KafkaSource;
    use crate::source::builder::FetchSettings;

    fn read(properties: &[(&str, &str)]) -> Result<(KafkaSource<String>, Vec<String>)> {
        let all = [("bootstrap.servers", "a:1")].iter().chain(properties);
        let all = all.map(|(name, value)| (*name, *value));
        let (builder, unknown) =
            KafkaSource::builder().deserializer(StringDeserializer).from_properties(all)?;
        Ok((builder.build()?, unknown))
    }

    // scenario: 5.4.28, 5.4.19
    #[test]
    fn flinks_and_kafkas_names_are_read() {
        let (source, unknown) = read(&[
            ("topic", "a;b"),
            ("properties.group.id", "g"),
            ("isolation.level", "read_uncommitted"),
            ("enable.auto.commit", "true"),
            ("auto.commit.interval.ms", "700"),
            ("fetch.max.wait.ms", "70"),
            ("fetch.min.bytes", "2"),
            ("fetch.max.bytes", "8192"),
            ("max.partition.fetch.bytes", "4096"),
            ("check.crcs", "false"),
            ("fetch.buffer.bytes", "300000"),
            ("fetch.max.batch.bytes", "5000"),
            ("partition.discovery.interval.ms", "30000"),
            ("client.id.prefix", "me"),
            ("client.rack", "r"),
            ("register.consumer.metrics", "true"),
            ("request.timeout.ms", "1500"),
            ("no.such.name", "x"),
        ])
        .unwrap();
        let settings = source.settings();
        assert_eq!(unknown, ["no.such.name"]);
        assert_eq!(source.group_id(), Some("g"));
        assert_eq!(source.isolation(), Isolation::ReadUncommitted);
        assert_eq!(settings.commits, CommitMode::Periodic(Duration::from_millis(700)));
        assert_eq!(settings.fetch.max_wait, Duration::from_millis(70));
        assert_eq!((settings.fetch.min_bytes, settings.fetch.max_bytes), (2, 8192));
        assert_eq!(settings.fetch.partition_max_bytes, 4096);
        assert_eq!((settings.fetch.prefetch_bytes, settings.fetch.max_batch_bytes), (300_000, 5000));
        assert!(!settings.fetch.check_crcs && FetchSettings::default().check_crcs);
        assert_eq!(settings.rack.as_ref().and_then(|rack| rack()).as_deref(), Some("r"));
        assert_eq!(settings.enumerator.discovery, Discovery::Every(Duration::from_secs(30)));
        assert_eq!((settings.client.client_id.as_str(), settings.client.bootstrap.len()), ("me", 1));
        assert_eq!(settings.client.request_timeout, Duration::from_millis(1500));
    }

    #[test]
    fn starts_and_stops_are_those_of_flinks_sql() {
        let start = |options: &[(&str, &str)]| {
            let all: Vec<_> = [("topic", "t"), ("group.id", "g")].iter().chain(options).copied().collect();
            read(&all).map(|(source, _)| {
                let config = source.enumerator_config();
                (config.start.clone(), config.stop.clone(), config.bounded)
            })
        };
        let at = |offset| BTreeMap::from([(TopicPartition::new("t", PartitionId(1)), Offset(offset))]);
        let mode = "scan.startup.mode";
        let offsets = ("scan.startup.specific-offsets", "partition:1,offset:42");
        let table = [
            (vec![], StartFrom::Earliest),
            (vec![(mode, "latest-offset")], StartFrom::Latest),
            (vec![(mode, "group-offsets")], StartFrom::Committed { or: OffsetReset::Fail }),
            (
                vec![(mode, "group-offsets"), ("auto.offset.reset", "latest")],
                StartFrom::Committed { or: OffsetReset::Latest },
            ),
            (vec![(mode, "timestamp"), ("scan.startup.timestamp-millis", "7")], StartFrom::Timestamp(7)),
            (
                vec![(mode, "specific-offsets"), offsets, ("auto.offset.reset", "none")],
                StartFrom::Offsets { offsets: at(42), or: OffsetReset::Fail },
            ),
        ];
        for (options, expected) in table {
            assert_eq!(start(&options).unwrap(), (expected, StopAt::Never, false), "{options:?}");
        }
        let bounded = [
            ("scan.bounded.mode", "specific-offsets"),
            ("scan.bounded.specific-offsets", "partition:1,offset:9"),
        ];
        assert_eq!(start(&bounded).unwrap(), (StartFrom::Earliest, StopAt::Offsets(at(9)), true));
        for wrong in [
            vec![(mode, "soon")],
            vec![(mode, "timestamp")],
            vec![(mode, "specific-offsets"), ("scan.startup.specific-offsets", "1:42")],
            vec![("auto.offset.reset", "maybe")],
            vec![("enable.auto.commit", "1")],
            vec![("check.crcs", "no")],
            vec![("fetch.buffer.bytes", "-1")],
            vec![("fetch.max.batch.bytes", "0")],
            vec![("fetch.max.batch.bytes", "4294967296")],
            vec![("topic-pattern", "t.*")],
            vec![("partition.discovery.interval.ms", "soon")],
        ] {
            assert_eq!(start(&wrong).unwrap_err().kind(), ErrorKind::Misuse, "{wrong:?}");
        }
    }

    #[test]
    fn durations_are_numbers_or_flinks() {
        let of = |text| duration(text).map(|it| it.map(|it| it.as_millis()));
        assert_eq!(of("5 min"), Some(Some(300_000)));
        assert_eq!(of("250"), Some(Some(250)));
        assert_eq!(of("-1"), Some(None));
        assert_eq!(of("0 s"), Some(None));
        assert_eq!(of("5 weeks"), None);
        assert_eq!(of(""), None);
    }
}
