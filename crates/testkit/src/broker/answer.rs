//! Refusals: an answer to any request with one error in every place it has.

use milena_protocol::ErrorCode;
use milena_protocol::messages::{self, RequestKind, ResponseKind};

use messages::{
    add_partitions_to_txn_response as add_partitions, create_partitions_response as create_partitions,
    create_topics_response as create_topics, delete_records_response as delete_records,
    delete_topics_response as delete_topics, describe_configs_response as describe_configs,
    describe_producers_response as describe_producers,
    describe_transactions_response as describe_transactions, fetch_response as fetch,
    find_coordinator_response as find_coordinator, list_offsets_response as list_offsets,
    metadata_response as metadata, offset_commit_response as offset_commit,
    offset_fetch_response as offset_fetch, offset_for_leader_epoch_response as leader_epoch,
    produce_response as produce, txn_offset_commit_response as txn_offset_commit,
    write_txn_markers_response as markers,
};

/// The answer with a throttle time, if it has a place for one here. `begins`: whether it is a Fetch outside of a session.
pub(super) fn throttle(mut response: ResponseKind, time: std::time::Duration, begins: bool) -> ResponseKind {
    let time = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    match &mut response {
        ResponseKind::Produce(response) => response.throttle_time_ms = time,
        ResponseKind::Fetch(response) => {
            // A broker that holds a reader back brings nothing, and begins no session.
            response.throttle_time_ms = time;
            response.responses.clear();
            if begins {
                response.session_id = 0;
            }
        }
        ResponseKind::Metadata(response) => response.throttle_time_ms = time,
        ResponseKind::ListOffsets(response) => response.throttle_time_ms = time,
        ResponseKind::OffsetCommit(response) => response.throttle_time_ms = time,
        ResponseKind::OffsetFetch(response) => response.throttle_time_ms = time,
        ResponseKind::FindCoordinator(response) => response.throttle_time_ms = time,
        ResponseKind::InitProducerId(response) => response.throttle_time_ms = time,
        ResponseKind::AddPartitionsToTxn(response) => response.throttle_time_ms = time,
        ResponseKind::EndTxn(response) => response.throttle_time_ms = time,
        ResponseKind::CreateTopics(response) => response.throttle_time_ms = time,
        _ => {}
    }
    response
}

/// The answer to a request that fails with one error; `None` if the API has no answer here.
pub(super) fn refuse(kind: &RequestKind, version: i16, error: ErrorCode) -> Option<ResponseKind> {
    let code = error.0;
    Some(match kind {
        RequestKind::ApiVersions(_) => messages::ApiVersionsResponse::default().with_error_code(code).into(),
        RequestKind::Metadata(request) => refuse_metadata(request, code),
        RequestKind::Produce(request) => refuse_produce(request, version, code),
        RequestKind::Fetch(request) => refuse_fetch(request, version, code),
        RequestKind::ListOffsets(request) => refuse_list_offsets(request, code),
        RequestKind::CreateTopics(request) => {
            let topics = request.topics.iter().map(|topic| {
                create_topics::CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(code)
            });
            messages::CreateTopicsResponse::default().with_topics(topics.collect()).into()
        }
        RequestKind::DeleteTopics(request) => refuse_delete_topics(request, code),
        RequestKind::CreatePartitions(request) => {
            let topics = request.topics.iter().map(|topic| {
                create_partitions::CreatePartitionsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(code)
            });
            messages::CreatePartitionsResponse::default().with_results(topics.collect()).into()
        }
        RequestKind::DeleteRecords(request) => refuse_delete_records(request, code),
        RequestKind::OffsetForLeaderEpoch(request) => refuse_leader_epoch(request, code),
        RequestKind::DescribeConfigs(request) => {
            let results = request.resources.iter().map(|resource| {
                describe_configs::DescribeConfigsResult::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
            });
            messages::DescribeConfigsResponse::default().with_results(results.collect()).into()
        }
        RequestKind::DescribeCluster(_) => {
            messages::DescribeClusterResponse::default().with_error_code(code).into()
        }
        RequestKind::ListGroups(_) => messages::ListGroupsResponse::default().with_error_code(code).into(),
        RequestKind::OffsetCommit(request) => refuse_offset_commit(request, code),
        RequestKind::OffsetFetch(request) => refuse_offset_fetch(request, version, code),
        other => return refuse_transactional(other, version, code),
    })
}

