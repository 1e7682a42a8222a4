//! What functions know of partitions that nobody reads yet, and who reads what. Pure.
//!
//! ```text
//!  checkpoint ── restore ──▶ held ── assign ──▶ a subtask ── snapshot ──▶ checkpoint
//!                              └──────────── held at the barrier ───────────┘
//! ```
//!
//! # Invariants
//! * A piece of state is in one place: held here, or with the subtask that reads its partition.
//! * A checkpoint is a cut: what was held when its barriers went out, and what each subtask had when its barrier came.

use std::collections::BTreeMap;
use std::sync::Arc;

use milena::{Offset, TopicPartition};

use super::functions::FunctionSpec;
use crate::checkpoint::snapshot::{FunctionState, Scope};
use crate::source::Split;
use crate::{Error, ErrorKind, Result};

type Key = (String, Scope);

/// The functions' states in the coordinator's hands.
#[derive(Debug)]
pub(super) struct States {
    specs: Vec<FunctionSpec>,
    held: BTreeMap<Key, Vec<u8>>,
    /// The subtask whose instance of a scope it is.
    owners: BTreeMap<(Arc<str>, Scope), u32>,
}

impl States {
    /// The states of a restored job, or none. `is_read` says whether a partition of the checkpoint is still read: state without its
    /// position is worth nothing, and goes with it.
    ///
    /// # Errors
    /// `Misuse` for two functions of one name; `State` if the checkpoint has state of a function that the job does not have, and
    /// it may not be dropped.
    pub(super) fn new(
        specs: Vec<FunctionSpec>,
        restored: Vec<FunctionState>,
        may_drop: bool,
        is_read: impl Fn(&Scope) -> bool,
    ) -> Result<Self> {
        for (index, spec) in specs.iter().enumerate() {
            if specs.iter().skip(index + 1).any(|other| other.name == spec.name) {
                let text =
                    format!("two functions are called {:?}: their states can't be told apart", spec.name);
                return Err(Error::new(ErrorKind::Misuse, text));
            }
        }
        let mut held = BTreeMap::new();
        for FunctionState { function, scope, state } in restored {
            if !specs.iter().any(|spec| *spec.name == *function) {
                if !may_drop {
                    let text = format!(
                        "the checkpoint has state of function {function:?}, which this job does not have; give the function its \
                         name back, or allow unknown state to be dropped"
                    );
                    return Err(Error::new(ErrorKind::State, text));
                }
                tracing::warn!(function, %scope, "state is dropped: the job has no such function");
            } else if !is_read(&scope) {
                tracing::warn!(function, %scope, "state is dropped with its partition, which is not read any more");
            } else {
                held.insert((function, scope), state);
            }
        }
        Ok(Self { specs, held, owners: BTreeMap::new() })
    }

    /// Splits go to a subtask: their states go along.
    ///
    /// # Errors
    /// `Misuse` if another subtask has a part of the same scope.
    pub(super) fn assign(&mut self, subtask: u32, splits: &[Split]) -> Result<Vec<FunctionState>> {
        let mut states = Vec::new();
        for at in splits.iter().map(|split| &split.topic_partition) {
            for spec in &self.specs {
                let scope = spec.scoping.scope(at);
                let owner = *self.owners.entry((Arc::clone(&spec.name), scope.clone())).or_insert(subtask);
                if owner != subtask {
                    return Err(apart(spec, &scope, at, owner, subtask));
                }
                let key = (spec.name.to_string(), scope);
                if let Some(state) = self.held.remove(&key) {
                    let (function, scope) = key;
                    states.push(FunctionState { function, scope, state });
                }
            }
        }
        Ok(states)
    }

    /// Partitions at their end of which there is still state: the checkpoint was taken behind their last element and before their end,
    /// or their new stop is where they stand. Nobody reads them, so a subtask is chosen to bring them to their end.
    pub(super) fn conclude(
        &mut self,
        finished: &[&TopicPartition],
        open: &[&TopicPartition],
        parallelism: u32,
    ) -> Result<Vec<(u32, TopicPartition, Vec<FunctionState>)>> {
        let mut concluded = Vec::new();
        for &at in finished {
            let mut is_held = false;
            let mut owner = None;
            let mut is_shared = false;
            for spec in &self.specs {
                let scope = spec.scoping.scope(at);
                is_shared |= open.iter().any(|&other| spec.scoping.scope(other) == scope);
                is_held |= self.held.contains_key(&(spec.name.to_string(), scope.clone()));
                owner = owner.or(self.owners.get(&(Arc::clone(&spec.name), scope)).copied());
            }
            // What is shared with a partition that is still read goes where that one goes.
            if !is_held || (is_shared && owner.is_none()) {
                continue;
            }
            let by_number = at.partition.0.unsigned_abs().checked_rem(parallelism).unwrap_or(0);
            let subtask = owner.unwrap_or(by_number);
            let states = self.assign(subtask, &[Split::new(at.clone(), Offset(0))])?;
            concluded.push((subtask, at.clone(), states));
        }
        Ok(concluded)
    }

