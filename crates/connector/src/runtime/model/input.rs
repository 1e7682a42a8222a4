//! The logs that the job reads: batches of committed records, control and aborted batches, and gaps that compaction left.

use std::collections::{BTreeMap, VecDeque};

use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, RecordBatch};
use milena::{Offset, TopicPartition};

use super::chance::{Dice, Setting};
use crate::source::model::Answer;

pub(super) const TOPIC: &str = "in";
/// Values of a partition begin at so many times its number.
pub(super) const VALUES: u32 = 100;

#[derive(Clone, Debug)]
enum Part {
    Records(RecordBatch),
    /// A control or an aborted batch: it is fetched, and nothing of it is seen.
    Hidden,
    /// Compaction took it away.
    Gap,
}

#[derive(Clone, Debug)]
struct Segment {
    first: i64,
    next: i64,
    part: Part,
}

/// One partition.
#[derive(Clone, Debug)]
pub(super) struct Log {
    segments: Vec<Segment>,
    /// Offset, value and event time of what readers of committed records see.
    pub(super) records: Vec<(i64, u32, i64)>,
    /// How much of it has been written so far.
    pub(super) end: i64,
}

/// All partitions that exist.
#[derive(Clone, Debug, Default)]
pub(super) struct Input {
    pub(super) logs: BTreeMap<TopicPartition, Log>,
}

pub(super) fn partition(number: usize) -> TopicPartition {
    TopicPartition::new(TOPIC, i32::try_from(number).unwrap())
}

impl Input {
    pub(super) fn new(dice: &mut Dice, setting: &Setting) -> Self {
        let mut input = Self::default();
        for number in 0..2 {
            input.add(number, dice, setting);
        }
        input
    }

    pub(super) fn add(&mut self, number: usize, dice: &mut Dice, setting: &Setting) {
        self.logs.insert(partition(number), Log::new(number, dice, setting));
    }

    /// A producer writes one more batch.
    pub(super) fn grow(&mut self, dice: &mut Dice) {
        let short: Vec<_> = self.logs.values_mut().filter(|log| log.end < log.full()).collect();
        let which = dice.index(short.len());
        if let Some(log) = short.into_iter().nth(which) {
            let end = log.end;
            log.end = log.segments.iter().find(|segment| segment.first == end).map_or(end, |it| it.next);
        }
    }

    /// Whether everything is written and every record is behind one of these positions.
    pub(super) fn is_read(&self, position: impl Fn(&TopicPartition) -> i64) -> bool {
        self.logs.iter().all(|(at, log)| {
            log.end == log.full() && log.records.last().is_none_or(|&(offset, ..)| position(at) > offset)
        })
    }
}

impl Log {
    fn new(number: usize, dice: &mut Dice, setting: &Setting) -> Self {
        let count = if dice.one_in(12) { 0 } else { 2 + dice.roll(3) };
        let mut log = Self { segments: Vec::new(), records: Vec::new(), end: 0 };
        let mut at = 0;
        let mut left = count;
        while left > 0 {
            at = log.maybe_unseen(at, dice);
            let here = (1 + dice.roll(2)).min(left);
            left -= here;
            at = log.write(number, at, here, dice, setting);
        }
        let at = log.maybe_unseen(at, dice);
        // With a stop, the ends are known when the job starts: everything is there.
        log.end = if setting.bounded { at } else { 0 };
        log
    }

    fn maybe_unseen(&mut self, first: i64, dice: &mut Dice) -> i64 {
        if !dice.one_in(3) {
            return first;
        }
        let next = first + 1 + i64::try_from(dice.roll(2)).unwrap();
        let part = if dice.one_in(3) { Part::Gap } else { Part::Hidden };
        self.segments.push(Segment { first, next, part });
        next
    }

    fn write(&mut self, number: usize, first: i64, count: u64, dice: &mut Dice, setting: &Setting) -> i64 {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let mut offset = first;
        for _ in 0..count {
            let index = i64::try_from(self.records.len()).unwrap();
            let value = u32::try_from(number).unwrap() * VALUES + u32::try_from(index).unwrap();
            // No two times of a partition are the same; each lags the largest before it by less than the bound.
            let lag = if setting.out_of_order == 0 { 0 } else { i64::try_from(dice.roll(20)).unwrap() * 16 };
            let time = 1000 + 160 * index - lag + index + 64 * i64::try_from(number).unwrap();
            builder.push(time, None, Some(&value.to_be_bytes()), []).unwrap();
            self.records.push((offset, value, time));
            offset += 1;
        }
        let identity = BatchIdentity { base_offset: Offset(first), ..BatchIdentity::default() };
        let batch = RecordBatch::parse(&mut builder.build(identity).unwrap()).unwrap().unwrap();
        self.segments.push(Segment { first, next: offset, part: Part::Records(batch) });
        offset
    }

    fn full(&self) -> i64 {
        self.segments.last().map_or(0, |segment| segment.next)
    }

    pub(super) fn ends_in_a_gap(&self) -> bool {
        self.segments.last().is_some_and(|segment| matches!(segment.part, Part::Gap))
    }

    /// The answer to a fetch, of at most so many batches.
    pub(super) fn fetch(&self, from: i64, most: usize) -> Answer {
        let mut visible = VecDeque::new();
        let (mut next, mut count) = (from, 0);
        for segment in self.segments.iter().filter(|segment| segment.next > from && segment.next <= self.end)
        {
            match &segment.part {
                _ if count == most => break,
                Part::Gap => continue,
                Part::Hidden => {}
                Part::Records(batch) => visible.push_back(batch.clone()),
            }
            count += 1;
            next = segment.next;
        }
        Answer { visible, next_offset: Offset(next), received: count > 0, end: Offset(self.end) }
    }

    /// The largest event time before a position.
    pub(super) fn largest_time(&self, position: i64) -> Option<i64> {
        self.records.iter().filter(|&&(offset, ..)| offset < position).map(|&(.., time)| time).max()
    }
}
