//! Exactly once on a real Kafka: crashes of the job at random steps, and of the broker.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use milena_connector::runtime::{Job, JobControl, Step};
use milena_connector::sink::{Delivery, LossPolicy, OnHanging};
use support::{Dice, Stage, crash_at, job_config, run};

const RECORDS: u64 = 300;
const INTERVAL: Duration = Duration::from_millis(60);

async fn settled<B>(stage: &Stage<B>) {
    let verdict = stage.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
    let open = stage.open_transactions().await;
    assert!(open.iter().all(|id| !id.starts_with(&stage.prefix)), "still open: {open:?}");
}

// scenario: 5.4.17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_lives_on_a_real_broker_write_each_record_once() {
    let Some(stage) = Stage::real(3).await else { return };
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice::new(4711);
    let mut crashes = 0;
    for step in Step::ALL {
        let (nth, parallelism) =
            (1 + u32::try_from(dice.roll(3)).unwrap(), 1 + u32::try_from(dice.roll(3)).unwrap());
        let config = job_config(dir.path(), parallelism, INTERVAL);
        if let Err(error) = run(stage.slow_copy(), config, crash_at(step, nth)).await {
            assert!(error.to_string().contains("crashed by a hook"), "{step:?}: {error}");
            crashes += 1;
        }
    }
    assert!(crashes > 2, "{crashes} crashes");
    run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap();
    settled(&stage).await;
}

// scenario: 5.1.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_the_kill_of_its_broker() {
    let Some(stage) = Stage::real(2).await else { return };
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    // A coordinator of 4.3 that starts before it knows the leaders skips a marker for good (KAFKA-20734): then the job writes it.
    let policy = LossPolicy { hanging: OnHanging::Finish, ..LossPolicy::default() };
    let copy = |pause: Duration| {
        Job::from_source(stage.bounded())
            .map_async(1, move |record| async move {
                tokio::time::sleep(pause).await;
                Ok(record)
            })
            .to(stage.sink(Delivery::ExactlyOnce).on_loss(policy).build().unwrap())
    };
    let slow = copy(Duration::from_millis(10));
    let running = tokio::spawn(slow.run(job_config(dir.path(), 2, INTERVAL), JobControl::new()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    if let Err(error) = stage.broker.kill9().await {
        eprintln!("skipped: this broker is not ours to kill ({error})");
        running.abort();
        return;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.broker.restart().await.unwrap();
    // The job may ride it out, or give up and go on from its checkpoint.
    let ended =
        tokio::time::timeout(Duration::from_secs(120), running).await.expect("the job hangs").unwrap();
    if let Err(error) = ended {
        eprintln!("the job gave up: {error}");
    }
    let last = copy(Duration::from_millis(1)).run(job_config(dir.path(), 1, INTERVAL), JobControl::new());
    tokio::time::timeout(Duration::from_secs(120), last).await.expect("the job hangs").unwrap();
    settled(&stage).await;
}
