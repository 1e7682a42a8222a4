//! A ZooKeeper server from the jars of a Kafka version, for brokers that keep their cluster there.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::error::{KafkaError, KafkaErrorKind};
use super::process::JavaProcess;
use super::version::KafkaVersion;
use super::{START_TIMEOUT, settings};

/// For how long a dead broker counts as alive. ZooKeeper takes no less than two of its ticks.
pub(crate) const SESSION_TIMEOUT_MS: u32 = 2_000;

/// Milliseconds.
const TICK: u32 = 500;

/// A running ZooKeeper server, alone in its ensemble. It ends and its data go with this value.
#[derive(Debug)]
pub(crate) struct ZooKeeper {
    process: JavaProcess,
    port: u16,
}

impl ZooKeeper {
    /// Starts a server and waits until it answers.
    ///
    /// # Cancellation
    /// The server is ended.
    pub(crate) async fn start(version: KafkaVersion, jars: &Path) -> Result<Self, KafkaError> {
        let port = settings::free_port()?;
        let process = JavaProcess::create(format!("ZooKeeper of Kafka {version}"))?;
        let folder = process.folder();
        let file = folder.join("zookeeper.properties");
        let text = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\ntickTime={TICK}\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\n",
            folder.join("data").display()
        );
        fs::write(&file, text).map_err(|error| KafkaError::system("ZooKeeper's configuration", error))?;
        let mut java = process.java(jars, 128);
        // ZooKeeper 3.4 would register log4j's own beans, which its successor reload4j doesn't have.
        java.arg("-Dzookeeper.jmx.log4j.disable=true")
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(&file);
        process.launch(java).await?;
        let server = Self { process, port };
        server.wait_for("ruok", "an answer", |answer| answer.starts_with("imok")).await?;
        Ok(server)
    }

    /// The address for brokers.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Waits until no living session holds the registration of a broker.
    ///
    /// A killed broker stays registered until its session expires, and most versions refuse to start meanwhile.
    pub(crate) async fn wait_unregistered(&self, broker: u32) -> Result<(), KafkaError> {
        let path = format!("/brokers/ids/{broker}");
        let is_registered = |dump: &str| dump.lines().any(|line| line.trim() == path);
        self.wait_for("dump", "the end of the broker's session", |dump| !is_registered(dump)).await
    }

    async fn wait_for(
        &self,
        word: &str,
        what: &str,
        is_done: impl Fn(&str) -> bool,
    ) -> Result<(), KafkaError> {
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if self.ask(word).await.is_ok_and(|answer| !answer.is_empty() && is_done(&answer)) {
                return Ok(());
            }
            self.process.check_alive().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let message =
            format!("ZooKeeper: no sign of {what} in {START_TIMEOUT:?}\n{}", self.process.log_tail());
        Err(KafkaError::new(KafkaErrorKind::Start, message))
    }

    /// What the server says to one of its four-letter commands.
    async fn ask(&self, word: &str) -> io::Result<String> {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(word.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        tokio::time::timeout(Duration::from_secs(3), ask)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
