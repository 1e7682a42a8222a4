//! The transaction coordinator: what is known of each transactional id, and who may do what with it.
//!
//! Follows Kafka's coordinator of 4.3 for both generations: V1 (AddPartitionsToTxn, EndTxn up to 4) keeps the epoch when a
//! transaction ends, V2 (KIP-890: EndTxn 5, Produce 12) bumps it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use milena_protocol::ErrorCode;

/// From this epoch on a producer id is used up. The one epoch above it is kept for fencing.
const EXHAUSTED: i16 = i16::MAX - 1;

/// A topic and the number of a partition.
pub(crate) type Partition = (String, i32);

/// Which generation of the protocol a client used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Generation {
    V1,
    V2,
}

/// A producer id with an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Empty,
    Ongoing,
    /// Decided; the markers are written at `due`.
    Prepare {
        commit: bool,
        due: Instant,
        next_id: Option<i64>,
    },
    Complete {
        commit: bool,
    },
}

impl State {
    /// Kafka's name of the state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::Prepare { commit: true, .. } => "PrepareCommit",
            Self::Prepare { commit: false, .. } => "PrepareAbort",
            Self::Complete { commit: true } => "CompleteCommit",
            Self::Complete { commit: false } => "CompleteAbort",
        }
    }
}

/// What is known of a transactional id.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) identity: Identity,
    /// The producer id before the last transition.
    previous_id: i64,
    /// The epoch before the last bump, if its owner may repeat the request that bumped it.
    last_epoch: Option<i16>,
    pub(crate) timeout_ms: i32,
    pub(crate) state: State,
    pub(crate) partitions: BTreeSet<Partition>,
    /// Start of the transaction, or of the last one; `None` after InitProducerId.
    pub(crate) start_ms: Option<i64>,
}

impl Transaction {
    fn enter(&mut self, state: State) {
        self.previous_id = self.identity.id;
        self.state = state;
    }

    fn is_exhausted(&self) -> bool {
        self.identity.epoch >= EXHAUSTED
    }
}

/// What InitProducerId leads to.
pub(crate) enum Init {
    Done(Identity),
    /// An open transaction has to be aborted first; the client asks again.
    AbortFirst,
}

/// What EndTxn leads to.
pub(crate) enum End {
    /// It had been decided before; the identity to go on with.
    Repeated(Identity),
    /// The transaction is to be ended now; the identity to go on with.
    Begun(Identity),
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    transactions: BTreeMap<String, Transaction>,
    next_producer_id: i64,
}

impl Coordinator {
    pub(crate) fn new(first_producer_id: i64) -> Self {
        Self { transactions: BTreeMap::new(), next_producer_id: first_producer_id }
    }

