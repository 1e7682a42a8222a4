//! What must hold, at each step and at the end. Everything is recomputed from the input.

use std::collections::BTreeMap;

use milena::{Offset, TopicPartition};

use super::chance::Met;
use super::input::VALUES;
use super::life::Life;
use super::sink::TOTALS;
use super::subtask::{Output, Subtask, counted};
use super::walk::{Ended, FOREIGN, Stop, Walk, wrong};
use crate::Error;
use crate::checkpoint::snapshot::Scope;
use crate::checkpoint::state::Decoder;
use crate::checkpoint::{CheckpointState, StateDocument};
use crate::runtime::driver::offsets_by_name;
use crate::schema::Stamped;
use crate::sink::committable::Committable;
use crate::sink::outcome::Outcome;
use crate::source::{Assigner, EnumeratorState, Split};

/// The newest checkpoint on the disk, and what it promises.
pub(super) struct Durable {
    bytes: Vec<u8>,
    pub(super) positions: BTreeMap<TopicPartition, i64>,
    /// Every partition is read to its stop.
    pub(super) at_its_end: bool,
    watermark: Option<i64>,
    /// Watermark and count of each partition's function.
    pub(super) functions: BTreeMap<TopicPartition, (Option<i64>, u32)>,
}

impl Walk {
    /// The newest checkpoint, read from its bytes, now and then over its document.
    pub(super) fn restored(&mut self) -> Result<Option<CheckpointState>, Stop> {
        let Some(durable) = &self.durable else { return Ok(None) };
        let state = CheckpointState::decode(&durable.bytes).map_err(Error::from)?;
        if self.dice.one_in(8) {
            self.met.insert(Met::ADocument);
            let text = serde_json::to_string(&StateDocument::of(&state)?).unwrap();
            let again = StateDocument::parse(&text)?.into_state()?;
            if again != state {
                return wrong(format!("{state:?} is {again:?} after its document"));
            }
            return Ok(Some(again));
        }
        Ok(Some(state))
    }

    /// A checkpoint gets durable.
    pub(super) fn keep(&mut self, state: &CheckpointState) -> Result<(), Stop> {
        let bytes = state.encode();
        if CheckpointState::decode(&bytes).map_err(Error::from)? != *state {
            return wrong(format!("{state:?} is not what its bytes say"));
        }
        let known = EnumeratorState::decode(&mut Decoder::new(&state.enumerator)).map_err(Error::from)?;
        let by_name = offsets_by_name(state, &known.splits);
        let all = known.splits.iter().chain(&state.splits).map(|split| split.topic_partition.clone());
        let positions: BTreeMap<TopicPartition, i64> =
            all.filter_map(|at| by_name.get(&at.to_string()).map(|&offset| (at, offset))).collect();
        for split in &state.splits {
            self.check_times(split)?;
            if self.input.logs[&split.topic_partition].is_within_a_batch(split.next_offset.0) {
                self.met.insert(Met::APieceOfABatch);
            }
        }
        let stops =
            known.splits.iter().chain(&state.splits).map(|split| (&split.topic_partition, split.stop));
        let stops: BTreeMap<_, _> = stops.collect();
        let is_read = |(at, stop): (&&TopicPartition, &Option<Offset>)| {
            stop.is_some_and(|stop| positions.get(*at).is_some_and(|position| *position >= stop.0))
        };
        let at_its_end = !stops.is_empty() && stops.iter().all(is_read);
        let mut functions = BTreeMap::new();
        for function in &state.functions {
            let Scope::Split(at) = &function.scope else { return wrong("a scope that is no split") };
            let counted = counted(function).map_err(Error::from)?;
            functions.insert(at.clone(), (counted.watermark, counted.count));
        }
        for (at, &position) in &positions {
            let log = &self.input.logs[at];
            let passed = log.of_this_run().filter(|&&(offset, ..)| offset < position).count();
            match functions.get(at) {
                Some(&(_, count)) if count as usize != passed => {
                    return wrong(format!(
                        "{at}: counted {count} in the checkpoint, {passed} before {position}"
                    ));
                }
                Some(_) => {}
                None if passed > 0 && log.stop.is_none_or(|stop| position < stop) => {
                    return wrong(format!("{at}: the checkpoint has position {position} and no count"));
                }
                None => {}
            }
        }
        if let Some(before) = &self.durable {
            for (at, position) in &before.positions {
                if positions.get(at).is_none_or(|now| now < position) {
                    return wrong(format!("{at}: {position} was durable, now {:?}", positions.get(at)));
                }
            }
            for (at, (watermark, _)) in &before.functions {
                if functions.get(at).is_some_and(|(now, _)| now < watermark) {
                    return wrong(format!("{at}: the function's watermark was {watermark:?}"));
                }
            }
            if state.watermark < before.watermark {
                return wrong(format!("the job's watermark goes back to {:?}", state.watermark));
            }
        }
        self.next_id = state.id + 1;
        let id = state.id;
        self.note(|| format!("checkpoint {id} is written: {positions:?}"));
        self.durable = Some(Durable { bytes, at_its_end, positions, watermark: state.watermark, functions });
        Ok(())
    }

