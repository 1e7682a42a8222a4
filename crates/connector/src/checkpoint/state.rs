//! The codec of checkpoint contents: big-endian integers, length-prefixed bytes, tagged options.
//!
//! Each type that lives in a checkpoint writes itself with an [`Encoder`] and reads itself with a [`Decoder`]. The decoder is
//! total: any byte sequence gives a value or a [`StateError`] that names the byte, and no length found in the input makes it
//! allocate more than the input itself holds.
//!
//! Versions belong to the containers, not to the codec: whoever frames a value writes a version number first, and keeps
//! one `decode` per version for ever.

use std::fmt;

/// Why a piece of state could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateError {
    at: usize,
    what: String,
}

impl StateError {
    /// An error at a byte of the input, with what was expected there.
    #[must_use]
    pub fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }

    /// The byte at which reading failed, counted from the start of the decoder's input.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable state at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for StateError {}

/// The result of reading state.
pub type StateResult<T> = Result<T, StateError>;

/// Writes state into a growing buffer. Never fails.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    buf: Vec<u8>,
}

impl Encoder {
    /// An empty encoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One byte.
    pub fn put_u8(&mut self, value: u8) {
        self.buf.push(value);
    }

    /// A truth value as one byte, 0 or 1.
    pub fn put_bool(&mut self, value: bool) {
        self.buf.push(u8::from(value));
    }

    /// Two bytes.
    pub fn put_i16(&mut self, value: i16) {
        self.buf.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes.
    pub fn put_u32(&mut self, value: u32) {
        self.buf.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes.
    pub fn put_i32(&mut self, value: i32) {
        self.buf.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn put_u64(&mut self, value: u64) {
        self.buf.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn put_i64(&mut self, value: i64) {
        self.buf.extend_from_slice(&value.to_be_bytes());
    }

    /// A length (four bytes) and UTF-8 text.
    pub fn put_str(&mut self, value: &str) {
        self.put_bytes(value.as_bytes());
    }

    /// A length (four bytes) and that many bytes.
    ///
    /// # Panics
    /// For more than 4 GiB: no part of a checkpoint comes near.
    pub fn put_bytes(&mut self, value: &[u8]) {
        self.put_len(value.len());
        self.buf.extend_from_slice(value);
    }

    /// Bytes as they are, without a length.
    pub fn put_raw(&mut self, value: &[u8]) {
        self.buf.extend_from_slice(value);
    }

    /// One byte, 0 for none; for some, 1 and what `put` writes.
    pub fn put_opt<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.put_u8(0),
            Some(value) => {
                self.put_u8(1);
                put(self, value);
            }
        }
    }

    /// A count (four bytes) and what `put` writes for each item.
    pub fn put_list<I>(&mut self, items: I, mut put: impl FnMut(&mut Self, I::Item))
    where
        I: IntoIterator,
        I::IntoIter: ExactSizeIterator,
    {
        let items = items.into_iter();
        self.put_len(items.len());
        for item in items {
            put(self, item);
        }
    }

    fn put_len(&mut self, len: usize) {
        #[expect(clippy::expect_used, reason = "documented: no part of a checkpoint comes near 4 GiB")]
        let len = u32::try_from(len).expect("a part of a checkpoint is smaller than 4 GiB");
        self.put_u32(len);
    }

    /// The bytes written so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buf
    }

    /// The bytes, done.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buf
    }
}

