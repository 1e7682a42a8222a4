//! A host in one task, with one file of state, written against `milena_connector::contract` alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use milena::Client;
use milena_connector::Result;
use milena_connector::checkpoint::state::{Decoder, Encoder};
use milena_connector::checkpoint::{CheckpointState, FunctionState, Scope};
use milena_connector::conformance::{End, Host, Life, Lived, Moment};
use milena_connector::contract::{
    Enumerator, Reader, Sink, SinkWriter, Source, WriterContext, commit, names, recover,
};
use milena_connector::runtime::{Batch, Chain};
use milena_connector::schema::OwnedKafkaRecord;
use milena_connector::sink::committable::Committable;
use milena_connector::sink::naming::NamePool;
use milena_connector::source::{Command, EnumeratorState, ReaderEvent};

type Record = OwnedKafkaRecord;

/// A rule that a host may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Committables are not in the checkpoint.
    ForgetsCommittables,
    /// The next life does not settle what the last one promised.
    NeverRecovers,
    /// The splits are taken before the writer is flushed, and elements go on in between.
    SnapshotsTooEarly,
    /// Readers are not told of complete checkpoints.
    NeverNotifies,
    /// Transactions are committed before the checkpoint is durable.
    CommitsTooEarly,
    /// Writers prepare what they have not flushed.
    NeverFlushes,
    /// Readers are told of checkpoints that they had no part in.
    NotifiesOfAnother,
    /// What functions know is not in the checkpoint.
    ForgetsStates,
    /// It is there, and not given back to them.
    NeverRestoresStates,
    /// Functions are not told the time.
    SwallowsWatermarks,
    /// They take the time from what one partition brought, not from all of them.
    TakesTimeFromElements,
    /// A function's state is taken before the last elements have passed it.
    TakesStatesTooEarly,
    /// A savepoint is written and not gone on from.
    IgnoresSavepoints,
}

