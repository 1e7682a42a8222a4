//! What an embedded broker is started with.

use std::collections::BTreeMap;
use std::time::Duration;

use milena_protocol::versions::BrokerVersions;

/// The level of the finalized feature `transaction.version` (KIP-890).
///
/// It only decides what ApiVersions announces. As on Kafka, the client chooses the generation by the versions it
/// sends: EndTxn 5 and Produce 12 behave as V2 on a V1 broker as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransactionVersion {
    /// Partitions are added by AddPartitionsToTxn, and the epoch stays when a transaction ends.
    V1,
    /// Produce adds partitions implicitly, and each end of a transaction bumps the epoch. Kafka 4's default.
    #[default]
    V2,
}

impl TransactionVersion {
    /// The level as ApiVersions announces it: 1 or 2.
    #[must_use]
    pub fn level(self) -> i16 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// Settings of an embedded broker. Times are durations; sizes are bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct BrokerConfig {
    /// `node.id`. Default 1.
    pub node_id: i32,
    /// How many nodes there are, with ids from `node_id` on and ports from `port` on. They share their logs; each leads the partitions
    /// whose number it is, until a leader is moved. Only a broker without a socket can have more than one. Default 1.
    pub nodes: i32,
    /// How long it takes until followers have what was appended: so long a Produce with acks -1 waits, and what is younger is lost when the
    /// partition gets another leader. Default zero: nothing waits and nothing is lost.
    pub replication_lag: Duration,
    /// The host that Metadata and FindCoordinator announce; an IP address is also what is listened on. Default
    /// `127.0.0.1`.
    pub host: String,
    /// The port that is announced, and listened on over TCP; 0 (the default) takes a free one.
    pub port: u16,
    /// `broker.rack`, if any. Default none.
    pub rack: Option<String>,
    /// `auto.create.topics.enable`. Default true.
    pub auto_create_topics: bool,
    /// `num.partitions`: what auto-creation and CreateTopics with -1 give. Default 1.
    pub default_partitions: i32,
    /// Topics that exist from the start, with their number of partitions. Default none.
    pub topics: Vec<(String, i32)>,
    /// `message.max.bytes`: the largest batch a topic takes, unless it sets `max.message.bytes`. Default 1,048,588.
    pub max_message_bytes: usize,
    /// What ApiVersions announces as `transaction.version`. Default V2.
    pub transaction_version: TransactionVersion,
    /// `transaction.max.timeout.ms`. Default 15 minutes.
    pub max_transaction_timeout: Duration,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`: how often expired transactions are looked for.
    /// Default 10 seconds.
    pub transaction_check_interval: Duration,
    /// How long after EndTxn the markers are written. In this window the coordinator is in a Prepare state and answers
    /// CONCURRENT_TRANSACTIONS. Default zero: markers are written before EndTxn is answered.
    pub marker_delay: Duration,
    /// Refuse a batch of an unknown producer id that does not start at sequence 0 with UNKNOWN_PRODUCER_ID, as
    /// Kafka before 2.5 did (KIP-360). Default false: it is accepted.
    pub strict_unknown_producer: bool,
    /// Decode every record of every produced batch and refuse what is malformed, as Kafka does. Default true.
    pub validate_records: bool,
    /// End a Fetch answer with a cut batch when its byte limit falls inside of one, as Kafka does. Default true.
    pub partial_batches: bool,
    /// Highest version announced and accepted by API key, to look like an older broker: `(26, 4)` is a broker without
    /// EndTxn 5. A negative version removes the API. Default none.
    pub version_limits: BTreeMap<i16, i16>,
    /// What the broker speaks as an older release; set by [`as_release`](Self::as_release). Default none: all of Kafka 4.1 that
    /// it knows.
    pub versions: Option<BrokerVersions>,
    /// Wall clock at the broker's start, in milliseconds since 1970. Default 1,767,225,600,000 (2026-01-01); a broker that
    /// listens takes the real time when it is this default.
    pub start_time_ms: i64,
    /// Seed of topic ids, of the cluster id and of the first producer id. Default 1.
    pub seed: u64,
}

/// The default of [`BrokerConfig::start_time_ms`].
pub const DEFAULT_START_TIME_MS: i64 = 1_767_225_600_000;

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node_id: 1,
            nodes: 1,
            replication_lag: Duration::ZERO,
            host: "127.0.0.1".to_owned(),
            port: 0,
            rack: None,
            auto_create_topics: true,
            default_partitions: 1,
            topics: Vec::new(),
            max_message_bytes: 1_048_588,
            transaction_version: TransactionVersion::V2,
            max_transaction_timeout: Duration::from_secs(15 * 60),
            transaction_check_interval: Duration::from_secs(10),
            marker_delay: Duration::ZERO,
            strict_unknown_producer: false,
            validate_records: true,
            partial_batches: true,
            version_limits: BTreeMap::new(),
            versions: None,
            start_time_ms: DEFAULT_START_TIME_MS,
            seed: 1,
        }
    }
}

impl BrokerConfig {
    /// Adds a topic that exists from the start.
    #[must_use]
    pub fn with_topic(mut self, name: impl Into<String>, partitions: i32) -> Self {
        self.topics.push((name.into(), partitions));
        self
    }

    /// Sets what ApiVersions announces as `transaction.version`.
    #[must_use]
    pub fn with_transaction_version(mut self, version: TransactionVersion) -> Self {
        self.transaction_version = version;
        self
    }

    /// Caps an API at a version, to look like an older broker. See [`version_limits`](Self::version_limits).
    #[must_use]
    pub fn with_version_limit(mut self, api_key: i16, max: i16) -> Self {
        self.version_limits.insert(api_key, max);
        self
    }
}
