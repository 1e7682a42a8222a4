//! The sink of the model: what is written, prepared, committed and cleaned up.

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{Offset, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition, TransactionState};

use super::chance::{Defect, Met};
use super::input::VALUES;
use super::life::{Life, PREFIX};
use super::subtask::{Open, Output};
use super::walk::{Stop, Walk, wrong};
use crate::checkpoint::CheckpointState;
use crate::checkpoint::snapshot::WriterState;
use crate::progress::CommitRequest;
use crate::runtime::functions::Stage as _;
use crate::runtime::subtask::{Event, Snapshot};
use crate::schema::Stamped;
use crate::sink::committable::Committable;
use crate::sink::lingering::{Found, Probe, plan};
use crate::sink::naming::Grammar;
use crate::sink::outcome::{Description, EndAnswer, Limits, Outcome, Settlement, Step};
use crate::sink::pending::PendingCommits;
use crate::sink::policy::{Judgement, LossPolicy};

/// Totals begin at this value.
pub(super) const TOTALS: u32 = 10_000;
/// Subtasks and numbers that are always probed.
const PROBED_AT_LEAST: u32 = 2;

/// A transaction on its way to its outcome.
pub(super) struct Commit {
    committable: Committable,
    procedure: Settlement,
}

impl Walk {
    pub(super) fn grammar(&self, parallelism: u32) -> Grammar {
        Grammar::new(PREFIX, self.setting.naming, parallelism)
    }

    /// Commits what the checkpoint promised, oldest first, and aborts what lingers.
    pub(super) fn recover(
        &mut self,
        parallelism: u32,
        restored: Option<&CheckpointState>,
    ) -> Result<(), Stop> {
        if self.has(Defect::CleanUpBeforeCommits) {
            self.clean_up(parallelism, restored)?;
        }
        let mut pending = PendingCommits::new();
        for committable in restored.into_iter().flat_map(|state| &state.committables) {
            pending.insert(committable.clone());
        }
        let promised: Vec<u64> = pending.iter().map(|committable| committable.checkpoint).collect();
        for checkpoint in promised {
            pending.complete(checkpoint);
            while let Some(committable) = pending.take_due() {
                let mut commit = self.commit(committable);
                while !self.go_on(&mut commit)? {}
                pending.settle(&commit.committable.identity());
            }
        }
        if !self.has(Defect::NoCleanUp) && !self.has(Defect::CleanUpBeforeCommits) {
            self.clean_up(parallelism, restored)?;
        }
        Ok(())
    }

    fn clean_up(&mut self, parallelism: u32, restored: Option<&CheckpointState>) -> Result<(), Stop> {
        let known = restored.map_or(0, |state| state.parallelism).max(parallelism);
        let grammar = self.grammar(known);
        if self.setting.lists {
            let entry = |(id, pid)| Found {
                id,
                state: TransactionState::Ongoing,
                producer_id: ProducerId(pid),
                producer_epoch: None,
            };
            let found: Vec<Found> = self.broker.open().into_iter().map(entry).collect();
            let mut abort = plan(&[grammar], &found, &[]).abort;
            if self.has(Defect::CleanUpByPrefixAlone) {
                abort = found.into_iter().map(|found| found.id).filter(|id| id.starts_with(PREFIX)).collect();
            }
            for id in abort {
                self.note(|| format!("{id} lingers"));
                self.init(&id)?;
            }
            return Ok(());
        }
        let held = restored.into_iter().flat_map(|state| &state.writers).flat_map(|writer| &writer.held);
        let numbers = held.max().map_or(0, |number| number + 1).max(PROBED_AT_LEAST);
        let id = restored.map_or(0, |state| state.id);
        let mut probe = Probe::of(self.setting.naming, known.max(PROBED_AT_LEAST), numbers, id);
        while let Some(name) = probe.poll_name() {
            let (_, epoch) = self.init(&grammar.id(name))?;
            probe.handle_epoch(ProducerEpoch(epoch));
        }
        Ok(())
    }

