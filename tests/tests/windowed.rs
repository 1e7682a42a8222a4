//! The long proof: windowed counts of twelve partitions on three real brokers, while the job's processes and the brokers are killed
//! with SIGKILL at random and the parallelism changes from life to life. `cargo xtask kafka windowed` runs it.
//!
//! The feed writes records whose partition and time follow from their number, out of order within a bound; so what must come out is
//! computed from the number of records alone. Each life of the job is this very program, started anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use milena::{
    Client, ClientConfig, ErrorKind, Isolation, ListFilter, NewTopic, OffsetSpec, PartitionId, Producer,
    ProducerConfig, ProducerRecord, TopicPartition, TransactionState,
};
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{
    CheckpointConfig, ExponentialDelay, Job, JobConfig, JobControl, Restart, TumblingWindows,
};
use milena_connector::schema::{Emit, OwnedKafkaRecord, RecordDeserializer, SinkRecord, serialize_with};
use milena_connector::sink::{Delivery, KafkaSink, LossPolicy, OnHanging};
use milena_connector::source::{KafkaSource, StartFrom, StopAt};
use milena_testkit::kafka::{KafkaCluster, KafkaOptions, or_skip};
use milena_tests::records::{read, text};

const PARTITIONS: u64 = 12;
/// Event time: a record a millisecond, up to so many milliseconds early or late.
const DISORDER_MS: u64 = 3_000;
const WINDOW_MS: u64 = 10_000;
const START_MS: u64 = 1_700_000_000_000;
const INPUT: &str = "windowed.in";
const OUTPUT: &str = "windowed.out";
const PREFIX: &str = "windowed";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// A number that follows from another and looks like chance.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn partition_of(number: u64) -> i32 {
    i32::try_from(mixed(number) % PARTITIONS).unwrap()
}

fn time_of(number: u64) -> u64 {
    START_MS + number + mixed(!number) % DISORDER_MS
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::from(bootstrap.to_owned());
    config.connect_timeout = Duration::from_secs(2);
    config.request_timeout = Duration::from_secs(5);
    config.api_timeout = Duration::from_secs(60);
    config
}

/// One life of the job. Not a test: the long proof starts it, and kills it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the long proof: cargo xtask kafka windowed"]
async fn life() {
    let Ok(bootstrap) = std::env::var("MILENA_WINDOWED_BOOTSTRAP") else { return };
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let bounded = std::env::var("MILENA_WINDOWED_LAST").is_ok();
    let source = KafkaSource::builder()
        .client(config(&bootstrap))
        .topics([INPUT])
        .group_id(PREFIX)
        .start(StartFrom::Earliest)
        .watermarks(
            // Without idleness: a partition whose leader was killed is behind the others, and its records are not late.
            WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(DISORDER_MS))
                .with_caught_up_idleness(None),
        )
        .deserializer(RecordDeserializer::new());
    let source = if bounded { source.bounded(StopAt::Latest) } else { source };
    let write = |count: &(i32, i64, u64), _: i64, out: &mut SinkRecord| {
        let (partition, start, count) = *count;
        out.set_topic(OUTPUT).set_partition(PartitionId(partition));
        out.set_key(start.to_string().as_bytes()).set_value(count.to_string().as_bytes());
        Ok(Emit::Write)
    };
    let sink = KafkaSink::builder()
        .client(config(&bootstrap))
        .delivery(Delivery::ExactlyOnce)
        .transactional_id_prefix(PREFIX)
        .transaction_timeout(Duration::from_secs(120))
        .on_loss(LossPolicy { hanging: OnHanging::Finish, ..LossPolicy::default() })
        .serializer(serialize_with(write))
        .build()
        .unwrap();
    let job = JobConfig {
        parallelism: u32::try_from(setting("MILENA_WINDOWED_PARALLELISM", 1)).unwrap(),
        checkpoint: CheckpointConfig {
            interval: Duration::from_millis(500),
            max_concurrent: usize::try_from(setting("MILENA_WINDOWED_CONCURRENT", 1)).unwrap(),
            ..CheckpointConfig::new(std::env::var("MILENA_WINDOWED_DIR").unwrap().as_str())
        },
        restart: Restart::ExponentialDelay(ExponentialDelay::default()),
        stop_timeout: Duration::from_secs(300),
        ..JobConfig::new(PREFIX)
    };
    let windows = || {
        TumblingWindows::new(
            Duration::from_millis(WINDOW_MS),
            |record: &OwnedKafkaRecord| record.partition.0.to_be_bytes().to_vec(),
            |count, _| count + 1,
            |key, window, count| (i32::from_be_bytes(key.try_into().unwrap()), window.start, count),
        )
    };
    let report = Job::from_source(source.build().unwrap())
        .process("counts", move |_| windows())
        .to(sink)
        .run(job, JobControl::new())
        .await
        .unwrap();
    assert_eq!(report.late_records, 0);
}

