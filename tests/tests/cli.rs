//! The command line, as a user runs it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use milena_testkit::hostile::{HostileBroker, Mode};
use milena_tests::cli::{end, interrupt, run, start};
use milena_tests::jobs::Stage;
use milena_tests::records::{eventually, within};
use milena_tests::{Env, unique};

/// The words of a line, and more that may hold blanks.
fn words(line: &str, more: &[&str]) -> Vec<String> {
    let words = line.split_whitespace().map(str::to_owned);
    words.chain(more.iter().map(|&word| word.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_produced_is_consumed_in_every_form() {
    for env in Env::each().await {
        let at = env.bootstrap();
        let topic = env.topic("round", 1).await;
        let produce = format!("produce -b {at} -t {topic}");
        run(
            words(&produce, &["-K", ":", "-H", "origin=test", "-H", "n=1", "-z", "zstd"]),
            "a:one\nb:two words\n:\n",
        )
        .await
        .good();
        run(words(&produce, &["-k", "fixed"]), "four\nno:split\n").await.good();
        run(words(&produce, &["-Z", "-D", "|"]), "six||eight").await.good();

        let consume = format!("consume -b {at} -t {topic} -e");
        let out = run(words(&consume, &[]), "").await.good();
        assert_eq!(out, "one\ntwo words\n\nfour\nno:split\nsix\n\neight\n", "{}", env.describe());
        let out = run(words(&consume, &["-f", "%t/%p/%o %K:%k=%S:%s %h\\n"]), "").await.good();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], format!("{topic}/0/0 1:a=3:one origin=test,n=1"));
        assert_eq!(lines[2], format!("{topic}/0/2 0:=0: origin=test,n=1"));
        assert_eq!(lines[3].trim_end(), format!("{topic}/0/3 5:fixed=4:four"));
        assert_eq!(lines[6].trim_end(), format!("{topic}/0/6 -1:=-1:"));

        let out = run(words(&consume, &["-J", "-c", "1"]), "").await.good();
        let json: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
        assert_eq!((&json["key"], &json["payload"]), (&"a".into(), &"one".into()), "{json}");
        assert_eq!((&json["topic"], &json["offset"]), (&topic.as_str().into(), &0.into()), "{json}");
        assert_eq!(json["headers"], serde_json::json!(["origin", "test", "n", "1"]), "{json}");
        let time = json["ts"].as_i64().unwrap();

        // Where to begin: the last two, an offset, a time, beyond every time; and how many.
        for (offset, more, expected) in [
            ("-2", "", "\neight\n"),
            ("3", "-c 2", "four\nno:split\n"),
            ("beginning", "-c 1", "one\n"),
            (&format!("@{time}"), "-c 2", "one\ntwo words\n"),
            ("@2100-01-01T00:00:00Z", "", ""),
            ("end", "", ""),
        ] {
            let out = run(words(&format!("{consume} {more}"), &["-o", offset]), "").await.good();
            assert_eq!(out, expected, "{}: -o {offset} {more}", env.describe());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_waits_prints_what_comes_and_ends_at_its_count() {
    for env in Env::each().await {
        let topic = env.topic("follow", 2).await;
        let at = env.bootstrap();
        let consumer = start(words(&format!("consume -b {at} -t {topic} -o end -c 2"), &[])).await;
        // A consumer has no way to tell that it stands at the end; so something comes until it has what it waits for.
        let mut ending = tokio::spawn(end(consumer));
        let (mut number, mut ended) = (0, None);
        while ended.is_none() {
            run(words(&format!("produce -b {at} -t {topic} -p 1"), &[]), &format!("{number}\n")).await.good();
            number += 1;
            ended = tokio::time::timeout(Duration::from_millis(500), &mut ending).await.ok();
        }
        let out = ended.unwrap().unwrap().good();
        let lines: Vec<u32> = out.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(lines, [lines[0], lines[0] + 1], "{}", env.describe());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_offsets_and_versions_are_shown() {
    for env in Env::each().await {
        let at = env.bootstrap();
        let topic = unique("cli");
        run(words(&format!("topics create -b {at} {topic} -p 3 -c max.message.bytes=100000"), &[]), "")
            .await
            .good();
        let again = run(words(&format!("topics create -b {at} {topic}"), &[]), "").await.failed(1);
        assert!(again.contains("TOPIC_ALREADY_EXISTS") && again.contains(&topic), "{again}");
        let list = || async {
            let out = run(words(&format!("topics list -b {at}"), &[]), "").await.good();
            out.lines().any(|line| line.trim() == topic)
        };
        eventually("the topic is listed", list, true).await;
        let out = run(words(&format!("topics describe -b {at} {topic} --format json"), &[]), "").await.good();
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json[0]["partitions"].as_array().unwrap().len(), 3, "{json}");

        run(words(&format!("produce -b {at} -t {topic} -p 2"), &[]), "1\n2\n3\n").await.good();
        let offsets = format!("offsets -b {at} -t {topic}");
        let out =
            run(words(&offsets, &["-g", &unique("g"), "--at", "0", "--format", "json"]), "").await.good();
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&json[2]["earliest"], &json[2]["latest"]), (&0.into(), &3.into()), "{json}");
        assert_eq!((&json[2]["at"], &json[2]["committed"]), (&0.into(), &serde_json::Value::Null), "{json}");
        let out = run(words(&offsets, &["-p", "2"]), "").await.good();
        assert!(out.contains("LATEST") && out.lines().count() == 2, "{out}");

        let out = run(words(&format!("api-versions -b {at}"), &[]), "").await.good();
        assert!(out.contains("Produce") && out.contains("Fetch"), "{out}");
        run(words(&format!("topics delete -b {at} {topic}"), &[]), "").await.good();
        eventually("the topic is gone", list, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_calls_end_with_2_and_what_cannot_be_done_with_1() {
    let wrong = [
        "consume -t x",
        "consume -b h:1 -t x -o sideways",
        "consume -b h:1 -t x -f %y",
        "produce -b h:1 -t x -z brotli",
        "consume -b h:1 -t x -J -f %s",
        "no-such-command",
        "consume -b h:1 -t x -X no.such.property=1",
    ];
    for line in wrong {
        let outcome = run(words(line, &[]), "").await;
        assert_eq!(outcome.code, Some(2), "{line}: {outcome:?}");
        assert!(!outcome.err.is_empty() && outcome.out.is_empty(), "{line}: {outcome:?}");
    }
    for env in Env::each().await {
        let (at, absent) = (env.bootstrap(), unique("absent"));
        let topic = env.topic("itself", 1).await;
        let line = format!("copy -b {at} --from {topic} --to {topic} --until-end");
        let err = run(words(&line, &[]), "").await.failed(2);
        assert!(err.contains(&topic), "{err}");
        for line in [
            format!("consume -b {at} -t {absent} -e --timeout 5s"),
            format!("produce -b {at} -t {absent} --timeout 5s"),
            format!("offsets -b {at} -t {absent} --timeout 5s"),
            format!("topics describe -b {at} {absent} --timeout 5s"),
            format!("copy -b {at} --from {absent} --to {absent}-too --until-end --timeout 5s"),
        ] {
            let err = run(words(&line, &[]), "x\n").await.failed(1);
            assert!(err.contains(&absent), "{line}: {err}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_are_absent_silent_or_hostile_end_a_command_in_bounded_time() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let modes = [
        None,
        Some(Mode::Silent),
        Some(Mode::Garbage),
        Some(Mode::GarbageBody),
        Some(Mode::HugeLength),
        Some(Mode::NegativeLength),
        Some(Mode::WrongCorrelation),
        Some(Mode::CloseAfterHandshake),
        Some(Mode::CutAnswer),
    ];
    let refused = modes.map(async |mode| {
        let broker = match mode {
            Some(mode) => Some(HostileBroker::start(mode, 7).await.unwrap()),
            None => None,
        };
        let at = broker.as_ref().map_or_else(|| free.clone(), HostileBroker::bootstrap);
        let begun = Instant::now();
        let line = format!("consume -b {at} -t x -e --timeout 2s");
        let err = run(words(&line, &[]), "").await.failed(1);
        assert!(begun.elapsed() < Duration::from_secs(30), "{mode:?}: {:?}", begun.elapsed());
        assert!(err.contains(&at), "{mode:?}: {err}");
    });
    futures_util::future::join_all(refused).await;
}

/// Stopped by Ctrl-C twice, with more records each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_interrupted_goes_on_where_it_was() {
    for stage in Stage::each(2).await {
        let dir = tempfile::tempdir().unwrap();
        let (at, input, output) = (stage.env.bootstrap(), &stage.input, &stage.output);
        let line = format!(
            "copy -b {at} --from {input} --to {output} --checkpoint-interval 200ms --group {}",
            stage.group
        );
        let copy = || words(&line, &["--checkpoint-dir", &dir.path().to_string_lossy()]);
        stage.produce(0..100).await;
        let first = start(copy()).await;
        eventually("the first records", || stage.committed(), 100).await;
        stage.produce(100..150).await;
        interrupt(&first);
        end(first).await.good();

        stage.produce(150..200).await;
        let second = start(copy().into_iter().chain(["--parallelism".to_owned(), "2".to_owned()])).await;
        eventually("all records", || stage.committed(), 200).await;
        interrupt(&second);
        end(second).await.good();

        // To the end that is there, by itself, with its numbers as JSON.
        stage.produce(200..220).await;
        let last = copy().into_iter().chain(["--until-end", "--format", "json"].map(str::to_owned));
        let report: serde_json::Value =
            serde_json::from_str(within("the last copy", run(last, "")).await.good().trim()).unwrap();
        assert!(report.is_object(), "{report}");
        let verdict = stage.judge(0..220).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
        let lag = stage.lag().await;
        assert!(lag.values().all(|lag| *lag == 0), "{}: {lag:?}", stage.env.describe());
    }
}

/// Two processes with one prefix: each would abort the other's transactions. The first one finds out and ends with an error that
/// names the cause; started again alone, it makes its output whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_with_the_prefix_of_a_running_copy_loses_nothing_silently() {
    for stage in Stage::each(1).await {
        let other = stage.env.topic("other", 1).await;
        let (at, input, output, prefix) = (stage.env.bootstrap(), &stage.input, &stage.output, &stage.prefix);
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let copy = |to: &str, dir: &tempfile::TempDir, more: &[&str]| {
            let line = format!(
                "copy -b {at} --from {input} --to {to} --transactional-id-prefix {prefix} --checkpoint-interval 500ms"
            );
            let mut all = words(&line, &["--checkpoint-dir", &dir.path().to_string_lossy()]);
            all.extend(more.iter().map(|&word| word.to_owned()));
            all
        };
        stage.produce(0..50).await;
        let first = start(copy(output, &dirs[0], &[])).await;
        eventually("the first records", || stage.committed(), 50).await;
        let second = start(copy(&other, &dirs[1], &[])).await;
        // Records keep coming until one of the two has noticed.
        let mut next = 50;
        let (mut first, mut second) = (Some(first), Some(second));
        let begun = Instant::now();
        while has_ended(&mut first).is_none() && has_ended(&mut second).is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}: nobody noticed", stage.env.describe());
            stage.produce(next..next + 5).await;
            next += 5;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for child in [first, second].into_iter().flatten() {
            let mut child = child;
            if child.try_wait().unwrap().is_none() {
                child.kill().await.unwrap();
            } else {
                let err = end(child).await.failed(1);
                assert!(err.contains(prefix.as_str()), "{}: {err}", stage.env.describe());
            }
        }
        run(copy(output, &dirs[0], &["--until-end"]), "").await.good();
        let verdict = stage.judge(0..next).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
    }
}

fn has_ended(child: &mut Option<tokio::process::Child>) -> Option<std::process::ExitStatus> {
    child.as_mut().and_then(|child| child.try_wait().unwrap())
}
