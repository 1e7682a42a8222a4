//! Names of transactions: `prefix-subtask-number`, and which number comes next.
//!
//! A name is used again as soon as the commit of its last transaction is confirmed, always through `InitProducerId`, which
//! gives it a new epoch; so a job needs two or three names per subtask for its whole life, and a broker keeps as few entries.
//! The number of a new transaction is the smallest one that no unfinished transaction holds (Flink's POOLING strategy).
//!
//! The grammar is strict, since whatever matches it may be aborted as a leftover of this job: the exact prefix, a dash, a
//! number, a dash, a number, each as this module writes it. `job` claims no name of `job-1` or of `job-a`, see
//! [`TransactionName::parse`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The longest prefix in bytes (Flink's limit; Kafka stores an id with a two-byte length).
pub const MAX_PREFIX_BYTES: usize = 32_000;

/// The name of a transaction of this job, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionName {
    /// The subtask that writes it, from 0.
    pub subtask: u32,
    /// Which of the subtask's names, from 0.
    pub number: u32,
}

impl TransactionName {
    /// The transactional id: `prefix-subtask-number`.
    #[must_use]
    pub fn id(self, prefix: &str) -> String {
        format!("{prefix}-{}-{}", self.subtask, self.number)
    }

    /// Takes an id apart, if it is one that [`id`](Self::id) writes for this prefix.
    ///
    /// Numbers are plain decimals: no sign, no leading zero, at most `u32::MAX`. So with prefix `job`, the ids `job-1-2-3`,
    /// `job-a-1`, `job-01-2` and `jobs-1-2` belong to someone else. The prefix `job` still does not overlap with `job-1`
    /// (its ids have three numbers), but two jobs with the same prefix can't be told apart: a prefix is one job's.
    #[must_use]
    pub fn parse(prefix: &str, id: &str) -> Option<Self> {
        let rest = id.strip_prefix(prefix)?.strip_prefix('-')?;
        let (subtask, number) = rest.split_once('-')?;
        Some(Self { subtask: parse_number(subtask)?, number: parse_number(number)? })
    }
}

fn parse_number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Why a prefix can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// It is empty.
    Empty,
    /// It is longer than [`MAX_PREFIX_BYTES`].
    TooLong(usize),
    /// It has a control character.
    Control,
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the transactional id prefix is empty"),
            Self::TooLong(len) => {
                write!(f, "the transactional id prefix has {len} bytes, the limit is {MAX_PREFIX_BYTES}")
            }
            Self::Control => f.write_str("the transactional id prefix contains a control character"),
        }
    }
}

impl std::error::Error for PrefixError {}

/// Checks a prefix given by a user.
///
/// # Errors
/// See [`PrefixError`].
pub fn check_prefix(prefix: &str) -> Result<(), PrefixError> {
    if prefix.is_empty() {
        Err(PrefixError::Empty)
    } else if prefix.len() > MAX_PREFIX_BYTES {
        Err(PrefixError::TooLong(prefix.len()))
    } else if prefix.chars().any(char::is_control) {
        Err(PrefixError::Control)
    } else {
        Ok(())
    }
}

/// The names that unfinished transactions of this job hold. Clones share their contents: writers reserve, the committer
/// releases.
#[derive(Clone, Debug, Default)]
pub struct NamePool {
    held: Arc<Mutex<BTreeMap<u32, BTreeSet<u32>>>>,
}

impl NamePool {
    /// A pool in which nothing is held.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the smallest number that no unfinished transaction of the subtask holds.
    #[must_use]
    pub fn reserve(&self, subtask: u32) -> TransactionName {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = held.entry(subtask).or_default();
        let mut number = 0;
        while numbers.contains(&number) {
            number += 1;
        }
        numbers.insert(number);
        TransactionName { subtask, number }
    }

    /// Marks a name as held by an unfinished transaction that this pool did not hand out.
    pub fn hold(&self, name: TransactionName) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(name.subtask).or_default().insert(name.number);
    }

    /// Gives a name back: its transaction is finished, or was never begun.
    pub fn release(&self, name: TransactionName) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(numbers) = held.get_mut(&name.subtask) {
            numbers.remove(&name.number);
        }
    }

    /// The names held now, in order.
    #[must_use]
    pub fn held(&self) -> Vec<TransactionName> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter()
            .flat_map(|(&subtask, numbers)| {
                numbers.iter().map(move |&number| TransactionName { subtask, number })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_is_found_in_its_id(prefix in "[a-z0-9.-]{1,12}", subtask: u32, number: u32) {
            let name = TransactionName { subtask, number };
            prop_assert_eq!(TransactionName::parse(&prefix, &name.id(&prefix)), Some(name));
        }

        #[test]
        fn only_what_is_written_is_read(id in "(job|jo|job-1)(-[0-9a+]{0,3}){0,4}") {
            if let Some(name) = TransactionName::parse("job", &id) {
                prop_assert_eq!(name.id("job"), id);
            }
        }

        #[test]
        fn the_smallest_free_number_is_taken(busy: BTreeSet<u8>) {
            let pool = NamePool::new();
            for &number in &busy {
                pool.hold(TransactionName { subtask: 3, number: u32::from(number) });
            }
            let name = pool.reserve(3);
            prop_assert!((0..name.number).all(|below| busy.contains(&(below as u8))));
            prop_assert!(u8::try_from(name.number).map_or(true, |number| !busy.contains(&number)));
        }
    }

    #[test]
    fn foreign_ids_are_not_ours() {
        for id in [
            "job",
            "job-",
            "job-1",
            "job-1-",
            "job--1",
            "job-1-2-3",
            "job-a-1",
            "job-1-b",
            "job-01-2",
            "job-1-02",
            "job-+1-2",
            "job-1--2",
            "jobs-1-2",
            "job-1-4294967296",
            "my-job-1-2",
            "job1-2",
            "job-1 -2",
            "job-١-2",
        ] {
            assert_eq!(TransactionName::parse("job", id), None, "{id}");
        }
        assert_eq!(TransactionName::parse("job-1", "job-1-2"), None);
        assert_eq!(
            TransactionName::parse("job-1", "job-1-2-3"),
            Some(TransactionName { subtask: 2, number: 3 })
        );
    }

    #[test]
    fn busy_names_are_skipped_and_freed_ones_come_back() {
        let pool = NamePool::new();
        let at = |number| TransactionName { subtask: 0, number };
        pool.hold(at(2));
        pool.hold(at(4));
        let taken: Vec<u32> = (0..5).map(|_| pool.reserve(0).number).collect();
        assert_eq!(taken, [0, 1, 3, 5, 6]);
        pool.release(at(2));
        assert_eq!(pool.reserve(0).number, 2);
        pool.release(at(4));
        assert_eq!(pool.reserve(0).number, 4);
        assert_eq!(pool.reserve(1).number, 0, "subtasks do not share numbers");
    }

    #[test]
    fn prefixes_are_checked() {
        assert_eq!(check_prefix("orders"), Ok(()));
        assert_eq!(check_prefix(""), Err(PrefixError::Empty));
        assert_eq!(check_prefix("a\nb"), Err(PrefixError::Control));
        assert!(matches!(check_prefix(&"x".repeat(MAX_PREFIX_BYTES + 1)), Err(PrefixError::TooLong(_))));
    }
}
