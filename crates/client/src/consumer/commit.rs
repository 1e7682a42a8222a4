//! Commits of a consumer to its group, one at a time.
//!
//! Offsets that are to be committed wait in one map, where a later one takes the place of an earlier one. One task sends what is in the
//! map, waits for the answer, and sends what came meanwhile: so commits overtake nobody, and many small ones become few.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use milena_protocol::types::TopicPartition;
use tokio::sync::{Notify, oneshot};

use crate::error::{Error, Result};
use crate::group::{CommittedOffset, Group};

/// What waits to be committed.
#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    offsets: BTreeMap<TopicPartition, CommittedOffset>,
    replies: Vec<oneshot::Sender<Result<()>>>,
}

impl Commits {
    /// Commits these, after what was given before.
    pub(super) fn push(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
    ) -> oneshot::Receiver<Result<()>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.offsets.extend(offsets);
        // Who does not wait any more takes no room.
        waiting.replies.retain(|reply| !reply.is_closed());
        waiting.replies.push(reply);
        drop(waiting);
        self.news.notify_one();
        answer
    }

    /// Sends what waits, for ever.
    pub(super) async fn run(self: Arc<Self>, group: Group) {
        loop {
            self.news.notified().await;
            let Waiting { offsets, replies } =
                std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let offsets: Vec<_> = offsets.into_iter().collect();
            let result = group.commit(&offsets).await;
            if let Err(error) = &result {
                tracing::warn!(%error, "offsets were not committed");
            }
            for reply in replies {
                let _ = reply.send(result.clone());
            }
        }
    }
}

/// The outcome of a commit that was begun; dropped, the commit goes on.
#[derive(Debug)]
pub struct CommitTicket(pub(super) oneshot::Receiver<Result<()>>);

impl CommitTicket {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// As [`Group::commit`]; [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the consumer was dropped before.
    ///
    /// # Cancellation
    /// The commit goes on.
    pub async fn done(self) -> Result<()> {
        self.0
            .await
            .unwrap_or_else(|_| Err(Error::closed("the consumer was dropped before the commit was done")))
    }
}
