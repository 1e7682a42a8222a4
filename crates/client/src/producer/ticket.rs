//! Completion of records, counted by batch: a ticket is a reference to its batch and a number.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use milena_protocol::types::{Offset, TopicPartition};
use smallvec::SmallVec;

use super::record::RecordMetadata;
use crate::error::{Error, Result};

/// What the tickets of one batch share.
#[derive(Debug)]
pub(crate) struct BatchState {
    tp: TopicPartition,
    /// The time of its first record in ms since 1970; tickets have theirs as the distance to it.
    time: i64,
    /// Parts that are not settled: 1 until the batch is split.
    open_parts: AtomicU32,
    /// Flushes that report this batch's error; without one, the next flush does.
    watched: AtomicU32,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    parts: Vec<SettledPart>,
    /// Who waits, by key. A ticket's key is its index, others draw theirs.
    wakers: Vec<(u64, Waker)>,
    drawn: u64,
    /// Times too far from the batch's for a ticket to hold.
    far_times: Vec<(u32, i64)>,
    callbacks: Vec<Called>,
}

/// A record's callback, and what else its result is made of.
struct Called {
    index: u32,
    timestamp: i64,
    call: Callback,
}

/// What is called when a record is settled.
pub(crate) type Callback = Box<dyn FnOnce(Result<RecordMetadata>) + Send>;

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("parts", &self.parts).finish_non_exhaustive()
    }
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
    /// The state of a batch whose first record has this time.
    pub(crate) fn new(tp: TopicPartition, time: i64) -> Arc<Self> {
        Arc::new(Self {
            tp,
            time,
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

    /// Has a function called when a record is settled. To be called before the batch can be.
    pub(crate) fn on_settled(&self, index: u32, timestamp: i64, call: Callback) {
        self.progress().callbacks.push(Called { index, timestamp, call });
    }

    /// Settles a part, wakes all who wait and calls back. Returns whether an error is nobody's yet.
    pub(crate) fn settle(&self, records: Range<u32>, result: Result<Delivered>) -> bool {
        let failed = result.is_err();
        let (wakers, mut called) = {
            let mut progress = self.progress();
            let called = match progress.callbacks.is_empty() {
                true => Vec::new(),
                false => {
                    progress.callbacks.extract_if(.., |called| records.contains(&called.index)).collect()
                }
            };
            progress.parts.push(SettledPart { records: records.clone(), result: result.clone() });
            self.open_parts.fetch_sub(1, Ordering::AcqRel);
            (std::mem::take(&mut progress.wakers), called)
        };
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
        let part = SettledPart { records, result };
        for Called { index, timestamp, call } in called.drain(..) {
            call(self.metadata(&part, index, timestamp));
        }
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

    /// The first error of the parts these records are in.
    fn error_in(&self, records: &Range<u32>) -> Option<Error> {
        let overlaps =
            |part: &&SettledPart| part.records.start < records.end && records.start < part.records.end;
        self.progress().parts.iter().filter(overlaps).find_map(|part| part.result.as_ref().err().cloned())
    }

    /// `key` is where this waiter was noted before.
    fn poll_settled(&self, cx: &Context<'_>, key: &mut Option<u64>) -> Poll<()> {
        if self.is_settled() {
            return Poll::Ready(());
        }
        let mut progress = self.progress();
        if self.is_settled() {
            return Poll::Ready(());
        }
        let key = *key.get_or_insert_with(|| {
            progress.drawn += 1;
            u64::from(u32::MAX) + progress.drawn
        });
        progress.wait(cx.waker(), key);
        Poll::Pending
    }

    fn metadata(&self, part: &SettledPart, index: u32, timestamp: i64) -> Result<RecordMetadata> {
        let delivered = part.result.as_ref().map_err(Error::clone)?;
        Ok(RecordMetadata {
            topic_partition: self.tp.clone(),
            offset: delivered.base.map(|base| base + i64::from(index.saturating_sub(part.records.start))),
            timestamp: delivered.time.unwrap_or(timestamp),
        })
    }
}

impl Progress {
    /// Notes whom to wake.
    fn wait(&mut self, waker: &Waker, key: u64) {
        // One task that awaits many tickets of a batch is woken once.
        if self.wakers.last().is_some_and(|(_, last)| last.will_wake(waker)) {
            return;
        }
        // Tickets are most often awaited in their order, so the place is most often the end.
        match self.wakers.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(place) => {
                if let Some((_, noted)) = self.wakers.get_mut(place) {
                    noted.clone_from(waker);
                }
            }
            Err(place) => self.wakers.insert(place, (key, waker.clone())),
        }
    }
}

/// The acknowledgement of one record, a future. It resolves when the record is settled: in the log, or failed.
///
/// Two words large. Dropping it changes nothing: the record is sent all the same, and [`flush`](crate::Producer::flush) reports its
/// failure.
///
/// An error tells whether the record may have been written all the same: see [`Error::maybe_applied`].
#[derive(Debug)]
#[must_use = "dropping a ticket is fine, but then only `flush` reports a failure"]
pub struct Ticket {
    batch: Arc<BatchState>,
    index: u32,
    /// The record's time less its batch's, in ms; [`FAR`] for one that is noted with the batch.
    delta: i32,
}

/// Stands for a time that is not within 24 days of the batch's.
const FAR: i32 = i32::MIN;

impl Ticket {
    #[inline]
    pub(crate) fn new(batch: &Arc<BatchState>, index: u32, timestamp: i64) -> Self {
        let near = timestamp.checked_sub(batch.time).and_then(|delta| i32::try_from(delta).ok());
        let delta = match near {
            Some(delta) if delta != FAR => delta,
            _ => Self::note_far(batch, index, timestamp),
        };
        Self { batch: Arc::clone(batch), index, delta }
    }

    #[cold]
    fn note_far(batch: &BatchState, index: u32, timestamp: i64) -> i32 {
        batch.progress().far_times.push((index, timestamp));
        FAR
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
        let timestamp = match self.delta {
            FAR => progress
                .far_times
                .iter()
                .find(|(index, _)| *index == self.index)
                .map_or(-1, |(_, time)| *time),
            delta => self.batch.time + i64::from(delta),
        };
        Some(self.batch.metadata(part, self.index, timestamp))
    }
}

impl Future for Ticket {
    type Output = Result<RecordMetadata>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut progress = self.batch.progress();
        if let Some(result) = self.read(&progress) {
            return Poll::Ready(result);
        }
        progress.wait(cx.waker(), u64::from(self.index));
        Poll::Pending
    }
}

/// The acknowledgements of many records that were sent by one call, a future: it resolves when all are settled, with the first error among
/// them in the order in which they were sent.
///
/// Dropping it changes nothing, as for a [`Ticket`].
#[derive(Debug, Default)]
#[must_use = "dropping tickets is fine, but then only `flush` reports a failure"]
pub struct Tickets {
    /// Most calls write to one batch, or to two.
    spans: SmallVec<[Span; 2]>,
    /// How many spans, from the first on, are settled.
    settled: usize,
    /// Where the next span was told to wake.
    key: Option<u64>,
    error: Option<Error>,
}

/// Adds a run of records to tickets. Where the last span ends is kept here until the run is over: in a register, most often.
pub(crate) struct Adding<'t> {
    tickets: &'t mut Tickets,
    /// The address of the last span's batch, where it ends, and its time.
    last: Option<(usize, u32, i64)>,
}

