//! Keytabs: files with the keys of principals, in MIT's format version 2.
//!
//! ```text
//! 05 02, then entries: size i32 (negative: a hole of that many bytes)
//!   components u16, realm, components.., name type u32, time u32, kvno u8, enctype u16, key, [kvno u32]
//! ```
//!
//! # References
//! MIT Kerberos documentation, "Keytab file format".

use std::collections::BTreeSet;
use std::fmt;

use super::bytes::Bytes;
use super::crypto::{Enctype, Key, describe};
use super::error::{KerberosError, KerberosErrorKind, Result};
use super::principal::Principal;

/// The largest keytab that is read, in bytes.
pub const MAX_KEYTAB: usize = 1 << 20;

/// One key of a keytab.
#[derive(Clone, Debug)]
pub struct KeytabEntry {
    /// Whose key it is.
    pub principal: Principal,
    /// Its version number; a new password or `ktadd` makes the next one.
    pub kvno: u32,
    /// The number of its encryption type.
    pub enctype: i32,
    /// The key; `None` if its type is not spoken here.
    pub key: Option<Key>,
}

/// The keys of a keytab. They are wiped when it goes and never show.
#[derive(Clone, Debug)]
pub struct Keytab {
    entries: Vec<KeytabEntry>,
}

impl Keytab {
    /// Reads the contents of a keytab file.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Keytab`] for a file that is none, is cut short, or is larger than [`MAX_KEYTAB`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_KEYTAB {
            return Err(wrong(format!("it has {} bytes, more than {MAX_KEYTAB}", bytes.len())));
        }
        let mut rest = Bytes::new(bytes);
        match (rest.u8(), rest.u8()) {
            (Some(5), Some(2)) => {}
            (Some(5), Some(1)) => {
                return Err(wrong("it has format version 1, whose byte order depends on the machine"));
            }
            _ => return Err(wrong("it does not begin as keytabs do (05 02)")),
        }
        let mut entries = Vec::new();
        while rest.remaining() > 0 {
            let size = rest.i32().ok_or_else(|| wrong("it is cut short"))?;
            // Nothing follows an entry of no size.
            if size == 0 {
                break;
            }
            let length = usize::try_from(size.unsigned_abs()).map_err(|_| wrong("it is cut short"))?;
            let body = rest.take(length).ok_or_else(|| wrong("it is cut short"))?;
            if size > 0 {
                entries.push(entry(body).ok_or_else(|| wrong("an entry makes no sense"))?);
            }
        }
        Ok(Self { entries })
    }

    /// Every key, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[KeytabEntry] {
        &self.entries
    }

    /// The first principal of the file, which is whom a client is without a name.
    #[must_use]
    pub fn first(&self) -> Option<&Principal> {
        self.entries.first().map(|entry| &entry.principal)
    }

    /// The principal's newest key of each type that is spoken here.
    #[must_use]
    pub fn keys(&self, principal: &Principal) -> Vec<&Key> {
        Enctype::DEFAULT
            .iter()
            .filter_map(|enctype| {
                let of_type = self.entries.iter().filter_map(|entry| {
                    let key = entry.key.as_ref().filter(|key| key.enctype() == *enctype)?;
                    (entry.principal == *principal).then_some((entry.kvno, key))
                });
                of_type.max_by_key(|(kvno, _)| *kvno).map(|(_, key)| key)
            })
            .collect()
    }

    /// What to say if the principal has no key here: who has, or which types it has.
    #[must_use]
    pub fn missing(&self, principal: &Principal) -> KerberosError {
        let types: BTreeSet<String> = self
            .entries
            .iter()
            .filter(|entry| entry.principal == *principal)
            .map(|entry| describe(entry.enctype))
            .collect();
        if !types.is_empty() {
            let types = Vec::from_iter(types).join(", ");
            return wrong(format!(
                "its keys of {principal} are of types that are not spoken here: {types}; make AES keys (ktadd -e aes256-cts)"
            ));
        }
        wrong(format!("it has no key of {principal}; it has {self}"))
    }
}

/// The principals with their types and version numbers, a few at most.
impl fmt::Display for Keytab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        if self.entries.is_empty() {
            return f.write_str("no keys at all");
        }
        for (index, entry) in self.entries.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{} (kvno {}, {})", entry.principal, entry.kvno, describe(entry.enctype))?;
        }
        match self.entries.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn wrong(text: impl fmt::Display) -> KerberosError {
    KerberosError::new(KerberosErrorKind::Keytab, format!("the keytab cannot be used: {text}"))
}

