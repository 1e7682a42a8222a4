//! Shared set-up of the tests: every test gets a broker, embedded or real, and says which.
//!
//! ```no_run
//! # async fn example() {
//! use milena_tests::Env;
//!
//! for env in Env::each().await {
//!     let topic = env.topic("orders", 4).await;
//!     let client = env.client().await;
//!     // produce, fetch, assert
//! }
//! # }
//! ```
//!
//! [`Env::each`] gives the embedded broker and, if this machine can run one, a real Kafka that all tests of a test
//! binary share: names of topics, groups and transactional ids are therefore made by [`Env::name`]. A test that kills
//! its broker starts its own with [`own_kafka`].
//!
//! Without a real Kafka a test is skipped with a loud line, which `cargo xtask test` counts; with `CI=true` or
//! `MILENA_REQUIRE_KAFKA=1` it fails instead.

pub mod cli;
pub mod interop;
pub mod java;
pub mod jobs;
pub mod kerberos;
pub mod load;
pub mod log_lines;
pub mod records;
pub mod secured;

/// The README's examples, compiled and run.
#[cfg(doctest)]
mod readme;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milena::{Client, ClientConfig, Isolation, NewTopic, OffsetSpec, PartitionId, TopicPartition};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::kafka::{Kafka, KafkaError, KafkaOptions, or_skip};
use milena_testkit::listen::EmbeddedBroker;
use tokio::sync::OnceCell;

/// A broker for one test.
#[derive(Debug)]
pub struct Env {
    place: Place,
    /// The release that clients are told, instead of asking the broker.
    pin: Option<String>,
}

#[derive(Debug)]
enum Place {
    Embedded(EmbeddedBroker),
    Real(Arc<Kafka>),
}

impl Env {
    /// A fresh embedded broker with its default set-up.
    ///
    /// # Panics
    /// If no port can be opened on 127.0.0.1.
    pub async fn embedded() -> Self {
        Self::embedded_with(BrokerConfig::default()).await
    }

    /// A fresh embedded broker.
    ///
    /// # Panics
    /// If no port can be opened on 127.0.0.1.
    pub async fn embedded_with(config: BrokerConfig) -> Self {
        let broker =
            EmbeddedBroker::start(config).await.unwrap_or_else(|error| panic!("embedded broker: {error}"));
        Self { place: Place::Embedded(broker), pin: None }
    }

    /// The real Kafka that the tests of this binary share; `None` if the test is to be skipped.
    ///
    /// # Panics
    /// If there is none and CI or `MILENA_REQUIRE_KAFKA=1` demands one.
    pub async fn real() -> Option<Self> {
        static SHARED: OnceCell<Result<Arc<Kafka>, KafkaError>> = OnceCell::const_new();
        let shared = SHARED.get_or_init(|| async {
            let kafka = Kafka::obtain().await?;
            announce(&kafka);
            Ok(Arc::new(kafka))
        });
        or_skip(shared.await.clone()).map(|kafka| Self { place: Place::Real(kafka), pin: None })
    }

    /// The embedded broker and the real Kafka, if there is one, for a test that must hold on both. With `MILENA_REAL_ONLY=1`
    /// the real one alone: another version of it does not change what the embedded broker does.
    ///
    /// # Panics
    /// As [`Env::real`].
    pub async fn each() -> Vec<Self> {
        let mut places = if real_only() { Vec::new() } else { vec![Self::embedded().await] };
        places.extend(Self::real().await);
        places
    }

    /// Where clients connect, "127.0.0.1:port".
    pub fn bootstrap(&self) -> String {
        match &self.place {
            Place::Embedded(broker) => broker.bootstrap(),
            Place::Real(kafka) => kafka.bootstrap().to_owned(),
        }
    }

    /// What the broker is, for messages of assertions: "embedded broker", "container apache/kafka:4.3.1".
    pub fn describe(&self) -> &str {
        match &self.place {
            Place::Embedded(_) => "embedded broker",
            Place::Real(kafka) => kafka.how(),
        }
    }

    /// The embedded broker, for faults and looks inside; `None` on a real one.
    pub fn as_embedded(&self) -> Option<&EmbeddedBroker> {
        match &self.place {
            Place::Embedded(broker) => Some(broker),
            Place::Real(_) => None,
        }
    }

