//! Completion of records, counted by batch: a ticket is a reference to its batch and a number.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use milena_protocol::types::{Offset, TopicPartition};

use super::record::RecordMetadata;
use crate::error::{Error, Result};

/// What the tickets of one batch share.
#[derive(Debug)]
pub(crate) struct BatchState {
    tp: TopicPartition,
    /// Parts that are not settled: 1 until the batch is split.
    open_parts: AtomicU32,
    /// Flushes that report this batch's error; without one, the next flush does.
    watched: AtomicU32,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    parts: Vec<SettledPart>,
    wakers: Vec<Waker>,
}

#[derive(Debug)]
struct SettledPart {
    records: Range<u32>,
    result: Result<Delivered>,
}

/// Where a batch was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    /// The offset of its first record.
    pub(crate) base: Option<Offset>,
    /// The time the broker gave its records, if it did.
    pub(crate) time: Option<i64>,
}

impl BatchState {
    pub(crate) fn new(tp: TopicPartition) -> Arc<Self> {
        Arc::new(Self {
            tp,
            open_parts: AtomicU32::new(1),
            watched: AtomicU32::new(0),
            progress: Mutex::default(),
        })
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One part has become two.
    pub(crate) fn on_split(&self) {
        self.open_parts.fetch_add(1, Ordering::AcqRel);
    }

    /// Settles a part and wakes all who wait. Returns whether an error is nobody's yet.
    pub(crate) fn settle(&self, records: Range<u32>, result: Result<Delivered>) -> bool {
        let failed = result.is_err();
        let wakers = {
            let mut progress = self.progress();
            progress.parts.push(SettledPart { records, result });
            self.open_parts.fetch_sub(1, Ordering::AcqRel);
            std::mem::take(&mut progress.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        failed && self.watched.load(Ordering::Acquire) == 0
    }

    /// Whether all parts are settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.open_parts.load(Ordering::Acquire) == 0
    }

    /// The first error of its parts.
    pub(crate) fn error(&self) -> Option<Error> {
        self.progress().parts.iter().find_map(|part| part.result.as_ref().err().cloned())
    }

    fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_settled() {
            return Poll::Ready(());
        }
        let mut progress = self.progress();
        if self.is_settled() {
            return Poll::Ready(());
        }
        progress.wait(cx.waker(), &mut None);
        Poll::Pending
    }
}

impl Progress {
    /// Notes whom to wake; `place` is where this waiter was noted before.
    fn wait(&mut self, waker: &Waker, place: &mut Option<usize>) {
        if let Some(noted) = place.and_then(|place| self.wakers.get_mut(place)) {
            noted.clone_from(waker);
            return;
        }
        // One task that awaits many tickets of a batch is woken once.
        if self.wakers.last().is_some_and(|last| last.will_wake(waker)) {
            return;
        }
        *place = Some(self.wakers.len());
        self.wakers.push(waker.clone());
    }
}

/// The acknowledgement of one record, a future. It resolves when the record is settled: in the log, or failed.
///
/// Dropping it changes nothing: the record is sent all the same, and [`flush`](crate::Producer::flush) reports its
/// failure.
///
/// An error tells whether the record may have been written all the same: see [`Error::maybe_applied`].
#[derive(Debug)]
#[must_use = "dropping a ticket is fine, but then only `flush` reports a failure"]
pub struct Ticket {
    batch: Arc<BatchState>,
    index: u32,
    place: Option<usize>,
    timestamp: i64,
}

impl Ticket {
    pub(crate) fn new(batch: &Arc<BatchState>, index: u32, timestamp: i64) -> Self {
        Self { batch: Arc::clone(batch), index, place: None, timestamp }
    }

    pub(crate) fn batch(&self) -> &Arc<BatchState> {
        &self.batch
    }

    /// The topic and partition the record goes to.
    #[must_use]
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.batch.tp
    }

    /// The result if it is known by now.
    #[must_use]
    pub fn result(&self) -> Option<Result<RecordMetadata>> {
        self.read(&self.batch.progress())
    }

    fn read(&self, progress: &Progress) -> Option<Result<RecordMetadata>> {
        let part = progress.parts.iter().find(|part| part.records.contains(&self.index))?;
        Some(part.result.as_ref().map_err(Error::clone).map(|delivered| RecordMetadata {
            topic_partition: self.batch.tp.clone(),
            offset: delivered.base.map(|base| base + i64::from(self.index - part.records.start)),
            timestamp: delivered.time.unwrap_or(self.timestamp),
        }))
    }
}

