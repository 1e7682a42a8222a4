//! What a source does when records, topics or offsets are not what they were: on the embedded and on a real broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::protocol::StrBytes;
use milena::protocol::messages::TopicName;
use milena::protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use milena::{CommittedOffset, Isolation, Offset, Target, TopicPartition};
use milena_connector::ErrorKind;
use milena_connector::checkpoint::import::{
    ImportedSource, ImportedSplit, ImportedStart, ImportedStop, LatestMarker,
};
use milena_connector::checkpoint::{CheckpointStore, StateDocument, inspect};
use milena_connector::runtime::{Job, JobControl};
use milena_connector::schema::{Emit, OnRecordError, SinkRecord, SourceRecord, from_fn, serialize_with};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::dead_letter::{OFFSET_HEADER, TOPIC_HEADER};
use milena_connector::source::{
    CommitMode, Discovery, KafkaSource, KafkaSourceBuilder, OnOutOfRange, RecreatedTopic, RemovedAction,
    RemovedPartition, SourceMetrics, StopAt,
};
use milena_tests::jobs::{Running, Stage, job_config, run};
use milena_tests::records::{eventually, read, within, write_values};

const INTERVAL: Duration = Duration::from_millis(200);

type Seen = Arc<Mutex<Vec<String>>>;

/// A source of texts that refuses "bad".
fn texts(stage: &Stage) -> KafkaSourceBuilder<String> {
    texts_of(stage, &[&stage.input])
}

fn texts_of(stage: &Stage, topics: &[&str]) -> KafkaSourceBuilder<String> {
    let parse = from_fn(|record: &SourceRecord<'_>| {
        let text = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        if text == "bad" { Err("it is bad".into()) } else { Ok(Some(text)) }
    });
    KafkaSource::builder()
        .client(stage.env.config())
        .topics(topics)
        .group_id(&stage.group)
        .deserializer(parse)
}

/// A job that only notes what it reads.
fn noting(stage: &Stage, source: KafkaSourceBuilder<String>) -> (Job, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let sink = KafkaSink::builder()
        .client(stage.env.config())
        .delivery(Delivery::None)
        .serializer(serialize_with(|_: &String, _: i64, _: &mut SinkRecord| Ok(Emit::Skip)))
        .build()
        .unwrap();
    let job = Job::from_source(source.build().unwrap())
        .map(move |text: String| {
            noted.lock().unwrap().push(text.clone());
            text
        })
        .to(sink);
    (job, seen)
}

fn sorted(seen: &Seen) -> Vec<String> {
    let mut all = seen.lock().unwrap().clone();
    all.sort();
    all
}

/// C27: what a schema refuses is found elsewhere, with its place.
// scenario: D49, 5.2.22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_records_are_found_in_the_dead_letter_topic() {
    for stage in Stage::each(1).await {
        write_values(&stage.client, &stage.input, 0, &["a", "bad", "b", "bad"]).await;
        let source = texts(&stage).bounded(StopAt::Latest);
        let source = source.on_record_error(OnRecordError::dead_letter(stage.output.as_str()));
        let (job, seen) = noting(&stage, source);
        let dir = tempfile::tempdir().unwrap();
        let report = run(job, job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap();
        assert_eq!(sorted(&seen), ["a", "b"], "{}", stage.env.describe());
        assert_eq!(report.source.dead_letters, 2);
        let dead = TopicPartition::new(stage.output.as_str(), 0);
        let letters = read(&stage.client, &dead, Isolation::ReadCommitted).await;
        let header = |at: usize, name: &str| {
            let found = letters[at].headers.iter().find(|(header, _)| *header == name);
            String::from_utf8(found.unwrap().1.as_deref().unwrap().to_vec()).unwrap()
        };
        assert_eq!(letters.len(), 2);
        assert_eq!((header(0, OFFSET_HEADER), header(1, OFFSET_HEADER)), ("1".to_owned(), "3".to_owned()));
        assert_eq!(header(0, TOPIC_HEADER), stage.input);
    }
}

