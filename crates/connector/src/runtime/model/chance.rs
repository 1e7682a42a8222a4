//! What chance decides, and which mistake is made.

use std::time::Duration;

use milena::TransactionVersion;

use crate::sink::naming::{ClassicNames, Naming};
use crate::source::Assigner;

/// A mistake that a host could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
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
    OffsetsCommittedAtTheBarrier,
    BarrierOvertakesAssignments,
    StatesStayBehind,
    EndsForgotten,
    LateAnswersDropped,
    NothingGivenBack,
    GivenBackAheadOfTheFunction,
}

impl Defect {
    pub(super) const ALL: [Self; 19] = [
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
        Self::OffsetsCommittedAtTheBarrier,
        Self::BarrierOvertakesAssignments,
        Self::StatesStayBehind,
        Self::EndsForgotten,
        Self::LateAnswersDropped,
        Self::NothingGivenBack,
        Self::GivenBackAheadOfTheFunction,
    ];
}

/// What happens in a walk now and then. A model in which one of these never happens says less than it seems to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Met {
    ABarrierOverdue,
    ABarrierWithinABatch,
    AConclusion,
    ADocument,
    AFailedReader,
    ALateAnswer,
    ALostOffsetCommit,
    APartitionFoundLater,
    APausedPartition,
    ARepeatedFetch,
    ARescaledRestore,
    AStartAtTheEnd,
    ALateReader,
    AnotherRun,
    Retention,
    APieceOfABatch,
    AnEndBehindAGap,
    AnIdlePartition,
    AReadEndRestored,
    ATimedOutTransaction,
    CheckpointsInFlight,
    EverythingAtItsEnd,
}

impl Met {
    pub(super) const COUNT: usize = 22;
}

/// Random numbers that are the same for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Small seeds have few bits: the first throws would be much alike.
        for _ in 0..4 {
            dice.roll(2);
        }
        dice
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below.max(1)
    }

    pub(super) fn index(&mut self, below: usize) -> usize {
        usize::try_from(self.roll(below as u64)).unwrap()
    }

    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

/// What stays the same for a whole walk.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// The source ends where its logs ended at the start, and looks for partitions once. Else it is stopped, and another partition comes.
    pub(super) bounded: bool,
    pub(super) another_partition: bool,
    /// What is there when the job first looks is not read.
    pub(super) from_the_end: bool,
    pub(super) version: TransactionVersion,
    pub(super) naming: Naming,
    /// Whether the broker lists open transactions.
    pub(super) lists: bool,
    pub(super) assigner: Assigner,
    /// How far event times lag the largest of their partition, in milliseconds.
    pub(super) out_of_order: i64,
    /// Each record carries a watermark: batches are handed out in pieces.
    pub(super) punctuated: bool,
    pub(super) idleness: Option<Duration>,
    pub(super) drift: Option<Duration>,
    pub(super) max_concurrent: usize,
}

impl Setting {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let bounded = dice.one_in(2);
        let drift = dice.one_in(3).then_some(Duration::from_millis(200));
        // Where a partition may be at rest for ever, others would wait for it for ever.
        let idles = dice.one_in(4) || (drift.is_some() && !bounded);
        let lists = !dice.one_in(3);
        // Where nothing is listed, leftovers beyond the pool are only found by who comes back with as many subtasks.
        let pool_size = if lists { 2 } else { 5 };
        Self {
            bounded,
            another_partition: !bounded && dice.one_in(2),
            from_the_end: !bounded && dice.one_in(3),
            version: if dice.one_in(2) { TransactionVersion::V1 } else { TransactionVersion::V2 },
            naming: match dice.roll(4) {
                0 => Naming::Incrementing,
                1 => Naming::Classic(ClassicNames { pool_size, safe_scale_down_factor: 3 }),
                _ => Naming::Pooling,
            },
            lists,
            assigner: match dice.roll(3) {
                0 => Assigner::FlinkHash,
                1 => Assigner::Balanced,
                _ => Assigner::CoPartitioned,
            },
            out_of_order: if dice.one_in(2) { 0 } else { 320 },
            punctuated: dice.one_in(3),
            idleness: idles.then_some(Duration::from_millis(40)),
            drift,
            max_concurrent: 1 + dice.index(3),
        }
    }
}
