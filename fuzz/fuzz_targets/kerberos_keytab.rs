//! Any bytes as a keytab: an error or keys, never a panic, and no more memory than a few times the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::gssapi::Keytab;

fuzz_target!(|bytes: &[u8]| {
    let Ok(keytab) = Keytab::parse(bytes) else { return };
    for entry in keytab.entries() {
        let newest = keytab.keys(&entry.principal);
        assert_eq!(
            newest.is_empty(),
            !keytab
                .entries()
                .iter()
                .any(|other| { other.principal == entry.principal && other.key.is_some() })
        );
    }
    if let Some(first) = keytab.first() {
        let _ = (keytab.missing(first).to_string(), keytab.to_string());
    }
});
