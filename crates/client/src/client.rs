//! The client: its start, its topology, its end.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use milena_core::cluster::{Broker, Cluster, Topic};
use milena_core::rng::Rng;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::BrokerId;
use milena_protocol::versions::BrokerVersions;
use tokio::time::{Instant, timeout_at};

use crate::admin::Admin;
use crate::attempts::Attempts;
use crate::call::{Target, call_error};
use crate::config::{ClientConfig, parse_address};
use crate::coordinator::Coordinators;
use crate::error::{Error, ErrorKind, Result};
use crate::fetcher::Fetcher;
use crate::group::Group;
use crate::metadata::{Metadata, Want};
use crate::pool::{Endpoint, Pool, Purpose};
use crate::transactions::Transactions;

/// A connection to a cluster: connections, topology, and the ways to use them. Clones share everything.
///
/// Dropping the last clone (and the last [`Fetcher`], [`Admin`] and so on made from it) closes the connections in the
/// background; nothing blocks.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.config();
        f.debug_struct("Client")
            .field("bootstrap", &config.bootstrap)
            .field("client_id", &config.client_id)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    config: Arc<ClientConfig>,
    bootstrap: Vec<Endpoint>,
    pool: Pool,
    metadata: Metadata,
    coordinators: Coordinators,
    seed: AtomicU64,
}

/// How long a topic that brokers do not know is looked for: a new topic takes a moment to reach all of them.
const UNKNOWN_TOPIC_WINDOW: Duration = Duration::from_secs(5);

