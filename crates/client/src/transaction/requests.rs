//! The requests of producers to coordinators, each retried until it is answered for good or the time is up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use milena_core::produce::Identity;
use milena_core::retry::Backoff;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use milena_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use milena_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, GroupId,
    InitProducerIdRequest, ProducerId as WireProducerId, TopicName, TransactionalId, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use milena_protocol::types::{PartitionId, ProducerEpoch, ProducerId, TopicPartition};
use milena_protocol::{Request, api_name};

use crate::attempts::Attempts;
use crate::call::{CallOptions, CoordinatorKind, Target};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::group::{CommittedOffset, GroupMetadata};

/// Asks for a producer id: a new one, or with `previous` the same with a new epoch where the broker can (KIP-360). With a transactional id and
/// its time-out it takes the id over.
pub(crate) async fn init_producer_id(
    client: &Client,
    transactional: Option<(&str, Duration)>,
    previous: Option<Identity>,
) -> Result<Identity> {
    let target = match transactional {
        Some((id, _)) => Target::Coordinator(CoordinatorKind::Transaction, id.to_owned()),
        None => Target::Any,
    };
    let build = |version: i16| {
        let mut request = InitProducerIdRequest::default();
        request.transactional_id = transactional.map(|(id, _)| wire_id(id));
        request.transaction_timeout_ms = transactional
            .map_or(i32::MAX, |(_, timeout)| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
        let previous = previous.filter(|_| version >= 3);
        request.producer_id = WireProducerId(previous.map_or(-1, |identity| identity.id.0));
        request.producer_epoch = previous.map_or(-1, |identity| identity.epoch.0);
        request
    };
    ask::<InitProducerIdRequest, _>(client, &target, Range::ANY, build, |response, _| {
        check(response.error_code)?;
        let (id, epoch) = (response.producer_id.0, response.producer_epoch);
        if id < 0 || epoch < 0 {
            return Err(Error::peer(format!("the producer id given is {id}, its epoch {epoch}")));
        }
        Ok(Identity { id: ProducerId(id), epoch: ProducerEpoch(epoch) })
    })
    .await
}

/// Adds partitions to a transaction.
pub(super) async fn add_partitions(
    client: &Client,
    id: &str,
    identity: Identity,
    partitions: &[TopicPartition],
) -> Result<()> {
    let target = Target::Coordinator(CoordinatorKind::Transaction, id.to_owned());
    let topics: Vec<AddPartitionsToTxnTopic> = by_topic(partitions.iter().map(|tp| (tp, tp.partition)))
        .into_iter()
        .map(|(topic, partitions)| {
            AddPartitionsToTxnTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(partitions.into_iter().map(|partition| partition.0).collect())
        })
        .collect();
    let build = |_| {
        let mut request = AddPartitionsToTxnRequest::default();
        request.v3_and_below_transactional_id = wire_id(id);
        request.v3_and_below_producer_id = WireProducerId(identity.id.0);
        request.v3_and_below_producer_epoch = identity.epoch.0;
        request.v3_and_below_topics = topics.clone();
        request
    };
    // Version 4 is for brokers.
    ask::<AddPartitionsToTxnRequest, _>(client, &target, Range { min: 0, max: 3 }, build, |response, _| {
        added(response, partitions)
    })
    .await
}

fn added(response: &AddPartitionsToTxnResponse, partitions: &[TopicPartition]) -> Result<()> {
    let mut answers = BTreeMap::new();
    for topic in &response.results_by_topic_v3_and_below {
        for result in &topic.results_by_partition {
            let tp = TopicPartition::new(topic.name.as_str(), PartitionId(result.partition_index));
            answers.insert(tp, ErrorCode(result.partition_error_code));
        }
    }
    // A partition that was not tried names no cause: another one of the request does.
    let causes = |code: &ErrorCode| *code != ErrorCode::OPERATION_NOT_ATTEMPTED;
    let cause = answers.iter().find(|(_, code)| !code.is_ok() && causes(code));
    if let Some((tp, code)) = cause.or_else(|| answers.iter().find(|(_, code)| !code.is_ok())) {
        return Err(Error::broker_code(*code, None).with_topic_partition(tp));
    }
    match partitions.iter().find(|tp| !answers.contains_key(tp)) {
        Some(missing) => Err(Error::peer("the answer lacks a partition").with_topic_partition(missing)),
        None => Ok(()),
    }
}

/// Commits offsets in a transaction. `explicit`: the group's partition has to be added by request.
pub(super) async fn send_offsets(
    client: &Client,
    id: &str,
    identity: Identity,
    explicit: bool,
    offsets: &[(TopicPartition, CommittedOffset)],
    group: &GroupMetadata,
) -> Result<()> {
    if explicit {
        let target = Target::Coordinator(CoordinatorKind::Transaction, id.to_owned());
        let build = |_| {
            let mut request = AddOffsetsToTxnRequest::default();
            request.transactional_id = wire_id(id);
            request.producer_id = WireProducerId(identity.id.0);
            request.producer_epoch = identity.epoch.0;
            request.group_id = GroupId(StrBytes::from_string(group.group_id.clone()));
            request
        };
        ask::<AddOffsetsToTxnRequest, _>(client, &target, Range { min: 0, max: 3 }, build, |response, _| {
            check(response.error_code)
        })
        .await?;
    }
    let target = Target::Coordinator(CoordinatorKind::Group, group.group_id.clone());
    let range = if explicit { Range { min: 0, max: 4 } } else { Range { min: 5, max: i16::MAX } };
    let build = |version| build_offsets(version, id, identity, offsets, group);
    ask::<TxnOffsetCommitRequest, _>(client, &target, range, build, |response, _| {
        offsets_added(response, offsets)
    })
    .await
}

fn build_offsets(
    version: i16,
    id: &str,
    identity: Identity,
    offsets: &[(TopicPartition, CommittedOffset)],
    group: &GroupMetadata,
) -> TxnOffsetCommitRequest {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let topics = by_topic(offsets.iter().map(|(tp, offset)| (tp, (tp.partition, offset))))
        .into_iter()
        .map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|(partition, offset)| {
                let epoch = offset.leader_epoch.filter(|_| version >= 2).map_or(-1, |epoch| epoch.0);
                TxnOffsetCommitRequestPartition::default()
                    .with_partition_index(partition.0)
                    .with_committed_offset(offset.offset.0)
                    .with_committed_leader_epoch(epoch)
                    .with_committed_metadata(Some(text(offset.metadata.as_deref().unwrap_or_default())))
            });
            TxnOffsetCommitRequestTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(partitions.collect())
        })
        .collect();
    let mut request = TxnOffsetCommitRequest::default();
    request.transactional_id = wire_id(id);
    request.group_id = GroupId(text(&group.group_id));
    request.producer_id = WireProducerId(identity.id.0);
    request.producer_epoch = identity.epoch.0;
    // Before version 3 the broker can't check who commits.
    if version >= 3 {
        request.generation_id = group.generation;
        request.member_id = text(&group.member_id);
        request.group_instance_id = group.instance_id.as_deref().map(text);
    }
    request.topics = topics;
    request
}

