//! The command line: flags, their meaning and their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use milena::protocol::guard::response_message;
use milena::protocol::versions::api_name;

use crate::commands::txn::args::Txn;
use crate::offset::{OffsetArg, StartArg};

const DEMO_EXAMPLES: &str = "\
Examples:
  milena demo                                      on an embedded broker
  milena demo --seed 7 --crashes 20                the same data and moments each time
  milena demo --bootstrap localhost:9092           on your cluster, in two topics of its own";

const COPY_EXAMPLES: &str = "\
Examples:
  milena copy -b localhost:9092 --from orders --to orders-copy
  milena copy -b localhost:9092 --from '/orders-.*/' --to all-orders --checkpoint-dir ./all-orders
  milena copy -b localhost:9092 --from orders --to sample --delivery none --start latest
  milena copy -b localhost:9092 --from orders --to again --start offsets:orders/0=100,orders/1=250 --until-end
  milena copy -b localhost:9092 --from orders --to saved --until-end -X check.crcs=false -X compression.type=zstd

Properties (-X, -F) of a producer are taken for what is written. For what is read: check.crcs, client.rack, isolation.level (read_committed
by default), max.partition.fetch.bytes and fetch.*.

The output topic needs as many partitions as the input: records keep theirs. Ctrl-C stops with a last checkpoint.";

const PRODUCE_EXAMPLES: &str = "\
Examples:
  echo hello | milena produce -b localhost:9092 -t greetings
  printf 'k1:hello\\nk2:world\\n' | milena produce -b localhost:9092 -t greetings -K : -H source=shell -z zstd
  milena produce -b localhost:9092 -t logs -X linger.ms=50 < app.log";

const CONSUME_EXAMPLES: &str = "\
Examples:
  milena consume -b localhost:9092 -t greetings -e
  milena consume -b localhost:9092 -t greetings -o -10 -e -J
  milena consume -b localhost:9092 -t greetings -p 0 -o @2026-01-31T12:00:00Z -c 100
  milena consume -b localhost:9092 -t greetings -f '%p/%o %T %k=%s (%h)\\n'";

const FRAME_EXAMPLES: &str = "\
Examples:
  milena frame 0012 0004 0000 0001 0003 666f6f 00 01 01 00          a request, in hexadecimal
  milena frame --api Metadata --version 12 - < answer.hex           a response, from standard input
  milena frame --requests to-broker.bin --responses from-broker.bin what went over a connection
  milena frame --requests frames/ --responses frames/ --format json a folder of one frame a file

A raw file holds what went one way over a connection: frames behind their lengths, one after another. Responses are
told by the request of the same correlation id. The command fails if anything in the frames is malformed.";

const RECORDS_EXAMPLES: &str = "\
Examples:
  milena records /var/lib/kafka/orders-0/00000000000000000000.log
  milena records /var/lib/kafka/orders-0 --headers-only
  milena records /var/lib/kafka/orders-0 --verify
  milena records segment.log --from-offset 1200 -J

A log that a broker is writing may end in a partial batch, and in zeros if it was preallocated: neither is a fault.";

/// Kafka from the shell: produce, consume, copy exactly once, look around.
#[derive(Debug, Parser)]
#[command(name = "milena", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// How results are printed on standard output.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// How long one request to the cluster may take in all, retries included.
    #[arg(long, global = true, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
    /// Log more on standard error: -v, -vv. `RUST_LOG` is honoured too.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document, or one per line for streams.
    Json,
}

/// Which cluster, and how to talk to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Cluster {
    /// Addresses of some brokers, separated by commas.
    #[arg(short = 'b', long = "bootstrap", value_name = "HOST:PORT,…", required = true)]
    pub(crate) bootstrap: String,
    /// A client property by Kafka's name, such as `request.timeout.ms=10000`.
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) properties: Vec<(String, String)>,
    /// A properties file with more of them, such as Java's `client.properties`; -X comes after it. Passwords belong there: the
    /// command line can be seen by everyone on the machine.
    #[arg(short = 'F', long = "config-file", value_name = "FILE")]
    pub(crate) config: Option<std::path::PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show exactly-once at work: a job killed again and again, its output compared record by record.
    Demo(Demo),
    /// Copy topics to a topic, going on where the last run stopped.
    Copy(Copy),
    /// Produce lines from standard input.
    Produce(Produce),
    /// Consume records and print them.
    Consume(Consume),
    /// List, describe, create and delete topics.
    Topics(Topics),
    /// Show the offsets of a topic's partitions, and a group's lag.
    Offsets(Offsets),
    /// Look at transactions, finish what a checkpoint promised, abort what was left open.
    Txn(Txn),
    /// Show which versions of which requests each broker speaks.
    ApiVersions(ApiVersions),
    /// Show requests and responses field by field, from their bytes.
    Frame(Frame),
    /// Show the batches and records in log files of a broker.
    Records(Records),
    /// Show, export and import checkpoints; take over the state of a Flink job.
    State(crate::commands::state::State),
    /// Run the embedded broker, for tests and trials; it keeps records in memory only.
    Broker(Broker),
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// One life of the demo's job.
    #[command(hide = true)]
    DemoWorker(DemoWorker),
}

