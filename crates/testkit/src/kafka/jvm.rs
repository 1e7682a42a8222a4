//! A broker process: a JVM on this machine with the data in a folder of its own, in KRaft mode or with a ZooKeeper.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{KafkaError, KafkaErrorKind};
use super::probe::Ask;
use super::process::JavaProcess;
use super::settings::{CLUSTER_ID, Properties, to_file};
use super::version::KafkaVersion;
use super::zookeeper::{SESSION_TIMEOUT_MS, ZooKeeper};

/// What one broker process is to be.
#[derive(Debug, Clone)]
pub(crate) struct NodeSpec {
    pub(crate) version: KafkaVersion,
    pub(crate) jars: PathBuf,
    pub(crate) node_id: u32,
    pub(crate) port: u16,
    /// The port that clients are told: the broker's own, or that of a proxy.
    pub(crate) advertised_port: u16,
    pub(crate) cluster: ClusterState,
    pub(crate) properties: Properties,
    pub(crate) heap_mib: u32,
    /// Listeners beside the plaintext one.
    pub(crate) listeners: Vec<ExtraListener>,
    /// More options of the JVM.
    pub(crate) jvm_options: Vec<String>,
    /// More arguments for the formatting of the data folder.
    pub(crate) format_arguments: Vec<String>,
}

/// A listener beside the plaintext one, on localhost.
#[derive(Debug, Clone)]
pub(crate) struct ExtraListener {
    pub(crate) name: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
}

/// Where brokers keep what they know of their cluster.
#[derive(Debug, Clone)]
pub(crate) enum ClusterState {
    /// In the brokers themselves: each is a controller too.
    Kraft { controller_port: u16, voters: String },
    /// In a ZooKeeper, which lives as long as a broker that uses it.
    ZooKeeper(Arc<ZooKeeper>),
}

/// A broker process that may run or not, and its data.
#[derive(Debug)]
pub(crate) struct Node {
    // The order of the fields is the order of their end: the broker before its ZooKeeper.
    process: JavaProcess,
    spec: NodeSpec,
}

impl Node {
    /// Lays out the node's folder. Nothing runs yet.
    pub(crate) fn create(spec: NodeSpec) -> Result<Self, KafkaError> {
        let process = JavaProcess::create(format!("Kafka {}", spec.version))?;
        let node = Self { process, spec };
        fs::write(node.configuration(), to_file(&node.properties()))
            .map_err(|error| KafkaError::system("the broker's configuration", error))?;
        Ok(node)
    }

    fn configuration(&self) -> PathBuf {
        self.process.folder().join("server.properties")
    }

