//! The source: what it reads, from where, until where, and what it tells.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{
    CommittedOffset, Isolation, Offset, OffsetSpec, ProducerConfig, ProducerRecord, TopicPartition,
    TransactionConfig, TransactionalProducer,
};
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{Job, JobControl};
use milena_connector::schema::{Emit, OwnedKafkaRecord, SinkRecord, serialize_with};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{KafkaSource, KafkaSourceBuilder, OffsetReset, StartFrom, StopAt};
use milena_tests::Env;
use milena_tests::jobs::{FIRST_TIME, Running, Stage, job_config, run, time};
use milena_tests::records::{eventually, offset, text, write, write_values};

const INTERVAL: Duration = Duration::from_millis(200);

type Seen = Arc<Mutex<Vec<(String, i32, i64, String)>>>;

/// A job that only notes what it reads.
fn noting(env: &Env, source: KafkaSource<OwnedKafkaRecord>) -> (Job, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let sink = KafkaSink::builder()
        .client(env.config())
        .delivery(Delivery::None)
        .serializer(serialize_with(|_: &OwnedKafkaRecord, _: i64, _: &mut SinkRecord| Ok(Emit::Skip)))
        .build()
        .unwrap();
    let job = Job::from_source(source)
        .map(move |record: OwnedKafkaRecord| {
            noted.lock().unwrap().push((
                record.topic.to_string(),
                record.partition.0,
                record.offset.0,
                text(record.value.as_deref()),
            ));
            record
        })
        .to(sink);
    (job, seen)
}

/// What a bounded job reads, in order of topic, partition and offset.
async fn all_of(env: &Env, source: KafkaSourceBuilder<OwnedKafkaRecord>) -> Vec<(String, i32, i64, String)> {
    let dir = tempfile::tempdir().unwrap();
    let (job, seen) = noting(env, source.build().unwrap());
    run(job, job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    seen
}

/// One partition with ten records a second apart, the first at FIRST_TIME, all values their offsets.
async fn ten(stage: &Stage) {
    for number in 0..10i64 {
        let value = number.to_string();
        let record =
            ProducerRecord::to(&stage.input).partition(0).value(&value).timestamp(FIRST_TIME + number * 1000);
        write(&stage.client, ProducerConfig::default(), [record]).await;
    }
}

// scenario: 5.1.14, 5.1.15, 5.1.16, 5.1.17, 5.1.18, 5.4.33, 5.4.34, 5.4.10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_start_and_each_stop_is_where_it_says() {
    for stage in Stage::each(1).await {
        ten(&stage).await;
        let tp = TopicPartition::new(stage.input.as_str(), 0);
        let at = |offset| BTreeMap::from([(tp.clone(), Offset(offset))]);
        let committed = [(tp.clone(), CommittedOffset::from(Offset(4)))];
        // A group of its own for each run: a run moves its group.
        let group = async || {
            let group = stage.env.name("at-4");
            stage.client.group(&group).commit(&committed).await.unwrap();
            group
        };
        let starts = [
            (StartFrom::Earliest, 0),
            (StartFrom::Latest, 10),
            (StartFrom::Committed { or: OffsetReset::Fail }, 4),
            (StartFrom::Timestamp(FIRST_TIME + 2_500), 3),
            (StartFrom::Timestamp(FIRST_TIME + 60_000), 10),
            (StartFrom::Offsets { offsets: at(7), or: OffsetReset::Fail }, 7),
            (StartFrom::Offsets { offsets: at(70), or: OffsetReset::Earliest }, 0),
        ];
        for (start, first) in starts {
            let what = format!("{}: {start:?}", stage.env.describe());
            let source = stage.source().group_id(group().await).start(start).bounded(StopAt::Latest);
            let seen = all_of(&stage.env, source).await;
            let offsets: Vec<_> = seen.iter().map(|(_, _, offset, _)| *offset).collect();
            assert_eq!(offsets, (first..10).collect::<Vec<_>>(), "{what}");
        }
        let stops = [
            (StopAt::Latest, 10),
            (StopAt::Committed, 4),
            (StopAt::Timestamp(FIRST_TIME + 8_000), 8),
            (StopAt::Timestamp(FIRST_TIME + 60_000), 10),
            (StopAt::Offsets(at(6)), 6),
        ];
        for (stop, end) in stops {
            let what = format!("{}: {stop:?}", stage.env.describe());
            let source = stage.source().group_id(group().await).start(StartFrom::Earliest).bounded(stop);
            let seen = all_of(&stage.env, source).await;
            let offsets: Vec<_> = seen.iter().map(|(_, _, offset, _)| *offset).collect();
            assert_eq!(offsets, (0..end).collect::<Vec<_>>(), "{what}");
        }
    }
}

