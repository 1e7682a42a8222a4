//! The life of a transactional producer's transactions.
//!
//! ```text
//! Uninitialized --on_initialized--> Ready --begin--> Open --prepare--> Prepared
//!       ^                            ^  ^             | \                 |
//!       |                            |  +--(empty)----+  +-fail-> Failed  |
//!       |                            +------on_ended---- Ending <---------+ end
//!       +--- fence, refused end (from anywhere)
//! ```
//!
//! # Invariants
//! - What was prepared can only be ended, and ended one way: the other way is refused once one was asked for.
//! - A failed transaction can only be aborted.
//! - Under the first transaction version no two transactions share an epoch if the first was handed out by
//!   [`prepare`](Transaction::prepare) or failed: a repeated commit of the first would commit the second.
//!
//! # References
//! KIP-98, KIP-890 (a new epoch with every end).

use crate::produce::Identity;

/// How a cluster runs transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Epochs {
    /// The epoch stays when a transaction ends (transaction.version 0 and 1).
    Kept,
    /// Every end gives another epoch (transaction.version 2).
    Renewed,
}

/// Where the producer is. `E` is the cause of a failure.
#[derive(Clone, Debug)]
enum Phase<E> {
    Uninitialized,
    Ready,
    Open { touched: bool },
    Failed { touched: bool, cause: E },
    Prepared,
    Ending { commit: bool },
    Fenced { cause: E },
}

/// Why a step is not allowed now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal<E> {
    /// The producer has no identity yet, or lost it: initialise it first.
    Uninitialized,
    /// No transaction is open: begin one first.
    NotOpen,
    /// A transaction is open: end it first.
    Open,
    /// The transaction is prepared: only ending it is left.
    Prepared,
    /// An end was asked for and is not confirmed: ask for the same end again.
    Ending {
        /// Whether it was a commit.
        commit: bool,
    },
    /// The transaction failed: abort it.
    Failed(E),
    /// The producer was fenced off.
    Fenced(E),
}

/// How to end a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing reached a broker: it is over.
    Nothing,
    /// The coordinator has to be asked, under this identity.
    Ask(Identity),
}

/// The state of a transactional producer.
#[derive(Clone, Debug)]
pub struct Transaction<E> {
    phase: Phase<E>,
    identity: Option<Identity>,
    epochs: Epochs,
    /// The epoch must not be used for another transaction.
    worn: bool,
}

/// The name of a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not initialised, or an end was refused: `init` is next.
    Uninitialized,
    /// Between transactions.
    Ready,
    /// A transaction takes records.
    Open,
    /// A transaction failed; only an abort is left.
    Failed,
    /// A transaction is prepared; only its end is left.
    Prepared,
    /// An end was asked for and not confirmed.
    Ending,
    /// Another producer took over.
    Fenced,
}

impl<E: Clone> Default for Transaction<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Clone> Transaction<E> {
    /// A producer that is not initialised.
    #[must_use]
    pub fn new() -> Self {
        Self { phase: Phase::Uninitialized, identity: None, epochs: Epochs::Kept, worn: false }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Uninitialized => State::Uninitialized,
            Phase::Ready => State::Ready,
            Phase::Open { .. } => State::Open,
            Phase::Failed { .. } => State::Failed,
            Phase::Prepared => State::Prepared,
            Phase::Ending { .. } => State::Ending,
            Phase::Fenced { .. } => State::Fenced,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// A new identity from the coordinator, which aborted whatever was open.
    pub fn on_initialized(&mut self, identity: Identity, epochs: Epochs) {
        *self = Self { phase: Phase::Ready, identity: Some(identity), epochs, worn: false };
    }

    /// Whether the next [`begin`](Self::begin) needs a new identity first.
    #[must_use]
    pub fn needs_identity(&self) -> bool {
        self.worn && matches!(self.phase, Phase::Ready)
    }

    /// Opens a transaction.
    ///
    /// # Errors
    /// One is open, or the identity is missing or worn.
    pub fn begin(&mut self) -> Result<(), Refusal<E>> {
        match &self.phase {
            Phase::Ready if self.worn => Err(Refusal::Uninitialized),
            Phase::Ready => {
                self.phase = Phase::Open { touched: false };
                Ok(())
            }
            Phase::Open { .. } => Err(Refusal::Open),
            _ => Err(self.refusal()),
        }
    }

    /// Whether records and offsets are taken.
    ///
    /// # Errors
    /// Why not.
    pub fn check_open(&self) -> Result<(), Refusal<E>> {
        match self.phase {
            Phase::Open { .. } => Ok(()),
            _ => Err(self.refusal()),
        }
    }

    /// From now on a broker may know of the transaction.
    pub fn touch(&mut self) {
        if let Phase::Open { touched } | Phase::Failed { touched, .. } = &mut self.phase {
            *touched = true;
        }
    }

    /// Whether something was written in the open transaction, so that there is something to end.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        matches!(self.phase, Phase::Open { touched: true } | Phase::Failed { touched: true, .. })
    }

