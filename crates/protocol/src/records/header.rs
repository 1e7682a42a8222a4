//! The header of a batch: checked, and what it says.

use super::layout::{self, HEADER_LEN, PREFIX_LEN, attributes, bytes_at};
use super::message_set;
use crate::compression::Compression;
use crate::error::{ProtocolError, Result};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// What the timestamps of a batch mean (KIP-32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TimestampType {
    /// Each record has the time its producer gave it. Kafka's default.
    #[default]
    CreateTime,
    /// Each record has the time at which the broker appended the batch.
    LogAppendTime,
}

/// What the header of a batch says, checked. [`RecordBatch`](super::RecordBatch) and [`BatchRef`](super::BatchRef) have all of it by `Deref`.
///
/// What a format does not have is absent: see the methods.
#[derive(Clone, Copy)]
pub struct BatchHeader {
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

/// Where a batch lies: in some bytes, and among the offsets of its partition. It is what a reader needs to go on behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchExtent {
    /// Its size in bytes, header included.
    pub bytes: usize,
    /// As [`BatchHeader::base_offset`].
    pub base_offset: Offset,
    /// As [`BatchHeader::last_offset`].
    pub last_offset: Offset,
    /// As [`BatchHeader::leader_epoch`].
    pub leader_epoch: Option<LeaderEpoch>,
}

impl BatchExtent {
    /// That of the first batch of some bytes; `None` if they end before its end. What else the header says is not looked at.
    ///
    /// # Errors
    /// As [`RecordBatch::parse`](super::RecordBatch::parse), where length or offsets are wrong.
    #[inline]
    pub fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(whole) = measure(bytes)? else { return Ok(None) };
        let (base, delta, epoch) = match bytes.first_chunk() {
            Some(head) if head.get(layout::MAGIC_AT) == Some(&layout::MAGIC) => {
                let (base, delta) = offsets(head)?;
                (base, delta, i32::from_be_bytes(bytes_at(head, &layout::LEADER_EPOCH)?))
            }
            _ => {
                let header = BatchHeader::parse(bytes)?;
                (header.base_offset, header.last_offset_delta, header.leader_epoch)
            }
        };
        Ok(Some(Self {
            bytes: whole,
            base_offset: Offset(base),
            last_offset: Offset(base) + i64::from(delta),
            leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
        }))
    }
}

/// Base offset and last offset delta of a batch of format 2.
#[inline(always)]
fn offsets(head: &[u8; HEADER_LEN]) -> Result<(i64, u32)> {
    let base_offset = i64::from_be_bytes(bytes_at(head, &layout::BASE_OFFSET)?);
    let delta = i32::from_be_bytes(bytes_at(head, &layout::LAST_OFFSET_DELTA)?);
    let last_offset_delta = u32::try_from(delta).map_err(|_| {
        malformed("negative last offset delta", "last_offset_delta", layout::LAST_OFFSET_DELTA.start)
    })?;
    // The position after the batch has to be an offset as well, hence the `+ 1`.
    if base_offset < 0 || base_offset.checked_add(i64::from(last_offset_delta) + 1).is_none() {
        return Err(malformed(
            format!("a batch at offset {base_offset} with a last offset delta of {delta}"),
            "base_offset",
            layout::BASE_OFFSET.start,
        ));
    }
    Ok((base_offset, last_offset_delta))
}

/// How many bytes the first batch of some bytes takes, or `None` if they end before its end.
#[inline]
pub(super) fn measure(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(&magic) = bytes.get(layout::MAGIC_AT) else { return Ok(None) };
    let least = match magic {
        layout::MAGIC => HEADER_LEN,
        0 | 1 => message_set::least_len(magic),
        other => return Err(unknown_format(other)),
    };
    let length = i32::from_be_bytes(bytes_at(bytes, &layout::LENGTH)?);
    let whole = usize::try_from(length).ok().and_then(|length| length.checked_add(PREFIX_LEN));
    match whole {
        Some(whole) if whole >= least => Ok((whole <= bytes.len()).then_some(whole)),
        _ => Err(impossible_length(length, magic)),
    }
}

