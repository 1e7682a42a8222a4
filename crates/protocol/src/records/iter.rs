//! The records of one batch, read lazily as borrowed views.

use super::header::{BatchHeader, TimestampType};
use super::message_set::{Set, SetIter};
use super::quick::Quick;
use super::record::{Headers, OwnedRecord, Record};
use super::varint::{Fault, Reader};
use crate::error::{ProtocolError, Result};
use crate::types::Offset;
use bytes::Bytes;

/// What the records of a batch share: they carry only their distances from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frame {
    base_offset: i64,
    last_offset_delta: u32,
    count: u32,
    /// Added to each record's timestamp delta...
    base_timestamp: i64,
    /// ...of which this mask keeps everything, or nothing when all records have one time.
    delta_mask: i64,
}

impl Frame {
    pub(super) fn new(header: &BatchHeader, timestamps: TimestampType) -> Self {
        let (base_timestamp, delta_mask) = match timestamps {
            TimestampType::CreateTime => (header.base_timestamp, -1),
            TimestampType::LogAppendTime => (header.max_timestamp, 0),
        };
        Self {
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            count: header.record_count,
            base_timestamp,
            delta_mask,
        }
    }
}

/// The records of one batch, decompressed. Owns (or shares) the bytes; the records are read by [`iter`](Self::iter).
#[derive(Clone, Debug)]
pub struct Records {
    buffer: Bytes,
    /// Of no records if they are messages of a set.
    frame: Frame,
    set: Option<Set>,
}

impl Records {
    pub(super) fn new(buffer: Bytes, frame: Frame) -> Self {
        Self { buffer, frame, set: None }
    }

    pub(super) fn of_set(buffer: Bytes, set: Set) -> Self {
        Self { buffer, frame: Frame::default(), set: Some(set) }
    }

    /// Reads the records from the first on.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter::over(&self.buffer, self.frame, self.set)
    }

    /// The bytes of the records, decompressed. In formats 0 and 1 those are messages with their offsets and sizes.
    #[must_use]
    pub fn buffer(&self) -> &Bytes {
        &self.buffer
    }

    /// How many records the batch promises. In formats 0 and 1 they were counted.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.set.map_or(self.frame.count, |set| set.count())
    }

    /// Makes a record of this batch its own owner: key, value and headers become slices of the shared buffer, so nothing is copied. It keeps
    /// the whole buffer alive. A record of another batch is copied instead.
    #[must_use]
    pub fn own(&self, record: &Record<'_>) -> OwnedRecord {
        let share = |bytes: &[u8]| share(&self.buffer, bytes);
        OwnedRecord {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(share),
            value: record.value.map(share),
            headers: record
                .headers
                .iter()
                .map(|header| (share(header.name.as_bytes()).into(), header.value.map(share)))
                .collect(),
        }
    }
}

