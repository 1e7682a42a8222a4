//! A reader on a broker with troubles: lost answers, leaders that move, logs that lose records, topics created again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod source_stage;

use std::time::Duration;

use milena::{ErrorCode, Offset};
use milena_connector::ErrorKind;
use milena_connector::progress::WatermarkStrategy;
use milena_connector::schema::{OnRecordError, SourceRecord, from_fn};
use milena_connector::source::builder::FetchSettings;
use milena_connector::source::{OnOutOfRange, ReaderEvent, RecreatedTopic, SourceReader};
use milena_testkit::broker::Fault;
use milena_testkit::damage::wrapper_of_a_damaged_message;

use source_stage::{Dice, Seen, Stage, TOPIC, drain, error, next, random_log, read, split, until_end};

const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const OFFSET_COMMIT: i16 = 8;

async fn log(batches: i64) -> Stage {
    let stage = Stage::new(1).await;
    for batch in 0..batches {
        stage.write(0, batch * 10..batch * 10 + 10).await;
    }
    stage
}

fn small() -> FetchSettings {
    FetchSettings { partition_max_bytes: 200, ..FetchSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_leader_errors_lose_and_double_nothing() {
    let faults = [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Silence,
        Fault::Delay(Duration::from_secs(2)),
        Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        Fault::Error(ErrorCode::FENCED_LEADER_EPOCH),
        Fault::Error(ErrorCode::UNKNOWN_LEADER_EPOCH),
        Fault::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        Fault::Error(ErrorCode::UNKNOWN_TOPIC_ID),
        Fault::Error(ErrorCode::KAFKA_STORAGE_ERROR),
        Fault::Error(ErrorCode::OFFSET_NOT_AVAILABLE),
        Fault::Error(ErrorCode::UNKNOWN_SERVER_ERROR),
    ];
    for fault in faults {
        let stage = log(6).await;
        stage.broker.faults().on_after(1, FETCH, fault, 3);
        let mut reader = stage.reader_of(stage.builder().fetch(small()), vec![split(0, 0, Some(60))]);
        assert_eq!(drain(&mut reader).await.of(0), (0..60).collect::<Vec<_>>(), "{fault:?}");
        assert_eq!(stage.broker.faults().unused(), [], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_a_leader_says_so_and_goes_on_when_there_is_one() {
    let stage = log(1).await;
    stage.broker.with_broker(|broker| broker.set_leaderless(TOPIC, 0, true));
    let mut reader = stage.reader(vec![split(0, 0, Some(10))]);
    reader.no_more_splits();
    assert!(tokio::time::timeout(Duration::from_secs(20), reader.next()).await.is_err());
    let waits_for = reader.metrics().splits[0].waits_for.clone();
    assert!(waits_for.is_some(), "a split that is not fetched says why");
    stage.broker.with_broker(|broker| broker.set_leaderless(TOPIC, 0, false));
    assert_eq!(drain(&mut reader).await.of(0), (0..10).collect::<Vec<_>>());
}

/// A broker that is away makes nothing idle and ends nothing.
// scenario: 5.8.17
#[tokio::test(start_paused = true)]
async fn a_restarted_broker_is_found_again() {
    let stage = log(6).await;
    let mut reader = stage.reader_of(stage.builder().fetch(small()), vec![split(0, 0, Some(60))]);
    let mut seen = Seen::default();
    reader.no_more_splits();
    loop {
        stage.broker.restart();
        match next(&mut reader).await.unwrap() {
            ReaderEvent::Finished => break,
            event => seen.take(&event),
        }
    }
    assert_eq!(seen.of(0), (0..60).collect::<Vec<_>>());
}

/// C10: what retention took is never skipped in silence.
// scenario: 5.1.27, 5.8.2
#[tokio::test(start_paused = true)]
async fn records_deleted_before_they_were_read_follow_the_policy() {
    for policy in [OnOutOfRange::Fail, OnOutOfRange::Earliest, OnOutOfRange::Latest] {
        let stage = log(6).await;
        stage.broker.with_broker(|broker| broker.lose_before(TOPIC, 0, 30));
        let mut reader =
            stage.reader_of(stage.builder().on_out_of_range(policy), vec![split(0, 5, Some(65))]);
        let mut seen = Seen::default();
        if policy == OnOutOfRange::Fail {
            for _ in 0..2 {
                let error = error(&mut reader, &mut seen).await;
                assert_eq!((error.kind(), error.offset()), (ErrorKind::DataLoss, Some(Offset(5))));
                assert!(error.to_string().contains("30 to 60"), "{error}");
                assert_eq!(reader.snapshot(1)[0].next_offset, Offset(5), "an error moves nothing");
            }
            assert_eq!(seen.len(), 0);
            continue;
        }
        stage.write(0, 60..65).await;
        let from = if policy == OnOutOfRange::Earliest { 30 } else { 65 };
        assert_eq!(drain(&mut reader).await.of(0), (from..65).collect::<Vec<_>>(), "{policy:?}");
        assert_eq!(reader.metrics().resets, 1);
    }
}

/// What was fetched before retention came is still handed out: it is not lost.
#[tokio::test(start_paused = true)]
async fn records_that_are_fetched_survive_a_reset_of_their_position() {
    for policy in [OnOutOfRange::Fail, OnOutOfRange::Earliest] {
        let stage = log(20).await;
        let builder = stage
            .builder()
            .fetch(FetchSettings { partition_max_bytes: 700, ..FetchSettings::default() })
            .on_out_of_range(policy);
        let mut reader = stage.reader_of(builder, vec![split(0, 0, Some(200))]);
        let mut seen = Seen::default();
        while seen.len() == 0 {
            seen.take(&next(&mut reader).await.unwrap());
        }
        stage.broker.with_broker(|broker| broker.lose_before(TOPIC, 0, 190));
        reader.no_more_splits();
        let error = loop {
            // The refusal of the next fetch comes while there is something to be handed out.
            tokio::time::sleep(Duration::from_millis(10)).await;
            match next(&mut reader).await {
                Ok(ReaderEvent::Finished) => break None,
                Ok(event) => seen.take(&event),
                Err(error) => break Some(error),
            }
        };
        let fetched: Vec<i64> = (0..40).collect();
        match (policy, error) {
            (OnOutOfRange::Fail, Some(error)) => {
                assert_eq!((error.kind(), error.offset()), (ErrorKind::DataLoss, Some(Offset(40))));
                assert_eq!(seen.of(0), fetched);
            }
            (OnOutOfRange::Earliest, None) => {
                assert_eq!(seen.of(0), fetched.into_iter().chain(190..200).collect::<Vec<_>>());
            }
            (policy, error) => panic!("{policy:?}: {error:?}"),
        }
    }
}

/// C11, KIP-320: a log that lost its tail and grew again holds other records at the same offsets.
// scenario: 5.8.3
#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_tail_is_noticed_though_it_grew_again() {
    let stage = log(3).await;
    let mut reader = stage.reader(vec![split(0, 0, None)]);
    read(&mut reader, 30).await;
    let position = reader.snapshot(1);
    drop(reader);
    stage.broker.with_broker(|broker| broker.truncate(TOPIC, 0, 20));
    stage.write(0, 100..140).await;
    let mut reader = stage.reader(position);
    let mut seen = Seen::default();
    let error = error(&mut reader, &mut seen).await;
    assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
    assert_eq!(seen.len(), 0, "{seen:?}");
}

/// The same under a policy that goes on: from where the logs part, so nothing that is there is skipped.
#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_tail_follows_the_policy() {
    let stage = log(3).await;
    let mut reader = stage.reader(vec![split(0, 0, None)]);
    read(&mut reader, 30).await;
    let position = reader.snapshot(1);
    stage.broker.with_broker(|broker| broker.truncate(TOPIC, 0, 20));
    let mut reader = stage.reader_of(stage.builder().on_out_of_range(OnOutOfRange::Latest), position);
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            assert!(!matches!(reader.next().await.unwrap(), ReaderEvent::Records(_)));
        }
    });
    assert!(waited.await.is_err());
    stage.write(0, 100..103).await;
    assert_eq!(read(&mut reader, 3).await.of(0), [100, 101, 102]);
    assert!(reader.metrics().resets >= 1);
}

