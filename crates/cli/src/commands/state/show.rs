//! `milena state show` and `milena state export`.

use std::path::Path;

use anyhow::Context as _;
use milena_connector::checkpoint::document::{Holder, SplitDocument};
use milena_connector::checkpoint::{CheckpointState, StateDocument, inspect};

use super::Which;
use crate::args::{Format, Global};
use crate::output::{self, Table};

/// Shows a checkpoint.
pub(crate) fn show(global: &Global, which: &Which) -> anyhow::Result<()> {
    print(global, &inspect(&which.path, which.checkpoint)?)
}

/// Prints or writes its document.
pub(crate) fn export(which: &Which, to: Option<&Path>) -> anyhow::Result<()> {
    let document = StateDocument::of(&inspect(&which.path, which.checkpoint)?)?;
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    match to {
        Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string()),
        None => output::print(text.as_bytes()),
    }
}

/// Prints a state for people or programs.
pub(super) fn print(global: &Global, state: &CheckpointState) -> anyhow::Result<()> {
    let document = StateDocument::of(state)?;
    if global.format == Format::Json {
        return output::json(&document);
    }
    let watermark = document.watermark.map_or_else(|| "none".to_owned(), |at| at.to_string());
    let discovery = if document.initial_discovery_finished { "done" } else { "not done" };
    output::print(
        format!(
            "checkpoint {} of job {}, {} subtasks, delivery {}\nwatermark {watermark}, first discovery {discovery}\n",
            document.checkpoint,
            document.job,
            document.parallelism,
            serde_json::to_string(&document.delivery)?.trim_matches('"'),
        )
        .as_bytes(),
    )?;
    let mut table = Table::new(&["TOPIC", "PARTITION", "NEXT", "STOP", "EPOCH", "STATUS"]);
    for split in latest(&document.splits) {
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.row([
            split.topic.clone(),
            split.partition.to_string(),
            split.offset.map_or_else(|| split.start.clone().unwrap_or_default(), |offset| offset.to_string()),
            number(split.stop),
            number(split.leader_epoch.map(i64::from)),
            status(split).to_owned(),
        ]);
    }
    table.print()?;
    if !document.transactions.is_empty() {
        let heads = ["TRANSACTION", "PRODUCER", "EPOCH", "GENERATION", "CHECKPOINT", "BEGINS AT"];
        let mut table = Table::new(&heads);
        for transaction in &document.transactions {
            let firsts = transaction.first_offsets.iter();
            let firsts: Vec<String> =
                firsts.map(|first| format!("{}-{}:{}", first.topic, first.partition, first.offset)).collect();
            table.row([
                transaction.transactional_id.clone(),
                transaction.producer_id.to_string(),
                transaction.producer_epoch.to_string(),
                transaction.generation.to_string(),
                transaction.checkpoint.to_string(),
                if firsts.is_empty() { "?".to_owned() } else { firsts.join(" ") },
            ]);
        }
        table.print()?;
    }
    Ok(())
}

/// Each partition once: a reader's position is newer than the enumerator's.
fn latest(splits: &[SplitDocument]) -> Vec<&SplitDocument> {
    let mut latest: Vec<&SplitDocument> = Vec::new();
    for split in splits {
        let same = |other: &&SplitDocument| other.topic == split.topic && other.partition == split.partition;
        match latest.iter().position(same) {
            Some(index) if split.holder == Holder::Reader => {
                if let Some(place) = latest.get_mut(index) {
                    *place = split;
                }
            }
            Some(_) => {}
            None => latest.push(split),
        }
    }
    latest.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    latest
}

fn status(split: &SplitDocument) -> &'static str {
    match (split.offset, split.stop, split.holder) {
        (None, ..) => "unresolved",
        (Some(offset), Some(stop), _) if offset >= stop => "finished",
        (.., Holder::Reader) => "read",
        (.., Holder::Enumerator) => "waiting",
    }
}