/// A slice of a buffer as a share of it; a copy if it lies elsewhere.
pub(super) fn share(buffer: &Bytes, bytes: &[u8]) -> Bytes {
    // `Bytes::slice_ref` would panic for bytes that lie elsewhere, so the place is checked by hand.
    let start = (bytes.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize);
    match start.checked_add(bytes.len()) {
        Some(end) if end <= buffer.len() => buffer.slice(start..end),
        _ => Bytes::copy_from_slice(bytes),
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = Result<Record<'a>>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

/// Reads the records of one batch in order. Ends after an error.
///
/// Checks what Kafka promises: each record takes exactly its stated length, offsets go up and stay within the
/// batch, there are as many records as the header says, and nothing follows them; for messages inside a wrapper of
/// formats 0 and 1 also their checksums. A wrapper at offset 0 may come from a producer that left the offsets to the
/// broker, so they are given as they stand there, not below 0.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    reader: Reader<'a>,
    /// Length of all records, from which the place of a fault is told.
    whole: usize,
    left: u32,
    /// The smallest offset delta the next record may have.
    least_delta: i64,
    frame: Frame,
    /// Set for messages of formats 0 and 1; `left` is 0 from the start then, so that a record of format 2 does not
    /// pay for the question.
    set: Option<SetIter>,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.next_common() {
            return Some(Ok(record));
        }
        // Taken apart and put together: a record that was read the quick way then stays in registers.
        match self.uncommon() {
            Some(Ok(Record { offset, timestamp, key, value, headers })) => {
                Some(Ok(Record { offset, timestamp, key, value, headers }))
            }
            Some(Err(error)) => Some(Err(error)),
            None => None,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if let Some(set) = &self.set {
            // Counted, not promised.
            return (0, Some(set.left() as usize));
        }
        // Each record takes seven bytes at least, so a false count cannot make a caller reserve much.
        let most = (self.left as usize).min(self.reader.0.len() / 7 + 1);
        (0, Some(most))
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

/// Where an iterator stands, without borrowing anything; see [`RecordIter::resume`].
#[derive(Clone, Debug)]
pub struct RecordMark {
    at: usize,
    left: u32,
    least_delta: i64,
    set: Option<SetIter>,
}

impl<'a> RecordIter<'a> {
    /// The records in these bytes.
    #[inline]
    pub(super) fn over(bytes: &'a [u8], frame: Frame, set: Option<Set>) -> Self {
        Self {
            reader: Reader(bytes),
            whole: bytes.len(),
            left: frame.count,
            least_delta: 0,
            frame,
            set: set.map(SetIter::new),
        }
    }

    /// Goes to where another iterator over the same records stood; this one must not have been moved. A mark of other records gives
    /// errors, or records that are none; it cannot do harm.
    #[must_use]
    pub fn resume(self, mark: &RecordMark) -> Self {
        Self {
            reader: Reader(self.reader.0.get(mark.at..).unwrap_or_default()),
            left: mark.left,
            least_delta: mark.least_delta,
            set: mark.set.clone(),
            ..self
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn mark(&self) -> RecordMark {
        RecordMark {
            at: self.whole - self.reader.0.len().min(self.whole),
            left: self.left,
            least_delta: self.least_delta,
            set: self.set.clone(),
        }
    }
}

/// Where in a record reading stopped, and why.
struct Stop {
    fault: Reason,
    field: &'static str,
    /// Bytes of the record not read yet; `None` while its length is being read.
    unread: usize,
}

enum Reason {
    Read(Fault),
    Trailing,
    Offset(i32),
    Timestamp,
}

impl<'a> RecordIter<'a> {
    #[cold]
    #[inline(never)]
    fn uncommon(&mut self) -> Option<Result<Record<'a>>> {
        if self.left == 0 {
            return self.beyond();
        }
        Some(match self.careful() {
            Ok(record) => {
                self.left -= 1;
                Ok(record)
            }
            Err(at) => Err(self.fail(at)),
        })
    }

    /// The next record if it is as nearly all are: short numbers, nothing wrong. `None`: nothing was read, and [`next`](Iterator::next)
    /// tells what comes.
    ///
    /// For iterators around this one. A record that goes from one `Result` into another goes through memory, piece by piece in and in
    /// larger pieces out, which costs as much as all else; a record that comes from here stays in registers.
    #[inline(always)]
    pub fn next_common(&mut self) -> Option<Record<'a>> {
        if self.left == 0 {
            return None;
        }
        let quick = Quick::read(self.reader.0)?;
        let delta = quick.offset_delta;
        if delta < self.least_delta || delta > i64::from(self.frame.last_offset_delta) {
            return None;
        }
        let timestamp =
            self.frame.base_timestamp.checked_add(quick.timestamp_delta & self.frame.delta_mask)?;
        self.reader = Reader(quick.rest);
        self.left -= 1;
        self.least_delta = delta + 1;
        // Cannot overflow: the header was refused unless base + last delta + 1 is an offset.
        let offset = Offset(self.frame.base_offset.wrapping_add(delta));
        Some(Record { offset, timestamp, key: quick.key, value: quick.value, headers: quick.headers })
    }

    fn careful(&mut self) -> std::result::Result<Record<'a>, Stop> {
        let mut reader = self.reader;
        let stop = |fault, field, unread: &Reader<'_>| Stop {
            fault: Reason::Read(fault),
            field,
            unread: unread.0.len(),
        };
        let length = reader.length().map_err(|fault| stop(fault, "length", &reader))?;
        let mut body = Reader(reader.take(length).map_err(|fault| stop(fault, "length", &reader))?);
        // What of the buffer lies behind this record; makes `unread` count to the end of the buffer.
        let behind = reader.0.len();
        let stop =
            |reason, field, body: &Reader<'_>| Stop { fault: reason, field, unread: body.0.len() + behind };
        body.byte().map_err(|fault| stop(Reason::Read(fault), "attributes", &body))?;
        let timestamp_delta =
            body.varlong().map_err(|fault| stop(Reason::Read(fault), "timestamp_delta", &body))?;
        let offset_delta = body.varint().map_err(|fault| stop(Reason::Read(fault), "offset_delta", &body))?;
        let key = body.nullable().map_err(|fault| stop(Reason::Read(fault), "key", &body))?;
        let value = body.nullable().map_err(|fault| stop(Reason::Read(fault), "value", &body))?;
        let header_count = body.length().map_err(|fault| stop(Reason::Read(fault), "header_count", &body))?;
        let headers = if header_count == 0 {
            Headers::EMPTY
        } else {
            let mut end = body;
            let headers = Headers::read(&mut end, header_count)
                .map_err(|fault| stop(Reason::Read(fault), "headers", &end))?;
            body = end;
            headers
        };
        if !body.0.is_empty() {
            return Err(stop(Reason::Trailing, "record", &body));
        }
        let delta = i64::from(offset_delta);
        if delta < self.least_delta || delta > i64::from(self.frame.last_offset_delta) {
            return Err(stop(Reason::Offset(offset_delta), "offset_delta", &body));
        }
        let Some(timestamp) = self.frame.base_timestamp.checked_add(timestamp_delta & self.frame.delta_mask)
        else {
            return Err(stop(Reason::Timestamp, "timestamp_delta", &body));
        };
        self.reader = reader;
        self.least_delta = delta + 1;
        // Cannot overflow: the header was refused unless base + last delta + 1 is an offset.
        let offset = Offset(self.frame.base_offset.wrapping_add(delta));
        Ok(Record { offset, timestamp, key, value, headers })
    }

    #[cold]
    #[inline(never)]
    fn fail(&mut self, stop: Stop) -> ProtocolError {
        let number = self.frame.count - self.left;
        let at = self.whole - stop.unread.min(self.whole);
        self.reader = Reader(&[]);
        self.left = 0;
        let base = self.frame.base_offset;
        let record = format_args!("record {number} of the batch at offset {base}").to_string();
        let error = match stop.fault {
            Reason::Read(Fault::Short) if stop.field == "length" => ProtocolError::malformed(format!(
                "{record} is missing or cut short, where {} records were promised",
                self.frame.count
            )),
            Reason::Read(Fault::Short) => {
                ProtocolError::malformed(format!("{record} is longer than it says"))
            }
            Reason::Read(Fault::Overlong) => {
                ProtocolError::malformed(format!("{record} has a number too large for its type"))
            }
            Reason::Read(Fault::Negative) => {
                ProtocolError::malformed(format!("{record} has a negative length"))
            }
            Reason::Trailing => ProtocolError::malformed(format!("{record} is shorter than it says")),
            Reason::Offset(delta) => ProtocolError::malformed(format!(
                "{record} has offset delta {delta}, where {} to {} is possible",
                self.least_delta, self.frame.last_offset_delta
            )),
            Reason::Timestamp => ProtocolError::malformed(format!("{record} has a timestamp beyond 64 bits")),
        };
        error.with_field(stop.field).with_at(at)
    }

    /// What comes after the records of format 2: nothing, or bytes that should not be there, or messages.
    #[inline(never)]
    fn beyond(&mut self) -> Option<Result<Record<'a>>> {
        match &mut self.set {
            Some(set) => set.next(&mut self.reader, self.whole),
            None if self.reader.0.is_empty() => None,
            None => Some(Err(self.trailing())),
        }
    }

    #[cold]
    #[inline(never)]
    fn trailing(&mut self) -> ProtocolError {
        let rest = self.reader.0.len();
        self.reader = Reader(&[]);
        ProtocolError::malformed(format!(
            "{rest} bytes follow the {} records of the batch at offset {}",
            self.frame.count, self.frame.base_offset
        ))
        .with_field("record_count")
        .with_at(self.whole - rest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::varint::{Scratch, zigzag};
    use super::*;
    use proptest::prelude::*;

    type Field = Option<Vec<u8>>;
    type Parts = (i64, i64, Field, Field, Vec<(String, Field)>);

    fn number(out: &mut Vec<u8>, value: i64) {
        let mut scratch = Scratch::new();
        scratch.put(zigzag(value));
        out.extend_from_slice(scratch.as_slice());
    }

    fn field(out: &mut Vec<u8>, field: &Field) {
        match field {
            Some(bytes) => {
                number(out, bytes.len() as i64);
                out.extend_from_slice(bytes);
            }
            None => number(out, -1),
        }
    }

    fn encode((time, offset, key, value, headers): &Parts) -> Vec<u8> {
        let mut body = vec![0];
        number(&mut body, *time);
        number(&mut body, *offset);
        field(&mut body, key);
        field(&mut body, value);
        number(&mut body, headers.len() as i64);
        for (name, value) in headers {
            field(&mut body, &Some(name.clone().into_bytes()));
            field(&mut body, value);
        }
        let mut record = Vec::new();
        number(&mut record, body.len() as i64);
        record.extend_from_slice(&body);
        record
    }

    fn any_field() -> impl Strategy<Value = Field> {
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
        prop_oneof![
            Just(None),
            bytes(4).prop_map(Some),
            bytes(200).prop_map(Some),
            bytes(20_000).prop_map(Some)
        ]
    }

    fn any_parts() -> impl Strategy<Value = Parts> {
        let number = || (any::<i64>(), 0u32..64).prop_map(|(value, shift)| value >> shift);
        let step = prop_oneof![9 => 0i64..3, 1 => 0i64..1 << 22];
        let headers = proptest::collection::vec(("[a-c]{0,3}", any_field()), 0..3);
        let headers = prop_oneof![3 => Just(Vec::new()), 1 => headers];
        (number(), step, any_field(), any_field(), headers)
    }

    /// The iterator without its quick way.
    fn carefully<'a>(records: &mut RecordIter<'a>) -> Option<Result<Record<'a>>> {
        if records.left == 0 {
            return records.beyond();
        }
        Some(match records.careful() {
            Ok(record) => {
                records.left -= 1;
                Ok(record)
            }
            Err(at) => Err(records.fail(at)),
        })
    }

    proptest! {
        #[test]
        fn the_quick_way_gives_what_the_careful_one_does(
            parts in proptest::collection::vec(any_parts(), 0..6),
            base_timestamp: i64,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let (mut bytes, mut offset) = (Vec::new(), 0);
            for (time, step, key, value, headers) in parts.clone() {
                offset += step;
                bytes.extend_from_slice(&encode(&(time, offset, key, value, headers)));
            }
            let count = parts.len() as u32;
            if !bytes.is_empty() {
                for (at, byte) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            }
            let frame = Frame { base_offset: 7, last_offset_delta: 1 << 22, count, base_timestamp, delta_mask: -1 };
            let (mut quick, mut careful) = (RecordIter::over(&bytes, frame, None), RecordIter::over(&bytes, frame, None));
            loop {
                let (one, other) = (quick.next(), carefully(&mut careful));
                prop_assert_eq!(format!("{one:?}"), format!("{other:?}"));
                if one.is_none() {
                    break;
                }
            }
        }
    }
}
