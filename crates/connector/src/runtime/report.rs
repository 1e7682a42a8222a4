//! The numbers of a job: live ones while it runs, and the report at its end.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::checkpoint::CheckpointId;
use crate::contract::SinkWriter;
use crate::sink::OutcomeCounts;
use crate::source::{LiveMetrics, SourceMetrics, SplitMetrics};

/// What a job is doing now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JobMetrics {
    /// Records read.
    pub records_in: u64,
    /// Records handed to the producer.
    pub records_out: u64,
    /// Bytes of their keys, values and headers.
    pub bytes_out: u64,
    /// Checkpoints completed in this run.
    pub checkpoints: u64,
    /// The newest complete checkpoint.
    pub last_checkpoint: Option<CheckpointId>,
    /// The job's watermark in it: that of its positions, not of what was read since.
    pub checkpoint_watermark: Option<i64>,
    /// How long it took, from the barrier to the disk.
    #[serde(serialize_with = "milliseconds_opt")]
    pub last_checkpoint_took: Option<Duration>,
    /// Checkpoints given up because they took too long.
    pub expired_checkpoints: u64,
    /// The checkpoint this run began from.
    pub restored_from: Option<CheckpointId>,
    /// Transactions committed, those of the restored checkpoint included.
    pub committed_transactions: u64,
    /// Prepared transactions that are lost or not accounted for, where the policy is to go on.
    pub lost_transactions: u64,
    /// How the commits of prepared transactions ended, those of the restored checkpoint included, each outcome by itself.
    pub outcomes: OutcomeCounts,
    /// Leftovers of an earlier run that were aborted at the start.
    pub aborted_lingering: u64,
    /// How long the oldest unfinished transaction still has before its broker aborts it; `None` while there is none.
    #[serde(serialize_with = "milliseconds_opt")]
    pub transaction_time_left: Option<Duration>,
    /// Prepared transactions that wait for their commit.
    pub pending_commits: u64,
    /// The job's watermark in milliseconds: the smallest of the subtasks that are not idle. Never goes back, not even over a
    /// restart from a checkpoint.
    pub watermark: Option<i64>,
    /// What the source counts: what it left out, reset, dropped, committed, and how far it is behind.
    pub source: SourceMetrics,
    /// The partitions that are being read, in order: position, end, committed offset, watermark, and what each waits for. At most a tick
    /// old, and not in the report's JSON.
    #[serde(skip)]
    pub partitions: Vec<SplitMetrics>,
    /// The subtasks.
    pub subtasks: Vec<SubtaskMetrics>,
    /// The next offset of each partition at the newest complete checkpoint, by `topic-partition`.
    pub offsets: BTreeMap<String, i64>,
    /// Elements that came too late for a function, in this run.
    pub late_records: u64,
    /// How often this run restarted by itself.
    pub restarts: u32,
    /// How long this run has lasted.
    #[serde(serialize_with = "milliseconds")]
    pub elapsed: Duration,
}

impl JobMetrics {
    /// How far the watermark is behind this time, both in milliseconds since 1970. Flink: `watermarkLag`.
    #[must_use]
    pub fn watermark_lag(&self, now_ms: i64) -> Option<i64> {
        self.watermark.map(|watermark| now_ms.saturating_sub(watermark))
    }
}

/// What a subtask is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SubtaskMetrics {
    /// Records read.
    pub records_in: u64,
    /// Records handed to the producer.
    pub records_out: u64,
    /// Records left out because they can't be written.
    pub records_dropped: u64,
    /// Records written to the dead-letter topic instead.
    pub dead_letters: u64,
    /// Elements that came too late for a function: dropped or diverted by it.
    pub late_records: u64,
    /// Its watermark in milliseconds.
    pub watermark: Option<i64>,
    /// Whether none of its partitions has anything to say about time.
    pub idle: bool,
    /// Whether it has read all it will ever get.
    pub finished: bool,
}

/// What a job did, at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JobReport {
    /// The job's name.
    pub job: String,
    /// How many subtasks it had.
    pub parallelism: u32,
    /// Newer checkpoint files that were damaged and not used; output after the restored one may have been written twice.
    pub damaged_checkpoints: Vec<String>,
    /// The last numbers.
    #[serde(flatten)]
    pub metrics: JobMetrics,
}

impl std::ops::Deref for JobReport {
    type Target = JobMetrics;

    fn deref(&self) -> &JobMetrics {
        &self.metrics
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn milliseconds_opt<S: Serializer>(duration: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, out),
        None => out.serialize_none(),
    }
}

