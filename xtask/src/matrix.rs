//! Every version of Kafka in turn: the golden frames of the codec's tests, and the version matrix.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, root, run};
use crate::jars;
use crate::kafka::Broker;

/// The versions whose frames are kept and that the whole matrix runs on, oldest first.
const ALL: [&str; 12] = [
    "0.8.2.2", "0.9.0.1", "0.10.0.1", "0.10.2.2", "0.11.0.3", "1.0.2", "1.1.1", "2.0.1", "2.4.1", "2.8.2",
    "3.9.1", "4.3.1",
];

/// What CI runs: one for each way of being old.
const CI: [&str; 5] = ["0.8.2.2", "0.9.0.1", "0.10.2.2", "1.1.1", "2.8.2"];

/// The tests of the launchers. With the features of the broker's own program, so that both are built from one library.
const LAUNCHER: [&str; 8] =
    ["test", "--quiet", "--package", "milena-testkit", "--features", "containers", "--test", "old_kafka"];

/// The tests of the client on every release.
const CLIENT: [&str; 6] = ["test", "--quiet", "--package", "milena-tests", "--test", "versions"];

/// What becomes of prepared transactions, on every release from 0.11 on.
const SITUATIONS: [&str; 6] = ["test", "--quiet", "--package", "milena-tests", "--test", "situations"];

/// The last release that keeps messages in whichever format a topic asks for, and the tests of such topics.
const KEEPS_OLD_FORMATS: &str = "2.8.2";
const FORMATS: [&str; 6] = ["test", "--quiet", "--package", "milena-tests", "--test", "message_formats"];

/// The tests of Kerberos, and the versions to run them on: bare SASL frames, SaslAuthenticate, sessions that end, the newest.
const KERBEROS: [&str; 6] = ["test", "--quiet", "--package", "milena-tests", "--test", "kerberos_broker"];
const KERBEROS_ON: [&str; 4] = ["0.10.2.2", "1.1.1", "2.8.2", "4.3.1"];

/// The tests of secured brokers: before and since SaslAuthenticate, before and since TLS 1.3 and KRaft.
const SECURED: [&str; 6] = ["test", "--quiet", "--package", "milena-tests", "--test", "secured"];
const SECURED_ON: [&str; 4] = ["0.10.2.2", "1.1.1", "2.8.2", "4.3.1"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The versions; without any, all from 0.8.2.2 to the newest.
    #[arg(long, num_args = 1.., conflicts_with = "ci")]
    versions: Vec<String>,
    /// The versions that CI runs.
    #[arg(long)]
    ci: bool,
}

/// One row of the table.
#[derive(Debug)]
struct Row {
    version: String,
    cells: Vec<(String, &'static str)>,
    seconds: u64,
}

/// Records the golden frames anew.
pub(crate) fn capture(versions: &[String]) -> Result<()> {
    let all = ALL.map(str::to_owned);
    let versions = if versions.is_empty() { &all[..] } else { versions };
    for version in versions {
        jars::fetch(version)?;
    }
    let mut command = cargo();
    command.args(["run", "--quiet", "--package", "milena-testkit", "--example", "golden", "--"]);
    command.arg(root().join("crates/protocol/tests/data/golden")).args(versions);
    run(&mut command)?;
    run(cargo().args(["test", "--package", "milena-protocol", "--test", "golden"]))
}

/// Runs the tests of one version after the other; fails at the end if any failed.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    let versions: Vec<String> = match (args.ci, args.versions.is_empty()) {
        (true, _) => CI.map(str::to_owned).into(),
        (false, true) => ALL.map(str::to_owned).into(),
        (false, false) => args.versions.clone(),
    };
    // Built first, so that no broker waits for a compiler.
    run(cargo().args(LAUNCHER).arg("--no-run"))?;
    run(cargo().args(CLIENT).arg("--no-run"))?;
    run(cargo().args(FORMATS).arg("--no-run"))?;
    run(cargo().args(SITUATIONS).arg("--no-run"))?;
    one_by_one(versions, one)
}

/// Runs the tests of Kerberos on one version after the other; fails at the end if any failed.
pub(crate) fn kerberos(versions: &[String]) -> Result<()> {
    alone(
        &KERBEROS,
        if versions.is_empty() { KERBEROS_ON.map(str::to_owned).into() } else { versions.to_vec() },
    )
}

/// Runs the tests of secured brokers on one version after the other; fails at the end if any failed.
pub(crate) fn secured(versions: &[String]) -> Result<()> {
    alone(
        &SECURED,
        if versions.is_empty() { SECURED_ON.map(str::to_owned).into() } else { versions.to_vec() },
    )
}

