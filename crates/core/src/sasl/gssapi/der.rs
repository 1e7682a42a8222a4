//! DER, as much of it as Kerberos uses: definite lengths, single-byte tags.
//!
//! The reader is total and allocates nothing: every length is checked against what is left. Elements that a later revision of
//! the protocol may add at the end of a SEQUENCE are skipped, as RFC 4120 (its "..." markers) asks.
//!
//! # References
//! ITU-T X.690; RFC 4120, 5 and appendix A.

use zeroize::Zeroizing;

use super::error::{KerberosError, Result};

/// Tags that Kerberos uses.
pub(crate) mod tag {
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OBJECT_ID: u8 = 0x06;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const GENERAL_STRING: u8 = 0x1b;
    pub(crate) const SEQUENCE: u8 = 0x30;

    /// `[APPLICATION n]`, constructed.
    pub(crate) const fn application(number: u8) -> u8 {
        0x60 | number
    }

    /// `[n]`, constructed.
    pub(crate) const fn context(number: u8) -> u8 {
        0xa0 | number
    }
}

/// Reads elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The next element: its tag, its contents, and all of it.
    fn element(&mut self) -> Result<(u8, &'a [u8], &'a [u8])> {
        let cut = || KerberosError::peer("a Kerberos message is cut short");
        let (&tag, after) = self.rest.split_first().ok_or_else(cut)?;
        if tag & 0x1f == 0x1f {
            return Err(KerberosError::peer("a Kerberos message has a tag of several bytes"));
        }
        let (&first, after) = after.split_first().ok_or_else(cut)?;
        let (length, body) = match first {
            0..=0x7f => (usize::from(first), after),
            0x81..=0x84 => {
                let (digits, body) = after.split_at_checked(usize::from(first & 0x7f)).ok_or_else(cut)?;
                let length = digits.iter().fold(0u32, |length, &digit| (length << 8) | u32::from(digit));
                (usize::try_from(length).map_err(|_| cut())?, body)
            }
            _ => return Err(KerberosError::peer("a Kerberos message has a length that DER does not know")),
        };
        let (contents, rest) = body.split_at_checked(length).ok_or_else(cut)?;
        let whole = self.rest.get(..self.rest.len() - rest.len()).unwrap_or_default();
        self.rest = rest;
        Ok((tag, contents, whole))
    }

    /// The contents of the next element, which must have this tag.
    pub(crate) fn read(&mut self, wanted: u8) -> Result<&'a [u8]> {
        let (tag, contents, _) = self.element()?;
        if tag == wanted {
            return Ok(contents);
        }
        Err(KerberosError::peer(format!("a Kerberos message has tag {tag:#04x} in place of {wanted:#04x}")))
    }

    /// All of the next element, which must have this tag.
    pub(crate) fn read_whole(&mut self, wanted: u8) -> Result<&'a [u8]> {
        let mut ahead = *self;
        ahead.read(wanted)?;
        let (_, _, whole) = self.element()?;
        Ok(whole)
    }

    /// A reader of the next element's contents.
    pub(crate) fn enter(&mut self, wanted: u8) -> Result<Self> {
        self.read(wanted).map(Self::new)
    }

    /// The element inside of field `[number]`, which must come next.
    pub(crate) fn field(&mut self, number: u8) -> Result<Self> {
        self.optional(number)?.ok_or_else(|| {
            KerberosError::peer(format!("a Kerberos message lacks field {number} where it is needed"))
        })
    }

    /// The same for a field that may be absent.
    pub(crate) fn optional(&mut self, number: u8) -> Result<Option<Self>> {
        if self.peek() != Some(tag::context(number)) {
            return Ok(None);
        }
        self.enter(tag::context(number)).map(Some)
    }

    /// Fails if anything is left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(KerberosError::peer("a Kerberos message has bytes after its end"))
    }

    pub(crate) fn integer(&mut self) -> Result<i64> {
        let bytes = self.read(tag::INTEGER)?;
        let wrong = || KerberosError::peer("a Kerberos message has an INTEGER that is too large");
        let (&first, rest) = bytes.split_first().ok_or_else(wrong)?;
        if rest.len() > 7 {
            return Err(wrong());
        }
        let signed = i64::from(first as i8);
        Ok(rest.iter().fold(signed, |value, &byte| (value << 8) | i64::from(byte)))
    }

    /// An Int32 (RFC 4120, 5.2.4).
    pub(crate) fn int32(&mut self) -> Result<i32> {
        let value = self.integer()?;
        i32::try_from(value).map_err(|_| KerberosError::peer("a Kerberos message has an Int32 out of range"))
    }

    /// A UInt32; some peers send those above 2^31 as negative numbers.
    pub(crate) fn uint32(&mut self) -> Result<u32> {
        let value = self.integer()?;
        let unsigned = u32::try_from(value).ok();
        unsigned
            .or_else(|| i32::try_from(value).ok().map(|value| value as u32))
            .ok_or_else(|| KerberosError::peer("a Kerberos message has a UInt32 out of range"))
    }

    pub(crate) fn octets(&mut self) -> Result<&'a [u8]> {
        self.read(tag::OCTET_STRING)
    }

    /// A KerberosString. Others than UTF-8 are refused: names are compared and shown.
    pub(crate) fn string(&mut self) -> Result<&'a str> {
        let bytes = self.read(tag::GENERAL_STRING)?;
        std::str::from_utf8(bytes)
            .map_err(|_| KerberosError::peer("a Kerberos message has a name that is not UTF-8"))
    }

    /// KerberosFlags: the first 32 bits.
    pub(crate) fn flags(&mut self) -> Result<u32> {
        let bytes = self.read(tag::BIT_STRING)?;
        let (_unused, bits) =
            bytes.split_first().ok_or_else(|| KerberosError::peer("a Kerberos message has empty flags"))?;
        let padded = bits.iter().copied().chain(std::iter::repeat(0)).take(4);
        Ok(padded.fold(0, |flags, byte| (flags << 8) | u32::from(byte)))
    }
}

