//! Which partition a record goes to.
//!
//! A record with a key goes where Kafka's Java client would send it (murmur2), so that producers of both kinds can share
//! a topic. Records without a key stick to one partition for a batch, which makes full batches (KIP-480, KIP-794).

use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use milena_protocol::types::PartitionId;

use crate::rng::Rng;

/// The 32-bit murmur2 hash with the seed of Kafka's Java client (`Utils.murmur2`).
///
/// ```
/// assert_eq!(milena_core::partition::murmur2(b"21"), -973_932_308);
/// ```
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let word = word.iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        let mut mixed = word.wrapping_mul(M);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(M) ^ mixed.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)) as i32
}

/// The partition of a key among `partitions`, as Kafka's Java client chooses it: `toPositive(murmur2(key)) % n`.
/// `None` for no partitions.
#[must_use]
pub fn keyed(key: &[u8], partitions: u32) -> Option<PartitionId> {
    let positive = (murmur2(key) & 0x7fff_ffff) as u32;
    positive.checked_rem(partitions).map(|partition| PartitionId(partition as i32))
}

/// What is known of a partition when one is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// It has a leader.
    pub led: bool,
    /// Its leader is in the client's rack, or the client's rack does not count.
    pub near: bool,
    /// How many of its batches are not acknowledged yet.
    pub waiting: u32,
}

/// The sticky choice for records without a key: one partition at a time gets a batch's worth of bytes, then another one is drawn.
///
/// Two partitions are drawn at random and the one with fewer batches waiting is taken, so that a slow broker gets fewer records; that is
/// the aim of KIP-794, at a cost that does not grow with the number of partitions. Partitions that are led in the client's rack go before
/// others (KIP-1123), those without a leader come last.
///
/// Shared between threads, of which each should have a stripe of its own: then they fill different partitions and do not wait for each
/// other. Two that race on a stripe may fill two partitions for a moment, which harms nothing.
#[derive(Debug)]
pub struct Sticky {
    stripes: [Stripe; STRIPES],
    draws: AtomicU64,
    seed: u64,
    /// A partition that got so many bytes is full.
    most: usize,
    /// It may be left with so many when its batch is closed.
    least: usize,
}

/// How many threads can have a partition of their own.
const STRIPES: usize = 8;

/// What one thread fills, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Stripe {
    current: AtomicI32,
    filled: AtomicUsize,
}

impl Sticky {
    /// A choice that is random by `seed`, of a producer whose batches grow to `batch_size` bytes.
    #[must_use]
    pub fn new(seed: u64, batch_size: usize) -> Self {
        let stripe = |_| Stripe { current: AtomicI32::new(NONE), filled: AtomicUsize::new(0) };
        Self {
            stripes: std::array::from_fn(stripe),
            draws: AtomicU64::new(0),
            seed,
            most: batch_size,
            least: batch_size.min(KAFKA_BATCH),
        }
    }

    /// The partition that is filled now by the threads of this stripe, among `partitions`, for a record of `bytes` bytes. `None` for no
    /// partitions.
    #[inline]
    pub fn partition(
        &self,
        stripe: usize,
        partitions: u32,
        bytes: usize,
        standing: impl Fn(PartitionId) -> Standing,
    ) -> Option<PartitionId> {
        let stripe = self.stripes.get(stripe % STRIPES)?;
        let current = stripe.current.load(Ordering::Relaxed);
        let filled = stripe.filled.load(Ordering::Relaxed);
        if current >= 0 && (current as u32) < partitions && filled < self.most {
            // Not one step: a record that another thread counts meanwhile may be forgotten.
            stripe.filled.store(filled.saturating_add(bytes), Ordering::Relaxed);
            return Some(PartitionId(current));
        }
        let drawn = self.draw(partitions, standing)?;
        stripe.current.store(drawn.0, Ordering::Relaxed);
        stripe.filled.store(bytes, Ordering::Relaxed);
        Some(drawn)
    }

    /// The batch of `partition` was closed: those who fill it go on to another, unless they have only begun.
    pub fn on_batch_closed(&self, partition: PartitionId) {
        for stripe in &self.stripes {
            if stripe.current.load(Ordering::Relaxed) == partition.0
                && stripe.filled.load(Ordering::Relaxed) >= self.least
            {
                stripe.current.store(NONE, Ordering::Relaxed);
            }
        }
    }

