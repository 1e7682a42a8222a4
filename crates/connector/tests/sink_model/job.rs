//! The job that is walked. It does in single steps what runtime and writer do with tasks and sockets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena::{
    Offset, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition, TransactionState,
    TransactionVersion,
};
use milena_connector::sink::committable::Committable;
use milena_connector::sink::lingering::{Found, Probe, plan};
use milena_connector::sink::naming::{ClassicNames, Grammar, NamePool, Naming, TransactionName};
use milena_connector::sink::outcome::{EndAnswer, Limits, Outcome, Settlement, Step};
use milena_connector::sink::pending::PendingCommits;
use milena_connector::sink::policy::{Judgement, LossPolicy};

use crate::broker::Broker;
use crate::chance::{Defect, Dice};

const SPLITS: usize = 2;
const RECORDS: u32 = 3;
const CHECKPOINTS: u64 = 3;
const FOREIGN: &str = "job-1-0-0";

/// How a walk ended well.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The output is the input.
    Whole { crashes: u32 },
    /// A transaction timed out before its commit, and the job said so.
    LossTold,
}

/// Why a life ended early.
enum Stop {
    Crash,
    Loss,
}

/// What a checkpoint holds.
#[derive(Clone, Debug)]
struct Durable {
    id: u64,
    parallelism: u32,
    offsets: [u32; SPLITS],
    committables: Vec<Committable>,
}

struct Open {
    name: TransactionName,
    pid: i64,
    epoch: i16,
    firsts: BTreeMap<usize, usize>,
}

struct Subtask {
    splits: Vec<usize>,
    open: Option<Open>,
    last_pair: Option<(TransactionName, i64, i16)>,
    /// Barriers taken.
    barrier: u64,
    next_checkpoint: u64,
}

struct Commit {
    committable: Committable,
    procedure: Settlement,
}

/// One life of the job.
struct Life {
    parallelism: u32,
    subtasks: Vec<Subtask>,
    offsets: [u32; SPLITS],
    names: NamePool,
    pending: PendingCommits,
    /// Barriers sent, each with the offsets that subtasks answered.
    in_flight: BTreeMap<u64, (u32, [u32; SPLITS])>,
    triggered: u64,
    first: u64,
    notices: Vec<u64>,
    commits: Vec<Commit>,
}

pub(crate) struct Walk {
    dice: Dice,
    defect: Option<Defect>,
    broker: Broker,
    version: TransactionVersion,
    naming: Naming,
    lists: bool,
    durable: Option<Durable>,
    next_id: u64,
    crashes: u32,
    crashes_left: u32,
    timeouts_left: u32,
    now: Instant,
    steps: u64,
    trace: Vec<String>,
    foreign: (i64, i16),
    had_timeout: bool,
}

