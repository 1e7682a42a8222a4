#![no_main]
//! A fetch answer read in place: accepted when the guard accepts it, without memory, and read to the same end as the struct.

libfuzzer_sys::fuzz_target!(|input: &[u8]| milena_fuzz::fetched::run(input));
