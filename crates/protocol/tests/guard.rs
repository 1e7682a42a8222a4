//! The guard against kafka-protocol: what is valid passes both, what the guard accepts the decoder decodes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use bytes::{Bytes, BytesMut};
use milena_protocol::guard::sample::Sampler;
use milena_protocol::guard::{self, check_request, check_response};
use milena_protocol::messages::{MetadataRequest, ProduceRequest};
use milena_protocol::{
    ApiKey, ErrorKind, RequestKind, ResponseKind, decode_any_response, decode_request, decode_response,
    encode_request_frame, encode_response, supported,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Request,
    Response,
}

impl Side {
    fn sample(self, sampler: &mut Sampler, api: ApiKey, version: i16) -> Vec<u8> {
        match self {
            Self::Request => sampler.request(api as i16, version),
            Self::Response => sampler.response(api as i16, version),
        }
        .unwrap()
    }

    fn check(self, api: ApiKey, version: i16, frame: &[u8]) -> milena_protocol::Result<guard::Cost> {
        match self {
            Self::Request => check_request(frame),
            Self::Response => check_response(api as i16, version, frame),
        }
    }

    /// The body in a frame.
    fn body(self, api: ApiKey, version: i16, frame: &[u8]) -> Bytes {
        use milena_protocol::{Decodable, messages};
        let mut rest = Bytes::copy_from_slice(frame);
        match self {
            Self::Request => {
                messages::RequestHeader::decode(&mut rest, api.request_header_version(version)).map(drop)
            }
            Self::Response => {
                messages::ResponseHeader::decode(&mut rest, api.response_header_version(version)).map(drop)
            }
        }
        .unwrap();
        rest
    }

    /// Decodes as users of this crate do.
    fn decode(self, api: ApiKey, version: i16, frame: &[u8]) -> milena_protocol::Result<()> {
        let frame = Bytes::copy_from_slice(frame);
        match self {
            Self::Request => decode_request(frame).map(drop),
            Self::Response => decode_any_response(frame, api as i16, version).map(drop),
        }
    }

    /// Decodes and encodes again as users of this crate do, in any version that is spoken here.
    fn ours(self, api: ApiKey, version: i16, frame: &[u8]) -> Result<BytesMut, String> {
        let (frame, mut out) = (Bytes::copy_from_slice(frame), BytesMut::new());
        match self {
            Self::Request => encode_request_frame(&mut out, &decode_request(frame).map_err(text)?),
            Self::Response => {
                let (id, response) = decode_any_response(frame, api as i16, version).map_err(text)?;
                encode_response(&mut out, api as i16, version, id, &response)
            }
        }
        .map_err(text)?;
        Ok(out.split_off(4))
    }

