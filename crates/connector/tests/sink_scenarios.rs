//! Scenarios of Flink's sink tests, and defects of Flink's sink, on the embedded broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use milena::protocol::error_code::ErrorCode;
use milena::{FetchFrom, FetchOptions, Isolation, ListFilter, Offset, OwnedRecord, TopicPartition};
use milena_connector::runtime::{FixedDelay, Job, JobConfig, JobControl, JobReport, Restart, Restore, Step};
use milena_connector::schema::OwnedKafkaRecord;
use milena_connector::sink::{Delivery, RecordSerializer};
use milena_testkit::broker::{Fault, TransactionVersion};
use support::{INPUT, OUTPUT, PREFIX, Stage, broker_config, crash_at, job_config, run, wait_for};
use tokio::task::JoinHandle;

const RECORDS: u64 = 60;
const NEVER: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(20);
const INIT_PRODUCER_ID: i16 = 22;
const ADD_PARTITIONS_TO_TXN: i16 = 24;
const END_TXN: i16 = 26;
const LIST_TRANSACTIONS: i16 = 66;

fn copy_job(stage: &Stage, delivery: Delivery) -> Job {
    Job::from_source(stage.bounded()).to(stage.sink(delivery).build().unwrap())
}

fn endless(stage: &Stage, delivery: Delivery) -> Job {
    Job::from_source(stage.source().build().unwrap()).to(stage.sink(delivery).build().unwrap())
}

fn start(job: Job, config: JobConfig) -> (JoinHandle<milena_connector::Result<JobReport>>, JobControl) {
    let control = JobControl::new();
    (tokio::spawn(run(job, config, control.clone())), control)
}

/// Gives a running job records, and waits until they are written and in a checkpoint.
async fn feed(stage: &Stage, control: &JobControl, numbers: std::ops::Range<u64>) {
    let metrics = control.metrics();
    let all = metrics.borrow().records_out + (numbers.end - numbers.start);
    stage.produce(numbers).await;
    wait_for("all is written", || metrics.borrow().records_out >= all).await;
    let now = metrics.borrow().checkpoints;
    wait_for("it is in a checkpoint", || metrics.borrow().checkpoints >= now + 2).await;
}

fn requests(stage: &Stage, api: i16) -> u64 {
    stage.broker.with_broker(|broker| broker.requests(api))
}

async fn read(stage: &Stage, topic: &str, partition: i32) -> Vec<OwnedRecord> {
    let from = FetchFrom::new(TopicPartition::new(topic, partition), Offset(0));
    let options = FetchOptions { isolation: Isolation::ReadCommitted, ..FetchOptions::default() };
    let fetched = stage.client.fetcher().fetch(&[from], &options).await.unwrap();
    fetched[0].owned_records().unwrap()
}

// scenario: 5.3.1, D10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_lived_jobs_leave_no_task_and_no_connection_behind() {
    let stage = Stage::new(2).await;
    stage.produce(0..RECORDS).await;
    let connections = || stage.broker.with_broker(|broker| broker.connection_count());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    wait_for("the producer is gone", || connections() <= 4).await;
    let before = (connections(), tasks());
    for delivery in [Delivery::None, Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            run(copy_job(&stage, delivery), job_config(dir.path(), 2, NEVER), JobControl::new())
                .await
                .unwrap();
        }
        wait_for("all of them are gone", || connections() <= before.0 && tasks() <= before.1).await;
    }
}

/// More checkpoints wait for their commits than Flink's pool has producers; then an early one is restored: what it promised is
/// committed, what came later is aborted and written again.
// scenario: 5.3.2, D11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_checkpoint_is_restored_though_many_wait_for_their_commits() {
    let stage = Stage::new(1).await;
    stage.broker.faults().on(END_TXN, Fault::Error(ErrorCode::CONCURRENT_TRANSACTIONS), 100_000);
    let dir = tempfile::tempdir().unwrap();
    let mut config = job_config(dir.path(), 1, OFTEN);
    config.checkpoint.retain = 100;
    let control = crash_at(Step::AfterCheckpointWrite, 20);
    let metrics = control.metrics();
    let running = tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config.clone(), control.clone()));
    let mut written = 0;
    while !running.is_finished() {
        stage.produce(written..written + 1).await;
        written += 1;
        let so_far = written;
        wait_for("it is read", || metrics.borrow().records_out >= so_far || running.is_finished()).await;
        let checkpoint = metrics.borrow().last_checkpoint;
        let passed = || metrics.borrow().last_checkpoint > checkpoint || running.is_finished();
        wait_for("a checkpoint", passed).await;
    }
    running.await.unwrap().unwrap_err();
    let open = stage.open_transactions().await.len();
    assert!(open >= 7, "{open} transactions are open");
    assert!(stage.output().await.is_empty());
    stage.broker.faults().clear();

    config.checkpoint.restore = Restore::Checkpoint(3);
    config.checkpoint.interval = NEVER;
    let report = run(copy_job(&stage, Delivery::ExactlyOnce), config, JobControl::new()).await.unwrap();
    assert_eq!(report.restored_from, Some(3));
    assert!(report.aborted_lingering >= 4 && report.records_in >= 4, "{report:?}");
    let verdict = stage.judge(0..written).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert!(stage.open_transactions().await.is_empty());
}