impl Walk {
    pub(crate) fn new(seed: u64, defect: Option<Defect>) -> Self {
        let mut dice = Dice::new(seed);
        for _ in 0..4 {
            dice.roll(2);
        }
        let version = if dice.one_in(2) { TransactionVersion::V1 } else { TransactionVersion::V2 };
        let lists = !dice.one_in(3);
        let naming = match dice.roll(4) {
            0 => Naming::Incrementing,
            1 => Naming::Classic(ClassicNames { pool_size: 2, safe_scale_down_factor: 3 }),
            _ => Naming::Pooling,
        };
        let mut broker = Broker::default();
        let foreign = broker.init(FOREIGN).unwrap();
        broker.produce(FOREIGN, foreign.0, foreign.1, 0, 1000).unwrap();
        let (crashes_left, timeouts) = (dice.roll(4), dice.one_in(8));
        Self {
            dice,
            defect,
            broker,
            version,
            naming,
            lists,
            durable: None,
            next_id: 1,
            crashes: 0,
            crashes_left: u32::try_from(crashes_left).unwrap(),
            timeouts_left: u32::from(timeouts),
            now: Instant::now(),
            steps: 0,
            trace: Vec::new(),
            foreign,
            had_timeout: false,
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn trace(&self) -> String {
        self.trace.join("\n")
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if std::env::var_os("MILENA_MODEL_SEED").is_some() {
            let text = text();
            self.trace.push(text);
        }
    }

    pub(crate) fn run(&mut self) -> Result<Ended, String> {
        loop {
            let parallelism =
                if self.crashes == 0 { 2 } else { 1 + u32::try_from(self.dice.roll(3)).unwrap() };
            let ended = match self.recover(parallelism) {
                Ok(mut life) => self.live(&mut life),
                Err(stop) => Err(stop),
            };
            if let Some(crime) = &self.broker.crime {
                return Err(crime.clone());
            }
            match ended {
                Ok(()) => return self.judge().map(|()| Ended::Whole { crashes: self.crashes }),
                Err(Stop::Loss) => return self.judge_loss(),
                Err(Stop::Crash) => {
                    self.crashes += 1;
                    self.note(|| String::from("crash"));
                }
            }
            if self.steps > 100_000 {
                return Err(String::from("the walk does not end"));
            }
        }
    }

    /// Every step may be the last of this life.
    fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.dice.one_in(3) {
            let which = self.dice.index(8);
            self.broker.deliver(which);
        }
        if self.timeouts_left > 0 && self.dice.one_in(40) {
            let open = self.broker.open();
            let own: Vec<_> = open.iter().filter(|(id, _)| id != FOREIGN).collect();
            if !own.is_empty() {
                let id = own[self.dice.index(own.len())].0.clone();
                self.timeouts_left -= 1;
                self.had_timeout = true;
                self.note(|| format!("{id} times out"));
                self.broker.time_out(&id);
            }
        }
        if self.crashes_left > 0 && self.dice.one_in(25) {
            self.crashes_left -= 1;
            return Err(Stop::Crash);
        }
        Ok(())
    }

    fn grammar(&self, parallelism: u32) -> Grammar {
        Grammar::new("job", self.naming, parallelism)
    }

    /// Commit what the checkpoint promised, oldest first; abort what lingers; start.
    fn recover(&mut self, parallelism: u32) -> Result<Life, Stop> {
        if self.has(Defect::CleanUpBeforeCommits) {
            self.clean_up(parallelism)?;
        }
        let restored = self.durable.clone();
        let mut pending = PendingCommits::new();
        if let Some(durable) = &restored {
            for committable in &durable.committables {
                pending.insert(committable.clone());
            }
            // As the runtime does: whatever the checkpoint holds is promised.
            pending.complete(u64::MAX);
            while let Some(committable) = pending.take_due() {
                let mut commit = self.commit(committable);
                while !self.go_on(&mut commit)? {}
                pending.settle(&commit.committable.identity());
            }
        }
        if !self.has(Defect::NoCleanUp) && !self.has(Defect::CleanUpBeforeCommits) {
            self.clean_up(parallelism)?;
        }
        let first = self.next_id;
        let names = NamePool::new(self.grammar(parallelism), first);
        let subtasks = (0..parallelism).map(|subtask| Subtask {
            splits: (0..SPLITS).filter(|split| *split as u32 % parallelism == subtask).collect(),
            open: None,
            last_pair: None,
            barrier: first - 1,
            next_checkpoint: first,
        });
        self.note(|| format!("a life of {parallelism} subtasks from {restored:?}"));
        Ok(Life {
            parallelism,
            subtasks: subtasks.collect(),
            offsets: restored.as_ref().map_or([0; SPLITS], |durable| durable.offsets),
            names,
            pending: PendingCommits::new(),
            in_flight: BTreeMap::new(),
            triggered: first - 1,
            first,
            notices: Vec::new(),
            commits: Vec::new(),
        })
    }

    fn clean_up(&mut self, parallelism: u32) -> Result<(), Stop> {
        let restored = self.durable.as_ref();
        let known = restored.map_or(0, |durable| durable.parallelism).max(parallelism).max(3);
        let id = restored.map_or(0, |durable| durable.id);
        let grammar = self.grammar(known);
        if self.lists {
            let found: Vec<Found> = self
                .broker
                .open()
                .into_iter()
                .map(|(id, pid)| Found {
                    id,
                    state: TransactionState::Ongoing,
                    producer_id: ProducerId(pid),
                    producer_epoch: None,
                })
                .collect();
            let mut abort = plan(&[grammar], &found, &[]).abort;
            if self.has(Defect::CleanUpByPrefixAlone) {
                abort = found.into_iter().map(|found| found.id).filter(|id| id.starts_with("job")).collect();
            }
            for id in abort {
                self.note(|| format!("{id} lingers"));
                self.init(&id)?;
            }
            return Ok(());
        }
        let mut probe = Probe::of(self.naming, known, 3, id);
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

    fn commit(&self, committable: Committable) -> Commit {
        let procedure = Settlement::new(
            &committable.transaction,
            Limits::default(),
            Duration::ZERO,
            self.now,
            self.steps,
        );
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
                if lost != 0 {
                    let answer = self.broker.end(id, pid, epoch, transaction.version);
                    let told = match answer {
                        _ if lost == 1 => EndAnswer::Silence(String::from("the answer was lost")),
                        EndAnswer::Refused(_) if self.has(Defect::RefusedMeansCommitted) => return Ok(true),
                        answer => answer,
                    };
                    commit.procedure.handle_end(self.now, told);
                } else if self.has(Defect::SilenceMeansCommitted) {
                    return Ok(true);
                } else {
                    commit.procedure.handle_end(self.now, EndAnswer::Silence(String::from("it was lost")));
                }
            }
            Step::Describe => commit.procedure.handle_description(self.now, self.broker.describe(id)),
            Step::Read(firsts) => {
                let found: Vec<_> = firsts
                    .iter()
                    .map(|(at, first)| {
                        let partition = usize::try_from(at.partition.0).unwrap();
                        let first = usize::try_from(first.0).unwrap();
                        (at.clone(), self.broker.evidence(pid, epoch, partition, first))
                    })
                    .collect();
                commit.procedure.handle_evidence(self.now, &found);
            }
            Step::Done(outcome) => {
                self.note(|| format!("{id} {epoch}: {outcome:?}"));
                return match LossPolicy::default().judge(&outcome) {
                    Judgement::Committed => Ok(true),
                    _ if matches!(outcome, Outcome::Unanswered { .. }) => Err(Stop::Crash),
                    _ => Err(Stop::Loss),
                };
            }
        }
        Ok(false)
    }

