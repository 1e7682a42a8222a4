//! Whether a host keeps to the [`contract`](crate::contract): a suite of jobs that it runs on a real cluster, or on an embedded broker. And
//! whether a storage of checkpoints keeps to its own: [`check_storage`].
//!
//! A host runs [`Life`]s: one run each of a job from topic to topic, over one directory of state, to an end that the suite asks for. The
//! suite looks at what is on the brokers: records that readers of committed records see, the group's offsets, open transactions; and, through
//! a source and a sink that watch, at the order of the host's calls. What functions are told, one of them writes down.
//!
//! ```no_run
//! use milena::ClientConfig;
//! use milena_connector::conformance::{Embedded, Suite};
//!
//! # async fn example() -> Result<(), milena_connector::conformance::Failure> {
//! let suite = Suite::new(ClientConfig::new(["localhost:9092"]), "conformance-of-today");
//! for case in suite.run(&Embedded).await? {
//!     println!("{case}");
//! }
//! # Ok(())
//! # }
//! ```

mod embedded;
mod stand;
mod storage;
mod timed;
mod watched;
mod witness;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use milena::ClientConfig;

pub use embedded::Embedded;
pub use storage::check_storage;

use crate::contract::{Sink, Source};
use crate::runtime::Chain;
use crate::schema::OwnedKafkaRecord;
use crate::sink::Delivery;
use stand::Stand;

/// What runs jobs: a dataflow engine with its adapters, or a runtime.
pub trait Host: Send + Sync {
    /// Runs a life until it ends as it is asked to. An error of a part is the life's error.
    fn live<S, C, K>(&self, life: Life<S, C, K>) -> impl Future<Output = crate::Result<Lived>> + Send
    where
        S: Source<Element = OwnedKafkaRecord>,
        C: Chain<OwnedKafkaRecord, Out = OwnedKafkaRecord>,
        K: Sink<OwnedKafkaRecord>;
}

/// One run of a job that puts elements from its source through functions into its sink.
#[derive(Debug)]
pub struct Life<S, C, K> {
    /// What to read.
    pub source: S,
    /// What is between: each subtask has a clone.
    pub functions: C,
    /// Where to write.
    pub sink: K,
    /// How many subtasks.
    pub parallelism: u32,
    /// Where the host keeps the job's state. If there is any, of an earlier life of the same job, this life goes on from the newest.
    pub dir: PathBuf,
    /// A folder with a savepoint, to go on from it instead.
    pub from: Option<PathBuf>,
    /// A folder to which the last checkpoint of this life is written as well.
    pub savepoint: Option<PathBuf>,
    /// How often a checkpoint is taken.
    pub interval: Duration,
    /// How it ends.
    pub end: End,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When the bounded source is read, with a last checkpoint.
    Finished,
    /// With a last checkpoint, once at least so many records were read in this life, or the source is read.
    StopAfter(u64),
    /// As if killed, when this moment comes for the first time in this life. Nothing is flushed, aborted, committed or tidied up.
    CrashAt(Moment),
}

/// A moment in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Transactions are prepared, the checkpoint is not yet durable.
    Prepared,
    /// The checkpoint is durable, nothing is committed.
    Durable,
    /// A transaction is committed, readers are not told.
    Committed,
}

impl Moment {
    const ALL: [Self; 3] = [Self::Prepared, Self::Durable, Self::Committed];
}

/// How a life went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lived {
    /// Records read.
    pub records_in: u64,
    /// Whether it crashed as it was asked to.
    pub crashed: bool,
}

/// Where a host and the contract part.
#[derive(Debug)]
pub struct Failure {
    /// The case.
    pub case: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.what)
    }
}

impl std::error::Error for Failure {}

/// The suite, for one cluster.
#[derive(Clone, Debug)]
pub struct Suite {
    client: ClientConfig,
    name: String,
    records: u64,
    patience: Duration,
}

/// What a case expects of its lives and of the cluster.
type Checked = std::result::Result<(), String>;

impl Suite {
    /// A suite that makes topics, groups and transactions whose names begin with `name`: another for each run.
    #[must_use]
    pub fn new(client: ClientConfig, name: impl Into<String>) -> Self {
        Self { client, name: name.into(), records: 1200, patience: Duration::from_secs(30) }
    }

    /// How many records each case copies. Default 1200.
    #[must_use]
    pub fn records(mut self, records: u64) -> Self {
        self.records = records;
        self
    }

