//! One connection to a broker: a task that owns the socket, and handles to it.
//!
//! ```text
//! callers --Outgoing--> queue --(at most max_in_flight)--> write queue --> socket
//! callers <--frame-- oneshot <-- pending (first in, first out) <-- frames <-- socket
//! ```
//!
//! A broker answers a connection in order, so the oldest waiting request and the next frame belong together; the
//! correlation id proves it. Anything else (a wrong id, an answer nobody asked for, a length over the limit, no answer in
//! time, end of stream) ends the connection: what follows on it could not be trusted. All waiting requests then fail with
//! the same reason, and each learns whether it had been sent.
//!
//! # Invariants
//! - A dropped caller changes nothing on the wire: if its request was sent, the answer is taken and thrown away.
//! - Every request has a deadline from when it is written; the earliest one missed closes the connection.
//! - Memory for a frame grows with the bytes that came, not with the length that was announced.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use milena_protocol::correlation_id;
use milena_protocol::versions::BrokerVersions;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::consumer::Room;
pub(crate) use crate::failure::{Failure, FailureKind};
use crate::frames::{FrameReader, WriteQueue};
use crate::sasl::{self, Renewal, RenewalEvent, Session};
use crate::tls;
use crate::transport::BoxStream;

/// Where a connection is in its life. Written by its task only.
#[derive(Clone, Debug)]
pub(crate) enum Life {
    /// Dialing, or in the handshake.
    Connecting,
    /// Requests can be sent.
    Ready(Arc<BrokerVersions>),
    /// Over.
    Ended { failure: Failure, lasted: Duration, at: Instant },
}

/// A request on its way to the socket.
pub(crate) struct Outgoing {
    pub(crate) correlation_id: i32,
    /// The frame with its length prefix, in pieces.
    pub(crate) frame: Vec<Bytes>,
    /// How long the broker may take from the write on.
    pub(crate) timeout: Duration,
    /// Where the answer is read into; `None` for a buffer of the connection's.
    pub(crate) room: Option<Arc<Room>>,
    /// Who waits; `None` for a request that has no answer (acks = 0).
    pub(crate) reply: Option<oneshot::Sender<Result<Bytes, Failure>>>,
}

/// A handle to a connection's task. The connection ends when all handles are gone and all answers are in.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    outgoing: mpsc::Sender<Outgoing>,
    poison: mpsc::UnboundedSender<Failure>,
    life: watch::Receiver<Life>,
    next_correlation: AtomicI32,
    in_flight: Arc<AtomicUsize>,
    /// Calls that chose this connection and are not over.
    claims: AtomicUsize,
    /// Until when the broker wants to be left alone here.
    rests_until: Mutex<Option<Instant>>,
}

/// A connection that a call has chosen. While it lives, calls that want a connection for themselves choose another.
#[derive(Debug)]
pub(crate) struct Claim(Connection);

impl Claim {
    /// Chooses this connection.
    pub(crate) fn new(connection: &Connection) -> Self {
        connection.0.claims.fetch_add(1, Ordering::Relaxed);
        Self(connection.clone())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.0.claims.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Claim {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

/// What a connection's task is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) max_in_flight: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) idle: Duration,
}

/// A socket that is connected and has shaken hands.
pub(crate) struct Established {
    pub(crate) stream: BoxStream,
    pub(crate) frames: FrameReader,
    pub(crate) versions: BrokerVersions,
    /// The authentication, if it has to be renewed.
    pub(crate) session: Option<Session>,
}

impl Connection {
    /// Starts a connection on this runtime. `establish` dials and shakes hands; it bounds its own time.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        name: Arc<str>,
        limits: Limits,
        establish: impl Future<Output = Result<Established, Failure>> + Send + 'static,
    ) -> Self {
        let (outgoing, requests) = mpsc::channel(limits.max_in_flight);
        let (poison, poisoned) = mpsc::unbounded_channel();
        let (life_writer, life) = watch::channel(Life::Connecting);
        let in_flight = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&in_flight);
        let label = Arc::clone(&name);
        runtime.spawn(async move {
            let inputs = Inputs { requests, poisoned };
            run(label, limits, inputs, life_writer, counter, establish).await;
        });
        Self(Arc::new(Shared {
            name,
            outgoing,
            poison,
            life,
            next_correlation: AtomicI32::new(1),
            in_flight,
            claims: AtomicUsize::new(0),
            rests_until: Mutex::new(None),
        }))
    }

