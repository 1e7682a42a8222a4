//! The client on a real Kafka with every security protocol: who belongs there gets in and works, who does not is told why.
//!
//! Old releases: `cargo xtask kafka secured 2.8.2`, which sets `MILENA_KAFKA_VERSION`. Each is asked for what it had.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use milena::sasl::{
    BearerToken, FileToken, Kerberos, KerberosOptions, OAuthBearer, Plain, RefreshPolicy, Scram, ScramHash,
    ScramPassword, UnsecuredToken,
};
use milena::tls::{Identity, Store, TlsConfig, TlsVersions, Trust};
use milena::{
    Client, ErrorCode, FetchFrom, FetchOptions, Isolation, NewTopic, Offset, Producer, ProducerConfig,
    ProducerRecord, TopicPartition,
};
use milena_testkit::kafka::{
    Certificates, Listener, NEWEST, SecuredKafka, TokenEndpoint, TokenOptions, or_skip,
};
use milena_tests::load::goes_on;
use milena_tests::secured::{Secured, refused, works};
use milena_tests::{cli, records, unique};

const PASSWORD: &str = Certificates::PASSWORD;

/// How long an authentication is good for on the broker of these tests: each connection that lives longer renews it.
const REAUTH: Duration = Duration::from_secs(6);

/// How long work goes on while credentials of [`REAUTH`] run out.
const LASTS: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_kafka_lets_in_who_belongs_there_and_tells_the_others_why() {
    let reauth = REAUTH.as_millis().to_string();
    let properties = [("connections.max.reauth.ms", reauth.as_str())];
    let version = std::env::var("MILENA_KAFKA_VERSION").unwrap_or_else(|_| NEWEST.to_owned());
    let Some(secured) = or_skip(SecuredKafka::start(&version, &properties).await) else { return };
    let secured = Secured(secured);
    passwords(&secured).await;
    kerberos(&secured).await;
    certificates(&secured).await;
    other_security_protocols_are_recognised(&secured).await;
    denials_are_told_by_resource(&secured).await;
    if secured.is_at_least("1.1.0") {
        delegation_tokens(&secured).await;
    }
    if secured.0.has(Listener::OAuth) {
        unsecured_tokens(&secured).await;
    }
    // What takes its time, at once.
    tokio::join!(
        async {
            if secured.is_at_least("0.11.0.0") {
                exactly_once(&secured).await;
            }
        },
        async {
            if secured.0.has(Listener::Jwks) {
                signed_tokens(&secured).await;
            }
        },
        async {
            if secured.is_at_least("2.2.0") {
                re_authentication_fails_no_request(&secured).await;
            }
        },
    );
}

async fn passwords(secured: &Secured) {
    for listener in [Listener::SaslPlaintext, Listener::SaslSsl] {
        let config = || match listener {
            Listener::SaslSsl => secured.config(listener).with_tls(secured.trusting()),
            _ => secured.config(listener),
        };
        works("PLAIN", config().with_sasl(Plain::new("alice", "alice-secret"))).await;
        works("SCRAM-SHA-256", config().with_sasl(Scram::sha256("alice", "alice-secret"))).await;
        works("SCRAM-SHA-512", config().with_sasl(Scram::sha512("alice", "alice-secret"))).await;
        for (user, password) in [("alice", "geheim"), ("nobody", "geheim")] {
            refused(
                "PLAIN",
                config().with_sasl(Plain::new(user, password)),
                &["PLAIN", "check the user name"],
            )
            .await;
            let scram = config().with_sasl(Scram::sha512(user, password));
            refused("SCRAM", scram, &["SCRAM-SHA-512", "check the user name"]).await;
        }
    }
    let oauth = OAuthBearer::new(UnsecuredToken::new("alice", Duration::from_secs(600)));
    let config = secured.config(Listener::SaslPlaintext).with_sasl(oauth);
    let words = [
        "OAUTHBEARER",
        "it offers",
        "PLAIN",
        "SCRAM-SHA-256",
        "SCRAM-SHA-512",
        "set sasl.mechanism to one of those",
    ];
    refused("wrong mechanism", config, &words).await;
    let jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"alice\" password=\"alice-secret\";";
    let trust = secured.path("trust.p12");
    let config = secured.properties(
        Listener::SaslSsl,
        &[
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.jaas.config", jaas),
            ("ssl.truststore.location", &trust),
            ("ssl.truststore.password", PASSWORD),
        ],
    );
    works("Java's properties", config).await;
}

