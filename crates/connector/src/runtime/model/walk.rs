//! A walk: lives of a job, one after the other, until its input is read, written and committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use milena::{ClientConfig, TopicPartition};

use super::broker::Broker;
use super::chance::{Defect, Dice, Met, Setting};
use super::check::Durable;
use super::input::{Input, TOPIC};
use super::life::Life;
use crate::progress::{AlignmentGroup, WatermarkStrategy};
use crate::schema::from_fn;
use crate::source::policy::{Discovery, DiscoveryRetry};
use crate::source::{KafkaSource, StartFrom, StopAt};

pub(super) const FOREIGN: &str = "job-1-0-0";
/// Somebody else's value in the output.
const FOREIGN_VALUE: u32 = 9999;
/// Steps after which a walk is taken for endless.
const ENDLESS: u64 = 100_000;

/// How a walk ended well.
#[derive(Debug)]
pub(super) enum Ended {
    /// The output is the input.
    Whole { crashes: u32 },
    /// A transaction timed out before its commit, and the job said so.
    LossTold,
}

/// Why a life ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Crash,
    Loss,
    /// Something is not as it must be.
    Wrong(String),
}

impl From<crate::Error> for Stop {
    fn from(error: crate::Error) -> Self {
        Self::Wrong(format!("an error that nothing caused: {error}"))
    }
}

pub(super) fn wrong<T>(text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Wrong(text.into()))
}

pub(super) struct Walk {
    pub(super) dice: Dice,
    defect: Option<Defect>,
    pub(super) setting: Setting,
    pub(super) input: Input,
    pub(super) to_come: bool,
    pub(super) broker: Broker,
    /// The offsets of the consumer group.
    pub(super) group: BTreeMap<TopicPartition, i64>,
    pub(super) durable: Option<Durable>,
    /// Partitions that a reader was given after others: time may have passed them by.
    pub(super) behind: BTreeSet<TopicPartition>,
    pub(super) next_id: u64,
    pub(super) crashes: u32,
    crashes_left: u32,
    timeouts_left: u32,
    retentions_left: u32,
    /// Runs that follow when a source with a stop has come to it.
    runs_left: u32,
    lives: u32,
    /// Lookups, fetches and commits of offsets that may fail.
    mishaps_left: u32,
    /// Discoveries that may leave a partition out: one more in a row, and it counts as gone.
    pub(super) absences_left: u32,
    pub(super) expiries_left: u32,
    /// Readers that may fail while the others go on.
    pub(super) failures_left: u32,
    pub(super) now: Instant,
    steps: u64,
    tells: bool,
    trace: Vec<String>,
    pub(super) met: BTreeSet<Met>,
    pub(super) foreign: (i64, i16),
    pub(super) had_timeout: bool,
    pub(super) had_retention: bool,
}

