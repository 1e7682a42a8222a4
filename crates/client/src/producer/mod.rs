//! Writes records.

mod budget;
mod compress;
mod config;
pub(crate) mod engine;
mod intake;
mod lane;
mod metrics;
mod properties;
mod record;
mod router;
mod sending;
mod sets;
mod slot;
mod ticket;
mod timer;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use engine::Engine;
use intake::Refusal;

pub use config::{Acks, Idempotence, Partitioner, Partitioning, ProducerConfig};
pub use metrics::ProducerMetrics;
pub use record::{ProducerRecord, RecordMetadata};
pub use ticket::{Ticket, Tickets};

/// Writes records to topics. Idempotent unless told otherwise: a record is written once and in order, also when answers are lost and
/// leaders move. (Brokers before 0.11 cannot do that: there records stay in order, and a lost answer may write some twice; see
/// [`Idempotence`]. They store no headers either: a record that has some fails.)
///
/// Clones share everything. Records are encoded where [`send`](Self::send) is called, straight into their partition's open batch; one task a
/// leader broker sends the batches. When the last clone is dropped, what was taken goes on being delivered in the background for
/// `delivery_timeout` at most; nothing blocks. Use [`close`](Self::close) to know how it ended.
///
/// ```no_run
/// use std::time::Duration;
/// use milena::{Client, Producer, ProducerConfig, ProducerRecord};
///
/// # async fn write() -> milena::Result<()> {
/// let client = Client::connect("localhost:9092").await?;
/// let producer = Producer::new(&client, ProducerConfig::default())?;
/// let ticket = producer.send(ProducerRecord::to("orders").key(b"42").value(b"two teas")).await?;
/// println!("written at {:?}", ticket.await?.offset);
/// producer.close(Duration::from_secs(30)).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle(Arc<Engine>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if *self.0.ended.borrow() {
            return;
        }
        let engine = Arc::clone(&self.0);
        let limit = engine.config.delivery_timeout + engine.config.request_timeout;
        self.0.runtime.spawn(async move {
            if let Err(error) = engine.finish(limit).await {
                tracing::warn!(%error, "a producer was dropped with records that could not be delivered");
            }
        });
    }
}

impl Producer {
    /// A producer on the client's connections. Nothing is sent yet: the producer id is asked for with the first record.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a wrong configuration.
    pub fn new(client: &Client, config: ProducerConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { handle: Arc::new(Handle(Engine::start(client.clone(), config, None))) })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ProducerConfig {
        &self.handle.0.config
    }

