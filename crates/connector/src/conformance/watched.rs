//! A source and a sink that watch the order in which a host calls them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use milena::{Client, ClientConfig, TopicPartition};

use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::WriterState;
use crate::contract::{Enumerator, Reader, Sink, SinkWriter, Source, Unread, WriterContext, WriterCounts};
use crate::sink::SinkSettings;
use crate::sink::committable::Committable;
use crate::source::{Discovered, EnumeratorState, LiveMetrics, ReaderEvent, ResolveRequest, Resolved, Split};
use crate::{Error, Result};

/// The rules that were broken.
#[derive(Clone, Debug, Default)]
pub(super) struct Broken(Arc<Mutex<Vec<String>>>);

impl Broken {
    fn must(&self, holds: bool, rule: &str) {
        if !holds {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(rule.to_owned());
        }
    }

    /// The first, if any.
    pub(super) fn first(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }
}

/// Something that is watched.
#[derive(Clone, Debug)]
pub(super) struct Watched<P> {
    part: P,
    broken: Broken,
}

impl<P> Watched<P> {
    pub(super) fn new(part: P, broken: &Broken) -> Self {
        Self { part, broken: broken.clone() }
    }
}

#[derive(Debug)]
pub(super) struct WatchedReader<R> {
    reader: R,
    broken: Broken,
    snapshots: BTreeSet<CheckpointId>,
    is_finished: bool,
}

impl<S: Source> Source for Watched<S> {
    type Element = S::Element;
    type Reader = WatchedReader<S::Reader>;

    fn client_config(&self) -> &ClientConfig {
        self.part.client_config()
    }

    fn enumerator(&self, parallelism: u32) -> Enumerator {
        self.part.enumerator(parallelism)
    }

    fn restore_enumerator(
        &self,
        parallelism: u32,
        known: EnumeratorState,
        splits: Vec<Split>,
    ) -> Result<Enumerator> {
        self.part.restore_enumerator(parallelism, known, splits)
    }

    async fn discover(&self, client: &Client) -> Result<Discovered> {
        self.part.discover(client).await
    }

    async fn resolve(&self, client: &Client, requests: &[ResolveRequest]) -> Result<Vec<Resolved>> {
        self.part.resolve(client, requests).await
    }

    fn reader(&self, client: &Client) -> Self::Reader {
        let (reader, broken) = (self.part.reader(client), self.broken.clone());
        WatchedReader { reader, broken, snapshots: BTreeSet::new(), is_finished: false }
    }
}

impl<T, R: Reader<T>> Reader<T> for WatchedReader<R> {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<()> {
        self.reader.add_splits(splits)
    }

    fn add_finished(&mut self, splits: Vec<Split>) {
        self.reader.add_finished(splits);
    }

    fn remove_splits(&mut self, partitions: &[TopicPartition]) {
        self.reader.remove_splits(partitions);
    }

    fn no_more_splits(&mut self) {
        self.reader.no_more_splits();
    }

    async fn next(&mut self) -> Result<ReaderEvent<T>> {
        self.broken.must(!self.is_finished, "a reader is asked for more after it said Finished");
        let event = self.reader.next().await;
        self.is_finished = matches!(event, Ok(ReaderEvent::Finished));
        event
    }

    fn go_on(&mut self) -> Result<()> {
        self.reader.go_on()
    }

    fn snapshot(&mut self, checkpoint: CheckpointId, unread: &[Unread]) -> Vec<Split> {
        let rises = self.snapshots.last().is_none_or(|&last| last < checkpoint);
        self.broken.must(rises, "a checkpoint's number is not above every number before");
        self.snapshots.insert(checkpoint);
        self.reader.snapshot(checkpoint, unread)
    }

    fn notify_checkpoint_complete(&mut self, checkpoint: CheckpointId) {
        let known = self.snapshots.contains(&checkpoint);
        self.broken.must(known, "a reader is told that a checkpoint is complete in which it had no part");
        self.reader.notify_checkpoint_complete(checkpoint);
    }

    fn notify_checkpoint_aborted(&mut self, checkpoint: CheckpointId) {
        self.reader.notify_checkpoint_aborted(checkpoint);
    }

    fn is_settled(&self) -> bool {
        self.reader.is_settled()
    }

    async fn settle_commits(&mut self) {
        self.reader.settle_commits().await;
    }

    fn live_metrics(&self) -> LiveMetrics {
        self.reader.live_metrics()
    }
}

/// Where a writer is between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Takes,
    Flushed,
    Prepared,
}

#[derive(Debug)]
pub(super) struct WatchedWriter<W> {
    writer: W,
    broken: Broken,
    phase: Phase,
    is_last: bool,
}

impl<T, K: Sink<T>> Sink<T> for Watched<K> {
    type Writer = WatchedWriter<K::Writer>;

    fn settings(&self) -> &SinkSettings {
        self.part.settings()
    }

    async fn open(&self, client: Client, context: WriterContext) -> Result<Self::Writer> {
        let writer = self.part.open(client, context).await?;
        Ok(WatchedWriter { writer, broken: self.broken.clone(), phase: Phase::Takes, is_last: false })
    }
}

impl<T, W: SinkWriter<T>> SinkWriter<T> for WatchedWriter<W> {
    fn take(&mut self, value: &T, timestamp: i64) -> Result<bool> {
        let may = self.phase == Phase::Takes && !self.is_last;
        self.broken.must(may, "a writer is given an element between a flush and begin_next");
        self.writer.take(value, timestamp)
    }

    async fn send(&mut self, timestamp: i64) -> Result<()> {
        self.writer.send(timestamp).await
    }

    async fn failed(&mut self) -> Error {
        self.writer.failed().await
    }

    async fn flush(&mut self, end: bool) -> Result<()> {
        self.broken.must(self.phase == Phase::Takes, "a writer is flushed twice for one barrier");
        self.writer.flush(end).await?;
        (self.phase, self.is_last) = (Phase::Flushed, end);
        Ok(())
    }

    async fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<Committable>> {
        self.broken.must(self.phase == Phase::Flushed, "a writer prepares what it has not flushed");
        let prepared = self.writer.prepare(checkpoint).await?;
        self.phase = Phase::Prepared;
        Ok(prepared)
    }

    fn snapshot(&self) -> WriterState {
        self.broken.must(self.phase == Phase::Prepared, "a writer's state is taken before it prepared");
        self.writer.snapshot()
    }

    async fn begin_next(&mut self) -> Result<()> {
        let may = self.phase == Phase::Prepared && !self.is_last;
        self.broken.must(may, "a writer begins the next before it prepared the last, or after the end");
        self.writer.begin_next().await?;
        self.phase = Phase::Takes;
        Ok(())
    }

    fn open_since(&self) -> Option<Instant> {
        self.writer.open_since()
    }

    fn counts(&self) -> WriterCounts {
        self.writer.counts()
    }

    async fn abort(self) {
        self.writer.abort().await;
    }
}
