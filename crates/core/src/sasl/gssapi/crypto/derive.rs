//! Keys from keys and from passwords.
//!
//! # References
//! RFC 3961, 5.1 (n-fold) and 5.3 (simplified profile); RFC 3962, 4; RFC 8009, 3 and 4.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384};
use zeroize::{Zeroize, Zeroizing};

use super::super::error::{KerberosError, KerberosErrorKind, Result};
use super::cts::Aes;
use super::enctype::Enctype;

/// The most rounds that a password is hashed: a KDC's answer decides them before anything proves that it is the KDC's. A million
/// take about a second.
const MAX_ITERATIONS: u32 = 1 << 20;

/// The last byte of a derivation's constant: for a checksum, for encryption, for the checksum of what is encrypted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Checksum = 0x99,
    Encryption = 0xaa,
    Integrity = 0x55,
}

/// The key for one part of one usage.
pub(super) fn derive(enctype: Enctype, base: &[u8], usage: u32, part: Part) -> Option<Zeroizing<Vec<u8>>> {
    let mut label = [0; 5];
    let (number, last) = label.split_at_mut_checked(4)?;
    number.copy_from_slice(&usage.to_be_bytes());
    last.copy_from_slice(&[part as u8]);
    match (enctype, part) {
        (Enctype::Aes128Sha1 | Enctype::Aes256Sha1, _) => derive_sha1(enctype, base, &label),
        (Enctype::Aes128Sha256, _) | (Enctype::Aes256Sha384, Part::Encryption) => {
            derive_sha2(enctype, base, &label, enctype.key_length())
        }
        (Enctype::Aes256Sha384, _) => derive_sha2(enctype, base, &label, 24),
    }
}

/// DK of RFC 3961: the folded constant encrypted again and again.
fn derive_sha1(enctype: Enctype, base: &[u8], label: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let aes = Aes::new(base)?;
    let mut block: [u8; 16] = n_fold(label, 16).try_into().ok()?;
    let mut key = Zeroizing::new(Vec::with_capacity(32));
    while key.len() < enctype.key_length() {
        aes.encrypt_block(&mut block);
        key.extend_from_slice(&block);
    }
    block.zeroize();
    Some(key)
}

/// KDF-HMAC-SHA2 of RFC 8009: one round of SP 800-108 in counter mode.
fn derive_sha2(enctype: Enctype, base: &[u8], label: &[u8], length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let bits = u32::try_from(length * 8).ok()?.to_be_bytes();
    let mut key = hmac(enctype, base, &[&[0, 0, 0, 1], label, &[0], &bits])?;
    key.truncate(length);
    Some(key)
}

/// The HMAC that goes with an encryption type, in full length.
pub(super) fn hmac(enctype: Enctype, key: &[u8], parts: &[&[u8]]) -> Option<Zeroizing<Vec<u8>>> {
    fn run<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Option<Zeroizing<Vec<u8>>> {
        let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
        for part in parts {
            mac.update(part);
        }
        Some(Zeroizing::new(mac.finalize().into_bytes().to_vec()))
    }
    match enctype {
        Enctype::Aes128Sha1 | Enctype::Aes256Sha1 => run::<Hmac<Sha1>>(key, parts),
        Enctype::Aes128Sha256 => run::<Hmac<Sha256>>(key, parts),
        Enctype::Aes256Sha384 => run::<Hmac<Sha384>>(key, parts),
    }
}

/// The key of a password. `params` is what the KDC said of it: four bytes with the number of rounds.
pub(super) fn from_password(
    enctype: Enctype,
    password: &[u8],
    salt: &[u8],
    params: Option<&[u8]>,
) -> Result<Zeroizing<Vec<u8>>> {
    let iterations = match params {
        None => enctype.default_iterations(),
        Some(params) => {
            let bytes: [u8; 4] = params
                .try_into()
                .map_err(|_| KerberosError::peer("the KDC's string-to-key parameters are not four bytes"))?;
            u32::from_be_bytes(bytes)
        }
    };
    if iterations == 0 || iterations > MAX_ITERATIONS {
        return Err(KerberosError::new(
            KerberosErrorKind::Peer,
            format!(
                "the KDC wants the password hashed {iterations} times: from 1 to {MAX_ITERATIONS} are accepted"
            ),
        ));
    }
    let length = enctype.key_length();
    let mut hashed = Zeroizing::new(vec![0; length]);
    let named = [enctype.name().as_bytes(), &[0], salt].concat();
    let key = match enctype {
        Enctype::Aes128Sha1 | Enctype::Aes256Sha1 => {
            pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut hashed);
            derive_sha1(enctype, &hashed, b"kerberos")
        }
        Enctype::Aes128Sha256 => {
            pbkdf2::pbkdf2_hmac::<Sha256>(password, &named, iterations, &mut hashed);
            derive_sha2(enctype, &hashed, b"kerberos", length)
        }
        Enctype::Aes256Sha384 => {
            pbkdf2::pbkdf2_hmac::<Sha384>(password, &named, iterations, &mut hashed);
            derive_sha2(enctype, &hashed, b"kerberos", length)
        }
    };
    key.ok_or_else(|| KerberosError::peer("a key of a wrong length"))
}

