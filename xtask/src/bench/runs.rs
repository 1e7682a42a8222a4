//! Rounds on a broker.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cases::{Case, Role, TUNED};
use super::peers::{PLAIN, Peer, Program};
use super::profile;
use super::results::{Line, Measured, Results};
use super::values;
use crate::command::{Scratch, output, succeeds};
use crate::kafka::{Broker, TlsListener};

/// How long one run of a peer may take.
const LONGEST_RUN: Duration = Duration::from_secs(180);

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) peers: Vec<Peer>,
    pub(crate) modes: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) records: u64,
    pub(crate) smoke: bool,
    pub(crate) breakdown: bool,
    /// A broker that runs already.
    pub(crate) bootstrap: Option<String>,
    pub(crate) kafka: String,
}

/// A topic that was written to be read.
#[derive(Debug, Clone)]
struct Filled {
    /// What it is for: the same for all cases that can read it.
    kind: String,
    topic: String,
    /// What the floor wrote.
    written: Line,
}

/// One row of a case's table.
#[derive(Debug, Clone)]
struct Row<'a> {
    program: &'a Program,
    mode: String,
}

impl Row<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.program.peer.name(), self.mode)
    }

    fn is_other(&self) -> bool {
        !matches!(self.program.peer, Peer::Floor | Peer::Milena)
    }

    fn is_profiled(&self) -> bool {
        ["floor/full", "milena/batches", "milena/ticket"].contains(&self.name().as_str())
    }
}

/// Builds the peers, starts a broker and measures all cases into `results`.
pub(crate) fn run(plan: &Plan, cases: &[Case], results: &mut Results) -> Result<()> {
    let mut programs = Vec::new();
    for peer in &plan.peers {
        match Program::build(*peer, !plan.smoke) {
            Ok(program) => {
                results.versions.insert(peer.name().to_owned(), program.version.clone());
                results.not_run.remove(peer.name());
                programs.push(program);
            }
            Err(error) if matches!(peer, Peer::Floor | Peer::Milena) => return Err(error),
            Err(error) => {
                eprintln!("warning: {} is NOT RUN: {error:#}", peer.name());
                results.not_run.insert(peer.name().to_owned(), format!("{error:#}"));
            }
        }
    }
    if plan.breakdown && !profile::is_possible() {
        bail!("perf does not sample on this machine: leave out --breakdown");
    }
    let memory = Path::new("/dev/shm");
    let folder = memory.is_dir().then_some(memory);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let is_pinned = cores > 1 && succeeds(Command::new("taskset").args(["-c", "0", "true"]));
    if !is_pinned {
        eprintln!("warning: broker and client share cores: one core, or no taskset");
    }
    let wants_tls = cases.iter().any(|case| case.tls);
    // Held until all was measured.
    let (address, about, broker) = match &plan.bootstrap {
        Some(_) if wants_tls => {
            bail!("cases over TLS need a broker that is started for them: no --bootstrap")
        }
        Some(address) => (address.clone(), "started by hand".to_owned(), None),
        None => {
            let broker = Broker::start_to_measure(&plan.kafka, folder, is_pinned.then_some(0), wants_tls)?;
            let place = if folder.is_some() { "a tmpfs" } else { "the disk" };
            let about = format!("{}, log on {place}", broker.how());
            (broker.address().to_owned(), about, Some(broker))
        }
    };
    let scratch = Scratch::new("bench")?;
    results.machine = machine(cores);
    let cores_text = if is_pinned { "the broker on one core, the client on another" } else { "not pinned" };
    results.broker = format!("Kafka {}, one broker on loopback ({about}), {cores_text}", plan.kafka);
    let mut session = Session {
        plan,
        programs: &programs,
        broker: &address,
        tls: broker.as_ref().and_then(Broker::tls),
        folder: scratch.path().to_owned(),
        core: is_pinned.then_some(1),
        filled: None,
        topics: 0,
        samples: None,
    };
    for case in in_order(cases) {
        let measured = session.case(case).with_context(|| case.name.clone())?;
        results.cases.insert(case.name.clone(), measured);
    }
    Ok(())
}

