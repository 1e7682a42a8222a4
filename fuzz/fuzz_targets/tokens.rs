//! Any bytes as a JWT and as the answer of a token endpoint: read or refused, and a cut answer is never whole.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::jwt::Claims;
use milena_core::sasl::oidc::{read_http, token_of};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Claims::read(text);
    }
    for ended in [false, true] {
        if let Ok(Some(answer)) = read_http(bytes, ended) {
            let _ = token_of(&answer, SystemTime::UNIX_EPOCH);
        }
    }
});
