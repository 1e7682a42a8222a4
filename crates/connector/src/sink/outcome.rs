//! What became of a prepared transaction: the procedure that decides, as a pure state machine.
//!
//! ```text
//!          EndTxn NONE / PrepareCommit seen            every partition's first batch looked at
//!   SEND ───────────────────────────────────▶ READ ─────────────────────────────────────────▶ Committed, Aborted,
//!    │ ▲                                       ▲                                               Partial, Hanging, Unknown
//!    │ └── Ongoing, no answer ──┐              │
//!    └── refused, or 1 s ────▶ ASK ────────────┘
//! ```
//!
//! No outcome is read from an error code: "fenced" means committed as often as aborted. The coordinator is believed only
//! about the transaction it names by producer id and start time; the log is believed always.
//!
//! # Invariants
//! * [`Outcome::Committed`] with `verified` means: at the transaction's first offset in each partition that still has it lies a
//!   batch of this transaction, and readers of committed records see it.
//! * Nothing is ever concluded from the clock but that it is time to give up; giving up is [`Outcome::Unanswered`] or
//!   [`Outcome::Hanging`], and the committable is kept.
//!
//! # References
//! KIP-98, KIP-664 (DescribeTransactions), KIP-890 (epoch bump at each end), KAFKA-20734 (a leaderless partition's marker).

use std::time::{Duration, Instant};

use milena::protocol::error_code::ErrorCode;
use milena::{Offset, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition, TransactionState};

/// The first record of a transaction in one partition.
pub type FirstOffset = (TopicPartition, Offset);

/// How long to try what. All times count from the moment the procedure starts, unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an end request is repeated while nothing answers it. `None`, the default: until shortly before the broker
    /// would abort the transaction (its timeout, counted from its start if that is known), and for a minute at least.
    pub decide: Option<Duration>,
    /// How long to wait for the markers of a decided transaction, from the decision. Default 60 s.
    pub visible: Duration,
    /// Whether to look at the log after the coordinator said yes. Default true. Without, the outcome is
    /// `Committed { verified: false }`.
    pub verify: bool,
}

impl Limits {
    /// How long to repeat an end request for a transaction with this timeout that has been open for `age`.
    fn patience(&self, timeout: Duration, age: Duration) -> Duration {
        let margin = MARGIN.min(timeout / 20);
        let left = timeout.saturating_sub(age).saturating_sub(margin);
        self.decide.unwrap_or_else(|| left.max(TRIED_AT_LEAST))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { decide: None, visible: Duration::from_secs(60), verify: true }
    }
}

/// After this long without a definite answer, the coordinator is also asked for its state.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// "Not there" is believed when it is said twice, at least this far apart: metadata may be behind.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// An end request is repeated for so long at least, however old the transaction is: it may still be committed after its timeout.
const TRIED_AT_LEAST: Duration = Duration::from_secs(60);
/// So much before its timeout the tries end at the latest: then there is time to say so.
const MARGIN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What the driver has to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send `EndTxn(commit)` in the writer's generation, then [`Settlement::handle_end`].
    End,
    /// Send `DescribeTransactions`, then [`Settlement::handle_description`].
    Describe,
    /// Look at these first offsets, then [`Settlement::handle_evidence`].
    Read(Vec<FirstOffset>),
    /// Wait until then.
    Wait(Instant),
    /// The end.
    Done(Outcome),
}

/// What `EndTxn` brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndAnswer {
    /// No error.
    Done,
    /// An error code.
    Refused(ErrorCode),
    /// Nothing: the connection failed or the time is up.
    Silence(String),
    /// It can't be sent: who we are is refused, or the broker doesn't know the request in the writer's generation.
    Impossible(String),
}

/// What `DescribeTransactions` brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// The coordinator's entry of the transactional id.
    Found {
        /// Its state.
        state: TransactionState,
        /// The producer id it stands at.
        producer_id: ProducerId,
        /// The epoch it stands at.
        producer_epoch: ProducerEpoch,
        /// When the transaction it holds, or held last, was begun, in milliseconds since 1970.
        start_time_ms: Option<i64>,
    },
    /// The id is not known.
    NotFound,
    /// The broker can't or won't say.
    Unavailable,
    /// Nothing: the connection failed or the time is up.
    Silence(String),
}

