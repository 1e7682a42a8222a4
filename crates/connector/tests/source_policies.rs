//! Choices of a source: dead letters, alignment, commits by the clock, topics that start over, subscribers of the user's own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod source_stage;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::BoxFuture;
use milena::{Client, CommittedOffset, ErrorCode, Offset, TopicPartition};
use milena_connector::progress::{AlignmentGroup, WatermarkStrategy};
use milena_connector::schema::{
    FromFn, OnRecordError, OwnedKafkaRecord, RecordDeserializer, SourceRecord, from_fn,
};
use milena_connector::source::dead_letter::{ERROR_HEADER, OFFSET_HEADER, PARTITION_HEADER, TOPIC_HEADER};
use milena_connector::source::{
    CommitMode, KafkaSource, ReaderEvent, RecreatedTopic, SourceReader, Subscriber, Subscription,
    run_discovery,
};
use milena_connector::{BoxError, ErrorKind};
use milena_testkit::broker::{BrokerConfig, Fault};

use source_stage::{Seen, Stage, TOPIC, drain, error, next, read, split, tp};

const PRODUCE: i16 = 0;
const DEAD: &str = "dead";

type Refuse = fn(&SourceRecord<'_>) -> Result<Option<String>, BoxError>;

/// Refuses the record with the number 7.
fn refuse_seven() -> FromFn<Refuse> {
    from_fn(|record: &SourceRecord<'_>| {
        let text = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        if text == "7" { Err("a seven".into()) } else { Ok(Some(text)) }
    })
}

async fn with_dead_letters() -> (Stage, SourceReader<String>) {
    let config = BrokerConfig::default().with_topic(TOPIC, 1).with_topic(DEAD, 1);
    let stage = Stage::with(config).await;
    stage.write(0, 0..10).await;
    stage.write(0, 10..20).await;
    let builder = stage.builder().deserializer(refuse_seven());
    let builder = builder.on_record_error(OnRecordError::dead_letter(DEAD));
    let reader = stage.reader_of(builder, vec![split(0, 0, Some(20))]);
    (stage, reader)
}

/// All that is in the dead-letter topic.
async fn dead(stage: &Stage) -> Vec<OwnedKafkaRecord> {
    let end = stage.broker.with_broker(|broker| broker.offsets(DEAD, 0)).unwrap().2;
    let source = KafkaSource::builder()
        .client(stage.config.clone())
        .topics([DEAD])
        .deserializer(RecordDeserializer::new())
        .build()
        .unwrap();
    let mut reader = source.reader(&stage.client);
    let letters = milena_connector::source::Split::new(TopicPartition::new(DEAD, 0), Offset(0));
    reader.add_splits(vec![letters.with_stop(Some(Offset(end)))]).unwrap();
    reader.no_more_splits();
    let mut all = Vec::new();
    loop {
        match reader.next().await.unwrap() {
            ReaderEvent::Records(batch) => {
                all.extend(batch.elements.into_iter().map(|element| element.value));
            }
            ReaderEvent::Finished => return all,
            _ => {}
        }
    }
}

/// C27: the record is elsewhere, whole, with its place, and all others come through.
// scenario: D49, 5.2.22
#[tokio::test(start_paused = true)]
async fn a_refused_record_is_found_in_the_dead_letter_topic() {
    let (stage, mut reader) = with_dead_letters().await;
    let seen = drain(&mut reader).await;
    assert_eq!(seen.of(0), (0..20).filter(|number| *number != 7).collect::<Vec<_>>());
    let metrics = reader.metrics();
    assert_eq!((metrics.dead_letters, metrics.skipped_records), (1, 0));
    let letters = dead(&stage).await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.value.as_deref(), letter.timestamp), (Some(&b"7"[..]), 7));
    let header = |name: &str| {
        let found = letter.headers.iter().find(|(header, _)| *header == name).unwrap();
        String::from_utf8(found.1.as_ref().unwrap().to_vec()).unwrap()
    };
    let place = [TOPIC_HEADER, PARTITION_HEADER, OFFSET_HEADER, ERROR_HEADER].map(header);
    assert_eq!(place, [TOPIC, "0", "7", "a seven"]);
}

