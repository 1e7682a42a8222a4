//! A reader that fails alone: its splits come back to the enumerator, and another one takes its place beside the same function.

use milena::Offset;

use super::chance::{Defect, Met};
use super::life::Life;
use super::walk::{Stop, Walk, wrong};
use crate::source::Split;

impl Walk {
    /// A reader fails, and gives back where its function has come to. While a checkpoint is under way the host would have to give that up;
    /// here it is then spared, as long as it was told something that it has not taken, and once it was told of an end.
    pub(super) fn fail_reader(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.dice.index(life.subtasks.len());
        let number = u32::try_from(at).unwrap();
        let is_told = life.events.iter().any(|(of, _)| *of == number);
        let subtask = &mut life.subtasks[at];
        let spared = life.schedule.in_flight() > 0
            || life.schedule.is_last_requested()
            || life.unregistered.contains(&number)
            || is_told
            || !subtask.reading
            || !subtask.inbox.is_empty();
        let unread =
            if self.has(Defect::GivenBackAheadOfTheFunction) { Vec::new() } else { subtask.unread() };
        let back = subtask.reader.positions_before(&unread);
        if spared || back.iter().any(Split::is_finished) {
            return Ok(());
        }
        self.failures_left -= 1;
        self.met.insert(Met::AFailedReader);
        self.note(|| format!("the reader of {at} fails, and gives back {back:?}"));
        // Its last commit may still arrive.
        let committing = subtask.committing.take().filter(|_| self.dice.one_in(2));
        subtask.replace_reader();
        if at == 0 && life.told_never_read {
            let splits: Vec<_> = life.enumerator.never_read().cloned().collect();
            subtask.reader.add_finished(&splits);
        }
        life.told_no_more.remove(&number);
        for split in &back {
            life.read_by.remove(&split.topic_partition);
            self.check_given_back(life, split)?;
        }
        life.enumerator.remove_reader(number);
        if !self.has(Defect::NothingGivenBack) {
            life.enumerator.add_splits_back(number, back);
        }
        life.unregistered.push(number);
        committing.map_or(Ok(()), |request| self.take_offsets(&request))
    }

    /// Between what the function has seen and the position there is nothing to be seen.
    fn check_given_back(&self, life: &mut Life, split: &Split) -> Result<(), Stop> {
        let at = &split.topic_partition;
        let log = &self.input.logs[at];
        let seen = life.handed_out.get(at).copied().unwrap_or(log.start);
        let Offset(next) = split.next_offset;
        if log.own().any(|&(offset, ..)| (seen..next).contains(&offset)) || next < seen {
            return wrong(format!("{at} is given back at {next}, and its function has come to {seen}"));
        }
        if split.max_timestamp != log.largest_time(next) {
            return wrong(format!("{split:?}: the largest time is {:?}", log.largest_time(next)));
        }
        life.handed_out.insert(at.clone(), next);
        Ok(())
    }
}
