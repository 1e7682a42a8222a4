//! Bytes and text as people can read them.

use std::fmt;

/// Bytes: in quotes if they are text that can be read, else in hexadecimal; cut if long.
pub(super) struct Shown<'a> {
    pub(super) bytes: Option<&'a [u8]>,
    pub(super) max: usize,
}

/// Hexadecimal, cut if long.
pub(super) struct Hex<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) max: usize,
}

/// Text in quotes, cut if long.
pub(super) struct Quoted<'a> {
    pub(super) text: &'a str,
    pub(super) max: usize,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.max;
        match self.bytes {
            None => f.write_str("null"),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if readable(text) => Quoted { text, max }.fmt(f),
                _ => Hex { bytes, max }.fmt(f),
            },
        }
    }
}

fn readable(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        for byte in self.bytes.iter().take(self.max) {
            write!(f, "{byte:02x}")?;
        }
        cut(f, self.bytes.len(), self.bytes.len() > self.max)
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.text.floor_char_boundary(self.max.min(self.text.len()));
        let kept = self.text.get(..end).unwrap_or_default();
        write!(f, "\"{}\"", kept.escape_debug())?;
        cut(f, self.text.len(), end < self.text.len())
    }
}

fn cut(f: &mut fmt::Formatter<'_>, length: usize, cut: bool) -> fmt::Result {
    if cut { write!(f, "… ({length} bytes)") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_if_they_can_be_read_and_hexadecimal_if_not() {
        let shown = |bytes: &[u8], max| Shown { bytes: Some(bytes), max }.to_string();
        assert_eq!(shown(b"", 8), "\"\"");
        assert_eq!(shown(b"say \"hi\"\n", 99), "\"say \\\"hi\\\"\\n\"");
        assert_eq!(shown("grüße".as_bytes(), 99), "\"grüße\"");
        // Cut before the character that does not fit whole.
        assert_eq!(shown("grüße".as_bytes(), 3), "\"gr\"… (7 bytes)");
        assert_eq!(shown(b"a\0b", 99), "0x610062");
        assert_eq!(shown(&[0xff; 5], 2), "0xffff… (5 bytes)");
        assert_eq!(Shown { bytes: None, max: 9 }.to_string(), "null");
    }
}
