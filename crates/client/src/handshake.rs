//! Dialing a broker and learning what it speaks.
//!
//! ```text
//! ApiVersions -> answer                        -> its versions
//!             -> "unsupported version" (in v0) -> ApiVersions in the version it names
//!             -> closed  -> a legacy request is answered -> ApiVersions closed again     -> 0.8
//!             -> silence -> a legacy request is answered -> ApiVersions still unanswered -> 0.9
//! ```
//!
//! The legacy request is ListOffsets v0 about nothing: brokers from 0.8 to 3.9 answer it, at no cost, and nothing else that closes
//! or stays silent does (a TLS port, a proxy, a port of another protocol). That keeps those from being taken for an old Kafka, and the
//! second ApiVersions keeps a broker that was only busy or going down from it. An address that answered ApiVersions once is never taken
//! for an old broker; one that was found to be old is not asked again for a while: see [`generation`](crate::generation).
//!
//! # References
//! KIP-35 (ApiVersions), KIP-511 (software name, answer in v0 to an unknown version).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_protocol::messages::ApiVersionsRequest;
use milena_protocol::versions::{BrokerVersions, Discovered, Discovery};
use milena_protocol::{decode_response, encode_request};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Established, Failure, FailureKind};
use crate::error::Error;
use crate::frames::FrameReader;
use crate::generation::{Generation, Known};
use crate::sasl::{self, Authenticator, Session, Wire};
use crate::tls;
use crate::transport::{BoxFuture, BoxStream, Dial};

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
    /// What is known of this address.
    pub(crate) generation: Arc<Generation>,
    /// The versions of a broker that is not to be asked.
    pub(crate) pinned: Option<BrokerVersions>,
    /// What to assume of a broker that does not know ApiVersions; `None` judges by how it fails.
    pub(crate) fallback: Option<BrokerVersions>,
    /// Who we are, where the broker asks.
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    /// Whether `dialer` runs TLS.
    pub(crate) tls: bool,
    /// The dialer without TLS.
    pub(crate) below: Arc<dyn Dial>,
    /// How long the broker may take to answer a re-authentication.
    pub(crate) request_timeout: Duration,
    pub(crate) seed: u64,
}

/// The correlation id of handshakes; those of calls are positive.
const CORRELATION: i32 = 0;

const LIST_OFFSETS: i16 = 2;

/// How long a broker that answers a legacy request may still take to answer the ApiVersions that came before it.
const GRACE: Duration = Duration::from_millis(500);

/// A socket with what was read from it.
struct Socket {
    stream: BoxStream,
    frames: FrameReader,
}

impl Socket {
    fn established(self, versions: BrokerVersions) -> Established {
        Established { stream: self.stream, frames: self.frames, versions, session: None }
    }
}

/// What became of ApiVersions.
enum Asked {
    Answered(Established),
    /// The peer closed the connection instead.
    Closed(Failure),
}

impl Handshake {
    /// Connects, shakes hands and authenticates, within `connect_timeout`.
    ///
    /// # Cancellation
    /// The socket is closed.
    pub(crate) async fn establish(self) -> Result<Established, Failure> {
        let deadline = Instant::now() + self.connect_timeout;
        let established = match self.introduce(deadline).await {
            Ok(established) => established,
            Err(failure) => return Err(self.diagnosed(failure).await),
        };
        let Some(authenticator) = &self.authenticator else { return Ok(established) };
        let name = authenticator.credentials.mechanism();
        match timeout_at(deadline, self.authenticated(established, authenticator, deadline)).await {
            Ok(authenticated) => authenticated,
            Err(_) => {
                let text =
                    format!("the authentication by {name} took longer than {:?}", self.connect_timeout);
                Err(Failure::new(FailureKind::Timeout, text))
            }
        }
    }

    /// The connection, authenticated.
    async fn authenticated(
        &self,
        established: Established,
        authenticator: &Arc<Authenticator>,
        deadline: Instant,
    ) -> Result<Established, Failure> {
        let Established { stream, frames, versions, .. } = established;
        let mut socket = Socket { stream, frames };
        let mut outcome = authenticator.authenticate(&mut socket, &versions).await;
        // Brokers before 1.0 cannot say that they refuse; one that is going down is not there any more for a second time.
        if matches!(&outcome, Err(failure) if failure.kind == FailureKind::Io)
            && versions.range(SASL_AUTHENTICATE).is_none()
        {
            socket = self.dial(deadline).await?;
            outcome =
                authenticator.authenticate(&mut socket, &versions).await.map_err(|failure| {
                    match failure.kind {
                        FailureKind::Io => sasl::refused_by_closing(authenticator.credentials.mechanism()),
                        _ => failure,
                    }
                });
        }
        let session = outcome?.map(|lifetime| Session {
            authenticator: Arc::clone(authenticator),
            lifetime,
            timeout: self.request_timeout,
            seed: self.seed,
        });
        Ok(Established { stream: socket.stream, frames: socket.frames, versions, session })
    }

