//! Where partitions start: lookups that are due, and what they found.

use std::time::{Duration, Instant};

use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::TopicPartition;

use super::cursor::{Position, Reason, Start, State};
use super::cursors::{Cursors, Ticket, started};

/// A partition whose start is to be looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResetWanted {
    /// For the answer.
    pub ticket: Ticket,
    /// The partition.
    pub tp: TopicPartition,
    /// The place.
    pub start: Start,
}

impl Cursors {
    /// The lookups that are due: where partitions start. Each is given once, until its answer or [`Cursors::seek`].
    pub fn poll_resets(&mut self, now: Instant) -> Vec<ResetWanted> {
        self.troubled = false;
        let due = self.slots.iter_mut().enumerate().filter_map(|(slot, cursor)| {
            let cursor = cursor.as_mut()?;
            let State::Resetting { start, asked, not_before } = &mut cursor.state else { return None };
            if *asked || not_before.is_some_and(|at| now < at) {
                return None;
            }
            *asked = true;
            let ticket = Ticket { slot, generation: cursor.generation };
            Some(ResetWanted { ticket, tp: cursor.tp.clone(), start: *start })
        });
        due.collect()
    }

    /// The place that was looked up; `Ok(None)`: nothing is committed. An error that `again` calls passing is tried again.
    pub fn handle_reset(
        &mut self,
        now: Instant,
        ticket: Ticket,
        found: Result<Option<Position>, Reason>,
        again: bool,
    ) {
        let reset = self.settings.reset;
        let window = self.settings.unknown_window;
        let again = again && !self.is_unknown_too_long(now, ticket, &found, window);
        let delay = match self.current(ticket) {
            Some(cursor) if found.is_err() && again => {
                let failures = cursor.failures;
                self.settings.backoff.delay(failures, &mut self.rng)
            }
            Some(_) => Duration::ZERO,
            None => return,
        };
        let Some(cursor) = self.current(ticket) else { return };
        let State::Resetting { start, .. } = cursor.state else { return };
        let reason = match found {
            Ok(Some(position)) => {
                cursor.consumed = Some(position);
                cursor.succeed();
                cursor.enter(now, State::Ready(position));
                return;
            }
            Ok(None) => match reset.filter(|reset| *reset != start) {
                Some(start) => {
                    cursor.enter(now, started(start));
                    if let Start::At(position) = start {
                        cursor.consumed = Some(position);
                    }
                    return;
                }
                None => Reason::NoStart,
            },
            Err(_) if again => {
                cursor.failures = cursor.failures.saturating_add(1);
                cursor.failing_since.get_or_insert(now);
                cursor.state = State::Resetting { start, asked: false, not_before: Some(now + delay) };
                return;
            }
            Err(reason) => reason,
        };
        self.fail(now, ticket.slot, reason);
    }

    /// Whether brokers have not known the partition for longer than it takes a new topic to reach all of them.
    fn is_unknown_too_long<T>(
        &mut self,
        now: Instant,
        ticket: Ticket,
        found: &Result<T, Reason>,
        window: Duration,
    ) -> bool {
        let unknown = matches!(
            found,
            Err(Reason::Code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID))
        );
        let since = self.current(ticket).and_then(|cursor| cursor.failing_since);
        unknown && since.is_some_and(|since| now.saturating_duration_since(since) >= window)
    }
}
