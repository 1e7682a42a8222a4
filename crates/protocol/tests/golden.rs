//! Frames that real brokers from 0.8.2 to the newest took and sent, against all that reads and writes frames here.
//!
//! They lie in `tests/data/golden`; `cargo xtask kafka capture` makes them anew, without the encoders and decoders under
//! test.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use milena_protocol::compression::Compression;
use milena_protocol::fetch::FetchView;
use milena_protocol::messages::{ApiKey, RequestKind, ResponseKind};
use milena_protocol::records::{ControlRecord, batches};
use milena_protocol::{
    RequestBody, api_name, decode_any_response, decode_request, encode_request_frame, encode_response, frame,
    supported,
};

/// The brokers that must be there, oldest first, and how many exchanges with each at least.
const BROKERS: [(&str, usize); 12] = [
    ("0.8.2.2", 9),
    ("0.9.0.1", 18),
    ("0.10.0.1", 27),
    ("0.10.2.2", 35),
    ("0.11.0.3", 65),
    ("1.0.2", 70),
    ("1.1.1", 80),
    ("2.0.1", 110),
    ("2.4.1", 160),
    ("2.8.2", 200),
    ("3.9.1", 250),
    ("4.3.1", 260),
];

/// What every batch in the frames that is not a control batch holds.
const RECORDS: [(Option<&str>, Option<&str>); 3] = [
    (Some("first"), Some("value of the first, value of the first, value of the first")),
    (None, Some("")),
    (Some("third"), None),
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Direction {
    Requests,
    Responses,
}

impl Direction {
    fn ending(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Responses => "responses",
        }
    }
}

/// A frame without its length, and the oldest broker that it was exchanged with.
#[derive(Clone, PartialEq, Eq)]
struct Golden {
    broker: String,
    key: i16,
    version: i16,
    direction: Direction,
    frame: Bytes,
}

impl fmt::Display for Golden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = api_name(self.key);
        write!(f, "Kafka {}, {} of {name} v{}", self.broker, self.direction.ending(), self.version)
    }
}

impl Golden {
    fn request(&self, frame: Bytes) -> Result<RequestKind, String> {
        match decode_request(frame).map_err(|error| error.to_string())?.body {
            RequestBody::Known(body) => Ok(body),
            RequestBody::UnsupportedVersion => Err("its version is not known".to_owned()),
        }
    }

    fn response(&self, frame: Bytes) -> Result<ResponseKind, String> {
        let (id, response) =
            decode_any_response(frame, self.key, self.version).map_err(|error| error.to_string())?;
        assert_eq!(id, i32::from(self.key) * 100 + i32::from(self.version), "{self}");
        Ok(response)
    }

    fn decode(&self, frame: Bytes) -> Result<(), String> {
        match self.direction {
            Direction::Requests => self.request(frame).map(drop),
            Direction::Responses => self.response(frame).map(drop),
        }
    }

    fn encode_again(&self) -> BytesMut {
        let mut out = BytesMut::new();
        match self.direction {
            Direction::Requests => {
                encode_request_frame(&mut out, &decode_request(self.frame.clone()).unwrap()).unwrap();
            }
            Direction::Responses => {
                let (id, response) = decode_any_response(self.frame.clone(), self.key, self.version).unwrap();
                // A version of ApiVersions that the broker lacks is answered with error 35 in version 0 (KIP-511).
                let refused = self.key == ApiKey::ApiVersions as i16 && self.frame[4..6] == [0, 35];
                let version = if refused { 0 } else { self.version };
                encode_response(&mut out, self.key, version, id, &response).unwrap();
            }
        }
        out
    }