fn offsets_added(
    response: &TxnOffsetCommitResponse,
    offsets: &[(TopicPartition, CommittedOffset)],
) -> Result<()> {
    let mut answers = BTreeMap::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            let tp = TopicPartition::new(topic.name.as_str(), PartitionId(partition.partition_index));
            answers.insert(tp, ErrorCode(partition.error_code));
        }
    }
    for (tp, _) in offsets {
        match answers.get(tp) {
            Some(code) if code.is_ok() => {}
            Some(code) => return Err(Error::broker_code(*code, None).with_topic_partition(tp)),
            None => return Err(Error::peer("the answer lacks a partition").with_topic_partition(tp)),
        }
    }
    Ok(())
}

/// The broker's limit of transaction time-outs in the error about it.
pub(super) async fn timeout_error(client: &Client, error: Error, asked: Duration) -> Error {
    let limit = match client.cluster().brokers().next().map(|broker| broker.id) {
        Some(broker) => client
            .admin()
            .describe_broker_config(broker, &["transaction.max.timeout.ms"])
            .await
            .ok()
            .and_then(|entries| entries.into_iter().find_map(|entry| entry.value)),
        None => None,
    };
    let (limit, remedy) = match limit {
        Some(limit) => (format!("{limit} ms"), format!("set timeout to at most {limit} ms")),
        None => ("not known".to_owned(), "lower timeout".to_owned()),
    };
    let text = format!(
        "a transaction timeout of {} ms is refused; the broker's limit transaction.max.timeout.ms is {limit}",
        asked.as_millis()
    );
    Error::broker_code(ErrorCode::INVALID_TRANSACTION_TIMEOUT, Some(&text))
        .with_api("InitProducerId")
        .with_remedy(format!("{remedy}, or raise the broker's limit"))
        .with_source(error)
}

