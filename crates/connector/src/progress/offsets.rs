//! Offsets to commit to a consumer group: for monitoring and for starting other jobs, never for the job's own restore.
//!
//! Positions are remembered per checkpoint and committed when that checkpoint completes. One commit is under way at a time;
//! what completed last wins, so a group never sees an older position after a newer one. Failures are retried with growing
//! delays and counted; they never fail the job. Only the newest completed checkpoint is kept while commits fail.
//!
//! # References
//! Flink: `KafkaSourceReader#notifyCheckpointComplete`, FLINK-33231, FLINK-23686.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena::{LeaderEpoch, Offset, TopicPartition};

/// A position in a partition: the next offset to read, with the epoch of what was read before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the last record read.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A commit to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The checkpoint it belongs to.
    pub checkpoint: u64,
    /// What to commit.
    pub positions: BTreeMap<TopicPartition, Position>,
}

/// Counters of the commits of a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitMetrics {
    /// Commits the group coordinator confirmed.
    pub succeeded: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Completed checkpoints whose commit was left out because a newer one completed first.
    pub superseded: u64,
    /// Commits given up after the last retry.
    pub given_up: u64,
}

/// Decides what to commit and when.
#[derive(Debug)]
pub struct CommitQueue {
    pending: BTreeMap<u64, BTreeMap<TopicPartition, Position>>,
    state: State,
    newest: Option<u64>,
    committed: BTreeMap<TopicPartition, Position>,
    retry: CommitRetry,
    metrics: CommitMetrics,
}

/// How often and how soon a failed commit is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRetry {
    /// Retries of one commit before it is given up until the next checkpoint. Default 10.
    pub limit: u32,
    /// The first delay; it doubles with each failure. Default 200 ms.
    pub initial: Duration,
    /// The longest delay. Default 10 s.
    pub longest: Duration,
}

impl Default for CommitRetry {
    fn default() -> Self {
        Self { limit: 10, initial: Duration::from_millis(200), longest: Duration::from_secs(10) }
    }
}

#[derive(Debug)]
enum State {
    /// Nothing to do.
    Idle,
    /// A commit waits, after `failures` failed tries, for its time.
    Due { request: CommitRequest, failures: u32, at: Option<Instant> },
    /// A commit is under way; a newer one may wait behind it.
    Sent { request: CommitRequest, failures: u32, next: Option<CommitRequest> },
}

impl Default for CommitQueue {
    fn default() -> Self {
        Self::new(CommitRetry::default())
    }
}

