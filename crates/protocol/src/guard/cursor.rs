//! The place in a frame up to which it was read, and the checked steps from there.
//!
//! What the guard's walk and the readers of hot messages share: both refuse the same bytes for the same reasons.

/// Why a frame was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// The frame ends inside of a field.
    Short,
    /// A length below -1.
    Negative,
    /// Null where the version does not allow it.
    Null,
    /// More elements than the remaining bytes can hold.
    Count,
    /// A varint of more than 32 bits.
    Varint,
    /// A nullable struct that is neither absent (-1) nor present (1).
    Presence,
    /// Tags that do not ascend, are above `i32::MAX`, or belong to a field the version lacks.
    Tag,
    /// A tagged field that does not fill its stated size.
    TagSize,
    /// Text that is not UTF-8.
    Utf8,
    /// Bytes after the end.
    Trailing,
    /// Decoding could take more memory than allowed.
    Memory,
}

impl Why {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Short => "the frame ends too early",
            Self::Negative => "a length is negative",
            Self::Null => "null where the version has none",
            Self::Count => "a count is larger than the frame can hold",
            Self::Varint => "a varint has more than 32 bits",
            Self::Presence => "a struct is neither present nor absent",
            Self::Tag => "a tag is out of order or not of this version",
            Self::TagSize => "a tagged field does not have its stated size",
            Self::Utf8 => "a string is not UTF-8",
            Self::Trailing => "bytes follow the end",
            Self::Memory => "decoding would take more memory than its size allows",
        }
    }
}

/// What is left of a frame, or of the tagged field being read. Every step takes bytes from it or fails and takes none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    /// Bytes of the frame after `rest`: none, except inside of a tagged field.
    after: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame, after: 0 }
    }

    /// What is left of the frame, or of the tagged field.
    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes left of the frame, or of the tagged field.
    #[inline]
    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Bytes left of the frame, whatever is being read.
    pub(crate) const fn left_of_frame(&self) -> usize {
        self.rest.len() + self.after
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn skip(&mut self, length: u32) -> Result<&'a [u8], Why> {
        let length = usize::try_from(length).map_err(|_| Why::Short)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Why::Short)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Why::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, Why> {
        let [first] = self.take()?;
        if first < 0x80 { Ok(first.into()) } else { self.long_varint(first) }
    }

    fn long_varint(&mut self, first: u8) -> Result<u32, Why> {
        let mut value = u32::from(first & 0x7f);
        for shift in [7, 14, 21, 28] {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if shift == 28 && byte > 0x0f { Err(Why::Varint) } else { Ok(value) };
            }
        }
        Err(Why::Varint)
    }

    /// A length or a count: a varint of one more when compact, else 16 bits for text or 32. `None` is null.
    #[inline]
    pub(crate) fn length(&mut self, compact: bool, text: bool) -> Result<Option<u32>, Why> {
        if compact {
            return Ok(self.varint()?.checked_sub(1));
        }
        let length =
            if text { i16::from_be_bytes(self.take()?).into() } else { i32::from_be_bytes(self.take()?) };
        match length {
            -1 => Ok(None),
            length => u32::try_from(length).map(Some).map_err(|_| Why::Negative),
        }
    }

    /// So many bytes of UTF-8.
    #[inline]
    pub(crate) fn text(&mut self, length: u32) -> Result<&'a str, Why> {
        std::str::from_utf8(self.skip(length)?).map_err(|_| Why::Utf8)
    }

    /// Reads so many bytes as if nothing followed them, until [`Cursor::leave`] is given what this returns.
    pub(crate) fn enter(&mut self, size: u32) -> Result<&'a [u8], Why> {
        let inner = self.skip(size)?;
        let outer = std::mem::replace(&mut self.rest, inner);
        self.after += outer.len();
        Ok(outer)
    }

    /// Ends what [`Cursor::enter`] began; all of it must have been read.
    pub(crate) fn leave(&mut self, outer: &'a [u8]) -> Result<(), Why> {
        if !self.rest.is_empty() {
            return Err(Why::TagSize);
        }
        self.after -= outer.len();
        self.rest = outer;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reader of frames stands on these steps, so comparing one with another would not show a mistake in them.
    #[test]
    fn a_varint_has_at_most_32_bits_in_at_most_5_bytes() {
        let read = |bytes: &[u8]| {
            let mut cursor = Cursor::new(bytes);
            cursor.varint().map(|value| (value, cursor.left()))
        };
        assert_eq!(read(&[0]), Ok((0, 0)));
        assert_eq!(read(&[0x7f, 9]), Ok((127, 1)));
        assert_eq!(read(&[0x80, 0x01]), Ok((128, 0)));
        assert_eq!(read(&[0xff, 0xff, 0x7f, 9]), Ok((0x1f_ffff, 1)));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok((u32::MAX, 0)));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x00]), Ok((0, 0)));
        for fifth in 0x10..=0x7f {
            assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, fifth]), Err(Why::Varint), "{fifth:#x}");
        }
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]), Err(Why::Varint));
        for length in 0..5 {
            assert_eq!(read(&[0x80; 5][..length]), Err(Why::Short));
        }
    }

    #[test]
    fn a_length_is_null_negative_or_right_in_each_of_its_forms() {
        let read = |bytes: &[u8], compact, text| Cursor::new(bytes).length(compact, text);
        assert_eq!(read(&[0], true, false), Ok(None));
        assert_eq!(read(&[1], true, true), Ok(Some(0)));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f], true, true), Ok(Some(u32::MAX - 1)));
        assert_eq!(read(&[0xff, 0xff], false, true), Ok(None));
        assert_eq!(read(&[0xff, 0xfe], false, true), Err(Why::Negative));
        assert_eq!(read(&[0x80, 0], false, true), Err(Why::Negative));
        assert_eq!(read(&[0x7f, 0xff], false, true), Ok(Some(0x7fff)));
        assert_eq!(read(&[0xff; 4], false, false), Ok(None));
        assert_eq!(read(&[0x80, 0, 0, 0], false, false), Err(Why::Negative));
        assert_eq!(read(&[0x7f, 0xff, 0xff, 0xff], false, false), Ok(Some(0x7fff_ffff)));
        assert_eq!(read(&[0, 0, 0], false, false), Err(Why::Short));
    }

    #[test]
    fn a_step_that_fails_takes_nothing() {
        let mut cursor = Cursor::new(&[1, 2, 0xff]);
        assert_eq!(cursor.skip(4), Err(Why::Short));
        assert_eq!(cursor.take::<4>(), Err(Why::Short));
        assert_eq!(cursor.skip(2), Ok(&[1, 2][..]));
        assert_eq!(cursor.left(), 1);
        assert_eq!(cursor.text(1), Err(Why::Utf8));
    }

    #[test]
    fn a_tagged_field_sees_its_own_bytes_and_must_use_them() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4, 5]);
        let outer = cursor.enter(3).unwrap();
        assert_eq!((cursor.left(), cursor.left_of_frame()), (3, 5));
        assert_eq!(cursor.skip(4), Err(Why::Short));
        assert_eq!(cursor.skip(2), Ok(&[1, 2][..]));
        assert_eq!(cursor.leave(outer), Err(Why::TagSize));
        assert_eq!(cursor.left_of_frame(), 3);
        assert_eq!(cursor.skip(1), Ok(&[3][..]));
        cursor.leave(outer).unwrap();
        assert_eq!((cursor.left(), cursor.left_of_frame()), (2, 2));
        assert_eq!(cursor.enter(3), Err(Why::Short));
    }
}
