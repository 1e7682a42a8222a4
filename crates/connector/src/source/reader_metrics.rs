//! What a reader counts, and where its splits stand.

use std::sync::{Arc, Mutex, PoisonError};

use milena::{BrokerId, Offset, TopicPartition};
use serde::Serialize;

use crate::progress::CommitMetrics;

/// The counters of a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReaderMetrics {
    /// Records read.
    pub records: u64,
    /// Bytes that came, before decompression: with records that may not be seen, and pieces of batches that did not fit into an answer.
    pub bytes: u64,
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

/// What the readers of a source and its enumerator count, in sum: one number for each policy that lets a job go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceMetrics {
    /// Bytes that came, before decompression: with records that may not be seen, and pieces of batches that did not fit into an answer.
    pub bytes: u64,
    /// Records left out because the deserializer refused them.
    pub skipped_records: u64,
    /// Records written to the dead-letter topic.
    pub dead_letters: u64,
    /// Positions moved because the log did not hold them any more.
    pub resets: u64,
    /// Offsets passed over by that.
    pub lost_offsets: u64,
    /// Logs found to hold other records than were read of them.
    pub truncations: u64,
    /// Partitions whose topic was found created again.
    pub recreated: u64,
    /// Partitions dropped because they disappeared or are not subscribed any more.
    pub dropped_partitions: u64,
    /// Partitions that are gone and waited for.
    pub waited_for_partitions: u64,
    /// Restored partitions that are read though they are not subscribed any more.
    pub unsubscribed_partitions: u64,
    /// Discoveries that failed.
    pub failed_discoveries: u64,
    /// Offsets committed to the group, by request.
    pub commits_succeeded: u64,
    /// Tries to commit that failed.
    pub commits_failed: u64,
    /// Committed offsets that somebody else had moved.
    pub foreign_commits: u64,
    /// Records between positions and ends, as far as those are known.
    pub pending_records: u64,
    /// Bytes fetched and not handed out.
    pub buffered_bytes: u64,
    /// Partitions being read.
    pub partitions: u64,
    /// Of them, those that are idle.
    pub idle_partitions: u64,
    /// Of them, those that wait for their alignment group.
    pub paused_partitions: u64,
}

impl SourceMetrics {
    /// Adds the numbers of another reader.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.bytes, other.bytes),
            (&mut self.skipped_records, other.skipped_records),
            (&mut self.dead_letters, other.dead_letters),
            (&mut self.resets, other.resets),
            (&mut self.lost_offsets, other.lost_offsets),
            (&mut self.truncations, other.truncations),
            (&mut self.recreated, other.recreated),
            (&mut self.dropped_partitions, other.dropped_partitions),
            (&mut self.waited_for_partitions, other.waited_for_partitions),
            (&mut self.unsubscribed_partitions, other.unsubscribed_partitions),
            (&mut self.failed_discoveries, other.failed_discoveries),
            (&mut self.commits_succeeded, other.commits_succeeded),
            (&mut self.commits_failed, other.commits_failed),
            (&mut self.foreign_commits, other.foreign_commits),
            (&mut self.pending_records, other.pending_records),
            (&mut self.buffered_bytes, other.buffered_bytes),
            (&mut self.partitions, other.partitions),
            (&mut self.idle_partitions, other.idle_partitions),
            (&mut self.paused_partitions, other.paused_partitions),
        ] {
            *sum += more;
        }
    }
}

/// The newest numbers of a reader, to be looked at from elsewhere while it reads; they are at most a tick old.
#[derive(Clone, Debug, Default)]
pub struct LiveMetrics(Arc<Mutex<Live>>);

#[derive(Debug, Default)]
struct Live {
    sum: SourceMetrics,
    splits: Vec<SplitMetrics>,
}

impl LiveMetrics {
    /// The numbers.
    #[must_use]
    pub fn read(&self) -> SourceMetrics {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sum
    }

    /// Where each split stands.
    #[must_use]
    pub fn splits(&self) -> Vec<SplitMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).splits.clone()
    }

    pub(super) fn set(&self, metrics: ReaderMetrics) {
        let live = Live { sum: metrics.summary(), splits: metrics.splits };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = live;
    }
}

impl ReaderMetrics {
    /// The sums over the splits, without what only an enumerator knows.
    #[must_use]
    pub fn summary(&self) -> SourceMetrics {
        let count =
            |holds: fn(&SplitMetrics) -> bool| self.splits.iter().filter(|split| holds(split)).count() as u64;
        SourceMetrics {
            bytes: self.bytes,
            skipped_records: self.skipped_records,
            dead_letters: self.dead_letters,
            resets: self.resets,
            lost_offsets: self.lost_offsets,
            truncations: self.truncations,
            recreated: self.recreated,
            commits_succeeded: self.commits.succeeded,
            commits_failed: self.commits.failed,
            foreign_commits: self.foreign_commits,
            pending_records: self.pending_records(),
            buffered_bytes: self.buffered_bytes as u64,
            partitions: self.splits.len() as u64,
            idle_partitions: count(|split| split.idle),
            paused_partitions: count(|split| split.paused),
            ..SourceMetrics::default()
        }
    }

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
    /// The broker that is being asked for its records: the leader, or a replica in the reader's rack.
    pub read_from: Option<BrokerId>,
    /// Why it is not being fetched; `None` if it is.
    pub waits_for: Option<String>,
    /// Its own watermark.
    pub watermark: Option<i64>,
    /// Whether it holds back nothing.
    pub idle: bool,
    /// Whether it waits for others of its alignment group.
    pub paused: bool,
}
