//! What a start does with what an earlier run left behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use milena::{ProducerRecord, TransactionConfig, TransactionState, TransactionalProducer};
use milena_connector::ErrorKind;
use milena_connector::checkpoint::{CheckpointState, CheckpointStore};
use milena_connector::runtime::{Job, JobControl, Restore, Step};
use milena_connector::sink::{Delivery, OnLoss};
use milena_testkit::broker::TransactionVersion;
use support::{OUTPUT, PREFIX, Stage, broker_config, crash_at, job_config, run};

const RECORDS: u64 = 60;
/// Longer than the tests: only the last checkpoint is taken.
const NEVER: Duration = Duration::from_secs(30);

fn quick_copy(stage: &Stage) -> Job {
    Job::from_source(stage.bounded()).to(stage.exactly_once())
}

/// Runs a job up to its only checkpoint: everything is prepared and promised, nothing committed.
async fn prepared(stage: &Stage, dir: &std::path::Path) {
    stage.produce(0..RECORDS).await;
    let control = crash_at(Step::AfterCheckpointWrite, 1);
    run(quick_copy(stage), job_config(dir, 2, NEVER), control).await.unwrap_err();
    assert!(stage.output().await.is_empty(), "nothing is visible before the commit");
    assert_eq!(stage.open_transactions().await.len(), 2);
}

// scenario: 5.6.22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_of_another_process_are_committed() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let stage = Stage::with(broker_config(2, version)).await;
        let dir = tempfile::tempdir().unwrap();
        prepared(&stage, dir.path()).await;
        let report =
            run(quick_copy(&stage), job_config(dir.path(), 3, NEVER), JobControl::new()).await.unwrap();
        assert_eq!((report.restored_from, report.committed_transactions, report.records_in), (Some(1), 2, 0));
        assert!(stage.judge(0..RECORDS).await.is_clean());
    }
}

/// The planted defect: a recovery that forgets what the checkpoint promised. The judge must see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_without_commits_is_noticed() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    prepared(&stage, dir.path()).await;
    {
        let store = CheckpointStore::open(dir.path(), 3, "test").unwrap();
        let stored = store.latest().unwrap().unwrap();
        let mut state = CheckpointState::decode(&stored.body).unwrap();
        assert_eq!(state.committables.len(), 2);
        assert!(state.committables.iter().all(|committable| committable.transaction.start_time_ms.is_some()));
        state.committables.clear();
        store.write(stored.id, &state.encode()).unwrap();
    }
    let report = run(quick_copy(&stage), job_config(dir.path(), 2, NEVER), JobControl::new()).await.unwrap();
    assert_eq!(report.aborted_lingering, 2);
    let verdict = stage.judge(0..RECORDS).await;
    assert_eq!(verdict.lost.len() as u64, RECORDS, "{verdict}");
}

// scenario: 5.6.21, 5.8.9, D5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_are_aborted_and_foreign_transactions_are_not() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let own = [format!("{PREFIX}-0-0"), format!("{PREFIX}-7-3")];
    let foreign = [
        format!("{PREFIX}-1-0-0"),
        format!("{PREFIX}s-0-0"),
        format!("{PREFIX}-a-0"),
        format!("{PREFIX}-00-0"),
    ];
    let mut producers = Vec::new();
    for id in own.iter().chain(&foreign) {
        let config = TransactionConfig::new(id.as_str());
        let mut producer = TransactionalProducer::new(&stage.client, config).unwrap();
        producer.init().await.unwrap();
        producer.begin().await.unwrap();
        producer.send(ProducerRecord::to(OUTPUT).key("k").value("1000")).await.unwrap().await.unwrap();
        producers.push(producer);
    }
    let dir = tempfile::tempdir().unwrap();
    let report = run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert_eq!(report.aborted_lingering, 2, "{report:?}");
    let mut open = stage.open_transactions().await;
    open.sort();
    let mut expected = foreign.to_vec();
    expected.sort();
    assert_eq!(open, expected);
    for producer in producers.iter_mut().skip(own.len()) {
        producer.commit().await.expect("a foreign transaction goes on as if nothing had been");
    }
}

// scenario: 5.6.30, 5.8.15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_are_found_by_probing_where_transactions_cannot_be_listed() {
    const LIST_TRANSACTIONS: i16 = 66;
    let config = broker_config(2, TransactionVersion::V1).with_version_limit(LIST_TRANSACTIONS, -1);
    let stage = Stage::with(config).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let control = crash_at(Step::BeforeCheckpointWrite, 1);
    run(quick_copy(&stage), job_config(dir.path(), 3, NEVER), control).await.unwrap_err();
    let report = run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert!(report.aborted_lingering >= 2, "{report:?}");
    assert!(stage.judge(0..RECORDS).await.is_clean());
}

