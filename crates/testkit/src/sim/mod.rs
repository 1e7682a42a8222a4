//! Simulation: a client on the embedded broker in virtual time, over a network that breaks by a seed.
//!
//! ```text
//! client --Network::dial--> courier (delays, cuts, late bytes) --> nodes of an EmbeddedBroker <-- Trouble (elections, faults, deaths)
//! ```
//!
//! [`run`] runs a scenario on a runtime of its own, whose clock is stopped: time passes when everybody waits, so minutes take
//! milliseconds. All that happens follows from the seed, as long as the scenario and the client draw from it alone; [`Network::trace`]
//! is a number that differs if anything was different. What the scenario's client is (producer, consumer, both) is its own affair.

mod network;
mod trouble;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::broker::BrokerConfig;
use crate::broker::rng::Rng;
use crate::listen::EmbeddedBroker;

pub use network::{Network, Stream, Weather};
pub use trouble::{Kind, Trouble};

/// Random numbers by a seed. Clones share their state.
#[derive(Clone, Debug)]
pub struct Dice(Arc<Mutex<Rng>>);

impl Dice {
    /// Dice that fall by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Rng::new(seed))))
    }

    fn lock(&self) -> MutexGuard<'_, Rng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next 64 bits.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.lock().next()
    }

    /// A number below `bound`; 0 for 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// `true` once in `times`.
    #[must_use]
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A time below `most`, in whole microseconds.
    #[must_use]
    pub fn time(&self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Other dice, whose throws do not depend on how often these are thrown later.
    #[must_use]
    pub fn split(&self) -> Self {
        Self::new(self.next())
    }
}

/// A broker of one or more nodes, the network to it, and the dice.
#[derive(Clone, Debug)]
pub struct World {
    /// The broker.
    pub broker: EmbeddedBroker,
    /// How clients get to it.
    pub network: Network,
    /// For the scenario.
    pub dice: Dice,
}

/// Runs a scenario in virtual time. `build` makes the broker's settings and the weather.
///
/// # Panics
/// If no runtime can be made.
#[allow(clippy::expect_used, reason = "without a runtime there is nothing to run")]
pub fn run<T, F: Future<Output = T>>(
    seed: u64,
    build: impl FnOnce(&Dice) -> (BrokerConfig, Weather),
    scenario: impl FnOnce(World) -> F,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let dice = Dice::new(seed);
        let (config, weather) = build(&dice);
        let broker = EmbeddedBroker::in_memory(config);
        let network = Network::new(broker.clone(), weather, dice.split());
        scenario(World { broker, network, dice }).await
    })
}

/// Runs a check for each seed and collects those that fail: a failed check returns its reason, or panics.
pub fn failing(
    seeds: impl IntoIterator<Item = u64>,
    check: impl Fn(u64) -> Result<(), String>,
) -> Vec<(u64, String)> {
    let mut failed = Vec::new();
    for seed in seeds {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(seed)));
        let why = match caught {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            Err(panic) => panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "it panicked".to_owned()),
        };
        failed.push((seed, why));
    }
    failed
}
