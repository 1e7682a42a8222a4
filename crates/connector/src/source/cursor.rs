//! The cursor of one split: how far the handing out is, what is at hand of it, and why it is not read. Pure.
//!
//! What is fetched when is the consumer's business (`milena::Consumer`); a cursor knows what of it was handed out.

use std::time::{Duration, Instant};

use milena::{Error, LeaderEpoch, Offset, PartitionRecords, TopicPartition};

use super::split::Split;

/// One split being read.
#[derive(Debug)]
pub(super) struct Cursor {
    /// What goes into a checkpoint: behind the last element handed out.
    pub(super) split: Split,
    /// Who has to do something with it next.
    pub(super) state: CursorState,
    /// The end as the last answer gave it.
    pub(super) end: Option<Offset>,
    /// It waits for others of its alignment group: neither fetched nor handed out.
    pub(super) paused: bool,
    /// What was taken from the consumer and is being handed out, batch by batch.
    pub(super) part: Option<PartitionRecords>,
    failures: u32,
}

/// Who has to do something with a cursor next.
#[derive(Debug)]
pub(super) enum CursorState {
    /// The consumer, which fetches it and knows more.
    Reading,
    /// The consumer gave it up, for this reason. It counts once all that was fetched before is handed out.
    Stopped(Error),
    /// Nobody before this time, because of that; then the consumer is asked again.
    Waiting { until: Instant, why: String },
    /// Its position is being compared with what the broker has.
    Checking,
    /// Nobody: it is at its stop.
    Drained,
}

impl Cursor {
    pub(super) fn new(split: Split) -> Self {
        let state = if split.is_finished() { CursorState::Drained } else { CursorState::Reading };
        Self { split, state, end: None, paused: false, part: None, failures: 0 }
    }

    pub(super) fn topic_partition(&self) -> &TopicPartition {
        &self.split.topic_partition
    }

    /// Records came.
    pub(super) fn on_records(&mut self, end: Option<Offset>) {
        self.failures = 0;
        self.end = end.or(self.end);
    }

    /// Nothing is left in the log: what there is up to its end was handed out. Where the split stands now, if that is news: at its stop,
    /// where compaction left nothing to be read before it.
    pub(super) fn on_end(&mut self, end: Option<Offset>) -> Option<Offset> {
        self.on_records(end);
        let stop = self.split.stop.filter(|stop| end.is_some_and(|end| *stop <= end))?;
        (self.split.next_offset < stop).then_some(stop)
    }

    /// It could not be read: not again before a delay that grows with each failure in a row. Returns how many there were.
    pub(super) fn handle_failure(&mut self, now: Instant, why: String) -> u32 {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        let delay = FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY);
        self.state = CursorState::Waiting { until: now.checked_add(delay).unwrap_or(now), why };
        self.failures
    }

    /// Goes on at another offset; what was fetched is dropped.
    pub(super) fn reset(&mut self, to: Offset) {
        self.part = None;
        self.split.next_offset = to;
        self.split.leader_epoch = None;
        self.state = if self.split.is_finished() { CursorState::Drained } else { CursorState::Reading };
    }

    /// The topic is another one under the same name: nothing of what was fetched counts. `anew`: and neither does the position, so the log
    /// is asked for its range.
    pub(super) fn start_over(&mut self, anew: bool) {
        self.part = None;
        self.end = None;
        self.split.leader_epoch = None;
        self.state = if anew { CursorState::Checking } else { CursorState::Reading };
    }

    /// Ends the split at an offset: nothing at or behind it is handed out.
    pub(super) fn end_at(&mut self, stop: Offset) {
        self.split.stop = Some(stop);
        self.part = None;
        self.state = CursorState::Drained;
    }

    /// When a wait ends, if it waits.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.state {
            CursorState::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// How the position moves over what may not be seen, up to an offset.
    pub(super) fn skip_to(&self, next_offset: Offset, leader_epoch: Option<LeaderEpoch>) -> Advance {
        let next_offset = self.split.stop.map_or(next_offset, |stop| stop.min(next_offset));
        Advance { next_offset, leader_epoch, max_timestamp: None }
    }

    /// Elements up to this offset were handed out.
    pub(super) fn advance(&mut self, advance: Advance) {
        self.split.next_offset = self.split.next_offset.max(advance.next_offset);
        if let Some(epoch) = advance.leader_epoch {
            self.split.leader_epoch = Some(epoch);
        }
        self.split.max_timestamp = self.split.max_timestamp.max(advance.max_timestamp);
    }
}

/// How a position moves when elements are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advance {
    pub(super) next_offset: Offset,
    pub(super) leader_epoch: Option<LeaderEpoch>,
    pub(super) max_timestamp: Option<i64>,
}

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use milena::PartitionId;

    fn cursor(next: i64, stop: Option<i64>) -> Cursor {
        let split = Split::new(TopicPartition::new("t", PartitionId(0)), Offset(next));
        Cursor::new(split.with_stop(stop.map(Offset)))
    }

    /// C23, FLINK-34470: no record at or behind the stop ever comes, only control records.
    // scenario: 5.4.9
    #[test]
    fn a_tail_of_control_records_ends_the_split() {
        let mut cursor = cursor(5, Some(9));
        let behind = cursor.skip_to(Offset(12), Some(LeaderEpoch(3)));
        assert_eq!((behind.next_offset, cursor.split.is_finished()), (Offset(9), false));
        cursor.advance(behind);
        assert!(cursor.split.is_finished());
    }

    /// C23: what compaction removed at the tail never comes.
    #[test]
    fn a_gap_that_compaction_left_at_the_tail_ends_the_split() {
        let mut cursor = cursor(5, Some(9));
        assert_eq!(cursor.on_end(Some(Offset(9))), Some(Offset(9)));
        cursor.advance(cursor.skip_to(Offset(9), None));
        assert!(cursor.split.is_finished());
        assert_eq!(cursor.on_end(Some(Offset(9))), None, "that is no news");
    }

    /// A stop beyond the end (an open transaction before it) is waited for, not guessed.
    #[test]
    fn a_stop_beyond_the_end_is_waited_for() {
        let mut cursor = cursor(5, Some(9));
        assert_eq!(cursor.on_end(Some(Offset(8))), None);
        assert_eq!(cursor.on_end(None), None);
        assert_eq!(cursor.end, Some(Offset(8)));
    }

    #[test]
    fn delays_grow_and_records_end_them() {
        let mut now = Instant::now();
        let mut cursor = cursor(0, None);
        let mut last = Duration::ZERO;
        for failures in 1..10 {
            assert_eq!(cursor.handle_failure(now, "x".to_owned()), failures);
            let until = cursor.waits_until().expect("a wait");
            assert!(until - now >= last && until - now <= LONGEST_DELAY);
            last = until - now;
            now = until;
        }
        assert_eq!(last, LONGEST_DELAY);
        cursor.on_records(None);
        assert_eq!(cursor.handle_failure(now, "x".to_owned()), 1);
    }

    #[test]
    fn an_empty_split_is_never_fetched() {
        assert!(matches!(cursor(5, Some(5)).state, CursorState::Drained));
        assert!(matches!(cursor(5, Some(3)).state, CursorState::Drained));
    }
}
