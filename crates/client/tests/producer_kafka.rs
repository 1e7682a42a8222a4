//! The producer against a real Kafka.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

mod support;

use std::time::Duration;

use milena::{
    Acks, Compression, Header, Isolation, PartitionId, Partitioner, Producer, ProducerConfig, ProducerRecord,
};
use support::{CODECS, read, real, topic, topic_with, values};

#[tokio::test]
async fn every_codec_keyed_and_unkeyed_arrives_whole_and_in_order() {
    let Some((_kafka, client)) = real().await else { return };
    for codec in CODECS {
        let name = topic(&client, &format!("codec-{codec}"), 3).await;
        let config = ProducerConfig { compression: codec, batch_size: 4096, ..ProducerConfig::default() };
        let producer = Producer::new(&client, config).unwrap();
        let mut tickets = Vec::new();
        for number in 0..3000u32 {
            let (key, value) = (format!("key-{}", number % 17), format!("{number:06}"));
            let headers = [Header::new("n", Some(b"1")), Header::new("n", None)];
            let record = ProducerRecord::to(&name).value(&value).headers(&headers);
            let record = if number % 2 == 0 { record.key(&key) } else { record };
            tickets.push((number, producer.send(record).await.unwrap()));
        }
        producer.flush().await.unwrap();
        let mut written = vec![Vec::new(); 3];
        for (number, ticket) in tickets {
            let metadata = ticket.await.unwrap();
            let place = metadata.topic_partition.partition.0 as usize;
            written[place].push((metadata.offset.unwrap().0, metadata.timestamp, format!("{number:06}")));
        }
        let mut total = 0;
        for (partition, written) in written.iter().enumerate() {
            let records = read(&client, &name, partition as i32, Isolation::ReadUncommitted).await;
            let found: Vec<_> = records
                .iter()
                .map(|r| {
                    (r.offset.0, r.timestamp, String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap())
                })
                .collect();
            let differs = found.iter().zip(written).find(|(found, written)| found != written);
            assert_eq!(differs, None, "{codec} {partition}");
            assert_eq!(found.len(), written.len(), "{codec} {partition}");
            for record in &records {
                assert_eq!(record.headers.len(), 2);
                if let Some(key) = &record.key {
                    let expected = milena_core::partition::keyed(key, 3).unwrap();
                    assert_eq!(expected, PartitionId(partition as i32));
                }
            }
            total += records.len();
        }
        assert_eq!(total, 3000);
        producer.close(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn acks_none_and_leader_write_too() {
    let Some((_kafka, client)) = real().await else { return };
    for acks in [Acks::None, Acks::Leader] {
        let name = topic(&client, "acks", 1).await;
        let producer = Producer::new(&client, ProducerConfig { acks, ..ProducerConfig::default() }).unwrap();
        for number in 0..100 {
            let ticket = producer.send(ProducerRecord::to(&name).value(&number.to_string())).await.unwrap();
            if number == 99 {
                assert_eq!(ticket.await.unwrap().offset.is_some(), acks == Acks::Leader);
            }
        }
        producer.close(Duration::from_secs(10)).await.unwrap();
        // Without acks the records may still be on their way.
        let mut found = Vec::new();
        for _ in 0..100 {
            found = values(&client, &name, 1, Isolation::ReadUncommitted).await.remove(0);
            if found.len() == 100 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(found, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_batch_over_max_message_bytes_is_split_and_a_record_over_it_named() {
    let Some((_kafka, client)) = real().await else { return };
    let name = topic_with(&client, "large", 1, &[("max.message.bytes", "2000")]).await;
    let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
    let values: Vec<String> = (0..100).map(|number| format!("{number:0>200}")).collect();
    let mut tickets = Vec::new();
    for value in &values {
        tickets.push(producer.send(ProducerRecord::to(&name).value(value)).await.unwrap());
    }
    producer.flush().await.unwrap();
    for (place, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.unwrap().offset.unwrap().0, place as i64);
    }
    assert!(producer.metrics().splits > 0);
    assert_eq!(support::values(&client, &name, 1, Isolation::ReadUncommitted).await, [values]);

    let ticket = producer.send(ProducerRecord::to(&name).value(&vec![0; 5000])).await.unwrap();
    let error = ticket.await.unwrap_err();
    assert!(error.to_string().contains("max.message.bytes"), "{error}");
    assert!(!error.maybe_applied());
    assert!(producer.flush().await.is_err(), "nobody else reported it");
    producer.flush().await.unwrap();
}

#[tokio::test]
async fn partitioners_choose_as_they_say() {
    let Some((_kafka, client)) = real().await else { return };
    let custom = Partitioner::Custom(std::sync::Arc::new(|view| PartitionId(view.partitions as i32 - 1)));
    let cases = [(Partitioner::RoundRobin, vec![20; 5]), (custom, vec![0, 0, 0, 0, 100])];
    for (partitioner, expected) in cases {
        let name = topic(&client, "choice", 5).await;
        let config =
            ProducerConfig { partitioner, compression: Compression::Lz4, ..ProducerConfig::default() };
        let producer = Producer::new(&client, config).unwrap();
        for number in 0..100 {
            drop(
                producer.send(ProducerRecord::to(&name).key(b"k").value(&number.to_string())).await.unwrap(),
            );
        }
        producer.flush().await.unwrap();
        let found = values(&client, &name, 5, Isolation::ReadUncommitted).await;
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn a_killed_broker_loses_and_doubles_nothing() {
    let Some((kafka, client)) = real().await else { return };
    if !kafka.is_ours() {
        eprintln!("SKIPPED a_killed_broker_loses_and_doubles_nothing: this broker is not ours to kill");
        return;
    }
    let name = topic(&client, "killed", 2).await;
    let producer =
        Producer::new(&client, ProducerConfig { batch_size: 2048, ..ProducerConfig::default() }).unwrap();
    let sender = {
        let (producer, name) = (producer.clone(), name.clone());
        tokio::spawn(async move {
            for number in 0..20_000 {
                let value = number.to_string();
                drop(
                    producer
                        .send(ProducerRecord::to(&name).partition(number % 2).value(&value))
                        .await
                        .unwrap(),
                );
                if number % 60 == 0 {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    kafka.kill9().await.unwrap();
    assert!(!sender.is_finished(), "it is killed in the middle");
    kafka.restart().await.unwrap();
    sender.await.unwrap();
    producer.flush().await.unwrap();
    let found = values(&client, &name, 2, Isolation::ReadUncommitted).await;
    for (partition, found) in found.iter().enumerate() {
        let expected: Vec<String> = (0..10_000).map(|number| (number * 2 + partition).to_string()).collect();
        let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!((differs, found.len()), (None, expected.len()));
    }
}
