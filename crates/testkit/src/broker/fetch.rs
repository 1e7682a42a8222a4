//! Fetch: reading batches, long polls, read committed (KIP-74, KIP-98, KIP-320, KIP-516); sessions are in [`sessions`](super::sessions).

use std::time::{Duration, Instant};

use bytes::Bytes;
use milena_protocol::ErrorCode;
use milena_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use milena_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
};
use milena_protocol::messages::{FetchRequest, FetchResponse};

use super::connection::{Reply, Wait};
use super::log::{PartitionLog, Span};
use super::release::written_for;
use super::topics::Topic;
use super::{Broker, Outcome};

/// What a partition's part of the answer will be.
enum Readable<'a> {
    /// Bytes may be read up to an offset.
    Until(&'a PartitionLog, i64),
    Error(ErrorCode),
    /// The client's log went another way (KIP-320): largest common epoch and where it ended.
    Diverged(&'a PartitionLog, i32, i64),
}

impl Broker {
    pub(super) fn fetch(
        &mut self,
        now: Instant,
        reply: &Reply,
        request: FetchRequest,
        deadline: Option<Instant>,
    ) -> Outcome {
        // One that waited is in its session already.
        let request = match deadline {
            None if reply.version >= 7 => match self.sessions.open(request) {
                Ok(request) => request,
                Err(error) => return FetchResponse::default().with_error_code(error.0).into(),
            },
            _ => request,
        };
        let wait = u64::try_from(request.max_wait_ms).map_or(Duration::ZERO, Duration::from_millis);
        let deadline = deadline.unwrap_or(now + wait);
        if now < deadline && !self.has_enough(reply, &request) {
            return Outcome::Wait(Wait::Fetch { reply: reply.clone(), request, deadline });
        }
        let response = self.read(reply, &request);
        match reply.version {
            7.. => self.sessions.close(&request, response).into(),
            _ => response.into(),
        }
    }

    /// Whether a Fetch is to be answered before its time is over.
    fn has_enough(&self, reply: &Reply, request: &FetchRequest) -> bool {
        let wanted = u64::try_from(request.min_bytes).unwrap_or(0);
        let mut available = 0;
        let mut asked = false;
        for (topic, partition) in partitions(request) {
            asked = true;
            match self.readable(reply, request, topic, partition) {
                Readable::Until(log, end) => {
                    let limit = u64::try_from(partition.partition_max_bytes).unwrap_or(0);
                    let there = log.bytes_between(partition.fetch_offset, end);
                    available += if there > 0 { there.min(limit.max(1)) } else { 0 };
                }
                Readable::Error(_) | Readable::Diverged(..) => return true,
            }
        }
        !asked || available >= wanted
    }

    fn topic_of(&self, version: i16, topic: &FetchTopic) -> Result<&Topic, ErrorCode> {
        if version >= 13 {
            let name = self.topics.name_of(topic.topic_id).ok_or(ErrorCode::UNKNOWN_TOPIC_ID)?;
            return self.topics.by_name(name).ok_or(ErrorCode::UNKNOWN_TOPIC_ID);
        }
        self.topics.by_name(&topic.topic.0).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
    }

    fn readable(
        &self,
        reply: &Reply,
        request: &FetchRequest,
        topic: &FetchTopic,
        partition: &FetchPartition,
    ) -> Readable<'_> {
        let (node, version) = (reply.node, reply.version);
        let topic = match self.topic_of(version, topic) {
            Ok(topic) => topic,
            Err(error) => return Readable::Error(error),
        };
        let Some(log) = topic.partition(partition.partition) else {
            return Readable::Error(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        };
        if topic.leader(partition.partition, &self.config) != Some(node) {
            return Readable::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if let Err(error) = check_leader_epoch(log, partition.current_leader_epoch) {
            return Readable::Error(error);
        }
        if partition.last_fetched_epoch >= 0 {
            match log.epoch_end(partition.last_fetched_epoch) {
                None => return Readable::Error(ErrorCode::OFFSET_OUT_OF_RANGE),
                Some((epoch, end)) => {
                    if epoch < partition.last_fetched_epoch || end < partition.fetch_offset {
                        return Readable::Diverged(log, epoch, end);
                    }
                }
            }
        }
        if partition.fetch_offset < log.start() || partition.fetch_offset > log.end() {
            return Readable::Error(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        Readable::Until(log, if request.isolation_level == 1 { log.stable() } else { log.end() })
    }

    fn read(&self, reply: &Reply, request: &FetchRequest) -> FetchResponse {
        let mut room = usize::try_from(request.max_bytes).unwrap_or(0);
        let mut empty = true;
        let mut answers = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut parts = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let data = self.read_partition(reply, request, topic, partition, room, empty);
                let len = data.records.as_ref().map_or(0, Bytes::len);
                room = room.saturating_sub(len);
                empty &= len == 0;
                parts.push(data);
            }
            let answer = FetchableTopicResponse::default().with_partitions(parts);
            answers.push(match reply.version {
                13.. => answer.with_topic_id(topic.topic_id),
                _ => answer.with_topic(topic.topic.clone()),
            });
        }
        FetchResponse::default().with_responses(answers)
    }

    fn read_partition(
        &self,
        reply: &Reply,
        request: &FetchRequest,
        topic: &FetchTopic,
        partition: &FetchPartition,
        room: usize,
        at_least_one: bool,
    ) -> PartitionData {
        let version = reply.version;
        let data = PartitionData::default()
            .with_partition_index(partition.partition)
            .with_records(Some(Bytes::new()));
        let bounds = |data: PartitionData, log: &PartitionLog| {
            data.with_high_watermark(log.end())
                .with_last_stable_offset(log.stable())
                .with_log_start_offset(if version >= 5 { log.start() } else { -1 })
        };
        let (log, end) = match self.readable(reply, request, topic, partition) {
            Readable::Error(error) => {
                return data
                    .with_error_code(error.0)
                    .with_aborted_transactions(None)
                    .with_high_watermark(-1)
                    .with_last_stable_offset(-1)
                    .with_log_start_offset(-1);
            }
            Readable::Diverged(log, epoch, end) => {
                let diverging = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
                return bounds(data, log).with_diverging_epoch(diverging);
            }
            Readable::Until(log, end) => (log, end),
        };
        let slice = log.read(Span {
            from: partition.fetch_offset,
            end,
            max_bytes: usize::try_from(partition.partition_max_bytes).unwrap_or(0).min(room),
            at_least_one,
            partial: self.config.partial_batches,
        });
        let aborted = (request.isolation_level == 1).then(|| {
            let until = slice.next.unwrap_or(partition.fetch_offset);
            log.aborted_between(partition.fetch_offset, until)
                .map(|aborted| {
                    AbortedTransaction::default()
                        .with_producer_id(aborted.producer_id.into())
                        .with_first_offset(aborted.first)
                })
                .collect()
        });
        let records = written_for(version, slice.join());
        bounds(data, log).with_aborted_transactions(aborted).with_records(Some(records))
    }
}

/// Compares the leader epoch a client knows with the partition's (KIP-320); -1 is not compared.
pub(super) fn check_leader_epoch(log: &PartitionLog, known: i32) -> Result<(), ErrorCode> {
    match known {
        ..=-1 => Ok(()),
        known if known < log.leader_epoch() => Err(ErrorCode::FENCED_LEADER_EPOCH),
        known if known > log.leader_epoch() => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        _ => Ok(()),
    }
}

fn partitions(request: &FetchRequest) -> impl Iterator<Item = (&FetchTopic, &FetchPartition)> {
    request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
}
