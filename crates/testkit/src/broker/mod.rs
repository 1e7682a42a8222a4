//! An embedded Kafka broker: one node (or several that share their logs), in memory, as a pure state machine.
//!
//! Requests go in with [`Broker::handle`], answers come out of [`Broker::poll_response`], time passes with
//! [`Broker::tick`]. Nothing here reads a clock, a socket or an entropy source. As on Kafka, the requests of one connection
//! are served one after the other and answered in order. What it does not imitate stands in `NOT_SIMULATED.md`.

mod answer;
mod config;
mod configs;
mod connection;
mod coordinator;
mod describe;
mod fault;
mod fetch;
mod groups;
mod inspect;
mod log;
mod nodes;
mod offsets;
mod produce;
mod producer_state;
mod release;
pub(crate) mod rng;
mod sessions;
mod topics;
mod transactions;
mod versions;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::{ApiKey, RequestKind, ResponseKind};
use milena_protocol::{ErrorCode, RequestBody, RequestFrame, StrBytes, encode_response};

pub use config::{BrokerConfig, DEFAULT_START_TIME_MS, TransactionVersion};
pub use fault::{Fault, Faults, UnusedFault};
pub use inspect::{LoggedBatch, TransactionView};

use connection::{Connection, Ready, Reply, Wait};
use coordinator::Coordinator;
use groups::Groups;
use nodes::Unreplicated;
use release::UnknownApi;
use rng::Rng;
use sessions::Sessions;
use topics::Topics;

/// A connection to the broker. Whoever brings the bytes chooses the numbers, and uses each once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// How many requests of a connection may wait for an earlier one before it is closed.
const MAX_WAITING: usize = 4096;

/// How long Produce and TxnOffsetCommit of the second generation wait for the markers of the transaction before
/// (`add.partitions.to.txn.retry.backoff.max.ms`).
const MARKER_PATIENCE: Duration = Duration::from_millis(100);

/// The broker. See the [module](self).
#[derive(Debug)]
pub struct Broker {
    config: BrokerConfig,
    started: Instant,
    topics: Topics,
    coordinator: Coordinator,
    groups: Groups,
    sessions: Sessions,
    connections: BTreeMap<ConnectionId, Connection>,
    outbox: VecDeque<(ConnectionId, Bytes)>,
    closing: VecDeque<ConnectionId>,
    faults: Faults,
    counts: BTreeMap<i16, u64>,
    cluster_id: String,
    /// Something that a waiting request looks at has changed.
    touched: bool,
    checked: Instant,
    /// Which node a connection was made to, if not to the first.
    attached: BTreeMap<ConnectionId, i32>,
    /// What the followers do not have yet, in the order in which they get it.
    unreplicated: VecDeque<Unreplicated>,
}

/// What a handler gives back.
enum Outcome {
    Answer(ResponseKind),
    /// Nothing is sent: Produce with acks 0.
    NoAnswer,
    Wait(Wait),
    /// The request breaks the protocol: the connection is closed.
    Close,
}

impl<R: Into<ResponseKind>> From<R> for Outcome {
    fn from(response: R) -> Self {
        Self::Answer(response.into())
    }
}

impl Broker {
    /// A broker that starts at `now`.
    #[must_use]
    pub fn new(config: BrokerConfig, now: Instant) -> Self {
        let mut rng = Rng::new(config.seed);
        let cluster_id = format!("embedded-{:012x}", rng.next() >> 16);
        let first_producer_id = i64::try_from(rng.next() % 1000).unwrap_or(0) * 1000;
        let sessions = Sessions::new(rng.clone());
        let mut topics = Topics::new(rng);
        for (name, partitions) in &config.topics {
            topics.create(name, *partitions, BTreeMap::new());
        }
        Self {
            config,
            started: now,
            topics,
            coordinator: Coordinator::new(first_producer_id),
            groups: Groups::default(),
            sessions,
            connections: BTreeMap::new(),
            outbox: VecDeque::new(),
            closing: VecDeque::new(),
            faults: Faults::default(),
            counts: BTreeMap::new(),
            cluster_id,
            touched: false,
            checked: now,
            attached: BTreeMap::new(),
            unreplicated: VecDeque::new(),
        }
    }

    /// What the broker was started with.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// Announces another address, once it is known where the broker listens.
    pub fn set_address(&mut self, host: impl Into<String>, port: u16) {
        self.config.host = host.into();
        self.config.port = port;
    }

    /// The faults to show; a clone that shares them.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Takes a request of a connection. Answers are in [`poll_response`](Self::poll_response) afterwards.
    pub fn handle(&mut self, now: Instant, connection: ConnectionId, frame: RequestFrame) {
        let state = self.connections.entry(connection).or_default();
        if state.queue.len() >= MAX_WAITING {
            self.close(connection);
            return;
        }
        state.queue.push_back(frame);
        self.serve(now, connection);
        self.wake(now);
    }

