//! The codecs beside the crates they are made of, on the same bytes.
//!
//! "ours" is what a reader of batches calls: the content in a buffer of its own, and so has "bare, new buffer". "ours, used
//! buffer" and "bare" write to one that was used before. Both bare ones know the content's size.

use crate::{Amount, Case, Most, bare, text};
use milena_protocol::compression::{Compression, compress, decompress, decompress_into};
use std::hint::black_box;

const SIZES: [usize; 3] = [4 * 1024, 64 * 1024, 1024 * 1024];
const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const LIMIT: usize = 1 << 24;

fn decompression(codec: Compression, size: usize) -> Case {
    let data = text(size);
    let mut input = Vec::new();
    compress(codec, None, &data, &mut input).unwrap();
    let name = format!("decompress/{codec}/{} KiB", size / 1024);
    let mut case = Case::new(name, Amount::Bytes(size));
    both(&mut case, codec, &input);
    if codec == Compression::Lz4 {
        case.rows.push(("bare blocks", bare::lz4_blocks(input.clone(), size)));
    }
    case.rows.push(("bare, new buffer", bare::decompressor_to_new(codec, input.clone(), size)));
    case.rows.push(("bare", bare::decompressor(codec, input, size)));
    case
}

fn both(case: &mut Case, codec: Compression, input: &[u8]) {
    case.bar("ours", "bare, new buffer", Most::Times(1.10));
    case.bar("ours, used buffer", "bare", Most::Times(1.10));
    let bytes = input.to_vec();
    case.row("ours", move || {
        black_box(decompress(codec, black_box(&bytes), LIMIT).unwrap());
    });
    let bytes = input.to_vec();
    let mut out = Vec::new();
    case.row("ours, used buffer", move || {
        decompress_into(codec, black_box(&bytes), LIMIT, &mut out).unwrap();
    });
}

fn unsized_zstd(size: usize) -> Case {
    let input = bare::unsized_zstd(&text(size));
    let name = format!("decompress/zstd without size/{} KiB", size / 1024);
    let mut case = Case::new(name, Amount::Bytes(size));
    both(&mut case, Compression::Zstd, &input);
    case.rows.push(("bare, new buffer", bare::decompressor_to_new(Compression::Zstd, input.clone(), size)));
    case.rows.push(("bare", bare::decompressor(Compression::Zstd, input, size)));
    case
}

fn compression(codec: Compression, size: usize) -> Case {
    let data = text(size);
    let mut case = Case::new(format!("compress/{codec}/{} KiB", size / 1024), Amount::Bytes(size));
    let (bytes, mut out) = (data.clone(), Vec::new());
    case.row("ours", move || {
        out.clear();
        compress(codec, None, black_box(&bytes), &mut out).unwrap();
    });
    case.rows.push(("bare", bare::compressor(codec, data)));
    case
}

fn levels(codec: Compression, names: &[(&'static str, i32)]) -> Case {
    let data = text(64 * 1024);
    let mut case = Case::new(format!("compress levels/{codec}/64 KiB"), Amount::Bytes(data.len()));
    for &(name, level) in names {
        let (data, mut out) = (data.clone(), Vec::new());
        case.row(name, move || {
            out.clear();
            compress(codec, Some(level), black_box(&data), &mut out).unwrap();
        });
    }
    case
}

/// All cases of this module.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for codec in CODECS {
        cases.extend(SIZES.map(|size| decompression(codec, size)));
    }
    cases.extend(SIZES.map(unsized_zstd));
    for codec in CODECS {
        cases.extend(SIZES.map(|size| compression(codec, size)));
    }
    cases.push(levels(Compression::Gzip, &[("9", 9), ("6", 6), ("1", 1)]));
    cases.push(levels(Compression::Zstd, &[("9", 9), ("3", 3), ("1", 1), ("-5", -5)]));
    cases
}
