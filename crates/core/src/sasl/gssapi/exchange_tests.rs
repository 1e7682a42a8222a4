//! The exchanges against a small KDC that reads what it is sent and answers as RFC 4120 says.

use std::collections::HashMap;

use super::context::tests::credential;
use super::crypto::Usage;
use super::der::{self, Reader, tag};
use super::message::tests::krb_error;
use super::message::{self, Encrypted};
use super::*;
use crate::sasl::Secret;

fn now() -> Timestamp {
    Timestamp::at(1_700_000_000, 42)
}

/// A KDC of one realm.
struct Kdc {
    realm: &'static str,
    clock: Timestamp,
    /// The key of its ticket-granting service; tickets are "sealed" by naming their session key's seed.
    sessions: HashMap<Vec<u8>, Key>,
    client_key: Key,
    preauth: Option<Vec<u8>>,
    referrals: HashMap<&'static str, &'static str>,
    services: Vec<&'static str>,
    /// What its answers are changed to, for planted faults.
    nonce_shift: i64,
    other_client: bool,
    entropy: Entropy,
}

fn pa(kind: i32, value: &[u8]) -> Vec<u8> {
    der::sequence(&[&der::field(1, &der::integer(kind.into())), &der::field(2, &der::octets(value))]).to_vec()
}

fn etype_info(entries: &[(i32, Option<&str>)]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(enctype, salt)| {
            der::sequence(&[
                &der::field(0, &der::integer((*enctype).into())),
                &der::optional(1, salt.map(der::string)),
                &der::field(2, &der::octets(&[0, 0, 0, 16])),
            ])
        })
        .collect();
    let parts: Vec<&[u8]> = entries.iter().map(|entry| entry.as_slice()).collect();
    der::sequence(&parts).to_vec()
}

/// METHOD-DATA that offers the encrypted timestamp and these keys.
fn methods(entries: &[(i32, Option<&str>)]) -> Vec<u8> {
    der::sequence(&[&pa(19, &etype_info(entries)), &pa(2, &[])]).to_vec()
}

struct Question {
    padata: Vec<(i32, Vec<u8>)>,
    server: Principal,
    nonce: i64,
    body: Vec<u8>,
}

fn question(kind: u8, bytes: &[u8]) -> Question {
    let mut request = Reader::new(bytes).enter(tag::application(kind)).unwrap().enter(tag::SEQUENCE).unwrap();
    message::check_head(&mut request, 1, kind).unwrap();
    let mut padata = Vec::new();
    if let Some(mut list) = request.optional(3).unwrap() {
        let mut list = list.enter(tag::SEQUENCE).unwrap();
        while !list.is_empty() {
            let mut one = list.enter(tag::SEQUENCE).unwrap();
            padata.push((
                one.field(1).unwrap().int32().unwrap(),
                one.field(2).unwrap().octets().unwrap().to_vec(),
            ));
        }
    }
    let mut outer = request.field(4).unwrap();
    let body = outer.rest().to_vec();
    let mut inside = outer.enter(tag::SEQUENCE).unwrap();
    inside.field(0).unwrap();
    inside.optional(1).unwrap();
    let realm = inside.field(2).unwrap().string().unwrap().to_owned();
    let server = Principal::from_der(&mut inside.field(3).unwrap(), &realm).unwrap();
    inside.field(5).unwrap();
    inside.optional(6).unwrap();
    let nonce = inside.field(7).unwrap().integer().unwrap();
    Question { padata, server, nonce, body }
}

impl Kdc {
    fn new(realm: &'static str) -> Self {
        let mut entropy = Entropy::from_seed([realm.as_bytes()[0]; 32]);
        Self {
            realm,
            clock: now(),
            sessions: HashMap::new(),
            client_key: Key::random(Enctype::Aes256Sha1, &mut entropy).unwrap(),
            preauth: Some(methods(&[(18, None)])),
            referrals: HashMap::new(),
            services: vec!["kafka/broker"],
            nonce_shift: 0,
            other_client: false,
            entropy,
        }
    }

