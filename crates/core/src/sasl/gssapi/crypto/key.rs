//! A key and what it does: encrypt, decrypt, sign.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::entropy::Entropy;
use super::super::error::{KerberosError, KerberosErrorKind, Result};
use super::cts::Aes;
use super::derive::{self, Part};
use super::{Enctype, Usage};

/// The bytes in front of every plaintext that make equal ones differ.
const CONFOUNDER: usize = 16;

/// A Kerberos key. Wiped when it goes; its bytes never show.
#[derive(Clone)]
pub struct Key {
    enctype: Enctype,
    bytes: Zeroizing<Box<[u8]>>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.enctype)
    }
}

/// Keys are equal if type and bytes are; the comparison takes the same time wherever they differ.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.enctype == other.enctype && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

impl Eq for Key {}

impl Key {
    /// A key of these bytes.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Peer`] if they are not as many as the type's keys have.
    pub fn new(enctype: Enctype, bytes: &[u8]) -> Result<Self> {
        if bytes.len() != enctype.key_length() {
            let text =
                format!("a key of {} bytes for {enctype}, which has {}", bytes.len(), enctype.key_length());
            return Err(KerberosError::peer(text));
        }
        Ok(Self { enctype, bytes: Zeroizing::new(bytes.into()) })
    }

    /// The key of a password (string-to-key). `salt` and `params` are what the KDC says in ETYPE-INFO2.
    ///
    /// # Errors
    /// [`KerberosErrorKind::Peer`] for parameters that make no sense or ask for more than 2^20 rounds.
    pub fn from_password(
        enctype: Enctype,
        password: &[u8],
        salt: &[u8],
        params: Option<&[u8]>,
    ) -> Result<Self> {
        let bytes = derive::from_password(enctype, password, salt, params)?;
        Self::new(enctype, &bytes)
    }

    /// A new random key.
    pub(crate) fn random(enctype: Enctype, entropy: &mut Entropy) -> Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; enctype.key_length()]);
        entropy.fill(&mut bytes);
        Self::new(enctype, &bytes)
    }

    /// Its type.
    #[must_use]
    pub fn enctype(&self) -> Enctype {
        self.enctype
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn part(&self, usage: Usage, part: Part) -> Result<Zeroizing<Vec<u8>>> {
        derive::derive(self.enctype, &self.bytes, usage.0, part).ok_or_else(unusable)
    }

    /// The checksum at the end of what is encrypted.
    fn integrity(&self, usage: Usage, plain: &[u8], cipher: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let key = self.part(usage, Part::Integrity)?;
        let mac = match self.enctype {
            // Over what goes in.
            Enctype::Aes128Sha1 | Enctype::Aes256Sha1 => derive::hmac(self.enctype, &key, &[plain]),
            // Over what comes out, after the zero vector.
            Enctype::Aes128Sha256 | Enctype::Aes256Sha384 => {
                derive::hmac(self.enctype, &key, &[&[0; 16], cipher])
            }
        };
        let mut mac = mac.ok_or_else(unusable)?;
        mac.truncate(self.enctype.mac_length());
        Ok(mac)
    }

    /// Encrypts and signs, after a random block that makes equal messages differ.
    ///
    /// # Errors
    /// None: a key has the length of its type.
    pub fn encrypt(&self, usage: Usage, plain: &[u8], entropy: &mut Entropy) -> Result<Vec<u8>> {
        let mut confounder = [0; CONFOUNDER];
        entropy.fill(&mut confounder);
        self.encrypt_with(usage, plain, &confounder)
    }

    fn encrypt_with(&self, usage: Usage, plain: &[u8], confounder: &[u8; CONFOUNDER]) -> Result<Vec<u8>> {
        let whole = Zeroizing::new([confounder, plain].concat());
        let mut cipher = whole.to_vec();
        let aes = Aes::new(&self.part(usage, Part::Encryption)?).ok_or_else(unusable)?;
        aes.encrypt_cts(&mut cipher).ok_or_else(unusable)?;
        let mac = self.integrity(usage, &whole, &cipher)?;
        cipher.extend_from_slice(&mac);
        Ok(cipher)
    }

    /// Checks and decrypts.
    ///
    /// # Errors
    /// [`KerberosErrorKind::WrongKey`] if it was not encrypted with this key for this usage, or was changed since.
    pub fn decrypt(&self, usage: Usage, message: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let cut = || KerberosError::peer("an encrypted part of a Kerberos message is cut short");
        let length = message.len().checked_sub(self.enctype.mac_length()).ok_or_else(cut)?;
        let (cipher, mac) = message.split_at_checked(length).ok_or_else(cut)?;
        let mut plain = Zeroizing::new(cipher.to_vec());
        let aes = Aes::new(&self.part(usage, Part::Encryption)?).ok_or_else(unusable)?;
        aes.decrypt_cts(&mut plain).ok_or_else(cut)?;
        let expected = self.integrity(usage, &plain, cipher)?;
        if !bool::from(expected.as_slice().ct_eq(mac)) {
            return Err(KerberosError::new(
                KerberosErrorKind::WrongKey,
                format!("an encrypted part of a Kerberos message does not fit the {} key", self.enctype),
            ));
        }
        let head = CONFOUNDER.min(plain.len());
        plain.drain(..head);
        Ok(plain)
    }

    /// The checksum of these bytes in a row.
    pub(crate) fn checksum(&self, usage: Usage, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let key = self.part(usage, Part::Checksum)?;
        let mut mac = derive::hmac(self.enctype, &key, parts).ok_or_else(unusable)?;
        mac.truncate(self.enctype.mac_length());
        Ok(mac.to_vec())
    }

    /// Whether a checksum is right, in constant time.
    pub(crate) fn verify(&self, usage: Usage, parts: &[&[u8]], checksum: &[u8]) -> Result<bool> {
        Ok(self.checksum(usage, parts)?.as_slice().ct_eq(checksum).into())
    }
}

