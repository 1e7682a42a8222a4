//! Amazon MSK's IAM authentication: a request that is signed and never sent, whose URL is the token.
//!
//! # References
//! AWS Signature Version 4 with query parameters; aws-msk-iam-sasl-signer (OAUTHBEARER) and aws-msk-iam-auth (AWS_MSK_IAM).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::time::compact;
use super::{Mechanism, SaslError, SaslErrorKind, Secret, Step, quoted};

/// How long a signature is good for, as Amazon's own signers have it.
pub const LIFETIME: Duration = Duration::from_secs(900);

const SERVICE: &str = "kafka-cluster";
const ACTION: &str = "kafka-cluster:Connect";

/// The SHA-256 of nothing, as the signature has it of a request without a body.
const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Keys of an AWS principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsKeys {
    /// The access key id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: Secret,
    /// The session token of temporary keys.
    pub session_token: Option<Secret>,
}

/// The token for OAUTHBEARER: the signed URL of a region's endpoint, in base64url.
#[must_use]
pub fn bearer_token(keys: &AwsKeys, region: &str, user_agent: &str, now: SystemTime) -> Secret {
    let host = format!("kafka.{region}.amazonaws.com");
    let request = Signed { keys, region, service: SERVICE, host: &host, path: "/", now, lifetime: LIFETIME };
    let query = request.query(&[("Action", ACTION)], EMPTY_HASH);
    let url = Zeroizing::new(format!("https://{host}/?{}&User-Agent={}", &*query, escaped(user_agent)));
    Secret::new(URL_SAFE_NO_PAD.encode(url.as_bytes()))
}

/// One AWS_MSK_IAM exchange: the signature's parts as JSON.
#[derive(Debug)]
pub struct AwsMskIam {
    keys: AwsKeys,
    region: String,
    host: String,
    user_agent: String,
}

impl AwsMskIam {
    /// An exchange with the broker at `host`.
    pub fn new(
        keys: AwsKeys,
        region: impl Into<String>,
        host: impl Into<String>,
        user_agent: impl Into<String>,
    ) -> Self {
        Self { keys, region: region.into(), host: host.into(), user_agent: user_agent.into() }
    }
}

impl Mechanism for AwsMskIam {
    fn name(&self) -> &'static str {
        "AWS_MSK_IAM"
    }

    fn start(&mut self, now: SystemTime) -> Result<Secret, SaslError> {
        let request = Signed {
            keys: &self.keys,
            region: &self.region,
            service: SERVICE,
            host: &self.host,
            path: "/",
            now,
            lifetime: LIFETIME,
        };
        let signature = request.signature(&[("Action", ACTION)], EMPTY_HASH);
        let mut message = json!({
            "version": "2020_10_22",
            "host": self.host,
            "user-agent": self.user_agent,
            "action": ACTION,
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": request.credential(),
            "x-amz-date": compact(now),
            "x-amz-signedheaders": "host",
            "x-amz-expires": LIFETIME.as_secs().to_string(),
            "x-amz-signature": signature,
        });
        let session = self.keys.session_token.as_ref().and_then(Secret::expose_text);
        if let (Some(token), Some(fields)) = (session, message.as_object_mut()) {
            fields.insert("x-amz-security-token".to_owned(), token.into());
        }
        Ok(Secret::new(message.to_string()))
    }

    fn step(&mut self, challenge: &[u8], _now: SystemTime) -> Result<Step, SaslError> {
        let answer: Result<serde_json::Value, _> = serde_json::from_slice(challenge);
        match answer {
            Ok(answer) if answer.get("version").is_some() => Ok(Step::Done),
            _ if challenge.is_empty() => Ok(Step::Done),
            _ => {
                let text = format!("no answer of AWS_MSK_IAM: {}", quoted(challenge));
                Err(SaslError::new(SaslErrorKind::Malformed, text))
            }
        }
    }
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A GET request that is signed in its query.
struct Signed<'a> {
    keys: &'a AwsKeys,
    region: &'a str,
    service: &'a str,
    host: &'a str,
    path: &'a str,
    now: SystemTime,
    lifetime: Duration,
}