impl Client {
    /// Connects to a cluster and learns its brokers. All bootstrap addresses are tried, in a random order, the next one
    /// when one fails or is slow. When none answers the round is repeated with back-off for `connect_timeout`.
    ///
    /// The connections run on the Tokio runtime this is called on.
    ///
    /// # Errors
    /// One that lists every address and why it did not work; [`ErrorKind::Misuse`] for a wrong configuration, and when
    /// there is no Tokio runtime. It takes at most `api_timeout`.
    ///
    /// # Cancellation
    /// Everything is closed.
    pub async fn connect(config: impl Into<ClientConfig>) -> Result<Self> {
        let config: ClientConfig = config.into();
        config.validate()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::misuse("a client needs a Tokio runtime").with_remedy("call connect inside of one")
        })?;
        let config = Arc::new(config);
        let bootstrap = config
            .bootstrap
            .iter()
            .map(|address| parse_address(address).map(|(host, port)| Endpoint { host, port }))
            .collect::<Result<Vec<_>>>()?;
        let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one("milena"));
        let (metadata, task) = Metadata::new();
        let inner = Arc::new(Inner {
            pool: Pool::new(Arc::clone(&config), runtime.clone(), seed),
            bootstrap,
            metadata,
            coordinators: Coordinators::default(),
            seed: AtomicU64::new(seed),
            config,
        });
        let max_age = inner.config.metadata_max_age;
        let weak = Arc::downgrade(&inner);
        runtime.spawn(task.run(weak, max_age));
        let client = Self { inner };
        let limit = client.config().connect_timeout.min(client.config().api_timeout);
        let mut attempts = client.attempts_for(limit);
        let hard = Instant::now() + client.config().api_timeout;
        loop {
            match client.refresh(Want::Brokers, hard).await {
                Ok(_) => return Ok(client),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// Reads records and looks up offsets.
    #[must_use]
    pub fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.clone())
    }

    /// Topics, configurations, and what else administrators look at.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The committed offsets of a consumer group, without being a member of it.
    #[must_use]
    pub fn group(&self, id: &str) -> Group {
        Group::new(self.clone(), id)
    }

    /// Transactions by their ids, whoever began them.
    #[must_use]
    pub fn transactions(&self) -> Transactions {
        Transactions::new(self.clone())
    }

    /// Asks for the topology now: of these topics, or of all with `None`. Topics that are not known are absent from the
    /// snapshot; [`Cluster::topic_error`] says why.
    ///
    /// # Errors
    /// When no broker answers within `api_timeout`.
    ///
    /// # Cancellation
    /// The cached topology may be refreshed all the same.
    pub async fn metadata(&self, topics: Option<&[&str]>) -> Result<Arc<Cluster>> {
        let want = match topics {
            None => Want::All,
            Some([]) => Want::Brokers,
            Some(names) => Want::Topics(names.iter().map(|&name| Arc::from(name)).collect()),
        };
        let mut attempts = self.attempts();
        loop {
            match self.refresh(want.clone(), attempts.deadline()).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// The topology as it was last heard of. Never waits.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        self.inner.metadata.cluster()
    }

    /// A topic, from the cache if it is there.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION when brokers have not known it for 5 s, other codes at once, and what
    /// [`Client::metadata`] says.
    ///
    /// # Cancellation
    /// As [`Client::metadata`].
    pub async fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        if let Some(topic) = self.cluster().topic(name) {
            return Ok(Arc::clone(topic));
        }
        self.topic_with(name, &mut self.attempts()).await
    }

    /// A topic as brokers know it now, for a call that is already being tried.
    pub(crate) async fn topic_with(&self, name: &str, attempts: &mut Attempts) -> Result<Arc<Topic>> {
        let since = Instant::now();
        loop {
            let error = match self.refresh(Want::topic(name), attempts.deadline()).await {
                Ok(cluster) => match (cluster.topic(name), cluster.topic_error(name)) {
                    (Some(topic), _) => return Ok(Arc::clone(topic)),
                    (None, Some(code)) => Error::broker_code(code, None).with_api("Metadata"),
                    (None, None) => Error::broker_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, None),
                },
                Err(error) => error,
            };
            let error = error.with_topic(name);
            let unknown = error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            if unknown && since.elapsed() >= UNKNOWN_TOPIC_WINDOW {
                return Err(attempts.last(error));
            }
            attempts.pause(error).await?;
        }
    }

    /// What a broker speaks.
    ///
    /// # Errors
    /// When the broker is not known or cannot be reached within `api_timeout`.
    ///
    /// # Cancellation
    /// The connection goes on being made.
    pub async fn versions(&self, broker: BrokerId) -> Result<Arc<BrokerVersions>> {
        let deadline = Instant::now() + self.config().api_timeout;
        let (endpoint, name) = self.resolve(&Target::Broker(broker), deadline).await?;
        self.versions_at(&endpoint, &name, deadline).await
    }

    /// What any one broker speaks; features that are finalized are the same for all.
    pub(crate) async fn any_versions(&self, deadline: Instant) -> Result<Arc<BrokerVersions>> {
        let (endpoint, name) = self.resolve(&Target::Any, deadline).await?;
        self.versions_at(&endpoint, &name, deadline).await
    }

    async fn versions_at(
        &self,
        endpoint: &Endpoint,
        name: &str,
        deadline: Instant,
    ) -> Result<Arc<BrokerVersions>> {
        let since = Instant::now();
        let connection = self.pool().connection(endpoint, Purpose::Other, name)?;
        match timeout_at(deadline, connection.ready()).await {
            Ok(Ok(versions)) => Ok(versions),
            Ok(Err(failure)) => Err(call_error(&failure, &Arc::from(name), "ApiVersions", since)),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "no connection in time").with_broker(name)),
        }
    }

    /// Refuses new calls, waits for the answers of those that run, and closes the connections; all clones are closed.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when answers are still due after `timeout`; the client is closed all the same.
    ///
    /// # Cancellation
    /// The client is closed; connections end when their answers are in.
    pub async fn close(&self, timeout: Duration) -> Result<()> {
        self.inner.pool.close(Instant::now() + timeout).await
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub(crate) fn metadata_cache(&self) -> &Metadata {
        &self.inner.metadata
    }

    pub(crate) fn coordinators(&self) -> &Coordinators {
        &self.inner.coordinators
    }

    /// A seed no other call gets.
    pub(crate) fn seed(&self) -> u64 {
        self.inner.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed)
    }

    /// Tries for `api_timeout` from now on.
    pub(crate) fn attempts(&self) -> Attempts {
        self.attempts_for(self.config().api_timeout)
    }

    /// Tries for this long from now on.
    pub(crate) fn attempts_for(&self, timeout: Duration) -> Attempts {
        Attempts::new(timeout, self.config().backoff, self.seed())
    }

    /// Refreshes the topology until `deadline` at most.
    pub(crate) async fn refresh(&self, want: Want, deadline: Instant) -> Result<Arc<Cluster>> {
        let late = |_| {
            let asked: Vec<String> = self.candidates().into_iter().map(|(_, name)| name).collect();
            let mut text = format!("no broker answered in time; asked: {}", asked.join(", "));
            // Mostly the reason is the same as a moment ago, when there was time to find it out.
            let before = self.inner.metadata.last_failure();
            if let Some(failure) = &before {
                text.push_str(&format!("; the try before: {}", failure.message()));
            }
            let error = Error::new(ErrorKind::Timeout, text).with_api("Metadata");
            match before {
                Some(failure) => error.with_source(failure),
                None => error,
            }
        };
        timeout_at(deadline, self.inner.metadata.refresh(want)).await.map_err(late)?
    }

    /// Refreshes what is known of a topic in the background.
    pub(crate) fn refresh_topic_soon(&self, topic: &str) {
        self.inner.metadata.refresh_soon(Want::topic(topic));
    }

    /// Where to ask for metadata: connected brokers, other brokers, then the bootstrap addresses.
    pub(crate) fn candidates(&self) -> Vec<(Endpoint, String)> {
        let cluster = self.cluster();
        let mut rng = Rng::new(self.seed());
        let mut brokers: Vec<(Endpoint, String)> = cluster.brokers().map(place).collect();
        rng.shuffle(&mut brokers);
        brokers.sort_by_key(|(endpoint, _)| !self.pool().is_connected(endpoint, Purpose::Other));
        // Asking more than a few brokers of a large cluster says nothing new.
        brokers.truncate(MAX_CANDIDATES);
        let mut bootstrap: Vec<(Endpoint, String)> = self
            .inner
            .bootstrap
            .iter()
            .map(|endpoint| (endpoint.clone(), format!("bootstrap {endpoint}")))
            .collect();
        rng.shuffle(&mut bootstrap);
        let mut seen = HashSet::new();
        brokers.into_iter().chain(bootstrap).filter(|(endpoint, _)| seen.insert(endpoint.clone())).collect()
    }

    /// The address of a target and what messages call it.
    pub(crate) async fn resolve(&self, to: &Target, deadline: Instant) -> Result<(Endpoint, String)> {
        match to {
            Target::Any => self.any().ok_or_else(|| Error::closed("no broker is known")),
            Target::Broker(id) => {
                if let Some(found) = self.cluster().broker(*id).map(place) {
                    return Ok(found);
                }
                let cluster = self.refresh(Want::Brokers, deadline).await?;
                cluster.broker(*id).map(place).ok_or_else(|| {
                    Error::new(ErrorKind::Io, format!("broker {id} is not in the cluster now"))
                        .with_remedy("it may be down; it is looked for again with the next try")
                })
            }
            Target::Controller => {
                let known =
                    |cluster: &Cluster| cluster.controller().and_then(|id| cluster.broker(id).map(place));
                if let Some(found) = known(&self.cluster()) {
                    return Ok(found);
                }
                let cluster = self.refresh(Want::Brokers, deadline).await?;
                // Brokers before Metadata v1 do not name the controller.
                known(&cluster)
                    .or_else(|| self.any())
                    .ok_or_else(|| Error::new(ErrorKind::Io, "no controller is known"))
            }
            Target::Coordinator(kind, key) => {
                // Looking up a coordinator is a call of its own: the box ends the recursion of futures.
                let node = Box::pin(self.coordinator(*kind, key, deadline)).await?;
                Ok((node.endpoint.clone(), node.name.to_string()))
            }
        }
    }

    fn any(&self) -> Option<(Endpoint, String)> {
        self.candidates().into_iter().next()
    }

    /// Every broker that is known, after a refresh.
    pub(crate) async fn all_brokers(&self, deadline: Instant) -> Result<Vec<BrokerId>> {
        let cluster = self.refresh(Want::Brokers, deadline).await?;
        Ok(cluster.brokers().map(|broker| broker.id).collect())
    }
}

