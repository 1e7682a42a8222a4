//! The sink's writer and committer by themselves, on an embedded broker that goes away, forgets, moves or grows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use milena::protocol::error_code::ErrorCode;
use milena::{
    Client, ClientConfig, FetchFrom, FetchOptions, Isolation, Offset, OwnedRecord, PartitionId,
    ProducerConfig, TopicPartition,
};
use milena_connector::schema::{Emit, SinkRecord, Stamped, StringSerializer, serialize_with};
use milena_connector::sink::committer::Committer;
use milena_connector::sink::naming::{Grammar, NamePool, Naming};
use milena_connector::sink::outcome::{Limits, Outcome};
use milena_connector::sink::writer::{Writer, WriterContext};
use milena_connector::sink::{Delivery, KafkaSink, KafkaSinkBuilder, SinkPartitioning};
use milena_testkit::broker::{Fault, TransactionVersion};
use support::{OUTPUT, PREFIX, Stage, broker_config};

const RECORDS: u64 = 60;
const LONG: Duration = Duration::from_secs(30);
const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;
const END_TXN: i16 = 26;

fn requests(stage: &Stage, api: i16) -> u64 {
    stage.broker.with_broker(|broker| broker.requests(api))
}

/// A sink of numbers that gives a record up after a second.
fn impatient(stage: &Stage, delivery: Delivery) -> KafkaSinkBuilder<String> {
    let producer = ProducerConfig {
        linger: Duration::from_millis(1),
        batch_size: 256,
        delivery_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_millis(500),
        ..ProducerConfig::default()
    };
    KafkaSink::builder()
        .client(stage.config())
        .delivery(delivery)
        .transactional_id_prefix(PREFIX)
        .transaction_timeout(Duration::from_secs(60))
        .producer(producer)
        .serializer(StringSerializer::new(OUTPUT))
}

async fn client(stage: &Stage) -> Client {
    let mut config = ClientConfig::new([stage.bootstrap.as_str()]);
    config.api_timeout = Duration::from_secs(2);
    config.metadata_max_age = Duration::from_millis(100);
    Client::connect(config).await.unwrap()
}

async fn open(
    sink: KafkaSinkBuilder<String>,
    client: &Client,
    subtask: u32,
) -> milena_connector::Result<Writer<String>> {
    let names = NamePool::new(Grammar::new(PREFIX, Naming::Pooling, 4), 1);
    let context = WriterContext { subtask, parallelism: 4, names };
    Writer::open(&sink.build().unwrap(), client.clone(), context).await
}

async fn write(writer: &mut Writer<String>, value: u64) -> milena_connector::Result<()> {
    if writer.take(&value.to_string(), 5)? {
        writer.send(5).await?;
    }
    Ok(())
}

/// The same; with `together`, as one of many elements at once, which is another path.
async fn write_by(together: bool, writer: &mut Writer<String>, value: u64) -> milena_connector::Result<()> {
    if !together {
        return write(writer, value).await;
    }
    let element = Stamped { value: value.to_string(), timestamp: 5, offset: Offset(0) };
    writer.write(vec![element]).await.map(drop)
}

/// The values in the first partition.
async fn written(stage: &Stage, isolation: Isolation) -> Vec<String> {
    let from = FetchFrom::new(TopicPartition::new(OUTPUT, 0), Offset(0));
    let options = FetchOptions { isolation, ..FetchOptions::default() };
    let fetched = stage.client.fetcher().fetch(&[from], &options).await.unwrap();
    let records = fetched[0].owned_records().unwrap().into_iter();
    records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

/// What must end in half a minute though nothing answers.
async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Counts as long as the only thread of the test is free.
fn ticks() -> Arc<AtomicU32> {
    let ticks = Arc::new(AtomicU32::new(0));
    let counting = Arc::clone(&ticks);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            counting.fetch_add(1, Ordering::SeqCst);
        }
    });
    ticks
}

