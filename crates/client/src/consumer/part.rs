//! The records of one partition that one answer brought.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use milena_core::fetch::{Position, Ticket};
use milena_protocol::error::ProtocolError;
use milena_protocol::records::{BatchRef, Record, RecordBatch, RecordIter, Records};
use milena_protocol::types::{LeaderEpoch, Offset, TopicPartition};

use super::memory::Memory;
use super::read::Reading;
use crate::error::{Error, Result};

/// Records of one partition, in offset order: only what an application may see, checked, and decoded as they are looked at. They borrow
/// the buffer the answer was read into; dropping the last part of an answer gives the buffer back.
#[derive(Debug)]
pub struct PartitionRecords {
    pub(super) ticket: Ticket,
    pub(super) tp: TopicPartition,
    /// The first offset that was asked for: a batch may begin before it.
    pub(super) from: Offset,
    /// Where reading stood before these records.
    pub(super) start: Position,
    pub(super) next: Position,
    /// As they came, invisible ones included.
    pub(super) bytes: usize,
    pub(super) high_watermark: Option<Offset>,
    pub(super) last_stable: Option<Offset>,
    pub(super) log_start: Option<Offset>,
    pub(super) shown: Shown,
}

/// The batches whose records may be seen. A batch that is not compressed is nothing but its place: one reference to the answer's buffer is
/// enough for all of them, and their heads are read again when their records are.
#[derive(Debug)]
pub(super) struct Shown {
    /// What came of the partition.
    pub(super) bytes: Bytes,
    /// The first run of batches, end to end.
    first: Range<usize>,
    /// How far they were taken.
    taken: Option<Place>,
    /// Further ones, where something lies between that may not be seen.
    more: Vec<Range<usize>>,
    batches: usize,
    /// The compressed ones among them, in their order.
    packed: Vec<Packed>,
}

/// A compressed batch.
#[derive(Debug)]
pub(super) struct Packed {
    at: usize,
    batch: RecordBatch,
    /// Decompressed, or not yet; or why it cannot be, so that a bomb is met once.
    records: OnceLock<std::result::Result<Records, ProtocolError>>,
}

impl Packed {
    /// Decompresses it; how many bytes that gave. What cannot be decompressed is told when it is looked at.
    pub(super) fn unpack(&self, memory: &Arc<Memory>) -> usize {
        let records = self.records.get_or_init(|| memory.unpack(&self.batch));
        records.as_ref().map_or(0, |records| records.buffer().len())
    }

    pub(super) fn records(&self) -> std::result::Result<&Records, ProtocolError> {
        self.records.get_or_init(|| self.batch.records()).as_ref().map_err(Clone::clone)
    }
}