    /// Until the input is read, written, and committed.
    fn live(&mut self, life: &mut Life) -> Result<(), Stop> {
        loop {
            self.step()?;
            let done = life.offsets.iter().all(|&next| next == RECORDS);
            match self.dice.roll(8) {
                0..=2 => self.read(life)?,
                3 => self.trigger(life, done),
                4 | 5 => self.barrier(life)?,
                6 => self.write(life),
                _ => self.notice_or_commit(life)?,
            }
            let idle = life.in_flight.is_empty() && life.commits.is_empty() && life.notices.is_empty();
            let open = life.subtasks.iter().any(|subtask| subtask.open.is_some());
            if done && idle && !open {
                // The last notice is never lost: the job waits for its commits.
                life.pending.complete(life.triggered);
                if life.pending.is_empty() {
                    return Ok(());
                }
                self.start_commits(life);
            }
        }
    }

    fn read(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.dice.index(life.subtasks.len());
        let subtask = &mut life.subtasks[at];
        let Some(&split) = subtask.splits.iter().find(|&&split| life.offsets[split] < RECORDS) else {
            return Ok(());
        };
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
        let number = life.offsets[split];
        let value = split as u32 * RECORDS + number;
        let partition = value as usize % 2;
        let id = grammar.id(open.name);
        // A fenced writer fails the job; it is restarted from its checkpoint.
        let offset = self.broker.produce(&id, open.pid, open.epoch, partition, value).ok_or(Stop::Crash)?;
        open.firsts.entry(partition).or_insert(offset);
        life.offsets[split] += 1;
        self.note(|| format!("{value} to {partition} at {offset} in {id}"));
        Ok(())
    }

    fn trigger(&mut self, life: &mut Life, done: bool) {
        let enough = life.triggered + 1 - life.first >= CHECKPOINTS;
        if life.in_flight.len() < 2 && (!enough || done) {
            life.triggered += 1;
            life.in_flight.insert(life.triggered, (0, [0; SPLITS]));
            let id = life.triggered;
            self.note(|| format!("checkpoint {id}"));
        }
    }

