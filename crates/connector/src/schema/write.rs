//! Serializers: what a sink writes for an element.

use bytes::Bytes;
use milena::PartitionId;
use serde::Serialize;
use std::sync::Arc;

use crate::BoxError;

/// The record a serializer fills. The sink reuses one, so a warm serializer allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkRecord {
    topic: Option<Arc<str>>,
    partition: Option<PartitionId>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl SinkRecord {
    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the record empty, for the next element. Buffers keep their memory where they can.
    pub fn clear(&mut self) {
        self.topic = None;
        self.partition = None;
        self.key = None;
        self.value = None;
        self.headers.clear();
        self.timestamp = None;
    }

    /// Sets the topic.
    pub fn set_topic(&mut self, topic: impl Into<Arc<str>>) -> &mut Self {
        self.topic = Some(topic.into());
        self
    }

    /// Sets the partition. Without it the producer's partitioner decides, by the key if there is one.
    pub fn set_partition(&mut self, partition: PartitionId) -> &mut Self {
        self.partition = Some(partition);
        self
    }

    /// Leaves the partition to the partitioner again.
    pub fn clear_partition(&mut self) -> &mut Self {
        self.partition = None;
        self
    }

    /// Sets the key.
    pub fn set_key(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value. Without it the record is a tombstone.
    pub fn set_value(&mut self, value: impl Into<Vec<u8>>) -> &mut Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header; order and duplicates are kept.
    pub fn add_header(&mut self, name: impl Into<String>, value: Option<&[u8]>) -> &mut Self {
        self.headers.push((name.into(), value.map(<[u8]>::to_vec)));
        self
    }

    /// Sets the record's timestamp, in milliseconds since 1970. Without it the sink writes the element's.
    pub fn set_timestamp(&mut self, timestamp: i64) -> &mut Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// The topic, if one is set.
    #[must_use]
    pub fn topic(&self) -> Option<&Arc<str>> {
        self.topic.as_ref()
    }

    /// The partition, if one is set.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        self.partition
    }

    /// The key, if one is set.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value; `None` is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The headers, in order.
    #[must_use]
    pub fn headers(&self) -> &[(String, Option<Vec<u8>>)] {
        &self.headers
    }

    /// The bytes of key, value and headers.
    pub(crate) fn len_bytes(&self) -> u64 {
        let header =
            |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len);
        let parts = self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len);
        (parts + self.headers.iter().map(header).sum::<usize>()) as u64
    }

    /// The timestamp, if one is set.
    #[must_use]
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }
}

/// What to do with the record a serializer filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// Write it.
    Write,
    /// Leave the element out.
    Skip,
}

/// Turns elements into records. Each writer has its own.
pub trait Serializer<T>: Send {
    /// Fills `out`, which is empty, for one element with its event time in milliseconds (-1 for none).
    ///
    /// # Errors
    /// What makes the element impossible to write: the job fails with it.
    fn serialize(&mut self, value: &T, timestamp: i64, out: &mut SinkRecord) -> Result<Emit, BoxError>;
}

/// Writes bytes as values of one topic.
#[derive(Clone, Debug)]
pub struct BytesSerializer {
    topic: Arc<str>,
}

impl BytesSerializer {
    /// A serializer for a topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self { topic: topic.into() }
    }
}

impl Serializer<Bytes> for BytesSerializer {
    fn serialize(&mut self, value: &Bytes, _timestamp: i64, out: &mut SinkRecord) -> Result<Emit, BoxError> {
        out.set_topic(Arc::clone(&self.topic)).set_value(value.as_ref());
        Ok(Emit::Write)
    }
}

impl Serializer<Vec<u8>> for BytesSerializer {
    fn serialize(
        &mut self,
        value: &Vec<u8>,
        _timestamp: i64,
        out: &mut SinkRecord,
    ) -> Result<Emit, BoxError> {
        out.set_topic(Arc::clone(&self.topic)).set_value(value.as_slice());
        Ok(Emit::Write)
    }
}