    /// A failure of a first contact, after a look at whether the port speaks another security protocol.
    async fn diagnosed(&self, failure: Failure) -> Failure {
        let first = matches!(self.generation.known(), Known::Nothing);
        let unclear = matches!(failure.kind, FailureKind::Io | FailureKind::Peer | FailureKind::Timeout);
        if !first || !unclear {
            return failure;
        }
        if self.tls && tls::speaks_plaintext_kafka(&*self.below, &self.host, self.port).await {
            let text = "TLS was tried on a port that speaks plaintext Kafka";
            return Failure::new(FailureKind::Auth, text).with_remedy(
                "use the broker's TLS listener, or set security.protocol to PLAINTEXT or SASL_PLAINTEXT",
            );
        }
        if self.tls && !tls::is_unintelligible(&failure) {
            return failure;
        }
        let speaks_tls = tls::speaks_tls(&*self.below, &self.host, self.port).await;
        if self.tls {
            return tls::cleared_up(speaks_tls);
        }
        if speaks_tls {
            let text = "plaintext was tried on a port that speaks TLS";
            return Failure::new(FailureKind::Auth, text).with_remedy(
                "use the broker's plaintext listener, or set security.protocol to SSL or SASL_SSL",
            );
        }
        failure
    }

    /// Connects and finds out what the broker speaks.
    async fn introduce(&self, deadline: Instant) -> Result<Established, Failure> {
        if let Some(versions) = &self.pinned {
            return self.unasked(versions.clone(), deadline).await;
        }
        if let Some(done) = self.by_memory(deadline).await {
            return done;
        }
        // One connection finds out, those that start meanwhile wait for it.
        let Ok(_turn) = timeout_at(deadline, self.generation.turn.lock()).await else {
            let text = "another connection to the broker was still in its handshake";
            return Err(Failure::new(FailureKind::Timeout, text));
        };
        if let Some(done) = self.by_memory(deadline).await {
            return done;
        }
        let established = self.probe(deadline).await?;
        match established.versions.range(API_VERSIONS) {
            Some(_) => self.generation.on_answer(),
            None => {
                tracing::info!(
                    host = %self.host, port = self.port,
                    "the broker does not know ApiVersions: versions of Kafka before 0.10 are assumed"
                );
                self.generation.on_assumed(established.versions.clone());
            }
        }
        Ok(established)
    }

    /// The handshake with a broker of which something is known; `None` if nothing is, or not any more.
    async fn by_memory(&self, deadline: Instant) -> Option<Result<Established, Failure>> {
        match self.generation.known() {
            Known::Nothing => None,
            Known::Answers => Some(self.ask_only(deadline).await),
            Known::Assumed { versions, .. } => {
                // A broker that is down is not another one for that.
                let socket = match self.dial(deadline).await {
                    Ok(socket) => socket,
                    Err(failure) => return Some(Err(failure)),
                };
                match self.verified(socket, deadline.min(Instant::now() + self.patience())).await {
                    Ok(socket) => Some(Ok(socket.established(versions))),
                    Err(failure) => {
                        self.generation.on_contradiction();
                        (Instant::now() >= deadline).then_some(Err(failure))
                    }
                }
            }
        }
    }

    /// A broker whose versions the user gave. One that is said to be too old for ApiVersions has to answer the legacy
    /// request; a newer one may not know it any more.
    async fn unasked(&self, versions: BrokerVersions, deadline: Instant) -> Result<Established, Failure> {
        // A listener with SASL takes nothing before the authentication.
        if versions.range(API_VERSIONS).is_none() && self.authenticator.is_none() {
            let socket = self.dial(deadline).await?;
            let socket = self.verified(socket, deadline).await.map_err(|failure| {
                let text = format!("{}; broker_version says that it is an old one", failure.text);
                Failure { text: Arc::from(text), ..failure }
            })?;
            return Ok(socket.established(versions));
        }
        Ok(self.dial(deadline).await?.established(versions))
    }

    /// How long a broker that may be an old one is waited for: the tries that follow need time too.
    fn patience(&self) -> Duration {
        self.connect_timeout / 3
    }

