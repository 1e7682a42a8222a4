//! A serializer put together from parts: where a record goes, its value, key, headers and time.

use std::fmt;
use std::sync::Arc;

use milena::OwnedHeaderName;

use crate::schema::{Emit, Serializer, SinkRecord};
use crate::{BoxError, Error, ErrorKind, Result};

type Part<T, U> = Arc<dyn Fn(&T) -> std::result::Result<U, BoxError> + Send + Sync>;
type Skip<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
/// Headers in order, with duplicates and nulls.
pub type Headers = Vec<(OwnedHeaderName, Option<Vec<u8>>)>;

enum Topic<T> {
    One(Arc<str>),
    Each(Part<T, Option<Arc<str>>>, Option<Arc<str>>),
}

/// Serializes elements by parts (Flink: `KafkaRecordSerializationSchema.builder()`).
///
/// ```
/// use milena_connector::schema::{Serializer, SinkRecord};
/// use milena_connector::sink::RecordSerializer;
///
/// # fn main() -> Result<(), milena_connector::Error> {
/// let mut orders = RecordSerializer::<(String, u32)>::builder()
///     .topic("orders")
///     .key(|order: &(String, u32)| Ok(Some(order.0.clone().into_bytes())))
///     .value(|order: &(String, u32)| Ok(Some(order.1.to_string().into_bytes())))
///     .build()?;
/// let mut record = SinkRecord::new();
/// orders.serialize(&("ada".to_owned(), 7), -1, &mut record).unwrap();
/// assert_eq!((record.key(), record.value()), (Some(&b"ada"[..]), Some(&b"7"[..])));
/// # Ok(())
/// # }
/// ```
pub struct RecordSerializer<T> {
    topic: Arc<Topic<T>>,
    value: Part<T, Option<Vec<u8>>>,
    key: Option<Part<T, Option<Vec<u8>>>>,
    headers: Option<Part<T, Headers>>,
    timestamp: Option<Part<T, Option<i64>>>,
    skip: Option<Skip<T>>,
}

impl<T> Clone for RecordSerializer<T> {
    fn clone(&self) -> Self {
        Self {
            topic: Arc::clone(&self.topic),
            value: Arc::clone(&self.value),
            key: self.key.clone(),
            headers: self.headers.clone(),
            timestamp: self.timestamp.clone(),
            skip: self.skip.clone(),
        }
    }
}

impl<T> fmt::Debug for RecordSerializer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSerializer").finish_non_exhaustive()
    }
}

impl<T> RecordSerializer<T> {
    /// A builder without parts.
    #[must_use]
    pub fn builder() -> RecordSerializerBuilder<T> {
        RecordSerializerBuilder {
            topics: Vec::new(),
            default_topic: None,
            value: None,
            key: None,
            headers: None,
            timestamp: None,
            skip: None,
        }
    }
}

impl<T> Serializer<T> for RecordSerializer<T> {
    fn serialize(&mut self, value: &T, _timestamp: i64, out: &mut SinkRecord) -> Result<Emit, BoxError> {
        if self.skip.as_ref().is_some_and(|skip| skip(value)) {
            return Ok(Emit::Skip);
        }
        match &*self.topic {
            Topic::One(topic) => out.set_shared_topic(topic),
            Topic::Each(choose, default) => match choose(value)?.or_else(|| default.clone()) {
                Some(topic) => out.set_topic(topic),
                None => return Err("no topic was chosen, and there is no default one".into()),
            },
        };
        if let Some(headers) = &self.headers {
            for (name, value) in headers(value)? {
                out.add_header(name, value.as_deref());
            }
        }
        if let Some(timestamp) = self.timestamp.as_ref().map(|part| part(value)).transpose()?.flatten() {
            out.set_timestamp(timestamp);
        }
        if let Some(key) = self.key.as_ref().map(|part| part(value)).transpose()?.flatten() {
            out.set_key(key);
        }
        if let Some(value) = (self.value)(value)? {
            out.set_value(value);
        }
        Ok(Emit::Write)
    }
}

/// Collects the parts of a [`RecordSerializer`].
pub struct RecordSerializerBuilder<T> {
    topics: Vec<Topic<T>>,
    default_topic: Option<Arc<str>>,
    value: Option<Part<T, Option<Vec<u8>>>>,
    key: Option<Part<T, Option<Vec<u8>>>>,
    headers: Option<Part<T, Headers>>,
    timestamp: Option<Part<T, Option<i64>>>,
    skip: Option<Skip<T>>,
}

impl<T> fmt::Debug for RecordSerializerBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSerializerBuilder").finish_non_exhaustive()
    }
}

