//! Properties of record batches: what is built is read back; damaged and hostile bytes are refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use bytes::{Bytes, BytesMut};
use milena_protocol::compression::Compression;
use milena_protocol::records::*;
use milena_protocol::{ErrorKind, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq)]
struct Input {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(OwnedHeaderName, Option<Vec<u8>>)>,
}

impl Input {
    fn push(&self, builder: &mut BatchBuilder) -> milena_protocol::Result<u32> {
        let headers = self.headers.iter().map(|(name, value)| Header::new(name, value.as_deref()));
        builder.push(self.timestamp, self.key.as_deref(), self.value.as_deref(), headers)
    }

    fn of(record: &Record<'_>) -> Self {
        let own = |bytes: &[u8]| bytes.to_vec();
        Self {
            timestamp: record.timestamp,
            key: record.key.map(own),
            value: record.value.map(own),
            headers: record.headers.iter().map(|h| (h.name.into(), h.value.map(own))).collect(),
        }
    }
}

fn input() -> impl Strategy<Value = Input> {
    let data = || option::of(prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 100..300)]);
    // Few names, so that duplicates happen.
    let text = "[ab]{0,2}|\\PC{0,4}".prop_map(OwnedHeaderName::from);
    let name = prop_oneof![3 => text, 1 => vec(any::<u8>(), 0..4).prop_map(OwnedHeaderName::from)];
    let header = (name, option::of(vec(any::<u8>(), 0..12)));
    let time = prop_oneof![
        Just(-1i64),
        0..5000i64,
        1_700_000_000_000..1_800_000_000_000i64,
        any::<i64>().prop_map(|t| t / 2)
    ];
    (time, data(), data(), vec(header, 0..4)).prop_map(|(timestamp, key, value, headers)| Input {
        timestamp,
        key,
        value,
        headers,
    })
}

fn codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

fn build(inputs: &[Input], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for input in inputs {
        input.push(&mut builder).unwrap();
    }
    builder.build(BatchIdentity::default()).unwrap()
}

fn one(bytes: &Bytes) -> RecordBatch {
    let mut rest = bytes.clone();
    let batch = RecordBatch::parse(&mut rest).unwrap().expect("a whole batch");
    assert!(rest.is_empty());
    batch
}

/// Reads everything there is to read. Whatever the bytes, it must end without a panic.
fn read_all(bytes: Bytes) -> milena_protocol::Result<usize> {
    let mut count = 0;
    for batch in batches(bytes) {
        let batch = batch?;
        let _ = (batch.verify_crc(), batch.control(), format!("{batch:?}"));
        let records = batch.records_capped(1 << 20)?;
        for record in &records {
            let record = record?;
            // Only a wrapper of the older formats has records before its base offset.
            assert!(record.offset >= batch.base_offset() || batch.magic() < 2);
            assert!(
                record.offset <= batch.last_offset() || batch.last_offset() == Offset(0) && batch.magic() < 2
            );
            let owned = records.own(&record);
            assert_eq!(owned.headers.len(), record.headers.len());
            count += 1;
        }
    }
    Ok(count)
}

