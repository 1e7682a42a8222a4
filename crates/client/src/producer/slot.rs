//! The partitions a producer writes to, by topic.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use milena_core::cluster::Topic;
use milena_core::partition::{Standing, Sticky};
use milena_core::produce::Limits;
use milena_core::produce::accumulator::Accumulator;
use milena_protocol::types::{BrokerId, Offset, PartitionId, TopicPartition};
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

/// A topic and its partitions as they are known. Partitions are added and never taken away, so readers need no lock.
#[derive(Debug)]
pub(crate) struct TopicSlots {
    pub(crate) shared: Arc<TopicShared>,
    known: Known,
    /// Another topic with the same hash.
    next: OnceLock<Arc<Self>>,
}

/// The partitions at some time, and what replaced them when there were more.
#[derive(Debug)]
struct Known {
    slots: Vec<Arc<Slot>>,
    more: OnceLock<Box<Self>>,
}

impl Known {
    fn new(slots: Vec<Arc<Slot>>) -> Self {
        Self { slots, more: OnceLock::new() }
    }

    #[inline]
    fn newest(&self) -> &Self {
        let mut newest = self;
        while let Some(more) = newest.more.get() {
            newest = more;
        }
        newest
    }
}

impl TopicSlots {
    #[inline]
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.known.newest().slots
    }

    #[inline]
    pub(crate) fn slot(&self, partition: PartitionId) -> Option<&Arc<Slot>> {
        usize::try_from(partition.0).ok().and_then(|place| self.slots().get(place))
    }

    #[inline]
    pub(crate) fn partitions(&self) -> u32 {
        self.slots().len() as u32
    }
}

