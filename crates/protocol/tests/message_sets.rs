//! Message sets, formats 0 and 1: what is built is read back, Kafka's own sets are read, damaged and hostile ones are
//! refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use bytes::{Bytes, BytesMut};
use milena_protocol::compression::{Compression, compress, compress_v0};
use milena_protocol::records::*;
use milena_protocol::{ErrorKind, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Result, Sequence};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const FORMATS: [MessageFormat; 2] = [MessageFormat::V0, MessageFormat::V1];
const CODECS: [Compression; 4] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4];

/// Offset, time, key, value.
type Row = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn row(record: &Record<'_>) -> Row {
    assert!(record.headers.is_empty());
    (record.offset.0, record.timestamp, record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec))
}

/// Everything there is to read, checksums verified.
fn read(bytes: impl Into<Bytes>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for batch in batches(bytes.into()) {
        let batch = batch?;
        batch.verify_crc()?;
        let records = batch.records_capped(1 << 20)?;
        let count = records.count();
        let before = rows.len();
        for record in &records {
            let record = record?;
            let owned = records.own(&record);
            assert_eq!((owned.key.as_deref(), owned.value.as_deref()), (record.key, record.value));
            rows.push(row(&record));
        }
        assert_eq!(rows.len() - before, count as usize);
    }
    Ok(rows)
}

fn only(bytes: &Bytes) -> RecordBatch {
    let mut all = batches(bytes.clone());
    let batch = all.next().unwrap().unwrap();
    assert!(all.next().is_none());
    batch
}

fn input() -> impl Strategy<Value = Row> {
    let data = || option::of(prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 100..300)]);
    let time = prop_oneof![Just(-1i64), 1_700_000_000_000..1_800_000_000_000i64, any::<i64>()];
    // The first number is the distance from the record before.
    (prop_oneof![4 => Just(1i64), 1 => 2..1000i64], time, data(), data())
}

fn format() -> impl Strategy<Value = MessageFormat> {
    proptest::sample::select(&FORMATS[..])
}

fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&CODECS[..])
}

/// A set from `base` on and the rows it has to give.
fn build(inputs: &[Row], format: MessageFormat, codec: Compression, base: i64) -> (Bytes, Vec<Row>) {
    let mut builder = MessageSetBuilder::new(format, codec, None);
    let mut offset = base - 1;
    let mut rows = Vec::new();
    for (distance, time, key, value) in inputs {
        offset += distance;
        builder.push_at(Offset(offset), *time, key.as_deref(), value.as_deref()).unwrap();
        let time = if format == MessageFormat::V0 { -1 } else { *time };
        rows.push((offset, time, key.clone(), value.clone()));
    }
    assert_eq!(builder.record_count() as usize, inputs.len());
    (builder.build().unwrap(), rows)
}

