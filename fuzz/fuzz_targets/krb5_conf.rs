//! Any text as `krb5.conf`: an error or a configuration, never a panic, and every host has a realm or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::gssapi::{KerberosConfig, Principal};

fuzz_target!(|text: &str| {
    let _ = Principal::parse(text, Some("R")).map(|principal| principal.to_string());
    let Ok(parsed) = KerberosConfig::parse([text]) else { return };
    for realm in parsed.config.realms() {
        for kdc in parsed.config.kdcs(realm) {
            assert!(kdc.port != 0 && !kdc.host.is_empty());
        }
    }
    assert!(!parsed.config.tickets.enctypes.is_empty());
    let _ = (parsed.config.realm_of(text), parsed.config.service("kafka", "a.b.example.com", "R"));
});
