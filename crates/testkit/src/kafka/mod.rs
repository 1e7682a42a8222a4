//! A real Kafka broker for tests: found, started, killed, restarted and cleaned up.
//!
//! [`Kafka::obtain`] tries three routes, in this order:
//!
//! 1. `MILENA_BOOTSTRAP=host:port`: a broker that somebody else runs. It can't be killed from here.
//! 2. A container of the image `apache/kafka:<version>` (feature `containers`), if a Docker engine answers and has the
//!    image or can pull it. `cargo xtask kafka image <version>` builds it from Kafka's jars where no registry is near.
//! 3. A JVM on this machine with Kafka's jars: `$KAFKA_LIBS/<version>` or `~/.cache/milena/kafka/<version>`, which
//!    `cargo xtask kafka jars <version>` fills. Versions before 3.3 get a ZooKeeper from the same jars; it lives as long
//!    as the [`Kafka`], whatever happens to the broker.
//!
//! `MILENA_KAFKA_VERSION` chooses the version ([`NEWEST`] without it), `MILENA_KAFKA_ROUTE=container|jvm` restricts
//! the routes. Brokers before 0.9 start with a topic `milena-ready`: without any topic they don't list themselves.
//! Every broker started here listens on 127.0.0.1 at a port that stays the same over restarts, and goes
//! away with the process that started it, even when that process is killed.

mod certificates;
mod cluster;
#[cfg(feature = "containers")]
mod container;
mod demand;
mod error;
mod guard;
mod guarded;
mod jvm;
mod kdc;
mod options;
mod probe;
mod process;
mod secured;
mod settings;
mod token_endpoint;
mod version;
mod zookeeper;

pub use certificates::Certificates;
pub use cluster::KafkaCluster;
pub use demand::{is_demanded, or_skip};
pub use error::{KafkaError, KafkaErrorKind};
pub use guarded::GuardedKafka;
pub use kdc::{Kdc, KdcOptions};
pub use options::{KafkaOptions, Route};
pub use secured::{Listener, SecuredKafka};
pub use token_endpoint::{TokenEndpoint, TokenOptions};
pub use version::{KafkaVersion, NEWEST};

use std::path::PathBuf;
use std::time::Duration;

use crate::capture::Recorder;
use probe::Ask;

/// How long a broker may take from its start to the first answer. Restarts with data take longest.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A real broker. Dropping it ends the broker (unless somebody else runs it) and removes its data.
///
/// All methods take `&self`: a test may kill the broker from one task while others use it.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    version: String,
    how: String,
    ask: Ask,
    /// Where the broker itself listens.
    address: String,
    /// What stands before it; gone with it.
    _recorder: Option<Recorder>,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    External,
    Jvm(Box<jvm::Node>),
    #[cfg(feature = "containers")]
    Container(container::Container),
}

