//! Produce requests as scatter lists: byte for byte what the schema says, in every version, or an error.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::{ProduceRequest, TopicName, TransactionalId};
use milena_protocol::produce::{Head, Part, TOPIC_IDS_FROM, VERSIONS, encode};
use milena_protocol::{
    ErrorKind, PartitionId, RequestBody, RequestKind, StrBytes, decode_request, encode_request, frame,
    supported,
};
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Clone, Debug)]
struct Piece {
    topic: String,
    id: Option<Uuid>,
    partition: i32,
    batch: Bytes,
}

impl Part for Piece {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn topic_id(&self) -> Option<Uuid> {
        self.id
    }

    fn partition(&self) -> PartitionId {
        PartitionId(self.partition)
    }

    fn batch(&self) -> &Bytes {
        &self.batch
    }
}

fn piece(topic: &str, partition: i32, batch: Bytes) -> Piece {
    Piece { topic: topic.to_owned(), id: Some(Uuid::from_u128(topic.len() as u128)), partition, batch }
}

fn head(version: i16) -> Head<'static> {
    Head {
        version,
        correlation_id: 77,
        client_id: "milena",
        acks: -1,
        timeout: Duration::from_millis(1234),
        transactional_id: None,
    }
}

/// The topics of a request in the order in which they first occur.
fn by_topic(parts: &[Piece]) -> Vec<Vec<&Piece>> {
    let mut topics: Vec<Vec<&Piece>> = Vec::new();
    for part in parts {
        match topics.iter_mut().find(|topic| topic[0].topic == part.topic) {
            Some(topic) => topic.push(part),
            None => topics.push(vec![part]),
        }
    }
    topics
}

/// The same request by its struct.
fn by_schema(head: &Head<'_>, parts: &[Piece]) -> Vec<u8> {
    let topics = by_topic(parts).into_iter().map(|partitions| {
        let data = partitions.iter().map(|part| {
            PartitionProduceData::default().with_index(part.partition).with_records(Some(part.batch.clone()))
        });
        let topic = TopicProduceData::default().with_partition_data(data.collect());
        if head.version >= TOPIC_IDS_FROM {
            topic.with_topic_id(partitions[0].id.unwrap_or_default())
        } else {
            topic.with_name(TopicName(StrBytes::from_string(partitions[0].topic.clone())))
        }
    });
    let transaction = head.transactional_id.map(|id| TransactionalId(StrBytes::from_string(id.to_owned())));
    let request = ProduceRequest::default()
        .with_transactional_id(transaction)
        .with_acks(head.acks)
        .with_timeout_ms(head.timeout.as_millis() as i32)
        .with_topic_data(topics.collect());
    let mut buf = BytesMut::new();
    encode_request(&mut buf, head.correlation_id, head.client_id, head.version, &request).unwrap();
    buf.to_vec()
}

/// The versions in which the struct can be written.
fn by_struct() -> std::ops::RangeInclusive<i16> {
    let range = supported(0).unwrap();
    range.min..=range.max
}

#[test]
fn the_newest_version_is_spoken() {
    assert_eq!(VERSIONS.max, *by_struct().end());
}

proptest! {
    #[test]
    fn it_is_what_the_schema_says_in_every_version(
        version in by_struct(),
        // Sizes around the one from which a batch is not copied, and names whose compact length takes two bytes.
        sizes in proptest::collection::vec((0usize..5, 0i32..9, prop_oneof![0usize..300, 4000usize..9000]), 0..12),
        transactional in any::<bool>(),
        acks in -1i16..2,
        timeout in 0..i32::MAX,
        client_id in "[a-z]{0,200}",
    ) {
        let names = ["a", "bb", "ccc", "ü.ö", &"long".repeat(50)];
        let parts: Vec<Piece> = sizes
            .iter()
            .map(|&(topic, partition, size)| {
                piece(names[topic], partition, Bytes::from(vec![partition as u8; size]))
            })
            .collect();
        let head = Head {
            acks,
            timeout: Duration::from_millis(timeout as u64),
            client_id: &client_id,
            transactional_id: (transactional && version >= 3).then_some("tx"),
            ..head(version)
        };
        prop_assert_eq!(encode(&head, &parts).unwrap().concat(), by_schema(&head, &parts));
    }
}

/// From the protocol guide: acks, timeout, topics, without a transactional id and without a flexible header.
#[test]
fn the_oldest_versions_are_written_as_the_guide_says() {
    let parts = [
        piece("t", 1, Bytes::from_static(b"set")),
        piece("uu", 0, Bytes::new()),
        piece("t", 0, Bytes::from_static(b"x")),
    ];
    for version in 0..=2 {
        let body: [&[u8]; 18] = [
            &[0, 0, 0, version],
            &[0, 0, 0, 77, 0, 6],
            b"milena",
            &[0xff, 0xff, 0, 0, 0x04, 0xd2],
            &[0, 0, 0, 2],
            &[0, 1, b't'],
            &[0, 0, 0, 2],
            &[0, 0, 0, 1],
            &[0, 0, 0, 3],
            b"set",
            &[0, 0, 0, 0],
            &[0, 0, 0, 1],
            b"x",
            &[0, 2],
            b"uu",
            &[0, 0, 0, 1],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0],
        ];
        let body = body.concat();
        let expected = [&(body.len() as i32).to_be_bytes()[..], &body].concat();
        assert_eq!(encode(&head(version.into()), &parts).unwrap().concat(), expected, "v{version}");
    }
}

