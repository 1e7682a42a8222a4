//! The transaction APIs: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, WriteTxnMarkers, and those that
//! describe.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use milena_protocol::ErrorCode;
use milena_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use milena_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use milena_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use milena_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use milena_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse, WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
};
use milena_protocol::records::ControlKind;

use super::Broker;
use super::config::TransactionVersion;
use super::coordinator::{End, Generation, Identity, Init, Partition};
use super::groups::{OFFSETS_TOPIC, offsets_partition};

/// How long to wait before markers are tried again on a partition without leader.
const MARKER_RETRY: Duration = Duration::from_millis(100);

/// The epoch of the only coordinator there is.
const COORDINATOR_EPOCH: i32 = 0;

impl Broker {
    pub(super) fn init_producer_id(
        &mut self,
        now: Instant,
        version: i16,
        request: &InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        match self.init(now, request) {
            Ok(identity) => InitProducerIdResponse::default()
                .with_producer_id(identity.id.into())
                .with_producer_epoch(identity.epoch),
            Err(error) => InitProducerIdResponse::default()
                .with_error_code(fenced_before(version, 4, error).0)
                .with_producer_id((-1).into())
                .with_producer_epoch(-1),
        }
    }

    fn init(&mut self, now: Instant, request: &InitProducerIdRequest) -> Result<Identity, ErrorCode> {
        let (id, epoch) = (request.producer_id.0, request.producer_epoch);
        if (id == -1) != (epoch == -1) {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let Some(transactional_id) = &request.transactional_id else {
            return Ok(Identity { id: self.coordinator.new_producer_id(), epoch: 0 });
        };
        if transactional_id.0.is_empty() {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let limit = i32::try_from(self.config.max_transaction_timeout.as_millis()).unwrap_or(i32::MAX);
        if request.transaction_timeout_ms <= 0 || request.transaction_timeout_ms > limit {
            return Err(ErrorCode::INVALID_TRANSACTION_TIMEOUT);
        }
        let expected = (id != -1).then_some(Identity { id, epoch });
        match self.coordinator.init(&transactional_id.0, request.transaction_timeout_ms, expected)? {
            Init::Done(identity) => Ok(identity),
            Init::AbortFirst => {
                self.fence(now, &transactional_id.0);
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
        }
    }

    pub(super) fn add_partitions_to_txn(
        &mut self,
        now: Instant,
        version: i16,
        request: &AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        if version <= 3 {
            let identity = Identity {
                id: request.v3_and_below_producer_id.0,
                epoch: request.v3_and_below_producer_epoch,
            };
            let id = request.v3_and_below_transactional_id.0.to_string();
            let topics = &request.v3_and_below_topics;
            let results = self.add_to(now, version, &id, identity, topics, false);
            return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
        }
        let mut results = Vec::new();
        for transaction in &request.transactions {
            let identity = Identity { id: transaction.producer_id.0, epoch: transaction.producer_epoch };
            let id = transaction.transactional_id.0.to_string();
            let topics =
                self.add_to(now, version, &id, identity, &transaction.topics, transaction.verify_only);
            results.push(
                AddPartitionsToTxnResult::default()
                    .with_transactional_id(transaction.transactional_id.clone())
                    .with_topic_results(topics),
            );
        }
        AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
    }

    /// All partitions are added, or none.
    fn add_to(
        &mut self,
        now: Instant,
        version: i16,
        id: &str,
        identity: Identity,
        topics: &[AddPartitionsToTxnTopic],
        verify_only: bool,
    ) -> Vec<AddPartitionsToTxnTopicResult> {
        let mut errors: BTreeMap<Partition, ErrorCode> = BTreeMap::new();
        for topic in topics {
            for &index in &topic.partitions {
                let known = self.topics.partition(&topic.name.0, index).is_some();
                let error = if known { ErrorCode::NONE } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION };
                errors.insert((topic.name.0.to_string(), index), error);
            }
        }
        if errors.values().all(|error| error.is_ok()) {
            let now_ms = self.wall(now);
            if verify_only {
                for (partition, error) in &mut errors {
                    let verified = self.coordinator.verify_partition(id, identity, partition);
                    *error = verified.err().unwrap_or(ErrorCode::NONE);
                }
            } else {
                let partitions: Vec<Partition> = errors.keys().cloned().collect();
                let added = self.coordinator.add_partitions(id, identity, partitions, now_ms);
                if let Err(error) = added {
                    let error = fenced_before(version, 2, error);
                    errors.values_mut().for_each(|told| *told = error);
                }
            }
        } else {
            let untried = |error: &&mut ErrorCode| error.is_ok();
            errors.values_mut().filter(untried).for_each(|e| *e = ErrorCode::OPERATION_NOT_ATTEMPTED);
        }
        let told = |topic: &AddPartitionsToTxnTopic, index: i32| {
            errors.get(&(topic.name.0.to_string(), index)).map_or(0, |error| error.0)
        };
        let result = |topic: &AddPartitionsToTxnTopic| {
            let partitions = topic.partitions.iter().map(|&index| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(index)
                    .with_partition_error_code(told(topic, index))
            });
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(partitions.collect())
        };
        topics.iter().map(result).collect()
    }

    pub(super) fn add_offsets_to_txn(
        &mut self,
        now: Instant,
        version: i16,
        request: &AddOffsetsToTxnRequest,
    ) -> AddOffsetsToTxnResponse {
        let identity = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
        let partition = (OFFSETS_TOPIC.to_owned(), offsets_partition(&request.group_id.0));
        let now_ms = self.wall(now);
        let id = &request.transactional_id.0;
        let added = self.coordinator.add_partitions(id, identity, [partition], now_ms);
        let error = added.map_or_else(|error| fenced_before(version, 2, error), |()| ErrorCode::NONE);
        AddOffsetsToTxnResponse::default().with_error_code(error.0)
    }

    pub(super) fn end_txn(&mut self, now: Instant, version: i16, request: &EndTxnRequest) -> EndTxnResponse {
        let id = &request.transactional_id.0;
        let identity = Identity { id: request.producer_id.0, epoch: request.producer_epoch };
        let generation = if version >= 5 { Generation::V2 } else { Generation::V1 };
        let due = now + self.config.marker_delay;
        let now_ms = self.wall(now);
        let ended = if id.is_empty() {
            Err(ErrorCode::INVALID_REQUEST)
        } else {
            self.coordinator.end(id, identity, request.committed, generation, due, now_ms)
        };
        let response = EndTxnResponse::default();
        match ended {
            Ok(End::Begun(next) | End::Repeated(next)) => {
                self.write_markers_now(now, id);
                if version >= 5 {
                    response.with_producer_id(next.id.into()).with_producer_epoch(next.epoch)
                } else {
                    response
                }
            }
            Err(error) => response.with_error_code(fenced_before(version, 2, error).0),
        }
    }

    /// Aborts a transaction on the broker's own account.
    fn fence(&mut self, now: Instant, id: &str) {
        let generation = match self.config.transaction_version {
            TransactionVersion::V1 => Generation::V1,
            TransactionVersion::V2 => Generation::V2,
        };
        self.coordinator.fence(id, generation, now + self.config.marker_delay);
        self.write_markers_now(now, id);
    }

    /// Writes the markers of a transaction if they are due at once, or if it has none.
    fn write_markers_now(&mut self, now: Instant, id: &str) {
        let Some((_, _, partitions)) = self.coordinator.ending(id) else { return };
        if self.config.marker_delay.is_zero() || partitions.is_empty() {
            self.write_markers(now, id);
        }
    }

    pub(super) fn write_due_markers(&mut self, now: Instant) {
        for id in self.coordinator.due(now) {
            self.write_markers(now, &id);
        }
    }

    fn write_markers(&mut self, now: Instant, id: &str) {
        let Some((commit, identity, partitions)) = self.coordinator.ending(id) else { return };
        let now_ms = self.wall(now);
        for partition in partitions {
            let (name, index) = &partition;
            let topic = self.topics.by_name_mut(name);
            if topic.as_ref().is_some_and(|topic| topic.leaderless.contains(index)) {
                continue;
            }
            let lost = topic.is_some_and(|topic| topic.lost_markers.remove(index));
            if !lost {
                let kind = if commit { ControlKind::Commit } else { ControlKind::Abort };
                // A deleted topic takes no marker and holds nothing up.
                let _ = self.write_marker(name, *index, identity, kind, COORDINATOR_EPOCH, now_ms);
            }
            self.coordinator.on_marker(id, &partition);
        }
        self.coordinator.complete(id, now + MARKER_RETRY);
        self.touched = true;
    }

    fn write_marker(
        &mut self,
        topic: &str,
        index: i32,
        identity: Identity,
        kind: ControlKind,
        coordinator_epoch: i32,
        now_ms: i64,
    ) -> Result<(), ErrorCode> {
        if topic == OFFSETS_TOPIC {
            self.groups.on_marker(index, identity.id, kind);
            return Ok(());
        }
        let log = self.topics.partition_mut(topic, index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        log.end_transaction(identity.id, identity.epoch, kind, coordinator_epoch, now_ms)?;
        self.touched = true;
        Ok(())
    }

    /// The periodic look for transactions that took too long.
    pub(super) fn abort_expired_transactions(&mut self, now: Instant) {
        let interval = self.config.transaction_check_interval.max(Duration::from_millis(1));
        if now.saturating_duration_since(self.checked) < interval {
            return;
        }
        // The checks stay on the beat that began with the broker, however late this call is.
        let beats = now.saturating_duration_since(self.started).as_nanos() / interval.as_nanos();
        let into_beat = now.saturating_duration_since(self.started).as_nanos() - beats * interval.as_nanos();
        let into_beat = Duration::from_nanos(u64::try_from(into_beat).unwrap_or(0));
        self.checked = now.checked_sub(into_beat).unwrap_or(now);
        self.abort_expired(now);
    }

    pub(super) fn abort_expired(&mut self, now: Instant) {
        let now_ms = self.wall(now);
        for id in self.coordinator.expired(now_ms) {
            self.fence(now, &id);
        }
    }

    pub(super) fn write_txn_markers(
        &mut self,
        now: Instant,
        request: &WriteTxnMarkersRequest,
    ) -> WriteTxnMarkersResponse {
        let now_ms = self.wall(now);
        let mut answers = Vec::new();
        for marker in &request.markers {
            answers.push(self.write_forced_marker(marker, now_ms));
        }
        WriteTxnMarkersResponse::default().with_markers(answers)
    }

    fn write_forced_marker(&mut self, marker: &WritableTxnMarker, now_ms: i64) -> WritableTxnMarkerResult {
        let identity = Identity { id: marker.producer_id.0, epoch: marker.producer_epoch };
        let kind = if marker.transaction_result { ControlKind::Commit } else { ControlKind::Abort };
        let mut topics = Vec::new();
        for topic in &marker.topics {
            let mut partitions = Vec::new();
            for &index in &topic.partition_indexes {
                let written =
                    self.write_marker(&topic.name.0, index, identity, kind, marker.coordinator_epoch, now_ms);
                partitions.push(
                    WritableTxnMarkerPartitionResult::default()
                        .with_partition_index(index)
                        .with_error_code(written.err().unwrap_or(ErrorCode::NONE).0),
                );
            }
            topics.push(
                WritableTxnMarkerTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        WritableTxnMarkerResult::default().with_producer_id(marker.producer_id).with_topics(topics)
    }
}

/// Old versions of a request have INVALID_PRODUCER_EPOCH for PRODUCER_FENCED.
fn fenced_before(version: i16, first: i16, error: ErrorCode) -> ErrorCode {
    if version < first && error == ErrorCode::PRODUCER_FENCED {
        ErrorCode::INVALID_PRODUCER_EPOCH
    } else {
        error
    }
}