// scenario: 5.6.19, 5.6.20, D18
#[tokio::test]
async fn a_broker_that_is_away_is_told_by_itself_at_a_write_at_a_flush_and_at_the_end() {
    let ticks = ticks();
    let each =
        [Delivery::AtLeastOnce, Delivery::ExactlyOnce].map(|delivery| [(delivery, false), (delivery, true)]);
    for (delivery, together) in each.into_iter().flatten() {
        let stage = Stage::new(1).await;
        let client = client(&stage).await;
        let mut writers = Vec::new();
        for subtask in 0..4 {
            let mut writer = open(impatient(&stage, delivery), &client, subtask).await.unwrap();
            write_by(together, &mut writer, 0).await.unwrap();
            writer.flush(false).await.unwrap();
            write_by(together, &mut writer, 1).await.unwrap();
            writers.push(writer);
        }
        stage.broker.go_down().await;
        for writer in &mut writers {
            write_by(together, writer, 2).await.unwrap();
        }
        let before = ticks.load(Ordering::SeqCst);
        let mut told = vec![bounded("the push", writers[0].failed()).await];
        assert!(ticks.load(Ordering::SeqCst) >= before + 20, "a wait does not take the thread");
        told.push(bounded("the flush", writers[1].flush(false)).await.unwrap_err());
        let at_a_write = async {
            loop {
                if let Err(error) = write_by(together, &mut writers[2], 3).await {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        told.push(bounded("the write", at_a_write).await);
        told.push(bounded("the end", writers[3].flush(true)).await.unwrap_err());
        for error in told {
            assert!(error.to_string().contains("not"), "{delivery:?}, {together}: {error}");
        }
        let ends: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(writer.abort())).collect();
        for end in ends {
            bounded("the abort", end).await.unwrap();
        }
    }
}

/// What a record is made of: partition, key, value, headers, time.
type Made = (i32, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>, Option<i64>);

/// Records of every kind, and some left out: with and without key, value, headers and time, small and larger than a run may be.
fn fill(number: u64, out: &mut SinkRecord) -> Emit {
    let value = number.to_string().repeat([1, 30, 2000][number as usize % 3]);
    if !number.is_multiple_of(4) {
        out.set_key(format!("key {number}"));
    }
    if !number.is_multiple_of(5) {
        out.set_value(&value);
    }
    for header in 0..number % 3 {
        out.add_header("same", (header == 1).then_some(value.as_bytes()));
    }
    match number % 4 {
        1 => out.set_timestamp(7_000_000 + i64::try_from(number).unwrap()),
        2 => out.set_timestamp(-1),
        _ => out,
    };
    out.set_partition(PartitionId(i32::try_from(number % 2).unwrap()));
    if number.is_multiple_of(11) { Emit::Skip } else { Emit::Write }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_elements_at_once_give_the_records_of_one_after_the_other() {
    const COUNT: u64 = 300;
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let mut made: Vec<Vec<Made>> = Vec::new();
        for together in [false, true] {
            let stage = Stage::new(2).await;
            let topic: Arc<str> = OUTPUT.into();
            let serializer = serialize_with(move |number: &u64, _: i64, out: &mut SinkRecord| {
                Ok(fill(*number, out.set_shared_topic(&topic)))
            });
            let sink = KafkaSink::builder()
                .client(stage.config())
                .delivery(delivery)
                .transactional_id_prefix(PREFIX)
                .serializer(serializer);
            let names = NamePool::new(Grammar::new(PREFIX, Naming::Pooling, 1), 1);
            let context = WriterContext { subtask: 0, parallelism: 1, names };
            let mut writer =
                Writer::open(&sink.build().unwrap(), stage.client.clone(), context).await.unwrap();
            let element = |number| Stamped { value: number, timestamp: 9_000_000, offset: Offset(0) };
            let mut sent = 0;
            if together {
                sent = writer.write((0..COUNT).map(element).collect()).await.unwrap();
            } else {
                for Stamped { value, timestamp, .. } in (0..COUNT).map(element) {
                    if writer.take(&value, timestamp).unwrap() {
                        writer.send(timestamp).await.unwrap();
                        sent += 1;
                    }
                }
            }
            assert_eq!(sent, COUNT - COUNT.div_ceil(11));
            writer.flush(true).await.unwrap();
            made.push(all_parts(&stage).await);
        }
        assert_eq!(made[0].len() as u64, COUNT - COUNT.div_ceil(11), "{delivery:?}");
        assert_eq!(made[0], made[1], "{delivery:?}");
    }
}

async fn all_parts(stage: &Stage) -> Vec<Made> {
    let options = FetchOptions { isolation: Isolation::ReadUncommitted, ..FetchOptions::default() };
    let mut all = Vec::new();
    for partition in 0..2 {
        let mut next = Offset(0);
        loop {
            let from = FetchFrom::new(TopicPartition::new(OUTPUT, partition), next);
            let fetched = stage.client.fetcher().fetch(&[from], &options).await.unwrap();
            let records = fetched[0].owned_records().unwrap();
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            all.extend(records.into_iter().map(|record| parts(partition, record)));
        }
    }
    all
}

fn parts(partition: i32, record: OwnedRecord) -> Made {
    let bytes = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| bytes.to_vec());
    let headers = record.headers.into_iter().map(|(name, value)| (name.to_string(), bytes(value))).collect();
    // The time of the writing, where a record has none.
    let timestamp = Some(record.timestamp).filter(|timestamp| *timestamp < 10_000_000);
    (partition, bytes(record.key), bytes(record.value), headers, timestamp)
}

/// The first record of a topic waits for metadata; nothing else does.
// scenario: D18
#[tokio::test]
async fn a_wait_for_metadata_does_not_take_the_thread() {
    const SLOW: Duration = Duration::from_millis(700);
    let ticks = ticks();
    let stage = Stage::new(1).await;
    let client = Client::connect(stage.config()).await.unwrap();
    let mut writer = open(impatient(&stage, Delivery::ExactlyOnce), &client, 0).await.unwrap();
    stage.broker.faults().on(METADATA, Fault::Delay(SLOW), 1);
    let (before, since) = (ticks.load(Ordering::SeqCst), Instant::now());
    write(&mut writer, 0).await.unwrap();
    assert!(since.elapsed() >= SLOW && stage.broker.faults().unused().is_empty(), "it waited");
    assert!(ticks.load(Ordering::SeqCst) >= before + 20);
    writer.flush(true).await.unwrap();
}

// scenario: 5.3.15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_client_fails_every_call_of_the_sink() {
    for delivery in [Delivery::None, Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let stage = Stage::new(1).await;
        let client = client(&stage).await;
        let mut used = open(impatient(&stage, delivery), &client, 0).await.unwrap();
        write(&mut used, 0).await.unwrap();
        used.flush(true).await.unwrap();
        let mut other = open(impatient(&stage, delivery), &client, 1).await.unwrap();
        write(&mut other, 1).await.unwrap();
        other.flush(true).await.unwrap();
        let prepared = other.prepare(1).await.unwrap();
        client.close(Duration::from_secs(5)).await.unwrap();

        let late = async {
            write(&mut used, 2).await?;
            used.flush(true).await
        };
        bounded("a write", late).await.unwrap_err();
        if delivery == Delivery::ExactlyOnce {
            bounded("the next transaction", other.begin_next()).await.unwrap_err();
            let opened = bounded("another writer", open(impatient(&stage, delivery), &client, 2)).await;
            assert!(opened.is_err());
            let limits = Limits { decide: Some(Duration::from_secs(2)), ..Limits::default() };
            let committer = Committer::new(client.clone(), limits);
            let sent = || Ok::<_, std::convert::Infallible>(());
            let committable = prepared.unwrap();
            let outcome = bounded("the commit", committer.commit(&committable, sent)).await.unwrap();
            assert!(matches!(outcome, Outcome::Unanswered { .. }), "no outcome is guessed: {outcome:?}");
            let outcome = Committer::new(stage.client.clone(), limits).commit(&committable, sent).await;
            assert_eq!(outcome.unwrap(), Outcome::Committed { verified: true }, "another client can");
        }
        bounded("the abort", used.abort()).await;
        assert_eq!(written(&stage, Isolation::ReadUncommitted).await, ["0", "1"], "{delivery:?}");
    }
}

