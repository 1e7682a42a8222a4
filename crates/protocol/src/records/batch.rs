//! A record batch: a view over its bytes, with the header parsed.

use super::control::ControlRecord;
use super::header::{BatchHeader, measure};
use super::iter::{Frame, RecordIter, Records, share};
use super::layout::{self, HEADER_LEN};
use super::message_set::{self, Set};
use crate::compression::{self, Compression, DEFAULT_MAX_DECOMPRESSED};
use crate::error::{ErrorKind, ProtocolError, Result};
use bytes::{Buf, Bytes};
use std::fmt;
use std::ops::Deref;

/// One batch of records: its bytes, and its header, checked and parsed.
///
/// That is a batch of Kafka's format 2 (magic 2, KIP-98), or one message of a set of format 0 or 1, which counts as a
/// batch of its own. A message that wraps compressed ones is a batch of those. What a format does not have is absent:
/// see the methods.
///
/// Nothing of the records is read until [`records`](Self::records). Cloning shares the bytes.
#[derive(Clone)]
pub struct RecordBatch {
    bytes: Bytes,
    header: BatchHeader,
    /// Whether messages inside a wrapper are held against their own checksums.
    inner_crcs: bool,
    /// What it may decompress to, in bytes.
    most: usize,
}

impl RecordBatch {
    /// Splits one batch off the front of some bytes.
    ///
    /// `None` means that they are empty or end inside a batch, which is legal at the end of a fetch: the broker
    /// cuts at the size it was asked for (KIP-74). What is left is cleared then. The checksum is not verified:
    /// see [`verify_crc`](Self::verify_crc).
    ///
    /// # Errors
    /// `Unsupported` for another format than 0, 1 and 2, an unknown codec, or one that the format does not have;
    /// `Malformed` for a header that contradicts itself. The bytes are left as they were.
    pub fn parse(bytes: &mut Bytes) -> Result<Option<Self>> {
        match measure(bytes)? {
            Some(whole) => {
                let header = BatchHeader::parse(bytes)?;
                Ok(Some(Self {
                    bytes: bytes.split_to(whole),
                    header,
                    inner_crcs: true,
                    most: DEFAULT_MAX_DECOMPRESSED,
                }))
            }
            None => {
                bytes.advance(bytes.len());
                Ok(None)
            }
        }
    }

    /// The bytes of the batch, from its base offset to its last record.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Size of the batch in bytes, header included, as it lies in the log (that is, compressed).
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Verifies the checksum: in format 2 CRC-32C over everything but offset, length and leader epoch, in formats 0
    /// and 1 CRC-32 over everything but offset and size.
    ///
    /// The messages in a wrapper have checksums too, which this does not look at. They are verified as the records are
    /// read, unless [`skip_inner_crcs`](Self::skip_inner_crcs) was called.
    ///
    /// # Errors
    /// `Crc` if the batch was damaged.
    pub fn verify_crc(&self) -> Result<()> {
        verify_crc(&self.header, &self.bytes)
    }

    /// Leaves the checksums of messages inside a wrapper of formats 0 and 1 unverified, for readers that verify none
    /// (Java's `check.crcs=false`).
    pub fn skip_inner_crcs(&mut self) {
        self.inner_crcs = false;
    }

    /// Lets the records decompress to so many bytes at most; at first it is [`DEFAULT_MAX_DECOMPRESSED`].
    pub fn set_max_decompressed(&mut self, max: usize) {
        self.most = max;
    }

    /// What the records may decompress to, in bytes.
    #[must_use]
    pub fn max_decompressed(&self) -> usize {
        self.most
    }

    /// What the batch says if it is a control batch; `None` for a batch of users' records, and for a control
    /// batch that compaction has emptied.
    ///
    /// # Errors
    /// As [`records`](Self::records), and `Malformed` for a control record that cannot be read; `TooLarge` for a
    /// compressed one that holds more than 64 KiB.
    pub fn control(&self) -> Result<Option<ControlRecord>> {
        self.borrowed().control()
    }

