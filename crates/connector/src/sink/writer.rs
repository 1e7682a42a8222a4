//! The writer of one subtask: elements in, records and prepared transactions out.
//!
//! At a barrier: [`flush`](Writer::flush), [`prepare`](Writer::prepare), [`snapshot`](Writer::snapshot), and after the snapshot is
//! on its way [`begin_next`](Writer::begin_next). An error of a record comes back from the flush that covers it, and from
//! [`failed`](Writer::failed) as soon as it is known, without any further input.
//!
//! # Invariants
//! * A transaction is begun with its first record: there are no empty ones to commit or to checkpoint.
//! * Each transaction has its own producer id and epoch, for each begins with `InitProducerId`.

mod runs;
mod transactions;

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use milena::cluster::Topic;
use milena::protocol::records::Header;
use milena::{Client, PartitionId, Producer, ProducerRecord, RecordMetadata, Ticket, Tickets};

use super::committable::Committable;
use super::naming::NamePool;
use super::partitioning::Place;
use super::records::{DEAD_LETTER_HEADERS, OnRecordError, Written, is_about_the_record};
use super::{Delivery, KafkaSink, SinkPartitioning};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::WriterState;
use crate::schema::{Emit, Serializer, SinkRecord};
use crate::{BoxError, Error, ErrorKind, Result};
use transactions::{Current, Transactions};

/// Which writer it is.
#[derive(Clone, Debug)]
pub struct WriterContext {
    /// The subtask, from 0.
    pub subtask: u32,
    /// How many subtasks there are.
    pub parallelism: u32,
    /// The names that unfinished transactions of the job hold.
    pub names: NamePool,
}

/// What a writer has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterCounts {
    /// Bytes of keys, values and headers that went to the producer.
    pub bytes: u64,
    /// Records left out because they can't be written, by [`OnRecordError::Drop`].
    pub dropped: u64,
    /// Records written to the dead-letter topic instead.
    pub dead_letters: u64,
}

/// Writes the elements of one subtask.
pub struct Writer<T> {
    client: Client,
    context: WriterContext,
    partitioning: SinkPartitioning,
    on_record_error: OnRecordError,
    written: Written,
    serializer: Box<dyn Serializer<T>>,
    record: SinkRecord,
    /// Records that are sent together, and used again.
    run: Vec<SinkRecord>,
    path: Path,
    /// Records sent and not yet known to be written, oldest first.
    unconfirmed: VecDeque<Sent>,
    partitions: Option<Partitions>,
    turn: u64,
    taken: u32,
    counts: WriterCounts,
}

/// What is on its way.
enum Sent {
    One {
        ticket: Ticket,
        /// The record itself, where it may have to become a dead letter.
        kept: Option<Box<SinkRecord>>,
    },
    /// Records of which none may be passed over, and nobody is told.
    Run(Tickets),
}

/// The partitions of the topic that was written last.
struct Partitions {
    topic: Arc<Topic>,
    ids: Vec<PartitionId>,
}

/// Confirmations are looked at once for so many elements: each look costs a lock.
const LOOK_EVERY: u32 = 64;

enum Path {
    Plain { producer: Producer, flush: bool },
    Transactions(Box<Transactions>),
}

impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("context", &self.context).finish_non_exhaustive()
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
    pub async fn open(sink: &KafkaSink<T>, client: Client, context: WriterContext) -> Result<Self> {
        let settings = &sink.settings;
        let path = match settings.delivery {
            Delivery::ExactlyOnce => Path::Transactions(Box::new(Transactions::new(settings, &context))),
            delivery @ (Delivery::None | Delivery::AtLeastOnce) => {
                let producer = Producer::new(&client, settings.producer.clone())?;
                Path::Plain { producer, flush: delivery == Delivery::AtLeastOnce }
            }
        };
        let mut writer = Self {
            client,
            context,
            partitioning: settings.partitioning.clone(),
            on_record_error: settings.on_record_error.clone(),
            written: settings.written.clone(),
            serializer: (sink.serializer)(),
            record: SinkRecord::new(),
            run: Vec::new(),
            path,
            unconfirmed: VecDeque::new(),
            partitions: None,
            turn: 0,
            taken: 0,
            counts: WriterCounts::default(),
        };
        writer.begin_next().await?;
        Ok(writer)
    }

    /// Takes one element: it becomes a record, which [`send`](Self::send) writes. Returns whether there is one to write; the
    /// serializer may skip the element, and the policy may drop one that can't be serialized.
    ///
    /// # Errors
    /// `Schema` if the serializer fails and the policy is to fail; the error of a record sent before.
    pub fn take(&mut self, value: &T, timestamp: i64) -> Result<bool> {
        self.taken = self.taken.wrapping_add(1);
        if self.taken.is_multiple_of(LOOK_EVERY) {
            self.take_confirmed()?;
        }
        self.record.clear();
        match self.serializer.serialize(value, timestamp, &mut self.record) {
            Ok(emit) => Ok(emit == Emit::Write),
            Err(error) => {
                let error = self.unserialized(error);
                self.pass_over(error)
            }
        }
    }

    /// Writes the record of the element taken last, with the element's event time unless the serializer set another. Waits for
    /// room in the producer's buffer only.
    ///
    /// # Errors
    /// What makes the record impossible to write, if the policy is to fail.
    ///
    /// # Cancellation
    /// Dropping the future may leave the record sent or not sent.
    pub async fn send(&mut self, timestamp: i64) -> Result<()> {
        if let Path::Transactions(transactions) = &mut self.path {
            transactions.begin(&self.client).await?;
        }
        match self.try_send(timestamp).await {
            Ok(ticket) => {
                self.turn = self.turn.wrapping_add(1);
                let keep = matches!(self.path, Path::Plain { .. })
                    && matches!(self.on_record_error, OnRecordError::DeadLetter { .. });
                let kept = keep.then(|| Box::new(self.record.clone()));
                let timed = kept.map(|mut record| {
                    if record.timestamp().is_none() && timestamp >= 0 {
                        record.set_timestamp(timestamp);
                    }
                    record
                });
                self.unconfirmed.push_back(Sent::One { ticket, kept: timed });
                Ok(())
            }
            Err(Unsent::Record(error)) => match self.pass_over(error)? {
                // It is a dead letter now, and a dead letter that can't be written either fails the job.
                true => {
                    let ticket = self.try_send(timestamp).await.map_err(Unsent::into_error)?;
                    self.unconfirmed.push_back(Sent::One { ticket, kept: None });
                    Ok(())
                }
                false => Ok(()),
            },
            Err(Unsent::Other(error)) => Err(error),
        }
    }

    async fn try_send(&mut self, timestamp: i64) -> Result<Ticket, Unsent> {
        let topic = self.record.topic().cloned().ok_or_else(|| Unsent::Record(without_topic()))?;
        let partition = match self.record.partition() {
            Some(partition) => Some(partition),
            None if self.partitioning.needs_partitions() => self.choose(&topic).await?,
            None => None,
        };
        let headers: Vec<Header<'_>> =
            self.record.headers().iter().map(|(name, value)| Header::new(name, value.as_deref())).collect();
        let record = ProducerRecord {
            topic: &topic,
            partition,
            key: self.record.key(),
            value: self.record.value(),
            headers: &headers,
            // A negative time is none, as in Flink.
            timestamp: self.record.timestamp().or(Some(timestamp)).filter(|&timestamp| timestamp >= 0),
        };
        let sent = match &self.path {
            Path::Plain { producer, .. } => producer.send(record).await,
            Path::Transactions(transactions) => transactions.send(record).await,
        };
        let ticket = sent.map_err(|error| self.unsent(error))?;
        self.counts.bytes += self.record.len_bytes();
        Ok(ticket)
    }

    async fn choose(&mut self, topic: &Arc<str>) -> Result<Option<PartitionId>, Unsent> {
        let known = self.client.topic(topic).await.map_err(|error| self.unsent(error))?;
        let cached = self.partitions.take().filter(|cached| Arc::ptr_eq(&cached.topic, &known));
        let cached =
            self.partitions.insert(cached.unwrap_or_else(|| Partitions {
                ids: known.partitions.keys().copied().collect(),
                topic: known,
            }));
        let (subtask, parallelism) = (self.context.subtask, self.context.parallelism);
        let place = Place { subtask, parallelism, partitions: &cached.ids };
        let chosen = self.partitioning.choose(&self.record, &place, self.turn);
        match chosen {
            Some(partition) => Ok(Some(partition)),
            None => {
                let text = format!("topic {topic} has no partitions");
                Err(Unsent::Other(Error::new(ErrorKind::Topic, text)))
            }
        }
    }

    fn unsent(&self, error: milena::Error) -> Unsent {
        if is_about_the_record(&error) {
            Unsent::Record(self.explain(error))
        } else {
            Unsent::Other(self.explain(error))
        }
    }

    fn unserialized(&self, error: BoxError) -> Error {
        let text = format!("an element can't be serialized (subtask {})", self.context.subtask);
        Error::new(ErrorKind::Schema, text).with_source(error)
    }

    /// What the policy says about the record at hand: whether it is now a dead letter to be sent.
    fn pass_over(&mut self, error: Error) -> Result<bool> {
        match &self.on_record_error {
            OnRecordError::Fail => Err(error),
            OnRecordError::Drop => {
                tracing::warn!(%error, subtask = self.context.subtask, "a record is left out");
                self.counts.dropped += 1;
                Ok(false)
            }
            OnRecordError::DeadLetter { topic } => {
                self.counts.dead_letters += 1;
                make_dead_letter(&mut self.record, topic, self.context.subtask, &error);
                Ok(true)
            }
        }
    }

    /// Waits for the first error of a record that was sent. Never returns while all goes well. A refused record that may be passed over
    /// waits for the next flush.
    ///
    /// # Cancellation
    /// Nothing is lost: the next call goes on.
    pub async fn failed(&mut self) -> Error {
        while let Some(sent) = self.unconfirmed.front_mut() {
            let result = match sent {
                Sent::One { ticket, .. } => ticket.await.map(Some),
                Sent::Run(tickets) => tickets.await.map(|()| None),
            };
            if result.as_ref().is_err_and(|error| self.may_pass_over(error)) {
                break;
            }
            self.unconfirmed.pop_front();
            match result {
                Ok(metadata) => metadata.iter().for_each(|metadata| self.written.tell(metadata)),
                Err(error) => return self.explain(error),
            }
        }
        pending().await
    }

    fn may_pass_over(&self, error: &milena::Error) -> bool {
        let plain = matches!(self.path, Path::Plain { .. });
        plain && self.on_record_error != OnRecordError::Fail && is_about_the_record(error)
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
        // Errors of records are met one by one below; only they may be passed over.
        if let Err(error) = flushed
            && !self.may_pass_over(&error)
        {
            return Err(self.explain(error));
        }
        while let Some(sent) = self.unconfirmed.front_mut() {
            match sent {
                Sent::One { ticket, .. } => {
                    let result = ticket.await;
                    self.confirm(result).await?;
                }
                Sent::Run(tickets) => {
                    let result = tickets.await;
                    self.unconfirmed.pop_front();
                    result.map_err(|error| self.explain(error))?;
                }
            }
        }
        Ok(())
    }

    /// The oldest record on its way is settled.
    async fn confirm(&mut self, result: milena::Result<RecordMetadata>) -> Result<()> {
        let sent = self.unconfirmed.pop_front();
        match result {
            Ok(metadata) => {
                self.written.tell(&metadata);
                Ok(())
            }
            Err(error) => {
                let kept = match sent {
                    Some(Sent::One { kept, .. }) => kept,
                    Some(Sent::Run(_)) | None => None,
                };
                self.refused(error, kept).await
            }
        }
    }

    /// A record that was sent is refused.
    async fn refused(&mut self, error: milena::Error, kept: Option<Box<SinkRecord>>) -> Result<()> {
        if !self.may_pass_over(&error) {
            return Err(self.explain(error));
        }
        let error = self.explain(error);
        let dead_letter = matches!(self.on_record_error, OnRecordError::DeadLetter { .. });
        let Some(record) = kept else {
            // A dead letter that is refused itself.
            return if dead_letter { Err(error) } else { self.pass_over(error).map(drop) };
        };
        let at_hand = std::mem::replace(&mut self.record, *record);
        let timestamp = self.record.timestamp().unwrap_or(-1);
        let sent = match self.pass_over(error) {
            Ok(true) => self.try_send(timestamp).await.map_err(Unsent::into_error).map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        self.record = at_hand;
        let ticket = sent?;
        self.unconfirmed.extend(ticket.map(|ticket| Sent::One { ticket, kept: None }));
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
        let prepared = transactions.prepare(checkpoint).await?;
        let subtask = self.context.subtask;
        Ok(prepared.map(|transaction| Committable { checkpoint, subtask, transaction }))
    }

    /// The writer's part of the checkpoint.
    #[must_use]
    pub fn snapshot(&self) -> WriterState {
        let subtask = self.context.subtask;
        let held = match &self.path {
            Path::Plain { .. } => Vec::new(),
            Path::Transactions(_) => {
                let held = self.context.names.held().into_iter();
                held.filter(|name| name.subtask == subtask).map(|name| name.number).collect()
            }
        };
        WriterState { subtask, held }
    }

    /// Gets the producer of the next transaction ready; the transaction itself begins with its first record.
    ///
    /// # Errors
    /// `Client` if the coordinator can't be reached or refuses.
    ///
    /// # Cancellation
    /// Call again.
    pub async fn begin_next(&mut self) -> Result<()> {
        match &mut self.path {
            Path::Transactions(transactions) => transactions.ready(&self.client).await,
            Path::Plain { .. } => Ok(()),
        }
    }

    /// Since when a transaction is open; its timeout counts from there.
    #[must_use]
    pub fn open_since(&self) -> Option<Instant> {
        match &self.path {
            Path::Transactions(transactions) => transactions.open_since(),
            Path::Plain { .. } => None,
        }
    }

    /// What it has counted.
    #[must_use]
    pub fn counts(&self) -> WriterCounts {
        self.counts
    }

    /// Aborts the current transaction, as well as possible: the job has failed or needs it no more.
    ///
    /// # Cancellation
    /// Dropping the future leaves a transaction that the next start, or its timeout, aborts.
    pub async fn abort(mut self) {
        if let Path::Transactions(transactions) = &mut self.path {
            transactions.abort().await;
        }
    }

    /// Takes what is known already, without waiting. Refused records that may be passed over wait for the next flush.
    fn take_confirmed(&mut self) -> Result<()> {
        while let Some(sent) = self.unconfirmed.front_mut() {
            let ticket = match sent {
                Sent::One { ticket, .. } => ticket,
                Sent::Run(tickets) => {
                    let Some(result) = runs::settled(tickets) else { return Ok(()) };
                    self.unconfirmed.pop_front();
                    result.map_err(|error| self.explain(error))?;
                    continue;
                }
            };
            match ticket.result() {
                None => return Ok(()),
                Some(Ok(metadata)) => {
                    self.unconfirmed.pop_front();
                    self.written.tell(&metadata);
                }
                Some(Err(error)) if self.may_pass_over(&error) => return Ok(()),
                Some(Err(error)) => {
                    self.unconfirmed.pop_front();
                    return Err(self.explain(error));
                }
            }
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

fn without_topic() -> Error {
    Error::new(ErrorKind::Schema, "the serializer filled a record without a topic")
}

/// Why a record was not sent.
enum Unsent {
    /// It can never be written.
    Record(Error),
    Other(Error),
}

impl Unsent {
    fn into_error(self) -> Error {
        match self {
            Self::Record(error) | Self::Other(error) => error,
        }
    }
}

fn make_dead_letter(record: &mut SinkRecord, topic: &Arc<str>, subtask: u32, error: &Error) {
    let meant = record.topic().map(|topic| topic.to_string()).unwrap_or_default();
    let values = [meant, subtask.to_string(), error.to_string()];
    for (name, value) in DEAD_LETTER_HEADERS.into_iter().zip(values) {
        record.add_header(name, Some(value.as_bytes()));
    }
    record.set_topic(Arc::clone(topic));
    record.clear_partition();
}
