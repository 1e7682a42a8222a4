//! Writes records in transactions.

mod link;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use milena_core::produce::Identity;
use milena_core::transaction::{End, Epochs, State};
use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::TopicPartition;

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{CommittedOffset, GroupMetadata};
use crate::producer::engine::Engine;
use crate::producer::{self, ProducerConfig, ProducerMetrics, ProducerRecord, Ticket, Tickets};
use crate::transactions::{EndTxnAnswer, PreparedTransaction, TransactionVersion};

pub(crate) use link::{FENCED, Link};
pub(crate) use requests::{init_producer_id, is_fenced};

/// The settings of a [`TransactionalProducer`].
#[derive(Clone, Debug)]
pub struct TransactionConfig {
    /// The transactional id: the name under which brokers fence older instances of this producer. No default.
    /// Kafka: `transactional.id`.
    pub transactional_id: String,
    /// How long a transaction may stay open before the broker aborts it; up to the broker's `transaction.max.timeout.ms`
    /// (15 min unless changed). Default 60 s. Kafka: `transaction.timeout.ms`.
    pub timeout: Duration,
    /// How transactions are written; `None`, the default, follows the cluster's finalized feature `transaction.version`. All producers of
    /// one transactional id must use the same.
    pub version: Option<TransactionVersion>,
    /// The rest. Transactions need [`Acks::All`](crate::Acks::All) and idempotence, the defaults.
    pub producer: ProducerConfig,
}

impl TransactionConfig {
    /// The defaults for this transactional id.
    pub fn new(transactional_id: impl Into<String>) -> Self {
        Self {
            transactional_id: transactional_id.into(),
            timeout: Duration::from_secs(60),
            version: None,
            producer: ProducerConfig::default(),
        }
    }

    /// Checks every setting; the error names the first that is wrong.
    pub fn validate(&self) -> Result<()> {
        self.producer.validate()?;
        if self.transactional_id.is_empty() || self.transactional_id.len() > i16::MAX as usize {
            return Err(Error::misuse("transactional_id must have from 1 to 32767 bytes"));
        }
        if self.timeout < Duration::from_millis(1) || self.timeout.as_millis() > i32::MAX as u128 {
            return Err(Error::misuse(format!(
                "timeout is {:?}; it must be from 1 ms to 24 days",
                self.timeout
            )));
        }
        if !self.producer.is_idempotent() {
            return Err(Error::misuse("transactions need acks = All and idempotence that is not Off"));
        }
        Ok(())
    }
}

/// Writes records in transactions: readers that ask for committed records see all of a transaction or nothing.
///
/// ```text
/// init -> begin -> send, send_offsets ... -> commit | abort -> begin ...
///                                   \-> prepare -> commit | abort, here or in another process
/// ```
///
/// When a record or an offset fails, the transaction can only be aborted; [`commit`](Self::commit) then says why. When another instance
/// took the transactional id, every call says so; [`init`](Self::init) takes it back.
///
/// Dropping it with an open transaction blocks nothing: records that were not sent are discarded, and the broker aborts the
/// transaction after its time-out, or when the next instance calls [`init`](Self::init). A prepared transaction stays until its end.
///
/// ```no_run
/// use milena::{Client, ProducerRecord, TransactionConfig, TransactionalProducer};
///
/// # async fn write() -> milena::Result<()> {
/// let client = Client::connect("localhost:9092").await?;
/// let mut producer = TransactionalProducer::new(&client, TransactionConfig::new("billing-1"))?;
/// producer.init().await?;
/// producer.begin().await?;
/// producer.send(ProducerRecord::to("invoices").value(b"7 EUR")).await?;
/// producer.send(ProducerRecord::to("ledger").value(b"+7")).await?;
/// producer.commit().await
/// # }
/// ```
#[derive(Debug)]
pub struct TransactionalProducer {
    client: Client,
    config: TransactionConfig,
    engine: Arc<Engine>,
    link: Arc<Link>,
    /// The transaction was prepared: others may have ended it.
    handed_out: bool,
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        self.engine.discard(&Error::closed("the transactional producer was dropped"));
    }
}

