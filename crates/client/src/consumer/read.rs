//! A Fetch answer, part by part: held against what was asked, cut into batches, and made ready for the application.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use milena_core::fetch::{
    Asked, BatchHead, Cursors, Expected, Mismatch, Outcome, PartitionAnswer, Position, ReadTo, Ticket,
    Verdict, VisibleFilter,
};
use milena_protocol::compression::Compression;
use milena_protocol::fetch::{FetchView, Partition};
use milena_protocol::records::{RecordBatch, batches};
use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, ProducerId, TopicPartition};

use super::part::{Body, PartitionRecords};

/// What came of a partition, not yet looked at closely.
#[derive(Debug)]
pub(super) struct RawPart {
    pub(super) ticket: Ticket,
    tp: TopicPartition,
    asked: Asked,
    to: ReadTo,
    high_watermark: Option<Offset>,
    last_stable: Option<Offset>,
    log_start: Option<Offset>,
    batches: Vec<RecordBatch>,
    aborted: Vec<(ProducerId, Offset)>,
}

/// How answers are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) isolation: Isolation,
    pub(super) check_crcs: bool,
}

/// An answer that was handled.
#[derive(Debug, Default)]
pub(super) struct Handled {
    pub(super) parts: Vec<RawPart>,
    /// Parts that are not news any more.
    pub(super) stale: usize,
}

/// Hands an answer to the cursors; what came of it for the application.
///
/// # Errors
/// The answer does not fit the question. Then nothing of it was used.
pub(super) fn handle(
    cursors: &mut Cursors,
    now: Instant,
    broker: BrokerId,
    view: &FetchView,
    reading: Reading,
) -> Result<Handled, Mismatch> {
    let mut handled = Handled::default();
    let mut news = Vec::new();
    let mut topics = view.topics();
    if view.error_code().is_ok() {
        while let Some(topic) = topics.next_topic() {
            let number = cursors.topic_of(topic.key());
            for partition in topic {
                let number = number.ok_or_else(|| Mismatch::unknown_topic(partition.index()))?;
                match cursors.expect(broker, number, partition.index())? {
                    Expected::News { ticket, asked } => news.push((ticket, asked, partition)),
                    Expected::Stale => handled.stale += 1,
                }
            }
        }
    }
    if !cursors.handle_session(now, broker, view.error_code(), view.session_id())? {
        return Ok(handled);
    }
    handled.parts.reserve(news.len());
    for (ticket, asked, partition) in news {
        let mut batches = Vec::new();
        let read = cut(&mut batches, &partition, &asked, reading);
        let answer = PartitionAnswer {
            code: partition.error_code(),
            high_watermark: partition.high_watermark(),
            last_stable_offset: partition.last_stable_offset(),
            log_start: partition.log_start_offset(),
            preferred: partition.preferred_read_replica(),
            diverged_at: partition.diverging_epoch().map(|end| end.end_offset).filter(|end| end.0 >= 0),
            leader: partition.current_leader(),
            read,
        };
        let outcome = cursors.handle_partition(now, broker, ticket, &answer);
        let (Outcome::Deliver, Ok(Some(to)), Some(tp)) = (outcome, &answer.read, cursors.tp(ticket)) else {
            continue;
        };
        let aborted = match reading.isolation {
            Isolation::ReadCommitted => partition
                .aborted_transactions()
                .map(|aborted| (aborted.producer_id, aborted.first_offset))
                .collect(),
            Isolation::ReadUncommitted => Vec::new(),
        };
        handled.parts.push(RawPart {
            ticket,
            tp: tp.clone(),
            asked,
            to: *to,
            high_watermark: answer.high_watermark,
            last_stable: answer.last_stable_offset,
            log_start: answer.log_start,
            batches,
            aborted,
        });
    }
    cursors.handle_end(now, broker, view.throttle());
    Ok(handled)
}

