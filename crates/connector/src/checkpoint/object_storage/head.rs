//! What a storage on objects says of itself: who has it, and which checkpoints there are. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointId;

/// The number of a head. Each head is one above the one it replaces; the highest counts.
pub(super) type Number = u64;

/// The version of a head that is written here.
const FORMAT: u32 = 1;

/// A head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    format: u32,
    /// Who has the storage, or had it last.
    pub(super) holder: Holder,
    /// Whether the holder gave it back.
    pub(super) released: bool,
    /// The term that each checkpoint was written in: where its bytes are.
    pub(super) checkpoints: BTreeMap<CheckpointId, Number>,
}

/// Who takes a storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) job: String,
    /// For people.
    pub(super) process: u32,
    /// What tells this holder from every other.
    pub(super) nonce: u64,
    /// Who sees the highest head stay the same for so long may take the storage.
    pub(super) lease_ms: u64,
    /// The number of the head by which this holder took the storage: above those of all holders before.
    pub(super) term: Number,
}

/// Why a head can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Later(u32),
    Damaged(String),
}

impl Head {
    /// The head by which a holder takes the storage after another.
    pub(super) fn taken(before: Option<&Self>, holder: Holder) -> Self {
        let checkpoints = before.map(|head| head.checkpoints.clone()).unwrap_or_default();
        Self { format: FORMAT, holder, released: false, checkpoints }
    }

    /// The head after a checkpoint, without those that are not needed any more.
    pub(super) fn with(&self, id: CheckpointId, surplus: &[CheckpointId]) -> Self {
        let mut next = self.clone();
        for old in surplus {
            next.checkpoints.remove(old);
        }
        next.checkpoints.insert(id, self.holder.term);
        next
    }

    pub(super) fn released(&self) -> Self {
        Self { released: true, ..self.clone() }
    }

    /// Whether the bytes of a checkpoint belong to nobody: a holder before this one wrote them and did not come to list them.
    /// What later holders write is never said to be lost, whenever this is asked.
    pub(super) fn has_lost(&self, id: CheckpointId, term: Number) -> bool {
        term < self.holder.term && self.checkpoints.get(&id) != Some(&term)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Nothing in it can fail to be written as JSON; were it so, the empty head is refused by whoever reads it.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
        let Versioned { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format != FORMAT {
            return Err(Unreadable::Later(format));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

impl Holder {
    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// The name of a head below the folder of heads.
pub(super) fn head_name(number: Number) -> String {
    format!("{number:020}")
}

pub(super) fn parse_head_name(name: &str) -> Option<Number> {
    parse_number(name)
}

/// The name of a checkpoint's bytes below the folder of checkpoints. No two holders write under one name.
pub(super) fn checkpoint_name(id: CheckpointId, term: Number) -> String {
    format!("{id:020}-{term:020}")
}

pub(super) fn parse_checkpoint_name(name: &str) -> Option<(CheckpointId, Number)> {
    let (id, term) = name.split_once('-')?;
    Some((parse_number(id)?, parse_number(term)?))
}

fn parse_number(digits: &str) -> Option<u64> {
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(term: Number) -> Holder {
        Holder { job: String::from("j"), process: 7, nonce: u64::MAX, lease_ms: 10_000, term }
    }

    #[test]
    fn golden_text() {
        let head = Head::taken(None, holder(3)).with(9, &[]);
        let expected = "{\n  \"format\": 1,\n  \"holder\": {\n    \"job\": \"j\",\n    \"process\": 7,\n    \"nonce\": 18446744073709551615,\n    \
                        \"lease_ms\": 10000,\n    \"term\": 3\n  },\n  \"released\": false,\n  \"checkpoints\": {\n    \"9\": 3\n  }\n}";
        assert_eq!(
            String::from_utf8(head.encode()).unwrap(),
            expected,
            "the format may only change with its version"
        );
        assert_eq!(Head::decode(expected.as_bytes()), Ok(head));
        for cut in 0..expected.len() {
            assert!(matches!(Head::decode(&expected.as_bytes()[..cut]), Err(Unreadable::Damaged(_))));
        }
        let later = expected.replace("\"format\": 1", "\"format\": 2");
        assert_eq!(Head::decode(later.as_bytes()), Err(Unreadable::Later(2)));
    }

    #[test]
    fn what_is_lost_is_of_an_earlier_term_and_not_listed() {
        let first = Head::taken(None, holder(1)).with(1, &[]).with(2, &[]);
        let second = Head::taken(Some(&first), holder(4)).with(3, &[1]);
        assert_eq!(second.checkpoints, BTreeMap::from([(2, 1), (3, 4)]));
        assert!(second.has_lost(1, 1) && second.has_lost(3, 1) && second.has_lost(9, 3));
        assert!(!second.has_lost(2, 1) && !second.has_lost(3, 4));
        assert!(!second.has_lost(9, 4) && !second.has_lost(2, 5), "what is or may yet be listed");
    }

    #[test]
    fn names_are_read_back_and_others_are_not() {
        assert_eq!(parse_checkpoint_name(&checkpoint_name(7, u64::MAX)), Some((7, u64::MAX)));
        assert_eq!(parse_head_name(&head_name(12)), Some(12));
        for other in ["", "12", "-", "00000000000000000012 ", "99999999999999999999", "+0000000000000000012"]
        {
            assert_eq!(parse_head_name(other), None, "{other}");
            assert_eq!(parse_checkpoint_name(other), None, "{other}");
        }
    }
}
