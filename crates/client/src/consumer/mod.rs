//! The consumer: partitions that the application assigns, fetched ahead of it by one loop for each broker.
//!
//! ```text
//! brokers --answers--> fetch loops --(checked, in order)--> queue --poll, recv--> application
//!              ^            |                                              |
//!              |            v                                              v
//!              +-- cursors (milena_core::fetch): what to ask next    assign, seek, pause
//! ```
//!
//! Answers are read into buffers of the consumer's own, which are used again when the last record that borrows from one is dropped. What
//! they take is bounded by [`ConsumerConfig::buffer_bytes`], whatever the number of brokers and partitions. While there is room the next
//! request to a broker goes out before the records of the last answer are looked at.
//!
//! Who is assigned what is the application's to say: a group's membership, where there is one, calls [`Consumer::assign`] and
//! [`Consumer::unassign`] like anybody else.

mod commit;
mod config;
mod decode;
mod driver;
mod fetch_loop;
mod memory;
mod metrics;
mod part;
mod read;
mod records;
mod request;
mod shared;
mod validation;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use milena_core::fetch::{CursorView, Cursors, Position, Settings, Start};
use milena_protocol::types::{Offset, TopicPartition};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

pub use commit::CommitTicket;
pub use config::{ConsumerConfig, OffsetReset, OnDataLoss};
#[cfg(test)]
pub(crate) use memory::Memory;
pub(crate) use memory::Room;
pub use metrics::ConsumerMetrics;
pub use part::{BatchRecords, PartitionIter, PartitionRecords};
pub use records::{ConsumerRecord, RecordRef, RecordStream};

use crate::client::Client;
use crate::error::{Error, Result, why_unreadable};
use crate::group::CommittedOffset;
use crate::offsets::{ListedOffset, OffsetSpec};
use commit::Commits;
use records::RecordReader;
use shared::{Shared, State, now};

/// Reads the partitions it is assigned.
///
/// Dropping it ends its tasks; nothing blocks.
pub struct Consumer {
    shared: Arc<Shared>,
    reader: RecordReader,
    /// Something was sought, paused or taken away: the part in hand may not be wanted any more.
    moved: AtomicBool,
    commits: Option<Arc<Commits>>,
    tasks: Vec<AbortHandle>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("config", &self.shared.config)
            .field("partitions", &self.shared.state().cursors.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// How long a partition that brokers do not know is looked for.
const UNKNOWN_PARTITION_WINDOW: Duration = Duration::from_secs(5);

impl Consumer {
    /// A consumer without partitions. Its tasks run on the runtime the client was made on.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a wrong configuration.
    pub fn new(client: &Client, config: ConsumerConfig) -> Result<Self> {
        config.validate()?;
        let settings = Settings {
            reset: config.reset_start(),
            loss: config.loss(),
            isolation: config.isolation,
            tell_ends: config.progress,
            backoff: client.config().backoff,
            unknown_window: UNKNOWN_PARTITION_WINDOW,
            replica_window: client.config().metadata_max_age,
        };
        let cursors = Cursors::new(settings, client.seed());
        let shared = Arc::new(Shared::new(client.clone(), config, cursors));
        let runtime = client.pool().runtime();
        let mut tasks = vec![runtime.spawn(driver::run(Arc::clone(&shared))).abort_handle()];
        let commits = shared.config.group.as_ref().map(|group| {
            let commits = Arc::new(Commits::default());
            let task = runtime.spawn(Arc::clone(&commits).run(client.group(group)));
            tasks.push(task.abort_handle());
            commits
        });
        let reader = RecordReader::new();
        Ok(Self { shared, reader, moved: AtomicBool::new(false), commits, tasks })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ConsumerConfig {
        &self.shared.config
    }

    /// Adds partitions, each from its start on. Partitions that are assigned already stay as they are.
    pub fn assign(&self, partitions: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.change(|state| {
            for (tp, start) in partitions {
                state.cursors.assign(now(), &tp, start);
            }
            state.cursors.handle_cluster(now(), &self.shared.client.cluster());
        });
    }

    /// Takes partitions away; what waits of them for [`Consumer::poll`] is dropped at once.
    pub fn unassign<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        self.change(|state| {
            for tp in partitions {
                state.cursors.remove(tp);
            }
        });
    }

    /// Reads on from another place; what waits of the partition is dropped at once. Also takes a partition up again that failed.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn seek(&self, tp: &TopicPartition, to: Start) -> Result<()> {
        self.change_one(tp, |state| state.cursors.seek(now(), tp, to).is_some())
    }

    /// Stops reading a partition until [`Consumer::resume`]. What waits of it is dropped at once, so that it takes no room, and read again
    /// then.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn pause(&self, tp: &TopicPartition) -> Result<()> {
        self.change_one(tp, |state| state.cursors.pause(now(), tp).is_some())
    }