/// Two lives begin with the same checkpoint and end before their first own one: what they wrote is aborted, what the checkpoint promised is
/// there once.
// scenario: 5.3.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_restored_twice_is_committed_once() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let stage = Stage::with(broker_config(2, version)).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let life = async |control: JobControl| {
            run(copy_job(&stage, Delivery::ExactlyOnce), job_config(dir.path(), 2, NEVER), control).await
        };
        life(crash_at(Step::AfterCheckpointWrite, 1)).await.unwrap_err();
        for number in 1..=2 {
            stage.produce(number * RECORDS..(number + 1) * RECORDS).await;
            let control = crash_at(Step::BeforeCheckpointWrite, 1);
            let metrics = control.metrics();
            life(control).await.unwrap_err();
            assert_eq!(metrics.borrow().restored_from, Some(1));
            assert!(!stage.open_transactions().await.is_empty(), "what the life wrote is left behind");
            let verdict = stage.judge(0..RECORDS).await;
            assert!(verdict.is_clean(), "life {number}: {verdict}");
        }
        let last = life(JobControl::new()).await.unwrap();
        assert_eq!((last.restored_from, last.records_in), (Some(1), 2 * RECORDS));
        assert!(stage.judge(0..3 * RECORDS).await.is_clean());
        assert!(stage.open_transactions().await.is_empty());
    }
}

/// Checkpoints without records: no transaction is begun, so nothing is asked of a coordinator, whoever it is, and the one initialised
/// producer of each subtask serves them all.
// scenario: 5.3.16, 5.6.24, D14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_transaction_asks_nothing_of_the_coordinator() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let stage = Stage::with(broker_config(1, version)).await;
        for api in [ADD_PARTITIONS_TO_TXN, END_TXN] {
            stage.broker.faults().on(api, Fault::Error(ErrorCode::NOT_COORDINATOR), 100_000);
        }
        let dir = tempfile::tempdir().unwrap();
        let control = JobControl::new();
        let metrics = control.metrics();
        let config = job_config(dir.path(), 3, OFTEN);
        let running = tokio::spawn(run(endless(&stage, Delivery::ExactlyOnce), config, control.clone()));
        wait_for("checkpoints", || metrics.borrow().checkpoints >= 5).await;
        assert_eq!(requests(&stage, INIT_PRODUCER_ID), 3, "one for each subtask");
        stage.broker.faults().clear();
        // One subtask of three gets records: the others still have nothing to commit.
        stage.produce(0..RECORDS).await;
        wait_for("it is written", || metrics.borrow().records_out == RECORDS).await;
        let now = metrics.borrow().checkpoints;
        wait_for("more checkpoints", || metrics.borrow().checkpoints >= now + 3).await;
        control.stop();
        let report = running.await.unwrap().unwrap();
        assert!(report.committed_transactions > 0, "{report:?}");
        assert_eq!(requests(&stage, END_TXN), report.committed_transactions, "one for each with records");
        assert!(stage.judge(0..RECORDS).await.is_clean());
        let ids = stage.client.transactions().list(&ListFilter::default()).await.unwrap();
        let ended: BTreeSet<&str> = ids
            .iter()
            .filter(|listing| listing.state != milena::TransactionState::Empty)
            .filter_map(|listing| listing.id.rsplit_once('-').map(|(subtask, _)| subtask))
            .collect();
        assert_eq!(ended.len(), 1, "{ids:?}");
    }
}