    pub(crate) fn new_producer_id(&mut self) -> i64 {
        let id = self.next_producer_id;
        self.next_producer_id += 1;
        id
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Transaction> {
        self.transactions.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Transaction)> {
        self.transactions.iter().map(|(id, transaction)| (id.as_str(), transaction))
    }

    /// Forgets a transactional id, as Kafka does seven days after its last use.
    pub(crate) fn expire(&mut self, id: &str) -> bool {
        self.transactions.remove(id).is_some()
    }

    /// Sets the epoch of a transactional id, to bring it near exhaustion.
    pub(crate) fn set_epoch(&mut self, id: &str, epoch: i16) -> bool {
        match self.transactions.get_mut(id) {
            Some(transaction) => {
                transaction.identity.epoch = epoch;
                true
            }
            None => false,
        }
    }

    pub(crate) fn has_ongoing(&self) -> bool {
        self.transactions.values().any(|transaction| transaction.state == State::Ongoing)
    }

    pub(crate) fn is_ending(&self, id: &str) -> bool {
        self.find(id).is_some_and(|transaction| matches!(transaction.state, State::Prepare { .. }))
    }

    /// Ids whose transaction began so long ago that it is to be aborted.
    pub(crate) fn expired(&self, now_ms: i64) -> Vec<String> {
        let late = |transaction: &Transaction| {
            transaction.state == State::Ongoing
                && transaction
                    .start_ms
                    .is_some_and(|start| start.saturating_add(i64::from(transaction.timeout_ms)) < now_ms)
        };
        self.iter().filter(|(_, transaction)| late(transaction)).map(|(id, _)| id.to_owned()).collect()
    }

    /// Ids whose markers are due.
    pub(crate) fn due(&self, now: Instant) -> Vec<String> {
        let due =
            |transaction: &Transaction| matches!(transaction.state, State::Prepare { due, .. } if due <= now);
        self.iter().filter(|(_, transaction)| due(transaction)).map(|(id, _)| id.to_owned()).collect()
    }

    pub(crate) fn next_marker(&self) -> Option<Instant> {
        let due = |transaction: &Transaction| match transaction.state {
            State::Prepare { due, .. } => Some(due),
            _ => None,
        };
        self.transactions.values().filter_map(due).min()
    }

    pub(crate) fn init(
        &mut self,
        id: &str,
        timeout_ms: i32,
        expected: Option<Identity>,
    ) -> Result<Init, ErrorCode> {
        if !self.transactions.contains_key(id) {
            let identity = Identity { id: self.new_producer_id(), epoch: -1 };
            let fresh = Transaction {
                identity,
                previous_id: -1,
                last_epoch: None,
                timeout_ms,
                state: State::Empty,
                partitions: BTreeSet::new(),
                start_ms: None,
            };
            self.transactions.insert(id.to_owned(), fresh);
        }
        let rotated = self.next_producer_id;
        let Some(transaction) = self.transactions.get_mut(id) else {
            return Err(ErrorCode::UNKNOWN_SERVER_ERROR);
        };
        let known = |expected: Identity| {
            transaction.identity.epoch == -1
                || expected.id == transaction.identity.id
                || (expected.id == transaction.previous_id && expected.epoch >= EXHAUSTED)
        };
        if !expected.is_none_or(known) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match transaction.state {
            State::Prepare { .. } => return Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            State::Ongoing => return Ok(Init::AbortFirst),
            State::Empty | State::Complete { .. } => {}
        }
        let stored = transaction.identity;
        if transaction.is_exhausted() && expected.is_none_or(|expected| expected.epoch == stored.epoch) {
            self.next_producer_id += 1;
            transaction.enter(State::Empty);
            transaction.identity = Identity { id: rotated, epoch: 0 };
            transaction.last_epoch = expected.map(|_| stored.epoch);
        } else {
            let bumped = Identity { id: stored.id, epoch: stored.epoch.saturating_add(1) };
            let (identity, last_epoch) = match expected {
                None => (bumped, None),
                Some(expected) if stored.epoch == -1 || expected.epoch == stored.epoch => {
                    (bumped, Some(stored.epoch))
                }
                // The same request again: its answer may have been lost.
                Some(expected) if Some(expected.epoch) == transaction.last_epoch => {
                    (stored, transaction.last_epoch)
                }
                Some(_) => return Err(ErrorCode::PRODUCER_FENCED),
            };
            transaction.enter(State::Empty);
            transaction.identity = identity;
            transaction.last_epoch = last_epoch;
        }
        transaction.timeout_ms = timeout_ms;
        transaction.partitions.clear();
        transaction.start_ms = None;
        Ok(Init::Done(transaction.identity))
    }

    fn current(&mut self, id: &str, identity: Identity) -> Result<&mut Transaction, ErrorCode> {
        match self.transactions.get_mut(id) {
            Some(transaction) if transaction.identity.id == identity.id => {
                if transaction.identity.epoch == identity.epoch {
                    Ok(transaction)
                } else {
                    Err(ErrorCode::PRODUCER_FENCED)
                }
            }
            _ => Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING),
        }
    }

    pub(crate) fn add_partitions(
        &mut self,
        id: &str,
        identity: Identity,
        partitions: impl IntoIterator<Item = Partition>,
        now_ms: i64,
    ) -> Result<(), ErrorCode> {
        let transaction = self.current(id, identity)?;
        match transaction.state {
            State::Prepare { .. } => return Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            State::Ongoing => {}
            State::Empty | State::Complete { .. } => {
                transaction.partitions.clear();
                transaction.start_ms = Some(now_ms);
                transaction.enter(State::Ongoing);
            }
        }
        transaction.partitions.extend(partitions);
        Ok(())
    }

    /// Whether a partition is in the open transaction.
    pub(crate) fn verify_partition(
        &mut self,
        id: &str,
        identity: Identity,
        partition: &Partition,
    ) -> Result<(), ErrorCode> {
        let transaction = self.current(id, identity)?;
        match transaction.state {
            State::Prepare { .. } => Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            _ if transaction.partitions.contains(partition) => Ok(()),
            _ => Err(ErrorCode::TRANSACTION_ABORTABLE),
        }
    }

    /// EndTxn from a client. Where a transaction is to end, its markers are due at `due`.
    pub(crate) fn end(
        &mut self,
        id: &str,
        identity: Identity,
        commit: bool,
        generation: Generation,
        due: Instant,
        now_ms: i64,
    ) -> Result<End, ErrorCode> {
        match generation {
            Generation::V1 => self.end_v1(id, identity, commit, due),
            Generation::V2 => self.end_v2(id, identity, commit, due, now_ms),
        }
    }

