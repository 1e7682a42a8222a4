//! Records made from any bytes are built into a batch or a message set and read back unchanged. kafka-protocol reads the batches too,
//! and we read its own; message sets it does not know, so those are held against the layout that Kafka documents.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use milena_protocol::Offset;
use milena_protocol::compression::{self, Compression};
use milena_protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, Header, MessageFormat, MessageSetBuilder, batches,
};

use super::records::field;

/// A timestamp, a key and a value.
fn content<'a>(rest: &mut &'a [u8]) -> (i64, Option<&'a [u8]>, Option<&'a [u8]>) {
    let time = field(rest, 8).unwrap_or_default();
    let timestamp = time.iter().fold(0i64, |time, &byte| time << 8 | i64::from(byte));
    (timestamp, field(rest, 254), field(rest, 254))
}

/// What a record is made of.
struct Made<'a> {
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl<'a> Made<'a> {
    fn take(rest: &mut &'a [u8]) -> Self {
        let (timestamp, key, value) = content(rest);
        let mut headers = Vec::new();
        for _ in 0..field(rest, 3).unwrap_or_default().len() {
            headers.push((field(rest, 20).unwrap_or_default(), field(rest, 20)));
        }
        Self { timestamp, key, value, headers }
    }

    fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        self.headers.iter().map(|&(name, value)| Header::new(name, value))
    }

    /// The same for kafka-protocol; `None` if it has two headers of one name, which are one to it, or a name that is not UTF-8.
    fn theirs(&self, offset: usize) -> Option<theirs::Record> {
        let bytes = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let named = |&(name, value): &(&[u8], _)| {
            Some((StrBytes::try_from(Bytes::copy_from_slice(name)).ok()?, bytes(value)))
        };
        let record = theirs::Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: theirs::TimestampType::Creation,
            offset: offset as i64,
            sequence: (offset as i32).wrapping_sub(1),
            timestamp: self.timestamp,
            key: bytes(self.key),
            value: bytes(self.value),
            headers: self.headers.iter().map(named).collect::<Option<_>>()?,
        };
        (record.headers.len() == self.headers.len()).then_some(record)
    }
}

