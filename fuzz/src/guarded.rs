//! What the guard accepts, kafka-protocol decodes whole, within the stated memory, and it comes back when it is written.

use bytes::Bytes;
use milena_protocol::messages::ApiKey;
use milena_protocol::{ErrorKind, RequestBody, decode_any_response, decode_request, guard, supported};

use super::again::{self, Of, is_rewritten};
use super::memory;

/// What a decode may take beyond its cost: an error's text, a shared handle, the allocator's own rounding.
pub const SLACK: u64 = 2048;

/// The target `guard_request`: an API, a version, the frame behind them.
pub fn run_request(input: &[u8]) {
    let [api, version, rest @ ..] = input else { return };
    let (api, version) = pick(*api, *version);
    let frame = [&(api as i16).to_be_bytes()[..], &version.to_be_bytes(), rest].concat();
    check_request(api, version, &frame);
}

/// The target `guard_response`: an API, a version, the frame.
pub fn run_response(input: &[u8]) {
    let [api, version, frame @ ..] = input else { return };
    let (api, version) = pick(*api, *version);
    check_response(api, version, frame);
}

/// An API and a version from two bytes, so that every pair is equally near. Seeds name the version itself.
pub fn pick(api: u8, version: u8) -> (ApiKey, i16) {
    let apis: Vec<ApiKey> = ApiKey::iter().collect();
    let api = apis[usize::from(api) % apis.len()];
    let range = supported(api as i16).expect("kafka-protocol has it");
    let version = i16::from(version);
    if range.contains(version) {
        (api, version)
    } else {
        (api, range.min + version % (range.max - range.min + 1))
    }
}

/// What decoding may take: the guard's cost, or in a version that kafka-protocol lacks, all that the frame may take and a copy
/// of four times the frame.
fn most(cost: guard::Cost, api: ApiKey, version: i16, frame: &[u8]) -> u64 {
    if is_rewritten(api, version) {
        guard::limit(frame.len()) + 4 * frame.len() as u64 + SLACK
    } else {
        cost.memory + SLACK
    }
}

/// Whether the guard accepts a response frame. If so, all of it must be decoded within the stated cost, and come back when it is
/// written.
pub fn check_response(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_response(api as i16, version, frame) else { return false };
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, peak) = memory::peak_of(|| decode_any_response(whole, api as i16, version));
    let most = most(cost, api, version, frame);
    assert!(peak <= most, "{api:?} v{version} took {peak} bytes, not {most}");
    let Some((id, response)) = decoded_or_dear(decoded, api, version) else { return false };
    again::check_response(Of { api, version, request: false }, frame, id, &response);
    true
}

/// Whether the guard accepts a request frame. If so, all of it must be decoded within the stated cost, and come back when it is
/// written.
pub fn check_request(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_request(frame) else { return false };
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, peak) = memory::peak_of(|| decode_request(whole));
    let most = most(cost, api, version, frame);
    assert!(peak <= most, "{api:?} v{version} took {peak} bytes, not {most}");
    let Some(request) = decoded_or_dear(decoded, api, version) else { return false };
    assert!(matches!(request.body, RequestBody::Known(_)), "{api:?} v{version} is not spoken");
    again::check_request(Of { api, version, request: true }, frame, &request);
    true
}

/// What the guard accepted is decoded, unless rewriting it found that it would take too much memory.
fn decoded_or_dear<T>(decoded: milena_protocol::Result<T>, api: ApiKey, version: i16) -> Option<T> {
    match decoded {
        Ok(decoded) => Some(decoded),
        Err(error) if error.kind() == ErrorKind::Guard && is_rewritten(api, version) => None,
        Err(error) => panic!("{api:?} v{version}: {error}"),
    }
}
