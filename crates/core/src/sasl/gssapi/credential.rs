//! A ticket with the key that goes with it.

use std::sync::Arc;

use super::crypto::Key;
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::principal::Principal;
use super::time::{Timestamp, spell};

/// When a ticket holds, by the KDC's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From when.
    pub start: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// Until when it can be renewed; `None` if it cannot.
    pub renew_until: Option<Timestamp>,
}

/// A ticket, whose it is and for which service, and the session key.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Whose it is.
    pub client: Principal,
    /// For which service; `krbtgt/..` for a ticket-granting one.
    pub server: Principal,
    /// The key that the client and the service share.
    pub key: Key,
    /// The ticket as the KDC wrote it, in DER. Only the service can read it.
    pub ticket: Arc<[u8]>,
    /// When it holds.
    pub times: Times,
    /// TicketFlags (RFC 4120, 5.3).
    pub flags: u32,
    /// How many seconds the KDC's clock is ahead of this machine's.
    pub offset: i64,
}

/// The flag of a ticket that can be renewed.
const RENEWABLE: u32 = 0x0080_0000;

impl Credential {
    /// Fails with [`KerberosErrorKind::Expired`] if the ticket is over.
    pub(crate) fn check_lifetime(&self, now: Timestamp) -> Result<()> {
        let now = now.plus_seconds(self.offset);
        if now < self.times.end {
            return Ok(());
        }
        let ago = spell(now.seconds() - self.times.end.seconds());
        Err(KerberosError::new(
            KerberosErrorKind::Expired,
            format!(
                "the ticket of {} for {} expired at {}, {ago} ago",
                self.client, self.server, self.times.end
            ),
        ))
    }

    /// How long it still holds.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> std::time::Duration {
        self.times.end.since(now.plus_seconds(self.offset))
    }

    /// Whether the KDC would make a new ticket out of this one that lasts longer.
    #[must_use]
    pub fn is_renewable(&self, now: Timestamp) -> bool {
        let now = now.plus_seconds(self.offset);
        self.flags & RENEWABLE != 0
            && now < self.times.end
            && self.times.renew_until.is_some_and(|until| until > self.times.end)
    }
}
