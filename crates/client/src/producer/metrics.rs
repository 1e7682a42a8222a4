//! What a producer counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a producer did since its start, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerMetrics {
    /// Records acknowledged.
    pub records: u64,
    /// Bytes of batches sent, repeats included, after compression.
    pub bytes: u64,
    /// Batches sent, repeats included.
    pub batches: u64,
    /// Produce requests sent.
    pub requests: u64,
    /// Records that failed.
    pub errors: u64,
    /// Batches that had to be sent again.
    pub retries: u64,
    /// Batches cut in two because they were too large for their topic.
    pub splits: u64,
    /// Times the producer took a new epoch because a sequence was lost.
    pub epochs: u64,
    /// Bytes of `buffer_memory` in use now.
    pub buffered_bytes: u64,
    /// Whether batches carry a producer id, so that a repeat writes nothing twice; `None` until the first batch.
    pub idempotent: Option<bool>,
}

/// The counters behind [`ProducerMetrics`]. Written once a batch or a request.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    retries: AtomicU64,
    splits: AtomicU64,
    epochs: AtomicU64,
}

impl Counts {
    pub(crate) fn on_acked(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(crate) fn on_failed(&self, records: usize) {
        self.errors.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(crate) fn on_sent(&self, batches: usize, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.batches.fetch_add(batches as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn on_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn on_split(&self) {
        self.splits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn on_epoch(&self) {
        self.epochs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, buffered: usize, idempotent: Option<bool>) -> ProducerMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProducerMetrics {
            records: read(&self.records),
            bytes: read(&self.bytes),
            batches: read(&self.batches),
            requests: read(&self.requests),
            errors: read(&self.errors),
            retries: read(&self.retries),
            splits: read(&self.splits),
            epochs: read(&self.epochs),
            buffered_bytes: buffered as u64,
            idempotent,
        }
    }
}