#[test]
fn large_batches_are_not_copied() {
    let batch = Bytes::from(vec![1; 5000]);
    for version in [0, 2, 3, 8, 9, 13] {
        let parts = [piece("t", 0, batch.clone()), piece("t", 1, batch.clone())];
        let pieces = encode(&head(version), &parts).unwrap();
        let shared = pieces.iter().filter(|piece| piece.as_ptr() == batch.as_ptr()).count();
        assert_eq!(shared, 2, "v{version}");
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "v{version}: a piece of nothing");
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_never_cut() {
    let long = "x".repeat(32_768);
    let most = "x".repeat(32_767);
    for version in [0, 3, 9, 12] {
        let named = |topic: &str| encode(&head(version), &[piece(topic, 0, Bytes::new())]);
        let error = named(&long).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Malformed, Some("name")), "v{version}");
        assert_eq!(named(&most).unwrap().concat(), {
            let whole = by_bytes(version, &most);
            assert!(whole.len() > 32_767);
            whole
        });
        let client = encode::<Piece>(&Head { client_id: &long, ..head(version) }, &[]).unwrap_err();
        assert_eq!((client.kind(), client.field()), (ErrorKind::Malformed, Some("client_id")), "v{version}");
        if version >= 3 {
            let id = Head { transactional_id: Some(&long), ..head(version) };
            let id = encode::<Piece>(&id, &[]).unwrap_err();
            assert_eq!((id.kind(), id.field()), (ErrorKind::Malformed, Some("transactional_id")));
        }
    }
    for version in [-1, 14, i16::MAX] {
        let error = encode::<Piece>(&head(version), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "v{version}");
    }
    let transaction = Head { transactional_id: Some("tx"), ..head(2) };
    assert_eq!(encode::<Piece>(&transaction, &[]).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// One empty batch for partition 0 of a topic, by hand.
fn by_bytes(version: i16, topic: &str) -> Vec<u8> {
    let flexible = version >= 9;
    let mut out = vec![0, 0];
    out.extend(version.to_be_bytes());
    out.extend([0, 0, 0, 77, 0, 6]);
    out.extend(b"milena");
    if flexible {
        // No tags; no transactional id.
        out.extend([0, 0]);
    } else if version >= 3 {
        out.extend([0xff, 0xff]);
    }
    out.extend([0xff, 0xff, 0, 0, 0x04, 0xd2]);
    if flexible {
        let length = topic.len() + 1;
        assert!((1 << 14..1 << 21).contains(&length));
        out.extend([2, length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8]);
        out.extend(topic.as_bytes());
        out.extend([2, 0, 0, 0, 0, 1, 0, 0, 0]);
    } else {
        out.extend([0, 0, 0, 1]);
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
        out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    [&(out.len() as i32).to_be_bytes()[..], &out].concat()
}

/// The batches are one buffer many times over, so the test needs no memory of that size.
#[test]
fn a_request_over_2_gib_is_an_error_and_does_not_wrap() {
    let batch = Bytes::from(vec![0; 64 << 20]);
    for version in [0, 3, 9, 13] {
        let mut parts: Vec<Piece> = (0..31).map(|partition| piece("t", partition, batch.clone())).collect();
        assert!(encode(&head(version), &parts).is_ok());
        parts.push(piece("t", 31, batch.clone()));
        let error = encode(&head(version), &parts).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "v{version}");
    }
}

/// Requests that real brokers took, captured without any encoder of ours: the scatter list gives the same bytes.
#[test]
fn requests_that_brokers_of_all_ages_took_are_written_again_as_they_were() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "requests") {
            continue;
        }
        let mut stream = BytesMut::from(&std::fs::read(&path).unwrap()[..]);
        while let Some(frame) = frame::split(&mut stream, frame::DEFAULT_MAX).unwrap() {
            let request = decode_request(frame.clone()).unwrap();
            let RequestBody::Known(RequestKind::Produce(produce)) = request.body else { continue };
            let parts: Vec<Piece> = produce
                .topic_data
                .iter()
                .flat_map(|topic| {
                    topic.partition_data.iter().map(|data| Piece {
                        topic: topic.name.to_string(),
                        id: Some(topic.topic_id),
                        partition: data.index,
                        batch: data.records.clone().unwrap(),
                    })
                })
                .collect();
            let head = Head {
                version: request.version,
                correlation_id: request.correlation_id,
                client_id: &request.client_id.unwrap(),
                acks: produce.acks,
                timeout: Duration::from_millis(produce.timeout_ms as u64),
                transactional_id: produce.transactional_id.as_ref().map(|id| id.as_str()),
            };
            let again = encode(&head, &parts).unwrap().concat();
            assert_eq!(again[4..], frame[..], "{} v{}", path.display(), head.version);
            seen.insert(request.version);
        }
    }
    assert!((VERSIONS.min..=VERSIONS.max).all(|version| seen.contains(&version)), "{seen:?}");
}
