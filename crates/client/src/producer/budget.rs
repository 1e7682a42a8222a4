//! The bytes a producer may hold, and the memory of batches for reuse.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use milena_core::produce::accumulator::SMALLEST_BUFFER;
use tokio::sync::Notify;

/// Bytes left of `buffer_memory`.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
    total: usize,
    /// Senders that wait for room.
    waiting: AtomicUsize,
    room: Notify,
}

impl Budget {
    pub(crate) fn new(total: usize) -> Self {
        Self { left: AtomicUsize::new(total), total, waiting: AtomicUsize::new(0), room: Notify::new() }
    }

    /// Takes so many bytes, or none.
    pub(crate) fn pay(&self, bytes: usize) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(bytes)).is_ok()
    }

    /// Gives bytes back and wakes who waits for them.
    pub(crate) fn refund(&self, bytes: usize) {
        if bytes > 0 {
            self.left.fetch_add(bytes, Ordering::AcqRel);
            if self.waiting.load(Ordering::Acquire) > 0 {
                self.room.notify_waiters();
            }
        }
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.total.saturating_sub(self.left.load(Ordering::Acquire))
    }

    /// Registers a sender that waits for room. To be made before the try that may fail, so that no refund is missed.
    pub(crate) fn waiter(&self) -> Waiter<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiter { budget: self }
    }
}

/// A sender that waits.
pub(crate) struct Waiter<'a> {
    budget: &'a Budget,
}

impl Waiter<'_> {
    /// The next refund. It counts from the call on, not from the first poll on.
    pub(crate) fn refunded(&self) -> tokio::sync::futures::Notified<'_> {
        self.budget.room.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.budget.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The memory of batches for reuse: buffers of a few sizes, each twice the one before.
///
/// What lies here is not in use, so the budget does not count it. Together with what is in use it stays below the budget's total.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// The sizes, the smallest first; the last is that of a full batch.
    sizes: Vec<usize>,
    total: usize,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    /// By size. The last one given is the first one taken: its memory is still in the processor's cache.
    by_size: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

impl Free {
    /// Drops what is over so many bytes, the largest first.
    fn shrink(&mut self, most: usize) {
        for same in self.by_size.iter_mut().rev() {
            while self.bytes > most
                && let Some(dropped) = same.pop()
            {
                self.bytes -= dropped.capacity();
            }
        }
    }
}

impl Buffers {
    /// Buffers for batches of up to `batch_size` bytes, `total` bytes in all.
    pub(crate) fn new(batch_size: usize, total: usize) -> Self {
        let doubled = std::iter::successors(Some(SMALLEST_BUFFER), |size| size.checked_mul(2));
        let mut sizes: Vec<usize> = doubled.take_while(|&size| size < batch_size).collect();
        sizes.push(batch_size);
        let by_size = sizes.iter().map(|_| Vec::new()).collect();
        Self { sizes, total, free: Mutex::new(Free { by_size, bytes: 0 }) }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of exactly `capacity` bytes; an empty one if there is none. `used` are the bytes in use, with these.
    pub(crate) fn take(&self, capacity: usize, used: usize) -> Vec<u8> {
        let place = self.sizes.binary_search(&capacity).ok();
        let mut free = self.free();
        let found = place.and_then(|place| free.by_size.get_mut(place)).and_then(Vec::pop);
        if let Some(buffer) = found {
            free.bytes -= buffer.capacity();
            return buffer;
        }
        // The caller allocates.
        free.shrink(self.total.saturating_sub(used));
        Vec::new()
    }

    /// A buffer in use grows: those that are not make place. `used` are the bytes in use, with the growth.
    pub(crate) fn make_place(&self, used: usize) {
        self.free().shrink(self.total.saturating_sub(used));
    }

    /// Takes a buffer back, if it is of one of the sizes and there is place. `used` are the bytes in use, without it.
    pub(crate) fn give(&self, buffer: Vec<u8>, used: usize) {
        let capacity = buffer.capacity();
        let Ok(place) = self.sizes.binary_search(&capacity) else { return };
        let mut free = self.free();
        if free.bytes.saturating_add(capacity).saturating_add(used) > self.total {
            return;
        }
        if let Some(same) = free.by_size.get_mut(place) {
            same.push(buffer);
            free.bytes += capacity;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refund_between_the_try_and_the_wait_is_not_missed() {
        let budget = Budget::new(10);
        assert!(budget.pay(10) && !budget.pay(1));
        let waiter = budget.waiter();
        let refunded = waiter.refunded();
        assert!(!budget.pay(5));
        budget.refund(5);
        tokio::time::timeout(std::time::Duration::from_secs(5), refunded).await.unwrap();
        assert!(budget.pay(5));
        drop(waiter);
        assert_eq!(budget.waiting.load(Ordering::Acquire), 0);
        assert_eq!(budget.used(), 10);
    }

    #[test]
    fn buffers_are_reused_by_size_and_with_what_is_used_stay_below_the_total() {
        let buffers = Buffers::new(10_000, 20_000);
        assert_eq!(buffers.sizes, [2048, 4096, 8192, 10_000]);
        for capacity in [2048, 2049, 10_000, 4096] {
            buffers.give(Vec::with_capacity(capacity), 0);
        }
        assert_eq!(buffers.free().bytes, 2048 + 10_000 + 4096, "no buffer of an odd size");
        assert_eq!(buffers.take(4096, 4096).capacity(), 4096);
        assert_eq!(buffers.take(4096, 4096).capacity(), 0);
        buffers.give(Vec::with_capacity(4096), 10_000);
        assert_eq!(buffers.free().bytes, 2048 + 10_000, "no place for more");
        assert_eq!(buffers.take(8192, 8192).capacity(), 0);
        assert_eq!(buffers.free().bytes, 2048, "the large one made place");
        assert_eq!(buffers.take(2048, 10_000).capacity(), 2048);
        for _ in 0..5 {
            buffers.give(Vec::with_capacity(2048), 0);
        }
        buffers.make_place(15_000);
        assert_eq!(buffers.free().bytes, 2 * 2048, "what grows takes the place of what is free");
    }
}
