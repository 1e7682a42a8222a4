//! Serializers: what a sink writes for an element.

use bytes::Bytes;
use milena::{OwnedHeaderName, PartitionId};
use serde::Serialize;
use std::sync::Arc;

use crate::BoxError;

/// The record a serializer fills. The sink uses one again and again, with the memory that its key and value took, so a serializer that
/// writes into it allocates nothing for records of ordinary size.
#[derive(Clone, Debug, Default)]
pub struct SinkRecord {
    /// The topic set last, of this record if `has_topic`.
    topic: Option<Arc<str>>,
    has_topic: bool,
    partition: Option<PartitionId>,
    key: Part,
    value: Part,
    headers: Vec<(OwnedHeaderName, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl PartialEq for SinkRecord {
    fn eq(&self, other: &Self) -> bool {
        let fields = |of: &Self| (of.partition, of.timestamp);
        fields(self) == fields(other)
            && self.topic() == other.topic()
            && self.key() == other.key()
            && self.value() == other.value()
            && self.headers == other.headers
    }
}

impl Eq for SinkRecord {}

/// A key or a value, or none; its memory stays.
#[derive(Clone, Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    is_set: bool,
}

/// More memory than this is not kept for the next record: a few large records would hold it for ever.
const KEPT_BYTES: usize = 4 << 10;

impl Part {
    fn set(&mut self) -> &mut Vec<u8> {
        self.is_set = true;
        self.bytes.clear();
        &mut self.bytes
    }

    fn clear(&mut self) {
        self.is_set = false;
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }

    fn get(&self) -> Option<&[u8]> {
        self.is_set.then_some(self.bytes.as_slice())
    }
}

impl SinkRecord {
    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the record empty, for the next element. Key and value keep their memory up to 4 KiB each.
    pub fn clear(&mut self) {
        self.has_topic = false;
        self.partition = None;
        self.key.clear();
        self.value.clear();
        self.headers.clear();
        self.timestamp = None;
    }

    /// Sets the topic.
    pub fn set_topic(&mut self, topic: impl Into<Arc<str>>) -> &mut Self {
        self.topic = Some(topic.into());
        self.has_topic = true;
        self
    }

    /// Sets the topic to one that many records share. Cheaper than [`set_topic`](Self::set_topic) where it is that of the record before, even
    /// without any count of references that threads would contend for.
    pub fn set_shared_topic(&mut self, topic: &Arc<str>) -> &mut Self {
        if !self.topic.as_ref().is_some_and(|last| Arc::ptr_eq(last, topic)) {
            self.topic = Some(Arc::clone(topic));
        }
        self.has_topic = true;
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

    /// Sets the key to a copy of these bytes.
    pub fn set_key(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.key.set().extend_from_slice(key.as_ref());
        self
    }

    /// Sets the value to a copy of these bytes. Without it the record is a tombstone.
    pub fn set_value(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.value.set().extend_from_slice(value.as_ref());
        self
    }

    /// Sets the value to nothing yet, and gives the buffer to write it into.
    pub fn begin_value(&mut self) -> &mut Vec<u8> {
        self.value.set()
    }

    /// Adds a header; order and duplicates are kept.
    pub fn add_header(&mut self, name: impl Into<OwnedHeaderName>, value: Option<&[u8]>) -> &mut Self {
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
        self.topic.as_ref().filter(|_| self.has_topic)
    }

    /// The partition, if one is set.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        self.partition
    }

    /// The key, if one is set.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.get()
    }

    /// The value; `None` is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.get()
    }

    /// The headers, in order.
    #[must_use]
    pub fn headers(&self) -> &[(OwnedHeaderName, Option<Vec<u8>>)] {
        &self.headers
    }

    /// The bytes of key, value and headers.
    pub(crate) fn len_bytes(&self) -> u64 {
        let header = |(name, value): &(OwnedHeaderName, Option<Vec<u8>>)| {
            name.len() + value.as_ref().map_or(0, Vec::len)
        };
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
        out.set_shared_topic(&self.topic).set_value(value.as_ref());
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
        out.set_shared_topic(&self.topic).set_value(value.as_slice());
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
        out.set_shared_topic(&self.topic).set_value(value.as_ref().as_bytes());
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
        serde_json::to_writer(out.set_shared_topic(&self.topic).begin_value(), value)?;
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
        assert_eq!(record.headers(), [("a".into(), None), ("a".into(), Some(b"2".to_vec()))]);
        record.clear();
        assert_eq!(record, SinkRecord::new());
        assert_eq!((record.topic(), record.key(), record.value()), (None, None, None));
        record.set_value("");
        assert_eq!((record.key(), record.value()), (None, Some(&b""[..])), "empty is not null");
    }

    #[test]
    fn memory_is_kept_for_ordinary_records_only() {
        let mut record = SinkRecord::new();
        record.set_value([7; 1000]);
        let kept = record.value().unwrap().as_ptr();
        record.clear();
        assert_eq!(record.set_value([8; 900]).value().unwrap().as_ptr(), kept);
        record.set_value(vec![9; KEPT_BYTES + 1]);
        record.clear();
        assert_eq!(record.value.bytes.capacity(), 0);
    }

    #[test]
    fn a_shared_topic_is_that_of_the_record_and_not_of_the_one_before() {
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let mut record = SinkRecord::new();
        for topic in [&one, &one, &other, &one] {
            record.clear();
            assert_eq!(record.topic(), None);
            assert_eq!(record.set_shared_topic(topic).topic(), Some(topic));
        }
        assert_eq!(Arc::strong_count(&one), 2, "one reference, whatever the number of records");
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
