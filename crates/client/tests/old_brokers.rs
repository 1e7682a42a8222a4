//! The public client on brokers before 0.11 and the years after, as the embedded broker plays them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

use std::time::Duration;

use milena::protocol::compression::Compression;
use milena::{
    Client, ClientConfig, CommittedOffset, Error, ErrorCode, ErrorKind, FetchFrom, FetchOptions, Header,
    Idempotence, Isolation, NewTopic, Offset, OffsetSpec, OwnedRecord, Producer, ProducerConfig,
    ProducerRecord, TopicPartition, TransactionConfig, TransactionalProducer,
};
use milena_testkit::broker::{BrokerConfig, Fault};
use milena_testkit::listen::EmbeddedBroker;

const TOPIC: &str = "orders";
const PRODUCE: i16 = 0;
const RELEASES: [&str; 13] = [
    "0.8.2", "0.9.0", "0.10.0", "0.10.1", "0.10.2", "0.11.0", "1.0", "1.1", "2.0", "2.4", "2.8", "3.9", "4.1",
];

async fn broker(release: &str) -> (EmbeddedBroker, Client) {
    let config = BrokerConfig::default().with_topic(TOPIC, 2).as_release(release).unwrap();
    let broker = EmbeddedBroker::start(config).await.unwrap();
    let client = Client::connect(config_of(&broker)).await.unwrap();
    (broker, client)
}

fn config_of(broker: &EmbeddedBroker) -> ClientConfig {
    // A third of it is what a silent broker costs.
    let mut config = ClientConfig::new([broker.bootstrap()]);
    config.connect_timeout = Duration::from_secs(6);
    config
}

/// Whether a release is before another one.
fn before(release: &str, other: &str) -> bool {
    let place = |name: &str| RELEASES.iter().position(|known| *known == name).unwrap();
    place(release) < place(other)
}

fn producer(client: &Client, change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    let mut config = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
    change(&mut config);
    Producer::new(client, config).unwrap()
}

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, index)
}

async fn read(client: &Client, isolation: Isolation) -> Vec<OwnedRecord> {
    let tp = partition(0);
    let end = client.list_offsets(&[(tp.clone(), OffsetSpec::Latest)], isolation).await.unwrap();
    let end = end[0].1.as_ref().unwrap().offset.unwrap();
    let (mut position, mut all) = (Offset(0), Vec::new());
    let options = FetchOptions { isolation, ..FetchOptions::default() };
    while position < end {
        let fetched =
            client.fetcher().fetch(&[FetchFrom::new(tp.clone(), position)], &options).await.unwrap();
        all.extend(fetched[0].owned_records().unwrap());
        position = fetched[0].next_offset();
    }
    all
}

