//! Drives the procedure of [`outcome`](super::outcome) over the network, and turns its verdicts into errors.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use milena::protocol::error_code::ErrorCode;
use milena::protocol::records::{ControlRecord, RecordBatch};
use milena::protocol::types::Isolation;
use milena::{
    Client, EndTxnAnswer, FetchFrom, FetchOptions, Fetched, ForcedMarker, Offset, PreparedTransaction,
    TopicPartition, TransactionState,
};

use super::committable::Committable;
use super::outcome::{Description, EndAnswer, Evidence, FirstOffset, Limits, Outcome, Settlement, Step};
use crate::{Error, ErrorKind};

/// An end request that is not answered by then is given up and sent again; doubled each time.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(30);
/// How much of the log is fetched at a time where a marker has to be searched.
const SCAN_BYTES: u32 = 1 << 20;

/// Commits prepared transactions, live ones and those of a checkpoint alike. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Committer {
    client: Client,
    limits: Limits,
}

impl Committer {
    /// A committer over a client's connections.
    #[must_use]
    pub fn new(client: Client, limits: Limits) -> Self {
        Self { client, limits }
    }

    /// Commits a transaction and finds out what became of it. `on_sent` is called after each end request that was answered; its
    /// error ends the procedure there.
    ///
    /// # Errors
    /// Those of `on_sent` only.
    ///
    /// # Cancellation
    /// The transaction may be committed or not; call again, in this process or another.
    pub async fn commit<E>(
        &self,
        committable: &Committable,
        mut on_sent: impl FnMut() -> Result<(), E>,
    ) -> Result<Outcome, E> {
        let transaction = &committable.transaction;
        let seed =
            u64::from(committable.subtask) << 32 ^ committable.checkpoint.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut procedure = Settlement::new(transaction, self.limits, age(transaction), Instant::now(), seed);
        let mut patience = FIRST_PATIENCE;
        loop {
            match procedure.poll_step(Instant::now()) {
                Step::Done(outcome) => return Ok(outcome),
                Step::Wait(until) => tokio::time::sleep_until(until.into()).await,
                Step::End => {
                    let answer = self.end(transaction, patience).await;
                    if matches!(answer, EndAnswer::Silence(_)) {
                        patience = (patience * 2).min(LONGEST_PATIENCE);
                    } else {
                        on_sent()?;
                    }
                    procedure.handle_end(Instant::now(), answer);
                }
                Step::Describe => {
                    let answer = self.describe(&transaction.transactional_id).await;
                    procedure.handle_description(Instant::now(), answer);
                }
                Step::Read(firsts) => {
                    let evidence = self.read(transaction, &firsts).await;
                    procedure.handle_evidence(Instant::now(), &evidence);
                }
            }
        }
    }