    /// What to call the peer in messages.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// A snapshot of its life.
    pub(crate) fn life(&self) -> Life {
        // A task that is gone without a word went down with its runtime.
        if self.0.outgoing.is_closed() && !matches!(&*self.0.life.borrow(), Life::Ended { .. }) {
            return Life::Ended { failure: runtime_gone(), lasted: Duration::ZERO, at: Instant::now() };
        }
        self.0.life.borrow().clone()
    }

    /// How busy it is: calls that chose it, and requests that were handed over and not answered yet. (The answer may
    /// still be due after its call was dropped.)
    pub(crate) fn load(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed).max(self.0.claims.load(Ordering::Relaxed))
    }

    /// Waits until requests can be sent.
    ///
    /// # Cancellation
    /// The connection goes on being made.
    pub(crate) async fn ready(&self) -> Result<Arc<BrokerVersions>, Failure> {
        let mut life = self.0.life.clone();
        let reached = life.wait_for(|life| !matches!(life, Life::Connecting)).await;
        match reached.as_deref() {
            Ok(Life::Ready(versions)) => Ok(Arc::clone(versions)),
            Ok(Life::Ended { failure, .. }) => Err(failure.for_request(false)),
            Ok(Life::Connecting) | Err(_) => Err(runtime_gone()),
        }
    }

    /// Waits until the connection is over.
    ///
    /// # Cancellation
    /// Changes nothing.
    pub(crate) async fn ended(self) {
        let mut life = self.0.life.clone();
        // Without this handle the task may end.
        drop(self);
        let _ = life.wait_for(|life| matches!(life, Life::Ended { .. })).await;
    }

    /// The next correlation id, never that of an authentication.
    pub(crate) fn correlation(&self) -> i32 {
        (self.0.next_correlation.fetch_add(1, Ordering::Relaxed) & i32::MAX).max(1)
    }

    /// The broker reads nothing more from this connection for so long (KIP-219): what is asked meanwhile waits here, where its time to be
    /// answered does not run.
    pub(crate) fn rest(&self, time: Duration) {
        if !time.is_zero() {
            tracing::debug!(broker = %self.0.name, ?time, "held back by a quota");
            let until = Instant::now() + time.min(LONGEST_REST);
            let mut rests_until = self.0.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
            *rests_until = (*rests_until).max(Some(until));
        }
    }

    /// Until when the broker wants to be left alone, if it does.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        let until = *self.0.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| *until > Instant::now())
    }

    /// Hands a request over, when the broker wants requests; they go out in the order in which these calls return.
    ///
    /// # Cancellation
    /// Dropped before it returns, nothing is sent.
    pub(crate) async fn submit(&self, request: Outgoing) -> Result<(), Failure> {
        while let Some(until) = self.rests_until() {
            tokio::time::sleep_until(until).await;
        }
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        let slot = InFlight(&self.0.in_flight);
        match self.0.outgoing.send(request).await {
            Ok(()) => {
                std::mem::forget(slot);
                Ok(())
            }
            Err(_) => Err(self.ended_failure()),
        }
    }

    /// Ends the connection because what it answered cannot be right.
    pub(crate) fn poison(&self, failure: Failure) {
        let _ = self.0.poison.send(failure);
    }

    /// Why the connection is over, for a request that was not sent.
    pub(crate) fn ended_failure(&self) -> Failure {
        match &*self.0.life.borrow() {
            Life::Ended { failure, .. } => failure.for_request(false),
            _ => runtime_gone(),
        }
    }
}

/// A broker that wants to be left alone for longer is not believed.
pub(crate) const LONGEST_REST: Duration = Duration::from_secs(60);

