//! `milena txn list` and `describe`.

use std::collections::HashMap;

use milena::{Client, ListFilter, TopicPartition, TransactionListing, TransactionState};
use serde::Serialize;

use super::args::List;
use super::{Entry, fail_if_any, now_ms, seconds, time};
use crate::args::{Format, Global};
use crate::connect;
use crate::output::{self, Table, Usage};

/// Ids in one request to their coordinators.
const AT_ONCE: usize = 500;

pub(super) async fn run(global: &Global, args: &List) -> anyhow::Result<()> {
    let client = connect::client(global, &args.cluster).await?;
    if !args.topic.is_empty() {
        return by_topic(global, args, &client).await;
    }
    let mut states = Vec::new();
    for name in &args.states {
        match TransactionState::from_name(name) {
            TransactionState::Unknown(_) => {
                return Err(Usage(format!("`{name}` is no state of a transaction")).into());
            }
            state => states.push(state),
        }
    }
    if args.older_than.is_some() {
        if states.is_empty() {
            states = vec![
                TransactionState::Ongoing,
                TransactionState::PrepareCommit,
                TransactionState::PrepareAbort,
            ];
        }
        // A finished transaction keeps its start time: it would count as an old one.
        states.retain(|state| state.is_open());
    }
    let filter = ListFilter { states, pattern: None, prefix: args.prefix.clone() };
    let listed = client.transactions().list(&filter).await?;
    let ids: Vec<String> = listed.into_iter().map(|listing| listing.id).collect();
    let mut entries = Vec::new();
    for some in ids.chunks(AT_ONCE) {
        entries.extend(client.transactions().describe(some).await?.iter().map(Entry::new));
    }
    if let Some(age) = args.older_than {
        let before = now_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        entries.retain(|entry| entry.start_time_ms.is_some_and(|start| start <= before));
    }
    print(global, &entries)
}

pub(super) fn print(global: &Global, entries: &[Entry]) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return output::json(&entries);
    }
    let mut table =
        Table::new(&["TRANSACTIONAL ID", "STATE", "PRODUCER", "EPOCH", "BEGAN", "TIME LEFT", "PARTITIONS"]);
    for entry in entries {
        let places: Vec<String> =
            entry.partitions.iter().map(|place| format!("{}/{}", place.topic, place.partition)).collect();
        table.row([
            entry.transactional_id.clone(),
            entry.state.clone(),
            entry.producer_id.to_string(),
            entry.producer_epoch.to_string(),
            time(entry.start_time_ms),
            seconds(entry.time_left_ms),
            places.join(","),
        ]);
    }
    table.print()
}

/// A transaction that a leader holds open.
#[derive(Debug, Serialize)]
struct Held {
    topic: String,
    partition: i32,
    producer_id: i64,
    producer_epoch: i16,
    first_offset: i64,
    last_timestamp_ms: i64,
    transactional_id: Option<String>,
    state: Option<String>,
    /// No coordinator holds it open: nobody will end it.
    hanging: bool,
}

async fn by_topic(global: &Global, args: &List, client: &Client) -> anyhow::Result<()> {
    let mut partitions = Vec::new();
    for topic in &args.topic {
        let known = client.topic(topic).await?;
        partitions.extend(known.partitions.keys().map(|&id| TopicPartition::new(topic.as_str(), id)));
    }
    let producers = client.admin().describe_producers(&partitions).await?;
    // Listed after the leaders were asked: a transaction that ended in between is not taken for a hanging one.
    let listed = client.transactions().list(&ListFilter::default()).await?;
    let known: HashMap<i64, TransactionListing> =
        listed.into_iter().map(|listing| (listing.producer_id.0, listing)).collect();
    let mut held = Vec::new();
    let mut failed = Vec::new();
    for (tp, found) in producers {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                failed.push(error.to_string());
                continue;
            }
        };
        for producer in found {
            let Some(first) = producer.transaction_start else { continue };
            let listing = known.get(&producer.producer_id.0);
            held.push(Held {
                topic: tp.topic.to_string(),
                partition: tp.partition.0,
                producer_id: producer.producer_id.0,
                producer_epoch: producer.producer_epoch.0,
                first_offset: first.0,
                last_timestamp_ms: producer.last_timestamp,
                transactional_id: listing.map(|listing| listing.id.clone()),
                state: listing.map(|listing| listing.state.name().to_owned()),
                hanging: !listing.is_some_and(|listing| listing.state.is_open()),
            });
        }
    }
    let own = |held: &Held| match (&args.prefix, &held.transactional_id) {
        (Some(prefix), Some(id)) => id.starts_with(prefix.as_str()),
        (Some(_), None) => false,
        (None, _) => true,
    };
    held.retain(|held| own(held) && (held.hanging || !args.hanging));
    print_held(global, &held)?;
    fail_if_any(&failed)
}

fn print_held(global: &Global, held: &[Held]) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return output::json(&held);
    }
    let mut table = Table::new(&[
        "PARTITION",
        "FIRST OFFSET",
        "PRODUCER",
        "EPOCH",
        "LAST WRITE",
        "TRANSACTIONAL ID",
        "STATE",
        "HANGING",
    ]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for held in held {
        table.row([
            format!("{}/{}", held.topic, held.partition),
            held.first_offset.to_string(),
            held.producer_id.to_string(),
            held.producer_epoch.to_string(),
            time(Some(held.last_timestamp_ms)),
            or_dash(&held.transactional_id),
            or_dash(&held.state),
            if held.hanging { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.print()
}
