//! Versions that kafka-protocol lacks: bodies written down by hand from Kafka's protocol guide, and random ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::{Bytes, BytesMut};
use milena_protocol::guard::sample::Sampler;
use milena_protocol::messages::{self, TopicName};
use milena_protocol::{
    ApiKey, ErrorKind, Request, RequestBody, RequestKind, ResponseKind, StrBytes, decode_any_response,
    decode_request, decode_response, encode_request, encode_request_frame, encode_response, supported,
};

/// Bytes written as pairs of hexadecimal digits; blanks are for people, and so is what follows a `|` on a line.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text
        .lines()
        .filter_map(|line| line.split('|').next())
        .flat_map(str::bytes)
        .filter(u8::is_ascii_hexdigit)
        .collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic(name: &'static str) -> TopicName {
    TopicName(text(name))
}

/// A request and its body as the guide has it, both ways, cut and lengthened.
fn request<R: Request>(version: i16, request: &R, body: &str) {
    let body = hex(body);
    let mut written = BytesMut::new();
    request.encode_body(version, &mut written).unwrap();
    assert_eq!(written, body, "v{version} written");
    assert_eq!(&R::decode_body(body.clone(), version).unwrap(), request, "v{version} read");
    let mut frame = BytesMut::new();
    encode_request(&mut frame, 7, "c", version, request).unwrap();
    let mut head = [&R::KEY.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 7, 0, 1, b'c']].concat();
    if R::request_header_version(version) == 2 {
        head.push(0);
    }
    assert_eq!(&frame[4..], [&head[..], &body].concat(), "v{version} framed");
    let frame = frame.split_off(4).freeze();
    for cut in 0..frame.len() {
        assert!(decode_request(frame.slice(..cut)).is_err(), "v{version} cut at {cut}");
    }
    let longer = [&frame[..], &[0]].concat();
    assert_eq!(decode_request(longer.into()).unwrap_err().kind(), ErrorKind::Guard, "v{version} lengthened");
}

/// As [`request`], for a response.
fn response<R: Request>(version: i16, response: &R::Response, body: &str) {
    let body = hex(body);
    let mut written = BytesMut::new();
    R::encode_response_body(response, version, &mut written).unwrap();
    assert_eq!(written, body, "v{version} written");
    read_response::<R>(version, response, &body);
}

fn read_response<R: Request>(version: i16, response: &R::Response, body: &Bytes) {
    assert_eq!(&R::decode_response_body(body.clone(), version).unwrap(), response, "v{version} read");
    let frame: Bytes = [&[0, 0, 0, 7], &body[..]].concat().into();
    assert_eq!(&decode_response::<R>(frame.clone(), version).unwrap().1, response, "v{version} framed");
    for cut in 0..frame.len() {
        assert!(decode_response::<R>(frame.slice(..cut), version).is_err(), "v{version} cut at {cut}");
    }
    let longer = [&frame[..], &[0]].concat();
    let error = decode_response::<R>(longer.into(), version).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Guard, "v{version} lengthened");
}

#[test]
fn produce_0_to_2() {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    use messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
    let partition =
        PartitionProduceData::default().with_index(3).with_records(Some(Bytes::from_static(b"abc")));
    let topic_data = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![partition]);
    let asked = messages::ProduceRequest::default()
        .with_transactional_id(None)
        .with_acks(-1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic_data]);
    for version in 0..=2 {
        let body = "ffff 000003e8 | acks, timeout
                    00000001 0001 74 00000001 00000003 00000003 616263 | t, 3, three bytes";
        request(version, &asked, body);
    }
    let answer = |throttle: i32, appended: i64| {
        let partition = PartitionProduceResponse::default()
            .with_index(3)
            .with_error_code(6)
            .with_base_offset(258)
            .with_error_message(None)
            .with_log_append_time_ms(appended);
        let topic =
            TopicProduceResponse::default().with_name(topic("t")).with_partition_responses(vec![partition]);
        messages::ProduceResponse::default().with_responses(vec![topic]).with_throttle_time_ms(throttle)
    };
    type Produce = messages::ProduceRequest;
    let named = |answer: messages::ProduceResponse| {
        // Versions before 8 lack the error message; kafka-protocol's default for it is an empty one.
        let mut answer = answer;
        let default = PartitionProduceResponse::default().error_message;
        answer.responses[0].partition_responses[0].error_message = default;
        answer
    };
    let body = "00000001 0001 74 00000001 00000003 0006 0000000000000102";
    response::<Produce>(0, &named(answer(0, -1)), body);
    let body = "00000001 0001 74 00000001 00000003 0006 0000000000000102 00000064";
    response::<Produce>(1, &named(answer(100, -1)), body);
    let body = "00000001 0001 74 00000001 00000003 0006 0000000000000102 000000000000000a 00000064";
    response::<Produce>(2, &named(answer(100, 10)), body);
}

