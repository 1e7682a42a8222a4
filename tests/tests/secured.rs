//! The client on a real Kafka with every security protocol: who belongs there gets in and works, who does not is told why.
//!
//! Old releases: `MILENA_KAFKA_VERSION=2.8.2 cargo test -p milena-tests --test secured -- --include-ignored`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use milena::sasl::{BearerToken, FileToken, OAuthBearer, Plain, RefreshPolicy, Scram, UnsecuredToken};
use milena::tls::{Identity, Store, TlsConfig, TlsVersions, Trust};
use milena::{
    Client, ClientConfig, ErrorCode, ErrorKind, FetchFrom, FetchOptions, NewTopic, Offset, Producer,
    ProducerConfig, ProducerRecord, TopicPartition,
};
use milena_connector::runtime::{CheckpointConfig, Job, JobConfig, JobControl};
use milena_connector::schema::{StringDeserializer, StringSerializer};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{KafkaSource, StartFrom, StopAt};
use milena_testkit::kafka::{Listener, NEWEST, SecuredKafka, or_skip};
use milena_tests::unique;

const PASSWORD: &str = SecuredKafka::STORE_PASSWORD;

/// How long an authentication is good for on the broker of these tests: each connection that lives longer renews it.
const REAUTH: Duration = Duration::from_secs(6);

struct Secured(SecuredKafka);

impl Secured {
    fn config(&self, listener: Listener) -> ClientConfig {
        ClientConfig::new([self.0.bootstrap(listener)])
    }

    fn trusting(&self) -> TlsConfig {
        TlsConfig { trust: Trust::Store(Store::pem_file(self.0.file("ca.pem"))), ..TlsConfig::default() }
    }

    fn showing(&self, identity: Identity) -> ClientConfig {
        let tls = TlsConfig { identity: Some(identity), ..self.trusting() };
        self.config(Listener::SslAuth).with_tls(tls)
    }

    fn properties(&self, listener: Listener, properties: &[(&str, &str)]) -> ClientConfig {
        let bootstrap = self.0.bootstrap(listener);
        let all = [("bootstrap.servers", bootstrap.as_str())].into_iter().chain(properties.iter().copied());
        let (config, unknown) = ClientConfig::from_properties(all).unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        config
    }

    fn path(&self, name: &str) -> String {
        self.0.file(name).display().to_string()
    }
}

/// Writes a record and reads it back.
async fn works(what: &str, config: ClientConfig) {
    let outcome = async {
        let client = Client::connect(config).await?;
        let topic = unique("secured");
        client.admin().create_topics(&[NewTopic::new(&topic, 1)], Duration::from_secs(20)).await?;
        let producer = Producer::new(&client, ProducerConfig::default())?;
        let written =
            producer.send(ProducerRecord::to(topic.as_str()).partition(0).value(b"it works")).await?.await?;
        let from =
            FetchFrom::new(TopicPartition::new(topic.as_str(), 0), written.offset.unwrap_or(Offset(0)));
        let mut read = Vec::new();
        for fetched in client.fetcher().fetch(&[from], &FetchOptions::default()).await? {
            fetched.for_each_record(|record| read.push(record.value.map(<[u8]>::to_vec)))?;
        }
        assert_eq!(read, [Some(b"it works".to_vec())], "{what}");
        producer.close(Duration::from_secs(10)).await?;
        client.close(Duration::from_secs(10)).await
    };
    outcome.await.unwrap_or_else(|error: milena::Error| panic!("{what}: {error}"));
}

