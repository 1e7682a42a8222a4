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
        let set = convert_to_message_set(&batch, format, None).unwrap();
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

/// Wraps messages (inner offset, time) and says at which offsets and times they are read, or which field is wrong.
fn unwrapped(
    format: MessageFormat,
    offset: i64,
    inner: &[(i64, i64)],
) -> std::result::Result<Vec<(i64, i64)>, Option<&'static str>> {
    let magic = format.magic() as u8;
    let inner: Vec<u8> =
        inner.iter().flat_map(|&(offset, time)| message(magic, offset, 0, time, None, Some(b"v"))).collect();
    match read(wrapper(format, Compression::Gzip, offset, 77, &inner)) {
        Ok(rows) => Ok(rows.iter().map(|row| (row.0, row.1)).collect()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
            Err(error.field())
        }
    }
}

/// Only the offsets, for messages of time 3.
fn offsets(
    format: MessageFormat,
    offset: i64,
    inner: &[i64],
) -> std::result::Result<Vec<i64>, Option<&'static str>> {
    let inner: Vec<_> = inner.iter().map(|&offset| (offset, 3)).collect();
    unwrapped(format, offset, &inner).map(|read| read.iter().map(|&(offset, _)| offset).collect())
}

#[test]
fn where_the_messages_of_a_wrapper_lie() {
    use MessageFormat::{V0, V1};
    let offset = Err(Some("offset"));
    let value = Err(Some("value"));
    // Format 1: only the distance to the last one matters.
    assert_eq!(offsets(V1, 100, &[0, 1, 2]), Ok(vec![98, 99, 100]));
    assert_eq!(offsets(V1, 100, &[0, 2, 7]), Ok(vec![93, 95, 100]), "gaps of compaction");
    assert_eq!(offsets(V1, 100, &[4, 5]), Ok(vec![99, 100]), "the first ones are gone");
    assert_eq!(offsets(V1, 100, &[98, 99, 100]), Ok(vec![98, 99, 100]), "absolute");
    assert_eq!(offsets(V1, 100, &[-2, -1]), Ok(vec![99, 100]), "relative to the last one");
    assert_eq!(offsets(V1, 2, &[0, 1, 2]), Ok(vec![0, 1, 2]));
    assert_eq!(offsets(V1, 100, &[7]), Ok(vec![100]));
    assert_eq!(offsets(V1, i64::MAX - 1, &[0, 1]), Ok(vec![i64::MAX - 2, i64::MAX - 1]));
    assert_eq!(offsets(V1, 1, &[0, 1, 2]), value, "before offset 0");
    assert_eq!(offsets(V1, 100, &[0, i64::MIN]), value, "a distance beyond 64 bits");
    assert_eq!(offsets(V1, 100, &[1, 1]), offset, "twice the same");
    assert_eq!(offsets(V1, 100, &[2, 1, 3]), offset, "downwards");
    assert_eq!(offsets(V1, 100, &[9, 3]), offset, "beyond the wrapper's");
    assert_eq!(offsets(V1, 100, &[i64::MIN, 0]), offset);
    assert_eq!(offsets(V1, 100, &[-200, 0]), offset);
    // Format 0: as they stand.
    assert_eq!(offsets(V0, 100, &[98, 99, 100]), Ok(vec![98, 99, 100]));
    assert_eq!(offsets(V0, 100, &[5, 80]), Ok(vec![5, 80]), "the last ones are gone");
    assert_eq!(offsets(V0, 100, &[99, 101]), offset);
    assert_eq!(offsets(V0, 100, &[99, 99]), offset);
    assert_eq!(offsets(V0, 100, &[-1, 100]), offset);
    // A wrapper at offset 0 may come from a producer that leaves the offsets to the broker.
    for format in FORMATS {
        assert_eq!(offsets(format, 0, &[0]), Ok(vec![0]));
        assert_eq!(offsets(format, 0, &[0, 1, 2]), Ok(vec![0, 1, 2]));
        assert_eq!(offsets(format, 0, &[0, 0, 0]), Ok(vec![0, 0, 0]));
        assert_eq!(offsets(format, 0, &[-1]), offset);
        assert_eq!(offsets(format, 0, &[i64::MAX]), offset);
        assert_eq!(offsets(format, 7, &[]), value, "no message inside");
    }
}