/// A letter that can't be written moves nothing: the error names the record, and asking again tries again.
// scenario: D49
#[tokio::test(start_paused = true)]
async fn a_record_is_not_passed_over_before_its_letter_is_written() {
    let (stage, mut reader) = with_dead_letters().await;
    stage.broker.faults().on(PRODUCE, Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED), 1);
    reader.no_more_splits();
    let mut seen = Seen::default();
    let refusal = error(&mut reader, &mut seen).await;
    assert_eq!((refusal.kind(), refusal.offset()), (ErrorKind::Schema, Some(Offset(7))), "{refusal}");
    assert!(refusal.to_string().contains("a seven") && refusal.to_string().contains(DEAD), "{refusal}");
    assert_eq!((seen.len(), reader.snapshot(1)[0].next_offset), (0, Offset(0)));
    let seen = drain(&mut reader).await;
    assert_eq!(seen.of(0), (0..20).filter(|number| *number != 7).collect::<Vec<_>>());
    assert_eq!(dead(&stage).await.len(), 1);
}

/// What is ahead waits, is not idle meanwhile, and goes on when the others have come up.
// scenario: D50, 5.4.41
#[tokio::test(start_paused = true)]
async fn partitions_ahead_of_their_group_wait_and_are_not_idle() {
    let stage = Stage::new(2).await;
    for start in [0, 1000, 2000] {
        stage.write(0, start..start + 10).await;
    }
    stage.write(1, 0..10).await;
    let group = AlignmentGroup::new();
    let marks = WatermarkStrategy::punctuated(|_: &String, timestamp| Some(timestamp))
        .with_idleness(Duration::from_secs(5))
        .with_caught_up_idleness(None);
    let source = |drift| {
        let fetch = milena_connector::source::builder::FetchSettings {
            partition_max_bytes: 200,
            ..Default::default()
        };
        stage.builder().watermarks(marks.clone()).fetch(fetch).alignment(&group, Duration::from_millis(drift))
    };
    // Two readers of one group: the second one has the slow partition, and reads nothing yet.
    let mut fast = stage.reader_of(source(100), vec![split(0, 0, Some(30))]);
    let mut slow = stage.reader_of(source(100), vec![split(1, 0, Some(20))]);
    let mut seen = read(&mut slow, 10).await;
    let mut ticks = 0;
    while ticks < 40 {
        match tokio::time::timeout(Duration::from_millis(500), fast.next()).await {
            Ok(event) => {
                let event = event.unwrap();
                assert!(!matches!(event, ReaderEvent::Idle), "a paused split is not idle");
                seen.take(&event);
            }
            Err(_) => ticks += 1,
        }
        // The slow reader is there, with nothing to read: it reports all the same, until it is idle itself.
        if ticks < 8 {
            let _ = tokio::time::timeout(Duration::from_millis(1), slow.next()).await;
        }
    }
    assert!(seen.of(0).contains(&1009) && !seen.of(0).contains(&2000), "{seen:?}");
    let split = &fast.metrics().splits[0];
    assert!(
        split.paused
            && !split.idle
            && split.waits_for.as_deref().is_some_and(|why| why.contains("alignment"))
    );
    stage.write(1, 1500..1510).await;
    read(&mut slow, 10).await;
    let rest = read(&mut fast, 10).await;
    assert_eq!(rest.of(0), (2000..2010).collect::<Vec<_>>());
    // A finished reader limits nobody.
    assert_eq!(drain(&mut slow).await.len(), 0);
    assert!(group.slowest().is_some_and(|slowest| slowest >= 1009), "{:?}", group.slowest());
    drop((fast, slow));
    assert_eq!(group.slowest(), None);
}

