//! Who writes, and the numbers of its records in one partition (KIP-98).

use milena_protocol::types::{ProducerEpoch, ProducerId, Sequence};

/// A producer id and its epoch: under it a broker recognises repeated batches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The producer id.
    pub id: ProducerId,
    /// The epoch.
    pub epoch: ProducerEpoch,
}

/// What is written into a batch so that it is appended once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Who writes.
    pub identity: Identity,
    /// The sequence of the batch's first record.
    pub first: Sequence,
}

/// The next sequence of one partition under one identity.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    identity: Option<Identity>,
    next: Sequence,
}

impl Sequences {
    /// The identity whose sequences these are; `None` before the first.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Goes on under `identity`: from 0 if it is another one than before. Under the same identity sequences are never
    /// started again, a broker would take the records for repeated ones.
    pub fn adopt(&mut self, identity: Identity) {
        if self.identity != Some(identity) {
            self.identity = Some(identity);
            self.next = Sequence(0);
        }
    }

    /// The stamp of the next batch of so many records; `None` without an identity.
    pub fn stamp(&mut self, records: u32) -> Option<Stamp> {
        let stamp = Stamp { identity: self.identity?, first: self.next };
        self.next = self.next.advance(records);
        Some(stamp)
    }

    /// The batch with the last stamp was surely not written and will not be: its numbers are free again. Returns whether
    /// it was the last (otherwise nothing changes).
    pub fn give_back(&mut self, stamp: Stamp, records: u32) -> bool {
        let last = self.identity == Some(stamp.identity) && stamp.first.advance(records) == self.next;
        if last {
            self.next = stamp.first;
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity = Identity { id: ProducerId(7), epoch: ProducerEpoch(0) };
    const TWO: Identity = Identity { id: ProducerId(7), epoch: ProducerEpoch(1) };

    #[test]
    fn sequences_follow_each_other_through_the_wrap() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.stamp(1), None);
        sequences.adopt(ONE);
        sequences.next = Sequence(i32::MAX - 2);
        let firsts: Vec<i32> = [2, 1, 3, 1].map(|count| sequences.stamp(count).unwrap().first.0).to_vec();
        assert_eq!(firsts, [i32::MAX - 2, i32::MAX, 0, 3]);
    }

    #[test]
    fn the_same_identity_never_starts_again_and_another_does() {
        let mut sequences = Sequences::default();
        sequences.adopt(ONE);
        sequences.stamp(5);
        sequences.adopt(ONE);
        assert_eq!(sequences.stamp(1).unwrap().first, Sequence(5));
        sequences.adopt(TWO);
        assert_eq!(sequences.stamp(1), Some(Stamp { identity: TWO, first: Sequence(0) }));
    }

    #[test]
    fn only_the_last_stamp_can_be_given_back() {
        let mut sequences = Sequences::default();
        sequences.adopt(ONE);
        sequences.next = Sequence(i32::MAX);
        let first = sequences.stamp(4).unwrap();
        let second = sequences.stamp(2).unwrap();
        assert!(!sequences.give_back(first, 4));
        assert!(sequences.give_back(second, 2));
        assert!(sequences.give_back(first, 4), "across the wrap");
        assert_eq!(sequences.stamp(1).unwrap().first, Sequence(i32::MAX));
    }
}