#[test]
fn what_time_the_messages_of_a_wrapper_have() {
    let inner = [(0, 5), (1, -1), (2, 6)];
    assert_eq!(unwrapped(MessageFormat::V1, 2, &inner), Ok(vec![(0, 5), (1, -1), (2, 6)]));
    assert_eq!(unwrapped(MessageFormat::V0, 2, &inner), Ok(vec![(0, -1), (1, -1), (2, -1)]));

    for codec in CODECS {
        let mut builder =
            MessageSetBuilder::new(MessageFormat::V1, codec, None).log_append_time(42).base_offset(Offset(8));
        for time in [5, -1, 6] {
            builder.push(time, None, None).unwrap();
        }
        let bytes = builder.build().unwrap();
        for batch in batches(bytes.clone()) {
            let batch = batch.unwrap();
            assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
            assert_eq!((batch.max_timestamp(), batch.base_timestamp()), (42, 42));
        }
        let times: Vec<_> = read(bytes).unwrap().iter().map(|row| (row.0, row.1)).collect();
        assert_eq!(times, [(8, 42), (9, 42), (10, 42)], "{codec}");
    }

    // Format 0 has no times, and the bit means nothing there; nor do the bits that format 2 uses.
    let bytes = Bytes::from(message(0, 3, 0xf8, 0, None, None));
    let batch = only(&bytes);
    assert_eq!((batch.timestamp_type(), batch.max_timestamp()), (TimestampType::CreateTime, -1));
    let batch = only(&Bytes::from(message(1, 3, 0xf0, 9, None, None)));
    assert!(!batch.is_transactional() && !batch.is_control() && !batch.has_delete_horizon());
    assert_eq!(batch.control().unwrap(), None);

    // Both formats inside of one wrapper: an old set whose wrapper was written anew.
    let inner = [message(0, 0, 0, 0, None, None), message(1, 1, 0, 5, None, None)].concat();
    let rows = read(wrapper(MessageFormat::V1, Compression::Gzip, 10, 77, &inner)).unwrap();
    assert_eq!(rows, [(9, -1, None, None), (10, 5, None, None)]);
    let rows = read(wrapper(MessageFormat::V0, Compression::Gzip, 10, 77, &inner)).unwrap();
    assert_eq!(rows, [(0, -1, None, None), (1, 5, None, None)]);
}

fn refused(bytes: impl Into<Bytes>) -> (ErrorKind, Option<&'static str>) {
    let error = read(bytes).unwrap_err();
    (error.kind(), error.field())
}

#[test]
fn a_message_that_contradicts_itself_is_refused() {
    let malformed = |field| (ErrorKind::Malformed, Some(field));
    for magic in [0, 1] {
        let whole = message(magic, 9, 0, 5, Some(b"key"), Some(b"value"));
        let key_at = if magic == 0 { 18 } else { 26 };
        let with = |at: usize, change: &[u8]| {
            let mut bytes = whole.clone();
            bytes[at..at + change.len()].copy_from_slice(change);
            let crc = crc32(&bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_be_bytes());
            refused(bytes)
        };
        assert_eq!(with(0, &(-1i64).to_be_bytes()), malformed("offset"));
        assert_eq!(with(0, &i64::MAX.to_be_bytes()), malformed("offset"));
        assert_eq!(with(8, &(-1i32).to_be_bytes()), malformed("batch_length"));
        assert_eq!(with(8, &13i32.to_be_bytes()), malformed("batch_length"));
        assert_eq!(with(16, &[3]), (ErrorKind::Unsupported, Some("magic")));
        assert_eq!(with(17, &[4]), (ErrorKind::Unsupported, Some("attributes")), "zstd");
        assert_eq!(with(17, &[5]), (ErrorKind::Unsupported, Some("attributes")), "no codec");
        assert_eq!(with(17, &[1]).0, ErrorKind::Codec, "not gzip");
        assert_eq!(with(key_at, &(-2i32).to_be_bytes()), malformed("key"));
        assert_eq!(with(key_at, &4i32.to_be_bytes()), malformed("value"));
        assert_eq!(with(key_at, &i32::MAX.to_be_bytes()), malformed("key"));
        assert_eq!(with(key_at + 7, &(-2i32).to_be_bytes()), malformed("value"));
        assert_eq!(with(key_at + 7, &6i32.to_be_bytes()), malformed("value"));
        assert_eq!(with(key_at + 7, &4i32.to_be_bytes()), malformed("message_size"), "a byte too many");
        assert_eq!(refused(message(magic, 9, 1, 5, None, None)), malformed("value"), "a wrapper of nothing");
    }
    // The least message of format 0 is too short for format 1.
    let mut short = message(0, 9, 0, 0, None, None);
    short[16] = 1;
    assert_eq!(refused(short), malformed("batch_length"));
}

