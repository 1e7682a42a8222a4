//! One request and its answer: where it goes, in which version, and what its errors say.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::types::BrokerId;
use milena_protocol::versions::BrokerVersions;
use milena_protocol::{Request, api_name, decode_response, encode_request};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::connection::{Claim, Failure, FailureKind, Outgoing};
use crate::consumer::Room;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Want;
use crate::pool::{Endpoint, Purpose};

/// What kind of thing a coordinator coordinates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoordinatorKind {
    /// A consumer group.
    Group,
    /// A transactional id.
    Transaction,
}

/// Which broker a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any one, preferably one that is connected.
    Any,
    /// The one that takes requests for the controller.
    Controller,
    /// This one.
    Broker(BrokerId),
    /// The coordinator of this group or transactional id.
    Coordinator(CoordinatorKind, String),
}

/// Where a request goes, inside the client.
#[derive(Clone, Debug)]
pub(crate) enum Destination<'a> {
    Target(&'a Target),
    /// This address, by the name messages call it.
    Address(Endpoint, String),
}

/// How a single request is sent. `CallOptions::default()` is right for most.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Which connection to use; `None` chooses by the API.
    pub purpose: Option<Purpose>,
    /// Do not use a lower version than this.
    pub min_version: Option<i16>,
    /// Do not use a higher version than this.
    pub max_version: Option<i16>,
    /// How long the broker may take to answer before its connection is closed. Default: `request_timeout`.
    pub timeout: Option<Duration>,
    /// When the whole call is over, connecting included. Default: `api_timeout` from now.
    pub deadline: Option<Instant>,
}

/// An answer and where it came from.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The answer.
    pub response: T,
    /// The version it was asked and answered in.
    pub version: i16,
    /// The broker, as messages call it.
    pub broker: Arc<str>,
}

/// A request that was handed to its connection and waits for its answer.
pub(crate) struct Started {
    connection: Claim,
    /// The broker, as messages call it. A connection that was made to a bootstrap address has another name for itself.
    name: Arc<str>,
    reply: oneshot::Receiver<Result<Bytes, Failure>>,
    version: i16,
    api_key: i16,
    since: Instant,
    deadline: Instant,
}

impl CallOptions {
    /// Options with a deadline for the whole call.
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }
}

impl Client {
    /// Sends one request and reads its answer, in the highest version both sides speak. One try: errors inside the
    /// answer are the caller's to judge.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when there is no common version, [`ErrorKind::Io`], [`ErrorKind::Timeout`] and
    /// [`ErrorKind::Peer`] as their docs say; [`Error::maybe_applied`] tells whether the broker may have acted.
    ///
    /// # Cancellation
    /// Dropped before the request is sent, nothing happens; after, the broker may act on it and the answer is
    /// thrown away. The connection stays usable.
    pub async fn call<R: Request + Sync>(&self, to: Target, request: &R) -> Result<R::Response> {
        let encode = |version: i16, correlation: i32, client_id: &str, buf: &mut BytesMut| {
            encode_request(buf, correlation, client_id, version, request)
        };
        let options = CallOptions::default();
        let (started, frame) = self.exchange::<R>(&to, &options, &encode).await?;
        started.read::<R>(frame)
    }

    /// As [`Client::call`], with a request that is built for the negotiated version.
    ///
    /// # Cancellation
    /// As [`Client::call`].
    pub async fn call_with<R, F>(
        &self,
        to: Target,
        options: CallOptions,
        build: F,
    ) -> Result<Answer<R::Response>>
    where
        R: Request,
        F: Fn(i16) -> R + Send + Sync,
    {
        let encode = |version: i16, correlation: i32, client_id: &str, buf: &mut BytesMut| {
            encode_request(buf, correlation, client_id, version, &build(version))
        };
        let (started, frame) = self.exchange::<R>(&to, &options, &encode).await?;
        let (version, broker) = (started.version, Arc::clone(&started.name));
        Ok(Answer { response: started.read::<R>(frame)?, version, broker })
    }

