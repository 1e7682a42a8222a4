//! The producer on the embedded broker, with faults.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use milena::{
    Acks, Client, ErrorCode, ErrorKind, Idempotence, Isolation, Producer, ProducerConfig, ProducerRecord,
    Ticket,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use milena_testkit::listen::EmbeddedBroker;
use support::{INIT_PRODUCER_ID, PRODUCE, embedded, values};

const TOPIC: &str = "t";

async fn broker(partitions: i32) -> (EmbeddedBroker, Client) {
    embedded(BrokerConfig::default().with_topic(TOPIC, partitions)).await
}

fn producer(client: &Client, change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    let mut config = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
    change(&mut config);
    Producer::new(client, config).unwrap()
}

async fn send(producer: &Producer, partition: i32, value: &str) -> Ticket {
    producer.send(ProducerRecord::to(TOPIC).partition(partition).value(value)).await.unwrap()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

// scenario: D15
#[tokio::test]
async fn every_fault_on_the_way_leaves_each_record_once_and_in_order() {
    let faults = [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS),
        Fault::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER),
        Fault::Error(ErrorCode::UNKNOWN_PRODUCER_ID),
        Fault::Error(ErrorCode::REQUEST_TIMED_OUT),
        Fault::Delay(Duration::from_millis(30)),
    ];
    for fault in faults {
        for skip in [0, 1, 4] {
            let (broker, client) = broker(2).await;
            let producer = producer(&client, |config| config.batch_size = 256);
            broker.faults().on_after(skip, PRODUCE, fault, 2);
            let mut tickets = Vec::new();
            for value in numbers(200) {
                tickets.push(send(&producer, 0, &value).await);
                tickets.push(send(&producer, 1, &value).await);
                if tickets.len() % 40 == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            producer.flush().await.unwrap_or_else(|error| panic!("{fault:?} after {skip}: {error}"));
            for (place, ticket) in tickets.into_iter().enumerate() {
                let metadata = ticket.await.unwrap();
                assert_eq!(
                    metadata.offset.map(|offset| offset.0),
                    Some(place as i64 / 2),
                    "{fault:?} after {skip}"
                );
            }
            let found = values(&client, TOPIC, 2, Isolation::ReadUncommitted).await;
            assert_eq!(found, [numbers(200), numbers(200)], "{fault:?} after {skip}");
            assert_eq!(broker.faults().unused(), [], "{fault:?} after {skip}");
            assert_eq!(producer.metrics().buffered_bytes, 0);
        }
    }
}

#[tokio::test]
async fn batches_over_the_limit_are_split_in_order_also_when_answers_are_lost() {
    let config = BrokerConfig { max_message_bytes: 300, ..BrokerConfig::default() }.with_topic(TOPIC, 1);
    let (broker, client) = embedded(config).await;
    let producer = producer(&client, |config| config.linger = Duration::from_millis(5));
    broker.faults().on_after(3, PRODUCE, Fault::DropAfter, 2);
    let mut tickets = Vec::new();
    for value in numbers(500) {
        tickets.push(send(&producer, 0, &value).await);
    }
    producer.flush().await.unwrap();
    for (place, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.unwrap().offset.map(|offset| offset.0), Some(place as i64));
    }
    assert!(producer.metrics().splits > 5);
    assert_eq!(producer.metrics().buffered_bytes, 0);
    assert_eq!(values(&client, TOPIC, 1, Isolation::ReadUncommitted).await, [numbers(500)]);
}

#[tokio::test]
async fn a_restart_of_the_broker_loses_and_doubles_nothing() {
    let (broker, client) = broker(3).await;
    let producer = producer(&client, |config| config.batch_size = 512);
    for round in 0..6 {
        for number in 0..50 {
            for partition in 0..3 {
                drop(send(&producer, partition, &(round * 50 + number).to_string()).await);
            }
        }
        broker.restart();
    }
    producer.flush().await.unwrap();
    let found = values(&client, TOPIC, 3, Isolation::ReadUncommitted).await;
    assert_eq!(found, vec![numbers(300); 3]);
}

