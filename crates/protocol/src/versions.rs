//! Which versions of which API are spoken: here, by a broker, and by both.
//!
//! A broker's advertised minimum is not always true: Kafka 4.0 to 4.3 advertise Produce 0 and close the connection on
//! anything below 3. So Produce below 3 is negotiated only with brokers that have nothing newer.
//! Presence proves nothing either: 3.7 to 3.9 advertise ConsumerGroupHeartbeat with the new group protocol switched off.

use std::collections::BTreeMap;
use std::fmt;

use kafka_protocol::messages::{self, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::api::Request;
use crate::apis::for_each_api;
use crate::error::{ProtocolError, Result};
use crate::error_code::ErrorCode;
use crate::header::API_VERSIONS;

/// The key of Produce.
const PRODUCE: i16 = 0;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
/// The first version of Produce that carries record batches (0.11), and the first that Kafka 4 serves.
const BATCHES_SINCE: i16 = 3;

/// The versions of one API, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VersionRange {
    /// The lowest version.
    pub min: i16,
    /// The highest version.
    pub max: i16,
}

impl VersionRange {
    /// Whether a version lies within.
    #[must_use]
    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }

    /// What two ranges share; `None` if that is nothing.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (min, max) = (self.min.max(other.min), self.max.min(other.max));
        (min <= max).then_some(Self { min, max })
    }
}

impl fmt::Display for VersionRange {
    /// `3 to 13`, or `3` if it is one version.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// The versions of an API that can be spoken here in both directions ([`Request::VERSIONS`]); `None` for an API of which
/// there are none.
#[must_use]
pub fn supported(api_key: i16) -> Option<VersionRange> {
    macro_rules! ranges {
        ($(($name:ident, $request:ident, $response:ident))*) => {
            match api_key {
                $(<messages::$request as Request>::KEY => Some(<messages::$request as Request>::VERSIONS),)*
                _ => None,
            }
        };
    }
    for_each_api!(ranges)
}

/// What one broker speaks, as it said itself in ApiVersions (KIP-35, KIP-584).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BrokerVersions {
    ranges: BTreeMap<i16, VersionRange>,
    features: BTreeMap<String, i16>,
    features_epoch: Option<i64>,
}

impl BrokerVersions {
    /// What an answer says. Ranges that hold no version are dropped; of an API named twice, the first range counts.
    #[must_use]
    pub fn from_response(response: &ApiVersionsResponse) -> Self {
        let mut versions = Self::default();
        for api in &response.api_keys {
            let range = VersionRange { min: api.min_version.max(0), max: api.max_version };
            if range.min <= range.max {
                versions.ranges.entry(api.api_key).or_insert(range);
            }
        }
        for feature in &response.finalized_features {
            versions.features.entry(feature.name.to_string()).or_insert(feature.max_version_level);
        }
        versions.features_epoch =
            (response.finalized_features_epoch >= 0).then_some(response.finalized_features_epoch);
        versions
    }

    /// The versions the broker offers of an API, as it said; `None` if it does not know the API.
    #[must_use]
    pub fn range(&self, api_key: i16) -> Option<VersionRange> {
        self.ranges.get(&api_key).copied()
    }

    /// The highest version of a request that the broker and this crate both speak.
    ///
    /// Except that OffsetCommit and OffsetFetch are at most 9: version 10 names topics by id alone, so it has to be asked
    /// for with [`negotiate_within`](Self::negotiate_within) by who has ids (see [`newer`](crate::newer)).
    ///
    /// # Errors
    /// Unsupported if there is none; the text names both ranges.
    pub fn negotiate<R: Request>(&self) -> Result<i16> {
        let by_name = matches!(R::KEY, OFFSET_COMMIT | OFFSET_FETCH);
        self.negotiate_within::<R>(0, if by_name { 9 } else { i16::MAX })
    }

