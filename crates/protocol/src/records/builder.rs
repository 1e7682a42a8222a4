//! Building a batch record by record.

use super::frozen::FrozenBatch;
use super::header::TimestampType;
use super::layout::{self, HEADER_LEN, attributes};
use super::record::Header;
use super::varint::{MAX_VARINT, MAX_VARLONG, Packed, Scratch, encoded_len, zigzag};
use crate::compression::{self, Compression};
use crate::error::{ProtocolError, Result};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use bytes::Bytes;

/// How a batch is to be written. The default is no compression and times set by the producer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BatchOptions {
    /// The codec for the records.
    pub compression: Compression,
    /// The codec's level; `None` is the codec's default. See [`Compression::check_level`].
    pub level: Option<i32>,
    /// What the timestamps mean. A producer writes [`TimestampType::CreateTime`]; with
    /// [`TimestampType::LogAppendTime`] the largest time pushed becomes the time of all records.
    pub timestamp_type: TimestampType,
}

/// Who wrote a batch, and where it lies. The default is a producer without idempotence, before the broker gave the
/// batch an offset: the wire's -1 everywhere, and offset 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchIdentity {
    /// The producer's id; -1 for none.
    pub producer_id: ProducerId,
    /// The producer's epoch; -1 for none.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of the first record; -1 for none.
    pub base_sequence: Sequence,
    /// Whether the batch is part of a transaction.
    pub transactional: bool,
    /// The partition leader's epoch; -1 until a broker sets it.
    pub leader_epoch: LeaderEpoch,
    /// The offset of the first record; 0 until a broker sets it.
    pub base_offset: Offset,
}

impl Default for BatchIdentity {
    fn default() -> Self {
        Self {
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            base_sequence: Sequence(-1),
            transactional: false,
            leader_epoch: LeaderEpoch(-1),
            base_offset: Offset(0),
        }
    }
}

/// The largest batch that can be written, in bytes: its length is an `i32`.
pub const MAX_BATCH_LEN: usize = i32::MAX as usize;

/// Whether the numbers of a record without headers have three bytes at most.
#[inline(always)]
fn are_short(delta: u64, index: u32, data: usize) -> bool {
    // Four times: the length of the record is the largest number, and it is doubled.
    (delta | u64::from(index) << 1 | (data as u64).saturating_mul(4)) < Packed::LIMIT
}