/// Runs tests that start their own brokers.
fn alone(test: &[&str], versions: Vec<String>) -> Result<()> {
    run(cargo().args(test).arg("--no-run"))?;
    one_by_one(versions, |version| {
        jars::fetch(version)?;
        tests_of(cargo().args(test).args(["--", "--nocapture"]), version, None)
    })
}

/// The outcomes of each version as a table.
fn one_by_one(
    versions: Vec<String>,
    mut test: impl FnMut(&str) -> Result<Vec<(String, &'static str)>>,
) -> Result<()> {
    let mut rows = Vec::new();
    for version in versions {
        let began = Instant::now();
        let cells = test(&version).with_context(|| format!("Kafka {version}"))?;
        rows.push(Row { version, cells, seconds: began.elapsed().as_secs() });
    }
    println!("\n{}", table(&rows));
    let failed = rows.iter().flat_map(|row| &row.cells).filter(|(_, outcome)| *outcome != "ok").count();
    if failed > 0 {
        bail!("{failed} cells of the matrix are not ok");
    }
    Ok(())
}

fn one(version: &str) -> Result<Vec<(String, &'static str)>> {
    jars::fetch(version)?;
    let mut cells = Vec::new();
    // Only versions with a ZooKeeper have a test of that name: of the others, the launcher's own tests tell.
    let restarts = format!("kafka_{}_", version.replace('.', "_"));
    let mut command = cargo();
    command.args([
        "test",
        "--quiet",
        "--package",
        "milena-testkit",
        "--test",
        "old_kafka",
        "--",
        "--ignored",
    ]);
    let launcher = tests_of(command.arg(&restarts), version, None)?;
    cells.extend(launcher.into_iter().map(|(_, outcome)| ("kill and restart".to_owned(), outcome)));
    if version == KEEPS_OLD_FORMATS {
        let mut command = cargo();
        cells.extend(tests_of(command.args(FORMATS).args(["--", "--include-ignored"]), version, None)?);
    }
    let broker = Broker::start(version)?;
    let mut command = cargo();
    command.args(CLIENT).args(["--", "--include-ignored", "--nocapture"]);
    cells.extend(tests_of(&mut command, version, Some(broker.address()))?);
    if takes_situations(version) {
        let mut command = cargo();
        command.args(SITUATIONS).arg("--");
        cells.extend(tests_of(&mut command, version, Some(broker.address()))?);
    }
    Ok(cells)
}

/// Situations are about transactions, which begin with 0.11.
fn takes_situations(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(0), Some(11))
}

/// Commits past a dead leader, on these versions one after the other.
pub(crate) fn outage(versions: &[String]) -> Result<()> {
    let test = ["test", "--package", "milena-tests", "--test", "offline_partition"];
    run(cargo().args(test).arg("--no-run"))?;
    for version in versions {
        jars::fetch(version)?;
        let mut command = cargo();
        command.args(test).args(["--", "--include-ignored", "--nocapture"]);
        command
            .env("MILENA_KAFKA_VERSION", version)
            .env("MILENA_REQUIRE_KAFKA", "1")
            .env_remove("MILENA_BOOTSTRAP");
        run(&mut command).with_context(|| format!("Kafka {version}"))?;
    }
    Ok(())
}

/// Leaders of a cluster of three die in turn while records are written.
pub(crate) fn kill_leaders(rounds: u32, seconds: u32, version: &str) -> Result<()> {
    jars::fetch(version)?;
    let mut command = cargo();
    command.args(["test", "--package", "milena-tests", "--test", "leader_moves", "--", "--nocapture"]);
    command
        .arg("on_a_real_cluster_leaders_die")
        .env("MILENA_KILL_ROUNDS", rounds.to_string())
        .env("MILENA_KILL_SECONDS", seconds.to_string())
        .env("MILENA_KAFKA_VERSION", version)
        .env("MILENA_REQUIRE_KAFKA", "1");
    run(&mut command)
}

/// How the long proof is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Windowed {
    /// The version.
    #[arg(default_value = crate::NEWEST_KAFKA)]
    version: String,
    /// Records to count.
    #[arg(long, default_value_t = 10_000_000)]
    records: u64,
    /// How long processes and brokers are killed, and records written.
    #[arg(long, default_value_t = 900)]
    seconds: u64,
    /// What chance follows from; without it, another each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Built as tests are, without optimisation: for fewer records.
    #[arg(long)]
    unoptimised: bool,
}

