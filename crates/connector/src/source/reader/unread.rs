//! A barrier in the middle of what was handed out.

use milena::{Offset, TopicPartition};

use super::{SourceReader, position};
use crate::Result;
use crate::source::split::Split;

/// Elements that a reader handed out and that its host has not passed on: a checkpoint stands before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Their partition.
    pub topic_partition: TopicPartition,
    /// The offset of the first. Elements of one record stay together.
    pub next_offset: Offset,
    /// The largest event timestamp before it, over the whole life of the split, in milliseconds.
    pub max_timestamp: Option<i64>,
}

impl Unread {
    pub(in crate::source) fn put_back(&self, splits: &mut [Split]) {
        for split in splits.iter_mut().filter(|split| split.topic_partition == self.topic_partition) {
            split.next_offset = self.next_offset;
            // A larger one is from before the split went back, and says nothing of where it is now.
            split.max_timestamp = self.max_timestamp.filter(|seen| Some(*seen) <= split.max_timestamp);
        }
    }
}

impl<T: Send + 'static> SourceReader<T> {
    /// As [`snapshot`](Self::snapshot), but before elements that were handed out and not passed on. What is committed to the group when the
    /// checkpoint completes is the same.
    pub fn snapshot_before(&mut self, checkpoint: u64, unread: &[Unread]) -> Vec<Split> {
        let mut splits = self.snapshot(checkpoint);
        for unread in unread {
            unread.put_back(&mut splits);
        }
        if !unread.is_empty() && self.commits_with_checkpoints() {
            let mut positions = self.positions();
            positions.extend(splits.iter().map(|split| (split.topic_partition.clone(), position(split))));
            self.commits.on_snapshot(checkpoint, positions);
        }
        splits
    }

    /// Goes on with commits and fetches that are under way, while what was handed out last is still being passed on. Never waits.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn go_on(&mut self) -> Result<()> {
        self.start_commit(self.now());
        self.poll_work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_from_before_the_split_went_back_does_not_count() {
        let at = TopicPartition::new("t", 0);
        for (seen, now, counts) in
            [(Some(5), Some(9), Some(5)), (None, Some(9), None), (Some(50), Some(9), None)]
        {
            let mut splits = [Split { max_timestamp: now, ..Split::new(at.clone(), Offset(30)) }];
            let unread = Unread { topic_partition: at.clone(), next_offset: Offset(20), max_timestamp: seen };
            unread.put_back(&mut splits);
            assert_eq!((splits[0].next_offset, splits[0].max_timestamp), (Offset(20), counts));
        }
    }
}
