//! How a record is printed: kcat's templates and kcat's JSON envelope.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use milena::protocol::records::{Record, TimestampType};
use milena::{BrokerId, TopicPartition};
use serde::Serialize;

/// One record with where it came from.
pub(crate) struct Printed<'a> {
    pub(crate) topic_partition: &'a TopicPartition,
    pub(crate) record: Record<'a>,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) broker: Option<BrokerId>,
}

/// Prints records.
#[derive(Debug, Clone)]
pub(crate) enum Renderer {
    /// One JSON object a line.
    Json,
    /// A parsed template.
    Template { parts: Vec<Part>, null: &'static str },
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(Vec<u8>),
    Value,
    ValueLength,
    ValueLengthBinary,
    Key,
    KeyLength,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

impl Renderer {
    /// Parses a template; nulls are printed as nothing, or as `NULL`.
    pub(crate) fn template(text: &str, null: bool) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['%', '\\']) {
            let (before, token) = rest.split_at(at);
            literal.extend_from_slice(before.as_bytes());
            let mut characters = token.chars();
            let introducer = characters.next();
            let letter = characters.next();
            rest = characters.as_str();
            let part = match (introducer, letter) {
                (Some('%'), Some(letter)) => match letter {
                    's' => Part::Value,
                    'S' => Part::ValueLength,
                    'R' => Part::ValueLengthBinary,
                    'k' => Part::Key,
                    'K' => Part::KeyLength,
                    't' => Part::Topic,
                    'p' => Part::Partition,
                    'o' => Part::Offset,
                    'T' => Part::Timestamp,
                    'h' => Part::Headers,
                    '%' => {
                        literal.push(b'%');
                        continue;
                    }
                    other => {
                        return Err(format!("%{other} is no field; use %s %S %R %k %K %t %p %o %T %h or %%"));
                    }
                },
                (Some('\\'), Some(letter)) => {
                    rest = escape(letter, rest, &mut literal)?;
                    continue;
                }
                _ => return Err("the template ends in the middle of a field".into()),
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self::Template { parts, null: if null { "NULL" } else { "" } })
    }

    /// The value, then the delimiter.
    pub(crate) fn values(delimiter: &str, null: bool) -> Result<Self, String> {
        let parts = vec![Part::Value, Part::Literal(unescape(delimiter)?)];
        Ok(Self::Template { parts, null: if null { "NULL" } else { "" } })
    }

    /// Prints one record.
    pub(crate) fn print(&self, out: &mut impl Write, printed: &Printed<'_>) -> io::Result<()> {
        match self {
            Self::Json => {
                serde_json::to_writer(&mut *out, &Envelope::of(printed))?;
                out.write_all(b"\n")
            }
            Self::Template { parts, null } => {
                parts.iter().try_for_each(|part| print_part(out, part, null, printed))
            }
        }
    }
}

fn print_part(out: &mut impl Write, part: &Part, null: &str, printed: &Printed<'_>) -> io::Result<()> {
    let record = &printed.record;
    let bytes = |out: &mut dyn Write, bytes: Option<&[u8]>| out.write_all(bytes.unwrap_or(null.as_bytes()));
    let length =
        |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    let binary =
        |bytes: Option<&[u8]>| bytes.map_or(-1, |b| i32::try_from(b.len()).unwrap_or(i32::MAX)).to_be_bytes();
    match part {
        Part::Literal(text) => out.write_all(text),
        Part::Value => bytes(out, record.value),
        Part::Key => bytes(out, record.key),
        Part::ValueLength => write!(out, "{}", length(record.value)),
        Part::KeyLength => write!(out, "{}", length(record.key)),
        Part::ValueLengthBinary => out.write_all(&binary(record.value)),
        Part::Topic => out.write_all(printed.topic_partition.topic.as_bytes()),
        Part::Partition => write!(out, "{}", printed.topic_partition.partition),
        Part::Offset => write!(out, "{}", record.offset),
        Part::Timestamp => write!(out, "{}", record.timestamp),
        Part::Headers => {
            for (index, header) in record.headers.iter().enumerate() {
                if index > 0 {
                    out.write_all(b",")?;
                }
                out.write_all(header.name.as_bytes())?;
                out.write_all(b"=")?;
                bytes(out, header.value)?;
            }
            Ok(())
        }
    }
}

/// Text with \n, \t, \r, \0, \\ and \xHH resolved.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, token) = rest.split_at(at);
        out.extend_from_slice(before.as_bytes());
        let mut characters = token.chars();
        characters.next();
        let Some(letter) = characters.next() else { return Err("a lone \\ at the end".into()) };
        rest = escape(letter, characters.as_str(), &mut out)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

fn escape<'a>(letter: char, rest: &'a str, out: &mut Vec<u8>) -> Result<&'a str, String> {
    match letter {
        'n' => out.push(b'\n'),
        'r' => out.push(b'\r'),
        't' => out.push(b'\t'),
        '0' => out.push(0),
        '\\' => out.push(b'\\'),
        'x' => {
            let digits = rest.get(..2).ok_or("\\x needs two hexadecimal digits")?;
            out.push(
                u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits} is no hexadecimal byte"))?,
            );
            return Ok(rest.get(2..).unwrap_or_default());
        }
        other => return Err(format!("\\{other} is no escape; use \\n \\r \\t \\0 \\\\ or \\xHH")),
    }
    Ok(rest)
}

