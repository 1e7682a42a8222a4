//! Finds the lane of each partition: who the producer is, who leads the partition, whether it belongs to the transaction yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use milena_core::cluster::{Cluster, Topic};
use milena_core::produce::Identity;
use milena_core::retry::Delays;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::BrokerId;
use tokio::sync::Notify;

use super::config::Idempotence;
use super::engine::Engine;
use super::slot::Slot;
use crate::error::{Error, ErrorKind};
use crate::generation::release_of;
use crate::metadata::Want;
use crate::transaction::{FENCED, init_producer_id, is_fenced};

/// The partitions that wait for the router.
#[derive(Debug, Default)]
pub(crate) struct RouterQueue {
    parked: Mutex<Vec<Parked>>,
    wake: Notify,
}

#[derive(Debug)]
struct Parked {
    slot: Arc<Slot>,
    at: Instant,
    /// What is known of its leader is wrong.
    refresh: bool,
}

impl RouterQueue {
    /// To be looked at from `at` on.
    pub(crate) fn park(&self, slot: Arc<Slot>, at: Instant, refresh: bool) {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).push(Parked { slot, at, refresh });
        self.wake.notify_one();
    }

    fn due(&self, now: Instant) -> (Vec<Parked>, Option<Instant>) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = parked.extract_if(.., |parked| parked.at <= now).collect();
        let next = parked.iter().map(|parked| parked.at).min();
        (due, next)
    }
}

/// How long one look at the cluster may take before it is tried again.
const LOOK: Duration = Duration::from_secs(10);

/// Runs until the producer ends.
pub(crate) async fn run(engine: Arc<Engine>) {
    let mut ended = engine.ended.subscribe();
    let mut snapshots = engine.client.metadata_cache().subscribe();
    let mut router = Router { delays: engine.client.config().backoff.delays(engine.client.seed()), engine };
    loop {
        let (due, next) = router.engine.router.due(router.engine.now());
        if due.is_empty() {
            let next = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                () = router.engine.router.wake.notified() => {}
                // Nothing else asks while all goes well: partitions that were added are written from now on.
                Ok(()) = snapshots.changed() => {
                    let cluster = Arc::clone(&snapshots.borrow_and_update());
                    router.learn(&cluster);
                }
                () = next => {}
            }
            continue;
        }
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            () = router.route(due) => {}
        }
    }
}

struct Router {
    engine: Arc<Engine>,
    delays: Delays,
}

impl Router {
    /// Takes over what a new look at the cluster says of the topics that are written to.
    fn learn(&self, cluster: &Cluster) {
        let known = |topic: &&Arc<Topic>| self.engine.knows(&topic.name, None);
        cluster.topics().filter(known).for_each(|topic| self.engine.take_over(topic));
    }