    /// InitProducerId until it is answered.
    fn init(&mut self, id: &str) -> Result<(i64, i16), Stop> {
        loop {
            self.step()?;
            if let Ok(pair) = self.broker.init(id) {
                return Ok(pair);
            }
        }
    }

    /// What a function gave is written into the subtask's transaction.
    pub(super) fn put_out(
        &mut self,
        life: &mut Life,
        at: usize,
        partition: &TopicPartition,
        outputs: Vec<Stamped<Output>>,
    ) -> Result<(), Stop> {
        for output in outputs {
            let value = self.check_output(partition, &output)?;
            self.produce(life, at, value)?;
        }
        Ok(())
    }

    fn produce(&mut self, life: &mut Life, at: usize, value: u32) -> Result<(), Stop> {
        let subtask = &mut life.subtasks[at];
        let grammar = life.names.grammar().clone();
        if subtask.open.is_none() {
            let reserved = life.names.reserve(u32::try_from(at).unwrap(), subtask.next_checkpoint);
            for passed in &reserved.passed_over {
                self.init(&grammar.id(*passed))?;
            }
            let again = subtask.last_pair.filter(|_| self.has(Defect::SameEpochAgain));
            let (name, pid, epoch) = match again {
                Some(pair) => pair,
                None => {
                    let (pid, epoch) = self.init(&grammar.id(reserved.name))?;
                    (reserved.name, pid, epoch)
                }
            };
            subtask.open = Some(Open { name, pid, epoch, firsts: BTreeMap::new() });
            subtask.last_pair = Some((name, pid, epoch));
        }
        let open = subtask.open.as_mut().unwrap();
        let partition = (value / VALUES + value) as usize % 2;
        let id = grammar.id(open.name);
        // A fenced writer fails the job; it is restarted from its checkpoint.
        let offset = self.broker.produce(&id, open.pid, open.epoch, partition, value).ok_or(Stop::Crash)?;
        open.firsts.entry(partition).or_insert(offset);
        self.note(|| format!("{at}: {value} to {partition} at {offset} in {id}"));
        Ok(())
    }

    /// Flush, prepare, snapshot.
    pub(super) fn barrier(&mut self, life: &mut Life, at: usize, id: u64, last: bool) -> Result<(), Stop> {
        self.step()?;
        let number = u32::try_from(at).unwrap();
        let subtask = &mut life.subtasks[at];
        let unread = subtask.unread();
        if !unread.is_empty() {
            self.met.insert(Met::ABarrierWithinABatch);
        }
        if last {
            subtask.reading = false;
            subtask.pending = None;
        }
        let early = self.has(Defect::SnapshotBeforePrepare).then(|| subtask.reader.snapshot(id, &unread));
        if early.is_some() {
            // What is read in between is in the transaction and not in the snapshot.
            self.read_on(life, at)?;
            self.process_on(life, at)?;
        }
        let committable = self.prepare(life, at, id)?;
        self.step()?;
        let subtask = &mut life.subtasks[at];
        subtask.next_checkpoint = id + 1;
        let mut functions = Vec::new();
        subtask.function.snapshot(&mut functions)?;
        let ended = subtask.ended.values().cloned().collect();
        let held = life.names.held().into_iter().filter(|name| name.subtask == number);
        let snapshot = Snapshot {
            splits: early.unwrap_or_else(|| subtask.reader.snapshot(id, &unread)),
            ended: if self.has(Defect::EndsForgotten) { Vec::new() } else { ended },
            functions,
            metrics: subtask.gauges.read(),
            committable,
            writer: WriterState { subtask: number, held: held.map(|name| name.number).collect() },
        };
        if self.has(Defect::OffsetsCommittedAtTheBarrier) {
            subtask.reader.commits().on_complete(id);
        }
        self.note(|| format!("{at}: barrier {id}: {snapshot:?}"));
        life.events.push_back((number, Event::Snapshot { subtask: number, checkpoint: id, snapshot }));
        Ok(())
    }

