//! Time: the ends of waits, and waits that are too long.

use std::time::{Duration, Instant};

use milena_protocol::types::{BrokerId, TopicPartition};

use super::cursor::{State, Status};
use super::cursors::Cursors;

/// A partition that stays without a fetch longer than its state allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stall {
    /// The partition.
    pub tp: TopicPartition,
    /// What it is doing.
    pub status: Status,
    /// For how long.
    pub since: Duration,
}

impl Cursors {
    /// When something changes without an event: the end of a back-off, the next lookup.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let cursors = self.slots.iter().flatten().flat_map(|cursor| {
            let state = match &cursor.state {
                State::BackOff { until, .. } => Some(*until),
                State::Resetting { asked: false, not_before, .. } => *not_before,
                _ => None,
            };
            [state, cursor.preferred.map(|(_, until)| until)].into_iter().flatten()
        });
        cursors.chain(self.queues.values().filter_map(|queue| queue.not_before)).min()
    }

    /// Ends the back-offs and the preferences of replicas whose time has come. Whether there were any.
    pub fn handle_time(&mut self, now: Instant) -> bool {
        let mut any = false;
        for queue in self.queues.values_mut() {
            if queue.not_before.is_some_and(|at| at <= now) {
                queue.not_before = None;
                any = true;
            }
        }
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor_mut(slot) else { continue };
            if let State::BackOff { position, until, .. } = cursor.state
                && until <= now
            {
                cursor.enter(now, State::Ready(position));
                any = true;
            }
            if cursor.preferred.is_some_and(|(_, until)| until <= now) {
                cursor.preferred = None;
                any = true;
                self.relist(now, slot);
            }
        }
        any
    }

    /// Partitions that stay without a fetch longer than their state allows: `limit` for a request, a lookup, a validation or an election;
    /// for a back-off until after its end. A partition whose broker brings nothing for the sake of a quota is one too, though it is asked for
    /// again and again. Waiting for the application (paused, held, at its stop, buffered, no room) is no stall, and neither is a failure
    /// that it was told. Each is named again after another `limit`.
    pub fn check(&mut self, now: Instant, limit: Duration) -> Vec<Stall> {
        let mut stalls = Vec::new();
        let denied = self.denied_too_long(now, limit);
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor(slot) else { continue };
            let status = self.status(now, cursor);
            let since = match &status {
                Status::Paused
                | Status::Held { .. }
                | Status::AtStop
                | Status::Buffered { .. }
                | Status::WaitingForRoom { .. }
                | Status::Failed { .. } => continue,
                Status::Throttled { broker, .. } => {
                    if let Some(&(_, since)) = denied.iter().find(|(denying, _)| denying == broker) {
                        let since = now.saturating_duration_since(since);
                        stalls.push(Stall { tp: cursor.tp.clone(), status, since });
                    }
                    continue;
                }
                Status::BackOff { until, .. } => *until,
                Status::Fetching { .. }
                | Status::Queued { .. }
                | Status::WaitingForLeader
                | Status::Validating { .. }
                | Status::Resetting => cursor.since,
            };
            let waited = now.saturating_duration_since(cursor.reported.unwrap_or(since));
            if waited > limit {
                let since = now.saturating_duration_since(since);
                stalls.push(Stall { tp: cursor.tp.clone(), status, since });
                if let Some(cursor) = self.cursor_mut(slot) {
                    cursor.reported = Some(now);
                }
            }
        }
        stalls
    }

    /// The brokers that have brought nothing for too long for the sake of a quota, and since when. Each is named again after another `limit`.
    fn denied_too_long(&mut self, now: Instant, limit: Duration) -> Vec<(BrokerId, Instant)> {
        let mut brokers = Vec::new();
        for (&broker, queue) in &mut self.queues {
            // Between two rests no partition would show it.
            let rests = queue.rests_until(now).is_some();
            let Some(denied) = queue.denied.as_mut().filter(|_| rests) else { continue };
            if now.saturating_duration_since(denied.reported.unwrap_or(denied.since)) > limit {
                denied.reported = Some(now);
                brokers.push((broker, denied.since));
            }
        }
        brokers
    }
}
