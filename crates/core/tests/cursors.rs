//! Cursors under random histories: whatever is lost, refused or moved, each record is delivered once and in order, and no partition that
//! can be read is forgotten.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report
#![allow(clippy::disallowed_methods)] // some moment to start from; only differences count

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use milena_core::cluster::{Cluster, Scope};
use milena_core::fetch::{
    Cursors, EpochEnd, Expected, Loss, Outcome, PartitionAnswer, Plan, Position, ReadTo, Reason, Settings,
    Start, Status, Ticket, Validated,
};
use milena_core::retry::Backoff;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::fetch::TopicKey;
use milena_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use milena_protocol::messages::{BrokerId as WireBroker, MetadataResponse, TopicName};
use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, PartitionId, TopicPartition};
use proptest::prelude::*;

const PARTITIONS: i32 = 5;
const BROKERS: i32 = 3;
const END: i64 = 40;
const VERSION: i16 = 12;

fn settings() -> Settings {
    Settings {
        reset: Some(Start::Earliest),
        loss: Loss::Error,
        isolation: Isolation::ReadUncommitted,
        tell_ends: true,
        backoff: Backoff::default(),
        unknown_window: Duration::from_secs(3600),
        replica_window: Duration::from_secs(60),
    }
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

#[derive(Clone, Debug)]
enum Step {
    Send(i32),
    Answer { broker: i32, fate: Fate },
    Deliver,
    Take,
    Seek(i32, i64),
    Pause(i32),
    Resume(i32),
    Hold(i32),
    Release(i32),
    Stop(i32, Option<i64>),
    Remove(i32),
    Assign(i32),
    Move { partition: i32, to: Option<i32> },
    Refresh,
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    /// So many records of each partition, 0 for none.
    Served(i64),
    Lost,
    SessionGone,
    Refused,
    Throttled,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let partition = 0..PARTITIONS;
    let broker = 0..BROKERS;
    let fate = prop_oneof![
        6 => (0i64..5).prop_map(Fate::Served),
        1 => Just(Fate::Lost),
        1 => Just(Fate::SessionGone),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Throttled),
    ];
    let step = prop_oneof![
        6 => broker.clone().prop_map(Step::Send),
        6 => (broker.clone(), fate).prop_map(|(broker, fate)| Step::Answer { broker, fate }),
        4 => Just(Step::Deliver),
        4 => Just(Step::Take),
        1 => (partition.clone(), 0..END).prop_map(|(partition, offset)| Step::Seek(partition, offset)),
        1 => partition.clone().prop_map(Step::Pause),
        2 => partition.clone().prop_map(Step::Resume),
        1 => partition.clone().prop_map(Step::Hold),
        2 => partition.clone().prop_map(Step::Release),
        1 => (partition.clone(), proptest::option::of(0..END))
            .prop_map(|(partition, stop)| Step::Stop(partition, stop)),
        1 => partition.clone().prop_map(Step::Remove),
        2 => partition.clone().prop_map(Step::Assign),
        1 => (partition, proptest::option::of(broker))
            .prop_map(|(partition, to)| Step::Move { partition, to }),
        2 => Just(Step::Refresh),
        3 => (1u64..2000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..200)
}

/// What a broker holds of a session: its number, its epoch, the offset of each partition.
type Held = Option<(i32, i32, BTreeMap<i32, i64>)>;

struct Part {
    ticket: Ticket,
    partition: i32,
    from: i64,
    next: i64,
}

struct World {
    now: Instant,
    cursors: Cursors,
    /// Who leads, and in which epoch.
    leaders: Vec<(Option<i32>, i32)>,
    sessions: Vec<Held>,
    next_session: i32,
    in_flight: Vec<Option<Plan>>,
    /// Parts that are looked at, by broker: they stay in order.
    checked: Vec<VecDeque<Part>>,
    queue: VecDeque<Part>,
    /// Where the application stands.
    positions: BTreeMap<i32, i64>,
    paused: BTreeMap<i32, bool>,
    held: BTreeMap<i32, bool>,
    stops: BTreeMap<i32, Option<i64>>,
    /// Partitions that were told to be read to their end, and nothing else since.
    ended: BTreeMap<i32, bool>,
    turn: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Instant::now(),
            cursors: Cursors::new(settings(), 1),
            leaders: (0..PARTITIONS).map(|partition| (Some(partition % BROKERS), 0)).collect(),
            sessions: vec![None; BROKERS as usize],
            next_session: 0,
            in_flight: vec![None; BROKERS as usize],
            checked: (0..BROKERS).map(|_| VecDeque::new()).collect(),
            queue: VecDeque::new(),
            positions: BTreeMap::new(),
            paused: BTreeMap::new(),
            held: BTreeMap::new(),
            stops: BTreeMap::new(),
            ended: BTreeMap::new(),
            turn: 0,
        };
        for partition in 0..PARTITIONS {
            world.run(&Step::Assign(partition));
        }
        world.run(&Step::Refresh);
        world
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Send(broker) => self.send(broker),
            Step::Answer { broker, fate } => self.answer(broker, fate),
            Step::Deliver => {
                self.turn += 1;
                let broker = self.turn % BROKERS as usize;
                if let Some(part) = self.checked[broker].pop_front() {
                    self.cursors.on_delivered(part.ticket);
                    self.queue.push_back(part);
                }
            }
            Step::Take => self.take(),
            Step::Seek(partition, offset) => {
                let start = Start::At(Position::from(Offset(offset)));
                if self.cursors.seek(self.now, &tp(partition), start).is_some() {
                    self.positions.insert(partition, offset);
                }
            }
            Step::Pause(partition) => {
                if self.cursors.pause(self.now, &tp(partition)).is_some() {
                    self.paused.insert(partition, true);
                }
            }
            Step::Resume(partition) => {
                if self.cursors.resume(self.now, &tp(partition)).is_some() {
                    self.paused.insert(partition, false);
                }
            }
            Step::Hold(partition) => {
                if self.cursors.hold(self.now, &tp(partition)).is_some() {
                    self.held.insert(partition, true);
                }
            }
            Step::Release(partition) => {
                if self.cursors.release(self.now, &tp(partition)).is_some() {
                    self.held.insert(partition, false);
                }
            }
            Step::Stop(partition, stop) => {
                if self.cursors.set_stop(self.now, &tp(partition), stop.map(Offset)).is_some() {
                    self.stops.insert(partition, stop);
                }
            }
            Step::Remove(partition) => {
                self.cursors.remove(&tp(partition));
                self.positions.remove(&partition);
            }
            Step::Assign(partition) => {
                let start = Start::At(Position::from(Offset(0)));
                if self.cursors.assign(self.now, &tp(partition), start).is_some() {
                    self.positions.insert(partition, 0);
                    self.paused.insert(partition, false);
                    self.held.insert(partition, false);
                    self.stops.insert(partition, None);
                }
            }
            Step::Move { partition, to } => {
                let leader = &mut self.leaders[partition as usize];
                *leader = (to, leader.1 + 1);
            }
            Step::Refresh => self.refresh(),
            Step::Wait(millis) => {
                self.now += Duration::from_millis(millis);
                self.cursors.handle_time(self.now);
            }
        }
    }

    fn refresh(&mut self) {
        let partitions = self.leaders.iter().enumerate().map(|(index, (leader, epoch))| {
            MetadataResponsePartition::default()
                .with_partition_index(index as i32)
                .with_leader_id(WireBroker(leader.unwrap_or(-1)))
                .with_leader_epoch(*epoch)
        });
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
            .with_partitions(partitions.collect());
        let brokers = (0..BROKERS).map(|id| {
            MetadataResponseBroker::default()
                .with_node_id(WireBroker(id))
                .with_host(StrBytes::from_static_str("h"))
                .with_port(1)
        });
        let answer = MetadataResponse::default().with_brokers(brokers.collect()).with_topics(vec![topic]);
        self.cursors.handle_cluster(self.now, &Cluster::new().merge(&answer, Scope::All));
    }

    fn send(&mut self, broker: i32) {
        let id = BrokerId(broker);
        if self.in_flight[broker as usize].is_some() || self.cursors.wants(self.now, id).is_none() {
            return;
        }
        let plan = self.cursors.poll_request(self.now, id, VERSION).expect("it wants something");
        assert!(plan.reading > 0);
        for part in &plan.partitions {
            let partition = part.partition.0;
            assert!(!self.held[&partition], "nothing is asked of a partition that is held back");
            assert!(
                self.stops[&partition].is_none_or(|stop| part.asked.offset.0 < stop),
                "nor behind a stop"
            );
        }
        self.in_flight[broker as usize] = Some(plan);
    }

    fn answer(&mut self, broker: i32, fate: Fate) {
        let Some(plan) = self.in_flight[broker as usize].take() else { return };
        let id = BrokerId(broker);
        let held = &mut self.sessions[broker as usize];
        let lost = Reason::Connection("lost".into());
        match fate {
            Fate::Lost => {
                // Half of the lost answers were acted upon.
                self.turn += 1;
                if self.turn.is_multiple_of(2) {
                    *held = None;
                }
                return self.cursors.handle_failure(self.now, id, &lost);
            }
            Fate::SessionGone if plan.session.epoch > 0 => {
                *held = None;
                let used =
                    self.cursors.handle_session(self.now, id, ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0);
                assert_eq!(used, Ok(false));
                return;
            }
            _ => {}
        }
        let asked: BTreeMap<i32, i64> =
            plan.partitions.iter().map(|part| (part.partition.0, part.asked.offset.0)).collect();
        let (session, reading) = match held {
            Some((session, epoch, reading)) if plan.session.epoch > 0 => {
                assert_eq!((plan.session.id, plan.session.epoch), (*session, *epoch));
                *epoch += 1;
                for gone in &plan.forgotten {
                    reading.remove(&gone.partition.0).expect("only what is held is forgotten");
                }
                reading.extend(asked);
                (*session, reading.clone())
            }
            _ => {
                assert!(plan.session.epoch <= 0 && plan.forgotten.is_empty());
                self.next_session += 1;
                *held = Some((self.next_session, 1, asked.clone()));
                (self.next_session, asked)
            }
        };
        assert_eq!(reading.len(), plan.reading, "the broker reads what the plan says");
        assert_eq!(self.cursors.handle_session(self.now, id, ErrorCode::NONE, session), Ok(true));
        if let Fate::Throttled = fate {
            return self.cursors.handle_end(self.now, id, Duration::from_millis(700));
        }
        let topic = self.cursors.topic_of(TopicKey::Name("t")).unwrap();
        for (partition, offset) in reading {
            let expected = self.cursors.expect(id, topic, PartitionId(partition)).unwrap();
            let Expected::News { ticket, asked } = expected else { continue };
            assert_eq!(asked.offset.0, offset, "the broker reads where the cursor stands");
            let (leader, epoch) = self.leaders[partition as usize];
            let code = match fate {
                Fate::Refused => ErrorCode::KAFKA_STORAGE_ERROR,
                _ if leader != Some(broker) => ErrorCode::NOT_LEADER_OR_FOLLOWER,
                _ if asked.leader_epoch < Some(LeaderEpoch(epoch)) => ErrorCode::FENCED_LEADER_EPOCH,
                _ => ErrorCode::NONE,
            };
            let count = if let Fate::Served(count) = fate { count } else { 0 };
            let next = (offset + count).min(END);
            let read = (next > offset && code.is_ok()).then_some(ReadTo {
                next: Offset(next),
                epoch: None,
                bytes: (next - offset) as usize,
            });
            let answer = PartitionAnswer {
                code,
                high_watermark: Some(Offset(END)),
                last_stable_offset: None,
                log_start: Some(Offset(0)),
                preferred: None,
                diverged_at: None,
                leader: None,
                read: Ok(read),
            };
            if self.cursors.handle_partition(self.now, id, ticket, &answer) == Outcome::Deliver {
                self.checked[broker as usize].push_back(Part { ticket, partition, from: offset, next });
            }
        }
        self.cursors.handle_end(self.now, id, Duration::ZERO);
    }

    fn take(&mut self) {
        while let Some(ticket) = self.cursors.poll_end() {
            let view = self.cursors.view(self.now, self.cursors.tp(ticket).unwrap()).unwrap();
            assert!(view.buffered == 0 && view.caught_up.is_some(), "{view:?}");
            let told = self.ended.insert(view.tp.partition.0, true);
            assert_ne!(told, Some(true), "{view:?} is told twice");
        }
        let held = |part: &Part| self.held.get(&part.partition) == Some(&true);
        while let Some(first) = self.queue.iter().position(|part| !held(part)) {
            let part = self.queue.remove(first).unwrap();
            if !self.cursors.is_current(part.ticket) {
                continue;
            }
            let position = Position::from(Offset(part.next));
            self.cursors.on_taken(part.ticket, (part.next - part.from) as usize, position);
            assert!(!self.paused[&part.partition], "nothing of a paused partition is delivered");
            let before = self.positions.insert(part.partition, part.next);
            assert_eq!(before, Some(part.from), "partition {}: a gap or a repetition", part.partition);
            return;
        }
    }

    /// What was told of ends and does not hold any more.
    fn look_at_ends(&mut self) {
        for view in self.cursors.views(self.now) {
            if view.caught_up.is_none() {
                self.ended.insert(view.tp.partition.0, false);
            }
        }
    }

    /// Every assigned partition has a view, and views agree with what was done.
    fn check(&self) {
        let views = self.cursors.views(self.now);
        assert_eq!(views.len(), self.positions.len());
        for view in views {
            let partition = view.tp.partition.0;
            assert_eq!(view.status == Status::Paused, self.paused[&partition]);
            if !self.paused[&partition] {
                assert_eq!(matches!(view.status, Status::Held { .. }), self.held[&partition]);
            }
            assert_eq!(view.position.unwrap().offset.0, self.positions[&partition]);
            assert!(!matches!(view.status, Status::Failed { .. } | Status::Resetting), "{view:?}");
        }
    }

    /// Nothing goes wrong any more: everything is read to its end.
    fn settle(&mut self) {
        for partition in 0..PARTITIONS {
            self.run(&Step::Resume(partition));
            self.run(&Step::Release(partition));
            self.run(&Step::Stop(partition, None));
            if self.leaders[partition as usize].0.is_none() {
                self.run(&Step::Move { partition, to: Some(0) });
            }
        }
        for _ in 0..60 {
            self.run(&Step::Refresh);
            self.run(&Step::Wait(1500));
            for broker in 0..BROKERS {
                self.run(&Step::Send(broker));
                self.run(&Step::Answer { broker, fate: Fate::Served(4) });
            }
            for _ in 0..PARTITIONS {
                for _ in 0..BROKERS {
                    self.run(&Step::Deliver);
                }
                self.run(&Step::Take);
            }
            self.look_at_ends();
            self.check();
        }
        for _ in 0..1000 {
            self.run(&Step::Deliver);
            self.run(&Step::Take);
        }
        for (partition, position) in &self.positions {
            assert_eq!(*position, END, "partition {partition}: {:#?}", self.cursors.views(self.now));
        }
        for view in self.cursors.views(self.now) {
            assert_eq!(view.buffered, 0);
            assert!(view.caught_up.is_some(), "{view:?}");
            assert_eq!(self.ended.get(&view.tp.partition.0), Some(&true), "{view:?} was not told");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn every_record_is_delivered_once_and_in_order_whatever_happens(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.look_at_ends();
            world.check();
        }
        world.settle();
    }
}

