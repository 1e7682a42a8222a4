//! What a sink does with single records, its names, its end: on the embedded broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::protocol::error_code::ErrorCode;
use milena::{FetchFrom, FetchOptions, Offset, OwnedRecord, TopicPartition};
use milena_connector::ErrorKind;
use milena_connector::runtime::{Job, JobControl, Step};
use milena_connector::schema::{Emit, OwnedKafkaRecord, Serializer, SinkRecord, serialize_with};
use milena_connector::sink::naming::{ClassicNames, Naming};
use milena_connector::sink::outcome::Limits;
use milena_connector::sink::{
    Delivery, LossPolicy, OnHanging, OnRecordError, RecordSerializer, SinkPartitioning,
};
use milena_testkit::broker::{Fault, TransactionVersion};
use support::{OUTPUT, PREFIX, Stage, broker_config, crash_at, job_config, run, wait_for};

const RECORDS: u64 = 60;
const DEAD: &str = "dead";
const NEVER: Duration = Duration::from_secs(30);
const PRODUCE: i16 = 0;

async fn stage(partitions: i32) -> Stage {
    Stage::with(broker_config(partitions, TransactionVersion::V2).with_topic(DEAD, 1)).await
}

fn number(record: &OwnedKafkaRecord) -> u64 {
    std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse().unwrap()
}

/// Refuses every tenth record.
fn picky(partition: bool) -> impl Serializer<OwnedKafkaRecord> + Clone + Sync + 'static {
    serialize_with(move |record: &OwnedKafkaRecord, _timestamp: i64, out: &mut SinkRecord| {
        out.set_topic(OUTPUT)
            .set_key(record.key.as_deref().unwrap())
            .set_value(record.value.as_deref().unwrap());
        if partition {
            out.set_partition(record.partition);
        }
        if number(record).is_multiple_of(10) {
            return Err("every tenth".into());
        }
        Ok(Emit::Write)
    })
}

async fn read(stage: &Stage, topic: &str, partition: i32) -> Vec<OwnedRecord> {
    let from = FetchFrom::new(TopicPartition::new(topic, partition), Offset(0));
    let options = FetchOptions { isolation: milena::Isolation::ReadCommitted, ..FetchOptions::default() };
    let fetched = stage.client.fetcher().fetch(&[from], &options).await.unwrap();
    fetched[0].owned_records().unwrap()
}

// scenario: D23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_cannot_be_serialized_fail_are_left_out_or_become_dead_letters() {
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        for policy in [OnRecordError::Fail, OnRecordError::Drop, OnRecordError::dead_letter(DEAD)] {
            let stage = stage(2).await;
            stage.produce(0..RECORDS).await;
            let dir = tempfile::tempdir().unwrap();
            let sink = stage.sink(delivery).serializer(picky(true)).on_record_error(policy.clone());
            let job = Job::from_source(stage.bounded()).to(sink.build().unwrap());
            let ended = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await;
            if policy == OnRecordError::Fail {
                assert_eq!(ended.unwrap_err().kind(), ErrorKind::Schema);
                continue;
            }
            let report = ended.unwrap();
            let lost = stage.judge(0..RECORDS).await.lost.len() as u64;
            assert_eq!(lost, RECORDS / 10, "{delivery:?} {policy:?}");
            let counts = report.subtasks[0];
            let dead = read(&stage, DEAD, 0).await;
            if policy == OnRecordError::Drop {
                assert_eq!((counts.records_dropped, counts.dead_letters, dead.len()), (6, 0, 0));
            } else {
                assert_eq!((counts.records_dropped, counts.dead_letters, dead.len()), (0, 6, 6));
                let headers: Vec<&str> =
                    dead[0].headers.iter().map(|(name, _)| name.to_str().unwrap()).collect();
                assert_eq!(headers, ["dlq.sink.topic", "dlq.sink.subtask", "dlq.sink.error"]);
                assert_eq!(dead[0].headers[0].1.as_deref(), Some(OUTPUT.as_bytes()));
                assert!(dead[0].key.is_some() && dead[0].value.is_some());
            }
        }
    }
}

