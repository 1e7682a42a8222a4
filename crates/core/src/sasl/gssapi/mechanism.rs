//! SASL's mechanism GSSAPI, the client's side.
//!
//! ```text
//! start: AP-REQ ->  <- AP-REP: nothing to say ->  <- wrapped: protections, size: wrapped: none wanted, identity -> done
//! ```
//!
//! # References
//! RFC 4752, 3.1 and 3.3.

use std::mem;
use std::time::SystemTime;

use super::context::{Context, Opening};
use super::credential::Credential;
use super::entropy::Entropy;
use super::error::{KerberosError, KerberosErrorKind};
use super::time::Timestamp;
use crate::sasl::{Mechanism, SaslError, SaslErrorKind, Secret, Step};

/// The bit of "no security layer": TLS protects the connection, or nothing does.
const AUTH: u8 = 1;

/// One exchange of the mechanism GSSAPI, for one connection.
#[derive(Debug)]
pub struct Gssapi {
    state: State,
    authorization_id: String,
}

#[derive(Debug)]
enum State {
    Ready(Box<Credential>, Entropy),
    AwaitProof(Box<Opening>),
    AwaitProtections(Box<Context>),
    Over,
}

impl Gssapi {
    /// With a ticket for the broker's service. `entropy` must be new. `authorization_id` is whom to act as; empty for the ticket's
    /// own client, which is all that Kafka's brokers allow.
    #[must_use]
    pub fn new(credential: Credential, entropy: Entropy, authorization_id: &str) -> Self {
        Self {
            state: State::Ready(Box::new(credential), entropy),
            authorization_id: authorization_id.to_owned(),
        }
    }

    /// The answer to what protections the broker offers: none but the authentication itself, and no size.
    fn choose(&self, offer: &[u8]) -> Result<Vec<u8>, KerberosError> {
        let [protections, _, _, _] = offer else {
            let text = format!("the broker offers its protections in {} bytes in place of 4", offer.len());
            return Err(KerberosError::peer(text));
        };
        if protections & AUTH == 0 {
            let wanted = match protections & 6 {
                2 => "auth-int",
                4 => "auth-conf",
                6 => "auth-int or auth-conf",
                _ => "none that is known",
            };
            return Err(KerberosError::new(
                KerberosErrorKind::Unsupported,
                format!(
                    "the broker insists on a protection of its own (qop {wanted}): only qop auth is spoken, as in Kafka; use \
                     SASL_SSL to protect the connection"
                ),
            ));
        }
        let mut choice = vec![AUTH, 0, 0, 0];
        choice.extend_from_slice(self.authorization_id.as_bytes());
        Ok(choice)
    }
}

impl Mechanism for Gssapi {
    fn name(&self) -> &'static str {
        "GSSAPI"
    }

    fn start(&mut self, now: SystemTime) -> Result<Secret, SaslError> {
        let State::Ready(credential, mut entropy) = mem::replace(&mut self.state, State::Over) else {
            return Err(out_of_turn());
        };
        let (token, opening) = Opening::new(*credential, Timestamp::from_system(now), &mut entropy)?;
        self.state = State::AwaitProof(Box::new(opening));
        Ok(Secret::new(token))
    }

    fn step(&mut self, challenge: &[u8], now: SystemTime) -> Result<Step, SaslError> {
        match mem::replace(&mut self.state, State::Over) {
            State::AwaitProof(opening) => {
                let context = opening.handle_answer(challenge, Timestamp::from_system(now))?;
                self.state = State::AwaitProtections(Box::new(context));
                Ok(Step::Respond(Secret::default()))
            }
            State::AwaitProtections(mut context) => {
                let offer = context.unwrap(challenge)?;
                let choice = self.choose(&offer)?;
                Ok(Step::Finish(Secret::new(context.wrap(&choice)?)))
            }
            State::Ready(..) | State::Over => Err(out_of_turn()),
        }
    }
}

fn out_of_turn() -> SaslError {
    SaslError::new(SaslErrorKind::Malformed, "the broker goes on with a GSSAPI exchange that is over")
}

impl From<KerberosError> for SaslError {
    fn from(error: KerberosError) -> Self {
        let kind = match error.kind() {
            KerberosErrorKind::Peer => SaslErrorKind::Malformed,
            KerberosErrorKind::WrongKey if error.code().is_none() => SaslErrorKind::Impostor,
            KerberosErrorKind::Unsupported | KerberosErrorKind::Refused => SaslErrorKind::Refused,
            _ => SaslErrorKind::Credentials,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::context::acceptor::{Acceptor, Habits};
    use super::super::context::tests::credential;
    use super::super::crypto::Enctype;
    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_010)
    }

    /// A client, the acceptor that took its token, and what the acceptor answered.
    fn opened(enctype: Enctype, user: &str) -> (Gssapi, Acceptor, Vec<u8>, Entropy) {
        let mut entropy = Entropy::from_seed([8; 32]);
        let credential = credential(enctype, &mut entropy);
        let session = credential.key.clone();
        let mut client = Gssapi::new(credential, Entropy::from_seed([9; 32]), user);
        let token = client.start(now()).unwrap();
        let (answer, acceptor) = Acceptor::accept(token.expose(), &session, Habits::default(), &mut entropy);
        (client, acceptor, answer, entropy)
    }

    #[test]
    fn a_whole_exchange_ends_without_a_security_layer() {
        for enctype in Enctype::DEFAULT {
            for user in ["", "bob"] {
                let (mut client, mut acceptor, answer, mut entropy) = opened(enctype, user);
                let Step::Respond(nothing) = client.step(&answer, now()).unwrap() else { panic!() };
                assert!(nothing.is_empty());
                let offer = acceptor.wrap(&[7, 0, 0xff, 0xff], &mut entropy);
                let Step::Finish(choice) = client.step(&offer, now()).unwrap() else { panic!() };
                let choice = acceptor.unwrap(choice.expose());
                assert_eq!(choice, [&[1, 0, 0, 0], user.as_bytes()].concat());
                assert!(client.step(&[], now()).is_err());
            }
        }
    }

    #[test]
    fn a_broker_that_insists_on_a_protection_is_refused_by_name() {
        for (offered, name) in [(2, "auth-int"), (4, "auth-conf"), (6, "auth-int or auth-conf"), (0, "none")]
        {
            let (mut client, mut acceptor, answer, mut entropy) = opened(Enctype::Aes256Sha1, "");
            client.step(&answer, now()).unwrap();
            let error = client.step(&acceptor.wrap(&[offered, 0, 0, 0], &mut entropy), now()).unwrap_err();
            assert_eq!(error.kind, SaslErrorKind::Refused);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn challenges_out_of_turn_and_of_no_sense_are_refused() {
        let (mut client, _, answer, _) = opened(Enctype::Aes128Sha1, "");
        assert!(client.step(&[], now()).is_err());
        assert!(client.step(&answer, now()).is_err());
        let (mut client, mut acceptor, answer, mut entropy) = opened(Enctype::Aes128Sha1, "");
        client.step(&answer, now()).unwrap();
        assert!(client.step(&acceptor.wrap(&[1, 0, 0], &mut entropy), now()).is_err());
        assert!(client.start(now()).is_err());
    }

    #[test]
    fn keys_do_not_show() {
        let (client, _, _, _) = opened(Enctype::Aes128Sha1, "");
        let shown = format!("{client:?}");
        assert!(shown.contains("Key(aes128-cts-hmac-sha1-96)") && !shown.contains("bytes"), "{shown}");
    }
}
