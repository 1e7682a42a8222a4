//! What a source reads: topics by name, topics by pattern, partitions, or what a subscriber says.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use milena::{Client, TopicPartition};
use regex::Regex;

use crate::{BoxError, Error, ErrorKind, Result};

/// The topics and partitions a source reads.
#[derive(Clone, Debug)]
pub enum Subscription {
    /// All partitions of named topics. Each must exist.
    Topics(BTreeSet<Arc<str>>),
    /// All partitions of the topics whose whole name matches. Kafka's internal topics are left out.
    Pattern(Pattern),
    /// Named partitions. Each must exist.
    Partitions(BTreeSet<TopicPartition>),
    /// What a subscriber of the user's own says at each discovery. What it does not say any more is treated as removed.
    Custom(Arc<dyn Subscriber>),
}

/// Says which partitions a source reads, anew at each discovery.
///
/// Flink: `KafkaSubscriber`.
pub trait Subscriber: fmt::Debug + Send + Sync {
    /// The partitions wanted now. Those that do not exist fail the first discovery, and are looked for again by later ones.
    ///
    /// An error is treated as a failed discovery: it is tried again with growing delays, up to the limit of
    /// [`DiscoveryRetry`](super::DiscoveryRetry).
    fn partitions<'a>(
        &'a self,
        client: &'a Client,
    ) -> BoxFuture<'a, std::result::Result<BTreeSet<TopicPartition>, BoxError>>;
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
            // Only a discovery can tell.
            Self::Custom(_) => true,
        }
    }

    /// The topics that must exist; none for a pattern and for a subscriber of the user's own.
    #[must_use]
    pub fn named_topics(&self) -> Option<BTreeSet<Arc<str>>> {
        match self {
            Self::Topics(topics) => Some(topics.clone()),
            Self::Pattern(_) | Self::Custom(_) => None,
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