async fn certificates(secured: &Secured) {
    let file = |name: &str| secured.0.file(name);
    for (versions, listener) in [TlsVersions::Tls12, TlsVersions::Tls13]
        .into_iter()
        .flat_map(|versions| [Listener::Ssl, Listener::SslEc].map(|listener| (versions, listener)))
        .filter(|(_, listener)| secured.0.has(*listener))
    {
        let tls = TlsConfig { versions, ..secured.trusting() };
        let config = secured.config(listener).with_tls(tls);
        // Kafka speaks 1.3 from 2.6 on (KIP-573).
        if versions == TlsVersions::Tls13 && !secured.is_at_least("2.6.0") {
            refused("TLS 1.3 only", config, &["no TLS in common", "ssl.enabled.protocols"]).await;
        } else {
            works(&format!("{versions:?} to {listener:?}"), config).await;
        }
    }
    if secured.0.has(Listener::SslExpired) {
        let expired = secured.config(Listener::SslExpired).with_tls(secured.trusting());
        let words = ["certificate CN=expired has expired", "valid until Jan  2 00:00:00 2020", "clock"];
        refused("an expired certificate", expired, &words).await;
    }
    for (what, trust) in [
        ("PKCS#12", Store::pkcs12_file(file("trust.p12"), PASSWORD)),
        ("JKS", Store::jks_file(file("trust.jks"), PASSWORD)),
        ("the broker's own certificate", Store::pem_file(file("broker-own.pem"))),
    ] {
        let tls = TlsConfig { trust: Trust::Store(trust), ..TlsConfig::default() };
        works(what, secured.config(Listener::Ssl).with_tls(tls)).await;
    }
    let apart = |key: &str| Identity {
        key: Some(Store::pem_file(file(key))),
        ..Identity::new(Store::pem_file(file("client.pem")))
    };
    for (what, identity) in [
        ("PEM", Identity::new(Store::pem_file(file("client-all.pem")))),
        ("PKCS#12", Identity::new(Store::pkcs12_file(file("client.p12"), PASSWORD))),
        ("JKS", Identity::new(Store::jks_file(file("client.jks"), PASSWORD))),
        ("a key apart", apart("client.key")),
        ("an encrypted key", apart("client-encrypted.key").with_key_password(PASSWORD)),
    ] {
        works(what, secured.showing(identity)).await;
    }
    if secured.is_at_least("1.0.0") {
        let plain = secured.config(Listener::SslAuth).with_tls(secured.trusting());
        refused("no certificate", plain, &["client's certificate"]).await;
    }
    let stranger = Identity::new(Store::pem_file(file("stranger-all.pem")));
    refused("a certificate of another authority", secured.showing(stranger), &["client's certificate"]).await;
    let wrong = apart("client-encrypted.key").with_key_password("geheim");
    refused("a wrong key password", secured.showing(wrong), &["client-encrypted.key", "password right?"])
        .await;
    let other =
        TlsConfig { trust: Trust::Store(Store::pem_file(file("other-ca.pem"))), ..TlsConfig::default() };
    let config = secured.config(Listener::Ssl).with_tls(other);
    refused(
        "an unknown authority",
        config,
        &["CN=broker", "signed by CN=test-ca", "valid until", "trust store"],
    )
    .await;
    let named = TlsConfig { server_name: Some("kafka.example".to_owned()), ..secured.trusting() };
    let config = secured.config(Listener::Ssl).with_tls(named.clone());
    refused("another host", config, &["CN=broker is not for the host kafka.example", "localhost, 127.0.0.1"])
        .await;
    let blind = TlsConfig { verify_host_name: false, ..named };
    works("another host, unverified", secured.config(Listener::Ssl).with_tls(blind)).await;
}

