//! Consume, transform, produce, with the group's offsets in the transactions and no checkpoint store: exactly once, through kills at any
//! moment and partitions that move.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::TopicPartition;
use milena_connector::pipeline::{Input, Output, Pipeline, PipelineReport};
use milena_connector::{BoxError, ErrorKind, Result};
use milena_tests::jobs::Stage;
use milena_tests::records::eventually;

const RECORDS: u64 = 400;

fn pipeline(stage: &Stage, partitions: std::ops::Range<i32>) -> Pipeline {
    let mine = partitions.map(|partition| TopicPartition::new(stage.input.as_str(), partition));
    Pipeline::builder(stage.env.config(), &stage.group, mine)
        .commit_interval(Duration::from_millis(20))
        .build()
        .unwrap()
}

/// Each record to the partition it came from.
fn copy(output: &str) -> impl FnMut(&Input<'_>, &mut Output) -> Result<(), BoxError> {
    move |input, out| {
        out.record(output)
            .set_partition(input.partition.partition)
            .set_key(input.record.key.unwrap())
            .set_value(input.record.value.unwrap());
        Ok(())
    }
}

async fn until_all_is_seen(stage: &Stage, pipeline: &Pipeline, count: u64) -> PipelineReport {
    let done = async {
        eventually(stage.env.describe(), || stage.committed(), usize::try_from(count).unwrap()).await;
    };
    pipeline.run(copy(&stage.output), done).await.unwrap()
}

// scenario: D24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_and_offsets_are_committed_together() {
    for stage in Stage::each(3).await {
        stage.produce(0..RECORDS).await;
        let first = until_all_is_seen(&stage, &pipeline(&stage, 0..3), RECORDS).await;
        assert_eq!((first.records_in, first.records_out, first.restarts), (RECORDS, RECORDS, 0));
        assert!(first.transactions >= 3);
        assert!(stage.lag().await.values().all(|&lag| lag == 0), "{}", stage.env.describe());
        // The next one goes on there.
        stage.produce(RECORDS..RECORDS + 50).await;
        let second = until_all_is_seen(&stage, &pipeline(&stage, 0..3), RECORDS + 50).await;
        assert_eq!(second.records_in, 50, "{}", stage.env.describe());
        let verdict = stage.judge(0..RECORDS + 50).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
    }
}

/// Killed after 10, 30, 50 ms and so on: a dropped future is a killed process. Its transactions are open until the next one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_lose_and_double_nothing() {
    for stage in Stage::each(3).await {
        let mut written = 0;
        for life in 0..12_u64 {
            stage.produce(written..written + 60).await;
            written += 60;
            let pipeline = pipeline(&stage, 0..3);
            let running = pipeline.run(copy(&stage.output), std::future::pending());
            let killed = tokio::time::timeout(Duration::from_millis(10 + life * 20), running).await;
            assert!(killed.is_err(), "it does not end by itself: {killed:?}");
        }
        until_all_is_seen(&stage, &pipeline(&stage, 0..3), written).await;
        let verdict = stage.judge(0..written).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
        assert!(stage.open_transactions(&stage.group).await.is_empty(), "{}", stage.env.describe());
    }
}

/// A second instance takes a partition while the first still writes to it: the first is told so, and nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_moves_is_fenced_off() {
    for stage in Stage::each(2).await {
        stage.produce(0..RECORDS).await;
        let first = pipeline(&stage, 0..2);
        let output = stage.output.clone();
        let zombie = tokio::spawn(async move { first.run(copy(&output), std::future::pending()).await });
        eventually(stage.env.describe(), || async { stage.committed().await > 0 }, true).await;
        stage.produce(RECORDS..RECORDS * 2).await;
        let second = pipeline(&stage, 1..2);
        let done = async {
            stage.produce(RECORDS * 2..RECORDS * 3).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        second.run(copy(&stage.output), done).await.unwrap();
        let error = zombie.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Client, "{error}");
        assert!(error.to_string().contains("took this partition over"), "{error}");
        until_all_is_seen(&stage, &pipeline(&stage, 0..2), RECORDS * 3).await;
        let verdict = stage.judge(0..RECORDS * 3).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_fails_names_its_record_and_nothing_of_it_is_seen() {
    for stage in Stage::each(1).await {
        stage.produce(0..10).await;
        let mut copied = copy(&stage.output);
        let failing = move |input: &Input<'_>, out: &mut Output| {
            copied(input, out)?;
            if input.record.offset.0 == 7 { Err("unlucky".into()) } else { Ok(()) }
        };
        let pipeline = Pipeline::builder(
            stage.env.config(),
            &stage.group,
            [TopicPartition::new(stage.input.as_str(), 0)],
        );
        let pipeline = pipeline.commit_interval(Duration::from_secs(10)).build().unwrap();
        let error = pipeline.run(failing, std::future::pending()).await.unwrap_err();
        assert_eq!((error.kind(), error.offset().map(|at| at.0)), (ErrorKind::Schema, Some(7)), "{error}");
        assert_eq!(stage.committed().await, 0);
        assert!(stage.open_transactions(&stage.group).await.is_empty(), "it is aborted, not left open");
    }
}
