//! What happens to a single record that can't be written, and what is told about those that were.

use std::fmt;
use std::sync::Arc;

use milena::RecordMetadata;
use milena::protocol::error_code::ErrorCode;

/// What to do with a record that can never be written: its serializer fails, it is too large, its topic or partition does not exist, the
/// broker refuses its contents. A broker that is away, a fenced producer and the like are no matter of a record, and always fail the
/// job.
///
/// In transactions only what is known before a record is sent can be passed over; what the broker refuses fails the transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnRecordError {
    /// The job fails. The default.
    #[default]
    Fail,
    /// The record is left out, and counted.
    Drop,
    /// It is written to this topic instead, and counted: with the key, value and headers it has, and headers that say why, see
    /// [`DEAD_LETTER_HEADERS`]. If that fails, so does the job.
    DeadLetter {
        /// The topic.
        topic: Arc<str>,
    },
}

impl OnRecordError {
    /// To this topic instead.
    pub fn dead_letter(topic: impl Into<Arc<str>>) -> Self {
        Self::DeadLetter { topic: topic.into() }
    }
}

/// The headers of a dead letter, behind its own: the topic it was meant for (empty if there was none), the subtask, the error.
pub const DEAD_LETTER_HEADERS: [&str; 3] = ["dlq.sink.topic", "dlq.sink.subtask", "dlq.sink.error"];

/// Whether an error is about the record and not about the way to the broker.
pub(crate) fn is_about_the_record(error: &milena::Error) -> bool {
    match error.kind() {
        milena::ErrorKind::Misuse => true,
        milena::ErrorKind::Broker(code) => matches!(
            code,
            ErrorCode::MESSAGE_TOO_LARGE
                | ErrorCode::RECORD_LIST_TOO_LARGE
                | ErrorCode::INVALID_RECORD
                | ErrorCode::INVALID_TIMESTAMP
                | ErrorCode::CORRUPT_MESSAGE
                | ErrorCode::INVALID_TOPIC_EXCEPTION
                | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        ),
        _ => false,
    }
}

/// Called for each record that is in the log, in the order a subtask sent them: with exactly once it becomes visible when its transaction
/// is committed. Must not block.
pub type OnWritten = Arc<dyn Fn(&RecordMetadata) + Send + Sync>;

/// An [`OnWritten`] that can be shown.
#[derive(Clone, Default)]
pub struct Written(pub(crate) Option<OnWritten>);

impl Written {
    pub(crate) fn tell(&self, metadata: &RecordMetadata) {
        if let Some(callback) = &self.0 {
            callback(metadata);
        }
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some(..)" } else { "None" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_or_a_lost_connection_is_no_matter_of_a_record() {
        let broker = |code| milena::Error::new(milena::ErrorKind::Broker(code), "refused");
        assert!(is_about_the_record(&broker(ErrorCode::MESSAGE_TOO_LARGE)));
        assert!(!is_about_the_record(&broker(ErrorCode::PRODUCER_FENCED)));
        assert!(!is_about_the_record(&broker(ErrorCode::NOT_ENOUGH_REPLICAS)));
        assert!(!is_about_the_record(&milena::Error::new(milena::ErrorKind::Timeout, "late")));
    }
}
