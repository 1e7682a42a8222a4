//! The sink's three promises, and what a start does with what earlier runs left.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{ProducerRecord, TransactionConfig, TransactionState, TransactionalProducer};
use milena_connector::ErrorKind;
use milena_connector::runtime::{FixedDelay, Job, JobControl, Restart, Step};
use milena_connector::schema::{OwnedKafkaRecord, StringSerializer};
use milena_connector::sink::{Delivery, KafkaSink, OnLoss};
use milena_connector::source::StopAt;
use milena_tests::jobs::{Running, Stage, crash_at, job_config, run};
use milena_tests::records::eventually;

const RECORDS: u64 = 210;
const INTERVAL: Duration = Duration::from_millis(100);
/// Longer than the tests: only the last checkpoint is taken.
const NEVER: Duration = Duration::from_secs(30);

fn bounded(stage: &Stage, delivery: Delivery) -> Job {
    Job::from_source(stage.source().bounded(StopAt::Latest).build().unwrap())
        .to(stage.sink(delivery).build().unwrap())
}

/// Runs a job up to its only checkpoint: everything is prepared and promised, nothing committed.
async fn prepared(stage: &Stage, dir: &Path, parallelism: u32) {
    stage.produce(0..RECORDS).await;
    let control = crash_at(Step::AfterCheckpointWrite, 1);
    let job = bounded(stage, Delivery::ExactlyOnce);
    run(job, job_config(dir, parallelism, NEVER), control).await.unwrap_err();
    assert_eq!(stage.committed().await, 0, "nothing is visible before the commit");
    assert!(!stage.open_transactions(&stage.prefix).await.is_empty());
}

async fn clean(stage: &Stage, records: u64) {
    let verdict = stage.judge(0..records).await;
    assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
    let open = stage.open_transactions(&stage.prefix).await;
    assert!(open.is_empty(), "{}: {open:?}", stage.env.describe());
}

// scenario: 5.6.1, 5.6.2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_troubles_is_whole_with_every_promise() {
    for delivery in [Delivery::None, Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        for stage in Stage::each(3).await {
            stage.produce(0..RECORDS).await;
            let dir = tempfile::tempdir().unwrap();
            let report =
                run(bounded(&stage, delivery), job_config(dir.path(), 2, INTERVAL), JobControl::new())
                    .await
                    .unwrap();
            assert_eq!((report.records_in, report.records_out), (RECORDS, RECORDS), "{delivery:?}");
            assert_eq!(report.committed_transactions > 0, delivery == Delivery::ExactlyOnce);
            clean(&stage, RECORDS).await;
        }
    }
}

// scenario: D24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_becomes_visible_with_checkpoints_only() {
    for stage in Stage::each(2).await {
        stage.produce(0..RECORDS).await;
        let job = Job::from_source(stage.source().build().unwrap())
            .to(stage.sink(Delivery::ExactlyOnce).build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 2, Duration::from_secs(15)));
        running.until("all records", |metrics| metrics.records_out == RECORDS).await;
        assert_eq!(stage.committed().await, 0, "{}", stage.env.describe());
        running.stop().await.unwrap();
        clean(&stage, RECORDS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_least_once_after_a_crash_loses_nothing() {
    for stage in Stage::each(2).await {
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let job = || bounded(&stage, Delivery::AtLeastOnce);
        let crash = crash_at(Step::BeforeCheckpointWrite, 1);
        run(job(), job_config(dir.path(), 2, NEVER), crash).await.unwrap_err();
        run(job(), job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{}: {verdict}", stage.env.describe());
        assert_eq!(verdict.duplicated.len() as u64, RECORDS, "the first life flushed all of it: {verdict}");
    }
}

// scenario: 5.3.7, 5.6.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_survives_crashes_and_other_parallelisms() {
    for stage in Stage::each(3).await {
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let lives = [
            (Step::AfterPrepare, 2, 3),
            (Step::AfterCheckpointWrite, 1, 1),
            (Step::AfterCommitSent, 1, 4),
            (Step::BeforeCommit, 2, 2),
        ];
        let mut crashes = 0;
        for (step, nth, parallelism) in lives {
            let config = job_config(dir.path(), parallelism, INTERVAL);
            if let Err(error) = run(stage.copy_job(), config, crash_at(step, nth)).await {
                assert!(error.to_string().contains("crashed by a hook"), "{step:?}: {error}");
                crashes += 1;
            }
        }
        assert!(crashes > 0, "no life was cut short");
        run(stage.copy_job(), job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap();
        clean(&stage, RECORDS).await;
    }
}

/// A function that fails now and then, in a job that restarts by itself.
// scenario: 5.3.21, 5.6.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_function_costs_repetitions_only_where_they_are_allowed() {
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        for stage in Stage::each(2).await {
            stage.produce(0..RECORDS).await;
            let failures = Arc::new(AtomicU32::new(0));
            let failing = Arc::clone(&failures);
            let job = Job::from_source(stage.source().bounded(StopAt::Latest).build().unwrap())
                .try_map(move |record: OwnedKafkaRecord| {
                    let due = [30, 60].contains(&record.offset.0);
                    match due && failing.fetch_add(1, Ordering::SeqCst) < 3 {
                        true => Err("not yet".into()),
                        false => Ok(record),
                    }
                })
                .to(stage.sink(delivery).build().unwrap());
            let dir = tempfile::tempdir().unwrap();
            let mut config = job_config(dir.path(), 2, INTERVAL);
            config.restart =
                Restart::FixedDelay(FixedDelay { attempts: 5, delay: Duration::from_millis(10) });
            let report = run(job, config, JobControl::new()).await.unwrap();
            assert!(report.restarts >= 1 && failures.load(Ordering::SeqCst) >= 3, "{report:?}");
            if delivery == Delivery::ExactlyOnce {
                clean(&stage, RECORDS).await;
            } else {
                let verdict = stage.judge(0..RECORDS).await;
                let whole = verdict.lost.is_empty() && verdict.foreign.is_empty();
                assert!(whole, "{}: {verdict}", stage.env.describe());
            }
        }
    }
}