    fn answer(&mut self, kind: u8, server: &Principal, nonce: i64, key: &Key, usage: Usage) -> Vec<u8> {
        let session = Key::random(Enctype::Aes128Sha256, &mut self.entropy).unwrap();
        let mut name = [0; 8];
        self.entropy.fill(&mut name);
        self.sessions.insert(name.to_vec(), session.clone());
        let times = |seconds| now().plus_seconds(seconds).to_der();
        let part = der::sequence(&[
            &der::field(
                0,
                &der::sequence(&[
                    &der::field(0, &der::integer(session.enctype().number().into())),
                    &der::field(1, &der::octets(session.bytes())),
                ]),
            ),
            &der::field(1, &der::sequence(&[])),
            &der::field(2, &der::integer(nonce + self.nonce_shift)),
            &der::field(4, &der::flags(0x0080_0000)),
            &der::field(5, &times(0)),
            &der::field(7, &times(600)),
            &der::field(8, &times(6000)),
            &der::field(9, &der::string(server.realm())),
            &der::field(10, &server.name_to_der()),
        ]);
        let part = der::element(tag::application(if kind == message::AS_REP { 25 } else { 26 }), &[&part]);
        let client = Principal::parse(if self.other_client { "mallory@A" } else { "alice@A" }, None).unwrap();
        let reply = der::sequence(&[
            &der::field(0, &der::integer(5)),
            &der::field(1, &der::integer(kind.into())),
            &der::field(3, &der::string("A")),
            &der::field(4, &client.name_to_der()),
            &der::field(5, &der::element(tag::application(1), &[&name])),
            &der::field(6, &message::encrypted(key, usage, &part, &mut self.entropy).unwrap()),
        ]);
        der::element(tag::application(kind), &[&reply]).to_vec()
    }

    fn error(&self, code: i32, data: Option<&[u8]>) -> Vec<u8> {
        krb_error(code, self.clock, self.realm, data)
    }

    fn on_as(&mut self, bytes: &[u8]) -> Vec<u8> {
        let question = question(message::AS_REQ, bytes);
        if let Some(methods) = &self.preauth {
            let Some((_, proof)) = question.padata.iter().find(|(kind, _)| *kind == 2) else {
                return self.error(25, Some(methods));
            };
            let encrypted = Encrypted::from_der(&mut Reader::new(proof)).unwrap();
            let Ok(plain) = encrypted.decrypt(&self.client_key, Usage::AS_REQ_TIMESTAMP) else {
                return self.error(24, None);
            };
            let mut inside = Reader::new(&plain).enter(tag::SEQUENCE).unwrap();
            let time = Timestamp::from_der(&mut inside.field(0).unwrap()).unwrap();
            if (time.seconds() - self.clock.seconds()).abs() > 300 {
                return self.error(37, None);
            }
        }
        let key = self.client_key.clone();
        self.answer(message::AS_REP, &question.server, question.nonce, &key, Usage::AS_REP)
    }

    fn on_tgs(&mut self, bytes: &[u8], foreign: &HashMap<Vec<u8>, Key>) -> Vec<u8> {
        let question = question(message::TGS_REQ, bytes);
        let (_, proof) = &question.padata[0];
        let mut request =
            Reader::new(proof).enter(tag::application(14)).unwrap().enter(tag::SEQUENCE).unwrap();
        message::check_head(&mut request, 0, 14).unwrap();
        request.field(2).unwrap();
        let ticket = request.field(3).unwrap().read(tag::application(1)).unwrap().to_vec();
        let session = self.sessions.get(&ticket).or_else(|| foreign.get(&ticket)).unwrap().clone();
        let encrypted = Encrypted::from_der(&mut request.field(4).unwrap()).unwrap();
        let plain = encrypted.decrypt(&session, Usage::TGS_REQ_AUTHENTICATOR).unwrap();
        let mut part = Reader::new(&plain).enter(tag::application(2)).unwrap().enter(tag::SEQUENCE).unwrap();
        for number in 0..3 {
            part.field(number).unwrap();
        }
        let mut checksum = part.field(3).unwrap().enter(tag::SEQUENCE).unwrap();
        assert_eq!(checksum.field(0).unwrap().int32().unwrap(), session.enctype().checksum_number());
        let checksum = checksum.field(1).unwrap().octets().unwrap();
        assert!(session.verify(Usage::TGS_REQ_CHECKSUM, &[&question.body], checksum).unwrap());
        part.field(4).unwrap();
        let time = Timestamp::from_der(&mut part.field(5).unwrap()).unwrap();
        if (time.seconds() - self.clock.seconds()).abs() > 300 {
            return self.error(37, None);
        }
        let name = question.server.components().join("/");
        let server = match self.referrals.get(name.as_str()) {
            Some(next) => Principal::ticket_granting(next, self.realm),
            None if self.services.contains(&name.as_str()) || name.starts_with("krbtgt/") => {
                question.server.clone()
            }
            None => return self.error(7, None),
        };
        self.answer(message::TGS_REP, &server, question.nonce, &session, Usage::TGS_REP_SESSION_KEY)
    }
}