proptest! {
    #[test]
    fn what_is_built_is_read(
        inputs in vec(input(), 1..20),
        format in format(),
        codec in codec(),
        base in prop_oneof![Just(0i64), 0..1_000_000i64, Just(i64::MAX - 30_000)],
    ) {
        let (bytes, rows) = build(&inputs, format, codec, base);
        prop_assert_eq!(read(bytes.clone()).unwrap(), rows.clone());
        let parsed: Vec<_> = batches(bytes).map(|batch| batch.unwrap()).collect();
        prop_assert_eq!(parsed.len(), if codec == Compression::None { inputs.len() } else { 1 });
        let last = parsed.last().unwrap();
        prop_assert_eq!(last.next_offset(), Offset(rows.last().unwrap().0 + 1));
        for batch in &parsed {
            prop_assert_eq!((batch.magic(), batch.compression()), (format.magic(), codec));
            prop_assert_eq!((batch.base_offset(), batch.record_count()), (batch.last_offset(), 1));
            prop_assert_eq!((batch.producer_id(), batch.producer_epoch(), batch.base_sequence()), (None, None, None));
            prop_assert_eq!((batch.leader_epoch(), batch.timestamp_type()), (None, TimestampType::CreateTime));
            prop_assert!(!batch.is_transactional() && !batch.is_control() && !batch.has_delete_horizon());
            prop_assert_eq!(batch.control().unwrap(), None);
        }
        if codec != Compression::None {
            prop_assert_eq!(last.max_timestamp(), rows.iter().map(|row| row.1).max().unwrap());
        }
    }

    #[test]
    fn every_cut_is_a_partial_tail(inputs in vec(input(), 1..4), format in format(), codec in codec()) {
        let (first, _) = build(&inputs, format, codec, 7);
        let ends: Vec<_> = batches(first.clone())
            .scan(0, |end, batch| {
                *end += batch.unwrap().len_bytes();
                Some(*end)
            })
            .collect();
        for end in 0..=first.len() {
            let read = batches(first.slice(..end)).collect::<Result<Vec<_>>>().unwrap();
            prop_assert_eq!(read.len(), ends.iter().filter(|&&whole| whole <= end).count());
        }
    }

    #[test]
    fn a_message_cut_and_resized_is_malformed(inputs in vec(input(), 1..2), format in format()) {
        let (whole, _) = build(&inputs, format, Compression::None, 7);
        for end in 17..whole.len() {
            let mut cut = BytesMut::from(&whole[..end]);
            cut[8..12].copy_from_slice(&((end - 12) as i32).to_be_bytes());
            let Some(batch) = batches(cut.freeze()).next() else { panic!("a message or an error") };
            match batch {
                Ok(batch) => {
                    prop_assert_eq!(batch.verify_crc().unwrap_err().kind(), ErrorKind::Crc);
                    let records = batch.records().unwrap();
                    let all: Vec<_> = records.iter().collect();
                    prop_assert_eq!(all.len(), 1, "after the error comes nothing");
                    prop_assert_eq!(all[0].as_ref().unwrap_err().kind(), ErrorKind::Malformed);
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Malformed),
            }
        }
    }

    #[test]
    fn no_single_bit_flip_changes_a_record(inputs in vec(input(), 1..4), format in format(), codec in codec()) {
        let (bytes, rows) = build(&inputs, format, codec, 7);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Offset and size are not covered by the checksum: an offset may become another one, a size can make the
            // rest a partial tail. Nothing else may change.
            if let Ok(read) = read(flipped) {
                prop_assert!(read.len() <= rows.len());
                let same = |(a, b): (&Row, &Row)| (a.1, &a.2, &a.3) == (b.1, &b.2, &b.3);
                prop_assert!(read.iter().zip(&rows).all(same), "bit {bit}");
            }
        }
    }

    #[test]
    fn damage_inside_a_wrapper_is_found_by_the_inner_checksum(
        inputs in vec(input(), 1..5),
        format in format(),
        at: proptest::sample::Index,
        flip in 1..=255u8,
    ) {
        let (inner, rows) = build(&inputs, format, Compression::None, 0);
        // Not an offset, nor a size.
        let starts: Vec<_> = batches(inner.clone()).scan(0, |start, batch| {
            let from = *start;
            *start += batch.unwrap().len_bytes();
            Some(from + 12..*start)
        }).flatten().collect();
        let mut damaged = inner.to_vec();
        damaged[starts[at.index(starts.len())]] ^= flip;
        let bytes = wrapper(format, Compression::Gzip, 100_000, 9, &damaged);
        let batch = only(&bytes);
        batch.verify_crc().unwrap();
        let error = batch.records().unwrap().iter().find_map(|record| record.err()).unwrap();
        prop_assert!([ErrorKind::Crc, ErrorKind::Malformed].contains(&error.kind()), "{error:?}");
        let mut lenient = batch;
        lenient.skip_inner_crcs();
        let records = lenient.records().unwrap();
        if let Ok(read) = records.iter().collect::<Result<Vec<_>>>() {
            prop_assert_eq!(read.len(), rows.len(), "switched off, the damage is let through");
        }
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..300), offset: i64, magic in 0..3u8, codec in 0..8u8) {
        let _ = read(noise.clone());
        let mut message = vec![0u8; 17];
        message[..8].copy_from_slice(&offset.to_be_bytes());
        message[8..12].copy_from_slice(&((noise.len() + 6) as i32).to_be_bytes());
        message[16] = magic;
        message.push(codec);
        message.extend_from_slice(&noise);
        for batch in batches(Bytes::from(message)) {
            let Ok(batch) = batch else { break };
            let _ = (batch.verify_crc(), format!("{batch:?}"));
            let _ = batch.records_capped(1 << 20).map(|records| records.iter().count());
        }
        // And noise as the content of a wrapper whose checksum is right.
        for format in FORMATS {
            let batch = only(&wrapper(format, Compression::Snappy, offset & (i64::MAX - 1), 0, &noise));
            batch.verify_crc().unwrap();
            if let Ok(records) = batch.records() {
                prop_assert!(records.count() as usize <= noise.len() / 26);
                let read: Vec<_> = records.iter().collect();
                prop_assert!(read.len() <= noise.len() / 26);
            }
        }
    }

    #[test]
    fn a_batch_written_as_a_set_keeps_its_records(
        inputs in vec(input(), 1..20),
        format in format(),
        codec in codec(),
    ) {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
        for (_, time, key, value) in &inputs {
            builder.push(time / 2, key.as_deref(), value.as_deref(), []).unwrap();
        }
        let identity = BatchIdentity { base_offset: Offset(99), ..BatchIdentity::default() };
        let batch = only(&builder.build(identity).unwrap());
        let set = convert_to_message_set(&batch, format).unwrap();
        prop_assert!(batches(set.clone()).all(|batch| batch.unwrap().compression() == codec));
        let expected: Vec<Row> = inputs
            .iter()
            .enumerate()
            .map(|(at, (_, time, key, value))| {
                let time = if format == MessageFormat::V0 { -1 } else { time / 2 };
                (at as i64, time, key.clone(), value.clone())
            })
            .collect();
        prop_assert_eq!(read(set).unwrap(), expected);
    }
}

