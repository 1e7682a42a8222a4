//! The shapes of data, from a seed.

use std::fmt;

use milena::Isolation;
use milena_core::rng::Rng;

use super::script::{Entry, Script, Step};

/// A time that is long ago for every broker, in ms since 1970.
const LONG_AGO: i64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;
const MINUTE: i64 = 60_000;

/// A shape of data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shape {
    /// Keys of every length from 0 to 300, the partition chosen by the key, times out of order.
    Keys,
    /// No header to hundreds of them: names that repeat, empty and non-ASCII names, null, empty and long values.
    Headers,
    /// Null keys, null values, both.
    Nulls,
    /// Empty keys and values, which are not null.
    Empty,
    /// Values of 1 MiB that compress well, badly, and half.
    Large,
    /// Thousands of small records in three partitions.
    Many,
    /// Committed and aborted transactions in turn, records without a transaction before and between them, an abort at the end.
    Transactions,
    /// A compacted topic after the cleaner: batches with gaps, batches that lost all records, tombstones, aborted transactions.
    Compacted,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 8] = [
        Self::Keys,
        Self::Headers,
        Self::Nulls,
        Self::Empty,
        Self::Large,
        Self::Many,
        Self::Transactions,
        Self::Compacted,
    ];

    /// Its name in tables and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Headers => "headers",
            Self::Nulls => "nulls",
            Self::Empty => "empty",
            Self::Large => "large",
            Self::Many => "many",
            Self::Transactions => "transactions",
            Self::Compacted => "compacted",
        }
    }

    /// Whether a broker without record batches (before 0.11) can hold it.
    pub fn fits_message_sets(self) -> bool {
        !matches!(self, Self::Headers | Self::Transactions | Self::Compacted)
    }

    /// How it is read: in both ways if there are transactions in it.
    pub fn isolations(self) -> &'static [Isolation] {
        match self {
            Self::Transactions | Self::Compacted => &[Isolation::ReadCommitted, Isolation::ReadUncommitted],
            _ => &[Isolation::ReadCommitted],
        }
    }

    /// What its topics are configured with.
    pub fn configs(self) -> Vec<(String, String)> {
        let configs: &[(&str, &str)] = match self {
            // Its second half comes in a new segment, since the first is older than half an hour by then.
            Self::Compacted => &[
                ("cleanup.policy", "compact"),
                ("segment.ms", "1800000"),
                ("min.cleanable.dirty.ratio", "0.01"),
                ("min.compaction.lag.ms", "0"),
            ],
            // The records are older than what a broker keeps by default.
            _ => &[("retention.ms", "-1"), ("max.message.bytes", "8388608")],
        };
        configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The script: the same for the same seed and time. `now`, in ms since 1970, only matters where a broker compares the
    /// records' times with its own.
    pub fn script(self, seed: u64, now: i64) -> Script {
        let rng = Rng::new(seed ^ (self as u64) << 32);
        match self {
            Self::Keys => plain(3, keys(rng)),
            Self::Headers => plain(2, headers(rng)),
            Self::Nulls => plain(2, nulls(rng, None)),
            Self::Empty => plain(2, nulls(rng, Some(Vec::new()))),
            Self::Large => plain(2, large(rng)),
            Self::Many => plain(3, many(rng)),
            Self::Transactions => transactions(rng),
            Self::Compacted => compacted(rng, now),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn plain(partitions: i32, entries: Vec<Entry>) -> Script {
    let mut steps = vec![Step::Producer { transactional: false }];
    steps.extend(entries.into_iter().map(Step::Record));
    Script { partitions, steps }
}

fn random(rng: &mut Rng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
}

/// Text that every codec makes smaller.
fn words(rng: &mut Rng, length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = ["amber ", "birch ", "cedar ", "delta ", "ember ", "fjord ", "grove ", "haven "];
    let mut text = Vec::with_capacity(length + 8);
    while text.len() < length {
        let word = usize::try_from(rng.below(8)).unwrap_or_default();
        text.extend(WORDS.get(word).copied().unwrap_or_default().as_bytes());
    }
    text.truncate(length);
    text
}

fn keys(mut rng: Rng) -> Vec<Entry> {
    let entry = |(place, length): (i64, usize)| Entry {
        partition: None,
        // A batch's base is its first time: later records may be older than that.
        timestamp: LONG_AGO + (place * 7919) % 100_000,
        key: Some(random(&mut rng, length)),
        value: Some(words(&mut rng, 20 + length)),
        headers: Vec::new(),
    };
    (0..301).zip(0..301).map(entry).collect()
}

/// A header, its name borrowed.
type Named<'a> = (&'a str, Option<Vec<u8>>);

fn headers(mut rng: Rng) -> Vec<Entry> {
    let some = |text: &str| Some(text.as_bytes().to_vec());
    let long = "n".repeat(300);
    let sets: Vec<Vec<Named<'_>>> = vec![
        vec![],
        vec![("h", some("1"))],
        vec![("h", some("1")), ("h", some("2")), ("h", some("1"))],
        vec![("null", None), ("empty", some("")), ("null", None)],
        vec![("", some("an empty name")), ("", None)],
        // No NUL: librdkafka's names are C strings.
        vec![("é\u{1F980}", Some(vec![0, 255, 128])), ("\u{FFFD}", some("\r\n"))],
        vec![(&long, Some(random(&mut rng, 9000)))],
        // Their number takes two bytes.
        (0..200).map(|place| ("many", (place % 3 != 0).then(|| vec![place; 3]))).collect(),
    ];
    let owned =
        |set: &Vec<Named<'_>>| set.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let entry = |place: i64| Entry {
        partition: Some(i32::from(place % 5 == 0)),
        timestamp: LONG_AGO + place,
        key: Some(format!("key-{place}").into_bytes()),
        value: Some(words(&mut rng, 60)),
        headers: sets
            .iter()
            .cycle()
            .nth(usize::try_from(place).unwrap_or_default())
            .map_or(Vec::new(), owned),
    };
    (0..48).map(entry).collect()
}