/// Counts by window while everything is killed, and compares with a recomputation.
pub(crate) fn windowed(arguments: &Windowed) -> Result<()> {
    jars::fetch(&arguments.version)?;
    let mut command = cargo();
    command.args(["test", "--package", "milena-tests", "--test", "windowed"]);
    if !arguments.unoptimised {
        command.arg("--release");
    }
    let test = "windowed_counts_are_exact_while_processes_and_brokers_are_killed";
    command.args(["--", "--exact", test, "--include-ignored", "--nocapture"]);
    command
        .env("MILENA_KAFKA_VERSION", &arguments.version)
        .env("MILENA_KAFKA_ROUTE", "jvm")
        .env("MILENA_REQUIRE_KAFKA", "1")
        .env("MILENA_WINDOWED_RECORDS", arguments.records.to_string())
        .env("MILENA_WINDOWED_SECONDS", arguments.seconds.to_string())
        .env_remove("MILENA_BOOTSTRAP");
    if let Some(seed) = arguments.seed {
        command.env("MILENA_WINDOWED_SEED", seed.to_string());
    }
    run(&mut command)
}

/// Runs a test binary and reads how each of its tests ended.
fn tests_of(
    command: &mut Command,
    version: &str,
    bootstrap: Option<&str>,
) -> Result<Vec<(String, &'static str)>> {
    command.args(["--test-threads", "1", "--format", "pretty"]);
    command.env("MILENA_KAFKA_VERSION", version).env("MILENA_KAFKA_ROUTE", "jvm");
    command.env("MILENA_REQUIRE_KAFKA", "1").env_remove("MILENA_BOOTSTRAP");
    if let Some(bootstrap) = bootstrap {
        command.env("MILENA_BOOTSTRAP", bootstrap);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo test")?;
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    let outcomes = outcomes(&said);
    if !output.status.success() && outcomes.iter().all(|(_, outcome)| *outcome == "ok") {
        bail!("the tests ended with {}", output.status);
    }
    Ok(outcomes)
}

/// What libtest says of each test. With `--nocapture` a test's own output may stand between its name and its outcome.
fn outcomes(said: &str) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let mut pending: Option<String> = None;
    for line in said.lines() {
        let mut rest = line;
        if let Some((name, after)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            pending = Some(name.to_owned());
            rest = after;
        }
        let outcome = match rest.trim() {
            "ok" => "ok",
            "FAILED" => "FAILED",
            _ => continue,
        };
        if let Some(name) = pending.take() {
            found.push((name, outcome));
        }
    }
    found
}

fn table(rows: &[Row]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.cells) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let titles: Vec<String> = columns.iter().map(|name| name.replace('_', " ")).collect();
    let mut text =
        format!("| Kafka | {} | seconds |\n|---|{}---|\n", titles.join(" | "), "---|".repeat(titles.len()));
    for row in rows {
        let outcome = |column: &&str| {
            row.cells.iter().find(|(name, _)| name == column).map_or("-", |(_, outcome)| *outcome)
        };
        let outcomes: Vec<&str> = columns.iter().map(outcome).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} | {} | {} |", row.version, outcomes.join(" | "), row.seconds);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read_past_what_a_test_prints() {
        let said = "running 3 tests\ntest a ... ok\ntest b ... Kafka at 1\nmore\nok\ntest c ... FAILED\n\ntest result: FAILED. 2";
        let expected = [("a", "ok"), ("b", "ok"), ("c", "FAILED")];
        let found = outcomes(said);
        assert_eq!(
            found.iter().map(|(name, outcome)| (name.as_str(), *outcome)).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn situations_begin_with_0_11() {
        assert!(["0.11.0.3", "1.0.2", "2.8.2", "4.3.1"].into_iter().all(takes_situations));
        assert!(!["0.8.2.2", "0.10.2.2"].into_iter().any(takes_situations));
    }

    #[test]
    fn a_test_that_a_version_lacks_is_a_dash() {
        let row = |version: &str, cells: &[(&str, &'static str)]| Row {
            version: version.to_owned(),
            cells: cells.iter().map(|(name, outcome)| ((*name).to_owned(), *outcome)).collect(),
            seconds: 3,
        };
        let table = table(&[row("0.8.2.2", &[("a_b", "ok"), ("c", "FAILED")]), row("4.3.1", &[("c", "ok")])]);
        let expected = "| Kafka | a b | c | seconds |\n|---|---|---|---|\n\
                        | 0.8.2.2 | ok | FAILED | 3 |\n| 4.3.1 | - | ok | 3 |\n";
        assert_eq!(table, expected);
    }
}
