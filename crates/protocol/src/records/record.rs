//! A record and its headers, borrowed and owned.

use super::header_name::{HeaderName, OwnedHeaderName};
use super::varint::{Fault, Reader};
use crate::types::Offset;
use bytes::Bytes;

/// A record as it lies in its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its position in the partition.
    pub offset: Offset,
    /// Milliseconds since 1970, set by the producer or the broker (see [`TimestampType`](super::TimestampType)); -1
    /// for none.
    pub timestamp: i64,
    /// The key; `None` (null) is not the same as an empty one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` (null) is a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers in their order.
    pub headers: Headers<'a>,
}

/// A header of a record (KIP-82).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header<'a> {
    /// The name. Several headers of a record may have the same.
    pub name: HeaderName<'a>,
    /// The value; `None` (null) is not the same as an empty one.
    pub value: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// A header of this name and value.
    #[must_use]
    pub fn new(name: impl Into<HeaderName<'a>>, value: Option<&'a [u8]>) -> Self {
        Self { name: name.into(), value }
    }
}

/// The headers of a record: order and duplicates as they were written. Checked when the record was read.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    encoded: &'a [u8],
    count: u32,
}

impl<'a> Headers<'a> {
    /// No headers.
    pub const EMPTY: Self = Self { encoded: &[], count: 0 };

    /// Checks `count` headers and steps over them.
    #[inline(never)]
    pub(super) fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self, Fault> {
        let start = reader.0;
        for _ in 0..count {
            reader.length().and_then(|length| reader.take(length))?;
            reader.nullable()?;
        }
        let length = start.len() - reader.0.len();
        Ok(Self { encoded: start.get(..length).unwrap_or_default(), count: count as u32 })
    }

    /// The headers as they lie in the record, and how many they are: for [`of_encoded`](Self::of_encoded).
    #[must_use]
    pub const fn encoded(&self) -> (&'a [u8], u32) {
        (self.encoded, self.count)
    }

    /// Headers that were read before, from their bytes. Of other bytes it gives those headers that can be read.
    #[must_use]
    pub const fn of_encoded(encoded: &'a [u8], count: u32) -> Self {
        Self { encoded, count }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in their order.
    #[must_use]
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { reader: Reader(self.encoded), left: self.count }
    }

    /// The value of the last header of a name, as Kafka's `Headers.lastHeader`. The outer `None`: there is no such
    /// header.
    #[must_use]
    pub fn last<'n>(&self, name: impl Into<HeaderName<'n>>) -> Option<Option<&'a [u8]>> {
        let name = name.into();
        self.iter().filter(|header| header.name == name).last().map(|header| header.value)
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = Header<'a>;
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

impl PartialEq for Headers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers<'_> {}

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Reads the headers of a record.
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> HeaderIter<'a> {
    fn read(&mut self) -> Option<Header<'a>> {
        let name = self.reader.length().and_then(|length| self.reader.take(length)).ok()?;
        let value = self.reader.nullable().ok()?;
        Some(Header { name: HeaderName::new(name), value })
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = Header<'a>;

    #[inline]
    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Never `None` here: the headers were read through once.
        self.read()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}
impl std::iter::FusedIterator for HeaderIter<'_> {}

/// A record that owns its bytes, or shares them with the batch it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedRecord {
    /// Its position in the partition.
    pub offset: Offset,
    /// Milliseconds since 1970; -1 for none.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    /// Names and values of the headers, in their order.
    pub headers: Vec<(OwnedHeaderName, Option<Bytes>)>,
}

impl OwnedRecord {
    /// The headers as borrowed views, as a [`BatchBuilder`](super::BatchBuilder) takes them.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = Header<'_>> {
        self.headers.iter().map(|(name, value)| Header::new(name, value.as_deref()))
    }
}
