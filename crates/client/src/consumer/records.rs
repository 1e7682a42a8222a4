//! Record by record on top of the parts: borrowed, owned, or as a stream.
//!
//! A batch's records are found a few at a time (`CHUNK`): where key, value and headers lie, not what they are. A record that the
//! application takes is then a look into the batch's buffer. Nothing is allocated, locked or copied for it; an owned one counts one
//! reference up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use milena_core::fetch::{Position, Ticket};
use milena_protocol::error::ProtocolError;
use milena_protocol::records::{Headers, Record, RecordMark};
use milena_protocol::types::{LeaderEpoch, Offset, TopicPartition};

use super::Consumer;
use super::part::{Content, PartitionRecords, Place};
use crate::error::Result;

/// How many records are found at a time.
const CHUNK: usize = 64;

/// Bytes of a batch's buffer.
#[derive(Clone, Copy, Debug)]
struct Span {
    at: u32,
    /// `NULL` for none.
    len: u32,
}

/// The length that stands for null. Buffers are smaller.
const NULL: u32 = u32::MAX;

impl Span {
    #[inline]
    fn of(buffer: &[u8], part: Option<&[u8]>) -> Self {
        // The part lies in the buffer, so the distance is an offset into it; buffers are smaller than 4 GiB.
        part.map_or(Self { at: 0, len: NULL }, |part| Self {
            at: (part.as_ptr() as usize).wrapping_sub(buffer.as_ptr() as usize) as u32,
            len: part.len() as u32,
        })
    }

    #[inline]
    fn get(self, buffer: &[u8]) -> Option<&[u8]> {
        if self.len == NULL {
            return None;
        }
        buffer.get(self.at as usize..)?.get(..self.len as usize)
    }
}

/// Where the pieces of a record lie.
#[derive(Clone, Copy, Debug)]
struct Found {
    offset: Offset,
    timestamp: i64,
    key: Span,
    value: Span,
    headers: Span,
    header_count: u32,
    /// -1 for none.
    leader_epoch: i32,
}

impl Found {
    #[inline]
    fn of(buffer: &[u8], record: &Record<'_>, leader_epoch: i32) -> Self {
        let (encoded, header_count) = record.headers.encoded();
        Self {
            offset: record.offset,
            timestamp: record.timestamp,
            key: Span::of(buffer, record.key),
            value: Span::of(buffer, record.value),
            headers: if header_count == 0 { Span { at: 0, len: 0 } } else { Span::of(buffer, Some(encoded)) },
            header_count,
            leader_epoch,
        }
    }

    #[inline]
    fn leader_epoch(&self) -> Option<LeaderEpoch> {
        (self.leader_epoch >= 0).then_some(LeaderEpoch(self.leader_epoch))
    }

    #[inline]
    fn headers<'a>(&self, buffer: &'a [u8]) -> Headers<'a> {
        match self.header_count {
            0 => Headers::EMPTY,
            count => Headers::of_encoded(self.headers.get(buffer).unwrap_or_default(), count),
        }
    }

    #[inline]
    fn record<'a>(&self, buffer: &'a [u8]) -> Record<'a> {
        Record {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.get(buffer),
            value: self.value.get(buffer),
            headers: self.headers(buffer),
        }
    }
}

/// What records borrow from: what came of a partition, or one decompressed batch of it.
#[derive(Debug)]
struct Source {
    tp: TopicPartition,
    buffer: Bytes,
}

/// A record that lives as long as it is kept, and keeps the answer (or the decompressed batch) it came with in memory: 64 bytes and a
/// reference. Whoever keeps a few of many records for long copies them.
#[derive(Clone, Debug)]
pub struct ConsumerRecord {
    source: Arc<Source>,
    found: Found,
}

impl ConsumerRecord {
    /// The partition.
    #[inline]
    #[must_use]
    pub fn tp(&self) -> &TopicPartition {
        &self.source.tp
    }

