//! OAUTHBEARER (RFC 7628, KIP-255): a token that somebody the broker trusts has given us.

use std::time::SystemTime;

use super::time::readable;
use super::{Mechanism, SaslError, SaslErrorKind, Secret, Step, quoted};

/// A token and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerToken {
    /// The token as it is sent.
    pub value: Secret,
    /// Until when it is valid; it is not sent after.
    pub expires: SystemTime,
    /// Since when it is valid, if that is known: for messages about clocks.
    pub issued: Option<SystemTime>,
    /// SASL extensions (KIP-342): names of letters, and their values.
    pub extensions: Vec<(String, String)>,
}

/// One OAUTHBEARER exchange.
#[derive(Debug)]
pub struct OAuthBearer {
    token: BearerToken,
    refusal: Option<String>,
}

impl OAuthBearer {
    /// An exchange with this token.
    #[must_use]
    pub fn new(token: BearerToken) -> Self {
        Self { token, refusal: None }
    }
}

impl Mechanism for OAuthBearer {
    fn name(&self) -> &'static str {
        "OAUTHBEARER"
    }

    fn start(&mut self, now: SystemTime) -> Result<Secret, SaslError> {
        let BearerToken { value, expires, extensions, .. } = &self.token;
        if now >= *expires {
            let text = format!(
                "the token has expired at {}; this machine's clock says {}",
                readable(*expires),
                readable(now)
            );
            return Err(SaslError::new(SaslErrorKind::Credentials, text)
                .with_remedy("get a new token, or set this machine's clock right"));
        }
        let value = value.expose();
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        if value.is_empty() || !value.iter().all(fits) {
            let text = "the token has characters that no bearer token may have (is there white space in it?)";
            return Err(SaslError::new(SaslErrorKind::Credentials, text));
        }
        let extensions: String =
            extensions.iter().map(|(name, value)| extension(name, value)).collect::<Result<_, _>>()?;
        let mut message = Vec::with_capacity(value.len() + extensions.len() + 32);
        message.extend_from_slice(b"n,,\x01auth=Bearer ");
        message.extend_from_slice(value);
        message.push(1);
        message.extend_from_slice(extensions.as_bytes());
        message.push(1);
        Ok(Secret::new(message))
    }

    fn step(&mut self, challenge: &[u8], now: SystemTime) -> Result<Step, SaslError> {
        if challenge.is_empty() {
            return Ok(Step::Done);
        }
        if self.refusal.is_some() {
            return Err(SaslError::new(
                SaslErrorKind::Malformed,
                "the broker went on after it refused the token",
            ));
        }
        let mut refusal = format!("it said of the token: {}", quoted(challenge));
        refusal.push_str(&format!(
            "; by its own words the token is valid until {}",
            readable(self.token.expires)
        ));
        if let Some(issued) = self.token.issued {
            refusal.push_str(&format!(" and since {}", readable(issued)));
        }
        refusal.push_str(&format!(", and this machine's clock says {}", readable(now)));
        self.refusal = Some(refusal);
        // The broker wants to hear this before it closes the exchange (RFC 7628, 3.2.3).
        Ok(Step::Respond(Secret::new([1])))
    }

    fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

/// `name=value` and its end. `auth` is the token's own name.
fn extension(name: &str, value: &str) -> Result<String, SaslError> {
    let is_name = !name.is_empty() && name != "auth" && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_value = value.bytes().all(|byte| matches!(byte, 0x21..=0x7e | b' ' | b'\t' | b'\r' | b'\n'));
    if is_name && is_value {
        return Ok(format!("{name}={value}\x01"));
    }
    let text =
        format!("the SASL extension {name:?} cannot be sent: names are letters, values printable ASCII");
    Err(SaslError::new(SaslErrorKind::Credentials, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn token(value: &str) -> BearerToken {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        BearerToken { value: value.into(), expires: at(2000), issued: Some(at(1000)), extensions: Vec::new() }
    }

    const NOW: SystemTime = UNIX_EPOCH;

    #[test]
    fn the_message_is_that_of_rfc_7628() {
        let mut exchange = OAuthBearer::new(BearerToken {
            extensions: vec![("traceId".to_owned(), "1 2".to_owned())],
            ..token("abc.def.")
        });
        assert_eq!(
            exchange.start(NOW).unwrap().expose(),
            b"n,,\x01auth=Bearer abc.def.\x01traceId=1 2\x01\x01"
        );
        assert!(matches!(exchange.step(b"", NOW), Ok(Step::Done)));
        assert!(!format!("{exchange:?}").contains("abc"));
    }

    #[test]
    fn a_refusal_is_answered_and_kept_with_the_times() {
        let mut exchange = OAuthBearer::new(token("abc"));
        exchange.start(NOW).unwrap();
        let Ok(Step::Respond(answer)) = exchange.step(br#"{"status":"invalid_token"}"#, NOW) else {
            panic!("no response");
        };
        assert_eq!(answer.expose(), [1]);
        let refusal = exchange.refusal().unwrap();
        for part in [
            "invalid_token",
            "until 1970-01-01T00:33:20Z",
            "since 1970-01-01T00:16:40Z",
            "clock says 1970-01-01T00:00:00Z",
        ] {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert!(exchange.step(b"more", NOW).is_err());
    }

    #[test]
    fn an_expired_token_is_not_sent() {
        let error = OAuthBearer::new(token("abc")).start(UNIX_EPOCH + Duration::from_secs(2000)).unwrap_err();
        assert_eq!(error.kind, SaslErrorKind::Credentials);
        assert!(error.to_string().contains("1970-01-01T00:33:20Z"), "{error}");
    }

    #[test]
    fn a_token_cannot_smuggle_fields() {
        assert!(OAuthBearer::new(token("abc\x01auth=x")).start(NOW).is_err());
        assert!(OAuthBearer::new(token("a\n")).start(NOW).is_err());
        for (name, value) in [("auth", "x"), ("a1", "x"), ("", "x"), ("a", "x\x01y")] {
            let extensions = vec![(name.to_owned(), value.to_owned())];
            assert!(OAuthBearer::new(BearerToken { extensions, ..token("abc") }).start(NOW).is_err());
        }
    }
}
