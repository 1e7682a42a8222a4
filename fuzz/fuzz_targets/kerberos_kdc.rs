//! Any bytes as the answer of a KDC, and as what an answer holds encrypted. No answer may panic, and none that the client's key does
//! not open may give a ticket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::gssapi::{
    AsExchange, Credential, Enctype, Entropy, Key, LoginKey, Principal, Progress, TgsExchange, TicketOptions,
    Times, Timestamp, Usage, is_too_big_for_udp,
};
use milena_fuzz::der::{application, field, integer, octets, sequence, string};

fn principal(text: &str) -> Principal {
    Principal::parse(text, None).unwrap()
}

/// An answer whose encrypted part is `inside`, for alice@A.
fn answer(kind: u8, key: &Key, usage: Usage, inside: &[u8], entropy: &mut Entropy) -> Vec<u8> {
    let name = sequence(&[field(0, integer(1)), field(1, sequence(&[string("alice")]))]);
    let cipher = key.encrypt(usage, inside, entropy).unwrap();
    application(
        kind,
        sequence(&[
            field(0, integer(5)),
            field(1, integer(kind)),
            field(3, string("A")),
            field(4, name),
            field(5, application(1, Vec::new())),
            field(6, sequence(&[field(0, integer(18)), field(2, octets(&cipher))])),
        ]),
    )
}

fuzz_target!(|bytes: &[u8]| {
    let now = Timestamp::from_seconds(1_700_000_000);
    let mut entropy = Entropy::from_seed([1; 32]);
    let key = Key::new(Enctype::Aes256Sha1, &[7; 32]).unwrap();
    let _ = is_too_big_for_udp(bytes);

    let login = LoginKey::Keys(vec![key.clone()]);
    let mut exchange = AsExchange::new(principal("alice@A"), login, TicketOptions::default()).unwrap();
    exchange.start(now, &mut entropy).unwrap();
    for _ in 0..4 {
        match exchange.handle_reply(bytes, now, &mut entropy) {
            Ok(Progress::Send(_)) => {}
            Ok(Progress::Done(_)) => panic!("a ticket without the key"),
            Err(_) => break,
        }
    }
    let sealed = answer(11, &key, Usage::AS_REP, bytes, &mut entropy);
    if let Ok(Progress::Done(ticket)) = exchange.handle_reply(&sealed, now, &mut entropy) {
        assert_eq!(ticket.client, principal("alice@A"));
        assert_eq!(ticket.server, principal("krbtgt/A@A"));
    }

    let tgt = Credential {
        client: principal("alice@A"),
        server: principal("krbtgt/A@A"),
        key: key.clone(),
        ticket: vec![0x61, 0].into(),
        times: Times { start: now, end: now.plus_seconds(60), renew_until: None },
        flags: 0,
        offset: 0,
    };
    let service = principal("kafka/broker@A");
    let mut exchange = TgsExchange::service(service, false, tgt, TicketOptions::default()).unwrap();
    exchange.start(now, &mut entropy).unwrap();
    let _ = exchange.handle_reply(bytes, now, &mut entropy);
    let sealed = answer(13, &key, Usage::TGS_REP_SESSION_KEY, bytes, &mut entropy);
    let _ = exchange.handle_reply(&sealed, now, &mut entropy);
});
