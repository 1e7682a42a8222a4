//! Work that goes on while credentials run out, of which no request may fail and no connection may be lost.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use milena::protocol::messages::MetadataRequest;
use milena::transport::{BoxFuture, BoxStream, Dial, TcpDialer};
use milena::{
    Client, ClientConfig, Consumer, ConsumerConfig, Producer, ProducerConfig, ProducerRecord, Start, Target,
    TopicPartition,
};

use crate::records::within;
use crate::{create_topic, unique};

/// How long the machine may stand still before the loss of a connection is laid to it.
const ENDURED: Duration = Duration::from_millis(500);

/// How many ask for metadata at the same time.
const CALLERS: usize = 4;

/// What was done without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Records written, acknowledged and read, each once and in order.
    pub records: u64,
    /// Calls besides, one try each.
    pub calls: u64,
    /// Produce requests.
    pub produced: u64,
    /// Fetch requests.
    pub fetched: u64,
    /// Connections, all made before the time began.
    pub connections: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records in {} Produce and {} Fetch requests, {} calls, {} connections: nothing failed, none was lost",
            self.records, self.produced, self.fetched, self.calls, self.connections
        )
    }
}

/// Counts the connections that are made.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl Dial for Counting {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxStream>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        TcpDialer.dial(host, port)
    }
}

/// Writes, reads and asks for this time with one client.
///
/// # Panics
/// If a request fails, is repeated, or brings something else than it should; if a record is lost, doubled or out of order; if a
/// connection has to be made anew, on a machine that let this process run when it had to: authentications of seconds leave it one second.
pub async fn goes_on(what: &str, config: ClientConfig, lasts: Duration) -> Done {
    let dialer = Arc::new(Counting::default());
    let client =
        within(what, Client::connect(config.with_dialer(Arc::clone(&dialer) as Arc<dyn Dial>))).await;
    let client = client.unwrap_or_else(|error| panic!("{what}: {error}"));
    let topic = unique("load");
    create_topic(&client, &topic, 1).await;
    let producer =
        Producer::new(&client, ProducerConfig::default()).unwrap_or_else(|error| panic!("{error}"));
    let consumer =
        Consumer::new(&client, ConsumerConfig::default()).unwrap_or_else(|error| panic!("{error}"));
    consumer.assign([(TopicPartition::new(topic.as_str(), 0), Start::Earliest)]);
    let load = Arc::new(Load { what: what.to_owned(), topic, ..Load::default() });
    let reading = tokio::spawn(Arc::clone(&load).read(consumer));
    let calling: Vec<_> =
        (0..CALLERS).map(|_| tokio::spawn(Arc::clone(&load).call(client.clone()))).collect();
    // Each kind of connection is used once before the time begins.
    load.write(&producer, 1).await;
    let first = async {
        while load.read.load(Ordering::SeqCst) == 0 || load.calls.load(Ordering::SeqCst) < CALLERS as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, first).await;
    let connections = dialer.0.load(Ordering::SeqCst);

    let stalls = tokio::spawn(longest_stall(Arc::clone(&load)));
    let began = Instant::now();
    while began.elapsed() < lasts {
        load.write(&producer, 20).await;
    }
    load.written_all.store(true, Ordering::SeqCst);
    let fetched = within(what, reading).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    for caller in calling {
        within(what, caller).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let metrics = producer.metrics();
    assert_eq!((metrics.errors, metrics.retries, metrics.epochs), (0, 0, 0), "{what}: {metrics:?}");
    let after = dialer.0.load(Ordering::SeqCst);
    let stall = within(what, stalls).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    if stall > ENDURED {
        println!("{what}: this machine stood still for {stall:?}; connections: {connections} and {after}");
    } else {
        assert_eq!(after, connections, "{what}: {} connections were made anew", after - connections);
    }
    let closed = producer.close(Duration::from_secs(10)).await;
    closed.unwrap_or_else(|error| panic!("{what}: {error}"));
    let closed = client.close(Duration::from_secs(10)).await;
    closed.unwrap_or_else(|error| panic!("{what}: {error}"));
    let done = Done {
        records: load.written.load(Ordering::SeqCst),
        calls: load.calls.load(Ordering::SeqCst),
        produced: metrics.requests,
        fetched,
        connections,
    };
    println!("{what}: {done}");
    done
}

/// How late a timer was at the worst.
async fn longest_stall(load: Arc<Load>) -> Duration {
    const STEP: Duration = Duration::from_millis(20);
    let mut longest = Duration::ZERO;
    while !load.written_all.load(Ordering::SeqCst) {
        let began = Instant::now();
        tokio::time::sleep(STEP).await;
        longest = longest.max(began.elapsed().saturating_sub(STEP));
    }
    longest
}

#[derive(Debug, Default)]
struct Load {
    what: String,
    topic: String,
    written: AtomicU64,
    read: AtomicU64,
    calls: AtomicU64,
    written_all: AtomicBool,
}

impl Load {
    /// Some records with their numbers as values, acknowledged.
    async fn write(&self, producer: &Producer, count: u64) {
        let mut tickets = Vec::new();
        for _ in 0..count {
            let value = self.written.fetch_add(1, Ordering::SeqCst).to_string();
            let record = ProducerRecord::to(&self.topic).partition(0).value(&value);
            let ticket = within(&self.what, producer.send(record)).await;
            tickets.push(ticket.unwrap_or_else(|error| panic!("{}: {error}", self.what)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for ticket in tickets {
            within(&self.what, ticket).await.unwrap_or_else(|error| panic!("{}: {error}", self.what));
        }
    }

    /// Reads until everything that was written was read; returns how many requests that took.
    async fn read(self: Arc<Self>, mut consumer: Consumer) -> u64 {
        let mut next = 0;
        while !self.written_all.load(Ordering::SeqCst) || next < self.written.load(Ordering::SeqCst) {
            let part = within(&self.what, consumer.poll(Duration::from_millis(200))).await;
            let Some(part) = part.unwrap_or_else(|error| panic!("{}: {error}", self.what)) else { continue };
            for record in &part {
                let record = record.unwrap_or_else(|error| panic!("{}: {error}", self.what));
                assert_eq!(record.value, Some(next.to_string().as_bytes()), "{}: {next}", self.what);
                next += 1;
            }
            self.read.store(next, Ordering::SeqCst);
        }
        let metrics = consumer.metrics();
        assert_eq!((metrics.failed_fetches, metrics.failures, metrics.stalls), (0, 0, 0), "{metrics:?}");
        metrics.fetches
    }

    /// Asks for metadata again and again, with one try each: a request that fails is not hidden by another.
    async fn call(self: Arc<Self>, client: Client) {
        while !self.written_all.load(Ordering::SeqCst) {
            let answer = within(&self.what, client.call(Target::Any, &MetadataRequest::default())).await;
            answer.unwrap_or_else(|error| panic!("{}: {error}", self.what));
            self.calls.fetch_add(1, Ordering::SeqCst);
        }
    }
}
