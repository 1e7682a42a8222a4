//! The in-flight window to one broker: what goes into a Produce request, and whether an answer fits its request.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use milena_protocol::StrBytes;
use milena_protocol::error_code::ErrorCode;
use milena_protocol::messages::ProduceResponse;
use milena_protocol::messages::produce_response::PartitionProduceResponse;
use milena_protocol::types::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicPartition};
use uuid::Uuid;

pub use milena_protocol::produce::TOPIC_IDS_FROM;

/// How many requests may wait for their answers at one broker, and how large each may be.
#[derive(Clone, Debug)]
pub struct Lane {
    max_requests: usize,
    max_bytes: usize,
    in_flight: usize,
}

impl Lane {
    /// A window of `max_requests` requests of up to `max_bytes` bytes of batches each. Both count as at least 1.
    #[must_use]
    pub fn new(max_requests: usize, max_bytes: usize) -> Self {
        Self { max_requests: max_requests.max(1), max_bytes: max_bytes.max(1), in_flight: 0 }
    }

    /// Whether another request may go out now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.in_flight < self.max_requests
    }

    /// How many requests wait for their answers.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether a batch of `next` bytes may join a request that holds `taken` bytes. The first batch always may: a batch that
    /// is larger than a request goes alone.
    #[must_use]
    pub fn fits(&self, taken: usize, next: usize) -> bool {
        taken == 0 || taken.saturating_add(next) <= self.max_bytes
    }

    /// A request went out.
    pub fn on_sent(&mut self) {
        self.in_flight += 1;
    }

    /// A request was answered, or its answer was lost.
    pub fn on_settled(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

/// One batch in a request.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where it goes.
    pub tp: TopicPartition,
    /// The topic's id, if the cluster gave one.
    pub topic_id: Option<Uuid>,
    /// The encoded batch.
    pub batch: Bytes,
}

impl milena_protocol::produce::Part for Part {
    fn topic(&self) -> &str {
        &self.tp.topic
    }

    fn topic_id(&self) -> Option<Uuid> {
        self.topic_id
    }

    fn partition(&self) -> PartitionId {
        self.tp.partition
    }

    fn batch(&self) -> &Bytes {
        &self.batch
    }
}

/// What a broker said about one batch.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The code.
    pub code: ErrorCode,
    /// The broker's text, if any.
    pub message: Option<String>,
    /// The offset of the batch's first record, when the broker names it.
    pub base_offset: Option<Offset>,
    /// When the broker appended it, for topics with LogAppendTime; ms since 1970.
    pub log_append_time: Option<i64>,
    /// Who leads the partition now, if the broker says so (KIP-951).
    pub leader: Option<(BrokerId, LeaderEpoch)>,
    /// Which records of the batch were refused, and why (KIP-467).
    pub refused: Vec<(u32, Option<String>)>,
}

/// An answer to another question than the one asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

/// Reads the answers to `parts`, in the order of `parts`. Brokers answer in an order of their own.
///
/// # Errors
/// A partition is missing, was not asked about or is answered twice, or a success names no offset.
pub fn process_response(
    parts: &[Part],
    response: &ProduceResponse,
    version: i16,
) -> Result<Vec<Answer>, Mismatch> {
    let by_id = version >= TOPIC_IDS_FROM;
    let mut places: HashMap<(Uuid, &str, i32), usize> = HashMap::with_capacity(parts.len());
    for (place, part) in parts.iter().enumerate() {
        let key = match part.topic_id.filter(|_| by_id) {
            Some(id) => (id, "", part.tp.partition.0),
            None => (Uuid::nil(), &*part.tp.topic, part.tp.partition.0),
        };
        places.insert(key, place);
    }
    let mut answers: Vec<Option<Answer>> = vec![None; parts.len()];
    for topic in &response.responses {
        for partition in &topic.partition_responses {
            let key = if by_id && !topic.topic_id.is_nil() {
                (topic.topic_id, "", partition.index)
            } else {
                (Uuid::nil(), topic.name.as_str(), partition.index)
            };
            let asked = places.get(&key).and_then(|&place| answers.get_mut(place));
            let Some(slot) = asked else {
                return Err(Mismatch(format!(
                    "the answer names {} {}-{}, which was not asked about, or twice",
                    topic.topic_id,
                    topic.name.as_str(),
                    partition.index
                )));
            };
            if slot.is_some() {
                return Err(Mismatch(format!("partition {} is answered twice", partition.index)));
            }
            *slot = Some(read_answer(partition)?);
        }
    }
    let unanswered = |place: usize| {
        let tp = parts.get(place).map(|part| part.tp.to_string()).unwrap_or_default();
        Mismatch(format!("the answer lacks {tp}"))
    };
    answers.into_iter().enumerate().map(|(place, answer)| answer.ok_or_else(|| unanswered(place))).collect()
}

