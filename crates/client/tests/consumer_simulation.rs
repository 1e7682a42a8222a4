//! The consumer in a world that breaks by a seed, in virtual time: what it hands out is the log, each record once and in order; what an
//! election takes away after it was read is told; and nothing stalls once the trouble is over.
//!
//! Beside `simulation.rs`, which does so with the producer; `cargo xtask sim` runs both.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod worlds;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use milena::{
    Acks, Client, Consumer, ConsumerConfig, Error, ErrorCode, ErrorKind, Idempotence, Offset,
    PartitionStatus, Position, Producer, ProducerConfig, ProducerRecord, RecordBatch, Start, StatusReason,
    TopicPartition,
};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::sim::{self, Dice, Trouble, Weather, World};
use tokio::time::{Instant, sleep, timeout};
use worlds::{PARTITIONS, TOPIC};

const PRODUCE: i16 = 0;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const METADATA: i16 = 3;
const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
/// How many seeds are run with every test run.
const SEEDS: u64 = 100;
/// So long after the trouble everything is read.
const MERCY: Duration = Duration::from_secs(120);

#[test]
fn whatever_breaks_a_consumer_hands_out_the_log_once_and_in_order() {
    let seeds = worlds::seeds(SEEDS);
    let (read, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = seeds.end - seeds.start;
    let failed = sim::failing(seeds, |seed| {
        let outcome = simulate(seed, Defect::None)?;
        read.fetch_add(outcome.read, Ordering::Relaxed);
        lost.fetch_add(outcome.losses, Ordering::Relaxed);
        Ok(())
    });
    let (read, lost) = (read.into_inner(), lost.into_inner());
    println!("{count} seeds: {read} records read, {lost} losses told");
    worlds::judge(&failed);
    if count >= 50 {
        assert!(
            read > count * 20 && lost > 0,
            "a simulation in which nothing breaks, or all does, says little"
        );
    }
}

/// What may be wrong with a world, to see that the judge is awake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    None,
    /// The application does not listen when it is told that what it read is lost.
    Deaf,
    /// The brokers know no epochs, so that nobody can tell.
    NoEpochs,
    /// A seek goes one too far.
    Skips,
    /// A seek goes one too far back.
    Repeats,
    /// A node stays down after the trouble.
    Dead,
}

