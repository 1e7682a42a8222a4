//! A reader and its consumer group: what is committed when, and who else commits there.

use std::collections::BTreeMap;
use std::time::Instant;

use milena::{ErrorCode, TopicPartition};

use super::{SourceReader, position};
use crate::progress::Position;
use crate::source::commit_mode::CommitMode;
use crate::source::fetching;

/// Every so many commits the group is looked at first.
const COMMITS_BETWEEN_LOOKS: u64 = 10;

impl<T: Send + 'static> SourceReader<T> {
    pub(super) fn commits_with_checkpoints(&self) -> bool {
        self.settings().commits == CommitMode::OnCheckpoints && self.settings().group_id.is_some()
    }

    /// Where the group should be: behind what was handed out, control records included.
    pub(super) fn positions(&self) -> BTreeMap<TopicPartition, Position> {
        let reading = self.cursors.values().map(|cursor| &cursor.split).chain(&self.ending);
        let positions = reading.map(|split| (split.topic_partition.clone(), position(split)));
        self.finished.clone().into_iter().chain(positions).collect()
    }

    /// Makes the positions due, if the mode is to commit by the clock and it is time, or the end.
    pub(super) fn commit_periodically(&mut self, now: Instant, at_end: bool) {
        let CommitMode::Periodic(interval) = self.settings().commits else { return };
        if !at_end && now < self.next_commit {
            return;
        }
        self.next_commit = now + interval;
        self.commit_number += 1;
        let positions = self.positions();
        if !positions.is_empty() {
            self.commits.on_snapshot(self.commit_number, positions);
            self.commits.on_complete(self.commit_number);
        }
    }

    pub(super) fn start_commit(&mut self, now: Instant) {
        let Some(group_id) = self.settings().group_id.clone() else { return };
        let Some(request) = self.commits.poll_commit(now) else { return };
        self.commits_sent += 1;
        let look = self.commits_sent.is_multiple_of(COMMITS_BETWEEN_LOOKS);
        let expected =
            look.then(|| self.commits.committed().clone()).filter(|committed| !committed.is_empty());
        self.work.push(fetching::commit(&self.client, &group_id, &request, expected));
    }

    /// Offsets that this reader did not commit: somebody else uses the group.
    pub(super) fn on_foreign_commits(&mut self, foreign: &[TopicPartition]) {
        let Some(first) = foreign.first() else { return };
        self.metrics.foreign_commits += foreign.len() as u64;
        let group_id = self.settings().group_id.as_deref().unwrap_or_default();
        tracing::warn!(
            group_id, partition = %first, partitions = foreign.len(),
            "somebody else commits to this group: its offsets say nothing about either; give each job a group_id of its own"
        );
    }

    pub(super) fn on_commit_failed(&mut self, error: &milena::Error, now: Instant) {
        let group_id = self.settings().group_id.as_deref().unwrap_or_default();
        let members =
            [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::ILLEGAL_GENERATION, ErrorCode::REBALANCE_IN_PROGRESS];
        if error.code().is_some_and(|code| members.contains(&code)) {
            tracing::warn!(
                %error, group_id,
                "offsets can't be committed: the group has members, which are other consumers; give this job a group_id of its own"
            );
        } else {
            tracing::warn!(%error, group_id, "offsets can't be committed; lag tools show an old position");
        }
        self.commits.handle_failed(now);
    }
}
