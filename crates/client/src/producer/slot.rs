//! The partitions a producer writes to, by topic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use milena_core::cluster::Topic;
use milena_core::partition::Sticky;
use milena_core::produce::Limits;
use milena_core::produce::accumulator::Accumulator;
use milena_protocol::types::{Offset, PartitionId, TopicPartition};
use uuid::Uuid;

use super::lane::LaneQueue;
use super::ticket::BatchState;
use crate::error::Error;

/// What the partitions of a topic share.
#[derive(Debug)]
pub(crate) struct TopicShared {
    pub(crate) name: Arc<str>,
    pub(crate) sticky: Sticky,
    pub(crate) turn: AtomicU32,
    /// Written by the router; read by lanes.
    id: Mutex<Option<Uuid>>,
}

impl TopicShared {
    pub(crate) fn id(&self) -> Option<Uuid> {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_id(&self, id: Option<Uuid>) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }
}

/// A topic and its partitions as they are known.
#[derive(Clone, Debug)]
pub(crate) struct TopicSlots {
    pub(crate) shared: Arc<TopicShared>,
    pub(crate) slots: Vec<Arc<Slot>>,
}

impl TopicSlots {
    pub(crate) fn slot(&self, partition: PartitionId) -> Option<&Arc<Slot>> {
        usize::try_from(partition.0).ok().and_then(|place| self.slots.get(place))
    }

    pub(crate) fn partitions(&self) -> u32 {
        self.slots.len() as u32
    }
}

/// One partition. Lock order: the state of one slot, then a lane's or the router's queue.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) tp: TopicPartition,
    pub(crate) topic: Arc<TopicShared>,
    /// Whether it has a leader, as far as is known. For the sticky choice only.
    pub(crate) led: AtomicBool,
    state: Mutex<SlotState>,
}

/// The state of a partition. Written by senders, its lane, the router and the timer.
#[derive(Debug)]
pub(crate) struct SlotState {
    pub(crate) batches: Accumulator<Arc<BatchState>>,
    /// The lane of its leader; `None` while it is for the router to find.
    pub(crate) lane: Option<Arc<LaneQueue>>,
    /// It waits in its lane's queue.
    pub(crate) queued: bool,
    /// It waits at the router.
    pub(crate) parked: bool,
    /// The time records get that name none.
    pub(crate) clock: Clock,
    /// The first offset written in the open transaction.
    pub(crate) first_offset: Option<Offset>,
    /// A batch of the open transaction is in the log at an offset that the broker did not tell.
    pub(crate) lost_offset: bool,
    /// What went wrong last.
    pub(crate) trouble: Option<Error>,
    /// The number of the transaction it was added to.
    pub(crate) joined: u64,
}

/// The time of records that name none: one look at the clock serves many records as long as something tells when it is too old.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// It was read not long ago, and the timer will say when that is over; ms since 1970.
    Fresh(i64),
    /// It has to be read for each record.
    Stale,
}

/// The wall clock in ms since 1970.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl Slot {
    pub(crate) fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All topics a producer knows.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_name: HashMap<Arc<str>, TopicSlots, NameHash>,
}

/// Hashes topic names: they come from the application, so speed counts more than resistance to chosen ones.
type NameHash = std::hash::BuildHasherDefault<NameHasher>;

#[derive(Debug, Default)]
pub(crate) struct NameHasher(u64);

impl std::hash::Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        let mut mix = |word: u64| self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        for word in &mut words {
            mix(word.try_into().map_or(0, u64::from_le_bytes));
        }
        mix(words.remainder().iter().fold(0, |word, &byte| word << 8 | u64::from(byte)));
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

impl Topics {
    pub(crate) fn find(&self, name: &str) -> Option<&TopicSlots> {
        self.by_name.get(name)
    }

    /// Every partition of every topic.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.by_name.values().flat_map(|topic| &topic.slots)
    }

    /// Takes over what is known of a topic now. Partitions never become fewer.
    pub(crate) fn learn(&mut self, topic: &Topic, limits: Limits, seed: u64) {
        let known = self.by_name.entry(Arc::clone(&topic.name)).or_insert_with(|| TopicSlots {
            shared: Arc::new(TopicShared {
                name: Arc::clone(&topic.name),
                sticky: Sticky::new(seed),
                turn: AtomicU32::new(0),
                id: Mutex::new(None),
            }),
            slots: Vec::new(),
        });
        known.shared.set_id(topic.id);
        // Partitions are numbered without gaps; what comes after one is not believed.
        let count = topic.partitions.keys().zip(0..).take_while(|(id, place)| id.0 == *place).count();
        for partition in known.slots.len()..count {
            known.slots.push(Arc::new(Slot {
                tp: TopicPartition::new(Arc::clone(&known.shared.name), PartitionId(partition as i32)),
                topic: Arc::clone(&known.shared),
                led: AtomicBool::new(true),
                state: Mutex::new(SlotState {
                    batches: Accumulator::new(limits),
                    lane: None,
                    queued: false,
                    parked: false,
                    clock: Clock::Stale,
                    first_offset: None,
                    lost_offset: false,
                    trouble: None,
                    joined: 0,
                }),
            }));
        }
        for (id, info) in &topic.partitions {
            if let Some(slot) = known.slot(*id) {
                slot.led.store(info.leader.is_some(), Ordering::Relaxed);
            }
        }
    }
}
