//! Batches and message sets that Kafka's own client library wrote (`tests/data/java/WriteBatches.java` and
//! `WriteSets.java`), and ours read by it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a panic is how a check fails here

use bytes::Bytes;
use milena_protocol::compression::Compression;
use milena_protocol::records::*;
use milena_protocol::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

fn only(mut batches: Batches) -> RecordBatch {
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none() && batches.rest().is_empty());
    batch
}

fn check(codec: Compression, bytes: &'static [u8], count: u32) {
    let batch = only(batches(Bytes::from_static(bytes)));
    batch.verify_crc().unwrap();
    assert_eq!(batch.compression(), codec);
    assert_eq!(batch.record_count(), count);
    assert_eq!((batch.base_offset(), batch.next_offset()), (Offset(500), Offset(500 + i64::from(count))));
    assert_eq!((batch.producer_id(), batch.producer_epoch()), (Some(ProducerId(77)), Some(ProducerEpoch(3))));
    assert_eq!((batch.base_sequence(), batch.leader_epoch()), (Some(Sequence(21)), Some(LeaderEpoch(4))));
    assert!(batch.is_transactional() && !batch.is_control());
    assert_eq!(batch.max_timestamp(), 1_700_000_000_000 + i64::from(count) - 1);
    let records = batch.records().unwrap();
    let mut read = 0;
    for (i, record) in records.iter().enumerate() {
        let record = record.unwrap();
        assert_eq!((record.offset, record.timestamp), (Offset(500 + i as i64), 1_700_000_000_000 + i as i64));
        let key = (i % 5 != 4).then(|| format!("key-{i}").into_bytes());
        let value = (i % 7 != 6).then(|| vec![i as u8; 100]);
        assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()));
        let number = i.to_string();
        let headers =
            [Header::new("h", Some(number.as_bytes())), Header::new("h", None), Header::new("é", Some(b""))];
        let expected = if i % 3 == 0 { &headers[..] } else { &[] };
        assert_eq!(record.headers.iter().collect::<Vec<_>>(), expected);
        assert_eq!(record.headers.last("h"), (i % 3 == 0).then_some(None));
        read += 1;
    }
    assert_eq!(read, count);
}

#[test]
fn javas_batches_are_read_in_every_codec() {
    check(Compression::None, include_bytes!("data/java/none.batch"), 3);
    check(Compression::Gzip, include_bytes!("data/java/gzip.batch"), 400);
    check(Compression::Snappy, include_bytes!("data/java/snappy.batch"), 400);
    check(Compression::Lz4, include_bytes!("data/java/lz4.batch"), 700);
    check(Compression::Zstd, include_bytes!("data/java/zstd.batch"), 400);
}

#[test]
fn javas_marker_is_read() {
    let batch = only(batches(Bytes::from_static(include_bytes!("data/java/abort.batch"))));
    batch.verify_crc().unwrap();
    assert_eq!(batch.control().unwrap(), Some(ControlRecord::Abort { coordinator_epoch: 12 }));
    assert_eq!((batch.base_offset(), batch.base_sequence()), (Offset(1000), None));
    let ours = build_control_batch(
        Offset(1000),
        ProducerId(77),
        ProducerEpoch(3),
        ControlKind::Abort,
        12,
        1_700_000_000_000,
    );
    let mut ours = ours.to_vec();
    set_base_offset(&mut ours, Offset(1000), LeaderEpoch(4)).unwrap();
    assert_eq!(batch.as_bytes(), &ours, "ours is the same, byte for byte");
}

#[test]
fn our_uncompressed_batch_is_javas_byte_for_byte() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for i in 0..3u8 {
        let headers = [Header::new("h", Some(b"0")), Header::new("h", None), Header::new("é", Some(b""))];
        let headers = if i == 0 { &headers[..] } else { &[] };
        let time = 1_700_000_000_000 + i64::from(i);
        builder
            .push(time, Some(format!("key-{i}").as_bytes()), Some(&[i; 100]), headers.iter().copied())
            .unwrap();
    }
    let identity = BatchIdentity {
        producer_id: ProducerId(77),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(21),
        transactional: true,
        leader_epoch: LeaderEpoch(4),
        base_offset: Offset(500),
    };
    assert_eq!(builder.build(identity).unwrap(), &include_bytes!("data/java/none.batch")[..]);
}