    /// Asks a broker that is known to answer.
    async fn ask_only(&self, deadline: Instant) -> Result<Established, Failure> {
        let heard = AtomicBool::new(false);
        match timeout_at(deadline, self.ask(self.dial(deadline).await?, &heard)).await {
            Ok(Ok(Asked::Answered(established))) => Ok(established),
            Ok(Ok(Asked::Closed(failure)) | Err(failure)) => Err(failure),
            Err(_) => Err(silence(&heard)),
        }
    }

    /// Finds out what a broker is of which nothing is known.
    async fn probe(&self, deadline: Instant) -> Result<Established, Failure> {
        let socket = self.dial(deadline).await?;
        let heard = AtomicBool::new(false);
        let mut asked = pin!(self.ask(socket, &heard));
        let patience = deadline.min(Instant::now() + self.patience());
        let outcome = match timeout_at(patience, &mut asked).await {
            Ok(outcome) => outcome?,
            // What began to answer is no broker that cannot.
            Err(_) if heard.load(Ordering::Relaxed) => {
                timeout_at(deadline, &mut asked).await.map_err(|_| silence(&heard))??
            }
            Err(_) => {
                let legacy = async { self.verified(self.dial(deadline).await?, deadline).await };
                let verified = tokio::select! {
                    biased;
                    outcome = &mut asked => return self.closed_or(outcome?, deadline).await,
                    verified = legacy => verified,
                };
                // It answers what is old and not what is new, unless that is only late.
                let Ok(legacy) = verified else { return Err(silence(&heard)) };
                match timeout_at(deadline.min(Instant::now() + GRACE), &mut asked).await {
                    Ok(outcome) => outcome?,
                    Err(_) if heard.load(Ordering::Relaxed) => return Err(silence(&heard)),
                    Err(_) => {
                        let versions = self.fallback.clone();
                        let versions = versions.unwrap_or_else(BrokerVersions::assumed_pre_apiversions);
                        return Ok(legacy.established(versions));
                    }
                }
            }
        };
        self.closed_or(outcome, deadline).await
    }

    /// What a broker is that answered, or closed the connection.
    async fn closed_or(&self, outcome: Asked, deadline: Instant) -> Result<Established, Failure> {
        let failure = match outcome {
            Asked::Answered(established) => return Ok(established),
            Asked::Closed(failure) => failure,
        };
        let Ok(socket) = self.dial(deadline).await else { return Err(failure) };
        let Ok(legacy) = self.verified(socket, deadline).await else { return Err(failure) };
        // A broker that goes down closes connections too; by now it refuses them, or another one answers.
        let heard = AtomicBool::new(false);
        let patience = deadline.min(Instant::now() + self.patience());
        match timeout_at(patience, self.ask(self.dial(deadline).await?, &heard)).await {
            Ok(Ok(Asked::Answered(established))) => Ok(established),
            Ok(Ok(Asked::Closed(_))) => {
                let versions = self.fallback.clone();
                Ok(legacy.established(versions.unwrap_or_else(BrokerVersions::assumed_without_groups)))
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(silence(&heard)),
        }
    }

    async fn dial(&self, deadline: Instant) -> Result<Socket, Failure> {
        match timeout_at(deadline, self.dialer.dial(&self.host, self.port)).await {
            Ok(Ok(stream)) => Ok(Socket { stream, frames: FrameReader::new(self.max_frame) }),
            Ok(Err(error)) => Err(undialed(&error)),
            Err(_) => {
                let text = format!("could not connect within {:?}", self.connect_timeout);
                Err(Failure::new(FailureKind::Timeout, text))
            }
        }
    }

    /// Asks what the broker speaks until it says so. `heard` is set once anything came.
    async fn ask(&self, mut socket: Socket, heard: &AtomicBool) -> Result<Asked, Failure> {
        let mut discovery = Discovery::default();
        loop {
            let (version, request) =
                (discovery.version(), discovery.request("milena", env!("CARGO_PKG_VERSION")));
            let mut question = BytesMut::new();
            encode_request(&mut question, CORRELATION, &self.client_id, version, &request)
                .map_err(|error| peer(format!("ApiVersions cannot be asked: {error}")))?;
            let frame = match exchange(&mut socket, &question, heard).await {
                Ok(frame) => frame,
                Err(failure) if failure.kind == FailureKind::Io && socket.frames.is_between_frames() => {
                    return Ok(Asked::Closed(failure));
                }
                Err(failure) => return Err(failure),
            };
            let (id, response) = decode_response::<ApiVersionsRequest>(frame, version)
                .map_err(|error| peer(format!("no Kafka answer to ApiVersions: {error}")))?;
            if id != CORRELATION {
                return Err(peer(format!("ApiVersions answered with correlation id {id}")));
            }
            match discovery.handle_response(&response) {
                Discovered::Versions(versions) => return Ok(Asked::Answered(socket.established(versions))),
                Discovered::AskAgain(next) => discovery = next,
                Discovered::Refused(code) => return Err(peer(format!("ApiVersions was refused: {code}"))),
            }
        }
    }

    /// The connection, after the broker answered the legacy request on it.
    async fn verified(&self, mut socket: Socket, until: Instant) -> Result<Socket, Failure> {
        let question = legacy_question(&self.client_id);
        let heard = AtomicBool::new(false);
        let answer = match timeout_at(until, exchange(&mut socket, &question, &heard)).await {
            Ok(answer) => answer?,
            Err(_) => {
                let text = "no answer to ListOffsets v0: is this a Kafka broker, and does the port speak the security protocol that is set?";
                return Err(Failure::new(FailureKind::Timeout, text));
            }
        };
        if is_legacy_answer(answer) {
            return Ok(socket);
        }
        Err(peer("no Kafka answer to ListOffsets v0".to_owned()))
    }
}

const API_VERSIONS: i16 = 18;
const SASL_AUTHENTICATE: i16 = 36;

/// ListOffsets v0 (the protocol guide's "Offset API") for no partition, as a frame.
fn legacy_question(client_id: &str) -> BytesMut {
    let name = client_id.as_bytes().get(..i16::MAX as usize).unwrap_or(client_id.as_bytes());
    let mut body = BytesMut::new();
    body.put_i16(LIST_OFFSETS);
    body.put_i16(0);
    body.put_i32(CORRELATION);
    body.put_i16(name.len() as i16);
    body.put_slice(name);
    // No replica, no topics.
    body.put_i32(-1);
    body.put_i32(0);
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_i32(body.len() as i32);
    frame.unsplit(body);
    frame
}

/// Whether a frame is the answer to it: the correlation id and no topics.
fn is_legacy_answer(mut frame: Bytes) -> bool {
    frame.len() == 8 && frame.get_i32() == CORRELATION && frame.get_i32() == 0
}

/// Why there is no connection.
fn undialed(error: &std::io::Error) -> Failure {
    if let Some(failure) = tls::explain(error) {
        return failure;
    }
    if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        // Settings or files that cannot be used.
        let failure = Failure::new(FailureKind::Auth, own.message().to_owned());
        return match own.remedy() {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        };
    }
    Failure::new(FailureKind::Io, format!("cannot connect: {error}"))
}

