//! What the application's side of a consumer and its tasks share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use milena_core::fetch::{Cursors, Failure, Reason};
use milena_protocol::error_code::ErrorCode;
use tokio::sync::Notify;

use super::config::ConsumerConfig;
use super::decode::Checked;
use super::memory::Memory;
use super::metrics::{Counts, add};
use super::part::PartitionRecords;
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
    errors: VecDeque<Error>,
    /// Who waits for records.
    waker: Option<Waker>,
}

impl State {
    /// Drops what waits of a partition whose tickets are void.
    pub(super) fn purge(&mut self) -> usize {
        let before = self.inbox.len();
        let cursors = &self.cursors;
        self.inbox.retain(|part| cursors.is_current(part.ticket));
        before - self.inbox.len()
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
                errors: VecDeque::new(),
                waker: None,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reading(&self) -> Reading {
        Reading { isolation: self.config.isolation, check_crcs: self.config.check_crcs }
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
                state.inbox.push_back(part);
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
        (!state.inbox.is_empty() || !state.errors.is_empty()).then(|| state.waker.take())?
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

    /// The next records for the application, or an error it has to know. `whole`: it takes them all at once.
    pub(super) fn poll_part(&self, context: &Context<'_>, whole: bool) -> Poll<Result<PartitionRecords>> {
        let mut state = self.state();
        if let Some(next) = take(&mut state, whole) {
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

/// What is there for the application now.
fn take(state: &mut State, whole: bool) -> Option<Result<PartitionRecords>> {
    if let Some(error) = state.errors.pop_front() {
        return Some(Err(error));
    }
    while let Some(part) = state.inbox.pop_front() {
        if !state.cursors.is_current(part.ticket) {
            continue;
        }
        let position = if whole || part.shown.is_empty() { part.next } else { part.start };
        state.cursors.on_taken(part.ticket, part.bytes, position);
        if !part.shown.is_empty() {
            return Some(Ok(part));
        }
    }
    None
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
        Reason::Truncated { at, .. } => Error::new(ErrorKind::DataLoss, text)
            .with_remedy(format!("records from {at} on were lost in an election; seek to {at} to read on")),
        Reason::OutOfRange { position, start: Some(start), .. } if position < start => {
            Error::new(ErrorKind::DataLoss, text).with_remedy(format!(
                "records were deleted before they were read; seek to {start} to read on"
            ))
        }
        Reason::OutOfRange { .. } => Error::new(ErrorKind::DataLoss, text)
            .with_remedy("the log lost records, or the topic was made anew; seek to read on"),
        Reason::Unreadable(_) => Error::peer(text)
            .with_remedy("the records are damaged in the broker's log; seek behind them to leave them out"),
        Reason::NoStart => Error::broker_code(ErrorCode::OFFSET_OUT_OF_RANGE, Some(&text))
            .with_remedy("seek, or set auto.offset.reset to earliest or latest"),
        Reason::Connection(_) | Reason::Lookup(_) => Error::new(ErrorKind::Io, text),
        Reason::NotNamed => Error::peer(text),
    };
    error.with_api("Fetch").with_topic_partition(&failure.tp)
}