    /// The same batch, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> BatchRef<'_> {
        BatchRef { bytes: &self.bytes, header: self.header }
    }

    /// The records, decompressed if need be up to [`max_decompressed`](Self::max_decompressed) bytes. Control batches
    /// have records too: skip them by [`is_control`](BatchHeader::is_control).
    ///
    /// # Errors
    /// `Codec` if they do not decompress, `TooLarge` if they decompress to more; `Malformed` for a wrapper without
    /// messages, or whose messages do not fit its offset.
    pub fn records(&self) -> Result<Records> {
        self.records_capped(self.most)
    }

    /// [`records`](Self::records) with a limit of one's own for the decompressed size, in bytes. Records that are
    /// not compressed are shared, not copied, so the limit does not concern them.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub fn records_capped(&self, max: usize) -> Result<Records> {
        self.records_by(|codec, packed| {
            match self.header.magic {
                layout::MAGIC => compression::decompress(codec, packed, max),
                _ => compression::decompress_message_set(codec, packed, max),
            }
            .map(Bytes::from)
        })
    }

    /// [`records_capped`](Self::records_capped) with memory of the caller's for what is decompressed: `out`, whose old bytes are written
    /// over, becomes the buffer of the records by `own`. Neither is used if nothing is compressed.
    ///
    /// # Errors
    /// As [`records`](Self::records).
    pub fn records_in(
        &self,
        max: usize,
        mut out: Vec<u8>,
        own: impl FnOnce(Vec<u8>) -> Bytes,
    ) -> Result<Records> {
        self.records_by(|codec, packed| {
            match self.header.magic {
                layout::MAGIC => compression::decompress_into(codec, packed, max, &mut out)?,
                _ => compression::decompress_message_set_into(codec, packed, max, &mut out)?,
            }
            Ok(own(out))
        })
    }

    fn records_by(&self, unpack: impl FnOnce(Compression, &[u8]) -> Result<Bytes>) -> Result<Records> {
        if self.header.magic != layout::MAGIC {
            return message_set::records(&self.bytes, &self.header, self.inner_crcs, unpack);
        }
        let body = self.bytes.slice(HEADER_LEN.min(self.bytes.len())..);
        let buffer = match self.header.compression {
            Compression::None => body,
            // An emptied batch has no payload, not even an empty one the codec could read.
            _ if body.is_empty() && self.header.record_count == 0 => body,
            codec => unpack(codec, &body)?,
        };
        Ok(Records::new(buffer, Frame::new(&self.header, self.timestamp_type())))
    }
}

impl Deref for RecordBatch {
    type Target = BatchHeader;

    fn deref(&self) -> &BatchHeader {
        &self.header
    }
}

/// A batch in borrowed bytes: a [`RecordBatch`] that shares nothing, for readers who look at many small ones.
#[derive(Clone, Copy)]
pub struct BatchRef<'a> {
    bytes: &'a [u8],
    header: BatchHeader,
}

impl<'a> BatchRef<'a> {
    /// Splits one batch off the front of some bytes, as [`RecordBatch::parse`].
    ///
    /// # Errors
    /// As [`RecordBatch::parse`].
    #[inline]
    pub fn parse(bytes: &mut &'a [u8]) -> Result<Option<Self>> {
        let whole = measure(bytes)?;
        let Some((batch, rest)) = whole.and_then(|whole| bytes.split_at_checked(whole)) else {
            *bytes = &[];
            return Ok(None);
        };
        let header = BatchHeader::parse(batch)?;
        *bytes = rest;
        Ok(Some(Self { bytes: batch, header }))
    }

    /// The bytes of the batch, from its base offset to its last record.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Verifies the checksum, as [`RecordBatch::verify_crc`].
    ///
    /// # Errors
    /// `Crc` if the batch was damaged.
    pub fn verify_crc(&self) -> Result<()> {
        verify_crc(&self.header, self.bytes)
    }

