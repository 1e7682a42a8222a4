//! One subtask: reader, functions, writer, in one task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use milena::{Client, TopicPartition};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::control::{Halt, JobControl, Step};
use super::functions::Chain;
use super::pending::{Pace, Pending};
use super::registry::PrefixClaim;
use super::report::{Gauges, SubtaskMetrics};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::{FunctionState, WriterState};
use crate::contract::{Reader, SinkWriter};
use crate::schema::Stamped;
use crate::sink::committable::Committable;
use crate::sink::naming::NamePool;
use crate::source::{ReaderEvent, Split, Unread};

/// How long a failed job may take to abort its open transactions.
pub(super) const ABORT_WITHIN: Duration = Duration::from_secs(5);
/// How long the last commit of offsets may take. They are for monitoring: the checkpoint has the positions.
const OFFSETS_WITHIN: Duration = Duration::from_secs(5);

/// How long the last commit of offsets may take when a job ends.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// What the coordinator tells a subtask.
#[derive(Debug)]
pub(super) enum Command {
    Assign {
        splits: Vec<Split>,
        /// What functions know of them.
        states: Vec<FunctionState>,
    },
    Remove(Vec<TopicPartition>),
    /// Partitions at their ends that nobody reads.
    NeverRead(Vec<Split>),
    /// A partition that nobody reads is at its end: its functions see that.
    Conclude {
        partition: TopicPartition,
        states: Vec<FunctionState>,
    },
    NoMoreSplits,
    /// Take part in a checkpoint; after the last one, read no more.
    Barrier {
        checkpoint: CheckpointId,
        last: bool,
        /// Before the last one, every partition is at its end for the functions.
        drain: bool,
    },
    Complete {
        checkpoint: CheckpointId,
    },
    /// The checkpoint was given up.
    Forget {
        checkpoint: CheckpointId,
    },
    /// End, all is done.
    End,
    /// The job failed: abort what is open and end.
    Abort,
}

/// What a subtask tells the coordinator.
#[derive(Debug)]
pub(super) enum Event {
    Snapshot {
        subtask: u32,
        checkpoint: CheckpointId,
        snapshot: Snapshot,
    },
    /// A partition was read to its end.
    SplitFinished(Split),
    /// All splits were read to their stops and no more will come.
    Finished {
        subtask: u32,
    },
}

/// A subtask's part of a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) splits: Vec<Split>,
    /// Splits that came to their end before the barrier, where they stand: the reader knows them no more.
    pub(super) ended: Vec<Split>,
    pub(super) functions: Vec<FunctionState>,
    /// The subtask's numbers at the barrier, behind the last element before it.
    pub(super) metrics: SubtaskMetrics,
    pub(super) committable: Option<Committable>,
    pub(super) writer: WriterState,
}

/// What a subtask is given.
pub(super) struct SubtaskContext {
    pub(super) subtask: u32,
    pub(super) parallelism: u32,
    pub(super) source_client: Client,
    pub(super) sink_client: Client,
    pub(super) names: NamePool,
    pub(super) control: JobControl,
    pub(super) gauges: Arc<Gauges>,
    pub(super) commands: UnboundedReceiver<Command>,
    pub(super) events: UnboundedSender<Event>,
    pub(super) _claim: Option<Arc<PrefixClaim>>,
}

pub(super) struct Subtask<T, C, R, W> {
    context: SubtaskContext,
    reader: R,
    chain: C,
    writer: W,
    /// What is being read, and the largest event time that the functions have seen of it.
    partitions: BTreeMap<TopicPartition, Option<i64>>,
    /// What was handed out and is not with the functions yet.
    pending: Option<Pending<T>>,
    pace: Pace,
    ended: BTreeMap<TopicPartition, Split>,
    reading: bool,
    /// Offsets are to be committed while nothing is read.
    settling: bool,
}

enum Next {
    Go,
    End,
    Abort,
}