    /// A subtask takes its next barrier: prepare, then snapshot.
    fn barrier(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.dice.index(life.subtasks.len());
        let subtask = &mut life.subtasks[at];
        if subtask.barrier == life.triggered {
            return Ok(());
        }
        subtask.barrier += 1;
        let id = subtask.barrier;
        subtask.next_checkpoint = id + 1;
        let before = life.offsets;
        if let Some(open) = subtask.open.take() {
            if self.has(Defect::NameFreedAtPrepare) {
                life.names.release(open.name);
            }
            let transactional_id = life.names.grammar().id(open.name);
            let described = self.broker.describe(&transactional_id);
            let milena_connector::sink::outcome::Description::Found { start_time_ms, .. } = described else {
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
                version: self.version,
                first_offsets: firsts.collect(),
                // Not always learnt.
                start_time_ms: start_time_ms.filter(|_| self.lists),
                timeout: Duration::from_secs(600),
            };
            let committable =
                Committable { checkpoint: id, subtask: u32::try_from(at).unwrap(), transaction };
            life.pending.insert(committable);
        }
        let Some((answered, offsets)) = life.in_flight.get_mut(&id) else { return Ok(()) };
        *answered += 1;
        for &split in &life.subtasks[at].splits {
            let wrong = self.defect == Some(Defect::SnapshotBeforePrepare);
            offsets[split] = if wrong { before[split].saturating_sub(1) } else { life.offsets[split] };
        }
        Ok(())
    }

    /// The oldest checkpoint in flight is written, if it is whole; then its notice is on its way, or lost.
    fn write(&mut self, life: &mut Life) {
        let Some((&id, &(answered, offsets))) = life.in_flight.first_key_value() else { return };
        if answered < life.parallelism {
            return;
        }
        if self.has(Defect::CommitBeforeTheCheckpointIsWritten) && !life.notices.contains(&id) {
            life.notices.push(id);
            return;
        }
        life.in_flight.remove(&id);
        self.next_id = id + 1;
        let upto = if self.has(Defect::CheckpointWithLaterCommittables) { u64::MAX } else { id };
        let mut committables = life.pending.unsettled(upto);
        if self.has(Defect::CheckpointWithoutCommittables) {
            committables.clear();
        }
        self.durable = Some(Durable { id, parallelism: life.parallelism, offsets, committables });
        self.note(|| format!("checkpoint {id} is written: {offsets:?}"));
        if !self.dice.one_in(4) {
            life.notices.push(id);
        } else if self.has(Defect::LostNoticeForgotten) {
            for committable in life.pending.unsettled(id) {
                life.pending.settle(&committable.identity());
            }
        }
    }

    fn notice_or_commit(&mut self, life: &mut Life) -> Result<(), Stop> {
        if !life.notices.is_empty() && (life.commits.is_empty() || self.dice.one_in(2)) {
            let id = life.notices.remove(0);
            life.pending.complete(id);
            self.start_commits(life);
            return Ok(());
        }
        if life.commits.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(life.commits.len());
        if self.go_on(&mut life.commits[at])? {
            let commit = life.commits.remove(at);
            life.pending.settle(&commit.committable.identity());
            let id = &commit.committable.transaction.transactional_id;
            if let Some(name) = life.names.grammar().parse(id) {
                life.names.release(name);
            }
        }
        Ok(())
    }

    fn start_commits(&mut self, life: &mut Life) {
        while let Some(committable) = life.pending.take_due() {
            let commit = self.commit(committable);
            life.commits.push(commit);
        }
    }

    fn judge(&mut self) -> Result<(), String> {
        while self.broker.deliver(0) {}
        let open = self.broker.open();
        if open != [(FOREIGN.to_owned(), self.foreign.0)] {
            return Err(format!("open at the end: {open:?}"));
        }
        let expected: Vec<u32> = (0..SPLITS as u32 * RECORDS).collect();
        let seen = self.broker.committed();
        if seen != expected {
            return Err(format!("readers see {seen:?}"));
        }
        Ok(())
    }

    /// A loss may be told only if a transaction of this job did time out.
    fn judge_loss(&mut self) -> Result<Ended, String> {
        while self.broker.deliver(0) {}
        let expected: Vec<u32> = (0..SPLITS as u32 * RECORDS).collect();
        let seen = self.broker.committed();
        let doubled = seen.windows(2).any(|two| two[0] == two[1]);
        if doubled || seen.iter().any(|value| !expected.contains(value)) {
            return Err(format!("a loss was told, and readers see {seen:?}"));
        }
        if !self.had_timeout {
            return Err(String::from("a loss was told, and nothing had timed out"));
        }
        Ok(Ended::LossTold)
    }
}