/// Counts a request out again if it never reaches the task.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn runtime_gone() -> Failure {
    Failure::new(FailureKind::Closed, "the runtime the client was made on has stopped")
}

struct Inputs {
    requests: mpsc::Receiver<Outgoing>,
    poisoned: mpsc::UnboundedReceiver<Failure>,
}

async fn run(
    name: Arc<str>,
    limits: Limits,
    mut inputs: Inputs,
    life: watch::Sender<Life>,
    in_flight: Arc<AtomicUsize>,
    establish: impl Future<Output = Result<Established, Failure>> + Send + 'static,
) {
    let (failure, lasted) = match establish.await {
        Ok(established) => {
            let since = Instant::now();
            tracing::debug!(broker = %name, "connected");
            let versions = Arc::new(established.versions);
            life.send_replace(Life::Ready(Arc::clone(&versions)));
            let (reader, writer) = tokio::io::split(established.stream);
            let mut line = Line {
                reader,
                writer,
                frames: established.frames,
                queue: WriteQueue::default(),
                pending: VecDeque::new(),
                written: 0,
                queued: 0,
                unflushed: false,
                progress: since,
                used: since,
                renewal: established.session.map(|session| Renewal::new(&session, versions)),
                draining: false,
                answered: false,
                in_flight: Arc::clone(&in_flight),
            };
            let failure = line.serve(&limits, &mut inputs).await;
            line.fail_pending(&failure);
            (failure, since.elapsed())
        }
        Err(failure) => (failure, Duration::ZERO),
    };
    tracing::debug!(broker = %name, reason = %failure.text, "connection ended");
    life.send_replace(Life::Ended { failure: failure.clone(), lasted, at: Instant::now() });
    inputs.requests.close();
    while let Some(request) = inputs.requests.recv().await {
        in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(reply) = request.reply {
            let _ = reply.send(Err(failure.for_request(false)));
        }
    }
}

/// A request that was given to the socket.
struct Pending {
    correlation_id: i32,
    deadline: Instant,
    timeout: Duration,
    /// The position in the stream of written bytes after its last byte.
    end: u64,
    room: Option<Arc<Room>>,
    reply: oneshot::Sender<Result<Bytes, Failure>>,
}

/// An open socket and what is on its way. Owned by the connection's task.
struct Line {
    reader: ReadHalf<BoxStream>,
    writer: WriteHalf<BoxStream>,
    frames: FrameReader,
    queue: WriteQueue,
    pending: VecDeque<Pending>,
    /// Bytes the socket took, ever.
    written: u64,
    /// Bytes given to the write queue, ever.
    queued: u64,
    unflushed: bool,
    /// When something last moved in either direction.
    progress: Instant,
    /// When a caller last asked something or got an answer.
    used: Instant,
    /// The renewals of the authentication.
    renewal: Option<Renewal>,
    /// Whether no more requests are taken, because the authentication is not good for them.
    draining: bool,
    /// Whether a caller's request was ever answered.
    answered: bool,
    in_flight: Arc<AtomicUsize>,
}

