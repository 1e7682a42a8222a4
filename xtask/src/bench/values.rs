//! The values that all peers send: text as programs write it, half of it random, always the same.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cases::Case;

const WORDS: [&str; 32] = [
    "order",
    "shipment",
    "payment",
    "invoice",
    "customer",
    "accepted",
    "pending",
    "refused",
    "amsterdam",
    "berlin",
    "prague",
    "vienna",
    "tea",
    "coffee",
    "paper",
    "ink",
    "letter",
    "parcel",
    "express",
    "standard",
    "retry",
    "final",
    "draft",
    "north",
    "south",
    "east",
    "west",
    "gold",
    "silver",
    "basic",
    "monthly",
    "yearly",
];

/// How many values a file has. Codecs must not find a value again within a batch; others are quicker to send from the cache.
fn count(case: &Case) -> u32 {
    if case.codec == "none" { 997 } else { 10_007 }
}

/// Writes the file of a case's values into `folder` unless it is there.
pub(crate) fn file(folder: &Path, case: &Case) -> Result<PathBuf> {
    let count = count(case);
    let path = folder.join(format!("values-{}-{count}", case.value_size));
    if !path.exists() {
        std::fs::write(&path, make(case.value_size as usize, count))
            .with_context(|| path.display().to_string())?;
    }
    Ok(path)
}

fn make(size: usize, count: u32) -> Vec<u8> {
    // xorshift64
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(size * count as usize);
    for _ in 0..count {
        let mut value = format!("{:016x},\"user\":\"{:08x}\",\"text\":\"", random(), random() as u32);
        while value.len() < size {
            let word = WORDS.get(random() as usize % WORDS.len()).copied().unwrap_or_default();
            value += word;
            value.push(' ');
        }
        bytes.extend(value.bytes().take(size));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_whole_distinct_and_always_the_same() {
        let values = make(100, 997);
        assert_eq!(values.len(), 99_700);
        assert_eq!(values, make(100, 997));
        let distinct: std::collections::BTreeSet<&[u8]> = values.chunks(100).collect();
        assert_eq!(distinct.len(), 997);
    }
}
