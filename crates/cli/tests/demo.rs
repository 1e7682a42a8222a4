//! The demo, and its job killed at each step of a checkpoint.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use common::{broker, command, finish, lines, run, run_with_input, signal, sorted, until, values};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_demo_is_exact() {
    let args = [
        "demo",
        "--records",
        "3000",
        "--crashes",
        "3",
        "--seed",
        "11",
        "--partitions",
        "3",
        "--format",
        "json",
    ];
    let summary = run(&args).await.expect(0).json();
    assert_eq!(summary["ok"], true, "{summary}");
    assert_eq!(summary["seen"], 3000, "{summary}");
    assert_eq!(summary["crashes"], 3, "{summary}");
    assert_eq!(summary["seed"], 11, "{summary}");
    assert_eq!(summary["parallelism"].as_array().unwrap().len(), 4, "{summary}");
    for none in ["missing", "duplicated", "reordered", "foreign", "watermark_regressions"] {
        assert_eq!(summary[none], 0, "{summary}");
    }
    assert!(summary["checkpoints"].as_u64().unwrap() > 0, "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_removes_its_topics() {
    let (broker, b) = broker(&[]).await;
    let topics =
        || broker.with_broker(|broker| broker.topic_names().filter(|t| t.starts_with("milena-demo")).count());
    let child = command(&["demo", "--bootstrap", &b, "--crashes", "20"]).spawn().unwrap();
    until("the demo's topics", || topics() == 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    signal(&child, "INT").await;
    let ended = finish(child).await.expect(1);
    assert_eq!(ended.message(), "interrupted");
    assert_eq!(topics(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_whose_broker_dies_ends_by_itself() {
    let (broker, b) = broker(&[]).await;
    let child = command(&["demo", "--bootstrap", &b, "--crashes", "20", "--timeout", "1s"]).spawn().unwrap();
    let topics = || broker.with_broker(|broker| broker.topic_names().count());
    until("the demo's topics", || topics() >= 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    broker.stop().await;
    let ended = finish(child).await.expect(1);
    assert!(ended.stderr.contains("may be left behind"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_each_step_leaves_each_record_once() {
    let (_broker, b) = broker(&[("in", 2), ("out", 2)]).await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_str().unwrap();
    let worker =
        ["demo-worker", "-b", &b, "--from", "in", "--to", "out", "--prefix", "steps", "--group", "steps"];
    let settings = ["--checkpoint-dir", at, "--checkpoint-interval", "50ms", "--parallelism", "2"];
    let worker = [&worker[..], &settings[..]].concat();
    let steps = [
        "before-flush",
        "after-flush",
        "after-prepare",
        "before-checkpoint-write",
        "after-checkpoint-write",
        "before-commit",
        "after-commit-sent",
        "after-commit",
    ];
    let mut produced = 0;
    for step in steps {
        run_with_input(&["produce", "-b", &b, "-t", "in"], &lines(produced..produced + 100)).await.expect(0);
        produced += 100;
        let ended = run(&[&worker[..], &["--crash-at", step]].concat()).await;
        assert_eq!(ended.status.signal(), Some(9), "{step}: {ended:?}");
    }
    run(&[&worker[..], &["--until-end"]].concat()).await.expect(0);
    assert_eq!(values(&b, "out").await, sorted(0..produced, "seen "));
    let wrong = run(&[&worker[..], &["--crash-at", "nowhere"]].concat()).await.expect(2);
    assert!(wrong.message().contains("before-flush"), "{wrong:?}");
}
