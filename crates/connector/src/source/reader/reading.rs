//! The reader and its consumer: what is read, what came, and what the consumer gives up.

use std::collections::HashMap;
use std::time::Instant;

use milena::{
    Consumer, ConsumerConfig, ErrorCode, Isolation, PartitionRecords, PartitionState, PartitionStatus, Start,
    StatusReason, TopicPartition,
};

use super::{Queued, SourceReader};
use crate::Result;
use crate::source::cursor::CursorState;
use crate::source::fetching::{self, Found};
use crate::source::reader_metrics::{ReaderMetrics, SplitMetrics};

/// What the consumer knows of each partition.
pub(super) type States = HashMap<TopicPartition, PartitionState>;

impl<T: Send + 'static> SourceReader<T> {
    /// Has a split read, from its position to its stop.
    pub(super) fn attach(&mut self, slot: u32) -> Result<()> {
        let Some(cursor) = self.cursors.get(&slot).filter(|cursor| !cursor.split.is_finished()) else {
            return Ok(());
        };
        let consumer = match &self.consumer {
            Some(consumer) => consumer,
            None => self.consumer.insert(Consumer::new(&self.client, self.source.settings().consumer())?),
        };
        let (at, split) = (cursor.topic_partition(), &cursor.split);
        let from = milena::Position { offset: split.next_offset, epoch: split.leader_epoch };
        if consumer.partition(at).is_some() {
            consumer.seek(at, Start::At(from))?;
        } else {
            consumer.assign([(at.clone(), Start::At(from))]);
        }
        consumer.stop_at(at, split.stop)?;
        if cursor.paused {
            consumer.hold(at)?;
        }
        Ok(())
    }

    /// Takes the next of what the consumer has ready. Whether there was anything.
    pub(super) fn take_fetched(&mut self, now: Instant) -> Result<bool> {
        match &mut self.consumer {
            Some(consumer) => {
                let fetched = consumer.try_poll();
                self.on_fetched(fetched, now)
            }
            None => Ok(false),
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        fetched: milena::Result<Option<PartitionRecords>>,
        now: Instant,
    ) -> Result<bool> {
        match fetched {
            Ok(None) => return Ok(false),
            Ok(Some(part)) => self.on_part(part, now),
            Err(error) => self.on_given_up(error, now)?,
        }
        Ok(true)
    }

    fn on_part(&mut self, part: PartitionRecords, now: Instant) {
        let isolation = self.settings().isolation;
        let Some(&slot) = self.slots.get(part.tp()) else { return };
        let Some(cursor) = self.cursors.get_mut(&slot) else { return };
        let end = end_of(isolation, part.last_stable_offset(), part.high_watermark());
        if !part.is_end() {
            self.metrics.bytes += part.len_bytes() as u64;
            cursor.on_records(end);
            cursor.part = Some(part);
            self.at_hand.push_back(slot);
            self.progress.on_behind(slot);
            return;
        }
        if let Some(stop) = cursor.on_end(end) {
            let advance = cursor.skip_to(stop, None);
            self.queue.push_back(Queued::nothing(slot, part.tp().clone(), advance));
        }
        self.progress.on_caught_up(slot, now);
    }

    /// The consumer does not read a partition any more, or cannot ask a broker at all.
    fn on_given_up(&mut self, error: milena::Error, now: Instant) -> Result<()> {
        let (Some(topic), Some(partition)) = (error.topic(), error.partition()) else {
            return Err(error.into());
        };
        let at = TopicPartition::new(topic, partition);
        // It may be the error of another topic under the same name.
        self.check_topics()?;
        let Some(&slot) = self.slots.get(&at) else { return Ok(()) };
        let state = self.consumer.as_ref().and_then(|consumer| consumer.partition(&at));
        let Some(PartitionStatus::Failed { reason }) = state.map(|state| state.status) else { return Ok(()) };
        self.progress.on_unknown(slot);
        self.troubled.push(slot);
        if let StatusReason::Truncated { at: diverged, .. } = reason {
            return self.handle_diverged(slot, diverged, error, now);
        }
        if let Some(cursor) = self.cursors.get_mut(&slot) {
            cursor.state = CursorState::Stopped(error);
        }
        self.tend(now)
    }

    /// Looks after splits that are not read: those that wait long enough are read again, and what the consumer gave up is acted on once
    /// all that was fetched before is handed out.
    pub(super) fn tend(&mut self, now: Instant) -> Result<()> {
        let mut first = Ok(());
        for slot in std::mem::take(&mut self.troubled) {
            let waiting = self.is_waiting(slot);
            let Some(cursor) = self.cursors.get_mut(&slot) else { continue };
            let done = match &mut cursor.state {
                CursorState::Reading | CursorState::Drained => continue,
                CursorState::Waiting { until, .. } if *until <= now => {
                    cursor.state = CursorState::Reading;
                    self.attach(slot)
                }
                CursorState::Stopped(_) if !waiting => {
                    let state = std::mem::replace(&mut cursor.state, CursorState::Checking);
                    self.troubled.push(slot);
                    match state {
                        CursorState::Stopped(error) => self.act_on(slot, error, now),
                        _ => Ok(()),
                    }
                }
                CursorState::Checking | CursorState::Waiting { .. } | CursorState::Stopped(_) => {
                    self.troubled.push(slot);
                    Ok(())
                }
            };
            first = first.and(done);
        }
        first
    }

    /// Acts on the error of a split of which nothing is left to be handed out.
    fn act_on(&mut self, slot: u32, error: milena::Error, now: Instant) -> Result<()> {
        let Some(cursor) = self.cursors.get(&slot) else { return Ok(()) };
        if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) || error.kind() == milena::ErrorKind::DataLoss
        {
            let at = cursor.topic_partition().clone();
            self.work.push(fetching::range(&self.client, slot, at, Found::OutOfRange));
            return Ok(());
        }
        self.handle_refusal(slot, error, now)
    }

    /// Whether something of a split was fetched and not handed out.
    fn is_waiting(&self, slot: u32) -> bool {
        let Some(cursor) = self.cursors.get(&slot) else { return false };
        let fetched = || {
            let state = self.consumer.as_ref()?.partition(cursor.topic_partition())?;
            Some(state.buffered > 0)
        };
        cursor.part.is_some()
            || self.held.as_ref().is_some_and(|held| held.slot == slot)
            || self.queue.iter().any(|queued| queued.is_of(slot))
            || fetched().unwrap_or(false)
    }

    /// Drops what was fetched of a split and not handed out.
    pub(super) fn drop_fetched(&mut self, slot: u32) {
        if let Some(cursor) = self.cursors.get_mut(&slot) {
            cursor.part = None;
        }
        self.at_hand.retain(|other| *other != slot);
        self.drop_held(slot);
        self.drop_queued(slot);
    }

    pub(super) fn drop_queued(&mut self, slot: u32) {
        self.queue.retain(|queued| !queued.is_of(slot));
    }

    pub(super) fn states(&self) -> States {
        let states = self.consumer.as_ref().map(Consumer::partitions).unwrap_or_default();
        states.into_iter().map(|state| (state.tp.clone(), state)).collect()
    }

    /// What the answers said of the ends of logs since the last look.
    pub(super) fn note_ends(&mut self, states: &States) {
        let isolation = self.settings().isolation;
        for (slot, cursor) in &mut self.cursors {
            let Some(state) = states.get(cursor.topic_partition()) else { continue };
            cursor.end = end_of(isolation, state.last_stable_offset, state.high_watermark).or(cursor.end);
            match state.caught_up {
                _ if state.failing_since.is_some() || state.status == PartitionStatus::WaitingForLeader => {
                    self.progress.on_unknown(*slot);
                }
                Some(at) if cursor.part.is_none() && state.buffered == 0 => {
                    self.progress.on_caught_up(*slot, at);
                }
                _ => {}
            }
        }
    }

    /// The counters and where each split stands.
    #[must_use]
    pub fn metrics(&self) -> ReaderMetrics {
        self.metrics_of(&self.states())
    }

    pub(super) fn metrics_of(&self, states: &States) -> ReaderMetrics {
        let committed = self.commits.committed();
        let splits = self.cursors.iter().map(|(slot, cursor)| SplitMetrics {
            topic_partition: cursor.topic_partition().clone(),
            position: cursor.split.next_offset,
            end: cursor.end,
            committed: committed.get(cursor.topic_partition()).map(|position| position.offset),
            read_from: states.get(cursor.topic_partition()).and_then(|state| match state.status {
                PartitionStatus::Fetching { broker } => Some(broker),
                _ => None,
            }),
            waits_for: match &cursor.state {
                _ if cursor.paused => Some("others of its alignment group".to_owned()),
                CursorState::Reading => {
                    states.get(cursor.topic_partition()).and_then(|state| waits_for(&state.status))
                }
                CursorState::Stopped(error) => Some(error.to_string()),
                CursorState::Waiting { why, .. } => Some(why.clone()),
                CursorState::Checking => Some("the range of its log".to_owned()),
                CursorState::Drained => Some("nothing: it is fetched to its stop".to_owned()),
            },
            watermark: self.progress.split_watermark(*slot),
            idle: self.progress.is_split_idle(*slot),
            paused: cursor.paused,
        });
        let at_hand = self.cursors.values().filter_map(|cursor| cursor.part.as_ref());
        let at_hand: usize = at_hand.map(PartitionRecords::len_bytes).sum();
        ReaderMetrics {
            splits: splits.collect(),
            buffered_bytes: at_hand + states.values().map(|state| state.buffered).sum::<usize>(),
            commits: self.commits.metrics(),
            watermark: self.progress.watermark(),
            ..self.metrics.clone()
        }
    }
}

