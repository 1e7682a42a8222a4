//! Java's key store format of before Java 9 (JKS).
//!
//! ```text
//! magic FEEDFEED, version 1 or 2, count of entries
//! key:          1, alias, date, length and PKCS#8 in Sun's own encryption, chain
//! certificate:  2, alias, date, certificate
//! SHA-1 over password (UTF-16), "Mighty Aphrodite" and all of it
//! ```
//! Sun's encryption XORs with a chain of SHA-1 over password and salt. It protects little; the format is read because it is there.

use milena_core::sasl::Secret;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::store::{Contents, Key};

/// The first four bytes.
pub(super) const MAGIC: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];

const DIGEST: usize = 20;

/// Sun's key protector, 1.3.6.1.4.1.42.2.17.1.1, as DER.
const KEY_PROTECTOR: [u8; 12] = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x2a, 0x02, 0x11, 0x01, 0x01];

/// Reads a store. Without a password its checksum is not verified, as in Java, and keys stay closed.
pub(super) fn read(
    bytes: &[u8],
    password: Option<&Secret>,
    key_password: Option<&Secret>,
) -> Result<Contents, String> {
    let cut = || "it ends too early".to_owned();
    let (body, digest) = bytes.split_last_chunk::<DIGEST>().ok_or_else(cut)?;
    let mut reader = Reader(body);
    if reader.take(4)? != MAGIC {
        return Err("it does not begin as a JKS store".to_owned());
    }
    let version = reader.number()?;
    if !(1..=2).contains(&version) {
        return Err(format!("version {version} of JKS is not known"));
    }
    if let Some(password) = password {
        let mut hash = Sha1::new();
        hash.update(&*utf16(password)?);
        hash.update(b"Mighty Aphrodite");
        hash.update(body);
        if !bool::from(hash.finalize().as_slice().ct_eq(digest)) {
            return Err("the password is wrong, or the file was changed".to_owned());
        }
    }
    let mut contents = Contents::default();
    for _ in 0..reader.number()? {
        let tag = reader.number()?;
        reader.text()?;
        reader.take(8)?;
        match tag {
            1 => {
                let length = reader.number()?;
                let protected = reader.take(length as usize)?;
                let mut chain = Vec::new();
                for _ in 0..reader.number()? {
                    chain.push(reader.certificate(version)?);
                }
                if let (None, Some(password)) = (&contents.key, key_password) {
                    contents.key = Some(unprotect(protected, password)?);
                    contents.chain = chain;
                }
            }
            2 => contents.trusted.push(reader.certificate(version)?),
            tag => return Err(format!("an entry of kind {tag} is not known")),
        }
    }
    Ok(contents)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| "it ends too early".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let length = self.take(2)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte));
        self.take(length)
    }

    fn certificate(&mut self, version: u32) -> Result<CertificateDer<'static>, String> {
        if version == 2 {
            let kind = self.text()?;
            if kind != b"X.509" {
                return Err("a certificate that is not X.509".to_owned());
            }
        }
        let length = self.number()?;
        Ok(CertificateDer::from(self.take(length as usize)?.to_vec()))
    }
}

/// Opens a key: `SEQUENCE { SEQUENCE { protector, .. }, OCTET STRING { salt, key XOR stream, checksum } }`.
fn unprotect(der: &[u8], password: &Secret) -> Result<Key, String> {
    let wrong = || "its key is not in JKS's encryption".to_owned();
    let (info, _) = element(0x30, der).ok_or_else(wrong)?;
    let (algorithm, rest) = element(0x30, info).ok_or_else(wrong)?;
    if !algorithm.starts_with(&KEY_PROTECTOR) {
        return Err(wrong());
    }
    let (data, _) = element(0x04, rest).ok_or_else(wrong)?;
    let (salt, rest) = data.split_first_chunk::<DIGEST>().ok_or_else(wrong)?;
    let (encrypted, check) = rest.split_last_chunk::<DIGEST>().ok_or_else(wrong)?;
    let password = utf16(password)?;
    let mut stream = salt.to_vec();
    let mut key = Zeroizing::new(Vec::with_capacity(encrypted.len()));
    for piece in encrypted.chunks(DIGEST) {
        stream = Sha1::new().chain_update(&*password).chain_update(&stream).finalize().to_vec();
        key.extend(piece.iter().zip(&stream).map(|(byte, mask)| byte ^ mask));
    }
    let own = Sha1::new().chain_update(&*password).chain_update(&*key).finalize();
    if !bool::from(own.as_slice().ct_eq(check)) {
        return Err("its key cannot be decrypted: the key's password is wrong".to_owned());
    }
    Ok(Key(PrivateKeyDer::Pkcs8(key.to_vec().into())))
}

/// The content of a DER element with this tag, and what follows it.
pub(super) fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn utf16(password: &Secret) -> Result<Zeroizing<Vec<u8>>, String> {
    let text = password.expose_text().ok_or_else(|| "the password is not text".to_owned())?;
    Ok(Zeroizing::new(text.encode_utf16().flat_map(u16::to_be_bytes).collect()))
}
