//! Which replica of a real cluster is read: one in the reader's rack (KIP-392), and the new leader when it moves (KIP-951, KIP-320).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use milena::protocol::StrBytes;
use milena::protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use milena::protocol::messages::elect_leaders_request::TopicPartitions;
use milena::protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId as WireBroker, ElectLeadersRequest, TopicName,
};
use milena::{
    Client, ClientConfig, Consumer, ConsumerConfig, NewTopic, Offset, PartitionStatus, Start, Target,
    TopicPartition,
};
use milena_connector::schema::StringDeserializer;
use milena_connector::source::{KafkaSource, ReaderEvent, Split};
use milena_testkit::kafka::{KafkaOptions, or_skip};
use milena_tests::records::{within, write_values};
use milena_tests::unique;

/// Three brokers, each in a rack of its own, that send readers to the replica in theirs.
// scenario: 5.4.40
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_cluster_readers_find_the_replica_of_their_rack_and_leaders_that_move() {
    let start = async {
        let options = KafkaOptions::from_env()?.heap_mib(320);
        let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
        options.property("replica.selector.class", selector).start_cluster(3).await
    };
    let Some(cluster) = or_skip(start.await) else { return };
    let client = Client::connect(cluster.bootstrap()).await.unwrap();
    let topic = unique("racks");
    let mut new = NewTopic::new(&topic, 1);
    new.replication = 3;
    client.admin().create_topics(&[new], Duration::from_secs(30)).await.unwrap()[0].1.as_ref().unwrap();
    let tp = TopicPartition::new(topic.as_str(), 0);
    write_values(&client, &topic, 0, &["a", "b"]).await;
    let leader = client.cluster().leader(&tp).unwrap().0;
    for rack in 1..=3 {
        nearest(&client, &tp, rack, &["a", "b"]).await;
        sourced(&cluster.bootstrap(), &tp, rack, leader).await;
    }
    // The new leader may not know of it yet when it is asked; then the topology has to be looked at.
    let (mut leader, mut learnt, mut records) = (leader, 0, 2);
    for _ in 0..6 {
        learnt += i32::from(moves(&cluster.bootstrap(), &client, &tp, leader, records).await);
        (leader, records) = (next(leader), records + 1);
        if learnt == 2 {
            break;
        }
    }
    assert!(learnt > 0, "no answer said who leads");
    println!("on Kafka {}, {learnt} of {} moves were learnt from answers", cluster.version(), records - 2);
}

/// The next leader.
fn next(leader: i32) -> i32 {
    leader % 3 + 1
}

/// A reader in this rack reads from the broker in it, which every record reaches.
async fn nearest(client: &Client, tp: &TopicPartition, rack: i32, expected: &[&str]) {
    let config = ConsumerConfig { rack: Some(format!("rack-{rack}")), ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(client, config).unwrap();
    consumer.assign([(tp.clone(), Start::At(Offset(0).into()))]);
    let mut read = Vec::new();
    while read.len() < expected.len() {
        let record = within("a record", consumer.recv()).await.unwrap();
        read.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap());
    }
    assert_eq!(read, expected);
    fetching_from(&consumer, tp, rack).await;
}

async fn fetching_from(consumer: &Consumer, tp: &TopicPartition, broker: i32) {
    within("a fetch from there", async {
        loop {
            match consumer.partition(tp).unwrap().status {
                PartitionStatus::Fetching { broker: from } if from.0 == broker => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
}

/// The same for a source: with a rack it opens a connection to the broker in it, which a client otherwise has no reason to.
async fn sourced(bootstrap: &str, tp: &TopicPartition, rack: i32, leader: i32) {
    let source = KafkaSource::<String>::builder()
        .client(ClientConfig::from(bootstrap.to_owned()))
        .partitions([tp.clone()])
        .deserializer(StringDeserializer)
        .rack_supplier(move || Some(format!("rack-{rack}")))
        .build()
        .unwrap();
    let client = Client::connect(source.client_config().clone()).await.unwrap();
    let mut reader = source.reader(&client);
    reader.add_splits(vec![Split::new(tp.clone(), Offset(0))]).unwrap();
    let mut read = Vec::new();
    let mut from = BTreeSet::new();
    // As at the end of the log it waits at the broker, it is seen there.
    for _ in 0..600 {
        match tokio::time::timeout(Duration::from_millis(50), reader.next()).await {
            Ok(event) => {
                if let ReaderEvent::Records(batch) = event.unwrap() {
                    read.extend(batch.elements.into_iter().map(|element| element.value));
                }
            }
            Err(_) => from.extend(reader.metrics().splits[0].read_from.map(|broker| broker.0)),
        }
        if read.len() == 2 && from.contains(&rack) {
            break;
        }
    }
    assert_eq!(read, ["a", "b"]);
    assert!(from.contains(&rack) && from.iter().all(|at| [rack, leader].contains(at)), "{rack}: {from:?}");
}

/// The leader moves, and the reader follows. Whether it learnt from the answer where to, without a look at the topology.
async fn moves(bootstrap: &str, admin: &Client, tp: &TopicPartition, leader: i32, records: i64) -> bool {
    // A client of its own, which nobody else makes look.
    let client = Client::connect(bootstrap.to_owned()).await.unwrap();
    let mut consumer = Consumer::new(&client, ConsumerConfig::default()).unwrap();
    consumer.assign([(tp.clone(), Start::At(Offset(0).into()))]);
    for _ in 0..records {
        within("a record", consumer.recv()).await.unwrap();
    }
    fetching_from(&consumer, tp, leader).await;
    let (before, validations) = (client.cluster().generation(), consumer.metrics().validations);
    let to = next(leader);
    elect(admin, tp, [to, leader, next(to)]).await;
    fetching_from(&consumer, tp, to).await;
    let learnt = client.cluster().generation() == before;
    if learnt {
        assert_eq!(client.cluster().leader(tp).map(|leader| leader.0), Some(leader), "it is old");
    }
    assert!(consumer.metrics().validations > validations, "the new leader was asked about the position");
    write_values(admin, &tp.topic, 0, &["c"]).await;
    let record = within("a record", consumer.recv()).await.unwrap();
    assert_eq!((record.offset(), record.value()), (Offset(records), Some(&b"c"[..])));
    learnt
}

/// Makes the first of these replicas the leader.
async fn elect(client: &Client, tp: &TopicPartition, replicas: [i32; 3]) {
    let name = TopicName(StrBytes::from_string(tp.topic.to_string()));
    let partition = ReassignablePartition::default()
        .with_partition_index(tp.partition.0)
        .with_replicas(Some(replicas.map(WireBroker).to_vec()));
    let topic = ReassignableTopic::default().with_name(name.clone()).with_partitions(vec![partition]);
    let reassign =
        AlterPartitionReassignmentsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    let answer = client.call(Target::Controller, &reassign).await.unwrap();
    assert_eq!((answer.error_code, answer.responses[0].partitions[0].error_code), (0, 0), "{answer:?}");
    let topic = TopicPartitions::default().with_topic(name).with_partitions(vec![tp.partition.0]);
    let elect = ElectLeadersRequest::default()
        .with_election_type(0)
        .with_timeout_ms(10_000)
        .with_topic_partitions(Some(vec![topic]));
    let answer = client.call(Target::Controller, &elect).await.unwrap();
    assert_eq!(answer.error_code, 0, "{answer:?}");
    let code = answer.replica_election_results[0].partition_result[0].error_code;
    assert_eq!(code, 0, "{answer:?}");
}
