//! Transactions by their ids, from any process: end, describe, list, fence.
//!
//! A prepared transaction is a small record ([`PreparedTransaction`]); any process that holds it can finish it with one
//! stateless EndTxn. What a refusal means is not decided here: FENCED says either "committed long ago" or "aborted".

mod markers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use milena_core::retry::Backoff;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::{
    DescribeTransactionsRequest, EndTxnRequest, InitProducerIdRequest, ListTransactionsRequest,
    ProducerId as WireProducerId, TransactionalId,
};
use milena_protocol::types::{BrokerId, Offset, PartitionId, ProducerEpoch, ProducerId, TopicPartition};
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::call::{CallOptions, CoordinatorKind, Target};
use crate::client::Client;
use crate::error::{Error, Result};

pub use markers::{ForcedMarker, MarkersWritten};

/// How a transaction is written, by the cluster's finalized feature `transaction.version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransactionVersion {
    /// Partitions are added by request, the epoch stays: EndTxn up to version 4.
    V1,
    /// KIP-890: partitions are added by writing, every end raises the epoch: EndTxn version 5.
    V2,
}

/// All that is needed to finish a prepared transaction, in any process.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedTransaction {
    /// The transactional id.
    pub transactional_id: String,
    /// The producer id it was written with.
    pub producer_id: ProducerId,
    /// The epoch it was written with.
    pub producer_epoch: ProducerEpoch,
    /// How it was written. Every try to end it must use the same: mixing them can report another transaction's outcome.
    pub version: TransactionVersion,
    /// The first offset of the transaction in each partition it wrote to.
    pub first_offsets: Vec<(TopicPartition, Offset)>,
    /// When it began by the coordinator's clock, milliseconds since 1970; identifies it in the coordinator's memory.
    pub start_time_ms: Option<i64>,
    /// After this time the broker aborts it.
    pub timeout: Duration,
}

/// The coordinator's answer to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndTxnAnswer {
    /// It did as it was asked, now or before.
    Done {
        /// The pair to go on with, when the coordinator gave one (transaction version 2).
        next: Option<(ProducerId, ProducerEpoch)>,
    },
    /// It refused. This alone says nothing about the transaction's outcome.
    Refused(ErrorCode),
}

/// Where a transaction is in its life, as coordinators name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// No transaction since the producer's start.
    Empty,
    /// Open.
    Ongoing,
    /// Commit decided, markers being written.
    PrepareCommit,
    /// Abort decided, markers being written.
    PrepareAbort,
    /// Committed.
    CompleteCommit,
    /// Aborted.
    CompleteAbort,
    /// Expired, about to be forgotten.
    Dead,
    /// The producer is being fenced.
    PrepareEpochFence,
    /// A name this client does not know.
    Unknown(String),
    /// The coordinator does not know the transactional id.
    NotFound,
}

impl TransactionState {
    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "Empty" => Self::Empty,
            "Ongoing" => Self::Ongoing,
            "PrepareCommit" => Self::PrepareCommit,
            "PrepareAbort" => Self::PrepareAbort,
            "CompleteCommit" => Self::CompleteCommit,
            "CompleteAbort" => Self::CompleteAbort,
            "Dead" => Self::Dead,
            "PrepareEpochFence" => Self::PrepareEpochFence,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// Whether its coordinator still has a transaction to end, or is at it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Ongoing | Self::PrepareCommit | Self::PrepareAbort | Self::PrepareEpochFence)
    }

    /// Its name, as coordinators write it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
            Self::Unknown(name) => name,
            Self::NotFound => "NotFound",
        }
    }
}

/// What a coordinator knows of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionDescription {
    /// The transactional id.
    pub id: String,
    /// Where it is in its life.
    pub state: TransactionState,
    /// Its producer id now.
    pub producer_id: ProducerId,
    /// Its epoch now.
    pub producer_epoch: ProducerEpoch,
    /// When the transaction began, milliseconds since 1970. Stays after its end; `None` when there was none.
    pub start_time_ms: Option<i64>,
    /// Its time-out in milliseconds.
    pub timeout_ms: i32,
    /// The partitions of the open transaction.
    pub partitions: Vec<TopicPartition>,
}

