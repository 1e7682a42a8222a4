//! `milena records` against Kafka's own kafka-dump-log, on the log files of a real broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use milena::{
    Client, Compression, Header, ProducerConfig, ProducerRecord, TransactionConfig, TransactionalProducer,
};
use milena_testkit::kafka::Route;
use milena_tests::log_lines::{Line, java_lines, our_lines};
use milena_tests::records::{within, write};
use milena_tests::{cli, create_topic, java, own_kafka, unique};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Every codec, nulls, headers, and transactions that ended both ways, in partition 0.
async fn fill(client: &Client, topic: &str) {
    for compression in CODECS {
        let config =
            ProducerConfig { compression, linger: Duration::from_millis(50), ..ProducerConfig::default() };
        let headers = [Header::new("a", Some(b"1")), Header::new("a", None)];
        let values: Vec<String> = (0..200).map(|number| format!("{compression}-{number}")).collect();
        let records = values.iter().enumerate().map(|(number, value)| {
            let record = ProducerRecord::to(topic).partition(0).value(value);
            match number % 3 {
                0 => record.key("k"),
                1 => record.headers(&headers),
                _ => record,
            }
        });
        write(client, config, records).await;
    }
    let mut producer = TransactionalProducer::new(client, TransactionConfig::new(unique("dump"))).unwrap();
    within("init", producer.init()).await.unwrap();
    for (value, commit) in [("one", true), ("two", false), ("three", true)] {
        producer.begin().await.unwrap();
        let record = ProducerRecord::to(topic).partition(0).value(value);
        drop(within("sending", producer.send(record)).await.unwrap());
        if commit {
            within("the commit", producer.commit()).await.unwrap();
        } else {
            // What is not sent yet would not be sent at all.
            within("the flush", producer.flush()).await.unwrap();
            within("the abort", producer.abort()).await.unwrap();
        }
    }
}

fn log_of(folder: &Path, partition: &str) -> String {
    folder.join(partition).join("00000000000000000000.log").display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_told_as_kafka_dump_log_tells_it() {
    let Some(java) = java::Java::find().await else { return };
    let Some(kafka) = own_kafka(|options| options.route(Route::Jvm)).await else { return };
    let Some(folder) = kafka.log_dir() else {
        eprintln!("SKIPPED: the log files of {} are not within reach", kafka.how());
        return;
    };
    let client = Client::connect(kafka.bootstrap()).await.unwrap();
    let topic = unique("dump-log");
    create_topic(&client, &topic, 1).await;
    fill(&client, &topic).await;
    client.close(Duration::from_secs(10)).await.unwrap();
    // The last marker may come after the commit's answer.
    kafka.stop().await.unwrap();

    let log = log_of(&folder, &format!("{topic}-0"));
    let ours = our_lines(&cli::run(["records", "-J", &log], "").await.good());
    let theirs = java_lines(&java::dump_log(&java, &log).await);
    let records = ours.iter().filter(|line| matches!(line, Line::Record { .. })).count();
    assert_eq!(records, CODECS.len() * 200 + 3 + 3, "three transactions of a record and a marker each");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());

    // All the rest the broker wrote is sound too, the metadata log with its leader changes among it.
    let metadata = cli::run(["records", &log_of(&folder, "__cluster_metadata-0")], "").await.good();
    assert!(metadata.contains("leader change to 1, voters [1]"), "{metadata}");
    for partition in std::fs::read_dir(&folder).unwrap() {
        let partition = partition.unwrap().path();
        if partition.is_dir() {
            let verdict = cli::run(["records", "--verify", partition.to_str().unwrap()], "").await.good();
            assert!(verdict.trim_end().ends_with(": sound"), "{verdict}");
        }
    }
}
