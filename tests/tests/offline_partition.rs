//! A commit while a partition of the transaction has no leader: the coordinator says yes, and what becomes of the marker depends on the
//! broker. Kafka 4.3.1 never writes it; before, it comes when the leader is back. And a commit whose coordinator is dead: the next one does it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::protocol::messages::FindCoordinatorRequest;
use milena::{
    Client, ClientConfig, Isolation, NewTopic, PreparedTransaction, ProducerRecord, Target,
    TransactionConfig, TransactionVersion, TransactionalProducer,
};
use milena_connector::sink::committable::Committable;
use milena_connector::sink::committer::{Committer, failure};
use milena_connector::sink::outcome::{Limits, Outcome};
use milena_testkit::kafka::{KafkaCluster, KafkaOptions, or_skip};
use milena_tests::records::{eventually, values, within};
use milena_tests::unique;

const PARTITIONS: i32 = 6;

async fn coordinator(client: &Client, id: &str) -> i32 {
    let mut request = FindCoordinatorRequest::default();
    request.key_type = 1;
    request.coordinator_keys = vec![id.to_owned().into()];
    loop {
        let answer = client.call(Target::Any, &request).await.unwrap();
        if answer.coordinators[0].error_code == 0 {
            return answer.coordinators[0].node_id.0;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// An id, and two partitions: one led by its coordinator, one by another broker.
async fn cast(client: &Client, topic: &str) -> (String, i32, i32, i32) {
    let known = client.topic(topic).await.unwrap();
    loop {
        let id = unique("txn");
        let at = coordinator(client, &id).await;
        let led = |own: bool| {
            let mut all = known.partitions.iter();
            all.find(|(_, partition)| partition.leader.is_some_and(|leader| (leader.0 == at) == own))
        };
        if let (Some((near, _)), Some((far, partition))) = (led(true), led(false)) {
            return (id, near.0, far.0, partition.leader.unwrap().0);
        }
    }
}

async fn prepare(
    client: &Client,
    topic: &str,
    id: &str,
    version: TransactionVersion,
    partitions: [i32; 2],
) -> PreparedTransaction {
    let config = TransactionConfig { version: Some(version), ..TransactionConfig::new(id) };
    let mut producer = TransactionalProducer::new(client, config).unwrap();
    within("init", producer.init()).await.unwrap();
    producer.begin().await.unwrap();
    for partition in partitions {
        let record = ProducerRecord::to(topic).partition(partition).value("ours");
        within("the write", producer.send(record)).await.unwrap().await.unwrap();
    }
    within("prepare", producer.prepare()).await.unwrap().unwrap()
}

async fn commit(client: &Client, committable: &Committable, visible: Duration) -> Outcome {
    let limits = Limits { visible, ..Limits::default() };
    let sent = || Ok::<_, std::convert::Infallible>(());
    match Committer::new(client.clone(), limits).commit(committable, sent).await {
        Ok(outcome) => outcome,
        Err(never) => match never {},
    }
}

async fn create(client: &Client, name: &str, replicas: i16) -> String {
    let topic = unique(name);
    let mut new = NewTopic::new(&topic, PARTITIONS);
    new.replication = replicas;
    new.configs.push(("min.insync.replicas".to_owned(), replicas.min(2).to_string()));
    let made = client.admin().create_topics(&[new], Duration::from_secs(30)).await.unwrap();
    made[0].1.as_ref().unwrap();
    topic
}

/// The coordinator, which leads one of the partitions, too, is killed when all is prepared.
async fn past_a_dead_coordinator(cluster: &KafkaCluster, client: &Client, version: TransactionVersion) {
    let topic = create(client, "moved", 3).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (id, near, far, _) = cast(client, &topic).await;
    let transaction = prepare(client, &topic, &id, version, [near, far]).await;
    let committable = Committable { checkpoint: 1, subtask: 0, transaction };
    let victim = coordinator(client, &id).await;
    cluster.kill9(victim).await.unwrap();
    let outcome = commit(client, &committable, Duration::from_secs(60)).await;
    let next = coordinator(client, &id).await;
    println!("{version:?} {}: {victim} is dead, {next} coordinates: {outcome:?}", cluster.version());
    assert_ne!(victim, next);
    assert_eq!(outcome, Outcome::Committed { verified: true });
    for partition in [near, far] {
        let look = || values(client, &topic, partition, Isolation::ReadCommitted);
        eventually("readers see it", look, vec![String::from("ours")]).await;
    }
    cluster.restart(victim).await.unwrap();
    cluster.wait_for_members(3).await.unwrap();
    assert_eq!(commit(client, &committable, Duration::from_secs(60)).await, outcome, "once more");
}

// scenario: 5.8.14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: cargo xtask kafka outage"]
async fn a_commit_past_a_dead_leader_is_seen_through() {
    let start = async { KafkaOptions::from_env()?.heap_mib(256).start_cluster(3).await };
    let Some(cluster) = or_skip(start.await) else { return };
    let mut config = ClientConfig::from(cluster.bootstrap());
    config.request_timeout = Duration::from_secs(5);
    let client = Client::connect(config).await.unwrap();
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        if version > client.transaction_version().await.unwrap() {
            continue;
        }
        past_a_dead_coordinator(&cluster, &client, version).await;
        let topic = create(&client, "outage", 1).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (id, near, far, victim) = cast(&client, &topic).await;
        let transaction = prepare(&client, &topic, &id, version, [near, far]).await;
        let committable = Committable { checkpoint: 1, subtask: 0, transaction };

        cluster.kill9(victim).await.unwrap();
        // Long enough for the controller to notice, and for a coordinator to give the partition up.
        let meanwhile = commit(&client, &committable, Duration::from_secs(30)).await;
        println!("{version:?} {}: while broker {victim} is down: {meanwhile:?}", cluster.version());
        assert!(!matches!(meanwhile, Outcome::Committed { .. } | Outcome::Aborted { .. }), "{meanwhile:?}");
        cluster.restart(victim).await.unwrap();
        cluster.wait_for_members(3).await.unwrap();

        let outcome = commit(&client, &committable, Duration::from_secs(40)).await;
        println!("{version:?} {}: when it is back: {outcome:?}", cluster.version());
        if let Outcome::Hanging { open, decided } = &outcome {
            assert!(*decided, "{outcome:?}");
            assert_eq!(open.iter().map(|(tp, _)| tp.partition.0).collect::<Vec<_>>(), [far]);
            let told = failure(&committable, &outcome).unwrap().to_string();
            assert!(told.contains("milena txn finish"), "{told}");
            let committer = Committer::new(client.clone(), Limits::default());
            committer.finish(&committable.transaction, open).await.unwrap();
            println!("{version:?} {}: the commit was finished by a marker", cluster.version());
        }
        let outcome = commit(&client, &committable, Duration::from_secs(40)).await;
        assert_eq!(outcome, Outcome::Committed { verified: true });
        for partition in [near, far] {
            let look = || values(&client, &topic, partition, Isolation::ReadCommitted);
            eventually("readers see it", look, vec![String::from("ours")]).await;
        }
    }
}
