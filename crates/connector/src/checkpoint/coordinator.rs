//! When a checkpoint is taken, and when it is complete. Pure: `now` is an argument, and what to do comes back.
//!
//! ```text
//!        due, or last asked for            all subtasks answered            written
//!   Idle ───────────────────▶ Collecting ─────────────────────▶ Writing ───────────▶ Idle, or Ended after the last
//!    ▲                          │  time-out
//!    └──────────────────────────┘
//! ```
//!
//! # Invariants
//! * One checkpoint is in flight at a time, and numbers only go up.
//! * An expired checkpoint takes nothing with it: what subtasks prepared for it belongs to the next one that completes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::store::CheckpointId;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<T> {
    /// Send the barrier to every subtask.
    Trigger {
        /// The checkpoint's number.
        id: CheckpointId,
        /// Whether it is the job's last: subtasks stop reading at this barrier.
        last: bool,
    },
    /// Write the checkpoint, then [`Coordinator::handle_written`].
    Write {
        /// The checkpoint's number.
        id: CheckpointId,
        /// What the subtasks answered, by subtask.
        snapshots: Vec<T>,
    },
    /// The checkpoint took too long and was given up.
    Expired {
        /// The checkpoint's number.
        id: CheckpointId,
        /// Subtasks that did not answer.
        missing: Vec<u32>,
        /// How many in a row were given up, this one included.
        in_a_row: u32,
    },
    /// Nothing until then; `None` for nothing until something is handed in.
    Wait(Option<Instant>),
    /// The last checkpoint is complete.
    Ended,
}

#[derive(Debug)]
enum State<T> {
    Idle {
        due: Option<Instant>,
    },
    Collecting {
        id: CheckpointId,
        last: bool,
        since: Instant,
        waiting: BTreeSet<u32>,
        snapshots: Vec<(u32, T)>,
    },
    Writing {
        id: CheckpointId,
        last: bool,
        since: Instant,
    },
    Ended,
}

/// The schedule of a job's checkpoints. `T` is what a subtask answers to a barrier.
#[derive(Debug)]
pub struct Coordinator<T> {
    parallelism: u32,
    interval: Option<Duration>,
    timeout: Duration,
    next_id: CheckpointId,
    last_wanted: bool,
    expired_in_a_row: u32,
    state: State<T>,
}

impl<T> Coordinator<T> {
    /// A schedule for `parallelism` subtasks: a checkpoint every `interval` (`None`: only the last one), each given up after
    /// `timeout`, numbered from `next_id`.
    #[must_use]
    pub fn new(
        parallelism: u32,
        interval: Option<Duration>,
        timeout: Duration,
        next_id: CheckpointId,
        now: Instant,
    ) -> Self {
        let state = State::Idle { due: interval.map(|interval| now + interval) };
        Self { parallelism, interval, timeout, next_id, last_wanted: false, expired_in_a_row: 0, state }
    }

    /// Asks for the last checkpoint: as soon as none is in flight.
    pub fn request_last(&mut self) {
        self.last_wanted = true;
    }

    /// Whether the last checkpoint was asked for.
    #[must_use]
    pub fn is_last_requested(&self) -> bool {
        self.last_wanted
    }

