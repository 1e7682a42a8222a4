#![no_main]
//! A broker reads any bytes without a panic, and what it read it would write and read again.

use bytes::{Bytes, BytesMut};
use milena_protocol::{RequestBody, decode_request, encode_request_frame};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(request) = decode_request(Bytes::copy_from_slice(input)) else { return };
    let RequestBody::Known(_) = &request.body else { return };
    let mut again = BytesMut::new();
    // Some fields default to what their version lacks; then it can't be written, which is no fault of the reader.
    if encode_request_frame(&mut again, &request).is_ok() {
        // NaN is never equal to itself, so the texts are compared.
        let read = decode_request(again.split_off(4).freeze()).expect("what was written is read");
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
    }
});
