//! What a source reads: topics by name, topics by pattern, or partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use milena::TopicPartition;
use regex::Regex;

use crate::{Error, ErrorKind, Result};

/// The topics and partitions a source reads.
#[derive(Clone, Debug)]
pub enum Subscription {
    /// All partitions of named topics. Each must exist.
    Topics(BTreeSet<Arc<str>>),
    /// All partitions of the topics whose whole name matches. Kafka's internal topics are left out.
    Pattern(Pattern),
    /// Named partitions. Each must exist.
    Partitions(BTreeSet<TopicPartition>),
}

/// A regular expression that must match the whole name.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// `Misuse` if it is not a regular expression.
    pub fn new(expression: &str) -> Result<Self> {
        Regex::new(&format!("^(?:{expression})$")).map(Self).map_err(|error| {
            Error::new(ErrorKind::Misuse, format!("{expression:?} is not a regular expression"))
                .with_source(error)
        })
    }

    /// Whether the whole name matches.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.0.is_match(topic)
    }
}

impl Subscription {
    /// Whether a partition is read.
    #[must_use]
    pub fn contains(&self, partition: &TopicPartition) -> bool {
        match self {
            Self::Topics(topics) => topics.contains(&*partition.topic),
            Self::Pattern(pattern) => pattern.matches(&partition.topic),
            Self::Partitions(partitions) => partitions.contains(partition),
        }
    }

    /// The topics that must exist; none for a pattern.
    #[must_use]
    pub fn named_topics(&self) -> Option<BTreeSet<Arc<str>>> {
        match self {
            Self::Topics(topics) => Some(topics.clone()),
            Self::Pattern(_) => None,
            Self::Partitions(partitions) => {
                Some(partitions.iter().map(|partition| Arc::clone(&partition.topic)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milena::PartitionId;

    // scenario: 5.2.34
    #[test]
    fn a_pattern_matches_whole_names_only() {
        let pattern = Pattern::new("a|bc").unwrap();
        for (name, matches) in [("a", true), ("bc", true), ("abc", false), ("a1", false), ("xa", false)] {
            assert_eq!(pattern.matches(name), matches, "{name}");
        }
        assert_eq!(Pattern::new("(").unwrap_err().kind(), ErrorKind::Misuse);
    }

    #[test]
    fn a_set_of_partitions_contains_only_them() {
        let one = TopicPartition::new("t", PartitionId(1));
        let subscription = Subscription::Partitions(BTreeSet::from([one.clone()]));
        assert!(subscription.contains(&one));
        assert!(!subscription.contains(&TopicPartition::new("t", PartitionId(0))));
        assert_eq!(subscription.named_topics().unwrap().len(), 1);
    }
}
