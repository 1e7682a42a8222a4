//! The cached topology and the task that refreshes it.
//!
//! One task asks, so refreshes that are wanted at the same time are one request. A refresh goes to the known brokers
//! (connected ones first) and to the bootstrap addresses after them: when all known brokers are gone the client starts over
//! from the bootstrap list by itself (KIP-899). A broker that wants that (REBOOTSTRAP_REQUIRED, KIP-1102) is asked once more by a new
//! connection, since its name may stand for another one by now.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use milena_core::cluster::{Cluster, Scope};
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::metadata_request::MetadataRequestTopic;
use milena_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use milena_protocol::{Request, StrBytes, encode_request};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::call::{CallOptions, Destination, negotiation};
use crate::client::{Client, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Endpoint;

/// What a refresh shall bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Brokers and controller.
    Brokers,
    /// These topics.
    Topics(BTreeSet<Arc<str>>),
    /// Every topic.
    All,
}

impl Want {
    /// One topic.
    pub(crate) fn topic(name: &str) -> Self {
        Self::Topics(BTreeSet::from([Arc::from(name)]))
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Topics(mut one), Self::Topics(two)) => {
                one.extend(two);
                Self::Topics(one)
            }
            (Self::Topics(topics), Self::Brokers) | (Self::Brokers, Self::Topics(topics)) => {
                Self::Topics(topics)
            }
            (Self::Brokers, Self::Brokers) => Self::Brokers,
        }
    }
}

struct Ask {
    want: Want,
    reply: Option<oneshot::Sender<Result<Arc<Cluster>>>>,
}

/// The cached topology. The snapshot is written by the refresh task only.
#[derive(Debug)]
pub(crate) struct Metadata {
    snapshot: watch::Sender<Arc<Cluster>>,
    asks: mpsc::UnboundedSender<Ask>,
    /// Why the last refresh failed; `None` after one that did not.
    failure: Mutex<Option<Error>>,
}

/// The other end of a [`Metadata`]: what its task starts from.
pub(crate) struct MetadataTask {
    asks: mpsc::UnboundedReceiver<Ask>,
}

/// How long a silent broker holds up a refresh before the next one is asked as well.
const STAGGER: Duration = Duration::from_millis(500);

/// The shortest time between refreshes that nobody waits for.
const BACKGROUND_GAP: Duration = Duration::from_millis(100);

impl Metadata {
    pub(crate) fn new() -> (Self, MetadataTask) {
        let (asks, receiver) = mpsc::unbounded_channel();
        let metadata = Self { snapshot: watch::Sender::default(), asks, failure: Mutex::default() };
        (metadata, MetadataTask { asks: receiver })
    }

    /// Why the last refresh failed, unless it succeeded: what to tell those whose time is up during the next one.
    pub(crate) fn last_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, failure: Option<Error>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// The current snapshot.
    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Tells each new snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Cluster>> {
        self.snapshot.subscribe()
    }

