//! Connections that delay, cut up, lose and repeat late what is sent through them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Dice;
use crate::broker::BrokerConfig;
use crate::listen::EmbeddedBroker;

/// The client's end of a connection.
pub type Stream = DuplexStream;

/// How bad the network is. Chances are per piece of bytes: once in so many, 0 for never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    /// How long a piece is on its way, at most.
    pub delay: Duration,
    /// How many bytes travel together, at most.
    pub piece: u64,
    /// The connection is cut.
    pub cut: u64,
    /// Nothing moves on the connection any more in this direction, and nobody is told.
    pub silence: u64,
    /// A connection is refused; per attempt.
    pub refuse: u64,
}

impl Weather {
    /// Nothing goes wrong, and nothing takes time.
    pub const CALM: Self = Self { delay: Duration::ZERO, piece: u64::MAX, cut: 0, silence: 0, refuse: 0 };
}

/// A network to the nodes of a broker. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    broker: EmbeddedBroker,
    dice: Dice,
    weather: Mutex<Weather>,
    /// The broker's first settings: its nodes are found there, too, whatever they are called now.
    first: BrokerConfig,
    /// Nodes that cannot be reached.
    down: Mutex<BTreeSet<i32>>,
    /// Told to cut its connection, by the connection's place in the order in which they were made: so that they are told in that order, which
    /// tokio's own channels for many receivers do not promise.
    couriers: Mutex<BTreeMap<u64, Line>>,
    trace: Mutex<DefaultHasher>,
    started: Instant,
}

/// A connection that exists.
#[derive(Debug)]
struct Line {
    node: i32,
    cut: Arc<Notify>,
}

/// How a connection's courier came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum End {
    /// One side ended it.
    Closed,
    /// It was cut.
    Cut,
}

/// Bytes of which some are delivered.
#[derive(Default)]
struct Hand {
    bytes: Vec<u8>,
    given: usize,
}

