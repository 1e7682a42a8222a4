//! The embedded broker over TCP and in memory, and the hostile listeners.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use bytes::BytesMut;
use milena_protocol::messages::{self, ApiKey};
use milena_protocol::{ErrorCode, Request, decode_response, encode_request, frame};
use milena_testkit::broker::{BrokerConfig, Fault};
use milena_testkit::hostile::{HostileBroker, Mode};
use milena_testkit::listen::EmbeddedBroker;
use support::{batch, fetch_request, offsets};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// One connection, one request at a time. `None` when the broker closes it.
struct Wire<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    async fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut frame = BytesMut::new();
        encode_request(&mut frame, 9, "test", version, request).unwrap();
        let _ = self.stream.write_all(&frame).await;
    }

    async fn frame(&mut self) -> Option<bytes::Bytes> {
        loop {
            if let Some(frame) = frame::split(&mut self.buffer, frame::DEFAULT_MAX).ok()? {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn ask<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        self.send(version, request).await;
        let frame = timeout(SOON, self.frame()).await.expect("no answer in time")?;
        Some(decode_response::<R>(frame, version).unwrap().1)
    }
}

async fn tcp(bootstrap: &str) -> Wire<TcpStream> {
    Wire::new(TcpStream::connect(bootstrap).await.unwrap())
}

fn produce(records: usize) -> messages::ProduceRequest {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    let data = PartitionProduceData::default().with_records(Some(batch(records, None)));
    let data =
        TopicProduceData::default().with_name(support::topic_name("t")).with_partition_data(vec![data]);
    messages::ProduceRequest::default().with_transactional_id(None).with_acks(-1).with_topic_data(vec![data])
}

fn poll(offset: i64, max_wait_ms: i32) -> messages::FetchRequest {
    fetch_request(12, "t", uuid::Uuid::nil(), 0, offset, false, max_wait_ms)
}

fn config() -> BrokerConfig {
    BrokerConfig::default().with_topic("t", 1)
}

#[tokio::test]
async fn records_go_round_over_tcp_and_a_long_poll_wakes_up() {
    let broker = EmbeddedBroker::start(config()).await.unwrap();
    let mut wire = tcp(&broker.bootstrap()).await;
    let metadata = wire.ask(12, &messages::MetadataRequest::default()).await.unwrap();
    assert_eq!(format!("127.0.0.1:{}", metadata.brokers[0].port), broker.bootstrap());
    let mut reader = tcp(&broker.bootstrap()).await;
    reader.send(12, &poll(0, 60_000)).await;
    assert!(timeout(Duration::from_millis(50), reader.frame()).await.is_err(), "nothing to read yet");
    let answer = wire.ask(9, &produce(3)).await.unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    let frame = timeout(SOON, reader.frame()).await.unwrap().unwrap();
    let (_, answer) = decode_response::<messages::FetchRequest>(frame, 12).unwrap();
    assert_eq!(offsets(&answer.responses[0].partitions[0]), [0, 1, 2]);
    let empty = reader.ask(12, &poll(3, 20)).await.unwrap();
    assert!(offsets(&empty.responses[0].partitions[0]).is_empty());
    timeout(SOON, broker.stop()).await.unwrap();
    assert!(wire.ask(9, &produce(1)).await.is_none());
    assert!(TcpStream::connect(broker.bootstrap()).await.is_err());
}

#[tokio::test]
async fn a_restart_drops_connections_and_keeps_the_log() {
    let broker = EmbeddedBroker::start(config()).await.unwrap();
    let mut wire = tcp(&broker.bootstrap()).await;
    wire.ask(9, &produce(2)).await.unwrap();
    broker.restart();
    assert!(wire.ask(9, &produce(1)).await.is_none());
    let mut wire = tcp(&broker.bootstrap()).await;
    let answer = wire.ask(12, &poll(0, 0)).await.unwrap();
    assert_eq!(offsets(&answer.responses[0].partitions[0]), [0, 1]);

    broker.go_down().await;
    assert!(wire.ask(12, &poll(0, 0)).await.is_none());
    assert!(TcpStream::connect(broker.bootstrap()).await.is_err());
    broker.come_back().await.unwrap();
    let mut wire = tcp(&broker.bootstrap()).await;
    assert!(wire.ask(12, &poll(0, 0)).await.is_some());
}

#[tokio::test]
async fn a_broker_listens_where_its_host_says() {
    let config = BrokerConfig { host: "127.0.0.2".to_owned(), ..config() };
    let broker = EmbeddedBroker::start(config).await.unwrap();
    assert!(broker.bootstrap().starts_with("127.0.0.2:"));
    let metadata =
        tcp(&broker.bootstrap()).await.ask(12, &messages::MetadataRequest::default()).await.unwrap();
    assert_eq!(&*metadata.brokers[0].host, "127.0.0.2");
    let named = BrokerConfig { host: "localhost".to_owned(), ..BrokerConfig::default() };
    let broker = EmbeddedBroker::start(named).await.unwrap();
    assert!(broker.bootstrap().starts_with("localhost:"));
    let port = broker.bootstrap().rsplit(':').next().unwrap().to_owned();
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok());
}