/// kcat's JSON envelope. Bytes that are no UTF-8 are printed as base64 and marked.
#[derive(Serialize)]
struct Envelope<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    tstype: &'static str,
    ts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Option<Text<'a>>>,
    key: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    payload: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_encoding: Option<&'static str>,
}

/// Bytes in JSON: UTF-8 as it is, others as base64.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Text<'a> {
    Utf8(&'a str),
    Base64(String),
}

impl<'a> Text<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(|_| Self::Base64(BASE64.encode(bytes)), Self::Utf8)
    }

    /// The first bytes, so many at most, and no half character.
    pub(crate) fn cut(bytes: &'a [u8], max: usize) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text.get(..text.floor_char_boundary(max)).unwrap_or_default()),
            Err(_) => Self::Base64(BASE64.encode(bytes.get(..max).unwrap_or(bytes))),
        }
    }

    pub(crate) fn encoding(&self) -> Option<&'static str> {
        matches!(self, Self::Base64(_)).then_some("base64")
    }
}

impl<'a> Envelope<'a> {
    fn of(printed: &'a Printed<'a>) -> Self {
        let record = &printed.record;
        let key = record.key.map(Text::of);
        let payload = record.value.map(Text::of);
        let headers = record
            .headers
            .iter()
            .flat_map(|header| [Some(Text::of(header.name.as_bytes())), header.value.map(Text::of)])
            .collect();
        Self {
            topic: &printed.topic_partition.topic,
            partition: printed.topic_partition.partition.0,
            offset: record.offset.0,
            tstype: match printed.timestamp_type {
                _ if record.timestamp < 0 => "unknown",
                TimestampType::CreateTime => "create",
                TimestampType::LogAppendTime => "logappend",
            },
            ts: record.timestamp,
            broker: printed.broker.map(|broker| broker.0),
            headers,
            key_encoding: key.as_ref().and_then(Text::encoding),
            key,
            payload_encoding: payload.as_ref().and_then(Text::encoding),
            payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_fields_escapes_and_percent_signs_apart() {
        let Renderer::Template { parts, .. } = Renderer::template("%t[%p]\\t%%%s\\x0a", false).unwrap()
        else {
            panic!("no template")
        };
        let literal = |text: &[u8]| Part::Literal(text.to_vec());
        assert_eq!(
            parts,
            [Part::Topic, literal(b"["), Part::Partition, literal(b"]\t%"), Part::Value, literal(b"\n")]
        );
        for wrong in ["%", "%z", "\\", "\\q", "\\x1", "\\xzz"] {
            assert!(Renderer::template(wrong, false).is_err(), "{wrong}");
        }
    }
}
