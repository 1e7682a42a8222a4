//! `milena txn verify` and `finish`: prepared transactions, of a checkpoint or given by hand.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use milena::{
    Client, Offset, PreparedTransaction, ProducerEpoch, ProducerId, TopicPartition, TransactionDescription,
    TransactionState, TransactionVersion,
};
use milena_connector::checkpoint::{CheckpointState, CheckpointStore};
use milena_connector::sink::committable::Committable;
use milena_connector::sink::committer::{Committer, failure};
use milena_connector::sink::outcome::{Evidence, FirstOffset, Limits, Outcome};
use serde::Serialize;

use super::args::{Finish, Generation, Verify, Which};
use super::{Entry, fail_if_any, say_dry_run};
use crate::args::{Format, Global};
use crate::connect;
use crate::output::{self, Table, Usage};

/// A timeout for a transaction given by hand: it only bounds how long its commit is tried.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// A prepared transaction, and what is known of it.
#[derive(Debug, Serialize)]
struct Report {
    transactional_id: String,
    producer_id: i64,
    producer_epoch: i16,
    generation: &'static str,
    checkpoint: Option<u64>,
    coordinator: Option<Entry>,
    partitions: Vec<Finding>,
    /// committed, aborted, partial, hanging, open, unknown or unanswered.
    outcome: &'static str,
    /// none, commit or write-markers.
    action: &'static str,
    executed: bool,
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Finding {
    topic: String,
    partition: i32,
    first_offset: i64,
    /// committed, aborted, open, gone, denied or unavailable.
    evidence: &'static str,
}

pub(super) async fn verify(global: &Global, args: &Verify) -> anyhow::Result<()> {
    let transactions = load(&args.which)?;
    let client = connect::client(global, &args.cluster).await?;
    let committer = Committer::new(client.clone(), Limits::default());
    let mut reports = Vec::new();
    for committable in &transactions {
        let mut report = look(&client, &committer, committable, &args.which).await;
        report.action = "none";
        reports.push(report);
    }
    print(global, &reports)?;
    fail_unless_committed(&reports)
}

pub(super) async fn finish(global: &Global, args: &Finish) -> anyhow::Result<()> {
    // Nobody else may commit or abort these meanwhile: a running job keeps the directory locked.
    let _store = match &args.which.checkpoint_dir {
        Some(dir) if args.execute => {
            Some(CheckpointStore::open(existing(dir)?, usize::MAX, "milena txn finish")?)
        }
        _ => None,
    };
    let transactions = load(&args.which)?;
    let client = connect::client(global, &args.cluster).await?;
    let limits = Limits { decide: Some(global.timeout), visible: args.patience, ..Limits::default() };
    let committer = Committer::new(client.clone(), limits);
    let mut reports = Vec::new();
    for committable in &transactions {
        let mut report = look(&client, &committer, committable, &args.which).await;
        if args.execute && report.action != "none" {
            let (outcome, action) = execute(&committer, committable, args.force).await?;
            report = look(&client, &committer, committable, &args.which).await;
            report.outcome = name_of(&outcome);
            report.detail = failure(committable, &outcome).map(|error| error.message().to_owned());
            report.action = action;
            report.executed = true;
        }
        reports.push(report);
    }
    print(global, &reports)?;
    if args.execute {
        return fail_unless_committed(&reports);
    }
    say_dry_run(reports.iter().any(|report| report.action != "none"));
    Ok(())
}

/// Commits, and writes the markers that are missing.
async fn execute(
    committer: &Committer,
    committable: &Committable,
    force: bool,
) -> anyhow::Result<(Outcome, &'static str)> {
    let sent = || Ok::<_, std::convert::Infallible>(());
    let outcome = match committer.commit(committable, sent).await {
        Ok(outcome) => outcome,
        Err(never) => match never {},
    };
    let Outcome::Hanging { open, decided } = &outcome else { return Ok((outcome, "commit")) };
    if !decided && !force {
        return Ok((outcome, "commit"));
    }
    committer.finish(&committable.transaction, open).await?;
    let evidence = committer.look(&committable.transaction).await;
    Ok((finished(&evidence), "write-markers"))
}

/// The outcome after markers were written by hand: what the log says.
fn finished(evidence: &[(FirstOffset, Evidence)]) -> Outcome {
    let with = |wanted: Evidence| -> Vec<FirstOffset> {
        evidence.iter().filter(|(_, found)| *found == wanted).map(|(first, _)| first.clone()).collect()
    };
    let (committed, lost, open) = (with(Evidence::Commit), with(Evidence::Abort), with(Evidence::Open));
    match (committed.is_empty(), lost.is_empty(), open.is_empty()) {
        (_, _, false) => Outcome::Hanging { open, decided: true },
        (false, true, _) => Outcome::Committed { verified: true },
        (false, false, _) => Outcome::Partial { committed, lost },
        (true, false, _) => Outcome::Aborted { lost, cause: String::from("the log says so") },
        (true, true, _) => {
            Outcome::Unknown { decided: true, cause: String::from("its records can't be read") }
        }
    }
}

/// What can be known without changing anything.
async fn look(client: &Client, committer: &Committer, committable: &Committable, which: &Which) -> Report {
    let transaction = &committable.transaction;
    let id = &transaction.transactional_id;
    let described = match client.transactions().describe(std::slice::from_ref(id)).await {
        Ok(found) => found.into_iter().next(),
        Err(error) => {
            tracing::warn!(%error, id, "the coordinator could not be asked");
            None
        }
    };
    let evidence = committer.look(transaction).await;
    let held = described.as_ref().is_some_and(|entry| is_open_there(transaction, entry));
    let (outcome, action) = judge(&evidence, held);
    let finding = |((at, offset), found): &((TopicPartition, Offset), Evidence)| Finding {
        topic: at.topic.to_string(),
        partition: at.partition.0,
        first_offset: offset.0,
        evidence: match found {
            Evidence::Commit => "committed",
            Evidence::Abort => "aborted",
            Evidence::Open => "open",
            Evidence::Gone => "gone",
            Evidence::Denied => "denied",
            Evidence::Unavailable => "unavailable",
        },
    };
    Report {
        transactional_id: id.clone(),
        producer_id: transaction.producer_id.0,
        producer_epoch: transaction.producer_epoch.0,
        generation: match transaction.version {
            TransactionVersion::V1 => "old",
            TransactionVersion::V2 => "new",
        },
        checkpoint: which.checkpoint_dir.is_some().then_some(committable.checkpoint),
        coordinator: described.as_ref().map(Entry::new),
        partitions: evidence.iter().map(finding).collect(),
        outcome,
        action,
        executed: false,
        detail: None,
    }
}

/// Whether the coordinator still has the transaction to end, or is about to.
fn is_open_there(transaction: &PreparedTransaction, entry: &TransactionDescription) -> bool {
    let epochs = transaction.producer_epoch.0..=transaction.producer_epoch.0.saturating_add(2);
    entry.state.is_open()
        && entry.producer_id == transaction.producer_id
        && epochs.contains(&entry.producer_epoch.0)
        && (entry.state != TransactionState::Ongoing || entry.producer_epoch == transaction.producer_epoch)
}

/// The outcome as far as it can be seen, and what `finish` would do.
fn judge(evidence: &[(FirstOffset, Evidence)], held: bool) -> (&'static str, &'static str) {
    let any = |wanted: Evidence| evidence.iter().any(|(_, found)| *found == wanted);
    match (any(Evidence::Commit), any(Evidence::Abort)) {
        (true, true) => ("partial", "none"),
        _ if any(Evidence::Open) && held => ("open", "commit"),
        _ if any(Evidence::Open) => ("hanging", "write-markers"),
        _ if any(Evidence::Unavailable) => ("unanswered", "commit"),
        (true, false) => ("committed", "none"),
        (false, true) => ("aborted", "none"),
        (false, false) => ("unknown", "commit"),
    }
}

fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Committed { .. } => "committed",
        Outcome::Aborted { .. } => "aborted",
        Outcome::Partial { .. } => "partial",
        Outcome::Hanging { .. } => "hanging",
        Outcome::Unknown { .. } => "unknown",
        Outcome::Unanswered { .. } => "unanswered",
    }
}