    /// A part of the transaction failed. The first cause stays.
    pub fn fail(&mut self, cause: E) {
        match self.phase {
            Phase::Open { touched } => self.phase = Phase::Failed { touched, cause },
            Phase::Prepared => self.phase = Phase::Failed { touched: true, cause },
            _ => {}
        }
    }

    /// Another producer took over, or the coordinator forgot this one.
    pub fn fence(&mut self, cause: E) {
        if !matches!(self.phase, Phase::Fenced { .. }) {
            self.phase = Phase::Fenced { cause };
        }
    }

    /// Makes the transaction ready to be ended by anyone. Everything must have been acknowledged before. Returns whether there
    /// is something to end; if not, the transaction is over.
    ///
    /// # Errors
    /// None is open, or it failed.
    pub fn prepare(&mut self) -> Result<bool, Refusal<E>> {
        match self.phase {
            Phase::Open { touched: false } => {
                self.phase = Phase::Ready;
                Ok(false)
            }
            Phase::Open { touched: true } => {
                self.phase = Phase::Prepared;
                self.worn |= self.epochs == Epochs::Kept;
                Ok(true)
            }
            _ => Err(self.refusal()),
        }
    }

    /// Begins to end the transaction. The same end may be asked for again as long as it is not confirmed.
    ///
    /// # Errors
    /// There is nothing to end, a failed transaction is to be committed, or the other end was asked for before.
    pub fn end(&mut self, commit: bool) -> Result<End, Refusal<E>> {
        let touched = match &self.phase {
            Phase::Open { touched } => *touched,
            Phase::Failed { touched, .. } if !commit => {
                self.worn |= self.epochs == Epochs::Kept;
                *touched
            }
            Phase::Prepared => true,
            Phase::Ending { commit: asked } if *asked == commit => true,
            _ => return Err(self.refusal()),
        };
        let Some(identity) = self.identity else { return Err(Refusal::Uninitialized) };
        if !touched {
            self.phase = Phase::Ready;
            return Ok(End::Nothing);
        }
        self.phase = Phase::Ending { commit };
        Ok(End::Ask(identity))
    }

    /// The coordinator confirmed the end, and gave another identity perhaps.
    pub fn on_ended(&mut self, next: Option<Identity>) {
        if matches!(self.phase, Phase::Ending { .. }) {
            self.phase = Phase::Ready;
            match next {
                Some(next) => {
                    self.worn = false;
                    self.identity = Some(next);
                }
                // Without a new epoch the old one must not serve twice where that matters.
                None => self.worn |= self.epochs == Epochs::Renewed,
            }
        }
    }

    /// The coordinator refused the end: what became of the transaction is not known here, and the identity is void.
    pub fn on_refused(&mut self) {
        if matches!(self.phase, Phase::Ending { .. }) {
            self.phase = Phase::Uninitialized;
        }
    }

