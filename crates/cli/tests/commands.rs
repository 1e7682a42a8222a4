//! Produce, consume, topics, offsets: what they print, and how they end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{broker, command, finish, lines, run, run_with_input, signal, until};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_call_is_2_and_a_failed_one_1() {
    let (_broker, b) = broker(&[("t", 2)]).await;
    let b = b.as_str();
    let wrong: [&[&str]; 14] = [
        &[],
        &["frobnicate"],
        &["consume", "-t", "t"],
        &["consume", "-b", b, "-t", "t", "-o", "somewhere"],
        &["consume", "-b", b, "-t", "t", "-f", "%z"],
        &["consume", "-b", b, "-t", "t", "-X", "no.such=1"],
        &["consume", "-b", b, "-t", "t", "-X", "request.timeout.ms=soon"],
        &["consume", "-b", "nowhere", "-t", "t"],
        &["produce", "-b", b, "-t", "t", "-z", "rar"],
        &["produce", "-b", b, "-t", "t", "-K", ""],
        &["copy", "-b", b, "--from", ",", "--to", "t"],
        &["copy", "-b", b, "--from", "/(/", "--to", "t"],
        &["copy", "-b", b, "--from", "a", "--to", "t", "--start", "offsets:a"],
        &["broker", "--listen", "0.0.0.0:0"],
    ];
    for args in wrong {
        let ended = run(args).await.expect(2);
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
    let failed: [(&[&str], &str); 5] = [
        (&["consume", "-b", b, "-t", "t", "-p", "7", "-e"], "has no partition 7; it has 2"),
        (&["consume", "-b", b, "-t", "t", "-o", "99", "-e"], "offset 99"),
        (&["consume", "-b", b, "-t", "none", "-e", "--timeout", "500ms"], "UNKNOWN_TOPIC_OR_PARTITION"),
        (&["topics", "delete", "-b", b, "none"], "UNKNOWN_TOPIC_OR_PARTITION"),
        (&["topics", "list", "-b", "127.0.0.1:1", "--timeout", "500ms"], "no broker answered"),
    ];
    for (args, reason) in failed {
        let ended = run(args).await.expect(1);
        assert!(ended.message().contains(reason), "{args:?}: {ended:?}");
        assert_eq!(ended.stderr.trim_end().lines().count(), 1, "one clear message: {ended:?}");
    }
    run(&["completions", "bash"]).await.expect(0);
    for name in ["produce", "consume", "copy", "demo"] {
        assert!(run(&[name, "--help"]).await.expect(0).text().contains("Examples:"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_envelope_is_kcats() {
    let (_broker, b) = broker(&[("t", 1)]).await;
    let input = b"k:v\n:\nraw\xff:\xfe\nlonely\n";
    let produce = ["produce", "-b", &b, "-t", "t", "-K", ":", "-H", "a=b", "-H", "e=", "-H", "n", "-Z"];
    let ended = run_with_input(&produce, input).await.expect(0);
    assert_eq!(ended.stderr, "4 records produced\n");
    let ended = run(&["consume", "-b", &b, "-t", "t", "-e", "-J"]).await.expect(0);
    let head =
        |offset: u32| format!(r#"{{"topic":"t","partition":0,"offset":{offset},"tstype":"create","ts":"#);
    let tails = [
        r#","key":"k","payload":"v"}"#,
        r#","key":null,"payload":null}"#,
        r#","key":"cmF3/w==","key_encoding":"base64","payload":"/g==","payload_encoding":"base64"}"#,
        r#","key":null,"payload":"lonely"}"#,
    ];
    let lines = ended.lines();
    assert_eq!(lines.len(), tails.len());
    for (offset, (line, tail)) in (0..).zip(lines.iter().zip(tails)) {
        let middle = line.strip_prefix(&head(offset)).unwrap_or_else(|| panic!("{line}"));
        let (time, rest) = middle.split_once(',').unwrap();
        assert!(time.parse::<i64>().unwrap() > 1_600_000_000_000, "{line}");
        let expected = format!(r#""broker":1,"headers":["a","b","e","","n",null]{tail}"#);
        assert_eq!(rest, expected);
    }
    let template = ["consume", "-b", &b, "-t", "t", "-c", "2", "-Z", "-f", "%t/%p/%o %k(%K) %s(%S) %h%%\\n"];
    let ended = run(&template).await.expect(0);
    assert_eq!(ended.text(), "t/0/0 k(1) v(1) a=b,e=,n=NULL%\nt/0/1 NULL(-1) NULL(-1) a=b,e=,n=NULL%\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_and_every_start_gives_the_same_records() {
    let (_broker, b) = broker(&[("t", 1)]).await;
    for (index, codec) in (0..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let from = index * 100;
        run_with_input(&["produce", "-b", &b, "-t", "t", "-z", codec], &lines(from..from + 100))
            .await
            .expect(0);
    }
    let consume = async |offset: &str, count: &str| {
        let args = ["consume", "-b", &b, "-t", "t", "-o", offset, "-c", count, "-e", "-p", "0"];
        run(&args).await.expect(0).text().into_bytes()
    };
    assert_eq!(consume("beginning", "1000").await, lines(0..500));
    assert_eq!(consume("123", "10").await, lines(123..133));
    assert_eq!(consume("-7", "1000").await, lines(493..500));
    assert_eq!(consume("-1000", "3").await, lines(0..3));
    assert_eq!(consume("end", "1000").await, b"");
    assert_eq!(consume("@0", "2").await, lines(0..2));
    assert_eq!(consume("@2100-01-01T00:00:00Z", "2").await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_offsets_tell_what_is_there() {
    let (_broker, b) = broker(&[]).await;
    run(&["topics", "create", "-b", &b, "-p", "3", "one", "two"]).await.expect(0);
    let again = run(&["topics", "create", "-b", &b, "one"]).await.expect(1);
    assert_eq!(again.stderr.matches("one").count(), 1, "the topic is named once: {again:?}");
    assert_eq!(run(&["topics", "list", "-b", &b]).await.expect(0).text(), "one\ntwo\n");
    let described = run(&["topics", "describe", "-b", &b, "one", "--format", "json"]).await.expect(0).json();
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 3);
    run_with_input(&["produce", "-b", &b, "-t", "one", "-p", "1"], &lines(0..5)).await.expect(0);
    let offsets = ["offsets", "-b", &b, "-t", "one", "-g", "g", "--at", "0", "--format", "json"];
    let offsets = run(&offsets).await.expect(0).json();
    assert_eq!(offsets[1]["latest"], 5);
    assert_eq!(offsets[1]["at"], 0);
    assert_eq!(offsets[0]["latest"], 0);
    assert!(offsets[1].get("committed").is_none(), "{offsets}");
    run(&["topics", "delete", "-b", &b, "one", "two"]).await.expect(0);
    assert_eq!(
        run(&["topics", "list", "-b", &b, "--format", "json"]).await.expect(0).json(),
        serde_json::json!([])
    );
    let apis = run(&["api-versions", "-b", &b, "--format", "json"]).await.expect(0).json();
    assert!(apis[0]["apis"].as_array().unwrap().iter().any(|api| api["name"] == "Produce"), "{apis}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_before_0_10_is_written_read_and_told_as_what_it_is() {
    let config = BrokerConfig::default().with_topic("t", 1).as_release("0.9.0").unwrap();
    let broker = EmbeddedBroker::start(config).await.unwrap();
    let b = broker.bootstrap();
    let told = run(&["api-versions", "-b", &b]).await.expect(0);
    assert!(told.text().contains("assumed"), "{told:?}");
    let pin = ["-X", "api.version.request=false", "-X", "broker.version.fallback=0.9.0"];
    let pinned = |args: &[&'static str]| [args, &["-b", b.as_str()][..], &pin[..]].concat();
    let told = run(&pinned(&["api-versions", "--format", "json"])).await.expect(0).json();
    assert_eq!(told[0]["source"], "pinned");
    run_with_input(&pinned(&["produce", "-t", "t", "-z", "snappy"]), &lines(0..5)).await.expect(0);
    let read = run(&pinned(&["consume", "-t", "t", "-e"])).await.expect(0);
    assert_eq!(read.text().as_bytes(), lines(0..5));
    let refused = run_with_input(&pinned(&["produce", "-t", "t", "-H", "a=b"]), b"x\n").await.expect(1);
    assert!(refused.message().contains("headers"), "{refused:?}");
    let refused = run(&pinned(&["topics", "create", "new"])).await.expect(1);
    assert!(refused.message().contains("0.10.1"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_refused_with_the_remedy() {
    let (_broker, b) = broker(&[("t", 1)]).await;
    let huge = vec![b'a'; 1_500_000];
    let ours = run_with_input(&["produce", "-b", &b, "-t", "t"], &huge).await.expect(1);
    assert!(ours.message().contains("-X max.request.size"), "{ours:?}");
    let args = ["produce", "-b", &b, "-t", "t", "-X", "max.request.size=5000000", "--format", "json"];
    let theirs = run_with_input(&args, &huge).await.expect(1);
    assert!(theirs.message().contains("max.message.bytes"), "{theirs:?}");
    assert_eq!(theirs.json(), serde_json::json!({ "read": 1, "produced": 0 }));
    assert_eq!(theirs.stderr.trim_end().lines().count(), 1, "{theirs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn produce_ends_early_when_records_cannot_be_delivered() {
    let (broker, b) = broker(&[("t", 1)]).await;
    let args = ["produce", "-b", &b, "-t", "t", "--timeout", "1500ms"];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    until("the first record", || {
        broker.with_broker(|broker| broker.offsets("t", 0).is_some_and(|o| o.2 >= 1))
    })
    .await;
    broker.go_down().await;
    stdin.write_all(b"two\n").await.unwrap();
    // The input goes on, and yet the command ends.
    let ended = finish(child).await.expect(1);
    drop(stdin);
    assert!(ended.message().contains("1 of the 2 records"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_produce_delivers_what_it_has_read() {
    let (broker, b) = broker(&[("t", 1)]).await;
    let args = ["produce", "-b", &b, "-t", "t", "-X", "linger.ms=20000"];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&lines(0..10)).await.unwrap();
    // The records wait in the producer; nothing outside shows that they were read.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(broker.with_broker(|broker| broker.offsets("t", 0).map(|o| o.2)), Some(0));
    signal(&child, "INT").await;
    let ended = finish(child).await.expect(0);
    assert_eq!(ended.stderr, "10 records produced\n");
    drop(stdin);
    assert_eq!(common::values(&b, "t").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn consume_ends_well_by_a_signal_and_by_a_reader_that_goes() {
    let (_broker, b) = broker(&[("t", 1)]).await;
    run_with_input(&["produce", "-b", &b, "-t", "t"], &lines(0..50_000)).await.expect(0);
    for name in ["INT", "TERM"] {
        let mut child = command(&["consume", "-b", &b, "-t", "t", "-o", "-1"]).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(out.next_line().await.unwrap().as_deref(), Some("49999"));
        signal(&child, name).await;
        finish(child).await.expect(0);
    }
    // `| head -1`
    let mut child = command(&["consume", "-b", &b, "-t", "t", "-J"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(out.next_line().await.unwrap().is_some());
    drop(out);
    let ended = finish(child).await.expect(0);
    assert_eq!(ended.stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn consume_bears_a_broker_that_goes_and_comes_back() {
    let (broker, b) = broker(&[("t", 2)]).await;
    let mut child = command(&["consume", "-b", &b, "-t", "t"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    run_with_input(&["produce", "-b", &b, "-t", "t"], b"before\n").await.expect(0);
    assert_eq!(out.next_line().await.unwrap().as_deref(), Some("before"));
    broker.go_down().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    broker.come_back().await.unwrap();
    run_with_input(&["produce", "-b", &b, "-t", "t"], b"after\n").await.expect(0);
    assert_eq!(out.next_line().await.unwrap().as_deref(), Some("after"));
    broker.go_down().await;
    drop(out);
    drop(child);
    let ended = run(&["consume", "-b", &b, "-t", "t", "--timeout", "500ms"]).await.expect(1);
    assert!(ended.message().contains("cannot connect"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_command_serves_and_ends_by_a_signal() {
    let mut child = command(&["broker", "--listen", "127.0.0.1:0", "--partitions", "2"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = out.next_line().await.unwrap().unwrap();
    let b = line.strip_prefix("embedded broker on ").unwrap().split(';').next().unwrap().to_owned();
    run(&["topics", "create", "-b", &b, "t"]).await.expect(0);
    let described = run(&["topics", "describe", "-b", &b, "t", "--format", "json"]).await.expect(0).json();
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 2);
    let second = run(&["broker", "--listen", &b]).await.expect(1);
    assert!(second.message().contains("cannot listen on"), "{second:?}");
    signal(&child, "TERM").await;
    finish(child).await.expect(0);

    let mut child =
        command(&["broker", "--listen", "0.0.0.0:0", "--advertise", "localhost"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = out.next_line().await.unwrap().unwrap();
    assert!(line.starts_with("embedded broker on localhost:"), "{line}");
    let port = line.split(':').nth(1).unwrap().split(';').next().unwrap();
    run(&["topics", "list", "-b", &format!("127.0.0.1:{port}")]).await.expect(0);
    signal(&child, "INT").await;
    finish(child).await.expect(0);
}