    /// Its position in the partition.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.found.offset
    }

    /// Milliseconds since 1970; -1 for none.
    #[inline]
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.found.timestamp
    }

    /// The epoch of the leader that appended it, if known.
    #[inline]
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.found.leader_epoch()
    }

    /// The key; `None` is null.
    #[inline]
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.found.key.get(&self.source.buffer)
    }

    /// The value; `None` is null.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.found.value.get(&self.source.buffer)
    }

    /// The key as a slice of the shared buffer.
    #[inline]
    #[must_use]
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.key().map(|key| self.source.buffer.slice_ref(key))
    }

    /// The value as a slice of the shared buffer.
    #[inline]
    #[must_use]
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.value().map(|value| self.source.buffer.slice_ref(value))
    }

    /// The headers in their order.
    #[inline]
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        self.found.headers(&self.source.buffer)
    }

    /// All of it, borrowed.
    #[inline]
    #[must_use]
    pub fn as_record(&self) -> Record<'_> {
        self.found.record(&self.source.buffer)
    }
}

/// A record, borrowed until the next one is asked for.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The partition.
    pub tp: &'a TopicPartition,
    /// The record.
    pub record: Record<'a>,
}

/// The part that records are taken from, one by one.
#[derive(Debug)]
pub(super) struct RecordReader {
    part: Option<PartitionRecords>,
    /// The batch that records are found in, and the next one.
    batch: Option<(Place, RecordMark)>,
    next: Place,
    /// The batch of the first record of the chunk.
    since: Place,
    /// What the records of the chunk borrow from.
    source: Option<Arc<Source>>,
    /// Whether that is the part itself.
    plain: bool,
    chunk: Vec<Found>,
    /// The next record of the chunk.
    at: usize,
    /// Where the application stands, once it took a record of the part.
    position: Option<Position>,
}

/// What a part that ended left.
pub(super) struct Ended {
    pub(super) ticket: Ticket,
    pub(super) position: Position,
    /// Why it ended early.
    pub(super) broken: Option<ProtocolError>,
}

impl RecordReader {
    pub(super) fn new() -> Self {
        Self {
            part: None,
            batch: None,
            next: Place::default(),
            since: Place::default(),
            source: None,
            plain: false,
            chunk: Vec::with_capacity(CHUNK),
            at: 0,
            position: None,
        }
    }

    /// Begins a part. What is left of the one before is gone.
    pub(super) fn load(&mut self, part: PartitionRecords) {
        self.clear();
        (self.next, self.since) = (part.shown.begin(), part.shown.begin());
        self.part = Some(part);
    }

    pub(super) fn clear(&mut self) {
        (self.part, self.source, self.batch, self.position) = (None, None, None, None);
        self.at = 0;
        self.chunk.clear();
    }

    /// The part records are taken from now, and where the application stands in it.
    pub(super) fn standing(&self) -> Option<(&PartitionRecords, Position)> {
        let part = self.part.as_ref()?;
        let at = match self.at.checked_sub(1).and_then(|last| self.chunk.get(last)) {
            Some(last) => Some(Position { offset: last.offset + 1, epoch: last.leader_epoch() }),
            None => self.position,
        };
        Some((part, at.unwrap_or(part.start)))
    }

    /// What is left of the part, for somebody who takes whole parts.
    pub(super) fn rest(&mut self) -> Option<PartitionRecords> {
        let (_, position) = self.standing()?;
        let mut part = self.part.take()?;
        // The batch in hand is looked at again, from the position on.
        part.shown.forget_before(self.since);
        part.from = part.from.max(position.offset);
        let more = part.next.offset > position.offset && !part.shown.is_empty();
        self.clear();
        more.then_some(part)
    }

    /// The place of the next record, if one is at hand.
    #[inline]
    fn step(&mut self) -> Option<usize> {
        (self.at < self.chunk.len()).then(|| {
            self.at += 1;
            self.at - 1
        })
    }

    #[inline]
    pub(super) fn owned(&mut self) -> Option<ConsumerRecord> {
        let at = self.step()?;
        let (source, found) = (self.source.as_ref()?, self.chunk.get(at)?);
        Some(ConsumerRecord { source: Arc::clone(source), found: *found })
    }

    #[inline]
    pub(super) fn has_next(&self) -> bool {
        self.at < self.chunk.len()
    }

