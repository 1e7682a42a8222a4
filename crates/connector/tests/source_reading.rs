//! A reader on a broker that works: positions, transactions, stops, event time, memory, cancellation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod source_stage;

use std::collections::BTreeMap;
use std::time::Duration;

use milena::Offset;
use milena::protocol::types::Isolation;
use milena_connector::progress::WatermarkStrategy;
use milena_connector::source::ReaderEvent;
use milena_connector::source::builder::FetchSettings;

use source_stage::{Dice, End, Seen, Stage, drain, next, random_log, read, split, tp, until_end};

/// A punctuated watermark at every third number cuts batches into pieces.
fn marks() -> WatermarkStrategy<String> {
    WatermarkStrategy::punctuated(|_: &String, timestamp| (timestamp % 3 == 0).then_some(timestamp))
}

/// The promise of a snapshot: whatever was handed out before it never comes again, and everything else comes.
// scenario: 5.2.20
#[tokio::test(start_paused = true)]
async fn a_reader_restored_from_any_snapshot_goes_on_exactly_behind_it() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let stage = Stage::new(3).await;
        let expected = random_log(&stage, &mut dice).await;
        let small = FetchSettings { partition_max_bytes: 150, ..FetchSettings::default() };
        let builder = || stage.builder().watermarks(marks()).fetch(small);
        let mut splits = until_end(&stage);
        let mut seen = Seen::default();
        let mut ended = Vec::new();
        'runs: loop {
            let mut reader = stage.reader_of(builder(), splits);
            reader.no_more_splits();
            for _ in 0..=dice.roll(9) {
                match next(&mut reader).await.unwrap() {
                    ReaderEvent::Finished => break 'runs,
                    ReaderEvent::SplitFinished(split) => ended.push(split.topic_partition),
                    event => seen.take(&event),
                }
            }
            splits = reader.snapshot(1);
            for split in &splits {
                let handed_out = seen.of(split.topic_partition.partition.0).len();
                assert!(split.next_offset.0 >= i64::try_from(handed_out).unwrap(), "seed {seed}: {split:?}");
                assert!(
                    !ended.contains(&split.topic_partition),
                    "seed {seed}: {split:?} was told to have ended"
                );
            }
            assert_eq!(splits.len() + ended.len(), 3, "seed {seed}: a split is lost");
        }
        assert_eq!(seen.0, expected, "seed {seed}");
    }
}

/// `next` may be dropped at any point: nothing is lost or doubled.
// scenario: 5.2.41, 5.2.38, 5.2.39
#[tokio::test(start_paused = true)]
async fn a_dropped_next_loses_nothing() {
    let mut dropped = 0;
    for seed in 0..30 {
        let mut dice = Dice::new(100 + seed);
        let stage = Stage::new(3).await;
        let expected = random_log(&stage, &mut dice).await;
        let small = FetchSettings { partition_max_bytes: 150, ..FetchSettings::default() };
        let mut reader = stage.reader_of(stage.builder().watermarks(marks()).fetch(small), until_end(&stage));
        reader.no_more_splits();
        let mut seen = Seen::default();
        loop {
            let polls = dice.roll(4);
            let patience = async {
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                event = reader.next() => match event.unwrap() {
                    ReaderEvent::Finished => break,
                    event => seen.take(&event),
                },
                () = patience => dropped += 1,
            }
            assert!(dropped < 100_000, "seed {seed}: it gets nowhere");
        }
        assert_eq!(seen.0, expected, "seed {seed}");
    }
    assert!(dropped > 100, "{dropped}");
}

#[tokio::test(start_paused = true)]
async fn aborted_records_are_seen_by_read_uncommitted_only() {
    let stage = Stage::new(1).await;
    stage.transaction(0, 0..3, End::Commit).await;
    stage.transaction(0, 3..6, End::Abort).await;
    stage.write(0, 6..8).await;
    let end = stage.offsets(0).2;
    for (isolation, expected) in
        [(Isolation::ReadCommitted, vec![0, 1, 2, 6, 7]), (Isolation::ReadUncommitted, (0..8).collect())]
    {
        let builder = stage.builder().isolation(isolation);
        let seen = drain(&mut stage.reader_of(builder, vec![split(0, 0, Some(end))])).await;
        assert_eq!(seen.of(0), expected, "{isolation:?}");
    }
}

