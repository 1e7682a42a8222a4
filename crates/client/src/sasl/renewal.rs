//! An authentication that is good for a while, renewed on the open connection (KIP-368).
//!
//! The broker closes a connection at the first request after that time. A renewal is a SaslHandshake and the tokens after it, in line
//! with other requests: what was sent before is answered before, and nothing is sent between. When it cannot be begun (no token to be
//! had) it is tried again; when time runs out, the connection takes no more requests and ends once those it has are answered, and the
//! next one is made anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use milena_core::rng::Rng;
use milena_protocol::versions::BrokerVersions;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::driver::{Authenticator, CORRELATION, Wire};
use crate::connection::{Failure, FailureKind, Outgoing};
use crate::transport::BoxFuture;

/// What a connection's authentication is, and for how long.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) lifetime: Duration,
    pub(crate) timeout: Duration,
    pub(crate) seed: u64,
}

/// What the connection has to do for the renewal.
pub(crate) enum RenewalEvent {
    /// Write this, and no other request until [`Renewed`](Self::Renewed).
    Ask(Outgoing),
    /// Go on.
    Renewed,
    /// Take no more requests: the time is up.
    Expired,
    /// End.
    Failed(Failure),
}

/// The renewals of one connection. Owned by its task.
pub(crate) struct Renewal {
    authenticator: Arc<Authenticator>,
    versions: Arc<BrokerVersions>,
    timeout: Duration,
    rng: Rng,
    /// When to begin.
    due: Instant,
    /// When the broker takes no more requests.
    expires: Option<Instant>,
    running: Option<Running>,
    holds: bool,
}

struct Running {
    work: BoxFuture<'static, Result<Option<Duration>, Failure>>,
    asks: mpsc::Receiver<Outgoing>,
}

/// The least time between a connection's authentications: brokers refuse two within a second.
const LEAST: Duration = Duration::from_millis(1100);

/// How long before its end an authentication is renewed at the latest, where it is long enough for that: what is on its way must be with
/// the broker by then.
const SLACK: Duration = Duration::from_secs(1);

impl Renewal {
    pub(crate) fn new(session: &Session, versions: Arc<BrokerVersions>) -> Self {
        let mut renewal = Self {
            authenticator: Arc::clone(&session.authenticator),
            versions,
            timeout: session.timeout,
            rng: Rng::new(session.seed),
            due: Instant::now(),
            expires: None,
            running: None,
            holds: false,
        };
        renewal.schedule(Some(session.lifetime));
        renewal
    }

    /// Whether other requests have to wait.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    fn schedule(&mut self, lifetime: Option<Duration>) {
        let now = Instant::now();
        let Some(lifetime) = lifetime else {
            // The broker sets no limit any more; look again after a long time.
            (self.due, self.expires) = (now + Duration::from_secs(86_400), None);
            return;
        };
        // Not all connections at the same time, and before a slow network or another clock makes it too late.
        let part = 0.85 + 0.1 * self.rng.unit();
        let latest = lifetime.saturating_sub(SLACK);
        let due = lifetime.mul_f64(part).min(if latest < LEAST { lifetime } else { latest });
        if due < LEAST {
            // Too short to be renewed: it ends early enough for what is on its way.
            (self.due, self.expires) = (now + lifetime / 2, Some(now + lifetime / 2));
            return;
        }
        (self.due, self.expires) = (now + due, Some(now + lifetime));
    }

    /// What to do next.
    ///
    /// # Cancellation
    /// Safe: nothing is lost, the next call goes on.
    pub(crate) async fn next(&mut self) -> RenewalEvent {
        loop {
            let Some(running) = &mut self.running else {
                sleep_until(self.due).await;
                if self.expires.is_some_and(|expires| Instant::now() >= expires) {
                    self.due = Instant::now() + Duration::from_secs(86_400);
                    return RenewalEvent::Expired;
                }
                self.running = Some(self.begin());
                continue;
            };
            let done = tokio::select! {
                biased;
                Some(ask) = running.asks.recv() => {
                    self.holds = true;
                    return RenewalEvent::Ask(ask);
                }
                done = &mut running.work => done,
            };
            let asked = std::mem::replace(&mut self.holds, false);
            self.running = None;
            match done {
                Ok(lifetime) => {
                    self.schedule(lifetime);
                    return RenewalEvent::Renewed;
                }
                Err(failure) if asked => return RenewalEvent::Failed(failure),
                // Nothing was sent: the old authentication still holds.
                Err(failure) => {
                    tracing::warn!(reason = %failure.text, "re-authentication could not be begun; it is tried again");
                    let now = Instant::now();
                    let left = self.expires.map_or(LEAST, |expires| expires.saturating_duration_since(now));
                    self.due = now
                        + (left / 4).max(Duration::from_millis(100)).min(left.max(Duration::from_millis(1)));
                }
            }
        }
    }

    fn begin(&self) -> Running {
        let (sender, asks) = mpsc::channel(1);
        let authenticator = Arc::clone(&self.authenticator);
        let versions = Arc::clone(&self.versions);
        let timeout = self.timeout;
        let work = Box::pin(async move {
            let mut line = LineWire { asks: sender, timeout };
            authenticator.authenticate(&mut line, &versions).await
        });
        Running { work, asks }
    }
}

/// An open connection as a wire: what is asked is handed to its task.
struct LineWire {
    asks: mpsc::Sender<Outgoing>,
    timeout: Duration,
}