    /// Takes a record. Waits only for room in `buffer_memory`, and for the partitions of a topic that was not used before; the
    /// record is written in the background and the ticket says how that ended.
    ///
    /// Records of one partition are written in the order of the calls.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a record that is too large or a partition that does not exist, [`ErrorKind::Broker`] for a topic
    /// that does not, [`ErrorKind::Closed`] after [`close`](Self::close), and what made the producer unusable.
    ///
    /// # Cancellation
    /// Dropped before it returns, the record was not taken.
    #[inline]
    pub fn send<'a>(
        &'a self,
        record: ProducerRecord<'a>,
    ) -> impl Future<Output = Result<Ticket>> + Send + use<'a> {
        send(&self.handle.0, record)
    }

    /// Takes a record if that is possible at once.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] when there is no room now, or the topic's partitions are not known yet (they are asked for in the
    /// background); otherwise as [`send`](Self::send).
    #[inline]
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Ticket> {
        try_send(&self.handle.0, &record)
    }

    /// Takes records in their order, as [`send`](Self::send) does one by one. Cheaper where records for the same partition stand next to
    /// each other: such a run is taken under one lock. Waits for room as often as needed.
    ///
    /// # Errors
    /// As [`send`](Self::send), of the first record that was not taken. Those before it were, and their tickets are lost:
    /// [`flush`](Self::flush) reports their failures.
    ///
    /// # Cancellation
    /// The records up to some point were taken.
    pub async fn send_all(&self, records: &[ProducerRecord<'_>]) -> Result<Tickets> {
        send_all(&self.handle.0, records).await
    }

    /// Takes a record, and calls a function when it is settled. Otherwise as [`send`](Self::send).
    ///
    /// The function is called once, by the task that settles the batch, which other records wait for: it must not block. It costs an
    /// allocation if it captures anything.
    ///
    /// # Errors
    /// As [`send`](Self::send); the function is dropped then.
    ///
    /// # Cancellation
    /// Dropped before it returns, the record was not taken, and the function is not called.
    pub async fn send_with(
        &self,
        record: ProducerRecord<'_>,
        on_settled: impl FnOnce(Result<RecordMetadata>) + Send + 'static,
    ) -> Result<()> {
        let mut call: Option<ticket::Callback> = Some(Box::new(on_settled));
        let mut note = |batch: &Arc<ticket::BatchState>, index: u32, time: i64| {
            if let Some(call) = call.take() {
                batch.on_settled(index, time, call);
            }
        };
        match self.handle.0.push(&record, &mut note) {
            Ok(()) => Ok(()),
            Err(Refusal::Error(error)) => Err(error),
            Err(refusal) => send_later(&self.handle.0, &record, refusal, note).await,
        }
    }

    /// Takes what a stream gives until it ends, then waits until all of it is settled; returns how many records that were. `record` makes a
    /// record of an item.
    ///
    /// Items that are ready together are sent together, as by [`send_all`](Self::send_all). The stream is asked for more only when there
    /// was room for what it gave.
    ///
    /// # Errors
    /// As [`send`](Self::send), and the first failure of a record of the stream; what the stream gave before is sent all the same, and
    /// nothing more is taken from it.
    ///
    /// # Cancellation
    /// The records up to some point were taken; items that were taken from the stream together with them may be lost.
    ///
    /// ```no_run
    /// # async fn write(producer: milena::Producer) -> milena::Result<()> {
    /// let names = futures_util::stream::iter(["tea", "coffee"]);
    /// let written = producer.send_stream(names, |name| milena::ProducerRecord::to("drinks").value(*name)).await?;
    /// assert_eq!(written, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_stream<T>(
        &self,
        records: impl Stream<Item = T>,
        record: impl for<'a> Fn(&'a T) -> ProducerRecord<'a>,
    ) -> Result<u64> {
        let ready = records.ready_chunks(STREAM_CHUNK);
        futures_util::pin_mut!(ready);
        let (mut unsettled, mut count) = (Tickets::default(), 0);
        while let Some(items) = ready.next().await {
            let chunk: Vec<ProducerRecord<'_>> = items.iter().map(&record).collect();
            unsettled.join(self.send_all(&chunk).await?);
            count += chunk.len() as u64;
            unsettled.forget_settled()?;
        }
        unsettled.await?;
        Ok(count)
    }

    /// Waits until everything that was sent before the call is settled.
    ///
    /// # Errors
    /// The first error of those records, and of earlier ones whose failure no flush has reported.
    ///
    /// # Cancellation
    /// Sending goes on; errors are left to the next flush.
    pub async fn flush(&self) -> Result<()> {
        self.handle.0.flush().await
    }

    /// Refuses further records, waits until those taken are settled, `timeout` at most, and ends. Records that are not acknowledged by then
    /// fail, and their tickets say so. All clones are closed. It ends in time with or without a broker.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); [`ErrorKind::Timeout`] when records were left.
    ///
    /// # Cancellation
    /// The producer stays closed to new records; those taken are settled in the background.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        self.handle.0.finish(timeout).await
    }

    /// Whether a record is written once only, whatever is lost on the way; `None` until the brokers were asked, which is at the first
    /// record. `Some(false)` when that is [off](Idempotence::Off), or when the brokers are older than 0.11.
    #[must_use]
    pub fn is_idempotent(&self) -> Option<bool> {
        self.handle.0.idempotent()
    }

    /// What it did so far.
    #[must_use]
    pub fn metrics(&self) -> ProducerMetrics {
        let engine = &self.handle.0;
        engine.counts.snapshot(engine.budget.used(), engine.idempotent())
    }
}

