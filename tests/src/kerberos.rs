//! What tests of Kerberos share.

use milena::ClientConfig;
use milena::sasl::{Kerberos, KerberosOptions};
use milena_testkit::kafka::{GuardedKafka, Kdc, KdcOptions, or_skip};

/// A KDC; `None` if the test is to be skipped.
///
/// # Panics
/// If there is none and CI or `MILENA_REQUIRE_KAFKA=1` demands one.
pub async fn kdc(options: &KdcOptions) -> Option<Kdc> {
    or_skip(Kdc::start(options).await)
}

/// A broker that lets clients in by Kerberos; `None` if the test is to be skipped.
///
/// # Panics
/// As [`kdc`].
pub async fn guarded() -> Option<GuardedKafka> {
    or_skip(GuardedKafka::start().await)
}

/// These options with this KDC's configuration.
pub fn configured(kdc: &Kdc, options: KerberosOptions) -> KerberosOptions {
    KerberosOptions { config_files: Some(vec![kdc.configuration()]), ..options }
}

/// The options of this principal with the broker's keytab of clients.
pub fn keytab_of(guarded: &GuardedKafka, principal: &str) -> KerberosOptions {
    let keytab = KerberosOptions::with_keytab(guarded.keytab().display().to_string());
    KerberosOptions { principal: Some(principal.to_owned()), ..configured(guarded.kdc(), keytab) }
}

/// A client's configuration with these credentials.
pub fn config(guarded: &GuardedKafka, options: KerberosOptions) -> ClientConfig {
    ClientConfig::new([guarded.address()]).with_sasl(Kerberos::new(options))
}