fn entry(body: &[u8]) -> Option<KeytabEntry> {
    let mut rest = Bytes::new(body);
    let count = rest.u16()?;
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let realm = text(rest.counted16()?)?;
    let mut components = Vec::new();
    for _ in 0..count {
        components.push(text(rest.counted16()?)?);
    }
    let name_type = rest.i32()?;
    let _written_at = rest.u32()?;
    let short_kvno = rest.u8()?;
    let enctype = i32::from(rest.u16()?);
    let key = rest.counted16()?;
    // The longer number was added later; zero means that it was not.
    let kvno = rest.u32().filter(|kvno| *kvno != 0).unwrap_or_else(|| u32::from(short_kvno));
    let key = match Enctype::from_number(enctype) {
        Some(enctype) => Some(Key::new(enctype, key).ok()?),
        None => None,
    };
    Some(KeytabEntry { principal: Principal::new(name_type, components, realm), kvno, enctype, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn written(principal: &Principal, kvno: u32, enctype: i32, key: &[u8]) -> Vec<u8> {
        let mut body = (principal.components().len() as u16).to_be_bytes().to_vec();
        body.extend(counted(principal.realm().as_bytes()));
        principal.components().iter().for_each(|component| body.extend(counted(component.as_bytes())));
        body.extend(1u32.to_be_bytes());
        body.extend(1_700_000_000u32.to_be_bytes());
        body.push(kvno as u8);
        body.extend((enctype as u16).to_be_bytes());
        body.extend(counted(key));
        body.extend(kvno.to_be_bytes());
        [&(body.len() as i32).to_be_bytes()[..], &body].concat()
    }

    fn file(entries: &[Vec<u8>]) -> Vec<u8> {
        [&[5, 2][..], &entries.concat()].concat()
    }

    fn alice() -> Principal {
        Principal::parse("alice@A", None).unwrap()
    }

    #[test]
    fn the_newest_key_of_a_type_is_taken_whatever_the_order() {
        let bob = Principal::parse("bob@A", None).unwrap();
        let bytes = file(&[
            written(&alice(), 300, 18, &[3; 32]),
            written(&alice(), 2, 18, &[2; 32]),
            written(&alice(), 1, 17, &[1; 16]),
            written(&bob, 999, 17, &[9; 16]),
        ]);
        let keytab = Keytab::parse(&bytes).unwrap();
        let keys = keytab.keys(&alice());
        assert_eq!(
            keys,
            [
                &Key::new(Enctype::Aes256Sha1, &[3; 32]).unwrap(),
                &Key::new(Enctype::Aes128Sha1, &[1; 16]).unwrap()
            ]
        );
        assert_eq!(keytab.first(), Some(&alice()));
    }

    #[test]
    fn holes_and_entries_without_a_long_version_number_are_read() {
        let mut entry = written(&alice(), 7, 18, &[1; 32]);
        let body = entry.len() - 8;
        entry.truncate(entry.len() - 4);
        entry[..4].copy_from_slice(&(body as i32).to_be_bytes());
        let hole = [&(-5i32).to_be_bytes()[..], &[0xff; 5]].concat();
        let keytab = Keytab::parse(&file(&[hole, entry])).unwrap();
        assert_eq!(keytab.entries().len(), 1);
        assert_eq!(keytab.entries()[0].kvno, 7);
    }

    #[test]
    fn what_is_missing_is_said_with_what_is_there() {
        let bytes = file(&[written(&alice(), 3, 23, &[1; 16])]);
        let keytab = Keytab::parse(&bytes).unwrap();
        let error = keytab.missing(&alice()).to_string();
        assert!(error.contains("rc4-hmac"), "{error}");
        let error = keytab.missing(&Principal::parse("bob@A", None).unwrap()).to_string();
        assert!(
            error.contains("no key of bob@A") && error.contains("alice@A (kvno 3, rc4-hmac (23))"),
            "{error}"
        );
        assert!(!format!("{keytab:?}").contains("[1, 1"));
    }

    #[test]
    fn other_files_are_refused_with_their_reason() {
        for (bytes, reason) in [
            (&[5, 1, 0][..], "version 1"),
            (b"PK", "begin"),
            (&[], "begin"),
            (&[5, 2, 0, 0, 0], "cut short"),
            (&[5, 2, 0x7f, 0xff, 0xff, 0xff, 1], "cut short"),
            (&[5, 2, 0x80, 0, 0, 0, 1], "cut short"),
        ] {
            let error = Keytab::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn every_cut_is_refused_or_ends_between_two_entries() {
        let first = written(&alice(), 1, 18, &[1; 32]);
        let bytes = file(&[first.clone(), written(&alice(), 2, 17, &[2; 16])]);
        for cut in 0..bytes.len() {
            let whole = cut == 2 || cut == 2 + first.len();
            assert_eq!(Keytab::parse(&bytes[..cut]).is_ok(), whole, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Keytab::parse(&[&[5, 2][..], &bytes].concat());
            let _ = entry(&bytes);
        }
    }
}
