//! Reads the splits of one subtask and hands out elements, watermarks and what happens to splits.
//!
//! ```text
//! milena::Consumer (a loop for each broker, bounded in bytes) -> parts -> batches -> pieces -> next()
//! ```
//!
//! # Invariants
//! A split's position moves when an element is handed out, not when it is fetched or decoded: a snapshot taken between two
//! calls of [`SourceReader::next`] stands exactly behind the last event. Everything in progress is kept in the reader, so
//! dropping a `next` future loses nothing. A split that is not being fetched has a `CursorState` or a status of the consumer that
//! says why. A reader that was given no split has no consumer.

mod answers;
mod group;
mod hand_out;
mod reading;
mod unread;

pub use unread::Unread;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use milena::{Client, Consumer, Producer, TopicPartition};

use super::builder::{KafkaSource, SourceSettings};
use super::commit_mode::CommitMode;
use super::cursor::{Advance, Cursor};
use super::discover::uuid_bytes;
use super::fetching::{self, Found, Work};
use super::policy::{RecreatedTopic, same_topic};
use super::reader_metrics::{LiveMetrics, ReaderMetrics};
use super::split::Split;
use crate::progress::{AlignmentMember, CommitQueue, Position, Progress, ProgressEvent};
use crate::schema::{Deserializer, Stamped};
use crate::{Error, ErrorKind, Result};
use hand_out::Held;

/// What a reader hands out.
#[derive(Debug)]
pub enum ReaderEvent<T> {
    /// Elements of one partition, in order.
    Records(Batch<T>),
    /// No element with a timestamp at or below this one (milliseconds) is expected any more.
    Watermark(i64),
    /// None of the splits has anything to say about time.
    Idle,
    /// Data is expected again.
    Active,
    /// A partition was read to its end, where the split stands now.
    SplitFinished(Split),
    /// All splits were read to their stops, and no more will come.
    Finished,
}

/// Elements of one partition.
#[derive(Debug)]
pub struct Batch<T> {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The elements, with event times and the offsets of their records.
    pub elements: Vec<Stamped<T>>,
    /// Records read for them, those that gave no element included.
    pub records: u64,
}

/// An event with what handing it out means for the position.
#[derive(Debug)]
enum Queued<T> {
    Event(ReaderEvent<T>),
    Elements { slot: u32, batch: Batch<T>, advance: Advance },
}

/// Reads the splits of one subtask. Made by [`KafkaSource::reader`].
pub struct SourceReader<T> {
    client: Client,
    source: KafkaSource<T>,
    deserializer: Box<dyn Deserializer<T>>,
    /// Made with the first split.
    consumer: Option<Consumer>,
    cursors: BTreeMap<u32, Cursor>,
    slots: HashMap<TopicPartition, u32>,
    /// Slots with something at hand, in the order in which it came.
    at_hand: VecDeque<u32>,
    /// Slots that the consumer does not read now though it should.
    troubled: Vec<u32>,
    next_slot: u32,
    work: FuturesUnordered<Work>,
    /// The topology that the splits' topic ids were compared with.
    checked_topology: Option<u64>,
    progress: Progress<T>,
    next_tick: Instant,
    commits: CommitQueue,
    /// For commits by the clock: when the next is due, and how many there were.
    next_commit: Instant,
    commit_number: u64,
    commits_sent: u64,
    /// Writes what the deserializer refuses, once there is something.
    dead_letters: Option<Arc<Producer>>,
    held: Option<Held<T>>,
    alignment: Option<AlignmentMember>,
    /// Splits at their stop whose [`ReaderEvent::SplitFinished`] was not handed out yet: nobody else knows of their end.
    ending: Vec<Split>,
    /// Positions of finished splits, which belong into commits.
    finished: BTreeMap<TopicPartition, Position>,
    queue: VecDeque<Queued<T>>,
    no_more_splits: bool,
    told_finished: bool,
    metrics: ReaderMetrics,
    live: LiveMetrics,
}