proptest! {
    #[test]
    fn what_is_built_is_read(inputs in vec(input(), 1..20), codec in codec()) {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
        for (index, input) in inputs.iter().enumerate() {
            let before = builder.size_bytes();
            prop_assert_eq!(input.push(&mut builder).unwrap(), index as u32);
            let bound = BatchBuilder::record_size_upper_bound(
                input.key.as_ref().map_or(0, Vec::len),
                input.value.as_ref().map_or(0, Vec::len),
                input.headers.iter().map(|(name, value)| Header::new(name, value.as_deref())),
            );
            prop_assert!(builder.size_bytes() - before <= bound);
        }
        let size = builder.size_bytes();
        let bytes = builder.build(BatchIdentity::default()).unwrap();
        let batch = one(&bytes);
        batch.verify_crc().unwrap();
        if codec == Compression::None {
            prop_assert_eq!(batch.len_bytes(), size);
        }
        prop_assert_eq!(batch.compression(), codec);
        prop_assert_eq!(batch.record_count() as usize, inputs.len());
        prop_assert_eq!(batch.next_offset(), Offset(inputs.len() as i64));
        prop_assert_eq!(batch.max_timestamp(), inputs.iter().map(|input| input.timestamp).max().unwrap());
        prop_assert_eq!((batch.producer_id(), batch.producer_epoch(), batch.base_sequence()), (None, None, None));
        prop_assert_eq!(batch.leader_epoch(), None);
        let records = batch.records().unwrap();
        let read: Vec<_> = records.iter().map(|record| record.unwrap()).collect();
        prop_assert!(read.iter().enumerate().all(|(index, record)| record.offset == Offset(index as i64)));
        prop_assert_eq!(read.iter().map(Input::of).collect::<Vec<_>>(), inputs);
        for record in &read {
            let owned = records.own(record);
            prop_assert_eq!(owned.key.as_deref(), record.key);
            prop_assert_eq!(owned.value.as_deref(), record.value);
            prop_assert!(owned.headers().eq(record.headers.iter()));
        }
    }

    #[test]
    fn every_cut_is_a_partial_tail(inputs in vec(input(), 1..4), codec in codec()) {
        let first = build(&inputs, codec);
        let mut both = BytesMut::from(&first[..]);
        both.extend_from_slice(&first);
        let both = both.freeze();
        for end in 0..both.len() {
            let read = batches(both.slice(..end)).collect::<Result<Vec<_>, _>>().unwrap();
            prop_assert_eq!(read.len(), usize::from(end >= first.len()));
        }
    }

    #[test]
    fn every_cut_of_the_records_is_malformed(inputs in vec(input(), 1..4)) {
        let whole = build(&inputs, Compression::None);
        for end in HEADER_LEN..whole.len() {
            let mut cut = BytesMut::from(&whole[..end]);
            cut[8..12].copy_from_slice(&((end - 12) as i32).to_be_bytes());
            let batch = one(&cut.freeze());
            prop_assert_eq!(batch.verify_crc().unwrap_err().kind(), ErrorKind::Crc);
            let records = batch.records().unwrap();
            let error = records.iter().find_map(|record| record.err()).expect("an error");
            prop_assert_eq!(error.kind(), ErrorKind::Malformed);
            // After the error comes nothing.
            prop_assert!(records.iter().skip_while(|record| record.is_ok()).count() == 1);
        }
    }

    #[test]
    fn mutations_never_panic_and_never_pass_the_checksum(
        inputs in vec(input(), 1..6),
        codec in codec(),
        at: proptest::sample::Index,
        flip in 1..=255u8,
    ) {
        let mut bytes = build(&inputs, codec).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Some(Ok(batch)) = batches(Bytes::from(bytes.clone())).next()
            && at >= 17
        {
            prop_assert!(batch.verify_crc().is_err());
        }
        let _ = read_all(Bytes::from(bytes));
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..300), body in vec(any::<u8>(), 0..100), count in 0..50i32) {
        let _ = read_all(Bytes::from(noise));
        // A header that promises `count` records over noise, in every codec.
        for codec in 0..5u8 {
            let mut bytes = vec![0u8; HEADER_LEN];
            bytes[8..12].copy_from_slice(&((HEADER_LEN - 12 + body.len()) as i32).to_be_bytes());
            bytes[16] = 2;
            bytes[22] = codec;
            bytes[23..27].copy_from_slice(&count.to_be_bytes());
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            bytes.extend_from_slice(&body);
            let _ = read_all(Bytes::from(bytes));
        }
    }

    #[test]
    fn a_stamp_changes_the_identity_and_nothing_else(
        inputs in vec(input(), 1..5),
        codec in codec(),
        id in 0..i64::MAX,
        epoch in 0..i16::MAX,
        sequence in 0..i32::MAX,
        transactional: bool,
    ) {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
        for input in &inputs {
            input.push(&mut builder).unwrap();
        }
        let mut frozen = builder.freeze().unwrap();
        let plain = frozen.as_bytes();
        frozen.stamp(ProducerId(1), ProducerEpoch(1), Sequence(1), !transactional);
        let held = frozen.as_bytes();
        frozen.stamp(ProducerId(id), ProducerEpoch(epoch), Sequence(sequence), transactional);
        // Bytes handed out before do not change under their holder.
        prop_assert_eq!(one(&held).producer_id(), Some(ProducerId(1)));
        one(&held).verify_crc().unwrap();
        let batch = one(&frozen.as_bytes());
        batch.verify_crc().unwrap();
        prop_assert_eq!(batch.producer_id(), Some(ProducerId(id)));
        prop_assert_eq!(batch.producer_epoch(), Some(ProducerEpoch(epoch)));
        prop_assert_eq!(batch.base_sequence(), Some(Sequence(sequence)));
        prop_assert_eq!(batch.is_transactional(), transactional);
        let mut back = frozen.as_bytes().to_vec();
        set_identity(&mut back, &BatchIdentity::default()).unwrap();
        prop_assert_eq!(Bytes::from(back), plain);
    }
}

