//! The open batch: the memory it pays for, and the records it takes.

use std::time::Instant;

use milena_protocol::ProtocolError;
use milena_protocol::records::{BatchBuilder, HEADER_LEN, Header};

use super::accumulator::Limits;

/// A record to append. Times are in ms since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The time.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [Header<'a>],
}

/// Where memory and completions come from.
pub trait Supply<C> {
    /// Takes so many bytes from the budget, or returns `false` and takes none.
    fn pay(&self, bytes: usize) -> bool;
    /// As [`pay`](Self::pay), for a buffer that grows instead of a new one.
    fn pay_growth(&self, bytes: usize) -> bool {
        self.pay(bytes)
    }
    /// What a new batch starts with. `capacity` bytes were paid for its buffer; the buffer may have fewer, not more.
    fn open(&self, capacity: usize) -> Opening<C>;
}

/// What a new batch starts with.
#[derive(Debug)]
pub struct Opening<C> {
    /// What its records' tickets point at.
    pub token: C,
    /// The memory for it.
    pub buffer: Vec<u8>,
    /// The time now.
    pub now: Instant,
}

/// A record was not appended.
#[derive(Debug)]
pub enum Refused {
    /// The budget has no room for it now.
    Full,
    /// The accumulator was [stopped](super::Accumulator::stop).
    Stopped,
    /// It can never be written.
    Unwritable(ProtocolError),
}

/// The batch that takes records.
#[derive(Debug)]
pub(super) struct Open<C> {
    pub(super) builder: BatchBuilder,
    pub(super) token: C,
    pub(super) paid: usize,
    pub(super) created: Instant,
}

impl<C> Open<C> {
    /// A batch with room for a record of `size` bytes; as large as the last one of its partition was, if that can be paid for.
    pub(super) fn begin(
        size: usize,
        usual: usize,
        limits: &Limits,
        supply: &impl Supply<C>,
    ) -> Result<Self, Refused> {
        let least = size.saturating_add(HEADER_LEN);
        let wished = usual.max(SMALLEST_BUFFER).next_power_of_two().min(limits.batch_size).max(least);
        let paid = if supply.pay(wished) {
            wished
        } else if supply.pay(least) {
            least
        } else {
            return Err(Refused::Full);
        };
        let Opening { token, mut buffer, now } = supply.open(paid);
        if buffer.capacity() < paid {
            buffer = Vec::with_capacity(paid);
        }
        let builder = BatchBuilder::with_buffer(limits.options, buffer);
        Ok(Self { builder, token, paid, created: now })
    }

    #[inline]
    pub(super) fn takes(&self, record: usize, batch_size: usize) -> bool {
        self.builder.is_empty() || self.builder.size_bytes().saturating_add(record) <= batch_size
    }

    /// Pays for what the buffer is about to grow to: twice its size, or what the record needs.
    #[inline]
    pub(super) fn make_room(
        &mut self,
        record: usize,
        batch_size: usize,
        supply: &impl Supply<C>,
    ) -> Result<(), Refused> {
        let needed = self.builder.size_bytes().saturating_add(record);
        if needed <= self.paid {
            return Ok(());
        }
        self.grow(needed, batch_size, supply)
    }

    #[cold]
    fn grow(&mut self, needed: usize, batch_size: usize, supply: &impl Supply<C>) -> Result<(), Refused> {
        let doubled = self.paid.saturating_mul(2).min(batch_size).max(needed);
        for target in [doubled, needed] {
            if supply.pay_growth(target - self.paid) {
                self.paid = target;
                return Ok(());
            }
        }
        Err(Refused::Full)
    }
}

/// The memory a batch starts with when nothing is known about its partition's rate, in bytes. Buffers have this size, twice, four times and
/// so on, up to that of a full batch.
pub const SMALLEST_BUFFER: usize = 2048;
