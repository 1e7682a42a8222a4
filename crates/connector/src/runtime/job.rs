//! Describing a job, and running it.

use std::fmt;
use std::future::Future;
use std::time::Instant;

use futures_util::future::BoxFuture;
use milena::{Client, ClientConfig};

use super::config::{JobConfig, Restore};
use super::control::{Halt, JobControl};
use super::driver::Run;
use super::functions::{Chain, Filter, FlatMap, Identity, Map, MapAsync, TryMap};
use super::report::JobReport;
use super::subtask::{Subtask, SubtaskContext};
use crate::sink::writer::{Writer, WriterContext};
use crate::sink::{KafkaSink, SinkSettings};
use crate::source::{
    Discovered, Enumerator, EnumeratorState, KafkaSource, ResolveRequest, Resolved, Split, resolve_offsets,
    run_discovery,
};
use crate::{BoxError, Error, ErrorKind, Result};

/// A source and the functions after it. End it with [`Stream::to`].
#[derive(Clone)]
pub struct Stream<T, C> {
    source: KafkaSource<T>,
    chain: C,
}

impl<T, C> fmt::Debug for Stream<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl<T, C> Stream<T, C>
where
    T: Send + 'static,
    C: Chain<T>,
{
    /// Turns each element into another. Each subtask has its own clone of the function.
    pub fn map<U, F>(self, function: F) -> Stream<T, Map<C, F>>
    where
        U: Send + 'static,
        F: FnMut(C::Out) -> U + Clone + Send + 'static,
    {
        Stream { source: self.source, chain: Map { before: self.chain, function } }
    }

    /// Turns each element into another, or fails the job.
    pub fn try_map<U, F>(self, function: F) -> Stream<T, TryMap<C, F>>
    where
        U: Send + 'static,
        F: FnMut(C::Out) -> std::result::Result<U, BoxError> + Clone + Send + 'static,
    {
        Stream { source: self.source, chain: TryMap { before: self.chain, function } }
    }

    /// Keeps the elements for which the function is true.
    pub fn filter<F>(self, function: F) -> Stream<T, Filter<C, F>>
    where
        F: FnMut(&C::Out) -> bool + Clone + Send + 'static,
    {
        Stream { source: self.source, chain: Filter { before: self.chain, function } }
    }

    /// Turns each element into any number of others, which have its event time.
    pub fn flat_map<I, F>(self, function: F) -> Stream<T, FlatMap<C, F>>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        F: FnMut(C::Out) -> I + Clone + Send + 'static,
    {
        Stream { source: self.source, chain: FlatMap { before: self.chain, function } }
    }

    /// Turns each element into another by a future, or fails the job. At most `concurrency` run at once in a subtask; results keep the
    /// order of the elements. None is running while a checkpoint is taken.
    pub fn map_async<U, F, Fut>(self, concurrency: usize, function: F) -> Stream<T, MapAsync<C, F>>
    where
        U: Send + 'static,
        F: FnMut(C::Out) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = std::result::Result<U, BoxError>> + Send + 'static,
    {
        Stream { source: self.source, chain: MapAsync { before: self.chain, concurrency, function } }
    }

    /// Writes the elements to a sink: the job.
    #[must_use]
    pub fn to(self, sink: KafkaSink<C::Out>) -> Job {
        Job { pipeline: Box::new(Whole { source: self.source, chain: self.chain, sink }) }
    }
}

/// A whole job, from source to sink.
///
/// ```no_run
/// use milena::ClientConfig;
/// use milena_connector::runtime::{CheckpointConfig, Job, JobConfig, JobControl};
/// use milena_connector::schema::{StringDeserializer, StringSerializer};
/// use milena_connector::sink::{Delivery, KafkaSink};
/// use milena_connector::source::KafkaSource;
///
/// # async fn example() -> Result<(), milena_connector::Error> {
/// let client = ClientConfig::new(["localhost:9092"]);
/// let source = KafkaSource::<String>::builder()
///     .client(client.clone())
///     .topics(["orders"])
///     .deserializer(StringDeserializer)
///     .build()?;
/// let sink = KafkaSink::builder()
///     .client(client)
///     .serializer(StringSerializer::new("shouted"))
///     .delivery(Delivery::ExactlyOnce)
///     .transactional_id_prefix("shouting")
///     .build()?;
/// let config = JobConfig {
///     parallelism: 2,
///     checkpoint: CheckpointConfig::new("/var/lib/shouting"),
///     ..JobConfig::new("shouting")
/// };
/// let report = Job::from_source(source)
///     .map(|text: String| text.to_uppercase())
///     .to(sink)
///     .run(config, JobControl::new())
///     .await?;
/// println!("{} records", report.records_out);
/// # Ok(())
/// # }
/// ```
pub struct Job {
    pipeline: Box<dyn Pipeline>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("sink", self.pipeline.sink()).finish_non_exhaustive()
    }
}

