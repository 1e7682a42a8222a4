//! The codecs of record batches and message sets, in pure Rust, both ways.
//!
//! | codec | written | read | levels |
//! |---|---|---|---|
//! | gzip | one member | any members | 1 to 9, default 6; -1 is the default too |
//! | snappy | xerial blocks of 32 KiB, as Java | xerial, or one raw block | none |
//! | lz4 | frame, independent blocks of 64 KiB, no checksums | any frames | 1 to 17, all alike |
//! | zstd | one frame | any frames | -131072 to 22, default 3 |
//!
//! The levels are those of Kafka's `compression.gzip.level`, `compression.lz4.level` and `compression.zstd.level` (KIP-390).
//! lz4 is compressed in one way only, the fast one, so its levels are accepted and change nothing.
//!
//! # Memory
//! Decompression takes no more than the limit it is given and a constant: a bomb is an error. It takes it at once
//! where the compressed bytes tell how much they can hold. The state of each codec is kept per thread and used again,
//! but for states of more than a few MiB, which large windows and high levels of zstd need.
//!
//! # Panics
//! A panic inside a codec is an error of the batch at hand: it is caught, and the codec's state thrown away. (It is
//! still reported by the panic hook. A program built with `panic = "abort"` ends, as nothing can be caught there.)

mod gzip;
mod lz4;
mod output;
mod snappy;
mod zstd;

use self::lz4::HeaderSum;
use crate::error::{ProtocolError, Result};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

/// The limit for the decompressed size of a batch where none is given, in bytes: 128 MiB.
pub const DEFAULT_MAX_DECOMPRESSED: usize = 128 * 1024 * 1024;

/// How records are compressed (Kafka's `compression.type`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Compression {
    /// Not at all. Kafka's default for producers.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy, framed as by the Java library snappy-java ("xerial").
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// Zstandard (RFC 8878); brokers since 2.1 (KIP-110).
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec that the attributes of a batch name in their lowest three bits.
    ///
    /// # Errors
    /// `Unsupported` for a number no codec has.
    #[inline]
    pub fn from_attributes(attributes: i16) -> Result<Self> {
        match attributes & crate::records::attributes::CODEC {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            other => Err(ProtocolError::unsupported(format!("unknown compression codec {other}"))),
        }
    }

    /// Its number in the attributes of a batch.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Its name, as in `compression.type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Checks a level: gzip 1 to 9 or -1 for its default, lz4 1 to 17 (accepted as Kafka does; there is one speed),
    /// zstd -131072 to 22 (KIP-390). `None` is always fine.
    ///
    /// # Errors
    /// `Unsupported` for a level outside of the codec's range, or any level for a codec without levels.
    pub fn check_level(self, level: Option<i32>) -> Result<()> {
        let Some(level) = level else { return Ok(()) };
        let range = match self {
            Self::None | Self::Snappy => {
                return Err(ProtocolError::unsupported(format!(
                    "compression {self} has no levels, but {level} was given"
                )));
            }
            Self::Gzip => 1..=9,
            Self::Lz4 => 1..=17,
            Self::Zstd => -131_072..=22,
        };
        if range.contains(&level) || (self == Self::Gzip && level == -1) {
            return Ok(());
        }
        Err(ProtocolError::unsupported(format!(
            "compression level {level} is outside of {self}'s range of {} to {}",
            range.start(),
            range.end()
        )))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Compression {
    type Err = ProtocolError;

    /// As `compression.type` is written, in any case.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            ProtocolError::unsupported(format!(
                "unknown compression {name:?}: it is one of none, gzip, snappy, lz4 and zstd"
            ))
        })
    }
}

/// Compresses `input` and appends it to `out`. `level` is as [`Compression::check_level`] says.
///
/// # Errors
/// `Unsupported` for a level the codec does not have, `Codec` if the codec fails. `out` is unchanged then.
pub fn compress(codec: Compression, level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    compress_as(HeaderSum::Standard, codec, level, input, out)
}

/// [`compress`] for a message set of format 0. It differs in lz4, whose frames get the header checksum that Kafka
/// before 0.10 wrote, and the only one it accepts (KAFKA-3160, KIP-57).
///
/// # Errors
/// As [`compress`].
pub fn compress_v0(codec: Compression, level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
    compress_as(HeaderSum::Old, codec, level, input, out)
}

fn compress_as(
    sum: HeaderSum,
    codec: Compression,
    level: Option<i32>,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    codec.check_level(level)?;
    let before = out.len();
    let outcome = contained(codec, || match codec {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => gzip::compress(level, input, out),
        Compression::Snappy => snappy::compress(input, out),
        Compression::Lz4 => lz4::compress(sum, input, out),
        Compression::Zstd => zstd::compress(level, input, out),
    });
    if outcome.is_err() {
        out.truncate(before);
    }
    outcome
}