    fn prepare(&mut self, life: &mut Life, at: usize, id: u64) -> Result<Option<Committable>, Stop> {
        let Some(open) = life.subtasks[at].open.take() else { return Ok(None) };
        if self.has(Defect::NameFreedAtPrepare) {
            life.names.release(open.name);
        }
        let transactional_id = life.names.grammar().id(open.name);
        let Description::Found { start_time_ms, .. } = self.broker.describe(&transactional_id) else {
            return Err(Stop::Crash);
        };
        let firsts = open.firsts.iter().map(|(&partition, &first)| {
            let partition = i32::try_from(partition).unwrap();
            (TopicPartition::new("out", partition), Offset(i64::try_from(first).unwrap()))
        });
        let transaction = PreparedTransaction {
            transactional_id,
            producer_id: ProducerId(open.pid),
            producer_epoch: ProducerEpoch(open.epoch),
            version: self.setting.version,
            first_offsets: firsts.collect(),
            // Not always learnt.
            start_time_ms: start_time_ms.filter(|_| self.setting.lists && self.dice.one_in(2)),
            timeout: Duration::from_secs(600),
        };
        Ok(Some(Committable { checkpoint: id, subtask: u32::try_from(at).unwrap(), transaction }))
    }

    /// Asks the coordinator when transactions began, as a checkpoint is written.
    pub(super) fn fill_start_times(&mut self, committables: &mut [Committable]) {
        for committable in committables.iter_mut().filter(|it| it.transaction.start_time_ms.is_none()) {
            let transaction = &mut committable.transaction;
            if let Description::Found {
                state: TransactionState::Ongoing,
                producer_id,
                producer_epoch,
                start_time_ms,
            } = self.broker.describe(&transaction.transactional_id)
                && (producer_id, producer_epoch) == (transaction.producer_id, transaction.producer_epoch)
                && self.setting.lists
            {
                transaction.start_time_ms = start_time_ms;
            }
        }
    }

    /// A commit that is due begins, or one goes on.
    pub(super) fn go_on_with_commits(&mut self, life: &mut Life) -> Result<(), Stop> {
        while let Some(committable) = life.pending.take_due() {
            if life.settled.contains(&committable.identity()) {
                return wrong(format!(
                    "{} is committed again, though it was known how it ended",
                    committable.identity()
                ));
            }
            let commit = self.commit(committable);
            life.commits.push(commit);
        }
        if life.commits.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(life.commits.len());
        if self.go_on(&mut life.commits[at])? {
            let commit = life.commits.remove(at);
            life.pending.settle(&commit.committable.identity());
            life.settled.insert(commit.committable.identity());
            let id = &commit.committable.transaction.transactional_id;
            if let Some(name) = life.names.grammar().parse(id) {
                life.names.release(name);
            }
        }
        Ok(())
    }

    fn commit(&self, committable: Committable) -> Commit {
        let limits = Limits::default();
        let procedure =
            Settlement::new(&committable.transaction, limits, Duration::ZERO, self.now, self.steps());
        Commit { committable, procedure }
    }

