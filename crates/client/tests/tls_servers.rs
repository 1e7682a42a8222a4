//! TLS with servers of others: OpenSSL's and Java's, RSA and ECDSA, 1.2 and 1.3. What the server saw is read from the server.
//!
//! A token endpoint is asked, since a single request on a connection of its own is all that takes. Brokers are reached by the same code.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use milena::ErrorKind;
use milena::sasl::{Assertion, BearerToken, Oidc, OidcGrant, SignedAssertion, TokenSource};
use milena::tls::{Identity, Store, TlsConfig, TlsVersions, Trust};
use milena_testkit::kafka::{Certificates, TokenEndpoint, TokenOptions, or_skip};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;

const WAIT: Duration = Duration::from_secs(60);

/// Those that all tests of this file use.
async fn certificates() -> Option<&'static Certificates> {
    static MADE: OnceCell<Option<Certificates>> = OnceCell::const_new();
    MADE.get_or_init(async || or_skip(Certificates::make().await)).await.as_ref()
}

fn trusting(certificates: &Certificates) -> TlsConfig {
    TlsConfig { trust: Trust::Store(Store::pem_file(certificates.file("ca.pem"))), ..TlsConfig::default() }
}

fn secret() -> OidcGrant {
    OidcGrant::ClientCredentials { id: "service".to_owned(), secret: "s3cret".into(), url_encode: false }
}

fn signed(key: PathBuf, algorithm: &str) -> Assertion {
    Assertion::Signed(SignedAssertion {
        key_password: Some(Certificates::PASSWORD.into()),
        algorithm: algorithm.to_owned(),
        issuer: Some("service".to_owned()),
        subject: Some("service".to_owned()),
        audience: Some("https://localhost/token".to_owned()),
        with_id: true,
        ..SignedAssertion::new(key)
    })
}

fn assertion(key: PathBuf, algorithm: &str) -> OidcGrant {
    OidcGrant::JwtBearer(signed(key, algorithm))
}

fn oidc(url: &str, grant: OidcGrant, tls: TlsConfig) -> Oidc {
    Oidc::new(url, grant, None, tls, WAIT).unwrap()
}

/// `openssl s_server`, its plaintext on pipes, and what it traced of the handshakes.
struct OpenSsl {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    port: u16,
    trace: PathBuf,
}

