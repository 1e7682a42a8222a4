//! One authentication over a connection: SaslHandshake and SaslAuthenticate, or bare frames.
//!
//! ```text
//! 1.0 and later     SaslHandshake v1, then each token in a SaslAuthenticate
//! 0.10, 0.11        SaslHandshake v0, then each token as a frame of its own
//! 0.9               each token as a frame of its own (GSSAPI only)
//! ```
//!
//! # References
//! KIP-43 (SaslHandshake), KIP-152 (SaslAuthenticate), KIP-368 (how long it is good for).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use milena_core::sasl::{Mechanism, SaslError, SaslErrorKind, Secret, Step};
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use milena_protocol::versions::BrokerVersions;
use milena_protocol::{StrBytes, decode_response, encode_request};
use zeroize::Zeroizing;

use super::{Credentials, Peer};
use crate::connection::{Failure, FailureKind};
use crate::error::{Error, ErrorKind};
use crate::transport::BoxFuture;

/// The correlation id of what is asked here; those of calls are positive.
pub(crate) const CORRELATION: i32 = 0;

/// How many tokens an exchange may take. SCRAM takes two, GSSAPI three.
const MAX_ROUNDS: usize = 16;

const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;

/// What the exchange goes over.
pub(crate) trait Wire: Send {
    /// Sends a frame, its length included, and waits for the one that answers it, given without its length.
    fn ask<'a>(&'a mut self, frame: Bytes) -> BoxFuture<'a, Result<Bytes, Failure>>;

    /// Sends a frame that is not answered.
    fn tell<'a>(&'a mut self, frame: Bytes) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Authenticates connections to one broker.
#[derive(Clone, Debug)]
pub(crate) struct Authenticator {
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) peer: Peer,
    pub(crate) client_id: Arc<str>,
}

/// How tokens are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// In SaslAuthenticate of this version.
    Asked(i16),
    /// As frames of their own.
    Bare,
}

impl Authenticator {
    /// Authenticates. Returns for how long that is good, where the broker sets a limit.
    ///
    /// # Cancellation
    /// The connection is in the middle of an exchange then, and of no use.
    pub(crate) async fn authenticate(
        &self,
        wire: &mut dyn Wire,
        versions: &BrokerVersions,
    ) -> Result<Option<Duration>, Failure> {
        let mut mechanism = self.credentials.begin(&self.peer).await.map_err(|error| failed_begin(&error))?;
        let name = mechanism.name();
        let framing = match versions.negotiate_within::<SaslAuthenticateRequest>(0, 2) {
            Ok(version) if versions.range(SASL_HANDSHAKE).is_some_and(|range| range.max >= 1) => {
                Framing::Asked(version)
            }
            _ => Framing::Bare,
        };
        if versions.range(SASL_HANDSHAKE).is_some() {
            self.handshake(wire, i16::from(framing != Framing::Bare), name).await?;
        }
        let mut token = mechanism.start(SystemTime::now()).map_err(|error| refused_here(name, &error))?;
        for _ in 0..MAX_ROUNDS {
            let (challenge, lifetime) = self.exchange(wire, framing, &token, &mut *mechanism).await?;
            let (returned, step) = step(mechanism, challenge).await;
            mechanism = returned;
            match step.map_err(|error| refused_here(name, &error))? {
                Step::Respond(next) => token = next,
                Step::Finish(last) => {
                    if framing == Framing::Bare {
                        wire.tell(bare(&last)?).await?;
                        return Ok(None);
                    }
                    return Ok(self.exchange(wire, framing, &last, &mut *mechanism).await?.1);
                }
                Step::Done => return Ok(lifetime),
            }
        }
        Err(auth(format!("{name} came to no end within {MAX_ROUNDS} tokens")))
    }

    async fn handshake(&self, wire: &mut dyn Wire, version: i16, name: &str) -> Result<(), Failure> {
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_string(name.to_owned()));
        let mut frame = BytesMut::new();
        encode_request(&mut frame, CORRELATION, &self.client_id, version, &request)
            .map_err(|error| peer(format!("SaslHandshake cannot be asked: {error}")))?;
        let answer = wire.ask(frame.freeze()).await?;
        let (id, response) = decode_response::<SaslHandshakeRequest>(answer, version)
            .map_err(|error| peer(format!("no Kafka answer to SaslHandshake: {error}")))?;
        check_correlation(id, "SaslHandshake")?;
        match ErrorCode(response.error_code) {
            code if code.is_ok() => Ok(()),
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let offered: Vec<&str> = response.mechanisms.iter().map(|name| name.as_str()).collect();
                Err(auth(format!(
                    "the listener does not offer the SASL mechanism {name}; it offers {}",
                    offered.join(", ")
                ))
                .with_remedy("set sasl.mechanism to one of those, with its credentials"))
            }
            ErrorCode::ILLEGAL_SASL_STATE => Err(auth("the listener takes no SASL".to_owned()).with_remedy(
                "use another listener, or set security.protocol to PLAINTEXT (SSL for TLS without SASL)",
            )),
            code => Err(auth(format!("SaslHandshake was refused: {code}"))),
        }
    }

    /// Sends one token. Returns the challenge, and for how long the authentication is good if it is complete.
    async fn exchange(
        &self,
        wire: &mut dyn Wire,
        framing: Framing,
        token: &Secret,
        mechanism: &mut dyn Mechanism,
    ) -> Result<(Bytes, Option<Duration>), Failure> {
        let Framing::Asked(version) = framing else {
            return Ok((wire.ask(bare(token)?).await?, None));
        };
        let answer = wire.ask(self.asked(version, token)?).await?;
        let (id, response) = decode_response::<SaslAuthenticateRequest>(answer, version)
            .map_err(|error| peer(format!("no Kafka answer to SaslAuthenticate: {error}")))?;
        check_correlation(id, "SaslAuthenticate")?;
        let code = ErrorCode(response.error_code);
        if !code.is_ok() {
            return Err(refused_there(mechanism, code, response.error_message.as_deref()));
        }
        let lifetime = u64::try_from(response.session_lifetime_ms).ok().filter(|&lifetime| lifetime > 0);
        Ok((response.auth_bytes, lifetime.map(Duration::from_millis)))
    }

    /// A SaslAuthenticate request in a buffer that is wiped.
    fn asked(&self, version: i16, token: &Secret) -> Result<Bytes, Failure> {
        let token = token.expose();
        let flexible = version >= 2;
        // With room for all of it: a buffer that moves leaves its bytes behind.
        let mut frame = Zeroizing::new(Vec::with_capacity(token.len() + self.client_id.len() + 64));
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(&SASL_AUTHENTICATE.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&CORRELATION.to_be_bytes());
        let client_id = self.client_id.as_bytes();
        frame.extend_from_slice(&(client_id.len() as i16).to_be_bytes());
        frame.extend_from_slice(client_id);
        if flexible {
            frame.push(0);
            put_varint(&mut frame, token.len() + 1);
        } else {
            frame.extend_from_slice(&length(token.len())?);
        }
        frame.extend_from_slice(token);
        if flexible {
            frame.push(0);
        }
        let size = length(frame.len() - 4)?;
        for (to, from) in frame.iter_mut().zip(size) {
            *to = from;
        }
        Ok(Bytes::from_owner(frame))
    }
}

