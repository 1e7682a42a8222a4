//! Schemas: from a record's bytes to elements, and from elements to records.
//!
//! A [`Deserializer`] may give any number of elements for a record: none skips it (the position moves on all the same).
//! A [`Serializer`] fills one [`SinkRecord`], or asks for the element to be left out. What happens to a record that can't be
//! deserialized is a policy, [`OnRecordError`], never a silent choice; an error always carries topic, partition and offset.

mod parts;
mod read;
mod write;

pub use parts::{
    Charset, FromCollectingFn, JsonKeyValueDeserializer, KeyValue, PartDeserializer, TextDeserializer,
    ValueOnly, from_collecting_fn,
};
pub use read::{
    BytesDeserializer, FromFn, JsonDeserializer, OwnedKafkaRecord, RecordDeserializer, StringDeserializer,
    from_fn,
};
pub use write::{
    BytesSerializer, Emit, JsonSerializer, SerializeFn, Serializer, SinkRecord, StringSerializer,
    serialize_with,
};

use milena::protocol::records::{Headers, TimestampType};
use milena::{LeaderEpoch, Offset, PartitionId};

use crate::BoxError;

/// A record as a deserializer sees it: borrowed from the fetched bytes, nothing copied.
#[derive(Clone, Copy, Debug)]
pub struct SourceRecord<'a> {
    /// The topic it was read from.
    pub topic: &'a str,
    /// The partition it was read from.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that wrote its batch.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Its timestamp in milliseconds since 1970, -1 for none (records from before Kafka 0.10).
    pub timestamp: i64,
    /// Whether the timestamp is the producer's or the broker's.
    pub timestamp_type: TimestampType,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order, with duplicates.
    pub headers: Headers<'a>,
}

/// Turns records into elements. Each reader has its own, so it may keep buffers and caches.
pub trait Deserializer<T>: Send {
    /// Gives the elements of one record to `out`, in order. None at all skips the record.
    ///
    /// # Errors
    /// What the record's bytes can't be read as; the source adds topic, partition and offset, and follows its
    /// [`OnRecordError`]. Elements collected before the error are dropped.
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<T>) -> Result<(), BoxError>;
}

/// What a source does with a record that its deserializer refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnRecordError {
    /// The job fails with an error that names topic, partition and offset. The default.
    #[default]
    Fail,
    /// The record is left out, counted in the reader's metrics, and logged.
    Skip,
    /// The record is written to another topic, with its key, value, headers and timestamp as they are and headers that say where it
    /// was and what is wrong with it; counted and logged. It is acknowledged there before the position moves over it; after a crash
    /// it may come twice.
    DeadLetter {
        /// The topic, which must exist.
        topic: std::sync::Arc<str>,
    },
}

impl OnRecordError {
    /// Refused records go to this topic.
    #[must_use]
    pub fn dead_letter(topic: impl Into<std::sync::Arc<str>>) -> Self {
        Self::DeadLetter { topic: topic.into() }
    }
}

/// An element with its event time and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The element.
    pub value: T,
    /// Its event time in milliseconds since 1970; -1 if its record had none.
    pub timestamp: i64,
    /// The offset of its record. The partition is the batch's.
    pub offset: Offset,
}

/// Takes the elements a deserializer makes of one record.
#[derive(Debug)]
pub struct Collector<T> {
    elements: Vec<Stamped<T>>,
    timestamp: i64,
    offset: Offset,
}

/// Room that is made before there are elements, at most: a batch may claim any number of records.
const ROOM_BYTES: usize = 256 << 10;

impl<T> Default for Collector<T> {
    fn default() -> Self {
        Self { elements: Vec::new(), timestamp: -1, offset: Offset(0) }
    }
}

impl<T> Collector<T> {
    /// An empty collector whose elements get this timestamp and offset.
    #[must_use]
    pub fn new(timestamp: i64, offset: Offset) -> Self {
        Self { elements: Vec::new(), timestamp, offset }
    }

    /// Adds an element with the record's timestamp.
    pub fn collect(&mut self, value: T) {
        self.collect_at(value, self.timestamp);
    }

    /// Adds an element with a timestamp of its own, in milliseconds since 1970.
    pub fn collect_at(&mut self, value: T, timestamp: i64) {
        self.elements.push(Stamped { value, timestamp, offset: self.offset });
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The elements, in the order they were collected.
    #[must_use]
    pub fn into_elements(self) -> Vec<Stamped<T>> {
        self.elements
    }

    /// With room for the elements of so many records of one element each, within reason.
    pub(crate) fn with_room(records: usize) -> Self {
        let most = ROOM_BYTES / size_of::<Stamped<T>>();
        Self { elements: Vec::with_capacity(records.min(most)), ..Self::default() }
    }

    /// Moves on to the next record.
    pub(crate) fn begin(&mut self, timestamp: i64, offset: Offset) {
        self.timestamp = timestamp;
        self.offset = offset;
    }

    /// Drops what was collected after the first `len` elements.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.elements.truncate(len);
    }

    pub(crate) fn elements_mut(&mut self) -> &mut Vec<Stamped<T>> {
        &mut self.elements
    }
}
