//! What a reader does with what arrives besides records: errors, ranges, commits.
//!
//! An error that no retry cures is told once for each try: its split waits and is fetched again, so that calling
//! [`SourceReader::next`] after an error neither passes over anything nor hangs.

use std::time::Instant;

use milena::{ErrorCode, Offset, TopicPartition};

use super::SourceReader;
use crate::source::cursor::CursorState;
use crate::source::fetching::{self, Arrived, Found};
use crate::source::policy::OnOutOfRange;
use crate::{Error, ErrorKind, Result};

impl<T: Send + 'static> SourceReader<T> {
    pub(super) fn handle(&mut self, arrived: Arrived) -> Result<()> {
        let now = self.now();
        match arrived {
            Arrived::Range { slot, found, answer } => self.handle_range(slot, found, answer, now)?,
            Arrived::Commit { answer, foreign } => {
                self.on_foreign_commits(&foreign);
                match answer {
                    Ok(()) => {
                        let confirmed = self.commits.handle_committed();
                        for (at, position) in confirmed.into_iter().flat_map(|request| request.positions) {
                            if self.finished.get(&at) == Some(&position) {
                                self.finished.remove(&at);
                            }
                        }
                    }
                    Err(error) => self.on_commit_failed(&error, now),
                }
            }
            Arrived::DeadLetters { slot, answer } => self.on_dead_letters(slot, answer, now)?,
        }
        Ok(())
    }

    /// The consumer was refused a partition: it is tried again after a while, whatever it was, and told if only people can cure it.
    pub(super) fn handle_refusal(&mut self, slot: u32, error: milena::Error, now: Instant) -> Result<()> {
        let Some(cursor) = self.cursors.get_mut(&slot) else { return Ok(()) };
        let (at, offset) = (cursor.topic_partition().clone(), cursor.split.next_offset);
        let failures = cursor.handle_failure(now, error.to_string());
        if is_fatal(&error) {
            return Err(Error::from(error).with_topic_partition(at).with_offset(offset));
        }
        tracing::warn!(%error, partition = %at, failures, "the partition can't be read; trying again");
        Ok(())
    }

    /// The log lost what was read of it, in an election, and holds other records from `diverged` on, if it knows.
    pub(super) fn handle_diverged(
        &mut self,
        slot: u32,
        diverged: Option<Offset>,
        error: milena::Error,
        now: Instant,
    ) -> Result<()> {
        let policy = self.settings().on_out_of_range;
        // What was fetched behind it is not in the log any more.
        self.drop_fetched(slot);
        let Some(cursor) = self.cursors.get_mut(&slot) else { return Ok(()) };
        let (at, offset) = (cursor.topic_partition().clone(), cursor.split.next_offset);
        if diverged.is_some_and(|diverged| offset <= diverged) {
            tracing::info!(partition = %at, %offset, "the log lost records that were not handed out yet");
            cursor.state = CursorState::Reading;
            return self.attach(slot);
        }
        if policy == OnOutOfRange::Fail {
            let text = "the log lost records that were read, and others took their place; \
                        KafkaSourceBuilder::on_out_of_range chooses where to go on";
            cursor.handle_failure(now, text.to_owned());
            let lost = Error::new(ErrorKind::DataLoss, text).with_topic_partition(at).with_offset(offset);
            return Err(lost.with_source(error));
        }
        cursor.state = CursorState::Checking;
        self.metrics.truncations += 1;
        self.work.push(fetching::range(&self.client, slot, at, Found::Diverged(diverged)));
        Ok(())
    }

    fn handle_range(
        &mut self,
        slot: u32,
        found: Found,
        answer: Result<(Offset, Offset)>,
        now: Instant,
    ) -> Result<()> {
        let policy = self.settings().on_out_of_range;
        let Some(cursor) =
            self.cursors.get_mut(&slot).filter(|cursor| matches!(cursor.state, CursorState::Checking))
        else {
            return Ok(());
        };
        let at = cursor.topic_partition().clone();
        let wanted = cursor.split.next_offset;
        let (first, end) = match answer {
            Ok(range) => range,
            Err(error) => {
                if found == Found::NewTopic {
                    // Nothing of it may be fetched before it is known where it starts.
                    self.work.push(fetching::range_later(&self.client, slot, at, found));
                } else {
                    cursor.handle_failure(now, error.to_string());
                }
                return if error.client().is_some_and(is_fatal) { Err(error) } else { Ok(()) };
            }
        };
        if found == Found::OutOfRange && first <= wanted && wanted <= end {
            // A replica that lagged behind refused it; its log has caught up.
            cursor.handle_failure(now, "the log to hold its position again".to_owned());
            return Ok(());
        }
        let to = match (found, policy) {
            (Found::NewTopic, _) => first,
            (_, OnOutOfRange::Fail) => {
                cursor.handle_failure(now, "its position to be in the log".to_owned());
                return Err(out_of_range(at, wanted, first, end));
            }
            (Found::Diverged(diverged), OnOutOfRange::Earliest) => {
                diverged.unwrap_or(first).clamp(first, end.max(first))
            }
            (Found::OutOfRange, OnOutOfRange::Earliest) => first,
            (_, OnOutOfRange::Latest) => end,
        };
        if found != Found::NewTopic {
            tracing::warn!(partition = %at, %wanted, %first, %end, %to, "the position is not in the log; going on elsewhere, as chosen");
            self.metrics.resets += 1;
            self.metrics.lost_offsets += u64::try_from(to.0 - wanted.0).unwrap_or(0);
        }
        if found == Found::NewTopic || to < wanted {
            // The times that it had come to are those of records that will be read again, or never were in this log.
            cursor.split.max_timestamp = None;
            self.progress.start_over(slot, now);
        }
        cursor.reset(to);
        self.end_if_finished(slot);
        self.attach(slot)
    }
}

/// Whether only a change by people cures it. Leaders move, and a broker that failed by a fault of its own may recover.
fn is_fatal(error: &milena::Error) -> bool {
    let passes = |code: ErrorCode| code.refreshes_metadata() || code == ErrorCode::UNKNOWN_SERVER_ERROR;
    !error.is_retriable() && !error.code().is_some_and(passes)
}

fn out_of_range(at: TopicPartition, wanted: Offset, first: Offset, end: Offset) -> Error {
    let text = format!(
        "offset {wanted} is not in the log, which holds {first} to {end}: records were deleted before they were read, or the log \
         lost its tail; KafkaSourceBuilder::on_out_of_range chooses where to go on"
    );
    Error::new(ErrorKind::DataLoss, text).with_topic_partition(at).with_offset(wanted)
}
