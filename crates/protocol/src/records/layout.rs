//! The 61-byte header of a record batch, format 2 (KIP-98; Kafka documentation, "Record Batch").
//!
//! | byte | field | |
//! |--:|---|---|
//! | 0 | base offset | i64, offset of the first record the batch was written with |
//! | 8 | batch length | i32, bytes after this field |
//! | 12 | partition leader epoch | i32, set by the leader; not covered by the checksum |
//! | 16 | magic | i8, 2 |
//! | 17 | checksum | u32, CRC-32C of everything after it |
//! | 21 | attributes | i16, see [`attributes`] |
//! | 23 | last offset delta | i32 |
//! | 27 | base timestamp | i64, ms; each record carries its distance from it |
//! | 35 | max timestamp | i64, ms |
//! | 43 | producer id | i64, -1 for none |
//! | 51 | producer epoch | i16, -1 for none |
//! | 53 | base sequence | i32, -1 for none |
//! | 57 | record count | i32 |

use crate::error::{ProtocolError, Result};
use std::ops::Range;

/// Bytes of the header of a batch.
pub const HEADER_LEN: usize = 61;
/// Bytes of base offset and length, which the length does not count.
pub(super) const PREFIX_LEN: usize = 12;
/// Where the bytes covered by the checksum begin.
pub(super) const CRC_FROM: usize = 21;
/// The format number of these batches.
pub(super) const MAGIC: u8 = 2;

pub(super) const BASE_OFFSET: Range<usize> = 0..8;
pub(super) const LENGTH: Range<usize> = 8..12;
pub(super) const LEADER_EPOCH: Range<usize> = 12..16;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC: Range<usize> = 17..21;
pub(super) const ATTRIBUTES: Range<usize> = 21..23;
pub(super) const LAST_OFFSET_DELTA: Range<usize> = 23..27;
pub(super) const BASE_TIMESTAMP: Range<usize> = 27..35;
pub(super) const MAX_TIMESTAMP: Range<usize> = 35..43;
pub(super) const PRODUCER_ID: Range<usize> = 43..51;
pub(super) const PRODUCER_EPOCH: Range<usize> = 51..53;
pub(super) const BASE_SEQUENCE: Range<usize> = 53..57;
pub(super) const RECORD_COUNT: Range<usize> = 57..61;

/// The bits of a batch's attributes.
pub mod attributes {
    /// Bits 0 to 2: the codec.
    pub const CODEC: i16 = 0x07;
    /// Bit 3: the broker set the timestamps when it appended.
    pub const LOG_APPEND_TIME: i16 = 0x08;
    /// Bit 4: the batch is part of a transaction.
    pub const TRANSACTIONAL: i16 = 0x10;
    /// Bit 5: the batch holds a control record, nothing of a user.
    pub const CONTROL: i16 = 0x20;
    /// Bit 6: the base timestamp was replaced by the time at which tombstones may go (KIP-534).
    pub const DELETE_HORIZON: i16 = 0x40;
}

/// Big-endian number at a place of a header; an error if the header is shorter than that.
#[inline(always)]
pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: &Range<usize>) -> Result<[u8; N]> {
    bytes
        .get(at.clone())
        .and_then(|field| field.try_into().ok())
        .ok_or_else(|| ProtocolError::truncated("the bytes end inside a batch header").with_at(bytes.len()))
}

/// Writes a field of a header. Short bytes are left as they are: callers hold a whole header.
pub(super) fn put(bytes: &mut [u8], at: &Range<usize>, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at.clone())
        && field.len() == value.len()
    {
        field.copy_from_slice(value);
    }
}
