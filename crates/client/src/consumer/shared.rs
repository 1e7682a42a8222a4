//! What the application's side of a consumer and its tasks share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use milena_core::fetch::{Cursors, Failure, Reason};
use milena_protocol::error_code::ErrorCode;
use tokio::sync::Notify;

use super::config::ConsumerConfig;
use super::decode::Checked;
use super::memory::Memory;
use super::metrics::{Counts, add};
use super::part::{PartitionRecords, Shown};
use super::read::Reading;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) config: ConsumerConfig,
    pub(super) memory: Arc<Memory>,
    pub(super) counts: Counts,
    /// Something changed that the tasks have to look at.
    pub(super) changed: Notify,
    state: Mutex<State>,
}

/// Cursors and what waits for the application. The lock is held for plain steps only.
#[derive(Debug)]
pub(super) struct State {
    pub(super) cursors: Cursors,
    inbox: VecDeque<PartitionRecords>,
    /// What came of partitions that are held back.
    held: VecDeque<PartitionRecords>,
    errors: VecDeque<Error>,
    /// Who waits for records.
    waker: Option<Waker>,
}

impl State {
    /// Drops what waits of a partition whose tickets are void.
    pub(super) fn purge(&mut self) -> usize {
        let before = self.inbox.len() + self.held.len();
        let cursors = &self.cursors;
        self.inbox.retain(|part| cursors.is_current(part.ticket));
        self.held.retain(|part| cursors.is_current(part.ticket));
        before - self.inbox.len() - self.held.len()
    }

    /// Sorts what waits: parts of partitions that are held back aside, the others into the application's queue.
    pub(super) fn sort(&mut self) {
        let cursors = &self.cursors;
        let is_held = |part: &PartitionRecords| cursors.is_held(part.ticket.slot());
        // Nothing of a partition is on the other side when its parts come over, so they stay in order.
        let (held, inbox) = std::mem::take(&mut self.inbox).into_iter().partition::<VecDeque<_>, _>(&is_held);
        let (kept, released) =
            std::mem::take(&mut self.held).into_iter().partition::<VecDeque<_>, _>(&is_held);
        (self.inbox, self.held) = (inbox, kept);
        self.inbox.extend(released);
        self.held.extend(held);
    }

    /// Puts back what the application had begun of a partition that is held back.
    pub(super) fn put_back(&mut self, part: PartitionRecords) {
        self.held.push_front(part);
    }
}

