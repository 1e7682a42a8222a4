//! The AS exchange: a ticket-granting ticket for a key or a password.
//!
//! ```text
//! AS-REQ -> AS-REP                                                                  -> ticket
//!        -> pre-authentication required: types, salts -> AS-REQ with the encrypted time -> AS-REP -> ticket
//!                                                                                  -> clock skew -> once more by the KDC's clock
//! ```
//!
//! # References
//! RFC 4120, 3.1 and 5.2.7; RFC 6806, 5 and 7 (client referrals, with `canonicalize` only).

use std::fmt;
use std::time::Duration;

use crate::sasl::Secret;

use super::credential::Credential;
use super::crypto::{Enctype, Key, Usage, describe};
use super::entropy::Entropy;
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::message::{self, Body, EtypeInfo, KdcReply, KrbError, PA_ENC_TIMESTAMP, ReplyPart, option};
use super::principal::Principal;
use super::refusal::{self, Asked, code};
use super::time::Timestamp;

/// How often a KDC may send a client on to another realm.
const MAX_REFERRALS: usize = 5;

/// What is wanted of a ticket, from `krb5.conf`'s `[libdefaults]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketOptions {
    /// The encryption types to ask for, the most wanted first. Default [`Enctype::DEFAULT`] (`permitted_enctypes`).
    pub enctypes: Vec<Enctype>,
    /// How long tickets are to last; the KDC may shorten it. Default 24 h (`ticket_lifetime`).
    pub lifetime: Duration,
    /// Until when they may be renewed. Default: not at all (`renew_lifetime`).
    pub renew_lifetime: Option<Duration>,
    /// Whether tickets may be forwarded. Default `false` (`forwardable`).
    pub forwardable: bool,
    /// Whether the KDC may change the client's name and realm. Default `false` (`canonicalize`).
    pub canonicalize: bool,
    /// Whether to go by the KDC's clock where this machine's differs too much. Default `true` (`kdc_timesync`).
    pub follow_kdc_clock: bool,
}

impl Default for TicketOptions {
    fn default() -> Self {
        Self {
            enctypes: Enctype::DEFAULT.to_vec(),
            lifetime: Duration::from_secs(24 * 3600),
            renew_lifetime: None,
            forwardable: false,
            canonicalize: false,
            follow_kdc_clock: true,
        }
    }
}

/// What a client proves its name with.
#[derive(Clone)]
pub enum LoginKey {
    /// Keys of a keytab, one of each type.
    Keys(Vec<Key>),
    /// A password.
    Password(Secret),
}

impl fmt::Debug for LoginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(keys) => f.debug_tuple("Keys").field(keys).finish(),
            Self::Password(_) => f.write_str("Password(..)"),
        }
    }
}

impl LoginKey {
    fn has(&self, enctype: Enctype) -> bool {
        match self {
            Self::Keys(keys) => keys.iter().any(|key| key.enctype() == enctype),
            Self::Password(_) => true,
        }
    }

    /// The key of a type, made of the password where there is one.
    fn key(&self, enctype: Enctype, client: &Principal, info: Option<&EtypeInfo>) -> Result<Key> {
        match self {
            Self::Keys(keys) => keys.iter().find(|key| key.enctype() == enctype).cloned().ok_or_else(|| {
                let text =
                    format!("the KDC wants the {enctype} key of {client}; the keytab has {}", names(keys));
                KerberosError::new(KerberosErrorKind::Keytab, text)
            }),
            Self::Password(password) => {
                let default = client.default_salt();
                let salt = info.and_then(|info| info.salt.as_deref()).unwrap_or(&default);
                let params = info.and_then(|info| info.params.as_deref());
                Key::from_password(enctype, password.expose(), salt, params)
            }
        }
    }
}

fn names(keys: &[Key]) -> String {
    let names: Vec<&str> = keys.iter().map(|key| key.enctype().name()).collect();
    names.join(", ")
}

/// A message for the KDCs of a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whose KDCs.
    pub realm: String,
    /// What to send.
    pub message: Vec<u8>,
}

/// What comes after an answer.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Another question.
    Send(Outgoing),
    /// The ticket.
    Done(Box<Credential>),
}

/// One AS exchange. Calls: [`AsExchange::start`], then [`AsExchange::handle_reply`] until it is done.
#[derive(Debug)]
pub struct AsExchange {
    client: Principal,
    login: LoginKey,
    options: TicketOptions,
    /// What is asked for: first the types of which there is a key.
    enctypes: Vec<Enctype>,
    nonce: i32,
    /// How many seconds the KDC's clock is ahead.
    offset: i64,
    /// What the last question proved itself with.
    proof: Option<(Key, EtypeInfo)>,
    corrected: bool,
    referrals: usize,
}