impl Network {
    pub(super) fn new(broker: EmbeddedBroker, weather: Weather, dice: Dice) -> Self {
        let first = broker.with_broker(|broker| broker.config().clone());
        let shared = Shared {
            broker,
            dice,
            weather: Mutex::new(weather),
            first,
            down: Mutex::default(),
            couriers: Mutex::default(),
            trace: Mutex::default(),
            started: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Connects to a node of the broker by one of its names.
    ///
    /// # Errors
    /// Refused by chance, because the node is down, or because nobody is found at this name any more.
    ///
    /// # Cancellation
    /// No connection is made.
    pub async fn dial(&self, host: String, port: u16) -> io::Result<Stream> {
        let shared = &self.shared;
        let weather = *lock(&shared.weather);
        sleep(shared.dice.time(weather.delay)).await;
        let refused = weather.refuse > 0 && shared.dice.one_in(weather.refuse);
        shared.note(("dial", &host, port, refused));
        let named = shared.broker.with_broker(|broker| broker.config().node_at(&host, port));
        let node = named.or_else(|| shared.first.node_at(&host, port));
        let node = node.filter(|node| !refused && !lock(&shared.down).contains(node));
        let Some(node) = node else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let (client, wire) = tokio::io::duplex(64 * 1024);
        let cut = Arc::new(Notify::new());
        let number = {
            let mut couriers = lock(&shared.couriers);
            let number = couriers.last_key_value().map_or(0, |(last, _)| last + 1);
            couriers.insert(number, Line { node, cut: Arc::clone(&cut) });
            number
        };
        let courier = Courier { shared: Arc::clone(shared), dice: shared.dice.split(), number, cut };
        tokio::spawn(courier.carry(wire, shared.broker.connect_to(node)));
        Ok(client)
    }

    /// Changes the weather, also for connections that exist.
    pub fn set_weather(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
    }

    /// Cuts all connections.
    pub fn cut_all(&self) {
        self.shared.note("cut all");
        for line in lock(&self.shared.couriers).values() {
            line.cut.notify_one();
        }
    }

    /// A node dies, or is there again. When it dies its connections are cut, nobody reads what is still on its way to it, and no new
    /// connection is made until it is back.
    pub fn set_down(&self, node: i32, down: bool) {
        self.shared.note(("down", node, down));
        if !down {
            lock(&self.shared.down).remove(&node);
            return;
        }
        lock(&self.shared.down).insert(node);
        self.shared.broker.drop_node(node);
        for line in lock(&self.shared.couriers).values().filter(|line| line.node == node) {
            line.cut.notify_one();
        }
    }

    /// All nodes are there.
    pub fn all_up(&self) {
        lock(&self.shared.down).clear();
    }

    /// The nodes are found at another name from now on, the first one at this port, and say so. Their first names are still good for a
    /// start.
    pub fn rename(&self, host: &str, port: u16) {
        self.shared.note(("rename", host, port));
        self.shared.broker.with_broker(|broker| broker.set_address(host, port));
    }

    /// Adds something that happened to the trace.
    pub fn note(&self, event: impl Hash) {
        self.shared.note(event);
    }

    /// A number made of all that happened, and when.
    #[must_use]
    pub fn trace(&self) -> u64 {
        lock(&self.shared.trace).finish()
    }
}

impl Shared {
    fn note(&self, event: impl Hash) {
        let mut trace = lock(&self.trace);
        self.started.elapsed().hash(&mut *trace);
        event.hash(&mut *trace);
    }
}

/// Carries the bytes of one connection.
struct Courier {
    shared: Arc<Shared>,
    dice: Dice,
    number: u64,
    cut: Arc<Notify>,
}

impl Courier {
    async fn carry(self, wire: DuplexStream, broker: DuplexStream) {
        let (mut from_client, mut to_client) = tokio::io::split(wire);
        let (mut from_broker, mut to_broker) = tokio::io::split(broker);
        let (mut request, mut answer) = (Hand::default(), Hand::default());
        let end = {
            let up = self.one_way(0u8, &mut from_client, &mut to_broker, &mut request);
            let down = self.one_way(1u8, &mut from_broker, &mut to_client, &mut answer);
            tokio::select! {
                biased;
                () = self.cut.notified() => End::Cut,
                end = up => end,
                end = down => end,
            }
        };
        self.shared.note((self.number, end));
        // What the client sent may still arrive, long after it has made another connection: or it may not.
        let late = self.dice.one_in(2);
        if late {
            take_rest(&mut from_client, &mut request).await;
        }
        drop((from_client, to_client));
        if late {
            sleep(self.dice.time(LATEST)).await;
            let bytes = request.bytes.get(request.given..).unwrap_or_default();
            self.shared.note((self.number, "late", bytes.len()));
            let _ = to_broker.write_all(bytes).await;
            // The broker reads it before it sees the end.
            sleep(Duration::from_millis(1)).await;
        }
        lock(&self.shared.couriers).remove(&self.number);
    }

    /// Carries bytes in one direction until something ends it. What is in `hand` and not given was read and not delivered.
    async fn one_way(
        &self,
        way: u8,
        from: &mut ReadHalf<DuplexStream>,
        to: &mut WriteHalf<DuplexStream>,
        hand: &mut Hand,
    ) -> End {
        let dice = self.dice.split();
        loop {
            let weather = *lock(&self.shared.weather);
            let most = 1 + dice.below(weather.piece.clamp(1, 64 * 1024));
            let mut piece = vec![0; usize::try_from(most).unwrap_or(1)];
            let Ok(read @ 1..) = from.read(&mut piece).await else { return End::Closed };
            piece.truncate(read);
            *hand = Hand { bytes: piece, given: 0 };
            self.shared.note((self.number, way, read));
            let delay = dice.time(weather.delay);
            if !delay.is_zero() {
                sleep(delay).await;
            }
            if weather.silence > 0 && dice.one_in(weather.silence) {
                self.shared.note((self.number, way, "silence"));
                std::future::pending::<()>().await;
            }
            if weather.cut > 0 && dice.one_in(weather.cut) {
                return End::Cut;
            }
            while let Some(rest @ [_, ..]) = hand.bytes.get(hand.given..) {
                let Ok(count @ 1..) = to.write(rest).await else { return End::Closed };
                hand.given += count;
            }
        }
    }
}

/// How late bytes of a connection that is gone may arrive.
const LATEST: Duration = Duration::from_millis(700);

/// What the client has written and nobody has read yet.
async fn take_rest(from: &mut ReadHalf<DuplexStream>, hand: &mut Hand) {
    let mut rest = vec![0; 64 * 1024];
    let read = tokio::select! {
        biased;
        read = from.read(&mut rest) => read.unwrap_or(0),
        () = std::future::ready(()) => 0,
    };
    rest.truncate(read);
    hand.bytes.extend(rest);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