    /// A split's event time is that of what was handed out.
    fn check_times(&self, split: &Split) -> Result<(), Stop> {
        let expected = self.input.logs[&split.topic_partition].largest_time(split.next_offset.0);
        if split.max_timestamp != expected {
            return wrong(format!("{split:?}: the largest time is {expected:?}"));
        }
        Ok(())
    }

    pub(super) fn check_assignment(
        &self,
        life: &mut Life,
        subtask: u32,
        splits: &[Split],
    ) -> Result<(), Stop> {
        if matches!(self.setting.assigner, Assigner::Balanced) && life.enumerator.finished().next().is_none()
        {
            let load = |subtask| life.enumerator.owners().filter(|(_, owner)| *owner == subtask).count();
            let loads: Vec<usize> = (0..life.parallelism).map(load).collect();
            if loads.iter().max() > loads.iter().min().map(|least| least + 1).as_ref() {
                return wrong(format!("balanced, and dealt {loads:?}"));
            }
        }
        for split in splits {
            let at = &split.topic_partition;
            if let Some(other) = life.read_by.insert(at.clone(), subtask) {
                return wrong(format!("{at} goes to {subtask}, and {other} has it"));
            }
            if life.told_no_more.contains(&subtask) {
                return wrong(format!("{at} goes to {subtask}, which was told that nothing comes"));
            }
            let wanted = life.handed_out.get(at).copied().unwrap_or(self.input.logs[at].start);
            if split.next_offset.0 != wanted {
                let next = split.next_offset;
                return wrong(format!("{at} goes on at {next}, and was read up to {wanted}"));
            }
        }
        Ok(())
    }

    /// Every partition of a bounded source is with its reader, or read.
    pub(super) fn check_no_more(&self, life: &mut Life, subtask: u32) -> Result<(), Stop> {
        life.told_no_more.insert(subtask);
        if !self.setting.bounded {
            return wrong("a source without end says that nothing more comes");
        }
        if let Some(at) = life.wanted_stops.first() {
            return wrong(format!("everything was at its stop, and {at} is given no other one"));
        }
        let done = |at: &TopicPartition| life.handed_out.get(at).copied().unwrap_or(0);
        let open = self.input.logs.iter().find(|(at, log)| {
            // What another reader was not given yet is no business of this one.
            let dealt = life.enumerator.owners().find(|(of, _)| of == at).map(|(_, owner)| owner);
            let elsewhere = dealt.is_some_and(|owner| owner != subtask);
            let unread = log.own().any(|&(offset, ..)| offset >= done(at));
            !elsewhere && !life.read_by.contains_key(at) && unread
        });
        match open {
            Some((at, _)) => {
                wrong(format!("{subtask} is told that nothing more comes, and {at} is not read"))
            }
            None => Ok(()),
        }
    }

    /// What this reader's partitions allow: a partition that is idle allows everything.
    fn allowed(&self, split: &Split) -> Option<i64> {
        let largest = self.input.logs[&split.topic_partition].largest_time(split.next_offset.0);
        largest.map(|time| time - self.setting.out_of_order - 1)
    }

    pub(super) fn check_watermark(&mut self, life: &mut Life, at: usize, watermark: i64) -> Result<(), Stop> {
        let subtask = &mut life.subtasks[at];
        if subtask.last_watermark.is_some_and(|before| watermark <= before) {
            let before = subtask.last_watermark;
            return wrong(format!("the watermark of {at} goes from {before:?} to {watermark}"));
        }
        subtask.last_watermark = Some(watermark);
        if self.setting.idleness.is_some() {
            return Ok(());
        }
        for (split, ..) in life.subtasks[at].reader.splits() {
            let behind = self.behind.contains(&split.topic_partition);
            if !behind && self.allowed(split).is_none_or(|allowed| watermark > allowed) {
                return wrong(format!("the watermark of {at} is {watermark}, ahead of {split:?}"));
            }
        }
        Ok(())
    }

