//! `milena txn`: look at transactions, finish what a checkpoint promised, clean up what is left open.

mod abort;
pub(crate) mod args;
mod list;
mod prepared;

use std::time::{SystemTime, UNIX_EPOCH};

use milena::TransactionDescription;
use serde::Serialize;

use super::topics::fail_if_any;
use crate::args::Global;
use crate::connect;
use args::TxnAction;

/// Runs the command.
pub(crate) async fn run(global: &Global, action: TxnAction) -> anyhow::Result<()> {
    match action {
        TxnAction::List(args) => list::run(global, &args).await,
        TxnAction::Describe { cluster, ids } => {
            let client = connect::client(global, &cluster).await?;
            let described = client.transactions().describe(&ids).await?;
            let entries: Vec<Entry> = described.iter().map(Entry::new).collect();
            list::print(global, &entries)
        }
        TxnAction::Verify(args) => prepared::verify(global, &args).await,
        TxnAction::Finish(args) => prepared::finish(global, &args).await,
        TxnAction::Abort(args) => abort::run(global, &args).await,
    }
}

/// What a coordinator knows of a transactional id.
#[derive(Debug, Serialize)]
struct Entry {
    transactional_id: String,
    state: String,
    producer_id: i64,
    producer_epoch: i16,
    /// When the transaction began, in milliseconds since 1970; stays after its end.
    start_time_ms: Option<i64>,
    timeout_ms: Option<i32>,
    /// How long until the coordinator aborts it; only while it is open.
    time_left_ms: Option<i64>,
    partitions: Vec<Place>,
}

#[derive(Debug, Serialize)]
struct Place {
    topic: String,
    partition: i32,
}

impl Entry {
    fn new(found: &TransactionDescription) -> Self {
        let open = found.state.name() == "Ongoing";
        let ends = found.start_time_ms.filter(|_| open).map(|start| start + i64::from(found.timeout_ms));
        let places = found.partitions.iter();
        Self {
            transactional_id: found.id.clone(),
            state: found.state.name().to_owned(),
            producer_id: found.producer_id.0,
            producer_epoch: found.producer_epoch.0,
            start_time_ms: found.start_time_ms,
            timeout_ms: (found.timeout_ms > 0).then_some(found.timeout_ms),
            time_left_ms: ends.map(|ends| ends - now_ms()),
            partitions: places
                .map(|tp| Place { topic: tp.topic.to_string(), partition: tp.partition.0 })
                .collect(),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time in milliseconds since 1970 as people read it.
fn time(ms: Option<i64>) -> String {
    let Some(ms) = ms.and_then(|ms| u64::try_from(ms).ok()) else { return "-".to_owned() };
    humantime::format_rfc3339_millis(UNIX_EPOCH + std::time::Duration::from_millis(ms)).to_string()
}

fn seconds(ms: Option<i64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{} s", ms.div_euclid(1000)))
}

/// Says on standard error that nothing was done.
fn say_dry_run(anything: bool) {
    let text = if anything { "nothing was changed; --execute does it" } else { "there is nothing to do" };
    eprintln!("{text}");
}
