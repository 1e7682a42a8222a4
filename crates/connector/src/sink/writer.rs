//! The writer of one subtask: elements in, records and prepared transactions out.
//!
//! At a barrier: [`flush`](Writer::flush), [`prepare`](Writer::prepare), [`snapshot`](Writer::snapshot), and after the snapshot is
//! on its way [`begin_next`](Writer::begin_next). An error of a record comes back from the flush that covers it, and from
//! [`failed`](Writer::failed) as soon as it is known, without any further input.
//!
//! # Invariants
//! * A transaction is begun with its first record: there are no empty ones to commit or to checkpoint.
//! * Each transaction has its own producer id and epoch, for each begins with `InitProducerId`.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena::protocol::error_code::ErrorCode;
use milena::protocol::records::Header;
use milena::{
    Client, PartitionId, Producer, ProducerConfig, ProducerRecord, Ticket, TransactionConfig,
    TransactionalProducer,
};

use super::committable::Committable;
use super::naming::{NamePool, TransactionName};
use super::{Delivery, KafkaSink, SinkPartitioning};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::WriterState;
use crate::schema::{Emit, Serializer, SinkRecord};
use crate::{Error, ErrorKind, Result};

/// An initialised producer that waited this long is initialised again before use: brokers forget ids after days.
const READY_FOR: Duration = Duration::from_secs(3600);

/// Writes the elements of one subtask.
pub struct Writer<T> {
    client: Client,
    subtask: u32,
    partitioning: SinkPartitioning,
    serializer: Box<dyn Serializer<T>>,
    record: SinkRecord,
    path: Path,
    /// Records sent and not yet known to be written, oldest first.
    unconfirmed: VecDeque<Ticket>,
    taken: u32,
}

/// Confirmations are looked at once for so many elements: each look costs a lock.
const LOOK_EVERY: u32 = 64;

enum Path {
    Plain { producer: Producer, flush: bool },
    Transactions(Transactions),
}

struct Transactions {
    names: NamePool,
    prefix: String,
    timeout: Duration,
    producer: ProducerConfig,
    current: Current,
}

enum Current {
    None,
    Ready { name: TransactionName, producer: Box<TransactionalProducer>, since: Instant },
    Open { name: TransactionName, producer: Box<TransactionalProducer>, since: Instant },
}

impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("subtask", &self.subtask).finish_non_exhaustive()
    }
}

impl<T> Writer<T> {
    /// A writer for a subtask. With exactly once, the first transaction's producer is initialised here, so that a timeout that
    /// the broker does not allow fails the start.
    ///
    /// # Errors
    /// `Misuse` for a configuration the client refuses, `Client` if the broker can't be reached or refuses the id.
    ///
    /// # Cancellation
    /// Dropping the future leaves at most an initialised transactional id behind.
    pub async fn open(sink: &KafkaSink<T>, client: Client, subtask: u32, names: NamePool) -> Result<Self> {
        let settings = &sink.settings;
        let path = match (settings.delivery, &settings.prefix) {
            (Delivery::ExactlyOnce, Some(prefix)) => Path::Transactions(Transactions {
                names,
                prefix: prefix.clone(),
                timeout: settings.transaction_timeout,
                producer: settings.producer.clone(),
                current: Current::None,
            }),
            (Delivery::ExactlyOnce, None) => {
                return Err(Error::new(ErrorKind::Misuse, "exactly once needs a transactional id prefix"));
            }
            (delivery @ (Delivery::None | Delivery::AtLeastOnce), _) => {
                let producer = Producer::new(&client, settings.producer.clone())?;
                Path::Plain { producer, flush: delivery == Delivery::AtLeastOnce }
            }
        };
        let mut writer = Self {
            client,
            subtask,
            partitioning: settings.partitioning,
            serializer: (sink.serializer)(),
            record: SinkRecord::new(),
            path,
            unconfirmed: VecDeque::new(),
            taken: 0,
        };
        writer.begin_next().await?;
        Ok(writer)
    }

    /// Takes one element: it becomes a record, which [`send`](Self::send) writes. Returns whether there is one to write; the
    /// serializer may skip the element.
    ///
    /// # Errors
    /// `Schema` if the serializer fails; the error of a record sent before.
    pub fn take(&mut self, value: &T, timestamp: i64) -> Result<bool> {
        self.taken = self.taken.wrapping_add(1);
        if self.taken.is_multiple_of(LOOK_EVERY) {
            self.take_confirmed()?;
        }
        self.record.clear();
        let emit = self.serializer.serialize(value, timestamp, &mut self.record).map_err(|error| {
            Error::new(
                ErrorKind::Schema,
                format!("an element can't be serialized (subtask {})", self.subtask),
            )
            .with_source(error)
        })?;
        Ok(emit == Emit::Write)
    }