// scenario: 5.4.35, 5.4.39, 5.1.24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_its_offset_follows_the_reset_rule() {
    for stage in Stage::each(1).await {
        ten(&stage).await;
        for (or, expected) in
            [(OffsetReset::Earliest, Some(10)), (OffsetReset::Latest, Some(0)), (OffsetReset::Fail, None)]
        {
            let source = stage
                .source()
                .group_id(stage.env.name("fresh"))
                .start(StartFrom::Committed { or })
                .bounded(StopAt::Latest);
            let dir = tempfile::tempdir().unwrap();
            let (job, seen) = noting(&stage.env, source.build().unwrap());
            let ended = run(job, job_config(dir.path(), 1, INTERVAL), JobControl::new()).await;
            match expected {
                Some(count) => {
                    ended.unwrap();
                    assert_eq!(seen.lock().unwrap().len(), count, "{}: {or:?}", stage.env.describe());
                }
                None => {
                    let error = ended.unwrap_err();
                    assert!(error.to_string().contains(&stage.input), "{error}");
                }
            }
        }
    }
}

// scenario: D34, 5.2.31, 5.4.24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_partitions_and_new_topics_are_read_from_their_start() {
    for env in Env::each().await {
        let client = env.client().await;
        let base = env.name("found");
        let (one, two, other) = (format!("{base}-a"), format!("{base}-b"), format!("x-{base}-c"));
        milena_tests::create_topic(&client, &one, 1).await;
        milena_tests::create_topic(&client, &other, 1).await;
        write_values(&client, &one, 0, &["old"]).await;
        write_values(&client, &other, 0, &["not ours"]).await;
        // Partitions found later start at their first offset, whatever the start mode.
        let source = KafkaSource::builder()
            .client(env.config())
            .topic_pattern(&format!("{base}-.*"))
            .group_id(env.name("group"))
            .start(StartFrom::Latest)
            .discovery_interval(Some(Duration::from_millis(300)))
            .deserializer(milena_connector::schema::RecordDeserializer::new())
            .build()
            .unwrap();
        let (job, seen) = noting(&env, source);
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 2, INTERVAL));
        running.until("the first partition", |metrics| metrics.checkpoints > 0).await;
        write_values(&client, &one, 0, &["first"]).await;
        running.until("the first record", |metrics| metrics.records_in == 1).await;

        client.admin().add_partitions(&one, 3).await.unwrap();
        eventually(
            env.describe(),
            || async {
                let cluster = client.metadata(Some(&[&one])).await.unwrap();
                cluster.topic(&one).map_or(0, |topic| topic.partition_count())
            },
            3,
        )
        .await;
        write_values(&client, &one, 2, &["second"]).await;
        milena_tests::create_topic(&client, &two, 2).await;
        write_values(&client, &two, 1, &["third"]).await;
        running.until("all records", |metrics| metrics.records_in == 3).await;
        running.stop().await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort();
        let expected = [(&one, 0, 1, "first"), (&one, 2, 0, "second"), (&two, 1, 0, "third")];
        let expected = expected
            .map(|(topic, partition, offset, value)| (topic.clone(), partition, offset, value.to_owned()));
        assert_eq!(seen, expected, "{}", env.describe());
    }
}

