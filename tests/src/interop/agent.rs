//! Agents: processes that write and read on behalf of an implementation.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use milena::Isolation;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::matrix::Case;
use super::script::Log;

/// How long an agent may take for one command.
const PATIENCE: Duration = Duration::from_secs(120);

/// An implementation of Kafka's protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Implementation {
    /// This one.
    Milena,
    /// Kafka's own Java client.
    Java,
    /// The C client, through its Python binding.
    Librdkafka,
}

impl Implementation {
    /// Its name in tables and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milena => "milena",
            Self::Java => "Java",
            Self::Librdkafka => "librdkafka",
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A running agent. Dropping it ends the process.
#[derive(Debug)]
pub struct Agent {
    implementation: Implementation,
    version: String,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Agent {
    /// Starts an agent and waits until it takes commands. Its standard error goes to the file `log`.
    ///
    /// # Errors
    /// Why it did not start.
    pub async fn start(
        implementation: Implementation,
        mut command: Command,
        bootstrap: &str,
        log: &Path,
    ) -> Result<Self, String> {
        let errors = std::fs::File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        command.arg(bootstrap).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{implementation}: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{implementation}: no pipes"));
        };
        let output = BufReader::with_capacity(1 << 16, output).lines();
        let mut agent = Self { implementation, version: String::new(), input, output, _child: child };
        let ready = agent.line().await?;
        let about: Option<Value> =
            ready.strip_prefix("ready ").and_then(|about| serde_json::from_str(about).ok());
        let version = about.as_ref().and_then(|about| about.get("version")).and_then(Value::as_str);
        agent.version = version.ok_or_else(|| format!("{implementation} begins with {ready:?}"))?.to_owned();
        Ok(agent)
    }

    /// Whose agent it is.
    pub fn implementation(&self) -> Implementation {
        self.implementation
    }

    /// The version of the implementation.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a script against a topic.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn write(
        &mut self,
        topic: &str,
        case: &Case,
        idempotent: bool,
        script: &Path,
    ) -> Result<(), String> {
        let command = json!({
            "topic": topic,
            "codec": case.codec.name(),
            "level": case.level,
            "idempotent": idempotent,
            "script": script,
        });
        self.command(&format!("write {command}\n"), |_| {}).await
    }

    /// Reads a topic to the ends of the log, and returns the lines printed, by partition.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn read(
        &mut self,
        topic: &str,
        isolation: Isolation,
        log: &Log,
    ) -> Result<Vec<Vec<String>>, String> {
        let isolation = match isolation {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        };
        let command = json!({ "topic": topic, "isolation": isolation, "ends": log.ends });
        let mut partitions = vec![Vec::new(); log.ends.len()];
        let mut strays = Vec::new();
        let sort = |line: String| {
            let number = line.strip_prefix("{\"partition\":").and_then(|rest| rest.split(',').next());
            let place = number.and_then(|number| number.parse::<usize>().ok());
            match place.and_then(|place| partitions.get_mut(place)) {
                Some(lines) => lines.push(line),
                None => strays.push(line),
            }
        };
        self.command(&format!("read {command}\n"), sort).await?;
        match strays.first() {
            Some(stray) => Err(format!("printed {stray}")),
            None => Ok(partitions),
        }
    }

    async fn command(&mut self, command: &str, mut each: impl FnMut(String)) -> Result<(), String> {
        let written = self.input.write_all(command.as_bytes()).await;
        written.map_err(|error| format!("{} is gone: {error}", self.implementation))?;
        loop {
            let line = self.line().await?;
            if line == "done" {
                return Ok(());
            }
            match line.strip_prefix("failed ") {
                Some(reason) => return Err(reason.to_owned()),
                None => each(line),
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        let name = self.implementation;
        match timeout(PATIENCE, self.output.next_line()).await {
            Err(_) => Err(format!("{name} says nothing for {PATIENCE:?}")),
            Ok(Err(error)) => Err(format!("{name}: {error}")),
            Ok(Ok(None)) => Err(format!("{name} has ended")),
            Ok(Ok(Some(line))) => Ok(line),
        }
    }
}
