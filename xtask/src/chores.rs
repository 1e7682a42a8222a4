//! Tests, fuzzing, benches, the long demo, CI.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, output, root, run, succeeds};
use crate::engine;
use crate::kafka::{Broker, report_file};

/// How the tests are to be run.
#[derive(Debug)]
pub(crate) struct TestRun<'a> {
    pub(crate) kafka: &'a str,
    pub(crate) require_kafka: bool,
    pub(crate) real_only: bool,
    pub(crate) arguments: &'a [String],
}

/// The packages whose tests talk to a real Kafka.
const REAL: [&str; 4] =
    ["--package=milena", "--package=milena-connector", "--package=milena-testkit", "--package=milena-tests"];

/// Runs the tests, with a real Kafka that is started first and shared by the tests that kill nothing; the others start
/// their own. Where none can be started, tests that need one are skipped and counted, or this fails if that was asked.
pub(crate) fn test(test: &TestRun<'_>) -> Result<()> {
    let skips = report_file("skipped-tests")?;
    let mut command = cargo();
    command.arg("test");
    if test.real_only {
        command.args(REAL).args(["--features=milena-testkit/containers", "--tests"]);
    } else {
        command.arg("--workspace");
    }
    command.args(test.arguments).env("MILENA_KAFKA_VERSION", test.kafka).env("MILENA_SKIP_REPORT", &skips);
    if test.require_kafka {
        command.env("MILENA_REQUIRE_KAFKA", "1");
    }
    if let Some(host) = engine::private_host() {
        command.env("DOCKER_HOST", host);
    }
    // Held until the tests have ended.
    let _shared = match std::env::var("MILENA_BOOTSTRAP") {
        Ok(address) => {
            eprintln!("tests use the Kafka at MILENA_BOOTSTRAP={address}");
            None
        }
        Err(_) => match Broker::start(test.kafka) {
            Ok(broker) => {
                command.env("MILENA_BOOTSTRAP", broker.address());
                Some(broker)
            }
            Err(error) if test.require_kafka => return Err(error),
            Err(error) => {
                eprintln!("warning: tests run without a real Kafka: {error:#}");
                None
            }
        },
    };
    let outcome = run(&mut command);
    let skipped = std::fs::read_to_string(&skips).unwrap_or_default();
    if !skipped.is_empty() {
        eprintln!("{} tests were SKIPPED for want of a real Kafka {}:", skipped.lines().count(), test.kafka);
        eprint!("{skipped}");
    }
    outcome
}

/// Runs CI's script.
pub(crate) fn ci() -> Result<()> {
    run(Command::new("bash").arg(root().join(".ci/run")).current_dir(root()))
}

/// Builds the fuzz targets and runs each for some seconds, with a nightly toolchain if rustup has one.
pub(crate) fn fuzz(seconds: u32, sanitizer: &str, targets: &[String]) -> Result<()> {
    let known = output(fuzz_command().arg("list"))?;
    let known: Vec<&str> = known.split_whitespace().collect();
    if known.is_empty() {
        bail!("there are no fuzz targets");
    }
    if let Some(unknown) = targets.iter().find(|target| !known.contains(&target.as_str())) {
        bail!("no fuzz target {unknown}; there are: {}", known.join(" "));
    }
    run(fuzz_command().args(["build", "--sanitizer", sanitizer]))?;
    for target in
        known.iter().filter(|target| targets.is_empty() || targets.iter().any(|wanted| wanted == *target))
    {
        let limit = format!("-max_total_time={seconds}");
        let mut command = fuzz_command();
        command.args(["run", "--sanitizer", sanitizer, target]);
        // Seeds are kept beside the targets; what a run finds goes to the corpus, which is not.
        let seeds = root().join("fuzz/seeds").join(target);
        if seeds.is_dir() {
            let corpus = root().join("fuzz/corpus").join(target);
            std::fs::create_dir_all(&corpus)?;
            command.arg(corpus).arg(seeds);
        }
        run(command.args(["--", &limit, "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]))?;
    }
    Ok(())
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

/// Runs the benches, or each once.
pub(crate) fn bench(smoke: bool, arguments: &[String]) -> Result<()> {
    let mut command = cargo();
    if smoke {
        // Criterion runs each benchmark once when it is run as a test.
        command.args(["test", "--package", "milena-benches", "--benches"]);
    } else {
        command.args(["bench", "--package", "milena-benches"]);
    }
    run(command.args(arguments))
}

/// Runs the demo with many crashes: on the embedded broker, then on a real one.
pub(crate) fn demo_long(records: u64, partitions: u32, crashes: u32, kafka: &str) -> Result<()> {
    let demo = |bootstrap: Option<&str>| {
        let mut command = cargo();
        command.args(["run", "--release", "--package", "milena-cli", "--", "demo"]);
        if let Some(bootstrap) = bootstrap {
            command.args(["--bootstrap", bootstrap]);
        }
        let amounts = [records, u64::from(partitions), u64::from(crashes)].map(|amount| amount.to_string());
        for (option, amount) in ["--records", "--partitions", "--crashes"].iter().zip(&amounts) {
            command.args([option, amount.as_str()]);
        }
        run(&mut command)
    };
    demo(None)?;
    let broker = Broker::start(kafka)?;
    demo(Some(broker.address()))
}
