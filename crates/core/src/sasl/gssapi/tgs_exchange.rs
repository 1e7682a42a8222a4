//! The TGS exchange: a ticket for a service, in whatever realm it is, or a renewed ticket-granting one.
//!
//! ```text
//! krbtgt/A@A --kafka/h--> ticket                               the service is in A
//!            --krbtgt/C--> krbtgt/B@A --krbtgt/C--> krbtgt/C@B --kafka/h--> ticket   A trusts B, B trusts C
//!            --kafka/h--> krbtgt/B@A --kafka/h--> ticket       A knows that the host is in B (a referral)
//! ```
//!
//! # References
//! RFC 4120, 3.3; RFC 6806, 8 (server referrals).

use super::as_exchange::{Outgoing, Progress, TicketOptions};
use super::credential::Credential;
use super::crypto::{Enctype, Usage};
use super::entropy::Entropy;
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::message::{self, Authenticator, Body, KdcReply, KrbError, PA_TGS_REQ, ReplyPart, option};
use super::principal::Principal;
use super::refusal::{self, Asked, code};
use super::time::Timestamp;

/// How many realms lie at most between the client and the service.
const MAX_HOPS: usize = 10;

/// What the exchange is for.
#[derive(Clone, Debug)]
enum Goal {
    /// A ticket for this service. Its realm counts only if it is `known`; else the client's KDC says where it is.
    Service { service: Principal, known: bool },
    /// The same ticket-granting ticket for longer.
    Renewal,
}

/// One TGS exchange. Calls: [`TgsExchange::start`], then [`TgsExchange::handle_reply`] until it is done.
#[derive(Debug)]
pub struct TgsExchange {
    goal: Goal,
    tgt: Credential,
    options: TicketOptions,
    nonce: i32,
    asked: Principal,
    visited: Vec<String>,
    corrected: bool,
}

impl TgsExchange {
    /// For a ticket for this service with this ticket-granting ticket. `realm_known` says whether the realm in the service's name
    /// comes from the configuration; if not, the client's own KDC is asked first.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Config`] if the ticket is not a ticket-granting one.
    pub fn service(
        service: Principal,
        realm_known: bool,
        tgt: Credential,
        options: TicketOptions,
    ) -> Result<Self> {
        Self::new(Goal::Service { service, known: realm_known }, tgt, options)
    }

    /// For this ticket-granting ticket anew.
    ///
    /// # Errors
    /// As [`TgsExchange::service`].
    pub fn renewal(tgt: Credential, options: TicketOptions) -> Result<Self> {
        Self::new(Goal::Renewal, tgt, options)
    }

    fn new(goal: Goal, tgt: Credential, options: TicketOptions) -> Result<Self> {
        let Some(realm) = tgt.server.grants_for().map(str::to_owned) else {
            let text = format!("{} is not a ticket-granting ticket", tgt.server);
            return Err(KerberosError::new(KerberosErrorKind::Config, text));
        };
        let asked = tgt.server.clone();
        Ok(Self { goal, tgt, options, nonce: 0, asked, visited: vec![realm], corrected: false })
    }

    /// The first question.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Expired`] if the ticket-granting ticket is over.
    pub fn start(&mut self, now: Timestamp, entropy: &mut Entropy) -> Result<Outgoing> {
        self.ask(now, entropy)
    }

    /// The realm whose KDCs are asked now.
    fn realm(&self) -> &str {
        self.tgt.server.grants_for().unwrap_or_else(|| self.tgt.server.realm())
    }

    fn ask(&mut self, now: Timestamp, entropy: &mut Entropy) -> Result<Outgoing> {
        self.tgt.check_lifetime(now)?;
        let now = now.plus_seconds(self.tgt.offset);
        let realm = self.realm().to_owned();
        let (options, till, renew_till) = match &self.goal {
            Goal::Service { service, known } => {
                self.asked = if !known || service.realm() == realm {
                    service.in_realm(&realm)
                } else {
                    Principal::ticket_granting(service.realm(), &realm)
                };
                let wanted = i64::try_from(self.options.lifetime.as_secs()).unwrap_or(i64::MAX);
                // Never longer than the ticket that it is made of.
                (option::CANONICALIZE, now.plus_seconds(wanted).min(self.tgt.times.end), None)
            }
            Goal::Renewal => {
                self.asked = self.tgt.server.clone();
                let until = self.tgt.times.renew_until.unwrap_or(self.tgt.times.end);
                (option::RENEW | option::RENEWABLE, until, Some(until))
            }
        };
        self.nonce = entropy.positive();
        let forwardable = if self.options.forwardable { option::FORWARDABLE } else { 0 };
        let body = Body {
            options: options | forwardable,
            client: None,
            server: &self.asked,
            till,
            renew_till,
            nonce: self.nonce,
            enctypes: &self.options.enctypes,
        }
        .to_der();
        let key = &self.tgt.key;
        let checksum = key.checksum(Usage::TGS_REQ_CHECKSUM, &[&body])?;
        let authenticator = Authenticator {
            client: &self.tgt.client,
            checksum: (key.enctype().checksum_number(), &checksum),
            now,
            subkey: None,
            sequence: None,
        };
        let proof = message::ap_request(
            0,
            &self.tgt.ticket,
            key,
            Usage::TGS_REQ_AUTHENTICATOR,
            &authenticator,
            entropy,
        )?;
        let message = message::kdc_request(message::TGS_REQ, Some((PA_TGS_REQ, &proof)), &body);
        Ok(Outgoing { realm, message })
    }

