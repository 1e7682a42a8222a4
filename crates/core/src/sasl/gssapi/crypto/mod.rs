//! The encryption types of Kerberos that are in use: AES with HMAC-SHA-1 (RFC 3962) and with HMAC-SHA-2 (RFC 8009).
//!
//! DES, triple DES and RC4 are broken or withdrawn (RFC 6649, RFC 8429) and not spoken.

mod cts;
mod derive;
mod enctype;
mod key;

pub use enctype::Enctype;
pub(crate) use enctype::describe;
pub use key::Key;

/// What a key is used for (RFC 4120, 7.5.1; RFC 4121, 2). Each use has keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage(pub(crate) u32);

impl Usage {
    pub(crate) const AS_REQ_TIMESTAMP: Self = Self(1);
    pub(crate) const AS_REP: Self = Self(3);
    pub(crate) const TGS_REQ_CHECKSUM: Self = Self(6);
    pub(crate) const TGS_REQ_AUTHENTICATOR: Self = Self(7);
    pub(crate) const TGS_REP_SESSION_KEY: Self = Self(8);
    pub(crate) const AP_REQ_AUTHENTICATOR: Self = Self(11);
    pub(crate) const AP_REP: Self = Self(12);
    pub(crate) const ACCEPTOR_SEAL: Self = Self(22);
    pub(crate) const INITIATOR_SEAL: Self = Self(24);
}
