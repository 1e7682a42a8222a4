//! Random histories of one partition's batches against a model of a broker's log, with lost answers, requests that arrive late, leaders that
//! refuse, batches that are too large and time that runs out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report
#![allow(clippy::disallowed_methods)] // some moment to start from; only differences count

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use milena_core::produce::accumulator::{BatchId, Body, Entry, Opening, Supply, Verdict};
use milena_core::produce::outcome::{self, Outcome, Remedy};
use milena_core::produce::{Accumulator, Failure, Identity, Limits, Settled};
use milena_protocol::error_code::ErrorCode;
use milena_protocol::records::{BatchOptions, FrozenBatch, RecordBatch, Run};
use milena_protocol::types::{ProducerEpoch, ProducerId};
use proptest::prelude::*;

/// What a broker keeps of a producer: the epoch, the next sequence, the last five batches.
struct Producer {
    epoch: i16,
    next: i32,
    recent: VecDeque<(i16, i32, u32, i64)>,
}

struct Log {
    /// `max.message.bytes`.
    limit: usize,
    values: Vec<u32>,
    producer: Option<Producer>,
}

impl Log {
    /// Kafka's rules: a producer without state may begin anywhere, a new epoch begins at 0, the last five batches are recognised.
    fn append(&mut self, bytes: bytes::Bytes) -> (ErrorCode, i64) {
        let batch = RecordBatch::parse(&mut bytes.clone()).unwrap().unwrap();
        batch.verify_crc().unwrap();
        if bytes.len() > self.limit {
            return (ErrorCode::MESSAGE_TOO_LARGE, -1);
        }
        let (epoch, first) = (batch.producer_epoch().unwrap().0, batch.base_sequence().unwrap().0);
        let count = batch.record_count();
        if let Some(known) = &self.producer {
            if epoch < known.epoch {
                return (ErrorCode::INVALID_PRODUCER_EPOCH, -1);
            }
            let same = |&&(e, f, c, _): &&(i16, i32, u32, i64)| (e, f, c) == (epoch, first, count);
            if let Some(&(.., offset)) = known.recent.iter().find(same) {
                return (ErrorCode::NONE, offset);
            }
            let expected = if epoch > known.epoch { 0 } else { known.next };
            if first != expected {
                return (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1);
            }
        }
        let offset = self.values.len() as i64;
        for record in batch.records().unwrap().iter() {
            self.values.push(u32::from_be_bytes(record.unwrap().value.unwrap().try_into().unwrap()));
        }
        let mut recent = self.producer.take().map(|known| known.recent).unwrap_or_default();
        recent.push_back((epoch, first, count, offset));
        if recent.len() > 5 {
            recent.pop_front();
        }
        self.producer = Some(Producer { epoch, next: first + count as i32, recent });
        (ErrorCode::NONE, offset)
    }
}

#[derive(Default)]
struct Memory {
    used: Cell<usize>,
    batches: Cell<usize>,
    now: Cell<Option<Instant>>,
    values: RefCell<Vec<Vec<u32>>>,
}

impl Supply<usize> for Memory {
    fn pay(&self, bytes: usize) -> bool {
        let fits = self.used.get() + bytes <= 20_000;
        if fits {
            self.used.set(self.used.get() + bytes);
        }
        fits
    }

    fn open(&self, _capacity: usize) -> Opening<usize> {
        self.values.borrow_mut().push(Vec::new());
        self.batches.set(self.batches.get() + 1);
        Opening { token: self.batches.get() - 1, buffer: Vec::new(), now: self.now.get().unwrap() }
    }
}

struct Flight {
    id: BatchId,
    frozen: FrozenBatch,
    /// What the broker said, once it has seen the request.
    answer: Option<(ErrorCode, i64)>,
}

struct World {
    accumulator: Accumulator<usize>,
    memory: Memory,
    log: Log,
    epoch: i16,
    flights: VecDeque<Flight>,
    /// Requests of lost connections that a broker has not read yet.
    late: Vec<bytes::Bytes>,
    next: u32,
    acked: Vec<(u32, i64)>,
    failed: Vec<(u32, Failure)>,
}