fn refuse_transactional(kind: &RequestKind, version: i16, code: i16) -> Option<ResponseKind> {
    Some(match kind {
        RequestKind::FindCoordinator(request) => refuse_find_coordinator(request, version, code),
        RequestKind::InitProducerId(_) => messages::InitProducerIdResponse::default()
            .with_error_code(code)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1)
            .into(),
        RequestKind::AddPartitionsToTxn(request) => refuse_add_partitions(request, version, code),
        RequestKind::AddOffsetsToTxn(_) => {
            messages::AddOffsetsToTxnResponse::default().with_error_code(code).into()
        }
        RequestKind::EndTxn(_) => messages::EndTxnResponse::default().with_error_code(code).into(),
        RequestKind::TxnOffsetCommit(request) => refuse_txn_offset_commit(request, code),
        RequestKind::WriteTxnMarkers(request) => refuse_markers(request, code),
        RequestKind::DescribeTransactions(request) => {
            let states = request.transactional_ids.iter().map(|id| {
                describe_transactions::TransactionState::default()
                    .with_transactional_id(id.clone())
                    .with_error_code(code)
            });
            messages::DescribeTransactionsResponse::default().with_transaction_states(states.collect()).into()
        }
        RequestKind::ListTransactions(_) => {
            messages::ListTransactionsResponse::default().with_error_code(code).into()
        }
        RequestKind::DescribeProducers(request) => refuse_describe_producers(request, code),
        _ => return None,
    })
}

fn refuse_metadata(request: &messages::MetadataRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().flatten().map(|topic| {
        metadata::MetadataResponseTopic::default()
            .with_name(Some(topic.name.clone().unwrap_or_default()))
            .with_topic_id(topic.topic_id)
            .with_error_code(code)
    });
    messages::MetadataResponse::default().with_topics(topics.collect()).with_error_code(code).into()
}

fn refuse_produce(request: &messages::ProduceRequest, version: i16, code: i16) -> ResponseKind {
    let topics = request.topic_data.iter().map(|topic| {
        let partitions = topic.partition_data.iter().map(|partition| {
            produce::PartitionProduceResponse::default()
                .with_index(partition.index)
                .with_error_code(code)
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
        });
        let answer = produce::TopicProduceResponse::default().with_partition_responses(partitions.collect());
        match version {
            13.. => answer.with_topic_id(topic.topic_id),
            _ => answer.with_name(topic.name.clone()),
        }
    });
    messages::ProduceResponse::default().with_responses(topics.collect()).into()
}

fn refuse_fetch(request: &messages::FetchRequest, version: i16, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            fetch::PartitionData::default()
                .with_partition_index(partition.partition)
                .with_error_code(code)
                .with_aborted_transactions(None)
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1)
                .with_records(Some(bytes::Bytes::new()))
        });
        let answer = fetch::FetchableTopicResponse::default().with_partitions(partitions.collect());
        match version {
            13.. => answer.with_topic_id(topic.topic_id),
            _ => answer.with_topic(topic.topic.clone()),
        }
    });
    messages::FetchResponse::default().with_responses(topics.collect()).into()
}

fn refuse_list_offsets(request: &messages::ListOffsetsRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            list_offsets::ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
                .with_offset(-1)
                .with_timestamp(-1)
        });
        list_offsets::ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    messages::ListOffsetsResponse::default().with_topics(topics.collect()).into()
}

fn refuse_delete_topics(request: &messages::DeleteTopicsRequest, code: i16) -> ResponseKind {
    let named = request.topic_names.iter().cloned().map(|name| (Some(name), uuid::Uuid::nil()));
    let listed = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
    let results = named.chain(listed).map(|(name, id)| {
        delete_topics::DeletableTopicResult::default().with_name(name).with_topic_id(id).with_error_code(code)
    });
    messages::DeleteTopicsResponse::default().with_responses(results.collect()).into()
}

fn refuse_delete_records(request: &messages::DeleteRecordsRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            delete_records::DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index)
                .with_low_watermark(-1)
                .with_error_code(code)
        });
        delete_records::DeleteRecordsTopicResult::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    messages::DeleteRecordsResponse::default().with_topics(topics.collect()).into()
}