impl Signed<'_> {
    fn date(&self) -> String {
        compact(self.now).chars().take(8).collect()
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date(), self.region, self.service)
    }

    fn credential(&self) -> String {
        format!("{}/{}", self.keys.access_key_id, self.scope())
    }

    /// The query without its signature, in the order that is signed.
    fn unsigned_query(&self, own: &[(&str, &str)]) -> Zeroizing<String> {
        let mut fields: Vec<(String, Zeroizing<String>)> = vec![
            ("X-Amz-Algorithm".to_owned(), Zeroizing::new(ALGORITHM.to_owned())),
            ("X-Amz-Credential".to_owned(), Zeroizing::new(escaped(&self.credential()))),
            ("X-Amz-Date".to_owned(), Zeroizing::new(compact(self.now))),
            ("X-Amz-Expires".to_owned(), Zeroizing::new(self.lifetime.as_secs().to_string())),
            ("X-Amz-SignedHeaders".to_owned(), Zeroizing::new("host".to_owned())),
        ];
        if let Some(token) = self.keys.session_token.as_ref().and_then(Secret::expose_text) {
            fields.push(("X-Amz-Security-Token".to_owned(), Zeroizing::new(escaped(token))));
        }
        fields.extend(own.iter().map(|(name, value)| (escaped(name), Zeroizing::new(escaped(value)))));
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        let mut query = Zeroizing::new(String::new());
        for (name, value) in &fields {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(name);
            query.push('=');
            query.push_str(value);
        }
        query
    }

    fn signature(&self, own: &[(&str, &str)], payload_hash: &str) -> String {
        let query = self.unsigned_query(own);
        let canonical = Zeroizing::new(format!(
            "GET\n{}\n{}\nhost:{}\n\nhost\n{payload_hash}",
            self.path, &*query, self.host
        ));
        let to_sign = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            compact(self.now),
            self.scope(),
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let mut key = Zeroizing::new(b"AWS4".to_vec());
        key.extend_from_slice(self.keys.secret_access_key.expose());
        for part in [self.date().as_str(), self.region, self.service, "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        hex(&mac(&key, to_sign.as_bytes()))
    }

    /// The whole query.
    fn query(&self, own: &[(&str, &str)], payload_hash: &str) -> Zeroizing<String> {
        let mut query = self.unsigned_query(own);
        let signature = self.signature(own, payload_hash);
        query.push_str(&format!("&X-Amz-Signature={signature}"));
        query
    }
}

fn mac(key: &[u8], data: &[u8]) -> Zeroizing<Vec<u8>> {
    // HMAC takes keys of any length.
    let Ok(mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else { return Zeroizing::default() };
    Zeroizing::new(mac.chain_update(data).finalize().into_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encoding of all but unreserved characters (RFC 3986).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte as char),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn keys(session: bool) -> AwsKeys {
        AwsKeys {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session_token: session.then(|| "a/b+c=".into()),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// "Authenticating Requests: Using Query Parameters" of the S3 documentation.
    #[test]
    fn the_example_of_the_documentation() {
        let keys = keys(false);
        let request = Signed {
            keys: &keys,
            region: "us-east-1",
            service: "s3",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            now: at(1_369_353_600),
            lifetime: Duration::from_secs(86_400),
        };
        assert_eq!(
            request.signature(&[], "UNSIGNED-PAYLOAD"),
            "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn the_bearer_token_is_a_url_with_its_action_and_its_session() {
        let token = bearer_token(&keys(true), "eu-west-1", "milena/0.1", at(1_700_000_000));
        let url = URL_SAFE_NO_PAD.decode(token.expose()).unwrap();
        let url = String::from_utf8(url).unwrap();
        assert!(url.starts_with("https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20231114%2Feu-west-1%2Fkafka-cluster%2Faws4_request&X-Amz-Date=20231114T221320Z&X-Amz-Expires=900&X-Amz-Security-Token=a%2Fb%2Bc%3D&X-Amz-SignedHeaders=host&X-Amz-Signature="), "{url}");
        assert!(url.ends_with("&User-Agent=milena%2F0.1"), "{url}");
    }

    #[test]
    fn the_mechanism_says_the_parts_and_takes_a_version() {
        let mut iam = AwsMskIam::new(keys(true), "eu-west-1", "b-1.example", "milena");
        let message = iam.start(at(1_700_000_000)).unwrap();
        let message: serde_json::Value = serde_json::from_slice(message.expose()).unwrap();
        assert_eq!(message["host"], "b-1.example");
        assert_eq!(message["x-amz-security-token"], "a/b+c=");
        assert_eq!(message["x-amz-signature"].as_str().unwrap().len(), 64);
        assert!(matches!(iam.step(br#"{"version":"2020_10_22","request-id":"x"}"#, at(0)), Ok(Step::Done)));
        assert!(iam.step(b"no", at(0)).is_err());
        assert!(!format!("{iam:?}").contains("wJalr"));
    }
}
