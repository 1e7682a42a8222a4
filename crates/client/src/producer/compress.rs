//! Compression beside the lanes: on the runtime's threads for blocking work, in parallel over partitions.
//!
//! A lane takes batches for a request, has them compressed here, and sends requests in the order in which it took them. What is not to be
//! compressed, or is little, is not handed to another thread: that would cost more than it saves.

use std::sync::Arc;

use milena_core::produce::accumulator::{BatchId, Body, Transmit};
use milena_core::produce::sequence::Stamp;
use milena_protocol::ProtocolError;
use milena_protocol::compression::Compression;
use milena_protocol::records::{BatchBuilder, FrozenBatch};

use super::engine::Engine;
use super::slot::Slot;
use crate::error::{Error, Result};

/// Less than this is compressed where it is, in bytes before compression.
const LITTLE: usize = 8 * 1024;

/// Small batches are put together until a job has so many bytes.
const JOB: usize = 64 * 1024;

/// A batch that a lane took.
pub(super) struct Taken {
    pub(super) slot: Arc<Slot>,
    pub(super) transmit: Transmit,
}

/// A batch with its checksum, compressed if it is to be.
pub(super) struct Finished {
    pub(super) slot: Arc<Slot>,
    pub(super) id: BatchId,
    pub(super) stamp: Option<Stamp>,
    pub(super) paid: usize,
    pub(super) frozen: Result<FrozenBatch>,
}

/// Whether these batches are worth other threads.
pub(super) fn is_much(taken: &[Taken], compression: Compression) -> bool {
    let built = |one: &Taken| match &one.transmit.body {
        Body::Built(builder) => builder.size_bytes(),
        Body::Frozen(_) => 0,
    };
    compression != Compression::None && taken.iter().map(built).sum::<usize>() >= LITTLE
}

/// Finishes batches on this thread.
pub(super) fn finish_here(engine: &Engine, taken: Vec<Taken>) -> Vec<Finished> {
    let finish = |Taken { slot, transmit }| {
        let frozen = match transmit.body {
            Body::Frozen(frozen) => Ok(frozen),
            Body::Built(builder) => freeze(engine, builder),
        };
        Finished { slot, id: transmit.id, stamp: transmit.stamp, paid: transmit.paid, frozen }
    };
    taken.into_iter().map(finish).collect()
}

/// Finishes batches on other threads, and returns them in their order.
///
/// # Cancellation
/// The batches are lost; threads finish what they have begun.
pub(super) async fn finish_beside(engine: Arc<Engine>, taken: Vec<Taken>) -> Vec<Finished> {
    let mut finished = Vec::with_capacity(taken.len());
    let mut jobs: Vec<Vec<(usize, BatchBuilder)>> = Vec::new();
    let mut bytes = JOB;
    for (place, Taken { slot, transmit }) in taken.into_iter().enumerate() {
        let frozen = match transmit.body {
            Body::Frozen(frozen) => Ok(frozen),
            Body::Built(builder) => {
                if bytes >= JOB {
                    bytes = 0;
                    jobs.push(Vec::new());
                }
                bytes += builder.size_bytes();
                if let Some(job) = jobs.last_mut() {
                    job.push((place, builder));
                }
                // What stays if the job is lost.
                Err(Error::misuse("the batch could not be compressed: the codec panicked"))
            }
        };
        finished.push(Finished { slot, id: transmit.id, stamp: transmit.stamp, paid: transmit.paid, frozen });
    }
    let running = jobs.into_iter().map(|job| {
        let engine = Arc::clone(&engine);
        async move {
            // As many at a time as there are processors; the semaphore is never closed.
            let _permit = engine.compressors.acquire().await.ok();
            let worker = Arc::clone(&engine);
            let work = move || -> Vec<(usize, Result<FrozenBatch>)> {
                job.into_iter().map(|(place, builder)| (place, freeze(&worker, builder))).collect()
            };
            engine.runtime.spawn_blocking(work).await.unwrap_or_default()
        }
    });
    for (place, frozen) in futures_util::future::join_all(running).await.into_iter().flatten() {
        if let Some(one) = finished.get_mut(place) {
            one.frozen = frozen;
        }
    }
    finished
}

fn freeze(engine: &Engine, builder: BatchBuilder) -> Result<FrozenBatch> {
    let (frozen, left) = builder.freeze_with(Vec::new()).map_err(|error: ProtocolError| {
        Error::misuse(format!("the batch can't be written: {error}")).with_source(error)
    })?;
    engine.reuse(left);
    Ok(frozen)
}