/// C26: what is open holds back what is behind it, until it ends.
#[tokio::test(start_paused = true)]
async fn an_open_transaction_is_waited_for_and_then_read_in_order() {
    for end in [End::Commit, End::Abort] {
        let stage = Stage::new(1).await;
        stage.write(0, 0..2).await;
        let mut open = stage.open("open", 0, 2..4).await;
        stage.write(0, 4..6).await;
        let mut reader = stage.reader(vec![split(0, 0, Some(6))]);
        assert_eq!(read(&mut reader, 2).await.of(0), [0, 1]);
        let early = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                if let ReaderEvent::Records(batch) = reader.next().await.unwrap() {
                    return batch;
                }
            }
        });
        assert!(early.await.is_err(), "records behind an open transaction");
        assert_eq!(reader.snapshot(1)[0].next_offset, Offset(2));
        let expected = match end {
            End::Commit => {
                open.commit().await.unwrap();
                vec![2, 3, 4, 5]
            }
            End::Abort => {
                open.abort().await.unwrap();
                vec![4, 5]
            }
        };
        assert_eq!(drain(&mut reader).await.of(0), expected);
    }
}

/// C23, FLINK-34470: the stop lies behind markers and aborted records, where no visible record ever comes.
// scenario: 5.4.9
#[tokio::test(start_paused = true)]
async fn a_stop_behind_control_records_is_reached() {
    let stage = Stage::new(1).await;
    stage.transaction(0, 0..2, End::Commit).await;
    stage.transaction(0, 2..5, End::Abort).await;
    let end = stage.offsets(0).1;
    assert_eq!(end, 7, "two records and three, each with a marker");
    for stop in 0..=end {
        let mut reader = stage.reader(vec![split(0, 0, Some(stop))]);
        reader.no_more_splits();
        let (mut seen, mut ends) = (Seen::default(), Vec::new());
        loop {
            match next(&mut reader).await.unwrap() {
                ReaderEvent::SplitFinished(split) => ends.push(split.next_offset.0),
                ReaderEvent::Finished => break,
                event => seen.take(&event),
            }
        }
        assert_eq!(seen.of(0), (0..stop.min(2)).collect::<Vec<_>>());
        assert_eq!(ends, [stop], "the split ends at its stop");
    }
}

/// C24: nothing is asked of the broker for a split that is at its end.
// scenario: 5.4.38, 5.4.45
#[tokio::test(start_paused = true)]
async fn a_stop_at_or_before_the_start_is_an_empty_split() {
    let stage = Stage::new(2).await;
    stage.write(0, 0..5).await;
    let mut reader = stage.reader(vec![split(0, 3, Some(3)), split(1, 4, Some(1))]);
    assert_eq!(drain(&mut reader).await, Seen::default());
    assert_eq!(stage.broker.with_broker(|broker| broker.requests(1)), 0);
}

// scenario: 5.2.37, 5.2.23
#[tokio::test(start_paused = true)]
async fn partitions_found_while_reading_are_read_and_removed_ones_are_not() {
    let stage = Stage::new(3).await;
    for partition in 0..3 {
        stage.write(partition, i64::from(partition) * 10..i64::from(partition) * 10 + 4).await;
    }
    let mut reader = stage.reader(vec![split(0, 0, None)]);
    assert_eq!(read(&mut reader, 4).await.of(0), [0, 1, 2, 3]);
    reader.add_splits(vec![split(1, 2, None), split(2, 0, None)]).unwrap();
    let seen = read(&mut reader, 6).await;
    assert_eq!((seen.of(1), seen.of(2)), (&[12, 13][..], &[20, 21, 22, 23][..]));
    reader.remove_splits(&[tp(1)]);
    stage.write(1, 14..18).await;
    stage.write(0, 4..6).await;
    assert_eq!(read(&mut reader, 2).await.0, BTreeMap::from([(0, vec![4, 5])]));
    let have: Vec<_> = reader.snapshot(1).into_iter().map(|split| split.topic_partition).collect();
    assert_eq!(have, [tp(0), tp(2)]);
}

/// C34: reading a partition twice would double its records.
// scenario: 5.8.13
#[tokio::test(start_paused = true)]
async fn a_partition_that_is_being_read_is_refused() {
    let stage = Stage::new(1).await;
    let mut reader = stage.reader(vec![split(0, 0, None)]);
    let error = reader.add_splits(vec![split(0, 5, None)]).unwrap_err();
    assert_eq!(error.kind(), milena_connector::ErrorKind::Misuse);
    assert_eq!(reader.snapshot(1), [split(0, 0, None)]);
}

