//! Names of transactions, and which one comes next.
//!
//! | naming | id | number |
//! |---|---|---|
//! | [`Naming::Pooling`] | `prefix-subtask-number` | the smallest that no unfinished transaction of the subtask holds |
//! | [`Naming::Incrementing`] | `prefix-subtask-number` | the checkpoint it is meant for |
//! | [`Naming::Classic`] | `prefix-counter` | as pooling, from the subtask's range of the counter |
//!
//! A name is used again as soon as the commit of its last transaction is confirmed, always through `InitProducerId`, which
//! gives it a new epoch; so with pooling a job needs two or three names per subtask for its whole life, and a broker keeps as
//! few entries. Incrementing leaves a new one behind with every checkpoint.
//!
//! The grammar is strict, since whatever matches it may be aborted as a leftover of this job: the exact prefix, a dash, a
//! number, a dash, a number, each as this module writes it. `job` claims no name of `job-1` or of `job-a`, see
//! [`TransactionName::parse`]. Only a job with classic names claims `job-1`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::CheckpointId;

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

/// How the transactions of a job are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Naming {
    /// `prefix-subtask-number`, few names used again and again (Flink's POOLING). The default.
    #[default]
    Pooling,
    /// `prefix-subtask-checkpoint`, each name used once (Flink's INCREMENTING). For brokers that can't list transactions, whose
    /// leftovers are then found by counting up from the restored checkpoint.
    Incrementing,
    /// `prefix-counter`, the names of Flink's classic producer, for jobs that come from there.
    Classic(ClassicNames),
}

/// The layout of classic names: subtask `s` of `p` has the counters `s * pool_size` to `(s + 1) * pool_size - 1`, and when these
/// are taken the same range behind `pool_size * p`, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassicNames {
    /// Names per subtask in the first range. Default 5. Flink: `kafkaProducersPoolSize`. Where transactions can't be listed, it should be above
    /// the number of transactions that a subtask has unfinished at once: leftovers beyond it, of a run that had no checkpoint yet, are only
    /// found by one with as many subtasks, and else end with their timeout.
    pub pool_size: u32,
    /// Where transactions can't be listed, leftovers are looked for in so many ranges: after a crash before the first checkpoint a job may
    /// come back with as many times fewer subtasks. Default 5. Flink: `SAFE_SCALE_DOWN_FACTOR`.
    pub safe_scale_down_factor: u32,
}

impl Default for ClassicNames {
    fn default() -> Self {
        Self { pool_size: 5, safe_scale_down_factor: 5 }
    }
}

/// Writes and reads the names of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grammar {
    prefix: String,
    naming: Naming,
    /// Classic counters depend on it.
    parallelism: u32,
}

