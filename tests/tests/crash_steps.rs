//! Exactly once through `kill -9` at each step of a checkpoint: a process of its own dies there by SIGKILL, then others go on.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::{Isolation, ProducerConfig, ProducerRecord, TopicPartition};
use milena_testkit::check::Judge;
use milena_tests::Env;
use milena_tests::cli;
use milena_tests::jobs::{Stage, key};
use milena_tests::records::{read, text, write};

/// What the worker puts before each value.
const MARK: &str = "seen ";
const RECORDS: u64 = 60;

async fn life(stage: &Stage, dir: &std::path::Path, parallelism: u32, more: &[&str]) -> cli::Outcome {
    let mut arguments: Vec<String> = vec!["demo-worker".to_owned()];
    let fixed = [
        ("--bootstrap", stage.env.bootstrap()),
        ("--from", stage.input.clone()),
        ("--to", stage.output.clone()),
        ("--prefix", stage.prefix.clone()),
        ("--group", stage.group.clone()),
        ("--checkpoint-dir", dir.to_string_lossy().into_owned()),
        ("--checkpoint-interval", "50ms".to_owned()),
        ("--parallelism", parallelism.to_string()),
    ];
    for (name, value) in fixed {
        arguments.extend([name.to_owned(), value]);
    }
    arguments.extend(more.iter().map(|&word| word.to_owned()));
    cli::run(arguments, "").await
}

async fn produce(stage: &Stage, numbers: std::ops::Range<u64>) {
    let records: Vec<_> = numbers.map(|number| (key(number), format!("{number}"))).collect();
    let records = records.iter().map(|(key, value)| ProducerRecord::to(&stage.input).key(key).value(value));
    write(&stage.client, ProducerConfig::default(), records).await;
}

async fn judge(stage: &Stage, records: u64) -> milena_testkit::check::Verdict {
    let mut judge = Judge::new();
    for number in 0..records {
        judge.expect(key(number).as_bytes(), number);
    }
    for partition in 0..stage.partitions {
        let tp = TopicPartition::new(stage.output.as_str(), partition);
        for record in read(&stage.client, &tp, Isolation::ReadCommitted).await {
            let value = text(record.value.as_deref());
            let number = value.strip_prefix(MARK).unwrap().parse().unwrap();
            judge.see(&stage.output, partition, record.offset.0, record.key.as_deref().unwrap(), number);
        }
    }
    judge.verdict()
}

/// Kills a life at the step, a second one at the step's second time, and lets a third one finish.
async fn killed_at(env: Env, step: &str) {
    let stage = Stage::new(env, 2).await;
    let dir = tempfile::tempdir().unwrap();
    produce(&stage, 0..RECORDS).await;
    let outcome = life(&stage, dir.path(), 2, &["--crash-at", step]).await;
    assert_eq!(outcome.code, None, "{step}: {outcome:?}");
    produce(&stage, RECORDS..2 * RECORDS).await;
    let outcome = life(&stage, dir.path(), 3, &["--until-end", "--crash-at", &format!("{step}:2")]).await;
    // A step that comes once in the second life's short work does not kill it.
    assert!(outcome.code.is_none() || outcome.code == Some(0), "{step}: {outcome:?}");
    let last = life(&stage, dir.path(), 1, &["--until-end"]).await;
    assert_eq!(last.code, Some(0), "{step}: {last:?}");
    let verdict = judge(&stage, 2 * RECORDS).await;
    assert!(verdict.is_clean(), "{}, {step}: {verdict}", stage.env.describe());
    let open = stage.open_transactions(&stage.prefix).await;
    assert!(open.is_empty(), "{}, {step}: {open:?}", stage.env.describe());
}

macro_rules! steps {
    ($($name:ident $step:literal)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            for env in Env::each().await {
                let what = env.describe().to_owned();
                let done = tokio::time::timeout(Duration::from_secs(240), killed_at(env, $step)).await;
                assert!(done.is_ok(), "{what}: too slow");
            }
        })*
    };
}

steps! {
    a_kill_before_the_flush "before-flush"
    a_kill_after_the_flush "after-flush"
    a_kill_after_the_preparation "after-prepare"
    a_kill_before_the_checkpoint_is_written "before-checkpoint-write"
    a_kill_after_the_checkpoint_is_written "after-checkpoint-write"
    a_kill_before_the_commit "before-commit"
    a_kill_after_the_commit_was_sent "after-commit-sent"
    a_kill_after_the_commit "after-commit"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_step_is_a_wrong_call() {
    let stage = Stage::new(Env::embedded().await, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let outcome = life(&stage, dir.path(), 1, &["--crash-at", "nowhere"]).await;
    assert!(outcome.failed(2).contains("after-commit"));
}

/// The judge is judged: a life that does not know the checkpoints of the one before writes records twice, and that is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_without_its_checkpoints_is_found_out() {
    for env in Env::each().await {
        let stage = Stage::new(env, 2).await;
        produce(&stage, 0..RECORDS).await;
        for _ in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            life(&stage, dir.path(), 1, &["--until-end"]).await.good();
        }
        let verdict = judge(&stage, RECORDS).await;
        assert_eq!(verdict.duplicated.len() as u64, RECORDS, "{}: {verdict}", stage.env.describe());
        assert!(verdict.lost.is_empty(), "{verdict}");
    }
}
