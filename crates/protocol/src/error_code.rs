//! The error codes of the protocol, as of Kafka 4.3.
//!
//! Numbers, names and what may be retried are those of Kafka's protocol guide (`Errors`, `RetriableException`,
//! `InvalidMetadataException`); the texts are ours.

use std::fmt;

/// An error code as it stands in answers; 0 is success.
///
/// Codes that are newer than this crate are kept as they are: they have no name and are not retriable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ErrorCode(pub i16);

/// What a client may do about a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Remedy {
    /// Nothing by itself.
    Fatal,
    /// Ask again.
    Retry,
    /// Ask again after new metadata: the leader may have moved, or the topic is new or gone.
    Metadata,
    /// Ask again after finding the coordinator anew.
    Coordinator,
}

macro_rules! codes {
    ($($name:ident = $number:literal, $remedy:ident, $text:literal;)*) => {
        impl ErrorCode {
            $(
                #[doc = $text]
                pub const $name: Self = Self($number);
            )*

            /// Every code this crate knows by name, in ascending order.
            pub const ALL: &[Self] = &[$(Self($number)),*];

            /// Kafka's name, as `NOT_LEADER_OR_FOLLOWER`; `UNRECOGNIZED` for a code newer than this crate.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)*
                    _ => "UNRECOGNIZED",
                }
            }

            /// One line that says what it means.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "an error this client does not know; the broker is newer",
                }
            }

            const fn remedy(self) -> Remedy {
                match self.0 {
                    $($number => Remedy::$remedy,)*
                    _ => Remedy::Fatal,
                }
            }
        }
    };
}

impl ErrorCode {
    /// True for 0 alone.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// `Err` unless it is 0, for `?`.
    ///
    /// # Errors
    /// The code itself.
    pub const fn ok(self) -> Result<(), Self> {
        if self.is_ok() { Ok(()) } else { Err(self) }
    }

    /// Whether the same request may succeed later (`RetriableException`).
    #[must_use]
    pub const fn is_retriable(self) -> bool {
        !matches!(self.remedy(), Remedy::Fatal)
    }

    /// Whether it says that our view of topics and leaders is old (`InvalidMetadataException`).
    #[must_use]
    pub const fn refreshes_metadata(self) -> bool {
        matches!(self.remedy(), Remedy::Metadata)
    }

    /// Whether it says that the coordinator is another broker, or none right now.
    #[must_use]
    pub const fn refreshes_coordinator(self) -> bool {
        matches!(self.remedy(), Remedy::Coordinator)
    }
}

impl From<i16> for ErrorCode {
    fn from(code: i16) -> Self {
        Self(code)
    }
}

impl From<ErrorCode> for i16 {
    fn from(code: ErrorCode) -> Self {
        code.0
    }
}

