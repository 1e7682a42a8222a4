//! The dump: it tells every byte of a frame once, and stops where the guard stops.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::Bytes;
use milena_protocol::dump::{Announced, Dump, Fault, Name, Node, Piece, Value, What, announced, pieces};
use milena_protocol::guard::sample::Sampler;
use milena_protocol::guard::{self, check_request, check_response, request_message, response_message};
use milena_protocol::records::{BatchBuilder, BatchIdentity, BatchOptions};
use milena_protocol::{ErrorKind, Offset, ProtocolError};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Request,
    Response,
}

impl Side {
    fn sample(self, sampler: &mut Sampler, api: i16, version: i16) -> Vec<u8> {
        match self {
            Self::Request => sampler.request(api, version),
            Self::Response => sampler.response(api, version),
        }
        .unwrap()
    }

    fn check(self, api: i16, version: i16, frame: &[u8]) -> Result<guard::Cost, ProtocolError> {
        match self {
            Self::Request => check_request(frame),
            Self::Response => check_response(api, version, frame),
        }
    }

    fn dump(self, api: i16, version: i16, frame: &[u8]) -> Dump<'_> {
        match self {
            Self::Request => Dump::request(frame),
            Self::Response => Dump::response(api, version, frame),
        }
    }
}

/// Every message of the tables in every version.
fn every_message() -> Vec<(Side, i16, i16)> {
    let mut all = Vec::new();
    for api in 0..200 {
        for (side, message) in
            [(Side::Request, request_message(api)), (Side::Response, response_message(api))]
        {
            let (first, last) = message.map_or((0, -1), |message| message.versions());
            all.extend((first..=last).map(|version| (side, api, version)));
        }
    }
    assert!(all.len() > 590, "{}", all.len());
    all
}

/// Walks to the end; checks on the way that no byte is told twice or not at all, and that what begins also ends.
fn walked(dump: Dump<'_>) -> (usize, usize, Option<Fault>) {
    let (frame, mut place, mut events) = (dump.frame(), 0, 0);
    // What is open, with the elements an array still owes.
    let mut open: Vec<(Name, Option<u32>)> = Vec::new();
    for event in dump {
        let event = match event {
            Ok(event) => event,
            Err(fault) => return (events, place, Some(fault)),
        };
        events += 1;
        assert_eq!(event.at.start, place, "{event:?}");
        assert!(event.at.end >= place, "{event:?}");
        place = event.at.end;
        if let (What::Enter { name, .. } | What::Value { name, .. }, Some((_, Some(owed)))) =
            (&event.what, open.last_mut())
        {
            assert!(matches!(name, Name::Element(_)), "{event:?}");
            *owed = owed.checked_sub(1).expect("more elements than were announced");
        }
        match event.what {
            What::Enter { name, node } => {
                let owed = if let Node::Array { count, .. } = node { Some(count) } else { None };
                open.push((name, owed));
            }
            What::Leave => {
                assert!(event.at.is_empty());
                let (name, owed) = open.pop().expect("nothing was open");
                assert!(owed.is_none_or(|owed| owed == 0), "{name:?}");
            }
            What::Value { value: Value::Text(text), .. } => {
                assert!(frame[event.at].ends_with(text.as_bytes()));
            }
            What::Value { value: Value::Bytes(bytes) | Value::Records(bytes), .. } | What::Opaque(bytes) => {
                assert!(frame[event.at].ends_with(bytes));
            }
            What::Value { .. } | What::Tags(_) => assert!(!event.at.is_empty()),
        }
    }
    assert!(open.is_empty());
    (events, place, None)
}

/// The last field of a path, without the number of its element.
fn innermost(path: &str) -> &str {
    path.rsplit('.').next().and_then(|last| last.split('[').next()).unwrap_or_default()
}

