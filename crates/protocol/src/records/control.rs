//! Control records: the ends of transactions (KIP-98).

use super::builder::{BatchIdentity, patch_header, seal};
use super::layout::{HEADER_LEN, attributes};
use super::record::Record;
use super::varint::{Reader, Scratch, encoded_len, zigzag};
use crate::error::{ProtocolError, Result};
use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence};
use bytes::Bytes;

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ControlKind {
    /// Its records count.
    Commit,
    /// Its records do not count; a reader of committed records skips them.
    Abort,
}

/// What a control batch says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ControlRecord {
    /// The producer's transaction was committed.
    Commit {
        /// The epoch of the transaction coordinator that wrote the marker.
        coordinator_epoch: i32,
    },
    /// The producer's transaction was aborted.
    Abort {
        /// The epoch of the transaction coordinator that wrote the marker.
        coordinator_epoch: i32,
    },
    /// Another kind, by its number: brokers write those into logs of their own (2 leader change, 3 and 4 snapshot
    /// header and footer, 5 KRaft version, 6 KRaft voters).
    Other(i16),
}

/// The kinds' numbers on the wire (`ControlRecordType`).
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

impl ControlRecord {
    /// Reads a control record: its key says what it is, its value the coordinator's epoch. Newer versions of both
    /// may append fields, which are passed over.
    ///
    /// # Errors
    /// `Malformed` if key or value is missing, too short, or of a negative version.
    pub fn parse(record: &Record<'_>) -> Result<Self> {
        let mut key = Reader(record.key.unwrap_or_default());
        let kind = match (read_i16(&mut key), read_i16(&mut key)) {
            (Some(version), Some(kind)) if version >= 0 => kind,
            _ => {
                return Err(
                    ProtocolError::malformed("a control record without a readable key").with_field("key")
                );
            }
        };
        let coordinator_epoch = || {
            let mut value = Reader(record.value.unwrap_or_default());
            match (read_i16(&mut value), value.take(4).ok().and_then(|bytes| bytes.try_into().ok())) {
                (Some(version), Some(epoch)) if version >= 0 => Ok(i32::from_be_bytes(epoch)),
                _ => Err(ProtocolError::malformed("an end-of-transaction marker without a readable value")
                    .with_field("value")),
            }
        };
        Ok(match kind {
            ABORT => Self::Abort { coordinator_epoch: coordinator_epoch()? },
            COMMIT => Self::Commit { coordinator_epoch: coordinator_epoch()? },
            other => Self::Other(other),
        })
    }
}

fn read_i16(reader: &mut Reader<'_>) -> Option<i16> {
    reader.take(2).ok()?.try_into().ok().map(i16::from_be_bytes)
}

/// The batch a broker appends to each partition of a transaction when it ends: one control record.
///
/// `timestamp` is in milliseconds since 1970. The leader epoch is -1: set it with
/// [`set_base_offset`](super::set_base_offset).
#[must_use]
pub fn build_control_batch(
    offset: Offset,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    kind: ControlKind,
    coordinator_epoch: i32,
    timestamp: i64,
) -> Bytes {
    let kind = match kind {
        ControlKind::Commit => COMMIT,
        ControlKind::Abort => ABORT,
    };
    let version = 0i16.to_be_bytes();
    let key = [version, kind.to_be_bytes()].concat();
    let value = [&version[..], &coordinator_epoch.to_be_bytes()[..]].concat();

    // Attributes, timestamp delta, offset delta and header count take one byte each: they are all zero.
    let lengths = [key.len(), value.len()].map(|length| zigzag(length as i64));
    let body = 4 + lengths.iter().map(|&length| encoded_len(length)).sum::<usize>() + key.len() + value.len();
    let mut numbers = Scratch::new();
    numbers.put(zigzag(body as i64));
    numbers.push(0);
    numbers.push(0);
    numbers.push(0);
    let mut batch = vec![0; HEADER_LEN];
    for (bytes, length) in [&key, &value].into_iter().zip(lengths) {
        numbers.put(length);
        batch.extend_from_slice(numbers.as_slice());
        batch.extend_from_slice(bytes);
        numbers.clear();
    }
    batch.push(0);

    let identity = BatchIdentity {
        producer_id,
        producer_epoch,
        base_sequence: Sequence(-1),
        transactional: true,
        base_offset: offset,
        ..BatchIdentity::default()
    };
    patch_header(&mut batch, attributes::CONTROL, 1, timestamp, timestamp);
    seal(&mut batch, &identity);
    Bytes::from(batch)
}