fn refuse_leader_epoch(request: &messages::OffsetForLeaderEpochRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            leader_epoch::EpochEndOffset::default()
                .with_partition(partition.partition)
                .with_error_code(code)
                .with_leader_epoch(-1)
                .with_end_offset(-1)
        });
        leader_epoch::OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    messages::OffsetForLeaderEpochResponse::default().with_topics(topics.collect()).into()
}

fn refuse_offset_commit(request: &messages::OffsetCommitRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            offset_commit::OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        offset_commit::OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    messages::OffsetCommitResponse::default().with_topics(topics.collect()).into()
}

fn refuse_offset_fetch(request: &messages::OffsetFetchRequest, version: i16, code: i16) -> ResponseKind {
    let response = messages::OffsetFetchResponse::default();
    if version >= 8 {
        let groups = request.groups.iter().map(|group| {
            offset_fetch::OffsetFetchResponseGroup::default()
                .with_group_id(group.group_id.clone())
                .with_error_code(code)
        });
        return response.with_groups(groups.collect()).into();
    }
    let topics = request.topics.iter().flatten().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            offset_fetch::OffsetFetchResponsePartition::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_metadata(Some(milena_protocol::StrBytes::new()))
                .with_error_code(code)
        });
        offset_fetch::OffsetFetchResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    response.with_topics(topics.collect()).with_error_code(if version >= 2 { code } else { 0 }).into()
}

fn refuse_find_coordinator(
    request: &messages::FindCoordinatorRequest,
    version: i16,
    code: i16,
) -> ResponseKind {
    let response = messages::FindCoordinatorResponse::default();
    if version <= 3 {
        return response.with_error_code(code).with_node_id((-1).into()).with_port(-1).into();
    }
    let found = request.coordinator_keys.iter().map(|key| {
        find_coordinator::Coordinator::default()
            .with_key(key.clone())
            .with_error_code(code)
            .with_node_id((-1).into())
            .with_port(-1)
    });
    response.with_coordinators(found.collect()).into()
}

fn refuse_add_partitions(
    request: &messages::AddPartitionsToTxnRequest,
    version: i16,
    code: i16,
) -> ResponseKind {
    let results = |topics: &[messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic]| {
        let topics = topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|index| {
                add_partitions::AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*index)
                    .with_partition_error_code(code)
            });
            add_partitions::AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(partitions.collect())
        });
        topics.collect::<Vec<_>>()
    };
    let response = messages::AddPartitionsToTxnResponse::default();
    if version <= 3 {
        let topics = results(&request.v3_and_below_topics);
        return response.with_results_by_topic_v3_and_below(topics).into();
    }
    let transactions = request.transactions.iter().map(|transaction| {
        add_partitions::AddPartitionsToTxnResult::default()
            .with_transactional_id(transaction.transactional_id.clone())
            .with_topic_results(results(&transaction.topics))
    });
    response.with_error_code(code).with_results_by_transaction(transactions.collect()).into()
}

fn refuse_txn_offset_commit(request: &messages::TxnOffsetCommitRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            txn_offset_commit::TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        txn_offset_commit::TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    messages::TxnOffsetCommitResponse::default().with_topics(topics.collect()).into()
}

fn refuse_markers(request: &messages::WriteTxnMarkersRequest, code: i16) -> ResponseKind {
    let written = request.markers.iter().map(|marker| {
        let topics = marker.topics.iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                markers::WritableTxnMarkerPartitionResult::default()
                    .with_partition_index(*index)
                    .with_error_code(code)
            });
            markers::WritableTxnMarkerTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        markers::WritableTxnMarkerResult::default()
            .with_producer_id(marker.producer_id)
            .with_topics(topics.collect())
    });
    messages::WriteTxnMarkersResponse::default().with_markers(written.collect()).into()
}

fn refuse_describe_producers(request: &messages::DescribeProducersRequest, code: i16) -> ResponseKind {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            describe_producers::PartitionResponse::default()
                .with_partition_index(*index)
                .with_error_code(code)
        });
        describe_producers::TopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    messages::DescribeProducersResponse::default().with_topics(topics.collect()).into()
}
