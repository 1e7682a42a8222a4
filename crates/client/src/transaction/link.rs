//! What a transactional producer and its engine share: the state of the transaction.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use milena_core::produce::Identity;
use milena_core::transaction::{End, Epochs, Refusal, State, Transaction};
use milena_protocol::types::TopicPartition;

use super::requests;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::transactions::TransactionVersion;

/// The transaction the records of an engine are part of.
#[derive(Debug)]
pub(crate) struct Link {
    id: String,
    /// Written by the producer's calls, and by the engine when something failed.
    state: Mutex<Known>,
    /// Whether records are taken: the state in a form that is cheap to read for each record.
    sendable: AtomicBool,
    /// Whether partitions are added by request.
    explicit: AtomicBool,
    /// Counts transactions, so that a partition knows whether it was added to this one.
    turn: AtomicU64,
}

#[derive(Debug)]
struct Known {
    transaction: Transaction<Error>,
    version: Option<TransactionVersion>,
}

impl Link {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            state: Mutex::new(Known { transaction: Transaction::new(), version: None }),
            sendable: AtomicBool::new(false),
            explicit: AtomicBool::new(true),
            turn: AtomicU64::new(0),
        }
    }

    /// The transactional id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and what is read without its lock.
    fn change<T>(&self, change: impl FnOnce(&mut Transaction<Error>) -> T) -> T {
        let mut known = self.known();
        let result = change(&mut known.transaction);
        self.sendable.store(known.transaction.state() == State::Open, Ordering::Release);
        result
    }

    pub(crate) fn state(&self) -> State {
        self.known().transaction.state()
    }

    pub(crate) fn version(&self) -> Option<TransactionVersion> {
        self.known().version
    }

    /// Whether a record may be taken.
    #[inline]
    pub(crate) fn check_send(&self) -> Result<()> {
        if self.sendable.load(Ordering::Acquire) { Ok(()) } else { self.check_open().map(|_| ()) }
    }

    /// The identity of the open transaction, or why there is none.
    pub(crate) fn check_open(&self) -> Result<Identity> {
        let known = self.known();
        known.transaction.check_open().map_err(|refusal| explain(refusal, &self.id))?;
        known.transaction.identity().ok_or_else(|| explain(Refusal::Uninitialized, &self.id))
    }

    pub(crate) fn on_initialized(&self, identity: Identity, epochs: Epochs) {
        self.explicit.store(epochs == Epochs::Kept, Ordering::Release);
        self.change(|transaction| transaction.on_initialized(identity, epochs));
        self.known().version = Some(match epochs {
            Epochs::Kept => TransactionVersion::V1,
            Epochs::Renewed => TransactionVersion::V2,
        });
    }

    pub(crate) fn needs_identity(&self) -> bool {
        self.known().transaction.needs_identity()
    }

    pub(crate) fn begin(&self) -> Result<()> {
        self.turn.fetch_add(1, Ordering::AcqRel);
        self.change(Transaction::begin).map_err(|refusal| explain(refusal, &self.id))
    }

    pub(crate) fn touch(&self) {
        self.change(Transaction::touch);
    }

    pub(crate) fn is_touched(&self) -> bool {
        self.known().transaction.is_touched()
    }

    pub(crate) fn prepare(&self) -> Result<bool> {
        self.change(Transaction::prepare).map_err(|refusal| explain(refusal, &self.id))
    }

    pub(crate) fn end(&self, commit: bool) -> Result<End> {
        self.change(|transaction| transaction.end(commit)).map_err(|refusal| explain(refusal, &self.id))
    }

    pub(crate) fn on_ended(&self, next: Option<Identity>) {
        self.change(|transaction| transaction.on_ended(next));
    }

    pub(crate) fn on_refused(&self) {
        self.change(Transaction::on_refused);
    }

    /// Something of the transaction failed.
    pub(crate) fn on_failed(&self, error: &Error) {
        self.change(|transaction| transaction.fail(error.clone()));
    }

    /// Another instance took over.
    pub(crate) fn on_fenced(&self, error: &Error) {
        let error = error.clone().with_remedy(FENCED);
        self.change(|transaction| transaction.fence(error));
    }

    /// The number of the transaction.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Whether a partition that was last added to transaction `joined` has to be added to this one.
    pub(crate) fn must_join(&self, joined: u64) -> bool {
        self.explicit.load(Ordering::Acquire) && joined != self.turn()
    }

    /// The versions of Produce to use: from 12 on a write adds its partition (KIP-890).
    pub(crate) fn produce_versions(&self) -> (i16, i16) {
        if self.explicit.load(Ordering::Acquire) { (3, 11) } else { (12, i16::MAX) }
    }

    /// Adds partitions to the transaction.
    pub(crate) async fn join(
        &self,
        client: &Client,
        identity: Option<Identity>,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        let identity = identity.ok_or_else(|| explain(Refusal::Uninitialized, &self.id))?;
        self.touch();
        requests::add_partitions(client, &self.id, identity, partitions).await
    }
}

/// What to do about a producer that was fenced off.
pub(crate) const FENCED: &str = "another instance uses this transactional id, or the transaction timed out; only one instance may use an id at a time";

fn explain(refusal: Refusal<Error>, id: &str) -> Error {
    match refusal {
        Refusal::Uninitialized => {
            Error::misuse(format!("the producer of transactional id {id:?} is not initialised"))
                .with_remedy("call init first")
        }
        Refusal::NotOpen => Error::misuse("no transaction is open").with_remedy("call begin first"),
        Refusal::Open => Error::misuse("a transaction is open").with_remedy("commit or abort it first"),
        Refusal::Prepared => {
            Error::misuse("the transaction is prepared").with_remedy("only commit, abort and init are left")
        }
        Refusal::Ending { commit } => {
            let asked = if commit { "commit" } else { "abort" };
            Error::misuse(format!("{asked} was asked for and is not confirmed"))
                .with_remedy(format!("call {asked} again"))
        }
        Refusal::Failed(cause) => {
            let remedy = match cause.remedy() {
                Some(remedy) => format!("abort the transaction; {remedy}"),
                None => "abort the transaction".to_owned(),
            };
            cause.with_remedy(remedy)
        }
        Refusal::Fenced(cause) => cause,
    }
}