fn alice() -> Principal {
    Principal::parse("alice@A", None).unwrap()
}

fn login(kdc: &mut Kdc, login: LoginKey, options: TicketOptions) -> Result<Credential> {
    let mut entropy = Entropy::from_seed([5; 32]);
    let mut exchange = AsExchange::new(alice(), login, options)?;
    let mut sent = exchange.start(now(), &mut entropy)?;
    for _ in 0..6 {
        assert_eq!(sent.realm, "A");
        let reply = kdc.on_as(&sent.message);
        match exchange.handle_reply(&reply, now(), &mut entropy)? {
            Progress::Send(next) => sent = next,
            Progress::Done(credential) => return Ok(*credential),
        }
    }
    panic!("the exchange does not end");
}

fn with_key(kdc: &Kdc) -> LoginKey {
    LoginKey::Keys(vec![kdc.client_key.clone()])
}

fn fetch(kdcs: &mut [Kdc], tgt: &Credential, service: &str, known: bool) -> Result<Credential> {
    let mut entropy = Entropy::from_seed([6; 32]);
    let service = Principal::parse(service, None).unwrap();
    let mut exchange = TgsExchange::service(service, known, tgt.clone(), TicketOptions::default())?;
    let mut sent = exchange.start(now(), &mut entropy)?;
    for _ in 0..40 {
        let all: HashMap<_, _> = kdcs.iter().flat_map(|kdc| kdc.sessions.clone()).collect();
        let kdc = kdcs.iter_mut().find(|kdc| kdc.realm == sent.realm).unwrap();
        let reply = kdc.on_tgs(&sent.message, &all);
        match exchange.handle_reply(&reply, now(), &mut entropy)? {
            Progress::Send(next) => sent = next,
            Progress::Done(credential) => return Ok(*credential),
        }
    }
    panic!("the exchange does not end");
}

#[test]
fn a_key_gets_a_ticket_with_and_without_pre_authentication() {
    for preauth in [true, false] {
        let mut kdc = Kdc::new("A");
        if !preauth {
            kdc.preauth = None;
        }
        let key = with_key(&kdc);
        let credential = login(&mut kdc, key, TicketOptions::default()).unwrap();
        assert_eq!(credential.server.to_string(), "krbtgt/A@A");
        assert_eq!(credential.client, alice());
        assert_eq!(credential.remaining(now()).as_secs(), 599);
        assert!(credential.is_renewable(now()));
    }
}

#[test]
fn a_password_is_hashed_with_the_salt_that_the_kdc_names() {
    for salt in [Some("pepper"), None] {
        let mut kdc = Kdc::new("A");
        kdc.preauth = Some(methods(&[(23, None), (18, salt)]));
        let used = salt.unwrap_or("Aalice");
        kdc.client_key =
            Key::from_password(Enctype::Aes256Sha1, b"secret", used.as_bytes(), Some(&[0, 0, 0, 16]))
                .unwrap();
        let password = |text: &str| LoginKey::Password(Secret::from(text));
        login(&mut kdc, password("secret"), TicketOptions::default()).unwrap();
        let error = login(&mut kdc, password("wrong"), TicketOptions::default()).unwrap_err();
        assert_eq!((error.kind(), error.code()), (KerberosErrorKind::WrongKey, Some(24)));
        assert!(!format!("{:?}", password("secret")).contains("secret"));
    }
}

