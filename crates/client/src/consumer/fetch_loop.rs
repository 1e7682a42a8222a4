//! The fetch loop of one broker.
//!
//! ```text
//! wait until there is something to ask and room -> request -> answer -> cursors -> next request goes out
//!                                                                          |
//!                                        checksums, decompression, the application's queue
//! ```
//!
//! The next request is on its way before the records of the last answer are looked at, so the broker reads while the application works.
//! Only after a small answer, as at the end of the log, the application comes first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use milena_core::fetch::{Plan, Reason};
use milena_protocol::fetch::{FetchView, TOPIC_IDS_FROM};
use milena_protocol::messages::FetchRequest;
use milena_protocol::types::BrokerId;
use milena_protocol::{Request, encode_request};
use tokio::time::Instant;

use super::decode;
use super::memory::Room;
use super::metrics::add;
use super::read;
use super::request;
use super::shared::{Shared, now};
use crate::call::{CallOptions, Destination, Started, Target, negotiation};
use crate::error::{Error, Result};

/// A request that waits for its answer.
struct Flight {
    started: Started,
    /// What its answer may take.
    room: Arc<Room>,
}

/// Fetches from a broker until no partition is read there any more.
pub(super) async fn run(shared: Arc<Shared>, broker: BrokerId) -> BrokerId {
    let mut flight = None;
    loop {
        let Flight { started, room } = match flight.take() {
            Some(flight) => flight,
            None => {
                let Some(room) = next_room(&shared, broker).await else { return broker };
                match start(&shared, broker, room).await {
                    Some(flight) => flight,
                    None => continue,
                }
            }
        };
        let answer = started.answer_read(|frame, version| {
            let bytes = frame.len();
            FetchView::read(frame, version).map(|view| (view, bytes))
        });
        let answer = answer.await;
        // From here on the frame itself counts.
        drop(room);
        let (bytes, handled) = match answer {
            Ok(((view, bytes), name)) => {
                add(&shared.counts.fetches, 1);
                add(&shared.counts.bytes, bytes);
                (bytes, take_in(&shared, broker, &view, name))
            }
            Err(error) => (0, Err(error)),
        };
        let parts = match handled {
            Ok(handled) => {
                add(&shared.counts.stale_parts, handled.stale);
                shared.counts.on_throttled(handled.rest);
                handled.parts
            }
            Err(error) => {
                fail(&shared, broker, &error);
                continue;
            }
        };
        let next = async {
            if bytes < LITTLE {
                // The reader is at the end of the log, where the next answer takes its time anyway: the application comes first.
                tokio::task::yield_now().await;
            }
            let room = room_now(&shared, broker)?;
            start(&shared, broker, room).await
        };
        let (next, ()) = tokio::join!(next, decode::deliver(&shared, parts));
        flight = next;
    }
}

/// An answer of fewer bytes brings some records that have just been written.
const LITTLE: usize = 8 * 1024;

fn take_in(shared: &Shared, broker: BrokerId, view: &FetchView, name: Arc<str>) -> Result<read::Handled> {
    let mut state = shared.state();
    let handled = read::handle(&mut state.cursors, now(), broker, view, shared.reading());
    let waker = shared.settle(&mut state);
    let moved = handled.is_err() || state.cursors.has_news();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
    if moved {
        // Back-offs, stale leaders and lost positions are the driver's.
        shared.changed.notify_waiters();
    }
    handled.map_err(|error| Error::peer(error.to_string()).with_broker(name).with_api("Fetch"))
}

/// Waits until a request can go out; `None` when no partition is read from the broker any more.
async fn next_room(shared: &Shared, broker: BrokerId) -> Option<Arc<Room>> {
    loop {
        // Both count from here on, so nothing that happens during the look is missed.
        let waiter = shared.memory.waiter();
        let released = waiter.released();
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !shared.state().cursors.brokers().any(|other| other == broker) {
            return None;
        }
        if let Some(room) = room_now(shared, broker) {
            return Some(room);
        }
        let wants = shared.state().cursors.wants(now(), broker).is_some();
        tokio::select! {
            () = &mut changed => {}
            () = released, if wants => {}
        }
    }
}

