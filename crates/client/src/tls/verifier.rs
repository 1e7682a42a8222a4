//! Whether a broker's certificate is to be trusted, and why not in words.
//!
//! The rules are rustls' (a chain to a trusted certificate, valid now, for this host), with two additions that Kafka's users rely
//! on: a broker's own certificate may itself stand in the trust store, as Java allows, and the check of the name can be turned off.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use super::certificate::{Summary, Validity};
use super::fault::CertificateFault;

pub(super) struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    /// Certificates of brokers that are trusted as they are.
    pinned: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("check_name", &self.check_name).finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier that trusts `roots`. `pinned` are the same certificates as they came.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        roots: RootCertStore,
        pinned: Vec<CertificateDer<'static>>,
        check_name: bool,
    ) -> Result<Self, String> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| format!("the trust store cannot be used: {error}"))?;
        Ok(Self { inner, pinned, check_name })
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            let summary = Summary::of(end_entity, wall(now));
            match summary.map(|summary| summary.is_valid) {
                Some(Validity::Now) => {}
                Some(Validity::NotYet) => return Err(CertificateError::NotValidYet.into()),
                Some(Validity::Over) => return Err(CertificateError::Expired.into()),
                None => return Err(CertificateError::BadEncoding.into()),
            }
            return match self.check_name {
                true => verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name),
                false => Ok(()),
            };
        }
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Ok(_) => Ok(()),
            // The chain was found good before the name is looked at.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.verify(end_entity, intermediates, server_name, ocsp, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(Error::InvalidCertificate(error)) => {
                let fault = CertificateFault::of(&error, end_entity, intermediates, server_name, wall(now));
                let other = OtherError(Arc::new(fault));
                Err(Error::InvalidCertificate(CertificateError::Other(other)))
            }
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn wall(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs())
}
