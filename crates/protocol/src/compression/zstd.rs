//! Zstandard (RFC 8878): in pure Rust, or by the C library with the feature `zstd-c`.
//!
//! Java's clients compress as a stream, so their frames do not state the content's size.

/// Kafka's default, and zstd's.
const DEFAULT_LEVEL: i32 = 3;

#[cfg(feature = "zstd-c")]
pub(super) use c_library::{compress, decompress};
#[cfg(not(feature = "zstd-c"))]
pub(super) use pure::{compress, decompress};

#[cfg(not(feature = "zstd-c"))]
mod pure {
    use super::{DEFAULT_LEVEL, content_size};
    use crate::compression::{Compression, failed, too_large};
    use crate::error::Result;
    use std::cell::Cell;
    use structured_zstd::decoding::errors::{
        DecodeBlockContentError, DecodeBufferError, DecompressBlockError, ExecuteSequencesError,
        FrameDecoderError,
    };
    use structured_zstd::decoding::{ContentChecksum, FrameDecoder};
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

    /// A context whose tables are larger is not kept for the next batch.
    const MAX_KEPT: usize = 8 * 1024 * 1024;
    /// What a block holds at most, decompressed...
    const MAX_BLOCK: usize = 128 * 1024;
    /// ...and the fewest bytes it takes: its header and one byte to be repeated.
    const MIN_BLOCK: usize = 4;
    /// The first guess of a ratio where the frame does not state its size.
    const GUESS: usize = 8;
    const MIN_ROOM: usize = 16 * 1024;

    /// A compressor, which level it is for, and the buffer it writes to.
    struct Encoder {
        level: i32,
        compressor: FrameCompressor,
        frame: Vec<u8>,
    }

    thread_local! {
        static ENCODER: Cell<Option<Encoder>> = const { Cell::new(None) };
        static DECODER: Cell<Option<Box<FrameDecoder>>> = const { Cell::new(None) };
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
        if encoder.compressor.heap_size() + encoder.frame.capacity() <= MAX_KEPT {
            ENCODER.set(Some(encoder));
        }
        Ok(())
    }

    /// Decompresses into a buffer of a guessed size, and again into a larger one if it did not suffice: the decoder
    /// writes straight into it then and holds no window of its own, so the limit bounds all memory.
    pub(in crate::compression) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>> {
        if input.is_empty() {
            return Err(failed(Compression::Zstd, "there is no frame"));
        }
        let mut decoder = DECODER.take().unwrap_or_else(|| {
            let mut decoder = Box::new(FrameDecoder::new());
            decoder.set_content_checksum(ContentChecksum::Verify);
            decoder
        });
        // A size is the peer's word: more than the blocks at hand can hold is not believed.
        let possible = (input.len() / MIN_BLOCK + 1).saturating_mul(MAX_BLOCK);
        let guess = match content_size(input) {
            Some(size) => usize::try_from(size).unwrap_or(usize::MAX).min(possible),
            None => input.len().saturating_mul(GUESS).max(MIN_ROOM),
        };
        let most = possible.min(max);
        let mut room = guess.min(most);
        loop {
            let mut out = vec![0; room];
            match decoder.decode_all(input, &mut out) {
                Ok(written) => {
                    if decoder.workspace_size() <= MAX_KEPT {
                        DECODER.set(Some(decoder));
                    }
                    out.truncate(written);
                    return Ok(out);
                }
                Err(cause) if out_of_room(&cause) && room < most => {
                    room = room.saturating_mul(4).max(MIN_ROOM).min(most);
                }
                Err(cause) if out_of_room(&cause) && most == max => {
                    return Err(too_large(Compression::Zstd, max));
                }
                Err(cause) => return Err(failed(Compression::Zstd, cause)),
            }
        }
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
    use super::{DEFAULT_LEVEL, content_size};
    use crate::compression::{Compression, failed, read_capped};
    use crate::error::Result;

    pub(in crate::compression) fn compress(
        level: Option<i32>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let frame = zstd::bulk::compress(input, level.unwrap_or(DEFAULT_LEVEL))
            .map_err(|cause| failed(Compression::Zstd, cause))?;
        out.extend_from_slice(&frame);
        Ok(())
    }

    pub(in crate::compression) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>> {
        if input.is_empty() {
            return Err(failed(Compression::Zstd, "there is no frame"));
        }
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
            .map_err(|cause| failed(Compression::Zstd, cause))?;
        let out = read_capped(Compression::Zstd, &mut decoder, input.len(), max)?;
        // The library's stream reader does not compare the two.
        match content_size(input).is_some_and(|size| size > out.len() as u64) {
            true => Err(failed(Compression::Zstd, "the frame holds less than it states")),
            false => Ok(out),
        }
    }
}

/// The content's size if the first frame states it (RFC 8878, 3.1.1.1).
fn content_size(input: &[u8]) -> Option<u64> {
    let (&descriptor, rest) = input.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!single_segment);
    let dictionary = match descriptor & 0x03 {
        0 => 0,
        1 => 1,
        2 => 2,
        _ => 4,
    };
    let field = rest.get(window + dictionary..)?;
    match descriptor >> 6 {
        0 if single_segment => field.first().map(|&size| u64::from(size)),
        0 => None,
        1 => field.first_chunk().map(|&size| u64::from(u16::from_le_bytes(size)) + 256),
        2 => field.first_chunk().map(|&size| u64::from(u32::from_le_bytes(size))),
        _ => field.first_chunk().map(|&size| u64::from_le_bytes(size)),
    }
}
