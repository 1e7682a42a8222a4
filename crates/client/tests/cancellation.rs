//! Every future of the producers, dropped at each point at which it waits: what was acknowledged is in the log, what was not taken is not,
//! what goes on afterwards goes on, and nothing is left running.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod stops;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use milena::{
    Client, CommittedOffset, GroupMetadata, Isolation, Offset, Producer, ProducerConfig, ProducerRecord,
    Ticket, TopicPartition, TransactionConfig, TransactionVersion, TransactionalProducer,
};
use stops::{TOPIC, at_every_wait, cut};
use support::values;

/// Little memory, so that a record may have to wait for room.
fn small() -> ProducerConfig {
    ProducerConfig {
        batch_size: 1024,
        buffer_memory: 4096,
        linger: Duration::from_millis(2),
        ..ProducerConfig::default()
    }
}

fn record(value: &str) -> ProducerRecord<'_> {
    ProducerRecord::to(TOPIC).value(value)
}

/// Fills the producer's memory; returns what it took.
async fn fill(producer: &Producer) -> Vec<(String, Ticket)> {
    let mut taken = vec![("first".to_owned(), producer.send(record("first")).await.unwrap())];
    for number in 0.. {
        let value = format!("{number} {}", "x".repeat(300));
        match producer.try_send(record(&value)) {
            Ok(ticket) => taken.push((value, ticket)),
            Err(_) => break,
        }
    }
    taken
}

/// What has to be true of a producer whatever was dropped: it takes a last record, flushes, and closes. `sure` was taken; of `perhaps` some
/// first ones were.
async fn conclude(client: &Client, producer: Producer, sure: Vec<(String, Ticket)>, perhaps: &[String]) {
    let last = producer.send(record("last")).await.unwrap();
    producer.flush().await.unwrap();
    assert!(last.result().unwrap().is_ok());
    assert_eq!(producer.metrics().buffered_bytes, 0);
    producer.close(Duration::from_secs(5)).await.unwrap();
    let mut expected: Vec<String> = Vec::new();
    for (value, ticket) in sure {
        assert!(ticket.await.is_ok(), "{value}");
        expected.push(value);
    }
    let found = values(client, TOPIC, 1, Isolation::ReadUncommitted).await.remove(0);
    let some = found.len().checked_sub(expected.len() + 1).unwrap();
    expected.extend(perhaps[..some].iter().cloned());
    expected.push("last".to_owned());
    assert_eq!(found, expected);
}

fn named(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("perhaps {number} {}", "y".repeat(200))).collect()
}

#[test]
fn a_send_to_a_new_topic() {
    at_every_wait("send", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let sent = cut(producer.send(record("sent")), times).await;
        let ended = sent.is_some();
        let sure = sent.map(|ticket| ("sent".to_owned(), ticket.unwrap())).into_iter().collect();
        conclude(&client, producer, sure, &[]).await;
        ended
    });
}

#[test]
fn a_send_that_waits_for_room() {
    at_every_wait("send", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let mut sure = fill(&producer).await;
        let value = "z".repeat(900);
        let sent = cut(producer.send(record(&value)), times).await;
        let ended = sent.is_some();
        sure.extend(sent.map(|ticket| (value.clone(), ticket.unwrap())));
        conclude(&client, producer, sure, &[]).await;
        ended
    });
}

#[test]
fn a_send_with_a_callback() {
    at_every_wait("send_with", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let sure = fill(&producer).await;
        let called = Arc::new(AtomicU32::new(0));
        let note = Arc::clone(&called);
        let value = "z".repeat(900);
        let sent = cut(
            producer.send_with(record(&value), move |result| {
                result.unwrap();
                note.fetch_add(1, Ordering::Relaxed);
            }),
            times,
        )
        .await;
        let ended = sent.is_some();
        let perhaps = if ended { vec![value.clone()] } else { Vec::new() };
        conclude(&client, producer, sure, &perhaps).await;
        assert_eq!(called.load(Ordering::Relaxed), u32::from(ended));
        assert_eq!(Arc::strong_count(&called), 1, "the callback is gone");
        ended
    });
}

#[test]
fn a_send_of_many_records() {
    at_every_wait("send_all", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let names = named(40);
        let records: Vec<_> = names.iter().map(|name| record(name)).collect();
        let ended = cut(producer.send_all(&records), times).await.is_some();
        conclude(&client, producer, Vec::new(), &names).await;
        ended
    });
}

#[test]
fn a_send_of_a_stream() {
    at_every_wait("send_stream", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let names = named(40);
        let stream = futures_util::stream::iter(names.clone());
        let sent = cut(producer.send_stream(stream, |name| record(name)), times).await;
        let ended = sent.inspect(|sent| assert_eq!(*sent.as_ref().unwrap(), 40)).is_some();
        conclude(&client, producer, Vec::new(), &names).await;
        ended
    });
}