fn two_partitions() -> (Cursors, Instant) {
    let mut world = World::new();
    world.leaders = vec![(Some(0), 0); PARTITIONS as usize];
    world.refresh();
    (world.cursors, world.now)
}

fn answer(read: Option<i64>) -> PartitionAnswer {
    PartitionAnswer {
        code: ErrorCode::NONE,
        high_watermark: Some(Offset(END)),
        last_stable_offset: None,
        log_start: None,
        preferred: None,
        diverged_at: None,
        leader: None,
        read: Ok(read.map(|next| ReadTo { next: Offset(next), epoch: Some(LeaderEpoch(1)), bytes: 10 })),
    }
}

fn ticket(cursors: &Cursors, partition: i32) -> Ticket {
    let topic = cursors.topic_of(TopicKey::Name("t")).unwrap();
    match cursors.expect(BrokerId(0), topic, PartitionId(partition)).unwrap() {
        Expected::News { ticket, .. } => ticket,
        Expected::Stale => panic!("stale"),
    }
}

#[test]
fn who_brought_records_goes_last() {
    let (mut cursors, now) = two_partitions();
    // Without sessions the order is the client's alone.
    let order = |cursors: &mut Cursors| -> Vec<i32> {
        let plan = cursors.poll_request(now, BrokerId(0), 6).unwrap();
        plan.partitions.iter().map(|part| part.partition.0).collect()
    };
    let first = order(&mut cursors);
    let hungry = first[1];
    let got = ticket(&cursors, first[0]);
    cursors.handle_session(now, BrokerId(0), ErrorCode::NONE, 0).unwrap();
    cursors.handle_partition(now, BrokerId(0), got, &answer(Some(7)));
    for &partition in &first[1..] {
        let other = ticket(&cursors, partition);
        cursors.handle_partition(now, BrokerId(0), other, &answer(None));
    }
    cursors.handle_end(now, BrokerId(0), Duration::ZERO);
    let second = order(&mut cursors);
    assert_eq!((second[0], *second.last().unwrap()), (hungry, first[0]));
}

