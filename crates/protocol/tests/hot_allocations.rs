//! What the two hot messages allocate, counted: a fetch answer is read without any, a produce request is written with
//! a handful however many batches it has.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use bytes::{Bytes, BytesMut};
use milena_protocol::fetch::{FetchView, VERSIONS};
use milena_protocol::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, NodeEndpoint, PartitionData,
};
use milena_protocol::messages::{FetchRequest, TopicName};
use milena_protocol::produce::{Head, Part, encode};
use milena_protocol::{
    ErrorKind, PartitionId, Request, ResponseKind, StrBytes, encode_response, frame, guard,
};
use uuid::Uuid;

const FETCH: i16 = FetchRequest::KEY;

fn counted<T>(run: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut result = None;
    let info = measure(|| result = Some(run()));
    (result.unwrap(), info)
}

/// An answer of so many topics with so many partitions each, with aborted transactions and addresses.
fn answer(version: i16, topics: u32, partitions: u32) -> Bytes {
    let partition = |index: u32| {
        let mut data = PartitionData::default()
            .with_partition_index(index as i32)
            .with_high_watermark(100)
            .with_records(Some(Bytes::from(vec![index as u8; 200])));
        if version >= 4 {
            let aborted =
                |id| AbortedTransaction::default().with_producer_id(i64::into(id)).with_first_offset(id);
            data.aborted_transactions = Some((0..3).map(aborted).collect());
        }
        if version >= 12 {
            data.diverging_epoch.epoch = 3;
            data.current_leader.leader_epoch = 4;
        }
        data
    };
    let topic = |id: u32| {
        let topic =
            FetchableTopicResponse::default().with_partitions((0..partitions).map(partition).collect());
        if version >= 13 {
            topic.with_topic_id(Uuid::from_u128(id.into()))
        } else {
            topic.with_topic(TopicName(StrBytes::from_string(format!("topic-{id}"))))
        }
    };
    let mut response = FetchResponse::default().with_responses((0..topics).map(topic).collect());
    if version >= 16 {
        let host = StrBytes::from_static_str("broker");
        response.node_endpoints = (0..9).map(|_| NodeEndpoint::default().with_host(host.clone())).collect();
    }
    let mut out = BytesMut::new();
    encode_response(&mut out, FETCH, version, 7, &ResponseKind::Fetch(response)).unwrap();
    frame::split(&mut out, frame::DEFAULT_MAX).unwrap().unwrap()
}

/// Looks at all of an answer; says how many partitions and bytes of records it has.
fn look(frame: Bytes, version: i16) -> (usize, usize) {
    let view = FetchView::read(frame, version).unwrap();
    let (mut count, mut bytes) = (0, 0);
    let mut topics = view.topics();
    while let Some(topic) = topics.next_topic() {
        for partition in topic {
            count += 1;
            bytes += partition.records().len();
            assert_eq!(partition.aborted_transactions().count(), if version >= 4 { 3 } else { 0 });
        }
    }
    assert_eq!(view.node_endpoints().count(), if version >= 16 { 9 } else { 0 });
    (count, bytes)
}

#[test]
fn a_fetch_answer_is_read_without_an_allocation_however_many_partitions_it_has() {
    let spoken = FetchRequest::VERSIONS;
    for version in spoken.min.max(VERSIONS.min)..=spoken.max.min(VERSIONS.max) {
        for (topics, partitions) in [(0, 0), (1, 1), (1, 1000), (1000, 1)] {
            let frame = answer(version, topics, partitions);
            // The first to share the frame makes what counts its sharers.
            let shared = frame.clone();
            let (seen, info) = counted(|| look(frame, version));
            assert_eq!(seen, ((topics * partitions) as usize, (topics * partitions * 200) as usize));
            assert_eq!(info.count_total, 0, "v{version}, {topics} x {partitions}: {info:?}");
            drop(shared);
        }
    }
}

#[test]
fn an_answer_that_would_cost_the_decoder_too_much_costs_the_view_nothing() {
    // Topics without a name and without partitions, with an unknown tag: five bytes each, and 576 in memory.
    let topics: u32 = 10_000;
    let mut frame = vec![0, 0, 0, 7, 0];
    frame.extend([0; 10]);
    frame.extend([(topics + 1) as u8 | 0x80, ((topics + 1) >> 7) as u8]);
    for _ in 0..topics {
        frame.extend([1, 1, 1, 99, 0]);
    }
    frame.push(0);
    let refused = guard::check_response(FETCH, 12, &frame).unwrap_err();
    assert!(refused.to_string().contains("more memory"), "{refused}");
    let (view, info) = counted({
        let frame = Bytes::from(frame);
        move || FetchView::read(frame, 12).unwrap()
    });
    assert_eq!(info.count_total, 0, "{info:?}");
    let mut seen = 0;
    let mut all = view.topics();
    while all.next_topic().is_some() {
        seen += 1;
    }
    assert_eq!(seen, topics);
}

#[test]
fn a_refused_answer_allocates_its_error_and_nothing_else() {
    let whole = answer(17, 10, 100);
    for cut in [0, 1, 20, whole.len() / 2, whole.len() - 1] {
        let frame = whole.slice(..cut);
        let (result, info) = counted(|| FetchView::read(frame, 17));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Guard);
        assert!(info.count_total <= 3 && info.bytes_max < 1024, "{cut}: {info:?}");
    }
}

#[derive(Clone)]
struct Piece {
    topic: String,
    partition: i32,
    batch: Bytes,
}

impl Part for Piece {
    fn topic(&self) -> &str {
        &self.topic
    }

    fn topic_id(&self) -> Option<Uuid> {
        None
    }

    fn partition(&self) -> PartitionId {
        PartitionId(self.partition)
    }

    fn batch(&self) -> &Bytes {
        &self.batch
    }
}

#[test]
fn a_produce_request_takes_a_handful_of_allocations_however_many_batches_it_has() {
    for version in [0, 2, 3, 8, 9, 13] {
        for size in [100, 10_000] {
            let batch = Bytes::from(vec![1; size]);
            for count in [1, 1000] {
                let piece = |partition| Piece { topic: "topic".to_owned(), partition, batch: batch.clone() };
                let parts: Vec<Piece> = (0..count).map(piece).collect();
                let head = Head {
                    version,
                    correlation_id: 1,
                    client_id: "milena",
                    acks: -1,
                    timeout: Duration::from_secs(30),
                    transactional_id: None,
                };
                let (pieces, info) = counted(|| encode(&head, &parts).unwrap());
                let sent: usize = pieces.iter().map(Bytes::len).sum();
                assert!(sent > size * parts.len());
                assert!(info.count_total <= 8, "v{version}, {count} x {size}: {info:?}");
                // Large batches are not copied.
                assert!(size < 4096 || info.bytes_max < 200 * parts.len() as u64 + 1024, "{info:?}");
            }
        }
    }
}