/// Golden bytes, written down field by field from the format's description.
fn golden() -> Vec<u8> {
    let hex = concat!(
        "0000000000000064", // base offset 100
        "0000004d",         // length: 77 bytes follow
        "00000007",         // partition leader epoch 7
        "02",               // magic 2
        "00000000",         // checksum, filled in below
        "0010",             // attributes: no codec, create time, transactional
        "00000001",         // last offset delta 1
        "0000018bcfe56800", // base timestamp 1700000000000
        "0000018bcfe56805", // max timestamp 1700000000005
        "00000000000003e8", // producer id 1000
        "0002",             // producer epoch 2
        "00000009",         // base sequence 9
        "00000002",         // 2 records
        // record 0
        "16", // length 11
        "00", // attributes
        "00", // timestamp delta 0
        "00", // offset delta 0
        "02", // key length 1
        "6b", // "k"
        "01", // value length -1: null
        "02", // 1 header
        "02", // name length 1
        "68", // "h"
        "02", // value length 1
        "ff", // its byte
        // record 1
        "1e",   // length 15
        "00",   // attributes
        "0a",   // timestamp delta 5
        "02",   // offset delta 1
        "01",   // key length -1: null
        "04",   // value length 2
        "7631", // "v1"
        "04",   // 2 headers
        "02",   // name length 1
        "68",   // "h"
        "01",   // value null
        "04",   // name length 2
        "c3a9", // "é"
        "00",   // empty value
    );
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The checksum bit by bit, from the polynomial's definition.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn golden_bytes_are_read_and_written() {
    let mut golden = golden();
    let crc = crc32c(&golden[21..]);
    golden[17..21].copy_from_slice(&crc.to_be_bytes());

    let batch = one(&Bytes::from(golden.clone()));
    batch.verify_crc().unwrap();
    assert_eq!(
        (batch.base_offset(), batch.last_offset(), batch.next_offset()),
        (Offset(100), Offset(101), Offset(102))
    );
    assert_eq!(batch.leader_epoch(), Some(LeaderEpoch(7)));
    assert_eq!((batch.base_timestamp(), batch.max_timestamp()), (1_700_000_000_000, 1_700_000_000_005));
    assert_eq!(batch.producer_id(), Some(ProducerId(1000)));
    assert_eq!((batch.producer_epoch(), batch.base_sequence()), (Some(ProducerEpoch(2)), Some(Sequence(9))));
    assert!(batch.is_transactional() && !batch.is_control() && !batch.has_delete_horizon());
    assert_eq!(batch.control().unwrap(), None);
    let expected = [
        Input {
            timestamp: 1_700_000_000_000,
            key: Some(b"k".to_vec()),
            value: None,
            headers: vec![("h".into(), Some(vec![0xff]))],
        },
        Input {
            timestamp: 1_700_000_000_005,
            key: None,
            value: Some(b"v1".to_vec()),
            headers: vec![("h".into(), None), ("é".into(), Some(vec![]))],
        },
    ];
    let records = batch.records().unwrap();
    let read: Vec<_> = records.iter().map(|record| Input::of(&record.unwrap())).collect();
    assert_eq!(read, expected);

    let mut builder = BatchBuilder::new(BatchOptions::default());
    for input in &expected {
        input.push(&mut builder).unwrap();
    }
    let written = builder
        .build(BatchIdentity {
            producer_id: ProducerId(1000),
            producer_epoch: ProducerEpoch(2),
            base_sequence: Sequence(9),
            transactional: true,
            leader_epoch: LeaderEpoch(7),
            base_offset: Offset(100),
        })
        .unwrap();
    assert_eq!(written, golden);
}

/// The golden batch with some bytes replaced; its checksum no longer matters.
fn golden_with(changes: &[(usize, &[u8])]) -> Bytes {
    let mut bytes = golden();
    for &(at, change) in changes {
        bytes[at..at + change.len()].copy_from_slice(change);
    }
    Bytes::from(bytes)
}

