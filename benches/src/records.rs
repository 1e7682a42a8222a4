//! Batches of records without compression: the cost of reading and building one record.

use crate::{Amount, Case, Most, text};
use bytes::{Bytes, BytesMut};
use kafka_protocol::records as theirs;
use milena_protocol::compression::Compression;
use milena_protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, HEADER_LEN, Header, HeaderName, MessageFormat,
    MessageSetBuilder, RecordBatch, batches,
};
use milena_protocol::{ProducerEpoch, ProducerId, Sequence};
use std::hint::black_box;
use std::rc::Rc;

const TIME: i64 = 1_700_000_000_000;
/// What a batch holds, about.
const BATCH: usize = 512 * 1024;

const HEADERS: [Header<'static>; 2] = [
    Header { name: HeaderName::new(b"trace-id"), value: Some(b"0123456789abcdef") },
    Header { name: HeaderName::new(b"content-type"), value: Some(b"application/json") },
];

/// What the records of a batch are like.
struct Shape {
    name: &'static str,
    key: usize,
    value: usize,
    headers: usize,
    data: Vec<u8>,
}

/// One record to be written.
struct Row<'a> {
    time: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'static [Header<'static>],
}

impl Shape {
    fn all() -> Vec<Rc<Self>> {
        let shape =
            |name, key, value, headers| Rc::new(Self { name, key, value, headers, data: text(BATCH) });
        vec![
            shape("100 B", 0, 100, 0),
            shape("key 16 B, value 100 B", 16, 100, 0),
            shape("100 B, 2 headers", 0, 100, 2),
            shape("1 KiB", 0, 1024, 0),
        ]
    }

    /// Whether its records are those that the bars are set for.
    fn is_plain(&self) -> bool {
        (self.key, self.value, self.headers) == (0, 100, 0)
    }

    fn records(&self) -> usize {
        BATCH / (self.key + self.value)
    }

    fn case(&self, what: &str) -> Case {
        Case::new(format!("{what}/{}", self.name), Amount::Records(self.records()))
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let key = (self.key > 0).then(|| &self.data[..self.key]);
        let headers = &HEADERS[..self.headers];
        let values = self.data.chunks_exact(self.value).cycle().take(self.records()).enumerate();
        values.map(move |(index, value)| Row {
            time: TIME + (index / 64) as i64,
            key: black_box(key),
            value: black_box(Some(value)),
            headers,
        })
    }

    fn fill(&self, builder: &mut BatchBuilder) {
        for row in self.rows() {
            builder.push(row.time, row.key, row.value, row.headers.iter().copied()).unwrap();
        }
    }

    fn batch(&self) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        self.fill(&mut builder);
        builder.build(BatchIdentity::default()).unwrap()
    }

    fn message_set(&self) -> Bytes {
        let mut builder = MessageSetBuilder::new(MessageFormat::V1, Compression::None, None);
        for row in self.rows() {
            builder.push(row.time, row.key, row.value).unwrap();
        }
        builder.build().unwrap()
    }

    /// The same records as kafka-protocol has them.
    fn theirs(&self) -> Vec<theirs::Record> {
        let record = |(offset, row): (usize, Row<'_>)| theirs::Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: theirs::TimestampType::Creation,
            offset: offset as i64,
            sequence: offset as i32,
            timestamp: row.time,
            key: row.key.map(Bytes::copy_from_slice),
            value: row.value.map(Bytes::copy_from_slice),
            headers: row
                .headers
                .iter()
                .map(|header| (header.name.to_string().into(), header.value.map(Bytes::from_static)))
                .collect(),
        };
        self.rows().enumerate().map(record).collect()
    }
}

fn parse(bytes: &Bytes) -> RecordBatch {
    RecordBatch::parse(&mut black_box(bytes).clone()).unwrap().unwrap()
}

/// Reads every record as an application would that touches key and value.
fn walk(batch: &RecordBatch) -> i64 {
    let records = batch.records().unwrap();
    records.iter().fold(0, |sum, record| {
        let record = record.unwrap();
        sum + record.offset.0 + record.timestamp + record.value.map_or(0, |value| value.len() as i64)
    })
}

