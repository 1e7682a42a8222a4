//! Looking up offsets by place or by time, and leaders.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use milena_core::cluster::Cluster;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use milena_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use milena_protocol::types::{BrokerId, Isolation, LeaderEpoch, Offset, TopicPartition};
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::call::{CallOptions, Target};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Want;

/// Which offset to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffsetSpec {
    /// The first offset of the log.
    Earliest,
    /// The end of the log: the high watermark, or the last stable offset under read_committed.
    Latest,
    /// The first record with this time or a later one, in milliseconds since 1970. Brokers before 0.10.1 know only when a segment of the
    /// log was last written: they name the start of the last segment that ends before this time, or of the log. That is never
    /// after the record and may be long before it.
    Timestamp(i64),
    /// The record with the latest time (KIP-734, brokers since 3.0).
    MaxTimestamp,
}

/// An offset that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; `None` when there is no record at or after that time.
    pub offset: Option<Offset>,
    /// The time of that record in milliseconds since 1970; `None` for places.
    pub timestamp: Option<i64>,
    /// The leader epoch of that record, when the broker says it (brokers since 2.1).
    pub leader_epoch: Option<LeaderEpoch>,
}

type Listed = Result<ListedOffset>;

impl Client {
    /// The leader of a partition; waits while there is none.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION when brokers have not known it for 5 s, LEADER_NOT_AVAILABLE when there is none
    /// for `api_timeout`.
    ///
    /// # Cancellation
    /// The cached topology may be refreshed all the same.
    pub async fn leader(&self, tp: &TopicPartition) -> Result<BrokerId> {
        if let Some(leader) = self.cluster().leader(tp) {
            return Ok(leader);
        }
        let mut attempts = self.attempts();
        let since = Instant::now();
        loop {
            let topic = self.topic_with(&tp.topic, &mut attempts).await?;
            let error = match topic.partition(tp.partition) {
                Some(partition) => match partition.leader {
                    Some(leader) => return Ok(leader),
                    None => Error::broker_code(ErrorCode::LEADER_NOT_AVAILABLE, None),
                },
                None => {
                    let count = topic.partition_count();
                    let text = format!("the topic has {count} partitions");
                    Error::broker_code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, Some(&text))
                }
            };
            pause_partition(&mut attempts, since, error.with_topic_partition(tp)).await?;
        }
    }

    /// Looks up offsets: one request to each leader, at the same time. Answers are in the order of the question, errors of
    /// single partitions inside. Leader errors and lost connections are retried with new metadata until `api_timeout`.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a partition that is named twice.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn list_offsets(
        &self,
        wanted: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
    ) -> Result<Vec<(TopicPartition, Listed)>> {
        refuse_duplicates(wanted.iter().map(|(tp, _)| tp))?;
        let mut attempts = self.attempts();
        let since = Instant::now();
        let mut done: HashMap<TopicPartition, Listed> = HashMap::new();
        let mut open: Vec<(TopicPartition, OffsetSpec)> = wanted.to_vec();
        loop {
            let answers = self.list_once(&open, isolation, attempts.deadline()).await;
            let specs: HashMap<TopicPartition, OffsetSpec> = open.drain(..).collect();
            let mut last: Vec<(TopicPartition, Error)> = Vec::new();
            for (tp, answer) in answers {
                match answer {
                    Err(error) if self.tries_again(&error, since) => {
                        open.extend(specs.get(&tp).map(|&spec| (tp.clone(), spec)));
                        last.push((tp, error));
                    }
                    final_answer => {
                        done.insert(tp, final_answer);
                    }
                }
            }
            let Some((_, error)) = last.first() else { break };
            if attempts.pause(error.clone()).await.is_err() {
                done.extend(last.into_iter().map(|(tp, error)| (tp, Err(attempts.last(error)))));
                break;
            }
            let topics = open.iter().map(|(tp, _)| Arc::clone(&tp.topic)).collect();
            if let Err(error) = self.refresh(Want::Topics(topics), attempts.deadline()).await {
                tracing::debug!(%error, "no new metadata");
            }
        }
        let answer = |tp: &TopicPartition| done.remove(tp).unwrap_or_else(|| Err(not_named(tp)));
        Ok(wanted.iter().map(|(tp, _)| tp.clone()).zip(wanted.iter().map(|(tp, _)| tp).map(answer)).collect())
    }

    fn tries_again(&self, error: &Error, since: Instant) -> bool {
        let unknown = error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        error.is_retriable() && !(unknown && since.elapsed() >= UNKNOWN_PARTITION_WINDOW)
    }

    /// One try for each partition.
    pub(crate) async fn list_once(
        &self,
        open: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
        deadline: Instant,
    ) -> Vec<(TopicPartition, Listed)> {
        let mut cluster = self.cluster();
        let unknown: std::collections::BTreeSet<Arc<str>> = open
            .iter()
            .filter(|(tp, _)| cluster.leader(tp).is_none())
            .map(|(tp, _)| Arc::clone(&tp.topic))
            .collect();
        if !unknown.is_empty() {
            match self.refresh(Want::Topics(unknown), deadline).await {
                Ok(fresh) => cluster = fresh,
                Err(error) => return open.iter().map(|(tp, _)| (tp.clone(), Err(error.clone()))).collect(),
            }
        }
        let mut answers = Vec::new();
        let mut by_leader: HashMap<BrokerId, Vec<(TopicPartition, OffsetSpec)>> = HashMap::new();
        for (tp, spec) in open {
            match cluster.leader(tp) {
                Some(leader) => by_leader.entry(leader).or_default().push((tp.clone(), *spec)),
                None => answers.push((tp.clone(), Err(no_leader(&cluster, tp)))),
            }
        }
        let cluster = &cluster;
        let requests = by_leader.into_iter().map(|(leader, wanted)| async move {
            match self.list_from_leader(leader, &wanted, isolation, cluster, deadline).await {
                Ok(answers) => answers,
                Err(error) => wanted
                    .into_iter()
                    .map(|(tp, _)| {
                        let error = error.clone().with_topic_partition(&tp);
                        (tp, Err(error))
                    })
                    .collect(),
            }
        });
        answers.extend(join_all(requests).await.into_iter().flatten());
        answers
    }

    async fn list_from_leader(
        &self,
        leader: BrokerId,
        wanted: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
        cluster: &Cluster,
        deadline: Instant,
    ) -> Result<Vec<(TopicPartition, Listed)>> {
        let newest = wanted.iter().any(|(_, spec)| *spec == OffsetSpec::MaxTimestamp);
        let options = CallOptions {
            // Brokers without an isolation level have no transactions: there the two ends of the log are one.
            min_version: newest.then_some(MAX_TIMESTAMP_VERSION),
            ..CallOptions::until(deadline)
        };
        let answer = self
            .call_with::<ListOffsetsRequest, _>(Target::Broker(leader), options, |version| {
                build_request(wanted, isolation, cluster, version)
            })
            .await?;
        let broker = answer.broker;
        let mut listed = read_answer(&answer.response, wanted)
            .map_err(|error| error.with_broker(Arc::clone(&broker)).with_api("ListOffsets"))?;
        if answer.version < EXACT_TIME_VERSION {
            let before = before_all_segments(&listed, wanted);
            if !before.is_empty() {
                // The box ends the recursion of futures; what is asked for now has an answer in every version.
                let starts = Box::pin(self.list_from_leader(leader, &before, isolation, cluster, deadline));
                let mut starts: HashMap<TopicPartition, Listed> = starts.await?.into_iter().collect();
                for (tp, listed) in &mut listed {
                    if let Some(start) = starts.remove(tp) {
                        *listed = start;
                    }
                }
            }
        }
        let named = |error: Error| error.with_broker(Arc::clone(&broker)).with_api("ListOffsets");
        Ok(listed.into_iter().map(|(tp, listed)| (tp, listed.map_err(named))).collect())
    }
}

