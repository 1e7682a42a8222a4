//! One subtask: reader, functions, writer, in one task.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use milena::{Client, TopicPartition};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::control::{Halt, JobControl, Step};
use super::functions::Chain;
use super::registry::PrefixClaim;
use super::report::{Gauges, SubtaskMetrics};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::WriterState;
use crate::sink::committable::Committable;
use crate::sink::naming::NamePool;
use crate::sink::writer::Writer;
use crate::source::{ReaderEvent, SourceReader, Split};

/// How long a failed job may take to abort its open transactions.
pub(super) const ABORT_WITHIN: Duration = Duration::from_secs(5);
/// How long the last commit of offsets may take. They are for monitoring: the checkpoint has the positions.
const OFFSETS_WITHIN: Duration = Duration::from_secs(5);

/// How long the last commit of offsets may take when a job ends.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// What the coordinator tells a subtask.
#[derive(Debug)]
pub(super) enum Command {
    Assign(Vec<Split>),
    Remove(Vec<TopicPartition>),
    NoMoreSplits,
    /// Take part in a checkpoint; after the last one, read no more.
    Barrier {
        checkpoint: CheckpointId,
        last: bool,
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

pub(super) struct Subtask<T, C: Chain<T>> {
    context: SubtaskContext,
    reader: SourceReader<T>,
    chain: C,
    writer: Writer<C::Out>,
    reading: bool,
    /// Offsets are to be committed while nothing is read.
    settling: bool,
}

enum Next {
    Go,
    End,
    Abort,
}

impl<T, C> Subtask<T, C>
where
    T: Send + 'static,
    C: Chain<T>,
{
    pub(super) fn new(
        context: SubtaskContext,
        reader: SourceReader<T>,
        chain: C,
        writer: Writer<C::Out>,
    ) -> Self {
        // It is set once for each subtask, whose gauges are new.
        let _ = context.gauges.source.set(reader.live_metrics());
        Self { context, reader, chain, writer, reading: true, settling: false }
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

    async fn on_command(&mut self, command: Command) -> Result<Next, Halt> {
        match command {
            Command::Assign(splits) => self.reader.add_splits(splits)?,
            Command::Remove(partitions) => self.reader.remove_splits(&partitions),
            Command::NoMoreSplits => self.reader.no_more_splits(),
            Command::Barrier { checkpoint, last } => self.on_barrier(checkpoint, last).await?,
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
    async fn on_barrier(&mut self, checkpoint: CheckpointId, last: bool) -> Result<(), Halt> {
        let subtask = self.context.subtask;
        if last {
            self.reading = false;
        }
        self.context.control.reach(Step::BeforeFlush, Some(subtask))?;
        self.writer.flush(last).await?;
        self.context.control.reach(Step::AfterFlush, Some(subtask))?;
        let committable = self.writer.prepare(checkpoint).await?;
        self.context.gauges.take_from(&self.writer);
        self.context.control.reach(Step::AfterPrepare, Some(subtask))?;
        let snapshot = Snapshot {
            splits: self.reader.snapshot(checkpoint),
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
                gauges.records_in.fetch_add(batch.records, Ordering::Relaxed);
                let partition = batch.topic_partition;
                let elements = self.chain.process(batch.elements).await.map_err(|error| {
                    if error.topic_partition().is_some() {
                        error
                    } else {
                        error.with_topic_partition(partition)
                    }
                })?;
                for element in elements {
                    if self.writer.take(&element.value, element.timestamp)? {
                        self.writer.send(element.timestamp).await?;
                        gauges.records_out.fetch_add(1, Ordering::Relaxed);
                    }
                }
                gauges.take_from(&self.writer);
            }
            ReaderEvent::Watermark(watermark) => gauges.raise_watermark(watermark),
            ReaderEvent::Idle => gauges.idle.store(true, Ordering::Relaxed),
            ReaderEvent::Active => gauges.idle.store(false, Ordering::Relaxed),
            ReaderEvent::SplitFinished(split) => self.tell(Event::SplitFinished(split)),
            ReaderEvent::Finished => {
                self.reading = false;
                gauges.finished.store(true, Ordering::Relaxed);
                self.tell(Event::Finished { subtask: self.context.subtask });
            }
        }
        Ok(())
    }

    /// A coordinator that does not listen any more is noticed by its closed command channel.
    fn tell(&self, event: Event) {
        let _ = self.context.events.send(event);
    }
}

/// The next event; or, when nothing is read any more, only what is left of the commits.
async fn read_on<T: Send + 'static>(
    reader: &mut SourceReader<T>,
    reading: bool,
) -> crate::Result<Option<ReaderEvent<T>>> {
    if reading {
        return reader.next().await.map(Some);
    }
    reader.settle_commits().await;
    Ok(None)
}
