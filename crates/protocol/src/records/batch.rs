//! A record batch: a view over its bytes, with the header parsed.

use super::control::ControlRecord;
use super::iter::{Frame, Records};
use super::layout::{self, HEADER_LEN, PREFIX_LEN, attributes, bytes_at};
use super::message_set;
use crate::compression::{self, Compression, DEFAULT_MAX_DECOMPRESSED};
use crate::error::{ErrorKind, ProtocolError, Result};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use bytes::{Buf, Bytes};
use std::fmt;

/// What the timestamps of a batch mean (KIP-32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TimestampType {
    /// Each record has the time its producer gave it. Kafka's default.
    #[default]
    CreateTime,
    /// Each record has the time at which the broker appended the batch.
    LogAppendTime,
}

/// One batch of records: its bytes, and its header, checked and parsed.
///
/// That is a batch of Kafka's format 2 (magic 2, KIP-98), or one message of a set of format 0 or 1, which counts as a
/// batch of its own. A message that wraps compressed ones is a batch of those. What a format does not have is absent:
/// see the methods.
///
/// Nothing of the records is read until [`records`](Self::records). Cloning shares the bytes.
#[derive(Clone)]
pub struct RecordBatch {
    bytes: Bytes,
    header: Header,
    /// Whether messages inside a wrapper are held against their own checksums.
    inner_crcs: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) magic: u8,
    pub(super) base_offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) crc: u32,
    pub(super) attributes: i16,
    pub(super) compression: Compression,
    pub(super) last_offset_delta: u32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) record_count: u32,
}

/// How many bytes the first batch of some bytes takes, or `None` if they end before its end.
fn measure(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(&magic) = bytes.get(layout::MAGIC_AT) else { return Ok(None) };
    let least = match magic {
        layout::MAGIC => HEADER_LEN,
        0 | 1 => message_set::least_len(magic),
        other => {
            return Err(ProtocolError::unsupported(format!("unknown record batch format {other}"))
                .with_field("magic")
                .with_at(layout::MAGIC_AT));
        }
    };
    let length = i32::from_be_bytes(bytes_at(bytes, &layout::LENGTH)?);
    let whole = usize::try_from(length).ok().and_then(|length| length.checked_add(PREFIX_LEN));
    match whole {
        Some(whole) if whole >= least => Ok((whole <= bytes.len()).then_some(whole)),
        _ => Err(ProtocolError::malformed(format!(
            "a batch length of {length} cannot hold a batch of format {magic}"
        ))
        .with_field("batch_length")
        .with_at(layout::LENGTH.start)),
    }
}

fn malformed(
    text: impl Into<std::borrow::Cow<'static, str>>,
    field: &'static str,
    at: usize,
) -> ProtocolError {
    ProtocolError::malformed(text).with_field(field).with_at(at)
}

impl Header {
    /// `bytes` begin with a whole batch, which [`measure`] has found.
    fn parse(bytes: &[u8]) -> Result<Self> {
        match bytes.get(layout::MAGIC_AT) {
            Some(&magic) if magic < layout::MAGIC => message_set::header(bytes, magic),
            _ => Self::parse_batch(bytes),
        }
    }

    fn parse_batch(bytes: &[u8]) -> Result<Self> {
        let attributes = i16::from_be_bytes(bytes_at(bytes, &layout::ATTRIBUTES)?);
        let compression = Compression::from_attributes(attributes)
            .map_err(|error| error.with_field("attributes").with_at(layout::ATTRIBUTES.start))?;
        let base_offset = i64::from_be_bytes(bytes_at(bytes, &layout::BASE_OFFSET)?);
        let delta = i32::from_be_bytes(bytes_at(bytes, &layout::LAST_OFFSET_DELTA)?);
        let count = i32::from_be_bytes(bytes_at(bytes, &layout::RECORD_COUNT)?);
        let last_offset_delta = u32::try_from(delta).map_err(|_| {
            malformed("negative last offset delta", "last_offset_delta", layout::LAST_OFFSET_DELTA.start)
        })?;
        let record_count = u32::try_from(count)
            .map_err(|_| malformed("negative record count", "record_count", layout::RECORD_COUNT.start))?;
        // The position after the batch has to be an offset as well, hence the `+ 1`.
        if base_offset < 0 || base_offset.checked_add(i64::from(last_offset_delta) + 1).is_none() {
            return Err(malformed(
                format!("a batch at offset {base_offset} with a last offset delta of {delta}"),
                "base_offset",
                layout::BASE_OFFSET.start,
            ));
        }
        // Offsets in a batch are unique, so there cannot be more records than offsets. Fewer are fine:
        // compaction takes records out and keeps the offsets (KIP-98, "compacted batches").
        if i64::from(record_count) > i64::from(last_offset_delta) + 1 {
            return Err(malformed(
                format!("{record_count} records in a batch of {} offsets", i64::from(last_offset_delta) + 1),
                "record_count",
                layout::RECORD_COUNT.start,
            ));
        }
        Ok(Self {
            magic: layout::MAGIC,
            base_offset,
            leader_epoch: i32::from_be_bytes(bytes_at(bytes, &layout::LEADER_EPOCH)?),
            crc: u32::from_be_bytes(bytes_at(bytes, &layout::CRC)?),
            attributes,
            compression,
            last_offset_delta,
            base_timestamp: i64::from_be_bytes(bytes_at(bytes, &layout::BASE_TIMESTAMP)?),
            max_timestamp: i64::from_be_bytes(bytes_at(bytes, &layout::MAX_TIMESTAMP)?),
            producer_id: i64::from_be_bytes(bytes_at(bytes, &layout::PRODUCER_ID)?),
            producer_epoch: i16::from_be_bytes(bytes_at(bytes, &layout::PRODUCER_EPOCH)?),
            base_sequence: i32::from_be_bytes(bytes_at(bytes, &layout::BASE_SEQUENCE)?),
            record_count,
        })
    }
}