#[test]
fn fetch_0_to_3() {
    use messages::fetch_request::{FetchPartition, FetchTopic};
    use messages::fetch_response::{FetchableTopicResponse, PartitionData};
    let asked = |max_bytes: i32| {
        let partition = FetchPartition::default()
            .with_partition(2)
            .with_fetch_offset(513)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(topic("t")).with_partitions(vec![partition]);
        messages::FetchRequest::default()
            .with_replica_id(messages::BrokerId(-1))
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(max_bytes)
            .with_topics(vec![topic])
    };
    for version in 0..=2 {
        let body = "ffffffff 000001f4 00000001
                    00000001 0001 74 00000001 00000002 0000000000000201 00100000";
        request(version, &asked(i32::MAX), body);
    }
    let body = "ffffffff 000001f4 00000001 03200000
                00000001 0001 74 00000001 00000002 0000000000000201 00100000";
    request(3, &asked(0x0320_0000), body);

    let answer = |throttle: i32| {
        let partition = PartitionData::default()
            .with_partition_index(2)
            .with_high_watermark(515)
            .with_aborted_transactions(None)
            .with_records(Some(Bytes::from_static(b"abc")));
        let topic = FetchableTopicResponse::default().with_topic(topic("t")).with_partitions(vec![partition]);
        messages::FetchResponse::default().with_throttle_time_ms(throttle).with_responses(vec![topic])
    };
    assert_eq!(answer(0).responses[0].partitions[0].last_stable_offset, -1);
    type Fetch = messages::FetchRequest;
    let partitions = "00000001 0001 74 00000001 00000002 0000 0000000000000203 00000003 616263";
    response::<Fetch>(0, &answer(0), partitions);
    for version in 1..=3 {
        response::<Fetch>(version, &answer(100), &format!("00000064 {partitions}"));
    }
}

