//! Which open transactions a starting job aborts: its own leftovers, and nothing else.
//!
//! A crash leaves transactions open that no checkpoint knows of; until they end, readers of committed records wait behind them.
//! Once in the coordinator, after the restored committables were committed, the job lists the open transactions under its
//! prefixes and aborts each, except those that a restored committable names by id, producer id *and* epoch: the same id with
//! another epoch is a newer transaction, written after the restored checkpoint, and lingers like any other (FLINK-40626).

use std::collections::BTreeSet;

use milena::{ProducerEpoch, ProducerId, TransactionState};

use super::committable::TransactionIdentity;
use super::naming::{Grammar, Naming, TransactionName};
use crate::checkpoint::CheckpointId;

/// An open transaction found on the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The transactional id.
    pub id: String,
    /// Its state.
    pub state: TransactionState,
    /// The producer id it stands at.
    pub producer_id: ProducerId,
    /// The epoch it stands at; `None` if it was only listed, not described.
    pub producer_epoch: Option<ProducerEpoch>,
}

/// What to do about the transactions found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ids to abort, by `InitProducerId`.
    pub abort: Vec<String>,
    /// Ids that can only be judged with their epoch: describe them and plan again.
    pub describe: Vec<String>,
}

/// Decides for each transaction found. `grammars` are the job's own and those of earlier lives: another prefix, another naming;
/// `kept` are the restored committables that are not settled yet.
///
/// Ids that match no grammar are someone else's and in neither list.
#[must_use]
pub fn plan(grammars: &[Grammar], found: &[Found], kept: &[TransactionIdentity]) -> Plan {
    let mut abort = BTreeSet::new();
    let mut describe = BTreeSet::new();
    for entry in found {
        let own = grammars.iter().any(|grammar| grammar.parse(&entry.id).is_some());
        if !own || !matches!(entry.state, TransactionState::Ongoing) {
            continue;
        }
        let same = |kept: &&TransactionIdentity| kept.id == entry.id && kept.producer_id == entry.producer_id;
        let kept: Vec<&TransactionIdentity> = kept.iter().filter(same).collect();
        match entry.producer_epoch {
            _ if kept.is_empty() => abort.insert(entry.id.clone()),
            None => describe.insert(entry.id.clone()),
            Some(epoch) if kept.iter().any(|kept| kept.producer_epoch == epoch) => false,
            Some(_) => abort.insert(entry.id.clone()),
        };
    }
    Plan { abort: abort.into_iter().collect(), describe: describe.into_iter().collect() }
}

/// Which names to try where open transactions can't be listed (before Kafka 3.0): `InitProducerId` on each aborts what is open
/// under it, and an epoch of 0 says that the name was never used.
///
/// Names are used from the smallest number up without a gap, so the first unused one ends a subtask, and a subtask without
/// any used name, beyond those that are known to have existed, ends the search.
#[derive(Clone, Debug)]
pub struct Probe {
    subtask: u32,
    number: u32,
    first: u32,
    known_subtasks: u32,
    known_numbers: u32,
    any_used: bool,
    done: bool,
    /// With classic names: no more than this many.
    fixed: bool,
}

impl Probe {
    /// A search over at least `known_subtasks` subtasks and, in each, `known_numbers` numbers.
    #[must_use]
    pub fn new(known_subtasks: u32, known_numbers: u32) -> Self {
        Self::from(0, known_subtasks, known_numbers)
    }

    fn from(first: u32, known_subtasks: u32, known_numbers: u32) -> Self {
        Self {
            subtask: 0,
            number: first,
            first,
            known_subtasks,
            known_numbers: first.saturating_add(known_numbers),
            any_used: false,
            done: false,
            fixed: false,
        }
    }