/// The coordinator moves before the request, after it took effect, and while it is looked for.
// scenario: 5.8.14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_follows_its_coordinator() {
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        let stage = Stage::with(broker_config(1, version)).await;
        let mut writer = open(impatient(&stage, Delivery::ExactlyOnce), &stage.client, 0).await.unwrap();
        for number in 0..3 {
            write(&mut writer, number).await.unwrap();
        }
        writer.flush(false).await.unwrap();
        let committable = writer.prepare(1).await.unwrap().unwrap();
        let faults = stage.broker.faults();
        faults.on(END_TXN, Fault::Error(ErrorCode::NOT_COORDINATOR), 2);
        faults.on(END_TXN, Fault::DropAfter, 1);
        faults.on(END_TXN, Fault::Error(ErrorCode::NOT_COORDINATOR), 1);
        faults.on(END_TXN, Fault::Error(ErrorCode::COORDINATOR_NOT_AVAILABLE), 1);
        faults.on(END_TXN, Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS), 1);
        faults.on_after(1, FIND_COORDINATOR, Fault::Error(ErrorCode::COORDINATOR_NOT_AVAILABLE), 2);
        let before = requests(&stage, FIND_COORDINATOR);
        let committer = Committer::new(stage.client.clone(), Limits::default());
        let outcome = committer.commit(&committable, || Ok::<_, std::convert::Infallible>(())).await.unwrap();
        assert_eq!(outcome, Outcome::Committed { verified: true }, "{version:?}");
        assert_eq!(stage.broker.faults().unused(), []);
        assert!(requests(&stage, FIND_COORDINATOR) >= before + 4, "it was looked for each time");
        assert_eq!(written(&stage, Isolation::ReadCommitted).await, ["0", "1", "2"], "committed once");
    }
}

