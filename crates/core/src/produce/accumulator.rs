//! The open and closed batches of one partition, in the order in which they must reach the log.
//!
//! ```text
//! push -> open --(full, due, flushed)--> waiting --take--> in flight --handle_answer--> settled
//!                                           ^                  |
//!                                           +------ again -----+
//! ```
//!
//! # Invariants
//! - Batches leave in the order of their records, and a batch that must be repeated goes before those behind it: while a repeat is
//!   outstanding nothing is taken until every batch in flight was answered.
//! - The first batch under a producer id, and the first after a pause, goes alone: a leader without state of the producer, or one that
//!   forgot it, accepts any sequence.
//! - A batch is stamped once per identity. It gets another stamp only when a broker's answer proved that the old one is not in the log.
//! - Every record that was accepted is settled exactly once: acknowledged or failed.
//! - What was paid for a batch is refunded exactly once, when it is settled.
//!
//! # References
//! KIP-98, KIP-360 (a new epoch after a lost sequence), KIP-126 (splitting a batch that is too large).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use milena_protocol::records::{BatchBuilder, BatchOptions, Run};
use milena_protocol::types::ProducerId;

use super::batch::{Batch, halves};
pub use super::batch::{BatchId, Body, Failure, Settled, Transmit};
use super::open::Open;
pub use super::open::{Entry, Opening, Refused, SMALLEST_BUFFER, Supply};
use super::outcome::{Outcome, Remedy};
use super::sequence::{Identity, Sequences};

/// The settings of an accumulator.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How batches are written.
    pub options: BatchOptions,
    /// A batch is closed before it grows over this, in bytes before compression. A larger record gets a batch of its own.
    pub batch_size: usize,
    /// How many batches may be in flight.
    pub max_in_flight: usize,
    /// Whether batches are stamped with an identity.
    pub idempotent: bool,
    /// Whether the identity is that of a transaction: then a lost sequence fails the transaction instead of taking a new epoch.
    pub transactional: bool,
    /// How long a batch may wait for its acknowledgement, from its first record on.
    pub delivery_timeout: Duration,
}

impl Limits {
    /// The limits at brokers that cannot do idempotence: one batch in flight, so that a repeated one does not change the order.
    #[must_use]
    pub fn without_idempotence(self) -> Self {
        Self { idempotent: false, max_in_flight: 1, ..self }
    }
}

/// A record was appended.
#[derive(Debug)]
pub struct Pushed<'a, C> {
    /// The token of its batch.
    pub token: &'a C,
    /// Its place in the token's batch.
    pub index: u32,
    /// It is the first of its batch, which was opened at this time.
    pub opened: Option<Instant>,
    /// The batch before it was closed, because it was full.
    pub closed: bool,
}

/// What became of an answer.
#[derive(Debug)]
pub enum Verdict<C> {
    /// The batch is in the log.
    Acked(Settled<C>),
    /// The batch failed.
    Failed(Settled<C>, Failure),
    /// The batch goes out again after this remedy; it was sent so many times.
    Again(Remedy, u32),
    /// The batch was cut in two, which go out next and are settled apart.
    Split(C),
    /// The partition needs an identity newer than this one to go on.
    NeedsEpoch(Identity),
    /// No such batch is in flight.
    Unknown,
}

/// The batches of one partition. `C` is what the tickets of a batch share.
///
/// Input: [`push`](Self::push), [`handle_answer`](Self::handle_answer), [`expire`](Self::expire); output: [`take`](Self::take).
#[derive(Debug)]
pub struct Accumulator<C> {
    limits: Limits,
    open: Option<Open<C>>,
    queue: VecDeque<Batch<C>>,
    in_flight: usize,
    /// A batch has to be repeated: nothing is taken until all in flight were answered.
    draining: bool,
    /// A sequence was lost under this identity.
    lost: Option<Identity>,
    /// The open batch may be taken although it is not full.
    due: bool,
    /// Nothing is sent again: what comes back fails.
    stopped: bool,
    sequences: Sequences,
    /// Under which producer id a batch of ours is in the log.
    known_as: Option<ProducerId>,
    /// When a broker's answer came last, or was given up.
    last_answer: Option<Instant>,
    turn: u64,
    /// How large the last closed batch was: the next one starts with as much memory.
    usual: usize,
}

