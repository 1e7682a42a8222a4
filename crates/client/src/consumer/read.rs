//! A Fetch answer, part by part: held against what was asked, cut into batches, and made ready for the application.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use milena_core::fetch::{
    Asked, BatchHead, Cursors, Expected, Mismatch, Outcome, PartitionAnswer, Position, ReadTo, Ticket,
    Verdict, VisibleFilter,
};
use milena_protocol::compression::Compression;
use milena_protocol::error::Result as Parsed;
use milena_protocol::fetch::FetchView;
use milena_protocol::records::{BatchExtent, BatchRef};
use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, ProducerId, TopicPartition};

use super::part::{PartitionRecords, Shown};
use crate::connection::LONGEST_REST;

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
    /// What is news, to the end of the last whole batch.
    news: Bytes,
    aborted: Vec<(ProducerId, Offset)>,
}

/// How answers are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) isolation: Isolation,
    pub(super) check_crcs: bool,
    /// What a batch may decompress to.
    pub(super) max_batch_bytes: usize,
}

/// An answer that was handled.
#[derive(Debug, Default)]
pub(super) struct Handled {
    pub(super) parts: Vec<RawPart>,
    /// Parts that are not news any more.
    pub(super) stale: usize,
    /// How long the broker wants to be left alone.
    pub(super) rest: Duration,
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
    let nothing = news.is_empty() && handled.stale == 0;
    handled.parts.reserve(news.len());
    for (ticket, asked, partition) in news {
        let (read, place) = match cut(partition.record_bytes(), &asked) {
            Ok(Some((read, place))) => (Ok(Some(read)), place),
            Ok(None) => (Ok(None), 0..0),
            Err(wrong) => (Err(wrong), 0..0),
        };
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
            news: partition.records().slice(place),
            aborted,
        });
    }
    // Brokers that speak no higher version waited before they answered, with what they had; newer ones name nothing when they hold back.
    let rest =
        if view.version() >= 8 || nothing { view.throttle().min(LONGEST_REST) } else { Duration::ZERO };
    cursors.handle_end(now, broker, rest);
    handled.rest = rest;
    Ok(handled)
}

/// Finds the batches that are news, up to the first that does not follow; and where reading goes on behind them. A wrong one is an error
/// only when nothing is before it: what came well is delivered, and the next fetch begins at the wrong one.
///
/// This much has to be known for the next request. The rest of the heads, and the checksums, are looked at when that is on its way.
fn cut(records: &[u8], asked: &Asked) -> Result<Option<(ReadTo, Range<usize>)>, Arc<str>> {
    let bytes = records.len();
    if bytes == 0 {
        return Ok(None);
    }
    let mut at = 0;
    let mut from = None;
    let mut last: Option<BatchExtent> = None;
    let mut epoch: Option<LeaderEpoch> = None;
    while let Some(batch) = BatchExtent::read(records.get(at..).unwrap_or_default()).transpose() {
        let wrong: Arc<str> = match (batch, last) {
            (Ok(batch), Some(last)) if batch.base_offset <= last.last_offset => {
                let (base, end) = (batch.base_offset, last.last_offset);
                Arc::from(format!("a batch begins at offset {base}, after one that ends at {end}"))
            }
            (Ok(batch), _) => {
                // A broker may start a little early; what lies before the position is not news.
                if batch.last_offset >= asked.offset {
                    epoch = batch.leader_epoch.or(epoch);
                    from.get_or_insert(at);
                }
                at += batch.bytes;
                last = Some(batch);
                continue;
            }
            (Err(error), _) => Arc::from(error.to_string()),
        };
        if from.is_none() {
            return Err(wrong);
        }
        break;
    }
    match (from, last) {
        (Some(from), Some(last)) => Ok(Some((ReadTo { next: last.last_offset + 1, epoch, bytes }, from..at))),
        (None, Some(_)) => Err(Arc::from(format!("only batches before offset {} came", asked.offset))),
        (_, None) => {
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
    /// Verifies checksums and leaves out what the application may not see. What is behind a damage is left out as well.
    pub(super) fn check(self, reading: Reading) -> (PartitionRecords, Option<Damage>) {
        let mut filter = VisibleFilter::new(self.asked.offset, reading.isolation, &self.aborted);
        let start = Position { offset: self.asked.offset, epoch: self.asked.last_epoch };
        let mut next = Position { offset: self.to.next, epoch: self.to.epoch };
        let mut damage = None;
        let mut shown = Shown::new(self.news);
        let news = shown.bytes.clone();
        let (mut rest, mut before) = (&*news, start);
        loop {
            let at = news.len() - rest.len();
            match judge(&mut rest, &mut filter, reading) {
                Ok(Some((batch, verdict))) => {
                    before = Position {
                        offset: batch.next_offset(),
                        epoch: batch.leader_epoch().or(before.epoch),
                    };
                    if verdict == Verdict::Show {
                        shown.push(at..news.len() - rest.len());
                        if batch.compression() != Compression::None {
                            shown.push_packed(at, &batch, reading);
                        }
                    }
                }
                Ok(None) => break,
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
            start,
            next,
            bytes: self.to.bytes,
            high_watermark: self.high_watermark,
            last_stable: self.last_stable,
            log_start: self.log_start,
            shown,
        };
        (part, damage)
    }
}

/// Whether the next batch may be seen.
#[inline]
fn judge<'a>(
    rest: &mut &'a [u8],
    filter: &mut VisibleFilter,
    reading: Reading,
) -> Parsed<Option<(BatchRef<'a>, Verdict)>> {
    let Some(batch) = BatchRef::parse(rest)? else { return Ok(None) };
    if reading.check_crcs {
        batch.verify_crc()?;
    }
    let verdict = filter.handle_batch(&BatchHead::of(&batch)?);
    Ok(Some((batch, verdict)))
}

/// Milliseconds since 1970, so long ago.
pub(super) fn time_ago(age: std::time::Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX)
}