/// What the log says about the transaction in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Its records are visible to readers of committed records.
    Commit,
    /// It was aborted.
    Abort,
    /// It has no end yet.
    Open,
    /// Its first record is not there any more: retention, compaction, a deleted topic, or another log.
    Gone,
    /// The principal may not read the topic.
    Denied,
    /// The leader did not answer, or is not known.
    Unavailable,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Committed {
        /// Whether the log was seen to say so.
        verified: bool,
    },
    /// It was aborted: its records are lost to this job unless they are produced again.
    Aborted {
        /// Where the lost records began.
        lost: Vec<FirstOffset>,
        /// What is known about the cause.
        cause: String,
    },
    /// Some partitions have it committed, others aborted: somebody forced a marker.
    Partial {
        /// Where it is committed.
        committed: Vec<FirstOffset>,
        /// Where its records are lost.
        lost: Vec<FirstOffset>,
    },
    /// The coordinator is done with it, yet partitions hold it open: readers of committed records are stuck there.
    Hanging {
        /// Where readers are stuck.
        open: Vec<FirstOffset>,
        /// Whether the coordinator decided to commit.
        decided: bool,
    },
    /// Neither the coordinator nor the log can tell any more.
    Unknown {
        /// Whether the coordinator said that it is committed. If so, it very probably is.
        decided: bool,
        /// What is known about the cause.
        cause: String,
    },
    /// Nobody who could tell has answered. The transaction must be kept and settled later.
    Unanswered {
        /// The last thing heard.
        cause: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Send,
    AskThenSend,
    AskThenRead,
    Read { since: Instant },
}

#[derive(Clone, Debug)]
struct Finding {
    first: FirstOffset,
    settled: Option<Evidence>,
    latest: Evidence,
    gone_since: Option<Instant>,
}

/// The procedure for one transaction. Call [`poll_step`](Self::poll_step), do what it says, hand in the result, repeat.
#[derive(Clone, Debug)]
pub struct Settlement {
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    start_time_ms: Option<i64>,
    limits: Limits,
    started: Instant,
    patience: Duration,
    state: State,
    attempt: u32,
    not_before: Instant,
    seed: u64,
    /// The coordinator said that it is committed.
    decided: bool,
    /// The coordinator said that it is aborted.
    aborted_there: bool,
    seen: Option<Description>,
    heard: String,
    findings: Vec<Finding>,
    outcome: Option<Outcome>,
}

impl Settlement {
    /// The procedure for a prepared transaction, from the start, which has been open for `age`. `seed` spreads the pauses of
    /// several.
    #[must_use]
    pub fn new(
        transaction: &PreparedTransaction,
        limits: Limits,
        age: Duration,
        now: Instant,
        seed: u64,
    ) -> Self {
        let finding = |first: &FirstOffset| Finding {
            first: first.clone(),
            settled: None,
            latest: Evidence::Unavailable,
            gone_since: None,
        };
        Self {
            producer_id: transaction.producer_id,
            producer_epoch: transaction.producer_epoch,
            start_time_ms: transaction.start_time_ms,
            limits,
            started: now,
            patience: limits.patience(transaction.timeout, age),
            state: State::Send,
            attempt: 0,
            not_before: now,
            seed: seed | 1,
            decided: false,
            aborted_there: false,
            seen: None,
            heard: String::from("nothing was sent"),
            findings: transaction.first_offsets.iter().map(finding).collect(),
            outcome: None,
        }
    }

    /// What to do at `now`.
    pub fn poll_step(&mut self, now: Instant) -> Step {
        if self.outcome.is_none() {
            self.give_up(now);
        }
        if let Some(outcome) = &self.outcome {
            return Step::Done(outcome.clone());
        }
        if now < self.not_before {
            return Step::Wait(self.not_before);
        }
        match self.state {
            State::Send => Step::End,
            State::AskThenSend | State::AskThenRead => Step::Describe,
            State::Read { .. } => Step::Read(self.unsettled().map(|finding| finding.first.clone()).collect()),
        }
    }

    /// The answer to [`Step::End`].
    pub fn handle_end(&mut self, now: Instant, answer: EndAnswer) {
        match answer {
            EndAnswer::Done => {
                self.decided = true;
                "EndTxn was answered with success".clone_into(&mut self.heard);
                if self.limits.verify {
                    self.read(now);
                } else {
                    self.outcome = Some(Outcome::Committed { verified: false });
                }
            }
            EndAnswer::Silence(why) => {
                self.heard = why;
                self.resend_or_ask(now);
            }
            EndAnswer::Impossible(cause) => self.outcome = Some(Outcome::Unanswered { cause }),
            EndAnswer::Refused(code) => {
                self.heard = format!("EndTxn was answered with {code}");
                if is_passing(code) {
                    self.resend_or_ask(now);
                } else if is_about_the_transaction(code) {
                    self.state = State::AskThenRead;
                } else {
                    self.outcome = Some(Outcome::Unanswered { cause: self.heard.clone() });
                }
            }
        }
    }

