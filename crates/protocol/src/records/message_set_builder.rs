//! Writing message sets: for brokers that know no record batches.

use super::batch::RecordBatch;
use super::builder::MAX_BATCH_LEN;
use super::layout::{self, attributes};
use super::message_set::{self, CRC, CRC_FROM, MessageFormat, PREFIX_LEN};
use crate::compression::{self, Compression};
use crate::error::{ProtocolError, Result};
use crate::types::Offset;
use bytes::Bytes;

/// Builds a message set, record by record: what Produce 0 to 2 carry, and what brokers before 0.11 store.
///
/// The offsets are those a producer sends, from 0, unless [`base_offset`](Self::base_offset) says another. A set with
/// a codec is one wrapper message, one without is as many messages as records were pushed.
#[derive(Debug)]
pub struct MessageSetBuilder {
    format: MessageFormat,
    compression: Compression,
    level: Option<i32>,
    append_time: Option<i64>,
    buffer: Vec<u8>,
    count: u32,
    /// The offset of the first record, and the smallest one the next record may have.
    first: i64,
    next: i64,
    max_timestamp: i64,
}

impl MessageSetBuilder {
    /// An empty set. `level` is the codec's, as [`Compression::check_level`] says; `None` is the codec's default.
    ///
    /// Codec and level are checked by [`build`](Self::build).
    #[must_use]
    pub fn new(format: MessageFormat, compression: Compression, level: Option<i32>) -> Self {
        Self {
            format,
            compression,
            level,
            append_time: None,
            buffer: Vec::new(),
            count: 0,
            first: 0,
            next: 0,
            max_timestamp: -1,
        }
    }

    /// Where the first record lies, as a broker stores it. Call it before any push: later it changes nothing.
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        if self.count == 0 {
            (self.first, self.next) = (offset.0, offset.0);
        }
        self
    }

    /// Gives all records the time of their append, in milliseconds since 1970, as a broker does for a topic with
    /// `message.timestamp.type=LogAppendTime`. Without effect in format 0. Call it before any push.
    #[must_use]
    pub fn log_append_time(mut self, timestamp: i64) -> Self {
        if self.format == MessageFormat::V1 && self.count == 0 {
            self.append_time = Some(timestamp);
        }
        self
    }

    /// Appends a record and returns its index in the set, from 0.
    ///
    /// `timestamp` is in milliseconds since 1970, -1 for none, and lost in format 0; `None` for key or value is null.
    ///
    /// # Errors
    /// `TooLarge` if the set would exceed [`MAX_BATCH_LEN`] bytes. The set is unchanged then.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<u32> {
        self.push_at(Offset(self.next), timestamp, key, value)
    }

    /// [`push`](Self::push) at an offset of one's own, to leave a gap as compaction does. The first record's offset is
    /// the set's base offset.
    ///
    /// # Errors
    /// As [`push`](Self::push), and `Malformed` if the offset is negative or not above the last one's.
    pub fn push_at(
        &mut self,
        offset: Offset,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<u32> {
        if offset.0 < self.next || offset.0 < 0 || offset.0 == i64::MAX {
            return Err(ProtocolError::malformed(format!(
                "a message at offset {offset}, where {} or more is possible",
                self.next.max(0)
            ))
            .with_field("offset"));
        }
        let first = if self.count == 0 { offset.0 } else { self.first };
        let compressed = self.compression != Compression::None;
        let stored = match self.format {
            MessageFormat::V1 if compressed => offset.0 - first,
            _ => offset.0,
        };
        // In a wrapper the time of the append is the wrapper's alone.
        let (bits, time) = match self.append_time {
            Some(time) if !compressed => (attributes::LOG_APPEND_TIME, time),
            Some(_) | None => (0, timestamp),
        };
        let size = message_set::least_len(self.format.magic() as u8)
            .saturating_add(key.map_or(0, <[u8]>::len))
            .saturating_add(value.map_or(0, <[u8]>::len));
        if size > MAX_BATCH_LEN - self.buffer.len().min(MAX_BATCH_LEN) || self.count == u32::MAX {
            return Err(full(self.buffer.len(), size));
        }
        write(&mut self.buffer, self.format, stored, bits, time, key, value);
        let index = self.count;
        self.max_timestamp = if index == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        (self.first, self.next, self.count) = (first, offset.0 + 1, index + 1);
        Ok(index)
    }

    /// How many records it has.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.count
    }

    /// Size in bytes before compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Finishes the set. With lz4 in format 0 the frame has the wrong header checksum that brokers before 0.10 demand
    /// (KAFKA-3160).
    ///
    /// # Errors
    /// `Malformed` for a set without records; `Unsupported` for zstd, which these formats do not have (KIP-110), and
    /// for a level that the codec does not have; `Codec` if compression fails; `TooLarge` if the compressed set exceeds
    /// [`MAX_BATCH_LEN`] bytes.
    pub fn build(self) -> Result<Bytes> {
        if self.count == 0 {
            return Err(ProtocolError::malformed("a message set without records"));
        }
        let codec = self.compression;
        match codec {
            Compression::None => {
                codec.check_level(self.level)?;
                return Ok(Bytes::from(self.buffer));
            }
            Compression::Zstd => return Err(no_zstd(self.format)),
            Compression::Gzip | Compression::Snappy | Compression::Lz4 => {}
        }
        let mut wrapper = Vec::new();
        let (bits, time) = match self.append_time {
            Some(time) => (attributes::LOG_APPEND_TIME, time),
            None => (0, self.max_timestamp),
        };
        let value_at = head(&mut wrapper, self.format, self.next - 1, codec.code() | bits, time, None);
        match self.format {
            MessageFormat::V0 => compression::compress_v0(codec, self.level, &self.buffer, &mut wrapper)?,
            MessageFormat::V1 => compression::compress(codec, self.level, &self.buffer, &mut wrapper)?,
        }
        if wrapper.len() > MAX_BATCH_LEN {
            return Err(full(wrapper.len(), 0));
        }
        let length = (wrapper.len() - value_at) as i32;
        layout::put(&mut wrapper, &(value_at - 4..value_at), &length.to_be_bytes());
        seal(&mut wrapper, 0);
        Ok(Bytes::from(wrapper))
    }
}