/// Without transactions one producer serves all checkpoints.
// scenario: 5.6.18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_transactions_a_subtask_has_one_producer_for_all_checkpoints() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    let (running, control) = start(endless(&stage, Delivery::AtLeastOnce), job_config(dir.path(), 2, OFTEN));
    let mut initialised = Vec::new();
    for round in 0..4 {
        feed(&stage, &control, round * RECORDS..(round + 1) * RECORDS).await;
        initialised.push(requests(&stage, INIT_PRODUCER_ID) - round - 1);
    }
    control.stop();
    running.await.unwrap().unwrap();
    assert_eq!(initialised, [2; 4], "beside those of the input");
    assert!(stage.judge(0..4 * RECORDS).await.is_clean());
}

/// Two exactly-once jobs at once, the prefix of one the beginning of the other's. One is killed and comes back, and cleans up its own
/// transactions only.
// scenario: 5.3.22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sinks_in_one_process_do_not_disturb_each_other() {
    let stage = Stage::with(broker_config(2, TransactionVersion::V2).with_topic("other", 2)).await;
    let other = Stage {
        broker: stage.broker.clone(),
        bootstrap: stage.bootstrap.clone(),
        client: stage.client.clone(),
        partitions: 2,
        input: stage.input.clone(),
        output: String::from("other"),
        prefix: format!("{PREFIX}-1"),
    };
    stage.produce(0..RECORDS).await;
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = job_config(other_dir.path(), 2, NEVER);
    let running = tokio::spawn(run(endless(&other, Delivery::ExactlyOnce), config, control.clone()));
    wait_for("the other one has open transactions", || metrics.borrow().records_out == RECORDS).await;

    let life = async |control| {
        run(copy_job(&stage, Delivery::ExactlyOnce), job_config(dir.path(), 2, NEVER), control).await
    };
    life(crash_at(Step::BeforeCheckpointWrite, 1)).await.unwrap_err();
    let report = life(JobControl::new()).await.unwrap();
    assert_eq!(report.aborted_lingering, 2, "its own, not the other's");
    assert!(stage.judge(0..RECORDS).await.is_clean());
    assert_eq!(other.output().await, [], "the other one has not committed yet");
    control.stop();
    running.await.unwrap().unwrap();
    let verdict = other.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert!(stage.open_transactions().await.is_empty());
}

/// A function that fails now and then, in a job that restarts by itself.
// scenario: 5.6.5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_function_costs_repetitions_only_where_they_are_allowed() {
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let stage = Stage::new(2).await;
        stage.produce(0..4 * RECORDS).await;
        let failures = Arc::new(AtomicU32::new(0));
        let failing = Arc::clone(&failures);
        let job = Job::from_source(stage.bounded())
            .map_async(1, move |record: OwnedKafkaRecord| {
                let failing = Arc::clone(&failing);
                async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let due = record.offset.0 == 40 || record.offset.0 == 80;
                    if due && failing.fetch_add(1, Ordering::SeqCst) < 3 {
                        return Err("not yet".into());
                    }
                    Ok(record)
                }
            })
            .to(stage.sink(delivery).build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let mut config = job_config(dir.path(), 2, OFTEN);
        config.restart = Restart::FixedDelay(FixedDelay { attempts: 5, delay: Duration::from_millis(10) });
        let report = run(job, config, JobControl::new()).await.unwrap();
        assert!(report.restarts >= 1 && failures.load(Ordering::SeqCst) >= 3, "{report:?}");
        let verdict = stage.judge(0..4 * RECORDS).await;
        assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{delivery:?}: {verdict}");
        assert!(delivery == Delivery::AtLeastOnce || verdict.is_clean(), "{verdict}");
        assert!(stage.open_transactions().await.is_empty());
    }
}

/// Where transactions can be listed no name is tried: the clean-up makes no id that was not there. Where they can't, it does.
// scenario: D4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lists_its_transactions_is_not_probed() {
    for lists in [true, false] {
        let mut config = broker_config(3, TransactionVersion::V1);
        if !lists {
            config = config.with_version_limit(LIST_TRANSACTIONS, -1);
        }
        let stage = Stage::with(config).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let life = async |parallelism, control| {
            let config = job_config(dir.path(), parallelism, NEVER);
            run(copy_job(&stage, Delivery::ExactlyOnce), config, control).await
        };
        life(3, crash_at(Step::BeforeCheckpointWrite, 1)).await.unwrap_err();
        let report = life(1, JobControl::new()).await.unwrap();
        assert!(report.aborted_lingering >= 3, "{report:?}");
        assert!(stage.judge(0..RECORDS).await.is_clean());
        let made = stage.broker.with_broker(|broker| broker.transaction("job-3-0").is_some());
        assert_eq!(made, !lists, "an id that nobody used");
    }
}