/// Cuts the bytes into batches, up to the first whose head is wrong. That one is an error only when nothing is before it: what came well
/// is delivered, and the next fetch begins at the wrong one.
fn cut(
    good: &mut Vec<RecordBatch>,
    partition: &Partition<'_>,
    asked: &Asked,
    reading: Reading,
) -> Result<Option<ReadTo>, Arc<str>> {
    let records = partition.records();
    let bytes = records.len();
    if bytes == 0 {
        return Ok(None);
    }
    let mut end: Option<Offset> = None;
    let mut epoch: Option<LeaderEpoch> = None;
    for batch in batches(records) {
        let wrong: Arc<str> = match batch {
            Ok(batch) if end.is_some_and(|end| batch.base_offset() <= end) => {
                let (base, end) = (batch.base_offset(), end.unwrap_or_default());
                Arc::from(format!("a batch begins at offset {base}, after one that ends at {end}"))
            }
            Ok(mut batch) => {
                end = Some(batch.last_offset());
                // A broker may start a little early; what lies before the position is not news.
                if batch.last_offset() >= asked.offset {
                    epoch = batch.leader_epoch().or(epoch);
                    if !reading.check_crcs {
                        batch.skip_inner_crcs();
                    }
                    good.push(batch);
                }
                continue;
            }
            Err(error) => Arc::from(error.to_string()),
        };
        if good.is_empty() {
            return Err(wrong);
        }
        break;
    }
    match (good.last(), end) {
        (Some(last), _) => Ok(Some(ReadTo { next: last.next_offset(), epoch, bytes })),
        (None, Some(_)) => Err(Arc::from(format!("only batches before offset {} came", asked.offset))),
        (None, None) => {
            Err(Arc::from(format!("{bytes} bytes came, less than one batch; raise partition_max_bytes")))
        }
    }
}

/// Something that turned out to be unreadable: where, and why.
pub(super) struct Damage {
    pub(super) ticket: Ticket,
    pub(super) at: Position,
    pub(super) text: Arc<str>,
}

impl RawPart {
    /// How many bytes of it are compressed.
    pub(super) fn compressed_bytes(&self) -> usize {
        let compressed = self.batches.iter().filter(|batch| batch.compression() != Compression::None);
        compressed.map(RecordBatch::len_bytes).sum()
    }

    /// Verifies checksums and leaves out what the application may not see. What is behind a damage is left out as well.
    pub(super) fn check(self, reading: Reading) -> (PartitionRecords, Option<Damage>) {
        let mut filter = VisibleFilter::new(self.asked.offset, reading.isolation, &self.aborted);
        let mut next = Position { offset: self.to.next, epoch: self.to.epoch };
        let mut damage = None;
        let mut bodies = Vec::with_capacity(self.batches.len());
        let mut before = Position { offset: self.asked.offset, epoch: self.asked.last_epoch };
        for batch in self.batches {
            let verdict = if reading.check_crcs { batch.verify_crc() } else { Ok(()) };
            let verdict = verdict.and_then(|()| BatchHead::of(&batch)).map(|head| filter.handle_batch(&head));
            match verdict {
                Ok(verdict) => {
                    before = Position {
                        offset: batch.next_offset(),
                        epoch: batch.leader_epoch().or(before.epoch),
                    };
                    if verdict == Verdict::Show {
                        bodies.push(Body::new(batch));
                    }
                }
                Err(error) => {
                    next = before;
                    damage =
                        Some(Damage { ticket: self.ticket, at: before, text: Arc::from(error.to_string()) });
                    break;
                }
            }
        }
        let part = PartitionRecords {
            ticket: self.ticket,
            tp: self.tp,
            from: self.asked.offset,
            start: Position { offset: self.asked.offset, epoch: self.asked.last_epoch },
            next,
            bytes: self.to.bytes,
            high_watermark: self.high_watermark,
            last_stable: self.last_stable,
            log_start: self.log_start,
            bodies,
        };
        (part, damage)
    }
}

/// Milliseconds since 1970, so long ago.
pub(super) fn time_ago(age: std::time::Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX)
}
