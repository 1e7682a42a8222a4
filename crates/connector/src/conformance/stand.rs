//! One case's topics, and what can be seen of them on the brokers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use milena::protocol::types::Isolation;
use milena::{
    Client, ClientConfig, Consumer, ConsumerConfig, ListFilter, NewTopic, Offset, OffsetSpec, Producer,
    ProducerConfig, ProducerRecord, Start, TopicPartition, TransactionState,
};

use super::watched::{Broken, Watched};
use super::{Checked, End, Host, Life, Lived};
use crate::contract::{KafkaSource, Sink, Source};
use crate::runtime::{Chain, Identity};
use crate::schema::{Emit, OwnedKafkaRecord, RecordDeserializer, SinkRecord, serialize_with};
use crate::sink::{Delivery, KafkaSink};
use crate::source::{KafkaSourceBuilder, StartFrom, StopAt};

pub(super) const PARTITIONS: i32 = 4;
/// How long topics may take to be made, and groups' offsets and markers to be seen.
const WITHIN: Duration = Duration::from_secs(30);
/// How often there is a look.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Stand {
    client: Client,
    config: ClientConfig,
    name: String,
    pub(super) records: u64,
    pub(super) patience: Duration,
    dir: PathBuf,
    broken: Broken,
}

/// A life whose host is watched.
pub(super) type Trial<C> =
    Life<Watched<KafkaSource<OwnedKafkaRecord>>, C, Watched<KafkaSink<OwnedKafkaRecord>>>;

pub(super) fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(otherwise()) }
}

pub(super) fn said(error: impl std::fmt::Display) -> String {
    format!("the suite itself can't go on: {error}")
}

impl Stand {
    /// Makes the topics.
    pub(super) async fn new(config: ClientConfig, name: String, records: u64) -> Result<Self, String> {
        let client = Client::connect(config.clone()).await.map_err(said)?;
        let dir = std::env::temp_dir().join(format!("milena-{name}-{}", std::process::id()));
        let broken = Broken::default();
        let stand = Self { client, config, name, records, patience: WITHIN, dir, broken };
        let topics = [NewTopic::new(stand.input(), PARTITIONS), NewTopic::new(stand.output(), PARTITIONS)];
        for (_, made) in stand.client.admin().create_topics(&topics, WITHIN).await.map_err(said)? {
            made.map_err(said)?;
        }
        Ok(stand)
    }

    /// Fills the input: the number of a record says its partition and its place.
    pub(super) async fn fill(&self) -> Checked {
        let record = |number| (partition_of(number), number, None);
        self.produce((0..self.records).map(record)).await
    }

    /// Writes records of the input: partition, number, and timestamp.
    pub(super) async fn produce(
        &self,
        records: impl IntoIterator<Item = (i32, u64, Option<i64>)>,
    ) -> Checked {
        let producer = Producer::new(&self.client, ProducerConfig::default()).map_err(said)?;
        let topic = self.input();
        for (partition, number, timestamp) in records {
            let value = number.to_string();
            let mut record = ProducerRecord::to(&topic).partition(partition).value(&value);
            record.timestamp = timestamp;
            drop(producer.send(record).await.map_err(said)?);
            // Several batches, so that there is room for barriers.
            if number % 100 == 99 {
                producer.flush().await.map_err(said)?;
            }
        }
        producer.close(WITHIN).await.map_err(said)
    }

