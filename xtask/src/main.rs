//! Chores of the workspace: one entry for real brokers, tests, fuzzing, benches and CI.
//!
//! `cargo xtask --help` lists them. Every chore prints the commands it runs, so that each can be run by hand.

mod bench;
mod chores;
mod command;
mod engine;
mod flink_hash;
mod fuzz;
mod gates;
mod image;
mod interop;
mod jars;
mod kafka;
mod matrix;
mod parity;
mod scenarios;
mod seeds;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The version of Kafka that commands use if none is named; the tests' default too.
const NEWEST_KAFKA: &str = "4.3.1";

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of milena", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Real Kafka for tests: jars, container image, container engine, a broker to play with.
    #[command(subcommand)]
    Kafka(KafkaChore),
    /// Write or check the guard's table of message shapes.
    Parity(parity::Args),
    /// Run the tests of the workspace; those that need a real Kafka find or start one.
    Test(TestArgs),
    /// Who reads what whom wrote: milena, Java and librdkafka on a real Kafka.
    Interop(interop::Args),
    /// Check the rules about dependencies (no runtime in the pure crates, no C, no newer Rust than declared) and the marks of
    /// scenarios in tests.
    Gates,
    /// Write docs/scenarios.md: which test shows which scenario.
    Scenarios(scenarios::Args),
    /// Run what CI runs.
    Ci,
    /// Build the fuzz targets and run each for a while.
    Fuzz(fuzz::FuzzArgs),
    /// Ask Flink's own classes which subtask reads which partition, and write the vectors of the connector's test. Needs a JDK and Maven.
    FlinkHash(flink_hash::Args),
    /// Run the tests of TLS against OpenSSL and Java with each cryptography: graviola, ring, aws-lc. The last two compile C.
    Tls,
    /// Run the micro benches; `bench peers` compares clients on a real broker.
    Bench(BenchArgs),
    /// The exactly-once demo with many crashes, on the embedded and on a real broker.
    DemoLong(DemoArgs),
    /// The simulations of producer and consumer in a world that breaks, for many seeds or for one.
    Sim(SimArgs),
    /// The model of a whole exactly-once job, walked at random.
    Model(ModelArgs),
}

#[derive(Debug, Subcommand)]
enum KafkaChore {
    /// Copy the jars of a version from Maven Central to $KAFKA_LIBS or ~/.cache/milena/kafka.
    Jars {
        /// The versions to fetch, such as 4.3.1 or 0.11.0.3.
        #[arg(default_value = NEWEST_KAFKA)]
        versions: Vec<String>,
    },
    /// Build the container image apache/kafka:VERSION from the jars, unless the engine has it.
    Image {
        /// The version, 3.7 or later.
        #[arg(default_value = NEWEST_KAFKA)]
        version: String,
        /// Build it even if the engine has an image of that name.
        #[arg(long)]
        force: bool,
    },
    /// Start a broker in the background and print its address.
    Start {
        /// The version.
        #[arg(default_value = NEWEST_KAFKA)]
        version: String,
        /// Keep every frame that clients send and get in this folder, a folder per connection (`milena frame` reads them).
        #[arg(long)]
        record: Option<PathBuf>,
    },
    /// Stop the brokers that `start` started, and remove containers that tests left behind.
    Stop {
        /// Only the broker at this address.
        address: Option<String>,
    },
    /// Talk to brokers in every version of every API, and keep the frames for the codec's tests. Changes tracked files.
    Capture {
        /// The versions; without any, all of those that are kept.
        versions: Vec<String>,
    },
    /// Start one version after the other and run the tests of old brokers and of the client on each; prints a table.
    Matrix(matrix::Args),
    /// Commit transactions past a dead leader on a cluster of three, and repair what hangs: minutes a version.
    Outage {
        /// The versions.
        #[arg(default_values_t = [NEWEST_KAFKA.to_owned(), "3.9.1".to_owned()])]
        versions: Vec<String>,
    },
    /// Kill leaders of a cluster of three in turn while records are written, and hold the log against what was acknowledged.
    KillLeaders {
        /// How many leaders are killed, one after the other.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// For how long records are written before each kill, and again, at the usual rate, while the broker is gone.
        #[arg(long, default_value_t = 5)]
        seconds: u32,
        /// The version.
        #[arg(long, default_value = NEWEST_KAFKA)]
        kafka: String,
    },
    /// Windowed counts on a cluster of three, while the job's processes and the brokers are killed at random.
    Windowed(matrix::Windowed),
    /// Run the tests of Kerberos on one version after the other, each with a KDC; prints a table.
    Kerberos {
        /// The versions; without any, one for each way of asking for SASL.
        versions: Vec<String>,
    },
    /// Run the tests of secured brokers on one version after the other: TLS, SASL and what becomes of the wrong; prints a table.
    Secured {
        /// The versions; without any, 0.10.2.2, 1.1.1, 2.8.2 and the newest.
        versions: Vec<String>,
    },
    /// Start a container engine for tests where none runs (root, needs dockerd), and print its address.
    EngineStart,
    /// Stop the container engine that `engine-start` started.
    EngineStop,
}

