//! Where checkpoints and savepoints are kept: a directory, an object store, or what the user brings.
//!
//! A [`CheckpointStorage`] keeps numbered files whole; what is in them, how many are kept, and which one is restored is decided here, once
//! for all storages.
//!
//! # Invariants
//! * A file under its name is complete: a storage never shows a part of one.
//! * Only who has the lock writes. Who lost it, and may not know, completes nothing any more.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::lock::DirectoryLock;
use super::store::{
    self, CheckpointId, Damaged, Stored, Unreadable, file_name, frame, none_readable, unframe, written_later,
};
use crate::{Error, ErrorKind, Result};

/// How often a list may be outrun by the job that writes.
const LOOKS: u32 = 10;

/// What keeps checkpoints. Anyone may look; only who has the [`StorageLock`] writes.
pub trait CheckpointStorage: fmt::Debug + Send + Sync + 'static {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// Makes the storage ready and takes it for a job. Fails with `Misuse`, naming the owner, while another job has it.
    ///
    /// # Cancellation
    /// The storage may be taken until the lock's own time is over.
    fn lock<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<Box<dyn StorageLock>>>;

    /// The numbers there are, ascending. `Io` if that can't be told.
    ///
    /// # Cancellation
    /// Safe.
    fn list(&self) -> BoxFuture<'_, Result<Vec<CheckpointId>>>;

    /// The bytes of one. `Io` if it can't be read or is not there.
    ///
    /// # Cancellation
    /// Safe.
    fn read(&self, id: CheckpointId) -> BoxFuture<'_, Result<Vec<u8>>>;
}

/// A storage that is taken. All calls come from one job, one after the other. Dropping it gives the storage back as soon as that
/// can be done.
pub trait StorageLock: fmt::Debug + Send + Sync {
    /// Keeps one: when this returns, it is durable under its number. With `Misuse` the storage is not ours any more, and this checkpoint
    /// will never be there; with `Io` it may be there, whole, or not, and the lock may refuse everything from then on. One that is there
    /// may be replaced or refused.
    ///
    /// `surplus` are others that are not needed when this one is durable, and not before. It is no error if they can't be removed.
    ///
    /// # Cancellation
    /// As with `Io`.
    fn write<'a>(
        &'a self,
        id: CheckpointId,
        bytes: Vec<u8>,
        surplus: &'a [CheckpointId],
    ) -> BoxFuture<'a, Result<()>>;

    /// Gives the storage back: when this returns, another job can have it, if the storage could be reached.
    ///
    /// # Cancellation
    /// As if it were dropped.
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A storage, to be named in a configuration. A path is a directory.
#[derive(Clone)]
pub struct Storage(Arc<dyn CheckpointStorage>);

impl Storage {
    /// A storage of the user's own.
    #[must_use]
    pub fn new(storage: impl CheckpointStorage) -> Self {
        Self(Arc::new(storage))
    }

    /// A directory, which is made if it does not exist.
    #[must_use]
    pub fn directory(dir: impl Into<PathBuf>) -> Self {
        Self::new(Directory { dir: dir.into() })
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.place()
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Storage").field(&self.place()).finish()
    }
}

/// Two storages of one place are the same.
impl PartialEq for Storage {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl From<PathBuf> for Storage {
    fn from(dir: PathBuf) -> Self {
        Self::directory(dir)
    }
}

impl From<&PathBuf> for Storage {
    fn from(dir: &PathBuf) -> Self {
        Self::directory(dir)
    }
}

impl From<&Path> for Storage {
    fn from(dir: &Path) -> Self {
        Self::directory(dir)
    }
}

impl From<&str> for Storage {
    fn from(dir: &str) -> Self {
        Self::directory(dir)
    }
}

/// The checkpoints of a storage that is taken.
#[derive(Debug)]
pub struct Checkpoints {
    storage: Storage,
    lock: Box<dyn StorageLock>,
    retain: usize,
}

impl Checkpoints {
    /// Takes a storage for a job. `retain` is how many checkpoints are kept, at least 1.
    ///
    /// # Errors
    /// `Misuse` while another job has it, `Io` if it can't be made or written.
    ///
    /// # Cancellation
    /// The storage may stay taken until the lock's own time is over.
    pub async fn open(storage: &Storage, retain: usize, job: &str) -> Result<Self> {
        let lock = storage.0.lock(job).await?;
        Ok(Self { storage: storage.clone(), lock, retain: retain.max(1) })
    }

    /// The number for the next checkpoint: above every number there is.
    ///
    /// # Errors
    /// `Io` if the storage can't be read.
    pub async fn next_id(&self) -> Result<CheckpointId> {
        Ok(self.storage.0.list().await?.last().map_or(1, |&id| id.saturating_add(1)))
    }

    /// See [`latest`].
    ///
    /// # Errors
    /// As [`latest`].
    pub async fn latest(&self) -> Result<Option<Stored>> {
        latest(&self.storage).await
    }

    /// See [`load`].
    ///
    /// # Errors
    /// As [`load`].
    pub async fn load(&self, id: CheckpointId) -> Result<Stored> {
        load(&self.storage, id).await
    }

    /// Writes a checkpoint; then the oldest ones beyond the number to keep are removed.
    ///
    /// # Errors
    /// `Misuse` if the storage is not ours any more, `Io` if it can't be written or listed: the checkpoints that were there stay.
    ///
    /// # Cancellation
    /// The checkpoint is there or not, never a part of it.
    pub async fn write(&self, id: CheckpointId, body: &[u8]) -> Result<()> {
        let mut surplus = self.storage.0.list().await?;
        surplus.retain(|&other| other != id);
        surplus.truncate((surplus.len() + 1).saturating_sub(self.retain));
        self.lock.write(id, frame(body), &surplus).await
    }