impl<'t> Adding<'t> {
    pub(crate) fn new(tickets: &'t mut Tickets) -> Self {
        Self { tickets, last: None }
    }

    /// Adds the records after the last one. They have the same time.
    #[inline]
    pub(crate) fn add(&mut self, batch: &Arc<BatchState>, records: Range<u32>, timestamp: i64) {
        let address = Arc::as_ptr(batch).addr();
        if self.last != Some((address, records.start, timestamp)) {
            self.tickets.begin(self.last.map(|(_, end, _)| end), batch, records.start, timestamp);
        }
        self.last = Some((address, records.end, timestamp));
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.tickets.end_last(self.last.map(|(_, end, _)| end));
    }
}

/// Records that stand next to each other in a batch and have the same time.
#[derive(Debug)]
struct Span {
    batch: Arc<BatchState>,
    records: Range<u32>,
    timestamp: i64,
}

impl Tickets {
    /// Adds the record after the last one.
    #[inline]
    pub(crate) fn add(&mut self, batch: &Arc<BatchState>, index: u32, timestamp: i64) {
        if let Some(last) = self.spans.last_mut()
            && last.records.end == index
            && last.timestamp == timestamp
            && Arc::ptr_eq(&last.batch, batch)
        {
            last.records.end = index + 1;
            return;
        }
        self.spans.push(Span { batch: Arc::clone(batch), records: index..index + 1, timestamp });
    }

    /// Ends the last span at `end`, and begins the one of a record, or goes on with a span that the record continues.
    #[cold]
    fn begin(&mut self, end: Option<u32>, batch: &Arc<BatchState>, index: u32, timestamp: i64) {
        self.end_last(end);
        self.add(batch, index, timestamp);
    }

    fn end_last(&mut self, end: Option<u32>) {
        if let (Some(end), Some(last)) = (end, self.spans.last_mut()) {
            last.records.end = end;
        }
    }

    /// Adds those of records that were sent later.
    pub(crate) fn join(&mut self, later: Self) {
        self.spans.extend(later.spans);
    }

    /// Forgets those that are settled from the first on, or tells the first error among them.
    pub(crate) fn forget_settled(&mut self) -> Result<()> {
        let settled = self.spans.iter().take_while(|span| span.batch.is_settled()).count();
        let error = self.spans.drain(..settled).find_map(|span| span.batch.error_in(&span.records));
        error.map_or(Ok(()), Err)
    }

    /// How many records they are of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.iter().map(|span| span.records.len()).sum()
    }

    /// Whether they are of no record at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whether all are settled: to await them takes no time then.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.spans.iter().skip(self.settled).all(|span| span.batch.is_settled())
    }

    /// A ticket for each record, in the order in which they were sent.
    pub fn each(&self) -> impl Iterator<Item = Ticket> {
        self.spans.iter().flat_map(|span| {
            span.records.clone().map(|index| Ticket::new(&span.batch, index, span.timestamp))
        })
    }
}

