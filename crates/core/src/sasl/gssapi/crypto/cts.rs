//! AES in CBC mode with ciphertext stealing, the variant that always swaps the last two blocks (CBC-CS3), from a zero vector.
//!
//! # References
//! RFC 3962, 5; NIST SP 800-38A addendum.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};

const BLOCK: usize = 16;

type Block = [u8; BLOCK];

/// AES with a key of either length.
pub(super) enum Aes {
    Short(Box<Aes128>),
    Long(Box<Aes256>),
}

impl Aes {
    /// `None` if the key is neither 16 nor 32 bytes.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => Aes128::new_from_slice(key).ok().map(|aes| Self::Short(Box::new(aes))),
            32 => Aes256::new_from_slice(key).ok().map(|aes| Self::Long(Box::new(aes))),
            _ => None,
        }
    }

    pub(super) fn encrypt_block(&self, block: &mut Block) {
        let mut array = Array::from(*block);
        match self {
            Self::Short(aes) => aes.encrypt_block(&mut array),
            Self::Long(aes) => aes.encrypt_block(&mut array),
        }
        *block = array.into();
    }

    fn decrypt_block(&self, block: &mut Block) {
        let mut array = Array::from(*block);
        match self {
            Self::Short(aes) => aes.decrypt_block(&mut array),
            Self::Long(aes) => aes.decrypt_block(&mut array),
        }
        *block = array.into();
    }

    /// Encrypts in place. `None`, and nothing is changed, if there is less than one block.
    pub(super) fn encrypt_cts(&self, data: &mut [u8]) -> Option<()> {
        if data.len() == BLOCK {
            let block = data.first_chunk_mut::<BLOCK>()?;
            self.encrypt_block(block);
            return Some(());
        }
        let (head, last_two) = split(data)?;
        let mut previous = [0; BLOCK];
        for block in head.as_chunks_mut::<BLOCK>().0 {
            xor(block, &previous);
            self.encrypt_block(block);
            previous = *block;
        }
        let (whole, partial) = last_two.split_first_chunk_mut::<BLOCK>()?;
        xor(whole, &previous);
        self.encrypt_block(whole);
        let stolen = *whole;
        let mut last = [0; BLOCK];
        copy(&mut last, partial);
        xor(&mut last, &stolen);
        self.encrypt_block(&mut last);
        *whole = last;
        copy(partial, &stolen);
        Some(())
    }

    /// The reverse of [`Aes::encrypt_cts`].
    pub(super) fn decrypt_cts(&self, data: &mut [u8]) -> Option<()> {
        if data.len() == BLOCK {
            let block = data.first_chunk_mut::<BLOCK>()?;
            self.decrypt_block(block);
            return Some(());
        }
        let (head, last_two) = split(data)?;
        let mut previous = [0; BLOCK];
        for block in head.as_chunks_mut::<BLOCK>().0 {
            let cipher = *block;
            self.decrypt_block(block);
            xor(block, &previous);
            previous = cipher;
        }
        let (whole, partial) = last_two.split_first_chunk_mut::<BLOCK>()?;
        self.decrypt_block(whole);
        // The end of the block before the last was stolen: it stands at the end of what the last one decrypts to.
        let mut stolen = *whole;
        copy(&mut stolen, partial);
        xor(partial, whole);
        self.decrypt_block(&mut stolen);
        xor(&mut stolen, &previous);
        *whole = stolen;
        Some(())
    }
}

/// What comes before the last two blocks, and those: one whole block and 1 to 16 bytes.
fn split(data: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let blocks = data.len().div_ceil(BLOCK);
    data.split_at_mut_checked(blocks.checked_sub(2)?.checked_mul(BLOCK)?)
}

/// `into ^= with`, over the shorter of the two.
fn xor(into: &mut [u8], with: &[u8]) {
    for (byte, other) in into.iter_mut().zip(with) {
        *byte ^= other;
    }
}

fn copy(into: &mut [u8], from: &[u8]) {
    for (byte, other) in into.iter_mut().zip(from) {
        *byte = *other;
    }
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

    /// RFC 3962, appendix B.
    #[test]
    fn the_vectors_of_rfc_3962() {
        let aes = Aes::new(b"chicken teriyaki").unwrap();
        let sentence = b"I would like the General Gau's Chicken, please, and wonton soup.";
        for (length, cipher) in [
            (17, "c6353568f2bf8cb4d8a580362da7ff7f 97"),
            (31, "fc00783e0efdb2c1d445d4c8eff7ed22 97687268d6ecccc0c07b25e25ecfe5"),
            (32, "39312523a78662d5be7fcbcc98ebf5a8 97687268d6ecccc0c07b25e25ecfe584"),
            (
                47,
                "97687268d6ecccc0c07b25e25ecfe584 b3fffd940c16a18c1b5549d2f838029e 39312523a78662d5be7fcbcc98ebf5",
            ),
            (
                48,
                "97687268d6ecccc0c07b25e25ecfe584 9dad8bbb96c4cdc03bc103e1a194bbd8 39312523a78662d5be7fcbcc98ebf5a8",
            ),
            (
                64,
                "97687268d6ecccc0c07b25e25ecfe584 39312523a78662d5be7fcbcc98ebf5a8 \
                 4807efe836ee89a526730dbc2f7bc840 9dad8bbb96c4cdc03bc103e1a194bbd8",
            ),
        ] {
            let mut data = sentence[..length].to_vec();
            aes.encrypt_cts(&mut data).unwrap();
            assert_eq!(data, unhex(cipher), "{length}");
            aes.decrypt_cts(&mut data).unwrap();
            assert_eq!(data, sentence[..length]);
        }
    }

    #[test]
    fn less_than_a_block_is_refused() {
        let aes = Aes::new(&[1; 32]).unwrap();
        for length in 0..BLOCK {
            assert!(aes.encrypt_cts(&mut vec![0; length]).is_none());
            assert!(aes.decrypt_cts(&mut vec![0; length]).is_none());
        }
        assert!(Aes::new(&[1; 24]).is_none());
    }

    proptest! {
        #[test]
        fn every_length_comes_back(long: bool, data in proptest::collection::vec(any::<u8>(), 16..200)) {
            let key = if long { vec![9; 32] } else { vec![9; 16] };
            let aes = Aes::new(&key).unwrap();
            let mut bytes = data.clone();
            aes.encrypt_cts(&mut bytes).unwrap();
            prop_assert_ne!(&bytes, &data);
            aes.decrypt_cts(&mut bytes).unwrap();
            prop_assert_eq!(bytes, data);
        }
    }
}