#[test]
fn a_wrong_key_is_told_from_a_changed_answer() {
    let mut kdc = Kdc::new("A");
    kdc.preauth = None;
    let other = Key::random(Enctype::Aes256Sha1, &mut Entropy::from_seed([0; 32])).unwrap();
    let error = login(&mut kdc, LoginKey::Keys(vec![other]), TicketOptions::default()).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::WrongKey);
    assert!(error.to_string().contains("key or password of alice@A is wrong"), "{error}");
}

#[test]
fn a_clock_that_differs_is_followed_or_named() {
    for seconds in [-4000, 4000] {
        let mut kdc = Kdc::new("A");
        kdc.clock = now().plus_seconds(seconds);
        let key = with_key(&kdc);
        let credential = login(&mut kdc, key.clone(), TicketOptions::default()).unwrap();
        assert_eq!(credential.offset, seconds);
        let options = TicketOptions { follow_kdc_clock: false, ..TicketOptions::default() };
        let error = login(&mut kdc, key, options).unwrap_err();
        assert_eq!(error.kind(), KerberosErrorKind::ClockSkew);
        assert!(error.to_string().contains("66 min 40 s"), "{error}");
    }
}

#[test]
fn keys_that_the_kdc_does_not_know_are_named() {
    let mut kdc = Kdc::new("A");
    kdc.preauth = Some(methods(&[(23, None), (17, None)]));
    let key = with_key(&kdc);
    let error = login(&mut kdc, key.clone(), TicketOptions::default()).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::NoCommonEnctype);
    let text = error.to_string();
    assert!(text.contains("rc4-hmac") && text.contains("the keytab has aes256-cts-hmac-sha1-96"), "{text}");
    let options = TicketOptions { enctypes: vec![Enctype::Aes128Sha1], ..TicketOptions::default() };
    let error = AsExchange::new(alice(), key, options).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::NoCommonEnctype);
    kdc.preauth = Some(der::sequence(&[&pa(16, &[]), &pa(19, &etype_info(&[(18, None)]))]).to_vec());
    let key = with_key(&kdc);
    let error = login(&mut kdc, key, TicketOptions::default()).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::Unsupported);
}

#[test]
fn answers_to_other_questions_and_for_others_are_refused() {
    let mut kdc = Kdc::new("A");
    let key = with_key(&kdc);
    kdc.nonce_shift = 1;
    let error = login(&mut kdc, key.clone(), TicketOptions::default()).unwrap_err();
    assert!(error.to_string().contains("another question"), "{error}");
    kdc.nonce_shift = 0;
    kdc.other_client = true;
    let error = login(&mut kdc, key.clone(), TicketOptions::default()).unwrap_err();
    assert!(error.to_string().contains("mallory@A"), "{error}");
    kdc.other_client = false;
    let tgt = login(&mut kdc, key, TicketOptions::default()).unwrap();
    kdc.nonce_shift = -1;
    let mut kdcs = [kdc];
    assert_eq!(fetch(&mut kdcs, &tgt, "kafka/broker@A", true).unwrap_err().kind(), KerberosErrorKind::Peer);
    kdcs[0].nonce_shift = 0;
    kdcs[0].other_client = true;
    assert_eq!(fetch(&mut kdcs, &tgt, "kafka/broker@A", true).unwrap_err().kind(), KerberosErrorKind::Peer);
    kdcs[0].other_client = false;
    fetch(&mut kdcs, &tgt, "kafka/broker@A", true).unwrap();
}

