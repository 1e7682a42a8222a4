//! A real broker with a listener of each security protocol, and the certificates, users, principals and keys for it.
//!
//! | listener | protocol | who gets in |
//! |---|---|---|
//! | [`Listener::Ssl`] | TLS | everyone |
//! | [`Listener::SslEc`], from 1.0 on | TLS with an ECDSA certificate | everyone |
//! | [`Listener::SslExpired`], from 1.0 on | TLS with a certificate that has expired | everyone who does not mind |
//! | [`Listener::SslAuth`] | TLS | who shows a certificate of the test authority; before 1.0 also who shows none |
//! | [`Listener::SaslPlaintext`], [`Listener::SaslSsl`] | SASL without and with TLS | PLAIN and SCRAM of `alice` and `bob`, GSSAPI of `alice` |
//! | [`Listener::OAuth`] | SASL without TLS, from 2.0 on | OAUTHBEARER with unsecured tokens |
//! | [`Listener::Jwks`] | SASL without TLS, from 4.0 on | OAUTHBEARER with tokens by `jwt.key`, audience `kafka`, issuer `issuer.test` |
//!
//! Passwords are `alice-secret` and `bob-secret`, those of stores [`Certificates::PASSWORD`]. Where there is an MIT Kerberos, `alice` is also a
//! principal, and the broker is `kafka/localhost`.

use std::fs;
use std::path::{Path, PathBuf};

use super::certificates::Certificates;
use super::error::{KafkaError, KafkaErrorKind};
use super::jvm::ExtraListener;
use super::kdc::{Kdc, KdcOptions};
use super::options::{KafkaOptions, Route};
use super::version::KafkaVersion;
use super::{Engine, Kafka, is_demanded, settings};

/// A listener of a [`SecuredKafka`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Without security.
    Plaintext,
    /// TLS.
    Ssl,
    /// TLS with an ECDSA certificate.
    SslEc,
    /// TLS with a certificate that has expired.
    SslExpired,
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
    version: KafkaVersion,
    listeners: Vec<(Listener, u16)>,
    certificates: Certificates,
    kdc: Option<Kdc>,
}

impl SecuredKafka {
    /// Starts a broker on a JVM (0.10.2 or later), and a KDC if this machine has one. `properties` go over everything else.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] without jars, Java or openssl, and without an MIT Kerberos where tests must not be skipped;
    /// [`KafkaErrorKind::Start`] when it does not come up.
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start(version: &str, properties: &[(&str, &str)]) -> Result<Self, KafkaError> {
        let version: KafkaVersion = version.parse()?;
        version.jars()?;
        let certificates = Certificates::make().await?;
        let kdc = match start_kdc().await {
            Ok(kdc) => Some(kdc),
            Err(error) if error.kind() == KafkaErrorKind::Absent && !is_demanded() => None,
            Err(error) => return Err(error),
        };
        let mut options = KafkaOptions::from_env()?.version(&version.to_string())?.route(Route::Jvm);
        let mut listeners = Vec::new();
        for (listener, name, protocol) in listeners_of(version)? {
            let port = settings::free_port()?;
            listeners.push((listener, port));
            options.listeners.push(ExtraListener { name, protocol, port });
        }
        for (name, value) in broker_properties(version, &certificates, kdc.is_some())? {
            options = options.property(&name, value);
        }
        for (name, value) in properties {
            options = options.property(name, value);
        }
        write_jaas(certificates.folder(), kdc.as_ref())?;
        let file = |name: &str| certificates.file(name).display().to_string();
        let (jaas, jwks) = (file("broker.jaas"), file("jwks.json"));
        options.jvm_options = vec![
            format!("-Djava.security.auth.login.config={jaas}"),
            format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{jwks}"),
            format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={jwks}"),
        ];
        let realms =
            kdc.iter().map(|kdc| format!("-Djava.security.krb5.conf={}", kdc.configuration().display()));
        options.jvm_options.extend(realms);
        for (user, mechanism) in USERS.iter().flat_map(|user| SCRAM.map(|mechanism| (user, mechanism))) {
            let scram = format!("{mechanism}=[name={user},password={user}-secret]");
            options.format_arguments.extend(["--add-scram".to_owned(), scram]);
        }
        let kafka = options.start().await?;
        if !version.runs_kraft()
            && let Engine::Jvm(node) = &kafka.engine
        {
            node.add_scram_users(&USERS, &SCRAM).await?;
        }
        Ok(Self { kafka, version, listeners, certificates, kdc })
    }

    /// The broker behind the listeners.
    #[must_use]
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// The broker's version.
    #[must_use]
    pub fn version(&self) -> KafkaVersion {
        self.version
    }

    /// The KDC, if this machine has one. `alice` has a key in `client.keytab` of its folder.
    #[must_use]
    pub fn kdc(&self) -> Option<&Kdc> {
        self.kdc.as_ref()
    }

    /// Whether this version of Kafka has a listener.
    #[must_use]
    pub fn has(&self, listener: Listener) -> bool {
        listener == Listener::Plaintext || self.listeners.iter().any(|(known, _)| *known == listener)
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
        let Some((_, port)) = found else { panic!("Kafka {} has no {listener:?}", self.version) };
        format!("localhost:{port}")
    }

    /// The certificates, keys and stores.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// One of [`Certificates`]' files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.certificates.file(name)
    }
}

const USERS: [&str; 2] = ["alice", "bob"];
const SCRAM: [&str; 2] = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
const SECURITY: &str = "org.apache.kafka.common.security";

