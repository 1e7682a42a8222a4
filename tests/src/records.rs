//! Writing and reading records in tests, and waiting for what comes late.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use milena::{
    Client, FetchFrom, FetchOptions, Isolation, Offset, OffsetSpec, OwnedRecord, Producer, ProducerConfig,
    ProducerRecord, RecordBatch, RecordMetadata, TopicPartition,
};

/// How long anything may take before a test calls it stuck. Machines that run the tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits a future for [`PATIENCE`] at most.
///
/// # Panics
/// When the time is up.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Looks again and again until it sees what is expected.
///
/// # Panics
/// After 30 s, with what was seen last.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F, expected: T)
where
    T: PartialEq + Debug,
    F: Future<Output = T>,
{
    let mut seen = look().await;
    for _ in 0..600 {
        if seen == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen = look().await;
    }
    assert_eq!(seen, expected, "{what}");
}

/// Writes records with one producer, waits for all of them, and returns where each one went.
///
/// # Panics
/// If a record can't be written.
pub async fn write<'a>(
    client: &Client,
    config: ProducerConfig,
    records: impl IntoIterator<Item = ProducerRecord<'a>>,
) -> Vec<RecordMetadata> {
    let producer =
        Producer::new(client, config).unwrap_or_else(|error| panic!("the producer's configuration: {error}"));
    let mut tickets = Vec::new();
    for record in records {
        let ticket = within("a place for a record", producer.send(record)).await;
        tickets.push(ticket.unwrap_or_else(|error| panic!("sending: {error}")));
    }
    within("the flush", producer.flush()).await.unwrap_or_else(|error| panic!("flushing: {error}"));
    let mut places = Vec::new();
    for ticket in tickets {
        places.push(ticket.await.unwrap_or_else(|error| panic!("a record: {error}")));
    }
    let closed = producer.close(Duration::from_secs(10)).await;
    closed.unwrap_or_else(|error| panic!("closing: {error}"));
    places
}

/// Writes values to one partition.
///
/// # Panics
/// As [`write()`].
pub async fn write_values(client: &Client, topic: &str, partition: i32, values: &[&str]) {
    let record = |value| ProducerRecord::to(topic).partition(partition).value(value);
    write(client, ProducerConfig::default(), values.iter().map(|value| record(*value))).await;
}

/// The batches of a partition from its first record to its end (the last stable offset under read_committed), those with
/// control records included.
///
/// # Panics
/// If the partition can't be read, or the end is not reached.
pub async fn batches(client: &Client, tp: &TopicPartition, isolation: Isolation) -> Vec<RecordBatch> {
    let mut all = Vec::new();
    for fetched in fetch_all(client, tp, isolation).await {
        all.extend(fetched.batches);
    }
    all
}

/// The records of a partition that a reader with this isolation sees.
///
/// # Panics
/// As [`batches`].
pub async fn read(client: &Client, tp: &TopicPartition, isolation: Isolation) -> Vec<OwnedRecord> {
    let mut all = Vec::new();
    for fetched in fetch_all(client, tp, isolation).await {
        let records = fetched.owned_records();
        all.extend(records.unwrap_or_else(|error| panic!("the records of {tp}: {error}")));
    }
    all
}

/// The values of a partition's records as text.
///
/// # Panics
/// As [`batches`], and if one is not text.
pub async fn values(client: &Client, topic: &str, partition: i32, isolation: Isolation) -> Vec<String> {
    let records = read(client, &TopicPartition::new(topic, partition), isolation).await;
    records.iter().map(|record| text(record.value.as_deref())).collect()
}

/// Bytes as text; null is "(null)".
///
/// # Panics
/// If they are not UTF-8.
pub fn text(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "(null)".to_owned() };
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|error| panic!("no text: {error}"))
}

/// Looks one offset up.
///
/// # Panics
/// If that fails.
pub async fn offset(
    client: &Client,
    tp: &TopicPartition,
    spec: OffsetSpec,
    isolation: Isolation,
) -> Option<i64> {
    let listed = within("an offset", client.list_offsets(&[(tp.clone(), spec)], isolation)).await;
    let listed = listed.unwrap_or_else(|error| panic!("{spec:?} of {tp}: {error}"));
    let (_, listed) = listed.into_iter().next().unwrap_or_else(|| panic!("no answer for {tp}"));
    listed.unwrap_or_else(|error| panic!("{spec:?} of {tp}: {error}")).offset.map(|offset| offset.0)
}

async fn fetch_all(client: &Client, tp: &TopicPartition, isolation: Isolation) -> Vec<milena::Fetched> {
    let mut next = Offset(offset(client, tp, OffsetSpec::Earliest, isolation).await.unwrap_or_default());
    let end = Offset(offset(client, tp, OffsetSpec::Latest, isolation).await.unwrap_or_default());
    let options = FetchOptions { isolation, max_wait: Duration::from_millis(100), ..FetchOptions::default() };
    let mut all = Vec::new();
    let mut patience = 100;
    while next < end {
        let fetch = client.fetcher();
        let from = [FetchFrom::new(tp.clone(), next)];
        let answer = within("a fetch", fetch.fetch(&from, &options)).await;
        let answer = answer.unwrap_or_else(|error| panic!("fetching {tp}: {error}"));
        for fetched in answer {
            if let Some(error) = &fetched.error {
                // A fetch is one try: after a leader or topic id that was out of date the next one knows better.
                patience -= 1;
                assert!(error.is_retriable() && patience > 0, "fetching {tp} at {next}: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            assert!(fetched.next_offset() > next, "reading {tp} is stuck at {next} before {end}");
            next = fetched.next_offset();
            all.push(fetched);
        }
    }
    all
}
