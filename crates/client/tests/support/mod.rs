//! What the producers' tests share: brokers, topics, and reading back what was written.

#![allow(dead_code, unreachable_pub)] // each test binary uses a part

use std::time::Duration;

use milena::{
    Client, ClientConfig, Compression, FetchFrom, FetchOptions, Isolation, NewTopic, Offset, OffsetSpec,
    OwnedRecord, PartitionId, TopicPartition,
};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::kafka::{Kafka, or_skip};
use milena_testkit::listen::EmbeddedBroker;

/// The number of Produce.
pub const PRODUCE: i16 = 0;
/// The number of InitProducerId.
pub const INIT_PRODUCER_ID: i16 = 22;
/// The number of AddPartitionsToTxn.
pub const ADD_PARTITIONS: i16 = 24;
/// The number of EndTxn.
pub const END_TXN: i16 = 26;
/// The number of TxnOffsetCommit.
pub const TXN_OFFSET_COMMIT: i16 = 28;

/// Every codec.
pub const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// An embedded broker and a client with short waits.
pub async fn embedded(config: BrokerConfig) -> (EmbeddedBroker, Client) {
    let broker = EmbeddedBroker::start(config).await.unwrap();
    let client = Client::connect(quick(&broker.bootstrap())).await.unwrap();
    (broker, client)
}

/// A configuration with short waits.
pub fn quick(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::from(bootstrap).with_api_timeout(Duration::from_secs(10));
    config.backoff = milena::Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
    config
}

/// A client of a real broker, or `None` after saying why there is none.
pub async fn real() -> Option<(Kafka, Client)> {
    let kafka = or_skip(Kafka::obtain().await)?;
    let client = Client::connect(kafka.bootstrap()).await.unwrap();
    Some((kafka, client))
}

/// A name that was not used before.
pub fn unique(prefix: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{prefix}-{}-{}", std::process::id(), now.as_nanos() % 1_000_000_000_000)
}

/// A new topic.
pub async fn topic(client: &Client, prefix: &str, partitions: i32) -> String {
    topic_with(client, prefix, partitions, &[]).await
}

/// A new topic with settings.
pub async fn topic_with(client: &Client, prefix: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
    let name = unique(prefix);
    let mut new = NewTopic::new(&name, partitions);
    new.configs = configs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    for (_, outcome) in client.admin().create_topics(&[new], Duration::from_secs(20)).await.unwrap() {
        outcome.unwrap();
    }
    name
}

/// Every record of a partition up to its end.
pub async fn read(client: &Client, topic: &str, partition: i32, isolation: Isolation) -> Vec<OwnedRecord> {
    let fetcher = client.fetcher();
    let tp = TopicPartition::new(topic, PartitionId(partition));
    let end = client.list_offsets(&[(tp.clone(), OffsetSpec::Latest)], isolation).await.unwrap();
    let end = end.into_iter().next().unwrap().1.unwrap().offset.unwrap();
    let (mut records, mut next) = (Vec::new(), Offset(0));
    let options = FetchOptions { isolation, ..FetchOptions::default() };
    while next < end {
        let fetched = fetcher.fetch(&[FetchFrom::new(tp.clone(), next)], &options).await.unwrap();
        for one in fetched {
            assert!(one.error.is_none(), "{:?}", one.error);
            next = one.next_offset();
            records.extend(one.owned_records().unwrap());
        }
    }
    records
}

/// The values of all partitions, each partition's in order.
pub async fn values(client: &Client, topic: &str, partitions: i32, isolation: Isolation) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for partition in 0..partitions {
        let records = read(client, topic, partition, isolation).await;
        all.push(
            records
                .iter()
                .map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap())
                .collect(),
        );
    }
    all
}
