//! Which broker to look for and how to set it up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::capture::Recorder;

use super::certificates::Certificates;
use super::error::{KafkaError, KafkaErrorKind};
use super::jvm::{ClusterState, ExtraListener};
use super::settings::{self, Properties};
use super::version::{KafkaVersion, NEWEST};
use super::zookeeper::ZooKeeper;
use super::{Engine, Kafka, jvm};

/// Which ways of starting a broker are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    /// A container if that works, else a JVM.
    #[default]
    Any,
    /// A container only.
    Container,
    /// A JVM with Kafka's jars only.
    Jvm,
}

/// What a test wants of its broker.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    version: KafkaVersion,
    stated_version: bool,
    route: Route,
    bootstrap: Option<String>,
    properties: Properties,
    heap_mib: u32,
    recordings: Option<PathBuf>,
    /// For a secured broker; the JVM route only.
    pub(super) listeners: Vec<ExtraListener>,
    pub(super) jvm_options: Vec<String>,
    pub(super) format_arguments: Vec<String>,
}

impl KafkaOptions {
    /// The defaults with what the environment says: `MILENA_KAFKA_VERSION` (default [`NEWEST`]), `MILENA_KAFKA_ROUTE`
    /// (`any`, `container`, `jvm`; default any) and `MILENA_BOOTSTRAP` (default none).
    ///
    /// # Errors
    /// [`KafkaErrorKind::Misuse`] for a value that makes no sense.
    pub fn from_env() -> Result<Self, KafkaError> {
        let stated = variable("MILENA_KAFKA_VERSION");
        let route = match variable("MILENA_KAFKA_ROUTE").as_deref() {
            None | Some("any") => Route::Any,
            Some("container") => Route::Container,
            Some("jvm") => Route::Jvm,
            Some(other) => {
                let message = format!("MILENA_KAFKA_ROUTE={other:?}: expected any, container or jvm");
                return Err(KafkaError::new(KafkaErrorKind::Misuse, message));
            }
        };
        Ok(Self {
            version: stated.as_deref().unwrap_or(NEWEST).parse()?,
            stated_version: stated.is_some(),
            route,
            bootstrap: variable("MILENA_BOOTSTRAP"),
            properties: Vec::new(),
            heap_mib: 512,
            recordings: None,
            listeners: Vec::new(),
            jvm_options: Vec::new(),
            format_arguments: Vec::new(),
        })
    }

    /// The version to start, as "3.9.1".
    ///
    /// # Errors
    /// [`KafkaErrorKind::Misuse`] if that is no version.
    pub fn version(mut self, version: &str) -> Result<Self, KafkaError> {
        self.version = version.parse()?;
        self.stated_version = true;
        Ok(self)
    }

    /// Restricts the ways of starting the broker.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// Sets a broker property, over the defaults of tests. A broker at `MILENA_BOOTSTRAP` can't take it, so
    /// [`KafkaOptions::obtain`] then starts one.
    #[must_use]
    pub fn property(mut self, name: &str, value: impl ToString) -> Self {
        self.properties.push((name.to_owned(), value.to_string()));
        self
    }

    /// Makes the broker look for timed-out transactions every 500 ms instead of every 10 s
    /// (`transaction.abort.timed.out.transaction.cleanup.interval.ms`).
    #[must_use]
    pub fn quick_transaction_timeouts(self) -> Self {
        self.property("transaction.abort.timed.out.transaction.cleanup.interval.ms", 500)
    }

    /// The broker's largest heap in MiB. Default 512.
    #[must_use]
    pub fn heap_mib(mut self, heap_mib: u32) -> Self {
        self.heap_mib = heap_mib;
        self
    }

    /// Adds a listener with TLS by the certificate of `broker`, for clients that trust `ca.pem`. Returns its address, too. Only the JVM route has
    /// it.
    ///
    /// # Errors
    /// [`KafkaErrorKind::System`] without a free port.
    pub fn tls_listener(mut self, certificates: &Certificates) -> Result<(Self, String), KafkaError> {
        let port = settings::free_port()?;
        self.listeners.push(ExtraListener { name: "SSL", protocol: "SSL", port });
        let store = certificates.file("broker.p12").display().to_string();
        let options = self
            .route(Route::Jvm)
            .property("ssl.keystore.type", "PKCS12")
            .property("ssl.keystore.location", store)
            .property("ssl.keystore.password", Certificates::PASSWORD)
            .property("ssl.key.password", Certificates::PASSWORD);
        Ok((options, format!("localhost:{port}")))
    }

    /// Puts a [`Recorder`] before the broker that keeps everything clients say and hear in this folder. Only the JVM route
    /// does that. A broker with a ZooKeeper is recorded talking to itself, too.
    #[must_use]
    pub fn record_to(mut self, folder: &Path) -> Self {
        self.recordings = Some(folder.to_owned());
        self
    }