    /// After a tick with nothing queued, the watermark is the least of the partitions', or what it was.
    pub(super) fn check_tick(&self, subtask: &Subtask) -> Result<(), Stop> {
        let active = || subtask.reader.splits().filter(|(_, idle, _)| !idle);
        if self.setting.idleness.is_none() && active().count() != subtask.reader.splits().count() {
            return wrong("a partition is idle, and none ever should be");
        }
        if self.setting.punctuated {
            // Marks come with records only: after a restore there is none until the first.
            return Ok(());
        }
        let all: Option<Vec<i64>> = active().map(|(split, ..)| self.allowed(split)).collect();
        let least = all.and_then(|all| all.into_iter().min());
        let expected = subtask.last_watermark.max(least);
        if subtask.reader.watermark() != expected {
            let is = subtask.reader.watermark();
            return wrong(format!("the watermark is {is:?}, by the partitions {expected:?}"));
        }
        Ok(())
    }

    /// What the function gave is what a recomputation gives. Returns it as a value for the sink.
    pub(super) fn check_output(&self, at: &TopicPartition, output: &Stamped<Output>) -> Result<u32, Stop> {
        match output.value {
            Output::Value { value, count, late } => {
                let expected = self.input.logs[at].of_this_run().nth(count as usize - 1);
                let expected = expected.map(|&(_, value, _)| value);
                if expected != Some(value) {
                    return wrong(format!("{at}: {value} is counted as number {count}"));
                }
                if late && self.setting.idleness.is_none() && !self.behind.contains(at) {
                    return wrong(format!("{at}: {value} is late, though nothing was idle"));
                }
                Ok(value)
            }
            Output::Total { count, fired } => {
                let early = self.setting.idleness.is_none() && !self.behind.contains(at);
                if fired < count || (early && fired != count) {
                    return wrong(format!("{at}: {fired} timers fired for {count} records"));
                }
                Ok(TOTALS + u32::try_from(at.partition.0).unwrap() * VALUES + count)
            }
        }
    }

    /// What is said of a transaction's end is so.
    pub(super) fn check_outcome(&self, committable: &Committable, outcome: &Outcome) -> Result<(), Stop> {
        let transaction = &committable.transaction;
        let ends = self.broker.ends(transaction.producer_id.0, transaction.producer_epoch.0);
        let expected = match outcome {
            Outcome::Committed { .. } | Outcome::Unknown { decided: true, .. } => Some(true),
            Outcome::Aborted { .. } => Some(false),
            Outcome::Unknown { decided: false, .. } if self.had_retention => return Ok(()),
            Outcome::Unanswered { .. } => return Ok(()),
            _ => None,
        };
        if expected.is_none() || ends.iter().any(|end| *end != expected) {
            return wrong(format!(
                "{} ended as {ends:?}, and is said to be {outcome:?}",
                committable.identity()
            ));
        }
        Ok(())
    }

    fn expected(&self) -> Vec<u32> {
        let mut expected: Vec<u32> = Vec::new();
        for (at, log) in &self.input.logs {
            expected.extend(log.own().map(|&(_, value, _)| value));
            let first = TOTALS + u32::try_from(at.partition.0).unwrap() * VALUES;
            expected.extend(log.totals().map(|count| first + u32::try_from(count).unwrap()));
        }
        expected.sort_unstable();
        expected
    }

    pub(super) fn judge(&mut self) -> Result<(), String> {
        while self.broker.deliver(0) {}
        let open = self.broker.open();
        if open != [(FOREIGN.to_owned(), self.foreign.0)] {
            return Err(format!("open at the end: {open:?}"));
        }
        let (seen, expected) = (self.broker.committed(), self.expected());
        if seen != expected {
            return Err(format!("readers see {seen:?}, the input gives {expected:?}"));
        }
        let Some(durable) = &self.durable else { return Err(String::from("no checkpoint at the end")) };
        if self.group != durable.positions {
            return Err(format!("the group is at {:?}, the job at {:?}", self.group, durable.positions));
        }
        Ok(())
    }

    /// A loss may be told only if a transaction of this job did time out, or nobody can know any more.
    pub(super) fn judge_loss(&mut self) -> Result<Ended, String> {
        while self.broker.deliver(0) {}
        let (seen, expected) = (self.broker.committed(), self.expected());
        let mut left = expected.into_iter();
        if !seen.iter().all(|value| left.any(|expected| expected == *value)) {
            return Err(format!("a loss was told, and readers see {seen:?}"));
        }
        if !self.had_timeout && !self.had_retention {
            return Err(String::from("a loss was told, and nothing had timed out"));
        }
        Ok(Ended::LossTold)
    }
}
