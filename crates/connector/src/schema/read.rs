//! Deserializers that come with the connector.

use bytes::{Bytes, BytesMut};
use milena::{LeaderEpoch, Offset, OwnedHeaderName, PartitionId};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{Collector, Deserializer, SourceRecord};
use crate::BoxError;

/// Copies of keys and values that outlive what was fetched. Small ones lie next to each other in one allocation, which is freed with the last
/// of them: so most records cost none, and one that is kept holds no more than [`SHARED_BYTES`].
#[derive(Clone, Debug, Default)]
struct Copies {
    room: BytesMut,
}

/// What small copies share.
const SHARED_BYTES: usize = 4 << 10;
/// Larger ones have an allocation of their own.
const SMALL_BYTES: usize = 512;

impl Copies {
    fn of(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > SMALL_BYTES {
            return Bytes::copy_from_slice(bytes);
        }
        if self.room.capacity() - self.room.len() < bytes.len() {
            self.room = BytesMut::with_capacity(SHARED_BYTES);
        }
        self.room.extend_from_slice(bytes);
        self.room.split().freeze()
    }
}

/// A whole record that outlives what was fetched. Copies of small keys and values of records next to each other share 4 KiB.
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
    pub headers: Vec<(OwnedHeaderName, Option<Bytes>)>,
}

/// Gives each record as it is, with bytes of its own.
#[derive(Clone, Debug, Default)]
pub struct RecordDeserializer {
    topic: Option<Arc<str>>,
    copies: Copies,
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
            key: record.key.map(|key| self.copies.of(key)),
            value: record.value.map(|value| self.copies.of(value)),
            headers: record
                .headers
                .iter()
                .map(|header| {
                    let name = self.copies.of(header.name.as_bytes());
                    (name.into(), header.value.map(|value| self.copies.of(value)))
                })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_what_was_copied_and_stay_so() {
        let mut copies = Copies::default();
        let lengths = [0, 1, 100, SMALL_BYTES, SMALL_BYTES + 1, SHARED_BYTES, 0, 511];
        let wanted: Vec<Vec<u8>> = (0..200_u8).map(|at| vec![at; lengths[usize::from(at) % 8]]).collect();
        let made: Vec<Bytes> = wanted.iter().map(|bytes| copies.of(bytes)).collect();
        assert_eq!(made, wanted);
        assert_eq!(copies.clone().of(b"a clone has room of its own"), "a clone has room of its own");
        assert_eq!(made, wanted);
    }

    #[test]
    fn small_copies_share_no_more_than_they_may() {
        let mut copies = Copies::default();
        let made: Vec<Bytes> = (0..1000).map(|_| copies.of(&[7; 100])).collect();
        let next = |pair: &[Bytes]| pair[1].as_ptr() == pair[0].as_ptr().wrapping_add(100);
        let runs = made.windows(2).filter(|pair| !next(pair)).count() + 1;
        assert!((1000 * 100 / SHARED_BYTES..=1000 * 100 / SHARED_BYTES + 2).contains(&runs), "{runs}");
    }
}