/// The error of one record.
async fn failed(producer: &Producer, record: ProducerRecord<'_>) -> Error {
    producer.send(record).await.unwrap().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_on_any_release_is_read_back() {
    for release in RELEASES {
        let (_broker, client) = broker(release).await;
        let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4];
        let mut written: Vec<(Option<String>, Option<String>, i64)> = Vec::new();
        for (round, codec) in codecs.into_iter().enumerate() {
            let producer = producer(&client, |config| config.compression = codec);
            let mut tickets = Vec::new();
            for number in 0..100 {
                let key = (number % 3 > 0).then(|| format!("key {number}"));
                let value =
                    (number % 7 > 0).then(|| format!("{codec:?} value {number}").repeat(number % 5 + 1));
                let time = 1_700_000_000_000 + (round * 100 + number) as i64;
                let mut record = ProducerRecord::to(TOPIC).partition(0).timestamp(time);
                record.key = key.as_deref().map(str::as_bytes);
                record.value = value.as_deref().map(str::as_bytes);
                tickets.push(producer.send(record).await.unwrap());
                written.push((key, value, time));
            }
            producer.flush().await.unwrap();
            for (place, ticket) in tickets.into_iter().enumerate() {
                assert_eq!(
                    ticket.await.unwrap().offset,
                    Some(Offset((round * 100 + place) as i64)),
                    "{release}"
                );
            }
            assert_eq!(producer.is_idempotent(), Some(!before(release, "0.11.0")), "{release}");
            assert_eq!(producer.metrics().idempotent, producer.is_idempotent());
            producer.close(Duration::from_secs(20)).await.unwrap();
        }
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            let records = read(&client, isolation).await;
            assert_eq!(records.len(), written.len(), "{release}");
            for (record, (key, value, time)) in records.iter().zip(&written) {
                assert_eq!(record.key.as_deref(), key.as_deref().map(str::as_bytes), "{release}");
                assert_eq!(record.value.as_deref(), value.as_deref().map(str::as_bytes), "{release}");
                let time = if before(release, "0.10.0") { -1 } else { *time };
                assert_eq!(record.timestamp, time, "{release}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_records_with_headers_fail_where_there_are_none() {
    for release in ["0.8.2", "0.9.0", "0.10.2", "0.11.0"] {
        let (_broker, client) = broker(release).await;
        let producer = producer(&client, |config| config.linger = Duration::from_millis(200));
        let headers = [Header::new("trace", Some(b"1".as_slice()))];
        let mut tickets = Vec::new();
        for number in 0..20 {
            let value = number.to_string();
            let mut record = ProducerRecord::to(TOPIC).partition(0).value(&value);
            if number % 9 == 4 {
                record.headers = &headers;
            }
            tickets.push(producer.send(record).await.unwrap());
        }
        for (number, ticket) in tickets.into_iter().enumerate() {
            let outcome = ticket.await;
            if number % 9 == 4 && release != "0.11.0" {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}");
                assert!(error.to_string().contains("headers"), "{release}: {error}");
            } else {
                outcome.unwrap();
            }
        }
        let wanted = (0..20).filter(|number| release == "0.11.0" || number % 9 != 4).map(|n| n.to_string());
        let values = read(&client, Isolation::ReadUncommitted).await;
        let values =
            values.iter().map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap());
        assert_eq!(values.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{release}: the order stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zstd_needs_2_1() {
    for release in RELEASES {
        let (_broker, client) = broker(release).await;
        let producer = producer(&client, |config| config.compression = Compression::Zstd);
        let ticket = producer.send(ProducerRecord::to(TOPIC).partition(0).value("x")).await.unwrap();
        match ticket.await {
            Ok(_) => assert!(!before(release, "2.4"), "{release}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}");
                assert!(before(release, "2.4") && error.to_string().contains("lz4"), "{release}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_0_11_says_so_on_older_brokers() {
    for (release, named) in [("0.8.2", "0.8"), ("0.9.0", "0.9"), ("0.10.2", "0.10")] {
        let (_broker, client) = broker(release).await;
        let required = producer(&client, |config| config.idempotence = Idempotence::Required);
        let error = failed(&required, ProducerRecord::to(TOPIC).partition(0).value("x")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}");
        assert!(error.to_string().contains(&format!("Kafka {named}")), "{release}: {error}");
        let mut transactional = TransactionalProducer::new(&client, TransactionConfig::new("t")).unwrap();
        let error = transactional.init().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}");
        assert!(error.to_string().contains("0.11"), "{release}: {error}");
    }
}

/// The first four bytes of the values that 50 records left behind after this fault.
async fn written_through(release: &str, fault: Fault) -> Vec<String> {
    let (broker, client) = broker(release).await;
    let producer = producer(&client, |config| (config.linger, config.batch_size) = (Duration::ZERO, 256));
    producer.send(ProducerRecord::to(TOPIC).partition(0).value("first")).await.unwrap().await.unwrap();
    broker.faults().on(PRODUCE, fault, 2);
    let mut tickets = Vec::new();
    for number in 0..50 {
        let value = format!("{number:04}{}", "x".repeat(100));
        tickets.push(producer.send(ProducerRecord::to(TOPIC).partition(0).value(&value)).await.unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(broker.faults().unused(), []);
    let values = read(&client, Isolation::ReadUncommitted).await;
    let values = values.iter().skip(1).map(|record| record.value.clone().unwrap().slice(..4));
    values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_idempotence_records_stay_in_order_and_a_lost_answer_repeats_them() {
    let wanted: Vec<_> = (0..50).map(|number| format!("{number:04}")).collect();
    for release in ["0.8.2", "0.10.2"] {
        // A batch that is refused goes out again before those behind it.
        let written = written_through(release, Fault::Error(ErrorCode::NOT_ENOUGH_REPLICAS)).await;
        assert_eq!(written, wanted, "{release}");
        let mut written = written_through(release, Fault::DropAfter).await;
        assert!(written.len() > 50, "{release}: a repeat writes twice, that is what idempotence is for");
        // Each repeat begins again where the lost answer was; without the repeats the order is that of the calls.
        let mut last = String::new();
        written.retain(|value| {
            let new = *value > last;
            if new {
                last.clone_from(value);
            }
            new
        });
        assert_eq!(written, wanted, "{release}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_committed_to_kafka_and_found_again() {
    for release in RELEASES {
        let (_broker, client) = broker(release).await;
        let group = client.group("readers");
        let offset = CommittedOffset { offset: Offset(7), leader_epoch: None, metadata: Some("note".into()) };
        group.commit(&[(partition(0), offset.clone())]).await.unwrap();
        let wanted = [partition(0), partition(1)];
        let fetched = group.fetch(Some(&wanted), false).await.unwrap();
        assert_eq!(fetched[0].1.as_ref().unwrap().as_ref(), Some(&offset), "{release}");
        assert_eq!(fetched[1].1.as_ref().unwrap().as_ref(), None, "{release}");
        // Stable offsets came with 2.5; before 0.11 every offset is stable.
        match group.fetch(Some(&wanted), true).await {
            Ok(_) => assert!(before(release, "0.11.0") || !before(release, "2.8"), "{release}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}"),
        }
        match group.fetch(None, false).await {
            Ok(all) => assert_eq!(all.len(), 1, "{release}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}");
                assert!(before(release, "0.10.2"), "{release}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_before_all_segments_is_the_start_of_the_log_and_not_its_end() {
    for release in RELEASES {
        let (_broker, client) = broker(release).await;
        let producer = producer(&client, |_| {});
        for time in [1_000, 2_000, 3_000] {
            let record = ProducerRecord::to(TOPIC).partition(0).timestamp(time).value("x");
            producer.send(record).await.unwrap().await.unwrap();
        }
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            let wanted = [(partition(0), OffsetSpec::Timestamp(2_000))];
            let listed = client.list_offsets(&wanted, isolation).await.unwrap();
            let listed = listed[0].1.as_ref().unwrap();
            let exact = if before(release, "0.10.1") { 0 } else { 1 };
            assert_eq!(listed.offset, Some(Offset(exact)), "{release}");
        }
        let places = [(partition(0), OffsetSpec::Latest), (partition(1), OffsetSpec::Earliest)];
        let listed = client.list_offsets(&places, Isolation::ReadUncommitted).await.unwrap();
        let offsets: Vec<_> = listed.iter().map(|(_, listed)| listed.as_ref().unwrap().offset).collect();
        assert_eq!(offsets, [Some(Offset(3)), Some(Offset(0))], "{release}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_by_request_since_0_10_1_and_by_use_before() {
    for release in RELEASES {
        let (broker, client) = broker(release).await;
        let created = client.admin().create_topics(&[NewTopic::new("new", 3)], Duration::from_secs(5)).await;
        if before(release, "0.10.1") {
            let error = created.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{release}: {error}");
            assert!(error.to_string().contains("auto_create_topics"), "{release}: {error}");
            assert_eq!(
                client.admin().delete_topics(&["new"]).await.unwrap_err().kind(),
                ErrorKind::Unsupported
            );
            // The name is asked for, and that alone must not create it.
            let error = client.topic("new").await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{release}: {error}");
            let config = ClientConfig { auto_create_topics: true, ..config_of(&broker) };
            Client::connect(config).await.unwrap().topic("new").await.unwrap();
        } else {
            assert!(created.unwrap()[0].1.is_ok(), "{release}");
        }
        assert!(client.topic("new").await.is_ok(), "{release}");
        let listed = client.admin().list_topics().await.unwrap();
        assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["new", TOPIC]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_0_8_that_never_had_a_topic_can_be_connected_to() {
    let config = BrokerConfig::default().as_release("0.8.2").unwrap();
    let broker = EmbeddedBroker::start(config).await.unwrap();
    let config = ClientConfig { auto_create_topics: true, ..config_of(&broker) };
    let client = Client::connect(config).await.unwrap();
    let producer = producer(&client, |_| {});
    producer.send(ProducerRecord::to(TOPIC).value("x")).await.unwrap().await.unwrap();
    assert_eq!(client.cluster().brokers().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_is_as_good_as_an_answer() {
    for release in RELEASES {
        let (broker, _) = broker(release).await;
        let client = Client::connect(config_of(&broker).with_broker_version(release)).await.unwrap();
        let producer = producer(&client, |_| {});
        producer.send(ProducerRecord::to(TOPIC).partition(0).value("x")).await.unwrap().await.unwrap();
        assert_eq!(read(&client, Isolation::ReadUncommitted).await.len(), 1, "{release}");
    }
}
