//! The contract between source, sink and whoever runs them.
//!
//! [`runtime`](crate::runtime) is one host. Shuffles and wide state belong to a dataflow engine, which may host the same source and
//! sink: it needs what is on this page and nothing else. [`conformance`](crate::conformance) shows whether it keeps to it.
//!
//! # The parts
//!
//! | part | how many | lives where | what it may do |
//! |---|---|---|---|
//! | [`Source`], [`Sink`] | one a job | anywhere | make the others; `discover` and `resolve` ask brokers |
//! | [`Enumerator`] | one a job | with the coordinator | nothing by itself: pure, `now` is an argument |
//! | [`Reader`] | one a subtask | with the subtask | asks brokers, inside the calls of its host |
//! | [`SinkWriter`] | one a subtask | with the subtask | asks brokers; its producer's tasks run in the background |
//! | [`recover`], [`commit`] | functions | with the coordinator | ask brokers |
//!
//! What does IO beside the records is behind a trait, so that a host is written once for [`KafkaSource`] and [`KafkaSink`], for whatever is
//! wrapped around them, and for doubles in tests. The enumerator and what a checkpoint holds are not: they are pure, and a double of
//! them would have to be them. Nor is the commit: its outcome is what the log says, and there is one way to read it.
//!
//! All are `Send` and none needs to be `Sync`: a part is called by one thread at a time, which may be another one each time, within
//! a tokio runtime. No part calls its host. Calls that wait say what dropping them does.
//!
//! # A life of a job
//!
//! 1. The coordinator reads the checkpoint to start from, if there is one, and calls [`recover`] with it. Until that has returned, no
//!    writer may be opened: it aborts whatever is open under the sink's names.
//! 2. It makes the enumerator, by [`Source::enumerator`] or, from a checkpoint, by [`Source::restore_enumerator`] with the
//!    enumerator's state and the splits of all readers; parallelism may have changed. It makes one [`names`] pool.
//! 3. Each subtask opens its writer with the pool, makes its reader by [`Source::reader`], and the coordinator tells the enumerator
//!    ([`Enumerator::register_reader`]).
//! 4. The coordinator polls the enumerator's commands and carries them out: `Discover` by [`Source::discover`], `ResolveOffsets` by
//!    [`Source::resolve`], with the answers handed back; `Assign`, `Remove` and `NoMoreSplits` by telling the subtask, in this order and in
//!    order with barriers; `Fail` ends the life. It calls [`Enumerator::tick`] when [`Enumerator::next_deadline`] is due.
//!    When it is resolved and not reopening, for the first time, one reader is given what was at its end before ([`Enumerator::never_read`],
//!    [`Reader::add_finished`]): the life that read it may not have come to commit its offsets.
//! 5. A subtask calls [`Reader::next`] again and again, gives elements to [`SinkWriter::take`] and [`SinkWriter::send`], or many at once to
//!    [`SinkWriter::write`], and tells the coordinator of each `SplitFinished`, which tells the enumerator ([`Enumerator::handle_finished`]).
//!
//! # A checkpoint
//!
//! 1. The coordinator takes [`Enumerator::snapshot`] and sends the barrier, numbered one above every number before, to each subtask. None
//!    may be taken before [`Enumerator::is_resolved`].
//! 2. A subtask, between two records and with nothing inside its functions: [`SinkWriter::flush`], [`SinkWriter::prepare`],
//!    [`Reader::snapshot`], [`SinkWriter::snapshot`]; it sends the results, and calls [`SinkWriter::begin_next`] before the next element. Of a
//!    batch that it has passed on in part, it tells the reader ([`Unread`]): the checkpoint then has the next offset. Splits that finished before the barrier go along, and replace the enumerator's in the checkpoint.
//! 3. The coordinator makes all of it durable, with every committable whose outcome it does not know. A checkpoint that fails or is given up
//!    takes nothing with it: its committables belong to the next.
//! 4. When it is durable, and not before: [`commit`] for the committables of it and of all before it;
//!    [`Reader::notify_checkpoint_complete`] in each subtask. For one that was given up, `notify_checkpoint_aborted`.
//!
//! # An end
//!
//! When every reader has said `Finished`, or a stop is asked for: a last checkpoint, whose flush has `end` set and after which nothing is
//! read; its commits; [`Reader::settle_commits`]. After a failure: [`SinkWriter::abort`], as well as possible. A life that ends anywhere
//! without any of this loses nothing: the next one's [`recover`] settles it.

