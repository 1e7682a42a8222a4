//! The crates the codecs are made of, called with nothing around them.

use crate::Run;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use milena_protocol::compression::Compression;
use std::hint::black_box;
use std::io::{Read, Write};
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};

/// Decompresses into a buffer of the content's size that was used before.
///
/// # Panics
/// In the closure, if the input is not what the codec of this workspace writes.
#[must_use]
pub fn decompressor(codec: Compression, input: Vec<u8>, size: usize) -> Run {
    let mut decompress = work(codec);
    let mut out = vec![0; size];
    Box::new(move || decompress(black_box(&input), &mut out))
}

/// The same into a new buffer each time.
///
/// # Panics
/// As [`decompressor`].
#[must_use]
pub fn decompressor_to_new(codec: Compression, input: Vec<u8>, size: usize) -> Run {
    let mut decompress = work(codec);
    Box::new(move || {
        let mut out = vec![0; size];
        decompress(black_box(&input), &mut out);
        black_box(out);
    })
}

/// What decompresses all of an input into a buffer of just its size.
type Work = Box<dyn FnMut(&[u8], &mut [u8])>;

fn work(codec: Compression) -> Work {
    match codec {
        Compression::None => Box::new(|input, out| out.copy_from_slice(input)),
        Compression::Gzip => Box::new(|input, out| MultiGzDecoder::new(input).read_exact(out).unwrap()),
        Compression::Snappy => Box::new(|input, out| {
            let mut decoder = snap::raw::Decoder::new();
            let mut space = out;
            // The raw blocks behind the header of the framing, each behind its length.
            let mut rest = &input[16..];
            while let Some((length, behind)) = rest.split_first_chunk() {
                let (block, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
                let written = decoder.decompress(block, space).unwrap();
                space = &mut space[written..];
                rest = behind;
            }
        }),
        Compression::Lz4 => Box::new(|input, out| FrameDecoder::new(input).read_exact(out).unwrap()),
        Compression::Zstd => {
            let mut decoder = structured_zstd::decoding::FrameDecoder::new();
            Box::new(move |input, out| {
                decoder.decode_all(input, out).unwrap();
            })
        }
    }
}

/// Decompresses the blocks of an lz4 frame and does nothing else that belongs to a frame.
///
/// # Panics
/// In the closure, if the input is not what the codec of this workspace writes.
#[must_use]
pub fn lz4_blocks(input: Vec<u8>, size: usize) -> Run {
    let mut out = vec![0; size];
    Box::new(move || {
        let mut space = &mut out[..];
        let mut rest = &black_box(&input)[7..];
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (block, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            if !block.is_empty() {
                let written = lz4_flex::block::decompress_into(block, space).unwrap();
                space = &mut space[written..];
            }
            rest = behind;
        }
    })
}

/// Compresses into a buffer that was used before, at the codec's default level.
///
/// # Panics
/// In the closure, if the codec fails.
#[must_use]
pub fn compressor(codec: Compression, data: Vec<u8>) -> Run {
    let mut out = Vec::new();
    match codec {
        Compression::None => Box::new(move || {
            out.clear();
            out.extend_from_slice(black_box(&data));
        }),
        Compression::Gzip => Box::new(move || {
            out.clear();
            let mut encoder = GzEncoder::new(&mut out, flate2::Compression::new(6));
            encoder.write_all(black_box(&data)).unwrap();
            encoder.finish().unwrap();
        }),
        Compression::Snappy => {
            let mut encoder = snap::raw::Encoder::new();
            out.resize(snap::raw::max_compress_len(data.len()), 0);
            Box::new(move || {
                encoder.compress(black_box(&data), &mut out).unwrap();
            })
        }
        Compression::Lz4 => {
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            Box::new(move || {
                out.clear();
                let mut encoder = FrameEncoder::with_frame_info(info.clone(), &mut out);
                encoder.write_all(black_box(&data)).unwrap();
                encoder.finish().unwrap();
            })
        }
        Compression::Zstd => {
            let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::from_level(3));
            Box::new(move || encoder.compress_independent_frame_into(black_box(&data), &mut out))
        }
    }
}

/// A zstd frame as Java writes it: it does not state the content's size.
#[must_use]
pub fn unsized_zstd(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder: FrameCompressor = FrameCompressor::new(CompressionLevel::from_level(3));
    encoder.set_content_size_flag(false);
    encoder.compress_independent_frame_into(data, &mut out);
    out
}
