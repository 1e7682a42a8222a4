//! Checkpoints in an object store: S3, Google Cloud Storage, Azure, or whatever else the crate `object_store` reaches.
//!
//! ```text
//! prefix/heads/00000000000000000012                               who has the storage, and which checkpoints there are
//! prefix/checkpoints/00000000000000000007-00000000000000000009    the bytes of checkpoint 7, written in the term that began with head 9
//! ```
//!
//! Each change is a new head, one number above the last, made on the condition that there is none of that number: of two jobs that try, one
//! succeeds. Taking the storage is such a change, and so is completing a checkpoint. So a job that was replaced, and does not know
//! it, can't complete one: the head it would have to make is there. No clocks are compared: a lease is over for who has watched
//! the highest head stay the same for as long as it lasts.
//!
//! # Invariants
//! * A checkpoint is there when the highest head lists it, and its bytes were there before: a crash between the two leaves bytes that
//!   nobody lists, which the next holder removes.
//! * Bytes are removed after the head that lists them no more is durable.
//! * The highest head is never removed.
//!
//! The store must list what it has just acknowledged, as S3, GCS, Azure and R2 do, and know conditional puts
//! (`PutMode::Create`). [`LocalFileSystem`](object_store::local::LocalFileSystem) survives the loss of power only
//! `with_fsync(true)`; a plain directory is simpler.

mod head;
mod keeper;
mod objects;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::keeper::{Keeper, Request};
use self::objects::Objects;
use super::storage::{CheckpointStorage, Storage, StorageLock};
use super::store::CheckpointId;
use crate::{Error, ErrorKind, Result};

const LEASE: Duration = Duration::from_secs(10);
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// A place in an object store.
///
/// ```
/// use std::sync::Arc;
/// use milena_connector::checkpoint::ObjectStorage;
/// use milena_connector::runtime::CheckpointConfig;
/// use object_store::memory::InMemory;
///
/// let store = Arc::new(InMemory::new()); // or AmazonS3Builder::from_env()...
/// let config = CheckpointConfig::new(ObjectStorage::new(store, "jobs/shouting"));
/// assert_eq!(config.storage.unwrap().place(), "InMemory/jobs/shouting");
/// ```
#[derive(Clone, Debug)]
pub struct ObjectStorage {
    objects: Objects,
    lease: Duration,
}

impl ObjectStorage {
    /// Everything below `prefix` is this storage's: nothing else may be there. Credentials, time limits and retries are the store's.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { objects: Objects::new(store, Path::from(prefix)), lease: LEASE }
    }

    /// How long a job that died keeps the storage, and so how long the next start waits then. Default 10 s, at least 100 ms. A job that ends
    /// gives it back at once. A lease that is too short does no harm to one job alone: it is only lost to another that waits for it.
    /// It is renewed three times in its length, by a small object each time.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(SHORTEST_LEASE);
        self
    }
}

impl From<ObjectStorage> for Storage {
    fn from(storage: ObjectStorage) -> Self {
        Self::new(storage)
    }
}

impl CheckpointStorage for ObjectStorage {
    fn place(&self) -> String {
        self.objects.place()
    }

    fn lock<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<Box<dyn StorageLock>>> {
        Box::pin(async move {
            let keeper = Keeper::take(self.objects.clone(), job, self.lease).await?;
            let (ask, requests) = mpsc::channel(1);
            let kept = tokio::spawn(keeper.keep(requests));
            Ok(Box::new(Lease { ask, kept }) as Box<dyn StorageLock>)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<CheckpointId>>> {
        Box::pin(async {
            let newest = self.objects.newest().await?;
            Ok(newest.map_or_else(Vec::new, |(_, head)| head.checkpoints.into_keys().collect()))
        })
    }

    fn read(&self, id: CheckpointId) -> BoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            let missing = || {
                let text = format!("there is no checkpoint {id} in {}", self.place());
                Error::new(ErrorKind::Io, text)
            };
            let (_, head) = self.objects.newest().await?.ok_or_else(missing)?;
            let term = *head.checkpoints.get(&id).ok_or_else(missing)?;
            self.objects.read_checkpoint(id, term).await?.ok_or_else(missing)
        })
    }
}

/// A storage that is taken. When it is dropped, its task gives the storage back and ends.
struct Lease {
    ask: mpsc::Sender<Request>,
    kept: JoinHandle<()>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl StorageLock for Lease {
    fn write<'a>(
        &'a self,
        id: CheckpointId,
        bytes: Vec<u8>,
        surplus: &'a [CheckpointId],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let request = Request { id, bytes, surplus: surplus.to_vec(), answer };
            let gone = || Error::new(ErrorKind::Io, "the task that writes checkpoints has ended");
            self.ask.send(request).await.map_err(|_| gone())?;
            answered.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        let Self { ask, kept } = *self;
        drop(ask);
        Box::pin(async move {
            // It ends by itself; that it was ended, with its runtime, is as good.
            let _ = kept.await;
        })
    }
}
