#![no_main]
//! What another member of a group says it wants or was given: any bytes are read as kafka-protocol reads them, or refused.

libfuzzer_sys::fuzz_target!(|input: &[u8]| milena_fuzz::members::run(input));