/// `milena demo`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = DEMO_EXAMPLES)]
pub(crate) struct Demo {
    /// A real cluster; without it an embedded broker is started.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) bootstrap: Option<String>,
    /// How many records go through the job.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: u64,
    /// Partitions of the input and of the output topic.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) partitions: u32,
    /// Most subtasks of the job; each life runs with another number of them, up to this.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) parallelism: u32,
    /// How often the job is killed with SIGKILL.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) crashes: u32,
    /// Seed of the data and of the moments of the kills; random if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Time between the job's checkpoints.
    #[arg(long, default_value = "200ms", value_parser = duration, value_name = "TIME")]
    pub(crate) checkpoint_interval: Duration,
    /// Leave the topics and the checkpoint directory behind, and print where they are.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// One life of the demo's job.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoWorker {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[arg(long)]
    pub(crate) from: String,
    #[arg(long)]
    pub(crate) to: String,
    #[arg(long)]
    pub(crate) prefix: String,
    #[arg(long)]
    pub(crate) group: String,
    #[arg(long)]
    pub(crate) checkpoint_dir: PathBuf,
    #[arg(long, value_parser = duration)]
    pub(crate) checkpoint_interval: Duration,
    #[arg(long)]
    pub(crate) parallelism: u32,
    /// End when the input that exists at the start is copied.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Kill this process at a step of the sink: `STEP` or `STEP:N` for its N-th time.
    #[arg(long, value_name = "STEP[:N]")]
    pub(crate) crash_at: Option<String>,
}

/// How records are delivered to the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeliveryArg {
    /// In transactions tied to the checkpoints: each record once.
    ExactlyOnce,
    /// Flushed at each checkpoint: no record lost, some may come twice after a crash.
    AtLeastOnce,
    /// As fast as possible, without any promise.
    None,
}

/// `milena copy`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = COPY_EXAMPLES)]
pub(crate) struct Copy {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Topics separated by commas, or /REGEX/ for every topic whose whole name matches.
    #[arg(long, value_name = "TOPIC,…|/REGEX/")]
    pub(crate) from: String,
    /// The topic to write.
    #[arg(long, value_name = "TOPIC")]
    pub(crate) to: String,
    /// The promise of the copy.
    #[arg(long, value_enum, default_value_t = DeliveryArg::ExactlyOnce)]
    pub(crate) delivery: DeliveryArg,
    /// Start of the names of this job's transactions; no other job on the cluster may use it.
    /// Default: `milena-copy-` and the output topic.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) transactional_id_prefix: Option<String>,
    /// Where checkpoints are kept; started again with it, the copy goes on where it was.
    /// Default with exactly-once: `milena-copy-TOPIC` in the current directory. Without exactly-once
    /// there is no default: the copy then begins at --start each time.
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint_dir: Option<PathBuf>,
    /// Time between checkpoints; with exactly-once, records become visible at each.
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(crate) checkpoint_interval: Duration,
    /// Number of subtasks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) parallelism: u32,
    /// Group under which progress is committed, for lag tools and for `--start committed`.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Where to begin without a checkpoint: `earliest`, `latest`, `committed`, `timestamp:MS` or
    /// `timestamp:RFC3339`, `offsets:TOPIC/PARTITION=OFFSET,…`.
    #[arg(long, default_value = "earliest")]
    pub(crate) start: StartArg,
    /// Stop when everything that exists now is copied.
    #[arg(long)]
    pub(crate) until_end: bool,
    /// How often new topics and partitions are looked for.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(crate) discovery_interval: Duration,
    /// Longest life of one transaction; the broker's limit (15 min by default) must allow it.
    #[arg(long, default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub(crate) transaction_timeout: Duration,
}