#[test]
fn a_wrapper_that_contradicts_itself_is_refused() {
    let malformed = |field| (ErrorKind::Malformed, Some(field));
    for format in FORMATS {
        let magic = format.magic() as u8;
        let good = message(magic, 0, 0, 5, None, Some(b"v"));
        let wrap = |inner: &[u8]| wrapper(format, Compression::Lz4, 10, 5, inner);
        assert_eq!(read(wrap(&good)).unwrap().len(), 1);

        let nested = message(magic, 0, Compression::Gzip.code() as u8, 5, None, Some(b"v"));
        assert_eq!(refused(wrap(&nested)), malformed("attributes"), "a wrapper in a wrapper");
        let mut other = good.clone();
        other[16] = 2;
        assert_eq!(refused(wrap(&other)), malformed("magic"));
        other = good.clone();
        other[12] ^= 1;
        assert_eq!(refused(wrap(&other)), (ErrorKind::Crc, Some("crc")));
        for size in [-1i32, 0, 13] {
            other = good.clone();
            other[8..12].copy_from_slice(&size.to_be_bytes());
            assert_eq!(refused(wrap(&other)), malformed("message_size"));
        }
        assert_eq!(refused(wrap(b"")), malformed("value"));

        // A last one that is cut short does not count, as for Kafka; but one alone is no message.
        let both = [&good[..], &message(magic, 1, 0, 6, None, Some(b"w"))].concat();
        for end in 0..both.len() {
            match read(wrap(&both[..end])) {
                Ok(rows) => assert!(end >= good.len() && rows.len() == 1, "{end}"),
                Err(error) => assert!(end < good.len() && error.field() == Some("value"), "{end} {error}"),
            }
        }
    }
}

/// A value that was flipped since the checksum of its message was made, in a wrapper whose own checksum is right.
#[test]
fn a_message_whose_checksum_is_wrong_is_read_only_where_inner_checksums_are_skipped() {
    for format in FORMATS {
        let magic = format.magic() as u8;
        let mut inner = message(magic, 0, 0, 1, None, Some(b"good"));
        inner.extend(message(magic, 1, 0, 1, None, Some(b"bad")));
        *inner.last_mut().unwrap() ^= 1;
        let mut batch = only(&wrapper(format, Compression::Gzip, 1, 1, &inner));
        batch.verify_crc().unwrap();
        let read = |batch: &RecordBatch| {
            let records = batch.records().unwrap();
            let values = records.iter().map(|record| record.map(|record| record.value.unwrap().to_vec()));
            values.collect::<Vec<_>>()
        };
        let [Ok(first), Err(error)] = &read(&batch)[..] else { panic!("{:?}", read(&batch)) };
        assert_eq!((&first[..], error.kind()), (&b"good"[..], ErrorKind::Crc));
        assert!(error.to_string().contains("message 1 of the set at offset 1"), "{error}");
        batch.skip_inner_crcs();
        let values: Vec<_> = read(&batch).into_iter().map(Result::unwrap).collect();
        assert_eq!(values, [&b"good"[..], b"bae"]);
    }
}

#[test]
fn a_wrapper_may_hold_as_much_as_the_cap_and_not_a_byte_more() {
    for format in FORMATS {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
            let mut builder = MessageSetBuilder::new(format, codec, None);
            builder.push(0, None, Some(&vec![0; 2 << 20])).unwrap();
            let content = builder.size_bytes();
            let batch = only(&builder.build().unwrap());
            assert_eq!(batch.records_capped(content - 1).unwrap_err().kind(), ErrorKind::TooLarge);
            assert_eq!(
                batch.records_capped(content).unwrap().iter().filter(|record| record.is_ok()).count(),
                1
            );
        }
    }
}

#[test]
fn formats_follow_one_another_in_one_answer() {
    let mut all = BytesMut::new();
    let mut next = 100;
    for format in [MessageFormat::V0, MessageFormat::V1] {
        for codec in CODECS {
            let mut builder = MessageSetBuilder::new(format, codec, None).base_offset(Offset(next));
            for value in [b"a", b"b", b"c"] {
                builder.push(5, None, Some(value)).unwrap();
            }
            all.extend_from_slice(&builder.build().unwrap());
            next += 3;
        }
    }
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in [b"a", b"b", b"c"] {
        builder.push(5, None, Some(value), []).unwrap();
    }
    let last = BatchIdentity { base_offset: Offset(next), ..BatchIdentity::default() };
    all.extend_from_slice(&builder.build(last).unwrap());
    let all = all.freeze();
    let rows = read(all.clone()).unwrap();
    assert!(rows.iter().map(|row| row.0).eq(100..next + 3), "{rows:?}");
    let magics: Vec<_> = batches(all.clone()).map(|batch| batch.unwrap().magic()).collect();
    assert_eq!(magics, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]);
    // A cut anywhere is a partial tail, whatever the formats on its two sides.
    for end in 0..all.len() {
        assert!(read(all.slice(..end)).is_ok(), "{end}");
    }
}

