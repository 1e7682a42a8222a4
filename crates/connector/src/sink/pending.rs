//! The prepared transactions of a job between their snapshot and their outcome. Pure: it says what a checkpoint must hold and what is to be
//! committed; others write and send.
//!
//! # Invariants
//! * A transaction is in every checkpoint from the one at whose barrier it was prepared until its outcome is known.
//! * None is committed before a checkpoint that holds it is complete. A later checkpoint counts: notices may be lost.
//! * A checkpoint never holds a transaction of a later barrier: restoring it would commit records that are read again.

use std::collections::BTreeMap;

use super::committable::{Committable, TransactionIdentity};
use crate::checkpoint::CheckpointId;

/// Transactions whose outcome is not known.
#[derive(Clone, Debug, Default)]
pub struct PendingCommits {
    entries: BTreeMap<TransactionIdentity, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    committable: Committable,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its checkpoint is not complete.
    Prepared,
    /// It is to be committed.
    Due,
    /// It is being committed.
    Taken,
}

impl PendingCommits {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a transaction that a subtask prepared.
    pub fn insert(&mut self, committable: Committable) {
        self.entries.insert(committable.identity(), Entry { committable, state: State::Prepared });
    }

    /// Takes over what was learned about a transaction since. One that was settled in the meantime stays settled.
    pub fn update(&mut self, committable: Committable) {
        if let Some(entry) = self.entries.get_mut(&committable.identity()) {
            entry.committable = committable;
        }
    }

    /// What the checkpoint `upto` must hold, by checkpoint and subtask.
    #[must_use]
    pub fn unsettled(&self, upto: CheckpointId) -> Vec<Committable> {
        let held = self.entries.values().filter(|entry| entry.committable.checkpoint <= upto);
        let mut held: Vec<Committable> = held.map(|entry| entry.committable.clone()).collect();
        held.sort_by_key(|committable| (committable.checkpoint, committable.subtask));
        held
    }

    /// A checkpoint is complete: what it holds is to be committed.
    pub fn complete(&mut self, checkpoint: CheckpointId) {
        for entry in self.entries.values_mut() {
            if entry.state == State::Prepared && entry.committable.checkpoint <= checkpoint {
                entry.state = State::Due;
            }
        }
    }

    /// The next one to commit, oldest checkpoint first.
    pub fn take_due(&mut self) -> Option<Committable> {
        let due = self.entries.values_mut().filter(|entry| entry.state == State::Due);
        let entry = due.min_by_key(|entry| entry.committable.checkpoint)?;
        entry.state = State::Taken;
        Some(entry.committable.clone())
    }

    /// The outcome is known.
    pub fn settle(&mut self, identity: &TransactionIdentity) {
        self.entries.remove(identity);
    }

    /// Transactions that no complete checkpoint holds.
    #[must_use]
    pub fn unpromised(&self) -> Vec<Committable> {
        let prepared = self.entries.values().filter(|entry| entry.state == State::Prepared);
        prepared.map(|entry| entry.committable.clone()).collect()
    }

    /// All that are not settled.
    pub fn iter(&self) -> impl Iterator<Item = &Committable> {
        self.entries.values().map(|entry| &entry.committable)
    }

    /// How many are not settled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether all are settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::{PreparedTransaction, ProducerEpoch, ProducerId, TransactionVersion};
    use std::time::Duration;

    fn committable(checkpoint: CheckpointId, epoch: i16) -> Committable {
        let transaction = PreparedTransaction {
            transactional_id: String::from("job-0-0"),
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(epoch),
            version: TransactionVersion::V2,
            first_offsets: Vec::new(),
            start_time_ms: None,
            timeout: Duration::from_secs(60),
        };
        Committable { checkpoint, subtask: 0, transaction }
    }

    #[test]
    fn a_checkpoint_holds_what_is_older_and_not_settled() {
        let mut pending = PendingCommits::new();
        for (checkpoint, epoch) in [(1, 0), (2, 1), (3, 2)] {
            pending.insert(committable(checkpoint, epoch));
        }
        let held = |pending: &PendingCommits, upto| -> Vec<CheckpointId> {
            pending.unsettled(upto).iter().map(|committable| committable.checkpoint).collect()
        };
        assert_eq!(held(&pending, 2), [1, 2], "not what was prepared at a later barrier");
        pending.settle(&committable(1, 0).identity());
        assert_eq!(held(&pending, 3), [2, 3]);
    }

    #[test]
    fn a_complete_checkpoint_makes_older_ones_due_too_and_each_once() {
        let mut pending = PendingCommits::new();
        for (checkpoint, epoch) in [(1, 0), (2, 1), (3, 2)] {
            pending.insert(committable(checkpoint, epoch));
        }
        assert_eq!(pending.take_due(), None);
        pending.complete(2);
        pending.complete(2);
        assert_eq!(pending.take_due().map(|it| it.checkpoint), Some(1));
        assert_eq!(pending.take_due().map(|it| it.checkpoint), Some(2));
        assert_eq!(pending.take_due(), None);
        assert_eq!(pending.unpromised().len(), 1);
        assert_eq!(pending.len(), 3, "taken is not settled");
    }
}