// scenario: 5.1.25, 5.2.5, 5.1.20
#[tokio::test(start_paused = true)]
async fn offsets_are_committed_by_the_clock_without_checkpoints() {
    let stage = Stage::new(2).await;
    stage.write(0, 0..5).await;
    let committed =
        |partition| stage.broker.with_broker(|broker| broker.committed_offset("g", TOPIC, partition));
    let builder = stage.builder().group_id("g").commit_mode(CommitMode::Periodic(Duration::from_secs(2)));
    let mut reader = stage.reader_of(builder, vec![split(0, 0, None), split(1, 0, None)]);
    read(&mut reader, 5).await;
    reader.snapshot(1);
    reader.notify_checkpoint_complete(1);
    assert_eq!(committed(0), None, "checkpoints commit nothing in this mode");
    let _ = tokio::time::timeout(Duration::from_secs(3), next(&mut reader)).await;
    assert_eq!((committed(0), committed(1)), (Some(5), Some(0)), "the end where nothing was read yet");
    stage.write(0, 5..8).await;
    read(&mut reader, 3).await;
    assert_eq!(committed(0), Some(5));
    reader.settle_commits().await;
    assert_eq!(committed(0), Some(8), "the last position is committed at the end");
}

/// C9: the new topic is read from its first record, though its log reaches beyond the old position.
// scenario: D40, 5.8.1
#[tokio::test(start_paused = true)]
async fn a_topic_created_again_starts_over_when_that_is_chosen() {
    let stage = Stage::new(1).await;
    stage.write(0, 0..20).await;
    let builder = stage.builder().recreated_topics(RecreatedTopic::StartOver);
    let mut reader = stage.reader_of(builder, vec![split(0, 0, None)]);
    read(&mut reader, 20).await;
    stage.broker.with_broker(|broker| broker.recreate_topic(TOPIC, 1));
    stage.write(0, 100..150).await;
    assert_eq!(read(&mut reader, 50).await.of(0), (100..150).collect::<Vec<_>>());
    let metrics = reader.metrics();
    assert_eq!((metrics.recreated, metrics.resets, metrics.lost_offsets), (1, 0, 0));
}

/// C20: two jobs with one group overwrite each other's offsets; the one that looks says so.
// scenario: D55
#[tokio::test(start_paused = true)]
async fn somebody_else_in_the_group_is_noticed() {
    let stage = Stage::new(1).await;
    let mut reader = stage.reader_of(stage.builder().group_id("g"), vec![split(0, 0, None)]);
    for number in 0..10 {
        stage.write(0, number..number + 1).await;
        read(&mut reader, 1).await;
        if number == 9 {
            let foreign = [(tp(0), CommittedOffset::from(Offset(1)))];
            stage.client.group("g").commit(&foreign).await.unwrap();
        }
        let checkpoint = u64::try_from(number).unwrap() + 1;
        reader.snapshot(checkpoint);
        reader.notify_checkpoint_complete(checkpoint);
        reader.settle_commits().await;
        assert_eq!(reader.metrics().foreign_commits, u64::from(number == 9), "at {number}");
    }
    let committed = stage.broker.with_broker(|broker| broker.committed_offset("g", TOPIC, 0));
    assert_eq!(committed, Some(10));
}

/// Everything that is left is counted, also where nothing was read yet.
// scenario: D47, 5.4.42, 5.4.46
#[tokio::test(start_paused = true)]
async fn lag_and_committed_offsets_are_told_for_each_partition() {
    let stage = Stage::new(2).await;
    for start in [0, 10, 20] {
        stage.write(0, start..start + 10).await;
    }
    let fetch =
        milena_connector::source::builder::FetchSettings { partition_max_bytes: 200, ..Default::default() };
    let builder = stage.builder().group_id("g").fetch(fetch);
    let mut reader = stage.reader_of(builder, vec![split(0, 0, None), split(1, 0, None)]);
    read(&mut reader, 10).await;
    let lag = |reader: &SourceReader<String>| {
        reader.metrics().splits.iter().map(milena_connector::source::SplitMetrics::lag).collect::<Vec<_>>()
    };
    assert_eq!(lag(&reader)[0], Some(20));
    assert!(reader.metrics().bytes > 0);
    read(&mut reader, 20).await;
    let logged: u64 =
        stage.broker.with_broker(|broker| broker.log(TOPIC, 0).map(|batch| batch.bytes.len() as u64).sum());
    // With the part of a batch that did not fit into an answer.
    assert!((logged..2 * logged).contains(&reader.metrics().bytes), "{logged}: {:?}", reader.metrics());
    reader.snapshot(1);
    reader.notify_checkpoint_complete(1);
    reader.settle_commits().await;
    let _ = tokio::time::timeout(Duration::from_secs(2), reader.next()).await;
    assert_eq!(lag(&reader), [Some(0), Some(0)], "the idle partition too");
    let metrics = reader.metrics();
    assert_eq!((metrics.pending_records(), metrics.splits[0].committed), (0, Some(Offset(30))));
}