fn print(global: &Global, reports: &[Report]) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return output::json(&reports);
    }
    let mut table = Table::new(&[
        "TRANSACTIONAL ID",
        "PRODUCER",
        "EPOCH",
        "CHECKPOINT",
        "COORDINATOR",
        "LOG",
        "OUTCOME",
        "ACTION",
    ]);
    for report in reports {
        let places: Vec<String> = report
            .partitions
            .iter()
            .map(|found| {
                format!("{}/{}={} {}", found.topic, found.partition, found.first_offset, found.evidence)
            })
            .collect();
        let action =
            if report.executed { format!("{} (done)", report.action) } else { report.action.to_owned() };
        table.row([
            report.transactional_id.clone(),
            report.producer_id.to_string(),
            report.producer_epoch.to_string(),
            report.checkpoint.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            report.coordinator.as_ref().map_or_else(|| "-".to_owned(), |entry| entry.state.clone()),
            places.join(", "),
            report.outcome.to_owned(),
            action,
        ]);
    }
    table.print()
}

fn fail_unless_committed(reports: &[Report]) -> anyhow::Result<()> {
    let failed: Vec<String> = reports
        .iter()
        .filter(|report| report.outcome != "committed")
        .map(|report| match &report.detail {
            Some(detail) => detail.clone(),
            None => format!("{} is not committed: {}", report.transactional_id, report.outcome),
        })
        .collect();
    fail_if_any(&failed)
}

