//! What the two simulations share: the worlds of a seed, their trouble, and which seeds are run.

use std::ops::Range;
use std::time::Duration;

use milena::{Backoff, Client, ClientConfig, ErrorCode, transport};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::sim::{Dice, Kind, Trouble, Weather, World};

/// The topic of every world.
pub(crate) const TOPIC: &str = "t";
/// Its partitions.
pub(crate) const PARTITIONS: i32 = 3;

fn asked(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")))
}

/// The seed that was asked for by `MILENA_SIM_SEED`, so that its story is wanted.
pub(crate) fn one() -> Option<u64> {
    asked("MILENA_SIM_SEED")
}

/// Which seeds are run: with every test run `usual` of them. `MILENA_SIM_SEEDS` asks for another number, `MILENA_SIM_FROM` where they begin,
/// `MILENA_SIM_SEED` for one seed.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    match one() {
        Some(seed) => seed..seed + 1,
        None => {
            let from = asked("MILENA_SIM_FROM").unwrap_or(0);
            from..from + asked("MILENA_SIM_SEEDS").unwrap_or(usual)
        }
    }
}

/// Fails if a seed did.
pub(crate) fn judge(failed: &[(u64, String)]) {
    for (seed, why) in failed {
        println!("seed {seed}: {why}");
    }
    if let Some((first, _)) = failed.first() {
        panic!("{} seeds failed; again with `cargo xtask sim --seed {first}`", failed.len());
    }
}

/// A broker with the topic.
pub(crate) fn broker(dice: &Dice) -> BrokerConfig {
    let mut config = BrokerConfig::default().with_topic(TOPIC, PARTITIONS);
    config.seed = dice.next();
    config
}

/// Of some nodes, most often, and of followers that lag behind.
pub(crate) fn replicate(config: &mut BrokerConfig, dice: &Dice) {
    if !dice.one_in(4) {
        config.nodes = 3;
    }
    if !dice.one_in(3) {
        config.replication_lag = Duration::from_millis(dice.between(1, 60));
    }
}

/// How bad the network is.
pub(crate) fn weather(dice: &Dice) -> Weather {
    let rarely = |dice: &Dice, often: u64| if dice.one_in(3) { 0 } else { dice.between(often, often * 8) };
    Weather {
        delay: Duration::from_millis(dice.between(1, 40)),
        piece: if dice.one_in(2) { 200 } else { 64 * 1024 },
        cut: rarely(dice, 60),
        silence: rarely(dice, 200),
        refuse: rarely(dice, 5),
    }
}

/// What goes wrong: requests of these APIs, with these errors, and all else that may.
pub(crate) fn trouble(dice: &Dice, apis: &[i16], errors: &[ErrorCode]) -> Trouble {
    let kinds = [
        Kind::Cut,
        Kind::Restart,
        Kind::Election,
        Kind::Fault,
        Kind::Fault,
        Kind::Throttle,
        Kind::Rename,
        Kind::Move,
        Kind::Move,
        Kind::Kill,
    ];
    let some: Vec<Kind> = kinds.into_iter().filter(|_| !dice.one_in(3)).collect();
    Trouble {
        kinds: if some.is_empty() { kinds.to_vec() } else { some },
        pause: Duration::from_millis(dice.between(50, 1500)),
        apis: apis.to_vec(),
        errors: errors.to_vec(),
        partitions: (0..PARTITIONS).map(|partition| (TOPIC.to_owned(), partition)).collect(),
        longest: Duration::from_millis(dice.between(20, 1500)),
    }
}

/// A client, as soon as the world lets it in.
pub(crate) async fn connect(world: &World) -> Client {
    let network = world.network.clone();
    let dialer = transport::from_fn(move |host, port| {
        let network = network.clone();
        async move { network.dial(host, port).await }
    });
    let mut config = ClientConfig::from(world.broker.bootstrap().as_str()).with_dialer(dialer);
    config.seed = Some(world.dice.next());
    config.backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    config.connect_timeout = Duration::from_secs(2);
    config.request_timeout = Duration::from_secs(2);
    loop {
        match Client::connect(config.clone()).await {
            Ok(client) => return client,
            Err(_) => world.network.note("not connected"),
        }
    }
}