    /// As [`negotiate`](Self::negotiate), but only among the versions `min` to `max`, both included.
    ///
    /// # Errors
    /// Unsupported if there is none; the text names all ranges.
    pub fn negotiate_within<R: Request>(&self, min: i16, max: i16) -> Result<i16> {
        let name = api_name(R::KEY);
        let ours = R::VERSIONS;
        let Some(theirs) = self.range(R::KEY) else {
            return Err(ProtocolError::unsupported(format!("the broker does not offer {name}")));
        };
        let asked = VersionRange { min, max };
        let ours = if R::KEY == PRODUCE && theirs.max >= BATCHES_SINCE {
            VersionRange { min: BATCHES_SINCE, ..ours }
        } else {
            ours
        };
        if let Some(both) = ours.intersect(asked).and_then(|range| range.intersect(theirs)) {
            return Ok(both.max);
        }
        let mut text = format!("{name}: the broker speaks version {theirs}, this client {ours}");
        if min != 0 || ours.max > max {
            text.push_str(&format!(", and {asked} is needed"));
        }
        Err(ProtocolError::unsupported(text))
    }

    /// The level at which a feature of the cluster is finalized, as `transaction.version` (KIP-584); `None` if it is not,
    /// or if the broker is older than 2.7.
    #[must_use]
    pub fn finalized_feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }

    /// How new the finalized features are: those of a larger epoch win (KIP-584). `None` if the broker gave none.
    #[must_use]
    pub fn finalized_features_epoch(&self) -> Option<i64> {
        self.features_epoch
    }

    /// Every API the broker offers, by ascending key.
    pub fn iter(&self) -> impl Iterator<Item = (i16, VersionRange)> {
        self.ranges.iter().map(|(key, range)| (*key, *range))
    }
}

/// The question a client asks first on a connection, until it has an answer it can read (KIP-35, KIP-511).
///
/// It starts with the newest version of ApiVersions. A broker that does not know it answers with error 35, in version 0, and
/// says which versions it does know (or, before 2.4, nothing): then it is asked once more, in an older version.
/// What a closed connection or silence means is for the caller to judge: see [`BrokerVersions::assumed_pre_apiversions`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discovery {
    version: i16,
}

/// What an answer to ApiVersions means.
#[derive(Clone, PartialEq, Debug)]
pub enum Discovered {
    /// The broker said what it speaks.
    Versions(BrokerVersions),
    /// It wants to be asked again, in an older version.
    AskAgain(Discovery),
    /// It refused.
    Refused(ErrorCode),
}

impl Default for Discovery {
    fn default() -> Self {
        Self { version: <ApiVersionsRequest as Request>::VERSIONS.max }
    }
}

impl Discovery {
    /// The version to ask in.
    #[must_use]
    pub const fn version(self) -> i16 {
        self.version
    }

    /// The request. Name and version of the client software are for the broker's metrics; brokers refuse (error 42) what
    /// is not letters, digits, dots and hyphens, with a letter or digit first and last.
    #[must_use]
    pub fn request(self, software_name: &str, software_version: &str) -> ApiVersionsRequest {
        let request = ApiVersionsRequest::default();
        if self.version < 3 {
            return request;
        }
        request
            .with_client_software_name(StrBytes::from_string(software_name.to_owned()))
            .with_client_software_version(StrBytes::from_string(software_version.to_owned()))
    }

    /// Judges the answer. Every [`Discovered::AskAgain`] is in a lower version, so this ends.
    #[must_use]
    pub fn handle_response(self, response: &ApiVersionsResponse) -> Discovered {
        let versions = BrokerVersions::from_response(response);
        match ErrorCode(response.error_code) {
            ErrorCode::NONE => Discovered::Versions(versions),
            ErrorCode::UNSUPPORTED_VERSION if self.version > 0 => {
                let theirs = versions.range(API_VERSIONS).map_or(0, |range| range.max);
                Discovered::AskAgain(Self { version: theirs.min(self.version - 1) })
            }
            code => Discovered::Refused(code),
        }
    }
}