fn read_error(bytes: Bytes) -> milena_protocol::ProtocolError {
    read_all(bytes).unwrap_err()
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let refused = |at: usize, change: &[u8]| {
        let mut bytes = golden_with(&[(at, change)]);
        let before = bytes.clone();
        let error = RecordBatch::parse(&mut bytes).unwrap_err();
        assert_eq!(bytes, before, "left as they were");
        (error.kind(), error.field())
    };
    let malformed = |field| (ErrorKind::Malformed, Some(field));
    assert_eq!(refused(0, &[0xff; 8]), malformed("base_offset"));
    assert_eq!(refused(0, &i64::MAX.to_be_bytes()), malformed("base_offset"));
    assert_eq!(refused(0, &(i64::MAX - 1).to_be_bytes()), malformed("base_offset"));
    assert_eq!(refused(8, &(-1i32).to_be_bytes()), malformed("batch_length"));
    assert_eq!(refused(8, &48i32.to_be_bytes()), malformed("batch_length"));
    assert_eq!(refused(23, &(-1i32).to_be_bytes()), malformed("last_offset_delta"));
    assert_eq!(refused(57, &(-1i32).to_be_bytes()), malformed("record_count"));
    assert_eq!(refused(57, &3i32.to_be_bytes()), malformed("record_count"));
    assert_eq!(refused(16, &[3]), (ErrorKind::Unsupported, Some("magic")));
    assert_eq!(refused(16, &[0xff]), (ErrorKind::Unsupported, Some("magic")));
    assert_eq!(refused(22, &[5]), (ErrorKind::Unsupported, Some("attributes")));
}

#[test]
fn an_error_ends_the_batches() {
    let mut bytes = BytesMut::from(&golden_with(&[(57, &3i32.to_be_bytes())])[..]);
    bytes.extend_from_slice(&golden());
    let mut all = batches(bytes.freeze());
    assert!(all.next().unwrap().is_err());
    assert!(all.next().is_none());
}

#[test]
fn records_that_break_the_format_are_malformed() {
    let refused = |changes: &[(usize, &[u8])]| {
        let error = read_error(golden_with(changes));
        assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        (error.field().unwrap(), error.at().unwrap())
    };
    // Record 0 begins at 61, record 1 at 73; `at` counts from the first record.
    assert_eq!(refused(&[(61, &[0x15])]), ("length", 1), "negative length");
    assert_eq!(refused(&[(61, &[0x7e])]), ("length", 1), "length beyond the end");
    assert_eq!(refused(&[(61, &[0x18])]), ("record", 12), "one byte too long");
    assert_eq!(refused(&[(61, &[0x14])]), ("headers", 11), "one byte too short");
    assert_eq!(refused(&[(65, &[0x03])]), ("key", 5), "key length -2");
    assert_eq!(refused(&[(67, &[0x03])]), ("value", 7), "value length -2");
    assert_eq!(refused(&[(68, &[0x01])]), ("header_count", 8), "header count -1");
    assert_eq!(refused(&[(68, &[0x04])]), ("headers", 12), "a header too many");
    assert_eq!(refused(&[(69, &[0x01])]), ("headers", 9), "null header name");
    assert_eq!(refused(&[(71, &[0x03])]), ("headers", 11), "header value length -2");
    assert_eq!(refused(&[(64, &[0x01])]).0, "offset_delta", "negative offset delta");
    assert_eq!(refused(&[(76, &[0x00])]).0, "offset_delta", "the same offset twice");
    assert_eq!(refused(&[(76, &[0x04])]).0, "offset_delta", "beyond the last offset");
    assert_eq!(refused(&[(57, &1i32.to_be_bytes())]), ("record_count", 12), "bytes after the last record");
    assert_eq!(
        refused(&[(57, &3i32.to_be_bytes()), (23, &2i32.to_be_bytes())]),
        ("length", 28),
        "a record missing"
    );
    assert_eq!(refused(&[(27, &i64::MAX.to_be_bytes())]).0, "timestamp_delta", "time beyond 64 bits");
}

