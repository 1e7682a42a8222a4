//! SASL as Kafka uses it: each mechanism is a state machine that turns challenges into responses.
//!
//! ```text
//! start ──bytes──> broker ──challenge──> step ──Respond──> broker ──challenge──> step ──Done
//!                                             └─Finish──> broker (answers nothing more, or only that it is content)
//! ```
//!
//! Bytes are what goes into `auth_bytes` of SaslAuthenticate, or into a bare frame for brokers before 1.0; who drives the machine
//! puts them there. Secrets are kept in [`Secret`]s: wiped when dropped, never shown.
//!
//! # References
//! RFC 4422 (SASL), 4616 (PLAIN), 5802 and 7677 (SCRAM), 7628 (OAUTHBEARER), 4752 (GSSAPI); KIP-43, KIP-84, KIP-152, KIP-255.

pub mod aws;
pub mod gssapi;
mod jaas;
pub mod jwt;
mod oauth;
pub mod oidc;
mod plain;
mod scram;
mod secret;
mod time;

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

pub use jaas::JaasEntry;
pub use oauth::{BearerToken, OAuthBearer};
pub use plain::Plain;
pub use scram::{Scram, ScramHash, ScramPassword};
pub use secret::Secret;

/// The client's side of one authentication. A machine serves one exchange: re-authentication takes a new one.
///
/// Call order: [`start`](Self::start) once, then [`step`](Self::step) with each challenge until it gives
/// [`Step::Done`] or [`Step::Finish`]. After an error the machine is of no use.
pub trait Mechanism: Send + fmt::Debug {
    /// The name SaslHandshake knows it by, such as `SCRAM-SHA-256`.
    fn name(&self) -> &'static str;

    /// The first bytes to the broker. `now` is the wall clock.
    ///
    /// # Errors
    /// When what it was made of cannot be used: an expired token, a name with a NUL byte.
    fn start(&mut self, now: SystemTime) -> Result<Secret, SaslError>;

    /// What follows a challenge of the broker, which may be empty. `now` is the wall clock.
    ///
    /// # Errors
    /// When the challenge is not what the protocol allows, or does not prove what it has to.
    fn step(&mut self, challenge: &[u8], now: SystemTime) -> Result<Step, SaslError>;

    /// What the broker told of its reasons before it refused, where the mechanism has a place for that. Never a secret.
    fn refusal(&self) -> Option<&str> {
        None
    }

    /// Whether a step may compute for milliseconds, so that it should not run where others wait.
    fn is_costly(&self) -> bool {
        false
    }
}

/// What to do after a challenge.
#[derive(Debug)]
pub enum Step {
    /// Send this; a challenge follows.
    Respond(Secret),
    /// Send this, and be done as far as the mechanism goes: SaslAuthenticate is still answered (with nothing, or with an error);
    /// in bare frames nothing follows.
    Finish(Secret),
    /// Nothing more to send: both sides are content.
    Done,
}

/// Why an exchange failed on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslError {
    /// What kind of failure it is.
    pub kind: SaslErrorKind,
    /// What happened. Never holds a secret.
    pub message: Cow<'static, str>,
    /// What the user can do, if something is known.
    pub remedy: Option<Cow<'static, str>>,
}

/// The kinds of [`SaslError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaslErrorKind {
    /// The challenge cannot be read, or breaks the protocol.
    Malformed,
    /// The broker refused, in the words of the mechanism.
    Refused,
    /// The broker did not prove that it knows us.
    Impostor,
    /// The credentials cannot be used: expired, or not allowed in this mechanism.
    Credentials,
}

impl SaslError {
    /// An error without a remedy.
    pub fn new(kind: SaslErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), remedy: None }
    }

    /// The same with what the user can do.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for SaslError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SaslError {}

/// What a peer said, fit for a message: short, and without control characters.
pub(crate) fn quoted(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