/// Keys and values that are nothing, in all combinations, among those that are something.
fn nulls(mut rng: Rng, nothing: Option<Vec<u8>>) -> Vec<Entry> {
    let entry = |place: i64| Entry {
        partition: Some(i32::from(place >= 60)),
        timestamp: LONG_AGO + place,
        key: if place % 2 == 0 { nothing.clone() } else { Some(b"key".to_vec()) },
        value: if place % 3 == 0 { nothing.clone() } else { Some(words(&mut rng, 30)) },
        headers: Vec::new(),
    };
    (0..120).map(entry).collect()
}

fn large(mut rng: Rng) -> Vec<Entry> {
    let mut half = words(&mut rng, MIB / 2);
    half.extend(random(&mut rng, MIB / 2));
    let values = [words(&mut rng, MIB), random(&mut rng, MIB), half];
    let entry = |(place, value): (i64, Vec<u8>)| Entry {
        partition: Some(i32::from(place == 1)),
        timestamp: LONG_AGO + place,
        key: None,
        value: Some(value),
        headers: Vec::new(),
    };
    (0..).zip(values).map(entry).collect()
}

fn many(mut rng: Rng) -> Vec<Entry> {
    let entry = |place: i64| Entry {
        partition: Some((place % 3) as i32),
        timestamp: LONG_AGO + place,
        key: (place % 4 == 0).then(|| vec![b'k', (place % 256) as u8]),
        value: Some(format!("{place} {}", rng.below(1000)).into_bytes()),
        headers: Vec::new(),
    };
    (0..6000).map(entry).collect()
}

