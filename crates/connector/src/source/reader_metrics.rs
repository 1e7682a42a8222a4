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
    /// Records written to the dead-letter topic because the deserializer refused them.
    pub dead_letters: u64,
    /// Positions moved because the log did not hold them any more.
    pub resets: u64,
    /// Offsets between those positions and where reading went on: records that were never read, if there were any.
    pub lost_offsets: u64,
    /// Logs that hold other records than were read of them, after an unclean election.
    pub truncations: u64,
    /// Partitions whose topic was found created again, and that are read on as the policy says.
    pub recreated: u64,
    /// Committed offsets that somebody else had moved.
    pub foreign_commits: u64,
    /// The combined watermark, in milliseconds.
    pub watermark: Option<i64>,
    /// Bytes fetched and not handed out.
    pub buffered_bytes: usize,
    /// Offsets committed to the group.
    pub commits: CommitMetrics,
    /// The splits.
    pub splits: Vec<SplitMetrics>,
}

impl ReaderMetrics {
    /// Records between the positions and the ends, as far as those are known. Flink: `pendingRecords`.
    #[must_use]
    pub fn pending_records(&self) -> u64 {
        self.splits.iter().filter_map(SplitMetrics::lag).sum()
    }

    /// How far the watermark is behind this time, in milliseconds. Flink: `watermarkLag`.
    #[must_use]
    pub fn watermark_lag(&self, now_ms: i64) -> Option<i64> {
        self.watermark.map(|watermark| now_ms.saturating_sub(watermark))
    }
}

impl SplitMetrics {
    /// Offsets between the position and the end: 0 when it is read to the end, control records included.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.end.map(|end| u64::try_from(end.0 - self.position.0).unwrap_or(0))
    }
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
    /// What this reader has committed of it.
    pub committed: Option<Offset>,
    /// Why it is not being fetched; `None` if it is.
    pub waits_for: Option<String>,
    /// Its own watermark.
    pub watermark: Option<i64>,
    /// Whether it holds back nothing.
    pub idle: bool,
    /// Whether it waits for others of its alignment group.
    pub paused: bool,
}
