//! A real broker that lets clients in by Kerberos, with its KDC.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::KafkaError;
use super::jvm::ExtraListener;
use super::kdc::{Kdc, KdcOptions};
use super::options::{KafkaOptions, Route};
use super::{Kafka, settings};

/// A broker with a listener for Kerberos over SASL_PLAINTEXT, and its KDC, which knows `kafka/localhost`, `alice` (password `secret`) and
/// `brief`, whose tickets last 6 s. Where the broker can end sessions (2.2 and later), it does so after 4 s.
#[derive(Debug)]
pub struct GuardedKafka {
    // The broker goes before its KDC.
    kafka: Kafka,
    kdc: Kdc,
    keytab: PathBuf,
    port: u16,
}

impl GuardedKafka {
    /// Starts both on a JVM, the broker in the version that the environment names (0.10 and later).
    ///
    /// # Errors
    /// As [`Kdc::start`] and [`Kafka::obtain`].
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start() -> Result<Self, KafkaError> {
        let kdc = Kdc::start(&KdcOptions::default()).await?;
        kdc.add_principal("kafka/localhost", None).await?;
        kdc.add_principal("alice", Some("secret")).await?;
        kdc.add_principal("brief", None).await?;
        kdc.admin(kdc.realm(), "modprinc -maxlife 6seconds brief").await?;
        let service = kdc.keytab("kafka/localhost", "broker.keytab").await?;
        kdc.keytab("alice", "client.keytab").await?;
        let keytab = kdc.keytab("brief", "client.keytab").await?;
        let jaas = kdc.folder().join("jaas.conf");
        let text = format!(
            "KafkaServer {{\n  com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true\n  \
             keyTab=\"{}\" principal=\"kafka/localhost@{}\";\n}};\n",
            service.display(),
            kdc.realm()
        );
        fs::write(&jaas, text).map_err(|error| KafkaError::system("jaas.conf", error))?;
        let mut options = KafkaOptions::from_env()?
            .route(Route::Jvm)
            .property("sasl.enabled.mechanisms", "GSSAPI")
            .property("sasl.kerberos.service.name", "kafka")
            // The usual rule asks Java for its default realm, which 1.x on a JDK 17 is not told.
            .property("sasl.kerberos.principal.to.local.rules", "RULE:[1:$1],RULE:[2:$1],DEFAULT")
            .property("connections.max.reauth.ms", 4000);
        let port = settings::free_port()?;
        let protocol = "SASL_PLAINTEXT";
        options.listeners.push(ExtraListener { name: protocol, protocol, port });
        options.jvm_options = vec![
            format!("-Djava.security.krb5.conf={}", kdc.configuration().display()),
            format!("-Djava.security.auth.login.config={}", jaas.display()),
        ];
        let kafka = options.start().await?;
        Ok(Self { kafka, kdc, keytab, port })
    }

    /// The broker.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Its KDC.
    pub fn kdc(&self) -> &Kdc {
        &self.kdc
    }

    /// The keytab of alice and brief.
    pub fn keytab(&self) -> &Path {
        &self.keytab
    }

    /// Where the listener for Kerberos is.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }
}
