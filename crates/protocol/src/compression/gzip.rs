//! gzip (RFC 1952): its frame here, deflate by zlib-rs.
//!
//! Written: one member with an empty header. Read: members one after another, with any optional fields; both sums of
//! each are checked. What follows a member and begins no other is passed over, as Java's `GZIPInputStream` does; a
//! member that is cut short is an error, even where Java would see its first bytes as such a rest.

use super::{Compression, cut_short, failed, grow, panic_if_planted, too_large};
use crate::error::Result;
use flate2::{Compress, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use std::cell::Cell;

/// zlib's own default, and what -1 stands for.
const DEFAULT_LEVEL: u32 = 6;
const WINDOW_BITS: u8 = 15;
/// The first two bytes of a member, and the only method there is.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
/// One bit of deflate stands for at most this many bytes, about.
const MAX_RATIO: usize = 1032;
/// zlib counts in 32 bits what it is given at once.
const MOST_AT_ONCE: usize = 1 << 30;

const HEADER_SUM: u8 = 0x02;
const EXTRA: u8 = 0x04;
const NAME: u8 = 0x08;
const COMMENT: u8 = 0x10;
const RESERVED: u8 = 0xe0;

/// A compressor and the level it is for.
struct Deflate {
    level: u32,
    stream: Compress,
}

thread_local! {
    static DEFLATE: Cell<Option<Deflate>> = const { Cell::new(None) };
    static INFLATE: Cell<Option<Decompress>> = const { Cell::new(None) };
}

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(DEFAULT_LEVEL);
    let mut deflate = DEFLATE.take().filter(|kept| kept.level == level).unwrap_or_else(|| Deflate {
        level,
        stream: Compress::new_gzip(flate2::Compression::new(level), WINDOW_BITS),
    });
    let mut rest = input;
    loop {
        let (piece, flush) = match rest.get(..MOST_AT_ONCE) {
            Some(piece) => (piece, FlushCompress::None),
            None => (rest, FlushCompress::Finish),
        };
        out.reserve(piece.len() / 4 + 64);
        let (read, written) = (deflate.stream.total_in(), out.len());
        let status = deflate
            .stream
            .compress_vec(piece, out, flush)
            .map_err(|cause| failed(Compression::Gzip, cause))?;
        let taken = deflate.stream.total_in() - read;
        rest = rest.get(taken as usize..).unwrap_or_default();
        if status == Status::StreamEnd {
            break;
        }
        if taken == 0 && out.len() == written {
            return Err(failed(Compression::Gzip, "the compressor makes no progress"));
        }
    }
    panic_if_planted(Compression::Gzip);
    deflate.stream.reset();
    DEFLATE.set(Some(deflate));
    Ok(())
}

pub(super) fn decompress(input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    let mut inflate = INFLATE.take().unwrap_or_else(|| Decompress::new_with_window_bits(false, WINDOW_BITS));
    // Where there is one member and nothing behind it, as nearly always, this is the size.
    if let Some(size) = input.last_chunk() {
        let possible = input.len().saturating_mul(MAX_RATIO);
        out.reserve_exact((u32::from_le_bytes(*size) as usize).min(possible).min(max));
    }
    let Some(mut rest) = header(input)? else {
        return Err(failed(Compression::Gzip, "these bytes begin no member"));
    };
    loop {
        rest = member(&mut inflate, rest, max, out)?;
        match header(rest)? {
            Some(next) => rest = next,
            None => break,
        }
    }
    panic_if_planted(Compression::Gzip);
    INFLATE.set(Some(inflate));
    Ok(())
}

/// What follows a member's header; `None` if the bytes begin no member.
fn header(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let Some(rest) = bytes.strip_prefix(&MAGIC) else {
        return match MAGIC.starts_with(bytes) && !bytes.is_empty() {
            true => Err(cut_short(Compression::Gzip)),
            false => Ok(None),
        };
    };
    fields(bytes, rest).ok_or_else(|| cut_short(Compression::Gzip))?.map(Some)
}

/// Passes over the rest of a header behind its magic; `None` if it is cut short.
fn fields<'a>(whole: &'a [u8], rest: &'a [u8]) -> Option<Result<&'a [u8]>> {
    // Flags, time, what the compressor and the system were.
    let (&[flags, _, _, _, _, _, _], mut rest) = rest.split_first_chunk()?;
    if flags & RESERVED != 0 {
        return Some(Err(failed(Compression::Gzip, "a member has unknown flags")));
    }
    if flags & EXTRA != 0 {
        let (length, behind) = rest.split_first_chunk()?;
        rest = behind.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    if flags & HEADER_SUM != 0 {
        let (stated, behind) = rest.split_first_chunk()?;
        let mut crc = Crc::new();
        crc.update(whole.get(..whole.len() - rest.len())?);
        if crc.sum() as u16 != u16::from_le_bytes(*stated) {
            return Some(Err(failed(Compression::Gzip, "a member header's checksum is wrong")));
        }
        rest = behind;
    }
    Some(Ok(rest))
}

/// Decompresses one member behind its header and returns what follows it.
fn member<'a>(inflate: &mut Decompress, input: &'a [u8], max: usize, out: &mut Vec<u8>) -> Result<&'a [u8]> {
    inflate.reset(false);
    let start = out.len();
    let mut rest = input;
    let mut crc = Crc::new();
    loop {
        let (from, before) = (out.len(), inflate.total_in());
        let piece = rest.get(..MOST_AT_ONCE).unwrap_or(rest);
        let status = inflate
            .decompress_vec(piece, out, FlushDecompress::Finish)
            .map_err(|cause| failed(Compression::Gzip, cause))?;
        let taken = (inflate.total_in() - before) as usize;
        rest = rest.get(taken..).unwrap_or_default();
        if out.len() > max {
            return Err(too_large(Compression::Gzip, max));
        }
        crc.update(out.get(from..).unwrap_or_default());
        if status == Status::StreamEnd {
            break;
        }
        let idle = taken == 0 && out.len() == from;
        match out.len() == out.capacity() {
            true if out.len() < max => grow(out, 1, max),
            true if idle => return Err(too_large(Compression::Gzip, max)),
            false if idle || rest.is_empty() => return Err(cut_short(Compression::Gzip)),
            _ => {}
        }
    }
    let Some((&[a, b, c, d, e, f, g, h], behind)) = rest.split_first_chunk() else {
        return Err(cut_short(Compression::Gzip));
    };
    if u32::from_le_bytes([a, b, c, d]) != crc.sum() {
        return Err(failed(Compression::Gzip, "a member's checksum is wrong"));
    }
    if u32::from_le_bytes([e, f, g, h]) != (out.len() - start) as u32 {
        return Err(failed(Compression::Gzip, "a member's size is wrong"));
    }
    Ok(behind)
}
