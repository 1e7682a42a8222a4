//! Fuzzing: every target for a while, as many at a time as there are processors, and what came of it as a table.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{output, root, run, succeeds};
use crate::seeds;

/// What `cargo xtask fuzz` is told.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Take the seconds as those of a processor, not of the clock: for a machine that does other work meanwhile.
    #[arg(long)]
    pub(crate) processor: bool,
    /// How many targets run at a time. Default: as many as there are processors.
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// The sanitizer: `none`, or `address`, which takes far longer to build and only sees the codecs' unsafe code.
    #[arg(long, default_value = "none")]
    pub(crate) sanitizer: String,
    /// Seconds that one input may take before it counts as a finding. They are seconds of the clock: where other programs can
    /// hold the fuzzers up, more is needed.
    #[arg(long, default_value_t = 20)]
    pub(crate) timeout: u64,
    /// Write the figures to this file as a table in Markdown.
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
    /// Only these targets; all without it.
    pub(crate) targets: Vec<String>,
}

/// No input may need more memory than this.
const LIMITS: [&str; 2] = ["-rss_limit_mb=2048", "-print_final_stats=1"];
/// How often the processor time of a running target is looked at; what it used after the last look is not counted.
const LOOK: Duration = Duration::from_millis(200);
/// In what `/proc` counts processor time: hundredths of a second, on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;
/// A target that still wants processor time is started for at least so many seconds: reading its corpus takes a few.
const SHORTEST_TURN: u64 = 30;

/// What a target's run came to.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    executions: u64,
    /// Places in the code that were reached (`cov`), and how they were (`ft`).
    coverage: u64,
    features: u64,
    corpus: u64,
    peak_mib: u64,
    /// Files that made the target fail.
    findings: Vec<String>,
}

#[derive(Debug)]
struct Outcome {
    target: String,
    took: Duration,
    /// Seconds of a processor, in the program and in the kernel; 0 where the system does not say.
    processor: u64,
    passed: bool,
    figures: Figures,
    log: PathBuf,
}

impl Outcome {
    /// Takes in what the same target's next turn, with the corpus of this one, came to.
    fn add(&mut self, next: Self) {
        let Figures { executions, peak_mib, .. } = self.figures;
        self.took += next.took;
        self.processor += next.processor;
        self.passed &= next.passed;
        self.figures = next.figures;
        self.figures.executions += executions;
        self.figures.peak_mib = self.figures.peak_mib.max(peak_mib);
    }
}

/// Makes the seeds, builds the targets and runs each, with a nightly toolchain if rustup has one. Fails after all have run if one found
/// something.
pub(crate) fn fuzz(arguments: &FuzzArgs) -> Result<()> {
    let known = output(fuzz_command().arg("list"))?;
    let known: Vec<&str> = known.split_whitespace().collect();
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(&target.as_str())) {
        bail!("no fuzz target {unknown}; there are: {}", known.join(" "));
    }
    let wanted = |target: &&&str| {
        arguments.targets.is_empty() || arguments.targets.iter().any(|wanted| wanted == **target)
    };
    let targets: Vec<&str> = known.iter().filter(wanted).copied().collect();
    if targets.is_empty() {
        bail!("there are no fuzz targets");
    }
    eprintln!("{} seeds from the frames of real brokers", seeds::make()?);
    let built = build(arguments, &targets)?;
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let rounds = targets.len().div_ceil(jobs.max(1)) as u64;
    eprintln!(
        "{} targets, {} s each, {jobs} at a time: {} {} s",
        targets.len(),
        arguments.seconds,
        if arguments.processor { "at least" } else { "about" },
        rounds * arguments.seconds
    );
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = one(target, &built, arguments);
                    if let Ok(outcome) = &outcome {
                        eprintln!("{}", line(outcome));
                    }
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut outcomes = outcomes.into_iter().collect::<Result<Vec<Outcome>>>()?;
    outcomes.sort_by(|a, b| a.target.cmp(&b.target));
    if let Some(report) = &arguments.report {
        fs::write(report, table(arguments, &outcomes)).with_context(|| report.display().to_string())?;
    }
    let mut failed = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.passed) {
        eprintln!("--- {}: the end of {}", outcome.target, outcome.log.display());
        eprintln!("{}", tail(&outcome.log, 40));
        failed.push(outcome.target.as_str());
    }
    if failed.is_empty() { Ok(()) } else { bail!("fuzzing found something in: {}", failed.join(" ")) }
}