/// Decompresses all of `input`.
///
/// # Errors
/// `TooLarge` if it holds more than `max` bytes, `Codec` if the codec cannot read it.
pub fn decompress(codec: Compression, input: &[u8], max: usize) -> Result<Vec<u8>> {
    decompress_as(HeaderSum::Standard, codec, input, max)
}

/// [`decompress`] for a message set of format 0 or 1. It differs in lz4, whose frames may have the header checksum that
/// Kafka before 0.10 wrote (KAFKA-3160, KIP-57).
///
/// # Errors
/// As [`decompress`].
pub fn decompress_message_set(codec: Compression, input: &[u8], max: usize) -> Result<Vec<u8>> {
    decompress_as(HeaderSum::Old, codec, input, max)
}

/// [`decompress`] into memory that was used before: what `out` holds is replaced. It is empty after an error.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_into(codec: Compression, input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
    into(HeaderSum::Standard, codec, input, max, out)
}

/// [`decompress_message_set`] into memory that was used before, as [`decompress_into`].
///
/// # Errors
/// As [`decompress`].
pub fn decompress_message_set_into(
    codec: Compression,
    input: &[u8],
    max: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    into(HeaderSum::Old, codec, input, max, out)
}

fn decompress_as(sum: HeaderSum, codec: Compression, input: &[u8], max: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    into(sum, codec, input, max, &mut out)?;
    // Records are kept for a while, so memory that was taken in vain goes back.
    if out.capacity() - out.len() > out.len() / 8 + 1024 {
        out.shrink_to_fit();
    }
    Ok(out)
}

fn into(sum: HeaderSum, codec: Compression, input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<()> {
    let outcome = contained(codec, || match codec {
        Compression::None if input.len() > max => Err(too_large(codec, max)),
        Compression::None => {
            out.clear();
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => gzip::decompress(input, max, out),
        Compression::Snappy => snappy::decompress(input, max, out),
        Compression::Lz4 => lz4::decompress(sum, input, max, out),
        Compression::Zstd => zstd::decompress(input, max, out),
    });
    if outcome.is_err() {
        out.clear();
    }
    outcome
}

/// Runs a codec; a panic in it becomes an error. What it wrote so far is thrown away by the callers, and states
/// it keeps are taken out for the time of the call, so that nothing half-written is seen again.
fn contained<T>(codec: Compression, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ProtocolError::codec(format!("{codec}: internal error of the codec"))))
}

/// Where tests make a codec fail: it has done its work, and its state is as it is left, neither made ready nor put back.
#[cfg(test)]
use tests::panic_if_planted;
#[cfg(not(test))]
#[inline(always)]
const fn panic_if_planted(_: Compression) {}

#[cold]
fn too_large(codec: Compression, max: usize) -> ProtocolError {
    ProtocolError::too_large(format!("{codec}: decompresses to more than the limit of {max} bytes"))
}

#[cold]
fn cut_short(codec: Compression) -> ProtocolError {
    failed(codec, "the compressed data is cut short")
}

#[cold]
fn failed(codec: Compression, cause: impl fmt::Display) -> ProtocolError {
    ProtocolError::codec(format!("{codec}: {cause}"))
}

/// Takes memory for `more` bytes beyond what the buffer holds, and doubles it if that is more, but never takes it
/// beyond `max` bytes. For decompressed sizes that cannot be told before.
fn grow(out: &mut Vec<u8>, more: usize, max: usize) {
    const LEAST: usize = 4096;
    let target = out.len().saturating_add(more).max(out.capacity().saturating_mul(2)).max(LEAST).min(max);
    out.reserve_exact(target.saturating_sub(out.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::records::{BatchBuilder, BatchIdentity, BatchOptions, batches};
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Compression>> = const { Cell::new(None) };
    }

    pub(super) fn panic_if_planted(codec: Compression) {
        if PLANTED.get() == Some(codec) {
            PLANTED.set(None);
            panic!("planted in {codec}");
        }
    }

    fn batch(compression: Compression) -> Result<bytes::Bytes> {
        let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
        builder.push(0, None, Some(b"value"), [])?;
        builder.build(BatchIdentity::default())
    }

    #[test]
    fn a_panic_in_a_codec_is_an_error_of_its_batch() {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let one = batch(codec).unwrap();
            PLANTED.set(Some(codec));
            assert_eq!(batch(codec).unwrap_err().kind(), ErrorKind::Codec);
            assert_eq!(PLANTED.take(), None, "the panic came");

            assert_eq!(batch(codec).unwrap(), one, "{codec}: nothing is left of the state that failed");
            let two = [one.clone(), one].concat();
            PLANTED.set(Some(codec));
            let outcomes: Vec<_> =
                batches(two.into()).map(|batch| batch.and_then(|batch| batch.records())).collect();
            let [Err(error), Ok(records)] = &outcomes[..] else { panic!("{outcomes:?}") };
            assert_eq!(error.kind(), ErrorKind::Codec);
            assert!(error.to_string().contains("internal error"), "{error}");
            assert_eq!(records.iter().count(), 1);
        }
    }
}
