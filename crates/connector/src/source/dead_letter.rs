//! Records that a deserializer refuses, on their way to another topic.

use std::sync::Arc;

use milena::protocol::records::Header;
use milena::{Offset, OwnedHeaderName, Producer, ProducerRecord, TopicPartition};

use super::fetching::{Arrived, Work};
use crate::schema::SourceRecord;
use crate::{BoxError, Error, ErrorKind, Result};

/// The header with the record's topic.
pub const TOPIC_HEADER: &str = "milena.origin.topic";
/// The header with its partition, as decimal text.
pub const PARTITION_HEADER: &str = "milena.origin.partition";
/// The header with its offset, as decimal text.
pub const OFFSET_HEADER: &str = "milena.origin.offset";
/// The header with what is wrong with it.
pub const ERROR_HEADER: &str = "milena.error";

/// A refused record with bytes of its own.
#[derive(Debug)]
pub(super) struct DeadLetter {
    offset: Offset,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(OwnedHeaderName, Option<Vec<u8>>)>,
    error: String,
}

impl DeadLetter {
    pub(super) fn of(record: &SourceRecord<'_>, error: BoxError) -> Self {
        let headers = record.headers.iter();
        Self {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.name.into(), header.value.map(<[u8]>::to_vec))).collect(),
            error: error.to_string(),
        }
    }

    /// Writes it and waits until it is acknowledged.
    async fn write(&self, producer: &Producer, topic: &str, at: &TopicPartition) -> milena::Result<()> {
        let (partition, offset) = (at.partition.0.to_string(), self.offset.0.to_string());
        let own = self.headers.iter().map(|(name, value)| Header::new(name, value.as_deref()));
        let origin = [
            (TOPIC_HEADER, &*at.topic),
            (PARTITION_HEADER, partition.as_str()),
            (OFFSET_HEADER, offset.as_str()),
            (ERROR_HEADER, self.error.as_str()),
        ];
        let origin = origin.map(|(name, value)| Header::new(name, Some(value.as_bytes())));
        let headers: Vec<Header<'_>> = own.chain(origin).collect();
        let record = ProducerRecord {
            topic,
            partition: None,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
            timestamp: (self.timestamp >= 0).then_some(self.timestamp),
        };
        producer.send(record).await?.await?;
        Ok(())
    }
}

/// Writes refused records, in order.
pub(super) fn write(
    producer: &Arc<Producer>,
    topic: &Arc<str>,
    slot: u32,
    at: TopicPartition,
    refused: Vec<DeadLetter>,
) -> Work {
    let (producer, topic) = (Arc::clone(producer), Arc::clone(topic));
    Box::pin(async move {
        for letter in &refused {
            if let Err(error) = letter.write(&producer, &topic, &at).await {
                let text = format!(
                    "the deserializer refuses the record ({}), and it could not be written to the dead-letter topic {topic}",
                    letter.error
                );
                let refusal = Error::new(ErrorKind::Schema, text).with_topic_partition(at);
                let answer = Err(refusal.with_offset(letter.offset).with_source(error));
                return Arrived::DeadLetters { slot, answer };
            }
            tracing::warn!(
                partition = %at, offset = %letter.offset, %topic, error = %letter.error,
                "a record is written to the dead-letter topic"
            );
        }
        let count = refused.len() as u64;
        let answer: Result<u64> = Ok(count);
        Arrived::DeadLetters { slot, answer }
    })
}