/// Two lives begin with the same checkpoint and end before their first own one.
// scenario: 5.3.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_restored_twice_is_committed_once() {
    for stage in Stage::each(2).await {
        let dir = tempfile::tempdir().unwrap();
        prepared(&stage, dir.path(), 2).await;
        for number in 1..=2 {
            stage.produce(number * RECORDS..(number + 1) * RECORDS).await;
            let control = crash_at(Step::BeforeCheckpointWrite, 1);
            let metrics = control.metrics();
            let job = bounded(&stage, Delivery::ExactlyOnce);
            run(job, job_config(dir.path(), 2, NEVER), control).await.unwrap_err();
            assert_eq!(metrics.borrow().restored_from, Some(1), "{}", stage.env.describe());
            let open = stage.open_transactions(&stage.prefix).await;
            assert!(!open.is_empty(), "what the life wrote is left behind");
            let verdict = stage.judge(0..RECORDS).await;
            assert!(verdict.is_clean(), "{}, life {number}: {verdict}", stage.env.describe());
        }
        let job = bounded(&stage, Delivery::ExactlyOnce);
        let last = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
        assert_eq!((last.restored_from, last.records_in), (Some(1), 2 * RECORDS));
        clean(&stage, 3 * RECORDS).await;
    }
}

/// Partitions that are added while a job runs are written without a restart.
// scenario: D20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_added_are_written() {
    for stage in Stage::each(1).await {
        let mut client = stage.env.config();
        client.metadata_max_age = Duration::from_millis(300);
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let telling = Arc::clone(&seen);
        let sink = KafkaSink::builder()
            .client(client)
            .serializer(StringSerializer::new(stage.output.as_str()))
            .on_written(move |metadata| {
                telling.lock().unwrap().insert(metadata.topic_partition.partition.0);
            });
        // Large enough that a record without a key goes to another partition after a few.
        let job = Job::from_source(stage.source().build().unwrap())
            .map(|record: OwnedKafkaRecord| "large".repeat(500 + record.offset.0 as usize % 7))
            .to(sink.build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 1, INTERVAL));
        stage.produce(0..RECORDS).await;
        let told = || !seen.lock().unwrap().is_empty();
        running.until("the first records", |metrics| metrics.records_out == RECORDS && told()).await;
        assert_eq!(*seen.lock().unwrap(), BTreeSet::from([0]), "{}", stage.env.describe());
        stage.client.admin().add_partitions(&stage.output, 3).await.unwrap();
        for round in 1..200 {
            stage.produce(1000..1000 + RECORDS).await;
            running.until("more records", |metrics| metrics.records_out == (round + 1) * RECORDS).await;
            if *seen.lock().unwrap() == BTreeSet::from([0, 1, 2]) {
                break;
            }
        }
        assert_eq!(*seen.lock().unwrap(), BTreeSet::from([0, 1, 2]), "{}", stage.env.describe());
        running.stop().await.unwrap();
    }
}

// scenario: 5.3.3, 5.6.22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_prepared_is_committed_by_recovery() {
    for stage in Stage::each(2).await {
        let dir = tempfile::tempdir().unwrap();
        prepared(&stage, dir.path(), 2).await;
        let job = bounded(&stage, Delivery::ExactlyOnce);
        let report = run(job, job_config(dir.path(), 3, NEVER), JobControl::new()).await.unwrap();
        assert_eq!((report.restored_from, report.records_in), (Some(1), 0), "{}", stage.env.describe());
        assert!(report.committed_transactions >= 1);
        clean(&stage, RECORDS).await;
        // A third life finds it all done.
        let job = bounded(&stage, Delivery::ExactlyOnce);
        run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
        clean(&stage, RECORDS).await;
    }
}