    /// The release of a real Kafka, as "4.3.1", or "unknown"; `None` on the embedded broker.
    pub fn version(&self) -> Option<&str> {
        match &self.place {
            Place::Embedded(_) => None,
            Place::Real(kafka) => Some(kafka.version()),
        }
    }

    /// True on a real Kafka.
    pub fn is_real(&self) -> bool {
        matches!(self.place, Place::Real(_))
    }

    /// A name that no other test uses, in this run or in another on the same broker.
    pub fn name(&self, prefix: &str) -> String {
        unique(prefix)
    }

    /// The same broker, with clients that are told its release and do not ask.
    #[must_use]
    pub fn with_broker_version(mut self, release: &str) -> Self {
        self.pin = Some(release.to_owned());
        self
    }

    /// The configuration of a client of this broker.
    pub fn config(&self) -> ClientConfig {
        ClientConfig { broker_version: self.pin.clone(), ..ClientConfig::new([self.bootstrap()]) }
    }

    /// A connected client.
    ///
    /// # Panics
    /// If the broker can't be reached.
    pub async fn client(&self) -> Client {
        let client = Client::connect(self.config()).await;
        client.unwrap_or_else(|error| panic!("{} at {}: {error}", self.describe(), self.bootstrap()))
    }

    /// Creates a topic with a name of its own and waits until all its partitions have a leader. Returns the name.
    ///
    /// # Panics
    /// If the broker refuses it, or a leader is missing after 30 s.
    pub async fn topic(&self, prefix: &str, partitions: i32) -> String {
        let name = unique(prefix);
        create_topic(&self.client().await, &name, partitions).await;
        name
    }
}

/// Whether the embedded broker is to be left out: `MILENA_REAL_ONLY=1`.
pub fn real_only() -> bool {
    std::env::var("MILENA_REAL_ONLY").is_ok_and(|value| value == "1")
}

/// A name that no other test uses, in this run or in another on the same broker.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    format!("{prefix}-{millis:x}-{:x}-{number}", std::process::id())
}

/// Creates a topic that keeps records of any age, and waits until all its partitions have a leader.
///
/// # Panics
/// If the broker refuses it, or a leader is missing after 30 s.
pub async fn create_topic(client: &Client, name: &str, partitions: i32) {
    let configs = vec![("retention.ms".to_owned(), "-1".to_owned())];
    let topic = NewTopic { name: name.to_owned(), partitions, replication: -1, configs };
    let answers = client.admin().create_topics(&[topic], Duration::from_secs(30)).await;
    for (topic, outcome) in answers.unwrap_or_else(|error| panic!("creating {name}: {error}")) {
        outcome.unwrap_or_else(|error| panic!("creating {topic}: {error}"));
    }
    let wanted = usize::try_from(partitions).unwrap_or_default();
    for _ in 0..300 {
        if let Ok(cluster) = client.metadata(Some(&[name])).await
            && let Some(topic) = cluster.topic(name)
            && topic.partitions.len() == wanted
            && topic.partitions.values().all(|partition| partition.leader.is_some())
            && leaders_answer(client, name, partitions).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{name}: not every one of {partitions} partitions has a leader after 30 s");
}

/// True if the leaders know that they are: a broker announces a leader before that leader has opened the partition.
async fn leaders_answer(client: &Client, name: &str, partitions: i32) -> bool {
    let all: Vec<_> = (0..partitions)
        .map(|partition| (TopicPartition::new(name, PartitionId(partition)), OffsetSpec::Latest))
        .collect();
    let offsets = client.list_offsets(&all, Isolation::ReadUncommitted).await;
    offsets.is_ok_and(|offsets| offsets.iter().all(|(_, offset)| offset.is_ok()))
}

/// A real Kafka for this test alone, to be killed and restarted; `None` if the test is to be skipped.
///
/// # Panics
/// If there is none and CI or `MILENA_REQUIRE_KAFKA=1` demands one.
pub async fn own_kafka(options: impl FnOnce(KafkaOptions) -> KafkaOptions) -> Option<Kafka> {
    let start = async { options(KafkaOptions::from_env()?).start().await };
    let kafka = or_skip(start.await)?;
    announce(&kafka);
    Some(kafka)
}

/// Prints past the test harness, which would swallow it, which Kafka the tests run on.
fn announce(kafka: &Kafka) {
    let line = format!("real Kafka {}: {} at {}\n", kafka.version(), kafka.how(), kafka.bootstrap());
    let _ = std::io::stderr().write_all(line.as_bytes());
}