/// A record that gives nothing moves the position and no watermark.
// scenario: 5.2.26, 5.2.22
#[tokio::test(start_paused = true)]
async fn a_skipped_record_changes_no_watermark() {
    let stage = Stage::new(1).await;
    stage.write(0, 0..10).await;
    let skip = from_fn(|record: &SourceRecord<'_>| {
        let text = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        Ok((text.len() == 1 && text.as_str() < "5").then_some(text))
    });
    let builder = stage.builder().deserializer(skip).watermarks(WatermarkStrategy::monotonous());
    let mut reader = stage.reader_of(builder, vec![split(0, 0, None)]);
    let mut watermark = None;
    let mut seen = Seen::default();
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(5), reader.next()).await {
        let event = event.unwrap();
        if let ReaderEvent::Watermark(at) = event {
            watermark = Some(at);
        }
        seen.take(&event);
    }
    assert_eq!((seen.len(), watermark), (5, Some(3)));
    assert_eq!(reader.snapshot(1)[0].next_offset, Offset(10));
}

// scenario: 5.2.3, 5.2.17
#[tokio::test(start_paused = true)]
async fn a_reader_that_read_nothing_has_what_it_was_given_and_a_schema_of_its_own() {
    let stage = Stage::new(1).await;
    let made = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = std::sync::Arc::clone(&made);
    let builder = stage.builder().deserializer_with(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::new(refuse_seven())
    });
    let source = builder.build().unwrap();
    let given = vec![split(0, 5, Some(9))];
    let mut readers = [source.reader(&stage.client), source.reader(&stage.client)];
    readers[0].add_splits(given.clone()).unwrap();
    assert_eq!((readers[0].snapshot(1), readers[1].snapshot(1)), (given, Vec::new()));
    assert_eq!(made.load(std::sync::atomic::Ordering::Relaxed), 2, "once for each reader");
}

#[derive(Debug)]
struct Chosen(Result<Vec<i32>, &'static str>);

impl Subscriber for Chosen {
    fn partitions<'a>(
        &'a self,
        _client: &'a Client,
    ) -> BoxFuture<'a, Result<BTreeSet<TopicPartition>, BoxError>> {
        let answer = self.0.clone();
        Box::pin(async move { Ok(answer.map_err(BoxError::from)?.into_iter().map(tp).collect()) })
    }
}

// scenario: 5.4.19, 5.4.36
#[tokio::test(start_paused = true)]
async fn a_subscriber_says_what_is_read() {
    let stage = Stage::new(3).await;
    let source = KafkaSource::<String>::builder()
        .client(stage.config.clone())
        .subscriber(Chosen(Ok(vec![0, 2])))
        .deserializer(refuse_seven())
        .build()
        .unwrap();
    let Subscription::Custom(_) = source.enumerator_config().subscription else { panic!("a subscriber") };
    let found = run_discovery(&stage.client, &source.enumerator_config().subscription).await.unwrap();
    let partitions: Vec<_> = found.partitions.iter().map(|it| it.topic_partition.partition.0).collect();
    assert_eq!((partitions, found.missing.len()), (vec![0, 2], 0));
    let ask = async |chosen| {
        run_discovery(&stage.client, &Subscription::Custom(std::sync::Arc::new(Chosen(chosen)))).await
    };
    assert_eq!(ask(Ok(vec![7])).await.unwrap().missing, ["partition t-7"]);
    assert_eq!(ask(Ok(Vec::new())).await.unwrap().partitions.len(), 0);
    assert_eq!(ask(Err("not now")).await.unwrap_err().kind(), ErrorKind::Client);
}