impl CommitQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(retry: CommitRetry) -> Self {
        Self {
            pending: BTreeMap::new(),
            state: State::Idle,
            newest: None,
            committed: BTreeMap::new(),
            retry,
            metrics: CommitMetrics::default(),
        }
    }

    /// Remembers the positions of a checkpoint that is being taken.
    pub fn on_snapshot(&mut self, checkpoint: u64, positions: BTreeMap<TopicPartition, Position>) {
        self.pending.insert(checkpoint, positions);
    }

    /// A checkpoint failed: its positions are forgotten.
    pub fn on_aborted(&mut self, checkpoint: u64) {
        self.pending.remove(&checkpoint);
    }

    /// A checkpoint completed: its positions are due, and everything older is dropped. Unknown, repeated and outrun checkpoints
    /// change nothing.
    pub fn on_complete(&mut self, checkpoint: u64) {
        let Some(positions) = self.pending.remove(&checkpoint) else {
            return;
        };
        self.pending = self.pending.split_off(&checkpoint);
        if self.newest.is_some_and(|newest| newest >= checkpoint) {
            return;
        }
        self.newest = Some(checkpoint);
        let request = CommitRequest { checkpoint, positions };
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => State::Due { request, failures: 0, at: None },
            State::Due { failures, at, .. } => {
                self.metrics.superseded += 1;
                State::Due { request, failures, at }
            }
            State::Sent { request: sent, failures, next } => {
                self.metrics.superseded += u64::from(next.is_some());
                State::Sent { request: sent, failures, next: Some(request) }
            }
        };
    }

    /// The commit to send now, if one is due and none is under way. Positions that the group already has are left out; a commit
    /// of which nothing is left is not sent.
    pub fn poll_commit(&mut self, now: Instant) -> Option<CommitRequest> {
        let State::Due { request, failures, at } = &mut self.state else {
            return None;
        };
        if at.is_some_and(|at| at > now) {
            return None;
        }
        request.positions.retain(|partition, position| self.committed.get(partition) != Some(position));
        if request.positions.is_empty() {
            self.state = State::Idle;
            return None;
        }
        let (request, failures) = (request.clone(), *failures);
        self.state = State::Sent { request: request.clone(), failures, next: None };
        Some(request)
    }

    /// When [`CommitQueue::poll_commit`] is worth asking again, if a retry waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Due { at, .. } => *at,
            State::Idle | State::Sent { .. } => None,
        }
    }

    /// Whether nothing is due or under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The commit under way succeeded. Returns what the group now has for its partitions.
    pub fn handle_committed(&mut self) -> Option<CommitRequest> {
        let State::Sent { request, next, .. } = std::mem::replace(&mut self.state, State::Idle) else {
            return None;
        };
        self.metrics.succeeded += 1;
        self.committed
            .extend(request.positions.iter().map(|(partition, position)| (partition.clone(), *position)));
        if let Some(request) = next {
            self.state = State::Due { request, failures: 0, at: None };
        }
        Some(request)
    }

    /// The commit under way failed. It is tried again later, or the newer one that waits instead of it; after the limit it is
    /// given up.
    pub fn handle_failed(&mut self, now: Instant) {
        let State::Sent { request, failures, next } = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        self.metrics.failed += 1;
        if next.is_some() {
            self.metrics.superseded += 1;
        }
        let failures = failures.saturating_add(1);
        if failures > self.retry.limit && next.is_none() {
            self.metrics.given_up += 1;
            return;
        }
        let doubled = self.retry.initial.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        let at = now.checked_add(doubled.min(self.retry.longest));
        self.state = State::Due { request: next.unwrap_or(request), failures, at };
    }

    /// What the group is known to have.
    #[must_use]
    pub fn committed(&self) -> &BTreeMap<TopicPartition, Position> {
        &self.committed
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> CommitMetrics {
        self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::PartitionId;
    use proptest::prelude::*;

    fn at(offset: i64) -> BTreeMap<TopicPartition, Position> {
        let position = Position { offset: Offset(offset), leader_epoch: None };
        BTreeMap::from([(TopicPartition::new("t", PartitionId(0)), position)])
    }

    fn sent(queue: &mut CommitQueue, now: Instant) -> Option<u64> {
        queue.poll_commit(now).map(|request| request.checkpoint)
    }

    /// C16, C18, C19: what completed last wins, one commit at a time, and unknown checkpoints change nothing.
    // scenario: 5.2.12, 5.8.12
    #[test]
    fn the_newest_completed_checkpoint_wins_and_commits_never_overlap() {
        let now = Instant::now();
        let mut queue = CommitQueue::default();
        for checkpoint in 1..=4 {
            queue.on_snapshot(checkpoint, at(checkpoint as i64));
        }
        queue.on_complete(9);
        assert_eq!(sent(&mut queue, now), None);
        queue.on_complete(1);
        assert_eq!(sent(&mut queue, now), Some(1));
        queue.on_complete(2);
        queue.on_complete(3);
        assert_eq!(sent(&mut queue, now), None, "one is under way");
        queue.handle_committed();
        assert_eq!(sent(&mut queue, now), Some(3));
        queue.handle_committed();
        queue.on_complete(2);
        assert_eq!(sent(&mut queue, now), None, "an outrun checkpoint is not committed after a newer one");
        assert_eq!(
            queue.metrics(),
            CommitMetrics { succeeded: 2, superseded: 1, ..CommitMetrics::default() }
        );
    }

    /// C15, D46: failures are retried with growing delays, and pending positions don't pile up meanwhile.
    // scenario: D46
    #[test]
    fn a_failed_commit_is_retried_later_and_only_so_often() {
        let now = Instant::now();
        let retry = CommitRetry {
            limit: 2,
            initial: Duration::from_millis(100),
            longest: Duration::from_millis(150),
        };
        let mut queue = CommitQueue::new(retry);
        queue.on_snapshot(1, at(1));
        queue.on_complete(1);
        assert_eq!(sent(&mut queue, now), Some(1));
        queue.handle_failed(now);
        assert_eq!(sent(&mut queue, now), None);
        assert_eq!(queue.next_deadline(), Some(now + Duration::from_millis(100)));
        let now = now + Duration::from_millis(100);
        assert_eq!(sent(&mut queue, now), Some(1));
        queue.handle_failed(now);
        assert_eq!(queue.next_deadline(), Some(now + Duration::from_millis(150)));
        let now = now + Duration::from_millis(150);
        assert_eq!(sent(&mut queue, now), Some(1));
        queue.handle_failed(now);
        assert!(queue.is_idle());
        assert_eq!((queue.metrics().failed, queue.metrics().given_up), (3, 1));
        queue.on_snapshot(2, at(2));
        queue.on_complete(2);
        assert_eq!(sent(&mut queue, now), Some(2), "the next checkpoint starts afresh");
    }

    /// C17: positions of an aborted checkpoint are never committed.
    #[test]
    fn an_aborted_checkpoint_leaves_nothing_behind() {
        let mut queue = CommitQueue::default();
        queue.on_snapshot(1, at(1));
        queue.on_aborted(1);
        queue.on_complete(1);
        assert!(queue.is_idle());
    }

    #[test]
    fn positions_the_group_has_are_not_sent_again() {
        let now = Instant::now();
        let mut queue = CommitQueue::default();
        for checkpoint in [1, 2] {
            queue.on_snapshot(checkpoint, at(5));
            queue.on_complete(checkpoint);
            let _ = sent(&mut queue, now);
            queue.handle_committed();
        }
        assert_eq!(queue.metrics().succeeded, 1);
        assert!(queue.is_idle());
    }

    proptest! {
        /// Whatever completes, fails and succeeds in whatever order: positions sent never decrease.
        // scenario: 5.8.12
        #[test]
        fn no_older_position_follows_a_newer_one(steps in proptest::collection::vec((0..5_u8, 1..20_u64), 0..80)) {
            let mut queue = CommitQueue::default();
            let mut now = Instant::now();
            let mut last = 0;
            let mut taken = 0;
            for (what, number) in steps {
                now += Duration::from_millis(300 * number);
                match what {
                    0 => { taken += 1; queue.on_snapshot(taken, at(taken as i64)); }
                    1 => queue.on_complete(number),
                    2 => queue.handle_failed(now),
                    3 => { queue.handle_committed(); }
                    _ => queue.on_aborted(number),
                }
                if let Some(request) = queue.poll_commit(now) {
                    let offset = request.positions.values().next().unwrap().offset.0;
                    prop_assert!(offset >= last, "{} after {}", offset, last);
                    last = offset;
                }
            }
        }
    }
}
