//! Names with passwords: PLAIN and SCRAM.

use milena_core::sasl::{self, Mechanism, ScramHash, ScramPassword, Secret};

use super::{Credentials, Peer};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::BoxFuture;

/// A name and a password that are sent as they are (PLAIN). Use it over TLS.
#[derive(Clone, Debug)]
pub struct Plain {
    user: String,
    password: Secret,
}

impl Plain {
    /// The user and the password.
    pub fn new(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl Credentials for Plain {
    fn mechanism(&self) -> &'static str {
        "PLAIN"
    }

    fn begin<'a>(&'a self, _peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Mechanism>>> {
        let mechanism = sasl::Plain::new(self.user.clone(), self.password.clone());
        Box::pin(async move { Ok(Box::new(mechanism) as Box<dyn Mechanism>) })
    }
}

/// A name and a password that never go over the wire (SCRAM-SHA-256, SCRAM-SHA-512). Without TLS who listens cannot read the password,
/// but can try passwords against what was heard.
#[derive(Clone, Debug)]
pub struct Scram {
    hash: ScramHash,
    password: ScramPassword,
}

impl Scram {
    /// SCRAM-SHA-256 with a user and a password.
    pub fn sha256(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::new(ScramHash::Sha256, ScramPassword::new(user, password))
    }

    /// SCRAM-SHA-512 with a user and a password.
    pub fn sha512(user: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::new(ScramHash::Sha512, ScramPassword::new(user, password))
    }

    /// Any of both, with a password or a delegation token ([`ScramPassword::delegation_token`]).
    #[must_use]
    pub fn new(hash: ScramHash, password: ScramPassword) -> Self {
        Self { hash, password }
    }
}

impl Credentials for Scram {
    fn mechanism(&self) -> &'static str {
        match self.hash {
            ScramHash::Sha256 => "SCRAM-SHA-256",
            ScramHash::Sha512 => "SCRAM-SHA-512",
        }
    }

    fn begin<'a>(&'a self, _peer: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Mechanism>>> {
        Box::pin(async move {
            let mut nonce = [0u8; 24];
            getrandom::fill(&mut nonce).map_err(|error| {
                Error::new(ErrorKind::Io, format!("the system gives no random numbers: {error}"))
            })?;
            let mechanism = sasl::Scram::new(self.hash, self.password.clone(), &nonce);
            Ok(Box::new(mechanism) as Box<dyn Mechanism>)
        })
    }
}
