//! A client of the pure broker: each request goes through the real encoders, decoders and the guard.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod script;
pub mod txn;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::messages::fetch_response::PartitionData;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::messages::{self, TopicName, TransactionalId};
use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header, batches};
use milena_protocol::{
    ProducerEpoch, ProducerId, Request, Sequence, StrBytes, decode_request, decode_response, encode_request,
};
use milena_testkit::broker::{Broker, BrokerConfig, ConnectionId};

pub struct Driver {
    pub broker: Broker,
    pub now: Instant,
    correlation: i32,
}

impl Driver {
    pub fn new(config: BrokerConfig) -> Self {
        let now = Instant::now();
        Self { broker: Broker::new(config, now), now, correlation: 0 }
    }

    pub fn with_topic(name: &str, partitions: i32) -> Self {
        Self::new(BrokerConfig::default().with_topic(name, partitions))
    }

    /// Sends a request and gives its correlation id; answers are waiting afterwards.
    pub fn send<R: Request>(&mut self, connection: u64, version: i16, request: &R) -> i32 {
        self.correlation += 1;
        let mut frame = BytesMut::new();
        encode_request(&mut frame, self.correlation, "test", version, request).unwrap();
        let request = decode_request(frame.freeze().slice(4..)).unwrap();
        self.broker.handle(self.now, ConnectionId(connection), request);
        self.correlation
    }

    /// The next answer, if there is one.
    pub fn receive<R: Request>(&mut self, version: i16) -> Option<(u64, i32, R::Response)> {
        let (connection, frame) = self.broker.poll_response(self.now)?;
        let (correlation, response) = decode_response::<R>(frame.slice(4..), version).unwrap();
        Some((connection.0, correlation, response))
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.broker.tick(self.now);
    }
}

/// Whoever asks a broker and waits for the answer.
pub trait Client: Sized {
    /// Sends a request and expects its answer.
    fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response;

    fn produce(
        &mut self,
        version: i16,
        id: Option<&str>,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> PartitionProduceResponse {
        let name = topic_name(topic);
        let topic_id = if version >= 13 { self.topic_id(topic) } else { uuid::Uuid::nil() };
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let mut data = TopicProduceData::default().with_partition_data(vec![data]).with_topic_id(topic_id);
        if version < 13 {
            data.name = name;
        }
        let request = messages::ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(1000)
            .with_transactional_id(id.map(transactional_id))
            .with_topic_data(vec![data]);
        let mut response = self.ask(version, &request);
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Produces without a producer id and gives the offset.
    fn append(&mut self, topic: &str, partition: i32, records: usize) -> i64 {
        let answer = self.produce(9, None, topic, partition, batch(records, None));
        assert_eq!(answer.error_code, 0);
        answer.base_offset
    }

    fn topic_id(&mut self, topic: &str) -> uuid::Uuid {
        let asked =
            messages::metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = messages::MetadataRequest::default().with_topics(Some(vec![asked]));
        self.ask(12, &request).topics[0].topic_id
    }

    fn fetch(
        &mut self,
        version: i16,
        topic: &str,
        partition: i32,
        offset: i64,
        committed: bool,
    ) -> PartitionData {
        let topic_id = if version >= 13 { self.topic_id(topic) } else { uuid::Uuid::nil() };
        let request = fetch_request(version, topic, topic_id, partition, offset, committed, 0);
        let mut response = self.ask(version, &request);
        assert_eq!(response.error_code, 0);
        response.responses.remove(0).partitions.remove(0)
    }

    fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64, committed: bool) -> (i64, i64) {
        let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request = messages::ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(i8::from(committed))
            .with_topics(vec![asked]);
        let mut response = self.ask(9, &request);
        let answer = response.topics.remove(0).partitions.remove(0);
        assert_eq!(answer.error_code, 0);
        (answer.offset, answer.timestamp)
    }
}

impl Client for Driver {
    /// Sends a request and expects its answer at once.
    fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let sent = self.send(0, version, request);
        let (_, correlation, response) = self.receive::<R>(version).expect("no answer");
        assert_eq!(correlation, sent);
        assert!(self.broker.poll_response(self.now).is_none(), "two answers");
        response
    }
}

pub fn fetch_request(
    version: i16,
    topic: &str,
    topic_id: uuid::Uuid,
    partition: i32,
    offset: i64,
    committed: bool,
    max_wait_ms: i32,
) -> messages::FetchRequest {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_partition_max_bytes(1 << 20);
    let mut asked = FetchTopic::default().with_partitions(vec![asked]).with_topic_id(topic_id);
    if version < 13 {
        asked.topic = topic_name(topic);
    }
    messages::FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_isolation_level(i8::from(committed))
        .with_session_epoch(-1)
        .with_topics(vec![asked])
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

pub fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

/// Who wrote a batch: producer id, epoch, first sequence, within a transaction or not.
#[derive(Clone, Copy)]
pub struct Writer {
    pub id: i64,
    pub epoch: i16,
    pub sequence: i32,
    pub transactional: bool,
}

/// A batch whose records have the values `0`, `1`, ... and the timestamps 1000, 1001, ...
pub fn batch(records: usize, writer: Option<Writer>) -> Bytes {
    let stamps: Vec<i64> = (0..records).map(|n| 1000 + n as i64).collect();
    batch_at(&stamps, writer)
}

pub fn batch_at(timestamps: &[i64], writer: Option<Writer>) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (n, timestamp) in timestamps.iter().enumerate() {
        let value = n.to_string();
        builder.push(*timestamp, None, Some(value.as_bytes()), std::iter::empty::<Header<'_>>()).unwrap();
    }
    let identity = match writer {
        Some(writer) => BatchIdentity {
            producer_id: ProducerId(writer.id),
            producer_epoch: ProducerEpoch(writer.epoch),
            base_sequence: Sequence(writer.sequence),
            transactional: writer.transactional,
            ..BatchIdentity::default()
        },
        None => BatchIdentity::default(),
    };
    builder.build(identity).unwrap()
}

/// The offsets of all records in fetched bytes, control batches left out.
pub fn offsets(data: &PartitionData) -> Vec<i64> {
    let bytes = data.records.clone().unwrap_or_default();
    batches(bytes)
        .map(Result::unwrap)
        .filter(|batch| !batch.is_control())
        .flat_map(|batch| {
            let records = batch.records().unwrap();
            records.iter().map(|record| record.unwrap().offset.0).collect::<Vec<_>>()
        })
        .collect()
}
