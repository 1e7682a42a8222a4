//! Dialing a broker and learning what it speaks.
//!
//! ```text
//! dial, ApiVersions -> answer                          -> its versions
//!                   -> "unsupported version" (in v0)   -> ApiVersions in the version it names
//!                   -> closed, and again closed (0.8)  -> dial, assume the oldest versions
//!                   -> silent (0.9)                    -> dial, assume the oldest versions
//! ```
//!
//! The last step is taken only for a peer that never answered ApiVersions before.
//!
//! # References
//! KIP-35 (ApiVersions), KIP-511 (software name, answer in v0 to an unknown version).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::ApiVersionsRequest;
use milena_protocol::versions::{BrokerVersions, Discovered, Discovery};
use milena_protocol::{decode_response, encode_request};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Established, Failure, FailureKind};
use crate::frames::FrameReader;
use crate::transport::{BoxStream, Dial};

/// What the handshake is told.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    pub(crate) dialer: Arc<dyn Dial>,
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    pub(crate) client_id: Arc<str>,
    /// For everything together.
    pub(crate) connect_timeout: Duration,
    pub(crate) max_frame: usize,
    /// Whether this address answered ApiVersions before.
    pub(crate) known_modern: bool,
}

/// The correlation id of handshakes; those of calls are positive.
const CORRELATION: i32 = 0;

enum Answer {
    Versions(BrokerVersions),
    /// The peer closed or stayed silent.
    Nothing(Failure),
}

impl Handshake {
    /// Connects and shakes hands, within `connect_timeout`.
    ///
    /// # Cancellation
    /// The socket is closed.
    pub(crate) async fn establish(self) -> Result<Established, Failure> {
        let start = Instant::now();
        let deadline = start + self.connect_timeout;
        // A silent broker must leave time for the tries that follow.
        let patience = if self.known_modern { self.connect_timeout } else { self.connect_timeout / 3 };
        let mut closed = 0;
        let versions = loop {
            let mut stream = self.dial(deadline).await?;
            let mut frames = FrameReader::new(self.max_frame);
            let until = deadline.min(Instant::now() + patience);
            match self.ask_versions(&mut stream, &mut frames, until).await? {
                Answer::Versions(versions) => return Ok(Established { stream, frames, versions }),
                Answer::Nothing(failure) if self.known_modern => return Err(failure),
                Answer::Nothing(failure) if failure.kind == FailureKind::Timeout => {
                    break BrokerVersions::assumed_pre_apiversions();
                }
                // Once can be a broker that is going down; a broker that restarts refuses the second dial.
                Answer::Nothing(_) if closed == 0 => closed += 1,
                Answer::Nothing(_) => break BrokerVersions::assumed_without_groups(),
            }
        };
        tracing::debug!(host = %self.host, port = self.port, "no answer to ApiVersions: assuming a broker before 0.10");
        let stream = self.dial(deadline).await?;
        Ok(Established { stream, frames: FrameReader::new(self.max_frame), versions })
    }

    async fn dial(&self, deadline: Instant) -> Result<BoxStream, Failure> {
        match timeout_at(deadline, self.dialer.dial(&self.host, self.port)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Failure::new(FailureKind::Io, format!("cannot connect: {error}"))),
            Err(_) => {
                let text = format!("could not connect within {:?}", self.connect_timeout);
                Err(Failure::new(FailureKind::Timeout, text))
            }
        }
    }

    async fn ask_versions(
        &self,
        stream: &mut BoxStream,
        frames: &mut FrameReader,
        until: Instant,
    ) -> Result<Answer, Failure> {
        let mut discovery = Discovery::default();
        loop {
            let asked = timeout_at(until, self.exchange(stream, frames, discovery)).await;
            let frame = match asked {
                Ok(Ok(frame)) => frame,
                Ok(Err(failure)) if failure.kind == FailureKind::Peer => return Err(failure),
                Ok(Err(failure)) if frames.is_between_frames() => return Ok(Answer::Nothing(failure)),
                Ok(Err(failure)) => return Err(failure),
                // Old brokers say nothing at all.
                Err(_) if !frames.is_between_frames() => {
                    return Err(Failure::new(
                        FailureKind::Timeout,
                        "the answer to ApiVersions came in part only",
                    ));
                }
                Err(_) => {
                    let text = "no answer to ApiVersions: is this a Kafka broker's plaintext port?";
                    return Ok(Answer::Nothing(Failure::new(FailureKind::Timeout, text)));
                }
            };
            let (id, response) = decode_response::<ApiVersionsRequest>(frame, discovery.version())
                .map_err(|error| peer(format!("no Kafka answer to ApiVersions: {error}")))?;
            if id != CORRELATION {
                return Err(peer(format!("ApiVersions answered with correlation id {id}")));
            }
            match discovery.handle_response(&response) {
                Discovered::Versions(versions) => return Ok(Answer::Versions(versions)),
                Discovered::AskAgain(next) => discovery = next,
                Discovered::Refused(code) => return Err(peer(format!("ApiVersions was refused: {code}"))),
            }
        }
    }

    async fn exchange(
        &self,
        stream: &mut BoxStream,
        frames: &mut FrameReader,
        discovery: Discovery,
    ) -> Result<Bytes, Failure> {
        let (version, request) =
            (discovery.version(), discovery.request("milena", env!("CARGO_PKG_VERSION")));
        let mut buf = BytesMut::new();
        encode_request(&mut buf, CORRELATION, &self.client_id, version, &request)
            .map_err(|error| peer(format!("ApiVersions cannot be asked: {error}")))?;
        let io =
            |error: std::io::Error| Failure::new(FailureKind::Io, format!("the handshake failed: {error}"));
        stream.write_all(&buf).await.map_err(io)?;
        stream.flush().await.map_err(io)?;
        loop {
            if let Some(frame) = frames.take().map_err(|error| peer(format!("no Kafka answer: {error}")))? {
                return Ok(frame);
            }
            if frames.fill(stream).await.map_err(io)? == 0 {
                let text = "the broker closed the connection in the handshake: is this its plaintext port?";
                return Err(Failure::new(FailureKind::Io, text));
            }
        }
    }
}

fn peer(text: String) -> Failure {
    Failure::new(FailureKind::Peer, text)
}