impl RecordBatch {
    /// Splits one batch off the front of some bytes.
    ///
    /// `None` means that they are empty or end inside a batch, which is legal at the end of a fetch: the broker
    /// cuts at the size it was asked for (KIP-74). What is left is cleared then. The checksum is not verified:
    /// see [`verify_crc`](Self::verify_crc).
    ///
    /// # Errors
    /// `Unsupported` for another format than 0, 1 and 2, an unknown codec, or one that the format does not have;
    /// `Malformed` for a header that contradicts itself. The bytes are left as they were.
    pub fn parse(bytes: &mut Bytes) -> Result<Option<Self>> {
        match measure(bytes)? {
            Some(whole) => {
                let header = Header::parse(bytes)?;
                Ok(Some(Self { bytes: bytes.split_to(whole), header, inner_crcs: true }))
            }
            None => {
                bytes.advance(bytes.len());
                Ok(None)
            }
        }
    }

    /// The bytes of the batch, from its base offset to its last record.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Size of the batch in bytes, header included, as it lies in the log (that is, compressed).
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The format: 0 and 1 for messages of brokers before 0.11, 2 for record batches.
    #[must_use]
    pub fn magic(&self) -> i8 {
        // Only 0, 1 and 2 are parsed.
        self.header.magic as i8
    }