/// A token as the JWKS listener wants it.
fn signed(folder: &Path, key: &str, audience: &str, lifetime: i64) -> String {
    signed_for(folder, key, &["oauth", "issuer.test", audience], lifetime)
}

/// A JWT about this subject, of this issuer, for this audience, signed by openssl.
fn signed_for(folder: &Path, key: &str, [subject, issuer, audience]: &[&str; 3], lifetime: i64) -> String {
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let claims = format!(
        r#"{{"sub":"{subject}","iss":"{issuer}","aud":"{audience}","iat":{},"exp":{}}}"#,
        now - 60,
        now + lifetime
    );
    let text = format!("{}.{}", base64(br#"{"alg":"RS256","kid":"k1"}"#), base64(claims.as_bytes()));
    let file = folder.join(unique("token"));
    std::fs::write(&file, &text).unwrap();
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(folder.join(key))
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    format!("{text}.{}", base64(&output.stdout))
}

async fn unsecured_tokens(secured: &Secured) {
    let unsecured = OAuthBearer::new(UnsecuredToken::new("oauth", Duration::from_secs(600)));
    works("an unsecured token", secured.config(Listener::OAuth).with_sasl(unsecured)).await;
}

async fn signed_tokens(secured: &Secured) {
    let folder = secured.0.certificates().folder().to_owned();
    let with = |token: String| {
        let file = folder.join(unique("jwt"));
        std::fs::write(&file, token).unwrap();
        secured.config(Listener::Jwks).with_sasl(OAuthBearer::new(FileToken::new(file)))
    };
    works("a signed token", with(signed(&folder, "jwt.key", "kafka", 600))).await;
    for (what, token) in [
        ("another audience", signed(&folder, "jwt.key", "other", 600)),
        ("another key", signed(&folder, "client.key", "kafka", 600)),
    ] {
        refused(what, with(token), &["OAUTHBEARER", "invalid_token", "clock says"]).await;
    }
    let expired = with(signed(&folder, "jwt.key", "kafka", -5));
    refused("an expired token", expired, &["has expired at", "clock says"]).await;
    let endpoint = TokenEndpoint::start(secured.0.certificates(), TokenOptions { lifetime: REAUTH }).await;
    let Some(endpoint) = or_skip(endpoint) else { return };
    let config = secured.properties(
        Listener::Jwks,
        &[
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "OAUTHBEARER"),
            (
                "sasl.login.callback.handler.class",
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
            ),
            (
                "sasl.oauthbearer.jwt.retriever.class",
                "org.apache.kafka.common.security.oauthbearer.JwtBearerJwtRetriever",
            ),
            ("sasl.oauthbearer.token.endpoint.url", &endpoint.url("ec-1.3")),
            ("sasl.oauthbearer.assertion.private.key.file", &secured.path("client-encrypted.key")),
            ("sasl.oauthbearer.assertion.private.key.passphrase", PASSWORD),
            ("sasl.oauthbearer.assertion.algorithm", "RS256"),
            ("sasl.oauthbearer.assertion.claim.iss", "service"),
            ("sasl.oauthbearer.assertion.claim.sub", "service"),
            ("sasl.oauthbearer.assertion.claim.aud", "https://localhost/token"),
            ("sasl.login.refresh.min.period.seconds", "0"),
            ("sasl.login.refresh.buffer.seconds", "0"),
            ("ssl.truststore.location", &secured.path("ca.pem")),
            ("ssl.truststore.type", "PEM"),
        ],
    );
    works("a token by a signed assertion", config.clone()).await;
    goes_on("assertions", config, LASTS).await;
    assertions_in_the_place_of_a_secret(secured, &folder, &endpoint).await;
    let requests = endpoint.requests();
    assert!(requests.iter().all(|line| line.ends_with("granted")), "{requests:?}");
    for way in ["by=assertion RS256", "by=client_assertion granted", "by=client_assertion and id"] {
        assert!(requests.iter().any(|line| line.contains(way)), "{way}: {requests:?}");
    }
}

async fn assertions_in_the_place_of_a_secret(secured: &Secured, folder: &Path, endpoint: &TokenEndpoint) {
    // One that another program signed, and whose endpoint is said by the login module, as in Java.
    let ready = secured.0.file("assertion.jwt");
    let claims = ["service", "service", "https://localhost/token"];
    std::fs::write(&ready, signed_for(folder, "client.key", &claims, 600)).unwrap();
    let jaas = format!(
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required ssl.truststore.location=\"{}\" \
         ssl.truststore.password=\"{PASSWORD}\";",
        secured.path("trust.jks")
    );
    let by_file = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.jaas.config", &jaas),
        ("sasl.oauthbearer.token.endpoint.url", &endpoint.url("rsa-1.2")),
        ("sasl.oauthbearer.assertion.file", &ready.display().to_string()),
    ];
    works("a token by an assertion in a file", secured.properties(Listener::Jwks, &by_file)).await;
    // Signed here, in the place of a secret: that is what the issuer chooses where no retriever is named.
    let template = secured.0.file("template.json");
    std::fs::write(&template, r#"{"payload": {"sub": "service", "aud": "https://localhost/token"}}"#)
        .unwrap();
    let by_template = [
        ("security.protocol", "SASL_PLAINTEXT"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.token.endpoint.url", &endpoint.url("rsa-1.3")),
        ("sasl.oauthbearer.client.credentials.client.id", "service"),
        ("sasl.oauthbearer.assertion.private.key.file", &secured.path("client-ec.key")),
        ("sasl.oauthbearer.assertion.algorithm", "ES256"),
        ("sasl.oauthbearer.assertion.claim.iss", "service"),
        ("sasl.oauthbearer.assertion.claim.jti.include", "true"),
        ("sasl.oauthbearer.assertion.template.file", &template.display().to_string()),
        ("ssl.truststore.location", &secured.path("ca.pem")),
        ("ssl.truststore.type", "PEM"),
    ];
    works("a token by an assertion as a secret", secured.properties(Listener::Jwks, &by_template)).await;
}

async fn other_security_protocols_are_recognised(secured: &Secured) {
    let plain = secured.config(Listener::Ssl);
    refused("plaintext to TLS", plain, &["plaintext was tried on a port that speaks TLS", "SASL_SSL"]).await;
    for listener in [Listener::Plaintext, Listener::SaslPlaintext] {
        let config = secured.config(listener).with_tls(secured.trusting());
        let config = config.with_sasl(Plain::new("alice", "alice-secret"));
        refused("TLS to plaintext", config, &["TLS was tried on a port that speaks plaintext Kafka"]).await;
    }
    let config = secured.config(Listener::Plaintext).with_sasl(Plain::new("alice", "alice-secret"));
    refused("SASL where there is none", config, &["the listener takes no SASL"]).await;
}

/// `milena copy` over TLS and SCRAM with Java's properties in a file, killed again and again while records come.
async fn exactly_once(secured: &Secured) {
    let config = secured.over_tls().with_sasl(Scram::sha512("alice", "alice-secret"));
    let client = Client::connect(config).await.unwrap();
    let (from, to) = (unique("secured-in"), unique("secured-out"));
    let topics = [NewTopic::new(&from, 2), NewTopic::new(&to, 2)];
    client.admin().create_topics(&topics, Duration::from_secs(20)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.properties");
    let properties = format!(
        "# as Java's tools take it\nsecurity.protocol=SASL_SSL\nsasl.mechanism: SCRAM-SHA-512\n\
         ssl.truststore.location={}\nssl.truststore.password={PASSWORD}\n\
         sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n  \
         username=\"alice\" password=\"alice-secret\";\n",
        secured.path("trust.jks")
    );
    std::fs::write(&file, properties).unwrap();
    let bootstrap = secured.0.bootstrap(Listener::SaslSsl);
    let (file, state) = (file.display().to_string(), folder.path().join("state").display().to_string());
    let copy = |more: &[&str]| {
        let words =
            ["copy", "--checkpoint-interval", "100ms", "-b", &bootstrap, "-F", &file, "--from", &from];
        let rest = ["--to", &to, "--checkpoint-dir", &state];
        words.iter().chain(&rest).chain(more).map(|&word| word.to_owned()).collect::<Vec<String>>()
    };
    let committed = async || {
        let mut seen = Vec::new();
        for partition in 0..2 {
            seen.extend(records::values(&client, &to, partition, Isolation::ReadCommitted).await);
        }
        seen
    };
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, from, done) = (client.clone(), from.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
            let mut count = 0_u32;
            while !done.load(Ordering::SeqCst) {
                let value = count.to_string();
                let _ticket =
                    producer.send(ProducerRecord::to(from.as_str()).value(value.as_bytes())).await.unwrap();
                count += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            producer.close(Duration::from_secs(20)).await.unwrap();
            count
        })
    };
    for life in 0..3 {
        let before = committed().await.len();
        let mut job = cli::start(copy(&[])).await;
        let began = Instant::now();
        // Each life gets to commit something, and is killed in the middle of what comes next.
        while job.try_wait().unwrap().is_none() && committed().await.len() == before {
            assert!(began.elapsed() < Duration::from_secs(90), "life {life} commits nothing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(job.try_wait().unwrap().is_none(), "life {life} ended: {:?}", cli::end(job).await);
        job.kill().await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let count = writer.await.unwrap();
    cli::run(copy(&["--until-end"]), "").await.good();
    let mut seen: Vec<u32> = committed().await.iter().map(|value| value.parse().unwrap()).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..count), "{} records of {count}, not each once", seen.len());
    println!("{count} records over SASL_SSL, each once, past three kills");
    client.close(Duration::from_secs(10)).await.unwrap();
}

/// A token that alice asks the broker for lets in who has it (KIP-48), as alice, until it expires.
async fn delegation_tokens(secured: &Secured) {
    use milena::protocol::messages::{CreateDelegationTokenRequest, ExpireDelegationTokenRequest};
    let alice =
        Client::connect(secured.over_tls().with_sasl(Scram::sha256("alice", "alice-secret"))).await.unwrap();
    let request = CreateDelegationTokenRequest::default().with_max_lifetime_ms(-1);
    let token = alice.call(milena::Target::Controller, &request).await.unwrap();
    assert_eq!(token.error_code, 0, "{token:?}");
    let hmac = base64::engine::general_purpose::STANDARD.encode(&token.hmac);
    let by_token = |hash, hmac: &str| {
        let password = ScramPassword::delegation_token(token.token_id.to_string(), hmac);
        secured.over_tls().with_sasl(Scram::new(hash, password))
    };
    // Brokers of KRaft learn of a token as they learn of a topic.
    let began = Instant::now();
    while let Err(error) = Client::connect(by_token(ScramHash::Sha256, &hmac)).await {
        assert!(began.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    works("a delegation token", by_token(ScramHash::Sha256, &hmac)).await;
    works("a delegation token", by_token(ScramHash::Sha512, &hmac)).await;
    let jaas = format!(
        "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"{}\" password=\"{hmac}\" tokenauth=\"true\";",
        token.token_id
    );
    let by_java_s_names = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-256"),
        ("sasl.jaas.config", &jaas),
        ("ssl.truststore.location", &secured.path("trust.p12")),
        ("ssl.truststore.password", PASSWORD),
    ];
    works("tokenauth", secured.properties(Listener::SaslSsl, &by_java_s_names)).await;
    let words = ["SCRAM-SHA-256", "check the user name"];
    refused("another HMAC", by_token(ScramHash::Sha256, "Z2VoZWlt"), &words).await;
    // Without tokenauth it is a password, of a user that nobody knows.
    let plain = Scram::sha256(token.token_id.to_string(), hmac.as_str());
    refused("a token as a password", secured.over_tls().with_sasl(plain), &words).await;
    let request =
        ExpireDelegationTokenRequest::default().with_hmac(token.hmac.clone()).with_expiry_time_period_ms(-1);
    let expired = alice.call(milena::Target::Controller, &request).await.unwrap();
    assert_eq!(expired.error_code, 0, "{expired:?}");
    let began = Instant::now();
    while Client::connect(by_token(ScramHash::Sha256, &hmac)).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "an expired token lets in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused("a token that was ended", by_token(ScramHash::Sha256, &hmac), &words).await;
}

/// GSSAPI on both listeners; what else it can is tested in `kerberos_broker`.
async fn kerberos(secured: &Secured) {
    let Some(options) = secured.kerberos() else {
        println!("no Kerberos on this machine: GSSAPI is left out");
        return;
    };
    let config = secured.config(Listener::SaslPlaintext).with_sasl(Kerberos::new(options.clone()));
    works("GSSAPI", config).await;
    works("GSSAPI over TLS", secured.over_tls().with_sasl(Kerberos::new(options.clone()))).await;
    let wrong = KerberosOptions::with_password("alice", "geheim");
    let wrong = KerberosOptions { config_files: options.config_files.clone(), ..wrong };
    let config = secured.over_tls().with_sasl(Kerberos::new(wrong));
    refused("a wrong password", config, &["key or password of alice@TEST.MILENA is wrong"]).await;
    let nobody = KerberosOptions { principal: Some("nobody".to_owned()), ..options };
    let config = secured.over_tls().with_sasl(Kerberos::new(nobody));
    refused("no key", config, &["no key of nobody@TEST.MILENA; it has alice@TEST.MILENA"]).await;
}

/// bob is known to the broker and may do nothing.
async fn denials_are_told_by_resource(secured: &Secured) {
    let topic = unique("secret-topic");
    let owner = Client::connect(secured.config(Listener::Plaintext)).await.unwrap();
    owner.admin().create_topics(&[NewTopic::new(&topic, 1)], Duration::from_secs(20)).await.unwrap();
    let bob = secured.config(Listener::SaslPlaintext).with_sasl(Plain::new("bob", "bob-secret"));
    let bob = Client::connect(bob.with_api_timeout(Duration::from_secs(20))).await.unwrap();
    let error = bob.topic(&topic).await.unwrap_err();
    // Brokers before 0.11 do not even say that there is such a topic.
    let (code, word) = match secured.is_at_least("0.11.0.0") {
        true => (ErrorCode::TOPIC_AUTHORIZATION_FAILED, "DESCRIBE"),
        false => (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "check the topic's name"),
    };
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.to_string().contains(&topic) && error.to_string().contains(word), "{error}");
    let error = bob.group("secret-group").fetch(None, false).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GROUP_AUTHORIZATION_FAILED), "{error}");
    assert!(error.to_string().contains("secret-group"), "{error}");
    // The rest of the client goes on.
    bob.metadata(Some(&[])).await.unwrap();
    // Before 0.11 nobody is granted anything over the wire.
    if secured.is_at_least("0.11.0.0") {
        one_topic_of_two_is_denied(&owner, &bob).await;
    }
}