impl<T> crate::source::builder::SourceSettings<T> {
    /// How the consumer of a reader reads. Where it starts is always a number, and what is lost is the reader's business.
    fn consumer(&self) -> ConsumerConfig {
        let fetch = self.fetch;
        ConsumerConfig {
            isolation: self.isolation,
            check_crcs: fetch.check_crcs,
            max_wait: fetch.max_wait,
            min_bytes: fetch.min_bytes,
            max_bytes: fetch.max_bytes,
            partition_max_bytes: fetch.partition_max_bytes,
            buffer_bytes: fetch.prefetch_bytes.max(LEAST_BUFFER),
            max_batch_bytes: fetch.max_batch_bytes,
            progress: true,
            rack: self.rack.as_ref().and_then(|rack| rack()).filter(|rack| !rack.is_empty()),
            ..ConsumerConfig::default()
        }
    }
}

/// With less, one request could not bring an ordinary batch.
const LEAST_BUFFER: usize = 256 << 10;

/// The end of what this isolation may read.
fn end_of(
    isolation: Isolation,
    last_stable: Option<milena::Offset>,
    high_watermark: Option<milena::Offset>,
) -> Option<milena::Offset> {
    match isolation {
        Isolation::ReadCommitted => last_stable.or(high_watermark),
        Isolation::ReadUncommitted => high_watermark,
    }
}

