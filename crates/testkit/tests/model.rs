//! Random histories of writers, transactions and readers against a naive model: one list of what lies at each offset.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milena_protocol::ErrorCode;
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::records::{ControlRecord, batches};
use proptest::prelude::*;
use support::txn::{Kind, Pair, Transactions};
use support::{Client, Driver, Writer, batch, fetch_request};

const PARTITIONS: i32 = 2;
const WRITERS: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    /// Records outside of any transaction.
    Plain {
        partition: i32,
        records: usize,
    },
    Write {
        writer: usize,
        partition: i32,
        records: usize,
    },
    /// The last batch of a writer again.
    Repeat {
        writer: usize,
    },
    End {
        writer: usize,
        commit: bool,
    },
    /// A new instance takes the writer's id.
    Init {
        writer: usize,
    },
    /// So much time that every open transaction expires.
    Expire,
}

fn op() -> impl Strategy<Value = Op> {
    let (writer, partition, records) = (0..WRITERS, 0..PARTITIONS, 1..4usize);
    prop_oneof![
        2 => (partition.clone(), records.clone()).prop_map(|(partition, records)| Op::Plain { partition, records }),
        6 => (writer.clone(), partition, records)
            .prop_map(|(writer, partition, records)| Op::Write { writer, partition, records }),
        1 => writer.clone().prop_map(|writer| Op::Repeat { writer }),
        3 => (writer.clone(), any::<bool>()).prop_map(|(writer, commit)| Op::End { writer, commit }),
        1 => writer.prop_map(|writer| Op::Init { writer }),
        1 => Just(Op::Expire),
    ]
}

/// What lies at an offset.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Slot {
    Plain,
    Transactional(usize),
    Marker,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

struct Instance {
    id: String,
    kind: Kind,
    pair: Pair,
    sequences: BTreeMap<i32, i32>,
    /// Number of the open transaction and its partitions.
    open: Option<(usize, BTreeSet<i32>)>,
    last: Option<(i32, Writer, usize, i64)>,
}

struct World {
    driver: Driver,
    logs: Vec<Vec<Slot>>,
    fates: Vec<Fate>,
    clients: Vec<Instance>,
}

impl World {
    fn new() -> Self {
        let mut driver = Driver::with_topic("t", PARTITIONS);
        let clients = (0..WRITERS)
            .map(|n| {
                let id = format!("w{n}");
                let pair = driver.init(&id);
                let kind = if n == 0 { Kind::Old } else { Kind::New };
                Instance { id, kind, pair, sequences: BTreeMap::new(), open: None, last: None }
            })
            .collect();
        let logs = (0..PARTITIONS).map(|_| Vec::new()).collect();
        Self { driver, logs, fates: Vec::new(), clients }
    }