    #[inline]
    pub(super) fn borrowed(&mut self) -> Option<RecordRef<'_>> {
        let at = self.step()?;
        let (source, found) = (self.source.as_ref()?, self.chunk.get(at)?);
        Some(RecordRef { tp: &source.tp, record: found.record(&source.buffer) })
    }

    /// Finds the next records of the part. `Err`: it has no more, and what it left.
    #[cold]
    #[inline(never)]
    pub(super) fn refill(&mut self) -> std::result::Result<(), Option<Ended>> {
        if let Some((_, position)) = self.standing() {
            self.position = Some(position);
        }
        self.chunk.clear();
        self.at = 0;
        match self.find() {
            Ok(()) if self.chunk.is_empty() => Err(self.end(None)),
            Ok(()) => Ok(()),
            Err(error) if self.chunk.is_empty() => Err(self.end(Some(error))),
            Err(_) => {
                // What was found before is given first; the next refill meets the error again, with nothing before it.
                if let (Some(part), Some(last)) = (&mut self.part, self.chunk.last()) {
                    part.from = last.offset + 1;
                }
                Ok(())
            }
        }
    }

    /// Fills the chunk, from one batch or from several that lie in the same buffer.
    fn find(&mut self) -> std::result::Result<(), ProtocolError> {
        let Some(part) = &self.part else { return Ok(()) };
        self.since = self.batch.as_ref().map_or(self.next, |(place, _)| *place);
        while self.chunk.len() < CHUNK {
            let (place, mark) = match self.batch.take() {
                Some((place, mark)) => (place, Some(mark)),
                None => (self.next, None),
            };
            let mut next = place;
            let Some(batch) = part.shown.step(&mut next)? else { break };
            let plain = matches!(batch.records, Content::Plain(_));
            if !(self.chunk.is_empty() || plain && self.plain) {
                break;
            }
            let (records, buffer) = match batch.records {
                Content::Plain(records) => (records, &part.shown.bytes),
                Content::Packed(packed) => {
                    let records = packed.records()?;
                    (records.iter(), records.buffer())
                }
            };
            if self.source.as_ref().is_none_or(|source| source.buffer.as_ptr() != buffer.as_ptr()) {
                self.source = Some(Arc::new(Source { tp: part.tp.clone(), buffer: buffer.clone() }));
            }
            self.plain = plain;
            let epoch = batch.head.leader_epoch().map_or(-1, |epoch| epoch.0);
            let mut records = match &mark {
                Some(mark) => records.resume(mark),
                None => records,
            };
            while self.chunk.len() < CHUNK {
                if let Some(record) = records.next_common() {
                    if record.offset >= part.from {
                        self.chunk.push(Found::of(buffer, &record, epoch));
                    }
                    continue;
                }
                match records.next().transpose() {
                    Ok(Some(record)) if record.offset < part.from => {}
                    Ok(Some(record)) => self.chunk.push(Found::of(buffer, &record, epoch)),
                    Ok(None) => break,
                    Err(error) => {
                        self.next = place;
                        return Err(error);
                    }
                }
            }
            self.next = next;
            if self.chunk.len() == CHUNK {
                self.batch = Some((place, records.mark()));
            }
        }
        Ok(())
    }

    fn end(&mut self, broken: Option<ProtocolError>) -> Option<Ended> {
        let part = self.part.take()?;
        let position = match broken {
            None => part.next,
            Some(_) => self.position.unwrap_or(part.start),
        };
        self.clear();
        Some(Ended { ticket: part.ticket, position, broken })
    }
}

/// The records of a consumer as a stream; made by [`Consumer::stream`]. It ends when the client is closed.
#[derive(Debug)]
pub struct RecordStream<'a> {
    pub(super) consumer: &'a mut Consumer,
}

impl Stream for RecordStream<'_> {
    type Item = Result<ConsumerRecord>;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(record) = self.consumer.at_hand() {
            return Poll::Ready(Some(Ok(record)));
        }
        match self.consumer.poll_fill(context) {
            Poll::Ready(Ok(())) => Poll::Ready(self.consumer.reader.owned().map(Ok)),
            Poll::Ready(Err(error)) if error.kind() == crate::ErrorKind::Closed => Poll::Ready(None),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => Poll::Pending,
        }
    }
}