    /// Takes the KDC's answer.
    ///
    /// # Errors
    /// What the KDC refused and why, or [`KerberosErrorKind::Peer`] for an answer that does not belong to the question or sends
    /// the client in circles.
    pub fn handle_reply(&mut self, reply: &[u8], now: Timestamp, entropy: &mut Entropy) -> Result<Progress> {
        if message::kind_of(reply) == Some(message::KRB_ERROR) {
            let error = KrbError::from_der(reply)?;
            if error.code == code::SKEW && self.options.follow_kdc_clock && !self.corrected {
                self.tgt.offset = error.time.seconds() - now.seconds();
                self.corrected = true;
                tracing::warn!(
                    offset_seconds = self.tgt.offset,
                    realm = self.realm(),
                    "this machine's clock differs from the KDC's: Kerberos goes by the KDC's (kdc_timesync)"
                );
                return self.ask(now, entropy).map(Progress::Send);
            }
            return Err(self.explained(&error, now));
        }
        let credential = self.ticket(reply)?;
        if self.is_goal(&credential) {
            return Ok(Progress::Done(Box::new(credential)));
        }
        self.follow(credential)?;
        self.ask(now, entropy).map(Progress::Send)
    }

    fn explained(&self, error: &KrbError, now: Timestamp) -> KerberosError {
        let enctypes: Vec<&str> =
            self.options.enctypes.iter().map(|enctype: &Enctype| enctype.name()).collect();
        let explained = refusal::explain(
            error,
            &Asked {
                peer: &format!("the KDC of {}", self.realm()),
                client: &self.tgt.client,
                server: &self.asked,
                enctypes: &enctypes.join(", "),
                now,
            },
        );
        if self.visited.len() > 1 {
            return explained.within(&format!("after the realms {}", self.visited.join(", ")));
        }
        explained
    }

    fn ticket(&self, reply: &[u8]) -> Result<Credential> {
        let reply = KdcReply::from_der(message::TGS_REP, reply)?;
        let plain = reply.encrypted.decrypt(&self.tgt.key, Usage::TGS_REP_SESSION_KEY)?;
        let part = ReplyPart::from_der(&plain)?;
        if i64::from(part.nonce) != i64::from(self.nonce) {
            return Err(KerberosError::peer("the KDC's answer belongs to another question"));
        }
        if reply.client != self.tgt.client {
            let text = format!("the KDC answered {} with a ticket of {}", self.tgt.client, reply.client);
            return Err(KerberosError::peer(text));
        }
        Ok(Credential {
            client: reply.client,
            server: part.server,
            key: part.key,
            ticket: reply.ticket,
            times: part.times,
            flags: part.flags,
            offset: self.tgt.offset,
        })
    }

    fn is_goal(&self, credential: &Credential) -> bool {
        match &self.goal {
            Goal::Service { .. } => credential.server == self.asked && self.asked.grants_for().is_none(),
            Goal::Renewal => credential.server == self.asked,
        }
    }

    /// Goes on with a ticket-granting ticket for another realm.
    fn follow(&mut self, credential: Credential) -> Result<()> {
        let next = match (&self.goal, credential.server.grants_for()) {
            (Goal::Service { .. }, Some(next)) if credential.server.realm() == self.realm() => {
                next.to_owned()
            }
            _ => {
                let text =
                    format!("the KDC of {} answered with a ticket for {}", self.realm(), credential.server);
                return Err(KerberosError::peer(format!("{text} where {} was asked for", self.asked)));
            }
        };
        if self.visited.len() > MAX_HOPS || self.visited.contains(&next) {
            return Err(KerberosError::peer(format!(
                "the KDCs send {} in circles on the way to {}: {}, {next}",
                self.tgt.client,
                self.asked,
                self.visited.join(", ")
            )));
        }
        self.visited.push(next);
        self.tgt = credential;
        Ok(())
    }
}
