//! Batches whose checksum is wrong, and batches that hold more than they may, on each path that reads them.

use std::time::Duration;

use bytes::Bytes;
use milena::protocol::messages::{RequestKind, ResponseKind};
use milena::protocol::records::batches;
use milena::protocol::{RequestBody, RequestFrame};
use milena::{
    Client, Consumer, ConsumerConfig, Error, ErrorKind, FetchFrom, FetchOptions, Offset, Position, Start,
    TopicPartition,
};
use milena_testkit::damage::{bomb, wrapper_of_a_damaged_message};

use crate::fake::{Fake, Reply};
use crate::{batch, quick, topic_data};

/// Offsets and values, and the error behind them.
type Read = (Vec<(i64, Vec<u8>)>, Option<Error>);

/// A broker whose `t`-0 holds this log. At its end it is silent.
fn serving(log: &Bytes) -> Fake {
    let log = log.clone();
    Fake::new(move |_, request| {
        let from = asked_from(request)?;
        let mut at = 0;
        for batch in batches(log.clone()).map(Result::unwrap) {
            if batch.last_offset() >= from {
                return Some(Reply::Answer(ResponseKind::Fetch(topic_data("t", 0, log.slice(at..)))));
            }
            at += batch.len_bytes();
        }
        Some(Reply::Silence)
    })
}

fn asked_from(request: &RequestFrame) -> Option<Offset> {
    let RequestBody::Known(RequestKind::Fetch(asked)) = &request.body else { return None };
    Some(Offset(asked.topics.first()?.partitions.first()?.fetch_offset))
}

/// How a log is read.
#[derive(Clone, Copy, Debug)]
enum Path {
    Parts,
    Records,
    Fetcher,
}

const PATHS: [Path; 3] = [Path::Parts, Path::Records, Path::Fetcher];

/// What a reader is told.
#[derive(Clone, Copy, Debug, Default)]
struct How {
    unchecked: bool,
    max_batch_bytes: Option<u32>,
}

/// Reads from offset 5 on, to the first error or the end.
async fn read(log: &Bytes, path: Path, how: How) -> Read {
    let client = Client::connect(quick(&serving(log))).await.unwrap();
    let mut seen = Vec::new();
    let error = match path {
        Path::Fetcher => fetch(&client, how, &mut seen).await,
        _ => consume(&client, path, how, &mut seen).await,
    };
    (seen, error.err())
}

async fn fetch(client: &Client, how: How, seen: &mut Vec<(i64, Vec<u8>)>) -> Result<(), Error> {
    let mut options = FetchOptions::default();
    options.check_crcs &= !how.unchecked;
    options.max_batch_bytes = how.max_batch_bytes.unwrap_or(options.max_batch_bytes);
    let fetcher = client.fetcher();
    let mut from = [FetchFrom::new(TopicPartition::new("t", 0), Offset(5))];
    loop {
        let asked = tokio::time::timeout(WAIT, fetcher.fetch(&from, &options)).await;
        let Ok(answers) = asked else { return Ok(()) };
        let fetched = answers.unwrap().remove(0);
        if let Some(error) = fetched.error {
            return Err(error);
        }
        from[0].offset = fetched.next_offset();
        fetched.for_each_record(|record| {
            seen.push((record.offset.0, record.value.unwrap_or_default().to_vec()));
        })?;
    }
}

async fn consume(client: &Client, path: Path, how: How, seen: &mut Vec<(i64, Vec<u8>)>) -> Result<(), Error> {
    let mut config = ConsumerConfig::default();
    config.check_crcs &= !how.unchecked;
    config.max_batch_bytes = how.max_batch_bytes.unwrap_or(config.max_batch_bytes);
    let mut consumer = Consumer::new(client, config).unwrap();
    consumer.assign([(TopicPartition::new("t", 0), Start::At(Position::from(Offset(5))))]);
    if let Path::Records = path {
        while let Ok(next) = tokio::time::timeout(PATIENCE, consumer.next()).await {
            let record = next?.record;
            seen.push((record.offset.0, record.value.unwrap_or_default().to_vec()));
        }
        return Ok(());
    }
    while let Some(part) = consumer.poll(PATIENCE).await? {
        for record in &part {
            let record = record?;
            seen.push((record.offset.0, record.value.unwrap_or_default().to_vec()));
        }
    }
    Ok(())
}

/// Shorter than what a request waits for.
const WAIT: Duration = Duration::from_secs(4);

/// Long enough for a consumer to look at damage again, behind a request for what comes after it, which is not answered.
const PATIENCE: Duration = Duration::from_secs(60);

fn values(from: i64, values: &[&[u8]]) -> Vec<(i64, Vec<u8>)> {
    (from..).zip(values.iter().map(|value| value.to_vec())).collect()
}

