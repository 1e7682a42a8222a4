//! The command line of `milena txn`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use milena::{Offset, TopicPartition};

use crate::args::{Cluster, duration};
use crate::offset::partition_offset;

const LIST_EXAMPLES: &str = "\
Examples:
  milena txn list -b localhost:9092
  milena txn list -b localhost:9092 --prefix orders-job --state Ongoing --older-than 5m
  milena txn list -b localhost:9092 --topic orders            who holds readers of this topic back
  milena txn list -b localhost:9092 --topic orders --hanging  only those that no coordinator will ever end

With --topic the leaders are asked (Kafka 2.8 or later), otherwise the coordinators (3.0 or later).";

const VERIFY_EXAMPLES: &str = "\
Examples:
  milena txn verify -b localhost:9092 --checkpoint-dir ./orders-job
  milena txn verify -b localhost:9092 --checkpoint-dir ./orders-job --checkpoint 17 --format json
  milena txn verify -b localhost:9092 --id job-0-1 --producer-id 4000 --epoch 7 --generation new --first orders/0=1200

Nothing is changed: the coordinators are asked and the logs are read. A checkpoint may be looked at while its job runs. The
command fails if a transaction is not committed.";

const FINISH_EXAMPLES: &str = "\
Examples:
  milena txn finish -b localhost:9092 --checkpoint-dir ./orders-job             what would be done
  milena txn finish -b localhost:9092 --checkpoint-dir ./orders-job --execute   do it

Commits what a checkpoint promised, as the next start of its job would. Where the coordinator has decided and a partition still holds
the transaction open (Kafka 4.3 can leave it so when a partition had no leader), the missing commit marker is written: Kafka's own
tool can only abort there, which loses committed records. That takes the right for CLUSTER_ACTION.";

const ABORT_EXAMPLES: &str = "\
Examples:
  milena txn abort -b localhost:9092 orders-job-0-1                        what would be done
  milena txn abort -b localhost:9092 orders-job-0-1 --execute              do it
  milena txn abort -b localhost:9092 --prefix orders-job --checkpoint-dir ./orders-job --execute
                                        all that a dead job left open, but not what its checkpoint promises
  milena txn abort -b localhost:9092 --hanging orders/3=1200 --execute     one that no coordinator knows: its records are lost

With --prefix only ids of the form PREFIX-SUBTASK-NUMBER are the job's.";

/// `milena txn`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Txn {
    #[command(subcommand)]
    pub(crate) action: TxnAction,
}

/// What to do with transactions.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TxnAction {
    /// List transactions: by their ids, or by the partitions they hold open.
    List(List),
    /// Show what the coordinators know of transactional ids.
    Describe {
        #[command(flatten)]
        cluster: Cluster,
        /// The transactional ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Find out what became of prepared transactions, without changing anything.
    Verify(Verify),
    /// Commit prepared transactions, and repair those that hang. Without --execute: only show what would be done.
    Finish(Finish),
    /// Abort open transactions. Without --execute: only show what would be done.
    Abort(Abort),
}

/// `milena txn list`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = LIST_EXAMPLES)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Only ids that begin with this.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// Only in this state, as Kafka names it, such as Ongoing or PrepareCommit; again for more.
    #[arg(long = "state", value_name = "STATE", conflicts_with = "topic")]
    pub(crate) states: Vec<String>,
    /// Only open ones that began longer ago than this.
    #[arg(long, value_parser = duration, value_name = "TIME", conflicts_with = "topic")]
    pub(crate) older_than: Option<Duration>,
    /// Those that are open in partitions of this topic; again for more.
    #[arg(long = "topic", short = 't', value_name = "TOPIC")]
    pub(crate) topic: Vec<String>,
    /// Only those that no coordinator holds open any more.
    #[arg(long, requires = "topic")]
    pub(crate) hanging: bool,
}

/// How a transaction was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generation {
    /// Under transaction.version 0 or 1.
    Old,
    /// Under transaction.version 2 (KIP-890).
    New,
}

/// Which prepared transactions: those of a checkpoint, or one by hand.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Those that a checkpoint in this directory promises.
    #[arg(long, value_name = "DIR", conflicts_with = "id", required_unless_present = "id")]
    pub(crate) checkpoint_dir: Option<PathBuf>,
    /// Which checkpoint; the newest without it.
    #[arg(long, value_name = "N", requires = "checkpoint_dir")]
    pub(crate) checkpoint: Option<u64>,
    /// One transaction: its transactional id, with the four options that follow.
    #[arg(long, value_name = "ID", requires_all = ["producer_id", "epoch", "generation", "first"])]
    pub(crate) id: Option<String>,
    /// Its producer id.
    #[arg(long, value_name = "N", requires = "id")]
    pub(crate) producer_id: Option<i64>,
    /// The epoch it was written with.
    #[arg(long, value_name = "N", requires = "id")]
    pub(crate) epoch: Option<i16>,
    /// How it was written. Ending it the other way can report another transaction's outcome.
    #[arg(long, value_enum, requires = "id")]
    pub(crate) generation: Option<Generation>,
    /// The offset of its first record in each partition.
    #[arg(long, value_name = "TOPIC/PARTITION=OFFSET", value_delimiter = ',', value_parser = partition_offset, requires = "id")]
    pub(crate) first: Vec<(TopicPartition, Offset)>,
}

/// `milena txn verify`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = VERIFY_EXAMPLES)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(flatten)]
    pub(crate) which: Which,
}

/// `milena txn finish`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = FINISH_EXAMPLES)]
pub(crate) struct Finish {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Do it.
    #[arg(long)]
    pub(crate) execute: bool,
    /// Write commit markers also where the coordinator is not known to have decided for the commit.
    #[arg(long, requires = "execute")]
    pub(crate) force: bool,
    /// How long to wait for markers before a transaction counts as hanging.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) patience: Duration,
}

/// `milena txn abort`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = ABORT_EXAMPLES)]
pub(crate) struct Abort {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// The transactional ids.
    #[arg(value_name = "ID", required_unless_present_any = ["prefix", "hanging"], conflicts_with_all = ["prefix", "hanging"])]
    pub(crate) ids: Vec<String>,
    /// All that a job with this prefix left open.
    #[arg(long, value_name = "PREFIX", conflicts_with = "hanging")]
    pub(crate) prefix: Option<String>,
    /// Leave alone what the newest checkpoint in this directory promises to commit. The job must not run.
    #[arg(long, value_name = "DIR", requires = "prefix")]
    pub(crate) checkpoint_dir: Option<PathBuf>,
    /// The transaction that a partition holds open from this offset on, behind the coordinator's back: for those that hang.
    #[arg(long, value_name = "TOPIC/PARTITION=OFFSET", value_parser = partition_offset)]
    pub(crate) hanging: Option<(TopicPartition, Offset)>,
    /// Do it.
    #[arg(long)]
    pub(crate) execute: bool,
}