    /// Decodes with kafka-protocol, and encodes again: what is left over, and header and body as they would be written.
    fn oracle(self, api: ApiKey, version: i16, frame: &[u8]) -> Result<(usize, BytesMut), String> {
        use milena_protocol::{Decodable, Encodable};
        let (mut rest, mut out) = (Bytes::copy_from_slice(frame), BytesMut::new());
        match self {
            Self::Request => {
                let header_version = api.request_header_version(version);
                let header = milena_protocol::messages::RequestHeader::decode(&mut rest, header_version)
                    .map_err(text)?;
                let request = RequestKind::decode(api, &mut rest, version).map_err(text)?;
                header.encode(&mut out, header_version).map_err(text)?;
                request.encode(&mut out, version).map_err(text)?;
            }
            Self::Response => {
                let header_version = api.response_header_version(version);
                let header = milena_protocol::messages::ResponseHeader::decode(&mut rest, header_version)
                    .map_err(text)?;
                let response = ResponseKind::decode(api, &mut rest, version).map_err(text)?;
                header.encode(&mut out, header_version).map_err(text)?;
                response.encode(&mut out, version).map_err(text)?;
            }
        }
        Ok((rest.len(), out))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    format!("{error:#}")
}

/// Whether kafka-protocol itself has a version.
fn is_direct(api: ApiKey, version: i16) -> bool {
    let range = api.valid_versions();
    // The crate's own list says 10 for these two, but its requests end at 9.
    let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version == 10;
    range.min <= version && version <= range.max && !short
}

/// Every request and response in every version that is spoken here.
fn pairs() -> Vec<(Side, ApiKey, i16)> {
    let mut pairs = Vec::new();
    for api in ApiKey::iter() {
        let range = supported(api as i16).unwrap();
        for version in range.min..=range.max {
            pairs.push((Side::Request, api, version));
            pairs.push((Side::Response, api, version));
        }
    }
    assert!(pairs.len() > 500, "{}", pairs.len());
    pairs
}

#[test]
fn every_valid_frame_is_accepted_decoded_and_written_again_as_it_was() {
    for (index, (side, api, version)) in pairs().into_iter().enumerate() {
        let mut sampler = Sampler::new(index as u64);
        for _ in 0..60 {
            let frame = side.sample(&mut sampler, api, version);
            let named = || format!("{side:?} {api:?} v{version} {frame:02x?}");
            let cost =
                side.check(api, version, &frame).unwrap_or_else(|error| panic!("{error}: {}", named()));
            assert!(cost.memory <= guard::limit(frame.len()));
            if !is_direct(api, version) {
                continue;
            }
            let again =
                side.ours(api, version, &frame).unwrap_or_else(|error| panic!("{error}: {}", named()));
            assert_eq!(side.body(api, version, &again), side.body(api, version, &frame), "{}", named());
            let (left, again) =
                side.oracle(api, version, &frame).unwrap_or_else(|error| panic!("{error}: {}", named()));
            assert_eq!(left, 0, "{}", named());
            assert_eq!(again, frame, "{}", named());
        }
    }
}

/// Kept beside the fuzz targets: a byte for the API (its place in kafka-protocol's list), one for the version, then the
/// frame.
#[test]
fn answers_of_a_real_broker_are_accepted_and_written_again_as_they_came() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/guard_response");
    let apis: Vec<ApiKey> = ApiKey::iter().collect();
    let mut answers = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        let api = apis[usize::from(seed[0])];
        let version = i16::from(seed[1]);
        let frame = &seed[2..];
        check_response(api as i16, version, frame).unwrap();
        assert_eq!(Side::Response.oracle(api, version, frame).unwrap(), (0, BytesMut::from(frame)));
        answers += 1;
    }
    assert!(answers > 200, "{answers}");
}

#[test]
fn every_truncation_and_every_surplus_is_refused() {
    for (index, (side, api, version)) in pairs().into_iter().enumerate() {
        let mut frame = side.sample(&mut Sampler::new(1000 + index as u64), api, version);
        for cut in 0..frame.len() {
            assert!(
                side.check(api, version, &frame[..cut]).is_err(),
                "{side:?} {api:?} v{version}, {cut} bytes"
            );
        }
        frame.push(0);
        assert!(side.check(api, version, &frame).is_err(), "{side:?} {api:?} v{version}, one more");
    }
}

/// One random injury of a frame, of the kinds that hurt decoders.
fn injure(frame: &mut Vec<u8>, sampler: &mut Sampler) {
    let at = sampler.below(frame.len() as u64) as usize;
    match sampler.below(8) {
        0 => frame[at] ^= 1 << sampler.below(8),
        1 => frame[at] = sampler.below(256) as u8,
        2 => frame.insert(at, sampler.below(256) as u8),
        3 => drop(frame.remove(at)),
        4 => frame.truncate(at),
        5 => {
            let count: &[u8] = match sampler.below(5) {
                0 => &[0xff, 0xff, 0xff, 0xff, 0x0f],
                1 => &[0x7f, 0xff, 0xff, 0xff],
                2 => &[0x80, 0x80, 0x80, 0x80, 0x10],
                3 => &[0xff, 0xff, 0xff, 0xff],
                _ => &[0xff, 0xff, 0x7f],
            };
            let end = frame.len().min(at + count.len());
            frame.splice(at..end, count.iter().copied());
        }
        6 => frame[at] = frame[at].wrapping_add(1),
        _ => frame[at] = frame[at].wrapping_sub(1),
    }
}