impl Shown {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, first: 0..0, taken: None, more: Vec::new(), batches: 0, packed: Vec::new() }
    }

    /// Adds the batch at this place, behind those before.
    pub(super) fn push(&mut self, place: Range<usize>) {
        self.batches += 1;
        self.push_run(place);
    }

    fn push_run(&mut self, run: Range<usize>) {
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        if last.end == run.start {
            last.end = run.end;
        } else if last.start == last.end {
            *last = run;
        } else {
            self.more.push(run);
        }
    }

    /// Keeps a compressed batch that was pushed.
    pub(super) fn push_packed(&mut self, at: usize, batch: &BatchRef<'_>, reading: Reading) {
        let mut batch = batch.share(&self.bytes);
        batch.set_max_decompressed(reading.max_batch_bytes);
        if !reading.check_crcs {
            batch.skip_inner_crcs();
        }
        self.packed.push(Packed { at, batch, records: OnceLock::new() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches == 0
    }

    pub(super) fn len(&self) -> usize {
        self.batches
    }

    pub(super) fn packed(&self) -> &[Packed] {
        &self.packed
    }

    /// How many bytes are compressed.
    pub(super) fn packed_bytes(&self) -> usize {
        self.packed.iter().map(|packed| packed.batch.len_bytes()).sum()
    }

    /// Splits it before a compressed batch.
    fn split_off(&mut self, packed: usize) -> Self {
        debug_assert!(self.taken.is_none(), "parts are split before anybody takes of them");
        let at = self.packed.get(packed).map_or(usize::MAX, |packed| packed.at);
        let mut rest = Self::new(self.bytes.clone());
        rest.packed = self.packed.split_off(packed.min(self.packed.len()));
        let runs = std::iter::once(std::mem::take(&mut self.first)).chain(std::mem::take(&mut self.more));
        let runs: Vec<_> = runs.collect();
        for Range { start, end } in runs {
            let middle = at.clamp(start, end);
            for (part, run) in [(&mut *self, start..middle), (&mut rest, middle..end)] {
                if run.start < run.end {
                    part.push_run(run);
                }
            }
        }
        rest.batches = self.batches;
        self.batches = self.after(self.begin());
        rest.batches -= self.batches.min(rest.batches);
        rest
    }

    /// Where the first batch lies that was not taken.
    pub(super) fn begin(&self) -> Place {
        self.taken.unwrap_or(Place { run: 0, at: self.first.start, packed: 0 })
    }

    /// Takes the first batch; what it decompressed to goes with it.
    fn take_first(&mut self) {
        let mut place = self.begin();
        let packed = place.packed;
        if !matches!(self.step(&mut place), Ok(Some(_))) {
            return;
        }
        for used in packed..place.packed {
            if let Some(used) = self.packed.get_mut(used) {
                used.records.take();
            }
        }
        self.taken = Some(place);
        self.batches = self.batches.saturating_sub(1);
    }

    fn run(&self, run: usize) -> Option<&Range<usize>> {
        match run.checked_sub(1) {
            None => Some(&self.first),
            Some(more) => self.more.get(more),
        }
    }

    /// The batch at a place, which then is that of the next one; `None` at the end.
    #[inline]
    pub(super) fn step(&self, place: &mut Place) -> std::result::Result<Option<Batch<'_>>, ProtocolError> {
        loop {
            let Some(run) = self.run(place.run) else { return Ok(None) };
            if place.at < run.end {
                let run_end = run.end;
                let mut rest = self.bytes.get(place.at..run_end).unwrap_or_default();
                let head = BatchRef::parse(&mut rest)?;
                let Some(head) = head else { return Ok(None) };
                let at = place.at;
                place.at = run_end - rest.len();
                if let Some(records) = head.plain_records() {
                    return Ok(Some(Batch { head, records: Content::Plain(records) }));
                }
                let packed = self.packed.get(place.packed).filter(|packed| packed.at == at);
                place.packed += 1;
                return Ok(packed.map(|packed| Batch { head, records: Content::Packed(packed) }));
            }
            place.run += 1;
            match self.run(place.run) {
                Some(next) => place.at = next.start,
                None => return Ok(None),
            }
        }
    }

    /// Forgets what is before a place.
    pub(super) fn forget_before(&mut self, place: Place) {
        let batches = self.after(place);
        self.taken = None;
        let mut first = self.run(place.run).cloned().unwrap_or(0..0);
        first.start = place.at.min(first.end);
        self.more.drain(..place.run.min(self.more.len()));
        self.packed.drain(..place.packed.min(self.packed.len()));
        self.first = first;
        self.batches = batches;
    }

    /// How many batches lie behind a place.
    fn after(&self, mut place: Place) -> usize {
        let mut count = 0;
        while let Ok(Some(_)) = self.step(&mut place) {
            count += 1;
        }
        count
    }
}

/// Where in the batches of a part somebody stands.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Place {
    run: usize,
    at: usize,
    packed: usize,
}

/// A batch of a part.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) head: BatchRef<'a>,
    pub(super) records: Content<'a>,
}

/// Its records.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Plain(RecordIter<'a>),
    Packed(&'a Packed),
}