/// A broker that forgot the producer refuses its next batch until it begins anew, as Kafka before 2.5 does when a partition's old
/// records are deleted (KAFKA-9310).
// scenario: D15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_forgot_the_producer_loses_and_doubles_nothing() {
    let mut config = broker_config(1, TransactionVersion::V1);
    config.strict_unknown_producer = true;
    let stage = Stage::with(config).await;
    let sink = impatient(&stage, Delivery::AtLeastOnce);
    let mut writer = open(sink, &stage.client, 0).await.unwrap();
    for number in 0..RECORDS {
        if number % 15 == 10 {
            writer.flush(false).await.unwrap();
            stage.broker.with_broker(|broker| broker.forget_producers());
        }
        write(&mut writer, number).await.unwrap();
    }
    writer.flush(true).await.unwrap();
    let expected: Vec<String> = (0..RECORDS).map(|number| number.to_string()).collect();
    assert_eq!(written(&stage, Isolation::ReadUncommitted).await, expected);
}

/// Partitions that are added while a sink writes are written, too, with a partitioner of the sink and with the producer's.
// scenario: D20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_added_are_written() {
    let deliveries = [Delivery::AtLeastOnce, Delivery::ExactlyOnce];
    let all = [SinkPartitioning::RoundRobin, SinkPartitioning::Producer];
    for (delivery, partitioning) in deliveries.iter().flat_map(|&it| all.iter().map(move |other| (it, other)))
    {
        let stage = Stage::new(1).await;
        let client = client(&stage).await;
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let telling = Arc::clone(&seen);
        let sink = impatient(&stage, delivery).partitioning(partitioning.clone());
        let sink = sink.on_written(move |metadata| {
            telling.lock().unwrap().insert(metadata.topic_partition.partition.0);
        });
        let mut writer = open(sink, &client, 0).await.unwrap();
        write(&mut writer, 0).await.unwrap();
        writer.flush(false).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), BTreeSet::from([0]));
        stage.client.admin().add_partitions(OUTPUT, 3).await.unwrap();
        let all = async {
            while *seen.lock().unwrap() != BTreeSet::from([0, 1, 2]) {
                write(&mut writer, 1).await.unwrap();
                writer.flush(false).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        bounded(&format!("{partitioning:?}"), all).await;
        writer.abort().await;
    }
}
