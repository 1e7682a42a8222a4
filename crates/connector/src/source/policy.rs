//! Named policies for what other connectors do silently: each has a default that loses nothing.

use std::time::Duration;

use milena::TopicPartition;

use super::split::{Split, TopicId};
use crate::{Error, ErrorKind, Result};

/// How often partitions are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Once, at the start. Bounded sources always do this.
    Once,
    /// At the start and then at this interval. Default every 5 minutes.
    Every(Duration),
}

impl Default for Discovery {
    fn default() -> Self {
        Self::Every(Duration::from_secs(300))
    }
}

/// What happens when looking for partitions or resolving their offsets fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryRetry {
    /// Failures in a row after which the source fails. Default 20, about eight minutes.
    pub limit: u32,
    /// The first delay; it doubles with each failure. Default 500 ms.
    pub initial: Duration,
    /// The longest delay. Default 30 s.
    pub longest: Duration,
}

impl Default for DiscoveryRetry {
    fn default() -> Self {
        Self { limit: 20, initial: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

/// What happens when a partition disappears while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedPartition {
    /// Discoveries in a row that must not list it before it counts as gone. Default 3.
    pub confirmations: u32,
    /// What happens then. Default fail.
    pub action: RemovedAction,
}

impl Default for RemovedPartition {
    fn default() -> Self {
        Self { confirmations: 3, action: RemovedAction::Fail }
    }
}

/// What happens when a partition is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemovedAction {
    /// The source fails with an error that names it. The default.
    #[default]
    Fail,
    /// It is not read any more; should it come back, it is new.
    Drop,
    /// Its position is kept and it is tried again and again.
    Wait,
}

/// What happens when a topic was deleted and created again under its name, so that its offsets mean other records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecreatedTopic {
    /// The source fails with an error that says so. The default.
    #[default]
    Fail,
    /// Reading starts at the first offset of the new topic, with a warning.
    StartOver,
    /// Reading goes on at the same offset, with a warning: what Flink did without its opt-in check.
    Ignore,
}

/// What happens to a partition in the checkpoint whose topic is not subscribed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsubscribedPartition {
    /// Restoring fails with an error that names it. The default.
    #[default]
    Fail,
    /// It is dropped with a warning (Flink's classic consumer).
    Drop,
    /// It is still read, with a warning (Flink's `KafkaSource`).
    Keep,
}

/// What happens when the wanted offset is outside the log: retention deleted it, or the log lost its tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutOfRange {
    /// The source fails with a `DataLoss` error that names the wanted and the available offsets. The default.
    #[default]
    Fail,
    /// Reading goes on at the first offset that is there, or, if the log lost its tail, at the first offset that it lost; counted
    /// and logged.
    Earliest,
    /// Reading goes on at the end; counted and logged.
    Latest,
}

impl DiscoveryRetry {
    pub(super) fn delay(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.longest)
    }
}

/// Whether the topic is the one it was. One that was deleted and created again is refused, unless the policy is to go on.
pub(super) fn same_topic(split: &Split, topic_id: Option<TopicId>, policy: RecreatedTopic) -> Result<bool> {
    let (Some(was), Some(is)) = (split.topic_id, topic_id) else { return Ok(true) };
    if was == is {
        return Ok(true);
    }
    let at = split.topic_partition.clone();
    match policy {
        RecreatedTopic::Fail => return Err(recreated(at)),
        RecreatedTopic::StartOver => {
            tracing::warn!(partition = %at, "its topic was re-created; reading starts at its first offset, as chosen");
        }
        RecreatedTopic::Ignore => {
            tracing::warn!(partition = %at, "its topic was re-created; reading goes on at the same offset, as chosen");
        }
    }
    Ok(false)
}

fn recreated(at: TopicPartition) -> Error {
    let text = "the topic was deleted and created again: its offsets mean other records now; restart without the checkpoint, or \
                choose to start over or to ignore it";
    Error::new(ErrorKind::Topic, text).with_topic_partition(at)
}

/// Whether trying again may help: not for wrong use, lost data, refused credentials and features the broker lacks.
pub(super) fn is_transient(error: &Error) -> bool {
    if let Some(client) = error.client() {
        return !matches!(
            client.kind(),
            milena::ErrorKind::Auth
                | milena::ErrorKind::Misuse
                | milena::ErrorKind::Unsupported
                | milena::ErrorKind::Closed
                | milena::ErrorKind::DataLoss
        );
    }
    !matches!(error.kind(), ErrorKind::Misuse | ErrorKind::DataLoss | ErrorKind::State | ErrorKind::Closed)
}
