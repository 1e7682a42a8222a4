//! The source: finds partitions, reads them, and knows where it is.
//!
//! [`KafkaSource`] describes what to read. Its [`enumerator::Enumerator`] (one per job) finds partitions and deals them to
//! [`SourceReader`]s (one per subtask), which hand out elements and watermarks, and whose positions go into checkpoints.

pub mod assign;
pub mod builder;
pub mod commit_mode;
pub mod dead_letter;
pub mod discover;
pub mod enumerator;
pub mod enumerator_state;
pub mod flink;
pub mod policy;
pub mod reader;
mod reader_metrics;
pub mod split;
pub mod start;
pub mod subscription;

mod cursor;
mod fetching;
#[cfg(test)]
pub(crate) mod model;
mod pieces;
mod properties;

pub use assign::{Assign, Assigner, Load};
pub use builder::{KafkaSource, KafkaSourceBuilder};
pub use commit_mode::CommitMode;
pub use discover::{resolve_offsets, run_discovery};
pub use enumerator::{
    Command, Discovered, DiscoveredPartition, Enumerator, EnumeratorConfig, EnumeratorMetrics,
    ResolveRequest, Resolved, StartRule,
};
pub use enumerator_state::{EnumeratorState, StoredStart, UnresolvedSplit};
pub use policy::{
    Discovery, DiscoveryRetry, OnOutOfRange, RecreatedTopic, RemovedAction, RemovedPartition,
    UnsubscribedPartition,
};
pub use reader::{Batch, ReaderEvent, SourceReader, Unread};
pub use reader_metrics::{LiveMetrics, ReaderMetrics, SourceMetrics, SplitMetrics};
pub use split::{Split, TopicId};
pub use start::{OffsetReset, StartFrom, StopAt};
pub use subscription::{Pattern, Subscriber, Subscription};