/// Why the consumer is not fetching a partition; `None` if it is.
fn waits_for(status: &PartitionStatus) -> Option<String> {
    Some(match status {
        PartitionStatus::Fetching { .. } => return None,
        PartitionStatus::Queued { .. } => "its turn".to_owned(),
        PartitionStatus::Throttled { .. } => "a quota of its broker".to_owned(),
        PartitionStatus::Buffered { .. }
        | PartitionStatus::Held { .. }
        | PartitionStatus::Paused
        | PartitionStatus::WaitingForRoom { .. } => "the job to catch up".to_owned(),
        PartitionStatus::BackOff { reason, .. } | PartitionStatus::Failed { reason } => reason.to_string(),
        PartitionStatus::WaitingForLeader => "a leader".to_owned(),
        PartitionStatus::Resetting => "its start".to_owned(),
        PartitionStatus::Validating { .. } => "its new leader to know its position".to_owned(),
        PartitionStatus::AtStop => "nothing: it is fetched to its stop".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::schema::StringDeserializer;
    use crate::source::{KafkaSource, KafkaSourceBuilder};

    fn builder() -> KafkaSourceBuilder<String> {
        let client = milena::ClientConfig::new(["a:1"]);
        KafkaSource::builder().client(client).topics(["t"]).deserializer(StringDeserializer)
    }

    // scenario: 5.4.40
    #[test]
    fn a_rack_is_told_to_the_broker_and_an_empty_one_is_not() {
        let rack = |builder: KafkaSourceBuilder<String>| builder.build().unwrap().settings().consumer().rack;
        assert_eq!(rack(builder()), None);
        assert_eq!(rack(builder().rack("r")).as_deref(), Some("r"));
        assert_eq!(rack(builder().rack("")), None);
        assert_eq!(rack(builder().rack_supplier(|| None)), None);
    }

    /// Flink asks on the machine where the reader runs, and only if it reads anything.
    #[test]
    fn the_rack_is_asked_for_when_a_reader_needs_it() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let source = builder().rack_supplier(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Some("r".to_owned())
        });
        let source = source.build().unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        source.settings().consumer();
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_small_buffer_counts_as_the_least_that_works() {
        let fetch = crate::source::builder::FetchSettings {
            prefetch_bytes: 1,
            max_batch_bytes: 2,
            ..Default::default()
        };
        let config = builder().fetch(fetch).build().unwrap().settings().consumer();
        assert_eq!((config.buffer_bytes, config.max_batch_bytes), (LEAST_BUFFER, 2));
        config.validate().unwrap();
    }
}