/// Reads for so long. The times of elements that came behind the watermark.
async fn late(reader: &mut SourceReader<String>, watermark: &mut i64, seconds: u64) -> Vec<i64> {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut late = Vec::new();
    while let Ok(event) = tokio::time::timeout_at(give_up, reader.next()).await {
        match event.unwrap() {
            ReaderEvent::Watermark(at) => *watermark = at,
            ReaderEvent::Records(batch) => {
                let times = batch.elements.iter().map(|element| element.timestamp);
                late.extend(times.filter(|time| time <= watermark));
            }
            _ => {}
        }
    }
    late
}

/// A watermark that was given on is not taken back. But where a partition goes back, it holds the next one: what is read again is in time.
#[tokio::test(start_paused = true)]
async fn records_read_again_are_not_late_by_the_times_of_those_they_replace() {
    const NONE: [i64; 0] = [];
    for recreated in [false, true] {
        let stage = Stage::new(2).await;
        stage.write(0, 0..30).await;
        stage.write(1, [12]).await;
        let builder = stage
            .builder()
            .watermarks(WatermarkStrategy::monotonous().with_caught_up_idleness(None))
            .on_out_of_range(OnOutOfRange::Earliest)
            .recreated_topics(RecreatedTopic::StartOver);
        let mut reader = stage.reader_of(builder, vec![split(0, 0, None), split(1, 0, None)]);
        let mut watermark = i64::MIN;
        assert_eq!(late(&mut reader, &mut watermark, 5).await, NONE);
        assert_eq!(watermark, 11);
        stage.broker.with_broker(|broker| match recreated {
            true => broker.recreate_topic(TOPIC, 2),
            false => broker.truncate(TOPIC, 0, 20),
        });
        stage.write(1, [40]).await;
        assert_eq!(late(&mut reader, &mut watermark, 60).await, NONE);
        let metrics = reader.metrics();
        assert_eq!((metrics.truncations, metrics.recreated), if recreated { (0, 2) } else { (1, 0) });
        assert_eq!(watermark, 11, "recreated: {recreated}; nobody knows how far partition 0 is");
        assert_eq!(reader.snapshot(1)[0].max_timestamp, None);
        stage.write(0, 20..27).await;
        assert_eq!(late(&mut reader, &mut watermark, 5).await, NONE, "recreated: {recreated}");
        assert_eq!(watermark, 25);
    }
}