impl OpenSsl {
    async fn start(certificates: &Certificates, name: &str, more: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let trace = certificates.file(&format!("trace-{port}"));
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}"), "-msg", "-msgfile"])
            .arg(&trace)
            .arg("-cert")
            .arg(certificates.file(&format!("{name}-own.pem")))
            .arg("-key")
            .arg(certificates.file(&format!("{name}.key")))
            .args(more)
            .current_dir(certificates.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        // A connection only to see that it listens would be one that it serves: the kernel's table tells.
        let wanted = format!(":{port:04X} ");
        let began = std::time::Instant::now();
        while !std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            format!("{} ", words.next().unwrap_or("")).ends_with(&wanted) && words.nth(1) == Some("0A")
        }) {
            assert!(began.elapsed() < WAIT, "openssl does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { _child: child, input, output, port, trace }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/token", self.port)
    }

    /// Answers a request with a token. The request is longer than one TLS record where the scope is.
    async fn serve(&mut self) -> String {
        let mut request = String::new();
        let length = loop {
            let mut piece = vec![0; 4096];
            let count = self.output.read(&mut piece).await.unwrap();
            assert!(count > 0, "openssl ended");
            request.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
            let length = head.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                break body.len();
            }
        };
        let token = "a".repeat(40_000);
        let json = format!(r#"{{"access_token":"{token}","expires_in":60}}"#);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
        self.input.write_all(answer.as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
        request.split_off(request.len() - length)
    }

    /// How many handshakes it saw, and in how many it showed its certificate. One that is resumed shows none.
    fn handshakes(&self) -> (usize, usize) {
        let trace = std::fs::read_to_string(&self.trace).unwrap();
        let count = |from: &str, what: &str| {
            trace.lines().filter(|line| line.starts_with(from) && line.ends_with(what)).count()
        };
        (count("<<<", ", Finished"), count(">>>", ", Certificate"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_serves_rsa_and_ecdsa_in_both_versions_and_resumes_sessions() {
    let Some(certificates) = certificates().await else { return };
    for (name, version) in
        [("broker", "-tls1_2"), ("broker", "-tls1_3"), ("broker-ec", "-tls1_2"), ("broker-ec", "-tls1_3")]
    {
        let mut server = OpenSsl::start(certificates, name, &[version]).await;
        let source = oidc(&server.url(), secret(), trusting(certificates));
        for round in 1..=3 {
            let (token, request) = ask(&source, &mut server).await;
            assert_eq!(token.unwrap().value.expose().len(), 40_000, "{name} {version}");
            assert_eq!(request.as_deref(), Some("grant_type=client_credentials"));
            assert_eq!(server.handshakes(), (round, 1), "{name} {version}: the session is resumed");
        }
    }
}

/// Asks, and has the server answer. One that refuses the connection has nothing to answer.
async fn ask(source: &Oidc, server: &mut OpenSsl) -> (milena::Result<BearerToken>, Option<String>) {
    let (asking, serving) = (source.token(), server.serve());
    tokio::pin!(asking, serving);
    let mut request = None;
    loop {
        tokio::select! {
            token = &mut asking => return (token, request),
            served = &mut serving, if request.is_none() => request = Some(served),
        }
    }
}

/// Refused for good, with these words. Nobody serves: a handshake that fails has no request.
async fn refused(what: &str, source: &Oidc, words: &[&str]) {
    fails(what, source, ErrorKind::Auth, words).await;
}

async fn fails(what: &str, source: &Oidc, kind: ErrorKind, words: &[&str]) {
    let error = source.token().await.expect_err(what);
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: {word:?} is not in: {text}");
    }
    assert!(!text.contains("s3cret"), "{what}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_openssl_and_this_client_do_not_agree_on_is_told() {
    let Some(certificates) = certificates().await else { return };
    let expired = OpenSsl::start(certificates, "expired", &[]).await;
    for versions in [TlsVersions::Tls12, TlsVersions::Tls13] {
        let source = oidc(&expired.url(), secret(), TlsConfig { versions, ..trusting(certificates) });
        let words = ["certificate CN=expired has expired", "valid until Jan  2 00:00:00 2020", "clock"];
        refused("an expired certificate", &source, &words).await;
    }
    // Trusted by itself, and expired all the same.
    let pinned = Trust::Store(Store::pem_file(certificates.file("expired-own.pem")));
    let source = oidc(&expired.url(), secret(), TlsConfig { trust: pinned, ..TlsConfig::default() });
    refused("a trusted certificate that is expired", &source, &["CN=expired has expired", "2020"]).await;

    let old = OpenSsl::start(certificates, "broker", &["-tls1_2"]).await;
    let newest = TlsConfig { versions: TlsVersions::Tls13, ..trusting(certificates) };
    refused(
        "TLS 1.3 to a server of 1.2",
        &oidc(&old.url(), secret(), newest),
        &["no TLS in common", "1.2 or 1.3"],
    )
    .await;
    let other = Trust::Store(Store::pem_file(certificates.file("other-ca.pem")));
    let source = oidc(&old.url(), secret(), TlsConfig { trust: other, ..TlsConfig::default() });
    refused("an unknown authority", &source, &["CN=broker", "signed by CN=test-ca", "valid until"]).await;
    let named = TlsConfig { server_name: Some("kafka.example".to_owned()), ..trusting(certificates) };
    let words = ["CN=broker is not for the host kafka.example", "localhost"];
    refused("another host", &oidc(&old.url(), secret(), named.clone()), &words).await;
    // The certificate itself is trusted, for its own hosts.
    let own = Trust::Store(Store::pem_file(certificates.file("broker-own.pem")));
    refused("another host, pinned", &oidc(&old.url(), secret(), TlsConfig { trust: own, ..named }), &words)
        .await;
    let suites = TlsConfig {
        cipher_suites: vec!["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".to_owned()],
        versions: TlsVersions::Tls12,
        ..trusting(certificates)
    };
    refused(
        "a suite of ECDSA to a certificate of RSA",
        &oidc(&old.url(), secret(), suites),
        &["no TLS in common"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_asks_for_a_certificate_and_takes_the_right_one() {
    let Some(certificates) = certificates().await else { return };
    for version in ["-tls1_2", "-tls1_3"] {
        let more = [version, "-Verify", "2", "-verify_return_error", "-CAfile", "ca.pem"];
        let mut server = OpenSsl::start(certificates, "broker", &more).await;
        for name in ["client", "client-ec"] {
            let identity = Identity::new(Store::pem_file(certificates.file(&format!("{name}-all.pem"))));
            let tls = TlsConfig { identity: Some(identity), ..trusting(certificates) };
            let source = oidc(&server.url(), secret(), tls);
            let (token, _) = ask(&source, &mut server).await;
            token.unwrap_or_else(|error| panic!("{name} {version}: {error}"));
        }
        for name in [None, Some("stranger"), Some("expired")] {
            let identity = name
                .map(|name| Identity::new(Store::pem_file(certificates.file(&format!("{name}-all.pem")))));
            let source = oidc(&server.url(), secret(), TlsConfig { identity, ..trusting(certificates) });
            refused(&format!("{name:?} {version}"), &source, &["certificate", "key store"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_serves_rsa_and_ecdsa_in_both_versions_and_checks_what_we_sign() {
    let Some(certificates) = certificates().await else { return };
    let Some(endpoint) = or_skip(TokenEndpoint::start(certificates, TokenOptions::default()).await) else {
        return;
    };
    for port in ["rsa-1.2", "rsa-1.3", "ec-1.2", "ec-1.3"] {
        let key = |name: &str| certificates.file(name);
        let named = |id: Option<&str>| OidcGrant::ClientAssertion {
            id: id.map(str::to_owned),
            assertion: signed(key("client.key"), "RS256"),
        };
        let grants = [
            ("secret", secret()),
            ("assertion RS256", assertion(key("client-encrypted.key"), "RS256")),
            ("assertion ES256", assertion(key("client-ec.key"), "ES256")),
            ("client_assertion", named(None)),
            ("client_assertion and id", named(Some("service"))),
        ];
        let count = grants.len();
        let ways: Vec<&str> = grants.iter().map(|(what, _)| *what).collect();
        for (what, grant) in grants {
            let source = oidc(&endpoint.url(port), grant, trusting(certificates));
            for _ in 0..2 {
                let token = source.token().await.unwrap_or_else(|error| panic!("{port} {what}: {error}"));
                assert!(token.value.expose().starts_with(b"eyJ") && token.issued.is_some());
            }
        }
        let log = endpoint.requests();
        let log: Vec<&String> = log.iter().filter(|line| line.starts_with(port)).collect();
        let version = if port.ends_with("1.2") { "TLSv1.2" } else { "TLSv1.3" };
        assert_eq!(log.len(), 2 * count, "{log:?}");
        for (at, line) in log.iter().enumerate() {
            let resumed = format!("resumed={}", at % 2 == 1);
            assert!(line.contains(version) && line.contains(&resumed) && line.ends_with("granted"), "{line}");
            assert!(line.contains(&format!(" by={} granted", ways[at / 2])), "{line}");
        }
    }
    let place = endpoint.url("rsa-1.3");
    let refused_by = async |grant: OidcGrant, words: &[&str]| {
        refused("a refusal", &oidc(&place, grant, trusting(certificates)), words).await;
    };
    let wrong =
        OidcGrant::ClientCredentials { id: "service".into(), secret: "guess".into(), url_encode: false };
    refused_by(
        wrong,
        &["answered 401", "invalid_client", "its clock says", "check the client's id and secret"],
    )
    .await;
    let words = ["answered 400", "invalid_grant", "the signature is wrong"];
    refused_by(assertion(certificates.file("stranger.key"), "RS256"), &words).await;
    let stranger = |id: &str, key: &str| OidcGrant::ClientAssertion {
        id: Some(id.to_owned()),
        assertion: signed(certificates.file(key), "RS256"),
    };
    let words = ["answered 401", "invalid_client", "the signature is wrong"];
    refused_by(stranger("service", "stranger.key"), &words).await;
    refused_by(stranger("other", "client.key"), &["answered 401", "invalid_client"]).await;
    for (key, words) in [("client.key", "no key for ES256"), ("absent.key", "absent.key")] {
        let source = oidc(&place, assertion(certificates.file(key), "ES256"), trusting(certificates));
        fails("a key that does not fit", &source, ErrorKind::Misuse, &[key, words]).await;
    }
}

/// The files are replaced under a client that goes on; each new connection shows what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_certificate_is_shown_by_the_next_connection() {
    let Some(certificates) = certificates().await else { return };
    let Some(endpoint) = or_skip(TokenEndpoint::start(certificates, TokenOptions::default()).await) else {
        return;
    };
    let ours = certificates.file("ours.pem");
    let trusted = certificates.file("trusted.pem");
    // By a rename, so that it is never there by half.
    let replace = |name: &str, path: &PathBuf| {
        let next = certificates.file("next");
        std::fs::copy(certificates.file(name), &next).unwrap();
        std::fs::rename(next, path).unwrap();
    };
    replace("client-all.pem", &ours);
    replace("ca.pem", &trusted);
    let tls = TlsConfig {
        trust: Trust::Store(Store::pem_file(&trusted)),
        identity: Some(Identity::new(Store::pem_file(&ours))),
        ..TlsConfig::default()
    };
    let source = oidc(&endpoint.url("mutual"), secret(), tls);
    let seen = || endpoint.requests().last().cloned().unwrap_or_default();
    source.token().await.unwrap();
    assert!(seen().contains("peer=CN=client resumed=false"), "{}", seen());
    source.token().await.unwrap();
    assert!(seen().contains("peer=CN=client resumed=true"), "{}", seen());
    // Who we are has changed: the old session would still say the old name.
    replace("client-next-all.pem", &ours);
    source.token().await.unwrap();
    assert!(seen().contains("peer=CN=client-next resumed=false"), "{}", seen());
    // What cannot be read changes nothing.
    replace("log", &ours);
    source.token().await.unwrap();
    assert!(seen().contains("peer=CN=client-next"), "{}", seen());
    replace("other-ca.pem", &trusted);
    replace("client-all.pem", &ours);
    refused("an authority that is not trusted any more", &source, &["CN=broker", "signed by CN=test-ca"])
        .await;
    replace("ca.pem", &trusted);
    source.token().await.unwrap();
    assert!(seen().contains("peer=CN=client resumed=false"), "{}", seen());
}

/// Who is not asked for by name is shown a certificate that nobody trusts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_told_which_host_is_wanted() {
    let Some(certificates) = certificates().await else { return };
    let by_name = ["-servername", "localhost", "-cert2", "broker-own.pem", "-key2", "broker.key"];
    let mut server = OpenSsl::start(certificates, "stranger", &by_name).await;
    let source = oidc(&server.url(), secret(), trusting(certificates));
    ask(&source, &mut server).await.0.unwrap();
    // An address is no name.
    let by_address = server.url().replace("localhost", "127.0.0.1");
    refused("without a name", &oidc(&by_address, secret(), trusting(certificates)), &["CN=stranger"]).await;
}

/// Serves TLS with a certificate and a key that is not its own. What it has to say after the handshake never comes.
async fn impostor(certificates: &Certificates, version: &'static SupportedProtocolVersion) -> String {
    let chain = CertificateDer::pem_file_iter(certificates.file("broker.pem")).unwrap();
    let chain = chain.map(|certificate| certificate.unwrap()).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.file("stranger.key")).unwrap();
    let provider = Arc::new(rustls_graviola::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = config.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await;
        }
    });
    format!("https://localhost:{port}/token")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_the_certificate_without_its_key_is_not_taken_for_the_server() {
    let Some(certificates) = certificates().await else { return };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let url = impostor(certificates, version).await;
        let words = ["does not have the key of its certificate"];
        refused("a stolen certificate", &oidc(&url, secret(), trusting(certificates)), &words).await;
    }
}
