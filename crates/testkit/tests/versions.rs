//! Every API in every version that is announced: it is answered, the answer can be read, refused or not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use bytes::BytesMut;
use milena_protocol::messages::{self, ApiKey};
use milena_protocol::{ErrorCode, Request, StrBytes, encode_request};
use milena_testkit::broker::{BrokerConfig, Fault};
use support::{Client, Driver, batch, topic_name, transactional_id};

/// Sends what `build` makes in every announced version: first as it is, then with a fault that refuses it. Gives the
/// answers with their versions, and the code of the refusal as `error` finds it.
fn every_version<R: Request>(build: impl Fn(i16, uuid::Uuid) -> R, check: impl Fn(i16, &R::Response, bool)) {
    let mut driver = Driver::new(BrokerConfig::default().with_topic("t", 2));
    let announced = driver.ask(4, &messages::ApiVersionsRequest::default());
    let range = announced.api_keys.iter().find(|api| api.api_key == R::KEY).unwrap();
    // Produce 0 to 2 are announced and not served, as on Kafka 4.
    let lowest = if R::KEY == 0 { 3 } else { range.min_version };
    assert!(range.max_version <= R::VERSIONS.max);
    for version in lowest..=range.max_version {
        let mut driver = Driver::new(BrokerConfig::default().with_topic("t", 2));
        assert_eq!(driver.append("t", 0, 3), 0);
        let id = driver.topic_id("t");
        let request = build(version, id);
        let answer = driver.ask(version, &request);
        check(version, &answer, false);
        driver.broker.faults().on(R::KEY, Fault::Error(ErrorCode::NOT_CONTROLLER), 1);
        let answer = driver.ask(version, &request);
        check(version, &answer, true);
    }
}

/// Zero, or the ordered error.
fn expected(refused: bool) -> i16 {
    if refused { ErrorCode::NOT_CONTROLLER.0 } else { 0 }
}

#[test]
fn api_versions() {
    every_version(
        |_, _| messages::ApiVersionsRequest::default(),
        |_, answer, refused| {
            assert_eq!(answer.error_code, expected(refused));
            assert!(refused || answer.api_keys.len() > 20);
        },
    );
}

#[test]
fn metadata() {
    every_version(
        |version, id| {
            let mut topic = messages::metadata_request::MetadataRequestTopic::default();
            topic.name = Some(topic_name("t"));
            if version >= 12 {
                (topic.name, topic.topic_id) = (None, id);
            }
            messages::MetadataRequest::default().with_topics(Some(vec![topic]))
        },
        |version, answer, refused| {
            let topic = &answer.topics[0];
            assert_eq!(topic.error_code, expected(refused));
            if !refused {
                assert_eq!(topic.name.as_ref().unwrap().0, StrBytes::from("t"));
                assert_eq!(topic.topic_id.is_nil(), version < 10);
                assert_eq!(topic.partitions.len(), 2);
                assert_eq!(answer.brokers.len(), 1);
                assert_eq!(answer.cluster_id.is_some(), version >= 2);
            }
        },
    );
    let all = messages::MetadataRequest::default().with_topics(None);
    assert_eq!(Driver::with_topic("t", 1).ask(13, &all).topics.len(), 1);
    let none = messages::MetadataRequest::default();
    assert_eq!(Driver::with_topic("t", 1).ask(13, &none).topics.len(), 0);
    assert_eq!(Driver::with_topic("t", 1).ask(0, &none).topics.len(), 1);
}

#[test]
fn create_topics() {
    every_version(
        |_, _| {
            let topic = messages::create_topics_request::CreatableTopic::default()
                .with_name(topic_name("new"))
                .with_num_partitions(3)
                .with_replication_factor(1);
            messages::CreateTopicsRequest::default().with_topics(vec![topic])
        },
        |version, answer, refused| {
            let topic = &answer.topics[0];
            assert_eq!(topic.error_code, expected(refused));
            if !refused {
                assert_eq!(topic.error_message, None);
                assert_eq!(topic.topic_id.is_nil(), version < 7);
                assert_eq!(topic.num_partitions, if version >= 5 { 3 } else { -1 });
            }
        },
    );
}

