//! The start of a sink: commit what the restored checkpoint promised, then abort what lingers, before any new record.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use milena::{Client, ListFilter, TransactionState};

use super::commits::{Commits, Settled};
use super::control::{Halt, JobControl};
use super::hosting::Recovered;
use crate::checkpoint::CheckpointState;
use crate::sink::committer::Committer;
use crate::sink::lingering::{Found, Probe, plan};
use crate::sink::naming::{Grammar, NamePool};
use crate::sink::{Delivery, OutcomeCounts, SinkSettings};
use crate::{Error, ErrorKind, Result};

/// Leftovers aborted at once, at most.
const AT_ONCE: usize = 16;
/// Subtasks and numbers that are always probed where transactions can't be listed.
const PROBED_AT_LEAST: u32 = 2;

/// Commits the transactions of the restored checkpoint, ascending, and aborts leftovers under the job's prefixes.
pub(super) async fn recover(
    client: &Client,
    sink: &SinkSettings,
    restored: Option<&CheckpointState>,
    parallelism: u32,
    control: &JobControl,
    counts: &mut OutcomeCounts,
) -> Result<Recovered, Halt> {
    let grammars = grammars(sink, restored, parallelism);
    let mut done = Recovered::default();
    if let Some(state) = restored {
        let committer = Committer::new(client.clone(), sink.commit);
        let mut commits = Commits::new(committer, control.clone(), sink.on_loss);
        for committable in &state.committables {
            commits.insert(committable.clone());
        }
        let mut checkpoints: Vec<u64> =
            state.committables.iter().map(|committable| committable.checkpoint).collect();
        checkpoints.sort_unstable();
        checkpoints.dedup();
        let names = NamePool::new(grammar(sink, parallelism), 0);
        for checkpoint in checkpoints {
            commits.on_complete(checkpoint);
            while commits.is_running() {
                let settled = commits.next(&names).await;
                counts.add(commits.take_counts());
                match settled? {
                    Settled::Committed => done.committed += 1,
                    Settled::Lost => done.lost += 1,
                }
            }
        }
    }
    if !grammars.is_empty() {
        let known = Known { parallelism, restored };
        done.aborted = abort_lingering(client, sink, &grammars, &known).await?;
    }
    Ok(done)
}

/// How the sink names the transactions of this run.
pub(super) fn grammar(sink: &SinkSettings, parallelism: u32) -> Grammar {
    Grammar::new(sink.prefix.clone().unwrap_or_default(), sink.naming, parallelism)
}

/// Under which names there may be leftovers: the sink's own, those it was told of, and, if that was another, the checkpoint's prefix.
fn grammars(sink: &SinkSettings, restored: Option<&CheckpointState>, parallelism: u32) -> Vec<Grammar> {
    let known = restored.map_or(0, |state| state.parallelism).max(parallelism);
    let before = restored.and_then(|state| state.prefix.as_ref());
    let own = sink.prefix.iter().chain(before).map(|prefix| (prefix, sink.naming));
    let former = sink.former_names.iter().map(|(prefix, naming)| (prefix, *naming));
    let mut grammars: Vec<Grammar> = Vec::new();
    for (prefix, naming) in own.chain(former) {
        let grammar = Grammar::new(prefix, naming, known);
        if !grammars.contains(&grammar) {
            grammars.push(grammar);
        }
    }
    grammars
}

struct Known<'a> {
    parallelism: u32,
    restored: Option<&'a CheckpointState>,
}