impl Wire for LineWire {
    fn ask<'a>(&'a mut self, frame: Bytes) -> BoxFuture<'a, Result<Bytes, Failure>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let outgoing = Outgoing {
                room: None,
                correlation_id: CORRELATION,
                frame: vec![frame],
                timeout: self.timeout,
                reply: Some(reply),
            };
            let ended = || Failure::new(FailureKind::Closed, "the connection ended");
            self.asks.send(outgoing).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        })
    }

    fn tell<'a>(&'a mut self, _frame: Bytes) -> BoxFuture<'a, Result<(), Failure>> {
        let text = "a broker that sets a limit to authentications answers each token";
        Box::pin(async move { Err(Failure::new(FailureKind::Peer, text)) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::connection::{Connection, Established, Life, Limits};
    use crate::frames::FrameReader;
    use crate::sasl::{Peer, Plain};

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn alice() -> Arc<Authenticator> {
        Arc::new(Authenticator {
            credentials: Arc::new(Plain::new("alice", "secret")),
            peer: Peer { host: Arc::from("a"), port: 1 },
            client_id: Arc::from("test"),
        })
    }

    fn renewal(lifetime: Duration, seed: u64) -> Renewal {
        let session = Session { authenticator: alice(), lifetime, timeout: TIMEOUT, seed };
        Renewal::new(&session, Arc::new(BrokerVersions::assumed_pre_apiversions()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_begins_between_85_and_95_percent_and_holds_other_requests() {
        for seed in 0..50 {
            let began = Instant::now();
            let mut renewal = renewal(Duration::from_secs(100), seed);
            // The wire of tests has no SaslAuthenticate: a token goes out as it is.
            let RenewalEvent::Ask(request) = renewal.next().await else { panic!("nothing was asked") };
            let after = began.elapsed();
            assert!((85..=95).contains(&after.as_secs()), "{after:?}");
            assert!(renewal.holds());
            drop(request);
            assert!(matches!(renewal.next().await, RenewalEvent::Failed(_)));
            assert!(!renewal.holds());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_authentication_is_renewed_a_second_before_its_end() {
        for seed in 0..50 {
            let began = Instant::now();
            let RenewalEvent::Ask(_) = renewal(Duration::from_secs(4), seed).next().await else { panic!() };
            assert!((2990..=3010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
            // One that is shorter still is renewed at its own part.
            let began = Instant::now();
            let RenewalEvent::Ask(_) = renewal(Duration::from_secs(2), seed).next().await else { panic!() };
            assert!((1700..=1910).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        }
    }

    /// A broker of 2.4 on one end of a pipe: it takes every authentication, for 10 s each. Ends with the connection.
    async fn grant(mut stream: tokio::io::DuplexStream, renewed: Arc<AtomicUsize>) {
        while let Ok(length) = stream.read_u32().await {
            let mut request = vec![0; length as usize];
            stream.read_exact(&mut request).await.unwrap();
            let mut answer = vec![0, 0, 0, 0];
            match request[..2] {
                // No error, no mechanisms.
                [0, 17] => answer.extend([0; 6]),
                // No error, no text, no token.
                [0, 36] => {
                    answer.extend([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
                    answer.extend(10_000_u64.to_be_bytes());
                    renewed.fetch_add(1, Ordering::SeqCst);
                }
                ref other => panic!("api {other:?}"),
            }
            stream.write_u32(answer.len() as u32).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }

    /// An open connection to a broker of 2.4 whose authentication lasts this long.
    fn open(stream: tokio::io::DuplexStream, lifetime: Duration) -> Connection {
        let session = Session { authenticator: alice(), lifetime, timeout: TIMEOUT, seed: 1 };
        let established = Established {
            stream: Box::new(stream),
            frames: FrameReader::new(1 << 20),
            versions: BrokerVersions::of_release("2.4.0").unwrap(),
            session: Some(session),
        };
        let limits = Limits { max_in_flight: 4, request_timeout: TIMEOUT, idle: Duration::from_secs(3600) };
        let runtime = tokio::runtime::Handle::current();
        Connection::start(&runtime, Arc::from("a"), limits, async { Ok(established) })
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_to_a_connection_whose_authentication_is_over_can_be_asked_of_another() {
        let (ours, _theirs) = tokio::io::duplex(4096);
        let connection = open(ours, Duration::from_millis(800));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Life::Ended { failure, .. } = connection.life() else { panic!("{:?}", connection.life()) };
        let name = Arc::clone(connection.name());
        let error = crate::call::call_error(&failure.for_request(false), &name, "Fetch", Instant::now());
        assert!(error.is_retriable() && !error.maybe_applied(), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_authentication_renewed_again_and_again_leaves_its_connection_free() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let renewed = Arc::new(AtomicUsize::new(0));
        tokio::spawn(grant(theirs, Arc::clone(&renewed)));
        let connection = open(ours, Duration::from_secs(10));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(renewed.load(Ordering::SeqCst) >= 6, "{renewed:?}");
        assert!(matches!(connection.life(), Life::Ready(_)), "{:?}", connection.life());
        assert_eq!(connection.load(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_authentication_too_short_to_renew_ends_before_the_broker_ends_it() {
        let began = Instant::now();
        let mut renewal = renewal(Duration::from_millis(800), 1);
        assert!(matches!(renewal.next().await, RenewalEvent::Expired));
        assert!(began.elapsed() < Duration::from_millis(800));
    }
}