    fn log(&mut self, partition: i32) -> &mut Vec<Slot> {
        &mut self.logs[partition as usize]
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Plain { partition, records } => {
                let base = self.log(partition).len() as i64;
                assert_eq!(self.driver.append("t", partition, records), base);
                self.log(partition).extend(vec![Slot::Plain; records]);
            }
            Op::Write { writer, partition, records } => self.write(writer, partition, records),
            Op::Repeat { writer } => self.repeat(writer),
            Op::End { writer, commit } => self.end(writer, commit),
            Op::Init { writer } => {
                self.decide(writer, Fate::Aborted);
                let id = self.clients[writer].id.clone();
                self.clients[writer].pair = self.driver.init(&id);
                self.clients[writer].sequences.clear();
                self.clients[writer].last = None;
            }
            Op::Expire => {
                self.driver.pass(Duration::from_secs(75));
                for writer in 0..WRITERS {
                    if self.clients[writer].open.is_some() {
                        self.decide(writer, Fate::Aborted);
                        self.apply(&Op::Init { writer });
                    }
                }
            }
        }
    }

    fn write(&mut self, writer: usize, partition: i32, records: usize) {
        let base = self.log(partition).len() as i64;
        let client = &mut self.clients[writer];
        let sequence = client.sequences.entry(partition).or_default();
        let written = self.driver.write(client.kind, &client.id, client.pair, *sequence, partition, records);
        assert_eq!(written, (ErrorCode::NONE, base));
        let batch =
            Writer { id: client.pair.0, epoch: client.pair.1, sequence: *sequence, transactional: true };
        client.last = Some((partition, batch, records, base));
        *sequence += records as i32;
        let (number, partitions) = client.open.get_or_insert_with(|| {
            self.fates.push(Fate::Open);
            (self.fates.len() - 1, BTreeSet::new())
        });
        partitions.insert(partition);
        let slot = Slot::Transactional(*number);
        self.log(partition).extend(vec![slot; records]);
    }

    fn repeat(&mut self, writer: usize) {
        let client = &self.clients[writer];
        let Some((partition, last, records, base)) = client.last else { return };
        if client.open.is_none() {
            return;
        }
        let version = if client.kind == Kind::Old { 11 } else { 12 };
        let bytes = batch(records, Some(last));
        let answer = self.driver.produce(version, Some(&client.id.clone()), "t", partition, bytes);
        assert_eq!((answer.error_code, answer.base_offset), (0, base), "a repeat is not written again");
    }

    fn end(&mut self, writer: usize, commit: bool) {
        let client = &self.clients[writer];
        if client.open.is_none() {
            return;
        }
        let (id, version) = (client.id.clone(), client.kind.end_version());
        let (error, next) = self.driver.end(version, &id, client.pair, commit);
        assert_eq!(error, ErrorCode::NONE);
        let client = &mut self.clients[writer];
        if client.kind == Kind::New {
            client.pair = next;
            client.sequences.clear();
        }
        client.last = None;
        self.decide(writer, if commit { Fate::Committed } else { Fate::Aborted });
    }

    /// The fate of a writer's open transaction, with a marker in each of its partitions.
    fn decide(&mut self, writer: usize, fate: Fate) {
        let Some((number, partitions)) = self.clients[writer].open.take() else { return };
        self.fates[number] = fate;
        for partition in partitions {
            self.log(partition).push(Slot::Marker);
        }
    }

    fn stable(&self, partition: i32) -> i64 {
        let log = &self.logs[partition as usize];
        let open = |slot: &Slot| matches!(slot, Slot::Transactional(n) if self.fates[*n] == Fate::Open);
        log.iter().position(open).unwrap_or(log.len()) as i64
    }

    fn visible(&self, partition: i32, committed: bool) -> Vec<i64> {
        let log = &self.logs[partition as usize];
        let end = if committed { self.stable(partition) } else { log.len() as i64 };
        (0..end)
            .filter(|offset| match log[*offset as usize] {
                Slot::Plain => true,
                Slot::Transactional(n) => !committed || self.fates[n] == Fate::Committed,
                Slot::Marker => false,
            })
            .collect()
    }

    fn check(&mut self) {
        for partition in 0..PARTITIONS {
            let end = self.logs[partition as usize].len() as i64;
            let stable = self.stable(partition);
            assert_eq!(self.driver.broker.offsets("t", partition), Some((0, stable, end)));
            assert_eq!(self.driver.list_offset("t", partition, -1, true).0, stable);
            for committed in [false, true] {
                let expected = self.visible(partition, committed);
                for from in 0..=end {
                    let data = self.driver.fetch(12, "t", partition, from, committed);
                    assert_eq!((data.high_watermark, data.last_stable_offset), (end, stable));
                    let (mut seen, _) = seen_by_a_consumer(&data, committed);
                    seen.retain(|offset| *offset >= from);
                    let rest: Vec<i64> = expected.iter().copied().filter(|offset| *offset >= from).collect();
                    assert_eq!(seen, rest, "partition {partition} from {from}, committed {committed}");
                }
                assert_eq!(self.read_in_steps(partition, committed), expected);
            }
        }
    }

    /// Reads a partition through fetches of few bytes.
    fn read_in_steps(&mut self, partition: i32, committed: bool) -> Vec<i64> {
        let (mut position, mut all) = (0, Vec::new());
        loop {
            let mut request = fetch_request(11, "t", uuid::Uuid::nil(), partition, position, committed, 0);
            request.topics[0].partitions[0].partition_max_bytes = 150;
            let data = self.driver.ask(11, &request).responses.remove(0).partitions.remove(0);
            let (seen, next) = seen_by_a_consumer(&data, committed);
            let Some(next) = next else { return all };
            assert!(next > position, "a fetch makes progress");
            all.extend(seen.into_iter().filter(|offset| *offset >= position));
            position = next;
        }
    }
}

/// What a consumer makes of an answer by Kafka's rule for aborted transactions, and where it goes on.
fn seen_by_a_consumer(data: &PartitionData, committed: bool) -> (Vec<i64>, Option<i64>) {
    let mut aborted = data.aborted_transactions.clone().unwrap_or_default();
    aborted.sort_by_key(|aborted| aborted.first_offset);
    let mut aborted = aborted.into_iter().peekable();
    let mut active = BTreeSet::new();
    let (mut seen, mut next) = (Vec::new(), None);
    for batch in batches(data.records.clone().unwrap()).map(Result::unwrap) {
        batch.verify_crc().unwrap();
        next = Some(batch.next_offset().0);
        while aborted.peek().is_some_and(|aborted| aborted.first_offset <= batch.last_offset().0) {
            active.insert(aborted.next().unwrap().producer_id.0);
        }
        let producer = batch.producer_id().map(|id| id.0);
        if let Some(control) = batch.control().unwrap() {
            if matches!(control, ControlRecord::Abort { .. }) {
                active.remove(&producer.unwrap());
            }
        } else if !(committed && batch.is_transactional() && active.contains(&producer.unwrap())) {
            let records = batch.records().unwrap();
            seen.extend(records.iter().map(|record| record.unwrap().offset.0));
        }
    }
    (seen, next)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn readers_see_what_the_model_says(ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.check();
    }

    /// Losing the end of a log and reading what is left gives the state that the shorter history had.
    #[test]
    fn a_truncated_log_is_the_log_of_the_shorter_history(
        ops in prop::collection::vec(op(), 1..25),
        cut in 0..1000usize,
    ) {
        let mut world = World::new();
        let mut marks = vec![(0, 0)];
        for op in &ops {
            world.apply(op);
            let (_, stable, end) = world.driver.broker.offsets("t", 0).unwrap();
            marks.push((end, stable));
        }
        let (end, stable) = marks[cut % marks.len()];
        // The last entry of an end is the one that counts: an operation elsewhere does not move it.
        let stable = marks.iter().filter(|mark| mark.0 == end).map(|mark| mark.1).next_back().unwrap_or(stable);
        prop_assert!(world.driver.broker.truncate("t", 0, end));
        prop_assert_eq!(world.driver.broker.offsets("t", 0), Some((0, stable, end)));
    }
}