/// `milena produce`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = PRODUCE_EXAMPLES)]
pub(crate) struct Produce {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// The topic.
    #[arg(short = 't', long)]
    pub(crate) topic: String,
    /// The partition; without it the key decides, or batches take turns.
    #[arg(short = 'p', long, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// One key for every record.
    #[arg(short = 'k', long, conflicts_with = "key_separator")]
    pub(crate) key: Option<String>,
    /// Each line is KEY SEP VALUE.
    #[arg(short = 'K', long, value_name = "SEP")]
    pub(crate) key_separator: Option<String>,
    /// A header for every record; again for more. NAME without a value is a header with a null value.
    #[arg(short = 'H', long = "header", value_name = "NAME[=VALUE]", value_parser = header)]
    pub(crate) headers: Vec<(String, Option<String>)>,
    /// Compression: none, gzip, snappy, lz4, zstd.
    #[arg(short = 'z', long, default_value = "none")]
    pub(crate) compression: String,
    /// What ends a record on standard input.
    #[arg(short = 'D', long, default_value = "\\n")]
    pub(crate) delimiter: String,
    /// Send empty keys and values as null.
    #[arg(short = 'Z', long)]
    pub(crate) null: bool,
}

/// `milena consume`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = CONSUME_EXAMPLES)]
pub(crate) struct Consume {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// The topic.
    #[arg(short = 't', long)]
    pub(crate) topic: String,
    /// The partition; all without it.
    #[arg(short = 'p', long, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// Where to begin: `beginning`, `end`, an offset N, the last N records of each partition with -N, or
    /// `@TIMESTAMP` in milliseconds or RFC 3339.
    #[arg(short = 'o', long, default_value = "beginning", allow_hyphen_values = true)]
    pub(crate) offset: OffsetArg,
    /// Stop at the end of the partitions.
    #[arg(short = 'e', long)]
    pub(crate) exit_at_end: bool,
    /// Stop after this many records.
    #[arg(short = 'c', long)]
    pub(crate) count: Option<u64>,
    /// One JSON object per record.
    #[arg(short = 'J', long, conflicts_with = "template")]
    pub(crate) json: bool,
    /// A template: %s value, %S its length, %R its length as 4 bytes, %k key, %K its length, %t topic,
    /// %p partition, %o offset, %T timestamp, %h headers, %% a percent sign; \n \r \t \xHH.
    #[arg(short = 'f', long = "template", value_name = "FORMAT")]
    pub(crate) template: Option<String>,
    /// What is printed after each record without -J and -f.
    #[arg(short = 'D', long, default_value = "\\n")]
    pub(crate) delimiter: String,
    /// Print null keys and values as NULL.
    #[arg(short = 'Z', long)]
    pub(crate) null: bool,
    /// Also see records of open and aborted transactions.
    #[arg(long)]
    pub(crate) read_uncommitted: bool,
}

/// `milena topics`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Topics {
    #[command(subcommand)]
    pub(crate) action: TopicsAction,
}

/// What to do with topics.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TopicsAction {
    /// List the topics.
    List {
        #[command(flatten)]
        cluster: Cluster,
        /// Kafka's own topics too.
        #[arg(long)]
        internal: bool,
    },
    /// Show partitions, leaders and replicas.
    Describe {
        #[command(flatten)]
        cluster: Cluster,
        /// The topics.
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Create topics.
    Create {
        #[command(flatten)]
        cluster: Cluster,
        /// The topics.
        #[arg(required = true)]
        topics: Vec<String>,
        /// Number of partitions; the broker's default without it.
        #[arg(short = 'p', long)]
        partitions: Option<i32>,
        /// Number of replicas; the broker's default without it.
        #[arg(short = 'r', long)]
        replication: Option<i16>,
        /// A topic property; again for more.
        #[arg(short = 'c', long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
        configs: Vec<(String, String)>,
    },
    /// Delete topics and their records.
    Delete {
        #[command(flatten)]
        cluster: Cluster,
        /// The topics.
        #[arg(required = true)]
        topics: Vec<String>,
    },
}

/// `milena offsets`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Offsets {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// The topic.
    #[arg(short = 't', long)]
    pub(crate) topic: String,
    /// The partition; all without it.
    #[arg(short = 'p', long, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: Option<i32>,
    /// Also the first offset at or after this time (milliseconds or RFC 3339).
    #[arg(long, value_name = "TIMESTAMP")]
    pub(crate) at: Option<String>,
    /// Also what this group has committed, and how far it lags.
    #[arg(short = 'g', long)]
    pub(crate) group: Option<String>,
    /// End offsets as read-committed readers see them.
    #[arg(long)]
    pub(crate) read_committed: bool,
}