/// C9: a topic under its old name is another topic.
// scenario: D40, 5.4.48, 5.8.1
#[tokio::test(start_paused = true)]
async fn a_topic_created_again_while_it_is_read_is_an_error() {
    let stage = log(2).await;
    let mut reader = stage.reader(vec![split(0, 0, None)]);
    let mut seen = read(&mut reader, 20).await;
    stage.broker.with_broker(|broker| broker.recreate_topic(TOPIC, 1));
    stage.write(0, 100..150).await;
    let error = error(&mut reader, &mut seen).await;
    assert_eq!(error.kind(), ErrorKind::Topic, "{error}");
    assert_eq!(seen.of(0), (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_topic_created_again_is_read_on_when_that_is_chosen() {
    let stage = log(2).await;
    let builder = stage.builder().recreated_topics(RecreatedTopic::Ignore);
    let mut reader = stage.reader_of(builder, vec![split(0, 0, None)]);
    read(&mut reader, 20).await;
    stage.broker.with_broker(|broker| broker.recreate_topic(TOPIC, 1));
    stage.write(0, 100..150).await;
    assert_eq!(read(&mut reader, 30).await.of(0), (120..150).collect::<Vec<_>>());
}

/// C27: the position stays at the record, however often it is tried, unless it is to be left out.
#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_is_not_passed_over_by_calling_again() {
    let refuse = from_fn(|record: &SourceRecord<'_>| {
        if record.offset == Offset(7) {
            return Err("the seventh".into());
        }
        Ok(Some(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned()))
    });
    for policy in [OnRecordError::Fail, OnRecordError::Skip] {
        let stage = log(2).await;
        let builder = stage.builder().deserializer(refuse.clone()).on_record_error(policy.clone());
        let mut reader = stage.reader_of(builder, vec![split(0, 0, Some(20))]);
        if policy == OnRecordError::Skip {
            let seen = drain(&mut reader).await;
            assert_eq!(seen.of(0), (0..20).filter(|number| *number != 7).collect::<Vec<_>>());
            assert_eq!(reader.metrics().skipped_records, 1);
            continue;
        }
        let mut seen = Seen::default();
        for _ in 0..3 {
            let error = error(&mut reader, &mut seen).await;
            assert_eq!((error.kind(), error.offset()), (ErrorKind::Schema, Some(Offset(7))), "{error}");
            assert!(reader.snapshot(1)[0].next_offset <= Offset(7));
        }
        assert!(seen.len() <= 7, "{seen:?}");
    }
}

/// What no retry cures is told each time it is asked for, and cured when it is.
#[tokio::test(start_paused = true)]
async fn a_refused_fetch_fails_and_may_be_tried_again() {
    let stage = log(1).await;
    stage.broker.faults().on(FETCH, Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED), 2);
    let mut reader = stage.reader(vec![split(0, 0, Some(10))]);
    let mut seen = Seen::default();
    for _ in 0..2 {
        let error = error(&mut reader, &mut seen).await;
        let code = error.client().and_then(milena::Error::code);
        assert_eq!(code, Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED), "{error}");
    }
    assert_eq!(drain(&mut reader).await.of(0), (0..10).collect::<Vec<_>>());
}

