//! Kerberos without C and without IO: what a client says to its KDCs and to a broker, and what it makes of the answers.
//!
//! ```text
//! krb5.conf -> KerberosConfig                    keytab, password -> LoginKey -> AsExchange -> Credential (krbtgt)
//!                                                ticket cache ------------------------------> Credential (krbtgt)
//! Credential (krbtgt) -> TgsExchange -> Credential (kafka/host) -> Gssapi, a SASL mechanism
//! ```
//!
//! The exchanges are state machines: they give messages for the KDCs of a realm and take the answers. Clocks and random bytes are
//! arguments ([`Timestamp`], [`Entropy`]); sockets, files and the cache of tickets are the driver's.
//!
//! # Invariants
//! - Nothing that a peer or a file says makes a reader panic, loop, or take more memory than a few times its bytes.
//! - An answer counts only if it opens with the key that was agreed on and repeats the question's nonce.
//! - Keys and passwords are wiped when they go, never show, and are compared in constant time.
//!
//! # References
//! RFC 4120 (Kerberos 5), 3961, 3962 and 8009 (encryption), 4121 (GSS-API), 4752 (SASL), 6806 (referrals).

mod as_exchange;
mod bytes;
mod ccache;
mod config;
mod context;
mod credential;
mod crypto;
mod der;
mod dns;
mod entropy;
mod error;
mod keytab;
mod mechanism;
mod message;
mod principal;
mod refusal;
mod tgs_exchange;
mod time;

pub use as_exchange::{AsExchange, LoginKey, Outgoing, Progress, TicketOptions};
pub use ccache::{MAX_CCACHE, TicketCache};
pub use config::{Canonicalize, KdcAddress, KerberosConfig, MAX_CONFIG, Parsed};
pub use credential::{Credential, Times};
pub use crypto::{Enctype, Key, Usage};
pub use dns::{DnsAnswer, DnsKind, DnsService, dns_query};
pub use entropy::Entropy;
pub use error::{KerberosError, KerberosErrorKind, Result};
pub use keytab::{Keytab, KeytabEntry, MAX_KEYTAB};
pub use mechanism::Gssapi;
pub use principal::Principal;
pub use refusal::is_too_big_for_udp;
pub use tgs_exchange::TgsExchange;
pub use time::Timestamp;

#[cfg(test)]
mod exchange_tests;