#[test]
fn a_flush_a_ticket_and_many_tickets() {
    at_every_wait("flush", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let sure = fill(&producer).await;
        let flushed = cut(producer.flush(), times).await;
        conclude(&client, producer, sure, &[]).await;
        flushed.inspect(|flushed| assert!(flushed.is_ok())).is_some()
    });
    at_every_wait("a ticket", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let mut sure = fill(&producer).await;
        let (value, ticket) = sure.pop().unwrap();
        let settled = cut(ticket, times).await;
        conclude(&client, producer, sure, &[value]).await;
        settled.inspect(|settled| assert!(settled.is_ok())).is_some()
    });
    at_every_wait("tickets", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let names = named(8);
        let records: Vec<_> = names.iter().map(|name| record(name)).collect();
        let tickets = producer.send_all(&records).await.unwrap();
        let settled = cut(tickets, times).await;
        conclude(&client, producer, Vec::new(), &names).await;
        settled.inspect(|settled| assert!(settled.is_ok())).is_some()
    });
}

#[test]
fn a_close() {
    at_every_wait("close", |_, client, times| async move {
        let producer = Producer::new(&client, small()).unwrap();
        let sure = fill(&producer).await;
        let closed = cut(producer.close(Duration::from_secs(60)), times).await;
        assert!(producer.send(record("late")).await.is_err(), "it stays closed");
        let ended = closed.inspect(|closed| assert!(closed.is_ok())).is_some();
        // What was taken is settled in the background, or by another close.
        producer.close(Duration::from_secs(60)).await.unwrap();
        for (value, ticket) in sure {
            assert!(ticket.await.is_ok(), "{value}");
        }
        assert_eq!(producer.metrics().buffered_bytes, 0);
        ended
    });
}

/// A future of a transaction that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Init,
    Send,
    SendAll,
    SendOffsets,
    Flush,
    Prepare,
    EndPrepared,
    Commit,
    Abort,
    Close,
}

fn offsets() -> [(TopicPartition, CommittedOffset); 1] {
    [(TopicPartition::new("in", 0), CommittedOffset::from(Offset(33)))]
}

/// A transaction of which one future is dropped, and done again as its documentation says. Whether it was not dropped.
async fn transaction(client: &Client, version: TransactionVersion, step: Step, times: u32) -> bool {
    let cuts = |now: Step| if now == step { times } else { u32::MAX };
    let mut config = TransactionConfig::new("id");
    config.version = Some(version);
    config.producer = small();
    let mut producer = TransactionalProducer::new(client, config.clone()).unwrap();
    let mut ended = true;
    macro_rules! twice {
        ($step:expr, $future:expr) => {
            match cut($future, cuts($step)).await {
                Some(done) => done.unwrap(),
                None => {
                    ended = false;
                    $future.await.unwrap()
                }
            }
        };
    }
    twice!(Step::Init, producer.init());
    producer.begin().await.unwrap();
    let names = named(20);
    let records: Vec<_> = names.iter().map(|name| record(name)).collect();
    let many = cut(producer.send_all(&records), cuts(Step::SendAll)).await.is_some();
    let value = "z".repeat(900);
    let sent = cut(producer.send(record(&value)), cuts(Step::Send)).await.is_some();
    ended &= many && sent;
    twice!(Step::Flush, producer.flush());
    let group = GroupMetadata::without_member("group");
    twice!(Step::SendOffsets, producer.send_offsets(&offsets(), &group));
    let mut written = true;
    match step {
        Step::Prepare | Step::EndPrepared => {
            let prepared = twice!(Step::Prepare, producer.prepare()).unwrap();
            let transactions = client.transactions();
            twice!(Step::EndPrepared, transactions.end(&prepared, true));
        }
        Step::Abort => {
            twice!(Step::Abort, producer.abort());
            written = false;
        }
        Step::Close => {
            written = false;
            ended = cut(producer.close(Duration::from_secs(60)), times).await.is_some();
            producer = TransactionalProducer::new(client, config).unwrap();
        }
        _ => twice!(Step::Commit, producer.commit()),
    }
    // The next one of the same id finds nothing open, and readers are held up by nothing.
    producer.init().await.unwrap();
    producer.begin().await.unwrap();
    producer.send(record("last")).await.unwrap().await.unwrap();
    producer.commit().await.unwrap();
    assert_eq!(producer.metrics().buffered_bytes, 0);
    let mut found = values(client, TOPIC, 1, Isolation::ReadCommitted).await.remove(0);
    assert_eq!(found.pop().as_deref(), Some("last"));
    let mut expected = names;
    if !many {
        expected.truncate(found.len().saturating_sub(usize::from(sent)));
    }
    expected.extend(sent.then_some(value));
    assert_eq!(found, if written { expected } else { Vec::new() });
    let committed = client.group("group").fetch(Some(&[TopicPartition::new("in", 0)]), true).await.unwrap();
    let committed = committed[0].1.as_ref().unwrap().as_ref().map(|committed| committed.offset.0);
    assert_eq!(committed, written.then_some(33));
    ended
}

#[test]
fn every_step_of_a_transaction() {
    let steps = [
        Step::Init,
        Step::Send,
        Step::SendAll,
        Step::SendOffsets,
        Step::Flush,
        Step::Prepare,
        Step::EndPrepared,
        Step::Commit,
        Step::Abort,
        Step::Close,
    ];
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for step in steps {
            at_every_wait(&format!("{step:?} of {version:?}"), |_, client, times| async move {
                transaction(&client, version, step, times).await
            });
        }
    }
}