#[track_caller]
fn agrees(side: Side, api: i16, version: i16, frame: &[u8]) -> bool {
    let named = || format!("{side:?} {api} v{version}: {frame:02x?}");
    let dump = side.dump(api, version, frame);
    let version = dump.version().unwrap_or(version);
    let (_, place, fault) = walked(dump);
    match (side.check(api, version, frame), fault) {
        (Ok(_), None) => assert_eq!(place, frame.len(), "{}", named()),
        (Err(error), None) => assert!(error.to_string().contains("more memory"), "{error}: {}", named()),
        (Ok(_), Some(fault)) => panic!("{fault}: {}", named()),
        // A price is asked before the array is read: what the dump finds may lie behind it.
        (Err(error), Some(fault)) if error.to_string().contains("more memory") => {
            assert!(error.at() <= Some(fault.at), "{error} but {fault}: {}", named());
        }
        (Err(error), Some(fault)) => {
            assert!(place <= fault.at && fault.item.end <= frame.len(), "{fault:?}: {}", named());
            if frame.len() >= 4 {
                assert_eq!(error.at(), Some(fault.at), "{error} but {fault}: {}", named());
                assert!(error.to_string().contains(fault.reason), "{error} but {fault}: {}", named());
                assert_eq!(error.field().unwrap_or(""), innermost(&fault.path), "{}", named());
            }
            return false;
        }
    }
    true
}

#[test]
fn every_byte_of_every_valid_frame_is_told_once() {
    for (index, (side, api, version)) in every_message().into_iter().enumerate() {
        let mut sampler = Sampler::new(index as u64);
        for _ in 0..40 {
            let frame = side.sample(&mut sampler, api, version);
            let dump = side.dump(api, version, &frame);
            assert!(dump.message().is_some());
            assert_eq!((dump.api_key(), dump.version()), (Some(api), Some(version)));
            assert!(agrees(side, api, version, &frame), "{side:?} {api} v{version}: {frame:02x?}");
        }
    }
}

