#![no_main]
//! Records made from any bytes are built into a batch and read back unchanged, by us and by kafka-protocol, whose batch we read.

libfuzzer_sys::fuzz_target!(|input: &[u8]| milena_fuzz::roundtrip::run_batch(input));
