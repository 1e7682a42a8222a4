//! Kafka's version numbers and where the jars of a version are kept.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::{KafkaError, KafkaErrorKind};
use super::probe::Ask;

/// The newest Kafka that milena is tested with, and the default of every test.
pub const NEWEST: &str = "4.3.1";

/// A version of Kafka, as "4.3.1" or "0.11.0.3"; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KafkaVersion([u16; 4]);

impl KafkaVersion {
    /// True if the version has the old four-part form, "0.x.y.z".
    fn is_old(self) -> bool {
        self < Self([1, 0, 0, 0])
    }

    /// True if a single process can run as broker and controller without ZooKeeper, with transactions (3.3 and later:
    /// the first line whose KRaft mode was declared ready, KIP-833).
    pub fn runs_kraft(self) -> bool {
        self >= Self([3, 3, 0, 0])
    }

    /// True if the broker takes the property `listeners` (0.9 and later); before, it has `port` and `host.name`.
    pub(crate) fn knows_listeners(self) -> bool {
        self >= Self([0, 9, 0, 0])
    }

    /// How to ask a broker of this version whether it lives.
    pub(crate) fn sign_of_life(self) -> Ask {
        if self < Self([0, 9, 0, 0]) { Ask::Topic } else { Ask::Everything }
    }

    /// True if the broker logs through log4j 1.x and needs a configuration for it (before 4.0).
    pub fn logs_with_log4j1(self) -> bool {
        self < Self([4, 0, 0, 0])
    }

    /// True if the image apache/kafka exists for this version (3.7 and later, KIP-975).
    pub fn has_container_image(self) -> bool {
        self >= Self([3, 7, 0, 0])
    }

    /// The folder of this version's jars: `$KAFKA_LIBS/<version>`, else `~/.cache/milena/kafka/<version>`.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] if that folder holds no jar; the message names the command that fills it.
    pub fn jars(self) -> Result<PathBuf, KafkaError> {
        let folder = jar_root().join(self.to_string());
        if holds_broker(&folder) {
            return Ok(folder);
        }
        Err(KafkaError::new(
            KafkaErrorKind::Absent,
            format!("no jars in {}: run `cargo xtask kafka jars {self}`", folder.display()),
        ))
    }
}

/// The folder that holds one folder of jars per version.
fn jar_root() -> PathBuf {
    if let Some(libs) = std::env::var_os("KAFKA_LIBS") {
        return PathBuf::from(libs);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".cache/milena/kafka")
}

fn holds_broker(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("kafka_2.") && name.ends_with(".jar")
    })
}

impl FromStr for KafkaVersion {
    type Err = KafkaError;

    fn from_str(text: &str) -> Result<Self, KafkaError> {
        let wrong = || {
            KafkaError::new(
                KafkaErrorKind::Misuse,
                format!("{text:?} is not a Kafka version such as {NEWEST} or 0.11.0.3"),
            )
        };
        let mut parts = [0u16; 4];
        let mut slots = parts.iter_mut();
        let mut count = 0;
        for part in text.split('.') {
            *slots.next().ok_or_else(wrong)? = part.parse().map_err(|_| wrong())?;
            count += 1;
        }
        let version = Self(parts);
        if count == if version.is_old() { 4 } else { 3 } { Ok(version) } else { Err(wrong()) }
    }
}

impl fmt::Display for KafkaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        if self.is_old() { write!(f, "{a}.{b}.{c}.{d}") } else { write!(f, "{a}.{b}.{c}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_print_and_order() {
        let texts = ["0.8.2.2", "0.11.0.3", "1.0.2", "2.8.2", "3.3.2", "3.9.1", "3.10.0", "4.0.0", "4.3.1"];
        let versions: Vec<KafkaVersion> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
        for (text, version) in texts.iter().zip(&versions) {
            assert_eq!(version.to_string(), *text);
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "4", "4.3", "4.3.1.0", "0.11.0", "4.3.x", "4.3.1-rc1", "70000.1.1", "latest"] {
            assert!(text.parse::<KafkaVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn kraft_begins_at_3_3() {
        let kraft = |text: &str| text.parse::<KafkaVersion>().unwrap().runs_kraft();
        assert!(!kraft("2.8.2") && !kraft("3.2.3") && kraft("3.3.0") && kraft(NEWEST));
    }
}
