//! Which batches of a fetch answer an application may see.
//!
//! Under read_committed the broker sends everything up to the last stable offset, plus the list of aborted
//! transactions that touch the answer: pairs of producer id and first offset. [`VisibleFilter`] walks the batches in
//! offset order and judges each from its header alone:
//!
//! ```text
//! list entry's first offset <= batch's last offset   -> that producer is aborting
//! control batch                                      -> hidden; an abort marker ends its producer's aborting
//! transactional batch of an aborting producer        -> hidden
//! anything else                                      -> shown, from the requested offset on
//! ```
//!
//! The position after a batch is its last offset + 1, shown or not: a reader that counts only what it saw would
//! stand still before a marker at the end of a log.
//!
//! # References
//! KIP-98 (transactions), <https://kafka.apache.org/protocol#The_Messages_Fetch>.

use std::collections::{HashSet, VecDeque};

use milena_protocol::error::Result;
use milena_protocol::records::{BatchRef, ControlRecord};
use milena_protocol::types::{Isolation, Offset, ProducerId};

/// How a transaction ended, as a marker in the log says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The transaction was committed.
    Commit,
    /// The transaction was aborted.
    Abort,
    /// A control record of another type.
    Other,
}

/// What the filter needs of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The offset of the batch's last record.
    pub last_offset: Offset,
    /// The producer; `None` for a batch without one.
    pub producer_id: Option<ProducerId>,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// The marker, when this is a control batch.
    pub control: Option<Marker>,
}

impl BatchHead {
    /// Reads the head of a batch. An error when the control record cannot be read.
    #[inline]
    pub fn of(batch: &BatchRef<'_>) -> Result<Self> {
        let control = if batch.is_control() {
            Some(match batch.control()? {
                Some(ControlRecord::Commit { .. }) => Marker::Commit,
                Some(ControlRecord::Abort { .. }) => Marker::Abort,
                _ => Marker::Other,
            })
        } else {
            None
        };
        Ok(Self {
            last_offset: batch.last_offset(),
            producer_id: batch.producer_id(),
            transactional: batch.is_transactional(),
            control,
        })
    }
}

/// What the filter says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Show its records, except those before the requested offset.
    Show,
    /// A control batch: never shown.
    Control,
    /// Records of an aborted transaction: not shown under read_committed.
    Aborted,
    /// Everything in it lies before the requested offset.
    Before,
}

/// Judges the batches of one fetch answer, in offset order.
#[derive(Clone, Debug)]
pub struct VisibleFilter {
    requested: Offset,
    isolation: Isolation,
    /// Aborted transactions that no batch has reached yet, by first offset.
    waiting: VecDeque<(ProducerId, Offset)>,
    aborting: HashSet<ProducerId>,
}

impl VisibleFilter {
    /// A filter for an answer to a fetch at `requested`, with the answer's list of aborted transactions
    /// (ignored under read_uncommitted).
    #[must_use]
    pub fn new(requested: Offset, isolation: Isolation, aborted: &[(ProducerId, Offset)]) -> Self {
        let mut waiting = match isolation {
            Isolation::ReadCommitted => aborted.to_vec(),
            Isolation::ReadUncommitted => Vec::new(),
        };
        waiting.sort_unstable_by_key(|&(_, first)| first);
        Self { requested, isolation, waiting: waiting.into(), aborting: HashSet::new() }
    }

