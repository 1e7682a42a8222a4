//! The transactions of one writer, one after the other.

use std::time::{Duration, Instant};

use milena::protocol::error_code::ErrorCode;
use milena::{
    Client, PreparedTransaction, ProducerConfig, ProducerRecord, Ticket, Tickets, TransactionConfig,
    TransactionalProducer,
};

use super::WriterContext;
use crate::checkpoint::CheckpointId;
use crate::sink::SinkSettings;
use crate::sink::naming::{NamePool, TransactionName};
use crate::{Error, ErrorKind, Result};

/// An initialised producer that waited this long is initialised again before use: brokers forget ids after days.
const READY_FOR: Duration = Duration::from_secs(3600);

pub(super) struct Transactions {
    subtask: u32,
    names: NamePool,
    timeout: Duration,
    producer: ProducerConfig,
    /// The checkpoint that the next transaction is meant for.
    next_checkpoint: CheckpointId,
    pub(super) current: Current,
}

pub(super) enum Current {
    None,
    Ready { name: TransactionName, producer: Box<TransactionalProducer>, since: Instant },
    Open { name: TransactionName, producer: Box<TransactionalProducer>, since: Instant },
}

impl Transactions {
    pub(super) fn new(settings: &SinkSettings, context: &WriterContext) -> Self {
        Self {
            subtask: context.subtask,
            names: context.names.clone(),
            timeout: settings.transaction_timeout,
            producer: settings.producer.clone(),
            next_checkpoint: context.names.first_checkpoint(),
            current: Current::None,
        }
    }

    /// Makes the current producer ready to begin.
    pub(super) async fn ready(&mut self, client: &Client) -> Result<()> {
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
        let reserved = self.names.reserve(self.subtask, self.next_checkpoint);
        let name = reserved.name;
        match self.initialise(client, name, &reserved.passed_over).await {
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
        passed_over: &[TransactionName],
    ) -> milena::Result<TransactionalProducer> {
        for passed in passed_over {
            client.transactions().fence(&self.names.grammar().id(*passed), self.timeout).await?;
        }
        let config = TransactionConfig {
            timeout: self.timeout,
            producer: self.producer.clone(),
            ..TransactionConfig::new(self.names.grammar().id(name))
        };
        let mut producer = TransactionalProducer::new(client, config)?;
        producer.init().await?;
        Ok(producer)
    }

    pub(super) async fn begin(&mut self, client: &Client) -> Result<()> {
        if matches!(self.current, Current::Open { .. }) {
            return Ok(());
        }
        self.ready(client).await?;
        if let Current::Ready { producer, .. } = &mut self.current {
            let begun = producer.begin().await;
            begun.map_err(|error| self.explain(error))?;
        }
        if let Current::Ready { name, producer, .. } = std::mem::replace(&mut self.current, Current::None) {
            self.current = Current::Open { name, producer, since: Instant::now() };
        }
        Ok(())
    }

    pub(super) async fn send(&self, record: ProducerRecord<'_>) -> milena::Result<Ticket> {
        match &self.current {
            Current::Open { producer, .. } => producer.send(record).await,
            Current::None | Current::Ready { .. } => Err(not_begun()),
        }
    }

    pub(super) async fn send_all(&self, records: &[ProducerRecord<'_>]) -> milena::Result<Tickets> {
        match &self.current {
            Current::Open { producer, .. } => producer.send_all(records).await,
            Current::None | Current::Ready { .. } => Err(not_begun()),
        }
    }

    pub(super) async fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<PreparedTransaction>> {
        self.next_checkpoint = checkpoint.saturating_add(1);
        let Current::Open { producer, .. } = &mut self.current else { return Ok(None) };
        let prepared = producer.prepare().await;
        let prepared = prepared.map_err(|error| self.explain(error))?;
        if let (None, Current::Open { name, .. }) =
            (&prepared, std::mem::replace(&mut self.current, Current::None))
        {
            self.names.release(name);
        }
        Ok(prepared)
    }

    pub(super) fn open_since(&self) -> Option<Instant> {
        match &self.current {
            Current::Open { since, .. } => Some(*since),
            Current::None | Current::Ready { .. } => None,
        }
    }

    pub(super) async fn abort(&mut self) {
        if let Current::Open { producer, name, .. } = &mut self.current
            && let Err(error) = producer.abort().await
        {
            let id = self.names.grammar().id(*name);
            tracing::warn!(id, %error, "a transaction could not be aborted");
        }
    }

    /// Says what being fenced means to this job.
    pub(super) fn explain(&self, error: milena::Error) -> Error {
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
        let prefix = self.names.grammar().prefix();
        let id = name.map_or_else(|| prefix.to_owned(), |name| self.names.grammar().id(*name));
        let text = match open {
            Some(open) if open >= self.timeout => format!(
                "transaction {id} was open for {} s and timed out after {} s; take checkpoints more often or raise the transaction timeout",
                open.as_secs(),
                self.timeout.as_secs()
            ),
            _ => format!(
                "transaction {id} was fenced: another instance uses the transactional id prefix {prefix}; stop it, or give each job its own prefix"
            ),
        };
        Error::new(ErrorKind::Client, text).with_source(error)
    }
}

fn not_begun() -> milena::Error {
    milena::Error::new(milena::ErrorKind::Closed, "no transaction was begun for this record")
}
