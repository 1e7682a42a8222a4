//! One life of the job: what its coordinator and its subtasks do, in single steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use milena::TopicPartition;

use super::chance::{Defect, Met};
use super::lookups::Lookup;
use super::sink::Commit;
use super::subtask::{Subtask, spec};
use super::walk::{Stop, Walk, wrong};
use crate::Error;
use crate::checkpoint::coordinator::{Action, Coordinator};
use crate::checkpoint::state::Decoder;
use crate::checkpoint::{CheckpointId, CheckpointState};
use crate::progress::AlignmentGroup;
use crate::runtime::cut::{Cut, Head};
use crate::runtime::functions::Stage as _;
use crate::runtime::pending::Pending;
use crate::runtime::report::job_watermark;
use crate::runtime::states::States;
use crate::runtime::subtask::{Command, Event, Snapshot};
use crate::sink::Delivery;
use crate::sink::committable::TransactionIdentity;
use crate::sink::naming::NamePool;
use crate::sink::pending::PendingCommits;
use crate::source::model::Fetch;
use crate::source::{Command as SourceCommand, Enumerator, EnumeratorState, ReaderEvent};

pub(super) const JOB: &str = "walk";
pub(super) const PREFIX: &str = "job";
/// Checkpoints of a life, besides its last.
const CHECKPOINTS: u64 = 3;
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(30);

/// A checkpoint on its way to the disk.
pub(super) struct Writing {
    pub(super) state: CheckpointState,
    pub(super) durable: bool,
    pub(super) last: bool,
}

pub(super) struct Life {
    pub(super) parallelism: u32,
    pub(super) enumerator: Enumerator,
    pub(super) schedule: Coordinator<Snapshot>,
    pub(super) cuts: BTreeMap<CheckpointId, Cut>,
    pub(super) states: States,
    pub(super) pending: PendingCommits,
    pub(super) names: NamePool,
    pub(super) commits: Vec<Commit>,
    pub(super) subtasks: Vec<Subtask>,
    group: Option<AlignmentGroup>,
    pub(super) events: VecDeque<(u32, Event)>,
    pub(super) lookups: Vec<Lookup>,
    pub(super) writing: Option<Writing>,
    pub(super) finished: BTreeSet<u32>,
    pub(super) told_never_read: bool,
    /// Partitions of a job that was at its end: each is to be given another stop.
    pub(super) wanted_stops: BTreeSet<TopicPartition>,
    pub(super) was_at_its_end: bool,
    /// Subtasks whose readers are not there yet.
    pub(super) unregistered: Vec<u32>,
    /// Transactions whose outcome was learnt.
    pub(super) settled: BTreeSet<TransactionIdentity>,
    /// The watermark of the newest checkpoint.
    pub(super) watermark: Option<i64>,
    pub(super) asked: u64,
    pub(super) last: Option<CheckpointId>,
    pub(super) ended: bool,
    /// Who reads what, by what was told.
    pub(super) read_by: BTreeMap<TopicPartition, u32>,
    pub(super) told_no_more: BTreeSet<u32>,
    /// Behind the last record that a function saw.
    pub(super) handed_out: BTreeMap<TopicPartition, i64>,
}

