//! Old segments behind a new Fetch: Kafka 2.8, the last that keeps messages in whichever format a topic asks for, stores
//! what we write in formats 0 and 1, compresses, cleans, and serves it as it lies there.
//!
//! `cargo xtask kafka matrix` runs these; alone: `cargo test -p milena-tests --test message_formats -- --ignored`, with the jars
//! of Kafka 2.8.2 and the newest (`cargo xtask kafka jars`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milena::protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use milena::protocol::{StrBytes, decode_response, encode_request};
use milena::{
    Client, Compression, Idempotence, Isolation, NewTopic, ProducerConfig, ProducerRecord, RecordBatch,
    TopicPartition,
};
use milena_testkit::kafka::{Kafka, Route};
use milena_tests::log_lines::{Line, java_lines, our_lines};
use milena_tests::records::{batches, write};
use milena_tests::{cli, java, own_kafka};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FORMAT: &str = "message.format.version";
/// Without zstd, which the older formats do not have.
const CODECS: [Compression; 4] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4];
const TIME: i64 = 1_700_000_000_000;

async fn broker() -> Option<(Kafka, Client)> {
    let kafka = own_kafka(|options| {
        let options = options.version("2.8.2").unwrap().route(Route::Jvm);
        options.property("log.cleaner.enable", true).property("log.cleaner.backoff.ms", 200)
    })
    .await?;
    let client = Client::connect(kafka.bootstrap()).await.unwrap();
    Some((kafka, client))
}

async fn create(client: &Client, topic: &str, configs: &[(&str, &str)]) -> TopicPartition {
    let configs = configs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let topics = [NewTopic { configs, ..NewTopic::new(topic, 1) }];
    let outcomes = client.admin().create_topics(&topics, Duration::from_secs(30)).await.unwrap();
    outcomes.into_iter().for_each(|(_, outcome)| outcome.unwrap());
    TopicPartition::new(topic, 0)
}

