//! Jobs in everyday life: stopping, failing, watching, and being misconfigured.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use milena::protocol::error_code::ErrorCode;
use milena_connector::ErrorKind;
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{FixedDelay, Job, JobControl, Restart, Restore};
use milena_connector::sink::Delivery;
use milena_testkit::broker::{Fault, TransactionVersion};
use support::{OUTPUT, PREFIX, Stage, broker_config, copy, job_config, run, timestamp, wait_for};

const RECORDS: u64 = 100;
const PRODUCE: i16 = 0;

fn endless(stage: &Stage, delivery: Delivery) -> Job {
    Job::from_source(stage.source().build().unwrap()).to(stage.sink(delivery).build().unwrap())
}

// scenario: 5.1.23, 5.4.12, 5.6.12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_commits_everything_read_and_the_next_run_goes_on() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    for (life, parallelism) in [(0, 2), (1, 1), (2, 3)] {
        stage.produce(life * RECORDS..(life + 1) * RECORDS).await;
        let control = JobControl::new();
        let metrics = control.metrics();
        let config = job_config(dir.path(), parallelism, Duration::from_millis(50));
        let running = tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config, control.clone()));
        wait_for("all records are read", || metrics.borrow().records_out == RECORDS).await;
        control.stop();
        let begun = Instant::now();
        let report = running.await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "a stop waited for a time-out");
        assert_eq!((report.records_in, report.pending_commits), (RECORDS, 0));
        let verdict = stage.judge(0..(life + 1) * RECORDS).await;
        assert!(verdict.is_clean(), "{verdict}");
        assert!(stage.open_transactions().await.is_empty());
    }
}

// scenario: 5.1.4, 5.2.36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_before_anything_happened_ends_at_once() {
    let stage = Stage::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let control = JobControl::new();
    control.stop();
    let config = job_config(dir.path(), 2, Duration::from_secs(10));
    let report = run(endless(&stage, Delivery::ExactlyOnce), config, control).await.unwrap();
    assert_eq!(
        (report.records_in, report.committed_transactions),
        (0, 0),
        "empty transactions are not committed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_least_once_without_a_directory_goes_by_the_group() {
    let stage = Stage::new(2).await;
    stage.produce(0..RECORDS).await;
    let sink = || stage.sink(Delivery::AtLeastOnce).build().unwrap();
    let mut config = job_config(std::path::Path::new("unused"), 2, Duration::from_millis(50));
    config.checkpoint.storage = None;
    let report =
        run(Job::from_source(stage.bounded()).to(sink()), config.clone(), JobControl::new()).await.unwrap();
    assert_eq!((report.records_out, report.committed_transactions), (RECORDS, 0));
    assert!(stage.judge(0..RECORDS).await.is_clean());
    let committed: i64 = stage.broker.with_broker(|broker| {
        (0..2).map(|partition| broker.committed_offset("group", support::INPUT, partition).unwrap()).sum()
    });
    assert_eq!(
        committed,
        i64::try_from(RECORDS).unwrap(),
        "the last offsets are committed before the run returns"
    );
}

// scenario: 5.3.17, 5.6.20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_error_ends_the_job_without_further_input() {
    for delivery in [Delivery::None, Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let stage = Stage::new(1).await;
        stage.produce(0..1).await;
        stage.broker.faults().on(PRODUCE, Fault::Error(ErrorCode::INVALID_RECORD), 1);
        let dir = tempfile::tempdir().unwrap();
        let config = job_config(dir.path(), 1, Duration::from_secs(30));
        let begun = Instant::now();
        let error = run(endless(&stage, delivery), config, JobControl::new()).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(20), "{delivery:?} waited for its checkpoint");
        assert!(error.to_string().contains("INVALID_RECORD"), "{error}");
        assert!(stage.open_transactions().await.is_empty(), "{delivery:?}: the open transaction is aborted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_fails_or_panics_ends_the_job_with_the_place() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let config = || job_config(dir.path(), 1, Duration::from_secs(30));
    let job = Job::from_source(stage.bounded())
        .try_map(|record| if record.offset.0 == 41 { Err("no".into()) } else { Ok(record) })
        .to(stage.exactly_once());
    let error = run(job, config(), JobControl::new()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.offset().map(|offset| offset.0)),
        (ErrorKind::Schema, Some(41)),
        "{error}"
    );
    assert_eq!(error.topic_partition().map(ToString::to_string).as_deref(), Some("in-0"));
    let job = Job::from_source(stage.bounded())
        .map(|record| {
            assert!(record.offset.0 != 41, "forty-one");
            record
        })
        .to(stage.exactly_once());
    let error = run(job, config(), JobControl::new()).await.unwrap_err();
    assert!(error.to_string().contains("forty-one"), "{error}");
    assert!(stage.output().await.is_empty());
}

