//! The broker's side: topics, what they hold as bytes, the cleaner.

use std::time::Duration;

use milena::protocol::messages::IncrementalAlterConfigsRequest;
use milena::protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use milena::{
    Client, Compression, FetchFrom, FetchOptions, Isolation, NewTopic, Offset, OffsetSpec, RecordBatch,
    Target, TopicPartition,
};
use tokio::time::{Instant, sleep};

use super::compare::difference;
use super::script::{Log, line};

/// How long the broker's cleaner may take. It looks for work every 15 s where that can't be changed.
const CLEANER: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);

/// What the batches of a topic look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Stored {
    /// Batches of records.
    pub(super) batches: usize,
    /// Those the cleaner took all records from.
    pub(super) emptied: usize,
    /// Those it took some from.
    pub(super) gaps: usize,
}

/// Creates topics and waits until every partition can be used.
pub(super) async fn create(client: &Client, topics: &[NewTopic]) -> Result<(), String> {
    let created = client.admin().create_topics(topics, PATIENCE).await.map_err(|error| error.to_string())?;
    for (topic, outcome) in created {
        outcome.map_err(|error| format!("creating {topic}: {error}"))?;
    }
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    let partitions = |topic: &NewTopic| {
        let name = topic.name.clone();
        (0..topic.partitions).map(move |partition| TopicPartition::new(name.as_str(), partition))
    };
    let all: Vec<_> = topics.iter().flat_map(partitions).map(|tp| (tp, OffsetSpec::Latest)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let cluster = client.metadata(Some(&names)).await;
        let listed = client.list_offsets(&all, Isolation::ReadUncommitted).await;
        let answered = listed.as_ref().is_ok_and(|listed| listed.iter().all(|(_, offset)| offset.is_ok()));
        if cluster.is_ok() && answered {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("no leaders for {} topics after {PATIENCE:?}: {listed:?}", topics.len()));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the topic ends where it must: markers are written after a commit was answered.
pub(super) async fn settled(client: &Client, topic: &str, wanted: &[i64]) -> Result<(), String> {
    let all: Vec<_> = (0..).zip(wanted).map(|(partition, _)| latest(topic, partition)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed = client.list_offsets(&all, Isolation::ReadCommitted).await;
        let listed = listed.map_err(|error| error.to_string())?;
        let mut ends = vec![-1; wanted.len()];
        for (tp, offset) in listed {
            let place = usize::try_from(tp.partition.0).unwrap_or_default();
            let offset = offset.map_err(|error| format!("{tp}: {error}"))?.offset;
            if let (Some(end), Some(offset)) = (ends.get_mut(place), offset) {
                *end = offset.0;
            }
        }
        if ends == wanted {
            return Ok(());
        }
        if Instant::now() > deadline || ends.iter().zip(wanted).any(|(end, wanted)| end > wanted) {
            return Err(format!("the partitions end at {ends:?} instead of {wanted:?}"));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn latest(topic: &str, partition: i32) -> (TopicPartition, OffsetSpec) {
    (TopicPartition::new(topic, partition), OffsetSpec::Latest)
}

/// Looks at the batches as the broker keeps them, which are the writer's own bytes until the cleaner has been there: the
/// codec is what was asked for. A batch that does not get smaller may be left uncompressed, but not all of them.
pub(super) async fn stored(
    client: &Client,
    topic: &str,
    log: &Log,
    codec: Compression,
) -> Result<Stored, String> {
    let mut stored = Stored::default();
    let mut compressed = false;
    for (partition, end) in (0..).zip(&log.ends) {
        for batch in batches(client, &TopicPartition::new(topic, partition), Offset(*end)).await? {
            batch.verify_crc().map_err(|error| error.to_string())?;
            if batch.is_control() {
                continue;
            }
            let found = batch.compression();
            compressed |= found == codec;
            if found != codec && found != Compression::None {
                return Err(format!("a batch compressed with {found} instead of {codec}"));
            }
            let span = batch.next_offset().0 - batch.base_offset().0;
            let records = i64::from(batch.record_count());
            stored.batches += 1;
            stored.emptied += usize::from(records == 0);
            stored.gaps += usize::from(records > 0 && records < span);
        }
    }
    if compressed { Ok(stored) } else { Err(format!("no batch is compressed with {codec}")) }
}

/// Asks the broker to look for topics to clean every second. Brokers before 1.1 can't change that.
pub(super) async fn hurry_cleaner(client: &Client) {
    let config = AlterableConfig::default()
        .with_name("log.cleaner.backoff.ms".into())
        .with_config_operation(0)
        .with_value(Some("1000".into()));
    // Type 4 without a name: all brokers.
    let resource = AlterConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name("".into())
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    // Without it the cleaner comes later.
    let _ = client.call(Target::Controller, &request).await;
}

/// Waits until the cleaner has left of the topic what it must leave.
pub(super) async fn cleaned(client: &Client, topic: &str, log: &Log) -> Result<(), String> {
    let expected = log.expected(Isolation::ReadUncommitted);
    let deadline = Instant::now() + CLEANER;
    loop {
        let mut found = Vec::new();
        for (partition, end) in (0..).zip(&log.ends) {
            let batches = batches(client, &TopicPartition::new(topic, partition), Offset(*end)).await?;
            found.push(records(partition, &batches)?);
        }
        match difference(&expected, &found) {
            None => return Ok(()),
            Some(difference) if Instant::now() > deadline => {
                return Err(format!("not as the cleaner should leave it after {CLEANER:?}: {difference}"));
            }
            Some(_) => sleep(Duration::from_millis(500)).await,
        }
    }
}

fn records(partition: i32, batches: &[RecordBatch]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for batch in batches.iter().filter(|batch| !batch.is_control()) {
        for record in batch.records().map_err(|error| error.to_string())?.iter() {
            let record = record.map_err(|error| error.to_string())?;
            let headers = record.headers.iter().map(|header| (header.name.as_bytes(), header.value));
            lines.push(line(
                partition,
                (record.offset.0, record.timestamp),
                record.key,
                record.value,
                headers,
            ));
        }
    }
    Ok(lines)
}

async fn batches(client: &Client, tp: &TopicPartition, end: Offset) -> Result<Vec<RecordBatch>, String> {
    let options = FetchOptions { max_wait: Duration::from_millis(100), ..FetchOptions::default() };
    let deadline = Instant::now() + PATIENCE;
    let (mut next, mut all) = (Offset(0), Vec::new());
    while next < end {
        let answer = client.fetcher().fetch(&[FetchFrom::new(tp.clone(), next)], &options).await;
        for fetched in answer.map_err(|error| format!("{tp}: {error}"))? {
            match &fetched.error {
                Some(error) if !error.is_retriable() => return Err(format!("{tp}: {error}")),
                _ => next = fetched.next_offset(),
            }
            all.extend(fetched.batches);
        }
        if Instant::now() > deadline {
            return Err(format!("{tp} can't be read to its end {end}, only to {next}"));
        }
    }
    Ok(all)
}
