//! SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677, KIP-84): the password never goes over the wire, and the broker has to prove
//! that it knows it too.
//!
//! As in Kafka, names and passwords are taken as the bytes of their UTF-8, without SASLprep: brokers store them that way.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Mechanism, SaslError, SaslErrorKind, Secret, Step, quoted};

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramHash {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

/// The fewest iterations taken from a broker: Kafka's own minimum. Fewer would make the password easy to guess from what a false broker
/// learns.
const MIN_ITERATIONS: u32 = 4096;

/// The most iterations taken: eight times what brokers allow users to have. More would let a broker keep us computing.
const MAX_ITERATIONS: u32 = 131_072;

/// The longest message and salt taken, in bytes.
const MAX_MESSAGE: usize = 4096;

/// A name and password for SCRAM, and the salted password they came to last time, so that only the first connection computes it.
/// Clones share that.
#[derive(Clone)]
pub struct ScramPassword {
    user: String,
    password: Secret,
    is_token: bool,
    salted: Arc<Mutex<Option<Salted>>>,
}

#[derive(Clone)]
struct Salted {
    hash: ScramHash,
    salt: Vec<u8>,
    iterations: u32,
    value: Secret,
}

impl ScramPassword {
    /// A user's name and password.
    pub fn new(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { user: user.into(), password: password.into(), is_token: false, salted: Arc::default() }
    }

    /// A delegation token (KIP-48): its id and its HMAC as Kafka shows it, in base64.
    pub fn delegation_token(id: impl Into<String>, hmac: impl Into<Secret>) -> Self {
        Self { is_token: true, ..Self::new(id, hmac) }
    }

    /// The salted password, from the memory or computed.
    fn salted(&self, hash: ScramHash, salt: &[u8], iterations: u32) -> Secret {
        let known = self.salted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known
            && known.hash == hash
            && known.salt == salt
            && known.iterations == iterations
        {
            return known.value;
        }
        let mut value = Zeroizing::new(vec![0u8; hash.len()]);
        let password = self.password.expose();
        match hash {
            ScramHash::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut value),
            ScramHash::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut value),
        }
        let value = Secret::new(value.to_vec());
        *self.salted.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Salted { hash, salt: salt.to_vec(), iterations, value: value.clone() });
        value
    }
}

impl fmt::Debug for ScramPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramPassword")
            .field("user", &self.user)
            .field("is_token", &self.is_token)
            .finish_non_exhaustive()
    }
}

/// One SCRAM exchange.
///
/// ```text
/// start:  n,,n=user,r=nonce          -> broker: r=nonce+theirs,s=salt,i=iterations
/// step:   c=biws,r=..,p=proof        -> broker: v=signature
/// step:   the signature is right     -> done
/// ```
#[derive(Debug)]
pub struct Scram {
    hash: ScramHash,
    password: ScramPassword,
    nonce: String,
    state: State,
}

enum State {
    New,
    First,
    /// The signature that the broker has to send.
    Final {
        expected: Vec<u8>,
    },
    Over,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "New",
            Self::First => "First",
            Self::Final { .. } => "Final",
            Self::Over => "Over",
        })
    }
}

impl Scram {
    /// An exchange with a nonce of its own: 16 or more random bytes, never used before.
    #[must_use]
    pub fn new(hash: ScramHash, password: ScramPassword, nonce: &[u8]) -> Self {
        Self { hash, password, nonce: STANDARD.encode(nonce), state: State::New }
    }

    fn first_bare(&self) -> String {
        // In a name, comma and equals sign have a meaning of their own.
        let user = self.password.user.replace('=', "=3D").replace(',', "=2C");
        let token = if self.password.is_token { ",tokenauth=true" } else { "" };
        format!("n={user},r={}{token}", self.nonce)
    }