#[test]
fn a_service_is_found_in_its_own_realm_and_across_realms() {
    let mut kdcs = [Kdc::new("A"), Kdc::new("B"), Kdc::new("C")];
    // A trusts B, B trusts C.
    kdcs[0].referrals.insert("krbtgt/C", "B");
    let key = with_key(&kdcs[0]);
    let tgt = login(&mut kdcs[0], key, TicketOptions::default()).unwrap();
    for service in ["kafka/broker@A", "kafka/broker@B", "kafka/broker@C"] {
        let credential = fetch(&mut kdcs, &tgt, service, true).unwrap();
        assert_eq!(credential.server.to_string(), service);
    }
    // The client's KDC knows where the host is.
    kdcs[0].referrals.insert("kafka/elsewhere", "C");
    kdcs[2].services.push("kafka/elsewhere");
    let credential = fetch(&mut kdcs, &tgt, "kafka/elsewhere@A", false).unwrap();
    assert_eq!(credential.server.to_string(), "kafka/elsewhere@C");
    let error = fetch(&mut kdcs, &tgt, "kafka/nobody@A", false).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::UnknownService);
    assert!(error.to_string().contains("kafka/nobody@A"), "{error}");
}

#[test]
fn referrals_in_circles_end() {
    let mut kdcs = [Kdc::new("A"), Kdc::new("B")];
    kdcs[0].referrals.insert("kafka/broker", "B");
    kdcs[1].referrals.insert("kafka/broker", "A");
    let key = with_key(&kdcs[0]);
    let tgt = login(&mut kdcs[0], key, TicketOptions::default()).unwrap();
    let error = fetch(&mut kdcs, &tgt, "kafka/broker@A", false).unwrap_err();
    assert!(error.to_string().contains("circles") && error.to_string().contains("A, B, A"), "{error}");
}

#[test]
fn a_ticket_is_renewed() {
    let mut kdc = Kdc::new("A");
    let key = with_key(&kdc);
    let tgt = login(&mut kdc, key, TicketOptions::default()).unwrap();
    let mut entropy = Entropy::from_seed([7; 32]);
    let mut exchange = TgsExchange::renewal(tgt.clone(), TicketOptions::default()).unwrap();
    let sent = exchange.start(now(), &mut entropy).unwrap();
    let reply = kdc.on_tgs(&sent.message, &HashMap::new());
    let Progress::Done(renewed) = exchange.handle_reply(&reply, now(), &mut entropy).unwrap() else {
        panic!()
    };
    assert_eq!(renewed.server, tgt.server);
    assert_ne!(renewed.key, tgt.key);
}

#[test]
fn a_ticket_that_is_over_asks_for_nothing() {
    let mut entropy = Entropy::from_seed([1; 32]);
    let service = credential(Enctype::Aes256Sha1, &mut entropy);
    assert!(TgsExchange::renewal(service.clone(), TicketOptions::default()).is_err());
    let tgt = Credential { server: Principal::ticket_granting("A", "A"), ..service };
    let mut exchange =
        TgsExchange::service(Principal::service("kafka", "h", "A"), true, tgt, TicketOptions::default())
            .unwrap();
    let error = exchange.start(now().plus_seconds(61), &mut entropy).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::Expired);
}

#[test]
fn every_cut_and_every_changed_byte_of_an_answer_is_refused_or_harmless() {
    let mut kdc = Kdc::new("A");
    kdc.preauth = None;
    let mut entropy = Entropy::from_seed([5; 32]);
    let mut exchange = AsExchange::new(alice(), with_key(&kdc), TicketOptions::default()).unwrap();
    let sent = exchange.start(now(), &mut entropy).unwrap();
    let reply = kdc.on_as(&sent.message);
    let Progress::Done(whole) = exchange.handle_reply(&reply, now(), &mut entropy).unwrap() else { panic!() };
    for at in 0..reply.len() {
        assert!(exchange.handle_reply(&reply[..at], now(), &mut entropy).is_err());
        let mut changed = reply.clone();
        changed[at] ^= 0x41;
        // Outside of the encrypted part only the ticket is not covered: it is the service that judges that.
        if let Ok(Progress::Done(credential)) = exchange.handle_reply(&changed, now(), &mut entropy) {
            assert_eq!((&credential.client, &credential.server), (&whole.client, &whole.server));
            assert_eq!(credential.key, whole.key);
        }
    }
}
