//! Judging the output of a demo: every record once, in order per key, nothing else.

use std::collections::HashMap;

use milena::protocol::records::Record;
use milena::{Offset, PartitionId};
use serde::Serialize;

use super::data::Data;

/// How many differences are told one by one.
const SHOWN: usize = 10;

/// What is wrong with the output, and how much of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// Records of the output.
    pub(crate) seen: u64,
    /// Records of the input that are not in the output.
    pub(crate) missing: u64,
    /// Records that are there once too often, each time counted.
    pub(crate) duplicated: u64,
    /// Records that come behind a later one of their key.
    pub(crate) reordered: u64,
    /// Records that are none of the input, or carry another key or time.
    pub(crate) foreign: u64,
    /// Transactions that are still open under the job's prefix.
    pub(crate) open_transactions: Vec<String>,
    /// Checkpoints whose watermark is behind that of an earlier one.
    pub(crate) watermark_regressions: u64,
    /// The first differences in words.
    pub(crate) differences: Vec<String>,
}

impl Verdict {
    /// Whether the job kept its promise.
    pub(crate) fn is_good(&self) -> bool {
        self.missing == 0
            && self.duplicated == 0
            && self.reordered == 0
            && self.foreign == 0
            && self.watermark_regressions == 0
            && self.open_transactions.is_empty()
    }

    pub(crate) fn tell(&mut self, difference: impl FnOnce() -> String) {
        if self.differences.len() < SHOWN {
            self.differences.push(difference());
        }
    }
}

/// Takes the output record by record and compares it with the input.
#[derive(Debug)]
pub(crate) struct Judge {
    data: Data,
    times_seen: Vec<u8>,
    latest_of_key: HashMap<Vec<u8>, u64>,
    verdict: Verdict,
}

impl Judge {
    /// A judge of the output that belongs to `data`.
    pub(crate) fn new(data: Data) -> Self {
        let records = usize::try_from(data.records).unwrap_or(usize::MAX);
        Self {
            data,
            times_seen: vec![0; records],
            latest_of_key: HashMap::new(),
            verdict: Verdict::default(),
        }
    }

    /// Looks at one record; records of a partition must come in the order of their offsets.
    pub(crate) fn look(&mut self, partition: PartitionId, record: &Record<'_>) {
        self.verdict.seen += 1;
        let place = |offset: Offset| format!("partition {partition} offset {offset}");
        let value = record.value.unwrap_or_default();
        let Some(number) = self.data.number_of(value) else {
            self.verdict.foreign += 1;
            self.verdict.tell(|| format!("{}: no record of the input", place(record.offset)));
            return;
        };
        let datum = self.data.datum(number);
        if record.key != Some(datum.key.as_bytes()) || record.timestamp != datum.event_ms {
            self.verdict.foreign += 1;
            self.verdict
                .tell(|| format!("{}: record {number} with another key or time", place(record.offset)));
            return;
        }
        let times = usize::try_from(number).ok().and_then(|index| self.times_seen.get_mut(index));
        if let Some(times) = times {
            *times = times.saturating_add(1);
            if *times > 1 {
                self.verdict.duplicated += 1;
                self.verdict.tell(|| format!("{}: record {number} again", place(record.offset)));
                return;
            }
        }
        let latest = self.latest_of_key.entry(datum.key.into_bytes()).or_insert(number);
        if number < *latest {
            let latest = *latest;
            self.verdict.reordered += 1;
            self.verdict.tell(|| {
                format!("{}: record {number} behind record {latest} of its key", place(record.offset))
            });
        } else {
            *latest = number;
        }
    }

    /// Looks at the watermarks of the checkpoints, in the order in which those were taken.
    pub(crate) fn look_at_watermarks(&mut self, checkpoints: impl IntoIterator<Item = (u64, i64)>) {
        let mut highest: Option<(u64, i64)> = None;
        for (checkpoint, watermark) in checkpoints {
            match highest {
                Some((earlier, mark)) if watermark < mark => {
                    self.verdict.watermark_regressions += 1;
                    self.verdict.tell(|| {
                        format!("checkpoint {checkpoint} has watermark {watermark}, checkpoint {earlier} had {mark}")
                    });
                }
                _ => highest = Some((checkpoint, watermark)),
            }
        }
    }

    /// Notes a transaction that should not be open.
    pub(crate) fn note_open_transaction(&mut self, id: String) {
        self.verdict.tell(|| format!("transaction {id} is still open"));
        self.verdict.open_transactions.push(id);
    }

    /// Counts what is missing and gives the verdict.
    pub(crate) fn finish(mut self) -> Verdict {
        for (number, _) in self.times_seen.iter().enumerate().filter(|(_, times)| **times == 0) {
            self.verdict.missing += 1;
            self.verdict.tell(|| format!("record {number} is missing"));
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::MARK;
    use super::*;
    use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, batches};

    /// Judges an output that holds these record numbers in this order.
    fn judge(data: Data, numbers: &[u64]) -> Verdict {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for number in numbers {
            let datum = data.datum(*number);
            let value = [MARK, datum.value.as_bytes()].concat();
            builder.push(datum.event_ms, Some(datum.key.as_bytes()), Some(&value), []).unwrap();
        }
        let bytes = builder.build(BatchIdentity::default()).unwrap();
        let mut judge = Judge::new(data);
        for batch in batches(bytes) {
            for record in batch.unwrap().records().unwrap().iter() {
                judge.look(PartitionId(0), &record.unwrap());
            }
        }
        judge.finish()
    }

    #[test]
    fn a_complete_output_is_good() {
        let verdict = judge(Data::new(3, 5), &[0, 1, 2, 3, 4]);
        assert!(verdict.is_good(), "{verdict:?}");
    }

    #[test]
    fn a_lost_a_doubled_and_a_late_record_are_each_found() {
        assert_eq!(judge(Data::new(3, 5), &[0, 1, 3, 4]).missing, 1);
        assert_eq!(judge(Data::new(3, 5), &[0, 1, 2, 2, 3, 4]).duplicated, 1);
        // One key only, so that any exchange is one within a key.
        assert_eq!(judge(Data::new(3, 1), &[0]).reordered, 0);
        let data = Data::new(3, 4000);
        let twin = (1..4000).find(|n| data.datum(*n).key == data.datum(0).key).unwrap();
        assert_eq!(judge(data, &[twin, 0]).reordered, 1);
    }

    #[test]
    fn a_record_of_another_input_is_foreign() {
        let mut judge = Judge::new(Data::new(3, 5));
        let other = Data::new(4, 5).datum(1);
        let value = [MARK, other.value.as_bytes()].concat();
        assert_eq!(judge.data.number_of(&value), None);
        judge.look_at_watermarks([(1, 5), (2, 7), (3, 6), (4, 7)]);
        assert_eq!(judge.finish().watermark_regressions, 1);
    }
}
