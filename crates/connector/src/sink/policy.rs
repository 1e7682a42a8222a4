//! What to do about a transaction whose commit did not come to a good end, one policy for each outcome.
//!
//! | outcome | what is known | default |
//! |---|---|---|
//! | aborted | its records are lost | fail |
//! | partial | lost in some partitions | fail |
//! | hanging | decided, but readers are stuck in some partitions | fail |
//! | unknown | neither the coordinator nor the log can tell | fail |
//! | unseen | the coordinator said committed, and the records can't be looked at | go on |
//!
//! An outcome that nobody could tell yet is no case for a policy: the checkpoint keeps the transaction, and the job fails to try
//! again.

use serde::Serialize;

use super::outcome::Outcome;

/// What to do when a prepared transaction turns out to be lost, in part or in whole, or can't be accounted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnLoss {
    /// The job fails with an error that names topics, partitions and first offsets. The default.
    #[default]
    Fail,
    /// The loss is logged as an error and counted in the report, and the job goes on.
    Continue,
}

/// What to do when a transaction is decided and partitions still hold it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnHanging {
    /// The job fails with an error that names the partitions. The default.
    #[default]
    Fail,
    /// It is logged as an error and counted, and the job goes on; readers of committed records stay stuck.
    Continue,
    /// The missing commit markers are written (WriteTxnMarkers), which takes the right for CLUSTER_ACTION; only where the coordinator said
    /// committed and the leader still holds this very transaction open. If that fails, so does the job.
    Finish,
}

/// A policy for each outcome that is no commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossPolicy {
    /// The transaction was aborted. Default: fail.
    pub aborted: OnLoss,
    /// It is committed in some partitions and aborted in others. Default: fail.
    pub partial: OnLoss,
    /// Partitions hold it open although it is decided. Default: fail.
    pub hanging: OnHanging,
    /// Nobody can tell. Default: fail.
    pub unknown: OnLoss,
    /// The coordinator said committed, but the records can't be looked at any more, or may not be. Default: go on, with a warning.
    pub unseen: OnLoss,
}

impl Default for LossPolicy {
    fn default() -> Self {
        Self { unseen: OnLoss::Continue, ..Self::from(OnLoss::Fail) }
    }
}

impl From<OnLoss> for LossPolicy {
    /// The same for every outcome; what the coordinator called committed is believed either way.
    fn from(policy: OnLoss) -> Self {
        let hanging = match policy {
            OnLoss::Fail => OnHanging::Fail,
            OnLoss::Continue => OnHanging::Continue,
        };
        Self { aborted: policy, partial: policy, hanging, unknown: policy, unseen: OnLoss::Continue }
    }
}

/// What a policy says about an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is committed.
    Committed,
    /// It is not known to be committed, and the job goes on.
    GoOn,
    /// The missing markers are to be written.
    Finish,
    /// The job fails.
    Fail,
}

impl LossPolicy {
    /// What to do about an outcome.
    #[must_use]
    pub fn judge(&self, outcome: &Outcome) -> Judgement {
        let policy = match outcome {
            Outcome::Committed { .. } => return Judgement::Committed,
            Outcome::Unanswered { .. } => return Judgement::Fail,
            Outcome::Hanging { decided, .. } => {
                return match self.hanging {
                    OnHanging::Finish if *decided => Judgement::Finish,
                    OnHanging::Continue => Judgement::GoOn,
                    OnHanging::Finish | OnHanging::Fail => Judgement::Fail,
                };
            }
            Outcome::Aborted { .. } => self.aborted,
            Outcome::Partial { .. } => self.partial,
            Outcome::Unknown { decided: true, .. } => self.unseen,
            Outcome::Unknown { decided: false, .. } => self.unknown,
        };
        match policy {
            OnLoss::Fail => Judgement::Fail,
            OnLoss::Continue => Judgement::GoOn,
        }
    }
}

