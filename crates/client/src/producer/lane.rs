//! One task per leader broker: takes batches, sends them, settles their answers.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, ready};
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use milena_core::produce::accumulator::{BatchId, Body, Verdict};
use milena_core::produce::lane::{Answer, Lane, Part, TOPIC_IDS_FROM, process_response};
use milena_core::produce::outcome::{self, Outcome, Remedy, Scope};
use milena_protocol::compression::Compression;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::{ProduceRequest, ProduceResponse};
use milena_protocol::produce::{self, Head};
use milena_protocol::records::{BatchBuilder, BatchOptions, FrozenBatch};
use milena_protocol::types::{BrokerId, Sequence};
use milena_protocol::versions::BrokerVersions;
use milena_protocol::{Request as _, decode_response};
use tokio::sync::{Notify, oneshot};

use super::compress::{self, Finished, Taken};
use super::config::Acks;
use super::engine::Engine;
use super::sets;
use super::slot::Slot;
use super::ticket::Delivered;
use crate::call::Target;
use crate::connection::{Connection, Failure, FailureKind, LONGEST_REST, Outgoing};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Purpose;
use crate::transaction::FENCED;

/// The partitions of one leader that have something to send, in the order of their turns.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    broker: BrokerId,
    ready: Mutex<VecDeque<Arc<Slot>>>,
    wake: Notify,
}

impl LaneQueue {
    pub(crate) fn new(broker: BrokerId) -> Self {
        Self { broker, ready: Mutex::default(), wake: Notify::new() }
    }

    /// Appends a partition, whose `queued` mark the caller has set.
    pub(crate) fn push(&self, slot: Arc<Slot>) {
        let first = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push_back(slot);
            ready.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    fn pop(&self) -> Option<Arc<Slot>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn push_front(&self, slot: Arc<Slot>) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_front(slot);
    }

    fn is_empty(&self) -> bool {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// A batch in a request.
struct Item {
    slot: Arc<Slot>,
    id: BatchId,
    frozen: FrozenBatch,
}

/// A request that waits for its answer. `parts` and `items` belong together, place by place.
struct Flight {
    items: Vec<Item>,
    parts: Vec<Part>,
    version: i16,
    connection: Connection,
}

type Landed = (Flight, std::result::Result<Bytes, Failure>);

/// Runs until the producer ends.
pub(crate) async fn run(engine: Arc<Engine>, queue: Arc<LaneQueue>) {
    let mut ended = engine.ended.subscribe();
    let mut lane = Lane::new(engine.config.max_in_flight, engine.config.max_request_size);
    // Requests whose batches are being compressed: they go out in the order in which their batches were taken.
    let mut preparing = FuturesOrdered::new();
    let mut flights = FuturesUnordered::new();
    let mut muted: Option<tokio::time::Instant> = None;
    let sender = Sender { engine, queue };
    loop {
        while lane.is_open() && muted.is_none() && !sender.queue.is_empty() {
            let connected = tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                connected = sender.connect() => connected,
            };
            let Some((connection, version)) = connected else { continue };
            let taken = sender.collect(&lane);
            if taken.is_empty() {
                break;
            }
            lane.on_sent();
            sender.engine.requests.fetch_add(1, Ordering::AcqRel);
            let finished = if compress::is_much(&taken, sender.engine.config.compression) {
                Either::Left(compress::finish_beside(Arc::clone(&sender.engine), taken))
            } else {
                Either::Right(ready(compress::finish_here(&sender.engine, taken)))
            };
            preparing.push_back(async move { (finished.await, connection, version) });
        }
        let prepared = tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => return,
            Some(prepared) = preparing.next(), if !preparing.is_empty() => Some(prepared),
            Some(landed) = flights.next(), if !flights.is_empty() => {
                sender.on_settled(&mut lane);
                let throttle = sender.land(landed);
                if !throttle.is_zero() {
                    muted = Some(tokio::time::Instant::now() + throttle);
                }
                None
            }
            () = async { if let Some(until) = muted { tokio::time::sleep_until(until).await } }, if muted.is_some() => {
                muted = None;
                None
            }
            () = sender.queue.wake.notified(), if lane.is_open() && muted.is_none() => None,
        };
        if let Some((finished, connection, version)) = prepared {
            match sender.send(finished, connection, version).await {
                Some(flight) => flights.push(flight),
                None => sender.on_settled(&mut lane),
            }
        }
    }
}

struct Sender {
    engine: Arc<Engine>,
    queue: Arc<LaneQueue>,
}

impl Sender {
    /// A connection that is ready, and the version to produce in. `None`: what was queued went back to the router.
    ///
    /// # Cancellation
    /// The connection goes on being made.
    async fn connect(&self) -> Option<(Connection, i16)> {
        match self.ready().await {
            Ok(ready) => Some(ready),
            Err(error) => {
                self.send_away(&error);
                None
            }
        }
    }

