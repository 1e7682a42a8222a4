//! Reading records one request at a time, as they lie in the log: for who looks at a log rather than reads it.
//!
//! A [`Fetcher`] keeps no positions. Each [`Fetcher::fetch`] says what to read and gets what came, partition by
//! partition, errors included. Answers are checked against the question before they are returned.

mod answer;
mod fetched;

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use milena_core::cluster::Cluster;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::fetch::{FetchView, TOPIC_IDS_FROM};
use milena_protocol::messages::TopicName;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, TopicPartition};
use tokio::time::Instant;

pub use fetched::{Fetched, VisibleBatches};

use crate::call::{CallOptions, Target};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::metadata::Want;
use crate::offsets::{no_leader, refuse_duplicates};

/// Reads records, one request at a time. Clones share the client's connections.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
}

/// What to read of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFrom {
    /// The partition.
    pub tp: TopicPartition,
    /// The first offset wanted.
    pub offset: Offset,
    /// At most this many bytes of this partition, or one batch if it is larger; `None` is
    /// [`FetchOptions::partition_max_bytes`].
    pub max_bytes: Option<u32>,
    /// The leader epoch of the record before `offset`, if known. The broker then says when its log took another way
    /// (truncation after an unclean election), and the answer is an error of kind
    /// [`DataLoss`](crate::ErrorKind::DataLoss) (KIP-595; Fetch v12).
    pub leader_epoch: Option<LeaderEpoch>,
}

impl FetchFrom {
    /// From this offset on, with the limits of the options.
    pub fn new(tp: TopicPartition, offset: Offset) -> Self {
        Self { tp, offset, max_bytes: None, leader_epoch: None }
    }
}

/// How to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOptions {
    /// How long the broker may wait for `min_bytes`. Default 500 ms. Kafka: `fetch.max.wait.ms`.
    pub max_wait: Duration,
    /// Answer at once when this many bytes are there. Default 1. Kafka: `fetch.min.bytes`.
    pub min_bytes: u32,
    /// At most this many bytes in one answer, or one batch if it is larger. Default 50 MiB. Kafka: `fetch.max.bytes`.
    /// Brokers before 0.10.1 (Fetch v3) know no such limit: there the sum of the partitions' limits is the one.
    pub max_bytes: u32,
    /// At most this many bytes of one partition, or one batch if it is larger. Default 1 MiB. Brokers before 0.10.1
    /// send no more than this even of a larger message: it then cannot be read, and the error says so.
    /// Kafka: `max.partition.fetch.bytes`.
    pub partition_max_bytes: u32,
    /// Whether records of open and aborted transactions are read. Default read_uncommitted, as in Kafka. Brokers before
    /// 0.11 (Fetch v4) know no transactions: there both are the same.
    pub isolation: Isolation,
    /// Whether the checksum of each batch is verified. Default `true`. Kafka: `check.crcs`.
    pub check_crcs: bool,
    /// The most bytes that one compressed batch may decompress to. Default 128 MiB. A batch that holds more is an error when its records
    /// are looked at, and takes no more memory than this. As [`ConsumerConfig::max_batch_bytes`](crate::ConsumerConfig::max_batch_bytes).
    pub max_batch_bytes: u32,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            isolation: Isolation::ReadUncommitted,
            check_crcs: true,
            max_batch_bytes: 128 << 20,
        }
    }
}

impl Fetcher {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads from all these partitions: one request to each leader, at the same time. Answers are in the order of the
    /// question, one for each entry, errors inside. Leaders that are not cached are looked up once; nothing is retried, but
    /// after a leader error the topology is refreshed in the background, so that the next call finds the new leader.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a partition that is named twice.
    ///
    /// # Cancellation
    /// Nothing is lost: positions are the caller's.
    pub async fn fetch(&self, from: &[FetchFrom], options: &FetchOptions) -> Result<Vec<Fetched>> {
        refuse_duplicates(from.iter().map(|from| &from.tp))?;
        let unknown = from.iter().any(|from| self.client.cluster().leader(&from.tp).is_none());
        if unknown {
            let cluster = self.client.cluster();
            let topics = from.iter().filter(|from| cluster.leader(&from.tp).is_none());
            let want = Want::Topics(topics.map(|from| std::sync::Arc::clone(&from.tp.topic)).collect());
            let deadline = Instant::now() + self.client.config().api_timeout;
            if let Err(error) = self.client.refresh(want, deadline).await {
                tracing::debug!(%error, "no leader could be looked up");
            }
        }
        let cluster = self.client.cluster();
        let mut by_leader: HashMap<BrokerId, Vec<(usize, FetchFrom)>> = HashMap::new();
        let mut answers: Vec<(usize, Fetched)> = Vec::with_capacity(from.len());
        for (at, from) in from.iter().enumerate() {
            match cluster.leader(&from.tp) {
                Some(leader) => by_leader.entry(leader).or_default().push((at, from.clone())),
                None => answers
                    .push((at, Fetched::failed(from, options.isolation, no_leader(&cluster, &from.tp)))),
            }
        }
        let requests = by_leader.into_iter().map(|(leader, entries)| async move {
            let (places, entries): (Vec<usize>, Vec<FetchFrom>) = entries.into_iter().unzip();
            let answers = match self.fetch_from_leader(leader, &entries, options).await {
                Ok(answers) => answers,
                Err(error) => failed_all(&entries, options.isolation, &error),
            };
            places.into_iter().zip(answers).collect::<Vec<_>>()
        });
        answers.extend(join_all(requests).await.into_iter().flatten());
        answers.sort_by_key(|(at, _)| *at);
        Ok(answers.into_iter().map(|(_, fetched)| fetched).collect())
    }