    /// One step of a commit; true at its end.
    fn go_on(&mut self, commit: &mut Commit) -> Result<bool, Stop> {
        self.step()?;
        let transaction = &commit.committable.transaction;
        let (id, pid, epoch) =
            (&transaction.transactional_id, transaction.producer_id.0, transaction.producer_epoch.0);
        match commit.procedure.poll_step(self.now) {
            Step::Wait(until) => self.now = until,
            Step::End => {
                let lost = self.dice.roll(8);
                let silence = |text: &str| EndAnswer::Silence(String::from(text));
                if lost == 0 {
                    if self.has(Defect::SilenceMeansCommitted) {
                        return Ok(true);
                    }
                    commit.procedure.handle_end(self.now, silence("it was lost"));
                    return Ok(false);
                }
                let told = match self.broker.end(id, pid, epoch, transaction.version) {
                    _ if lost == 1 => silence("the answer was lost"),
                    EndAnswer::Refused(_) if self.has(Defect::RefusedMeansCommitted) => return Ok(true),
                    answer => answer,
                };
                commit.procedure.handle_end(self.now, told);
            }
            Step::Describe => commit.procedure.handle_description(self.now, self.broker.describe(id)),
            Step::Read(firsts) => {
                let look = |(at, first): &(TopicPartition, Offset)| {
                    let partition = usize::try_from(at.partition.0).unwrap();
                    let first = usize::try_from(first.0).unwrap();
                    (at.clone(), self.broker.evidence(pid, epoch, partition, first))
                };
                let found: Vec<_> = firsts.iter().map(look).collect();
                commit.procedure.handle_evidence(self.now, &found);
            }
            Step::Done(outcome) => {
                self.note(|| format!("{id} {epoch}: {outcome:?}"));
                self.check_outcome(&commit.committable, &outcome)?;
                return match LossPolicy::default().judge(&outcome) {
                    Judgement::Committed => Ok(true),
                    _ if matches!(outcome, Outcome::Unanswered { .. }) => Err(Stop::Crash),
                    _ => Err(Stop::Loss),
                };
            }
        }
        Ok(false)
    }

    /// A commit of offsets leaves, or is answered: done, done and not told, or not done.
    pub(super) fn commit_offsets(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.dice.index(life.subtasks.len());
        let (lost, applied) = (self.mishap(4), self.dice.one_in(2));
        let subtask = &mut life.subtasks[at];
        let Some(request) = subtask.committing.take() else {
            subtask.committing = subtask.reader.commits().poll_commit(self.now);
            return Ok(());
        };
        if !lost || applied {
            self.take_offsets(&request)?;
        }
        let reader = &mut life.subtasks[at].reader;
        if lost {
            self.met.insert(Met::ALostOffsetCommit);
            reader.commits().handle_failed(self.now);
        } else {
            reader.on_committed();
        }
        Ok(())
    }

    /// The group's coordinator takes offsets.
    pub(super) fn take_offsets(&mut self, request: &CommitRequest) -> Result<(), Stop> {
        self.note(|| format!("the group takes {:?}", request.positions));
        for (at, position) in &request.positions {
            let offset = position.offset.0;
            let durable = self.durable.as_ref().and_then(|durable| durable.positions.get(at)).copied();
            if durable.is_none_or(|durable| offset > durable) {
                return wrong(format!(
                    "{at}: {offset} is committed to the group, and {durable:?} is durable"
                ));
            }
            if self.group.insert(at.clone(), offset).is_some_and(|before| offset < before) {
                return wrong(format!("{at}: the group's offset goes back to {offset}"));
            }
        }
        Ok(())
    }

    /// Everything is written and committed: the subtasks commit their last offsets.
    pub(super) fn settle(&mut self, life: &mut Life) -> Result<(), Stop> {
        for at in 0..life.subtasks.len() {
            while let Some(command) = life.subtasks[at].inbox.pop_front() {
                self.on_command(life, at, command)?;
            }
            while !life.subtasks[at].reader.commits().is_idle() {
                self.step()?;
                self.now += Duration::from_secs(1);
                let subtask = &mut life.subtasks[at];
                let request =
                    subtask.committing.take().or_else(|| subtask.reader.commits().poll_commit(self.now));
                let Some(request) = request else { continue };
                if self.mishap(3) {
                    life.subtasks[at].reader.commits().handle_failed(self.now);
                } else {
                    self.take_offsets(&request)?;
                    life.subtasks[at].reader.on_committed();
                }
            }
        }
        Ok(())
    }
}
