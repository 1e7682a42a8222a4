//! What the fuzz targets share: an allocator that counts, and the check that decoding costs no more than the guard said.

pub mod memory;

use bytes::Bytes;
use milena_protocol::messages::ApiKey;
use milena_protocol::{RequestKind, ResponseKind, guard, supported};

/// What a decode may take beyond its cost: an error's text, a shared handle, the allocator's own rounding.
pub const SLACK: u64 = 2048;

/// An API and a version from two bytes, so that every pair is equally near.
pub fn pick(api: u8, version: u8) -> (ApiKey, i16) {
    let apis: Vec<ApiKey> = ApiKey::iter().collect();
    let api = apis[usize::from(api) % apis.len()];
    let range = supported(api as i16).expect("kafka-protocol has it");
    (api, range.min + i16::from(version) % (range.max - range.min + 1))
}

/// Whether the guard accepts a response frame. If so, kafka-protocol must decode all of it within the stated cost.
pub fn check_response(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_response(api as i16, version, frame) else { return false };
    let mut rest = Bytes::copy_from_slice(frame);
    let header_version = api.response_header_version(version);
    let (decoded, peak) = memory::peak_of(|| {
        let header = milena_protocol::Decodable::decode(&mut rest, header_version);
        let header: milena_protocol::messages::ResponseHeader =
            header.expect("the guard accepted the header");
        (header, ResponseKind::decode(api, &mut rest, version).expect("the guard accepted the body"))
    });
    assert!(rest.is_empty(), "{api:?} v{version} left {} bytes", rest.len());
    assert!(peak <= cost.memory + SLACK, "{api:?} v{version} took {peak} bytes, not {}", cost.memory);
    drop(decoded);
    true
}

/// Whether the guard accepts a request frame. If so, kafka-protocol must decode all of it within the stated cost.
pub fn check_request(api: ApiKey, version: i16, frame: &[u8]) -> bool {
    let Ok(cost) = guard::check_request(frame) else { return false };
    let mut rest = Bytes::copy_from_slice(frame);
    let header_version = api.request_header_version(version);
    let (decoded, peak) = memory::peak_of(|| {
        let header = milena_protocol::Decodable::decode(&mut rest, header_version);
        let header: milena_protocol::messages::RequestHeader = header.expect("the guard accepted the header");
        (header, RequestKind::decode(api, &mut rest, version).expect("the guard accepted the body"))
    });
    assert!(rest.is_empty(), "{api:?} v{version} left {} bytes", rest.len());
    assert!(peak <= cost.memory + SLACK, "{api:?} v{version} took {peak} bytes, not {}", cost.memory);
    drop(decoded);
    true
}