/// One partition. Lock order: the state of one slot, then a lane's or the router's queue.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) tp: TopicPartition,
    pub(crate) topic: Arc<TopicShared>,
    /// What the sticky choice looks at; each part is written apart, and nothing depends on their being of one moment.
    led: AtomicBool,
    near: AtomicBool,
    waiting: AtomicU32,
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
    #[inline]
    pub(crate) fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands when a partition is chosen.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            led: self.led.load(Ordering::Relaxed),
            near: self.near.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    /// Notes how many of its batches wait, for the choice.
    pub(crate) fn note_waiting(&self, state: &SlotState) {
        self.waiting.store(u32::try_from(state.batches.waiting()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// All topics a producer knows. Topics are added and never taken away, so readers need no lock.
#[derive(Debug)]
pub(crate) struct Topics {
    by_hash: [OnceLock<Arc<TopicSlots>>; BUCKETS],
    /// Held by who adds.
    adding: Mutex<()>,
}

/// A power of two. Thousands of topics make short chains.
const BUCKETS: usize = 256;

/// The bucket of a topic name. Names come from the application, so speed counts more than resistance to chosen ones.
#[inline]
fn bucket(name: &str) -> usize {
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let (words, rest) = name.as_bytes().as_chunks::<8>();
    let hash = words.iter().fold(0, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    // The last eight bytes, some of them again: cheaper than those that are left one by one.
    let rest = match name.as_bytes().last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last),
        None => rest.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    (mix(hash, rest) >> 56) as usize % BUCKETS
}

/// Whether two names are the same; without the call that `==` makes, which costs more than to look at so few bytes.
#[inline]
pub(super) fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let ((left_words, left_rest), (right_words, right_rest)) =
        (left.as_chunks::<8>(), right.as_chunks::<8>());
    left.len() == right.len()
        && left_words.iter().zip(right_words).all(|(left, right)| left == right)
        && match (left.last_chunk::<8>(), right.last_chunk::<8>()) {
            (Some(left), Some(right)) => left == right,
            _ => left_rest.iter().zip(right_rest).all(|(left, right)| left == right),
        }
}

impl Default for Topics {
    fn default() -> Self {
        Self { by_hash: std::array::from_fn(|_| OnceLock::new()), adding: Mutex::default() }
    }
}

impl Topics {
    #[inline]
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<TopicSlots>> {
        self.chain(name).find(|topic| same(&topic.shared.name, name))
    }

    #[inline]
    fn chain(&self, name: &str) -> impl Iterator<Item = &Arc<TopicSlots>> {
        let first = self.by_hash.get(bucket(name)).and_then(OnceLock::get);
        std::iter::successors(first, |topic| topic.next.get())
    }

    /// Every partition of every topic.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        let firsts = self.by_hash.iter().filter_map(OnceLock::get);
        let topics = firsts.flat_map(|first| std::iter::successors(Some(first), |topic| topic.next.get()));
        topics.flat_map(|topic| topic.slots())
    }

    /// Takes over what is known of a topic now. Partitions never become fewer. `limits` is asked while nothing else can be added;
    /// `near` tells whether a broker is one to prefer.
    pub(crate) fn learn(
        &self,
        topic: &Topic,
        limits: impl FnOnce() -> Limits,
        seed: u64,
        near: impl Fn(BrokerId) -> bool,
    ) {
        let adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = limits();
        let Some(known) = self.find_or_add(topic, limits, seed) else { return };
        known.shared.set_id(topic.id);
        // Partitions are numbered without gaps; what comes after one is not believed.
        let count = topic.partitions.keys().zip(0..).take_while(|(id, place)| id.0 == *place).count();
        let newest = known.known.newest();
        if count > newest.slots.len() {
            let added = (newest.slots.len()..count)
                .map(|partition| Arc::new(Slot::new(&known.shared, partition, limits)));
            let slots = newest.slots.iter().cloned().chain(added).collect();
            // Nobody else sets it: `adding` is held.
            let _ = newest.more.set(Box::new(Known::new(slots)));
        }
        drop(adding);
        for (id, info) in &topic.partitions {
            if let Some(slot) = known.slot(*id) {
                slot.led.store(info.leader.is_some(), Ordering::Relaxed);
                slot.near.store(info.leader.is_some_and(&near), Ordering::Relaxed);
            }
        }
    }

    /// A topic; made without partitions if there is none of the name. To be called by who holds `adding`.
    fn find_or_add(&self, topic: &Topic, limits: Limits, seed: u64) -> Option<&Arc<TopicSlots>> {
        if let Some(known) = self.find(&topic.name) {
            return Some(known);
        }
        let made = || {
            Arc::new(TopicSlots {
                shared: Arc::new(TopicShared {
                    name: Arc::clone(&topic.name),
                    sticky: Sticky::new(seed, limits.batch_size),
                    turn: AtomicU32::new(0),
                    id: Mutex::new(None),
                }),
                known: Known::new(Vec::new()),
                next: OnceLock::new(),
            })
        };
        let end = match self.chain(&topic.name).last() {
            Some(last) => &last.next,
            None => self.by_hash.get(bucket(&topic.name))?,
        };
        Some(end.get_or_init(made))
    }
}

impl Slot {
    fn new(topic: &Arc<TopicShared>, partition: usize, limits: Limits) -> Self {
        Self {
            tp: TopicPartition::new(Arc::clone(&topic.name), PartitionId(partition as i32)),
            topic: Arc::clone(topic),
            led: AtomicBool::new(true),
            near: AtomicBool::new(true),
            waiting: AtomicU32::new(0),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_core::cluster::PartitionInfo;
    use milena_protocol::records::BatchOptions;
    use std::time::Duration;

    fn topic(name: &str, partitions: i32) -> Topic {
        let info = |id| PartitionInfo {
            id: PartitionId(id),
            leader: Some(BrokerId(id % 3)),
            leader_epoch: None,
            replicas: Vec::new(),
            isr: Vec::new(),
            error: None,
        };
        let partitions = (0..partitions).map(|id| (PartitionId(id), info(id))).collect();
        Topic { name: name.into(), id: None, internal: false, partitions }
    }

    fn limits() -> Limits {
        Limits {
            options: BatchOptions::default(),
            batch_size: 1000,
            max_in_flight: 5,
            idempotent: true,
            transactional: false,
            delivery_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn thousands_of_topics_are_found_by_name_and_keep_their_partitions_when_they_grow() {
        let topics = Topics::default();
        let names: Vec<String> = (0..3000).map(|number| format!("topic-{number}")).collect();
        for name in &names {
            topics.learn(&topic(name, 2), limits, 0, |_| true);
        }
        let before = Arc::clone(topics.find("topic-77").unwrap().slot(PartitionId(1)).unwrap());
        for name in &names {
            topics.learn(&topic(name, 3), limits, 0, |broker| broker.0 == 1);
            topics.learn(&topic(name, 1), limits, 0, |broker| broker.0 == 1);
        }
        assert_eq!(topics.slots().count(), 9000);
        for name in &names {
            let found = topics.find(name).unwrap();
            assert_eq!((&*found.shared.name, found.partitions()), (name.as_str(), 3));
            assert!(found.slot(PartitionId(3)).is_none() && found.slot(PartitionId(-1)).is_none());
        }
        let found = topics.find("topic-77").unwrap();
        assert!(Arc::ptr_eq(&before, found.slot(PartitionId(1)).unwrap()));
        assert!(!found.slots()[0].standing().near && found.slots()[1].standing().near);
        assert!(topics.find("topic").is_none());
        let filled = topics.by_hash.iter().filter(|first| first.get().is_some()).count();
        assert!(filled > 200, "names are spread over {filled} buckets");
    }
}
