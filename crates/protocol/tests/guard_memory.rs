//! What the guard promises of memory, counted: it takes none itself, and what it accepts is decoded within the cost that it
//! stated.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use milena_protocol::guard::sample::Sampler;
use milena_protocol::guard::{self, Cost, check_request, check_response};
use milena_protocol::{ApiKey, ErrorKind, Result, decode_any_response, decode_request, supported};

/// What a decode may take beyond its cost: an error's text, a shared handle, the allocator's own rounding.
const SLACK: u64 = 2048;

fn counted<T>(run: impl FnOnce() -> T) -> (T, AllocationInfo) {
    let mut result = None;
    let info = measure(|| result = Some(run()));
    (result.unwrap(), info)
}

/// Every API in every version that is spoken here.
fn pairs() -> Vec<(ApiKey, i16)> {
    let versions = |api| {
        let range = supported(api as i16).unwrap();
        (range.min..=range.max).map(move |version| (api, version))
    };
    let pairs: Vec<_> = ApiKey::iter().flat_map(versions).collect();
    assert!(pairs.len() > 250, "{}", pairs.len());
    pairs
}

/// Whether a version is decoded by way of another one: kafka-protocol itself lacks it.
fn is_rewritten(api: ApiKey, version: i16) -> bool {
    let direct = api.valid_versions();
    // The crate's own list says 10 for these two, but its requests end at 9.
    let short = matches!(api, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version == 10;
    version < direct.min || version > direct.max || short
}

/// Whether the guard accepts a frame and it is decoded; no more heap is held meanwhile than the guard said. In a version that
/// is rewritten that is all that a frame of this size may take, and a copy of four times the frame.
fn decodes_within_its_cost<T>(
    (api, version): (ApiKey, i16),
    frame: &[u8],
    check: impl FnOnce(&[u8]) -> Result<Cost>,
    decode: impl FnOnce(Bytes) -> Result<T>,
) -> bool {
    let Ok(cost) = check(frame) else { return false };
    let rewritten = is_rewritten(api, version);
    let most =
        if rewritten { guard::limit(frame.len()) + 4 * frame.len() as u64 } else { cost.memory } + SLACK;
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, info) = counted(|| decode(whole));
    assert!(info.bytes_max <= most, "{api:?} v{version} took {info:?}, not {most}: {frame:02x?}");
    match decoded {
        Ok(_) => true,
        // Only when it is rewritten it is seen that it would take too much.
        Err(error) if error.kind() == ErrorKind::Guard && rewritten => false,
        Err(error) => panic!("{api:?} v{version}: {error}: {frame:02x?}"),
    }
}

fn response_decodes(pair @ (api, version): (ApiKey, i16), frame: &[u8]) -> bool {
    let key = api as i16;
    decodes_within_its_cost(
        pair,
        frame,
        |frame| check_response(key, version, frame),
        |frame| decode_any_response(frame, key, version),
    )
}

fn request_decodes(pair: (ApiKey, i16), frame: &[u8]) -> bool {
    decodes_within_its_cost(pair, frame, check_request, decode_request)
}

#[test]
fn valid_and_injured_frames_decode_within_their_cost() {
    let mut accepted = 0;
    for (index, pair) in pairs().into_iter().enumerate() {
        let mut sampler = Sampler::new(index as u64);
        for _ in 0..100 {
            let response = sampler.response(pair.0 as i16, pair.1).unwrap();
            assert!(response_decodes(pair, &response));
            let request = sampler.request(pair.0 as i16, pair.1).unwrap();
            assert!(request_decodes(pair, &request));
            for mut frame in [response, request.clone()] {
                let at = sampler.below(frame.len() as u64) as usize;
                frame[at] = sampler.below(256) as u8;
                accepted += usize::from(response_decodes(pair, &frame));
                if frame[..4] == request[..4] {
                    accepted += usize::from(request_decodes(pair, &frame));
                }
            }
        }
    }
    assert!(accepted > 10_000, "{accepted}");
}

/// One array of the cheapest elements, without and with unknown tags in each: the dearest frames there are.
#[test]
fn dear_frames_decode_within_their_cost() {
    let mut decoded = 0;
    for pair @ (api, version) in pairs() {
        let message = guard::response_message(api as i16).unwrap();
        if !message.is_flexible(message.version(version).unwrap()) {
            continue;
        }
        for tags in [&[0][..], &[1, 90, 0], &[2, 90, 0, 91, 0]] {
            for lead in 0..24 {
                for width in 0..24 {
                    // header, `lead` bytes of 0, the count, elements of `width` bytes of 1 and their tags, the end
                    let mut frame = vec![0; if api == ApiKey::ApiVersions { 4 } else { 5 } + lead];
                    frame.push(101);
                    for _ in 0..100 {
                        frame.resize(frame.len() + width, 1);
                        frame.extend_from_slice(tags);
                    }
                    frame.push(0);
                    decoded += usize::from(response_decodes(pair, &frame));
                }
            }
        }
    }
    assert!(decoded > 50, "{decoded}");
}

#[test]
fn checking_a_frame_allocates_nothing() {
    for (index, (api, version)) in pairs().into_iter().enumerate() {
        let mut sampler = Sampler::new(9000 + index as u64);
        for _ in 0..20 {
            let response = sampler.response(api as i16, version).unwrap();
            let (checked, info) = counted(|| check_response(api as i16, version, &response));
            checked.unwrap();
            assert_eq!(info.count_total, 0, "{api:?} v{version}, response: {info:?}");
            let request = sampler.request(api as i16, version).unwrap();
            let (checked, info) = counted(|| check_request(&request));
            checked.unwrap();
            assert_eq!(info.count_total, 0, "{api:?} v{version}, request: {info:?}");
        }
    }
}

#[test]
fn a_refused_frame_allocates_its_error_and_nothing_else() {
    let refused = |name: &dyn Fn() -> String, check: &dyn Fn() -> Result<Cost>| {
        let (outcome, info) = counted(check);
        let error = outcome.expect_err(&name());
        assert!(matches!(error.kind(), ErrorKind::Guard | ErrorKind::Truncated), "{error}: {}", name());
        // The text grows as it is put together.
        assert!(info.count_total <= 8 && info.bytes_max < 1024, "{}: {info:?}", name());
    };
    for (index, (api, version)) in pairs().into_iter().enumerate() {
        let mut sampler = Sampler::new(20_000 + index as u64);
        let mut response = sampler.response(api as i16, version).unwrap();
        let mut request = sampler.request(api as i16, version).unwrap();
        let cuts = |length: usize| [0, 3, length / 2, length - 1];
        for cut in cuts(response.len()) {
            let name = || format!("{api:?} v{version}, response of {cut} bytes");
            refused(&name, &|| check_response(api as i16, version, &response[..cut]));
        }
        for cut in cuts(request.len()) {
            let name = || format!("{api:?} v{version}, request of {cut} bytes");
            refused(&name, &|| check_request(&request[..cut]));
        }
        response.push(0);
        request.push(0);
        let name = || format!("{api:?} v{version}, a byte more");
        refused(&name, &|| check_response(api as i16, version, &response));
        refused(&name, &|| check_request(&request));
    }
}
