//! The functions between source and sink: each takes elements of one partition and gives elements.
//!
//! Elements keep their event time and their order. Those of a few records at a time go through all functions before the next barrier is
//! looked at, so nothing is ever inside a function when a checkpoint is taken, and no barrier waits for a whole batch.
//!
//! ```text
//! Then<Then<Identity, Map>, Processing>     elements, watermarks and ends pass from left to right
//! ```
//!
//! A [`Stage`] is one function; a [`Chain`] is all of them. What a stateful stage ([`Processing`]) knows belongs to a [`Scope`],
//! which is a split or the partitions of one number, and goes where the split goes.

mod process;
mod stateless;
mod windows;

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use milena::TopicPartition;

pub use process::{Context, Process, Processing};
pub use stateless::{Filter, FlatMap, Map, MapAsync, TryMap};
pub use windows::{OnLate, TumblingWindows, Window};

use crate::checkpoint::snapshot::{FunctionState, Scope};
use crate::schema::Stamped;
use crate::{BoxError, Error, ErrorKind, Result};

/// Elements of one partition on their way to the sink.
pub type Batch<T> = Vec<Stamped<T>>;

/// Elements that time brought forth, by the partition they belong to.
pub type Fired<T> = Vec<(TopicPartition, Batch<T>)>;

/// What a stateful function's state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoping {
    /// Each partition of each topic by itself.
    Split,
    /// The partitions of one number, of all topics: for topics that are partitioned in the same way. They must be read by one
    /// subtask, as [`Assigner::CoPartitioned`](crate::source::Assigner::CoPartitioned) has it.
    Partition,
}

impl Scoping {
    /// The scope that a partition is in.
    #[must_use]
    pub fn scope(self, partition: &TopicPartition) -> Scope {
        match self {
            Self::Split => Scope::Split(partition.clone()),
            Self::Partition => Scope::Partition(partition.partition),
        }
    }
}

/// A stateful function of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Its name: its state in a checkpoint is found by it.
    pub name: Arc<str>,
    /// What its state belongs to.
    pub scoping: Scoping,
}

/// One function. Each subtask has its own clone. All but [`process`](Stage::process) is for functions with state.
pub trait Stage<In>: Clone + Send + 'static {
    /// What comes out.
    type Out: Send + 'static;

    /// Puts elements of one partition through.
    ///
    /// # Cancellation
    /// Dropping the future loses the elements; the job ends then.
    fn process(
        &mut self,
        at: &TopicPartition,
        batch: Batch<In>,
    ) -> impl Future<Output = Result<Batch<Self::Out>>> + Send;

    /// What it is called, if it has state.
    fn spec(&self) -> Option<FunctionSpec> {
        None
    }

    /// A partition is going to be read; `states` may have what a checkpoint knows of its scope.
    ///
    /// # Errors
    /// `State` if that can't be read.
    fn add(&mut self, at: &TopicPartition, states: &[FunctionState]) -> Result<()> {
        let _ = (at, states);
        Ok(())
    }

    /// No element at or below this time (milliseconds) is expected any more.
    ///
    /// # Errors
    /// `Schema` if the function fails.
    fn advance(&mut self, watermark: i64) -> Result<Fired<Self::Out>> {
        let _ = watermark;
        Ok(Vec::new())
    }

    /// No element of a partition will come any more.
    ///
    /// # Errors
    /// `Schema` if the function fails.
    fn end(&mut self, at: &TopicPartition) -> Result<Batch<Self::Out>> {
        let _ = at;
        Ok(Vec::new())
    }

    /// Adds what it knows to a snapshot.
    ///
    /// # Errors
    /// `State` if it is too large.
    fn snapshot(&self, out: &mut Vec<FunctionState>) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// How many elements came too late.
    fn late(&self) -> u64 {
        0
    }

    /// How many elements it works on at once.
    fn width(&self) -> usize {
        1
    }
}

/// All functions of a job, in order. Made by [`Stream`](super::Stream).
pub trait Chain<In>: Clone + Send + 'static {
    /// What comes out at the end.
    type Out: Send + 'static;

    /// Puts elements of one partition through.
    ///
    /// # Cancellation
    /// Dropping the future loses the elements; the job ends then.
    fn process(
        &mut self,
        at: &TopicPartition,
        batch: Batch<In>,
    ) -> impl Future<Output = Result<Batch<Self::Out>>> + Send;

    /// Tells every function the time, first to last: what one brings forth goes through those behind it before they are told.
    ///
    /// # Cancellation
    /// As [`Chain::process`].
    fn advance(&mut self, watermark: i64) -> impl Future<Output = Result<Fired<Self::Out>>> + Send;

    /// Tells every function that a partition is at its end, in the same order.
    ///
    /// # Cancellation
    /// As [`Chain::process`].
    fn end(&mut self, at: &TopicPartition) -> impl Future<Output = Result<Batch<Self::Out>>> + Send;

    /// A partition is going to be read.
    ///
    /// # Errors
    /// `State` if a state can't be read.
    fn add(&mut self, at: &TopicPartition, states: &[FunctionState]) -> Result<()>;

    /// The functions with state.
    fn specs(&self) -> Vec<FunctionSpec>;

    /// What they know.
    ///
    /// # Errors
    /// `State` if it is too large.
    fn snapshot(&self, out: &mut Vec<FunctionState>) -> Result<()>;

    /// How many elements came too late.
    fn late(&self) -> u64;

    /// How many elements the widest works on at once: fewer put through together leave it idle.
    fn width(&self) -> usize;
}