// Apart, so that what is done for every batch is small.
#[cold]
fn unknown_format(magic: u8) -> ProtocolError {
    ProtocolError::unsupported(format!("unknown record batch format {magic}"))
        .with_field("magic")
        .with_at(layout::MAGIC_AT)
}

#[cold]
fn impossible_length(length: i32, magic: u8) -> ProtocolError {
    let text = format!("a batch length of {length} cannot hold a batch of format {magic}");
    malformed(text, "batch_length", layout::LENGTH.start)
}

#[cold]
fn malformed(
    text: impl Into<std::borrow::Cow<'static, str>>,
    field: &'static str,
    at: usize,
) -> ProtocolError {
    ProtocolError::malformed(text).with_field(field).with_at(at)
}

impl BatchHeader {
    /// `bytes` begin with a whole batch, which [`measure`] has found.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        match bytes.get(layout::MAGIC_AT) {
            Some(&magic) if magic < layout::MAGIC => message_set::header(bytes, magic),
            _ => Self::parse_batch(bytes),
        }
    }

    #[inline]
    fn parse_batch(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(ProtocolError::truncated("the bytes end inside a batch header").with_at(bytes.len()));
        };
        let attributes = i16::from_be_bytes(bytes_at(bytes, &layout::ATTRIBUTES)?);
        let compression = Compression::from_attributes(attributes)
            .map_err(|error| error.with_field("attributes").with_at(layout::ATTRIBUTES.start))?;
        let count = i32::from_be_bytes(bytes_at(bytes, &layout::RECORD_COUNT)?);
        let (base_offset, last_offset_delta) = offsets(bytes)?;
        let record_count = u32::try_from(count)
            .map_err(|_| malformed("negative record count", "record_count", layout::RECORD_COUNT.start))?;
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

    /// The format: 0 and 1 for messages of brokers before 0.11, 2 for record batches.
    #[must_use]
    pub fn magic(&self) -> i8 {
        // Only 0, 1 and 2 are parsed.
        self.magic as i8
    }

    /// The offset of the first record the batch was written with. Compaction may have removed that record.
    ///
    /// A message of formats 0 and 1 has one offset. That of a wrapper is its last record's, since where the first one
    /// lies is known only inside: so this is [`last_offset`](Self::last_offset), and records may lie before it.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        Offset(self.base_offset)
    }

    /// The offset of the last record the batch was written with, kept when compaction removes that record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset() + i64::from(self.last_offset_delta)
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
        (self.leader_epoch >= 0).then_some(LeaderEpoch(self.leader_epoch))
    }

    /// How many records the header promises. 0 is legal: compaction keeps the header of an emptied batch.
    ///
    /// 1 in formats 0 and 1: a wrapper does not say how many it holds, but [`Records::count`](super::Records::count) does.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Milliseconds since 1970 from which the records' times count; the delete horizon if
    /// [`has_delete_horizon`](Self::has_delete_horizon).
    #[must_use]
    pub fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// The largest time of the records in milliseconds since 1970; with [`TimestampType::LogAppendTime`] the time
    /// of each of them. -1 if they have none, as in format 0.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
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
        self.compression
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
        (self.producer_id >= 0).then_some(ProducerId(self.producer_id))
    }

    /// The epoch of that producer.
    #[must_use]
    pub fn producer_epoch(&self) -> Option<ProducerEpoch> {
        (self.producer_epoch >= 0).then_some(ProducerEpoch(self.producer_epoch))
    }

    /// The sequence of the first record the batch was written with; control batches have none.
    #[must_use]
    pub fn base_sequence(&self) -> Option<Sequence> {
        (self.base_sequence >= 0).then_some(Sequence(self.base_sequence))
    }

    /// The checksum as the batch states it.
    #[must_use]
    pub fn stated_crc(&self) -> u32 {
        self.crc
    }

    pub(super) fn has(&self, bit: i16) -> bool {
        self.attributes & bit != 0
    }
}
