//! The committed offsets of a consumer group, read and written without being a member.
//!
//! Without a member the broker checks nothing about who commits: it accepts while the group has no members, and
//! refuses with UNKNOWN_MEMBER_ID while it has some.
//!
//! # References
//! <https://kafka.apache.org/protocol#The_Messages_OffsetCommit>, KIP-447 (`require_stable`), KIP-709 (several groups).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use milena_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use milena_protocol::messages::{
    GroupId, InitProducerIdRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName,
};
use milena_protocol::types::{LeaderEpoch, Offset, PartitionId, TopicPartition};
use milena_protocol::versions::BrokerVersions;
use milena_protocol::{Request, StrBytes};
use tokio::time::Instant;

use crate::call::{CallOptions, CoordinatorKind, Target};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

/// An offset as it is committed: the next one to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the record before it, if known (OffsetCommit v6).
    pub leader_epoch: Option<LeaderEpoch>,
    /// A note of the committer.
    pub metadata: Option<String>,
}

impl From<Offset> for CommittedOffset {
    fn from(offset: Offset) -> Self {
        Self { offset, leader_epoch: None, metadata: None }
    }
}

/// Who commits offsets in a transaction (KIP-447): the member, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub group_id: String,
    /// The generation or member epoch; -1 without membership.
    pub generation: i32,
    /// The member id; empty without membership.
    pub member_id: String,
    /// The static member's name, if there is one (KIP-345).
    pub instance_id: Option<String>,
}

impl GroupMetadata {
    /// A group without membership: generation -1, no member. The broker fences nobody.
    pub fn without_member(group_id: impl Into<String>) -> Self {
        Self { group_id: group_id.into(), generation: -1, member_id: String::new(), instance_id: None }
    }
}

/// The committed offsets of a group. Clones share the client's connections.
#[derive(Clone, Debug)]
pub struct Group {
    client: Client,
    id: Arc<str>,
}

type Fetched = Result<Option<CommittedOffset>>;