/// Builds one batch, record by record.
///
/// A record is encoded once, straight into the batch's buffer; nothing is allocated per record but what the buffer
/// needs to grow. The header is written when the batch is [frozen](Self::freeze), and compression happens there.
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records, up to `end`; then what was written there before, so that nothing has to be cleared to write to it.
    buffer: Vec<u8>,
    end: usize,
    /// The headers of the record at hand: its length has to stand before them.
    headers: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self::with_buffer(options, Vec::new())
    }

    /// An empty batch in the memory of a buffer whose content no longer matters (see [`FrozenBatch::reclaim`]).
    #[must_use]
    pub fn with_buffer(options: BatchOptions, mut buffer: Vec<u8>) -> Self {
        match buffer.get_mut(..HEADER_LEN) {
            Some(header) => header.fill(0),
            None => {
                buffer.clear();
                buffer.resize(HEADER_LEN, 0);
            }
        }
        Self {
            options,
            buffer,
            end: HEADER_LEN,
            headers: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
        }
    }

    /// Appends a record and returns its index in the batch, from 0.
    ///
    /// `timestamp` is in milliseconds since 1970, -1 for none; `None` for key or value is null.
    ///
    /// # Errors
    /// `TooLarge` if the batch would exceed [`MAX_BATCH_LEN`] or `i32::MAX` records, or if the times of its records
    /// lie further apart than 64 bits. The batch is unchanged then.
    #[inline]
    pub fn push<'h>(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = Header<'h>>,
    ) -> Result<u32> {
        let index = self.count;
        let base = if index == 0 { timestamp } else { self.base_timestamp };
        let Some(delta) = timestamp.checked_sub(base) else { return Err(far_apart(base, timestamp)) };
        let header_count = self.encode_headers(headers);
        if header_count > 0 || !self.push_short(zigzag(delta), index, key, value) {
            self.push_any(zigzag(delta), index, key, value, header_count)?;
        }
        self.base_timestamp = base;
        self.max_timestamp = if index == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        self.count = index + 1;
        Ok(index)
    }

    /// Appends records by [`Run::push`], for which `bytes` are set aside; the batch stays within `limit` bytes and the memory that it has.
    /// Returns how many were appended. Several records cost a good deal less so than by [`push`](Self::push), since what is known of the batch
    /// stays in registers.
    #[inline]
    pub fn push_run(&mut self, limit: usize, bytes: usize, write: impl FnOnce(&mut Run<'_>)) -> u32 {
        let bytes = bytes.min(limit.min(self.most()).saturating_sub(self.end));
        if !self.is_ready(bytes) {
            return 0;
        }
        let mut run = Run {
            place: Place {
                bytes: self.buffer.get_mut(..self.end + bytes).unwrap_or_default(),
                end: self.end,
            },
            index: self.count,
            base: self.base_timestamp,
            max: self.max_timestamp,
        };
        write(&mut run);
        let Run { place: Place { end, .. }, index, base, max } = run;
        let pushed = index - self.count;
        self.end = end;
        (self.count, self.base_timestamp, self.max_timestamp) = (index, base, max);
        pushed
    }

    /// Appends what most records are: without headers, all numbers of three bytes at most, and with room in the buffer. Returns whether it
    /// was that.
    #[inline(always)]
    fn push_short(&mut self, delta: u64, index: u32, key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
        let data = data_len(key).saturating_add(data_len(value));
        if !are_short(delta, index, data) || !self.is_ready(data + Packed::MOST) {
            return false;
        }
        let mut place = Place { bytes: &mut self.buffer, end: self.end };
        let written = place.put(delta, index, key, value, data).is_some();
        self.end = place.end;
        written
    }

    /// How long the batch can become in the memory that it has.
    #[inline]
    fn most(&self) -> usize {
        self.buffer.capacity().min(MAX_BATCH_LEN)
    }

    /// Whether so many bytes can be written without more memory.
    #[inline(always)]
    fn is_ready(&mut self, bytes: usize) -> bool {
        self.buffer.len() - self.end >= bytes || self.prepare(bytes)
    }

    #[cold]
    #[inline(never)]
    fn prepare(&mut self, bytes: usize) -> bool {
        let most = self.most();
        if most.saturating_sub(self.end) < bytes {
            return false;
        }
        // Memory that is used for the first time. Not for each record, and not all at once: the batch may remain small.
        self.buffer.resize((self.end + bytes.max(PREPARED)).min(most), 0);
        true
    }

    /// Appends any record; its headers are encoded already.
    fn push_any(
        &mut self,
        delta: u64,
        index: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        header_count: usize,
    ) -> Result<()> {
        let numbers = Numbers {
            timestamp: delta,
            offset: zigzag(i64::from(index)),
            key: zigzag(wire_len(key)),
            value: zigzag(wire_len(value)),
            headers: zigzag(header_count as i64),
        };
        let body = numbers
            .len()
            .saturating_add(data_len(key))
            .saturating_add(data_len(value))
            .saturating_add(self.headers.len());
        if body > MAX_BATCH_LEN - MAX_VARINT - self.end.min(MAX_BATCH_LEN - MAX_VARINT)
            || index >= i32::MAX as u32
        {
            return Err(full(self.end, body, index));
        }
        self.buffer.truncate(self.end);
        self.buffer.reserve(MAX_VARINT + body);

        let mut scratch = Scratch::new();
        scratch.put(zigzag(body as i64));
        scratch.push(0);
        scratch.put(numbers.timestamp);
        scratch.put(numbers.offset);
        scratch.put(numbers.key);
        if let Some(key) = key {
            self.buffer.extend_from_slice(scratch.as_slice());
            self.buffer.extend_from_slice(key);
            scratch.clear();
        }
        scratch.put(numbers.value);
        if let Some(value) = value {
            self.buffer.extend_from_slice(scratch.as_slice());
            self.buffer.extend_from_slice(value);
            scratch.clear();
        }
        scratch.put(numbers.headers);
        self.buffer.extend_from_slice(scratch.as_slice());
        if header_count > 0 {
            self.buffer.extend_from_slice(&self.headers);
        }
        self.end = self.buffer.len();
        Ok(())
    }

    /// Encodes headers aside and counts them.
    #[inline]
    fn encode_headers<'h>(&mut self, headers: impl IntoIterator<Item = Header<'h>>) -> usize {
        self.headers.clear();
        let mut count = 0;
        for header in headers {
            count += 1;
            let mut scratch = Scratch::new();
            scratch.put(zigzag(header.name.len() as i64));
            self.headers.extend_from_slice(scratch.as_slice());
            self.headers.extend_from_slice(header.name.as_bytes());
            scratch.clear();
            scratch.put(zigzag(wire_len(header.value)));
            self.headers.extend_from_slice(scratch.as_slice());
            self.headers.extend_from_slice(header.value.unwrap_or_default());
        }
        count
    }

    /// How many bytes a record takes at most, whatever its place in the batch. For the first record of a batch, add
    /// [`HEADER_LEN`].
    #[must_use]
    pub fn record_size_upper_bound<'h>(
        key_len: usize,
        value_len: usize,
        headers: impl IntoIterator<Item = Header<'h>>,
    ) -> usize {
        // Record length, offset delta, key length, value length and header count; attributes; timestamp delta.
        let numbers = 5 * MAX_VARINT + 1 + MAX_VARLONG;
        headers.into_iter().fold(numbers.saturating_add(key_len).saturating_add(value_len), |sum, header| {
            sum.saturating_add(2 * MAX_VARINT)
                .saturating_add(header.name.len())
                .saturating_add(header.value.map_or(0, <[u8]>::len))
        })
    }

    /// How many records it has.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.count
    }

    /// Size in bytes before compression, header included.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.end
    }

    /// Whether nothing was pushed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The largest time pushed, in milliseconds since 1970; -1 if nothing was.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// How the batch is written.
    #[must_use]
    pub fn options(&self) -> BatchOptions {
        self.options
    }

    /// The memory the batch holds, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity() + self.headers.capacity()
    }

    /// Gives up the batch for its memory, whose content no longer matters.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Finishes the batch for one identity: [`freeze`](Self::freeze) and stamp in one step.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn build(self, identity: BatchIdentity) -> Result<Bytes> {
        let mut frozen = self.freeze()?;
        frozen.identify(&identity);
        Ok(frozen.into_bytes())
    }

    /// Compresses the records and writes the header, so that only the identity can still change.
    ///
    /// # Errors
    /// `Malformed` for a batch without records, which no broker takes; `Codec` if compression fails; `Unsupported`
    /// for a level the codec does not have; `TooLarge` if the compressed batch exceeds [`MAX_BATCH_LEN`].
    pub fn freeze(self) -> Result<FrozenBatch> {
        self.freeze_with(Vec::new()).map(|(frozen, _)| frozen)
    }

    /// [`freeze`](Self::freeze) that compresses into the memory of `spare`, and returns the buffer left over: for
    /// callers who build batch after batch. Without compression that is `spare` itself.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_with(self, mut spare: Vec<u8>) -> Result<(FrozenBatch, Vec<u8>)> {
        if self.count == 0 {
            return Err(ProtocolError::malformed("a batch without records").with_field("record_count"));
        }
        let codec = self.options.compression;
        let mut records = self.buffer;
        let (mut bytes, left) = if codec == Compression::None {
            records.truncate(self.end);
            (records, spare)
        } else {
            spare.clear();
            spare.resize(HEADER_LEN, 0);
            let plain = records.get(HEADER_LEN..self.end).unwrap_or_default();
            compression::compress(codec, self.options.level, plain, &mut spare)?;
            if spare.len() > MAX_BATCH_LEN {
                return Err(full(spare.len(), 0, self.count));
            }
            (spare, records)
        };
        let timestamps = match self.options.timestamp_type {
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => attributes::LOG_APPEND_TIME,
        };
        patch_header(
            &mut bytes,
            codec.code() | timestamps,
            self.count,
            self.base_timestamp,
            self.max_timestamp,
        );
        Ok((FrozenBatch::new(bytes, self.count, self.max_timestamp), left))
    }
}