#[test]
fn list_offsets_0() {
    use messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    use messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    let partition = ListOffsetsPartition::default().with_partition_index(1).with_timestamp(-2);
    let asked = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let asked = messages::ListOffsetsRequest::default()
        .with_replica_id(messages::BrokerId(-1))
        .with_topics(vec![asked]);
    // One offset is asked for, whatever a broker of today would be told.
    request(0, &asked, "ffffffff 00000001 0001 74 00000001 00000001 fffffffffffffffe 00000001");
    let more = hex("ffffffff 00000001 0001 74 00000001 00000001 fffffffffffffffe 00000009");
    assert_eq!(messages::ListOffsetsRequest::decode_body(more, 0).unwrap(), asked);

    let answer = |error: i16, offset: i64| {
        let partition = ListOffsetsPartitionResponse::default()
            .with_partition_index(1)
            .with_error_code(error)
            .with_offset(offset);
        let topic =
            ListOffsetsTopicResponse::default().with_name(topic("t")).with_partitions(vec![partition]);
        messages::ListOffsetsResponse::default().with_topics(vec![topic])
    };
    type ListOffsets = messages::ListOffsetsRequest;
    response::<ListOffsets>(
        0,
        &answer(0, 7),
        "00000001 0001 74 00000001 00000001 0000 00000001 0000000000000007",
    );
    response::<ListOffsets>(0, &answer(3, -1), "00000001 0001 74 00000001 00000001 0003 00000000");
    // -1 is all that says none; whatever else a broker sends is kept.
    response::<ListOffsets>(
        0,
        &answer(0, -2),
        "00000001 0001 74 00000001 00000001 0000 00000001 fffffffffffffffe",
    );
    // Of several the first counts, which is the latest; the next partition's is not mixed up with it.
    let two = hex("00000001 0001 74 00000002
         00000001 0000 00000002 0000000000000009 0000000000000000
         00000002 0000 00000000");
    let read = messages::ListOffsetsRequest::decode_response_body(two, 0).unwrap();
    let offsets: Vec<i64> = read.topics[0].partitions.iter().map(|partition| partition.offset).collect();
    assert_eq!(offsets, [9, -1]);
    assert!(read.topics[0].partitions.iter().all(|partition| partition.timestamp == -1));
}

#[test]
fn offset_commit_0_and_1() {
    use messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    use messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(1)
        .with_committed_offset(258)
        .with_committed_metadata(Some(text("m")));
    let asked = OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let asked = messages::OffsetCommitRequest::default()
        .with_group_id(messages::GroupId(text("g")))
        .with_topics(vec![asked]);
    request(0, &asked, "0001 67 00000001 0001 74 00000001 00000001 0000000000000102 0001 6d");
    let member = asked.clone().with_generation_id_or_member_epoch(5).with_member_id(text("me"));
    let body = "0001 67 00000005 0002 6d65
                00000001 0001 74 00000001 00000001 0000000000000102 ffffffffffffffff 0001 6d";
    request(1, &member, body);
    // Null metadata; a commit time of the client's own is dropped.
    let body = hex("0001 67 ffffffff 0000
         00000001 0001 74 00000001 00000001 0000000000000102 0000000000000005 ffff");
    let read = messages::OffsetCommitRequest::decode_body(body, 1).unwrap();
    assert_eq!(read.generation_id_or_member_epoch, -1);
    assert_eq!(read.topics[0].partitions[0].committed_metadata, None);
    // What only version 1 has is left out in version 0: its schema calls it ignorable.
    let mut written = BytesMut::new();
    member.encode_body(0, &mut written).unwrap();
    assert_eq!(messages::OffsetCommitRequest::decode_body(written.freeze(), 0).unwrap(), asked);

    let partition = OffsetCommitResponsePartition::default().with_partition_index(1).with_error_code(22);
    let answer = OffsetCommitResponseTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let answer = messages::OffsetCommitResponse::default().with_topics(vec![answer]);
    for version in 0..=1 {
        let body = "00000001 0001 74 00000001 00000001 0016";
        response::<messages::OffsetCommitRequest>(version, &answer, body);
    }
}

#[test]
fn offset_fetch_0() {
    use messages::offset_fetch_request::OffsetFetchRequestTopic;
    use messages::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
    let asked = OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(vec![1, 2]);
    let asked = messages::OffsetFetchRequest::default()
        .with_group_id(messages::GroupId(text("g")))
        .with_topics(Some(vec![asked]));
    request(0, &asked, "0001 67 00000001 0001 74 00000002 00000001 00000002");
    let partition = OffsetFetchResponsePartition::default()
        .with_partition_index(1)
        .with_committed_offset(258)
        .with_metadata(Some(text("")))
        .with_error_code(3);
    let answer = OffsetFetchResponseTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    let answer = messages::OffsetFetchResponse::default().with_topics(vec![answer]);
    let body = "00000001 0001 74 00000001 00000001 0000000000000102 0000 0003";
    response::<messages::OffsetFetchRequest>(0, &answer, body);
}

#[test]
fn create_topics_0_and_1_and_delete_topics_0() {
    use messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
    use messages::create_topics_response::CreatableTopicResult;
    use messages::delete_topics_response::DeletableTopicResult;
    let asked = CreatableTopic::default()
        .with_name(topic("t"))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(vec![
            CreatableReplicaAssignment::default()
                .with_partition_index(1)
                .with_broker_ids(vec![messages::BrokerId(4)]),
        ])
        .with_configs(vec![CreatableTopicConfig::default().with_name(text("k")).with_value(Some(text("v")))]);
    let asked = messages::CreateTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(9);
    let topics = "00000001 0001 74 ffffffff ffff
                  00000001 00000001 00000001 00000004
                  00000001 0001 6b 0001 76
                  00000009";
    request(0, &asked, topics);
    request(1, &asked, &format!("{topics} 00"));
    let only_validated = asked.with_validate_only(true);
    request(1, &only_validated, &format!("{topics} 01"));
    // Version 0 would create the topics.
    let error = only_validated.encode_body(0, &mut BytesMut::new()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("validate_only")));

    let answer = |message: Option<StrBytes>| {
        let topic = CreatableTopicResult::default()
            .with_name(topic("t"))
            .with_error_code(36)
            .with_error_message(message);
        messages::CreateTopicsResponse::default().with_topics(vec![topic])
    };
    type CreateTopics = messages::CreateTopicsRequest;
    response::<CreateTopics>(0, &answer(None), "00000001 0001 74 0024");
    response::<CreateTopics>(1, &answer(None), "00000001 0001 74 0024 ffff");
    response::<CreateTopics>(1, &answer(Some(text("no"))), "00000001 0001 74 0024 0002 6e6f");

    let asked =
        messages::DeleteTopicsRequest::default().with_topic_names(vec![topic("t")]).with_timeout_ms(9);
    request(0, &asked, "00000001 0001 74 00000009");
    let answer = DeletableTopicResult::default().with_name(Some(topic("t"))).with_error_code(3);
    let answer = messages::DeleteTopicsResponse::default().with_responses(vec![answer]);
    response::<messages::DeleteTopicsRequest>(0, &answer, "00000001 0001 74 0003");
}

#[test]
fn offset_for_leader_epoch_0_and_1() {
    use messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
    use messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
    let partition = OffsetForLeaderPartition::default().with_partition(1).with_leader_epoch(6);
    let asked = OffsetForLeaderTopic::default().with_topic(topic("t")).with_partitions(vec![partition]);
    let asked = messages::OffsetForLeaderEpochRequest::default().with_topics(vec![asked]);
    let answer = |epoch: i32| {
        let partition =
            EpochEndOffset::default().with_partition(1).with_leader_epoch(epoch).with_end_offset(258);
        let topic =
            OffsetForLeaderTopicResult::default().with_topic(topic("t")).with_partitions(vec![partition]);
        messages::OffsetForLeaderEpochResponse::default().with_topics(vec![topic])
    };
    type OffsetForLeaderEpoch = messages::OffsetForLeaderEpochRequest;
    for version in 0..=1 {
        request(version, &asked, "00000001 0001 74 00000001 00000001 00000006");
    }
    let body = "00000001 0001 74 00000001 0000 00000001 0000000000000102";
    response::<OffsetForLeaderEpoch>(0, &answer(-1), body);
    let body = "00000001 0001 74 00000001 0000 00000001 00000006 0000000000000102";
    response::<OffsetForLeaderEpoch>(1, &answer(6), body);
}

#[test]
fn write_txn_markers_0_has_no_tags() {
    use messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
    let topics = WritableTxnMarkerTopic::default().with_name(topic("t")).with_partition_indexes(vec![1]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(messages::ProducerId(4))
        .with_producer_epoch(2)
        .with_transaction_result(true)
        .with_topics(vec![topics])
        .with_coordinator_epoch(3);
    let asked = messages::WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let body = "00000001 0000000000000004 0002 01 00000001 0001 74 00000001 00000001 00000003";
    request(0, &asked, body);
    let long = "x".repeat(40_000);
    let mut asked = asked;
    asked.markers[0].topics[0].name = TopicName(StrBytes::from_string(long));
    let error = asked.encode_body(0, &mut BytesMut::new()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("name")));
}

#[test]
fn acls_0_know_literal_patterns_only() {
    use messages::create_acls_request::AclCreation;
    let acl = AclCreation::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_principal(text("User:a"))
        .with_host(text("*"))
        .with_operation(3)
        .with_permission_type(3);
    assert_eq!(acl.resource_pattern_type, 3);
    let asked = messages::CreateAclsRequest::default().with_creations(vec![acl.clone()]);
    request(0, &asked, "00000001 02 0001 74 0006 557365723a61 0001 2a 03 03");
    let prefixed = asked.with_creations(vec![acl.with_resource_pattern_type(4)]);
    let error = prefixed.encode_body(0, &mut BytesMut::new()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("resource_pattern_type")));

    let asked = messages::DescribeAclsRequest::default()
        .with_resource_type_filter(2)
        .with_resource_name_filter(None)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    request(0, &asked, "02 ffff ffff ffff 01 01");
}