impl Walk {
    pub(super) fn new(seed: u64, defect: Option<Defect>, tells: bool) -> Self {
        let mut dice = Dice::new(seed);
        let setting = Setting::new(&mut dice);
        let input = Input::new(&mut dice, &setting);
        let mut broker = Broker::default();
        let foreign = broker.init(FOREIGN).unwrap();
        broker.produce(FOREIGN, foreign.0, foreign.1, 0, FOREIGN_VALUE).unwrap();
        let (crashes_left, timeouts) = (dice.roll(4), dice.one_in(8));
        Self {
            defect,
            to_come: setting.another_partition,
            input,
            broker,
            group: BTreeMap::new(),
            durable: None,
            behind: BTreeSet::new(),
            next_id: 1,
            crashes: 0,
            crashes_left: u32::try_from(crashes_left).unwrap(),
            timeouts_left: u32::from(timeouts),
            retentions_left: u32::from(dice.one_in(12)),
            runs_left: u32::from(setting.bounded && dice.one_in(4)),
            lives: 0,
            mishaps_left: 8,
            absences_left: 2,
            expiries_left: u32::from(dice.one_in(4)),
            failures_left: u32::try_from(dice.roll(3)).unwrap(),
            now: Instant::now(),
            steps: 0,
            tells,
            trace: Vec::new(),
            met: BTreeSet::new(),
            foreign,
            had_timeout: false,
            had_retention: false,
            setting,
            dice,
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    pub(super) fn trace(&self) -> String {
        format!("{:?}\n{:?}\n{}", self.setting, self.input, self.trace.join("\n"))
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.tells {
            self.trace.push(format!("{:4} {}", self.steps, text()));
        }
    }

    pub(super) fn mishap(&mut self, one_in: u64) -> bool {
        let happens = self.mishaps_left > 0 && self.dice.one_in(one_in);
        self.mishaps_left -= u32::from(happens);
        happens
    }

    pub(super) fn run(&mut self) -> Result<Ended, String> {
        loop {
            let parallelism = if self.lives == 0 { 2 } else { 1 + u32::try_from(self.dice.roll(3)).unwrap() };
            self.lives += 1;
            let ended = match self.start(parallelism) {
                Ok(mut life) => {
                    let ended = self.live(&mut life);
                    self.bury(life);
                    ended
                }
                Err(stop) => Err(stop),
            };
            if let Some(crime) = &self.broker.crime {
                return Err(crime.clone());
            }
            match ended {
                Ok(()) => {
                    self.judge()?;
                    if self.runs_left == 0 {
                        return Ok(Ended::Whole { crashes: self.crashes });
                    }
                    self.runs_left -= 1;
                    self.met.insert(Met::AnotherRun);
                    self.input.grow(&mut self.dice);
                    self.note(|| String::from("the job is started again"));
                }
                Err(Stop::Wrong(why)) => return Err(why),
                Err(Stop::Loss) => return self.judge_loss(),
                Err(Stop::Crash) => {
                    self.crashes += 1;
                    self.note(|| String::from("crash"));
                }
            }
        }
    }

    /// What was on its way when the process ended may still arrive.
    fn bury(&mut self, life: Life) {
        for subtask in life.subtasks {
            if let Some(request) = subtask.committing
                && self.dice.one_in(2)
                && let Err(Stop::Wrong(why)) = self.take_offsets(&request)
            {
                self.broker.crime.get_or_insert(why);
            }
        }
    }

    /// Every step may be the last of this life.
    pub(super) fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > ENDLESS {
            return wrong("the walk does not end");
        }
        self.now += Duration::from_millis(self.dice.roll(3));
        if self.dice.one_in(4) {
            let which = self.dice.index(8);
            self.broker.deliver(which);
        }
        if self.timeouts_left > 0 && self.dice.one_in(120) {
            let open = self.broker.open();
            let own: Vec<_> = open.iter().filter(|(id, _)| id != FOREIGN).collect();
            if !own.is_empty() {
                let id = own[self.dice.index(own.len())].0.clone();
                self.timeouts_left -= 1;
                self.had_timeout = true;
                self.met.insert(Met::ATimedOutTransaction);
                self.note(|| format!("{id} times out"));
                self.broker.time_out(&id);
            }
        }
        if self.retentions_left > 0 && self.dice.one_in(200) {
            self.retentions_left -= 1;
            self.had_retention = true;
            let partition = self.dice.index(2);
            self.broker.retained_from[partition] = self.broker.logs[partition].len();
            self.met.insert(Met::Retention);
        }
        if self.dice.one_in(if self.setting.bounded { 20 } else { 6 }) {
            self.input.grow(&mut self.dice);
        }
        if self.to_come && self.dice.one_in(60) {
            self.to_come = false;
            self.input.add(2, &mut self.dice, &self.setting);
            self.note(|| String::from("another partition"));
        }
        if self.crashes_left > 0 && self.dice.one_in(90) {
            self.crashes_left -= 1;
            return Err(Stop::Crash);
        }
        Ok(())
    }

    /// The source of a life: as configured, with an alignment group of its own.
    pub(super) fn source(&self) -> KafkaSource<u32> {
        let setting = &self.setting;
        let lag = Duration::from_millis(u64::try_from(setting.out_of_order).unwrap());
        let bound = setting.out_of_order;
        let watermarks = match setting.punctuated {
            true => WatermarkStrategy::punctuated(move |_: &u32, time| Some(time - bound - 1)),
            false => WatermarkStrategy::bounded_out_of_orderness(lag),
        };
        let mut watermarks = watermarks.with_caught_up_idleness(setting.idleness);
        if let Some(quiet) = setting.idleness {
            watermarks = watermarks.with_idleness(quiet * 3);
        }
        let mut source = KafkaSource::builder()
            .client(ClientConfig::new(["nowhere:1"]))
            .topics([TOPIC])
            .group_id("group")
            .start(if setting.from_the_end { StartFrom::Latest } else { StartFrom::Earliest })
            .assigner(setting.assigner.clone())
            .discovery(Discovery::Every(Duration::from_millis(50)))
            .discovery_retry(DiscoveryRetry {
                initial: Duration::from_millis(20),
                ..DiscoveryRetry::default()
            })
            .watermarks(watermarks)
            .deserializer_with(|| {
                Box::new(from_fn(|record| {
                    let value = record.value.ok_or("no value")?;
                    Ok(Some(u32::from_be_bytes(value.try_into()?)))
                }))
            });
        if setting.bounded {
            source = source.bounded(StopAt::Latest);
        }
        if let Some(drift) = setting.drift {
            source = source.alignment(&AlignmentGroup::new(), drift);
        }
        source.build().unwrap()
    }
}
