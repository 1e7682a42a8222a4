//! The connector's error: one boxed struct with a kind that says what to do, and the coordinates of what failed.

use std::fmt;

use milena::{Offset, TopicPartition};

use crate::checkpoint::state::StateError;

/// An error of user code: a deserializer, a serializer, an operator.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of the connector's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's configuration or call is wrong: change it.
    Misuse,
    /// The Kafka client failed; [`Error::client`] has its error.
    Client,
    /// Records that the job still needed are gone, or output that was promised can't be shown to be there. A policy
    /// that accepts the loss must be chosen by name.
    DataLoss,
    /// A topic or partition is missing, was removed, or was re-created under its old name.
    Topic,
    /// User code for a record failed (deserializer, serializer, operator).
    Schema,
    /// A checkpoint can't be read, or doesn't fit the job that restores it.
    State,
    /// Reading or writing checkpoint storage failed.
    Io,
    /// Something took longer than its limit.
    Timeout,
    /// The part was stopped or closed before.
    Closed,
}

impl ErrorKind {
    fn name(self) -> &'static str {
        match self {
            Self::Misuse => "wrong use",
            Self::Client => "Kafka client",
            Self::DataLoss => "data loss",
            Self::Topic => "topic",
            Self::Schema => "record",
            Self::State => "state",
            Self::Io => "storage",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

/// An error of the connector. Small to return; `Display` is one line with the coordinates and the cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    topic_partition: Option<TopicPartition>,
    offset: Option<Offset>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of a kind, with a message that names the remedy.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            topic_partition: None,
            offset: None,
            source: None,
        }))
    }

    /// The same error at a partition.
    #[must_use]
    pub fn with_topic_partition(mut self, topic_partition: TopicPartition) -> Self {
        self.0.topic_partition = Some(topic_partition);
        self
    }

    /// The same error at an offset.
    #[must_use]
    pub fn with_offset(mut self, offset: Offset) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, by what can be done about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message, without coordinates and cause.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The partition it happened at, if it was one.
    #[must_use]
    pub fn topic_partition(&self) -> Option<&TopicPartition> {
        self.0.topic_partition.as_ref()
    }

    /// The offset it happened at, if it was one.
    #[must_use]
    pub fn offset(&self) -> Option<Offset> {
        self.0.offset
    }

    /// The client's error behind this one, if there is one.
    #[must_use]
    pub fn client(&self) -> Option<&milena::Error> {
        self.0.source.as_deref().and_then(|source| source.downcast_ref::<milena::Error>())
    }

    /// Whether the same call may succeed later without any change: only errors of the client that say so themselves.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        self.client().is_some_and(milena::Error::is_retriable)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.name(), self.0.message)?;
        match (&self.0.topic_partition, self.0.offset) {
            (Some(at), Some(offset)) => write!(f, " (at {at}, offset {offset})")?,
            (Some(at), None) => write!(f, " (at {at})")?,
            (None, Some(offset)) => write!(f, " (at offset {offset})")?,
            (None, None) => {}
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<milena::Error> for Error {
    fn from(error: milena::Error) -> Self {
        let kind = match error.kind() {
            milena::ErrorKind::DataLoss => ErrorKind::DataLoss,
            _ => ErrorKind::Client,
        };
        Self::new(kind, "a request failed").with_source(error)
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::new(ErrorKind::State, "the checkpoint can't be read").with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_partition_offset_and_cause() {
        let error = Error::new(ErrorKind::Schema, "not UTF-8")
            .with_topic_partition(TopicPartition::new("orders", 3))
            .with_offset(Offset(17))
            .with_source("byte 4");
        assert_eq!(error.to_string(), "record: not UTF-8 (at orders-3, offset 17): byte 4");
        assert!(std::error::Error::source(&error).is_some());
        assert!(!error.is_retriable());
    }
}
