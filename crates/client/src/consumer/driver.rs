//! The task that keeps a consumer going: fetch loops for the brokers that lead, starts that are to be looked up, time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use milena_core::fetch::{Position, Reason, ResetWanted, Start, Ticket, ValidationWanted};
use milena_core::retry::Delays;
use milena_protocol::types::{BrokerId, TopicPartition};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::fetch_loop::{self, patience};
use super::metrics::add;
use super::read::time_ago;
use super::shared::{Shared, now};
use super::validation;
use crate::error::Error;
use crate::metadata::Want;
use crate::offsets::{ListedOffset, OffsetSpec};

/// Runs until it is aborted; its fetch loops end with it.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut topology = shared.client.metadata_cache().subscribe();
    let mut loops: JoinSet<BrokerId> = JoinSet::new();
    let mut running: HashSet<BrokerId> = HashSet::new();
    let mut lookups: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let config = shared.client.config();
    let mut delays: Delays = config.backoff.delays(shared.client.seed());
    // When topics without a leader are asked about again.
    let mut ask_at: Option<Instant> = None;
    let patience = patience(&shared);
    let mut check_at = Instant::now() + patience / 2;
    loop {
        // From here on nothing that changes is missed.
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let work = look(&shared);
        for broker in work.brokers {
            if running.insert(broker) {
                loops.spawn(fetch_loop::run(Arc::clone(&shared), broker));
            }
        }
        if !work.resets.is_empty() {
            add(&shared.counts.resets, work.resets.len());
            spread(&shared, work.resets, &lookups);
        }
        for (leader, wanted) in work.validations {
            add(&shared.counts.validations, wanted.len());
            lookups.push(Box::pin(validation::run(Arc::clone(&shared), leader, wanted)));
        }
        if !work.stale_topics.is_empty() {
            shared.client.metadata_cache().refresh_soon(Want::Topics(work.stale_topics));
        }
        if work.leaderless.is_empty() {
            delays.reset();
            ask_at = None;
        } else if ask_at.is_none_or(|at| at <= Instant::now()) {
            shared.client.metadata_cache().refresh_soon(Want::Topics(work.leaderless));
            ask_at = Some(Instant::now() + delays.draw());
        }
        if check_at <= Instant::now() {
            check(&shared, patience);
            check_at = Instant::now() + patience / 2;
        }
        let wake = [work.deadline, ask_at, Some(check_at)].into_iter().flatten().min();
        tokio::select! {
            () = &mut changed => {}
            Ok(()) = topology.changed() => {
                let cluster = Arc::clone(&topology.borrow_and_update());
                shared.state().cursors.handle_cluster(now(), &cluster);
                shared.changed.notify_waiters();
            }
            Some(ended) = loops.join_next() => match ended {
                Ok(broker) => {
                    running.remove(&broker);
                }
                // Nothing but a defect of ours ends a loop so; the others are to go on, and this one again.
                Err(error) => {
                    tracing::error!(%error, "a fetch loop ended; all are started anew");
                    loops.abort_all();
                    running.clear();
                }
            },
            Some(()) = lookups.next(), if !lookups.is_empty() => {}
            () = sleep_until(wake.unwrap_or(check_at)) => {}
        }
    }
}

struct Work {
    brokers: Vec<BrokerId>,
    resets: Vec<ResetWanted>,
    validations: BTreeMap<BrokerId, Vec<ValidationWanted>>,
    stale_topics: BTreeSet<Arc<str>>,
    leaderless: BTreeSet<Arc<str>>,
    deadline: Option<Instant>,
}

/// What there is to do.
fn look(shared: &Shared) -> Work {
    let now = now();
    let mut state = shared.state();
    let cursors = &mut state.cursors;
    let awake = cursors.handle_time(now);
    let mut validations: BTreeMap<BrokerId, Vec<ValidationWanted>> = BTreeMap::new();
    for wanted in cursors.poll_validations(now) {
        validations.entry(wanted.leader).or_default().push(wanted);
    }
    let work = Work {
        resets: cursors.poll_resets(now),
        validations,
        stale_topics: cursors.poll_stale_topics(),
        leaderless: cursors.leaderless_topics(now),
        brokers: cursors.brokers().collect(),
        deadline: cursors.deadline().map(Instant::from_std),
    };
    let waker = shared.settle(&mut state);
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
    if awake {
        shared.changed.notify_waiters();
    }
    work
}

