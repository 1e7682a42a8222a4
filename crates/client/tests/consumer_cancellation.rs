//! Futures of the consumer dropped at every await point: nothing is lost, nothing comes twice, nothing hangs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use milena::{
    Client, Compression, Consumer, ConsumerConfig, Offset, OffsetSpec, Producer, ProducerConfig,
    ProducerRecord, Start, TopicPartition,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use support::embedded;

/// Only a hang takes so long.
const LONG: Duration = Duration::from_secs(30);
/// No future here is polled more often before it is done.
const MOST_POLLS: usize = 6;
const RECORDS: usize = 600;
const PORTION: usize = 10;
const OFFSET_COMMIT: i16 = 8;

/// Polls a future `polls` times, each after it was woken, and drops it when it would be polled once more. `None` if it was not done by then.
async fn cut<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        let Some(rest) = left.checked_sub(1) else { return Poll::Ready(None) };
        left = rest;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll: dropped on the spot every other time, else when something happened that it waits for.
            Poll::Pending if left == 0 && polls.is_multiple_of(2) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn write(client: &Client, topic: &str, numbers: std::ops::Range<usize>, compression: Compression) {
    let config = ProducerConfig { batch_size: 700, compression, ..ProducerConfig::default() };
    let producer = Producer::new(client, config).unwrap();
    for number in numbers {
        for partition in 0..2 {
            let value = number.to_string();
            let record = ProducerRecord::to(topic).partition(partition).value(&value);
            drop(producer.send(record).await.unwrap());
        }
    }
    producer.flush().await.unwrap();
}

/// A consumer that waits often: little comes at a time.
fn consumer(client: &Client, topic: &str, group: Option<String>) -> Consumer {
    let config = ConsumerConfig { group, max_bytes: 1000, ..ConsumerConfig::default() };
    let consumer = Consumer::new(client, config).unwrap();
    consumer.assign(tps(topic).map(|tp| (tp, Start::Earliest)));
    consumer
}

fn tps(topic: &str) -> impl Iterator<Item = TopicPartition> {
    (0..2).map(move |partition| TopicPartition::new(topic, partition))
}

/// What came of each partition so far.
#[derive(Default)]
struct Seen([usize; 2]);

impl Seen {
    /// The next record of its partition, no other.
    fn take(&mut self, tp: &TopicPartition, value: Option<&[u8]>) {
        let next = &mut self.0[tp.partition.0 as usize];
        assert_eq!(std::str::from_utf8(value.unwrap()).unwrap(), next.to_string(), "{tp}");
        *next += 1;
    }

    fn all(&self) -> bool {
        self.0 == [RECORDS; 2]
    }
}

