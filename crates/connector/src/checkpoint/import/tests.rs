//! Bytes written by Flink's own classes (flink-connector-kafka 3.4.0-1.20 and 5.0.0-2.2), and what is read from them.

use super::*;
use crate::ErrorKind;
use crate::checkpoint::state::StateResult;
use milena::{Offset, TopicPartition};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn imported(topic: &str, partition: i32, start: ImportedStart, stop: ImportedStop) -> ImportedSplit {
    ImportedSplit { topic_partition: at(topic, partition), start, stop }
}

/// Every cut and every byte more is an error.
fn exact<T: std::fmt::Debug>(read: impl Fn(&[u8]) -> StateResult<T>, bytes: &[u8]) {
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(read(&[bytes, &[0]].concat()).is_err(), "a byte more");
}

const SPLIT: &str = "00066f726465727300000003 000000000000002a 0000000000000064";
const THREE: &str = "00000002 00000000 \
                     0000001c 00066f726465727300000000 0000000000000007 8000000000000000 00000000 \
                     0000001c 00066f726465727300000001 0000000000000008 8000000000000000 00000001 01";
const CLASSIC: [&str; 3] = [
    "5701839998ff0806016f72646572f3 0000000000000029",
    "5701ba3ad80401826f ffffff2ad0922891",
    "5701c697c113000183e4b8bbe9a298 ffffffffffffffff",
];
const CLASSIC_SINK: &str = "0101001b536f757263653a2078202d3e2053696e6b3a20792d6162632d3132000000000000004d00030000018bcfe56800 \
                            0000000100ffffffffffffffffffff0000000000000001 01000000020003702d300003702d31";

// scenario: 5.4.18, 5.4.32
#[test]
fn a_split_of_flink_is_read() {
    let bytes = hex(SPLIT);
    let expected = imported("orders", 3, ImportedStart::At(Offset(42)), ImportedStop::At(Offset(100)));
    assert_eq!(split(0, &bytes).unwrap(), expected);
    exact(|bytes| split(0, bytes), &bytes);
    assert!(split(1, &bytes).is_err());
    let marks = hex("000be4b8bbc080eda0bdedb880 00000000 fffffffffffffffd 8000000000000000");
    let expected = imported("主\0😀", 0, ImportedStart::Committed, ImportedStop::Never);
    assert_eq!(split(0, &marks).unwrap(), expected);
}

// scenario: 5.4.31, 5.4.18, 5.4.25
#[test]
fn every_version_of_flinks_enumerator_state_is_read() {
    let open = |partition| imported("orders", partition, ImportedStart::Configured, ImportedStop::Never);
    let two = hex("00000002 00066f726465727300000000 00000000 00066f726465727300000001 00000001 01");
    let expected = ImportedSource { splits: vec![open(0), open(1)], initial_discovery_finished: true };
    assert_eq!(enumerator(2, &two).unwrap(), expected);
    exact(|bytes| enumerator(2, bytes), &two);
    let one = hex("00000002 00066f726465727300000000 00066f726465727300000001");
    assert_eq!(enumerator(1, &one).unwrap(), expected);
    exact(|bytes| enumerator(1, bytes), &one);
    let zero = hex(&format!("00000001 00000007 00000001 00000000 0000001c {SPLIT}"));
    let there = imported("orders", 3, ImportedStart::At(Offset(42)), ImportedStop::At(Offset(100)));
    assert_eq!(enumerator(0, &zero).unwrap().splits, [there]);
    let three = hex(THREE);
    let split = |partition, offset| {
        imported("orders", partition, ImportedStart::At(Offset(offset)), ImportedStop::Never)
    };
    let expected =
        ImportedSource { splits: vec![split(0, 7), split(1, 8)], initial_discovery_finished: true };
    assert_eq!(enumerator(3, &three).unwrap(), expected);
    exact(|bytes| enumerator(3, bytes), &three);
    assert!(enumerator(4, &three).is_err());
}

/// The state has the last processed offset, ours the next one; marks are no offsets.
// scenario: 5.2.14, 5.2.18, 5.2.20, 5.4.18
#[test]
fn the_classic_source_is_read_behind_what_it_processed() {
    let bytes = hex(&CLASSIC.concat());
    let source = classic_source(&bytes).unwrap();
    assert!(source.initial_discovery_finished);
    let expected = [
        imported("orders", 3, ImportedStart::At(Offset(42)), ImportedStop::Never),
        imported("o", 300, ImportedStart::Earliest, ImportedStop::Never),
        imported("主题", 0, ImportedStart::At(Offset(0)), ImportedStop::Never),
    ];
    assert_eq!(source.splits, expected);
    assert_eq!(classic_source(&[]).unwrap().splits, []);
    assert!(classic_source(&hex(&[CLASSIC[0], CLASSIC[0]].concat())).is_err(), "a partition twice");
    let one = hex(CLASSIC[0]);
    exact(|bytes| if bytes.is_empty() { classic_source(&[0]) } else { classic_source(bytes) }, &one);
    // Another topic under the same hash is not believed.
    let mut wrong = hex(CLASSIC[0]);
    wrong[9] = b'p';
    assert!(classic_source(&wrong).unwrap_err().to_string().contains("hash"));
}

