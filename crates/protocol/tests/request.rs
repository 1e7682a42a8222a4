//! Frames of requests and responses, written and read again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::{BufMut, Bytes, BytesMut};
use milena_protocol::messages::api_versions_response::ApiVersion;
use milena_protocol::messages::metadata_response::MetadataResponseBroker;
use milena_protocol::messages::{
    self, ApiVersionsRequest, ApiVersionsResponse, HeartbeatRequest, HeartbeatResponse,
    InitProducerIdRequest, MetadataRequest, MetadataResponse, ProduceRequest,
};
use milena_protocol::{
    ApiKey, BrokerVersions, Discovered, Discovery, ErrorCode, ErrorKind, Request, RequestBody, RequestKind,
    ResponseKind, StrBytes, decode_any_response, decode_request, decode_response, encode_request,
    encode_response, frame,
};

/// What was appended to a buffer, without its length, which must be true.
fn unframed(mut buf: BytesMut) -> Bytes {
    let frame = frame::split(&mut buf, frame::DEFAULT_MAX).unwrap().unwrap();
    assert!(buf.is_empty());
    frame
}

fn sent<R: Request>(version: i16, request: &R) -> Bytes {
    let mut buf = BytesMut::new();
    encode_request(&mut buf, 77, "milena", version, request).unwrap();
    unframed(buf)
}

fn answered(api_key: i16, version: i16, response: &ResponseKind) -> Bytes {
    let mut buf = BytesMut::new();
    encode_response(&mut buf, api_key, version, -5, response).unwrap();
    unframed(buf)
}

#[test]
fn a_request_arrives_as_it_was_sent_in_every_version() {
    for version in 0..=13 {
        let name = messages::TopicName(StrBytes::from_static_str("orders"));
        let topic = messages::metadata_request::MetadataRequestTopic::default().with_name(Some(name));
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        let arrived = decode_request(sent(version, &request)).unwrap();
        assert_eq!((arrived.api_key, arrived.version, arrived.correlation_id), (3, version, 77));
        assert_eq!(arrived.client_id.as_deref(), Some("milena"));
        assert_eq!(arrived.body, RequestBody::Known(RequestKind::Metadata(request)));
    }
}

#[test]
fn a_response_arrives_as_it_was_sent_in_every_version() {
    for version in 0..=13 {
        let broker = MetadataResponseBroker::default()
            .with_node_id(messages::BrokerId(4))
            .with_host(StrBytes::from_static_str("k4"))
            .with_port(9092);
        let mut response = MetadataResponse::default().with_brokers(vec![broker]);
        if version >= 9 {
            response = response.with_unknown_tagged_field(41, Bytes::from_static(b"new"));
        }
        let kind = ResponseKind::Metadata(response.clone());
        let frame = answered(3, version, &kind);
        assert_eq!(decode_response::<MetadataRequest>(frame.clone(), version).unwrap(), (-5, response));
        assert_eq!(decode_any_response(frame, 3, version).unwrap(), (-5, kind));
    }
}

#[test]
fn frames_are_appended_and_a_failure_leaves_the_buffer_as_it_was() {
    let mut buf = BytesMut::from(&b"before"[..]);
    let error = encode_request(&mut buf, 1, "c", 14, &ProduceRequest::default()).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Unsupported, "Produce v14 is not spoken here")
    );
    // A preview: its responses have version 6, its requests do not.
    assert!(encode_request(&mut buf, 1, "c", 6, &InitProducerIdRequest::default()).is_err());
    // A field that the version lacks.
    let request = HeartbeatRequest::default().with_group_instance_id(Some(StrBytes::from_static_str("i")));
    assert_eq!(encode_request(&mut buf, 1, "c", 0, &request).unwrap_err().kind(), ErrorKind::Unsupported);
    let long = "x".repeat(40_000);
    assert_eq!(
        encode_request(&mut buf, 1, &long, 0, &HeartbeatRequest::default()).unwrap_err().field(),
        Some("client_id")
    );
    // A response of another API.
    let other = ResponseKind::Heartbeat(HeartbeatResponse::default());
    assert_eq!(encode_response(&mut buf, 3, 0, 1, &other).unwrap_err().kind(), ErrorKind::Malformed);
    assert_eq!(encode_response(&mut buf, 12, 99, 1, &other).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(&buf[..], b"before");
    encode_request(&mut buf, 1, "c", 0, &HeartbeatRequest::default()).unwrap();
    assert_eq!(&buf[..6], b"before");
    assert!(decode_request(unframed(buf.split_off(6))).is_ok());
}

#[test]
fn strings_and_records_are_slices_of_the_frame() {
    let records = Bytes::from(vec![7_u8; 5000]);
    let partition =
        messages::produce_request::PartitionProduceData::default().with_records(Some(records.clone()));
    let topic = messages::produce_request::TopicProduceData::default().with_partition_data(vec![partition]);
    let frame = sent(9, &ProduceRequest::default().with_topic_data(vec![topic]));
    let range = frame.as_ptr_range();
    let RequestBody::Known(RequestKind::Produce(request)) = decode_request(frame.clone()).unwrap().body
    else {
        panic!("not a Produce request")
    };
    let decoded = request.topic_data[0].partition_data[0].records.clone().unwrap();
    assert_eq!(decoded, records);
    assert!(range.contains(&decoded.as_ptr()));
}

