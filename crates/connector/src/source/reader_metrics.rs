//! What a reader counts, and where its splits stand.

use milena::{Offset, TopicPartition};

use crate::progress::CommitMetrics;

/// The counters of a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReaderMetrics {
    /// Records read.
    pub records: u64,
    /// Records left out because the deserializer refused them.
    pub skipped_records: u64,
    /// Positions moved because the log did not hold them any more.
    pub resets: u64,
    /// Bytes fetched and not handed out.
    pub buffered_bytes: usize,
    /// Offsets committed to the group.
    pub commits: CommitMetrics,
    /// The splits.
    pub splits: Vec<SplitMetrics>,
}

/// Where a split stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitMetrics {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// The next offset to hand out.
    pub position: Offset,
    /// The end as the last answer gave it: the last stable offset when only committed records are read.
    pub end: Option<Offset>,
    /// Why it is not being fetched; `None` if it is.
    pub waits_for: Option<String>,
    /// Its own watermark.
    pub watermark: Option<i64>,
    /// Whether it holds back nothing.
    pub idle: bool,
}