#[test]
fn describe_configs_0_says_only_what_is_a_default() {
    use messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
    type DescribeConfigs = messages::DescribeConfigsRequest;
    let entry = |name: &'static str, source: i8| {
        DescribeConfigsResourceResult::default()
            .with_name(text(name))
            .with_value(None)
            .with_config_source(source)
    };
    for (resource_type, set) in [(2_i8, 1_i8), (4, 4), (8, 0)] {
        let result = DescribeConfigsResult::default()
            .with_error_message(None)
            .with_resource_type(resource_type)
            .with_resource_name(text("1"))
            .with_configs(vec![entry("a", set), entry("b", 5)]);
        let answer = messages::DescribeConfigsResponse::default().with_results(vec![result]);
        let body = format!(
            "00000000 00000001 0000 ffff 0{resource_type} 0001 31 00000002
             0001 61 ffff 00 00 00
             0001 62 ffff 00 01 00"
        );
        response::<DescribeConfigs>(0, &answer, &body);
    }
    let synonyms = messages::DescribeConfigsRequest::default().with_include_synonyms(true);
    let error = synonyms.encode_body(0, &mut BytesMut::new()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("include_synonyms")));
}

#[test]
fn what_an_old_version_cannot_say_is_an_error_and_what_may_be_ignored_is_left_out() {
    let asked =
        messages::ProduceRequest::default().with_transactional_id(Some(messages::TransactionalId(text("x"))));
    let error = encode_request(&mut BytesMut::new(), 1, "c", 2, &asked).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("transactional_id")));
    assert_eq!(error.to_string(), "ProduceRequest v2 has no place for what is set (field transactional_id)");
    let committed = messages::FetchRequest::default().with_isolation_level(1);
    encode_request(&mut BytesMut::new(), 1, "c", 3, &committed).unwrap();
}

