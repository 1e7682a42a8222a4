//! PLAIN (RFC 4616): the name and the password, in one message, as they are.

use std::time::SystemTime;

use super::{Mechanism, SaslError, SaslErrorKind, Secret, Step, quoted};

/// The PLAIN mechanism. It hides nothing from who sees the bytes: use it over TLS.
#[derive(Debug)]
pub struct Plain {
    user: String,
    password: Secret,
}

impl Plain {
    /// Says who we are and how we prove it.
    pub fn new(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl Mechanism for Plain {
    fn name(&self) -> &'static str {
        "PLAIN"
    }

    fn start(&mut self, _now: SystemTime) -> Result<Secret, SaslError> {
        let password = self.password.expose();
        if self.user.is_empty() || password.is_empty() {
            let text = "PLAIN needs a user name and a password that are not empty";
            return Err(SaslError::new(SaslErrorKind::Credentials, text));
        }
        if self.user.contains('\0') || password.contains(&0) {
            let text = "PLAIN cannot carry a user name or password with a NUL byte";
            return Err(SaslError::new(SaslErrorKind::Credentials, text));
        }
        // No authorization identity: the broker derives it from the name.
        let mut message = Vec::with_capacity(self.user.len() + password.len() + 2);
        message.push(0);
        message.extend_from_slice(self.user.as_bytes());
        message.push(0);
        message.extend_from_slice(password);
        Ok(Secret::new(message))
    }

    fn step(&mut self, challenge: &[u8], _now: SystemTime) -> Result<Step, SaslError> {
        if challenge.is_empty() {
            return Ok(Step::Done);
        }
        let text = format!("PLAIN has no challenges, but the broker sent one: {}", quoted(challenge));
        Err(SaslError::new(SaslErrorKind::Malformed, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn one_message_and_an_empty_answer() {
        let mut plain = Plain::new("alice", "alice-secret");
        assert_eq!(plain.start(NOW).unwrap().expose(), b"\0alice\0alice-secret");
        assert!(matches!(plain.step(b"", NOW), Ok(Step::Done)));
        assert_eq!(plain.step(b"more", NOW).unwrap_err().kind, SaslErrorKind::Malformed);
        assert!(!format!("{plain:?}").contains("alice-secret"));
    }

    #[test]
    fn what_plain_cannot_say_is_refused_before_it_is_sent() {
        for (user, password) in [("", "x"), ("x", ""), ("a\0b", "x"), ("a", "x\0y")] {
            assert_eq!(Plain::new(user, password).start(NOW).unwrap_err().kind, SaslErrorKind::Credentials);
        }
    }
}
