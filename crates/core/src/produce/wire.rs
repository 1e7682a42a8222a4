//! Produce requests as scatter lists: the small parts are written here, the batches go out as they lie.
//!
//! Format: Kafka protocol guide, "Produce API", versions 3 to 13; the request header is version 1, from Produce 9 on version 2.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::lane::{Part, TOPIC_IDS_FROM};

/// From this version on, lengths are varints and there are tagged fields (KIP-482).
const FLEXIBLE_FROM: i16 = 9;

/// Batches up to this size are copied behind their head: a piece of its own costs more than the copy.
const COPY_BELOW: usize = 4096;

/// The settings of a request that its batches share.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The version; 3 to 13.
    pub version: i16,
    /// The number that the answer repeats.
    pub correlation_id: i32,
    /// The name brokers log.
    pub client_id: &'a str,
    /// 0, 1 or -1 (all in-sync replicas).
    pub acks: i16,
    /// How long the broker may wait for its followers.
    pub timeout: Duration,
    /// The transactional id, if the batches are part of a transaction.
    pub transactional_id: Option<&'a str>,
}

/// Writes a whole request frame with its length, in pieces. Each topic is named once, in the order in which it first
/// occurs. A string over 32,767 bytes is cut there; brokers give no such names.
#[must_use]
pub fn encode_request(head: &Head<'_>, parts: &[Part]) -> Vec<Bytes> {
    let mut out = Pieces {
        done: Vec::new(),
        head: BytesMut::with_capacity(256),
        flexible: head.version >= FLEXIBLE_FROM,
    };
    out.head.put_i32(0);
    out.head.put_i16(0);
    out.head.put_i16(head.version);
    out.head.put_i32(head.correlation_id);
    put_short_string(&mut out.head, head.client_id);
    out.end_of_struct();
    match head.transactional_id {
        Some(id) => out.string(id),
        None if out.flexible => out.head.put_u8(0),
        None => out.head.put_i16(-1),
    }
    out.head.put_i16(head.acks);
    out.head.put_i32(i32::try_from(head.timeout.as_millis()).unwrap_or(i32::MAX));
    let topics = by_topic(parts);
    out.count(topics.len());
    for partitions in topics {
        let Some(first) = partitions.first() else { continue };
        match first.topic_id.filter(|_| head.version >= TOPIC_IDS_FROM) {
            Some(id) => out.head.put_slice(id.as_bytes()),
            None if head.version >= TOPIC_IDS_FROM => out.head.put_slice(&[0; 16]),
            None => out.string(&first.tp.topic),
        }
        out.count(partitions.len());
        for part in partitions {
            out.head.put_i32(part.tp.partition.0);
            out.bytes(&part.batch);
            out.end_of_struct();
        }
        out.end_of_struct();
    }
    out.end_of_struct();
    out.seal()
}

fn by_topic(parts: &[Part]) -> Vec<Vec<&Part>> {
    let mut topics: Vec<Vec<&Part>> = Vec::new();
    let mut places: HashMap<&Arc<str>, usize> = HashMap::new();
    for part in parts {
        let place = *places.entry(&part.tp.topic).or_insert_with(|| {
            topics.push(Vec::new());
            topics.len() - 1
        });
        if let Some(topic) = topics.get_mut(place) {
            topic.push(part);
        }
    }
    topics
}

struct Pieces {
    done: Vec<Bytes>,
    head: BytesMut,
    flexible: bool,
}

impl Pieces {
    fn end_of_struct(&mut self) {
        if self.flexible {
            self.head.put_u8(0);
        }
    }

    fn count(&mut self, count: usize) {
        if self.flexible {
            put_varint(&mut self.head, count as u64 + 1);
        } else {
            self.head.put_i32(count as i32);
        }
    }

    fn string(&mut self, text: &str) {
        if self.flexible {
            put_varint(&mut self.head, text.len() as u64 + 1);
            self.head.put_slice(text.as_bytes());
        } else {
            put_short_string(&mut self.head, text);
        }
    }

