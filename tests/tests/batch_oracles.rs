//! Record batches against Kafka's own classes and librdkafka, both ways: each codec at each of its levels, and for librdkafka
//! in each format, 0 to 2. (`crates/protocol/tests/java.rs` has the older formats of Java.) No broker takes part; with a JDK and the
//! jars, or a virtual environment with librdkafka, these bytes are made anew in each run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use bytes::Bytes;
use milena::protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, MessageFormat, MessageSetBuilder, batches,
};
use milena::{Compression, Header, LeaderEpoch, Offset, ProducerEpoch, ProducerId, RecordBatch, Sequence};
use milena_testkit::kafka::{KafkaVersion, NEWEST, is_demanded};
use milena_tests::interop::{Entry, Script, Shape, Step, difference, java_program, librdkafka_program, line};
use tokio::process::Command;

/// Of the large values one batch for each codec will do.
const SHAPES: [Shape; 4] = [Shape::Keys, Shape::Headers, Shape::Nulls, Shape::Many];
const BASE: i64 = 500;

/// The same as in `Batches.java`.
fn identity() -> BatchIdentity {
    BatchIdentity {
        producer_id: ProducerId(77),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(21),
        transactional: true,
        leader_epoch: LeaderEpoch(4),
        base_offset: Offset(BASE),
    }
}

/// Each codec at its default and at each level; of zstd's fast levels some.
fn ways() -> Vec<(Compression, Option<i32>)> {
    let levels = |codec| match codec {
        Compression::None | Compression::Snappy => Vec::new(),
        Compression::Gzip => (1..=9).collect(),
        Compression::Lz4 => (1..=17).collect(),
        Compression::Zstd => [-131_072, -50, -7, -1].into_iter().chain(1..=22).collect(),
    };
    let with_default = |codec| std::iter::once(None).chain(levels(codec).into_iter().map(Some));
    Compression::ALL
        .into_iter()
        .flat_map(|codec| with_default(codec).map(move |level| (codec, level)))
        .collect()
}

fn name(shape: Shape, codec: Compression, level: Option<i32>) -> String {
    format!("{shape}.{codec}.{}", level.map_or_else(|| "default".to_owned(), |level| level.to_string()))
}

fn entries(shape: Shape) -> Vec<Entry> {
    let script = shape.script(11, 0);
    let record = |step: Step| match step {
        Step::Record(entry) => Some(entry),
        _ => None,
    };
    script.steps.into_iter().filter_map(record).collect()
}

/// What either side must read, whatever partitions the shape is meant for. Format 0 has no times.
fn expected(format: i8, shape: Shape, base: i64) -> Vec<String> {
    let print = |(offset, entry): (i64, Entry)| {
        let headers = entry.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
        let timestamp = if format == 0 { -1 } else { entry.timestamp };
        line(0, (offset, timestamp), entry.key.as_deref(), entry.value.as_deref(), headers)
    };
    (base..).zip(entries(shape)).map(print).collect()
}

fn ours(shape: Shape, codec: Compression, level: Option<i32>, identity: BatchIdentity) -> Bytes {
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: codec, level, ..BatchOptions::default() });
    for entry in entries(shape) {
        let headers = entry.headers.iter().map(|(name, value)| Header::new(name, value.as_deref()));
        let headers: Vec<_> = headers.collect();
        builder
            .push(entry.timestamp, entry.key.as_deref(), entry.value.as_deref(), headers.iter().copied())
            .unwrap();
    }
    builder.build(identity).unwrap()
}

/// The same in format 0 or 1.
fn our_set(
    format: MessageFormat,
    shape: Shape,
    codec: Compression,
    level: Option<i32>,
    base: Offset,
) -> Bytes {
    let mut builder = MessageSetBuilder::new(format, codec, level).base_offset(base);
    for entry in entries(shape) {
        builder.push(entry.timestamp, entry.key.as_deref(), entry.value.as_deref()).unwrap();
    }
    builder.build().unwrap()
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let records = batch.records().unwrap();
    let print = |record: Result<milena::Record<'_>, _>| {
        let record = record.unwrap();
        let headers = record.headers.iter().map(|header| (header.name.as_bytes(), header.value));
        line(0, (record.offset.0, record.timestamp), record.key, record.value, headers)
    };
    records.iter().map(print).collect()
}

async fn java() -> Option<Vec<OsString>> {
    let jars = NEWEST.parse::<KafkaVersion>().unwrap().jars().map_err(|error| error.to_string());
    let program = match jars {
        Ok(jars) => java_program("Batches", &jars).await,
        Err(error) => Err(error),
    };
    match program {
        Ok(program) => Some(program),
        Err(error) => {
            assert!(!is_demanded(), "no JDK with the jars of Kafka {NEWEST}: {error}");
            eprintln!("SKIPPED: no JDK with the jars of Kafka {NEWEST}: {error}");
            None
        }
    }
}

