//! What a checkpoint is made of. Pure.
//!
//! # Invariants
//! A checkpoint is a cut through the job: the enumerator and the states in its keeping as they were when the barriers went out, and
//! each subtask as it was when its barrier came. What was assigned before is with the subtask; what is assigned after is not.
//! Only the ends of splits come from the subtasks: one that was told to the enumerator after the barriers went out, but
//! before its own subtask's came, would else be in neither.

use std::time::Instant;

use super::savepoint::Request;
use super::subtask::Snapshot;
use crate::checkpoint::CheckpointId;
use crate::checkpoint::snapshot::{CheckpointState, FunctionState};
use crate::checkpoint::state::Encoder;
use crate::sink::Delivery;
use crate::sink::committable::Committable;
use crate::source::EnumeratorState;

/// What the coordinator knew when the barriers of a checkpoint went out.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) triggered: Instant,
    pub(super) enumerator: EnumeratorState,
    /// States of functions for partitions that no subtask had.
    pub(super) held: Vec<FunctionState>,
    /// Where it is to be written besides.
    pub(super) savepoints: Vec<Request>,
}

/// What does not change from one checkpoint to the next, and the number and time that do.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) job: String,
    pub(super) id: CheckpointId,
    pub(super) delivery: Delivery,
    pub(super) prefix: Option<String>,
    pub(super) watermark: Option<i64>,
}

impl Cut {
    /// The whole checkpoint, with the subtasks' answers in their order.
    pub(super) fn into_state(
        mut self,
        head: Head,
        snapshots: Vec<Snapshot>,
        committables: Vec<Committable>,
    ) -> CheckpointState {
        let parallelism = u32::try_from(snapshots.len()).unwrap_or(u32::MAX);
        let (mut splits, mut functions) = (Vec::new(), self.held);
        let (mut subtask_watermarks, mut writers) = (Vec::new(), Vec::new());
        for snapshot in snapshots {
            for ended in snapshot.ended {
                let known = &mut self.enumerator.splits;
                if let Some(split) =
                    known.iter_mut().find(|split| split.topic_partition == ended.topic_partition)
                {
                    *split = crate::source::Split {
                        topic_id: split.topic_id,
                        stop: Some(ended.next_offset),
                        ..ended
                    };
                }
            }
            splits.extend(snapshot.splits);
            functions.extend(snapshot.functions);
            subtask_watermarks.push(snapshot.metrics.watermark);
            writers.push(snapshot.writer);
        }
        let mut enumerator = Encoder::new();
        self.enumerator.encode(&mut enumerator);
        CheckpointState {
            job: head.job,
            id: head.id,
            parallelism,
            delivery: head.delivery,
            prefix: head.prefix,
            enumerator: enumerator.finish(),
            splits,
            watermark: head.watermark,
            subtask_watermarks,
            committables,
            writers,
            functions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::state::Decoder;
    use crate::runtime::report::SubtaskMetrics;
    use crate::source::Split;
    use milena::{Offset, TopicPartition};

    fn split(partition: i32, next: i64) -> Split {
        Split::new(TopicPartition::new("t", partition), Offset(next))
    }

    /// The enumerator heard of the end of partition 0 before the checkpoint was written, and of partition 1 only that it began.
    #[test]
    fn an_end_before_the_barrier_is_in_the_checkpoint_whenever_the_enumerator_hears_of_it() {
        let enumerator =
            EnumeratorState { splits: vec![split(0, 0), split(1, 5)], ..EnumeratorState::default() };
        let cut = Cut { triggered: Instant::now(), enumerator, held: Vec::new(), savepoints: Vec::new() };
        let snapshot = Snapshot {
            splits: vec![split(1, 7)],
            ended: vec![split(0, 9), split(8, 1)],
            functions: Vec::new(),
            metrics: SubtaskMetrics::default(),
            committable: None,
            writer: Default::default(),
        };
        let head = Head { job: "j".into(), id: 3, delivery: Delivery::None, prefix: None, watermark: None };
        let state = cut.into_state(head, vec![snapshot], Vec::new());
        let known = EnumeratorState::decode(&mut Decoder::new(&state.enumerator)).unwrap();
        assert_eq!(known.splits, [split(0, 9).with_stop(Some(Offset(9))), split(1, 5)]);
        assert_eq!(state.splits, [split(1, 7)]);
    }
}