    /// The broker at `MILENA_BOOTSTRAP` if there is one and no property was asked for, else [`KafkaOptions::start`].
    ///
    /// # Errors
    /// As [`Kafka::obtain`].
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn obtain(self) -> Result<Kafka, KafkaError> {
        let Some(bootstrap) = self.bootstrap.clone().filter(|_| self.is_plain()) else {
            return self.start().await;
        };
        let kafka = Kafka::external(bootstrap, self.stated_version.then_some(self.version));
        kafka.wait_ready().await?;
        Ok(kafka)
    }

    /// Starts a broker for the caller alone and waits until it answers.
    ///
    /// # Errors
    /// As [`Kafka::obtain`].
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start(self) -> Result<Kafka, KafkaError> {
        let mut reasons = Vec::new();
        if self.route != Route::Jvm {
            match self.start_container().await {
                Ok(kafka) => return Ok(kafka),
                Err(error) if error.kind() == KafkaErrorKind::Absent => {
                    reasons.push(format!("container: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        if self.route != Route::Container {
            match self.start_jvm().await {
                Ok(kafka) => return Ok(kafka),
                Err(error) if error.kind() == KafkaErrorKind::Absent => reasons.push(format!("JVM: {error}")),
                Err(error) => return Err(error),
            }
        }
        let message = format!(
            "no real Kafka {} on this machine.\n  MILENA_BOOTSTRAP: {}\n  {}",
            self.version,
            if self.bootstrap.is_some() { "set, but this test needs a broker of its own" } else { "not set" },
            reasons.join("\n  ")
        );
        Err(KafkaError::new(KafkaErrorKind::Absent, message))
    }

    /// Whether any broker will do, as it is.
    fn is_plain(&self) -> bool {
        self.properties.is_empty() && self.recordings.is_none()
    }

    pub(super) fn kafka_version(&self) -> KafkaVersion {
        self.version
    }

    pub(super) fn properties(&self) -> &Properties {
        &self.properties
    }

    pub(super) fn largest_heap_mib(&self) -> u32 {
        self.heap_mib
    }

    #[cfg(feature = "containers")]
    async fn start_container(&self) -> Result<Kafka, KafkaError> {
        if !self.version.has_container_image() {
            let message = format!("there is no image apache/kafka:{}", self.version);
            return Err(KafkaError::new(KafkaErrorKind::Absent, message));
        }
        if self.recordings.is_some() {
            return Err(KafkaError::new(KafkaErrorKind::Absent, "a container is not recorded"));
        }
        let port = settings::free_port()?;
        let mut properties = settings::common(1);
        properties.extend(self.properties.iter().cloned());
        let container =
            super::container::Container::start(self.version, port, &properties, self.heap_mib).await?;
        let kafka = Kafka {
            bootstrap: format!("127.0.0.1:{port}"),
            version: self.version.to_string(),
            how: format!("container apache/kafka:{}", self.version),
            ask: self.version.sign_of_life(),
            address: format!("127.0.0.1:{port}"),
            _recorder: None,
            engine: Engine::Container(container),
        };
        kafka.wait_ready().await?;
        Ok(kafka)
    }

    #[cfg(not(feature = "containers"))]
    async fn start_container(&self) -> Result<Kafka, KafkaError> {
        Err(KafkaError::new(KafkaErrorKind::Absent, "built without the feature `containers`"))
    }

    async fn start_jvm(&self) -> Result<Kafka, KafkaError> {
        let jars = self.version.jars()?;
        let port = settings::free_port()?;
        let cluster = if self.version.runs_kraft() {
            let controller_port = settings::free_port()?;
            ClusterState::Kraft { controller_port, voters: format!("1@127.0.0.1:{controller_port}") }
        } else {
            ClusterState::ZooKeeper(Arc::new(ZooKeeper::start(self.version, &jars).await?))
        };
        let recorder = self
            .recordings
            .as_ref()
            .map(|folder| Recorder::start(SocketAddr::from(([127, 0, 0, 1], port)), folder))
            .transpose()
            .map_err(|error| KafkaError::system("the recording proxy", error))?;
        let advertised_port = recorder.as_ref().map_or(port, |recorder| recorder.address().port());
        let mut properties = settings::common(1);
        properties.extend(self.properties.iter().cloned());
        let spec = jvm::NodeSpec {
            version: self.version,
            jars,
            node_id: 1,
            port,
            advertised_port,
            cluster,
            properties,
            heap_mib: self.heap_mib,
            listeners: self.listeners.clone(),
            jvm_options: self.jvm_options.clone(),
            format_arguments: self.format_arguments.clone(),
        };
        let node = jvm::Node::create(spec)?;
        node.launch().await?;
        let kafka = Kafka {
            bootstrap: format!("127.0.0.1:{advertised_port}"),
            address: format!("127.0.0.1:{port}"),
            _recorder: recorder,
            version: self.version.to_string(),
            how: format!("JVM with the jars of Kafka {}", self.version),
            ask: self.version.sign_of_life(),
            engine: Engine::Jvm(Box::new(node)),
        };
        kafka.wait_ready().await?;
        Ok(kafka)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