#[test]
fn lz4_is_written_as_each_format_wants_it_and_read_either_way() {
    for format in FORMATS {
        let mut builder = MessageSetBuilder::new(format, Compression::Lz4, None);
        builder.push(5, None, Some(b"value")).unwrap();
        let bytes = builder.build().unwrap();
        let magic = bytes.windows(4).position(|window| window == [0x04, 0x22, 0x4d, 0x18]).unwrap();
        // KAFKA-3160: before format 1, the checksum of the frame's header covers the magic number too.
        let check = if format == MessageFormat::V0 { 0x1a } else { 0x82 };
        assert_eq!(bytes[magic + 6], check);
        for other in [0x1a, 0x82] {
            let mut bytes = bytes.to_vec();
            bytes[magic + 6] = other;
            let crc = crc32(&bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(read(bytes).unwrap().len(), 1);
        }
    }
}

#[test]
fn raw_snappy_is_read() {
    let inner = message(0, 0, 0, 0, Some(b"k"), Some(b"v"));
    // One literal: the length of all, then its own length - 1 in the tag's upper bits.
    let mut raw = vec![inner.len() as u8, (inner.len() as u8 - 1) << 2];
    raw.extend_from_slice(&inner);
    let bytes = message(0, 0, Compression::Snappy.code() as u8, 0, None, Some(&raw));
    assert_eq!(read(bytes).unwrap(), [(0, -1, Some(b"k".to_vec()), Some(b"v".to_vec()))]);
}

#[test]
fn the_builder_refuses_what_the_formats_cannot_hold() {
    for format in FORMATS {
        let new = |codec, level| MessageSetBuilder::new(format, codec, level);
        assert_eq!(new(Compression::None, None).build().unwrap_err().kind(), ErrorKind::Malformed);
        for (codec, level) in
            [(Compression::Zstd, None), (Compression::Gzip, Some(10)), (Compression::None, Some(1))]
        {
            let mut builder = new(codec, level);
            builder.push(0, None, None).unwrap();
            assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Unsupported);
        }
        for level in 1..=9 {
            let mut builder = new(Compression::Gzip, Some(level));
            builder.push(0, None, Some(&[7; 1000])).unwrap();
            assert_eq!(read(builder.build().unwrap()).unwrap().len(), 1);
        }
        let mut builder = new(Compression::None, None);
        builder.push_at(Offset(5), 0, None, None).unwrap();
        let size = builder.size_bytes();
        for offset in [i64::MIN, -1, 4, 5, i64::MAX] {
            let error = builder.push_at(Offset(offset), 0, None, None).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::Malformed, Some("offset")));
        }
        let gigabyte = vec![0u8; 1 << 30];
        let error = builder.push(0, Some(&gigabyte), Some(&gigabyte)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!((builder.size_bytes(), builder.record_count()), (size, 1));
    }
}

#[test]
fn what_an_older_format_cannot_say_is_not_dropped_in_silence() {
    let batch = |compression, headers: &[Header<'_>], identity| {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        builder.push(1, None, None, []).unwrap();
        builder.push(2, None, None, headers.iter().copied()).unwrap();
        only(&builder.build(identity).unwrap())
    };
    let plain = BatchIdentity { base_offset: Offset(70), ..BatchIdentity::default() };
    let producer = BatchIdentity {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(0),
        ..plain
    };
    let marker = build_control_batch(Offset(5), ProducerId(1), ProducerEpoch(0), ControlKind::Commit, 0, 0);
    let header = [Header::new("h", None)];
    for format in FORMATS {
        let refused = |batch: &RecordBatch| {
            let error = convert_to_message_set(batch, format, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            error.to_string()
        };
        assert!(convert_to_message_set(&batch(Compression::Gzip, &[], plain), format, None).is_ok());
        let text = refused(&batch(Compression::Gzip, &header, plain));
        assert!(text.contains("record 1 of the batch, at offset 71, has headers"), "{text}");
        assert!(refused(&batch(Compression::Zstd, &[], plain)).contains("zstd"));
        assert!(refused(&batch(Compression::None, &[], producer)).contains("producer id"));
        let transactional = BatchIdentity { transactional: true, ..producer };
        assert!(refused(&batch(Compression::None, &[], transactional)).contains("transaction"));
        assert!(refused(&only(&marker)).contains("control"));
    }
}

#[test]
fn what_a_broker_stamps_into_batches_is_not_written_into_messages() {
    for magic in [0, 1] {
        let before = message(magic, 3, 0, 5, Some(&[0; 80]), None);
        let mut bytes = before.clone();
        let error = set_base_offset(&mut bytes, Offset(1), LeaderEpoch(1)).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Unsupported, Some("magic")));
        assert!(set_log_append_time(&mut bytes, 1).is_err());
        assert!(set_identity(&mut bytes, &BatchIdentity::default()).is_err());
        assert_eq!(bytes, before);
    }
}