    /// Writes the record of the element taken last, with the element's event time unless the serializer set another. Waits for
    /// room in the producer's buffer only.
    ///
    /// # Errors
    /// What makes the record impossible to write.
    ///
    /// # Cancellation
    /// Dropping the future may leave the record sent or not sent.
    pub async fn send(&mut self, timestamp: i64) -> Result<()> {
        let Some(topic) = self.record.topic().cloned() else {
            return Err(Error::new(ErrorKind::Schema, "the serializer filled a record without a topic"));
        };
        let partition = match self.record.partition() {
            Some(partition) => Some(partition),
            None if self.partitioning == SinkPartitioning::Fixed => {
                Some(fixed_partition(&self.client, &topic, self.subtask).await?)
            }
            None => None,
        };
        if let Path::Transactions(transactions) = &mut self.path {
            transactions.begin(&self.client, self.subtask).await?;
        }
        let headers: Vec<Header<'_>> = self
            .record
            .headers()
            .iter()
            .map(|(name, value)| Header { name, value: value.as_deref() })
            .collect();
        let record = ProducerRecord {
            topic: &topic,
            partition,
            key: self.record.key(),
            value: self.record.value(),
            headers: &headers,
            timestamp: self.record.timestamp().or((timestamp >= 0).then_some(timestamp)),
        };
        let ticket = match &self.path {
            Path::Plain { producer, .. } => producer.send(record).await?,
            Path::Transactions(transactions) => transactions.send(record).await?,
        };
        self.unconfirmed.push_back(ticket);
        Ok(())
    }

    /// Waits for the first error of a record that was sent. Never returns while all goes well.
    ///
    /// # Cancellation
    /// Nothing is lost: the next call goes on.
    pub async fn failed(&mut self) -> Error {
        while let Some(ticket) = self.unconfirmed.front_mut() {
            let result = ticket.await;
            self.unconfirmed.pop_front();
            if let Err(error) = result {
                return self.explain(error);
            }
        }
        pending().await
    }

    /// Waits until all records written so far are in the log, unless delivery is [`Delivery::None`] and it is not the end.
    ///
    /// # Errors
    /// The first error of one of these records.
    ///
    /// # Cancellation
    /// The records are written all the same; call again.
    pub async fn flush(&mut self, end: bool) -> Result<()> {
        let flushed = match &self.path {
            Path::Plain { flush: false, .. } if !end => return self.take_confirmed(),
            Path::Plain { producer, .. } => producer.flush().await,
            Path::Transactions(transactions) => match &transactions.current {
                Current::Open { producer, .. } => producer.flush().await,
                Current::None | Current::Ready { .. } => Ok(()),
            },
        };
        flushed.map_err(|error| self.explain(error))?;
        while let Some(ticket) = self.unconfirmed.front_mut() {
            let result = ticket.await;
            self.unconfirmed.pop_front();
            result.map_err(|error| self.explain(error))?;
        }
        Ok(())
    }

    /// Ends the current transaction's writing, if anything was written in it: the committable for the checkpoint.
    ///
    /// # Errors
    /// An error of one of its records, or of the coordinator.
    ///
    /// # Cancellation
    /// Dropping the future leaves a transaction that nobody commits: it is a leftover, and the next start aborts it.
    pub async fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<Committable>> {
        let Path::Transactions(transactions) = &mut self.path else { return Ok(None) };
        let Current::Open { producer, .. } = &mut transactions.current else { return Ok(None) };
        let prepared = producer.prepare().await;
        match prepared {
            Err(error) => Err(self.explain(error)),
            Ok(prepared) => {
                let ended = std::mem::replace(&mut transactions.current, Current::None);
                match (prepared, ended) {
                    (Some(transaction), _) => {
                        Ok(Some(Committable { checkpoint, subtask: self.subtask, transaction }))
                    }
                    (None, Current::Open { name, .. }) => {
                        transactions.names.release(name);
                        Ok(None)
                    }
                    (None, Current::None | Current::Ready { .. }) => Ok(None),
                }
            }
        }
    }

    /// The writer's part of the checkpoint.
    #[must_use]
    pub fn snapshot(&self) -> WriterState {
        let held = match &self.path {
            Path::Plain { .. } => Vec::new(),
            Path::Transactions(transactions) => transactions
                .names
                .held()
                .into_iter()
                .filter(|name| name.subtask == self.subtask)
                .map(|name| name.number)
                .collect(),
        };
        WriterState { subtask: self.subtask, held }
    }

    /// Gets the producer of the next transaction ready; the transaction itself begins with its first record.
    ///
    /// # Errors
    /// `Client` if the coordinator can't be reached or refuses.
    ///
    /// # Cancellation
    /// Call again.
    pub async fn begin_next(&mut self) -> Result<()> {
        if let Path::Transactions(transactions) = &mut self.path {
            transactions.ready(&self.client, self.subtask).await?;
        }
        Ok(())
    }

