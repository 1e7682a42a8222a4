//! `milena state`: checkpoints as people read them, and states of Flink jobs.

mod import;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::{Global, duration};

const IMPORT_EXAMPLES: &str = "\
Examples:
  milena state import --dir ./ckpt --job orders --json state.json
  milena state import --dir ./ckpt --job orders --flink-enumerator enum.bin --flink-split splits.bin
  milena state import --dir ./ckpt --job orders --flink-classic-source offsets.hex --hex --dry-run

docs/migrating-from-flink.md shows how the files are taken out of a savepoint. The job that restores from the directory must have
the same name; what it reads and where it stops is its own configuration.";

/// `milena state`.
#[derive(Debug, Clone, Args)]
pub(crate) struct State {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with a state.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Action {
    /// Show a checkpoint: positions, watermark, transactions.
    Show(Which),
    /// Print a checkpoint as a JSON document that `import` reads.
    Export {
        #[command(flatten)]
        which: Which,
        /// Write to this file instead of standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a checkpoint of a JSON document or of a Flink job's state.
    Import(Import),
}

/// Which checkpoint.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// A checkpoint directory, or one checkpoint file.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The number of the checkpoint; the newest if not given.
    #[arg(long, value_name = "N")]
    pub(crate) checkpoint: Option<u64>,
}

/// What a start "at the end" becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LatestArg {
    /// The import fails.
    Refuse,
    /// The first offset there is.
    Earliest,
    /// The end when the job starts: what was written since the savepoint is passed over.
    Latest,
}

/// `milena state import`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = IMPORT_EXAMPLES)]
pub(crate) struct Import {
    /// The checkpoint directory to write; it is made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The name of the job that will restore.
    #[arg(long, default_value = "job")]
    pub(crate) job: String,
    /// A JSON document, as `export` writes it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["splits", "enumerators", "classic_sources", "committables", "classic_sinks"])]
    pub(crate) json: Option<PathBuf>,
    /// Splits of a KafkaSource's readers, each behind its version and length; can be repeated.
    #[arg(long = "flink-split", value_name = "FILE")]
    pub(crate) splits: Vec<PathBuf>,
    /// The enumerator's state of a KafkaSource, behind its version and length.
    #[arg(long = "flink-enumerator", value_name = "FILE")]
    pub(crate) enumerators: Vec<PathBuf>,
    /// Elements of `topic-partition-offset-states` of a FlinkKafkaConsumer; can be repeated.
    #[arg(long = "flink-classic-source", value_name = "FILE")]
    pub(crate) classic_sources: Vec<PathBuf>,
    /// Committables of a KafkaSink, each behind its version and length; can be repeated.
    #[arg(long = "flink-committable", value_name = "FILE")]
    pub(crate) committables: Vec<PathBuf>,
    /// An element of the two-phase commit state of a FlinkKafkaProducer; can be repeated.
    #[arg(long = "flink-classic-sink", value_name = "FILE")]
    pub(crate) classic_sinks: Vec<PathBuf>,
    /// The files hold hexadecimal digits instead of bytes.
    #[arg(long)]
    pub(crate) hex: bool,
    /// States are not behind version and length, but have this version.
    #[arg(long, value_name = "N")]
    pub(crate) state_version: Option<i32>,
    /// What becomes of a partition whose start is "at the end".
    #[arg(long, value_enum, default_value_t = LatestArg::Refuse)]
    pub(crate) latest: LatestArg,
    /// The transactional id prefix of the sink that wrote the transactions.
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// The generation of imported transactions: 1, or 2 if brokers and client had transaction version 2 (Kafka 4).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) generation: u8,
    /// The time-out of imported transactions.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub(crate) transaction_timeout: Duration,
    /// Show what would be written, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write behind the checkpoints that the directory has.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Runs the command.
pub(crate) fn run(global: &Global, state: State) -> anyhow::Result<()> {
    match state.action {
        Action::Show(which) => show::show(global, &which),
        Action::Export { which, output } => show::export(&which, output.as_deref()),
        Action::Import(import) => import::run(global, &import),
    }
}
