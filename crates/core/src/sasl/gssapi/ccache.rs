//! Ticket caches: files with a client's tickets, as `kinit` writes them, in format versions 3 and 4.
//!
//! ```text
//! 05 03 | 05 04, header u16 (v4 only: tags; tag 1 is the KDC's clock against ours)
//! default principal, then credentials until the end:
//!   client, server, key, auth start end renew u32, skey u8, flags u32, addresses, authorization data, ticket, second ticket
//! ```
//!
//! # References
//! MIT Kerberos documentation, "Credential cache file format".

use std::fmt;

use super::bytes::Bytes;
use super::credential::{Credential, Times};
use super::crypto::{Enctype, Key, describe};
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::principal::Principal;
use super::time::Timestamp;

/// The largest ticket cache that is read, in bytes.
pub const MAX_CCACHE: usize = 4 << 20;

/// The realm of entries that are settings and no tickets.
const CONFIGURATION: &str = "X-CACHECONF:";

/// The tickets of one client.
#[derive(Clone, Debug)]
pub struct TicketCache {
    client: Principal,
    credentials: Vec<Credential>,
    /// Tickets whose session keys are of types that are not spoken here, for messages.
    foreign: Vec<(Principal, i32)>,
}

impl TicketCache {
    /// Reads the contents of a `FILE:` ticket cache.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Cache`] for a file that is none, is cut short, or is larger than [`MAX_CCACHE`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_CCACHE {
            return Err(wrong(format!("it has {} bytes, more than {MAX_CCACHE}", bytes.len())));
        }
        let mut rest = Bytes::new(bytes);
        let mut offset = 0;
        let version = match (rest.u8(), rest.u8()) {
            (Some(5), Some(3)) => 3,
            (Some(5), Some(4)) => {
                offset = header(&mut rest).ok_or_else(cut)?;
                4
            }
            (Some(5), Some(1 | 2)) => {
                return Err(wrong(
                    "it has a format version below 3, whose byte order depends on the machine",
                ));
            }
            _ => return Err(wrong("it does not begin as ticket caches do (05 04)")),
        };
        let client = principal(&mut rest).ok_or_else(cut)?;
        let mut cache = Self { client, credentials: Vec::new(), foreign: Vec::new() };
        while rest.remaining() > 0 {
            match entry(&mut rest, version, offset).ok_or_else(cut)? {
                Entry::Credential(credential) => cache.credentials.push(*credential),
                Entry::Foreign(server, enctype) => cache.foreign.push((server, enctype)),
                Entry::Setting => {}
            }
        }
        Ok(cache)
    }

    /// Whose tickets these are.
    #[must_use]
    pub fn client(&self) -> &Principal {
        &self.client
    }

    /// The tickets with session keys that are spoken here.
    #[must_use]
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// The ticket-granting ticket of the client's own realm that lasts longest.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Cache`] if there is none, [`KerberosErrorKind::Expired`] if it is over at `now`.
    pub fn ticket_granting(&self, now: Timestamp) -> Result<&Credential> {
        let wanted = Principal::ticket_granting(self.client.realm(), self.client.realm());
        let found = self
            .credentials
            .iter()
            .filter(|credential| credential.server == wanted && credential.client == self.client)
            .max_by_key(|credential| credential.times.end);
        let Some(found) = found else {
            if let Some((_, enctype)) = self.foreign.iter().find(|(server, _)| *server == wanted) {
                return Err(wrong(format!(
                    "the session key of its {wanted} is {}, which is not spoken here",
                    describe(*enctype)
                )));
            }
            return Err(wrong(format!("it has no {wanted} of {}: run kinit", self.client)));
        };
        found.check_lifetime(now)?;
        Ok(found)
    }
}

enum Entry {
    Credential(Box<Credential>),
    Foreign(Principal, i32),
    Setting,
}

fn wrong(text: impl fmt::Display) -> KerberosError {
    KerberosError::new(KerberosErrorKind::Cache, format!("the ticket cache cannot be used: {text}"))
}

fn cut() -> KerberosError {
    wrong("it is cut short, or makes no sense")
}

/// The header of version 4: how many seconds the KDC's clock is ahead.
fn header(rest: &mut Bytes<'_>) -> Option<i64> {
    let mut tags = Bytes::new(rest.counted16()?);
    let mut offset = 0;
    while tags.remaining() > 0 {
        let tag = tags.u16()?;
        let mut data = Bytes::new(tags.counted16()?);
        if tag == 1 {
            offset = i64::from(data.i32()?);
        }
    }
    Some(offset)
}

fn principal(rest: &mut Bytes<'_>) -> Option<Principal> {
    let name_type = rest.i32()?;
    let count = rest.u32()?;
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let realm = text(rest.counted32()?)?;
    let mut components = Vec::new();
    // Each takes four bytes at least, so a count that the file cannot hold ends here soon.
    for _ in 0..count {
        components.push(text(rest.counted32()?)?);
    }
    Some(Principal::new(name_type, components, realm))
}

