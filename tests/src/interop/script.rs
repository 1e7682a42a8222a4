//! What is written, and what a topic must hold afterwards.

use std::collections::BTreeMap;
use std::fmt::Write;

use milena::Isolation;
use milena_core::partition::keyed;

/// A record to be written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The partition; `None` leaves the choice to the implementation, which must choose as Kafka's Java client does.
    pub partition: Option<i32>,
    /// Its time in ms since 1970.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A step of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Another producer takes over.
    Producer {
        /// Whether it writes in transactions.
        transactional: bool,
    },
    /// A record is handed over.
    Record(Entry),
    /// Everything handed over is to be acknowledged.
    Flush,
    /// A transaction begins.
    Begin,
    /// The transaction is committed.
    Commit,
    /// The transaction is aborted.
    Abort,
}

/// What happens to a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// How many partitions it has.
    pub partitions: i32,
    /// The steps.
    pub steps: Vec<Step>,
}

/// A record in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    /// Where.
    pub offset: i64,
    /// What.
    pub entry: Entry,
    /// False if its transaction was aborted.
    pub committed: bool,
}

/// The log of a topic, by partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The records.
    pub partitions: Vec<Vec<Logged>>,
    /// The offset after the last record or marker.
    pub ends: Vec<i64>,
}

impl Script {
    /// The script as agents read it: one step a line.
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        for step in &self.steps {
            match step {
                Step::Producer { transactional } => {
                    let _ = write!(lines, "{{\"op\":\"producer\",\"transactional\":{transactional}}}");
                }
                Step::Record(entry) => record_step(&mut lines, entry),
                Step::Flush => lines.push_str("{\"op\":\"flush\"}"),
                Step::Begin => lines.push_str("{\"op\":\"begin\"}"),
                Step::Commit => lines.push_str("{\"op\":\"commit\"}"),
                Step::Abort => lines.push_str("{\"op\":\"abort\"}"),
            }
            lines.push('\n');
        }
        lines
    }

    /// The script in parts, to be run one after the other, each when the log ends where the one before leaves it: the marker of a
    /// transaction may be written after its producer was answered, and another producer would not wait for it.
    #[must_use]
    pub fn parts(&self) -> Vec<(Self, Vec<i64>)> {
        let mut parts = Vec::new();
        let (mut begin, mut transactional) = (0, false);
        for (place, step) in self.steps.iter().enumerate() {
            if let Step::Producer { transactional: next } = step {
                if transactional {
                    parts.push(self.part(begin, place));
                    begin = place;
                }
                transactional = *next;
            }
        }
        parts.push(self.part(begin, self.steps.len()));
        parts
    }

    /// The steps between two places, and where the log ends after them.
    fn part(&self, begin: usize, end: usize) -> (Self, Vec<i64>) {
        let steps = |skipped: usize| self.steps.iter().take(end).skip(skipped).cloned().collect();
        let script = |steps| Self { partitions: self.partitions, steps };
        (script(steps(begin)), script(steps(0)).log().ends)
    }

    /// What a topic holds once the script was run: records get the next offset of their partition, and so does the marker that
    /// ends a transaction, in each partition that the transaction wrote to.
    ///
    /// # Panics
    /// For a record without partition and key: where that goes is chance.
    pub fn log(&self) -> Log {
        let count = usize::try_from(self.partitions).unwrap_or_default();
        let mut log = Log { partitions: vec![Vec::new(); count], ends: vec![0; count] };
        // Where the open transaction began in each partition it wrote to: an index into that partition's records.
        let mut open: Option<BTreeMap<usize, usize>> = None;
        for step in &self.steps {
            match step {
                Step::Producer { .. } | Step::Flush => {}
                Step::Begin => open = Some(BTreeMap::new()),
                Step::Record(entry) => {
                    let index = self.place(entry);
                    let (Some(records), Some(end)) = (log.partitions.get_mut(index), log.ends.get_mut(index))
                    else {
                        panic!("there is no partition {index}");
                    };
                    if let Some(open) = &mut open {
                        open.entry(index).or_insert(records.len());
                    }
                    records.push(Logged { offset: *end, entry: entry.clone(), committed: true });
                    *end += 1;
                }
                Step::Commit | Step::Abort => {
                    for (index, first) in open.take().unwrap_or_default() {
                        if let (Some(records), Some(end)) =
                            (log.partitions.get_mut(index), log.ends.get_mut(index))
                        {
                            *end += 1;
                            let written = records.iter_mut().skip(first);
                            written.for_each(|record| record.committed = *step == Step::Commit);
                        }
                    }
                }
            }
        }
        log
    }

    fn place(&self, entry: &Entry) -> usize {
        let count = u32::try_from(self.partitions).unwrap_or_default();
        let keyed = || entry.key.as_deref().and_then(|key| keyed(key, count)).map(|partition| partition.0);
        let partition = entry.partition.or_else(keyed);
        let index = partition.and_then(|partition| usize::try_from(partition).ok());
        index.unwrap_or_else(|| panic!("a record without partition and key"))
    }
}