fn transactions(mut rng: Rng) -> Script {
    let mut steps = vec![Step::Producer { transactional: false }];
    let mut write = |steps: &mut Vec<Step>, partition: i32, count: i64| {
        let from = steps.len() as i64;
        for place in 0..count {
            steps.push(Step::Record(Entry {
                partition: Some(partition),
                timestamp: LONG_AGO + from + place,
                key: Some(format!("{from}-{place}").into_bytes()),
                value: Some(words(&mut rng, 50)),
                headers: vec![("step".to_owned(), Some(from.to_string().into_bytes()))],
            }));
        }
    };
    write(&mut steps, 0, 20);
    steps.push(Step::Producer { transactional: true });
    // Committed or not, and how many records in either partition.
    let plan = [
        (true, 20, 20),
        (false, 20, 20),
        (true, 30, 0),
        (false, 0, 25),
        (false, 20, 0),
        (true, 1, 1),
        (true, 80, 80),
        (false, 20, 20),
    ];
    for (round, (committed, first, second)) in plan.into_iter().enumerate() {
        if round == 4 {
            steps.push(Step::Producer { transactional: false });
            write(&mut steps, 1, 20);
            steps.push(Step::Producer { transactional: true });
        }
        steps.push(Step::Begin);
        write(&mut steps, 0, first);
        write(&mut steps, 1, second);
        // Without it an abort may discard what was not sent yet.
        steps.push(Step::Flush);
        steps.push(if committed { Step::Commit } else { Step::Abort });
    }
    Script { partitions: 2, steps }
}

fn compacted(mut rng: Rng, now: i64) -> Script {
    let mut steps = Vec::new();
    let mut time = now - 10 * MINUTE;
    let mut write = |steps: &mut Vec<Step>, key: i32, value: bool, round: u8| {
        time += 1;
        steps.push(Step::Record(Entry {
            partition: Some(0),
            timestamp: time,
            key: Some(format!("key-{key}").into_bytes()),
            value: value.then(|| words(&mut rng, 60)),
            headers: if key % 7 == 0 { vec![("round".to_owned(), Some(vec![round]))] } else { Vec::new() },
        }));
    };
    // Nothing of the first producer is left: its last batch stays, empty, for the sake of its sequence.
    steps.push(Step::Producer { transactional: false });
    (0..40).for_each(|key| write(&mut steps, key, true, 0));
    // Of the second producer every third record stays, and some of them are tombstones.
    steps.push(Step::Producer { transactional: false });
    (0..40).for_each(|key| write(&mut steps, key, key % 4 != 0, 1));
    // The aborted values replace nothing.
    steps.push(Step::Producer { transactional: true });
    for (committed, remainder) in [(true, 1), (false, 0), (true, 2), (false, 1)] {
        steps.push(Step::Begin);
        (0..40).filter(|key| key % 3 == remainder).for_each(|key| write(&mut steps, key, true, 2));
        steps.push(Step::Flush);
        steps.push(if committed { Step::Commit } else { Step::Abort });
    }
    // The cleaner leaves the newest segment alone. This begins a new one: it is an hour younger than the first record.
    steps.push(Step::Producer { transactional: false });
    let last = Entry { partition: Some(0), timestamp: now + 50 * MINUTE, ..Entry::default() };
    let value = Some(b"begins the last segment".to_vec());
    steps.push(Step::Record(Entry { key: Some(b"last".to_vec()), value, ..last }));
    Script { partitions: 1, steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all() {
        for shape in Shape::ALL {
            let script = shape.script(7, LONG_AGO);
            assert!(script == shape.script(7, LONG_AGO), "{shape}");
            assert!(script != shape.script(8, LONG_AGO), "{shape}");
            assert!(script.log().partitions.iter().all(|records| !records.is_empty()), "{shape}");
        }
    }

    #[test]
    fn the_cleaner_has_something_to_do() {
        let log = Shape::Compacted.script(1, LONG_AGO).log();
        let written = log.partitions[0].len();
        let kept = &log.clone().compacted().partitions[0];
        assert!(kept.len() * 3 < written && kept.iter().any(|record| record.entry.value.is_none()));
        assert!(kept.iter().all(|record| record.offset >= 40), "nothing of the first producer");
    }
}
