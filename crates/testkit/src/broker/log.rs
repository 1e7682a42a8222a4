//! The log of one partition: batches in memory, offsets, transactions, leader epochs.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use milena_protocol::records::{
    ControlKind, ControlRecord, RecordBatch, build_control_batch, set_base_offset,
};
use milena_protocol::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId};

use super::producer_state::{ProducerEntry, Sequenced, UnknownProducer, check_unknown};

/// A batch in the log. Its bytes carry the offset and the leader epoch the log gave it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) base: i64,
    pub(crate) last: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) max_timestamp: i64,
    /// The largest timestamp of this batch and all that were ever before it: sorted, so that a search is short.
    running_max: i64,
    /// Bytes of all batches that were ever before this one.
    position: u64,
    pub(crate) bytes: Bytes,
}

/// An aborted transaction of one partition, as its transaction index keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first: i64,
    /// Offset of the marker.
    pub(crate) last: i64,
    /// The last stable offset once the marker was written.
    pub(crate) stable_after: i64,
}

/// What became of a batch that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Appended {
    /// It lies at this offset now.
    At(i64),
    /// It repeats one of the last five batches of its producer.
    Duplicate { base_offset: i64, timestamp: i64 },
}

/// A stretch of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slice {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) len: usize,
    /// Offset after the last whole batch, if there is one.
    pub(crate) next: Option<i64>,
}

impl Slice {
    /// The bytes in one piece: copied, unless they are one already.
    pub(crate) fn join(mut self) -> Bytes {
        match self.chunks.len() {
            0 => Bytes::new(),
            1 => self.chunks.pop().unwrap_or_default(),
            _ => {
                let mut joined = BytesMut::with_capacity(self.len);
                for chunk in &self.chunks {
                    joined.extend_from_slice(chunk);
                }
                joined.freeze()
            }
        }
    }
}

/// How much of the log to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) from: i64,
    /// Nothing at or after this offset.
    pub(crate) end: i64,
    pub(crate) max_bytes: usize,
    /// The first batch comes whole even if it is larger than `max_bytes` (KIP-74).
    pub(crate) at_least_one: bool,
    /// A cut batch may fill what is left.
    pub(crate) partial: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct PartitionLog {
    start: i64,
    end: i64,
    /// Up to where the followers have it.
    replicated: i64,
    written: u64,
    batches: VecDeque<Stored>,
    /// Leader epochs with the offset each began at.
    epochs: Vec<(i32, i64)>,
    producers: BTreeMap<i64, ProducerEntry>,
    /// Open transactions: first offset to producer id.
    open: BTreeMap<i64, i64>,
    /// In the order of their markers.
    aborted: Vec<Aborted>,
}

impl PartitionLog {
    pub(crate) fn new() -> Self {
        Self {
            start: 0,
            end: 0,
            replicated: 0,
            written: 0,
            batches: VecDeque::new(),
            epochs: vec![(0, 0)],
            producers: BTreeMap::new(),
            open: BTreeMap::new(),
            aborted: Vec::new(),
        }
    }

    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// The log's end; on a single broker this is the high watermark too.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Up to where the followers have it.
    pub(crate) fn replicated(&self) -> i64 {
        self.replicated
    }

    pub(crate) fn set_replicated(&mut self, end: i64) {
        self.replicated = self.replicated.max(end.min(self.end));
    }

    /// The last stable offset: nothing before it belongs to an open transaction.
    pub(crate) fn stable(&self) -> i64 {
        self.open.first_key_value().map_or(self.end, |(first, _)| (*first).max(self.start))
    }