#[test]
fn a_leader_that_an_answer_names_is_asked_at_once() {
    let (mut cursors, now) = two_partitions();
    cursors.poll_request(now, BrokerId(0), VERSION).unwrap();
    let moved = ticket(&cursors, 1);
    let hint = milena_protocol::fetch::CurrentLeader { id: BrokerId(2), epoch: LeaderEpoch(9) };
    let answer =
        PartitionAnswer { code: ErrorCode::NOT_LEADER_OR_FOLLOWER, leader: Some(hint), ..answer(None) };
    cursors.handle_session(now, BrokerId(0), ErrorCode::NONE, 1).unwrap();
    cursors.handle_partition(now, BrokerId(0), moved, &answer);
    cursors.handle_end(now, BrokerId(0), Duration::ZERO);
    let status = cursors.view(now, &tp(1)).unwrap().status;
    assert_eq!(status, Status::Queued { broker: BrokerId(2) });
    assert!(cursors.poll_stale_topics().is_empty(), "the topology need not be looked at for it");
    let plan = cursors.poll_request(now, BrokerId(2), VERSION).unwrap();
    assert_eq!(plan.partitions[0].asked.leader_epoch, Some(LeaderEpoch(9)));
}

#[test]
fn a_preferred_replica_is_read_until_its_time_is_up_or_it_fails() {
    let (mut cursors, mut now) = two_partitions();
    let prefer = |cursors: &mut Cursors, now: Instant| {
        cursors.poll_request(now, BrokerId(0), VERSION).unwrap();
        let near = ticket(cursors, 1);
        cursors.handle_session(now, BrokerId(0), ErrorCode::NONE, 1).unwrap();
        let answer = PartitionAnswer { preferred: Some(BrokerId(1)), ..answer(None) };
        cursors.handle_partition(now, BrokerId(0), near, &answer);
        cursors.handle_end(now, BrokerId(0), Duration::from_millis(1));
    };
    let broker = |cursors: &Cursors, now: Instant| match cursors.view(now, &tp(1)).unwrap().status {
        Status::Queued { broker } => broker.0,
        other => panic!("{other:?}"),
    };
    prefer(&mut cursors, now);
    assert_eq!(broker(&cursors, now), 1);
    now += Duration::from_secs(61);
    cursors.handle_time(now);
    assert_eq!(broker(&cursors, now), 0);
    assert!(cursors.wants(now, BrokerId(1)).is_none());
    prefer(&mut cursors, now);
    now += Duration::from_millis(5);
    cursors.handle_time(now);
    let plan = cursors.poll_request(now, BrokerId(1), VERSION).unwrap();
    assert_eq!(plan.reading, 1);
    cursors.handle_failure(now, BrokerId(1), &Reason::Connection("gone".into()));
    now += Duration::from_secs(5);
    cursors.handle_time(now);
    assert_eq!(broker(&cursors, now), 0);
}