    /// The offset of the first record the batch was written with. Compaction may have removed that record.
    ///
    /// A message of formats 0 and 1 has one offset. That of a wrapper is its last record's, since where the first one
    /// lies is known only inside: so this is [`last_offset`](Self::last_offset), and records may lie before it.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(self.header.base_offset)
    }

    /// The offset of the last record the batch was written with, kept when compaction removes that record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset() + i64::from(self.header.last_offset_delta)
    }

    /// The position after this batch, whatever is left in it: [`last_offset`](Self::last_offset) + 1.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// The epoch of the leader that appended the batch; `None` where the broker did not set it, and in formats 0
    /// and 1.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        (self.header.leader_epoch >= 0).then_some(LeaderEpoch(self.header.leader_epoch))
    }

    /// How many records the header promises. 0 is legal: compaction keeps the header of an emptied batch.
    ///
    /// 1 in formats 0 and 1: a wrapper does not say how many it holds, but [`Records::count`] does.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.header.record_count
    }

    /// Milliseconds since 1970 from which the records' times count; the delete horizon if
    /// [`has_delete_horizon`](Self::has_delete_horizon).
    #[must_use]
    pub fn base_timestamp(&self) -> i64 {
        self.header.base_timestamp
    }

    /// The largest time of the records in milliseconds since 1970; with [`TimestampType::LogAppendTime`] the time
    /// of each of them. -1 if they have none, as in format 0.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.header.max_timestamp
    }

    /// Who set the records' times. [`TimestampType::CreateTime`] in format 0, which has none.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.has(attributes::LOG_APPEND_TIME) {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// How the records are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.has(attributes::TRANSACTIONAL)
    }

    /// Whether the batch holds a control record (the end of a transaction, say) and nothing of a user.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.has(attributes::CONTROL)
    }

    /// Whether the cleaner put a delete horizon into the batch (KIP-534). The records' times stay right.
    #[must_use]
    pub fn has_delete_horizon(&self) -> bool {
        self.has(attributes::DELETE_HORIZON)
    }

    /// The producer that wrote the batch; `None` for one without idempotence, and in formats 0 and 1.
    #[must_use]
    pub fn producer_id(&self) -> Option<ProducerId> {
        (self.header.producer_id >= 0).then_some(ProducerId(self.header.producer_id))
    }

    /// The epoch of that producer.
    #[must_use]
    pub fn producer_epoch(&self) -> Option<ProducerEpoch> {
        (self.header.producer_epoch >= 0).then_some(ProducerEpoch(self.header.producer_epoch))
    }

    /// The sequence of the first record the batch was written with; control batches have none.
    #[must_use]
    pub fn base_sequence(&self) -> Option<Sequence> {
        (self.header.base_sequence >= 0).then_some(Sequence(self.header.base_sequence))
    }

    /// The checksum as the batch states it.
    #[must_use]
    pub fn stated_crc(&self) -> u32 {
        self.header.crc
    }

    /// Verifies the checksum: in format 2 CRC-32C over everything but offset, length and leader epoch, in formats 0
    /// and 1 CRC-32 over everything but offset and size.
    ///
    /// The messages in a wrapper have checksums too, which this does not look at. They are verified as the records are
    /// read, unless [`skip_inner_crcs`](Self::skip_inner_crcs) was called.
    ///
    /// # Errors
    /// `Crc` if the batch was damaged.
    pub fn verify_crc(&self) -> Result<()> {
        let (computed, at) = if self.header.magic == layout::MAGIC {
            (crc32c::crc32c(self.bytes.get(layout::CRC_FROM..).unwrap_or_default()), layout::CRC.start)
        } else {
            let covered = self.bytes.get(message_set::CRC_FROM..).unwrap_or_default();
            (message_set::checksum(covered), message_set::CRC.start)
        };
        if computed == self.header.crc {
            return Ok(());
        }
        Err(ProtocolError::new(
            ErrorKind::Crc,
            format!(
                "the batch at offset {} is damaged: its checksum is {:08x}, its bytes give {computed:08x}",
                self.header.base_offset, self.header.crc
            ),
        )
        .with_field("crc")
        .with_at(at))
    }

    /// Leaves the checksums of messages inside a wrapper of formats 0 and 1 unverified, for readers that verify none
    /// (Java's `check.crcs=false`).
    pub fn skip_inner_crcs(&mut self) {
        self.inner_crcs = false;
    }

    /// What the batch says if it is a control batch; `None` for a batch of users' records, and for a control
    /// batch that compaction has emptied.
    ///
    /// # Errors
    /// As [`records`](Self::records), and `Malformed` for a control record that cannot be read.
    pub fn control(&self) -> Result<Option<ControlRecord>> {
        if !self.is_control() {
            return Ok(None);
        }
        let records = self.records()?;
        match records.iter().next() {
            Some(record) => ControlRecord::parse(&record?).map(Some),
            None => Ok(None),
        }
    }

    /// The records, decompressed if need be up to [`DEFAULT_MAX_DECOMPRESSED`] bytes. Control batches have records
    /// too: skip them by [`is_control`](Self::is_control).
    ///
    /// # Errors
    /// `Codec` if they do not decompress, `TooLarge` if they decompress to more; `Malformed` for a wrapper without
    /// messages, or whose messages do not fit its offset.
    pub fn records(&self) -> Result<Records> {
        self.records_capped(DEFAULT_MAX_DECOMPRESSED)
    }

    /// [`records`](Self::records) with a limit of one's own for the decompressed size, in bytes. Records that are
    /// not compressed are shared, not copied, so the limit does not concern them.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub fn records_capped(&self, max: usize) -> Result<Records> {
        if self.header.magic != layout::MAGIC {
            return message_set::records(&self.bytes, &self.header, self.inner_crcs, max);
        }
        let body = self.bytes.slice(HEADER_LEN.min(self.bytes.len())..);
        let buffer = match self.header.compression {
            Compression::None => body,
            // An emptied batch has no payload, not even an empty one the codec could read.
            _ if body.is_empty() && self.header.record_count == 0 => body,
            codec => Bytes::from(compression::decompress(codec, &body, max)?),
        };
        Ok(Records::new(buffer, Frame::new(&self.header, self.timestamp_type())))
    }

    fn has(&self, bit: i16) -> bool {
        self.header.attributes & bit != 0
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("magic", &self.header.magic)
            .field("base_offset", &self.header.base_offset)
            .field("last_offset", &self.last_offset().0)
            .field("record_count", &self.header.record_count)
            .field("compression", &self.header.compression)
            .field("transactional", &self.is_transactional())
            .field("control", &self.is_control())
            .field("producer_id", &self.producer_id())
            .field("len_bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// The batches that lie one after another in some bytes, as a Fetch answers them, in any mix of formats. See
/// [`Batches`].
#[must_use]
pub fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// Iterates the batches in some bytes. Ends at a partial batch, and after an error.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// The bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = RecordBatch::parse(&mut self.rest).transpose();
        if let Some(Err(_)) = batch {
            self.rest.clear();
        }
        batch
    }
}

impl std::iter::FusedIterator for Batches {}
