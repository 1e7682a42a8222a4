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
    let mut out = vec![0; size];
    match codec {
        Compression::None => Box::new(move || out.copy_from_slice(black_box(&input))),
        Compression::Gzip => {
            Box::new(move || MultiGzDecoder::new(black_box(&input[..])).read_exact(&mut out).unwrap())
        }
        Compression::Snappy => Box::new(move || {
            let mut decoder = snap::raw::Decoder::new();
            let mut space = &mut out[..];
            // The raw blocks behind the header of the framing, each behind its length.
            let mut rest = &black_box(&input)[16..];
            while let Some((length, behind)) = rest.split_first_chunk() {
                let (block, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
                let written = decoder.decompress(block, space).unwrap();
                space = &mut space[written..];
                rest = behind;
            }
        }),
        Compression::Lz4 => {
            Box::new(move || FrameDecoder::new(black_box(&input[..])).read_exact(&mut out).unwrap())
        }
        Compression::Zstd => {
            let mut decoder = structured_zstd::decoding::FrameDecoder::new();
            Box::new(move || {
                decoder.decode_all(black_box(&input), &mut out).unwrap();
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