fn read_answer(partition: &PartitionProduceResponse) -> Result<Answer, Mismatch> {
    let code = ErrorCode(partition.error_code);
    if code.is_ok() && partition.base_offset < 0 {
        return Err(Mismatch(format!(
            "partition {} was written at offset {}",
            partition.index, partition.base_offset
        )));
    }
    let leader = &partition.current_leader;
    let text = |text: &Option<StrBytes>| text.as_ref().map(|text| text.to_string());
    Ok(Answer {
        code,
        message: text(&partition.error_message),
        base_offset: (code.is_ok()).then_some(Offset(partition.base_offset)),
        log_append_time: (partition.log_append_time_ms >= 0).then_some(partition.log_append_time_ms),
        leader: (leader.leader_id.0 >= 0)
            .then_some((BrokerId(leader.leader_id.0), LeaderEpoch(leader.leader_epoch))),
        refused: partition
            .record_errors
            .iter()
            .filter_map(|bad| {
                Some((u32::try_from(bad.batch_index).ok()?, text(&bad.batch_index_error_message)))
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::messages::TopicName;
    use milena_protocol::messages::produce_response::TopicProduceResponse;

    fn part(topic: &str, partition: i32, id: u128) -> Part {
        Part {
            tp: TopicPartition::new(topic, PartitionId(partition)),
            topic_id: Some(Uuid::from_u128(id)),
            batch: Bytes::from(format!("{topic}{partition}")),
        }
    }

    /// What a broker says: each part at offset `100 * place`, in reverse order.
    fn echo(parts: &[Part], version: i16) -> ProduceResponse {
        let topics = parts.iter().enumerate().rev().map(|(place, part)| {
            let partition = PartitionProduceResponse::default()
                .with_index(part.tp.partition.0)
                .with_base_offset(100 * (place as i64 + 1));
            let topic = TopicProduceResponse::default().with_partition_responses(vec![partition]);
            if version >= TOPIC_IDS_FROM {
                topic.with_topic_id(part.topic_id.unwrap())
            } else {
                topic.with_name(TopicName(StrBytes::from_string(part.tp.topic.to_string())))
            }
        });
        ProduceResponse::default().with_responses(topics.collect())
    }

    #[test]
    fn answers_come_back_in_the_order_of_the_parts() {
        let parts = [part("a", 0, 1), part("b", 0, 2), part("a", 1, 1)];
        for version in [3, 12, 13] {
            let answers = process_response(&parts, &echo(&parts, version), version).unwrap();
            let offsets: Vec<i64> = answers.iter().map(|a| a.base_offset.unwrap().0).collect();
            assert_eq!(offsets, [100, 200, 300]);
        }
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let parts = [part("a", 0, 1), part("a", 1, 1)];
        for version in [11, 13] {
            let good = echo(&parts, version);
            let mut missing = good.clone();
            missing.responses[0].partition_responses.pop();
            let mut twice = good.clone();
            twice.responses[0].partition_responses[0].index = 0;
            let mut foreign = good.clone();
            foreign.responses[0].partition_responses[0].index = 9;
            let mut other_topic = good.clone();
            other_topic.responses[0].name = TopicName(StrBytes::from_static_str("z"));
            other_topic.responses[0].topic_id = Uuid::from_u128(77);
            let mut no_offset = good.clone();
            no_offset.responses[0].partition_responses[0].base_offset = -1;
            for bad in [missing, twice, foreign, other_topic, no_offset] {
                assert!(process_response(&parts, &bad, version).is_err());
            }
            assert!(process_response(&parts, &good, version).is_ok());
        }
    }

    #[test]
    fn the_window_counts_requests_and_a_large_batch_goes_alone() {
        let mut lane = Lane::new(2, 100);
        assert!(lane.fits(0, 1_000) && lane.fits(60, 40) && !lane.fits(60, 41));
        lane.on_sent();
        assert!(lane.is_open());
        lane.on_sent();
        assert!(!lane.is_open());
        lane.on_settled();
        assert!(lane.is_open());
        assert_eq!(lane.in_flight(), 1);
    }
}
