//! What producing allocates, counted on the client's only thread: nothing for a record, a little for a batch.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // in a test a panic is the report

use std::time::Duration;

use allocation_counter::measure;
use milena::{Client, Producer, ProducerConfig, ProducerRecord};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;

const TOPIC: &str = "t";
const PARTITIONS: i32 = 4;

/// A broker on a thread of its own, whose allocations do not count.
fn broker() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = BrokerConfig::default().with_topic(TOPIC, PARTITIONS);
            let broker = EmbeddedBroker::start(config).await.unwrap();
            tell.send(broker.bootstrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}

async fn producer(bootstrap: &str) -> Producer {
    let client = Client::connect(bootstrap).await.unwrap();
    // Batches end when they are full, not by time: so many there are, however slow the machine is.
    let config = ProducerConfig {
        linger: Duration::from_secs(60),
        batch_size: 64 * 1024,
        delivery_timeout: Duration::from_secs(120),
        ..ProducerConfig::default()
    };
    Producer::new(&client, config).unwrap()
}

fn record(value: &[u8], number: u32) -> ProducerRecord<'_> {
    ProducerRecord::to(TOPIC).partition((number % PARTITIONS as u32) as i32).value(value)
}

#[test]
fn a_record_allocates_nothing_from_send_to_its_acknowledgement() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let value = [7; 100];
    let producer = runtime.block_on(producer(&broker()));
    let send = async |count: u32| {
        for number in 0..count {
            drop(producer.send(record(&value, number)).await.unwrap());
        }
        producer.flush().await.unwrap();
    };
    // Connections, topics, and the size of batches.
    runtime.block_on(send(20_000));
    let batches = producer.metrics().batches;
    let records = 100_000;
    let info = measure(|| runtime.block_on(send(records)));
    let batches = producer.metrics().batches - batches;
    println!("{records} records, {batches} batches: {} allocations", info.count_total);
    assert!(batches < 300, "{batches} batches of 64 KiB");
    // The state of a batch, its place in two queues, its piece of a request and of an answer.
    assert!(info.count_total < batches * 60, "{} allocations for {batches} batches", info.count_total);
    assert!(info.count_total < u64::from(records) / 5);
}

#[test]
fn neither_tickets_nor_runs_of_records_allocate_while_their_batch_is_open() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let value = [7; 100];
    let producer = runtime.block_on(producer(&broker()));
    runtime.block_on(async {
        for number in 0..20_000 {
            drop(producer.send(record(&value, number)).await.unwrap());
        }
        producer.flush().await.unwrap();
        for number in 0..4 {
            drop(producer.send(record(&value, number)).await.unwrap());
        }
    });
    let one = measure(|| {
        for number in 0..400 {
            drop(producer.try_send(record(&value, number)).unwrap());
        }
    });
    assert_eq!(one.count_total, 0, "for 400 records");
    let run = [ProducerRecord::to(TOPIC).partition(0).value(&value); 100];
    let many = measure(|| drop(runtime.block_on(producer.send_all(&run)).unwrap()));
    assert!(many.count_total <= 2, "{} allocations for the tickets of a run", many.count_total);
    runtime.block_on(producer.flush()).unwrap();
}
