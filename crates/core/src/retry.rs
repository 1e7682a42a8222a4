//! Exponential back-off with jitter, as data.
//!
//! [`Backoff`] is the policy, [`Delays`] the pure sequence it makes from a seed. The caller sleeps; this
//! module only says how long. Source: KIP-144 and KIP-580 (exponential back-off, 20 % jitter).

use std::time::Duration;

use crate::rng::Rng;

/// How long to wait between tries: `initial * multiplier^n`, at most `max`, spread by `jitter`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first delay. Default 100 ms (`retry.backoff.ms`).
    pub initial: Duration,
    /// The longest delay, before jitter. Default 1 s (`retry.backoff.max.ms`).
    pub max: Duration,
    /// How much longer each delay is than the one before; at least 1. Default 2.
    pub multiplier: f64,
    /// Each delay is drawn from `delay * (1 - jitter) ..= delay * (1 + jitter)`; 0 to 1. Default 0.2.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(1),
            multiplier: 2.0,
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// A policy with the default multiplier (2) and jitter (0.2).
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, ..Self::default() }
    }

    /// The back-off between repeated EndTxn requests: 5 ms doubling to 200 ms. The window in which a
    /// coordinator answers CONCURRENT_TRANSACTIONS is mostly shorter than 40 ms.
    #[must_use]
    pub fn for_transactions() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(200))
    }

    /// The delays of one sequence of tries. Equal seeds give equal delays.
    #[must_use]
    pub fn delays(self, seed: u64) -> Delays {
        Delays { backoff: self, attempt: 0, rng: Rng::new(seed) }
    }

    /// The delay after `attempt` failed tries (0 is the first delay), with jitter from `rng`.
    pub fn delay(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let multiplier = if self.multiplier >= 1.0 { self.multiplier } else { 1.0 };
        let jitter = if (0.0..=1.0).contains(&self.jitter) { self.jitter } else { 0.0 };
        // Exponents over 64 are at the maximum anyway, and keep the power finite.
        let grown = self.initial.as_secs_f64() * multiplier.powi(attempt.min(64) as i32);
        let base = grown.min(self.max.max(self.initial).as_secs_f64());
        let spread = 1.0 + jitter * (2.0 * rng.unit() - 1.0);
        Duration::try_from_secs_f64(base * spread).unwrap_or(self.max)
    }
}

/// The endless sequence of delays of a [`Backoff`].
#[derive(Clone, Debug)]
pub struct Delays {
    backoff: Backoff,
    attempt: u32,
    rng: Rng,
}

/// The name of [`Delays`] used where the policy's type is the context.
pub type BackoffIter = Delays;

impl Delays {
    /// How many delays were drawn since the start or the last [`Delays::reset`].
    #[must_use]
    pub fn drawn(&self) -> u32 {
        self.attempt
    }

    /// Starts again at the first delay, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next delay. There is always one.
    pub fn draw(&mut self) -> Duration {
        let delay = self.backoff.delay(self.attempt, &mut self.rng);
        self.attempt = self.attempt.saturating_add(1);
        delay
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_the_maximum_without_jitter() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let delays: Vec<u128> = backoff.delays(1).take(6).map(|delay| delay.as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_reset_starts_over() {
        let mut delays = Backoff { jitter: 0.0, ..Backoff::default() }.delays(1);
        delays.draw();
        delays.draw();
        delays.reset();
        assert_eq!(delays.draw(), Duration::from_millis(100));
        assert_eq!(delays.drawn(), 1);
    }

    proptest! {
        #[test]
        fn every_delay_is_inside_its_jitter_window(
            seed: u64, initial in 1u64..5_000, max in 1u64..60_000, multiplier in 1.0f64..10.0, jitter in 0.0f64..1.0,
        ) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial), max: Duration::from_millis(max), multiplier, jitter,
            };
            for (attempt, delay) in backoff.delays(seed).take(80).enumerate() {
                let base = (initial as f64 * multiplier.powi(attempt.min(64) as i32)).min(max.max(initial) as f64);
                let millis = delay.as_secs_f64() * 1e3;
                prop_assert!(millis >= base * (1.0 - jitter) - 0.01 && millis <= base * (1.0 + jitter) + 0.01);
            }
        }

        #[test]
        fn nonsense_settings_never_panic(seed: u64, multiplier: f64, jitter: f64, initial: u64, max: u64) {
            let backoff = Backoff {
                initial: Duration::from_millis(initial), max: Duration::from_millis(max), multiplier, jitter,
            };
            prop_assert_eq!(backoff.delays(seed).take(100).count(), 100);
        }
    }
}
