//! Savepoints: checkpoints that the user asks for and keeps.
//!
//! A savepoint is a checkpoint of the job like any other, and the same bytes once more in a storage of the user's choice, which
//! the job never touches again. A job may be started from it with any parallelism, as long as the records are in the log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::checkpoint::storage::write_savepoint;
use crate::checkpoint::{CheckpointId, Storage};
use crate::{Error, ErrorKind, Result};

/// A savepoint that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Savepoint {
    /// The number of its checkpoint.
    pub checkpoint: CheckpointId,
    /// Where it is.
    pub place: String,
}

/// A savepoint that was asked for.
#[derive(Debug)]
pub(super) struct Request {
    to: Storage,
    /// Whether it is the last checkpoint's.
    last: bool,
    answer: oneshot::Sender<Result<Savepoint>>,
}

impl Request {
    /// Writes the savepoint and tells who asked. That it fails does not fail the job.
    pub(super) async fn write(self, job: &str, id: CheckpointId, body: &[u8]) {
        let written = write_savepoint(&self.to, job, id, body).await;
        if let Err(error) = &written {
            tracing::warn!(%error, place = self.to.place(), "a savepoint can't be written");
        }
        // Whoever asked may have gone.
        let _ = self.answer.send(written.map(|()| Savepoint { checkpoint: id, place: self.to.place() }));
    }
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Request>,
    /// Nobody will take any more.
    over: bool,
}

/// The savepoints that were asked for and not begun.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: Mutex<Waiting>,
    asked: Notify,
}

impl Requests {
    /// Asks for one; the answer comes when it is durable, or when it is clear that it will not be.
    pub(super) fn ask(
        &self,
        to: Storage,
        last: bool,
    ) -> impl Future<Output = Result<Savepoint>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting();
        if !waiting.over {
            waiting.queue.push_back(Request { to, last, answer });
        }
        drop(waiting);
        self.asked.notify_one();
        async move {
            answered.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Closed, "the job ended before the savepoint was taken"))
            })
        }
    }

    /// Those that the checkpoint to be taken now serves: `last` says whether it is the job's last.
    pub(super) fn take(&self, last: bool) -> Vec<Request> {
        let mut waiting = self.waiting();
        let (now, later) =
            waiting.queue.drain(..).partition::<VecDeque<_>, _>(|request: &Request| last || !request.last);
        waiting.queue = later;
        now.into()
    }

    /// The job is over: who still waits is told so.
    pub(super) fn end(&self) {
        *self.waiting() = Waiting { queue: VecDeque::new(), over: true };
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one is asked for.
    ///
    /// # Cancellation
    /// Safe.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }
}