impl Group {
    pub(crate) fn new(client: Client, id: &str) -> Self {
        Self { client, id: Arc::from(id) }
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Commits offsets. Coordinator errors and lost connections are retried until `api_timeout`; committing the same
    /// offset twice does no harm. Offsets are stored in Kafka, on 0.8.2 too (where others may use ZooKeeper); 0.8.1 cannot.
    ///
    /// # Errors
    /// The first partition's error; the others may have been committed. UNKNOWN_MEMBER_ID: the group has live members.
    ///
    /// # Cancellation
    /// The offsets may be committed all the same.
    pub async fn commit(&self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<()> {
        for (tp, result) in self.commit_each(offsets).await? {
            result.map_err(|error| error.with_topic_partition(&tp))?;
        }
        Ok(())
    }

    /// As [`Group::commit`], with the outcome of each partition.
    ///
    /// # Errors
    /// What concerns the request as a whole.
    ///
    /// # Cancellation
    /// The offsets may be committed all the same.
    pub async fn commit_each(
        &self,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<Vec<(TopicPartition, Result<()>)>> {
        if offsets.is_empty() {
            return Ok(Vec::new());
        }
        let mut attempts = self.client.attempts();
        let since = Instant::now();
        loop {
            let result = self.commit_once(offsets, attempts.deadline()).await;
            // One partition that may succeed later is reason enough to send all again.
            let again = match &result {
                Ok(results) => results.iter().find_map(|(_, result)| worth_another_try(result, since)),
                Err(error) => Some(error.clone()),
            };
            let Some(error) = again else { return result };
            self.client.doubt_coordinator(CoordinatorKind::Group, &self.id, &error);
            if let Err(error) = attempts.pause(self.named(error)).await {
                return result.map_err(|_| error);
            }
        }
    }

    fn named(&self, error: Error) -> Error {
        error.with_subject(format!("group {:?}", self.id))
    }

    async fn commit_once(
        &self,
        offsets: &[(TopicPartition, CommittedOffset)],
        deadline: Instant,
    ) -> Result<Vec<(TopicPartition, Result<()>)>> {
        let target = Target::Coordinator(CoordinatorKind::Group, self.id.to_string());
        let options = CallOptions {
            min_version: Some(COMMIT_TO_KAFKA),
            max_version: Some(COMMIT_BY_NAME),
            ..CallOptions::until(deadline)
        };
        let answer = self
            .client
            .call_with::<OffsetCommitRequest, _>(target, options, |version| {
                build_commit(&self.id, offsets, version)
            })
            .await?;
        let named =
            |error: Error| self.named(error).with_broker(Arc::clone(&answer.broker)).with_api("OffsetCommit");
        let results = read_commit(&answer.response, offsets).map_err(named)?;
        Ok(results.into_iter().map(|(tp, result)| (tp, result.map_err(named))).collect())
    }

    /// Reads committed offsets: of these partitions, or of all the group has with `None`. `Ok(None)` for a partition means
    /// that nothing is committed. With `require_stable` it waits for open transactions with offsets of this group, until
    /// `api_timeout` (brokers since 2.5, and trivially those before 0.11, which have no transactions). "All" needs brokers since 0.10.2.
    ///
    /// # Errors
    /// What concerns the request as a whole; errors of single partitions are inside.
    ///
    /// # Cancellation
    /// Nothing happened.
    pub async fn fetch(
        &self,
        partitions: Option<&[TopicPartition]>,
        require_stable: bool,
    ) -> Result<Vec<(TopicPartition, Fetched)>> {
        let mut attempts = self.client.attempts();
        let since = Instant::now();
        let mut require_stable = require_stable;
        loop {
            let result = self.fetch_once(partitions, require_stable, attempts.deadline()).await;
            if let Err(error) = &result
                && require_stable
                && error.kind() == ErrorKind::Unsupported
                && !has_transactions(&*self.client.any_versions(attempts.deadline()).await?)
            {
                // Every offset is stable where there are no transactions.
                require_stable = false;
                continue;
            }
            let again = match &result {
                Ok(results) => results.iter().find_map(|(_, result)| worth_another_try(result, since)),
                Err(error) => Some(error.clone()),
            };
            let Some(error) = again else { return result };
            self.client.doubt_coordinator(CoordinatorKind::Group, &self.id, &error);
            if let Err(error) = attempts.pause(self.named(error)).await {
                return result.map_err(|_| error);
            }
        }
    }

    async fn fetch_once(
        &self,
        partitions: Option<&[TopicPartition]>,
        require_stable: bool,
        deadline: Instant,
    ) -> Result<Vec<(TopicPartition, Fetched)>> {
        let target = Target::Coordinator(CoordinatorKind::Group, self.id.to_string());
        let options = CallOptions {
            min_version: Some(match partitions {
                _ if require_stable => FETCH_STABLE,
                None => FETCH_ALL,
                Some(_) => FETCH_FROM_KAFKA,
            }),
            max_version: Some(FETCH_BY_NAME),
            ..CallOptions::until(deadline)
        };
        let answer = self
            .client
            .call_with::<OffsetFetchRequest, _>(target, options, |version| {
                build_fetch(&self.id, partitions, require_stable, version)
            })
            .await?;
        let named =
            |error: Error| self.named(error).with_broker(Arc::clone(&answer.broker)).with_api("OffsetFetch");
        let results = read_fetch(&answer.response, &self.id, partitions, answer.version).map_err(named)?;
        Ok(results.into_iter().map(|(tp, result)| (tp, result.map_err(named))).collect())
    }
}

/// The error of a partition that may succeed later; a topic that is not there is given up after a few seconds.
fn worth_another_try<T>(result: &Result<T>, since: Instant) -> Option<Error> {
    let error = result.as_ref().err().filter(|error| error.is_retriable())?;
    let unknown = error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    (!unknown || since.elapsed() < UNKNOWN_TOPIC_WINDOW).then(|| error.clone())
}

/// How long a topic that the coordinator does not know is committed to again.
const UNKNOWN_TOPIC_WINDOW: Duration = Duration::from_secs(5);

/// Whether a broker has transactions (InitProducerId).
fn has_transactions(versions: &BrokerVersions) -> bool {
    versions.range(InitProducerIdRequest::KEY).is_some()
}

/// The first OffsetCommit version that stores offsets in Kafka and not in ZooKeeper.
const COMMIT_TO_KAFKA: i16 = 1;

/// The first OffsetFetch version that reads the offsets stored in Kafka.
const FETCH_FROM_KAFKA: i16 = 1;

/// The first OffsetFetch version that can ask for all partitions of a group (brokers since 0.10.2).
const FETCH_ALL: i16 = 2;

/// The first OffsetFetch version that waits for stable offsets (brokers since 2.5).
const FETCH_STABLE: i16 = 7;

/// The last OffsetCommit version that names topics by name.
const COMMIT_BY_NAME: i16 = 9;

/// The last OffsetFetch version that names topics by name.
const FETCH_BY_NAME: i16 = 9;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn by_topic<'a>(tps: impl Iterator<Item = &'a TopicPartition>) -> Vec<(Arc<str>, Vec<i32>)> {
    let mut topics: Vec<(Arc<str>, Vec<i32>)> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for tp in tps {
        let at = *index.entry(&tp.topic).or_insert_with(|| {
            topics.push((Arc::clone(&tp.topic), Vec::new()));
            topics.len() - 1
        });
        if let Some((_, partitions)) = topics.get_mut(at) {
            partitions.push(tp.partition.0);
        }
    }
    topics
}

fn build_commit(
    group: &str,
    offsets: &[(TopicPartition, CommittedOffset)],
    version: i16,
) -> OffsetCommitRequest {
    let by_partition: HashMap<(&str, i32), &CommittedOffset> =
        offsets.iter().map(|(tp, offset)| ((&*tp.topic, tp.partition.0), offset)).collect();
    let mut request = OffsetCommitRequest::default();
    request.group_id = GroupId(text(group));
    request.generation_id_or_member_epoch = -1;
    for (name, partitions) in by_topic(offsets.iter().map(|(tp, _)| tp)) {
        let mut topic = OffsetCommitRequestTopic::default().with_name(TopicName(text(&name)));
        for index in partitions {
            let Some(offset) = by_partition.get(&(&*name, index)) else { continue };
            let mut partition = OffsetCommitRequestPartition::default();
            partition.partition_index = index;
            partition.committed_offset = offset.offset.0;
            if version >= 6 {
                partition.committed_leader_epoch = offset.leader_epoch.map_or(-1, |epoch| epoch.0);
            }
            partition.committed_metadata = Some(text(offset.metadata.as_deref().unwrap_or_default()));
            topic.partitions.push(partition);
        }
        request.topics.push(topic);
    }
    request
}

fn read_commit(
    response: &OffsetCommitResponse,
    offsets: &[(TopicPartition, CommittedOffset)],
) -> Result<Vec<(TopicPartition, Result<()>)>> {
    let mut codes: HashMap<(&str, i32), ErrorCode> = HashMap::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            codes.insert((topic.name.as_str(), partition.partition_index), ErrorCode(partition.error_code));
        }
    }
    let mut results = Vec::with_capacity(offsets.len());
    for (tp, _) in offsets {
        let result = match codes.get(&(&*tp.topic, tp.partition.0)) {
            Some(code) if code.is_ok() => Ok(()),
            Some(&code) => Err(commit_error(code).with_topic_partition(tp)),
            None => {
                return Err(Error::peer("the answer does not name the partition").with_topic_partition(tp));
            }
        };
        results.push((tp.clone(), result));
    }
    Ok(results)
}