/// The range can't be asked for a while: the split waits, and the policy comes later.
#[tokio::test(start_paused = true)]
async fn a_range_that_cannot_be_asked_is_asked_again() {
    let stage = log(6).await;
    stage.broker.with_broker(|broker| broker.lose_before(TOPIC, 0, 30));
    stage.broker.faults().on(LIST_OFFSETS, Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER), 5);
    let builder = stage.builder().on_out_of_range(OnOutOfRange::Earliest);
    let mut reader = stage.reader_of(builder, vec![split(0, 0, Some(60))]);
    assert_eq!(drain(&mut reader).await.of(0), (30..60).collect::<Vec<_>>());
    assert_eq!(stage.broker.faults().unused(), []);
}

/// C15: a commit that fails is tried again and never fails the reading.
// scenario: 5.2.42, 5.4.46
#[tokio::test(start_paused = true)]
async fn failed_commits_are_tried_again_while_reading_goes_on() {
    let stage = log(1).await;
    stage.broker.faults().on(OFFSET_COMMIT, Fault::Error(ErrorCode::GROUP_AUTHORIZATION_FAILED), 2);
    let mut reader = stage.reader_of(stage.builder().group_id("g"), vec![split(0, 0, None)]);
    read(&mut reader, 10).await;
    reader.snapshot(1);
    reader.notify_checkpoint_complete(1);
    stage.write(0, 10..12).await;
    assert_eq!(read(&mut reader, 2).await.of(0), [10, 11]);
    reader.settle_commits().await;
    assert_eq!(stage.broker.with_broker(|broker| broker.committed_offset("g", TOPIC, 0)), Some(10));
    let metrics = reader.metrics().commits;
    assert_eq!((metrics.succeeded, metrics.failed), (1, 2));
}

