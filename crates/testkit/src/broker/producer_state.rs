//! What a partition remembers of a producer: its epoch, its last batches, its open transaction (KIP-98, KIP-360).

use std::collections::VecDeque;

use milena_protocol::ErrorCode;

/// How many batches Kafka remembers for each producer and partition.
const REMEMBERED: usize = 5;

/// A batch as far as sequences go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sequenced {
    pub(crate) epoch: i16,
    pub(crate) first: i32,
    pub(crate) last: i32,
}

impl Sequenced {
    pub(crate) fn new(epoch: i16, first: i32, records: u32) -> Self {
        let steps = i64::from(records.max(1)) - 1;
        let last = (i64::from(first) + steps) % (i64::from(i32::MAX) + 1);
        Self { epoch, first, last: i32::try_from(last).unwrap_or(0) }
    }
}

/// Where a remembered batch stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remembered {
    pub(crate) first: i32,
    pub(crate) last: i32,
    pub(crate) base_offset: i64,
    pub(crate) timestamp: i64,
}

/// The rules for a batch that comes with a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UnknownProducer {
    /// Any sequence may begin (KIP-360).
    Accept,
    /// Only sequence 0 may begin, else OUT_OF_ORDER_SEQUENCE_NUMBER: transactions of the second generation.
    FromZero,
    /// Only sequence 0 may begin, else UNKNOWN_PRODUCER_ID: Kafka before 2.5.
    Refuse,
}

/// What is known of one producer id in one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ProducerEntry {
    pub(crate) epoch: i16,
    pub(crate) coordinator_epoch: i32,
    pub(crate) last_timestamp: i64,
    pub(crate) batches: VecDeque<Remembered>,
    /// First offset of the open transaction.
    pub(crate) transaction_start: Option<i64>,
}

impl ProducerEntry {
    pub(crate) fn new(epoch: i16) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: -1,
            batches: VecDeque::new(),
            transaction_start: None,
        }
    }

    pub(crate) fn last_sequence(&self) -> Option<i32> {
        self.batches.back().map(|batch| batch.last)
    }

    /// The remembered batch that this one repeats, if any.
    pub(crate) fn duplicate(&self, batch: Sequenced) -> Option<Remembered> {
        if batch.epoch != self.epoch {
            return None;
        }
        self.batches.iter().find(|known| known.first == batch.first && known.last == batch.last).copied()
    }

    /// Whether the batch may follow what is remembered.
    pub(crate) fn check(&self, batch: Sequenced) -> Result<(), ErrorCode> {
        if batch.epoch < self.epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        let expected = match self.last_sequence() {
            Some(last) if batch.epoch == self.epoch => last.checked_add(1).unwrap_or(0),
            _ => 0,
        };
        if batch.first == expected { Ok(()) } else { Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) }
    }

    pub(crate) fn on_batch(&mut self, batch: Sequenced, base_offset: i64, timestamp: i64) {
        self.enter_epoch(batch.epoch);
        if self.batches.len() == REMEMBERED {
            self.batches.pop_front();
        }
        self.batches.push_back(Remembered { first: batch.first, last: batch.last, base_offset, timestamp });
        self.last_timestamp = timestamp;
    }

    /// A control marker ends the transaction; a marker with a newer epoch also forgets the batches. Returns where the
    /// transaction began.
    pub(crate) fn on_marker(&mut self, epoch: i16, coordinator_epoch: i32, timestamp: i64) -> Option<i64> {
        self.enter_epoch(epoch);
        self.coordinator_epoch = coordinator_epoch;
        self.last_timestamp = timestamp;
        self.transaction_start.take()
    }

    fn enter_epoch(&mut self, epoch: i16) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }
}

/// Whether a batch of a producer that is not known here may begin.
pub(crate) fn check_unknown(rule: UnknownProducer, batch: Sequenced) -> Result<(), ErrorCode> {
    match rule {
        UnknownProducer::Accept => Ok(()),
        _ if batch.first == 0 => Ok(()),
        UnknownProducer::FromZero => Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER),
        UnknownProducer::Refuse => Err(ErrorCode::UNKNOWN_PRODUCER_ID),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_on_wrap_around_and_repeat_for_five_batches() {
        let mut entry = ProducerEntry::new(3);
        for n in 0..7 {
            let batch = Sequenced::new(3, n * 10, 10);
            assert_eq!(entry.check(batch), Ok(()));
            entry.on_batch(batch, i64::from(n) * 10, 5);
        }
        let old = |n: i32| entry.duplicate(Sequenced::new(3, n * 10, 10)).map(|known| known.base_offset);
        assert_eq!(
            (0..7).map(old).collect::<Vec<_>>(),
            [None, None, Some(20), Some(30), Some(40), Some(50), Some(60)]
        );
        assert_eq!(entry.check(Sequenced::new(3, 10, 10)), Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(entry.check(Sequenced::new(3, 71, 1)), Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(entry.check(Sequenced::new(2, 70, 1)), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
        assert_eq!(entry.check(Sequenced::new(4, 70, 1)), Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(entry.check(Sequenced::new(4, 0, 1)), Ok(()));

        let mut entry = ProducerEntry::new(0);
        let end = Sequenced::new(0, i32::MAX - 1, 4);
        assert_eq!(end.last, 1);
        entry.on_batch(end, 0, 0);
        assert_eq!(entry.check(Sequenced::new(0, 2, 1)), Ok(()));
        let mut entry = ProducerEntry::new(0);
        entry.on_batch(Sequenced::new(0, i32::MAX, 1), 0, 0);
        assert_eq!(entry.check(Sequenced::new(0, 0, 1)), Ok(()));
    }

    #[test]
    fn a_marker_of_the_same_epoch_keeps_the_sequence_and_a_newer_one_restarts_it() {
        let mut entry = ProducerEntry::new(1);
        entry.on_batch(Sequenced::new(1, 0, 3), 7, 0);
        entry.transaction_start = Some(7);
        assert_eq!(entry.on_marker(1, 0, 0), Some(7));
        assert_eq!(entry.check(Sequenced::new(1, 3, 1)), Ok(()));
        assert_eq!(entry.on_marker(2, 0, 0), None);
        assert_eq!(entry.check(Sequenced::new(2, 3, 1)), Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(entry.check(Sequenced::new(2, 0, 1)), Ok(()));
        assert_eq!(entry.check(Sequenced::new(1, 3, 1)), Err(ErrorCode::INVALID_PRODUCER_EPOCH));
    }
}
