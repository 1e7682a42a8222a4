//! From what was fetched to what is handed out: decoding, dead letters, alignment.

use std::sync::Arc;
use std::time::Instant;

use milena::{Producer, ProducerConfig, TopicPartition};

use super::{Batch, Queued, ReaderEvent, SourceReader, reader_event};
use crate::Result;
use crate::schema::OnRecordError;
use crate::source::cursor::{Advance, Cursor, Piece};
use crate::source::dead_letter;
use crate::source::pieces::{self, Decoded, Pieces};

/// A decoded batch that waits until its refused records are written elsewhere.
#[derive(Debug)]
pub(super) struct Held<T> {
    slot: u32,
    topic_partition: TopicPartition,
    decoded: Decoded<T>,
}

impl<T: Send + 'static> SourceReader<T> {
    /// Decodes the next piece of the split whose turn it is. `false` if nothing is at hand.
    pub(super) fn hand_out(&mut self, now: Instant) -> Result<bool> {
        if self.held.is_some() {
            return Ok(false);
        }
        let ready = |cursor: &Cursor| cursor.has_buffered() && !cursor.paused;
        let Some(turn) = self.turns.iter().position(|slot| self.cursors.get(slot).is_some_and(ready)) else {
            return Ok(false);
        };
        let Some(slot) = self.turns.remove(turn) else { return Ok(false) };
        self.turns.push_back(slot);
        let Some(cursor) = self.cursors.get_mut(&slot) else { return Ok(false) };
        let topic_partition = cursor.topic_partition().clone();
        match cursor.take_piece() {
            None => return Ok(false),
            Some(Piece::Skipped(next_offset)) => {
                let next_offset = cursor.split.stop.map_or(next_offset, |stop| stop.min(next_offset));
                let advance = Advance { next_offset, leader_epoch: None, max_timestamp: None };
                let batch = Batch { topic_partition, elements: Vec::new(), records: 0 };
                self.queue.push_back(Queued::Elements { slot, batch, advance });
            }
            Some(Piece::Batch(batch)) => {
                let settings = self.source.settings();
                let decoded = pieces::decode(&batch, &cursor.split, settings, &mut *self.deserializer);
                let decoded = decoded.inspect_err(|_| cursor.rewind())?;
                if decoded.refused.is_empty() {
                    self.queue_decoded(slot, topic_partition, decoded, now);
                } else {
                    self.hold(slot, topic_partition, decoded)?;
                }
            }
        }
        Ok(true)
    }

    fn queue_decoded(&mut self, slot: u32, at: TopicPartition, decoded: Decoded<T>, now: Instant) {
        let Some(cursor) = self.cursors.get_mut(&slot) else { return };
        let Pieces { before, chunks, skipped, ends_at } =
            pieces::time(decoded, slot, &mut self.progress, now);
        self.metrics.skipped_records += skipped;
        if let Some(stop) = ends_at {
            cursor.end_at(stop);
        }
        self.queue.extend(before.into_iter().map(|event| Queued::Event(reader_event(event))));
        for chunk in chunks {
            let batch =
                Batch { topic_partition: at.clone(), elements: chunk.elements, records: chunk.records };
            self.queue.push_back(Queued::Elements { slot, batch, advance: chunk.advance });
            self.queue.extend(chunk.after.into_iter().map(|event| Queued::Event(reader_event(event))));
        }
        // Marks that elements carry raise the watermark between two ticks.
        self.align();
    }

    /// Keeps what was decoded until its refused records are written.
    fn hold(&mut self, slot: u32, topic_partition: TopicPartition, mut decoded: Decoded<T>) -> Result<()> {
        let OnRecordError::DeadLetter { topic } = self.settings().on_record_error.clone() else {
            return Ok(());
        };
        let producer = match &self.dead_letters {
            Some(producer) => Arc::clone(producer),
            None => {
                let producer = Arc::new(Producer::new(&self.client, ProducerConfig::default())?);
                self.dead_letters = Some(Arc::clone(&producer));
                producer
            }
        };
        let refused = std::mem::take(&mut decoded.refused);
        self.work.push(dead_letter::write(&producer, &topic, slot, topic_partition.clone(), refused));
        self.held = Some(Held { slot, topic_partition, decoded });
        Ok(())
    }

    /// Refused records were written, or could not be: then their batch is fetched again when the reader is asked again.
    pub(super) fn on_dead_letters(&mut self, slot: u32, answer: Result<u64>, now: Instant) -> Result<()> {
        let Some(Held { slot, topic_partition, decoded }) = self.held.take_if(|held| held.slot == slot)
        else {
            return Ok(());
        };
        match answer {
            Ok(count) => {
                self.metrics.dead_letters += count;
                self.queue_decoded(slot, topic_partition, decoded, now);
                Ok(())
            }
            Err(error) => {
                if let Some(cursor) = self.cursors.get_mut(&slot) {
                    cursor.rewind();
                }
                Err(error)
            }
        }
    }

    /// What was held of a split that is not read any more.
    pub(super) fn drop_held(&mut self, slot: u32) {
        self.held.take_if(|held| held.slot == slot);
    }

    /// Reports where this reader is, and pauses the splits that are ahead of their group.
    pub(super) fn align(&mut self) {
        let (Some(alignment), Some(member)) = (&self.source.settings().alignment, &self.alignment) else {
            return;
        };
        member.report(self.progress.watermark().filter(|_| !self.progress.is_idle()));
        let limit = member.limit(alignment.max_drift);
        for (slot, cursor) in &mut self.cursors {
            cursor.paused = self.progress.split_watermark(*slot).is_some_and(|watermark| watermark > limit);
            self.progress.set_paused(*slot, cursor.paused);
        }
    }

    /// Hands out what is queued and moves the position with it.
    pub(super) fn take_queued(&mut self) -> Option<ReaderEvent<T>> {
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
                    self.metrics.records += batch.records;
                    self.end_if_finished(slot);
                    if !batch.elements.is_empty() || batch.records > 0 {
                        return Some(ReaderEvent::Records(batch));
                    }
                }
            }
        }
    }
}