impl Flaw {
    pub(crate) const ALL: [Self; 13] = [
        Self::ForgetsCommittables,
        Self::NeverRecovers,
        Self::SnapshotsTooEarly,
        Self::NeverNotifies,
        Self::CommitsTooEarly,
        Self::NeverFlushes,
        Self::NotifiesOfAnother,
        Self::ForgetsStates,
        Self::NeverRestoresStates,
        Self::SwallowsWatermarks,
        Self::TakesTimeFromElements,
        Self::TakesStatesTooEarly,
        Self::IgnoresSavepoints,
    ];
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Minimal {
    pub(crate) flaw: Option<Flaw>,
}

impl Host for Minimal {
    async fn live<S, C, K>(&self, life: Life<S, C, K>) -> Result<Lived>
    where
        S: Source<Element = Record>,
        C: Chain<Record, Out = Record>,
        K: Sink<Record>,
    {
        let mut running = Running::start(life, self.flaw).await?;
        running.run().await
    }
}

struct Subtask<R, C, W> {
    reader: R,
    functions: C,
    writer: W,
    finished: bool,
}

struct Running<S: Source, C, K: Sink<Record>> {
    life: Life<S, C, K>,
    flaw: Option<Flaw>,
    client: Client,
    enumerator: Enumerator,
    names: NamePool,
    subtasks: Vec<Subtask<S::Reader, C, K::Writer>>,
    /// What functions know of partitions that nobody has yet.
    held: Vec<FunctionState>,
    next_checkpoint: u64,
    due: Instant,
    told_never_read: bool,
    records_in: u64,
    /// Prepared, and not committed.
    committables: Vec<Committable>,
}

/// The life is over as if the process were killed.
struct Crashed;

impl<S, C, K> Running<S, C, K>
where
    S: Source<Element = Record>,
    C: Chain<Record, Out = Record>,
    K: Sink<Record>,
{
    fn file(dir: &Path) -> PathBuf {
        dir.join("state")
    }

    async fn start(life: Life<S, C, K>, flaw: Option<Flaw>) -> Result<Self> {
        let settings = life.sink.settings().clone();
        let client = Client::connect(settings.client.clone()).await?;
        fs::create_dir_all(&life.dir).unwrap();
        let from = life.from.as_ref().filter(|_| flaw != Some(Flaw::IgnoresSavepoints)).unwrap_or(&life.dir);
        let restored = fs::read(Self::file(from)).ok().map(|bytes| CheckpointState::decode(&bytes).unwrap());
        let parallelism = life.parallelism;
        if flaw != Some(Flaw::NeverRecovers) {
            recover(&client, &settings, restored.as_ref(), parallelism).await?;
        }
        let next_checkpoint = restored.as_ref().map_or(1, |state| state.id + 1);
        let names = names(&settings, parallelism, next_checkpoint);
        let mut held = Vec::new();
        let mut enumerator = match restored {
            None => life.source.enumerator(parallelism),
            Some(state) => {
                if flaw != Some(Flaw::NeverRestoresStates) {
                    held = state.functions;
                }
                let known = EnumeratorState::decode(&mut Decoder::new(&state.enumerator)).unwrap();
                life.source.restore_enumerator(parallelism, known, state.splits)?
            }
        };
        let mut subtasks = Vec::new();
        for subtask in 0..parallelism {
            let context = WriterContext { subtask, parallelism, names: names.clone() };
            let writer = life.sink.open(client.clone(), context).await?;
            let (reader, functions) = (life.source.reader(&client), life.functions.clone());
            subtasks.push(Subtask { reader, functions, writer, finished: false });
            enumerator.register_reader(subtask);
        }
        let due = Instant::now() + life.interval;
        let (records_in, committables) = (0, Vec::new());
        Ok(Self {
            life,
            flaw,
            client,
            enumerator,
            names,
            subtasks,
            held,
            next_checkpoint,
            due,
            told_never_read: false,
            records_in,
            committables,
        })
    }

    async fn run(&mut self) -> Result<Lived> {
        loop {
            self.carry_out().await?;
            for index in 0..self.subtasks.len() {
                self.step(index).await?;
            }
            let finished = self.subtasks.iter().all(|subtask| subtask.finished);
            let stop = matches!(self.life.end, End::StopAfter(records) if self.records_in >= records);
            let last = finished || stop;
            if (last || Instant::now() >= self.due) && self.enumerator.is_resolved() {
                self.due = Instant::now() + self.life.interval;
                match self.checkpoint(last).await {
                    Ok(Err(Crashed)) => return Ok(Lived { records_in: self.records_in, crashed: true }),
                    Ok(Ok(())) => {}
                    Err(error) => return self.fail(error).await,
                }
                if last {
                    for subtask in &mut self.subtasks {
                        subtask.reader.settle_commits().await;
                    }
                    return Ok(Lived { records_in: self.records_in, crashed: false });
                }
            }
        }
    }

    async fn fail(&mut self, error: milena_connector::Error) -> Result<Lived> {
        for subtask in self.subtasks.drain(..) {
            subtask.writer.abort().await;
        }
        Err(error)
    }

    async fn carry_out(&mut self) -> Result<()> {
        if self.enumerator.next_deadline().is_some_and(|due| due <= Instant::now()) {
            self.enumerator.tick(Instant::now());
        }
        if !self.told_never_read && self.enumerator.is_resolved() && !self.enumerator.is_reopening() {
            self.told_never_read = true;
            let never_read = self.enumerator.never_read().cloned().collect();
            self.subtasks[0].reader.add_finished(never_read);
            // Read to its end, and the functions have not seen that.
            let ended: Vec<_> = self.enumerator.finished().cloned().collect();
            for at in ended {
                if self.held.iter().any(|state| state.scope == Scope::Split(at.clone())) {
                    self.subtasks[0].functions.add(&at, &self.held)?;
                    self.held.retain(|state| state.scope != Scope::Split(at.clone()));
                    let last = self.subtasks[0].functions.end(&at).await?;
                    self.write(0, last).await?;
                }
            }
        }
        while let Some(command) = self.enumerator.poll_command() {
            match command {
                Command::Discover => {
                    let found = self.life.source.discover(&self.client).await;
                    self.enumerator.handle_discovered(Instant::now(), found);
                }
                Command::ResolveOffsets(requests) => {
                    let resolved = self.life.source.resolve(&self.client, &requests).await;
                    self.enumerator.handle_offsets_resolved(Instant::now(), resolved);
                }
                Command::Assign { subtask, splits } => {
                    let owner = &mut self.subtasks[subtask as usize];
                    for at in splits.iter().map(|split| &split.topic_partition) {
                        owner.functions.add(at, &self.held)?;
                        self.held.retain(|state| state.scope != Scope::Split(at.clone()));
                    }
                    owner.reader.add_splits(splits)?;
                }
                Command::Remove { subtask, partitions } => {
                    self.subtasks[subtask as usize].reader.remove_splits(&partitions);
                    for at in &partitions {
                        let last = self.subtasks[subtask as usize].functions.end(at).await?;
                        self.write(subtask as usize, last).await?;
                    }
                }
                Command::NoMoreSplits { subtask } => self.subtasks[subtask as usize].reader.no_more_splits(),
                Command::Fail(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One event of one subtask, if there is one soon.
    async fn step(&mut self, index: usize) -> Result<()> {
        let subtask = &mut self.subtasks[index];
        if subtask.finished {
            return Ok(());
        }
        let Ok(event) = tokio::time::timeout(Duration::from_millis(5), subtask.reader.next()).await else {
            return Ok(());
        };
        match event? {
            ReaderEvent::Records(batch) => {
                self.records_in += batch.records;
                let time = batch.elements.iter().map(|element| element.timestamp).max();
                let elements = subtask.functions.process(&batch.topic_partition, batch.elements).await?;
                self.write(index, elements).await?;
                if let Some(time) = time.filter(|_| self.flaw == Some(Flaw::TakesTimeFromElements)) {
                    for (_, elements) in self.subtasks[index].functions.advance(time).await? {
                        self.write(index, elements).await?;
                    }
                }
            }
            ReaderEvent::SplitFinished(split) => {
                let last = subtask.functions.end(&split.topic_partition).await?;
                self.write(index, last).await?;
                self.enumerator.handle_finished(&split);
            }
            ReaderEvent::Finished => subtask.finished = true,
            ReaderEvent::Watermark(watermark) => {
                if self.flaw != Some(Flaw::SwallowsWatermarks) {
                    for (_, elements) in subtask.functions.advance(watermark).await? {
                        self.write(index, elements).await?;
                    }
                }
            }
            ReaderEvent::Idle | ReaderEvent::Active => {}
        }
        Ok(())
    }

    async fn write(&mut self, index: usize, elements: Batch<Record>) -> Result<()> {
        let writer = &mut self.subtasks[index].writer;
        for element in elements {
            match writer.take(&element.value, element.timestamp) {
                Ok(true) => writer.send(element.timestamp).await?,
                Ok(false) => {}
                Err(error) => return self.fail(error).await.map(drop),
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self, last: bool) -> Result<std::result::Result<(), Crashed>> {
        let id = self.next_checkpoint;
        self.next_checkpoint += 1;
        let early = self.flaw == Some(Flaw::SnapshotsTooEarly);
        let mut splits = Vec::new();
        if early {
            for subtask in &mut self.subtasks {
                splits.extend(subtask.reader.snapshot(id, &[]));
            }
            for index in 0..self.subtasks.len() {
                self.step(index).await?;
            }
        }
        let mut enumerator = Encoder::new();
        self.enumerator.snapshot().encode(&mut enumerator);
        let mut writers = Vec::new();
        let mut functions = self.held.clone();
        if self.flaw == Some(Flaw::TakesStatesTooEarly) {
            for subtask in &self.subtasks {
                subtask.functions.snapshot(&mut functions)?;
            }
            for index in 0..self.subtasks.len() {
                self.step(index).await?;
            }
        }
        for subtask in &mut self.subtasks {
            if self.flaw != Some(Flaw::NeverFlushes) {
                subtask.writer.flush(last).await?;
            }
            if self.flaw != Some(Flaw::TakesStatesTooEarly) {
                subtask.functions.snapshot(&mut functions)?;
            }
            self.committables.extend(subtask.writer.prepare(id).await?);
            if !early {
                splits.extend(subtask.reader.snapshot(id, &[]));
            }
            writers.push(subtask.writer.snapshot());
        }
        if self.is_at(Moment::Prepared) && self.flaw != Some(Flaw::CommitsTooEarly) {
            return Ok(Err(Crashed));
        }
        if self.flaw == Some(Flaw::CommitsTooEarly) {
            self.commit().await?;
            if self.is_at(Moment::Prepared) {
                return Ok(Err(Crashed));
            }
        }
        let settings = self.life.sink.settings();
        let keeps = self.flaw != Some(Flaw::ForgetsCommittables);
        let state = CheckpointState {
            job: String::from("minimal"),
            id,
            parallelism: self.life.parallelism,
            delivery: settings.delivery,
            prefix: settings.prefix.clone(),
            enumerator: enumerator.finish(),
            splits,
            watermark: None,
            subtask_watermarks: Vec::new(),
            committables: if keeps { self.committables.clone() } else { Vec::new() },
            writers,
            functions: if self.flaw == Some(Flaw::ForgetsStates) { Vec::new() } else { functions },
        };
        self.store(&state, last);
        if self.is_at(Moment::Durable) {
            return Ok(Err(Crashed));
        }
        let committed = !self.committables.is_empty();
        self.commit().await?;
        if committed && self.is_at(Moment::Committed) {
            return Ok(Err(Crashed));
        }
        for subtask in &mut self.subtasks {
            if self.flaw != Some(Flaw::NeverNotifies) {
                let told = if self.flaw == Some(Flaw::NotifiesOfAnother) { id + 1 } else { id };
                subtask.reader.notify_checkpoint_complete(told);
            }
            if !last {
                subtask.writer.begin_next().await?;
            }
        }
        Ok(Ok(()))
    }

    fn store(&self, state: &CheckpointState, last: bool) {
        let hidden = self.life.dir.join(".state");
        fs::write(&hidden, state.encode()).unwrap();
        fs::rename(&hidden, Self::file(&self.life.dir)).unwrap();
        if let (true, Some(savepoint)) = (last, &self.life.savepoint) {
            fs::create_dir_all(savepoint).unwrap();
            fs::copy(Self::file(&self.life.dir), Self::file(savepoint)).unwrap();
        }
    }

    async fn commit(&mut self) -> Result<()> {
        let committables = std::mem::take(&mut self.committables);
        commit(&self.client, self.life.sink.settings(), &self.names, committables).await.map(drop)
    }

    fn is_at(&self, moment: Moment) -> bool {
        self.life.end == End::CrashAt(moment)
    }
}
