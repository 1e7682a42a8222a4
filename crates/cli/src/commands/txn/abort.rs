//! `milena txn abort`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use milena::{Client, ForcedMarker, ListFilter, Offset, TopicPartition, TransactionState};
use milena_connector::checkpoint::CheckpointStore;
use milena_connector::sink::committable::{Committable, TransactionIdentity};
use milena_connector::sink::lingering::{Found, plan};
use milena_connector::sink::naming::{Grammar, Naming};
use serde::Serialize;

use super::args::Abort;
use super::{fail_if_any, prepared, say_dry_run};
use crate::args::{Format, Global};
use crate::connect;
use crate::output::{self, Table, Usage};

/// The timeout an id is left with; the next producer sets its own.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Line {
    transactional_id: Option<String>,
    state: Option<String>,
    producer_id: Option<i64>,
    producer_epoch: Option<i16>,
    /// The place of a transaction that hangs.
    partition: Option<String>,
    executed: bool,
}

pub(super) async fn run(global: &Global, args: &Abort) -> anyhow::Result<()> {
    // A running job keeps the directory locked, and its transactions are no leftovers.
    let _store = match &args.checkpoint_dir {
        Some(dir) if args.execute && dir.is_dir() => {
            Some(CheckpointStore::open(dir, usize::MAX, "milena txn abort")?)
        }
        _ => None,
    };
    let client = connect::client(global, &args.cluster).await?;
    if let Some((at, first)) = &args.hanging {
        return hanging(global, &client, at, *first, args.execute).await;
    }
    let lines = match &args.prefix {
        Some(prefix) => left_open(&client, prefix, args.checkpoint_dir.as_deref()).await?,
        None => named(&client, &args.ids).await?,
    };
    fence(global, &client, lines, args.execute).await
}

/// The ids that were named, as their coordinators know them.
async fn named(client: &Client, ids: &[String]) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for found in client.transactions().describe(ids).await? {
        if found.state == TransactionState::NotFound {
            return Err(Usage(format!("no coordinator knows transactional id {}", found.id)).into());
        }
        lines.push(Line {
            transactional_id: Some(found.id),
            state: Some(found.state.name().to_owned()),
            producer_id: Some(found.producer_id.0),
            producer_epoch: Some(found.producer_epoch.0),
            partition: None,
            executed: false,
        });
    }
    Ok(lines)
}

/// What a job with this prefix left open, except what its checkpoint promises.
async fn left_open(client: &Client, prefix: &str, dir: Option<&Path>) -> anyhow::Result<Vec<Line>> {
    let kept: Vec<TransactionIdentity> = match dir {
        Some(dir) => {
            prepared::checkpoint(dir, None)?.committables.iter().map(Committable::identity).collect()
        }
        None => Vec::new(),
    };
    let states = vec![TransactionState::Ongoing];
    let filter = ListFilter { states, pattern: None, prefix: Some(format!("{prefix}-")) };
    let listed = client.transactions().list(&filter).await?;
    let ids: Vec<String> = listed.into_iter().map(|entry| entry.id).collect();
    let described = client.transactions().describe(&ids).await?;
    let found: Vec<Found> = described
        .iter()
        .map(|entry| Found {
            id: entry.id.clone(),
            state: entry.state.clone(),
            producer_id: entry.producer_id,
            producer_epoch: Some(entry.producer_epoch),
        })
        .collect();
    let abort = plan(&[Grammar::new(prefix, Naming::Pooling, 1)], &found, &kept).abort;
    let chosen = described.into_iter().filter(|entry| abort.contains(&entry.id));
    Ok(chosen
        .map(|entry| Line {
            transactional_id: Some(entry.id),
            state: Some(entry.state.name().to_owned()),
            producer_id: Some(entry.producer_id.0),
            producer_epoch: Some(entry.producer_epoch.0),
            partition: None,
            executed: false,
        })
        .collect())
}

async fn fence(global: &Global, client: &Client, mut lines: Vec<Line>, execute: bool) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    if execute {
        for line in &mut lines {
            let Some(id) = &line.transactional_id else { continue };
            match client.transactions().fence(id, TIMEOUT).await {
                Ok(_) => line.executed = true,
                Err(error) => failed.push(format!("{id}: {error}")),
            }
        }
    }
    print(global, &lines)?;
    if !execute {
        say_dry_run(!lines.is_empty());
    }
    fail_if_any(&failed)
}

/// Writes an abort marker where a partition holds a transaction that nobody will end.
async fn hanging(
    global: &Global,
    client: &Client,
    at: &TopicPartition,
    first: Offset,
    execute: bool,
) -> anyhow::Result<()> {
    let described = client.admin().describe_producers(std::slice::from_ref(at)).await?;
    let (_, producers) = described.into_iter().next().context("the leader did not answer")?;
    let producer = producers?
        .into_iter()
        .find(|producer| producer.transaction_start == Some(first))
        .with_context(|| format!("no transaction is open in {at} from offset {first} on"))?;
    let listed = client.transactions().list(&ListFilter::default()).await?;
    let listing = listed.into_iter().find(|listing| listing.producer_id == producer.producer_id);
    if let Some(listing) = listing.as_ref().filter(|listing| listing.state.is_open()) {
        let text = format!(
            "the coordinator still holds it open under transactional id {}: abort that, and not its marker",
            listing.id
        );
        return Err(Usage(text).into());
    }
    let mut line = Line {
        transactional_id: listing.as_ref().map(|listing| listing.id.clone()),
        state: listing.map(|listing| listing.state.name().to_owned()),
        producer_id: Some(producer.producer_id.0),
        producer_epoch: Some(producer.producer_epoch.0),
        partition: Some(format!("{}/{}={first}", at.topic, at.partition)),
        executed: false,
    };
    if execute {
        let marker = ForcedMarker {
            producer_id: producer.producer_id,
            producer_epoch: producer.producer_epoch,
            commit: false,
            partitions: vec![at.clone()],
        };
        for (_, written) in client.transactions().write_markers(&marker).await? {
            written?;
        }
        line.executed = true;
    } else {
        say_dry_run(true);
    }
    print(global, &[line])
}

fn print(global: &Global, lines: &[Line]) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return output::json(&lines);
    }
    let mut table = Table::new(&["TRANSACTIONAL ID", "STATE", "PRODUCER", "EPOCH", "PARTITION", "ABORTED"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for line in lines {
        table.row([
            or_dash(line.transactional_id.clone()),
            or_dash(line.state.clone()),
            or_dash(line.producer_id.map(|id| id.to_string())),
            or_dash(line.producer_epoch.map(|epoch| epoch.to_string())),
            or_dash(line.partition.clone()),
            if line.executed { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.print()
}