/// No function at all.
pub struct Identity<T>(PhantomData<fn(T) -> T>);

impl<T> Default for Identity<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Identity<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> fmt::Debug for Identity<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl<T: Send + 'static> Chain<T> for Identity<T> {
    type Out = T;

    async fn process(&mut self, _: &TopicPartition, batch: Batch<T>) -> Result<Batch<T>> {
        Ok(batch)
    }

    async fn advance(&mut self, _: i64) -> Result<Fired<T>> {
        Ok(Vec::new())
    }

    async fn end(&mut self, _: &TopicPartition) -> Result<Batch<T>> {
        Ok(Vec::new())
    }

    fn add(&mut self, _: &TopicPartition, _: &[FunctionState]) -> Result<()> {
        Ok(())
    }

    fn specs(&self) -> Vec<FunctionSpec> {
        Vec::new()
    }

    fn snapshot(&self, _: &mut Vec<FunctionState>) -> Result<()> {
        Ok(())
    }

    fn late(&self) -> u64 {
        0
    }

    fn width(&self) -> usize {
        1
    }
}

/// A chain and one more function.
#[derive(Clone, Debug)]
pub struct Then<C, S> {
    pub(super) before: C,
    pub(super) stage: S,
}

impl<In, S> Then<Identity<In>, S> {
    /// One function alone.
    #[must_use]
    pub fn of(stage: S) -> Self {
        Self { before: Identity::default(), stage }
    }
}

impl<In, C, S> Chain<In> for Then<C, S>
where
    In: Send + 'static,
    C: Chain<In>,
    S: Stage<C::Out>,
{
    type Out = S::Out;

    async fn process(&mut self, at: &TopicPartition, batch: Batch<In>) -> Result<Batch<S::Out>> {
        let batch = self.before.process(at, batch).await?;
        self.stage.process(at, batch).await
    }

    async fn advance(&mut self, watermark: i64) -> Result<Fired<S::Out>> {
        let mut out = Vec::new();
        for (at, batch) in self.before.advance(watermark).await? {
            let batch = self.stage.process(&at, batch).await?;
            out.push((at, batch));
        }
        out.extend(self.stage.advance(watermark)?);
        Ok(out)
    }

    async fn end(&mut self, at: &TopicPartition) -> Result<Batch<S::Out>> {
        let last = self.before.end(at).await?;
        let mut out = self.stage.process(at, last).await?;
        out.extend(self.stage.end(at)?);
        Ok(out)
    }

    fn add(&mut self, at: &TopicPartition, states: &[FunctionState]) -> Result<()> {
        self.before.add(at, states)?;
        self.stage.add(at, states)
    }

    fn specs(&self) -> Vec<FunctionSpec> {
        self.before.specs().into_iter().chain(self.stage.spec()).collect()
    }

    fn snapshot(&self, out: &mut Vec<FunctionState>) -> Result<()> {
        self.before.snapshot(out)?;
        self.stage.snapshot(out)
    }

    fn late(&self) -> u64 {
        self.before.late() + self.stage.late()
    }

    fn width(&self) -> usize {
        self.before.width().max(self.stage.width())
    }
}

fn failed(error: BoxError) -> Error {
    Error::new(ErrorKind::Schema, "a function of the job failed on a record").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::Offset;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn at() -> TopicPartition {
        TopicPartition::new("in", 0)
    }

    fn batch(values: impl IntoIterator<Item = u32>) -> Batch<u32> {
        values
            .into_iter()
            .map(|value| Stamped {
                value,
                timestamp: i64::from(value) * 10,
                offset: Offset(i64::from(value)),
            })
            .collect()
    }

    fn then<S>(stage: S) -> Then<Identity<u32>, S> {
        Then { before: Identity::default(), stage }
    }

    #[tokio::test]
    async fn functions_apply_in_order_and_keep_event_times() {
        let map = then(Map { function: |n: u32| n * 2 });
        let filter = Then { before: map, stage: Filter { function: |n: &u32| *n != 4 } };
        let mut chain = Then {
            before: filter,
            stage: FlatMap { function: |n: u32| vec![n.to_string(); n as usize / 2] },
        };
        let out = chain.process(&at(), batch(1..=3)).await.unwrap();
        let out: Vec<(String, i64)> = out.into_iter().map(|it| (it.value, it.timestamp)).collect();
        let expected = [("2", 10), ("6", 30), ("6", 30), ("6", 30)];
        assert_eq!(out, expected.map(|(value, timestamp)| (value.to_owned(), timestamp)));
    }

    #[tokio::test(start_paused = true)]
    async fn async_results_keep_their_order_and_their_limit() {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
        let mut chain = then(MapAsync {
            concurrency: 3,
            function: move |n: u32| {
                let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
                async move {
                    peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(u64::from(20 - n))).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, BoxError>(n)
                }
            },
        });
        let out = chain.process(&at(), batch(0..20)).await.unwrap();
        assert!(out.iter().map(|it| it.value).eq(0..20));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn an_error_names_the_offset() {
        let refuse = |n: u32| if n == 2 { Err("odd one out".into()) } else { Ok(n) };
        let mut chain = then(TryMap { function: refuse });
        let error = chain.process(&at(), batch(1..=3)).await.unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Schema, Some(Offset(2))));
    }
}
