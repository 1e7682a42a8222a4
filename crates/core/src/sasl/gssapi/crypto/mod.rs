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
pub struct Usage(pub u32);

impl Usage {
    /// The time in an AS-REQ, with the client's key.
    pub const AS_REQ_TIMESTAMP: Self = Self(1);
    /// The encrypted part of an AS-REP, with the client's key.
    pub const AS_REP: Self = Self(3);
    /// The checksum of a TGS-REQ's body.
    pub const TGS_REQ_CHECKSUM: Self = Self(6);
    /// The authenticator of a TGS-REQ.
    pub const TGS_REQ_AUTHENTICATOR: Self = Self(7);
    /// The encrypted part of a TGS-REP, with the session key.
    pub const TGS_REP_SESSION_KEY: Self = Self(8);
    /// The authenticator of an AP-REQ.
    pub const AP_REQ_AUTHENTICATOR: Self = Self(11);
    /// The encrypted part of an AP-REP.
    pub const AP_REP: Self = Self(12);
    /// A message that the acceptor wraps.
    pub const ACCEPTOR_SEAL: Self = Self(22);
    /// A message that the initiator wraps.
    pub const INITIATOR_SEAL: Self = Self(24);
}
