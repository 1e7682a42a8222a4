//! Any bytes as record batches: every reader ends without a panic, and its promises hold.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| milena_fuzz::records::check_batches(Bytes::copy_from_slice(bytes)));