/// How much memory that was never written to is made ready at a time, in bytes.
const PREPARED: usize = 4096;

/// The length of null, zig-zagged: -1.
const NULL: u64 = 1;

/// The zig-zagged numbers of one record.
struct Numbers {
    timestamp: u64,
    offset: u64,
    key: u64,
    value: u64,
    headers: u64,
}

impl Numbers {
    /// Their encoded size, and one byte of attributes.
    #[inline(always)]
    const fn len(&self) -> usize {
        1 + encoded_len(self.timestamp)
            + encoded_len(self.offset)
            + encoded_len(self.key)
            + encoded_len(self.value)
            + encoded_len(self.headers)
    }
}

#[inline(always)]
fn wire_len(data: Option<&[u8]>) -> i64 {
    data.map_or(-1, |data| data.len() as i64)
}

/// Records that are appended one after the other: see [`BatchBuilder::push_run`].
#[derive(Debug)]
pub struct Run<'b> {
    place: Place<'b>,
    index: u32,
    base: i64,
    max: i64,
}

impl Run<'_> {
    /// How many bytes are to be set aside for a record, at most.
    #[inline]
    #[must_use]
    pub fn bytes(key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
        data_len(key).saturating_add(data_len(value)).saturating_add(Packed::MOST)
    }

    /// Appends a record without headers. Returns `false`, and nothing is appended, if too little was set aside or the record is not one that most
    /// are: its numbers small, its time near the first one's. It is for [`BatchBuilder::push`] then.
    #[inline(always)]
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
        let (base, max) = match self.index {
            0 => (timestamp, timestamp),
            _ => (self.base, self.max.max(timestamp)),
        };
        let data = data_len(key).saturating_add(data_len(value));
        let delta = timestamp.checked_sub(base).map_or(u64::MAX, zigzag);
        if !are_short(delta, self.index, data)
            || self.place.put(delta, self.index, key, value, data).is_none()
        {
            return false;
        }
        (self.index, self.base, self.max) = (self.index + 1, base, max);
        true
    }
}