/// Writes a batch of format 2 anew as the message set a producer would send: for a broker that does not know format 2.
/// Codec, keys, values and, in format 1, times stay; the offsets count from 0. A set is written anew as well. `level` is that of
/// the codec, as for [`MessageSetBuilder::new`]: a batch does not say with which it was written.
///
/// # Errors
/// `Unsupported` for what the older format cannot say: zstd, headers (the error names the first record that has
/// some), transactions, control records and producer ids. Otherwise as [`RecordBatch::records`] and
/// [`MessageSetBuilder::build`]; an emptied batch gives no set.
pub fn convert_to_message_set(
    batch: &RecordBatch,
    format: MessageFormat,
    level: Option<i32>,
) -> Result<Bytes> {
    let lost = if batch.is_control() {
        Some("is a control batch")
    } else if batch.is_transactional() {
        Some("is part of a transaction")
    } else if batch.producer_id().is_some() {
        Some("has a producer id")
    } else {
        None
    };
    if let Some(lost) = lost {
        let base = batch.base_offset();
        return Err(ProtocolError::unsupported(format!(
            "the batch at offset {base} {lost}, which {format} cannot say"
        )));
    }
    if batch.compression() == Compression::Zstd {
        return Err(no_zstd(format));
    }
    let records = batch.records()?;
    let mut builder = MessageSetBuilder::new(format, batch.compression(), level);
    for (index, record) in records.iter().enumerate() {
        let record = record?;
        if !record.headers.is_empty() {
            let offset = record.offset;
            return Err(ProtocolError::unsupported(format!(
                "record {index} of the batch, at offset {offset}, has headers, which {format} cannot say"
            ))
            .with_field("headers"));
        }
        builder.push(record.timestamp, record.key, record.value)?;
    }
    builder.build()
}

/// Appends a whole message with its offset.
fn write(
    out: &mut Vec<u8>,
    format: MessageFormat,
    offset: i64,
    bits: i16,
    timestamp: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) {
    let start = out.len();
    let value_at = head(out, format, offset, bits, timestamp, key);
    match value {
        Some(value) => {
            // In range: the caller has checked the size.
            layout::put(out, &(value_at - 4..value_at), &(value.len() as i32).to_be_bytes());
            out.extend_from_slice(value);
        }
        None => layout::put(out, &(value_at - 4..value_at), &(-1i32).to_be_bytes()),
    }
    seal(out, start);
}

/// Appends everything before the value; size, checksum and the value's length are left open. Returns where the value
/// begins.
fn head(
    out: &mut Vec<u8>,
    format: MessageFormat,
    offset: i64,
    bits: i16,
    timestamp: i64,
    key: Option<&[u8]>,
) -> usize {
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&[0; CRC_FROM - 8]);
    // Only the low bits of the attributes are used.
    out.extend_from_slice(&[format.magic() as u8, bits as u8]);
    if format == MessageFormat::V1 {
        out.extend_from_slice(&timestamp.to_be_bytes());
    }
    out.extend_from_slice(&key.map_or(-1, |key| key.len() as i32).to_be_bytes());
    out.extend_from_slice(key.unwrap_or_default());
    out.extend_from_slice(&[0; 4]);
    out.len()
}

/// Writes size and checksum of the message that begins at `start` and ends with the buffer.
fn seal(out: &mut [u8], start: usize) {
    let message = out.get_mut(start..).unwrap_or_default();
    let size = message.len().saturating_sub(PREFIX_LEN) as i32;
    layout::put(message, &layout::LENGTH, &size.to_be_bytes());
    let crc = message_set::checksum(message.get(CRC_FROM..).unwrap_or_default());
    layout::put(message, &CRC, &crc.to_be_bytes());
}

#[cold]
fn no_zstd(format: MessageFormat) -> ProtocolError {
    ProtocolError::unsupported(format!("{format} does not have zstd (KIP-110)"))
}

#[cold]
fn full(size: usize, record: usize) -> ProtocolError {
    ProtocolError::too_large(format!(
        "a message set of {size} bytes has no room for another {record} bytes: the format ends at {MAX_BATCH_LEN}"
    ))
    .with_field("message_size")
}