impl<T, C, R, W> Subtask<T, C, R, W>
where
    T: Send + 'static,
    C: Chain<T>,
    R: Reader<T>,
    W: SinkWriter<C::Out>,
{
    pub(super) fn new(context: SubtaskContext, reader: R, chain: C, writer: W) -> Self {
        // It is set once for each subtask, whose gauges are new.
        let _ = context.gauges.source.set(reader.live_metrics());
        let pace = Pace::new(chain.width());
        Self {
            context,
            reader,
            chain,
            writer,
            partitions: BTreeMap::new(),
            pending: None,
            pace,
            ended: BTreeMap::new(),
            reading: true,
            settling: false,
        }
    }

    /// Runs until told to end. An open transaction is aborted if something fails, but not in a crash.
    pub(super) async fn run(mut self) -> Result<(), Halt> {
        let ended = self.work().await;
        match ended {
            Ok(Next::Go | Next::End) => {
                self.settle_commits().await;
                Ok(())
            }
            Err(Halt::Crash(step)) => Err(Halt::Crash(step)),
            Ok(Next::Abort) => {
                self.abort().await;
                Ok(())
            }
            Err(Halt::Error(error)) => {
                self.abort().await;
                Err(Halt::Error(error))
            }
        }
    }

    /// The last checkpoint's offsets belong to the group too, so that lag tools show 0 after a stop.
    async fn settle_commits(&mut self) {
        if tokio::time::timeout(SETTLE_WITHIN, self.reader.settle_commits()).await.is_err() {
            tracing::warn!(subtask = self.context.subtask, "the last offsets could not be committed in time");
        }
    }

    async fn abort(self) {
        if tokio::time::timeout(ABORT_WITHIN, self.writer.abort()).await.is_err() {
            tracing::warn!(
                subtask = self.context.subtask,
                "the open transaction could not be aborted in time"
            );
        }
    }

    async fn work(&mut self) -> Result<Next, Halt> {
        loop {
            if let Some(pending) = self.pending.take() {
                match self.go_on(pending).await? {
                    Next::Go => continue,
                    next => return Ok(next),
                }
            }
            let next = tokio::select! {
                biased;
                command = self.context.commands.recv() => match command {
                    Some(command) => self.on_command(command).await?,
                    // The coordinator is gone without a word: as in a crash, nothing is tidied up.
                    None => Next::End,
                },
                error = self.writer.failed() => return Err(error.into()),
                event = read_on(&mut self.reader, self.reading), if self.reading || !self.reader.is_settled() => {
                    if let Some(event) = event? {
                        self.on_event(event).await?;
                    }
                    Next::Go
                }
            };
            if !matches!(next, Next::Go) {
                return Ok(next);
            }
        }
    }

    /// One command, or else one slice of what was handed out.
    async fn go_on(&mut self, pending: Pending<T>) -> Result<Next, Halt> {
        self.pending = Some(pending);
        match self.context.commands.try_recv() {
            Ok(command) => return self.on_command(command).await,
            Err(TryRecvError::Disconnected) => return Ok(Next::End),
            Err(TryRecvError::Empty) => {}
        }
        if let Some(error) = self.writer.failed().now_or_never() {
            return Err(error.into());
        }
        let Some(mut pending) = self.pending.take() else { return Ok(Next::Go) };
        let began = Instant::now();
        let slice = pending.next_slice(&self.pace);
        self.context.gauges.records_in.fetch_add(slice.records, Ordering::Relaxed);
        if let Some(largest) = self.partitions.get_mut(&pending.at) {
            *largest = (*largest).max(slice.max_timestamp);
        }
        let elements = self.chain.process(&pending.at, slice.elements).await.map_err(|error| match error
            .topic_partition()
            .is_some()
        {
            true => error,
            false => error.with_topic_partition(pending.at.clone()),
        })?;
        self.write(elements).await?;
        self.pace.handle_took(began.elapsed());
        if !pending.is_done() {
            self.pending = Some(pending);
            self.reader.go_on()?;
            // Functions that never wait would keep others from this thread for the whole batch.
            tokio::task::yield_now().await;
        }
        Ok(Next::Go)
    }

    async fn on_command(&mut self, command: Command) -> Result<Next, Halt> {
        match command {
            Command::Assign { splits, states } => {
                for split in &splits {
                    let at = &split.topic_partition;
                    self.chain.add(at, &states)?;
                    self.partitions.insert(at.clone(), split.max_timestamp);
                    self.ended.remove(at);
                }
                self.reader.add_splits(splits)?;
            }
            Command::Remove(partitions) => {
                self.reader.remove_splits(&partitions);
                self.pending.take_if(|pending| partitions.contains(&pending.at));
                for at in &partitions {
                    self.end(at).await?;
                }
            }
            Command::NeverRead(splits) => self.reader.add_finished(splits),
            Command::Conclude { partition, states } => {
                self.chain.add(&partition, &states)?;
                self.end(&partition).await?;
            }
            Command::NoMoreSplits => self.reader.no_more_splits(),
            Command::Barrier { checkpoint, last, drain } => self.on_barrier(checkpoint, last, drain).await?,
            Command::Complete { checkpoint } => {
                self.reader.notify_checkpoint_complete(checkpoint);
                self.settling = !self.reading;
            }
            Command::Forget { checkpoint } => self.reader.notify_checkpoint_aborted(checkpoint),
            Command::End => {
                if tokio::time::timeout(OFFSETS_WITHIN, self.reader.settle_commits()).await.is_err() {
                    tracing::warn!(
                        subtask = self.context.subtask,
                        "the last offsets were not committed to the group in time"
                    );
                }
                return Ok(Next::End);
            }
            Command::Abort => return Ok(Next::Abort),
        }
        Ok(Next::Go)
    }

    /// Flush, prepare, snapshot, begin the next.
    async fn on_barrier(&mut self, checkpoint: CheckpointId, last: bool, drain: bool) -> Result<(), Halt> {
        let subtask = self.context.subtask;
        let unread = self.unread();
        if last {
            self.reading = false;
            self.pending = None;
        }
        if drain {
            for at in self.partitions.keys().cloned().collect::<Vec<_>>() {
                self.end(&at).await?;
            }
        }
        self.context.control.reach(Step::BeforeFlush, Some(subtask))?;
        self.writer.flush(last).await?;
        self.context.control.reach(Step::AfterFlush, Some(subtask))?;
        let committable = self.writer.prepare(checkpoint).await?;
        self.context.gauges.take_from(&self.writer);
        self.context.control.reach(Step::AfterPrepare, Some(subtask))?;
        let mut functions = Vec::new();
        self.chain.snapshot(&mut functions)?;
        let snapshot = Snapshot {
            splits: self.reader.snapshot(checkpoint, &unread),
            ended: self.ended.values().cloned().collect(),
            functions,
            metrics: self.context.gauges.read(),
            committable,
            writer: self.writer.snapshot(),
        };
        self.tell(Event::Snapshot { subtask, checkpoint, snapshot });
        if !last {
            self.writer.begin_next().await?;
        }
        Ok(())
    }

    async fn on_event(&mut self, event: ReaderEvent<T>) -> Result<(), Halt> {
        let gauges = Arc::clone(&self.context.gauges);
        match event {
            ReaderEvent::Records(batch) => {
                gauges.idle.store(false, Ordering::Relaxed);
                self.pending = Some(Pending::new(batch));
            }
            ReaderEvent::Watermark(watermark) => {
                gauges.raise_watermark(watermark);
                for (_, elements) in self.chain.advance(watermark).await? {
                    self.write(elements).await?;
                }
            }
            ReaderEvent::Idle => gauges.idle.store(true, Ordering::Relaxed),
            ReaderEvent::Active => gauges.idle.store(false, Ordering::Relaxed),
            ReaderEvent::SplitFinished(split) => {
                self.end(&split.topic_partition).await?;
                self.ended.insert(split.topic_partition.clone(), split.clone());
                self.tell(Event::SplitFinished(split));
            }
            ReaderEvent::Finished => {
                self.reading = false;
                gauges.finished.store(true, Ordering::Relaxed);
                self.tell(Event::Finished { subtask: self.context.subtask });
            }
        }
        Ok(())
    }

    /// Where the barrier stands in what was handed out.
    fn unread(&self) -> Vec<Unread> {
        let unread = self
            .pending
            .as_ref()
            .and_then(|pending| pending.unread(self.partitions.get(&pending.at).copied().flatten()));
        unread.into_iter().collect()
    }

    async fn write(&mut self, elements: Vec<Stamped<C::Out>>) -> Result<(), Halt> {
        let sent = self.writer.write(elements).await?;
        self.context.gauges.records_out.fetch_add(sent, Ordering::Relaxed);
        self.context.gauges.late.store(self.chain.late(), Ordering::Relaxed);
        self.context.gauges.take_from(&self.writer);
        Ok(())
    }

    /// A partition will bring nothing any more: the functions see the largest watermark for it, and what they still have is written.
    async fn end(&mut self, at: &TopicPartition) -> Result<(), Halt> {
        self.partitions.remove(at);
        let elements = self.chain.end(at).await?;
        self.write(elements).await
    }

    /// A coordinator that does not listen any more is noticed by its closed command channel.
    fn tell(&self, event: Event) {
        let _ = self.context.events.send(event);
    }
}

/// The next event; or, when nothing is read any more, only what is left of the commits.
async fn read_on<T: Send + 'static>(
    reader: &mut impl Reader<T>,
    reading: bool,
) -> crate::Result<Option<ReaderEvent<T>>> {
    if reading {
        return reader.next().await.map(Some);
    }
    reader.settle_commits().await;
    Ok(None)
}
