//! A broker in the test's hand: it decodes requests with the real codec, and the test decides what goes back.

#![allow(unreachable_pub)] // a module of a test binary

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use milena::protocol::messages::api_versions_response::ApiVersion;
use milena::protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use milena::protocol::messages::{
    ApiVersionsResponse, BrokerId, MetadataRequest, MetadataResponse, RequestKind, ResponseKind, TopicName,
};
use milena::protocol::{self, RequestBody, RequestFrame, StrBytes, encode_response, frame};
use milena::{ClientConfig, transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the fake does with a request.
pub enum Reply {
    /// Answers.
    Answer(ResponseKind),
    /// Answers with another correlation id.
    Correlated(i32, ResponseKind),
    /// Writes these bytes as they are.
    Raw(Bytes),
    /// Says nothing and goes on.
    Silence,
    /// Closes the connection.
    Close,
}

type Decide = dyn FnMut(usize, &RequestFrame) -> Option<Reply> + Send;

/// The fake broker: `decide` gets the connection's number and the request; `None` is the ordinary answer.
#[derive(Clone)]
pub struct Fake {
    decide: Arc<Mutex<Box<Decide>>>,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    pub fn new(decide: impl FnMut(usize, &RequestFrame) -> Option<Reply> + Send + 'static) -> Self {
        Self { decide: Arc::new(Mutex::new(Box::new(decide))), connections: Arc::default() }
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// A configuration whose connections all go to this fake.
    pub fn config(&self) -> ClientConfig {
        let fake = self.clone();
        ClientConfig::new(["fake:1"]).with_dialer(transport::from_fn(move |_, _| {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            let number = fake.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(fake.clone().serve(number, theirs));
            async { Ok(ours) }
        }))
    }

    async fn serve(self, number: usize, mut stream: DuplexStream) {
        let mut input = BytesMut::new();
        loop {
            // What is no frame is a look at whether this is TLS.
            let Ok(split) = frame::split(&mut input, frame::DEFAULT_MAX) else { return };
            let Some(bytes) = split else {
                match stream.read_buf(&mut input).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                }
            };
            let request = protocol::decode_request(bytes).unwrap();
            let decided = (self.decide.lock().unwrap())(number, &request);
            let decided = decided.or_else(|| legacy(&request));
            let mut out = BytesMut::new();
            match decided.unwrap_or_else(|| Reply::Answer(ordinary(&request))) {
                Reply::Answer(response) => write(&mut out, &request, request.correlation_id, &response),
                Reply::Correlated(id, response) => write(&mut out, &request, id, &response),
                Reply::Raw(bytes) => out.extend_from_slice(&bytes),
                Reply::Silence => {}
                Reply::Close => return,
            }
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
    }
}

/// The answer of brokers up to 3.9 to the question with which old ones are told from what is no broker: ListOffsets v0 about nothing.
fn legacy(request: &RequestFrame) -> Option<Reply> {
    let mut answer = BytesMut::new();
    answer.put_i32(request.correlation_id);
    answer.put_i32(0);
    ((request.api_key, request.version) == (2, 0)).then(|| Reply::Raw(framed(&answer)))
}

fn write(out: &mut BytesMut, request: &RequestFrame, id: i32, response: &ResponseKind) {
    // An ApiVersions answer to a version that is not known is in version 0.
    let refused = matches!(response, ResponseKind::ApiVersions(answer) if answer.error_code == 35);
    let version = if refused { 0 } else { request.version };
    encode_response(out, request.api_key, version, id, response).unwrap();
}

/// What a well-behaved broker with id 1 says.
pub fn ordinary(request: &RequestFrame) -> ResponseKind {
    match &request.body {
        RequestBody::Known(RequestKind::ApiVersions(_)) => ResponseKind::ApiVersions(api_versions(0)),
        RequestBody::Known(RequestKind::Metadata(asked)) => {
            ResponseKind::Metadata(metadata(asked, request.version))
        }
        other => panic!("the fake has no answer to {other:?}"),
    }
}

/// An ApiVersions answer that offers all this client speaks.
pub fn api_versions(error: i16) -> ApiVersionsResponse {
    let offered = (0..100).filter_map(|key| {
        let range = protocol::supported(key)?;
        Some(ApiVersion::default().with_api_key(key).with_min_version(range.min).with_max_version(range.max))
    });
    ApiVersionsResponse::default().with_error_code(error).with_api_keys(offered.collect())
}

/// Every topic asked for exists, with two partitions led by broker 1.
pub fn metadata(asked: &MetadataRequest, version: i16) -> MetadataResponse {
    let broker =
        MetadataResponseBroker::default().with_node_id(BrokerId(1)).with_host(text("fake")).with_port(1);
    let partition = |index: i32| {
        let mut partition = MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(BrokerId(1))
            .with_replica_nodes(vec![BrokerId(1)])
            .with_isr_nodes(vec![BrokerId(1)]);
        if version >= 7 {
            partition = partition.with_leader_epoch(3);
        }
        partition
    };
    let topic = |name: &TopicName| {
        let mut topic = MetadataResponseTopic::default()
            .with_name(Some(name.clone()))
            .with_partitions(vec![partition(0), partition(1)]);
        if version >= 10 {
            topic = topic.with_topic_id(topic_id(name.as_str()));
        }
        topic
    };
    let names = asked.topics.iter().flatten().filter_map(|topic| topic.name.as_ref());
    let mut response =
        MetadataResponse::default().with_brokers(vec![broker]).with_topics(names.map(topic).collect());
    if version >= 1 {
        response = response.with_controller_id(BrokerId(1));
    }
    response
}

/// The fake's id of a topic.
pub fn topic_id(name: &str) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x1000 + name.bytes().map(u128::from).sum::<u128>())
}

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A frame of these bytes.
pub fn framed(body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i32(i32::try_from(body.len()).unwrap());
    out.put_slice(body);
    out.freeze()
}
