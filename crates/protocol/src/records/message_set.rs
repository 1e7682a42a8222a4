//! Message sets: formats 0 and 1, of brokers before 0.11 and of segments that newer brokers still have from them.
//!
//! | byte | field | |
//! |--:|---|---|
//! | 0 | offset | i64 |
//! | 8 | message size | i32, bytes after this field |
//! | 12 | checksum | u32, CRC-32 (the one of gzip and Ethernet) of everything after it |
//! | 16 | magic | i8, 0 or 1 |
//! | 17 | attributes | i8: bits 0 to 2 the codec; bit 3 in format 1: the broker set the time |
//! | 18 | timestamp | i64, ms; format 1 only (KIP-32) |
//! | 18 or 26 | key | its length as i32, -1 for null, and its bytes |
//! | | value | the same |
//!
//! Compression makes a *wrapper*: a message whose value is a compressed set of the messages it stands for. Its offset
//! is that of the last of them. Inside, format 0 has absolute offsets and format 1 offsets that count from any base:
//! only their distance to the last one matters, so that a broker can place a wrapper in its log, and its cleaner take
//! messages out, without writing the rest anew (KIP-31). If the broker set a wrapper's time, it is the time of all
//! inner messages, whatever they say.
//!
//! Where writers of these formats have differed, this follows Kafka's own reader (`AbstractLegacyRecordBatch`):
//! a last inner message that is cut short does not count, messages of both formats may be inside one wrapper, and a
//! format 1 wrapper at offset 0 has its inner offsets as they stand, as some producers send it. Wrappers inside
//! wrappers and wrappers without messages are refused, as Kafka does. Beyond it, inner offsets have to go up and end
//! at or before the wrapper's, unless that is 0.

use super::header::BatchHeader;
use super::iter::Records;
use super::layout::{self, attributes, bytes_at};
use super::record::{Headers, Record};
use super::varint::{Fault, Reader};
use crate::compression::Compression;
use crate::error::{ErrorKind, ProtocolError, Result};
use crate::types::Offset;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// A format of messages before record batches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MessageFormat {
    /// Format 0: brokers before 0.10. No timestamps.
    V0,
    /// Format 1: brokers 0.10 (KIP-31, KIP-32).
    V1,
}

impl MessageFormat {
    /// Its number on the wire.
    #[must_use]
    pub const fn magic(self) -> i8 {
        match self {
            Self::V0 => 0,
            Self::V1 => 1,
        }
    }
}

impl fmt::Display for MessageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message format {}", self.magic())
    }
}

/// Bytes of offset and size, which the size does not count.
pub(super) const PREFIX_LEN: usize = 12;
/// Where the bytes covered by the checksum begin.
pub(super) const CRC_FROM: usize = 16;
pub(super) const CRC: Range<usize> = 12..16;
const ATTRIBUTES_AT: usize = 17;
const TIMESTAMP: Range<usize> = 18..26;
/// Bytes of a message of format 0 with null key and null value: no message is smaller.
const LEAST_MESSAGE: usize = 14;

/// Bytes of the smallest message of a format, offset and size included.
pub(super) const fn least_len(magic: u8) -> usize {
    if magic == 0 { PREFIX_LEN + LEAST_MESSAGE } else { PREFIX_LEN + LEAST_MESSAGE + 8 }
}

/// Reads what corresponds to the header of a batch. `bytes` begin with a whole message of format 0 or 1.
pub(super) fn header(bytes: &[u8], magic: u8) -> Result<BatchHeader> {
    let field = |error: ProtocolError| error.with_field("attributes").with_at(ATTRIBUTES_AT);
    let [raw] = bytes_at(bytes, &(ATTRIBUTES_AT..ATTRIBUTES_AT + 1))?;
    let known = if magic == 0 { attributes::CODEC } else { attributes::CODEC | attributes::LOG_APPEND_TIME };
    let attributes = i16::from(raw) & known;
    let compression = Compression::from_attributes(attributes).map_err(field)?;
    if compression == Compression::Zstd {
        let text = format!("zstd in message format {magic}, which does not have it (KIP-110)");
        return Err(field(ProtocolError::unsupported(text)));
    }
    let offset = i64::from_be_bytes(bytes_at(bytes, &layout::BASE_OFFSET)?);
    // The position after the message has to be an offset as well.
    if offset < 0 || offset == i64::MAX {
        return Err(ProtocolError::malformed(format!("a message at offset {offset}"))
            .with_field("offset")
            .with_at(layout::BASE_OFFSET.start));
    }
    let timestamp = if magic == 0 { -1 } else { i64::from_be_bytes(bytes_at(bytes, &TIMESTAMP)?) };
    Ok(BatchHeader {
        magic,
        base_offset: offset,
        leader_epoch: -1,
        crc: u32::from_be_bytes(bytes_at(bytes, &CRC)?),
        attributes,
        compression,
        last_offset_delta: 0,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 1,
    })
}

/// The checksum of a message: over everything behind it.
pub(super) fn checksum(covered: &[u8]) -> u32 {
    crc32fast::hash(covered)
}

