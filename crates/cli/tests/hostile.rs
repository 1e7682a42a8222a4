//! Brokers that are silent, slow or lying: each command ends by itself, in bounded time, with a message.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::time::{Duration, Instant};

use common::{Ended, run, run_with_input};
use milena_testkit::hostile::{HostileBroker, Mode};

/// The time-out the commands get, and what they may take beyond it on a busy machine.
const TIMEOUT: &str = "1s";
const GRACE: Duration = Duration::from_secs(12);

async fn each_command(b: &str) -> Vec<(&'static str, Ended, Duration)> {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_str().unwrap();
    let calls: [(&'static str, Vec<&str>); 10] = [
        ("list", vec!["topics", "list"]),
        ("describe", vec!["topics", "describe", "t"]),
        ("create", vec!["topics", "create", "t"]),
        ("delete", vec!["topics", "delete", "t"]),
        ("offsets", vec!["offsets", "-t", "t"]),
        ("versions", vec!["api-versions"]),
        ("consume", vec!["consume", "-t", "t", "-e"]),
        ("produce", vec!["produce", "-t", "t"]),
        ("copy", vec!["copy", "--from", "s", "--to", "t", "--until-end", "--checkpoint-dir", at]),
        ("demo", vec!["demo", "--records", "10", "--crashes", "1"]),
    ];
    let calls = calls.into_iter().map(|(name, mut args)| async move {
        args.extend(["--bootstrap", b, "--timeout", TIMEOUT]);
        let began = Instant::now();
        let ended = if name == "produce" { run_with_input(&args, b"line\n").await } else { run(&args).await };
        (name, ended, began.elapsed())
    });
    futures_util::future::join_all(calls).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_ends_with_1_and_a_message() {
    let modes = [
        Mode::Silent,
        Mode::Slow { pause: Duration::from_millis(50) },
        Mode::Garbage,
        Mode::GarbageBody,
        Mode::HugeLength,
        Mode::NegativeLength,
        Mode::WrongCorrelation,
        Mode::CloseAfterHandshake,
        Mode::CutAnswer,
    ];
    for mode in modes {
        let hostile = HostileBroker::start(mode, 3).await.unwrap();
        for (name, ended, took) in each_command(&hostile.bootstrap()).await {
            assert!(took < GRACE, "{name} on {mode:?} took {took:?}");
            let ended = ended.expect(1);
            assert!(!ended.message().is_empty(), "{name} on {mode:?}: {ended:?}");
        }
        assert!(hostile.requests() > 0, "{mode:?} was not asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_ends_on_lying_metadata() {
    let hostile = HostileBroker::start(Mode::LyingMetadata, 5).await.unwrap();
    for (name, ended, took) in each_command(&hostile.bootstrap()).await {
        assert!(took < GRACE, "{name} took {took:?}");
        // A list of made-up names is a list, and versions are told truthfully; whatever needs a leader fails.
        assert!(!ended.stderr.contains("panicked"), "{name}: {ended:?}");
        if ["consume", "produce", "offsets", "copy", "demo"].contains(&name) {
            assert!(!ended.expect(1).message().is_empty(), "{name}");
        }
    }
}
