//! How records get in: checked, given a partition, encoded into its open batch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use milena_core::partition::{self, Standing};
use milena_core::produce::Refused;
use milena_core::produce::accumulator::{Entry, Opening, Supply};
use milena_protocol::records::{Header, Run};
use milena_protocol::types::PartitionId;

use super::config::{Partitioner, Partitioning};
use super::engine::{Engine, OPEN};
use super::record::ProducerRecord;
use super::slot::{Clock, Slot, SlotState, TopicSlots, now_ms, same};
use super::ticket::{Adding, BatchState, Tickets};
use super::timer::CLOCK_AGE;
use crate::error::{Error, Result};

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No room now.
    Full,
    /// The topic, or a partition of it, is not known yet.
    Unknown,
    /// It never will be.
    Error(Error),
}

/// The partition of the records before, its lock held.
struct Held<'a> {
    topic: &'a str,
    slot: &'a Arc<Slot>,
    state: MutexGuard<'a, SlotState>,
}

impl Held<'_> {
    /// Whether a record names this partition.
    #[inline]
    fn is_of(&self, record: &ProducerRecord<'_>) -> bool {
        names(record, self.topic, self.slot)
    }
}

/// Whether two names are the same. Most often it is one text in one place: to compare it each time would cost as much as all else here.
#[inline]
fn is_topic(one: &str, other: &str) -> bool {
    std::ptr::eq(one, other) || same(one, other)
}

/// Whether a record names a partition of a topic.
#[inline]
fn names(record: &ProducerRecord<'_>, topic: &str, slot: &Slot) -> bool {
    record.partition == Some(slot.tp.partition) && is_topic(topic, record.topic)
}

impl Engine {
    /// Encodes a record into its partition's open batch, if there is room. `take` gets the batch, the record's place in it and its time.
    #[inline]
    pub(crate) fn push<T>(
        &self,
        record: &ProducerRecord<'_>,
        take: impl FnOnce(&Arc<BatchState>, u32, i64) -> T,
    ) -> Result<T, Refusal> {
        self.check_open()?;
        let bytes = self.check_size(record)?;
        let topic = self.topics.find(record.topic).ok_or(Refusal::Unknown)?;
        let partition = self.choose(topic, record, bytes)?;
        let slot = topic.slot(partition).ok_or(Refusal::Unknown)?;
        self.append(slot, &mut slot.state(), record, take)
    }

