//! The LZ4 frame format (version 1.6), as Kafka has it in batches of format 2.
//!
//! Written: blocks of up to 64 KiB that do not depend on one another, no checksum but the header's; byte for byte
//! the frame header that Java's `Lz4BlockOutputStream` writes. Read: any frame, linked blocks and checksums
//! included, frames one after another, skippable frames; a frame that needs a dictionary is refused.
//!
//! The frame is read and written here and only the blocks by lz4_flex: so a block is decompressed once, straight to
//! its place, and a frame without its end mark is an error rather than a shorter result.

use super::{Compression, failed, too_large};
use crate::error::{ProtocolError, Result};
use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};
use std::cell::Cell;
use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
/// Sixteen magic numbers begin frames that are to be passed over.
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
/// Magic; version 1 and independent blocks; blocks of 64 KiB; the second byte of the descriptor's hash.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const END_MARK: [u8; 4] = [0; 4];
/// Set in a block's length if it is not compressed.
const STORED: u32 = 1 << 31;
const BLOCK: usize = 64 * 1024;
/// How far back a linked block may refer.
const WINDOW: usize = 64 * 1024;
/// A byte of a compressed block stands for at most this many.
const MAX_RATIO: usize = 255;

thread_local! {
    static TABLE: Cell<Option<CompressTable>> = const { Cell::new(None) };
}

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut table = TABLE.take().unwrap_or_default();
    out.extend_from_slice(&HEADER);
    for block in input.chunks(BLOCK) {
        let from = out.len() + 4;
        out.resize(from + get_maximum_output_size(block.len()), 0);
        let space = out.get_mut(from..).unwrap_or_default();
        let written = compress_into_with_table(block, space, &mut table)
            .map_err(|cause| failed(Compression::Lz4, cause))?;
        // Both lengths are below 2^17.
        let length = if written < block.len() {
            out.truncate(from + written);
            written as u32
        } else {
            out.truncate(from);
            out.extend_from_slice(block);
            block.len() as u32 | STORED
        };
        if let Some(field) = out.get_mut(from - 4..from) {
            field.copy_from_slice(&length.to_le_bytes());
        }
    }
    out.extend_from_slice(&END_MARK);
    TABLE.set(Some(table));
    Ok(())
}

pub(super) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>> {
    let mut output = Output { bytes: Vec::new(), filled: 0, max };
    let mut rest = input;
    loop {
        let magic = number(&mut rest)?;
        if magic == MAGIC {
            frame(&mut rest, &mut output)?;
        } else if SKIPPABLE.contains(&magic) {
            let length = number(&mut rest)? as usize;
            take(&mut rest, length)?;
        } else {
            return Err(failed(Compression::Lz4, format!("magic number {magic:08x} begins no frame")));
        }
        if rest.is_empty() {
            output.bytes.truncate(output.filled);
            return Ok(output.bytes);
        }
    }
}

/// What was decompressed so far, and zeroed room behind it.
struct Output {
    bytes: Vec<u8>,
    filled: usize,
    max: usize,
}

impl Output {
    /// Room for up to `wish` bytes: less only at the limit.
    fn room(&mut self, wish: usize) -> usize {
        let room = wish.min(self.max - self.filled);
        let needed = self.filled + room;
        if self.bytes.len() < needed {
            let target = needed.max(self.bytes.len().saturating_mul(2)).min(self.max);
            self.bytes.reserve_exact(target - self.bytes.len());
            self.bytes.resize(target, 0);
        }
        room
    }
}

/// How a frame's descriptor says that it is to be read.
struct Descriptor {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    max_block: usize,
}

