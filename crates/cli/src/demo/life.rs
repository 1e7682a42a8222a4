//! One life of the job: a child process, what it reports, and its end.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// Lines of a child's standard error that are kept for the message when it fails.
const KEPT_LINES: usize = 30;

/// What a life tells its parent, one JSON object a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The job runs.
    Started { restored_checkpoint: Option<u64>, committed: u64, aborted: u64 },
    /// A checkpoint is being taken: its barrier has reached the sink.
    Barrier,
    /// A checkpoint is complete.
    Checkpoint { id: u64, watermark: Option<i64>, records: u64 },
    /// The job is at its end.
    Done { records: u64, checkpoints: u64 },
}

/// What every life of one demo has in common.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) bootstrap: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) prefix: String,
    pub(crate) group: String,
    pub(crate) checkpoint_dir: std::path::PathBuf,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) timeout: Duration,
}

/// A running child.
pub(crate) struct Life {
    child: Child,
    events: tokio::io::Lines<BufReader<ChildStdout>>,
    errors: Arc<Mutex<VecDeque<String>>>,
    drain: JoinHandle<()>,
}

impl Life {
    /// Starts a life; it dies with this value.
    pub(crate) fn start(
        program: &Path,
        work: &Work,
        parallelism: u32,
        until_end: bool,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("demo-worker")
            .args(["--bootstrap", &work.bootstrap, "--from", &work.from, "--to", &work.to])
            .args(["--prefix", &work.prefix, "--group", &work.group])
            .arg("--checkpoint-dir")
            .arg(&work.checkpoint_dir)
            .args(["--checkpoint-interval", &format!("{}ms", work.checkpoint_interval.as_millis())])
            .args(["--parallelism", &parallelism.to_string()])
            .args(["--timeout", &format!("{}ms", work.timeout.as_millis())])
            .args(until_end.then_some("--until-end"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C in a terminal is for the parent, which then ends its child.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().context("cannot start the job's process")?;
        let stdout = child.stdout.take().context("the job's process has no standard output")?;
        let stderr = child.stderr.take().context("the job's process has no standard error")?;
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&errors);
        let drain = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        Ok(Self { child, events: BufReader::new(stdout).lines(), errors, drain })
    }

    /// The next thing the child says; `None` when it has ended.
    ///
    /// # Cancellation
    /// Safe: a line that was read in part is kept.
    pub(crate) async fn event(&mut self) -> anyhow::Result<Option<Event>> {
        let Some(line) = self.events.next_line().await.context("the job's standard output")? else {
            return Ok(None);
        };
        serde_json::from_str(&line).map(Some).with_context(|| format!("the job said something else: {line}"))
    }

    /// Ends the child with SIGKILL and gives what it had said by then. An error if it had ended before by itself.
    pub(crate) async fn kill(mut self) -> anyhow::Result<Vec<Event>> {
        if let Some(status) = self.child.try_wait()? {
            return Err(self.failure(status).await);
        }
        self.child.kill().await.context("cannot kill the job's process")?;
        let mut events = Vec::new();
        // The last line may be cut.
        while let Ok(Some(event)) = self.event().await {
            events.push(event);
        }
        Ok(events)
    }

    /// Waits for the child to end well.
    pub(crate) async fn wait(mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await?;
        if status.success() { Ok(()) } else { Err(self.failure(status).await) }
    }

    /// The last line of the child's standard error.
    pub(crate) fn last_words(&self) -> String {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.back().map_or_else(|| "nothing".to_owned(), Clone::clone)
    }

    async fn failure(self, status: ExitStatus) -> anyhow::Error {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.drain).await;
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let said = errors.iter().map(String::as_str).collect::<Vec<_>>().join("\n    ");
        anyhow::anyhow!("the job ended by itself ({status}) and said:\n    {said}")
    }
}
