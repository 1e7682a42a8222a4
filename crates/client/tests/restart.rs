//! The client while a real Kafka is killed, frozen and started again.

use std::time::{Duration, Instant};

use milena::{Client, ClientConfig, ErrorKind, Isolation, NewTopic, Offset, OffsetSpec, TopicPartition};
use milena_testkit::kafka::{KafkaOptions, or_skip};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_while_the_broker_is_dead_or_frozen_and_go_on_when_it_is_back() {
    let Some(kafka) = or_skip(KafkaOptions::from_env().unwrap().start().await) else { return };
    let mut config = ClientConfig::from(kafka.bootstrap());
    config.request_timeout = Duration::from_secs(3);
    config.api_timeout = Duration::from_secs(8);
    let client = Client::connect(config).await.unwrap();
    let tp = TopicPartition::new("restart", 0);
    client.admin().create_topics(&[NewTopic::new("restart", 1)], Duration::from_secs(10)).await.unwrap();
    let latest = [(tp.clone(), OffsetSpec::Latest)];
    let list = async || client.list_offsets(&latest, Isolation::ReadCommitted).await.unwrap().remove(0).1;
    let group = client.group("restart");
    list().await.unwrap();
    group.commit(&[(tp.clone(), Offset(5).into())]).await.unwrap();

    kafka.pause().await.unwrap();
    let since = Instant::now();
    let error = list().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout), "{error}");
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    kafka.unpause().await.unwrap();
    list().await.unwrap();

    kafka.kill9().await.unwrap();
    let since = Instant::now();
    let error = group.fetch(None, false).await.unwrap_err();
    assert!(error.is_retriable() && error.attempts() > 1, "{error}");
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    kafka.restart().await.unwrap();
    list().await.unwrap();
    let committed = group.fetch(Some(&[tp]), true).await.unwrap().remove(0).1.unwrap();
    assert_eq!(committed.map(|committed| committed.offset), Some(Offset(5)));
}