    /// Aborts the current transaction, as well as possible: the job has failed or needs it no more.
    ///
    /// # Cancellation
    /// Dropping the future leaves a transaction that the next start, or its timeout, aborts.
    pub async fn abort(mut self) {
        let Path::Transactions(transactions) = &mut self.path else { return };
        if let Current::Open { producer, name, .. } = &mut transactions.current
            && let Err(error) = producer.abort().await
        {
            tracing::warn!(id = %name.id(&transactions.prefix), %error, "a transaction could not be aborted");
        }
    }

    /// Takes what is known already, without waiting.
    fn take_confirmed(&mut self) -> Result<()> {
        while let Some(ticket) = self.unconfirmed.front() {
            let Some(result) = ticket.result() else { return Ok(()) };
            self.unconfirmed.pop_front();
            result.map_err(|error| self.explain(error))?;
        }
        Ok(())
    }

    fn explain(&self, error: milena::Error) -> Error {
        match &self.path {
            Path::Plain { .. } => error.into(),
            Path::Transactions(transactions) => transactions.explain(error),
        }
    }
}

async fn fixed_partition(client: &Client, topic: &Arc<str>, subtask: u32) -> Result<PartitionId> {
    let count = client.topic(topic).await?.partitions.len();
    let partition = (subtask as usize).checked_rem(count).and_then(|partition| i32::try_from(partition).ok());
    partition
        .map(PartitionId)
        .ok_or_else(|| Error::new(ErrorKind::Topic, format!("topic {topic} has no partitions")))
}

impl Transactions {
    /// Makes the current producer ready to begin.
    async fn ready(&mut self, client: &Client, subtask: u32) -> Result<()> {
        match &self.current {
            Current::Open { .. } => return Ok(()),
            Current::Ready { since, .. } if since.elapsed() < READY_FOR => return Ok(()),
            Current::Ready { name, .. } => {
                let name = *name;
                self.names.release(name);
                self.current = Current::None;
            }
            Current::None => {}
        }
        let name = self.names.reserve(subtask);
        match self.initialise(client, name).await {
            Ok(producer) => {
                self.current = Current::Ready { name, producer: Box::new(producer), since: Instant::now() };
                Ok(())
            }
            Err(error) => {
                self.names.release(name);
                Err(self.explain(error))
            }
        }
    }

    async fn initialise(
        &self,
        client: &Client,
        name: TransactionName,
    ) -> milena::Result<TransactionalProducer> {
        let config = TransactionConfig {
            timeout: self.timeout,
            producer: self.producer.clone(),
            ..TransactionConfig::new(name.id(&self.prefix))
        };
        let mut producer = TransactionalProducer::new(client, config)?;
        producer.init().await?;
        Ok(producer)
    }

    async fn begin(&mut self, client: &Client, subtask: u32) -> Result<()> {
        if matches!(self.current, Current::Open { .. }) {
            return Ok(());
        }
        self.ready(client, subtask).await?;
        if let Current::Ready { producer, .. } = &mut self.current {
            let begun = producer.begin().await;
            begun.map_err(|error| self.explain(error))?;
        }
        if let Current::Ready { name, producer, .. } = std::mem::replace(&mut self.current, Current::None) {
            self.current = Current::Open { name, producer, since: Instant::now() };
        }
        Ok(())
    }

    async fn send(&self, record: ProducerRecord<'_>) -> Result<Ticket> {
        match &self.current {
            Current::Open { producer, .. } => {
                producer.send(record).await.map_err(|error| self.explain(error))
            }
            Current::None | Current::Ready { .. } => {
                Err(Error::new(ErrorKind::Closed, "no transaction was begun for this record"))
            }
        }
    }

    /// Says what being fenced means to this job.
    fn explain(&self, error: milena::Error) -> Error {
        let fenced = matches!(
            error.kind(),
            milena::ErrorKind::Broker(code)
                if code == ErrorCode::PRODUCER_FENCED || code == ErrorCode::INVALID_PRODUCER_EPOCH
        );
        if !fenced {
            return error.into();
        }
        let (name, open) = match &self.current {
            Current::None => (None, None),
            Current::Ready { name, .. } => (Some(name), None),
            Current::Open { name, since, .. } => (Some(name), Some(since.elapsed())),
        };
        let id = name.map_or_else(|| self.prefix.clone(), |name| name.id(&self.prefix));
        let text = match open {
            Some(open) if open >= self.timeout => format!(
                "transaction {id} was open for {} s and timed out after {} s; take checkpoints more often or raise the transaction timeout",
                open.as_secs(),
                self.timeout.as_secs()
            ),
            _ => format!(
                "transaction {id} was fenced: another instance uses the transactional id prefix {}; stop it, or give each job its own prefix",
                self.prefix
            ),
        };
        Error::new(ErrorKind::Client, text).with_source(error)
    }
}
