//! What a KRB-ERROR means, in words that say what to do.

use super::error::{KerberosError, KerberosErrorKind};
use super::message::KrbError;
use super::principal::Principal;
use super::time::{Timestamp, spell};

/// Codes of KRB-ERROR (RFC 4120, 7.5.9; RFC 6806 for the last).
pub(crate) mod code {
    pub(crate) const NAME_EXPIRED: i32 = 1;
    pub(crate) const CLIENT_UNKNOWN: i32 = 6;
    pub(crate) const SERVER_UNKNOWN: i32 = 7;
    pub(crate) const NEVER_VALID: i32 = 11;
    pub(crate) const POLICY: i32 = 12;
    pub(crate) const ENCTYPE: i32 = 14;
    pub(crate) const CLIENT_REVOKED: i32 = 18;
    pub(crate) const KEY_EXPIRED: i32 = 23;
    pub(crate) const PREAUTH_FAILED: i32 = 24;
    pub(crate) const PREAUTH_REQUIRED: i32 = 25;
    pub(crate) const INTEGRITY: i32 = 31;
    pub(crate) const TICKET_EXPIRED: i32 = 32;
    pub(crate) const TICKET_NOT_YET_VALID: i32 = 33;
    pub(crate) const SKEW: i32 = 37;
    pub(crate) const MODIFIED: i32 = 41;
    pub(crate) const KEY_VERSION: i32 = 44;
    pub(crate) const TOO_BIG: i32 = 52;
    pub(crate) const WRONG_REALM: i32 = 68;
}

/// Whether a KDC's answer over UDP says that the real one needs TCP.
#[must_use]
pub fn is_too_big_for_udp(reply: &[u8]) -> bool {
    KrbError::from_der(reply).is_ok_and(|error| error.code == code::TOO_BIG)
}

/// The error of a clock that differs from the peer's.
pub(crate) fn skew(peer: &str, peers: Timestamp, ours: Timestamp) -> KerberosError {
    let ahead = ours.seconds() - peers.seconds();
    let side = if ahead >= 0 { "ahead of" } else { "behind" };
    KerberosError::new(
        KerberosErrorKind::ClockSkew,
        format!(
            "this machine's clock is {} {side} that of {peer}, which is more than it allows: here it is {ours}, there {peers}; \
             set the clocks (NTP)",
            spell(ahead)
        ),
    )
}

/// Who was asked what when the refusal came.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// Who refused: "the KDC of A.B".
    pub(crate) peer: &'a str,
    pub(crate) client: &'a Principal,
    pub(crate) server: &'a Principal,
    /// The types that were asked for.
    pub(crate) enctypes: &'a str,
    pub(crate) now: Timestamp,
}

/// The error that a refusal is to the user.
pub(crate) fn explain(error: &KrbError, asked: &Asked<'_>) -> KerberosError {
    let Asked { peer, client, server, enctypes, now } = asked;
    let plain = |kind, text: String| KerberosError::new(kind, text);
    let explained = match error.code {
        code::CLIENT_UNKNOWN => plain(
            KerberosErrorKind::UnknownClient,
            format!("{peer} does not know the client {client}: check the principal's name and realm"),
        ),
        code::SERVER_UNKNOWN => plain(
            KerberosErrorKind::UnknownService,
            format!(
                "{peer} does not know the service {server}: brokers need a principal for the host name that they advertise, and \
                 sasl.kerberos.service.name and krb5.conf's [domain_realm] decide the rest of it"
            ),
        ),
        code::PREAUTH_FAILED => plain(
            KerberosErrorKind::WrongKey,
            format!(
                "{peer} says that the key or password of {client} is wrong: make the keytab anew if the password was changed"
            ),
        ),
        code::INTEGRITY | code::MODIFIED => plain(
            KerberosErrorKind::WrongKey,
            format!(
                "{peer} cannot decrypt what {client} sent with the key it has: a key was changed on one side only"
            ),
        ),
        code::KEY_VERSION => plain(
            KerberosErrorKind::WrongKey,
            format!("{peer} lacks the version of the key of {server} that the ticket is for"),
        ),
        code::SKEW => skew(peer, error.time, *now),
        code::ENCTYPE => plain(
            KerberosErrorKind::NoCommonEnctype,
            format!(
                "{peer} has no key of {client} or {server} of a type that both sides speak; asked for: {enctypes}; give the \
                 principal an AES key or widen permitted_enctypes"
            ),
        ),
        code::NAME_EXPIRED | code::KEY_EXPIRED => plain(
            KerberosErrorKind::Expired,
            format!("{peer} says that the account or password of {client} has expired"),
        ),
        code::TICKET_EXPIRED => plain(
            KerberosErrorKind::Expired,
            format!("{peer} says that the ticket of {client} for {server} has expired"),
        ),
        code::TICKET_NOT_YET_VALID => plain(
            KerberosErrorKind::ClockSkew,
            format!(
                "{peer} says that the ticket of {client} is not valid yet: here it is {now}, there {}",
                error.time
            ),
        ),
        code::CLIENT_REVOKED => {
            plain(KerberosErrorKind::Refused, format!("{peer} has locked or disabled {client}"))
        }
        code::NEVER_VALID | code::POLICY => plain(
            KerberosErrorKind::Refused,
            format!("the policy of {peer} does not allow {client} what it asks for"),
        ),
        other => plain(KerberosErrorKind::Refused, format!("{peer} refused {client} with code {other}")),
    };
    let explained = match &error.text {
        Some(text) if !text.is_empty() => {
            KerberosError::new(explained.kind(), format!("{explained} (its words: {text})"))
        }
        _ => explained,
    };
    explained.with_code(error.code)
}
