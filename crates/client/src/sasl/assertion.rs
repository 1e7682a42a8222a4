//! JWTs by which a client proves to a token endpoint who it is (RFC 7521, 7523).

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use milena_core::sasl::Secret;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::tls;

/// The largest template read, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// A JWT that says who we are. Kafka: `sasl.oauthbearer.assertion.*` (KIP-1139).
#[derive(Clone, Debug)]
pub enum Assertion {
    /// One that someone else signs and keeps fresh in a file, which is read for each token. Kafka: `sasl.oauthbearer.assertion.file`.
    File(PathBuf),
    /// One that is signed here for each token.
    Signed(SignedAssertion),
}

/// What is signed, and with which key.
#[derive(Clone, Debug)]
pub struct SignedAssertion {
    /// The file of the private key, in PEM; read for each token. Kafka: `sasl.oauthbearer.assertion.private.key.file`.
    pub key_file: PathBuf,
    /// What the key is encrypted with. Default: nothing.
    pub key_password: Option<Secret>,
    /// `RS256`, the default, or `ES256`.
    pub algorithm: String,
    /// The claim `iss`. Default: none.
    pub issuer: Option<String>,
    /// The claim `sub`. Default: none.
    pub subject: Option<String>,
    /// The claim `aud`. Default: none.
    pub audience: Option<String>,
    /// How long what is signed is valid (`exp`). Default 5 min.
    pub lifetime: Duration,
    /// Since how long it has been valid when it is signed (`nbf`), for endpoints whose clock is behind. Default 1 min.
    pub backdated: Duration,
    /// Whether it has a random id (`jti`), for endpoints that want each only once. Default `false`.
    pub with_id: bool,
    /// A file of JSON, `{"header": {..}, "payload": {..}}`, with more to say; read for each token. It goes over `iss`, `sub` and `aud`, and
    /// `alg`, `typ`, `iat`, `nbf`, `exp` and `jti` go over it. Default: none. Kafka: `sasl.oauthbearer.assertion.template.file`.
    pub template: Option<PathBuf>,
}

impl SignedAssertion {
    /// Signed with the key in this file, with the defaults and without `iss`, `sub` and `aud`.
    pub fn new(key_file: impl Into<PathBuf>) -> Self {
        Self {
            key_file: key_file.into(),
            key_password: None,
            algorithm: "RS256".to_owned(),
            issuer: None,
            subject: None,
            audience: None,
            lifetime: Duration::from_secs(300),
            backdated: Duration::from_secs(60),
            with_id: false,
            template: None,
        }
    }

    /// What is to be signed at this time, in whole seconds since 1970, with this id.
    fn content(&self, template: &Template, now: Duration, id: Option<String>) -> String {
        let mut header = template.header.clone();
        header.extend([
            ("alg".to_owned(), self.algorithm.clone().into()),
            ("typ".to_owned(), Value::from("JWT")),
        ]);
        let mut payload = Map::new();
        for (name, value) in [("iss", &self.issuer), ("sub", &self.subject), ("aud", &self.audience)] {
            payload.extend(value.iter().map(|value| (name.to_owned(), value.clone().into())));
        }
        payload.extend(template.payload.clone());
        let times = [("iat", now), ("nbf", now.saturating_sub(self.backdated)), ("exp", now + self.lifetime)];
        payload.extend(times.map(|(name, time)| (name.to_owned(), time.as_secs().into())));
        payload.extend(id.map(|id| ("jti".to_owned(), id.into())));
        let encode = |part: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(part).to_string());
        format!("{}.{}", encode(header), encode(payload))
    }

    fn sign(&self) -> Result<Secret> {
        let template = self.template.as_deref().map_or_else(|| Ok(Template::default()), Template::read)?;
        let id = match self.with_id {
            true => Some(uuid::Uuid::from_u128(random()?).to_string()),
            false => None,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let signed = self.content(&template, now, id);
        let signature =
            tls::sign_jwt(&self.key_file, self.key_password.as_ref(), &self.algorithm, signed.as_bytes())?;
        Ok(Secret::from(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

impl Assertion {
    /// The assertion, now. Blocks on files.
    pub(super) fn make(&self) -> Result<Secret> {
        match self {
            Self::File(path) => {
                let text = super::oauth::read_token(path)?;
                Ok(Secret::from(text.expose_text().unwrap_or_default().trim()))
            }
            Self::Signed(signed) => signed.sign(),
        }
    }
}

/// What a template file says.
#[derive(Debug, Default)]
struct Template {
    header: Map<String, Value>,
    payload: Map<String, Value>,
}

impl Template {
    fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| {
            Error::misuse(format!("the template of assertions in {}: {why}", path.display()))
                .with_remedy("make it {\"header\": {..}, \"payload\": {..}}")
        };
        let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if length > MAX_TEMPLATE {
            return Err(wrong("it is too large".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    /// Parts that are absent are empty.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut all: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut part = |name: &str| match all.remove(name) {
            None => Ok(Map::new()),
            Some(Value::Object(part)) => Ok(part),
            Some(_) => Err(format!("{name} is no object")),
        };
        Ok(Self { header: part("header")?, payload: part("payload")? })
    }
}

fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Io, format!("the system gives no random numbers: {error}")))?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> (Value, Value) {
        let (header, payload) = content.split_once('.').unwrap();
        let part = |text| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
        (part(header), part(payload))
    }

    #[test]
    fn an_assertion_says_who_until_when_and_its_id_only_if_asked() {
        let assertion = SignedAssertion {
            issuer: Some("me".to_owned()),
            audience: Some("https://a/token".to_owned()),
            lifetime: Duration::from_secs(100),
            ..SignedAssertion::new("key.pem")
        };
        let now = Duration::from_millis(1_000_900);
        let (header, payload) = read(&assertion.content(&Template::default(), now, None));
        assert_eq!(header, serde_json::json!({ "alg": "RS256", "typ": "JWT" }));
        let expected = serde_json::json!({
            "iss": "me", "aud": "https://a/token", "iat": 1000, "nbf": 940, "exp": 1100,
        });
        assert_eq!(payload, expected);
        let (_, payload) = read(&assertion.content(&Template::default(), now, Some("once".to_owned())));
        assert_eq!(payload.get("jti"), Some(&Value::from("once")));
    }

    #[test]
    fn a_template_goes_over_the_settings_and_not_over_times_and_algorithm() {
        let template =
            r#"{"header": {"kid": "k1", "alg": "none"}, "payload": {"sub": "template", "exp": 1, "x": [1]}}"#;
        let assertion = SignedAssertion {
            issuer: Some("me".to_owned()),
            subject: Some("settings".to_owned()),
            ..SignedAssertion::new("key.pem")
        };
        let template = Template::parse(template).unwrap();
        let (header, payload) = read(&assertion.content(&template, Duration::from_secs(1000), None));
        assert_eq!(header, serde_json::json!({ "kid": "k1", "alg": "RS256", "typ": "JWT" }));
        let expected = serde_json::json!({
            "iss": "me", "sub": "template", "x": [1], "iat": 1000, "nbf": 940, "exp": 1300,
        });
        assert_eq!(payload, expected);
        assert!(Template::parse("{}").unwrap().header.is_empty());
        for wrong in ["", "[]", r#"{"header": 1}"#, r#"{"payload": []}"#] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
