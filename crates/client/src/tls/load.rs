//! From settings and files to what rustls needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use milena_core::sasl::Secret;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, version};

use super::verifier::Verifier;
use super::{Identity, Store, TlsConfig, TlsVersions, Trust, provider};
use crate::error::{Error, Result};

/// Reads all stores. Blocks on files.
pub(super) fn load(config: &TlsConfig) -> Result<Arc<ClientConfig>> {
    let provider = provider::of(config)?;
    let (roots, pinned) = trusted(&config.trust)?;
    let verifier = Verifier::new(&provider, roots, pinned, config.verify_host_name).map_err(Error::misuse)?;
    let versions: &[&rustls::SupportedProtocolVersion] = match config.versions {
        TlsVersions::Both => &[&version::TLS13, &version::TLS12],
        TlsVersions::Tls12 => &[&version::TLS12],
        TlsVersions::Tls13 => &[&version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| Error::misuse(format!("no cipher suite fits the versions of TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let tls = match &config.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = own(identity)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::misuse(format!(
                    "the key in {} cannot be used: {error}",
                    identity.key.as_ref().unwrap_or(&identity.store).name()
                ))
                .with_remedy(
                    "use an RSA key, or an elliptic one on P-256 or P-384, that belongs to the certificate",
                )
            })?
        }
    };
    Ok(Arc::new(tls))
}

fn trusted(trust: &Trust) -> Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(Error::misuse(format!(
                    "the system has no trusted certificates {}",
                    why.join("; ")
                ))
                .with_remedy("set a trust store (ssl.truststore.location), or install ca-certificates"));
            }
            Ok((roots, Vec::new()))
        }
        Trust::Store(store) => {
            let contents = store.open(None)?;
            let mut pinned = contents.trusted;
            if pinned.is_empty() {
                // A key store that is used as a trust store: its chain's end is what it stands for.
                pinned.extend(contents.chain.into_iter().last());
            }
            if pinned.is_empty() {
                return Err(Error::misuse(format!("{} holds no certificate to trust", store.name())));
            }
            let (added, _) = roots.add_parsable_certificates(pinned.iter().cloned());
            if added == 0 {
                return Err(Error::misuse(format!("no certificate in {} can be read", store.name())));
            }
            Ok((roots, pinned))
        }
    }
}

fn own(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, rustls::pki_types::PrivateKeyDer<'static>)> {
    let password = identity.key_password.as_ref();
    let contents = identity.store.open(password)?;
    let (key, place) = match &identity.key {
        None => (contents.key, &identity.store),
        Some(store) => (store.open(password)?.key, store),
    };
    if contents.chain.is_empty() {
        return Err(Error::misuse(format!("{} holds no certificate of ours", identity.store.name())));
    }
    let key = key.ok_or_else(|| Error::misuse(format!("{} holds no private key", place.name())))?;
    Ok((contents.chain, key.0.clone_key()))
}

/// The files that a configuration reads, with the time each was last changed.
pub(super) fn stamps(config: &TlsConfig) -> Vec<(PathBuf, Option<SystemTime>)> {
    let trust = match &config.trust {
        Trust::Store(store) => store.path(),
        Trust::System => None,
    };
    let identity = config.identity.as_ref();
    let chain = identity.and_then(|identity| identity.store.path());
    let key = identity.and_then(|identity| identity.key.as_ref()).and_then(|store| store.path());
    let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    [trust, chain, key].into_iter().flatten().map(|path| (path.clone(), changed(path))).collect()
}

/// Signs `message` for a JWT with the key in a PEM file. Blocks on the file.
///
/// # Errors
/// [`ErrorKind::Misuse`](crate::ErrorKind::Misuse) for a key that cannot be read or does not fit the algorithm.
pub(crate) fn sign_jwt(
    path: &Path,
    password: Option<&Secret>,
    algorithm: &str,
    message: &[u8],
) -> Result<Vec<u8>> {
    let scheme = match algorithm {
        "RS256" => SignatureScheme::RSA_PKCS1_SHA256,
        "ES256" => SignatureScheme::ECDSA_NISTP256_SHA256,
        other => {
            return Err(Error::misuse(format!("tokens cannot be signed by {other:?}"))
                .with_remedy("use RS256 or ES256"));
        }
    };
    let store = Store::pem_file(path);
    let wrong = |why: String| Error::misuse(format!("the key in {} cannot be used: {why}", path.display()));
    let key = store.open(password)?.key.ok_or_else(|| wrong("there is none".to_owned()))?;
    let provider = provider::of(&TlsConfig::default())?;
    let key = provider
        .key_provider
        .load_private_key(key.0.clone_key())
        .map_err(|error| wrong(error.to_string()))?;
    let signer =
        key.choose_scheme(&[scheme]).ok_or_else(|| wrong(format!("it is no key for {algorithm}")))?;
    let signature = signer.sign(message).map_err(|error| wrong(error.to_string()))?;
    match algorithm {
        "ES256" => fixed_width(&signature).ok_or_else(|| wrong("it signs in an unknown way".to_owned())),
        _ => Ok(signature),
    }
}

/// From `SEQUENCE { INTEGER r, INTEGER s }` to both in 32 bytes each, as JWTs have it (RFC 7518, 3.4).
fn fixed_width(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, _, rest @ ..] = der else { return None };
    let mut rest = rest;
    let mut signature = Vec::with_capacity(64);
    for _ in 0..2 {
        let [0x02, length, after @ ..] = rest else { return None };
        let (number, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        let digits = number.iter().skip_while(|byte| **byte == 0).count();
        signature.extend(std::iter::repeat_n(0, 32usize.checked_sub(digits)?));
        signature.extend(number.iter().skip(number.len() - digits));
    }
    Some(signature)
}