impl Log {
    /// What is left when the cleaner has been over everything but the last record of each partition: the last committed value
    /// of each key. Tombstones are kept for a day, offsets do not move.
    #[must_use]
    pub fn compacted(mut self) -> Self {
        for records in &mut self.partitions {
            let mut last = BTreeMap::new();
            for record in records.iter().filter(|record| record.committed) {
                last.insert(record.entry.key.clone(), record.offset);
            }
            records.retain(|record| last.get(&record.entry.key) == Some(&record.offset));
        }
        self
    }

    /// What a reader must print, partition by partition.
    pub fn expected(&self, isolation: Isolation) -> Vec<Vec<String>> {
        let visible = |record: &&Logged| record.committed || isolation == Isolation::ReadUncommitted;
        let print = |partition: usize, records: &Vec<Logged>| {
            let partition = i32::try_from(partition).unwrap_or_default();
            records.iter().filter(visible).map(|record| record.line(partition)).collect()
        };
        self.partitions.iter().enumerate().map(|(partition, records)| print(partition, records)).collect()
    }
}

impl Logged {
    fn line(&self, partition: i32) -> String {
        let entry = &self.entry;
        let headers = entry.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
        let times = (self.offset, entry.timestamp);
        line(partition, times, entry.key.as_deref(), entry.value.as_deref(), headers)
    }
}

fn record_step(line: &mut String, entry: &Entry) {
    line.push_str("{\"op\":\"record\",\"partition\":");
    match entry.partition {
        Some(partition) => drop(write!(line, "{partition}")),
        None => line.push_str("null"),
    }
    let _ = write!(line, ",\"timestamp\":{},", entry.timestamp);
    let headers = entry.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
    contents(line, entry.key.as_deref(), entry.value.as_deref(), headers);
}

/// The line for a record that was read, given its offset and time: the same for all implementations.
pub fn line<'a>(
    partition: i32,
    (offset, timestamp): (i64, i64),
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> String {
    let mut line = format!("{{\"partition\":{partition},\"offset\":{offset},\"timestamp\":{timestamp},");
    contents(&mut line, key, value, headers);
    line
}

fn contents<'a>(
    line: &mut String,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) {
    line.push_str("\"key\":");
    quoted(line, key);
    line.push_str(",\"value\":");
    quoted(line, value);
    line.push_str(",\"headers\":[");
    for (place, (name, value)) in headers.enumerate() {
        line.push_str(if place == 0 { "[" } else { ",[" });
        quoted(line, Some(name));
        line.push(',');
        quoted(line, value);
        line.push(']');
    }
    line.push_str("]}");
}

fn quoted(line: &mut String, bytes: Option<&[u8]>) {
    match bytes {
        None => line.push_str("null"),
        Some(bytes) => {
            line.push('"');
            hex(line, bytes);
            line.push('"');
        }
    }
}

/// Appends bytes as lower-case hex.
pub fn hex(text: &mut String, bytes: &[u8]) {
    text.reserve(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }));
        }
    }
}

/// Bytes from hex; `None` if it is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(partition: i32, key: &str) -> Step {
        Step::Record(Entry { partition: Some(partition), key: Some(key.into()), ..Entry::default() })
    }

    #[test]
    fn markers_take_an_offset_and_aborted_records_are_for_the_uncommitted_only() {
        let steps = vec![
            Step::Begin,
            entry(0, "a"),
            Step::Abort,
            Step::Begin,
            entry(0, "b"),
            entry(1, "c"),
            Step::Commit,
        ];
        let log = Script { partitions: 2, steps }.log();
        assert_eq!(log.ends, [4, 2]);
        let committed = log.expected(Isolation::ReadCommitted);
        assert_eq!(
            committed.concat(),
            [
                r#"{"partition":0,"offset":2,"timestamp":0,"key":"62","value":null,"headers":[]}"#,
                r#"{"partition":1,"offset":0,"timestamp":0,"key":"63","value":null,"headers":[]}"#
            ]
        );
        assert_eq!(log.expected(Isolation::ReadUncommitted).concat().len(), 3);
    }

    #[test]
    fn compaction_keeps_the_last_committed_value_of_each_key() {
        let steps =
            vec![entry(0, "a"), entry(0, "b"), entry(0, "a"), Step::Begin, entry(0, "b"), Step::Abort];
        let log = Script { partitions: 1, steps }.log().compacted();
        let offsets: Vec<_> = log.partitions[0].iter().map(|record| record.offset).collect();
        assert_eq!((offsets, log.ends), (vec![1, 2], vec![5]));
    }

    #[test]
    fn another_producer_waits_for_markers() {
        let producer = |transactional| Step::Producer { transactional };
        let steps = vec![
            producer(false),
            entry(0, "a"),
            producer(true),
            Step::Begin,
            entry(0, "b"),
            Step::Commit,
            producer(false),
            entry(0, "c"),
        ];
        let script = Script { partitions: 1, steps };
        let parts = script.parts();
        let ends: Vec<_> = parts.iter().map(|(part, ends)| (part.steps.len(), ends[0])).collect();
        assert_eq!(ends, [(6, 3), (2, 4)]);
        assert_eq!(parts.iter().map(|(part, _)| part.lines()).collect::<String>(), script.lines());
    }

    #[test]
    fn hex_comes_back_as_bytes() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        hex(&mut text, &bytes);
        assert_eq!((unhex(&text), unhex("0"), unhex("0G")), (Some(bytes), None, None));
    }
}