/// Writes text as UTF-8 values of one topic.
#[derive(Clone, Debug)]
pub struct StringSerializer {
    topic: Arc<str>,
}

impl StringSerializer {
    /// A serializer for a topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self { topic: topic.into() }
    }
}

impl<T: AsRef<str>> Serializer<T> for StringSerializer {
    fn serialize(&mut self, value: &T, _timestamp: i64, out: &mut SinkRecord) -> Result<Emit, BoxError> {
        out.set_topic(Arc::clone(&self.topic)).set_value(value.as_ref().as_bytes());
        Ok(Emit::Write)
    }
}

/// Writes elements as JSON values of one topic.
#[derive(Clone, Debug)]
pub struct JsonSerializer {
    topic: Arc<str>,
}

impl JsonSerializer {
    /// A serializer for a topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>) -> Self {
        Self { topic: topic.into() }
    }
}

impl<T: Serialize> Serializer<T> for JsonSerializer {
    fn serialize(&mut self, value: &T, _timestamp: i64, out: &mut SinkRecord) -> Result<Emit, BoxError> {
        out.set_topic(Arc::clone(&self.topic)).set_value(serde_json::to_vec(value)?);
        Ok(Emit::Write)
    }
}

/// A serializer made of a function, see [`serialize_with`].
#[derive(Clone, Debug)]
pub struct SerializeFn<F>(F);

/// Makes a serializer of a function that fills the record and says whether to write it.
///
/// ```
/// use milena_connector::schema::{serialize_with, Emit, Serializer, SinkRecord};
/// let mut by_parity = serialize_with(|n: &u32, _timestamp, out: &mut SinkRecord| {
///     out.set_topic(if n % 2 == 0 { "even" } else { "odd" }).set_value(n.to_string());
///     Ok(Emit::Write)
/// });
/// let mut record = SinkRecord::new();
/// by_parity.serialize(&7, 0, &mut record).unwrap();
/// assert_eq!(record.topic().map(|topic| &**topic), Some("odd"));
/// ```
pub fn serialize_with<T, F>(function: F) -> SerializeFn<F>
where
    F: FnMut(&T, i64, &mut SinkRecord) -> Result<Emit, BoxError> + Send,
{
    SerializeFn(function)
}

impl<T, F> Serializer<T> for SerializeFn<F>
where
    F: FnMut(&T, i64, &mut SinkRecord) -> Result<Emit, BoxError> + Send,
{
    fn serialize(&mut self, value: &T, timestamp: i64, out: &mut SinkRecord) -> Result<Emit, BoxError> {
        (self.0)(value, timestamp, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_record_carries_nothing_to_the_next_element() {
        let mut record = SinkRecord::new();
        record.set_topic("t").set_key("k").set_value("v").set_partition(PartitionId(1)).set_timestamp(9);
        record.add_header("a", None).add_header("a", Some(b"2"));
        assert_eq!(record.headers(), [("a".to_owned(), None), ("a".to_owned(), Some(b"2".to_vec()))]);
        record.clear();
        assert_eq!(record, SinkRecord::new());
    }

    #[test]
    fn the_built_ins_write_topic_and_value() {
        let mut record = SinkRecord::new();
        StringSerializer::new("t").serialize(&"hi", 0, &mut record).unwrap();
        assert_eq!((record.topic().map(|t| &**t), record.value()), (Some("t"), Some(&b"hi"[..])));
        record.clear();
        JsonSerializer::new("j").serialize(&vec![1, 2], 0, &mut record).unwrap();
        assert_eq!(record.value(), Some(&b"[1,2]"[..]));
        record.clear();
        BytesSerializer::new("b").serialize(&Bytes::from_static(b"\0"), 0, &mut record).unwrap();
        assert_eq!(record.value(), Some(&b"\0"[..]));
    }
}
