//! The source on the embedded broker: enumerator and readers, without a job around them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena::protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use milena::protocol::{StrBytes, messages::TopicName};
use milena::{
    CommittedOffset, NewTopic, Offset, PartitionId, Producer, ProducerConfig, ProducerRecord, Target,
    TopicPartition, TransactionConfig, TransactionalProducer,
};
use milena_connector::progress::WatermarkStrategy;
use milena_connector::schema::{OnRecordError, StringDeserializer};
use milena_connector::source::{
    Command, Enumerator, KafkaSource, KafkaSourceBuilder, OffsetReset, OnOutOfRange, ReaderEvent,
    RecreatedTopic, SourceReader, Split, StartFrom, StopAt, resolve_offsets, run_discovery,
};
use milena_connector::{Error, ErrorKind};
use support::{GROUP, INPUT, Stage};

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(INPUT, PartitionId(partition))
}

fn lines(stage: &Stage) -> KafkaSourceBuilder<String> {
    KafkaSource::builder().client(stage.config()).topics([INPUT]).deserializer(StringDeserializer)
}

/// Writes values to a partition and waits for them.
async fn write(stage: &Stage, partition: i32, values: &[&str]) {
    let producer = Producer::new(&stage.client, ProducerConfig::default()).unwrap();
    for value in values {
        let record = ProducerRecord::to(INPUT).partition(PartitionId(partition)).value(value.as_bytes());
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
}

/// Writes values in a transaction that is committed or aborted.
async fn transact(stage: &Stage, id: &str, partition: i32, values: &[&str], commit: bool) {
    let mut producer = TransactionalProducer::new(&stage.client, TransactionConfig::new(id)).unwrap();
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    for value in values {
        let record = ProducerRecord::to(INPUT).partition(PartitionId(partition)).value(value.as_bytes());
        drop(producer.send(record).await.unwrap());
    }
    if commit { producer.commit().await.unwrap() } else { producer.abort().await.unwrap() }
}

/// An enumerator with its readers.
struct Source {
    stage: Stage,
    source: KafkaSource<String>,
    enumerator: Enumerator,
    readers: Vec<SourceReader<String>>,
    /// What was handed out, by partition.
    read: BTreeMap<i32, Vec<String>>,
    watermark: Option<i64>,
    finished: usize,
}

impl Source {
    fn new(stage: Stage, source: KafkaSource<String>, parallelism: u32) -> Self {
        let enumerator = source.enumerator(parallelism);
        Self::with(stage, source, enumerator, parallelism)
    }

    fn with(stage: Stage, source: KafkaSource<String>, mut enumerator: Enumerator, parallelism: u32) -> Self {
        let readers = (0..parallelism).map(|_| source.reader(&stage.client)).collect();
        for subtask in 0..parallelism {
            enumerator.register_reader(subtask);
        }
        Self { stage, source, enumerator, readers, read: BTreeMap::new(), watermark: None, finished: 0 }
    }

    async fn obey(&mut self) -> Result<(), Error> {
        let client = &self.stage.client;
        self.enumerator.tick(Instant::now());
        while let Some(command) = self.enumerator.poll_command() {
            match command {
                Command::Discover => {
                    let answer = run_discovery(client, &self.source.enumerator_config().subscription).await;
                    self.enumerator.handle_discovered(Instant::now(), answer);
                }
                Command::ResolveOffsets(requests) => {
                    let answer = resolve_offsets(client, &self.source, &requests).await;
                    self.enumerator.handle_offsets_resolved(Instant::now(), answer);
                }
                Command::Assign { subtask, splits } => self.readers[subtask as usize].add_splits(splits)?,
                Command::Remove { subtask, partitions } => {
                    self.readers[subtask as usize].remove_splits(&partitions);
                }
                Command::NoMoreSplits { subtask } => self.readers[subtask as usize].no_more_splits(),
                Command::Fail(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets every reader have a go; a `next` that has nothing yet is dropped.
    async fn step(&mut self) -> Result<(), Error> {
        self.obey().await?;
        for reader in &mut self.readers {
            let Ok(event) = tokio::time::timeout(Duration::from_millis(5), reader.next()).await else {
                continue;
            };
            match event? {
                ReaderEvent::Records(batch) => {
                    let values = self.read.entry(batch.topic_partition.partition.0).or_default();
                    values.extend(batch.elements.into_iter().map(|element| element.value));
                }
                ReaderEvent::SplitFinished(split) => self.enumerator.handle_finished(&split),
                ReaderEvent::Finished => self.finished += 1,
                ReaderEvent::Watermark(watermark) => self.watermark = Some(watermark),
                ReaderEvent::Idle | ReaderEvent::Active => {}
            }
        }
        Ok(())
    }

    async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<(), Error> {
        let limit = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < limit, "read so far: {:?}", self.read);
            self.step().await?;
        }
        Ok(())
    }

    async fn read_on_to_the_end(&mut self) -> Result<(), Error> {
        self.until(|source| source.finished == source.readers.len()).await
    }

    fn count(&self) -> usize {
        self.read.values().map(Vec::len).sum()
    }

    fn snapshot(&mut self, checkpoint: u64) -> Vec<Split> {
        self.readers.iter_mut().flat_map(|reader| reader.snapshot(checkpoint)).collect()
    }
}

/// C12, C22, C23: empty partitions, more readers than partitions, aborted records and a control record at the tail.
// scenario: 5.4.2, 5.4.5, 5.4.37
#[tokio::test]
async fn a_bounded_source_reads_what_was_committed_and_ends() {
    let stage = Stage::new(4).await;
    write(&stage, 0, &["a", "b"]).await;
    transact(&stage, "x", 1, &["c", "d"], true).await;
    transact(&stage, "y", 1, &["no", "no"], false).await;
    transact(&stage, "y", 2, &["no"], false).await;
    let source = lines(&stage).bounded(StopAt::Latest).build().unwrap();
    let mut source = Source::new(stage, source, 6);
    source.read_on_to_the_end().await.unwrap();
    let read = BTreeMap::from([(0, vec!["a", "b"]), (1, vec!["c", "d"])]);
    source.read.retain(|_, values| !values.is_empty());
    assert_eq!(
        source.read,
        read.into_iter().map(|(p, v)| (p, v.into_iter().map(str::to_owned).collect())).collect()
    );
}

/// C24, C26: given starts and stops hold within batches; records of an open transaction are not waited for.
#[tokio::test]
async fn starts_and_stops_are_exact_and_an_open_transaction_does_not_hold_the_end() {
    let stage = Stage::new(2).await;
    write(&stage, 0, &["0", "1", "2", "3", "4", "5"]).await;
    write(&stage, 1, &["0", "1"]).await;
    let mut open = TransactionalProducer::new(&stage.client, TransactionConfig::new("open")).unwrap();
    open.init().await.unwrap();
    open.begin().await.unwrap();
    drop(open.send(ProducerRecord::to(INPUT).partition(PartitionId(1)).value(b"open")).await.unwrap());
    open.flush().await.unwrap();
    let start = StartFrom::Offsets {
        offsets: [(tp(0), Offset(2)), (tp(1), Offset(1))].into(),
        or: OffsetReset::Fail,
    };
    let stops = StopAt::Offsets([(tp(0), Offset(5))].into());
    let source = lines(&stage).start(start).bounded(stops).build().unwrap();
    let mut source = Source::new(stage, source, 1);
    source.read_on_to_the_end().await.unwrap();
    assert_eq!(source.read[&0], ["2", "3", "4"]);
    assert_eq!(source.read[&1], ["1"]);
}

/// D34: a partition, and a topic that matches the pattern, appear while reading; nothing of them is missed.
// scenario: 5.2.23, 5.2.46
#[tokio::test]
async fn what_appears_while_reading_is_read_from_its_first_record() {
    let stage = Stage::new(1).await;
    write(&stage, 0, &["before"]).await;
    let source =
        KafkaSource::builder().client(stage.config()).topic_pattern("in.?").deserializer(StringDeserializer);
    let source =
        source.start(StartFrom::Latest).discovery_interval(Some(Duration::from_millis(50))).build().unwrap();
    let mut source = Source::new(stage, source, 2);
    source.until(|source| source.enumerator.is_resolved()).await.unwrap();
    let admin = source.stage.client.admin();
    admin.add_partitions(INPUT, 3).await.unwrap();
    let topics = [NewTopic::new("in2", 2), NewTopic::new("in22", 2)];
    admin.create_topics(&topics, Duration::from_secs(5)).await.unwrap();
    source.stage.client.metadata(None).await.unwrap();
    write(&source.stage, 2, &["new"]).await;
    write(&source.stage, 0, &["after"]).await;
    let producer = Producer::new(&source.stage.client, ProducerConfig::default()).unwrap();
    for (topic, value) in [("in2", "topic"), ("in22", "not matched")] {
        let record = ProducerRecord::to(topic).partition(PartitionId(1)).value(value.as_bytes());
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    source.until(|source| source.count() == 3).await.unwrap();
    let read: Vec<&str> = source.read.values().flatten().map(String::as_str).collect();
    assert_eq!(read, ["after", "topic", "new"]);
}

/// C13, C34: positions of a checkpoint taken in the middle, dealt to another number of readers: each record once.
// scenario: 5.2.15, 5.2.16, 5.2.20, D48
#[tokio::test]
async fn a_source_restored_with_another_parallelism_reads_each_record_once() {
    let mut stage = Stage::new(5).await;
    for partition in 0..5 {
        for round in 0..4 {
            let values: Vec<String> = (0..5).map(|n| format!("{partition}:{}", round * 5 + n)).collect();
            write(&stage, partition, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
    }
    let source = lines(&stage).bounded(StopAt::Latest).build().unwrap();
    let mut read: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    let mut enumerator = source.enumerator(2);
    for (parallelism, again) in [(2, Some(3)), (3, Some(1)), (1, None)] {
        let mut life = Source::with(stage, source.clone(), enumerator, parallelism);
        match again {
            Some(_) => life.until(|life| life.count() >= 15).await.unwrap(),
            None => life.read_on_to_the_end().await.unwrap(),
        }
        let splits = life.snapshot(1);
        for (partition, values) in std::mem::take(&mut life.read) {
            read.entry(partition).or_default().extend(values);
        }
        enumerator =
            source.restore_enumerator(again.unwrap_or(1), life.enumerator.snapshot(), splits).unwrap();
        stage = life.stage;
    }
    for partition in 0..5 {
        let expected: Vec<String> = (0..20).map(|n| format!("{partition}:{n}")).collect();
        assert_eq!(read[&partition], expected);
    }
}

async fn delete_before(stage: &Stage, offset: i64) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(INPUT)))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    stage.client.call(Target::Any, &request).await.unwrap();
}

/// C10, D39: records deleted before they were read are never skipped in silence.
// scenario: 5.1.24, 5.8.2, D39
#[tokio::test]
async fn a_position_outside_the_log_fails_with_what_is_there_or_resets_as_chosen() {
    let cases = [
        (OnOutOfRange::Fail, None),
        (OnOutOfRange::Earliest, Some("4")),
        (OnOutOfRange::Latest, Some("late")),
    ];
    for (policy, first) in cases {
        let stage = Stage::new(1).await;
        write(&stage, 0, &["0", "1", "2", "3", "4"]).await;
        delete_before(&stage, 4).await;
        let source = lines(&stage).on_out_of_range(policy).build().unwrap();
        let mut reader = source.reader(&stage.client);
        reader.add_splits(vec![Split::new(tp(0), Offset(1))]).unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        let outcome = loop {
            assert!(Instant::now() < limit);
            if reader.metrics().resets > 0
                && first == Some("late")
                && reader.metrics().splits[0].end == Some(Offset(5))
            {
                write(&stage, 0, &["late"]).await;
            }
            match tokio::time::timeout(Duration::from_millis(50), reader.next()).await {
                Ok(Ok(ReaderEvent::Records(batch))) => break Ok(batch.elements[0].value.clone()),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => break Err(error),
            }
        };
        match (first, outcome) {
            (Some(first), Ok(read)) => assert_eq!(read, first),
            (None, Err(error)) => {
                assert_eq!(
                    (error.kind(), error.topic_partition(), error.offset()),
                    (ErrorKind::DataLoss, Some(&tp(0)), Some(Offset(1)))
                );
                assert!(error.to_string().contains("4 to 5"), "{error}");
            }
            (_, other) => panic!("{policy:?}: {other:?}"),
        }
    }
}

/// C9, D40: a longer log under the same name must not be taken for the old one.
// scenario: D40, 5.4.48
#[tokio::test]
async fn a_topic_created_again_while_it_is_read_is_noticed_by_the_reader() {
    for policy in [RecreatedTopic::Fail, RecreatedTopic::Ignore] {
        let stage = Stage::new(1).await;
        write(&stage, 0, &["old"]).await;
        let source = lines(&stage).recreated_topics(policy).discovery_interval(None).build().unwrap();
        let mut source = Source::new(stage, source, 1);
        source.until(|source| source.count() == 1).await.unwrap();
        let admin = source.stage.client.admin();
        admin.delete_topics(&[INPUT]).await.unwrap();
        admin.create_topics(&[NewTopic::new(INPUT, 1)], Duration::from_secs(5)).await.unwrap();
        source.stage.client.metadata(Some(&[INPUT])).await.unwrap();
        write(&source.stage, 0, &["skipped", "new"]).await;
        match (policy, source.until(|source| source.count() == 2).await) {
            (RecreatedTopic::Fail, Err(error)) => assert_eq!(error.kind(), ErrorKind::Topic, "{error}"),
            (RecreatedTopic::Ignore, Ok(())) => assert_eq!(source.read[&0], ["old", "new"]),
            (_, other) => panic!("{policy:?}: {other:?}"),
        }
    }
}

/// C27, D49: the error says where; a skipped record is counted, and the ones around it are read.
// scenario: D49, 5.2.22
#[tokio::test]
async fn a_record_that_is_refused_fails_with_its_place_or_is_skipped_and_counted() {
    for policy in [OnRecordError::Fail, OnRecordError::Skip] {
        let stage = Stage::new(1).await;
        let producer = Producer::new(&stage.client, ProducerConfig::default()).unwrap();
        for value in [&b"a"[..], b"\xff", b"b"] {
            drop(producer.send(ProducerRecord::to(INPUT).value(value)).await.unwrap());
        }
        producer.flush().await.unwrap();
        let source = lines(&stage).on_record_error(policy.clone()).bounded(StopAt::Latest).build().unwrap();
        let mut source = Source::new(stage, source, 1);
        match (&policy, source.read_on_to_the_end().await) {
            (OnRecordError::Fail, Err(error)) => {
                assert_eq!((error.kind(), error.offset()), (ErrorKind::Schema, Some(Offset(1))));
                assert_eq!(error.topic_partition(), Some(&tp(0)));
            }
            (OnRecordError::Skip, Ok(())) => {
                assert_eq!(source.read[&0], ["a", "b"]);
                assert_eq!(source.readers[0].metrics().skipped_records, 1);
            }
            (_, other) => panic!("{policy:?}: {other:?}"),
        }
    }
}

/// C15, D45: what is committed is the position, behind a control record at the tail too, and it can be the next start.
// scenario: 5.2.43, 5.4.43
#[tokio::test]
async fn positions_of_a_completed_checkpoint_are_committed_and_can_be_the_start() {
    let stage = Stage::new(1).await;
    transact(&stage, "x", 0, &["a", "b"], true).await;
    let committed = |start| lines(&stage).group_id(GROUP).start(start).build().unwrap();
    let source = committed(StartFrom::Earliest);
    let mut source = Source::new(stage, source, 1);
    let behind =
        |source: &Source| source.readers[0].metrics().splits.iter().any(|split| split.position == Offset(3));
    source.until(behind).await.unwrap();
    source.snapshot(1);
    source.readers[0].notify_checkpoint_complete(1);
    source.until(|source| source.readers[0].is_settled()).await.unwrap();
    let group = source.stage.client.group(GROUP);
    let (_, offset) = group.fetch(Some(&[tp(0)]), true).await.unwrap().remove(0);
    assert_eq!(offset.unwrap().map(|committed: CommittedOffset| committed.offset), Some(Offset(3)));
    let stage = source.stage;
    write(&stage, 0, &["c"]).await;
    let start = StartFrom::Committed { or: OffsetReset::Fail };
    let source = lines(&stage).group_id(GROUP).start(start).bounded(StopAt::Latest).build().unwrap();
    let mut source = Source::new(stage, source, 1);
    source.read_on_to_the_end().await.unwrap();
    assert_eq!(source.read[&0], ["c"]);
}

/// D60: the end of a stream may be in the data; what is behind it isn't read, also not after a restore.
// scenario: D60, 5.1.13
#[tokio::test]
async fn an_end_of_stream_ends_its_partition_only() {
    let stage = Stage::new(2).await;
    write(&stage, 0, &["a", "end", "behind"]).await;
    write(&stage, 1, &["b", "c"]).await;
    let source = lines(&stage).bounded(StopAt::Latest).end_of_stream(|value| value == "end").build().unwrap();
    let mut source = Source::new(stage, source, 1);
    source.read_on_to_the_end().await.unwrap();
    assert_eq!(
        (&source.read[&0][..], &source.read[&1][..]),
        (&["a".to_owned()][..], &["b".to_owned(), "c".to_owned()][..])
    );
}

/// D30, FLINK-5479: an empty partition, read to its end, does not hold back event time.
// scenario: D30
#[tokio::test]
async fn an_empty_partition_does_not_hold_the_watermark() {
    let stage = Stage::new(2).await;
    let producer = Producer::new(&stage.client, ProducerConfig::default()).unwrap();
    let record = ProducerRecord::to(INPUT).partition(PartitionId(0)).value(b"a").timestamp(1_000_000);
    drop(producer.send(record).await.unwrap());
    producer.flush().await.unwrap();
    let watermarks =
        WatermarkStrategy::monotonous().with_caught_up_idleness(Some(Duration::from_millis(700)));
    let source =
        lines(&stage).watermarks(watermarks).watermark_interval(Duration::from_millis(20)).build().unwrap();
    let mut source = Source::new(stage, source, 1);
    source.until(|source| source.count() == 1).await.unwrap();
    assert_eq!(source.watermark, None, "the other partition may still have older records");
    source.until(|source| source.watermark == Some(999_999)).await.unwrap();
}
