//! Any bytes as a broker's GSSAPI tokens: the first one, what the first one holds encrypted, and a wrapped message. Nothing panics, and no
//! exchange ends well without the key.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::gssapi::{
    Credential, Enctype, Entropy, Gssapi, Key, Principal, Times, Timestamp, Usage,
};
use milena_core::sasl::{Mechanism, Step};
use milena_fuzz::der::{application, field, integer, object_id, octets, sequence, time};

/// A client that has sent its first token.
fn started(key: &Key) -> Gssapi {
    let now = Timestamp::from_seconds(1_700_000_000);
    let credential = Credential {
        client: Principal::parse("alice@A", None).unwrap(),
        server: Principal::parse("kafka/broker@A", None).unwrap(),
        key: key.clone(),
        ticket: vec![0x61, 0].into(),
        times: Times { start: now, end: now.plus_seconds(60), renew_until: None },
        flags: 0,
        offset: 0,
    };
    let mut client = Gssapi::new(credential, Entropy::from_seed([2; 32]), "");
    client.start(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    client
}

/// The acceptor's first token with this inside.
fn proof(key: &Key, inside: &[u8]) -> Vec<u8> {
    let cipher = key.encrypt(Usage::AP_REP, inside, &mut Entropy::from_seed([3; 32])).unwrap();
    let reply = sequence(&[
        field(0, integer(5)),
        field(1, integer(15)),
        field(2, sequence(&[field(0, integer(18)), field(2, octets(&cipher))])),
    ]);
    let inner =
        [object_id(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2]), vec![2, 0], application(15, reply)];
    application(0, inner.concat())
}

fuzz_target!(|bytes: &[u8]| {
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let key = Key::new(Enctype::Aes256Sha1, &[7; 32]).unwrap();
    assert!(started(&key).step(bytes, now).is_err());
    let _ = started(&key).step(&proof(&key, bytes), now);

    let mut client = started(&key);
    let part = application(27, sequence(&[field(0, time("20231114221320Z")), field(1, integer(0))]));
    assert!(matches!(client.step(&proof(&key, &part), now), Ok(Step::Respond(_))));
    assert!(client.step(bytes, now).is_err());
});