#[test]
fn a_world_with_a_defect_is_found_out() {
    let defects = [
        (Defect::Deaf, "the log"),
        (Defect::NoEpochs, "the log"),
        (Defect::Skips, "the log"),
        (Defect::Repeats, "came again"),
        (Defect::Dead, "stalls"),
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
    read: u64,
    losses: u64,
}

fn build(dice: &Dice, defect: Defect) -> (BrokerConfig, Weather) {
    let mut config = worlds::broker(dice);
    worlds::replicate(&mut config, dice);
    if defect == Defect::NoEpochs {
        config.version_limits.extend([(OFFSET_FOR_LEADER_EPOCH, -1), (FETCH, 11)]);
    }
    (config, worlds::weather(dice))
}

fn trouble(dice: &Dice) -> Trouble {
    let apis = [FETCH, FETCH, FETCH, METADATA, LIST_OFFSETS, OFFSET_FOR_LEADER_EPOCH, PRODUCE];
    let errors = [
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::UNKNOWN_LEADER_EPOCH,
        ErrorCode::OFFSET_NOT_AVAILABLE,
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
    ];
    worlds::trouble(dice, &apis, &errors)
}

fn simulate(seed: u64, defect: Defect) -> Result<Outcome, String> {
    sim::run(
        seed,
        |dice| build(dice, defect),
        |world| async move {
            match timeout(Duration::from_secs(3600), story(&world, defect)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("it stalls for an hour".to_owned()),
            }
        },
    )
}

async fn story(world: &World, defect: Defect) -> Result<Outcome, String> {
    let client = worlds::connect(world).await;
    let config = ProducerConfig {
        acks: Acks::Leader,
        idempotence: Idempotence::Off,
        batch_size: 600,
        delivery_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(2),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(&client, config).unwrap();
    let trouble = trouble(&world.dice);
    let mut reader = Reader::new(world, client.clone(), defect);
    tokio::select! {
        biased;
        () = write(world, &producer) => {}
        failed = reader.go_on() => return Err(failed),
        () = trouble.make(world) => return Err("trouble ended".to_owned()),
    }
    trouble.end(world);
    // A record for each, so that a loss nobody would read past is noticed too.
    if timeout(MERCY, producer.flush()).await.is_err() {
        return Err("the producer stalls".to_owned());
    }
    for partition in 0..PARTITIONS {
        let last = producer.send(ProducerRecord::to(TOPIC).partition(partition).value("last")).await.unwrap();
        last.await.map_err(|error| format!("the last record: {error}"))?;
    }
    if defect == Defect::Dead {
        world.network.set_down(1, true);
    }
    reader.rest().await?;
    Ok(Outcome { read: reader.seen.iter().map(|seen| seen.len() as u64).sum(), losses: reader.losses })
}

async fn write(world: &World, producer: &Producer) {
    let dice = world.dice.split();
    let pause = Duration::from_millis(dice.between(1, 300));
    for number in 0..dice.between(50, 250) {
        if dice.one_in(3) {
            sleep(dice.time(pause)).await;
        }
        let partition = i32::try_from(dice.below(PARTITIONS as u64)).unwrap();
        let value = format!("{number} {}", "x".repeat(usize::try_from(dice.below(120)).unwrap()));
        let record = ProducerRecord::to(TOPIC).partition(partition).value(&value).timestamp(number as i64);
        // What becomes of it is the other simulation's affair.
        let _ = producer.send(record).await;
    }
}

/// An application that writes down what it reads, and strikes out what it is told to be lost.
struct Reader {
    world: World,
    client: Client,
    consumer: Consumer,
    dice: Dice,
    defect: Defect,
    /// Of each partition: offsets and values.
    seen: Vec<Vec<(i64, String)>>,
    /// Of each partition: positions at which it stood, with the epochs by which a loss before them is noticed.
    stood: Vec<Vec<Position>>,
    losses: u64,
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, partition)
}

fn consumer(client: &Client, dice: &Dice, starts: Vec<Start>) -> Consumer {
    let config = ConsumerConfig {
        buffer_bytes: usize::try_from(dice.between(256, 400)).unwrap() * 1024,
        max_bytes: u32::try_from(dice.between(300, 20_000)).unwrap(),
        ..ConsumerConfig::default()
    };
    let consumer = Consumer::new(client, config).unwrap();
    consumer.assign((0..PARTITIONS).zip(starts).map(|(partition, start)| (tp(partition), start)));
    consumer
}

impl Reader {
    fn new(world: &World, client: Client, defect: Defect) -> Self {
        let dice = world.dice.split();
        let starts = vec![Start::At(Offset(0).into()); PARTITIONS as usize];
        let consumer = consumer(&client, &dice, starts);
        let seen = vec![Vec::new(); PARTITIONS as usize];
        let stood = vec![vec![Position::from(Offset(0))]; PARTITIONS as usize];
        Self { world: world.clone(), client, consumer, dice, defect, seen, stood, losses: 0 }
    }

    /// Reads, and does everything else that an application may do, until something is wrong.
    async fn go_on(&mut self) -> String {
        loop {
            let partition = i32::try_from(self.dice.below(PARTITIONS as u64)).unwrap();
            match self.dice.below(24) {
                0 => self.consumer.pause(&tp(partition)).unwrap(),
                1..=3 => self.consumer.resume(&tp(partition)).unwrap(),
                4 => self.consumer.hold(&tp(partition)).unwrap(),
                5..=7 => self.consumer.release(&tp(partition)).unwrap(),
                8 => self.seek_back(partition),
                9 => self.restart(),
                10 => sleep(self.dice.time(Duration::from_millis(500))).await,
                _ => {
                    if let Err(wrong) = self.read_some().await {
                        return wrong;
                    }
                }
            }
        }
    }

    /// Reads a little, in one of the ways there are.
    async fn read_some(&mut self) -> Result<(), String> {
        self.read_for(self.dice.time(Duration::from_millis(400))).await
    }

    async fn read_for(&mut self, wait: Duration) -> Result<(), String> {
        let error = if self.dice.one_in(2) {
            match self.consumer.poll(wait).await {
                Ok(None) => return Ok(()),
                Ok(Some(part)) => {
                    let partition = part.tp().partition.0;
                    for record in &part {
                        let record = record.map_err(|error| error.to_string())?;
                        self.take(partition, record.offset, record.value.unwrap())?;
                    }
                    self.stand(partition);
                    return Ok(());
                }
                Err(error) => error,
            }
        } else {
            match timeout(wait, self.consumer.recv()).await {
                Err(_) => return Ok(()),
                Ok(Ok(record)) => {
                    let partition = record.tp().partition.0;
                    self.take(partition, record.offset(), record.value().unwrap())?;
                    self.stand(partition);
                    return Ok(());
                }
                Ok(Err(error)) => error,
            }
        };
        self.told(&error)
    }

    fn take(&mut self, partition: i32, offset: Offset, value: &[u8]) -> Result<(), String> {
        let seen = &mut self.seen[partition as usize];
        if let Some((last, _)) = seen.last().filter(|(last, _)| *last >= offset.0) {
            return Err(format!("{} at {offset} came again after {last}", tp(partition)));
        }
        seen.push((offset.0, String::from_utf8(value.to_vec()).unwrap()));
        Ok(())
    }

    fn stand(&mut self, partition: i32) {
        self.stood[partition as usize].extend(self.consumer.position(&tp(partition)));
    }

    /// The last place up to `most` at which it stood. What was read behind it is struck out.
    fn back_to(&mut self, partition: i32, most: i64) -> Position {
        let stood = &mut self.stood[partition as usize];
        stood.retain(|position| position.offset.0 <= most);
        let position = *stood.last().unwrap();
        self.seen[partition as usize].retain(|(offset, _)| *offset < position.offset.0);
        position
    }

    /// Acts on an error as its remedy says; or goes back further, to where a later loss would be noticed before anything is read.
    fn told(&mut self, error: &Error) -> Result<(), String> {
        let Some(partition) = error.partition() else {
            return if error.is_retriable() { Ok(()) } else { Err(error.to_string()) };
        };
        let state = self.consumer.partition(&tp(partition.0)).unwrap();
        let PartitionStatus::Failed { reason } = &state.status else { return Ok(()) };
        let at = match reason {
            StatusReason::Truncated { at, .. } => at.map_or(0, |at| at.0),
            // Where the end is now may be behind what was lost.
            StatusReason::OutOfRange { .. } => 0,
            other => return Err(format!("{} is given up: {other}", tp(partition.0))),
        };
        if error.kind() != ErrorKind::DataLoss {
            return Err(format!("a loss is told as {error}"));
        }
        self.losses += 1;
        if self.defect == Defect::Deaf {
            let seen = &mut self.seen[partition.0 as usize];
            let end = seen.last().map_or(0, |(last, _)| last + 1);
            let _ = self.consumer.seek(&tp(partition.0), Start::At(Offset(end.min(at + 1)).into()));
            seen.retain(|(offset, _)| *offset < end.min(at + 1));
            return Ok(());
        }
        let to = self.back_to(partition.0, at);
        self.consumer.seek(&tp(partition.0), Start::At(to)).map_err(|error| error.to_string())
    }

    /// Where the next record of a partition is read, as the application knows it.
    fn next(&self, partition: i32) -> i64 {
        let seen = &self.seen[partition as usize];
        seen.last().map_or(0, |(last, _)| last + 1)
    }

    /// Reads some records once more.
    fn seek_back(&mut self, partition: i32) {
        let back = i64::try_from(self.dice.below(8)).unwrap();
        let mut to = self.back_to(partition, (self.next(partition) - back).max(0));
        match self.defect {
            Defect::Skips => to.offset.0 += 1,
            Defect::Repeats => to.offset.0 = (to.offset.0 - 1).max(0),
            _ => {}
        }
        self.consumer.seek(&tp(partition), Start::At(to)).unwrap();
    }

    /// Goes on with another consumer, from the positions of this one.
    fn restart(&mut self) {
        let starts = (0..PARTITIONS).map(|partition| Start::At(self.back_to(partition, i64::MAX))).collect();
        self.consumer = consumer(&self.client, &self.dice, starts);
    }

    fn log(&self, partition: i32) -> Vec<(i64, String)> {
        let batches: Vec<_> = self.world.broker.with_broker(|broker| broker.log(TOPIC, partition).collect());
        let mut found = Vec::new();
        for logged in batches {
            let batch = RecordBatch::parse(&mut logged.bytes.clone()).unwrap().unwrap();
            found.extend(batch.records().unwrap().iter().map(|record| {
                let record = record.unwrap();
                (record.offset.0, String::from_utf8(record.value.unwrap().to_vec()).unwrap())
            }));
        }
        found
    }

    /// Reads to the ends of the logs, and holds what was read against them.
    async fn rest(&mut self) -> Result<(), String> {
        for partition in 0..PARTITIONS {
            self.consumer.resume(&tp(partition)).unwrap();
            self.consumer.release(&tp(partition)).unwrap();
        }
        let ends: Vec<i64> = (0..PARTITIONS)
            .map(|partition| self.log(partition).last().map_or(0, |(last, _)| last + 1))
            .collect();
        let reading = async {
            while (0..PARTITIONS).any(|partition| self.next(partition) < ends[partition as usize]) {
                self.read_some().await?;
            }
            Ok::<(), String>(())
        };
        match timeout(MERCY, reading).await {
            Ok(done) => done?,
            Err(_) => return Err(format!("it stalls: {:?}", self.consumer.partitions())),
        }
        // A request that came late may have written something yet; and nothing may come again.
        let quiet = Instant::now() + Duration::from_secs(2);
        while Instant::now() < quiet {
            self.read_for(Duration::from_millis(500)).await?;
        }
        for partition in 0..PARTITIONS {
            let log = self.log(partition);
            let seen = &self.seen[partition as usize];
            if let Some(place) =
                (0..log.len().max(seen.len())).find(|&place| seen.get(place) != log.get(place))
            {
                return Err(format!(
                    "{}: {:?} was read where the log has {:?}",
                    tp(partition),
                    seen.get(place),
                    log.get(place)
                ));
            }
        }
        Ok(())
    }
}
