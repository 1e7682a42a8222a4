//! When a checkpoint is taken, and when it is complete. Pure: `now` is an argument, and what to do comes back.
//!
//! ```text
//!   due, or last asked for            all subtasks answered            written
//!  ───────────────────▶ Collecting ─────────────────────▶ Writing ───────────▶ done, or Ended after the last
//!                           │  time-out
//!                           ▼ Expired
//! ```
//!
//! # Invariants
//! * At most so many checkpoints are in flight as was said, and numbers only go up.
//! * Subtasks answer barriers in their order, so checkpoints are complete in their order, and they are written one after the other: when
//!   one is on the disk, so is everything it subsumes.
//! * An expired checkpoint takes nothing with it: what subtasks prepared for it belongs to the next one that completes.

use std::collections::{BTreeSet, VecDeque};
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

/// A checkpoint whose barriers are out.
#[derive(Debug)]
struct Collecting<T> {
    id: CheckpointId,
    last: bool,
    since: Instant,
    waiting: BTreeSet<u32>,
    snapshots: Vec<(u32, T)>,
}

/// The schedule of a job's checkpoints. `T` is what a subtask answers to a barrier.
#[derive(Debug)]
pub struct Coordinator<T> {
    parallelism: u32,
    interval: Option<Duration>,
    timeout: Duration,
    max_concurrent: usize,
    next_id: CheckpointId,
    last_wanted: bool,
    expired_in_a_row: u32,
    due: Option<Instant>,
    /// Oldest first.
    collecting: VecDeque<Collecting<T>>,
    /// What is being written, and whether it is the last.
    writing: Option<(CheckpointId, bool)>,
    ended: bool,
}

impl<T> Coordinator<T> {
    /// A schedule for `parallelism` subtasks: a checkpoint every `interval` (`None`: only the last one), each given up after
    /// `timeout`, numbered from `next_id`, one in flight at a time.
    #[must_use]
    pub fn new(
        parallelism: u32,
        interval: Option<Duration>,
        timeout: Duration,
        next_id: CheckpointId,
        now: Instant,
    ) -> Self {
        Self {
            parallelism,
            interval,
            timeout,
            max_concurrent: 1,
            next_id,
            last_wanted: false,
            expired_in_a_row: 0,
            due: interval.map(|interval| now + interval),
            collecting: VecDeque::new(),
            writing: None,
            ended: false,
        }
    }

    /// The same schedule with up to so many checkpoints in flight, at least 1.
    #[must_use]
    pub fn with_max_concurrent(mut self, max_concurrent: usize) -> Self {
        self.max_concurrent = max_concurrent.max(1);
        self
    }

    /// Asks for the last checkpoint: as soon as none is in flight.
    pub fn request_last(&mut self) {
        self.last_wanted = true;
    }

    /// Asks for a checkpoint as soon as there is room for one.
    pub fn request_now(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    /// Whether the last checkpoint was asked for.
    #[must_use]
    pub fn is_last_requested(&self) -> bool {
        self.last_wanted
    }

    /// How many checkpoints are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.collecting.len() + usize::from(self.writing.is_some())
    }

    /// What to do at `now`. Call until it says [`Action::Wait`] or [`Action::Ended`].
    pub fn poll_action(&mut self, now: Instant) -> Action<T> {
        if self.ended {
            return Action::Ended;
        }
        let timeout = self.timeout;
        let is_complete = |oldest: &Collecting<T>| oldest.waiting.is_empty();
        let is_expired = |oldest: &Collecting<T>| !is_complete(oldest) && now >= oldest.since + timeout;
        if self.writing.is_none()
            && self.collecting.front().is_some_and(is_complete)
            && let Some(complete) = self.collecting.pop_front()
        {
            let Collecting { id, last, mut snapshots, .. } = complete;
            self.writing = Some((id, last));
            snapshots.sort_by_key(|&(subtask, _)| subtask);
            return Action::Write { id, snapshots: snapshots.into_iter().map(|(_, it)| it).collect() };
        }
        if self.collecting.front().is_some_and(is_expired)
            && let Some(expired) = self.collecting.pop_front()
        {
            self.expired_in_a_row += 1;
            let missing = expired.waiting.into_iter().collect();
            return Action::Expired { id: expired.id, missing, in_a_row: self.expired_in_a_row };
        }
        let room = match self.last_wanted {
            true => self.in_flight() == 0,
            false => self.in_flight() < self.max_concurrent,
        };
        if room && (self.last_wanted || self.due.is_some_and(|due| now >= due)) {
            return self.trigger(now);
        }
        let expires = self.collecting.front().filter(|oldest| !oldest.waiting.is_empty());
        let expires = expires.map(|oldest| oldest.since + timeout);
        let due = self.due.filter(|_| room);
        Action::Wait(expires.into_iter().chain(due).min())
    }