    /// The records, if they lie here as they are; `None` if they are compressed.
    #[inline]
    #[must_use]
    pub fn plain_records(&self) -> Option<RecordIter<'a>> {
        let packed = self.header.compression != Compression::None;
        if self.header.magic != layout::MAGIC {
            let alone = Set::alone(self.header.base_offset);
            return (!packed).then(|| RecordIter::over(self.bytes, Frame::default(), Some(alone)));
        }
        let body = self.bytes.get(HEADER_LEN..).unwrap_or_default();
        if packed && !(body.is_empty() && self.header.record_count == 0) {
            return None;
        }
        Some(RecordIter::over(body, Frame::new(&self.header, self.header.timestamp_type()), None))
    }

    /// What the batch says if it is a control batch, as [`RecordBatch::control`].
    ///
    /// # Errors
    /// As [`RecordBatch::control`].
    pub fn control(&self) -> Result<Option<ControlRecord>> {
        if !self.is_control() {
            return Ok(None);
        }
        let first = match self.plain_records() {
            Some(mut records) => records.next().map(|record| ControlRecord::parse(&record?)),
            None => {
                let records = self.share(&Bytes::new()).records_capped(MAX_CONTROL)?;
                records.iter().next().map(|record| ControlRecord::parse(&record?))
            }
        };
        first.transpose()
    }

    /// The same batch as a share of the buffer that it lies in. Of another buffer it becomes a copy.
    #[must_use]
    pub fn share(&self, buffer: &Bytes) -> RecordBatch {
        RecordBatch {
            bytes: share(buffer, self.bytes),
            header: self.header,
            inner_crcs: true,
            most: DEFAULT_MAX_DECOMPRESSED,
        }
    }
}

impl Deref for BatchRef<'_> {
    type Target = BatchHeader;

    fn deref(&self) -> &BatchHeader {
        &self.header
    }
}

impl fmt::Debug for BatchRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "BatchRef", &self.header, self.bytes.len())
    }
}

/// What a control batch may decompress to. Its records have a few bytes, and brokers compress none of them.
const MAX_CONTROL: usize = 64 * 1024;

#[inline]
fn verify_crc(header: &BatchHeader, bytes: &[u8]) -> Result<()> {
    let computed = if header.magic == layout::MAGIC {
        crc32c::crc32c(bytes.get(layout::CRC_FROM..).unwrap_or_default())
    } else {
        message_set::checksum(bytes.get(message_set::CRC_FROM..).unwrap_or_default())
    };
    if computed == header.crc { Ok(()) } else { Err(damaged(header, computed)) }
}

#[cold]
fn damaged(header: &BatchHeader, computed: u32) -> ProtocolError {
    let at = if header.magic == layout::MAGIC { layout::CRC.start } else { message_set::CRC.start };
    ProtocolError::new(
        ErrorKind::Crc,
        format!(
            "the batch at offset {} is damaged: its checksum is {:08x}, its bytes give {computed:08x}",
            header.base_offset, header.crc
        ),
    )
    .with_field("crc")
    .with_at(at)
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "RecordBatch", &self.header, self.bytes.len())
    }
}

fn describe(f: &mut fmt::Formatter<'_>, name: &str, header: &BatchHeader, bytes: usize) -> fmt::Result {
    f.debug_struct(name)
        .field("magic", &header.magic)
        .field("base_offset", &header.base_offset)
        .field("last_offset", &header.last_offset().0)
        .field("record_count", &header.record_count)
        .field("compression", &header.compression)
        .field("transactional", &header.is_transactional())
        .field("control", &header.is_control())
        .field("producer_id", &header.producer_id())
        .field("len_bytes", &bytes)
        .finish_non_exhaustive()
}

/// The batches that lie one after another in some bytes, as a Fetch answers them, in any mix of formats. See
/// [`Batches`].
#[must_use]
pub fn batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// Iterates the batches in some bytes. Ends at a partial batch, and after an error.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// The bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = RecordBatch::parse(&mut self.rest).transpose();
        if let Some(Err(_)) = batch {
            self.rest.clear();
        }
        batch
    }
}

impl std::iter::FusedIterator for Batches {}