impl fmt::Display for ErrorCode {
    /// `NOT_LEADER_OR_FOLLOWER (6): this broker does not lead the partition, or does not host it`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name(), self.0, self.message())
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl std::error::Error for ErrorCode {}

codes! {
    UNKNOWN_SERVER_ERROR = -1, Fatal, "the broker failed unexpectedly; its log says more";
    NONE = 0, Fatal, "no error";
    OFFSET_OUT_OF_RANGE = 1, Fatal, "the offset is outside of what the broker holds of the partition";
    CORRUPT_MESSAGE = 2, Retry, "the record failed its checksum, is too large, lacks the key its compacted topic needs, or is damaged";
    UNKNOWN_TOPIC_OR_PARTITION = 3, Metadata, "this broker does not host the topic or partition";
    INVALID_FETCH_SIZE = 4, Fatal, "the requested fetch size is invalid";
    LEADER_NOT_AVAILABLE = 5, Metadata, "the partition has no leader at the moment: an election is under way";
    NOT_LEADER_OR_FOLLOWER = 6, Metadata, "this broker does not lead the partition, or does not host it";
    REQUEST_TIMED_OUT = 7, Retry, "the broker did not finish the request in time";
    BROKER_NOT_AVAILABLE = 8, Fatal, "the broker is not available";
    REPLICA_NOT_AVAILABLE = 9, Metadata, "the replica is not available for the partition";
    MESSAGE_TOO_LARGE = 10, Fatal, "the batch is larger than the broker or the topic accepts (max.message.bytes)";
    STALE_CONTROLLER_EPOCH = 11, Fatal, "the controller moved to another broker";
    OFFSET_METADATA_TOO_LARGE = 12, Fatal, "the metadata of a committed offset is too long";
    NETWORK_EXCEPTION = 13, Metadata, "the connection broke before an answer came";
    COORDINATOR_LOAD_IN_PROGRESS = 14, Retry, "the coordinator is still loading its state";
    COORDINATOR_NOT_AVAILABLE = 15, Coordinator, "there is no coordinator at the moment";
    NOT_COORDINATOR = 16, Coordinator, "this broker is not the coordinator";
    INVALID_TOPIC_EXCEPTION = 17, Fatal, "the topic's name is illegal, or the topic does not allow the operation";
    RECORD_LIST_TOO_LARGE = 18, Fatal, "the batch is larger than a log segment";
    NOT_ENOUGH_REPLICAS = 19, Retry, "fewer replicas are in sync than min.insync.replicas asks for; nothing was written";
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20, Retry, "written, but to fewer replicas in sync than min.insync.replicas asks for";
    INVALID_REQUIRED_ACKS = 21, Fatal, "acks must be -1, 0 or 1";
    ILLEGAL_GENERATION = 22, Fatal, "the generation is not the group's present one";
    INCONSISTENT_GROUP_PROTOCOL = 23, Fatal, "the member shares no assignment protocol with its group, or names none";
    INVALID_GROUP_ID = 24, Fatal, "the group id is invalid";
    UNKNOWN_MEMBER_ID = 25, Fatal, "the coordinator does not know this member";
    INVALID_SESSION_TIMEOUT = 26, Fatal, "the session timeout is outside of what the broker allows";
    REBALANCE_IN_PROGRESS = 27, Fatal, "the group is rebalancing: join again";
    INVALID_COMMIT_OFFSET_SIZE = 28, Fatal, "the offsets of the commit are too large to be stored";
    TOPIC_AUTHORIZATION_FAILED = 29, Fatal, "not authorized for the topic";
    GROUP_AUTHORIZATION_FAILED = 30, Fatal, "not authorized for the group";
    CLUSTER_AUTHORIZATION_FAILED = 31, Fatal, "not authorized for this operation on the cluster";
    INVALID_TIMESTAMP = 32, Fatal, "the record's timestamp is outside of what the topic accepts";
    UNSUPPORTED_SASL_MECHANISM = 33, Fatal, "the broker does not offer this SASL mechanism";
    ILLEGAL_SASL_STATE = 34, Fatal, "the request does not fit the state of the SASL exchange";
    UNSUPPORTED_VERSION = 35, Fatal, "the broker does not support this version of the request";
    TOPIC_ALREADY_EXISTS = 36, Fatal, "a topic of this name exists already";
    INVALID_PARTITIONS = 37, Fatal, "the number of partitions is invalid";
    INVALID_REPLICATION_FACTOR = 38, Fatal, "the replication factor is below 1 or above the number of brokers";
    INVALID_REPLICA_ASSIGNMENT = 39, Fatal, "the assignment of replicas to brokers is invalid";
    INVALID_CONFIG = 40, Fatal, "a configuration value is invalid";
    NOT_CONTROLLER = 41, Retry, "this broker is not the controller";
    INVALID_REQUEST = 42, Fatal, "the broker calls the request malformed; its log says why";
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43, Fatal, "the topic's record format does not support the request";
    POLICY_VIOLATION = 44, Fatal, "the request breaks a policy of the broker";
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45, Fatal, "the batch's sequence does not follow the last one of this producer";
    DUPLICATE_SEQUENCE_NUMBER = 46, Fatal, "the batch's sequence was written already, too long ago to say at which offset";
    INVALID_PRODUCER_EPOCH = 47, Fatal, "the producer's epoch is not the present one";
    INVALID_TXN_STATE = 48, Fatal, "the transaction's state does not allow the operation";
    INVALID_PRODUCER_ID_MAPPING = 49, Fatal, "the producer id does not belong to the transactional id";
    INVALID_TRANSACTION_TIMEOUT = 50, Fatal, "the transaction timeout is above the broker's transaction.max.timeout.ms";
    CONCURRENT_TRANSACTIONS = 51, Retry, "an earlier operation on the same transaction is still under way";
    TRANSACTION_COORDINATOR_FENCED = 52, Fatal, "a newer transaction coordinator took over";
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53, Fatal, "not authorized for the transactional id";
    SECURITY_DISABLED = 54, Fatal, "the broker has no authorizer";
    OPERATION_NOT_ATTEMPTED = 55, Fatal, "not attempted, because another part of the request failed";
    KAFKA_STORAGE_ERROR = 56, Metadata, "the broker's disk failed";
    LOG_DIR_NOT_FOUND = 57, Fatal, "the broker has no such log directory";
    SASL_AUTHENTICATION_FAILED = 58, Fatal, "authentication failed";
    UNKNOWN_PRODUCER_ID = 59, Fatal, "the broker holds no state of this producer id any more";
    REASSIGNMENT_IN_PROGRESS = 60, Fatal, "a reassignment of the partition is under way";
    DELEGATION_TOKEN_AUTH_DISABLED = 61, Fatal, "delegation tokens are disabled";
    DELEGATION_TOKEN_NOT_FOUND = 62, Fatal, "the broker does not know the delegation token";
    DELEGATION_TOKEN_OWNER_MISMATCH = 63, Fatal, "the principal is neither owner nor renewer of the delegation token";
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED = 64, Fatal, "delegation tokens can't be asked for on this kind of connection";
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65, Fatal, "not authorized for the delegation token";
    DELEGATION_TOKEN_EXPIRED = 66, Fatal, "the delegation token has expired";
    INVALID_PRINCIPAL_TYPE = 67, Fatal, "the kind of principal is not supported";
    NON_EMPTY_GROUP = 68, Fatal, "the group still has members";
    GROUP_ID_NOT_FOUND = 69, Fatal, "there is no such group";
    FETCH_SESSION_ID_NOT_FOUND = 70, Retry, "the broker does not hold the fetch session any more";
    INVALID_FETCH_SESSION_EPOCH = 71, Retry, "the fetch session's epoch is not the expected one";
    LISTENER_NOT_FOUND = 72, Metadata, "the leader has no listener of the name that was used to ask for metadata";
    TOPIC_DELETION_DISABLED = 73, Fatal, "the broker does not delete topics (delete.topic.enable)";
    FENCED_LEADER_EPOCH = 74, Metadata, "the leader epoch asked with is older than the broker's";
    UNKNOWN_LEADER_EPOCH = 75, Retry, "the leader epoch asked with is newer than the broker's";
    UNSUPPORTED_COMPRESSION_TYPE = 76, Fatal, "the version of the request does not allow the partition's compression";
    STALE_BROKER_EPOCH = 77, Fatal, "the broker's epoch has changed";
    OFFSET_NOT_AVAILABLE = 78, Retry, "the new leader's high watermark has not caught up yet";
    MEMBER_ID_REQUIRED = 79, Fatal, "join again with the member id that came with this answer";
    PREFERRED_LEADER_NOT_AVAILABLE = 80, Metadata, "the preferred leader is not available";
    GROUP_MAX_SIZE_REACHED = 81, Fatal, "the group is full";
    FENCED_INSTANCE_ID = 82, Fatal, "another member took over this group.instance.id";
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83, Metadata, "no replica that may lead the partition is available";
    ELECTION_NOT_NEEDED = 84, Metadata, "the partition needs no election";
    NO_REASSIGNMENT_IN_PROGRESS = 85, Fatal, "no reassignment of the partition is under way";
    GROUP_SUBSCRIBED_TO_TOPIC = 86, Fatal, "the group is subscribed to the topic, so its offsets can't be deleted";
    INVALID_RECORD = 87, Fatal, "the broker rejects a record of the batch";
    UNSTABLE_OFFSET_COMMIT = 88, Retry, "a transaction with offsets of the partition is still open";
    THROTTLING_QUOTA_EXCEEDED = 89, Retry, "over the quota";
    PRODUCER_FENCED = 90, Fatal, "a newer producer uses the same transactional id";
    RESOURCE_NOT_FOUND = 91, Fatal, "the resource does not exist";
    DUPLICATE_RESOURCE = 92, Fatal, "the request names a resource twice";
    UNACCEPTABLE_CREDENTIAL = 93, Fatal, "the credential does not meet the broker's demands";
    INCONSISTENT_VOTER_SET = 94, Fatal, "sender or receiver is not one of the expected voters";
    INVALID_UPDATE_VERSION = 95, Fatal, "the version of the update is invalid";
    FEATURE_UPDATE_FAILED = 96, Fatal, "the broker failed to update the features";
    PRINCIPAL_DESERIALIZATION_FAILURE = 97, Fatal, "the controller could not read the principal of a forwarded request";
    SNAPSHOT_NOT_FOUND = 98, Fatal, "the snapshot does not exist";
    POSITION_OUT_OF_RANGE = 99, Fatal, "the position is outside of the snapshot";
    UNKNOWN_TOPIC_ID = 100, Metadata, "this broker does not host a topic of this id";
    DUPLICATE_BROKER_REGISTRATION = 101, Fatal, "the broker's id is in use";
    BROKER_ID_NOT_REGISTERED = 102, Fatal, "no broker of this id is registered";
    INCONSISTENT_TOPIC_ID = 103, Metadata, "the topic's id in the log is not the one of the request";
    INCONSISTENT_CLUSTER_ID = 104, Fatal, "the request is meant for another cluster";
    TRANSACTIONAL_ID_NOT_FOUND = 105, Fatal, "there is no such transactional id";
    FETCH_SESSION_TOPIC_ID_ERROR = 106, Retry, "the fetch session mixes topic ids and names";
    INELIGIBLE_REPLICA = 107, Fatal, "a replica may not be part of the in-sync set";
    NEW_LEADER_ELECTED = 108, Fatal, "the change was made, and the leader is another one now";
    OFFSET_MOVED_TO_TIERED_STORAGE = 109, Fatal, "the offset lies in tiered storage now";
    FENCED_MEMBER_EPOCH = 110, Fatal, "the coordinator fenced the member: give up all partitions and join again";
    UNRELEASED_INSTANCE_ID = 111, Fatal, "another member still holds this group.instance.id";
    UNSUPPORTED_ASSIGNOR = 112, Fatal, "the group does not support the assignor or its version";
    STALE_MEMBER_EPOCH = 113, Fatal, "the member's epoch is old: retry after its next heartbeat";
    MISMATCHED_ENDPOINT_TYPE = 114, Fatal, "the request belongs to another kind of endpoint (broker or controller)";
    UNSUPPORTED_ENDPOINT_TYPE = 115, Fatal, "this kind of endpoint is not supported yet";
    UNKNOWN_CONTROLLER_ID = 116, Fatal, "there is no controller of this id";
    UNKNOWN_SUBSCRIPTION_ID = 117, Fatal, "the telemetry subscription is unknown or old";
    TELEMETRY_TOO_LARGE = 118, Fatal, "the telemetry is larger than the broker accepts";
    INVALID_REGISTRATION = 119, Fatal, "the controller holds the registration to be invalid";
    TRANSACTION_ABORTABLE = 120, Fatal, "the transaction failed; abort it, and the transactional id can go on";
    INVALID_RECORD_STATE = 121, Fatal, "the record's state does not allow its acknowledgement";
    SHARE_SESSION_NOT_FOUND = 122, Retry, "the broker does not hold the share session any more";
    INVALID_SHARE_SESSION_EPOCH = 123, Retry, "the share session's epoch is not the expected one";
    FENCED_STATE_EPOCH = 124, Fatal, "the epoch of the share group's state is not the present one";
    INVALID_VOTER_KEY = 125, Fatal, "the voter's key is not the one of the receiving replica";
    DUPLICATE_VOTER = 126, Fatal, "the voter is one of the voters already";
    VOTER_NOT_FOUND = 127, Fatal, "the voter is not one of the voters";
    INVALID_REGULAR_EXPRESSION = 128, Fatal, "the regular expression is invalid";
    REBOOTSTRAP_REQUIRED = 129, Fatal, "the client's metadata is too old: start again from the bootstrap addresses";
    STREAMS_INVALID_TOPOLOGY = 130, Fatal, "the streams topology is invalid";
    STREAMS_INVALID_TOPOLOGY_EPOCH = 131, Fatal, "the epoch of the streams topology is invalid";
    STREAMS_TOPOLOGY_FENCED = 132, Fatal, "the epoch of the streams topology is old";
    SHARE_SESSION_LIMIT_REACHED = 133, Retry, "the broker holds as many share sessions as it may";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_without_a_gap_and_names_are_unique() {
        let numbers: Vec<i16> = ErrorCode::ALL.iter().map(|code| code.0).collect();
        assert_eq!(numbers, (-1..=133).collect::<Vec<i16>>());
        let names: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    /// An independent list of the same facts. kafka-protocol lags behind in one: error 51 became retriable.
    #[test]
    fn what_may_be_retried_agrees_with_kafka_protocol() {
        for code in ErrorCode::ALL.iter().filter(|code| !code.is_ok()) {
            let theirs = kafka_protocol::ResponseError::try_from_code(code.0).unwrap();
            let expected = theirs.is_retriable() || *code == ErrorCode::CONCURRENT_TRANSACTIONS;
            assert_eq!(code.is_retriable(), expected, "{code}");
            let name = code.name().replace('_', "").to_lowercase();
            assert_eq!(format!("{theirs:?}").to_lowercase(), name);
        }
    }

    #[test]
    fn leader_errors_ask_for_metadata_and_coordinator_errors_for_a_coordinator() {
        assert!(ErrorCode::NOT_LEADER_OR_FOLLOWER.refreshes_metadata());
        assert!(!ErrorCode::NOT_COORDINATOR.refreshes_metadata());
        assert!(ErrorCode::NOT_COORDINATOR.refreshes_coordinator());
        assert!(!ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.refreshes_coordinator());
        assert_eq!(ErrorCode::ALL.iter().filter(|code| code.refreshes_metadata()).count(), 13);
    }

    #[test]
    fn an_unknown_code_stays_what_it_is() {
        let code = ErrorCode(1234);
        assert!(!code.is_ok() && !code.is_retriable());
        assert!(code.to_string().starts_with("UNRECOGNIZED (1234): "));
        assert_eq!(code.ok(), Err(code));
        assert_eq!(
            ErrorCode::NOT_LEADER_OR_FOLLOWER.to_string(),
            "NOT_LEADER_OR_FOLLOWER (6): this broker does not lead the partition, or does not host it"
        );
    }
}
