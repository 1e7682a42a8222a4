//! A judge of histories: what was to be written, against what a reader of committed records sees.
//!
//! Each record has a number of its own, given by the test, and a key. The judge finds
//!
//! | finding | meaning |
//! |---|---|
//! | lost | expected, acknowledged or promised, and not there |
//! | duplicated | there more than once |
//! | foreign | there and never expected, or under another key |
//! | aborted read | there, though its transaction was aborted |
//! | reordered | behind a record of its key that was written after it |
//! | scattered | in another partition than the rest of its key |
//! | torn | part of a transaction is there, part is not |
//!
//! It holds no opinion on how the records got there, so the same judge serves the embedded broker and real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The number a test gave a record.
pub type RecordNumber = u64;

/// What a record is expected to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    key: Vec<u8>,
    /// Its place among the records of its key.
    rank: usize,
    fate: Fate,
    transaction: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It must be there.
    Written,
    /// It may be there or not: its write was neither acknowledged nor refused.
    Open,
    /// It must not be there.
    Aborted,
}

/// A place in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Collects a history and judges it.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    expected: BTreeMap<RecordNumber, Expected>,
    ranks: BTreeMap<Vec<u8>, usize>,
    seen: BTreeMap<Place, (Vec<u8>, RecordNumber)>,
}

impl Judge {
    /// A judge of an empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A record that must be there once, after those of its key that were expected before it.
    pub fn expect(&mut self, key: &[u8], number: RecordNumber) {
        self.add(key, number, Fate::Written, None);
    }

    /// The same for a record of a transaction that was committed.
    pub fn expect_in(&mut self, transaction: u64, key: &[u8], number: RecordNumber) {
        self.add(key, number, Fate::Written, Some(transaction));
    }

    /// A record that may be there, once, or not at all.
    pub fn allow(&mut self, key: &[u8], number: RecordNumber) {
        self.add(key, number, Fate::Open, None);
    }

    /// A record of a transaction with an open outcome: all of its records are there, or none.
    pub fn allow_in(&mut self, transaction: u64, key: &[u8], number: RecordNumber) {
        self.add(key, number, Fate::Open, Some(transaction));
    }

    /// A record that must not be there: its transaction was aborted.
    pub fn forbid(&mut self, key: &[u8], number: RecordNumber) {
        self.add(key, number, Fate::Aborted, None);
    }

    fn add(&mut self, key: &[u8], number: RecordNumber, fate: Fate, transaction: Option<u64>) {
        let rank = self.ranks.entry(key.to_vec()).or_default();
        let expected = Expected { key: key.to_vec(), rank: *rank, fate, transaction };
        *rank += 1;
        let before = self.expected.insert(number, expected);
        assert!(before.is_none(), "record number {number} was given twice: the test is wrong");
    }

    /// A record that a reader of committed records saw. Offsets, not the order of calls, say what comes first.
    pub fn see(&mut self, topic: &str, partition: i32, offset: i64, key: &[u8], number: RecordNumber) {
        let place = Place { topic: topic.to_owned(), partition, offset };
        self.seen.insert(place, (key.to_vec(), number));
    }

    /// How many records were seen.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// The verdict on the history.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut places: BTreeMap<RecordNumber, Vec<Place>> = BTreeMap::new();
        for (place, (key, number)) in &self.seen {
            match self.expected.get(number) {
                Some(expected) if expected.key == *key => {
                    if expected.fate == Fate::Aborted {
                        verdict.aborted_read.push((*number, place.clone()));
                    }
                    places.entry(*number).or_default().push(place.clone());
                }
                Some(_) | None => verdict.foreign.push((*number, place.clone())),
            }
        }
        for (number, expected) in &self.expected {
            match places.get(number) {
                None if expected.fate == Fate::Written => verdict.lost.push(*number),
                Some(found) if found.len() > 1 => verdict.duplicated.push((*number, found.clone())),
                None | Some(_) => {}
            }
        }
        self.judge_order(&places, &mut verdict);
        self.judge_transactions(&places, &mut verdict);
        verdict
    }

    /// Within a key, first appearances must come in the order of the expectation.
    fn judge_order(&self, places: &BTreeMap<RecordNumber, Vec<Place>>, verdict: &mut Verdict) {
        let mut keys: BTreeMap<&[u8], Vec<(usize, RecordNumber, &Place)>> = BTreeMap::new();
        for (number, found) in places {
            let (Some(expected), Some(first)) = (self.expected.get(number), found.first()) else { continue };
            keys.entry(&expected.key).or_default().push((expected.rank, *number, first));
        }
        for mut records in keys.into_values() {
            records.sort_unstable();
            let mut latest: Option<&Place> = None;
            for (_, number, place) in records {
                if let Some(before) = latest {
                    if (&before.topic, before.partition) != (&place.topic, place.partition) {
                        verdict.scattered.push((number, place.clone()));
                        continue;
                    }
                    if place.offset < before.offset {
                        verdict.reordered.push((number, place.clone()));
                        continue;
                    }
                }
                latest = Some(place);
            }
        }
    }

    fn judge_transactions(&self, places: &BTreeMap<RecordNumber, Vec<Place>>, verdict: &mut Verdict) {
        let mut transactions: BTreeMap<u64, (BTreeSet<RecordNumber>, BTreeSet<RecordNumber>)> =
            BTreeMap::new();
        for (number, expected) in &self.expected {
            let Some(transaction) = expected.transaction else { continue };
            let (there, missing) = transactions.entry(transaction).or_default();
            if places.contains_key(number) {
                there.insert(*number)
            } else {
                missing.insert(*number)
            };
        }
        for (transaction, (there, missing)) in transactions {
            if !there.is_empty() && !missing.is_empty() {
                verdict.torn.push((transaction, missing.into_iter().collect()));
            }
        }
    }
}

