//! A stage for sources: a broker in memory on virtual time, a log of numbered records, and readers that follow it.
#![allow(dead_code, reason = "each test file uses its part of the stage")]

use std::collections::BTreeMap;
use std::time::Duration;

use milena::{
    Client, ClientConfig, Offset, PartitionId, Producer, ProducerConfig, ProducerRecord, TopicPartition,
    TransactionConfig, TransactionalProducer, transport,
};
use milena_connector::Result;
use milena_connector::schema::StringDeserializer;
use milena_connector::source::{KafkaSource, KafkaSourceBuilder, ReaderEvent, SourceReader, Split};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;

pub(crate) const TOPIC: &str = "t";

/// A broker with one topic, and a client that reaches it.
pub(crate) struct Stage {
    pub(crate) broker: EmbeddedBroker,
    pub(crate) client: Client,
    pub(crate) config: ClientConfig,
}

/// What one writer does to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
}

pub(crate) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, PartitionId(partition))
}

pub(crate) fn split(partition: i32, from: i64, stop: Option<i64>) -> Split {
    Split::new(tp(partition), Offset(from)).with_stop(stop.map(Offset))
}

impl Stage {
    pub(crate) async fn new(partitions: i32) -> Self {
        Self::with(BrokerConfig::default().with_topic(TOPIC, partitions)).await
    }

    pub(crate) async fn with(config: BrokerConfig) -> Self {
        let broker = EmbeddedBroker::in_memory(BrokerConfig { auto_create_topics: false, ..config });
        let dialled = broker.clone();
        let mut config =
            ClientConfig::new([broker.bootstrap()]).with_dialer(transport::from_fn(move |_, _| {
                let stream = dialled.connect();
                async move { Ok(stream) }
            }));
        config.api_timeout = Duration::from_secs(10);
        config.request_timeout = Duration::from_secs(5);
        let client = Client::connect(config.clone()).await.unwrap();
        Self { broker, client, config }
    }

    pub(crate) fn builder(&self) -> KafkaSourceBuilder<String> {
        KafkaSource::builder().client(self.config.clone()).topics([TOPIC]).deserializer(StringDeserializer)
    }

    pub(crate) fn reader(&self, splits: Vec<Split>) -> SourceReader<String> {
        self.reader_of(self.builder(), splits)
    }

    pub(crate) fn reader_of(
        &self,
        builder: KafkaSourceBuilder<String>,
        splits: Vec<Split>,
    ) -> SourceReader<String> {
        let mut reader = builder.build().unwrap().reader(&self.client);
        reader.add_splits(splits).unwrap();
        reader
    }

    /// Writes one batch of numbers; the timestamp of n is n.
    pub(crate) async fn write(&self, partition: i32, numbers: impl IntoIterator<Item = i64>) {
        let producer = Producer::new(&self.client, ProducerConfig::default()).unwrap();
        for number in numbers {
            let value = number.to_string();
            let record = ProducerRecord::to(TOPIC).partition(partition).value(&value).timestamp(number);
            drop(producer.send(record).await.unwrap());
        }
        producer.flush().await.unwrap();
        producer.close(Duration::from_secs(5)).await.unwrap();
    }

    /// Opens a transaction and writes numbers into it; dropping it leaves it open.
    pub(crate) async fn open(
        &self,
        id: &str,
        partition: i32,
        numbers: impl IntoIterator<Item = i64>,
    ) -> TransactionalProducer {
        let mut producer = TransactionalProducer::new(&self.client, TransactionConfig::new(id)).unwrap();
        producer.init().await.unwrap();
        producer.begin().await.unwrap();
        for number in numbers {
            let value = number.to_string();
            let record = ProducerRecord::to(TOPIC).partition(partition).value(&value).timestamp(number);
            drop(producer.send(record).await.unwrap());
        }
        producer.flush().await.unwrap();
        producer
    }

    pub(crate) async fn transaction(&self, partition: i32, numbers: impl IntoIterator<Item = i64>, end: End) {
        let mut producer = self.open("writer", partition, numbers).await;
        match end {
            End::Commit => producer.commit().await.unwrap(),
            End::Abort => producer.abort().await.unwrap(),
        }
        producer.close(Duration::from_secs(5)).await.unwrap();
    }

    /// Log start, last stable offset and end.
    pub(crate) fn offsets(&self, partition: i32) -> (i64, i64, i64) {
        self.broker.with_broker(|broker| broker.offsets(TOPIC, partition)).unwrap()
    }
}

/// What was handed out of each partition, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(pub(crate) BTreeMap<i32, Vec<i64>>);

impl Seen {
    pub(crate) fn take(&mut self, event: &ReaderEvent<String>) {
        if let ReaderEvent::Records(batch) = event {
            let numbers = self.0.entry(batch.topic_partition.partition.0).or_default();
            numbers.extend(batch.elements.iter().map(|element| element.value.parse::<i64>().unwrap()));
        }
    }

    pub(crate) fn of(&self, partition: i32) -> &[i64] {
        self.0.get(&partition).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// The next event; none for a minute of virtual time is a hang.
pub(crate) async fn next(reader: &mut SourceReader<String>) -> Result<ReaderEvent<String>> {
    tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("the reader hangs")
}

/// The next error, behind whatever comes before it.
pub(crate) async fn error(reader: &mut SourceReader<String>, seen: &mut Seen) -> milena_connector::Error {
    loop {
        match next(reader).await {
            Ok(event) => seen.take(&event),
            Err(error) => return error,
        }
    }
}

/// Reads to the end of all splits.
pub(crate) async fn drain(reader: &mut SourceReader<String>) -> Seen {
    let mut seen = Seen::default();
    reader.no_more_splits();
    loop {
        match next(reader).await.unwrap() {
            ReaderEvent::Finished => return seen,
            event => seen.take(&event),
        }
    }
}

/// Reads until so many records were handed out.
pub(crate) async fn read(reader: &mut SourceReader<String>, count: usize) -> Seen {
    let mut seen = Seen::default();
    while seen.len() < count {
        seen.take(&next(reader).await.unwrap());
    }
    seen
}

/// Random batches, transactions and open ends in three partitions. What readers of committed records see of each.
pub(crate) async fn random_log(stage: &Stage, dice: &mut Dice) -> BTreeMap<i32, Vec<i64>> {
    let mut expected: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut number = 0;
    for _ in 0..14 {
        let partition = i32::try_from(dice.roll(3)).unwrap();
        let count = 1 + i64::try_from(dice.roll(5)).unwrap();
        let numbers: Vec<i64> = (number..number + count).collect();
        number += count;
        let visible = match dice.roll(3) {
            0 => {
                stage.write(partition, numbers.clone()).await;
                true
            }
            1 => {
                stage.transaction(partition, numbers.clone(), End::Commit).await;
                true
            }
            _ => {
                stage.transaction(partition, numbers.clone(), End::Abort).await;
                false
            }
        };
        if visible {
            expected.entry(partition).or_default().extend(numbers);
        }
    }
    expected
}

/// Three splits that stop where the log ends now.
pub(crate) fn until_end(stage: &Stage) -> Vec<Split> {
    (0..3).map(|partition| split(partition, 0, Some(stage.offsets(partition).1))).collect()
}

/// A small generator of random numbers with a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