impl Future for Ticket {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let batch = Arc::clone(&self.batch);
        let mut progress = batch.progress();
        if let Some(result) = self.read(&progress) {
            return Poll::Ready(result);
        }
        let mut place = self.place;
        progress.wait(cx.waker(), &mut place);
        self.place = place;
        Poll::Pending
    }
}

/// The batches a flush waits for.
#[derive(Debug, Default)]
pub(crate) struct FlushSet {
    batches: Vec<Arc<BatchState>>,
}

impl FlushSet {
    /// Takes over the report of a batch's failure.
    pub(crate) fn watch(&mut self, batch: &Arc<BatchState>) {
        if self.batches.last().is_some_and(|last| Arc::ptr_eq(last, batch)) {
            return;
        }
        batch.watched.fetch_add(1, Ordering::AcqRel);
        self.batches.push(Arc::clone(batch));
    }

    /// Waits until all are settled; the first error among them, in the order in which they were sent.
    ///
    /// # Cancellation
    /// What failed and was not returned is left to the next flush.
    pub(crate) async fn settled(mut self, unclaimed: &impl Fn(Error)) -> Option<Error> {
        let guard = Unwatch { set: &mut self, unclaimed };
        for batch in &guard.set.batches {
            std::future::poll_fn(|cx| batch.poll_settled(cx)).await;
        }
        let first = guard.set.batches.iter().find_map(|batch| batch.error());
        guard.set.batches.clear();
        first
    }
}

struct Unwatch<'a, F: Fn(Error)> {
    set: &'a mut FlushSet,
    unclaimed: &'a F,
}

impl<F: Fn(Error)> Drop for Unwatch<'_, F> {
    fn drop(&mut self) {
        for batch in self.set.batches.drain(..) {
            if batch.watched.fetch_sub(1, Ordering::AcqRel) == 1
                && let Some(error) = batch.error()
            {
                (self.unclaimed)(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn delivered(base: i64) -> Result<Delivered> {
        Ok(Delivered { base: Some(Offset(base)), time: None })
    }

    #[tokio::test]
    async fn tickets_of_a_split_batch_get_the_offset_of_their_part() {
        let state = BatchState::new(TopicPartition::new("t", 3));
        let tickets: Vec<Ticket> = (0..4).map(|index| Ticket::new(&state, index, 7)).collect();
        state.on_split();
        state.settle(0..2, delivered(10));
        assert!(!state.is_settled());
        assert!(tickets[3].result().is_none());
        state.settle(2..4, delivered(50));
        assert!(state.is_settled());
        let mut offsets = Vec::new();
        for ticket in tickets {
            let metadata = ticket.await.unwrap();
            assert_eq!((metadata.timestamp, metadata.topic_partition.partition.0), (7, 3));
            offsets.push(metadata.offset.unwrap().0);
        }
        assert_eq!(offsets, [10, 11, 50, 51]);
    }

    #[tokio::test]
    async fn every_waiter_is_woken_whatever_task_it_waits_in() {
        let state = BatchState::new(TopicPartition::new("t", 0));
        let tasks: Vec<_> = (0..50).map(|index| tokio::spawn(Ticket::new(&state, index, 0))).collect();
        let both = tokio::spawn({
            let (a, b) = (Ticket::new(&state, 50, 0), Ticket::new(&state, 51, 0));
            async move { tokio::join!(a, b) }
        });
        tokio::task::yield_now().await;
        state.settle(0..52, delivered(0));
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let (a, b) = both.await.unwrap();
        assert_eq!((a.unwrap().offset, b.unwrap().offset), (Some(Offset(50)), Some(Offset(51))));
    }

    #[tokio::test]
    async fn a_flush_that_is_dropped_leaves_the_error_to_the_next() {
        let state = BatchState::new(TopicPartition::new("t", 0));
        let left = Mutex::new(Vec::new());
        let note = |error: Error| left.lock().unwrap().push(error);
        let mut set = FlushSet::default();
        set.watch(&state);
        {
            let waiting = set.settled(&note);
            tokio::pin!(waiting);
            let polled = std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
            assert!(polled);
            assert!(!state.settle(0..1, Err(Error::new(ErrorKind::Timeout, "late"))), "the flush has it");
        }
        assert_eq!(left.lock().unwrap().len(), 1);
        let other = BatchState::new(TopicPartition::new("t", 0));
        assert!(other.settle(0..1, Err(Error::new(ErrorKind::Timeout, "late"))), "nobody has it");
    }
}
