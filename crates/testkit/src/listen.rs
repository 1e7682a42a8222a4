//! The embedded broker on sockets: over TCP, or through in-memory streams.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use milena_protocol::{RequestFrame, decode_request, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

use crate::broker::{Broker, BrokerConfig, ConnectionId, DEFAULT_START_TIME_MS, Faults};

/// How many answers may wait for a client that does not read; then its connection is cut.
const MAX_UNREAD: usize = 4096;

/// Bytes an in-memory stream holds in each direction.
const STREAM_BUFFER: usize = 256 * 1024;

/// How much room is made before each read.
const READ_CHUNK: usize = 64 * 1024;

/// How often a port that is still taken is tried again, and how long is waited in between.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// An embedded broker that runs. Clones are handles of the same broker; it ends with the last of them.
///
/// Its clock is tokio's, so a paused runtime gives it virtual time.
#[derive(Clone, Debug)]
pub struct EmbeddedBroker {
    owner: Arc<Owner>,
}

/// Ends the tasks when the last handle goes.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    timer: AbortHandle,
    listener: Mutex<Option<JoinHandle<()>>>,
    bootstrap: String,
    /// Where it listens, if it does.
    address: Option<SocketAddr>,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The timer has to look at the next deadline again.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    broker: Broker,
    /// In an order, so that simulations repeat.
    peers: BTreeMap<ConnectionId, Peer>,
    next_connection: u64,
    /// When the timer will fire.
    armed: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    /// The node it is connected to, if that was said.
    node: Option<i32>,
    answers: mpsc::Sender<Bytes>,
    task: Option<AbortHandle>,
}

impl EmbeddedBroker {
    /// Starts a broker that listens at the configured host, if that is an IP address, else on `127.0.0.1`; at the
    /// configured port or a free one. Unless the configuration sets a time, the broker's clock shows the real time.
    ///
    /// # Errors
    /// If the address can't be bound.
    ///
    /// # Cancellation
    /// Nothing is left running if the future is dropped.
    pub async fn start(config: BrokerConfig) -> io::Result<Self> {
        let ip = config.host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Self::start_at(SocketAddr::new(ip, config.port), config).await
    }

    /// Starts a broker that listens at `listen`, port 0 for a free one, and tells clients the configured host and the port it
    /// has: for a host name, or for an address that is not its own (`0.0.0.0`). The clock is as in [`start`](Self::start).
    ///
    /// # Errors
    /// If the address can't be bound.
    ///
    /// # Cancellation
    /// Nothing is left running if the future is dropped.
    pub async fn start_at(listen: SocketAddr, mut config: BrokerConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        config.port = address.port();
        if config.start_time_ms == DEFAULT_START_TIME_MS {
            config.start_time_ms = unix_time_ms();
        }
        let bootstrap = match config.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, config.port).to_string(),
            Err(_) => format!("{}:{}", config.host, config.port),
        };
        let broker = Self::run(config, bootstrap, Some(address));
        broker.listen(listener);
        Ok(broker)
    }

    /// Starts a broker without a socket: connections come from [`connect`](Self::connect). Must be called within a tokio
    /// runtime. It announces the address `embedded:9092` unless the configuration has a port.
    #[must_use]
    pub fn in_memory(mut config: BrokerConfig) -> Self {
        if config.port == 0 {
            config.host = "embedded".to_owned();
            config.port = 9092;
        }
        let bootstrap = format!("{}:{}", config.host, config.port);
        Self::run(config, bootstrap, None)
    }

    fn run(config: BrokerConfig, bootstrap: String, address: Option<SocketAddr>) -> Self {
        let state = State {
            broker: Broker::new(config, now()),
            peers: BTreeMap::new(),
            next_connection: 1,
            armed: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), sooner: Notify::new() });
        let timer = tokio::spawn(keep_time(Arc::clone(&shared))).abort_handle();
        Self { owner: Arc::new(Owner { shared, timer, listener: Mutex::new(None), bootstrap, address }) }
    }

    fn listen(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.owner.shared);
        let task = tokio::spawn(async move {
            // A listener that fails to accept (too many open files) goes on when it can.
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        shared.admit(stream, None);
                    }
                    Err(_) => tokio::time::sleep(BIND_PAUSE).await,
                }
            }
        });
        *lock(&self.owner.listener) = Some(task);
    }

    /// The address to give to clients, as `host:port`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.owner.bootstrap.clone()
    }

    /// A new connection in memory. Dropping it closes the connection. Must be called within a tokio runtime.
    #[must_use]
    pub fn connect(&self) -> DuplexStream {
        let first = self.with_broker(|broker| broker.config().node_id);
        self.connect_to(first)
    }

    /// As [`connect`](Self::connect), to one of several nodes.
    #[must_use]
    pub fn connect_to(&self, node: i32) -> DuplexStream {
        let (client, server) = tokio::io::duplex(STREAM_BUFFER);
        self.owner.shared.admit(server, Some(node));
        client
    }

    /// The connections of one node are dropped, as when its process dies.
    pub fn drop_node(&self, node: i32) {
        let mut state = self.owner.shared.lock();
        let (gone, kept) =
            std::mem::take(&mut state.peers).into_iter().partition(|(_, peer)| peer.node == Some(node));
        state.peers = gone;
        let gone: Vec<ConnectionId> = state.peers.keys().copied().collect();
        state.drop_peers();
        state.peers = kept;
        for id in gone {
            state.broker.disconnect(id);
        }
    }

    /// Orders faults; see [`Faults`].
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.with_broker(|broker| broker.faults())
    }

    /// Looks at the broker, or changes it, between two requests. The closure must not block.
    pub fn with_broker<T>(&self, look: impl FnOnce(&mut Broker) -> T) -> T {
        let shared = &self.owner.shared;
        let mut state = shared.lock();
        let result = look(&mut state.broker);
        let now = now();
        state.broker.tick(now);
        shared.flush(&mut state, now);
        result
    }

    /// All connections are dropped, as when the broker process restarts. Logs, transactions and offsets stay.
    pub fn restart(&self) {
        let mut state = self.owner.shared.lock();
        state.drop_peers();
        state.broker.disconnect_all();
    }

    /// Drops all connections and refuses new ones until [`come_back`](Self::come_back). In-memory connections made in
    /// the meantime work: there is no listener to take away.
    ///
    /// # Cancellation
    /// The listener is gone even if the future is dropped; only the wait for its port is not done then.
    pub async fn go_down(&self) {
        let task = lock(&self.owner.listener).take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        self.restart();
    }

    /// Listens again on the same port after [`go_down`](Self::go_down).
    ///
    /// # Errors
    /// If another process took the port. A broker without a socket has nothing to do.
    ///
    /// # Cancellation
    /// Nothing changes if the future is dropped.
    pub async fn come_back(&self) -> io::Result<()> {
        let Some(address) = self.owner.address else { return Ok(()) };
        if lock(&self.owner.listener).is_some() {
            return Ok(());
        }
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(address).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BIND_PAUSE).await;
                }
                bound => break bound?,
            }
        };
        self.listen(listener);
        Ok(())
    }

    /// Ends the broker: no listener, no connections, no timer. It does not wait for clients.
    ///
    /// # Cancellation
    /// As for [`go_down`](Self::go_down).
    pub async fn stop(&self) {
        self.owner.timer.abort();
        self.go_down().await;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.timer.abort();
        if let Some(task) = lock(&self.listener).take() {
            task.abort();
        }
        self.shared.lock().drop_peers();
    }
}

