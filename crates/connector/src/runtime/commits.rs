//! The prepared transactions of a job, from their snapshot to their commit.

use tokio::task::JoinSet;

use super::control::{Halt, JobControl, Step};
use crate::checkpoint::CheckpointId;
use crate::sink::committable::Committable;
use crate::sink::committer::{Committer, failure};
use crate::sink::naming::NamePool;
use crate::sink::outcome::Outcome;
use crate::sink::pending::PendingCommits;
use crate::sink::policy::{Judgement, LossPolicy, OutcomeCounts};
use crate::{Error, ErrorKind};

/// Commits on the way at once, at most.
const AT_ONCE: usize = 32;

/// What a commit came to, when it is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Committed,
    /// Not known to be committed, and the policy is to go on.
    Lost,
}

/// Keeps each prepared transaction until its outcome is known. A transaction belongs to every checkpoint written until then.
pub(super) struct Commits {
    committer: Committer,
    control: JobControl,
    policy: LossPolicy,
    counts: OutcomeCounts,
    pending: PendingCommits,
    running: JoinSet<Result<Ended, Halt>>,
}

/// How a commit ended: the outcomes on the way, the last one counting.
struct Ended {
    committable: Committable,
    outcome: Outcome,
    /// It hung, and its missing markers were written.
    hung: Option<Outcome>,
}

impl Commits {
    pub(super) fn new(committer: Committer, control: JobControl, policy: LossPolicy) -> Self {
        let (pending, running) = (PendingCommits::new(), JoinSet::new());
        Self { committer, control, policy, counts: OutcomeCounts::default(), pending, running }
    }

    /// Takes a transaction that a subtask prepared.
    pub(super) fn insert(&mut self, committable: Committable) {
        self.pending.insert(committable);
    }

    /// Takes over what was learned about a transaction since. One that was settled in the meantime stays settled.
    pub(super) fn update(&mut self, committable: Committable) {
        self.pending.update(committable);
    }

    /// What a checkpoint must hold: see [`PendingCommits::unsettled`].
    pub(super) fn unsettled(&self, upto: CheckpointId) -> Vec<Committable> {
        self.pending.unsettled(upto)
    }

    /// All transactions whose outcome is not known.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Committable> {
        self.pending.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// A checkpoint is complete: it and everything before it may be committed.
    pub(super) fn on_complete(&mut self, checkpoint: CheckpointId) {
        self.pending.complete(checkpoint);
        self.start_due();
    }

    /// Starts what is due, oldest first, as far as there is room.
    fn start_due(&mut self) {
        while self.running.len() < AT_ONCE {
            let Some(committable) = self.pending.take_due() else { return };
            let (committer, control, policy) = (self.committer.clone(), self.control.clone(), self.policy);
            self.running.spawn(async move { settle(committer, control, policy, committable).await });
        }
    }

    /// Whether a commit is on the way.
    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// The next outcome. Waits for ever when nothing is on the way.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub(super) async fn next(&mut self, names: &NamePool) -> Result<Settled, Halt> {
        let joined = match self.running.join_next().await {
            Some(joined) => joined,
            None => std::future::pending().await,
        };
        let Ended { committable, outcome, hung } = joined.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Closed, "a commit ended unexpectedly").with_source(error).into())
        })?;
        self.counts.count(&outcome);
        if let Some(hung) = hung {
            self.counts.count(&hung);
            self.counts.finished += u64::from(matches!(outcome, Outcome::Committed { .. }));
        }
        let settled = self.judge(&committable, &outcome)?;
        self.pending.settle(&committable.identity());
        let id = &committable.transaction.transactional_id;
        if let Some(name) = names.grammar().parse(id) {
            names.release(name);
        }
        self.start_due();
        self.control.reach(Step::AfterCommit, Some(committable.subtask))?;
        Ok(settled)
    }

    fn judge(&self, committable: &Committable, outcome: &Outcome) -> Result<Settled, Halt> {
        let Some(error) = failure(committable, outcome) else { return Ok(Settled::Committed) };
        match (self.policy.judge(outcome), outcome) {
            (Judgement::Fail | Judgement::Finish, _) => Err(error.into()),
            (_, Outcome::Unknown { decided: true, .. }) => {
                tracing::warn!(%error, "a commit could not be verified");
                Ok(Settled::Committed)
            }
            (Judgement::Committed | Judgement::GoOn, _) => {
                tracing::error!(%error, "going on without the records of a transaction, as configured");
                Ok(Settled::Lost)
            }
        }
    }

    /// How commits ended since this was last asked.
    pub(super) fn take_counts(&mut self) -> OutcomeCounts {
        std::mem::take(&mut self.counts)
    }

    /// Transactions that no complete checkpoint promises.
    pub(super) fn unpromised(&self) -> Vec<Committable> {
        self.pending.unpromised()
    }

    /// Ends everything on the way.
    pub(super) async fn shutdown(&mut self) {
        self.running.shutdown().await;
    }
}

/// Commits one transaction; if it hangs and the policy says so, writes what is missing and looks again.
async fn settle(
    committer: Committer,
    control: JobControl,
    policy: LossPolicy,
    committable: Committable,
) -> Result<Ended, Halt> {
    let subtask = Some(committable.subtask);
    control.reach(Step::BeforeCommit, subtask)?;
    let sent = || control.reach(Step::AfterCommitSent, subtask);
    let outcome = committer.commit(&committable, sent).await?;
    let Outcome::Hanging { open, .. } = &outcome else {
        return Ok(Ended { committable, outcome, hung: None });
    };
    if policy.judge(&outcome) != Judgement::Finish {
        return Ok(Ended { committable, outcome, hung: None });
    }
    tracing::warn!(transaction = %committable.identity(), ?open, "writing the missing commit markers");
    committer.finish(&committable.transaction, open).await?;
    let finished = committer.commit(&committable, sent).await?;
    Ok(Ended { committable, outcome: finished, hung: Some(outcome) })
}
