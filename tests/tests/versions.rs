//! Every release of Kafka: what the public client does on it, with versions that were negotiated and with versions that were pinned.
//!
//! The embedded broker plays a number of releases; the real broker is the one that the environment gives
//! (`MILENA_KAFKA_VERSION`), and `cargo xtask kafka matrix` gives one release after the other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::protocol::compression::Compression;
use milena::{
    Client, ClientConfig, CommittedOffset, Error, ErrorKind, Header, Isolation, NewTopic, Offset, OffsetSpec,
    OwnedRecord, ProducerConfig, ProducerRecord, TopicPartition,
};
use milena_connector::runtime::{Job, JobControl};
use milena_connector::sink::Delivery;
use milena_connector::source::StopAt;
use milena_testkit::broker::BrokerConfig;
use milena_tests::jobs::{Stage, job_config, run};
use milena_tests::records::{PATIENCE, offset, read, within, write};
use milena_tests::{Env, create_topic, real_only};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// The releases that the embedded broker plays.
const PLAYED: [&str; 7] = ["0.8.2", "0.9.0", "0.10.0", "0.10.2", "0.11.0", "1.1", "2.8"];

/// A broker and what is known of its release.
struct Subject {
    env: Env,
    /// The release, if it is known.
    release: Option<String>,
}

impl Subject {
    /// The embedded broker as each release, and the real broker.
    async fn each() -> Vec<Self> {
        let mut subjects = Vec::new();
        let played: &[&str] = if real_only() { &[] } else { &PLAYED };
        for release in played {
            let config = BrokerConfig { default_partitions: 3, ..BrokerConfig::default() };
            let env = Env::embedded_with(config.as_release(release).unwrap()).await;
            subjects.push(Self { env, release: Some((*release).to_owned()) });
        }
        subjects.extend(Self::real().await);
        subjects
    }

    async fn real() -> Option<Self> {
        let env = Env::real().await?;
        let release = env.version().filter(|version| *version != "unknown").map(str::to_owned);
        Some(Self { env, release })
    }

    /// A configuration that asks, and one that is told.
    fn configs(&self) -> Vec<(&'static str, ClientConfig)> {
        let config = || ClientConfig { auto_create_topics: true, ..self.env.config() };
        let mut configs = vec![("negotiated", config())];
        if let Some(release) = &self.release {
            configs.push(("pinned", config().with_broker_version(release)));
        }
        configs
    }

    fn name(&self, how: &str) -> String {
        format!(
            "{} {}, {how}",
            self.env.describe(),
            self.release.as_deref().unwrap_or("of an unknown release")
        )
    }
}

/// Whether an outcome was "the broker cannot do this".
fn is_unsupported(error: &Error) -> bool {
    error.kind() == ErrorKind::Unsupported
}

/// What a client finds out of a broker by its versions.
#[derive(Clone, Copy, Debug)]
struct Abilities {
    times: bool,
    headers: bool,
    zstd: bool,
    creates_topics: bool,
    exact_times: bool,
}

async fn abilities(client: &Client) -> Abilities {
    let broker = client.metadata(None).await.unwrap().brokers().next().map(|broker| broker.id);
    let max = |versions: &milena::BrokerVersions, key| versions.range(key).map_or(-1, |range| range.max);
    let Some(broker) = broker else {
        // 0.8 before its first topic.
        return Abilities {
            times: false,
            headers: false,
            zstd: false,
            creates_topics: false,
            exact_times: false,
        };
    };
    let versions = client.versions(broker).await.unwrap();
    Abilities {
        times: max(&versions, 0) >= 2,
        headers: max(&versions, 0) >= 3,
        zstd: max(&versions, 0) >= 7,
        creates_topics: max(&versions, 19) >= 0,
        exact_times: max(&versions, 2) >= 1,
    }
}

/// A topic, made by request or, where there is none, by asking for it.
async fn topic(subject: &Subject, client: &Client, can: Abilities) -> String {
    let name = subject.env.name("versions");
    if can.creates_topics {
        create_topic(client, &name, 2).await;
        return name;
    }
    let refused = client.admin().create_topics(&[NewTopic::new(&name, 2)], PATIENCE).await.unwrap_err();
    assert!(is_unsupported(&refused), "{refused}");
    // It is there once its leaders answer.
    let tp = TopicPartition::new(name.as_str(), 0);
    let leader = within("the leader", client.leader(&tp)).await;
    leader.unwrap_or_else(|error| panic!("{}: {error}", subject.name("")));
    offset(client, &tp, OffsetSpec::Latest, Isolation::ReadUncommitted).await;
    name
}

/// A record of the test.
struct Sent {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    time: i64,
}

fn records(codec: Compression) -> Vec<Sent> {
    let start = 1_700_000_000_000;
    (0..200)
        .map(|number: usize| Sent {
            key: (!number.is_multiple_of(4)).then(|| format!("{codec:?} {number}").into_bytes()),
            value: match number % 10 {
                0 => None,
                1 => Some(Vec::new()),
                2 => Some(vec![number as u8; 20_000]),
                _ => Some(format!("value {number} ").repeat(number % 6 + 1).into_bytes()),
            },
            time: start + number as i64,
        })
        .collect()
}

fn same(seen: &OwnedRecord, sent: &Sent, can: Abilities) -> bool {
    let time = if can.times { sent.time } else { -1 };
    seen.key.as_deref() == sent.key.as_deref()
        && seen.value.as_deref() == sent.value.as_deref()
        && seen.timestamp == time
        && seen.headers.len() == usize::from(can.headers)
}