    /// Whether there is nothing to give away.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held, for a checkpoint whose barriers go out now.
    pub(super) fn held(&self) -> Vec<FunctionState> {
        self.held
            .iter()
            .map(|((function, scope), state)| FunctionState {
                function: function.clone(),
                scope: scope.clone(),
                state: state.clone(),
            })
            .collect()
    }
}

fn apart(spec: &FunctionSpec, scope: &Scope, at: &TopicPartition, owner: u32, subtask: u32) -> Error {
    let text = format!(
        "function {} needs {scope} in one subtask, and it is dealt to {owner} and {subtask}; choose the assigner CoPartitioned",
        spec.name
    );
    Error::new(ErrorKind::Misuse, text).with_topic_partition(at.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::functions::Scoping;
    use milena::PartitionId;

    fn spec(scoping: Scoping) -> Vec<FunctionSpec> {
        vec![FunctionSpec { name: "f".into(), scoping }]
    }

    fn state(scope: Scope) -> FunctionState {
        FunctionState { function: String::from("f"), scope, state: vec![1] }
    }

    fn split(topic: &str, partition: i32) -> Split {
        Split::new(TopicPartition::new(topic, partition), Offset(0))
    }

    #[test]
    fn a_state_goes_with_its_split_and_is_held_until_then() {
        let known = [0, 1].map(|n| state(Scope::Split(TopicPartition::new("t", n))));
        let mut states = States::new(spec(Scoping::Split), known.to_vec(), false, |_| true).unwrap();
        assert_eq!(states.held(), known);
        assert_eq!(states.assign(0, &[split("t", 1), split("t", 2)]).unwrap(), known[1..]);
        assert_eq!(states.held(), known[..1]);
        assert_eq!(states.assign(1, &[split("t", 0)]).unwrap(), known[..1]);
        assert!(states.held().is_empty());
    }

    #[test]
    fn partitions_of_one_number_must_not_be_apart() {
        let known = state(Scope::Partition(PartitionId(3)));
        let mut states = States::new(spec(Scoping::Partition), vec![known.clone()], false, |_| true).unwrap();
        assert_eq!(states.assign(0, &[split("a", 3), split("b", 3)]).unwrap(), [known]);
        let error = states.assign(1, &[split("c", 3)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains("CoPartitioned"), "{error}");
    }

    #[test]
    fn a_partition_at_its_end_with_state_left_is_brought_to_its_end() {
        let at = |topic, n| TopicPartition::new(topic, n);
        let known = [0, 5].map(|n| state(Scope::Split(at("t", n))));
        let mut states = States::new(spec(Scoping::Split), known.to_vec(), false, |_| true).unwrap();
        let (done, open) = (at("t", 5), at("t", 0));
        let concluded = states.conclude(&[&done, &at("t", 9)], &[&open], 4).unwrap();
        assert_eq!(concluded, [(1, done.clone(), vec![known[1].clone()])]);
        assert!(states.conclude(&[&done], &[&open], 4).unwrap().is_empty(), "once");

        let shared = state(Scope::Partition(PartitionId(5)));
        let mut states =
            States::new(spec(Scoping::Partition), vec![shared.clone()], false, |_| true).unwrap();
        let (a, b) = (at("a", 5), at("b", 5));
        assert!(states.conclude(&[&a], &[&b], 4).unwrap().is_empty(), "b will have it");
        assert_eq!(states.conclude(&[&a, &b], &[], 4).unwrap().len(), 1);
    }

    #[test]
    fn state_is_never_dropped_unasked() {
        let scope = Scope::Split(TopicPartition::new("t", 0));
        let unknown = FunctionState { function: String::from("g"), ..state(scope.clone()) };
        let error = States::new(spec(Scoping::Split), vec![unknown.clone()], false, |_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
        let dropped = States::new(spec(Scoping::Split), vec![unknown], true, |_| true).unwrap();
        assert!(dropped.held().is_empty());
        let unread = States::new(spec(Scoping::Split), vec![state(scope)], false, |_| false).unwrap();
        assert!(unread.held().is_empty());
        let twice = [spec(Scoping::Split), spec(Scoping::Partition)].concat();
        assert_eq!(States::new(twice, Vec::new(), false, |_| true).unwrap_err().kind(), ErrorKind::Misuse);
    }
}
