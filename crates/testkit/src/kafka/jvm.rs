//! A broker process: a JVM on this machine, in KRaft mode, with the data in a folder of its own.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::{KafkaError, KafkaErrorKind};
use super::guard::Guard;
use super::settings::{CLUSTER_ID, Properties, to_file};
use super::version::KafkaVersion;

/// How long a broker may take to stop in good order before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Kafka before 4.0 is silent without a log4j configuration.
const LOG4J: &str = "log4j.rootLogger=INFO,C\n\
    log4j.appender.C=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.C.layout=org.apache.log4j.PatternLayout\n\
    log4j.appender.C.layout.ConversionPattern=[%d] %p %m (%c)%n\n";

/// What one broker-and-controller process is to be.
#[derive(Debug, Clone)]
pub(crate) struct NodeSpec {
    pub(crate) version: KafkaVersion,
    pub(crate) jars: PathBuf,
    pub(crate) node_id: u32,
    pub(crate) port: u16,
    pub(crate) controller_port: u16,
    pub(crate) voters: String,
    pub(crate) properties: Properties,
    pub(crate) heap_mib: u32,
}

/// A broker process that may run or not, and its data.
#[derive(Debug)]
pub(crate) struct Node {
    spec: NodeSpec,
    folder: PathBuf,
    process: Mutex<Process>,
}

#[derive(Debug)]
struct Process {
    child: Option<Child>,
    guard: Guard,
}

impl Node {
    /// Lays out the node's folder. Nothing runs yet.
    pub(crate) fn create(spec: NodeSpec) -> Result<Self, KafkaError> {
        if !spec.version.runs_kraft() {
            let message =
                format!("Kafka {} needs ZooKeeper; the JVM route starts 3.3 and later", spec.version);
            return Err(KafkaError::new(KafkaErrorKind::Absent, message));
        }
        check_java()?;
        let folder =
            new_folder().map_err(|error| KafkaError::system("a folder for the broker's data", error))?;
        let guard = Guard::of_process(&folder).map_err(|error| KafkaError::system("sh", error))?;
        let node = Self { spec, folder, process: Mutex::new(Process { child: None, guard }) };
        node.write_files().map_err(|error| KafkaError::system("the broker's configuration", error))?;
        Ok(node)
    }