/// Begins the lookups of starts: committed ones by one request to the group's coordinator, the others by their leaders.
fn spread(
    shared: &Arc<Shared>,
    wanted: Vec<ResetWanted>,
    lookups: &FuturesUnordered<BoxFuture<'static, ()>>,
) {
    let (committed, listed): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|reset| reset.start == Start::Committed);
    if !committed.is_empty() {
        lookups.push(Box::pin(look_up_committed(Arc::clone(shared), committed)));
    }
    if !listed.is_empty() {
        lookups.push(Box::pin(look_up_listed(Arc::clone(shared), listed)));
    }
}

async fn look_up_committed(shared: Arc<Shared>, wanted: Vec<ResetWanted>) {
    let Some(group) = &shared.config.group else {
        for reset in wanted {
            found(&shared, reset.ticket, Ok(None));
        }
        return;
    };
    let group = shared.client.group(group);
    let tps: Vec<TopicPartition> = wanted.iter().map(|reset| reset.tp.clone()).collect();
    match group.fetch(Some(&tps), false).await {
        Ok(answers) => {
            for (reset, (_, answer)) in wanted.into_iter().zip(answers) {
                let place = answer.map(|committed| {
                    committed
                        .map(|committed| Position { offset: committed.offset, epoch: committed.leader_epoch })
                });
                found(&shared, reset.ticket, place);
            }
        }
        Err(error) => failed_all(&shared, wanted, &error),
    }
    shared.changed.notify_waiters();
}

async fn look_up_listed(shared: Arc<Shared>, mut wanted: Vec<ResetWanted>) {
    let deadline = Instant::now() + shared.client.config().api_timeout;
    while !wanted.is_empty() {
        let specs: Vec<_> = wanted.iter().map(|reset| (reset.tp.clone(), spec(reset.start))).collect();
        // One try: who fails is tried again by its own back-off, and holds up nobody.
        let answers = shared.client.list_once(&specs, shared.config.isolation, deadline).await;
        let mut answers: HashMap<_, _> = answers.into_iter().collect();
        let mut at_end = Vec::new();
        for reset in wanted {
            // The epoch of an answer is that of the record at the offset, not of the one before: it says nothing of what was read.
            let place = match answers.remove(&reset.tp) {
                Some(Ok(ListedOffset { offset: Some(offset), .. })) => Ok(Some(Position::from(offset))),
                // No record is that new: the end is what comes next.
                Some(Ok(_)) if reset.start != Start::Latest => {
                    at_end.push(ResetWanted { start: Start::Latest, ..reset });
                    continue;
                }
                Some(Err(error)) => Err(error),
                Some(Ok(_)) | None => Err(Error::peer("the answer does not name the partition's offset")),
            };
            found(&shared, reset.ticket, place);
        }
        wanted = at_end;
    }
    shared.changed.notify_waiters();
}

fn spec(start: Start) -> OffsetSpec {
    match start {
        Start::Earliest => OffsetSpec::Earliest,
        Start::Time(time) => OffsetSpec::Timestamp(time),
        Start::Ago(age) => OffsetSpec::Timestamp(time_ago(age)),
        Start::Latest | Start::Committed | Start::At(_) => OffsetSpec::Latest,
    }
}

fn failed_all(shared: &Shared, wanted: Vec<ResetWanted>, error: &Error) {
    for reset in wanted {
        found(shared, reset.ticket, Err(error.clone()));
    }
}

fn found(shared: &Shared, ticket: Ticket, place: Result<Option<Position>, Error>) {
    let mut state = shared.state();
    let (place, again) = match place {
        Ok(place) => (Ok(place), false),
        Err(error) => {
            let again = error.is_retriable() || error.kind() == crate::ErrorKind::Peer;
            let reason = match error.code() {
                Some(code) => Reason::Code(code),
                None => Reason::Lookup(Arc::from(error.to_string())),
            };
            (Err(reason), again)
        }
    };
    state.cursors.handle_reset(now(), ticket, place, again);
}

/// Reports every partition that stays without a fetch longer than its state allows.
fn check(shared: &Shared, patience: std::time::Duration) {
    let stalls = shared.state().cursors.check(now(), patience);
    for stall in &stalls {
        let (status, since) = (&stall.status, stall.since);
        tracing::warn!(partition = %stall.tp, ?status, ?since, "the partition is not being fetched");
    }
    add(&shared.counts.stalls, stalls.len());
}