/// How long a partition that brokers do not know is looked for.
const UNKNOWN_PARTITION_WINDOW: Duration = Duration::from_secs(5);

/// Like [`Attempts::pause`], but an unknown partition is given up after a few seconds.
async fn pause_partition(attempts: &mut Attempts, since: Instant, error: Error) -> Result<()> {
    let unknown = error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    if unknown && since.elapsed() >= UNKNOWN_PARTITION_WINDOW {
        return Err(attempts.last(error));
    }
    attempts.pause(error).await
}

/// Why there is no leader in this snapshot.
pub(crate) fn no_leader(cluster: &Cluster, tp: &TopicPartition) -> Error {
    let code = match (cluster.topic(&tp.topic), cluster.partition(tp)) {
        (_, Some(partition)) => partition.error.unwrap_or(ErrorCode::LEADER_NOT_AVAILABLE),
        (Some(_), None) => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        (None, None) => cluster.topic_error(&tp.topic).unwrap_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    };
    Error::broker_code(code, None).with_topic_partition(tp)
}

pub(crate) fn refuse_duplicates<'a>(tps: impl Iterator<Item = &'a TopicPartition>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for tp in tps {
        if !seen.insert(tp) {
            return Err(
                Error::new(ErrorKind::Misuse, "the partition is named twice").with_topic_partition(tp)
            );
        }
    }
    Ok(())
}

