//! The error of this crate: one boxed struct with a kind, its context and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::error::{ErrorKind as ProtocolErrorKind, ProtocolError};
use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::{PartitionId, TopicPartition};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as it decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The broker refused, with this code.
    Broker(ErrorCode),
    /// The peer answered nonsense: bytes that do not decode, an answer to another question.
    Peer,
    /// The connection could not be made or was lost.
    Io,
    /// Who we are was refused, or who the broker is could not be verified: SASL, certificates, or a listener of another
    /// security protocol.
    Auth,
    /// Nothing happened for too long.
    Timeout,
    /// The call or the configuration is wrong; trying again changes nothing.
    Misuse,
    /// A bounded buffer has no room now.
    Full,
    /// The client (or producer) was closed.
    Closed,
    /// Records that were there are gone, or may be.
    DataLoss,
    /// The broker cannot do this: its version is too old, or the feature is off.
    Unsupported,
}

/// What went wrong, where, and what to do. Cheap to clone.
#[derive(Clone)]
pub struct Error(Box<Fault>);

#[derive(Clone)]
struct Fault {
    kind: ErrorKind,
    message: Cow<'static, str>,
    remedy: Option<Cow<'static, str>>,
    broker: Option<Arc<str>>,
    api: Option<&'static str>,
    subject: Option<Arc<str>>,
    topic: Option<Arc<str>>,
    partition: Option<PartitionId>,
    attempts: u32,
    elapsed: Option<Duration>,
    maybe_applied: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind with a message that stands for itself.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Fault {
            kind,
            message: message.into(),
            remedy: None,
            broker: None,
            api: None,
            subject: None,
            topic: None,
            partition: None,
            attempts: 1,
            elapsed: None,
            maybe_applied: false,
            source: None,
        }))
    }

    /// The broker refused with `code`; `text` is what it added, if anything.
    #[must_use]
    pub fn broker_code(code: ErrorCode, text: Option<&str>) -> Self {
        let message = match text.filter(|text| !text.is_empty()) {
            Some(text) => format!("{code}; the broker says: {text}"),
            None => code.to_string(),
        };
        let mut error = Self::new(ErrorKind::Broker(code), message);
        error.0.remedy = remedy(code).map(Cow::Borrowed);
        error
    }

    /// The caller did something wrong.
    #[must_use]
    pub fn misuse(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Misuse, message)
    }

    /// The peer answered nonsense.
    #[must_use]
    pub fn peer(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Peer, message)
    }

    /// The client is closed.
    #[must_use]
    pub fn closed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Closed, message)
    }

    /// Names the broker, such as "broker 1 at localhost:9092". The first name stays.
    #[must_use]
    pub fn with_broker(mut self, broker: impl Into<Arc<str>>) -> Self {
        if self.0.broker.is_none() {
            self.0.broker = Some(broker.into());
        }
        self
    }

    /// Names the API, such as "Fetch". The first name stays.
    #[must_use]
    pub fn with_api(mut self, api: &'static str) -> Self {
        let api = *self.0.api.get_or_insert(api);
        if let ErrorKind::Broker(code) = self.0.kind
            && let Some((operation, resource)) = denied(code, api)
        {
            self.0.remedy = Some(Cow::Owned(format!("grant this principal {operation} on the {resource}")));
        }
        self
    }

    /// Names what it was about, such as `group "g"`.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<Arc<str>>) -> Self {
        self.0.subject = Some(subject.into());
        self
    }

    /// Names the topic.
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<Arc<str>>) -> Self {
        self.0.topic = Some(topic.into());
        self
    }

    /// Names the topic and the partition.
    #[must_use]
    pub fn with_topic_partition(mut self, tp: &TopicPartition) -> Self {
        self.0.topic = Some(Arc::clone(&tp.topic));
        self.0.partition = Some(tp.partition);
        self
    }

    /// Says how often and for how long it was tried.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32, elapsed: Duration) -> Self {
        self.0.attempts = attempts;
        self.0.elapsed = Some(elapsed);
        self
    }

    /// Says what the user can do.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Keeps what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Says that the request may have been carried out although no answer came.
    #[must_use]
    pub fn with_maybe_applied(mut self, maybe: bool) -> Self {
        self.0.maybe_applied = maybe;
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The broker's code, when the broker refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self.0.kind {
            ErrorKind::Broker(code) => Some(code),
            _ => None,
        }
    }

    /// The message without context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the user can do, when there is something.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The broker it happened with.
    #[must_use]
    pub fn broker(&self) -> Option<&str> {
        self.0.broker.as_deref()
    }

    /// The API that was called.
    #[must_use]
    pub fn api(&self) -> Option<&'static str> {
        self.0.api
    }

    /// The topic it happened with.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.0.topic.as_deref()
    }

    /// The partition it happened with.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        self.0.partition
    }

    /// How often it was tried.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// For how long it was tried.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.elapsed
    }

    /// Whether the request may have been carried out although no answer came: it was sent, at least in
    /// part, and the connection was lost or the time was up. `false` when it surely was not, or was answered.
    #[must_use]
    pub fn maybe_applied(&self) -> bool {
        self.0.maybe_applied
    }

    /// Whether the same call can succeed later without a change by the user.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Broker(code) => code.is_retriable(),
            ErrorKind::Io | ErrorKind::Timeout | ErrorKind::Full => true,
            _ => false,
        }
    }
}

