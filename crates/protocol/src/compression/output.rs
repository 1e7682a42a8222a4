//! Where a decompressor writes to.

use super::{Compression, grow, too_large};
use crate::error::{ProtocolError, Result};

/// What was decompressed so far, and room behind it, up to a limit.
///
/// The buffer may come with old bytes in it. They serve as room, since zeroing memory that is written over right away
/// costs time: so a buffer that is used again for batches of like size is never zeroed. New room is made block by
/// block, so that what was just zeroed is still in the cache when the block is written to it.
pub(super) struct Output<'a> {
    codec: Compression,
    bytes: &'a mut Vec<u8>,
    filled: usize,
    max: usize,
}

impl<'a> Output<'a> {
    pub(super) fn new(codec: Compression, bytes: &'a mut Vec<u8>, max: usize) -> Self {
        Self { codec, bytes, filled: 0, max }
    }

    /// Takes memory for `size` more bytes at once, or up to the limit. The size must be one the input can hold.
    pub(super) fn expect(&mut self, size: usize) {
        let size = size.min(self.max - self.filled);
        self.bytes.reserve_exact((self.filled + size).saturating_sub(self.bytes.len()));
    }

    /// What was written, and room for exactly `size` bytes.
    ///
    /// # Errors
    /// `TooLarge` if that is more than the limit leaves.
    pub(super) fn room(&mut self, size: usize) -> Result<(&[u8], &mut [u8])> {
        if size > self.max - self.filled {
            return Err(self.too_large());
        }
        Ok(self.room_up_to(size))
    }

    /// What was written, and room for `size` bytes: less only at the limit.
    pub(super) fn room_up_to(&mut self, size: usize) -> (&[u8], &mut [u8]) {
        let end = self.filled + size.min(self.max - self.filled);
        if self.bytes.len() < end {
            if self.bytes.capacity() < end {
                grow(self.bytes, end - self.bytes.len(), self.max);
            }
            self.bytes.resize(end, 0);
        }
        let (before, behind) = self.bytes.split_at_mut_checked(self.filled).unwrap_or_default();
        (before, behind.get_mut(..end - self.filled).unwrap_or_default())
    }

    /// Counts bytes that were written to the room.
    pub(super) fn advance(&mut self, written: usize) {
        self.filled += written;
    }

    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// What was written from a place on.
    pub(super) fn since(&self, start: usize) -> &[u8] {
        self.bytes.get(start..self.filled).unwrap_or_default()
    }

    /// How much more may be written.
    pub(super) fn left(&self) -> usize {
        self.max - self.filled
    }

    pub(super) fn too_large(&self) -> ProtocolError {
        too_large(self.codec, self.max)
    }

    /// Ends the buffer behind what was written.
    pub(super) fn finish(self) -> Result<()> {
        self.bytes.truncate(self.filled);
        Ok(())
    }
}