/// What the broker refuses: its records become dead letters under at least once, and fail a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_the_broker_refuses_become_dead_letters() {
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let stage = stage(1).await;
        stage.produce(0..RECORDS).await;
        stage.broker.faults().on(PRODUCE, Fault::Error(ErrorCode::INVALID_RECORD), 1);
        let dir = tempfile::tempdir().unwrap();
        let sink = stage.sink(delivery).on_record_error(OnRecordError::dead_letter(DEAD)).build().unwrap();
        let job = Job::from_source(stage.bounded()).to(sink);
        let ended = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await;
        if delivery == Delivery::ExactlyOnce {
            assert!(ended.unwrap_err().to_string().contains("INVALID_RECORD"));
            continue;
        }
        ended.unwrap();
        let lost = stage.judge(0..RECORDS).await.lost.len();
        assert!(lost > 0, "a batch was refused");
        assert_eq!(read(&stage, DEAD, 0).await.len(), lost, "none is lost without a letter");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_does_not_spoil_its_transaction() {
    let stage = stage(1).await;
    stage.produce(0..RECORDS).await;
    let large = serialize_with(|record: &OwnedKafkaRecord, _timestamp: i64, out: &mut SinkRecord| {
        out.set_topic(OUTPUT)
            .set_key(record.key.as_deref().unwrap())
            .set_value(record.value.as_deref().unwrap());
        if number(record) == 7 {
            out.set_value(vec![0; 2 << 20]);
        }
        Ok(Emit::Write)
    });
    let dir = tempfile::tempdir().unwrap();
    let sink = stage.sink(Delivery::ExactlyOnce).serializer(large).on_record_error(OnRecordError::Drop);
    let job = Job::from_source(stage.bounded()).to(sink.build().unwrap());
    let report = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert_eq!(report.subtasks[0].records_dropped, 1);
    assert_eq!(stage.judge(0..RECORDS).await.lost.len(), 1);
}

// scenario: 5.6.18, 5.3.20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitioners_are_asked_and_every_written_offset_is_told() {
    let last = SinkPartitioning::custom(|_: &SinkRecord, place: &milena_connector::sink::Place<'_>| {
        *place.partitions.last().unwrap()
    });
    for (partitioning, expected) in [
        (SinkPartitioning::RoundRobin, [20, 20, 20]),
        (SinkPartitioning::Fixed, [60, 0, 0]),
        (last, [0, 0, 60]),
    ] {
        let stage = stage(3).await;
        stage.produce(0..RECORDS).await;
        let written = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&written);
        let serializer = RecordSerializer::<OwnedKafkaRecord>::builder()
            .topic(OUTPUT)
            .key(|record: &OwnedKafkaRecord| Ok(record.key.as_deref().map(<[u8]>::to_vec)))
            .value(|record: &OwnedKafkaRecord| Ok(record.value.as_deref().map(<[u8]>::to_vec)))
            .build()
            .unwrap();
        let sink = stage.sink(Delivery::ExactlyOnce).serializer(serializer).partitioning(partitioning);
        let sink = sink.on_written(move |metadata| {
            let at = (metadata.topic_partition.partition.0, metadata.offset.unwrap().0);
            assert!(seen.lock().unwrap().insert(at), "each offset once");
        });
        let dir = tempfile::tempdir().unwrap();
        let job = Job::from_source(stage.bounded()).to(sink.build().unwrap());
        run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
        let mut there = BTreeSet::new();
        for (partition, expected) in (0..3).zip(expected) {
            let records = read(&stage, OUTPUT, partition).await;
            assert_eq!(records.len(), expected, "partition {partition}");
            there.extend(records.iter().map(|record| (partition, record.offset.0)));
        }
        assert_eq!(*written.lock().unwrap(), there);
    }
}

