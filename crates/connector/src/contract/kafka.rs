//! Kafka's own source and sink, by the contract.

use std::time::Instant;

use milena::{Client, ClientConfig, TopicPartition};

use super::{
    Enumerator, Reader, Sink, SinkWriter, Source, SourceReader, Unread, Writer, WriterContext, WriterCounts,
};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::WriterState;
use crate::schema::Stamped;
use crate::sink::committable::Committable;
use crate::sink::{KafkaSink, SinkSettings};
use crate::source::{
    Discovered, EnumeratorState, KafkaSource, LiveMetrics, ReaderEvent, ResolveRequest, Resolved, Split,
    resolve_offsets, run_discovery,
};
use crate::{Error, Result};

impl<T: Send + 'static> Source for KafkaSource<T> {
    type Element = T;
    type Reader = SourceReader<T>;

    fn client_config(&self) -> &ClientConfig {
        self.client_config()
    }

    fn enumerator(&self, parallelism: u32) -> Enumerator {
        self.enumerator(parallelism)
    }

    fn restore_enumerator(
        &self,
        parallelism: u32,
        known: EnumeratorState,
        splits: Vec<Split>,
    ) -> Result<Enumerator> {
        self.restore_enumerator(parallelism, known, splits)
    }

    async fn discover(&self, client: &Client) -> Result<Discovered> {
        run_discovery(client, &self.enumerator_config().subscription).await
    }

    async fn resolve(&self, client: &Client, requests: &[ResolveRequest]) -> Result<Vec<Resolved>> {
        resolve_offsets(client, self, requests).await
    }

    fn reader(&self, client: &Client) -> SourceReader<T> {
        self.reader(client)
    }
}

impl<T: Send + 'static> Reader<T> for SourceReader<T> {
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<()> {
        self.add_splits(splits)
    }

    fn add_finished(&mut self, splits: Vec<Split>) {
        self.add_finished(&splits);
    }

    fn remove_splits(&mut self, partitions: &[TopicPartition]) {
        self.remove_splits(partitions);
    }

    fn no_more_splits(&mut self) {
        self.no_more_splits();
    }

    async fn next(&mut self) -> Result<ReaderEvent<T>> {
        self.next().await
    }

    fn go_on(&mut self) -> Result<()> {
        self.go_on()
    }

    fn snapshot(&mut self, checkpoint: CheckpointId, unread: &[Unread]) -> Vec<Split> {
        self.snapshot_before(checkpoint, unread)
    }

    fn notify_checkpoint_complete(&mut self, checkpoint: CheckpointId) {
        self.notify_checkpoint_complete(checkpoint);
    }

    fn notify_checkpoint_aborted(&mut self, checkpoint: CheckpointId) {
        self.notify_checkpoint_aborted(checkpoint);
    }

    fn is_settled(&self) -> bool {
        self.is_settled()
    }

    async fn settle_commits(&mut self) {
        self.settle_commits().await;
    }

    fn live_metrics(&self) -> LiveMetrics {
        self.live_metrics()
    }
}

impl<T: Send + 'static> Sink<T> for KafkaSink<T> {
    type Writer = Writer<T>;

    fn settings(&self) -> &SinkSettings {
        self.settings()
    }

    async fn open(&self, client: Client, context: WriterContext) -> Result<Writer<T>> {
        Writer::open(self, client, context).await
    }
}

impl<T: Send + 'static> SinkWriter<T> for Writer<T> {
    fn take(&mut self, value: &T, timestamp: i64) -> Result<bool> {
        self.take(value, timestamp)
    }

    async fn send(&mut self, timestamp: i64) -> Result<()> {
        self.send(timestamp).await
    }

    async fn write(&mut self, elements: Vec<Stamped<T>>) -> Result<u64> {
        self.write(elements).await
    }

    async fn failed(&mut self) -> Error {
        self.failed().await
    }

    async fn flush(&mut self, end: bool) -> Result<()> {
        self.flush(end).await
    }

    async fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<Committable>> {
        self.prepare(checkpoint).await
    }

    fn snapshot(&self) -> WriterState {
        self.snapshot()
    }

    async fn begin_next(&mut self) -> Result<()> {
        self.begin_next().await
    }

    fn open_since(&self) -> Option<Instant> {
        self.open_since()
    }

    fn counts(&self) -> WriterCounts {
        self.counts()
    }

    async fn abort(self) {
        self.abort().await;
    }
}
