//! Positions held against the log of a new leader (KIP-320).
//!
//! An election may take records away that were read before. So after one a partition is not asked for records before its leader said
//! where the epoch of the record before the position ends in its log: at or behind the position all is well, before it the log was
//! truncated. A log that has no such epoch took another way before it, too: more than one election lost records then, and how far back is
//! only known if the epoch before it ends before the position. Nothing is asked where that is known: the epoch is the leader's own, or the record came from its log.

use std::time::{Duration, Instant};

use milena_protocol::types::{BrokerId, LeaderEpoch, Offset, TopicPartition};

use super::cursor::{Cursor, Leader, Position, Reason, State};
use super::cursors::{Cursors, Ticket};

/// A position that is to be held against its leader's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValidationWanted {
    /// For the answer.
    pub ticket: Ticket,
    /// The partition.
    pub tp: TopicPartition,
    /// The leader to be asked.
    pub leader: BrokerId,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
    /// The epoch whose end is asked for.
    pub epoch: LeaderEpoch,
}

/// An epoch of a log, and the offset at which it ends there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub offset: Offset,
}

/// What came of a validation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Validated {
    /// The newest epoch of the leader's log that is not newer than the one asked for; `None` if it has none.
    End(Option<EpochEnd>),
    /// The leader cannot say.
    Unsupported,
    /// It could not be asked, or refused. It is tried again if `again` says so.
    Failed {
        /// Why.
        reason: Reason,
        /// Whether that passes.
        again: bool,
    },
}

impl Cursor {
    /// Whether nothing may be fetched before the leader was asked about the position.
    pub(super) fn needs_validation(&self) -> bool {
        self.unvalidated().is_some()
    }

    fn unvalidated(&self) -> Option<(Position, Leader, LeaderEpoch, LeaderEpoch)> {
        let State::Ready(position) = self.state else { return None };
        let (leader, epoch) = (self.leader?, position.epoch?);
        let leader_epoch = leader.epoch?;
        let known = self.validated == Some(leader) || epoch >= leader_epoch;
        (!known).then_some((position, leader, leader_epoch, epoch))
    }
}

impl Cursors {
    /// The positions that are to be held against their leaders' logs now. Each is given once, until its answer.
    pub fn poll_validations(&mut self, now: Instant) -> Vec<ValidationWanted> {
        let mut wanted = Vec::new();
        for slot in 0..self.slots.len() {
            let Some(cursor) = self.cursor_mut(slot) else { continue };
            // Records of the old leader that are still on their way were in the log that is asked about.
            if cursor.rests() {
                continue;
            }
            let Some((position, leader, leader_epoch, epoch)) = cursor.unvalidated() else { continue };
            let ticket = Ticket { slot, generation: cursor.generation };
            cursor.enter(now, State::Validating { position, leader });
            wanted.push(ValidationWanted {
                ticket,
                tp: cursor.tp.clone(),
                leader: leader.id,
                leader_epoch,
                epoch,
            });
        }
        wanted
    }

    /// What a leader said of the positions of one question, or did not. What is asked again is asked at the same time.
    pub fn handle_validations(&mut self, now: Instant, found: impl IntoIterator<Item = (Ticket, Validated)>) {
        let mut delay = None;
        for (ticket, found) in found {
            self.handle_validation(now, ticket, found, &mut delay);
        }
    }

    fn handle_validation(
        &mut self,
        now: Instant,
        ticket: Ticket,
        found: Validated,
        delay: &mut Option<Duration>,
    ) {
        let Some(cursor) = self.current(ticket) else { return };
        let State::Validating { position, leader } = cursor.state else { return };
        cursor.enter(now, State::Ready(position));
        if cursor.leader != Some(leader) {
            // Another one leads meanwhile, and will be asked.
            self.troubled = true;
            return;
        }
        match found {
            // A log without the epoch does not hold its records either, however long it is.
            Validated::End(Some(end))
                if Some(end.epoch) >= position.epoch && end.offset >= position.offset =>
            {
                cursor.validated = Some(leader);
            }
            Validated::Unsupported => cursor.validated = Some(leader),
            Validated::End(end) => {
                self.lose(now, ticket.slot, Reason::parted(position.offset, end.map(|end| end.offset)));
            }
            Validated::Failed { reason, again } => {
                let failures = cursor.failures;
                let refreshes = matches!(&reason, Reason::Code(code) if code.refreshes_metadata());
                if refreshes || matches!(reason, Reason::Connection(_)) {
                    let topic = std::sync::Arc::clone(&cursor.tp.topic);
                    self.stale_topics.insert(topic);
                }
                match again {
                    true => {
                        let draw = || self.settings.backoff.delay(failures, &mut self.rng);
                        let delay = *delay.get_or_insert_with(draw);
                        self.back_off_for(now, ticket.slot, reason, delay);
                    }
                    false => self.fail(now, ticket.slot, reason),
                }
            }
        }
    }
}