/// How many items of a stream are sent together, at most.
const STREAM_CHUNK: usize = 256;

#[inline]
pub(crate) fn send<'a>(
    engine: &'a Arc<Engine>,
    record: ProducerRecord<'a>,
) -> impl Future<Output = Result<Ticket>> + Send + use<'a> {
    sending::Sending::new(engine, record)
}

pub(crate) async fn send_all(engine: &Arc<Engine>, records: &[ProducerRecord<'_>]) -> Result<Tickets> {
    let mut tickets = Tickets::default();
    let mut left = records;
    loop {
        let (taken, result) = engine.push_all(left, &mut tickets);
        left = left.get(taken..).unwrap_or_default();
        let (refusal, record) = match (result, left.first()) {
            (Ok(()), _) | (Err(_), None) => return Ok(tickets),
            (Err(Refusal::Error(error)), _) => return Err(error),
            (Err(refusal), Some(record)) => (refusal, record),
        };
        let note = |batch: &Arc<ticket::BatchState>, index: u32, time: i64| tickets.add(batch, index, time);
        Box::pin(send_later(engine, record, refusal, note)).await?;
        left = left.get(1..).unwrap_or_default();
    }
}

/// Sends a record that was refused. `take` is called once it is taken.
async fn send_later<T>(
    engine: &Arc<Engine>,
    record: &ProducerRecord<'_>,
    mut refusal: Refusal,
    mut take: impl FnMut(&Arc<ticket::BatchState>, u32, i64) -> T,
) -> Result<T> {
    let mut waiter = None;
    loop {
        match refusal {
            Refusal::Error(error) => return Err(error),
            Refusal::Unknown => {
                engine.learn(record.topic).await?;
                if !engine.knows(record.topic, record.partition) {
                    let text = match record.partition {
                        Some(partition) => format!("topic {:?} has no partition {partition}", record.topic),
                        None => format!("topic {:?} has no partitions", record.topic),
                    };
                    return Err(Error::misuse(text));
                }
                refusal = match engine.push(record, &mut take) {
                    Ok(taken) => return Ok(taken),
                    Err(refusal) => refusal,
                };
            }
            Refusal::Full => {
                let first = waiter.is_none();
                let waiter = waiter.get_or_insert_with(|| engine.budget.waiter());
                let refunded = waiter.refunded();
                refusal = match engine.push(record, &mut take) {
                    Ok(taken) => return Ok(taken),
                    Err(refusal) => refusal,
                };
                if matches!(refusal, Refusal::Full) {
                    if first {
                        engine.press();
                    }
                    refunded.await;
                }
            }
        }
    }
}

#[inline]
pub(crate) fn try_send(engine: &Arc<Engine>, record: &ProducerRecord<'_>) -> Result<Ticket> {
    engine.push(record, Ticket::new).map_err(|refusal| not_now(engine, record, refusal))
}

#[cold]
fn not_now(engine: &Arc<Engine>, record: &ProducerRecord<'_>, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Error(error) => error,
        Refusal::Full => {
            Error::new(ErrorKind::Full, "buffer_memory is used up by records that are not acknowledged yet")
                .with_remedy("wait for tickets, use send, or allow more memory")
        }
        Refusal::Unknown => {
            let (learner, topic) = (Arc::clone(engine), record.topic.to_owned());
            engine.runtime.spawn(async move {
                if let Err(error) = learner.learn(&topic).await {
                    tracing::debug!(%error, "a topic could not be looked up");
                }
            });
            Error::new(ErrorKind::Full, "the topic's partitions are not known yet")
                .with_topic(record.topic)
                .with_remedy("try again in a moment, or use send, which waits for them")
        }
    }
}
