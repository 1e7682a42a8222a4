//! Where reading ends or rests by the application's will: stops, partitions that are held back, ends of logs.

use std::time::Instant;

use milena_protocol::types::{Offset, TopicPartition};

use super::cursor::State;
use super::cursors::{Cursors, SlotId, Ticket};

/// Answers in a row that are without records of any partition although the log goes on: compaction removed its tail.
const EMPTY_ANSWERS: u32 = 2;

impl Cursors {
    /// Nothing is asked from this offset on; `None` for no such end.
    pub fn set_stop(&mut self, now: Instant, tp: &TopicPartition, stop: Option<Offset>) -> Option<SlotId> {
        let slot = self.slot(tp)?;
        let cursor = self.cursor_mut(slot.0)?;
        cursor.stop = stop;
        cursor.since = now;
        cursor.reported = None;
        Some(slot)
    }

    /// Asks for nothing more of a partition until [`Cursors::release`]. What was fetched or is on its way stays good.
    pub fn hold(&mut self, now: Instant, tp: &TopicPartition) -> Option<SlotId> {
        self.set_held(now, tp, true)
    }

    /// Reads on a partition that was held back.
    pub fn release(&mut self, now: Instant, tp: &TopicPartition) -> Option<SlotId> {
        self.set_held(now, tp, false)
    }

    fn set_held(&mut self, now: Instant, tp: &TopicPartition, held: bool) -> Option<SlotId> {
        let slot = self.slot(tp)?;
        let cursor = self.cursor_mut(slot.0)?;
        if cursor.held != held {
            cursor.held = held;
            cursor.since = now;
            cursor.reported = None;
            // What was known of the end gets old while nothing is asked.
            cursor.forget_end();
        }
        Some(slot)
    }

    /// Whether a partition is held back.
    #[must_use]
    pub fn is_held(&self, slot: SlotId) -> bool {
        self.cursor(slot.0).is_some_and(|cursor| cursor.held)
    }

    /// Whether any is.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        self.slots.iter().flatten().any(|cursor| cursor.held)
    }

    /// The next partition of which nothing is left, neither in the log nor on the way to the application. Each time that this becomes
    /// so is told once, if [`Settings::tell_ends`](super::Settings::tell_ends) says so.
    pub fn poll_end(&mut self) -> Option<Ticket> {
        let (slots, mut next) = (&mut self.slots, None);
        self.ends.retain(|&slot| {
            let Some(cursor) = slots.get_mut(slot).and_then(Option::as_mut) else { return false };
            if cursor.end_due && cursor.buffered == 0 && next.is_none() {
                next = Some(Ticket { slot, generation: cursor.generation });
                cursor.end_due = false;
            }
            cursor.end_listed = cursor.end_due;
            cursor.end_due
        });
        next
    }

    /// Whether [`Cursors::poll_end`] may have something.
    #[must_use]
    pub fn has_ends(&self) -> bool {
        !self.ends.is_empty()
    }

    /// An answer brought nothing of a partition. `alone`: and of no other, so that it was not a matter of size.
    pub(super) fn handle_nothing(&mut self, now: Instant, slot: usize, alone: bool) {
        let (isolation, tell) = (self.settings.isolation, self.settings.tell_ends);
        let Some(cursor) = self.cursor_mut(slot) else { return };
        let (State::Ready(position), Some(end)) = (&cursor.state, cursor.end(isolation)) else { return };
        if cursor.rests() {
            return;
        }
        if position.offset < end {
            cursor.empty_answers = cursor.empty_answers.saturating_add(u32::from(alone));
            if cursor.empty_answers < EMPTY_ANSWERS {
                return;
            }
        }
        let news = cursor.caught_up.replace(now).is_none();
        if news && tell {
            cursor.end_due = true;
            if !std::mem::replace(&mut cursor.end_listed, true) {
                self.ends.push_back(slot);
            }
        }
    }
}