#[test]
fn delete_topics() {
    every_version(
        |version, id| match version {
            6.. => messages::DeleteTopicsRequest::default().with_topics(vec![
                messages::delete_topics_request::DeleteTopicState::default()
                    .with_name(None)
                    .with_topic_id(id),
            ]),
            _ => messages::DeleteTopicsRequest::default().with_topic_names(vec![topic_name("t")]),
        },
        |_, answer, refused| assert_eq!(answer.responses[0].error_code, expected(refused)),
    );
}

#[test]
fn create_partitions() {
    every_version(
        |_, _| {
            let topic = messages::create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic_name("t"))
                .with_count(4)
                .with_assignments(None);
            messages::CreatePartitionsRequest::default().with_topics(vec![topic])
        },
        |_, answer, refused| assert_eq!(answer.results[0].error_code, expected(refused)),
    );
}

#[test]
fn produce_and_fetch() {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    every_version(
        |version, id| {
            let data = PartitionProduceData::default().with_records(Some(batch(2, None)));
            let mut topic = TopicProduceData::default().with_partition_data(vec![data]);
            match version {
                13.. => topic.topic_id = id,
                _ => topic.name = topic_name("t"),
            }
            messages::ProduceRequest::default()
                .with_transactional_id(None)
                .with_acks(1)
                .with_topic_data(vec![topic])
        },
        |version, answer, refused| {
            let told = &answer.responses[0].partition_responses[0];
            assert_eq!(told.error_code, expected(refused));
            assert_eq!(told.base_offset, if refused { -1 } else { 3 });
            assert_eq!(answer.responses[0].topic_id.is_nil(), version < 13);
        },
    );
    every_version(
        |version, id| {
            let id = if version >= 13 { id } else { uuid::Uuid::nil() };
            support::fetch_request(version, "t", id, 0, 0, true, 0)
        },
        |_, answer, refused| {
            let told = &answer.responses[0].partitions[0];
            assert_eq!(told.error_code, expected(refused));
            assert_eq!(support::offsets(told).len(), if refused { 0 } else { 3 });
        },
    );
}

#[test]
fn list_offsets_delete_records_and_leader_epochs() {
    every_version(
        |version, _| {
            use messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let mut partition = ListOffsetsPartition::default().with_timestamp(-1);
            partition.current_leader_epoch = if version >= 4 { 0 } else { -1 };
            let topic =
                ListOffsetsTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
            messages::ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])
        },
        |version, answer, refused| {
            let told = &answer.topics[0].partitions[0];
            assert_eq!(told.error_code, expected(refused));
            if !refused {
                assert_eq!((told.offset, told.leader_epoch), (3, if version >= 4 { 0 } else { -1 }));
            }
        },
    );
    every_version(
        |_, _| {
            use messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
            let partition = DeleteRecordsPartition::default().with_offset(2);
            let topic =
                DeleteRecordsTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
            messages::DeleteRecordsRequest::default().with_topics(vec![topic])
        },
        |_, answer, refused| {
            let told = &answer.topics[0].partitions[0];
            assert_eq!(
                (told.error_code, told.low_watermark),
                (expected(refused), if refused { -1 } else { 2 })
            );
        },
    );
    every_version(
        |_, _| {
            use messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
            let partition = OffsetForLeaderPartition::default().with_leader_epoch(0);
            let topic =
                OffsetForLeaderTopic::default().with_topic(topic_name("t")).with_partitions(vec![partition]);
            messages::OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
        },
        |_, answer, refused| {
            let told = &answer.topics[0].partitions[0];
            assert_eq!((told.error_code, told.end_offset), (expected(refused), if refused { -1 } else { 3 }));
        },
    );
}

#[test]
fn find_coordinator() {
    every_version(
        |version, _| {
            let mut request = messages::FindCoordinatorRequest::default();
            match version {
                4.. => request.coordinator_keys = vec!["a".into(), "b".into()],
                _ => request.key = "a".into(),
            }
            request.key_type = i8::from(version >= 1);
            request
        },
        |version, answer, refused| {
            if version >= 4 {
                assert_eq!(answer.coordinators.len(), 2);
                assert!(answer.coordinators.iter().all(|found| found.error_code == expected(refused)));
                assert_eq!(answer.coordinators[1].node_id.0, if refused { -1 } else { 1 });
            } else {
                assert_eq!(answer.error_code, expected(refused));
                assert_eq!(answer.node_id.0, if refused { -1 } else { 1 });
            }
        },
    );
}