    /// A subtask's answer to a barrier. Returns whether it belongs to a checkpoint in flight: a late one does not.
    pub fn handle_snapshot(&mut self, subtask: u32, checkpoint: CheckpointId, snapshot: T) -> bool {
        let Some(at) = self.collecting.iter_mut().find(|collecting| collecting.id == checkpoint) else {
            return false;
        };
        if !at.waiting.remove(&subtask) {
            return false;
        }
        at.snapshots.push((subtask, snapshot));
        true
    }

    /// The checkpoint that was to be written is stored.
    pub fn handle_written(&mut self) {
        if let Some((_, last)) = self.writing.take() {
            self.expired_in_a_row = 0;
            self.ended = last;
        }
    }

    fn trigger(&mut self, now: Instant) -> Action<T> {
        let (id, last) = (self.next_id, self.last_wanted);
        self.next_id += 1;
        self.due = self.interval.map(|interval| now + interval);
        let waiting = (0..self.parallelism).collect();
        self.collecting.push_back(Collecting { id, last, since: now, waiting, snapshots: Vec::new() });
        Action::Trigger { id, last }
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
        schedule.handle_written();
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
        schedule.handle_written();
        assert_eq!(schedule.poll_action(start + INTERVAL), Action::Trigger { id: 6, last: true });
        for subtask in 0..2 {
            assert!(schedule.handle_snapshot(subtask, 6, "x"));
        }
        assert!(matches!(schedule.poll_action(start + INTERVAL), Action::Write { id: 6, .. }));
        schedule.handle_written();
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
        schedule.handle_written();
        assert_eq!(schedule.poll_action(slow), Action::Trigger { id: 6, last: false });
    }

    #[test]
    fn several_may_be_in_flight_and_are_written_in_their_order() {
        let start = Instant::now();
        let mut schedule = schedule(start).with_max_concurrent(2);
        let (first, second) = (start + INTERVAL, start + INTERVAL * 2);
        schedule.timeout = INTERVAL * 2;
        assert_eq!(schedule.poll_action(first), Action::Trigger { id: 5, last: false });
        assert_eq!(schedule.poll_action(first), Action::Wait(Some(second)));
        assert_eq!(schedule.poll_action(second), Action::Trigger { id: 6, last: false });
        assert_eq!(
            schedule.poll_action(second),
            Action::Wait(Some(first + INTERVAL * 2)),
            "no room for a third"
        );
        assert!(schedule.handle_snapshot(0, 5, "a5"));
        assert!(schedule.handle_snapshot(0, 6, "a6"));
        assert!(schedule.handle_snapshot(1, 5, "b5"));
        assert_eq!(schedule.poll_action(second), Action::Write { id: 5, snapshots: vec!["a5", "b5"] });
        assert!(schedule.handle_snapshot(1, 6, "b6"));
        schedule.request_last();
        assert_eq!(schedule.poll_action(second), Action::Wait(None), "one is written at a time");
        schedule.handle_written();
        assert_eq!(schedule.poll_action(second), Action::Write { id: 6, snapshots: vec!["a6", "b6"] });
        schedule.handle_written();
        assert_eq!(schedule.poll_action(second), Action::Trigger { id: 7, last: true });
    }

    #[test]
    fn one_that_is_asked_for_comes_at_once_and_moves_the_next() {
        let start = Instant::now();
        let mut schedule = schedule(start);
        schedule.request_now(start);
        assert_eq!(schedule.poll_action(start), Action::Trigger { id: 5, last: false });
        for subtask in 0..2 {
            schedule.handle_snapshot(subtask, 5, "x");
        }
        assert!(matches!(schedule.poll_action(start), Action::Write { id: 5, .. }));
        schedule.handle_written();
        assert_eq!(schedule.poll_action(start), Action::Wait(Some(start + INTERVAL)));
    }
}
