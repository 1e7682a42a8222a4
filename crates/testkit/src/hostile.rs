//! Listeners that a client must survive: silent, slow, lying.
//!
//! Each connection has an embedded broker of its own behind it, so a client gets as far as the lie lets it.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use milena_protocol::messages::{ApiKey, MetadataRequest, TopicName};
use milena_protocol::{StrBytes, decode_request, decode_response, encode_response, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerConfig, ConnectionId};

/// How a hostile listener behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Accepts and reads, and never answers.
    Silent,
    /// Answers truthfully, one byte per pause.
    Slow {
        /// Time between two bytes.
        pause: Duration,
    },
    /// Answers each request with 64 bytes that are no frame.
    Garbage,
    /// Answers each request with a frame of the right correlation id and 64 bytes of nonsense.
    GarbageBody,
    /// Announces an answer of 2 GiB and sends 16 bytes of it.
    HugeLength,
    /// Announces an answer of negative length.
    NegativeLength,
    /// Answers truthfully, to another request: the correlation id is one too large.
    WrongCorrelation,
    /// Answers ApiVersions, and closes the connection at the next request.
    CloseAfterHandshake,
    /// Closes the connection in the middle of each answer.
    CutAnswer,
    /// Answers Metadata with topics nobody asked for, negative partition numbers, leaders that do not exist and a broker
    /// that cannot be reached; everything else truthfully.
    LyingMetadata,
}

/// A listener on `127.0.0.1` that misbehaves. It ends when it is dropped.
#[derive(Debug)]
pub struct HostileBroker {
    port: u16,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl HostileBroker {
    /// Starts a listener at a free port. Lies that look random follow from `seed`.
    ///
    /// # Errors
    /// If no port can be bound.
    ///
    /// # Cancellation
    /// Nothing is left running if the future is dropped.
    pub async fn start(mode: Mode, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let requests = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let config = BrokerConfig { port, seed, ..BrokerConfig::default() };
                let broker = Broker::new(config, now());
                let connection = Connection { mode, broker, noise: seed | 1, seen: Arc::clone(&seen) };
                connections.spawn(connection.serve(stream));
            }
        });
        Ok(Self { port, requests, task })
    }

    /// The address to give to clients, as `host:port`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many requests have arrived so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for HostileBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    mode: Mode,
    broker: Broker,
    noise: u64,
    seen: Arc<AtomicU64>,
}

impl Connection {
    async fn serve(mut self, mut stream: TcpStream) {
        let mut buffer = BytesMut::new();
        loop {
            let request = match frame::split(&mut buffer, frame::DEFAULT_MAX) {
                Ok(Some(request)) => request,
                Ok(None) => match stream.read_buf(&mut buffer).await {
                    Ok(read) if read > 0 => continue,
                    _ => return,
                },
                Err(_) => return,
            };
            self.seen.fetch_add(1, Ordering::Relaxed);
            if self.mode == Mode::CloseAfterHandshake && !is_api_versions(&request) {
                return;
            }
            if self.reply(&mut stream, request).await.is_err() {
                return;
            }
        }
    }

    async fn reply(&mut self, stream: &mut TcpStream, request: Bytes) -> io::Result<()> {
        match self.mode {
            Mode::Silent => Ok(()),
            Mode::Garbage => {
                let noise = self.nonsense();
                stream.write_all(&noise).await
            }
            Mode::GarbageBody => {
                let mut answer = BytesMut::from(&68i32.to_be_bytes()[..]);
                answer.extend_from_slice(request.get(4..8).unwrap_or(&[0; 4]));
                answer.extend_from_slice(&self.nonsense());
                stream.write_all(&answer).await
            }
            Mode::HugeLength => {
                stream.write_all(&i32::MAX.to_be_bytes()).await?;
                stream.write_all(&[0; 16]).await
            }
            Mode::NegativeLength => stream.write_all(&(-2i32).to_be_bytes()).await,
            Mode::Slow { pause } => {
                for byte in self.truth(request).await? {
                    stream.write_all(&[byte]).await?;
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            }
            Mode::WrongCorrelation => {
                let mut answer = BytesMut::from(self.truth(request).await?);
                if let Some(id) = answer.get_mut(4..8).and_then(|id| <&mut [u8; 4]>::try_from(id).ok()) {
                    *id = i32::from_be_bytes(*id).wrapping_add(1).to_be_bytes();
                }
                stream.write_all(&answer).await
            }
            Mode::CutAnswer => {
                let answer = self.truth(request).await?;
                stream.write_all(answer.get(..answer.len() / 2).unwrap_or_default()).await?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Mode::LyingMetadata => {
                let version = request.get(2..4).and_then(|v| v.try_into().ok()).map_or(0, i16::from_be_bytes);
                let metadata = request.get(..2) == Some(&(ApiKey::Metadata as i16).to_be_bytes());
                let answer = self.truth(request).await?;
                let answer = if metadata { lie(version, answer.clone()).unwrap_or(answer) } else { answer };
                stream.write_all(&answer).await
            }
            Mode::CloseAfterHandshake => {
                let answer = self.truth(request).await?;
                stream.write_all(&answer).await
            }
        }
    }

    /// What an honest broker answers, as a frame with its length.
    async fn truth(&mut self, request: Bytes) -> io::Result<Bytes> {
        let request = decode_request(request).map_err(io::Error::other)?;
        self.broker.handle(now(), ConnectionId(1), request);
        loop {
            if let Some((_, answer)) = self.broker.poll_response(now()) {
                return Ok(answer);
            }
            match self.broker.next_deadline(now()) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => return Ok(Bytes::new()),
            }
        }
    }

    fn nonsense(&mut self) -> [u8; 64] {
        let mut bytes = [0; 64];
        for chunk in bytes.chunks_exact_mut(8) {
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            chunk.copy_from_slice(&self.noise.to_be_bytes());
        }
        bytes
    }
}

fn is_api_versions(request: &[u8]) -> bool {
    request.get(..2) == Some(&(ApiKey::ApiVersions as i16).to_be_bytes())
}

/// A Metadata answer with lies added to its truth.
fn lie(version: i16, answer: Bytes) -> Option<Bytes> {
    let (correlation, mut response) = decode_response::<MetadataRequest>(answer.slice(4..), version).ok()?;
    let partition = |index: i32, leader: i32| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(leader.into())
            .with_replica_nodes(vec![leader.into()])
    };
    for topic in &mut response.topics {
        topic.partitions.extend([
            partition(-1, 1),
            partition(i32::MIN, 1),
            partition(7, 4711),
            partition(7, 1),
        ]);
    }
    let name = TopicName(StrBytes::from_static_str("nobody-asked-for-this"));
    response.topics.push(
        MetadataResponseTopic::default()
            .with_name(Some(name))
            .with_topic_id(if version >= 10 { uuid::Uuid::from_u128(1) } else { uuid::Uuid::nil() })
            .with_partitions(vec![partition(0, 4711), partition(i32::MAX, 1)]),
    );
    let broker = MetadataResponseBroker::default().with_node_id((-7).into()).with_port(-1);
    response.brokers.push(broker);
    let mut lied = BytesMut::new();
    encode_response(&mut lied, ApiKey::Metadata as i16, version, correlation, &response.into()).ok()?;
    Some(lied.freeze())
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
