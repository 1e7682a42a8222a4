//! Checkpoints in object stores: the storage suite, a store that fails at each request, a holder that was replaced, jobs.
#![cfg(feature = "object-store")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;
mod troubled_store;

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use milena_connector::ErrorKind;
use milena_connector::checkpoint::{Checkpoints, ObjectStorage, Storage};
use milena_connector::conformance::check_storage;
use milena_connector::runtime::{CheckpointConfig, Job, JobConfig, JobControl, Step, Verdict};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{Stage, run};
use troubled_store::{Trouble, Troubled};

/// Renewed in time on a loaded machine too.
const LEASE: Duration = Duration::from_secs(2);
/// Where nobody renews it.
const SHORT: Duration = Duration::from_millis(100);

fn storage(store: &Arc<impl ObjectStore>, prefix: &str) -> Storage {
    let store = Arc::clone(store);
    ObjectStorage::new(store, prefix).lease(LEASE).into()
}

fn short_lived(store: &Arc<impl ObjectStore>, prefix: &str) -> Storage {
    let store = Arc::clone(store);
    ObjectStorage::new(store, prefix).lease(SHORT).into()
}

async fn names(store: &dyn ObjectStore, folder: &str) -> Vec<String> {
    let listed: Vec<_> = store.list(Some(&Path::from(folder))).try_collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|object| object.location.to_string()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_stores_keep_the_rules() {
    let memory = Arc::new(InMemory::new());
    assert_eq!(check_storage(|place| storage(&memory, place)).await.unwrap().len(), 7);
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    assert_eq!(check_storage(|place| storage(&files, place)).await.unwrap().len(), 7);
}

/// A job that writes four checkpoints and keeps two. Returns the last that it knows to be there.
async fn script(storage: &Storage) -> u64 {
    let Ok(job) = Checkpoints::open(storage, 2, "first").await else { return 0 };
    let mut known = 0;
    for id in 1..=4_u64 {
        if job.write(id, &id.to_be_bytes()).await.is_err() {
            break;
        }
        known = id;
    }
    job.release().await;
    known
}

/// The store stops answering, with its `nth` request or right after it; or it only loses one answer. What was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_request_loses_nothing_and_leaves_nothing() {
    for trouble in [Trouble::Dies, Trouble::DiesAfter, Trouble::LosesAnAnswer, Trouble::SendsTwice] {
        let mut nth = 0;
        loop {
            let memory = Arc::new(InMemory::new());
            let troubled = Arc::new(Troubled::new(Arc::clone(&memory), trouble, nth));
            let known = script(&short_lived(&troubled, "job")).await;
            let at = format!("{trouble:?} at request {nth}, {known} known to be written");
            let job = Checkpoints::open(&storage(&memory, "job"), 2, "second").await.unwrap();
            let seen = job.latest().await.unwrap();
            let newest = seen.as_ref().map_or(0, |seen| seen.id);
            assert!(newest == known || newest == known + 1, "{at}: {newest} is there");
            if let Some(seen) = seen {
                assert_eq!(seen.body, newest.to_be_bytes(), "{at}");
                assert!(seen.damaged.is_empty(), "{at}");
            }
            if newest >= 2 {
                assert_eq!(job.load(newest - 1).await.unwrap().body, (newest - 1).to_be_bytes(), "{at}");
            }
            let next = job.next_id().await.unwrap();
            assert_eq!(next, newest + 1, "{at}");
            job.write(next, b"goes on").await.unwrap();
            let left = names(&*memory, "job/checkpoints").await;
            assert_eq!(left.len(), usize::try_from(next.min(2)).unwrap(), "{at}: {left:?}");
            job.release().await;
            assert_eq!(names(&*memory, "job/heads").await.len(), 1, "{at}");
            if trouble == Trouble::SendsTwice || !troubled.has_struck() {
                assert_eq!(known, 4, "{at}");
            }
            if !troubled.has_struck() {
                break;
            }
            nth += 1;
        }
        assert!(nth > 25, "{trouble:?}: the script has {nth} requests");
    }
}

