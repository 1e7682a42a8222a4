//! A Java process with a folder of its own: started, signalled, killed, and cleaned up after.

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

/// How long a process may take to stop in good order before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Kafka before 4.0 is silent without a log4j configuration.
const LOG4J: &str = "log4j.rootLogger=INFO,C\n\
    log4j.appender.C=org.apache.log4j.ConsoleAppender\n\
    log4j.appender.C.layout=org.apache.log4j.PatternLayout\n\
    log4j.appender.C.layout.ConversionPattern=[%d] %p %m (%c)%n\n";

/// A process that may run or not, and its folder. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub(crate) struct JavaProcess {
    /// What runs here, for messages: "Kafka 4.3.1".
    name: String,
    folder: PathBuf,
    process: Mutex<Process>,
}

#[derive(Debug)]
struct Process {
    child: Option<Child>,
    guard: Guard,
}

impl JavaProcess {
    /// Makes the folder. Nothing runs yet.
    pub(crate) fn create(name: String) -> Result<Self, KafkaError> {
        check_java()?;
        let folder = new_folder().map_err(|error| KafkaError::system("a folder for data", error))?;
        let guard = Guard::of_process(&folder).map_err(|error| KafkaError::system("sh", error))?;
        fs::write(folder.join("log4j.properties"), LOG4J)
            .map_err(|error| KafkaError::system("log4j.properties", error))?;
        Ok(Self { name, folder, process: Mutex::new(Process { child: None, guard }) })
    }

    /// Where configuration, log and data are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A call of Java in the folder with all jars of another one.
    pub(crate) fn java(&self, jars: &Path, heap_mib: u32) -> Command {
        let mut command = Command::new(java_path());
        command
            .arg(format!("-Xmx{heap_mib}m"))
            .args(["-Xms64m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(format!("-Dlog4j.configuration=file:{}", self.folder.join("log4j.properties").display()))
            .arg("-cp")
            .arg(jars.join("*"))
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Starts the process. Does not wait for anything.
    pub(crate) async fn launch(&self, mut command: Command) -> Result<(), KafkaError> {
        let mut process = self.process.lock().await;
        let log = self.open_log().map_err(|error| KafkaError::system("the log", error))?;
        let errors = log.try_clone().map_err(|error| KafkaError::system("the log", error))?;
        let child = command
            .stdout(log)
            .stderr(errors)
            // Out of the terminal's group: Ctrl-C must not stop the process before the test has ended.
            .process_group(0)
            .spawn()
            .map_err(|error| KafkaError::system("java", error))?;
        let watched = process.guard.watch(Some(child.id()));
        process.child = Some(child);
        watched.map_err(|error| KafkaError::system("the clean-up process", error))
    }

    fn open_log(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("process.log")
    }

    /// All of the process's output.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The last lines of the process's output.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Fails if the process is not there, with the end of its output.
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
        let message = format!("{} ended ({state}):\n{}", self.name, self.log_tail());
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
            None => Err(KafkaError::system(signal, format!("{} is stopped", self.name))),
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

impl Drop for JavaProcess {
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

/// A new folder under the system's for temporary files.
pub(crate) fn new_folder() -> io::Result<PathBuf> {
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