/// Stretches or folds bytes to `size` of them (RFC 3961, 5.1): copies of the input, each turned right by 13 more bits, are
/// added up as numbers of that size in ones' complement.
fn n_fold(input: &[u8], size: usize) -> Vec<u8> {
    let bits = input.len() * 8;
    if bits == 0 || size == 0 {
        return vec![0; size];
    }
    let total = lcm(input.len(), size);
    let turned = |position: usize| -> u16 {
        // The byte at `position` of the endless row of turned copies.
        let copy = position / input.len();
        let shift = (13 * copy) % bits;
        (0..8).fold(0, |byte, bit| {
            let at = ((position % input.len()) * 8 + bit + bits - shift) % bits;
            let source = input.get(at / 8).copied().unwrap_or(0);
            (byte << 1) | u16::from(source >> (7 - at % 8) & 1)
        })
    };
    let mut sum = vec![0u8; size];
    for row in 0..total / size {
        let mut carry = 0;
        for (column, byte) in sum.iter_mut().enumerate().rev() {
            let added = u16::from(*byte) + turned(row * size + column) + carry;
            *byte = (added & 0xff) as u8;
            carry = added >> 8;
        }
        // The carry out of the top comes in again at the bottom.
        for byte in sum.iter_mut().rev() {
            let added = u16::from(*byte) + carry;
            *byte = (added & 0xff) as u8;
            carry = added >> 8;
        }
    }
    sum
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 3961, A.1.
    #[test]
    fn n_fold_has_the_vectors_of_rfc_3961() {
        for (input, size, output) in [
            ("012345", 8, "be072631276b1955"),
            ("password", 7, "78a07b6caf85fa"),
            ("Rough Consensus, and Running Code", 8, "bb6ed30870b7f0e0"),
            ("password", 21, "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"),
            ("MASSACHVSETTS INSTITVTE OF TECHNOLOGY", 24, "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"),
            ("Q", 21, "518a54a2 15a8452a 518a54a2 15a8452a 518a54a2 15"),
            ("ba", 21, "fb25d531 ae897449 9f52fd92 ea9857c4 ba24cf29 7e"),
            ("kerberos", 8, "6b65726265726f73"),
            ("kerberos", 16, "6b65726265726f737b9b5b2b93132b93"),
            ("kerberos", 21, "8372c236344e5f1550cd0747e15d62ca7a5a3bcea4"),
            ("kerberos", 32, "6b65726265726f737b9b5b2b93132b935c9bdcdad95c9899c4cae4dee6d6cae4"),
        ] {
            assert_eq!(hex(&n_fold(input.as_bytes(), size)), output.replace(' ', ""), "{input} {size}");
        }
    }

    /// RFC 3962, appendix B.
    #[test]
    fn passwords_have_the_keys_of_rfc_3962() {
        let salt = b"ATHENA.MIT.EDUraeburn";
        for (iterations, short, long) in [
            (
                1u32,
                "42263c6e89f4fc28b8df68ee09799f15",
                "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161",
            ),
            (
                2,
                "c651bf29e2300ac27fa469d693bdda13",
                "a2e16d16b36069c135d5e9d2e25f896102685618b95914b467c67622225824ff",
            ),
            (
                1200,
                "4c01cd46d632d01e6dbe230a01ed642a",
                "55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a",
            ),
        ] {
            let params = iterations.to_be_bytes();
            let key = |enctype| from_password(enctype, b"password", salt, Some(&params)).unwrap();
            assert_eq!(hex(&key(Enctype::Aes128Sha1)), short);
            assert_eq!(hex(&key(Enctype::Aes256Sha1)), long);
        }
    }

    /// RFC 8009, appendix A.
    #[test]
    fn passwords_have_the_keys_of_rfc_8009() {
        let random =
            [0x10, 0xdf, 0x9d, 0xd7, 0x83, 0xe5, 0xbc, 0x8a, 0xce, 0xa1, 0x73, 0x0e, 0x74, 0x35, 0x5f, 0x61];
        let salt = [&random[..], b"ATHENA.MIT.EDUraeburn"].concat();
        let key = |enctype| from_password(enctype, b"password", &salt, None).unwrap();
        assert_eq!(hex(&key(Enctype::Aes128Sha256)), "089bca48b105ea6ea77ca5d2f39dc5e7");
        assert_eq!(
            hex(&key(Enctype::Aes256Sha384)),
            "45bd806dbf6a833a9cffc1c94589a222367a79bc21c413718906e9f578a78467"
        );
    }

    /// RFC 8009, appendix A: the three keys of usage 2.
    #[test]
    fn usages_have_the_keys_of_rfc_8009() {
        let short =
            [0x37, 0x05, 0xd9, 0x60, 0x80, 0xc1, 0x77, 0x28, 0xa0, 0xe8, 0x00, 0xea, 0xb6, 0xe0, 0xd2, 0x3c];
        let of = |part| hex(&derive(Enctype::Aes128Sha256, &short, 2, part).unwrap());
        assert_eq!(of(Part::Checksum), "b31a018a48f54776f403e9a396325dc3");
        assert_eq!(of(Part::Encryption), "9b197dd1e8c5609d6e67c3e37c62c72e");
        assert_eq!(of(Part::Integrity), "9fda0e56ab2d85e1569a688696c26a6c");
    }

    #[test]
    fn a_kdc_cannot_make_the_client_hash_for_ever() {
        for params in [&[0, 0, 0, 0][..], &[0xff; 4], &[0, 0x10, 0, 1], &[1], &[0; 5]] {
            assert!(from_password(Enctype::Aes256Sha1, b"p", b"s", Some(params)).is_err());
        }
    }
}