    /// Sends one Fetch to this broker, for a caller that runs a loop for each broker. Answers are in the order of the
    /// question, one for each entry.
    ///
    /// # Errors
    /// What concerns the request as a whole: the connection, the time, an answer that does not fit the question. Errors
    /// of single partitions are inside. After either kind the topology is refreshed in the background if that may help.
    ///
    /// # Cancellation
    /// Nothing is lost: positions are the caller's. The broker may still be waiting for the old request when the next one
    /// comes; that one then uses another connection.
    pub async fn fetch_from_leader(
        &self,
        broker: BrokerId,
        from: &[FetchFrom],
        options: &FetchOptions,
    ) -> Result<Vec<Fetched>> {
        if from.is_empty() {
            return Ok(Vec::new());
        }
        let cluster = self.client.cluster();
        let ids =
            from.iter().all(|from| cluster.topic(&from.tp.topic).is_some_and(|topic| topic.id.is_some()));
        let config = self.client.config();
        let call = CallOptions {
            max_version: (!ids).then_some(TOPIC_IDS_FROM - 1),
            timeout: Some(config.request_timeout + options.max_wait),
            deadline: Some(Instant::now() + config.api_timeout + options.max_wait),
            ..CallOptions::default()
        };
        let asked = self
            .client
            .call_read::<FetchRequest, _, _>(
                Target::Broker(broker),
                call,
                |version| build_request(from, options, &cluster, version),
                FetchView::read,
            )
            .await;
        let result = asked.and_then(|answer| {
            answer::read(&answer.response, from, options, &cluster)
                .map_err(|error| error.with_broker(std::sync::Arc::clone(&answer.broker)).with_api("Fetch"))
        });
        match &result {
            Ok(answers) => {
                for fetched in answers {
                    let stale = fetched
                        .error
                        .as_ref()
                        .and_then(Error::code)
                        .is_some_and(ErrorCode::refreshes_metadata);
                    if stale {
                        self.client.refresh_topic_soon(&fetched.tp.topic);
                    }
                }
            }
            Err(error) if error.is_retriable() => {
                for from in from {
                    self.client.refresh_topic_soon(&from.tp.topic);
                }
            }
            Err(_) => {}
        }
        result
    }
}

fn failed_all(from: &[FetchFrom], isolation: Isolation, error: &Error) -> Vec<Fetched> {
    from.iter()
        .map(|from| Fetched::failed(from, isolation, error.clone().with_topic_partition(&from.tp)))
        .collect()
}

fn build_request(
    from: &[FetchFrom],
    options: &FetchOptions,
    cluster: &Cluster,
    version: i16,
) -> FetchRequest {
    let mut topics: Vec<FetchTopic> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for from in from {
        let at = *index.entry(&from.tp.topic).or_insert_with(|| {
            let mut topic = FetchTopic::default();
            if version >= TOPIC_IDS_FROM {
                topic.topic_id = cluster.topic(&from.tp.topic).and_then(|topic| topic.id).unwrap_or_default();
            } else {
                topic.topic = TopicName(StrBytes::from_string(from.tp.topic.to_string()));
            }
            topics.push(topic);
            topics.len() - 1
        });
        let mut partition = FetchPartition::default();
        partition.partition = from.tp.partition.0;
        partition.fetch_offset = from.offset.0;
        partition.partition_max_bytes = wire_bytes(from.max_bytes.unwrap_or(options.partition_max_bytes));
        if version >= 9 {
            partition.current_leader_epoch = cluster.leader_epoch(&from.tp).map_or(-1, |epoch| epoch.0);
        }
        if version >= 12 {
            partition.last_fetched_epoch = from.leader_epoch.map_or(-1, |epoch| epoch.0);
        }
        if let Some(topic) = topics.get_mut(at) {
            topic.partitions.push(partition);
        }
    }
    let mut request = FetchRequest::default();
    request.max_wait_ms = i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX);
    request.min_bytes = wire_bytes(options.min_bytes);
    if version >= 3 {
        request.max_bytes = wire_bytes(options.max_bytes);
    }
    if version >= 4 {
        request.isolation_level = options.isolation.wire();
    }
    // Session id 0 with epoch -1 asks for a full answer and no session (KIP-227).
    if version >= 7 {
        request.session_id = 0;
        request.session_epoch = -1;
    }
    request.topics = topics;
    request
}

fn wire_bytes(bytes: u32) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
