//! Describing a job, and running it.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use milena::{Client, ClientConfig};

use super::config::{JobConfig, Restore};
use super::control::{Halt, JobControl};
use super::driver::Run;
use super::functions::{
    Chain, Filter, FlatMap, FunctionSpec, Identity, Map, MapAsync, Process, Processing, Scoping, Stage, Then,
    TryMap,
};
use super::report::JobReport;
use super::restart::RestartTimer;
use super::subtask::{Subtask, SubtaskContext};
use crate::checkpoint::snapshot::Scope;
use crate::contract::{Sink, Source};
use crate::sink::SinkSettings;
use crate::sink::writer::WriterContext;
use crate::source::{Discovered, Enumerator, EnumeratorState, ResolveRequest, Resolved, Split};
use crate::{BoxError, Error, ErrorKind, Result};

/// A source and the functions after it. End it with [`Stream::to`].
#[derive(Clone)]
pub struct Stream<S, C> {
    source: S,
    chain: C,
}

impl<S, C> fmt::Debug for Stream<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl<S, C> Stream<S, C>
where
    S: Source,
    C: Chain<S::Element>,
{
    /// Turns each element into another. Each subtask has its own clone of the function.
    pub fn map<U, F>(self, function: F) -> Stream<S, Then<C, Map<F>>>
    where
        U: Send + 'static,
        F: FnMut(C::Out) -> U + Clone + Send + 'static,
    {
        self.then(Map { function })
    }

    /// Turns each element into another, or fails the job.
    pub fn try_map<U, F>(self, function: F) -> Stream<S, Then<C, TryMap<F>>>
    where
        U: Send + 'static,
        F: FnMut(C::Out) -> std::result::Result<U, BoxError> + Clone + Send + 'static,
    {
        self.then(TryMap { function })
    }

    /// Keeps the elements for which the function is true.
    pub fn filter<F>(self, function: F) -> Stream<S, Then<C, Filter<F>>>
    where
        F: FnMut(&C::Out) -> bool + Clone + Send + 'static,
    {
        self.then(Filter { function })
    }

    /// Turns each element into any number of others, which have its event time.
    pub fn flat_map<I, F>(self, function: F) -> Stream<S, Then<C, FlatMap<F>>>
    where
        I: IntoIterator,
        I::Item: Send + 'static,
        F: FnMut(C::Out) -> I + Clone + Send + 'static,
    {
        self.then(FlatMap { function })
    }

    /// Turns each element into another by a future, or fails the job. At most `concurrency` run at once in a subtask; results keep the
    /// order of the elements. None is running while a checkpoint is taken.
    pub fn map_async<U, F, Fut>(self, concurrency: usize, function: F) -> Stream<S, Then<C, MapAsync<F>>>
    where
        U: Send + 'static,
        F: FnMut(C::Out) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = std::result::Result<U, BoxError>> + Send + 'static,
    {
        self.then(MapAsync { concurrency, function })
    }

    /// Puts elements through a function with state, which is made once for each partition: it sees watermarks, sets event-time timers,
    /// and what it knows is in every checkpoint under `name` and goes where its partition goes when the parallelism changes.
    ///
    /// A function's watermark is its subtask's, and the largest possible when its partition is at its end.
    pub fn process<P, F>(self, name: impl Into<Arc<str>>, function: F) -> Stream<S, Then<C, Processing<F, P>>>
    where
        P: Process<In = C::Out>,
        F: Fn(&Scope) -> P + Clone + Send + 'static,
    {
        self.then(Processing::new(name.into(), Scoping::Split, function))
    }

    /// The same, with one function for the partitions of one number of all topics: a join of topics that are partitioned in the same
    /// way. The source's assigner must be [`Assigner::CoPartitioned`](crate::source::Assigner::CoPartitioned), or another
    /// that keeps such partitions together; else the job fails with `Misuse`.
    pub fn process_co_partitioned<P, F>(
        self,
        name: impl Into<Arc<str>>,
        function: F,
    ) -> Stream<S, Then<C, Processing<F, P>>>
    where
        P: Process<In = C::Out>,
        F: Fn(&Scope) -> P + Clone + Send + 'static,
    {
        self.then(Processing::new(name.into(), Scoping::Partition, function))
    }

    /// A source and functions that are put together already.
    pub(crate) fn of(source: S, chain: C) -> Self {
        Self { source, chain }
    }

    fn then<G: Stage<C::Out>>(self, stage: G) -> Stream<S, Then<C, G>> {
        Stream { source: self.source, chain: Then { before: self.chain, stage } }
    }

    /// Writes the elements to a sink, [`KafkaSink`](crate::sink::KafkaSink) or another that keeps the contract: the job.
    #[must_use]
    pub fn to<K: Sink<C::Out>>(self, sink: K) -> Job {
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
    /// Starts with a source: [`KafkaSource`](crate::source::KafkaSource), or another that keeps the [`contract`](crate::contract).
    #[must_use]
    pub fn from_source<S: Source>(source: S) -> Stream<S, Identity<S::Element>> {
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
    pub async fn run(self, config: JobConfig, control: JobControl) -> Result<JobReport> {
        let ended = self.run_on(config, &control).await;
        control.savepoints().end();
        ended
    }

    async fn run_on(mut self, mut config: JobConfig, control: &JobControl) -> Result<JobReport> {
        config.validate(self.pipeline.sink())?;
        let (began, mut restart) = (Instant::now(), RestartTimer::new(config.restart));
        let mut report =
            JobReport { job: config.name.clone(), parallelism: config.parallelism, ..JobReport::default() };
        loop {
            let ended = Run::once(&mut *self.pipeline, &config, control, began, &mut report).await;
            report.metrics.elapsed = began.elapsed();
            control.publish(report.metrics.clone());
            let error = match ended {
                Ok(()) => return Ok(report),
                Err(Halt::Crash(step)) => {
                    return Err(Error::new(ErrorKind::Closed, format!("crashed by a hook at {step:?}")));
                }
                Err(Halt::Error(error)) => error,
            };
            let delay = restart.next(Instant::now(), chance());
            let Some(delay) = delay.filter(|_| may_restart(&error)) else { return Err(error) };
            if control.is_stopping() || control.is_cancelled() {
                return Err(error);
            }
            report.metrics.restarts += 1;
            if report.metrics.last_checkpoint.is_some() {
                // What this run has promised since counts, wherever it was told to begin.
                config.checkpoint.restore = Restore::Latest;
            }
            tracing::warn!(%error, ?delay, restart = report.metrics.restarts, "the job failed and starts again from its last checkpoint");
            let (mut stopping, mut cancelled) = (control.stopping(), control.cancelled());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = stopping.wait_for(|&stop| stop) => return Err(error),
                _ = cancelled.wait_for(|&cancel| cancel) => return Err(error),
            }
        }
    }
}

/// A number from 0 to 1, for the jitter of delays.
fn chance() -> f64 {
    let drawn = RandomState::new().hash_one("restart") >> 32;
    f64::from(u32::try_from(drawn).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// Whether starting again can help: not against a wrong configuration, lost records, or state that can't be read.
fn may_restart(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Misuse | ErrorKind::DataLoss | ErrorKind::State)
}

/// What the coordinator needs of a job, with its element types hidden.
pub(super) trait Pipeline: Send {
    fn sink(&self) -> &SinkSettings;
    fn source_client(&self) -> &ClientConfig;
    fn functions(&self) -> Vec<FunctionSpec>;
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

struct Whole<S, C, K> {
    source: S,
    chain: C,
    sink: K,
}

impl<S, C, K> Pipeline for Whole<S, C, K>
where
    S: Source,
    C: Chain<S::Element>,
    K: Sink<C::Out>,
{
    fn sink(&self) -> &SinkSettings {
        self.sink.settings()
    }

    fn source_client(&self) -> &ClientConfig {
        self.source.client_config()
    }

    fn functions(&self) -> Vec<FunctionSpec> {
        self.chain.specs()
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
        Box::pin(async move { source.discover(&client).await })
    }

    fn resolve(
        &self,
        client: Client,
        requests: Vec<ResolveRequest>,
    ) -> BoxFuture<'static, Result<Vec<Resolved>>> {
        let source = self.source.clone();
        Box::pin(async move { source.resolve(&client, &requests).await })
    }

    fn subtask(&self, context: SubtaskContext) -> BoxFuture<'static, std::result::Result<(), Halt>> {
        let (source, chain, sink) = (self.source.clone(), self.chain.clone(), self.sink.clone());
        Box::pin(async move {
            let writer = WriterContext {
                subtask: context.subtask,
                parallelism: context.parallelism,
                names: context.names.clone(),
            };
            let writer = sink.open(context.sink_client.clone(), writer).await?;
            let reader = source.reader(&context.source_client);
            Subtask::new(context, reader, chain, writer).run().await
        })
    }
}
