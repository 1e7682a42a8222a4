//! `milena txn`: what it shows, what it would do, what it does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{broker, run, values};
use milena::{
    Client, NewTopic, PreparedTransaction, ProducerRecord, TransactionConfig, TransactionVersion,
    TransactionalProducer,
};
use milena_connector::checkpoint::{CheckpointState, CheckpointStore};
use milena_connector::sink::Delivery;
use milena_connector::sink::committable::Committable;
use milena_testkit::kafka::{Kafka, or_skip};
use serde_json::Value;

async fn open(client: &Client, id: &str, value: &str) -> TransactionalProducer {
    open_on(client, "t", id, value).await
}

async fn open_on(client: &Client, topic: &str, id: &str, value: &str) -> TransactionalProducer {
    let config = TransactionConfig { timeout: Duration::from_secs(60), ..TransactionConfig::new(id) };
    let mut producer = TransactionalProducer::new(client, config).unwrap();
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    for partition in 0..2 {
        let record = ProducerRecord::to(topic).partition(partition).value(value);
        producer.send(record).await.unwrap().await.unwrap();
    }
    producer
}

async fn prepared(client: &Client, id: &str, value: &str) -> PreparedTransaction {
    open(client, id, value).await.prepare().await.unwrap().unwrap()
}

/// A checkpoint that promises these transactions.
fn checkpoint(dir: &Path, transactions: &[PreparedTransaction]) {
    checkpoint_of(dir, "job", transactions);
}

fn checkpoint_of(dir: &Path, prefix: &str, transactions: &[PreparedTransaction]) {
    let committables =
        transactions.iter().map(|it| Committable { checkpoint: 1, subtask: 0, transaction: it.clone() });
    let state = CheckpointState {
        job: String::from("job"),
        id: 1,
        parallelism: 1,
        delivery: Delivery::ExactlyOnce,
        prefix: Some(prefix.to_owned()),
        enumerator: Vec::new(),
        splits: Vec::new(),
        watermark: None,
        subtask_watermarks: Vec::new(),
        committables: committables.collect(),
        writers: Vec::new(),
        functions: Vec::new(),
    };
    CheckpointStore::open(dir, 3, "job").unwrap().write(1, &state.encode()).unwrap();
}

