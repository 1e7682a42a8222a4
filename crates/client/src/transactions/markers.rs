//! Markers by hand: the last resort for a partition that the coordinator left without one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::future::join_all;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use milena_protocol::messages::{ProducerId as WireProducerId, TopicName, WriteTxnMarkersRequest};
use milena_protocol::types::{BrokerId, ProducerEpoch, ProducerId, TopicPartition};

use super::{PreparedTransaction, TransactionVersion, Transactions};
use crate::call::Target;
use crate::error::{Error, Result};

/// A marker to be written by an administrator (KIP-664).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedMarker {
    /// The producer id of the transaction.
    pub producer_id: ProducerId,
    /// The epoch the marker carries: see [`PreparedTransaction::marker_epoch`]. A leader refuses one below the transaction's.
    pub producer_epoch: ProducerEpoch,
    /// Whether readers shall see the records.
    pub commit: bool,
    /// The partitions.
    pub partitions: Vec<TopicPartition>,
}

/// What became of each partition.
pub type MarkersWritten = Vec<(TopicPartition, Result<()>)>;

/// The coordinator's epoch of a marker that no coordinator wrote. A leader takes it unless it saw a real one's marker of this producer id
/// with a higher epoch.
const NO_COORDINATOR: i32 = 0;

impl PreparedTransaction {
    /// The epoch that the coordinator's own marker would carry: one above the transaction's when every end raises it (KIP-890).
    #[must_use]
    pub fn marker_epoch(&self) -> ProducerEpoch {
        match self.version {
            TransactionVersion::V1 => self.producer_epoch,
            TransactionVersion::V2 => ProducerEpoch(self.producer_epoch.0.saturating_add(1)),
        }
    }
}

impl Transactions {
    /// Writes markers behind the coordinator's back (WriteTxnMarkers, brokers since 0.11), which ends the open transaction of this producer id
    /// in these partitions. The coordinator does not notice: if it decides otherwise later, that does not reach the records any more. So this
    /// is only for partitions that the coordinator is done with: see Kafka's `kafka-transactions.sh find-hanging`, which can but abort.
    ///
    /// Takes the right for CLUSTER_ACTION on the cluster.
    ///
    /// # Errors
    /// When a leader is not known or not reached; what a leader says about its partition stands with the partition.
    ///
    /// # Cancellation
    /// Markers may be written all the same.
    pub async fn write_markers(&self, marker: &ForcedMarker) -> Result<MarkersWritten> {
        let mut by_leader: HashMap<BrokerId, Vec<&TopicPartition>> = HashMap::new();
        for tp in &marker.partitions {
            by_leader.entry(self.client.leader(tp).await?).or_default().push(tp);
        }
        let requests = by_leader.into_iter().map(|(leader, tps)| self.write_markers_at(leader, marker, tps));
        let mut written = Vec::new();
        for answer in join_all(requests).await {
            written.extend(answer?);
        }
        Ok(written)
    }

    async fn write_markers_at(
        &self,
        leader: BrokerId,
        marker: &ForcedMarker,
        partitions: Vec<&TopicPartition>,
    ) -> Result<MarkersWritten> {
        let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
        for tp in &partitions {
            topics.entry(&tp.topic).or_default().push(tp.partition.0);
        }
        let topics = topics.into_iter().map(|(name, indexes)| {
            WritableTxnMarkerTopic::default()
                .with_name(TopicName(StrBytes::from_string(name.to_string())))
                .with_partition_indexes(indexes)
        });
        let wire = WritableTxnMarker::default()
            .with_producer_id(WireProducerId(marker.producer_id.0))
            .with_producer_epoch(marker.producer_epoch.0)
            .with_transaction_result(marker.commit)
            .with_coordinator_epoch(NO_COORDINATOR)
            .with_topics(topics.collect());
        let request = WriteTxnMarkersRequest::default().with_markers(vec![wire]);
        let response = self
            .client
            .call(Target::Broker(leader), &request)
            .await
            .map_err(|error| error.with_api("WriteTxnMarkers"))?;
        let codes: HashMap<TopicPartition, ErrorCode> = response
            .markers
            .iter()
            .filter(|answer| answer.producer_id.0 == marker.producer_id.0)
            .flat_map(|answer| &answer.topics)
            .flat_map(|topic| {
                let named = |index| TopicPartition::new(topic.name.as_str(), index);
                topic
                    .partitions
                    .iter()
                    .map(move |found| (named(found.partition_index), ErrorCode(found.error_code)))
            })
            .collect();
        Ok(partitions.into_iter().map(|tp| (tp.clone(), judge(tp, codes.get(tp).copied()))).collect())
    }
}

fn judge(tp: &TopicPartition, code: Option<ErrorCode>) -> Result<()> {
    let error = match code {
        Some(code) if code.is_ok() => return Ok(()),
        Some(code) => Error::broker_code(code, None).with_api("WriteTxnMarkers"),
        None => Error::peer("the answer does not name the partition"),
    };
    Err(error.with_topic_partition(tp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn markers_carry_the_epoch_of_their_generation() {
        let mut transaction = PreparedTransaction {
            transactional_id: String::from("t"),
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(4),
            version: TransactionVersion::V1,
            first_offsets: Vec::new(),
            start_time_ms: None,
            timeout: Duration::from_secs(1),
        };
        assert_eq!(transaction.marker_epoch(), ProducerEpoch(4));
        transaction.version = TransactionVersion::V2;
        assert_eq!(transaction.marker_epoch(), ProducerEpoch(5));
    }

    #[test]
    fn a_partition_without_an_answer_is_not_marked() {
        let tp = TopicPartition::new("t", 0);
        assert!(judge(&tp, Some(ErrorCode::NONE)).is_ok());
        assert!(judge(&tp, None).is_err());
        assert!(judge(&tp, Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED)).is_err());
    }
}
