//! Fetch responses read in place against the guard and kafka-protocol: the same is accepted, and the same is read.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use milena_protocol::fetch::{FetchView, Partition, TOPIC_IDS_FROM, TopicKey, VERSIONS};
use milena_protocol::guard::check_response;
use milena_protocol::guard::sample::Sampler;
use milena_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchResponse, FetchableTopicResponse, LeaderIdAndEpoch,
    NodeEndpoint, PartitionData, SnapshotId,
};
use milena_protocol::messages::{self, FetchRequest, ResponseKind, TopicName};
use milena_protocol::{
    ErrorCode, ErrorKind, StrBytes, correlation_id, decode_response, encode_response, frame, supported,
};
use proptest::prelude::*;
use uuid::Uuid;

const FETCH: i16 = 1;

/// The versions whose structs can be written and read.
fn by_struct() -> std::ops::RangeInclusive<i16> {
    let range = supported(FETCH).unwrap();
    range.min..=range.max
}

/// What the view says, as the struct would. What both leave out of sight: unknown tagged fields, and whether an empty
/// list was null.
fn structured(view: &FetchView) -> FetchResponse {
    let mut topics = view.topics();
    let mut responses = Vec::new();
    while let Some(topic) = topics.next_topic() {
        let found = match topic.key() {
            TopicKey::Name(name) => FetchableTopicResponse::default()
                .with_topic(TopicName(StrBytes::from_string(name.to_owned()))),
            TopicKey::Id(id) => FetchableTopicResponse::default().with_topic_id(id),
        };
        let partitions: Vec<PartitionData> = topic.map(|partition| data(&partition)).collect();
        responses.push(found.with_partitions(partitions));
    }
    let endpoints = view.node_endpoints().map(|endpoint| {
        NodeEndpoint::default()
            .with_node_id(endpoint.id.into())
            .with_host(StrBytes::from_string(endpoint.host.to_owned()))
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.map(|rack| StrBytes::from_string(rack.to_owned())))
    });
    FetchResponse::default()
        .with_throttle_time_ms(view.throttle().as_millis() as i32)
        .with_error_code(view.error_code().0)
        .with_session_id(view.session_id())
        .with_responses(responses)
        .with_node_endpoints(endpoints.collect())
}

fn data(partition: &Partition<'_>) -> PartitionData {
    let aborted = partition.aborted_transactions().map(|aborted| {
        AbortedTransaction::default()
            .with_producer_id(aborted.producer_id.into())
            .with_first_offset(aborted.first_offset.0)
    });
    let mut data = PartitionData::default()
        .with_partition_index(partition.index().0)
        .with_error_code(partition.error_code().0)
        .with_high_watermark(partition.high_watermark().map_or(-1, |offset| offset.0))
        .with_last_stable_offset(partition.last_stable_offset().map_or(-1, |offset| offset.0))
        .with_log_start_offset(partition.log_start_offset().map_or(-1, |offset| offset.0))
        .with_aborted_transactions(Some(aborted.collect()))
        .with_preferred_read_replica(partition.preferred_read_replica().map_or(-1, |id| id.0).into())
        .with_records(Some(partition.records()));
    if let Some(end) = partition.diverging_epoch() {
        data.diverging_epoch =
            EpochEndOffset::default().with_epoch(end.epoch.0).with_end_offset(end.end_offset.0);
    }
    if let Some(leader) = partition.current_leader() {
        data.current_leader =
            LeaderIdAndEpoch::default().with_leader_id(leader.id.into()).with_leader_epoch(leader.epoch.0);
    }
    if let Some(end) = partition.snapshot_id() {
        data.snapshot_id = SnapshotId::default().with_epoch(end.epoch.0).with_end_offset(end.end_offset.0);
    }
    data
}