mod kafka;

use std::future::Future;
use std::time::Instant;

use milena::{Client, ClientConfig, TopicPartition};

pub use crate::runtime::{Recovered, commit, names, recover};
pub use crate::sink::writer::{Writer, WriterContext, WriterCounts};
pub use crate::source::{Enumerator, KafkaSource, SourceReader, Unread};

use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::WriterState;
use crate::schema::Stamped;
pub use crate::sink::KafkaSink;
use crate::sink::SinkSettings;
use crate::sink::committable::Committable;
use crate::source::{Discovered, EnumeratorState, LiveMetrics, ReaderEvent, ResolveRequest, Resolved, Split};
use crate::{Error, Result};

/// What a job reads: [`KafkaSource`], or something around it. The coordinator has one, and each subtask a clone.
pub trait Source: Clone + Send + Sync + 'static {
    /// What readers hand out.
    type Element: Send + 'static;
    /// What reads.
    type Reader: Reader<Self::Element>;

    /// How to connect: the host makes one client a life and passes it to the others.
    fn client_config(&self) -> &ClientConfig;

    /// The enumerator of a job without a checkpoint.
    fn enumerator(&self, parallelism: u32) -> Enumerator;

    /// The enumerator of a job that goes on from a checkpoint: its own state, and the splits of all readers.
    ///
    /// # Errors
    /// `Misuse` if the state does not fit the source.
    fn restore_enumerator(
        &self,
        parallelism: u32,
        known: EnumeratorState,
        splits: Vec<Split>,
    ) -> Result<Enumerator>;

    /// Carries out the enumerator's `Discover`. The enumerator decides what an error means.
    ///
    /// # Cancellation
    /// Safe.
    fn discover(&self, client: &Client) -> impl Future<Output = Result<Discovered>> + Send;

    /// Carries out the enumerator's `ResolveOffsets`.
    ///
    /// # Cancellation
    /// Safe.
    fn resolve(
        &self,
        client: &Client,
        requests: &[ResolveRequest],
    ) -> impl Future<Output = Result<Vec<Resolved>>> + Send;

    /// A subtask's reader, without splits.
    fn reader(&self, client: &Client) -> Self::Reader;
}

/// What a subtask reads with. Every call is the subtask's.
pub trait Reader<T>: Send + 'static {
    /// On `Assign`. An empty list says that there are none for now.
    ///
    /// # Errors
    /// `Misuse` for a partition that is being read.
    fn add_splits(&mut self, splits: Vec<Split>) -> Result<()>;

    /// Splits at their ends that nobody reads, once a life, for one reader: it commits their positions to the group.
    fn add_finished(&mut self, splits: Vec<Split>);

    /// On `Remove`. What was handed out of them and not passed on is to be dropped.
    fn remove_splits(&mut self, partitions: &[TopicPartition]);

    /// On `NoMoreSplits`.
    fn no_more_splits(&mut self);

    /// The next event. Not called after `Finished`, nor after the barrier of the last checkpoint.
    ///
    /// # Errors
    /// What no retry cures: the life ends.
    ///
    /// # Cancellation
    /// Safe: nothing is lost, and the position has not moved.
    fn next(&mut self) -> impl Future<Output = Result<ReaderEvent<T>>> + Send;

    /// Goes on with what is under way, without waiting: to be called now and then while a batch is being passed on for long.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    fn go_on(&mut self) -> Result<()>;

    /// At a barrier, after the writer is flushed: where each split stands, behind the last event of [`next`](Self::next), or, for those in
    /// `unread`, before the first element that was not passed on.
    fn snapshot(&mut self, checkpoint: CheckpointId, unread: &[Unread]) -> Vec<Split>;

    /// The checkpoint is durable: its positions are committed to the group, if they are to be.
    fn notify_checkpoint_complete(&mut self, checkpoint: CheckpointId);

    /// The checkpoint was given up.
    fn notify_checkpoint_aborted(&mut self, checkpoint: CheckpointId);

    /// Whether no commit to the group is due or under way.
    fn is_settled(&self) -> bool;

    /// While nothing is read: goes on with commits until none is due.
    ///
    /// # Cancellation
    /// Safe.
    fn settle_commits(&mut self) -> impl Future<Output = ()> + Send;

    /// Its numbers, to be looked at while it reads.
    fn live_metrics(&self) -> LiveMetrics;
}

