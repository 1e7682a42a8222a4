//! Log files of a broker, batch by batch: one is in memory at a time.

use std::io::{self, Read};

use bytes::Bytes;
use milena::protocol::ProtocolError;
use milena::protocol::dump::{Announced, HEAD_LEN, Piece, announced, pieces};

/// The largest batch that is read, in bytes. Kafka's own limit is 1 MiB unless it was raised.
pub(crate) const MAX_BATCH: u64 = 256 * 1024 * 1024;
/// What is read at a time where only zeros are looked for.
const CHUNK: usize = 64 * 1024;

/// Reads the pieces of a log file in order.
///
/// # Invariants
/// Memory follows the bytes that were read, never a length that stands in them; a batch above [`MAX_BATCH`] is damage.
pub(crate) struct Segment<R> {
    file: R,
    /// The place of the next byte.
    position: u64,
    done: bool,
}

/// A piece of a log file and its place. Places inside of the piece count from there.
pub(crate) type Placed = (u64, Piece);

impl<R: Read> Segment<R> {
    pub(crate) fn new(file: R) -> Self {
        Self { file, position: 0, done: false }
    }

    /// The next piece; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Placed>> {
        if self.done {
            return Ok(None);
        }
        let position = self.position;
        let mut bytes = self.read(HEAD_LEN as u64)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() == HEAD_LEN && bytes.iter().all(|byte| *byte == 0) {
            return self.zeros(bytes).map(Some);
        }
        let known = match announced(&bytes) {
            Ok(Some(batch)) => Ok(batch),
            // Fewer bytes than the head of a batch are the end of the file.
            Ok(None) => return Ok(self.last(position, bytes)),
            Err(error) => Err(error),
        };
        match known.and_then(small_enough) {
            Ok(batch) => {
                let more = self.read((batch.size - HEAD_LEN) as u64)?;
                bytes.extend_from_slice(&more);
                self.done = bytes.len() < batch.size;
                Ok(self.last(position, bytes))
            }
            // Where the next batch begins cannot be told.
            Err(error) => {
                self.done = true;
                let piece = Piece::Damaged { at: 0, bytes: Bytes::from(bytes), error };
                Ok(Some((position, piece)))
            }
        }
    }

    /// How many bytes were read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The only piece of some bytes.
    fn last(&self, position: u64, bytes: Vec<u8>) -> Option<Placed> {
        pieces(Bytes::from(bytes)).next().map(|piece| (position, piece))
    }

    fn read(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.by_ref().take(most).read_to_end(&mut bytes)?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    /// Zeros are no batch: room made in advance if they go on to the end, else a hole.
    fn zeros(&mut self, mut head: Vec<u8>) -> io::Result<Placed> {
        let position = self.position - head.len() as u64;
        self.done = true;
        loop {
            let chunk = self.read(CHUNK as u64)?;
            if chunk.is_empty() {
                let count = usize::try_from(self.position - position).unwrap_or(usize::MAX);
                return Ok((position, Piece::Zeros { at: 0, count }));
            }
            if let Some(at) = chunk.iter().position(|byte| *byte != 0) {
                let end = self.position - (chunk.len() - at) as u64;
                let text = format!("zeros up to byte {end}, and something behind them");
                head.truncate(HEAD_LEN);
                let error = ProtocolError::malformed(text);
                return Ok((position, Piece::Damaged { at: 0, bytes: Bytes::from(head), error }));
            }
        }
    }
}

fn small_enough(batch: Announced) -> Result<Announced, ProtocolError> {
    if batch.size as u64 <= MAX_BATCH {
        return Ok(batch);
    }
    let text = format!("a batch of {} bytes, above the limit of {MAX_BATCH}", batch.size);
    Err(ProtocolError::too_large(text).with_field("batch_length").with_at(8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions};

    fn batch(values: usize) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for _ in 0..values {
            builder.push(1, None, Some(b"value"), []).unwrap();
        }
        builder.build(BatchIdentity::default()).unwrap()
    }

    fn told(bytes: &[u8]) -> Vec<(u64, &'static str)> {
        let mut segment = Segment::new(bytes);
        let mut told = Vec::new();
        while let Some((position, piece)) = segment.next().unwrap() {
            let kind = match piece {
                Piece::Batch { batch, .. } => {
                    batch.verify_crc().unwrap();
                    "batch"
                }
                Piece::Damaged { .. } => "damaged",
                Piece::Partial { .. } => "partial",
                Piece::Zeros { .. } => "zeros",
            };
            told.push((position, kind));
        }
        told
    }

    #[test]
    fn a_file_is_read_batch_by_batch_to_its_end_whatever_that_is() {
        let (one, two) = (batch(1), batch(900));
        let whole = [&one[..], &two].concat();
        let at = one.len() as u64;
        assert_eq!(told(&[]), []);
        assert_eq!(told(&whole), [(0, "batch"), (at, "batch")]);
        assert_eq!(told(&whole[..whole.len() - 1]), [(0, "batch"), (at, "partial")]);
        assert_eq!(told(&whole[..one.len() + 13]), [(0, "batch"), (at, "partial")]);
        let room = [&one[..], &vec![0; 200_000]].concat();
        assert_eq!(told(&room), [(0, "batch"), (at, "zeros")]);
        let hole = [&room[..], &one].concat();
        assert_eq!(told(&hole), [(0, "batch"), (at, "damaged")]);
        let mut lie = whole.clone();
        lie[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(told(&lie), [(0, "damaged")]);
        lie[8..12].copy_from_slice(&100_000i32.to_be_bytes());
        assert_eq!(told(&lie), [(0, "partial")]);
    }
}
