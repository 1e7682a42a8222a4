//! Any bytes as PEM: certificates to trust, and an encrypted key with its certificate; read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena::sasl::Secret;
use milena::tls::{Identity, Store, StoreFormat, StoreSource, TlsConfig, Trust};

fuzz_target!(|bytes: &[u8]| {
    let store =
        Store { format: StoreFormat::Auto, source: StoreSource::Bytes(Secret::new(bytes)), password: None };
    let own = Trust::Store(store.clone());
    let _ = TlsConfig { trust: own, ..TlsConfig::default() }.check();
    let identity = Some(Identity::new(store));
    let trust = Trust::Store(Store::pem(include_str!("../seeds/authority.pem")));
    let _ = TlsConfig { trust, identity, ..TlsConfig::default() }.check();
});