impl Shared {
    pub(super) fn new(client: Client, config: ConsumerConfig, cursors: Cursors) -> Self {
        let keep = (config.max_bytes as usize).saturating_mul(2);
        Self {
            memory: Memory::new(config.buffer_bytes, keep),
            client,
            config,
            counts: Counts::default(),
            changed: Notify::new(),
            state: Mutex::new(State {
                cursors,
                inbox: VecDeque::new(),
                held: VecDeque::new(),
                errors: VecDeque::new(),
                waker: None,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reading(&self) -> Reading {
        Reading {
            isolation: self.config.isolation,
            check_crcs: self.config.check_crcs,
            max_batch_bytes: self.config.max_batch_bytes as usize,
        }
    }

    /// Puts parts into the application's queue, or throws them away if they are not wanted any more.
    pub(super) fn deliver(&self, parts: Vec<Checked>) {
        let now = now();
        let (mut batches, mut stale, mut troubled) = (0, 0, false);
        let mut state = self.state();
        for Checked { part, damage, last } in parts {
            let ticket = part.ticket;
            if last {
                state.cursors.on_delivered(ticket);
            }
            if state.cursors.is_current(ticket) {
                batches += part.shown.len();
                match state.cursors.is_held(ticket.slot()) {
                    true => state.held.push_back(part),
                    false => state.inbox.push_back(part),
                }
            } else {
                stale += 1;
            }
            if let Some(damage) = damage {
                troubled = true;
                state.cursors.on_unreadable(now, damage.ticket, damage.at, damage.text);
            }
        }
        let waker = self.settle(&mut state);
        drop(state);
        add(&self.counts.batches, batches);
        add(&self.counts.stale_parts, stale);
        if let Some(waker) = waker {
            waker.wake();
        }
        if troubled {
            self.changed.notify_waiters();
        }
    }

    /// Lets go of parts that are not wanted any more.
    pub(super) fn drop_stale(&self, parts: &mut VecDeque<Checked>) {
        let before = parts.len();
        let state = self.state();
        parts.retain(|checked| state.cursors.is_current(checked.part.ticket));
        drop(state);
        add(&self.counts.stale_parts, before - parts.len());
    }

    /// Takes parts of partitions that are held back out of those that wait to be decompressed: who knows when they are wanted.
    pub(super) fn set_aside(&self, parts: &mut VecDeque<Checked>) -> Vec<Checked> {
        let state = self.state();
        if !state.cursors.holds_any() {
            return Vec::new();
        }
        let (held, rest) = std::mem::take(parts)
            .into_iter()
            .partition::<Vec<_>, _>(|checked| state.cursors.is_held(checked.part.ticket.slot()));
        parts.extend(rest);
        held
    }

    /// Whether the application waits for records while what it holds back fills the buffer.
    pub(super) fn is_starved_by_holds(&self) -> bool {
        let state = self.state();
        state.inbox.is_empty() && state.waker.is_some() && state.cursors.holds_any()
    }

    /// Whether the application waits for records, and has taken all there were.
    pub(super) fn is_hungry(&self) -> bool {
        let state = self.state();
        state.inbox.is_empty() && state.waker.is_some()
    }

    /// Whether there is something that the application has to know.
    pub(super) fn has_errors(&self) -> bool {
        !self.state().errors.is_empty()
    }

    /// Turns failures of cursors into errors for the application; who is to be woken, if there is something for it.
    pub(super) fn settle(&self, state: &mut State) -> Option<Waker> {
        while let Some(failure) = state.cursors.poll_failure() {
            add(&self.counts.failures, 1);
            state.errors.push_back(failed(&failure));
        }
        let news = !state.inbox.is_empty() || !state.errors.is_empty() || state.cursors.has_ends();
        news.then(|| state.waker.take())?
    }

    /// Tells the application of an error that concerns no partition.
    pub(super) fn report(&self, error: Error) {
        let mut state = self.state();
        // One of a kind is enough: what it says will be tried again anyway.
        if state.errors.len() < MAX_ERRORS {
            state.errors.push_back(error);
        }
        let waker = self.settle(&mut state);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What is there for the application now, all records of a part at once.
    pub(super) fn try_part(&self) -> Option<Result<PartitionRecords>> {
        take(&mut self.state(), true, self.config.progress)
    }

    /// The next records for the application, or an error it has to know. `whole`: it takes them all at once.
    pub(super) fn poll_part(&self, context: &Context<'_>, whole: bool) -> Poll<Result<PartitionRecords>> {
        let mut state = self.state();
        if let Some(next) = take(&mut state, whole, self.config.progress) {
            return Poll::Ready(next);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            waker => *waker = Some(context.waker().clone()),
        }
        drop(state);
        self.memory.nudge();
        Poll::Pending
    }
}

/// What is there for the application now. `progress`: also where there are no records.
fn take(state: &mut State, whole: bool, progress: bool) -> Option<Result<PartitionRecords>> {
    if let Some(error) = state.errors.pop_front() {
        return Some(Err(error));
    }
    let empty = whole && progress;
    if empty && let Some(end) = end(&mut state.cursors) {
        return Some(Ok(end));
    }
    while let Some(part) = state.inbox.pop_front() {
        if !state.cursors.is_current(part.ticket) {
            continue;
        }
        let position = if whole || part.shown.is_empty() { part.next } else { part.start };
        state.cursors.on_taken(part.ticket, part.bytes, position);
        if empty || !part.shown.is_empty() {
            return Some(Ok(part));
        }
    }
    None
}

/// The next partition of which nothing is left.
fn end(cursors: &mut Cursors) -> Option<PartitionRecords> {
    let ticket = cursors.poll_end()?;
    let tp = cursors.tp(ticket)?.clone();
    // The ends are of the answer that said so.
    let view = cursors.view(now(), &tp)?;
    let at = view.position?;
    Some(PartitionRecords {
        ticket,
        tp,
        from: at.offset,
        start: at,
        next: at,
        bytes: 0,
        high_watermark: view.high_watermark,
        last_stable: view.last_stable_offset,
        log_start: view.log_start,
        shown: Shown::new(Bytes::new()),
    })
}

/// Errors that wait for the application, besides those of partitions.
const MAX_ERRORS: usize = 16;

/// The time, as the cursors take it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn failed(failure: &Failure) -> Error {
    let text = failure.reason.to_string();
    let error = match &failure.reason {
        Reason::Code(code) => Error::broker_code(*code, None),
        Reason::Truncated { at: None, .. } => Error::new(ErrorKind::DataLoss, text)
            .with_remedy("records were lost in an election; seek to read on"),
        Reason::Truncated { at: Some(at), .. } => Error::new(ErrorKind::DataLoss, text)
            .with_remedy(format!("records from {at} on were lost in an election; seek to {at} to read on")),
        Reason::OutOfRange { position, start: Some(start), .. } if position < start => {
            Error::new(ErrorKind::DataLoss, text).with_remedy(format!(
                "records were deleted before they were read; seek to {start} to read on"
            ))
        }
        Reason::OutOfRange { .. } => Error::new(ErrorKind::DataLoss, text)
            .with_remedy("the log lost records, or the topic was made anew; seek to read on"),
        Reason::Unreadable(_) => Error::peer(text).with_remedy(
            "the records cannot be read as they lie in the broker's log; seek behind them to leave them out",
        ),
        Reason::NoStart => Error::broker_code(ErrorCode::OFFSET_OUT_OF_RANGE, Some(&text))
            .with_remedy("seek, or set auto.offset.reset to earliest or latest"),
        Reason::Connection(_) | Reason::Lookup(_) => Error::new(ErrorKind::Io, text),
        Reason::NotNamed => Error::peer(text),
    };
    error.with_api("Fetch").with_topic_partition(&failure.tp)
}