impl Future for Tickets {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some(span) = this.spans.get(this.settled) {
            std::task::ready!(span.batch.poll_settled(cx, &mut this.key));
            if this.error.is_none() {
                this.error = span.batch.error_in(&span.records);
            }
            this.settled += 1;
            this.key = None;
        }
        Poll::Ready(this.error.take().map_or(Ok(()), Err))
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
            let mut key = None;
            std::future::poll_fn(|cx| batch.poll_settled(cx, &mut key)).await;
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
        let state = BatchState::new(TopicPartition::new("t", 3), 0);
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

    #[test]
    fn a_ticket_is_two_words_and_keeps_times_however_far_from_its_batch() {
        assert_eq!(size_of::<Ticket>(), 2 * size_of::<usize>());
        let state = BatchState::new(TopicPartition::new("t", 0), 1_700_000_000_000);
        let times = [0, -1, 1_700_000_000_001, i64::MAX, i64::MIN, 1_700_000_000_000 + i64::from(i32::MIN)];
        let tickets: Vec<Ticket> =
            times.iter().zip(0..).map(|(&time, index)| Ticket::new(&state, index, time)).collect();
        state.settle(0..6, delivered(0));
        for (ticket, time) in tickets.iter().zip(times) {
            assert_eq!(ticket.result().unwrap().unwrap().timestamp, time);
        }
    }

    #[test]
    fn a_ticket_that_is_polled_again_and_again_by_turns_takes_no_more_memory() {
        let state = BatchState::new(TopicPartition::new("t", 0), 0);
        let mut tickets: Vec<Ticket> = (0..20).map(|index| Ticket::new(&state, index, 0)).collect();
        let wakers: Vec<_> = (0..20).map(|_| futures_util::task::waker(Arc::new(Quiet))).collect();
        let mut whole = Tickets::default();
        whole.add(&state, 0, 0);
        let own = futures_util::task::waker(Arc::new(Quiet));
        for _ in 0..1000 {
            for (ticket, waker) in tickets.iter_mut().zip(&wakers) {
                assert!(Pin::new(ticket).poll(&mut Context::from_waker(waker)).is_pending());
            }
            assert!(Pin::new(&mut whole).poll(&mut Context::from_waker(&own)).is_pending());
        }
        assert_eq!(state.progress().wakers.len(), 21);
    }

    struct Quiet;

    impl futures_util::task::ArcWake for Quiet {
        fn wake_by_ref(_: &Arc<Self>) {}
    }

    #[tokio::test]
    async fn tickets_of_many_records_tell_the_first_error_and_each_its_own() {
        let state = BatchState::new(TopicPartition::new("t", 0), 0);
        let mut tickets = Tickets::default();
        (2..6).for_each(|index| tickets.add(&state, index, 9));
        assert_eq!((tickets.len(), tickets.spans.len()), (4, 1));
        state.on_split();
        state.settle(0..2, Err(Error::new(ErrorKind::Timeout, "of records before")));
        state.on_split();
        state.settle(2..5, delivered(70));
        let each: Vec<Ticket> = tickets.each().collect();
        let waiting = tokio::spawn(tickets);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        state.settle(5..6, Err(Error::new(ErrorKind::Timeout, "of the last")));
        assert!(waiting.await.unwrap().unwrap_err().to_string().contains("of the last"));
        let offsets: Vec<_> = each.into_iter().map(|ticket| ticket.result().unwrap().ok()).collect();
        assert_eq!(offsets[0].as_ref().unwrap().offset, Some(Offset(70)));
        assert_eq!(offsets[2].as_ref().unwrap().offset, Some(Offset(72)));
        assert!(offsets[3].is_none());
    }

    #[test]
    fn a_callback_is_called_once_with_its_records_result() {
        let state = BatchState::new(TopicPartition::new("t", 0), 0);
        let seen = Arc::new(Mutex::new(Vec::new()));
        for index in 0..4 {
            let seen = Arc::clone(&seen);
            let call = move |result: Result<RecordMetadata>| {
                seen.lock().unwrap().push((index, result.ok().and_then(|written| written.offset)));
            };
            state.on_settled(index, 5, Box::new(call));
        }
        state.on_split();
        state.settle(2..4, delivered(40));
        assert_eq!(*seen.lock().unwrap(), [(2, Some(Offset(40))), (3, Some(Offset(41)))]);
        state.settle(0..2, Err(Error::new(ErrorKind::Timeout, "late")));
        assert_eq!(seen.lock().unwrap()[2..], [(0, None), (1, None)]);
    }

    #[tokio::test]
    async fn every_waiter_is_woken_whatever_task_it_waits_in() {
        let state = BatchState::new(TopicPartition::new("t", 0), 0);
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
        let state = BatchState::new(TopicPartition::new("t", 0), 0);
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
        let other = BatchState::new(TopicPartition::new("t", 0), 0);
        assert!(other.settle(0..1, Err(Error::new(ErrorKind::Timeout, "late"))), "nobody has it");
    }
}
