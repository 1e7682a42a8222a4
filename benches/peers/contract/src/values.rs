//! The values that are sent, and the checksum of what is received.

use anyhow::{Context, Result, ensure};

use crate::args::{Args, Shape};
use crate::meter::Meter;

/// The names of the headers of [`Shape::Keys`].
pub const HEADER_NAMES: [&str; 3] = ["trace-id", "source", "schema"];

/// The checksum of one byte string of 8 bytes or more: three words of it and its length. The sum over all records does not depend
/// on their order.
#[inline(always)]
#[must_use]
pub fn word(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    let at = |from: usize| -> u64 {
        match bytes.get(from..from + 8).and_then(|part| <[u8; 8]>::try_from(part).ok()) {
            Some(part) => u64::from_le_bytes(part),
            None => 0,
        }
    };
    if length < 8 {
        return length as u64;
    }
    let mixed = at(0) ^ at((length - 8) / 2).rotate_left(23) ^ at(length - 8).rotate_left(41);
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(length as u64)
}

/// The values of a producer, with their checksums.
#[derive(Debug)]
pub struct Values {
    bytes: Vec<u8>,
    size: usize,
    shape: Shape,
    sums: Vec<u64>,
    next: usize,
    /// Records given out.
    pub records: u64,
    /// The checksum of all given out.
    pub checksum: u64,
}

impl Values {
    /// Reads the file that the command line names.
    pub fn load(args: &Args) -> Result<Self> {
        let bytes = std::fs::read(&args.values).with_context(|| args.values.clone())?;
        let size = args.value_size;
        ensure!(!bytes.is_empty() && bytes.len().is_multiple_of(size), "{} has no whole values", args.values);
        ensure!(
            args.shape == Shape::Plain || size >= 40,
            "records with keys have values of 40 bytes or more"
        );
        let sums = bytes.chunks(size).map(|value| sum(args.shape, value)).collect();
        Ok(Self { bytes, size, shape: args.shape, sums, next: 0, records: 0, checksum: 0 })
    }

    /// The next value.
    #[inline]
    pub fn next_value(&mut self) -> &[u8] {
        let at = self.next_index();
        self.value(at)
    }

    /// The value at an index.
    #[inline]
    #[must_use]
    pub fn value(&self, at: usize) -> &[u8] {
        &self.bytes[at * self.size..(at + 1) * self.size]
    }

    /// Counts the next value as given out and returns its index.
    #[inline]
    pub fn next_index(&mut self) -> usize {
        let at = self.next;
        self.next = if at + 1 == self.sums.len() { 0 } else { at + 1 };
        self.records += 1;
        self.checksum = self.checksum.wrapping_add(self.sums[at]);
        at
    }

    /// Starts at another value: threads that share the work must not all send the same.
    pub fn skip(&mut self, values: u64) {
        self.next = (values % self.sums.len() as u64) as usize;
    }

    /// The values of the file.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.size)
    }

    /// Adds all that was given out to what the meter counted.
    pub fn account(&self, meter: &mut Meter) {
        meter.records += self.records;
        meter.checksum = meter.checksum.wrapping_add(self.checksum);
        meter.bytes += self.content_bytes();
    }

    /// All bytes of the records given out that count as content.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let more = match self.shape {
            Shape::Plain => 0,
            Shape::Keys => 16 + HEADER_NAMES.iter().map(|name| name.len() + 8).sum::<usize>(),
        };
        self.records * (self.size + more) as u64
    }

    /// The key of a value's record.
    #[must_use]
    pub fn key(value: &[u8]) -> &[u8] {
        &value[..16]
    }

    /// The headers of a value's record.
    #[must_use]
    pub fn headers(value: &[u8]) -> [(&'static str, &[u8]); 3] {
        [
            (HEADER_NAMES[0], &value[16..24]),
            (HEADER_NAMES[1], &value[24..32]),
            (HEADER_NAMES[2], &value[32..40]),
        ]
    }
}

fn sum(shape: Shape, value: &[u8]) -> u64 {
    let mut sum = word(value);
    if shape == Shape::Keys {
        sum = sum.wrapping_add(word(Values::key(value)));
        for (_, header) in Values::headers(value) {
            sum = sum.wrapping_add(word(header));
        }
    }
    sum
}
