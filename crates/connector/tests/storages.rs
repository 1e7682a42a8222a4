//! The storage suite, on directories, and on storages that break a rule each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use milena_connector::checkpoint::{
    CheckpointId, CheckpointStorage, CheckpointStore, Checkpoints, Storage, StorageLock,
};
use milena_connector::conformance::check_storage;
use milena_connector::{Error, ErrorKind, Result};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let passed = check_storage(|place| Storage::directory(dir.path().join(place))).await.unwrap();
    assert_eq!(passed.len(), 7);
}

/// A write that nobody waits for any more is still at work on a thread, and must not meet that of the next who has the directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_given_back_behind_a_write_that_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::directory(dir.path());
    let take = async || loop {
        match Checkpoints::open(&storage, 1, "job").await {
            Ok(job) => break job,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Misuse, "{error}"),
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    };
    let old = vec![1; 3 << 20];
    for round in 0..40_u64 {
        let job = take().await;
        let id = job.next_id().await.unwrap();
        let dropped = tokio::time::timeout(Duration::from_micros(round * 100), job.write(id, &old)).await;
        match round % 3 {
            0 => job.release().await,
            _ => drop(job),
        }
        let job = take().await;
        if dropped.is_err() {
            // As by a job that had not seen what the other one wrote.
            job.write(id, b"new").await.unwrap();
            let newest = job.latest().await.unwrap().unwrap();
            assert_eq!((newest.id, &newest.body[..]), (id, &b"new"[..]), "round {round}");
        }
        drop(job);
    }
}

/// A rule that a storage may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Two jobs may have it.
    SharesTheLock,
    /// Who has it is not said.
    NamesNobody,
    /// It is never free again.
    NeverGivesBack,
    /// The last byte is lost.
    CutsShort,
    /// A checkpoint is seen before it is whole.
    WritesInPlace,
    /// What is not needed any more stays.
    KeepsEverything,
    /// One more goes than may.
    RemovesTooMany,
    /// The old ones go before the new one is there.
    RemovesFirst,
    /// Numbers are not in order.
    ListsInDisorder,
}

/// Files in a directory, with a lock that is a file.
#[derive(Clone, Debug)]
struct Flawed {
    dir: PathBuf,
    flaw: Flaw,
}

impl Flawed {
    fn path(&self, id: CheckpointId) -> PathBuf {
        self.dir.join(format!("checkpoint-{id:020}"))
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join("lock")
    }
}

#[derive(Debug)]
struct Held(Flawed);

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.flaw != Flaw::NeverGivesBack {
            // With a shared lock it is gone already.
            let _ = std::fs::remove_file(self.0.lock_file());
        }
    }
}

fn io(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "no").with_source(error)
}

impl CheckpointStorage for Flawed {
    fn place(&self) -> String {
        self.dir.display().to_string()
    }

    fn lock<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<Box<dyn StorageLock>>> {
        Box::pin(async move {
            std::fs::create_dir_all(&self.dir).unwrap();
            if self.lock_file().exists() && self.flaw != Flaw::SharesTheLock {
                let owner = match self.flaw {
                    Flaw::NamesNobody => String::from("somebody"),
                    _ => std::fs::read_to_string(self.lock_file()).unwrap(),
                };
                return Err(Error::new(ErrorKind::Misuse, format!("it is in use by {owner}")));
            }
            std::fs::write(self.lock_file(), job).unwrap();
            Ok(Box::new(Held(self.clone())) as Box<dyn StorageLock>)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<CheckpointId>>> {
        Box::pin(async {
            let mut ids = CheckpointStore::look_at(&self.dir)?.list()?;
            if self.flaw == Flaw::ListsInDisorder {
                ids.reverse();
            }
            Ok(ids)
        })
    }

    fn read(&self, id: CheckpointId) -> BoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move { std::fs::read(self.path(id)).map_err(io) })
    }
}

impl StorageLock for Held {
    fn write<'a>(
        &'a self,
        id: CheckpointId,
        mut bytes: Vec<u8>,
        surplus: &'a [CheckpointId],
    ) -> BoxFuture<'a, Result<()>> {
        let Self(own) = self;
        Box::pin(async move {
            let remove = || {
                for &old in surplus {
                    let _ = std::fs::remove_file(own.path(old));
                }
            };
            match own.flaw {
                Flaw::CutsShort => drop(bytes.pop()),
                Flaw::WritesInPlace => {
                    std::fs::write(own.path(id), &bytes[..bytes.len() / 2]).unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Flaw::RemovesFirst => {
                    remove();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => {}
            }
            let hidden = own.dir.join(".new");
            std::fs::write(&hidden, bytes).unwrap();
            std::fs::rename(hidden, own.path(id)).unwrap();
            if own.flaw != Flaw::KeepsEverything {
                remove();
            }
            if own.flaw == Flaw::RemovesTooMany {
                let kept = CheckpointStore::look_at(&own.dir).unwrap().list().unwrap();
                std::fs::remove_file(own.path(kept[0])).unwrap();
            }
            Ok(())
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async { drop(self) })
    }
}

async fn check(dir: &Path, flaw: Flaw) -> std::result::Result<Vec<&'static str>, String> {
    let open = |place: &str| Storage::new(Flawed { dir: dir.join(format!("{flaw:?}")).join(place), flaw });
    check_storage(open).await.map_err(|failure| failure.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_rule_of_a_storage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    check(dir.path(), Flaw::None).await.unwrap();
    for (flaw, case) in [
        (Flaw::SharesTheLock, "one job at a time"),
        (Flaw::NamesNobody, "one job at a time"),
        (Flaw::NeverGivesBack, "the newest counts and the oldest go"),
        (Flaw::CutsShort, "what is written is read"),
        (Flaw::WritesInPlace, "who looks sees whole checkpoints"),
        (Flaw::KeepsEverything, "the newest counts and the oldest go"),
        (Flaw::RemovesTooMany, "what is written is read"),
        (Flaw::RemovesFirst, "a write that is dropped"),
        (Flaw::ListsInDisorder, "the newest counts and the oldest go"),
    ] {
        let failure = check(dir.path(), flaw).await.expect_err(&format!("{flaw:?} is not noticed"));
        assert!(failure.starts_with(case), "{flaw:?}: {failure}");
    }
}

/// A storage that a job has is given back when its handle goes, and not before.
#[tokio::test]
async fn a_storage_is_its_jobs_as_long_as_the_handle_lives() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::directory(dir.path());
    let held = Arc::new(Checkpoints::open(&storage, 1, "first").await.unwrap());
    let other = Arc::clone(&held);
    drop(held);
    assert_eq!(Checkpoints::open(&storage, 1, "second").await.unwrap_err().kind(), ErrorKind::Misuse);
    drop(other);
    Checkpoints::open(&storage, 1, "second").await.unwrap();
}