    /// [`push`](Self::push) of records one after the other until one is refused; returns how many were taken. A run of records to one
    /// partition is taken under one lock.
    pub(crate) fn push_all(
        &self,
        records: &[ProducerRecord<'_>],
        tickets: &mut Tickets,
    ) -> (usize, Result<(), Refusal>) {
        let mut taken = 0;
        // Others want the lock too.
        for run in records.chunks(LONGEST_RUN) {
            let result = self.push_run(run, tickets, &mut taken);
            if result.is_err() {
                return (taken, result);
            }
        }
        (taken, Ok(()))
    }

    fn push_run(
        &self,
        records: &[ProducerRecord<'_>],
        tickets: &mut Tickets,
        taken: &mut usize,
    ) -> Result<(), Refusal> {
        self.check_open()?;
        let mut topic: Option<(&str, &Arc<TopicSlots>)> = None;
        let mut held: Option<Held<'_>> = None;
        let mut tickets = Adding::new(tickets);
        let foreign = matches!(self.config.partitioner, Partitioner::Custom(_));
        let mut rest = records;
        while let Some(record) = rest.first() {
            let bytes = self.check_size(record)?;
            let held = match &mut held {
                Some(held) if held.is_of(record) => held,
                held => {
                    let here = match topic {
                        Some((name, topic)) if is_topic(name, record.topic) => topic,
                        _ => {
                            topic
                                .insert((
                                    record.topic,
                                    self.topics.find(record.topic).ok_or(Refusal::Unknown)?,
                                ))
                                .1
                        }
                    };
                    if foreign {
                        // No code of the application runs under a lock: it may send.
                        *held = None;
                    }
                    let slot = here.slot(self.choose(here, record, bytes)?).ok_or(Refusal::Unknown)?;
                    match held {
                        Some(held) if Arc::ptr_eq(held.slot, slot) => held,
                        _ => {
                            // Never two at a time.
                            *held = None;
                            held.insert(Held { topic: record.topic, slot, state: slot.state() })
                        }
                    }
                }
            };
            let appended = match self.append_run(held, rest, &mut tickets) {
                0 => {
                    self.append(held.slot, &mut held.state, record, |batch, index, time| {
                        tickets.add(batch, index..index + 1, time);
                    })?;
                    1
                }
                appended => appended,
            };
            *taken += appended;
            rest = rest.get(appended..).unwrap_or_default();
        }
        Ok(())
    }

    /// Encodes those records into the open batch that come next, are plain and name this partition, as many as fit it. Returns how many; 0 if
    /// the first is one for [`append`](Self::append).
    #[inline]
    fn append_run(
        &self,
        held: &mut Held<'_>,
        records: &[ProducerRecord<'_>],
        tickets: &mut Adding<'_>,
    ) -> usize {
        // One alone is no run. Most runs are of one size, so the larger of two tells what all need.
        let [first, second, ..] = records else { return 0 };
        let Held { topic, slot, state } = held;
        let plain = |record: &ProducerRecord<'_>| names(record, topic, slot) && record.headers.is_empty();
        if !plain(first) || !plain(second) {
            return 0;
        }
        let records = records.get(..SHORT_RUN).unwrap_or(records);
        let bytes = Run::bytes(first.key, first.value).max(Run::bytes(second.key, second.value));
        let now = match state.clock {
            Clock::Fresh(time) => time,
            Clock::Stale => now_ms(),
        };
        let mut timed = false;
        let appended = state.batches.push_run(bytes.saturating_mul(records.len()), |batch| {
            for record in records {
                if !plain(record) || self.check_size(record).is_err() {
                    break;
                }
                timed |= record.timestamp.is_some();
                if !batch.push(record.timestamp.unwrap_or(now), record.key, record.value) {
                    break;
                }
            }
        });
        let Some((batch, places)) = appended else { return 0 };
        let count = places.len();
        if timed {
            for (index, record) in places.zip(records) {
                tickets.add(batch, index..index + 1, record.timestamp.unwrap_or(now));
            }
        } else {
            tickets.add(batch, places, now);
        }
        count
    }

    #[inline]
    fn check_open(&self) -> Result<(), Refusal> {
        if self.gate.load(Ordering::Relaxed) != OPEN {
            return Err(Refusal::Error(self.refusal()));
        }
        match &self.link {
            Some(link) => link.check_send().map_err(Refusal::Error),
            None => Ok(()),
        }
    }

    /// The bytes of a record's key, value and headers, if they are not too many.
    #[inline]
    fn check_size(&self, record: &ProducerRecord<'_>) -> Result<usize, Refusal> {
        let headers = |sum: usize, header: &Header<'_>| {
            sum.saturating_add(HEADER_OVERHEAD + header.name.len() + header.value.map_or(0, <[u8]>::len))
        };
        let size = record.key.map_or(0, <[u8]>::len).saturating_add(record.value.map_or(0, <[u8]>::len));
        let size = record.headers.iter().fold(size, headers);
        if size.saturating_add(RECORD_OVERHEAD) > self.max_record {
            return Err(Refusal::Error(self.too_large(record, size)));
        }
        Ok(size)
    }

    #[inline]
    fn choose(
        &self,
        topic: &TopicSlots,
        record: &ProducerRecord<'_>,
        bytes: usize,
    ) -> Result<PartitionId, Refusal> {
        match record.partition {
            Some(partition) => Ok(partition),
            None => self.choose_by_policy(topic, record, bytes),
        }
    }

    fn choose_by_policy(
        &self,
        topic: &TopicSlots,
        record: &ProducerRecord<'_>,
        bytes: usize,
    ) -> Result<PartitionId, Refusal> {
        let slots = topic.slots();
        let count = slots.len() as u32;
        let sticky = || {
            let standing = |id: PartitionId| match slots.get(id.0 as usize) {
                Some(slot) => slot.standing(),
                None => Standing { led: false, near: false, waiting: u32::MAX },
            };
            let stripe = STRIPE.with(|stripe| *stripe);
            topic.shared.sticky.partition(stripe, count, bytes.saturating_add(USUAL_OVERHEAD), standing)
        };
        let chosen = match (&self.config.partitioner, record.key) {
            (Partitioner::Default, Some(key)) => partition::keyed(key, count),
            (Partitioner::Default, None) | (Partitioner::Sticky, _) => sticky(),
            (Partitioner::RoundRobin, _) => {
                let turn = topic.shared.turn.fetch_add(1, Ordering::Relaxed);
                turn.checked_rem(count).map(|id| PartitionId(id as i32))
            }
            (Partitioner::Custom(choose), key) if count > 0 => {
                let view = Partitioning { topic: record.topic, key, value: record.value, partitions: count };
                let chosen = choose(&view);
                if topic.slot(chosen).is_none() {
                    let text = format!("the partitioner chose partition {chosen} of {count}");
                    return Err(Refusal::Error(Error::misuse(text).with_topic(record.topic)));
                }
                Some(chosen)
            }
            (Partitioner::Custom(_), _) => None,
        };
        chosen.ok_or(Refusal::Unknown)
    }

    #[inline]
    fn append<T>(
        &self,
        slot: &Arc<Slot>,
        state: &mut SlotState,
        record: &ProducerRecord<'_>,
        take: impl FnOnce(&Arc<BatchState>, u32, i64) -> T,
    ) -> Result<T, Refusal> {
        let time = match (record.timestamp, state.clock) {
            (Some(time), _) => time,
            (None, Clock::Fresh(time)) if state.batches.opened_at().is_some() => time,
            _ => now_ms(),
        };
        let entry = Entry { timestamp: time, key: record.key, value: record.value, headers: record.headers };
        match state.batches.push(&entry, &SlotSupply { engine: self, slot, time }) {
            Ok(pushed) => {
                let taken = take(pushed.token, pushed.index, time);
                if let Some(opened) = pushed.opened {
                    let (batch, closed) = (Arc::clone(pushed.token), pushed.closed);
                    self.on_opened(slot, state, opened, &batch, closed);
                }
                Ok(taken)
            }
            Err(refused) => Err(self.refused(slot, state, refused)),
        }
    }

    #[cold]
    fn refused(&self, slot: &Arc<Slot>, state: &mut SlotState, refused: Refused) -> Refusal {
        match refused {
            Refused::Full => {
                // It may have closed a full batch.
                self.schedule(slot, state);
                Refusal::Full
            }
            Refused::Stopped => Refusal::Error(self.refusal()),
            Refused::Unwritable(error) => {
                Refusal::Error(Error::misuse(error.to_string()).with_topic_partition(&slot.tp))
            }
        }
    }

    #[cold]
    fn on_opened(
        &self,
        slot: &Arc<Slot>,
        state: &mut SlotState,
        opened: Instant,
        batch: &Arc<BatchState>,
        closed: bool,
    ) {
        if closed {
            slot.topic.sticky.on_batch_closed(slot.tp.partition);
            slot.note_waiting(state);
        }
        // Without a linger the timer does not look at the batch.
        let watched = !self.config.linger.is_zero() && self.config.linger <= CLOCK_AGE;
        state.clock = if watched { Clock::Fresh(now_ms()) } else { Clock::Stale };
        self.timers.on_opened(slot, batch, opened);
        if self.config.linger.is_zero() {
            state.batches.mark_due();
        }
        if state.lane.is_none() && !state.parked {
            // The leader is looked for while the batch lingers.
            state.parked = true;
            self.router.park(Arc::clone(slot), opened, false);
        } else {
            self.schedule(slot, state);
        }
    }

    #[cold]
    fn too_large(&self, record: &ProducerRecord<'_>, size: usize) -> Error {
        let limit = self.config.max_request_size.min(self.config.buffer_memory);
        Error::misuse(format!("a record of {size} bytes is larger than the limit of {limit}"))
            .with_topic(record.topic)
            .with_remedy("raise max_request_size (and buffer_memory, and the topic's max.message.bytes), or send smaller records")
    }
}

/// Bytes a record takes besides its key and value, at most, with the header of its batch.
const RECORD_OVERHEAD: usize = 61 + 36;

/// Bytes a header takes besides its name and value, at most.
const HEADER_OVERHEAD: usize = 10;

/// Bytes a record usually takes besides its key, value and headers.
const USUAL_OVERHEAD: usize = 7;

/// How many records are taken under one lock, at most: some ten microseconds.
const LONGEST_RUN: usize = 256;

/// How many records are written as one run, at most.
const SHORT_RUN: usize = 32;

thread_local! {
    /// Which stripe of the sticky choice is this thread's.
    static STRIPE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

struct SlotSupply<'a> {
    engine: &'a Engine,
    slot: &'a Slot,
    /// The time of the record that opens a batch.
    time: i64,
}

impl Supply<Arc<BatchState>> for SlotSupply<'_> {
    fn pay(&self, bytes: usize) -> bool {
        self.engine.budget.pay(bytes)
    }

    fn pay_growth(&self, bytes: usize) -> bool {
        let paid = self.engine.budget.pay(bytes);
        if paid {
            self.engine.buffers.make_place(self.engine.budget.used());
        }
        paid
    }

    fn open(&self, capacity: usize) -> Opening<Arc<BatchState>> {
        Opening {
            token: BatchState::new(self.slot.tp.clone(), self.time),
            buffer: self.engine.buffers.take(capacity, self.engine.budget.used()),
            now: self.engine.now(),
        }
    }
}
