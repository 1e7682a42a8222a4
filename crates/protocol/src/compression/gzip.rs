//! gzip (RFC 1952), by zlib-rs.

use super::{Compression, read_capped};
use crate::error::Result;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::io::Write;

/// zlib's own default.
const DEFAULT_LEVEL: u32 = 6;

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let level = level.map_or(DEFAULT_LEVEL, i32::unsigned_abs);
    let mut encoder = GzEncoder::new(out, flate2::Compression::new(level));
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish().map(drop))
        .map_err(|cause| super::failed(Compression::Gzip, cause))
}

pub(super) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>> {
    read_capped(Compression::Gzip, &mut MultiGzDecoder::new(input), input.len(), max)
}