impl Walk {
    /// Restores from the bytes of the newest checkpoint, settles what it promised, and begins.
    pub(super) fn start(&mut self, parallelism: u32) -> Result<Life, Stop> {
        let restored = self.restored()?;
        if restored.as_ref().is_some_and(|state| state.parallelism != parallelism) {
            self.met.insert(Met::ARescaledRestore);
        }
        self.recover(parallelism, restored.as_ref())?;
        if self.durable.is_none() {
            // Nothing is known of where an earlier life began.
            self.input.logs.values_mut().for_each(|log| log.begin(0, None));
        }
        let read = self.durable.as_ref().filter(|durable| durable.at_its_end);
        let wanted_stops: BTreeSet<_> =
            read.iter().flat_map(|durable| durable.positions.keys().cloned()).collect();
        let source = self.source();
        let names = NamePool::new(self.grammar(parallelism), self.next_id);
        let schedule = Coordinator::new(parallelism, None, CHECKPOINT_TIMEOUT, self.next_id, self.now)
            .with_max_concurrent(self.setting.max_concurrent);
        let watermark = restored.as_ref().and_then(|state| state.watermark);
        let (enumerator, states) = match restored {
            None => (source.enumerator(parallelism), States::new(vec![spec()], Vec::new(), false, |_| true)?),
            Some(state) => {
                let mut from = Decoder::new(&state.enumerator);
                let known = EnumeratorState::decode(&mut from).map_err(Error::from)?;
                from.finish().map_err(Error::from)?;
                let enumerator = source.restore_enumerator(parallelism, known, state.splits)?;
                (enumerator, States::new(vec![spec()], state.functions, false, |_| true)?)
            }
        };
        let group = source.settings().alignment.as_ref().map(|alignment| alignment.group.clone());
        let mut life = Life {
            parallelism,
            enumerator,
            schedule,
            cuts: BTreeMap::new(),
            states,
            pending: PendingCommits::new(),
            names,
            commits: Vec::new(),
            subtasks: (0..parallelism).map(|_| Subtask::new(source.clone(), self.next_id)).collect(),
            group,
            events: VecDeque::new(),
            lookups: Vec::new(),
            writing: None,
            finished: BTreeSet::new(),
            told_never_read: false,
            was_at_its_end: !wanted_stops.is_empty(),
            wanted_stops,
            unregistered: Vec::new(),
            settled: BTreeSet::new(),
            watermark,
            asked: 0,
            last: None,
            ended: false,
            read_by: BTreeMap::new(),
            told_no_more: BTreeSet::new(),
            handed_out: self.durable.as_ref().map(|durable| durable.positions.clone()).unwrap_or_default(),
        };
        if self.dice.one_in(3) {
            life.unregistered = (0..parallelism).collect();
        } else {
            (0..parallelism).for_each(|subtask| life.enumerator.register_reader(subtask));
        }
        self.note(|| format!("a life of {parallelism} subtasks"));
        Ok(life)
    }

    /// Until the input is read, written, and committed.
    pub(super) fn live(&mut self, life: &mut Life) -> Result<(), Stop> {
        loop {
            self.step()?;
            match self.dice.roll(16) {
                0..=4 => {
                    let at = self.dice.index(life.subtasks.len());
                    self.subtask(life, at)?;
                }
                5 | 6 => self.fetch(life)?,
                7 => self.tick(life)?,
                8 | 9 => self.coordinate(life)?,
                10 => self.look_up(life)?,
                11 => self.write(life)?,
                12 | 13 => self.go_on_with_commits(life)?,
                14 => self.commit_offsets(life)?,
                _ => self.ask(life),
            }
            self.check_alignment(life)?;
            if life.ended && life.writing.is_none() && life.pending.is_empty() && life.commits.is_empty() {
                return self.settle(life);
            }
        }
    }

    /// Time passes: a little, to what is due next, or so much that a checkpoint takes too long. Or a checkpoint is asked for, or the end.
    fn ask(&mut self, life: &mut Life) {
        match self.dice.roll(4) {
            0 => self.now += Duration::from_millis(self.dice.roll(60)),
            1 => {
                let deadlines = life.subtasks.iter().filter_map(Subtask::deadline);
                let next: Option<Instant> = deadlines.chain(life.enumerator.next_deadline()).min();
                self.now = self.now.max(next.unwrap_or(self.now));
            }
            2 => {
                if self.expiries_left > 0 && life.schedule.in_flight() > 0 && self.dice.one_in(4) {
                    self.expiries_left -= 1;
                    self.now += CHECKPOINT_TIMEOUT;
                }
            }
            _ => {
                if life.asked < CHECKPOINTS {
                    life.asked += 1;
                    life.schedule.request_now(self.now);
                }
                let position = |at: &TopicPartition| life.handed_out.get(at).copied().unwrap_or(0);
                let is_open = !self.setting.bounded && !self.to_come && life.enumerator.is_resolved();
                let is_open = is_open && life.unregistered.is_empty();
                if is_open && self.input.is_read(position) {
                    life.schedule.request_last();
                }
            }
        }
    }