/// D31: a subtask without splits holds back nothing, from the first moment.
// scenario: D31, 5.4.16, 5.1.8
#[tokio::test(start_paused = true)]
async fn a_reader_without_splits_is_idle_at_once() {
    let stage = Stage::new(1).await;
    let began = tokio::time::Instant::now();
    let mut reader = stage.reader(Vec::new());
    assert!(matches!(next(&mut reader).await.unwrap(), ReaderEvent::Idle));
    assert_eq!(began.elapsed(), Duration::ZERO);
    reader.add_splits(vec![split(0, 0, None)]).unwrap();
    assert!(matches!(next(&mut reader).await.unwrap(), ReaderEvent::Active));
}

// scenario: 5.2.25
#[tokio::test(start_paused = true)]
async fn a_punctuated_watermark_comes_right_behind_its_element() {
    let stage = Stage::new(1).await;
    stage.write(0, 1..9).await;
    let strategy =
        WatermarkStrategy::punctuated(|_: &String, timestamp| (timestamp % 4 == 0).then_some(timestamp));
    let mut reader = stage.reader_of(stage.builder().watermarks(strategy), vec![split(0, 0, Some(8))]);
    reader.no_more_splits();
    let mut told = Vec::new();
    loop {
        match next(&mut reader).await.unwrap() {
            ReaderEvent::Records(batch) => {
                told.extend(batch.elements.iter().map(|element| element.value.clone()));
                let position = reader.snapshot(1)[0].clone();
                assert_eq!(
                    position.next_offset.0,
                    i64::try_from(told.iter().filter(|told| !told.starts_with('w')).count()).unwrap()
                );
                assert_eq!(
                    position.max_timestamp,
                    batch.elements.iter().map(|element| element.timestamp).max().or(position.max_timestamp)
                );
            }
            ReaderEvent::Watermark(watermark) => told.push(format!("w{watermark}")),
            ReaderEvent::Finished => break,
            _ => {}
        }
    }
    assert_eq!(told, ["1", "2", "3", "4", "w4", "5", "6", "7", "8", "w8"]);
}

/// C33: the element that ends the stream is not handed out, and its partition is read no further.
#[tokio::test(start_paused = true)]
async fn the_stream_ends_where_the_predicate_says_so() {
    let stage = Stage::new(2).await;
    stage.write(0, 0..5).await;
    stage.write(0, 5..9).await;
    stage.write(1, 10..14).await;
    let mut reader = stage.reader_of(
        stage.builder().end_of_stream(|value: &String| value == "3"),
        vec![split(0, 0, None), split(1, 0, Some(4))],
    );
    reader.no_more_splits();
    let (mut seen, mut ends) = (Seen::default(), BTreeMap::new());
    loop {
        match next(&mut reader).await.unwrap() {
            ReaderEvent::SplitFinished(split) => {
                assert!(split.is_finished());
                ends.insert(split.topic_partition.partition.0, split.next_offset.0);
            }
            ReaderEvent::Finished => break,
            event => seen.take(&event),
        }
    }
    assert_eq!((seen.of(0), seen.of(1)), (&[0, 1, 2][..], &[10, 11, 12, 13][..]));
    assert_eq!(ends, BTreeMap::from([(0, 3), (1, 4)]));
}

