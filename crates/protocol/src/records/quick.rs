//! The common record, read word by word.
//!
//! Nearly all numbers of a record take one to three bytes. Eight bytes at a time are taken into a register, and the numbers out of it, so
//! that a record costs a few checks of the buffer's length and not two for each of its bytes of numbers. What is not common, and all that
//! is wrong, is left to the careful reader, which knows what to say of it.

use super::record::Headers;
use super::varint::Reader;

/// A record whose numbers are short.
pub(super) struct Quick<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Headers<'a>,
    /// What lies behind it.
    pub(super) rest: &'a [u8],
}

/// Eight bytes, the next one lowest, and where in the buffer that is.
struct Word {
    bits: u64,
    at: usize,
}

impl Word {
    #[inline(always)]
    fn load(bytes: &[u8], at: usize) -> Option<Self> {
        let word = bytes.get(at..)?.first_chunk::<8>()?;
        Some(Self { bits: u64::from_le_bytes(*word), at })
    }

    #[inline(always)]
    fn skip(&mut self, bytes: u32) {
        self.bits >>= 8 * bytes;
        self.at += bytes as usize;
    }

    /// A number of up to three bytes, still zig-zagged. Behind the end of the word there are zeros: who reads so far looks at `at`.
    #[inline(always)]
    fn number(&mut self) -> Option<u32> {
        let bits = self.bits as u32;
        let low = bits & 0x7f;
        if bits & 0x80 == 0 {
            self.skip(1);
            return Some(low);
        }
        let low = low | bits >> 1 & 0x7f << 7;
        if bits & 0x8000 == 0 {
            self.skip(2);
            return Some(low);
        }
        if bits & 0x80_0000 == 0 {
            self.skip(3);
            return Some(low | bits >> 2 & 0x7f << 14);
        }
        None
    }
}

/// The zig-zagged -1: null.
const NULL: u32 = 1;

/// What a length says: `None` if it is negative and not null.
#[inline(always)]
fn length(zigzagged: u32) -> Option<usize> {
    (zigzagged & 1 == 0).then_some((zigzagged >> 1) as usize)
}

impl<'a> Quick<'a> {
    /// Reads the first record; `None` if it is not common, or not right.
    #[inline(always)]
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut word = Word::load(bytes, 0)?;
        let size = length(word.number()?)?;
        let end = word.at + size;
        // Attributes: none are in use.
        word.skip(1);
        let timestamp_delta = word.number()?;
        let offset_delta = length(word.number()?)?;
        if word.at > 8 {
            return None;
        }
        let mut word = Word::load(bytes, word.at)?;
        let key = match word.number()? {
            NULL => None,
            key => {
                let to = word.at + length(key)?;
                let key = bytes.get(word.at..to)?;
                word = Word::load(bytes, to)?;
                Some(key)
            }
        };
        let (value, to) = match word.number()? {
            NULL => (None, word.at),
            value => {
                let to = word.at + length(value)?;
                (Some(bytes.get(word.at..to)?), to)
            }
        };
        // Within the record, of which at least the number of headers is left.
        let (&count, headers) = bytes.get(to..end)?.split_first()?;
        let headers = match count {
            0 if headers.is_empty() => Headers::EMPTY,
            1..0x80 => {
                let mut reader = Reader(headers);
                let headers = Headers::read(&mut reader, length(u32::from(count))?).ok()?;
                reader.0.is_empty().then_some(headers)?
            }
            _ => return None,
        };
        Some(Self {
            timestamp_delta: (timestamp_delta >> 1) as i64 ^ -i64::from(timestamp_delta & 1),
            offset_delta: offset_delta as i64,
            key,
            value,
            headers,
            rest: bytes.get(end..)?,
        })
    }
}
