//! Zstandard (RFC 8878): in pure Rust, or by the C library with the feature `zstd-c`.
//!
//! Java's clients compress as a stream, so their frames do not state the content's size. The blocks of a frame tell how much
//! it holds at most, so memory for the result is taken once, and both libraries write straight to it and need no
//! window of their own. Frames may follow one another, skippable ones too; anything else after a frame is an error,
//! in Java as well.

use super::{Compression, cut_short, failed, panic_if_planted};
use crate::error::Result;
use std::cell::Cell;

const MAGIC: u32 = 0xfd2f_b528;
/// Sixteen magic numbers begin frames that are to be passed over.
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
/// What a compressed block holds at most, if the window is not smaller.
const MAX_BLOCK: usize = 128 * 1024;
/// Kafka's default, and zstd's.
const DEFAULT_LEVEL: i32 = 3;
/// A state that takes more memory, in bytes, is not kept for the next batch.
const MAX_KEPT: usize = 4 * 1024 * 1024;

/// What is decompressed aside, in bytes.
const MAX_ASIDE: usize = 2 * MAX_BLOCK;

thread_local! {
    static ASIDE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[cfg(feature = "zstd-c")]
pub(super) use c_library::{compress, decompress};
#[cfg(not(feature = "zstd-c"))]
pub(super) use pure::{compress, decompress};

#[cfg(not(feature = "zstd-c"))]
mod pure {
    use super::{DEFAULT_LEVEL, MAX_KEPT, fill, room};
    use crate::compression::{Compression, failed, panic_if_planted, too_large};
    use crate::error::Result;
    use std::cell::Cell;
    use structured_zstd::decoding::errors::{
        DecodeBlockContentError, DecodeBufferError, DecompressBlockError, ExecuteSequencesError,
        FrameDecoderError,
    };
    use structured_zstd::decoding::{ContentChecksum, FrameDecoder};
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

    thread_local! {
        static ENCODER: Cell<Option<Encoder>> = const { Cell::new(None) };
        static DECODER: Cell<Option<Box<FrameDecoder>>> = const { Cell::new(None) };
    }

    /// A compressor, which level it is for, and the buffer it writes to.
    struct Encoder {
        level: i32,
        compressor: FrameCompressor,
        frame: Vec<u8>,
    }

    pub(in crate::compression) fn compress(
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let level = level.unwrap_or(DEFAULT_LEVEL);
        let mut encoder = ENCODER.take().filter(|kept| kept.level == level).unwrap_or_else(|| Encoder {
            level,
            compressor: FrameCompressor::new(CompressionLevel::from_level(level)),
            frame: Vec::new(),
        });
        encoder.compressor.compress_independent_frame_into(input, &mut encoder.frame);
        out.extend_from_slice(&encoder.frame);
        panic_if_planted(Compression::Zstd);
        if encoder.compressor.heap_size() + encoder.frame.capacity() <= MAX_KEPT {
            ENCODER.set(Some(encoder));
        }
        Ok(())
    }

    pub(in crate::compression) fn decompress(input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
        let most = room(input)?;
        let mut decoder = DECODER.take().unwrap_or_else(|| {
            let mut decoder = Box::new(FrameDecoder::new());
            decoder.set_content_checksum(ContentChecksum::Verify);
            decoder
        });
        fill(out, most.min(max), |space| {
            decoder.decode_all(input, space).map_err(|cause| match out_of_room(&cause) {
                true if most > max => too_large(Compression::Zstd, max),
                _ => failed(Compression::Zstd, cause),
            })
        })?;
        if decoder.workspace_size() <= MAX_KEPT {
            DECODER.set(Some(decoder));
        }
        Ok(())
    }

    /// Whether the output was too small. For a frame that does not state its size the decoder reports some of the
    /// cases as a block that overflows the output.
    fn out_of_room(cause: &FrameDecoderError) -> bool {
        use DecodeBlockContentError::DecompressBlockError as Block;
        use DecompressBlockError::{ExecuteSequencesError as Sequences, LiteralsOutputOverflow};
        use ExecuteSequencesError::{DecodebufferError as Buffer, OutputBufferOverflow};
        match cause {
            FrameDecoderError::TargetTooSmall => true,
            FrameDecoderError::FailedToReadBlockBody(source) => matches!(
                source,
                DecodeBlockContentError::BackendOverflow { .. }
                    | Block(LiteralsOutputOverflow { .. })
                    | Block(Sequences(OutputBufferOverflow { .. }))
                    | Block(Sequences(Buffer(DecodeBufferError::OutputBufferOverflow { .. })))
            ),
            _ => false,
        }
    }
}

#[cfg(feature = "zstd-c")]
mod c_library {
    use super::{DEFAULT_LEVEL, MAX_KEPT, fill, room};
    use crate::compression::{Compression, failed, panic_if_planted, too_large};
    use crate::error::Result;
    use std::cell::Cell;
    use zstd::bulk::{Compressor, Decompressor};

    thread_local! {
        static ENCODER: Cell<Option<(i32, Compressor<'static>)>> = const { Cell::new(None) };
        static DECODER: Cell<Option<Decompressor<'static>>> = const { Cell::new(None) };
    }

    pub(in crate::compression) fn compress(
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let level = level.unwrap_or(DEFAULT_LEVEL);
        let wrong = |cause| failed(Compression::Zstd, cause);
        let mut encoder = match ENCODER.take() {
            Some((kept, encoder)) if kept == level => encoder,
            _ => Compressor::new(level).map_err(wrong)?,
        };
        let from = out.len();
        out.resize(from + zstd::zstd_safe::compress_bound(input.len()), 0);
        let space = out.get_mut(from..).unwrap_or_default();
        let written = encoder.compress_to_buffer(input, space).map_err(wrong)?;
        out.truncate(from + written);
        panic_if_planted(Compression::Zstd);
        if encoder.context_mut().sizeof() <= MAX_KEPT {
            ENCODER.set(Some((level, encoder)));
        }
        Ok(())
    }

    /// The level of the compressor that this thread keeps; it is thrown away.
    #[cfg(test)]
    pub(super) fn kept_level() -> Option<i32> {
        ENCODER.take().map(|(level, _)| level)
    }

    pub(in crate::compression) fn decompress(input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
        let wrong = |cause| failed(Compression::Zstd, cause);
        let most = room(input)?;
        let mut decoder = match DECODER.take() {
            Some(kept) => kept,
            None => Decompressor::new().map_err(wrong)?,
        };
        fill(out, most.min(max), |space| {
            decoder.decompress_to_buffer(input, space).map_err(|cause| {
                match cause.to_string().contains("Destination buffer is too small") {
                    true if most > max => too_large(Compression::Zstd, max),
                    _ => wrong(cause),
                }
            })
        })?;
        DECODER.set(Some(decoder));
        Ok(())
    }
}

/// Gives `decode` room for `most` bytes, and cuts what it filled to what it wrote.
///
/// A block that does not state its size is given 128 KiB. Where a new buffer would be little else than that, the
/// content is decompressed aside and copied to a buffer of its size.
fn fill(out: &mut Vec<u8>, most: usize, decode: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<()> {
    let mut aside = ASIDE.take();
    if out.capacity() == 0 && most <= MAX_ASIDE {
        if aside.len() < most {
            aside.resize(most, 0);
        }
        let written = decode(aside.get_mut(..most).unwrap_or_default())?;
        panic_if_planted(Compression::Zstd);
        out.extend_from_slice(aside.get(..written).unwrap_or_default());
    } else {
        if out.capacity() == 0 {
            // Memory the system just gave is zero already.
            *out = vec![0; most];
        }
        out.resize(most, 0);
        let written = decode(out)?;
        panic_if_planted(Compression::Zstd);
        out.truncate(written);
    }
    ASIDE.set(aside);
    Ok(())
}

/// How many bytes all frames hold at most.
///
/// # Errors
/// `Codec` if these bytes are not frames from the first to the last.
fn room(input: &[u8]) -> Result<usize> {
    let mut rest = input;
    let mut room = 0usize;
    let mut frames = 0;
    while !rest.is_empty() {
        let magic = u32::from_le_bytes(take(&mut rest)?);
        if SKIPPABLE.contains(&magic) {
            let length = u32::from_le_bytes(take(&mut rest)?);
            skip(&mut rest, length as usize)?;
        } else if magic == MAGIC {
            room = room.saturating_add(frame_room(&mut rest)?);
            frames += 1;
        } else {
            return Err(failed(Compression::Zstd, format!("magic number {magic:08x} begins no frame")));
        }
    }
    match frames {
        0 => Err(failed(Compression::Zstd, "there is no frame")),
        _ => Ok(room),
    }
}

/// How many bytes a frame holds at most, by its blocks, and by its own word if that is less (RFC 8878, 3.1.1). Takes
/// the frame behind its magic number.
fn frame_room(rest: &mut &[u8]) -> Result<usize> {
    let [descriptor] = take(rest)?;
    let single_segment = descriptor & 0x20 != 0;
    let window = if single_segment { usize::MAX } else { window(take(rest)?) };
    skip(rest, [0, 1, 2, 4].get(usize::from(descriptor & 0x03)).copied().unwrap_or_default())?;
    let stated = match descriptor >> 6 {
        0 if single_segment => Some(u64::from(u8::from_le_bytes(take(rest)?))),
        0 => None,
        1 => Some(u64::from(u16::from_le_bytes(take(rest)?)) + 256),
        2 => Some(u64::from(u32::from_le_bytes(take(rest)?))),
        _ => Some(u64::from_le_bytes(take(rest)?)),
    };
    let mut room = 0usize;
    loop {
        let [a, b, c] = take(rest)?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let size = (header >> 3) as usize;
        let (length, holds) = match header >> 1 & 3 {
            // As it is; one byte to be repeated; compressed.
            0 => (size, size),
            1 => (1, size),
            _ => (size, MAX_BLOCK.min(window)),
        };
        skip(rest, length)?;
        room = room.saturating_add(holds);
        if header & 1 != 0 {
            break;
        }
    }
    if descriptor & 0x04 != 0 {
        skip(rest, 4)?;
    }
    Ok(match stated {
        Some(size) => usize::try_from(size).unwrap_or(usize::MAX).min(room),
        None => room,
    })
}

/// The window's size by its descriptor.
fn window([descriptor]: [u8; 1]) -> usize {
    let base = 1u64 << (10 + (descriptor >> 3));
    usize::try_from(base + base / 8 * u64::from(descriptor & 7)).unwrap_or(usize::MAX)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk().ok_or_else(|| cut_short(Compression::Zstd))?;
    *rest = tail;
    Ok(*head)
}

fn skip(rest: &mut &[u8], length: usize) -> Result<()> {
    *rest = rest.get(length..).ok_or_else(|| cut_short(Compression::Zstd))?;
    Ok(())
}

#[cfg(all(test, feature = "zstd-c"))]
mod tests {
    use super::*;

    /// The library's memory is not Rust's, so that no allocator of Rust counts it.
    #[test]
    fn a_state_of_the_library_is_kept_unless_it_is_large() {
        let content: Vec<u8> = (0..1_000_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for (level, kept) in [(-5, true), (3, true), (9, false), (19, false)] {
            compress(Some(level), &content, &mut Vec::new()).unwrap();
            assert_eq!(c_library::kept_level(), kept.then_some(level), "level {level}");
        }
    }
}