fn read(shape: &Rc<Shape>) -> Case {
    let bytes = shape.batch();
    let mut case = shape.case("read");
    if shape.is_plain() {
        case.bar("checksum and walk", "bare checksum", Most::Beyond(15.0));
    }
    case.row("walk", {
        let bytes = bytes.clone();
        move || {
            black_box(walk(&parse(&bytes)));
        }
    });
    case.row("checksum and walk", {
        let bytes = bytes.clone();
        move || {
            let batch = parse(&bytes);
            batch.verify_crc().unwrap();
            black_box(walk(&batch));
        }
    });
    case.row("own", {
        let bytes = bytes.clone();
        move || {
            let records = parse(&bytes).records().unwrap();
            for record in &records {
                black_box(records.own(&record.unwrap()));
            }
        }
    });
    // It verifies the checksum always.
    case.row("kafka-protocol", {
        let bytes = bytes.clone();
        move || {
            black_box(theirs::RecordBatchDecoder::decode(&mut black_box(&bytes).clone()).unwrap());
        }
    });
    case.row("bare copy and checksum", {
        let bytes = bytes.clone();
        let mut copy = Vec::with_capacity(bytes.len());
        move || {
            copy.clear();
            copy.extend_from_slice(black_box(&bytes));
            black_box(crc32c::crc32c(black_box(&copy)));
        }
    });
    case.row("bare checksum", move || {
        black_box(crc32c::crc32c(black_box(&bytes[HEADER_LEN..])));
    });
    case
}

fn build(shape: &Rc<Shape>) -> Case {
    let mut case = shape.case("build");
    if shape.is_plain() {
        case.bar("push, freeze, stamp", "bare copy and checksum", Most::Each(30.0));
    }
    case.row("push", {
        let shape = shape.clone();
        let mut memory = Vec::new();
        move || {
            let mut builder = BatchBuilder::with_buffer(BatchOptions::default(), std::mem::take(&mut memory));
            shape.fill(&mut builder);
            memory = builder.into_buffer();
        }
    });
    case.row("push, freeze, stamp", {
        let shape = shape.clone();
        let mut memory = Vec::new();
        move || {
            let mut builder = BatchBuilder::with_buffer(BatchOptions::default(), std::mem::take(&mut memory));
            shape.fill(&mut builder);
            let mut batch = builder.freeze().unwrap();
            batch.stamp(ProducerId(7), ProducerEpoch(0), Sequence(9), false);
            black_box(batch.as_bytes());
            memory = batch.reclaim().unwrap_or_default();
        }
    });
    case.row("kafka-protocol", {
        let records = shape.theirs();
        let options = theirs::RecordEncodeOptions { version: 2, compression: theirs::Compression::None };
        let mut out = BytesMut::new();
        move || {
            out.clear();
            theirs::RecordBatchEncoder::encode(&mut out, black_box(&records), &options).unwrap();
        }
    });
    case.row("bare copy and checksum", {
        let shape = shape.clone();
        let mut copy = Vec::new();
        move || {
            copy.clear();
            for row in shape.rows() {
                copy.extend_from_slice(row.key.unwrap_or_default());
                copy.extend_from_slice(row.value.unwrap_or_default());
            }
            black_box(crc32c::crc32c(black_box(&copy)));
        }
    });
    case
}

/// Message sets of the format that brokers of 0.10 have.
fn message_set(shape: &Rc<Shape>) -> Case {
    let bytes = shape.message_set();
    let mut case = shape.case("message set");
    case.row("build", {
        let shape = shape.clone();
        move || {
            black_box(shape.message_set());
        }
    });
    case.row("checksum and walk", move || {
        for batch in batches(black_box(&bytes).clone()) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            black_box(walk(&batch));
        }
    });
    case
}

/// What it costs to give a finished batch another producer or sequence.
fn stamp(size: usize) -> Case {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(TIME, None, Some(&vec![7; size]), []).unwrap();
    let mut batch = builder.freeze().unwrap();
    let bytes = batch.as_bytes().to_vec();
    let mut case = Case::new(format!("stamp/{} KiB", size / 1024), Amount::Once);
    case.row("ours", move || batch.stamp(ProducerId(7), ProducerEpoch(0), black_box(Sequence(9)), false));
    case.row("bare checksum", move || {
        black_box(crc32c::crc32c(black_box(&bytes)));
    });
    case
}

/// All cases of this module.
#[must_use]
pub fn cases() -> Vec<Case> {
    let shapes = Shape::all();
    let mut cases: Vec<Case> = shapes.iter().map(read).collect();
    cases.extend(shapes.iter().map(build));
    cases.extend(shapes.first().map(message_set));
    cases.extend([1024, 16 * 1024, 1024 * 1024].map(stamp));
    cases
}