async fn writes_and_reads(name: &str, client: &Client, topic: &str, can: Abilities) {
    let tp = TopicPartition::new(topic, 0);
    let header = [Header::new("h", Some(b"x".as_slice()))];
    let mut all = Vec::new();
    for codec in CODECS {
        let config = ProducerConfig { compression: codec, ..ProducerConfig::default() };
        if codec == Compression::Zstd && !can.zstd {
            let producer = milena::Producer::new(client, config).unwrap();
            let ticket = producer.send(ProducerRecord::to(topic).partition(0).value("x")).await.unwrap();
            let error = within("the refusal", ticket).await.unwrap_err();
            assert!(is_unsupported(&error), "{name}: {error}");
            continue;
        }
        let sent = records(codec);
        let first = all.len() as i64;
        let places = write(
            client,
            config,
            sent.iter().map(|sent| {
                let mut record = ProducerRecord::to(topic).partition(0).timestamp(sent.time);
                (record.key, record.value) = (sent.key.as_deref(), sent.value.as_deref());
                if can.headers {
                    record.headers = &header;
                }
                record
            }),
        )
        .await;
        let offsets: Vec<_> = places.iter().map(|place| place.offset.unwrap().0).collect();
        assert_eq!(offsets, (first..first + 200).collect::<Vec<_>>(), "{name}: {codec:?}");
        all.extend(sent);
    }
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        let seen = read(client, &tp, isolation).await;
        assert_eq!(seen.len(), all.len(), "{name}");
        for (place, (seen, sent)) in seen.iter().zip(&all).enumerate() {
            assert_eq!(seen.offset, Offset(place as i64), "{name}");
            assert!(same(seen, sent, can), "{name}: record {place} came as {seen:?}");
        }
        let end = offset(client, &tp, OffsetSpec::Latest, isolation).await;
        assert_eq!(end, Some(all.len() as i64), "{name}");
        assert_eq!(offset(client, &tp, OffsetSpec::Earliest, isolation).await, Some(0), "{name}");
    }
    // Where there are no times of records the answer may be early, and never late or absent.
    let found =
        offset(client, &tp, OffsetSpec::Timestamp(1_700_000_000_100), Isolation::ReadUncommitted).await;
    let wanted = if can.exact_times { 100 } else { 0 };
    assert_eq!(found, Some(wanted), "{name}");
}

async fn commits_and_fetches_offsets(name: &str, subject: &Subject, client: &Client, topic: &str) {
    let group = client.group(&subject.env.name("group"));
    let [first, second] = [0, 1].map(|index| TopicPartition::new(topic, index));
    let committed =
        CommittedOffset { offset: Offset(42), leader_epoch: None, metadata: Some("note".to_owned()) };
    let wanted = [first.clone(), second.clone()];
    let before = within("the offsets", group.fetch(Some(&wanted), false)).await.unwrap();
    assert!(before.iter().all(|(_, offset)| matches!(offset, Ok(None))), "{name}: {before:?}");
    let done = within("the commit", group.commit(&[(first, committed.clone())])).await;
    done.unwrap_or_else(|error| panic!("{name}: {error}"));
    let fetched = within("the offsets", group.fetch(Some(&wanted), false)).await.unwrap();
    assert_eq!(fetched[0].1.as_ref().unwrap().as_ref(), Some(&committed), "{name}");
    assert_eq!(fetched[1].1.as_ref().unwrap().as_ref(), None, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_and_offsets_go_there_and_back_on_every_release() {
    for subject in Subject::each().await {
        for (how, config) in subject.configs() {
            let name = subject.name(how);
            let client = Client::connect(config).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            let can = abilities(&client).await;
            let topic = topic(&subject, &client, can).await;
            let can = abilities(&client).await;
            writes_and_reads(&name, &client, &topic, can).await;
            commits_and_fetches_offsets(&name, &subject, &client, &topic).await;
        }
    }
}

/// The job that reads, writes in transactions and commits with its checkpoints: from 0.11 on.
// scenario: D57
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exactly_once_job_copies_each_record_once_since_0_11() {
    for pinned in [false, true] {
        for subject in Subject::each().await {
            let name = subject.name(if pinned { "job, pinned" } else { "job" });
            let client = Client::connect(ClientConfig { auto_create_topics: true, ..subject.env.config() })
                .await
                .unwrap();
            match &subject.release {
                _ if !abilities(&client).await.headers => {}
                Some(release) if pinned => copies_once(&name, subject.env.with_broker_version(release)).await,
                None if pinned => {}
                _ => copies_once(&name, subject.env).await,
            }
        }
    }
}

async fn copies_once(name: &str, env: Env) {
    const RECORDS: u64 = 300;
    let stage = Stage::new(env, 2).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let source = stage.source().bounded(StopAt::Latest).build().unwrap();
    let sink = stage.sink(Delivery::ExactlyOnce).build().unwrap();
    let config = job_config(dir.path(), 2, Duration::from_millis(100));
    let report = run(Job::from_source(source).to(sink), config, JobControl::new()).await;
    let report = report.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((report.records_in, report.records_out), (RECORDS, RECORDS), "{name}");
    assert!(report.committed_transactions > 0, "{name}");
    let verdict = stage.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{name}: {verdict}");
}
