//! Names of headers, borrowed and owned.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use bytes::Bytes;

/// The name of a header.
///
/// Kafka says that it is UTF-8, but no broker looks, and clients in C write what they are given. So it is bytes here, and all of them are
/// kept: a record with another name is as good as any. It compares with text, and is shown as text with U+FFFD for what is none, as Java
/// reads it.
///
/// ```
/// use milena_protocol::records::HeaderName;
///
/// let name = HeaderName::from("trace");
/// assert!(name == "trace" && name.to_str() == Ok("trace"));
/// assert_eq!(HeaderName::from(b"caf\xe9").to_string(), "caf\u{fffd}");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HeaderName<'a>(&'a [u8]);

impl<'a> HeaderName<'a> {
    /// The name of these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Its bytes, as they are in the record.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The name as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub const fn to_str(self) -> Result<&'a str, Utf8Error> {
        std::str::from_utf8(self.0)
    }

    /// The name as text, with U+FFFD for what is not UTF-8.
    #[must_use]
    pub fn to_string_lossy(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.0)
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Whether it has none, which Kafka allows.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for HeaderName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_string_lossy())
    }
}

impl fmt::Debug for HeaderName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl<'a> From<&'a str> for HeaderName<'a> {
    fn from(name: &'a str) -> Self {
        Self(name.as_bytes())
    }
}

impl<'a> From<&'a String> for HeaderName<'a> {
    fn from(name: &'a String) -> Self {
        Self(name.as_bytes())
    }
}

impl<'a> From<&'a [u8]> for HeaderName<'a> {
    fn from(name: &'a [u8]) -> Self {
        Self(name)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for HeaderName<'a> {
    fn from(name: &'a [u8; N]) -> Self {
        Self(name)
    }
}

impl<'a> From<&'a OwnedHeaderName> for HeaderName<'a> {
    fn from(name: &'a OwnedHeaderName) -> Self {
        name.as_name()
    }
}

impl PartialEq<str> for HeaderName<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for HeaderName<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

/// The name of a header with bytes of its own, or a share of others: a [`HeaderName`] that can be kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OwnedHeaderName(Bytes);

impl OwnedHeaderName {
    /// The name, borrowed.
    #[must_use]
    pub fn as_name(&self) -> HeaderName<'_> {
        HeaderName(&self.0)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn to_str(&self) -> Result<&str, Utf8Error> {
        self.as_name().to_str()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for OwnedHeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_name().fmt(f)
    }
}

impl fmt::Debug for OwnedHeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_name(), f)
    }
}

impl From<Bytes> for OwnedHeaderName {
    fn from(name: Bytes) -> Self {
        Self(name)
    }
}

impl From<HeaderName<'_>> for OwnedHeaderName {
    fn from(name: HeaderName<'_>) -> Self {
        Self(Bytes::copy_from_slice(name.0))
    }
}

impl From<&str> for OwnedHeaderName {
    fn from(name: &str) -> Self {
        HeaderName::from(name).into()
    }
}

impl From<&[u8]> for OwnedHeaderName {
    fn from(name: &[u8]) -> Self {
        HeaderName::from(name).into()
    }
}

impl From<String> for OwnedHeaderName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Vec<u8>> for OwnedHeaderName {
    fn from(name: Vec<u8>) -> Self {
        Self(name.into())
    }
}

impl PartialEq<str> for OwnedHeaderName {
    fn eq(&self, other: &str) -> bool {
        self.as_name() == other
    }
}

impl PartialEq<&str> for OwnedHeaderName {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}
