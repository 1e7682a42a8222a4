//! Newtypes for the numbers of the protocol that are easily swapped.
//!
//! They hold what the wire holds and convert both ways with `From`. What is optional in the protocol (an
//! epoch of -1, say) is an `Option` in our own interfaces, never a special number.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::sync::Arc;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        impl From<$name> for $inner {
            fn from(number: $name) -> Self {
                number.0
            }
        }
    )*};
}

numbers! {
    /// The number of a partition in its topic, from 0.
    PartitionId(i32);
    /// The number of a broker in its cluster (`node.id`).
    BrokerId(i32);
    /// How often a partition changed its leader; a larger one is newer (KIP-101, KIP-320).
    LeaderEpoch(i32);
    /// The identity a broker gave to a producer (KIP-98).
    ProducerId(i64);
    /// The incarnation of a producer id; an older one is fenced off (KIP-98).
    ProducerEpoch(i16);
    /// The number of a record within one producer id, epoch and partition, from 0 (KIP-98).
    Sequence(i32);
    /// The position of a record in its partition.
    Offset(i64);
}

impl From<kafka_protocol::messages::BrokerId> for BrokerId {
    fn from(id: kafka_protocol::messages::BrokerId) -> Self {
        Self(id.0)
    }
}

impl From<BrokerId> for kafka_protocol::messages::BrokerId {
    fn from(id: BrokerId) -> Self {
        Self(id.0)
    }
}

impl From<kafka_protocol::messages::ProducerId> for ProducerId {
    fn from(id: kafka_protocol::messages::ProducerId) -> Self {
        Self(id.0)
    }
}

impl From<ProducerId> for kafka_protocol::messages::ProducerId {
    fn from(id: ProducerId) -> Self {
        Self(id.0)
    }
}

impl Sequence {
    /// The sequence `records` further on. After `i32::MAX` comes 0, as in Kafka's own producer.
    #[must_use]
    pub const fn advance(self, records: u32) -> Self {
        // Both are below 2^32, so the sum cannot overflow 64 bits; the remainder is below 2^31.
        Self(((self.0 as i64 + records as i64) % (i32::MAX as i64 + 1)) as i32)
    }
}

impl Add<i64> for Offset {
    type Output = Self;

    /// The offset `records` further on; it saturates, since offsets come from a peer.
    fn add(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }
}

impl AddAssign<i64> for Offset {
    fn add_assign(&mut self, records: i64) {
        *self = *self + records;
    }
}

impl Sub for Offset {
    type Output = i64;

    /// How many offsets lie between two; it saturates, since offsets come from a peer.
    fn sub(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0)
    }
}

/// A topic's name and one of its partitions. Cloning shares the name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Puts a topic and a partition together.
    pub fn new(topic: impl Into<Arc<str>>, partition: impl Into<PartitionId>) -> Self {
        Self { topic: topic.into(), partition: partition.into() }
    }
}

impl fmt::Display for TopicPartition {
    /// As Kafka writes it: `topic-3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Which records of transactions a reader sees (KIP-98, `isolation.level`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Isolation {
    /// All records up to the high watermark, those of open and aborted transactions too. Kafka's default.
    #[default]
    ReadUncommitted,
    /// Records up to the last stable offset, without those of aborted transactions.
    ReadCommitted,
}

impl Isolation {
    /// The number that stands for it in Fetch and ListOffsets.
    #[must_use]
    pub const fn wire(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }

    /// The reverse of [`wire`](Self::wire); `None` for a number the protocol does not define.
    #[must_use]
    pub const fn from_wire(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::ReadUncommitted),
            1 => Some(Self::ReadCommitted),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_wraps_after_the_largest_to_zero_and_never_turns_negative() {
        assert_eq!(Sequence(i32::MAX).advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).advance(3), Sequence(1));
        assert_eq!(Sequence(7).advance(0), Sequence(7));
        for (start, step) in [(0, u32::MAX), (i32::MAX, u32::MAX), (5, 1 << 31)] {
            let by_halves = Sequence(start).advance(step / 2).advance(step - step / 2);
            assert_eq!(Sequence(start).advance(step), by_halves);
            assert!(by_halves.0 >= 0);
        }
    }

    #[test]
    fn offsets_from_a_hostile_peer_saturate() {
        assert_eq!(Offset(i64::MAX) + 1, Offset(i64::MAX));
        assert_eq!(Offset(i64::MIN) - Offset(1), i64::MIN);
        assert_eq!((Offset(40) + 2) - Offset(40), 2);
    }

    #[test]
    fn display_is_bare() {
        assert_eq!(TopicPartition::new("orders", 3).to_string(), "orders-3");
        assert_eq!(format!("{:>3}", PartitionId(7)), "  7");
    }

    #[test]
    fn isolation_round_trips() {
        for level in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            assert_eq!(Isolation::from_wire(level.wire()), Some(level));
        }
        assert_eq!(Isolation::from_wire(2), None);
    }
}
