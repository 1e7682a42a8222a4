//! Functions that keep nothing from one element to the next.

use std::future::Future;

use futures_util::{StreamExt, TryStreamExt, stream};
use milena::TopicPartition;

use super::{Batch, Stage, failed};
use crate::schema::Stamped;
use crate::{BoxError, Result};

/// One element in, one out. Made by [`Stream::map`](crate::runtime::Stream::map).
#[derive(Clone, Debug)]
pub struct Map<F> {
    pub(in crate::runtime) function: F,
}

impl<In, U, F> Stage<In> for Map<F>
where
    In: Send + 'static,
    U: Send + 'static,
    F: FnMut(In) -> U + Clone + Send + 'static,
{
    type Out = U;

    async fn process(&mut self, _: &TopicPartition, batch: Batch<In>) -> Result<Batch<U>> {
        let apply = |Stamped { value, timestamp, offset }| Stamped {
            value: (self.function)(value),
            timestamp,
            offset,
        };
        Ok(batch.into_iter().map(apply).collect())
    }
}

/// One element in, one out or an error. Made by [`Stream::try_map`](crate::runtime::Stream::try_map).
#[derive(Clone, Debug)]
pub struct TryMap<F> {
    pub(in crate::runtime) function: F,
}

impl<In, U, F> Stage<In> for TryMap<F>
where
    In: Send + 'static,
    U: Send + 'static,
    F: FnMut(In) -> std::result::Result<U, BoxError> + Clone + Send + 'static,
{
    type Out = U;

    async fn process(&mut self, _: &TopicPartition, batch: Batch<In>) -> Result<Batch<U>> {
        let mut out = Vec::with_capacity(batch.len());
        for Stamped { value, timestamp, offset } in batch {
            let value = (self.function)(value).map_err(|error| failed(error).with_offset(offset))?;
            out.push(Stamped { value, timestamp, offset });
        }
        Ok(out)
    }
}

/// Some elements stay, others go. Made by [`Stream::filter`](crate::runtime::Stream::filter).
#[derive(Clone, Debug)]
pub struct Filter<F> {
    pub(in crate::runtime) function: F,
}

impl<In, F> Stage<In> for Filter<F>
where
    In: Send + 'static,
    F: FnMut(&In) -> bool + Clone + Send + 'static,
{
    type Out = In;

    async fn process(&mut self, _: &TopicPartition, mut batch: Batch<In>) -> Result<Batch<In>> {
        batch.retain(|element| (self.function)(&element.value));
        Ok(batch)
    }
}

/// One element in, any number out, with its event time. Made by [`Stream::flat_map`](crate::runtime::Stream::flat_map).
#[derive(Clone, Debug)]
pub struct FlatMap<F> {
    pub(in crate::runtime) function: F,
}

impl<In, I, F> Stage<In> for FlatMap<F>
where
    In: Send + 'static,
    I: IntoIterator,
    I::Item: Send + 'static,
    F: FnMut(In) -> I + Clone + Send + 'static,
{
    type Out = I::Item;

    async fn process(&mut self, _: &TopicPartition, batch: Batch<In>) -> Result<Batch<I::Item>> {
        let mut out = Vec::with_capacity(batch.len());
        for Stamped { value, timestamp, offset } in batch {
            out.extend((self.function)(value).into_iter().map(|value| Stamped { value, timestamp, offset }));
        }
        Ok(out)
    }
}

/// One element in, one out, later; several at a time, in order. Made by
/// [`Stream::map_async`](crate::runtime::Stream::map_async).
#[derive(Clone, Debug)]
pub struct MapAsync<F> {
    pub(in crate::runtime) concurrency: usize,
    pub(in crate::runtime) function: F,
}

impl<In, U, F, Fut> Stage<In> for MapAsync<F>
where
    In: Send + 'static,
    U: Send + 'static,
    F: FnMut(In) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = std::result::Result<U, BoxError>> + Send + 'static,
{
    type Out = U;

    async fn process(&mut self, _: &TopicPartition, batch: Batch<In>) -> Result<Batch<U>> {
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

    fn width(&self) -> usize {
        self.concurrency.max(1)
    }
}