/// The records of one batch as the files have them: index and offset.
fn indices(batch: &RecordBatch) -> Vec<i64> {
    batch.verify_crc().unwrap();
    let records = batch.records().unwrap();
    let mut read = Vec::new();
    for record in &records {
        let record = record.unwrap();
        let i = record.offset.0 - 500;
        assert_eq!(record.key, (i % 5 != 4).then(|| format!("key-{i}")).as_deref().map(str::as_bytes));
        assert_eq!(record.value, (i % 7 != 6).then(|| vec![i as u8; 100]).as_deref());
        assert_eq!(record.headers.len(), if i % 3 == 0 { 3 } else { 0 });
        let time = match batch.timestamp_type() {
            TimestampType::CreateTime => 1_700_000_000_000 + i,
            TimestampType::LogAppendTime => 1_700_000_099_000,
        };
        assert_eq!(record.timestamp, time);
        read.push(i);
    }
    assert_eq!((read.len(), batch.record_count()), (records.count() as usize, records.count()));
    read
}

#[test]
fn what_javas_broker_makes_of_batches_is_read() {
    let batch = only(batches(Bytes::from_static(include_bytes!("data/java/append.batch"))));
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((batch.max_timestamp(), batch.producer_id()), (1_700_000_099_000, None));
    assert_eq!(indices(&batch), (0..20).collect::<Vec<_>>());

    // Which records stay, and when the tombstones among them may go.
    type Cleaned = (&'static [u8], fn(&i64) -> bool, Option<i64>);
    let cleaned: [Cleaned; 3] = [
        (
            include_bytes!("data/java/compacted.batch"),
            |i| (i + 500) % 3 != 0 && *i < 390,
            Some(1_700_000_500_000),
        ),
        (include_bytes!("data/java/emptied.batch"), |_| false, None),
        (include_bytes!("data/java/horizon.batch"), |i| i % 100 < 50, Some(1_700_086_900_000)),
    ];
    for (bytes, stays, horizon) in cleaned {
        let batch = only(batches(Bytes::from_static(bytes)));
        assert_eq!(indices(&batch), (0..400).filter(stays).collect::<Vec<_>>());
        // What the batch was written with stays, whatever is left of it.
        assert_eq!((batch.base_offset(), batch.next_offset()), (Offset(500), Offset(900)));
        assert_eq!((batch.producer_id(), batch.base_sequence()), (Some(ProducerId(77)), Some(Sequence(21))));
        assert!(batch.is_transactional() && !batch.is_control());
        assert_eq!(batch.control().unwrap(), None);
        assert_eq!(batch.has_delete_horizon().then_some(batch.base_timestamp()), horizon);
    }
}

/// Offset, time, key and value of the record at an offset, as `WriteSets.java` has it.
fn set_row(offset: i64, time: i64) -> (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>) {
    let key = (offset % 5 != 4).then(|| format!("key-{offset}").into_bytes());
    (offset, time, key, (offset % 7 != 6).then(|| vec![offset as u8; 50]))
}

/// A set like Java's, with records at these offsets.
fn our_set(format: MessageFormat, codec: Compression, offsets: impl Iterator<Item = i64>) -> Bytes {
    let mut builder = MessageSetBuilder::new(format, codec, None);
    for offset in offsets {
        let (offset, time, key, value) = set_row(offset, 1_700_000_000_000 + offset);
        builder.push_at(Offset(offset), time, key.as_deref(), value.as_deref()).unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn javas_message_sets_are_read_and_ours_are_the_same() {
    use Compression::{Gzip, Lz4, None as Plain, Snappy};
    macro_rules! set {
        ($name:literal) => {
            (&include_bytes!(concat!("data/java/", $name, ".set"))[..], $name)
        };
    }
    let all = || (500..1200).collect::<Vec<i64>>();
    let few = || (500..512).collect::<Vec<i64>>();
    let kept = || (500..538).filter(|offset| offset % 3 != 0).collect::<Vec<i64>>();
    let table = [
        (set!("v0-none"), 0, Plain, few()),
        (set!("v1-none"), 1, Plain, few()),
        (set!("v0-gzip"), 0, Gzip, all()),
        (set!("v1-gzip"), 1, Gzip, all()),
        (set!("v0-snappy"), 0, Snappy, all()),
        (set!("v1-snappy"), 1, Snappy, all()),
        (set!("v0-lz4"), 0, Lz4, all()),
        (set!("v1-lz4"), 1, Lz4, all()),
        (set!("v0-one"), 0, Gzip, vec![500]),
        (set!("v1-one"), 1, Gzip, vec![500]),
        (set!("v0-produced"), 0, Lz4, (0..12).collect()),
        (set!("v1-produced"), 1, Lz4, (0..12).collect()),
        (set!("v0-compacted"), 0, Gzip, kept()),
        (set!("v1-compacted"), 1, Gzip, kept()),
        (set!("v1-append-none"), 1, Plain, few()),
        (set!("v1-append-gzip"), 1, Gzip, few()),
    ];
    for ((bytes, name), magic, codec, offsets) in table {
        let by_broker = name.contains("append");
        let time = |offset: i64| match magic {
            0 => -1,
            _ if by_broker => 1_700_000_099_000,
            _ => 1_700_000_000_000 + offset,
        };
        let expected: Vec<_> = offsets.iter().map(|&offset| set_row(offset, time(offset))).collect();
        let format = if magic == 0 { MessageFormat::V0 } else { MessageFormat::V1 };
        let ours = our_set(format, codec, offsets.iter().copied());
        let (mut read, mut theirs, mut mine) = (Vec::new(), Vec::new(), Vec::new());
        for batch in batches(Bytes::from_static(bytes)) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            assert_eq!((batch.magic(), batch.compression()), (magic, codec), "{name}");
            assert_eq!(batch.timestamp_type() == TimestampType::LogAppendTime, by_broker, "{name}");
            let records = batch.records().unwrap();
            for record in &records {
                let record = record.unwrap();
                let own = |bytes: &[u8]| bytes.to_vec();
                read.push((record.offset.0, record.timestamp, record.key.map(own), record.value.map(own)));
            }
            theirs.extend_from_slice(records.buffer());
            let last = expected.last().unwrap().0;
            assert!(codec == Plain || batch.next_offset() == Offset(last + 1), "{name}");
        }
        assert_eq!(read, expected, "{name}");
        // The same inside; compressed, Java's libraries come to other bytes.
        for batch in batches(ours) {
            mine.extend_from_slice(batch.unwrap().records().unwrap().buffer());
        }
        assert!(by_broker || mine == theirs, "{name}");
    }

    let mixed = Bytes::from_static(include_bytes!("data/java/mixed.set"));
    let mut read = Vec::new();
    for batch in batches(mixed) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        let records = batch.records().unwrap();
        read.extend(
            records.iter().map(|record| record.map(|record| (batch.magic(), record.offset.0)).unwrap()),
        );
    }
    let magic = |offset| match offset {
        500..507 => 0,
        512..517 => 2,
        _ => 1,
    };
    assert_eq!(read, (500..519).map(|offset| (magic(offset), offset)).collect::<Vec<_>>());
}

/// What `WriteSets.java` prints, run with these arguments; `None` if the test is to be skipped for want of Java or of
/// Kafka's jars.
fn java_prints(arguments: &[PathBuf]) -> Option<String> {
    const VERSION: &str = "3.9.1";
    let jars = std::env::var_os("KAFKA_LIBS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/milena/kafka"),
        PathBuf::from,
    );
    let jars = jars.join(VERSION);
    let java =
        std::env::var("JAVA_HOME").map_or_else(|_| "java".to_owned(), |home| format!("{home}/bin/java"));
    let clients = jars.join(format!("kafka-clients-{VERSION}.jar"));
    if !clients.exists() || Command::new(&java).arg("-version").output().is_err() {
        let is = |name: &str, wanted: &str| std::env::var(name).is_ok_and(|value| value == wanted);
        let reason = format!("no Java, or no {}: run `cargo xtask kafka jars {VERSION}`", clients.display());
        assert!(!is("CI", "true") && !is("MILENA_REQUIRE_KAFKA", "1"), "{reason}");
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Past the harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
        if let Some(path) = std::env::var_os("MILENA_SKIP_REPORT")
            && let Ok(mut report) = std::fs::File::options().create(true).append(true).open(path)
        {
            let _ = writeln!(report, "{test}");
        }
        return None;
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/java/WriteSets.java");
    let output = Command::new(java)
        .args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
        .arg(format!("{}/*", jars.display()))
        .arg(program)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The value at an offset in the sets that `WriteSets.java` makes of each level.
fn varied(offset: i64) -> Vec<u8> {
    (0..600).map(|i| ((i * (i + offset)) >> 5) as u8).collect()
}

/// Checks such a set, and returns what Java has to have said of it: codec, last offset and CRC of each batch.
fn read_levels(name: &str, magic: i8, bytes: Bytes) -> String {
    let (mut said, mut next) = (String::new(), 500);
    for batch in batches(bytes) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        assert_eq!(batch.magic(), magic, "{name}");
        assert_eq!(batch.timestamp_type(), TimestampType::CreateTime, "{name}");
        let crc = batch.stated_crc();
        writeln!(said, "{name} {} {} {crc:08x}", batch.compression(), batch.last_offset()).unwrap();
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            let time = if magic == 0 { -1 } else { 1_700_000_000_000 + next };
            let (_, _, key, value) = set_row(next, time);
            let value = value.map(|_| varied(next));
            assert_eq!((record.offset, record.timestamp), (Offset(next), time), "{name}");
            assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()), "{name}");
            next += 1;
        }
    }
    assert_eq!(next, 1200, "{name}");
    said
}

