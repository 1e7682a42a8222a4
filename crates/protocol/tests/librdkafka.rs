//! Batches and message sets that librdkafka wrote (`batches.py` of the interop programs: `keep`), and ours beside them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use bytes::Bytes;
use milena_protocol::compression::Compression;
use milena_protocol::records::*;
use milena_protocol::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

const FIRST_TIME: i64 = 1_700_000_000_000;

macro_rules! file {
    ($name:literal) => {
        ($name, Bytes::from_static(include_bytes!(concat!("data/librdkafka/", $name))))
    };
}

fn key(i: i64) -> Option<Vec<u8>> {
    (i % 5 != 4).then(|| format!("key-{i}").into_bytes())
}

fn value(i: i64) -> Option<Vec<u8>> {
    (i % 7 != 6).then(|| vec![(i % 256) as u8; 100])
}

fn headers(number: &str, i: i64) -> Vec<Header<'_>> {
    if i % 3 != 0 {
        return Vec::new();
    }
    vec![Header::new("h", Some(number.as_bytes())), Header::new("h", None), Header::new("é", Some(b""))]
}

/// A batch of the same records, as ours. librdkafka leaves epoch 0 of the leader where Java leaves -1; the broker sets it.
fn our_batch(
    compression: Compression,
    level: Option<i32>,
    count: i64,
    producer: Option<ProducerId>,
) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, level, ..BatchOptions::default() });
    for i in 0..count {
        let (number, key, value) = (i.to_string(), key(i), value(i));
        builder.push(FIRST_TIME + i, key.as_deref(), value.as_deref(), headers(&number, i)).unwrap();
    }
    let mut identity = BatchIdentity { leader_epoch: LeaderEpoch(0), ..BatchIdentity::default() };
    if let Some(producer_id) = producer {
        identity = BatchIdentity {
            producer_id,
            producer_epoch: ProducerEpoch(3),
            base_sequence: Sequence(0),
            ..identity
        };
    }
    builder.build(identity).unwrap()
}

fn only(bytes: Bytes) -> RecordBatch {
    let mut batches = batches(bytes);
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none() && batches.rest().is_empty());
    batch
}

#[test]
fn batches_are_read_in_every_codec_and_ours_are_the_same() {
    let table = [
        (file!("none.batch"), Compression::None, None, 12, None),
        (file!("none-idempotent.batch"), Compression::None, None, 3, Some(ProducerId(77))),
        (file!("gzip.batch"), Compression::Gzip, None, 400, None),
        (file!("gzip-level-9.batch"), Compression::Gzip, Some(9), 400, None),
        (file!("snappy.batch"), Compression::Snappy, None, 400, None),
        (file!("lz4.batch"), Compression::Lz4, None, 400, None),
        (file!("zstd.batch"), Compression::Zstd, None, 400, None),
        (file!("zstd-level-12.batch"), Compression::Zstd, Some(12), 400, None),
    ];
    for ((name, bytes), codec, level, count, producer) in table {
        let batch = only(bytes.clone());
        batch.verify_crc().unwrap();
        assert_eq!((batch.magic(), batch.compression()), (2, codec), "{name}");
        assert_eq!((batch.base_offset(), batch.next_offset()), (Offset(0), Offset(count)), "{name}");
        assert_eq!(i64::from(batch.record_count()), count, "{name}");
        assert_eq!(batch.producer_id(), producer, "{name}");
        assert_eq!(batch.base_sequence(), producer.map(|_| Sequence(0)), "{name}");
        assert_eq!(batch.max_timestamp(), FIRST_TIME + count - 1, "{name}");
        assert!(!batch.is_transactional() && !batch.is_control(), "{name}");
        let records = batch.records().unwrap();
        let mut read = 0;
        for record in &records {
            let record = record.unwrap();
            let number = read.to_string();
            assert_eq!((record.offset, record.timestamp), (Offset(read), FIRST_TIME + read), "{name}");
            assert_eq!((record.key, record.value), (key(read).as_deref(), value(read).as_deref()), "{name}");
            assert_eq!(record.headers.iter().collect::<Vec<_>>(), headers(&number, read), "{name}");
            read += 1;
        }
        assert_eq!(read, count, "{name}");

        let ours = our_batch(codec, level, count, producer);
        if codec == Compression::None {
            assert_eq!(ours, bytes, "{name}: byte for byte");
        }
        // Compressed, the libraries come to other bytes for the same records.
        assert_eq!(only(ours).records().unwrap().buffer(), records.buffer(), "{name}");
    }
}

#[test]
fn message_sets_are_read_in_every_codec_and_ours_are_the_same() {
    use Compression::{Gzip, Lz4, None as Plain, Snappy};
    use MessageFormat::{V0, V1};
    let table = [
        (file!("v0-none.set"), V0, Plain, 12),
        (file!("v0-gzip.set"), V0, Gzip, 400),
        (file!("v0-snappy.set"), V0, Snappy, 400),
        (file!("v0-lz4.set"), V0, Lz4, 400),
        (file!("v1-none.set"), V1, Plain, 12),
        (file!("v1-gzip.set"), V1, Gzip, 400),
        (file!("v1-snappy.set"), V1, Snappy, 400),
        (file!("v1-lz4.set"), V1, Lz4, 400),
    ];
    for ((name, bytes), format, codec, count) in table {
        let mut ours = MessageSetBuilder::new(format, codec, None);
        for i in 0..count {
            ours.push(FIRST_TIME + i, key(i).as_deref(), value(i).as_deref()).unwrap();
        }
        let ours = ours.build().unwrap();
        let (mut read, mut theirs, mut inside) = (0, Vec::new(), Vec::new());
        for batch in batches(bytes.clone()) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            assert_eq!((batch.magic(), batch.compression()), (format.magic(), codec), "{name}");
            // A wrapper at offset 0: librdkafka leaves it to the broker to place it.
            assert!(codec == Plain || batch.last_offset() == Offset(0), "{name}");
            let records = batch.records().unwrap();
            for record in &records {
                let record = record.unwrap();
                let time = if format == V0 { -1 } else { FIRST_TIME + read };
                assert_eq!((record.offset, record.timestamp), (Offset(read), time), "{name}");
                assert_eq!(
                    (record.key, record.value),
                    (key(read).as_deref(), value(read).as_deref()),
                    "{name}"
                );
                assert!(record.headers.is_empty(), "{name}");
                read += 1;
            }
            theirs.extend_from_slice(records.buffer());
        }
        assert_eq!(read, count, "{name}");
        for batch in batches(ours.clone()) {
            inside.extend_from_slice(batch.unwrap().records().unwrap().buffer());
        }
        assert_eq!(inside, theirs, "{name}");
        assert!(codec != Plain || ours == bytes, "{name}: byte for byte");
    }
}