/// Sets a configuration of a topic.
async fn alter(kafka: &Kafka, topic: &str, name: &'static str, value: &'static str) {
    let config = AlterableConfig::default()
        .with_name(StrBytes::from_static_str(name))
        .with_config_operation(0)
        .with_value(Some(StrBytes::from_static_str(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_string(topic.to_owned()))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let mut bytes = BytesMut::new();
    encode_request(&mut bytes, 1, "test", 1, &request).unwrap();
    let mut stream = TcpStream::connect(kafka.bootstrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::try_from(stream.read_u32().await.unwrap()).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    let (_, answer) = decode_response::<IncrementalAlterConfigsRequest>(Bytes::from(answer), 1).unwrap();
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

/// Record `n`: one of ten keys or none, and a value or none.
fn row(n: usize) -> (Option<String>, Option<String>) {
    let key = (n % 11 != 10).then(|| format!("key-{}", n % 11));
    (key, (n % 7 != 6).then(|| format!("value {n} and always the same words")))
}

/// Writes records `from..to` as one batch, or as few as can be.
async fn append(
    client: &Client,
    tp: &TopicPartition,
    compression: Compression,
    numbers: std::ops::Range<usize>,
) {
    let config = ProducerConfig {
        compression,
        // A broker refuses producer ids where it stores an older format.
        idempotence: Idempotence::Off,
        linger: Duration::from_millis(50),
        ..ProducerConfig::default()
    };
    let rows: Vec<_> = numbers.map(|n| (n, row(n))).collect();
    let records = rows.iter().map(|(n, (key, value))| {
        let mut record = ProducerRecord::to(&tp.topic).partition(0).timestamp(TIME + *n as i64);
        record.key = key.as_ref().map(String::as_bytes);
        record.value = value.as_ref().map(String::as_bytes);
        record
    });
    write(client, config, records).await;
}

/// Checks that the record at each offset is the one that was written there, and returns the offsets. Format 0 has no times.
fn check(batches: &[RecordBatch]) -> Vec<i64> {
    let mut offsets = Vec::new();
    for batch in batches {
        batch.verify_crc().unwrap();
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            let (key, value) = row(usize::try_from(record.offset.0).unwrap());
            assert_eq!(record.key, key.as_deref().map(str::as_bytes), "{batch:?}");
            assert_eq!(record.value, value.as_deref().map(str::as_bytes), "{batch:?}");
            let time = if batch.magic() == 0 { -1 } else { TIME + record.offset.0 };
            assert_eq!(record.timestamp, time, "{batch:?}");
            offsets.push(record.offset.0);
        }
    }
    assert!(offsets.is_sorted_by(|a, b| a < b));
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes its own broker of an old version: `cargo xtask kafka matrix` runs it"]
async fn a_log_that_changed_its_format_twice_is_read_whole() {
    let Some((kafka, client)) = broker().await else { return };
    let tp = create(&client, "mixed", &[(FORMAT, "0.9.0")]).await;
    let mut written = 0;
    for (version, magic) in [("0.9.0", 0), ("0.10.2", 1), ("2.8", 2), ("0.10.0", 1)] {
        alter(&kafka, &tp.topic, FORMAT, version).await;
        // The broker hears of the change a little later.
        let started = Instant::now();
        loop {
            append(&client, &tp, Compression::None, written..written + 1).await;
            written += 1;
            let last = batches(&client, &tp, Isolation::ReadUncommitted).await.pop().unwrap();
            if last.magic() == magic {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no format {magic} in {last:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for codec in CODECS {
            append(&client, &tp, codec, written..written + 50).await;
            written += 50;
        }
    }
    let found = batches(&client, &tp, Isolation::ReadCommitted).await;
    let kinds: BTreeSet<_> = found.iter().map(|batch| (batch.magic(), batch.compression())).collect();
    assert_eq!(kinds.len(), 3 * CODECS.len(), "{kinds:?}");
    assert!(check(&found).into_iter().eq(0..written as i64));
    client.close(Duration::from_secs(10)).await.unwrap();

    // The file itself, told by `milena records` and by Kafka's own tool, which still reads all formats.
    let Some(java) = java::Java::find().await else { return };
    let log = kafka.log_dir().unwrap().join("mixed-0/00000000000000000000.log").display().to_string();
    kafka.stop().await.unwrap();
    let ours = our_lines(&cli::run(["records", "-J", &log], "").await.good());
    let theirs = java_lines(&java::dump_log(&java, &log).await);
    assert_eq!(ours.iter().filter(|line| matches!(line, Line::Record { .. })).count(), written);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

/// The key of record `n` in a compacted topic: one of 200, in no order, so that what stays lies scattered.
fn scattered(n: i64) -> i64 {
    n * n * 7919 % 10_007 % 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes its own broker of an old version: `cargo xtask kafka matrix` runs it"]
async fn what_the_cleaner_leaves_of_old_segments_is_read() {
    const RECORDS: usize = 600;
    let Some((_kafka, client)) = broker().await else { return };
    for (version, magic) in [("0.9.0", 0), ("0.10.2", 1)] {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
            let configs = [
                (FORMAT, version),
                ("cleanup.policy", "compact"),
                ("segment.bytes", "4000"),
                ("min.cleanable.dirty.ratio", "0.01"),
            ];
            let tp = create(&client, &format!("cleaned-{magic}-{codec}"), &configs).await;
            for from in (0..RECORDS).step_by(50) {
                // A compacted topic takes no record without a key.
                let config = ProducerConfig {
                    compression: codec,
                    idempotence: Idempotence::Off,
                    linger: Duration::from_millis(50),
                    ..ProducerConfig::default()
                };
                let rows: Vec<_> = (from..from + 50)
                    .map(|n| {
                        (format!("key-{}", scattered(n as i64)), format!("value {n} {}", "x".repeat(n % 90)))
                    })
                    .collect();
                let records = rows.iter().zip(from..).map(|((key, value), n)| {
                    ProducerRecord::to(&tp.topic)
                        .partition(0)
                        .key(key)
                        .value(value)
                        .timestamp(TIME + n as i64)
                });
                write(&client, config, records).await;
            }
            let started = Instant::now();
            let found = loop {
                let found = batches(&client, &tp, Isolation::ReadUncommitted).await;
                let count: u32 = found.iter().map(|batch| batch.records().unwrap().count()).sum();
                if (count as usize) < RECORDS * 2 / 3 {
                    break found;
                }
                assert!(
                    started.elapsed() < Duration::from_secs(120),
                    "{count} of {RECORDS} records are there"
                );
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            let mut newest = BTreeMap::new();
            let mut before = -1;
            let mut gaps = 0;
            for batch in &found {
                assert_eq!((batch.magic(), batch.compression()), (magic, codec));
                batch.verify_crc().unwrap();
                let records = batch.records().unwrap();
                let mut last = None;
                for record in &records {
                    let record = record.unwrap();
                    let n = record.offset.0;
                    assert!(n > before);
                    gaps += usize::from(last.is_some_and(|last| n > last + 1));
                    (before, last) = (n, Some(n));
                    assert_eq!(record.key, Some(format!("key-{}", scattered(n)).as_bytes()));
                    let value = format!("value {n} {}", "x".repeat(usize::try_from(n % 90).unwrap()));
                    assert_eq!(record.value, Some(value.as_bytes()));
                    assert_eq!(record.timestamp, if magic == 0 { -1 } else { TIME + n });
                    newest.insert(scattered(n), n);
                }
            }
            let all: BTreeMap<_, _> = (0..RECORDS as i64).map(|n| (scattered(n), n)).collect();
            assert_eq!(newest, all, "the newest record of each key stays");
            assert!(gaps > 0, "nothing was taken out of a wrapper");
        }
    }
    client.close(Duration::from_secs(10)).await.unwrap();
}