#[test]
fn fields_that_kafka_protocol_has_no_place_for_have_names() {
    use messages::describe_share_group_offsets_response::{
        DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
        DescribeShareGroupOffsetsResponseTopic,
    };
    use milena_protocol::newer::{IsRenewAck, Lag, ShareAcquireMode};
    let partition = DescribeShareGroupOffsetsResponsePartition::default()
        .with_partition_index(1)
        .with_start_offset(2)
        .with_leader_epoch(3)
        .with_error_message(None)
        .with_lag(300);
    let described = DescribeShareGroupOffsetsResponseTopic::default()
        .with_topic_name(topic("t"))
        .with_partitions(vec![partition]);
    let described = DescribeShareGroupOffsetsResponseGroup::default()
        .with_group_id(messages::GroupId(text("g")))
        .with_topics(vec![described])
        .with_error_message(None);
    let described = messages::DescribeShareGroupOffsetsResponse::default().with_groups(vec![described]);
    let body = |lag: &str| {
        hex(&format!(
            "00000000 02 02 67
             02 02 74 00000000000000000000000000000000
             02 00000001 0000000000000002 00000003 {lag} 0000 00 00
             00 0000 00 00 00"
        ))
    };
    type Describe = messages::DescribeShareGroupOffsetsRequest;
    let mut written = BytesMut::new();
    Describe::encode_response_body(&described, 1, &mut written).unwrap();
    assert_eq!(written, body("000000000000012c"));
    let read = Describe::decode_response_body(written.freeze(), 1).unwrap();
    assert_eq!(read, described);
    assert_eq!(read.groups[0].topics[0].partitions[0].lag(), Some(300));
    // Version 0 has no lag, and a tag that is ours is never sent.
    let mut written = BytesMut::new();
    Describe::encode_response_body(&described, 0, &mut written).unwrap();
    assert_eq!(written, body(""));
    let read = Describe::decode_response_body(written.freeze(), 0).unwrap();
    assert_eq!(read.groups[0].topics[0].partitions[0].lag(), None);

    // The default may be left out by whoever is asked in an old version, another value may not.
    let asked = messages::ShareFetchRequest::default().with_share_acquire_mode(1).with_is_renew_ack(false);
    let mut written = BytesMut::new();
    asked.encode_body(2, &mut written).unwrap();
    let read = messages::ShareFetchRequest::decode_body(written.freeze(), 2).unwrap();
    assert_eq!((read.share_acquire_mode(), read.is_renew_ack()), (Some(1), None));
    asked.encode_body(1, &mut BytesMut::new()).unwrap();
    let error = asked.with_is_renew_ack(true).encode_body(1, &mut BytesMut::new()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("is_renew_ack")));

    let id = uuid::Uuid::from_u128(0x0102_0304);
    let topic = messages::offset_commit_request::OffsetCommitRequestTopic::default().with_topic_id(id);
    let asked = messages::OffsetCommitRequest::default()
        .with_group_id(messages::GroupId(text("g")))
        .with_group_instance_id(None)
        .with_topics(vec![topic]);
    request(10, &asked, "02 67 ffffffff 01 00 02 00000000000000000000000001020304 01 00 00");
}

