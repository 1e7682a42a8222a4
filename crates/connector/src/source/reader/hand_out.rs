//! From what was fetched to what is handed out: decoding, dead letters, alignment.

use std::sync::Arc;
use std::time::Instant;

use milena::{Producer, ProducerConfig, TopicPartition};

use super::{Batch, Queued, ReaderEvent, SourceReader, reader_event};
use crate::Result;
use crate::schema::OnRecordError;
use crate::source::cursor::Advance;
use crate::source::dead_letter;
use crate::source::pieces::{self, Decoded, Pieces};

/// A decoded batch that waits until its refused records are written elsewhere.
#[derive(Debug)]
pub(super) struct Held<T> {
    pub(super) slot: u32,
    topic_partition: TopicPartition,
    decoded: Decoded<T>,
}

impl<T> Queued<T> {
    /// A position that moves without elements.
    pub(super) fn nothing(slot: u32, topic_partition: TopicPartition, advance: Advance) -> Self {
        Self::Elements { slot, batch: Batch { topic_partition, elements: Vec::new(), records: 0 }, advance }
    }

    /// Whether these are elements of a split.
    pub(super) fn is_of(&self, slot: u32) -> bool {
        matches!(self, Self::Elements { slot: of, .. } if *of == slot)
    }
}

impl<T: Send + 'static> SourceReader<T> {
    /// Decodes the next piece of the split whose turn it is. `false` if nothing is at hand.
    pub(super) fn hand_out(&mut self, now: Instant) -> Result<bool> {
        if self.held.is_some() {
            return Ok(false);
        }
        let ready = |slot: &u32| self.cursors.get(slot).is_some_and(|cursor| !cursor.paused);
        let Some(place) = self.at_hand.iter().position(ready) else { return Ok(false) };
        let Some(&slot) = self.at_hand.get(place) else { return Ok(false) };
        let Some(cursor) = self.cursors.get_mut(&slot) else { return Ok(false) };
        let topic_partition = cursor.topic_partition().clone();
        let Some(part) = &cursor.part else {
            self.at_hand.remove(place);
            return Ok(true);
        };
        let Some(batch) = part.front() else {
            let advance = cursor.skip_to(part.next_offset(), part.leader_epoch());
            cursor.part = None;
            self.at_hand.remove(place);
            self.queue.push_back(Queued::nothing(slot, topic_partition, advance));
            return Ok(true);
        };
        // The batch stays at hand until all that came of it is queued: after an error it is looked at again.
        let offset = cursor.split.next_offset;
        let batch = batch.map_err(|error| crate::Error::from(error).with_offset(offset))?;
        let settings = self.source.settings();
        let decoded = pieces::decode(batch, &cursor.split, settings, &mut *self.deserializer)?;
        if decoded.refused.is_empty() {
            self.queue_decoded(slot, topic_partition, decoded, now);
        } else {
            self.hold(slot, topic_partition, decoded)?;
        }
        Ok(true)
    }

    fn queue_decoded(&mut self, slot: u32, at: TopicPartition, decoded: Decoded<T>, now: Instant) {
        let Some(cursor) = self.cursors.get_mut(&slot) else { return };
        if let Some(part) = &mut cursor.part {
            part.pop_front();
        }
        let Pieces { before, chunks, skipped, ends_at } =
            pieces::time(decoded, slot, &mut self.progress, now);
        self.metrics.skipped_records += skipped;
        if let Some(stop) = ends_at {
            cursor.end_at(stop);
            self.at_hand.retain(|other| *other != slot);
            if let Some(consumer) = &self.consumer {
                consumer.unassign([&at]);
            }
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

    /// Refused records were written, or could not be: then their batch is looked at again when the reader is asked again.
    pub(super) fn on_dead_letters(&mut self, slot: u32, answer: Result<u64>, now: Instant) -> Result<()> {
        let Some(Held { slot, topic_partition, decoded }) = self.held.take_if(|held| held.slot == slot)
        else {
            return Ok(());
        };
        self.metrics.dead_letters += answer?;
        self.queue_decoded(slot, topic_partition, decoded, now);
        Ok(())
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
            let paused = self.progress.split_watermark(*slot).is_some_and(|watermark| watermark > limit);
            if std::mem::replace(&mut cursor.paused, paused) == paused {
                continue;
            }
            self.progress.set_paused(*slot, paused);
            if let Some(consumer) = &self.consumer {
                let at = cursor.topic_partition();
                // A partition that is not assigned now is held back when it is.
                let _ = if paused { consumer.hold(at) } else { consumer.release(at) };
            }
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
