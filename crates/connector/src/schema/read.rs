//! Deserializers that come with the connector.

use bytes::Bytes;
use milena::{LeaderEpoch, Offset, PartitionId};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{Collector, Deserializer, SourceRecord};
use crate::BoxError;

/// A whole record with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedKafkaRecord {
    /// The topic it was read from.
    pub topic: Arc<str>,
    /// The partition it was read from.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that wrote its batch.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Its timestamp in milliseconds since 1970, -1 for none.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order; duplicates and null values are kept.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Gives each record as it is, with bytes of its own.
#[derive(Clone, Debug, Default)]
pub struct RecordDeserializer {
    topic: Option<Arc<str>>,
}

impl RecordDeserializer {
    /// A deserializer that gives whole records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The topic's name, allocated once for a run of records from the same topic.
    fn topic(&mut self, name: &str) -> Arc<str> {
        match &self.topic {
            Some(topic) if &**topic == name => Arc::clone(topic),
            _ => {
                let topic: Arc<str> = name.into();
                self.topic = Some(Arc::clone(&topic));
                topic
            }
        }
    }
}

impl Deserializer<OwnedKafkaRecord> for RecordDeserializer {
    fn deserialize(
        &mut self,
        record: &SourceRecord<'_>,
        out: &mut Collector<OwnedKafkaRecord>,
    ) -> Result<(), BoxError> {
        out.collect(OwnedKafkaRecord {
            topic: self.topic(record.topic),
            partition: record.partition,
            offset: record.offset,
            leader_epoch: record.leader_epoch,
            timestamp: record.timestamp,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: record
                .headers
                .iter()
                .map(|header| (header.name.to_owned(), header.value.map(Bytes::copy_from_slice)))
                .collect(),
        });
        Ok(())
    }
}

/// Gives each value's bytes; tombstones (records without value) are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesDeserializer;

impl Deserializer<Bytes> for BytesDeserializer {
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<Bytes>) -> Result<(), BoxError> {
        if let Some(value) = record.value {
            out.collect(Bytes::copy_from_slice(value));
        }
        Ok(())
    }
}

/// Gives each value as UTF-8 text; tombstones are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct StringDeserializer;

impl Deserializer<String> for StringDeserializer {
    fn deserialize(
        &mut self,
        record: &SourceRecord<'_>,
        out: &mut Collector<String>,
    ) -> Result<(), BoxError> {
        if let Some(value) = record.value {
            let text = std::str::from_utf8(value)
                .map_err(|error| format!("the value is not UTF-8 from byte {}", error.valid_up_to()))?;
            out.collect(text.to_owned());
        }
        Ok(())
    }
}

/// Gives each value as what its JSON says; tombstones are skipped.
///
/// With `T = serde_json::Value` it reads any JSON.
#[derive(Debug)]
pub struct JsonDeserializer<T = serde_json::Value>(PhantomData<fn() -> T>);

impl<T> JsonDeserializer<T> {
    /// A deserializer of JSON values.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for JsonDeserializer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for JsonDeserializer<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T: DeserializeOwned> Deserializer<T> for JsonDeserializer<T> {
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<T>) -> Result<(), BoxError> {
        if let Some(value) = record.value {
            out.collect(serde_json::from_slice(value)?);
        }
        Ok(())
    }
}

/// A deserializer made of a function, see [`from_fn`].
#[derive(Clone, Debug)]
pub struct FromFn<F>(F);

/// Makes a deserializer of a function from a record to at most one element.
///
/// ```
/// use milena_connector::schema::from_fn;
/// let lengths = from_fn(|record| Ok(record.value.map(<[u8]>::len)));
/// # let _: Box<dyn milena_connector::schema::Deserializer<usize>> = Box::new(lengths);
/// ```
pub fn from_fn<T, F>(function: F) -> FromFn<F>
where
    F: FnMut(&SourceRecord<'_>) -> Result<Option<T>, BoxError> + Send,
{
    FromFn(function)
}

impl<T, F> Deserializer<T> for FromFn<F>
where
    F: FnMut(&SourceRecord<'_>) -> Result<Option<T>, BoxError> + Send,
{
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<T>) -> Result<(), BoxError> {
        if let Some(value) = (self.0)(record)? {
            out.collect(value);
        }
        Ok(())
    }
}
