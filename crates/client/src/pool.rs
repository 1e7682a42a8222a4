//! The connections of a client, by broker address and purpose.
//!
//! A broker serves a connection one request after the other, so a fetch that waits for records would hold up a
//! commit behind it. Each [`Purpose`] therefore has connections of its own, and fetches that run at the same time do not
//! share one either, up to [`MAX_FETCH_CONNECTIONS`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use milena_core::rng::Rng;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::ClientConfig;
use crate::connection::{Claim, Connection, Life, Limits};
use crate::error::{Error, Result};
use crate::failure::{Failure, FailureKind};
use crate::generation::Generations;
use crate::handshake::Handshake;
use crate::sasl::{Authenticator, Peer};
use crate::transport::Dial;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Purpose {
    /// Fetch, which may wait at the broker.
    Fetch,
    /// Produce.
    Produce,
    /// Group and transaction coordinators.
    Coordination,
    /// Metadata, offsets, administration.
    #[default]
    Other,
}

/// How many connections to one broker fetches may use at a time.
pub(crate) const MAX_FETCH_CONNECTIONS: usize = 8;

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The connections of a client. The lock is held for look-ups only.
#[derive(Debug)]
pub(crate) struct Pool {
    config: Arc<ClientConfig>,
    dialer: Arc<dyn Dial>,
    client_id: Arc<str>,
    runtime: Handle,
    seed: AtomicU64,
    generations: Generations,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    closed: bool,
    by_use: HashMap<(Endpoint, Purpose), Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    connections: Vec<Connection>,
    /// Connections in a row that failed to come up or went down at once.
    failures: u32,
}

impl Pool {
    pub(crate) fn new(config: Arc<ClientConfig>, runtime: Handle, seed: u64) -> Self {
        Self {
            dialer: config.dialer(),
            client_id: Arc::from(config.client_id.as_str()),
            config,
            runtime,
            seed: AtomicU64::new(seed),
            generations: Generations::default(),
            slots: Mutex::default(),
        }
    }

    /// Where its tasks run.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// A connection to this address, made now if there is none. `name` is what messages call the peer.
    pub(crate) fn connection(&self, endpoint: &Endpoint, purpose: Purpose, name: &str) -> Result<Connection> {
        self.claim(endpoint, purpose, name).map(|claim| claim.clone())
    }

    /// As [`Pool::connection`], and marks it as taken: concurrent fetches get connections of their own.
    pub(crate) fn claim(&self, endpoint: &Endpoint, purpose: Purpose, name: &str) -> Result<Claim> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.closed {
            return Err(Error::closed("the client is closed"));
        }
        let slot = slots.by_use.entry((endpoint.clone(), purpose)).or_default();
        let mut delay = Duration::ZERO;
        slot.connections.retain(|connection| match connection.life() {
            Life::Ended { lasted, at, .. } => {
                if lasted > self.config.backoff.max {
                    slot.failures = 0;
                } else {
                    slot.failures = slot.failures.saturating_add(1);
                    let mut rng = Rng::new(self.seed.fetch_add(1, Ordering::Relaxed));
                    delay =
                        self.config.backoff.delay(slot.failures - 1, &mut rng).saturating_sub(at.elapsed());
                }
                false
            }
            Life::Ready(_) | Life::Connecting => true,
        });
        let limit = if purpose == Purpose::Fetch { MAX_FETCH_CONNECTIONS } else { 1 };
        let least = slot.connections.iter().min_by_key(|connection| connection.load());
        if let Some(least) = least
            && (least.load() == 0 || slot.connections.len() >= limit)
        {
            return Ok(Claim::new(least));
        }
        let connection = self.start(endpoint, name, delay);
        let claim = Claim::new(&connection);
        slot.connections.push(connection);
        Ok(claim)
    }

    fn start(&self, endpoint: &Endpoint, name: &str, delay: Duration) -> Connection {
        let handshake = Handshake {
            dialer: Arc::clone(&self.dialer),
            host: Arc::clone(&endpoint.host),
            port: endpoint.port,
            client_id: Arc::clone(&self.client_id),
            connect_timeout: self.config.connect_timeout,
            max_frame: self.config.max_frame,
            generation: self.generations.of(endpoint),
            pinned: self.config.pinned_versions(),
            fallback: self.config.fallback_versions(),
            authenticator: self.config.sasl.as_ref().map(|credentials| {
                Arc::new(Authenticator {
                    credentials: Arc::clone(credentials),
                    peer: Peer { host: Arc::clone(&endpoint.host), port: endpoint.port },
                    client_id: Arc::clone(&self.client_id),
                })
            }),
            tls: self.config.tls.is_some(),
            below: self.config.plain_dialer(),
            request_timeout: self.config.request_timeout,
            seed: self.seed.fetch_add(1, Ordering::Relaxed),
        };
        let limits = Limits {
            max_in_flight: self.config.max_in_flight,
            request_timeout: self.config.request_timeout,
            idle: self.config.idle,
        };
        Connection::start(&self.runtime, Arc::from(name), limits, async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            handshake.establish().await
        })
    }

    /// More is wanted of a broker than the versions that were assumed of it. Whether it is to be asked again.
    pub(crate) fn doubt(&self, endpoint: &Endpoint) -> bool {
        self.generations.of(endpoint).doubt()
    }

    /// Ends the connections to this address that metadata is asked on: the next one finds out anew what the name stands for.
    pub(crate) fn retire(&self, endpoint: &Endpoint) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.by_use.get_mut(&(endpoint.clone(), Purpose::Other)) else { return };
        for connection in slot.connections.drain(..) {
            let text = "the broker sends its clients to the bootstrap addresses";
            connection.poison(Failure::new(FailureKind::Retired, text));
        }
    }

    /// Whether there is a usable connection to this address for the purpose.
    pub(crate) fn is_connected(&self, endpoint: &Endpoint, purpose: Purpose) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.by_use.get(&(endpoint.clone(), purpose)).is_some_and(|slot| {
            slot.connections.iter().any(|connection| matches!(connection.life(), Life::Ready(_)))
        })
    }

    /// Refuses new work and waits until the connections have their answers, at most until `deadline`.
    ///
    /// # Cancellation
    /// The pool stays closed; connections end when their answers are in.
    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        let connections: Vec<Connection> = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.closed = true;
            slots.by_use.drain().flat_map(|(_, slot)| slot.connections).collect()
        };
        let count = connections.len();
        for connection in connections {
            let name = Arc::clone(connection.name());
            if tokio::time::timeout_at(deadline, connection.ended()).await.is_err() {
                return Err(Error::new(
                    crate::ErrorKind::Timeout,
                    format!("not all of {count} connections ended in time; {name} still waits for answers"),
                ));
            }
        }
        Ok(())
    }
}