/// Which transactional ids to list. The default lists all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Only in these states; empty is any.
    pub states: Vec<TransactionState>,
    /// Only ids that match this pattern in whole (RE2 syntax). Needs brokers since 4.1.
    pub pattern: Option<String>,
    /// Only ids that begin with this. Checked by the client; works with every broker.
    pub prefix: Option<String>,
}

/// A transactional id in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionListing {
    /// The transactional id.
    pub id: String,
    /// Its producer id.
    pub producer_id: ProducerId,
    /// Where it is in its life.
    pub state: TransactionState,
}

/// Ends, describes, lists and fences transactions, whoever began them. Clones share the client's connections.
#[derive(Clone, Debug)]
pub struct Transactions {
    client: Client,
}

impl Client {
    /// How this cluster writes transactions: the finalized feature `transaction.version`.
    ///
    /// # Errors
    /// When no broker can be reached within `api_timeout`.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn transaction_version(&self) -> Result<TransactionVersion> {
        let mut attempts = self.attempts();
        loop {
            match self.any_versions(attempts.deadline()).await {
                Ok(versions) => {
                    let level = versions.finalized_feature("transaction.version").unwrap_or(0);
                    return Ok(if level >= 2 { TransactionVersion::V2 } else { TransactionVersion::V1 });
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }
}

impl Transactions {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Commits or aborts a prepared transaction: one logical request. The coordinator is looked up, and while it says
    /// "not now" (it moves, or the last end is still being written), or cannot be reached, the request is sent again until
    /// `api_timeout`. Repeating it is safe in the recorded version only, and that is what is used.
    ///
    /// # Errors
    /// Lost connections and time-outs to the end, and refusals that are about the caller (authorization). None of them
    /// says anything about the transaction: keep it and try again.
    ///
    /// # Cancellation
    /// The coordinator may act on the request; end it again the same way.
    pub async fn end(&self, transaction: &PreparedTransaction, commit: bool) -> Result<EndTxnAnswer> {
        let mut attempts = self.attempts(Backoff::for_transactions());
        let id = &transaction.transactional_id;
        loop {
            let error = match self.end_once(transaction, commit, attempts.deadline()).await {
                Ok(EndTxnAnswer::Refused(code)) if waits(code) => {
                    Error::broker_code(code, None).with_api("EndTxn")
                }
                Ok(EndTxnAnswer::Refused(code)) if !is_about_the_transaction(code) => {
                    let error = Error::broker_code(code, None).with_api("EndTxn");
                    return Err(attempts.last(named(error, id)));
                }
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.client.doubt_coordinator(CoordinatorKind::Transaction, id, &error);
            attempts.pause(named(error, id)).await?;
        }
    }

    async fn end_once(
        &self,
        transaction: &PreparedTransaction,
        commit: bool,
        deadline: Instant,
    ) -> Result<EndTxnAnswer> {
        let (min, max) = match transaction.version {
            TransactionVersion::V1 => (None, Some(4)),
            TransactionVersion::V2 => (Some(5), Some(5)),
        };
        let options = CallOptions { min_version: min, max_version: max, ..CallOptions::until(deadline) };
        let answer = self
            .client
            .call_with::<EndTxnRequest, _>(coordinator(&transaction.transactional_id), options, |_| {
                let mut request = EndTxnRequest::default();
                request.transactional_id = wire_id(&transaction.transactional_id);
                request.producer_id = WireProducerId(transaction.producer_id.0);
                request.producer_epoch = transaction.producer_epoch.0;
                request.committed = commit;
                request
            })
            .await?;
        let code = ErrorCode(answer.response.error_code);
        if !code.is_ok() {
            return Ok(EndTxnAnswer::Refused(code));
        }
        let (id, epoch) = (answer.response.producer_id.0, answer.response.producer_epoch);
        let next =
            (answer.version >= 5 && id >= 0 && epoch >= 0).then_some((ProducerId(id), ProducerEpoch(epoch)));
        Ok(EndTxnAnswer::Done { next })
    }

    /// What the coordinators know of these ids, in the order asked (brokers since 3.0). An id they do not know has the state
    /// [`TransactionState::NotFound`]. Coordinator errors are retried until `api_timeout`.
    ///
    /// # Errors
    /// The first id's error.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn describe(&self, ids: &[String]) -> Result<Vec<TransactionDescription>> {
        let mut attempts = self.client.attempts();
        loop {
            match self.describe_once(ids, attempts.deadline()).await {
                Ok(descriptions) => return Ok(descriptions),
                Err((id, error)) => {
                    self.client.doubt_coordinator(CoordinatorKind::Transaction, &id, &error);
                    attempts.pause(named(error.with_api("DescribeTransactions"), &id)).await?;
                }
            }
        }
    }

    async fn describe_once(
        &self,
        ids: &[String],
        deadline: Instant,
    ) -> std::result::Result<Vec<TransactionDescription>, (String, Error)> {
        // Ids of one coordinator go into one request.
        let mut groups: HashMap<Arc<str>, Vec<&String>> = HashMap::new();
        let distinct: HashSet<&String> = ids.iter().collect();
        for id in distinct {
            let node = self
                .client
                .coordinator(CoordinatorKind::Transaction, id, deadline)
                .await
                .map_err(|error| (id.clone(), error))?;
            groups.entry(node.name).or_default().push(id);
        }
        let requests = groups.values().map(|group| self.describe_group(group, deadline));
        let mut found: HashMap<String, TransactionDescription> = HashMap::new();
        for answer in join_all(requests).await {
            found.extend(answer?.into_iter().map(|description| (description.id.clone(), description)));
        }
        ids.iter()
            .map(|id| {
                let missing = || (id.clone(), Error::peer("the answer does not name the transactional id"));
                found.get(id).cloned().ok_or_else(missing)
            })
            .collect()
    }

    async fn describe_group(
        &self,
        ids: &[&String],
        deadline: Instant,
    ) -> std::result::Result<Vec<TransactionDescription>, (String, Error)> {
        let Some(first) = ids.first() else { return Ok(Vec::new()) };
        let answer = self
            .client
            .call_with::<DescribeTransactionsRequest, _>(
                coordinator(first),
                CallOptions::until(deadline),
                |_| {
                    DescribeTransactionsRequest::default()
                        .with_transactional_ids(ids.iter().map(|id| wire_id(id)).collect())
                },
            )
            .await
            .map_err(|error| ((*first).clone(), error))?;
        let mut descriptions = Vec::with_capacity(ids.len());
        for state in answer.response.transaction_states {
            let id = state.transactional_id.to_string();
            if !ids.iter().any(|asked| **asked == id) {
                return Err((
                    id,
                    Error::peer("the answer is about a transactional id that was not asked for"),
                ));
            }
            let code = ErrorCode(state.error_code);
            if code == ErrorCode::TRANSACTIONAL_ID_NOT_FOUND {
                descriptions.push(not_found(id));
                continue;
            }
            if !code.is_ok() {
                return Err((id, Error::broker_code(code, None).with_broker(answer.broker)));
            }
            let partitions = state.topics.iter().flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|&index| TopicPartition::new(topic.topic.as_str(), PartitionId(index)))
            });
            descriptions.push(TransactionDescription {
                state: TransactionState::from_name(&state.transaction_state),
                producer_id: ProducerId(state.producer_id.0),
                producer_epoch: ProducerEpoch(state.producer_epoch),
                start_time_ms: (state.transaction_start_time_ms >= 0)
                    .then_some(state.transaction_start_time_ms),
                timeout_ms: state.transaction_timeout_ms,
                partitions: partitions.collect(),
                id,
            });
        }
        Ok(descriptions)
    }

    /// The transactional ids of all coordinators that pass the filter, by id (brokers since 3.0). Filters are sent to brokers
    /// that know them and checked again here.
    ///
    /// # Errors
    /// When one broker cannot be asked within `api_timeout`: a part of a list would look like the whole.
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a pattern when a broker is older than 4.1.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn list(&self, filter: &ListFilter) -> Result<Vec<TransactionListing>> {
        let mut attempts = self.client.attempts();
        loop {
            match self.list_once(filter, attempts.deadline()).await {
                Ok(listings) => return Ok(listings),
                Err(error) => attempts.pause(error.with_api("ListTransactions")).await?,
            }
        }
    }

    async fn list_once(&self, filter: &ListFilter, deadline: Instant) -> Result<Vec<TransactionListing>> {
        let brokers = self.client.all_brokers(deadline).await?;
        let answers =
            join_all(brokers.into_iter().map(|broker| self.list_broker(broker, filter, deadline))).await;
        let mut listings = Vec::new();
        for answer in answers {
            listings.extend(answer?);
        }
        listings.sort_by(|one, two| one.id.cmp(&two.id));
        // While a coordinator moves, two brokers may list the same id.
        listings.dedup_by(|one, two| one.id == two.id);
        Ok(listings)
    }

    async fn list_broker(
        &self,
        broker: BrokerId,
        filter: &ListFilter,
        deadline: Instant,
    ) -> Result<Vec<TransactionListing>> {
        let options = CallOptions {
            min_version: filter.pattern.is_some().then_some(LIST_PATTERN_VERSION),
            ..CallOptions::until(deadline)
        };
        let answer = self
            .client
            .call_with::<ListTransactionsRequest, _>(Target::Broker(broker), options, |version| {
                let mut request = ListTransactionsRequest::default();
                request.state_filters = filter
                    .states
                    .iter()
                    .map(|state| StrBytes::from_string(state.name().to_owned()))
                    .collect();
                if version >= LIST_PATTERN_VERSION {
                    request.transactional_id_pattern = filter.pattern.clone().map(StrBytes::from_string);
                }
                request
            })
            .await?;
        let code = ErrorCode(answer.response.error_code);
        if !code.is_ok() {
            return Err(Error::broker_code(code, None).with_broker(answer.broker));
        }
        let listings = answer.response.transaction_states.iter().map(|state| TransactionListing {
            id: state.transactional_id.to_string(),
            producer_id: ProducerId(state.producer_id.0),
            state: TransactionState::from_name(&state.transaction_state),
        });
        Ok(listings.filter(|listing| passes(listing, filter)).collect())
    }

    /// Takes the id over: raises its epoch, so that older producers of the id are refused, and aborts its open
    /// transaction. Waits while that is being written. Returns the new pair.
    ///
    /// # Errors
    /// INVALID_TRANSACTION_TIMEOUT when `timeout` is above the broker's `transaction.max.timeout.ms`, coordinator errors to
    /// the end of `api_timeout`.
    ///
    /// # Cancellation
    /// The id may be fenced all the same.
    pub async fn fence(&self, id: &str, timeout: Duration) -> Result<(ProducerId, ProducerEpoch)> {
        let mut attempts = self.attempts(Backoff::for_transactions());
        let timeout_ms = i32::try_from(timeout.as_millis())
            .map_err(|_| Error::misuse(format!("a transaction timeout of {timeout:?} is above 24 days")))?;
        loop {
            let error = match self.fence_once(id, timeout_ms, attempts.deadline()).await {
                Ok(pair) => return Ok(pair),
                Err(error) => error,
            };
            self.client.doubt_coordinator(CoordinatorKind::Transaction, id, &error);
            attempts.pause(named(error.with_api("InitProducerId"), id)).await?;
        }
    }

    async fn fence_once(
        &self,
        id: &str,
        timeout_ms: i32,
        deadline: Instant,
    ) -> Result<(ProducerId, ProducerEpoch)> {
        let answer = self
            .client
            .call_with::<InitProducerIdRequest, _>(coordinator(id), CallOptions::until(deadline), |version| {
                let mut request = InitProducerIdRequest::default();
                request.transactional_id = Some(wire_id(id));
                request.transaction_timeout_ms = timeout_ms;
                if version >= 3 {
                    request.producer_id = WireProducerId(-1);
                    request.producer_epoch = -1;
                }
                request
            })
            .await?;
        let code = ErrorCode(answer.response.error_code);
        if !code.is_ok() {
            return Err(Error::broker_code(code, None).with_broker(answer.broker));
        }
        Ok((ProducerId(answer.response.producer_id.0), ProducerEpoch(answer.response.producer_epoch)))
    }

    fn attempts(&self, backoff: Backoff) -> Attempts {
        Attempts::new(self.client.config().api_timeout, backoff, self.client.seed())
    }
}

