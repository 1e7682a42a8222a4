//! The cryptography under TLS, and whether this processor has what it takes.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use super::TlsConfig;
use crate::error::{Error, ErrorKind, Result};

/// The provider to use, without the cipher suites that are not wanted.
pub(super) fn of(config: &TlsConfig) -> Result<Arc<CryptoProvider>> {
    let provider = match &config.provider {
        Some(provider) => Arc::clone(provider),
        None => default()?,
    };
    if config.cipher_suites.is_empty() {
        return Ok(provider);
    }
    let known: Vec<String> =
        provider.cipher_suites.iter().filter_map(|suite| suite.suite().as_str().map(iana)).collect();
    for wanted in &config.cipher_suites {
        if !known.contains(wanted) {
            return Err(Error::misuse(format!("the cipher suite {wanted} is not known"))
                .with_remedy(format!("use some of {}", known.join(", "))));
        }
    }
    let mut some = (*provider).clone();
    some.cipher_suites.retain(|suite| {
        suite.suite().as_str().is_some_and(|name| config.cipher_suites.contains(&iana(name)))
    });
    Ok(Arc::new(some))
}

/// rustls names TLS 1.3 suites `TLS13_..`, everyone else `TLS_..`.
fn iana(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}

#[cfg(feature = "tls-aws-lc")]
fn default() -> Result<Arc<CryptoProvider>> {
    Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc")))]
fn default() -> Result<Arc<CryptoProvider>> {
    Ok(Arc::new(rustls::crypto::ring::default_provider()))
}

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(feature = "tls-ring", feature = "tls-aws-lc"))
))]
fn default() -> Result<Arc<CryptoProvider>> {
    match lacking(&instructions()) {
        Some(error) => Err(error),
        None => Ok(Arc::new(rustls_graviola::default_provider())),
    }
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    feature = "tls-ring",
    feature = "tls-aws-lc"
)))]
fn default() -> Result<Arc<CryptoProvider>> {
    Err(Error::new(
        ErrorKind::Unsupported,
        "graviola, the default cryptography for TLS, runs on x86_64 and aarch64 only",
    )
    .with_remedy(OTHER))
}

/// What to do on a machine that graviola does not run on.
const OTHER: &str = "pass another rustls CryptoProvider in TlsConfig::provider, or build with the feature tls-ring or tls-aws-lc";

/// What graviola cannot do without, and whether this processor has it. It panics where something is missing, so it is asked first.
#[cfg(target_arch = "x86_64")]
#[cfg_attr(any(feature = "tls-ring", feature = "tls-aws-lc"), allow(dead_code))]
fn instructions() -> Vec<(&'static str, bool)> {
    use std::arch::is_x86_feature_detected as has;
    vec![
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("bmi1", has!("bmi1")),
        ("bmi2", has!("bmi2")),
        ("adx", has!("adx")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
    ]
}

/// As for x86_64.
#[cfg(target_arch = "aarch64")]
#[cfg_attr(any(feature = "tls-ring", feature = "tls-aws-lc"), allow(dead_code))]
fn instructions() -> Vec<(&'static str, bool)> {
    use std::arch::is_aarch64_feature_detected as has;
    vec![("aes", has!("aes")), ("sha2", has!("sha2")), ("pmull", has!("pmull")), ("neon", has!("neon"))]
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[cfg_attr(any(feature = "tls-ring", feature = "tls-aws-lc"), allow(dead_code))]
fn lacking(instructions: &[(&'static str, bool)]) -> Option<Error> {
    let missing: Vec<&str> =
        instructions.iter().filter(|(_, present)| !present).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return None;
    }
    let text = format!(
        "this processor cannot run graviola, the default cryptography for TLS: it lacks {}",
        missing.join(", ")
    );
    Some(Error::new(ErrorKind::Unsupported, text).with_remedy(OTHER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_an_instruction_is_told_by_its_name() {
        let error = lacking(&[("aes", true), ("adx", false), ("bmi2", false)]).unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("lacks adx, bmi2;") && text.contains("CryptoProvider"), "{text}");
        assert!(lacking(&[("aes", true)]).is_none());
    }

    #[test]
    fn the_cryptography_is_that_of_the_feature() {
        let wanted = match () {
            () if cfg!(feature = "tls-aws-lc") => "AwsLcRs",
            () if cfg!(feature = "tls-ring") => "Ring",
            () => "RngProvider",
        };
        assert_eq!(format!("{:?}", default().unwrap().secure_random), wanted);
    }

    #[test]
    fn cipher_suites_go_by_their_iana_names() {
        let with =
            |name: &str| of(&TlsConfig { cipher_suites: vec![name.to_owned()], ..TlsConfig::default() });
        assert_eq!(with("TLS_AES_128_GCM_SHA256").unwrap().cipher_suites.len(), 1);
        let error = with("TLS_NULL_WITH_NULL_NULL").unwrap_err();
        assert!(error.to_string().contains("TLS_AES_256_GCM_SHA384"), "{error}");
    }
}