/// An element with these contents. What is built may hold keys, so it is wiped when it goes.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 6));
    bytes.push(tag);
    match u32::try_from(length).unwrap_or(u32::MAX) {
        short @ 0..=0x7f => bytes.push(short as u8),
        long => {
            let digits = long.to_be_bytes();
            let zeros = digits.iter().take_while(|digit| **digit == 0).count();
            bytes.push(0x80 | (4 - zeros) as u8);
            bytes.extend(digits.iter().skip(zeros));
        }
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    element(tag::SEQUENCE, parts)
}

pub(crate) fn field(number: u8, contents: &[u8]) -> Zeroizing<Vec<u8>> {
    element(tag::context(number), &[contents])
}

/// `field` of a value that may be absent: then nothing.
pub(crate) fn optional(number: u8, contents: Option<Zeroizing<Vec<u8>>>) -> Zeroizing<Vec<u8>> {
    contents.map(|contents| field(number, &contents)).unwrap_or_default()
}

pub(crate) fn integer(value: i64) -> Zeroizing<Vec<u8>> {
    let bytes = value.to_be_bytes();
    // A leading byte goes when the next one already shows the sign.
    let redundant = bytes
        .windows(2)
        .take_while(|pair| {
            matches!(pair, [0, next] if *next < 0x80) || matches!(pair, [0xff, next] if *next >= 0x80)
        })
        .count();
    element(tag::INTEGER, &[bytes.get(redundant..).unwrap_or_default()])
}

pub(crate) fn octets(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    element(tag::OCTET_STRING, &[bytes])
}

pub(crate) fn string(text: &str) -> Zeroizing<Vec<u8>> {
    element(tag::GENERAL_STRING, &[text.as_bytes()])
}

pub(crate) fn flags(bits: u32) -> Zeroizing<Vec<u8>> {
    element(tag::BIT_STRING, &[&[0], &bits.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_have_the_shortest_form() {
        for (value, bytes) in [
            (0, &[2, 1, 0][..]),
            (127, &[2, 1, 127]),
            (128, &[2, 2, 0, 128]),
            (-1, &[2, 1, 255]),
            (-128, &[2, 1, 128]),
            (-129, &[2, 2, 255, 127]),
            (0x1234_5678, &[2, 4, 0x12, 0x34, 0x56, 0x78]),
        ] {
            assert_eq!(integer(value).as_slice(), bytes);
        }
    }

    #[test]
    fn lengths_take_the_bytes_they_need() {
        for (length, head) in [(127, &[4, 127][..]), (128, &[4, 0x81, 128]), (256, &[4, 0x82, 1, 0])] {
            let bytes = octets(&vec![7; length]);
            assert!(bytes.starts_with(head));
            assert_eq!(Reader::new(&bytes).octets().unwrap().len(), length);
        }
    }

    #[test]
    fn lengths_beyond_the_message_and_without_end_are_refused() {
        for bytes in [
            &[4, 5, 1][..],
            &[4, 0x80, 0, 0],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[4, 0x85, 0, 0, 0, 0, 1],
            &[0x3f, 1, 0],
        ] {
            assert!(Reader::new(bytes).read(4).is_err());
        }
    }

    #[test]
    fn an_absent_field_is_named() {
        let bytes = sequence(&[&field(1, &integer(5))]);
        let mut inside = Reader::new(&bytes).enter(tag::SEQUENCE).unwrap();
        assert!(inside.optional(0).unwrap().is_none());
        assert_eq!(inside.field(1).unwrap().int32().unwrap(), 5);
        assert!(inside.field(2).unwrap_err().to_string().contains("field 2"));
    }

    proptest! {
        #[test]
        fn integers_come_back(value: i64) {
            prop_assert_eq!(Reader::new(&integer(value)).integer().unwrap(), value);
        }

        #[test]
        fn flags_come_back(bits: u32) {
            prop_assert_eq!(Reader::new(&flags(bits)).flags().unwrap(), bits);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.element().is_ok() {}
            let _ = (Reader::new(&bytes).integer(), Reader::new(&bytes).flags(), Reader::new(&bytes).string());
        }
    }
}
