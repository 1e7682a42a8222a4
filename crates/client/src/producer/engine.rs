//! What the handles of a producer and its tasks share.
//!
//! ```text
//! send --> slot (open batch) --full--> lane queue --> lane task --> broker
//!            |  ^                        ^  ^             |
//!            |  +---- timer: linger -----+  |             | leader errors, lost answers
//!            +-- no leader known --> router +<------------+
//! ```
//!
//! One task per leader broker (lane), one for time (timer), one for leaders and identities (router). They end when the producer is
//! closed, or dropped and everything it took is settled.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use milena_core::produce::{Failure, Identity, Limits, Settled};
use milena_protocol::error_code::ErrorCode;
use milena_protocol::records::{BatchOptions, TimestampType};
use milena_protocol::types::{BrokerId, Offset, PartitionId, TopicPartition};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::budget::{Budget, Buffers};
use super::config::ProducerConfig;
use super::lane::{self, LaneQueue};
use super::metrics::Counts;
use super::router::RouterQueue;
use super::slot::{Slot, SlotState, Topics};
use super::ticket::{BatchState, Delivered, FlushSet};
use super::timer::{CLOCK_AGE, Timers};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::transaction::Link;

/// See the module.
pub(crate) struct Engine {
    pub(crate) client: Client,
    pub(crate) config: ProducerConfig,
    pub(crate) runtime: Handle,
    pub(crate) topics: Topics,
    pub(crate) budget: Budget,
    pub(crate) buffers: Buffers,
    pub(crate) timers: Timers,
    pub(crate) router: RouterQueue,
    pub(crate) counts: Counts,
    /// The transaction the records are part of, if any.
    pub(crate) link: Option<Arc<Link>>,
    /// Set to `true` when the tasks have to end.
    pub(crate) ended: watch::Sender<bool>,
    /// Produce requests that wait for their answers, at all brokers.
    pub(crate) requests: AtomicUsize,
    /// How many threads may compress at a time.
    pub(crate) compressors: Semaphore,
    limits: Limits,
    /// How large a record may be.
    pub(super) max_record: usize,
    /// Set once, when the brokers turn out not to know producer ids.
    without_idempotence: AtomicBool,
    /// [`OPEN`], [`CLOSED`] or [`FATAL`].
    pub(super) gate: AtomicU8,
    lanes: Mutex<HashMap<BrokerId, Arc<LaneQueue>>>,
    identity: Mutex<Option<Identity>>,
    fatal: OnceLock<Error>,
    unreported: Mutex<Option<Error>>,
}

pub(super) const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const FATAL: u8 = 2;

impl Engine {
    /// Starts the tasks on the client's runtime.
    pub(crate) fn start(client: Client, config: ProducerConfig, link: Option<Arc<Link>>) -> Arc<Self> {
        let limits = Limits {
            options: BatchOptions {
                compression: config.compression,
                level: config.compression_level,
                timestamp_type: TimestampType::CreateTime,
            },
            batch_size: config.batch_size,
            max_in_flight: config.max_in_flight,
            idempotent: config.is_idempotent(),
            transactional: link.is_some(),
            delivery_timeout: config.delivery_timeout,
        };
        let runtime = client.pool().runtime().clone();
        let engine = Arc::new(Self {
            budget: Budget::new(config.buffer_memory),
            buffers: Buffers::new(config.batch_size, config.buffer_memory),
            timers: Timers::new(config.linger, config.delivery_timeout),
            router: RouterQueue::default(),
            topics: Topics::default(),
            requests: AtomicUsize::new(0),
            compressors: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            max_record: config.max_request_size.min(config.buffer_memory),
            counts: Counts::default(),
            ended: watch::Sender::new(false),
            without_idempotence: AtomicBool::new(false),
            gate: AtomicU8::new(OPEN),
            lanes: Mutex::default(),
            identity: Mutex::default(),
            fatal: OnceLock::new(),
            unreported: Mutex::default(),
            runtime: runtime.clone(),
            client,
            config,
            link,
            limits,
        });
        runtime.spawn(super::timer::run(Arc::clone(&engine)));
        runtime.spawn(super::router::run(Arc::clone(&engine)));
        engine
    }