/// Where short records are written.
#[derive(Debug)]
struct Place<'b> {
    bytes: &'b mut [u8],
    end: usize,
}

impl Place<'_> {
    /// Writes a record [of short numbers](are_short); `None`, and it does not count as written, if there is too little room.
    #[inline(always)]
    fn put(
        &mut self,
        delta: u64,
        index: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        data: usize,
    ) -> Option<()> {
        let length = |data: Option<&[u8]>| Packed::of(data.map_or(NULL, |data| (data.len() as u64) << 1));
        let (delta, offset) = (Packed::of(delta), Packed::of(u64::from(index) << 1));
        let (key_len, value_len) = (length(key), length(value));
        // Attributes and header count are a byte each.
        let numbers = delta.length + offset.length + key_len.length + value_len.length + 2;
        let mut end = self.end;
        self.write(&mut end, Packed::of(((numbers + data) as u64) << 1).then_zero().then(delta))?;
        let packed = offset.then(key_len);
        match key {
            Some(key) => {
                self.write(&mut end, packed)?;
                self.copy(&mut end, key)?;
                self.write(&mut end, value_len)?;
            }
            None => self.write(&mut end, packed.then(value_len))?,
        }
        if let Some(value) = value {
            self.copy(&mut end, value)?;
        }
        // No headers.
        *self.bytes.get_mut(end)? = 0;
        self.end = end + 1;
        Some(())
    }

    #[inline(always)]
    fn write(&mut self, end: &mut usize, packed: Packed) -> Option<()> {
        *self.bytes.get_mut(*end..)?.first_chunk_mut()? = packed.bytes.to_le_bytes();
        *end += packed.length;
        Some(())
    }

    #[inline(always)]
    fn copy(&mut self, end: &mut usize, data: &[u8]) -> Option<()> {
        self.bytes.get_mut(*end..*end + data.len())?.copy_from_slice(data);
        *end += data.len();
        Some(())
    }
}

