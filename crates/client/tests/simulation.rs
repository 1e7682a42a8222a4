//! The producer in a world that breaks by a seed, in virtual time: no acknowledged record is lost, none is there twice, each partition
//! keeps its order, nothing stalls, and flush and close end in time.
//!
//! `cargo xtask sim --seeds 10000` runs many seeds, `--seed N` one with its story. A seed that fails here fails there in the same way.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod worlds;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{
    Acks, ErrorCode, Idempotence, Producer, ProducerConfig, ProducerRecord, RecordBatch, RecordMetadata,
    Result, Ticket,
};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::check::Judge;
use milena_testkit::sim::{self, Dice, Trouble, Weather, World};
use tokio::time::{Instant, sleep, timeout};
use worlds::{PARTITIONS, TOPIC};

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const INIT_PRODUCER_ID: i16 = 22;

/// How many seeds are run with every test run.
const SEEDS: u64 = 200;

/// Whether one seed was asked for, so that its story is wanted.
fn tells_all() -> bool {
    worlds::one().is_some()
}

#[test]
fn whatever_breaks_each_acknowledged_record_is_there_once_and_in_order() {
    let seeds = worlds::seeds(SEEDS);
    let (sent, acked, retries) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures = AtomicU64::new(0);
    let count = seeds.end - seeds.start;
    let failed = sim::failing(seeds, |seed| {
        let outcome = simulate(seed, Defect::None)?;
        sent.fetch_add(outcome.sent, Ordering::Relaxed);
        acked.fetch_add(outcome.acked, Ordering::Relaxed);
        retries.fetch_add(outcome.retries, Ordering::Relaxed);
        failures.fetch_add(outcome.failed, Ordering::Relaxed);
        Ok(())
    });
    let (sent, acked, retries) = (sent.into_inner(), acked.into_inner(), retries.into_inner());
    let failures = failures.into_inner();
    println!(
        "{count} seeds: {sent} records sent, {acked} acknowledged, {failures} not, {retries} batches sent again"
    );
    worlds::judge(&failed);
    if count >= 50 {
        assert!(
            acked > sent / 2 && failures > 0 && retries > count,
            "a simulation in which nothing breaks, or all does, says little"
        );
    }
}

#[test]
fn a_seed_tells_the_same_story_each_time() {
    let told: Vec<u64> = (0..24).map(|seed| simulate(seed, Defect::None).unwrap().trace).collect();
    let again: Vec<u64> = (0..24).map(|seed| simulate(seed, Defect::None).unwrap().trace).collect();
    assert_eq!(told, again);
    assert_ne!(told[0], told[1]);
}

/// What may be wrong with a world, to see that the judge is awake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    None,
    /// The producer repeats what it does not know to be written, without numbers.
    NoSequences,
    /// The producer takes a leader's word for written, before the followers have it.
    LeaderAlone,
    /// Nodes forget who wrote what while batches are on their way.
    Forgetful,
    /// A record that is acknowledged is cut off the log.
    CutOff,
    /// A record that failed is told as acknowledged.
    FalseAck,
    /// A record that is perhaps written is told as not written.
    FalseRefusal,
    /// The producer waits for an hour for what does not come: after the trouble a node stays down.
    Patient,
}

/// Each defect is found, in so many seeds at most.
#[test]
fn a_world_with_a_defect_is_found_out() {
    let defects = [
        (Defect::NoSequences, "duplicated"),
        (Defect::LeaderAlone, "lost"),
        (Defect::Forgetful, "duplicated"),
        (Defect::CutOff, "lost"),
        (Defect::FalseAck, "lost"),
        (Defect::FalseRefusal, "aborted"),
        (Defect::Patient, "did not end"),
    ];
    for (defect, finding) in defects {
        let found = (0..SEEDS).find_map(|seed| {
            let why = simulate(seed, defect).err()?;
            why.contains(finding).then_some((seed, why))
        });
        let Some((seed, why)) = found else { panic!("{defect:?} was not found out by {SEEDS} seeds") };
        println!("{defect:?}: seed {seed}: {why}");
    }
}

struct Outcome {
    sent: u64,
    acked: u64,
    /// Those that were reported as not written, or possibly written.
    failed: u64,
    retries: u64,
    trace: u64,
}

