//! Whether and when a failed job starts again. Pure: time and chance are arguments.
//!
//! # References
//! Flink: `restart-strategy.type` and its options `fixed-delay.*`, `exponential-delay.*`.

use std::time::{Duration, Instant};

/// Whether a failed job starts again by itself, from its last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Restart {
    /// It does not: the first error ends the run. The default.
    #[default]
    Never,
    /// So many times in a run, after the same delay. Flink's `fixed-delay`, whose defaults are 1 attempt and 1 s.
    FixedDelay {
        /// How often.
        attempts: u32,
        /// How long to wait before.
        delay: Duration,
    },
    /// After a delay that grows from failure to failure, and is short again when the job has run well for a while. Flink's
    /// `exponential-delay`.
    Exponential(ExponentialDelay),
}

/// A growing delay. The defaults are Flink's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExponentialDelay {
    /// The first delay. Default 1 s.
    pub initial: Duration,
    /// The longest. Default 1 min.
    pub max: Duration,
    /// By how much a delay is longer than the one before. Default 1.5, at least 1.
    pub multiplier: f64,
    /// By which part of itself a delay may be shorter or longer, by chance. Default 0.1, from 0 to 1.
    pub jitter: f64,
    /// A run that lasts so long after its delay makes the next delay the first one again. Default 1 h.
    pub reset_after: Duration,
    /// How often in a row, without a reset. Default `u32::MAX`.
    pub attempts: u32,
}

impl Default for ExponentialDelay {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            multiplier: 1.5,
            jitter: 0.1,
            reset_after: Duration::from_secs(3600),
            attempts: u32::MAX,
        }
    }
}

/// Where a job stands with its strategy.
#[derive(Debug)]
pub(super) struct RestartTimer {
    strategy: Restart,
    in_a_row: u32,
    backoff: Duration,
    /// When the job failed last, and how long it then waited.
    last: Option<(Instant, Duration)>,
}

impl RestartTimer {
    pub(super) fn new(strategy: Restart) -> Self {
        Self { strategy, in_a_row: 0, backoff: Duration::ZERO, last: None }
    }

    /// The job failed: how long to wait before it starts again, or `None` if it does not. `chance` is from 0 to 1.
    pub(super) fn next(&mut self, now: Instant, chance: f64) -> Option<Duration> {
        let delay = match self.strategy {
            Restart::Never => return None,
            Restart::FixedDelay { attempts, delay } => {
                if self.in_a_row >= attempts {
                    return None;
                }
                delay
            }
            Restart::Exponential(growing) => {
                let ran = self.last.map(|(failed, waited)| now.saturating_duration_since(failed + waited));
                if ran.is_none_or(|ran| ran >= growing.reset_after) {
                    (self.in_a_row, self.backoff) = (0, growing.initial.min(growing.max));
                } else {
                    self.backoff = grown(self.backoff, growing.multiplier.max(1.0)).min(growing.max);
                }
                if self.in_a_row >= growing.attempts {
                    return None;
                }
                let jitter = growing.jitter.clamp(0.0, 1.0) * (2.0 * chance - 1.0);
                grown(self.backoff, 1.0 + jitter).min(growing.max)
            }
        };
        self.in_a_row += 1;
        self.last = Some((now, delay));
        Some(delay)
    }
}

fn grown(delay: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// No jitter.
    const EVEN: f64 = 0.5;

    #[test]
    fn a_fixed_delay_is_the_same_each_time_and_ends() {
        let now = Instant::now();
        let mut timer = RestartTimer::new(Restart::FixedDelay { attempts: 2, delay: SECOND * 3 });
        let delays = [0, 1, 2].map(|_| timer.next(now, 0.9));
        assert_eq!(delays, [Some(SECOND * 3), Some(SECOND * 3), None]);
        assert_eq!(RestartTimer::new(Restart::default()).next(now, EVEN), None);
    }

    #[test]
    fn a_growing_delay_has_flinks_shape_and_starts_again_after_a_good_run() {
        let mut now = Instant::now();
        let mut timer = RestartTimer::new(Restart::Exponential(ExponentialDelay::default()));
        let mut delays = Vec::new();
        for _ in 0..13 {
            let delay = timer.next(now, EVEN).unwrap();
            now += delay + SECOND * 10;
            delays.push(delay.as_millis());
        }
        assert_eq!(delays[..5], [1000, 1500, 2250, 3375, 5062]);
        assert_eq!(delays[12], 60_000, "no longer than the longest");
        assert_eq!(timer.next(now + SECOND * 3600, EVEN), Some(SECOND));
    }

    #[test]
    fn chance_moves_a_delay_by_its_jitter_and_not_more() {
        let now = Instant::now();
        let first =
            |chance| RestartTimer::new(Restart::Exponential(ExponentialDelay::default())).next(now, chance);
        assert_eq!(first(0.0), Some(Duration::from_millis(900)));
        assert_eq!(first(1.0), Some(Duration::from_millis(1100)));
        let few = ExponentialDelay { attempts: 1, ..ExponentialDelay::default() };
        let mut timer = RestartTimer::new(Restart::Exponential(few));
        assert!(timer.next(now, EVEN).is_some());
        assert_eq!(timer.next(now + SECOND, EVEN), None);
        assert!(timer.next(now + SECOND * 7200, EVEN).is_some(), "a good run makes it as new");
    }
}