    fn bytes(&mut self, bytes: &Bytes) {
        if self.flexible {
            put_varint(&mut self.head, bytes.len() as u64 + 1);
        } else {
            self.head.put_i32(bytes.len() as i32);
        }
        if bytes.len() < COPY_BELOW {
            self.head.put_slice(bytes);
        } else {
            self.done.push(self.head.split().freeze());
            self.done.push(bytes.clone());
        }
    }

    /// Writes the length in front.
    fn seal(mut self) -> Vec<Bytes> {
        let total: usize = self.done.iter().map(Bytes::len).sum::<usize>() + self.head.len();
        let length = (total.saturating_sub(4) as i32).to_be_bytes();
        if !self.head.is_empty() {
            self.done.push(self.head.freeze());
        }
        if let Some(first) = self.done.first_mut() {
            let mut head =
                std::mem::take(first).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            if let Some(place) = head.get_mut(..4) {
                place.copy_from_slice(&length);
            }
            *first = head.freeze();
        }
        self.done
    }
}

fn put_short_string(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes().get(..i16::MAX as usize).unwrap_or(text.as_bytes());
    out.put_i16(bytes.len() as i16);
    out.put_slice(bytes);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use milena_protocol::messages::{ProduceRequest, TopicName, TransactionalId};
    use milena_protocol::types::{PartitionId, TopicPartition};
    use milena_protocol::{StrBytes, encode_request as encode_by_schema};
    use proptest::prelude::*;
    use uuid::Uuid;

    /// The same request by kafka-protocol.
    fn by_schema(head: &Head<'_>, parts: &[Part]) -> Vec<u8> {
        let topics = by_topic(parts)
            .into_iter()
            .map(|partitions| {
                let data = partitions
                    .iter()
                    .map(|part| {
                        PartitionProduceData::default()
                            .with_index(part.tp.partition.0)
                            .with_records(Some(part.batch.clone()))
                    })
                    .collect();
                let topic = TopicProduceData::default().with_partition_data(data);
                if head.version >= TOPIC_IDS_FROM {
                    topic.with_topic_id(partitions[0].topic_id.unwrap())
                } else {
                    topic.with_name(TopicName(StrBytes::from_string(partitions[0].tp.topic.to_string())))
                }
            })
            .collect();
        let request = ProduceRequest::default()
            .with_transactional_id(
                head.transactional_id.map(|id| TransactionalId(StrBytes::from_string(id.to_owned()))),
            )
            .with_acks(head.acks)
            .with_timeout_ms(head.timeout.as_millis() as i32)
            .with_topic_data(topics);
        let mut buf = BytesMut::new();
        encode_by_schema(&mut buf, head.correlation_id, head.client_id, head.version, &request).unwrap();
        buf.to_vec()
    }

    proptest! {
        #[test]
        fn it_is_what_the_schema_says_in_every_version(
            version in 3i16..=13,
            sizes in proptest::collection::vec((0u8..4, 0i32..9, 0usize..9000), 0..12),
            transactional in any::<bool>(),
            acks in -1i16..2,
        ) {
            let parts: Vec<Part> = sizes
                .iter()
                .map(|&(topic, partition, size)| Part {
                    tp: TopicPartition::new(format!("topic-{topic}"), PartitionId(partition)),
                    topic_id: Some(Uuid::from_u128(u128::from(topic) + 1)),
                    batch: Bytes::from(vec![partition as u8; size]),
                })
                .collect();
            let head = Head {
                version,
                correlation_id: 77,
                client_id: "milena",
                acks,
                timeout: Duration::from_millis(1234),
                transactional_id: transactional.then_some("tx"),
            };
            prop_assert_eq!(encode_request(&head, &parts).concat(), by_schema(&head, &parts));
        }
    }

    #[test]
    fn large_batches_are_not_copied() {
        let batch = Bytes::from(vec![1; COPY_BELOW]);
        let part = Part { tp: TopicPartition::new("t", 0), topic_id: None, batch: batch.clone() };
        let head = Head {
            version: 9,
            correlation_id: 1,
            client_id: "",
            acks: -1,
            timeout: Duration::ZERO,
            transactional_id: None,
        };
        let pieces = encode_request(&head, &[part]);
        assert!(pieces.iter().any(|piece| piece.as_ptr() == batch.as_ptr()));
    }
}
