//! Tests, benches, the long demo, CI.

use std::process::Command;

use anyhow::Result;

use crate::command::{cargo, root, run};
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

/// Runs the producer's simulation for seeds from 0 on, or for one.
pub(crate) fn sim(seeds: u64, seed: Option<u64>) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--package",
        "milena",
        "--test",
        "simulation",
        "--",
        "--nocapture",
        "whatever_breaks",
    ]);
    match seed {
        Some(seed) => command.env("MILENA_SIM_SEED", seed.to_string()),
        None => command.env("MILENA_SIM_SEEDS", seeds.to_string()),
    };
    run(&mut command)
}