impl Grammar {
    /// The names of a job with so many subtasks.
    #[must_use]
    pub fn new(prefix: impl Into<String>, naming: Naming, parallelism: u32) -> Self {
        Self { prefix: prefix.into(), naming, parallelism: parallelism.max(1) }
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The naming.
    #[must_use]
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The transactional id of a name.
    #[must_use]
    pub fn id(&self, name: TransactionName) -> String {
        let Naming::Classic(classic) = self.naming else { return name.id(&self.prefix) };
        let pool = u64::from(classic.pool_size.max(1));
        let (range, within) = (u64::from(name.number) / pool, u64::from(name.number) % pool);
        let counter = range * pool * u64::from(self.parallelism) + u64::from(name.subtask) * pool + within;
        format!("{}-{counter}", self.prefix)
    }

    /// Takes an id of this job apart. With classic names the result is of this parallelism, whoever wrote the id.
    #[must_use]
    pub fn parse(&self, id: &str) -> Option<TransactionName> {
        let Naming::Classic(classic) = self.naming else { return TransactionName::parse(&self.prefix, id) };
        let counter = u64::from(parse_number(id.strip_prefix(&self.prefix)?.strip_prefix('-')?)?);
        let pool = u64::from(classic.pool_size.max(1));
        let width = pool * u64::from(self.parallelism);
        let (range, rest) = (counter / width, counter % width);
        let number = range * pool + rest % pool;
        Some(TransactionName {
            subtask: u32::try_from(rest / pool).ok()?,
            number: u32::try_from(number).ok()?,
        })
    }

    /// The pattern for `ListTransactions` (a full match, in RE2 syntax) of all ids that may belong to the job.
    #[must_use]
    pub fn pattern(&self) -> String {
        let numbers = match self.naming {
            Naming::Pooling | Naming::Incrementing => "-[0-9]+-[0-9]+",
            Naming::Classic(_) => "-[0-9]+",
        };
        format!("{}{numbers}", regex::escape(&self.prefix))
    }
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

/// A name for the next transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The name.
    pub name: TransactionName,
    /// Names that were passed over and must be initialised all the same: with [`Naming::Incrementing`] a gap would end the search for
    /// leftovers too early.
    pub passed_over: Vec<TransactionName>,
}

/// The names that unfinished transactions of this job hold. Clones share their contents: writers reserve, the committer
/// releases.
#[derive(Clone, Debug)]
pub struct NamePool {
    grammar: Grammar,
    first_checkpoint: CheckpointId,
    subtasks: Arc<Mutex<BTreeMap<u32, Subtask>>>,
}

#[derive(Clone, Debug, Default)]
struct Subtask {
    held: BTreeSet<u32>,
    /// The last number that was given out, in order.
    last: Option<u32>,
}

impl NamePool {
    /// A pool in which nothing is held; the first transaction is meant for `first_checkpoint`.
    #[must_use]
    pub fn new(grammar: Grammar, first_checkpoint: CheckpointId) -> Self {
        Self { grammar, first_checkpoint, subtasks: Arc::default() }
    }

    /// How the names are written.
    #[must_use]
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// The checkpoint that the first transaction is meant for.
    #[must_use]
    pub fn first_checkpoint(&self) -> CheckpointId {
        self.first_checkpoint
    }

    /// Takes a name for a transaction that is meant for `checkpoint`: none that an unfinished transaction of the subtask holds.
    #[must_use]
    pub fn reserve(&self, subtask: u32, checkpoint: CheckpointId) -> Reserved {
        let mut subtasks = self.subtasks.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = subtasks.entry(subtask).or_default();
        let incrementing = self.grammar.naming == Naming::Incrementing;
        let as_number = |checkpoint: CheckpointId| u32::try_from(checkpoint).unwrap_or(u32::MAX);
        let mut number = if incrementing { as_number(checkpoint) } else { 0 };
        while entry.held.contains(&number) {
            number += 1;
        }
        let first = entry.last.map_or(as_number(self.first_checkpoint), |last| last.saturating_add(1));
        let gap = if incrementing { first..number } else { 0..0 };
        entry.held.insert(number);
        entry.last = Some(entry.last.map_or(number, |last| last.max(number)));
        let passed_over = gap.map(|number| TransactionName { subtask, number }).collect();
        Reserved { name: TransactionName { subtask, number }, passed_over }
    }

    /// Marks a name as held by an unfinished transaction that this pool did not hand out.
    pub fn hold(&self, name: TransactionName) {
        let mut subtasks = self.subtasks.lock().unwrap_or_else(PoisonError::into_inner);
        subtasks.entry(name.subtask).or_default().held.insert(name.number);
    }

    /// Gives a name back: its transaction is finished, or was never begun.
    pub fn release(&self, name: TransactionName) {
        let mut subtasks = self.subtasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = subtasks.get_mut(&name.subtask) {
            entry.held.remove(&name.number);
        }
    }

    /// The names held now, in order.
    #[must_use]
    pub fn held(&self) -> Vec<TransactionName> {
        let subtasks = self.subtasks.lock().unwrap_or_else(PoisonError::into_inner);
        let names = subtasks.iter().flat_map(|(&subtask, entry)| {
            entry.held.iter().map(move |&number| TransactionName { subtask, number })
        });
        names.collect()
    }
}

#[cfg(test)]
#[path = "naming_tests.rs"]
mod tests;