impl<T> RecordSerializerBuilder<T> {
    /// All records go to this topic. This or [`topic_with`](Self::topic_with), once.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<Arc<str>>) -> Self {
        self.topics.push(Topic::One(topic.into()));
        self
    }

    /// Each record goes to a topic of its own choice; for `None` to the [default](Self::default_topic).
    #[must_use]
    pub fn topic_with<F>(mut self, choose: F) -> Self
    where
        F: Fn(&T) -> std::result::Result<Option<Arc<str>>, BoxError> + Send + Sync + 'static,
    {
        self.topics.push(Topic::Each(Arc::new(choose), None));
        self
    }

    /// Where a record goes that chooses no topic.
    #[must_use]
    pub fn default_topic(mut self, topic: impl Into<Arc<str>>) -> Self {
        self.default_topic = Some(topic.into());
        self
    }

    /// The value; `None` is a tombstone. Needed.
    #[must_use]
    pub fn value<F>(mut self, value: F) -> Self
    where
        F: Fn(&T) -> std::result::Result<Option<Vec<u8>>, BoxError> + Send + Sync + 'static,
    {
        self.value = Some(Arc::new(value));
        self
    }

    /// The key. Without it, and for `None`, the record has none.
    #[must_use]
    pub fn key<F>(mut self, key: F) -> Self
    where
        F: Fn(&T) -> std::result::Result<Option<Vec<u8>>, BoxError> + Send + Sync + 'static,
    {
        self.key = Some(Arc::new(key));
        self
    }

    /// The headers.
    #[must_use]
    pub fn headers<F>(mut self, headers: F) -> Self
    where
        F: Fn(&T) -> std::result::Result<Headers, BoxError> + Send + Sync + 'static,
    {
        self.headers = Some(Arc::new(headers));
        self
    }

    /// The record's time in milliseconds since 1970. Without it, and for `None`, the element's event time; a negative one is none.
    #[must_use]
    pub fn timestamp<F>(mut self, timestamp: F) -> Self
    where
        F: Fn(&T) -> std::result::Result<Option<i64>, BoxError> + Send + Sync + 'static,
    {
        self.timestamp = Some(Arc::new(timestamp));
        self
    }

    /// Leaves out the elements for which this is true.
    #[must_use]
    pub fn skip_if<F>(mut self, skip: F) -> Self
    where
        F: Fn(&T) -> bool + Send + Sync + 'static,
    {
        self.skip = Some(Arc::new(skip));
        self
    }

    /// The serializer.
    ///
    /// # Errors
    /// `Misuse` without a value, and unless exactly one of `topic` and `topic_with` was called.
    pub fn build(self) -> Result<RecordSerializer<T>> {
        let misuse = |text: &str| Error::new(ErrorKind::Misuse, text);
        let mut topics = self.topics.into_iter();
        let (Some(topic), None) = (topics.next(), topics.next()) else {
            return Err(misuse("a serializer needs exactly one of `topic` and `topic_with`, called once"));
        };
        let topic = match topic {
            Topic::Each(choose, _) => Topic::Each(choose, self.default_topic),
            one @ Topic::One(_) => one,
        };
        let value = self.value.ok_or_else(|| misuse("a serializer needs a value: call `value`"))?;
        let (key, headers, timestamp, skip) = (self.key, self.headers, self.timestamp, self.skip);
        Ok(RecordSerializer { topic: Arc::new(topic), value, key, headers, timestamp, skip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> RecordSerializerBuilder<u32> {
        RecordSerializer::builder().value(|n: &u32| Ok(Some(n.to_string().into_bytes())))
    }

    fn record(serializer: &mut RecordSerializer<u32>, n: u32) -> Result<(Emit, SinkRecord), BoxError> {
        let mut out = SinkRecord::new();
        let emit = serializer.serialize(&n, 5, &mut out)?;
        Ok((emit, out))
    }

    // scenario: 5.6.35
    #[test]
    fn there_is_exactly_one_topic_and_a_value() {
        assert!(builder().build().is_err());
        assert!(builder().topic("a").topic("b").build().is_err());
        assert!(builder().topic("a").topic_with(|_: &u32| Ok(None)).build().is_err());
        assert!(RecordSerializer::<u32>::builder().topic("a").build().is_err());
        assert!(builder().topic("a").build().is_ok());
    }

    // scenario: 5.6.35
    #[test]
    fn every_part_is_in_the_record() {
        let mut full = builder()
            .topic_with(|&n: &u32| Ok((n > 1).then(|| "big".into())))
            .default_topic("small")
            .key(|n: &u32| Ok(Some(vec![*n as u8])))
            .headers(|_: &u32| Ok(vec![("a".into(), None), ("a".into(), Some(vec![1]))]))
            .timestamp(|n: &u32| Ok(Some(i64::from(*n))))
            .skip_if(|n: &u32| *n == 9)
            .build()
            .unwrap();
        let (emit, out) = record(&mut full, 2).unwrap();
        assert_eq!((emit, out.topic().map(|topic| &**topic)), (Emit::Write, Some("big")));
        assert_eq!((out.key(), out.value(), out.timestamp()), (Some(&[2][..]), Some(&b"2"[..]), Some(2)));
        assert_eq!(out.headers(), [("a".into(), None), ("a".into(), Some(vec![1]))]);
        assert_eq!(record(&mut full, 1).unwrap().1.topic().map(|topic| &**topic), Some("small"));
        assert_eq!(record(&mut full, 9).unwrap().0, Emit::Skip);
        let mut lost = builder().topic_with(|_: &u32| Ok(None)).build().unwrap();
        assert!(record(&mut lost, 1).is_err(), "no topic and no default");
    }
}
