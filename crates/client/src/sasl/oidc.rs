//! Tokens from an OpenID Connect provider: client credentials (RFC 6749, 4.4) by a secret or an assertion, and JWT bearer (RFC 7523), over
//! our own TLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milena_core::sasl::oidc::{self, HttpAnswer, MAX_ANSWER};
use milena_core::sasl::{BearerToken, SaslError, SaslErrorKind, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{Assertion, TokenSource};
use crate::connection::FailureKind;
use crate::error::{Error, ErrorKind, Result};
use crate::tls::{self, TlsConfig, TlsDialer};
use crate::transport::{BoxFuture, BoxStream, Dial, TcpDialer};

/// How we prove to the provider who we are.
#[derive(Clone, Debug)]
pub enum OidcGrant {
    /// By an id and a secret.
    ClientCredentials {
        /// The client's id.
        id: String,
        /// The client's secret.
        secret: Secret,
        /// Whether both are percent-encoded before they are put into the header, as RFC 6749 wants and few providers do. Default in
        /// Kafka: no. Kafka: `sasl.oauthbearer.header.urlencode`.
        url_encode: bool,
    },
    /// By a JWT in the place of the secret (RFC 7523, 2.2). Kafka: what `sasl.oauthbearer.assertion.file` or `..assertion.claim.iss` choose.
    ClientAssertion {
        /// The client's id, where the endpoint wants it beside the assertion.
        id: Option<String>,
        /// The assertion.
        assertion: Assertion,
    },
    /// By a JWT that is itself the grant (RFC 7523, 2.1). Kafka: `sasl.oauthbearer.jwt.retriever.class` of `JwtBearerJwtRetriever`.
    JwtBearer(Assertion),
}

/// A [`TokenSource`] that asks a token endpoint.
#[derive(Debug)]
pub struct Oidc {
    url: Url,
    grant: OidcGrant,
    scope: Option<String>,
    dialer: Arc<dyn Dial>,
    connect_timeout: Duration,
    timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Oidc {
    /// Asks the endpoint at `url` (`https://host:port/path`; `http://` works and is warned of), with TLS as `tls` says, and waits for
    /// `timeout` at most.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] for a URL that is none.
    pub fn new(
        url: &str,
        grant: OidcGrant,
        scope: Option<String>,
        tls: TlsConfig,
        timeout: Duration,
    ) -> Result<Self> {
        let url = Url::parse(url)?;
        let dialer: Arc<dyn Dial> = match url.tls {
            true => Arc::new(TlsDialer::new(tls, Arc::new(TcpDialer))),
            false => {
                tracing::warn!(
                    host = url.host,
                    "the token endpoint is asked in plaintext: secrets can be heard"
                );
                Arc::new(TcpDialer)
            }
        };
        Ok(Self { url, grant, scope, dialer, connect_timeout: timeout, timeout })
    }

    /// The same with a bound of its own for connecting, TLS included. Default: the one for everything.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    async fn ask(&self) -> Result<BearerToken> {
        let grant = self.grant.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&grant));
        let (form, authorization) =
            prepared.await.map_err(|_| Error::closed("the runtime is stopping"))??;
        let mut body = form;
        if let Some(scope) = &self.scope {
            body.push_str(&format!("&scope={}", percent(scope)));
        }
        let mut head = Zeroizing::new(format!(
            "POST {} HTTP/1.1\r\nHost: {}:{}\r\nAccept: application/json\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            self.url.path,
            self.url.host,
            self.url.port,
            body.len()
        ));
        if let Some(authorization) = &authorization {
            head.push_str(authorization);
        }
        head.push_str("\r\n");
        head.push_str(&body);
        let dial = self.dialer.dial(&self.url.host, self.url.port);
        let stream = tokio::time::timeout(self.connect_timeout, dial).await.unwrap_or_else(|_| {
            let text = format!("no connection within {:?}", self.connect_timeout);
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
        });
        let stream = stream.map_err(|error| self.unreached(&error))?;
        // In TLS 1.3 a refused client certificate is told in the place of the answer.
        let answer = exchange(stream, head.as_bytes(), |error| self.unreached(&error)).await?;
        let now = SystemTime::now();
        oidc::token_of(&answer, now).map_err(|error| refused(&error, &answer))
    }

    fn unreached(&self, error: &std::io::Error) -> Error {
        let place = format!("the token endpoint {}:{}", self.url.host, self.url.port);
        match tls::explain(error) {
            Some(failure) => {
                let text = failure.text.replace("the broker's", "its").replace("the broker", "it");
                let kind = match failure.kind {
                    FailureKind::Auth => ErrorKind::Auth,
                    _ => ErrorKind::Io,
                };
                let error = Error::new(kind, format!("{place} cannot be asked: {text}"));
                match failure.remedy {
                    Some(remedy) => error.with_remedy(remedy.replace("the broker", "the endpoint")),
                    None => error,
                }
            }
            None => Error::new(ErrorKind::Io, format!("{place} cannot be asked: {error}")),
        }
    }
}

impl TokenSource for Oidc {
    fn token(&self) -> BoxFuture<'_, Result<BearerToken>> {
        Box::pin(async move {
            tokio::time::timeout(self.timeout, self.ask()).await.unwrap_or_else(|_| {
                let text =
                    format!("the token endpoint {} did not answer within {:?}", self.url.host, self.timeout);
                Err(Error::new(ErrorKind::Timeout, text))
            })
        })
    }
}