impl Job {
    /// Starts with a source.
    #[must_use]
    pub fn from_source<T: Send + 'static>(source: KafkaSource<T>) -> Stream<T, Identity<T>> {
        Stream { source, chain: Identity::default() }
    }

    /// Runs until a bounded source ends, [`JobControl::stop`] is called, or something fails. After the first two, the last
    /// checkpoint is complete and its transactions are committed.
    ///
    /// # Errors
    /// The first thing that failed. Open transactions are aborted then, as well as possible, and the checkpoints stay: run the
    /// job again to go on from the last one.
    ///
    /// # Cancellation
    /// Dropping the future is as safe as killing the process, at any point: tasks end, nothing is flushed or aborted, and the next
    /// run with the same checkpoint directory recovers.
    pub async fn run(mut self, mut config: JobConfig, control: JobControl) -> Result<JobReport> {
        config.validate(self.pipeline.sink())?;
        let began = Instant::now();
        let mut report =
            JobReport { job: config.name.clone(), parallelism: config.parallelism, ..JobReport::default() };
        loop {
            let ended = Run::once(&mut *self.pipeline, &config, &control, began, &mut report).await;
            report.metrics.elapsed = began.elapsed();
            control.publish(report.metrics.clone());
            let error = match ended {
                Ok(()) => return Ok(report),
                Err(Halt::Crash(step)) => {
                    return Err(Error::new(ErrorKind::Closed, format!("crashed by a hook at {step:?}")));
                }
                Err(Halt::Error(error)) => error,
            };
            let again = report.metrics.restarts < config.restart.attempts && may_restart(&error);
            if !again || control.is_stopping() || control.is_cancelled() {
                return Err(error);
            }
            report.metrics.restarts += 1;
            if report.metrics.last_checkpoint.is_some() {
                // What this run has promised since counts, wherever it was told to begin.
                config.checkpoint.restore = Restore::Latest;
            }
            tracing::warn!(%error, restart = report.metrics.restarts, "the job failed and starts again from its last checkpoint");
            let (mut stopping, mut cancelled) = (control.stopping(), control.cancelled());
            tokio::select! {
                () = tokio::time::sleep(config.restart.delay) => {}
                _ = stopping.wait_for(|&stop| stop) => return Err(error),
                _ = cancelled.wait_for(|&cancel| cancel) => return Err(error),
            }
        }
    }
}

/// Whether starting again can help: not against a wrong configuration, lost records, or state that can't be read.
fn may_restart(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Misuse | ErrorKind::DataLoss | ErrorKind::State)
}

/// What the coordinator needs of a job, with its element types hidden.
pub(super) trait Pipeline: Send {
    fn sink(&self) -> &SinkSettings;
    fn source_client(&self) -> &ClientConfig;
    fn enumerator(
        &self,
        parallelism: u32,
        restored: Option<(EnumeratorState, Vec<Split>)>,
    ) -> Result<Enumerator>;
    fn discover(&self, client: Client) -> BoxFuture<'static, Result<Discovered>>;
    fn resolve(
        &self,
        client: Client,
        requests: Vec<ResolveRequest>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>>>;
    fn subtask(&self, context: SubtaskContext) -> BoxFuture<'static, std::result::Result<(), Halt>>;
}

struct Whole<T, C: Chain<T>> {
    source: KafkaSource<T>,
    chain: C,
    sink: KafkaSink<C::Out>,
}

impl<T, C> Pipeline for Whole<T, C>
where
    T: Send + 'static,
    C: Chain<T>,
{
    fn sink(&self) -> &SinkSettings {
        self.sink.settings()
    }

    fn source_client(&self) -> &ClientConfig {
        self.source.client_config()
    }

    fn enumerator(
        &self,
        parallelism: u32,
        restored: Option<(EnumeratorState, Vec<Split>)>,
    ) -> Result<Enumerator> {
        match restored {
            None => Ok(self.source.enumerator(parallelism)),
            Some((state, splits)) => self.source.restore_enumerator(parallelism, state, splits),
        }
    }

    fn discover(&self, client: Client) -> BoxFuture<'static, Result<Discovered>> {
        let source = self.source.clone();
        Box::pin(async move { run_discovery(&client, &source.enumerator_config().subscription).await })
    }

    fn resolve(
        &self,
        client: Client,
        requests: Vec<ResolveRequest>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>>> {
        let source = self.source.clone();
        Box::pin(async move { resolve_offsets(&client, &source, &requests).await })
    }

    fn subtask(&self, context: SubtaskContext) -> BoxFuture<'static, std::result::Result<(), Halt>> {
        let (source, chain, sink) = (self.source.clone(), self.chain.clone(), self.sink.clone());
        Box::pin(async move {
            let writer = WriterContext {
                subtask: context.subtask,
                parallelism: context.parallelism,
                names: context.names.clone(),
            };
            let writer = Writer::open(&sink, context.sink_client.clone(), writer).await?;
            let reader = source.reader(&context.source_client);
            Subtask::new(context, reader, chain, writer).run().await
        })
    }
}