#[test]
fn compacted_batches_keep_their_offsets() {
    // Record 0 was removed by compaction; record 1 has offset delta 5 of 9.
    let mut bytes = golden();
    bytes.drain(61..73);
    bytes[64] = 10;
    bytes[8..12].copy_from_slice(&65i32.to_be_bytes());
    bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    let batch = one(&Bytes::from(bytes.clone()));
    assert_eq!((batch.base_offset(), batch.next_offset()), (Offset(100), Offset(110)));
    let offsets: Vec<_> = batch.records().unwrap().iter().map(|record| record.unwrap().offset).collect();
    assert_eq!(offsets, [Offset(105)]);

    // All records were removed: the header stays, whatever codec it names.
    bytes.truncate(HEADER_LEN);
    bytes[8..12].copy_from_slice(&49i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
    for codec in 0..5u8 {
        bytes[22] = 0x30 | codec;
        let batch = one(&Bytes::from(bytes.clone()));
        assert_eq!(batch.next_offset(), Offset(110));
        assert_eq!(batch.records().unwrap().iter().count(), 0);
        assert_eq!(batch.control().unwrap(), None, "an emptied control batch says nothing");
    }
}

#[test]
fn log_append_time_is_the_time_of_every_record() {
    let mut bytes = golden();
    set_log_append_time(&mut bytes, 42).unwrap();
    set_base_offset(&mut bytes, Offset(7), LeaderEpoch(3)).unwrap();
    let batch = one(&Bytes::from(bytes));
    batch.verify_crc().unwrap();
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((batch.base_offset(), batch.leader_epoch()), (Offset(7), Some(LeaderEpoch(3))));
    assert_eq!(batch.base_timestamp(), 1_700_000_000_000);
    assert!(batch.records().unwrap().iter().all(|record| record.unwrap().timestamp == 42));
    assert!(set_base_offset(&mut [0; 60], Offset(7), LeaderEpoch(3)).is_err());
    assert!(set_log_append_time(&mut [0; 60], 1).is_err());
}

#[test]
fn a_delete_horizon_leaves_the_records_times_right() {
    // KIP-534: the base timestamp becomes the horizon, and the deltas count from it.
    let bytes =
        golden_with(&[(22, &[0x50]), (27, &1_700_000_000_003i64.to_be_bytes()), (63, &[5]), (75, &[4])]);
    let batch = one(&bytes);
    assert!(batch.has_delete_horizon());
    let times: Vec<_> = batch.records().unwrap().iter().map(|record| record.unwrap().timestamp).collect();
    assert_eq!(times, [1_700_000_000_000, 1_700_000_000_005]);
}

#[test]
fn markers_are_built_and_read() {
    for (kind, expected) in [
        (ControlKind::Commit, ControlRecord::Commit { coordinator_epoch: 17 }),
        (ControlKind::Abort, ControlRecord::Abort { coordinator_epoch: 17 }),
    ] {
        let bytes = build_control_batch(Offset(5), ProducerId(9), ProducerEpoch(3), kind, 17, 1234);
        let batch = one(&bytes);
        batch.verify_crc().unwrap();
        assert!(batch.is_control() && batch.is_transactional());
        assert_eq!(
            (batch.base_offset(), batch.next_offset(), batch.record_count()),
            (Offset(5), Offset(6), 1)
        );
        assert_eq!((batch.base_sequence(), batch.leader_epoch()), (None, None));
        assert_eq!(
            (batch.producer_id(), batch.producer_epoch()),
            (Some(ProducerId(9)), Some(ProducerEpoch(3)))
        );
        assert_eq!(batch.records().unwrap().iter().next().unwrap().unwrap().timestamp, 1234);
        assert_eq!(batch.control().unwrap(), Some(expected));
        // 0.5 pages of the protocol guide: key is version and type, value is version and epoch.
        let records = batch.records().unwrap();
        let record = records.iter().next().unwrap().unwrap();
        let number = u8::from(kind == ControlKind::Commit);
        assert_eq!(
            (record.key, record.value),
            (Some(&[0, 0, 0, number][..]), Some(&[0, 0, 0, 0, 0, 17][..]))
        );

        for end in 0..6 {
            let cut = Record { value: Some(&[0, 0, 0, 0, 0, 17][..end]), ..record };
            assert_eq!(ControlRecord::parse(&cut).unwrap_err().field(), Some("value"));
            let cut = Record { key: Some(&[0, 0, 0, number][..end.min(3)]), ..record };
            assert_eq!(ControlRecord::parse(&cut).unwrap_err().field(), Some("key"));
        }
        let newer = Record { key: Some(&[0, 1, 0, 2, 9]), value: None, ..record };
        assert_eq!(ControlRecord::parse(&newer).unwrap(), ControlRecord::Other(2));
        let negative = Record { key: Some(&[0xff, 0xff, 0, 1]), ..record };
        assert!(ControlRecord::parse(&negative).is_err());
    }
}

#[test]
fn a_false_count_reserves_nothing() {
    // Two billion records promised over 27 bytes.
    let huge = (i32::MAX - 1).to_be_bytes();
    let batch = one(&golden_with(&[(23, &huge), (57, &huge)]));
    let records = batch.records().unwrap();
    assert!(records.iter().size_hint().1.unwrap() < 10);
    assert_eq!(records.iter().filter(|record| record.is_ok()).count(), 2);
}

#[test]
fn large_batches_and_reused_buffers() {
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: Compression::Lz4, ..BatchOptions::default() });
    let count = 150_000u32;
    for index in 0..count {
        builder.push(i64::from(index), None, Some(&index.to_be_bytes()), []).unwrap();
    }
    let capacity = builder.capacity();
    let (frozen, left) = builder.freeze_with(Vec::new()).unwrap();
    assert_eq!(left.capacity(), capacity, "the records' buffer comes back");
    let batch = one(&frozen.as_bytes());
    let records = batch.records().unwrap();
    let sum = records.iter().map(|record| record.unwrap().timestamp).sum::<i64>();
    assert_eq!(sum, i64::from(count) * i64::from(count - 1) / 2);
    drop((batch, records));
    let held = frozen.as_bytes();
    let memory = BatchBuilder::with_buffer(BatchOptions::default(), left);
    assert_eq!((memory.capacity(), memory.size_bytes()), (capacity, HEADER_LEN));
    assert_eq!(frozen.reclaim(), None, "still held by another");
    drop(held);
    let mut builder = memory;
    builder.push(0, None, None, []).unwrap();
    let frozen = builder.freeze().unwrap();
    drop(frozen.as_bytes());
    assert!(frozen.reclaim().unwrap().capacity() > 1_000_000);
}

