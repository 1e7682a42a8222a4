//! Exactly once through crashes: jobs are crashed at every step and resumed with other parallelisms; then the committed
//! output is judged record by record.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use milena_connector::ErrorKind;
use milena_connector::runtime::Step;
use milena_testkit::broker::{Fault, TransactionVersion};
use support::{Dice, PREFIX, Stage, broker_config, crash_at, job_config, run};

const RECORDS: u64 = 300;
const INTERVAL: Duration = Duration::from_millis(20);

async fn settled(stage: &Stage) {
    let verdict = stage.judge(0..RECORDS).await;
    assert!(verdict.is_clean(), "{verdict}");
    let open = stage.open_transactions().await;
    assert!(open.iter().all(|id| !id.starts_with(PREFIX)), "still open: {open:?}");
}

// scenario: 5.6.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_copy_without_crashes() {
    let stage = Stage::new(3).await;
    stage.produce(0..RECORDS).await;
    let dir = tempfile::tempdir().unwrap();
    let report =
        run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), Default::default()).await.unwrap();
    assert_eq!((report.records_in, report.records_out), (RECORDS, RECORDS));
    assert!(report.checkpoints > 1, "{report:?}");
    assert!(report.committed_transactions > 1, "{report:?}");
    assert_eq!((report.restored_from, report.aborted_lingering), (None, 0));
    assert_eq!(report.offsets.values().sum::<i64>(), i64::try_from(RECORDS).unwrap());
    settled(&stage).await;
}

/// One job, killed at each step in turn and resumed each time with another parallelism.
// scenario: 5.8.11, 5.3.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_every_step_loses_and_doubles_nothing() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for step in Step::ALL {
            let stage = Stage::with(broker_config(3, version)).await;
            stage.produce(0..RECORDS).await;
            let dir = tempfile::tempdir().unwrap();
            let mut crashes = 0;
            for (life, nth) in [3, 1, 2].into_iter().enumerate() {
                let parallelism = [2, 3, 1][life];
                let config = job_config(dir.path(), parallelism, INTERVAL);
                match run(stage.slow_copy(), config, crash_at(step, nth)).await {
                    Ok(_) => {}
                    Err(error) => {
                        assert!(error.to_string().contains("crashed by a hook"), "{step:?}: {error}");
                        crashes += 1;
                    }
                }
            }
            assert!(crashes > 0, "{step:?} was never reached");
            run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), Default::default()).await.unwrap();
            settled(&stage).await;
        }
    }
}

/// How many histories a random test tries. `MILENA_SEEDS=200` makes it a long run.
fn seeds() -> u64 {
    std::env::var("MILENA_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Random crash points and parallelisms over many lives.
// scenario: 5.1.6, 5.1.7, 5.1.8, 5.2.15, 5.2.16, 5.4.13, 5.4.14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_lives_write_each_record_once() {
    for seed in 0..seeds() {
        let mut dice = Dice::new(seed);
        let version = if dice.roll(2) == 0 { TransactionVersion::V1 } else { TransactionVersion::V2 };
        let partitions = i32::try_from(1 + dice.roll(4)).unwrap();
        let stage = Stage::with(broker_config(partitions, version)).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let mut lives = Vec::new();
        for _ in 0..6 {
            let step = Step::ALL[usize::try_from(dice.roll(8)).unwrap()];
            let (nth, parallelism) =
                (1 + u32::try_from(dice.roll(6)).unwrap(), 1 + u32::try_from(dice.roll(4)).unwrap());
            lives.push((step, nth, parallelism));
            let ended =
                run(stage.slow_copy(), job_config(dir.path(), parallelism, INTERVAL), crash_at(step, nth))
                    .await;
            if let Err(error) = ended {
                assert!(error.to_string().contains("crashed by a hook"), "seed {seed}, {lives:?}: {error}");
            }
        }
        run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), Default::default()).await.unwrap();
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "seed {seed}, {lives:?}: {verdict}");
        assert!(stage.open_transactions().await.is_empty(), "seed {seed}");
    }
}

