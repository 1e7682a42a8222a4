//! Shapes of input that a source must take: none, empty, large, without values, in many topics, while it is written.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{NewTopic, ProducerConfig, ProducerRecord};
use milena_connector::BoxError;
use milena_connector::runtime::{Job, JobControl, JobReport};
use milena_connector::schema::{
    Emit, KeyValue, OwnedKafkaRecord, RecordDeserializer, Serializer, SinkRecord, serialize_with,
};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{KafkaSource, KafkaSourceBuilder, StopAt};
use milena_tests::jobs::{FIRST_TIME, Running, Stage, job_config, run};
use milena_tests::records::{text, write};
use milena_tests::{Env, create_topic};

const INTERVAL: Duration = Duration::from_millis(200);

type Pair = (Option<String>, Option<String>);
type Noted = Arc<Mutex<Vec<(i64, Option<usize>)>>>;

fn records(env: &Env) -> KafkaSourceBuilder<OwnedKafkaRecord> {
    KafkaSource::builder().client(env.config()).deserializer(RecordDeserializer::new())
}

/// Runs a bounded job that notes event time and length of each value.
async fn note(
    env: &Env,
    source: KafkaSourceBuilder<OwnedKafkaRecord>,
    parallelism: u32,
) -> (JobReport, Noted) {
    let noted = Noted::default();
    let notes = Arc::clone(&noted);
    let sink = KafkaSink::builder()
        .client(env.config())
        .delivery(Delivery::None)
        .serializer(serialize_with(move |record: &OwnedKafkaRecord, time: i64, _: &mut SinkRecord| {
            notes.lock().unwrap().push((time, record.value.as_ref().map(bytes::Bytes::len)));
            Ok(Emit::Skip)
        }))
        .build()
        .unwrap();
    let job = Job::from_source(source.bounded(StopAt::Latest).build().unwrap()).to(sink);
    let dir = tempfile::tempdir().unwrap();
    let report = run(job, job_config(dir.path(), parallelism, INTERVAL), JobControl::new()).await.unwrap();
    (report, noted)
}

// scenario: 5.4.4, 5.4.7, 5.4.8, 5.1.8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_topics_empty_partitions_and_idle_subtasks_end() {
    for stage in Stage::each(2).await {
        let empty = records(&stage.env).topics([&stage.output]);
        assert_eq!(note(&stage.env, empty, 3).await.0.records_in, 0, "{}", stage.env.describe());
        let one = ProducerRecord::to(&stage.input).partition(1).value("x");
        write(&stage.client, ProducerConfig::default(), [one]).await;
        let source = records(&stage.env).topics([&stage.input]);
        assert_eq!(note(&stage.env, source, 5).await.0.records_in, 1, "{}", stage.env.describe());
    }
}

// scenario: 5.1.12, 5.1.22, 5.4.1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_values_are_read_with_their_times() {
    for stage in Stage::each(1).await {
        let deletes = (0..20_u64)
            .map(|number| ProducerRecord::to(&stage.input).key(b"k").timestamp(FIRST_TIME + number as i64));
        write(&stage.client, ProducerConfig::default(), deletes).await;
        let (report, noted) = note(&stage.env, records(&stage.env).topics([&stage.input]), 1).await;
        assert_eq!(report.records_in, 20);
        let expected: Vec<_> = (0..20).map(|number| (FIRST_TIME + number, None)).collect();
        assert_eq!(*noted.lock().unwrap(), expected, "{}", stage.env.describe());
    }
}

