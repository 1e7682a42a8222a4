//! Functions with state: counts by partition and window, exact over crashes, restores and changes of parallelism.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena::protocol::types::Isolation;
use milena::{ProducerConfig, ProducerRecord};
use milena_connector::ErrorKind;
use milena_connector::checkpoint::{CheckpointState, CheckpointStore};
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{Job, JobControl, OnLate, Step, TumblingWindows};
use milena_connector::schema::{Emit, OwnedKafkaRecord, RecordDeserializer, SinkRecord, serialize_with};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{Assign, Assigner, KafkaSource, Load, StartFrom, StopAt};
use support::{OUTPUT, Stage, crash_at, job_config, run, timestamp};

const PARTITIONS: i32 = 4;
const RECORDS: u64 = 2000;
const WINDOW_MS: i64 = 500;

/// A window's count: the partition, the window's start, the count.
type Count = (i32, i64, u64);

fn source(stage: &Stage, bounded: bool) -> KafkaSource<OwnedKafkaRecord> {
    let source = stage
        .source()
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(200)))
        .watermark_interval(Duration::from_millis(5));
    let source = if bounded { source.bounded(StopAt::Latest) } else { source };
    source.build().unwrap()
}

/// In many batches: a barrier comes between two of them.
async fn produce(stage: &Stage) {
    for from in (0..RECORDS).step_by(100) {
        stage.produce(from..from + 100).await;
    }
}

fn windows(late: bool) -> TumblingWindows<OwnedKafkaRecord, Count> {
    let windows = TumblingWindows::new(
        Duration::from_millis(WINDOW_MS.unsigned_abs()),
        |record: &OwnedKafkaRecord| record.partition.0.to_be_bytes().to_vec(),
        |count, _| count + 1,
        |key, window, count| (i32::from_be_bytes(key.try_into().unwrap()), window.start, count),
    );
    match late {
        true => windows.on_late(OnLate::Divert(Arc::new(|record| (record.partition.0, -1, 1)))),
        false => windows,
    }
}

/// Each count as a record of its own partition: the key is that of the support module, so that its reader understands it.
fn sink(stage: &Stage) -> KafkaSink<Count> {
    let write = |count: &Count, _: i64, out: &mut SinkRecord| {
        let (partition, start, count) = *count;
        out.set_topic(OUTPUT).set_partition(milena::PartitionId(partition));
        out.set_key(start.to_string().as_bytes()).set_value(count.to_string().as_bytes());
        Ok(Emit::Write)
    };
    KafkaSink::builder()
        .client(stage.config())
        .delivery(Delivery::ExactlyOnce)
        .transactional_id_prefix(&stage.prefix)
        .transaction_timeout(Duration::from_secs(60))
        .producer(ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() })
        .serializer(serialize_with(write))
        .build()
        .unwrap()
}

fn job(stage: &Stage) -> Job {
    Job::from_source(source(stage, true))
        .map_async(1, |record| async move {
            tokio::time::sleep(Duration::from_micros(200)).await;
            Ok(record)
        })
        .process("counts", |_| windows(false))
        .to(sink(stage))
}

/// The same counts, by hand.
async fn expected(stage: &Stage) -> BTreeMap<(i32, i64), u64> {
    let mut counts = BTreeMap::new();
    for (partition, _, record) in stage.read_topic(&stage.input, Isolation::ReadCommitted).await {
        let start = record.timestamp.div_euclid(WINDOW_MS) * WINDOW_MS;
        *counts.entry((partition, start)).or_insert(0) += 1;
    }
    counts
}

async fn counted(stage: &Stage) -> Vec<Count> {
    let of = |(partition, _, record): (i32, i64, support::OwnedRecord)| {
        (partition, String::from_utf8(record.key).unwrap().parse().unwrap(), record.number)
    };
    stage.output().await.into_iter().map(of).collect()
}

