#![no_main]
//! What the guard accepts of a response, kafka-protocol decodes whole and within the stated memory, and it comes back as it was.

libfuzzer_sys::fuzz_target!(|input: &[u8]| milena_fuzz::guarded::run_response(input));
