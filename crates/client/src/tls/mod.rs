//! TLS 1.2 and 1.3 to brokers: what is trusted, who we are, and connections made over it.
//!
//! The default cryptography is graviola: Rust with inline assembly, no C. A processor that it cannot serve gets an error that
//! names the missing instructions; [`TlsConfig::provider`] takes any other rustls provider, and the features `tls-ring` and `tls-aws-lc`
//! bring two.
//!
//! ```
//! use milena::ClientConfig;
//! use milena::tls::{Store, TlsConfig, Trust};
//!
//! let tls = TlsConfig { trust: Trust::Store(Store::pem_file("/etc/kafka/ca.pem")), ..TlsConfig::default() };
//! let config = ClientConfig::new(["localhost:9093"]).with_tls(tls);
//! ```

mod certificate;
mod dialer;
mod effort;
mod fault;
mod jks;
mod load;
mod pem;
mod provider;
mod sniff;
mod store;
mod verifier;

use std::sync::Arc;

use milena_core::sasl::Secret;
pub use rustls::crypto::CryptoProvider;

pub use store::{Store, StoreFormat, StoreSource};

use crate::error::Result;

pub(crate) use dialer::TlsDialer;
pub(crate) use fault::{cleared_up, explain, is_unintelligible};
pub(crate) use load::sign_jwt;
pub(crate) use sniff::{speaks_plaintext_kafka, speaks_tls};

/// How TLS is used. The default trusts what the system trusts, checks the broker's name, and shows no certificate.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Whose certificates are trusted. Default: the system's. Kafka: `ssl.truststore.*`.
    pub trust: Trust,
    /// The certificate and key shown to brokers that ask for one. Default: none. Kafka: `ssl.keystore.*`, `ssl.key.password`.
    pub identity: Option<Identity>,
    /// Whether the broker's certificate must name the host that was connected to. Default `true`; `false` lets everyone with a trusted
    /// certificate stand in for the broker, and is logged as a warning with each client. Kafka: `ssl.endpoint.identification.algorithm`
    /// (`https`, or empty).
    pub verify_host_name: bool,
    /// The name to ask for (SNI) and to find in the certificate, where it is not the host's. Default: the host's name.
    pub server_name: Option<String>,
    /// The versions that may be used. Default: 1.2 and 1.3. Kafka: `ssl.enabled.protocols`.
    pub versions: TlsVersions,
    /// The cipher suites that may be used, by their IANA names; empty for all the provider has. Kafka: `ssl.cipher.suites`.
    pub cipher_suites: Vec<String>,
    /// The cryptography. `None` is graviola.
    pub provider: Option<Arc<CryptoProvider>>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            trust: Trust::System,
            identity: None,
            verify_host_name: true,
            server_name: None,
            versions: TlsVersions::Both,
            cipher_suites: Vec::new(),
            provider: None,
        }
    }
}

impl TlsConfig {
    /// Reads the stores and sees whether they can be used, as the first connection would. Blocks on files and on the derivation of
    /// keys from passwords.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for what cannot be read or does not fit together,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) on a processor that the cryptography does not run on.
    pub fn check(&self) -> Result<()> {
        load::load(self).map(drop)
    }
}

/// Whose certificates are trusted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// Those in this store, and no others.
    Store(Store),
}

/// A certificate of ours with its key. Files are read again when they change, so that a renewed certificate is used by the
/// connections made after; if the new ones cannot be read, the old ones stay, with a warning.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where the certificate chain is, and the key unless `key` says otherwise.
    pub store: Store,
    /// Where the key is, for a PEM certificate whose key is in a file of its own.
    pub key: Option<Store>,
    /// What the key is encrypted with. Default: the store's password (PKCS#12, JKS), or not encrypted (PEM).
    pub key_password: Option<Secret>,
}

impl Identity {
    /// Chain and key from one store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, key: None, key_password: None }
    }

    /// The same with the password of the key.
    #[must_use]
    pub fn with_key_password(mut self, password: impl Into<Secret>) -> Self {
        self.key_password = Some(password.into());
        self
    }
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}