    /// Queues a partition at its lane, or at the router, if it has something to send.
    pub(crate) fn schedule(&self, slot: &Arc<Slot>, state: &mut SlotState) {
        if state.queued || state.parked || state.batches.next_size().is_none() {
            return;
        }
        let outside = self.link.as_ref().is_some_and(|link| link.must_join(state.joined));
        match &state.lane {
            Some(lane) if !outside => {
                state.queued = true;
                lane.push(Arc::clone(slot));
            }
            _ => {
                state.parked = true;
                self.router.park(Arc::clone(slot), self.now(), false);
            }
        }
    }

    /// The partition's next try needs the router's help, after `delay`.
    pub(crate) fn park(&self, slot: &Arc<Slot>, state: &mut SlotState, delay: Duration, refresh: bool) {
        if refresh {
            state.lane = None;
        }
        if !state.parked {
            state.parked = true;
            self.router.park(Arc::clone(slot), self.now() + delay, refresh);
        }
    }

    /// The memory of a batch that is done with.
    pub(crate) fn reuse(&self, buffer: Vec<u8>) {
        // It counts as used still: it was paid for by its capacity, and is refunded when its batch is settled.
        let used = self.budget.used().saturating_sub(buffer.capacity());
        self.buffers.give(buffer, used);
    }