#[test]
fn the_transaction_apis() {
    every_version(
        |_, _| {
            let request = messages::InitProducerIdRequest::default()
                .with_transactional_id(Some(transactional_id("x")))
                .with_transaction_timeout_ms(1000);
            request.with_producer_id((-1).into()).with_producer_epoch(-1)
        },
        |_, answer, refused| assert_eq!(answer.error_code, expected(refused)),
    );
    every_version(
        |version, _| {
            use messages::add_partitions_to_txn_request::{
                AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
            };
            let topics =
                vec![AddPartitionsToTxnTopic::default().with_name(topic_name("t")).with_partitions(vec![0])];
            let request = messages::AddPartitionsToTxnRequest::default();
            match version {
                4.. => request.with_transactions(vec![
                    AddPartitionsToTxnTransaction::default()
                        .with_transactional_id(transactional_id("x"))
                        .with_topics(topics),
                ]),
                _ => request
                    .with_v3_and_below_transactional_id(transactional_id("x"))
                    .with_v3_and_below_topics(topics),
            }
        },
        |version, answer, refused| {
            let topics = match version {
                4.. => &answer.results_by_transaction[0].topic_results,
                _ => &answer.results_by_topic_v3_and_below,
            };
            let unmapped = ErrorCode::INVALID_PRODUCER_ID_MAPPING.0;
            let told = topics[0].results_by_partition[0].partition_error_code;
            assert_eq!(told, if refused { expected(true) } else { unmapped });
        },
    );
    let unmapped = |refused| if refused { expected(true) } else { ErrorCode::INVALID_PRODUCER_ID_MAPPING.0 };
    every_version(
        |_, _| {
            messages::AddOffsetsToTxnRequest::default()
                .with_transactional_id(transactional_id("x"))
                .with_group_id(messages::GroupId("g".into()))
        },
        |_, answer, refused| assert_eq!(answer.error_code, unmapped(refused)),
    );
    every_version(
        |_, _| messages::EndTxnRequest::default().with_transactional_id(transactional_id("x")),
        |_, answer, refused| assert_eq!(answer.error_code, unmapped(refused)),
    );
    every_version(
        |_, _| {
            use messages::txn_offset_commit_request::{
                TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
            };
            let topic = TxnOffsetCommitRequestTopic::default()
                .with_name(topic_name("t"))
                .with_partitions(vec![TxnOffsetCommitRequestPartition::default()]);
            messages::TxnOffsetCommitRequest::default()
                .with_transactional_id(transactional_id("x"))
                .with_group_id(messages::GroupId("g".into()))
                .with_topics(vec![topic])
        },
        |_, answer, refused| {
            assert_eq!(answer.topics[0].partitions[0].error_code, unmapped(refused));
        },
    );
}

#[test]
fn the_apis_that_describe() {
    every_version(
        |_, _| {
            messages::DescribeTransactionsRequest::default()
                .with_transactional_ids(vec![transactional_id("x")])
        },
        |_, answer, refused| {
            let unknown = ErrorCode::TRANSACTIONAL_ID_NOT_FOUND.0;
            let told = answer.transaction_states[0].error_code;
            assert_eq!(told, if refused { expected(true) } else { unknown });
        },
    );
    every_version(
        |_, _| messages::ListTransactionsRequest::default(),
        |_, answer, refused| assert_eq!(answer.error_code, expected(refused)),
    );
    every_version(
        |_, _| {
            let topic = messages::describe_producers_request::TopicRequest::default()
                .with_name(topic_name("t"))
                .with_partition_indexes(vec![0]);
            messages::DescribeProducersRequest::default().with_topics(vec![topic])
        },
        |_, answer, refused| assert_eq!(answer.topics[0].partitions[0].error_code, expected(refused)),
    );
    every_version(
        |_, _| {
            let topic = messages::write_txn_markers_request::WritableTxnMarkerTopic::default()
                .with_name(topic_name("t"))
                .with_partition_indexes(vec![1]);
            let marker = messages::write_txn_markers_request::WritableTxnMarker::default();
            messages::WriteTxnMarkersRequest::default().with_markers(vec![marker.with_topics(vec![topic])])
        },
        |_, answer, refused| {
            assert_eq!(answer.markers[0].topics[0].partitions[0].error_code, expected(refused));
        },
    );
    every_version(
        |_, _| {
            let broker = messages::describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(4)
                .with_resource_name("1".into())
                .with_configuration_keys(Some(vec!["transaction.max.timeout.ms".into()]));
            messages::DescribeConfigsRequest::default().with_resources(vec![broker])
        },
        |_, answer, refused| {
            let told = &answer.results[0];
            assert_eq!(told.error_code, expected(refused));
            if !refused {
                assert_eq!(told.error_message, None);
                assert_eq!(told.configs[0].value, Some("900000".into()));
            }
        },
    );
    every_version(
        |_, _| messages::DescribeClusterRequest::default(),
        |_, answer, refused| assert_eq!(answer.error_code, expected(refused)),
    );
    every_version(
        |_, _| messages::ListGroupsRequest::default(),
        |_, answer, refused| assert_eq!(answer.error_code, expected(refused)),
    );
}