#[tokio::test]
async fn a_record_whose_time_is_up_says_whether_it_may_be_written() {
    let (broker, client) = broker(1).await;
    let short = |config: &mut ProducerConfig| {
        config.delivery_timeout = Duration::from_millis(400);
        config.request_timeout = Duration::from_millis(300);
    };
    let producer = producer(&client, short);
    broker.faults().on(PRODUCE, Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS), 1000);
    let error = send(&producer, 0, "a").await.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.maybe_applied() && error.to_string().contains("not written"), "{error}");
    assert!(error.to_string().contains("NOT_ENOUGH_REPLICAS"), "the cause is named: {error}");

    broker.faults().clear();
    broker.faults().on(PRODUCE, Fault::DropAfter, 1);
    broker.faults().on(PRODUCE, Fault::Silence, 1000);
    let error = send(&producer, 0, "b").await.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.maybe_applied() && error.to_string().contains("possibly written"), "{error}");

    broker.faults().clear();
    let _ = producer.flush().await;
    send(&producer, 0, "c").await.await.unwrap();
    let found = values(&client, TOPIC, 1, Isolation::ReadUncommitted).await;
    assert_eq!(found, [["b", "c"]]);
}

#[tokio::test]
async fn memory_is_bounded_and_send_waits_for_it() {
    let (broker, client) = broker(4).await;
    let budget = 64 * 1024;
    let producer = producer(&client, |config| {
        config.buffer_memory = budget;
        config.batch_size = 8 * 1024;
        config.linger = Duration::from_secs(60);
    });
    drop(send(&producer, 0, "first").await);
    producer.flush().await.unwrap();
    broker.faults().on(PRODUCE, Fault::Delay(Duration::from_millis(200)), 2);
    let value = "x".repeat(500);
    let (mut taken, mut most) = (0, 0);
    let error = loop {
        match producer.try_send(ProducerRecord::to(TOPIC).value(&value)) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        most = most.max(producer.metrics().buffered_bytes);
    };
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(most <= budget as u64 && taken > 50, "{most} bytes, {taken} records");
    // `linger` is a minute: only the wait for room can send what is open.
    for _ in 0..500 {
        let sent = tokio::time::timeout(
            Duration::from_secs(10),
            producer.send(ProducerRecord::to(TOPIC).value(&value)),
        );
        drop(sent.await.expect("room comes back").unwrap());
        assert!(producer.metrics().buffered_bytes <= budget as u64);
    }
    producer.flush().await.unwrap();
    assert_eq!(producer.metrics().records, taken + 501);
    assert_eq!(producer.metrics().buffered_bytes, 0);
}

#[tokio::test]
async fn a_send_that_was_dropped_while_it_waited_took_nothing() {
    let (broker, client) = broker(1).await;
    let producer = producer(&client, |config| {
        config.buffer_memory = 4096;
        config.batch_size = 1024;
    });
    drop(send(&producer, 0, "first").await);
    producer.flush().await.unwrap();
    broker.faults().on(PRODUCE, Fault::Delay(Duration::from_millis(150)), 1);
    let value = "v".repeat(700);
    let mut taken = 1;
    while producer.try_send(ProducerRecord::to(TOPIC).value(&value)).is_ok() {
        taken += 1;
    }
    for _ in 0..20 {
        let late = producer.send(ProducerRecord::to(TOPIC).value("never"));
        tokio::pin!(late);
        let pending =
            std::future::poll_fn(|cx| std::task::Poll::Ready(late.as_mut().poll(cx).is_pending())).await;
        if !pending {
            taken += 1;
        }
    }
    drop(send(&producer, 0, "last").await);
    producer.flush().await.unwrap();
    let found = values(&client, TOPIC, 1, Isolation::ReadUncommitted).await.remove(0);
    assert_eq!(found.len(), taken + 1);
    assert_eq!(found.last().map(String::as_str), Some("last"));
}