/// Requests for two topics of which one may be read and written and the other only looked at.
async fn one_topic_of_two_is_denied(owner: &Client, bob: &Client) {
    let (open, shut) = (unique("open"), unique("shut"));
    let topics = [NewTopic::new(&open, 1), NewTopic::new(&shut, 1)];
    owner.admin().create_topics(&topics, Duration::from_secs(20)).await.unwrap();
    // Kafka's numbers of resources (topic, cluster) and operations (READ, WRITE, DESCRIBE, IDEMPOTENT_WRITE).
    for (kind, name, operation) in
        [(2, open.as_str(), 3), (2, &open, 4), (2, &open, 8), (2, &shut, 8), (4, "kafka-cluster", 12)]
    {
        grant(owner, kind, name, operation).await;
    }
    let began = Instant::now();
    while bob.topic(&open).await.is_err() || bob.topic(&shut).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "what was granted is denied");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let denied = |error: &milena::Error, topic: &str, lacks: &str| {
        assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED), "{error}");
        let text = error.to_string();
        assert!(text.contains(topic) && text.contains(lacks) && text.contains("grant"), "{text}");
    };
    let producer = Producer::new(bob, ProducerConfig::default()).unwrap();
    let send =
        async |topic: &str| producer.send(ProducerRecord::to(topic).partition(0).value(b"x")).await.unwrap();
    let tickets = [send(&open).await, send(&shut).await, send(&open).await];
    let [first, refused, second] = tickets;
    first.await.unwrap();
    second.await.unwrap();
    denied(&refused.await.unwrap_err(), &shut, "WRITE");
    send(&open).await.await.unwrap();
    // Who closes is told of what was not written.
    denied(&producer.close(Duration::from_secs(10)).await.unwrap_err(), &shut, "WRITE");
    let from = [&open, &shut].map(|topic| FetchFrom::new(TopicPartition::new(topic.as_str(), 0), Offset(0)));
    let mut answers = bob.fetcher().fetch(&from, &FetchOptions::default()).await.unwrap();
    answers.sort_by_key(|fetched| fetched.error.is_some());
    let mut count = 0;
    answers[0].for_each_record(|_| count += 1).unwrap();
    assert_eq!(count, 3);
    denied(answers[1].error.as_ref().unwrap(), &shut, "READ");
    let topics = [NewTopic::new(unique("new"), 1)];
    let answers = bob.admin().create_topics(&topics, Duration::from_secs(20)).await.unwrap();
    let text = answers[0].1.as_ref().unwrap_err().to_string();
    assert!(text.contains("grant this principal CREATE on"), "{text}");
}

