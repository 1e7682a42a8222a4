//! What a broker's answer to a batch means: a table over error codes.
//!
//! Three things are told apart that error codes alone blur: a batch that was surely not written by this try ([`Outcome::Retry`]),
//! one that may be in the log ([`Outcome::Ambiguous`]; the same sequence settles it at the next try), and one that will
//! never be taken ([`Outcome::Fatal`]).
//!
//! # References
//! KIP-98, KIP-360 (sequence errors), KIP-890 (TRANSACTION_ABORTABLE); `Errors` in Kafka's protocol guide.

use milena_protocol::error_code::ErrorCode;

/// What became of one try of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// In the log, now or since an earlier try.
    Acked,
    /// This try wrote nothing; the batch may be sent again.
    Retry(Remedy),
    /// This try may have written it; the batch is sent again with the same sequence.
    Ambiguous(Remedy),
    /// It was not written and never will be.
    Fatal(Scope),
}

/// What to do before the next try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// Wait a little.
    BackOff,
    /// Ask who leads the partition now.
    Metadata,
    /// Cut the batch in two: it is too large for the topic.
    Split,
    /// A batch before this one is missing in the log: repeat that one first, or take a new epoch if there is none.
    Sequence,
    /// The broker forgot the producer: take a new epoch.
    ProducerState,
}

/// How far a fatal error reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// This batch only.
    Batch,
    /// The open transaction: it can only be aborted.
    Transaction,
    /// The producer: it was fenced off, or may not write at all.
    Producer,
}

/// What `code` means as the answer to a batch.
#[must_use]
pub fn of(code: ErrorCode) -> Outcome {
    use Outcome::{Acked, Ambiguous, Fatal, Retry};
    match code {
        ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Acked,

        // The leader appended and then waited for its followers: it may have lost its office, or time, while waiting.
        ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND | ErrorCode::REQUEST_TIMED_OUT => {
            Ambiguous(Remedy::BackOff)
        }
        ErrorCode::NOT_LEADER_OR_FOLLOWER
        | ErrorCode::LEADER_NOT_AVAILABLE
        | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::UNKNOWN_TOPIC_ID
        | ErrorCode::INCONSISTENT_TOPIC_ID
        | ErrorCode::FENCED_LEADER_EPOCH
        | ErrorCode::REPLICA_NOT_AVAILABLE
        | ErrorCode::NETWORK_EXCEPTION
        | ErrorCode::KAFKA_STORAGE_ERROR
        | ErrorCode::UNKNOWN_SERVER_ERROR => Ambiguous(Remedy::Metadata),

        // Refused before anything was appended.
        ErrorCode::NOT_ENOUGH_REPLICAS
        | ErrorCode::THROTTLING_QUOTA_EXCEEDED
        | ErrorCode::CONCURRENT_TRANSACTIONS
        | ErrorCode::COORDINATOR_NOT_AVAILABLE
        | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
        | ErrorCode::NOT_COORDINATOR
        | ErrorCode::CORRUPT_MESSAGE => Retry(Remedy::BackOff),
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Retry(Remedy::Split),
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER => Retry(Remedy::Sequence),
        ErrorCode::UNKNOWN_PRODUCER_ID => Retry(Remedy::ProducerState),

        ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::PRODUCER_FENCED
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
        | ErrorCode::TRANSACTION_COORDINATOR_FENCED
        | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => Fatal(Scope::Producer),
        ErrorCode::TRANSACTION_ABORTABLE | ErrorCode::INVALID_TXN_STATE => Fatal(Scope::Transaction),
        // A code newer than this table, if its kind says that it passes.
        other if other.refreshes_metadata() => Ambiguous(Remedy::Metadata),
        other if other.is_retriable() => Ambiguous(Remedy::BackOff),
        _ => Fatal(Scope::Batch),
    }
}

/// The answer was lost: the connection broke, or the time was up. `sent` is whether any byte of the request went out.
#[must_use]
pub fn of_lost_answer(sent: bool) -> Outcome {
    if sent { Outcome::Ambiguous(Remedy::Metadata) } else { Outcome::Retry(Remedy::Metadata) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambiguous_batch_is_never_fatal_and_never_acked() {
        for code in [6, 3, 5, 7, 20, 56, 13, 100] {
            assert!(matches!(of(ErrorCode(code)), Outcome::Ambiguous(_)), "{code}");
        }
    }

    #[test]
    fn what_the_broker_refused_before_appending_is_surely_not_written() {
        for code in [19, 10, 18, 45, 59, 51, 2] {
            assert!(matches!(of(ErrorCode(code)), Outcome::Retry(_)), "{code}");
        }
    }

    #[test]
    fn only_success_and_a_known_repeat_are_acks() {
        let acked: Vec<i16> = (-1..200).filter(|&code| of(ErrorCode(code)) == Outcome::Acked).collect();
        assert_eq!(acked, [0, 46]);
    }

    #[test]
    fn fencing_ends_the_producer_and_an_abortable_error_the_transaction() {
        for code in [47, 90, 49, 52, 53, 31] {
            assert_eq!(of(ErrorCode(code)), Outcome::Fatal(Scope::Producer), "{code}");
        }
        for code in [120, 48] {
            assert_eq!(of(ErrorCode(code)), Outcome::Fatal(Scope::Transaction), "{code}");
        }
        for code in [29, 87, 32, 35, 76, 42, 1234] {
            assert_eq!(of(ErrorCode(code)), Outcome::Fatal(Scope::Batch), "{code}");
        }
    }

    #[test]
    fn every_code_that_kafka_retries_is_retried_here() {
        for &code in ErrorCode::ALL.iter().filter(|code| code.is_retriable()) {
            assert!(matches!(of(code), Outcome::Retry(_) | Outcome::Ambiguous(_)), "{code}");
        }
    }

    #[test]
    fn a_request_that_never_left_is_no_ambiguity() {
        assert_eq!(of_lost_answer(false), Outcome::Retry(Remedy::Metadata));
        assert_eq!(of_lost_answer(true), Outcome::Ambiguous(Remedy::Metadata));
    }
}