/// What a struct says, without what the view leaves out: unknown tagged fields, nulls, and numbers that mean "not known".
fn plain(mut response: FetchResponse) -> FetchResponse {
    response.unknown_tagged_fields.clear();
    response.throttle_time_ms = response.throttle_time_ms.max(0);
    for endpoint in &mut response.node_endpoints {
        endpoint.unknown_tagged_fields.clear();
    }
    for topic in &mut response.responses {
        topic.unknown_tagged_fields.clear();
        for data in &mut topic.partitions {
            data.unknown_tagged_fields.clear();
            data.diverging_epoch.unknown_tagged_fields.clear();
            data.current_leader.unknown_tagged_fields.clear();
            data.snapshot_id.unknown_tagged_fields.clear();
            data.high_watermark = data.high_watermark.max(-1);
            data.last_stable_offset = data.last_stable_offset.max(-1);
            data.log_start_offset = data.log_start_offset.max(-1);
            data.preferred_read_replica = data.preferred_read_replica.0.max(-1).into();
            data.records.get_or_insert_default();
            for aborted in data.aborted_transactions.get_or_insert_default() {
                aborted.unknown_tagged_fields.clear();
            }
        }
    }
    response
}

/// The view and the struct of a frame must agree on whether it is sound, and on what it says. Returns whether it was
/// accepted.
fn agree(frame: &Bytes, version: i16) -> bool {
    let named = || format!("v{version} {frame:02x?}");
    let view = FetchView::read(frame.clone(), version);
    match (&view, check_response(FETCH, version, frame)) {
        (Ok(_), Ok(_)) => {}
        (Err(ours), Err(theirs)) => {
            assert_eq!((ours.kind(), theirs.kind()), (ErrorKind::Guard, ErrorKind::Guard), "{}", named());
            assert!(ours.at().unwrap() <= frame.len(), "{}", named());
            let count =
                |error: &milena_protocol::ProtocolError| error.to_string().contains("a count is larger");
            // The table knows the fewest bytes of an element over all versions, so that it may see a count later.
            if !count(ours) && !count(&theirs) {
                assert_eq!(ours.to_string(), theirs.to_string(), "{}", named());
            }
            return false;
        }
        // The view decodes nothing into memory, so no limit of memory can be passed.
        (Ok(_), Err(theirs)) if theirs.to_string().contains("more memory") => return true,
        (ours, theirs) => panic!("view {ours:?}, guard {theirs:?}: {}", named()),
    }
    let view = view.unwrap();
    if by_struct().contains(&version) {
        let (correlation_id, response) = decode_response::<FetchRequest>(frame.clone(), version)
            .unwrap_or_else(|error| panic!("{error}: {}", named()));
        assert_eq!(view.correlation_id(), correlation_id);
        assert_eq!(structured(&view), plain(response), "{}", named());
    } else {
        // Nothing to compare with, but the second pass must find what the first one counted.
        structured(&view);
    }
    true
}

#[test]
fn the_versions_are_those_of_the_table() {
    let known = milena_protocol::guard::response_message(FETCH).unwrap().versions();
    assert_eq!((VERSIONS.min, VERSIONS.max), known);
    for version in [-1, VERSIONS.max + 1, i16::MAX] {
        let error = FetchView::read(Bytes::from_static(&[0; 64]), version).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn every_valid_frame_is_read_as_the_struct_reads_it() {
    for version in VERSIONS.min..=VERSIONS.max {
        let mut sampler = Sampler::new(version as u64);
        for _ in 0..400 {
            let frame = Bytes::from(sampler.response(FETCH, version).unwrap());
            assert!(agree(&frame, version), "v{version} {frame:02x?}");
        }
    }
}

#[test]
fn a_frame_cut_at_any_byte_or_with_one_more_is_refused() {
    for version in VERSIONS.min..=VERSIONS.max {
        for seed in 0..12 {
            let whole = Bytes::from(Sampler::new(seed).response(FETCH, version).unwrap());
            for cut in 0..whole.len() {
                assert!(!agree(&whole.slice(..cut), version), "v{version}, {cut} of {whole:02x?}");
            }
            let more = Bytes::from([&whole[..], &[0]].concat());
            assert!(!agree(&more, version), "v{version} and a byte: {whole:02x?}");
        }
    }
}

/// Bits turned, bytes replaced by those that lengths and varints dislike, bytes put in and taken out, huge counts.
fn injure(frame: &mut Vec<u8>, sampler: &mut Sampler) {
    for _ in 0..=sampler.below(2) {
        let at = sampler.below(frame.len() as u64) as usize;
        match sampler.below(7) {
            0 if !frame.is_empty() => frame[at] ^= 1 << sampler.below(8),
            1 if !frame.is_empty() => {
                let hostile = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff];
                frame[at] = hostile[sampler.below(8) as usize];
            }
            2 => frame.insert(at, sampler.below(256) as u8),
            3 if !frame.is_empty() => drop(frame.remove(at)),
            4 => {
                let huge = [0x7f, 0xff, 0xff, 0xff];
                let end = (at + 4).min(frame.len());
                frame.splice(at..end, huge);
            }
            5 => drop(frame.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0x0f])),
            _ => {
                let end = (at + 1 + sampler.below(4) as usize).min(frame.len());
                let copy = frame[at.min(end)..end].to_vec();
                drop(frame.splice(at..at, copy));
            }
        }
    }
}