impl<T> std::fmt::Debug for SourceReader<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceReader").field("splits", &self.slots.len()).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> SourceReader<T> {
    /// A reader without splits.
    #[must_use]
    pub fn new(client: Client, source: KafkaSource<T>) -> Self {
        let settings = source.settings();
        let first_commit = match settings.commits {
            CommitMode::Periodic(interval) => interval,
            CommitMode::Off | CommitMode::OnCheckpoints => Duration::ZERO,
        };
        let alignment = settings.alignment.as_ref().map(|alignment| alignment.group.join());
        Self {
            deserializer: (settings.deserializer)(),
            progress: Progress::new(settings.watermarks.clone()),
            next_tick: Instant::now(),
            client,
            source,
            consumer: None,
            cursors: BTreeMap::new(),
            slots: HashMap::new(),
            at_hand: VecDeque::new(),
            troubled: Vec::new(),
            next_slot: 0,
            work: FuturesUnordered::new(),
            checked_topology: None,
            commits: CommitQueue::default(),
            next_commit: Instant::now() + first_commit,
            commit_number: 0,
            commits_sent: 0,
            dead_letters: None,
            held: None,
            alignment,
            ending: Vec::new(),
            finished: BTreeMap::new(),
            queue: VecDeque::new(),
            no_more_splits: false,
            told_finished: false,
            metrics: ReaderMetrics::default(),
            live: LiveMetrics::default(),
        }
    }

    /// Adds splits. An empty list says that this reader has none for now, so that it does not hold back event time.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a partition that is being read already: reading it twice would double its records. What
    /// [`Consumer::new`](milena::Consumer::new) refuses.
    pub fn add_splits(&mut self, splits: Vec<Split>) -> Result<()> {
        let now = self.now();
        self.checked_topology = None;
        for split in splits {
            let at = split.topic_partition.clone();
            if self.slots.contains_key(&at) {
                return Err(
                    Error::new(ErrorKind::Misuse, "the partition is assigned twice").with_topic_partition(at)
                );
            }
            let slot = self.next_slot;
            self.next_slot += 1;
            self.progress.add(slot, split.max_timestamp, now);
            self.slots.insert(at, slot);
            self.cursors.insert(slot, Cursor::new(split));
            self.end_if_finished(slot);
            self.attach(slot)?;
        }
        self.progress.on_assigned();
        self.queue_progress();
        Ok(())
    }

    /// Splits at their ends that no reader is given: their positions go into this reader's next commit to the group, since the run that read
    /// them may have ended before its own.
    pub fn add_finished<'a>(&mut self, splits: impl IntoIterator<Item = &'a Split>) {
        let positions = splits.into_iter().map(|split| (split.topic_partition.clone(), position(split)));
        self.finished.extend(positions);
    }

    /// Stops reading these partitions; what was fetched of them is dropped.
    pub fn remove_splits(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if let Some(slot) = self.slots.get(at).copied() {
                self.forget(slot);
                self.drop_queued(slot);
            }
        }
        self.progress.on_assigned();
        self.queue_progress();
    }

    /// No split will be added any more: when the last one is finished, so is the reader.
    pub fn no_more_splits(&mut self) {
        self.no_more_splits = true;
        self.progress.on_assigned();
        self.queue_progress();
    }

    /// Where each split stands, exactly behind the last event of [`SourceReader::next`]; remembered for the commit when the
    /// checkpoint completes.
    pub fn snapshot(&mut self, checkpoint: u64) -> Vec<Split> {
        let reading = self.cursors.values().map(|cursor| &cursor.split);
        let splits: Vec<Split> = reading.chain(&self.ending).cloned().collect();
        if self.commits_with_checkpoints() {
            self.commits.on_snapshot(checkpoint, self.positions());
        }
        splits
    }

    /// A checkpoint completed: its positions are committed to the group, in the background of the following calls.
    pub fn notify_checkpoint_complete(&mut self, checkpoint: u64) {
        if self.commits_with_checkpoints() {
            self.commits.on_complete(checkpoint);
            self.start_commit(self.now());
        }
    }

    /// A checkpoint was given up.
    pub fn notify_checkpoint_aborted(&mut self, checkpoint: u64) {
        if self.commits_with_checkpoints() {
            self.commits.on_aborted(checkpoint);
        }
    }

    /// The numbers in sum, to be looked at while the reader is in use.
    #[must_use]
    pub fn live_metrics(&self) -> LiveMetrics {
        self.live.clone()
    }

    /// The next event; waits until there is one.
    ///
    /// # Errors
    /// What no retry cures: an offset that is not there any more ([`ErrorKind::DataLoss`]), a record the deserializer refuses, a
    /// missing permission. Leaders that move or do not answer are waited for.
    ///
    /// # Cancellation
    /// Safe: nothing is lost, and the position has not moved.
    pub async fn next(&mut self) -> Result<ReaderEvent<T>> {
        loop {
            if let Some(event) = self.take_queued() {
                return Ok(event);
            }
            self.poll_work()?;
            let now = self.now();
            self.tick(now);
            self.commit_periodically(now, false);
            self.start_commit(now);
            self.tend(now)?;
            // After anything was taken from the consumer, and before it is looked at.
            self.check_topics()?;
            if self.queue.is_empty() && !self.hand_out(now)? && !self.take_fetched(now)? {
                if self.is_finished() {
                    self.told_finished = true;
                    self.alignment = None;
                    self.commit_periodically(now, true);
                    self.start_commit(now);
                    self.live.set(self.metrics());
                    return Ok(ReaderEvent::Finished);
                }
                self.wait(now).await?;
            }
        }
    }

    /// Whether no commit is due or under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.commits.is_idle()
    }

    /// Goes on with commits while nothing is read, until none is due or under way.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn settle_commits(&mut self) {
        self.commit_periodically(self.now(), true);
        while !self.commits.is_idle() {
            let now = self.now();
            self.start_commit(now);
            let until = self.commits.next_deadline().unwrap_or(now + LONGEST_WAIT);
            tokio::select! {
                arrived = self.work.next(), if !self.work.is_empty() => {
                    if let Some(arrived) = arrived
                        && let Err(error) = self.handle(arrived)
                    {
                        tracing::debug!(%error, "while only commits were waited for");
                    }
                }
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
        self.live.set(self.metrics());
    }

    fn settings(&self) -> &SourceSettings<T> {
        self.source.settings()
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn is_finished(&self) -> bool {
        self.no_more_splits && self.cursors.is_empty() && !self.told_finished
    }

    fn end_if_finished(&mut self, slot: u32) {
        let Some(cursor) = self.cursors.get(&slot) else { return };
        if !cursor.split.is_finished() {
            return;
        }
        let split = cursor.split.clone();
        self.finished.insert(split.topic_partition.clone(), position(&split));
        self.ending.push(split.clone());
        self.forget(slot);
        self.queue.push_back(Queued::Event(ReaderEvent::SplitFinished(split)));
        self.queue_progress();
    }

    fn forget(&mut self, slot: u32) {
        if let Some(cursor) = self.cursors.remove(&slot) {
            self.slots.remove(cursor.topic_partition());
            if let Some(consumer) = &self.consumer {
                consumer.unassign([cursor.topic_partition()]);
            }
        }
        self.at_hand.retain(|other| *other != slot);
        self.troubled.retain(|other| *other != slot);
        self.drop_held(slot);
        self.progress.remove(slot);
    }

    fn queue_progress(&mut self) {
        while let Some(event) = self.progress.poll_event() {
            self.queue.push_back(Queued::Event(reader_event(event)));
        }
    }

    fn tick(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + self.settings().watermark_interval;
        let states = self.states();
        self.note_ends(&states);
        let Self { progress, cursors, .. } = self;
        progress.on_tick(now, |slot| {
            cursors.get(&slot).is_some_and(|cursor| {
                cursor.part.is_some()
                    || states.get(cursor.topic_partition()).is_some_and(|state| state.buffered > 0)
            })
        });
        self.queue_progress();
        self.align();
        self.live.set(self.metrics_of(&states));
    }

    /// Takes what has arrived, without waiting.
    fn poll_work(&mut self) -> Result<()> {
        while !self.work.is_empty() {
            match self.work.next().now_or_never() {
                Some(Some(arrived)) => self.handle(arrived)?,
                Some(None) | None => break,
            }
        }
        Ok(())
    }

    /// A topic that was deleted and created again has another id: its offsets mean other records. Looked at before anything that
    /// came under a new topology is handed out.
    fn check_topics(&mut self) -> Result<()> {
        let cluster = self.client.cluster();
        if self.checked_topology == Some(cluster.generation()) {
            return Ok(());
        }
        let policy = self.source.settings().enumerator.recreated;
        let mut anew = Vec::new();
        for (slot, cursor) in &mut self.cursors {
            let id =
                cluster.topic(&cursor.topic_partition().topic).and_then(|topic| topic.id).map(uuid_bytes);
            if !same_topic(&cursor.split, id, policy)? {
                self.metrics.recreated += 1;
                anew.push((*slot, cursor.topic_partition().clone()));
            }
            cursor.split.topic_id = id.or(cursor.split.topic_id);
        }
        for (slot, at) in anew {
            self.drop_fetched(slot);
            let Some(cursor) = self.cursors.get_mut(&slot) else { continue };
            // The epochs of another topic say nothing about this one.
            cursor.start_over(policy == RecreatedTopic::StartOver);
            if policy != RecreatedTopic::StartOver {
                self.attach(slot)?;
                continue;
            }
            if let Some(consumer) = &self.consumer {
                consumer.unassign([&at]);
            }
            self.work.push(fetching::range(&self.client, slot, at, Found::NewTopic));
        }
        self.checked_topology = Some(cluster.generation());
        Ok(())
    }

    async fn wait(&mut self, now: Instant) -> Result<()> {
        let mut until = now + LONGEST_WAIT;
        until = until.min(self.next_tick);
        until = self.commits.next_deadline().map_or(until, |at| until.min(at));
        if let CommitMode::Periodic(_) = self.settings().commits {
            until = until.min(self.next_commit);
        }
        let waits = self.troubled.iter().filter_map(|slot| self.cursors.get(slot)?.waits_until());
        until = waits.fold(until, Instant::min);
        let Self { work, consumer, .. } = self;
        let fetched = async {
            match consumer {
                Some(consumer) => consumer.poll(until.saturating_duration_since(now)).await,
                None => {
                    tokio::time::sleep_until(until.into()).await;
                    Ok(None)
                }
            }
        };
        tokio::select! {
            biased;
            arrived = work.next(), if !work.is_empty() => match arrived {
                Some(arrived) => self.handle(arrived),
                None => Ok(()),
            },
            fetched = fetched => self.on_fetched(fetched, self.now()).map(|_| ()),
        }
    }
}

/// The longest sleep without a look at the state.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

fn position(split: &Split) -> Position {
    Position { offset: split.next_offset, leader_epoch: split.leader_epoch }
}

fn reader_event<T>(event: ProgressEvent) -> ReaderEvent<T> {
    match event {
        ProgressEvent::Watermark(watermark) => ReaderEvent::Watermark(watermark),
        ProgressEvent::Idle => ReaderEvent::Idle,
        ProgressEvent::Active => ReaderEvent::Active,
    }
}
