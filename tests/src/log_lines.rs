//! What `milena records -J` and Kafka's kafka-dump-log say of a log file, as far as both tell the same.

use std::collections::BTreeMap;

use serde_json::Value;

/// One line of either tool: a batch, or a message of formats 0 and 1 that is none's inside; or a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// A batch, by the names that ours has for what it says.
    Batch(BTreeMap<&'static str, String>),
    /// A record in it.
    Record {
        /// Its offset.
        offset: i64,
        /// Its time in ms since 1970, -1 for none.
        time: i64,
        /// The bytes of its key, -1 for null.
        key: i64,
        /// The bytes of its value, -1 for null.
        value: i64,
        /// The names of its headers, with commas between them.
        headers: String,
        /// Its value as text; of a marker what it says.
        more: String,
    },
}

/// What both say of a batch in every format: our names, and Java's.
const EVERY: [(&str, &str); 5] = [
    ("position", "position"),
    ("size", "size"),
    ("format", "magic"),
    ("compression", "compresscodec"),
    ("crc_ok", "isvalid"),
];
/// What they say besides of one of format 2.
const FORMAT_2: [(&str, &str); 9] = [
    ("base_offset", "baseOffset"),
    ("last_offset", "lastOffset"),
    ("records", "count"),
    ("base_sequence", "baseSequence"),
    ("producer_id", "producerId"),
    ("producer_epoch", "producerEpoch"),
    ("leader_epoch", "partitionLeaderEpoch"),
    ("transactional", "isTransactional"),
    ("control", "isControl"),
];
/// And of one of formats 0 and 1, which has no other offset.
const OLDER: [(&str, &str); 1] = [("last_offset", "offset")];

/// What kafka-dump-log printed.
///
/// # Panics
/// If a line lacks what it should say.
#[must_use]
pub fn java_lines(printed: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in printed.lines() {
        // A value ends at the next space: none of those that are compared holds one.
        let field = |name: &str| {
            let (_, from) = line.split_once(&format!("{name}: "))?;
            from.split(' ').next().map(str::to_owned)
        };
        let known = |name: &str| field(name).unwrap_or_else(|| panic!("no {name} in {line:?}"));
        let number = |name: &str| {
            field(name)
                .map_or(-1, |text| text.parse::<i64>().unwrap_or_else(|error| panic!("{error}: {line:?}")))
        };
        let special: &[_] = match line {
            _ if line.starts_with("baseOffset: ") => &FORMAT_2,
            _ if line.starts_with("offset: ") => &OLDER,
            _ if line.starts_with("| offset: ") => {
                let more = match field("endTxnMarker") {
                    Some(kind) => format!("{} {}", kind.to_lowercase(), number("coordinatorEpoch")),
                    None => line.split_once("payload: ").map_or("", |(_, payload)| payload).to_owned(),
                };
                lines.push(Line::Record {
                    offset: number("offset"),
                    time: number("CreateTime"),
                    key: number("keySize"),
                    value: number("valueSize"),
                    // Records of formats 0 and 1 can have none.
                    headers: field("headerKeys").unwrap_or_default().trim_matches(['[', ']']).to_owned(),
                    more,
                });
                continue;
            }
            _ => continue,
        };
        let told = EVERY.iter().chain(special);
        let mut fields: BTreeMap<_, _> = told.map(|&(ours, theirs)| (ours, known(theirs))).collect();
        fields.insert("crc", format!("{:08x}", number("crc")));
        lines.push(Line::Batch(fields));
    }
    lines
}

/// What `milena records -J` printed.
///
/// # Panics
/// If a line is not what it should be.
#[must_use]
pub fn our_lines(printed: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in printed.lines() {
        let batch: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let plain = |name: &'static str| {
            let text = match batch.get(name) {
                None | Some(Value::Null) => "-1".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            (name, text)
        };
        let special: &[_] =
            if batch.get("format").and_then(Value::as_i64) == Some(2) { &FORMAT_2 } else { &OLDER };
        let told = EVERY.iter().chain(special).map(|&(ours, _)| ours);
        lines.push(Line::Batch(told.chain(["crc"]).map(plain).collect()));
        let entries = batch.get("entries").and_then(Value::as_array);
        for entry in entries.unwrap_or_else(|| panic!("no entries: {line}")) {
            let number = |name: &str| {
                entry.get(name).and_then(Value::as_i64).unwrap_or_else(|| panic!("no {name}: {entry}"))
            };
            let text = |name: &str| entry.get(name).and_then(Value::as_str);
            let length = |name: &str| text(name).map_or(-1, |text| text.len() as i64);
            let control = entry.get("control").and_then(Value::as_object);
            // Names and values take turns.
            let headers = entry.get("headers").and_then(Value::as_array).into_iter().flatten().step_by(2);
            let names: Vec<&str> =
                headers.map(|name| name.as_str().unwrap_or_else(|| panic!("no name: {entry}"))).collect();
            lines.push(Line::Record {
                offset: number("offset"),
                time: number("ts"),
                // The keys and values of markers are bytes: their sizes are those of every marker.
                key: if control.is_some() { 4 } else { length("key") },
                value: if control.is_some() { 6 } else { length("payload") },
                headers: names.join(","),
                more: match control.map(|control| (control.get("kind"), control.get("coordinator_epoch"))) {
                    None => text("payload").unwrap_or("").to_owned(),
                    Some((Some(Value::String(kind)), Some(epoch))) => format!("{kind} {epoch}"),
                    Some(_) => panic!("not all of a marker: {entry}"),
                },
            });
        }
    }
    lines
}
