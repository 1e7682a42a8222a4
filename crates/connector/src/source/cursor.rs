//! The cursor of one split: what to fetch next, what is fetched and not handed out, and how far the handing out is. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use milena::protocol::records::RecordBatch;
use milena::{Offset, TopicPartition};

use super::split::Split;

/// One split being read.
#[derive(Debug)]
pub(super) struct Cursor {
    /// What goes into a checkpoint: behind the last element handed out.
    pub(super) split: Split,
    /// What the fetch loop does with it.
    pub(super) state: CursorState,
    /// The end as the last answer gave it.
    pub(super) end: Option<Offset>,
    /// It waits for others of its alignment group: neither fetched nor handed out.
    pub(super) paused: bool,
    fetch_offset: Offset,
    buffered: VecDeque<Chunk>,
    buffered_bytes: usize,
    failures: u32,
    empty_answers: u32,
}

/// What the fetch loop does with a cursor. A split that isn't being fetched says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CursorState {
    /// The next request to its leader takes it along.
    Ready,
    /// A request is under way.
    InFlight,
    /// Not before this time, because of that.
    Waiting { until: Instant, why: String },
    /// Its position is being compared with what the broker has.
    Checking,
    /// Everything up to its stop is fetched.
    Drained,
}

/// The visible batches of one fetch answer.
#[derive(Debug)]
struct Chunk {
    batches: VecDeque<RecordBatch>,
    /// The position behind all of it, also behind what is not visible.
    next_offset: Offset,
}

/// The next piece of fetched data.
#[derive(Debug)]
pub(super) enum Piece {
    /// A batch with records.
    Batch(RecordBatch),
    /// Nothing visible up to this offset: control records, aborted records, a gap.
    Skipped(Offset),
}

/// What an answer meant for a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Data came, or there is more.
    Behind,
    /// Nothing is left to read.
    CaughtUp,
    /// Nothing came, though there should be more: not known yet whether there is.
    Unclear,
}

impl Cursor {
    pub(super) fn new(split: Split) -> Self {
        let fetch_offset = split.next_offset;
        let state = if split.is_finished() { CursorState::Drained } else { CursorState::Ready };
        Self {
            split,
            state,
            end: None,
            paused: false,
            fetch_offset,
            buffered: VecDeque::new(),
            buffered_bytes: 0,
            failures: 0,
            empty_answers: 0,
        }
    }

    pub(super) fn topic_partition(&self) -> &TopicPartition {
        &self.split.topic_partition
    }