impl TransactionalProducer {
    /// A producer on the client's connections. Nothing is sent yet; [`init`](Self::init) is next.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a wrong configuration.
    pub fn new(client: &Client, config: TransactionConfig) -> Result<Self> {
        config.validate()?;
        let link = Arc::new(Link::new(&config.transactional_id));
        let engine = Engine::start(client.clone(), config.producer.clone(), Some(Arc::clone(&link)));
        Ok(Self { client: client.clone(), config, engine, link, handed_out: false })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &TransactionConfig {
        &self.config
    }

    /// Where the producer is between [`init`](Self::init) and the end of a transaction.
    #[must_use]
    pub fn state(&self) -> State {
        self.link.state()
    }

    /// How it writes transactions; `None` before [`init`](Self::init).
    #[must_use]
    pub fn version(&self) -> Option<TransactionVersion> {
        self.link.version()
    }

    /// Takes the transactional id: older instances are fenced off, and a transaction that is still open, prepared or not, is aborted. Waits
    /// while an earlier end is still being written, `api_timeout` at most. Allowed at any time; what was not ended is lost then.
    ///
    /// # Errors
    /// INVALID_TRANSACTION_TIMEOUT names the broker's limit; authorization; what the connection says.
    ///
    /// # Cancellation
    /// Older instances may be fenced off or not; call it again.
    pub async fn init(&mut self) -> Result<()> {
        let version = match self.config.version {
            Some(version) => version,
            None => self.client.transaction_version().await?,
        };
        self.discard_open("the producer was initialised again").await;
        let id = Some((self.config.transactional_id.as_str(), self.config.timeout));
        let identity = match init_producer_id(&self.client, id, None).await {
            Ok(identity) => identity,
            Err(error) if error.code() == Some(ErrorCode::INVALID_TRANSACTION_TIMEOUT) => {
                return Err(requests::timeout_error(&self.client, error, self.config.timeout).await);
            }
            Err(error) => return Err(error),
        };
        let epochs = match version {
            TransactionVersion::V1 => Epochs::Kept,
            TransactionVersion::V2 => Epochs::Renewed,
        };
        self.link.on_initialized(identity, epochs);
        self.engine.set_identity(identity);
        self.engine.resume();
        Ok(())
    }

    /// Opens a transaction. Asks the coordinator only when the epoch must not be used again (after an abort of a failed transaction, or a
    /// prepared one, under [`TransactionVersion::V1`]).
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] when one is open, or before [`init`](Self::init).
    ///
    /// # Cancellation
    /// No transaction is open.
    pub async fn begin(&mut self) -> Result<()> {
        if self.link.needs_identity() {
            self.init().await?;
        }
        self.handed_out = false;
        self.engine.forget_offsets();
        self.engine.take_unreported();
        self.link.begin()
    }

