//! Brokers of every line of Kafka that needs a ZooKeeper: start, kill, restart, what stays, clean up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

use std::time::{Duration, Instant};

use milena_testkit::kafka::{Kafka, KafkaOptions, Route, or_skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The answer to Metadata v0, the one version that all of them speak, without its length and correlation id.
async fn metadata(address: &str, topics: &[&str]) -> std::io::Result<Vec<u8>> {
    let ask = async {
        let mut request = vec![0, 3, 0, 0, 0, 0, 0, 9, 0, 1, b't'];
        request.extend(u32::try_from(topics.len()).unwrap().to_be_bytes());
        for topic in topics {
            request.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
            request.extend(topic.as_bytes());
        }
        let mut stream = TcpStream::connect(address).await?;
        stream.write_u32(u32::try_from(request.len()).unwrap()).await?;
        stream.write_all(&request).await?;
        let mut answer = vec![0; usize::try_from(stream.read_u32().await?).unwrap()];
        stream.read_exact(&mut answer).await?;
        assert_eq!(answer[..4], [0, 0, 0, 9]);
        Ok(answer.split_off(4))
    };
    tokio::time::timeout(Duration::from_secs(20), ask).await?
}

/// The answer about everything once the topic is in it: a broker learns of brokers and of partitions one after the other.
async fn metadata_with(kafka: &Kafka, topic: &str) -> Vec<u8> {
    let started = Instant::now();
    loop {
        let answer = metadata(kafka.bootstrap(), &[]).await.unwrap();
        if answer.windows(topic.len()).any(|window| window == topic.as_bytes()) {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no {topic} in {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asking for a topic creates it; its logs' folders follow.
async fn create_topic(kafka: &Kafka, topic: &str) {
    let folder = kafka.log_dir().unwrap().join(format!("{topic}-0"));
    let started = Instant::now();
    while !folder.is_dir() {
        metadata(kafka.bootstrap(), &[topic]).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(60), "no {}", folder.display());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn lives_through_kills(version: &str) {
    let options = KafkaOptions::from_env().unwrap().version(version).unwrap().route(Route::Jvm);
    let Some(kafka) = or_skip(options.start().await) else { return };
    let address = kafka.bootstrap().to_owned();
    let data = kafka.log_dir().unwrap();
    assert_eq!(kafka.version(), version);
    create_topic(&kafka, "kept").await;
    kafka.kill9().await.unwrap();
    assert!(metadata(&address, &[]).await.is_err());
    // The killed broker's registration is still in ZooKeeper: a restart has to outwait it.
    kafka.restart().await.unwrap();
    let answer = metadata_with(&kafka, "kept").await;
    // One broker, with its id and address.
    let mut broker = vec![0, 0, 0, 1, 0, 0, 0, 1, 0, 9];
    broker.extend(b"127.0.0.1");
    broker.extend(address.rsplit(':').next().unwrap().parse::<u32>().unwrap().to_be_bytes());
    assert!(answer.starts_with(&broker), "{version}: {answer:?}");
    kafka.restart().await.unwrap();
    metadata_with(&kafka, "kept").await;
    drop(kafka);
    assert!(metadata(&address, &[]).await.is_err());
    assert!(!data.exists());
}

macro_rules! versions {
    ($($name:ident $version:literal)*) => {
        $(
            #[tokio::test]
            #[ignore = "takes its own broker of an old version: `cargo xtask kafka matrix` runs it"]
            async fn $name() {
                lives_through_kills($version).await;
            }
        )*
    };
}

versions! {
    kafka_0_8_2_2_survives_kill_and_restart "0.8.2.2"
    kafka_0_9_0_1_survives_kill_and_restart "0.9.0.1"
    kafka_0_10_0_1_survives_kill_and_restart "0.10.0.1"
    kafka_0_10_2_2_survives_kill_and_restart "0.10.2.2"
    kafka_0_11_0_3_survives_kill_and_restart "0.11.0.3"
    kafka_1_0_2_survives_kill_and_restart "1.0.2"
    kafka_1_1_1_survives_kill_and_restart "1.1.1"
    kafka_2_0_1_survives_kill_and_restart "2.0.1"
    kafka_2_4_1_survives_kill_and_restart "2.4.1"
    kafka_2_8_2_survives_kill_and_restart "2.8.2"
}
