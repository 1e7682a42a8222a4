//! The producer: acknowledgements, batching, limits, errors, and its end.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use milena::{
    Acks, Client, Compression, ErrorCode, ErrorKind, Idempotence, Isolation, NewTopic, Producer,
    ProducerConfig, ProducerRecord, TopicPartition,
};
use milena_testkit::check::Judge;
use milena_tests::Env;
use milena_tests::records::{batches, eventually, read, text, values, within, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_say_where_each_record_went() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("tickets", 3).await;
        let records: Vec<(String, String)> =
            (0..300).map(|number| (format!("key-{}", number % 11), number.to_string())).collect();
        let config = ProducerConfig { batch_size: 1024, ..ProducerConfig::default() };
        let places = write(
            &client,
            config,
            records.iter().map(|(key, value)| ProducerRecord::to(&topic).key(key).value(value).timestamp(77)),
        )
        .await;
        let mut logs = Vec::new();
        for partition in 0..3 {
            let tp = TopicPartition::new(topic.as_str(), partition);
            logs.push(read(&client, &tp, Isolation::ReadUncommitted).await);
        }
        assert_eq!(logs.iter().map(Vec::len).sum::<usize>(), 300);
        for ((key, value), place) in records.iter().zip(places) {
            let log = &logs[place.topic_partition.partition.0 as usize];
            let record = &log[place.offset.unwrap().0 as usize];
            assert_eq!(text(record.key.as_deref()), *key, "{}", env.describe());
            assert_eq!(text(record.value.as_deref()), *value);
            assert_eq!((place.timestamp, record.timestamp), (77, 77));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_acknowledgement_writes_in_order() {
    for env in Env::each().await {
        let client = env.client().await;
        for (acks, idempotence) in [
            (Acks::All, Idempotence::Required),
            (Acks::All, Idempotence::Off),
            (Acks::Leader, Idempotence::Off),
            (Acks::None, Idempotence::Off),
        ] {
            let topic = env.topic("acks", 1).await;
            let config = ProducerConfig {
                acks,
                idempotence,
                max_in_flight: 1,
                batch_size: 512,
                ..ProducerConfig::default()
            };
            let expected: Vec<String> = (0..200).map(|number| format!("{number:04}")).collect();
            let records = expected.iter().map(|value| ProducerRecord::to(&topic).value(value));
            let places = write(&client, config, records).await;
            for (number, place) in places.iter().enumerate() {
                let offset = place.offset.map(|offset| offset.0);
                assert_eq!(offset, (acks != Acks::None).then_some(number as i64), "{acks:?}");
            }
            eventually(env.describe(), || values(&client, &topic, 0, Isolation::ReadUncommitted), expected)
                .await;
            let tp = TopicPartition::new(topic.as_str(), 0);
            let found = batches(&client, &tp, Isolation::ReadUncommitted).await;
            assert!(
                found
                    .iter()
                    .all(|batch| batch.producer_id().is_some() == (idempotence == Idempotence::Required)),
                "{acks:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn linger_gathers_records_and_batch_size_divides_them() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("gather", 2).await;
        let value = "v".repeat(100);
        let count = |partition: i32| {
            let (client, tp) = (client.clone(), TopicPartition::new(topic.as_str(), partition));
            async move {
                let found = batches(&client, &tp, Isolation::ReadUncommitted).await;
                let largest = found.iter().map(|batch| batch.len_bytes()).max().unwrap_or(0);
                (found.len(), largest)
            }
        };
        let record = |partition: i32| ProducerRecord::to(&topic).partition(partition).value(&value);
        // A first record, so that the others do not wait for the producer id.
        let patient = ProducerConfig { linger: Duration::from_millis(1500), ..ProducerConfig::default() };
        let producer = Producer::new(&client, patient).unwrap();
        producer.send(record(0)).await.unwrap().await.unwrap();
        let begun = Instant::now();
        let mut tickets = Vec::new();
        for _ in 0..50 {
            tickets.push(producer.send(record(0)).await.unwrap());
        }
        for ticket in tickets {
            within("a lingering record", ticket).await.unwrap();
        }
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(1000), "{}: {waited:?}", env.describe());
        assert_eq!(count(0).await.0, 2, "{}", env.describe());
        // A flush does not wait for the linger to pass.
        let hasty = ProducerConfig { linger: Duration::from_secs(100), ..ProducerConfig::default() };
        write(&client, hasty, (0..2).map(|_| record(0))).await;

        let small =
            ProducerConfig { batch_size: 1000, linger: Duration::from_secs(1), ..ProducerConfig::default() };
        write(&client, small, (0..50).map(|_| record(1))).await;
        let (many, largest) = count(1).await;
        assert!((6..=50).contains(&many) && largest <= 1000, "{}: {many}, {largest}", env.describe());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_too_large_are_errors_that_name_the_limit() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.name("large");
        let mut limited = NewTopic::new(&topic, 1);
        limited.configs.push(("max.message.bytes".to_owned(), "3000".to_owned()));
        let made = client.admin().create_topics(&[limited], Duration::from_secs(30)).await.unwrap();
        made[0].1.as_ref().unwrap();
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        let (good, over_topic, over_request) = ("g".repeat(100), "t".repeat(5_000), "r".repeat(2_000_000));

        let error =
            match within("a large record", producer.send(ProducerRecord::to(&topic).value(&over_request)))
                .await
            {
                Ok(ticket) => ticket.await.unwrap_err(),
                Err(error) => error,
            };
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains("max_request_size"), "{error}");

        let ticket = producer.send(ProducerRecord::to(&topic).value(&over_topic)).await.unwrap();
        let error = within("the refusal", ticket).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::MESSAGE_TOO_LARGE), "{}: {error}", env.describe());
        assert!(
            error.to_string().contains("max.message.bytes") && error.to_string().contains(&topic),
            "{error}"
        );
        assert!(!error.maybe_applied());

        // Small records that were gathered into a batch over the limit arrive all the same.
        let mut tickets = Vec::new();
        for _ in 0..100 {
            tickets.push(producer.send(ProducerRecord::to(&topic).value(&good)).await.unwrap());
        }
        for ticket in tickets {
            within("a small record", ticket).await.unwrap();
        }
        assert_eq!(values(&client, &topic, 0, Isolation::ReadUncommitted).await.len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_empty_and_headers_keep_their_difference() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("null", 1).await;
        let headers = [
            milena::Header::new("", Some(b"")),
            milena::Header::new("twice", Some(b"\xff\x00")),
            milena::Header::new("twice", None),
            // Brokers do not look whether a name is UTF-8.
            milena::Header::new(b"caf\xe9", Some(b"1")),
        ];
        let records = [
            ProducerRecord::to(&topic),
            ProducerRecord::to(&topic).key("").value(""),
            ProducerRecord::to(&topic).key("k").headers(&headers),
        ];
        let config = ProducerConfig { compression: Compression::Snappy, ..ProducerConfig::default() };
        write(&client, config, records).await;
        let found = read(&client, &TopicPartition::new(topic.as_str(), 0), Isolation::ReadUncommitted).await;
        assert_eq!((found[0].key.as_deref(), found[0].value.as_deref()), (None, None), "{}", env.describe());
        assert_eq!((found[1].key.as_deref(), found[1].value.as_deref()), (Some(&b""[..]), Some(&b""[..])));
        assert_eq!((found[2].key.as_deref(), found[2].value.as_deref()), (Some(&b"k"[..]), None));
        let found: Vec<_> = found[2].headers().collect();
        assert_eq!(found, headers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_not_there_is_an_error_and_a_closed_producer_refuses() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("refuse", 2).await;
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        let error =
            within("the refusal", producer.send(ProducerRecord::to(&topic).partition(2).value("x"))).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}: {error}", env.describe());
        assert!(error.to_string().contains(&topic), "{error}");
        let ticket = producer.send(ProducerRecord::to(&topic).partition(1).value("x")).await.unwrap();
        // What was taken is written before the end.
        producer.close(Duration::from_secs(20)).await.unwrap();
        ticket.await.unwrap();
        let error = producer.send(ProducerRecord::to(&topic).value("x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
}

/// Several tasks share a producer with little memory: all of it arrives, in each task's order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_with_little_memory_write_everything_in_order() {
    for env in Env::each().await {
        let client: Client = env.client().await;
        let topic = env.topic("shared", 4).await;
        let config = ProducerConfig {
            batch_size: 2_000,
            buffer_memory: 20_000,
            compression: Compression::Lz4,
            ..ProducerConfig::default()
        };
        let producer = Producer::new(&client, config).unwrap();
        let tasks: Vec<_> = (0..6u64)
            .map(|task| {
                let (producer, topic) = (producer.clone(), topic.clone());
                tokio::spawn(async move {
                    for number in 0..400 {
                        let (key, value) = (format!("task-{task}"), (task * 1000 + number).to_string());
                        let record = ProducerRecord::to(&topic).key(&key).value(&value);
                        drop(producer.send(record).await.unwrap());
                    }
                })
            })
            .collect();
        let mut judge = Judge::new();
        for (task, handle) in (0..6u64).zip(tasks) {
            within("a task", handle).await.unwrap();
            for number in 0..400 {
                judge.expect(format!("task-{task}").as_bytes(), task * 1000 + number);
            }
        }
        within("the flush", producer.flush()).await.unwrap();
        for partition in 0..4 {
            let tp = TopicPartition::new(topic.as_str(), partition);
            for record in read(&client, &tp, Isolation::ReadUncommitted).await {
                let number = text(record.value.as_deref()).parse().unwrap();
                judge.see(&topic, partition, record.offset.0, record.key.as_deref().unwrap(), number);
            }
        }
        let verdict = judge.verdict();
        assert!(verdict.is_clean(), "{}: {verdict}", env.describe());
        assert_eq!(producer.metrics().records, 2400);
        assert_eq!(producer.metrics().buffered_bytes, 0);
    }
}
