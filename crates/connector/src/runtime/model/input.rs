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
    /// Where the job began to read it.
    pub(super) start: i64,
    /// Where the run at hand began: behind what runs before it read to their stops.
    pub(super) base: i64,
    /// Where that run stops.
    pub(super) stop: Option<i64>,
    /// The runs before it.
    runs: Vec<(i64, i64)>,
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
            log.end == log.full() && log.own().last().is_none_or(|&(offset, ..)| position(at) > offset)
        })
    }
}

impl Log {
    fn new(number: usize, dice: &mut Dice, setting: &Setting) -> Self {
        let count = if dice.one_in(12) { 0 } else { 2 + dice.roll(3) };
        let mut log = Self {
            segments: Vec::new(),
            records: Vec::new(),
            end: 0,
            start: 0,
            base: 0,
            stop: None,
            runs: Vec::new(),
        };
        let mut at = 0;
        let mut left = count;
        while left > 0 {
            at = log.maybe_unseen(at, dice);
            let here = (1 + dice.roll(2)).min(left);
            left -= here;
            at = log.write(number, at, here, dice, setting);
        }
        let at = log.maybe_unseen(at, dice);
        // What comes behind the stop is another run's.
        let there = if dice.one_in(2) { log.segments.len() } else { dice.index(log.segments.len() + 1) };
        log.end = log.segments.get(there).map_or(at, |segment| segment.first);
        if !setting.bounded {
            log.end = 0;
        }
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

    pub(super) fn is_gap_before(&self, stop: Option<Offset>) -> bool {
        let is_before = |segment: &&Segment| Some(Offset(segment.next)) == stop;
        self.segments.iter().find(is_before).is_some_and(|segment| matches!(segment.part, Part::Gap))
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

    /// A job begins here, and stops there.
    pub(super) fn begin(&mut self, start: i64, stop: Option<i64>) {
        (self.start, self.base, self.stop) = (start, start, stop);
        self.runs.clear();
    }

    /// A job that had read everything is given another stop. Where a function has not seen the end before it, there is none.
    pub(super) fn begin_again(&mut self, position: i64, has_ended: bool, stop: i64) {
        if position > self.base && has_ended {
            self.runs.push((self.base, position));
            self.base = position;
        }
        self.stop = Some(stop);
    }

    /// Offset, value and event time of what is the job's to read.
    pub(super) fn own(&self) -> impl Iterator<Item = &(i64, u32, i64)> {
        self.between(self.start, self.stop.unwrap_or(i64::MAX))
    }

    /// Of that, what the run at hand reads.
    pub(super) fn of_this_run(&self) -> impl Iterator<Item = &(i64, u32, i64)> {
        self.own().filter(|(offset, ..)| *offset >= self.base)
    }

    /// How many records each run has that came to its stop, where there was anything to read.
    pub(super) fn totals(&self) -> impl Iterator<Item = usize> {
        let this = self.stop.map(|stop| (self.base, stop));
        let all = self.runs.iter().copied().chain(this).filter(|(from, to)| from < to);
        all.map(|(from, to)| self.between(from, to).count())
    }

    fn between(&self, from: i64, to: i64) -> impl Iterator<Item = &(i64, u32, i64)> {
        self.records.iter().filter(move |(offset, ..)| (from..to).contains(offset))
    }

    /// The largest event time read before a position.
    pub(super) fn largest_time(&self, position: i64) -> Option<i64> {
        self.own().filter(|&&(offset, ..)| offset < position).map(|&(.., time)| time).max()
    }

    /// Whether a position is between two records of one batch.
    pub(super) fn is_within_a_batch(&self, position: i64) -> bool {
        let is_within = |segment: &Segment| segment.first < position && position < segment.next;
        self.segments.iter().any(|segment| is_within(segment) && matches!(segment.part, Part::Records(_)))
    }
}