    /// The lane of a broker, started if there is none.
    pub(crate) fn lane(self: &Arc<Self>, broker: BrokerId) -> Arc<LaneQueue> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(broker).or_insert_with(|| {
            let queue = Arc::new(LaneQueue::new(broker));
            self.runtime.spawn(lane::run(Arc::clone(self), Arc::clone(&queue)));
            queue
        });
        Arc::clone(lane)
    }

    /// Who the producer is; `None` until the router (or `init`) asked.
    pub(crate) fn identity(&self) -> Option<Identity> {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Whether batches carry a producer id; `None` while nobody knows.
    pub(crate) fn idempotent(&self) -> Option<bool> {
        if !self.limits.idempotent || self.without_idempotence.load(Ordering::Acquire) {
            return Some(false);
        }
        self.identity().map(|_| true)
    }

    /// The brokers know no producer ids: batches go out without, one of a partition at a time.
    pub(crate) fn go_without_idempotence(&self, cause: &Error) {
        if self.without_idempotence.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(
            %cause,
            "the producer works WITHOUT idempotence, which needs Kafka 0.11: a record whose acknowledgement is lost may be written twice"
        );
        for slot in self.slots() {
            slot.state().batches.give_up_idempotence();
        }
    }

    /// Time, by the runtime's clock (which tests can stop).
    pub(crate) fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// All partitions.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.topics.slots().cloned().collect()
    }

    /// Asks for a topic and its partitions.
    pub(crate) async fn learn(&self, name: &str) -> Result<()> {
        let known = self.topics.find(name).is_some();
        // What is cached did not help: the partition may be new.
        let topic = if known {
            self.client.topic_with(name, &mut self.client.attempts()).await?
        } else {
            self.client.topic(name).await?
        };
        self.take_over(&topic);
        Ok(())
    }

    pub(crate) fn take_over(&self, topic: &milena_core::cluster::Topic) {
        // Asked while no partition can be added: each is either made with the limits of the moment, or found by who changes them.
        let limits = || match self.without_idempotence.load(Ordering::Acquire) {
            true => self.limits.without_idempotence(),
            false => self.limits,
        };
        let cluster = self.config.rack.as_ref().map(|rack| (rack.as_str(), self.client.cluster()));
        let near = |leader| match &cluster {
            Some((rack, cluster)) => {
                cluster.broker(leader).is_some_and(|broker| broker.rack.as_deref() == Some(*rack))
            }
            None => true,
        };
        self.topics.learn(topic, limits, self.client.seed(), near);
    }

    /// Whether a partition exists, after [`learn`](Self::learn).
    pub(crate) fn knows(&self, topic: &str, partition: Option<PartitionId>) -> bool {
        self.topics.find(topic).is_some_and(|known| match partition {
            Some(partition) => known.slot(partition).is_some(),
            None => known.partitions() > 0,
        })
    }

    /// A sender waits for room: all open batches are sent, unless an answer or the end of their linger will make room soon.
    pub(crate) fn press(&self) {
        if self.config.linger <= CLOCK_AGE && self.requests.load(Ordering::Acquire) > 0 {
            return;
        }
        for slot in self.slots() {
            let mut state = slot.state();
            if state.batches.mark_due() {
                self.schedule(&slot, &mut state);
            }
        }
    }

    /// Waits until everything sent before is settled; the first error of it.
    ///
    /// # Cancellation
    /// Sending goes on; errors are left to the next flush.
    pub(crate) async fn flush(&self) -> Result<()> {
        let mut earlier = Restore { engine: self, error: self.take_unreported() };
        let mut set = FlushSet::default();
        for slot in self.slots() {
            let mut state = slot.state();
            state.batches.unsettled().for_each(|batch| set.watch(batch));
            if state.batches.mark_due() {
                self.schedule(&slot, &mut state);
            }
        }
        let failed = set.settled(&|error| self.note(error)).await;
        match earlier.error.take().or(failed) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// An error that no flush covers yet.
    pub(crate) fn note(&self, error: Error) {
        self.unreported.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Takes the first error that no flush reported.
    pub(crate) fn take_unreported(&self) -> Option<Error> {
        self.unreported.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A batch, or a part of one, is in the log.
    pub(crate) fn acked(&self, settled: Settled<Arc<BatchState>>, delivered: Delivered) {
        self.counts.on_acked(settled.records.len());
        settled.token.settle(settled.records, Ok(delivered));
        self.budget.refund(settled.refund);
    }

    /// A batch, or a part of one, failed.
    pub(crate) fn failed(
        &self,
        tp: &TopicPartition,
        settled: Settled<Arc<BatchState>>,
        failure: Failure,
        cause: Option<&Error>,
    ) {
        let waited = self.now().saturating_duration_since(settled.created);
        let maybe = settled.maybe_written || failure == Failure::MaybeWritten;
        let error = delivery_error(failure, cause, self.config.delivery_timeout)
            .with_maybe_applied(maybe)
            .with_topic_partition(tp)
            .with_api("Produce")
            .with_attempts(settled.attempts, waited);
        self.counts.on_failed(settled.records.len());
        tracing::warn!(records = settled.records.len(), %error, "records were not acknowledged");
        if let Some(link) = &self.link {
            link.on_failed(&error);
        }
        if settled.token.settle(settled.records, Err(error.clone())) {
            self.note(error);
        }
        self.budget.refund(settled.refund);
    }

    /// The producer can't go on: everything that waits fails, and every send.
    pub(crate) fn fail_for_good(&self, error: Error) {
        if let Some(link) = &self.link {
            link.on_fenced(&error);
            self.stop(&error);
            return;
        }
        let _ = self.fatal.set(error.clone());
        self.gate.store(FATAL, Ordering::Release);
        self.stop(&error);
    }

    /// Fails what waits; what is in flight is settled at its answer and not sent again.
    pub(crate) fn stop(&self, cause: &Error) {
        for slot in self.slots() {
            let gone = slot.state().batches.stop();
            for (settled, failure) in gone {
                self.failed(&slot.tp, settled, failure, Some(cause));
            }
        }
    }

    /// Fails everything, also what is in flight, and ends the tasks.
    pub(crate) fn discard(&self, cause: &Error) {
        self.shut();
        self.ended.send_replace(true);
        for slot in self.slots() {
            let gone = slot.state().batches.abandon();
            for (settled, failure) in gone {
                self.failed(&slot.tp, settled, failure, Some(cause));
            }
        }
    }

    /// A new transaction begins: the offsets of the last one do not count.
    pub(crate) fn forget_offsets(&self) {
        for slot in self.slots() {
            let mut state = slot.state();
            state.first_offset = None;
            state.lost_offset = false;
        }
    }

    /// The first offset of the transaction in each partition it wrote to.
    pub(crate) fn first_offsets(&self) -> Result<Vec<(TopicPartition, Offset)>> {
        let mut found = Vec::new();
        for slot in self.slots() {
            let state = slot.state();
            if state.lost_offset {
                return Err(Error::new(
                    ErrorKind::DataLoss,
                    "the broker did not say at which offset the transaction begins",
                )
                .with_topic_partition(&slot.tp)
                .with_remedy("abort the transaction and write it again"));
            }
            found.extend(state.first_offset.map(|first| (slot.tp.clone(), first)));
        }
        found.sort();
        Ok(found)
    }

    /// Takes records again after [`stop`](Self::stop).
    pub(crate) fn resume(&self) {
        for slot in self.slots() {
            slot.state().batches.resume();
        }
    }

    /// Why no record is taken.
    pub(super) fn refusal(&self) -> Error {
        match self.fatal.get() {
            Some(error) => error.clone(),
            None => Error::closed("the producer is closed"),
        }
    }

    /// Refuses records from now on.
    pub(crate) fn shut(&self) {
        let _ = self.gate.compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Ends: waits for what was taken, `timeout` at most, and gives up the rest.
    pub(crate) async fn finish(&self, timeout: Duration) -> Result<()> {
        self.shut();
        let flushed = tokio::time::timeout(timeout, self.flush()).await;
        self.discard(&Error::closed("the producer was closed"));
        flushed.unwrap_or_else(|_| {
            let text =
                format!("not all records were acknowledged within {timeout:?}; their tickets say which");
            Err(Error::new(ErrorKind::Timeout, text))
        })
    }
}

/// Puts an error back that a flush was to report and did not.
struct Restore<'a> {
    engine: &'a Engine,
    error: Option<Error>,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            self.engine.note(error);
        }
    }
}

