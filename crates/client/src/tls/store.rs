//! Stores of certificates and keys: PEM, PKCS#12, JKS.

use std::path::PathBuf;

use milena_core::sasl::Secret;
use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{effort, jks, pem};
use crate::error::{Error, Result};

/// The largest store read, in bytes.
const MAX_STORE: u64 = 16 << 20;

/// Where certificates or keys come from.
#[derive(Clone, Debug)]
pub struct Store {
    /// How they are written.
    pub format: StoreFormat,
    /// Where they are.
    pub source: StoreSource,
    /// What the store is locked with. `None` for PEM; a PKCS#12 or JKS trust store opens without one, unchecked.
    pub password: Option<Secret>,
}

/// How certificates and keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFormat {
    /// Text between BEGIN and END lines.
    Pem,
    /// PKCS#12 (`.p12`, `.pfx`): what OpenSSL and Java since 9 write.
    Pkcs12,
    /// Java's own format before 9.
    Jks,
    /// Whichever of those it looks like.
    Auto,
}

/// Where a store is.
#[derive(Clone, Debug)]
pub enum StoreSource {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// In memory.
    Bytes(Secret),
}

impl Store {
    /// A PEM file.
    pub fn pem_file(path: impl Into<PathBuf>) -> Self {
        Self { format: StoreFormat::Pem, source: StoreSource::File(path.into()), password: None }
    }

    /// PEM text.
    pub fn pem(text: impl Into<Secret>) -> Self {
        Self { format: StoreFormat::Pem, source: StoreSource::Bytes(text.into()), password: None }
    }

    /// A PKCS#12 file and its password.
    pub fn pkcs12_file(path: impl Into<PathBuf>, password: impl Into<Secret>) -> Self {
        Self {
            format: StoreFormat::Pkcs12,
            source: StoreSource::File(path.into()),
            password: Some(password.into()),
        }
    }

    /// A JKS file and its password.
    pub fn jks_file(path: impl Into<PathBuf>, password: impl Into<Secret>) -> Self {
        Self {
            format: StoreFormat::Jks,
            source: StoreSource::File(path.into()),
            password: Some(password.into()),
        }
    }

    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        match &self.source {
            StoreSource::File(path) => Some(path),
            StoreSource::Bytes(_) => None,
        }
    }

    /// What messages call it.
    pub(super) fn name(&self) -> String {
        match &self.source {
            StoreSource::File(path) => path.display().to_string(),
            StoreSource::Bytes(_) => "the store given in memory".to_owned(),
        }
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>> {
        let path = match &self.source {
            StoreSource::Bytes(bytes) => return Ok(Zeroizing::new(bytes.expose().to_vec())),
            StoreSource::File(path) => path,
        };
        let wrong = |error: std::io::Error| Error::misuse(format!("cannot read {}: {error}", path.display()));
        let size = std::fs::metadata(path).map_err(wrong)?.len();
        if size > MAX_STORE {
            return Err(Error::misuse(format!("{} is {size} bytes long; that is no store", path.display())));
        }
        Ok(Zeroizing::new(std::fs::read(path).map_err(wrong)?))
    }

    /// Reads it.
    pub(super) fn open(&self, key_password: Option<&Secret>) -> Result<Contents> {
        let bytes = self.bytes()?;
        let key_password = key_password.or(self.password.as_ref());
        let format = match self.format {
            StoreFormat::Auto => guess(&bytes).unwrap_or(StoreFormat::Pem),
            format => format,
        };
        let contents = match format {
            StoreFormat::Pem => pem::read(&bytes, key_password),
            StoreFormat::Pkcs12 => pkcs12(&bytes, self.password.as_ref()),
            StoreFormat::Jks | StoreFormat::Auto => jks::read(&bytes, self.password.as_ref(), key_password),
        };
        contents.map_err(|fault| {
            let hint = match (format, guess(&bytes)) {
                (said, Some(is)) if said != is => format!("; it looks like {is:?}, not {said:?}"),
                _ => String::new(),
            };
            Error::misuse(format!("cannot read {}: {fault}{hint}", self.name()))
        })
    }
}

/// What a store held.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Certificates to trust.
    pub(super) trusted: Vec<CertificateDer<'static>>,
    /// Certificates with a key: the chain, from the leaf on.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Option<Key>,
}

/// A private key, wiped when dropped.
pub(super) struct Key(pub(super) PrivateKeyDer<'static>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

fn pkcs12(bytes: &[u8], password: Option<&Secret>) -> std::result::Result<Contents, String> {
    let password = password.and_then(Secret::expose_text).unwrap_or_default();
    effort::check(bytes)?;
    let store = KeyStore::from_pkcs12(bytes, password, Pkcs12ImportPolicy::Relaxed)
        .map_err(|error| format!("{error} (is the password right?)"))?;
    let der = |certificate: &p12_keystore::Certificate| CertificateDer::from(certificate.as_der().to_vec());
    let mut contents = Contents::default();
    for (_, entry) in store.entries() {
        match entry {
            KeyStoreEntry::Certificate(certificate) => contents.trusted.push(der(certificate)),
            KeyStoreEntry::PrivateKeyChain(chain) if contents.key.is_none() => {
                contents.chain = chain.certs().iter().map(der).collect();
                let key = PrivateKeyDer::Pkcs8(chain.key().as_der().to_vec().into());
                contents.key = Some(Key(key));
            }
            _ => {}
        }
    }
    Ok(contents)
}

/// What a file looks like.
fn guess(bytes: &[u8]) -> Option<StoreFormat> {
    if bytes.starts_with(&jks::MAGIC) {
        Some(StoreFormat::Jks)
    } else if bytes.starts_with(&[0x30]) {
        Some(StoreFormat::Pkcs12)
    } else if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        Some(StoreFormat::Pem)
    } else {
        None
    }
}