#[test]
fn javas_message_sets_of_each_codec_and_level_are_read() {
    let folder = std::env::temp_dir().join(format!("milena-java-levels-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    if let Some(printed) = java_prints(&["levels".into(), folder.clone()]) {
        let mut said = String::new();
        let levels = ["none", "snappy", "gzip", "lz4"].map(|codec| (codec, 0)).into_iter();
        let levels = levels.chain((1..=9).map(|level| ("gzip", level)));
        let levels: Vec<_> = levels.chain((1..=17).map(|level| ("lz4", level))).collect();
        for magic in [0, 1] {
            for (codec, level) in &levels {
                let name = format!("v{magic}-{codec}-{level}");
                let bytes = std::fs::read(folder.join(&name)).unwrap();
                said += &read_levels(&name, magic, bytes.into());
            }
        }
        assert_eq!(said, printed);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2 * levels.len(), "none was left out");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The lines that Java has to print for a batch or set of ours.
fn lines(name: &str, bytes: &Bytes) -> String {
    let hex = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => bytes.iter().fold("x".to_owned(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        }),
        None => "null".to_owned(),
    };
    let mut out = String::new();
    for batch in batches(bytes.clone()) {
        let batch = batch.unwrap();
        for record in &batch.records().unwrap() {
            let record = record.unwrap();
            let (magic, last) = (batch.magic(), batch.last_offset());
            write!(out, "{name} {magic} {last} {} {} ", record.offset, record.timestamp).unwrap();
            write!(out, "{} {}", hex(record.key), hex(record.value)).unwrap();
            for header in record.headers {
                write!(out, " {}={}", header.name, hex(header.value)).unwrap();
            }
            out.push('\n');
        }
    }
    out
}

/// Each codec and level, and the default of those that have some.
fn levels() -> Vec<(Compression, Option<i32>)> {
    let mut all: Vec<_> = Compression::ALL.into_iter().map(|codec| (codec, None)).collect();
    all.extend((1..=9).map(|level| (Compression::Gzip, Some(level))));
    all.extend([1, 9, 17].map(|level| (Compression::Lz4, Some(level))));
    all.extend([-131_072, -5, 1, 6, 9, 15, 19, 22].map(|level| (Compression::Zstd, Some(level))));
    all
}

#[test]
fn java_reads_ours_in_every_format_codec_and_level() {
    let folder = std::env::temp_dir().join(format!("milena-java-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    let mut add = |name: String, bytes: Bytes| {
        let path = folder.join(&name);
        std::fs::write(&path, &bytes).unwrap();
        files.push((path, lines(&name, &bytes)));
    };
    for (codec, level) in levels() {
        let title = |format: &str| format!("{format}-{codec}-{}", level.unwrap_or_default());
        let mut batch =
            BatchBuilder::new(BatchOptions { compression: codec, level, ..BatchOptions::default() });
        let mut sets = [MessageFormat::V0, MessageFormat::V1]
            .map(|format| MessageSetBuilder::new(format, codec, level).base_offset(Offset(40)));
        for i in 0..300i64 {
            let (_, time, key, value) = set_row(i, 1_700_000_000_000 + i);
            let value = if i == 7 { Some((0..100_000u32).map(|at| (at / 7) as u8).collect()) } else { value };
            // Java takes a name that is not UTF-8, and shows it as we do.
            let headers = [
                Header::new("h", Some(b"1")),
                Header::new("h", None),
                Header::new("é", Some(b"")),
                Header::new(b"caf\xe9", Some(b"2")),
            ];
            let headers = if i % 3 == 0 { &headers[..] } else { &[] };
            batch.push(time, key.as_deref(), value.as_deref(), headers.iter().copied()).unwrap();
            for set in &mut sets {
                set.push_at(Offset(40 + i + i / 10), time, key.as_deref(), value.as_deref()).unwrap();
            }
        }
        add(title("v2"), batch.build(BatchIdentity::default()).unwrap());
        if codec != Compression::Zstd {
            for (set, format) in sets.into_iter().zip(["v0", "v1"]) {
                add(title(format), set.build().unwrap());
            }
        }
    }
    // More than 100,000 records, in each format.
    let mut large =
        BatchBuilder::new(BatchOptions { compression: Compression::Lz4, ..BatchOptions::default() });
    for i in 0..120_000i64 {
        large.push(i, None, Some(&i.to_be_bytes()), []).unwrap();
    }
    let large = large.build(BatchIdentity::default()).unwrap();
    let batch = only(batches(large.clone()));
    add("large-v0".to_owned(), convert_to_message_set(&batch, MessageFormat::V0, None).unwrap());
    add("large-v1".to_owned(), convert_to_message_set(&batch, MessageFormat::V1, None).unwrap());
    add("large-v2".to_owned(), large);
    let mut append = MessageSetBuilder::new(MessageFormat::V1, Compression::Gzip, None).log_append_time(42);
    append.push(7, None, Some(b"v")).unwrap();
    add("append-v1".to_owned(), append.build().unwrap());

    let paths: Vec<_> = files.iter().map(|(path, _)| path.clone()).collect();
    let read = java_prints(&paths);
    std::fs::remove_dir_all(&folder).unwrap();
    let Some(read) = read else { return };
    let mut found = read.lines();
    for (path, expected) in &files {
        for line in expected.lines() {
            assert_eq!(found.next(), Some(line), "{}", path.display());
        }
    }
    assert_eq!(found.next(), None);
}
