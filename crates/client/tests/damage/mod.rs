//! Batches whose checksum is wrong, on each path that reads them: told if checksums are verified, read if not.

use std::time::Duration;

use bytes::Bytes;
use milena::protocol::messages::{RequestKind, ResponseKind};
use milena::protocol::records::batches;
use milena::protocol::{RequestBody, RequestFrame};
use milena::{
    Client, Consumer, ConsumerConfig, Error, ErrorKind, FetchFrom, FetchOptions, Offset, Position, Start,
    TopicPartition,
};
use milena_testkit::damage::wrapper_of_a_damaged_message;

use crate::fake::{Fake, Reply};
use crate::{batch, quick, topic_data};

/// Offsets and values, and the error behind them.
pub(crate) type Read = (Vec<(i64, Vec<u8>)>, Option<Error>);

/// A broker whose `t`-0 holds this log. At its end it is silent.
pub(crate) fn serving(log: &Bytes) -> Fake {
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
pub(crate) enum Path {
    Parts,
    Records,
    Fetcher,
}

pub(crate) const PATHS: [Path; 3] = [Path::Parts, Path::Records, Path::Fetcher];

/// What a reader may be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) check_crcs: bool,
}

/// Reads from offset 5 on, to the first error or the end.
pub(crate) async fn read(log: &Bytes, path: Path, how: How) -> Read {
    let client = Client::connect(quick(&serving(log))).await.unwrap();
    let mut seen = Vec::new();
    let error = match path {
        Path::Fetcher => fetch(&client, how, &mut seen).await,
        _ => consume(&client, path, how, &mut seen).await,
    };
    (seen, error.err())
}

async fn fetch(client: &Client, how: How, seen: &mut Vec<(i64, Vec<u8>)>) -> Result<(), Error> {
    let options = FetchOptions { check_crcs: how.check_crcs, ..FetchOptions::default() };
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
    let config = ConsumerConfig { check_crcs: how.check_crcs, ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(client, config).unwrap();
    consumer.assign([(TopicPartition::new("t", 0), Start::At(Position::from(Offset(5))))]);
    if let Path::Records = path {
        while let Ok(next) = tokio::time::timeout(WAIT, consumer.next()).await {
            let record = next?.record;
            seen.push((record.offset.0, record.value.unwrap_or_default().to_vec()));
        }
        return Ok(());
    }
    while let Some(part) = consumer.poll(WAIT).await? {
        for record in &part {
            let record = record?;
            seen.push((record.offset.0, record.value.unwrap_or_default().to_vec()));
        }
    }
    Ok(())
}

/// Shorter than what a request waits for.
const WAIT: Duration = Duration::from_secs(4);

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
        let (seen, error) = read(&flipped(), path, How { check_crcs: true }).await;
        assert_eq!(seen, values(5, &[b"v", b"v"]), "{path:?}: what came before is kept");
        let error = error.unwrap_or_else(|| panic!("{path:?}: the damage is not told"));
        assert_eq!(error.kind(), ErrorKind::Peer, "{path:?}: {error}");
        for part in ["t-0", "the batch at offset 7 is damaged"] {
            assert!(error.to_string().contains(part), "{path:?}: {error} lacks {part:?}");
        }
        let (seen, error) = read(&flipped(), path, How { check_crcs: false }).await;
        assert_eq!(seen, values(5, &[b"v", b"v", b"v", b"w"]), "{path:?}");
        assert!(error.is_none(), "{path:?}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn damage_inside_a_wrapper_is_told_and_read_only_by_those_who_do_not_check() {
    for path in PATHS {
        let (seen, error) = read(&damaged_inside(), path, How { check_crcs: true }).await;
        assert_eq!(seen, values(5, &[b"v"]), "{path:?}: what came before is kept");
        let error = error.unwrap_or_else(|| panic!("{path:?}: the damage is not told"));
        assert_eq!(error.kind(), ErrorKind::Peer, "{path:?}: {error}");
        for part in ["t-0", "message 1 of the set at offset 6 is damaged"] {
            assert!(error.to_string().contains(part), "{path:?}: {error} lacks {part:?}");
        }
        let (seen, error) = read(&damaged_inside(), path, How { check_crcs: false }).await;
        assert_eq!(seen, values(5, &[b"v", b"w"]), "{path:?}");
        assert!(error.is_none(), "{path:?}: {error:?}");
    }
}