/// Builds targets; returns the folder of the programs, which are run without cargo: it would hold its locks all the while.
fn build(arguments: &FuzzArgs, targets: &[&str]) -> Result<PathBuf> {
    let folder = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder).join("fuzz"),
        None => root().join("fuzz/target"),
    };
    let mut command = fuzz_command();
    command.args(["build", "--sanitizer", &arguments.sanitizer, "--target-dir"]).arg(&folder);
    // One name or none: cargo-fuzz takes no list.
    if let [only] = targets {
        command.arg(only);
    }
    run(&mut command)?;
    let rustc = output(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(folder.join(host).join("release"))
}

/// Runs a target for the time that it is to have: once, or in turns until it has used so much of a processor.
fn one(target: &str, built: &Path, arguments: &FuzzArgs) -> Result<Outcome> {
    let mut outcome = turn(target, built, arguments, arguments.seconds)?;
    while arguments.processor && outcome.passed && outcome.processor < arguments.seconds {
        // A process with one thread uses no more of a processor than passes on the clock, so no turn overshoots.
        let left = (arguments.seconds - outcome.processor).max(SHORTEST_TURN);
        let next = turn(target, built, arguments, left)?;
        if next.processor == 0 {
            bail!("{target}: no processor time is seen to be used; run without --processor");
        }
        outcome.add(next);
    }
    Ok(outcome)
}

