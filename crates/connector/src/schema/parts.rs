//! Deserializers of keys and values: of functions, of JSON with metadata, in other character sets.

use serde_json::{Map, Value};

use super::{Collector, Deserializer, SourceRecord};
use crate::BoxError;

/// A deserializer of keys or values, from the topic's name and the bytes, which may be null: the shape of Kafka's own `Deserializer`.
pub trait PartDeserializer<T>: Send {
    /// What the bytes are; `None` for nothing.
    ///
    /// # Errors
    /// What they can't be read as.
    fn part(&mut self, topic: &str, bytes: Option<&[u8]>) -> Result<Option<T>, BoxError>;
}

impl<T, F> PartDeserializer<T> for F
where
    F: FnMut(&str, Option<&[u8]>) -> Result<Option<T>, BoxError> + Send,
{
    fn part(&mut self, topic: &str, bytes: Option<&[u8]>) -> Result<Option<T>, BoxError> {
        self(topic, bytes)
    }
}

/// Gives what a [`PartDeserializer`] makes of each value; what it makes nothing of is skipped.
///
/// Flink: `KafkaRecordDeserializationSchema.valueOnly`.
#[derive(Clone, Debug)]
pub struct ValueOnly<D>(pub D);

impl<T, D: PartDeserializer<T>> Deserializer<T> for ValueOnly<D> {
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<T>) -> Result<(), BoxError> {
        if let Some(value) = self.0.part(record.topic, record.value)? {
            out.collect(value);
        }
        Ok(())
    }
}

/// Gives each record as a pair of key and value, each of which may be nothing.
///
/// ```
/// use milena_connector::schema::{Deserializer, KeyValue};
///
/// let text = |_: &str, bytes: Option<&[u8]>| Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
/// let _: Box<dyn Deserializer<(Option<String>, Option<String>)>> = Box::new(KeyValue(text, text));
/// ```
#[derive(Clone, Debug)]
pub struct KeyValue<K, V>(pub K, pub V);

impl<A, B, K, V> Deserializer<(Option<A>, Option<B>)> for KeyValue<K, V>
where
    K: PartDeserializer<A>,
    V: PartDeserializer<B>,
{
    fn deserialize(
        &mut self,
        record: &SourceRecord<'_>,
        out: &mut Collector<(Option<A>, Option<B>)>,
    ) -> Result<(), BoxError> {
        let key = self.0.part(record.topic, record.key)?;
        out.collect((key, self.1.part(record.topic, record.value)?));
        Ok(())
    }
}

/// A deserializer made of a function that gives any number of elements, see [`from_collecting_fn`].
#[derive(Clone, Debug)]
pub struct FromCollectingFn<F>(F);

/// Makes a deserializer of a function that collects the elements of a record: none, one or many.
///
/// ```
/// use milena_connector::schema::{Collector, SourceRecord, from_collecting_fn};
/// let words = from_collecting_fn(|record: &SourceRecord<'_>, out: &mut Collector<String>| {
///     let text = std::str::from_utf8(record.value.unwrap_or_default())?;
///     text.split_whitespace().for_each(|word| out.collect(word.to_owned()));
///     Ok(())
/// });
/// # let _: Box<dyn milena_connector::schema::Deserializer<String>> = Box::new(words);
/// ```
pub fn from_collecting_fn<T, F>(function: F) -> FromCollectingFn<F>
where
    F: FnMut(&SourceRecord<'_>, &mut Collector<T>) -> Result<(), BoxError> + Send,
{
    FromCollectingFn(function)
}

impl<T, F> Deserializer<T> for FromCollectingFn<F>
where
    F: FnMut(&SourceRecord<'_>, &mut Collector<T>) -> Result<(), BoxError> + Send,
{
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<T>) -> Result<(), BoxError> {
        (self.0)(record, out)
    }
}

/// Gives each record as a JSON object with `key`, `value` and, if asked for, `metadata` (`offset`, `topic`, `partition`). An absent key
/// or value is left out.
///
/// Flink: `JSONKeyValueDeserializationSchema`.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonKeyValueDeserializer {
    /// Whether `metadata` is added. Default no.
    pub include_metadata: bool,
}