    async fn ready(&self) -> Result<(Connection, i16)> {
        let client = &self.engine.client;
        let limit = client.config().connect_timeout + client.config().backoff.max;
        let deadline = tokio::time::Instant::now() + limit;
        let (endpoint, name) = client.resolve(&Target::Broker(self.queue.broker), deadline).await?;
        let connection = client.pool().connection(&endpoint, Purpose::Produce, &name)?;
        let versions = match tokio::time::timeout_at(deadline, connection.ready()).await {
            Ok(Ok(versions)) => versions,
            Ok(Err(failure)) => return Err(failure_error(&failure).with_broker(name.as_str())),
            Err(_) => {
                return Err(
                    Error::new(ErrorKind::Timeout, "no connection in time").with_broker(name.as_str())
                );
            }
        };
        let version = self.negotiate(&versions).map_err(|error| error.with_broker(name.as_str()))?;
        Ok((connection, version))
    }

    fn negotiate(&self, versions: &BrokerVersions) -> Result<i16> {
        let (min, max) = self.engine.link.as_ref().map_or((0, i16::MAX), |link| link.produce_versions());
        Ok(versions.negotiate_within::<ProduceRequest>(min, max)?)
    }

    /// The leader can't be reached: its partitions look for another one, or try again.
    fn send_away(&self, error: &Error) {
        let delay = self.engine.client.config().backoff.initial;
        while let Some(slot) = self.queue.pop() {
            let gone = {
                let mut state = slot.state();
                state.queued = false;
                state.trouble = Some(error.clone());
                if error.is_retriable() {
                    self.engine.park(&slot, &mut state, delay, true);
                    Vec::new()
                } else {
                    let gone = state.batches.stop();
                    state.batches.resume();
                    gone
                }
            };
            for (settled, failure) in gone {
                self.engine.failed(&slot.tp, settled, failure, Some(error));
            }
        }
    }

    fn on_settled(&self, lane: &mut Lane) {
        lane.on_settled();
        self.engine.requests.fetch_sub(1, Ordering::AcqRel);
    }

    /// Sends one request. Nothing here waits for long, and the future is not dropped. `None` if none of the batches could go.
    async fn send(
        &self,
        finished: Vec<Finished>,
        connection: Connection,
        version: i16,
    ) -> Option<impl Future<Output = Landed> + use<>> {
        let engine = &self.engine;
        let ready = finished.into_iter().filter_map(|one| self.prepare(one, version));
        let (items, parts): (Vec<Item>, Vec<Part>) = ready.unzip();
        if items.is_empty() {
            return None;
        }
        if let Some(link) = &engine.link {
            link.touch();
        }
        let correlation_id = connection.correlation();
        let head = Head {
            version,
            correlation_id,
            client_id: &engine.client.config().client_id,
            acks: engine.config.acks.wire(),
            timeout: engine.config.request_timeout,
            transactional_id: engine.link.as_ref().map(|link| link.id()),
        };
        let frame = match produce::encode(&head, &parts) {
            Ok(frame) => frame,
            Err(error) => {
                // Nothing of it was sent: none of the batches can be written.
                let error =
                    Error::misuse(format!("the request can't be written: {error}")).with_source(error);
                let judged = Judged::of(Outcome::Fatal(Scope::Batch), Some(error));
                for item in items {
                    self.judge(&item.slot, item.id, Body::Frozen(item.frozen), &judged);
                }
                return None;
            }
        };
        engine.counts.on_sent(parts.len(), parts.iter().map(|part| part.batch.len()).sum());
        // Only the connection holds the bytes from here on, so that their memory can be used again after the answer.
        let parts = parts.into_iter().map(|part| Part { batch: Bytes::new(), ..part }).collect();
        let (sender, reply) = oneshot::channel();
        let silent = engine.config.acks == Acks::None;
        let outgoing = Outgoing {
            correlation_id,
            frame,
            timeout: engine.config.request_timeout,
            room: None,
            reply: (!silent).then_some(sender),
        };
        let flight = Flight { items, parts, version, connection };
        let submitted = flight.connection.submit(outgoing).await;
        Some(landing(flight, submitted, reply, silent))
    }

