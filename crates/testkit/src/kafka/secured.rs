//! A real broker with a listener of each security protocol, and the certificates, users and keys for it.
//!
//! | listener | protocol | who gets in |
//! |---|---|---|
//! | [`Listener::Ssl`] | TLS | everyone |
//! | [`Listener::SslAuth`] | TLS | who shows a certificate of the test authority |
//! | [`Listener::SaslPlaintext`], [`Listener::SaslSsl`] | SASL without and with TLS | PLAIN and SCRAM of `alice` and `bob` |
//! | [`Listener::OAuth`] | SASL without TLS, from 2.0 on | OAUTHBEARER with unsecured tokens |
//! | [`Listener::Jwks`] | SASL without TLS, from 4.0 on | OAUTHBEARER with tokens by `jwt.key`, audience `kafka`, issuer `issuer.test` |
//!
//! Passwords are `alice-secret` and `bob-secret`, those of stores [`SecuredKafka::STORE_PASSWORD`]. The names of the broker's
//! certificate are `localhost` and 127.0.0.1. Everything is made by `openssl` and Java's `keytool`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::{KafkaError, KafkaErrorKind};
use super::jvm::ExtraListener;
use super::options::{KafkaOptions, Route};
use super::version::KafkaVersion;
use super::{Engine, Kafka, settings};

/// A listener of a [`SecuredKafka`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Without security.
    Plaintext,
    /// TLS.
    Ssl,
    /// TLS with client certificates.
    SslAuth,
    /// SASL in the clear.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
    /// OAUTHBEARER with unsecured tokens.
    OAuth,
    /// OAUTHBEARER with signed tokens.
    Jwks,
}

/// The broker. It ends with this value, and its files go too.
#[derive(Debug)]
pub struct SecuredKafka {
    kafka: Kafka,
    listeners: Vec<(Listener, u16)>,
    files: Files,
}

#[derive(Debug)]
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl SecuredKafka {
    /// The password of every store and of the keys in them.
    pub const STORE_PASSWORD: &'static str = "changeit";

    /// Starts a broker on a JVM. `properties` go over everything else.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] without jars, Java or openssl; [`KafkaErrorKind::Start`] when it does not come up.
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start(version: &str, properties: &[(&str, &str)]) -> Result<Self, KafkaError> {
        let number: KafkaVersion = version.parse()?;
        number.jars()?;
        let files = Files(folder()?);
        make_files(&files.0).await?;
        let mut options = KafkaOptions::from_env()?.version(version)?.route(Route::Jvm);
        let mut listeners = vec![
            (Listener::Ssl, "SSL", "SSL"),
            (Listener::SslAuth, "SSLAUTH", "SSL"),
            (Listener::SaslPlaintext, "SASLP", "SASL_PLAINTEXT"),
            (Listener::SaslSsl, "SASLS", "SASL_SSL"),
        ];
        if number >= "2.0.0".parse()? {
            listeners.push((Listener::OAuth, "OAUTH", "SASL_PLAINTEXT"));
        }
        if number >= "4.0.0".parse()? {
            listeners.push((Listener::Jwks, "JWKS", "SASL_PLAINTEXT"));
        }
        let mut ports = Vec::new();
        for (listener, name, protocol) in listeners {
            let port = settings::free_port()?;
            ports.push((listener, port));
            options.listeners.push(ExtraListener { name, protocol, port });
        }
        for (name, value) in broker_properties(&files.0) {
            options = options.property(&name, value);
        }
        for (name, value) in properties {
            options = options.property(name, value);
        }
        let file = |name: &str| files.0.join(name).display().to_string();
        let (jaas, jwks) = (file("broker.jaas"), file("jwks.json"));
        options.jvm_options = vec![
            format!("-Djava.security.auth.login.config={jaas}"),
            format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{jwks}"),
            format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={jwks}"),
        ];
        for (user, mechanism) in USERS.iter().flat_map(|user| SCRAM.map(|mechanism| (user, mechanism))) {
            let scram = format!("{mechanism}=[name={user},password={user}-secret]");
            options.format_arguments.extend(["--add-scram".to_owned(), scram]);
        }
        let kafka = options.start().await?;
        if !number.runs_kraft()
            && let Engine::Jvm(node) = &kafka.engine
        {
            node.add_scram_users(&USERS, &SCRAM).await?;
        }
        Ok(Self { kafka, listeners: ports, files })
    }

    /// The broker behind the listeners.
    #[must_use]
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// The address of a listener, by the name in the broker's certificate.
    ///
    /// # Panics
    /// If this version of Kafka has no such listener.
    #[must_use]
    pub fn bootstrap(&self, listener: Listener) -> String {
        if listener == Listener::Plaintext {
            return self.kafka.bootstrap().to_owned();
        }
        let found = self.listeners.iter().find(|(known, _)| *known == listener);
        let Some((_, port)) = found else { panic!("Kafka {} has no {listener:?}", self.kafka.version()) };
        format!("localhost:{port}")
    }

    /// A file: `ca.pem`, `other-ca.pem`, `trust.p12`, `trust.jks`; of the client `client.key`, `client.pem` (its chain),
    /// `client-encrypted.key`, `client.p12`, `client.jks`, and `stranger-all.pem` of another authority; `jwt.key`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.0.join(name)
    }
}

