//! At least once through crashes: nothing is lost; repetitions are all that may happen.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use milena::ProducerConfig;
use milena::protocol::error_code::ErrorCode;
use milena_connector::runtime::{Job, JobControl, Step};
use milena_connector::sink::Delivery;
use milena_testkit::broker::Fault;
use support::{Dice, Stage, crash_at, job_config, run};

const RECORDS: u64 = 300;
const INTERVAL: Duration = Duration::from_millis(20);
const PRODUCE: i16 = 0;

fn small_batches() -> ProducerConfig {
    ProducerConfig { linger: Duration::ZERO, batch_size: 512, ..ProducerConfig::default() }
}

fn slow_copy(stage: &Stage) -> Job {
    Job::from_source(stage.bounded())
        .map_async(2, |record| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(record)
        })
        .to(stage.sink(Delivery::AtLeastOnce).producer(small_batches()).build().unwrap())
}

// scenario: 5.3.23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_and_a_troubled_broker_lose_nothing() {
    let steps =
        [Step::BeforeFlush, Step::AfterFlush, Step::BeforeCheckpointWrite, Step::AfterCheckpointWrite];
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let stage = Stage::new(3).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..4 {
            let step = steps[usize::try_from(dice.roll(4)).unwrap()];
            let fault = if dice.roll(2) == 0 { Fault::DropAfter } else { Fault::DropBefore };
            stage.broker.faults().on_after(u32::try_from(dice.roll(9)).unwrap(), PRODUCE, fault, 2);
            let config = job_config(dir.path(), 1 + u32::try_from(dice.roll(3)).unwrap(), INTERVAL);
            // A life may end in any way.
            let _ = run(slow_copy(&stage), config, crash_at(step, 1 + u32::try_from(dice.roll(4)).unwrap()))
                .await;
        }
        stage.broker.faults().clear();
        run(slow_copy(&stage), job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap();
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "seed {seed}: {verdict}");
    }
}

/// A checkpoint is not complete while a record before its barrier has failed: the next run produces it again.
// scenario: 5.3.17, D19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_record_is_not_passed_over_by_a_checkpoint() {
    for at in 0..2 {
        let stage = Stage::new(1).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        stage.broker.faults().on_after(at, PRODUCE, Fault::Error(ErrorCode::INVALID_RECORD), 1);
        let error =
            run(slow_copy(&stage), job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap_err();
        assert!(error.to_string().contains("INVALID_RECORD"), "{error}");
        run(slow_copy(&stage), job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap();
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.lost.is_empty(), "{verdict}");
    }
}
