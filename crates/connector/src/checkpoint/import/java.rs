//! What Java's `DataOutput`, Flink's serializers and Kryo write.

use crate::checkpoint::state::{Decoder, StateError, StateResult};

/// Text of `DataOutput.writeUTF`: a length in two bytes, and UTF-8 in which NUL takes two bytes and characters outside of the
/// basic plane are two surrogates of three bytes each.
pub(super) fn take_utf(from: &mut Decoder<'_>) -> StateResult<String> {
    let start = from.at();
    let length = from.take_i16()?.cast_unsigned();
    let bytes = from.take_raw(usize::from(length))?;
    modified_utf8(bytes).ok_or_else(|| StateError::new(start, "text is not modified UTF-8"))
}

fn modified_utf8(bytes: &[u8]) -> Option<String> {
    let mut from = Decoder::new(bytes);
    let mut units = Vec::new();
    while from.remaining() > 0 {
        units.push(take_unit(&mut from)?);
    }
    String::from_utf16(&units).ok()
}

/// One UTF-16 unit of one to three bytes.
fn take_unit(from: &mut Decoder<'_>) -> Option<u16> {
    let first = from.take_u8().ok()?;
    let mut follow =
        || from.take_u8().ok().filter(|byte| byte & 0xc0 == 0x80).map(|byte| u16::from(byte & 0x3f));
    match first {
        0x00..=0x7f => Some(u16::from(first)),
        0xc0..=0xdf => Some(u16::from(first & 0x1f) << 6 | follow()?),
        0xe0..=0xef => Some(u16::from(first & 0x0f) << 12 | follow()? << 6 | follow()?),
        _ => None,
    }
}

/// Text as Kryo 2 writes it: ASCII of 2 to 63 characters as it is, the last byte marked; everything else behind the number of
/// its UTF-16 units plus one, whose first byte is marked. Null is an error.
pub(super) fn take_kryo_string(from: &mut Decoder<'_>) -> StateResult<String> {
    let start = from.at();
    let wrong = || StateError::new(start, "text is not Kryo's");
    let first = from.take_u8()?;
    if first & 0x80 == 0 {
        let mut text = String::from(char::from(first));
        loop {
            let byte = from.take_u8()?;
            text.push(char::from(byte & 0x7f));
            if byte & 0x80 != 0 {
                return Ok(text);
            }
        }
    }
    let mut length = u64::from(first & 0x3f);
    let (mut more, mut shift) = (first & 0x40 != 0, 6);
    while more {
        let byte = from.take_u8()?;
        length |= u64::from(byte & 0x7f) << shift;
        (more, shift) = (byte & 0x80 != 0, shift + 7);
        if shift > 34 {
            return Err(wrong());
        }
    }
    let length = length.checked_sub(1).ok_or_else(wrong)?;
    if length > from.remaining() as u64 {
        return Err(from.error(format!("{length} characters in {} bytes", from.remaining())));
    }
    let units: Option<Vec<u16>> = (0..length).map(|_| take_unit(from)).collect();
    units.and_then(|units| String::from_utf16(&units).ok()).ok_or_else(wrong)
}

/// A number in groups of seven bits, lowest first; at most 32 bits.
pub(super) fn take_varint(from: &mut Decoder<'_>) -> StateResult<u32> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = from.take_u8()?;
        let bits = u32::from(byte & 0x7f);
        if shift == 28 && bits > 0x0f {
            return Err(from.error("a number of more than 32 bits"));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(from.error("a number of more than five bytes"))
}

/// Takes off what `SimpleVersionedSerialization` puts around each state: its version and its length, four bytes each. Several
/// may follow one another, as elements of a list state do.
///
/// # Errors
/// If a length is more than is left, and for input without any state.
pub fn versioned(bytes: &[u8]) -> StateResult<Vec<(i32, &[u8])>> {
    let mut from = Decoder::new(bytes);
    let mut states = Vec::new();
    loop {
        let version = from.take_i32()?;
        states.push((version, from.take_bytes()?));
        if from.remaining() == 0 {
            return Ok(states);
        }
    }
}

/// Flink's counts are signed; each item takes at least a byte.
pub(super) fn take_count(from: &mut Decoder<'_>) -> StateResult<usize> {
    let count = from.take_i32()?;
    match usize::try_from(count) {
        Ok(count) if count <= from.remaining() => Ok(count),
        _ => Err(from.error(format!("{count} items in {} bytes", from.remaining()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What Java's `writeUTF` makes of a text.
    pub(crate) fn utf(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for unit in text.encode_utf16() {
            match unit {
                0x01..=0x7f => bytes.push(unit as u8),
                0x00 | 0x80..=0x7ff => bytes.extend([0xc0 | (unit >> 6) as u8, 0x80 | (unit & 0x3f) as u8]),
                _ => bytes.extend([
                    0xe0 | (unit >> 12) as u8,
                    0x80 | (unit >> 6 & 0x3f) as u8,
                    0x80 | (unit & 0x3f) as u8,
                ]),
            }
        }
        let mut all = (bytes.len() as u16).to_be_bytes().to_vec();
        all.extend(bytes);
        all
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
            let bytes = utf(&text);
            let mut from = Decoder::new(&bytes);
            prop_assert_eq!(take_utf(&mut from).unwrap(), text);
            prop_assert!(from.finish().is_ok());
        }

        #[test]
        fn no_input_makes_them_panic(bytes: Vec<u8>) {
            let _ = take_utf(&mut Decoder::new(&bytes));
            let _ = take_kryo_string(&mut Decoder::new(&bytes));
            let _ = take_varint(&mut Decoder::new(&bytes));
            let _ = versioned(&bytes);
            let _ = take_count(&mut Decoder::new(&bytes));
        }
    }

    #[test]
    fn states_follow_one_another_behind_their_version_and_length() {
        let framed = [0, 0, 0, 3, 0, 0, 0, 2, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(versioned(&framed).unwrap(), [(3, &[7, 8][..]), (0, &[][..])]);
        assert_eq!(versioned(&framed[..10]).unwrap().len(), 1);
        for cut in (0..10).chain(11..18) {
            assert!(versioned(&framed[..cut]).is_err(), "cut at {cut}");
        }
    }
}