impl AsExchange {
    /// An exchange for this client.
    ///
    /// # Errors
    /// [`KerberosErrorKind::NoCommonEnctype`] if there is no key of a type that the options permit.
    pub fn new(client: Principal, login: LoginKey, options: TicketOptions) -> Result<Self> {
        let (mut enctypes, others): (Vec<_>, Vec<_>) =
            options.enctypes.iter().copied().partition(|enctype| login.has(*enctype));
        if enctypes.is_empty() {
            let have = match &login {
                LoginKey::Keys(keys) => names(keys),
                LoginKey::Password(_) => "a password".to_owned(),
            };
            let permitted: Vec<&str> = options.enctypes.iter().map(|enctype| enctype.name()).collect();
            return Err(KerberosError::new(
                KerberosErrorKind::NoCommonEnctype,
                format!(
                    "no key of {client} is of a type that permitted_enctypes has: there is {have}, permitted is {}",
                    permitted.join(", ")
                ),
            ));
        }
        enctypes.extend(others);
        Ok(Self {
            client,
            login,
            options,
            enctypes,
            nonce: 0,
            offset: 0,
            proof: None,
            corrected: false,
            referrals: 0,
        })
    }

    /// The first question.
    ///
    /// # Errors
    /// None that a caller can do something about.
    pub fn start(&mut self, now: Timestamp, entropy: &mut Entropy) -> Result<Outgoing> {
        self.ask(now, entropy)
    }

    fn server(&self) -> Principal {
        Principal::ticket_granting(self.client.realm(), self.client.realm())
    }

    fn ask(&mut self, now: Timestamp, entropy: &mut Entropy) -> Result<Outgoing> {
        let now = now.plus_seconds(self.offset);
        self.nonce = entropy.positive();
        let until = |length: Duration| now.plus_seconds(i64::try_from(length.as_secs()).unwrap_or(i64::MAX));
        let mut options = 0;
        for (wanted, flag) in [
            (self.options.forwardable, option::FORWARDABLE),
            (self.options.renew_lifetime.is_some(), option::RENEWABLE),
            (self.options.canonicalize, option::CANONICALIZE),
        ] {
            options |= if wanted { flag } else { 0 };
        }
        if self.options.renew_lifetime.is_none() {
            options |= option::RENEWABLE_OK;
        }
        let server = self.server();
        let body = Body {
            options,
            client: Some(&self.client),
            server: &server,
            till: until(self.options.lifetime),
            renew_till: self.options.renew_lifetime.map(until),
            nonce: self.nonce,
            enctypes: &self.enctypes,
        };
        let timestamp = match &self.proof {
            Some((key, _)) => Some(message::encrypted_timestamp(key, now, entropy)?),
            None => None,
        };
        let padata = timestamp.as_deref().map(|timestamp| (PA_ENC_TIMESTAMP, timestamp));
        Ok(Outgoing {
            realm: self.client.realm().to_owned(),
            message: message::kdc_request(message::AS_REQ, padata, &body.to_der()),
        })
    }

    /// Takes the KDC's answer.
    ///
    /// # Errors
    /// What the KDC refused and why, or [`KerberosErrorKind::Peer`] for an answer that does not belong to the question.
    pub fn handle_reply(&mut self, reply: &[u8], now: Timestamp, entropy: &mut Entropy) -> Result<Progress> {
        if message::kind_of(reply) == Some(message::KRB_ERROR) {
            let error = KrbError::from_der(reply)?;
            self.on_error(&error, now)?;
            return self.ask(now, entropy).map(Progress::Send);
        }
        self.on_ticket(reply).map(|credential| Progress::Done(Box::new(credential)))
    }

    /// Prepares the next question after an error that asks for one.
    fn on_error(&mut self, error: &KrbError, now: Timestamp) -> Result<()> {
        match error.code {
            code::PREAUTH_REQUIRED if self.proof.is_none() => {
                self.proof = Some(self.choose_proof(error)?);
                return Ok(());
            }
            code::SKEW if self.options.follow_kdc_clock && !self.corrected => {
                self.offset = error.time.seconds() - now.seconds();
                self.corrected = true;
                tracing::warn!(
                    offset_seconds = self.offset,
                    realm = self.client.realm(),
                    "this machine's clock differs from the KDC's: Kerberos goes by the KDC's (kdc_timesync)"
                );
                return Ok(());
            }
            code::WRONG_REALM if self.options.canonicalize && self.referrals < MAX_REFERRALS => {
                if let Some(realm) =
                    error.client_realm.as_deref().filter(|realm| *realm != self.client.realm())
                {
                    self.client = self.client.in_realm(realm);
                    self.referrals += 1;
                    self.proof = None;
                    return Ok(());
                }
            }
            _ => {}
        }
        let enctypes: Vec<&str> = self.enctypes.iter().map(|enctype| enctype.name()).collect();
        let asked = Asked {
            peer: &format!("the KDC of {}", self.client.realm()),
            client: &self.client,
            server: &self.server(),
            enctypes: &enctypes.join(", "),
            now,
        };
        Err(refusal::explain(error, &asked))
    }