/// Reads what an [`Encoder`] wrote. Total: it never panics, and never allocates by a number it read.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// A decoder at the start of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input, at: 0 }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The position, in bytes from the start.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// An error at the current position.
    #[must_use]
    pub fn error(&self, what: impl Into<String>) -> StateError {
        StateError::new(self.at, what)
    }

    /// Exactly `count` bytes, without a length.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn take_raw(&mut self, count: usize) -> StateResult<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.error(format!("{count} bytes expected, {} left", self.rest.len())));
        };
        self.rest = rest;
        self.at += count;
        Ok(head)
    }

    fn take_array<const N: usize>(&mut self) -> StateResult<[u8; N]> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.error(format!("{N} bytes expected, {} left", self.rest.len())));
        };
        self.rest = rest;
        self.at += N;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn take_u8(&mut self) -> StateResult<u8> {
        self.take_array().map(u8::from_be_bytes)
    }

    /// One byte that is 0 or 1.
    ///
    /// # Errors
    /// At the end of the input, or for another value.
    pub fn take_bool(&mut self) -> StateResult<bool> {
        match self.take_u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(StateError::new(self.at - 1, format!("0 or 1 expected, found {other}"))),
        }
    }

    /// Two bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn take_i16(&mut self) -> StateResult<i16> {
        self.take_array().map(i16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn take_u32(&mut self) -> StateResult<u32> {
        self.take_array().map(u32::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn take_i32(&mut self) -> StateResult<i32> {
        self.take_array().map(i32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn take_u64(&mut self) -> StateResult<u64> {
        self.take_array().map(u64::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn take_i64(&mut self) -> StateResult<i64> {
        self.take_array().map(i64::from_be_bytes)
    }

    /// A length and that many bytes, borrowed from the input.
    ///
    /// # Errors
    /// If the input ends before.
    pub fn take_bytes(&mut self) -> StateResult<&'a [u8]> {
        let len = self.take_u32()?;
        self.take_raw(len as usize)
    }

    /// A length and UTF-8 text, borrowed from the input.
    ///
    /// # Errors
    /// If the input ends before, or the bytes are not UTF-8.
    pub fn take_str(&mut self) -> StateResult<&'a str> {
        let start = self.at;
        let bytes = self.take_bytes()?;
        std::str::from_utf8(bytes).map_err(|_| StateError::new(start, "text is not UTF-8"))
    }

    /// An option written by [`Encoder::put_opt`].
    ///
    /// # Errors
    /// For a tag other than 0 and 1, or what `take` returns.
    pub fn take_opt<T>(&mut self, take: impl FnOnce(&mut Self) -> StateResult<T>) -> StateResult<Option<T>> {
        if self.take_bool()? { take(self).map(Some) } else { Ok(None) }
    }

    /// A list written by [`Encoder::put_list`]. Each item must take at least one byte.
    ///
    /// # Errors
    /// For a count that the remaining bytes cannot hold, or what `take` returns.
    pub fn take_list<T>(&mut self, mut take: impl FnMut(&mut Self) -> StateResult<T>) -> StateResult<Vec<T>> {
        let start = self.at;
        let count = self.take_u32()? as usize;
        if count > self.rest.len() {
            return Err(StateError::new(start, format!("{count} items in {} bytes", self.rest.len())));
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(take(self)?);
        }
        Ok(items)
    }

    /// The end: everything must have been read.
    ///
    /// # Errors
    /// If bytes are left.
    pub fn finish(self) -> StateResult<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.error(format!("{} bytes left over", self.rest.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Sample = (u8, bool, i16, u32, i64, String, Vec<u8>, Option<i32>, Vec<String>);

    fn encode(sample: &Sample) -> Vec<u8> {
        let mut out = Encoder::new();
        out.put_u8(sample.0);
        out.put_bool(sample.1);
        out.put_i16(sample.2);
        out.put_u32(sample.3);
        out.put_i64(sample.4);
        out.put_str(&sample.5);
        out.put_bytes(&sample.6);
        out.put_opt(sample.7, Encoder::put_i32);
        out.put_list(&sample.8, |out, text| out.put_str(text));
        out.finish()
    }

    fn decode(input: &[u8]) -> StateResult<Sample> {
        let mut from = Decoder::new(input);
        let sample = (
            from.take_u8()?,
            from.take_bool()?,
            from.take_i16()?,
            from.take_u32()?,
            from.take_i64()?,
            from.take_str()?.to_owned(),
            from.take_bytes()?.to_vec(),
            from.take_opt(Decoder::take_i32)?,
            from.take_list(|from| from.take_str().map(str::to_owned))?,
        );
        from.finish()?;
        Ok(sample)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(sample: Sample) {
            prop_assert_eq!(decode(&encode(&sample)).unwrap(), sample);
        }

        #[test]
        fn every_cut_is_an_error(sample: Sample) {
            let bytes = encode(&sample);
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut]).is_err(), "cut at {} of {}", cut, bytes.len());
            }
        }

        #[test]
        fn no_input_makes_it_panic(input: Vec<u8>) {
            let _ = decode(&input);
        }
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_anything_is_read() {
        let mut out = Encoder::new();
        out.put_u32(u32::MAX);
        let error = Decoder::new(out.as_bytes()).take_list(Decoder::take_u8).unwrap_err();
        assert_eq!(error.at(), 0);
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        assert!(Decoder::new(&[1]).finish().is_err());
    }
}