    /// The search for the leftovers of a naming. `restored` is the checkpoint that was restored, 0 without one; names of
    /// incrementing transactions begin behind it. Classic names are all tried, in as many ranges as the scale-down factor says.
    #[must_use]
    pub fn of(naming: Naming, known_subtasks: u32, known_numbers: u32, restored: CheckpointId) -> Self {
        match naming {
            Naming::Pooling => Self::new(known_subtasks, known_numbers),
            Naming::Incrementing => {
                let first = u32::try_from(restored).unwrap_or(u32::MAX).saturating_add(1);
                Self::from(first, known_subtasks, 1)
            }
            Naming::Classic(classic) => {
                let numbers = classic.pool_size.saturating_mul(classic.safe_scale_down_factor.max(1));
                let numbers = numbers.max(known_numbers);
                Self { fixed: true, ..Self::from(0, known_subtasks, numbers) }
            }
        }
    }

    /// The next name to try, until [`handle_epoch`](Self::handle_epoch) ends the search.
    #[must_use]
    pub fn poll_name(&self) -> Option<TransactionName> {
        (!self.done).then_some(TransactionName { subtask: self.subtask, number: self.number })
    }

    /// The epoch that `InitProducerId` gave for the name of [`poll_name`](Self::poll_name). Returns whether the name had
    /// been used before.
    pub fn handle_epoch(&mut self, epoch: ProducerEpoch) -> bool {
        let used = epoch.0 != 0;
        self.any_used |= used;
        if (used && !self.fixed) || self.number.saturating_add(1) < self.known_numbers {
            self.number = self.number.saturating_add(1);
            return used;
        }
        self.done = match self.fixed {
            true => self.subtask.saturating_add(1) >= self.known_subtasks,
            false => self.subtask >= self.known_subtasks && !self.any_used,
        };
        self.subtask = self.subtask.saturating_add(1);
        self.number = self.first;
        self.any_used = false;
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::naming::ClassicNames;
    use proptest::prelude::*;

    fn found(id: &str, producer_id: i64, epoch: Option<i16>) -> Found {
        Found {
            id: id.to_owned(),
            state: TransactionState::Ongoing,
            producer_id: ProducerId(producer_id),
            producer_epoch: epoch.map(ProducerEpoch),
        }
    }

    fn plain(prefix: &str) -> Vec<Grammar> {
        vec![Grammar::new(prefix, Naming::Pooling, 1)]
    }

    fn kept(id: &str, producer_id: i64, epoch: i16) -> TransactionIdentity {
        TransactionIdentity {
            id: id.to_owned(),
            producer_id: ProducerId(producer_id),
            producer_epoch: ProducerEpoch(epoch),
        }
    }

    #[test]
    fn foreign_prefixes_are_not_touched() {
        let all = ["job-0-0", "job-1-0-0", "job-1-0", "jobs-0-0", "job-a-0", "other-0-0", "job-00-0"];
        let listed: Vec<Found> = all.iter().map(|id| found(id, 1, None)).collect();
        assert_eq!(plan(&plain("job"), &listed, &[]).abort, ["job-0-0", "job-1-0"]);
        assert_eq!(plan(&plain("job-1"), &listed, &[]).abort, ["job-1-0-0"]);
        assert!(plan(&plain("jo"), &listed, &[]).abort.is_empty());
    }

    // scenario: D6
    #[test]
    fn a_newer_transaction_under_a_restored_name_is_aborted() {
        let kept = [kept("job-0-0", 5, 3)];
        let unclear = plan(&plain("job"), &[found("job-0-0", 5, None)], &kept);
        assert_eq!(unclear, Plan { abort: Vec::new(), describe: vec![String::from("job-0-0")] });
        assert_eq!(plan(&plain("job"), &[found("job-0-0", 5, Some(3))], &kept), Plan::default());
        assert_eq!(plan(&plain("job"), &[found("job-0-0", 5, Some(4))], &kept).abort, ["job-0-0"]);
        assert_eq!(plan(&plain("job"), &[found("job-0-0", 6, None)], &kept).abort, ["job-0-0"]);
    }

    #[test]
    fn transactions_that_are_ending_are_left_alone() {
        let mut ending = found("job-0-0", 1, None);
        ending.state = TransactionState::PrepareCommit;
        assert_eq!(plan(&plain("job"), &[ending], &[]), Plan::default());
    }

    proptest! {
        #[test]
        fn only_own_and_unkept_ids_are_aborted(
            ids in prop::collection::vec("(a|a-1|b)-[0-9]-[0-9]", 0..12), epochs in prop::collection::vec(0..3_i16, 12),
            keep in prop::collection::vec((0..12_usize, 0..3_i16), 0..6),
        ) {
            let listed: Vec<Found> = ids.iter().zip(&epochs).map(|(id, &epoch)| found(id, 1, Some(epoch))).collect();
            let kept: Vec<TransactionIdentity> = keep.iter()
                .filter_map(|&(at, epoch)| ids.get(at).map(|id| self::kept(id, 1, epoch)))
                .collect();
            let plan = plan(&plain("a"), &listed, &kept);
            for (entry, &epoch) in listed.iter().zip(&epochs) {
                let own = entry.id.starts_with("a-") && entry.id.len() == 5;
                let wanted = own && !kept.iter().any(|kept| kept.id == entry.id && kept.producer_epoch.0 == epoch);
                prop_assert!(!wanted || plan.abort.contains(&entry.id));
            }
            prop_assert!(plan.abort.iter().all(|id| TransactionName::parse("a", id).is_some()));
            prop_assert!(plan.describe.is_empty());
        }

        #[test]
        fn a_probe_meets_every_used_name(
            used in prop::collection::vec(0..4_u32, 0..6), known in 0..6_u32, numbers in 0..3_u32,
        ) {
            // Subtasks beyond the known ones are only found while there is no gap.
            let reach = (0..used.len()).find(|&at| at >= known as usize && used[at] == 0).unwrap_or(used.len());
            let mut probe = Probe::new(known, numbers);
            let mut met = vec![0; used.len()];
            for _ in 0..200 {
                let Some(name) = probe.poll_name() else { break };
                let count = used.get(name.subtask as usize).copied().unwrap_or(0);
                let was_used = name.number < count;
                if was_used { met[name.subtask as usize] += 1; }
                probe.handle_epoch(ProducerEpoch(i16::from(was_used)));
            }
            prop_assert!(probe.poll_name().is_none(), "it ends");
            prop_assert_eq!(&met[..reach], &used[..reach]);
        }
    }

    #[test]
    fn a_job_that_was_named_the_classic_way_cleans_those_names_too() {
        let both = [
            Grammar::new("job", Naming::Pooling, 2),
            Grammar::new("job", Naming::Classic(ClassicNames::default()), 2),
        ];
        let listed: Vec<Found> =
            ["job-7", "job-0-0", "job-x", "job-1-0-0"].map(|id| found(id, 1, None)).into();
        assert_eq!(plan(&both, &listed, &[]).abort, ["job-0-0", "job-7"]);
        assert_eq!(plan(&both[..1], &listed, &[]).abort, ["job-0-0"]);
    }

    fn probed(mut probe: Probe, used: impl Fn(TransactionName) -> bool) -> Vec<(u32, u32)> {
        let mut names = Vec::new();
        while let Some(name) = probe.poll_name() {
            names.push((name.subtask, name.number));
            probe.handle_epoch(ProducerEpoch(i16::from(used(name))));
            assert!(names.len() < 1000, "it ends");
        }
        names
    }

    /// Flink's PROBING: from the restored checkpoint up to the first name that was never used.
    // scenario: 5.6.30
    #[test]
    fn incrementing_names_are_probed_from_the_restored_checkpoint_on() {
        let used = |name: TransactionName| name.subtask < 2 && name.number <= 9;
        let names = probed(Probe::of(Naming::Incrementing, 2, 0, 7), used);
        assert_eq!(names, [(0, 8), (0, 9), (0, 10), (1, 8), (1, 9), (1, 10), (2, 8)]);
    }

    /// Flink's idsToAbort: every name of as many ranges as the factor says.
    // scenario: 5.6.30
    #[test]
    fn classic_names_are_all_probed() {
        let naming = Naming::Classic(ClassicNames { pool_size: 2, safe_scale_down_factor: 3 });
        let names = probed(Probe::of(naming, 2, 0, 4), |_| false);
        let grammar = Grammar::new("job", naming, 2);
        let mut ids: Vec<u32> = names
            .iter()
            .map(|&(subtask, number)| grammar.id(TransactionName { subtask, number })[4..].parse().unwrap())
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..12).collect::<Vec<u32>>());
    }
}
