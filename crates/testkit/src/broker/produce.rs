//! Produce: appending batches to logs, with the checks of KIP-98 and KIP-890.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::produce_request::PartitionProduceData;
use milena_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use milena_protocol::messages::{ProduceRequest, ProduceResponse, RequestKind};
use milena_protocol::records::{RecordBatch, set_log_append_time};
use milena_protocol::{ErrorCode, ErrorKind, StrBytes};

use super::connection::{Reply, Wait};
use super::coordinator::Identity;
use super::log::{Appended, PartitionLog};
use super::nodes::Held;
use super::producer_state::UnknownProducer;
use super::release::read_produced;
use super::topics::Topic;
use super::{Broker, MARKER_PATIENCE, Outcome};

/// From this version on, Produce adds partitions to the transaction by itself (KIP-890).
const IMPLICIT_ADD: i16 = 12;

/// From this version on, TRANSACTION_ABORTABLE is understood.
const ABORTABLE: i16 = 11;

/// Where a batch landed.
#[derive(Clone, Copy)]
struct Landed {
    base_offset: i64,
    /// The offset behind the batch.
    next_offset: i64,
    log_append_time: i64,
    log_start: i64,
}

/// What all partitions of a request share.
#[derive(Clone, Copy)]
struct Context<'a> {
    version: i16,
    /// The node that was asked.
    node: i32,
    acks: i16,
    transactional_id: Option<&'a str>,
    now_ms: i64,
}

impl Broker {
    pub(super) fn produce(
        &mut self,
        now: Instant,
        reply: &Reply,
        request: ProduceRequest,
        deadline: Option<Instant>,
    ) -> Outcome {
        let waiting = deadline.is_none_or(|deadline| now < deadline);
        if waiting && reply.version >= IMPLICIT_ADD && self.must_wait_for_markers(&request) {
            let deadline = deadline.unwrap_or(now + MARKER_PATIENCE);
            let request = Box::new(RequestKind::Produce(request));
            return Outcome::Wait(Wait::Retry { reply: reply.clone(), request, deadline });
        }
        let acks = request.acks;
        let transactional_id = request.transactional_id.as_ref().map(|id| id.0.to_string());
        let context = Context {
            version: reply.version,
            node: reply.node,
            acks,
            transactional_id: transactional_id.as_deref(),
            now_ms: self.wall(now),
        };
        let mut held = Vec::new();
        let mut answers = Vec::with_capacity(request.topic_data.len());
        for topic in request.topic_data {
            let name = match reply.version {
                13.. => self.topics.name_of(topic.topic_id).map(str::to_owned),
                _ => Some(topic.name.0.to_string()),
            };
            let partitions = topic.partition_data.into_iter().map(|partition| {
                let index = partition.index;
                let landed = match &name {
                    Some(name) => {
                        let landed = self.append(now, context, name, partition);
                        if let Ok(landed) = &landed {
                            held.push(self.held(name, index, landed));
                        }
                        landed
                    }
                    None => Err(ErrorCode::UNKNOWN_TOPIC_ID),
                };
                partition_response(reply.version, index, landed)
            });
            let partitions = partitions.collect();
            let answer = TopicProduceResponse::default().with_partition_responses(partitions);
            answers.push(match reply.version {
                13.. => answer.with_topic_id(topic.topic_id),
                _ => answer.with_name(topic.name),
            });
        }
        if acks == 0 {
            // Kafka closes the connection if a batch that nobody waits for was refused.
            let refused = |answer: &TopicProduceResponse| {
                answer.partition_responses.iter().any(|partition| partition.error_code != 0)
            };
            return if answers.iter().any(refused) { Outcome::Close } else { Outcome::NoAnswer };
        }
        let response = ProduceResponse::default().with_responses(answers);
        if acks == 1 || self.config.replication_lag.is_zero() {
            return response.into();
        }
        self.when_replicated(reply, Box::new(response), held)
    }

