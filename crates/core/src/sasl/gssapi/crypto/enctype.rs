//! The numbers, names and sizes of encryption types.

use std::fmt;
use std::str::FromStr;

use super::super::error::{KerberosError, KerberosErrorKind};

/// An encryption type that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Enctype {
    /// aes128-cts-hmac-sha1-96 (17, RFC 3962).
    Aes128Sha1,
    /// aes256-cts-hmac-sha1-96 (18, RFC 3962).
    Aes256Sha1,
    /// aes128-cts-hmac-sha256-128 (19, RFC 8009).
    Aes128Sha256,
    /// aes256-cts-hmac-sha384-192 (20, RFC 8009).
    Aes256Sha384,
}

impl Enctype {
    /// All of them, in the order in which they are asked for without `permitted_enctypes`: that of MIT Kerberos.
    pub const DEFAULT: [Self; 4] =
        [Self::Aes256Sha1, Self::Aes128Sha1, Self::Aes256Sha384, Self::Aes128Sha256];

    /// The type of this number; `None` if it is not spoken here.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            17 => Self::Aes128Sha1,
            18 => Self::Aes256Sha1,
            19 => Self::Aes128Sha256,
            20 => Self::Aes256Sha384,
            _ => return None,
        })
    }

    /// Its number (IANA, Kerberos encryption type numbers).
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Aes128Sha1 => 17,
            Self::Aes256Sha1 => 18,
            Self::Aes128Sha256 => 19,
            Self::Aes256Sha384 => 20,
        }
    }

    /// Its name, as `krb5.conf` and RFC 8009 have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Sha1 => "aes128-cts-hmac-sha1-96",
            Self::Aes256Sha1 => "aes256-cts-hmac-sha1-96",
            Self::Aes128Sha256 => "aes128-cts-hmac-sha256-128",
            Self::Aes256Sha384 => "aes256-cts-hmac-sha384-192",
        }
    }

    /// The bytes of a key.
    #[must_use]
    pub fn key_length(self) -> usize {
        match self {
            Self::Aes128Sha1 | Self::Aes128Sha256 => 16,
            Self::Aes256Sha1 | Self::Aes256Sha384 => 32,
        }
    }

    /// The bytes of a checksum, and of the one at the end of what is encrypted.
    pub(crate) fn mac_length(self) -> usize {
        match self {
            Self::Aes128Sha1 | Self::Aes256Sha1 => 12,
            Self::Aes128Sha256 => 16,
            Self::Aes256Sha384 => 24,
        }
    }

    /// The number of the checksum type that goes with it.
    pub(crate) fn checksum_number(self) -> i32 {
        match self {
            Self::Aes128Sha1 => 15,
            Self::Aes256Sha1 => 16,
            Self::Aes128Sha256 => 19,
            Self::Aes256Sha384 => 20,
        }
    }

    /// How often a password is hashed if the KDC does not say.
    pub(super) fn default_iterations(self) -> u32 {
        match self {
            Self::Aes128Sha1 | Self::Aes256Sha1 => 4096,
            Self::Aes128Sha256 | Self::Aes256Sha384 => 32_768,
        }
    }

    /// The types that a word of `permitted_enctypes` means: a name, one of its aliases, or a family.
    #[must_use]
    pub fn from_word(word: &str) -> &'static [Self] {
        match word.to_ascii_lowercase().as_str() {
            "aes128-cts-hmac-sha1-96" | "aes128-cts" | "aes128-sha1" => &[Self::Aes128Sha1],
            "aes256-cts-hmac-sha1-96" | "aes256-cts" | "aes256-sha1" => &[Self::Aes256Sha1],
            "aes128-cts-hmac-sha256-128" | "aes128-sha2" => &[Self::Aes128Sha256],
            "aes256-cts-hmac-sha384-192" | "aes256-sha2" => &[Self::Aes256Sha384],
            "aes" => &[Self::Aes256Sha1, Self::Aes128Sha1, Self::Aes256Sha384, Self::Aes128Sha256],
            "default" => &Self::DEFAULT,
            _ => &[],
        }
    }
}

impl fmt::Display for Enctype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Enctype {
    type Err = KerberosError;

    fn from_str(text: &str) -> Result<Self, KerberosError> {
        match Self::from_word(text) {
            [one] => Ok(*one),
            _ => Err(KerberosError::new(
                KerberosErrorKind::Config,
                format!("{text:?} is no encryption type that is spoken here"),
            )),
        }
    }
}

/// Encryption types by number, as a person knows them.
pub(crate) fn describe(number: i32) -> String {
    match Enctype::from_number(number) {
        Some(enctype) => enctype.name().to_owned(),
        None => match number {
            1..=3 => format!("DES ({number})"),
            5 | 7 | 16 => format!("des3 ({number})"),
            23 | 24 => format!("rc4-hmac ({number})"),
            25 | 26 => format!("camellia ({number})"),
            _ => format!("enctype {number}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_come_back() {
        for enctype in Enctype::DEFAULT {
            assert_eq!(Enctype::from_number(enctype.number()), Some(enctype));
            assert_eq!(enctype.name().parse::<Enctype>().unwrap(), enctype);
            assert_eq!(describe(enctype.number()), enctype.name());
        }
        assert_eq!(Enctype::from_number(23), None);
        assert!("rc4-hmac".parse::<Enctype>().is_err());
        assert_eq!(Enctype::from_word("AES").len(), 4);
    }
}