/// Transactions of this prefix that no checkpoint knows are aborted; those of `PREFIX-1` and other names are left alone.
// scenario: 5.8.9, D5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_are_aborted_and_foreign_prefixes_untouched() {
    for stage in Stage::each(1).await {
        stage.produce(0..RECORDS).await;
        let prefix = &stage.prefix;
        let own = [format!("{prefix}-0-0"), format!("{prefix}-7-3")];
        let foreign = [format!("{prefix}-1-0-0"), format!("{prefix}s-0-0"), format!("{prefix}-a-0")];
        let mut producers = Vec::new();
        for id in own.iter().chain(&foreign) {
            let mut producer =
                TransactionalProducer::new(&stage.client, TransactionConfig::new(id.as_str())).unwrap();
            producer.init().await.unwrap();
            producer.begin().await.unwrap();
            let record = ProducerRecord::to(&stage.output).key("key-0").value("9999");
            producer.send(record).await.unwrap().await.unwrap();
            producers.push(producer);
        }
        let dir = tempfile::tempdir().unwrap();
        let job = bounded(&stage, Delivery::ExactlyOnce);
        let report = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
        assert_eq!(report.aborted_lingering, 2, "{}: {report:?}", stage.env.describe());
        let mut expected = foreign.to_vec();
        expected.sort();
        assert_eq!(stage.open_transactions(prefix).await, expected, "{}", stage.env.describe());
        for (place, producer) in producers.iter_mut().enumerate() {
            if place < own.len() {
                assert!(producer.commit().await.is_err(), "{}", stage.env.describe());
            } else {
                producer.abort().await.expect("a foreign transaction goes on as if nothing had been");
            }
        }
        eventually(stage.env.describe(), || stage.committed(), RECORDS as usize).await;
        clean(&stage, RECORDS).await;
    }
}

/// A life whose transactions never came into a checkpoint leaves them open; the next one aborts them and writes again.
// scenario: 5.3.6, 5.6.8, 5.6.21, D1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_open_at_a_crash_is_aborted_at_once() {
    for stage in Stage::each(2).await {
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let crash = crash_at(Step::BeforeCheckpointWrite, 1);
        let job = bounded(&stage, Delivery::ExactlyOnce);
        run(job, job_config(dir.path(), 3, NEVER), crash).await.unwrap_err();
        let open = stage.open_transactions(&stage.prefix).await.len() as u64;
        assert!(open > 0);
        let job = bounded(&stage, Delivery::ExactlyOnce);
        let report = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
        assert_eq!(report.aborted_lingering, open, "{}", stage.env.describe());
        clean(&stage, RECORDS).await;
    }
}

/// Prepared, promised by a checkpoint, and then aborted by the broker: an error that names topic and offsets, or, if the user
/// said so, a number in the report.
// scenario: 5.8.6, D2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_timed_out_before_its_commit_is_a_named_loss() {
    for stage in Stage::each(1).await {
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let job = |on_loss: OnLoss| {
            let sink = stage
                .sink(Delivery::ExactlyOnce)
                .transaction_timeout(Duration::from_secs(2))
                .on_loss(on_loss)
                .build();
            Job::from_source(stage.source().bounded(StopAt::Latest).build().unwrap()).to(sink.unwrap())
        };
        let config = || job_config(dir.path(), 1, Duration::from_millis(1500));
        run(job(OnLoss::Fail), config(), crash_at(Step::AfterCheckpointWrite, 1)).await.unwrap_err();
        let ids = stage.open_transactions(&stage.prefix).await;
        assert_eq!(ids.len(), 1);
        let transactions = stage.client.transactions();
        eventually(
            stage.env.describe(),
            || async { transactions.describe(&ids).await.unwrap()[0].state.clone() },
            TransactionState::CompleteAbort,
        )
        .await;
        let error = run(job(OnLoss::Fail), config(), JobControl::new()).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{}: {text}", stage.env.describe());
        let place = format!("{}-0 from offset 0", stage.output);
        assert!(text.contains(&place), "{}: {text}", stage.env.describe());
        let report = run(job(OnLoss::Continue), config(), JobControl::new()).await.unwrap();
        assert_eq!(report.lost_transactions, 1, "{}: {report:?}", stage.env.describe());
    }
}

// scenario: D3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_timeout_over_the_brokers_limit_is_refused_before_anything_is_read() {
    for stage in Stage::each(1).await {
        stage.produce(0..10).await;
        let sink =
            stage.sink(Delivery::ExactlyOnce).transaction_timeout(Duration::from_secs(901)).build().unwrap();
        let job = Job::from_source(stage.source().bounded(StopAt::Latest).build().unwrap()).to(sink);
        let dir = tempfile::tempdir().unwrap();
        let error = run(job, job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("900000") || text.contains("900 s"), "{}: {text}", stage.env.describe());
        assert_eq!(stage.committed().await, 0);
    }
}
