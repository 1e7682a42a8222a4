//! Record batches against Kafka's own classes, both ways: each codec at each of its levels. No broker takes part; with a JDK and
//! the jars these bytes are made anew in each run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use bytes::Bytes;
use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, batches};
use milena::{Compression, Header, LeaderEpoch, Offset, ProducerEpoch, ProducerId, RecordBatch, Sequence};
use milena_testkit::kafka::{KafkaVersion, NEWEST, is_demanded};
use milena_tests::interop::{Entry, Script, Shape, Step, difference, java_program, line};
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

/// What either side must read, whatever partitions the shape is meant for.
fn expected(shape: Shape) -> Vec<String> {
    let print = |(offset, entry): (i64, Entry)| {
        let headers = entry.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        line(0, (offset, entry.timestamp), entry.key.as_deref(), entry.value.as_deref(), headers)
    };
    (BASE..).zip(entries(shape)).map(print).collect()
}

fn ours(shape: Shape, codec: Compression, level: Option<i32>) -> Bytes {
    let mut builder =
        BatchBuilder::new(BatchOptions { compression: codec, level, ..BatchOptions::default() });
    for entry in entries(shape) {
        let headers = entry.headers.iter().map(|(name, value)| Header::new(name, value.as_deref()));
        let headers: Vec<_> = headers.collect();
        builder
            .push(entry.timestamp, entry.key.as_deref(), entry.value.as_deref(), headers.iter().copied())
            .unwrap();
    }
    builder.build(identity()).unwrap()
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let records = batch.records().unwrap();
    let print = |record: Result<milena::Record<'_>, _>| {
        let record = record.unwrap();
        let headers =
            record.headers.iter().map(|header| (header.name.to_str().unwrap_or("not UTF-8"), header.value));
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

async fn run(program: &[OsString], arguments: &[&Path], verb: &str) -> String {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).arg(verb).args(arguments).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Batches {verb}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn javas_batches_of_every_codec_and_level_are_read() {
    let Some(java) = java().await else { return };
    let (scripts, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut arguments = vec![made.path().to_owned()];
    for shape in SHAPES {
        let script: Script = shape.script(11, 0);
        let file = scripts.path().join(shape.name());
        std::fs::write(&file, script.lines()).unwrap();
        arguments.push(file);
    }
    let arguments: Vec<&Path> = arguments.iter().map(AsRef::as_ref).collect();
    run(&java, &arguments, "write").await;
    for shape in SHAPES {
        let (expected, plain) = (expected(shape), ours(shape, Compression::None, None));
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
                let ours = ours(shape, codec, level);
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
        let expected = expected(shape);
        let latest = entries(shape).iter().map(|entry| entry.timestamp).max().unwrap();
        let count = expected.len() as i64;
        for (codec, level) in ways() {
            let name = name(shape, codec, level);
            std::fs::write(made.path().join(&name), ours(shape, codec, level)).unwrap();
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
    let printed = run(&java, &[made.path()], "read").await;
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