    /// Holds a partition back until [`Consumer::release`]: no more of it is asked or given out, but what was fetched or is on its way
    /// stays and is not fetched again. It takes room in the buffer meanwhile. For waits that depend on other partitions, as in reading
    /// several at the pace of the slowest; [`Consumer::pause`] gives the room back.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn hold(&self, tp: &TopicPartition) -> Result<()> {
        self.change_one(tp, |state| {
            let found = state.cursors.hold(now(), tp).is_some();
            state.sort();
            found
        })
    }

    /// Reads a partition on that was held back: first what was kept of it.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn release(&self, tp: &TopicPartition) -> Result<()> {
        self.change_one(tp, |state| {
            let found = state.cursors.release(now(), tp).is_some();
            state.sort();
            found
        })
    }

    /// Sets where reading stops: nothing is asked of the partition at or behind this offset. `None`: it goes on. Records behind it can
    /// still come, with the batch that holds it and with what is on its way. Once everything before is fetched the partition's status is
    /// [`AtStop`](crate::PartitionStatus::AtStop).
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn stop_at(&self, tp: &TopicPartition, stop: Option<Offset>) -> Result<()> {
        self.change_one(tp, |state| state.cursors.set_stop(now(), tp, stop).is_some())
    }

    /// Reads a paused partition on, from the application's position.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) if the partition is not assigned.
    pub fn resume(&self, tp: &TopicPartition) -> Result<()> {
        self.change_one(tp, |state| state.cursors.resume(now(), tp).is_some())
    }

    /// What each assigned partition is doing, and where it stands.
    #[must_use]
    pub fn partitions(&self) -> Vec<CursorView> {
        let mut state = self.shared.state();
        self.tell_position(&mut state);
        state.cursors.views(now())
    }

    /// What one partition is doing, and where it stands; `None` if it is not assigned.
    #[must_use]
    pub fn partition(&self, tp: &TopicPartition) -> Option<CursorView> {
        let mut state = self.shared.state();
        self.tell_position(&mut state);
        state.cursors.view(now(), tp)
    }

    /// Where the application stands in a partition: the offset after the records it took. `None` if the partition is not assigned, or
    /// its start is not known yet.
    #[must_use]
    pub fn position(&self, tp: &TopicPartition) -> Option<Position> {
        self.partition(tp)?.position
    }

    /// How many offsets lie between the application's position and the end of the partition, as the last answer said: the last stable
    /// offset under read_committed, else the high watermark. `None` before the first answer.
    #[must_use]
    pub fn lag(&self, tp: &TopicPartition) -> Option<u64> {
        let view = self.partition(tp)?;
        let end = match self.shared.config.isolation {
            crate::Isolation::ReadCommitted => view.last_stable_offset.or(view.high_watermark),
            crate::Isolation::ReadUncommitted => view.high_watermark,
        };
        let position: Offset = view.position?.offset;
        Some(u64::try_from(end? - position).unwrap_or(0))
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> ConsumerMetrics {
        self.shared.counts.snapshot(self.shared.memory.held(), self.shared.memory.peak())
    }

    /// The next records: those of one partition that one answer brought. `None` when none come within `wait`. They count as taken: the
    /// position is behind them.
    ///
    /// # Errors
    /// A partition that is not read any more, or brokers that cannot be asked at all, told once each; the others are read on.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn poll(&mut self, wait: Duration) -> Result<Option<PartitionRecords>> {
        if let Some(rest) = self.rest() {
            return Ok(Some(rest));
        }
        match timeout(wait, poll_fn(|context| self.shared.poll_part(context, true))).await {
            Ok(part) => part.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The next records if they are here already: never waits.
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub fn try_poll(&mut self) -> Result<Option<PartitionRecords>> {
        match self.rest() {
            Some(rest) => Ok(Some(rest)),
            None => self.shared.try_part().transpose(),
        }
    }

    /// The next record, to keep. It waits until there is one; the position is behind it then.
    ///
    /// # Errors
    /// As [`Consumer::poll`], and a partition whose records cannot be decoded. [`ErrorKind::Closed`](crate::ErrorKind::Closed) after
    /// [`Client::close`].
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[inline]
    pub async fn recv(&mut self) -> Result<ConsumerRecord> {
        loop {
            if let Some(record) = self.at_hand() {
                return Ok(record);
            }
            poll_fn(|context| self.poll_fill(context)).await?;
        }
    }

    /// The next record if it is here already: never waits. Errors are left to [`Consumer::recv`].
    #[inline]
    pub fn try_recv(&mut self) -> Option<ConsumerRecord> {
        if let Some(record) = self.at_hand() {
            return Some(record);
        }
        let context = Context::from_waker(std::task::Waker::noop());
        match self.shared.has_errors() {
            true => None,
            false => match self.poll_fill(&context) {
                Poll::Ready(Ok(())) => self.reader.owned(),
                _ => None,
            },
        }
    }

    /// The next record, borrowed until the call after: the cheapest way to look at every one. It waits until there is one.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[inline]
    pub async fn next(&mut self) -> Result<RecordRef<'_>> {
        self.look_again();
        if !self.reader.has_next() {
            poll_fn(|context| self.poll_fill(context)).await?;
        }
        self.reader.borrowed().ok_or_else(|| Error::closed("no record is at hand"))
    }

    /// The records as a stream, which ends when the client is closed. Errors are items; the stream goes on after them.
    pub fn stream(&mut self) -> RecordStream<'_> {
        RecordStream { consumer: self }
    }

    /// Commits the positions of all partitions to the group, after every commit that was begun before.
    ///
    /// # Errors
    /// As [`Group::commit`](crate::Group::commit); [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) without a group.
    ///
    /// # Cancellation
    /// The commit goes on.
    pub async fn commit(&self) -> Result<()> {
        self.begin_commit()?.done().await
    }

    /// Begins to commit the positions of all partitions. Commits are sent one at a time; offsets that wait meanwhile are taken over by
    /// later ones, so that an older commit never comes after a newer one.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) without a group.
    pub fn begin_commit(&self) -> Result<CommitTicket> {
        let positions = self.partitions().into_iter().filter_map(|partition| {
            let Position { offset, epoch } = partition.position?;
            Some((partition.tp, CommittedOffset { offset, leader_epoch: epoch, metadata: None }))
        });
        self.begin_commit_of(positions)
    }

    /// As [`Consumer::begin_commit`], with offsets of one's own: of each partition the next one to read.
    ///
    /// # Errors
    /// As [`Consumer::begin_commit`].
    pub fn begin_commit_of(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, CommittedOffset)>,
    ) -> Result<CommitTicket> {
        let commits = self.commits.as_ref().ok_or_else(|| {
            Error::misuse("there is no group to commit to")
                .with_remedy("set ConsumerConfig::group (group.id)")
        })?;
        Ok(CommitTicket(commits.push(offsets)))
    }

    /// Looks up offsets by place or by time, of any partitions.
    ///
    /// # Errors
    /// As [`Client::list_offsets`].
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn offsets(
        &self,
        wanted: &[(TopicPartition, OffsetSpec)],
    ) -> Result<Vec<(TopicPartition, Result<ListedOffset>)>> {
        self.shared.client.list_offsets(wanted, self.shared.config.isolation).await
    }

    /// Stops fetching, waits for commits that were begun, and tells brokers that their sessions are over; at most `wait` long.
    ///
    /// # Errors
    /// A commit that failed or did not end in time. The consumer is closed all the same.
    ///
    /// # Cancellation
    /// The consumer is closed; commits may have been done or not.
    pub async fn close(mut self, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        self.reader.clear();
        let sessions = {
            let state = self.shared.state();
            let brokers: Vec<_> = state.cursors.brokers().collect();
            let held = brokers.into_iter().filter_map(|id| Some((id, state.cursors.held_session(id)?)));
            held.collect::<Vec<_>>()
        };
        if let Some(driver) = self.tasks.first() {
            driver.abort();
        }
        let committed = match &self.commits {
            // An empty commit is done when those before it are.
            Some(commits) => match timeout_at(deadline, CommitTicket(commits.push([])).done()).await {
                Ok(done) => done,
                Err(_) => Err(Error::new(crate::ErrorKind::Timeout, "a commit was not done in time")),
            },
            None => Ok(()),
        };
        let goodbyes =
            sessions.into_iter().map(|(broker, id)| request::say_goodbye(&self.shared, broker, id, deadline));
        futures_util::future::join_all(goodbyes).await;
        committed
    }

    /// What is left of the part in hand; it counts as taken.
    fn rest(&mut self) -> Option<PartitionRecords> {
        self.look_again();
        let (part, _) = self.reader.standing()?;
        let (ticket, next) = (part.ticket, part.next);
        let rest = self.reader.rest();
        self.shared.state().cursors.on_moved(ticket, next);
        rest
    }

    /// The next record of the part in hand.
    #[inline]
    fn at_hand(&mut self) -> Option<ConsumerRecord> {
        self.look_again();
        self.reader.owned()
    }

    /// Waits until there is a record at hand.
    fn poll_fill(&mut self, context: &Context<'_>) -> Poll<Result<()>> {
        loop {
            match self.reader.refill() {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Some(ended)) => {
                    let mut state = self.shared.state();
                    state.cursors.on_moved(ended.ticket, ended.position);
                    if let Some(error) = ended.broken {
                        let text = Arc::from(why_unreadable(&error));
                        state.cursors.on_broken(now(), ended.ticket, ended.position, text);
                        self.shared.settle(&mut state);
                    }
                }
                Err(None) => {}
            }
            let part = ready!(self.shared.poll_part(context, false))?;
            self.reader.load(part);
        }
    }

    /// Drops the part in hand if it is not wanted any more, and puts it back if its partition is held back.
    #[inline]
    fn look_again(&mut self) {
        if *self.moved.get_mut() {
            *self.moved.get_mut() = false;
            self.look_at_part();
        }
    }

    #[cold]
    fn look_at_part(&mut self) {
        let Some((part, position)) = self.reader.standing() else { return };
        let ticket = part.ticket;
        let mut state = self.shared.state();
        if !state.cursors.is_current(ticket) {
            self.reader.clear();
        } else if state.cursors.is_held(ticket.slot()) {
            let next = part.next;
            let rest = self.reader.rest();
            state.cursors.on_moved(ticket, if rest.is_some() { position } else { next });
            if let Some(rest) = rest {
                // Its bytes were counted as taken.
                state.put_back(PartitionRecords { start: position, bytes: 0, ..rest });
            }
        }
    }

    /// Tells the cursors where the application stands in the part in hand.
    fn tell_position(&self, state: &mut State) {
        if let Some((part, position)) = self.reader.standing() {
            state.cursors.on_moved(part.ticket, position);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared.state();
        self.tell_position(&mut state);
        let changed = change(&mut state);
        let dropped = state.purge();
        let waker = self.shared.settle(&mut state);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.moved.store(true, Ordering::Relaxed);
        metrics::add(&self.shared.counts.stale_parts, dropped);
        self.shared.changed.notify_waiters();
        changed
    }

    fn change_one(&self, tp: &TopicPartition, change: impl FnOnce(&mut State) -> bool) -> Result<()> {
        match self.change(change) {
            true => Ok(()),
            false => Err(Error::misuse("the partition is not assigned").with_topic_partition(tp)),
        }
    }
}
