#![no_main]
//! Records made from any bytes are built into a message set of format 0 or 1, laid out as documented, and read back unchanged.

libfuzzer_sys::fuzz_target!(|input: &[u8]| milena_fuzz::roundtrip::run_message_set(input));