impl PartitionRecords {
    /// Takes what begins with a compressed batch into a part of its own.
    pub(super) fn split_off(&mut self, packed: usize) -> Self {
        let at = self.shown.packed.get(packed).map_or(0, |packed| packed.at);
        let shown = self.shown.split_off(packed);
        let last = self.batches().last();
        let middle = last.map_or(self.start, |batch| Position {
            offset: batch.next_offset(),
            epoch: batch.leader_epoch().or(self.start.epoch),
        });
        let bytes = at.min(self.bytes);
        let rest = Self { tp: self.tp.clone(), start: middle, bytes: self.bytes - bytes, shown, ..*self };
        (self.next, self.bytes) = (middle, bytes);
        rest
    }

    /// The partition.
    #[must_use]
    pub fn tp(&self) -> &TopicPartition {
        &self.tp
    }

    /// The offset after these records, visible or not: where reading goes on.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next.offset
    }

    /// The leader epoch of the last of them, if known.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.next.epoch
    }

    /// The end of what was replicated when they were read.
    #[must_use]
    pub fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    /// Below it every transaction had ended when they were read; `None` if the broker did not say.
    #[must_use]
    pub fn last_stable_offset(&self) -> Option<Offset> {
        self.last_stable
    }

    /// The first offset of the log when they were read; `None` if the broker did not say.
    #[must_use]
    pub fn log_start(&self) -> Option<Offset> {
        self.log_start
    }

    /// How many bytes came, with records that may not be seen and before decompression.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// How many offsets lay behind these records when they were read.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let end = self.high_watermark?;
        Some(u64::try_from(end - self.next.offset).unwrap_or(0))
    }

    /// The batches, in offset order, as they lie in the log. The first may hold records before the ones that were asked for;
    /// [`PartitionRecords::iter`] leaves them out.
    pub fn batches(&self) -> impl Iterator<Item = BatchRef<'_>> {
        let mut place = self.shown.begin();
        std::iter::from_fn(move || Some(self.shown.step(&mut place).ok()??.head))
    }

    /// Whether there is no record in it (any more). [`Consumer::poll`](super::Consumer::poll) gives such parts only with
    /// [`ConsumerConfig::progress`](super::ConsumerConfig::progress): where the position moved over what may not be seen, or, if
    /// [`PartitionRecords::is_end`] says so, where nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Whether it says only that an answer brought nothing, since nothing is left to be read: everything up to the end of the log, or up
    /// to the first open transaction under read_committed, was handed out. The position did not move.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.bytes == 0 && self.shown.is_empty() && self.start.offset == self.next.offset
    }

    /// The first batch that was not taken, for somebody who takes a part batch by batch and keeps it meanwhile: all that belongs to a
    /// batch (epoch, kind of timestamp) and its records. The first one may hold records before the ones that were asked for.
    ///
    /// # Errors
    /// It cannot be decompressed or read.
    pub fn front(&self) -> Option<Result<BatchRecords<'_>>> {
        let mut place = self.shown.begin();
        let batch = self.shown.step(&mut place).transpose()?;
        Some(batch.and_then(BatchRecords::of).map_err(|error| self.unreadable(error)))
    }

    /// Takes the first batch: the part begins with the next one from here on, and the memory that the batch was decompressed to is free.
    pub fn pop_front(&mut self) {
        self.shown.take_first();
    }

    /// The records, borrowed, in offset order. After an error there are no more.
    ///
    /// An error is a batch that cannot be decompressed or decoded. Its records were counted as taken, so
    /// [`Consumer::seek`](super::Consumer::seek) is needed to read them again.
    #[must_use]
    pub fn iter(&self) -> PartitionIter<'_> {
        PartitionIter { part: self, place: Some(self.shown.begin()), records: None, before: true }
    }

    pub(super) fn unreadable(&self, error: ProtocolError) -> Error {
        Error::unreadable(error).with_topic_partition(&self.tp)
    }
}