    /// How long what must come may take: commit markers, timers. Default 30 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs all cases, one after the other, and returns their names. Topics are removed after each case that holds.
    ///
    /// # Errors
    /// The first case that does not hold, with what is wrong.
    ///
    /// # Cancellation
    /// Topics may be left behind.
    pub async fn run(&self, host: &impl Host) -> std::result::Result<Vec<&'static str>, Failure> {
        let mut passed = Vec::new();
        for case in [
            "a bounded job",
            "a stop",
            "an error",
            "at least once",
            "a savepoint",
            "functions with state",
            "event time",
        ] {
            let stand = self.stand(case, passed.len()).await?;
            let checked = match case {
                "a bounded job" => bounded(&stand, host).await,
                "a stop" => stopped(&stand, host).await,
                "an error" => failed(&stand, host).await,
                "a savepoint" => savepoint(&stand, host).await,
                "functions with state" => timed::functions(&stand, host).await,
                "event time" => timed::event_time(&stand, host).await,
                _ => at_least_once(&stand, host).await,
            };
            passed.push(finish(case, &stand, checked).await?);
        }
        for moment in Moment::ALL {
            let case = match moment {
                Moment::Prepared => "a crash before the checkpoint is durable",
                Moment::Durable => "a crash before the commits",
                Moment::Committed => "a crash after a commit",
            };
            let stand = self.stand(case, passed.len()).await?;
            let checked = crashed(&stand, host, moment).await;
            passed.push(finish(case, &stand, checked).await?);
        }
        Ok(passed)
    }

    async fn stand(&self, case: &'static str, number: usize) -> std::result::Result<Stand, Failure> {
        let name = format!("{}-{number}", self.name);
        let stand = Stand::new(self.client.clone(), name, self.records).await;
        let mut stand = stand.map_err(|what| Failure { case, what })?;
        stand.patience = self.patience;
        if !timed::CASES.contains(&case) {
            stand.fill().await.map_err(|what| Failure { case, what })?;
        }
        Ok(stand)
    }
}

async fn finish(
    case: &'static str,
    stand: &Stand,
    checked: Checked,
) -> std::result::Result<&'static str, Failure> {
    checked.map_err(|what| Failure { case, what })?;
    stand.clear().await;
    Ok(case)
}

/// Each record once and in order, the group's offsets at the end, nothing open; nothing more by another life.
async fn bounded(stand: &Stand, host: &impl Host) -> Checked {
    let lived = stand.live(host, Delivery::ExactlyOnce, 2, End::Finished).await?;
    stand::must(lived.records_in == stand.records, || format!("{} records were read", lived.records_in))?;
    stand.check_exact().await?;
    stand.check_offsets().await?;
    let again = stand.live(host, Delivery::ExactlyOnce, 3, End::Finished).await?;
    stand::must(again.records_in == 0, || format!("{} records were read again", again.records_in))?;
    stand.check_exact().await
}

/// A stop leaves nothing to be read or written again.
async fn stopped(stand: &Stand, host: &impl Host) -> Checked {
    let first = stand.live(host, Delivery::ExactlyOnce, 3, End::StopAfter(stand.records / 4)).await?;
    let visible = stand.visible().await?;
    stand::must(visible == first.records_in, || {
        format!("{} records were read before the stop, and {visible} are visible after it", first.records_in)
    })?;
    let rest = stand.live(host, Delivery::ExactlyOnce, 1, End::Finished).await?;
    let sum = first.records_in + rest.records_in;
    stand::must(sum == stand.records, || format!("{sum} records were read in two lives"))?;
    stand.check_exact().await
}

/// What can't be written is the life's error, and what was written of it is not seen.
async fn failed(stand: &Stand, host: &impl Host) -> Checked {
    let refused = Some(stand.records - 1);
    let life = stand.life(Delivery::ExactlyOnce, 2, End::Finished, refused)?;
    let Err(error) = host.live(life).await else {
        return Err(String::from("an element that can't be serialized does not end the life with an error"));
    };
    stand::must(error.kind() == crate::ErrorKind::Schema, || {
        format!("another error than the sink's: {error}")
    })?;
    stand.live(host, Delivery::ExactlyOnce, 2, End::Finished).await?;
    stand.check_exact().await
}

/// A job goes on from a savepoint as from its own state, and with another place for it.
async fn savepoint(stand: &Stand, host: &impl Host) -> Checked {
    let saved = stand.folder("saved");
    let mut life = stand.life(Delivery::ExactlyOnce, 2, End::StopAfter(stand.records / 4), None)?;
    life.savepoint = Some(saved.clone());
    let first = stand.run(host, life).await?;
    let mut life = stand.life(Delivery::ExactlyOnce, 3, End::Finished, None)?;
    (life.dir, life.from) = (stand.folder("moved"), Some(saved));
    let rest = stand.run(host, life).await?;
    let sum = first.records_in + rest.records_in;
    stand::must(sum == stand.records, || format!("{sum} records were read in two lives"))?;
    stand.check_exact().await?;
    stand.check_offsets().await
}

/// Nothing is lost that was flushed for a checkpoint.
async fn at_least_once(stand: &Stand, host: &impl Host) -> Checked {
    for (parallelism, end) in
        [(2, End::CrashAt(Moment::Prepared)), (1, End::CrashAt(Moment::Durable)), (2, End::Finished)]
    {
        stand.live(host, Delivery::AtLeastOnce, parallelism, end).await?;
    }
    stand.check_at_least().await
}

/// Two lives crash, with different parallelism; then each record is there once.
async fn crashed(stand: &Stand, host: &impl Host, moment: Moment) -> Checked {
    let first = stand.live(host, Delivery::ExactlyOnce, 2, End::CrashAt(moment)).await?;
    stand::must(first.crashed, || {
        format!("the life did not crash at {moment:?}: the last checkpoint passes it")
    })?;
    stand.live(host, Delivery::ExactlyOnce, 3, End::CrashAt(moment)).await?;
    stand.live(host, Delivery::ExactlyOnce, 1, End::Finished).await?;
    stand.check_exact().await?;
    stand.check_offsets().await
}
