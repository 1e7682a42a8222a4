//! Asks leaders where epochs end in their logs: one OffsetForLeaderEpoch for all positions of a broker (KIP-320).

use std::collections::HashMap;
use std::sync::Arc;

use milena_core::fetch::{EpochEnd, Reason, Validated, ValidationWanted};
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use milena_protocol::messages::{
    BrokerId as WireBroker, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName,
};
use milena_protocol::types::{BrokerId, LeaderEpoch, Offset, PartitionId};
use tokio::time::Instant;

use super::shared::{Shared, now};
use crate::call::{CallOptions, Target};
use crate::error::{Error, ErrorKind};

/// The first version that needs no more rights than reading the topic does. Kafka's consumer asks in no older one either.
const MIN_VERSION: i16 = 3;

/// Asks a leader about these positions, and tells the cursors.
pub(super) async fn run(shared: Arc<Shared>, leader: BrokerId, wanted: Vec<ValidationWanted>) {
    let options = CallOptions {
        min_version: Some(MIN_VERSION),
        ..CallOptions::until(Instant::now() + shared.client.config().api_timeout)
    };
    let asked = shared
        .client
        .call_with::<OffsetForLeaderEpochRequest, _>(Target::Broker(leader), options, |_| build(&wanted))
        .await;
    let found = match asked {
        Ok(answer) => read(&answer.response, &wanted),
        Err(error) => {
            tracing::debug!(%leader, %error, "positions could not be validated");
            let refused = refused(&error);
            wanted.iter().map(|_| refused.clone()).collect()
        }
    };
    let mut state = shared.state();
    let tickets = wanted.iter().map(|wanted| wanted.ticket);
    state.cursors.handle_validations(now(), tickets.zip(found));
    let waker = shared.settle(&mut state);
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
    shared.changed.notify_waiters();
}

fn refused(error: &Error) -> Validated {
    match error.kind() {
        // Before Kafka 2.3, where the broker's answer to a fetch is all there is.
        ErrorKind::Unsupported => Validated::Unsupported,
        ErrorKind::Broker(code) => Validated::Failed { reason: Reason::Code(code), again: again(code) },
        // A connection that cannot be had is reported by the fetch loop.
        _ => Validated::Failed { reason: Reason::Connection(Arc::from(error.to_string())), again: true },
    }
}

/// What the answer says of each position. One that it does not name is asked about again.
fn read(response: &OffsetForLeaderEpochResponse, wanted: &[ValidationWanted]) -> Vec<Validated> {
    let mut answers: HashMap<(&str, PartitionId), Validated> = HashMap::new();
    for topic in &response.topics {
        for partition in &topic.partitions {
            let code = ErrorCode(partition.error_code);
            let found = match code.is_ok() {
                true => Validated::End((partition.end_offset >= 0).then_some(EpochEnd {
                    epoch: LeaderEpoch(partition.leader_epoch),
                    offset: Offset(partition.end_offset),
                })),
                false => Validated::Failed { reason: Reason::Code(code), again: again(code) },
            };
            answers.insert((topic.topic.as_str(), PartitionId(partition.partition)), found);
        }
    }
    let missing = || Validated::Failed { reason: Reason::NotNamed, again: true };
    wanted
        .iter()
        .map(|wanted| answers.get(&(&*wanted.tp.topic, wanted.tp.partition)).cloned().unwrap_or_else(missing))
        .collect()
}

/// Leaders move, and a broker that failed by a fault of its own may recover.
fn again(code: ErrorCode) -> bool {
    code.is_retriable() || code.refreshes_metadata() || code == ErrorCode::UNKNOWN_SERVER_ERROR
}

fn build(wanted: &[ValidationWanted]) -> OffsetForLeaderEpochRequest {
    let mut request = OffsetForLeaderEpochRequest::default();
    request.replica_id = WireBroker(-1);
    for wanted in wanted {
        let mut partition = OffsetForLeaderPartition::default();
        partition.partition = wanted.tp.partition.0;
        partition.current_leader_epoch = wanted.leader_epoch.0;
        partition.leader_epoch = wanted.epoch.0;
        match request.topics.last_mut() {
            Some(topic) if topic.topic.as_str() == &*wanted.tp.topic => topic.partitions.push(partition),
            _ => {
                let name = TopicName(StrBytes::from_string(wanted.tp.topic.to_string()));
                request
                    .topics
                    .push(OffsetForLeaderTopic::default().with_topic(name).with_partitions(vec![partition]));
            }
        }
    }
    request
}
