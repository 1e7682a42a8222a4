//! An enumerator that goes on from a checkpoint.

use milena::TopicPartition;

use super::{Enumerator, EnumeratorConfig};
use crate::source::enumerator_state::{EnumeratorState, UnresolvedSplit, merge};
use crate::source::policy::UnsubscribedPartition;
use crate::source::split::Split;
use crate::source::start::StopAt;
use crate::{Error, ErrorKind, Result};

impl Enumerator {
    /// An enumerator of a restored job. `splits` are what the readers had in the checkpoint: their positions count, and every
    /// partition is dealt again, so parallelism may have changed.
    ///
    /// Stops follow the configuration of this run: a source without a stop reads on behind an earlier one; a source with a stop
    /// gives one to splits that have none, and, if the run before was at its end, a new one to all. A run that was cut off
    /// keeps the stops it had begun with.
    ///
    /// # Errors
    /// `State` if two readers had the same partition, `Topic` if a partition is not subscribed any more and the policy is to fail.
    pub fn restore(
        config: EnumeratorConfig,
        parallelism: u32,
        state: EnumeratorState,
        splits: impl IntoIterator<Item = Split>,
    ) -> Result<Self> {
        let mut enumerator = Self::new(config, parallelism);
        enumerator.initial_discovery_finished = state.initial_discovery_finished;
        if state.initial_discovery_finished && state.start != enumerator.config.start.to_string() {
            tracing::warn!(
                configured = %enumerator.config.start, taken = %state.start,
                "the start mode is not used: reading goes on where the checkpoint left off"
            );
        }
        let splits = merge(state.splits, splits)?;
        let complete = splits.iter().all(Split::is_finished);
        for split in splits {
            enumerator.restore_split(split, complete)?;
        }
        for UnresolvedSplit { topic_partition, start } in state.unresolved {
            if enumerator.known.contains_key(&topic_partition)
                || enumerator.reopened.contains_key(&topic_partition)
            {
                continue;
            }
            if enumerator.is_wanted(&topic_partition)? {
                enumerator.unresolved.insert(topic_partition, start);
            }
        }
        Ok(enumerator)
    }

    fn restore_split(&mut self, mut split: Split, complete: bool) -> Result<()> {
        if !self.is_wanted(&split.topic_partition)? {
            return Ok(());
        }
        if self.config.stop == StopAt::Never {
            split.stop = None;
            self.learn(split);
        } else if complete || split.stop.is_none() {
            self.reopened.insert(split.topic_partition.clone(), split);
        } else {
            self.learn(split);
        }
        Ok(())
    }

    /// Whether a partition of the checkpoint is still to be read: the policy decides where it is not subscribed any more.
    fn is_wanted(&mut self, at: &TopicPartition) -> Result<bool> {
        if self.config.subscription.contains(at) {
            return Ok(true);
        }
        match self.config.unsubscribed {
            UnsubscribedPartition::Fail => {
                let text = "the checkpoint has a partition that is not subscribed any more; subscribe to it, or choose to \
                            drop or keep such partitions";
                Err(Error::new(ErrorKind::Topic, text).with_topic_partition(at.clone()))
            }
            UnsubscribedPartition::Drop => {
                tracing::warn!(partition = %at, "dropped from the checkpoint: not subscribed any more");
                self.metrics.dropped += 1;
                Ok(false)
            }
            UnsubscribedPartition::Keep => {
                tracing::warn!(partition = %at, "still read: it is in the checkpoint, though not subscribed any more");
                self.metrics.kept_unsubscribed += 1;
                Ok(true)
            }
        }
    }

    /// Whether imported partitions wait for their offsets.
    pub(super) fn is_resolving_stored(&self) -> bool {
        !self.unresolved.is_empty()
    }
}