const USERS: [&str; 2] = ["alice", "bob"];
const SCRAM: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
const SECURITY: &str = "org.apache.kafka.common.security";

fn broker_properties(files: &Path) -> Vec<(String, String)> {
    let file = |name: &str| files.join(name).display().to_string();
    let oauth = format!("{SECURITY}.oauthbearer.OAuthBearerLoginModule required;");
    let validator = format!("{SECURITY}.oauthbearer.OAuthBearerValidatorCallbackHandler");
    let pairs = [
        ("ssl.keystore.type", "PKCS12".to_owned()),
        ("ssl.keystore.location", file("broker.p12")),
        ("ssl.keystore.password", SecuredKafka::STORE_PASSWORD.to_owned()),
        ("ssl.key.password", SecuredKafka::STORE_PASSWORD.to_owned()),
        ("ssl.truststore.type", "PKCS12".to_owned()),
        ("ssl.truststore.location", file("trust.p12")),
        ("ssl.truststore.password", SecuredKafka::STORE_PASSWORD.to_owned()),
        ("listener.name.sslauth.ssl.client.auth", "required".to_owned()),
        ("sasl.enabled.mechanisms", format!("PLAIN,{}", SCRAM.join(","))),
        ("listener.name.oauth.sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
        ("listener.name.oauth.oauthbearer.sasl.jaas.config", oauth.clone()),
        ("listener.name.jwks.sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
        ("listener.name.jwks.oauthbearer.sasl.jaas.config", oauth),
        ("listener.name.jwks.oauthbearer.sasl.server.callback.handler.class", validator),
        ("listener.name.jwks.sasl.oauthbearer.jwks.endpoint.url", format!("file://{}", file("jwks.json"))),
        ("listener.name.jwks.sasl.oauthbearer.expected.audience", "kafka".to_owned()),
        ("listener.name.jwks.sasl.oauthbearer.expected.issuer", "issuer.test".to_owned()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn folder() -> Result<PathBuf, KafkaError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("milena-secured-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| KafkaError::system("a folder for certificates", error))?;
    Ok(folder)
}

/// Authorities, certificates, stores, the users of PLAIN, and a key for tokens.
async fn make_files(folder: &Path) -> Result<(), KafkaError> {
    let jaas = format!(
        "KafkaServer {{\n {SECURITY}.plain.PlainLoginModule required user_alice=\"alice-secret\" user_bob=\"bob-secret\";\n \
         {SECURITY}.scram.ScramLoginModule required;\n}};\n"
    );
    fs::write(folder.join("broker.jaas"), jaas).map_err(|error| KafkaError::system("broker.jaas", error))?;
    let mut command = Command::new("sh");
    command.args(["-ec", SCRIPT]).current_dir(folder).stdin(Stdio::null());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.map_err(|error| KafkaError::system("sh", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    let kind = if output.status.code() == Some(77) { KafkaErrorKind::Absent } else { KafkaErrorKind::Start };
    Err(KafkaError::new(kind, format!("no certificates for a secured broker: {said}")))
}

const SCRIPT: &str = r#"
for tool in openssl keytool; do command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }; done
P=changeit
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth' > ext
for ca in ca other-ca; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=test-$ca -keyout $ca.key -out $ca.pem 2>log
done
sign() {
  openssl req -newkey rsa:2048 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr 2>log
  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 3650 -extfile ext -out $1-own.pem 2>log
  cat $1-own.pem $2.pem > $1.pem
  cat $1.key $1.pem > $1-all.pem
}
sign broker ca; sign client ca; sign stranger other-ca
for n in broker client; do openssl pkcs12 -export -in $n-own.pem -inkey $n.key -certfile ca.pem -name $n -passout pass:$P -out $n.p12; done
openssl pkcs8 -topk8 -in client.key -passout pass:$P -out client-encrypted.key
for t in p12:PKCS12 jks:JKS; do
  keytool -importcert -noprompt -alias ca -file ca.pem -keystore trust.${t%:*} -storetype ${t#*:} -storepass $P 2>log
done
keytool -importkeystore -noprompt -srckeystore client.p12 -srcstoretype PKCS12 -srcstorepass $P -destkeystore client.jks -deststoretype JKS -deststorepass $P 2>log
openssl genrsa -out jwt.key 2048 2>log
# The modulus: hexadecimal to octal escapes, and those to bytes, with what every system has.
n=$(printf "$(openssl rsa -in jwt.key -noout -modulus | cut -d= -f2 | awk '{ h = "0123456789ABCDEF"; for (i = 1; i < length($0); i += 2) { b = (index(h, substr($0, i, 1)) - 1) * 16 + index(h, substr($0, i + 1, 1)) - 1; printf "\\%03o", b } }')" | openssl base64 -A | tr '+/' '-_' | tr -d '=')
printf '{"keys":[{"kty":"RSA","kid":"k1","use":"sig","alg":"RS256","n":"%s","e":"AQAB"}]}' "$n" > jwks.json
"#;