/// The transactions that are meant.
fn load(which: &Which) -> anyhow::Result<Vec<Committable>> {
    if let Some(dir) = &which.checkpoint_dir {
        return Ok(checkpoint(dir, which.checkpoint)?.committables);
    }
    let missing = || Usage("give --checkpoint-dir, or --id with the options that belong to it".to_owned());
    let transaction = PreparedTransaction {
        transactional_id: which.id.clone().ok_or_else(missing)?,
        producer_id: ProducerId(which.producer_id.ok_or_else(missing)?),
        producer_epoch: ProducerEpoch(which.epoch.ok_or_else(missing)?),
        version: match which.generation.ok_or_else(missing)? {
            Generation::Old => TransactionVersion::V1,
            Generation::New => TransactionVersion::V2,
        },
        first_offsets: which.first.clone(),
        start_time_ms: None,
        timeout: UNKNOWN_TIMEOUT,
    };
    Ok(vec![Committable { checkpoint: 0, subtask: 0, transaction }])
}

/// A checkpoint of a directory, the newest unless it is named.
pub(super) fn checkpoint(dir: &Path, id: Option<u64>) -> anyhow::Result<CheckpointState> {
    let store = CheckpointStore::look_at(existing(dir)?)?;
    let stored = match id {
        Some(id) => store.load(id)?,
        None => store.latest()?.with_context(|| format!("there is no checkpoint in {}", dir.display()))?,
    };
    CheckpointState::decode(&stored.body)
        .with_context(|| format!("checkpoint {} can't be understood", stored.id))
}

fn existing(dir: &Path) -> anyhow::Result<&Path> {
    anyhow::ensure!(dir.is_dir(), "there is no checkpoint directory {}", dir.display());
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_hanging_only_when_no_coordinator_holds_it() {
        let at = |partition| (TopicPartition::new("t", partition), Offset(0));
        let log = |found: &[Evidence]| -> Vec<(FirstOffset, Evidence)> {
            (0..).zip(found).map(|(partition, &found)| (at(partition), found)).collect()
        };
        assert_eq!(judge(&log(&[Evidence::Open, Evidence::Commit]), false), ("hanging", "write-markers"));
        assert_eq!(judge(&log(&[Evidence::Open]), true), ("open", "commit"));
        assert_eq!(judge(&log(&[Evidence::Commit, Evidence::Gone]), false), ("committed", "none"));
        assert_eq!(judge(&log(&[Evidence::Commit, Evidence::Abort]), true), ("partial", "none"));
        assert_eq!(judge(&log(&[Evidence::Abort]), false), ("aborted", "none"));
        assert_eq!(judge(&log(&[Evidence::Commit, Evidence::Unavailable]), false), ("unanswered", "commit"));
        assert_eq!(judge(&log(&[Evidence::Gone]), false), ("unknown", "commit"));
    }
}