impl State {
    fn drop_peers(&mut self) {
        for peer in std::mem::take(&mut self.peers).into_values() {
            if let Some(task) = peer.task {
                task.abort();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn admit<S: AsyncRead + AsyncWrite + Send + 'static>(self: &Arc<Self>, stream: S, node: Option<i32>) {
        let (answers, outgoing) = mpsc::channel(MAX_UNREAD);
        let mut state = self.lock();
        let id = ConnectionId(state.next_connection);
        state.next_connection += 1;
        state.peers.insert(id, Peer { answers, task: None, node });
        if let Some(node) = node {
            state.broker.attach(id, node);
        }
        // The lock is held until the task is noted, so the task can't be gone before.
        let task = tokio::spawn(serve(Arc::clone(self), id, stream, outgoing)).abort_handle();
        if let Some(peer) = state.peers.get_mut(&id) {
            peer.task = Some(task);
        }
    }

    fn handle(&self, id: ConnectionId, frame: RequestFrame) {
        let now = now();
        let mut state = self.lock();
        // What arrives on a connection that the broker has given up does not count.
        if state.peers.contains_key(&id) {
            state.broker.handle(now, id, frame);
            self.flush(&mut state, now);
        }
    }

    fn gone(&self, id: ConnectionId) {
        let mut state = self.lock();
        state.peers.remove(&id);
        state.broker.disconnect(id);
    }

    /// Hands out what the broker has to say, and sets the timer.
    fn flush(&self, state: &mut State, now: Instant) {
        while let Some((id, bytes)) = state.broker.poll_response(now) {
            let unread = state.peers.get(&id).is_some_and(|peer| peer.answers.try_send(bytes).is_err());
            if unread && let Some(peer) = state.peers.remove(&id) {
                if let Some(task) = peer.task {
                    task.abort();
                }
                state.broker.disconnect(id);
            }
        }
        while let Some(id) = state.broker.poll_close() {
            // Without a sender the connection ends after the answers that are on their way.
            state.peers.remove(&id);
        }
        let next = state.broker.next_deadline(now);
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            self.sooner.notify_one();
        }
    }
}

/// Lets the broker's time pass.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let deadline = {
            let now = now();
            let mut state = shared.lock();
            state.broker.tick(now);
            shared.flush(&mut state, now);
            state.armed = state.broker.next_deadline(now);
            state.armed
        };
        let alarm = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = alarm => {}
            () = shared.sooner.notified() => {}
        }
    }
}

/// Carries bytes between a connection and the broker until either side ends it.
async fn serve<S: AsyncRead + AsyncWrite>(
    shared: Arc<Shared>,
    id: ConnectionId,
    stream: S,
    mut outgoing: mpsc::Receiver<Bytes>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let incoming = async {
        let mut buffer = BytesMut::new();
        loop {
            match frame::split(&mut buffer, frame::DEFAULT_MAX) {
                Ok(Some(frame)) => match decode_request(frame) {
                    Ok(request) => shared.handle(id, request),
                    Err(error) => {
                        tracing::warn!(%error, connection = id.0, "a request can't be read");
                        return;
                    }
                },
                Ok(None) => {
                    buffer.reserve(READ_CHUNK);
                    if !reader.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, connection = id.0, "a frame can't be read");
                    return;
                }
            }
        }
    };
    let outgoing = async {
        while let Some(answer) = outgoing.recv().await {
            if writer.write_all(&answer).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! {
        biased;
        () = incoming => {}
        () = outgoing => {}
    }
    shared.gone(id);
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn unix_time_ms() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