impl Descriptor {
    fn read(rest: &mut &[u8]) -> Result<Self> {
        let start = *rest;
        let [flags, sizes] = *take_array::<2>(rest)?;
        if flags >> 6 != 1 || flags & 0x02 != 0 || sizes & 0x8f != 0 {
            return Err(failed(Compression::Lz4, "another version of the frame format"));
        }
        let max_block = match sizes >> 4 {
            4 => 64 * 1024,
            5 => 256 * 1024,
            6 => 1024 * 1024,
            7 => 4 * 1024 * 1024,
            other => return Err(failed(Compression::Lz4, format!("unknown block size {other}"))),
        };
        let content_size =
            if flags & 0x08 != 0 { Some(u64::from_le_bytes(*take_array::<8>(rest)?)) } else { None };
        if flags & 0x01 != 0 {
            return Err(failed(Compression::Lz4, "the frame needs a dictionary"));
        }
        let hashed = start.get(..start.len() - rest.len()).unwrap_or_default();
        let [check] = *take_array::<1>(rest)?;
        if (XxHash32::oneshot(0, hashed) >> 8) as u8 != check {
            return Err(failed(Compression::Lz4, "the frame header's checksum is wrong"));
        }
        Ok(Self {
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 0x04 != 0,
            content_size,
            max_block,
        })
    }
}

/// Reads one frame behind its magic number.
fn frame(rest: &mut &[u8], output: &mut Output) -> Result<()> {
    let descriptor = Descriptor::read(rest)?;
    let start = output.filled;
    if let Some(size) = descriptor.content_size {
        // The size is the peer's word: no more room than the bytes at hand can fill.
        if size > (output.max - start) as u64 {
            return Err(too_large(Compression::Lz4, output.max));
        }
        output.room((size as usize).min(rest.len().saturating_mul(MAX_RATIO)));
    }
    loop {
        let header = number(rest)?;
        if header == 0 {
            break;
        }
        let stored = header & STORED != 0;
        let length = (header & !STORED) as usize;
        if length > descriptor.max_block {
            return Err(failed(Compression::Lz4, "a block is larger than its frame allows"));
        }
        let block = take(rest, length)?;
        if descriptor.block_checksums && number(rest)? != XxHash32::oneshot(0, block) {
            return Err(failed(Compression::Lz4, "a block's checksum is wrong"));
        }
        let wish = if stored { length } else { descriptor.max_block.min(length.saturating_mul(MAX_RATIO)) };
        let room = output.room(wish);
        let (before, behind) = output.bytes.split_at_mut_checked(output.filled).unwrap_or_default();
        let space = behind.get_mut(..room).unwrap_or_default();
        output.filled += if stored {
            space
                .get_mut(..length)
                .ok_or_else(|| too_large(Compression::Lz4, output.max))?
                .copy_from_slice(block);
            length
        } else {
            let window = before.get(start.max(before.len().saturating_sub(WINDOW))..).unwrap_or_default();
            let written = if descriptor.linked && !window.is_empty() {
                decompress_into_with_dict(block, space, window)
            } else {
                decompress_into(block, space)
            };
            written.map_err(|cause| match cause {
                DecompressError::OutputTooSmall { .. } if room < wish => {
                    too_large(Compression::Lz4, output.max)
                }
                cause => failed(Compression::Lz4, cause),
            })?
        };
    }
    let content = output.bytes.get(start..output.filled).unwrap_or_default();
    if descriptor.content_checksum && number(rest)? != XxHash32::oneshot(0, content) {
        return Err(failed(Compression::Lz4, "the content's checksum is wrong"));
    }
    match descriptor.content_size {
        Some(size) if size != content.len() as u64 => {
            Err(failed(Compression::Lz4, format!("{size} bytes were promised, {} came", content.len())))
        }
        _ => Ok(()),
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length).ok_or_else(cut_short)?;
    *rest = tail;
    Ok(head)
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(cut_short)?;
    *rest = tail;
    Ok(head)
}

fn number(rest: &mut &[u8]) -> Result<u32> {
    take_array(rest).map(|bytes| u32::from_le_bytes(*bytes))
}

#[cold]
fn cut_short() -> ProtocolError {
    failed(Compression::Lz4, "the frame is cut short")
}