#[test]
fn what_the_guard_accepts_of_injured_frames_is_decoded_whole() {
    let (mut accepted, mut refused) = (0, 0);
    for (index, (side, api, version)) in pairs().into_iter().enumerate() {
        let mut sampler = Sampler::new(5000 + index as u64);
        for round in 0..1200 {
            let mut frame = side.sample(&mut sampler, api, version);
            for _ in 0..=sampler.below(2) {
                if !frame.is_empty() {
                    injure(&mut frame, &mut sampler);
                }
            }
            if side == Side::Request && (frame.len() < 4 || frame[..4] != request_head(api, version)) {
                continue; // it is another request now
            }
            if side.check(api, version, &frame).is_err() {
                refused += 1;
                continue;
            }
            accepted += 1;
            let named = || format!("{side:?} {api:?} v{version}, round {round}: {frame:02x?}");
            if is_direct(api, version) {
                let (left, _) =
                    side.oracle(api, version, &frame).unwrap_or_else(|error| panic!("{error}: {}", named()));
                assert_eq!(left, 0, "{}", named());
            } else {
                let decoded = side.decode(api, version, &frame);
                assert!(decoded.is_ok(), "{decoded:?}: {}", named());
            }
        }
    }
    assert!(accepted > 100_000 && refused > 100_000, "{accepted} accepted, {refused} refused");
}

fn request_head(api: ApiKey, version: i16) -> [u8; 4] {
    let ([a, b], [c, d]) = ((api as i16).to_be_bytes(), version.to_be_bytes());
    [a, b, c, d]
}

#[test]
fn noise_neither_panics_nor_passes_for_long() {
    let mut sampler = Sampler::new(7);
    for (side, api, version) in pairs() {
        for _ in 0..200 {
            let length = sampler.below(64) as usize;
            let mut frame: Vec<u8> = (0..length).map(|_| sampler.below(256) as u8).collect();
            if side == Side::Request && frame.len() >= 4 {
                frame[..4].copy_from_slice(&request_head(api, version));
            }
            if side.check(api, version, &frame).is_ok() && (side == Side::Response || frame.len() >= 4) {
                side.decode(api, version, &frame).unwrap();
            }
        }
    }
}

#[test]
fn nine_bytes_of_metadata_do_not_end_the_process() {
    let frame = [&[0, 0, 0, 7, 0][..], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    let error = decode_response::<MetadataRequest>(frame.into(), 9).unwrap_err();
    assert_eq!((error.kind(), error.field(), error.at()), (ErrorKind::Guard, Some("brokers"), Some(14)));
    assert_eq!(
        error.to_string(),
        "MetadataResponse v9 refused: a count is larger than the frame can hold (field brokers, byte 14)"
    );
}

#[test]
fn a_frame_that_would_cost_more_than_its_size_allows_is_refused() {
    // ListGroups v3: three bytes a group on the wire, 152 in memory and one unknown tag each makes it dearer still.
    let groups: u32 = 4_000;
    let mut frame = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
    let mut count = groups + 1;
    while count >= 0x80 {
        frame.push(count as u8 | 0x80);
        count >>= 7;
    }
    frame.push(count as u8);
    for _ in 0..groups {
        frame.extend_from_slice(&[1, 1, 1, 99, 0]);
    }
    frame.push(0);
    let error = check_response(ApiKey::ListGroups as i16, 3, &frame).unwrap_err();
    assert!(error.to_string().contains("more memory"), "{error}");
}

#[test]
fn a_request_bomb_is_refused_before_it_is_decoded() {
    // Produce v3: null transactional id, acks, timeout, then 2^31 - 1 topics.
    let mut frame = vec![0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
    frame.extend_from_slice(&[0xff, 0xff, 0, 1, 0, 0, 0, 9, 0x7f, 0xff, 0xff, 0xff]);
    let error = decode_request(frame.into()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Guard, Some("topic_data")));
}

#[test]
fn an_unknown_version_or_api_is_unsupported() {
    let kind = |api: i16, version: i16| check_response(api, version, &[0; 64]).unwrap_err().kind();
    assert_eq!(kind(3, 99), ErrorKind::Unsupported);
    assert_eq!(kind(3, -1), ErrorKind::Unsupported);
    assert_eq!(kind(9999, 0), ErrorKind::Unsupported);
    assert_eq!(
        decode_response::<ProduceRequest>(Bytes::from_static(&[0; 64]), 14).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}