#[test]
fn a_version_that_cannot_be_read_still_has_a_head_to_answer_to() {
    let mut frame = BytesMut::new();
    frame.put_slice(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 2, b'm', b'i']);
    frame.put_slice(b"whatever comes in version 99");
    let request = decode_request(frame.freeze()).unwrap();
    assert_eq!((request.api_key, request.version, request.correlation_id), (18, 99, 7));
    assert_eq!((request.client_id.as_deref(), request.body), (Some("mi"), RequestBody::UnsupportedVersion));
    // APIs nobody knows, APIs of brokers among themselves, versions nobody knows.
    for (key, version) in [(9999_i16, 0_i16), (4, 0), (0, 14), (3, -1)] {
        let mut frame = BytesMut::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_slice(&[0, 0, 0, 7, 0xff, 0xff]);
        let request = decode_request(frame.freeze()).unwrap();
        assert_eq!(
            (request.client_id, request.body),
            (None, RequestBody::UnsupportedVersion),
            "{key} v{version}"
        );
    }
}

#[test]
fn an_api_versions_answer_with_error_35_is_in_version_0_whatever_was_asked() {
    // As 2.8.2 writes it: error 35, and that it speaks ApiVersions 0 to 3.
    let frame = [0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 3];
    // As 0.10.2 writes it: error 35 and an empty list.
    let bare = [0, 0, 0, 7, 0, 35, 0, 0, 0, 0];
    for version in 0..=4 {
        let (id, answer) =
            decode_response::<ApiVersionsRequest>(Bytes::copy_from_slice(&frame), version).unwrap();
        assert_eq!((id, ErrorCode(answer.error_code)), (7, ErrorCode::UNSUPPORTED_VERSION));
        assert_eq!(answer.api_keys, [ApiVersion::default().with_api_key(18).with_max_version(3)]);
        let (_, answer) =
            decode_response::<ApiVersionsRequest>(Bytes::copy_from_slice(&bare), version).unwrap();
        assert!(answer.api_keys.is_empty());
    }
    // Any other error is in the version that was asked.
    let error = ResponseKind::ApiVersions(ApiVersionsResponse::default().with_error_code(42));
    let (_, answer) = decode_response::<ApiVersionsRequest>(answered(18, 3, &error), 3).unwrap();
    assert_eq!(answer.error_code, 42);
}

#[test]
fn a_client_and_a_broker_agree_on_a_version_of_api_versions() {
    // A broker that speaks ApiVersions 0 to 2 and Metadata 0 to 7.
    let speaks = [(18, 2), (3, 7)];
    let broker = |frame: Bytes| {
        let request = decode_request(frame).unwrap();
        let keys = speaks.map(|(key, max)| ApiVersion::default().with_api_key(key).with_max_version(max));
        let mut answer = ApiVersionsResponse::default().with_api_keys(keys.to_vec());
        let mut version = request.version;
        if version > 2 {
            (version, answer.error_code) = (0, 35);
        }
        answered(18, version, &ResponseKind::ApiVersions(answer))
    };
    let mut discovery = Discovery::default();
    let mut questions = 0;
    let versions: BrokerVersions = loop {
        questions += 1;
        let frame = broker(sent(discovery.version(), &discovery.request("milena", "0.1.0")));
        let (_, answer) = decode_response::<ApiVersionsRequest>(frame, discovery.version()).unwrap();
        match discovery.handle_response(&answer) {
            Discovered::Versions(versions) => break versions,
            Discovered::AskAgain(next) => discovery = next,
            Discovered::Refused(code) => panic!("{code}"),
        }
    };
    assert_eq!(questions, 2);
    assert_eq!(versions.negotiate::<MetadataRequest>().unwrap(), 7);
}

#[test]
fn null_and_empty_stay_apart() {
    for (topics, version) in [(None, 1), (Some(vec![]), 1), (None, 12), (Some(vec![]), 12)] {
        let request = MetadataRequest::default().with_topics(topics);
        let arrived = decode_request(sent(version, &request)).unwrap();
        assert_eq!(arrived.body, RequestBody::Known(RequestKind::Metadata(request)));
    }
}

#[test]
fn a_null_that_the_version_does_not_allow_is_not_sent() {
    let mut buf = BytesMut::new();
    // "All topics" is null from version 1 on; in version 0 it is an empty list.
    let error =
        encode_request(&mut buf, 1, "c", 0, &MetadataRequest::default().with_topics(None)).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Guard, Some("topics")));
    assert!(buf.is_empty());
}

#[test]
fn every_cut_of_a_request_and_every_surplus_is_an_error() {
    let frame = sent(12, &MetadataRequest::default());
    for cut in 0..frame.len() {
        assert!(decode_request(frame.slice(..cut)).is_err(), "{cut}");
    }
    let longer = [&frame[..], &[0]].concat();
    assert_eq!(decode_request(longer.into()).unwrap_err().kind(), ErrorKind::Guard);
}

#[test]
fn every_api_answers_with_its_own_key() {
    for api in ApiKey::iter() {
        let range = milena_protocol::supported(api as i16).unwrap();
        let mut sampler = milena_protocol::guard::sample::Sampler::new(3);
        for version in range.min..=range.max {
            let frame = Bytes::from(sampler.response(api as i16, version).unwrap());
            let (id, response) = decode_any_response(frame, api as i16, version).unwrap();
            assert_eq!(milena_protocol::response_key(&response), Some(api as i16));
            let mut again = BytesMut::new();
            encode_response(&mut again, api as i16, version, id, &response).unwrap();
            assert_eq!(decode_any_response(unframed(again), api as i16, version).unwrap(), (id, response));
            let request = decode_request(sampler.request(api as i16, version).unwrap().into()).unwrap();
            let RequestBody::Known(request) = request.body else { panic!("{api:?} v{version}") };
            assert_eq!(milena_protocol::request_key(&request), Some(api as i16));
        }
    }
}