#[test]
fn a_stall_is_reported_and_waiting_for_the_application_is_none() {
    let (mut cursors, now) = two_partitions();
    let limit = Duration::from_secs(30);
    cursors.pause(now, &tp(0));
    assert!(cursors.check(now + limit, limit).is_empty());
    let late = now + limit * 2;
    let stalled: Vec<i32> = cursors.check(late, limit).iter().map(|stall| stall.tp.partition.0).collect();
    assert_eq!(stalled, [1, 2, 3, 4]);
    assert!(cursors.check(late, limit).is_empty(), "told once");
    assert_eq!(cursors.check(late + limit * 2, limit).len(), 4, "and again");
    cursors.on_starved(BrokerId(0), true);
    assert!(cursors.check(late + limit * 9, limit).is_empty());
}

#[test]
fn a_partition_whose_leader_moved_away_from_a_lost_request_is_not_left_in_it() {
    let mut world = World::new();
    world.send(2);
    world.run(&Step::Move { partition: 2, to: None });
    world.refresh();
    world.answer(2, Fate::Lost);
    let status = world.cursors.view(world.now, &tp(2)).unwrap().status;
    assert!(matches!(status, Status::BackOff { .. }), "{status:?}");
}

#[test]
fn a_lookup_that_a_pause_made_void_is_asked_again() {
    let (mut cursors, now) = two_partitions();
    cursors.seek(now, &tp(1), Start::Earliest).unwrap();
    let first = cursors.poll_resets(now);
    cursors.pause(now, &tp(1)).unwrap();
    cursors.handle_reset(now, first[0].ticket, Ok(Some(Position::from(Offset(3)))), false);
    cursors.resume(now, &tp(1)).unwrap();
    let again = cursors.poll_resets(now);
    assert_eq!(again.len(), 1);
    cursors.handle_reset(now, again[0].ticket, Ok(Some(Position::from(Offset(3)))), false);
    assert_eq!(cursors.view(now, &tp(1)).unwrap().position.unwrap().offset, Offset(3));
}

