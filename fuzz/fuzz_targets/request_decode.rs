#![no_main]
//! A broker reads any bytes without a panic, and what it read it would write and read again.

use bytes::{Bytes, BytesMut};
use milena_protocol::{Encodable, RequestBody, decode_request, messages};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(request) = decode_request(Bytes::copy_from_slice(input)) else { return };
    let RequestBody::Known(body) = &request.body else { return };
    let api = messages::ApiKey::try_from(request.api_key).expect("it is known");
    let header = messages::RequestHeader::default()
        .with_request_api_key(request.api_key)
        .with_request_api_version(request.version)
        .with_correlation_id(request.correlation_id)
        .with_client_id(request.client_id.clone().map(Into::into));
    let mut again = BytesMut::new();
    header.encode(&mut again, api.request_header_version(request.version)).expect("a header that was read");
    // Some fields default to what their version lacks; then it can't be written, which is no fault of the reader.
    if body.encode(&mut again, request.version).is_ok() {
        // NaN is never equal to itself, so the texts are compared.
        let read = decode_request(again.freeze()).expect("what was written is read");
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
    }
});
