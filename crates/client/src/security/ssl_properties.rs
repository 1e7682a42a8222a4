//! `ssl.*`.

use super::SecurityProperties;
use crate::error::{Error, Result};
use crate::tls::{Identity, Store, StoreFormat, StoreSource, TlsConfig, TlsVersions, Trust};

/// Settings of Java's TLS that mean nothing to another one.
const MEANINGLESS: [&str; 4] = [
    "ssl.keymanager.algorithm",
    "ssl.protocol",
    "ssl.secure.random.implementation",
    "ssl.trustmanager.algorithm",
];

/// Settings that name Java classes.
const JAVA_ONLY: [&str; 3] = ["security.providers", "ssl.engine.factory.class", "ssl.provider"];

pub(super) fn tls(properties: &SecurityProperties) -> Result<TlsConfig> {
    for name in JAVA_ONLY {
        if properties.text(name).is_some_and(|value| !value.is_empty()) {
            return Err(Error::misuse(format!("{name} names something of Java, which is not here"))
                .with_remedy("leave it out; other cryptography is passed as TlsConfig::provider"));
        }
    }
    for name in MEANINGLESS {
        if properties.get(name).is_some() {
            tracing::warn!(name, "this setting means nothing here and is ignored");
        }
    }
    Ok(TlsConfig {
        trust: trust(properties)?,
        identity: identity(properties)?,
        verify_host_name: verify_host_name(properties)?,
        versions: versions(properties)?,
        cipher_suites: properties.list("ssl.cipher.suites"),
        ..TlsConfig::default()
    })
}

fn trust(properties: &SecurityProperties) -> Result<Trust> {
    if let Some(path) = properties.text("ssl.ca.location") {
        return Ok(Trust::Store(Store::pem_file(path)));
    }
    if let Some(pem) = properties.get("ssl.truststore.certificates") {
        return Ok(Trust::Store(Store::pem(pem.clone())));
    }
    let Some(path) = properties.text("ssl.truststore.location") else { return Ok(Trust::System) };
    Ok(Trust::Store(Store {
        format: format(properties, "ssl.truststore.type")?,
        source: StoreSource::File(path.into()),
        password: properties.get("ssl.truststore.password").cloned(),
    }))
}

fn identity(properties: &SecurityProperties) -> Result<Option<Identity>> {
    let key_password = properties.get("ssl.key.password").cloned();
    if let Some(path) = properties.text("ssl.certificate.location") {
        let key = properties.text("ssl.key.location").map(Store::pem_file);
        return Ok(Some(Identity { store: Store::pem_file(path), key, key_password }));
    }
    let chain = properties.get("ssl.keystore.certificate.chain");
    let key = properties.get("ssl.keystore.key");
    match (chain, key) {
        (Some(chain), Some(key)) => {
            let (store, key) = (Store::pem(chain.clone()), Some(Store::pem(key.clone())));
            return Ok(Some(Identity { store, key, key_password }));
        }
        (None, None) => {}
        _ => {
            return Err(Error::misuse(
                "ssl.keystore.certificate.chain and ssl.keystore.key go together, and one is missing",
            ));
        }
    }
    let Some(path) = properties.text("ssl.keystore.location") else { return Ok(None) };
    let store = Store {
        format: format(properties, "ssl.keystore.type")?,
        source: StoreSource::File(path.into()),
        password: properties.get("ssl.keystore.password").cloned(),
    };
    Ok(Some(Identity { store, key: None, key_password }))
}

fn format(properties: &SecurityProperties, name: &str) -> Result<StoreFormat> {
    match properties.text(name).map(str::to_ascii_uppercase).as_deref() {
        // Java's JKS opens PKCS#12 too.
        None | Some("JKS") => Ok(StoreFormat::Auto),
        Some("PKCS12") => Ok(StoreFormat::Pkcs12),
        Some("PEM") => Ok(StoreFormat::Pem),
        Some(other) => Err(Error::misuse(format!("{name} is {other:?}"))
            .with_remedy("use JKS, PKCS12 or PEM; convert others with keytool -importkeystore")),
    }
}

fn verify_host_name(properties: &SecurityProperties) -> Result<bool> {
    let name = "ssl.endpoint.identification.algorithm";
    match properties.text(name).map(str::to_ascii_lowercase).as_deref() {
        None | Some("https") => Ok(true),
        Some("" | "none") => Ok(false),
        Some(other) => Err(Error::misuse(format!("{name} is {other:?}"))
            .with_remedy("use https, or nothing to leave host names unverified")),
    }
}

fn versions(properties: &SecurityProperties) -> Result<TlsVersions> {
    let name = "ssl.enabled.protocols";
    let wanted = properties.list(name);
    if wanted.is_empty() {
        return Ok(TlsVersions::Both);
    }
    let has = |version: &str| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(version));
    match (has("TLSv1.2"), has("TLSv1.3")) {
        (true, true) => Ok(TlsVersions::Both),
        (true, false) => Ok(TlsVersions::Tls12),
        (false, true) => Ok(TlsVersions::Tls13),
        (false, false) => Err(Error::misuse(format!("{name} is {}", wanted.join(",")))
            .with_remedy("use TLSv1.2, TLSv1.3, or both")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls_of(settings: &[(&str, &str)]) -> Result<TlsConfig> {
        let mut properties = SecurityProperties::default();
        for (name, value) in settings {
            assert!(properties.take(name, value), "{name}");
        }
        tls(&properties)
    }

    #[test]
    fn host_names_are_verified_unless_nothing_is_named_in_so_many_words() {
        let name = "ssl.endpoint.identification.algorithm";
        assert!(tls_of(&[]).unwrap().verify_host_name);
        for (value, verified) in
            [("https", true), ("HTTPS", true), ("", false), (" ", false), ("none", false)]
        {
            assert_eq!(tls_of(&[(name, value)]).unwrap().verify_host_name, verified, "{value:?}");
        }
        for wrong in ["ldaps", "http", "false"] {
            assert!(tls_of(&[(name, wrong)]).unwrap_err().to_string().contains(name), "{wrong}");
        }
    }

    #[test]
    fn a_trust_store_that_is_named_is_the_only_one() {
        assert!(matches!(tls_of(&[]).unwrap().trust, Trust::System));
        for (name, value) in [
            ("ssl.truststore.location", "/a"),
            ("ssl.truststore.certificates", "pem"),
            ("ssl.ca.location", "/a"),
        ] {
            assert!(matches!(tls_of(&[(name, value)]).unwrap().trust, Trust::Store(_)), "{name}");
        }
        assert!(tls_of(&[("ssl.certificate.location", "/a")]).unwrap().identity.is_some());
        assert_eq!(tls_of(&[("ssl.enabled.protocols", "TLSv1.3")]).unwrap().versions, TlsVersions::Tls13);
    }
}