#[test]
fn damage_is_read_again_before_it_is_believed() {
    let (mut cursors, mut now) = two_partitions();
    for tries in 1..=3 {
        cursors.poll_request(now, BrokerId(0), VERSION).unwrap();
        let damaged = ticket(&cursors, 1);
        cursors.handle_session(now, BrokerId(0), ErrorCode::NONE, 1).unwrap();
        cursors.handle_partition(now, BrokerId(0), damaged, &answer(Some(9)));
        cursors.handle_end(now, BrokerId(0), Duration::from_millis(1));
        cursors.on_unreadable(now, damaged, Position::from(Offset(4)), "crc".into());
        assert_eq!(cursors.poll_failure().is_some(), tries == 3);
        now += Duration::from_secs(5);
        cursors.handle_time(now);
    }
    let failed =
        |cursors: &Cursors| matches!(cursors.view(now, &tp(1)).unwrap().status, Status::Failed { .. });
    assert!(failed(&cursors));
    // Who asks what became of it is told, whatever else was done to it.
    cursors.pause(now, &tp(1)).unwrap();
    assert!(failed(&cursors));
    cursors.resume(now, &tp(1)).unwrap();
    assert!(failed(&cursors));
    cursors.pause(now, &tp(1)).unwrap();
    let start = Start::At(Position::from(Offset(9)));
    cursors.seek(now, &tp(1), start).unwrap();
    assert_eq!(cursors.view(now, &tp(1)).unwrap().status, Status::Paused);
    cursors.resume(now, &tp(1)).unwrap();
    assert_eq!(cursors.view(now, &tp(1)).unwrap().status, Status::Queued { broker: BrokerId(0) });
}

