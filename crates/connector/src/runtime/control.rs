//! The handle on a running job: stop it, watch it, and, in tests, crash it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::report::JobMetrics;
use super::savepoint::{Requests, Savepoint};
use crate::Result as JobResult;
use crate::checkpoint::Storage;

/// A moment in the life of a checkpoint, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A subtask is about to flush its writer at a barrier.
    BeforeFlush,
    /// The writer is flushed, its transaction not yet prepared.
    AfterFlush,
    /// The transaction is prepared, the snapshot not yet sent to the coordinator.
    AfterPrepare,
    /// The coordinator has all snapshots and is about to write the checkpoint.
    BeforeCheckpointWrite,
    /// The checkpoint is on the disk; nothing is committed yet.
    AfterCheckpointWrite,
    /// A transaction's commit is about to be sent.
    BeforeCommit,
    /// A commit was answered; its outcome is not yet known to the job.
    AfterCommitSent,
    /// A transaction is known to be committed.
    AfterCommit,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 8] = [
        Self::BeforeFlush,
        Self::AfterFlush,
        Self::AfterPrepare,
        Self::BeforeCheckpointWrite,
        Self::AfterCheckpointWrite,
        Self::BeforeCommit,
        Self::AfterCommitSent,
        Self::AfterCommit,
    ];
}

/// What a hook wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// End the job here as if the process were killed: nothing is flushed, aborted, committed or cleaned up.
    Crash,
}

/// Watches a job's steps, and may crash it at any. For tests of recovery.
pub trait JobHooks: Send + Sync {
    /// A step is reached, by a subtask or, with `None`, by the coordinator. Must not block.
    fn on_step(&self, step: Step, subtask: Option<u32>) -> Verdict;
}

impl<F> JobHooks for F
where
    F: Fn(Step, Option<u32>) -> Verdict + Send + Sync,
{
    fn on_step(&self, step: Step, subtask: Option<u32>) -> Verdict {
        self(step, subtask)
    }
}

/// The handle on a job. Clones control the same job. A control is for one run: after a stop, make a new one.
#[derive(Clone)]
pub struct JobControl {
    inner: Arc<Inner>,
}

struct Inner {
    stop: watch::Sender<bool>,
    cancel: watch::Sender<bool>,
    drain: AtomicBool,
    savepoints: Requests,
    metrics: watch::Sender<JobMetrics>,
    hooks: Option<Arc<dyn JobHooks>>,
}

impl Default for JobControl {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for JobControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobControl")
            .field("stopping", &self.is_stopping())
            .field("hooks", &self.inner.hooks.is_some())
            .finish()
    }
}

impl JobControl {
    /// A control without hooks.
    #[must_use]
    pub fn new() -> Self {
        Self::build(None)
    }

    /// A control with hooks at each step.
    #[must_use]
    pub fn with_hooks(hooks: impl JobHooks + 'static) -> Self {
        Self::build(Some(Arc::new(hooks)))
    }

    fn build(hooks: Option<Arc<dyn JobHooks>>) -> Self {
        let inner = Inner {
            stop: watch::Sender::new(false),
            cancel: watch::Sender::new(false),
            drain: AtomicBool::new(false),
            savepoints: Requests::default(),
            metrics: watch::Sender::new(JobMetrics::default()),
            hooks,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Asks the job to stop: it takes a last checkpoint, commits its transactions, and then `run` returns. May be called before
    /// the job runs, and more than once.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Asks for a savepoint: a checkpoint is taken as soon as there is room for one, and written to `to` as well, where the job never
    /// touches it again. A path is a directory. The future may be dropped; the savepoint is taken all the same.
    ///
    /// # Errors
    /// `Io` or `Misuse` if it can't be written, which does not trouble the job; `Closed` if the job ended, or failed, before.
    ///
    /// # Cancellation
    /// Safe.
    pub fn savepoint(&self, to: impl Into<Storage>) -> BoxFuture<'static, JobResult<Savepoint>> {
        Box::pin(self.inner.savepoints.ask(to.into(), false))
    }

    /// Stops the job, as [`stop`](Self::stop), with its last checkpoint as a savepoint.
    ///
    /// # Errors
    /// As [`savepoint`](Self::savepoint).
    ///
    /// # Cancellation
    /// Safe.
    pub fn stop_with_savepoint(&self, to: impl Into<Storage>) -> BoxFuture<'static, JobResult<Savepoint>> {
        let savepoint = self.inner.savepoints.ask(to.into(), true);
        self.stop();
        Box::pin(savepoint)
    }

    /// Asks for the last checkpoint as a savepoint, whatever makes it the last.
    pub(crate) fn savepoint_at_the_end(
        &self,
        to: impl Into<Storage>,
    ) -> BoxFuture<'static, JobResult<Savepoint>> {
        Box::pin(self.inner.savepoints.ask(to.into(), true))
    }

    pub(super) fn savepoints(&self) -> &Requests {
        &self.inner.savepoints
    }

    /// Asks the job to stop for good: it reads no more, its functions see the largest watermark for every partition, send on what they
    /// still have and are emptied, and then it stops as by [`stop`](Self::stop). A job that goes on from there begins with empty
    /// functions; use `stop` if it is to go on as if nothing had been (Flink: stop with a savepoint and `--drain`).
    pub fn drain(&self) {
        self.inner.drain.store(true, Ordering::Release);
        self.stop();
    }

    /// Whether a drain was asked for.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.drain.load(Ordering::Acquire)
    }

    /// Asks the job to end at once, without a checkpoint: what is open, and what is prepared and promised by no checkpoint, is aborted, so that
    /// readers need not wait for the next start. `run` returns an error of kind `Closed`.
    pub fn cancel(&self) {
        self.inner.cancel.send_replace(true);
    }

    /// Whether the job is to end at once.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.inner.cancel.borrow()
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.inner.stop.borrow()
    }

    /// The job's newest numbers, updated a few times a second and at each checkpoint.
    #[must_use]
    pub fn metrics(&self) -> watch::Receiver<JobMetrics> {
        self.inner.metrics.subscribe()
    }

    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.inner.stop.subscribe()
    }

    pub(super) fn cancelled(&self) -> watch::Receiver<bool> {
        self.inner.cancel.subscribe()
    }

    pub(super) fn publish(&self, metrics: JobMetrics) {
        self.inner.metrics.send_replace(metrics);
    }

    pub(super) fn reach(&self, step: Step, subtask: Option<u32>) -> Result<(), Halt> {
        match &self.inner.hooks {
            Some(hooks) if hooks.on_step(step, subtask) == Verdict::Crash => Err(Halt::Crash(step)),
            _ => Ok(()),
        }
    }
}

/// Why a part of the job ended early.
#[derive(Debug)]
pub(super) enum Halt {
    /// A hook asked for a crash.
    Crash(Step),
    /// Something failed.
    Error(crate::Error),
}

impl From<crate::Error> for Halt {
    fn from(error: crate::Error) -> Self {
        Self::Error(error)
    }
}
