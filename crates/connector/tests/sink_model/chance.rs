//! What chance decides, and which mistake is made.

/// A mistake that a job could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    CommitBeforeTheCheckpointIsWritten,
    CheckpointWithoutCommittables,
    CheckpointWithLaterCommittables,
    NoCleanUp,
    CleanUpBeforeCommits,
    CleanUpByPrefixAlone,
    SameEpochAgain,
    RefusedMeansCommitted,
    SilenceMeansCommitted,
    NameFreedAtPrepare,
    LostNoticeForgotten,
    SnapshotBeforePrepare,
}

impl Defect {
    pub(crate) const ALL: [Self; 12] = [
        Self::CommitBeforeTheCheckpointIsWritten,
        Self::CheckpointWithoutCommittables,
        Self::CheckpointWithLaterCommittables,
        Self::NoCleanUp,
        Self::CleanUpBeforeCommits,
        Self::CleanUpByPrefixAlone,
        Self::SameEpochAgain,
        Self::RefusedMeansCommitted,
        Self::SilenceMeansCommitted,
        Self::NameFreedAtPrepare,
        Self::LostNoticeForgotten,
        Self::SnapshotBeforePrepare,
    ];
}

/// Random numbers that are the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    pub(crate) fn index(&mut self, below: usize) -> usize {
        usize::try_from(self.roll(below as u64)).unwrap()
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}