/// Each naming, crashed, and continued under another: nothing is lost, doubled or left open, with a list of transactions and without.
// scenario: 5.3.6, 5.6.3, 5.6.10, 5.6.13, 5.6.14, 5.8.15, D17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_naming_can_follow_every_other() {
    const LIST_TRANSACTIONS: i16 = 66;
    let classic = Naming::Classic(ClassicNames { pool_size: 2, safe_scale_down_factor: 3 });
    let all = [Naming::Pooling, Naming::Incrementing, classic];
    for lists in [true, false] {
        for (before, after) in all.iter().flat_map(|before| all.iter().map(move |after| (*before, *after))) {
            let mut config = broker_config(3, TransactionVersion::V1);
            if !lists {
                config = config.with_version_limit(LIST_TRANSACTIONS, -1);
            }
            let stage = Stage::with(config).await;
            stage.produce(0..RECORDS).await;
            let dir = tempfile::tempdir().unwrap();
            let job = |naming, former: Option<Naming>| {
                let mut sink = stage.sink(Delivery::ExactlyOnce).naming(naming);
                if let Some(former) = former {
                    sink = sink.former_names(PREFIX, former);
                }
                Job::from_source(stage.bounded()).to(sink.build().unwrap())
            };
            // One life ends with open transactions, one with promised ones.
            for (step, parallelism) in [(Step::AfterFlush, 3), (Step::AfterCheckpointWrite, 2)] {
                let config = job_config(dir.path(), parallelism, NEVER);
                run(job(before, None), config, crash_at(step, 1)).await.unwrap_err();
            }
            let config = job_config(dir.path(), 4, NEVER);
            run(job(after, Some(before)), config, JobControl::new()).await.unwrap();
            let what = format!("{before:?} then {after:?}, lists: {lists}");
            let verdict = stage.judge(0..RECORDS).await;
            assert!(verdict.is_clean(), "{what}: {verdict}");
            if lists {
                assert!(stage.open_transactions().await.is_empty(), "{what}");
            }
        }
    }
}

/// The prefix is another one after a restart: what was promised under the old one is committed, what was open is aborted.
// scenario: 5.3.12, 5.3.13, 5.6.7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_prefix_leaves_nothing_behind() {
    let stage = stage(2).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let job = |prefix: &str| {
        let sink = stage.sink(Delivery::ExactlyOnce).transactional_id_prefix(prefix);
        Job::from_source(stage.bounded()).to(sink.build().unwrap())
    };
    let config = || job_config(dir.path(), 2, NEVER);
    run(job("before"), config(), crash_at(Step::AfterCheckpointWrite, 1)).await.unwrap_err();
    assert_eq!(stage.open_transactions().await, ["before-0-0", "before-1-0"]);
    stage.produce(RECORDS..RECORDS * 2).await;
    run(job("before"), config(), crash_at(Step::BeforeCheckpointWrite, 1)).await.unwrap_err();
    let report = run(job("after"), config(), JobControl::new()).await.unwrap();
    assert_eq!(report.aborted_lingering, 2);
    assert!(stage.judge(0..RECORDS * 2).await.is_clean());
    assert!(stage.open_transactions().await.is_empty());
}

// scenario: 5.3.10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_can_be_raised() {
    let stage = stage(2).await;
    let dir = tempfile::tempdir().unwrap();
    for (life, delivery) in (0..).zip([Delivery::None, Delivery::AtLeastOnce, Delivery::ExactlyOnce]) {
        stage.produce(life * RECORDS..(life + 1) * RECORDS).await;
        let job = Job::from_source(stage.bounded()).to(stage.sink(delivery).build().unwrap());
        let report = run(job, job_config(dir.path(), 2, NEVER), JobControl::new()).await.unwrap();
        assert_eq!(report.records_in, RECORDS, "{delivery:?} goes on where the last one ended");
    }
    assert!(stage.judge(0..RECORDS * 3).await.is_clean());
}