    /// The offset the next request asks for.
    pub(super) fn fetch_offset(&self) -> Offset {
        self.fetch_offset
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    pub(super) fn has_buffered(&self) -> bool {
        !self.buffered.is_empty()
    }

    /// Takes an answer without error. `alone` says that no partition of the same answer had data, so that an empty one is not due
    /// to the answer's size.
    pub(super) fn handle_answer(
        &mut self,
        batches: VecDeque<RecordBatch>,
        next_offset: Offset,
        received: bool,
        end: Offset,
        alone: bool,
    ) -> Answered {
        self.failures = 0;
        self.end = Some(end);
        self.state = CursorState::Ready;
        if received {
            self.empty_answers = 0;
            self.fetch_offset = self.fetch_offset.max(next_offset);
            self.buffered_bytes += batches.iter().map(RecordBatch::len_bytes).sum::<usize>();
            self.buffered.push_back(Chunk { batches, next_offset });
        } else if self.fetch_offset < end && alone {
            self.empty_answers = self.empty_answers.saturating_add(1);
        }
        let gap = !received && self.empty_answers >= EMPTY_ANSWERS;
        let stop = self.split.stop;
        if gap && let Some(stop) = stop.filter(|stop| *stop <= end) {
            self.fetch_offset = self.fetch_offset.max(stop);
            self.buffered.push_back(Chunk { batches: VecDeque::new(), next_offset: stop });
        }
        if stop.is_some_and(|stop| self.fetch_offset >= stop) {
            self.state = CursorState::Drained;
        }
        if received {
            Answered::Behind
        } else if self.fetch_offset >= end || gap {
            Answered::CaughtUp
        } else {
            Answered::Unclear
        }
    }

    /// A request failed: not again before a delay that grows with each failure in a row. Returns how many there were.
    pub(super) fn handle_failure(&mut self, now: Instant, why: String) -> u32 {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        let delay = FIRST_DELAY.saturating_mul(factor).min(LONGEST_DELAY);
        self.state = CursorState::Waiting { until: now.checked_add(delay).unwrap_or(now), why };
        self.failures
    }

    /// Goes on at another offset; what was fetched is dropped.
    pub(super) fn reset(&mut self, to: Offset) {
        self.buffered.clear();
        self.buffered_bytes = 0;
        self.fetch_offset = to;
        self.split.next_offset = to;
        self.split.leader_epoch = None;
        self.state = if self.split.is_finished() { CursorState::Drained } else { CursorState::Ready };
    }

    /// The topic is another one under the same name: nothing of what was fetched or read counts, and the log is asked for its range.
    pub(super) fn start_over(&mut self) {
        self.buffered.clear();
        self.buffered_bytes = 0;
        self.end = None;
        self.split.leader_epoch = None;
        self.state = CursorState::Checking;
    }

    /// Fetches again from the position: what was fetched behind it is dropped, and so is an answer under way.
    pub(super) fn rewind(&mut self) {
        self.buffered.clear();
        self.buffered_bytes = 0;
        self.fetch_offset = self.split.next_offset;
        if self.state != CursorState::InFlight {
            self.state = if self.split.is_finished() { CursorState::Drained } else { CursorState::Ready };
        }
    }

    /// Whether an answer is the one that is waited for; one that comes after the position moved is not.
    pub(super) fn expects(&mut self, requested: Offset) -> bool {
        if self.state != CursorState::InFlight {
            return false;
        }
        if self.fetch_offset != requested {
            self.state = CursorState::Ready;
            return false;
        }
        true
    }

    /// Ends the split at an offset: nothing at or behind it is handed out.
    pub(super) fn end_at(&mut self, stop: Offset) {
        self.split.stop = Some(stop);
        self.buffered.clear();
        self.buffered_bytes = 0;
        self.state = CursorState::Drained;
    }

    /// A wait that is over.
    pub(super) fn wake(&mut self, now: Instant) {
        if matches!(self.state, CursorState::Waiting { until, .. } if until <= now) {
            self.state = CursorState::Ready;
        }
    }

    /// The next piece to hand out.
    pub(super) fn take_piece(&mut self) -> Option<Piece> {
        let chunk = self.buffered.front_mut()?;
        if let Some(batch) = chunk.batches.pop_front() {
            self.buffered_bytes = self.buffered_bytes.saturating_sub(batch.len_bytes());
            return Some(Piece::Batch(batch));
        }
        let next_offset = chunk.next_offset;
        self.buffered.pop_front();
        Some(Piece::Skipped(next_offset))
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
    pub(super) leader_epoch: Option<milena::LeaderEpoch>,
    pub(super) max_timestamp: Option<i64>,
}

/// Empty answers in a row, before the end, after which nothing is taken to be there: compaction removed the tail.
const EMPTY_ANSWERS: u32 = 2;
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

    fn empty(cursor: &mut Cursor, end: i64, alone: bool) -> Answered {
        let at = cursor.fetch_offset();
        cursor.handle_answer(VecDeque::new(), at, false, Offset(end), alone)
    }

    fn invisible(cursor: &mut Cursor, next: i64, end: i64) -> Answered {
        cursor.handle_answer(VecDeque::new(), Offset(next), true, Offset(end), false)
    }

    /// C23, FLINK-34470: no record at or behind the stop ever comes, only control records.
    // scenario: 5.4.9
    #[test]
    fn a_tail_of_control_records_ends_the_split() {
        let mut cursor = cursor(5, Some(9));
        assert_eq!(invisible(&mut cursor, 9, 9), Answered::Behind);
        assert_eq!(cursor.state, CursorState::Drained);
        assert!(!cursor.split.is_finished(), "not handed out yet");
        let Some(Piece::Skipped(next_offset)) = cursor.take_piece() else {
            panic!("a position behind the tail")
        };
        cursor.advance(Advance { next_offset, leader_epoch: None, max_timestamp: None });
        assert!(cursor.split.is_finished());
    }

    /// C23: what compaction removed at the tail never comes, so two answers that agree are taken for it.
    #[test]
    fn a_gap_that_compaction_left_at_the_tail_ends_the_split() {
        let mut cursor = cursor(5, Some(9));
        assert_eq!(empty(&mut cursor, 9, false), Answered::Unclear, "other partitions filled the answer");
        assert_eq!(empty(&mut cursor, 9, true), Answered::Unclear);
        assert_eq!(cursor.state, CursorState::Ready);
        assert_eq!(empty(&mut cursor, 9, true), Answered::CaughtUp);
        assert_eq!(cursor.state, CursorState::Drained);
        assert!(matches!(cursor.take_piece(), Some(Piece::Skipped(Offset(9)))));
    }

    /// A stop beyond the end (an open transaction before it) is waited for, not guessed.
    #[test]
    fn a_stop_beyond_the_end_is_waited_for() {
        let mut cursor = cursor(5, Some(9));
        for _ in 0..5 {
            assert_eq!(empty(&mut cursor, 5, true), Answered::CaughtUp);
            assert_eq!(cursor.state, CursorState::Ready);
        }
    }

    #[test]
    fn delays_grow_and_an_answer_ends_them() {
        let mut now = Instant::now();
        let mut cursor = cursor(0, None);
        let mut last = Duration::ZERO;
        for failures in 1..10 {
            assert_eq!(cursor.handle_failure(now, "x".to_owned()), failures);
            let CursorState::Waiting { until, .. } = cursor.state else { panic!("a wait") };
            assert!(until - now >= last && until - now <= LONGEST_DELAY);
            last = until - now;
            cursor.wake(now);
            assert_ne!(cursor.state, CursorState::Ready, "too early");
            now = until;
            cursor.wake(now);
            assert_eq!(cursor.state, CursorState::Ready);
        }
        assert_eq!(last, LONGEST_DELAY);
        empty(&mut cursor, 0, true);
        assert_eq!(cursor.handle_failure(now, "x".to_owned()), 1);
    }

    /// After an error the position counts, and an answer to an older question is not taken for the new one.
    #[test]
    fn a_rewound_cursor_asks_again_from_its_position() {
        let mut cursor = cursor(5, Some(9));
        cursor.state = CursorState::InFlight;
        assert_eq!(invisible(&mut cursor, 7, 20), Answered::Behind);
        cursor.state = CursorState::InFlight;
        cursor.rewind();
        assert_eq!((cursor.fetch_offset(), cursor.has_buffered()), (Offset(5), false));
        assert!(!cursor.expects(Offset(7)), "the answer to the older question");
        assert_eq!(cursor.state, CursorState::Ready, "and it is asked again");
        cursor.state = CursorState::InFlight;
        assert!(cursor.expects(Offset(5)));
        assert_eq!(invisible(&mut cursor, 9, 20), Answered::Behind);
        assert_eq!(cursor.state, CursorState::Drained);
        cursor.rewind();
        assert_eq!(cursor.state, CursorState::Ready, "what was fetched is gone");
    }

    #[test]
    fn an_empty_split_is_never_fetched() {
        assert_eq!(cursor(5, Some(5)).state, CursorState::Drained);
        assert_eq!(cursor(5, Some(3)).state, CursorState::Drained);
    }
}