    /// The folder of the logs of topics: one folder per partition, with the segments in it.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.process.folder().join("data")
    }

    fn properties(&self) -> Properties {
        let NodeSpec { node_id, port, advertised_port, .. } = &self.spec;
        let pairs = match &self.spec.cluster {
            ClusterState::Kraft { controller_port, voters } => vec![
                ("process.roles", "broker,controller".to_owned()),
                ("node.id", node_id.to_string()),
                ("controller.quorum.voters", voters.clone()),
                ("controller.listener.names", "CONTROLLER".to_owned()),
                ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
                ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
                (
                    "listeners",
                    format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"),
                ),
                ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{advertised_port}")),
            ],
            ClusterState::ZooKeeper(server) => {
                let mut pairs = vec![
                    ("broker.id", node_id.to_string()),
                    ("zookeeper.connect", server.address()),
                    ("zookeeper.connection.timeout.ms", "20000".to_owned()),
                    ("zookeeper.session.timeout.ms", SESSION_TIMEOUT_MS.to_string()),
                ];
                if self.spec.version.knows_listeners() {
                    pairs.push(("listeners", format!("PLAINTEXT://127.0.0.1:{port}")));
                    pairs.push(("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{advertised_port}")));
                } else {
                    pairs.push(("port", port.to_string()));
                    pairs.push(("host.name", "127.0.0.1".to_owned()));
                    pairs.push(("advertised.port", advertised_port.to_string()));
                }
                pairs
            }
        };
        let mut properties: Properties =
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.add_listeners(&mut properties);
        properties.push(("log.dirs".to_owned(), self.log_dir().display().to_string()));
        properties.extend(self.spec.properties.iter().cloned());
        properties
    }

    /// Writes the further listeners into the lists that hold the plaintext one.
    fn add_listeners(&self, properties: &mut Properties) {
        if self.spec.listeners.is_empty() {
            return;
        }
        let map = "listener.security.protocol.map";
        if !properties.iter().any(|(name, _)| name == map) {
            properties.push((map.to_owned(), "PLAINTEXT:PLAINTEXT".to_owned()));
            properties.push(("inter.broker.listener.name".to_owned(), "PLAINTEXT".to_owned()));
        }
        for (name, value) in properties.iter_mut() {
            for ExtraListener { name: listener, protocol, port } in &self.spec.listeners {
                match name.as_str() {
                    "listeners" => value.push_str(&format!(",{listener}://127.0.0.1:{port}")),
                    "advertised.listeners" => value.push_str(&format!(",{listener}://localhost:{port}")),
                    name if name == map => value.push_str(&format!(",{listener}:{protocol}")),
                    _ => {}
                }
            }
        }
    }

    /// Prepares the data folder if it is new and starts the process. Does not wait for the broker to answer.
    ///
    /// # Cancellation
    /// A half-formatted folder is formatted again by the next call.
    pub(crate) async fn launch(&self) -> Result<(), KafkaError> {
        match &self.spec.cluster {
            ClusterState::Kraft { .. } if self.log_dir().join("meta.properties").exists() => {}
            ClusterState::Kraft { .. } => self.format().await?,
            ClusterState::ZooKeeper(server) => server.wait_unregistered(self.spec.node_id).await?,
        }
        let mut java = self.process.java(&self.spec.jars, self.spec.heap_mib);
        java.args(&self.spec.jvm_options)
            .args(std::env::var("MILENA_KAFKA_JVM_OPTS").unwrap_or_default().split_whitespace())
            .arg("kafka.Kafka")
            .arg(self.configuration());
        self.process.launch(java).await
    }

    async fn format(&self) -> Result<(), KafkaError> {
        let _ = fs::remove_dir_all(self.log_dir());
        let output = tokio::process::Command::from(self.process.java(&self.spec.jars, 128))
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(self.configuration())
            .args(&self.spec.format_arguments)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| KafkaError::system("java", error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let message = format!("Kafka {}: the data folder can't be formatted\n{said}", self.spec.version);
        Err(KafkaError::new(KafkaErrorKind::Start, message))
    }

    /// Stores SCRAM users in the ZooKeeper, as versions before KRaft have them; the password of each is its name and `-secret`.
    ///
    /// # Cancellation
    /// Some users may be there.
    pub(crate) async fn add_scram_users(
        &self,
        users: &[&str],
        mechanisms: &[&str],
    ) -> Result<(), KafkaError> {
        let ClusterState::ZooKeeper(server) = &self.spec.cluster else { return Ok(()) };
        for user in users {
            let config: Vec<String> =
                mechanisms.iter().map(|mechanism| format!("{mechanism}=[password={user}-secret]")).collect();
            let output = tokio::process::Command::from(self.process.java(&self.spec.jars, 128))
                .args(["kafka.admin.ConfigCommand", "--zookeeper", &server.address(), "--alter"])
                .args(["--entity-type", "users", "--entity-name", user, "--add-config", &config.join(",")])
                .kill_on_drop(true)
                .output()
                .await
                .map_err(|error| KafkaError::system("java", error))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
                let message = format!("Kafka {}: no SCRAM user {user}\n{said}", self.spec.version);
                return Err(KafkaError::new(KafkaErrorKind::Start, message));
            }
        }
        Ok(())
    }

    /// How to ask the broker whether it lives.
    pub(crate) fn sign_of_life(&self) -> Ask {
        self.spec.version.sign_of_life()
    }

    /// The last lines of the broker's log.
    pub(crate) fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Fails if the process is not there, with the end of its log.
    pub(crate) async fn check_alive(&self) -> Result<(), KafkaError> {
        self.process.check_alive().await
    }

    /// SIGKILL; returns when the process is gone. Nothing happens if it is not there.
    pub(crate) async fn kill9(&self) -> Result<(), KafkaError> {
        self.process.kill9().await
    }

    /// SIGTERM, and SIGKILL after 30 s; returns when the process is gone.
    ///
    /// # Cancellation
    /// The process may be stopping; call again.
    pub(crate) async fn stop(&self) -> Result<(), KafkaError> {
        self.process.stop().await
    }

    /// Sends a signal by its name without "SIG".
    pub(crate) async fn signal(&self, signal: &str) -> Result<(), KafkaError> {
        self.process.signal(signal).await
    }
}
