//! Any text as a JAAS string, a JAAS file and a properties file: read or refused, never more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::JaasEntry;

fuzz_target!(|text: &str| {
    let _ = JaasEntry::parse(text);
    let _ = JaasEntry::parse_file(text);
});