/// The same with lost requests, lost answers, refusals and broker restarts. A life may fail, but never by losing records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_lives_on_a_troubled_broker_write_each_record_once() {
    const APIS: [i16; 7] = [0, 1, 3, 10, 22, 24, 26];
    for seed in 0..seeds() {
        let mut dice = Dice::new(2_000_000 + seed);
        let version = if dice.roll(2) == 0 { TransactionVersion::V1 } else { TransactionVersion::V2 };
        let mut config = broker_config(3, version);
        config.marker_delay = Duration::from_millis(dice.roll(3) * 15);
        let stage = Stage::with(config).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..4 {
            for _ in 0..dice.roll(5) {
                let api = APIS[usize::try_from(dice.roll(7)).unwrap()];
                let fault = match dice.roll(3) {
                    0 => Fault::DropBefore,
                    1 => Fault::DropAfter,
                    _ => Fault::Delay(Duration::from_millis(dice.roll(60))),
                };
                let skip = u32::try_from(dice.roll(12)).unwrap();
                stage.broker.faults().on_after(skip, api, fault, 1 + u32::try_from(dice.roll(3)).unwrap());
            }
            let (step, nth) =
                (Step::ALL[usize::try_from(dice.roll(8)).unwrap()], 1 + u32::try_from(dice.roll(6)).unwrap());
            let parallelism = 1 + u32::try_from(dice.roll(3)).unwrap();
            let config = job_config(dir.path(), parallelism, INTERVAL);
            let restart = dice.roll(2) == 0;
            let at = Duration::from_millis(dice.roll(200));
            let trouble = async {
                tokio::time::sleep(at).await;
                if restart {
                    stage.broker.restart();
                }
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = run(stage.slow_copy(), config, crash_at(step, nth)) => ended,
                () = trouble => unreachable!("it never ends"),
            };
            if let Err(error) = ended {
                assert_ne!(error.kind(), ErrorKind::DataLoss, "seed {seed}: {error}");
                assert_ne!(error.kind(), ErrorKind::Misuse, "seed {seed}: {error}");
                assert_ne!(error.kind(), ErrorKind::State, "seed {seed}: {error}");
            }
        }
        stage.broker.faults().clear();
        run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), Default::default()).await.unwrap();
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "seed {seed}: {verdict}");
        assert!(stage.open_transactions().await.is_empty(), "seed {seed}");
    }
}

/// Dropping the run's future at a random moment is as good as a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_run_loses_and_doubles_nothing() {
    for seed in 0..seeds() {
        let mut dice = Dice::new(1_000_000 + seed);
        let stage = Stage::new(3).await;
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let parallelism = 1 + u32::try_from(dice.roll(3)).unwrap();
            let config = job_config(dir.path(), parallelism, INTERVAL);
            let patience = Duration::from_millis(5 + dice.roll(150));
            let running = stage.slow_copy().run(config, Default::default());
            match tokio::time::timeout(patience, running).await {
                Ok(ended) => drop(ended.unwrap()),
                Err(_elapsed) => {}
            }
        }
        run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), Default::default()).await.unwrap();
        settled(&stage).await;
    }
}

/// Dropped after so many polls, for every number: each await of the coordinator is met.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_dropped_after_any_number_of_polls_loses_and_doubles_nothing() {
    const FEW: u64 = 60;
    let mut dropped = 0;
    for polls in (1..40).chain((40..100).step_by(10)) {
        let stage = Stage::new(2).await;
        stage.produce(0..FEW).await;
        let dir = tempfile::tempdir().unwrap();
        let config = job_config(dir.path(), 1 + polls % 3, INTERVAL / 4);
        let mut running = Box::pin(stage.slow_copy().run(config, Default::default()));
        let mut left = polls;
        let ended = std::future::poll_fn(|context| {
            left -= 1;
            if left == 0 {
                return std::task::Poll::Ready(None);
            }
            running.as_mut().poll(context).map(Some)
        })
        .await;
        drop(running);
        match ended {
            None => dropped += 1,
            Some(ended) => drop(ended.unwrap()),
        }
        run(stage.slow_copy(), job_config(dir.path(), 2, INTERVAL), Default::default()).await.unwrap();
        let verdict = stage.judge(0..FEW).await;
        assert!(verdict.is_clean(), "after {polls} polls: {verdict}");
        assert!(stage.open_transactions().await.is_empty(), "after {polls} polls");
    }
    assert!(dropped > 20, "{dropped} lives were cut short");
}
