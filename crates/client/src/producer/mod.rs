//! Writes records.

mod budget;
mod config;
pub(crate) mod engine;
mod lane;
mod metrics;
mod properties;
mod record;
mod router;
mod sets;
mod slot;
mod ticket;
mod timer;

use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use engine::{Engine, Refusal};

pub use config::{Acks, Idempotence, Partitioner, Partitioning, ProducerConfig};
pub use metrics::ProducerMetrics;
pub use record::{ProducerRecord, RecordMetadata};
pub use ticket::Ticket;

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
    pub async fn send(&self, record: ProducerRecord<'_>) -> Result<Ticket> {
        send(&self.handle.0, record).await
    }

    /// Takes a record if that is possible at once.
    ///
    /// # Errors
    /// [`ErrorKind::Full`] when there is no room now, or the topic's partitions are not known yet (they are asked for in the
    /// background); otherwise as [`send`](Self::send).
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Ticket> {
        try_send(&self.handle.0, &record)
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

pub(crate) async fn send(engine: &Arc<Engine>, record: ProducerRecord<'_>) -> Result<Ticket> {
    match engine.push(&record) {
        Ok(ticket) => Ok(ticket),
        Err(Refusal::Error(error)) => Err(error),
        // Apart, so that the future of the usual case stays small.
        Err(refusal) => Box::pin(send_later(engine, record, refusal)).await,
    }
}

async fn send_later(
    engine: &Arc<Engine>,
    record: ProducerRecord<'_>,
    mut refusal: Refusal,
) -> Result<Ticket> {
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
                refusal = match engine.push(&record) {
                    Ok(ticket) => return Ok(ticket),
                    Err(refusal) => refusal,
                };
            }
            Refusal::Full => {
                let first = waiter.is_none();
                let waiter = waiter.get_or_insert_with(|| engine.budget.waiter());
                let refunded = waiter.refunded();
                refusal = match engine.push(&record) {
                    Ok(ticket) => return Ok(ticket),
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

pub(crate) fn try_send(engine: &Arc<Engine>, record: &ProducerRecord<'_>) -> Result<Ticket> {
    match engine.push(record) {
        Ok(ticket) => Ok(ticket),
        Err(Refusal::Error(error)) => Err(error),
        Err(Refusal::Full) => Err(Error::new(
            ErrorKind::Full,
            "buffer_memory is used up by records that are not acknowledged yet",
        )
        .with_remedy("wait for tickets, use send, or allow more memory")),
        Err(Refusal::Unknown) => {
            let (learner, topic) = (Arc::clone(engine), record.topic.to_owned());
            engine.runtime.spawn(async move {
                if let Err(error) = learner.learn(&topic).await {
                    tracing::debug!(%error, "a topic could not be looked up");
                }
            });
            Err(Error::new(ErrorKind::Full, "the topic's partitions are not known yet")
                .with_topic(record.topic)
                .with_remedy("try again in a moment, or use send, which waits for them"))
        }
    }
}
