//! The bytes on the wire: versions, codecs against Java's, control batches.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use milena::protocol::messages::{FetchRequest, MetadataRequest, ProduceRequest};
use milena::{
    Compression, ControlRecord, Header, Isolation, ProducerConfig, ProducerRecord, TopicPartition,
    TransactionConfig, TransactionalProducer,
};
use milena_tests::records::{batches, read, text, within, write};
use milena_tests::{Env, create_topic, java};

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn configured(compression: Compression) -> ProducerConfig {
    ProducerConfig { compression, linger: Duration::from_millis(50), ..ProducerConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_highest_common_version_is_negotiated() {
    for env in Env::each().await {
        let client = env.client().await;
        let broker = client.cluster().brokers().next().unwrap().id;
        let versions = client.versions(broker).await.unwrap();
        // Produce, Fetch, Metadata, ApiVersions: no broker is without them.
        for key in [0, 1, 3, 18] {
            let offered = versions.range(key).unwrap_or_else(|| panic!("{}: no {key}", env.describe()));
            let ours = milena::protocol::versions::supported(key).unwrap();
            assert!(ours.intersect(offered).is_some(), "{}: {key}", env.describe());
        }
        for (key, negotiated) in [
            (0, versions.negotiate::<ProduceRequest>().unwrap()),
            (1, versions.negotiate::<FetchRequest>().unwrap()),
            (3, versions.negotiate::<MetadataRequest>().unwrap()),
        ] {
            let ours = milena::protocol::versions::supported(key).unwrap();
            let offered = versions.range(key).unwrap();
            assert_eq!(negotiated, ours.max.min(offered.max), "{}: {key}", env.describe());
        }
        // Every broker that writes transactions the new way takes the EndTxn that belongs to it.
        if versions.finalized_feature("transaction.version").unwrap_or(0) >= 2 {
            assert!(versions.range(26).unwrap().max >= 5);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_codec_is_written_small_and_read_back_whole() {
    for env in Env::each().await {
        let client = env.client().await;
        let mut sizes = BTreeMap::new();
        for codec in CODECS {
            let topic = env.topic(&format!("codec-{codec}"), 1).await;
            let values: Vec<String> =
                (0..500).map(|number| format!("{number:08} and always the same words")).collect();
            let headers = [Header::new("h", Some(b"1")), Header::new("h", None)];
            let records = values.iter().map(|value| {
                ProducerRecord::to(&topic)
                    .key(&value[..8])
                    .value(value)
                    .headers(&headers)
                    .timestamp(1_000_000)
            });
            write(&client, configured(codec), records).await;
            let tp = TopicPartition::new(topic.as_str(), 0);
            let found = batches(&client, &tp, Isolation::ReadUncommitted).await;
            assert!(found.iter().all(|batch| batch.compression() == codec), "{}: {codec}", env.describe());
            for batch in &found {
                batch.verify_crc().unwrap();
            }
            sizes.insert(codec.to_string(), found.iter().map(|batch| batch.len_bytes()).sum::<usize>());
            let records = read(&client, &tp, Isolation::ReadUncommitted).await;
            assert_eq!(records.len(), values.len());
            for (place, (record, value)) in records.iter().zip(&values).enumerate() {
                assert_eq!((record.offset.0, record.timestamp), (place as i64, 1_000_000));
                assert_eq!(text(record.value.as_deref()), *value);
                assert_eq!(text(record.key.as_deref()), value[..8]);
                let headers =
                    record.headers.iter().map(|(name, value)| (name.to_str().unwrap(), value.as_deref()));
                assert_eq!(headers.collect::<Vec<_>>(), [("h", Some(&b"1"[..])), ("h", None)]);
            }
        }
        for codec in ["gzip", "snappy", "lz4", "zstd"] {
            assert!(sizes[codec] * 2 < sizes["none"], "{}: {codec} of {sizes:?}", env.describe());
        }
    }
}

/// What Java's producer wrote with each codec we read, records with the same keys go to the same partitions, and Java's
/// consumer reads what we wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_and_we_read_each_others_records_and_choose_the_same_partitions() {
    let Some(env) = Env::real().await else { return };
    let Some(java) = java::Java::find().await else { return };
    let client = env.client().await;
    let base = env.name("java");
    let pairs: Vec<(String, String)> =
        (0..60).map(|number| (format!("kéy {}", number * 7919), format!("välue-{number}"))).collect();
    let lines: String = pairs.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
    let bootstrap = env.bootstrap();
    let mut javas = Vec::new();
    for codec in CODECS {
        let theirs = format!("{base}-theirs-{codec}");
        create_topic(&client, &theirs, 7).await;
        let codec = codec.to_string();
        let (java, lines, bootstrap) = (&java, &lines, &bootstrap);
        javas.push(async move {
            let arguments = ["--reader-property", "parse.key=true", "--compression-codec", &codec];
            java::produce(java, bootstrap, &theirs, &arguments, lines).await;
        });
    }
    futures_util::future::join_all(javas).await;

    for codec in CODECS {
        let ours = format!("{base}-ours-{codec}");
        create_topic(&client, &ours, 7).await;
        let records = pairs.iter().map(|(key, value)| ProducerRecord::to(&ours).key(key).value(value));
        write(&client, configured(codec), records).await;
        let theirs = format!("{base}-theirs-{codec}");
        let mut codecs = BTreeSet::new();
        for partition in 0..7 {
            let mut both = Vec::new();
            for topic in [&theirs, &ours] {
                let tp = TopicPartition::new(topic.as_str(), partition);
                let records = read(&client, &tp, Isolation::ReadCommitted).await;
                both.push(
                    records
                        .iter()
                        .map(|record| (text(record.key.as_deref()), text(record.value.as_deref())))
                        .collect::<Vec<_>>(),
                );
                for batch in batches(&client, &tp, Isolation::ReadUncommitted).await {
                    codecs.insert(batch.compression().to_string());
                }
            }
            assert_eq!(both[0], both[1], "{codec}, partition {partition}");
            assert!(!both[0].is_empty(), "60 keys leave no partition empty");
        }
        assert_eq!(codecs.into_iter().collect::<Vec<_>>(), [codec.to_string()]);
    }

    let pattern = format!("{base}-ours-.*");
    let arguments = ["--include", &pattern, "--formatter-property", "print.key=true"];
    let mut read = java::consume(&java, &bootstrap, pairs.len() * CODECS.len(), &arguments).await;
    read.sort();
    let mut expected: Vec<String> = Vec::new();
    for (key, value) in &pairs {
        expected.extend(CODECS.map(|_| format!("{key}\t{value}")));
    }
    expected.sort();
    assert_eq!(read, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_end_in_control_batches_that_say_how() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("control", 1).await;
        let tp = TopicPartition::new(topic.as_str(), 0);
        let mut producer =
            TransactionalProducer::new(&client, TransactionConfig::new(env.name("tx"))).unwrap();
        producer.init().await.unwrap();
        for commit in [true, false] {
            producer.begin().await.unwrap();
            drop(producer.send(ProducerRecord::to(&topic).value("x")).await.unwrap());
            // An abort discards what was not sent yet.
            producer.flush().await.unwrap();
            within("the end", async {
                if commit { producer.commit().await } else { producer.abort().await }
            })
            .await
            .unwrap();
        }
        milena_tests::records::eventually(
            env.describe(),
            || async {
                let all = batches(&client, &tp, Isolation::ReadUncommitted).await;
                all.iter().map(|batch| (batch.is_transactional(), batch.is_control())).collect::<Vec<_>>()
            },
            vec![(true, false), (true, true), (true, false), (true, true)],
        )
        .await;
        let all = batches(&client, &tp, Isolation::ReadUncommitted).await;
        assert!(matches!(all[1].control().unwrap(), Some(ControlRecord::Commit { .. })));
        assert!(matches!(all[3].control().unwrap(), Some(ControlRecord::Abort { .. })));
        assert_eq!(all[1].producer_id(), all[0].producer_id());
        assert!(all[0].control().unwrap().is_none());
        // Markers are never records, and aborted records are none for those who ask for committed ones.
        assert_eq!(read(&client, &tp, Isolation::ReadUncommitted).await.len(), 2);
        assert_eq!(read(&client, &tp, Isolation::ReadCommitted).await.len(), 1);
    }
}