/// How many known brokers are asked for metadata before the bootstrap addresses are.
const MAX_CANDIDATES: usize = 6;

fn place(broker: &Broker) -> (Endpoint, String) {
    let endpoint = Endpoint { host: Arc::clone(&broker.host), port: broker.port };
    let name = format!("broker {} at {endpoint}", broker.id);
    (endpoint, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FetchFrom, FetchOptions, ListFilter, OffsetSpec, PreparedTransaction};
    use milena_protocol::messages::MetadataRequest;
    use milena_protocol::types::{Isolation, TopicPartition};

    fn assert_send<T: Send>(_: T) {}

    /// Compiles only if every public future can move between threads.
    #[test]
    fn public_futures_can_move_between_threads() {
        assert_send(Client::connect(ClientConfig::new(["a:1"])));
        let _ = |client: Client, tps: &[TopicPartition], wanted: &[(TopicPartition, OffsetSpec)]| {
            assert_send(client.metadata(None));
            assert_send(client.topic("t"));
            assert_send(client.versions(BrokerId(1)));
            assert_send(client.transaction_version());
            assert_send(client.close(Duration::ZERO));
            assert_send(client.call(Target::Any, &MetadataRequest::default()));
            let options = crate::CallOptions::default();
            assert_send(
                client.call_with::<MetadataRequest, _>(Target::Any, options, |_| MetadataRequest::default()),
            );
            let fetcher = client.fetcher();
            assert_send(client.list_offsets(wanted, Isolation::ReadCommitted));
            assert_send(client.leader(&TopicPartition::new("t", 0)));
            let from: Vec<FetchFrom> = Vec::new();
            assert_send(fetcher.fetch(&from, &FetchOptions::default()));
            assert_send(fetcher.fetch_from_leader(BrokerId(1), &from, &FetchOptions::default()));
            let group = client.group("g");
            assert_send(group.commit(&[]));
            assert_send(group.commit_each(&[]));
            assert_send(group.fetch(Some(tps), true));
            let admin = client.admin();
            assert_send(admin.create_topics(&[], Duration::ZERO));
            assert_send(admin.delete_topics(&["t"]));
            assert_send(admin.add_partitions("t", 2));
            assert_send(admin.list_topics());
            assert_send(admin.describe_topics(&["t"]));
            assert_send(admin.describe_broker_config(BrokerId(1), &[]));
            assert_send(admin.describe_producers(tps));
            let transactions = client.transactions();
            assert_send(transactions.describe(&[]));
            assert_send(transactions.list(&ListFilter::default()));
            assert_send(transactions.fence("t", Duration::ZERO));
            let end = |prepared: &PreparedTransaction| assert_send(transactions.end(prepared, true));
            let _ = end;
        };
    }
}