/// The operation that a principal lacks when a broker denies a request, and what on. From the protocol page and
/// Kafka's `KafkaApis`; where one request needs several operations on a resource, the code alone does not tell which.
fn denied(code: ErrorCode, api: &str) -> Option<(&'static str, &'static str)> {
    Some(match (code, api) {
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "Produce" | "AddPartitionsToTxn") => ("WRITE", "topic"),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "Fetch" | "OffsetCommit" | "TxnOffsetCommit") => {
            ("READ", "topic")
        }
        (
            ErrorCode::TOPIC_AUTHORIZATION_FAILED,
            "Metadata" | "ListOffsets" | "OffsetFetch" | "OffsetForLeaderEpoch",
        ) => ("DESCRIBE", "topic"),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "CreateTopics") => ("CREATE", "topic, or on the cluster"),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "DeleteTopics") => ("DELETE", "topic"),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "CreatePartitions") => ("ALTER", "topic"),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "DescribeProducers") => ("READ", "topic"),
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "DescribeConfigs") => ("DESCRIBE_CONFIGS", "topic"),
        (ErrorCode::GROUP_AUTHORIZATION_FAILED, "OffsetFetch" | "FindCoordinator" | "DescribeGroups") => {
            ("DESCRIBE", "group")
        }
        (ErrorCode::GROUP_AUTHORIZATION_FAILED, "DeleteGroups") => ("DELETE", "group"),
        (ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "FindCoordinator" | "DescribeTransactions") => {
            ("DESCRIBE", "transactional id")
        }
        (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "InitProducerId") => {
            ("IDEMPOTENT_WRITE on the cluster, or WRITE", "topic")
        }
        // Before 2.0 no topic can be named here.
        (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "CreateTopics") => ("CREATE", "cluster"),
        (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, "WriteTxnMarkers") => ("CLUSTER_ACTION", "cluster"),
        _ => return None,
    })
}

/// What a user can do about a code that waiting does not cure.
fn remedy(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::TOPIC_AUTHORIZATION_FAILED => "grant this principal access to the topic",
        ErrorCode::GROUP_AUTHORIZATION_FAILED => "grant this principal READ on the group",
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED => "grant this principal the operation on the cluster",
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
            "grant this principal WRITE and DESCRIBE on the transactional id"
        }
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => "check the topic's name and its partitions, or create it",
        ErrorCode::OFFSET_OUT_OF_RANGE => "choose a start between the log's start and its end (list_offsets)",
        ErrorCode::UNSUPPORTED_VERSION => "use a newer broker, or turn the feature off",
        ErrorCode::INVALID_TRANSACTION_TIMEOUT => {
            "use a transaction timeout up to the broker's transaction.max.timeout.ms"
        }
        ErrorCode::INVALID_REPLICATION_FACTOR => "use a replication factor up to the number of brokers",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = &*self.0;
        let mut context = String::new();
        if let Some(api) = fault.api {
            context.push_str(api);
        }
        if let Some(broker) = &fault.broker {
            if !context.is_empty() {
                context.push_str(" to ");
            }
            context.push_str(broker);
        }
        if let Some(subject) = &fault.subject {
            if !context.is_empty() {
                context.push_str(", ");
            }
            context.push_str(subject);
        }
        if let Some(topic) = &fault.topic {
            if !context.is_empty() {
                context.push_str(", ");
            }
            context.push_str(topic);
            if let Some(partition) = fault.partition {
                context.push_str(&format!("-{partition}"));
            }
        }
        if !context.is_empty() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&fault.message)?;
        match (fault.attempts, fault.elapsed) {
            (attempts, Some(elapsed)) if attempts > 1 => write!(f, " ({attempts} tries in {elapsed:.1?})")?,
            (_, Some(elapsed)) => write!(f, " (after {elapsed:.1?})")?,
            _ => {}
        }
        if fault.maybe_applied {
            f.write_str("; it may have been carried out")?;
        }
        if let Some(remedy) = &fault.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl Error {
    /// Records that cannot be decompressed or read.
    pub(crate) fn unreadable(error: ProtocolError) -> Self {
        let text = why_unreadable(&error);
        let mut error = Self::from(error);
        error.0.message = text.into();
        error
    }
}

/// Why records cannot be decompressed or read, with the setting that may be in the way.
pub(crate) fn why_unreadable(error: &ProtocolError) -> String {
    match error.kind() {
        ProtocolErrorKind::TooLarge => {
            format!("{error}, which max_batch_bytes (fetch.max.batch.bytes) sets")
        }
        _ => error.to_string(),
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        let kind = match error.kind() {
            ProtocolErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Peer,
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(ErrorKind::Io, error.to_string()).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_context_and_remedy() {
        let error = Error::broker_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, None)
            .with_broker("broker 1 at localhost:9092")
            .with_api("Fetch")
            .with_topic_partition(&TopicPartition::new("orders", PartitionId(3)))
            .with_attempts(4, Duration::from_millis(1500));
        let text = error.to_string();
        assert!(
            text.starts_with("Fetch to broker 1 at localhost:9092, orders-3: UNKNOWN_TOPIC_OR_PARTITION (3)"),
            "{text}"
        );
        assert!(text.contains("(4 tries in 1.5s)"), "{text}");
        assert!(text.ends_with("check the topic's name and its partitions, or create it"), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn the_first_context_stays() {
        let error = Error::peer("x").with_broker("a").with_broker("b").with_api("Fetch").with_api("Metadata");
        assert_eq!((error.broker(), error.api()), (Some("a"), Some("Fetch")));
    }

    #[test]
    fn io_and_timeouts_are_retriable_and_misuse_is_not() {
        assert!(Error::from(io::Error::other("x")).is_retriable());
        assert!(Error::new(ErrorKind::Timeout, "x").is_retriable());
        assert!(!Error::misuse("x").is_retriable());
        assert!(Error::broker_code(ErrorCode::NOT_LEADER_OR_FOLLOWER, None).is_retriable());
        assert!(!Error::broker_code(ErrorCode::TOPIC_AUTHORIZATION_FAILED, None).is_retriable());
    }
}