impl Wire for Socket {
    fn ask<'a>(&'a mut self, frame: Bytes) -> BoxFuture<'a, Result<Bytes, Failure>> {
        Box::pin(async move {
            let heard = AtomicBool::new(false);
            exchange(self, &frame, &heard).await.map_err(|failure| match failure.kind {
                FailureKind::Io => Failure { text: Arc::from(CUT_OFF), ..failure },
                _ => failure,
            })
        })
    }

    fn tell<'a>(&'a mut self, frame: Bytes) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let written = async {
                self.stream.write_all(&frame).await?;
                self.stream.flush().await
            };
            written.await.map_err(|_| Failure::new(FailureKind::Io, CUT_OFF))
        })
    }
}

const CUT_OFF: &str = "the broker closed the connection in the authentication";

/// Writes a question and waits for one frame.
async fn exchange(socket: &mut Socket, question: &[u8], heard: &AtomicBool) -> Result<Bytes, Failure> {
    let io = |error: std::io::Error| {
        let unknown = || Failure::new(FailureKind::Io, format!("the handshake failed: {error}"));
        tls::explain(&error).unwrap_or_else(unknown)
    };
    socket.stream.write_all(question).await.map_err(io)?;
    socket.stream.flush().await.map_err(io)?;
    loop {
        if let Some(frame) =
            socket.frames.take(None).map_err(|error| peer(format!("no Kafka answer: {error}")))?
        {
            return Ok(frame);
        }
        if socket.frames.fill(&mut socket.stream, false).await.map_err(io)? == 0 {
            let text = "the broker closed the connection in the handshake: does this port speak the security protocol that is set?";
            return Err(Failure::new(FailureKind::Io, text));
        }
        heard.store(true, Ordering::Relaxed);
    }
}

/// The failure of a peer that did not answer ApiVersions in time.
fn silence(heard: &AtomicBool) -> Failure {
    let text = if heard.load(Ordering::Relaxed) {
        "the answer to ApiVersions came in part only"
    } else {
        "no answer to ApiVersions: is this a Kafka broker, and does the port speak the security protocol that is set?"
    };
    Failure::new(FailureKind::Timeout, text)
}

fn peer(text: String) -> Failure {
    Failure::new(FailureKind::Peer, text)
}