/// Compaction may take the last records of a log, and nothing ever comes of those.
#[test]
fn empty_answers_before_the_end_are_believed_when_they_brought_nothing_else_either() {
    let (mut cursors, now) = two_partitions();
    let broker = BrokerId(0);
    let ask = |cursors: &mut Cursors, reads: [Option<i64>; 2]| {
        cursors.poll_request(now, broker, VERSION).unwrap();
        cursors.handle_session(now, broker, ErrorCode::NONE, 7).unwrap();
        for (partition, read) in reads.into_iter().enumerate() {
            let ticket = ticket(cursors, partition as i32);
            cursors.handle_partition(now, broker, ticket, &answer(read));
        }
        // The others are not named, which says that there is no news of them.
        cursors.handle_end(now, broker, Duration::ZERO);
        cursors.view(now, &tp(0)).unwrap().caught_up.is_some()
    };
    for partition in 2..PARTITIONS {
        cursors.pause(now, &tp(partition));
    }
    assert!(!ask(&mut cursors, [None, Some(5)]), "the other one filled the answer");
    assert!(!ask(&mut cursors, [None, None]), "once may be chance");
    assert!(ask(&mut cursors, [None, None]));
    assert_eq!(cursors.poll_end().map(|ticket| cursors.tp(ticket).cloned()), Some(Some(tp(0))));
    assert!(cursors.poll_end().is_none(), "what was brought of the other one is not taken yet");
    assert!(!ask(&mut cursors, [Some(3), None]), "there was something after all");
}