// scenario: 5.3.21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_may_restart_goes_on_from_its_last_checkpoint() {
    let stage = Stage::new(2).await;
    stage.produce(0..300).await;
    let dir = tempfile::tempdir().unwrap();
    let failures = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&failures);
    let job = Job::from_source(stage.bounded())
        .map_async(1, move |record| {
            let counted = Arc::clone(&counted);
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if record.offset.0 == 100 && counted.fetch_add(1, Ordering::SeqCst) < 2 {
                    return Err("not yet".into());
                }
                Ok(record)
            }
        })
        .to(stage.exactly_once());
    let mut config = job_config(dir.path(), 2, Duration::from_millis(20));
    config.restart = Restart::FixedDelay(FixedDelay { attempts: 3, delay: Duration::from_millis(10) });
    // A fresh start is meant for the run, not for its restarts.
    config.checkpoint.restore = Restore::Fresh;
    let report = run(job, config, JobControl::new()).await.unwrap();
    assert!(report.restarts >= 1, "{report:?}");
    let verdict = stage.judge(0..300).await;
    assert!(verdict.is_clean(), "{verdict}");
}

// scenario: D16, 5.6.11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_job_is_refused_by_directory_prefix_or_fence() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = |dir: &std::path::Path| job_config(dir, 1, Duration::from_millis(50));
    let first =
        tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config(dir.path()), control.clone()));
    wait_for("the first job runs", || metrics.borrow().checkpoints > 0).await;

    let error =
        run(endless(&stage, Delivery::ExactlyOnce), config(dir.path()), JobControl::new()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Misuse && error.to_string().contains("in use by job test"), "{error}");
    let error = run(endless(&stage, Delivery::ExactlyOnce), config(other.path()), JobControl::new())
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Misuse && error.to_string().contains("another job of this process"),
        "{error}"
    );

    // As another process would, that does not know of this one.
    let fence = async {
        for number in 0..3 {
            let id = format!("{PREFIX}-0-{number}");
            stage.client.transactions().fence(&id, Duration::from_secs(60)).await.unwrap();
        }
    };
    fence.await;
    stage.produce(RECORDS..2 * RECORDS).await;
    let error = first.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("another instance uses the transactional id prefix job"), "{error}");
}