fn refused(error: &SaslError, answer: &HttpAnswer) -> Error {
    let kind = match error.kind {
        SaslErrorKind::Refused => ErrorKind::Auth,
        // A server in trouble may be better in a moment.
        _ if answer.status >= 429 => ErrorKind::Io,
        _ => ErrorKind::Auth,
    };
    let mut text = error.message.to_string();
    if let Some(date) = &answer.date {
        text.push_str(&format!("; its clock says {date}"));
    }
    Error::new(kind, text).with_remedy(error.remedy.clone().unwrap_or("check the endpoint's URL".into()))
}

async fn exchange(
    mut stream: BoxStream,
    request: &[u8],
    cut: impl Fn(std::io::Error) -> Error,
) -> Result<HttpAnswer> {
    stream.write_all(request).await.map_err(&cut)?;
    stream.flush().await.map_err(&cut)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    loop {
        let ended = match (&mut stream).take(MAX_ANSWER as u64).read_buf(&mut *bytes).await {
            Ok(0) => true,
            Ok(_) => false,
            // Servers that close TLS without a word are many.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => true,
            Err(error) => return Err(cut(error)),
        };
        let read = oidc::read_http(&bytes, ended)
            .map_err(|error| Error::new(ErrorKind::Io, error.message.to_string()))?;
        if let Some(answer) = read {
            return Ok(answer);
        }
    }
}

/// The form and the header that prove who we are. Reads the key, so it blocks.
fn prepare(grant: &OidcGrant) -> Result<(Zeroizing<String>, Option<Zeroizing<String>>)> {
    match grant {
        OidcGrant::ClientCredentials { id, secret, url_encode } => {
            let secret = secret.expose_text().unwrap_or_default();
            let pair = Zeroizing::new(match url_encode {
                true => format!("{}:{}", percent(id), percent(secret)),
                false => format!("{id}:{secret}"),
            });
            let header = format!("Authorization: Basic {}\r\n", STANDARD.encode(pair.as_bytes()));
            Ok((Zeroizing::new("grant_type=client_credentials".to_owned()), Some(Zeroizing::new(header))))
        }
        OidcGrant::ClientAssertion { id, assertion } => {
            let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
            let mut form = with_assertion(
                &format!("grant_type=client_credentials&client_assertion_type={kind}&client_assertion="),
                assertion,
            )?;
            if let Some(id) = id {
                form.push_str("&client_id=");
                form.push_str(&percent(id));
            }
            Ok((form, None))
        }
        OidcGrant::JwtBearer(assertion) => {
            let kind = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
            Ok((with_assertion(&format!("grant_type={kind}&assertion="), assertion)?, None))
        }
    }
}

/// A form that ends in the assertion.
fn with_assertion(form: &str, assertion: &Assertion) -> Result<Zeroizing<String>> {
    let assertion = assertion.make()?;
    Ok(Zeroizing::new(format!("{form}{}", percent(assertion.expose_text().unwrap_or_default()))))
}

impl Url {
    fn parse(text: &str) -> Result<Self> {
        let wrong =
            || Error::misuse(format!("the token endpoint {text:?} is no URL such as https://host/token"));
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(wrong()),
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(at).ok_or_else(wrong)?;
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || authority.contains('@') || !printable(host) || !printable(path) {
            return Err(wrong());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, host: host.to_owned(), port, path })
    }
}

/// Percent-encoding as forms have it.
fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => encoded.push(byte as char),
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn urls_have_a_host_and_a_path() {
        let url = |tls, host: &str, port, path: &str| Url { tls, host: host.into(), port, path: path.into() };
        assert_eq!(Url::parse("https://a.b/c?d=e").unwrap(), url(true, "a.b", 443, "/c?d=e"));
        assert_eq!(Url::parse("http://[::1]:8080").unwrap(), url(false, "::1", 8080, "/"));
        assert_eq!(Url::parse("https://a?x").unwrap(), url(true, "a", 443, "/?x"));
        for wrong in [
            "",
            "a.b/c",
            "ftp://a",
            "https://",
            "https://a:b/",
            "https://u:p@a/",
            "https://a/\r\nX: y",
            "https://a/ b",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    async fn endpoint(answer: &'static str) -> (Oidc, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"scope=read+it") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        });
        let grant = OidcGrant::ClientCredentials { id: "me".into(), secret: "s e".into(), url_encode: true };
        let scope = Some("read it".to_owned());
        let oidc = Oidc::new(&url, grant, scope, TlsConfig::default(), Duration::from_secs(10)).unwrap();
        (oidc, served)
    }

    #[tokio::test]
    async fn client_credentials_become_a_token() {
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n{\"access_token\":\"abc\", \"expires_in\": 60 }  ";
        let (oidc, served) = endpoint(answer).await;
        let token = oidc.token().await.unwrap();
        assert_eq!(token.value.expose(), b"abc");
        let request = served.await.unwrap();
        assert!(request.starts_with("POST /token HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.contains("Authorization: Basic bWU6cytl\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=read+it"), "{request}");
    }

    #[tokio::test]
    async fn a_refused_client_is_an_auth_error_and_a_broken_server_is_not() {
        let refused =
            "HTTP/1.1 401 No\r\nDate: Fri\r\nContent-Length: 26\r\n\r\n{\"error\":\"invalid_client\"}";
        let error = endpoint(refused).await.0.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert!(error.to_string().contains("invalid_client; its clock says Fri"), "{error}");
        let broken = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        assert!(endpoint(broken).await.0.token().await.unwrap_err().is_retriable());
    }
}