/// `milena api-versions`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApiVersions {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// `milena frame`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = FRAME_EXAMPLES)]
pub(crate) struct Frame {
    /// Frames in hexadecimal, with or without their length; spaces, colons, commas and 0x are passed over.
    /// `-` reads more of it from standard input.
    #[arg(value_name = "HEX", conflicts_with_all = ["file", "requests", "responses"])]
    pub(crate) hex: Vec<String>,
    /// Raw bytes of one direction of a connection: requests, or responses if --api says to what.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["requests", "responses"])]
    pub(crate) file: Option<PathBuf>,
    /// Requests: a raw file, or a folder of one frame a file.
    #[arg(long, value_name = "PATH")]
    pub(crate) requests: Option<PathBuf>,
    /// Responses: a raw file, or a folder of one frame a file.
    #[arg(long, value_name = "PATH")]
    pub(crate) responses: Option<PathBuf>,
    /// What is given are responses of this API, by its name or its key.
    #[arg(long, value_name = "API", value_parser = api_key, requires = "api_version", conflicts_with = "requests")]
    pub(crate) api: Option<i16>,
    /// The version of these responses.
    #[arg(long = "version", id = "api_version", value_name = "N", requires = "api")]
    pub(crate) version: Option<i16>,
    /// Cut longer keys, values and byte fields; in text 64 bytes without it.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<usize>,
    /// Do not open record data.
    #[arg(long)]
    pub(crate) no_records: bool,
    /// Where each field stands in its frame, and how many bytes it takes.
    #[arg(long)]
    pub(crate) offsets: bool,
    /// One JSON object per frame.
    #[arg(short = 'J', long)]
    pub(crate) json: bool,
    /// List the APIs and versions that can be shown.
    #[arg(long, exclusive = true)]
    pub(crate) apis: bool,
}

/// `milena records`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = RECORDS_EXAMPLES)]
pub(crate) struct Records {
    /// Log files, or folders of them.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Show batches, and not their records.
    #[arg(long, visible_alias = "batches", conflicts_with = "verify")]
    pub(crate) headers_only: bool,
    /// Only check everything, records too; the command fails if anything is damaged.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Begin with the record of this offset.
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) from_offset: Option<i64>,
    /// Cut longer keys and values; in text 64 bytes without it.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<usize>,
    /// One JSON object per batch.
    #[arg(short = 'J', long)]
    pub(crate) json: bool,
}

/// `milena broker`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Broker {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub(crate) listen: SocketAddr,
    /// The host that clients are told to connect to; the address of --listen without it.
    #[arg(long, value_name = "HOST")]
    pub(crate) advertise: Option<String>,
    /// Partitions of topics that are created on first use.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) partitions: i32,
    /// Refuse topics that nobody has created.
    #[arg(long)]
    pub(crate) no_auto_create: bool,
    /// Transaction protocol: 1, or 2 (KIP-890).
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) transaction_version: u8,
}

/// `500ms`, `1s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 500ms, 10s or 5m"))?;
    if parsed.is_zero() { Err("must be more than zero".into()) } else { Ok(parsed) }
}

/// An API by its name in any case, or by its key.
fn api_key(text: &str) -> Result<i16, String> {
    let known = |key: &i16| response_message(*key).is_some();
    let found = match text.parse::<i16>() {
        Ok(key) => Some(key).filter(known),
        Err(_) => (0..=i16::MAX).filter(known).find(|key| api_name(*key).eq_ignore_ascii_case(text)),
    };
    found.ok_or_else(|| format!("`{text}` is no API; `milena frame --apis` lists them"))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

fn header(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if name.is_empty() {
        return Err(format!("`{text}` has no name"));
    }
    Ok((name.to_owned(), value.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn relative_offsets_are_not_taken_for_flags() {
        let cli =
            Cli::try_parse_from(["milena", "consume", "-b", "h:1", "-t", "t", "-o", "-5", "-e"]).unwrap();
        let Command::Consume(consume) = cli.command else { panic!("wrong command") };
        assert_eq!(consume.offset, OffsetArg::Last(5));
        assert!(consume.exit_at_end);
    }

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(duration("5").is_err());
        assert!(duration("0s").is_err());
    }
}