/// The bytes of key, value and headers.
fn size(record: &OwnedRecord) -> u64 {
    let parts = [&record.key, &record.value].into_iter().flatten().map(|part| part.len());
    let headers =
        record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |it| it.len()));
    parts.chain(headers).sum::<usize>() as u64
}

/// Each transaction begins with a producer of its own; what is counted goes on.
// scenario: 5.6.15, D22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_do_not_jump_when_a_transaction_ends() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    let (running, control) = start(endless(&stage, Delivery::ExactlyOnce), job_config(dir.path(), 2, OFTEN));
    let mut metrics = control.metrics();
    let watching = tokio::spawn(async move {
        let mut seen: Vec<Vec<u64>> = Vec::new();
        while metrics.changed().await.is_ok() {
            let now = metrics.borrow_and_update().clone();
            let mut numbers = vec![
                now.records_in,
                now.records_out,
                now.bytes_out,
                now.committed_transactions,
                now.checkpoints,
            ];
            numbers.extend(now.subtasks.iter().map(|subtask| subtask.records_out));
            let mut pairs = seen.last().into_iter().flatten().zip(&numbers);
            assert!(pairs.all(|(before, after)| before <= after), "{:?} then {numbers:?}", seen.last());
            seen.push(numbers);
        }
        seen.len()
    });
    for round in 0..5 {
        feed(&stage, &control, round * RECORDS..(round + 1) * RECORDS).await;
        assert_eq!(control.metrics().borrow().records_out, (round + 1) * RECORDS);
    }
    control.stop();
    drop(control);
    let report = running.await.unwrap().unwrap();
    assert!(report.committed_transactions >= 5, "{report:?}");
    assert_eq!((report.records_in, report.records_out), (5 * RECORDS, 5 * RECORDS));
    let written: Vec<OwnedRecord> = [read(&stage, OUTPUT, 0).await, read(&stage, OUTPUT, 1).await].concat();
    assert_eq!(report.bytes_out, written.iter().map(size).sum::<u64>());
    assert!(watching.await.unwrap() > 5);
}

/// One subtask, three partitions, no partitioner chosen: a key goes where Kafka's own producer sends it, and no partition stays empty. An event
/// time below zero is none.
// scenario: D21, 5.6.35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_go_where_kafka_sends_them_unless_a_partitioner_is_chosen() {
    let stage = Stage::new(3).await;
    stage.produce(0..RECORDS).await;
    let serializer = RecordSerializer::<OwnedKafkaRecord>::builder()
        .topic(OUTPUT)
        .key(|record: &OwnedKafkaRecord| Ok(record.key.as_deref().map(<[u8]>::to_vec)))
        .value(|record: &OwnedKafkaRecord| Ok(record.value.as_deref().map(<[u8]>::to_vec)))
        .timestamp(|record: &OwnedKafkaRecord| Ok(Some(if record.offset.0 == 0 { -7 } else { 5_000 })))
        .build()
        .unwrap();
    let sink = stage.sink(Delivery::ExactlyOnce).serializer(serializer).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    run(Job::from_source(stage.bounded()).to(sink), job_config(dir.path(), 1, NEVER), JobControl::new())
        .await
        .unwrap();
    let mut places: BTreeMap<&str, BTreeMap<Vec<u8>, i32>> = BTreeMap::new();
    for partition in 0..3 {
        for topic in [INPUT, OUTPUT] {
            let records = read(&stage, topic, partition).await;
            assert!(!records.is_empty(), "{topic}-{partition}");
            if topic == OUTPUT {
                let odd: Vec<i64> =
                    records.iter().map(|record| record.timestamp).filter(|&time| time != 5_000).collect();
                assert_eq!(odd.len(), 1, "one record without a time of its own");
                assert!(odd[0] > 1_700_000_000_000, "it got the time of its writing: {odd:?}");
            }
            for record in records {
                let key = record.key.unwrap().to_vec();
                let other = places.entry(topic).or_default().insert(key, partition);
                assert!(other.is_none_or(|other| other == partition), "a key is in one partition");
            }
        }
    }
    assert_eq!(places[INPUT], places[OUTPUT]);
    assert_eq!(places[OUTPUT].len(), 7);
}