#[test]
fn the_offset_apis() {
    every_version(
        |_, _| {
            use messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
            let topic = OffsetCommitRequestTopic::default()
                .with_name(topic_name("t"))
                .with_partitions(vec![OffsetCommitRequestPartition::default().with_committed_offset(2)]);
            messages::OffsetCommitRequest::default()
                .with_group_id(messages::GroupId("g".into()))
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![topic])
        },
        |_, answer, refused| assert_eq!(answer.topics[0].partitions[0].error_code, expected(refused)),
    );
    every_version(
        |version, _| match version {
            8.. => {
                use messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
                let topic = OffsetFetchRequestTopics::default()
                    .with_name(topic_name("t"))
                    .with_partition_indexes(vec![0]);
                let group = OffsetFetchRequestGroup::default()
                    .with_group_id(messages::GroupId("g".into()))
                    .with_topics(Some(vec![topic]));
                messages::OffsetFetchRequest::default().with_groups(vec![group])
            }
            _ => {
                use messages::offset_fetch_request::OffsetFetchRequestTopic;
                let topic = OffsetFetchRequestTopic::default()
                    .with_name(topic_name("t"))
                    .with_partition_indexes(vec![0]);
                messages::OffsetFetchRequest::default()
                    .with_group_id(messages::GroupId("g".into()))
                    .with_topics(Some(vec![topic]))
            }
        },
        |version, answer, refused| match version {
            8.. => assert_eq!(answer.groups[0].error_code, expected(refused)),
            _ => assert_eq!(answer.topics[0].partitions[0].error_code, expected(refused)),
        },
    );
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0_and_others_close() {
    let mut driver = Driver::with_topic("t", 1);
    let mut frame = BytesMut::new();
    encode_request(&mut frame, 5, "c", 4, &messages::ApiVersionsRequest::default()).unwrap();
    frame[7] = 99;
    let request = milena_protocol::decode_request(frame.freeze().slice(4..)).unwrap();
    driver.broker.handle(driver.now, milena_testkit::broker::ConnectionId(1), request);
    let (_, correlation, answer) = driver.receive::<messages::ApiVersionsRequest>(4).unwrap();
    assert_eq!((correlation, answer.error_code), (5, ErrorCode::UNSUPPORTED_VERSION.0));
    assert!(answer.api_keys.iter().any(|api| api.api_key == 18 && api.max_version == 4));

    let limited = BrokerConfig::default().with_version_limit(ApiKey::EndTxn as i16, 4);
    let mut driver = Driver::new(limited.with_version_limit(ApiKey::ListTransactions as i16, -1));
    let announced = driver.ask(4, &messages::ApiVersionsRequest::default());
    let range =
        |key: i16| announced.api_keys.iter().find(|api| api.api_key == key).map(|api| api.max_version);
    assert_eq!((range(26), range(66)), (Some(4), None));
    driver.send(1, 5, &messages::EndTxnRequest::default());
    assert!(driver.broker.poll_response(driver.now).is_none());
    assert_eq!(driver.broker.poll_close().map(|id| id.0), Some(1));
    driver.send(2, 4, &messages::EndTxnRequest::default());
    assert!(driver.broker.poll_response(driver.now).is_some());
    driver.send(3, 0, &messages::JoinGroupRequest::default());
    assert_eq!(driver.broker.poll_close().map(|id| id.0), Some(3));
}
