//! The requests to the store.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};

use super::head::{
    Head, Number, Unreadable, checkpoint_name, head_name, parse_checkpoint_name, parse_head_name,
};
use crate::checkpoint::CheckpointId;
use crate::{Error, ErrorKind, Result};

/// Larger checkpoints are sent in parts of this size, so that no request takes long.
const PART_BYTES: usize = 8 << 20;
/// How often the highest head may be gone when it is read: each time another was made.
const LOOKS: u32 = 20;
/// So many parts at once.
const PARTS_AT_ONCE: usize = 4;

/// A store and a place in it.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    root: Path,
    part_bytes: usize,
}

/// What came of the attempt to make a head.
#[derive(Debug)]
pub(super) enum Made {
    Yes,
    /// One of this number is there.
    Taken,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self { store, root, part_bytes: PART_BYTES }
    }

    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.store, self.root)
    }

    fn head_path(&self, number: Number) -> Path {
        self.root.clone().join("heads").join(head_name(number))
    }

    fn checkpoint_path(&self, id: CheckpointId, term: Number) -> Path {
        self.root.clone().join("checkpoints").join(checkpoint_name(id, term))
    }

    async fn names<T>(&self, folder: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let folder = self.root.clone().join(folder);
        let listed: std::result::Result<Vec<_>, _> = self.store.list(Some(&folder)).try_collect().await;
        let listed = listed.map_err(|error| self.failed("can't be listed", error))?;
        Ok(listed.iter().filter_map(|object| parse(object.location.filename()?)).collect())
    }

    /// The numbers of the heads there are.
    pub(super) async fn heads(&self) -> Result<Vec<Number>> {
        self.names("heads", parse_head_name).await
    }

    /// The checkpoints whose bytes are there, listed in a head or not.
    pub(super) async fn checkpoints(&self) -> Result<Vec<(CheckpointId, Number)>> {
        self.names("checkpoints", parse_checkpoint_name).await
    }

    /// The head that counts.
    pub(super) async fn newest(&self) -> Result<Option<(Number, Head)>> {
        for _ in 0..LOOKS {
            let Some(number) = self.heads().await?.into_iter().max() else { return Ok(None) };
            // It may be gone by now: then there is a higher one.
            if let Some(head) = self.head(number).await? {
                return Ok(Some((number, head)));
            }
        }
        let text = format!("{} lists heads that are not there", self.place());
        Err(Error::new(ErrorKind::Io, text))
    }

    pub(super) async fn head(&self, number: Number) -> Result<Option<Head>> {
        let Some(bytes) = self.get(&self.head_path(number)).await? else { return Ok(None) };
        Head::decode(&bytes).map(Some).map_err(|error| {
            let why = match error {
                Unreadable::Damaged(why) => why,
                Unreadable::Later(format) => {
                    format!("it has format {format}; start the job with the version that wrote it")
                }
            };
            let text = format!("{}/heads/{} can't be read: {why}", self.place(), head_name(number));
            Error::new(ErrorKind::State, text)
        })
    }

    /// Makes a head, unless there is one of this number.
    pub(super) async fn make_head(&self, number: Number, bytes: &[u8]) -> Result<Made> {
        let (path, payload) = (self.head_path(number), PutPayload::from(bytes.to_vec()));
        match self.store.put_opts(&path, payload, PutOptions::from(PutMode::Create)).await {
            Ok(_) => Ok(Made::Yes),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Made::Taken),
            Err(error @ (StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })) => {
                let text = format!(
                    "{} can't make an object only if there is none, without which two jobs can't be kept apart; configure it for \
                     conditional puts",
                    self.place()
                );
                Err(Error::new(ErrorKind::Misuse, text).with_source(error))
            }
            Err(error) => Err(self.failed("can't be written", error)),
        }
    }

    /// Removes heads that another has replaced. They are in nobody's way.
    pub(super) async fn remove_heads(&self, numbers: impl IntoIterator<Item = Number>) {
        self.remove(numbers.into_iter().map(|number| self.head_path(number)).collect()).await;
    }

    /// Removes the bytes of checkpoints that no head lists any more.
    pub(super) async fn remove_checkpoints(&self, which: impl IntoIterator<Item = (CheckpointId, Number)>) {
        self.remove(which.into_iter().map(|(id, term)| self.checkpoint_path(id, term)).collect()).await;
    }

    async fn remove(&self, paths: Vec<Path>) {
        let mut removed = self.store.delete_stream(stream::iter(paths).map(Ok).boxed());
        while let Some(removed) = removed.next().await {
            match removed {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(place = self.place(), %error, "an old object can't be removed");
                }
            }
        }
    }

    pub(super) async fn read_checkpoint(&self, id: CheckpointId, term: Number) -> Result<Option<Vec<u8>>> {
        self.get(&self.checkpoint_path(id, term)).await
    }

    pub(super) async fn write_checkpoint(
        &self,
        id: CheckpointId,
        term: Number,
        bytes: Vec<u8>,
    ) -> Result<()> {
        let path = self.checkpoint_path(id, term);
        let written = if bytes.len() <= self.part_bytes {
            self.store.put_opts(&path, bytes.into(), PutOptions::default()).await.map(drop)
        } else {
            self.write_parts(&path, bytes.into()).await
        };
        written.map_err(|error| {
            self.failed(
                "can't be written; the checkpoints before are untouched, give access and start again",
                error,
            )
        })
    }

    async fn write_parts(&self, path: &Path, mut bytes: bytes::Bytes) -> object_store::Result<()> {
        let mut upload = self.store.put_multipart_opts(path, PutMultipartOptions::default()).await?;
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let part = bytes.split_to(self.part_bytes.min(bytes.len()));
            parts.push(upload.put_part(part.into()));
        }
        let sent = stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect::<()>().await;
        let completed = match sent {
            Ok(()) => upload.complete().await.map(drop),
            Err(error) => Err(error),
        };
        if completed.is_err() {
            // What is left of it is nobody's, and the store's own rules remove it.
            let _ = upload.abort().await;
        }
        completed
    }

    async fn get(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let got = match self.store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("can't be read", error)),
        }
    }

    fn failed(&self, what: &str, error: StoreError) -> Error {
        Error::new(ErrorKind::Io, format!("the checkpoint storage {} {what}", self.place()))
            .with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_large_checkpoint_goes_in_parts_and_comes_back_whole() {
        let mut objects = Objects::new(Arc::new(InMemory::new()), Path::from("a/b"));
        objects.part_bytes = 1000;
        for length in [0, 999, 1000, 1001, 5000, 12_345_usize] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            objects.write_checkpoint(3, 1, bytes.clone()).await.unwrap();
            assert_eq!(objects.read_checkpoint(3, 1).await.unwrap(), Some(bytes));
        }
        assert_eq!(objects.read_checkpoint(3, 2).await.unwrap(), None);
        assert_eq!(objects.checkpoints().await.unwrap(), [(3, 1)]);
    }
}