// scenario: D3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_timeout_above_the_brokers_limit_is_refused_at_the_start() {
    let mut config = broker_config(1, TransactionVersion::V2);
    config.max_transaction_timeout = Duration::from_secs(30);
    let stage = Stage::with(config).await;
    let dir = tempfile::tempdir().unwrap();
    let config = job_config(dir.path(), 1, Duration::from_secs(1));
    let error = run(endless(&stage, Delivery::ExactlyOnce), config, JobControl::new()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("30 s") && text.contains("transaction.max.timeout.ms"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_configurations_are_refused_before_anything_is_touched() {
    let stage = Stage::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let good = || job_config(dir.path(), 1, Duration::from_secs(1));
    let mut bad = vec![good(), good(), good(), good(), good()];
    bad[0].parallelism = 0;
    bad[1].name.clear();
    bad[2].checkpoint.interval = Duration::ZERO;
    bad[3].checkpoint.storage = None;
    bad[4].checkpoint.interval = Duration::from_secs(60);
    for config in bad {
        let error =
            run(endless(&stage, Delivery::ExactlyOnce), config.clone(), JobControl::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{config:?}: {error}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    let error = stage.sink(Delivery::ExactlyOnce).transactional_id_prefix("").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watermarks_and_numbers_are_reported_and_do_not_go_back_over_lives() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    let mut before = None;
    for life in 0..2 {
        stage.produce(life * RECORDS..(life + 1) * RECORDS).await;
        let source = stage.source().watermarks(WatermarkStrategy::monotonous()).build().unwrap();
        let job = Job::from_source(source).to(stage.exactly_once());
        let control = JobControl::new();
        let metrics = control.metrics();
        let config = job_config(dir.path(), 2, Duration::from_millis(50));
        let running = tokio::spawn(run(job, config, control.clone()));
        let last = timestamp((life + 1) * RECORDS - 20);
        let mut seen = before;
        wait_for("the watermark follows", || {
            let now = metrics.borrow().watermark;
            assert!(now >= seen || now.is_none() && seen == before, "{now:?} after {seen:?}");
            seen = now.max(seen);
            now.is_some_and(|now| now >= last)
        })
        .await;
        control.stop();
        let report = running.await.unwrap().unwrap();
        assert!(report.watermark >= seen && report.watermark <= Some(timestamp((life + 1) * RECORDS)));
        assert_eq!(report.subtasks.len(), 2);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["records_out"], RECORDS, "{json}");
        before = report.watermark;
    }
}

/// What a watcher of a job is shown of each partition while it runs, and of the job's event time.
// scenario: D47
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_of_each_partition_is_told_while_a_job_runs() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    stage.produce(0..RECORDS).await;
    let source = stage.source().watermarks(WatermarkStrategy::monotonous()).build().unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = job_config(dir.path(), 2, Duration::from_millis(50));
    let job = Job::from_source(source).to(stage.exactly_once());
    let running = tokio::spawn(run(job, config, control.clone()));
    let mut positions = 0;
    wait_for("all is read, committed and told", || {
        let now = metrics.borrow();
        let told = now.partitions.iter().all(|it| it.lag() == Some(0) && it.committed == Some(it.position));
        positions = now.partitions.iter().map(|it| it.position.0).sum();
        told && now.partitions.len() == 2 && now.watermark.is_some() && positions == 100
    })
    .await;
    let now = metrics.borrow().clone();
    assert!(now.partitions[0].topic_partition < now.partitions[1].topic_partition);
    let slowest = now.partitions.iter().map(|it| it.watermark).min().unwrap();
    assert!(slowest.is_some() && now.partitions.iter().all(|it| !it.paused && !it.idle), "{now:?}");
    assert_eq!(now.watermark_lag(slowest.unwrap() + 7), Some(7));
    control.stop();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_job_and_keeps_the_last_checkpoint() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let life = async |in_the_way: bool| {
        let control = JobControl::new();
        let metrics = control.metrics();
        let config = job_config(dir.path(), 1, Duration::from_secs(20));
        let running = tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config, control.clone()));
        wait_for("it reads", || metrics.borrow().records_out == RECORDS).await;
        // The next checkpoint's place is taken by something that can't be replaced: the file system refuses, as when it is full.
        let blocked = dir.path().join("checkpoint-00000000000000000002");
        if in_the_way {
            std::fs::create_dir_all(blocked.join("in the way")).unwrap();
        }
        control.stop();
        let ended = running.await.unwrap();
        if in_the_way {
            std::fs::remove_dir_all(blocked).unwrap();
        }
        ended
    };
    life(false).await.unwrap();
    stage.produce(RECORDS..2 * RECORDS).await;
    let error = life(true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let report = life(false).await.unwrap();
    assert_eq!(report.restored_from, Some(1));
    let verdict = stage.judge(0..2 * RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
}

// scenario: 5.2.13, D10, 5.3.1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_a_job_spawned_outlives_it() {
    let stage = Stage::new(2).await;
    stage.produce(0..RECORDS).await;
    let connections = |stage: &Stage| stage.broker.with_broker(|broker| broker.connection_count());
    wait_for("the producer is gone", || connections(&stage) <= 4).await;
    let before = connections(&stage);
    let dir = tempfile::tempdir().unwrap();
    let config = job_config(dir.path(), 2, Duration::from_millis(50));
    run(Job::from_source(stage.bounded()).to(stage.exactly_once()), config, JobControl::new()).await.unwrap();
    wait_for("the job's connections are closed", || connections(&stage) <= before).await;
}

// scenario: 5.6.15, 5.4.15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_shape_the_stream() {
    let stage = Stage::new(2).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let number = |record: &milena_connector::schema::OwnedKafkaRecord| {
        std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse::<u64>().unwrap()
    };
    let sink = stage.sink(Delivery::ExactlyOnce).serializer(copy(OUTPUT)).build().unwrap();
    let job = Job::from_source(stage.bounded())
        .filter(move |record| number(record) % 2 == 0)
        .flat_map(move |record| if number(&record) % 10 == 0 { vec![] } else { vec![record] })
        .to(sink);
    let report =
        run(job, job_config(dir.path(), 2, Duration::from_secs(10)), JobControl::new()).await.unwrap();
    assert_eq!((report.records_in, report.records_out), (100, 40));
    let numbers: BTreeSet<u64> = stage.output().await.into_iter().map(|(.., record)| record.number).collect();
    assert_eq!(numbers, (0..RECORDS).filter(|number| number % 2 == 0 && number % 10 != 0).collect());
}