impl<'a> IntoIterator for &'a PartitionRecords {
    type Item = Result<Record<'a>>;
    type IntoIter = PartitionIter<'a>;

    fn into_iter(self) -> PartitionIter<'a> {
        self.iter()
    }
}

/// A batch of a [`PartitionRecords`] with its records.
#[derive(Debug)]
pub struct BatchRecords<'a> {
    /// What the batch says of all its records.
    pub batch: BatchRef<'a>,
    /// Its records.
    pub records: RecordIter<'a>,
}

impl<'a> BatchRecords<'a> {
    fn of(batch: Batch<'a>) -> std::result::Result<Self, ProtocolError> {
        let records = match batch.records {
            Content::Plain(records) => records,
            Content::Packed(packed) => packed.records()?.iter(),
        };
        Ok(Self { batch: batch.head, records })
    }
}

/// The records of a [`PartitionRecords`].
#[derive(Clone, Debug)]
pub struct PartitionIter<'a> {
    part: &'a PartitionRecords,
    /// The next batch; `None` after an error.
    place: Option<Place>,
    records: Option<RecordIter<'a>>,
    /// Whether records may still lie before the first offset that was asked for.
    before: bool,
}

impl<'a> Iterator for PartitionIter<'a> {
    type Item = Result<Record<'a>>;

    // Small, and always part of the caller's loop: a record then stays in registers.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.as_mut().and_then(RecordIter::next_common) {
                return Some(Ok(record));
            }
            // Taken apart and put together, so that only a record which comes this way goes through memory.
            return match self.turn() {
                Turn::Batch => continue,
                Turn::Record(Record { offset, timestamp, key, value, headers }) => {
                    Some(Ok(Record { offset, timestamp, key, value, headers }))
                }
                Turn::Failed(error) => Some(Err(error)),
                Turn::End => None,
            };
        }
    }
}

/// What comes where no common record does.
enum Turn<'a> {
    /// Another batch was begun.
    Batch,
    Record(Record<'a>),
    Failed(Error),
    End,
}

impl<'a> PartitionIter<'a> {
    /// The next record of the batch, or the next batch.
    #[inline(never)]
    fn turn(&mut self) -> Turn<'a> {
        match self.records.as_mut().and_then(Iterator::next) {
            Some(Ok(record)) => return Turn::Record(record),
            Some(Err(error)) => return Turn::Failed(self.fail(error)),
            None => {}
        }
        match self.next_batch() {
            Ok(Some(records)) => self.records = Some(records),
            Ok(None) => {
                self.records = None;
                return Turn::End;
            }
            Err(error) => return Turn::Failed(self.fail(error)),
        }
        if self.before { self.skip_before() } else { Turn::Batch }
    }

    fn next_batch(&mut self) -> std::result::Result<Option<RecordIter<'a>>, ProtocolError> {
        let Some(place) = &mut self.place else { return Ok(None) };
        let Some(batch) = self.part.shown.step(place)? else { return Ok(None) };
        Ok(Some(match batch.records {
            Content::Plain(records) => records,
            Content::Packed(packed) => packed.records()?.iter(),
        }))
    }

    /// Leaves out what lies before the first offset that was asked for; only the first batch with records can have such.
    #[cold]
    fn skip_before(&mut self) -> Turn<'a> {
        let from = self.part.from;
        let is_wanted = |record: &std::result::Result<Record<'_>, ProtocolError>| match record {
            Ok(record) => record.offset >= from,
            Err(_) => true,
        };
        match self.records.as_mut().and_then(|records| records.find(is_wanted)) {
            Some(Ok(record)) => {
                self.before = false;
                Turn::Record(record)
            }
            Some(Err(error)) => Turn::Failed(self.fail(error)),
            None => Turn::Batch,
        }
    }

    #[cold]
    fn fail(&mut self, error: ProtocolError) -> Error {
        self.place = None;
        self.records = None;
        self.part.unreadable(error)
    }
}