    /// The coordinator takes what it was told, and does what is due.
    fn coordinate(&mut self, life: &mut Life) -> Result<(), Stop> {
        if let Some((subtask, event)) = life.events.pop_front() {
            self.on_event(life, subtask, event)?;
        }
        if !life.unregistered.is_empty() && self.dice.one_in(3) {
            let at = self.dice.index(life.unregistered.len());
            let subtask = life.unregistered.swap_remove(at);
            life.enumerator.register_reader(subtask);
        }
        life.enumerator.tick(self.now);
        self.carry_out(life)?;
        if self.failures_left > 0 && self.dice.one_in(12) {
            self.fail_reader(life)?;
        }
        self.advance_checkpoints(life)
    }

    fn on_event(&mut self, life: &mut Life, subtask: u32, event: Event) -> Result<(), Stop> {
        match event {
            Event::Snapshot { checkpoint, mut snapshot, .. } => {
                let committable = snapshot.committable.take();
                let taken = life.schedule.handle_snapshot(subtask, checkpoint, snapshot);
                if !taken && committable.is_some() {
                    self.met.insert(Met::ALateAnswer);
                }
                if let Some(committable) =
                    committable.filter(|_| taken || !self.has(Defect::LateAnswersDropped))
                {
                    life.pending.insert(committable);
                }
            }
            Event::SplitFinished(split) => {
                life.read_by.remove(&split.topic_partition);
                life.enumerator.handle_finished(&split);
                if !life.enumerator.finished().any(|at| *at == split.topic_partition) {
                    return wrong(format!("{split:?} is at its end, and the enumerator does not know"));
                }
            }
            Event::Finished { subtask } => {
                life.finished.insert(subtask);
                if life.finished.len() == life.subtasks.len() {
                    life.schedule.request_last();
                }
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, life: &mut Life) -> Result<(), Stop> {
        if !life.states.is_empty() {
            let finished: Vec<_> = life.enumerator.finished().collect();
            let open: Vec<_> = life.enumerator.open().collect();
            for (subtask, partition, states) in life.states.conclude(&finished, &open, life.parallelism)? {
                self.note(|| format!("{partition} is concluded by {subtask}"));
                self.met.insert(Met::AConclusion);
                life.subtasks[subtask as usize].inbox.push_back(Command::Conclude { partition, states });
            }
        }
        if !life.told_never_read && life.enumerator.is_resolved() && !life.enumerator.is_reopening() {
            life.told_never_read = true;
            let splits: Vec<_> = life.enumerator.never_read().cloned().collect();
            if self.durable.is_some() && !splits.is_empty() {
                let all = splits.len() == self.input.logs.len();
                self.met.insert(if all { Met::EverythingAtItsEnd } else { Met::AReadEndRestored });
            }
            life.subtasks[0].inbox.push_back(Command::NeverRead(splits));
        }
        while let Some(command) = life.enumerator.poll_command() {
            let (subtask, command) = match command {
                SourceCommand::Discover => {
                    life.lookups.push(Lookup::Discover);
                    continue;
                }
                SourceCommand::ResolveOffsets(requests) => {
                    life.lookups.push(Lookup::Resolve(requests));
                    continue;
                }
                SourceCommand::Assign { subtask, splits } => {
                    self.check_assignment(life, subtask, &splits)?;
                    let mut states = life.states.assign(subtask, &splits)?;
                    if self.has(Defect::StatesStayBehind) {
                        states.clear();
                    }
                    (subtask, Command::Assign { splits, states })
                }
                SourceCommand::Remove { subtask, partitions } => (subtask, Command::Remove(partitions)),
                SourceCommand::NoMoreSplits { subtask } => {
                    self.check_no_more(life, subtask)?;
                    (subtask, Command::NoMoreSplits)
                }
                SourceCommand::Fail(error) => return Err(error.into()),
            };
            self.note(|| format!("to {subtask}: {command:?}"));
            life.subtasks[subtask as usize].inbox.push_back(command);
        }
        Ok(())
    }

    fn advance_checkpoints(&mut self, life: &mut Life) -> Result<(), Stop> {
        if !life.enumerator.is_resolved() && !life.schedule.is_last_requested() {
            return Ok(());
        }
        loop {
            match life.schedule.poll_action(self.now) {
                Action::Trigger { id, last } => {
                    self.note(|| format!("checkpoint {id}, last: {last}"));
                    let cut = Cut {
                        triggered: self.now,
                        enumerator: life.enumerator.snapshot(),
                        held: life.states.held(),
                        savepoints: Vec::new(),
                    };
                    if !life.unregistered.is_empty() && !cut.held.is_empty() {
                        self.met.insert(Met::ALateReader);
                    }
                    life.cuts.insert(id, cut);
                    if life.cuts.len() > 1 {
                        self.met.insert(Met::CheckpointsInFlight);
                    }
                    life.last = last.then_some(id);
                    for subtask in &mut life.subtasks {
                        let barrier = Command::Barrier { checkpoint: id, last, drain: false };
                        if self.has(Defect::BarrierOvertakesAssignments) {
                            subtask.inbox.push_front(barrier);
                        } else {
                            subtask.inbox.push_back(barrier);
                        }
                    }
                }
                Action::Write { id, snapshots } => self.compose(life, id, snapshots)?,
                Action::Expired { id, missing, .. } => {
                    self.note(|| format!("checkpoint {id} took too long, without {missing:?}"));
                    life.cuts.remove(&id);
                    self.met.insert(Met::ABarrierOverdue);
                    for subtask in &mut life.subtasks {
                        subtask.inbox.push_back(Command::Forget { checkpoint: id });
                    }
                }
                Action::Wait(_) => return Ok(()),
                Action::Ended => {
                    life.ended = true;
                    return Ok(());
                }
            }
        }
    }

    fn compose(&mut self, life: &mut Life, id: CheckpointId, snapshots: Vec<Snapshot>) -> Result<(), Stop> {
        let Some(cut) = life.cuts.remove(&id) else { return wrong(format!("no cut for checkpoint {id}")) };
        let at_barrier: Vec<_> = snapshots.iter().map(|snapshot| snapshot.metrics).collect();
        let head = Head {
            job: String::from(JOB),
            id,
            delivery: Delivery::ExactlyOnce,
            prefix: Some(String::from(PREFIX)),
            watermark: job_watermark(life.watermark, &at_barrier),
        };
        let upto = if self.has(Defect::CheckpointWithLaterCommittables) { u64::MAX } else { id };
        let mut committables = life.pending.unsettled(upto);
        if self.has(Defect::CheckpointWithoutCommittables) {
            committables.clear();
        }
        let mut state = cut.into_state(head, snapshots, committables);
        self.fill_start_times(&mut state.committables);
        if self.has(Defect::CommitBeforeTheCheckpointIsWritten) {
            life.pending.complete(id);
        }
        life.writing = Some(Writing { state, durable: false, last: life.last == Some(id) });
        Ok(())
    }

    /// The checkpoint under way gets durable; then, in another step, the job learns of it, or it does not.
    fn write(&mut self, life: &mut Life) -> Result<(), Stop> {
        let Some(mut writing) = life.writing.take() else { return Ok(()) };
        let id = writing.state.id;
        if !writing.durable {
            self.keep(&writing.state)?;
            writing.durable = true;
            life.writing = Some(writing);
            return Ok(());
        }
        life.watermark = writing.state.watermark;
        life.schedule.handle_written();
        for committable in writing.state.committables {
            life.pending.update(committable);
        }
        if !writing.last && self.dice.one_in(4) {
            self.note(|| format!("the notice of checkpoint {id} is lost"));
            if self.has(Defect::LostNoticeForgotten) {
                for committable in life.pending.unsettled(id) {
                    life.pending.settle(&committable.identity());
                }
            }
            return Ok(());
        }
        life.pending.complete(id);
        for subtask in &mut life.subtasks {
            subtask.inbox.push_back(Command::Complete { checkpoint: id });
        }
        Ok(())
    }

    /// A subtask takes a message, or reads on.
    fn subtask(&mut self, life: &mut Life, at: usize) -> Result<(), Stop> {
        match life.subtasks[at].inbox.pop_front() {
            Some(command) => self.on_command(life, at, command),
            None if life.subtasks[at].pending.is_some() => self.process_on(life, at),
            None => self.read_on(life, at),
        }
    }

    /// The function takes the next slice of what was handed out.
    pub(super) fn process_on(&mut self, life: &mut Life, at: usize) -> Result<(), Stop> {
        let took = Duration::from_millis(self.dice.roll(70));
        let subtask = &mut life.subtasks[at];
        let Some(mut pending) = subtask.pending.take() else { return Ok(()) };
        let slice = pending.next_slice(&subtask.pace);
        subtask.pace.handle_took(took);
        let partition = pending.at.clone();
        if let Some(largest) = subtask.partitions.get_mut(&partition) {
            *largest = (*largest).max(slice.max_timestamp);
        }
        if let Some(last) = slice.elements.last() {
            life.handed_out.insert(partition.clone(), last.offset.0 + 1);
        }
        if !pending.is_done() {
            subtask.pending = Some(pending);
        }
        let outputs = subtask.process(&partition, slice.elements)?;
        self.put_out(life, at, &partition, outputs)
    }

    pub(super) fn read_on(&mut self, life: &mut Life, at: usize) -> Result<(), Stop> {
        let subtask = &mut life.subtasks[at];
        if !subtask.reading {
            return Ok(());
        }
        let index = u32::try_from(at).unwrap();
        match subtask.reader.next(self.now)? {
            None => {}
            Some(ReaderEvent::Records(batch)) => {
                subtask.gauges.idle.store(false, Ordering::Relaxed);
                subtask.pending = Some(Pending::new(batch));
            }
            Some(ReaderEvent::Watermark(watermark)) => {
                self.note(|| format!("{at}: watermark {watermark}"));
                self.check_watermark(life, at, watermark)?;
                let subtask = &mut life.subtasks[at];
                subtask.gauges.raise_watermark(watermark);
                for (partition, outputs) in subtask.function.advance(watermark)? {
                    self.put_out(life, at, &partition, outputs)?;
                }
            }
            Some(ReaderEvent::Idle) => {
                subtask.gauges.idle.store(true, Ordering::Relaxed);
            }
            Some(ReaderEvent::Active) => {
                subtask.gauges.idle.store(false, Ordering::Relaxed);
            }
            Some(ReaderEvent::SplitFinished(split)) => {
                self.note(|| format!("{at}: at its end: {split:?}"));
                if self.input.logs[&split.topic_partition].is_gap_before(split.stop) {
                    self.met.insert(Met::AnEndBehindAGap);
                }
                self.end(life, at, &split.topic_partition)?;
                life.subtasks[at].ended.insert(split.topic_partition.clone(), split.clone());
                life.events.push_back((index, Event::SplitFinished(split)));
            }
            Some(ReaderEvent::Finished) => {
                self.note(|| format!("{at}: all read"));
                subtask.reading = false;
                subtask.gauges.finished.store(true, Ordering::Relaxed);
                life.events.push_back((index, Event::Finished { subtask: index }));
            }
        }
        Ok(())
    }

    fn end(&mut self, life: &mut Life, at: usize, partition: &TopicPartition) -> Result<(), Stop> {
        life.subtasks[at].partitions.remove(partition);
        let outputs = life.subtasks[at].function.end(partition)?;
        self.put_out(life, at, partition, outputs)
    }

    pub(super) fn on_command(&mut self, life: &mut Life, at: usize, command: Command) -> Result<(), Stop> {
        let subtask = &mut life.subtasks[at];
        match command {
            Command::Assign { splits, states } => {
                for split in &splits {
                    if subtask.assigned && !subtask.partitions.contains_key(&split.topic_partition) {
                        self.behind.insert(split.topic_partition.clone());
                        self.met.insert(Met::APartitionFoundLater);
                    }
                    subtask.function.add(&split.topic_partition, &states)?;
                    subtask.partitions.insert(split.topic_partition.clone(), split.max_timestamp);
                    subtask.ended.remove(&split.topic_partition);
                }
                subtask.assigned = true;
                subtask.reader.add_splits(splits, self.now)?;
            }
            Command::Remove(_) => return wrong("a partition is taken away, and none was gone"),
            Command::NeverRead(splits) => subtask.reader.add_finished(&splits),
            Command::Conclude { partition, states } => {
                subtask.function.add(&partition, &states)?;
                self.end(life, at, &partition)?;
            }
            Command::NoMoreSplits => subtask.reader.no_more_splits(),
            Command::Barrier { checkpoint, last, .. } => self.barrier(life, at, checkpoint, last)?,
            Command::Complete { checkpoint } => subtask.reader.commits().on_complete(checkpoint),
            Command::Forget { checkpoint } => subtask.reader.commits().on_aborted(checkpoint),
            Command::End | Command::Abort => {}
        }
        Ok(())
    }

    /// A request leaves, or an answer comes: to the request or to one that has been given up since.
    fn fetch(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.dice.index(life.subtasks.len());
        let (which, most) = (self.dice.index(8), 1 + self.dice.index(2));
        let lost = self.mishap(8);
        let subtask = &mut life.subtasks[at];
        if !subtask.reading {
            return Ok(());
        }
        if subtask.fetches.is_empty() || self.dice.one_in(3) {
            subtask.fetches.extend(subtask.reader.start_fetch(which, self.now));
            if let Some(Fetch { at, offset, stop: Some(stop), .. }) = subtask.fetches.last()
                && offset >= stop
            {
                return wrong(format!("{at} is fetched at {offset}, and stops at {stop}"));
            }
            if self.mishap(10) && life.subtasks[at].reader.rewind(which) {
                self.met.insert(Met::ARepeatedFetch);
            }
            return Ok(());
        }
        let fetch = subtask.fetches.swap_remove(which % subtask.fetches.len());
        let answer = self.input.logs.get(&fetch.at).map(|log| log.fetch(fetch.offset.0, most));
        subtask.reader.handle_fetched(&fetch, answer.filter(|_| !lost), self.now);
        if self.mishap(12) && subtask.reader.rewind(which) {
            self.met.insert(Met::ARepeatedFetch);
        }
        Ok(())
    }

    fn tick(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.dice.index(life.subtasks.len());
        let subtask = &mut life.subtasks[at];
        if !subtask.reading || subtask.pending.is_some() {
            return Ok(());
        }
        let rested = !subtask.reader.has_queued();
        let paused = subtask.reader.splits().filter(|(.., paused)| *paused);
        let paused: Vec<_> = paused.map(|(split, ..)| split.topic_partition.clone()).collect();
        subtask.reader.tick(self.now);
        if subtask.reader.splits().any(|(split, idle, _)| idle && paused.contains(&split.topic_partition)) {
            return wrong("a partition that waits for others counts as idle");
        }
        for (_, idle, paused) in subtask.reader.splits() {
            self.met.extend(idle.then_some(Met::AnIdlePartition));
            self.met.extend(paused.then_some(Met::APausedPartition));
        }
        if subtask.reader.idles_over_data() {
            return wrong(format!("a partition of {at} is idle, and its data waits"));
        }
        if let Some(delay) = self.setting.idleness
            && subtask.reader.idles_early(self.now, delay)
        {
            return wrong(format!("a partition of {at} is idle before its time"));
        }
        if rested { self.check_tick(&life.subtasks[at]) } else { Ok(()) }
    }

    fn check_alignment(&self, life: &Life) -> Result<(), Stop> {
        let Some(group) = &life.group else { return Ok(()) };
        let slowest = life.subtasks.iter().filter_map(|subtask| subtask.reader.reported()).flatten().min();
        if slowest != group.slowest() {
            return wrong(format!("the slowest is at {slowest:?}, and its group says {:?}", group.slowest()));
        }
        Ok(())
    }
}
