//! A host in one task, with one file of state, written against `milena_connector::contract` alone.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use milena::Client;
use milena_connector::Result;
use milena_connector::checkpoint::CheckpointState;
use milena_connector::checkpoint::state::{Decoder, Encoder};
use milena_connector::conformance::{End, Host, Life, Lived, Moment};
use milena_connector::contract::{
    Enumerator, SourceReader, Writer, WriterContext, commit, names, recover, resolve_offsets, run_discovery,
};
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
}

impl Flaw {
    pub(crate) const ALL: [Self; 5] = [
        Self::ForgetsCommittables,
        Self::NeverRecovers,
        Self::SnapshotsTooEarly,
        Self::NeverNotifies,
        Self::CommitsTooEarly,
    ];
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Minimal {
    pub(crate) flaw: Option<Flaw>,
}

impl Host for Minimal {
    fn live(&self, life: Life) -> BoxFuture<'_, Result<Lived>> {
        Box::pin(async move {
            let mut running = Running::start(life, self.flaw).await?;
            running.run().await
        })
    }
}

struct Subtask {
    reader: SourceReader<Record>,
    writer: Writer<Record>,
    finished: bool,
}

struct Running {
    life: Life,
    flaw: Option<Flaw>,
    client: Client,
    enumerator: Enumerator,
    names: NamePool,
    subtasks: Vec<Subtask>,
    next_checkpoint: u64,
    due: Instant,
    told_never_read: bool,
    records_in: u64,
    /// Prepared, and not committed.
    committables: Vec<Committable>,
}

/// The life is over as if the process were killed.
struct Crashed;

impl Running {
    fn file(life: &Life) -> PathBuf {
        life.dir.join("state")
    }

    async fn start(life: Life, flaw: Option<Flaw>) -> Result<Self> {
        let settings = life.sink.settings().clone();
        let client = Client::connect(settings.client.clone()).await?;
        fs::create_dir_all(&life.dir).unwrap();
        let restored = fs::read(Self::file(&life)).ok().map(|bytes| CheckpointState::decode(&bytes).unwrap());
        let parallelism = life.parallelism;
        if flaw != Some(Flaw::NeverRecovers) {
            recover(&client, &settings, restored.as_ref(), parallelism).await?;
        }
        let next_checkpoint = restored.as_ref().map_or(1, |state| state.id + 1);
        let names = names(&settings, parallelism, next_checkpoint);
        let mut enumerator = match restored {
            None => life.source.enumerator(parallelism),
            Some(state) => {
                let known = EnumeratorState::decode(&mut Decoder::new(&state.enumerator)).unwrap();
                life.source.restore_enumerator(parallelism, known, state.splits)?
            }
        };
        let mut subtasks = Vec::new();
        for subtask in 0..parallelism {
            let context = WriterContext { subtask, parallelism, names: names.clone() };
            let writer = Writer::open(&life.sink, client.clone(), context).await?;
            subtasks.push(Subtask { reader: life.source.reader(&client), writer, finished: false });
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
            self.subtasks[0].reader.add_finished(self.enumerator.never_read());
        }
        while let Some(command) = self.enumerator.poll_command() {
            match command {
                Command::Discover => {
                    let found =
                        run_discovery(&self.client, &self.life.source.enumerator_config().subscription).await;
                    self.enumerator.handle_discovered(Instant::now(), found);
                }
                Command::ResolveOffsets(requests) => {
                    let resolved = resolve_offsets(&self.client, &self.life.source, &requests).await;
                    self.enumerator.handle_offsets_resolved(Instant::now(), resolved);
                }
                Command::Assign { subtask, splits } => {
                    self.subtasks[subtask as usize].reader.add_splits(splits)?;
                }
                Command::Remove { subtask, partitions } => {
                    self.subtasks[subtask as usize].reader.remove_splits(&partitions);
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
                for element in batch.elements {
                    match subtask.writer.take(&element.value, element.timestamp) {
                        Ok(true) => subtask.writer.send(element.timestamp).await?,
                        Ok(false) => {}
                        Err(error) => return self.fail(error).await.map(drop),
                    }
                }
            }
            ReaderEvent::SplitFinished(split) => self.enumerator.handle_finished(&split),
            ReaderEvent::Finished => subtask.finished = true,
            ReaderEvent::Watermark(_) | ReaderEvent::Idle | ReaderEvent::Active => {}
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
                splits.extend(subtask.reader.snapshot(id));
            }
            for index in 0..self.subtasks.len() {
                self.step(index).await?;
            }
        }
        let mut enumerator = Encoder::new();
        self.enumerator.snapshot().encode(&mut enumerator);
        let mut writers = Vec::new();
        for subtask in &mut self.subtasks {
            subtask.writer.flush(last).await?;
            self.committables.extend(subtask.writer.prepare(id).await?);
            if !early {
                splits.extend(subtask.reader.snapshot(id));
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
            functions: Vec::new(),
        };
        let hidden = self.life.dir.join(".state");
        fs::write(&hidden, state.encode()).unwrap();
        fs::rename(hidden, Self::file(&self.life)).unwrap();
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
                subtask.reader.notify_checkpoint_complete(id);
            }
            if !last {
                subtask.writer.begin_next().await?;
            }
        }
        Ok(Ok(()))
    }

    async fn commit(&mut self) -> Result<()> {
        let committables = std::mem::take(&mut self.committables);
        commit(&self.client, self.life.sink.settings(), &self.names, committables).await.map(drop)
    }

    fn is_at(&self, moment: Moment) -> bool {
        self.life.end == End::CrashAt(moment)
    }
}
