//! Checkpoints to and from the directory, off the runtime's threads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena::{Client, TransactionState};

use super::config::{JobConfig, Restore};
use super::control::{Halt, JobControl, Step};
use super::driver::offsets_by_name;
use super::job::Pipeline;
use crate::checkpoint::state::Decoder;
use crate::checkpoint::{CheckpointId, CheckpointState, CheckpointStore, Stored};
use crate::sink::committable::Committable;
use crate::source::{Enumerator, EnumeratorState};
use crate::{Error, ErrorKind, Result};

/// How long a directory that is in use may take to become free: a run that was dropped may still be writing.
const FREE_WITHIN: Duration = Duration::from_secs(3);
/// How long coordinators may take to tell when transactions began. Without, the log decides alone.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(2);

/// A checkpoint directory, and where to start.
pub(super) struct Opened {
    pub(super) store: Option<Arc<CheckpointStore>>,
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

/// Opens the directory, takes its lock, and reads the checkpoint to start from.
pub(super) async fn open(config: &JobConfig) -> Result<Opened> {
    let Some(dir) = config.checkpoint.dir.clone() else {
        return Ok(Opened { store: None, restored: None, next_id: 1, damaged: Vec::new() });
    };
    let give_up = Instant::now() + FREE_WITHIN;
    let store = loop {
        match open_store(dir.clone(), config).await {
            Err(error) if error.kind() == ErrorKind::Misuse && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => break Arc::new(opened?),
        }
    };
    let reading = Arc::clone(&store);
    let restore = config.checkpoint.restore;
    let (stored, next_id) = blocking(move || {
        let stored = match restore {
            Restore::Latest => reading.latest()?,
            Restore::Checkpoint(id) => Some(reading.load(id)?),
            Restore::Fresh => None,
        };
        Ok((stored, reading.next_id()?))
    })
    .await?;
    let (restored, damaged) = match stored {
        None => (None, Vec::new()),
        Some(stored) => decode(config, stored)?,
    };
    Ok(Opened { store: Some(store), restored, next_id, damaged })
}

async fn open_store(dir: PathBuf, config: &JobConfig) -> Result<CheckpointStore> {
    let (retain, name) = (config.checkpoint.retain, config.name.clone());
    blocking(move || CheckpointStore::open(&dir, retain, &name)).await
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

/// The enumerator for a run: fresh, or with what the checkpoint knew.
pub(super) fn enumerator(
    pipeline: &dyn Pipeline,
    parallelism: u32,
    restored: Option<CheckpointState>,
) -> Result<Enumerator> {
    let Some(state) = restored else { return pipeline.enumerator(parallelism, None) };
    let mut from = Decoder::new(&state.enumerator);
    let enumerator = EnumeratorState::decode(&mut from)?;
    from.finish()?;
    pipeline.enumerator(parallelism, Some((enumerator, state.splits)))
}

/// Completes a checkpoint with the start times of its transactions and writes it.
pub(super) async fn write(
    store: Option<Arc<CheckpointStore>>,
    client: &Client,
    control: &JobControl,
    mut state: CheckpointState,
) -> Result<Written, Halt> {
    fill_start_times(client, &mut state.committables).await;
    let known = EnumeratorState::decode(&mut Decoder::new(&state.enumerator)).map_err(Error::from)?;
    let offsets = offsets_by_name(&state, &known.splits);
    let (id, committables) = (state.id, state.committables.clone());
    control.reach(Step::BeforeCheckpointWrite, None)?;
    if let Some(store) = store {
        blocking(move || store.write(id, &state.encode())).await?;
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

/// Runs blocking work where that is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Io, "work on the checkpoint directory ended unexpectedly")
            .with_source(error))
    })
}