/// The broker, and how bad the network is.
fn build(dice: &Dice) -> (BrokerConfig, Weather) {
    let mut config = worlds::broker(dice);
    config.strict_unknown_producer = dice.one_in(3);
    worlds::replicate(&mut config, dice);
    if dice.one_in(4) {
        config.max_message_bytes = 400;
    }
    (config, worlds::weather(dice))
}

/// The producer's settings in such a world.
fn spoilt(mut settings: ProducerConfig, defect: Defect) -> ProducerConfig {
    match defect {
        Defect::NoSequences => settings.idempotence = Idempotence::Off,
        Defect::LeaderAlone => settings.acks = Acks::Leader,
        Defect::Patient => settings.delivery_timeout = Duration::from_secs(3600),
        _ => {}
    }
    settings
}

fn settings(dice: &Dice) -> ProducerConfig {
    let short = dice.one_in(4);
    ProducerConfig {
        acks: Acks::All,
        linger: Duration::from_millis(dice.below(20)),
        batch_size: usize::try_from(dice.between(256, 3000)).unwrap(),
        buffer_memory: usize::try_from(dice.between(8, 64)).unwrap() * 1024,
        max_request_size: 16 * 1024,
        max_in_flight: usize::try_from(dice.between(1, 5)).unwrap(),
        delivery_timeout: Duration::from_secs(if short { 1 } else { 120 }),
        request_timeout: Duration::from_millis(dice.between(500, 2000)),
        ..ProducerConfig::default()
    }
}

fn trouble(dice: &Dice) -> Trouble {
    let errors = [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
    ];
    worlds::trouble(dice, &[PRODUCE, PRODUCE, PRODUCE, METADATA, INIT_PRODUCER_ID], &errors)
}

/// A record that was taken, and how its fate is learned.
enum Sent {
    Ticket(Ticket),
    Callback(Told),
    /// Nobody knows whether it was taken.
    Untold,
}

/// What a callback was called with.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Result<RecordMetadata>>>>);

/// What a producer says of a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fate {
    /// It is in the log.
    Acked,
    /// It may be.
    Open,
    /// It is not.
    Refused,
}

/// What was said of a record by the time everything is flushed.
fn fate(sent: Sent) -> std::result::Result<Fate, String> {
    let result = match sent {
        Sent::Untold => return Ok(Fate::Open),
        Sent::Ticket(ticket) => ticket.result().ok_or("a ticket is open after the flush")?,
        Sent::Callback(told) => {
            let mut told = std::mem::take(&mut *told.0.lock().unwrap());
            match (told.pop(), told.is_empty()) {
                (Some(result), true) => result,
                _ => return Err("a callback was called not once".to_owned()),
            }
        }
    };
    Ok(match result {
        Ok(_) => Fate::Acked,
        Err(error) if error.maybe_applied() => Fate::Open,
        Err(_) => Fate::Refused,
    })
}

/// The records that lie behind some of a newer producer id. Kafka promises no order between two ids.
fn overtaken(world: &World) -> HashSet<u64> {
    let mut found = HashSet::new();
    for partition in 0..PARTITIONS {
        let batches: Vec<_> = world.broker.with_broker(|broker| broker.log(TOPIC, partition).collect());
        let mut newest = None;
        for logged in batches {
            let batch = RecordBatch::parse(&mut logged.bytes.clone()).unwrap().unwrap();
            if batch.producer_id() < newest {
                let records = batch.records().unwrap();
                found.extend(records.iter().map(|record| {
                    let value = std::str::from_utf8(record.unwrap().value.unwrap()).unwrap().to_owned();
                    value.split(' ').next().unwrap().parse::<u64>().unwrap()
                }));
            }
            newest = newest.max(batch.producer_id());
        }
    }
    found
}