enum Event {
    Request(Option<Outgoing>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Poisoned(Failure),
    Renewal(RenewalEvent),
    Timer,
}

impl Line {
    /// Serves requests until the connection ends; says why it did.
    async fn serve(&mut self, limits: &Limits, inputs: &mut Inputs) -> Failure {
        let mut open = true;
        let mut poison_open = true;
        let timer = tokio::time::sleep_until(self.deadline(limits));
        tokio::pin!(timer);
        loop {
            if !open && self.pending.is_empty() && self.queue.is_empty() {
                let _ = tokio::time::timeout(GOODBYE, self.writer.shutdown()).await;
                return Failure::new(FailureKind::Retired, "the connection is not used any more");
            }
            if self.draining && self.pending.is_empty() && self.queue.is_empty() {
                return Failure::new(FailureKind::Retired, "the authentication's time was up");
            }
            let deadline = self.deadline(limits);
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            let room = self.has_room(limits);
            let writing = self.unflushed || !self.queue.is_empty();
            let owned = self.pending.front().is_some_and(|pending| pending.room.is_some());
            // In a fixed order, so that a simulation repeats. Nothing is held up for long: what is to be written is bounded by what is
            // taken in, that by the answers which are missing, and those by what is read.
            let event = tokio::select! {
                biased;
                poisoned = inputs.poisoned.recv(), if poison_open => match poisoned {
                    Some(failure) => Event::Poisoned(failure),
                    None => { poison_open = false; continue }
                },
                event = renew(&mut self.renewal), if !self.draining => Event::Renewal(event),
                () = &mut timer => Event::Timer,
                written = write_step(&mut self.writer, &mut self.queue), if writing => Event::Written(written),
                request = inputs.requests.recv(), if open && room => Event::Request(request),
                read = self.frames.fill(&mut self.reader, owned) => Event::Read(read),
            };
            let step = match event {
                Event::Request(Some(request)) => {
                    self.take(request);
                    // What else is waiting goes out with the same write.
                    while self.has_room(limits) {
                        let Ok(request) = inputs.requests.try_recv() else { break };
                        self.take(request);
                    }
                    Ok(())
                }
                Event::Request(None) => {
                    open = false;
                    Ok(())
                }
                Event::Read(read) => self.handle_read(read),
                Event::Written(written) => self.handle_written(written),
                Event::Poisoned(failure) => Err(failure),
                Event::Renewal(event) => self.handle_renewal(event),
                Event::Timer => self.handle_timer(limits),
            };
            if let Err(failure) = step {
                return failure;
            }
        }
    }

    /// Whether another request may be taken.
    fn has_room(&self, limits: &Limits) -> bool {
        let holds = self.renewal.as_ref().is_some_and(Renewal::holds);
        !holds
            && !self.draining
            && self.pending.len() < limits.max_in_flight
            && self.queue.pieces() < MAX_QUEUED_PIECES
    }

    fn handle_renewal(&mut self, event: RenewalEvent) -> Result<(), Failure> {
        match event {
            RenewalEvent::Ask(request) => {
                let used = self.used;
                self.take(request);
                self.used = used;
            }
            RenewalEvent::Renewed => tracing::debug!("authenticated anew"),
            RenewalEvent::Expired => self.draining = true,
            RenewalEvent::Failed(failure) => return Err(failure),
        }
        Ok(())
    }

    /// The next moment at which waiting is over.
    fn deadline(&self, limits: &Limits) -> Instant {
        let answer = self.pending.iter().map(|pending| pending.deadline).min();
        let write = (!self.queue.is_empty()).then(|| self.progress + limits.request_timeout);
        match (answer, write) {
            (Some(answer), Some(write)) => answer.min(write),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => self.used + limits.idle,
        }
    }

    fn take(&mut self, request: Outgoing) {
        let gone = request.reply.as_ref().is_some_and(oneshot::Sender::is_closed);
        if gone {
            self.release(request.correlation_id);
            return;
        }
        let now = Instant::now();
        self.used = now;
        if self.queue.is_empty() {
            self.progress = now;
        }
        for piece in request.frame {
            self.queued += piece.len() as u64;
            self.queue.push(piece);
        }
        match request.reply {
            Some(reply) => self.pending.push_back(Pending {
                correlation_id: request.correlation_id,
                deadline: now + request.timeout,
                timeout: request.timeout,
                end: self.queued,
                room: request.room,
                reply,
            }),
            None => self.release(request.correlation_id),
        }
    }

