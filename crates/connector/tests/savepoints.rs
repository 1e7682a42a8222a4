//! Savepoints, several checkpoints in flight, restarts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use milena_connector::ErrorKind;
use milena_connector::checkpoint::{
    CheckpointId, CheckpointStorage, CheckpointStore, Storage, StorageLock, inspect,
};
use milena_connector::runtime::{CheckpointConfig, Job, JobConfig, JobControl, Restore};
use support::{Stage, job_config, run, wait_for};

const RECORDS: u64 = 400;

fn endless(stage: &Stage) -> Job {
    Job::from_source(stage.source().build().unwrap()).to(stage.exactly_once())
}

// scenario: 5.4.12, 5.6.12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_from_a_savepoint_that_its_retention_never_touches() {
    let stage = Stage::new(2).await;
    let (dir, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stage.produce(0..RECORDS).await;
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = job_config(dir.path(), 2, Duration::from_millis(20));
    let running = tokio::spawn(run(endless(&stage), config, control.clone()));
    wait_for("it reads", || metrics.borrow().records_in == RECORDS).await;
    let savepoint = control.savepoint(saved.path()).await.unwrap();
    assert_eq!(savepoint.place, saved.path().display().to_string());
    wait_for("checkpoints go on", || metrics.borrow().last_checkpoint > Some(savepoint.checkpoint + 5)).await;
    control.stop();
    running.await.unwrap().unwrap();
    assert!(inspect(dir.path(), Some(savepoint.checkpoint)).is_err(), "the job's own copy is gone");
    assert_eq!(inspect(saved.path(), None).unwrap().id, savepoint.checkpoint);

    // Another job takes it from there, with its own directory, twice as wide.
    stage.produce(RECORDS..2 * RECORDS).await;
    let new = tempfile::tempdir().unwrap();
    let mut config = job_config(new.path(), 4, Duration::from_secs(30));
    config.checkpoint.restore = Restore::Savepoint(saved.path().into());
    let bounded = Job::from_source(stage.bounded()).to(stage.exactly_once());
    let report = run(bounded, config, JobControl::new()).await.unwrap();
    assert_eq!((report.restored_from, report.records_in), (Some(savepoint.checkpoint), RECORDS));
    assert!(report.last_checkpoint > Some(savepoint.checkpoint), "{report:?}");
    let verdict = stage.judge(0..2 * RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
}

// scenario: 5.1.23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_a_savepoint_saves_the_last_checkpoint() {
    let stage = Stage::new(1).await;
    let (dir, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stage.produce(0..RECORDS).await;
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = job_config(dir.path(), 1, Duration::from_secs(30));
    let running = tokio::spawn(run(endless(&stage), config, control.clone()));
    wait_for("it reads", || metrics.borrow().records_in == RECORDS).await;
    let savepoint = control.stop_with_savepoint(saved.path()).await.unwrap();
    let report = running.await.unwrap().unwrap();
    assert_eq!(report.last_checkpoint, Some(savepoint.checkpoint));
    assert_eq!(inspect(saved.path(), None).unwrap().splits[0].next_offset.0, 400);
    assert!(stage.judge(0..RECORDS).await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_fails_does_not_fail_the_job() {
    let stage = Stage::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    stage.produce(0..RECORDS).await;
    let file = dir.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = job_config(&dir.path().join("own"), 1, Duration::from_secs(30));
    let running = tokio::spawn(run(endless(&stage), config, control.clone()));
    wait_for("it reads", || metrics.borrow().records_in == RECORDS).await;
    assert_eq!(control.savepoint(&file).await.unwrap_err().kind(), ErrorKind::Io);
    let taken = dir.path().join("taken");
    let _other = CheckpointStore::open(&taken, 1, "another").unwrap();
    assert_eq!(control.savepoint(&taken).await.unwrap_err().kind(), ErrorKind::Misuse);
    control.stop();
    running.await.unwrap().unwrap();
    let late = control.savepoint(&file).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed, "nobody is there to take it");
}

/// A directory whose writes take as long as the test wants.
#[derive(Clone)]
struct Slow {
    dir: Storage,
    store: Arc<CheckpointStore>,
    takes: Duration,
    writing: Arc<AtomicUsize>,
}

impl Slow {
    fn path(&self, id: CheckpointId) -> PathBuf {
        self.store.dir().join(format!("checkpoint-{id:020}"))
    }
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slow")
    }
}

impl StorageLock for Slow {
    fn write<'a>(
        &'a self,
        id: CheckpointId,
        bytes: Vec<u8>,
        surplus: &'a [CheckpointId],
    ) -> BoxFuture<'a, milena_connector::Result<()>> {
        Box::pin(async move {
            assert_eq!(self.writing.fetch_add(1, Ordering::SeqCst), 0, "one is written at a time");
            tokio::time::sleep(self.takes).await;
            std::fs::write(self.path(id), bytes).unwrap();
            for &old in surplus {
                std::fs::remove_file(self.path(old)).unwrap();
            }
            self.writing.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl CheckpointStorage for Slow {
    fn place(&self) -> String {
        self.dir.place()
    }

    fn lock<'a>(&'a self, _: &'a str) -> BoxFuture<'a, milena_connector::Result<Box<dyn StorageLock>>> {
        Box::pin(async { Ok(Box::new(self.clone()) as Box<dyn StorageLock>) })
    }

    fn list(&self) -> BoxFuture<'_, milena_connector::Result<Vec<CheckpointId>>> {
        Box::pin(async { self.store.list() })
    }

    fn read(&self, id: CheckpointId) -> BoxFuture<'_, milena_connector::Result<Vec<u8>>> {
        Box::pin(async move { Ok(std::fs::read(self.path(id)).unwrap()) })
    }
}

// scenario: 5.6.6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_concurrent_checkpoints_a_slow_storage_holds_more_than_one_transaction_and_output_is_exact() {
    for (max_concurrent, most) in [(1, 1), (3, 3)] {
        let stage = Stage::new(2).await;
        let dir = tempfile::tempdir().unwrap();
        let slow = Slow {
            dir: dir.path().into(),
            store: Arc::new(CheckpointStore::open(dir.path(), 3, "x").unwrap()),
            takes: Duration::from_millis(200),
            writing: Arc::default(),
        };
        let checkpoint = CheckpointConfig {
            interval: Duration::from_millis(30),
            max_concurrent,
            ..CheckpointConfig::new(Storage::new(slow))
        };
        let config = JobConfig { parallelism: 2, checkpoint, ..JobConfig::new("test") };
        let control = JobControl::new();
        let metrics = control.metrics();
        let running = tokio::spawn(run(endless(&stage), config, control.clone()));
        let mut peak = 0;
        for life in 0..20 {
            stage.produce(life * 20..(life + 1) * 20).await;
            tokio::time::sleep(Duration::from_millis(40)).await;
            peak = peak.max(metrics.borrow().pending_commits);
        }
        wait_for("it reads", || metrics.borrow().records_in == RECORDS).await;
        control.stop();
        running.await.unwrap().unwrap();
        // Two subtasks prepare one transaction each for a checkpoint; one more may wait for its commit.
        assert!(peak <= 2 * (most + 1), "{peak} with {max_concurrent}");
        if max_concurrent > 1 {
            assert!(peak > 2, "{peak}: never two in flight");
        }
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "{verdict}");
        assert!(stage.open_transactions().await.is_empty());
    }
}