    /// The number of the checkpoint in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<CheckpointId> {
        match self.state {
            State::Collecting { id, .. } | State::Writing { id, .. } => Some(id),
            State::Idle { .. } | State::Ended => None,
        }
    }

    /// What to do at `now`. Call until it says [`Action::Wait`] or [`Action::Ended`].
    pub fn poll_action(&mut self, now: Instant) -> Action<T> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Action::Ended,
            State::Idle { due } => {
                if self.last_wanted || due.is_some_and(|due| now >= due) {
                    return self.trigger(now);
                }
                self.state = State::Idle { due };
                Action::Wait(due)
            }
            State::Collecting { id, last, since, waiting, mut snapshots } => {
                if waiting.is_empty() {
                    self.state = State::Writing { id, last, since };
                    snapshots.sort_by_key(|&(subtask, _)| subtask);
                    return Action::Write {
                        id,
                        snapshots: snapshots.into_iter().map(|(_, it)| it).collect(),
                    };
                }
                let until = since + self.timeout;
                if now >= until {
                    self.expired_in_a_row += 1;
                    self.state = State::Idle { due: self.due_after(since, now) };
                    let missing = waiting.into_iter().collect();
                    return Action::Expired { id, missing, in_a_row: self.expired_in_a_row };
                }
                self.state = State::Collecting { id, last, since, waiting, snapshots };
                Action::Wait(Some(until))
            }
            State::Writing { id, last, since } => {
                self.state = State::Writing { id, last, since };
                Action::Wait(None)
            }
        }
    }

    /// A subtask's answer to a barrier. Returns whether it belongs to the checkpoint in flight: a late one does not.
    pub fn handle_snapshot(&mut self, subtask: u32, checkpoint: CheckpointId, snapshot: T) -> bool {
        let State::Collecting { id, waiting, snapshots, .. } = &mut self.state else { return false };
        if *id != checkpoint || !waiting.remove(&subtask) {
            return false;
        }
        snapshots.push((subtask, snapshot));
        true
    }

    /// The checkpoint is on the disk.
    pub fn handle_written(&mut self, now: Instant) {
        if let State::Writing { last, since, .. } = self.state {
            self.expired_in_a_row = 0;
            self.state = if last { State::Ended } else { State::Idle { due: self.due_after(since, now) } };
        }
    }

    fn trigger(&mut self, now: Instant) -> Action<T> {
        let (id, last) = (self.next_id, self.last_wanted);
        self.next_id += 1;
        let waiting = (0..self.parallelism).collect();
        self.state = State::Collecting { id, last, since: now, waiting, snapshots: Vec::new() };
        Action::Trigger { id, last }
    }

    fn due_after(&self, since: Instant, now: Instant) -> Option<Instant> {
        self.interval.map(|interval| (since + interval).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const TIMEOUT: Duration = Duration::from_secs(3);

    fn schedule(now: Instant) -> Coordinator<&'static str> {
        Coordinator::new(2, Some(INTERVAL), TIMEOUT, 5, now)
    }

    #[test]
    fn a_checkpoint_is_complete_when_every_subtask_answered_and_it_is_written() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        assert_eq!(schedule.poll_action(start), Action::Wait(Some(start + INTERVAL)));
        let due = start + INTERVAL;
        assert_eq!(schedule.poll_action(due), Action::Trigger { id: 5, last: false });
        assert!(schedule.handle_snapshot(1, 5, "b"));
        assert!(!schedule.handle_snapshot(1, 5, "b again"));
        assert_eq!(schedule.poll_action(due), Action::Wait(Some(due + TIMEOUT)));
        assert!(schedule.handle_snapshot(0, 5, "a"));
        assert_eq!(schedule.poll_action(due), Action::Write { id: 5, snapshots: vec!["a", "b"] });
        assert_eq!(schedule.poll_action(due + INTERVAL * 9), Action::Wait(None), "one at a time");
        schedule.handle_written(due);
        assert_eq!(schedule.poll_action(due), Action::Wait(Some(due + INTERVAL)));
    }

    #[test]
    fn an_expired_checkpoint_does_not_take_late_answers() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        let due = start + INTERVAL;
        schedule.poll_action(due);
        assert!(schedule.handle_snapshot(0, 5, "a"));
        let late = due + TIMEOUT;
        assert_eq!(schedule.poll_action(late), Action::Expired { id: 5, missing: vec![1], in_a_row: 1 });
        assert!(!schedule.handle_snapshot(1, 5, "b"));
        assert_eq!(schedule.poll_action(due + INTERVAL), Action::Trigger { id: 6, last: false });
        assert!(!schedule.handle_snapshot(1, 5, "b"), "an answer to the one before");
        let late = due + INTERVAL + TIMEOUT;
        assert_eq!(schedule.poll_action(late), Action::Expired { id: 6, missing: vec![0, 1], in_a_row: 2 });
    }

    #[test]
    fn the_last_one_waits_for_the_one_in_flight_and_ends_the_schedule() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        schedule.poll_action(start + INTERVAL);
        schedule.request_last();
        for subtask in 0..2 {
            assert!(schedule.handle_snapshot(subtask, 5, "x"));
        }
        assert!(matches!(schedule.poll_action(start + INTERVAL), Action::Write { id: 5, .. }));
        schedule.handle_written(start + INTERVAL);
        assert_eq!(schedule.poll_action(start + INTERVAL), Action::Trigger { id: 6, last: true });
        for subtask in 0..2 {
            assert!(schedule.handle_snapshot(subtask, 6, "x"));
        }
        assert!(matches!(schedule.poll_action(start + INTERVAL), Action::Write { id: 6, .. }));
        schedule.handle_written(start + INTERVAL);
        assert_eq!(schedule.poll_action(start + INTERVAL), Action::Ended);
    }

    #[test]
    fn a_slow_checkpoint_does_not_make_the_next_ones_pile_up() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        schedule.poll_action(start + INTERVAL);
        for subtask in 0..2 {
            schedule.handle_snapshot(subtask, 5, "x");
        }
        schedule.poll_action(start + INTERVAL);
        let slow = start + INTERVAL * 5;
        schedule.handle_written(slow);
        assert_eq!(schedule.poll_action(slow), Action::Trigger { id: 6, last: false });
    }
}