/// Where a job writes: [`KafkaSink`], or something around it. The coordinator has one, and each subtask a clone.
pub trait Sink<T>: Clone + Send + Sync + 'static {
    /// What writes.
    type Writer: SinkWriter<T>;

    /// The promise, the names, the limits: what [`recover`], [`names`] and [`commit`] need.
    fn settings(&self) -> &SinkSettings;

    /// A subtask's writer. Not before [`recover`] has returned.
    ///
    /// # Errors
    /// As [`Writer::open`].
    ///
    /// # Cancellation
    /// At most an initialised transactional id is left behind.
    fn open(
        &self,
        client: Client,
        context: WriterContext,
    ) -> impl Future<Output = Result<Self::Writer>> + Send;
}

/// What a subtask writes with. Every call is the subtask's, in this order, again and again: `take` and `send` for each element or `write` for
/// many, `flush`, `prepare`, `snapshot`, `begin_next`.
pub trait SinkWriter<T>: Send + 'static {
    /// Makes a record of an element. Returns whether there is one, to be sent before the next element.
    ///
    /// # Errors
    /// The serializer's, if the policy is to fail; the error of a record sent before.
    fn take(&mut self, value: &T, timestamp: i64) -> Result<bool>;

    /// Writes the record of the element taken last. Waits for room only.
    ///
    /// # Errors
    /// What makes the record impossible to write.
    ///
    /// # Cancellation
    /// The record may be sent or not.
    fn send(&mut self, timestamp: i64) -> impl Future<Output = Result<()>> + Send;

    /// Writes elements one after the other, as [`take`](Self::take) and [`send`](Self::send) do. Returns how many records were sent. A
    /// writer may have a cheaper way to the same end.
    ///
    /// # Errors
    /// As `take` and `send`.
    ///
    /// # Cancellation
    /// Elements up to some point were written: the life must end.
    fn write(&mut self, elements: Vec<Stamped<T>>) -> impl Future<Output = Result<u64>> + Send
    where
        T: Send,
    {
        write_each(self, elements)
    }

    /// Waits for the error of a record that was sent, to be waited for beside the reader. Never returns while all goes well.
    ///
    /// # Cancellation
    /// Safe.
    fn failed(&mut self) -> impl Future<Output = Error> + Send;

    /// Waits until all that was sent is in the log. `end`: nothing will be sent any more.
    ///
    /// # Errors
    /// The first error of what was sent.
    ///
    /// # Cancellation
    /// Call it again.
    fn flush(&mut self, end: bool) -> impl Future<Output = Result<()>> + Send;

    /// Ends the transaction's first phase: what it returns belongs into this checkpoint.
    ///
    /// # Errors
    /// `Client` if the broker refuses.
    ///
    /// # Cancellation
    /// The life must end.
    fn prepare(
        &mut self,
        checkpoint: CheckpointId,
    ) -> impl Future<Output = Result<Option<Committable>>> + Send;

    /// What the checkpoint holds of the writer.
    fn snapshot(&self) -> WriterState;

    /// Makes ready for the elements after the barrier. Not after the last one.
    ///
    /// # Errors
    /// `Client` if a name can't be initialised.
    ///
    /// # Cancellation
    /// The life must end.
    fn begin_next(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Since when its transaction is open.
    fn open_since(&self) -> Option<Instant>;

    /// Its numbers.
    fn counts(&self) -> WriterCounts;

    /// The life failed: aborts what is open, as well as possible.
    ///
    /// # Cancellation
    /// The next life's [`recover`] aborts it.
    fn abort(self) -> impl Future<Output = ()> + Send;
}

/// Writes elements one by one.
pub(crate) async fn write_each<T: Send, W: SinkWriter<T> + ?Sized>(
    writer: &mut W,
    elements: Vec<Stamped<T>>,
) -> Result<u64> {
    let mut sent = 0;
    for element in elements {
        if writer.take(&element.value, element.timestamp)? {
            writer.send(element.timestamp).await?;
            sent += 1;
        }
    }
    Ok(sent)
}