/// Room for a request that can go out now.
fn room_now(shared: &Shared, broker: BrokerId) -> Option<Arc<Room>> {
    let state = shared.state();
    state.cursors.wants(now(), broker)?;
    let brokers = state.cursors.broker_count();
    drop(state);
    let room = shared.memory.reserve(limit(shared, brokers)).or_else(|| {
        // What is held back may wait for what others bring, so it cannot be the reason that nothing comes of them.
        shared.is_starved_by_holds().then(|| shared.memory.reserve_beyond(SMALLEST_ANSWER))
    });
    shared.state().cursors.on_starved(broker, room.is_none());
    room
}

/// How many bytes an answer may bring: half of the buffer is for answers on their way, the other half for those not yet taken.
fn limit(shared: &Shared, brokers: usize) -> usize {
    let share = shared.config.buffer_bytes / (2 * brokers.max(1));
    (shared.config.max_bytes as usize).min(share.max(SMALLEST_ANSWER))
}

/// With so many brokers that each would get less than this, the buffer decides who is asked.
const SMALLEST_ANSWER: usize = 64 * 1024;

/// Sends the next request; `None` if there is nothing to ask any more, or it cannot be sent.
async fn start(shared: &Shared, broker: BrokerId, room: Arc<Room>) -> Option<Flight> {
    let config = &shared.config;
    let client = &shared.client;
    let wants = shared.state().cursors.wants(now(), broker)?;
    let timeout = client.config().request_timeout + config.max_wait;
    let options = CallOptions {
        max_version: (!wants.by_id).then_some(TOPIC_IDS_FROM - 1),
        timeout: Some(timeout),
        // The connection's own limits are what counts: this one only ends what hangs outside of it.
        deadline: Some(Instant::now() + timeout + client.config().api_timeout),
        ..CallOptions::default()
    };
    // What to ask is decided when the connection is ready, since the version decides what can be said.
    let nothing = Mutex::new(false);
    // The rest is for the heads of partitions, which brokers do not count.
    let bytes = room.bytes() - room.bytes() / 16;
    let encode = |version: i16, correlation: i32, client_id: &str| {
        let plan = shared.state().cursors.poll_request(now(), broker, version);
        let plan = plan.unwrap_or_else(|| {
            *nothing.lock().unwrap_or_else(PoisonError::into_inner) = true;
            Plan::nothing()
        });
        let mut out = BytesMut::new();
        let request = request::build(&plan, config, bytes, version);
        encode_request(&mut out, correlation, client_id, version, &request)?;
        Ok(vec![out.freeze()])
    };
    let target = Target::Broker(broker);
    let negotiate = negotiation::<FetchRequest>(&options);
    let started = client.start_into(
        Destination::Target(&target),
        &options,
        FetchRequest::KEY,
        &negotiate,
        &encode,
        Some(&room),
    );
    match started.await {
        Ok(started) => {
            if nothing.into_inner().unwrap_or_else(PoisonError::into_inner) {
                // The application went elsewhere meanwhile. What was sent asks for nothing; its answer is thrown away.
                return None;
            }
            Some(Flight { started, room })
        }
        Err(error) => {
            fail(shared, broker, &error);
            None
        }
    }
}

/// A request that could not be sent or was not answered well.
fn fail(shared: &Shared, broker: BrokerId, error: &Error) {
    add(&shared.counts.failed_fetches, 1);
    tracing::debug!(%broker, %error, "a fetch failed");
    let reason = Reason::Connection(Arc::from(error.to_string()));
    shared.state().cursors.handle_failure(now(), broker, &reason);
    if !error.is_retriable() && error.kind() != crate::ErrorKind::Peer {
        shared.report(error.clone());
    }
    shared.changed.notify_waiters();
}

/// How long a partition may be without a fetch while nothing is wrong that it would say.
pub(super) fn patience(shared: &Shared) -> Duration {
    let client = shared.client.config();
    client.request_timeout + shared.config.max_wait + client.connect_timeout + client.backoff.max
}
