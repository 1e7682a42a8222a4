//! The records of one partition that one answer brought.

use std::sync::OnceLock;

use milena_core::fetch::{Position, Ticket};
use milena_protocol::error::ProtocolError;
use milena_protocol::records::{Record, RecordBatch, RecordIter, Records};
use milena_protocol::types::{LeaderEpoch, Offset, TopicPartition};

use crate::error::{Error, Result};

/// Records of one partition, in offset order: only what an application may see, checked, and decoded as they are looked at. They borrow
/// the buffer the answer was read into; dropping the last part of an answer gives the buffer back.
#[derive(Debug)]
pub struct PartitionRecords {
    pub(super) ticket: Ticket,
    pub(super) tp: TopicPartition,
    /// The first offset that was asked for: a batch may begin before it.
    pub(super) from: Offset,
    /// Where reading stood before these records.
    pub(super) start: Position,
    pub(super) next: Position,
    /// As they came, invisible ones included.
    pub(super) bytes: usize,
    pub(super) high_watermark: Option<Offset>,
    pub(super) last_stable: Option<Offset>,
    pub(super) log_start: Option<Offset>,
    pub(super) bodies: Vec<Body>,
}

/// A batch whose records may be seen.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) batch: RecordBatch,
    /// Decompressed, or not yet.
    pub(super) records: OnceLock<Records>,
}

impl Body {
    pub(super) fn new(batch: RecordBatch) -> Self {
        Self { batch, records: OnceLock::new() }
    }

    pub(super) fn records(&self) -> std::result::Result<&Records, ProtocolError> {
        if let Some(records) = self.records.get() {
            return Ok(records);
        }
        let records = self.batch.records()?;
        Ok(self.records.get_or_init(|| records))
    }
}

impl PartitionRecords {
    /// The partition.
    #[must_use]
    pub fn tp(&self) -> &TopicPartition {
        &self.tp
    }

    /// The offset after these records, visible or not: where reading goes on.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next.offset
    }

    /// The leader epoch of the last of them, if known.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.next.epoch
    }

    /// The end of what was replicated when they were read.
    #[must_use]
    pub fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    /// Below it every transaction had ended when they were read; `None` if the broker did not say.
    #[must_use]
    pub fn last_stable_offset(&self) -> Option<Offset> {
        self.last_stable
    }

    /// The first offset of the log when they were read; `None` if the broker did not say.
    #[must_use]
    pub fn log_start(&self) -> Option<Offset> {
        self.log_start
    }

    /// How many offsets lay behind these records when they were read.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let end = self.high_watermark?;
        Some(u64::try_from(end - self.next.offset).unwrap_or(0))
    }

    /// The batches, in offset order. The first may hold records before the ones that were asked for; [`PartitionRecords::iter`]
    /// leaves them out.
    pub fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.bodies.iter().map(|body| &body.batch)
    }

    /// The records, borrowed, in offset order. After an error there are no more.
    ///
    /// An error is a batch that cannot be decompressed or decoded. Its records were counted as taken, so
    /// [`Consumer::seek`](super::Consumer::seek) is needed to read them again.
    #[must_use]
    pub fn iter(&self) -> PartitionIter<'_> {
        PartitionIter { part: self, bodies: self.bodies.iter(), records: None, before: true }
    }

    pub(super) fn unreadable(&self, error: ProtocolError) -> Error {
        Error::from(error).with_topic_partition(&self.tp)
    }
}

impl<'a> IntoIterator for &'a PartitionRecords {
    type Item = Result<Record<'a>>;
    type IntoIter = PartitionIter<'a>;

    fn into_iter(self) -> PartitionIter<'a> {
        self.iter()
    }
}

/// The records of a [`PartitionRecords`].
#[derive(Clone, Debug)]
pub struct PartitionIter<'a> {
    part: &'a PartitionRecords,
    bodies: std::slice::Iter<'a, Body>,
    records: Option<RecordIter<'a>>,
    /// Whether records may still lie before the first offset that was asked for.
    before: bool,
}

impl<'a> Iterator for PartitionIter<'a> {
    type Item = Result<Record<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(records) = &mut self.records {
                match records.next() {
                    Some(Ok(record)) => {
                        if self.before && record.offset < self.part.from {
                            continue;
                        }
                        return Some(Ok(record));
                    }
                    Some(Err(error)) => return Some(Err(self.fail(error))),
                    None => self.before = false,
                }
            }
            match self.bodies.next()?.records() {
                Ok(records) => self.records = Some(records.iter()),
                Err(error) => return Some(Err(self.fail(error))),
            }
        }
    }
}

impl PartitionIter<'_> {
    #[cold]
    fn fail(&mut self, error: ProtocolError) -> Error {
        self.bodies = [].iter();
        self.records = None;
        self.part.unreadable(error)
    }
}

impl std::iter::FusedIterator for PartitionIter<'_> {}