async fn librdkafka() -> Option<Vec<OsString>> {
    match librdkafka_program("batches").await {
        Ok(program) => Some(program),
        Err(error) => {
            assert!(!is_demanded(), "no librdkafka: {error}");
            eprintln!("SKIPPED: no librdkafka: {error}");
            None
        }
    }
}

async fn run(program: &[OsString], arguments: &[&Path], verb: &str) -> String {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).arg(verb).args(arguments).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{verb}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Lets a program write the records of these shapes to files of a folder.
async fn write(program: &[OsString], shapes: &[Shape], made: &Path) {
    let scripts = tempfile::tempdir().unwrap();
    let mut arguments = vec![made.to_owned()];
    for shape in shapes {
        let script: Script = shape.script(11, 0);
        let file = scripts.path().join(shape.name());
        std::fs::write(&file, script.lines()).unwrap();
        arguments.push(file);
    }
    let arguments: Vec<&Path> = arguments.iter().map(AsRef::as_ref).collect();
    run(program, &arguments, "write").await;
}

/// Lets a program read all files of a folder and checks what it prints for each.
async fn check_read(program: &[OsString], made: &Path, wanted: BTreeMap<String, Vec<String>>) {
    let printed = run(program, &[made], "read").await;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut file = String::new();
    for line in printed.lines() {
        match line.strip_prefix("file ") {
            Some(name) => name.clone_into(&mut file),
            None => found.entry(file.clone()).or_default().push(line.to_owned()),
        }
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, lines) in wanted {
        assert_eq!(difference(&[lines], std::slice::from_ref(&found[&name])), None, "{name}");
    }
}