    /// The answer to [`Step::Describe`].
    pub fn handle_description(&mut self, now: Instant, answer: Description) {
        use TransactionState as Entry;
        if let Description::Silence(why) = answer {
            self.heard = why;
            self.pause(now);
            if self.state == State::AskThenSend {
                self.state = State::Send;
            } else if self.attempt > 8 {
                self.read(now);
            }
            return;
        }
        self.seen = Some(answer.clone());
        let own = self.is_own_entry(&answer);
        match answer {
            Description::Found { state: Entry::PrepareCommit | Entry::CompleteCommit, .. } if own => {
                self.decided = true;
                self.read(now);
            }
            Description::Found { state: Entry::PrepareAbort | Entry::CompleteAbort, .. } if own => {
                // The log may still know better: somebody may have forced a marker before.
                self.aborted_there = true;
                self.read(now);
            }
            Description::Found { state: Entry::Ongoing, producer_epoch, .. }
                if own && producer_epoch == self.producer_epoch =>
            {
                self.pause(now);
                self.state = State::Send;
            }
            _ if self.state == State::AskThenSend => {
                self.pause(now);
                self.state = State::Send;
            }
            _ => self.read(now),
        }
    }

    /// The answer to [`Step::Read`]: one entry for each first offset that was asked for; others are ignored, and missing ones
    /// count as not answered.
    pub fn handle_evidence(&mut self, now: Instant, evidence: &[(TopicPartition, Evidence)]) {
        for finding in &mut self.findings {
            let said = evidence.iter().find(|(partition, _)| *partition == finding.first.0);
            let Some(&(_, said)) = said.filter(|_| finding.settled.is_none()) else { continue };
            finding.latest = said;
            match said {
                Evidence::Commit | Evidence::Abort | Evidence::Denied => finding.settled = Some(said),
                Evidence::Gone => {
                    let since = *finding.gone_since.get_or_insert(now);
                    if now.saturating_duration_since(since) >= GONE_AFTER {
                        finding.settled = Some(said);
                    }
                }
                Evidence::Open | Evidence::Unavailable => finding.gone_since = None,
            }
        }
        let open = self.findings.iter().any(|finding| finding.latest == Evidence::Open);
        if open && !self.decided && self.seen_still_ongoing() {
            self.pause(now);
            self.state = State::Send;
            return;
        }
        let (committed, lost) = (self.with(Evidence::Commit), self.with(Evidence::Abort));
        if !committed.is_empty() && !lost.is_empty() {
            self.outcome = Some(Outcome::Partial { committed, lost });
        } else if self.unsettled().next().is_none() {
            self.conclude();
        } else {
            self.pause(now);
        }
    }

    /// What the coordinator last said about the transactional id, for a message.
    #[must_use]
    pub fn cause(&self) -> String {
        let seen = match &self.seen {
            Some(Description::Found { state, producer_id, producer_epoch, .. }) => {
                let newer = *producer_id != self.producer_id
                    || producer_epoch.0 > self.producer_epoch.0.saturating_add(2);
                let taken = newer || matches!(state, TransactionState::Empty | TransactionState::Ongoing);
                let meaning = match state {
                    TransactionState::CompleteAbort | TransactionState::PrepareAbort if !newer => {
                        "it timed out or was aborted by someone"
                    }
                    TransactionState::PrepareCommit | TransactionState::CompleteCommit if !newer => {
                        "the coordinator has decided to commit it"
                    }
                    _ if taken => "another instance took the id",
                    _ => "the coordinator stands at another transaction",
                };
                format!(
                    "{meaning} (coordinator: {state:?}, producer id {producer_id}, epoch {producer_epoch})"
                )
            }
            Some(Description::NotFound) => {
                String::from("the coordinator does not know the id any more: it expired")
            }
            Some(Description::Unavailable) | Some(Description::Silence(_)) | None => {
                String::from("the coordinator could not be asked for its state")
            }
        };
        format!("{}; {seen}", self.heard)
    }

    fn is_own_entry(&self, answer: &Description) -> bool {
        let Description::Found { producer_id, producer_epoch, start_time_ms, .. } = answer else {
            return false;
        };
        let epochs = self.producer_epoch.0..=self.producer_epoch.0.saturating_add(2);
        self.start_time_ms.is_some()
            && *start_time_ms == self.start_time_ms
            && *producer_id == self.producer_id
            && epochs.contains(&producer_epoch.0)
    }