/// C8: a topic that is deleted while it is read ends the job, is left out or is waited for, as chosen, once three discoveries agree.
// scenario: D36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_follows_the_policy() {
    for action in [RemovedAction::Fail, RemovedAction::Drop, RemovedAction::Wait] {
        for stage in Stage::each(1).await {
            let what = format!("{}: {action:?}", stage.env.describe());
            let other = stage.env.topic("other", 1).await;
            write_values(&stage.client, &stage.input, 0, &["1", "2"]).await;
            write_values(&stage.client, &other, 0, &["3"]).await;
            let source = texts_of(&stage, &[&stage.input, &other])
                .discovery(Discovery::Every(INTERVAL))
                .removed_partitions(RemovedPartition { action, ..RemovedPartition::default() });
            let (job, seen) = noting(&stage, source);
            let dir = tempfile::tempdir().unwrap();
            let running = Running::start(job, job_config(dir.path(), 1, INTERVAL));
            running.until(&what, |metrics| metrics.records_in == 3).await;
            stage.client.admin().delete_topics(&[&other]).await.unwrap();
            if action == RemovedAction::Fail {
                let error = within(&what, running.ended()).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Topic, "{what}: {error}");
                assert_eq!(error.topic_partition().map(|at| &*at.topic), Some(other.as_str()), "{what}");
                continue;
            }
            running
                .until(&what, |metrics| {
                    let SourceMetrics { dropped_partitions, waited_for_partitions, .. } = metrics.source;
                    let counts = (dropped_partitions, waited_for_partitions);
                    counts == if action == RemovedAction::Drop { (1, 0) } else { (0, 1) }
                })
                .await;
            write_values(&stage.client, &stage.input, 0, &["4"]).await;
            running.until(&what, |metrics| metrics.records_in == 4).await;
            running.stop().await.unwrap();
            assert_eq!(sorted(&seen), ["1", "2", "3", "4"], "{what}");
        }
    }
}

/// C9, C8: the new topic is noticed though its log is longer, and followed from its start only where that is chosen.
// scenario: 5.8.1, D40, 5.4.48
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_is_noticed_and_started_over_where_chosen() {
    for policy in [RecreatedTopic::Fail, RecreatedTopic::StartOver] {
        for stage in Stage::each(1).await {
            let what = format!("{}: {policy:?}", stage.env.describe());
            write_values(&stage.client, &stage.input, 0, &["1", "2"]).await;
            let (job, seen) = noting(&stage, texts(&stage).recreated_topics(policy));
            let dir = tempfile::tempdir().unwrap();
            let running = Running::start(job, job_config(dir.path(), 1, INTERVAL));
            running.until("the old topic", |metrics| metrics.records_in == 2).await;
            stage.client.admin().delete_topics(&[&stage.input]).await.unwrap();
            milena_tests::create_topic(&stage.client, &stage.input, 1).await;
            write_values(&stage.client, &stage.input, 0, &["3", "4", "5"]).await;
            if policy == RecreatedTopic::StartOver {
                running.until(&what, |metrics| metrics.records_in == 5).await;
                let report = running.stop().await.unwrap();
                assert_eq!(sorted(&seen), ["1", "2", "3", "4", "5"], "{what}");
                assert_eq!(report.source.recreated, 1, "{what}");
                continue;
            }
            let error = within(&what, running.ended()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Topic, "{what}: {error}");
            assert_eq!(sorted(&seen), ["1", "2"], "{what}");
        }
    }
}