fn commit_error(code: ErrorCode) -> Error {
    let error = Error::broker_code(code, None);
    if code == ErrorCode::UNKNOWN_MEMBER_ID {
        return error.with_remedy("the group has live members: stop them, or use another group id");
    }
    error
}

fn build_fetch(
    group: &str,
    partitions: Option<&[TopicPartition]>,
    require_stable: bool,
    version: i16,
) -> OffsetFetchRequest {
    let topics = partitions.map(|partitions| by_topic(partitions.iter()));
    let mut request = OffsetFetchRequest::default();
    if version >= 7 {
        request.require_stable = require_stable;
    }
    if version >= 8 {
        let topic = |(name, partitions): (Arc<str>, Vec<i32>)| {
            OffsetFetchRequestTopics::default()
                .with_name(TopicName(text(&name)))
                .with_partition_indexes(partitions)
        };
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(topics.map(|topics| topics.into_iter().map(topic).collect()));
        request.groups = vec![group];
    } else {
        let topic = |(name, partitions): (Arc<str>, Vec<i32>)| {
            OffsetFetchRequestTopic::default()
                .with_name(TopicName(text(&name)))
                .with_partition_indexes(partitions)
        };
        request.group_id = GroupId(text(group));
        request.topics = topics.map(|topics| topics.into_iter().map(topic).collect());
    }
    request
}