    #[cold]
    fn draw(&self, partitions: u32, standing: impl Fn(PartitionId) -> Standing) -> Option<PartitionId> {
        if partitions == 0 {
            return None;
        }
        let turn = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::new(self.seed ^ turn.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let one = pick(&mut rng, partitions, &standing);
        let other = pick(&mut rng, partitions, &standing);
        Some(if standing(other).waiting < standing(one).waiting { other } else { one })
    }
}

/// A partition at random: near ones before others, those without a leader last.
fn pick(rng: &mut Rng, partitions: u32, standing: &impl Fn(PartitionId) -> Standing) -> PartitionId {
    let mut start = PartitionId(0);
    for _ in 0..TRIES {
        start = PartitionId(rng.below(u64::from(partitions)) as i32);
        let standing = standing(start);
        if standing.led && standing.near {
            return start;
        }
    }
    let from = |step: u32| {
        PartitionId(((u64::from(start.0.unsigned_abs()) + u64::from(step)) % u64::from(partitions)) as i32)
    };
    let ranks: [fn(Standing) -> bool; 2] =
        [|standing| standing.led && standing.near, |standing| standing.led];
    let found = ranks.iter().find_map(|rank| (0..partitions).map(from).find(|&id| rank(standing(id))));
    found.unwrap_or(start)
}

/// How often chance is tried before all partitions are looked at: what is left of them is then few, and need not be chosen evenly.
const TRIES: u32 = 16;

/// Kafka's default `batch.size`, in bytes: where a little is sent, its producer stays with a partition for so long.
const KAFKA_BATCH: usize = 16 * 1024;

const NONE: i32 = -1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn murmur2_gives_what_kafka_gives() {
        // The vectors of Kafka's own UtilsTest.
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in vectors {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn a_key_has_one_partition_and_it_exists() {
        for partitions in 1..50 {
            for key in 0..200u32 {
                let chosen = keyed(&key.to_be_bytes(), partitions).unwrap();
                assert!((0..partitions as i32).contains(&chosen.0));
                assert_eq!(keyed(&key.to_be_bytes(), partitions), Some(chosen));
            }
        }
        assert_eq!(keyed(b"x", 0), None);
    }

    const FREE: Standing = Standing { led: true, near: true, waiting: 0 };

    /// The partitions of so many draws.
    fn drawn(
        sticky: &Sticky,
        draws: u32,
        partitions: u32,
        standing: impl Fn(i32) -> Standing,
    ) -> BTreeMap<i32, u32> {
        let mut seen = BTreeMap::new();
        for _ in 0..draws {
            let chosen = sticky.partition(0, partitions, 1000, |id| standing(id.0)).unwrap();
            *seen.entry(chosen.0).or_default() += 1;
            sticky.on_batch_closed(chosen);
        }
        seen
    }

    #[test]
    fn the_sticky_choice_stays_for_a_batch_of_bytes_and_reaches_every_partition_alike() {
        let sticky = Sticky::new(7, 1000);
        let mut seen = BTreeMap::<i32, u32>::new();
        for _ in 0..600 {
            let chosen = sticky.partition(0, 6, 200, |_| FREE).unwrap();
            for _ in 0..4 {
                assert_eq!(sticky.partition(0, 6, 200, |_| FREE), Some(chosen));
                sticky.on_batch_closed(chosen);
            }
            *seen.entry(chosen.0).or_default() += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|times| (70..140).contains(times)), "{seen:?}");
    }

    #[test]
    fn a_large_batch_is_left_when_it_is_closed_but_not_when_it_was_only_begun() {
        let sticky = Sticky::new(3, 256 * 1024);
        let first = sticky.partition(0, 1000, 10_000, |_| FREE).unwrap();
        sticky.on_batch_closed(first);
        assert_eq!(sticky.partition(0, 1000, 10_000, |_| FREE), Some(first), "10,000 bytes are a beginning");
        sticky.on_batch_closed(PartitionId((first.0 + 1) % 1000));
        assert_eq!(
            sticky.partition(0, 1000, 1, |_| FREE),
            Some(first),
            "another partition's batch changes nothing"
        );
        sticky.on_batch_closed(first);
        assert_ne!(sticky.partition(0, 1000, 1, |_| FREE), Some(first));
    }

    #[test]
    fn a_partition_whose_batches_wait_gets_fewer_records() {
        let seen =
            drawn(&Sticky::new(5, 1000), 6000, 6, |id| Standing { waiting: u32::from(id == 2) * 9, ..FREE });
        let slow = seen.get(&2).copied().unwrap_or_default();
        // Both of two draws fall on it one time in 36.
        assert!((80..300).contains(&slow), "{seen:?}");
        let even = drawn(&Sticky::new(5, 1000), 6000, 6, |_| Standing { waiting: 9, ..FREE });
        assert!(even.values().all(|times| (800..1200).contains(times)), "{even:?}");
    }

    #[test]
    fn partitions_without_a_leader_come_last_and_near_ones_first() {
        let led = drawn(&Sticky::new(1, 1000), 100, 8, |id| Standing { led: id % 4 == 1, ..FREE });
        assert!(led.keys().all(|id| id % 4 == 1), "{led:?}");
        let near = |id: i32| Standing { near: id % 3 == 0, led: id != 3, waiting: u32::from(id == 0) * 50 };
        let seen = drawn(&Sticky::new(1, 1000), 300, 9, near);
        assert!(seen.keys().all(|id| [0, 6].contains(id)), "{seen:?}");
        let far =
            drawn(&Sticky::new(1, 1000), 100, 9, |id| Standing { near: false, led: id > 4, waiting: 0 });
        assert!(far.keys().all(|&id| id > 4), "{far:?}");
        let one = drawn(&Sticky::new(1, 1000), 50, 500, |id| Standing { near: id == 77, ..FREE });
        assert!(one.keys().eq([&77]), "{one:?}");
        assert!(Sticky::new(1, 1).partition(0, 8, 1, |_| Standing { led: false, ..FREE }).is_some());
        assert_eq!(Sticky::new(1, 1).partition(0, 0, 1, |_| FREE), None);
    }

    #[test]
    fn threads_with_stripes_of_their_own_do_not_change_each_others_choice() {
        let sticky = Sticky::new(9, 1000);
        let first = sticky.partition(0, 1000, 1, |_| FREE).unwrap();
        for _ in 0..50 {
            sticky.partition(1, 1000, 1000, |_| FREE).unwrap();
            assert_eq!(sticky.partition(0, 1000, 1, |_| FREE), Some(first));
        }
    }

    #[test]
    fn a_topic_that_shrank_gets_a_partition_that_exists() {
        let sticky = Sticky::new(3, 1);
        while sticky.partition(0, 100, 1, |_| FREE) < Some(PartitionId(50)) {}
        assert!(sticky.partition(0, 2, 1, |_| FREE).unwrap().0 < 2);
    }
}
