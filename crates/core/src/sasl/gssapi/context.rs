//! The GSS-API's Kerberos mechanism, the initiator's side: the token that opens a context, its answer, and wrapped messages.
//!
//! # References
//! RFC 2743, 3.1 (framing); RFC 4121 (tokens, checksum 0x8003, key usages); RFC 1964, 1.1.

use super::credential::Credential;
use super::crypto::{Key, Usage};
use super::der::{self, Reader, tag};
use super::entropy::Entropy;
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::message::{self, Authenticator, Encrypted, KrbError};
use super::refusal::{self, Asked};
use super::time::Timestamp;

/// The object identifier of the mechanism: 1.2.840.113554.1.2.2.
const KRB5_OID: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// Kinds of tokens inside the framing.
const TOKEN_AP_REQ: [u8; 2] = [1, 0];
const TOKEN_AP_REP: [u8; 2] = [2, 0];
const TOKEN_ERROR: [u8; 2] = [3, 0];
/// The first two bytes of a wrapped message.
const TOKEN_WRAP: [u8; 2] = [5, 4];

/// The checksum type whose value is the context's flags.
const GSS_CHECKSUM: i32 = 0x8003;
/// Mutual authentication, replay detection, sequence, integrity: what SASL needs (RFC 4752, 3.1).
const CONTEXT_FLAGS: u32 = 0x02 | 0x04 | 0x08 | 0x20;
/// APOptions: the acceptor is to prove itself.
const MUTUAL_REQUIRED: u32 = 0x2000_0000;

/// The flags of a wrapped message.
const SENT_BY_ACCEPTOR: u8 = 1;
const SEALED: u8 = 2;
const ACCEPTOR_SUBKEY: u8 = 4;
/// The bytes before what is wrapped.
const WRAP_HEADER: usize = 16;

/// A context of which the first token is sent.
#[derive(Debug)]
pub(crate) struct Opening {
    credential: Credential,
    subkey: Key,
    /// When the authenticator says that it was made.
    time: Timestamp,
    sequence: u32,
}

/// A context that both sides hold.
#[derive(Debug)]
pub(crate) struct Context {
    key: Key,
    acceptor_subkey: bool,
    send: u64,
    receive: u64,
}

impl Opening {
    /// Starts a context with a ticket for the acceptor: the token to send, and what waits for its answer.
    pub(crate) fn new(
        credential: Credential,
        now: Timestamp,
        entropy: &mut Entropy,
    ) -> Result<(Vec<u8>, Self)> {
        credential.check_lifetime(now)?;
        let time = now.plus_seconds(credential.offset);
        let subkey = Key::random(credential.key.enctype(), entropy)?;
        // Some acceptors take the number for a signed one.
        let sequence = entropy.positive().unsigned_abs() >> 1;
        // No channel bindings: 16 zeros after their length.
        let mut checksum = vec![16, 0, 0, 0];
        checksum.extend([0; 16]);
        checksum.extend(CONTEXT_FLAGS.to_le_bytes());
        let authenticator = Authenticator {
            client: &credential.client,
            checksum: (GSS_CHECKSUM, &checksum),
            now: time,
            subkey: Some(&subkey),
            sequence: Some(sequence),
        };
        let request = message::ap_request(
            MUTUAL_REQUIRED,
            &credential.ticket,
            &credential.key,
            Usage::AP_REQ_AUTHENTICATOR,
            &authenticator,
            entropy,
        )?;
        let oid = der::element(tag::OBJECT_ID, &[&KRB5_OID]);
        let token = der::element(tag::application(0), &[&oid, &TOKEN_AP_REQ, &request]).to_vec();
        Ok((token, Self { credential, subkey, time, sequence }))
    }

    /// Takes the acceptor's token, which proves that it could read the ticket.
    pub(crate) fn handle_answer(self, token: &[u8], now: Timestamp) -> Result<Context> {
        let (kind, inner) = unframe(token)?;
        if kind == TOKEN_ERROR {
            let error = KrbError::from_der(inner)?;
            let asked = Asked {
                peer: "the broker",
                client: &self.credential.client,
                server: &self.credential.server,
                enctypes: self.credential.key.enctype().name(),
                now,
            };
            return Err(refusal::explain(&error, &asked));
        }
        if kind != TOKEN_AP_REP {
            return Err(KerberosError::peer("the broker's first token is no AP-REP"));
        }
        let mut outer = Reader::new(inner);
        let mut reply = outer.enter(tag::application(message::AP_REP))?.enter(tag::SEQUENCE)?;
        outer.end()?;
        message::check_head(&mut reply, 0, message::AP_REP)?;
        let encrypted = Encrypted::from_der(&mut reply.field(2)?)?;
        let plain = encrypted.decrypt(&self.credential.key, Usage::AP_REP).map_err(|error| {
            let text = format!("the broker does not prove that it is {}", self.credential.server);
            if error.kind() == KerberosErrorKind::WrongKey { error.within(&text) } else { error }
        })?;
        let mut part = Reader::new(&plain).enter(tag::application(27))?.enter(tag::SEQUENCE)?;
        let time = Timestamp::from_der(&mut part.field(0)?)?;
        let micros = part.field(1)?.integer()?;
        if time.seconds() != self.time.seconds() || micros != self.time.subsec_micros() {
            return Err(KerberosError::peer("the broker's AP-REP answers another AP-REQ"));
        }
        let subkey = match part.optional(2)? {
            Some(mut key) => Some(message::key_from_der(&mut key)?),
            None => None,
        };
        let receive = match part.optional(3)? {
            Some(mut number) => number.uint32()?,
            // The acceptor counts on from where the initiator starts (RFC 4121, 4.2.6 leaves it the choice).
            None => self.sequence,
        };
        let acceptor_subkey = subkey.is_some();
        Ok(Context {
            key: subkey.unwrap_or(self.subkey),
            acceptor_subkey,
            send: self.sequence.into(),
            receive: receive.into(),
        })
    }
}

