//! The launchers of real brokers: start, kill, restart, freeze, clean up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

use std::time::{Duration, Instant};

use milena_testkit::kafka::{Kafka, KafkaCluster, KafkaErrorKind, KafkaOptions, Route, or_skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// ApiVersions v0 with an empty client id.
const API_VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0, 0];

async fn answers(address: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&API_VERSIONS).await?;
        let mut head = [0; 10];
        stream.read_exact(&mut head).await?;
        std::io::Result::Ok(head.ends_with(&[0, 0, 0, 1, 0, 0]))
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}

async fn lives_through_kills(kafka: Kafka) {
    let address = kafka.bootstrap().to_owned();
    assert!(answers(&address).await);
    kafka.kill9().await.unwrap();
    assert!(!answers(&address).await);
    kafka.kill9().await.unwrap();
    kafka.restart().await.unwrap();
    assert!(answers(&address).await);
    kafka.pause().await.unwrap();
    assert!(!answers(&address).await);
    assert!(TcpStream::connect(&address).await.is_ok());
    kafka.unpause().await.unwrap();
    assert!(answers(&address).await);
    kafka.stop().await.unwrap();
    assert!(!answers(&address).await);
    kafka.restart().await.unwrap();
    assert!(answers(&address).await);
    drop(kafka);
    assert!(!answers(&address).await);
}

async fn start(route: Route) -> Option<Kafka> {
    let started = Instant::now();
    let kafka = or_skip(KafkaOptions::from_env().unwrap().route(route).start().await)?;
    println!("{} at {} after {:.1?}", kafka.how(), kafka.bootstrap(), started.elapsed());
    Some(kafka)
}

#[tokio::test]
async fn jvm_broker_survives_kill_freeze_and_stop() {
    if let Some(kafka) = start(Route::Jvm).await {
        lives_through_kills(kafka).await;
    }
}

#[cfg(feature = "containers")]
#[tokio::test]
async fn container_broker_survives_kill_freeze_and_stop() {
    let absent = std::env::var("MILENA_KAFKA_ROUTE").is_ok_and(|route| route == "jvm");
    if absent {
        return;
    }
    if let Some(kafka) = start(Route::Container).await {
        lives_through_kills(kafka).await;
    }
}

#[tokio::test]
async fn cluster_survives_the_death_of_any_broker() {
    let Some(cluster) = or_skip(KafkaCluster::start(3).await) else { return };
    let bootstrap = cluster.bootstrap();
    let addresses: Vec<&str> = bootstrap.split(',').collect();
    assert_eq!(addresses.len(), 3);
    cluster.kill9(2).await.unwrap();
    assert!(answers(addresses[0]).await && !answers(addresses[1]).await && answers(addresses[2]).await);
    cluster.restart(2).await.unwrap();
    cluster.wait_for_members(3).await.unwrap();
    assert_eq!(cluster.kill9(4).await.unwrap_err().kind(), KafkaErrorKind::Misuse);
    assert_eq!(cluster.kill9(0).await.unwrap_err().kind(), KafkaErrorKind::Misuse);
}

#[tokio::test]
async fn a_broker_that_cannot_start_is_an_error_with_its_log() {
    let options = KafkaOptions::from_env().unwrap().route(Route::Jvm).property("node.id", "not-a-number");
    let outcome = options.start().await;
    if let Err(error) = &outcome
        && error.kind() == KafkaErrorKind::Absent
    {
        or_skip(outcome);
        return;
    }
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), KafkaErrorKind::Start);
    assert!(error.to_string().contains("not-a-number"), "{error}");
}
