//! Offsets of consumer groups: OffsetCommit, OffsetFetch, TxnOffsetCommit, ListGroups. Groups have no members here.

use std::collections::BTreeMap;
use std::time::Instant;

use milena_protocol::messages::list_groups_response::ListedGroup;
use milena_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use milena_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use milena_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use milena_protocol::messages::{
    GroupId, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse, RequestKind, TopicName, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use milena_protocol::records::ControlKind;
use milena_protocol::{ErrorCode, StrBytes};

use super::connection::{Reply, Wait};
use super::coordinator::{Identity, Partition};
use super::produce::fenced_as_epoch;
use super::topics::topic_name;
use super::{Broker, MARKER_PATIENCE, Outcome};

/// Where Kafka keeps the offsets. There is no such topic here, but transactions name its partitions.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// `offsets.topic.num.partitions`.
const OFFSETS_PARTITIONS: i32 = 50;

/// `offset.metadata.max.bytes`.
const MAX_METADATA: usize = 4096;

/// TxnOffsetCommit adds the group to the transaction by itself from this version on.
const IMPLICIT_ADD: i16 = 5;

/// The partition of the offsets topic that a group's offsets are in: Java's hash of its name.
pub(crate) fn offsets_partition(group: &str) -> i32 {
    let hash =
        group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % OFFSETS_PARTITIONS
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Committed {
    offset: i64,
    leader_epoch: i32,
    metadata: String,
}

#[derive(Clone, Debug, Default)]
struct Group {
    offsets: BTreeMap<Partition, Committed>,
    /// By producer id: what its open transaction committed.
    pending: BTreeMap<i64, BTreeMap<Partition, Committed>>,
}

impl Group {
    fn is_unstable(&self, partition: &Partition) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(partition))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<String, Group>);

impl Groups {
    /// The transaction of a producer ended: its offsets count, or not.
    pub(crate) fn on_marker(&mut self, partition: i32, producer_id: i64, kind: ControlKind) {
        for (_, group) in self.0.iter_mut().filter(|(name, _)| offsets_partition(name) == partition) {
            let Some(pending) = group.pending.remove(&producer_id) else { continue };
            if kind == ControlKind::Commit {
                group.offsets.extend(pending);
            }
        }
    }

    pub(crate) fn on_topic_deleted(&mut self, topic: &str) {
        for group in self.0.values_mut() {
            group.offsets.retain(|(name, _), _| name != topic);
        }
    }

    pub(crate) fn committed(&self, group: &str, partition: &Partition) -> Option<i64> {
        Some(self.0.get(group)?.offsets.get(partition)?.offset)
    }
}

/// One partition of an OffsetFetch answer, before it is known in which of the two shapes it goes.
struct Told {
    index: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
    error: ErrorCode,
}

impl Broker {
    /// Group members do not exist here, so only requests without one are let through, as on Kafka's empty groups.
    fn check_member(
        &self,
        version: i16,
        group: &GroupId,
        generation: i32,
        named: bool,
    ) -> Result<(), ErrorCode> {
        if group.0.is_empty() && version >= 9 {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        match self.groups.0.contains_key(&*group.0) {
            false if generation < 0 => Ok(()),
            false if version >= 9 => Err(ErrorCode::GROUP_ID_NOT_FOUND),
            false => Err(ErrorCode::ILLEGAL_GENERATION),
            true if generation >= 0 || named => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            true => Ok(()),
        }
    }

    fn check_offset(
        &self,
        topic: &TopicName,
        index: i32,
        metadata: Option<&StrBytes>,
    ) -> Result<(), ErrorCode> {
        if self.topics.partition(&topic.0, index).is_none() {
            return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        if metadata.is_some_and(|metadata| metadata.len() > MAX_METADATA) {
            return Err(ErrorCode::OFFSET_METADATA_TOO_LARGE);
        }
        Ok(())
    }

    pub(super) fn offset_commit(
        &mut self,
        version: i16,
        request: &OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        let named = !request.member_id.is_empty() || request.group_instance_id.is_some();
        let allowed =
            self.check_member(version, &request.group_id, request.generation_id_or_member_epoch, named);
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let metadata = partition.committed_metadata.as_ref();
                let checked = allowed.and_then(|()| self.check_offset(&topic.name, index, metadata));
                if checked.is_ok() {
                    let committed = Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.map(|metadata| metadata.to_string()).unwrap_or_default(),
                    };
                    let group = self.groups.0.entry(request.group_id.0.to_string()).or_default();
                    group.offsets.insert((topic.name.0.to_string(), index), committed);
                }
                partitions.push(
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(checked.err().unwrap_or(ErrorCode::NONE).0),
                );
            }
            topics.push(
                OffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        OffsetCommitResponse::default().with_topics(topics)
    }

    pub(super) fn txn_offset_commit(
        &mut self,
        now: Instant,
        reply: &Reply,
        request: TxnOffsetCommitRequest,
        deadline: Option<Instant>,
    ) -> Outcome {
        let waiting = deadline.is_none_or(|deadline| now < deadline);
        if waiting && reply.version >= IMPLICIT_ADD && self.coordinator.is_ending(&request.transactional_id.0)
        {
            let deadline = deadline.unwrap_or(now + MARKER_PATIENCE);
            let request = Box::new(RequestKind::TxnOffsetCommit(request));
            return Outcome::Wait(Wait::Retry { reply: reply.clone(), request, deadline });
        }
        // The group joins the transaction even if its member is refused afterwards.
        let allowed =
            self.join_offsets(now, reply.version, &request).and_then(|()| self.check_txn_member(&request));
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let metadata = partition.committed_metadata.as_ref();
                let checked = self.check_offset(&topic.name, index, metadata).and(allowed);
                if checked.is_ok() {
                    let committed = Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.map(|metadata| metadata.to_string()).unwrap_or_default(),
                    };
                    let group = self.groups.0.entry(request.group_id.0.to_string()).or_default();
                    let pending = group.pending.entry(request.producer_id.0).or_default();
                    pending.insert((topic.name.0.to_string(), index), committed);
                }
                partitions.push(
                    TxnOffsetCommitResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(checked.err().unwrap_or(ErrorCode::NONE).0),
                );
            }
            topics.push(
                TxnOffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        TxnOffsetCommitResponse::default().with_topics(topics).into()
    }

    /// A generation needs a member, and no member is known. A member without a generation passes unchecked.
    fn check_txn_member(&self, request: &TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
        match self.groups.0.contains_key(&*request.group_id.0) {
            _ if request.generation_id < 0 => Ok(()),
            true => Err(ErrorCode::UNKNOWN_MEMBER_ID),
            false => Err(ErrorCode::ILLEGAL_GENERATION),
        }
    }

    fn join_offsets(
        &mut self,
        now: Instant,
        version: i16,
        request: &TxnOffsetCommitRequest,
    ) -> Result<(), ErrorCode> {
        let identity = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
        let partition = (OFFSETS_TOPIC.to_owned(), offsets_partition(&request.group_id.0));
        let id = &request.transactional_id.0;
        if version >= IMPLICIT_ADD {
            let now_ms = self.wall(now);
            return self
                .coordinator
                .add_partitions(id, identity, [partition], now_ms)
                .map_err(fenced_as_epoch);
        }
        self.coordinator.verify_partition(id, identity, &partition).map_err(|error| {
            match fenced_as_epoch(error) {
                ErrorCode::TRANSACTION_ABORTABLE if version < 4 => ErrorCode::INVALID_TXN_STATE,
                error => error,
            }
        })
    }

    pub(super) fn offset_fetch(&self, version: i16, request: &OffsetFetchRequest) -> OffsetFetchResponse {
        let stable = request.require_stable;
        if version >= 8 {
            let groups = request.groups.iter().map(|group| {
                let asked = group.topics.as_ref().map(|topics| {
                    topics.iter().map(|topic| (topic.name.clone(), topic.partition_indexes.clone())).collect()
                });
                let topics = self.offsets_of(&group.group_id, asked, stable).into_iter();
                let topics = topics.map(|(name, told)| {
                    let partitions = told.into_iter().map(|told| {
                        OffsetFetchResponsePartitions::default()
                            .with_partition_index(told.index)
                            .with_committed_offset(told.offset)
                            .with_committed_leader_epoch(told.leader_epoch)
                            .with_metadata(told.metadata)
                            .with_error_code(told.error.0)
                    });
                    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
                });
                OffsetFetchResponseGroup::default()
                    .with_group_id(group.group_id.clone())
                    .with_topics(topics.collect())
            });
            return OffsetFetchResponse::default().with_groups(groups.collect());
        }
        let asked = request.topics.as_ref().map(|topics| {
            topics.iter().map(|topic| (topic.name.clone(), topic.partition_indexes.clone())).collect()
        });
        let topics = self.offsets_of(&request.group_id, asked, stable).into_iter();
        let topics = topics.map(|(name, told)| {
            let partitions = told.into_iter().map(|told| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(told.index)
                    .with_committed_offset(told.offset)
                    .with_committed_leader_epoch(if version >= 5 { told.leader_epoch } else { -1 })
                    .with_metadata(told.metadata)
                    .with_error_code(told.error.0)
            });
            OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
        });
        OffsetFetchResponse::default().with_topics(topics.collect())
    }

    fn offsets_of(
        &self,
        group: &GroupId,
        asked: Option<Vec<(TopicName, Vec<i32>)>>,
        stable: bool,
    ) -> Vec<(TopicName, Vec<Told>)> {
        let group = self.groups.0.get(&*group.0);
        let asked = asked.unwrap_or_else(|| {
            let mut all: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for (name, index) in group.into_iter().flat_map(|group| group.offsets.keys()) {
                all.entry(name).or_default().push(*index);
            }
            all.into_iter().map(|(name, indexes)| (topic_name(name), indexes)).collect()
        });
        let tell = |name: &TopicName, index: i32| {
            let partition = (name.0.to_string(), index);
            let unknown = Told {
                index,
                offset: -1,
                leader_epoch: -1,
                metadata: Some(StrBytes::new()),
                error: ErrorCode::NONE,
            };
            let Some(group) = group else { return unknown };
            if stable && group.is_unstable(&partition) {
                return Told { error: ErrorCode::UNSTABLE_OFFSET_COMMIT, ..unknown };
            }
            match group.offsets.get(&partition) {
                Some(committed) => Told {
                    offset: committed.offset,
                    leader_epoch: committed.leader_epoch,
                    metadata: Some(StrBytes::from_string(committed.metadata.clone())),
                    ..unknown
                },
                None => unknown,
            }
        };
        asked
            .into_iter()
            .map(|(name, indexes)| {
                let told = indexes.into_iter().map(|index| tell(&name, index)).collect();
                (name, told)
            })
            .collect()
    }

    pub(super) fn list_groups(&self, version: i16, request: &ListGroupsRequest) -> ListGroupsResponse {
        let wanted = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let shown = wanted(&request.states_filter, "Empty") && wanted(&request.types_filter, "classic");
        let groups = self.groups.0.keys().filter(|_| shown).map(|name| {
            let mut group =
                ListedGroup::default().with_group_id(GroupId(StrBytes::from_string(name.clone())));
            if version >= 4 {
                group.group_state = StrBytes::from_static_str("Empty");
            }
            if version >= 5 {
                group.group_type = StrBytes::from_static_str("classic");
            }
            group
        });
        ListGroupsResponse::default().with_groups(groups.collect())
    }

    pub(super) fn on_topic_deleted(&mut self, topic: &str) {
        self.groups.on_topic_deleted(topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_in_the_partition_that_java_would_choose() {
        // "abc".hashCode() is 96354, "console-consumer".hashCode() is negative in 32 bits or not: both are folded.
        assert_eq!(offsets_partition("abc"), 96354 % 50);
        assert_eq!(offsets_partition(""), 0);
        // A name whose hash is i32::MIN, which has no absolute value.
        assert_eq!(offsets_partition("polygenelubricants"), 0);
    }
}
