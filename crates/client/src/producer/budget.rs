//! The bytes a producer may hold, and the memory of batches for reuse.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// Buffers of full batches for reuse.
#[derive(Debug)]
pub(crate) struct Buffers {
    size: usize,
    most: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Keeps up to `most` buffers of about `size` bytes.
    pub(crate) fn new(size: usize, most: usize) -> Self {
        Self { size, most, free: Mutex::default() }
    }

    /// A buffer of at most `capacity` bytes; empty if none fits.
    pub(crate) fn take(&self, capacity: usize) -> Vec<u8> {
        // Small batches would only waste large buffers.
        if capacity < self.size / 2 {
            return Vec::new();
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop_if(|buffer| buffer.capacity() <= capacity).unwrap_or_default()
    }

    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if buffer.capacity() < self.size / 2 || buffer.capacity() > self.size {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.most {
            free.push(buffer);
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
    fn buffers_are_reused_for_full_batches_only() {
        let buffers = Buffers::new(1000, 1);
        buffers.give(Vec::with_capacity(900));
        buffers.give(Vec::with_capacity(950));
        assert_eq!(buffers.take(100).capacity(), 0);
        assert_eq!(buffers.take(800).capacity(), 0);
        assert_eq!(buffers.take(1000).capacity(), 900);
        assert_eq!(buffers.take(1000).capacity(), 0);
    }
}