fn delivery_error(failure: Failure, cause: Option<&Error>, timeout: Duration) -> Error {
    let because = cause.map(|cause| format!(": {}", cause.message())).unwrap_or_default();
    // What stopped the batch says more than how long it waited.
    let stopped = cause.filter(|cause| matches!(cause.kind(), ErrorKind::Closed) || !cause.is_retriable());
    match failure {
        Failure::TooLarge => Error::broker_code(ErrorCode::MESSAGE_TOO_LARGE, None).with_remedy(
            "raise the topic's max.message.bytes (the broker's message.max.bytes), or send smaller records",
        ),
        Failure::OutOfOrder => Error::broker_code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, None),
        Failure::Refused(_) => cause.cloned().unwrap_or_else(|| Error::peer("the broker refused the batch")),
        Failure::NotWritten => {
            let kind = stopped.map_or(ErrorKind::Timeout, Error::kind);
            let why = if stopped.is_some() { String::new() } else { format!(" within {timeout:?}") };
            let error = Error::new(kind, format!("not written{why}{because}"));
            match stopped.and_then(Error::remedy) {
                Some(remedy) => error.with_remedy(remedy.to_owned()),
                None => error,
            }
        }
        Failure::MaybeWritten => {
            let kind = stopped.map_or(ErrorKind::Timeout, Error::kind);
            let why = if stopped.is_some() { String::new() } else { format!(" within {timeout:?}") };
            Error::new(kind, format!("possibly written: no acknowledgement{why}{because}"))
                .with_remedy("read the topic's end before sending it again, or accept a duplicate")
        }
    }
}
