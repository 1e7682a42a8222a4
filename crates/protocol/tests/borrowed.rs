//! Batches read in borrowed bytes say what owned ones say, in every format and codec, whole or damaged.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use bytes::Bytes;
use milena_protocol::compression::Compression;
use milena_protocol::records::*;
use milena_protocol::{Offset, ProducerEpoch, ProducerId, Result};
use proptest::collection::vec;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

/// What an iterator gives, in words.
fn said<'a>(records: impl Iterator<Item = Result<Record<'a>>>) -> Vec<String> {
    records.map(|record| format!("{record:?}")).collect()
}

/// Holds the batch that the bytes begin with, owned, against the same one borrowed; the rest.
fn compare(bytes: &Bytes) -> Option<Bytes> {
    let (mut owned, mut borrowed) = (bytes.clone(), &bytes[..]);
    let (batch, head) = match (RecordBatch::parse(&mut owned), BatchRef::parse(&mut borrowed)) {
        (Ok(Some(batch)), Ok(Some(head))) => (batch, head),
        (Ok(None), Ok(None)) => {
            assert!(owned.is_empty() && borrowed.is_empty());
            assert_eq!(BatchExtent::read(bytes).unwrap(), None);
            return None;
        }
        (Err(owned), Err(borrowed)) => {
            assert_eq!(owned.to_string(), borrowed.to_string());
            return None;
        }
        both => panic!("{both:?}"),
    };
    assert_eq!(owned, borrowed);
    let extent = BatchExtent::read(bytes).unwrap().unwrap();
    assert_eq!(
        (extent.bytes, extent.base_offset, extent.last_offset, extent.leader_epoch),
        (batch.len_bytes(), batch.base_offset(), batch.last_offset(), batch.leader_epoch())
    );
    assert_eq!(format!("{batch:?}")["RecordBatch".len()..], format!("{head:?}")["BatchRef".len()..]);
    assert_eq!(format!("{:?}", batch.verify_crc()), format!("{:?}", head.verify_crc()));
    assert_eq!(format!("{:?}", batch.control()), format!("{:?}", head.control()));
    let shared = head.share(bytes);
    assert_eq!(shared.as_bytes().as_ptr(), bytes.as_ptr());
    let records = batch.records_capped(MAX);
    let reused = shared.records_in(MAX, vec![7; 999], Bytes::from);
    match (&records, &reused) {
        (Ok(records), Ok(reused)) => {
            assert_eq!(records.buffer(), reused.buffer());
            assert_eq!(said(records.iter()), said(reused.iter()));
            if let Some(plain) = head.plain_records() {
                assert_eq!(said(plain.clone()), said(records.iter()));
                for taken in 0..said(plain.clone()).len() {
                    let mut before = plain.clone();
                    before.by_ref().take(taken).for_each(drop);
                    let resumed = plain.clone().resume(&before.mark());
                    assert_eq!(said(resumed), said(before));
                }
            } else {
                assert_ne!(batch.compression(), Compression::None);
            }
        }
        // A codec may find the same fault at another step.
        (Err(one), Err(other)) => assert_eq!(one.kind(), other.kind()),
        _ => panic!("{records:?}, {reused:?}"),
    }
    Some(owned)
}

fn log(values: &[Vec<u8>], codec: Compression, format: u8) -> Vec<u8> {
    if format == 2 {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
        for value in values {
            let header = Header::new("name", Some(value));
            builder.push(1_700_000_000_000, None, Some(value), [header]).unwrap();
        }
        return builder.build(BatchIdentity::default()).unwrap().to_vec();
    }
    let format = if format == 0 { MessageFormat::V0 } else { MessageFormat::V1 };
    let codec = if codec == Compression::Zstd { Compression::Lz4 } else { codec };
    let mut builder = MessageSetBuilder::new(format, codec, None);
    for (at, value) in values.iter().enumerate() {
        builder.push_at(Offset(2 * at as i64), 1_700_000_000_000, Some(b"key"), Some(value)).unwrap();
    }
    builder.build().unwrap().to_vec()
}

proptest! {
    #[test]
    fn a_borrowed_batch_says_what_an_owned_one_says(
        values in vec(vec(any::<u8>(), 0..40), 1..8),
        codec in proptest::sample::select(&Compression::ALL[..]),
        formats in vec(0u8..3, 1..4),
        damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes: Vec<u8> = formats.iter().flat_map(|&format| log(&values, codec, format)).collect();
        if let Some((at, with)) = damage {
            // Near the front, where the heads are, or anywhere.
            let place = at.index(bytes.len());
            let place = if with % 2 == 0 { place % 70 % bytes.len() } else { place };
            bytes[place] = with;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut rest = Some(Bytes::from(bytes));
        while let Some(bytes) = rest {
            rest = compare(&bytes);
        }
    }
}

#[test]
fn a_control_batch_is_known_borrowed_too() {
    let bytes = build_control_batch(Offset(9), ProducerId(3), ProducerEpoch(1), ControlKind::Abort, 7, 5);
    let record = ControlRecord::Abort { coordinator_epoch: 7 };
    let mut rest = &bytes[..];
    assert_eq!(BatchRef::parse(&mut rest).unwrap().unwrap().control().unwrap(), Some(record));
    compare(&bytes);
}
