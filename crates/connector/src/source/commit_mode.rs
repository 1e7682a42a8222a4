//! When positions are committed to the consumer group.

use std::time::Duration;

/// When a source commits its positions to its group: for lag tools and for jobs that start at committed offsets. A restore never
/// looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// Never.
    Off,
    /// When a checkpoint is complete: what the group has is never ahead of what is processed. The default where there is a group.
    #[default]
    OnCheckpoints,
    /// At this interval, whether checkpoints are taken or not, and at the end: positions of records that were handed out, which may
    /// not be processed yet. Kafka's `enable.auto.commit`, Flink's `KAFKA_PERIODIC`.
    Periodic(Duration),
}

/// The interval of Kafka's consumers: `auto.commit.interval.ms`.
pub const AUTO_COMMIT_INTERVAL: Duration = Duration::from_millis(5000);

impl CommitMode {
    /// The mode of Flink's classic consumer: with checkpoints its own flag decides and `enable.auto.commit` is ignored; without
    /// them `enable.auto.commit` and an interval above zero do.
    ///
    /// Flink: `OffsetCommitModes.fromConfiguration`.
    #[must_use]
    pub fn classic(
        checkpointing: bool,
        commit_on_checkpoints: bool,
        auto_commit: bool,
        interval: Duration,
    ) -> Self {
        match (checkpointing, commit_on_checkpoints, auto_commit && !interval.is_zero()) {
            (true, true, _) => Self::OnCheckpoints,
            (false, _, true) => Self::Periodic(interval),
            (true, false, _) | (false, _, false) => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // scenario: 5.2.4, 5.2.5, 5.2.6, 5.2.7
    #[test]
    fn the_table_of_the_classic_consumer() {
        let periodic = CommitMode::Periodic(AUTO_COMMIT_INTERVAL);
        for (checkpointing, flag, auto, expected) in [
            (true, true, true, CommitMode::OnCheckpoints),
            (true, true, false, CommitMode::OnCheckpoints),
            (true, false, true, CommitMode::Off),
            (true, false, false, CommitMode::Off),
            (false, true, true, periodic),
            (false, false, true, periodic),
            (false, true, false, CommitMode::Off),
            (false, false, false, CommitMode::Off),
        ] {
            let mode = CommitMode::classic(checkpointing, flag, auto, AUTO_COMMIT_INTERVAL);
            assert_eq!(mode, expected, "{checkpointing} {flag} {auto}");
        }
        assert_eq!(CommitMode::classic(false, true, true, Duration::ZERO), CommitMode::Off);
    }
}