    fn end_v1(&mut self, id: &str, identity: Identity, commit: bool, due: Instant) -> Result<End, ErrorCode> {
        let transaction = self.current(id, identity)?;
        match transaction.state {
            State::Ongoing => {
                transaction.enter(State::Prepare { commit, due, next_id: None });
                Ok(End::Begun(transaction.identity))
            }
            State::Complete { commit: decided } if decided == commit => {
                Ok(End::Repeated(transaction.identity))
            }
            State::Prepare { commit: decided, .. } if decided == commit => {
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
            State::Empty | State::Complete { .. } | State::Prepare { .. } => {
                Err(ErrorCode::INVALID_TXN_STATE)
            }
        }
    }

    fn end_v2(
        &mut self,
        id: &str,
        identity: Identity,
        commit: bool,
        due: Instant,
        now_ms: i64,
    ) -> Result<End, ErrorCode> {
        let rotated = self.next_producer_id;
        let Some(transaction) = self.transactions.get_mut(id) else {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        };
        let stored = transaction.identity;
        let complete = matches!(transaction.state, State::Complete { .. });
        // The end was answered with a new producer id, and the answer may have been lost.
        let repeats_rotation = complete
            && transaction.previous_id == identity.id
            && identity.epoch == EXHAUSTED
            && stored.epoch == 0;
        // The same for the usual bump.
        let repeats_bump = identity.epoch.checked_add(1) == Some(stored.epoch);
        if identity.id != stored.id && !repeats_rotation {
            return Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        let repeats = repeats_rotation || repeats_bump;
        let valid = match transaction.state {
            State::Empty | State::Ongoing => identity.epoch == stored.epoch,
            State::Prepare { .. } => repeats_bump,
            State::Complete { .. } => repeats || identity.epoch == stored.epoch,
        };
        if !valid {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match transaction.state {
            State::Ongoing => {}
            State::Prepare { commit: decided, .. } if decided == commit => {
                return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
            }
            State::Complete { commit: decided } if decided == commit && repeats => {
                return Ok(End::Repeated(stored));
            }
            // An abort without any partition is allowed, and bumps the epoch like any other end.
            State::Empty | State::Complete { .. } if !commit && !repeats => {
                transaction.partitions.clear();
                transaction.start_ms = Some(now_ms);
            }
            State::Empty | State::Complete { .. } | State::Prepare { .. } => {
                return Err(ErrorCode::INVALID_TXN_STATE);
            }
        }
        let next_id = transaction.is_exhausted().then_some(rotated);
        if next_id.is_some() {
            self.next_producer_id += 1;
        }
        transaction.last_epoch = Some(stored.epoch);
        transaction.enter(State::Prepare { commit, due, next_id });
        transaction.identity.epoch = stored.epoch.saturating_add(1);
        Ok(End::Begun(match next_id {
            Some(id) => Identity { id, epoch: 0 },
            None => transaction.identity,
        }))
    }

    /// Aborts an open transaction on the broker's own account, with an epoch that fences its writer off. The generation is
    /// the cluster's: with V2 the writer may go on by InitProducerId with what it has.
    pub(crate) fn fence(&mut self, id: &str, generation: Generation, due: Instant) {
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        if transaction.state != State::Ongoing {
            return;
        }
        transaction.last_epoch = match generation {
            Generation::V1 => None,
            Generation::V2 => Some(transaction.identity.epoch),
        };
        transaction.enter(State::Prepare { commit: false, due, next_id: None });
        transaction.identity.epoch = transaction.identity.epoch.saturating_add(1);
    }

    /// The decision and the identity for the markers of a transaction that is ending.
    pub(crate) fn ending(&self, id: &str) -> Option<(bool, Identity, Vec<Partition>)> {
        let transaction = self.find(id)?;
        match transaction.state {
            State::Prepare { commit, .. } => {
                Some((commit, transaction.identity, transaction.partitions.iter().cloned().collect()))
            }
            _ => None,
        }
    }

    /// A marker is written; the transaction is complete with the last one.
    pub(crate) fn on_marker(&mut self, id: &str, partition: &Partition) {
        if let Some(transaction) = self.transactions.get_mut(id) {
            transaction.partitions.remove(partition);
        }
    }

    /// Ends what has no marker left to write; tries again at `due` otherwise.
    pub(crate) fn complete(&mut self, id: &str, retry: Instant) {
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        let State::Prepare { commit, next_id, .. } = transaction.state else { return };
        if !transaction.partitions.is_empty() {
            transaction.state = State::Prepare { commit, due: retry, next_id };
            return;
        }
        transaction.enter(State::Complete { commit });
        if let Some(id) = next_id {
            transaction.identity = Identity { id, epoch: 0 };
        }
    }
}
