//! Variable-length numbers and a checked reader over them.
//!
//! Numbers inside a record are zig-zag encoded, seven bits a byte, lowest first (the scheme of Protocol
//! Buffers; Kafka's `ByteUtils.readVarint` and `readVarlong`). Nearly all of them fit one or two bytes, so
//! those are read inline and the rest out of line.

/// What stopped a read. Turned into a [`ProtocolError`](crate::ProtocolError) only on the cold path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The bytes end inside the value.
    Short,
    /// A number that does not fit its type.
    Overlong,
    /// A length below -1, or -1 where null is not allowed.
    Negative,
}

type Step<T> = Result<T, Fault>;

/// The longest encoding of an `i32`, in bytes.
pub(super) const MAX_VARINT: usize = 5;
/// The longest encoding of an `i64`, in bytes.
pub(super) const MAX_VARLONG: usize = 10;

/// The rest of some bytes. Each step takes bytes from the front or reports a fault; none can panic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    #[inline(always)]
    pub(super) fn take(&mut self, length: usize) -> Step<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(head)
    }

    #[inline(always)]
    pub(super) fn byte(&mut self) -> Step<u8> {
        let (&byte, rest) = self.0.split_first().ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(byte)
    }

    /// A zig-zag number of up to 32 bits.
    #[inline(always)]
    pub(super) fn varint(&mut self) -> Step<i32> {
        match *self.0 {
            [a, ref rest @ ..] if a < 0x80 => {
                self.0 = rest;
                Ok(unzigzag32(u32::from(a)))
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.0 = rest;
                Ok(unzigzag32(u32::from(a & 0x7f) | u32::from(b) << 7))
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    #[inline(never)]
    fn long_varint(&mut self) -> Step<i32> {
        let raw = self.unsigned(MAX_VARINT)?;
        u32::try_from(raw).map(unzigzag32).map_err(|_| Fault::Overlong)
    }

    /// A zig-zag number of up to 64 bits.
    #[inline(always)]
    pub(super) fn varlong(&mut self) -> Step<i64> {
        match *self.0 {
            [a, ref rest @ ..] if a < 0x80 => {
                self.0 = rest;
                Ok(unzigzag64(u64::from(a)))
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.0 = rest;
                Ok(unzigzag64(u64::from(a & 0x7f) | u64::from(b) << 7))
            }
            _ => self.long_varlong(),
        }
    }

    #[cold]
    #[inline(never)]
    fn long_varlong(&mut self) -> Step<i64> {
        self.unsigned(MAX_VARLONG).map(unzigzag64)
    }

    fn unsigned(&mut self, longest: usize) -> Step<u64> {
        let mut value = 0u64;
        for position in 0..longest {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * position as u32;
            let shifted = bits << shift;
            if shifted >> shift != bits {
                return Err(Fault::Overlong);
            }
            value |= shifted;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Fault::Overlong)
    }

    /// A length that may not be null.
    #[inline(always)]
    pub(super) fn length(&mut self) -> Step<usize> {
        usize::try_from(self.varint()?).map_err(|_| Fault::Negative)
    }

    /// Bytes behind their length; -1 stands for null.
    #[inline(always)]
    pub(super) fn nullable(&mut self) -> Step<Option<&'a [u8]>> {
        let length = self.varint()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(Fault::Negative),
        }
    }
}

#[inline(always)]
const fn unzigzag32(raw: u32) -> i32 {
    (raw >> 1) as i32 ^ -((raw & 1) as i32)
}

