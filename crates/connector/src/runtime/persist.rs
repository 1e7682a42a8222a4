//! Checkpoints to and from their storage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena::{Client, TransactionState};

use super::config::{JobConfig, Restore};
use super::control::{Halt, JobControl, Step};
use super::driver::offsets_by_name;
use super::job::Pipeline;
use super::savepoint::Request;
use super::states::States;
use crate::checkpoint::snapshot::Scope;
use crate::checkpoint::state::Decoder;
use crate::checkpoint::storage::{self, Checkpoints, Storage};
use crate::checkpoint::{CheckpointId, CheckpointState, Stored};
use crate::sink::committable::Committable;
use crate::source::{Enumerator, EnumeratorState};
use crate::{Error, ErrorKind, Result};

/// How long a storage that is in use may take to become free: a run that was dropped may still be writing.
const FREE_WITHIN: Duration = Duration::from_secs(3);
/// How long coordinators may take to tell when transactions began. Without, the log decides alone.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(2);

/// A storage of checkpoints, and where to start.
pub(super) struct Opened {
    pub(super) store: Option<Arc<Checkpoints>>,
    pub(super) restored: Option<CheckpointState>,
    pub(super) next_id: CheckpointId,
    pub(super) damaged: Vec<String>,
}

/// A checkpoint on the disk.
pub(super) struct Written {
    pub(super) id: CheckpointId,
    pub(super) committables: Vec<Committable>,
    pub(super) offsets: BTreeMap<String, i64>,
}

/// Opens the storage, takes its lock, and reads the checkpoint to start from.
pub(super) async fn open(config: &JobConfig) -> Result<Opened> {
    let Some(storage) = &config.checkpoint.storage else {
        let stored = match &config.checkpoint.restore {
            Restore::Savepoint(from) => Some(savepoint(from).await?),
            Restore::Latest | Restore::Checkpoint(_) | Restore::Fresh => None,
        };
        let next_id = stored.as_ref().map_or(1, |stored| stored.id.saturating_add(1));
        let (restored, damaged) = stored.map_or(Ok((None, Vec::new())), |stored| decode(config, stored))?;
        return Ok(Opened { store: None, restored, next_id, damaged });
    };
    let give_up = Instant::now() + FREE_WITHIN;
    let store = loop {
        match Checkpoints::open(storage, config.checkpoint.retain, &config.name).await {
            Err(error) if error.kind() == ErrorKind::Misuse && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => break Arc::new(opened?),
        }
    };
    let stored = match &config.checkpoint.restore {
        Restore::Latest => store.latest().await?,
        Restore::Checkpoint(id) => Some(store.load(*id).await?),
        Restore::Savepoint(from) => Some(savepoint(from).await?),
        Restore::Fresh => None,
    };
    // Above a savepoint's number too: what it prepared is told from what this run prepares by the number.
    let after = stored.as_ref().map_or(1, |stored| stored.id.saturating_add(1));
    let next_id = store.next_id().await?.max(after);
    let (restored, damaged) = stored.map_or(Ok((None, Vec::new())), |stored| decode(config, stored))?;
    Ok(Opened { store: Some(store), restored, next_id, damaged })
}

async fn savepoint(from: &Storage) -> Result<Stored> {
    storage::latest(from)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::State, format!("there is no savepoint in {}", from.place())))
}

fn decode(config: &JobConfig, stored: Stored) -> Result<(Option<CheckpointState>, Vec<String>)> {
    let damaged =
        stored.damaged.iter().map(|broken| format!("{}: {}", broken.path.display(), broken.why)).collect();
    let state = CheckpointState::decode(&stored.body).map_err(|error| {
        let text = format!(
            "checkpoint {} can't be understood; start the job with the version that wrote it",
            stored.id
        );
        Error::new(ErrorKind::State, text).with_source(error)
    })?;
    if state.job != config.name {
        let text = format!(
            "the checkpoint directory belongs to job {:?}, this one is {:?}; give it its own directory, or its old name back",
            state.job, config.name
        );
        return Err(Error::new(ErrorKind::Misuse, text));
    }
    Ok((Some(state), damaged))
}

/// The enumerator and the functions' states for a run: fresh, or with what the checkpoint knew.
pub(super) fn restore(
    pipeline: &dyn Pipeline,
    config: &JobConfig,
    restored: Option<CheckpointState>,
) -> Result<(Enumerator, States)> {
    let (specs, may_drop) = (pipeline.functions(), config.checkpoint.drop_unknown_state);
    let Some(state) = restored else {
        let enumerator = pipeline.enumerator(config.parallelism, None)?;
        return Ok((enumerator, States::new(specs, Vec::new(), may_drop, |_| true)?));
    };
    let mut from = Decoder::new(&state.enumerator);
    let known = EnumeratorState::decode(&mut from)?;
    from.finish()?;
    let enumerator = pipeline.enumerator(config.parallelism, Some((known, state.splits)))?;
    let EnumeratorState { splits, unresolved, .. } = enumerator.snapshot();
    let kept = splits.iter().map(|split| &split.topic_partition);
    let kept: Vec<_> = kept.chain(unresolved.iter().map(|split| &split.topic_partition)).collect();
    let is_read = |scope: &Scope| match scope {
        Scope::Split(at) => kept.contains(&at),
        Scope::Partition(number) => kept.iter().any(|at| at.partition == *number),
    };
    let states = States::new(specs, state.functions, may_drop, is_read)?;
    Ok((enumerator, states))
}

/// Completes a checkpoint with the start times of its transactions and writes it.
pub(super) async fn write(
    store: Option<Arc<Checkpoints>>,
    client: &Client,
    control: &JobControl,
    mut state: CheckpointState,
    savepoints: Vec<Request>,
) -> Result<Written, Halt> {
    fill_start_times(client, &mut state.committables).await;
    let known = EnumeratorState::decode(&mut Decoder::new(&state.enumerator)).map_err(Error::from)?;
    let offsets = offsets_by_name(&state, &known.splits);
    let (id, committables) = (state.id, state.committables.clone());
    control.reach(Step::BeforeCheckpointWrite, None)?;
    let body = state.encode();
    if let Some(store) = store {
        store.write(id, &body).await?;
    }
    for request in savepoints {
        request.write(&state.job, id, &body).await;
    }
    control.reach(Step::AfterCheckpointWrite, None)?;
    Ok(Written { id, committables, offsets })
}

/// Asks the coordinators when transactions began: later that tells them from others under the same name. As well as possible.
async fn fill_start_times(client: &Client, committables: &mut [Committable]) {
    let ids: Vec<String> = committables
        .iter()
        .filter(|committable| committable.transaction.start_time_ms.is_none())
        .map(|committable| committable.transaction.transactional_id.clone())
        .collect();
    if ids.is_empty() {
        return;
    }
    let transactions = client.transactions();
    let Ok(Ok(described)) = tokio::time::timeout(DESCRIBE_WITHIN, transactions.describe(&ids)).await else {
        return;
    };
    for committable in committables {
        let transaction = &mut committable.transaction;
        let own = described.iter().find(|entry| {
            entry.id == transaction.transactional_id
                && entry.state == TransactionState::Ongoing
                && entry.producer_id == transaction.producer_id
                && entry.producer_epoch == transaction.producer_epoch
        });
        if let (None, Some(entry)) = (transaction.start_time_ms, own) {
            transaction.start_time_ms = entry.start_time_ms;
        }
    }
}