/// A token as a frame of its own, in a buffer that is wiped.
fn bare(token: &Secret) -> Result<Bytes, Failure> {
    let token = token.expose();
    let mut frame = Zeroizing::new(Vec::with_capacity(token.len() + 4));
    frame.extend_from_slice(&length(token.len())?);
    frame.extend_from_slice(token);
    Ok(Bytes::from_owner(frame))
}

fn length(of: usize) -> Result<[u8; 4], Failure> {
    let length = i32::try_from(of).map_err(|_| auth("the token is too long".to_owned()))?;
    Ok(length.to_be_bytes())
}

fn put_varint(to: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// One step of the machine; a costly one off the runtime's threads.
async fn step(
    mut mechanism: Box<dyn Mechanism>,
    challenge: Bytes,
) -> (Box<dyn Mechanism>, Result<Step, SaslError>) {
    if !mechanism.is_costly() {
        let step = mechanism.step(&challenge, SystemTime::now());
        return (mechanism, step);
    }
    let name = mechanism.name();
    let run = tokio::task::spawn_blocking(move || {
        let step = mechanism.step(challenge.chunk(), SystemTime::now());
        (mechanism, step)
    });
    run.await.unwrap_or_else(|_| {
        let stopped = SaslError::new(SaslErrorKind::Malformed, "the runtime is stopping");
        (Box::new(Gone(name)), Err(stopped))
    })
}

/// In place of a machine that went down with the runtime.
#[derive(Debug)]
struct Gone(&'static str);

impl Mechanism for Gone {
    fn name(&self) -> &'static str {
        self.0
    }

    fn start(&mut self, _now: SystemTime) -> Result<Secret, SaslError> {
        Err(SaslError::new(SaslErrorKind::Malformed, "the runtime is stopping"))
    }

    fn step(&mut self, _challenge: &[u8], now: SystemTime) -> Result<Step, SaslError> {
        self.start(now).map(Step::Finish)
    }
}

fn check_correlation(id: i32, api: &str) -> Result<(), Failure> {
    if id == CORRELATION {
        return Ok(());
    }
    Err(peer(format!("{api} answered with correlation id {id}")))
}

/// The credentials gave no exchange.
fn failed_begin(error: &Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::Io | ErrorKind::Timeout | ErrorKind::Peer => FailureKind::Io,
        _ => FailureKind::Auth,
    };
    let failure = Failure::new(kind, error.message().to_owned());
    match error.remedy() {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

/// The machine on our side does not go on.
fn refused_here(name: &str, error: &SaslError) -> Failure {
    let failure = auth(format!("authentication by {name} failed: {}", error.message));
    match &error.remedy {
        Some(remedy) => failure.with_remedy(remedy.as_ref()),
        None => failure,
    }
}

/// The broker refused.
fn refused_there(mechanism: &dyn Mechanism, code: ErrorCode, text: Option<&str>) -> Failure {
    let name = mechanism.name();
    let mut message = format!("the broker refused the authentication by {name}: {code}");
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        message.push_str(&format!("; it says: {text}"));
    }
    if let Some(refusal) = mechanism.refusal() {
        message.push_str(&format!("; {refusal}"));
    }
    auth(message).with_remedy(match name {
        "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
            "check the user name and the password, and that the broker knows the user for this mechanism"
        }
        "OAUTHBEARER" => {
            "check the token's issuer, audience, signature and times against what the broker expects"
        }
        "GSSAPI" => "check the service principal of the broker and the clocks on both sides",
        _ => "check the credentials",
    })
}

/// A broker that closed the connection where it could not say what it refuses.
pub(crate) fn refused_by_closing(name: &str) -> Failure {
    auth(format!("the broker closed the connection in the authentication by {name}, twice"))
        .with_remedy("check the user name and the password: brokers before 1.0 refuse them without a word")
}

fn auth(text: String) -> Failure {
    Failure::new(FailureKind::Auth, text)
}

fn peer(text: String) -> Failure {
    Failure::new(FailureKind::Peer, text)
}