/// What the messages in a buffer share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    count: u32,
    /// Added to each message's own offset.
    base: i64,
    /// The offset of the wrapper, or of the only message.
    last: i64,
    /// Whether offsets have to go up to `last`.
    ordered: bool,
    /// The time of all messages of format 1, where the wrapper says it.
    time: Option<i64>,
    check_crcs: bool,
}

impl Set {
    /// One message that is not compressed.
    pub(super) fn alone(offset: i64) -> Self {
        Self { count: 1, base: 0, last: offset, ordered: true, time: None, check_crcs: false }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

/// The records of a message: itself, or, if it is a wrapper, those inside. `bytes` are exactly one message.
pub(super) fn records(
    bytes: &Bytes,
    header: &BatchHeader,
    check_crcs: bool,
    unpack: impl FnOnce(Compression, &[u8]) -> Result<Bytes>,
) -> Result<Records> {
    let offset = header.base_offset;
    if header.compression == Compression::None {
        return Ok(Records::of_set(bytes.clone(), Set::alone(offset)));
    }
    let message = bytes.get(PREFIX_LEN..).unwrap_or_default();
    let malformed = |text: String| ProtocolError::malformed(text).with_field("value");
    let wrapper = Message::parse(message).map_err(|flaw| flaw.into_error(bytes.len(), 0, offset))?;
    let Some(value) = wrapper.value else {
        return Err(malformed(format!("the wrapper at offset {offset} has no value")));
    };
    let inner = unpack(header.compression, value)?;
    let found = survey(&inner, offset)?;
    let Some(last) = found.last else {
        return Err(malformed(format!("the wrapper at offset {offset} has no message inside")));
    };
    let base = match (header.magic, offset) {
        (0, _) | (_, 0) => 0,
        _ => offset.checked_sub(last).filter(|&base| base >= 0).ok_or_else(|| {
            malformed(format!("the wrapper at offset {offset} ends with a message of offset {last}"))
        })?,
    };
    let by_broker = header.attributes & attributes::LOG_APPEND_TIME != 0;
    let set = Set {
        count: found.count,
        base,
        last: offset,
        ordered: offset != 0,
        time: by_broker.then_some(header.max_timestamp),
        check_crcs,
    };
    Ok(Records::of_set(inner.slice(..found.whole), set))
}

struct Survey {
    count: u32,
    /// The offset of the last message as it stands there.
    last: Option<i64>,
    /// Bytes of all messages that are whole.
    whole: usize,
}

/// Steps over the messages inside a wrapper: nothing but offsets and sizes is read.
fn survey(inner: &[u8], wrapper: i64) -> Result<Survey> {
    let mut found = Survey { count: 0, last: None, whole: 0 };
    let mut reader = Reader(inner);
    loop {
        match Entry::split(&mut reader) {
            Ok(entry) => {
                // Each takes 26 bytes at least, so it would take 100 GiB to reach the end.
                found.count = found.count.saturating_add(1);
                found.last = Some(entry.offset);
                found.whole = inner.len() - reader.0.len();
            }
            Err(None) => return Ok(found),
            Err(Some(flaw)) => return Err(flaw.into_error(inner.len(), found.count, wrapper)),
        }
    }
}

/// Offset and message, without a look into it.
struct Entry<'a> {
    offset: i64,
    message: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Splits one off. The error is `None` where the bytes end before or inside it.
    fn split(reader: &mut Reader<'a>) -> std::result::Result<Self, Option<Flaw>> {
        let mut rest = *reader;
        let offset = i64::from_be_bytes(array(&mut rest).map_err(|_| None)?);
        let size = i32::from_be_bytes(array(&mut rest).map_err(|_| None)?);
        let size = usize::try_from(size).ok().filter(|&size| size >= LEAST_MESSAGE).ok_or(Some(Flaw {
            text: "has a size that holds no message",
            field: "message_size",
            unread: rest.0.len(),
        }))?;
        let message = rest.take(size).map_err(|_| None)?;
        *reader = rest;
        Ok(Self { offset, message })
    }
}

/// A message, read through.
struct Message<'a> {
    crc: u32,
    magic: u8,
    attributes: i16,
    /// -1 in format 0.
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    /// `message` begins with the checksum.
    fn parse(message: &'a [u8]) -> std::result::Result<Self, Flaw> {
        let mut rest = Reader(message);
        let cut = "is longer than it says";
        let flaw = |text, field, rest: &Reader<'_>| Flaw { text, field, unread: rest.0.len() };
        let crc = u32::from_be_bytes(array(&mut rest).map_err(|_| flaw(cut, "crc", &rest))?);
        let magic = rest.byte().map_err(|_| flaw(cut, "magic", &rest))?;
        if magic > 1 {
            return Err(flaw("is neither of format 0 nor 1", "magic", &rest));
        }
        let attributes = i16::from(rest.byte().map_err(|_| flaw(cut, "attributes", &rest))?);
        let timestamp = if magic == 0 {
            -1
        } else {
            i64::from_be_bytes(array(&mut rest).map_err(|_| flaw(cut, "timestamp", &rest))?)
        };
        let mut data = |field| {
            nullable(&mut rest).map_err(|fault| match fault {
                Fault::Negative => flaw("has a negative length", field, &rest),
                _ => flaw(cut, field, &rest),
            })
        };
        let key = data("key")?;
        let value = data("value")?;
        if !rest.0.is_empty() {
            return Err(flaw("is shorter than it says", "message_size", &rest));
        }
        Ok(Self { crc, magic, attributes, timestamp, key, value })
    }
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> std::result::Result<[u8; N], Fault> {
    reader.take(N)?.try_into().map_err(|_| Fault::Short)
}

/// Bytes behind their length as an i32; -1 stands for null.
fn nullable<'a>(reader: &mut Reader<'a>) -> std::result::Result<Option<&'a [u8]>, Fault> {
    let length = i32::from_be_bytes(array(reader)?);
    match usize::try_from(length) {
        Ok(length) => reader.take(length).map(Some),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(Fault::Negative),
    }
}