#[tokio::test]
async fn flush_does_not_wait_for_what_was_sent_after_it_and_reports_its_own() {
    let (broker, client) = broker(2).await;
    let producer = producer(&client, |config| config.linger = Duration::from_secs(30));
    drop(send(&producer, 0, "a").await);
    let started = Instant::now();
    producer.flush().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "a flush does not linger");

    broker.faults().on(PRODUCE, Fault::Error(ErrorCode::INVALID_RECORD), 1);
    drop(send(&producer, 0, "bad").await);
    assert_eq!(producer.flush().await.unwrap_err().code(), Some(ErrorCode::INVALID_RECORD));
    drop(send(&producer, 0, "b").await);
    producer.flush().await.unwrap();

    // A failure between two flushes belongs to the second.
    broker.faults().on(PRODUCE, Fault::Error(ErrorCode::INVALID_RECORD), 1);
    let quick = self::producer(&client, |_| {});
    let ticket = send(&quick, 1, "bad").await;
    while ticket.result().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(quick.flush().await.is_err());
    quick.flush().await.unwrap();
}

#[tokio::test]
async fn close_and_drop_end_in_time_without_a_broker() {
    let (broker, client) = broker(1).await;
    let closing = producer(&client, |_| {});
    let dropped = producer(&client, |config| config.delivery_timeout = Duration::from_secs(4));
    send(&closing, 0, "a").await.await.unwrap();
    broker.stop().await;
    let lost = send(&closing, 0, "lost").await;
    let other = send(&dropped, 0, "dropped").await;
    let started = Instant::now();
    drop(dropped);
    assert!(started.elapsed() < Duration::from_secs(3), "drop does not block");
    assert!(closing.close(Duration::from_millis(300)).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(lost.await.is_err());
    let kind = closing.send(ProducerRecord::to(TOPIC).value("x")).await.unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Closed);
    let other = tokio::time::timeout(Duration::from_secs(30), other).await.expect("it fails in time");
    assert!(other.is_err());
}

#[tokio::test]
async fn a_producer_that_was_dropped_still_delivers() {
    let (_broker, client) = broker(1).await;
    let producer = producer(&client, |config| config.linger = Duration::from_secs(60));
    let ticket = send(&producer, 0, "a").await;
    drop(producer);
    ticket.await.unwrap();
}

#[tokio::test]
async fn idempotence_is_asked_for_once_and_only_when_wanted() {
    let (broker, client) = broker(1).await;
    let plain = [
        (Acks::All, Idempotence::Off),
        (Acks::Leader, Idempotence::WhenPossible),
        (Acks::None, Idempotence::WhenPossible),
    ];
    for (acks, idempotence) in plain {
        let plain = producer(&client, |config| (config.acks, config.idempotence) = (acks, idempotence));
        broker.faults().on(INIT_PRODUCER_ID, Fault::Silence, 1);
        send(&plain, 0, "x").await.await.unwrap();
        assert_eq!(broker.faults().unused().len(), 1, "{acks:?}");
        broker.faults().clear();
    }
    let idempotent = producer(&client, |_| {});
    broker.faults().on(INIT_PRODUCER_ID, Fault::Error(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS), 2);
    send(&idempotent, 0, "y").await.await.unwrap();
    assert_eq!(broker.faults().unused(), []);
    broker.faults().on(INIT_PRODUCER_ID, Fault::Error(ErrorCode::CLUSTER_AUTHORIZATION_FAILED), 1);
    let refused = producer(&client, |_| {});
    let error = send(&refused, 0, "z").await.await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED), "{error}");
    assert!(refused.send(ProducerRecord::to(TOPIC).value("z")).await.is_err());
}

