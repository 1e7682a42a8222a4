//! Checksums of parts put together: CRC-32C (RFC 3720, B.4) of a head and a body from the checksum of each.
//!
//! The checksum of bytes is, apart from its constants, a polynomial over GF(2) modulo P. Appending n bytes multiplies it by x to the power
//! of 8n and adds the checksum of what was appended. That power depends on the length alone, so a batch computes
//! it once; with it, the checksum of another head costs one multiplication.

/// P without its highest term, the lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// x to the power of 8, 16, 32 and so on, each the square of the one before.
#[expect(clippy::indexing_slicing, reason = "a constant: a place out of bounds would not compile")]
const POWERS: [u32; usize::BITS as usize] = {
    let mut powers = [0; usize::BITS as usize];
    let mut power = ONE >> 8;
    let mut i = 0;
    while i < powers.len() {
        powers[i] = power;
        power = multiply(power, power);
        i += 1;
    }
    powers
};

/// The product of two polynomials modulo P.
const fn multiply(a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut shifted = b;
    let mut bit = ONE;
    while bit != 0 {
        // All bits if the term is there, none if not: which it is cannot be foreseen, so a branch would cost more.
        product ^= shifted & ((a & bit != 0) as u32).wrapping_neg();
        shifted = (shifted >> 1) ^ (POLYNOMIAL & (shifted & 1).wrapping_neg());
        bit >>= 1;
    }
    product
}

/// The checksum of a body, ready to be put behind any head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    crc: u32,
    /// x to the power of eight times the body's length.
    shift: u32,
}

impl Tail {
    pub(super) fn new(body: &[u8]) -> Self {
        let mut shift = ONE;
        let mut length = body.len();
        for power in POWERS {
            if length == 0 {
                break;
            }
            if length & 1 != 0 {
                shift = multiply(shift, power);
            }
            length >>= 1;
        }
        Self { crc: crc32c::crc32c(body), shift }
    }

    /// The checksum of a head and the body behind it.
    pub(super) fn behind(self, head: &[u8]) -> u32 {
        multiply(self.shift, crc32c::crc32c(head)) ^ self.crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_checksum_of_parts_is_that_of_the_whole(
            whole in proptest::collection::vec(any::<u8>(), 0..5000),
            at: prop::sample::Index,
        ) {
            let (head, body) = whole.split_at(at.index(whole.len() + 1));
            prop_assert_eq!(Tail::new(body).behind(head), crc32c::crc32c(&whole));
        }
    }

    #[test]
    fn long_bodies_too() {
        for length in [1 << 20, (1 << 24) - 1, (1 << 24) + 4097] {
            let whole: Vec<u8> =
                (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let (head, body) = whole.split_at(40);
            assert_eq!(Tail::new(body).behind(head), crc32c::crc32c(&whole));
        }
    }
}
