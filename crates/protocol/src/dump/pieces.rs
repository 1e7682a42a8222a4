//! Record data taken apart, whatever state it is in.

use bytes::Bytes;

use crate::error::{ProtocolError, Result};
use crate::records::{HEADER_LEN, RecordBatch};

/// Bytes from which the size of a batch is told: offset, length, and up to the format.
pub const HEAD_LEN: usize = 17;
/// Bytes of offset and length, which the length does not count.
const PREFIX_LEN: usize = 12;
/// The smallest message of formats 0 and 1, in bytes: offset, length, checksum, format, attributes, no key, no value.
const LEAST: usize = PREFIX_LEN + 14;

/// One piece of record data.
#[derive(Debug)]
pub enum Piece {
    /// A batch whose header is sound. Its checksum and its records are not looked at yet.
    Batch {
        /// Its first byte, counted from the first of the record data.
        at: usize,
        /// The batch; of formats 0 and 1 a message.
        batch: RecordBatch,
    },
    /// Bytes that are no batch. What follows them is read on if their size could be told.
    Damaged {
        /// The first byte.
        at: usize,
        /// The bytes.
        bytes: Bytes,
        /// What is wrong; its byte is counted from the first of these.
        error: ProtocolError,
    },
    /// The beginning of a batch at the end. Legal in an answer to Fetch, which a broker cuts at the size it was asked for
    /// (KIP-74), and in a log that is being written.
    Partial {
        /// The first byte.
        at: usize,
        /// The bytes there are.
        bytes: Bytes,
        /// How many bytes the batch has, if that can be told.
        whole: Option<usize>,
    },
    /// Zeros up to the end, as in a log file for which room was made in advance.
    Zeros {
        /// The first byte.
        at: usize,
        /// How many there are.
        count: usize,
    },
}

/// What the beginning of a batch says of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announced {
    /// Bytes of the batch, from its offset to its last record.
    pub size: usize,
    /// Its format: 0, 1 or 2, or something nobody knows (which makes the size doubtful).
    pub format: i8,
}

impl Announced {
    /// That the format is a known one.
    ///
    /// # Errors
    /// Unsupported if it is not.
    pub fn check_format(self) -> Result<()> {
        if (0..=2).contains(&self.format) {
            return Ok(());
        }
        let text = format!("unknown record batch format {}", self.format);
        Err(ProtocolError::unsupported(text).with_field("magic").with_at(HEAD_LEN - 1))
    }
}

/// Reads the first [`HEAD_LEN`] bytes of a batch of any format; `None` if there are fewer.
///
/// # Errors
/// Malformed if the length cannot be one of a batch of that format.
pub fn announced(head: &[u8]) -> Result<Option<Announced>> {
    let Some([_, _, _, _, _, _, _, _, a, b, c, d, _, _, _, _, magic]) = head.first_chunk::<HEAD_LEN>() else {
        return Ok(None);
    };
    let format = i8::from_be_bytes([*magic]);
    let least = if format == 2 { HEADER_LEN } else { LEAST };
    let length = i32::from_be_bytes([*a, *b, *c, *d]);
    match usize::try_from(length).ok().and_then(|length| length.checked_add(PREFIX_LEN)) {
        Some(size) if size >= least => Ok(Some(Announced { size, format })),
        _ => {
            let text = format!("a batch length of {length} cannot hold a batch of format {format}");
            Err(ProtocolError::malformed(text).with_field("batch_length").with_at(8))
        }
    }
}

/// Takes record data of any format apart.
#[must_use]
pub fn pieces(bytes: Bytes) -> Pieces {
    Pieces { at: 0, rest: bytes }
}

/// The pieces of record data, in order; their sizes add up to that of the data.
#[derive(Clone, Debug)]
pub struct Pieces {
    at: usize,
    rest: Bytes,
}

impl Pieces {
    fn take(&mut self, length: usize) -> (usize, Bytes) {
        let at = self.at;
        let bytes = self.rest.split_to(length.min(self.rest.len()));
        self.at += bytes.len();
        (at, bytes)
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.rest.is_empty() {
            return None;
        }
        let left = self.rest.len();
        if self.rest.first() == Some(&0) && self.rest.iter().all(|byte| *byte == 0) {
            let (at, bytes) = self.take(left);
            return Some(Piece::Zeros { at, count: bytes.len() });
        }
        let announced = match announced(&self.rest) {
            Ok(Some(announced)) if announced.size <= left => announced,
            // A length of a format nobody knows is no promise of more to come.
            Ok(announced) => {
                let (at, bytes) = self.take(left);
                return Some(match announced.map_or(Ok(()), Announced::check_format) {
                    Ok(()) => Piece::Partial { at, bytes, whole: announced.map(|batch| batch.size) },
                    Err(error) => Piece::Damaged { at, bytes, error },
                });
            }
            Err(error) => {
                let (at, bytes) = self.take(left);
                return Some(Piece::Damaged { at, bytes, error });
            }
        };
        let (at, bytes) = self.take(announced.size);
        Some(match announced.check_format().and_then(|()| RecordBatch::parse(&mut bytes.clone())) {
            Ok(Some(batch)) => Piece::Batch { at, batch },
            Ok(None) => {
                let error = ProtocolError::malformed("the batch is shorter than its length says");
                Piece::Damaged { at, bytes, error: error.with_field("batch_length").with_at(8) }
            }
            Err(error) => Piece::Damaged { at, bytes, error },
        })
    }
}

impl std::iter::FusedIterator for Pieces {}
