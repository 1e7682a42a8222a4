//! The parts of the sink's recovery and commits that every host needs: see [`crate::contract`].

use milena::Client;

use super::commits::{Commits, Settled};
use super::control::{Halt, JobControl};
use super::recovery;
use crate::checkpoint::{CheckpointId, CheckpointState};
use crate::sink::committable::Committable;
use crate::sink::committer::Committer;
use crate::sink::naming::NamePool;
use crate::sink::{OutcomeCounts, SinkSettings};
use crate::{Error, ErrorKind, Result};

/// What the start of a sink did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Transactions of the restored checkpoint that are committed.
    pub committed: u64,
    /// Those that are lost or not accounted for, where the policy is to go on.
    pub lost: u64,
    /// Leftovers that were aborted.
    pub aborted: u64,
}

/// The start of a sink, before any writer of it is opened: commits what the restored checkpoint promised, then aborts what other lives left
/// open under the sink's names.
///
/// # Errors
/// `Misuse` if the brokers do not allow the transaction timeout, `DataLoss` if a promised transaction is lost and the policy is to fail,
/// `Client` if transactions can't be listed or ended.
///
/// # Cancellation
/// Call it again: what is settled stays so.
pub async fn recover(
    client: &Client,
    sink: &SinkSettings,
    restored: Option<&CheckpointState>,
    parallelism: u32,
) -> Result<Recovered> {
    recovery::check_timeout(client, sink).await?;
    let (control, mut counts) = (JobControl::new(), OutcomeCounts::default());
    let recovered = recovery::recover(client, sink, restored, parallelism, &control, &mut counts).await;
    recovered.map_err(error_of)
}

/// The names of a life's transactions: one pool for all writers. `first_checkpoint` is the number of the life's first checkpoint.
#[must_use]
pub fn names(sink: &SinkSettings, parallelism: u32, first_checkpoint: CheckpointId) -> NamePool {
    NamePool::new(recovery::grammar(sink, parallelism), first_checkpoint)
}

/// Commits what a complete checkpoint promised, verifies it by the sink's limits, and frees the names. Where a transaction's outcome is
/// no commit, the sink's policy decides. Returns how many are lost, where the policy is to go on.
///
/// # Errors
/// `DataLoss` or `Client` where the policy is to fail: the life must end then, and the next one settles what is left.
///
/// # Cancellation
/// Call it again with the same committables, in this life or, by [`recover`], in the next.
pub async fn commit(
    client: &Client,
    sink: &SinkSettings,
    names: &NamePool,
    committables: impl IntoIterator<Item = Committable>,
) -> Result<u64> {
    let committer = Committer::new(client.clone(), sink.commit);
    let mut commits = Commits::new(committer, JobControl::new(), sink.on_loss);
    let mut newest = 0;
    for committable in committables {
        newest = newest.max(committable.checkpoint);
        commits.insert(committable);
    }
    commits.on_complete(newest);
    let mut lost = 0;
    while commits.is_running() {
        lost += u64::from(commits.next(names).await.map_err(error_of)? == Settled::Lost);
    }
    Ok(lost)
}

fn error_of(halt: Halt) -> Error {
    match halt {
        Halt::Error(error) => error,
        Halt::Crash(step) => Error::new(ErrorKind::Closed, format!("crashed by a hook at {step:?}")),
    }
}