fn utf8(_: &str, bytes: Option<&[u8]>) -> Result<Option<String>, BoxError> {
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// Keys, empty ones and none at all, and values, through a sink and a source of pairs.
// scenario: 5.1.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_survive_a_round_trip() {
    for stage in Stage::each(1).await {
        let pairs: Vec<Pair> = (0..40_usize)
            .map(|number| {
                let key = [None, Some(String::new()), Some(format!("k{number}"))][number % 3].clone();
                (key, (number % 7 > 0).then(|| number.to_string()))
            })
            .collect();
        let input = pairs.iter().map(|(key, value)| {
            let record = ProducerRecord::to(&stage.input);
            let record =
                key.as_deref().map_or(record, |key| ProducerRecord { key: Some(key.as_bytes()), ..record });
            ProducerRecord { value: value.as_deref().map(str::as_bytes), ..record }
        });
        write(&stage.client, ProducerConfig::default(), input).await;
        let source = |topic: &str| {
            let client = stage.env.config();
            let source = KafkaSource::builder().client(client).topics([topic]).bounded(StopAt::Latest);
            Job::from_source(source.deserializer(KeyValue(utf8, utf8)).build().unwrap())
        };
        let sink = |delivery| {
            let sink = KafkaSink::builder().client(stage.env.config()).delivery(delivery);
            sink.transactional_id_prefix(&stage.prefix)
        };
        let topic = stage.output.clone();
        let keyed = serialize_with(move |(key, value): &Pair, _: i64, out: &mut SinkRecord| {
            out.set_topic(topic.as_str());
            if let Some(key) = key {
                out.set_key(key.as_str());
            }
            if let Some(value) = value {
                out.set_value(value.as_str());
            }
            Ok(Emit::Write)
        });
        let noted = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&noted);
        let note = serialize_with(move |pair: &Pair, _: i64, _: &mut SinkRecord| {
            notes.lock().unwrap().push(pair.clone());
            Ok(Emit::Skip)
        });
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let write = source(&stage.input).to(sink(Delivery::ExactlyOnce).serializer(keyed).build().unwrap());
        run(write, job_config(dirs[0].path(), 1, INTERVAL), JobControl::new()).await.unwrap();
        let read = source(&stage.output).to(sink(Delivery::None).serializer(note).build().unwrap());
        run(read, job_config(dirs[1].path(), 1, INTERVAL), JobControl::new()).await.unwrap();
        assert_eq!(*noted.lock().unwrap(), pairs, "{}", stage.env.describe());
    }
}

/// A record larger than a partition may have in an answer comes through alone.
// scenario: 5.1.10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_several_megabytes_are_read() {
    const LARGE: usize = 3 << 20;
    for env in Env::each().await {
        let client = env.client().await;
        let name = env.name("large");
        let configs = vec![("max.message.bytes".to_owned(), "8000000".to_owned())];
        let topic = NewTopic { name: name.clone(), partitions: 1, replication: -1, configs };
        let made = client.admin().create_topics(&[topic], Duration::from_secs(30)).await.unwrap();
        assert!(made.iter().all(|(_, outcome)| outcome.is_ok()), "{made:?}");
        let config = ProducerConfig { max_request_size: 8 << 20, ..ProducerConfig::default() };
        let value = vec![7_u8; LARGE];
        let all = [&value[..], b"small", &value[..]]
            .map(|value| ProducerRecord::to(&name).partition(0).value(value));
        write(&client, config, all).await;
        let (_, noted) = note(&env, records(&env).topics([&name]), 1).await;
        let lengths: Vec<_> = noted.lock().unwrap().iter().filter_map(|(_, length)| *length).collect();
        assert_eq!(lengths, [LARGE, 5, LARGE], "{}", env.describe());
    }
}

fn by_parity(base: &str) -> impl Serializer<OwnedKafkaRecord> + Clone + Sync + 'static {
    let topics = ["even", "odd"].map(|name| format!("{base}-{name}"));
    serialize_with(move |record: &OwnedKafkaRecord, _: i64, out: &mut SinkRecord| {
        let number: usize = text(record.value.as_deref()).parse()?;
        let topic = topics.get(number % 2).map(String::as_str).unwrap_or_default();
        out.set_topic(topic).set_value(number.to_string());
        Ok(Emit::Write)
    })
}

/// One job writes two topics, each record to one of them, while another reads both.
// scenario: 5.1.2, 5.1.11, 5.4.11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_topics_are_read_while_another_job_writes_them() {
    for stage in Stage::each(3).await {
        let base = stage.env.name("parity");
        for name in ["even", "odd"] {
            create_topic(&stage.client, &format!("{base}-{name}"), 2).await;
        }
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let write_two = KafkaSink::builder()
            .client(stage.env.config())
            .delivery(Delivery::ExactlyOnce)
            .transactional_id_prefix(&stage.prefix)
            .serializer(by_parity(&base))
            .build()
            .unwrap();
        let writing = Job::from_source(stage.source().build().unwrap()).to(write_two);
        let writing = Running::start(writing, job_config(dirs[0].path(), 2, INTERVAL));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let discard = KafkaSink::builder()
            .client(stage.env.config())
            .delivery(Delivery::None)
            .serializer(serialize_with(move |record: &OwnedKafkaRecord, _: i64, _: &mut SinkRecord| {
                noted.lock().unwrap().push(text(record.value.as_deref()).parse::<u64>()?);
                Ok(Emit::Skip)
            }))
            .build()
            .unwrap();
        let source = records(&stage.env).topic_pattern(&format!("{base}-(even|odd)")).build().unwrap();
        let reading =
            Running::start(Job::from_source(source).to(discard), job_config(dirs[1].path(), 3, INTERVAL));
        stage.produce(0..100).await;
        stage.produce(100..200).await;
        reading.until("all records", |metrics| metrics.records_in == 200).await;
        writing.stop().await.unwrap();
        reading.stop().await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>(), "{}", stage.env.describe());
    }
}
