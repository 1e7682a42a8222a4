#![no_main]
//! What the guard accepts of a request, kafka-protocol decodes whole and within the stated memory.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [api, version, rest @ ..] = input else { return };
    let (api, version) = milena_fuzz::pick(*api, *version);
    let frame = [&(api as i16).to_be_bytes()[..], &version.to_be_bytes(), rest].concat();
    milena_fuzz::check_request(api, version, &frame);
});