    /// Takes one batch of each partition in turn, as many as a request holds.
    fn collect(&self, lane: &Lane) -> Vec<Taken> {
        let engine = &self.engine;
        let identity = engine.identity();
        let (mut taken, mut again, mut size) = (Vec::new(), Vec::new(), 0);
        while let Some(slot) = self.queue.pop() {
            let transmit = {
                let mut guard = slot.state();
                let state = &mut *guard;
                state.queued = false;
                if !state.lane.as_ref().is_some_and(|lane| Arc::ptr_eq(lane, &self.queue)) {
                    engine.schedule(&slot, state);
                    continue;
                }
                let Some(next) = state.batches.next_size() else { continue };
                if !lane.fits(size, next) {
                    state.queued = true;
                    self.queue.push_front(Arc::clone(&slot));
                    break;
                }
                let Some(transmit) = state.batches.take(identity) else {
                    // It waits for another identity, which the router brings, or for the answers under the old one.
                    if state.batches.in_flight() == 0 {
                        engine.park(&slot, state, Duration::ZERO, false);
                    }
                    continue;
                };
                if state.batches.opened_at().is_none() {
                    slot.topic.sticky.on_batch_closed(slot.tp.partition);
                }
                slot.note_waiting(state);
                if state.batches.next_size().is_some() {
                    state.queued = true;
                    again.push(Arc::clone(&slot));
                }
                size += next;
                transmit
            };
            taken.push(Taken { slot, transmit });
        }
        for slot in again {
            self.queue.push(slot);
        }
        taken
    }

    /// A batch as the request carries it; `None` if it cannot go and was settled, or cut.
    fn prepare(&self, finished: Finished, version: i16) -> Option<(Item, Part)> {
        let engine = &self.engine;
        let Finished { slot, id, stamp, paid, frozen } = finished;
        let mut frozen = match frozen {
            Ok(frozen) => frozen,
            Err(error) => {
                let body = Body::Built(BatchBuilder::new(BatchOptions::default()));
                let judged = Judged::of(Outcome::Fatal(Scope::Batch), Some(error));
                self.judge(&slot, id, body, &judged);
                return None;
            }
        };
        if let Some(stamp) = stamp {
            let identity = stamp.identity;
            frozen.stamp(identity.id, identity.epoch, Sequence(stamp.first.0), engine.link.is_some());
        }
        // What is not compressed goes on taking the memory it was paid for.
        if engine.config.compression != Compression::None && frozen.len() < paid {
            engine.budget.refund(slot.state().batches.on_frozen(id, frozen.len()));
        }
        let codec = (engine.config.compression, engine.config.compression_level);
        match sets::for_version(&frozen, codec, version) {
            Ok(batch) => {
                let topic_id = slot.topic.id().filter(|_| version >= TOPIC_IDS_FROM);
                let part = Part { tp: slot.tp.clone(), topic_id, batch };
                Some((Item { slot, id, frozen }, part))
            }
            Err(unsuited) => {
                let judged = Judged::of(unsuited.outcome, Some(unsuited.error));
                self.judge(&slot, id, Body::Frozen(frozen), &judged);
                None
            }
        }
    }

    /// Settles an answer, or its loss. Returns how long the broker wants to be left alone (KIP-219).
    fn land(&self, (flight, reply): Landed) -> Duration {
        let broker = flight.connection.name();
        let lost = |failure: &Failure| {
            let outcome = outcome::of_lost_answer(failure.sent);
            let error = failure_error(failure).with_broker(Arc::clone(broker)).with_api("Produce");
            Judged::of(outcome, Some(error))
        };
        let answered = reply.map_err(|failure| lost(&failure)).and_then(|frame| {
            read(frame, &flight.parts, flight.version).map_err(|text| {
                let failure = Failure { sent: true, ..Failure::new(FailureKind::Peer, text) };
                flight.connection.poison(failure.clone());
                lost(&failure)
            })
        });
        match answered {
            Ok((throttle, answers)) => {
                for (item, answer) in flight.items.into_iter().zip(answers) {
                    let judged = Judged::answered(answer, broker, self.engine.link.is_some());
                    self.judge(&item.slot, item.id, Body::Frozen(item.frozen), &judged);
                }
                throttle
            }
            Err(judged) => {
                for item in flight.items {
                    self.judge(&item.slot, item.id, Body::Frozen(item.frozen), &judged);
                }
                Duration::ZERO
            }
        }
    }

    fn judge(&self, slot: &Arc<Slot>, id: BatchId, body: Body, judged: &Judged) {
        let engine = &self.engine;
        let mut body = Some(body);
        let spare = if judged.outcome == Outcome::Acked { body.take() } else { None };
        let mut guard = slot.state();
        let state = &mut *guard;
        let given = body.unwrap_or_else(|| Body::Built(BatchBuilder::new(BatchOptions::default())));
        let verdict = state.batches.handle_answer(id, judged.outcome, given, engine.now());
        match &verdict {
            Verdict::Acked(_) => {
                state.trouble = None;
                match judged.delivered.base {
                    Some(base) => {
                        state.first_offset = Some(state.first_offset.map_or(base, |first| first.min(base)));
                    }
                    None => state.lost_offset |= state.first_offset.is_none(),
                }
            }
            Verdict::Again(remedy, attempts) => {
                state.trouble.clone_from(&judged.error);
                engine.counts.on_retry();
                let mut rng = milena_core::rng::Rng::new(engine.client.seed());
                let delay = engine.client.config().backoff.delay(attempts.saturating_sub(1), &mut rng);
                match remedy {
                    Remedy::BackOff => engine.park(slot, state, delay, false),
                    Remedy::Metadata => engine.park(slot, state, delay, true),
                    _ => {}
                }
            }
            Verdict::NeedsEpoch(_) => {
                engine.counts.on_retry();
                engine.park(slot, state, Duration::ZERO, false);
            }
            Verdict::Split(batch) => {
                batch.on_split();
                engine.counts.on_split();
            }
            Verdict::Failed(..) | Verdict::Unknown => {}
        }
        slot.note_waiting(state);
        engine.schedule(slot, state);
        drop(guard);
        self.conclude(slot, verdict, judged, spare);
    }

