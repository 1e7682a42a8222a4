//! The schemas of two releases as one: the newer's, and the versions that it dropped as the older has them.

#![allow(
    clippy::indexing_slicing,
    reason = "structs name each other by index; a chore may end on a broken schema"
)]

use anyhow::{Context, Result, bail, ensure};

use super::diff::flat;
use super::schema::{Field, Item, Message, Span, Struct, cut};

/// ControlledShutdown v0 alone has a request header of version 0, without a client id. Only brokers send it.
const FOREIGN_HEADER: (i16, u16) = (7, 0);

/// Adds to the newer release's messages the versions, and the messages, that only the older one has.
///
/// A preview (the older release's last version, if that release calls it unstable) is left out: it may have had
/// another shape in each release.
///
/// # Errors
/// If a version that both have does not have the same shape in both, or if the two cannot be told in one schema.
pub(crate) fn merge(older: Vec<Message>, newer: Vec<Message>) -> Result<Vec<Message>> {
    let previews: Vec<(i16, u16)> = older
        .iter()
        .filter(|message| message.unstable)
        .map(|message| (message.key, message.versions.1))
        .collect();
    let mut merged = newer;
    for mut old in older.into_iter().filter(|message| message.key >= 0) {
        let (mut low, mut high) = old.versions;
        if previews.contains(&(old.key, high)) {
            if low == high {
                continue;
            }
            high -= 1;
        }
        if FOREIGN_HEADER == (old.key, low) {
            low += 1;
        }
        old.limit((low, high));
        let found = merged.iter().position(|new| (new.key, &new.kind) == (old.key, &old.kind));
        match found {
            None => {
                old.verify().with_context(|| old.name.clone())?;
                merged.push(old);
            }
            Some(index) if low < merged[index].versions.0 => {
                let both = both(&old, &merged[index]).with_context(|| old.name.clone())?;
                both.verify().with_context(|| old.name.clone())?;
                merged[index] = both;
            }
            Some(_) => {}
        }
    }
    merged.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(merged)
}

/// One message as both releases have it.
fn both(old: &Message, new: &Message) -> Result<Message> {
    ensure!(old.versions.1 + 1 >= new.versions.0, "a gap between {:?} and {:?}", old.versions, new.versions);
    let flexible = match (old.flexible, new.flexible) {
        // Kafka's schemas say where flexible versions begin, in every release the same.
        (a, b) if a == b => a,
        (a, b) => bail!("flexible from {a:?} or from {b:?}"),
    };
    let mut message = Message {
        name: new.name.clone(),
        kind: new.kind.clone(),
        key: new.key,
        versions: (old.versions.0.min(new.versions.0), new.versions.1),
        flexible,
        unstable: new.unstable,
        structs: Vec::new(),
    };
    structure(&mut message, (old, 0), (new, 0))?;
    for version in message.versions.0..=message.versions.1 {
        for one in [old, new] {
            if (one.versions.0..=one.versions.1).contains(&version) {
                let (theirs, ours) = (flat(one, 0, version), flat(&message, 0, version));
                ensure!(theirs == ours, "version {version} differs:\n  {theirs}\n  {ours}");
            }
        }
    }
    Ok(message)
}

/// Adds a struct that both have, with the fields of both, in an order that keeps each one's.
fn structure(
    message: &mut Message,
    (old, of_old): (&Message, usize),
    (new, of_new): (&Message, usize),
) -> Result<usize> {
    let index = message.structs.len();
    message.structs.push(Struct { name: new.structs[of_new].name.clone(), fields: Vec::new() });
    let (before, after) = (&old.structs[of_old].fields, &new.structs[of_new].fields);
    let mut taken = 0;
    for field in after {
        let found = before.iter().position(|one| one.name == field.name);
        let Some(at) = found else {
            let field = copied(message, new, field);
            message.structs[index].fields.push(field);
            continue;
        };
        ensure!(at >= taken, "{} stands elsewhere", field.name);
        for gone in &before[taken..at] {
            let gone = copied(message, old, gone);
            message.structs[index].fields.push(gone);
        }
        taken = at + 1;
        let field = shared(message, (old, &before[at]), (new, field))?;
        message.structs[index].fields.push(field);
    }
    for gone in &before[taken..] {
        let gone = copied(message, old, gone);
        message.structs[index].fields.push(gone);
    }
    Ok(index)
}