    /// Looks at the log, and only there, for what became of a transaction: nothing is sent that could change it.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn look(&self, transaction: &PreparedTransaction) -> Vec<(FirstOffset, Evidence)> {
        let evidence = self.read(transaction, &transaction.first_offsets).await;
        let found = |(at, _): &FirstOffset| {
            evidence.iter().find(|(seen, _)| seen == at).map_or(Evidence::Unavailable, |&(_, found)| found)
        };
        transaction.first_offsets.iter().map(|first| (first.clone(), found(first))).collect()
    }

    /// Writes the commit markers that are missing where a decided transaction hangs ([`Outcome::Hanging`]), behind the coordinator's
    /// back: Kafka's own tool can only abort there. Only where the leader still holds this very transaction open at its
    /// first offset.
    ///
    /// # Errors
    /// `Client` if a leader refuses (it takes the right for CLUSTER_ACTION) or can't be reached; `DataLoss` if a partition holds something
    /// else open.
    ///
    /// # Cancellation
    /// Markers may be written all the same; finish again.
    pub async fn finish(&self, transaction: &PreparedTransaction, open: &[FirstOffset]) -> crate::Result<()> {
        self.check_held(transaction, open).await?;
        let marker = ForcedMarker {
            producer_id: transaction.producer_id,
            producer_epoch: transaction.marker_epoch(),
            commit: true,
            partitions: open.iter().map(|(at, _)| at.clone()).collect(),
        };
        let refused = |error: milena::Error| {
            let text = format!("the commit of {} can't be finished", transaction.transactional_id);
            Error::new(ErrorKind::Client, text).with_source(error)
        };
        for (at, written) in self.client.transactions().write_markers(&marker).await.map_err(refused)? {
            written.map_err(|error| refused(error).with_topic_partition(at))?;
        }
        Ok(())
    }

    /// Fails unless each leader holds the transaction open, and at this offset.
    async fn check_held(&self, transaction: &PreparedTransaction, open: &[FirstOffset]) -> crate::Result<()> {
        let partitions: Vec<TopicPartition> = open.iter().map(|(at, _)| at.clone()).collect();
        let held = self.client.admin().describe_producers(&partitions).await?;
        for (at, first) in open {
            let producers = match held.iter().find(|(found, _)| found == at) {
                Some((_, Ok(producers))) => producers.as_slice(),
                Some((_, Err(error))) => return Err(error.clone().into()),
                None => &[],
            };
            let own = producers.iter().any(|producer| {
                producer.producer_id == transaction.producer_id && producer.transaction_start == Some(*first)
            });
            if !own {
                let text = format!(
                    "the leader does not hold {} open here: there is nothing to finish",
                    transaction.transactional_id
                );
                let error = Error::new(ErrorKind::DataLoss, text);
                return Err(error.with_topic_partition(at.clone()).with_offset(*first));
            }
        }
        Ok(())
    }

    async fn end(&self, transaction: &PreparedTransaction, patience: Duration) -> EndAnswer {
        let transactions = self.client.transactions();
        match tokio::time::timeout(patience, transactions.end(transaction, true)).await {
            Ok(Ok(EndTxnAnswer::Done { .. })) => EndAnswer::Done,
            Ok(Ok(EndTxnAnswer::Refused(code))) => EndAnswer::Refused(code),
            Ok(Err(error)) => match error.kind() {
                milena::ErrorKind::Broker(code) => EndAnswer::Refused(code),
                milena::ErrorKind::Auth
                | milena::ErrorKind::Unsupported
                | milena::ErrorKind::Misuse
                | milena::ErrorKind::Closed => EndAnswer::Impossible(error.to_string()),
                _ => EndAnswer::Silence(error.to_string()),
            },
            Err(_) => EndAnswer::Silence(format!("EndTxn was not answered within {} s", patience.as_secs())),
        }
    }

    async fn describe(&self, id: &str) -> Description {
        let ids = [id.to_owned()];
        let transactions = self.client.transactions();
        let Ok(answer) = tokio::time::timeout(FIRST_PATIENCE, transactions.describe(&ids)).await else {
            return Description::Silence(String::from("DescribeTransactions was not answered"));
        };
        match answer {
            Ok(found) => match found.into_iter().find(|entry| entry.id == id) {
                Some(entry) if entry.state == TransactionState::NotFound => Description::NotFound,
                Some(entry) => Description::Found {
                    state: entry.state,
                    producer_id: entry.producer_id,
                    producer_epoch: entry.producer_epoch,
                    start_time_ms: entry.start_time_ms,
                },
                None => Description::NotFound,
            },
            Err(error) if error.is_retriable() => Description::Silence(error.to_string()),
            Err(_) => Description::Unavailable,
        }
    }

    async fn read(
        &self,
        transaction: &PreparedTransaction,
        firsts: &[FirstOffset],
    ) -> Vec<(TopicPartition, Evidence)> {
        let fetched = self.fetch(firsts, Isolation::ReadCommitted, 1).await;
        let mut evidence = Vec::new();
        for (at, first) in firsts {
            let answer = fetched.iter().find(|answer| answer.tp == *at);
            let found = match answer.map(|answer| read_first(transaction, *first, answer)) {
                Some(Reading::Evidence(found)) => found,
                Some(Reading::Behind) => self.scan(transaction, at, *first).await,
                None => Evidence::Unavailable,
            };
            evidence.push((at.clone(), found));
        }
        evidence
    }

    /// Looks for the end of the transaction in a partition where something older is still open.
    async fn scan(&self, transaction: &PreparedTransaction, at: &TopicPartition, first: Offset) -> Evidence {
        let mut from = first;
        let mut seen_first = false;
        loop {
            let target = [(at.clone(), from)];
            let fetched = self.fetch(&target, Isolation::ReadUncommitted, SCAN_BYTES).await;
            let Some(answer) = fetched.iter().find(|answer| answer.tp == *at) else {
                return Evidence::Unavailable;
            };
            if let Some(found) = from_error(answer) {
                return found;
            }
            for batch in &answer.batches {
                if !seen_first {
                    if !is_first_batch(transaction, first, batch) {
                        return Evidence::Gone;
                    }
                    seen_first = true;
                }
                match ends(transaction, batch) {
                    Some(true) => return Evidence::Commit,
                    Some(false) => return Evidence::Abort,
                    None => {}
                }
            }
            let next = answer.next_offset();
            if next <= from || next >= answer.high_watermark {
                // An acknowledged record that is not there is another log's: the topic was created anew, or truncated.
                return if seen_first { Evidence::Open } else { Evidence::Gone };
            }
            from = next;
        }
    }

    async fn fetch(&self, from: &[FirstOffset], isolation: Isolation, bytes: u32) -> Vec<Fetched> {
        let from: Vec<FetchFrom> = from
            .iter()
            .map(|(at, offset)| FetchFrom {
                tp: at.clone(),
                offset: *offset,
                max_bytes: Some(bytes),
                leader_epoch: None,
            })
            .collect();
        let options =
            FetchOptions { max_wait: Duration::ZERO, min_bytes: 0, isolation, ..FetchOptions::default() };
        match tokio::time::timeout(LONGEST_PATIENCE, self.client.fetcher().fetch(&from, &options)).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the log could not be read to verify a transaction");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

/// How long a transaction has been open, by the coordinator's clock when it began and this machine's now; zero if that is not known.
pub(crate) fn age(transaction: &PreparedTransaction) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = transaction.start_time_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    began.map_or(Duration::ZERO, |began| now.saturating_sub(began))
}

