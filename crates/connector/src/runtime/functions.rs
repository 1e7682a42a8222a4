//! The functions between source and sink: each takes a batch of elements and gives a batch.
//!
//! Elements keep their event time and their order. A batch goes through all functions before the next barrier is looked at, so
//! nothing is ever inside a function when a checkpoint is taken.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::schema::Stamped;
use crate::{BoxError, Error, ErrorKind, Result};

/// A batch of elements on its way to the sink.
pub type Batch<T> = Vec<Stamped<T>>;

/// A chain of functions. Each subtask has its own clone.
pub trait Chain<In>: Clone + Send + 'static {
    /// What comes out.
    type Out: Send + 'static;

    /// Puts a batch through.
    ///
    /// # Cancellation
    /// Dropping the future loses the batch; the job ends then.
    fn process(&mut self, batch: Batch<In>) -> impl Future<Output = Result<Batch<Self::Out>>> + Send;
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

    async fn process(&mut self, batch: Batch<T>) -> Result<Batch<T>> {
        Ok(batch)
    }
}

/// One element in, one out. Made by [`Stream::map`](super::Stream::map).
#[derive(Clone, Debug)]
pub struct Map<C, F> {
    pub(super) before: C,
    pub(super) function: F,
}

impl<In, U, C, F> Chain<In> for Map<C, F>
where
    In: Send + 'static,
    U: Send + 'static,
    C: Chain<In>,
    F: FnMut(C::Out) -> U + Clone + Send + 'static,
{
    type Out = U;

    async fn process(&mut self, batch: Batch<In>) -> Result<Batch<U>> {
        let batch = self.before.process(batch).await?;
        let apply = |Stamped { value, timestamp, offset }| Stamped {
            value: (self.function)(value),
            timestamp,
            offset,
        };
        Ok(batch.into_iter().map(apply).collect())
    }
}

/// One element in, one out or an error. Made by [`Stream::try_map`](super::Stream::try_map).
#[derive(Clone, Debug)]
pub struct TryMap<C, F> {
    pub(super) before: C,
    pub(super) function: F,
}

impl<In, U, C, F> Chain<In> for TryMap<C, F>
where
    In: Send + 'static,
    U: Send + 'static,
    C: Chain<In>,
    F: FnMut(C::Out) -> std::result::Result<U, BoxError> + Clone + Send + 'static,
{
    type Out = U;

    async fn process(&mut self, batch: Batch<In>) -> Result<Batch<U>> {
        let batch = self.before.process(batch).await?;
        let mut out = Vec::with_capacity(batch.len());
        for Stamped { value, timestamp, offset } in batch {
            let value = (self.function)(value).map_err(|error| failed(error).with_offset(offset))?;
            out.push(Stamped { value, timestamp, offset });
        }
        Ok(out)
    }
}

/// Some elements stay, others go. Made by [`Stream::filter`](super::Stream::filter).
#[derive(Clone, Debug)]
pub struct Filter<C, F> {
    pub(super) before: C,
    pub(super) function: F,
}

impl<In, C, F> Chain<In> for Filter<C, F>
where
    In: Send + 'static,
    C: Chain<In>,
    F: FnMut(&C::Out) -> bool + Clone + Send + 'static,
{
    type Out = C::Out;

    async fn process(&mut self, batch: Batch<In>) -> Result<Batch<C::Out>> {
        let mut batch = self.before.process(batch).await?;
        batch.retain(|element| (self.function)(&element.value));
        Ok(batch)
    }
}

/// One element in, any number out, with its event time. Made by [`Stream::flat_map`](super::Stream::flat_map).
#[derive(Clone, Debug)]
pub struct FlatMap<C, F> {
    pub(super) before: C,
    pub(super) function: F,
}

impl<In, I, C, F> Chain<In> for FlatMap<C, F>
where
    In: Send + 'static,
    I: IntoIterator,
    I::Item: Send + 'static,
    C: Chain<In>,
    F: FnMut(C::Out) -> I + Clone + Send + 'static,
{
    type Out = I::Item;

    async fn process(&mut self, batch: Batch<In>) -> Result<Batch<I::Item>> {
        let batch = self.before.process(batch).await?;
        let mut out = Vec::with_capacity(batch.len());
        for Stamped { value, timestamp, offset } in batch {
            out.extend((self.function)(value).into_iter().map(|value| Stamped { value, timestamp, offset }));
        }
        Ok(out)
    }
}

/// One element in, one out, later; several at a time, in order. Made by [`Stream::map_async`](super::Stream::map_async).
#[derive(Clone, Debug)]
pub struct MapAsync<C, F> {
    pub(super) before: C,
    pub(super) concurrency: usize,
    pub(super) function: F,
}

impl<In, U, C, F, Fut> Chain<In> for MapAsync<C, F>
where
    In: Send + 'static,
    U: Send + 'static,
    C: Chain<In>,
    F: FnMut(C::Out) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = std::result::Result<U, BoxError>> + Send + 'static,
{
    type Out = U;

    async fn process(&mut self, batch: Batch<In>) -> Result<Batch<U>> {
        let batch = self.before.process(batch).await?;
        let function = &mut self.function;
        let started = batch.into_iter().map(move |Stamped { value, timestamp, offset }| {
            let answer = function(value);
            async move {
                let value = answer.await.map_err(|error| failed(error).with_offset(offset))?;
                Ok(Stamped { value, timestamp, offset })
            }
        });
        stream::iter(started).buffered(self.concurrency.max(1)).try_collect().await
    }
}

fn failed(error: BoxError) -> Error {
    Error::new(ErrorKind::Schema, "a function of the job failed on a record").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::Offset;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

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

    #[tokio::test]
    async fn functions_apply_in_order_and_keep_event_times() {
        let map = Map { before: Identity::<u32>::default(), function: |n: u32| n * 2 };
        let filter = Filter { before: map, function: |n: &u32| *n != 4 };
        let mut chain = FlatMap { before: filter, function: |n: u32| vec![n.to_string(); n as usize / 2] };
        let out = chain.process(batch(1..=3)).await.unwrap();
        let out: Vec<(String, i64)> = out.into_iter().map(|it| (it.value, it.timestamp)).collect();
        let expected = [("2", 10), ("6", 30), ("6", 30), ("6", 30)];
        assert_eq!(out, expected.map(|(value, timestamp)| (value.to_owned(), timestamp)));
    }

    #[tokio::test(start_paused = true)]
    async fn async_results_keep_their_order_and_their_limit() {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
        let mut chain = MapAsync {
            before: Identity::<u32>::default(),
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
        };
        let out = chain.process(batch(0..20)).await.unwrap();
        assert!(out.iter().map(|it| it.value).eq(0..20));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn an_error_names_the_offset() {
        let refuse = |n: u32| if n == 2 { Err("odd one out".into()) } else { Ok(n) };
        let mut chain = TryMap { before: Identity::<u32>::default(), function: refuse };
        let error = chain.process(batch(1..=3)).await.unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Schema, Some(Offset(2))));
    }
}
