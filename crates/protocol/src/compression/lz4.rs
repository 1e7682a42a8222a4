//! The LZ4 frame format (version 1.6), and what Kafka made of it before 0.10.
//!
//! Written: blocks of up to 64 KiB that do not depend on one another, no checksum but the header's; byte for byte
//! the frame header that Java's `Lz4BlockOutputStream` writes. Read: any frame, linked blocks and checksums
//! included, frames one after another, skippable frames; a frame that needs a dictionary is refused. What follows a
//! frame and begins no other is passed over, as Java passes over all that follows.
//!
//! Kafka's first implementation hashed the magic number with the descriptor (KAFKA-3160). Brokers before 0.10 refuse
//! any other header, so message sets of format 0 are written that way (KIP-57), and both are read.
//!
//! The frame is read and written here and only the blocks by lz4_flex: so a block is decompressed once, straight to
//! its place, and a frame without its end mark is an error rather than a shorter result.

use super::output::Output;
use super::{Compression, cut_short, failed, panic_if_planted};
use crate::error::Result;
use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};
use std::cell::Cell;
use std::hash::Hasher;
use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
/// Sixteen magic numbers begin frames that are to be passed over.
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
/// Magic; version 1 and independent blocks; blocks of 64 KiB; the second byte of the descriptor's hash.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
/// The same with the second byte of the hash over magic and descriptor.
const OLD_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x1a];
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

/// How the checksum of a frame's header was made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderSum {
    /// As the format says, over the descriptor.
    Standard,
    /// As Kafka before 0.10 did, over magic number and descriptor. Frames with the standard sum are read as well.
    Old,
}

pub(super) fn compress(sum: HeaderSum, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut table = TABLE.take().unwrap_or_default();
    out.extend_from_slice(match sum {
        HeaderSum::Standard => &HEADER,
        HeaderSum::Old => &OLD_HEADER,
    });
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
    panic_if_planted(Compression::Lz4);
    TABLE.set(Some(table));
    Ok(())
}

pub(super) fn decompress(sum: HeaderSum, input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
    let mut output = Output::new(Compression::Lz4, out, max);
    let mut rest = input;
    let mut frames = 0;
    loop {
        match begin(&mut rest)? {
            Begin::Frame => {
                frame(sum, &mut rest, &mut output)?;
                frames += 1;
            }
            Begin::Skippable => {
                let length = number(&mut rest)? as usize;
                take(&mut rest, length)?;
            }
            Begin::Nothing if frames > 0 => {
                panic_if_planted(Compression::Lz4);
                return output.finish();
            }
            Begin::Nothing => {
                return Err(failed(Compression::Lz4, "these bytes begin no frame of the present format"));
            }
        }
    }
}

/// What some bytes begin.
enum Begin {
    Frame,
    Skippable,
    Nothing,
}