/// Records that came back, in one batch or several, are those that went in.
fn check(bytes: Bytes, made: &[Made<'_>], compression: Compression) {
    let mut expected = made.iter().enumerate();
    for batch in batches(bytes) {
        let batch = batch.expect("readable");
        batch.verify_crc().expect("its checksum");
        assert_eq!(batch.compression(), compression);
        for record in &batch.records().expect("decompresses") {
            let record = record.expect("readable");
            let (offset, made) = expected.next().expect("a record too many");
            assert_eq!(record.offset.0, offset as i64);
            assert_eq!((record.timestamp, record.key, record.value), (made.timestamp, made.key, made.value));
            assert!(record.headers.iter().eq(made.headers()));
        }
    }
    assert!(expected.next().is_none(), "a record is lost");
}

/// kafka-protocol reads what we wrote, and we what it writes.
fn check_theirs(ours: Bytes, made: &[Made<'_>], compression: Compression) {
    let Some(records) = made.iter().enumerate().map(|(at, made)| made.theirs(at)).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let codec = match compression {
        Compression::None => theirs::Compression::None,
        Compression::Gzip => theirs::Compression::Gzip,
        Compression::Snappy => theirs::Compression::Snappy,
        Compression::Lz4 => theirs::Compression::Lz4,
        Compression::Zstd => theirs::Compression::Zstd,
    };
    // Its own codecs are C; the batch around them is what it is asked about.
    let unpack = |packed: &mut Bytes, _| {
        Ok(Bytes::from(compression::decompress(compression, packed, 1 << 30).expect("decompresses")))
    };
    let mut rest = ours;
    let read = theirs::RecordBatchDecoder::decode_with_custom_compression(&mut rest, Some(unpack))
        .expect("kafka-protocol reads it");
    assert!(rest.is_empty());
    assert_eq!((read.version, read.compression), (2, codec));
    assert_eq!(read.records, records);

    // It takes the least timestamp as the base, and does not look whether the others are too far from it.
    let times = || records.iter().map(|record| record.timestamp);
    if times().max().zip(times().min()).and_then(|(most, least)| most.checked_sub(least)).is_none() {
        return;
    }
    let pack = |plain: &mut BytesMut, out: &mut BytesMut, _| {
        let mut packed = Vec::new();
        compression::compress(compression, None, plain, &mut packed).expect("compresses");
        out.extend_from_slice(&packed);
        Ok(())
    };
    let mut out = BytesMut::new();
    let options = theirs::RecordEncodeOptions { version: 2, compression: codec };
    theirs::RecordBatchEncoder::encode_with_custom_compression(&mut out, &records, &options, Some(pack))
        .expect("kafka-protocol writes it");
    check(out.freeze(), made, compression);
}

/// The target `batch_roundtrip`: the codec, the records.
pub fn run_batch(bytes: &[u8]) {
    let Some((&codec, mut rest)) = bytes.split_first() else { return };
    let compression = Compression::ALL[usize::from(codec) % Compression::ALL.len()];
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    let mut expected = Vec::new();
    while !rest.is_empty() {
        let made = Made::take(&mut rest);
        let before = builder.size_bytes();
        match builder.push(made.timestamp, made.key, made.value, made.headers()) {
            Ok(index) => {
                assert_eq!(index as usize, expected.len());
                expected.push(made);
            }
            Err(_) => assert_eq!(builder.size_bytes(), before),
        }
    }
    if expected.is_empty() {
        return;
    }
    let bytes = builder.build(BatchIdentity::default()).expect("builds");
    check(bytes.clone(), &expected, compression);
    check_theirs(bytes, &expected, compression);
}

/// Offset, timestamp, key and value of a message.
type Expected<'a> = (Offset, i64, Option<&'a [u8]>, Option<&'a [u8]>);

/// The target `message_set_roundtrip`: codec and format, the records.
pub fn run_message_set(bytes: &[u8]) {
    let Some((&how, mut rest)) = bytes.split_first() else { return };
    let compression =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4][usize::from(how & 3)];
    let format = if how & 4 == 0 { MessageFormat::V0 } else { MessageFormat::V1 };
    let mut builder = MessageSetBuilder::new(format, compression, None);
    let mut expected = Vec::new();
    while !rest.is_empty() {
        let (timestamp, key, value) = content(&mut rest);
        let before = (builder.record_count(), builder.size_bytes());
        match builder.push(timestamp, key, value) {
            Ok(index) => {
                assert_eq!(index as usize, expected.len());
                let timestamp = if format == MessageFormat::V0 { -1 } else { timestamp };
                expected.push((Offset(i64::from(index)), timestamp, key, value));
            }
            Err(_) => assert_eq!((builder.record_count(), builder.size_bytes()), before),
        }
    }
    if expected.is_empty() {
        return;
    }
    let set = builder.build().expect("builds");
    check_layout(&set, &expected, format, compression);
    let mut expected = expected.into_iter();
    for batch in batches(set) {
        let batch = batch.expect("readable");
        assert_eq!((batch.magic(), batch.compression()), (format.magic(), compression));
        batch.verify_crc().expect("its checksum");
        for record in &batch.records().expect("decompresses") {
            let record = record.expect("readable");
            let read = (record.offset, record.timestamp, record.key, record.value);
            assert_eq!(Some(read), expected.next());
            assert!(record.headers.is_empty());
        }
    }
    assert_eq!(expected.next(), None, "nothing is lost");
}

/// A message as the documentation of formats 0 and 1 lays it out.
#[derive(Debug)]
struct Message<'a> {
    offset: i64,
    magic: i8,
    attributes: u8,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

/// Reads a whole set: offset, size, checksum, magic, attributes, in format 1 the timestamp, key, value
/// (<https://kafka.apache.org/documentation/#messageset>).
fn laid_out(mut set: &[u8]) -> Vec<Message<'_>> {
    fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, left) = rest.split_at(length);
        *rest = left;
        taken
    }
    fn number<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
        take(rest, N).try_into().expect("so many bytes")
    }
    fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = i32::from_be_bytes(number(rest));
        (length != -1).then(|| take(rest, usize::try_from(length).expect("a length")))
    }
    let mut messages = Vec::new();
    while !set.is_empty() {
        let offset = i64::from_be_bytes(number(&mut set));
        let size = i32::from_be_bytes(number(&mut set));
        let mut message = take(&mut set, usize::try_from(size).expect("a size"));
        let crc = u32::from_be_bytes(number(&mut message));
        assert_eq!(crc, crc32fast::hash(message));
        let magic = i8::from_be_bytes(number(&mut message));
        let [attributes] = number(&mut message);
        let timestamp = if magic == 0 { -1 } else { i64::from_be_bytes(number(&mut message)) };
        let (key, value) = (bytes(&mut message), bytes(&mut message));
        assert!(message.is_empty());
        messages.push(Message { offset, magic, attributes, timestamp, key, value });
    }
    messages
}

/// The set is laid out as documented: every message with an offset of its own from 0 on, or all in the value of one that has the
/// offset of the last and, in format 1, the greatest of their times.
fn check_layout(set: &[u8], expected: &[Expected<'_>], format: MessageFormat, codec: Compression) {
    let outer = laid_out(set);
    let unpacked;
    let messages = if codec == Compression::None {
        outer
    } else {
        let [wrapper] = &outer[..] else { panic!("one wrapper, not {outer:?}") };
        assert_eq!((wrapper.magic, i16::from(wrapper.attributes)), (format.magic(), codec.code()));
        assert_eq!((wrapper.offset, wrapper.key), (expected.len() as i64 - 1, None));
        assert_eq!(Some(wrapper.timestamp), expected.iter().map(|(_, timestamp, ..)| *timestamp).max());
        let packed = wrapper.value.expect("a set");
        unpacked = compression::decompress_message_set(codec, packed, 1 << 30).expect("decompresses");
        laid_out(&unpacked)
    };
    assert_eq!(messages.len(), expected.len());
    for (message, (offset, timestamp, key, value)) in messages.iter().zip(expected) {
        assert_eq!((message.magic, message.attributes), (format.magic(), 0));
        let read = (Offset(message.offset), message.timestamp, message.key, message.value);
        assert_eq!(read, (*offset, *timestamp, *key, *value));
    }
}
