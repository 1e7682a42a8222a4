//! Security settings on the command line: `-X` and `-F`, and what is said of those that are wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use milena::{ClientConfig, ConsumerConfig, ProducerConfig};
use milena_tests::Env;
use milena_tests::cli::run;
use milena_tests::java::{self, Java};

const SECRET: &str = "geheim";

/// Calls that are wrong, and words of what is said.
const WRONG: [(&[&str], &[&str]); 22] = [
    (&["security.protocol=TLS"], &["TLS", "use PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"]),
    (&["sasl.mechanizm=PLAIN"], &["sasl.mechanizm", "did you mean sasl.mechanism?"]),
    (&["ssl.truststore.pasword=geheim"], &["did you mean ssl.truststore.password?"]),
    (
        &["security.protocol=SASL_SSL", "sasl.mechanism=DIGEST-MD5"],
        &["DIGEST-MD5", "use GSSAPI, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM"],
    ),
    (
        &["security.protocol=SASL_SSL", "sasl.mechanism=PLAIN"],
        &["no username", "set sasl.jaas.config to", "PlainLoginModule required username=\"..\""],
    ),
    (
        &["security.protocol=SASL_SSL", "sasl.mechanism=PLAIN", "sasl.username=alice"],
        &["no password", "PlainLoginModule"],
    ),
    (
        &["security.protocol=SASL_SSL", "sasl.mechanism=SCRAM-SHA-256", "sasl.password=geheim"],
        &["no username", "ScramLoginModule required"],
    ),
    (
        &[
            "security.protocol=SASL_SSL",
            "sasl.mechanism=PLAIN",
            "sasl.jaas.config=a.PlainLoginModule required x=\"geheim\"",
        ],
        &["sasl.jaas.config"],
    ),
    (
        &[
            "security.protocol=SASL_SSL",
            "sasl.mechanism=PLAIN",
            "sasl.jaas.config=a.ScramLoginModule required username=\"a\" password=\"geheim\";",
        ],
        &["a.ScramLoginModule", "sasl.mechanism wants a PlainLoginModule"],
    ),
    (
        &["security.protocol=SASL_PLAINTEXT", "java.security.auth.login.config=/absent/jaas"],
        &["/absent/jaas"],
    ),
    (&["security.protocol=SASL_PLAINTEXT"], &["GSSAPI", "Krb5LoginModule required useKeyTab=true"]),
    (
        &["security.protocol=SASL_SSL", "sasl.mechanism=OAUTHBEARER"],
        &["nowhere to get a token from", "set sasl.oauthbearer.token.endpoint.url"],
    ),
    (
        &[
            "security.protocol=SASL_SSL",
            "sasl.mechanism=OAUTHBEARER",
            "sasl.oauthbearer.token.endpoint.url=https://localhost:1/token",
        ],
        &["no clientId and clientSecret", "put them into sasl.jaas.config"],
    ),
    (
        &[
            "security.protocol=SASL_SSL",
            "sasl.mechanism=OAUTHBEARER",
            "sasl.oauthbearer.token.endpoint.url=localhost",
            "sasl.oauthbearer.client.credentials.client.id=a",
            "sasl.oauthbearer.client.credentials.client.secret=geheim",
        ],
        &["\"localhost\" is no URL such as https://host/token"],
    ),
    (
        &[
            "security.protocol=SASL_SSL",
            "sasl.mechanism=PLAIN",
            "sasl.login.callback.handler.class=com.example.Vault",
        ],
        &["com.example.Vault", "a class of Java that is not here"],
    ),
    (
        &["security.protocol=SSL", "ssl.endpoint.identification.algorithm=LDAPS"],
        &["ssl.endpoint.identification.algorithm", "use https, or nothing"],
    ),
    (&["security.protocol=SSL", "ssl.enabled.protocols=SSLv3"], &["SSLv3", "use TLSv1.2, TLSv1.3, or both"]),
    (
        &["security.protocol=SSL", "ssl.truststore.location=/a", "ssl.truststore.type=BKS"],
        &["BKS", "use JKS, PKCS12 or PEM", "keytool -importkeystore"],
    ),
    (&["security.protocol=SSL", "ssl.keystore.key=geheim"], &["go together, and one is missing"]),
    (&["security.protocol=SSL", "ssl.provider=BC"], &["ssl.provider", "leave it out", "TlsConfig::provider"]),
    (
        &[
            "security.protocol=SASL_SSL",
            "sasl.mechanism=OAUTHBEARER",
            "sasl.login.refresh.window.factor=much",
            "sasl.jaas.config=a.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"a\";",
        ],
        &["sasl.login.refresh.window.factor", "must be a number"],
    ),
    (&["security.protocol"], &["KEY=VALUE"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_are_errors_that_say_what_to_do() {
    for (settings, words) in WRONG {
        // Once with -X and once in a file.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), settings.join("\n").replace('\\', "\\\\")).unwrap();
        let mut by_call = vec!["topics", "list", "-b", "localhost:1"];
        by_call.extend(settings.iter().flat_map(|setting| ["-X", setting]));
        let name = file.path().display().to_string();
        let by_file = vec!["topics", "list", "-b", "localhost:1", "-F", &name];
        let calls = if settings == ["security.protocol"] { vec![by_call] } else { vec![by_call, by_file] };
        for call in calls {
            // What clap refuses it shows as it was given, as programs do; the rest must not show a secret.
            let text = run(call, "").await.failed(2);
            for word in words {
                assert!(text.contains(word), "{settings:?}: {word:?} is not in: {text}");
            }
            assert!(!text.contains(SECRET), "{settings:?}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_found_wrong_while_connecting_says_what_to_do() {
    let missing = ["security.protocol=SSL", "ssl.truststore.location=/absent/trust.p12"];
    let env = Env::embedded().await;
    let at = env.bootstrap();
    let cases: [(&[&str], &[&str]); 3] = [
        (&missing, &["cannot read /absent/trust.p12"]),
        (
            &["security.protocol=SSL"],
            &["TLS was tried on a port that speaks plaintext Kafka", "security.protocol"],
        ),
        (
            &[
                "security.protocol=SASL_PLAINTEXT",
                "sasl.mechanism=PLAIN",
                "sasl.username=a",
                "sasl.password=geheim",
            ],
            &["authentication by PLAIN", "check the user name and the password"],
        ),
    ];
    for (settings, words) in cases {
        let mut call = vec!["-vv", "topics", "list", "-b", &at, "--timeout", "10s"];
        call.extend(settings.iter().flat_map(|setting| ["-X", setting]));
        let text = run(call, "").await.failed(1);
        for word in words {
            assert!(text.contains(word), "{settings:?}: {word:?} is not in: {text}");
        }
        assert!(!text.contains(SECRET), "{settings:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_java_is_taken_and_the_call_goes_before_it() {
    let env = Env::embedded().await;
    let (at, topic) = (env.bootstrap(), env.topic("by-file", 1).await);
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "# written for Java\n! and another comment\nbootstrap.servers=localhost:1\nsecurity.protocol : SSL\n\
                request.timeout.ms 20000\nclient.id=\\u006dine\n";
    std::fs::write(file.path(), text).unwrap();
    let name = file.path().display().to_string();
    let list = |more: &[&str]| {
        let call = ["topics", "list", "-b", &at, "--timeout", "10s", "-F", &name];
        call.iter().chain(more).map(|&word| word.to_owned()).collect::<Vec<_>>()
    };
    // The file's protocol is that of another port, until the call says otherwise.
    run(list(&[]), "").await.failed(1);
    let out = run(list(&["-X", "security.protocol=PLAINTEXT"]), "").await.good();
    assert!(out.lines().any(|line| line.trim() == topic), "{out}");
    let absent = run(["topics", "list", "-b", &at, "-F", "/absent/client.properties"], "").await.failed(2);
    assert!(absent.contains("cannot read /absent/client.properties"), "{absent}");
}

/// One file for all programs of a cluster, as it is given to Kafka's own tools.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_producers_and_consumers_share_serves_every_command() {
    let env = Env::embedded().await;
    let (at, topic) = (env.bootstrap(), env.topic("shared-file", 1).await);
    let file = tempfile::NamedTempFile::new().unwrap();
    let shared = "security.protocol=PLAINTEXT\nacks=all\nlinger.ms=5\nkey.serializer=org.apache.kafka.a.B\n\
                  group.id=shared\nmax.poll.records=10\nisolation.level=read_uncommitted\nmetrics.context.a=b\n";
    std::fs::write(file.path(), format!("{shared}schema.registry.url=http://a\n")).unwrap();
    let name = file.path().display().to_string();
    let common = |command: &[&str], more: &[&str]| -> Vec<String> {
        let all = command.iter().copied().chain(["-b", &at, "--timeout", "10s", "-F", &name]);
        all.chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let commands: [(&[&str], &str, &str); 3] = [
        (&["topics", "list"], "", &topic),
        (&["produce", "-t", &topic], "one\n", ""),
        (&["consume", "-t", &topic, "-e"], "", "one"),
    ];
    for (command, input, output) in commands {
        let outcome = run(common(command, &[]), input).await;
        let told = outcome.err.clone();
        let out = outcome.good();
        assert!(out.lines().any(|line| line.trim() == output) || output.is_empty(), "{command:?}: {out}");
        // What another program uses is passed over without a word, what nobody knows is warned of.
        assert!(told.contains("no such property") && told.contains("schema.registry.url"), "{told}");
        for known in shared.lines().filter_map(|line| line.split('=').next()) {
            assert!(!told.contains(known), "{command:?}, {known}: {told}");
        }
        // In the call it is a mistake, and a useless one is warned of.
        let text = run(common(command, &["-X", "schema.registry.url=http://a"]), "").await.failed(2);
        assert!(text.contains("no such property: schema.registry.url"), "{command:?}: {text}");
    }
    let told = run(common(&["topics", "list"], &["-X", "acks=all"]), "").await.err;
    assert!(told.contains("no use for this property") && told.contains("acks"), "{told}");
    // A value that is wrong is wrong for who uses it.
    std::fs::write(file.path(), "isolation.level=dirty\n").unwrap();
    run(common(&["topics", "list"], &[]), "").await.good();
    let text = run(common(&["consume", "-t", &topic, "-e"], &[]), "").await.failed(2);
    assert!(text.contains("isolation.level") && text.contains("dirty"), "{text}");
}

/// What Java's newest clients can be told is known here; what they are told by default can be written down; and a setting of security is
/// taken or refused by its name, never lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_setting_of_java_is_known_and_its_default_taken() {
    let Some(java) = Java::find().await else { return };
    let settings = java::settings(&java).await;
    assert!(
        settings.len() > 200 && settings.iter().any(|(name, _)| name == "sasl.oauthbearer.assertion.file")
    );
    let unknown: Vec<_> =
        settings.iter().filter(|(name, _)| !milena::security::is_known_property(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let own = [
        ("bootstrap.servers", "localhost:1"),
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.token.endpoint.url", "https://localhost:1"),
        ("sasl.oauthbearer.client.credentials.client.id", "a"),
        ("sasl.oauthbearer.client.credentials.client.secret", "b"),
    ];
    let defaults = settings.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    let all: Vec<_> = defaults.chain(own).collect();
    let (_, unknown) = ClientConfig::from_properties(all.iter().copied()).unwrap();
    let security = |name: &str| ["ssl.", "sasl.", "security."].iter().any(|start| name.starts_with(start));
    assert!(!unknown.iter().any(|name| security(name)), "{unknown:?}");
    ProducerConfig::from_properties(all.iter().copied()).unwrap();
    ConsumerConfig::from_properties(all.iter().copied()).unwrap();
    for name in settings.iter().map(|(name, _)| name.as_str()).filter(|name| security(name)) {
        if let Err(error) = ClientConfig::from_properties(own.into_iter().chain([(name, "odd value")])) {
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }
}