    /// The key for the encrypted time: the KDC's first choice that is ours too.
    fn choose_proof(&self, error: &KrbError) -> Result<(Key, EtypeInfo)> {
        let padata = error.padata()?;
        let offered = EtypeInfo::find(&padata)?;
        if !padata.is_empty() && !padata.iter().any(|(kind, _)| *kind == PA_ENC_TIMESTAMP) {
            return Err(self.no_timestamp(offered.is_some(), &padata));
        }
        let offered = match offered {
            Some(offered) => offered,
            // It does not say: then any of ours, with the usual salt.
            None => {
                let plain =
                    |enctype: &Enctype| EtypeInfo { enctype: enctype.number(), salt: None, params: None };
                self.enctypes.iter().map(plain).collect()
            }
        };
        let usable = offered.iter().find_map(|info| {
            let enctype = Enctype::from_number(info.enctype)?;
            (self.enctypes.contains(&enctype) && self.login.has(enctype)).then_some((enctype, info))
        });
        let Some((enctype, info)) = usable else {
            let offered: Vec<String> = offered.iter().map(|info| describe(info.enctype)).collect();
            let have = match &self.login {
                LoginKey::Keys(keys) => format!("the keytab has {}", names(keys)),
                LoginKey::Password(_) => "none of them is permitted here".to_owned(),
            };
            return Err(KerberosError::new(
                KerberosErrorKind::NoCommonEnctype,
                format!("the KDC knows keys of {} of types {}; {have}", self.client, offered.join(", ")),
            ));
        };
        Ok((self.login.key(enctype, &self.client, Some(info))?, info.clone()))
    }

    /// The error of a KDC that takes no encrypted timestamp. One that has no key of a wanted type offers neither that nor types.
    fn no_timestamp(&self, has_types: bool, padata: &[(i32, &[u8])]) -> KerberosError {
        let realm = self.client.realm();
        if !has_types {
            let asked: Vec<&str> = self.enctypes.iter().map(|enctype| enctype.name()).collect();
            let text = format!(
                "the KDC of {realm} has no key of {} of a type that was asked for ({}): give the principal an AES key or widen \
                 permitted_enctypes",
                self.client,
                asked.join(", ")
            );
            return KerberosError::new(KerberosErrorKind::NoCommonEnctype, text);
        }
        let kinds: Vec<String> = padata.iter().map(|(kind, _)| kind.to_string()).collect();
        KerberosError::new(
            KerberosErrorKind::Unsupported,
            format!(
                "the KDC of {realm} does not let {} in by an encrypted timestamp, the only pre-authentication spoken here; it \
                 offers kinds {}",
                self.client,
                kinds.join(", ")
            ),
        )
    }

    fn on_ticket(&self, reply: &[u8]) -> Result<Credential> {
        let reply = KdcReply::from_der(message::AS_REP, reply)?;
        let number = reply.encrypted.enctype;
        let enctype = Enctype::from_number(number).filter(|enctype| self.enctypes.contains(enctype));
        let enctype = enctype.ok_or_else(|| {
            let text = format!("the KDC answered with {}, which was not asked for", describe(number));
            KerberosError::new(KerberosErrorKind::NoCommonEnctype, text)
        })?;
        let infos = EtypeInfo::find(reply.padata())?.unwrap_or_default();
        let info = infos.iter().find(|info| info.enctype == number);
        let key = match (&self.proof, info) {
            // The key that the KDC has just accepted.
            (Some((key, known)), None) if key.enctype() == enctype && known.enctype == number => key.clone(),
            _ => self.login.key(enctype, &self.client, info)?,
        };
        let plain = reply.encrypted.decrypt(&key, Usage::AS_REP).map_err(|error| {
            let text = format!(
                "the key or password of {} is wrong: the answer of the KDC of {} does not open with it",
                self.client,
                self.client.realm()
            );
            if error.kind() == KerberosErrorKind::WrongKey {
                KerberosError::new(error.kind(), text)
            } else {
                error
            }
        })?;
        let part = ReplyPart::from_der(&plain)?;
        if i64::from(part.nonce) != i64::from(self.nonce) {
            return Err(KerberosError::peer("the KDC's answer belongs to another question"));
        }
        if !self.options.canonicalize && reply.client != self.client {
            let text = format!("the KDC answered {} with a ticket of {}", self.client, reply.client);
            return Err(KerberosError::peer(text));
        }
        let realm = reply.client.realm();
        if part.server != Principal::ticket_granting(realm, realm) {
            return Err(KerberosError::peer(format!("the KDC answered with a ticket for {}", part.server)));
        }
        Ok(Credential {
            client: reply.client,
            server: part.server,
            key: part.key,
            ticket: reply.ticket,
            times: part.times,
            flags: part.flags,
            offset: self.offset,
        })
    }
}