/// The first ListTransactions version with a pattern (KIP-1152).
const LIST_PATTERN_VERSION: i16 = 2;

fn coordinator(id: &str) -> Target {
    Target::Coordinator(CoordinatorKind::Transaction, id.to_owned())
}

fn wire_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

fn named(error: Error, id: &str) -> Error {
    if error.topic().is_some() { error } else { error.with_subject(format!("transactional id {id:?}")) }
}

fn not_found(id: String) -> TransactionDescription {
    TransactionDescription {
        id,
        state: TransactionState::NotFound,
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        start_time_ms: None,
        timeout_ms: 0,
        partitions: Vec::new(),
    }
}

/// Whether the coordinator only asks for patience.
fn waits(code: ErrorCode) -> bool {
    code == ErrorCode::CONCURRENT_TRANSACTIONS || code.is_retriable()
}

/// Whether a refusal says something about the transaction, and not about the caller or the request.
fn is_about_the_transaction(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::PRODUCER_FENCED
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::INVALID_TXN_STATE
            | ErrorCode::INVALID_PRODUCER_ID_MAPPING
            | ErrorCode::TRANSACTION_ABORTABLE
            | ErrorCode::UNKNOWN_PRODUCER_ID
    )
}

fn passes(listing: &TransactionListing, filter: &ListFilter) -> bool {
    (filter.states.is_empty() || filter.states.contains(&listing.state))
        && filter.prefix.as_ref().is_none_or(|prefix| listing.id.starts_with(prefix.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_names_go_both_ways_and_unknown_ones_are_kept() {
        for name in
            ["Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "Later"]
        {
            assert_eq!(TransactionState::from_name(name).name(), name);
        }
    }

    #[test]
    fn filters_are_checked_again_on_this_side() {
        let listing = TransactionListing {
            id: "job-1".to_owned(),
            producer_id: ProducerId(1),
            state: TransactionState::CompleteAbort,
        };
        let filter = |states: Vec<TransactionState>, prefix: &str| ListFilter {
            states,
            pattern: None,
            prefix: Some(prefix.to_owned()),
        };
        assert!(passes(&listing, &filter(vec![], "job")));
        assert!(!passes(&listing, &filter(vec![], "other")));
        assert!(!passes(&listing, &filter(vec![TransactionState::Ongoing], "job")));
        assert!(passes(&listing, &ListFilter::default()));
    }

    #[test]
    fn patience_and_refusal_are_told_apart() {
        assert!(waits(ErrorCode::CONCURRENT_TRANSACTIONS) && waits(ErrorCode::NOT_COORDINATOR));
        assert!(!waits(ErrorCode::PRODUCER_FENCED) && is_about_the_transaction(ErrorCode::PRODUCER_FENCED));
        assert!(!is_about_the_transaction(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED));
    }
}