fn committed(code: i16, offset: i64, epoch: i32, metadata: Option<&StrBytes>) -> Fetched {
    let code = ErrorCode(code);
    if !code.is_ok() {
        return Err(Error::broker_code(code, None));
    }
    Ok((offset >= 0).then(|| CommittedOffset {
        offset: Offset(offset),
        leader_epoch: (epoch >= 0).then_some(LeaderEpoch(epoch)),
        metadata: metadata.map(|metadata| metadata.to_string()).filter(|metadata| !metadata.is_empty()),
    }))
}

fn read_fetch(
    response: &OffsetFetchResponse,
    group: &str,
    partitions: Option<&[TopicPartition]>,
    version: i16,
) -> Result<Vec<(TopicPartition, Fetched)>> {
    let mut found: Vec<(TopicPartition, Fetched)> = Vec::new();
    let mut add = |topic: &str, index: i32, fetched: Fetched| {
        let tp = TopicPartition::new(topic, PartitionId(index));
        let fetched = fetched.map_err(|error| error.with_topic_partition(&tp));
        found.push((tp, fetched));
    };
    let code = if version >= 8 {
        let [answer] = response.groups.as_slice() else {
            return Err(Error::peer("OffsetFetch for one group was answered for another number of groups"));
        };
        if answer.group_id.as_str() != group {
            return Err(Error::peer(format!(
                "OffsetFetch for {group:?} was answered for {:?}",
                answer.group_id
            )));
        }
        for topic in &answer.topics {
            for p in &topic.partitions {
                let fetched = committed(
                    p.error_code,
                    p.committed_offset,
                    p.committed_leader_epoch,
                    p.metadata.as_ref(),
                );
                add(topic.name.as_str(), p.partition_index, fetched);
            }
        }
        answer.error_code
    } else {
        for topic in &response.topics {
            for p in &topic.partitions {
                let fetched = committed(
                    p.error_code,
                    p.committed_offset,
                    p.committed_leader_epoch,
                    p.metadata.as_ref(),
                );
                add(topic.name.as_str(), p.partition_index, fetched);
            }
        }
        response.error_code
    };
    let code = ErrorCode(code);
    if !code.is_ok() {
        return Err(Error::broker_code(code, None));
    }
    let Some(asked) = partitions else { return Ok(found) };
    let mut by_partition: HashMap<TopicPartition, Fetched> = found.into_iter().collect();
    let mut results = Vec::with_capacity(asked.len());
    for tp in asked {
        let Some(fetched) = by_partition.remove(tp) else {
            return Err(Error::peer("the answer does not name the partition").with_topic_partition(tp));
        };
        results.push((tp.clone(), fetched));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use milena_protocol::encode_request;

    fn tp(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, PartitionId(partition))
    }

    #[test]
    fn requests_can_be_written_in_every_version() {
        let offset = CommittedOffset {
            offset: Offset(7),
            leader_epoch: Some(LeaderEpoch(3)),
            metadata: Some("note".to_owned()),
        };
        let offsets = [(tp("a", 0), offset.clone()), (tp("b", 1), offset.clone()), (tp("a", 2), offset)];
        for version in 2..=COMMIT_BY_NAME {
            let request = build_commit("g", &offsets, version);
            assert_eq!(request.topics.len(), 2);
            encode_request(&mut BytesMut::new(), 1, "c", version, &request).unwrap();
        }
        let partitions = [tp("a", 0), tp("b", 1)];
        for version in 1..=FETCH_BY_NAME {
            let request = build_fetch("g", Some(&partitions), version >= 7, version);
            encode_request(&mut BytesMut::new(), 1, "c", version, &request).unwrap();
            if version >= 2 {
                let request = build_fetch("g", None, version >= 7, version);
                encode_request(&mut BytesMut::new(), 1, "c", version, &request).unwrap();
            }
        }
    }

    #[test]
    fn a_partition_that_is_missing_in_the_answer_is_no_success() {
        let response = OffsetCommitResponse::default();
        assert!(read_commit(&response, &[(tp("a", 0), Offset(1).into())]).is_err());
        assert!(read_fetch(&OffsetFetchResponse::default(), "g", Some(&[tp("a", 0)]), 7).is_err());
    }
}
