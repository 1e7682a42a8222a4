//! Real brokers on this machine, together a cluster, any of which a test may kill.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{KafkaError, KafkaErrorKind};
use super::jvm::{ClusterState, Node, NodeSpec};
use super::options::KafkaOptions;
use super::zookeeper::ZooKeeper;
use super::{START_TIMEOUT, probe, settings};

/// A cluster of JVM brokers with replicated internal topics. Dropping it ends the brokers and removes their data.
///
/// Broker ids count from 1. Topics get `min(3, nodes)` replicas by default and `min.insync.replicas` 2 with three or
/// more nodes, so that one dead broker stops nothing.
#[derive(Debug)]
pub struct KafkaCluster {
    nodes: Vec<(u16, Node)>,
    version: String,
}

impl KafkaCluster {
    /// Starts `nodes` brokers of the version that `MILENA_KAFKA_VERSION` names (else the newest), from jars, and waits
    /// until all know each other. Three take about 1 GiB of memory and 10 to 20 s.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] without jars or Java, [`KafkaErrorKind::Start`] if a broker does not come up.
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start(nodes: usize) -> Result<Self, KafkaError> {
        KafkaOptions::from_env()?.start_cluster(nodes).await
    }

    pub(crate) async fn from_specs(specs: Vec<NodeSpec>, version: String) -> Result<Self, KafkaError> {
        let nodes = specs
            .into_iter()
            .map(|spec| Ok((spec.port, Node::create(spec)?)))
            .collect::<Result<Vec<_>, KafkaError>>()?;
        let cluster = Self { nodes, version };
        for (_, node) in &cluster.nodes {
            node.launch().await?;
        }
        cluster.wait_for_members(cluster.nodes.len()).await?;
        Ok(cluster)
    }

    /// The addresses of all brokers, for clients: "127.0.0.1:1,127.0.0.1:2,..".
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        addresses.join(",")
    }

    /// The brokers' version, as "4.3.1".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Kills a broker without any shutdown (SIGKILL). `broker` is its id, from 1.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Misuse`] for an id that is not there; else what the system answered.
    ///
    /// # Cancellation
    /// The kill is carried out all the same.
    pub async fn kill9(&self, broker: i32) -> Result<(), KafkaError> {
        self.node(broker)?.1.kill9().await
    }

    /// Starts a broker again and waits until it counts itself as alive among the others.
    ///
    /// # Errors
    /// As [`KafkaCluster::kill9`], and [`KafkaErrorKind::Start`] if it does not come up.
    ///
    /// # Cancellation
    /// The broker may be stopped or starting; call again.
    pub async fn restart(&self, broker: i32) -> Result<(), KafkaError> {
        let (port, node) = self.node(broker)?;
        node.stop().await?;
        node.launch().await?;
        wait_for(*port, node, 1).await
    }

    /// Freezes a broker (SIGSTOP): its connections stay open and nothing is answered.
    ///
    /// # Errors
    /// As [`KafkaCluster::kill9`].
    ///
    /// # Cancellation
    /// The broker may be frozen or not.
    pub async fn pause(&self, broker: i32) -> Result<(), KafkaError> {
        self.node(broker)?.1.signal("STOP").await
    }

    /// Ends [`KafkaCluster::pause`].
    ///
    /// # Errors
    /// As [`KafkaCluster::kill9`].
    ///
    /// # Cancellation
    /// The broker may be frozen or not.
    pub async fn unpause(&self, broker: i32) -> Result<(), KafkaError> {
        self.node(broker)?.1.signal("CONT").await
    }

    /// Waits until every broker lists `count` live brokers.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Start`] after 120 s or when a broker's process ended.
    ///
    /// # Cancellation
    /// Nothing changes.
    pub async fn wait_for_members(&self, count: usize) -> Result<(), KafkaError> {
        for (port, node) in &self.nodes {
            wait_for(*port, node, count).await?;
        }
        Ok(())
    }

    fn node(&self, broker: i32) -> Result<&(u16, Node), KafkaError> {
        let index = usize::try_from(broker).ok().and_then(|id| id.checked_sub(1));
        index.and_then(|index| self.nodes.get(index)).ok_or_else(|| {
            let message = format!("there is no broker {broker}: ids go from 1 to {}", self.nodes.len());
            KafkaError::new(KafkaErrorKind::Misuse, message)
        })
    }
}

impl KafkaOptions {
    /// Starts `nodes` brokers as [`KafkaCluster::start`] does, with these options.
    ///
    /// # Errors
    /// As [`KafkaCluster::start`].
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start_cluster(self, nodes: usize) -> Result<KafkaCluster, KafkaError> {
        let (version, jars) = (self.kafka_version(), self.kafka_version().jars()?);
        let mut ports = Vec::with_capacity(nodes);
        for _ in 0..nodes {
            ports.push((settings::free_port()?, settings::free_port()?));
        }
        let voters: Vec<String> =
            (1..).zip(&ports).map(|(id, (_, port))| format!("{id}@127.0.0.1:{port}")).collect();
        let zookeeper = match version.runs_kraft() {
            true => None,
            false => Some(Arc::new(ZooKeeper::start(version, &jars).await?)),
        };
        let specs = (1..).zip(&ports).map(|(node_id, (port, controller_port))| {
            let mut properties = settings::common(nodes);
            properties.push(("broker.rack".to_owned(), format!("rack-{node_id}")));
            properties.extend(self.properties().iter().cloned());
            NodeSpec {
                version,
                jars: jars.clone(),
                node_id,
                port: *port,
                advertised_port: *port,
                cluster: match &zookeeper {
                    None => {
                        ClusterState::Kraft { controller_port: *controller_port, voters: voters.join(",") }
                    }
                    Some(zookeeper) => ClusterState::ZooKeeper(Arc::clone(zookeeper)),
                },
                properties,
                heap_mib: self.largest_heap_mib().min(384),
                listeners: Vec::new(),
                jvm_options: Vec::new(),
                format_arguments: Vec::new(),
            }
        });
        KafkaCluster::from_specs(specs.collect(), version.to_string()).await
    }
}

async fn wait_for(port: u16, node: &Node, count: usize) -> Result<(), KafkaError> {
    let address = format!("127.0.0.1:{port}");
    let started = Instant::now();
    while started.elapsed() < START_TIMEOUT {
        let live = probe::live_brokers(&address, node.sign_of_life()).await.unwrap_or(0);
        if usize::try_from(live).is_ok_and(|live| live >= count) {
            return Ok(());
        }
        node.check_alive().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let message = format!(
        "{address} lists fewer than {count} live brokers after {START_TIMEOUT:?}\n{}",
        node.log_tail()
    );
    Err(KafkaError::new(KafkaErrorKind::Start, message))
}
