//! A closed batch on its way: its name, its records, and how it ends.

use std::time::Instant;

use milena_protocol::records::{BatchBuilder, BatchOptions, FrozenBatch, RecordBatch};

use super::outcome::Scope;
use super::sequence::Stamp;

/// Names a batch of one accumulator. Parts of a split batch have the name of the whole and their first record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BatchId {
    /// Which batch of the accumulator.
    pub(super) turn: u64,
    /// Its first record in it.
    pub(super) from: u32,
}

/// A batch, or the part of a split one, that is done with.
#[derive(Debug)]
pub struct Settled<C> {
    /// The token of the batch.
    pub token: C,
    /// Which of the token's records it holds: the first and how many.
    pub records: std::ops::Range<u32>,
    /// The bytes to give back to the budget.
    pub refund: usize,
    /// How often it was sent.
    pub attempts: u32,
    /// Since when it waited.
    pub created: Instant,
    /// A try whose answer was lost may have written it.
    pub maybe_written: bool,
}

/// Why a batch failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The broker refused it for good; it was not written.
    Refused(Scope),
    /// A record too large for the topic, alone in its batch.
    TooLarge,
    /// Its time was up and it was surely not written.
    NotWritten,
    /// Its time was up, or a batch before it is missing, after a try whose answer was lost: it may be in the log.
    MaybeWritten,
    /// A batch before it is missing, so it would be out of order; in a transaction that ends the transaction.
    OutOfOrder,
}

/// The records of a batch.
#[derive(Debug)]
pub enum Body {
    /// Still as they were appended.
    Built(BatchBuilder),
    /// Compressed, with a header.
    Frozen(FrozenBatch),
}

/// A batch to be sent.
#[derive(Debug)]
pub struct Transmit {
    /// Its name.
    pub id: BatchId,
    /// Its records.
    pub body: Body,
    /// What to stamp it with; `None` without idempotence.
    pub stamp: Option<Stamp>,
    /// The bytes paid for it.
    pub paid: usize,
}

/// A batch that waits or is in flight.
#[derive(Debug)]
pub(super) struct Batch<C> {
    pub(super) id: BatchId,
    pub(super) token: C,
    pub(super) records: u32,
    /// `None` while it is in flight.
    pub(super) body: Option<Body>,
    pub(super) size: usize,
    pub(super) paid: usize,
    pub(super) created: Instant,
    pub(super) stamp: Option<Stamp>,
    /// A try may have written it, and no answer told.
    pub(super) ambiguous: bool,
    pub(super) attempts: u32,
}

impl<C> Batch<C> {
    pub(super) fn settled(self) -> Settled<C> {
        Settled {
            token: self.token,
            records: self.id.from..self.id.from.saturating_add(self.records),
            refund: self.paid,
            attempts: self.attempts,
            created: self.created,
            maybe_written: self.ambiguous,
        }
    }

    pub(super) fn lapse(&self) -> Failure {
        if self.ambiguous || self.body.is_none() { Failure::MaybeWritten } else { Failure::NotWritten }
    }
}

/// A batch as two of half its records each; `None` if its own bytes can't be read back.
pub(super) fn halves<C: Clone>(batch: &Batch<C>, options: BatchOptions) -> Option<[Batch<C>; 2]> {
    let Some(Body::Frozen(frozen)) = &batch.body else { return None };
    let parsed = RecordBatch::parse(&mut frozen.as_bytes()).ok()??;
    let records = parsed.records().ok()?;
    let middle = batch.records / 2;
    let mut builders = [BatchBuilder::new(options), BatchBuilder::new(options)];
    for (index, record) in (0u32..).zip(records.iter()) {
        let record = record.ok()?;
        let [first, second] = &mut builders;
        let builder = if index < middle { first } else { second };
        builder.push(record.timestamp, record.key, record.value, record.headers).ok()?;
    }
    let [first, second] = builders;
    if first.record_count() != middle || second.record_count() != batch.records - middle {
        return None;
    }
    let part = |builder: BatchBuilder, from: u32, paid: usize| Batch {
        id: BatchId { turn: batch.id.turn, from: batch.id.from + from },
        token: batch.token.clone(),
        records: builder.record_count(),
        size: builder.size_bytes(),
        body: Some(Body::Built(builder)),
        paid,
        created: batch.created,
        stamp: batch.stamp.map(|stamp| Stamp { first: stamp.first.advance(from), ..stamp }),
        ambiguous: batch.ambiguous,
        attempts: batch.attempts,
    };
    let paid = batch.paid / 2;
    Some([part(first, 0, paid), part(second, middle, batch.paid - paid)])
}
