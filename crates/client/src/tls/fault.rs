//! What went wrong in TLS, in words a person can act on.

use std::fmt;
use std::io;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, Error};

use super::certificate::{Summary, Validity};
use crate::connection::{Failure, FailureKind};

/// Why a broker's certificate is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFault {
    pub(super) text: String,
    pub(super) remedy: &'static str,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CertificateFault {}

impl CertificateFault {
    pub(super) fn of(
        error: &CertificateError,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: SystemTime,
    ) -> Self {
        let summary = Summary::of(end_entity, now);
        let all = || std::iter::once(end_entity).chain(intermediates).filter_map(|der| Summary::of(der, now));
        let subject = summary.as_ref().map_or("(unreadable)", |summary| summary.subject.as_str());
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                let which = all().find(|summary| summary.is_valid == Validity::Over).or(summary);
                let (subject, until) = which.map(|one| (one.subject, one.until)).unwrap_or_default();
                Self {
                    text: format!(
                        "the broker's certificate {subject} has expired: it was valid until {until}"
                    ),
                    remedy: "have the broker's certificate renewed; if it should still be valid, check this machine's clock",
                }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                let which = all().find(|summary| summary.is_valid == Validity::NotYet).or(summary);
                let (subject, from) = which.map(|one| (one.subject, one.from)).unwrap_or_default();
                Self {
                    text: format!(
                        "the broker's certificate {subject} is not valid yet: it is from {from} on"
                    ),
                    remedy: "check this machine's clock",
                }
            }
            CertificateError::UnknownIssuer => {
                let (issuer, until) =
                    all().next_back().map(|last| (last.issuer, last.until)).unwrap_or_default();
                Self {
                    text: format!(
                        "the broker's certificate {subject} is signed by {issuer}, which is not trusted (it is valid until {until})"
                    ),
                    remedy: "add that authority's certificate, or the broker's own, to the trust store (ssl.truststore.location)",
                }
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let names = match summary.as_ref().map(|summary| summary.names.join(", ")) {
                    Some(names) if !names.is_empty() => names,
                    _ => "no host (it has no subject alternative name)".to_owned(),
                };
                Self {
                    text: format!(
                        "the broker's certificate {subject} is not for the host {}: it is for {names}",
                        server_name.to_str()
                    ),
                    remedy: "connect by a name that the certificate has, or have it issued for this one",
                }
            }
            other => Self {
                text: format!("the broker's certificate {subject} cannot be accepted: {other}"),
                remedy: "have the broker's certificate issued anew",
            },
        }
    }
}

/// What is said of an answer that is no TLS, before the port was looked at again.
const UNINTELLIGIBLE: &str = "the port's answer is not to be understood as TLS";

const NOT_TLS: &str =
    "use the broker's TLS listener, or set security.protocol to PLAINTEXT or SASL_PLAINTEXT";

/// Whether a failure is of an answer that could not be understood, so that the port is worth another look.
pub(crate) fn is_unintelligible(failure: &Failure) -> bool {
    failure.text.starts_with(UNINTELLIGIBLE)
}

/// What such an answer was, of a port that speaks TLS or does not. Kafka 2.8 and 1.1 on a JDK 17 send a buffer of zeros or of old bytes
/// where an alert belongs.
pub(crate) fn cleared_up(speaks_tls: bool) -> Failure {
    if !speaks_tls {
        return auth("the port does not speak TLS".to_owned(), NOT_TLS);
    }
    auth(
        "the broker refused the TLS handshake without an alert, as old releases do: it wants this client's certificate or another \
         one, or the two have no TLS in common"
            .to_owned(),
        "set a key store whose certificate the broker trusts (ssl.keystore.location), or allow TLS 1.2 or 1.3 on both sides \
         (ssl.enabled.protocols)",
    )
}

/// The failure of a connection over TLS, if TLS is what failed.
pub(crate) fn explain(error: &io::Error) -> Option<Failure> {
    let tls = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match tls {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<CertificateFault>() {
                Some(fault) => auth(fault.text.clone(), fault.remedy),
                None => auth(format!("the broker's certificate cannot be accepted: {other}"), NEW_ONE),
            }
        }
        // The signature of the handshake; that of the certificate was looked at before.
        Error::InvalidCertificate(CertificateError::BadSignature) => auth(
            "the other side does not have the key of its certificate: it is not the broker".to_owned(),
            "find out who listens on this port; on a broker of yours, give it the key that belongs to its certificate",
        ),
        Error::InvalidCertificate(error) => {
            auth(format!("the broker's certificate cannot be accepted: {error}"), NEW_ONE)
        }
        Error::AlertReceived(alert) => alert_failure(*alert),
        Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => {
            Failure::new(FailureKind::Peer, format!("{UNINTELLIGIBLE}: {tls}")).with_remedy(NOT_TLS)
        }
        Error::PeerIncompatible(why) => auth(
            format!("the broker and this client have no TLS in common: {why:?}"),
            "allow TLS 1.2 or 1.3 on the broker (ssl.enabled.protocols), with a suite of AES-GCM or ChaCha20",
        ),
        Error::NoCertificatesPresented => {
            auth("the broker showed no certificate".to_owned(), "give the broker a key store")
        }
        other => Failure::new(FailureKind::Peer, format!("TLS failed: {other}")),
    })
}

const NEW_ONE: &str = "have the broker's certificate issued anew";

fn alert_failure(alert: AlertDescription) -> Failure {
    match alert {
        AlertDescription::CertificateRequired => auth(
            "the broker asks for a client certificate, and none is set".to_owned(),
            "set a key store (ssl.keystore.location)",
        ),
        AlertDescription::BadCertificate
        | AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => auth(
            format!("the broker refused this client's certificate (or its absence): alert {alert:?}"),
            "check that the key store's certificate is signed by who the broker trusts, and is not expired",
        ),
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => auth(
            format!(
                "the broker and this client have no TLS in common, or the broker wants a client certificate: alert {alert:?}"
            ),
            "allow TLS 1.2 or 1.3 on the broker (ssl.enabled.protocols), or set a key store if it wants one",
        ),
        AlertDescription::UnrecognisedName => auth(
            "the broker does not know the name it was asked for".to_owned(),
            "connect by a name that the broker's certificate has",
        ),
        alert => Failure::new(FailureKind::Io, format!("the broker ended TLS: alert {alert:?}")),
    }
}

fn auth(text: String, remedy: &'static str) -> Failure {
    Failure::new(FailureKind::Auth, text).with_remedy(remedy)
}
