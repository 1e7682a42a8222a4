//! What the fuzz targets share: an allocator that counts, and the check that decoding costs no more than the guard said.

pub mod memory;

use bytes::Bytes;
use milena_protocol::messages::ApiKey;
use milena_protocol::{RequestBody, decode_any_response, decode_request, guard, supported};

/// What a decode may take beyond its cost: an error's text, a shared handle, the allocator's own rounding.
pub const SLACK: u64 = 2048;

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

/// What decoding may take: the guard's cost, and in a version that kafka-protocol lacks, a copy of four times the frame.
fn most(cost: guard::Cost, api: ApiKey, version: i16, frame: &[u8]) -> u64 {
    let direct = api.valid_versions();
    let copied = if direct.min <= version && version <= direct.max { 0 } else { 4 * frame.len() as u64 };
    cost.memory + copied + SLACK
}

/// Whether the guard accepts a response frame. If so, all of it must be decoded within the stated cost.
pub fn check_response(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_response(api as i16, version, frame) else { return false };
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, peak) = memory::peak_of(|| decode_any_response(whole, api as i16, version));
    let most = most(cost, api, version, frame);
    assert!(peak <= most, "{api:?} v{version} took {peak} bytes, not {most}");
    decoded.expect("the guard accepted it");
    true
}

/// Whether the guard accepts a request frame. If so, all of it must be decoded within the stated cost.
pub fn check_request(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_request(frame) else { return false };
    let whole = Bytes::copy_from_slice(frame);
    let (decoded, peak) = memory::peak_of(|| decode_request(whole));
    let most = most(cost, api, version, frame);
    assert!(peak <= most, "{api:?} v{version} took {peak} bytes, not {most}");
    let request = decoded.expect("the guard accepted it");
    assert!(matches!(request.body, RequestBody::Known(_)), "{api:?} v{version} is not spoken");
    true
}