#[test]
fn of_injured_frames_exactly_those_are_accepted_that_guard_and_decoder_accept() {
    let mut accepted = [0; 2];
    for version in VERSIONS.min..=VERSIONS.max {
        let mut sampler = Sampler::new(7000 + version as u64);
        for _ in 0..60 {
            let whole = sampler.response(FETCH, version).unwrap();
            for _ in 0..60 {
                let mut frame = whole.clone();
                injure(&mut frame, &mut sampler);
                accepted[usize::from(agree(&frame.into(), version))] += 1;
            }
        }
    }
    // Both kinds must occur, or the comparison says nothing.
    assert!(accepted.iter().all(|&count| count > 5_000), "refused, accepted: {accepted:?}");
}

#[test]
fn noise_is_refused_like_the_guard_does_it() {
    let mut sampler = Sampler::new(99);
    for version in VERSIONS.min..=VERSIONS.max {
        for _ in 0..500 {
            let size = sampler.below(90);
            let small = sampler.below(2) == 0;
            let noise: Vec<u8> = (0..size)
                .map(|_| if small { sampler.below(3) as u8 } else { sampler.below(256) as u8 })
                .collect();
            agree(&noise.into(), version);
        }
    }
}

/// Answers that real brokers gave, whole and cut at every byte. A request of version v was sent with the number 100 + v.
#[test]
fn answers_of_brokers_of_all_ages_are_read_as_the_struct_reads_them() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "responses") {
            continue;
        }
        let mut stream = BytesMut::from(&std::fs::read(&path).unwrap()[..]);
        while let Some(frame) = frame::split(&mut stream, frame::DEFAULT_MAX).unwrap() {
            let version = i16::try_from(correlation_id(&frame).unwrap() - 100).unwrap();
            if !VERSIONS.contains(version) {
                continue;
            }
            assert!(agree(&frame, version), "{} v{version}", path.display());
            for cut in 0..frame.len() {
                assert!(!agree(&frame.slice(..cut), version), "{} v{version}, {cut}", path.display());
            }
            seen.insert(version);
        }
    }
    assert!((VERSIONS.min..=VERSIONS.max).all(|version| seen.contains(&version)), "{seen:?}");
}

/// Four bytes that ask for two thousand million topics cost nothing.
#[test]
fn a_count_that_the_frame_cannot_hold_is_refused_at_its_place() {
    for (version, count) in [(0, &[0x7f, 0xff, 0xff, 0xff][..]), (12, &[0xff, 0xff, 0xff, 0xff, 0x0f])] {
        let mut frame = vec![0, 0, 0, 7];
        if version >= 12 {
            frame.push(0);
            frame.extend([0; 10]);
        }
        frame.extend(count);
        let error = FetchView::read(frame.clone().into(), version).unwrap_err();
        assert_eq!((error.field(), error.at()), (Some("responses"), Some(frame.len())));
        assert_eq!(
            error.to_string(),
            format!(
                "FetchResponse v{version} refused: a count is larger than the frame can hold \
                 (field responses, byte {})",
                frame.len()
            )
        );
    }
}