#[inline(always)]
fn data_len(data: Option<&[u8]>) -> usize {
    data.map_or(0, <[u8]>::len)
}

#[cold]
#[inline(never)]
fn far_apart(base: i64, timestamp: i64) -> ProtocolError {
    ProtocolError::too_large(format!("the times {base} and {timestamp} are too far apart for one batch"))
        .with_field("timestamp_delta")
}

#[cold]
#[inline(never)]
fn full(size: usize, record: usize, count: u32) -> ProtocolError {
    ProtocolError::too_large(format!(
        "a batch of {size} bytes and {count} records has no room for another {record} bytes: the format ends at {MAX_BATCH_LEN} of either"
    ))
    .with_field("batch_length")
}

/// Writes everything of a header but identity and checksum. `bytes` is the whole batch.
pub(super) fn patch_header(
    bytes: &mut [u8],
    attributes: i16,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
) {
    // In range: the builder refuses more than `i32::MAX` bytes or records.
    let length = bytes.len().saturating_sub(layout::PREFIX_LEN) as i32;
    layout::put(bytes, &layout::LENGTH, &length.to_be_bytes());
    layout::put(bytes, &(layout::MAGIC_AT..layout::MAGIC_AT + 1), &[layout::MAGIC]);
    layout::put(bytes, &layout::ATTRIBUTES, &attributes.to_be_bytes());
    layout::put(bytes, &layout::LAST_OFFSET_DELTA, &(count.saturating_sub(1) as i32).to_be_bytes());
    layout::put(bytes, &layout::BASE_TIMESTAMP, &base_timestamp.to_be_bytes());
    layout::put(bytes, &layout::MAX_TIMESTAMP, &max_timestamp.to_be_bytes());
    layout::put(bytes, &layout::RECORD_COUNT, &(count as i32).to_be_bytes());
}

/// Writes an identity into a header, checksum excepted.
pub(super) fn identify(bytes: &mut [u8], identity: &BatchIdentity) {
    layout::put(bytes, &layout::BASE_OFFSET, &identity.base_offset.0.to_be_bytes());
    layout::put(bytes, &layout::LEADER_EPOCH, &identity.leader_epoch.0.to_be_bytes());
    layout::put(bytes, &layout::PRODUCER_ID, &identity.producer_id.0.to_be_bytes());
    layout::put(bytes, &layout::PRODUCER_EPOCH, &identity.producer_epoch.0.to_be_bytes());
    layout::put(bytes, &layout::BASE_SEQUENCE, &identity.base_sequence.0.to_be_bytes());
    if let Ok(old) = layout::bytes_at(bytes, &layout::ATTRIBUTES).map(i16::from_be_bytes) {
        let bit = if identity.transactional { attributes::TRANSACTIONAL } else { 0 };
        let new = old & !attributes::TRANSACTIONAL | bit;
        layout::put(bytes, &layout::ATTRIBUTES, &new.to_be_bytes());
    }
}