async fn json(args: &[&str], code: i32) -> Vec<Value> {
    let mut all = vec!["--format", "json", "txn"];
    all.extend(args);
    run(&all).await.expect(code).json().as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_listed_and_described() {
    let (_broker, b) = broker(&[("t", 2)]).await;
    let client = Client::connect(b.as_str()).await.unwrap();
    let mut done = open(&client, "a-0-0", "done").await;
    done.commit().await.unwrap();
    let _open = open(&client, "job-0-0", "open").await;
    let listed = json(&["list", "-b", &b], 0).await;
    let ids: Vec<_> = listed.iter().map(|entry| entry["transactional_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a-0-0", "job-0-0"]);
    assert_eq!((&listed[0]["state"], &listed[1]["state"]), (&"CompleteCommit".into(), &"Ongoing".into()));
    let left = listed[1]["time_left_ms"].as_i64().unwrap();
    assert!((1..=60_000).contains(&left), "{listed:?}");
    assert!(listed[0]["time_left_ms"].is_null(), "a finished transaction has no time left");
    assert_eq!(json(&["list", "-b", &b, "--state", "Ongoing"], 0).await.len(), 1);
    assert_eq!(json(&["list", "-b", &b, "--prefix", "a-"], 0).await.len(), 1);
    assert_eq!(json(&["list", "-b", &b, "--older-than", "10m"], 0).await.len(), 0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(
        json(&["list", "-b", &b, "--older-than", "5ms"], 0).await.len(),
        1,
        "finished ones are not old"
    );
    let held = json(&["list", "-b", &b, "--topic", "t"], 0).await;
    assert_eq!(held.len(), 2);
    assert_eq!((&held[0]["transactional_id"], &held[0]["hanging"]), (&"job-0-0".into(), &false.into()));
    assert_eq!(held[0]["first_offset"], 2, "behind a record and its marker");
    let described = json(&["describe", "-b", &b, "job-0-0", "absent"], 0).await;
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(described[1]["state"], "NotFound");
    run(&["txn", "list", "-b", &b, "--state", "Sleeping"]).await.expect(2);
    assert!(run(&["txn", "list", "-b", &b]).await.expect(0).text().contains("job-0-0"));
    for command in ["list", "verify", "finish", "abort"] {
        assert!(run(&["txn", command, "--help"]).await.expect(0).text().contains("Examples:"), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_checkpoint_promised_is_finished_and_only_when_told_to() {
    let (_broker, b) = broker(&[("t", 2)]).await;
    let client = Client::connect(b.as_str()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let transactions = [prepared(&client, "job-0-0", "1").await, prepared(&client, "job-0-1", "2").await];
    checkpoint(dir.path(), &transactions);
    let from = ["-b", b.as_str(), "--checkpoint-dir", path];

    let seen = json(&[&["verify"], &from[..]].concat(), 1).await;
    assert_eq!(seen.len(), 2);
    assert_eq!((&seen[0]["outcome"], &seen[0]["action"]), (&"open".into(), &"none".into()));
    let dry = run(&[&["txn", "finish"], &from[..]].concat()).await.expect(0);
    assert!(dry.text().contains("commit") && dry.stderr.contains("--execute"), "{dry:?}");
    assert!(values(&b, "t").await.is_empty(), "a dry run commits nothing");

    let done = json(&[&["finish"], &from[..], &["--execute"]].concat(), 0).await;
    assert!(done.iter().all(|it| it["outcome"] == "committed" && it["executed"] == true), "{done:?}");
    assert_eq!(values(&b, "t").await, ["1", "1", "2", "2"]);
    let seen = json(&[&["verify"], &from[..]].concat(), 0).await;
    assert!(seen.iter().all(|it| it["partitions"][0]["evidence"] == "committed"), "{seen:?}");
    run(&["txn", "verify", "-b", &b, "--checkpoint-dir", "/no/such/place"]).await.expect(1);
    run(&["txn", "verify", "-b", &b]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_marker_is_found_and_the_commit_finished() {
    let (broker, b) = broker(&[("t", 2)]).await;
    let client = Client::connect(b.as_str()).await.unwrap();
    let transaction = prepared(&client, "job-0-0", "1").await;
    assert!(broker.with_broker(|broker| broker.lose_next_marker("t", 1)));
    client.transactions().end(&transaction, true).await.unwrap();
    let hanging = json(&["list", "-b", &b, "--topic", "t", "--hanging"], 0).await;
    assert_eq!(
        (hanging.len(), &hanging[0]["partition"], &hanging[0]["hanging"]),
        (1, &1.into(), &true.into())
    );

    let (producer, epoch) = (transaction.producer_id.0.to_string(), transaction.producer_epoch.0.to_string());
    let generation = if transaction.version == TransactionVersion::V2 { "new" } else { "old" };
    let which = ["-b", &b, "--id", "job-0-0", "--producer-id", &producer, "--epoch", &epoch];
    let which = [&which[..], &["--generation", generation, "--first", "t/0=0,t/1=0"]].concat();
    let seen = json(&[&["verify"], &which[..]].concat(), 1).await;
    assert_eq!(seen[0]["outcome"], "hanging");
    let would = json(&[&["finish"], &which[..]].concat(), 0).await;
    assert_eq!((&would[0]["action"], &would[0]["executed"]), (&"write-markers".into(), &false.into()));
    let done = json(&[&["finish"], &which[..], &["--execute", "--patience", "300ms"]].concat(), 0).await;
    assert_eq!((&done[0]["outcome"], &done[0]["action"]), (&"committed".into(), &"write-markers".into()));
    assert_eq!(values(&b, "t").await, ["1", "1"]);
    assert!(json(&["list", "-b", &b, "--topic", "t", "--hanging"], 0).await.is_empty());
}

// scenario: D1
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_aborted_and_promised_ones_are_not() {
    let (broker, b) = broker(&[("t", 2)]).await;
    let client = Client::connect(b.as_str()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let promised = prepared(&client, "job-0-0", "promised").await;
    checkpoint(dir.path(), std::slice::from_ref(&promised));
    let _left = open(&client, "job-0-1", "left").await;
    let _foreign = open(&client, "job-1-0-0", "foreign").await;
    let path = dir.path().to_str().unwrap();
    let abort = ["abort", "-b", &b, "--prefix", "job", "--checkpoint-dir", path];
    let would = json(&abort, 0).await;
    assert_eq!((would.len(), &would[0]["transactional_id"]), (1, &"job-0-1".into()));
    assert_eq!(json(&["list", "-b", &b, "--state", "Ongoing"], 0).await.len(), 3, "a dry run aborts nothing");
    json(&[&abort[..], &["--execute"]].concat(), 0).await;
    let open_now = json(&["list", "-b", &b, "--state", "Ongoing"], 0).await;
    let ids: Vec<_> = open_now.iter().map(|entry| entry["transactional_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["job-0-0", "job-1-0-0"]);

    json(&["abort", "-b", &b, "job-1-0-0", "--execute"], 0).await;
    run(&["txn", "abort", "-b", &b, "no-such-id"]).await.expect(2);
    run(&["txn", "abort", "-b", &b, "--hanging", "t/1=0", "--execute"]).await.expect(2);
    assert!(broker.with_broker(|broker| broker.lose_next_marker("t", 1)));
    client.transactions().end(&promised, true).await.unwrap();
    let done = json(&["abort", "-b", &b, "--hanging", "t/1=0", "--execute"], 0).await;
    assert_eq!(done[0]["executed"], true);
    assert_eq!(values(&b, "t").await, ["promised"], "the half that hung is lost, as was asked for");
}

/// All five commands on a real broker; those that change something are first asked what they would do.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_broker_is_looked_at_and_changed_as_the_dry_run_said() {
    let Some(kafka) = or_skip(Kafka::obtain().await) else { return };
    let b = kafka.bootstrap().to_owned();
    let client = Client::connect(b.as_str()).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let name = format!("txn{}x{}", std::process::id(), now.as_nanos() % 1_000_000_000);
    let made =
        client.admin().create_topics(&[NewTopic::new(&name, 2)], Duration::from_secs(20)).await.unwrap();
    assert!(made.iter().all(|(_, made)| made.is_ok()), "{made:?}");
    let (kept, left) = (format!("{name}-0-0"), format!("{name}-0-1"));
    let promised = open_on(&client, &name, &kept, "promised").await.prepare().await.unwrap().unwrap();
    let _left = open_on(&client, &name, &left, "left").await;
    let dir = tempfile::tempdir().unwrap();
    checkpoint_of(dir.path(), &name, std::slice::from_ref(&promised));
    let from = ["-b", b.as_str(), "--checkpoint-dir", dir.path().to_str().unwrap()];
    let ongoing = async || {
        let listed = json(&["list", "-b", &b, "--prefix", &name, "--state", "Ongoing"], 0).await;
        listed.iter().map(|entry| entry["transactional_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    assert_eq!(ongoing().await, [kept.as_str(), &left]);
    let held = json(&["list", "-b", &b, "--topic", &name], 0).await;
    assert_eq!(held.len(), 4, "two transactions in two partitions: {held:?}");
    assert!(held.iter().all(|entry| entry["hanging"] == false), "{held:?}");
    let described = json(&["describe", "-b", &b, &kept, "absent-id"], 0).await;
    assert_eq!((&described[0]["state"], &described[1]["state"]), (&"Ongoing".into(), &"NotFound".into()));
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 2);

    let seen = json(&[&["verify"], &from[..]].concat(), 1).await;
    assert_eq!((seen.len(), &seen[0]["outcome"]), (1, &"open".into()));
    let dry = json(&[&["finish"], &from[..]].concat(), 0).await;
    assert_eq!((&dry[0]["action"], &dry[0]["executed"]), (&"commit".into(), &false.into()));
    assert!(values(&b, &name).await.is_empty(), "a dry run commits nothing");
    let done = json(&[&["finish"], &from[..], &["--execute"]].concat(), 0).await;
    assert_eq!((&done[0]["outcome"], &done[0]["executed"]), (&"committed".into(), &true.into()));
    let seen = json(&[&["verify"], &from[..]].concat(), 0).await;
    assert_eq!(seen[0]["partitions"][0]["evidence"], "committed", "{seen:?}");

    let abort = [&["abort", "--prefix", &name], &from[..]].concat();
    let would = json(&abort, 0).await;
    assert_eq!((would.len(), &would[0]["transactional_id"]), (1, &left.as_str().into()));
    assert_eq!(ongoing().await, [left.as_str()], "a dry run aborts nothing");
    json(&[&abort[..], &["--execute"]].concat(), 0).await;
    assert!(ongoing().await.is_empty());
    assert_eq!(values(&b, &name).await, ["promised", "promised"]);
    assert!(json(&["list", "-b", &b, "--topic", &name, "--hanging"], 0).await.is_empty());
    client.admin().delete_topics(&[&name]).await.unwrap();
}