/// The first version that finds a record by its time; before it there are segments only.
const EXACT_TIME_VERSION: i16 = 1;

/// The partitions whose time lies before the end of their first segment. The broker names no offset for those, which must not be
/// mistaken for "no record at or after that time": the answer is the start of the log.
fn before_all_segments(
    listed: &[(TopicPartition, Listed)],
    wanted: &[(TopicPartition, OffsetSpec)],
) -> Vec<(TopicPartition, OffsetSpec)> {
    let by_time = |tp: &TopicPartition| {
        wanted.iter().any(|(asked, spec)| asked == tp && matches!(spec, OffsetSpec::Timestamp(_)))
    };
    let nothing = |listed: &Listed| listed.as_ref().is_ok_and(|listed| listed.offset.is_none());
    let found = listed.iter().filter(|(tp, listed)| nothing(listed) && by_time(tp));
    found.map(|(tp, _)| (tp.clone(), OffsetSpec::Earliest)).collect()
}

/// The first version with an isolation level.
const ISOLATION_VERSION: i16 = 2;

/// The first version that finds the latest time.
const MAX_TIMESTAMP_VERSION: i16 = 7;

fn not_named(tp: &TopicPartition) -> Error {
    Error::peer("the answer does not name the partition").with_topic_partition(tp)
}

fn build_request(
    wanted: &[(TopicPartition, OffsetSpec)],
    isolation: Isolation,
    cluster: &Cluster,
    version: i16,
) -> ListOffsetsRequest {
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for (tp, spec) in wanted {
        let at = *index.entry(&tp.topic).or_insert_with(|| {
            topics.push(
                ListOffsetsTopic::default().with_name(TopicName(StrBytes::from_string(tp.topic.to_string()))),
            );
            topics.len() - 1
        });
        let mut partition = ListOffsetsPartition::default();
        partition.partition_index = tp.partition.0;
        partition.timestamp = match *spec {
            OffsetSpec::Latest => -1,
            OffsetSpec::Earliest => -2,
            OffsetSpec::MaxTimestamp => -3,
            // Negative times are the places above: the start of the log is what comes next to them.
            OffsetSpec::Timestamp(time) => time.max(0),
        };
        if version >= 4 {
            partition.current_leader_epoch = cluster.leader_epoch(tp).map_or(-1, |epoch| epoch.0);
        }
        if let Some(topic) = topics.get_mut(at) {
            topic.partitions.push(partition);
        }
    }
    let mut request = ListOffsetsRequest::default();
    request.replica_id = milena_protocol::messages::BrokerId(-1);
    if version >= ISOLATION_VERSION {
        request.isolation_level = isolation.wire();
    }
    request.topics = topics;
    request
}

fn read_answer(
    response: &ListOffsetsResponse,
    wanted: &[(TopicPartition, OffsetSpec)],
) -> Result<Vec<(TopicPartition, Listed)>> {
    let mut answers: HashMap<TopicPartition, Listed> = HashMap::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            let tp = TopicPartition::new(topic.name.as_str(), partition.partition_index);
            if !wanted.iter().any(|(asked, _)| *asked == tp) {
                return Err(Error::peer("the answer is about a partition that was not asked for")
                    .with_topic_partition(&tp));
            }
            let code = ErrorCode(partition.error_code);
            let listed = if code.is_ok() {
                Ok(ListedOffset {
                    offset: (partition.offset >= 0).then_some(Offset(partition.offset)),
                    timestamp: (partition.timestamp >= 0).then_some(partition.timestamp),
                    leader_epoch: (partition.leader_epoch >= 0)
                        .then_some(LeaderEpoch(partition.leader_epoch)),
                })
            } else {
                Err(Error::broker_code(code, None).with_topic_partition(&tp))
            };
            if answers.insert(tp.clone(), listed).is_some() {
                return Err(Error::peer("the answer names the partition twice").with_topic_partition(&tp));
            }
        }
    }
    let answer = |tp: &TopicPartition| answers.remove(tp).unwrap_or_else(|| Err(not_named(tp)));
    Ok(wanted.iter().map(|(tp, _)| tp.clone()).zip(wanted.iter().map(|(tp, _)| tp).map(answer)).collect())
}