/// Writes the identity and the checksum: the batch is whole after it.
pub(super) fn seal(bytes: &mut [u8], identity: &BatchIdentity) {
    identify(bytes, identity);
    let crc = crc32c::crc32c(bytes.get(layout::CRC_FROM..).unwrap_or_default());
    layout::put(bytes, &layout::CRC, &crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl BatchBuilder {
        fn written(&self) -> &[u8] {
            &self.buffer[..self.end]
        }
    }

    fn data() -> impl Strategy<Value = Option<Vec<u8>>> {
        let length = prop_oneof![0usize..140, 8000usize..8400, 200_000usize..300_000];
        proptest::option::of(length.prop_map(|length| vec![length as u8; length]))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn a_short_record_is_written_as_any_is(
            delta in prop_oneof![0u64..300, (1u64 << 20)..(1 << 22), any::<u64>()],
            index in prop_oneof![0u32..300, 8000u32..8400, (1u32 << 19)..(1 << 21)],
            key in data(),
            value in data(),
            room in prop_oneof![Just(1usize << 20), 0usize..400],
        ) {
            let (key, value) = (key.as_deref(), value.as_deref());
            let mut short = BatchBuilder::with_buffer(BatchOptions::default(), Vec::with_capacity(HEADER_LEN + room));
            let mut any = BatchBuilder::new(BatchOptions::default());
            let capacity = short.capacity();
            let written = short.push_short(delta, index, key, value);
            any.push_any(delta, index, key, value, 0).unwrap();
            let small = delta < 1 << 21 && index < 1 << 20 && data_len(key) + data_len(value) < 1 << 19;
            prop_assert_eq!(written, small && room >= data_len(key) + data_len(value) + Packed::MOST);
            prop_assert_eq!(short.capacity(), capacity, "the buffer did not grow");
            if written {
                prop_assert_eq!(short.written(), any.written());
            } else {
                prop_assert!(short.is_empty() && short.size_bytes() == HEADER_LEN, "nothing was written");
            }
        }

        #[test]
        fn a_run_is_written_as_its_records_one_by_one(
            records in proptest::collection::vec((prop_oneof![4 => 0i64..300, 1 => any::<i64>()], data(), data()), 1..40),
            old in proptest::collection::vec(any::<u8>(), 0..4000),
            room in prop_oneof![Just(1usize << 21), 0usize..4000],
            limit in prop_oneof![Just(usize::MAX), 0usize..4000],
            aside in prop_oneof![Just(usize::MAX), 0usize..2000],
        ) {
            // Memory in which something was written before.
            let mut memory = Vec::with_capacity((HEADER_LEN + room).max(old.len()));
            memory.extend_from_slice(&old);
            let mut many = BatchBuilder::with_buffer(BatchOptions::default(), memory);
            let mut single = BatchBuilder::new(BatchOptions::default());
            let mut rest = &records[..];
            while let Some((time, key, value)) = rest.first() {
                let (before, capacity) = (many.size_bytes(), many.capacity());
                let count = many.push_run(limit, aside, |run| {
                    let mut pushed = rest.iter().take_while(|(time, key, value)| run.push(*time, key.as_deref(), value.as_deref()));
                    pushed.by_ref().for_each(drop);
                });
                prop_assert_eq!(many.capacity(), capacity, "the buffer did not grow");
                prop_assert!(many.size_bytes() <= limit.max(before));
                prop_assert!(many.size_bytes() - before <= aside);
                let (run, left) = rest.split_at(count as usize);
                for (time, key, value) in run {
                    single.push(*time, key.as_deref(), value.as_deref(), []).unwrap();
                }
                rest = left;
                if count == 0 {
                    let one = many.push(*time, key.as_deref(), value.as_deref(), []);
                    prop_assert_eq!(one.is_ok(), single.push(*time, key.as_deref(), value.as_deref(), []).is_ok());
                    rest = &rest[1..];
                }
                prop_assert_eq!(many.written(), single.written());
                prop_assert_eq!((many.record_count(), many.max_timestamp()), (single.record_count(), single.max_timestamp()));
            }
            if !single.is_empty() {
                let built = many.build(BatchIdentity::default()).unwrap();
                prop_assert_eq!(built, single.build(BatchIdentity::default()).unwrap());
            }
        }
    }
}