    fn answer(&mut self, challenge: &[u8]) -> Result<Secret, SaslError> {
        let text = text_of(challenge)?;
        let first = ServerFirst::parse(text)?;
        if !first.nonce.starts_with(&self.nonce) || first.nonce.len() == self.nonce.len() {
            return Err(malformed("the broker's nonce does not continue ours"));
        }
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&first.iterations) {
            let text = format!(
                "the broker asks for {} iterations; {MIN_ITERATIONS} to {MAX_ITERATIONS} are taken",
                first.iterations
            );
            return Err(SaslError::new(SaslErrorKind::Malformed, text)
                .with_remedy("let an administrator store the user's credentials anew (kafka-configs)"));
        }
        let salted = self.password.salted(self.hash, &first.salt, first.iterations);
        let without_proof = format!("c=biws,r={}", first.nonce);
        let signed = format!("{},{text},{without_proof}", self.first_bare());
        let client_key = self.hash.mac(salted.expose(), b"Client Key");
        let stored_key = self.hash.digest(&client_key);
        let signature = self.hash.mac(&stored_key, signed.as_bytes());
        let proof: Zeroizing<Vec<u8>> =
            Zeroizing::new(client_key.iter().zip(signature.iter()).map(|(key, sign)| key ^ sign).collect());
        let server_key = self.hash.mac(salted.expose(), b"Server Key");
        let expected = self.hash.mac(&server_key, signed.as_bytes()).to_vec();
        self.state = State::Final { expected };
        Ok(Secret::new(format!("{without_proof},p={}", STANDARD.encode(&*proof))))
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &'static str {
        match self.hash {
            ScramHash::Sha256 => "SCRAM-SHA-256",
            ScramHash::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn start(&mut self, _now: SystemTime) -> Result<Secret, SaslError> {
        if self.password.user.is_empty() || self.password.password.is_empty() {
            let text = "SCRAM needs a user name and a password that are not empty";
            return Err(SaslError::new(SaslErrorKind::Credentials, text));
        }
        self.state = State::First;
        Ok(Secret::new(format!("n,,{}", self.first_bare())))
    }

    fn step(&mut self, challenge: &[u8], _now: SystemTime) -> Result<Step, SaslError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::First => self.answer(challenge).map(Step::Respond),
            State::Final { expected } => {
                let signature = server_final(text_of(challenge)?)?;
                if !bool::from(signature.ct_eq(&expected)) {
                    let text = "the broker did not prove that it knows the password: its signature is wrong";
                    return Err(SaslError::new(SaslErrorKind::Impostor, text)
                        .with_remedy("check that this address is a broker of your cluster"));
                }
                Ok(Step::Done)
            }
            State::New | State::Over => Err(malformed("a SCRAM message that nobody waits for")),
        }
    }

    fn is_costly(&self) -> bool {
        true
    }
}

impl ScramHash {
    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, data: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        })
    }

    fn mac(self, key: &[u8], data: &[u8]) -> Zeroizing<Vec<u8>> {
        fn with<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Zeroizing<Vec<u8>> {
            // HMAC takes keys of any length.
            let Ok(mac) = <M as KeyInit>::new_from_slice(key) else { return Zeroizing::default() };
            Zeroizing::new(mac.chain_update(data).finalize().into_bytes().to_vec())
        }
        match self {
            Self::Sha256 => with::<Hmac<Sha256>>(key, data),
            Self::Sha512 => with::<Hmac<Sha512>>(key, data),
        }
    }
}

struct ServerFirst {
    nonce: String,
    salt: Vec<u8>,
    iterations: u32,
}

impl ServerFirst {
    /// `r=nonce,s=salt,i=iterations`, and extensions that nobody has to know.
    fn parse(text: &str) -> Result<Self, SaslError> {
        if let Some(reason) = text.strip_prefix("e=") {
            return Err(refused(reason));
        }
        let mut fields = text.split(',');
        let mut field = |name: &str| {
            let found = fields.next().and_then(|field| field.strip_prefix(name));
            found.ok_or_else(|| malformed(format!("no {name} in the broker's first message")))
        };
        let nonce = field("r=")?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(malformed("the broker's nonce is not printable"));
        }
        let salt = STANDARD.decode(field("s=")?).map_err(|_| malformed("the salt is not base64"))?;
        if salt.is_empty() {
            return Err(malformed("the salt is empty"));
        }
        let iterations =
            field("i=")?.parse().map_err(|_| malformed("the number of iterations cannot be read"))?;
        Ok(Self { nonce: nonce.to_owned(), salt, iterations })
    }
}

/// `v=signature`, or `e=error`.
fn server_final(text: &str) -> Result<Vec<u8>, SaslError> {
    if let Some(reason) = text.strip_prefix("e=") {
        return Err(refused(reason));
    }
    let first = text.split(',').next().and_then(|field| field.strip_prefix("v="));
    let signature = first.ok_or_else(|| malformed("no v= in the broker's last message"))?;
    STANDARD.decode(signature).map_err(|_| malformed("the broker's signature is not base64"))
}