impl std::iter::FusedIterator for PartitionIter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::compression::Compression;
    use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, batches, set_base_offset};
    use milena_protocol::types::Isolation;
    use proptest::prelude::*;

    /// Batches of two records each, compressed or not, seen or not.
    fn shown(kinds: &[(bool, bool)]) -> Shown {
        let mut log = Vec::new();
        for (at, &(packed, _)) in kinds.iter().enumerate() {
            let compression = if packed { Compression::Lz4 } else { Compression::None };
            let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
            for _ in 0..2 {
                builder.push(0, None, Some(b"value"), []).unwrap();
            }
            let mut batch = builder.build(BatchIdentity::default()).unwrap().to_vec();
            set_base_offset(&mut batch, Offset(2 * at as i64), LeaderEpoch(0)).unwrap();
            log.extend_from_slice(&batch);
        }
        let mut shown = Shown::new(Bytes::from(log));
        let reading =
            Reading { isolation: Isolation::ReadUncommitted, check_crcs: true, max_batch_bytes: 1000 };
        let (bytes, mut at) = (shown.bytes.clone(), 0);
        for (batch, &(packed, seen)) in batches(bytes).zip(kinds) {
            let batch = batch.unwrap();
            let end = at + batch.len_bytes();
            if seen {
                shown.push(at..end);
                if packed {
                    shown.push_packed(at, &batch.borrowed(), reading);
                }
            }
            at = end;
        }
        shown
    }

    /// The first offsets of the batches, and where each lies.
    fn steps(shown: &Shown) -> Vec<(i64, Place)> {
        let mut place = shown.begin();
        let mut found = Vec::new();
        loop {
            let before = place;
            let Some(batch) = shown.step(&mut place).unwrap() else { return found };
            let records = match batch.records {
                Content::Plain(records) => records.count(),
                Content::Packed(packed) => packed.records().unwrap().iter().count(),
            };
            assert_eq!(records, 2);
            found.push((batch.head.base_offset().0, before));
        }
    }

    proptest! {
        #[test]
        fn what_may_be_seen_is_stepped_through_split_and_cut(
            kinds in proptest::collection::vec(any::<(bool, bool)>(), 0..12),
        ) {
            let expected: Vec<i64> =
                (0..).step_by(2).zip(&kinds).filter(|(_, kind)| kind.1).map(|(offset, _)| offset).collect();
            let offsets = |shown: &Shown| steps(shown).into_iter().map(|(offset, _)| offset).collect::<Vec<_>>();
            let all = shown(&kinds);
            prop_assert_eq!(offsets(&all), expected.clone());
            prop_assert_eq!((all.len(), all.is_empty()), (expected.len(), expected.is_empty()));
            for packed in 0..all.packed().len() {
                let mut front = shown(&kinds);
                let at = all.packed()[packed].batch.base_offset().0;
                let rest = front.split_off(packed);
                let middle = expected.partition_point(|&offset| offset < at);
                prop_assert_eq!((offsets(&front), offsets(&rest)), (expected[..middle].to_vec(), expected[middle..].to_vec()));
                prop_assert_eq!((front.len(), rest.len()), (middle, expected.len() - middle));
            }
            for (index, (_, place)) in steps(&all).into_iter().enumerate() {
                let mut cut = shown(&kinds);
                cut.forget_before(place);
                prop_assert_eq!((offsets(&cut), cut.len()), (expected[index..].to_vec(), expected.len() - index));
                let mut taken = shown(&kinds);
                (0..index).for_each(|_| taken.take_first());
                prop_assert_eq!((offsets(&taken), taken.len()), (expected[index..].to_vec(), expected.len() - index));
                if let Some((_, place)) = steps(&taken).get(1).copied() {
                    taken.forget_before(place);
                    prop_assert_eq!(offsets(&taken), expected[index + 1..].to_vec());
                }
            }
        }
    }
}
