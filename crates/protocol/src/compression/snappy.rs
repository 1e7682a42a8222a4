//! Snappy, raw and in the framing of snappy-java ("xerial"), which Kafka's own clients write.
//!
//! The framing: `82 "SNAPPY" 00`, version and least compatible version (i32 each, 1), then blocks: their compressed
//! length (i32) and a raw Snappy block. Streams may be concatenated, each with its header. Clients in other
//! languages have written one raw block instead, so that is read as well; the two cannot be confused, since a raw
//! block that begins like the header would begin with a back reference. Nothing may follow the last block.

use super::output::Output;
use super::{Compression, failed, panic_if_planted};
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
    panic_if_planted(Compression::Snappy);
    ENCODER.set(Some(encoder));
    Ok(())
}

pub(super) fn decompress(input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
    let mut output = Output::new(Compression::Snappy, out, max);
    let Some(stream) = strip_header(input)? else {
        block(input, &mut output)?;
        return output.finish();
    };
    // A look at the sizes first, so that memory is taken once.
    let mut size = 0usize;
    let mut rest = stream;
    while let Some(compressed) = next_block(&mut rest)? {
        size = size.saturating_add(block_size(compressed)?);
    }
    output.expect(size);
    let mut rest = stream;
    while let Some(compressed) = next_block(&mut rest)? {
        block(compressed, &mut output)?;
    }
    panic_if_planted(Compression::Snappy);
    output.finish()
}

/// Takes the next block, over the header of another stream if one begins here; `None` at the end.
fn next_block<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    while let Some(stream) = strip_header(rest)? {
        *rest = stream;
    }
    let Some((length, behind)) = rest.split_first_chunk() else {
        return match rest {
            [] => Ok(None),
            _ => Err(failed(Compression::Snappy, "a block length is cut short")),
        };
    };
    let Some((block, behind)) = behind.split_at_checked(u32::from_be_bytes(*length) as usize) else {
        return Err(failed(Compression::Snappy, "a block is cut short"));
    };
    *rest = behind;
    Ok(Some(block))
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

/// How much a raw block holds. The number is the peer's word, so one that its bytes cannot hold is refused: the
/// densest element turns 3 bytes into 64.
fn block_size(compressed: &[u8]) -> Result<usize> {
    let size = snap::raw::decompress_len(compressed).map_err(|cause| failed(Compression::Snappy, cause))?;
    match size / 64 > compressed.len() / 3 + 1 {
        true => Err(failed(Compression::Snappy, "a block claims a size it cannot have")),
        false => Ok(size),
    }
}

/// Decompresses one raw block.
fn block(compressed: &[u8], output: &mut Output<'_>) -> Result<()> {
    let size = block_size(compressed)?;
    let (_, space) = output.room(size)?;
    let written = snap::raw::Decoder::new()
        .decompress(compressed, space)
        .map_err(|cause| failed(Compression::Snappy, cause))?;
    output.advance(written);
    Ok(())
}