    /// Judges the next batch. Call it for each batch of the answer, in their order.
    pub fn handle_batch(&mut self, batch: &BatchHead) -> Verdict {
        if self.isolation == Isolation::ReadCommitted {
            while let Some(&(producer, first)) = self.waiting.front() {
                if first > batch.last_offset {
                    break;
                }
                self.aborting.insert(producer);
                self.waiting.pop_front();
            }
        }
        if let Some(marker) = batch.control {
            if let (Marker::Abort, Some(producer)) = (marker, batch.producer_id) {
                self.aborting.remove(&producer);
            }
            return Verdict::Control;
        }
        let aborted = batch.transactional && batch.producer_id.is_some_and(|id| self.aborting.contains(&id));
        if aborted {
            Verdict::Aborted
        } else if batch.last_offset < self.requested {
            Verdict::Before
        } else {
            Verdict::Show
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// What producers do, one step after the other; each step appends one batch of 1 to 3 offsets or a marker.
    #[derive(Clone, Debug)]
    enum Step {
        Plain { records: i64 },
        Write { producer: i64, records: i64 },
        End { producer: i64, commit: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1i64..4).prop_map(|records| Step::Plain { records }),
            (0i64..3, 1i64..4).prop_map(|(producer, records)| Step::Write { producer, records }),
            (0i64..3, any::<bool>()).prop_map(|(producer, commit)| Step::End { producer, commit }),
        ];
        proptest::collection::vec(step, 0..60)
    }

    #[derive(Default)]
    struct Log {
        batches: Vec<(Offset, BatchHead)>,
        /// Offsets a read_committed reader shall see.
        committed: Vec<i64>,
        /// (producer, first offset, marker offset)
        aborted: Vec<(ProducerId, Offset, Offset)>,
        stable: i64,
        end: i64,
    }

    /// The naive model: runs the steps, closes every open transaction by a commit, and knows the outcome of each record.
    fn run(mut steps: Vec<Step>) -> Log {
        for producer in 0..3 {
            steps.push(Step::End { producer, commit: true });
        }
        let mut log = Log::default();
        let mut open: HashMap<i64, Vec<i64>> = HashMap::new();
        for step in steps {
            let base = log.end;
            match step {
                Step::Plain { records } => {
                    log.push(records, None, false, None);
                    log.committed.extend(base..base + records);
                }
                Step::Write { producer, records } => {
                    log.push(records, Some(producer), true, None);
                    open.entry(producer).or_default().extend(base..base + records);
                }
                Step::End { producer, commit } => {
                    let Some(records) = open.remove(&producer) else { continue };
                    let marker = if commit { Marker::Commit } else { Marker::Abort };
                    log.push(1, Some(producer), true, Some(marker));
                    if commit {
                        log.committed.extend(records);
                    } else {
                        log.aborted.push((ProducerId(producer), Offset(records[0]), Offset(base)));
                    }
                }
            }
        }
        log.committed.sort_unstable();
        log.stable = log.end;
        log
    }

    impl Log {
        fn push(
            &mut self,
            records: i64,
            producer: Option<i64>,
            transactional: bool,
            control: Option<Marker>,
        ) {
            let head = BatchHead {
                last_offset: Offset(self.end + records - 1),
                producer_id: producer.map(ProducerId),
                transactional,
                control,
            };
            self.batches.push((Offset(self.end), head));
            self.end += records;
        }

        /// Reads as a consumer does, in answers of at most `size` batches, from `from` to the end.
        fn read(&self, from: i64, size: usize, isolation: Isolation) -> Vec<i64> {
            let mut seen = Vec::new();
            let mut position = from;
            while position < self.stable {
                let answer: Vec<_> = self
                    .batches
                    .iter()
                    .filter(|(_, head)| head.last_offset.0 >= position)
                    .take(size)
                    .collect();
                let upper = answer.last().map_or(position, |(_, head)| head.last_offset.0 + 1);
                let lower = answer.first().map_or(position, |(base, _)| base.0);
                let aborted: Vec<_> = self
                    .aborted
                    .iter()
                    .filter(|(_, first, marker)| marker.0 >= lower && first.0 < upper)
                    .map(|&(producer, first, _)| (producer, first))
                    .rev()
                    .collect();
                let mut filter = VisibleFilter::new(Offset(position), isolation, &aborted);
                for (base, head) in answer {
                    if filter.handle_batch(head) == Verdict::Show {
                        seen.extend((base.0.max(position))..=head.last_offset.0);
                    }
                    position = position.max(head.last_offset.0 + 1);
                }
            }
            seen
        }
    }

    proptest! {
        #[test]
        fn read_committed_shows_exactly_the_committed_records(steps in steps(), from in 0i64..40, size in 1usize..8) {
            let log = run(steps);
            let expected: Vec<i64> = log.committed.iter().copied().filter(|&offset| offset >= from).collect();
            prop_assert_eq!(log.read(from, size, Isolation::ReadCommitted), expected);
        }

        #[test]
        fn read_uncommitted_shows_everything_but_markers(steps in steps(), from in 0i64..40, size in 1usize..8) {
            let log = run(steps);
            let expected: Vec<i64> = log
                .batches
                .iter()
                .filter(|(_, head)| head.control.is_none())
                .flat_map(|(base, head)| base.0..=head.last_offset.0)
                .filter(|&offset| offset >= from)
                .collect();
            prop_assert_eq!(log.read(from, size, Isolation::ReadUncommitted), expected);
        }
    }

    #[test]
    fn a_transaction_that_began_before_the_answer_is_hidden_from_its_first_batch() {
        let mut filter =
            VisibleFilter::new(Offset(10), Isolation::ReadCommitted, &[(ProducerId(1), Offset(2))]);
        let write = BatchHead {
            last_offset: Offset(12),
            producer_id: Some(ProducerId(1)),
            transactional: true,
            control: None,
        };
        assert_eq!(filter.handle_batch(&write), Verdict::Aborted);
        let end = BatchHead { last_offset: Offset(13), control: Some(Marker::Abort), ..write };
        assert_eq!(filter.handle_batch(&end), Verdict::Control);
        let next = BatchHead { last_offset: Offset(14), ..write };
        assert_eq!(filter.handle_batch(&next), Verdict::Show);
    }

    #[test]
    fn an_idempotent_batch_of_the_same_producer_outside_a_transaction_is_shown() {
        let mut filter =
            VisibleFilter::new(Offset(0), Isolation::ReadCommitted, &[(ProducerId(1), Offset(0))]);
        let plain = BatchHead {
            last_offset: Offset(3),
            producer_id: Some(ProducerId(1)),
            transactional: false,
            control: None,
        };
        assert_eq!(filter.handle_batch(&plain), Verdict::Show);
    }
}
