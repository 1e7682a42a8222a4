//! What is spoken of a Kafka release, per API and version.

use std::fmt::Write;

use milena_protocol::guard::{request_message, response_message, shape};
use milena_protocol::messages::ApiKey;
use milena_protocol::{VersionRange, api_name, supported};

use super::schema::{Message, within};

/// Versions of an API that are not spoken, and are not meant to be: its key, the first and the last of them, and why.
const LEFT_OUT: &[(i16, u16, u16, &str)] = &[
    (4, 0, 7, "brokers among themselves, gone with ZooKeeper"),
    (5, 0, 4, "brokers among themselves, gone with ZooKeeper"),
    (6, 0, 8, "brokers among themselves, gone with ZooKeeper"),
    (7, 0, 3, "brokers among themselves, gone with ZooKeeper"),
    (22, 6, 6, "a preview"),
    (88, 0, 0, "kafka-protocol has no struct"),
    (89, 0, 0, "kafka-protocol has no struct"),
];

/// Prints the report, and returns what is neither spoken nor known to be left out.
pub(crate) fn report(messages: &[Message]) -> Vec<String> {
    let structs: usize = messages.iter().map(|message| message.structs.len()).sum();
    println!("{} messages, {structs} structs", messages.len());
    println!("{:>3} {:<30} {:>7} {:>7} {:>14}  rest", "key", "api", "kafka", "spoken", "kafka-protocol");
    let mut missing = Vec::new();
    let mut requests: Vec<&Message> = messages.iter().filter(|message| message.kind == "request").collect();
    requests.sort_by_key(|message| message.key);
    for message in requests {
        let (key, name) = (message.key, message.name.trim_end_matches("Request"));
        let spoken = supported(key);
        let direct = ApiKey::try_from(key).ok().map(|api| api.valid_versions());
        let silent: Vec<u16> = (message.versions.0..=message.versions.1)
            .filter(|version| {
                let version = i16::try_from(*version).unwrap_or(i16::MAX);
                !spoken.is_some_and(|range| range.contains(version))
            })
            .collect();
        let mut rest = String::new();
        if !silent.is_empty() {
            let (known, new): (Vec<u16>, Vec<u16>) =
                silent.iter().partition(|version| left_out(key, **version).is_some());
            if let Some(reason) = known.first().and_then(|version| left_out(key, *version)) {
                let _ = write!(rest, "not spoken: {known:?}: {reason}");
            }
            if !new.is_empty() {
                let _ = write!(rest, "not spoken: {new:?}: MISSING");
                missing.push(format!("{name} {new:?}"));
            }
        }
        println!(
            "{key:>3} {name:<30} {:>7} {:>7} {:>14}  {rest}",
            range(message.versions.0.into(), message.versions.1.into()),
            spoken.map_or("-".to_owned(), |VersionRange { min, max }| range(min.into(), max.into())),
            direct.map_or("-".to_owned(), |direct| range(direct.min.into(), direct.max.into())),
        );
    }
    missing
}

/// Why a version is left out; `None` if it is not known to be.
fn left_out(key: i16, version: u16) -> Option<&'static str> {
    let entry = LEFT_OUT.iter().find(|(left, from, to, _)| *left == key && (*from..=*to).contains(&version));
    entry.map(|(.., reason)| *reason)
}

/// `0-7`, or `0` if it is one version.
fn range(low: i32, high: i32) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

/// Prints where the table that this program was built with has other fields than the schemas, version by version: what a new
/// release added, before the table is written again.
pub(crate) fn fields(messages: &[Message]) {
    for message in messages.iter().filter(|message| message.key >= 0) {
        let known = if message.kind == "request" { request_message } else { response_message };
        let Some(table) = known(message.key) else {
            println!("{} ({}): not in the table", message.name, message.key);
            continue;
        };
        for version in message.versions.0..=message.versions.1 {
            let Some(known) = i16::try_from(version).ok().and_then(|version| table.version(version)) else {
                println!("{} v{version}: not in the table", message.name);
                continue;
            };
            let (mut theirs, mut ours) = (Vec::new(), Vec::new());
            of_schema(message, 0, version, "", &mut theirs);
            of_table(table.root, known, "", &mut ours);
            for field in theirs.iter().filter(|field| !ours.contains(field)) {
                println!("{} v{version}: has {field}", message.name);
            }
            for field in ours.iter().filter(|field| !theirs.contains(field)) {
                println!("{} v{version}: has no {field}", message.name);
            }
        }
    }
}

fn of_schema(message: &Message, index: usize, version: u16, path: &str, out: &mut Vec<String>) {
    let Some(shape) = message.structs.get(index) else { return };
    for field in shape.fields.iter().filter(|field| within(field.versions, version)) {
        let path = format!("{path}{}", field.name);
        if let super::schema::Item::Struct(inner) = field.item {
            of_schema(message, inner, version, &format!("{path}."), out);
        }
        out.push(path);
    }
}

fn of_table(shape: &shape::Shape, version: u8, path: &str, out: &mut Vec<String>) {
    for field in shape.fields.iter().filter(|field| field.exists(version)) {
        let path = format!("{path}{}", field.name);
        if let shape::Item::Struct(inner) = field.kind.item {
            of_table(inner, version, &format!("{path}."), out);
        }
        out.push(path);
    }
}

/// What the table has and the schemas do not: an API that is spoken and that no release knows any more.
pub(crate) fn unknown(messages: &[Message]) -> Vec<String> {
    let spoken = (0..i16::MAX).take(1000).filter(|key| supported(*key).is_some());
    spoken
        .filter(|key| !messages.iter().any(|message| message.key == *key))
        .map(|key| api_name(key).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_of_an_api_that_is_left_out_in_one_is_not_left_out() {
        assert_eq!(left_out(22, 6), Some("a preview"));
        assert_eq!(
            (left_out(22, 5), left_out(22, 7), left_out(4, 8), left_out(0, 0)),
            (None, None, None, None)
        );
    }
}
