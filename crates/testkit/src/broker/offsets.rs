//! APIs about the offsets of a log: ListOffsets, DeleteRecords, OffsetForLeaderEpoch.

use milena_protocol::ErrorCode;
use milena_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use milena_protocol::messages::list_offsets_request::ListOffsetsPartition;
use milena_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use milena_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use milena_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use super::Broker;
use super::fetch::check_leader_epoch;
use super::log::PartitionLog;

/// The special times of ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

impl Broker {
    fn led(&self, node: i32, topic: &str, index: i32) -> Result<&PartitionLog, ErrorCode> {
        let topic = self.topics.by_name(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let log = topic.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        match topic.leader(index, &self.config) {
            Some(leader) if leader == node => Ok(log),
            _ => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        }
    }

    pub(super) fn list_offsets(
        &self,
        node: i32,
        version: i16,
        request: &ListOffsetsRequest,
    ) -> ListOffsetsResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let answer = ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_offset(-1)
                    .with_timestamp(-1)
                    .with_leader_epoch(-1);
                let found = self.led(node, &topic.name.0, partition.partition_index).and_then(|log| {
                    check_leader_epoch(log, partition.current_leader_epoch)?;
                    list_offset(version, log, partition, request.isolation_level == 1)
                });
                match found {
                    Ok(Some((offset, timestamp, epoch))) => answer
                        .with_offset(offset)
                        .with_timestamp(timestamp)
                        .with_leader_epoch(if version >= 4 { epoch } else { -1 }),
                    Ok(None) => answer,
                    Err(error) => answer.with_error_code(error.0),
                }
            });
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    pub(super) fn delete_records(
        &mut self,
        node: i32,
        request: &DeleteRecordsRequest,
    ) -> DeleteRecordsResponse {
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let answer =
                    DeleteRecordsPartitionResult::default().with_partition_index(partition.partition_index);
                let deleted =
                    self.delete_until(node, &topic.name.0, partition.partition_index, partition.offset);
                partitions.push(match deleted {
                    Ok(low_watermark) => answer.with_low_watermark(low_watermark),
                    Err(error) => answer.with_low_watermark(-1).with_error_code(error.0),
                });
            }
            topics.push(
                DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions),
            );
        }
        DeleteRecordsResponse::default().with_topics(topics)
    }

    fn delete_until(&mut self, node: i32, topic: &str, index: i32, offset: i64) -> Result<i64, ErrorCode> {
        self.led(node, topic, index)?;
        let log = self.topics.partition_mut(topic, index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let offset = if offset == -1 { log.end() } else { offset };
        if offset < 0 || offset > log.end() {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        log.delete_before(offset);
        self.touched = true;
        Ok(log.start())
    }

    pub(super) fn offset_for_leader_epoch(
        &self,
        node: i32,
        request: &OffsetForLeaderEpochRequest,
    ) -> OffsetForLeaderEpochResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let answer = EpochEndOffset::default().with_partition(partition.partition);
                let found = self.led(node, &topic.topic.0, partition.partition).and_then(|log| {
                    check_leader_epoch(log, partition.current_leader_epoch)?;
                    Ok(log.epoch_end(partition.leader_epoch))
                });
                match found {
                    Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch).with_end_offset(end),
                    Ok(None) => answer.with_leader_epoch(-1).with_end_offset(-1),
                    Err(error) => answer.with_leader_epoch(-1).with_end_offset(-1).with_error_code(error.0),
                }
            });
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic.clone())
                .with_partitions(partitions.collect())
        });
        OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
    }
}

/// Offset, timestamp and leader epoch that answer one question.
fn list_offset(
    version: i16,
    log: &PartitionLog,
    partition: &ListOffsetsPartition,
    committed: bool,
) -> Result<Option<(i64, i64, i32)>, ErrorCode> {
    let end = if committed { log.stable() } else { log.end() };
    match partition.timestamp {
        LATEST => Ok(Some((end, -1, log.leader_epoch()))),
        EARLIEST => Ok(Some((log.start(), -1, log.epoch_at(log.start())))),
        EARLIEST_LOCAL if version >= 8 => Ok(Some((log.start(), -1, log.epoch_at(log.start())))),
        // Kafka looks in the whole log and tells nothing if what it finds is not to be read yet.
        MAX_TIMESTAMP if version >= 7 => Ok(log.find_max_timestamp().filter(|(offset, ..)| *offset < end)),
        LATEST_TIERED if version >= 9 => Ok(None),
        // Version 0 finds segments by the time they were last written. There is one here, written just now.
        timestamp if timestamp >= 0 && version == 0 => Ok(None),
        timestamp if timestamp >= 0 => Ok(log.find_timestamp(timestamp, end)),
        _ => Err(ErrorCode::UNSUPPORTED_VERSION),
    }
}