/// CRC-32 bit by bit, from the polynomial's definition.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A message field by field, as the protocol guide has it.
fn message(
    magic: u8,
    offset: i64,
    attributes: u8,
    time: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Vec<u8> {
    let mut covered = vec![magic, attributes];
    if magic > 0 {
        covered.extend(time.to_be_bytes());
    }
    for data in [key, value] {
        covered.extend(data.map_or(-1, |data| data.len() as i32).to_be_bytes());
        covered.extend(data.unwrap_or_default());
    }
    let mut out = offset.to_be_bytes().to_vec();
    out.extend((covered.len() as i32 + 4).to_be_bytes());
    out.extend(crc32(&covered).to_be_bytes());
    out.extend(covered);
    out
}

/// A wrapper around any bytes.
fn wrapper(format: MessageFormat, codec: Compression, offset: i64, time: i64, inner: &[u8]) -> Bytes {
    let mut value = Vec::new();
    match format {
        MessageFormat::V0 => compress_v0(codec, None, inner, &mut value).unwrap(),
        MessageFormat::V1 => compress(codec, None, inner, &mut value).unwrap(),
    }
    let attributes = codec.code() as u8;
    Bytes::from(message(format.magic() as u8, offset, attributes, time, None, Some(&value)))
}

#[test]
fn golden_bytes_are_read_and_written() {
    let golden: [(MessageFormat, Vec<u8>, i64); 2] = [
        (MessageFormat::V0, message(0, 0, 0, 0, Some(b"k"), None), -1),
        (MessageFormat::V1, message(1, 0, 0, 1_700_000_000_000, Some(b"k"), None), 1_700_000_000_000),
    ];
    for (format, bytes, time) in golden {
        assert_eq!(read(bytes.clone()).unwrap(), [(0, time, Some(b"k".to_vec()), None)]);
        let mut builder = MessageSetBuilder::new(format, Compression::None, None);
        builder.push(1_700_000_000_000, Some(b"k"), None).unwrap();
        assert_eq!(builder.build().unwrap(), bytes);
    }
    // One message of the smallest size, written down byte by byte. Its checksum is that of 10 bytes: 00 00, ff x 8.
    let hex = "0000000000000005 0000000e a7ec6803 00 00 ffffffff ffffffff".replace(' ', "");
    let bytes: Vec<_> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    assert_eq!(read(bytes).unwrap(), [(5, -1, None, None)]);
}
