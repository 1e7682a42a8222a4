//! From a fetched batch to elements: deserialize, find the stop, ask the event time, and cut where something is due in
//! between. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use milena::{BatchRecords, LeaderEpoch, Offset, TopicPartition};

use super::builder::SourceSettings;
use super::cursor::Advance;
use super::dead_letter::DeadLetter;
use super::split::Split;
use crate::progress::{Progress, ProgressEvent};
use crate::schema::{Collector, Deserializer, OnRecordError, SourceRecord, Stamped};
use crate::{Error, ErrorKind, Result};

/// A run of elements of one partition, with nothing due in between.
#[derive(Debug)]
pub(super) struct Chunk<T> {
    pub(super) elements: Vec<Stamped<T>>,
    /// Records these elements were made of, those that gave none included.
    pub(super) records: u64,
    /// Where the split stands once these are handed out.
    pub(super) advance: Advance,
    /// What is due after the last of them.
    pub(super) after: Vec<ProgressEvent>,
}

/// What came of a batch.
#[derive(Debug)]
pub(super) struct Pieces<T> {
    /// What is due before the first element.
    pub(super) before: Vec<ProgressEvent>,
    pub(super) chunks: VecDeque<Chunk<T>>,
    /// Records that the deserializer refused and the policy leaves out.
    pub(super) skipped: u64,
    /// The stream said that it ends before this offset.
    pub(super) ends_at: Option<Offset>,
}

/// The elements of a batch, before event time is asked.
#[derive(Debug)]
pub(super) struct Decoded<T> {
    elements: Vec<Stamped<T>>,
    records: u64,
    skipped: u64,
    ends_at: Option<Offset>,
    /// Where the split stands once all of it is handed out.
    end: Offset,
    leader_epoch: Option<LeaderEpoch>,
    /// Records that go to the dead-letter topic first.
    pub(super) refused: Vec<DeadLetter>,
}

/// Asks the event time of what was decoded and cuts it where something is due in between.
pub(super) fn time<T>(decoded: Decoded<T>, slot: u32, progress: &mut Progress<T>, now: Instant) -> Pieces<T> {
    let Decoded { mut elements, records, skipped, ends_at, end, leader_epoch, .. } = decoded;
    let timed = progress.on_batch(slot, &mut elements, now);
    let chunks = cut(elements, timed.events, records, |next_offset, max_timestamp| Advance {
        next_offset: next_offset.unwrap_or(end),
        leader_epoch,
        max_timestamp,
    });
    Pieces { before: timed.before, chunks, skipped, ends_at }
}

