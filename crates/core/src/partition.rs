//! Which partition a record goes to.
//!
//! A record with a key goes where Kafka's Java client would send it (murmur2), so that producers of both kinds can share
//! a topic. Records without a key stick to one partition until its batch is closed, which makes full batches (KIP-480).

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

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

/// The sticky choice for records without a key (KIP-480): one partition at a time, another when its batch is closed.
///
/// Shared between threads: two that race may fill two partitions for a moment, which harms nothing.
#[derive(Debug)]
pub struct Sticky {
    current: AtomicI32,
    draws: AtomicU64,
    seed: u64,
}

impl Sticky {
    /// A choice that is random by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { current: AtomicI32::new(NONE), draws: AtomicU64::new(0), seed }
    }

    /// The partition that is filled now, among `partitions`. A new one is drawn from those that are `usable` (have a
    /// leader), from all if none is. `None` for no partitions.
    pub fn partition(&self, partitions: u32, usable: impl Fn(PartitionId) -> bool) -> Option<PartitionId> {
        let current = self.current.load(Ordering::Relaxed);
        if current >= 0 && (current as u32) < partitions {
            return Some(PartitionId(current));
        }
        let drawn = self.draw(partitions, usable)?;
        self.current.store(drawn.0, Ordering::Relaxed);
        Some(drawn)
    }

    /// The batch of `partition` was closed: if it is the one being filled, the next record draws another.
    pub fn on_batch_closed(&self, partition: PartitionId) {
        let _ = self.current.compare_exchange(partition.0, NONE, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn draw(&self, partitions: u32, usable: impl Fn(PartitionId) -> bool) -> Option<PartitionId> {
        if partitions == 0 {
            return None;
        }
        let turn = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::new(self.seed ^ turn.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let start = rng.below(u64::from(partitions)) as u32;
        let from =
            |step: u32| PartitionId(((u64::from(start) + u64::from(step)) % u64::from(partitions)) as i32);
        (0..partitions).map(from).find(|&partition| usable(partition)).or(Some(from(0)))
    }
}

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

    #[test]
    fn the_sticky_choice_stays_until_its_batch_is_closed_and_reaches_every_partition() {
        let sticky = Sticky::new(7);
        let mut seen = BTreeMap::<i32, u32>::new();
        for _ in 0..600 {
            let chosen = sticky.partition(6, |_| true).unwrap();
            for _ in 0..5 {
                assert_eq!(sticky.partition(6, |_| true), Some(chosen));
            }
            sticky.on_batch_closed(PartitionId((chosen.0 + 1) % 6));
            assert_eq!(
                sticky.partition(6, |_| true),
                Some(chosen),
                "another partition's batch changes nothing"
            );
            sticky.on_batch_closed(chosen);
            *seen.entry(chosen.0).or_default() += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|&times| times > 50), "{seen:?}");
    }

    #[test]
    fn the_sticky_choice_avoids_partitions_without_a_leader_while_others_have_one() {
        let sticky = Sticky::new(1);
        for _ in 0..100 {
            let chosen = sticky.partition(8, |partition| partition.0 % 4 == 1).unwrap();
            assert_eq!(chosen.0 % 4, 1);
            sticky.on_batch_closed(chosen);
        }
        assert!(sticky.partition(8, |_| false).is_some());
        assert_eq!(Sticky::new(1).partition(0, |_| true), None);
    }

    #[test]
    fn a_topic_that_shrank_gets_a_partition_that_exists() {
        let sticky = Sticky::new(3);
        while sticky.partition(100, |_| true) < Some(PartitionId(50)) {
            sticky.on_batch_closed(sticky.partition(100, |_| true).unwrap());
        }
        assert!(sticky.partition(2, |_| true).unwrap().0 < 2);
    }
}