/// A batch with two good records, and one whose second value was flipped since its checksum was made.
fn flipped() -> Bytes {
    let mut log = [batch(5, 2), batch(7, 2)].concat();
    let value = log.len() - 2;
    assert_eq!(log[value], b'v');
    log[value] ^= 1;
    log.into()
}

/// The same in a wrapper of format 1, whose own checksum is right.
fn damaged_inside() -> Bytes {
    wrapper_of_a_damaged_message(Offset(6), &[b"v", b"w"], 1).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_is_told_with_its_offset_and_read_only_by_those_who_do_not_check() {
    for path in PATHS {
        let (seen, error) = read(&flipped(), path, How::default()).await;
        assert_eq!(seen, values(5, &[b"v", b"v"]), "{path:?}: what came before is kept");
        let error = error.unwrap_or_else(|| panic!("{path:?}: the damage is not told"));
        assert_eq!(error.kind(), ErrorKind::Peer, "{path:?}: {error}");
        for part in ["t-0", "the batch at offset 7 is damaged"] {
            assert!(error.to_string().contains(part), "{path:?}: {error} lacks {part:?}");
        }
        let (seen, error) = read(&flipped(), path, How { unchecked: true, ..How::default() }).await;
        assert_eq!(seen, values(5, &[b"v", b"v", b"v", b"w"]), "{path:?}");
        assert!(error.is_none(), "{path:?}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn damage_inside_a_wrapper_is_told_and_read_only_by_those_who_do_not_check() {
    for path in PATHS {
        let (seen, error) = read(&damaged_inside(), path, How::default()).await;
        assert_eq!(seen, values(5, &[b"v"]), "{path:?}: what came before is kept");
        let error = error.unwrap_or_else(|| panic!("{path:?}: the damage is not told"));
        assert_eq!(error.kind(), ErrorKind::Peer, "{path:?}: {error}");
        for part in ["t-0", "message 1 of the set at offset 6 is damaged"] {
            assert!(error.to_string().contains(part), "{path:?}: {error} lacks {part:?}");
        }
        let (seen, error) = read(&damaged_inside(), path, How { unchecked: true, ..How::default() }).await;
        assert_eq!(seen, values(5, &[b"v", b"w"]), "{path:?}");
        assert!(error.is_none(), "{path:?}: {error:?}");
    }
}

/// A batch with a record of one byte, and one whose value is so many zeros.
fn with_bomb(zeros: u32) -> Bytes {
    [batch(5, 1), bomb(Offset(6), zeros).unwrap()].concat().into()
}

async fn sizes(zeros: u32, path: Path, max_batch_bytes: Option<u32>) -> (Vec<usize>, Option<Error>) {
    let how = How { max_batch_bytes, ..How::default() };
    let (seen, error) = read(&with_bomb(zeros), path, how).await;
    (seen.iter().map(|(_, value)| value.len()).collect(), error)
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_what_the_user_allows_and_a_bomb_is_an_error_that_names_the_setting() {
    const MIB: u32 = 1 << 20;
    for path in PATHS {
        for (zeros, limit) in [(1024 * MIB, None), (129 * MIB, None), (MIB, Some(MIB)), (MIB, Some(1))] {
            let (seen, error) = sizes(zeros, path, limit).await;
            assert_eq!(seen, [1], "{path:?}, {zeros}: what came before is kept");
            let error = error.unwrap_or_else(|| panic!("{path:?}: {zeros} bytes were read")).to_string();
            let limit = format!("more than the limit of {} bytes", limit.unwrap_or(128 * MIB));
            for part in ["t-0", &limit, "max_batch_bytes", "fetch.max.batch.bytes"] {
                assert!(error.contains(part), "{path:?}: {error} lacks {part:?}");
            }
        }
        for (zeros, limit) in [(127 * MIB, None), (129 * MIB, Some(130 * MIB)), (MIB, Some(MIB + 20))] {
            let (seen, error) = sizes(zeros, path, limit).await;
            assert_eq!(seen, [1, zeros as usize], "{path:?}: {error:?}");
        }
    }
}

/// Whether a batch is a marker is known only by looking inside, before anybody asked for its records.
#[tokio::test(start_paused = true)]
async fn a_bomb_that_says_it_is_a_marker_is_refused_for_what_no_marker_holds() {
    let mut log = with_bomb(1 << 30).to_vec();
    let attributes = batch(5, 1).len() + 22;
    log[attributes] |= 0x20;
    for path in PATHS {
        // Its checksum was made before.
        let how = How { unchecked: true, ..How::default() };
        let (seen, error) = read(&Bytes::from(log.clone()), path, how).await;
        assert_eq!(seen, values(5, &[b"v"]), "{path:?}: what came before is kept");
        let error = error.unwrap_or_else(|| panic!("{path:?}: the bomb is not told")).to_string();
        assert!(error.contains("more than the limit of 65536 bytes"), "{path:?}: {error}");
    }
}