fn text_of(challenge: &[u8]) -> Result<&str, SaslError> {
    if challenge.len() > MAX_MESSAGE {
        return Err(malformed(format!("a SCRAM message of {} bytes", challenge.len())));
    }
    std::str::from_utf8(challenge).map_err(|_| malformed("a SCRAM message that is no text"))
}

fn malformed(text: impl Into<String>) -> SaslError {
    SaslError::new(SaslErrorKind::Malformed, text.into())
}

fn refused(reason: &str) -> SaslError {
    let reason = quoted(reason.as_bytes());
    SaslError::new(SaslErrorKind::Refused, format!("the broker refused the user or the password: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// An exchange whose nonce is given as it goes over the wire.
    fn exchange(user: &str, password: &str, nonce: &str) -> Scram {
        let mut scram = Scram::new(ScramHash::Sha256, ScramPassword::new(user, password), b"");
        scram.nonce = nonce.to_owned();
        scram
    }

    fn respond(step: Result<Step, SaslError>) -> String {
        match step.unwrap() {
            Step::Respond(secret) => secret.expose_text().unwrap().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    const FIRST: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    #[test]
    fn the_example_of_rfc_7677() {
        let mut scram = exchange("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.start(NOW).unwrap().expose(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            respond(scram.step(FIRST, NOW)),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(matches!(scram.step(FINAL, NOW), Ok(Step::Done)));
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_an_impostor() {
        for last in [&b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..], b"v=", b"v=6rri"] {
            let mut scram = exchange("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
            scram.start(NOW).unwrap();
            scram.step(FIRST, NOW).unwrap();
            assert_eq!(scram.step(last, NOW).unwrap_err().kind, SaslErrorKind::Impostor);
        }
    }

    #[test]
    fn broken_first_messages_are_refused() {
        let mut wrong: Vec<String> = [
            "",
            "r=",
            "r=abc",
            "r=abc,s=AAAA,i=4096",
            "m=x,r=nonce1,s=AAAA,i=4096",
            "r=nonce,s=AAAA,i=4096",
            "r=nonce1,s=!,i=4096",
            "r=nonce1,s=,i=4096",
            "r=nonce1,s=AAAA,i=",
            "r=nonce1,s=AAAA,i=4095",
            "r=nonce1,s=AAAA,i=131073",
            "r=nonce1,s=AAAA,i=4294967296",
            "r=nonce1,i=4096,s=AAAA",
            "r=nonce\n,s=AAAA,i=4096",
        ]
        .map(str::to_owned)
        .to_vec();
        wrong.push(format!("r=nonce1,s={},i=4096", "A".repeat(MAX_MESSAGE)));
        for first in wrong {
            let mut scram = exchange("user", "pencil", "nonce");
            scram.start(NOW).unwrap();
            let error = scram.step(first.as_bytes(), NOW).unwrap_err();
            assert_eq!(error.kind, SaslErrorKind::Malformed, "{first}");
            assert!(scram.step(FINAL, NOW).is_err(), "after an error nothing goes on");
        }
    }

    #[test]
    fn a_refusal_is_told_without_control_characters() {
        let mut scram = exchange("user", "pencil", "nonce");
        scram.start(NOW).unwrap();
        let error = scram.step(b"e=unknown-user\x1b[2J", NOW).unwrap_err();
        assert_eq!(error.kind, SaslErrorKind::Refused);
        assert!(error.to_string().contains("unknown-user[2J"), "{error:?}");
    }

    #[test]
    fn names_are_escaped_and_tokens_are_marked() {
        let token = ScramPassword::delegation_token("a=b,c", "hmac");
        let mut scram = Scram::new(ScramHash::Sha512, token, b"0123456789abcdef");
        let first = scram.start(NOW).unwrap();
        assert_eq!(first.expose_text().unwrap(), "n,,n=a=3Db=2Cc,r=MDEyMzQ1Njc4OWFiY2RlZg==,tokenauth=true");
        assert_eq!(scram.name(), "SCRAM-SHA-512");
        assert!(!format!("{scram:?}").contains("hmac"));
    }

    #[test]
    fn the_salted_password_is_computed_once_for_a_salt() {
        let password = ScramPassword::new("user", "pencil");
        let once = password.salted(ScramHash::Sha512, b"salt", 4096);
        assert_eq!(password.clone().salted(ScramHash::Sha512, b"salt", 4096), once);
        assert_ne!(password.salted(ScramHash::Sha512, b"other", 4096), once);
        assert_eq!(password.salted(ScramHash::Sha256, b"salt", 4096).expose().len(), 32);
    }
}