    /// Asks now and waits.
    ///
    /// # Cancellation
    /// The refresh goes on for those who also wait.
    pub(crate) async fn refresh(&self, want: Want) -> Result<Arc<Cluster>> {
        let (reply, answer) = oneshot::channel();
        let closed = || Error::closed("the runtime the client was made on has stopped");
        self.asks.send(Ask { want, reply: Some(reply) }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Asks soon; nobody waits. Many calls become one refresh.
    pub(crate) fn refresh_soon(&self, want: Want) {
        let _ = self.asks.send(Ask { want, reply: None });
    }
}

impl MetadataTask {
    /// Runs until the client is gone.
    pub(crate) async fn run(mut self, client: Weak<Inner>, max_age: Duration) {
        let mut tracked: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut last = Instant::now();
        loop {
            let first = tokio::select! {
                biased;
                ask = self.asks.recv() => match ask {
                    Some(ask) => ask,
                    None => return,
                },
                () = sleep_until(last + max_age) => {
                    let want = if tracked.is_empty() { Want::Brokers } else { Want::Topics(tracked.clone()) };
                    Ask { want, reply: None }
                }
            };
            if first.reply.is_none() {
                sleep_until(last + BACKGROUND_GAP).await;
            }
            let Some(inner) = client.upgrade() else { return };
            let client = Client::from_inner(inner);
            let mut replies = Vec::new();
            let mut want = first.want;
            replies.extend(first.reply);
            while let Ok(ask) = self.asks.try_recv() {
                want = want.join(ask.want);
                replies.extend(ask.reply);
            }
            if let Want::Topics(topics) = &want {
                tracked.extend(topics.iter().cloned());
            }
            let result = refresh(&client, &want).await;
            last = Instant::now();
            client.metadata_cache().note(result.as_ref().err().cloned());
            match &result {
                Ok(cluster) => {
                    tracked.retain(|name| {
                        cluster.topic_error(name) != Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
                    });
                }
                Err(error) => tracing::warn!(%error, "the cluster's metadata could not be refreshed"),
            }
            for reply in replies {
                let _ = reply.send(result.clone());
            }
        }
    }
}

/// Asks brokers until one answers: the next when one fails, or is silent for [`STAGGER`].
async fn refresh(client: &Client, want: &Want) -> Result<Arc<Cluster>> {
    let deadline = Instant::now() + client.config().api_timeout;
    let mut candidates = VecDeque::from(client.candidates());
    let mut sent_away: HashSet<Endpoint> = HashSet::new();
    let mut running = FuturesUnordered::new();
    let mut failures: Vec<Error> = Vec::new();
    let mut exhausted = false;
    let mut next_start = Instant::now();
    loop {
        tokio::select! {
           biased;
            Some((place, asked)) = running.next(), if !running.is_empty() => match asked {
                Ok(said) => return Ok(publish(client, &said)),
                Err(error) => {
                    if is_sent_away(client, &error, &place, &mut sent_away) {
                        candidates.push_back(place);
                        exhausted = false;
                    }
                    failures.push(error);
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if !exhausted => match candidates.pop_front() {
                Some(place) => {
                    running.push(ask_at(place, client, want, deadline));
                    next_start = Instant::now() + STAGGER;
                }
                None => exhausted = true,
            },
            else => break,
        }
    }
    Err(no_answer(failures))
}

/// Whether the broker sends its clients to where they began and this place is to be asked once more, by another connection.
fn is_sent_away(
    client: &Client,
    error: &Error,
    place: &(Endpoint, String),
    before: &mut HashSet<Endpoint>,
) -> bool {
    let again = error.code() == Some(ErrorCode::REBOOTSTRAP_REQUIRED) && before.insert(place.0.clone());
    if again {
        client.pool().retire(&place.0);
    }
    again
}

fn no_answer(failures: Vec<Error>) -> Error {
    // Who is refused by one broker need not wait for the others.
    let refused = failures.iter().find(|failure| failure.kind() == ErrorKind::Auth);
    let kind = match failures.first().map(Error::kind) {
        _ if refused.is_some() => ErrorKind::Auth,
        Some(kind) if failures.iter().all(|failure| failure.kind() == kind) => kind,
        _ => ErrorKind::Io,
    };
    let reasons: Vec<String> = failures
        .iter()
        .map(|failure| format!("{}: {}", failure.broker().unwrap_or("a broker"), failure.message()))
        .collect();
    let remedy = refused
        .and_then(Error::remedy)
        .unwrap_or("check the addresses, that a broker runs there, and that its port is reachable from here");
    Error::new(kind, format!("no broker answered: {}", reasons.join("; ")))
        .with_api("Metadata")
        .with_remedy(remedy.to_owned())
}

/// What a broker said.
struct Said {
    response: MetadataResponse,
    /// Whether it said all topics it knows.
    scope: Scope,
}

/// As [`ask`], with the place that was asked.
async fn ask_at(
    place: (Endpoint, String),
    client: &Client,
    want: &Want,
    deadline: Instant,
) -> ((Endpoint, String), Result<Said>) {
    let (endpoint, name) = place.clone();
    (place, ask(client, endpoint, name, want, deadline).await)
}

async fn ask(
    client: &Client,
    endpoint: Endpoint,
    name: String,
    want: &Want,
    deadline: Instant,
) -> Result<Said> {
    let options = CallOptions::until(deadline);
    let negotiate = negotiation::<MetadataRequest>(&options);
    let auto_create = client.config().auto_create_topics;
    let encode = |version: i16, correlation: i32, client_id: &str| {
        let mut buf = bytes::BytesMut::new();
        encode_request(
            &mut buf,
            correlation,
            client_id,
            version,
            &build_request(want, version, auto_create),
        )?;
        Ok(vec![buf.freeze()])
    };
    let target = Destination::Address(endpoint, name.clone());
    let started = client.start(target, &options, MetadataRequest::KEY, &negotiate, &encode).await?;
    let version = started.version();
    let response = started.answer::<MetadataRequest>().await?;
    let context = |error: Error| error.with_broker(name.as_str()).with_api("Metadata");
    let all = asks_for_all(want, version, auto_create);
    let fresh = version == 0 && client.cluster().brokers().next().is_none();
    check(&response, if all { &Want::All } else { want }, fresh).map_err(context)?;
    Ok(Said { response, scope: if all { Scope::All } else { Scope::Some } })
}

/// The first version in which a topic can be asked for without creating it (KIP-204).
const AUTO_CREATE_VERSION: i16 = 4;

/// Whether the question is for all topics. Before version 4 a question for a topic creates it if the broker's
/// `auto.create.topics.enable` is on, so a client that must not create topics asks for all of them and looks for its own. In version
/// 0 there is no way to ask for none.
fn asks_for_all(want: &Want, version: i16, auto_create: bool) -> bool {
    match want {
        Want::All => true,
        Want::Brokers => version == 0,
        Want::Topics(_) => version < AUTO_CREATE_VERSION && !auto_create,
    }
}

fn build_request(want: &Want, version: i16, auto_create: bool) -> MetadataRequest {
    let mut request = MetadataRequest::default();
    let all = asks_for_all(want, version, auto_create);
    request.topics = match want {
        // In version 0 an empty list means all topics.
        _ if all && version == 0 => Some(Vec::new()),
        _ if all => None,
        Want::All => None,
        Want::Brokers => Some(Vec::new()),
        Want::Topics(topics) => {
            let topic = |name: &Arc<str>| {
                let name = TopicName(StrBytes::from_string(name.to_string()));
                MetadataRequestTopic::default().with_name(Some(name))
            };
            Some(topics.iter().map(topic).collect())
        }
    };
    if version >= AUTO_CREATE_VERSION {
        request.allow_auto_topic_creation = auto_create;
    }
    request
}

/// Whether the answer fits the question and says something. A `fresh` cluster may have no brokers: Kafka 0.8 knows none, not even
/// itself, before its first topic.
fn check(response: &MetadataResponse, want: &Want, fresh: bool) -> Result<()> {
    let code = ErrorCode(response.error_code);
    if !code.is_ok() {
        return Err(Error::broker_code(code, None));
    }
    if response.brokers.is_empty() && !fresh {
        return Err(Error::new(ErrorKind::Io, "the broker knows no brokers yet"));
    }
    if let Want::Topics(topics) = want {
        for topic in &response.topics {
            let name = topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default();
            if !topics.contains(name) {
                return Err(Error::peer(format!(
                    "the answer is about topic {name:?}, which was not asked for"
                )));
            }
        }
    }
    Ok(())
}

fn publish(client: &Client, said: &Said) -> Arc<Cluster> {
    let snapshot = &client.metadata_cache().snapshot;
    let before = Arc::clone(&snapshot.borrow());
    let next = Arc::new(before.merge(&said.response, said.scope));
    if let (Some(old), Some(new)) = (before.cluster_id(), next.cluster_id())
        && old != new
    {
        tracing::warn!(old, new, "the brokers belong to another cluster now");
    }
    snapshot.send_replace(Arc::clone(&next));
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_join_to_the_larger_one() {
        let both = Want::topic("a").join(Want::topic("b"));
        assert_eq!(both, Want::Topics(BTreeSet::from([Arc::from("a"), Arc::from("b")])));
        assert_eq!(both.clone().join(Want::Brokers), both);
        assert_eq!(Want::Brokers.join(both.clone()), both);
        assert_eq!(both.join(Want::All), Want::All);
    }

    #[test]
    fn all_topics_are_an_empty_list_in_version_0_and_null_later() {
        assert_eq!(build_request(&Want::All, 0, false).topics, Some(Vec::new()));
        assert_eq!(build_request(&Want::All, 12, false).topics, None);
        assert_eq!(build_request(&Want::Brokers, 12, false).topics, Some(Vec::new()));
        assert!(!build_request(&Want::Brokers, 12, false).allow_auto_topic_creation);
    }

    #[test]
    fn an_answer_about_another_topic_is_refused() {
        use milena_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
        let topic =
            MetadataResponseTopic::default().with_name(Some(TopicName(StrBytes::from_static_str("b"))));
        let response = MetadataResponse::default()
            .with_brokers(vec![MetadataResponseBroker::default()])
            .with_topics(vec![topic]);
        assert_eq!(check(&response, &Want::topic("a"), false).unwrap_err().kind(), ErrorKind::Peer);
        assert!(check(&response, &Want::topic("b"), false).is_ok());
        assert!(check(&response, &Want::All, false).is_ok());
    }

    #[test]
    fn a_cluster_without_brokers_is_taken_from_a_broker_that_never_had_a_topic_only() {
        let nobody = MetadataResponse::default();
        assert!(check(&nobody, &Want::Brokers, false).unwrap_err().is_retriable());
        assert!(check(&nobody, &Want::Brokers, true).is_ok());
    }

    #[test]
    fn a_topic_is_asked_for_by_name_only_where_that_does_not_create_it() {
        let topic = Want::topic("a");
        let named = |version, auto_create| {
            build_request(&topic, version, auto_create).topics.is_some_and(|topics| topics.len() == 1)
        };
        for version in 0..4 {
            assert!(!named(version, false) && named(version, true), "version {version}");
            assert_eq!(asks_for_all(&Want::Brokers, version, true), version == 0);
        }
        assert!(named(4, false) && named(12, true));
        assert_eq!(build_request(&topic, 0, false).topics, Some(Vec::new()));
        assert_eq!(build_request(&topic, 1, false).topics, None);
    }
}
