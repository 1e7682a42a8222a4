//! How long the oldest unfinished transaction still has before its broker aborts it.

use std::time::{Duration, Instant};

/// Warns when less than this part of the timeout is left.
const WARN_BELOW: u32 = 5;
/// Warns again after this long at the earliest.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Watches the age of a job's transactions.
#[derive(Debug)]
pub(super) struct TimeLeft {
    timeout: Duration,
    warned: Option<Instant>,
}

impl TimeLeft {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, warned: None }
    }

    /// What is left for the oldest of these ages; `None` without any.
    pub(super) fn look(&mut self, now: Instant, ages: impl Iterator<Item = Duration>) -> Option<Duration> {
        let left = self.timeout.saturating_sub(ages.max()?);
        if self.is_warning_due(now, left) {
            self.warned = Some(now);
            tracing::warn!(
                ?left, timeout = ?self.timeout,
                "a transaction is about to time out, and its records would be lost: checkpoints or commits take too long, or the \
                 transaction timeout is too short"
            );
        }
        Some(left)
    }

    fn is_warning_due(&self, now: Instant, left: Duration) -> bool {
        left < self.timeout / WARN_BELOW
            && self.warned.is_none_or(|warned| now.saturating_duration_since(warned) >= WARN_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // scenario: D2
    #[test]
    fn the_oldest_counts_and_warnings_do_not_repeat_at_once() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let mut watch = TimeLeft::new(seconds(100));
        assert_eq!(watch.look(now, std::iter::empty()), None);
        assert_eq!(watch.look(now, [seconds(10), seconds(60), seconds(3)].into_iter()), Some(seconds(40)));
        assert!(watch.warned.is_none());
        assert_eq!(watch.look(now, [seconds(81)].into_iter()), Some(seconds(19)));
        assert!(watch.warned.is_some());
        assert!(!watch.is_warning_due(now + seconds(1), seconds(1)));
        assert!(watch.is_warning_due(now + WARN_EVERY, seconds(1)));
        assert_eq!(watch.look(now, [seconds(200)].into_iter()), Some(Duration::ZERO));
    }
}
