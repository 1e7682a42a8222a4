//! Copies: what they keep, how they stop, and how they go on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{broker, command, finish, lines, run, run_with_input, signal, sorted, until, values};
use milena::Offset;
use milena_testkit::damage::bomb;
use milena_testkit::listen::EmbeddedBroker;

/// Checkpoints in a directory.
fn checkpoints(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("checkpoint-"))
        .collect();
    found.sort();
    found
}

fn written(broker: &EmbeddedBroker, topic: &str) -> i64 {
    broker.with_broker(|broker| broker.offsets(topic, 0).map_or(0, |offsets| offsets.2))
}

async fn produce(b: &str, topic: &str, numbers: std::ops::Range<u32>) {
    run_with_input(&["produce", "-b", b, "-t", topic], &lines(numbers)).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_keep_everything_but_their_offset() {
    let (_broker, b) = broker(&[("in", 3), ("out", 4)]).await;
    let directory = tempfile::tempdir().unwrap();
    let produce = ["produce", "-b", &b, "-t", "in", "-K", ":", "-H", "a=b", "-H", "n", "-Z"];
    run_with_input(&produce, b"k:v\nq:\n:w\nbin\xff:\xfe\n").await.expect(0);
    let at = directory.path().to_str().unwrap();
    let copy = ["copy", "-b", &b, "--from", "in", "--to", "out", "--checkpoint-dir", at, "--until-end"];
    let copied = run(&copy).await.expect(0);
    assert!(copied.stderr.contains("copied 4 records"), "{copied:?}");
    let shape = |topic: &'static str| {
        let b = b.clone();
        async move {
            let args = ["consume", "-b", &b, "-t", topic, "-e", "-Z", "-f", "%p %T %k %s %h\\n"];
            let mut lines: Vec<_> =
                run(&args).await.expect(0).stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        }
    };
    assert_eq!(shape("in").await, shape("out").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_go_on_where_the_last_one_stopped() {
    let (_broker, b) = broker(&[("in", 4), ("out", 4)]).await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_str().unwrap();
    let runs = [
        ("1", "exactly-once"),
        ("3", "exactly-once"),
        ("2", "at-least-once"),
        ("2", "none"),
        ("1", "exactly-once"),
    ];
    for (index, (parallelism, delivery)) in (0..).zip(runs) {
        produce(&b, "in", index * 200..index * 200 + 200).await;
        let copy = ["copy", "-b", &b, "--from", "in", "--to", "out", "--checkpoint-dir", at, "--until-end"];
        let more = ["--parallelism", parallelism, "--delivery", delivery, "--format", "json"];
        let report = run(&[&copy[..], &more[..]].concat()).await.expect(0).json();
        assert_eq!(report["records_out"], 200, "{report}");
        assert_eq!(report["restored_from"].is_null(), index == 0, "{report}");
        assert_eq!(values(&b, "out").await, sorted(0..index * 200 + 200, ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_stop_it_with_a_last_checkpoint() {
    let (broker, b) = broker(&[("in", 1), ("out", 1)]).await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_str().unwrap();
    // No checkpoint but the last one commits anything.
    let copy = [
        "copy",
        "-b",
        &b,
        "--from",
        "in",
        "--to",
        "out",
        "--checkpoint-dir",
        at,
        "--checkpoint-interval",
        "2m",
    ];
    for (index, name) in (0..).zip(["INT", "TERM"]) {
        produce(&b, "in", index * 100..index * 100 + 100).await;
        let before = written(&broker, "out");
        let child = command(&copy).spawn().unwrap();
        until("output", || written(&broker, "out") >= before + 100).await;
        signal(&child, name).await;
        let ended = finish(child).await.expect(0);
        assert!(ended.stderr.contains("stopping after a last checkpoint"), "{ended:?}");
        assert_eq!(values(&b, "out").await, sorted(0..index * 100 + 100, ""));
    }
    // Killed with nothing committed since: the next run takes it up again.
    produce(&b, "in", 200..300).await;
    let before = written(&broker, "out");
    let mut child = command(&copy).spawn().unwrap();
    until("output", || written(&broker, "out") >= before + 100).await;
    child.kill().await.unwrap();
    run(&[&copy[..], &["--until-end"]].concat()).await.expect(0);
    assert_eq!(values(&b, "out").await, sorted(0..300, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_cannot_work_are_refused() {
    let (_broker, b) = broker(&[("in", 3), ("small", 1), ("out", 3)]).await;
    let root = tempfile::tempdir().unwrap();
    let at = root.path().join("cp");
    let at = at.to_str().unwrap();
    let copy = |from: &'static str, to: &'static str, more: &'static [&'static str]| {
        let b = b.clone();
        let at = at.to_owned();
        async move {
            let args = ["copy", "-b", &b, "--from", from, "--to", to, "--checkpoint-dir", &at, "--until-end"];
            run(&[&args[..], more].concat()).await
        }
    };
    for from in ["in,out", "/.*/"] {
        assert!(copy(from, "out", &[]).await.expect(2).message().contains("would never end"), "{from}");
    }
    for from in ["in", "/i./"] {
        assert!(copy(from, "small", &[]).await.expect(1).message().contains("needs as many"), "{from}");
    }
    let ended = copy("in", "none", &["--timeout", "500ms"]).await.expect(1);
    assert!(ended.message().contains("milena topics create"), "{ended:?}");
    let ended = copy("in", "out", &["--transaction-timeout", "20m"]).await;
    assert!(ended.message().contains("lower --transaction-timeout"), "{ended:?}");
    let ended =
        copy("in", "out", &["--transaction-timeout", "1s", "--checkpoint-interval", "5s"]).await.expect(2);
    assert!(ended.message().contains("--transaction-timeout"), "{ended:?}");

    let busy = root.path().join("busy");
    let busy = busy.to_str().unwrap();
    let args = [
        "copy",
        "-b",
        &b,
        "--from",
        "in",
        "--to",
        "out",
        "--checkpoint-dir",
        busy,
        "--checkpoint-interval",
        "50ms",
    ];
    let first = command(&args).spawn().unwrap();
    until("the first copy's checkpoint", || !checkpoints(Path::new(busy)).is_empty()).await;
    let second = run(&args).await.expect(1);
    assert!(second.message().contains("in use by"), "{second:?}");
    signal(&first, "INT").await;
    finish(first).await.expect(0);
    for path in checkpoints(Path::new(busy)) {
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    }
    let damaged = run(&args).await.expect(1);
    assert!(damaged.message().contains("put back a good copy"), "{damaged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_exactly_once_no_directory_is_needed() {
    let (_broker, b) = broker(&[("in", 1), ("out", 1)]).await;
    let empty = tempfile::tempdir().unwrap();
    produce(&b, "in", 0..50).await;
    for delivery in ["none", "at-least-once"] {
        let args = ["copy", "-b", &b, "--from", "in", "--to", "out", "--delivery", delivery, "--until-end"];
        finish(command(&args).current_dir(empty.path()).spawn().unwrap()).await.expect(0);
    }
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    assert_eq!(values(&b, "out").await.len(), 100);
    let args = ["copy", "-b", &b, "--from", "in", "--to", "out", "--until-end"];
    finish(command(&args).current_dir(empty.path()).spawn().unwrap()).await.expect(0);
    assert_eq!(checkpoints(&empty.path().join("milena-copy-out")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_appears_later_is_copied_too() {
    let (broker, b) = broker(&[("in-1", 1), ("out", 1)]).await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_str().unwrap();
    produce(&b, "in-1", 0..10).await;
    let args = ["copy", "-b", &b, "--from", "/in-.*/", "--to", "out", "--checkpoint-dir", at];
    let more = ["--checkpoint-interval", "100ms", "--discovery-interval", "100ms"];
    let child = command(&[&args[..], &more[..]].concat()).spawn().unwrap();
    until("the first topic", || written(&broker, "out") >= 10).await;
    run(&["topics", "create", "-b", &b, "in-2"]).await.expect(0);
    produce(&b, "in-2", 10..20).await;
    until("the second topic", || written(&broker, "out") >= 20).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    signal(&child, "INT").await;
    finish(child).await.expect(0);
    assert_eq!(values(&b, "out").await, sorted(0..20, ""));
}

/// Properties of producers reach what is written, those of consumers what is read, and what neither knows is told.
#[tokio::test(flavor = "multi_thread")]
async fn properties_reach_the_source_and_the_sink() {
    const FETCH: i16 = 1;
    let (broker, b) = broker(&[("in", 1), ("out", 1)]).await;
    let to_in = ["produce", "-b", &b, "-t", "in", "-X", "batch.size=256"];
    let input: String = (0..40).map(|number| format!("{number:0150}\n")).collect();
    run_with_input(&to_in, input.as_bytes()).await.expect(0);
    assert_eq!(broker.with_broker(|broker| broker.log("in", 0).count()), 40, "two do not fit into a batch");
    let written_as_38 = async || values(&b, "out").await.iter().filter(|value| value.ends_with("38")).count();
    let copy = async |more: &[&str]| {
        let fetches = broker.with_broker(|broker| broker.requests(FETCH));
        let args = ["copy", "-b", &b, "--from", "in", "--to", "out", "--delivery", "none", "--until-end"];
        let ended = run(&[&args[..], more].concat()).await;
        (ended, broker.with_broker(|broker| broker.requests(FETCH)) - fetches)
    };

    let (ended, fetches) = copy(&[]).await;
    assert!(ended.expect(0).stderr.contains("copied 40 records") && fetches < 40, "{fetches} fetches");
    let (ended, fetches) = copy(&["-X", "fetch.max.bytes=1", "-X", "compression.type=gzip"]).await;
    let ended = ended.expect(0);
    assert!(ended.stderr.contains("copied 40 records") && !ended.stderr.contains("WARN"), "{ended:?}");
    assert!(fetches >= 40, "{fetches} fetches, each with more than a batch");

    // The disk flips a bit of "39".
    let last = broker.with_broker(|broker| broker.log("in", 0).last()).unwrap();
    let mut damaged = last.bytes.to_vec();
    let digit = damaged.len() - 2;
    damaged[digit] ^= 1;
    assert!(broker.with_broker(|broker| broker.replace_batch("in", 0, 39, damaged.into())));
    let (ended, _) = copy(&[]).await;
    assert!(ended.expect(1).message().contains("offset 39 is damaged"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "check.crcs=false\ngroup.id=of-an-application\n").unwrap();
    let path = file.path().to_str().unwrap();
    for how in [["-X", "check.crcs=false"], ["-F", path]] {
        let before = written_as_38().await;
        let ended = copy(&how).await.0.expect(0);
        assert!(ended.stderr.contains("copied 40 records") && !ended.stderr.contains("WARN"), "{ended:?}");
        assert_eq!(written_as_38().await, before + 2, "once as it was written, once as it lies there");
    }

    let ended = copy(&["-X", "max.poll.records=5"]).await.0;
    assert!(ended.stderr.contains("no use for this property"), "{ended:?}");
    let ended = copy(&["-X", "fetch.max.byte=1"]).await.0.expect(2);
    assert!(ended.message().contains("did you mean fetch.max.bytes?"), "{ended:?}");
    let ended = copy(&["-X", "check.crcs=no"]).await.0.expect(2);
    assert!(ended.message().contains("check.crcs"), "{ended:?}");
}

/// What lies in the log is read as it is told to be: by its checksum or not, and up to the size that is set.
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_cannot_be_read_say_which_setting_reads_them() {
    let (broker, b) = broker(&[("in", 1), ("out", 1)]).await;
    produce(&b, "in", 0..1).await;
    let whole = broker.with_broker(|broker| broker.log("in", 0).next()).unwrap().bytes;
    let mut flipped = whole.to_vec();
    let digit = flipped.len() - 2;
    flipped[digit] ^= 1;
    let bomb = bomb(Offset(0), 500_000).unwrap();
    let copy = ["copy", "-b", &b, "--from", "in", "--to", "out", "--delivery", "none", "--until-end"];
    let consume = ["consume", "-b", &b, "-t", "in", "-e"];
    for (batch, refuses, reads, reason) in [
        (flipped.into(), "check.crcs=true", "check.crcs=false", "offset 0 is damaged"),
        (bomb, "fetch.max.batch.bytes=1000", "fetch.max.batch.bytes=500100", "fetch.max.batch.bytes"),
    ] {
        assert!(broker.with_broker(|broker| broker.replace_batch("in", 0, 0, batch)));
        for command in [&copy[..], &consume] {
            let refused = run(&[command, &["-X", refuses]].concat()).await.expect(1);
            assert!(refused.message().contains(reason), "{refused:?}");
            run(&[command, &["-X", reads]].concat()).await.expect(0);
        }
    }
    let written =
        broker.with_broker(|broker| broker.log("out", 0).map(|batch| batch.bytes.len()).sum::<usize>());
    assert!(written > 500_000, "{written}");
}