#[tokio::test]
async fn records_come_once_whichever_call_is_dropped_wherever() {
    let (_broker, client) = embedded(BrokerConfig::default()).await;
    for compression in [Compression::None, Compression::Zstd] {
        let topic = support::topic(&client, "cut", 2).await;
        let mut consumer = consumer(&client, &topic, None);
        // A little at a time, each time when all before was read: so there is always something to wait for.
        let (hungry, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let writing = {
            let (client, topic) = (client.clone(), topic.clone());
            tokio::spawn(async move {
                while let Some(from) = asked.recv().await {
                    write(&client, &topic, from..from + PORTION, compression).await;
                }
            })
        };
        let (mut seen, mut waited, mut written) = (Seen::default(), 0, 0);
        let reading = async {
            for turn in 0.. {
                if seen.all() {
                    break;
                }
                if seen.0 == [written; 2] {
                    hungry.send(written).unwrap();
                    written += PORTION;
                }
                // In an order without a pattern. Most waits are over at the second poll, so most are dropped around it.
                let draw = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                let polls = [1, 0, 2, 1, 3, 1, 5][(draw % 7) as usize];
                let done = match draw / 7 % 4 {
                    0 => match cut(polls, consumer.recv()).await {
                        Some(record) => {
                            let record = record.unwrap();
                            seen.take(record.tp(), record.value());
                            true
                        }
                        None => false,
                    },
                    1 => match cut(polls, consumer.next()).await {
                        Some(record) => {
                            let record = record.unwrap();
                            seen.take(record.tp, record.record.value);
                            true
                        }
                        None => false,
                    },
                    2 => match cut(polls, consumer.poll(LONG)).await {
                        Some(part) => {
                            let part = part.unwrap().unwrap();
                            for record in &part {
                                seen.take(part.tp(), record.unwrap().value);
                            }
                            true
                        }
                        None => false,
                    },
                    _ => match cut(polls, consumer.stream().next()).await {
                        Some(record) => {
                            let record = record.unwrap().unwrap();
                            seen.take(record.tp(), record.value());
                            true
                        }
                        None => false,
                    },
                };
                waited += usize::from(!done && polls > 0);
                if !done {
                    // What was dropped waits for nobody: the tasks go on.
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::time::timeout(LONG, reading).await.expect("it hangs");
        drop(hungry);
        writing.await.unwrap();
        assert!(waited > 20, "{waited}");
        assert!(tokio::time::timeout(Duration::from_millis(200), consumer.recv()).await.is_err());
    }
}

/// What the group committed.
async fn committed(client: &Client, group: &str, topic: &str) -> Vec<Option<Offset>> {
    let wanted: Vec<_> = tps(topic).collect();
    let found = client.group(group).fetch(Some(&wanted), false).await.unwrap();
    found.into_iter().map(|(_, found)| found.unwrap().map(|found| found.offset)).collect()
}

#[tokio::test]
async fn a_commit_goes_on_when_its_future_is_dropped_and_the_newest_wins() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "cut-commit", 2).await;
    write(&client, &topic, 0..RECORDS, Compression::None).await;
    for polls in 0..MOST_POLLS {
        let group = support::unique("cut-group");
        let mut consumer = consumer(&client, &topic, Some(group.clone()));
        for round in 0..3 {
            // Slow answers, so that there is something to wait for.
            broker.faults().on(OFFSET_COMMIT, Fault::Delay(Duration::from_millis(20)), 1);
            for _ in 0..100 {
                consumer.recv().await.unwrap();
            }
            match round {
                0 => drop(cut(polls, consumer.commit()).await),
                1 => drop(cut(polls, consumer.begin_commit().unwrap().done()).await),
                _ => consumer.begin_commit().map(drop).unwrap(),
            }
        }
        let stands: Vec<_> =
            tps(&topic).map(|tp| consumer.position(&tp).map(|position| position.offset)).collect();
        // Closing waits for what was begun.
        tokio::time::timeout(LONG, consumer.close(LONG)).await.expect("it hangs").unwrap();
        assert_eq!(committed(&client, &group, &topic).await, stands, "after {polls} polls");
    }
}

#[tokio::test]
async fn a_dropped_close_or_lookup_leaves_the_client_usable() {
    let (broker, client) = embedded(BrokerConfig::default()).await;
    let topic = support::topic(&client, "cut-close", 2).await;
    write(&client, &topic, 0..RECORDS, Compression::None).await;
    for polls in 0..MOST_POLLS {
        let group = support::unique("cut-close");
        let mut consumer = consumer(&client, &topic, Some(group.clone()));
        let lookups = tps(&topic).map(|tp| (tp, OffsetSpec::Latest)).collect::<Vec<_>>();
        drop(cut(polls, consumer.offsets(&lookups)).await);
        for found in consumer.offsets(&lookups).await.unwrap() {
            assert_eq!(found.1.unwrap().offset, Some(Offset(RECORDS as i64)));
        }
        consumer.recv().await.unwrap();
        consumer.commit().await.unwrap();
        let before = committed(&client, &group, &topic).await;
        for _ in 0..50 {
            consumer.recv().await.unwrap();
        }
        let stands: Vec<_> =
            tps(&topic).map(|tp| consumer.position(&tp).map(|position| position.offset)).collect();
        broker.faults().on(OFFSET_COMMIT, Fault::Delay(Duration::from_millis(20)), 1);
        consumer.begin_commit().map(drop).unwrap();
        drop(cut(polls, consumer.close(LONG)).await);
        // The commit was done or not, as a whole, and never an older one after it.
        let after = committed(&client, &group, &topic).await;
        assert!(after == before || after == stands, "{before:?}, {after:?}, {stands:?}");
        broker.faults().clear();
    }
}
