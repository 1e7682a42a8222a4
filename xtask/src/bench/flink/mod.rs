//! milena beside Flink: the same job, from topic to topic without change, exactly once, on the same broker in the same run.
//!
//! Flink runs its own connector in a process of its own (`benches/peers/flink/CopyJob.java`); milena's side is `milena copy`, which is
//! what a user would run. Each run of a job is a process that is looked at from outside (`watch`): its CPU time, its memory, and how far
//! the logs of its output have come. Then the output is read as a reader of committed records sees it, and must be the input.

mod jobs;
mod report;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::cases::{self, Case};
use super::peers::{Peer, Program};
use super::results::Line;
use super::{runs, values};
use crate::NEWEST_KAFKA;
use crate::command::{Scratch, root, succeeds};
use crate::kafka::Broker;
use jobs::{Job, Programs};
pub(crate) use jobs::{compiled, java};
use watch::Run;

/// Partitions of both topics.
const PARTITIONS: u32 = 6;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Records that each run copies.
    #[arg(long, default_value_t = 10_000_000)]
    records: u64,
    /// How often each job runs.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only these jobs, separated by commas, such as `milena-default-1,flink-tuned-2`.
    #[arg(long, value_delimiter = ',')]
    jobs: Vec<String>,
    /// Keep the results in this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write docs/flink.md from the results.
    #[arg(long)]
    write_docs: bool,
    /// Run nothing: show (and write) what the file holds.
    #[arg(long, requires = "json")]
    report: bool,
    /// A broker that runs already, of that version; without it one is started.
    #[arg(long)]
    bootstrap: Option<String>,
    /// The version of the broker.
    #[arg(long, default_value = NEWEST_KAFKA)]
    kafka: String,
}

/// All that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    machine: String,
    broker: String,
    versions: BTreeMap<String, String>,
    records: u64,
    /// By the job's name; one a round.
    runs: BTreeMap<String, Vec<Run>>,
}

/// Measures; fails if an output is not its input, not if a bar is missed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let results = match &args.json {
        Some(path) if args.report => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| path.display().to_string())?
        }
        _ => measure(args)?,
    };
    if let (Some(path), false) = (&args.json, args.report) {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    println!("{}", report::tables(&results));
    if args.write_docs {
        let path = root().join("docs/flink.md");
        std::fs::write(&path, report::document(&results))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Results> {
    ensure!(args.rounds > 0 && args.records >= 1000, "at least one round, and a thousand records");
    let jobs = jobs::select(&args.jobs)?;
    let programs = Programs::build(&jobs)?;
    let floor = Program::build(Peer::Floor, true)?;
    let memory = Path::new("/dev/shm");
    let folder = memory.is_dir().then_some(memory);
    // Held until all was measured.
    let (address, about, _broker) = match &args.bootstrap {
        Some(address) => (address.clone(), "started by hand".to_owned(), None),
        None => {
            let broker = Broker::start_to_measure(&args.kafka, folder, None, false)?;
            let place = if folder.is_some() { "a tmpfs" } else { "the disk" };
            (broker.address().to_owned(), format!("{}, log on {place}", broker.how()), Some(broker))
        }
    };
    let scratch = Scratch::new("flink")?;
    let bench =
        Bench { programs, floor, address, folder: scratch.path(), case: case()?, records: args.records };
    let input = bench.topic("create-topic", "flink-in").and_then(|()| bench.fill("flink-in"))?;
    let mut results = Results {
        broker: format!("Kafka {}, one broker on loopback ({about}); nothing is pinned", args.kafka),
        versions: bench.programs.versions.clone(),
        records: args.records,
        ..Results::default()
    };
    for round in 1..=args.rounds {
        results.machine = runs::machine(std::thread::available_parallelism().map_or(1, usize::from));
        for job in &jobs {
            let run = bench.copy(job, round, &input).with_context(|| job.name())?;
            eprintln!("   round {round}, {:18} {}", job.name(), report::shown(args.records, &run));
            results.runs.entry(job.name()).or_default().push(run);
        }
    }
    Ok(results)
}

/// Values without keys, as the comparison of clients has them.
fn case() -> Result<Case> {
    let case = cases::select(&["consume-6-100".to_owned()])?;
    case.into_iter().next().context("the case of 6 partitions and values of 100 bytes")
}

struct Bench<'a> {
    programs: Programs,
    floor: Program,
    address: String,
    folder: &'a Path,
    case: Case,
    records: u64,
}

impl Bench<'_> {
    /// Runs a job and compares what it wrote with the input.
    fn copy(&self, job: &Job, round: u32, input: &Line) -> Result<Run> {
        let topic = format!("{}-{round}", job.name());
        self.topic("create-topic", &topic)?;
        let folder = self.folder.join(&topic);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let command = self.programs.command(job, &self.address, "flink-in", &topic, &folder);
        let run = watch::run(command, self.floor("consume", "ends", &topic)?, self.records, &folder)?;
        let mut reader = self.floor("consume", "committed", &topic)?;
        reader.args(["--records", &self.records.to_string()]);
        let read = runs::finish(reader, false).context("what was written can't be read")?;
        runs::agree(&job.name(), &read, input)?;
        self.topic("delete-topic", &topic)?;
        Ok(run)
    }

    fn fill(&self, topic: &str) -> Result<Line> {
        let mut command = self.floor("produce", "full", topic)?;
        let batch = self.case.fill_batch().to_string();
        command.args(["--records", &self.records.to_string(), "--batch-records", &batch]);
        runs::finish(command, false)
    }

    fn topic(&self, what: &str, topic: &str) -> Result<()> {
        ensure!(succeeds(&mut self.floor("produce", what, topic)?), "{what} {topic}");
        Ok(())
    }

    fn floor(&self, role: &str, mode: &str, topic: &str) -> Result<std::process::Command> {
        let mut command = self.floor.command(None);
        command.args(["--bootstrap", &self.address, "--topic", topic, "--role", role, "--mode", mode]);
        command.args(["--partitions", &PARTITIONS.to_string(), "--value-size", "100"]);
        command.arg("--values").arg(values::file(self.folder, &self.case)?);
        Ok(command)
    }
}