/// A field that both have: its versions are those of both.
fn shared(
    message: &mut Message,
    (old, a): (&Message, &Field),
    (new, b): (&Message, &Field),
) -> Result<Field> {
    let same = (a.array, a.tag, a.rigid) == (b.array, b.tag, b.rigid);
    let item = match (&a.item, &b.item) {
        (Item::Struct(x), Item::Struct(y)) => {
            let known = message.structs.iter().position(|known| known.name == new.structs[*y].name);
            Item::Struct(match known {
                Some(index) => index,
                None => structure(message, (old, *x), (new, *y))?,
            })
        }
        (x, y) if x == y => x.clone(),
        _ => bail!("{} is of another type", a.name),
    };
    ensure!(same, "{} differs", a.name);
    let nullable = match (a.nullable, b.nullable) {
        (Some(x), Some(y)) => Some(union(x, y)),
        (x, y) => x.or(y),
    };
    let name = b.name.clone();
    Ok(Field {
        name,
        item,
        array: b.array,
        versions: union(a.versions, b.versions),
        nullable,
        tag: b.tag,
        rigid: b.rigid,
    })
}

/// A field that one of them has, with what is inside of it.
fn copied(message: &mut Message, from: &Message, field: &Field) -> Field {
    let item = match &field.item {
        Item::Struct(inner) => Item::Struct(copied_struct(message, from, *inner)),
        item => item.clone(),
    };
    Field { item, name: field.name.clone(), ..*field }
}

fn copied_struct(message: &mut Message, from: &Message, inner: usize) -> usize {
    let shape = &from.structs[inner];
    if let Some(known) = message.structs.iter().position(|known| known.name == shape.name) {
        return known;
    }
    let index = message.structs.len();
    message.structs.push(Struct { name: shape.name.clone(), fields: Vec::new() });
    for field in &shape.fields {
        let field = copied(message, from, field);
        message.structs[index].fields.push(field);
    }
    index
}

fn union(a: Span, b: Span) -> Span {
    (a.0.min(b.0), a.1.max(b.1))
}

impl Message {
    /// Leaves only some versions, and the fields of those.
    fn limit(&mut self, versions: Span) {
        self.versions = versions;
        for shape in &mut self.structs {
            shape.fields.retain_mut(|field| {
                let left = cut(field.versions, versions);
                field.versions = left.unwrap_or(field.versions);
                field.nullable = field.nullable.and_then(|null| cut(null, versions));
                left.is_some()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::parse;
    use super::*;

    fn message(versions: &str, fields: &str, more: &str) -> Message {
        let text = format!(
            r#"{{ "apiKey": 2, "type": "response", "name": "XResponse", "validVersions": "{versions}",
               "flexibleVersions": "4+", {more} "fields": [ {fields} ] }}"#
        );
        parse(&text).unwrap().unwrap()
    }

    const ROWS: &str = r#"{ "name": "Rows", "type": "[]Row", "versions": "0+", "fields": [
        { "name": "Id", "type": "int32", "versions": "0+" },
        { "name": "Old", "type": "[]int64", "versions": "0" },
        { "name": "New", "type": "int64", "versions": "1+" } ] }"#;
    const NEWER: &str = r#"{ "name": "Added", "type": "int8", "versions": "3+" },
        { "name": "Rows", "type": "[]Row", "versions": "0+", "fields": [
        { "name": "Id", "type": "int32", "versions": "0+" },
        { "name": "New", "type": "int64", "versions": "1+" } ] }"#;

    #[test]
    fn dropped_versions_come_back_with_their_fields_in_their_places() {
        let merged = merge(vec![message("0-2", ROWS, "")], vec![message("1-3", NEWER, "")]).unwrap();
        assert_eq!(merged[0].versions, (0, 3));
        assert_eq!(flat(&merged[0], 0, 0), "{ []{ I32 []I64 } }");
        assert_eq!(flat(&merged[0], 0, 2), "{ []{ I32 I64 } }");
        assert_eq!(flat(&merged[0], 0, 3), "{ I8 []{ I32 I64 } }");
    }

    #[test]
    fn a_shape_that_changed_inside_of_a_version_is_an_error() {
        let changed = NEWER.replace("int64", "int32");
        assert!(merge(vec![message("0-2", ROWS, "")], vec![message("1-3", &changed, "")]).is_err());
        assert!(merge(vec![message("0-2", ROWS, "")], vec![message("4-5", NEWER, "")]).is_err());
        let late = NEWER.replace("\"1+\"", "\"2+\"");
        assert!(merge(vec![message("0-2", ROWS, "")], vec![message("1-3", &late, "")]).is_err());
    }

    #[test]
    fn a_preview_is_left_out() {
        let preview = message("0-2", ROWS, r#""latestVersionUnstable": true,"#);
        let merged = merge(vec![preview], vec![message("2-3", NEWER, "")]).unwrap();
        assert_eq!(merged[0].versions, (0, 3));
        let preview = message("0", ROWS, r#""latestVersionUnstable": true,"#);
        assert_eq!(merge(vec![preview], vec![message("1-3", NEWER, "")]).unwrap()[0].versions, (1, 3));
    }
}