/// From the protocol guide, by hand: versions 0 to 3 have no last stable offset and no aborted transactions; version 0
/// has no throttle time.
#[test]
fn the_oldest_versions_are_read_as_the_guide_says() {
    for version in 0..=3 {
        let mut frame = vec![0, 0, 0, 7];
        if version >= 1 {
            frame.extend([0, 0, 0, 9]);
        }
        frame.extend([0, 0, 0, 2, 0, 1, b'a', 0, 0, 0, 2]);
        frame.extend([0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 3, 1, 2, 3]);
        frame.extend([0, 0, 0, 6, 0, 3]);
        frame.extend([0xff; 8]);
        frame.extend([0xff; 4]);
        frame.extend([0, 2, b'b', b'c', 0, 0, 0, 0]);
        let frame = Bytes::from(frame);
        let view = FetchView::read(frame.clone(), version).unwrap();
        assert_eq!((view.correlation_id(), view.error_code()), (7, ErrorCode::NONE));
        assert_eq!(view.throttle().as_millis(), if version == 0 { 0 } else { 9 });
        let mut topics = view.topics();
        let mut topic = topics.next_topic().unwrap();
        assert_eq!(topic.key(), TopicKey::Name("a"));
        let first = topic.next().unwrap();
        assert_eq!((first.index().0, first.high_watermark().unwrap().0), (5, 256));
        assert_eq!(&first.records()[..], [1, 2, 3]);
        assert_eq!((first.last_stable_offset(), first.log_start_offset()), (None, None));
        assert_eq!(first.aborted_transactions().count(), 0);
        let second = topic.next().unwrap();
        assert_eq!((second.index().0, second.error_code()), (6, ErrorCode(3)));
        assert_eq!((second.high_watermark(), second.records().len()), (None, 0));
        assert!(topic.next().is_none());
        let mut last = topics.next_topic().unwrap();
        assert_eq!(last.key(), TopicKey::Name("bc"));
        assert!(last.next().is_none());
        assert!(topics.next_topic().is_none() && topics.next_topic().is_none());
        for cut in 0..frame.len() {
            assert!(FetchView::read(frame.slice(..cut), version).is_err(), "{cut}");
        }
    }
}

#[test]
fn records_are_slices_of_the_frame() {
    let response = FetchResponse::default().with_responses(vec![
        FetchableTopicResponse::default().with_topic_id(Uuid::from_u128(1)).with_partitions(vec![
            PartitionData::default().with_records(Some(Bytes::from_static(b"records"))),
        ]),
    ]);
    let frame = written(&response, 17);
    let view = FetchView::read(frame.clone(), 17).unwrap();
    let mut topics = view.topics();
    let records = topics.next_topic().unwrap().next().unwrap().records();
    assert_eq!(&records[..], b"records");
    assert!(frame.as_ptr_range().contains(&records.as_ptr()), "the records were copied");
}

#[test]
fn partitions_that_are_not_read_are_passed_over() {
    let topic = |id: u128, count: i32| {
        let partitions = (0..count).map(|index| PartitionData::default().with_partition_index(index));
        FetchableTopicResponse::default()
            .with_topic_id(Uuid::from_u128(id))
            .with_partitions(partitions.collect())
    };
    let response = FetchResponse::default().with_responses(vec![topic(1, 3), topic(2, 0), topic(3, 2)]);
    let view = FetchView::read(written(&response, 16), 16).unwrap();
    for read in 0..4 {
        let mut topics = view.topics();
        let mut seen = Vec::new();
        while let Some(mut topic) = topics.next_topic() {
            let partitions: Vec<i32> =
                topic.by_ref().take(read).map(|partition| partition.index().0).collect();
            seen.push((topic.key(), partitions));
        }
        let expected = |id: u128, count: usize| {
            (TopicKey::Id(Uuid::from_u128(id)), (0..count.min(read) as i32).collect::<Vec<_>>())
        };
        assert_eq!(seen, [expected(1, 3), expected(2, 0), expected(3, 2)]);
    }
}