impl Deserializer<Value> for JsonKeyValueDeserializer {
    fn deserialize(&mut self, record: &SourceRecord<'_>, out: &mut Collector<Value>) -> Result<(), BoxError> {
        let mut object = Map::new();
        for (name, bytes) in [("key", record.key), ("value", record.value)] {
            if let Some(bytes) = bytes {
                let part = serde_json::from_slice(bytes).map_err(|error| format!("the {name}: {error}"))?;
                object.insert(name.to_owned(), part);
            }
        }
        if self.include_metadata {
            let metadata = serde_json::json!({
                "offset": record.offset.0, "topic": record.topic, "partition": record.partition.0,
            });
            object.insert("metadata".to_owned(), metadata);
        }
        out.collect(Value::Object(object));
        Ok(())
    }
}

/// A character set. Java's names are accepted by [`Charset::parse`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8, strictly: what is none is refused. The default.
    #[default]
    Utf8,
    /// ISO-8859-1: each byte is a character.
    Latin1,
    /// US-ASCII: bytes above 127 are refused.
    Ascii,
    /// UTF-16, highest byte first.
    Utf16Be,
    /// UTF-16, lowest byte first.
    Utf16Le,
}

impl Charset {
    /// The character set of that name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "UTF-8" | "UTF8" => Some(Self::Utf8),
            "ISO-8859-1" | "LATIN1" => Some(Self::Latin1),
            "US-ASCII" | "ASCII" => Some(Self::Ascii),
            "UTF-16BE" => Some(Self::Utf16Be),
            "UTF-16LE" => Some(Self::Utf16Le),
            _ => None,
        }
    }

    /// The text of bytes.
    ///
    /// # Errors
    /// Where they are none in this set.
    pub fn decode(self, bytes: &[u8]) -> Result<String, BoxError> {
        let utf16 = |unit: fn([u8; 2]) -> u16| {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
            String::from_utf16(&units).ok().filter(|_| rest.is_empty())
        };
        let wrong = || BoxError::from(format!("the bytes are no text in {self:?}"));
        match self {
            Self::Utf8 => Ok(std::str::from_utf8(bytes)?.to_owned()),
            Self::Latin1 => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
            Self::Ascii if bytes.is_ascii() => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
            Self::Ascii => Err(wrong()),
            Self::Utf16Be => utf16(u16::from_be_bytes).ok_or_else(wrong),
            Self::Utf16Le => utf16(u16::from_le_bytes).ok_or_else(wrong),
        }
    }
}

/// Gives each value as text in a character set; tombstones are skipped.
///
/// Flink: `SimpleStringSchema`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextDeserializer {
    /// The character set. Default UTF-8.
    pub charset: Charset,
}

