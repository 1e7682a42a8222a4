//! Who we are, told to a broker that asks (SASL).
//!
//! [`Credentials`] begin an exchange for each connection; the exchange itself is a [`Mechanism`] of `milena-core`, which this crate
//! drives over SaslHandshake and SaslAuthenticate, or over bare frames where brokers are older than 1.0. Where a broker limits how long
//! an authentication is good for (KIP-368), it is renewed on the open connection, between 85 and 95 % of that time and a second
//! before its end; no request fails for it.
//!
//! ```
//! use milena::ClientConfig;
//! use milena::sasl::Scram;
//!
//! let config = ClientConfig::new(["localhost:9094"]).with_sasl(Scram::sha512("alice", "alice-secret"));
//! assert!(!format!("{config:?}").contains("alice-secret"));
//! ```

mod assertion;
mod driver;
mod gssapi;
mod msk;
mod oauth;
mod oidc;
mod passwords;
mod renewal;

use std::fmt;
use std::sync::Arc;

pub use assertion::{Assertion, SignedAssertion};
pub use gssapi::{
    Canonicalize, Enctype, KdcAddress, Kerberos, KerberosConfig, KerberosError, KerberosErrorKind,
    KerberosOptions, Krb5LoginModule, TicketOptions,
};
pub use milena_core::sasl::aws::AwsKeys;
pub use milena_core::sasl::{
    BearerToken, Mechanism, SaslError, SaslErrorKind, ScramHash, ScramPassword, Secret, Step,
};
pub use msk::{AwsKeyProvider, AwsKeySource, MskIam};
pub use oauth::{FileToken, OAuthBearer, RefreshPolicy, TokenSource, UnsecuredToken};
pub use oidc::{Oidc, OidcGrant};
pub use passwords::{Plain, Scram};

pub(crate) use driver::{Authenticator, CORRELATION, Wire, refused_by_closing};
pub(crate) use renewal::{Renewal, RenewalEvent, Session};

use crate::error::Result;
use crate::transport::BoxFuture;

/// The broker at the other end, as it was connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The host name or address.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// What a client authenticates with. `Debug` must not show secrets: a client's configuration is printed with it.
pub trait Credentials: fmt::Debug + Send + Sync {
    /// The mechanism's name, such as `PLAIN`.
    fn mechanism(&self) -> &'static str;

    /// Begins an exchange with a broker. Called for each connection, and again for each re-authentication on it; what takes time (a
    /// token from a server, a ticket) is best kept until it gets old.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`](crate::ErrorKind::Auth) when trying again is useless; other kinds are tried again as their docs say.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up. It is dropped when
    /// [`connect_timeout`](crate::ClientConfig::connect_timeout) is over.
    fn begin<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Mechanism>>>;
}