/// The first holder hangs in a request while another takes the storage and goes far ahead: its own numbers are free again by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_holder_can_not_complete_a_checkpoint() {
    let memory = Arc::new(InMemory::new());
    for nth in 0..6 {
        let prefix = format!("job-{nth}");
        let gate = Arc::new(Troubled::new(Arc::clone(&memory), Trouble::None, 0));
        let first = Arc::new(Checkpoints::open(&short_lived(&gate, &prefix), 2, "first").await.unwrap());
        first.write(1, b"one").await.unwrap();
        gate.close_after(nth);
        let writer = Arc::clone(&first);
        let late = tokio::spawn(async move { writer.write(2, b"by the first").await });
        let own = storage(&memory, &prefix);
        let second = loop {
            match Checkpoints::open(&own, 2, "second").await {
                Ok(second) => break second,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Misuse),
            }
        };
        // The closed gate may have let the whole write through.
        let before = second.latest().await.unwrap().unwrap();
        let done = before.id == 2;
        assert!(done || before.body == b"one");
        let from = second.next_id().await.unwrap();
        for id in from..from + 5 {
            second.write(id, b"by the second").await.unwrap();
        }
        gate.open();
        let late = late.await.unwrap();
        let after = first.write(9, b"by the first").await.unwrap_err();
        assert_eq!(after.kind(), ErrorKind::Misuse, "{after}");
        if !done {
            let error = late.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misuse, "closed after {nth}: {error}");
            assert!(error.to_string().contains("taken by another job"), "{error}");
        }
        let newest = second.latest().await.unwrap().unwrap();
        assert_eq!((newest.id, newest.body.as_slice()), (from + 4, b"by the second".as_slice()));
        second.write(from + 5, b"by the second").await.unwrap();
        second.release().await;
        drop(first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_kept_while_its_job_does_nothing_and_is_over_when_it_is_gone() {
    let memory = Arc::new(InMemory::new());
    let gate = Arc::new(Troubled::new(Arc::clone(&memory), Trouble::None, 0));
    let first = Checkpoints::open(&storage(&gate, "job"), 2, "first").await.unwrap();
    first.write(1, b"one").await.unwrap();
    tokio::time::sleep(LEASE + LEASE / 2).await;
    let error = Checkpoints::open(&storage(&memory, "job"), 2, "second").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains("job first"), "{error}");
    first.write(2, b"two").await.unwrap();
    gate.close_after(0);
    let began = std::time::Instant::now();
    let second = Checkpoints::open(&storage(&memory, "job"), 2, "second").await.unwrap();
    assert!(began.elapsed() >= LEASE);
    assert_eq!(second.latest().await.unwrap().unwrap().id, 2);
}

/// A renewal that was made and not known to be is no other holder's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_answer_is_lost_costs_nothing() {
    let memory = Arc::new(InMemory::new());
    let count = Arc::new(Troubled::new(Arc::clone(&memory), Trouble::None, 0));
    let (lease, troubled) = (Duration::from_secs(1), |at| {
        Arc::new(Troubled::new(Arc::clone(&memory), Trouble::LosesAnAnswer, at))
    });
    let open = async |store: Arc<Troubled>, prefix: &str| {
        let storage = ObjectStorage::new(store, prefix).lease(lease).into();
        Checkpoints::open(&storage, 2, "first").await.unwrap()
    };
    let job = open(Arc::clone(&count), "counted").await;
    job.write(1, b"one").await.unwrap();
    let store = troubled(count.requests());
    let job = open(Arc::clone(&store), "job").await;
    job.write(1, b"one").await.unwrap();
    assert!(!store.has_struck());
    // The next request is a renewal's, and so is the one after it.
    support::wait_for("a renewal", || store.has_struck()).await;
    job.write(2, b"two").await.unwrap();
    assert_eq!(job.latest().await.unwrap().unwrap().body, b"two");
}

#[tokio::test]
async fn what_can_not_be_read_is_never_taken_for_an_empty_place() {
    let memory = Arc::new(InMemory::new());
    let path = Path::from("job/heads/00000000000000000005");
    for text in ["", "{}", "{\"format\": 2}", "{\"format\": 1}"] {
        memory.put(&path, text.into()).await.unwrap();
        let error = Checkpoints::open(&storage(&memory, "job"), 2, "first").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_an_object_store_is_exact_through_a_crash_at_each_step() {
    const RECORDS: u64 = 300;
    for step in Step::ALL {
        let stage = Stage::new(2).await;
        stage.produce(0..RECORDS).await;
        let memory = Arc::new(InMemory::new());
        let config = |parallelism| JobConfig {
            parallelism,
            checkpoint: CheckpointConfig {
                interval: Duration::from_millis(30),
                ..CheckpointConfig::new(storage(&memory, "job"))
            },
            ..JobConfig::new("test")
        };
        let job = || Job::from_source(stage.bounded()).to(stage.exactly_once());
        let hooks = move |at: Step, _: Option<u32>| match at == step {
            true => Verdict::Crash,
            false => Verdict::Continue,
        };
        let crashed = run(job(), config(2), JobControl::with_hooks(hooks)).await;
        assert!(crashed.unwrap_err().to_string().contains("crashed by a hook"), "{step:?}");
        let report = run(job(), config(3), JobControl::new()).await.unwrap();
        assert!(report.last_checkpoint.is_some(), "{step:?}");
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "{step:?}: {verdict}");
        assert!(stage.open_transactions().await.is_empty(), "{step:?}");
    }
}