fn listeners_of(version: KafkaVersion) -> Result<Vec<(Listener, &'static str, &'static str)>, KafkaError> {
    let mut listeners = vec![
        (Listener::Ssl, "SSL", "SSL"),
        (Listener::SslAuth, "SSLAUTH", "SSL"),
        (Listener::SaslPlaintext, "SASLP", "SASL_PLAINTEXT"),
        (Listener::SaslSsl, "SASLS", "SASL_SSL"),
    ];
    if has_own_settings(version)? {
        listeners.push((Listener::SslEc, "SSLEC", "SSL"));
        listeners.push((Listener::SslExpired, "SSLEXPIRED", "SSL"));
    }
    if version >= "2.0.0".parse()? {
        listeners.push((Listener::OAuth, "OAUTH", "SASL_PLAINTEXT"));
    }
    if version >= "4.0.0".parse()? {
        listeners.push((Listener::Jwks, "JWKS", "SASL_PLAINTEXT"));
    }
    Ok(listeners)
}

/// Whether each listener has settings of its own (`listener.name.x.`).
fn has_own_settings(version: KafkaVersion) -> Result<bool, KafkaError> {
    Ok(version >= "1.0.0".parse()?)
}

fn broker_properties(
    version: KafkaVersion,
    certificates: &Certificates,
    has_kdc: bool,
) -> Result<Vec<(String, String)>, KafkaError> {
    let file = |name: &str| certificates.file(name).display().to_string();
    let password = || Certificates::PASSWORD.to_owned();
    let oauth = format!("{SECURITY}.oauthbearer.OAuthBearerLoginModule required;");
    let validator = format!("{SECURITY}.oauthbearer.OAuthBearerValidatorCallbackHandler");
    let mut mechanisms = vec!["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
    mechanisms.extend(has_kdc.then_some("GSSAPI"));
    let authorizer = if version.runs_kraft() {
        "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    } else if version >= "2.4.0".parse()? {
        "kafka.security.authorizer.AclAuthorizer"
    } else {
        "kafka.security.auth.SimpleAclAuthorizer"
    };
    let client_auth = if has_own_settings(version)? { "none" } else { "requested" };
    let pairs = [
        ("ssl.client.auth", client_auth.to_owned()),
        ("authorizer.class.name", authorizer.to_owned()),
        ("super.users", "User:ANONYMOUS;User:alice;User:CN=client;User:oauth".to_owned()),
        // The first name is that of 2.8 and later.
        ("delegation.token.secret.key", "a secret of the broker".to_owned()),
        ("delegation.token.master.key", "a secret of the broker".to_owned()),
        ("ssl.keystore.type", "PKCS12".to_owned()),
        ("ssl.keystore.location", file("broker.p12")),
        ("ssl.keystore.password", password()),
        ("ssl.key.password", password()),
        ("ssl.truststore.type", "PKCS12".to_owned()),
        ("ssl.truststore.location", file("trust.p12")),
        ("ssl.truststore.password", password()),
        ("listener.name.sslec.ssl.keystore.location", file("broker-ec.p12")),
        ("listener.name.sslexpired.ssl.keystore.location", file("expired.p12")),
        ("listener.name.sslauth.ssl.client.auth", "required".to_owned()),
        ("sasl.enabled.mechanisms", mechanisms.join(",")),
        ("sasl.kerberos.service.name", "kafka".to_owned()),
        // The usual rule asks Java for its default realm, which 1.x on a JDK 17 is not told.
        ("sasl.kerberos.principal.to.local.rules", "RULE:[1:$1],RULE:[2:$1],DEFAULT".to_owned()),
        ("listener.name.oauth.sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
        ("listener.name.oauth.oauthbearer.sasl.jaas.config", oauth.clone()),
        ("listener.name.jwks.sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
        ("listener.name.jwks.oauthbearer.sasl.jaas.config", oauth),
        ("listener.name.jwks.oauthbearer.sasl.server.callback.handler.class", validator),
        ("listener.name.jwks.sasl.oauthbearer.jwks.endpoint.url", format!("file://{}", file("jwks.json"))),
        ("listener.name.jwks.sasl.oauthbearer.expected.audience", "kafka".to_owned()),
        ("listener.name.jwks.sasl.oauthbearer.expected.issuer", "issuer.test".to_owned()),
    ];
    Ok(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

async fn start_kdc() -> Result<Kdc, KafkaError> {
    let kdc = Kdc::start(&KdcOptions::default()).await?;
    kdc.add_principal("kafka/localhost", None).await?;
    kdc.add_principal("alice", Some("alice-secret")).await?;
    kdc.keytab("kafka/localhost", "broker.keytab").await?;
    kdc.keytab("alice", "client.keytab").await?;
    Ok(kdc)
}

/// The broker's login modules. The one of Kerberos goes first: Kafka asks the first one for the principal.
fn write_jaas(folder: &Path, kdc: Option<&Kdc>) -> Result<(), KafkaError> {
    let kerberos = kdc.map_or_else(String::new, |kdc| {
        format!(
            " com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab=\"{}\" \
             principal=\"kafka/localhost@{}\";\n",
            kdc.folder().join("broker.keytab").display(),
            kdc.realm()
        )
    });
    let jaas = format!(
        "KafkaServer {{\n{kerberos} {SECURITY}.plain.PlainLoginModule required user_alice=\"alice-secret\" user_bob=\"bob-secret\";\n \
         {SECURITY}.scram.ScramLoginModule required;\n}};\n"
    );
    fs::write(folder.join("broker.jaas"), jaas).map_err(|error| KafkaError::system("broker.jaas", error))
}
