//! What a reader handed out and functions have not seen: it goes to them a slice at a time, so that a barrier may stand between any two
//! records. Pure.
//!
//! # Invariants
//! * The elements of one record are in one slice: a checkpoint can't stand between them.
//! * A slice is as long as functions take a small time for, and at least as long as they work on at once, so that waiting for the end of
//!   each costs little.

use std::time::Duration;
use std::vec::IntoIter;

use milena::TopicPartition;

use crate::schema::Stamped;
use crate::source::{Batch, Unread};

/// A slice that takes less makes the next one longer.
const SHORT: Duration = Duration::from_millis(10);
/// One that takes more makes the next one shorter.
const LONG: Duration = Duration::from_millis(50);
const LONGEST: usize = 1 << 14;
/// A slice is so many times what functions work on at once.
const TURNS: usize = 4;

/// How long slices are.
#[derive(Debug)]
pub(super) struct Pace {
    least: usize,
    elements: usize,
}

impl Pace {
    /// `width`: how many elements functions work on at once.
    pub(super) fn new(width: usize) -> Self {
        let least = if width > 1 { width.saturating_mul(TURNS) } else { 1 };
        Self { least, elements: least }
    }

    /// A slice went through the functions.
    pub(super) fn handle_took(&mut self, took: Duration) {
        if took < SHORT {
            self.elements = self.elements.saturating_mul(2).min(LONGEST.max(self.least));
        } else if took > LONG {
            let shorter = LONG.as_micros() * self.elements as u128 / took.as_micros().max(1);
            self.elements = usize::try_from(shorter).unwrap_or(self.least).max(self.least);
        }
    }
}

/// A batch on its way through the functions.
#[derive(Debug)]
pub(super) struct Pending<T> {
    pub(super) at: TopicPartition,
    elements: IntoIter<Stamped<T>>,
    /// Records that are not counted yet.
    records: u64,
}

/// A part of a batch.
#[derive(Debug)]
pub(super) struct Slice<T> {
    pub(super) elements: Vec<Stamped<T>>,
    pub(super) records: u64,
    pub(super) max_timestamp: Option<i64>,
}

impl<T> Pending<T> {
    pub(super) fn new(batch: Batch<T>) -> Self {
        let Batch { topic_partition, elements, records } = batch;
        Self { at: topic_partition, elements: elements.into_iter(), records }
    }

    /// The next slice, of which the last brings the batch to its end.
    pub(super) fn next_slice(&mut self, pace: &Pace) -> Slice<T> {
        let elements = if self.elements.len() <= pace.elements {
            std::mem::take(&mut self.elements).collect()
        } else {
            let mut elements: Vec<_> = self.elements.by_ref().take(pace.elements).collect();
            let last = elements.last().map(|element| element.offset);
            while self.elements.as_slice().first().is_some_and(|next| Some(next.offset) == last) {
                elements.extend(self.elements.next());
            }
            elements
        };
        let records = match self.is_done() {
            true => self.records,
            false => self.records.min(count_records(&elements)),
        };
        self.records -= records;
        let max_timestamp = elements.iter().map(|element| element.timestamp).max();
        Slice { elements, records, max_timestamp }
    }

    pub(super) fn is_done(&self) -> bool {
        self.elements.len() == 0
    }

    /// Where a checkpoint stands now. `max_timestamp` is of the elements before, over the life of the split.
    pub(super) fn unread(&self, max_timestamp: Option<i64>) -> Option<Unread> {
        let next_offset = self.elements.as_slice().first()?.offset;
        Some(Unread { topic_partition: self.at.clone(), next_offset, max_timestamp })
    }
}

fn count_records<T>(elements: &[Stamped<T>]) -> u64 {
    elements.chunk_by(|one, other| one.offset == other.offset).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::Offset;

    fn pending(offsets: &[i64], records: u64) -> Pending<usize> {
        let stamp = |(value, &offset): (usize, &i64)| Stamped {
            value,
            timestamp: offset * 10,
            offset: Offset(offset),
        };
        let elements = offsets.iter().enumerate().map(stamp).collect();
        Pending::new(Batch { topic_partition: TopicPartition::new("t", 0), elements, records })
    }

    #[test]
    fn slices_are_the_batch_and_never_cut_a_record() {
        let offsets = [1, 1, 2, 5, 5, 5, 6, 9];
        for elements in 1..=9 {
            let mut pending = pending(&offsets, 7);
            let pace = Pace { least: 1, elements };
            let (mut seen, mut records) = (Vec::new(), 0);
            while !pending.is_done() {
                let unread = pending.unread(Some(4)).unwrap();
                assert!(seen.last().is_none_or(|&(_, last)| last < unread.next_offset));
                assert_eq!(unread.max_timestamp, Some(4));
                let slice = pending.next_slice(&pace);
                assert!(!slice.elements.is_empty());
                assert_eq!(slice.max_timestamp, slice.elements.last().map(|element| element.timestamp));
                seen.extend(slice.elements.iter().map(|element| (element.value, element.offset)));
                records += slice.records;
            }
            assert_eq!(records, 7, "those without elements are counted with the last");
            assert!(seen.iter().map(|seen| seen.0).eq(0..offsets.len()));
            assert_eq!(pending.unread(None), None);
        }
    }

    #[test]
    fn a_batch_without_elements_is_one_slice() {
        let mut pending = pending(&[], 3);
        let slice = pending.next_slice(&Pace::new(1));
        assert_eq!((slice.elements.len(), slice.records, slice.max_timestamp), (0, 3, None));
        assert!(pending.is_done());
    }

    #[test]
    fn the_pace_is_one_record_for_slow_functions_and_thousands_for_fast_ones() {
        let mut pace = Pace::new(1);
        for _ in 0..20 {
            pace.handle_took(Duration::from_micros(pace.elements as u64 / 10));
        }
        assert_eq!(pace.elements, LONGEST);
        for _ in 0..3 {
            pace.handle_took(Duration::from_millis(20) * u32::try_from(pace.elements).unwrap());
        }
        assert!((1..=3).contains(&pace.elements), "{pace:?}");
        pace.handle_took(Duration::from_millis(30));
        assert!((1..=3).contains(&pace.elements), "{pace:?}");

        let mut wide = Pace::new(100);
        wide.handle_took(Duration::from_secs(9));
        assert_eq!(wide.elements, 400, "functions that work on many at once get many");
    }
}