#[tokio::test]
async fn javas_batches_of_every_codec_and_level_are_read() {
    let Some(java) = java().await else { return };
    let made = tempfile::tempdir().unwrap();
    write(&java, &SHAPES, made.path()).await;
    for shape in SHAPES {
        let expected = expected(2, shape, BASE);
        let plain = ours(shape, Compression::None, None, identity());
        for (codec, level) in ways() {
            let name = name(shape, codec, level);
            let bytes = Bytes::from(std::fs::read(made.path().join(&name)).unwrap());
            let mut found = batches(bytes.clone());
            let batch = found.next().unwrap().unwrap();
            assert!(found.next().is_none() && found.rest().is_empty(), "{name}");
            batch.verify_crc().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(batch.compression(), codec, "{name}");
            assert_eq!(
                (batch.base_offset(), batch.producer_id()),
                (Offset(BASE), Some(ProducerId(77))),
                "{name}"
            );
            let found = lines(&batch);
            assert_eq!(difference(std::slice::from_ref(&expected), &[found]), None, "{name}");
            // Uncompressed, the whole batch is the same as ours; compressed, its header but for length and checksum is.
            if codec == Compression::None {
                assert!(bytes == plain, "{name}: not the bytes that we write");
            } else {
                let ours = ours(shape, codec, level, identity());
                assert_eq!((&bytes[12..17], &bytes[21..61]), (&ours[12..17], &ours[21..61]), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn java_reads_our_batches_of_every_codec_and_level() {
    let Some(java) = java().await else { return };
    let made = tempfile::tempdir().unwrap();
    let mut wanted = BTreeMap::new();
    for shape in SHAPES {
        let expected = expected(2, shape, BASE);
        let latest = entries(shape).iter().map(|entry| entry.timestamp).max().unwrap();
        let count = expected.len() as i64;
        for (codec, level) in ways() {
            let name = name(shape, codec, level);
            std::fs::write(made.path().join(&name), ours(shape, codec, level, identity())).unwrap();
            let mut lines = vec![format!(
                "batch magic 2 {codec} offsets {BASE} to {} count {count} producer 77 3 sequence 21 to {} leader epoch 4 \
                 transactional true control false latest {latest}",
                BASE + count - 1,
                21 + count - 1
            )];
            lines.extend(expected.iter().cloned());
            wanted.insert(name, lines);
        }
    }
    check_read(&java, made.path(), wanted).await;
}

/// What librdkafka writes in a format: each codec at its default and at each level that its setting takes, which for every codec
/// ends at 12.
fn librdkafkas_ways(format: i8) -> Vec<(Compression, Option<i32>)> {
    let levels = |codec| match codec {
        Compression::None | Compression::Snappy => 0..0,
        Compression::Gzip => 0..10,
        Compression::Lz4 | Compression::Zstd => 0..13,
    };
    let codecs = Compression::ALL.into_iter().filter(|codec| format == 2 || *codec != Compression::Zstd);
    codecs
        .flat_map(|codec| {
            std::iter::once(None).chain(levels(codec).map(Some)).map(move |level| (codec, level))
        })
        .collect()
}

fn fits(format: i8, shape: Shape) -> bool {
    format == 2 || shape.fits_message_sets()
}

#[tokio::test]
async fn librdkafkas_batches_of_every_format_codec_and_level_are_read() {
    let Some(librdkafka) = librdkafka().await else { return };
    let made = tempfile::tempdir().unwrap();
    write(&librdkafka, &SHAPES, made.path()).await;
    let mut files = std::fs::read_dir(made.path()).unwrap().count();
    for format in [0, 1, 2] {
        // The sequence goes on from one shape to the next.
        let mut sequence = 0;
        for shape in SHAPES.into_iter().filter(|shape| fits(format, *shape)) {
            let expected = expected(format, shape, 0);
            let plain = match format {
                0 => our_set(MessageFormat::V0, shape, Compression::None, None, Offset(0)),
                1 => our_set(MessageFormat::V1, shape, Compression::None, None, Offset(0)),
                _ => ours(shape, Compression::None, None, librdkafkas_identity(sequence)),
            };
            let inside = contents(&plain);
            for (asked, level) in librdkafkas_ways(format) {
                // What does not get smaller stays as it is, and gzip's level 0 only stores.
                let codec = match (asked, level) {
                    (Compression::Gzip, Some(0)) => Compression::None,
                    _ => asked,
                };
                let name = format!("{format}.{}", name(shape, asked, level));
                let bytes = Bytes::from(std::fs::read(made.path().join(&name)).unwrap());
                let mut found = Vec::new();
                for batch in batches(bytes.clone()) {
                    let batch = batch.unwrap_or_else(|error| panic!("{name}: {error}"));
                    batch.verify_crc().unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert_eq!((batch.magic(), batch.compression()), (format, codec), "{name}");
                    if format == 2 {
                        assert_eq!(batch.producer_id(), Some(ProducerId(77)), "{name}");
                        assert_eq!(batch.base_sequence(), Some(Sequence(sequence)), "{name}");
                    }
                    found.extend(lines(&batch));
                }
                assert_eq!(difference(std::slice::from_ref(&expected), &[found]), None, "{name}");
                // Uncompressed it is the same as ours; compressed, what is inside is.
                assert!(contents(&bytes) == inside, "{name}: not the records that we write");
                assert!(codec != Compression::None || bytes == plain, "{name}: not the bytes that we write");
                files -= 1;
            }
            sequence += i32::try_from(expected.len()).unwrap();
        }
    }
    assert_eq!(files, 0, "librdkafka wrote in more ways than were looked at");
}

/// The records of all batches as they lie there, decompressed.
fn contents(bytes: &Bytes) -> Vec<u8> {
    let mut contents = Vec::new();
    for batch in batches(bytes.clone()) {
        contents.extend_from_slice(batch.unwrap().records().unwrap().buffer());
    }
    contents
}

/// librdkafka leaves epoch 0 of the leader where Java leaves -1; the broker sets it.
fn librdkafkas_identity(sequence: i32) -> BatchIdentity {
    BatchIdentity {
        producer_id: ProducerId(77),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(sequence),
        leader_epoch: LeaderEpoch(0),
        ..BatchIdentity::default()
    }
}

#[tokio::test]
async fn librdkafka_reads_ours_of_every_format_codec_and_level() {
    let Some(librdkafka) = librdkafka().await else { return };
    let made = tempfile::tempdir().unwrap();
    let mut wanted = BTreeMap::new();
    for format in [0, 1, 2] {
        for shape in SHAPES.into_iter().filter(|shape| fits(format, *shape)) {
            for (codec, level) in ways() {
                // Of the many records one batch for each codec will do, but for zstd's blocks.
                let costly = shape == Shape::Many && level.is_some() && codec != Compression::Zstd;
                if costly || (format < 2 && codec == Compression::Zstd) {
                    continue;
                }
                let bytes = match format {
                    0 => our_set(MessageFormat::V0, shape, codec, level, Offset(BASE)),
                    1 => our_set(MessageFormat::V1, shape, codec, level, Offset(BASE)),
                    _ => ours(shape, codec, level, identity()),
                };
                let name = format!("{format}.{}", name(shape, codec, level));
                std::fs::write(made.path().join(&name), bytes).unwrap();
                wanted.insert(name, expected(format, shape, BASE));
            }
        }
    }
    check_read(&librdkafka, made.path(), wanted).await;
}
