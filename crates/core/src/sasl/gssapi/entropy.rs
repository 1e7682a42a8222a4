//! Random bytes for one exchange, from a seed that the caller draws.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Expands 32 random bytes to the confounders, nonces and keys of one exchange: HMAC-SHA-256 of a counter, keyed by the seed.
///
/// Each exchange takes a new seed from the system's generator. Equal seeds give equal bytes, so a seed that is used twice breaks
/// the encryption of both exchanges.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Entropy {
    seed: [u8; 32],
    counter: u64,
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(..)")
    }
}

impl Entropy {
    /// From 32 bytes of the system's generator.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            // HMAC takes keys of every length.
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.seed) else { return };
            mac.update(&self.counter.to_be_bytes());
            self.counter = self.counter.wrapping_add(1);
            let mut block: [u8; 32] = mac.finalize().into_bytes().into();
            for (byte, random) in chunk.iter_mut().zip(&block) {
                *byte = *random;
            }
            block.zeroize();
        }
    }

    /// A number from 0 to 2^31 - 1: peers differ in how they read larger ones.
    pub(crate) fn positive(&mut self) -> i32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        i32::from_be_bytes(bytes) & i32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_given_twice() {
        let mut entropy = Entropy::from_seed([7; 32]);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let mut bytes = [0; 48];
            entropy.fill(&mut bytes);
            assert!(seen.insert(bytes[..16].to_vec()) && seen.insert(bytes[32..].to_vec()));
        }
        assert_eq!(format!("{entropy:?}"), "Entropy(..)");
    }
}