#[inline(always)]
const fn unzigzag64(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

#[inline(always)]
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// How many bytes a zig-zagged number takes, 1 to 10.
#[inline(always)]
pub(super) const fn encoded_len(zigzagged: u64) -> usize {
    // Seven bits a byte: (significant bits + 6) / 7, with at least one.
    ((70 - (zigzagged | 1).leading_zeros()) / 7) as usize
}

/// A small stack buffer in which the numbers between two byte strings are put together.
pub(super) struct Scratch {
    bytes: [u8; Self::SIZE],
    length: usize,
}

impl Scratch {
    // The most numbers in a row: record length, attributes, timestamp, offset, key and value length, headers.
    const SIZE: usize = 48;

    #[inline(always)]
    pub(super) const fn new() -> Self {
        Self { bytes: [0; Self::SIZE], length: 0 }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    #[inline(always)]
    pub(super) fn put(&mut self, zigzagged: u64) {
        let mut rest = zigzagged;
        while rest >= 0x80 {
            self.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.push(rest as u8);
    }

    #[inline(always)]
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }
}

/// The same for numbers of up to three bytes, which nearly all are, put together in a register: those of a record before its offset, those
/// from there to its key, or to its value if it has no key, and the length of its value. They are seven bytes at most.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    /// What is written is all of it, whatever of it counts.
    pub(super) bytes: u64,
    pub(super) length: usize,
}

impl Packed {
    /// Numbers below take at most three bytes.
    pub(super) const LIMIT: u64 = 1 << 21;
    /// The numbers of a record take less, also when the last of them is written as a whole register: its length, attributes and time; offset and
    /// length of the key; length of the value; header count.
    pub(super) const MOST: usize = 7 + 6 + 8 + 1;

    /// A number below [`LIMIT`](Self::LIMIT).
    #[inline(always)]
    pub(super) const fn of(zigzagged: u64) -> Self {
        let low = zigzagged & 0x7f;
        if zigzagged < 0x80 {
            Self { bytes: low, length: 1 }
        } else if zigzagged < 0x4000 {
            Self { bytes: low | 0x80 | (zigzagged >> 7) << 8, length: 2 }
        } else {
            Self {
                bytes: low | 0x80 | (zigzagged >> 7 & 0x7f | 0x80) << 8 | (zigzagged >> 14) << 16,
                length: 3,
            }
        }
    }

    /// With other numbers behind these.
    #[inline(always)]
    pub(super) const fn then(self, next: Self) -> Self {
        Self { bytes: self.bytes | next.bytes << (8 * self.length), length: self.length + next.length }
    }

    /// With a zero byte behind them.
    #[inline(always)]
    pub(super) const fn then_zero(self) -> Self {
        Self { bytes: self.bytes, length: self.length + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(value: i64) -> Vec<u8> {
        let mut scratch = Scratch::new();
        scratch.put(zigzag(value));
        scratch.as_slice().to_vec()
    }

    #[test]
    fn the_protocol_buffers_examples() {
        // The zig-zag table of the Protocol Buffers encoding page.
        for (value, bytes) in [(0, vec![0]), (-1, vec![1]), (1, vec![2]), (-2, vec![3]), (64, vec![0x80, 1])]
        {
            assert_eq!(encode(value), bytes);
        }
        assert_eq!(encode(i64::from(i32::MAX)), [0xfe, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(encode(i64::from(i32::MIN)), [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(encode(i64::MIN), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    #[test]
    fn a_number_too_large_for_its_type_is_refused() {
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint(), Err(Fault::Overlong));
        assert_eq!(Reader(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]).varint(), Err(Fault::Overlong));
        assert_eq!(Reader(&[0xff; 10]).varlong(), Err(Fault::Overlong));
        let mut two = [0xff; 10];
        two[9] = 2;
        assert_eq!(Reader(&two).varlong(), Err(Fault::Overlong));
        assert_eq!(Reader(&[0x80]).varint(), Err(Fault::Short));
    }

    #[test]
    fn a_length_below_null_is_refused() {
        assert_eq!(Reader(&encode(-2)).nullable(), Err(Fault::Negative));
        assert_eq!(Reader(&encode(-1)).nullable(), Ok(None));
        assert_eq!(Reader(&encode(-1)).length(), Err(Fault::Negative));
    }

    proptest! {
        #[test]
        fn packed_numbers_are_written_as_all_are(
            first in (0u32..21).prop_flat_map(|bits| 0u64..2 << bits),
            second in (0u32..21).prop_flat_map(|bits| 0u64..2 << bits),
            zero: bool,
        ) {
            let mut all = Scratch::new();
            let mut packed = Packed::of(first);
            all.put(first);
            if zero {
                packed = packed.then_zero();
                all.push(0);
            }
            packed = packed.then(Packed::of(second));
            all.put(second);
            prop_assert_eq!(&packed.bytes.to_le_bytes()[..packed.length], all.as_slice());
            prop_assert_eq!(packed.bytes >> (8 * packed.length), 0, "nothing behind them");
        }

        #[test]
        fn numbers_round_trip_and_cut_numbers_are_short(value: i64, narrow: i32, shift in 0u32..64) {
            let value = value >> shift;
            let bytes = encode(value);
            prop_assert_eq!(bytes.len(), encoded_len(zigzag(value)));
            prop_assert_eq!(Reader(&bytes).varlong(), Ok(value));
            let narrow = narrow >> (shift / 2);
            let bytes = encode(i64::from(narrow));
            prop_assert_eq!(Reader(&bytes).varint(), Ok(narrow));
            for end in 0..bytes.len() {
                prop_assert_eq!(Reader(&bytes[..end]).varint(), Err(Fault::Short));
            }
        }
    }
}