    /// Gives the storage back.
    ///
    /// # Cancellation
    /// As if it were dropped: it is given back as soon as that can be done.
    pub async fn release(self) {
        self.lock.release().await;
    }
}

/// Writes one checkpoint to a storage that no job has: a savepoint. It is never removed by the job.
///
/// # Errors
/// `Io` if it can't be written, `Misuse` if a job has the storage.
///
/// # Cancellation
/// It is there or not, never a part of it.
pub async fn write_savepoint(storage: &Storage, job: &str, id: CheckpointId, body: &[u8]) -> Result<()> {
    let lock = storage.0.lock(job).await?;
    let written = lock.write(id, frame(body), &[]).await;
    lock.release().await;
    written
}

/// The newest checkpoint that can be read, with the damaged ones that are newer. `None` if there is none at all. Takes no lock: one that a
/// job removes meanwhile, since newer ones are there, is not missed.
///
/// # Errors
/// `State` if there are checkpoints and none can be read, or if the newest was written by a later version of this crate;
/// `Io` if the storage or a file can't be opened.
pub async fn latest(storage: &Storage) -> Result<Option<Stored>> {
    let mut looks = 0;
    'look: loop {
        looks += 1;
        let mut damaged = Vec::new();
        for id in storage.0.list().await?.into_iter().rev() {
            match read(storage, id).await {
                Ok(Ok(body)) => return Ok(Some(Stored { id, body, damaged })),
                Ok(Err(broken)) => {
                    tracing::error!(checkpoint = id, path = %broken.path.display(), why = %broken.why, "damaged checkpoint");
                    damaged.push(broken);
                }
                Err(error) => {
                    if looks < LOOKS && !storage.0.list().await?.contains(&id) {
                        continue 'look;
                    }
                    return Err(error);
                }
            }
        }
        return match damaged.first() {
            None => Ok(None),
            Some(newest) => Err(none_readable(&storage.place(), damaged.len(), newest)),
        };
    }
}

/// One checkpoint by its number. Takes no lock.
///
/// # Errors
/// `State` if it is damaged or from a later version; `Io` if it can't be opened.
pub async fn load(storage: &Storage, id: CheckpointId) -> Result<Stored> {
    match read(storage, id).await? {
        Ok(body) => Ok(Stored { id, body, damaged: Vec::new() }),
        Err(Damaged { path, why, .. }) => {
            let text = format!("checkpoint {} can't be read: {why}", path.display());
            Err(Error::new(ErrorKind::State, text))
        }
    }
}

async fn read(storage: &Storage, id: CheckpointId) -> Result<std::result::Result<Vec<u8>, Damaged>> {
    let bytes = storage.0.read(id).await?;
    let path = PathBuf::from(storage.place()).join(file_name(id));
    match unframe(&bytes) {
        Ok(body) => Ok(Ok(body)),
        Err(Unreadable::Damaged(why)) => Ok(Err(Damaged { id, path, why })),
        Err(Unreadable::Later(format)) => Err(written_later(&path, format)),
    }
}

/// A directory of files. See [`store`].
#[derive(Debug)]
struct Directory {
    dir: PathBuf,
}

impl CheckpointStorage for Directory {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn lock<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<Box<dyn StorageLock>>> {
        let job = job.to_owned();
        blocking(&self.dir, move |dir| {
            let lock = store::take(dir, &job)?;
            let lock = Arc::new(Mutex::new(lock));
            Ok(Box::new(HeldDirectory { dir: dir.to_owned(), lock }) as Box<dyn StorageLock>)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<CheckpointId>>> {
        blocking(&self.dir, store::list)
    }

    fn read(&self, id: CheckpointId) -> BoxFuture<'_, Result<Vec<u8>>> {
        blocking(&self.dir, move |dir| store::read_file(dir, id))
    }
}

/// A directory that is taken. The operating system keeps the lock as long as the process lives.
///
/// What a thread has begun to write it ends, though nobody may wait for it any more. So the lock goes with it, and the directory is not given
/// back, nor written by who has it, before that.
#[derive(Debug)]
struct HeldDirectory {
    dir: PathBuf,
    lock: Arc<Mutex<DirectoryLock>>,
}

impl StorageLock for HeldDirectory {
    fn write<'a>(
        &'a self,
        id: CheckpointId,
        bytes: Vec<u8>,
        surplus: &'a [CheckpointId],
    ) -> BoxFuture<'a, Result<()>> {
        let surplus = surplus.to_vec();
        Box::pin(async move {
            let lock = Arc::clone(&self.lock).lock_owned().await;
            blocking(&self.dir, move |dir| {
                let _held = lock;
                store::write_file(dir, id, &bytes)?;
                store::remove_files(dir, &surplus);
                Ok(())
            })
            .await
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Self { lock, .. } = *self;
            // Behind what is still being written.
            drop(lock.lock_owned().await);
        })
    }
}

/// Does work on a directory where blocking is allowed.
fn blocking<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T>> {
    let dir = dir.to_owned();
    Box::pin(async move {
        tokio::task::spawn_blocking(move || work(&dir)).await.unwrap_or_else(|error| {
            let text = "work on the checkpoint directory ended unexpectedly";
            Err(Error::new(ErrorKind::Io, text).with_source(error))
        })
    })
}