/// Holds what the log has against what the producer said.
fn judge(world: &World, sent: &[(String, u64, Fate)]) -> std::result::Result<(), String> {
    let mut judge = Judge::new();
    let overtaken = overtaken(world);
    let alone = |number: u64| format!("overtaken {number}").into_bytes();
    let late = |number: u64, fate: Fate| fate == Fate::Open && overtaken.contains(&number);
    let fates: HashMap<u64, Fate> = sent.iter().map(|(_, number, fate)| (*number, *fate)).collect();
    for (key, number, fate) in sent {
        match fate {
            Fate::Acked => judge.expect(key.as_bytes(), *number),
            Fate::Open if late(*number, *fate) => judge.allow(&alone(*number), *number),
            // It has its place too: a broker takes nothing that comes behind what the same producer id wrote after it.
            Fate::Open => judge.allow(key.as_bytes(), *number),
            Fate::Refused => judge.forbid(key.as_bytes(), *number),
        }
    }
    for partition in 0..PARTITIONS {
        let batches: Vec<_> = world.broker.with_broker(|broker| broker.log(TOPIC, partition).collect());
        for logged in batches {
            let batch = RecordBatch::parse(&mut logged.bytes.clone()).unwrap().unwrap();
            let mut numbers = Vec::new();
            for record in batch.records().unwrap().iter() {
                let record = record.unwrap();
                let value = std::str::from_utf8(record.value.unwrap()).unwrap();
                let number = value.split(' ').next().unwrap().parse().unwrap();
                match fates.get(&number) {
                    Some(fate) if late(number, *fate) => {
                        judge.see(TOPIC, partition, record.offset.0, &alone(number), number);
                    }
                    _ => judge.see(TOPIC, partition, record.offset.0, record.key.unwrap(), number),
                }
                numbers.push(number);
            }
            if tells_all() {
                println!(
                    "{TOPIC}-{partition}@{} in epoch {}: producer {:?} {:?}, sequence {:?}: records {numbers:?}",
                    logged.base_offset,
                    logged.leader_epoch,
                    batch.producer_id(),
                    batch.producer_epoch(),
                    batch.base_sequence()
                );
            }
        }
    }
    let verdict = judge.verdict();
    if verdict.is_clean() { Ok(()) } else { Err(verdict.to_string()) }
}

/// One seed.
fn simulate(seed: u64, defect: Defect) -> std::result::Result<Outcome, String> {
    sim::run(seed, build, |world| async move {
        // Every wait inside is bounded by the client's own time-outs, so this is reached only by a stall.
        match timeout(Duration::from_secs(3600), story(&world, defect)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("it stalls".to_owned()),
        }
    })
}

async fn story(world: &World, defect: Defect) -> std::result::Result<Outcome, String> {
    let client = worlds::connect(world).await;
    let config = settings(&world.dice);
    let (delivery, request) = (config.delivery_timeout, config.request_timeout);
    let producer = Producer::new(&client, spoilt(config, defect)).unwrap();
    let trouble = trouble(&world.dice);
    let mut sent: Vec<(String, u64, Fate)> = Vec::new();
    let numbers = Numbers::default();
    for part in 0..2 {
        let writers = (0..1 + world.dice.below(3)).map(|writer| {
            let name = format!("{part}-{writer}");
            write(world, &producer, name, &numbers)
        });
        let written = {
            let writing = futures_util::future::join_all(writers);
            tokio::select! {
                biased;
                written = writing => written,
                () = trouble.make(world) => return Err("trouble ended".to_owned()),
                () = spoil(world, defect) => return Err("the defect ended".to_owned()),
            }
        };
        trouble.end(world);
        if defect == Defect::Patient {
            world.network.set_down(1, true);
        }
        let started = Instant::now();
        let flushed = timeout(delivery + request + MERCY, producer.flush()).await;
        let Ok(flushed) = flushed else {
            return Err(format!("flush did not end within {:?}", started.elapsed()));
        };
        world.network.note(("flushed", flushed.is_ok()));
        let mut failed = false;
        for (key, number, record) in written.into_iter().flatten() {
            let told = !matches!(record, Sent::Untold);
            let mut fate = fate(record)?;
            failed |= told && fate != Fate::Acked;
            match (defect, fate) {
                (Defect::FalseAck, Fate::Refused | Fate::Open) => fate = Fate::Acked,
                (Defect::FalseRefusal, Fate::Open) => fate = Fate::Refused,
                _ => {}
            }
            sent.push((key, number, fate));
        }
        if failed && flushed.is_ok() {
            return Err("a record failed and flush did not say so".to_owned());
        }
        if producer.metrics().buffered_bytes != 0 {
            return Err(format!("{} bytes are still counted", producer.metrics().buffered_bytes));
        }
        // The broker forgets who wrote, as it does after a day: until then nothing may be on its way.
        sleep(Duration::from_secs(5)).await;
        if world.dice.one_in(2) {
            world.broker.with_broker(milena_testkit::broker::Broker::forget_producers);
        }
    }
    let closing = Instant::now();
    let closed = timeout(Duration::from_secs(1) + MERCY, producer.close(Duration::from_secs(1))).await;
    if closed.is_err() {
        return Err(format!("close did not end within {:?}", closing.elapsed()));
    }
    if defect == Defect::CutOff {
        for partition in 0..PARTITIONS {
            world.broker.with_broker(|broker| {
                let (_, _, end) = broker.offsets(TOPIC, partition).unwrap();
                broker.truncate(TOPIC, partition, end - 1);
            });
        }
    }
    judge(world, &sent)?;
    world.network.note(sent.len());
    let acked = sent.iter().filter(|(.., fate)| *fate == Fate::Acked).count() as u64;
    let retries = producer.metrics().retries;
    let sent = sent.len() as u64;
    Ok(Outcome { sent, acked, failed: sent - acked, retries, trace: world.network.trace() })
}

