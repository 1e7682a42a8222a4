//! A reader for the model of the job ([`crate::runtime`]'s `model`): cursors, pieces, event time and offset commits are the reader's own;
//! what arrives when is decided by the walk. It follows `SourceReader` step by step, without a client.

mod fetching;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use milena::protocol::records::RecordBatch;
use milena::{BatchRecords, Offset, TopicPartition};

use self::fetching::{Fetching, Part, Ready};
use super::builder::KafkaSource;
use super::cursor::{Advance, Cursor};
use super::pieces::{self, Pieces};
use super::reader::{Batch, ReaderEvent, Unread};
use super::split::Split;
use crate::progress::{AlignmentMember, CommitQueue, Position, Progress, ProgressEvent};
use crate::schema::Deserializer;
use crate::{Error, ErrorKind, Result};

/// What a broker answers to a fetch of one partition.
pub(crate) struct Answer {
    /// Those that readers of committed records see.
    pub(crate) visible: VecDeque<RecordBatch>,
    pub(crate) next_offset: Offset,
    pub(crate) received: bool,
    pub(crate) end: Offset,
}

enum Queued {
    Event(ReaderEvent<u32>),
    Elements { slot: u32, batch: Batch<u32>, advance: Advance },
}

/// A request under way.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    slot: u32,
    generation: u32,
    pub(crate) at: TopicPartition,
    pub(crate) offset: Offset,
    pub(crate) stop: Option<Offset>,
}

pub(crate) struct Reader {
    source: KafkaSource<u32>,
    deserializer: Box<dyn Deserializer<u32>>,
    cursors: BTreeMap<u32, Cursor>,
    /// What the consumer knows of each split, and what was taken from it and is being handed out.
    fetching: BTreeMap<u32, Fetching>,
    parts: BTreeMap<u32, Part>,
    turns: VecDeque<u32>,
    next_slot: u32,
    /// When data of a split was last at hand, or the split came.
    last_data: BTreeMap<u32, Instant>,
    progress: Progress<u32>,
    commits: CommitQueue,
    alignment: Option<AlignmentMember>,
    /// What it last told its alignment group.
    reported: Option<i64>,
    ending: Vec<Split>,
    finished: BTreeMap<TopicPartition, Position>,
    queue: VecDeque<Queued>,
    no_more_splits: bool,
    told_finished: bool,
}

impl Reader {
    pub(crate) fn new(source: KafkaSource<u32>) -> Self {
        let settings = source.settings();
        Self {
            deserializer: (settings.deserializer)(),
            progress: Progress::new(settings.watermarks.clone()),
            alignment: settings.alignment.as_ref().map(|alignment| alignment.group.join()),
            source,
            reported: None,
            cursors: BTreeMap::new(),
            fetching: BTreeMap::new(),
            parts: BTreeMap::new(),
            turns: VecDeque::new(),
            next_slot: 0,
            last_data: BTreeMap::new(),
            commits: CommitQueue::default(),
            ending: Vec::new(),
            finished: BTreeMap::new(),
            queue: VecDeque::new(),
            no_more_splits: false,
            told_finished: false,
        }
    }

    /// A new reader of the same source.
    pub(crate) fn successor(&self) -> Self {
        Self::new(self.source.clone())
    }

    fn slot(&self, at: &TopicPartition) -> Option<u32> {
        self.cursors.iter().find(|(_, cursor)| cursor.topic_partition() == at).map(|(slot, _)| *slot)
    }

    pub(crate) fn add_splits(&mut self, splits: Vec<Split>, now: Instant) -> Result<()> {
        for split in splits {
            let at = split.topic_partition.clone();
            if self.slot(&at).is_some() {
                let error = Error::new(ErrorKind::Misuse, "the partition is assigned twice");
                return Err(error.with_topic_partition(at));
            }
            let slot = self.next_slot;
            self.next_slot += 1;
            self.last_data.insert(slot, now);
            self.progress.add(slot, split.max_timestamp, now);
            self.fetching.insert(slot, Fetching::new(split.next_offset, split.stop));
            self.cursors.insert(slot, Cursor::new(split));
            self.turns.push_back(slot);
            self.end_if_finished(slot);
        }
        self.progress.on_assigned();
        self.queue_progress();
        Ok(())
    }