/// What is wrong with a history. All lists empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Expected and not there.
    pub lost: Vec<RecordNumber>,
    /// There more than once, and where.
    pub duplicated: Vec<(RecordNumber, Vec<Place>)>,
    /// Never expected, or under another key.
    pub foreign: Vec<(RecordNumber, Place)>,
    /// There, though aborted.
    pub aborted_read: Vec<(RecordNumber, Place)>,
    /// Behind a later record of its key.
    pub reordered: Vec<(RecordNumber, Place)>,
    /// In another partition than its key.
    pub scattered: Vec<(RecordNumber, Place)>,
    /// Transactions that are there in part, with what is missing.
    pub torn: Vec<(u64, Vec<RecordNumber>)>,
}

/// How many examples of a finding a message shows.
const SHOWN: usize = 5;

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("clean");
        }
        fn show<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, name: &str, found: &[T]) -> fmt::Result {
            if found.is_empty() {
                return Ok(());
            }
            let some: Vec<&T> = found.iter().take(SHOWN).collect();
            write!(f, "{} {name} (such as {some:?}); ", found.len())
        }
        show(f, "lost", &self.lost)?;
        show(f, "duplicated", &self.duplicated)?;
        show(f, "foreign", &self.foreign)?;
        show(f, "aborted but read", &self.aborted_read)?;
        show(f, "reordered", &self.reordered)?;
        show(f, "scattered", &self.scattered)?;
        show(f, "torn", &self.torn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve records of three keys in three transactions, all there.
    /// Partition, offset, key and number.
    type Line = (i32, i64, Vec<u8>, RecordNumber);

    fn good() -> (Judge, Vec<Line>) {
        let mut judge = Judge::new();
        let mut log = Vec::new();
        for number in 0..12_u64 {
            let key = vec![b'a' + u8::try_from(number % 3).unwrap()];
            judge.expect_in(number / 4, &key, number);
            log.push((i32::from(key[0] % 2), i64::try_from(number).unwrap(), key, number));
        }
        (judge, log)
    }

    fn judged(mut judge: Judge, log: &[(i32, i64, Vec<u8>, RecordNumber)]) -> Verdict {
        for (partition, offset, key, number) in log {
            judge.see("out", *partition, *offset, key, *number);
        }
        judge.verdict()
    }

    #[test]
    fn a_good_history_is_clean() {
        let (judge, log) = good();
        let verdict = judged(judge, &log);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(verdict.to_string(), "clean");
    }

    #[test]
    fn a_lost_record_is_found_and_its_transaction_torn() {
        for at in 0..12 {
            let (judge, mut log) = good();
            let (.., number) = log.remove(at);
            let verdict = judged(judge, &log);
            assert_eq!(verdict.lost, [number]);
            assert_eq!(verdict.torn, [(number / 4, vec![number])]);
        }
    }

    #[test]
    fn a_lost_transaction_is_lost_but_not_torn() {
        let (judge, mut log) = good();
        log.retain(|(.., number)| number / 4 != 1);
        let verdict = judged(judge, &log);
        assert_eq!((verdict.lost.len(), verdict.torn.len()), (4, 0));
    }

    #[test]
    fn a_duplicate_is_found_wherever_it_is() {
        for at in 0..12 {
            let (judge, mut log) = good();
            let (partition, _, key, number) = log[at].clone();
            log.push((partition, 99, key, number));
            let verdict = judged(judge, &log);
            assert_eq!(verdict.duplicated.len(), 1);
            assert_eq!(verdict.duplicated[0].0, number);
            assert!(verdict.reordered.is_empty(), "{verdict}");
        }
    }

    #[test]
    fn two_records_of_a_key_that_changed_places_are_found() {
        let (judge, mut log) = good();
        let (first, second) = (log[3].1, log[6].1);
        log[3].1 = second;
        log[6].1 = first;
        let verdict = judged(judge, &log);
        assert_eq!(verdict.reordered.iter().map(|found| found.0).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn other_keys_may_overtake() {
        let (judge, mut log) = good();
        let (first, second) = (log[3].1, log[5].1);
        log[3].1 = second;
        log[5].1 = first;
        assert!(judged(judge, &log).is_clean());
    }

    #[test]
    fn a_record_in_another_partition_than_its_key_is_found() {
        let (judge, mut log) = good();
        log[4].0 += 7;
        assert_eq!(judged(judge, &log).scattered.len(), 1);
    }

    #[test]
    fn foreign_and_aborted_records_are_found() {
        let (mut judge, mut log) = good();
        judge.forbid(b"a", 100);
        log.push((1, 50, b"a".to_vec(), 100));
        log.push((1, 51, b"a".to_vec(), 200));
        log.push((1, 52, b"wrong key".to_vec(), 0));
        let verdict = judged(judge, &log);
        assert_eq!(verdict.aborted_read.len(), 1);
        assert_eq!(verdict.foreign.iter().map(|found| found.0).collect::<Vec<_>>(), [200, 0]);
    }

    #[test]
    fn an_open_transaction_may_be_there_or_not_but_not_in_part() {
        for (there, torn) in [(vec![], 0), (vec![20, 21], 0), (vec![21], 1)] {
            let (mut judge, mut log) = good();
            judge.allow_in(9, b"a", 20);
            judge.allow_in(9, b"a", 21);
            for number in there {
                log.push((1, i64::try_from(number).unwrap(), b"a".to_vec(), number));
            }
            let verdict = judged(judge, &log);
            assert_eq!((verdict.lost.len(), verdict.torn.len()), (0, torn));
        }
    }
}
