#![no_main]
//! Any messages of formats 0 and 1 with right checksums, alone or in a compressed wrapper: every reader ends, and its promises hold.

libfuzzer_sys::fuzz_target!(|input: &[u8]| milena_fuzz::sets::run(input));