#[derive(Debug, Args)]
struct TestArgs {
    /// The Kafka version of the tests that need a real broker.
    #[arg(long, default_value = NEWEST_KAFKA)]
    kafka: String,
    /// Fail where a test would be skipped because no real Kafka can be started.
    #[arg(long)]
    require_kafka: bool,
    /// Only tests that talk to a real Kafka, and of those that hold on both brokers only that half.
    #[arg(long)]
    real_only: bool,
    /// Arguments for cargo test.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct BenchArgs {
    #[command(subcommand)]
    what: Option<BenchChore>,
    /// Run each bench once, to see that it works; then the comparison of clients on a few records.
    #[arg(long)]
    smoke: bool,
    /// Arguments for cargo bench.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum BenchChore {
    /// What a record costs with milena, with other clients, and at the least.
    Peers(bench::Args),
    /// The copy job beside Flink's own connector, on the same broker. Needs a JDK and Maven.
    Flink(bench::flink::Args),
    /// How much memory a consumer takes while it reads gigabytes.
    Backlog(bench::backlog::Args),
}

#[derive(Debug, Args)]
struct SimArgs {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed only.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Args)]
struct ModelArgs {
    /// How many walks; 1 tells its story.
    #[arg(long, default_value_t = 1_000_000)]
    walks: u64,
    /// The seed of the first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Records to copy.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Partitions of both topics.
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// How often the copying process is killed.
    #[arg(long, default_value_t = 20)]
    crashes: u32,
    /// The Kafka version of the run on a real broker.
    #[arg(long, default_value = NEWEST_KAFKA)]
    kafka: String,
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<()> {
    match chore {
        Chore::Kafka(KafkaChore::Jars { versions }) => {
            for version in versions {
                jars::fetch(&version)?;
            }
            Ok(())
        }
        Chore::Kafka(KafkaChore::Image { version, force }) => image::build(&version, force),
        Chore::Kafka(KafkaChore::Start { version, record }) => {
            println!("{}", kafka::start(&version, record.as_deref())?);
            Ok(())
        }
        Chore::Kafka(KafkaChore::Stop { address }) => kafka::stop(address.as_deref()),
        Chore::Kafka(KafkaChore::Capture { versions }) => matrix::capture(&versions),
        Chore::Kafka(KafkaChore::Matrix(arguments)) => matrix::run_all(&arguments),
        Chore::Kafka(KafkaChore::Outage { versions }) => matrix::outage(&versions),
        Chore::Kafka(KafkaChore::KillLeaders { rounds, seconds, kafka }) => {
            matrix::kill_leaders(rounds, seconds, &kafka)
        }
        Chore::Kafka(KafkaChore::Windowed(arguments)) => matrix::windowed(&arguments),
        Chore::Kafka(KafkaChore::Kerberos { versions }) => matrix::kerberos(&versions),
        Chore::Kafka(KafkaChore::Secured { versions }) => matrix::secured(&versions),
        Chore::Kafka(KafkaChore::EngineStart) => {
            println!("export DOCKER_HOST={}", engine::start()?);
            Ok(())
        }
        Chore::Kafka(KafkaChore::EngineStop) => engine::stop(),
        Chore::Parity(arguments) => parity::run(arguments),
        Chore::Test(TestArgs { kafka, require_kafka, real_only, arguments }) => {
            chores::test(&chores::TestRun { kafka: &kafka, require_kafka, real_only, arguments: &arguments })
        }
        Chore::Interop(arguments) => interop::matrix(&arguments),
        Chore::Gates => {
            gates::check()?;
            scenarios::check_marks()
        }
        Chore::Scenarios(arguments) => scenarios::run(&arguments),
        Chore::Ci => chores::ci(),
        Chore::FlinkHash(arguments) => flink_hash::run(&arguments),
        Chore::Tls => chores::tls(),
        Chore::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Chore::Bench(BenchArgs { what: Some(BenchChore::Peers(arguments)), .. }) => bench::peers(&arguments),
        Chore::Bench(BenchArgs { what: Some(BenchChore::Flink(arguments)), .. }) => {
            bench::flink::run(&arguments)
        }
        Chore::Bench(BenchArgs { what: Some(BenchChore::Backlog(arguments)), .. }) => {
            bench::backlog::run(&arguments)
        }
        Chore::Bench(BenchArgs { what: None, smoke, arguments }) => {
            chores::bench(smoke, &arguments)?;
            if smoke { bench::smoke() } else { Ok(()) }
        }
        Chore::Sim(SimArgs { seeds, from, seed }) => chores::sim(from, seeds, seed),
        Chore::Model(ModelArgs { walks, from }) => chores::model(from, walks),
        Chore::DemoLong(DemoArgs { records, partitions, crashes, kafka }) => {
            chores::demo_long(records, partitions, crashes, &kafka)
        }
    }
}