    fn refusal(&self) -> Refusal<E> {
        match &self.phase {
            Phase::Uninitialized => Refusal::Uninitialized,
            Phase::Ready => Refusal::NotOpen,
            Phase::Open { .. } => Refusal::Open,
            Phase::Failed { cause, .. } => Refusal::Failed(cause.clone()),
            Phase::Prepared => Refusal::Prepared,
            Phase::Ending { commit } => Refusal::Ending { commit: *commit },
            Phase::Fenced { cause } => Refusal::Fenced(cause.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::types::{ProducerEpoch, ProducerId};
    use proptest::prelude::*;

    fn identity(epoch: i16) -> Identity {
        Identity { id: ProducerId(1), epoch: ProducerEpoch(epoch) }
    }

    fn open(epochs: Epochs) -> Transaction<&'static str> {
        let mut transaction = Transaction::new();
        transaction.on_initialized(identity(0), epochs);
        transaction.begin().unwrap();
        transaction
    }

    #[test]
    fn a_failed_transaction_can_only_be_aborted_and_says_why() {
        let mut transaction = open(Epochs::Renewed);
        transaction.touch();
        transaction.fail("first");
        transaction.fail("second");
        assert_eq!(transaction.end(true), Err(Refusal::Failed("first")));
        assert_eq!(transaction.prepare(), Err(Refusal::Failed("first")));
        assert_eq!(transaction.end(false), Ok(End::Ask(identity(0))));
        transaction.on_ended(Some(identity(1)));
        assert!(transaction.begin().is_ok());
    }

    #[test]
    fn an_unconfirmed_commit_can_only_be_repeated() {
        let mut transaction = open(Epochs::Kept);
        transaction.touch();
        assert_eq!(transaction.end(true), Ok(End::Ask(identity(0))));
        assert_eq!(transaction.end(false), Err(Refusal::Ending { commit: true }));
        assert_eq!(transaction.begin(), Err(Refusal::Ending { commit: true }));
        assert_eq!(transaction.end(true), Ok(End::Ask(identity(0))));
        transaction.on_ended(None);
        assert!(transaction.begin().is_ok(), "a confirmed commit leaves the epoch usable");
    }

    #[test]
    fn an_epoch_that_was_handed_out_never_serves_a_second_transaction() {
        let mut transaction = open(Epochs::Kept);
        transaction.touch();
        assert_eq!(transaction.prepare(), Ok(true));
        transaction.end(true).unwrap();
        transaction.on_ended(None);
        assert!(transaction.needs_identity());
        assert_eq!(transaction.begin(), Err(Refusal::Uninitialized));
        transaction.on_initialized(identity(1), Epochs::Kept);
        assert!(transaction.begin().is_ok());
    }

    #[test]
    fn an_empty_transaction_asks_nobody() {
        let mut transaction = open(Epochs::Renewed);
        assert_eq!(transaction.prepare(), Ok(false));
        assert_eq!(transaction.end(true), Err(Refusal::NotOpen));
        transaction.begin().unwrap();
        assert_eq!(transaction.end(false), Ok(End::Nothing));
        assert_eq!(transaction.state(), State::Ready);
    }

    proptest! {
        /// Whatever is called in whatever order: one (id, epoch) never ends two transactions unless the first end was confirmed, the epoch is
        /// kept, and nothing of it was handed out or failed; and nothing is committed that failed.
        #[test]
        fn no_history_shares_an_epoch_or_commits_a_failure(
            renewed: bool,
            steps in proptest::collection::vec(0u8..9, 1..60),
        ) {
            let epochs = if renewed { Epochs::Renewed } else { Epochs::Kept };
            let mut transaction = Transaction::<u8>::new();
            let (mut epoch, mut failed, mut handed) = (0, false, Vec::new());
            for step in steps {
                match step {
                    0 => { epoch += 1; transaction.on_initialized(identity(epoch), epochs); failed = false; }
                    1 => if transaction.begin().is_ok() {
                        prop_assert!(!handed.contains(&transaction.identity()), "an epoch was used again");
                        failed = false;
                    },
                    2 => transaction.touch(),
                    3 => if transaction.state() == State::Open { transaction.fail(0); failed = true; },
                    4 => if let Ok(true) = transaction.prepare() { handed.push(transaction.identity()); },
                    5 => if let Ok(End::Ask(_)) = transaction.end(true) { prop_assert!(!failed); },
                    6 => { let _ = transaction.end(false); }
                    7 => if transaction.state() == State::Ending {
                        epoch += 1;
                        transaction.on_ended(renewed.then_some(identity(epoch)));
                    },
                    _ => transaction.on_refused(),
                }
            }
        }
    }
}