/// The coordinator refused to end a transaction.
pub(super) fn end_refused(code: ErrorCode, commit: bool, id: &str) -> Error {
    let end = if commit { "commit" } else { "abort" };
    Error::broker_code(code, Some(&format!("the {end} of the transaction of {id:?} was refused")))
        .with_api("EndTxn")
        .with_remedy("the transaction timed out, or another instance uses this transactional id; look what became of it, then init")
}

/// Whether a code says that another instance has the transactional id.
pub(crate) fn is_fenced(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::PRODUCER_FENCED
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::INVALID_PRODUCER_ID_MAPPING
            | ErrorCode::TRANSACTION_COORDINATOR_FENCED
    )
}

#[derive(Clone, Copy)]
struct Range {
    min: i16,
    max: i16,
}

impl Range {
    const ANY: Self = Self { min: 0, max: i16::MAX };
}

/// One logical request: sent again while the coordinator is moving or busy, or can't be reached, for `api_timeout`.
async fn ask<R: Request, T>(
    client: &Client,
    target: &Target,
    range: Range,
    build: impl Fn(i16) -> R + Send + Sync,
    judge: impl Fn(&R::Response, i16) -> Result<T> + Send + Sync,
) -> Result<T>
where
    R::Response: Send + Sync,
{
    let mut attempts = Attempts::new(client.config().api_timeout, Backoff::for_transactions(), client.seed());
    loop {
        let options = CallOptions {
            min_version: Some(range.min),
            max_version: Some(range.max),
            ..CallOptions::until(attempts.deadline())
        };
        let error = match client.call_with::<R, _>(target.clone(), options, &build).await {
            Ok(answer) => match judge(&answer.response, answer.version) {
                Ok(value) => return Ok(value),
                Err(error) => error.with_broker(Arc::clone(&answer.broker)),
            },
            Err(error) => error,
        };
        let error = error.with_api(api_name(R::KEY));
        if let Target::Coordinator(kind, key) = target {
            client.doubt_coordinator(*kind, key, &error);
        }
        attempts.pause(error).await?;
    }
}

fn check(code: i16) -> Result<()> {
    ErrorCode(code).ok().map_err(|code| Error::broker_code(code, None))
}

fn by_topic<'a, T>(items: impl Iterator<Item = (&'a TopicPartition, T)>) -> BTreeMap<Arc<str>, Vec<T>> {
    let mut topics: BTreeMap<Arc<str>, Vec<T>> = BTreeMap::new();
    for (tp, item) in items {
        topics.entry(Arc::clone(&tp.topic)).or_default().push(item);
    }
    topics
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn wire_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::messages::add_partitions_to_txn_response::{
        AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
    };

    fn answer(codes: &[(i32, i16)]) -> AddPartitionsToTxnResponse {
        let results = codes
            .iter()
            .map(|&(partition, code)| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(partition)
                    .with_partition_error_code(code)
            })
            .collect();
        let topic = AddPartitionsToTxnTopicResult::default()
            .with_name(topic_name("t"))
            .with_results_by_partition(results);
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(vec![topic])
    }

    #[test]
    fn the_cause_is_reported_not_the_partitions_it_kept_from_being_tried() {
        let asked = [TopicPartition::new("t", 0), TopicPartition::new("t", 1)];
        assert!(added(&answer(&[(0, 0), (1, 0)]), &asked).is_ok());
        let error = added(&answer(&[(0, 55), (1, 29)]), &asked).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
        assert!(added(&answer(&[(0, 0)]), &asked).is_err(), "a partition without an answer is not added");
    }
}