    /// As [`Client::call_with`], with an answer that `read` reads from its frame and the version.
    ///
    /// # Cancellation
    /// As [`Client::call`].
    pub(crate) async fn call_read<R, F, T>(
        &self,
        to: Target,
        options: CallOptions,
        build: F,
        read: impl FnOnce(Bytes, i16) -> milena_protocol::Result<T> + Send,
    ) -> Result<Answer<T>>
    where
        R: Request,
        F: Fn(i16) -> R + Send + Sync,
    {
        let encode = |version: i16, correlation: i32, client_id: &str, buf: &mut BytesMut| {
            encode_request(buf, correlation, client_id, version, &build(version))
        };
        let (started, frame) = self.exchange::<R>(&to, &options, &encode).await?;
        let response = started.read_with(frame, read)?;
        Ok(Answer { response, version: started.version, broker: Arc::clone(&started.name) })
    }

    async fn exchange<R: Request>(
        &self,
        to: &Target,
        options: &CallOptions,
        encode: &Encode<'_>,
    ) -> Result<(Started, Bytes)> {
        let mut tries = 0;
        loop {
            tries += 1;
            let negotiate = negotiation::<R>(options);
            let framed = |version: i16, correlation: i32, client_id: &str| {
                let mut buf = BytesMut::new();
                encode(version, correlation, client_id, &mut buf)?;
                Ok(vec![buf.freeze()])
            };
            let mut started =
                self.start(Destination::Target(to), options, R::KEY, &negotiate, &framed).await?;
            match started.frame().await {
                Ok(frame) => return Ok((started, frame)),
                // The connection ended before it could take the request: nothing was asked yet.
                Err((failure, _)) if !failure.sent && failure.is_of_the_connection() && tries < 3 => {}
                Err((_, error)) => return Err(error),
            }
        }
    }

    /// Hands a request to its connection and returns at once with what waits for the answer. Requests started one
    /// after the other to the same broker and purpose are answered in that order. `encode` gets version, correlation id
    /// and client id, and returns the frame with its length prefix, in pieces. It may be called again if the connection turns out to be
    /// closed.
    ///
    /// # Cancellation
    /// Dropped before it returns, nothing is sent.
    pub(crate) async fn start(
        &self,
        to: Destination<'_>,
        options: &CallOptions,
        api_key: i16,
        negotiate: &Negotiate<'_>,
        encode: &EncodeFrame<'_>,
    ) -> Result<Started> {
        self.start_into(to, options, api_key, negotiate, encode, None).await
    }