/// Cannot happen: the constructor checked the length.
fn unusable() -> KerberosError {
    KerberosError::peer("a key of a wrong length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digits = std::str::from_utf8(&digits).unwrap();
        (0..digits.len() / 2).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// What MIT Kerberos encrypted, one for each usage from 0.
    #[test]
    fn what_mit_kerberos_encrypted_with_hmac_sha1_is_read() {
        let cases = [
            (
                Enctype::Aes128Sha1,
                "",
                0,
                "5a5c0f0ba54f3828b2195e66ca24a289",
                "49ff8e11c173d9583a3254fbe7b1f1df36c538e8416784a1672e6676",
            ),
            (
                Enctype::Aes128Sha1,
                "1",
                1,
                "98450e3f3baa13f5c99beb936981b06f",
                "f86742f537b35dc2174a4dbaa920faf9042090b065e1ebb1cad9a65394",
            ),
            (
                Enctype::Aes128Sha1,
                "9 bytesss",
                2,
                "9062430c8cda3388922e6d6a509f5b7a",
                "68fb9679601f45c78857b2bf820fd6e53eca8d42fd4b1d7024a09205abb7cd2ec26c355d2f",
            ),
            (
                Enctype::Aes128Sha1,
                "13 bytes byte",
                3,
                "033ee6502c54fd23e27791e987983827",
                "ec366d0327a933bf49330e650e49bc6b974637fe80bf532fe51795b4809718e6194724db948d1fd637",
            ),
            (
                Enctype::Aes128Sha1,
                "30 bytes bytes bytes bytes byt",
                4,
                "dceeb70b3de76562e689226c76429148",
                "c96081032d5d8eeb7e32b4089f789d0faa481dea74c0f97cbf3146ddfcf8e800156ecb532fc203e30ff600b63b350939fece510f02d7ff1e7bac",
            ),
            (
                Enctype::Aes256Sha1,
                "",
                0,
                "17f275f2954f2ed1f90c377ba7f4d6a369aa0136e0bf0c927ad6133c693759a9",
                "e5094c55ee7b38262e2b044280b069379a95bf95bd8376fb3281b435",
            ),
            (
                Enctype::Aes256Sha1,
                "30 bytes bytes bytes bytes byt",
                4,
                "f1c795e9248a09338d82c3f8d5b567040b0110736845041347235b1404231398",
                "d1137a4d634cfece924d0da1f3b1",
            ),
        ];
        for (enctype, plain, usage, key, cipher) in &cases[..6] {
            let key = Key::new(*enctype, &unhex(key)).unwrap();
            let mut found = key.decrypt(Usage(*usage), &unhex(cipher)).unwrap();
            assert_eq!(std::str::from_utf8(&found).unwrap(), *plain);
            found.clear();
            assert!(key.decrypt(Usage(usage + 1), &unhex(cipher)).is_err());
        }
        let (enctype, _, usage, key, cut) = &cases[6];
        let key = Key::new(*enctype, &unhex(key)).unwrap();
        assert!(key.decrypt(Usage(*usage), &unhex(cut)).is_err());
    }

    /// RFC 8009, appendix A, usage 2.
    #[test]
    fn the_vectors_of_rfc_8009() {
        let short = Key::new(Enctype::Aes128Sha256, &unhex("3705d96080c17728a0e800eab6e0d23c")).unwrap();
        let long = Key::new(
            Enctype::Aes256Sha384,
            &unhex("6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52"),
        )
        .unwrap();
        let cases = [
            (
                &short,
                "",
                "7e5895eaf2672435bad817f545a37148",
                "ef85fb890bb8472f4dab20394dca781dad877eda39d50c870c0d5a0a8e48c718",
            ),
            (
                &short,
                "000102030405",
                "7bca285e2fd4130fb55b1a5c83bc5b24",
                "84d7f30754ed987bab0bf3506beb09cfb55402cef7e6877ce99e247e52d16ed4421dfdf8976c",
            ),
            (
                &long,
                "",
                "f764e9fa15c276478b2c7d0c4e5f58e4",
                "41f53fa5bfe7026d91faf9be959195a058707273a96a40f0a01960621ac612748b9bbfbe7eb4ce3c",
            ),
            (
                &long,
                "000102030405",
                "b80d3251c1f6471494256ffe712d0b9a",
                "4ed7b37c2bcac8f74f23c1cf07e62bc7b75fb3f637b9f559c7f664f69eab7b6092237526ea0d1f61cb20d69d10f2",
            ),
        ];
        for (key, plain, confounder, cipher) in cases {
            let confounder: [u8; 16] = unhex(confounder).try_into().unwrap();
            let encrypted = key.encrypt_with(Usage(2), &unhex(plain), &confounder).unwrap();
            assert_eq!(encrypted, unhex(cipher));
            assert_eq!(key.decrypt(Usage(2), &encrypted).unwrap().to_vec(), unhex(plain));
        }
        let message = unhex("000102030405060708090a0b0c0d0e0f1011121314");
        assert_eq!(short.checksum(Usage(2), &[&message]).unwrap(), unhex("d78367186643d67b411cba9139fc1dee"));
        assert_eq!(
            long.checksum(Usage(2), &[&message]).unwrap(),
            unhex("45ee791567eefca37f4ac1e0222de80d43c3bfa06699672a")
        );
    }

    #[test]
    fn a_key_does_not_show() {
        let key = Key::new(Enctype::Aes128Sha1, &[0xab; 16]).unwrap();
        assert_eq!(format!("{key:?}"), "Key(aes128-cts-hmac-sha1-96)");
        assert!(Key::new(Enctype::Aes128Sha1, &[0; 32]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_encrypted_comes_back_and_a_changed_bit_is_seen(
            which in 0usize..4, plain in proptest::collection::vec(any::<u8>(), 0..80), seed: [u8; 32], at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut entropy = Entropy::from_seed(seed);
            let key = Key::random(Enctype::DEFAULT[which], &mut entropy).unwrap();
            let mut cipher = key.encrypt(Usage(11), &plain, &mut entropy).unwrap();
            prop_assert_eq!(key.decrypt(Usage(11), &cipher).unwrap().to_vec(), plain);
            let at = at.index(cipher.len());
            cipher[at] ^= 1 << bit;
            prop_assert!(key.decrypt(Usage(11), &cipher).is_err());
            for cut in 0..cipher.len() {
                prop_assert!(key.decrypt(Usage(11), &cipher[..cut]).is_err());
            }
        }
    }
}