/// The name of an API, as `Produce`; `Unknown` for a key that no Kafka up to 4.3 has.
#[must_use]
pub const fn api_name(api_key: i16) -> &'static str {
    match api_key {
        0 => "Produce",
        1 => "Fetch",
        2 => "ListOffsets",
        3 => "Metadata",
        8 => "OffsetCommit",
        9 => "OffsetFetch",
        10 => "FindCoordinator",
        11 => "JoinGroup",
        12 => "Heartbeat",
        13 => "LeaveGroup",
        14 => "SyncGroup",
        15 => "DescribeGroups",
        16 => "ListGroups",
        17 => "SaslHandshake",
        18 => "ApiVersions",
        19 => "CreateTopics",
        20 => "DeleteTopics",
        21 => "DeleteRecords",
        22 => "InitProducerId",
        23 => "OffsetForLeaderEpoch",
        24 => "AddPartitionsToTxn",
        25 => "AddOffsetsToTxn",
        26 => "EndTxn",
        27 => "WriteTxnMarkers",
        28 => "TxnOffsetCommit",
        29 => "DescribeAcls",
        30 => "CreateAcls",
        31 => "DeleteAcls",
        32 => "DescribeConfigs",
        33 => "AlterConfigs",
        34 => "AlterReplicaLogDirs",
        35 => "DescribeLogDirs",
        36 => "SaslAuthenticate",
        37 => "CreatePartitions",
        38 => "CreateDelegationToken",
        39 => "RenewDelegationToken",
        40 => "ExpireDelegationToken",
        41 => "DescribeDelegationToken",
        42 => "DeleteGroups",
        43 => "ElectLeaders",
        44 => "IncrementalAlterConfigs",
        45 => "AlterPartitionReassignments",
        46 => "ListPartitionReassignments",
        47 => "OffsetDelete",
        48 => "DescribeClientQuotas",
        49 => "AlterClientQuotas",
        50 => "DescribeUserScramCredentials",
        51 => "AlterUserScramCredentials",
        52 => "Vote",
        53 => "BeginQuorumEpoch",
        54 => "EndQuorumEpoch",
        55 => "DescribeQuorum",
        56 => "AlterPartition",
        57 => "UpdateFeatures",
        58 => "Envelope",
        59 => "FetchSnapshot",
        60 => "DescribeCluster",
        61 => "DescribeProducers",
        62 => "BrokerRegistration",
        63 => "BrokerHeartbeat",
        64 => "UnregisterBroker",
        65 => "DescribeTransactions",
        66 => "ListTransactions",
        67 => "AllocateProducerIds",
        68 => "ConsumerGroupHeartbeat",
        69 => "ConsumerGroupDescribe",
        70 => "ControllerRegistration",
        71 => "GetTelemetrySubscriptions",
        72 => "PushTelemetry",
        73 => "AssignReplicasToDirs",
        74 => "ListConfigResources",
        75 => "DescribeTopicPartitions",
        76 => "ShareGroupHeartbeat",
        77 => "ShareGroupDescribe",
        78 => "ShareFetch",
        79 => "ShareAcknowledge",
        80 => "AddRaftVoter",
        81 => "RemoveRaftVoter",
        82 => "UpdateRaftVoter",
        83 => "InitializeShareGroupState",
        84 => "ReadShareGroupState",
        85 => "WriteShareGroupState",
        86 => "DeleteShareGroupState",
        87 => "ReadShareGroupStateSummary",
        90 => "DescribeShareGroupOffsets",
        91 => "AlterShareGroupOffsets",
        92 => "DeleteShareGroupOffsets",
        4 => "LeaderAndIsr",
        5 => "StopReplica",
        6 => "UpdateMetadata",
        7 => "ControlledShutdown",
        88 => "StreamsGroupHeartbeat",
        89 => "StreamsGroupDescribe",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey};
    use kafka_protocol::messages::{
        FetchRequest, InitProducerIdRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
        ProduceRequest,
    };

    fn broker(ranges: &[(i16, i16, i16)]) -> BrokerVersions {
        let api_keys = ranges
            .iter()
            .map(|&(key, min, max)| {
                ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
            })
            .collect();
        BrokerVersions::from_response(&ApiVersionsResponse::default().with_api_keys(api_keys))
    }

    #[test]
    fn kafka_4_advertises_produce_0_and_gets_at_least_3() {
        assert_eq!(broker(&[(0, 0, 13)]).negotiate::<ProduceRequest>().unwrap(), 13);
        assert_eq!(broker(&[(0, 0, 13)]).negotiate_within::<ProduceRequest>(0, 3).unwrap(), 3);
        let error = broker(&[(0, 0, 13)]).negotiate_within::<ProduceRequest>(0, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "Produce: the broker speaks version 0 to 13, this client 3 to 13, and 0 to 2 is needed"
        );
        assert_eq!(broker(&[(0, 0, 3)]).negotiate::<ProduceRequest>().unwrap(), 3);
        assert_eq!(broker(&[(0, 0, 2)]).negotiate::<ProduceRequest>().unwrap(), 2);
        assert_eq!(broker(&[(1, 0, 3)]).negotiate::<FetchRequest>().unwrap(), 3);
    }

    #[test]
    fn versions_whose_requests_cannot_be_written_are_never_chosen() {
        let newest = broker(&[(8, 2, 10), (9, 1, 10), (22, 0, 6)]);
        assert_eq!(newest.negotiate::<OffsetCommitRequest>().unwrap(), 9);
        assert_eq!(newest.negotiate::<OffsetFetchRequest>().unwrap(), 9);
        assert_eq!(newest.negotiate::<InitProducerIdRequest>().unwrap(), 5);
    }

    #[test]
    fn an_api_the_broker_lacks_is_an_error_that_names_it() {
        let error = broker(&[]).negotiate::<MetadataRequest>().unwrap_err();
        assert_eq!(error.to_string(), "the broker does not offer Metadata");
    }

    #[test]
    fn nonsense_in_an_answer_is_dropped() {
        let odd = broker(&[(3, 5, 4), (0, -7, 9), (1, 0, 11), (1, 0, 2), (2, -9, -1)]);
        assert_eq!(odd.range(3), None);
        assert_eq!(odd.range(2), None);
        assert_eq!(odd.range(0), Some(VersionRange { min: 0, max: 9 }));
        assert_eq!(odd.range(1), Some(VersionRange { min: 0, max: 11 }));
        assert_eq!(odd.iter().map(|(key, _)| key).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn features_are_those_that_are_finalized() {
        let feature = FinalizedFeatureKey::default()
            .with_name(StrBytes::from_static_str("transaction.version"))
            .with_max_version_level(2);
        let response = ApiVersionsResponse::default()
            .with_finalized_features(vec![feature])
            .with_finalized_features_epoch(8);
        let versions = BrokerVersions::from_response(&response);
        assert_eq!(versions.finalized_feature("transaction.version"), Some(2));
        assert_eq!(versions.finalized_feature("group.version"), None);
        assert_eq!(versions.finalized_features_epoch(), Some(8));
        assert_eq!(broker(&[]).finalized_features_epoch(), None);
    }

    #[test]
    fn discovery_descends_to_what_the_broker_knows_and_ends() {
        let refusal = |ranges: Vec<ApiVersion>| {
            ApiVersionsResponse::default().with_error_code(35).with_api_keys(ranges)
        };
        let first = Discovery::default();
        assert_eq!(first.version(), 4);
        let knows = |max| ApiVersion::default().with_api_key(18).with_max_version(max);
        let Discovered::AskAgain(second) = first.handle_response(&refusal(vec![knows(3)])) else { panic!() };
        assert_eq!(second.version(), 3);
        let Discovered::AskAgain(oldest) = first.handle_response(&refusal(vec![])) else { panic!() };
        assert_eq!(oldest.version(), 0);
        assert_eq!(oldest.request("milena", "0.1.0"), ApiVersionsRequest::default());
        let end = oldest.handle_response(&refusal(vec![]));
        assert_eq!(end, Discovered::Refused(ErrorCode::UNSUPPORTED_VERSION));
        let mut stubborn = first;
        for _ in 0..4 {
            let Discovered::AskAgain(next) = stubborn.handle_response(&refusal(vec![knows(99)])) else {
                panic!()
            };
            assert!(next.version() < stubborn.version());
            stubborn = next;
        }
    }

    #[test]
    fn names_are_those_of_kafka_protocol() {
        for api in messages::ApiKey::iter() {
            assert_eq!(api_name(api as i16), format!("{api:?}"));
            assert!(supported(api as i16).is_some(), "{api:?}");
        }
        assert_eq!(api_name(88), "StreamsGroupHeartbeat");
        assert_eq!((api_name(9999), supported(9999)), ("Unknown", None));
    }
}
