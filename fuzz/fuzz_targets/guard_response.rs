#![no_main]
//! What the guard accepts of a response, kafka-protocol decodes whole and within the stated memory.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [api, version, frame @ ..] = input else { return };
    let (api, version) = milena_fuzz::pick(*api, *version);
    milena_fuzz::check_response(api, version, frame);
});