/// A frame without its length.
fn written(response: &FetchResponse, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    encode_response(&mut out, FETCH, version, 7, &ResponseKind::Fetch(response.clone())).unwrap();
    frame::split(&mut out, frame::DEFAULT_MAX).unwrap().unwrap()
}

/// Any answer, negative numbers and large ones included, with what the version lacks left out.
fn answer(version: i16) -> impl Strategy<Value = FetchResponse> {
    let topics = proptest::collection::vec(topic(version), 0..5);
    let endpoints = proptest::collection::vec((any::<i32>(), ".{0,9}", any::<i32>(), rack()), 0..4);
    (any::<i32>(), any::<i16>(), any::<i32>(), topics, endpoints).prop_map(
        move |(throttle, code, session, topics, endpoints)| {
            let mut response = FetchResponse::default().with_responses(topics);
            if version >= 1 {
                response.throttle_time_ms = throttle;
            }
            if version >= 7 {
                (response.error_code, response.session_id) = (code, session);
            }
            if version >= 16 {
                response.node_endpoints = endpoints
                    .into_iter()
                    .map(|(id, host, port, rack)| {
                        NodeEndpoint::default()
                            .with_node_id(messages::BrokerId(id))
                            .with_host(StrBytes::from_string(host))
                            .with_port(port)
                            .with_rack(rack.map(StrBytes::from_string))
                    })
                    .collect();
            }
            response
        },
    )
}

fn rack() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(".{0,9}")
}

fn topic(version: i16) -> impl Strategy<Value = FetchableTopicResponse> {
    (".{0,60}", any::<u128>(), proptest::collection::vec(partition(version), 0..6)).prop_map(
        move |(name, id, partitions)| {
            let topic = FetchableTopicResponse::default().with_partitions(partitions);
            if version >= TOPIC_IDS_FROM {
                topic.with_topic_id(Uuid::from_u128(id))
            } else {
                topic.with_topic(TopicName(StrBytes::from_string(name)))
            }
        },
    )
}

fn partition(version: i16) -> impl Strategy<Value = PartitionData> {
    let aborted = proptest::option::of(proptest::collection::vec(any::<(i64, i64)>(), 0..4));
    let records = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
    let tags = any::<([Option<(i32, i64)>; 2], Option<(i32, i32)>)>();
    (any::<(i32, i16, i64, i64, i64, i32)>(), aborted, records, tags).prop_map(
        move |((index, code, high, stable, start, preferred), aborted, records, (ends, leader))| {
            let mut data = PartitionData::default()
                .with_partition_index(index)
                .with_error_code(code)
                .with_high_watermark(high)
                .with_records(records.map(Bytes::from));
            if version >= 4 {
                data.last_stable_offset = stable;
                data.aborted_transactions = aborted.map(|aborted| {
                    let one = |(producer, first): (i64, i64)| {
                        AbortedTransaction::default()
                            .with_producer_id(producer.into())
                            .with_first_offset(first)
                    };
                    aborted.into_iter().map(one).collect()
                });
            }
            if version >= 5 {
                data.log_start_offset = start;
            }
            if version >= 11 {
                data.preferred_read_replica = messages::BrokerId(preferred);
            }
            if version >= 12 {
                if let Some((epoch, end)) = ends[0] {
                    data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
                }
                if let Some((epoch, end)) = ends[1] {
                    data.snapshot_id = SnapshotId::default().with_epoch(epoch).with_end_offset(end);
                }
                if let Some((id, epoch)) = leader {
                    data.current_leader =
                        LeaderIdAndEpoch::default().with_leader_id(id.into()).with_leader_epoch(epoch);
                }
            }
            data
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_what_is_read(
        (version, response) in by_struct().prop_flat_map(|version| (Just(version), answer(version))),
    ) {
        let frame = written(&response, version);
        let view = FetchView::read(frame.clone(), version).unwrap();
        prop_assert_eq!(view.correlation_id(), 7);
        prop_assert_eq!(structured(&view), plain(response));
        prop_assert!(agree(&frame, version));
    }
}