// scenario: 5.3.24, 5.6.34
#[test]
fn sinks_of_flink_are_read() {
    let bytes = hex("0004 0000000000001388 00076a6f622d302d37");
    let transaction = committable(1, &bytes).unwrap();
    let shape =
        (transaction.transactional_id.as_str(), transaction.producer_id.0, transaction.producer_epoch.0);
    assert_eq!(shape, ("job-0-7", 5000, 4));
    exact(|bytes| committable(1, bytes), &bytes);
    let bytes = hex("00036a6f62");
    assert_eq!(writer(1, &bytes).unwrap().prefix, "job");
    exact(|bytes| writer(1, bytes), &bytes);
    let bytes = hex("00036a6f62 00000001 00000004 00000000 00000001 00076a6f622d312d34 0000000000000009");
    let state = writer(2, &bytes).unwrap();
    assert_eq!((state.owned_subtask, state.total_owned), (Some(1), Some(4)));
    assert_eq!(state.precommitted, [("job-1-4".to_owned(), 9)]);
    exact(|bytes| writer(2, bytes), &bytes);
    let bytes = hex(CLASSIC_SINK);
    let sink = classic_sink(&bytes).unwrap();
    let current = sink.current.unwrap();
    assert_eq!(
        (current.transactional_id.as_str(), current.producer_id.0),
        ("Source: x -> Sink: y-abc-12", 77)
    );
    assert_eq!(current.start_time_ms, Some(1_700_000_000_000));
    assert_eq!((sink.pending.len(), sink.ids.as_slice()), (0, &["p-0".to_owned(), "p-1".to_owned()][..]));
    exact(classic_sink, &bytes);
    let hint = hex("0000000000000028 00000003");
    assert_eq!(classic_hint(&hint).unwrap(), ImportedHint { next_id: 40, parallelism: 3 });
    exact(classic_hint, &hint);
}

/// C3: "at the end" would pass over what was written since.
// scenario: D33, 5.4.25
#[test]
fn a_start_at_the_end_is_refused_unless_a_choice_is_made() {
    let source = |start| ImportedSource {
        splits: vec![imported("t", 0, start, ImportedStop::Never)],
        initial_discovery_finished: true,
    };
    let error = source(ImportedStart::Latest).into_state(LatestMarker::Refuse).unwrap_err();
    assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::State, Some(&at("t", 0))));
    let state = source(ImportedStart::Latest).into_state(LatestMarker::Earliest).unwrap();
    assert_eq!(state.unresolved[0].start, crate::source::StoredStart::Earliest);
    let state = source(ImportedStart::At(Offset(7))).into_state(LatestMarker::Refuse).unwrap();
    assert_eq!((state.splits[0].next_offset, state.unresolved.len()), (Offset(7), 0));
}

#[test]
fn parts_of_one_state_are_merged_and_must_not_contradict() {
    let part = |start| ImportedSource {
        splits: vec![imported("t", 0, start, ImportedStop::Never)],
        initial_discovery_finished: false,
    };
    for (first, second) in [
        (ImportedStart::Configured, ImportedStart::At(Offset(7))),
        (ImportedStart::At(Offset(7)), ImportedStart::Configured),
        (ImportedStart::At(Offset(7)), ImportedStart::At(Offset(7))),
    ] {
        let mut merged = part(first);
        merged.merge(part(second)).unwrap();
        assert_eq!(merged.splits.len(), 1);
        assert_eq!(merged.splits[0].start, ImportedStart::At(Offset(7)));
    }
    let mut merged = part(ImportedStart::At(Offset(7)));
    assert!(merged.merge(part(ImportedStart::At(Offset(8)))).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_them_panic(version in -1..5_i32, bytes: Vec<u8>) {
        let _ = split(version, &bytes);
        let _ = enumerator(version, &bytes);
        let _ = classic_source(&bytes);
        let _ = writer(version, &bytes);
        let _ = committable(version, &bytes);
        let _ = classic_sink(&bytes);
        let _ = classic_hint(&bytes);
    }

    #[test]
    fn nor_do_changed_ones(at in 0..60_usize, byte: u8) {
        for text in [SPLIT, CLASSIC[0], CLASSIC[1], CLASSIC_SINK] {
            let mut bytes = hex(text);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = split(0, &bytes);
            let _ = classic_source(&bytes);
            let _ = classic_sink(&bytes);
        }
    }
}
