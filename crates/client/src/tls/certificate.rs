//! What a person wants to know of a certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The fields of a certificate that messages name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) subject: String,
    pub(super) issuer: String,
    /// From when and until when it is valid, as text.
    pub(super) from: String,
    pub(super) until: String,
    pub(super) is_valid: Validity,
    /// The hosts it is for.
    pub(super) names: Vec<String>,
}

/// Where now stands to a certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    NotYet,
    Now,
    Over,
}

impl Summary {
    /// Reads them, if the certificate can be read at all.
    pub(super) fn of(der: &[u8], now: SystemTime) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        let is_valid = if seconds < validity.not_before.timestamp() {
            Validity::NotYet
        } else if seconds > validity.not_after.timestamp() {
            Validity::Over
        } else {
            Validity::Now
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        Some(Self {
            subject: clean(&certificate.subject().to_string()),
            issuer: clean(&certificate.issuer().to_string()),
            from: validity.not_before.to_string(),
            until: validity.not_after.to_string(),
            is_valid,
            names: names.unwrap_or_default(),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(clean(name)),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// A peer's words, fit for a message.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