    /// As [`Client::start`], with room that the answer is read into.
    ///
    /// # Cancellation
    /// As [`Client::start`].
    pub(crate) async fn start_into(
        &self,
        to: Destination<'_>,
        options: &CallOptions,
        api_key: i16,
        negotiate: &Negotiate<'_>,
        encode: &EncodeFrame<'_>,
        room: Option<&Arc<Room>>,
    ) -> Result<Started> {
        let since = Instant::now();
        let config = self.config();
        let api = api_name(api_key);
        let deadline = options.deadline.unwrap_or(since + config.api_timeout);
        let purpose = options.purpose.unwrap_or_else(|| purpose_of(api_key));
        let mut tries = 0;
        loop {
            tries += 1;
            let (endpoint, name) = match &to {
                Destination::Target(target) => {
                    self.resolve(target, deadline).await.map_err(|error| error.with_api(api))?
                }
                Destination::Address(endpoint, name) => (endpoint.clone(), name.clone()),
            };
            let connection = self.pool().claim(&endpoint, purpose, &name)?;
            let name: Arc<str> = Arc::from(name);
            let versions = match timeout_at(deadline, connection.ready()).await {
                Ok(Ok(versions)) => versions,
                Ok(Err(failure)) if failure.is_of_the_connection() && tries < 3 => continue,
                Ok(Err(failure)) => {
                    // The broker may have another address by now.
                    if matches!(&to, Destination::Target(_)) {
                        self.metadata_cache().refresh_soon(Want::Brokers);
                    }
                    return Err(call_error(&failure, &name, api, since));
                }
                Err(_) => {
                    return Err(late(&name, api, since, "the connection was not ready in time", false));
                }
            };
            let version = negotiate(&versions).map_err(|error| {
                // If the versions were assumed long ago, the broker may be another one by now.
                if self.pool().doubt(&endpoint) {
                    connection.poison(Failure::new(FailureKind::Retired, "the versions were assumed"));
                }
                let error = Error::from(error).with_broker(Arc::clone(&name)).with_api(api);
                match since_release(api_key) {
                    Some(release) if versions.range(api_key).is_none() => {
                        error.with_remedy(format!("it came with Kafka {release}: use a newer broker"))
                    }
                    _ => error,
                }
            })?;
            let correlation_id = connection.correlation();
            let frame = encode(version, correlation_id, &config.client_id).map_err(|error| {
                Error::misuse(format!("the request cannot be written: {error}"))
                    .with_api(api)
                    .with_source(error)
            })?;
            let (sender, reply) = oneshot::channel();
            let timeout = options.timeout.unwrap_or(config.request_timeout);
            let room = room.cloned();
            let outgoing = Outgoing { correlation_id, frame, timeout, room, reply: Some(sender) };
            return match timeout_at(deadline, connection.submit(outgoing)).await {
                Ok(Ok(())) => Ok(Started { connection, name, reply, version, api_key, since, deadline }),
                Ok(Err(failure)) if failure.is_of_the_connection() && tries < 3 => continue,
                Ok(Err(failure)) => Err(call_error(&failure, &name, api, since)),
                Err(_) => {
                    let text = match connection.rests_until() {
                        Some(_) => "the broker holds requests back, because a quota is used up",
                        None => "too many requests before it",
                    };
                    Err(late(&name, api, since, text, false))
                }
            };
        }
    }
}

type Encode<'a> = dyn Fn(i16, i32, &str, &mut BytesMut) -> milena_protocol::Result<()> + Send + Sync + 'a;
pub(crate) type EncodeFrame<'a> =
    dyn Fn(i16, i32, &str) -> milena_protocol::Result<Vec<Bytes>> + Send + Sync + 'a;
type Negotiate<'a> = dyn Fn(&BrokerVersions) -> milena_protocol::Result<i16> + Send + Sync + 'a;

/// The negotiation of one request type inside the limits of the options.
pub(crate) fn negotiation<R: Request>(
    options: &CallOptions,
) -> impl Fn(&BrokerVersions) -> milena_protocol::Result<i16> + Send + Sync + use<R> {
    let (min, max) = (options.min_version.unwrap_or(0), options.max_version.unwrap_or(i16::MAX));
    move |versions| versions.negotiate_within::<R>(min, max)
}

impl Started {
    /// The version it was asked in.
    pub(crate) fn version(&self) -> i16 {
        self.version
    }

    /// Waits for the answer and decodes it.
    ///
    /// # Cancellation
    /// The broker may act on the request; the answer is thrown away.
    pub(crate) async fn answer<R: Request>(mut self) -> Result<R::Response> {
        let frame = self.frame().await.map_err(|(_, error)| error)?;
        self.read::<R>(frame)
    }

    /// Waits for the answer and reads it with `read`, which gets its frame and the version. Also gives the broker's name.
    ///
    /// # Cancellation
    /// As [`Started::answer`].
    pub(crate) async fn answer_read<T>(
        mut self,
        read: impl FnOnce(Bytes, i16) -> milena_protocol::Result<T>,
    ) -> Result<(T, Arc<str>)> {
        let frame = self.frame().await.map_err(|(_, error)| error)?;
        Ok((self.read_with(frame, read)?, self.name))
    }