#[tokio::test]
async fn a_broker_ends_with_its_last_handle() {
    let broker = EmbeddedBroker::start(config()).await.unwrap();
    let bootstrap = broker.bootstrap();
    let mut wire = tcp(&bootstrap).await;
    wire.ask(9, &produce(2)).await.unwrap();
    drop(broker);
    assert!(wire.ask(9, &produce(1)).await.is_none());
    assert!(TcpStream::connect(bootstrap).await.is_err());
}

#[tokio::test]
async fn what_follows_a_dropped_request_on_its_connection_has_no_effect() {
    let broker = EmbeddedBroker::start(config()).await.unwrap();
    broker.faults().on(ApiKey::Produce as i16, Fault::DropAfter, 1);
    let mut wire = tcp(&broker.bootstrap()).await;
    for _ in 0..3 {
        wire.send(9, &produce(1)).await;
    }
    assert!(timeout(SOON, wire.frame()).await.unwrap().is_none());
    assert!(broker.faults().unused().is_empty());
    assert_eq!(broker.with_broker(|broker| broker.offsets("t", 0)), Some((0, 1, 1)));
}

#[tokio::test]
async fn a_request_that_cannot_be_read_closes_the_connection_only() {
    let broker = EmbeddedBroker::start(config()).await.unwrap();
    let mut wire = tcp(&broker.bootstrap()).await;
    wire.stream.write_all(&[0, 0, 0, 12, 0, 1, 0, 12, 1, 2, 3, 4, 0xff, 0xff, 0x7f, 0xff]).await.unwrap();
    assert!(timeout(SOON, wire.frame()).await.unwrap().is_none());
    let mut wire = tcp(&broker.bootstrap()).await;
    wire.stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 0, 0]).await.unwrap();
    assert!(timeout(SOON, wire.frame()).await.unwrap().is_none());
    assert!(tcp(&broker.bootstrap()).await.ask(9, &produce(1)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn in_memory_time_is_the_runtimes() {
    let broker = EmbeddedBroker::in_memory(config());
    let mut wire = Wire::new(broker.connect());
    let before = tokio::time::Instant::now();
    wire.send(12, &poll(0, 3_600_000)).await;
    let answer = wire.frame().await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(3600));
    let (_, answer) = decode_response::<messages::FetchRequest>(answer, 12).unwrap();
    assert_eq!(answer.responses[0].partitions[0].error_code, 0);
    broker.faults().on(ApiKey::Metadata as i16, Fault::Delay(Duration::from_secs(7)), 1);
    wire.send(12, &messages::MetadataRequest::default()).await;
    wire.frame().await.unwrap();
    assert_eq!(before.elapsed(), Duration::from_secs(3607));
    broker.stop().await;
    wire.send(12, &poll(0, 0)).await;
    assert!(wire.frame().await.is_none());
}

#[tokio::test]
async fn an_expired_transaction_is_aborted_without_any_request() {
    let mut config = config();
    config.transaction_check_interval = Duration::from_millis(20);
    let broker = EmbeddedBroker::start(config).await.unwrap();
    let mut wire = tcp(&broker.bootstrap()).await;
    let init = messages::InitProducerIdRequest::default()
        .with_transactional_id(Some(support::transactional_id("x")))
        .with_transaction_timeout_ms(50)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let pair = wire.ask(4, &init).await.unwrap();
    let writer = support::Writer {
        id: pair.producer_id.0,
        epoch: pair.producer_epoch,
        sequence: 0,
        transactional: true,
    };
    let mut request = produce(1).with_transactional_id(Some(support::transactional_id("x")));
    request.topic_data[0].partition_data[0].records = Some(batch(1, Some(writer)));
    let answer = wire.ask(12, &request).await.unwrap();
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    let state = || broker.with_broker(|broker| broker.transaction("x").unwrap().state);
    assert_eq!(state(), "Ongoing");
    timeout(SOON, async {
        // The clock of the look goes on by itself; asking does not drive it.
        tokio::time::sleep(Duration::from_millis(300)).await;
    })
    .await
    .unwrap();
    assert_eq!(broker.with_broker(|broker| broker.offsets("t", 0)), Some((0, 2, 2)));
    assert_eq!(state(), "CompleteAbort");
}

#[tokio::test]
async fn hostile_listeners_do_as_their_names_say() {
    let request = messages::MetadataRequest::default();
    let start = |mode| async move {
        let hostile = HostileBroker::start(mode, 3).await.unwrap();
        let wire = tcp(&hostile.bootstrap()).await;
        (hostile, wire)
    };
    let (hostile, mut wire) = start(Mode::Silent).await;
    wire.send(12, &request).await;
    assert!(timeout(Duration::from_millis(100), wire.frame()).await.is_err());
    assert_eq!(hostile.requests(), 1);

    for mode in [Mode::HugeLength, Mode::NegativeLength] {
        let (_hostile, mut wire) = start(mode).await;
        wire.send(12, &request).await;
        assert!(timeout(SOON, wire.frame()).await.unwrap().is_none(), "{mode:?}: a length no one can accept");
        assert!(!wire.buffer.is_empty());
    }

    let (_hostile, mut wire) = start(Mode::GarbageBody).await;
    wire.send(12, &request).await;
    let frame = timeout(SOON, wire.frame()).await.unwrap().unwrap();
    assert_eq!(milena_protocol::correlation_id(&frame).unwrap(), 9);
    assert!(decode_response::<messages::MetadataRequest>(frame, 12).is_err());

    let (_hostile, mut wire) = start(Mode::WrongCorrelation).await;
    wire.send(12, &request).await;
    let frame = timeout(SOON, wire.frame()).await.unwrap().unwrap();
    assert_eq!(decode_response::<messages::MetadataRequest>(frame, 12).unwrap().0, 10);

    for mode in [Mode::CloseAfterHandshake, Mode::CutAnswer] {
        let (_hostile, mut wire) = start(mode).await;
        let hello = wire.ask(3, &messages::ApiVersionsRequest::default()).await;
        assert_eq!(hello.is_some(), mode == Mode::CloseAfterHandshake);
        assert!(wire.ask(12, &request).await.is_none());
    }

    let (_hostile, mut wire) = start(Mode::Slow { pause: Duration::from_millis(1) }).await;
    assert_eq!(wire.ask(12, &request).await.unwrap().brokers.len(), 1);

    let (_hostile, mut wire) = start(Mode::LyingMetadata).await;
    let lies = wire.ask(12, &request).await.unwrap();
    assert!(
        lies.topics.iter().flat_map(|topic| &topic.partitions).any(|partition| partition.partition_index > 1)
    );
    assert_eq!(lies.brokers[1].port, -1);
    let created = messages::create_topics_request::CreatableTopic::default()
        .with_name(support::topic_name("t"))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let created = messages::CreateTopicsRequest::default().with_topics(vec![created]);
    assert_eq!(wire.ask(5, &created).await.unwrap().topics[0].error_code, ErrorCode::NONE.0);
    let lies = wire.ask(12, &messages::MetadataRequest::default().with_topics(None)).await.unwrap();
    assert!(lies.topics[0].partitions.iter().any(|partition| partition.partition_index < 0));
}

/// Logs are neither copied nor searched from their beginning: a million records in small batches go in and out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_records_are_no_burden() {
    const BATCHES: i64 = 10_000;
    let broker = EmbeddedBroker::start(config()).await.unwrap();
    let value = [b'x'; 100];
    let mut builder = milena_protocol::records::BatchBuilder::new(Default::default());
    for _ in 0..100 {
        builder
            .push(1, None, Some(&value), std::iter::empty::<milena_protocol::records::Header<'_>>())
            .unwrap();
    }
    let mut request = produce(1);
    request.topic_data[0].partition_data[0].records = Some(builder.build(Default::default()).unwrap());
    let mut writer = tcp(&broker.bootstrap()).await;
    let mut frame = BytesMut::new();
    encode_request(&mut frame, 9, "test", 9, &request).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..BATCHES / 10 {
        for _ in 0..10 {
            writer.stream.write_all(&frame).await.unwrap();
        }
        for _ in 0..10 {
            timeout(SOON, writer.frame()).await.unwrap().unwrap();
        }
    }
    let written = started.elapsed();
    assert_eq!(broker.with_broker(|broker| broker.offsets("t", 0)), Some((0, BATCHES * 100, BATCHES * 100)));
    let started = std::time::Instant::now();
    let mut reader = tcp(&broker.bootstrap()).await;
    let mut position = 0;
    while position < BATCHES * 100 {
        let answer = reader.ask(12, &poll(position, 0)).await.unwrap();
        let bytes = answer.responses[0].partitions[0].records.clone().unwrap();
        let last = milena_protocol::records::batches(bytes).last().unwrap().unwrap();
        assert!(last.next_offset().0 > position);
        position = last.next_offset().0;
    }
    println!("written in {written:?}, read in {:?}", started.elapsed());
    assert!(written + started.elapsed() < Duration::from_secs(60), "{written:?}, {:?}", started.elapsed());
}