    /// Takes a record into the transaction. As [`Producer::send`](crate::Producer::send).
    ///
    /// # Errors
    /// As [`Producer::send`](crate::Producer::send); [`ErrorKind::Misuse`] without an open transaction; the cause when the transaction
    /// failed.
    ///
    /// # Cancellation
    /// Dropped before it returns, the record was not taken.
    #[inline]
    pub fn send<'a>(
        &'a self,
        record: ProducerRecord<'a>,
    ) -> impl Future<Output = Result<Ticket>> + Send + use<'a> {
        producer::send(&self.engine, record)
    }

    /// Takes records in their order into the transaction. As [`Producer::send_all`](crate::Producer::send_all).
    ///
    /// # Errors
    /// As [`send`](Self::send), of the first record that was not taken.
    ///
    /// # Cancellation
    /// The records up to some point were taken.
    pub async fn send_all(&self, records: &[ProducerRecord<'_>]) -> Result<Tickets> {
        producer::send_all(&self.engine, records).await
    }

    /// Takes a record if that is possible at once. As [`Producer::try_send`](crate::Producer::try_send).
    ///
    /// # Errors
    /// [`ErrorKind::Full`] when there is no room now; otherwise as [`send`](Self::send).
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Ticket> {
        producer::try_send(&self.engine, &record)
    }

    /// Makes the commit of these offsets part of the transaction (KIP-98, KIP-447): the next offset to read, by partition.
    ///
    /// # Errors
    /// ILLEGAL_GENERATION and UNKNOWN_MEMBER_ID when the group moved on; then, and after any error, the transaction can only be aborted.
    ///
    /// # Cancellation
    /// The offsets may be part of the transaction; call it again, or abort.
    pub async fn send_offsets(
        &self,
        offsets: &[(TopicPartition, CommittedOffset)],
        group: &GroupMetadata,
    ) -> Result<()> {
        let identity = self.link.check_open()?;
        if offsets.is_empty() {
            return Ok(());
        }
        self.link.touch();
        let explicit = self.link.version() != Some(TransactionVersion::V2);
        let sent =
            requests::send_offsets(&self.client, self.link.id(), identity, explicit, offsets, group).await;
        sent.inspect_err(|error| self.doubt(error))
    }

    /// Waits until everything sent before the call is settled.
    ///
    /// # Errors
    /// The first error; the transaction can only be aborted then.
    ///
    /// # Cancellation
    /// Sending goes on.
    pub async fn flush(&self) -> Result<()> {
        self.engine.flush().await
    }

    /// Makes everything that was sent durable and returns what is needed to end the transaction later, in any process
    /// ([`Transactions::end`](crate::Transactions::end)). `None` when nothing was written: the transaction is over then. After it only
    /// [`commit`](Self::commit), [`abort`](Self::abort) and [`init`](Self::init) are allowed here.
    ///
    /// If another process ends it, call [`init`](Self::init) before this producer is used again, and only when the end is confirmed: `init`
    /// aborts a transaction that is still open.
    ///
    /// # Errors
    /// A record that failed: abort then.
    ///
    /// # Cancellation
    /// The transaction stays open; call it again.
    pub async fn prepare(&mut self) -> Result<Option<PreparedTransaction>> {
        let identity = self.link.check_open()?;
        self.engine.flush().await.map_err(|error| self.doubted(error))?;
        self.link.check_open()?;
        let first_offsets = self.engine.first_offsets().map_err(|error| self.doubted(error))?;
        // Asked before the transaction is prepared: whoever drops this future has nothing in hand by which to end it.
        let start_time_ms = match self.link.is_touched() {
            true => self.start_time_ms(identity).await,
            false => None,
        };
        if !self.link.prepare()? {
            return Ok(None);
        }
        self.handed_out = true;
        Ok(Some(PreparedTransaction {
            transactional_id: self.config.transactional_id.clone(),
            producer_id: identity.id,
            producer_epoch: identity.epoch,
            version: self.link.version().unwrap_or(TransactionVersion::V1),
            first_offsets,
            start_time_ms,
            timeout: self.config.timeout,
        }))
    }

    /// When the open transaction began, if the coordinator says so.
    async fn start_time_ms(&self, identity: Identity) -> Option<i64> {
        let id = std::slice::from_ref(&self.config.transactional_id);
        match self.client.transactions().describe(id).await {
            Ok(found) => found
                .first()
                .filter(|found| found.producer_id == identity.id && found.producer_epoch == identity.epoch)
                .and_then(|found| found.start_time_ms),
            Err(error) => {
                tracing::debug!(%error, "the start of the transaction is not known");
                None
            }
        }
    }

    /// Waits until everything that was sent is acknowledged, and commits. When it returns, the coordinator has decided; readers see the records
    /// moments later.
    ///
    /// # Errors
    /// What failed: the transaction can only be aborted then. A lost connection or a time-out leaves the outcome open: call `commit` again.
    /// A refusal by the coordinator means that the transaction timed out or that another instance took over.
    ///
    /// # Cancellation
    /// The transaction is committed or not; call `commit` again.
    pub async fn commit(&mut self) -> Result<()> {
        if self.link.state() == State::Open {
            self.engine.flush().await.map_err(|error| self.doubted(error))?;
        }
        self.end(true).await
    }

    /// Discards what was not sent, and aborts.
    ///
    /// # Errors
    /// A lost connection or a time-out leaves the outcome open: call `abort` again. A refusal by the coordinator means that the transaction is
    /// over already, or that another instance took over.
    ///
    /// # Cancellation
    /// Call `abort` again.
    pub async fn abort(&mut self) -> Result<()> {
        if matches!(self.link.state(), State::Open | State::Failed) {
            self.discard_open("the transaction was aborted").await;
        }
        self.end(false).await?;
        self.engine.resume();
        Ok(())
    }

    /// Aborts what is open, and ends. Records that were not sent fail.
    ///
    /// # Errors
    /// As [`abort`](Self::abort); [`ErrorKind::Timeout`] when it takes longer than `timeout`. It is closed all the same.
    ///
    /// # Cancellation
    /// As dropping it.
    pub async fn close(mut self, timeout: Duration) -> Result<()> {
        if !matches!(self.link.state(), State::Open | State::Failed) {
            return Ok(());
        }
        let late =
            |_| Error::new(ErrorKind::Timeout, format!("the transaction was not aborted within {timeout:?}"));
        tokio::time::timeout(timeout, self.abort()).await.map_err(late)?
    }

    /// What it did so far.
    #[must_use]
    pub fn metrics(&self) -> ProducerMetrics {
        self.engine.counts.snapshot(self.engine.budget.used(), self.engine.idempotent())
    }

    async fn end(&mut self, commit: bool) -> Result<()> {
        let identity = match self.link.end(commit)? {
            End::Nothing => return Ok(()),
            End::Ask(identity) => identity,
        };
        let transaction = PreparedTransaction {
            transactional_id: self.config.transactional_id.clone(),
            producer_id: identity.id,
            producer_epoch: identity.epoch,
            version: self.link.version().unwrap_or(TransactionVersion::V1),
            first_offsets: Vec::new(),
            start_time_ms: None,
            timeout: self.config.timeout,
        };
        match self.client.transactions().end(&transaction, commit).await? {
            EndTxnAnswer::Done { next } => {
                let next = next.map(|(id, epoch)| Identity { id, epoch });
                self.link.on_ended(next);
                if let Some(next) = next {
                    self.engine.set_identity(next);
                }
                Ok(())
            }
            // An old coordinator knows nothing of an abort when nothing was added: then there is nothing to abort.
            EndTxnAnswer::Refused(ErrorCode::INVALID_TXN_STATE) if !commit && !self.handed_out => {
                self.link.on_refused();
                self.init().await
            }
            EndTxnAnswer::Refused(code) => {
                let error = requests::end_refused(code, commit, &self.config.transactional_id);
                self.link.on_refused();
                if is_fenced(code) {
                    self.link.on_fenced(&error);
                }
                Err(error)
            }
        }
    }

    /// Gives up the records that were not sent, and waits for the answers about those that were.
    async fn discard_open(&self, why: &'static str) {
        self.engine.stop(&Error::closed(why));
        // Each answer is judged by now or by its request's time-out; errors are what an abort is for.
        let _ = self.engine.flush().await;
        self.engine.take_unreported();
    }

    fn doubt(&self, error: &Error) {
        if error.code().is_some_and(is_fenced) {
            self.link.on_fenced(error);
        } else {
            self.link.on_failed(error);
        }
    }

    fn doubted(&self, error: Error) -> Error {
        self.doubt(&error);
        error
    }
}