fn turn(target: &str, built: &Path, arguments: &FuzzArgs, seconds: u64) -> Result<Outcome> {
    // What a run finds goes to the corpus; frames that only fuzzing needs are kept beside the targets.
    let corpus = root().join("fuzz/corpus").join(target);
    let artifacts = root().join("fuzz/artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let before = files(&artifacts);
    let log = root().join("fuzz/artifacts").join(format!("{target}.log"));
    let out = File::create(&log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(built.join(target));
    command.arg(&corpus);
    let seeds = [root().join("fuzz/seeds").join(target), seeds::folder(target)];
    command.args(seeds.iter().filter(|folder| folder.is_dir()));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={}", seconds)).args(LIMITS);
    command.arg(format!("-timeout={0}", arguments.timeout));
    command.arg(format!("-report_slow_units={}", arguments.timeout));
    if arguments.sanitizer == "address" {
        // As cargo-fuzz does: Rust's programs break the rule against two definitions where nothing is wrong.
        command.env("ASAN_OPTIONS", "detect_odr_violation=0");
    }
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| built.join(target).display().to_string())?;
    let mut processor = 0;
    let status = loop {
        processor = processor_seconds(child.id()).unwrap_or(processor);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    let mut figures = read(&fs::read_to_string(&log).unwrap_or_default());
    figures.findings = files(&artifacts).into_iter().filter(|file| !before.contains(file)).collect();
    let passed = status.success() && figures.findings.is_empty();
    Ok(Outcome { target: target.to_owned(), took: began.elapsed(), processor, passed, figures, log })
}

/// What a process used so far.
fn processor_seconds(process: u32) -> Option<u64> {
    ticks(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?).map(|ticks| ticks / TICKS_PER_SECOND)
}

/// Time in the program and in the kernel from `/proc/PID/stat`: the 12th and 13th word after the name, which stands in
/// parentheses (proc(5), `utime` and `stime`).
fn ticks(stat: &str) -> Option<u64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(words.next()?.parse::<u64>().ok()? + words.next()?.parse::<u64>().ok()?)
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Reads what libFuzzer prints: `#123 DONE cov: 1 ft: 2 corp: 3/4b ...` and `stat::name: value`.
fn read(log: &str) -> Figures {
    let mut figures = Figures::default();
    for line in log.lines() {
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            let slot = match word {
                "cov:" => &mut figures.coverage,
                "ft:" => &mut figures.features,
                "corp:" => &mut figures.corpus,
                "stat::number_of_executed_units:" => &mut figures.executions,
                "stat::peak_rss_mb:" => &mut figures.peak_mib,
                _ => continue,
            };
            let digits = words.next().unwrap_or_default();
            let digits = digits.split('/').next().unwrap_or_default();
            if let Ok(number) = digits.parse() {
                *slot = number;
            }
        }
    }
    figures
}

fn line(outcome: &Outcome) -> String {
    let Outcome { target, took, processor, passed, figures, .. } = outcome;
    let verdict = if *passed { "ok" } else { "FOUND SOMETHING" };
    let Figures { executions, coverage, corpus, peak_mib, .. } = figures;
    format!(
        "{target:24} {verdict}: {executions} runs in {:.0} s ({processor} s of a processor), coverage {coverage}, corpus {corpus}, {peak_mib} MiB",
        took.as_secs_f64()
    )
}

fn table(arguments: &FuzzArgs, outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| target | s | s of a processor | executions | coverage | features | corpus | peak MiB | findings |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for Outcome { target, took, processor, figures, .. } in outcomes {
        let Figures { executions, coverage, features, corpus, peak_mib, findings } = figures;
        let _ = writeln!(
            text,
            "| {target} | {} | {processor} | {executions} | {coverage} | {features} | {corpus} | {peak_mib} | {} |",
            took.as_secs(),
            findings.len()
        );
    }
    let _ = writeln!(
        text,
        "\n`cargo xtask fuzz --seconds {}{} --sanitizer {}`. Coverage counts the edges of the instrumented code that were \
         reached, features how they were.",
        arguments.seconds,
        if arguments.processor { " --processor" } else { "" },
        arguments.sanitizer
    );
    text
}

fn tail(file: &Path, count: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn fuzz_command() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    if succeeds(Command::new("cargo").args(["+nightly", "--version"]).env_remove("RUSTUP_TOOLCHAIN")) {
        command.arg("+nightly");
    } else {
        // The sanitizer's flags are unstable, and this is how a stable compiler is told to take them.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    command.arg("fuzz");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_last_that_were_printed() {
        let log = "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                   #4096\tDONE   cov: 211 ft: 803 corp: 97/5120b lim: 53 exec/s: 1024 rss: 55Mb\n\
                   stat::number_of_executed_units: 4096\nstat::peak_rss_mb:              57\n";
        let expected = Figures {
            executions: 4096,
            coverage: 211,
            features: 803,
            corpus: 97,
            peak_mib: 57,
            findings: vec![],
        };
        assert_eq!(read(log), expected);
        assert_eq!(read("nothing of the kind cov: x"), Figures::default());
    }

    #[test]
    fn turns_of_one_target_add_up() {
        let turn = |processor, executions, coverage, peak_mib, findings: &[&str]| Outcome {
            target: "frame".to_owned(),
            took: Duration::from_secs(30),
            processor,
            passed: findings.is_empty(),
            figures: Figures {
                executions,
                coverage,
                peak_mib,
                findings: findings.iter().map(|&name| name.to_owned()).collect(),
                ..Figures::default()
            },
            log: PathBuf::new(),
        };
        let mut both = turn(12, 100, 5, 60, &[]);
        both.add(turn(18, 40, 7, 50, &["crash-1"]));
        let expected = turn(30, 140, 7, 60, &["crash-1"]);
        assert_eq!((both.processor, both.took, both.passed), (30, Duration::from_secs(60), false));
        assert_eq!(both.figures, expected.figures);
    }
}