/// C10: a restored position that retention has deleted is never moved in silence.
// scenario: 5.8.2, 5.1.27, D39
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_position_that_retention_deleted_follows_the_policy() {
    for policy in [OnOutOfRange::Fail, OnOutOfRange::Earliest, OnOutOfRange::Latest] {
        for stage in Stage::each(1).await {
            let what = format!("{}: {policy:?}", stage.env.describe());
            write_values(&stage.client, &stage.input, 0, &["0"]).await;
            let dir = tempfile::tempdir().unwrap();
            let (job, _) = noting(&stage, texts(&stage).bounded(StopAt::Latest));
            run(job, job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap();
            write_values(&stage.client, &stage.input, 0, &["1", "2", "3"]).await;
            delete_before(&stage, 3).await;
            let (job, seen) = noting(&stage, texts(&stage).on_out_of_range(policy).bounded(StopAt::Latest));
            let ended = run(job, job_config(dir.path(), 1, INTERVAL), JobControl::new()).await;
            match policy {
                OnOutOfRange::Fail => {
                    let error = ended.unwrap_err();
                    assert_eq!(
                        (error.kind(), error.offset()),
                        (ErrorKind::DataLoss, Some(Offset(1))),
                        "{what}"
                    );
                }
                OnOutOfRange::Earliest => {
                    let report = ended.unwrap();
                    assert_eq!(sorted(&seen), ["3"], "{what}");
                    assert_eq!((report.source.resets, report.source.lost_offsets), (1, 2), "{what}");
                }
                OnOutOfRange::Latest => {
                    let report = ended.unwrap();
                    assert_eq!(sorted(&seen), [""; 0], "{what}");
                    assert_eq!((report.source.resets, report.source.lost_offsets), (1, 3), "{what}");
                }
            }
        }
    }
}

/// Deletes the records before an offset, as retention would.
async fn delete_before(stage: &Stage, offset: i64) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_string(stage.input.clone())))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    // A single broker leads everything.
    let broker = stage.client.cluster().brokers().next().map(|broker| broker.id).unwrap();
    stage.client.call(Target::Broker(broker), &request).await.unwrap();
}

// scenario: 5.1.25, 5.2.5, 5.1.20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_committed_by_the_clock_without_any_checkpoint() {
    for stage in Stage::each(2).await {
        stage.produce(0..50).await;
        let every = CommitMode::Periodic(Duration::from_millis(300));
        let (job, _) = noting(&stage, texts(&stage).commit_mode(every));
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(job, job_config(dir.path(), 1, Duration::from_secs(600)));
        running.until("all records", |metrics| metrics.records_in == 50).await;
        let zero = (0..2).map(|partition| (partition, 0)).collect();
        eventually(stage.env.describe(), || stage.lag(), zero).await;
        running.stop().await.unwrap();
    }
}

/// A state of Flink's with an offset, a mark for the group's offset and one for the start: each partition goes on from there, and the
/// checkpoint after it has numbers.
// scenario: 5.4.18, 5.4.25, 5.2.20, 5.4.44
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_from_an_imported_state() {
    for stage in Stage::each(4).await {
        for partition in 0..4 {
            let values: Vec<String> = (0..5).map(|number| format!("{partition}.{number}")).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            write_values(&stage.client, &stage.input, partition, &values).await;
        }
        let at = |partition| TopicPartition::new(stage.input.as_str(), partition);
        stage.client.group(&stage.group).commit(&[(at(1), CommittedOffset::from(Offset(4)))]).await.unwrap();
        let split = |partition, start| ImportedSplit {
            topic_partition: at(partition),
            start,
            stop: ImportedStop::Never,
        };
        let imported = ImportedSource {
            splits: vec![
                split(0, ImportedStart::At(Offset(3))),
                split(1, ImportedStart::Committed),
                split(2, ImportedStart::Earliest),
            ],
            initial_discovery_finished: true,
        };
        let mut state = StateDocument::parse("{\"job\": \"test\"}").unwrap().into_state().unwrap();
        let mut enumerator = milena_connector::checkpoint::state::Encoder::new();
        imported.into_state(LatestMarker::Refuse).unwrap().encode(&mut enumerator);
        state.enumerator = enumerator.finish();
        let dir = tempfile::tempdir().unwrap();
        CheckpointStore::open(dir.path(), 3, "test").unwrap().write(1, &state.encode()).unwrap();

        let (job, seen) = noting(&stage, texts(&stage).bounded(StopAt::Latest));
        run(job, job_config(dir.path(), 2, INTERVAL), JobControl::new()).await.unwrap();
        let mut expected = vec!["0.3", "0.4", "1.4"];
        let rest: Vec<String> =
            [2, 3].iter().flat_map(|p| (0..5).map(move |number| format!("{p}.{number}"))).collect();
        expected.extend(rest.iter().map(String::as_str));
        assert_eq!(sorted(&seen), expected, "{}", stage.env.describe());
        let document = StateDocument::of(&inspect(dir.path(), None).unwrap()).unwrap();
        assert!(document.splits.iter().all(|split| split.offset == Some(5)), "{document:?}");
    }
}