#[test]
fn the_builder_refuses_what_the_format_cannot_hold() {
    assert_eq!(BatchBuilder::new(BatchOptions::default()).freeze().unwrap_err().kind(), ErrorKind::Malformed);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(i64::MIN, None, None, []).unwrap();
    let size = builder.size_bytes();
    assert_eq!(builder.push(i64::MAX, None, None, []).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!((builder.size_bytes(), builder.record_count()), (size, 1));
    let gigabyte = vec![0u8; 1 << 30];
    assert_eq!(
        builder.push(0, Some(&gigabyte), Some(&gigabyte), []).unwrap_err().kind(),
        ErrorKind::TooLarge
    );
    assert_eq!((builder.size_bytes(), builder.record_count()), (size, 1));
    let leveled = BatchOptions { compression: Compression::Gzip, level: Some(11), ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(leveled);
    builder.push(0, None, None, []).unwrap();
    assert_eq!(builder.freeze().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_record_of_another_batch_is_copied() {
    let batch = one(&golden_with(&[]));
    let records = batch.records().unwrap();
    let elsewhere = Record {
        offset: Offset(1),
        timestamp: 2,
        key: Some(b"elsewhere"),
        value: Some(&[]),
        headers: Headers::EMPTY,
    };
    let owned = records.own(&elsewhere);
    assert_eq!((owned.key.as_deref(), owned.value.as_deref()), (Some(&b"elsewhere"[..]), Some(&[][..])));
}

#[test]
fn a_stamp_is_right_for_small_and_large_batches() {
    for size in [0, 1, 65_000, 65_536, 70_000, 1_000_000] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(1, None, Some(&vec![7; size]), []).unwrap();
        let mut frozen = builder.freeze().unwrap();
        one(&frozen.as_bytes()).verify_crc().unwrap();
        frozen.stamp(ProducerId(3), ProducerEpoch(4), Sequence(5), true);
        one(&frozen.as_bytes()).verify_crc().unwrap();
        assert_eq!(frozen.identity().base_sequence, Sequence(5));
    }
}

#[test]
fn a_batch_may_be_as_large_as_the_cap_and_not_a_byte_larger() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new(BatchOptions { compression: codec, ..BatchOptions::default() });
        for value in [&[7u8; 300_000][..], &[8; 3]] {
            builder.push(0, None, Some(value), [Header::new("h", None); 3]).unwrap();
        }
        let content = builder.size_bytes() - HEADER_LEN;
        let batch = one(&builder.build(BatchIdentity::default()).unwrap());
        batch.verify_crc().unwrap();
        let records = batch.records_capped(content).unwrap();
        assert_eq!(
            (records.buffer().len(), records.iter().filter(|record| record.is_ok()).count()),
            (content, 2)
        );
        assert_eq!(batch.records_capped(content - 1).unwrap_err().kind(), ErrorKind::TooLarge, "{codec}");
    }
}