impl<C: Clone> Accumulator<C> {
    /// An accumulator without records.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: None,
            queue: VecDeque::new(),
            in_flight: 0,
            draining: false,
            lost: None,
            due: false,
            stopped: false,
            sequences: Sequences::default(),
            known_as: None,
            last_answer: None,
            turn: 0,
            usual: 0,
        }
    }

    /// Appends a record to the open batch; closes it and opens another if it is full.
    ///
    /// # Errors
    /// The budget has no room, or the record can't be written at all. Nothing is changed then, but that a full batch is closed.
    #[inline]
    pub fn push(&mut self, entry: &Entry<'_>, supply: &impl Supply<C>) -> Result<Pushed<'_, C>, Refused> {
        let size = BatchBuilder::record_size_upper_bound(
            entry.key.map_or(0, <[u8]>::len),
            entry.value.map_or(0, <[u8]>::len),
            entry.headers.iter().copied(),
        );
        if self.stopped {
            return Err(Refused::Stopped);
        }
        let mut closed = false;
        match &mut self.open {
            Some(open) if open.takes(size, self.limits.batch_size) => {
                open.make_room(size, self.limits.batch_size, supply)?;
            }
            _ => {
                closed = self.close();
                self.open_batch(size, supply)?;
            }
        }
        let Some(open) = &mut self.open else { return Err(Refused::Full) };
        let headers = entry.headers.iter().copied();
        match open.builder.push(entry.timestamp, entry.key, entry.value, headers) {
            Ok(index) => {
                let opened = (index == 0).then_some(open.created);
                Ok(Pushed { token: &open.token, index, opened, closed })
            }
            Err(error) => Err(Refused::Unwritable(error)),
        }
    }

    /// Appends records to the open batch as it is, as many as fit the memory it has paid for, of which `bytes` are needed; returns its token and
    /// the places of those that were taken. `None` if the next record is one for [`push`](Self::push).
    #[inline]
    pub fn push_run(&mut self, bytes: usize, write: impl FnOnce(&mut Run<'_>)) -> Option<(&C, Range<u32>)> {
        let open = self.open.as_mut().filter(|open| !self.stopped && !open.builder.is_empty())?;
        let first = open.builder.record_count();
        let count = open.builder.push_run(open.paid.min(self.limits.batch_size), bytes, write);
        (count > 0).then_some((&open.token, first..first + count))
    }

    #[cold]
    fn open_batch(&mut self, size: usize, supply: &impl Supply<C>) -> Result<(), Refused> {
        let open = Open::begin(size, self.usual, &self.limits, supply)?;
        let pause = self.last_answer.map(|last| open.created.saturating_duration_since(last));
        if self.queue.is_empty() && pause.is_some_and(|pause| pause > PAUSE) {
            self.known_as = None;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Closes the open batch. Returns whether there was one.
    pub fn close(&mut self) -> bool {
        self.due = false;
        // A batch whose only record was refused stays open for the next one.
        let Some(open) = self.open.take_if(|open| !open.builder.is_empty()) else { return false };
        self.usual = open.builder.size_bytes();
        self.queue.push_back(Batch {
            id: BatchId { turn: self.turn, from: 0 },
            records: open.builder.record_count(),
            size: open.builder.size_bytes(),
            token: open.token,
            body: Some(Body::Built(open.builder)),
            paid: open.paid,
            created: open.created,
            stamp: None,
            ambiguous: false,
            attempts: 0,
        });
        self.turn += 1;
        true
    }

    /// The open batch has lingered long enough (or is wanted now): it is taken when the partition's turn comes, and takes
    /// records until then. Returns whether there is something to take.
    pub fn mark_due(&mut self) -> bool {
        self.due = self.open.as_ref().is_some_and(|open| !open.builder.is_empty());
        self.due || !self.queue.is_empty()
    }

    /// Whether the open batch is due but was not taken yet.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// When the open batch got its first record.
    #[must_use]
    pub fn opened_at(&self) -> Option<Instant> {
        self.open.as_ref().filter(|open| !open.builder.is_empty()).map(|open| open.created)
    }

    /// Whether nothing waits and nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.opened_at().is_none()
    }

    /// How many batches are closed and not settled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many batches are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The identity the partition waits to see replaced.
    #[must_use]
    pub fn lost_identity(&self) -> Option<Identity> {
        self.lost
    }

    /// The size of the batch that [`take`](Self::take) would give, before compression; `None` if it would give none
    /// whatever the identity.
    #[must_use]
    pub fn next_size(&self) -> Option<usize> {
        if self.draining || self.in_flight >= self.window() {
            return None;
        }
        match self.queue.get(self.in_flight) {
            Some(batch) => Some(batch.size),
            None if self.due => self.open.as_ref().map(|open| open.builder.size_bytes()),
            None => None,
        }
    }

    /// How many batches may be in flight now. A leader that knows nothing of a producer takes whatever sequence comes first: if the
    /// first batch failed, the second would be written before it. So the first one goes alone.
    fn window(&self) -> usize {
        let known =
            self.known_as.is_some() && self.known_as == self.sequences.identity().map(|identity| identity.id);
        if self.limits.idempotent && !known { 1 } else { self.limits.max_in_flight }
    }

    /// The next batch to send, stamped for `identity` (the producer's present one). `None` if nothing may be sent now.
    pub fn take(&mut self, identity: Option<Identity>) -> Option<Transmit> {
        self.next_size()?;
        if self.queue.len() == self.in_flight {
            self.close();
        }
        if self.limits.idempotent {
            self.stamp_next(identity?)?;
        }
        let batch = self.queue.get_mut(self.in_flight)?;
        let body = batch.body.take()?;
        batch.attempts += 1;
        self.in_flight += 1;
        Some(Transmit { id: batch.id, body, stamp: batch.stamp, paid: batch.paid })
    }

    /// Stamps the batch that is taken next; `None` if it must wait for another identity.
    fn stamp_next(&mut self, identity: Identity) -> Option<()> {
        if let Some(lost) = self.lost {
            if lost == identity || self.in_flight > 0 {
                return None;
            }
            // The first of them was refused at every try. What was stamped behind it can't be in the log without it, nor get
            // there later.
            for batch in &mut self.queue {
                batch.stamp = None;
                batch.ambiguous = false;
            }
            self.lost = None;
            self.known_as = None;
        }
        let batch = self.queue.get_mut(self.in_flight)?;
        if batch.stamp.is_none() {
            if self.sequences.identity() != Some(identity) {
                if self.in_flight > 0 {
                    return None;
                }
                self.sequences.adopt(identity);
            }
            batch.stamp = self.sequences.stamp(batch.records);
        }
        Some(())
    }

    /// The batch was compressed and takes so many bytes now; returns what to give back to the budget.
    pub fn on_frozen(&mut self, id: BatchId, bytes: usize) -> usize {
        let Some(batch) = self.queue.iter_mut().find(|batch| batch.id == id) else { return 0 };
        batch.size = bytes;
        let refund = batch.paid.saturating_sub(bytes);
        batch.paid -= refund;
        refund
    }

    /// What became of a batch in flight. `body` is what [`take`](Self::take) gave out, needed to send it again.
    pub fn handle_answer(&mut self, id: BatchId, outcome: Outcome, body: Body, now: Instant) -> Verdict<C> {
        let place = self.queue.iter().position(|batch| batch.id == id && batch.body.is_none());
        let Some(place) = place else { return Verdict::Unknown };
        self.in_flight = self.in_flight.saturating_sub(1);
        let verdict = self.judge(place, outcome, body, now);
        if self.in_flight == 0 {
            self.draining = false;
        }
        self.last_answer = Some(now);
        verdict
    }

    fn judge(&mut self, place: usize, outcome: Outcome, body: Body, now: Instant) -> Verdict<C> {
        let limits = self.limits;
        let Some(batch) = self.queue.get_mut(place) else { return Verdict::Unknown };
        let remedy = match outcome {
            Outcome::Acked => {
                self.known_as = batch.stamp.map(|stamp| stamp.identity.id);
                return self.remove(place).map_or(Verdict::Unknown, Verdict::Acked);
            }
            Outcome::Fatal(scope) => return self.fail(place, Failure::Refused(scope)),
            Outcome::Retry(remedy) => remedy,
            Outcome::Ambiguous(remedy) => {
                batch.ambiguous = true;
                remedy
            }
        };
        batch.body = Some(body);
        let late = self.stopped || now.saturating_duration_since(batch.created) >= limits.delivery_timeout;
        let (maybe, identity, attempts) =
            (batch.ambiguous, batch.stamp.map(|stamp| stamp.identity), batch.attempts);
        match remedy {
            Remedy::Split => return self.split(place),
            _ if late => {
                let failure = batch.lapse();
                return self.fail(place, failure);
            }
            // Something before it is not settled: it follows once that is.
            Remedy::Sequence | Remedy::ProducerState if place > 0 => {}
            Remedy::Sequence | Remedy::ProducerState => {
                if limits.transactional {
                    return self.fail(place, Failure::OutOfOrder);
                }
                // An earlier try may be in the log after all, or still on its way to the broker.
                if maybe {
                    return self.fail(place, Failure::MaybeWritten);
                }
                self.draining = self.in_flight > 0;
                self.lost = identity;
                return identity.map_or(Verdict::Again(Remedy::BackOff, attempts), Verdict::NeedsEpoch);
            }
            Remedy::BackOff | Remedy::Metadata => {}
        }
        self.draining = self.in_flight > 0;
        Verdict::Again(remedy, attempts)
    }

    fn remove(&mut self, place: usize) -> Option<Settled<C>> {
        self.queue.remove(place).map(Batch::settled)
    }

    /// Gives a batch up. If it was surely not written and was the last one stamped, its sequences are free again;
    /// otherwise the answer to the next one says what the broker knows.
    fn fail(&mut self, place: usize, failure: Failure) -> Verdict<C> {
        let Some(batch) = self.queue.remove(place) else { return Verdict::Unknown };
        if let Some(stamp) = batch.stamp
            && !batch.ambiguous
        {
            self.sequences.give_back(stamp, batch.records);
        }
        Verdict::Failed(batch.settled(), failure)
    }

    /// Cuts a batch in two. The parts keep its sequences, so the batches behind it keep theirs.
    fn split(&mut self, place: usize) -> Verdict<C> {
        let parts = match self.queue.get(place) {
            Some(batch) if batch.records > 1 => halves(batch, self.limits.options),
            _ => None,
        };
        let Some([first, second]) = parts else { return self.fail(place, Failure::TooLarge) };
        let token = first.token.clone();
        self.queue.remove(place);
        self.queue.insert(place, second);
        self.queue.insert(place, first);
        self.draining = self.in_flight > 0;
        Verdict::Split(token)
    }

    /// Gives up what waits and whose time is up. Batches in flight are judged at their answer.
    pub fn expire(&mut self, now: Instant) -> Vec<(Settled<C>, Failure)> {
        let timeout = self.limits.delivery_timeout;
        if self.opened_at().is_some_and(|opened| now.saturating_duration_since(opened) >= timeout) {
            self.close();
        }
        self.give_up(|batch| now.saturating_duration_since(batch.created) >= timeout)
    }

    /// Gives up all that waits; what is in flight fails at its answer unless that is an acknowledgement. Until
    /// [`resume`](Self::resume) nothing is taken in and nothing is sent again.
    pub fn stop(&mut self) -> Vec<(Settled<C>, Failure)> {
        self.stopped = true;
        self.close();
        self.give_up(|_| true)
    }

    /// Whether [`stop`](Self::stop) is in effect.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The broker cannot do idempotence: batches are not stamped from now on, and go out one after the other, which keeps their order
    /// when one is repeated. To be called before anything was stamped.
    pub fn give_up_idempotence(&mut self) {
        self.limits = self.limits.without_idempotence();
    }

    /// Ends the effect of [`stop`](Self::stop).
    pub fn resume(&mut self) {
        self.stopped = false;
    }

    /// Gives up everything, also what is in flight: that may have been written. Answers that still come are of
    /// [unknown](Verdict::Unknown) batches.
    pub fn abandon(&mut self) -> Vec<(Settled<C>, Failure)> {
        self.stopped = true;
        self.close();
        self.in_flight = 0;
        self.draining = false;
        self.lost = None;
        let gone = self.queue.drain(..);
        gone.map(|batch| (batch.lapse(), batch)).map(|(failure, batch)| (batch.settled(), failure)).collect()
    }

    fn give_up(&mut self, which: impl Fn(&Batch<C>) -> bool) -> Vec<(Settled<C>, Failure)> {
        let mut gone = Vec::new();
        // From the last to the first, so that the sequences of a whole tail can be given back.
        for place in (0..self.queue.len()).rev() {
            let Some(batch) = self.queue.get(place) else { continue };
            if batch.body.is_none() || !which(batch) {
                continue;
            }
            let failure = batch.lapse();
            if let Verdict::Failed(settled, failure) = self.fail(place, failure) {
                gone.push((settled, failure));
            }
        }
        if self.queue.is_empty() {
            self.lost = None;
        }
        gone.reverse();
        gone
    }

    /// The tokens of all that is not settled, in order; a token may come more than once.
    pub fn unsettled(&self) -> impl Iterator<Item = &C> {
        let open = self.open.iter().filter(|open| !open.builder.is_empty());
        self.queue.iter().map(|batch| &batch.token).chain(open.map(|open| &open.token))
    }
}

/// After so long without a batch a leader may have forgotten the producer (`producer.id.expiration.ms`, a day unless it was changed). The
/// price of a short one is that a batch goes alone where there was nothing to send anyway.
const PAUSE: Duration = Duration::from_secs(1);