/// Each window once, with the right count.
async fn assert_exact(stage: &Stage) {
    let counted = counted(stage).await;
    let by_window: BTreeMap<(i32, i64), u64> =
        counted.iter().map(|&(partition, start, count)| ((partition, start), count)).collect();
    assert_eq!(by_window.len(), counted.len(), "a window was written twice");
    assert_eq!(by_window, expected(stage).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windowed_counts_are_exact_over_crashes_restores_and_changed_parallelism() {
    let stage = Stage::new(PARTITIONS).await;
    produce(&stage).await;
    let dir = tempfile::tempdir().unwrap();
    let lives = [
        (2, Step::AfterCheckpointWrite, 2),
        (3, Step::AfterPrepare, 5),
        (1, Step::AfterCommitSent, 2),
        (4, Step::BeforeCheckpointWrite, 2),
    ];
    let mut restored = 0;
    for (parallelism, step, nth) in lives {
        let config = job_config(dir.path(), parallelism, Duration::from_millis(60));
        match run(job(&stage), config, crash_at(step, nth)).await {
            Ok(_) => break,
            Err(error) => assert!(error.to_string().contains("crashed by a hook"), "{error}"),
        }
        let store = CheckpointStore::look_at(dir.path()).unwrap();
        let stored = store.latest().unwrap().unwrap();
        restored += CheckpointState::decode(&stored.body).unwrap().functions.len();
    }
    assert!(restored > 0, "no checkpoint held any state: the test shows nothing");
    let config = job_config(dir.path(), 2, Duration::from_millis(60));
    let report = run(job(&stage), config, JobControl::new()).await.unwrap();
    assert_eq!(report.late_records, 0);
    assert_exact(&stage).await;
    let last = CheckpointStore::look_at(dir.path()).unwrap().latest().unwrap().unwrap();
    assert!(CheckpointState::decode(&last.body).unwrap().functions.is_empty(), "all are at their end");
}

/// The planted defect: the state is taken out of the checkpoint. Counts must come out wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_without_state_is_noticed() {
    let stage = Stage::new(PARTITIONS).await;
    produce(&stage).await;
    let dir = tempfile::tempdir().unwrap();
    let config = job_config(dir.path(), 2, Duration::from_millis(60));
    run(job(&stage), config, crash_at(Step::AfterCheckpointWrite, 2)).await.unwrap_err();
    {
        let store = CheckpointStore::open(dir.path(), 3, "test").unwrap();
        let stored = store.latest().unwrap().unwrap();
        let mut state = CheckpointState::decode(&stored.body).unwrap();
        assert!(!state.functions.is_empty());
        state.functions.clear();
        store.write(stored.id, &state.encode()).unwrap();
    }
    let config = job_config(dir.path(), 2, Duration::from_millis(60));
    run(job(&stage), config, JobControl::new()).await.unwrap();
    let counted: u64 = counted(&stage).await.iter().map(|count| count.2).sum();
    assert!(counted < RECORDS, "{counted} of {RECORDS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_keeps_open_windows_and_a_drain_sends_them_on() {
    for drain in [false, true] {
        let stage = Stage::new(PARTITIONS).await;
        produce(&stage).await;
        let dir = tempfile::tempdir().unwrap();
        let control = JobControl::new();
        let metrics = control.metrics();
        let endless =
            Job::from_source(source(&stage, false)).process("counts", |_| windows(false)).to(sink(&stage));
        let config = job_config(dir.path(), 2, Duration::from_millis(100));
        let running = tokio::spawn(run(endless, config, control.clone()));
        support::wait_for("it reads", || metrics.borrow().records_in == RECORDS).await;
        if drain {
            control.drain();
        } else {
            control.stop();
        }
        running.await.unwrap().unwrap();
        let stored = CheckpointStore::look_at(dir.path()).unwrap().latest().unwrap().unwrap();
        let state = CheckpointState::decode(&stored.body).unwrap();
        assert_eq!(state.functions.is_empty(), drain);
        let sum: u64 = counted(&stage).await.iter().map(|count| count.2).sum();
        assert_eq!(sum == RECORDS, drain, "{sum}");
        // The bounded job ends every window, and each is there once.
        let report =
            run(job(&stage), job_config(dir.path(), 3, Duration::from_millis(100)), JobControl::new()).await;
        assert_eq!(report.unwrap().records_in, 0);
        assert_exact(&stage).await;
    }
}

/// A record from long ago, in a partition whose watermark has moved on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_records_are_counted_and_diverted_in_the_same_transaction() {
    let stage = Stage::new(1).await;
    produce(&stage).await;
    let dir = tempfile::tempdir().unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let endless =
        Job::from_source(source(&stage, false)).process("counts", |_| windows(true)).to(sink(&stage));
    let config = job_config(dir.path(), 1, Duration::from_millis(100));
    let running = tokio::spawn(run(endless, config, control.clone()));
    let newest = timestamp(RECORDS - 1);
    support::wait_for("time passes", || metrics.borrow().watermark.is_some_and(|at| at > newest - 400)).await;
    let producer = milena::Producer::new(&stage.client, ProducerConfig::default()).unwrap();
    let record = ProducerRecord::to(&stage.input).key("key-0").value("0").timestamp(timestamp(1));
    producer.send(record).await.unwrap().await.unwrap();
    support::wait_for("it is late", || metrics.borrow().late_records == 1).await;
    control.drain();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.late_records, report.subtasks[0].late_records), (1, 1));
    let counted = counted(&stage).await;
    assert_eq!(counted.iter().filter(|count| count.1 == -1).count(), 1);
    assert_eq!(counted.iter().filter(|count| count.1 != -1).map(|count| count.2).sum::<u64>(), RECORDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn co_partitioned_functions_need_their_partitions_together() {
    const OTHER: &str = "other";
    #[derive(Debug)]
    struct Apart;
    impl Assign for Apart {
        fn owner(&self, partition: &milena::TopicPartition, _: &[Load]) -> u32 {
            partition.partition.0.unsigned_abs() + u32::from(&*partition.topic == OTHER)
        }
    }
    let config =
        support::broker_config(2, milena_testkit::broker::TransactionVersion::V2).with_topic(OTHER, 2);
    let stage = Stage::with(config).await;
    produce(&stage).await;
    let producer = milena::Producer::new(&stage.client, ProducerConfig::default()).unwrap();
    for partition in 0..2 {
        let record = ProducerRecord::to(OTHER).partition(partition).value("0").timestamp(timestamp(0));
        producer.send(record).await.unwrap().await.unwrap();
    }
    let job = |assigner| {
        let source = KafkaSource::builder()
            .client(stage.config())
            .topics([stage.input.as_str(), OTHER])
            .start(StartFrom::Earliest)
            .bounded(StopAt::Latest)
            .assigner(assigner)
            .deserializer(RecordDeserializer::new())
            .build()
            .unwrap();
        Job::from_source(source).process_co_partitioned("counts", |_| windows(false)).to(sink(&stage))
    };
    let dir = tempfile::tempdir().unwrap();
    let config = || job_config(dir.path(), 2, Duration::from_millis(100));
    let error = run(job(Assigner::Custom(Arc::new(Apart))), config(), JobControl::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    run(job(Assigner::CoPartitioned), config(), JobControl::new()).await.unwrap();
    let sum: u64 = counted(&stage).await.iter().map(|count| count.2).sum();
    assert_eq!(sum, RECORDS + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_a_function_that_is_gone_is_not_dropped_unasked() {
    let stage = Stage::new(1).await;
    produce(&stage).await;
    let dir = tempfile::tempdir().unwrap();
    let config = || job_config(dir.path(), 1, Duration::from_millis(30));
    run(job(&stage), config(), crash_at(Step::AfterCheckpointWrite, 1)).await.unwrap_err();
    let renamed =
        || Job::from_source(source(&stage, true)).process("sums", |_| windows(false)).to(sink(&stage));
    let error = run(renamed(), config(), JobControl::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("\"counts\""), "{error}");
    let mut dropping = config();
    dropping.checkpoint.drop_unknown_state = true;
    run(renamed(), dropping, JobControl::new()).await.unwrap();
}
