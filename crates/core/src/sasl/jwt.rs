//! The claims of a JWT, as far as who sends one wants to know them. Signatures are for who receives it to check.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::{SaslError, SaslErrorKind, Secret};

/// The longest token read, in bytes.
const MAX_TOKEN: usize = 256 * 1024;

/// What a token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whom it is about (`sub`).
    pub subject: Option<String>,
    /// Until when it is valid (`exp`).
    pub expires: Option<SystemTime>,
    /// When it was issued (`iat`).
    pub issued: Option<SystemTime>,
    /// From when on it is valid (`nbf`).
    pub not_before: Option<SystemTime>,
}

impl Claims {
    /// Reads the claims of a token in compact form: three parts in base64url, joined by dots.
    ///
    /// # Errors
    /// Malformed, without a word of the token.
    pub fn read(token: &str) -> Result<Self, SaslError> {
        if token.len() > MAX_TOKEN {
            return Err(malformed("it is too long"));
        }
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it has no three parts"));
        };
        let claims = URL_SAFE_NO_PAD
            .decode(claims.trim_end_matches('='))
            .map_err(|_| malformed("its claims are not base64url"))?;
        let claims: Value =
            serde_json::from_slice(&claims).map_err(|_| malformed("its claims are not JSON"))?;
        let Value::Object(claims) = claims else {
            return Err(malformed("its claims are no JSON object"));
        };
        let time = |name: &str| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                instant(value).map(Some).ok_or_else(|| malformed(format!("its {name} is no time")))
            }
        };
        Ok(Self {
            subject: claims.get("sub").and_then(Value::as_str).map(str::to_owned),
            expires: time("exp")?,
            issued: time("iat")?,
            not_before: time("nbf")?,
        })
    }
}

/// Seconds since 1970, whole or not.
fn instant(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64().filter(|seconds| (0.0..1e11).contains(seconds))?;
    UNIX_EPOCH.checked_add(Duration::from_millis((seconds * 1000.0) as u64))
}

/// A token without a signature (`alg` is `none`), such as Kafka takes in its default, insecure validator. For tests.
#[must_use]
pub fn unsecured(principal: &str, scopes: &[String], issued: SystemTime, lifetime: Duration) -> Secret {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let mut claims = serde_json::json!({
        "sub": principal,
        "iat": seconds(issued),
        "exp": seconds(issued + lifetime),
    });
    if let Some(claims) = claims.as_object_mut().filter(|_| !scopes.is_empty()) {
        claims.insert("scope".to_owned(), scopes.iter().map(String::as_str).collect());
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    Secret::new(format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims.to_string())))
}

fn malformed(why: impl std::fmt::Display) -> SaslError {
    SaslError::new(SaslErrorKind::Malformed, format!("the token is no JWT: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsecured_token_reads_back() {
        let issued = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let token = unsecured("alice", &["a".to_owned()], issued, Duration::from_secs(60));
        let claims = Claims::read(token.expose_text().unwrap()).unwrap();
        assert_eq!(claims.subject.as_deref(), Some("alice"));
        assert_eq!(claims.issued, Some(issued));
        assert_eq!(claims.expires, Some(issued + Duration::from_secs(60)));
        assert_eq!(claims.not_before, None);
    }

    #[test]
    fn what_is_no_token_is_refused_without_a_word_of_it() {
        let claims = |json: &str| format!("a.{}.c", URL_SAFE_NO_PAD.encode(json));
        for token in [
            String::new(),
            "secret".to_owned(),
            "a.b".to_owned(),
            "a.b.c.d".to_owned(),
            "a.!.c".to_owned(),
            claims("[]"),
            claims("{"),
            claims(r#"{"exp":"soon"}"#),
            claims(r#"{"exp":-1}"#),
            claims(r#"{"exp":1e300}"#),
        ] {
            let error = Claims::read(&token).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(Claims::read(&claims(r#"{"exp":1700000000.5}"#)).is_ok());
    }
}
