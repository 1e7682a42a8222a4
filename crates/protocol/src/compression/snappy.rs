//! Snappy, raw and in the framing of snappy-java ("xerial"), which Kafka's own clients write.
//!
//! The framing: `82 "SNAPPY" 00`, version and least compatible version (i32 each, 1), then blocks: their compressed
//! length (i32) and a raw Snappy block. Streams may be concatenated, each with its header. Clients in other
//! languages have written one raw block instead, so that is read as well; the two cannot be confused, since a raw
//! block that begins like the header would begin with a back reference.

use super::{Compression, failed, too_large};
use crate::error::Result;
use std::cell::Cell;

/// A byte no text begins with, the name, and a terminator.
const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// Version 1, readable since version 1.
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// What snappy-java takes at once.
const BLOCK: usize = 32 * 1024;

thread_local! {
    static ENCODER: Cell<Option<snap::raw::Encoder>> = const { Cell::new(None) };
}

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut encoder = ENCODER.take().unwrap_or_else(snap::raw::Encoder::new);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSIONS);
    for block in input.chunks(BLOCK) {
        let length_at = out.len();
        let from = length_at + 4;
        out.resize(from + snap::raw::max_compress_len(block.len()), 0);
        let space = out.get_mut(from..).unwrap_or_default();
        let length = encoder.compress(block, space).map_err(|cause| failed(Compression::Snappy, cause))?;
        if let Some(field) = out.get_mut(length_at..from) {
            // A block is far below 2 GiB.
            field.copy_from_slice(&(length as u32).to_be_bytes());
        }
        out.truncate(from + length);
    }
    ENCODER.set(Some(encoder));
    Ok(())
}

pub(super) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let Some(mut rest) = strip_header(input)? else {
        block(input, &mut out, max)?;
        return Ok(out);
    };
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        if let Some(next) = strip_header(rest)? {
            rest = next;
            continue;
        }
        let length = u32::from_be_bytes(*length) as usize;
        let Some((compressed, behind)) = behind.split_at_checked(length) else {
            return Err(failed(Compression::Snappy, "a block is cut short"));
        };
        block(compressed, &mut out, max)?;
        rest = behind;
    }
    if rest.is_empty() { Ok(out) } else { Err(failed(Compression::Snappy, "a block length is cut short")) }
}

/// What follows a stream header, or `None` if there is no header.
fn strip_header(input: &[u8]) -> Result<Option<&[u8]>> {
    let Some(rest) = input.strip_prefix(&MAGIC) else { return Ok(None) };
    let Some((versions, rest)) = rest.split_at_checked(VERSIONS.len()) else {
        return Err(failed(Compression::Snappy, "the stream header is cut short"));
    };
    match versions {
        // The second number is the least version a reader must know.
        [_, _, _, _, 0, 0, 0, 0 | 1] => Ok(Some(rest)),
        _ => Err(failed(Compression::Snappy, "a newer version of the framing")),
    }
}

/// Decompresses one raw block behind what `out` holds.
fn block(compressed: &[u8], out: &mut Vec<u8>, max: usize) -> Result<()> {
    let length = snap::raw::decompress_len(compressed).map_err(|cause| failed(Compression::Snappy, cause))?;
    // The length is the peer's word. The densest element turns 3 bytes into 64, so more cannot come of it.
    if length / 64 > compressed.len() / 3 + 1 {
        return Err(failed(Compression::Snappy, "a block claims a size it cannot have"));
    }
    let from = out.len();
    let Some(whole) = from.checked_add(length).filter(|&whole| whole <= max) else {
        return Err(too_large(Compression::Snappy, max));
    };
    if out.capacity() < whole {
        // Doubling, but not beyond the limit.
        let target = whole.max(out.capacity().saturating_mul(2)).min(max);
        out.reserve_exact(target - from);
    }
    out.resize(whole, 0);
    let space = out.get_mut(from..).unwrap_or_default();
    let written = snap::raw::Decoder::new()
        .decompress(compressed, space)
        .map_err(|cause| failed(Compression::Snappy, cause))?;
    out.truncate(from + written);
    Ok(())
}