    async fn route(&mut self, mut due: Vec<Parked>) {
        due.retain(|parked| {
            let mut state = parked.slot.state();
            state.parked = !state.batches.is_empty();
            state.parked
        });
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.identify(&due).await {
            return self.later(due, &error);
        }
        let cluster = self.engine.client.cluster();
        let (known, stale): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|parked| !parked.refresh && leader(&cluster, &parked.slot).is_some());
        self.hand_over(&cluster, known).await;
        if stale.is_empty() {
            return;
        }
        let topics: BTreeSet<Arc<str>> =
            stale.iter().map(|parked| Arc::clone(&parked.slot.tp.topic)).collect();
        let deadline = tokio::time::Instant::now() + LOOK;
        match self.engine.client.refresh(Want::Topics(topics.clone()), deadline).await {
            Ok(cluster) => {
                for topic in topics.iter().filter_map(|name| cluster.topic(name)) {
                    self.engine.take_over(topic);
                }
                let (led, leaderless): (Vec<_>, Vec<_>) =
                    stale.into_iter().partition(|parked| leader(&cluster, &parked.slot).is_some());
                self.hand_over(&cluster, led).await;
                self.leaderless(&cluster, leaderless);
            }
            Err(error) => self.later(stale, &error),
        }
    }

    /// Makes sure that there is an identity, and a new one if a partition lost a sequence under the present one.
    async fn identify(&mut self, due: &[Parked]) -> Result<(), Error> {
        let engine = &self.engine;
        if engine.idempotent() == Some(false) || engine.link.is_some() {
            return Ok(());
        }
        let present = engine.identity();
        let lost = |present: &Identity| {
            due.iter().any(|parked| parked.slot.state().batches.lost_identity() == Some(*present))
        };
        if present.is_some_and(|present| !lost(&present)) {
            return Ok(());
        }
        match init_producer_id(&engine.client, None, present).await {
            Ok(identity) => {
                if present.is_some() {
                    tracing::warn!(epoch = %identity.epoch, "a sequence was lost; the producer goes on with a new epoch");
                    engine.counts.on_epoch();
                }
                engine.set_identity(identity);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Unsupported && present.is_none() => {
                if engine.config.idempotence != Idempotence::Required {
                    engine.go_without_idempotence(&error);
                    return Ok(());
                }
                let error = self.refused_idempotence(error).await;
                engine.fail_for_good(error.clone());
                Err(error)
            }
            Err(error) => {
                if !error.is_retriable() {
                    engine.fail_for_good(error.clone());
                }
                Err(error)
            }
        }
    }

    /// The error of a producer that needs idempotence where there is none.
    async fn refused_idempotence(&self, error: Error) -> Error {
        let deadline = tokio::time::Instant::now() + LOOK;
        let age = match self.engine.client.any_versions(deadline).await {
            Ok(versions) => release_of(&versions),
            Err(_) => "before 0.11",
        };
        let text =
            format!("idempotence is required, and this is a broker of Kafka {age}: {}", error.message());
        let refused = Error::new(ErrorKind::Unsupported, text)
            .with_api("InitProducerId")
            .with_remedy("set idempotence = WhenPossible to go without, or use Kafka 0.11 or later");
        match error.broker() {
            Some(broker) => refused.with_broker(broker),
            None => refused,
        }
    }

    /// Gives partitions to the lanes of their leaders, after adding them to the transaction.
    async fn hand_over(&mut self, cluster: &Cluster, led: Vec<Parked>) {
        let engine = Arc::clone(&self.engine);
        if let Some(link) = &engine.link {
            let outside: Vec<&Arc<Slot>> = led
                .iter()
                .map(|parked| &parked.slot)
                .filter(|slot| {
                    let state = slot.state();
                    !state.batches.is_empty() && link.must_join(state.joined)
                })
                .collect();
            let turn = link.turn();
            if !outside.is_empty() {
                let partitions: Vec<_> = outside.iter().map(|slot| slot.tp.clone()).collect();
                if let Err(error) = link.join(&engine.client, engine.identity(), &partitions).await {
                    if error.code().is_some_and(is_fenced) {
                        engine.fail_for_good(error.clone().with_remedy(FENCED));
                    } else if !error.is_retriable() {
                        link.on_failed(&error);
                        engine.stop(&error);
                    }
                    return self.later(led, &error);
                }
                outside.iter().for_each(|slot| slot.state().joined = turn);
            }
        }
        let mut lanes = BTreeMap::new();
        for parked in led {
            let Some(leader) = leader(cluster, &parked.slot) else { continue };
            let lane = lanes.entry(leader).or_insert_with(|| engine.lane(leader));
            let mut state = parked.slot.state();
            state.parked = false;
            state.lane = Some(Arc::clone(lane));
            engine.schedule(&parked.slot, &mut state);
        }
        self.delays = engine.client.config().backoff.delays(engine.client.seed());
    }

    fn leaderless(&mut self, cluster: &Cluster, parked: Vec<Parked>) {
        for one in parked {
            let code = cluster.topic_error(&one.slot.tp.topic).unwrap_or(ErrorCode::LEADER_NOT_AVAILABLE);
            let error = Error::broker_code(code, None).with_topic_partition(&one.slot.tp);
            if code.is_retriable() {
                self.later(vec![one], &error);
            } else {
                self.give_up(&one.slot, &error);
            }
        }
    }

    /// Fails what a partition holds.
    fn give_up(&self, slot: &Arc<Slot>, error: &Error) {
        let gone = {
            let mut state = slot.state();
            state.parked = false;
            let gone = state.batches.stop();
            state.batches.resume();
            gone
        };
        for (settled, failure) in gone {
            self.engine.failed(&slot.tp, settled, failure, Some(error));
        }
    }

    /// Looks at them again after a while. Their records stay as long as their time is not up.
    fn later(&mut self, parked: Vec<Parked>, error: &Error) {
        if parked.is_empty() {
            return;
        }
        let at = self.engine.now() + self.delays.draw();
        tracing::debug!(partitions = parked.len(), %error, "partitions wait for a leader");
        for one in parked {
            one.slot.state().trouble = Some(error.clone());
            self.engine.router.park(one.slot, at, one.refresh);
        }
    }
}

fn leader(cluster: &Cluster, slot: &Slot) -> Option<BrokerId> {
    cluster.leader(&slot.tp)
}
