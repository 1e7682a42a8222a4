//! Whether and when a failed job starts again. Pure: time and chance are arguments.
//!
//! # References
//! Flink 2: `restart-strategy.type` and its options `fixed-delay.*` and `exponential-delay.*`, whose names and defaults are those of the
//! fields here. Flink's default with checkpoints is `exponential-delay` for ever; here it is [`Restart::Never`], since a program that runs
//! a job is told of its end, and a cluster is not.

use std::time::{Duration, Instant};

/// Whether a failed job starts again by itself, from its last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Restart {
    /// It does not: the first error ends the run. The default. Flink: `none`.
    #[default]
    Never,
    /// So many times in a run, after the same delay. Flink: `fixed-delay`.
    FixedDelay(FixedDelay),
    /// After a delay that grows from failure to failure, and is short again when the job has run well for a while. Flink:
    /// `exponential-delay`.
    ExponentialDelay(ExponentialDelay),
}

/// The same delay each time. The defaults are Flink's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FixedDelay {
    /// How often a run starts again. Default 1.
    pub attempts: u32,
    /// How long to wait before. Default 1 s.
    pub delay: Duration,
}

impl Default for FixedDelay {
    fn default() -> Self {
        Self { attempts: 1, delay: Duration::from_secs(1) }
    }
}

/// A growing delay. The defaults are Flink's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExponentialDelay {
    /// The first delay, and the shortest. Default 1 s.
    pub initial_backoff: Duration,
    /// The longest. Default 1 min.
    pub max_backoff: Duration,
    /// By how much a delay is longer than the one before. Default 1.5, at least 1.
    pub backoff_multiplier: f64,
    /// By which part of itself a delay may be shorter or longer, by chance. Default 0.1, from 0 to 1.
    pub jitter_factor: f64,
    /// A run that lasts so long after its delay makes the next delay the first one again. Default 1 h.
    pub reset_backoff_threshold: Duration,
    /// How often in a row, without a reset. Default `u32::MAX`: for ever.
    pub attempts_before_reset_backoff: u32,
}

impl Default for ExponentialDelay {
    fn default() -> Self {
        Self {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            backoff_multiplier: 1.5,
            jitter_factor: 0.1,
            reset_backoff_threshold: Duration::from_secs(3600),
            attempts_before_reset_backoff: u32::MAX,
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
            Restart::FixedDelay(FixedDelay { attempts, delay }) => {
                if self.in_a_row >= attempts {
                    return None;
                }
                delay
            }
            Restart::ExponentialDelay(growing) => {
                let ran = self.last.map(|(failed, waited)| now.saturating_duration_since(failed + waited));
                if ran.is_none_or(|ran| ran >= growing.reset_backoff_threshold) {
                    (self.in_a_row, self.backoff) = (0, growing.initial_backoff.min(growing.max_backoff));
                } else {
                    self.backoff =
                        grown(self.backoff, growing.backoff_multiplier.max(1.0)).min(growing.max_backoff);
                }
                if self.in_a_row >= growing.attempts_before_reset_backoff {
                    return None;
                }
                let jitter = growing.jitter_factor.clamp(0.0, 1.0) * (2.0 * chance - 1.0);
                grown(self.backoff, 1.0 + jitter).max(growing.initial_backoff).min(growing.max_backoff)
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
        let mut timer = RestartTimer::new(Restart::FixedDelay(FixedDelay { attempts: 2, delay: SECOND * 3 }));
        let delays = [0, 1, 2].map(|_| timer.next(now, 0.9));
        assert_eq!(delays, [Some(SECOND * 3), Some(SECOND * 3), None]);
        assert_eq!(RestartTimer::new(Restart::default()).next(now, EVEN), None);
    }

    /// `RestartStrategyOptions` of Flink 2.
    #[test]
    fn the_defaults_are_flinks() {
        assert_eq!(FixedDelay::default(), FixedDelay { attempts: 1, delay: SECOND });
        let flinks = ExponentialDelay {
            initial_backoff: SECOND,
            max_backoff: SECOND * 60,
            backoff_multiplier: 1.5,
            jitter_factor: 0.1,
            reset_backoff_threshold: SECOND * 3600,
            attempts_before_reset_backoff: u32::MAX,
        };
        assert_eq!(ExponentialDelay::default(), flinks);
    }

    #[test]
    fn a_growing_delay_has_flinks_shape_and_starts_again_after_a_good_run() {
        let mut now = Instant::now();
        let mut timer = RestartTimer::new(Restart::ExponentialDelay(ExponentialDelay::default()));
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
        let second = |chance| {
            let mut timer = RestartTimer::new(Restart::ExponentialDelay(ExponentialDelay::default()));
            [timer.next(now, chance), timer.next(now + SECOND, chance)]
                .map(|delay| delay.unwrap().as_millis())
        };
        assert_eq!(second(0.0), [1000, 1350], "never shorter than the first");
        assert_eq!(second(1.0), [1100, 1650]);
        let few = ExponentialDelay { attempts_before_reset_backoff: 1, ..ExponentialDelay::default() };
        let mut timer = RestartTimer::new(Restart::ExponentialDelay(few));
        assert!(timer.next(now, EVEN).is_some());
        assert_eq!(timer.next(now + SECOND, EVEN), None);
        assert!(timer.next(now + SECOND * 7200, EVEN).is_some(), "a good run makes it as new");
    }
}