/// Every request and response in every version that kafka-protocol lacks and that is spoken here.
fn pairs() -> Vec<(ApiKey, i16)> {
    let mut pairs = Vec::new();
    for api in ApiKey::iter() {
        let (ours, direct) = (supported(api as i16).unwrap(), api.valid_versions());
        // The crate's own list says 10 for these two, but its requests end at 9.
        let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch);
        let last = if short { 9 } else { direct.max };
        pairs.extend((ours.min..=ours.max).filter(|v| !(direct.min..=last).contains(v)).map(|v| (api, v)));
    }
    pairs
}

fn read(request: bool, api: ApiKey, version: i16, frame: &[u8]) -> milena_protocol::Result<Decoded> {
    let frame = Bytes::copy_from_slice(frame);
    if !request {
        return decode_any_response(frame, api as i16, version)
            .map(|(_, response)| Decoded::Response(response));
    }
    decode_request(frame).map(|request| match request.body {
        RequestBody::Known(body) => Decoded::Request(body),
        RequestBody::UnsupportedVersion => panic!("{api:?} v{version}"),
    })
}

#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
enum Decoded {
    Request(RequestKind),
    Response(ResponseKind),
}

/// A frame without its header, whose unknown tags are not kept.
fn body(request: bool, api: ApiKey, version: i16, frame: &[u8]) -> Bytes {
    use milena_protocol::Decodable;
    let mut rest = Bytes::copy_from_slice(frame);
    if request {
        messages::RequestHeader::decode(&mut rest, api.request_header_version(version)).unwrap();
    } else {
        messages::ResponseHeader::decode(&mut rest, api.response_header_version(version)).unwrap();
    }
    rest
}

fn written(request: bool, api: ApiKey, version: i16, frame: &[u8]) -> BytesMut {
    let (frame, mut out) = (Bytes::copy_from_slice(frame), BytesMut::new());
    if request {
        encode_request_frame(&mut out, &decode_request(frame).unwrap()).unwrap();
    } else {
        let (id, response) = decode_any_response(frame, api as i16, version).unwrap();
        encode_response(&mut out, api as i16, version, id, &response).unwrap();
    }
    out.split_off(4)
}

#[test]
fn every_valid_frame_is_read_and_written_again_as_it_was() {
    let pairs = pairs();
    assert!(pairs.len() >= 40, "{pairs:?}");
    for (index, (api, version)) in pairs.into_iter().enumerate() {
        for request in [true, false] {
            let mut sampler = Sampler::new(300 + index as u64);
            for _ in 0..200 {
                let (key, sampler) = (api as i16, &mut sampler);
                let frame =
                    if request { sampler.request(key, version) } else { sampler.response(key, version) }
                        .unwrap();
                let named = || format!("{api:?} v{version}");
                let again = written(request, api, version, &frame);
                assert_eq!(
                    read(request, api, version, &again).unwrap(),
                    read(request, api, version, &frame).unwrap(),
                    "{}",
                    named()
                );
                let (again, frame) =
                    (body(request, api, version, &again), body(request, api, version, &frame));
                match (api, version, request) {
                    // A count and a time that have no place; both are written as constants.
                    (ApiKey::ListOffsets, 0, true) | (ApiKey::OffsetCommit, 1, true) => {
                        assert_eq!(again.len(), frame.len(), "{}", named());
                    }
                    // Of several offsets the first is kept.
                    (ApiKey::ListOffsets, 0, false) => assert!(again.len() <= frame.len(), "{}", named()),
                    _ => assert_eq!(again, frame, "{}", named()),
                }
            }
        }
    }
}
