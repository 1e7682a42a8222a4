//! A record to be sent, and what is known of it when it was written.

use milena_protocol::records::Header;
use milena_protocol::types::{Offset, PartitionId, TopicPartition};

/// A record to be sent. It borrows: [`send`](crate::Producer::send) encodes it before it returns.
///
/// ```
/// use milena::ProducerRecord;
///
/// let record = ProducerRecord::to("orders").key(b"42").value(b"two teas");
/// assert_eq!(record.topic, "orders");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ProducerRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition; `None` leaves the choice to the [`Partitioner`](crate::Partitioner).
    pub partition: Option<PartitionId>,
    /// The key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is null: a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [Header<'a>],
    /// The time of the record in ms since 1970; `None` is now. (The clock is read once a batch while a batch lingers for no
    /// more than 10 ms, so "now" is that much coarse.)
    pub timestamp: Option<i64>,
}

impl<'a> ProducerRecord<'a> {
    /// A record for a topic, with nothing in it.
    #[must_use]
    pub fn to(topic: &'a str) -> Self {
        Self { topic, ..Self::default() }
    }

    /// With this partition.
    #[must_use]
    pub fn partition(mut self, partition: impl Into<PartitionId>) -> Self {
        self.partition = Some(partition.into());
        self
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// With this value.
    #[must_use]
    pub fn value(mut self, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.value = Some(value.as_ref());
        self
    }

    /// With these headers.
    #[must_use]
    pub fn headers(mut self, headers: &'a [Header<'a>]) -> Self {
        self.headers = headers;
        self
    }

    /// With this time, in ms since 1970.
    #[must_use]
    pub fn timestamp(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }
}

/// Where a record was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordMetadata {
    /// The topic and the partition.
    pub topic_partition: TopicPartition,
    /// The offset. `None` with [`Acks::None`](crate::Acks::None), and when a broker knows that it has the record from an earlier
    /// try but no longer where.
    pub offset: Option<Offset>,
    /// The record's time in ms since 1970: that of the record, or of its append for topics with LogAppendTime.
    pub timestamp: i64,
}
