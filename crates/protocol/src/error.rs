//! What can be wrong with bytes.

use std::borrow::Cow;
use std::fmt;

/// The result of reading or writing protocol data.
pub type Result<T> = std::result::Result<T, ProtocolError>;

/// What kind of fault it is; it says what a caller can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes end too early.
    Truncated,
    /// The bytes, or the values to be written, break the format.
    Malformed,
    /// The guard refused a frame before it was decoded: it is malformed, or would cost too much memory.
    Guard,
    /// A version, API or format that is not spoken here, or not by the peer.
    Unsupported,
    /// A checksum does not match: the data was damaged.
    Crc,
    /// A compression codec failed.
    Codec,
    /// Larger than the stated limit.
    TooLarge,
}

/// Bytes that cannot be read, or values that cannot be written.
///
/// One pointer wide. Says what is wrong and, where known, at which byte and in which field.
#[derive(Clone)]
pub struct ProtocolError(Box<Fault>);

#[derive(Clone)]
struct Fault {
    kind: ErrorKind,
    at: Option<usize>,
    field: Option<&'static str>,
    text: Cow<'static, str>,
}

impl ProtocolError {
    /// An error of a kind, with one line that says what is wrong.
    pub fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Fault { kind, at: None, field: None, text: text.into() }))
    }

    /// [`ErrorKind::Truncated`].
    pub fn truncated(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Truncated, text)
    }

    /// [`ErrorKind::Malformed`].
    pub fn malformed(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Malformed, text)
    }

    /// [`ErrorKind::Unsupported`].
    pub fn unsupported(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, text)
    }

    /// [`ErrorKind::Codec`].
    pub fn codec(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Codec, text)
    }

    /// [`ErrorKind::TooLarge`].
    pub fn too_large(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::TooLarge, text)
    }

    /// Names the byte, counted from the start of what was read.
    #[must_use]
    pub fn with_at(mut self, at: usize) -> Self {
        self.0.at = Some(at);
        self
    }

    /// Names the field.
    #[must_use]
    pub fn with_field(mut self, field: &'static str) -> Self {
        self.0.field = Some(field);
        self
    }

    /// What kind of fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is wrong, without the byte and the field.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.text
    }

    /// The byte at which reading failed, counted from the start of what was read, if known.
    #[must_use]
    pub fn at(&self) -> Option<usize> {
        self.0.at
    }

    /// The field in which reading failed, if known, as in Kafka's schema but in snake case.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        match (self.0.field, self.0.at) {
            (Some(field), Some(at)) => write!(f, " (field {field}, byte {at})"),
            (Some(field), None) => write!(f, " (field {field})"),
            (None, Some(at)) => write!(f, " (byte {at})"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_and_one_line() {
        assert_eq!(size_of::<ProtocolError>(), size_of::<usize>());
        let error = ProtocolError::truncated("the frame ends").with_field("brokers").with_at(9);
        assert_eq!(error.to_string(), "the frame ends (field brokers, byte 9)");
        assert_eq!(error.reason(), "the frame ends");
        assert_eq!(format!("{error:?}"), "Truncated: the frame ends (field brokers, byte 9)");
        assert_eq!(
            (error.kind(), error.at(), error.field()),
            (ErrorKind::Truncated, Some(9), Some("brokers"))
        );
    }
}
