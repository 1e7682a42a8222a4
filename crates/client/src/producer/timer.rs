//! The producer's time: batches that have lingered, batches whose time is up.
//!
//! Both waits are the same for all batches, so both queues are first in, first out. The task sleeps until the earliest entry, and is
//! woken for an earlier one only: not for each batch that is settled before the next one comes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::engine::Engine;
use super::slot::{Clock, Slot, now_ms};
use super::ticket::BatchState;

/// How old the time may be that records get which name none.
pub(crate) const CLOCK_AGE: Duration = Duration::from_millis(10);

/// What waits for its time.
#[derive(Debug)]
pub(crate) struct Timers {
    linger: Duration,
    delivery: Duration,
    queues: Mutex<Queues>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    /// When a batch was opened, and where.
    lingering: VecDeque<(Instant, Arc<Slot>)>,
    /// When a lingered batch that its lane could not take yet began to wait for it, and where.
    waiting: VecDeque<(Instant, Arc<Slot>)>,
    unsettled: VecDeque<(Instant, Arc<Slot>, Arc<BatchState>)>,
    /// When the task looks again by itself: it has to be woken for what is due before.
    armed: Option<Instant>,
}

impl Timers {
    pub(crate) fn new(linger: Duration, delivery: Duration) -> Self {
        Self { linger, delivery, queues: Mutex::default(), wake: Notify::new() }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch got its first record.
    pub(crate) fn on_opened(&self, slot: &Arc<Slot>, batch: &Arc<BatchState>, opened: Instant) {
        let mut queues = self.queues();
        queues.forget_settled();
        let due = opened + if self.linger.is_zero() { self.delivery } else { self.linger.min(self.delivery) };
        let wake = queues.armed.is_none_or(|armed| due < armed);
        if wake {
            // Once is enough.
            queues.armed = Some(due);
        }
        queues.unsettled.push_back((opened, Arc::clone(slot), Arc::clone(batch)));
        if !self.linger.is_zero() {
            queues.lingering.push_back((opened, Arc::clone(slot)));
        }
        drop(queues);
        if wake {
            self.wake.notify_one();
        }
    }

    /// A batch has lingered and waits for its lane.
    fn on_lingered(&self, slot: &Arc<Slot>, now: Instant) {
        self.queues().waiting.push_back((now, Arc::clone(slot)));
    }

    /// The partitions whose open batch has lingered, those where it then waited too long for the clock, and those whose oldest batch is
    /// late.
    fn due(&self, now: Instant) -> Due {
        let mut queues = self.queues();
        let mut due = Due { lingered: Vec::new(), waited: Vec::new(), late: Vec::new() };
        let lingered = queues.lingering.partition_point(|(opened, _)| *opened + self.linger <= now);
        due.lingered.extend(queues.lingering.drain(..lingered));
        let waited = queues.waiting.partition_point(|(since, _)| *since + CLOCK_AGE <= now);
        due.waited.extend(queues.waiting.drain(..waited));
        let late = queues.unsettled.partition_point(|(opened, ..)| *opened + self.delivery <= now);
        let late = queues.unsettled.drain(..late).filter(|(_, _, batch)| !batch.is_settled());
        due.late.extend(late.map(|(_, slot, _)| slot));
        queues.forget_settled();
        due
    }

    /// When to look again.
    fn next(&self) -> Option<Instant> {
        let mut queues = self.queues();
        let linger = queues.lingering.front().map(|(opened, _)| *opened + self.linger);
        let delivery = queues.unsettled.front().map(|(opened, ..)| *opened + self.delivery);
        let clock = queues.waiting.front().map(|(since, _)| *since + CLOCK_AGE);
        queues.armed = linger.into_iter().chain(delivery).chain(clock).min();
        queues.armed
    }
}

impl Queues {
    fn forget_settled(&mut self) {
        while self.unsettled.front().is_some_and(|(_, _, batch)| batch.is_settled()) {
            self.unsettled.pop_front();
        }
    }
}

struct Due {
    lingered: Vec<(Instant, Arc<Slot>)>,
    waited: Vec<(Instant, Arc<Slot>)>,
    late: Vec<Arc<Slot>>,
}

/// Runs until the producer ends.
pub(crate) async fn run(engine: Arc<Engine>) {
    let mut ended = engine.ended.subscribe();
    loop {
        let now = engine.now();
        let due = engine.timers.due(now);
        for (opened, slot) in due.lingered {
            let mut state = slot.state();
            // A batch that was opened later has an entry of its own.
            if state.batches.opened_at().is_some_and(|at| at <= opened) && state.batches.mark_due() {
                state.clock = Clock::Fresh(now_ms());
                engine.schedule(&slot, &mut state);
                engine.timers.on_lingered(&slot, now);
            }
        }
        for (since, slot) in due.waited {
            let mut state = slot.state();
            if state.batches.is_due() && state.batches.opened_at().is_some_and(|at| at <= since) {
                state.clock = Clock::Stale;
            }
        }
        for slot in due.late {
            let (gone, cause) = {
                let mut state = slot.state();
                (state.batches.expire(now), state.trouble.clone())
            };
            for (settled, failure) in gone {
                engine.failed(&slot.tp, settled, failure, cause.as_ref());
            }
        }
        let next = engine.timers.next();
        let next = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            () = engine.timers.wake.notified() => {}
            () = next => {}
        }
    }
}
