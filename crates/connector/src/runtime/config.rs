//! How a job runs.

use std::time::Duration;

use super::restart::Restart;
use crate::checkpoint::{CheckpointId, Storage};
use crate::sink::{Delivery, SinkSettings};
use crate::{Error, ErrorKind, Result};

/// Where a job starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Restore {
    /// At the newest readable checkpoint, or afresh if there is none. The default.
    #[default]
    Latest,
    /// At this checkpoint.
    Checkpoint(CheckpointId),
    /// At the newest checkpoint, or savepoint, of another storage. As long as it is configured each start goes back there, except those
    /// that the job makes by itself after a checkpoint of its own.
    Savepoint(Storage),
    /// Afresh, whatever checkpoints there are. Prepared transactions of earlier runs are aborted like other leftovers.
    Fresh,
}

/// How checkpoints are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointConfig {
    /// Where they are written to: a directory, or another [`Storage`], one job's own. `None` (the default): barriers are taken, records
    /// flushed and offsets committed to the group, but nothing is stored, and a restarted job begins at its start mode. Exactly once
    /// needs one.
    pub storage: Option<Storage>,
    /// From one to the next. Default 10 s. With exactly once it is also how long output stays invisible.
    pub interval: Duration,
    /// After this long a checkpoint is given up and the next one tried. Default 60 s.
    pub timeout: Duration,
    /// How many given up in a row the job survives. Default 2.
    pub tolerated_timeouts: u32,
    /// How many checkpoints are kept. Default 3, at least 1.
    pub retain: usize,
    /// Where the job starts.
    pub restore: Restore,
    /// How many checkpoints may be in flight, from their barriers to the disk. Default 1, as in Flink. With more, barriers
    /// keep their pace while a slow store or a slow subtask is waited for; each prepares transactions of its own.
    pub max_concurrent: usize,
    /// Whether state of functions that the job does not have any more is dropped at a restore. Default no: the job does not start.
    pub drop_unknown_state: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            storage: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            tolerated_timeouts: 2,
            retain: 3,
            restore: Restore::Latest,
            max_concurrent: 1,
            drop_unknown_state: false,
        }
    }
}

impl CheckpointConfig {
    /// The defaults with a storage: a path is a directory.
    #[must_use]
    pub fn new(storage: impl Into<Storage>) -> Self {
        Self { storage: Some(storage.into()), ..Self::default() }
    }
}

/// How a job runs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobConfig {
    /// Its name: in checkpoints, logs and the lock of the checkpoint directory. Default `job`.
    pub name: String,
    /// How many subtasks. Default 1. It may change from run to run.
    pub parallelism: u32,
    /// How checkpoints are taken.
    pub checkpoint: CheckpointConfig,
    /// How long a stop, or the end of a bounded source, may take from the moment it is due until `run` returns. Default 60 s.
    pub stop_timeout: Duration,
    /// Whether it starts again by itself.
    pub restart: Restart,
}

impl Default for JobConfig {
    fn default() -> Self {
        Self {
            name: String::from("job"),
            parallelism: 1,
            checkpoint: CheckpointConfig::default(),
            stop_timeout: Duration::from_secs(60),
            restart: Restart::default(),
        }
    }
}

/// More subtasks than this in one process is a mistake in the configuration.
const MOST_SUBTASKS: u32 = 10_000;

impl JobConfig {
    /// The defaults with a name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Checks the configuration together with the sink's.
    ///
    /// # Errors
    /// `Misuse` for a parallelism of 0 or above 10 000, an empty name, an interval, time-out or number of concurrent
    /// checkpoints of 0, exactly once without a directory, and a
    /// transaction timeout that does not cover the checkpoint interval.
    pub fn validate(&self, sink: &SinkSettings) -> Result<()> {
        let misuse = |text: String| Err(Error::new(ErrorKind::Misuse, text));
        let checkpoint = &self.checkpoint;
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return misuse(String::from("a job needs a name without control characters"));
        }
        if !(1..=MOST_SUBTASKS).contains(&self.parallelism) {
            return misuse(format!(
                "a parallelism of {} is not between 1 and {MOST_SUBTASKS}",
                self.parallelism
            ));
        }
        if checkpoint.interval.is_zero() || checkpoint.timeout.is_zero() {
            return misuse(String::from("the checkpoint interval and time-out must be more than zero"));
        }
        if checkpoint.max_concurrent == 0 {
            return misuse(String::from("at least one checkpoint must be allowed in flight"));
        }
        if sink.delivery != Delivery::ExactlyOnce {
            return Ok(());
        }
        if checkpoint.storage.is_none() {
            let text = "exactly once needs a checkpoint directory: after a crash, only it can tell which transactions to commit";
            return misuse(String::from(text));
        }
        if sink.transaction_timeout <= checkpoint.interval {
            return misuse(format!(
                "the transaction timeout ({} s) does not cover the checkpoint interval ({} s): every transaction would be aborted \
                 before its commit; shorten the interval or raise `transaction_timeout`",
                sink.transaction_timeout.as_secs_f64(),
                checkpoint.interval.as_secs_f64()
            ));
        }
        if sink.transaction_timeout < checkpoint.interval.saturating_mul(3) {
            tracing::warn!(
                timeout = ?sink.transaction_timeout, interval = ?checkpoint.interval,
                "the transaction timeout leaves little time for a slow checkpoint or a restart"
            );
        }
        Ok(())
    }
}