// scenario: 5.8.6, D2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_timed_out_is_an_error_with_its_place() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let stage = Stage::with(broker_config(1, version)).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let interval = Duration::from_millis(900);
        let job = |on_loss| {
            let sink = stage
                .sink(Delivery::ExactlyOnce)
                .transaction_timeout(Duration::from_secs(1))
                .on_loss(on_loss);
            Job::from_source(stage.bounded()).to(sink.build().unwrap())
        };
        let control = crash_at(Step::AfterCheckpointWrite, 1);
        run(job(OnLoss::Fail), job_config(dir.path(), 1, interval), control).await.unwrap_err();
        tokio::time::timeout(Duration::from_secs(20), async {
            while !stage.open_transactions().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("the broker aborts it");

        for _ in 0..2 {
            let config = job_config(dir.path(), 1, interval);
            let error = run(job(OnLoss::Fail), config, JobControl::new()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
            assert_eq!(error.topic_partition().map(ToString::to_string).as_deref(), Some("out-0"));
            assert_eq!(error.offset().map(|offset| offset.0), Some(0));
            let text = error.to_string();
            assert!(text.contains("job-0-0") && text.contains("timed out"), "{text}");
        }

        let config = job_config(dir.path(), 1, interval);
        let report = run(job(OnLoss::Continue), config, JobControl::new()).await.unwrap();
        assert_eq!(report.lost_transactions, 1);
        assert_eq!(stage.judge(0..RECORDS).await.lost.len() as u64, RECORDS);
    }
}

/// The restored checkpoint's name is in use by a newer, open transaction: that one lingers, the old commit stands.
// scenario: 5.6.16, D6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_transaction_under_a_restored_name_is_aborted() {
    let stage = Stage::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    prepared_single(&stage, dir.path()).await;
    // The process lived on for a moment: it committed, and began the next transaction under the same name.
    let store = CheckpointStore::open(dir.path(), 3, "test").unwrap();
    let state = CheckpointState::decode(&store.latest().unwrap().unwrap().body).unwrap();
    drop(store);
    let old = &state.committables[0].transaction;
    stage.client.transactions().end(old, true).await.unwrap();
    let config = TransactionConfig::new(old.transactional_id.as_str());
    let mut newer = TransactionalProducer::new(&stage.client, config).unwrap();
    newer.init().await.unwrap();
    newer.begin().await.unwrap();
    newer.send(ProducerRecord::to(OUTPUT).key("k").value("1000")).await.unwrap().await.unwrap();
    assert_eq!(stage.open_transactions().await, std::slice::from_ref(&old.transactional_id));

    let report = run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert_eq!((report.committed_transactions, report.aborted_lingering), (1, 1), "{report:?}");
    assert!(stage.open_transactions().await.is_empty());
    let verdict = stage.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
}

async fn prepared_single(stage: &Stage, dir: &std::path::Path) {
    stage.produce(0..RECORDS).await;
    let control = crash_at(Step::AfterCheckpointWrite, 1);
    run(quick_copy(stage), job_config(dir, 1, NEVER), control).await.unwrap_err();
}

// scenario: 5.3.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_checkpoint_can_be_restored_and_numbers_go_on() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    let again = run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert_eq!((again.restored_from, again.last_checkpoint, again.records_in), (Some(1), Some(2), 0));
    let mut config = job_config(dir.path(), 1, NEVER);
    config.checkpoint.restore = Restore::Checkpoint(1);
    let older = run(quick_copy(&stage), config, JobControl::new()).await.unwrap();
    assert_eq!((older.restored_from, older.last_checkpoint), (Some(1), Some(3)));
    assert!(stage.judge(0..RECORDS).await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_newest_checkpoint_is_reported_and_the_previous_one_used() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    }
    let newest = dir.path().join("checkpoint-00000000000000000002");
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let report = run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert_eq!((report.restored_from, report.damaged_checkpoints.len()), (Some(1), 1));
    for id in [1, 2, 3] {
        std::fs::write(dir.path().join(format!("checkpoint-{id:020}")), b"rubbish").unwrap();
    }
    let error =
        run(quick_copy(&stage), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "never a silent fresh start: {error}");
}

/// Exactly once before, at least once now: what was promised is still kept, what lingers still cleaned up.
// scenario: 5.3.11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_to_at_least_once_keeps_old_promises() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    prepared(&stage, dir.path()).await;
    let sink = stage.sink(Delivery::AtLeastOnce).build().unwrap();
    let job = Job::from_source(stage.bounded()).to(sink);
    let report = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert_eq!(report.committed_transactions, 2);
    assert!(stage.judge(0..RECORDS).await.is_clean());
    let states = stage.client.transactions().describe(&[format!("{PREFIX}-0-0")]).await.unwrap();
    assert_eq!(states[0].state, TransactionState::CompleteCommit);
}

/// A source that was endless and is bounded now ends at the end of the log, and the other way round it reads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_may_become_bounded_and_endless_again() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    for life in 0..4 {
        stage.produce(life * RECORDS..(life + 1) * RECORDS).await;
        let config = job_config(dir.path(), 2, NEVER);
        let control = JobControl::new();
        let report = if life % 2 == 0 {
            let metrics = control.metrics();
            let endless = Job::from_source(stage.source().build().unwrap()).to(stage.exactly_once());
            let running = tokio::spawn(run(endless, config, control.clone()));
            support::wait_for("it reads", || metrics.borrow().records_out == RECORDS).await;
            control.stop();
            running.await.unwrap().unwrap()
        } else {
            run(quick_copy(&stage), config, control).await.unwrap()
        };
        assert_eq!(report.records_in, RECORDS, "life {life}");
    }
    let verdict = stage.judge(0..4 * RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
}
