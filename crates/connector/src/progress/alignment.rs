//! Alignment: what is ahead in event time waits for what is behind, so that windows and joins downstream need not hold what one
//! partition brought long before the others.
//!
//! Readers of one group, of one source or of several, report their watermarks; each pauses the splits whose own watermark is
//! more than the drift ahead of the slowest member. Pausing is not idleness: a paused split keeps its watermark in the combined
//! one, and its idle clock stands. A member that is idle limits nobody, one that has finished leaves, and one that has no
//! watermark yet limits nobody either.
//!
//! # References
//! Flink: FLIP-182, FLIP-217. Not shared: FLINK-40093 (a paused split becomes idle), FLINK-38477 (a finished subtask reports
//! the largest watermark), and the map of split watermarks that is never cleaned.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Readers that wait for one another. Clones are the same group; give one to each source that belongs to it.
#[derive(Clone, Default)]
pub struct AlignmentGroup {
    members: Arc<Mutex<Members>>,
}

#[derive(Default)]
struct Members {
    next: u64,
    watermarks: BTreeMap<u64, Option<i64>>,
}

/// A source's place in a group.
#[derive(Clone, Debug)]
pub struct Alignment {
    /// The group.
    pub group: AlignmentGroup,
    /// How far a split may be ahead of the group's slowest member.
    pub max_drift: Duration,
}

impl fmt::Debug for AlignmentGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("AlignmentGroup").field("members", &members.watermarks.len()).finish()
    }
}

impl AlignmentGroup {
    /// A group without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member that has no watermark yet. It leaves when it is dropped.
    #[must_use]
    pub fn join(&self) -> AlignmentMember {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let id = members.next;
        members.next += 1;
        members.watermarks.insert(id, None);
        AlignmentMember { group: self.clone(), id }
    }

    /// The watermark of the slowest member that has one and is not idle.
    #[must_use]
    pub fn slowest(&self) -> Option<i64> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.watermarks.values().flatten().min().copied()
    }
}

/// A member of a group.
#[derive(Debug)]
pub struct AlignmentMember {
    group: AlignmentGroup,
    id: u64,
}

impl AlignmentMember {
    /// Says where this member is, in milliseconds; `None` while it has no watermark or is idle.
    pub fn report(&self, watermark: Option<i64>) {
        let mut members = self.group.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.watermarks.insert(self.id, watermark);
    }

    /// The largest watermark that a split may have and go on, in milliseconds.
    #[must_use]
    pub fn limit(&self, max_drift: Duration) -> i64 {
        let drift = i64::try_from(max_drift.as_millis()).unwrap_or(i64::MAX);
        self.group.slowest().map_or(i64::MAX, |slowest| slowest.saturating_add(drift))
    }
}

impl Drop for AlignmentMember {
    fn drop(&mut self) {
        let mut members = self.group.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.watermarks.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIFT: Duration = Duration::from_millis(100);

    // scenario: D50
    #[test]
    fn idle_and_finished_members_limit_nobody() {
        let group = AlignmentGroup::new();
        let (slow, fast) = (group.join(), group.join());
        assert_eq!(fast.limit(DRIFT), i64::MAX, "nobody has a watermark");
        slow.report(Some(10));
        fast.report(Some(500));
        assert_eq!((fast.limit(DRIFT), slow.limit(DRIFT)), (110, 110));
        slow.report(None);
        assert_eq!(fast.limit(DRIFT), 600, "the slow one is idle");
        slow.report(Some(20));
        assert_eq!(fast.limit(DRIFT), 120);
        drop(slow);
        assert_eq!(fast.limit(DRIFT), 600, "the slow one is at its end");
        fast.report(Some(i64::MAX - 1));
        assert_eq!(fast.limit(DRIFT), i64::MAX, "no overflow");
        drop(fast);
        assert_eq!(group.slowest(), None, "nothing is left behind");
    }
}