/// How commits ended, each outcome by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutcomeCounts {
    /// Committed, and seen in the log.
    pub committed: u64,
    /// The coordinator said committed, and verification is off.
    pub decided: u64,
    /// Aborted: lost.
    pub aborted: u64,
    /// Committed in some partitions, aborted in others.
    pub partial: u64,
    /// Decided, and held open by partitions.
    pub hanging: u64,
    /// Hanging ones that were then committed by markers of this job.
    pub finished: u64,
    /// Nobody can tell.
    pub unknown: u64,
    /// The coordinator said committed, and the records can't be looked at.
    pub unseen: u64,
    /// Nobody answered in time; the checkpoint keeps them.
    pub unanswered: u64,
}

impl OutcomeCounts {
    /// Counts one outcome.
    pub fn count(&mut self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Committed { verified: true } => &mut self.committed,
            Outcome::Committed { verified: false } => &mut self.decided,
            Outcome::Aborted { .. } => &mut self.aborted,
            Outcome::Partial { .. } => &mut self.partial,
            Outcome::Hanging { .. } => &mut self.hanging,
            Outcome::Unknown { decided: false, .. } => &mut self.unknown,
            Outcome::Unknown { decided: true, .. } => &mut self.unseen,
            Outcome::Unanswered { .. } => &mut self.unanswered,
        };
        *counter += 1;
    }

    /// Adds other counts.
    pub fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.decided += other.decided;
        self.aborted += other.aborted;
        self.partial += other.partial;
        self.hanging += other.hanging;
        self.finished += other.finished;
        self.unknown += other.unknown;
        self.unseen += other.unseen;
        self.unanswered += other.unanswered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let cause = String::new;
        vec![
            Outcome::Aborted { lost: Vec::new(), cause: cause() },
            Outcome::Partial { committed: Vec::new(), lost: Vec::new() },
            Outcome::Hanging { open: Vec::new(), decided: true },
            Outcome::Unknown { decided: false, cause: cause() },
        ]
    }

    #[test]
    fn nothing_but_a_commit_passes_by_default() {
        let policy = LossPolicy::default();
        for outcome in outcomes() {
            assert_eq!(policy.judge(&outcome), Judgement::Fail, "{outcome:?}");
        }
        assert_eq!(policy.judge(&Outcome::Committed { verified: true }), Judgement::Committed);
        let unseen = Outcome::Unknown { decided: true, cause: String::new() };
        assert_eq!(policy.judge(&unseen), Judgement::GoOn);
    }

    #[test]
    fn what_nobody_answered_is_never_passed_over() {
        let policy = LossPolicy::from(OnLoss::Continue);
        let unanswered = Outcome::Unanswered { cause: String::new() };
        assert_eq!(policy.judge(&unanswered), Judgement::Fail);
        for outcome in outcomes() {
            assert_eq!(policy.judge(&outcome), Judgement::GoOn, "{outcome:?}");
        }
    }

    #[test]
    fn only_a_decided_transaction_is_finished_by_itself() {
        let policy = LossPolicy { hanging: OnHanging::Finish, ..LossPolicy::default() };
        let hanging = |decided| Outcome::Hanging { open: Vec::new(), decided };
        assert_eq!(policy.judge(&hanging(true)), Judgement::Finish);
        assert_eq!(policy.judge(&hanging(false)), Judgement::Fail);
    }

    #[test]
    fn each_outcome_has_a_counter_of_its_own() {
        let mut counts = OutcomeCounts::default();
        let mut all = outcomes();
        all.push(Outcome::Committed { verified: true });
        all.push(Outcome::Committed { verified: false });
        all.push(Outcome::Unknown { decided: true, cause: String::new() });
        all.push(Outcome::Unanswered { cause: String::new() });
        for outcome in &all {
            counts.count(outcome);
        }
        let expected = OutcomeCounts {
            committed: 1,
            decided: 1,
            aborted: 1,
            partial: 1,
            hanging: 1,
            finished: 0,
            unknown: 1,
            unseen: 1,
            unanswered: 1,
        };
        assert_eq!(counts, expected);
        counts.add(expected);
        assert_eq!(counts.unanswered, 2);
    }
}