/// Does what is wrong with this world while records are written.
async fn spoil(world: &World, defect: Defect) {
    if defect != Defect::Forgetful {
        std::future::pending::<()>().await;
    }
    loop {
        sleep(Duration::from_millis(100)).await;
        world.broker.with_broker(milena_testkit::broker::Broker::forget_producers);
    }
}

/// What a bounded wait may take longer: back-offs, and one attempt to connect.
const MERCY: Duration = Duration::from_secs(10);

/// Gives each record a number of its own.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Numbers {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sends some records in every way there is, and returns those that were taken.
async fn write(
    world: &World,
    producer: &Producer,
    name: String,
    numbers: &Numbers,
) -> Vec<(String, u64, Sent)> {
    let dice = world.dice.split();
    let mut taken = Vec::new();
    let pause = Duration::from_millis(dice.between(1, 600));
    for _ in 0..dice.between(10, 60) {
        if dice.one_in(3) {
            sleep(dice.time(pause)).await;
        }
        let partition = i32::try_from(dice.below(PARTITIONS as u64)).unwrap();
        let key = format!("{name}-{partition}");
        let filling = "x".repeat(usize::try_from(dice.below(120)).unwrap());
        let count = if dice.one_in(4) { 1 + dice.below(12) } else { 1 };
        let values: Vec<(u64, String)> = (0..count)
            .map(|_| numbers.next())
            .map(|number| (number, format!("{number} {filling}")))
            .collect();
        let records: Vec<ProducerRecord<'_>> = values
            .iter()
            // A time of its own: the real one would make the story another each time.
            .map(|(number, value)| {
                ProducerRecord::to(TOPIC)
                    .partition(partition)
                    .key(&key)
                    .value(value)
                    .timestamp(*number as i64)
            })
            .collect();
        let (number, record) = (values[0].0, records[0]);
        match dice.below(4) {
            _ if count > 1 => match producer.send_all(&records).await {
                Ok(tickets) => {
                    let each = values.iter().map(|(number, _)| *number).zip(tickets.each());
                    taken.extend(each.map(|(number, ticket)| (key.clone(), number, Sent::Ticket(ticket))));
                }
                Err(_) => {
                    taken.extend(values.iter().map(|(number, _)| (key.clone(), *number, Sent::Untold)));
                }
            },
            0 => {
                if let Ok(ticket) = producer.try_send(record) {
                    taken.push((key, number, Sent::Ticket(ticket)));
                }
            }
            1 => {
                let told = Told::default();
                let tell = told.clone();
                let call = move |result| tell.0.lock().unwrap().push(result);
                if producer.send_with(record, call).await.is_ok() {
                    taken.push((key, number, Sent::Callback(told)));
                }
            }
            _ => {
                if let Ok(ticket) = producer.send(record).await {
                    taken.push((key, number, Sent::Ticket(ticket)));
                }
            }
        }
    }
    taken
}