enum Reading {
    Evidence(Evidence),
    /// The last stable offset is not past the first record: something at or before it is open.
    Behind,
}

/// What a read of committed records at the transaction's first offset says.
fn read_first(transaction: &PreparedTransaction, first: Offset, answer: &Fetched) -> Reading {
    if let Some(found) = from_error(answer) {
        return Reading::Evidence(found);
    }
    if answer.aborted.iter().any(|&(producer, offset)| producer == transaction.producer_id && offset == first)
    {
        return Reading::Evidence(Evidence::Abort);
    }
    if answer.last_stable_offset.unwrap_or(answer.high_watermark) <= first {
        return Reading::Behind;
    }
    let own = answer.batches.first().is_some_and(|batch| is_first_batch(transaction, first, batch));
    Reading::Evidence(if own { Evidence::Commit } else { Evidence::Gone })
}

fn from_error(answer: &Fetched) -> Option<Evidence> {
    let error = answer.error.as_ref()?;
    let milena::ErrorKind::Broker(code) = error.kind() else { return Some(Evidence::Unavailable) };
    Some(match code {
        ErrorCode::OFFSET_OUT_OF_RANGE
        | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::UNKNOWN_TOPIC_ID => Evidence::Gone,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => Evidence::Denied,
        _ => Evidence::Unavailable,
    })
}

fn is_first_batch(transaction: &PreparedTransaction, first: Offset, batch: &RecordBatch) -> bool {
    batch.base_offset() <= first
        && first <= batch.last_offset()
        && !batch.is_control()
        && batch.producer_id() == Some(transaction.producer_id)
        && batch.producer_epoch() == Some(transaction.producer_epoch)
}

/// Whether a batch is the transaction's marker, and if so whether it commits. The first marker of the producer id counts; the
/// batch is at or after the first record, so an older transaction's marker can't be met.
fn ends(transaction: &PreparedTransaction, batch: &RecordBatch) -> Option<bool> {
    if batch.producer_id() != Some(transaction.producer_id) || !batch.is_control() {
        return None;
    }
    match batch.control() {
        Ok(Some(ControlRecord::Commit { .. })) => Some(true),
        Ok(Some(ControlRecord::Abort { .. })) => Some(false),
        Ok(Some(ControlRecord::Other(_)) | None) | Err(_) => None,
    }
}

/// The error for an outcome that is not a commit: which transaction, where its records began, and what to do. `None` for a commit.
#[must_use]
pub fn failure(committable: &Committable, outcome: &Outcome) -> Option<Error> {
    let name = format!("transaction {} of checkpoint {}", committable.identity(), committable.checkpoint);
    let at = |firsts: &[FirstOffset]| {
        let mut text = String::new();
        for (at, offset) in firsts {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{at} from offset {offset}");
        }
        text
    };
    let (kind, text, place) = match outcome {
        Outcome::Committed { .. } => return None,
        Outcome::Aborted { lost, cause } => (
            ErrorKind::DataLoss,
            format!(
                "{name} was aborted before its commit: its records are lost in {}; {cause}. Produce them again from the source, \
                 or let the job go on without them with `OnLoss::Continue`; a longer transaction timeout (now {} s) prevents it",
                at(lost),
                committable.transaction.timeout.as_secs()
            ),
            lost.first(),
        ),
        Outcome::Partial { committed, lost } => (
            ErrorKind::DataLoss,
            format!(
                "{name} is torn: committed in {}, aborted in {}: somebody forced a marker",
                at(committed),
                at(lost)
            ),
            lost.first(),
        ),
        Outcome::Hanging { open, decided } => (
            ErrorKind::Timeout,
            format!(
                "{name} is {} but has no end in {}: readers of committed records are stuck there until its marker is written \
                 (`milena txn finish` writes it, and so does `OnHanging::Finish`)",
                if *decided {
                    "committed by the coordinator"
                } else {
                    "not known to be open by the coordinator"
                },
                at(open)
            ),
            open.first(),
        ),
        Outcome::Unknown { decided, cause } => (
            ErrorKind::DataLoss,
            format!(
                "nobody can tell whether {name} was committed{}: its records, {}, can't be read any more; {cause}",
                if *decided { " (the coordinator said so)" } else { "" },
                at(&committable.transaction.first_offsets)
            ),
            committable.transaction.first_offsets.first(),
        ),
        Outcome::Unanswered { cause } => (
            ErrorKind::Timeout,
            format!(
                "the commit of {name} was not answered; the checkpoint keeps it and the next start commits it; {cause}"
            ),
            None,
        ),
    };
    let error = Error::new(kind, text);
    Some(match place {
        Some((at, offset)) => error.with_topic_partition(at.clone()).with_offset(*offset),
        None => error,
    })
}
