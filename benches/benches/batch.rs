//! Record batches: the cost of reading and building one record, and of the codecs around them.
//!
//! `cargo bench -p milena-benches --bench batch`. Throughput is in records (`elem/s`); 1 Gelem/s is 1 ns a record.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here
#![allow(missing_docs)] // criterion's macro makes a function without

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use milena_protocol::compression::{Compression, compress, decompress};
use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header, RecordBatch};
use milena_protocol::{ProducerEpoch, ProducerId, Sequence};
use std::hint::black_box;
use std::time::Duration;

const TIME: i64 = 1_700_000_000_000;
/// What a batch holds before compression, about.
const BATCH: usize = 512 * 1024;

struct Shape {
    name: &'static str,
    key: usize,
    value: usize,
    headers: usize,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "100 B", key: 0, value: 100, headers: 0 },
    Shape { name: "key 16 B, value 100 B", key: 16, value: 100, headers: 0 },
    Shape { name: "100 B, 2 headers", key: 0, value: 100, headers: 2 },
    Shape { name: "1 KiB", key: 0, value: 1024, headers: 0 },
];

const HEADERS: [Header<'static>; 2] = [
    Header { name: "trace-id", value: Some(b"0123456789abcdef") },
    Header { name: "content-type", value: Some(b"application/json") },
];

/// JSON-like text, as events have it.
fn text(size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 128);
    let mut state = 0x1234_5678u64;
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(
            format!(
                "{{\"user_id\":{},\"event\":\"{}\",\"page\":\"/product/{}\",\"session\":\"{state:016x}\"}}",
                state % 100_000,
                ["view", "click", "purchase", "add_to_cart"][(state >> 17) as usize % 4],
                (state >> 23) % 5000
            )
            .as_bytes(),
        );
    }
    out.truncate(size);
    out
}

fn fill(builder: &mut BatchBuilder, shape: &Shape, data: &[u8], records: usize) {
    let key = (shape.key > 0).then(|| &data[..shape.key]);
    for (index, value) in data.chunks_exact(shape.value).cycle().take(records).enumerate() {
        let headers = HEADERS[..shape.headers].iter().copied();
        builder.push(TIME + (index / 64) as i64, black_box(key), black_box(Some(value)), headers).unwrap();
    }
}

fn built(shape: &Shape, data: &[u8], records: usize, compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    fill(&mut builder, shape, data, records);
    builder.build(BatchIdentity::default()).unwrap()
}

fn parse(bytes: &Bytes) -> RecordBatch {
    RecordBatch::parse(&mut bytes.clone()).unwrap().unwrap()
}

/// Reads every record as an application would that touches key and value.
fn walk(batch: &RecordBatch) -> i64 {
    let records = batch.records().unwrap();
    records.iter().fold(0, |sum, record| {
        let record = record.unwrap();
        sum + record.offset.0 + record.timestamp + record.value.map_or(0, |value| value.len() as i64)
    })
}

fn read(c: &mut Criterion) {
    let data = text(BATCH);
    let mut group = c.benchmark_group("read");
    for shape in &SHAPES {
        let records = BATCH / (shape.key + shape.value);
        let bytes = built(shape, &data, records, Compression::None);
        group.throughput(Throughput::Elements(records as u64));
        group.bench_with_input(BenchmarkId::new("walk", shape.name), &bytes, |b, bytes| {
            b.iter(|| walk(black_box(&parse(bytes))));
        });
        group.bench_with_input(BenchmarkId::new("checksum and walk", shape.name), &bytes, |b, bytes| {
            b.iter(|| {
                let batch = parse(black_box(bytes));
                batch.verify_crc().unwrap();
                walk(&batch)
            });
        });
        group.bench_with_input(BenchmarkId::new("own", shape.name), &bytes, |b, bytes| {
            b.iter(|| {
                let records = parse(black_box(bytes)).records().unwrap();
                for record in &records {
                    black_box(records.own(&record.unwrap()));
                }
            });
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let data = text(BATCH);
    let mut group = c.benchmark_group("build");
    for shape in &SHAPES {
        let records = BATCH / (shape.key + shape.value);
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(BenchmarkId::new("push", shape.name), |b| {
            let mut memory = Vec::new();
            b.iter(|| {
                let mut builder =
                    BatchBuilder::with_buffer(BatchOptions::default(), std::mem::take(&mut memory));
                fill(&mut builder, shape, &data, records);
                memory = builder.into_buffer();
            });
        });
        group.bench_function(BenchmarkId::new("push, freeze, stamp", shape.name), |b| {
            let mut memory = Vec::new();
            b.iter(|| {
                let mut builder =
                    BatchBuilder::with_buffer(BatchOptions::default(), std::mem::take(&mut memory));
                fill(&mut builder, shape, &data, records);
                let mut batch = builder.freeze().unwrap();
                batch.stamp(ProducerId(7), ProducerEpoch(0), Sequence(9), false);
                black_box(batch.as_bytes());
                memory = batch.reclaim().unwrap_or_default();
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("stamp");
    for size in [16 * 1024, 1024 * 1024] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TIME, None, Some(&vec![7; size]), []).unwrap();
        let mut batch = builder.freeze().unwrap();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| batch.stamp(ProducerId(7), ProducerEpoch(0), black_box(Sequence(9)), false));
        });
    }
    group.finish();
}

fn codecs(c: &mut Criterion) {
    for size in [16 * 1024, 1024 * 1024] {
        let data = text(size);
        let mut group = c.benchmark_group(format!("codec {} KiB", size / 1024));
        group.throughput(Throughput::Bytes(size as u64));
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let mut packed = Vec::new();
            compress(codec, None, &data, &mut packed).unwrap();
            group.bench_function(BenchmarkId::new("compress", codec), |b| {
                let mut out = Vec::new();
                b.iter(|| {
                    out.clear();
                    compress(codec, None, black_box(&data), &mut out).unwrap();
                });
            });
            group.bench_function(BenchmarkId::new("decompress", codec), |b| {
                b.iter(|| decompress(codec, black_box(&packed), size).unwrap());
            });
        }
        group.finish();
    }
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(900))
}

criterion_group! { name = benches; config = config(); targets = read, build, codecs }
criterion_main!(benches);