/// A barrier that is answered late: what was prepared for the checkpoint that was given up is committed with the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_checkpoint_takes_nothing_with_it() {
    let stage = Stage::new(3).await;
    stage.produce(0..300).await;
    let dir = tempfile::tempdir().unwrap();
    let job = Job::from_source(stage.bounded())
        .map_async(1, |record| async move {
            let long = record.offset.0 % 40 == 39;
            tokio::time::sleep(Duration::from_millis(if long { 120 } else { 1 })).await;
            Ok(record)
        })
        .to(stage.exactly_once());
    let mut config = job_config(dir.path(), 3, Duration::from_millis(20));
    config.checkpoint.timeout = Duration::from_millis(40);
    config.checkpoint.tolerated_timeouts = 1000;
    let report = run(job, config, JobControl::new()).await.unwrap();
    assert!(report.expired_checkpoints > 0 && report.checkpoints > 0, "{report:?}");
    let verdict = stage.judge(0..300).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert!(stage.open_transactions().await.is_empty());
}

// scenario: 5.1.5, 5.2.44
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subtask_that_hangs_is_named_and_a_stop_is_bounded() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let hang = || {
        Job::from_source(stage.bounded())
            .map_async(1, |record| async move {
                if record.offset.0 == 5 {
                    std::future::pending::<()>().await;
                }
                Ok(record)
            })
            .to(stage.exactly_once())
    };
    let dir = tempfile::tempdir().unwrap();
    let mut config = job_config(dir.path(), 1, Duration::from_millis(20));
    config.checkpoint.timeout = Duration::from_millis(50);
    config.checkpoint.tolerated_timeouts = 1;
    let error = run(hang(), config.clone(), JobControl::new()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && error.to_string().contains("subtasks [0]"), "{error}");

    config.checkpoint.timeout = Duration::from_secs(60);
    config.stop_timeout = Duration::from_millis(300);
    let control = JobControl::new();
    let running = tokio::spawn(run(hang(), config, control.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    control.stop();
    let begun = Instant::now();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

// scenario: 5.8.17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_without_a_broker_is_bounded() {
    let stage = Stage::new(1).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = job_config(dir.path(), 1, Duration::from_secs(10));
    config.stop_timeout = Duration::from_millis(500);
    let control = JobControl::new();
    let metrics = control.metrics();
    let running = tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config.clone(), control.clone()));
    wait_for("it reads", || metrics.borrow().records_out == RECORDS).await;
    stage.broker.go_down().await;
    control.stop();
    let begun = Instant::now();
    running.await.unwrap().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    let begun = Instant::now();
    let control = JobControl::new();
    control.stop();
    run(endless(&stage, Delivery::ExactlyOnce), config.clone(), control).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

    stage.broker.come_back().await.unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let running = tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config, control.clone()));
    wait_for("it reads again", || metrics.borrow().records_out == RECORDS).await;
    control.stop();
    running.await.unwrap().unwrap();
    let verdict = stage.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
}

/// Requests and answers get lost, the broker restarts: no error, nothing lost, nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_rides_out_a_troubled_broker() {
    const INIT_PRODUCER_ID: i16 = 22;
    const END_TXN: i16 = 26;
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let mut config = broker_config(3, version);
        config.marker_delay = Duration::from_millis(20);
        let stage = Stage::with(config).await;
        stage.produce(0..300).await;
        let faults = stage.broker.faults();
        for api in [PRODUCE, END_TXN, INIT_PRODUCER_ID] {
            faults.on_after(2, api, Fault::DropAfter, 2);
            faults.on_after(7, api, Fault::DropBefore, 2);
        }
        faults.on_after(12, END_TXN, Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS), 3);
        let dir = tempfile::tempdir().unwrap();
        let job = Job::from_source(stage.bounded())
            .map_async(1, |record| async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                Ok(record)
            })
            .to(stage.exactly_once());
        let running =
            tokio::spawn(run(job, job_config(dir.path(), 2, Duration::from_millis(30)), JobControl::new()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.broker.restart();
        let report = running.await.unwrap().unwrap();
        assert!(report.committed_transactions > 2, "{report:?}");
        let verdict = stage.judge(0..300).await;
        assert!(verdict.is_clean(), "{verdict}");
        assert!(stage.open_transactions().await.is_empty());
    }
}
