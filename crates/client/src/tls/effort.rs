//! How much work it is to make keys of passwords, bounded before it is done.
//!
//! A store says itself how often its password is to be hashed, and how much memory that takes; crates that read stores bound that by
//! entry or not at all. Here the whole of a file is looked at. What stands inside of an encrypted part is not seen: who wrote that knew the
//! password.

use super::jks::element;

/// How many rounds the password may be hashed, over all that a store tells openly: some seconds. Writers take 1,000 to 1,000,000.
const MAX_ROUNDS: u64 = 5_000_000;

/// The most memory that scrypt may take, in bytes; OpenSSL's default is 16 MiB.
const MAX_MEMORY: u64 = 128 << 20;

/// PBKDF2 (1.2.840.113549.1.5.12), the schemes of PKCS#12 (1.2.840.113549.1.12.1, and one more byte), scrypt (1.3.6.1.4.1.11591.4.11).
const PBKDF2: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const PKCS12: [u8; 11] = [0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01];
const SCRYPT: [u8; 11] = [0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];

/// Whether a PKCS#12 store or an encrypted key can be opened with a sane amount of work.
pub(super) fn check(der: &[u8]) -> Result<(), String> {
    let mut rounds = mac(der).unwrap_or(0);
    for (at, name) in der.windows(PBKDF2.len()).enumerate().filter(|(_, name)| name.starts_with(&[0x06])) {
        let after = der.get(at + name.len()..).unwrap_or_default();
        if name == PBKDF2 {
            rounds = rounds.saturating_add(numbers(after).map_or(0, |[rounds, ..]| rounds));
        } else if name == PKCS12 {
            // Two derivations: a key and a vector.
            let each = numbers(after.get(1..).unwrap_or_default()).map_or(0, |[rounds, ..]| rounds);
            rounds = rounds.saturating_add(each.saturating_mul(2));
        } else if name == SCRYPT {
            let [cost, block, lanes] = numbers(after).unwrap_or_default();
            let memory = cost.saturating_mul(block).saturating_mul(lanes.max(1)).saturating_mul(128);
            if memory > MAX_MEMORY {
                return Err(format!(
                    "its password is to be hashed by scrypt over {memory} bytes, which is too much"
                ));
            }
            // Some hashing a kilobyte.
            rounds = rounds.saturating_add(memory / 1024);
        }
    }
    if rounds > MAX_ROUNDS {
        return Err(format!("its password is to be hashed {rounds} times, which is too much"));
    }
    Ok(())
}

/// The rounds of a store's checksum: `SEQUENCE { version, contents, SEQUENCE { digest, salt, rounds } }`.
fn mac(der: &[u8]) -> Option<u64> {
    let (store, _) = element(0x30, der)?;
    let (_, rest) = element(0x02, store)?;
    let (_, rest) = element(0x30, rest)?;
    let (mac, _) = element(0x30, rest)?;
    let (_, rest) = element(0x30, mac)?;
    let (_, rest) = element(0x04, rest)?;
    element(0x02, rest).map(|(rounds, _)| number(rounds))
}

/// `SEQUENCE { OCTET STRING, INTEGER, .. }`: the integers, those that are there.
fn numbers(der: &[u8]) -> Option<[u64; 3]> {
    let (inside, _) = element(0x30, der)?;
    let (_, mut rest) = element(0x04, inside)?;
    let mut numbers = [0; 3];
    for slot in &mut numbers {
        let Some((digits, after)) = element(0x02, rest) else { break };
        (*slot, rest) = (number(digits), after);
    }
    Some(numbers)
}

fn number(digits: &[u8]) -> u64 {
    let digits: Vec<u8> = digits.iter().copied().skip_while(|digit| *digit == 0).collect();
    match digits.len() {
        0..=8 => digits.iter().fold(0, |number, &digit| number << 8 | u64::from(digit)),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn derivation(name: &[u8], numbers: &[&[u8]]) -> Vec<u8> {
        let numbers = numbers.iter().flat_map(|digits| der(2, digits)).collect::<Vec<u8>>();
        [name, &der(0x30, &[der(4, b"salt"), numbers].concat())].concat()
    }

    #[test]
    fn rounds_are_counted_over_the_whole_file() {
        let million = derivation(&PBKDF2, &[&[0x0f, 0x42, 0x40]]);
        assert!(check(&million.repeat(5)).is_ok());
        assert!(check(&million.repeat(6)).unwrap_err().contains("6000000 times"));
        let huge = derivation(&PBKDF2, &[&[0x7f, 0xff, 0xff, 0xff]]);
        assert!(check(&huge).unwrap_err().contains("2147483647 times"));
        assert!(check(&derivation(&PBKDF2, &[&[0xff; 9]])).is_err());
        let old = derivation(&[&PKCS12[..], &[3]].concat(), &[&[0x0f, 0x42, 0x40]]);
        assert!(check(&old.repeat(2)).is_ok());
        assert!(check(&old.repeat(3)).is_err());
    }

    #[test]
    fn a_checksum_and_scrypt_are_bounded_too() {
        let mac = |rounds: &[u8]| {
            let mac = der(0x30, &[der(0x30, &[]), der(4, b"salt"), der(2, rounds)].concat());
            der(0x30, &[der(2, &[3]), der(0x30, &[]), mac].concat())
        };
        assert!(check(&mac(&[8, 0])).is_ok());
        assert!(check(&mac(&[0x7f, 0xff, 0xff, 0xff])).is_err());
        assert!(check(&derivation(&SCRYPT, &[&[0x40, 0], &[8], &[1]])).is_ok());
        let error = check(&derivation(&SCRYPT, &[&[0x40, 0, 0, 0], &[8], &[1]])).unwrap_err();
        assert!(error.contains("scrypt over 1099511627776 bytes"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = check(&bytes);
            let _ = check(&[&PBKDF2[..], &bytes].concat());
        }
    }
}
