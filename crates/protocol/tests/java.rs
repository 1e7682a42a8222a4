//! Batches that Kafka's own client library wrote (`tests/data/java/WriteBatches.java`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use bytes::Bytes;
use milena_protocol::compression::Compression;
use milena_protocol::records::{Batches, ControlRecord, Header, RecordBatch, batches};
use milena_protocol::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

fn only(mut batches: Batches) -> RecordBatch {
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none() && batches.rest().is_empty());
    batch
}

fn check(codec: Compression, bytes: &'static [u8], count: u32) {
    let batch = only(batches(Bytes::from_static(bytes)));
    batch.verify_crc().unwrap();
    assert_eq!(batch.compression(), codec);
    assert_eq!(batch.record_count(), count);
    assert_eq!((batch.base_offset(), batch.next_offset()), (Offset(500), Offset(500 + i64::from(count))));
    assert_eq!((batch.producer_id(), batch.producer_epoch()), (Some(ProducerId(77)), Some(ProducerEpoch(3))));
    assert_eq!((batch.base_sequence(), batch.leader_epoch()), (Some(Sequence(21)), Some(LeaderEpoch(4))));
    assert!(batch.is_transactional() && !batch.is_control());
    assert_eq!(batch.max_timestamp(), 1_700_000_000_000 + i64::from(count) - 1);
    let records = batch.records().unwrap();
    let mut read = 0;
    for (i, record) in records.iter().enumerate() {
        let record = record.unwrap();
        assert_eq!((record.offset, record.timestamp), (Offset(500 + i as i64), 1_700_000_000_000 + i as i64));
        let key = (i % 5 != 4).then(|| format!("key-{i}").into_bytes());
        let value = (i % 7 != 6).then(|| vec![i as u8; 100]);
        assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()));
        let number = i.to_string();
        let headers = [
            Header { name: "h", value: Some(number.as_bytes()) },
            Header { name: "h", value: None },
            Header { name: "é", value: Some(b"") },
        ];
        let expected = if i % 3 == 0 { &headers[..] } else { &[] };
        assert_eq!(record.headers.iter().collect::<Vec<_>>(), expected);
        assert_eq!(record.headers.last("h"), (i % 3 == 0).then_some(None));
        read += 1;
    }
    assert_eq!(read, count);
}

#[test]
fn javas_batches_are_read_in_every_codec() {
    check(Compression::None, include_bytes!("data/java/none.batch"), 3);
    check(Compression::Gzip, include_bytes!("data/java/gzip.batch"), 400);
    check(Compression::Snappy, include_bytes!("data/java/snappy.batch"), 400);
    check(Compression::Lz4, include_bytes!("data/java/lz4.batch"), 700);
    check(Compression::Zstd, include_bytes!("data/java/zstd.batch"), 400);
}

#[test]
fn javas_marker_is_read() {
    let batch = only(batches(Bytes::from_static(include_bytes!("data/java/abort.batch"))));
    batch.verify_crc().unwrap();
    assert_eq!(batch.control().unwrap(), Some(ControlRecord::Abort { coordinator_epoch: 12 }));
    assert_eq!((batch.base_offset(), batch.base_sequence()), (Offset(1000), None));
    let ours = milena_protocol::records::build_control_batch(
        Offset(1000),
        ProducerId(77),
        ProducerEpoch(3),
        milena_protocol::records::ControlKind::Abort,
        12,
        1_700_000_000_000,
    );
    let mut ours = ours.to_vec();
    milena_protocol::records::set_base_offset(&mut ours, Offset(1000), LeaderEpoch(4)).unwrap();
    assert_eq!(batch.as_bytes(), &ours, "ours is the same, byte for byte");
}

#[test]
fn our_uncompressed_batch_is_javas_byte_for_byte() {
    use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions};
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for i in 0..3u8 {
        let headers = [
            Header { name: "h", value: Some(b"0") },
            Header { name: "h", value: None },
            Header { name: "é", value: Some(b"") },
        ];
        let headers = if i == 0 { &headers[..] } else { &[] };
        let time = 1_700_000_000_000 + i64::from(i);
        builder
            .push(time, Some(format!("key-{i}").as_bytes()), Some(&[i; 100]), headers.iter().copied())
            .unwrap();
    }
    let identity = BatchIdentity {
        producer_id: ProducerId(77),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(21),
        transactional: true,
        leader_epoch: LeaderEpoch(4),
        base_offset: Offset(500),
    };
    assert_eq!(builder.build(identity).unwrap(), &include_bytes!("data/java/none.batch")[..]);
}
