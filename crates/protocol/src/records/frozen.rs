//! A finished batch whose identity can still change, and what a broker rewrites in a batch.

use super::builder::{BatchIdentity, identify, seal};
use super::checksum::Tail;
use super::layout::{self, HEADER_LEN, attributes, bytes_at};
use crate::error::{ProtocolError, Result};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use bytes::{Bytes, BytesMut};
use std::fmt;

/// From this size on it is cheaper to put two checksums together (some hundred nanoseconds) than to read the body
/// again.
const COMBINE_FROM: usize = 8 * 1024;

/// A finished batch. Its records are fixed; its identity can be stamped anew, as a producer must when its epoch
/// changed before the batch was written.
///
/// Stamping a large batch does not read it again: the checksum of its records is kept. It copies the batch only if bytes handed out by [`as_bytes`](Self::as_bytes) are still held somewhere.
pub struct FrozenBatch {
    bytes: Bytes,
    /// Checksum of everything behind the header, kept for bodies of [`COMBINE_FROM`] bytes and more.
    body: Option<Tail>,
    identity: BatchIdentity,
    count: u32,
    max_timestamp: i64,
}

impl FrozenBatch {
    pub(super) fn new(bytes: Vec<u8>, count: u32, max_timestamp: i64) -> Self {
        let body = bytes.get(HEADER_LEN..).unwrap_or_default();
        let body = (body.len() >= COMBINE_FROM).then(|| Tail::new(body));
        let mut batch = Self {
            bytes: Bytes::from(bytes),
            body,
            identity: BatchIdentity::default(),
            count,
            max_timestamp,
        };
        batch.identify(&BatchIdentity::default());
        batch
    }

    /// Writes who sent the batch, and the checksum over it. Everything else of the identity stays as it is.
    pub fn stamp(
        &mut self,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        base_sequence: Sequence,
        transactional: bool,
    ) {
        let identity =
            BatchIdentity { producer_id, producer_epoch, base_sequence, transactional, ..self.identity };
        self.identify(&identity);
    }

    pub(super) fn identify(&mut self, identity: &BatchIdentity) {
        let mut bytes = std::mem::take(&mut self.bytes)
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        identify(&mut bytes, identity);
        let crc = match self.body {
            Some(body) => body.behind(bytes.get(layout::CRC_FROM..HEADER_LEN).unwrap_or_default()),
            None => crc32c::crc32c(bytes.get(layout::CRC_FROM..).unwrap_or_default()),
        };
        layout::put(&mut bytes, &layout::CRC, &crc.to_be_bytes());
        self.bytes = bytes.freeze();
        self.identity = *identity;
    }

    /// The batch as it was stamped last. Cheap: the bytes are shared.
    #[must_use]
    pub fn as_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The batch as it was stamped last.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Gives the memory back for another [`BatchBuilder`](super::BatchBuilder), unless bytes that were handed out
    /// are still held somewhere.
    #[must_use]
    pub fn reclaim(self) -> Option<Vec<u8>> {
        self.bytes.try_into_mut().ok().map(Vec::from)
    }

    /// Who wrote the batch, as stamped last.
    #[must_use]
    pub fn identity(&self) -> BatchIdentity {
        self.identity
    }

    /// How many records it has.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.count
    }

    /// The largest time of its records in milliseconds since 1970; -1 if they have none.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Size of the batch in bytes, compressed and with its header.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl fmt::Debug for FrozenBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenBatch")
            .field("record_count", &self.count)
            .field("len", &self.bytes.len())
            .field("max_timestamp", &self.max_timestamp)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Gives a batch its place in a log, as a broker does when it appends: offset and leader epoch, which the checksum
/// does not cover.
///
/// # Errors
/// `Truncated` if the bytes are shorter than a batch header, `Unsupported` if they are of another format than 2.
pub fn set_base_offset(batch: &mut [u8], offset: Offset, leader_epoch: LeaderEpoch) -> Result<()> {
    whole_header(batch)?;
    layout::put(batch, &layout::BASE_OFFSET, &offset.0.to_be_bytes());
    layout::put(batch, &layout::LEADER_EPOCH, &leader_epoch.0.to_be_bytes());
    Ok(())
}

/// Gives all records of a batch the time of its append, as a broker does for a topic with
/// `message.timestamp.type=LogAppendTime`, and writes the checksum anew. `timestamp` is in milliseconds since 1970.
/// `batch` is exactly one batch.
///
/// # Errors
/// `Truncated` if the bytes are shorter than a batch header, `Unsupported` if they are of another format than 2.
pub fn set_log_append_time(batch: &mut [u8], timestamp: i64) -> Result<()> {
    whole_header(batch)?;
    let old = i16::from_be_bytes(bytes_at(batch, &layout::ATTRIBUTES)?);
    layout::put(batch, &layout::ATTRIBUTES, &(old | attributes::LOG_APPEND_TIME).to_be_bytes());
    layout::put(batch, &layout::MAX_TIMESTAMP, &timestamp.to_be_bytes());
    let crc = crc32c::crc32c(batch.get(layout::CRC_FROM..).unwrap_or_default());
    layout::put(batch, &layout::CRC, &crc.to_be_bytes());
    Ok(())
}

/// Rewrites who wrote a batch and where it lies, and the checksum. `batch` is exactly one batch.
///
/// # Errors
/// `Truncated` if the bytes are shorter than a batch header, `Unsupported` if they are of another format than 2.
pub fn set_identity(batch: &mut [u8], identity: &BatchIdentity) -> Result<()> {
    whole_header(batch)?;
    seal(batch, identity);
    Ok(())
}

fn whole_header(batch: &[u8]) -> Result<()> {
    if batch.len() < HEADER_LEN {
        return Err(ProtocolError::truncated("the bytes end inside a batch header").with_at(batch.len()));
    }
    // The older formats have other things in these places.
    if let [magic] = bytes_at(batch, &(layout::MAGIC_AT..layout::MAGIC_AT + 1))?
        && magic != layout::MAGIC
    {
        return Err(ProtocolError::unsupported(format!("a batch of format {magic}, where 2 is expected"))
            .with_field("magic")
            .with_at(layout::MAGIC_AT));
    }
    Ok(())
}