async fn grant(owner: &Client, kind: i8, name: &str, operation: i8) {
    use milena::protocol::StrBytes;
    use milena::protocol::messages::{CreateAclsRequest, create_acls_request::AclCreation};
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let creation = AclCreation::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_resource_pattern_type(3)
        .with_principal(text("User:bob"))
        .with_host(text("*"))
        .with_operation(operation)
        .with_permission_type(3);
    let request = CreateAclsRequest::default().with_creations(vec![creation]);
    let answer = owner.call(milena::Target::Controller, &request).await.unwrap();
    assert!(answer.results.iter().all(|result| result.error_code == 0), "{answer:?}");
}

/// Tokens and authentications of six seconds, renewed under load across their ends.
async fn re_authentication_fails_no_request(secured: &Secured) {
    #[derive(Debug)]
    struct Short(Arc<AtomicU64>);
    impl milena::sasl::TokenSource for Short {
        fn token(&self) -> milena::transport::BoxFuture<'_, milena::Result<BearerToken>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { UnsecuredToken::new("oauth", REAUTH).token().await })
        }
    }
    let tokens = Arc::new(AtomicU64::new(0));
    let refresh = RefreshPolicy { least: Duration::ZERO, buffer: Duration::ZERO, ..RefreshPolicy::default() };
    let oauth = OAuthBearer::new(Short(Arc::clone(&tokens))).with_refresh(refresh);
    let by_token = secured.config(Listener::OAuth).with_sasl(oauth);
    let by_password = secured.over_tls().with_sasl(Scram::sha256("alice", "alice-secret"));
    tokio::join!(goes_on("tokens", by_token, LASTS), goes_on("passwords", by_password, LASTS));
    assert!(tokens.load(Ordering::SeqCst) >= 3, "the token was renewed {tokens:?} times");
}