/// What a subtask writes and the coordinator reads, without either waiting.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) records_in: AtomicU64,
    pub(super) records_out: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    records_dropped: AtomicU64,
    dead_letters: AtomicU64,
    pub(super) late: AtomicU64,
    /// Where `open_since` counts from.
    origin: Instant,
    /// When the open transaction began, in milliseconds and one since `origin`; 0 while there is none.
    open_since: AtomicU64,
    watermark: AtomicI64,
    pub(super) idle: AtomicBool,
    pub(super) finished: AtomicBool,
    pub(super) source: OnceLock<LiveMetrics>,
}

/// No watermark yet. It stays inside this file.
const NO_WATERMARK: i64 = i64::MIN;

impl Gauges {
    pub(super) fn new() -> Self {
        Self {
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            records_dropped: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            late: AtomicU64::new(0),
            origin: Instant::now(),
            open_since: AtomicU64::new(0),
            watermark: AtomicI64::new(NO_WATERMARK),
            idle: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            source: OnceLock::new(),
        }
    }

    /// Raises the watermark; a lower one changes nothing.
    pub(super) fn raise_watermark(&self, to: i64) {
        self.watermark.fetch_max(to, Ordering::Relaxed);
    }

    /// Takes over what a writer knows.
    pub(super) fn take_from<T>(&self, writer: &impl SinkWriter<T>) {
        let counts = writer.counts();
        self.bytes_out.store(counts.bytes, Ordering::Relaxed);
        self.records_dropped.store(counts.dropped, Ordering::Relaxed);
        self.dead_letters.store(counts.dead_letters, Ordering::Relaxed);
        let since = writer.open_since().map(|since| since.saturating_duration_since(self.origin).as_millis());
        let since = since.map_or(0, |since| u64::try_from(since).unwrap_or(u64::MAX - 1) + 1);
        self.open_since.store(since, Ordering::Relaxed);
    }

    /// How long a transaction has been open.
    pub(super) fn open_for(&self) -> Option<Duration> {
        let since = self.open_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    pub(super) fn read(&self) -> SubtaskMetrics {
        let watermark = self.watermark.load(Ordering::Relaxed);
        SubtaskMetrics {
            records_in: self.records_in.load(Ordering::Relaxed),
            records_out: self.records_out.load(Ordering::Relaxed),
            records_dropped: self.records_dropped.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            late_records: self.late.load(Ordering::Relaxed),
            watermark: (watermark != NO_WATERMARK).then_some(watermark),
            idle: self.idle.load(Ordering::Relaxed),
            finished: self.finished.load(Ordering::Relaxed),
        }
    }
}

/// The job's watermark after its subtasks stand where they stand: the smallest of those that are neither idle nor finished,
/// never below `before`. While one of them has none yet, it stays.
pub(super) fn job_watermark(before: Option<i64>, subtasks: &[SubtaskMetrics]) -> Option<i64> {
    let mut counted = subtasks.iter().filter(|subtask| !subtask.idle && !subtask.finished).peekable();
    if counted.peek().is_none() {
        // All that is left is idle or at its end: a finished subtask's last word still counts.
        let last =
            subtasks.iter().filter(|subtask| subtask.finished).filter_map(|subtask| subtask.watermark).min();
        let all_finished = subtasks.iter().all(|subtask| subtask.finished || subtask.watermark.is_none());
        return if all_finished { before.max(last) } else { before };
    }
    let smallest = counted.map(|subtask| subtask.watermark).min().flatten();
    before.max(smallest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(watermark: Option<i64>, idle: bool) -> SubtaskMetrics {
        SubtaskMetrics { watermark, idle, ..SubtaskMetrics::default() }
    }

    #[test]
    fn the_smallest_active_subtask_counts() {
        assert_eq!(job_watermark(None, &[at(Some(5), false), at(Some(3), false)]), Some(3));
        assert_eq!(job_watermark(None, &[at(Some(5), false), at(Some(3), true)]), Some(5));
        assert_eq!(job_watermark(None, &[at(Some(5), false), at(None, false)]), None);
        assert_eq!(job_watermark(Some(2), &[at(None, true)]), Some(2));
        assert_eq!(job_watermark(None, &[]), None);
    }

    #[test]
    fn it_never_goes_back() {
        assert_eq!(
            job_watermark(Some(9), &[at(Some(3), false)]),
            Some(9),
            "a restored job starts from its checkpoint's"
        );
        let gauges = Gauges::new();
        gauges.raise_watermark(7);
        gauges.raise_watermark(5);
        assert_eq!(gauges.read().watermark, Some(7));
    }
}
