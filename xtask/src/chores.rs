//! Tests, benches, the long demo, CI.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::NEWEST_KAFKA;
use crate::command::{cargo, root, run};
use crate::engine;
use crate::jars;
use crate::kafka::{Broker, report_file};

/// How the tests are to be run.
#[derive(Debug)]
pub(crate) struct TestRun<'a> {
    pub(crate) kafka: &'a str,
    pub(crate) require_kafka: bool,
    pub(crate) real_only: bool,
    pub(crate) arguments: &'a [String],
}

/// Where the packages lie whose tests talk to a real Kafka, and which of their tests need not be repeated on another
/// version: those that only the embedded broker takes part in, and those that choose their versions themselves.
const REAL: [(&str, &[&str]); 4] = [
    (
        "crates/client",
        &[
            "cancellation",
            "client_cancellation",
            "connections",
            "consumer_allocations",
            "consumer_cancellation",
            "consumer_memory",
            "consumer_simulation",
            "faults",
            "hostile",
            "old_brokers",
            "produce_allocations",
            "producer",
            "tls_servers",
        ],
    ),
    (
        "crates/connector",
        &[
            "at_least_once",
            "commit",
            "exactly_once",
            "jobs",
            "recovery",
            "savepoints",
            "sink_features",
            "sink_scenarios",
            "sink_writers",
            "source",
            "source_reading",
            "source_starts",
            "source_troubles",
            "windows",
        ],
    ),
    ("crates/testkit", &["end_txn", "groups", "logs", "model", "old_kafka", "sockets", "versions"]),
    ("tests", &["batch_oracles", "cli_security"]),
];

/// The arguments for cargo that choose the tests that talk to a real Kafka. A name that two packages use stands for both, so a
/// few tests more are run. The whole workspace is named, since part of it would be built with other features, and so once more.
fn real_only() -> Result<Vec<String>> {
    let mut targets = BTreeSet::new();
    for (folder, left_out) in REAL {
        targets
            .extend(test_targets(folder)?.into_iter().filter(|target| !left_out.contains(&target.as_str())));
    }
    Ok(targets.into_iter().map(|target| format!("--test={target}")).collect())
}

/// The names of the test programs of a package.
fn test_targets(folder: &str) -> Result<Vec<String>> {
    let folder = root().join(folder).join("tests");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_program = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "rs");
    let name = |path: &PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    Ok(paths.iter().filter(is_program).filter_map(name).collect())
}

/// Runs the tests, with a real Kafka that is started first and shared by the tests that kill nothing; the others start
/// their own. Where none can be started, tests that need one are skipped and counted, or this fails if that was asked.
pub(crate) fn test(test: &TestRun<'_>) -> Result<()> {
    let skips = report_file("skipped-tests")?;
    let mut command = cargo();
    command.args(["test", "--workspace"]);
    if test.real_only {
        // What these tests do on the embedded broker does not depend on the version of the real one.
        command.args(real_only()?).env("MILENA_REAL_ONLY", "1");
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
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
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

/// The tests of TLS by each cryptography: which one it is, OpenSSL's and Java's servers, and a real broker with every security protocol.
pub(crate) fn tls() -> Result<()> {
    jars::fetch(NEWEST_KAFKA)?;
    let servers = ["test", "--package", "milena", "--lib", "--test", "tls_servers"];
    let brokers = ["test", "--package", "milena-tests", "--test", "secured"];
    for feature in [None, Some("tls-ring"), Some("tls-aws-lc")] {
        let with = |command: &mut Command| {
            if let Some(feature) = feature {
                command.args(["--features", &format!("milena/{feature}")]);
            }
            run(command.env("MILENA_REQUIRE_KAFKA", "1"))
        };
        with(cargo().args(servers))?;
        with(cargo().args(brokers))?;
    }
    Ok(())
}

/// Walks the connector's model of a whole job from a seed on.
pub(crate) fn model(from: u64, walks: u64) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--package",
        "milena-connector",
        "--lib",
        "--",
        "--nocapture",
        "runtime::model::no_walk",
    ]);
    command.env("MILENA_MODEL_SEED", from.to_string()).env("MILENA_MODEL_WALKS", walks.to_string());
    run(&mut command)
}

/// Runs the simulations of producer and consumer for so many seeds from one on, or for one alone.
pub(crate) fn sim(from: u64, seeds: u64, seed: Option<u64>) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--package",
        "milena",
        "--test",
        "simulation",
        "--test",
        "consumer_simulation",
        "--",
        "--nocapture",
        "whatever_breaks",
    ]);
    match seed {
        Some(seed) => command.env("MILENA_SIM_SEED", seed.to_string()),
        None => command.env("MILENA_SIM_FROM", from.to_string()).env("MILENA_SIM_SEEDS", seeds.to_string()),
    };
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_that_could_talk_to_the_real_broker() {
        let ways =
            ["real(", "::each(", "own_kafka", "or_skip", "MILENA_BOOTSTRAP", "KafkaOptions", "Kafka::"];
        let mut chosen = 0;
        for (folder, left_out) in REAL {
            let targets = test_targets(folder).unwrap();
            chosen += targets.len() - left_out.len();
            for target in left_out {
                assert!(targets.iter().any(|found| found == target), "{folder} has no test {target}");
                let text = fs::read_to_string(root().join(format!("{folder}/tests/{target}.rs"))).unwrap();
                let way = ways.into_iter().find(|way| text.contains(way));
                // The one starts a broker of each version in its own list, the other servers that are no Kafka.
                let own = ["old_kafka", "tls_servers"].contains(target);
                assert!(way.is_none() || own, "{folder}, {target}: {way:?}");
            }
        }
        assert!(chosen > 20, "{chosen}");
    }
}