// scenario: 5.6.25, D1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_leaves_nothing_open() {
    let stage = stage(2).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let job = Job::from_source(stage.source().build().unwrap()).to(stage.exactly_once());
    let running = tokio::spawn(run(job, job_config(dir.path(), 2, NEVER), control.clone()));
    wait_for("it writes", || metrics.borrow().records_out == RECORDS).await;
    assert_eq!(stage.open_transactions().await.len(), 2);
    wait_for("time left is told", || metrics.borrow().transaction_time_left.is_some()).await;
    let left = metrics.borrow().transaction_time_left.unwrap();
    assert!(left <= Duration::from_secs(3600), "{left:?}");
    control.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(stage.open_transactions().await.is_empty());
    assert!(stage.output().await.is_empty());
    // Nothing is lost by it.
    let job = Job::from_source(stage.bounded()).to(stage.exactly_once());
    run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await.unwrap();
    assert!(stage.judge(0..RECORDS).await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_commit_fails_the_job_or_is_finished_by_it() {
    for hanging in [OnHanging::Fail, OnHanging::Continue, OnHanging::Finish] {
        let stage = stage(2).await;
        stage.produce(0..RECORDS).await;
        assert!(stage.broker.with_broker(|broker| broker.lose_next_marker(OUTPUT, 1)));
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { visible: Duration::from_millis(300), ..Limits::default() };
        let policy = LossPolicy { hanging, ..LossPolicy::default() };
        let sink = stage.sink(Delivery::ExactlyOnce).commit(limits).on_loss(policy).build().unwrap();
        let job = Job::from_source(stage.bounded()).to(sink);
        let ended = run(job, job_config(dir.path(), 1, NEVER), JobControl::new()).await;
        if hanging == OnHanging::Fail {
            let error = ended.unwrap_err();
            assert_eq!(error.topic_partition().map(ToString::to_string).as_deref(), Some("out-1"), "{error}");
            continue;
        }
        let report = ended.unwrap();
        let outcomes = report.outcomes;
        if hanging == OnHanging::Finish {
            assert_eq!((outcomes.hanging, outcomes.finished, outcomes.committed), (1, 1, 1));
            assert!(stage.judge(0..RECORDS).await.is_clean());
        } else {
            assert_eq!((outcomes.hanging, outcomes.finished, report.lost_transactions), (1, 0, 1));
        }
    }
}

/// Commits that take long hold nothing up: checkpoints go on, and each has its transactions, however many are waiting.
// scenario: 5.3.9, 5.6.6, 5.6.23, D11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_checkpoints_may_wait_for_their_commits() {
    const END_TXN: i16 = 26;
    for naming in [Naming::Pooling, Naming::Classic(ClassicNames::default())] {
        let stage = stage(1).await;
        stage.broker.faults().on(END_TXN, Fault::Error(ErrorCode::CONCURRENT_TRANSACTIONS), 100_000);
        let dir = tempfile::tempdir().unwrap();
        let control = JobControl::new();
        let metrics = control.metrics();
        let sink = stage.sink(Delivery::ExactlyOnce).naming(naming).build().unwrap();
        let job = Job::from_source(stage.source().build().unwrap()).to(sink);
        let config = job_config(dir.path(), 1, Duration::from_millis(30));
        let running = tokio::spawn(run(job, config, control.clone()));
        for number in 0..RECORDS {
            stage.produce(number..number + 1).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        wait_for("more wait than Flink's pool holds", || metrics.borrow().pending_commits > 6).await;
        wait_for("all is written", || metrics.borrow().records_out == RECORDS).await;
        stage.broker.faults().clear();
        control.stop();
        let report = running.await.unwrap().unwrap();
        assert_eq!(report.outcomes.committed, report.committed_transactions);
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "{naming:?}: {verdict}");
    }
}