/// A stop offset that is a commit marker's, or behind aborted records, is reached though no record is there.
// scenario: 5.4.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_source_ends_behind_control_records() {
    for stage in Stage::each(2).await {
        let what = stage.env.describe();
        let mut producer =
            TransactionalProducer::new(&stage.client, TransactionConfig::new(stage.env.name("tx"))).unwrap();
        producer.init().await.unwrap();
        for (value, commit) in [("kept", true), ("gone", false)] {
            producer.begin().await.unwrap();
            for partition in 0..2 {
                if partition == 0 || commit {
                    let record = ProducerRecord::to(&stage.input).partition(partition).value(value);
                    drop(producer.send(record).await.unwrap());
                }
            }
            producer.flush().await.unwrap();
            if commit { producer.commit().await.unwrap() } else { producer.abort().await.unwrap() }
        }
        for (partition, end) in [(0, 4), (1, 2)] {
            let tp = TopicPartition::new(stage.input.as_str(), partition);
            let look = || offset(&stage.client, &tp, OffsetSpec::Latest, Isolation::ReadCommitted);
            eventually(what, look, Some(end)).await;
        }
        let source = || stage.source().isolation(Isolation::ReadCommitted);
        let seen = all_of(&stage.env, source().bounded(StopAt::Latest)).await;
        assert_eq!(seen.len(), 2, "{what}: {seen:?}");
        assert!(seen.iter().all(|(_, _, offset, value)| *offset == 0 && value == "kept"), "{what}: {seen:?}");
        // Stops on a marker, on an aborted record, and on the marker behind it.
        for stop in 1..=4 {
            let stops = BTreeMap::from([
                (TopicPartition::new(stage.input.as_str(), 0), Offset(stop)),
                (TopicPartition::new(stage.input.as_str(), 1), Offset(1)),
            ]);
            let seen = all_of(&stage.env, source().bounded(StopAt::Offsets(stops))).await;
            assert_eq!(seen.len(), 2, "{what}, stop {stop}: {seen:?}");
        }
    }
}

// scenario: 5.1.19, 5.2.4, D45
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_committed_with_checkpoints_and_the_lag_becomes_zero() {
    for stage in Stage::each(3).await {
        stage.produce(0..200).await;
        let (job, seen) = noting(&stage.env, stage.source().build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 2, INTERVAL));
        running.until("all records", |metrics| metrics.records_in == 200).await;
        let zero: BTreeMap<i32, i64> = (0..3).map(|partition| (partition, 0)).collect();
        eventually(stage.env.describe(), || stage.lag(), zero.clone()).await;
        stage.produce(200..300).await;
        running.until("the others", |metrics| metrics.records_in == 300).await;
        running.stop().await.unwrap();
        assert_eq!(stage.lag().await, zero, "{}: the stop commits the last offsets", stage.env.describe());
        assert_eq!(seen.lock().unwrap().len(), 300);

        // Without the checkpoint, the group's offsets are where another job goes on.
        stage.produce(300..310).await;
        let source = stage.source().start(StartFrom::Committed { or: OffsetReset::Fail });
        let rest = all_of(&stage.env, source.bounded(StopAt::Latest)).await;
        assert_eq!(rest.len(), 10, "{}", stage.env.describe());
    }
}

// scenario: 5.4.6, D30
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watermark_is_that_of_the_slowest_partition_and_idle_ones_do_not_hold_it() {
    for stage in Stage::each(2).await {
        // Partition 0 reaches record 100's time, partition 1 that of record 50.
        let values: Vec<_> = (0..=100).map(|number: u64| (number.to_string(), time(number))).collect();
        for (partition, last) in [(0, 100), (1, 50)] {
            let records = values.iter().take(last + 1).map(|(value, time)| {
                ProducerRecord::to(&stage.input).partition(partition).value(value).timestamp(*time)
            });
            write(&stage.client, ProducerConfig::default(), records).await;
        }
        let disorder = Duration::from_millis(30);
        let strategy = || WatermarkStrategy::bounded_out_of_orderness(disorder);
        let (job, _) = noting(&stage.env, stage.source().watermarks(strategy()).build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 2, INTERVAL));
        // Flink's rule: the largest time less the disorder less one millisecond.
        let slowest = time(50) - 30 - 1;
        running.until("the slowest", |metrics| metrics.watermark == Some(slowest)).await;
        running.stop().await.unwrap();

        let idle = strategy().with_idleness(Duration::from_millis(500));
        let source = stage.source().group_id(stage.env.name("idle")).watermarks(idle);
        let (job, _) = noting(&stage.env, source.build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 1, INTERVAL));
        running.until("all records", |metrics| metrics.records_in == 152).await;
        let later = ProducerRecord::to(&stage.input).partition(0).value("x").timestamp(time(1000));
        tokio::time::sleep(Duration::from_millis(700)).await;
        write(&stage.client, ProducerConfig::default(), [later]).await;
        let fastest = time(1000) - 30 - 1;
        running.until("the fastest", |metrics| metrics.watermark == Some(fastest)).await;
        running.stop().await.unwrap();
    }
}