    /// Up to where the followers must have a log before a batch in it is acknowledged.
    fn held(&self, topic: &str, partition: i32, landed: &Landed) -> Held {
        let epoch = self.topics.partition(topic, partition).map_or(0, PartitionLog::leader_epoch);
        Held { topic: topic.to_owned(), partition, end: landed.next_offset, epoch }
    }

    /// Whether the transactional id is between EndTxn and its markers.
    fn must_wait_for_markers(&self, request: &ProduceRequest) -> bool {
        request.transactional_id.as_ref().is_some_and(|id| self.coordinator.is_ending(&id.0))
    }

    fn append(
        &mut self,
        now: Instant,
        context: Context<'_>,
        name: &str,
        data: PartitionProduceData,
    ) -> Result<Landed, ErrorCode> {
        if !matches!(context.acks, -1..=1) {
            return Err(ErrorCode::INVALID_REQUIRED_ACKS);
        }
        let topic = self.topics.by_name(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let log = topic.partition(data.index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if topic.leader(data.index, &self.config) != Some(context.node) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        let log_start = log.start();
        let records = read_produced(context.version, data.records.unwrap_or_default())?;
        let mut batch = self.check_batch(topic, context.acks, records)?;
        self.join_transaction(now, context, name, data.index, &batch)?;
        let topic = self.topics.by_name_mut(name).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let mut log_append_time = -1;
        if topic.config("message.timestamp.type") == Some("LogAppendTime") {
            batch = stamped(&batch, context.now_ms)?;
            log_append_time = context.now_ms;
        }
        let unknown = if self.config.strict_unknown_producer {
            UnknownProducer::Refuse
        } else if batch.is_transactional() && context.version >= IMPLICIT_ADD {
            UnknownProducer::FromZero
        } else {
            UnknownProducer::Accept
        };
        let log = topic.partition_mut(data.index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let records = batch.next_offset() - batch.base_offset();
        let landed = |base_offset, log_append_time| Landed {
            base_offset,
            next_offset: base_offset + records,
            log_append_time,
            log_start,
        };
        match log.append(&batch, unknown)? {
            Appended::At(base_offset) => {
                self.touched = true;
                self.on_appended(now, name, data.index);
                Ok(landed(base_offset, log_append_time))
            }
            // Kafka tells the time of the batch that is there already in this place.
            Appended::Duplicate { base_offset, timestamp } => Ok(landed(base_offset, timestamp)),
        }
    }

    /// Checks a batch by itself: a request carries exactly one, of format 2 (once it was read).
    fn check_batch(&self, topic: &Topic, acks: i16, mut bytes: Bytes) -> Result<RecordBatch, ErrorCode> {
        let size = bytes.len();
        let batch = match RecordBatch::parse(&mut bytes) {
            Ok(Some(batch)) if bytes.is_empty() && batch.magic() == 2 => batch,
            Ok(Some(_)) => return Err(ErrorCode::INVALID_RECORD),
            Ok(None) => return Err(ErrorCode::INVALID_RECORD),
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(ErrorCode::INVALID_RECORD),
            Err(_) => return Err(ErrorCode::CORRUPT_MESSAGE),
        };
        let limit = topic.config("max.message.bytes").and_then(|limit| limit.parse().ok());
        if size > limit.unwrap_or(self.config.max_message_bytes) {
            return Err(ErrorCode::MESSAGE_TOO_LARGE);
        }
        batch.verify_crc().map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
        let insync = topic.config("min.insync.replicas").and_then(|count| count.parse::<i32>().ok());
        if acks == -1 && insync.is_some_and(|count| count > 1) {
            return Err(ErrorCode::NOT_ENOUGH_REPLICAS);
        }
        let records = i64::from(batch.record_count());
        if batch.is_control() || records == 0 || batch.next_offset() - batch.base_offset() != records {
            return Err(ErrorCode::INVALID_RECORD);
        }
        if batch.producer_id().is_some() && batch.base_sequence().is_none() {
            return Err(ErrorCode::INVALID_RECORD);
        }
        if self.config.validate_records {
            let compacted = topic.config("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
            check_records(&batch, compacted)?;
        }
        Ok(batch)
    }

    /// Makes sure that the batch's partition is in the transaction: added implicitly, or before.
    fn join_transaction(
        &mut self,
        now: Instant,
        context: Context<'_>,
        topic: &str,
        index: i32,
        batch: &RecordBatch,
    ) -> Result<(), ErrorCode> {
        if !batch.is_transactional() {
            return Ok(());
        }
        let (Some(producer_id), Some(epoch)) = (batch.producer_id(), batch.producer_epoch()) else {
            return Err(ErrorCode::INVALID_RECORD);
        };
        let identity = Identity { id: producer_id.0, epoch: epoch.0 };
        let transactional_id =
            context.transactional_id.ok_or(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED)?;
        let open =
            self.topics.partition(topic, index).is_some_and(|log| log.has_open(identity.id, identity.epoch));
        if open {
            return Ok(());
        }
        let partition = (topic.to_owned(), index);
        if context.version >= IMPLICIT_ADD {
            let now_ms = self.wall(now);
            self.coordinator
                .add_partitions(transactional_id, identity, [partition], now_ms)
                .map_err(fenced_as_epoch)
        } else {
            self.coordinator.verify_partition(transactional_id, identity, &partition).map_err(|error| {
                match fenced_as_epoch(error) {
                    ErrorCode::CONCURRENT_TRANSACTIONS => ErrorCode::NOT_ENOUGH_REPLICAS,
                    ErrorCode::TRANSACTION_ABORTABLE if context.version < ABORTABLE => {
                        ErrorCode::INVALID_TXN_STATE
                    }
                    error => error,
                }
            })
        }
    }
}

/// Produce and TxnOffsetCommit say INVALID_PRODUCER_EPOCH where the coordinator says PRODUCER_FENCED.
pub(super) fn fenced_as_epoch(error: ErrorCode) -> ErrorCode {
    if error == ErrorCode::PRODUCER_FENCED { ErrorCode::INVALID_PRODUCER_EPOCH } else { error }
}

fn check_records(batch: &RecordBatch, keys_needed: bool) -> Result<(), ErrorCode> {
    let records = batch.records().map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
    let mut expected = batch.base_offset();
    for record in records.iter() {
        let record = record.map_err(|_| ErrorCode::INVALID_RECORD)?;
        if record.offset != expected || (keys_needed && record.key.is_none()) {
            return Err(ErrorCode::INVALID_RECORD);
        }
        expected += 1;
    }
    if expected == batch.next_offset() { Ok(()) } else { Err(ErrorCode::INVALID_RECORD) }
}

fn stamped(batch: &RecordBatch, now_ms: i64) -> Result<RecordBatch, ErrorCode> {
    let mut bytes = BytesMut::from(batch.as_bytes().as_ref());
    set_log_append_time(&mut bytes, now_ms).map_err(|_| ErrorCode::CORRUPT_MESSAGE)?;
    match RecordBatch::parse(&mut bytes.freeze()) {
        Ok(Some(batch)) => Ok(batch),
        _ => Err(ErrorCode::CORRUPT_MESSAGE),
    }
}

fn partition_response(
    version: i16,
    index: i32,
    landed: Result<Landed, ErrorCode>,
) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default().with_index(index).with_log_append_time_ms(-1);
    match landed {
        Ok(landed) => answer
            .with_base_offset(landed.base_offset)
            .with_log_append_time_ms(landed.log_append_time)
            .with_log_start_offset(if version >= 5 { landed.log_start } else { -1 }),
        Err(error) => answer
            .with_base_offset(-1)
            .with_error_code(error.0)
            .with_error_message((version >= 8).then(|| StrBytes::from_static_str(error.message()))),
    }
}