    /// A request is done with. One of an authentication was never counted: no caller handed it over.
    fn release(&self, correlation_id: i32) {
        if correlation_id != sasl::CORRELATION {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn handle_read(&mut self, read: io::Result<usize>) -> Result<(), Failure> {
        match read {
            Ok(0) => {
                let text = if !self.answered && self.renewal.is_none() && !self.pending.is_empty() {
                    "the broker closed the connection at the first request (a listener that wants SASL does so)"
                } else if self.frames.is_between_frames() {
                    "the broker closed the connection"
                } else {
                    "the broker closed the connection in the middle of an answer"
                };
                return Err(Failure::new(FailureKind::Io, text));
            }
            Ok(_) => self.progress = Instant::now(),
            Err(error) => return Err(cut_off("reading", &error)),
        }
        loop {
            let room = self.pending.front().and_then(|pending| pending.room.as_ref());
            let frame = match self.frames.take(room) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => {
                    return Err(Failure::new(FailureKind::Peer, format!("no Kafka answer: {error}")));
                }
            };
            self.answer(frame)?;
        }
    }

    fn answer(&mut self, frame: Bytes) -> Result<(), Failure> {
        let id = correlation_id(&frame)
            .map_err(|error| Failure::new(FailureKind::Peer, format!("no Kafka answer: {error}")))?;
        match self.pending.front() {
            Some(front) if front.correlation_id == id => {}
            Some(front) => {
                let text = format!("answer with correlation id {id} where {} was due", front.correlation_id);
                return Err(Failure::new(FailureKind::Peer, text));
            }
            None => {
                let text = format!("answer with correlation id {id} to no question");
                return Err(Failure::new(FailureKind::Peer, text));
            }
        }
        if let Some(pending) = self.pending.pop_front() {
            if id != sasl::CORRELATION {
                self.used = Instant::now();
                self.answered = true;
            }
            self.release(id);
            let _ = pending.reply.send(Ok(frame));
        }
        Ok(())
    }

    fn handle_written(&mut self, written: io::Result<usize>) -> Result<(), Failure> {
        match written {
            Ok(0) if self.queue.is_empty() => {
                self.unflushed = false;
                Ok(())
            }
            Ok(0) => Err(Failure::new(FailureKind::Io, "the broker takes no more bytes")),
            Ok(count) => {
                self.written += count as u64;
                self.unflushed = true;
                self.progress = Instant::now();
                Ok(())
            }
            Err(error) => Err(cut_off("writing", &error)),
        }
    }

    fn handle_timer(&mut self, limits: &Limits) -> Result<(), Failure> {
        let now = Instant::now();
        if now < self.deadline(limits) {
            return Ok(());
        }
        if let Some(late) = self.pending.iter().find(|pending| pending.deadline <= now) {
            return Err(Failure::new(FailureKind::Timeout, format!("no answer within {:?}", late.timeout)));
        }
        if !self.queue.is_empty() {
            let text = format!("the broker took no bytes for {:?}", limits.request_timeout);
            return Err(Failure::new(FailureKind::Timeout, text));
        }
        Err(Failure::new(FailureKind::Retired, format!("not used for {:?}", limits.idle)))
    }

    fn fail_pending(&mut self, failure: &Failure) {
        while let Some(pending) = self.pending.pop_front() {
            self.release(pending.correlation_id);
            let sent = self.written >= pending.end;
            let _ = pending.reply.send(Err(failure.for_request(sent)));
        }
    }
}

/// What the socket said, or TLS on it.
fn cut_off(doing: &str, error: &io::Error) -> Failure {
    tls::explain(error).unwrap_or_else(|| Failure::new(FailureKind::Io, format!("{doing} failed: {error}")))
}

/// What the renewal wants; nothing, if there is none.
async fn renew(renewal: &mut Option<Renewal>) -> RenewalEvent {
    match renewal {
        Some(renewal) => renewal.next().await,
        None => std::future::pending().await,
    }
}

/// Requests stop being taken while this many pieces wait to be written: the socket is the narrow place then.
const MAX_QUEUED_PIECES: usize = 4096;

/// How long the goodbye of an unused connection may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// Writes what it can in one go, or flushes when there is nothing to write. Losing the future loses no bytes.
async fn write_step(writer: &mut WriteHalf<BoxStream>, queue: &mut WriteQueue) -> io::Result<usize> {
    if queue.has_remaining() { writer.write_buf(queue).await } else { writer.flush().await.map(|()| 0) }
}