/// What there is to say of a run.
#[derive(Debug, Default)]
struct Told {
    lives: u32,
    killed: u32,
    brokers_killed: u32,
    parallelism: BTreeMap<u64, u32>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo xtask kafka windowed"]
async fn windowed_counts_are_exact_while_processes_and_brokers_are_killed() {
    let records = setting("MILENA_WINDOWED_RECORDS", 10_000_000);
    let lasting = Duration::from_secs(setting("MILENA_WINDOWED_SECONDS", 900));
    let seed = setting("MILENA_WINDOWED_SEED", u64::from(std::process::id()));
    let start = async { KafkaOptions::from_env()?.heap_mib(384).start_cluster(3).await };
    let Some(cluster) = or_skip(start.await) else { return };
    let cluster = Arc::new(cluster);
    let client = Client::connect(config(&cluster.bootstrap())).await.unwrap();
    let partitions = i32::try_from(PARTITIONS).unwrap();
    // Said and not left to the brokers, who before 2.4 take no default. The records' times are long ago: by default they would be deleted.
    let settings = [("retention.ms", "-1"), ("min.insync.replicas", "2")];
    let topics = [INPUT, OUTPUT].map(|name| NewTopic {
        replication: 3,
        configs: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..NewTopic::new(name, partitions)
    });
    for (_, created) in client.admin().create_topics(&topics, Duration::from_secs(30)).await.unwrap() {
        created.unwrap();
    }
    println!("Kafka {}, {records} records, {lasting:?}, seed {seed}", cluster.version());

    let fed = Arc::new(AtomicU64::new(0));
    let feeding = tokio::spawn(feed(client.clone(), records, lasting, Arc::clone(&fed)));
    let ending = Arc::new(AtomicBool::new(false));
    let killing = tokio::spawn(kill_brokers(Arc::clone(&cluster), seed, Arc::clone(&ending)));
    let dir = tempfile::tempdir().unwrap();
    let until = Instant::now() + lasting;
    let mut told = Told::default();
    while Instant::now() < until {
        assert!(
            !feeding.is_finished() || fed.load(Ordering::Relaxed) == records,
            "nothing is written any more"
        );
        one_life(&cluster, dir.path(), seed + u64::from(told.lives), &mut told).await;
    }
    ending.store(true, Ordering::Relaxed);
    told.brokers_killed = killing.await.unwrap();
    feeding.await.unwrap();
    assert_eq!(fed.load(Ordering::Relaxed), records);
    println!("all is written; the last life reads to the end");
    let last = start_life(&cluster, dir.path(), 3, 1, true);
    let ended =
        tokio::time::timeout(Duration::from_secs(900), last.wait_with_output()).await.unwrap().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    println!("{told:?}");
    judge(&client, records).await;
}

/// Writes all records, evenly over the time.
async fn feed(client: Client, records: u64, lasting: Duration, fed: Arc<AtomicU64>) {
    const CHUNK: u64 = 2_000;
    let settings = ProducerConfig { delivery_timeout: Duration::from_secs(300), ..ProducerConfig::default() };
    let producer = Producer::new(&client, settings).unwrap();
    let began = Instant::now();
    for from in (0..records).step_by(usize::try_from(CHUNK).unwrap()) {
        let to = (from + CHUNK).min(records);
        for number in from..to {
            let value = number.to_be_bytes();
            let record = ProducerRecord::to(INPUT)
                .partition(partition_of(number))
                .value(value.as_slice())
                .timestamp(i64::try_from(time_of(number)).unwrap());
            drop(producer.send(record).await.unwrap());
        }
        let due = began + lasting.mul_f64(to as f64 / records as f64);
        tokio::time::sleep_until(due.into()).await;
        fed.store(to, Ordering::Relaxed);
        assert_eq!(producer.metrics().errors, 0, "records could not be written");
    }
    producer.flush().await.unwrap();
    assert_eq!(producer.metrics().records, records, "each was acknowledged");
    producer.close(Duration::from_secs(30)).await.unwrap();
}

/// Kills a broker now and then, one at a time, and starts it again.
async fn kill_brokers(cluster: Arc<KafkaCluster>, seed: u64, ending: Arc<AtomicBool>) -> u32 {
    let mut killed = 0;
    while !ending.load(Ordering::Relaxed) {
        let chance = mixed(seed ^ u64::from(killed) ^ 0xb0b);
        tokio::time::sleep(Duration::from_millis(8_000 + chance % 12_000)).await;
        if ending.load(Ordering::Relaxed) {
            break;
        }
        let broker = i32::try_from(chance % 3).unwrap() + 1;
        cluster.kill9(broker).await.unwrap();
        killed += 1;
        println!("broker {broker} is killed");
        tokio::time::sleep(Duration::from_millis(1_000 + chance % 4_000)).await;
        cluster.restart(broker).await.unwrap();
        cluster.wait_for_members(3).await.unwrap();
    }
    killed
}

fn start_life(
    cluster: &KafkaCluster,
    dir: &Path,
    parallelism: u64,
    concurrent: u64,
    last: bool,
) -> tokio::process::Child {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["life", "--exact", "--ignored", "--nocapture"])
        .env("MILENA_WINDOWED_BOOTSTRAP", cluster.bootstrap())
        .env("MILENA_WINDOWED_DIR", dir)
        .env("MILENA_WINDOWED_PARALLELISM", parallelism.to_string())
        .env("MILENA_WINDOWED_CONCURRENT", concurrent.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    if last {
        command.env("MILENA_WINDOWED_LAST", "1");
    }
    command.spawn().unwrap()
}

/// A life of one to ten seconds.
async fn one_life(cluster: &KafkaCluster, dir: &Path, chance: u64, told: &mut Told) {
    let chance = mixed(chance);
    let (parallelism, concurrent) = (1 + chance % 4, 1 + (chance >> 8) % 3);
    *told.parallelism.entry(parallelism).or_insert(0) += 1;
    told.lives += 1;
    let mut life = start_life(cluster, dir, parallelism, concurrent, false);
    let time = Duration::from_millis(1_000 + (chance >> 16) % 9_000);
    match tokio::time::timeout(time, life.wait()).await {
        // It restarts by itself where that can help, so what ends it is a defect, and the judge would see less of it than this.
        Ok(ended) => panic!("a life ended by itself: {ended:?}"),
        Err(_) => {
            life.kill().await.unwrap();
            told.killed += 1;
        }
    }
}

/// Counts, transactions and offsets are as they must be.
async fn judge(client: &Client, records: u64) {
    let mut expected: BTreeMap<(i32, u64), u64> = BTreeMap::new();
    for number in 0..records {
        *expected.entry((partition_of(number), time_of(number) / WINDOW_MS * WINDOW_MS)).or_insert(0) += 1;
    }
    let mut found: BTreeMap<(i32, u64), u64> = BTreeMap::new();
    for partition in 0..i32::try_from(PARTITIONS).unwrap() {
        let at = TopicPartition::new(OUTPUT, partition);
        for record in read(client, &at, Isolation::ReadCommitted).await {
            let start: u64 = text(record.key.as_deref()).parse().unwrap();
            let count = text(record.value.as_deref()).parse().unwrap();
            assert_eq!(found.insert((partition, start), count), None, "window {start} of {at} came twice");
        }
    }
    println!(
        "{} windows of {}, {} records in them",
        found.len(),
        expected.len(),
        found.values().sum::<u64>()
    );
    let wrong: Vec<_> =
        expected.iter().filter(|(window, count)| found.get(window) != Some(*count)).take(10).collect();
    assert!(wrong.is_empty() && found.len() == expected.len(), "expected, and not found: {wrong:?}");

    nothing_is_open(client).await;

    let inputs: Vec<_> = (0..i32::try_from(PARTITIONS).unwrap())
        .map(|partition| TopicPartition::new(INPUT, partition))
        .collect();
    let asked: Vec<_> = inputs.iter().map(|at| (at.clone(), OffsetSpec::Latest)).collect();
    let ends = client.list_offsets(&asked, Isolation::ReadCommitted).await.unwrap();
    let committed = client.group(PREFIX).fetch(Some(&inputs), false).await.unwrap();
    for ((at, end), (of, offset)) in ends.iter().zip(&committed) {
        let (end, offset) = (end.as_ref().unwrap().offset, offset.as_ref().unwrap().as_ref());
        assert_eq!((at, end), (of, offset.map(|offset| offset.offset)), "the group's offset is not the end");
    }
}

/// No transaction is open: none is listed, and none holds back what readers of committed records may see.
async fn nothing_is_open(client: &Client) {
    let filter = ListFilter { states: vec![TransactionState::Ongoing], ..ListFilter::default() };
    match client.transactions().list(&filter).await {
        Ok(open) => assert!(open.is_empty(), "transactions that linger: {open:?}"),
        // It came with Kafka 3.0.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    let asked: Vec<_> = (0..i32::try_from(PARTITIONS).unwrap())
        .map(|partition| (TopicPartition::new(OUTPUT, partition), OffsetSpec::Latest))
        .collect();
    let stable = client.list_offsets(&asked, Isolation::ReadCommitted).await.unwrap();
    let end = client.list_offsets(&asked, Isolation::ReadUncommitted).await.unwrap();
    for ((at, stable), (_, end)) in stable.iter().zip(&end) {
        let (stable, end) = (stable.as_ref().unwrap().offset, end.as_ref().unwrap().offset);
        assert_eq!(stable, end, "an open transaction holds back {at}");
    }
}