    /// The next answer to send, as a frame with its length in front. What is due at `now` is done first.
    pub fn poll_response(&mut self, now: Instant) -> Option<(ConnectionId, Bytes)> {
        if self.next_deadline(now).is_some_and(|at| at <= now) {
            self.tick(now);
        }
        self.outbox.pop_front()
    }

    /// The next connection to close, once all answers before are sent.
    pub fn poll_close(&mut self) -> Option<ConnectionId> {
        self.closing.pop_front()
    }

    /// A connection is gone: its waiting requests are forgotten.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
        self.attached.remove(&connection);
        self.outbox.retain(|(to, _)| *to != connection);
        self.closing.retain(|closing| *closing != connection);
    }

    /// All connections are gone, as when the broker restarts. Topics, transactions and offsets stay.
    pub fn disconnect_all(&mut self) {
        self.connections.clear();
        self.attached.clear();
        self.outbox.clear();
        self.closing.clear();
    }

    /// When [`tick`](Self::tick) has something to do next, if anything; never before `now`.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let waits = self.connections.values().filter_map(|connection| connection.deadline());
        let check =
            self.coordinator.has_ongoing().then_some(self.checked + self.config.transaction_check_interval);
        let replicas = self.unreplicated.front().map(|one| one.at);
        waits.chain(replicas).chain(self.coordinator.next_marker()).chain(check).min().map(|at| at.max(now))
    }

    /// Lets time pass: long polls end, delayed answers go out, markers are written, expired transactions are aborted.
    pub fn tick(&mut self, now: Instant) {
        self.replicate(now);
        self.write_due_markers(now);
        self.abort_expired_transactions(now);
        let due: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.resume(now, id);
        }
        self.wake(now);
    }

    /// Looks at the waiting requests again as long as something changes.
    fn wake(&mut self, now: Instant) {
        while std::mem::take(&mut self.touched) {
            let waiting: Vec<ConnectionId> = self
                .connections
                .iter()
                .filter(|(_, connection)| {
                    matches!(
                        connection.wait,
                        Some(Wait::Fetch { .. } | Wait::Retry { .. } | Wait::Replicas { .. })
                    )
                })
                .map(|(id, _)| *id)
                .collect();
            for id in waiting {
                self.resume(now, id);
            }
        }
    }

    /// Serves the queue of a connection until a request has to wait.
    fn serve(&mut self, now: Instant, id: ConnectionId) {
        while let Some(connection) = self.connections.get_mut(&id) {
            if connection.wait.is_some() {
                return;
            }
            let Some(frame) = connection.queue.pop_front() else { return };
            self.process(now, id, frame);
        }
    }

    fn process(&mut self, now: Instant, id: ConnectionId, frame: RequestFrame) {
        *self.counts.entry(frame.api_key).or_default() += 1;
        let fault = self.faults.take(frame.api_key);
        let mut reply = Reply::to(&frame, self.node_of(id));
        match fault {
            Some(Fault::DropBefore) => return self.close(id),
            Some(Fault::Silence) => return self.park(id, Wait::Forever),
            Some(Fault::Delay(delay)) => reply.not_before = Some(now + delay),
            Some(Fault::DropAfter) => reply.drop = true,
            Some(Fault::Error(_) | Fault::Throttle(_)) | None => {}
        }
        let kind = match frame.body {
            RequestBody::Known(mut kind) if self.serves(frame.api_key, frame.version) => {
                release::in_zookeeper(frame.version, &mut kind);
                kind
            }
            _ if self.config.unknown_api() == UnknownApi::Silence => return self.park(id, Wait::Forever),
            _ if frame.api_key == ApiKey::ApiVersions as i16 && self.config.knows_api_versions() => {
                reply.version = 0;
                let refusal = self.api_versions(0, ErrorCode::UNSUPPORTED_VERSION);
                return self.answer(now, id, &reply, &refusal.into());
            }
            _ => return self.close(id),
        };
        let outcome = match fault {
            Some(Fault::Error(error)) => {
                answer::refuse(&kind, frame.version, error).map_or(Outcome::Close, Outcome::Answer)
            }
            Some(Fault::Throttle(time)) => {
                let begins = matches!(&kind, RequestKind::Fetch(fetch) if fetch.session_epoch <= 0);
                match self.dispatch(now, &reply, kind) {
                    Outcome::Answer(response) => Outcome::Answer(answer::throttle(response, time, begins)),
                    other => other,
                }
            }
            _ => self.dispatch(now, &reply, kind),
        };
        self.settle(now, id, reply, outcome);
    }

    fn settle(&mut self, now: Instant, id: ConnectionId, reply: Reply, outcome: Outcome) {
        match outcome {
            Outcome::Answer(response) => self.answer(now, id, &reply, &response),
            Outcome::NoAnswer if reply.drop => self.close(id),
            Outcome::NoAnswer => {}
            Outcome::Wait(_) if reply.drop => self.close(id),
            Outcome::Wait(wait) => self.park(id, wait),
            Outcome::Close => self.close(id),
        }
    }

    fn answer(&mut self, now: Instant, id: ConnectionId, reply: &Reply, response: &ResponseKind) {
        if reply.drop {
            return self.close(id);
        }
        let mut frame = BytesMut::new();
        let encoded =
            encode_response(&mut frame, reply.api_key, reply.version, reply.correlation_id, response);
        if let Err(error) = encoded {
            tracing::error!(%error, api = reply.api_key, version = reply.version, "an answer can't be encoded");
            return self.close(id);
        }
        match reply.not_before {
            Some(at) if at > now => self.park(id, Wait::Answer { at, frame: frame.freeze() }),
            _ => self.outbox.push_back((id, frame.freeze())),
        }
    }

    /// Looks at the waiting request of a connection again.
    fn resume(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(wait) = connection.wait.take() else { return };
        match wait.poll(now) {
            Ready::Not(wait) => connection.wait = Some(wait),
            Ready::Answer(frame) => self.outbox.push_back((id, frame)),
            Ready::Fetch { reply, request, deadline } => {
                let outcome = self.fetch(now, &reply, request, Some(deadline));
                self.settle(now, id, reply, outcome);
            }
            Ready::Retry { reply, request, deadline } => {
                let outcome = self.retry(now, &reply, *request, deadline);
                self.settle(now, id, reply, outcome);
            }
            Ready::Replicas { reply, response, held } => {
                let outcome = self.when_replicated(&reply, response, held);
                self.settle(now, id, reply, outcome);
            }
        }
        self.serve(now, id);
    }

    fn park(&mut self, id: ConnectionId, wait: Wait) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.wait = Some(wait);
        }
    }

    fn close(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.attached.remove(&id);
        self.closing.push_back(id);
    }

    fn retry(&mut self, now: Instant, reply: &Reply, request: RequestKind, deadline: Instant) -> Outcome {
        match request {
            RequestKind::Produce(request) => self.produce(now, reply, request, Some(deadline)),
            RequestKind::TxnOffsetCommit(request) => {
                self.txn_offset_commit(now, reply, request, Some(deadline))
            }
            _ => Outcome::Close,
        }
    }

    fn dispatch(&mut self, now: Instant, reply: &Reply, kind: RequestKind) -> Outcome {
        let version = reply.version;
        match kind {
            RequestKind::ApiVersions(_) => self.api_versions(version, ErrorCode::NONE).into(),
            RequestKind::Metadata(request) => self.metadata(version, &request).into(),
            RequestKind::CreateTopics(request) => self.create_topics(version, &request).into(),
            RequestKind::DeleteTopics(request) => self.delete_topics(version, &request).into(),
            RequestKind::CreatePartitions(request) => self.create_partitions(&request).into(),
            RequestKind::DescribeCluster(request) => self.describe_cluster(version, &request).into(),
            RequestKind::DescribeConfigs(request) => self.describe_configs(version, &request).into(),
            RequestKind::Produce(request) => self.produce(now, reply, request, None),
            RequestKind::Fetch(request) => self.fetch(now, reply, request, None),
            RequestKind::ListOffsets(request) => self.list_offsets(reply.node, version, &request).into(),
            RequestKind::DeleteRecords(request) => self.delete_records(reply.node, &request).into(),
            RequestKind::OffsetForLeaderEpoch(request) => {
                self.offset_for_leader_epoch(reply.node, &request).into()
            }
            RequestKind::FindCoordinator(request) => self.find_coordinator(version, &request).into(),
            RequestKind::InitProducerId(request) => self.init_producer_id(now, version, &request).into(),
            RequestKind::AddPartitionsToTxn(request) => {
                self.add_partitions_to_txn(now, version, &request).into()
            }
            RequestKind::AddOffsetsToTxn(request) => self.add_offsets_to_txn(now, version, &request).into(),
            RequestKind::EndTxn(request) => self.end_txn(now, version, &request).into(),
            RequestKind::TxnOffsetCommit(request) => self.txn_offset_commit(now, reply, request, None),
            RequestKind::WriteTxnMarkers(request) => self.write_txn_markers(now, &request).into(),
            RequestKind::DescribeTransactions(request) => self.describe_transactions(&request).into(),
            RequestKind::ListTransactions(request) => self.list_transactions(now, version, &request).into(),
            RequestKind::DescribeProducers(request) => self.describe_producers(&request).into(),
            RequestKind::OffsetCommit(request) => self.offset_commit(version, &request).into(),
            RequestKind::OffsetFetch(request) => self.offset_fetch(version, &request).into(),
            RequestKind::ListGroups(request) => self.list_groups(version, &request).into(),
            _ => Outcome::Close,
        }
    }

    /// Wall clock at `now`, in milliseconds since 1970.
    fn wall(&self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.started).as_millis();
        self.config.start_time_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    fn cluster_id(&self) -> StrBytes {
        StrBytes::from_string(self.cluster_id.clone())
    }
}