    pub(crate) fn add_finished(&mut self, splits: &[Split]) {
        let positions = splits.iter().map(|split| (split.topic_partition.clone(), position(split)));
        self.finished.extend(positions);
    }

    pub(crate) fn no_more_splits(&mut self) {
        self.no_more_splits = true;
        self.progress.on_assigned();
        self.queue_progress();
    }

    pub(crate) fn snapshot(&mut self, checkpoint: u64, unread: &[Unread]) -> Vec<Split> {
        let splits = self.positions_before(unread);
        let mut positions = self.positions();
        positions.extend(splits.iter().map(|split| (split.topic_partition.clone(), position(split))));
        self.commits.on_snapshot(checkpoint, positions);
        splits
    }

    /// Where each split stands, before what was not passed on.
    pub(crate) fn positions_before(&self, unread: &[Unread]) -> Vec<Split> {
        let splits = self.cursors.values().map(|cursor| &cursor.split).chain(&self.ending);
        let mut splits: Vec<Split> = splits.cloned().collect();
        for unread in unread {
            unread.put_back(&mut splits);
        }
        splits
    }

    fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        let reading = self.cursors.values().map(|cursor| &cursor.split).chain(&self.ending);
        let positions = reading.map(|split| (split.topic_partition.clone(), position(split)));
        self.finished.clone().into_iter().chain(positions).collect()
    }

    pub(crate) fn commits(&mut self) -> &mut CommitQueue {
        &mut self.commits
    }

    pub(crate) fn on_committed(&mut self) {
        let confirmed = self.commits.handle_committed();
        for (at, position) in confirmed.into_iter().flat_map(|request| request.positions) {
            if self.finished.get(&at) == Some(&position) {
                self.finished.remove(&at);
            }
        }
    }

    /// The splits being read, with whether each is idle and whether it is paused.
    pub(crate) fn splits(&self) -> impl Iterator<Item = (&Split, bool, bool)> {
        self.cursors
            .iter()
            .map(|(slot, cursor)| (&cursor.split, self.progress.is_split_idle(*slot), cursor.paused))
    }

    /// Whether a split counts as idle sooner than this after it last had data.
    pub(crate) fn idles_early(&self, now: Instant, delay: Duration) -> bool {
        let is_recent = |slot| self.last_data.get(slot).is_some_and(|at| now.duration_since(*at) < delay);
        self.cursors.keys().any(|slot| self.progress.is_split_idle(*slot) && is_recent(slot))
    }

    /// Whether a split counts as idle while something of it waits to be handed out.
    pub(crate) fn idles_over_data(&self) -> bool {
        let idle = |slot| self.progress.is_split_idle(slot);
        self.cursors.keys().any(|slot| self.has_data(*slot) && idle(*slot))
    }

    /// Whether records of a split were fetched and not handed out.
    fn has_data(&self, slot: u32) -> bool {
        self.parts.contains_key(&slot) || self.fetching.get(&slot).is_some_and(Fetching::has_records)
    }

    pub(crate) fn watermark(&self) -> Option<i64> {
        self.progress.watermark()
    }

    /// What the group should hold of this reader; `None` if it is in none.
    pub(crate) fn reported(&self) -> Option<Option<i64>> {
        self.alignment.is_some().then_some(self.reported)
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends a request for a split that is ready for one.
    pub(crate) fn start_fetch(&mut self, which: usize, now: Instant) -> Option<Fetch> {
        let wanted = self.fetching.iter().filter_map(|(slot, fetching)| {
            let cursor = self.cursors.get(slot).filter(|cursor| !cursor.paused)?;
            Some((*slot, cursor.topic_partition().clone(), cursor.split.stop, fetching.wants(now)?))
        });
        let wanted: Vec<_> = wanted.collect();
        let (slot, at, stop, offset) = wanted.get(which.checked_rem(wanted.len())?)?.clone();
        let generation = self.fetching.get_mut(&slot)?.on_sent();
        Some(Fetch { slot, generation, at, offset, stop })
    }

    /// The answer to a request; `None`: it failed.
    pub(crate) fn handle_fetched(&mut self, fetch: &Fetch, answer: Option<Answer>, now: Instant) {
        let Some(fetching) = self.fetching.get_mut(&fetch.slot) else { return };
        fetching.handle(fetch.generation, answer, now);
    }

    /// Fetches again what was not handed out, as after an error. Returns whether there was any.
    pub(crate) fn rewind(&mut self, which: usize) -> bool {
        let with_data: Vec<u32> = self.cursors.keys().copied().filter(|slot| self.has_data(*slot)).collect();
        let Some(slot) = which.checked_rem(with_data.len()).and_then(|which| with_data.get(which)) else {
            return false;
        };
        let is_queued = |queued: &Queued| matches!(queued, Queued::Elements { slot: of, .. } if of == slot);
        if self.queue.iter().any(is_queued) {
            return false;
        }
        self.parts.remove(slot);
        if let (Some(cursor), Some(fetching)) = (self.cursors.get(slot), self.fetching.get_mut(slot)) {
            fetching.seek(cursor.split.next_offset);
        }
        true
    }

    /// When a fetch or a commit that failed is tried again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let waits = self.fetching.values().filter_map(Fetching::deadline);
        waits.chain(self.commits.next_deadline()).min()
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        let Self { progress, cursors, fetching, parts, .. } = self;
        let records =
            |slot: &u32| parts.contains_key(slot) || fetching.get(slot).is_some_and(Fetching::has_records);
        for (slot, cursor) in cursors {
            let Some(fetching) = fetching.get(slot) else { continue };
            cursor.end = fetching.end.or(cursor.end);
            match fetching.caught_up {
                _ if fetching.is_failing() => progress.on_unknown(*slot),
                Some(at) if !records(slot) => progress.on_caught_up(*slot, at),
                _ => {}
            }
        }
        progress.on_tick(now, |slot| records(&slot));
        self.queue_progress();
        self.align();
    }

    fn align(&mut self) {
        let (Some(alignment), Some(member)) = (&self.source.settings().alignment, &self.alignment) else {
            return;
        };
        self.reported = self.progress.watermark().filter(|_| !self.progress.is_idle());
        member.report(self.reported);
        let limit = member.limit(alignment.max_drift);
        for (slot, cursor) in &mut self.cursors {
            cursor.paused = self.progress.split_watermark(*slot).is_some_and(|watermark| watermark > limit);
            self.progress.set_paused(*slot, cursor.paused);
        }
    }

    /// The next event, if there is one.
    pub(crate) fn next(&mut self, now: Instant) -> Result<Option<ReaderEvent<u32>>> {
        loop {
            if let Some(event) = self.take_queued() {
                return Ok(Some(event));
            }
            if self.hand_out(now)? {
                continue;
            }
            if self.no_more_splits && self.cursors.is_empty() && !self.told_finished {
                self.told_finished = true;
                self.alignment = None;
                return Ok(Some(ReaderEvent::Finished));
            }
            return Ok(None);
        }
    }

    fn hand_out(&mut self, now: Instant) -> Result<bool> {
        let ready = |slot: &u32| self.cursors.get(slot).is_some_and(|cursor| !cursor.paused);
        let Some(&slot) = self.turns.iter().find(|slot| ready(slot) && self.parts.contains_key(slot)) else {
            return Ok(self.take_fetched(now));
        };
        let (Some(cursor), Some(part)) = (self.cursors.get(&slot), self.parts.get_mut(&slot)) else {
            return Ok(false);
        };
        let Some(batch) = part.batches.front() else {
            let advance = cursor.skip_to(part.next, None);
            self.parts.remove(&slot);
            self.queue_nothing(slot, advance);
            return Ok(true);
        };
        self.last_data.insert(slot, now);
        let records = batch.records().map_err(milena::Error::from)?;
        let read = BatchRecords { batch: batch.borrowed(), records: records.iter() };
        let topic_partition = cursor.topic_partition().clone();
        let decoded = pieces::decode(read, &cursor.split, self.source.settings(), &mut *self.deserializer)?;
        part.batches.pop_front();
        let Pieces { before, chunks, .. } = pieces::time(decoded, slot, &mut self.progress, now);
        self.queue.extend(before.into_iter().map(|event| Queued::Event(reader_event(event))));
        for chunk in chunks {
            let batch = Batch {
                topic_partition: topic_partition.clone(),
                elements: chunk.elements,
                records: chunk.records,
            };
            self.queue.push_back(Queued::Elements { slot, batch, advance: chunk.advance });
            self.queue.extend(chunk.after.into_iter().map(|event| Queued::Event(reader_event(event))));
        }
        self.align();
        Ok(true)
    }

    /// Takes what the consumer has ready of the split whose turn it is.
    fn take_fetched(&mut self, now: Instant) -> bool {
        let is_ready = |slot: &u32| {
            let has_any = self.fetching.get(slot).is_some_and(|fetching| !fetching.ready.is_empty());
            has_any && self.cursors.get(slot).is_some_and(|cursor| !cursor.paused)
        };
        let Some(turn) = self.turns.iter().position(is_ready) else { return false };
        let Some(slot) = self.turns.remove(turn) else { return false };
        self.turns.push_back(slot);
        let (Some(cursor), Some(fetching)) = (self.cursors.get_mut(&slot), self.fetching.get_mut(&slot))
        else {
            return false;
        };
        match fetching.ready.pop_front() {
            None => return false,
            Some(Ready::Records(part)) => {
                cursor.on_records(fetching.end);
                self.parts.insert(slot, part);
                self.progress.on_behind(slot);
            }
            Some(Ready::End) => {
                let stop = cursor.on_end(fetching.end);
                let advance = stop.map(|stop| cursor.skip_to(stop, None));
                if let Some(advance) = advance {
                    self.queue_nothing(slot, advance);
                }
                self.progress.on_caught_up(slot, now);
            }
        }
        true
    }

    fn queue_nothing(&mut self, slot: u32, advance: Advance) {
        let Some(cursor) = self.cursors.get(&slot) else { return };
        let batch =
            Batch { topic_partition: cursor.topic_partition().clone(), elements: Vec::new(), records: 0 };
        self.queue.push_back(Queued::Elements { slot, batch, advance });
    }

    fn take_queued(&mut self) -> Option<ReaderEvent<u32>> {
        loop {
            match self.queue.pop_front()? {
                Queued::Event(event) => {
                    if let ReaderEvent::SplitFinished(finished) = &event {
                        self.ending.retain(|split| split.topic_partition != finished.topic_partition);
                    }
                    return Some(event);
                }
                Queued::Elements { slot, batch, advance } => {
                    if let Some(cursor) = self.cursors.get_mut(&slot) {
                        cursor.advance(advance);
                    }
                    self.end_if_finished(slot);
                    if !batch.elements.is_empty() || batch.records > 0 {
                        return Some(ReaderEvent::Records(batch));
                    }
                }
            }
        }
    }

    fn end_if_finished(&mut self, slot: u32) {
        let Some(cursor) = self.cursors.get(&slot).filter(|cursor| cursor.split.is_finished()) else {
            return;
        };
        let split = cursor.split.clone();
        self.finished.insert(split.topic_partition.clone(), position(&split));
        self.ending.push(split.clone());
        self.cursors.remove(&slot);
        self.fetching.remove(&slot);
        self.parts.remove(&slot);
        self.turns.retain(|turn| *turn != slot);
        self.progress.remove(slot);
        self.queue.push_back(Queued::Event(ReaderEvent::SplitFinished(split)));
        self.queue_progress();
    }

    fn queue_progress(&mut self) {
        while let Some(event) = self.progress.poll_event() {
            self.queue.push_back(Queued::Event(reader_event(event)));
        }
    }
}

fn position(split: &Split) -> Position {
    Position { offset: split.next_offset, leader_epoch: split.leader_epoch }
}

fn reader_event(event: ProgressEvent) -> ReaderEvent<u32> {
    match event {
        ProgressEvent::Watermark(watermark) => ReaderEvent::Watermark(watermark),
        ProgressEvent::Idle => ReaderEvent::Idle,
        ProgressEvent::Active => ReaderEvent::Active,
    }
}