/// D30: a partition at its end releases the others, and its next record makes it count again.
#[tokio::test(start_paused = true)]
async fn a_partition_read_to_its_end_does_not_hold_back_the_watermark() {
    let stage = Stage::new(2).await;
    stage.write(0, [1000]).await;
    let strategy = WatermarkStrategy::monotonous().with_caught_up_idleness(Some(Duration::from_secs(3)));
    let mut reader =
        stage.reader_of(stage.builder().watermarks(strategy), vec![split(0, 0, None), split(1, 0, None)]);
    let began = tokio::time::Instant::now();
    loop {
        if let ReaderEvent::Watermark(watermark) = next(&mut reader).await.unwrap() {
            assert_eq!(watermark, 999);
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(3) && began.elapsed() < Duration::from_secs(6));
    loop {
        if matches!(next(&mut reader).await.unwrap(), ReaderEvent::Idle) {
            break;
        }
    }
    stage.write(1, [500]).await;
    assert!(matches!(next(&mut reader).await.unwrap(), ReaderEvent::Active));
    stage.write(0, [2000]).await;
    let seen = read(&mut reader, 2).await;
    assert_eq!(seen.len(), 2);
    assert!(reader.metrics().splits.iter().all(|split| !split.idle));
}

/// FLINK-35886: the time the job takes is not time in which no record came.
#[tokio::test(start_paused = true)]
async fn a_slow_job_does_not_make_its_partitions_idle() {
    let stage = Stage::new(1).await;
    stage.write(0, [1]).await;
    let strategy =
        WatermarkStrategy::monotonous().with_idleness(Duration::from_secs(5)).with_caught_up_idleness(None);
    let mut reader = stage.reader_of(stage.builder().watermarks(strategy), vec![split(0, 0, None)]);
    read(&mut reader, 1).await;
    // A tick is due at once when the job comes back, and the answer that was on its way is empty.
    tokio::time::sleep(Duration::from_secs(60)).await;
    stage.write(0, [2]).await;
    loop {
        match next(&mut reader).await.unwrap() {
            ReaderEvent::Idle => panic!("idle though only the job was slow"),
            ReaderEvent::Records(_) => break,
            _ => {}
        }
    }
    let came = tokio::time::Instant::now();
    while !matches!(next(&mut reader).await.unwrap(), ReaderEvent::Idle) {}
    let quiet = came.elapsed();
    assert!(quiet >= Duration::from_secs(5) && quiet < Duration::from_secs(7), "{quiet:?}");
}

/// Memory is bounded in bytes while nothing is taken, and everything comes when it is.
// scenario: 5.8.16, D59, D58
#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_read_stops_the_fetching() {
    let stage = Stage::new(4).await;
    for partition in 0..4 {
        for round in 0..40 {
            let from = i64::from(partition) * 100_000 + round * 300;
            stage.write(partition, from..from + 300).await;
        }
    }
    let limit = 256 << 10;
    let fetch = FetchSettings {
        max_bytes: 30_000,
        partition_max_bytes: 10_000,
        prefetch_bytes: limit,
        ..FetchSettings::default()
    };
    let splits = (0..4).map(|partition| split(partition, 0, Some(12_000))).collect();
    let mut reader = stage.reader_of(stage.builder().fetch(fetch), splits);
    reader.no_more_splits();
    let (mut seen, mut most) = (Seen::default(), 0);
    loop {
        let event = next(&mut reader).await.unwrap();
        if seen.len() < 2000 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let fetches = stage.broker.with_broker(|broker| broker.requests(1));
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(
                stage.broker.with_broker(|broker| broker.requests(1)),
                fetches,
                "it fetches on by itself"
            );
        }
        most = most.max(reader.metrics().buffered_bytes);
        match event {
            ReaderEvent::Finished => break,
            event => seen.take(&event),
        }
    }
    assert!(most <= limit && most > limit / 2, "{most} bytes");
    for partition in 0..4 {
        let from = i64::from(partition) * 100_000;
        assert_eq!(seen.of(partition), (from..from + 12_000).collect::<Vec<_>>());
    }
}

// scenario: 5.2.12, 5.4.43
#[tokio::test(start_paused = true)]
async fn positions_are_committed_when_their_checkpoint_completes() {
    let stage = Stage::new(2).await;
    stage.write(0, 0..5).await;
    stage.write(1, 10..12).await;
    let committed = |partition| {
        stage.broker.with_broker(|broker| broker.committed_offset("g", source_stage::TOPIC, partition))
    };
    let mut reader =
        stage.reader_of(stage.builder().group_id("g"), vec![split(0, 0, None), split(1, 0, Some(2))]);
    read(&mut reader, 7).await;
    reader.snapshot(1);
    reader.snapshot(2);
    reader.notify_checkpoint_aborted(1);
    reader.notify_checkpoint_complete(1);
    reader.settle_commits().await;
    assert_eq!(committed(0), None, "an aborted checkpoint commits nothing");
    reader.notify_checkpoint_complete(2);
    reader.settle_commits().await;
    assert_eq!((committed(0), committed(1)), (Some(5), Some(2)), "the finished split too");
    assert!(reader.is_settled());
    let metrics = reader.metrics().commits;
    assert_eq!((metrics.succeeded, metrics.failed), (1, 0));
}