#[test]
fn a_cut_or_injured_frame_is_refused_at_the_byte_at_which_the_guard_refuses_it() {
    let (mut accepted, mut refused) = (0, 0);
    for (index, (side, api, version)) in every_message().into_iter().enumerate() {
        let mut sampler = Sampler::new(9000 + index as u64);
        let frame = side.sample(&mut sampler, api, version);
        for cut in 0..frame.len() {
            assert!(!agrees(side, api, version, &frame[..cut]));
        }
        for _ in 0..150 {
            let mut frame = side.sample(&mut sampler, api, version);
            for _ in 0..=sampler.below(2) {
                // Of requests the API and the version stay, or it would be another one.
                let first = if side == Side::Request { 4 } else { 0 };
                let at = first + sampler.below((frame.len() - first).max(1) as u64) as usize;
                match sampler.below(6) {
                    _ if at >= frame.len() => frame.push(1),
                    0 => frame[at] ^= 1 << sampler.below(8),
                    1 => frame[at] = sampler.below(256) as u8,
                    2 => frame.insert(at, sampler.below(256) as u8),
                    3 => drop(frame.remove(at)),
                    4 => frame.truncate(at),
                    _ => {
                        let end = frame.len().min(at + 4);
                        frame.splice(at..end, [0xff, 0xff, 0xff, 0xff, 0x0f]);
                    }
                }
            }
            if agrees(side, api, version, &frame) { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn noise_ends() {
    let mut sampler = Sampler::new(77);
    for (side, api, version) in every_message() {
        for _ in 0..30 {
            let mut frame: Vec<u8> =
                (0..sampler.below(60)).map(|_| sampler.below(256) as u8 & sampler.below(256) as u8).collect();
            if let (Side::Request, Some(head)) = (side, frame.first_chunk_mut()) {
                let ([a, b], [c, d]) = (api.to_be_bytes(), version.to_be_bytes());
                *head = [a, b, c, d];
            }
            agrees(side, api, version, &frame);
            walked(Dump::request(&frame));
            walked(Dump::response_to_unknown(&frame));
        }
    }
}

#[test]
fn a_fault_names_the_path_and_the_bytes_to_point_at() {
    // Produce v3: no transactional id, acks, timeout, one topic "t" with two partitions, the second with a wrong length.
    let mut frame = vec![0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
    frame.extend_from_slice(&[0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2]);
    frame.extend_from_slice(&[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xfe]);
    let fault = Dump::request(&frame).find_map(Result::err).unwrap();
    assert_eq!(
        fault.to_string(),
        "a length is negative (field topic_data[0].partition_data[1].records, byte 45)"
    );
    assert_eq!((fault.at, fault.item), (45, 41..45));
    // The same with text that is not UTF-8 as the topic: its first wrong byte.
    let frame = [&frame[..20], &[0, 1, 0, 3, b'o', 0xff, b'k', 0, 0, 0, 0]].concat();
    let fault = Dump::request(&frame).find_map(Result::err).unwrap();
    assert_eq!(fault.to_string(), "a string is not UTF-8 (field topic_data[0].name, byte 27)");
    assert_eq!(fault.item, 25..27);
}

#[test]
fn what_is_not_known_is_told_as_bytes() {
    // Metadata v99, and API 4711.
    for head in [[0, 3, 0, 99], [18, 103, 0, 1]] {
        let frame = [&head[..], &[0, 0, 0, 7, 0, 1, b'm', 1, 2, 3]].concat();
        let dump = Dump::request(&frame);
        assert!(dump.message().is_none());
        let events: Vec<_> = dump.map(Result::unwrap).collect();
        assert_eq!(events.last().unwrap().what, What::Opaque(&[1, 2, 3]));
        assert_eq!(walked(Dump::request(&frame)), (7, frame.len(), None));
        let version = i16::from_be_bytes([head[2], head[3]]);
        let api = i16::from_be_bytes([head[0], head[1]]);
        assert_eq!(walked(Dump::response(api, version, &frame)), (4, frame.len(), None));
    }
    assert_eq!(walked(Dump::response_to_unknown(&[0, 0, 0, 7])), (4, 4, None));
    assert_eq!(walked(Dump::opaque(b"n,,n=user")), (1, 9, None));
}

#[test]
fn an_answer_that_refuses_the_version_of_api_versions_is_told_in_version_0() {
    let frame = [0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 3];
    let dump = Dump::response(18, 4, &frame);
    assert_eq!(dump.version(), Some(0));
    assert_eq!(walked(dump).1, frame.len());
}

#[test]
fn record_data_is_told_apart_from_other_bytes() {
    // The messages that carry records, as the protocol's documentation types them.
    let carriers = [(Side::Request, 0), (Side::Response, 1), (Side::Response, 59), (Side::Response, 78)];
    let mut seen = std::collections::BTreeSet::new();
    for (index, (side, api, version)) in every_message().into_iter().enumerate() {
        let mut sampler = Sampler::new(500 + index as u64);
        for _ in 0..30 {
            let frame = side.sample(&mut sampler, api, version);
            for event in side.dump(api, version, &frame) {
                if let What::Value { value: Value::Records(_), .. } = event.unwrap().what {
                    assert!(carriers.contains(&(side, api)), "{side:?} {api}");
                    seen.insert(api);
                }
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 59, 78]);
}

fn batch(offset: i64, records: u32) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for number in 0..records {
        builder.push(1_700_000_000_000, None, Some(&number.to_be_bytes()), []).unwrap();
    }
    builder.build(BatchIdentity { base_offset: Offset(offset), ..BatchIdentity::default() }).unwrap()
}

/// Shape and place of each piece.
fn told(bytes: &[u8]) -> Vec<(&'static str, usize, usize)> {
    let mut place = 0;
    let mut told = Vec::new();
    for piece in pieces(Bytes::copy_from_slice(bytes)) {
        let (kind, at, size) = match piece {
            Piece::Batch { at, batch } => ("batch", at, batch.len_bytes()),
            Piece::Damaged { at, bytes, .. } => ("damaged", at, bytes.len()),
            Piece::Partial { at, bytes, .. } => ("partial", at, bytes.len()),
            Piece::Zeros { at, count } => ("zeros", at, count),
        };
        assert_eq!(at, place);
        assert!(size > 0);
        place += size;
        told.push((kind, at, size));
    }
    assert_eq!(place, bytes.len());
    told
}

#[test]
fn record_data_comes_apart_whatever_its_state() {
    let (one, two) = (batch(0, 3), batch(3, 1));
    let (a, b) = (one.len(), two.len());
    let both = [&one[..], &two].concat();
    assert_eq!(told(&[]), []);
    assert_eq!(told(&both), [("batch", 0, a), ("batch", a, b)]);
    assert_eq!(
        told(&[&both[..], &[0; 999]].concat()),
        [("batch", 0, a), ("batch", a, b), ("zeros", a + b, 999)]
    );
    for cut in 1..both.len() {
        let expected: &[_] = match cut {
            _ if cut < a && both[..cut].iter().all(|byte| *byte == 0) => &[("zeros", 0, cut)],
            _ if cut < a => &[("partial", 0, cut)],
            _ if cut == a => &[("batch", 0, a)],
            _ if both[a..cut].iter().all(|byte| *byte == 0) => &[("batch", 0, a), ("zeros", a, cut - a)],
            _ => &[("batch", 0, a), ("partial", a, cut - a)],
        };
        assert_eq!(told(&both[..cut]), expected, "{cut}");
    }
    // A codec nobody knows, a format nobody knows: the next batch is found all the same.
    for (at, value) in [(22, 7), (16, 9)] {
        let mut wrong = both.clone();
        wrong[at] = value;
        assert_eq!(told(&wrong), [("damaged", 0, a), ("batch", a, b)]);
    }
    // But not behind a length that cannot be one, or a long one of an unknown format.
    let mut wrong = both.clone();
    wrong[8..12].copy_from_slice(&[0xff; 4]);
    assert_eq!(told(&wrong), [("damaged", 0, a + b)]);
    wrong[8..12].copy_from_slice(&[0, 1, 0, 0]);
    assert_eq!(told(&wrong), [("partial", 0, a + b)]);
    wrong[16] = 9;
    assert_eq!(told(&wrong), [("damaged", 0, a + b)]);
}

#[test]
fn noise_comes_apart_without_a_gap() {
    let mut sampler = Sampler::new(3);
    let good = batch(0, 2);
    for _ in 0..20_000 {
        let mut bytes = [&good[..], &good, &good[..sampler.below(good.len() as u64) as usize]].concat();
        for _ in 0..=sampler.below(4) {
            let at = sampler.below(bytes.len() as u64) as usize;
            bytes[at] = sampler.below(256) as u8;
        }
        told(&bytes);
    }
}

#[test]
fn the_head_of_a_batch_says_how_long_it_is() {
    let one = batch(0, 3);
    assert_eq!(announced(&one).unwrap(), Some(Announced { size: one.len(), format: 2 }));
    assert_eq!(announced(&one[..16]).unwrap(), None);
    let head = |length: i32, format: u8| [&[0; 8][..], &length.to_be_bytes(), &[0; 4], &[format]].concat();
    assert_eq!(announced(&head(14, 0)).unwrap(), Some(Announced { size: 26, format: 0 }));
    assert_eq!(announced(&head(i32::MAX, 1)).unwrap().unwrap().size, i32::MAX as usize + 12);
    for (length, format) in [(13, 0), (-1, 1), (i32::MIN, 2), (48, 2)] {
        let error = announced(&head(length, format)).unwrap_err();
        assert_eq!((error.kind(), error.at()), (ErrorKind::Malformed, Some(8)));
    }
    assert_eq!(
        announced(&head(49, 0xff)).unwrap().unwrap().check_format().unwrap_err().to_string(),
        "unknown record batch format -1 (field magic, byte 16)"
    );
}

/// What brokers from 0.8.2 on were asked and answered; a correlation id there is API key x 100 + version.
#[test]
fn frames_of_real_brokers_are_told_to_their_last_byte() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden");
    let mut frames = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let side = match path.extension().and_then(|ending| ending.to_str()) {
            Some("requests") => Side::Request,
            Some("responses") => Side::Response,
            _ => continue,
        };
        let bytes = std::fs::read(&path).unwrap();
        let mut rest = &bytes[..];
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
            rest = behind;
            frames += 1;
            let (api, version) = match side {
                Side::Request => {
                    (i16::from_be_bytes([frame[0], frame[1]]), i16::from_be_bytes([frame[2], frame[3]]))
                }
                Side::Response => {
                    let id = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
                    ((id / 100) as i16, (id % 100) as i16)
                }
            };
            let what = format!("{}: {side:?} {api} v{version}", path.display());
            assert!(side.dump(api, version, frame).message().is_some(), "{what}");
            assert!(agrees(side, api, version, frame), "{what}");
        }
    }
    assert!(frames > 1000, "{frames}");
}