/// Takes a magic number if there is one.
fn begin(rest: &mut &[u8]) -> Result<Begin> {
    let Some((magic, behind)) = rest.split_first_chunk() else {
        return match MAGIC.to_le_bytes().starts_with(rest) && !rest.is_empty() {
            true => Err(cut_short(Compression::Lz4)),
            false => Ok(Begin::Nothing),
        };
    };
    let begin = match u32::from_le_bytes(*magic) {
        MAGIC => Begin::Frame,
        magic if SKIPPABLE.contains(&magic) => Begin::Skippable,
        _ => return Ok(Begin::Nothing),
    };
    *rest = behind;
    Ok(begin)
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
    fn read(sum: HeaderSum, rest: &mut &[u8]) -> Result<Self> {
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
        if header_sum(hashed) != check && !(sum == HeaderSum::Old && old_header_sum(hashed) == check) {
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

    /// How much a block holds at most, by the number before it.
    fn most_in_block(&self, header: u32) -> usize {
        let length = (header & !STORED) as usize;
        match header & STORED {
            0 => self.max_block.min(length.saturating_mul(MAX_RATIO)),
            _ => self.max_block.min(length),
        }
    }
}

fn header_sum(descriptor: &[u8]) -> u8 {
    (XxHash32::oneshot(0, descriptor) >> 8) as u8
}

fn old_header_sum(descriptor: &[u8]) -> u8 {
    let mut hasher = XxHash32::with_seed(0);
    hasher.write(&MAGIC.to_le_bytes());
    hasher.write(descriptor);
    (hasher.finish() >> 8) as u8
}

/// How much the blocks ahead hold at most. The walk ends where they cannot be read.
fn most_content(descriptor: &Descriptor, mut rest: &[u8]) -> usize {
    let mut most = 0usize;
    while let Ok(header) = number(&mut rest)
        && header != 0
    {
        most = most.saturating_add(descriptor.most_in_block(header));
        let sum = if descriptor.block_checksums { 4 } else { 0 };
        if take(&mut rest, (header & !STORED) as usize + sum).is_err() {
            break;
        }
    }
    most
}

/// Reads one frame behind its magic number.
fn frame(sum: HeaderSum, rest: &mut &[u8], output: &mut Output<'_>) -> Result<()> {
    let descriptor = Descriptor::read(sum, rest)?;
    let start = output.filled();
    // A size is the peer's word: no more memory than the blocks at hand can fill.
    let mut expected = most_content(&descriptor, rest);
    if let Some(size) = descriptor.content_size {
        if size > output.left() as u64 {
            return Err(output.too_large());
        }
        expected = expected.min(size as usize);
    }
    output.expect(expected);
    loop {
        let header = number(rest)?;
        if header == 0 {
            break;
        }
        let length = (header & !STORED) as usize;
        if length > descriptor.max_block {
            return Err(failed(Compression::Lz4, "a block is larger than its frame allows"));
        }
        let block = take(rest, length)?;
        if descriptor.block_checksums && number(rest)? != XxHash32::oneshot(0, block) {
            return Err(failed(Compression::Lz4, "a block's checksum is wrong"));
        }
        let written = match header & STORED {
            0 => compressed_block(&descriptor, start, block, output)?,
            _ => {
                output.room(length)?.1.copy_from_slice(block);
                length
            }
        };
        output.advance(written);
    }
    let content = output.since(start);
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

/// Decompresses one block and returns its size. The frame's content began at `start`.
fn compressed_block(
    descriptor: &Descriptor,
    start: usize,
    block: &[u8],
    output: &mut Output<'_>,
) -> Result<usize> {
    let wish = descriptor.most_in_block(block.len() as u32);
    let at_limit = wish > output.left();
    let (before, space) = output.room_up_to(wish);
    let window = before.get(start.max(before.len().saturating_sub(WINDOW))..).unwrap_or_default();
    let written = match window {
        window if descriptor.linked && !window.is_empty() => linked_block(block, space, window),
        _ => independent_block(block, space),
    };
    written.map_err(|cause| match cause {
        DecompressError::OutputTooSmall { .. } if at_limit => output.too_large(),
        cause => failed(Compression::Lz4, cause),
    })
}

// Each in a function of its own: compiled into one, they are a fifth slower.
#[inline(never)]
fn independent_block(block: &[u8], space: &mut [u8]) -> std::result::Result<usize, DecompressError> {
    decompress_into(block, space)
}

#[inline(never)]
fn linked_block(
    block: &[u8],
    space: &mut [u8],
    window: &[u8],
) -> std::result::Result<usize, DecompressError> {
    decompress_into_with_dict(block, space, window)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length).ok_or_else(|| cut_short(Compression::Lz4))?;
    *rest = tail;
    Ok(head)
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(|| cut_short(Compression::Lz4))?;
    *rest = tail;
    Ok(head)
}

fn number(rest: &mut &[u8]) -> Result<u32> {
    take_array(rest).map(|bytes| u32::from_le_bytes(*bytes))
}
