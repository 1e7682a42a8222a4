//! What the consumer of a reader does for one partition, as [`milena::Consumer`] does it with its `progress`: one request at a time, nothing
//! from the stop on, records in their order, and once told when nothing is left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use milena::Offset;
use milena::protocol::records::RecordBatch;

use super::Answer;

/// Records of a partition that one answer brought.
pub(super) struct Part {
    pub(super) batches: VecDeque<RecordBatch>,
    /// Where reading goes on behind them, and behind what may not be seen.
    pub(super) next: Offset,
}

/// Something that the reader may take.
pub(super) enum Ready {
    Records(Part),
    /// Nothing is left.
    End,
}

#[derive(Default)]
pub(super) struct Fetching {
    at: Offset,
    stop: Option<Offset>,
    in_flight: bool,
    /// Raised by a seek: answers to older requests do not count.
    generation: u32,
    retry_at: Option<Instant>,
    pub(super) ready: VecDeque<Ready>,
    pub(super) end: Option<Offset>,
    /// Since when nothing is left in the log.
    pub(super) caught_up: Option<Instant>,
    empty_answers: u32,
}

impl Fetching {
    pub(super) fn new(at: Offset, stop: Option<Offset>) -> Self {
        Self { at, stop, ..Self::default() }
    }

    /// The offset to ask for, if there is anything to ask.
    pub(super) fn wants(&self, now: Instant) -> Option<Offset> {
        let stopped = self.stop.is_some_and(|stop| self.at >= stop);
        let waits = self.retry_at.is_some_and(|at| at > now);
        (!self.in_flight && !stopped && !waits).then_some(self.at)
    }

    /// A request leaves; what its answer is known by.
    pub(super) fn on_sent(&mut self) -> u32 {
        self.in_flight = true;
        self.generation
    }

    /// Goes on elsewhere: what was fetched is dropped, and so is an answer under way.
    pub(super) fn seek(&mut self, to: Offset) {
        *self = Self { generation: self.generation + 1, ..Self::new(to, self.stop) };
    }

    /// When a request that failed is tried again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn is_failing(&self) -> bool {
        self.retry_at.is_some()
    }

    pub(super) fn has_records(&self) -> bool {
        self.ready.iter().any(|ready| matches!(ready, Ready::Records(_)))
    }

    /// The answer to a request; `None`: it failed.
    pub(super) fn handle(&mut self, generation: u32, answer: Option<Answer>, now: Instant) {
        if generation != self.generation {
            return;
        }
        self.in_flight = false;
        let Some(Answer { visible, next_offset, received, end }) = answer else {
            self.retry_at = Some(now + RETRY);
            return;
        };
        (self.retry_at, self.end) = (None, Some(end));
        if received {
            (self.empty_answers, self.caught_up) = (0, None);
            self.at = self.at.max(next_offset);
            self.ready.push_back(Ready::Records(Part { batches: visible, next: next_offset }));
            return;
        }
        if self.at < end {
            // Compaction may have removed the tail; one answer could be empty for other reasons.
            self.empty_answers += 1;
            if self.empty_answers < 2 {
                return;
            }
        }
        if self.caught_up.replace(now).is_none() {
            self.ready.push_back(Ready::End);
        }
    }
}

const RETRY: Duration = Duration::from_millis(50);