    /// The record sets within: what a producer sent, or what a broker served.
    fn record_sets(&self) -> Vec<Bytes> {
        let sets: Vec<Option<Bytes>> = match self.direction {
            Direction::Requests => match self.request(self.frame.clone()).unwrap() {
                RequestKind::Produce(produce) => {
                    let topics = produce.topic_data.into_iter();
                    topics.flat_map(|topic| topic.partition_data).map(|partition| partition.records).collect()
                }
                _ => Vec::new(),
            },
            Direction::Responses => match self.response(self.frame.clone()).unwrap() {
                ResponseKind::Fetch(fetch) => {
                    let topics = fetch.responses.into_iter();
                    topics.flat_map(|topic| topic.partitions).map(|partition| partition.records).collect()
                }
                ResponseKind::ShareFetch(fetch) => {
                    let topics = fetch.responses.into_iter();
                    topics.flat_map(|topic| topic.partitions).map(|partition| partition.records).collect()
                }
                _ => Vec::new(),
            },
        };
        sets.into_iter().flatten().filter(|set| !set.is_empty()).collect()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// The lines of the manifest: broker, API, version, where the request is, where the response is.
fn manifest() -> Vec<(String, i16, i16, [String; 2])> {
    let text = fs::read_to_string(folder().join("manifest.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let [broker, key, version, request, response] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line:?}");
            };
            let owners = [request, response].map(str::to_owned);
            (broker.to_owned(), key.parse().unwrap(), version.parse().unwrap(), owners)
        })
        .collect()
}

/// Every frame that is stored.
fn golden() -> Vec<Golden> {
    let mut found = Vec::new();
    for (broker, _) in BROKERS {
        for direction in [Direction::Requests, Direction::Responses] {
            let path = folder().join(format!("{broker}.{}", direction.ending()));
            let mut file = BytesMut::from(&fs::read(&path).unwrap_or_default()[..]);
            while let Some(frame) = frame::split(&mut file, frame::DEFAULT_MAX).unwrap() {
                let at = if direction == Direction::Requests { 4 } else { 0 };
                let id = i32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                let (key, version) = (i16::try_from(id / 100).unwrap(), i16::try_from(id % 100).unwrap());
                found.push(Golden { broker: broker.to_owned(), key, version, direction, frame });
            }
            assert!(file.is_empty(), "{} ends within a frame", path.display());
        }
    }
    found
}