impl World {
    fn new(max_in_flight: usize, limit: usize) -> Self {
        let limits = Limits {
            options: BatchOptions::default(),
            batch_size: 200,
            max_in_flight,
            idempotent: true,
            transactional: false,
            delivery_timeout: Duration::from_secs(1),
        };
        let memory = Memory::default();
        memory.now.set(Some(Instant::now()));
        Self {
            accumulator: Accumulator::new(limits),
            memory,
            log: Log { limit, values: Vec::new(), producer: None },
            epoch: 0,
            flights: VecDeque::new(),
            late: Vec::new(),
            next: 0,
            acked: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.memory.now.get().unwrap()
    }

    fn identity(&self) -> Identity {
        Identity { id: ProducerId(9), epoch: ProducerEpoch(self.epoch) }
    }

    fn push(&mut self) {
        let value = self.next.to_be_bytes();
        let entry = Entry { timestamp: 1, key: None, value: Some(&value), headers: &[] };
        if let Ok(pushed) = self.accumulator.push(&entry, &self.memory) {
            let mut values = self.memory.values.borrow_mut();
            assert_eq!(values[*pushed.token].len() as u32, pushed.index);
            values[*pushed.token].push(self.next);
            self.next += 1;
        }
    }

    /// Several records at a time, as many as the open batch takes as it is.
    fn push_run(&mut self, wanted: u32) {
        let values: Vec<[u8; 4]> = (self.next..self.next + wanted).map(u32::to_be_bytes).collect();
        let bytes = values.len() * Run::bytes(None, Some(&[0; 4]));
        let pushed = self.accumulator.push_run(bytes, |run| {
            let _ = values.iter().take_while(|value| run.push(1, None, Some(&value[..]))).count();
        });
        let Some((token, places)) = pushed else { return };
        let mut values = self.memory.values.borrow_mut();
        assert_eq!(values[*token].len() as u32, places.start);
        let end = self.next + places.end - places.start;
        values[*token].extend(self.next..end);
        self.next = end;
    }

    fn take(&mut self) -> bool {
        let Some(transmit) = self.accumulator.take(Some(self.identity())) else { return false };
        let mut frozen = match transmit.body {
            Body::Built(builder) => builder.freeze().unwrap(),
            Body::Frozen(frozen) => frozen,
        };
        let stamp = transmit.stamp.unwrap();
        frozen.stamp(stamp.identity.id, stamp.identity.epoch, stamp.first, false);
        self.flights.push_back(Flight { id: transmit.id, frozen, answer: None });
        true
    }

    /// The broker reads the next request; `refusal` is what it says instead of appending.
    fn serve(&mut self, refusal: Option<ErrorCode>) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.answer.is_none()) {
            flight.answer = Some(match refusal {
                Some(code) => (code, -1),
                None => self.log.append(flight.frozen.as_bytes()),
            });
        }
    }

    fn deliver(&mut self) {
        if self.flights.front().is_some_and(|flight| flight.answer.is_some()) {
            let flight = self.flights.pop_front().unwrap();
            let (code, offset) = flight.answer.unwrap();
            self.judge(flight.id, flight.frozen, outcome::of(code), offset);
        }
    }

    /// The connection breaks: no answer arrives, and what was not read is read later, or never.
    fn disconnect(&mut self, keep_late: bool) {
        for flight in std::mem::take(&mut self.flights) {
            if flight.answer.is_none() && keep_late {
                self.late.push(flight.frozen.as_bytes());
            }
            self.judge(flight.id, flight.frozen, outcome::of_lost_answer(true), -1);
        }
    }

    fn judge(&mut self, id: BatchId, frozen: FrozenBatch, outcome: Outcome, offset: i64) {
        match self.accumulator.handle_answer(id, outcome, Body::Frozen(frozen), self.now()) {
            Verdict::Acked(settled) => {
                for (place, value) in self.settle(&settled).into_iter().enumerate() {
                    self.acked.push((value, offset + place as i64));
                }
            }
            Verdict::Failed(settled, failure) => self.fail(&settled, failure),
            // Or one before it: a batch behind the lost one may be answered after the epoch was raised.
            Verdict::NeedsEpoch(lost) => {
                assert_eq!(lost.id, self.identity().id);
                assert!(lost.epoch <= self.identity().epoch, "{lost:?} was never given out");
            }
            Verdict::Again(..) | Verdict::Split(_) => {}
            Verdict::Unknown => panic!("every answer is to a batch in flight"),
        }
    }

    fn settle(&mut self, settled: &Settled<usize>) -> Vec<u32> {
        self.memory.used.set(self.memory.used.get().checked_sub(settled.refund).expect("no refund twice"));
        let (from, to) = (settled.records.start as usize, settled.records.end as usize);
        self.memory.values.borrow()[settled.token][from..to].to_vec()
    }

    fn fail(&mut self, settled: &Settled<usize>, failure: Failure) {
        self.settle(settled).into_iter().for_each(|value| self.failed.push((value, failure)));
    }

    fn expire(&mut self) {
        for (settled, failure) in self.accumulator.expire(self.now()) {
            self.fail(&settled, failure);
        }
    }

    fn renew(&mut self) {
        if self.accumulator.lost_identity() == Some(self.identity()) {
            self.epoch += 1;
        }
    }

    fn step(&mut self, action: u8) {
        match action {
            0..=3 => self.push(),
            4 => self.push_run(3),
            5 => self.push_run(20),
            6 => drop(self.accumulator.mark_due()),
            7 | 8 => drop(self.take()),
            9 | 10 => self.serve(None),
            11 => self.serve(Some(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
            12 => self.serve(Some(ErrorCode::NOT_ENOUGH_REPLICAS)),
            13 => self.serve(Some(ErrorCode::REQUEST_TIMED_OUT)),
            14 | 15 => self.deliver(),
            16 => self.disconnect(true),
            17 => self.disconnect(false),
            18 => {
                if !self.late.is_empty() {
                    let bytes = self.late.remove(0);
                    self.log.append(bytes);
                }
            }
            19 => self.memory.now.set(Some(self.now() + Duration::from_millis(250))),
            20 => self.expire(),
            21 => self.serve(Some(ErrorCode::INVALID_RECORD)),
            _ => self.renew(),
        }
    }

    /// No more faults: everything is settled in the end.
    fn finish(&mut self) {
        self.accumulator.close();
        for _ in 0..10_000 {
            if self.accumulator.is_empty() {
                return;
            }
            self.renew();
            while self.take() {}
            self.serve(None);
            self.deliver();
        }
        panic!("it never ends: {:?}", self.accumulator);
    }

    fn check(&self) {
        let log = &self.log.values;
        assert!(log.windows(2).all(|pair| pair[0] < pair[1]), "reordered or written twice: {log:?}");
        let mut settled: Vec<u32> = self
            .acked
            .iter()
            .map(|(value, _)| *value)
            .chain(self.failed.iter().map(|(value, _)| *value))
            .collect();
        settled.sort_unstable();
        assert_eq!(settled, (0..self.next).collect::<Vec<_>>(), "each record is settled once");
        for &(value, offset) in &self.acked {
            assert_eq!(log.get(offset as usize), Some(&value), "acknowledged, but not there");
        }
        for (value, failure) in &self.failed {
            let surely_not = matches!(failure, Failure::NotWritten | Failure::TooLarge);
            assert!(!surely_not || log.binary_search(value).is_err(), "{value} is in the log: {failure:?}");
        }
        assert_eq!(self.memory.used.get(), 0, "what was paid comes back");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn nothing_is_lost_doubled_or_reordered(
        max_in_flight in 1usize..=5,
        limit in 60usize..250,
        actions in proptest::collection::vec(0u8..24, 0..400),
    ) {
        let mut world = World::new(max_in_flight, limit);
        actions.into_iter().for_each(|action| world.step(action));
        world.finish();
        world.check();
    }
}

#[test]
fn a_second_batch_is_never_written_before_a_first_one_that_a_new_leader_refused() {
    let mut world = World::new(5, 1000);
    for _ in 0..2 {
        world.push();
        world.accumulator.close();
        world.take();
    }
    world.serve(Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    world.serve(None);
    world.deliver();
    world.deliver();
    world.finish();
    world.check();
    assert_eq!(world.log.values, [0, 1]);
}

#[test]
fn an_answer_under_an_epoch_that_was_replaced_takes_no_further_epoch() {
    let mut world = World::new(5, 1000);
    world.push();
    world.accumulator.close();
    world.take();
    world.serve(None);
    world.deliver();
    world.push();
    world.accumulator.close();
    world.memory.now.set(Some(world.now() + Duration::from_millis(500)));
    world.take();
    world.push();
    world.accumulator.close();
    world.take();
    // The leader forgot the producer's state and takes nothing that does not begin at 0.
    world.serve(Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    world.serve(Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    world.deliver();
    world.renew();
    assert_eq!(world.epoch, 1);
    // The lost batch is given up, so the younger one behind it is the first now.
    world.memory.now.set(Some(world.now() + Duration::from_millis(600)));
    world.expire();
    assert_eq!(world.failed.len(), 1);
    world.deliver();
    assert_eq!(world.accumulator.lost_identity().map(|lost| lost.epoch), Some(ProducerEpoch(0)));
    world.renew();
    assert_eq!(world.epoch, 1, "one loss, one epoch");
    world.finish();
    world.check();
}

#[test]
fn sequences_wrap_within_a_partition() {
    use milena_core::produce::Sequences;
    let mut sequences = Sequences::default();
    sequences.adopt(Identity { id: ProducerId(1), epoch: ProducerEpoch(0) });
    let mut total = 0u64;
    for _ in 0..5 {
        let stamp = sequences.stamp(1 << 30).unwrap();
        assert_eq!(u64::from(stamp.first.0 as u32), total % (1 << 31));
        total += 1 << 30;
    }
}

#[test]
fn a_record_too_large_for_its_topic_fails_alone() {
    let mut world = World::new(1, 1000);
    for _ in 0..4 {
        world.push();
    }
    world.accumulator.close();
    // Every batch with the record 2 in it is refused.
    while !world.accumulator.is_empty() {
        assert!(world.take());
        let bytes = world.flights[0].frozen.as_bytes();
        let batch = RecordBatch::parse(&mut bytes.clone()).unwrap().unwrap();
        let has = batch.records().unwrap().iter().any(|record| record.unwrap().value.unwrap()[3] == 2);
        world.serve(has.then_some(ErrorCode::MESSAGE_TOO_LARGE));
        world.deliver();
        world.renew();
    }
    world.check();
    assert_eq!(world.failed, [(2, Failure::TooLarge)]);
    assert_eq!(world.log.values, [0, 1, 3]);
}

#[test]
fn a_transaction_takes_no_new_epoch_by_itself() {
    let mut world = World::new(5, 1000);
    let mut limits = Limits {
        options: BatchOptions::default(),
        batch_size: 200,
        max_in_flight: 5,
        idempotent: true,
        transactional: true,
        delivery_timeout: Duration::from_secs(1),
    };
    limits.max_in_flight = 1;
    world.accumulator = Accumulator::new(limits);
    world.push();
    world.accumulator.close();
    world.take();
    world.serve(Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    world.deliver();
    assert_eq!(world.failed, [(0, Failure::OutOfOrder)]);
    assert_eq!(Outcome::Retry(Remedy::Sequence), outcome::of(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
}

#[test]
fn a_second_batch_is_never_written_before_a_first_one_after_a_pause_in_which_the_leader_forgot_the_producer()
{
    let mut world = World::new(5, 1000);
    world.push();
    world.accumulator.close();
    world.take();
    world.serve(None);
    world.deliver();
    world.memory.now.set(Some(world.now() + Duration::from_secs(3600)));
    world.log.producer = None;
    for _ in 0..2 {
        world.push();
        world.accumulator.close();
    }
    assert!(world.take());
    assert!(!world.take(), "the first after a pause goes alone");
    world.serve(Some(ErrorCode::NOT_ENOUGH_REPLICAS));
    world.deliver();
    world.finish();
    world.check();
    assert_eq!(world.log.values, [0, 1, 2]);
}
