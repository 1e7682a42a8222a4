//! When a partition counts as idle, so that it no longer holds back the watermark.
//!
//! Two rules, each with its own delay. *Caught up*: the partition has been read to the end that the broker itself reports in its
//! fetch answers, and the answers have said so for the delay; a broker that doesn't answer confirms nothing, so an outage
//! never makes a partition idle. *Quiet*: no record came for the delay, by the clock alone; it also covers a broker that doesn't
//! answer, at the price of guessing. Data that is fetched but not yet handed out always counts as activity, so a slow job
//! doesn't make its partitions idle (FLINK-35886).

use std::time::{Duration, Instant};

/// The delays after which a partition is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idleness {
    /// Idle once caught up with the broker's end for this long. Default 60 seconds; `None` for never.
    pub caught_up: Option<Duration>,
    /// Idle once no record came for this long (Flink's `withIdleness`). Default `None`, never.
    pub quiet: Option<Duration>,
}

impl Default for Idleness {
    fn default() -> Self {
        Self { caught_up: Some(Duration::from_secs(60)), quiet: None }
    }
}

impl Idleness {
    /// No partition is ever idle.
    #[must_use]
    pub const fn never() -> Self {
        Self { caught_up: None, quiet: None }
    }
}

/// Decides for one partition.
#[derive(Clone, Copy, Debug)]
pub struct IdleTimer {
    rules: Idleness,
    last_activity: Instant,
    end: End,
}

/// What is known of the distance to the end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// No answer yet, or the last request failed.
    Unknown,
    /// There is more to read.
    Behind,
    /// Every answer from `since` to `confirmed` said that nothing is left.
    CaughtUp { since: Instant, confirmed: Instant },
}

impl IdleTimer {
    /// A timer for a partition that is read from `now` on.
    #[must_use]
    pub fn new(rules: Idleness, now: Instant) -> Self {
        Self { rules, last_activity: now, end: End::Unknown }
    }

    /// A record was handed out, or waits to be.
    pub fn on_activity(&mut self, now: Instant) {
        self.last_activity = now;
        self.end = End::Behind;
    }

    /// A fetch answer of this time said that nothing is left to read. Where what came before it was handed out later, that counts.
    pub fn on_caught_up(&mut self, at: Instant) {
        let at = at.max(self.last_activity);
        self.end = match self.end {
            End::CaughtUp { since, .. } => End::CaughtUp { since, confirmed: at },
            End::Unknown | End::Behind => End::CaughtUp { since: at, confirmed: at },
        };
    }

    /// A fetch answer said that there is more to read.
    pub fn on_behind(&mut self) {
        self.end = End::Behind;
    }

    /// A fetch failed: what was known of the end is no longer.
    pub fn on_unknown(&mut self) {
        self.end = End::Unknown;
    }

    /// Whether the last answer said that nothing is left.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        matches!(self.end, End::CaughtUp { .. })
    }

    /// Whether the partition is idle at `now`.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        let quiet =
            self.rules.quiet.is_some_and(|delay| now.saturating_duration_since(self.last_activity) >= delay);
        let caught_up = match (self.rules.caught_up, self.end) {
            (Some(delay), End::CaughtUp { since, confirmed }) => {
                confirmed.saturating_duration_since(since) >= delay
            }
            _ => false,
        };
        quiet || caught_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn caught_up_counts_from_answer_to_answer() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Idleness { caught_up: Some(SECOND * 3), quiet: None }, start);
        assert!(!timer.is_idle(start + SECOND * 100), "nothing is known yet");
        timer.on_caught_up(start);
        assert!(!timer.is_idle(start + SECOND * 100), "one answer confirms one moment");
        timer.on_caught_up(start + SECOND * 2);
        assert!(!timer.is_idle(start + SECOND * 2));
        timer.on_caught_up(start + SECOND * 3);
        assert!(timer.is_idle(start + SECOND * 3));
        timer.on_behind();
        assert!(!timer.is_idle(start + SECOND * 4));
    }

    #[test]
    fn a_broker_that_does_not_answer_makes_nothing_idle() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Idleness::default(), start);
        timer.on_caught_up(start);
        timer.on_unknown();
        timer.on_caught_up(start + SECOND * 90);
        assert!(!timer.is_idle(start + SECOND * 90), "the delay starts again after an outage");
        timer.on_caught_up(start + SECOND * 150);
        assert!(timer.is_idle(start + SECOND * 150));
    }

    /// A slow job hands out at 5 what came at 1, and the answer behind it came at 2.
    #[test]
    fn an_answer_older_than_the_last_record_counts_from_that_record() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Idleness { caught_up: Some(SECOND * 3), quiet: None }, start);
        timer.on_activity(start + SECOND * 5);
        timer.on_caught_up(start + SECOND * 2);
        timer.on_caught_up(start + SECOND * 7);
        assert!(!timer.is_idle(start + SECOND * 7));
        timer.on_caught_up(start + SECOND * 8);
        assert!(timer.is_idle(start + SECOND * 8));
    }

    #[test]
    fn quiet_is_by_the_clock_alone_and_any_record_ends_it() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Idleness { caught_up: None, quiet: Some(SECOND * 2) }, start);
        assert!(!timer.is_idle(start + SECOND));
        assert!(timer.is_idle(start + SECOND * 2));
        timer.on_activity(start + SECOND * 5);
        assert!(!timer.is_idle(start + SECOND * 6));
        assert!(timer.is_idle(start + SECOND * 7));
    }

    #[test]
    fn never_is_never() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Idleness::never(), start);
        timer.on_caught_up(start);
        timer.on_caught_up(start + SECOND * 1000);
        assert!(!timer.is_idle(start + SECOND * 1000));
    }
}