/// What is wrong with a message, and where.
struct Flaw {
    text: &'static str,
    field: &'static str,
    /// Bytes of what was being read that were not read yet.
    unread: usize,
}

impl Flaw {
    #[cold]
    fn into_error(self, whole: usize, number: u32, batch: i64) -> ProtocolError {
        ProtocolError::malformed(format!("message {number} of the set at offset {batch} {}", self.text))
            .with_field(self.field)
            .with_at(whole - self.unread.min(whole))
    }
}

/// Reads the messages of a set in order; the reader over them is the caller's.
#[derive(Clone, Debug)]
pub(super) struct SetIter {
    set: Set,
    left: u32,
    /// The smallest offset the next message may have.
    least: i64,
}

impl SetIter {
    pub(super) fn new(set: Set) -> Self {
        Self { set, left: set.count, least: 0 }
    }

    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// The next message as a record. `whole` is the length of all messages.
    pub(super) fn next<'a>(&mut self, reader: &mut Reader<'a>, whole: usize) -> Option<Result<Record<'a>>> {
        if self.left == 0 {
            return None;
        }
        let number = self.set.count - self.left;
        let read = self.read(reader).map_err(|problem| self.explain(problem, number, whole));
        match read {
            Ok(_) => self.left -= 1,
            Err(_) => {
                self.left = 0;
                *reader = Reader(&[]);
            }
        }
        Some(read)
    }

    fn read<'a>(&mut self, reader: &mut Reader<'a>) -> std::result::Result<Record<'a>, Problem> {
        let entry = Entry::split(reader).map_err(|flaw| {
            // They were all stepped over once, so that none is cut short here.
            Problem::Flaw(flaw.unwrap_or(Flaw { text: "is missing", field: "message_size", unread: 0 }))
        })?;
        let behind = reader.0.len();
        let message = Message::parse(entry.message)
            .map_err(|flaw| Problem::Flaw(Flaw { unread: flaw.unread + behind, ..flaw }))?;
        if self.set.check_crcs {
            let computed = checksum(entry.message.get(CRC_FROM - PREFIX_LEN..).unwrap_or_default());
            if computed != message.crc {
                let unread = entry.message.len() + behind;
                return Err(Problem::Crc { stated: message.crc, computed, unread });
            }
        }
        if message.attributes & attributes::CODEC != 0 {
            let text = "is compressed, inside a compressed one";
            return Err(Problem::Flaw(Flaw { text, field: "attributes", unread: behind }));
        }
        let offset = self
            .set
            .base
            .checked_add(entry.offset)
            .filter(|&offset| {
                let in_order = offset >= self.least && offset <= self.set.last;
                if self.set.ordered { in_order } else { (0..i64::MAX).contains(&offset) }
            })
            .ok_or(Problem::Offset(entry.offset))?;
        // At most the wrapper's offset, which is below the largest number.
        self.least = offset.saturating_add(1);
        let timestamp = match message.magic {
            0 => -1,
            _ => self.set.time.unwrap_or(message.timestamp),
        };
        Ok(Record {
            offset: Offset(offset),
            timestamp,
            key: message.key,
            value: message.value,
            headers: Headers::EMPTY,
        })
    }

    #[cold]
    fn explain(&self, problem: Problem, number: u32, whole: usize) -> ProtocolError {
        let batch = self.set.last;
        match problem {
            Problem::Flaw(flaw) => flaw.into_error(whole, number, batch),
            Problem::Crc { stated, computed, unread } => ProtocolError::new(
                ErrorKind::Crc,
                format!(
                    "message {number} of the set at offset {batch} is damaged: its checksum is {stated:08x}, its bytes give {computed:08x}"
                ),
            )
            .with_field("crc")
            .with_at(whole - unread.min(whole)),
            Problem::Offset(own) => ProtocolError::malformed(format!(
                "message {number} of the set at offset {batch} has offset {own}, to which {} is added, where {} to {batch} is possible",
                self.set.base, self.least
            ))
            .with_field("offset"),
        }
    }
}

enum Problem {
    Flaw(Flaw),
    Crc { stated: u32, computed: u32, unread: usize },
    Offset(i64),
}