    pub(crate) fn leader_epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    pub(crate) fn producers(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = &Stored> {
        self.batches.iter()
    }

    pub(crate) fn has_open(&self, producer_id: i64, epoch: i16) -> bool {
        self.producers
            .get(&producer_id)
            .is_some_and(|entry| entry.epoch == epoch && entry.transaction_start.is_some())
    }

    /// Appends a client's batch after the checks of KIP-98.
    pub(crate) fn append(
        &mut self,
        batch: &RecordBatch,
        unknown: UnknownProducer,
    ) -> Result<Appended, ErrorCode> {
        let Some((producer_id, sequenced)) = sequenced(batch) else {
            return Ok(Appended::At(self.store(batch)));
        };
        match self.producers.get(&producer_id) {
            Some(entry) => {
                if let Some(known) = entry.duplicate(sequenced) {
                    let (base_offset, timestamp) = (known.base_offset, known.timestamp);
                    return Ok(Appended::Duplicate { base_offset, timestamp });
                }
                entry.check(sequenced)?;
                if entry.transaction_start.is_some() && !batch.is_transactional() {
                    return Err(ErrorCode::INVALID_TXN_STATE);
                }
            }
            None => check_unknown(unknown, sequenced)?,
        }
        let base = self.store(batch);
        self.remember(producer_id, sequenced, batch, base);
        Ok(Appended::At(base))
    }

    /// Appends the marker that ends a producer's transaction.
    pub(crate) fn end_transaction(
        &mut self,
        producer_id: i64,
        epoch: i16,
        kind: ControlKind,
        coordinator_epoch: i32,
        now_ms: i64,
    ) -> Result<i64, ErrorCode> {
        if self.producers.get(&producer_id).is_some_and(|entry| epoch < entry.epoch) {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        let bytes = build_control_batch(
            Offset(self.end),
            ProducerId(producer_id),
            ProducerEpoch(epoch),
            kind,
            coordinator_epoch,
            now_ms,
        );
        let Ok(Some(batch)) = RecordBatch::parse(&mut bytes.clone()) else {
            return Err(ErrorCode::UNKNOWN_SERVER_ERROR);
        };
        let offset = self.store(&batch);
        self.close(producer_id, epoch, kind, coordinator_epoch, offset, now_ms);
        Ok(offset)
    }

    fn remember(&mut self, producer_id: i64, sequenced: Sequenced, batch: &RecordBatch, base: i64) {
        let entry = self.producers.entry(producer_id).or_insert_with(|| ProducerEntry::new(sequenced.epoch));
        entry.on_batch(sequenced, base, batch.max_timestamp());
        if batch.is_transactional() && entry.transaction_start.is_none() {
            entry.transaction_start = Some(base);
            self.open.insert(base, producer_id);
        }
    }

    fn close(
        &mut self,
        producer_id: i64,
        epoch: i16,
        kind: ControlKind,
        coordinator_epoch: i32,
        offset: i64,
        now_ms: i64,
    ) {
        let entry = self.producers.entry(producer_id).or_insert_with(|| ProducerEntry::new(epoch));
        let Some(first) = entry.on_marker(epoch, coordinator_epoch, now_ms) else { return };
        self.open.remove(&first);
        if kind == ControlKind::Abort {
            let stable_after = self.stable();
            self.aborted.push(Aborted { producer_id, first, last: offset, stable_after });
        }
    }

    /// Puts a batch at the end of the log. The bytes are copied once: offset and leader epoch are written into them.
    fn store(&mut self, batch: &RecordBatch) -> i64 {
        let base = self.end;
        let leader_epoch = self.leader_epoch();
        let span = batch.last_offset() - batch.base_offset();
        let mut bytes = BytesMut::from(batch.as_bytes().as_ref());
        // A parsed batch has a whole header, which is all that this asks for.
        let _ = set_base_offset(&mut bytes, Offset(base), LeaderEpoch(leader_epoch));
        let max_timestamp = batch.max_timestamp();
        let running_max =
            self.batches.back().map_or(max_timestamp, |previous| previous.running_max.max(max_timestamp));
        let position = self.written;
        self.written += bytes.len() as u64;
        self.end = base + span + 1;
        self.batches.push_back(Stored {
            base,
            last: base + span,
            leader_epoch,
            max_timestamp,
            running_max,
            position,
            bytes: bytes.freeze(),
        });
        base
    }

    /// Index of the batch that holds the offset, or of the first one after it.
    fn locate(&self, offset: i64) -> usize {
        self.batches.partition_point(|batch| batch.last < offset)
    }

    /// How many bytes of whole batches lie in `from..end`, without touching them.
    pub(crate) fn bytes_between(&self, from: i64, end: i64) -> u64 {
        let position = |offset| self.batches.get(self.locate(offset)).map_or(self.written, |b| b.position);
        position(end).saturating_sub(position(from))
    }

    pub(crate) fn read(&self, span: Span) -> Slice {
        let mut slice = Slice::default();
        let mut index = self.locate(span.from);
        while let Some(batch) = self.batches.get(index) {
            let len = batch.bytes.len();
            if batch.base >= span.end {
                break;
            }
            let first_whole = span.at_least_one && slice.chunks.is_empty();
            if slice.len + len > span.max_bytes && !first_whole {
                let room = span.max_bytes.saturating_sub(slice.len);
                if span.partial && room > 0 && !slice.chunks.is_empty() {
                    slice.chunks.push(batch.bytes.slice(..room));
                    slice.len += room;
                }
                break;
            }
            slice.chunks.push(batch.bytes.clone());
            slice.len += len;
            slice.next = Some(batch.last + 1);
            index += 1;
        }
        slice
    }

    /// The aborted transactions with records in `from..end`, in the order of their markers.
    pub(crate) fn aborted_between(&self, from: i64, end: i64) -> impl Iterator<Item = &Aborted> {
        let begin = self.aborted.partition_point(|aborted| aborted.last < from);
        let mut done = false;
        self.aborted
            .iter()
            .skip(begin)
            .take_while(move |aborted| {
                // Once everything before `end` was stable, later entries begin after it.
                !std::mem::replace(&mut done, aborted.stable_after >= end)
            })
            .filter(move |aborted| aborted.first < end)
    }

    /// The first record at or after a time, before `end`: its offset, its timestamp and its leader epoch.
    pub(crate) fn find_timestamp(&self, timestamp: i64, end: i64) -> Option<(i64, i64, i32)> {
        let begin = self.batches.partition_point(|batch| batch.running_max < timestamp);
        for stored in self.batches.iter().skip(begin) {
            if stored.base >= end {
                return None;
            }
            if stored.max_timestamp < timestamp {
                continue;
            }
            if let Some((offset, found)) = self.first_record(stored, |found| found >= timestamp) {
                return (offset < end).then_some((offset, found, stored.leader_epoch));
            }
        }
        None
    }

    /// The first record with the largest timestamp of the log.
    pub(crate) fn find_max_timestamp(&self) -> Option<(i64, i64, i32)> {
        let best = self.batches.iter().map(|batch| batch.max_timestamp).max()?;
        let stored = self.batches.iter().find(|batch| batch.max_timestamp == best)?;
        let (offset, timestamp) = self.first_record(stored, |found| found >= best)?;
        Some((offset, timestamp, stored.leader_epoch))
    }

    fn first_record(&self, stored: &Stored, wanted: impl Fn(i64) -> bool) -> Option<(i64, i64)> {
        let batch = RecordBatch::parse(&mut stored.bytes.clone()).ok()??;
        let records = batch.records().ok()?;
        records
            .iter()
            .map_while(Result::ok)
            .find(|record| wanted(record.timestamp) && record.offset.0 >= self.start)
            .map(|record| (record.offset.0, record.timestamp))
    }

    /// Moves the log's start, as retention and DeleteRecords do, and forgets whole batches before it.
    pub(crate) fn delete_before(&mut self, offset: i64) {
        if offset <= self.start || offset > self.end {
            return;
        }
        self.start = offset;
        while self.batches.front().is_some_and(|batch| batch.last < offset) {
            self.batches.pop_front();
        }
        self.aborted.retain(|aborted| aborted.last >= offset);
    }

    /// Puts bytes in the place of the batch that holds an offset. False if there is none.
    pub(crate) fn replace(&mut self, offset: i64, bytes: Bytes) -> bool {
        let index = self.locate(offset);
        let mut rest = self.batches.range_mut(index.min(self.batches.len())..);
        let Some(stored) = rest.next().filter(|stored| stored.base <= offset) else { return false };
        let before = stored.bytes.len() as u64;
        let after = bytes.len() as u64;
        stored.bytes = bytes;
        let moved = |position: u64| (position + after).saturating_sub(before);
        rest.for_each(|stored| stored.position = moved(stored.position));
        self.written = moved(self.written);
        true
    }

    /// Cuts the log at an offset, as an unclean leader election does, and begins a new leader epoch. What is known of
    /// producers and transactions is read again from what is left.
    pub(crate) fn truncate(&mut self, offset: i64) {
        let keep: Vec<Stored> = self.batches.drain(..).filter(|batch| batch.last < offset).collect();
        let next_epoch = self.leader_epoch() + 1;
        let end = keep.last().map_or_else(|| self.start.min(offset), |batch| batch.last + 1);
        let mut rebuilt = Self { start: self.start.min(end), end: self.start.min(end), ..Self::new() };
        // An epoch that has no record any more is forgotten, as Kafka does.
        rebuilt.epochs = self.epochs.iter().filter(|(_, begin)| *begin < end).copied().collect();
        rebuilt.epochs.push((next_epoch, end));
        for stored in keep {
            rebuilt.replay(stored);
        }
        rebuilt.replicated = rebuilt.end;
        *self = rebuilt;
    }

    fn replay(&mut self, stored: Stored) {
        let parsed = RecordBatch::parse(&mut stored.bytes.clone());
        let base = stored.base;
        self.end = stored.last + 1;
        self.written = stored.position + stored.bytes.len() as u64;
        self.batches.push_back(stored);
        if let Ok(Some(batch)) = parsed {
            if let Ok(Some(control)) = batch.control() {
                self.replay_marker(&batch, control, base);
            } else if let Some((producer_id, sequenced)) = sequenced(&batch) {
                self.remember(producer_id, sequenced, &batch, base);
            }
        }
    }

    fn replay_marker(&mut self, batch: &RecordBatch, control: ControlRecord, offset: i64) {
        let (kind, coordinator_epoch) = match control {
            ControlRecord::Commit { coordinator_epoch } => (ControlKind::Commit, coordinator_epoch),
            ControlRecord::Abort { coordinator_epoch } => (ControlKind::Abort, coordinator_epoch),
            ControlRecord::Other(_) => return,
        };
        if let (Some(id), Some(epoch)) = (batch.producer_id(), batch.producer_epoch()) {
            self.close(id.0, epoch.0, kind, coordinator_epoch, offset, batch.max_timestamp());
        }
    }

    /// Begins a new leader epoch, as an election does.
    pub(crate) fn bump_leader_epoch(&mut self) {
        let next = self.leader_epoch() + 1;
        self.epochs.push((next, self.end));
    }

    /// The largest epoch up to `epoch` and the offset it ended at (KIP-320); `None` if there is none.
    pub(crate) fn epoch_end(&self, epoch: i32) -> Option<(i32, i64)> {
        let index = self.epochs.partition_point(|(known, _)| *known <= epoch);
        let (found, _) = self.epochs.get(index.checked_sub(1)?)?;
        let end = self.epochs.get(index).map_or(self.end, |(_, begin)| *begin);
        Some((*found, end))
    }

    /// The leader epoch that was current when the offset was written.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        let index = self.epochs.partition_point(|(_, begin)| *begin <= offset);
        index.checked_sub(1).and_then(|index| self.epochs.get(index)).map_or(0, |(epoch, _)| *epoch)
    }

    pub(crate) fn forget_producers(&mut self) {
        self.producers.retain(|_, entry| entry.transaction_start.is_some());
    }

    pub(crate) fn forget_producer(&mut self, producer_id: i64) {
        if self.producers.get(&producer_id).is_some_and(|entry| entry.transaction_start.is_none()) {
            self.producers.remove(&producer_id);
        }
    }
}

fn sequenced(batch: &RecordBatch) -> Option<(i64, Sequenced)> {
    let producer_id = batch.producer_id()?.0;
    let epoch = batch.producer_epoch()?.0;
    let first = batch.base_sequence()?.0;
    Some((producer_id, Sequenced::new(epoch, first, batch.record_count())))
}
