//! Tries of one call until its deadline, with back-off between them.

use std::time::Duration;

use milena_core::retry::{Backoff, Delays};
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Counts the tries of one public call and paces them.
#[derive(Debug)]
pub(crate) struct Attempts {
    started: Instant,
    deadline: Instant,
    delays: Delays,
    count: u32,
}

impl Attempts {
    /// Tries from now on, for `timeout` at most.
    pub(crate) fn new(timeout: Duration, backoff: Backoff, seed: u64) -> Self {
        let started = Instant::now();
        Self { started, deadline: started + timeout, delays: backoff.delays(seed), count: 1 }
    }

    /// When the call is over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// After a failed try: waits for the next one, or gives the error back when it is final or the time is up.
    ///
    /// # Cancellation
    /// Only the waiting stops.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        if !error.is_retriable() {
            return Err(self.last(error));
        }
        let delay = self.delays.draw();
        if Instant::now() + delay >= self.deadline {
            return Err(self.last(error));
        }
        tracing::debug!(attempt = self.count, ?delay, %error, "trying again");
        tokio::time::sleep(delay).await;
        self.count += 1;
        Ok(())
    }

    /// The error of the whole call: how often and for how long it was tried.
    pub(crate) fn last(&self, error: Error) -> Error {
        error.with_attempts(self.count, self.started.elapsed())
    }
}
