use super::super::credential::Times;
use super::super::crypto::Enctype;
use super::super::message::tests::krb_error;
use super::super::principal::Principal;
use super::acceptor::{Acceptor, Habits, framed};
use super::*;

const NOW: Timestamp = {
    // Not a round second: the microseconds must come back too.
    Timestamp::at(1_700_000_000, 123_456)
};

pub(crate) fn credential(enctype: Enctype, entropy: &mut Entropy) -> Credential {
    Credential {
        client: Principal::parse("alice@A", None).unwrap(),
        server: Principal::service("kafka", "broker", "A"),
        key: Key::random(enctype, entropy).unwrap(),
        ticket: der::element(tag::application(1), &[b"opaque"]).as_slice().into(),
        times: Times { start: NOW, end: NOW.plus_seconds(60), renew_until: None },
        flags: 0,
        offset: 0,
    }
}

fn all_habits() -> impl Iterator<Item = (Enctype, Habits)> {
    Enctype::DEFAULT.into_iter().flat_map(|enctype| {
        [0u8, 1, 2, 3, 4, 5, 6, 7].into_iter().flat_map(move |bits| {
            [0, 12, 28, 1000].map(|rotated| {
                let habits = Habits {
                    own_subkey: bits & 1 != 0,
                    sealed: bits & 2 != 0,
                    no_sequence: bits & 4 != 0,
                    rotated,
                };
                (enctype, habits)
            })
        })
    })
}

#[test]
fn a_context_is_opened_and_messages_go_both_ways_whatever_the_acceptors_habits() {
    for (enctype, habits) in all_habits() {
        let mut entropy = Entropy::from_seed([1; 32]);
        let credential = credential(enctype, &mut entropy);
        let session = credential.key.clone();
        let (token, opening) = Opening::new(credential, NOW, &mut entropy).unwrap();
        let (answer, mut acceptor) = Acceptor::accept(&token, &session, habits, &mut entropy);
        let mut context = opening.handle_answer(&answer, NOW).unwrap();
        for message in [&b"\x01\x00\xff\xff"[..], b"", b"a longer message than a block of the cipher"] {
            let wrapped = acceptor.wrap(message, &mut entropy);
            assert_eq!(context.unwrap(&wrapped).unwrap(), message, "{enctype} {habits:?}");
            // The same once more is a replay.
            assert!(context.unwrap(&wrapped).is_err());
            assert_eq!(acceptor.unwrap(&context.wrap(message).unwrap()), message);
        }
    }
}

#[test]
fn a_changed_or_shortened_message_is_refused() {
    for (enctype, habits) in all_habits().filter(|(_, habits)| habits.rotated == 12) {
        let mut entropy = Entropy::from_seed([2; 32]);
        let credential = credential(enctype, &mut entropy);
        let session = credential.key.clone();
        let (token, opening) = Opening::new(credential, NOW, &mut entropy).unwrap();
        let (answer, mut acceptor) = Acceptor::accept(&token, &session, habits, &mut entropy);
        let mut context = opening.handle_answer(&answer, NOW).unwrap();
        let wrapped = acceptor.wrap(&[1, 0, 0, 0], &mut entropy);
        for at in 0..wrapped.len() {
            assert!(context.unwrap(&wrapped[..at]).is_err());
            // How far the body is turned is not signed: a number that turns it as far gives the same message.
            if at == 6 || at == 7 {
                continue;
            }
            for bit in [0x01, 0x80] {
                let mut changed = wrapped.clone();
                changed[at] ^= bit;
                assert!(context.unwrap(&changed).is_err(), "{enctype} {habits:?} {at}");
            }
        }
        assert!(context.unwrap(&wrapped).is_ok());
    }
}

#[test]
fn an_acceptor_without_the_key_is_no_broker() {
    let mut entropy = Entropy::from_seed([3; 32]);
    let credential = credential(Enctype::Aes256Sha1, &mut entropy);
    let session = credential.key.clone();
    let other = Key::random(Enctype::Aes256Sha1, &mut entropy).unwrap();
    let (token, opening) = Opening::new(credential.clone(), NOW, &mut entropy).unwrap();
    let (answer, _) = Acceptor::accept(&token, &session, Habits::default(), &mut entropy);
    // The answer to another request, by whoever recorded it.
    let (_, later) = Opening::new(credential.clone(), NOW.plus_micros(1), &mut entropy).unwrap();
    assert!(later.handle_answer(&answer, NOW).unwrap_err().to_string().contains("another AP-REQ"));
    let foreign = Credential { key: other, ..credential };
    let (_, without) = Opening::new(foreign, NOW, &mut entropy).unwrap();
    let error = without.handle_answer(&answer, NOW).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::WrongKey);
    assert!(error.to_string().contains("prove that it is kafka/broker@A"), "{error}");
    assert!(opening.handle_answer(&answer, NOW).is_ok());
}

#[test]
fn every_cut_of_an_answer_is_refused() {
    let mut entropy = Entropy::from_seed([4; 32]);
    let credential = credential(Enctype::Aes128Sha256, &mut entropy);
    let (token, _) = Opening::new(credential.clone(), NOW, &mut entropy).unwrap();
    let (answer, _) = Acceptor::accept(&token, &credential.key, Habits::default(), &mut entropy);
    for cut in 0..answer.len() {
        let (_, opening) = Opening::new(credential.clone(), NOW, &mut entropy).unwrap();
        assert!(opening.handle_answer(&answer[..cut], NOW).is_err());
    }
}

#[test]
fn an_error_of_the_acceptor_says_how_far_the_clocks_are_apart() {
    let mut entropy = Entropy::from_seed([5; 32]);
    let credential = credential(Enctype::Aes256Sha1, &mut entropy);
    let (_, opening) = Opening::new(credential, NOW, &mut entropy).unwrap();
    let token = framed(TOKEN_ERROR, &krb_error(37, NOW.plus_seconds(600), "A", None));
    let error = opening.handle_answer(&token, NOW).unwrap_err();
    assert_eq!((error.kind(), error.code()), (KerberosErrorKind::ClockSkew, Some(37)));
    assert!(error.to_string().contains("10 min 0 s behind"), "{error}");
}

#[test]
fn an_expired_ticket_is_not_sent() {
    let mut entropy = Entropy::from_seed([6; 32]);
    let credential = credential(Enctype::Aes256Sha1, &mut entropy);
    let error = Opening::new(credential, NOW.plus_seconds(90), &mut entropy).unwrap_err();
    assert_eq!(error.kind(), KerberosErrorKind::Expired);
    assert!(error.to_string().contains("30 s ago"), "{error}");
}