/// Whatever goes wrong on the way, and wherever the reader is dropped and restored: each record once, in order.
#[tokio::test(start_paused = true)]
async fn random_troubles_and_restores_lose_and_double_nothing() {
    let troubles = [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Silence,
        Fault::Delay(Duration::from_millis(700)),
        Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        Fault::Error(ErrorCode::OFFSET_OUT_OF_RANGE),
        Fault::Error(ErrorCode::UNKNOWN_TOPIC_ID),
        Fault::Error(ErrorCode::UNKNOWN_SERVER_ERROR),
    ];
    for seed in 0..40 {
        let mut dice = Dice::new(500 + seed);
        let stage = Stage::new(3).await;
        let expected = random_log(&stage, &mut dice).await;
        let mut splits = until_end(&stage);
        let mut seen = Seen::default();
        let fetch =
            FetchSettings { partition_max_bytes: 150, prefetch_bytes: 400, ..FetchSettings::default() };
        'runs: loop {
            let mut reader = stage.reader_of(stage.builder().fetch(fetch), splits);
            reader.no_more_splits();
            for _ in 0..=dice.roll(12) {
                match dice.roll(12) {
                    0 => stage.broker.restart(),
                    1 => {
                        stage.broker.with_broker(|broker| broker.bump_leader_epoch(TOPIC, 1));
                    }
                    2..6 => {
                        let fault = troubles[usize::try_from(dice.roll(8)).unwrap()];
                        let api =
                            [FETCH, FETCH, FETCH, LIST_OFFSETS, 3][usize::try_from(dice.roll(5)).unwrap()];
                        let fault = if api == FETCH { fault } else { Fault::DropAfter };
                        stage.broker.faults().on(api, fault, 1);
                    }
                    _ => {}
                }
                match next(&mut reader).await.unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
                    ReaderEvent::Finished => break 'runs,
                    event => seen.take(&event),
                }
            }
            splits = reader.snapshot(1);
        }
        assert_eq!(seen.0, expected, "seed {seed}");
    }
}

/// An error that comes while only commits are waited for is not swallowed: it is told when reading goes on.
// scenario: 5.2.40
#[tokio::test(start_paused = true)]
async fn an_error_that_came_between_two_reads_is_told_at_the_next() {
    let stage = log(1).await;
    let mut reader = stage.reader_of(stage.builder().group_id("g"), vec![split(0, 0, None)]);
    read(&mut reader, 10).await;
    stage.broker.faults().on(OFFSET_COMMIT, Fault::Delay(Duration::from_secs(2)), 1);
    stage.broker.faults().on_after(1, FETCH, Fault::Error(ErrorCode::TOPIC_AUTHORIZATION_FAILED), 1000);
    let _ = tokio::time::timeout(Duration::from_millis(300), reader.next()).await;
    reader.snapshot(1);
    reader.notify_checkpoint_complete(1);
    reader.settle_commits().await;
    assert_eq!(stage.broker.with_broker(|broker| broker.committed_offset("g", TOPIC, 0)), Some(10));
    let error = error(&mut reader, &mut Seen::default()).await;
    let code = error.client().and_then(milena::Error::code);
    assert_eq!(code, Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED), "{error}");
}

/// What a disk flipped, in a batch or inside of an old wrapper, ends the job: unless checksums were not wanted.
#[tokio::test(start_paused = true)]
async fn damage_is_told_with_its_offset_unless_checksums_are_switched_off() {
    let digits: Vec<String> = (10..20).map(|number| number.to_string()).collect();
    let digits: Vec<&[u8]> = digits.iter().map(String::as_bytes).collect();
    let wrapper = wrapper_of_a_damaged_message(Offset(19), &digits, 3).unwrap();
    for (old, reason) in [(false, "offset 10 is damaged"), (true, "message 3 of the set at offset 19")] {
        let stage = log(2).await;
        let mut damaged = stage
            .broker
            .with_broker(|broker| broker.log(TOPIC, 0).nth(1))
            .map(|batch| batch.bytes.to_vec())
            .unwrap();
        let digit = damaged.len() - 2;
        assert_eq!(damaged[digit], b'9');
        damaged[digit] ^= 1;
        let damaged = if old { wrapper.clone() } else { damaged.into() };
        assert!(stage.broker.with_broker(|broker| broker.replace_batch(TOPIC, 0, 10, damaged)));
        let reader = |check_crcs| {
            let fetch = FetchSettings { check_crcs, ..FetchSettings::default() };
            stage.reader_of(stage.builder().fetch(fetch), vec![split(0, 0, Some(20))])
        };
        let (mut strict, mut seen) = (reader(FetchSettings::default().check_crcs), Seen::default());
        let error = error(&mut strict, &mut seen).await;
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(seen.of(0), (0..10).collect::<Vec<_>>(), "what came before is handed out");
        assert_eq!(strict.snapshot(1)[0].next_offset, Offset(10), "an error moves nothing");
        let last = if old { 19 } else { 18 };
        let all: Vec<i64> = (0..19).chain([last]).collect();
        assert_eq!(drain(&mut reader(false)).await.of(0), all, "{reason}");
    }
}