/// KIP-320: nothing is fetched between an election and the new leader's word, and its word decides.
#[test]
fn a_new_leader_is_asked_about_positions_before_it_is_asked_for_records() {
    let end =
        |epoch, offset| Validated::End(Some(EpochEnd { epoch: LeaderEpoch(epoch), offset: Offset(offset) }));
    for (said, expected) in [
        (end(1, 5), None),
        (Validated::Unsupported, None),
        (end(1, 4), Some(Some(Offset(4)))),
        (end(0, 4), Some(Some(Offset(4)))),
        (end(0, 9), Some(None)),
        (Validated::End(None), Some(None)),
    ] {
        let mut world = World::new();
        let (mut cursors, now) = two_partitions();
        for partition in 1..PARTITIONS {
            cursors.pause(now, &tp(partition));
        }
        let status = |cursors: &Cursors| cursors.view(now, &tp(0)).unwrap().status;
        cursors.poll_request(now, BrokerId(0), VERSION).unwrap();
        cursors.handle_session(now, BrokerId(0), ErrorCode::NONE, 7).unwrap();
        let first = ticket(&cursors, 0);
        cursors.handle_partition(now, BrokerId(0), first, &answer(Some(5)));
        cursors.on_delivered(first);
        cursors.handle_end(now, BrokerId(0), Duration::ZERO);
        assert!(cursors.poll_validations(now).is_empty(), "its records came from this leader");
        // The epoch of the records is 1.
        world.leaders[0] = (Some(1), 3);
        std::mem::swap(&mut world.cursors, &mut cursors);
        world.refresh();
        std::mem::swap(&mut world.cursors, &mut cursors);
        assert_eq!(status(&cursors), Status::Validating { broker: BrokerId(1) });
        assert!(cursors.wants(now, BrokerId(1)).is_none());
        let wanted = cursors.poll_validations(now);
        assert_eq!(
            (wanted.len(), wanted[0].leader_epoch, wanted[0].epoch),
            (1, LeaderEpoch(3), LeaderEpoch(1))
        );
        assert!(cursors.poll_validations(now).is_empty() && cursors.wants(now, BrokerId(1)).is_none());
        cursors.handle_validations(now, [(wanted[0].ticket, said)]);
        match expected {
            None => {
                assert!(cursors.wants(now, BrokerId(1)).is_some());
                assert!(cursors.poll_validations(now).is_empty());
            }
            Some(at) => {
                let reason = Reason::Truncated { position: Offset(5), at };
                assert_eq!(status(&cursors), Status::Failed { reason });
                assert!(cursors.wants(now, BrokerId(1)).is_none());
            }
        }
    }
}
