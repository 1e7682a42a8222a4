//! The two hot messages: a fetch answer read in place and by the guard and kafka-protocol, a produce request written as
//! a scatter list and by kafka-protocol.
//!
//! `cargo bench -p milena-benches --bench fetch_view`. Throughput is in partitions (`elem/s`); 1 Gelem/s is 1 ns a
//! partition.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here
#![allow(missing_docs)] // criterion's macro makes a function without

use std::hint::black_box;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use milena_protocol::fetch::FetchView;
use milena_protocol::guard::check_response;
use milena_protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::{FetchRequest, ProduceRequest, TopicName};
use milena_protocol::produce::{Head, Part, encode};
use milena_protocol::{
    Encodable, PartitionId, ResponseKind, StrBytes, decode_response, encode_response, frame,
};
use uuid::Uuid;

const FETCH: i16 = 1;

struct Shape {
    name: &'static str,
    partitions: u32,
    records: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "100 x 10 KiB", partitions: 100, records: 10 << 10 },
    Shape { name: "1000 x 200 B", partitions: 1000, records: 200 },
    Shape { name: "1000 empty", partitions: 1000, records: 0 },
];

/// Ten topics, the partitions dealt among them.
fn answer(shape: &Shape, version: i16) -> Bytes {
    let partition = |index: u32| {
        PartitionData::default()
            .with_partition_index(index as i32)
            .with_high_watermark(1_000_000)
            .with_last_stable_offset(1_000_000)
            .with_log_start_offset(0)
            .with_aborted_transactions(None)
            .with_records(Some(Bytes::from(vec![index as u8; shape.records])))
    };
    let topic = |id: u32| {
        let topic = FetchableTopicResponse::default()
            .with_partitions((0..shape.partitions / 10).map(partition).collect());
        if version >= 13 {
            topic.with_topic_id(Uuid::from_u128(id.into()))
        } else {
            topic.with_topic(TopicName(StrBytes::from_string(format!("a-topic-{id}"))))
        }
    };
    let response = FetchResponse::default().with_responses((0..10).map(topic).collect());
    let mut out = BytesMut::new();
    encode_response(&mut out, FETCH, version, 7, &ResponseKind::Fetch(response)).unwrap();
    frame::split(&mut out, frame::DEFAULT_MAX).unwrap().unwrap()
}

fn by_view(frame: Bytes, version: i16) -> usize {
    let view = FetchView::read(frame, version).unwrap();
    let mut seen = 0;
    let mut topics = view.topics();
    while let Some(topic) = topics.next_topic() {
        for partition in topic {
            if partition.high_watermark().is_some() && partition.aborted_transactions().next().is_none() {
                seen += black_box(partition.records()).len();
            }
        }
    }
    seen
}

fn by_struct(frame: Bytes, version: i16) -> usize {
    let (_, response) = decode_response::<FetchRequest>(frame, version).unwrap();
    let mut seen = 0;
    for topic in response.responses {
        for partition in topic.partitions {
            if partition.high_watermark >= 0
                && partition.aborted_transactions.is_none_or(|list| list.is_empty())
            {
                seen += black_box(partition.records.unwrap_or_default()).len();
            }
        }
    }
    seen
}

fn fetch(c: &mut Criterion) {
    for version in [11, 12, 17] {
        let mut group = c.benchmark_group(format!("fetch v{version}"));
        for shape in &SHAPES {
            let frame = answer(shape, version);
            assert_eq!(by_view(frame.clone(), version), by_struct(frame.clone(), version));
            group.throughput(Throughput::Elements(shape.partitions.into()));
            group.bench_function(format!("{}/in place", shape.name), |b| {
                b.iter(|| by_view(black_box(&frame).clone(), version));
            });
            group.bench_function(format!("{}/in place, check alone", shape.name), |b| {
                b.iter(|| FetchView::read(black_box(&frame).clone(), version).unwrap().session_id());
            });
            group.bench_function(format!("{}/guard alone", shape.name), |b| {
                b.iter(|| check_response(FETCH, version, black_box(&frame)).unwrap());
            });
            group.bench_function(format!("{}/guard and kafka-protocol", shape.name), |b| {
                b.iter(|| by_struct(black_box(&frame).clone(), version));
            });
        }
        group.finish();
    }
}

struct Piece {
    topic: usize,
    partition: i32,
    batch: Bytes,
}

const NAMES: [&str; 10] = [
    "topic-0", "topic-1", "topic-2", "topic-3", "topic-4", "topic-5", "topic-6", "topic-7", "topic-8",
    "topic-9",
];

impl Part for Piece {
    fn topic(&self) -> &str {
        NAMES[self.topic]
    }

    fn topic_id(&self) -> Option<Uuid> {
        Some(Uuid::from_u128(self.topic as u128))
    }

    fn partition(&self) -> PartitionId {
        PartitionId(self.partition)
    }

    fn batch(&self) -> &Bytes {
        &self.batch
    }
}

/// A frame by kafka-protocol, its struct included: a client has batches, not a struct.
fn by_schema(parts: &[Piece], version: i16, size: usize) -> BytesMut {
    let topics = parts.chunk_by(|a, b| a.topic == b.topic).map(|partitions| {
        let data = partitions.iter().map(|part| {
            PartitionProduceData::default().with_index(part.partition).with_records(Some(part.batch.clone()))
        });
        let topic = TopicProduceData::default().with_partition_data(data.collect());
        if version >= 13 {
            topic.with_topic_id(Uuid::from_u128(partitions[0].topic as u128))
        } else {
            topic.with_name(TopicName(StrBytes::from_static_str(NAMES[partitions[0].topic])))
        }
    });
    let request = ProduceRequest::default()
        .with_transactional_id(None)
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(topics.collect());
    let mut out = BytesMut::with_capacity(size);
    out.put_i32(0);
    out.put_i16(0);
    out.put_i16(version);
    out.put_i32(1);
    out.put_i16(6);
    out.put_slice(b"milena");
    if version >= 9 {
        out.put_u8(0);
    }
    request.encode(&mut out, version).unwrap();
    let length = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn produce(c: &mut Criterion) {
    for version in [8, 13] {
        let mut group = c.benchmark_group(format!("produce v{version}"));
        for (name, count, size) in
            [("6 x 160 KiB", 6, 160 << 10), ("100 x 10 KiB", 100, 10 << 10), ("1000 x 200 B", 1000, 200)]
        {
            let piece = |at: usize| {
                let batch = Bytes::from(vec![at as u8; size]);
                Piece { topic: at * NAMES.len() / count, partition: at as i32, batch }
            };
            let parts: Vec<Piece> = (0..count).map(piece).collect();
            let head = Head {
                version,
                correlation_id: 1,
                client_id: "milena",
                acks: -1,
                timeout: Duration::from_secs(30),
                transactional_id: None,
            };
            let whole = encode(&head, &parts).unwrap().concat();
            assert!(whole == by_schema(&parts, version, whole.len()), "{name}");
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{name}/scatter list"), |b| {
                b.iter(|| encode(black_box(&head), black_box(&parts)).unwrap());
            });
            group.bench_function(format!("{name}/kafka-protocol"), |b| {
                b.iter(|| by_schema(black_box(&parts), version, whole.len()));
            });
        }
        group.finish();
    }
}

fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(30)
}

criterion_group! { name = hot; config = config(); targets = fetch, produce }
criterion_main!(hot);