    async fn frame(&mut self) -> std::result::Result<Bytes, (Failure, Error)> {
        let api = api_name(self.api_key);
        let failure = match timeout_at(self.deadline, &mut self.reply).await {
            Ok(Ok(Ok(frame))) => return Ok(frame),
            Ok(Ok(Err(failure))) => failure,
            Ok(Err(_)) => self.connection.ended_failure(),
            Err(_) => {
                let failure =
                    Failure::new(FailureKind::Timeout, "the call's time was up before the answer came");
                Failure { sent: true, ..failure }
            }
        };
        let error = call_error(&failure, &self.name, api, self.since);
        Err((failure, error))
    }

    fn read<R: Request>(&self, frame: Bytes) -> Result<R::Response> {
        let response = self.read_with(frame, |frame, version| {
            decode_response::<R>(frame, version).map(|(_, response)| response)
        })?;
        self.connection.rest(R::throttle_time(&response, self.version));
        Ok(response)
    }

    fn read_with<T>(
        &self,
        frame: Bytes,
        read: impl FnOnce(Bytes, i16) -> milena_protocol::Result<T>,
    ) -> Result<T> {
        match read(frame, self.version) {
            Ok(response) => Ok(response),
            Err(error) => {
                let text = format!("the answer cannot be read: {error}");
                self.connection.poison(Failure::new(FailureKind::Peer, text.clone()));
                Err(Error::peer(text)
                    .with_source(error)
                    .with_broker(Arc::clone(&self.name))
                    .with_api(api_name(self.api_key))
                    .with_maybe_applied(true))
            }
        }
    }
}

/// Which connection an API uses unless the caller says otherwise.
fn purpose_of(api_key: i16) -> Purpose {
    match api_key {
        0 => Purpose::Produce,
        1 => Purpose::Fetch,
        // OffsetCommit, OffsetFetch, group membership, transactions.
        8 | 9 | 11..=14 | 22 | 24..=26 | 28 | 65 | 68 => Purpose::Coordination,
        _ => Purpose::Other,
    }
}

/// The first release of Kafka whose brokers have an API, where that is not 0.8.2.
fn since_release(api_key: i16) -> Option<&'static str> {
    Some(match api_key {
        11..=16 => "0.9",
        17 | 18 => "0.10.0",
        19 | 20 => "0.10.1",
        21..=33 => "0.11",
        34..=37 => "1.0",
        38..=42 => "1.1",
        43 => "2.2",
        44 => "2.3",
        45..=47 => "2.4",
        48 | 49 => "2.6",
        50 | 51 | 57 => "2.7",
        60 | 61 => "2.8",
        65 | 66 => "3.0",
        68 | 69 | 71 | 72 | 74 | 75 => "3.7",
        76..=79 => "4.0",
        _ => return None,
    })
}

fn late(name: &Arc<str>, api: &'static str, since: Instant, text: &'static str, sent: bool) -> Error {
    let failure = Failure { sent, ..Failure::new(FailureKind::Timeout, text) };
    call_error(&failure, name, api, since)
}

pub(crate) fn call_error(failure: &Failure, name: &Arc<str>, api: &'static str, since: Instant) -> Error {
    let (kind, remedy) = match failure.kind {
        FailureKind::Io | FailureKind::Retired => {
            (ErrorKind::Io, "check that the broker runs and that this address is reachable from here")
        }
        FailureKind::Timeout => (
            ErrorKind::Timeout,
            "check that the broker is alive and reachable; if it is only slow, allow more time",
        ),
        FailureKind::Peer => (
            ErrorKind::Peer,
            "check that this address is a listener of a Kafka broker, of the security protocol that is set",
        ),
        FailureKind::Auth => {
            (ErrorKind::Auth, "check security.protocol, the credentials and the certificates on both sides")
        }
        FailureKind::Closed => (ErrorKind::Closed, "make a new client"),
    };
    let remedy = failure.remedy.as_deref().unwrap_or(remedy).to_owned();
    Error::new(kind, failure.text.to_string())
        .with_broker(Arc::clone(name))
        .with_api(api)
        .with_attempts(1, since.elapsed())
        .with_maybe_applied(failure.sent)
        .with_remedy(remedy)
}
