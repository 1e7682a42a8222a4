//! A barrier in the middle of what was fetched at once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use milena::{FetchFrom, FetchOptions, Offset, Producer, ProducerConfig, ProducerRecord, TopicPartition};
use milena_connector::BoxError;
use milena_connector::checkpoint::inspect;
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{Job, JobControl, Step, Verdict};
use milena_connector::schema::OwnedKafkaRecord;
use milena_connector::source::builder::FetchSettings;
use milena_testkit::broker::TransactionVersion;
use support::{GROUP, Stage, broker_config, job_config, key, run, timestamp, wait_for};

const RECORDS: u64 = 100_000;

/// One batch of so many records.
async fn stage() -> Stage {
    let mut config = broker_config(1, TransactionVersion::V2);
    config.max_message_bytes = 64 << 20;
    let stage = Stage::with(config).await;
    let config = ProducerConfig {
        batch_size: 32 << 20,
        max_request_size: 48 << 20,
        linger: Duration::from_secs(60),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(&stage.client, config).unwrap();
    for number in 0..RECORDS {
        let (key, value) = (key(number), number.to_string());
        let record = ProducerRecord::to(&stage.input).key(&key).value(&value).timestamp(timestamp(number));
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    producer.close(Duration::from_secs(5)).await.unwrap();
    let from = FetchFrom::new(TopicPartition::new(stage.input.as_str(), 0), Offset(0));
    let options =
        FetchOptions { max_bytes: 64 << 20, partition_max_bytes: 64 << 20, ..FetchOptions::default() };
    let fetched = stage.client.fetcher().fetch(&[from], &options).await.unwrap();
    assert_eq!(fetched[0].visible().count(), 1, "it is one batch");
    assert_eq!(fetched[0].next_offset(), Offset(RECORDS as i64));
    stage
}

/// A control that crashes the job behind a commit, once it is told to.
fn crash_after_a_commit(crash: Arc<AtomicBool>) -> JobControl {
    JobControl::with_hooks(move |step: Step, _: Option<u32>| {
        match step == Step::AfterCommit && crash.load(Ordering::SeqCst) {
            true => Verdict::Crash,
            false => Verdict::Continue,
        }
    })
}

/// A barrier is taken at once, however long the broker may wait for data.
// scenario: D44
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_does_not_wait_for_a_long_poll() {
    let stage = Stage::new(2).await;
    let dir = tempfile::tempdir().unwrap();
    stage.produce(0..10).await;
    let fetch = FetchSettings { max_wait: Duration::from_secs(25), ..FetchSettings::default() };
    let source = stage.source().fetch(fetch).build().unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let config = job_config(dir.path(), 2, Duration::from_millis(100));
    let running =
        tokio::spawn(run(Job::from_source(source).to(stage.exactly_once()), config, control.clone()));
    wait_for("all is read", || metrics.borrow().records_in == 10).await;
    let began = Instant::now();
    let before = metrics.borrow().checkpoints;
    wait_for("checkpoints go on", || metrics.borrow().checkpoints >= before + 3).await;
    control.stop();
    running.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_complete_while_one_large_batch_is_in_a_slow_function_and_cut_it_at_the_record() {
    for blocking in [false, true] {
        let stage = stage().await;
        let dir = tempfile::tempdir().unwrap();
        let (crash, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let control = crash_after_a_commit(Arc::clone(&crash));
        let metrics = control.metrics();
        let source = || {
            let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::from_secs(1));
            Job::from_source(stage.source().watermarks(strategy).build().unwrap())
        };
        let count = Arc::clone(&seen);
        let slow = move |record: OwnedKafkaRecord| {
            count.fetch_add(1, Ordering::SeqCst);
            if blocking {
                // As a function that computes for so long.
                std::thread::sleep(Duration::from_millis(2));
            }
            async move {
                if !blocking {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok::<_, BoxError>(record)
            }
        };
        let job = source().map_async(1, slow).to(stage.exactly_once());
        let config = job_config(dir.path(), 1, Duration::from_millis(50));
        let began = Instant::now();
        let running = tokio::spawn(run(job, config, control.clone()));
        wait_for("a checkpoint in the batch", || metrics.borrow().offsets.values().any(|&next| next > 0))
            .await;
        let first = inspect(dir.path(), None).unwrap();
        let next = first.splits[0].next_offset.0;
        assert!(0 < next && next < RECORDS as i64, "{next}");
        assert_eq!(first.splits[0].max_timestamp, Some(timestamp(next as u64 - 1)));
        let checkpoint = metrics.borrow().last_checkpoint.unwrap();
        wait_for("more of them", || metrics.borrow().last_checkpoint.unwrap() >= checkpoint + 5).await;
        let took = metrics.borrow().last_checkpoint_took.unwrap();
        println!("blocking {blocking}: a checkpoint took {took:?}, after {:?}", began.elapsed());
        let at = [TopicPartition::new(stage.input.as_str(), 0)];
        let committed = async || {
            let committed = stage.client.group(GROUP).fetch(Some(&at), true).await.unwrap();
            committed.into_iter().next().unwrap().1.unwrap().map(|committed| committed.offset.0)
        };
        while committed().await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        crash.store(true, Ordering::SeqCst);
        assert!(running.await.unwrap().unwrap_err().to_string().contains("crashed by a hook"));
        assert!(seen.load(Ordering::SeqCst) < RECORDS / 2, "it was far from the end of the batch");

        // The group stands where a checkpoint stood, not at the end of the batch.
        let last = inspect(dir.path(), None).unwrap();
        let next = last.splits[0].next_offset.0;
        let committed = committed().await.unwrap();
        assert!(
            0 < committed && committed <= next,
            "{committed} is committed, and the checkpoint is at {next}"
        );

        // Another life goes on at that record.
        let control = JobControl::new();
        let metrics = control.metrics();
        let job = source().to(stage.exactly_once());
        let running =
            tokio::spawn(run(job, job_config(dir.path(), 1, Duration::from_millis(500)), control.clone()));
        let rest = RECORDS - next as u64;
        wait_for("the rest", || metrics.borrow().records_in >= rest).await;
        control.stop();
        assert_eq!(running.await.unwrap().unwrap().records_in, rest);
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "{verdict}");
    }
}

/// A stop does not wait for the batch either, and what it did not read is read by the next life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_a_large_batch_at_the_record() {
    let stage = stage().await;
    let dir = tempfile::tempdir().unwrap();
    let control = JobControl::new();
    let metrics = control.metrics();
    let slow = |record: OwnedKafkaRecord| {
        std::thread::sleep(Duration::from_millis(1));
        record
    };
    let job = Job::from_source(stage.bounded()).map(slow).to(stage.exactly_once());
    let running = tokio::spawn(run(job, job_config(dir.path(), 1, Duration::from_secs(30)), control.clone()));
    wait_for("it reads", || metrics.borrow().records_in > 0).await;
    control.stop();
    let first = running.await.unwrap().unwrap().records_in;
    assert!(0 < first && first < RECORDS / 2, "{first}");
    assert_eq!(stage.output().await.len() as u64, first);
    let job = Job::from_source(stage.bounded()).to(stage.exactly_once());
    let report =
        run(job, job_config(dir.path(), 2, Duration::from_secs(30)), JobControl::new()).await.unwrap();
    assert_eq!(report.records_in, RECORDS - first);
    let verdict = stage.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
}