impl Deserializer<String> for TextDeserializer {
    fn deserialize(
        &mut self,
        record: &SourceRecord<'_>,
        out: &mut Collector<String>,
    ) -> Result<(), BoxError> {
        if let Some(value) = record.value {
            out.collect(self.charset.decode(value)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{OwnedKafkaRecord, RecordDeserializer};
    use milena::Offset;
    use milena::protocol::records::{
        BatchBuilder, BatchIdentity, BatchOptions, Header, TimestampType, batches,
    };

    /// What a deserializer makes of one record.
    fn read<T>(
        deserializer: &mut dyn Deserializer<T>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<Vec<T>, BoxError> {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(70, key, value, headers.iter().copied())?;
        let batch = batches(builder.build(BatchIdentity::default())?).next().ok_or("a batch")??;
        let records = batch.records()?;
        let record = records.iter().next().ok_or("a record")??;
        let view = SourceRecord {
            topic: "t",
            partition: 3.into(),
            offset: Offset(9),
            leader_epoch: None,
            timestamp: record.timestamp,
            timestamp_type: TimestampType::CreateTime,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let mut out = Collector::new(70, Offset(9));
        deserializer.deserialize(&view, &mut out)?;
        Ok(out.into_elements().into_iter().map(|element| element.value).collect())
    }

    // scenario: 5.7.2
    #[test]
    fn json_keys_and_values_are_there_or_left_out() {
        let mut plain = JsonKeyValueDeserializer::default();
        let mut full = JsonKeyValueDeserializer { include_metadata: true };
        let both = read(&mut plain, Some(b"1"), Some(b"{\"a\":2}"), &[]).unwrap();
        assert_eq!(both, [serde_json::json!({"key": 1, "value": {"a": 2}})]);
        let neither = read(&mut full, None, None, &[]).unwrap();
        assert_eq!(neither, [serde_json::json!({"metadata": {"offset": 9, "topic": "t", "partition": 3}})]);
        let error = read(&mut plain, Some(b"1"), Some(b"{"), &[]).unwrap_err();
        assert!(error.to_string().starts_with("the value"), "{error}");
    }

    // scenario: 5.4.3, 5.4.47, 5.1.21, 5.1.3
    #[test]
    fn parts_and_functions_give_none_one_or_many() {
        let text = |_: &str, bytes: Option<&[u8]>| {
            Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).filter(|text| text != "skip"))
        };
        assert_eq!(read(&mut ValueOnly(text), Some(b"k"), Some(b"v"), &[]).unwrap(), ["v"]);
        assert_eq!(read(&mut ValueOnly(text), None, Some(b"skip"), &[]).unwrap(), [""; 0]);
        let pair = read(&mut KeyValue(text, text), None, Some(b"v"), &[]).unwrap();
        assert_eq!(pair, [(None, Some("v".to_owned()))]);
        let mut each = from_collecting_fn(|record: &SourceRecord<'_>, out: &mut Collector<u8>| {
            record.value.unwrap_or_default().iter().for_each(|byte| out.collect(*byte));
            Ok(())
        });
        assert_eq!(read(&mut each, None, Some(b"abc"), &[]).unwrap(), [97, 98, 99]);
        assert_eq!(read(&mut each, None, None, &[]).unwrap(), [0; 0]);
    }

    // scenario: D53, 5.4.47
    #[test]
    fn a_whole_record_keeps_headers_in_order_with_nulls_and_duplicates() {
        let header = |name, value| Header::new(name, value);
        let headers = [header("b", Some(&b"1"[..])), header("a", None), header("b", Some(&b""[..]))];
        let records = read(&mut RecordDeserializer::new(), None, None, &headers).unwrap();
        let [OwnedKafkaRecord { headers, value, timestamp, .. }] = records.as_slice() else { panic!("one") };
        assert_eq!((value, *timestamp), (&None, 70));
        let shape: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_str().unwrap(), value.as_deref())).collect();
        assert_eq!(shape, [("b", Some(&b"1"[..])), ("a", None), ("b", Some(&b""[..]))]);
    }

    #[test]
    fn text_is_read_in_its_character_set_or_refused() {
        let read = |name: &str, bytes: &[u8]| Charset::parse(name).unwrap().decode(bytes).ok();
        assert_eq!(read("utf-8", "ü".as_bytes()).as_deref(), Some("ü"));
        assert_eq!(read("UTF-8", &[0xfc]), None);
        assert_eq!(read("ISO-8859-1", &[0xfc]).as_deref(), Some("ü"));
        assert_eq!(read("US-ASCII", &[0xfc]), None);
        assert_eq!(read("UTF-16BE", &[0, 0xfc]).as_deref(), Some("ü"));
        assert_eq!(read("UTF-16LE", &[0xfc, 0]).as_deref(), Some("ü"));
        assert_eq!(read("UTF-16LE", &[0xfc]), None);
        assert_eq!(Charset::parse("EBCDIC"), None);
    }
}
