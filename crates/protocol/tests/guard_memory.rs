//! What the guard promises of memory, counted: it takes none itself, and what it accepts is decoded within the cost that it
//! stated. (It also comes back as it was.)
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod fuzzed;

use allocation_counter::{AllocationInfo, measure};
use fuzzed::guarded;
use milena_protocol::guard::sample::Sampler;
use milena_protocol::guard::{self, Cost, check_request, check_response};
use milena_protocol::{ApiKey, ErrorKind, Result, supported};

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

#[test]
fn valid_and_injured_frames_decode_within_their_cost() {
    let mut accepted = 0;
    for (index, (api, version)) in pairs().into_iter().enumerate() {
        let mut sampler = Sampler::new(index as u64);
        for _ in 0..100 {
            let response = sampler.response(api as i16, version).unwrap();
            assert!(guarded::check_response(api, version, &response));
            let request = sampler.request(api as i16, version).unwrap();
            assert!(guarded::check_request(api, version, &request));
            for mut frame in [response, request.clone()] {
                let at = sampler.below(frame.len() as u64) as usize;
                frame[at] = sampler.below(256) as u8;
                accepted += usize::from(guarded::check_response(api, version, &frame));
                if frame[..4] == request[..4] {
                    accepted += usize::from(guarded::check_request(api, version, &frame));
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
    for (api, version) in pairs() {
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
                    decoded += usize::from(guarded::check_response(api, version, &frame));
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
