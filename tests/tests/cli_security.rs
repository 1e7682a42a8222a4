//! Security settings on the command line: `-X` and `-F`, and what is said of those that are wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use milena_tests::Env;
use milena_tests::cli::run;

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
    // A producer's properties may stand in it, for who produces.
    std::fs::write(file.path(), "linger.ms=5\nacks=all\n").unwrap();
    run(["produce", "-b", &at, "-t", &topic, "--config-file", &name], "one\n").await.good();
    let text = run(list(&[]), "").await.failed(2);
    assert!(text.contains("no such property") && text.contains("acks"), "{text}");
    let absent = run(["topics", "list", "-b", &at, "-F", "/absent/client.properties"], "").await.failed(2);
    assert!(absent.contains("cannot read /absent/client.properties"), "{absent}");
}
