//! What goes wrong at the broker, at random moments.

use std::time::Duration;

use milena_protocol::ErrorCode;
use tokio::time::sleep;

use super::{Dice, World};
use crate::broker::Fault;

/// A kind of trouble.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// All connections are cut.
    Cut,
    /// The broker restarts: connections and what waits on them are gone.
    Restart,
    /// A partition is without a leader for a while, then it has one in a new epoch.
    Election,
    /// A request of an API meets a fault: no effect, no answer, an error, or a delay.
    Fault,
    /// An answer asks its client to leave the broker alone for a while.
    Throttle,
    /// The nodes are found at another name.
    Rename,
    /// A partition is led by another node; what has not reached the followers is gone.
    Move,
    /// A node dies. After a while what it led is led by others, and then it comes back.
    Kill,
}

/// What may go wrong, and how often.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The kinds to choose from, each as likely as it is often here.
    pub kinds: Vec<Kind>,
    /// How long it is quiet between two, at most.
    pub pause: Duration,
    /// The APIs that meet faults.
    pub apis: Vec<i16>,
    /// The errors that requests of these APIs may be refused with.
    pub errors: Vec<ErrorCode>,
    /// The partitions that lose their leader.
    pub partitions: Vec<(String, i32)>,
    /// The longest time without a leader, of a delay, of a throttle.
    pub longest: Duration,
}

impl Trouble {
    /// Makes trouble until the future is dropped.
    ///
    /// # Cancellation
    /// A partition may be left without a leader: call [`end`](Self::end).
    pub async fn make(&self, world: &World) {
        let dice = world.dice.split();
        for turn in 0u16.. {
            sleep(dice.time(self.pause)).await;
            let place = usize::try_from(dice.below(self.kinds.len() as u64)).unwrap_or(0);
            let Some(&kind) = self.kinds.get(place) else { return };
            world.network.note(("trouble", kind));
            match kind {
                Kind::Cut => world.network.cut_all(),
                Kind::Restart => world.broker.restart(),
                Kind::Rename => world.network.rename(&format!("renamed-{}", turn % 3), 9000 + turn % 3 * 100),
                Kind::Move => {
                    let (place, node) = (dice.below(self.partitions.len() as u64), self.node(world, &dice));
                    let Some((topic, partition)) = self.partitions.get(place as usize) else { continue };
                    world.broker.with_broker(|broker| broker.move_leader(topic, *partition, node));
                }
                Kind::Kill => self.kill(world, &dice).await,
                Kind::Fault => self.fault(world, &dice),
                Kind::Throttle => {
                    let fault = Fault::Throttle(dice.time(self.longest));
                    world.broker.faults().on(self.api(&dice), fault, 1);
                }
                Kind::Election => {
                    let place = usize::try_from(dice.below(self.partitions.len() as u64)).unwrap_or(0);
                    let Some((topic, partition)) = self.partitions.get(place) else { continue };
                    world.broker.with_broker(|broker| broker.set_leaderless(topic, *partition, true));
                    sleep(dice.time(self.longest)).await;
                    world.broker.with_broker(|broker| {
                        broker.set_leaderless(topic, *partition, false);
                        broker.bump_leader_epoch(topic, *partition);
                    });
                }
            }
        }
    }

    fn node(&self, world: &World, dice: &Dice) -> i32 {
        let (first, count) = world.broker.with_broker(|broker| {
            let config = broker.config();
            (config.node_id, config.nodes.max(1))
        });
        first + dice.below(count.unsigned_abs().into()) as i32
    }

    async fn kill(&self, world: &World, dice: &Dice) {
        let dead = self.node(world, dice);
        world.network.set_down(dead, true);
        sleep(dice.time(self.longest)).await;
        for (topic, partition) in &self.partitions {
            let next = self.node(world, dice);
            world.broker.with_broker(|broker| {
                if broker.leader(topic, *partition) == Some(dead) && next != dead {
                    broker.move_leader(topic, *partition, next);
                }
            });
        }
        sleep(dice.time(self.longest)).await;
        world.network.set_down(dead, false);
    }

    fn api(&self, dice: &Dice) -> i16 {
        let place = usize::try_from(dice.below(self.apis.len() as u64)).unwrap_or(0);
        self.apis.get(place).copied().unwrap_or(0)
    }

    fn fault(&self, world: &World, dice: &Dice) {
        let error = usize::try_from(dice.below(self.errors.len() as u64)).unwrap_or(0);
        let fault = match (dice.below(6), self.errors.get(error)) {
            (0, _) => Fault::DropBefore,
            (1, _) => Fault::DropAfter,
            (2, _) => Fault::Silence,
            (3, _) => Fault::Delay(dice.time(self.longest)),
            (_, Some(error)) => Fault::Error(*error),
            (_, None) => return,
        };
        let times = 1 + u32::from(dice.one_in(3));
        world.broker.faults().on(self.api(dice), fault, times);
    }

    /// Ends all trouble: the network is calm, nodes are up, partitions have leaders, no fault waits.
    pub fn end(&self, world: &World) {
        world.network.set_weather(super::Weather::CALM);
        world.network.all_up();
        world.broker.faults().clear();
        world.broker.with_broker(|broker| {
            for (topic, partition) in &self.partitions {
                broker.set_leaderless(topic, *partition, false);
            }
        });
        // Silent connections would only be found out by their time-out.
        world.network.cut_all();
    }
}
