//! `milena records`: log files whole, damaged, cut short and preallocated.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{Ended, run};
use milena::protocol::records::{
    BatchBuilder, BatchIdentity, BatchOptions, ControlKind, MessageFormat, MessageSetBuilder,
    build_control_batch,
};
use milena::{Compression, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};
use serde_json::{Value, json};

const TIME: i64 = 1_700_000_000_000;

fn batch(offset: i64, values: &[&str], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    for value in values {
        builder.push(TIME, Some(b"k"), Some(value.as_bytes()), []).unwrap();
    }
    let identity = BatchIdentity {
        base_offset: Offset(offset),
        leader_epoch: LeaderEpoch(4),
        producer_id: ProducerId(7),
        producer_epoch: ProducerEpoch(1),
        base_sequence: Sequence(0),
        transactional: true,
    };
    builder.build(identity).unwrap()
}

/// Two batches and the commit of their transaction: offsets 0 to 5.
fn segment() -> Vec<u8> {
    let marker =
        build_control_batch(Offset(5), ProducerId(7), ProducerEpoch(1), ControlKind::Commit, 12, TIME);
    let one = batch(0, &["a", "b", "c"], Compression::None);
    [&one[..], &batch(3, &["d", "e"], Compression::Zstd), &marker].concat()
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

async fn records(path: &Path, args: &[&str]) -> Ended {
    run(&[&["records", path.to_str().unwrap()], args].concat()).await
}

fn objects(ended: &Ended) -> Vec<Value> {
    ended.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_records_and_markers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = segment();
    let path = written(folder.path(), "00000000000000000000.log", &bytes);
    let text = records(&path, &[]).await.expect(0).text();
    let crc = |line: usize| text.lines().nth(line).unwrap().split("crc ").nth(1).unwrap()[..8].to_owned();
    let second = bytes.len() - 78 - batch(3, &["d", "e"], Compression::Zstd).len();
    let third = bytes.len() - 78;
    let expected = format!(
        "{path}, {all} bytes
batch at 0: offsets 0 to 2, 3 records, {second} bytes, format 2, none, crc {crc1} ok
  leader epoch 4, create time up to {TIME}, producer 7, epoch 1, sequence 0, transactional
  offset 0  time {TIME}  key \"k\"  value \"a\"
  offset 1  time {TIME}  key \"k\"  value \"b\"
  offset 2  time {TIME}  key \"k\"  value \"c\"
batch at {second}: offsets 3 to 4, 2 records, {size2} bytes, format 2, zstd, crc {crc2} ok
  leader epoch 4, create time up to {TIME}, producer 7, epoch 1, sequence 0, transactional
  offset 3  time {TIME}  key \"k\"  value \"d\"
  offset 4  time {TIME}  key \"k\"  value \"e\"
batch at {third}: offset 5, 1 record, 78 bytes, format 2, none, crc {crc3} ok
  create time up to {TIME}, producer 7, epoch 1, transactional, control
  offset 5  time {TIME}  commit, coordinator epoch 12
3 batches, 6 records, offsets 0 to 5
",
        path = path.display(),
        all = bytes.len(),
        size2 = third - second,
        crc1 = crc(1),
        crc2 = crc(6),
        crc3 = crc(10),
    );
    assert_eq!(text, expected);
    let heads = records(&path, &["--headers-only"]).await.expect(0);
    assert_eq!(heads.lines().len(), 8, "{heads:?}");
    assert_eq!(records(&path, &["--batches"]).await.expect(0).text(), heads.text());
    // A folder holds its files in the order of their offsets.
    written(folder.path(), "00000000000000000006.log", &batch(6, &["f"], Compression::None));
    written(folder.path(), "00000000000000000000.index", b"not records");
    let both = records(folder.path(), &["-J", "--headers-only"]).await.expect(0);
    let offsets: Vec<Value> = objects(&both).iter().map(|batch| batch["base_offset"].clone()).collect();
    assert_eq!(offsets, [0, 3, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_object_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "s.log", &segment());
    let told = objects(&records(&path, &["--format", "json"]).await.expect(0));
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["entries"][2], json!({ "offset": 2, "ts": TIME, "key": "k", "payload": "c" }));
    let mut head = told[1].clone();
    let object = head.as_object_mut().unwrap();
    for changing in ["position", "size", "crc", "file", "entries"] {
        assert!(object.remove(changing).is_some());
    }
    let expected = json!({
        "format": 2, "base_offset": 3, "last_offset": 4, "records": 2, "compression": "zstd", "crc_ok": true,
        "leader_epoch": 4, "tstype": "create", "base_ts": TIME, "max_ts": TIME, "delete_horizon": false,
        "producer_id": 7, "producer_epoch": 1, "base_sequence": 0, "transactional": true, "control": false,
    });
    assert_eq!(head, expected);
    let control = json!({ "kind": "commit", "number": 1, "coordinator_epoch": 12 });
    assert_eq!(told[2]["entries"][0]["control"], control);
    // From an offset on: the batch that holds it, without the records before it.
    let told = objects(&records(&path, &["-J", "--from-offset", "4"]).await.expect(0));
    assert_eq!(told.len(), 2);
    let entries = told[0]["entries"].as_array().unwrap();
    assert_eq!(entries.iter().map(|entry| entry["offset"].clone()).collect::<Vec<_>>(), [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_formats_are_told_message_by_message() {
    let folder = tempfile::tempdir().unwrap();
    let mut set = MessageSetBuilder::new(MessageFormat::V1, Compression::None, None);
    for value in [b"a", b"b"] {
        set.push(TIME, None, Some(value)).unwrap();
    }
    let path = written(folder.path(), "s.log", &set.build().unwrap());
    let text = records(&path, &[]).await.expect(0).text();
    assert!(text.contains("message at 0: offset 0, 35 bytes, format 1, none, crc "), "{text}");
    assert!(text.contains(&format!("  offset 1  time {TIME}  key null  value \"b\"\n")), "{text}");
    let mut set = MessageSetBuilder::new(MessageFormat::V0, Compression::Gzip, None);
    for value in [b"a", b"b"] {
        set.push(TIME, None, Some(value)).unwrap();
    }
    let path = written(folder.path(), "w.log", &set.build().unwrap());
    let text = records(&path, &[]).await.expect(0).text();
    assert!(text.contains("messages at 0: offsets up to 1, "), "{text}");
    assert!(text.contains("  offset 0  key null  value \"a\"\n"), "{text}");
    assert!(text.ends_with("1 batch, 2 records, offsets 0 to 1\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_end_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let whole = segment();
    for (name, tail, said) in [
        ("cut.log", &whole[..40], "40 bytes of a partial batch at the end"),
        ("little.log", &whole[..9], "9 bytes of a partial batch at the end"),
        ("room.log", &[0; 100_000][..], "100000 zero bytes at the end"),
    ] {
        let next = batch(6, &["f"], Compression::None);
        let tail = if name == "room.log" { tail } else { &next[..tail.len()] };
        let path = written(folder.path(), name, &[&whole[..], tail].concat());
        let text = records(&path, &["--verify"]).await.expect(0).text();
        let expected = format!("3 batches, 6 records, offsets 0 to 5, {said}: sound\n");
        assert!(text.ends_with(&expected), "{text}");
        let told = objects(&records(&path, &["-J"]).await.expect(0));
        assert_eq!(told.len(), 4);
        assert_eq!(told[3]["size"], tail.len());
    }
    let empty = written(folder.path(), "empty.log", b"");
    let text = records(&empty, &["--verify"]).await.expect(0).text();
    assert!(text.ends_with("empty.log, 0 bytes: 0 batches, 0 records: sound\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_told_and_read_past() {
    let folder = tempfile::tempdir().unwrap();
    let whole = segment();
    let second = batch(0, &["a", "b", "c"], Compression::None).len();
    let wrongs: [(&str, usize, u8, &str); 5] = [
        ("a value", second - 2, b'?', "its checksum is"),
        ("a checksum", second + 18, 0x11, "its checksum is"),
        ("the format", second + 16, 9, "unknown record batch format 9"),
        ("the codec", second + 22, 0x17, "unknown compression codec 7"),
        ("an offset", second + 7, 1, "offset 1 comes behind offset 2"),
    ];
    for (what, at, value, said) in wrongs {
        let mut wrong = whole.clone();
        assert_ne!(wrong[at], value, "{what}");
        wrong[at] = value;
        let path = written(folder.path(), "wrong.log", &wrong);
        let ended = records(&path, &["--verify"]).await.expect(1);
        assert!(ended.message().contains(said), "{what}: {ended:?}");
        // What follows the damage is read all the same.
        let ended = records(&path, &[]).await.expect(1);
        assert!(ended.text().contains("commit, coordinator epoch 12"), "{what}: {ended:?}");
        let ended = records(&path, &["-J", "--verify"]).await.expect(1);
        assert_eq!(ended.json()["faults"], 1, "{what}: {ended:?}");
        assert!(ended.json()["first_fault"].as_str().unwrap().contains(said), "{what}: {ended:?}");
    }
    // A length that cannot be one: nothing tells where the next batch begins.
    let mut wrong = whole.clone();
    wrong[second + 8..second + 12].copy_from_slice(&[0xff; 4]);
    let path = written(folder.path(), "wrong.log", &wrong);
    let ended = records(&path, &[]).await.expect(1);
    let said = format!(
        "a batch length of -1 cannot hold a batch of format 2 (field batch_length, byte {})",
        second + 8
    );
    assert!(ended.message().ends_with(&said), "{ended:?}");
    let text = ended.text();
    let carets = text.lines().position(|line| line.trim() == "^^").unwrap();
    assert!(text.lines().nth(carets - 1).unwrap().contains("ff ff ff ff"), "{text}");
    // A file of another partition, or a wrong name.
    let path = written(folder.path(), "00000000000000000100.log", &whole);
    let ended = records(&path, &["--verify"]).await.expect(1);
    assert!(ended.message().contains("offset 2 is below the one in the name of the file"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_call_is_2_and_bad_input_1() {
    let wrong: [&[&str]; 4] = [
        &["records"],
        &["records", "x", "--verify", "--headers-only"],
        &["records", "x", "--from-offset", "-1"],
        &["records", "x", "--max-bytes", "many"],
    ];
    for args in wrong {
        run(args).await.expect(2);
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(records(folder.path(), &[]).await.expect(1).message().ends_with("there is no .log file in it"));
    let ended = records(&folder.path().join("none.log"), &[]).await.expect(1);
    assert!(ended.message().contains("none.log: "), "{ended:?}");
    assert!(run(&["records", "--help"]).await.expect(0).text().contains("Examples:"));
}