fn entry(rest: &mut Bytes<'_>, version: u8, offset: i64) -> Option<Entry> {
    let client = principal(rest)?;
    let server = principal(rest)?;
    let enctype = i32::from(rest.u16()?);
    if version == 3 {
        rest.u16()?;
    }
    let key = rest.counted32()?;
    let mut time = || rest.u32().map(|seconds| Timestamp::from_seconds(seconds.into()));
    let (auth, start, end, renew) = (time()?, time()?, time()?, time()?);
    let _is_session_key = rest.u8()?;
    let flags = rest.u32()?;
    // Addresses, then authorization data: pairs of a type and bytes.
    for _ in 0..2 {
        let count = rest.u32()?;
        for _ in 0..count {
            rest.u16()?;
            rest.counted32()?;
        }
    }
    let ticket = rest.counted32()?;
    let _second_ticket = rest.counted32()?;
    if server.realm() == CONFIGURATION {
        return Some(Entry::Setting);
    }
    let Some(known) = Enctype::from_number(enctype) else { return Some(Entry::Foreign(server, enctype)) };
    let zero = Timestamp::default();
    Some(Entry::Credential(Box::new(Credential {
        client,
        server,
        key: Key::new(known, key).ok()?,
        ticket: ticket.into(),
        times: Times {
            start: if start == zero { auth } else { start },
            end,
            renew_until: (renew != zero).then_some(renew),
        },
        flags,
        offset,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
    }

    fn written(text: &str) -> Vec<u8> {
        let principal = Principal::parse(text, None).unwrap();
        let mut bytes = 1u32.to_be_bytes().to_vec();
        bytes.extend((principal.components().len() as u32).to_be_bytes());
        bytes.extend(counted(principal.realm().as_bytes()));
        principal.components().iter().for_each(|component| bytes.extend(counted(component.as_bytes())));
        bytes
    }

    fn ticket(version: u8, server: &str, enctype: u16, end: u32) -> Vec<u8> {
        let key = [enctype as u8; 32];
        let mut bytes = [written("alice@A"), written(server)].concat();
        bytes.extend(enctype.to_be_bytes());
        if version == 3 {
            bytes.extend(enctype.to_be_bytes());
        }
        bytes.extend(counted(if enctype == 17 { &key[..16] } else { &key }));
        for time in [1000, 0, end, 0] {
            bytes.extend(u32::to_be_bytes(time));
        }
        bytes.push(0);
        bytes.extend(0x4080_0000u32.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 2]);
        bytes.extend(counted(&[127, 0, 0, 1]));
        bytes.extend([0; 4]);
        bytes.extend(counted(b"ticket"));
        bytes.extend([0; 4]);
        bytes
    }

    fn head(version: u8) -> Vec<u8> {
        let header = [0, 12, 0, 1, 0, 8, 0xff, 0xff, 0xff, 0xf6, 0, 0, 0, 0];
        [&[5, version][..], if version == 4 { &header } else { &[] }, &written("alice@A")].concat()
    }

    fn file(version: u8, entries: &[(&str, u16, u32)]) -> Vec<u8> {
        let tickets =
            entries.iter().flat_map(|(server, enctype, end)| ticket(version, server, *enctype, *end));
        head(version).into_iter().chain(tickets).collect()
    }

    #[test]
    fn the_ticket_that_lasts_longest_is_taken() {
        for version in [3, 4] {
            let bytes = file(
                version,
                &[
                    ("krbtgt/A@A", 18, 2000),
                    ("krbtgt/A@A", 17, 3000),
                    ("krbtgt/B@A", 18, 9000),
                    (r"krb5_ccache_conf_data/pa_type@X-CACHECONF:", 18, 9999),
                    ("kafka/b@A", 23, 9000),
                ],
            );
            let cache = TicketCache::parse(&bytes).unwrap();
            assert_eq!(cache.credentials().len(), 3);
            let found = cache.ticket_granting(Timestamp::from_seconds(1500)).unwrap();
            assert_eq!(
                (found.times.end, found.key.enctype()),
                (Timestamp::from_seconds(3000), Enctype::Aes128Sha1)
            );
            assert_eq!((found.times.start, found.times.renew_until), (Timestamp::from_seconds(1000), None));
            assert_eq!(
                (found.offset, &found.ticket[..]),
                (if version == 4 { -10 } else { 0 }, &b"ticket"[..])
            );
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let now = Timestamp::from_seconds(5000);
        let error = |entries| {
            let cache = TicketCache::parse(&file(4, entries)).unwrap();
            cache.ticket_granting(now).unwrap_err()
        };
        let expired = error(&[("krbtgt/A@A", 18, 2000)]);
        assert_eq!(expired.kind(), KerberosErrorKind::Expired);
        assert!(error(&[]).to_string().contains("run kinit"));
        assert!(error(&[("krbtgt/A@A", 23, 9000)]).to_string().contains("rc4-hmac"));
    }

    #[test]
    fn every_cut_is_refused_or_ends_between_two_tickets() {
        for version in [3, 4] {
            let one = head(version).len();
            let bytes = file(version, &[("krbtgt/A@A", 18, 2000), ("kafka/b@A", 17, 2000)]);
            let two = one + ticket(version, "krbtgt/A@A", 18, 2000).len();
            for cut in 0..bytes.len() {
                assert_eq!(TicketCache::parse(&bytes[..cut]).is_ok(), cut == one || cut == two, "{cut}");
            }
        }
    }

    #[test]
    fn counts_that_the_file_cannot_hold_are_refused() {
        let mut bytes = vec![5, 4, 0, 0, 0, 0, 0, 1];
        bytes.extend([0xff; 12]);
        assert!(TicketCache::parse(&bytes).is_err());
        assert!(TicketCache::parse(&[5, 2, 0]).unwrap_err().to_string().contains("below 3"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(version in 3u8..5, bytes: Vec<u8>) {
            let _ = TicketCache::parse(&[&[5, version, 0, 0][..], &bytes].concat());
            let _ = TicketCache::parse(&[&head(version)[..], &bytes].concat());
        }
    }
}
