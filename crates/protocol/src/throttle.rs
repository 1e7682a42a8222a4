//! Quotas: how long a broker wants to be left alone after an answer.
//!
//! Brokers before Kafka 2.0 waited themselves before they answered. Since then (KIP-219) they answer at once, in the versions listed here, and
//! read nothing more from the connection until the time is over; a request that is sent meanwhile only grows old.

use std::time::Duration;

use kafka_protocol::messages;

/// The throttle time of a response.
pub(crate) trait Throttled {
    /// What it says, if the version is one in which the client is to wait.
    fn throttle_time(&self, version: i16) -> Duration;
}

macro_rules! since {
    ($($first:literal: $($response:ident)*;)*) => {$($(
        impl Throttled for messages::$response {
            fn throttle_time(&self, version: i16) -> Duration {
                let told = if version >= $first { self.throttle_time_ms } else { 0 };
                Duration::from_millis(u64::try_from(told).unwrap_or(0))
            }
        }
    )*)*};
}

macro_rules! never {
    ($($response:ident)*) => {$(
        impl Throttled for messages::$response {
            fn throttle_time(&self, _version: i16) -> Duration {
                Duration::ZERO
            }
        }
    )*};
}

// What the classes of kafka-clients 4.3.1 answer to `shouldClientThrottle`.
since! {
    6:
        ProduceResponse
        MetadataResponse;
    8:
        FetchResponse;
    3:
        ListOffsetsResponse
        JoinGroupResponse
        CreateTopicsResponse;
    4:
        OffsetCommitResponse
        OffsetFetchResponse;
    2:
        FindCoordinatorResponse
        HeartbeatResponse
        LeaveGroupResponse
        SyncGroupResponse
        DescribeGroupsResponse
        ListGroupsResponse
        ApiVersionsResponse
        DeleteTopicsResponse
        DescribeConfigsResponse;
    1:
        DeleteRecordsResponse
        InitProducerIdResponse
        AddPartitionsToTxnResponse
        AddOffsetsToTxnResponse
        EndTxnResponse
        TxnOffsetCommitResponse
        DescribeAclsResponse
        CreateAclsResponse
        DeleteAclsResponse
        AlterConfigsResponse
        AlterReplicaLogDirsResponse
        DescribeLogDirsResponse
        CreatePartitionsResponse
        CreateDelegationTokenResponse
        RenewDelegationTokenResponse
        ExpireDelegationTokenResponse
        DescribeDelegationTokenResponse
        DeleteGroupsResponse
        ElectLeadersResponse
        IncrementalAlterConfigsResponse
        AlterPartitionReassignmentsResponse
        ListPartitionReassignmentsResponse
        OffsetDeleteResponse
        DescribeUserScramCredentialsResponse
        AlterUserScramCredentialsResponse
        BrokerRegistrationResponse
        BrokerHeartbeatResponse
        UnregisterBrokerResponse
        DescribeTopicPartitionsResponse;
}

// No quota, or no place to tell it.
never! {
    SaslHandshakeResponse
    OffsetForLeaderEpochResponse
    WriteTxnMarkersResponse
    SaslAuthenticateResponse
    DescribeClientQuotasResponse
    AlterClientQuotasResponse
    VoteResponse
    BeginQuorumEpochResponse
    EndQuorumEpochResponse
    DescribeQuorumResponse
    AlterPartitionResponse
    UpdateFeaturesResponse
    EnvelopeResponse
    FetchSnapshotResponse
    DescribeClusterResponse
    DescribeProducersResponse
    DescribeTransactionsResponse
    ListTransactionsResponse
    AllocateProducerIdsResponse
    ConsumerGroupHeartbeatResponse
    ConsumerGroupDescribeResponse
    ControllerRegistrationResponse
    GetTelemetrySubscriptionsResponse
    PushTelemetryResponse
    AssignReplicasToDirsResponse
    ListConfigResourcesResponse
    ShareGroupHeartbeatResponse
    ShareGroupDescribeResponse
    ShareFetchResponse
    ShareAcknowledgeResponse
    AddRaftVoterResponse
    RemoveRaftVoterResponse
    UpdateRaftVoterResponse
    InitializeShareGroupStateResponse
    ReadShareGroupStateResponse
    WriteShareGroupStateResponse
    DeleteShareGroupStateResponse
    ReadShareGroupStateSummaryResponse
    DescribeShareGroupOffsetsResponse
    AlterShareGroupOffsetsResponse
    DeleteShareGroupOffsetsResponse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use messages::{MetadataRequest, MetadataResponse, SaslHandshakeRequest, SaslHandshakeResponse};

    #[test]
    fn only_newer_versions_ask_the_client_to_wait() {
        let response = MetadataResponse::default().with_throttle_time_ms(7);
        assert_eq!(MetadataRequest::throttle_time(&response, 5), Duration::ZERO);
        assert_eq!(MetadataRequest::throttle_time(&response, 6), Duration::from_millis(7));
        assert_eq!(SaslHandshakeRequest::throttle_time(&SaslHandshakeResponse::default(), 1), Duration::ZERO);
        let nonsense = MetadataResponse::default().with_throttle_time_ms(-1);
        assert_eq!(MetadataRequest::throttle_time(&nonsense, 13), Duration::ZERO);
    }
}
