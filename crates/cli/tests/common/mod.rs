//! Running the command in tests.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part; a test that fails panics")]

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// No command of a test may last longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }

    /// The command's own message, without log lines.
    pub(crate) fn message(&self) -> &str {
        self.stderr.lines().rev().find_map(|line| line.strip_prefix("milena: ")).unwrap_or_default()
    }
}

/// The command, with pipes; it dies with its handle.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milena"));
    command
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(crate) async fn finish(child: Child) -> Ended {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.expect("the command did not end").unwrap();
    Ended {
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) async fn run(args: &[&str]) -> Ended {
    finish(command(args).spawn().unwrap()).await
}

pub(crate) async fn run_with_input(args: &[&str], input: &[u8]) -> Ended {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that ends before its input does closes the pipe.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    finish(child).await
}

/// Sends a signal by its name, such as `INT`.
pub(crate) async fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    let status = Command::new("kill").args([&format!("-{name}"), &id]).status().await.unwrap();
    assert!(status.success());
}

pub(crate) async fn broker(topics: &[(&str, i32)]) -> (EmbeddedBroker, String) {
    let topics = topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
    let broker = EmbeddedBroker::start(BrokerConfig { topics, ..BrokerConfig::default() }).await.unwrap();
    let bootstrap = broker.bootstrap();
    (broker, bootstrap)
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Numbers, a line each.
pub(crate) fn lines(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.map(|number| format!("{number}\n")).collect::<String>().into_bytes()
}

/// The values of a topic as a read-committed reader sees them, sorted.
pub(crate) async fn values(bootstrap: &str, topic: &str) -> Vec<String> {
    let mut values = run(&["consume", "-b", bootstrap, "-t", topic, "-e"]).await.expect(0).lines();
    values.sort_unstable();
    values
}

pub(crate) fn sorted(numbers: std::ops::Range<u32>, prefix: &str) -> Vec<String> {
    let mut values: Vec<String> = numbers.map(|number| format!("{prefix}{number}")).collect();
    values.sort_unstable();
    values
}
