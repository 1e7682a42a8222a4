//! The kinds of work that are measured.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Consume,
    Produce,
    Latency,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Produce => "produce",
            Self::Latency => "latency",
        }
    }
}

/// The settings that the author of a client would choose for throughput; as a way of a client with default settings, its main way with
/// these.
pub(crate) const TUNED: &str = "tuned";
/// The settings that a client comes with.
pub(crate) const DEFAULT: &str = "default";

/// One kind of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) partitions: u32,
    pub(crate) value_size: u32,
    pub(crate) codec: String,
    pub(crate) profile: String,
    pub(crate) keys: bool,
    pub(crate) threads: u32,
    /// Every way of a client is measured, not its main ones only.
    pub(crate) detailed: bool,
}

impl Case {
    fn new(role: Role, partitions: u32, value_size: u32, codec: &str) -> Self {
        let size = if value_size >= 1000 { "1k".to_owned() } else { value_size.to_string() };
        let end = if codec == "none" { String::new() } else { format!("-{codec}") };
        Self {
            name: format!("{}-{partitions}-{size}{end}", role.name()),
            role,
            partitions,
            value_size,
            codec: codec.to_owned(),
            profile: TUNED.to_owned(),
            keys: false,
            threads: 1,
            detailed: partitions != 1000 && value_size == 100 && codec == "none",
        }
    }

    fn named(self, end: &str, change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self { name: format!("{}-{end}", self.name), detailed: false, ..self };
        change(&mut case);
        case
    }

    /// The case in words.
    pub(crate) fn text(&self) -> String {
        let mut text = match self.role {
            Role::Latency => "from send to receipt at 1,000 records a second, linger 0".to_owned(),
            role => format!("{}, {} settings", role.name(), self.profile),
        };
        let plural = if self.partitions == 1 { "" } else { "s" };
        text += &format!(", {} partition{plural}, {} B", self.partitions, self.value_size);
        if self.codec != "none" {
            text += &format!(", {}", self.codec);
        }
        if self.keys {
            text += ", a key and 3 headers";
        }
        if self.threads > 1 {
            text += &format!(", {} threads on one client, not pinned", self.threads);
        }
        text
    }

    /// Records of the window, from those of a case with 100-byte values and no codec.
    pub(crate) fn window(&self, records: u64) -> u64 {
        if self.role == Role::Latency {
            return (records / 300).clamp(500, 10_000);
        }
        let by_size = if self.value_size >= 1000 { 5 } else { 1 };
        let by_codec = if self.codec == "none" { 1 } else { 2 };
        let by_partitions = if self.partitions >= 1000 { 2 } else { 1 };
        (records / by_size / by_codec / by_partitions).max(500)
    }

    /// Records in a batch of the topic that is read: about what a producer makes of a steady stream.
    pub(crate) fn fill_batch(&self) -> u64 {
        if self.partitions >= 1000 { 4 } else { 128 * 1024 / (u64::from(self.value_size) + 10) }
    }

    /// The case whose topic this one can read, too.
    pub(crate) fn topic(&self) -> String {
        let keys = if self.keys { "keys" } else { "plain" };
        format!("bench-{}-{}-{}-{keys}", self.partitions, self.value_size, self.codec)
    }
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for role in [Role::Consume, Role::Produce] {
        for partitions in [1, 6, 1000] {
            for size in [100, 1000] {
                for codec in ["none", "lz4", "zstd"] {
                    cases.push(Case::new(role, partitions, size, codec));
                }
            }
        }
        let base = || Case::new(role, 6, 100, "none");
        cases.push(base().named("keys", |case| case.keys = true));
        cases.push(base().named("default", |case| case.profile = DEFAULT.to_owned()));
        let wide = Case::new(role, 1000, 100, "none");
        cases.push(wide.named("default", |case| case.profile = DEFAULT.to_owned()));
    }
    let threads = Case::new(Role::Produce, 6, 100, "none");
    for count in [1, 4] {
        cases.push(threads.clone().named(&format!("threads-{count}"), |case| case.threads = count));
    }
    cases.push(Case { name: "latency".to_owned(), ..Case::new(Role::Latency, 6, 100, "none") });
    cases
}

/// What the bars are about.
const BARS: [&str; 21] = [
    "consume-1-100",
    "consume-6-100",
    "consume-6-1k",
    "consume-6-100-lz4",
    "consume-6-100-zstd",
    "consume-1000-100",
    "consume-6-100-keys",
    "consume-6-100-default",
    "consume-1000-100-default",
    "produce-1-100",
    "produce-6-100",
    "produce-6-1k",
    "produce-6-100-lz4",
    "produce-6-100-zstd",
    "produce-1000-100",
    "produce-6-100-keys",
    "produce-6-100-default",
    "produce-1000-100-default",
    "produce-6-100-threads-1",
    "produce-6-100-threads-4",
    "latency",
];

/// The cases of these names.
pub(crate) fn select(names: &[String]) -> Result<Vec<Case>> {
    let is_wanted = |case: &Case, name: &str| match name {
        "all" => true,
        "bars" => BARS.contains(&case.name.as_str()),
        name => case.name == name || name.ends_with('*') && case.name.starts_with(name.trim_end_matches('*')),
    };
    let bars = ["bars".to_owned()];
    let names = if names.is_empty() { &bars[..] } else { names };
    for name in names {
        if !all().iter().any(|case| is_wanted(case, name)) {
            bail!("no case {name:?}; `cargo xtask bench peers --list` names them");
        }
    }
    Ok(all().into_iter().filter(|case| names.iter().any(|name| is_wanted(case, name))).collect())
}

/// One of each kind.
pub(crate) fn smoke() -> Vec<Case> {
    let names = ["consume-6-100", "consume-6-100-lz4", "consume-6-100-zstd", "consume-6-100-keys"];
    let more = ["produce-6-100", "produce-6-100-lz4", "produce-6-100-zstd", "produce-6-100-keys", "latency"];
    let wanted = |case: &Case| names.iter().chain(&more).any(|name| *name == case.name);
    all().into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_select_what_they_say() {
        let mut names: Vec<String> = all().into_iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(select(&[]).unwrap().len(), BARS.len());
        assert_eq!(select(&["consume-6-100".to_owned()]).unwrap().len(), 1);
        assert_eq!(select(&["consume-6-100*".to_owned()]).unwrap().len(), 5);
        assert_eq!(select(&["all".to_owned()]).unwrap().len(), count);
        assert!(select(&["consume-7".to_owned()]).is_err());
        assert_eq!(smoke().len(), 9);
    }
}
