//! Any bytes as Java's old key store: read or refused. Without the store's password, as its checksum would keep all but the seeds out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena::sasl::Secret;
use milena::tls::{Identity, Store, StoreFormat, StoreSource, TlsConfig, Trust};

fuzz_target!(|bytes: &[u8]| {
    let store =
        Store { format: StoreFormat::Jks, source: StoreSource::Bytes(Secret::new(bytes)), password: None };
    let own = Trust::Store(store.clone());
    let _ = TlsConfig { trust: own, ..TlsConfig::default() }.check();
    let identity = Some(Identity::new(store).with_key_password("changeit"));
    let trust = Trust::Store(Store::pem(include_str!("../seeds/authority.pem")));
    let _ = TlsConfig { trust, identity, ..TlsConfig::default() }.check();
});