/// A token without the framing: its kind and what follows.
fn unframe(token: &[u8]) -> Result<([u8; 2], &[u8])> {
    let mut outer = Reader::new(token);
    let mut inside = outer.enter(tag::application(0))?;
    outer.end()?;
    if inside.read(tag::OBJECT_ID)? != KRB5_OID {
        return Err(KerberosError::peer("the broker's token is of another GSS-API mechanism than Kerberos"));
    }
    inside
        .rest()
        .split_first_chunk::<2>()
        .map(|(kind, inner)| (*kind, inner))
        .ok_or_else(|| KerberosError::peer("the broker's token is cut short"))
}

impl Context {
    /// Signs a message, without hiding it.
    pub(crate) fn wrap(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let flags = if self.acceptor_subkey { ACCEPTOR_SUBKEY } else { 0 };
        let header = |extra: u16| {
            let mut header = vec![5, 4, flags, 0xff];
            header.extend(extra.to_be_bytes());
            header.extend([0, 0]);
            header.extend(self.send.to_be_bytes());
            header
        };
        // The checksum is made over a header that says that there is none.
        let checksum = self.key.checksum(Usage::INITIATOR_SEAL, &[message, &header(0)])?;
        let length = u16::try_from(checksum.len()).unwrap_or_default();
        let token = [header(length).as_slice(), message, &checksum].concat();
        self.send = self.send.wrapping_add(1);
        Ok(token)
    }

    /// Checks a message of the acceptor and gives what was wrapped.
    pub(crate) fn unwrap(&mut self, token: &[u8]) -> Result<Vec<u8>> {
        let cut = || KerberosError::peer("the broker's wrapped message is cut short");
        let (header, body) = token.split_first_chunk::<WRAP_HEADER>().ok_or_else(cut)?;
        let [a, b, flags, filler, extra @ .., _, _, _, _, _, _, _, _] = header;
        let [extra_high, extra_low, turned_high, turned_low] = extra;
        if [*a, *b] != TOKEN_WRAP || *filler != 0xff {
            return Err(KerberosError::peer("the broker's message is not wrapped as RFC 4121 says"));
        }
        if flags & SENT_BY_ACCEPTOR == 0 || (flags & ACCEPTOR_SUBKEY != 0) != self.acceptor_subkey {
            return Err(KerberosError::peer("the broker's wrapped message has flags of another context"));
        }
        let extra = usize::from(u16::from_be_bytes([*extra_high, *extra_low]));
        let turned = usize::from(u16::from_be_bytes([*turned_high, *turned_low]));
        let mut body = body.to_vec();
        if let Some(turn) = turned.checked_rem(body.len()) {
            body.rotate_left(turn);
        }
        // What was signed is the header before its counts were filled in.
        let mut signed = *header;
        let message = if flags & SEALED == 0 {
            for count in signed.iter_mut().skip(4).take(4) {
                *count = 0;
            }
            let length = body.len().checked_sub(extra).ok_or_else(cut)?;
            let (message, checksum) = body.split_at_checked(length).ok_or_else(cut)?;
            if !self.key.verify(Usage::ACCEPTOR_SEAL, &[message, &signed], checksum)? {
                return Err(KerberosError::new(
                    KerberosErrorKind::WrongKey,
                    "the checksum of the broker's wrapped message is wrong",
                ));
            }
            message.to_vec()
        } else {
            for count in signed.iter_mut().skip(6).take(2) {
                *count = 0;
            }
            let plain = self.key.decrypt(Usage::ACCEPTOR_SEAL, &body)?;
            let length = plain.len().checked_sub(extra + WRAP_HEADER).ok_or_else(cut)?;
            let (message, rest) = plain.split_at_checked(length).ok_or_else(cut)?;
            if !rest.ends_with(&signed) {
                return Err(KerberosError::peer("the broker's wrapped message has two headers that differ"));
            }
            message.to_vec()
        };
        let sequence = header.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        if sequence != self.receive {
            return Err(KerberosError::peer(
                "the broker's wrapped message is not the next one: it may be a replay",
            ));
        }
        self.receive = self.receive.wrapping_add(1);
        Ok(message)
    }
}

#[cfg(test)]
pub(crate) mod acceptor;
#[cfg(test)]
pub(crate) mod tests;