/// Reads the records of a batch from the split's position on.
pub(super) fn decode<T: Send + 'static>(
    read: BatchRecords<'_>,
    split: &Split,
    settings: &SourceSettings<T>,
    deserializer: &mut dyn Deserializer<T>,
) -> Result<Decoded<T>> {
    let at = &split.topic_partition;
    let unreadable = |error: milena::protocol::error::ProtocolError, offset: Offset| {
        Error::from(milena::Error::from(error)).with_topic_partition(at.clone()).with_offset(offset)
    };
    let BatchRecords { batch, records } = read;
    let (mut count, mut skipped, mut ends_at) = (0, 0, None);
    let mut refused = Vec::new();
    let mut position = split.next_offset.max(batch.base_offset());
    let span = batch.next_offset().0.saturating_sub(position.0);
    let mut collector = Collector::with_room(usize::try_from(span).unwrap_or(0));
    for record in records {
        let record = record.map_err(|error| unreadable(error, position))?;
        if record.offset < split.next_offset {
            continue;
        }
        if split.stop.is_some_and(|stop| record.offset >= stop) {
            break;
        }
        position = record.offset;
        count += 1;
        let view = SourceRecord {
            topic: &at.topic,
            partition: at.partition,
            offset: record.offset,
            leader_epoch: batch.leader_epoch(),
            timestamp: record.timestamp,
            timestamp_type: batch.timestamp_type(),
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let before = collector.len();
        collector.begin(record.timestamp, record.offset);
        if let Err(error) = deserializer.deserialize(&view, &mut collector) {
            collector.truncate(before);
            match &settings.on_record_error {
                OnRecordError::Fail => return Err(refusal(at, record.offset, error)),
                OnRecordError::Skip => {
                    skipped += 1;
                    let error = refusal(at, record.offset, error);
                    tracing::warn!(%error, "a record is left out");
                }
                OnRecordError::DeadLetter { .. } => refused.push(DeadLetter::of(&view, error)),
            }
        }
        if let Some(is_end) = &settings.end_of_stream {
            let new = collector.elements_mut().get(before..).unwrap_or_default();
            if let Some(index) = new.iter().position(|element| is_end(&element.value)) {
                collector.truncate(before + index);
                // Elements of the same record before the end are handed out, so the record itself counts as read.
                ends_at = Some(if index == 0 { record.offset } else { record.offset + 1 });
                break;
            }
        }
    }
    let end = ends_at
        .unwrap_or_else(|| split.stop.map_or(batch.next_offset(), |stop| stop.min(batch.next_offset())));
    let (elements, leader_epoch) = (collector.into_elements(), batch.leader_epoch());
    Ok(Decoded { elements, records: count, skipped, ends_at, end, leader_epoch, refused })
}

pub(super) fn refusal(at: &TopicPartition, offset: Offset, error: crate::BoxError) -> Error {
    Error::new(ErrorKind::Schema, "the deserializer refuses the record")
        .with_topic_partition(at.clone())
        .with_offset(offset)
        .with_source(error)
}

/// Cuts elements where an event is due. A record's elements stay together: a checkpoint can't stand between them, so an event is
/// moved behind the last of them.
fn cut<T>(
    mut elements: Vec<Stamped<T>>,
    events: Vec<(usize, ProgressEvent)>,
    records: u64,
    advance: impl Fn(Option<Offset>, Option<i64>) -> Advance,
) -> VecDeque<Chunk<T>> {
    let mut chunks: VecDeque<Chunk<T>> = VecDeque::new();
    let mut taken = 0;
    for (index, event) in events {
        if let Some(chunk) = chunks.back_mut().filter(|_| index < taken) {
            chunk.after.push(event);
            continue;
        }
        let here = index - taken;
        let Some(offset) = elements.get(here).map(|element| element.offset) else { continue };
        let together = elements.iter().skip(here).take_while(|element| element.offset == offset).count();
        let rest = elements.split_off(here + together);
        taken += elements.len();
        let max_timestamp = elements.iter().map(|element| element.timestamp).max();
        let advance = advance(Some(offset + 1), max_timestamp);
        chunks.push_back(Chunk {
            elements: std::mem::replace(&mut elements, rest),
            records: 0,
            advance,
            after: vec![event],
        });
    }
    let max_timestamp = elements.iter().map(|element| element.timestamp).max();
    chunks.push_back(Chunk { elements, records, advance: advance(None, max_timestamp), after: Vec::new() });
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(offset: i64) -> Stamped<()> {
        Stamped { value: (), timestamp: offset * 10, offset: Offset(offset) }
    }

    fn advance(next_offset: Option<Offset>, max_timestamp: Option<i64>) -> Advance {
        Advance { next_offset: next_offset.unwrap_or(Offset(100)), leader_epoch: None, max_timestamp }
    }

    #[test]
    fn a_cut_never_separates_the_elements_of_one_record() {
        let elements = [1, 2, 2, 2, 5].map(stamped).to_vec();
        let mark = ProgressEvent::Watermark;
        let chunks = cut(elements, vec![(1, mark(7)), (2, mark(8)), (4, mark(9))], 4, advance);
        let shape: Vec<_> =
            chunks.iter().map(|c| (c.elements.len(), c.advance.next_offset.0, c.after.len())).collect();
        assert_eq!(shape, [(4, 3, 2), (1, 6, 1), (0, 100, 0)]);
        assert_eq!(chunks.iter().map(|chunk| chunk.records).sum::<u64>(), 4);
    }

    #[test]
    fn without_events_a_batch_is_one_chunk() {
        let chunks = cut([1, 2].map(stamped).to_vec(), Vec::new(), 2, advance);
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].advance, advance(None, Some(20)));
    }
}