    /// What does not need the partition's lock.
    fn conclude(
        &self,
        slot: &Arc<Slot>,
        verdict: Verdict<Arc<super::ticket::BatchState>>,
        judged: &Judged,
        spare: Option<Body>,
    ) {
        match verdict {
            Verdict::Acked(settled) => {
                if let Some(Body::Frozen(frozen)) = spare
                    && let Some(buffer) = frozen.reclaim()
                {
                    self.engine.reuse(buffer);
                }
                self.engine.acked(settled, judged.delivered);
            }
            Verdict::Failed(settled, failure) => {
                let fatal = judged.outcome == Outcome::Fatal(Scope::Producer);
                self.engine.failed(&slot.tp, settled, failure, judged.error.as_ref());
                if let Some(error) = judged.error.as_ref().filter(|_| fatal) {
                    self.engine.fail_for_good(error.clone());
                }
            }
            Verdict::Split(_) | Verdict::Again(..) | Verdict::NeedsEpoch(_) | Verdict::Unknown => {}
        }
    }
}

/// What is made of an answer.
struct Judged {
    outcome: Outcome,
    delivered: Delivered,
    error: Option<Error>,
}

impl Judged {
    fn of(outcome: Outcome, error: Option<Error>) -> Self {
        Self { outcome, delivered: Delivered { base: None, time: None }, error }
    }

    fn answered(answer: Answer, broker: &Arc<str>, transactional: bool) -> Self {
        let outcome = outcome::of(answer.code);
        let delivered = Delivered { base: answer.base_offset, time: answer.log_append_time };
        let error = (outcome != Outcome::Acked).then(|| {
            let mut text = answer.message.unwrap_or_default();
            for (index, why) in answer.refused {
                let why = why.unwrap_or_default();
                text.push_str(&format!(" record {index} of its batch: {why};"));
            }
            let error = Error::broker_code(answer.code, Some(text.trim())).with_broker(Arc::clone(broker));
            if transactional && outcome == Outcome::Fatal(Scope::Producer) {
                error.with_remedy(FENCED)
            } else {
                error
            }
        });
        Self { outcome, delivered, error }
    }
}

async fn landing(
    flight: Flight,
    submitted: std::result::Result<(), Failure>,
    reply: oneshot::Receiver<std::result::Result<Bytes, Failure>>,
    silent: bool,
) -> Landed {
    let answer = match submitted {
        Err(failure) => Err(failure),
        Ok(()) if silent => Ok(Bytes::new()),
        Ok(()) => reply.await.unwrap_or_else(|_| {
            let failure = flight.connection.ended_failure();
            Err(Failure { sent: true, ..failure })
        }),
    };
    (flight, answer)
}

/// The answers to `parts`; an empty frame stands for a request without answer.
fn read(frame: Bytes, parts: &[Part], version: i16) -> std::result::Result<(Duration, Vec<Answer>), String> {
    if frame.is_empty() {
        let sent = Answer {
            code: ErrorCode::NONE,
            message: None,
            base_offset: None,
            log_append_time: None,
            leader: None,
            refused: Vec::new(),
        };
        return Ok((Duration::ZERO, vec![sent; parts.len()]));
    }
    let (_, response): (i32, ProduceResponse) = decode_response::<ProduceRequest>(frame, version)
        .map_err(|error| format!("the answer to Produce cannot be read: {error}"))?;
    let answers = process_response(parts, &response, version)
        .map_err(|error| format!("the answer to Produce does not fit: {error}"))?;
    Ok((ProduceRequest::throttle_time(&response, version).min(LONGEST_REST), answers))
}

fn failure_error(failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::Timeout => ErrorKind::Timeout,
        FailureKind::Auth => ErrorKind::Auth,
        // A connection that was closed by either side is made again; a closed client refuses before this.
        FailureKind::Io | FailureKind::Retired | FailureKind::Closed | FailureKind::Peer => ErrorKind::Io,
    };
    Error::new(kind, failure.text.to_string()).with_maybe_applied(failure.sent)
}