/// Cases that read the same topic behind each other.
fn in_order(cases: &[Case]) -> Vec<&Case> {
    let mut ordered: Vec<&Case> = cases.iter().collect();
    ordered.sort_by_key(|case| (case.role.name(), case.topic()));
    ordered
}

pub(super) fn machine(cores: usize) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let kernel = output(Command::new("uname").arg("-sr")).unwrap_or_default();
    // What else it did: above the number of cores, figures are noisy.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    format!(
        "{}, {cores} cores, {}; load average before the last run: {load}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim()
    )
}

struct Session<'a> {
    plan: &'a Plan,
    programs: &'a [Program],
    broker: &'a str,
    /// The broker's listener with TLS.
    tls: Option<&'a TlsListener>,
    folder: PathBuf,
    core: Option<usize>,
    /// The topic that was written to be read.
    filled: Option<Filled>,
    topics: u32,
    /// Where samples of the next run go.
    samples: Option<PathBuf>,
}

impl<'a> Session<'a> {
    fn case(&mut self, case: &Case) -> Result<Measured> {
        eprintln!("== {}: {}", case.name, case.text());
        let window = case.window(self.plan.records);
        let filled = if case.role == Role::Consume { Some(self.fill(case, window)?) } else { None };
        let rows = self.rows(case);
        let mut measured = Measured {
            case: case.clone(),
            window,
            rows: BTreeMap::new(),
            topic_bytes: None,
            profiles: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        if let (Role::Latency, Some(floor)) = (case.role, rows.first()) {
            // A JVM that has not seen such requests yet falls behind, and says nothing about the client.
            self.row(case, floor, window, None)?;
        }
        for round in 1..=self.plan.rounds {
            for row in &rows {
                if measured.failed.contains_key(&row.name()) {
                    continue;
                }
                let line = match self.row(case, row, window, filled.as_ref()) {
                    Ok(line) => line,
                    Err(error) if row.is_other() && error.is::<Failed>() => {
                        eprintln!("   {} FAILED: {error:#}", row.name());
                        measured.failed.insert(row.name(), format!("{error:#}"));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                eprintln!("   round {round}, {:24} {}", row.name(), shown(case.role, &line));
                measured.topic_bytes = measured.topic_bytes.or(line.batch_bytes);
                measured.rows.entry(row.name()).or_default().push(line);
            }
        }
        // A row that was measured in some rounds only is no measure.
        let failed: Vec<String> = measured.failed.keys().cloned().collect();
        measured.rows.retain(|row, _| !failed.contains(row));
        if self.plan.breakdown {
            for row in rows.iter().filter(|row| row.is_profiled()) {
                let functions = self.profile(case, row, window, filled.as_ref())?;
                measured.profiles.insert(row.name(), functions);
            }
        }
        Ok(measured)
    }

    fn row(&mut self, case: &Case, row: &Row<'_>, window: u64, filled: Option<&Filled>) -> Result<Line> {
        match filled {
            Some(filled) => self.consume(case, row, window, filled),
            None => self.with_topic(case, row, window),
        }
    }

    /// Does the row once more, sampled.
    fn profile(
        &mut self,
        case: &Case,
        row: &Row<'_>,
        window: u64,
        filled: Option<&Filled>,
    ) -> Result<Vec<(String, f64)>> {
        let file = self.folder.join("samples");
        self.samples = Some(file.clone());
        let done = self.row(case, row, window, filled);
        self.samples = None;
        done?;
        profile::read(&file)
    }

    /// Runs the peer of a row.
    fn finish(&self, row: &Row<'_>, command: Command, look: bool) -> Result<Line> {
        let command = match &self.samples {
            Some(file) => profile::sampled(&command, file),
            None => command,
        };
        finish(command, look).map_err(|error| Failed(format!("{}: {error:#}", row.name())).into())
    }

    fn rows(&self, case: &Case) -> Vec<Row<'a>> {
        let mut rows = Vec::new();
        for program in self.programs {
            let is_asked = program.peer == Peer::Milena && !self.plan.modes.is_empty();
            let modes = match is_asked {
                true => program.peer.modes(&Case { detailed: true, ..case.clone() }),
                false => program.peer.modes(case),
            };
            for mode in modes {
                if !is_asked || self.plan.modes.iter().any(|wanted| wanted == mode) {
                    rows.push(Row { program, mode: mode.to_owned() });
                }
            }
        }
        rows
    }

    /// The topic that a case reads, written by the floor once.
    fn fill(&mut self, case: &Case, window: u64) -> Result<Filled> {
        let kind = case.topic();
        let total = window + window / 3 + window / 6;
        if let Some(filled) = &self.filled
            && filled.kind == kind
            && filled.written.records == total
        {
            return Ok(filled.clone());
        }
        let topic = self.new_topic(case)?;
        let mut command = self.command(self.floor()?, case, "produce", "full", &topic)?;
        let batch = case.fill_batch().to_string();
        command.args(["--records", &total.to_string(), "--batch-records", &batch]);
        let filled = Filled { kind, topic, written: finish(command, false)? };
        self.filled = Some(filled.clone());
        Ok(filled)
    }

    /// A topic for the case. The one that was there to be read is deleted: they are as large as memory allows.
    fn new_topic(&mut self, case: &Case) -> Result<String> {
        if let Some(old) = self.filled.take() {
            self.topic("delete-topic", &old.topic, 1)?;
        }
        self.topics += 1;
        let topic = format!("{}-{}", case.topic(), self.topics);
        self.topic("create-topic", &topic, case.partitions)?;
        Ok(topic)
    }

    fn floor(&self) -> Result<&'a Program> {
        self.programs.iter().find(|program| program.peer == Peer::Floor).context("the floor is always there")
    }

    fn topic(&self, what: &str, topic: &str, partitions: u32) -> Result<()> {
        let mut command = self.floor()?.command(None);
        command.args(["--role", "produce", "--mode", what, "--bootstrap", self.broker, "--topic", topic]);
        let done = succeeds(command.args(["--partitions", &partitions.to_string()]));
        ensure!(done, "{what} {topic}");
        Ok(())
    }

    fn command(
        &self,
        program: &Program,
        case: &Case,
        role: &str,
        mode: &str,
        topic: &str,
    ) -> Result<Command> {
        // Threads are there to use several cores.
        let core = if case.threads > 1 || case.name.contains("threads") { None } else { self.core };
        let mut command = program.command(core);
        // The floor has no TLS: it writes what is read, and reads what was written.
        let is_plain = !case.tls || program.peer == Peer::Floor || mode.ends_with(PLAIN);
        let mode = mode.trim_end_matches(PLAIN);
        // The client's main way with the other settings, in the same rounds.
        let (mode, profile) = if mode == TUNED { ("", TUNED) } else { (mode, case.profile.as_str()) };
        match self.tls.filter(|_| !is_plain) {
            Some(tls) => command.args(["--bootstrap", &tls.address, "--tls"]).arg(&tls.authority),
            None => command.args(["--bootstrap", self.broker]),
        };
        command.args(["--topic", topic, "--role", role, "--mode", mode]);
        command.arg("--values").arg(values::file(&self.folder, case)?);
        let numbers = [
            ("--partitions", case.partitions),
            ("--value-size", case.value_size),
            ("--threads", case.threads),
        ];
        for (name, number) in numbers {
            command.args([name, &number.to_string()]);
        }
        command.args(["--codec", &case.codec, "--profile", profile]);
        command.args(["--shape", if case.keys { "keys" } else { "plain" }]);
        Ok(command)
    }

    fn consume(&self, case: &Case, row: &Row<'_>, window: u64, filled: &Filled) -> Result<Line> {
        let mut command = self.command(row.program, case, "consume", &row.mode, &filled.topic)?;
        let (warm, tail) = ((window / 3).to_string(), (window / 6).to_string());
        command.args(["--warm", &warm, "--records", &window.to_string(), "--tail", &tail]);
        let line = self.finish(row, command, case.profile == "default")?;
        // Stages of the floor that look at no record say 0.
        if !line.checksum.chars().all(|digit| digit == '0') || row.program.peer != Peer::Floor {
            agree(&row.name(), &line, &filled.written)?;
        }
        ensure!(line.records == filled.written.records, "{}: {} records", row.name(), line.records);
        Ok(line)
    }

    /// Writes into a topic of its own, reads it with the floor and compares.
    fn with_topic(&mut self, case: &Case, row: &Row<'_>, window: u64) -> Result<Line> {
        let topic = self.new_topic(case)?;
        let mut command = self.command(row.program, case, case.role.name(), &row.mode, &topic)?;
        let warm = if case.role == Role::Latency { window / 5 } else { window / 3 };
        command.args(["--warm", &warm.to_string(), "--records", &window.to_string()]);
        let line = self.finish(row, command, false)?;
        ensure!(line.records == warm + window, "{}: {} records", row.name(), line.records);
        if case.role == Role::Produce {
            let mut reader = self.command(self.floor()?, case, "consume", "full", &topic)?;
            reader.args(["--records", &(warm + window).to_string()]);
            let read = finish(reader, false).context("what was written can't be read")?;
            agree(&row.name(), &read, &line)?;
        }
        self.topic("delete-topic", &topic, 1)?;
        Ok(line)
    }
}

/// A peer that came to no result, which is not the harness's fault.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// Two lines tell of the same records.
pub(super) fn agree(row: &str, one: &Line, other: &Line) -> Result<()> {
    let of = |line: &Line| (line.records, line.bytes, line.checksum.clone());
    ensure!(of(one) == of(other), "{row}: (records, bytes, checksum) are {:?} and {:?}", of(one), of(other));
    Ok(())
}

fn shown(role: Role, line: &Line) -> String {
    match role {
        Role::Latency => format!(
            "p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us",
            line.p50_us.unwrap_or_default(),
            line.p99_us.unwrap_or_default(),
            line.p999_us.unwrap_or_default()
        ),
        _ => format!(
            "{:7.1} ns a record, {:6.2} M/s, {:5.1} MiB",
            line.ns_per_record(),
            line.rate(),
            line.rss_kib as f64 / 1024.0
        ),
    }
}

/// Runs a peer and reads its line; with `look` counts first what its sockets received.
pub(super) fn finish(mut command: Command, look: bool) -> Result<Line> {
    if look {
        command.args(["--hold", "true"]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("{:?}", command.get_program()))?;
    let stdout = child.stdout.take().context("no stdout")?;
    let reader = thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.find(|line| line.starts_with('{'))
    });
    let line = wait_for(&mut child, || reader.is_finished());
    if let Err(error) = line {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    let text = reader.join().ok().flatten();
    let received = if look { received_bytes(child.id()) } else { None };
    drop(child.stdin.take());
    let status = child.wait()?;
    let (Some(text), true) = (text, status.success()) else { bail!("no result: {status}") };
    let mut line: Line = serde_json::from_str(&text).with_context(|| text.clone())?;
    line.received_bytes = received;
    Ok(line)
}

fn wait_for(child: &mut Child, is_done: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_done() {
        ensure!(began.elapsed() < LONGEST_RUN, "no result after {} s", LONGEST_RUN.as_secs());
        let _ = child.try_wait()?;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// What the kernel counted on the process's open connections.
fn received_bytes(pid: u32) -> Option<u64> {
    let listing = output(Command::new("ss").args(["-tinpHO"])).ok()?;
    let owner = format!("pid={pid},");
    let of_process = listing.lines().filter(|line| line.contains(&owner));
    let counts = of_process.filter_map(|line| {
        let text = line.split_whitespace().find_map(|word| word.strip_prefix("bytes_received:"))?;
        text.parse::<u64>().ok()
    });
    let counts: Vec<u64> = counts.collect();
    if counts.is_empty() { None } else { Some(counts.iter().sum()) }
}