async fn abort_lingering(
    client: &Client,
    sink: &SinkSettings,
    grammars: &[Grammar],
    known: &Known<'_>,
) -> Result<u64> {
    let mut ids = Vec::new();
    for grammar in grammars {
        let prefix = grammar.prefix();
        match list(client, grammar).await {
            Ok(found) => ids.extend(found),
            Err(error) if error.kind() == milena::ErrorKind::Unsupported => {
                if sink.delivery == Delivery::ExactlyOnce {
                    return probe(client, sink, grammars, known).await;
                }
                tracing::warn!(
                    prefix,
                    "this broker can't list transactions; leftovers end with their timeout"
                );
                return Ok(0);
            }
            Err(error) => {
                let text = format!(
                    "the open transactions of prefix {prefix} can't be listed (it takes the right to describe these ids)"
                );
                return Err(Error::new(ErrorKind::Client, text).with_source(error));
            }
        }
    }
    ids.sort();
    ids.dedup();
    let count = ids.len() as u64;
    let fenced = ids.into_iter().map(|id| async move {
        tracing::info!(id, "aborting a transaction that an earlier run left open");
        client.transactions().fence(&id, sink.transaction_timeout).await.map(drop).map_err(|error| {
            let text = format!("the leftover transaction {id} can't be aborted");
            Error::new(ErrorKind::Client, text).with_source(error)
        })
    });
    let _: Vec<()> = stream::iter(fenced).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(count)
}

/// The ids to abort that are named in one way. The committables of the restored checkpoint are settled by now, so none is kept.
async fn list(client: &Client, grammar: &Grammar) -> milena::Result<Vec<String>> {
    let transactions = client.transactions();
    let own = format!("{}-", grammar.prefix());
    let filter =
        |pattern| ListFilter { states: vec![TransactionState::Ongoing], pattern, prefix: Some(own.clone()) };
    let listed = match transactions.list(&filter(Some(grammar.pattern()))).await {
        // Before Kafka 4.1 the whole list comes, and the grammar sorts it here.
        Err(error) if error.kind() == milena::ErrorKind::Unsupported => {
            transactions.list(&filter(None)).await?
        }
        listed => listed?,
    };
    let found: Vec<Found> = listed
        .into_iter()
        .map(|entry| Found {
            id: entry.id,
            state: entry.state,
            producer_id: entry.producer_id,
            producer_epoch: None,
        })
        .collect();
    Ok(plan(std::slice::from_ref(grammar), &found, &[]).abort)
}

async fn probe(client: &Client, sink: &SinkSettings, grammars: &[Grammar], known: &Known<'_>) -> Result<u64> {
    let restored = known.restored;
    let subtasks = restored.map_or(0, |state| state.parallelism).max(known.parallelism).max(PROBED_AT_LEAST);
    let held = restored.into_iter().flat_map(|state| &state.writers).flat_map(|writer| &writer.held);
    let numbers = held.max().map_or(0, |&number| number.saturating_add(1)).max(PROBED_AT_LEAST);
    let mut aborted = 0;
    let checkpoint = restored.map_or(0, |state| state.id);
    for grammar in grammars {
        let mut probe = Probe::of(grammar.naming(), subtasks, numbers, checkpoint);
        while let Some(name) = probe.poll_name() {
            let id = grammar.id(name);
            let (_, epoch) =
                client.transactions().fence(&id, sink.transaction_timeout).await.map_err(|error| {
                    Error::new(ErrorKind::Client, format!("transactional id {id} can't be probed"))
                        .with_source(error)
                })?;
            aborted += u64::from(probe.handle_epoch(epoch));
        }
    }
    Ok(aborted)
}

/// Fails if the broker is known not to allow the sink's transaction timeout; says the limit and the remedy.
pub(super) async fn check_timeout(client: &Client, sink: &SinkSettings) -> Result<()> {
    if sink.delivery != Delivery::ExactlyOnce {
        return Ok(());
    }
    let Some(limit) = broker_limit(client).await else { return Ok(()) };
    if sink.transaction_timeout <= limit {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Misuse,
        format!(
            "the transaction timeout of {} s is above the broker's limit of {} s; lower `transaction_timeout` on the sink, or raise \
             transaction.max.timeout.ms on the brokers",
            sink.transaction_timeout.as_secs(),
            limit.as_secs()
        ),
    ))
}

/// `transaction.max.timeout.ms` of a broker; `None` if it does not say, then the first transaction will tell.
async fn broker_limit(client: &Client) -> Option<Duration> {
    const OPTION: &str = "transaction.max.timeout.ms";
    let broker = client.cluster().brokers().next()?.id;
    let configs = client.admin().describe_broker_config(broker, &[OPTION]).await.ok()?;
    let entry = configs.into_iter().find(|entry| entry.name == OPTION)?;
    entry.value?.parse().ok().map(Duration::from_millis)
}
