//! Kafka's message schemas, as far as they decide the shape on the wire.

#![allow(
    clippy::indexing_slicing,
    reason = "structs name each other by index; a chore may end on a broken schema"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The last version of what has no last version.
pub(crate) const EVER: u16 = 255;

/// Both ends included.
pub(crate) type Span = (u16, u16);

/// What a field, or an element of an array, is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// A name of the table's vocabulary, and the bytes on the wire.
    Fixed(&'static str, u32),
    Text,
    Bytes,
    /// An index into [`Message::structs`].
    Struct(usize),
}

pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) item: Item,
    pub(crate) array: bool,
    pub(crate) versions: Span,
    pub(crate) nullable: Option<Span>,
    pub(crate) tag: Option<u8>,
    /// Never compact, even in a flexible version: `RequestHeader.ClientId` alone.
    pub(crate) rigid: bool,
}

pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) key: i16,
    pub(crate) versions: Span,
    pub(crate) flexible: Option<u16>,
    /// Whether the release says that its last version may still change (`latestVersionUnstable`).
    pub(crate) unstable: bool,
    /// The first is the root.
    pub(crate) structs: Vec<Struct>,
}

/// Every message of a kafka-clients jar that still has a version, by name.
pub(crate) fn messages(jar: &Path) -> Result<Vec<Message>> {
    let file = File::open(jar).with_context(|| format!("can't open {}", jar.display()))?;
    let mut zip = zip::ZipArchive::new(file).with_context(|| format!("{} is no jar", jar.display()))?;
    let mut names = Vec::new();
    for name in zip.file_names() {
        let name = name?;
        if name.starts_with("common/message/") && name.ends_with(".json") {
            names.push(name.into_owned());
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} holds no message schemas: is it a kafka-clients jar?", jar.display());
    let mut messages = Vec::new();
    for name in names {
        let mut text = String::new();
        zip.by_name(&name)?.read_to_string(&mut text)?;
        if let Some(message) = parse(&text).with_context(|| name.clone())? {
            message.verify().with_context(|| name.clone())?;
            messages.push(message);
        }
    }
    Ok(messages)
}

/// Reads one schema; `None` if its message has no version any more.
pub(crate) fn parse(text: &str) -> Result<Option<Message>> {
    let json: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    // Only the first value: some old releases ship text after the closing brace.
    let json: Value = serde_json::Deserializer::from_str(&json).into_iter().next().context("empty")??;
    let Some(versions) = span(&json, "validVersions")? else { return Ok(None) };
    let flexible = span(&json, "flexibleVersions")?;
    if let Some((_, last)) = flexible {
        ensure!(last == EVER, "flexible versions end");
    }
    let mut message = Message {
        name: string(&json, "name")?,
        kind: string(&json, "type")?,
        key: json.get("apiKey").and_then(Value::as_i64).map_or(Ok(-1), i16::try_from)?,
        versions,
        flexible: flexible.map(|(first, _)| first),
        unstable: json.get("latestVersionUnstable").and_then(Value::as_bool).unwrap_or(false),
        structs: Vec::new(),
    };
    let mut common = BTreeMap::new();
    for shared in list(&json, "commonStructs") {
        common.insert(string(shared, "name")?, list(shared, "fields"));
    }
    let name = message.name.clone();
    message.add_struct(&name, list(&json, "fields"), &common)?;
    Ok(Some(message))
}

impl Message {
    fn add_struct(
        &mut self,
        name: &str,
        fields: &[Value],
        common: &BTreeMap<String, &[Value]>,
    ) -> Result<usize> {
        let index = self.structs.len();
        self.structs.push(Struct { name: name.to_owned(), fields: Vec::new() });
        for json in fields {
            if let Some(field) =
                self.field(json, common).with_context(|| string(json, "name").unwrap_or_default())?
            {
                self.structs[index].fields.push(field);
            }
        }
        Ok(index)
    }

    fn field(&mut self, json: &Value, common: &BTreeMap<String, &[Value]>) -> Result<Option<Field>> {
        let Some(versions) = span(json, "versions")?.and_then(|versions| cut(versions, self.versions)) else {
            return Ok(None);
        };
        let kind = string(json, "type")?;
        let (array, of) = kind.strip_prefix("[]").map_or((false, kind.as_str()), |of| (true, of));
        let item = match of {
            "bool" => Item::Fixed("BOOL", 1),
            "int8" => Item::Fixed("I8", 1),
            "int16" => Item::Fixed("I16", 2),
            "uint16" => Item::Fixed("U16", 2),
            "int32" => Item::Fixed("I32", 4),
            "uint32" => Item::Fixed("U32", 4),
            "int64" => Item::Fixed("I64", 8),
            "float64" => Item::Fixed("F64", 8),
            "uuid" => Item::Fixed("UUID", 16),
            "string" => Item::Text,
            "bytes" | "records" => Item::Bytes,
            _ => Item::Struct(match self.structs.iter().position(|known| known.name == of) {
                Some(index) => index,
                None => {
                    let own = list(json, "fields");
                    let fields =
                        if own.is_empty() { common.get(of).copied().unwrap_or_default() } else { own };
                    self.add_struct(of, fields, common)?
                }
            }),
        };
        let rigid = match json.get("flexibleVersions").and_then(Value::as_str) {
            None => false,
            Some("none") => true,
            Some(other) => bail!("a field with flexible versions {other}"),
        };
        let tagged = span(json, "taggedVersions")?.and_then(|tagged| cut(tagged, versions));
        ensure!(tagged.is_none_or(|tagged| tagged == versions), "tagged in some of its versions only");
        let tag = match json.get("tag") {
            // Kafka 3.x writes some tags as strings.
            Some(tag) if tagged.is_some() => Some(tag.to_string().trim_matches('"').parse()?),
            _ => None,
        };
        ensure!(tag.is_some() == tagged.is_some(), "tagged without a tag");
        let nullable = span(json, "nullableVersions")?.and_then(|null| cut(null, versions));
        Ok(Some(Field { name: snake(&string(json, "name")?), item, array, versions, nullable, tag, rigid }))
    }

    /// What the walk over a frame relies on.
    pub(crate) fn verify(&self) -> Result<()> {
        ensure!(self.depth(0) <= 6, "nested more than 6 structs deep");
        for (index, shape) in self.structs.iter().enumerate() {
            let mut tags: Vec<u8> = shape.fields.iter().filter_map(|field| field.tag).collect();
            tags.sort_unstable();
            ensure!(tags.windows(2).all(|pair| pair[0] != pair[1]), "{}: a tag twice", shape.name);
            ensure!(index == 0 || self.fewest_bytes(index) > 0, "{}: no bytes wide", shape.name);
            ensure!(self.fewest_bytes(index) <= u16::MAX.into(), "{}: too wide", shape.name);
            ensure!(self.memory(index) <= u16::MAX.into(), "{}: too much memory", shape.name);
            for field in &shape.fields {
                ensure!(!field.rigid || field.name == "client_id", "{}: rigid", field.name);
                ensure!(
                    self.flexible.is_some() || field.tag.is_none(),
                    "{}: a tag, but never flexible",
                    field.name
                );
            }
        }
        Ok(())
    }

    fn depth(&self, index: usize) -> usize {
        let inner = self.structs[index].fields.iter().filter_map(|field| match field.item {
            Item::Struct(inner) => Some(self.depth(inner)),
            _ => None,
        });
        1 + inner.max().unwrap_or(0)
    }

    pub(crate) fn is_flexible(&self, version: u16) -> bool {
        self.flexible.is_some_and(|first| version >= first)
    }

    /// The versions in which a struct can occur at all.
    pub(crate) fn used(&self, index: usize) -> Span {
        if index == 0 {
            return self.versions;
        }
        let mut all: Option<Span> = None;
        for (outer, shape) in self.structs.iter().enumerate() {
            for field in shape.fields.iter().filter(|field| field.item == Item::Struct(index)) {
                if let Some((low, high)) = cut(field.versions, self.used(outer)) {
                    all = Some(all.map_or((low, high), |(a, b)| (a.min(low), b.max(high))));
                }
            }
        }
        all.unwrap_or(self.versions)
    }

    /// The fewest bytes a struct takes on the wire, over all versions in which it occurs.
    pub(crate) fn fewest_bytes(&self, index: usize) -> u32 {
        let (low, high) = self.used(index);
        (low..=high).map(|version| self.bytes_in(index, version)).min().unwrap_or(0)
    }

    fn bytes_in(&self, index: usize, version: u16) -> u32 {
        let flexible = self.is_flexible(version);
        let of = |field: &Field| {
            if !within(field.versions, version) || field.tag.is_some() {
                return 0;
            }
            let compact = flexible && !field.rigid;
            match field.item {
                _ if field.array => {
                    if compact {
                        1
                    } else {
                        4
                    }
                }
                Item::Struct(_) if field.nullable.is_some_and(|null| within(null, version)) => 1,
                Item::Struct(inner) => self.bytes_in(inner, version),
                Item::Fixed(_, width) => width,
                Item::Text => {
                    if compact {
                        1
                    } else {
                        2
                    }
                }
                Item::Bytes => {
                    if compact {
                        1
                    } else {
                        4
                    }
                }
            }
        };
        self.structs[index].fields.iter().map(of).sum::<u32>() + u32::from(flexible)
    }

    /// The most bytes a struct takes once decoded, without what it points to.
    pub(crate) fn memory(&self, index: usize) -> u32 {
        let of = |field: &Field| match field.item {
            _ if field.array => 24,
            Item::Struct(inner) => self.memory(inner) + if field.nullable.is_some() { 8 } else { 0 },
            Item::Fixed(_, width) => width,
            Item::Text | Item::Bytes => 32,
        };
        let unknown_tags = if self.flexible.is_some() { 24 } else { 0 };
        (self.structs[index].fields.iter().map(of).sum::<u32>() + unknown_tags).next_multiple_of(8)
    }
}

pub(crate) fn within((low, high): Span, version: u16) -> bool {
    low <= version && version <= high
}

pub(crate) fn cut(a: Span, b: Span) -> Option<Span> {
    let (low, high) = (a.0.max(b.0), a.1.min(b.1));
    (low <= high).then_some((low, high))
}

/// `3+` is 3 and later, `1-4` is 1 to 4, `2` is 2, `none` or nothing is nothing.
fn span(json: &Value, name: &str) -> Result<Option<Span>> {
    let text = json.get(name).and_then(Value::as_str).unwrap_or("none");
    if text == "none" {
        return Ok(None);
    }
    if let Some(first) = text.strip_suffix('+') {
        return Ok(Some((first.parse()?, EVER)));
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse()?, high.parse()?);
    ensure!(low <= high && high < EVER, "{name}: {text}");
    Ok(Some((low, high)))
}

fn string(json: &Value, name: &str) -> Result<String> {
    Ok(json.get(name).and_then(Value::as_str).with_context(|| format!("no {name}"))?.to_owned())
}

fn list<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `ThrottleTimeMs` becomes `throttle_time_ms`, `ISRData` becomes `isr_data`.
pub(crate) fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|index| letters[index]);
        let after = letters.get(index + 1);
        let word_ends = before.is_some_and(|before| before.is_ascii_lowercase() || before.is_ascii_digit());
        let acronym_ends = before.is_some_and(|before| before.is_ascii_uppercase())
            && after.is_some_and(|after| after.is_ascii_lowercase());
        if letter.is_ascii_uppercase() && (word_ends || acronym_ends) {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_names_are_read_as_kafka_writes_them() {
        let json: Value = serde_json::json!({ "a": "3+", "b": "1-4", "c": "2", "d": "none", "e": "4-1" });
        assert_eq!(span(&json, "a").unwrap(), Some((3, EVER)));
        assert_eq!(span(&json, "b").unwrap(), Some((1, 4)));
        assert_eq!(span(&json, "c").unwrap(), Some((2, 2)));
        assert_eq!(span(&json, "d").unwrap(), None);
        assert_eq!(span(&json, "missing").unwrap(), None);
        assert!(span(&json, "e").is_err());
        assert_eq!(snake("ThrottleTimeMs"), "throttle_time_ms");
        assert_eq!(snake("V3AndBelowTopics"), "v3_and_below_topics");
        assert_eq!(snake("ISRData"), "isr_data");
    }

    #[test]
    fn widths_are_the_smallest_over_all_versions() {
        let text = r#"// a comment
            { "apiKey": 1, "type": "response", "name": "XResponse", "validVersions": "0-3", "flexibleVersions": "2+",
              "fields": [ { "name": "Id", "type": "int64", "versions": "1+" },
                          { "name": "Rows", "type": "[]Row", "versions": "0+", "nullableVersions": "3+", "fields": [
                            { "name": "Name", "type": "string", "versions": "0+" },
                            { "name": "Old", "type": "int8", "versions": "9+" },
                            { "name": "Hint", "type": "int32", "versions": "2+", "taggedVersions": "2+", "tag": "0" } ] } ] }
            text after the end"#;
        let message = parse(text).unwrap().unwrap();
        message.verify().unwrap();
        assert_eq!((message.fewest_bytes(0), message.fewest_bytes(1)), (4, 2));
        assert_eq!((message.memory(0), message.memory(1)), (56, 64));
        assert_eq!(message.structs[1].fields.len(), 2);
        assert_eq!(message.structs[1].fields[1].tag, Some(0));
    }

    #[test]
    fn what_the_walk_relies_on_is_checked() {
        let with = |fields: &str| {
            let text = format!(
                r#"{{ "apiKey": 1, "type": "response", "name": "X", "validVersions": "0", "flexibleVersions": "0+",
                   "fields": [ {fields} ] }}"#
            );
            parse(&text).and_then(|message| message.unwrap().verify())
        };
        let tagged = r#"{ "name": "A", "type": "int8", "versions": "0+", "taggedVersions": "0+", "tag": 1 }"#;
        with(tagged).unwrap();
        with(&format!("{tagged}, {tagged}")).unwrap_err();
        with(r#"{ "name": "A", "type": "string", "versions": "0+", "flexibleVersions": "none" }"#)
            .unwrap_err();
        with(
            r#"{ "name": "A", "type": "[]B", "versions": "0+", "fields": [
            { "name": "C", "type": "[]B", "versions": "7+" } ] }"#,
        )
        .unwrap();
    }
}
