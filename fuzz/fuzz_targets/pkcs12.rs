//! Any bytes as a PKCS#12 store of a certificate and its key, and as a trust store: read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena::sasl::Secret;
use milena::tls::{Identity, Store, StoreFormat, StoreSource, TlsConfig, Trust};

/// Whether a salt is followed by a number of more than two bytes: a password that is hashed millions of times is refused, but tens
/// of thousands are not, and would be all that is seen here.
fn takes_long(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| match bytes.get(at..) {
        Some([0x04, length @ 1..=64, rest @ ..]) => {
            matches!(rest.get(usize::from(*length)..), Some([0x02, 3.., ..]))
        }
        _ => false,
    })
}

fuzz_target!(|bytes: &[u8]| {
    if takes_long(bytes) {
        return;
    }
    for password in [None, Some(Secret::from("changeit"))] {
        let store =
            Store { format: StoreFormat::Pkcs12, source: StoreSource::Bytes(Secret::new(bytes)), password };
        let own = Trust::Store(store.clone());
        let _ = TlsConfig { trust: own, ..TlsConfig::default() }.check();
        let trust = Trust::Store(Store::pem(include_str!("../seeds/authority.pem")));
        let _ = TlsConfig { trust, identity: Some(Identity::new(store)), ..TlsConfig::default() }.check();
    }
});