/// Refused for good, with these words, sooner than anything times out.
async fn refused(what: &str, config: ClientConfig, words: &[&str]) {
    let began = Instant::now();
    let error = Client::connect(config).await.expect_err(what);
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Auth, "{what}: {text}");
    for word in words {
        assert!(text.contains(word), "{what}: {word:?} is not in: {text}");
    }
    assert!(!text.contains("geheim"), "{what}: {text}");
    assert!(began.elapsed() < Duration::from_secs(9), "{what} was tried for {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_kafka_lets_in_who_belongs_there_and_tells_the_others_why() {
    let reauth = REAUTH.as_millis().to_string();
    let properties = [
        ("connections.max.reauth.ms", reauth.as_str()),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("super.users", "User:ANONYMOUS;User:alice;User:CN=client;User:oauth"),
    ];
    let Some(secured) = or_skip(SecuredKafka::start(NEWEST, &properties).await) else { return };
    let secured = Secured(secured);
    passwords(&secured).await;
    certificates(&secured).await;
    tokens(&secured).await;
    other_security_protocols_are_recognised(&secured).await;
    exactly_once(&secured).await;
    denials_are_told_by_resource(&secured).await;
    re_authentication_fails_no_request(&secured).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes its own broker of an old version: `MILENA_KAFKA_VERSION=2.8.2` names it"]
async fn an_old_secured_kafka_lets_in_who_belongs_there() {
    let version = std::env::var("MILENA_KAFKA_VERSION").unwrap_or_else(|_| "2.8.2".to_owned());
    let Some(secured) = or_skip(SecuredKafka::start(&version, &[]).await) else { return };
    let secured = Secured(secured);
    passwords(&secured).await;
    let identity = Identity::new(Store::pem_file(secured.0.file("client-all.pem")));
    works("PEM key store", secured.showing(identity)).await;
    other_security_protocols_are_recognised(&secured).await;
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
    refused(
        "wrong mechanism",
        config,
        &["OAUTHBEARER", "it offers", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
    )
    .await;
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
    for versions in [TlsVersions::Tls12, TlsVersions::Tls13] {
        let tls = TlsConfig { versions, ..secured.trusting() };
        works("no client certificate", secured.config(Listener::Ssl).with_tls(tls)).await;
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
    let plain = secured.config(Listener::SslAuth).with_tls(secured.trusting());
    refused("no certificate", plain, &["client's certificate"]).await;
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

/// A token as the JWKS listener wants it, signed by openssl.
fn signed(folder: &Path, key: &str, audience: &str, lifetime: i64) -> String {
    let base64 = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let claims = format!(
        r#"{{"sub":"oauth","iss":"issuer.test","aud":"{audience}","iat":{},"exp":{}}}"#,
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

async fn tokens(secured: &Secured) {
    let unsecured = OAuthBearer::new(UnsecuredToken::new("oauth", Duration::from_secs(600)));
    works("an unsecured token", secured.config(Listener::OAuth).with_sasl(unsecured)).await;
    let folder = secured.0.file("ca.pem").parent().unwrap().to_owned();
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

async fn exactly_once(secured: &Secured) {
    let config = secured
        .config(Listener::SaslSsl)
        .with_tls(secured.trusting())
        .with_sasl(Scram::sha512("alice", "alice-secret"));
    let client = Client::connect(config.clone()).await.unwrap();
    let (from, to) = (unique("secured-in"), unique("secured-out"));
    let topics = [NewTopic::new(&from, 2), NewTopic::new(&to, 1)];
    client.admin().create_topics(&topics, Duration::from_secs(20)).await.unwrap();
    let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
    for number in 0..500 {
        let value = format!("{number}");
        let _ticket = producer.send(ProducerRecord::to(from.as_str()).value(value.as_bytes())).await.unwrap();
    }
    producer.close(Duration::from_secs(20)).await.unwrap();
    let source = KafkaSource::<String>::builder()
        .client(config.clone())
        .topics([from.as_str()])
        .start(StartFrom::Earliest)
        .bounded(StopAt::Latest)
        .deserializer(StringDeserializer)
        .build()
        .unwrap();
    let sink = KafkaSink::builder()
        .client(config)
        .delivery(Delivery::ExactlyOnce)
        .transactional_id_prefix(unique("secured"))
        .serializer(StringSerializer::new(to.as_str()))
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let job = JobConfig { checkpoint: CheckpointConfig::new(folder.path()), ..JobConfig::new("secured") };
    let report =
        Job::from_source(source).map(|text: String| text).to(sink).run(job, JobControl::new()).await.unwrap();
    assert_eq!(report.records_out, 500);
    let options = FetchOptions { isolation: milena::Isolation::ReadCommitted, ..FetchOptions::default() };
    let mut seen = std::collections::BTreeSet::new();
    let mut at = Offset(0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen.len() < 500 {
        assert!(Instant::now() < deadline, "{} of 500 records", seen.len());
        let from = FetchFrom::new(TopicPartition::new(to.as_str(), 0), at);
        for fetched in client.fetcher().fetch(&[from], &options).await.unwrap() {
            let next = fetched.for_each_record(|record| {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                assert!(seen.insert(value.parse::<u32>().unwrap()), "{value} twice");
            });
            next.unwrap();
            at = fetched.next_offset();
        }
    }
    client.close(Duration::from_secs(10)).await.unwrap();
}

/// bob is known to the broker and may do nothing.
async fn denials_are_told_by_resource(secured: &Secured) {
    let topic = unique("secret-topic");
    let owner = Client::connect(secured.config(Listener::Plaintext)).await.unwrap();
    owner.admin().create_topics(&[NewTopic::new(&topic, 1)], Duration::from_secs(20)).await.unwrap();
    let bob = secured.config(Listener::SaslPlaintext).with_sasl(Plain::new("bob", "bob-secret"));
    let bob = Client::connect(bob.with_api_timeout(Duration::from_secs(20))).await.unwrap();
    let error = bob.topic(&topic).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED), "{error}");
    assert!(error.to_string().contains(&topic) && error.to_string().contains("DESCRIBE"), "{error}");
    let error = bob.group("secret-group").fetch(None, false).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::GROUP_AUTHORIZATION_FAILED), "{error}");
    assert!(error.to_string().contains("secret-group"), "{error}");
    // The rest of the client goes on.
    bob.metadata(Some(&[])).await.unwrap();
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
    let by_password = secured
        .config(Listener::SaslSsl)
        .with_tls(secured.trusting())
        .with_sasl(Scram::sha256("alice", "alice-secret"));
    let loads = [("tokens", by_token), ("passwords", by_password)].map(|(what, config)| async move {
        let client = Client::connect(config).await.unwrap();
        let topic = unique("renewed");
        client.admin().create_topics(&[NewTopic::new(&topic, 1)], Duration::from_secs(20)).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicU64::new(0));
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (client, done, calls) = (client.clone(), Arc::clone(&done), Arc::clone(&calls));
                let topic = topic.clone();
                tokio::spawn(async move {
                    while !done.load(Ordering::SeqCst) {
                        // One try each: a failed request is not hidden by another.
                        let answer = client
                            .call(
                                milena::Target::Any,
                                &milena::protocol::messages::MetadataRequest::default(),
                            )
                            .await;
                        answer.unwrap_or_else(|error| panic!("{topic}: {error}"));
                        calls.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        let began = Instant::now();
        let mut tickets = Vec::new();
        while began.elapsed() < REAUTH * 2 + REAUTH / 2 {
            tickets.push(producer.send(ProducerRecord::to(topic.as_str()).value(b"x")).await.unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let sent = tickets.len();
        for ticket in tickets {
            ticket.await.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        done.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        let calls = calls.load(Ordering::SeqCst);
        println!("{what}: {calls} calls and {sent} records in {:?}, none failed", began.elapsed());
        producer.close(Duration::from_secs(10)).await.unwrap();
        client.close(Duration::from_secs(10)).await.unwrap();
    });
    futures_util::future::join_all(loads).await;
    assert!(tokens.load(Ordering::SeqCst) >= 3, "the token was renewed {tokens:?} times");
}