    fn write_files(&self) -> io::Result<()> {
        let NodeSpec { node_id, port, controller_port, voters, .. } = &self.spec;
        let mut properties: Properties = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", node_id.to_string()),
            ("controller.quorum.voters", voters.clone()),
            ("listeners", format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}")),
            ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
            ("log.dirs", self.folder.join("data").display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        properties.extend(self.spec.properties.iter().cloned());
        fs::write(self.folder.join("server.properties"), to_file(&properties))?;
        fs::write(self.folder.join("log4j.properties"), LOG4J)
    }

    fn java(&self, heap_mib: u32) -> Command {
        let mut command = Command::new(java_path());
        command
            .arg(format!("-Xmx{heap_mib}m"))
            .args(["-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(format!("-Dlog4j.configuration=file:{}", self.folder.join("log4j.properties").display()))
            .arg("-cp")
            .arg(self.spec.jars.join("*"))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Formats the data folder if it is new and starts the process. Does not wait for the broker to answer.
    ///
    /// # Cancellation
    /// A half-formatted folder is formatted again by the next call.
    pub(crate) async fn launch(&self) -> Result<(), KafkaError> {
        let mut process = self.process.lock().await;
        if !self.folder.join("data/meta.properties").exists() {
            self.format().await?;
        }
        let log = self.open_log().map_err(|error| KafkaError::system("the broker's log", error))?;
        let errors = log.try_clone().map_err(|error| KafkaError::system("the broker's log", error))?;
        let child = self
            .java(self.spec.heap_mib)
            .args(std::env::var("MILENA_KAFKA_JVM_OPTS").unwrap_or_default().split_whitespace())
            .arg("kafka.Kafka")
            .arg(self.folder.join("server.properties"))
            .stdout(log)
            .stderr(errors)
            // Out of the terminal's group: Ctrl-C must not stop the broker before the test has ended.
            .process_group(0)
            .spawn()
            .map_err(|error| KafkaError::system("java", error))?;
        let watched = process.guard.watch(Some(child.id()));
        process.child = Some(child);
        watched.map_err(|error| KafkaError::system("the clean-up process", error))
    }

    async fn format(&self) -> Result<(), KafkaError> {
        let _ = fs::remove_dir_all(self.folder.join("data"));
        let output = tokio::process::Command::from(self.java(128))
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(self.folder.join("server.properties"))
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

    fn open_log(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    /// The last lines of the broker's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Fails if the process is not there, with the end of its log.
    pub(crate) async fn check_alive(&self) -> Result<(), KafkaError> {
        let mut process = self.process.lock().await;
        let state = match &mut process.child {
            None => Some("it is stopped".to_owned()),
            Some(child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(status.to_string()),
                Err(error) => Some(error.to_string()),
            },
        };
        let Some(state) = state else { return Ok(()) };
        let message = format!("Kafka {} ended ({state}):\n{}", self.spec.version, self.log_tail());
        Err(KafkaError::new(KafkaErrorKind::Start, message))
    }

    /// SIGKILL; returns when the process is gone. Nothing happens if it is not there.
    pub(crate) async fn kill9(&self) -> Result<(), KafkaError> {
        self.process.lock().await.kill()
    }

    /// SIGTERM, and SIGKILL after [`STOP_TIMEOUT`]; returns when the process is gone.
    ///
    /// # Cancellation
    /// The process may be stopping; call again.
    pub(crate) async fn stop(&self) -> Result<(), KafkaError> {
        let mut process = self.process.lock().await;
        let Some(child) = &mut process.child else { return Ok(()) };
        // A frozen process would act on the signal only when it is thawed.
        for signal in ["TERM", "CONT"] {
            send_signal(signal, child.id()).await?;
        }
        let started = Instant::now();
        while started.elapsed() < STOP_TIMEOUT {
            if child.try_wait().map_err(|error| KafkaError::system("wait", error))?.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        process.kill()
    }

    /// Sends a signal by its name without "SIG".
    pub(crate) async fn signal(&self, signal: &str) -> Result<(), KafkaError> {
        let process = self.process.lock().await;
        match &process.child {
            Some(child) => send_signal(signal, child.id()).await,
            None => Err(KafkaError::system(signal, "the broker is stopped")),
        }
    }
}

impl Process {
    fn kill(&mut self) -> Result<(), KafkaError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        let told = self.guard.watch(None);
        killed.map_err(|error| KafkaError::system("kill -9", error))?;
        told.map_err(|error| KafkaError::system("the clean-up process", error))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // An error leaves the process to the guard, which is dropped next and kills what it watches.
        let _ = self.process.get_mut().kill();
    }
}

async fn send_signal(signal: &str, process: u32) -> Result<(), KafkaError> {
    // The shell's own kill: the program of that name is in a package that minimal systems lack.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &format!("kill -{signal} {process}")])
        .stderr(Stdio::null())
        .status()
        .await
        .map_err(|error| KafkaError::system("sh", error))?;
    if status.success() { Ok(()) } else { Err(KafkaError::system(signal, format!("no process {process}"))) }
}

fn java_path() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin/java"),
        None => PathBuf::from("java"),
    }
}

fn check_java() -> Result<(), KafkaError> {
    let java = java_path();
    let found = Command::new(&java).arg("-version").stdin(Stdio::null()).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let message = format!("{} does not run: install a JDK 17 or set JAVA_HOME", java.display());
    Err(KafkaError::new(KafkaErrorKind::Absent, message))
}

fn new_folder() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("milena-kafka-{}-{number}", std::process::id()));
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}
