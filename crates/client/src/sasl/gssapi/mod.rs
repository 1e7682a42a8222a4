//! Kerberos: SASL's mechanism GSSAPI with tickets from a keytab, a ticket cache or a password.
//!
//! ```text
//! connection -> service ticket kept? -> no: ticket-granting ticket kept? -> no: log in (AS exchange, or read the ticket cache)
//!                                                                           -> ask for the service ticket (TGS exchange)
//! ```
//!
//! The messages are `milena-core`'s; here are sockets, files and the tickets that are kept. One exchange with the KDCs runs at a time,
//! whatever number of connections waits for its ticket. Past 80 % of its life a ticket is replaced; while that fails and
//! the old one still holds, the old one is used. A ticket-granting ticket is replaced in the background, so that one from a
//! ticket cache is renewed even when no connection is made.

mod dns;
mod kdc;
mod keep;
mod options;
mod paths;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

pub use milena_core::sasl::gssapi::{
    Canonicalize, Enctype, KdcAddress, KerberosConfig, KerberosError, KerberosErrorKind, TicketOptions,
};
pub use options::{KerberosOptions, Krb5LoginModule};

use milena_core::sasl::gssapi::{Entropy, Gssapi, Principal};

use super::{Credentials, Mechanism, Peer, SaslError, Secret, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::BoxFuture;
use keep::Keep;

/// Credentials of Kerberos. Cheap to clone; clones share their tickets.
///
/// ```
/// use milena::ClientConfig;
/// use milena::sasl::{Kerberos, KerberosOptions};
///
/// let kerberos = Kerberos::new(KerberosOptions {
///     principal: Some("orders@EXAMPLE.COM".to_owned()),
///     ..KerberosOptions::with_keytab("/etc/security/orders.keytab")
/// });
/// let config = ClientConfig::new(["broker1.example.com:9094"]).with_sasl(kerberos);
/// # let _ = config;
/// ```
#[derive(Clone)]
pub struct Kerberos {
    keep: Arc<Keep>,
}

impl fmt::Debug for Kerberos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kerberos").field(self.keep.options()).finish()
    }
}

impl Kerberos {
    /// Credentials with these options. Nothing is read or asked before the first connection.
    #[must_use]
    pub fn new(options: KerberosOptions) -> Self {
        Self { keep: Arc::new(Keep::new(options)) }
    }
}

impl Credentials for Kerberos {
    fn mechanism(&self) -> &'static str {
        "GSSAPI"
    }

    fn begin<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Mechanism>>> {
        Box::pin(async move {
            let credential =
                self.keep.service_ticket(&peer.host).await.map_err(|error| into_error(&error))?;
            let service = credential.server.clone();
            let entropy = entropy().map_err(|error| into_error(&error))?;
            let inner = Gssapi::new(credential, entropy, "");
            Ok(Box::new(Exchange { inner, service, keep: Arc::clone(&self.keep), accepted: false })
                as Box<dyn Mechanism>)
        })
    }
}

/// An exchange that remembers whether the broker took its ticket. One that was not taken is not used again: the broker's key may have
/// been changed.
#[derive(Debug)]
struct Exchange {
    inner: Gssapi,
    service: Principal,
    keep: Arc<Keep>,
    accepted: bool,
}

impl Mechanism for Exchange {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn start(&mut self, now: SystemTime) -> std::result::Result<Secret, SaslError> {
        self.inner.start(now)
    }

    fn step(&mut self, challenge: &[u8], now: SystemTime) -> std::result::Result<Step, SaslError> {
        let step = self.inner.step(challenge, now);
        // The broker's first token proves that it could read the ticket.
        self.accepted |= step.is_ok();
        step
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.accepted {
            self.keep.forget(&self.service);
        }
    }
}

/// Random bytes for one exchange.
fn entropy() -> std::result::Result<Entropy, KerberosError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| {
        KerberosError::new(KerberosErrorKind::Config, format!("the system gives no random numbers: {error}"))
    })?;
    Ok(Entropy::from_seed(seed))
}

/// A KDC that cannot be reached may be there again soon; nothing else gets better by itself.
fn into_error(error: &KerberosError) -> Error {
    let kind = if error.is_transient() { ErrorKind::Io } else { ErrorKind::Auth };
    Error::new(kind, format!("Kerberos: {error}")).with_source(error.clone())
}
