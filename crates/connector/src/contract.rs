//! The contract between source, sink and whoever runs them.
//!
//! [`runtime`](crate::runtime) is one host. Shuffles and wide state belong to a dataflow engine, which may host the same source and
//! sink: it needs what is on this page and nothing else. [`conformance`](crate::conformance) shows whether it keeps to it.
//!
//! # The parts
//!
//! | part | how many | lives where | what it may do |
//! |---|---|---|---|
//! | [`Enumerator`] | one a job | with the coordinator | nothing by itself: pure, `now` is an argument |
//! | [`SourceReader`] | one a subtask | with the subtask | asks brokers, inside the calls of its host |
//! | [`Writer`] | one a subtask | with the subtask | asks brokers; its producer's tasks run in the background |
//! | [`recover`], [`commit`] | functions | with the coordinator | ask brokers |
//!
//! All are `Send` and none needs to be `Sync`: a part is called by one thread at a time, which may be another one each time, within
//! a tokio runtime. No part calls its host. Calls that wait say what dropping them does.
//!
//! # A life of a job
//!
//! 1. The coordinator reads the checkpoint to start from, if there is one, and calls [`recover`] with it. Until that has returned, no
//!    writer may be opened: it aborts whatever is open under the sink's names.
//! 2. It makes the enumerator, by [`KafkaSource::enumerator`] or, from a checkpoint, by [`KafkaSource::restore_enumerator`] with the
//!    enumerator's state and the splits of all readers; parallelism may have changed. It makes one [`names`] pool.
//! 3. Each subtask opens its writer with the pool, makes its reader by [`KafkaSource::reader`], and the coordinator tells the enumerator
//!    ([`Enumerator::register_reader`]).
//! 4. The coordinator polls the enumerator's commands and carries them out: `Discover` by [`run_discovery`], `ResolveOffsets` by
//!    [`resolve_offsets`], with the answers handed back; `Assign`, `Remove` and `NoMoreSplits` by telling the subtask, in this order and in
//!    order with barriers; `Fail` ends the life. It calls [`Enumerator::tick`] when [`Enumerator::next_deadline`] is due.
//!    When it is resolved and not reopening, for the first time, one reader is given what was at its end before ([`Enumerator::never_read`],
//!    [`SourceReader::add_finished`]): the life that read it may not have come to commit its offsets.
//! 5. A subtask calls [`SourceReader::next`] again and again, gives elements to [`Writer::take`] and [`Writer::send`], and tells the
//!    coordinator of each `SplitFinished`, which tells the enumerator ([`Enumerator::handle_finished`]).
//!
//! # A checkpoint
//!
//! 1. The coordinator takes [`Enumerator::snapshot`] and sends the barrier, numbered one above every number before, to each subtask. None
//!    may be taken before [`Enumerator::is_resolved`].
//! 2. A subtask, between two calls of `next` and with nothing inside its functions: [`Writer::flush`], [`Writer::prepare`],
//!    [`SourceReader::snapshot`], [`Writer::snapshot`]; it sends the results, and calls [`Writer::begin_next`] before the next element. Splits
//!    that finished before the barrier go along, and replace the enumerator's in the checkpoint.
//! 3. The coordinator makes all of it durable, with every committable whose outcome it does not know. A checkpoint that fails or is given up
//!    takes nothing with it: its committables belong to the next.
//! 4. When it is durable, and not before: [`commit`] for the committables of it and of all before it;
//!    [`SourceReader::notify_checkpoint_complete`] in each subtask. For one that was given up, `notify_checkpoint_aborted`.
//!
//! # An end
//!
//! When every reader has said `Finished`, or a stop is asked for: a last checkpoint, whose flush has `end` set and after which nothing is
//! read; its commits; [`SourceReader::settle_commits`]. After a failure: [`Writer::abort`], as well as possible. A life that ends anywhere
//! without any of this loses nothing: the next one's [`recover`] settles it.

pub use crate::runtime::{Recovered, commit, names, recover};
pub use crate::sink::writer::{Writer, WriterContext};
pub use crate::source::{Enumerator, KafkaSource, SourceReader, resolve_offsets, run_discovery};