#[test]
fn every_broker_is_there_and_every_frame_belongs_to_an_exchange() {
    let manifest = manifest();
    let listed: BTreeSet<&str> = manifest.iter().map(|(broker, ..)| broker.as_str()).collect();
    assert_eq!(listed, BROKERS.map(|(broker, _)| broker).into());
    for (broker, least) in BROKERS {
        let exchanges: Vec<_> = manifest.iter().filter(|(listed, ..)| listed == broker).collect();
        assert!(exchanges.len() >= least, "{broker}: {}", exchanges.len());
        for key in
            [ApiKey::Produce, ApiKey::Fetch, ApiKey::ListOffsets, ApiKey::Metadata, ApiKey::OffsetCommit]
        {
            assert!(exchanges.iter().any(|(_, found, ..)| *found == key as i16), "{broker}: {key:?}");
        }
    }
    let mut stored: BTreeMap<(Direction, String, i16, i16), usize> = BTreeMap::new();
    for found in golden() {
        let place = (found.direction, found.broker, found.key, found.version);
        assert_eq!(stored.insert(place.clone(), 0), None, "{place:?}");
    }
    for (_, key, version, owners) in manifest {
        for (direction, owner) in [Direction::Requests, Direction::Responses].into_iter().zip(owners) {
            let place = (direction, owner, key, version);
            *stored.get_mut(&place).unwrap_or_else(|| panic!("no {place:?}")) += 1;
        }
    }
    let strays: Vec<_> = stored.iter().filter(|(_, uses)| **uses == 0).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn every_api_that_a_client_uses_is_there_in_every_version() {
    let seen: BTreeSet<(i16, i16)> = manifest().iter().map(|(_, key, version, _)| (*key, *version)).collect();
    let mut missing = Vec::new();
    // From Produce to OffsetFetch without what brokers tell each other, groups, topics, transactions.
    for key in (0..=3).chain(8..=16).chain(18..=20).chain(22..=28) {
        let range = supported(key).unwrap();
        let versions = (range.min..=range.max).filter(|version| !seen.contains(&(key, *version)));
        missing.extend(versions.map(|version| format!("{} v{version}", api_name(key))));
    }
    let expected: [&str; 0] = [];
    assert_eq!(missing, expected);
}

#[test]
fn a_frame_decodes_and_encodes_to_the_same_bytes() {
    for golden in golden() {
        golden.decode(golden.frame.clone()).unwrap_or_else(|error| panic!("{golden}: {error}"));
        let again = golden.encode_again();
        assert_eq!(again[4..], golden.frame, "{golden}");
        assert_eq!(again[..4], u32::try_from(golden.frame.len()).unwrap().to_be_bytes());
    }
}

#[test]
fn a_frame_cut_anywhere_is_an_error() {
    for golden in golden() {
        for end in 0..golden.frame.len() {
            assert!(golden.decode(golden.frame.slice(..end)).is_err(), "{golden}, cut at {end}");
        }
    }
}

#[test]
fn a_frame_with_a_byte_more_is_an_error() {
    for golden in golden() {
        for more in [0, 1, 0xff] {
            let longer = [&golden.frame[..], &[more]].concat();
            assert!(golden.decode(longer.into()).is_err(), "{golden} and {more}");
        }
    }
}

#[test]
fn records_in_a_frame_are_whole_and_what_was_written() {
    let mut seen: BTreeMap<(Direction, i8), BTreeSet<String>> = BTreeMap::new();
    let (mut aborted, mut partial) = (0, BTreeSet::new());
    for golden in golden() {
        for set in golden.record_sets() {
            let mut left = set.len();
            let mut index = 0;
            for batch in batches(set) {
                let batch = batch.unwrap_or_else(|error| panic!("{golden}: {error}"));
                left -= batch.len_bytes();
                batch.verify_crc().unwrap_or_else(|error| panic!("{golden}: {error}"));
                if batch.is_control() {
                    let control = batch.control().unwrap();
                    aborted += usize::from(matches!(control, Some(ControlRecord::Abort { .. })));
                    continue;
                }
                let codec = format!("{:?}", batch.compression());
                seen.entry((golden.direction, batch.magic())).or_default().insert(codec);
                for record in &batch.records().unwrap() {
                    let record = record.unwrap_or_else(|error| panic!("{golden}: {error}"));
                    let (key, value) = RECORDS[index % 3];
                    assert_eq!(record.key, key.map(str::as_bytes), "{golden}");
                    assert_eq!(record.value, value.map(str::as_bytes), "{golden}");
                    assert!(batch.magic() == 2 || record.headers.is_empty(), "{golden}");
                    index += 1;
                }
            }
            assert!(golden.direction == Direction::Responses || left == 0, "{golden}");
            if left > 0 {
                partial.insert(golden.broker.clone());
            }
        }
    }
    let codecs = |zstd: bool| {
        let known =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        known.iter().take(if zstd { 5 } else { 4 }).map(|codec| format!("{codec:?}")).collect::<BTreeSet<_>>()
    };
    for direction in [Direction::Requests, Direction::Responses] {
        for magic in 0..=2 {
            assert_eq!(
                seen.get(&(direction, magic)),
                Some(&codecs(magic == 2)),
                "{direction:?}, format {magic}"
            );
        }
    }
    assert!(aborted > 0, "no aborted transaction");
    assert!(partial.contains("0.8.2.2") && partial.len() > 2, "cut record sets only from {partial:?}");
}

#[test]
fn a_record_set_cut_anywhere_ends_at_the_last_whole_batch() {
    for golden in golden() {
        for set in golden.record_sets() {
            let mut ends = vec![0];
            for batch in batches(set.clone()) {
                ends.push(ends.last().unwrap() + batch.unwrap().len_bytes());
            }
            for cut in 0..set.len() {
                let whole = ends.iter().filter(|end| **end > 0 && **end <= cut).count();
                let read: Vec<_> = batches(set.slice(..cut)).collect();
                assert!(read.iter().all(Result::is_ok), "{golden}, a set cut at {cut}");
                assert_eq!(read.len(), whole, "{golden}, a set cut at {cut}");
            }
        }
    }
}

#[test]
fn fetched_records_are_the_same_when_read_in_place() {
    let mut answers = 0;
    for golden in golden() {
        if golden.direction == Direction::Responses && golden.key == ApiKey::Fetch as i16 {
            let view = FetchView::read(golden.frame.clone(), golden.version).unwrap();
            let mut sets = Vec::new();
            let mut topics = view.topics();
            while let Some(topic) = topics.next_topic() {
                sets.extend(topic.map(|partition| partition.records()).filter(|set| !set.is_empty()));
            }
            assert_eq!(sets, golden.record_sets(), "{golden}");
            answers += 1;
        }
    }
    assert!(answers > 40, "{answers} answers to Fetch");
}
