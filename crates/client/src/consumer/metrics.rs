//! What a consumer counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a consumer did since its start, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerMetrics {
    /// Fetch requests answered.
    pub fetches: u64,
    /// Fetch requests that failed, or whose answer could not be used.
    pub failed_fetches: u64,
    /// Bytes of answers.
    pub bytes: u64,
    /// Batches that went to the application's queue.
    pub batches: u64,
    /// Parts of answers that were thrown away, since the application paused, sought or removed the partition meanwhile.
    pub stale_parts: u64,
    /// Lookups of where to start, and resets.
    pub resets: u64,
    /// Positions that were held against the log of a new leader.
    pub validations: u64,
    /// Partitions that the application was told of: they are not read any more.
    pub failures: u64,
    /// Times that a partition stayed without a fetch longer than its state allows.
    pub stalls: u64,
    /// For how long brokers asked to be left alone for the sake of a quota, added up (KIP-219).
    pub throttled: Duration,
    /// Bytes of `buffer_bytes` in use now.
    pub buffered_bytes: u64,
    /// The most bytes that were ever in use.
    pub peak_buffered_bytes: u64,
}

/// The counters behind [`ConsumerMetrics`]. Written once an answer.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) fetches: AtomicU64,
    pub(crate) failed_fetches: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) stale_parts: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) validations: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) stalls: AtomicU64,
    throttled_ms: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn on_throttled(&self, time: Duration) {
        if !time.is_zero() {
            self.throttled_ms
                .fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self, held: usize, peak: usize) -> ConsumerMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConsumerMetrics {
            fetches: read(&self.fetches),
            failed_fetches: read(&self.failed_fetches),
            bytes: read(&self.bytes),
            batches: read(&self.batches),
            stale_parts: read(&self.stale_parts),
            resets: read(&self.resets),
            validations: read(&self.validations),
            failures: read(&self.failures),
            stalls: read(&self.stalls),
            throttled: Duration::from_millis(read(&self.throttled_ms)),
            buffered_bytes: held as u64,
            peak_buffered_bytes: peak as u64,
        }
    }
}