impl Kafka {
    /// A broker by the first route that works, of the version that `MILENA_KAFKA_VERSION` names (else [`NEWEST`]).
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] when no route is open; the message names each route, why it failed and what would
    /// open it. [`KafkaErrorKind::Start`] when a broker was started and did not come up.
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn obtain() -> Result<Self, KafkaError> {
        KafkaOptions::from_env()?.obtain().await
    }

    /// A broker of this version, started for the caller alone: `MILENA_BOOTSTRAP` is not considered.
    ///
    /// # Errors
    /// As [`Kafka::obtain`].
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start_version(version: &str) -> Result<Self, KafkaError> {
        KafkaOptions::from_env()?.version(version)?.start().await
    }

    fn external(bootstrap: String, version: Option<KafkaVersion>) -> Self {
        Self {
            how: format!("MILENA_BOOTSTRAP={bootstrap}"),
            version: version.map_or_else(|| "unknown".to_owned(), |version| version.to_string()),
            ask: version.map_or(Ask::Everything, KafkaVersion::sign_of_life),
            address: bootstrap.clone(),
            bootstrap,
            _recorder: None,
            engine: Engine::External,
        }
    }

    /// The address for clients, `127.0.0.1:port`; constant over restarts.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The broker's version, as "4.3.1". "unknown" for a broker at `MILENA_BOOTSTRAP` if `MILENA_KAFKA_VERSION` does
    /// not state it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How this broker was found or started, for a person: "container apache/kafka:4.3.1", "JVM ..".
    pub fn how(&self) -> &str {
        &self.how
    }

    /// The folder in which the broker keeps its logs, one folder per partition with the segments in it. `None` unless
    /// the broker is a JVM that this process started. A running broker writes there at any time.
    pub fn log_dir(&self) -> Option<PathBuf> {
        match &self.engine {
            Engine::Jvm(node) => Some(node.log_dir()),
            Engine::External => None,
            #[cfg(feature = "containers")]
            Engine::Container(_) => None,
        }
    }

    /// True if this process started the broker, so that it can be killed, paused and restarted.
    pub fn is_ours(&self) -> bool {
        !matches!(self.engine, Engine::External)
    }

    /// Kills the broker without any shutdown (SIGKILL). Its data stays for [`Kafka::restart`].
    ///
    /// # Errors
    /// [`KafkaErrorKind::NotOurs`] for a broker at `MILENA_BOOTSTRAP`; else what the system or the engine answered.
    ///
    /// # Cancellation
    /// The kill is carried out all the same.
    pub async fn kill9(&self) -> Result<(), KafkaError> {
        match &self.engine {
            Engine::External => Err(KafkaError::not_ours("kill9")),
            Engine::Jvm(node) => node.kill9().await,
            #[cfg(feature = "containers")]
            Engine::Container(container) => container.kill9().await,
        }
    }

    /// Stops the broker in good order (SIGTERM, 30 s at most, then SIGKILL). Its data stays for [`Kafka::restart`].
    ///
    /// # Errors
    /// As [`Kafka::kill9`].
    ///
    /// # Cancellation
    /// The broker may be left running; call again.
    pub async fn stop(&self) -> Result<(), KafkaError> {
        match &self.engine {
            Engine::External => Err(KafkaError::not_ours("stop")),
            Engine::Jvm(node) => node.stop().await,
            #[cfg(feature = "containers")]
            Engine::Container(container) => container.stop().await,
        }
    }

    /// Starts the broker again on the same address and data, stopping it in good order first if it runs. Returns when
    /// it answers requests and counts itself as alive.
    ///
    /// # Errors
    /// As [`Kafka::kill9`], and [`KafkaErrorKind::Start`] with the end of its log if it doesn't come up in 120 s.
    ///
    /// # Cancellation
    /// The broker may be stopped or starting; call again.
    pub async fn restart(&self) -> Result<(), KafkaError> {
        match &self.engine {
            Engine::External => return Err(KafkaError::not_ours("restart")),
            Engine::Jvm(node) => {
                node.stop().await?;
                node.launch().await?;
            }
            #[cfg(feature = "containers")]
            Engine::Container(container) => container.restart().await?,
        }
        self.wait_ready().await
    }

    /// Freezes the broker: connections stay open and nothing is answered, as with a long garbage collection.
    ///
    /// # Errors
    /// As [`Kafka::kill9`].
    ///
    /// # Cancellation
    /// The broker may be frozen or not.
    pub async fn pause(&self) -> Result<(), KafkaError> {
        match &self.engine {
            Engine::External => Err(KafkaError::not_ours("pause")),
            Engine::Jvm(node) => node.signal("STOP").await,
            #[cfg(feature = "containers")]
            Engine::Container(container) => container.pause(true).await,
        }
    }

    /// Ends [`Kafka::pause`].
    ///
    /// # Errors
    /// As [`Kafka::kill9`].
    ///
    /// # Cancellation
    /// The broker may be frozen or not.
    pub async fn unpause(&self) -> Result<(), KafkaError> {
        match &self.engine {
            Engine::External => Err(KafkaError::not_ours("unpause")),
            Engine::Jvm(node) => node.signal("CONT").await,
            #[cfg(feature = "containers")]
            Engine::Container(container) => container.pause(false).await,
        }
    }

    async fn wait_ready(&self) -> Result<(), KafkaError> {
        let started = tokio::time::Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if probe::live_brokers(&self.address, self.ask).await.is_ok_and(|count| count > 0) {
                return Ok(());
            }
            match &self.engine {
                Engine::External => {}
                Engine::Jvm(node) => node.check_alive().await?,
                #[cfg(feature = "containers")]
                Engine::Container(container) => container.check_alive().await?,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let seconds = START_TIMEOUT.as_secs();
        let log = match &self.engine {
            Engine::External => String::new(),
            Engine::Jvm(node) => node.log_tail(),
            #[cfg(feature = "containers")]
            Engine::Container(container) => container.log_tail().await,
        };
        Err(KafkaError::new(
            KafkaErrorKind::Start,
            format!("{}: no answer from {} in {seconds} s\n{log}", self.how, self.bootstrap),
        ))
    }
}