    /// Without a start time the same producer id and epoch still mean the same transaction, for no two share them.
    fn seen_still_ongoing(&self) -> bool {
        matches!(
            &self.seen,
            Some(Description::Found { state: TransactionState::Ongoing, producer_id, producer_epoch, .. })
                if *producer_id == self.producer_id && *producer_epoch == self.producer_epoch
        )
    }

    fn read(&mut self, now: Instant) {
        if self.decided || self.aborted_there {
            self.attempt = 0;
            self.not_before = now;
        }
        self.state = State::Read { since: now };
        if self.findings.is_empty() {
            self.conclude();
        }
    }

    fn resend_or_ask(&mut self, now: Instant) {
        self.pause(now);
        let late = now.saturating_duration_since(self.started) >= ASK_AFTER;
        self.state = if late { State::AskThenSend } else { State::Send };
    }

    fn pause(&mut self, now: Instant) {
        let longest = LONGEST_PAUSE
            .min(FIRST_PAUSE.saturating_mul(1_u32.checked_shl(self.attempt.min(10)).unwrap_or(1)));
        self.attempt += 1;
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let share = u32::try_from(self.seed % 512).unwrap_or(0);
        self.not_before = now + longest / 2 + longest.saturating_mul(share) / 1024;
    }

    fn give_up(&mut self, now: Instant) {
        match self.state {
            State::Read { since } if now.saturating_duration_since(since) >= self.limits.visible => {
                let open: Vec<FirstOffset> = self
                    .unsettled()
                    .filter(|finding| finding.latest == Evidence::Open)
                    .map(|finding| finding.first.clone())
                    .collect();
                self.outcome = Some(if self.aborted_there {
                    self.aborted(self.unless_committed())
                } else if open.is_empty() {
                    let stuck = self
                        .unsettled()
                        .map(|finding| finding.first.0.to_string())
                        .collect::<Vec<_>>()
                        .join(", ");
                    Outcome::Unanswered {
                        cause: format!("{}; the log of {stuck} could not be read", self.cause()),
                    }
                } else {
                    Outcome::Hanging { open, decided: self.decided }
                });
            }
            State::Read { .. } => {}
            State::Send | State::AskThenSend | State::AskThenRead => {
                if now.saturating_duration_since(self.started) >= self.patience {
                    self.outcome = Some(Outcome::Unanswered { cause: self.heard.clone() });
                }
            }
        }
    }

    fn conclude(&mut self) {
        let (committed, lost) = (self.with(Evidence::Commit), self.with(Evidence::Abort));
        self.outcome = Some(match (committed.is_empty(), lost.is_empty()) {
            (false, true) => Outcome::Committed { verified: true },
            (true, false) => self.aborted(lost),
            (false, false) => Outcome::Partial { committed, lost },
            (true, true) if self.aborted_there => self.aborted(self.unless_committed()),
            (true, true) => Outcome::Unknown { decided: self.decided, cause: self.cause() },
        });
    }

    fn aborted(&self, lost: Vec<FirstOffset>) -> Outcome {
        Outcome::Aborted { lost, cause: self.cause() }
    }

    fn unless_committed(&self) -> Vec<FirstOffset> {
        let others = self.findings.iter().filter(|finding| finding.settled != Some(Evidence::Commit));
        others.map(|finding| finding.first.clone()).collect()
    }

    fn unsettled(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.settled.is_none())
    }

    fn with(&self, evidence: Evidence) -> Vec<FirstOffset> {
        self.findings
            .iter()
            .filter(|finding| finding.settled == Some(evidence))
            .map(|finding| finding.first.clone())
            .collect()
    }
}

/// Codes after which the same request is simply sent again.
fn is_passing(code: ErrorCode) -> bool {
    code == ErrorCode::CONCURRENT_TRANSACTIONS
        || code == ErrorCode::NOT_COORDINATOR
        || code == ErrorCode::COORDINATOR_NOT_AVAILABLE
        || code == ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
        || code.is_retriable()
}

/// Codes that speak about the transaction, without telling its outcome.
fn is_about_the_transaction(code: ErrorCode) -> bool {
    code == ErrorCode::PRODUCER_FENCED
        || code == ErrorCode::INVALID_PRODUCER_EPOCH
        || code == ErrorCode::INVALID_TXN_STATE
        || code == ErrorCode::INVALID_PRODUCER_ID_MAPPING
        || code == ErrorCode::UNKNOWN_PRODUCER_ID
        || code == ErrorCode::TRANSACTION_ABORTABLE
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
