//! Compares the shapes of two Kafka releases, version by version and without names.

#![allow(
    clippy::indexing_slicing,
    reason = "structs name each other by index; a chore may end on a broken schema"
)]

use super::schema::{Item, Message, within};

/// Prints every message that is in one release only, has other versions, or another shape in a version both have.
pub(crate) fn report(old: &[Message], new: &[Message]) {
    for message in new.iter().filter(|message| find(old, &message.name).is_none()) {
        println!("{}: only in the newer", message.name);
    }
    for before in old {
        let Some(after) = find(new, &before.name) else {
            println!("{}: only in the older", before.name);
            continue;
        };
        if before.versions != after.versions {
            println!("{}: versions {:?} -> {:?}", before.name, before.versions, after.versions);
        }
        let last = before.versions.1.min(after.versions.1);
        for version in before.versions.0.max(after.versions.0)..=last {
            let (a, b) = (flat(before, 0, version), flat(after, 0, version));
            if a != b || before.is_flexible(version) != after.is_flexible(version) {
                println!("{} v{version}:\n    {a}\n    {b}", before.name);
            }
        }
    }
}

fn find<'a>(messages: &'a [Message], name: &str) -> Option<&'a Message> {
    messages.iter().find(|message| message.name == name)
}

/// One version's shape as a line of text.
pub(crate) fn flat(message: &Message, index: usize, version: u16) -> String {
    let mut out = String::from("{");
    for field in message.structs[index].fields.iter().filter(|field| within(field.versions, version)) {
        out += if field.array { " []" } else { " " };
        out += &match field.item {
            Item::Fixed(word, _) => word.to_owned(),
            Item::Text => "STR".to_owned(),
            Item::Bytes => "BYTES".to_owned(),
            Item::Struct(inner) => flat(message, inner, version),
        };
        if field.nullable.is_some_and(|null| within(null, version)) {
            out += "?";
        }
        if let Some(tag) = field.tag {
            out += &format!("#{tag}");
        }
    }
    out + " }"
}