    /// Another folder of the case.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn input(&self) -> String {
        format!("{}.in", self.name)
    }

    fn output(&self) -> String {
        format!("{}.out", self.name)
    }

    /// A life of the case's job. `refused` is a number that the sink can't serialize.
    pub(super) fn life(
        &self,
        delivery: Delivery,
        parallelism: u32,
        end: End,
        refused: Option<u64>,
    ) -> Result<Trial<Identity<OwnedKafkaRecord>>, String> {
        let source = self.source().bounded(StopAt::Latest).build().map_err(said)?;
        let sink = self.sink(delivery, refused)?;
        Ok(self.trial(source, Identity::default(), sink, parallelism, end))
    }

    pub(super) fn trial<C>(
        &self,
        source: KafkaSource<OwnedKafkaRecord>,
        functions: C,
        sink: KafkaSink<OwnedKafkaRecord>,
        parallelism: u32,
        end: End,
    ) -> Trial<C> {
        Life {
            source: Watched::new(source, &self.broken),
            functions,
            sink: Watched::new(sink, &self.broken),
            parallelism,
            dir: self.folder("own"),
            from: None,
            savepoint: None,
            interval: Duration::from_millis(100),
            end,
        }
    }

    pub(super) fn source(&self) -> KafkaSourceBuilder<OwnedKafkaRecord> {
        KafkaSource::builder()
            .client(self.config.clone())
            .topics([self.input()])
            .group_id(self.name.as_str())
            .start(StartFrom::Earliest)
            .deserializer(RecordDeserializer::new())
    }

    pub(super) fn sink(
        &self,
        delivery: Delivery,
        refused: Option<u64>,
    ) -> Result<KafkaSink<OwnedKafkaRecord>, String> {
        let topic: Arc<str> = self.output().into();
        let refused = refused.map(|number| number.to_string());
        let copy = move |record: &OwnedKafkaRecord, _: i64, out: &mut SinkRecord| {
            let value = record.value.as_deref().unwrap_or_default();
            if refused.as_ref().is_some_and(|refused| refused.as_bytes() == value) {
                return Err("an element that can't be serialized".into());
            }
            out.set_topic(Arc::clone(&topic)).set_partition(record.partition).set_value(value);
            Ok(Emit::Write)
        };
        KafkaSink::builder()
            .client(self.config.clone())
            .delivery(delivery)
            .transactional_id_prefix(self.name.as_str())
            .transaction_timeout(Duration::from_secs(60))
            .serializer(serialize_with(copy))
            .build()
            .map_err(said)
    }

    /// Runs a life, and sees that nothing was called out of order in it.
    pub(super) async fn run<S, C, K>(&self, host: &impl Host, life: Life<S, C, K>) -> Result<Lived, String>
    where
        S: Source<Element = OwnedKafkaRecord>,
        C: Chain<OwnedKafkaRecord, Out = OwnedKafkaRecord>,
        K: Sink<OwnedKafkaRecord>,
    {
        let end = life.end;
        let lived = host.live(life).await;
        match self.broken.first() {
            Some(rule) => Err(rule),
            None => lived.map_err(|error| format!("a life that is to end by {end:?} failed: {error}")),
        }
    }

    pub(super) async fn live(
        &self,
        host: &impl Host,
        delivery: Delivery,
        parallelism: u32,
        end: End,
    ) -> Result<Lived, String> {
        let life = self.life(delivery, parallelism, end, None)?;
        self.run(host, life).await
    }

    /// What readers of committed records see, by partition, in order.
    async fn seen(&self) -> Result<BTreeMap<i32, Vec<u64>>, String> {
        self.lines(|text| text.parse().ok()).await
    }

    /// The same of values that are not numbers.
    pub(super) async fn lines<T>(
        &self,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<BTreeMap<i32, Vec<T>>, String> {
        let mut seen = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let at = TopicPartition::new(self.output(), partition);
            let lines: &mut Vec<T> = seen.entry(partition).or_default();
            let end = self.ends(std::slice::from_ref(&at)).await?.remove(&at).unwrap_or(Offset(0));
            let config = ConsumerConfig {
                isolation: Isolation::ReadCommitted,
                progress: true,
                ..ConsumerConfig::default()
            };
            let mut consumer = Consumer::new(&self.client, config).map_err(said)?;
            consumer.assign([(at.clone(), Start::At(Offset(0).into()))]);
            let mut next = Offset(0);
            while next < end {
                let part = consumer.poll(WITHIN).await.map_err(said)?;
                let part = part.ok_or_else(|| format!("{at} can't be read from {next} to {end}"))?;
                for record in &part {
                    let value = record.map_err(said)?.value.map(String::from_utf8_lossy).unwrap_or_default();
                    lines.push(parse(&value).ok_or_else(|| format!("a record of {at} is {value:?}"))?);
                }
                next = part.next_offset();
            }
        }
        Ok(seen)
    }

    /// The ends of partitions for readers of committed records.
    async fn ends(&self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Offset>, String> {
        let asked: Vec<_> = of.iter().map(|at| (at.clone(), OffsetSpec::Latest)).collect();
        let listed = self.client.list_offsets(&asked, Isolation::ReadCommitted).await.map_err(said)?;
        let mut ends = BTreeMap::new();
        for (at, end) in listed {
            ends.insert(at, end.map_err(said)?.offset.unwrap_or(Offset(0)));
        }
        Ok(ends)
    }

    /// How many records are visible.
    pub(super) async fn visible(&self) -> Result<u64, String> {
        self.settled().await?;
        Ok(self.seen().await?.values().map(|numbers| numbers.len() as u64).sum())
    }

    /// Each record is there once, in its partition, in its order; nothing is open.
    pub(super) async fn check_exact(&self) -> Checked {
        self.settled().await?;
        let seen = self.seen().await?;
        for (partition, numbers) in seen {
            let expected = (0..self.records).filter(|number| partition_of(*number) == partition);
            let wrong = expected.clone().zip(&numbers).find(|(expected, seen)| expected != *seen);
            if let Some((expected, seen)) = wrong {
                return Err(format!(
                    "partition {partition}: {expected} is expected next, and {seen} is there"
                ));
            }
            let count = expected.count();
            must(count == numbers.len(), || {
                format!("partition {partition}: {} records of {count} are there", numbers.len())
            })?;
        }
        Ok(())
    }

    /// Each record is there at least once.
    pub(super) async fn check_at_least(&self) -> Checked {
        let seen: std::collections::BTreeSet<u64> = self.seen().await?.into_values().flatten().collect();
        let lost = (0..self.records).find(|number| !seen.contains(number));
        lost.map_or(Ok(()), |number| Err(format!("{number} is lost")))
    }

    /// The group stands at the end of the input: lag tools show 0.
    pub(super) async fn check_offsets(&self) -> Checked {
        let inputs: Vec<_> = (0..PARTITIONS).map(|n| TopicPartition::new(self.input(), n)).collect();
        let ends = self.ends(&inputs).await?;
        let committed = self.client.group(&self.name).fetch(Some(&inputs), true).await.map_err(said)?;
        for (at, committed) in committed {
            let committed = committed.map_err(said)?.map(|committed| committed.offset);
            let end = ends.get(&at).copied();
            must(committed == end, || {
                format!(
                    "the group's offset of {at} is {committed:?} at the end of the job, and its end is {end:?}"
                )
            })?;
        }
        Ok(())
    }

    /// Waits until no transaction of the case is open. Markers come after the answer to a commit.
    pub(super) async fn settled(&self) -> Checked {
        let give_up = tokio::time::Instant::now() + self.patience;
        let prefix = Some(format!("{}-", self.name));
        let filter = ListFilter { states: vec![TransactionState::Ongoing], prefix, ..ListFilter::default() };
        loop {
            let open = match self.client.transactions().list(&filter).await {
                Ok(open) => open,
                // Before 3.0 nobody can tell; records that are stuck are missed when they are counted.
                Err(error) if error.kind() == milena::ErrorKind::Unsupported => return Ok(()),
                Err(error) => return Err(said(error)),
            };
            if open.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= give_up {
                let ids: Vec<_> = open.into_iter().map(|listing| listing.id).collect();
                return Err(format!("transactions are left open: {ids:?}"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Removes what the case made.
    pub(super) async fn clear(&self) {
        let topics = [self.input(), self.output()];
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        // Leftovers change nothing for other cases: their names are their own.
        let _ = self.client.admin().delete_topics(&topics).await;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Neither evenly nor by the number alone, so that a host that mixes up partitions is noticed.
pub(super) fn partition_of(number: u64) -> i32 {
    i32::try_from((number ^ (number >> 3)) % PARTITIONS.unsigned_abs() as u64).unwrap_or(0)
}