#[tokio::test]
async fn the_time_of_a_record_is_not_old_while_its_batch_waits_for_a_slow_broker() {
    let (broker, client) = broker(1).await;
    for linger in [0, 1, 5, 50] {
        let producer = producer(&client, |config| config.linger = Duration::from_millis(linger));
        send(&producer, 0, "first").await.await.unwrap();
        broker.faults().on(PRODUCE, Fault::Delay(Duration::from_millis(400)), 1);
        let mut tickets = Vec::new();
        for _ in 0..12 {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
                as i64;
            tickets.push((now, send(&producer, 0, "x").await));
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        for (sent, ticket) in tickets {
            let late = sent - ticket.await.unwrap().timestamp;
            assert!((-5..=20).contains(&late), "linger {linger} ms: {late} ms old");
        }
    }
}

#[tokio::test]
async fn what_can_not_be_sent_is_refused_at_once() {
    let (_broker, client) = broker(2).await;
    let producer = producer(&client, |_| {});
    let large = vec![0; 2 << 20];
    let cases = [
        (ProducerRecord::to(TOPIC).value(&large), ErrorKind::Misuse),
        (ProducerRecord::to(TOPIC).partition(2).value("x"), ErrorKind::Misuse),
        (ProducerRecord::to(TOPIC).partition(-1).value("x"), ErrorKind::Misuse),
    ];
    for (record, kind) in cases {
        assert_eq!(producer.send(record).await.unwrap_err().kind(), kind);
    }
    assert_eq!(producer.try_send(ProducerRecord::to("new").value("x")).unwrap_err().kind(), ErrorKind::Full);
}

#[tokio::test]
async fn records_sent_in_one_call_are_those_of_as_many_calls() {
    let mut dice = 7_u64;
    let mut below = |limit: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % limit
    };
    for linger in [0, 5] {
        let (_broker, client) = broker(3).await;
        let producer = producer(&client, |config| {
            config.linger = Duration::from_millis(linger);
            config.batch_size = 2000;
        });
        let other_name = TOPIC.to_owned();
        let headers = [milena::Header::new("h", Some(b"1"))];
        let mut expected = vec![Vec::new(); 3];
        let mut place = 0;
        for call in 0..60 {
            let values: Vec<String> = (0..1 + below(80))
                .map(|number| {
                    let size = if below(30) == 0 { 3000 } else { below(60) };
                    format!("{call} {number} {}", "x".repeat(size as usize))
                })
                .collect();
            let before = now_ms();
            let records: Vec<_> = values
                .iter()
                .map(|value| {
                    if below(6) == 0 {
                        place = below(3) as usize;
                    }
                    let topic = if below(8) == 0 { &other_name } else { TOPIC };
                    let mut record = ProducerRecord::to(topic).partition(place as i32).value(value);
                    if below(9) == 0 {
                        record = record.headers(&headers);
                    }
                    if below(4) == 0 {
                        record = record.key(value);
                    }
                    if below(7) == 0 {
                        record = record.timestamp(before - below(1 << 30) as i64);
                    }
                    record
                })
                .collect();
            let tickets = producer.send_all(&records).await.unwrap();
            assert_eq!(tickets.len(), records.len());
            for ((record, value), ticket) in records.iter().zip(&values).zip(tickets.each()) {
                let partition = record.partition.unwrap().0 as usize;
                let offset = expected[partition].len() as i64;
                expected[partition].push(value.clone());
                let metadata = ticket.await.unwrap();
                assert_eq!(metadata.offset.map(|offset| offset.0), Some(offset), "{value}");
                assert_eq!(metadata.topic_partition.partition.0 as usize, partition);
                match record.timestamp {
                    Some(time) => assert_eq!(metadata.timestamp, time),
                    None => assert!((before - 1000..=now_ms()).contains(&metadata.timestamp), "{metadata:?}"),
                }
            }
        }
        assert!(values(&client, TOPIC, 3, Isolation::ReadUncommitted).await == expected, "linger {linger}");
    }
}

fn now_ms() -> i64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_send_at_once_and_each_keeps_its_order() {
    let (broker, client) = broker(3).await;
    let producer = Arc::new(producer(&client, |config| config.batch_size = 2048));
    broker.faults().on_after(5, PRODUCE, Fault::DropAfter, 3);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let producer = Arc::clone(&producer);
            tokio::spawn(async move {
                for number in 0..500 {
                    drop(send(&producer, task % 3, &format!("{task}:{number}")).await);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    producer.flush().await.unwrap();
    let found = values(&client, TOPIC, 3, Isolation::ReadUncommitted).await;
    for task in 0..8usize {
        let own: Vec<&String> =
            found[task % 3].iter().filter(|value| value.starts_with(&format!("{task}:"))).collect();
        let expected: Vec<String> = (0..500).map(|number| format!("{task}:{number}")).collect();
        assert!(own.iter().copied().eq(&expected), "task {task}");
    }
}
