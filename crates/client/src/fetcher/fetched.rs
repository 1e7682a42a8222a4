//! What came of one partition.

use milena_core::fetch::{BatchHead, Verdict, VisibleFilter};
use milena_protocol::error::ProtocolError;
use milena_protocol::records::{OwnedRecord, Record, RecordBatch};
use milena_protocol::types::{Isolation, Offset, ProducerId, TopicPartition};

use super::FetchFrom;
use crate::error::{Error, Result};

/// What a fetch brought of one partition. Batches are views of the answer's buffer; clones are cheap.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The partition.
    pub tp: TopicPartition,
    /// Why nothing came; `None` when the partition was read.
    pub error: Option<Error>,
    /// The end of what is replicated: records below it can be read. -1 after an error.
    pub high_watermark: Offset,
    /// Below it every transaction has ended; `None` after an error.
    pub last_stable_offset: Option<Offset>,
    /// The first offset of the log; `None` when the broker did not say (Fetch before v5).
    pub log_start: Option<Offset>,
    /// Where the log took another way than the records read before: what was at and behind this offset was lost in an
    /// election (KIP-320). Then `error` says so too. `None` also if the broker cannot say where.
    pub diverged_at: Option<Offset>,
    /// The batches that came, in offset order. The first may begin before `requested`.
    pub batches: Vec<RecordBatch>,
    /// Transactions that were aborted, by producer and first offset; read_committed only.
    pub aborted: Vec<(ProducerId, Offset)>,
    /// The offset that was asked for.
    pub requested: Offset,
    /// The isolation that was asked for.
    pub isolation: Isolation,
}

impl Fetched {
    pub(crate) fn failed(from: &FetchFrom, isolation: Isolation, error: Error) -> Self {
        Self {
            tp: from.tp.clone(),
            error: Some(error),
            high_watermark: Offset(-1),
            last_stable_offset: None,
            log_start: None,
            diverged_at: None,
            batches: Vec::new(),
            aborted: Vec::new(),
            requested: from.offset,
            isolation,
        }
    }

    /// Where to go on: after the last batch, visible or not, or where this fetch began if nothing came.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.batches.last().map_or(self.requested, |batch| batch.next_offset()).max(self.requested)
    }

    /// The bytes of all batches.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.batches.iter().map(RecordBatch::len_bytes).sum()
    }

    /// The batches an application may see: no control batches, and under read_committed none of aborted
    /// transactions. The first may hold records before [`Fetched::requested`], which are to be skipped
    /// ([`Fetched::for_each_record`] does).
    #[must_use]
    pub fn visible(&self) -> VisibleBatches<'_> {
        VisibleBatches {
            fetched: self,
            filter: VisibleFilter::new(self.requested, self.isolation, &self.aborted),
            batches: self.batches.iter(),
        }
    }

    /// Calls `f` with each visible record from [`Fetched::requested`] on, borrowed, in offset order.
    ///
    /// # Errors
    /// When a batch cannot be decompressed or decoded; `f` has then seen what was before it.
    pub fn for_each_record(&self, mut f: impl FnMut(&Record<'_>)) -> Result<()> {
        for batch in self.visible() {
            let records = batch?.records().map_err(|error| self.unreadable(error))?;
            for record in records.iter() {
                let record = record.map_err(|error| self.unreadable(error))?;
                if record.offset >= self.requested {
                    f(&record);
                }
            }
        }
        Ok(())
    }

    /// Each visible record from [`Fetched::requested`] on, as slices of the answer's (or the decompressed) buffer.
    ///
    /// # Errors
    /// As [`Fetched::for_each_record`].
    pub fn owned_records(&self) -> Result<Vec<OwnedRecord>> {
        let mut owned = Vec::new();
        for batch in self.visible() {
            let records = batch?.records().map_err(|error| self.unreadable(error))?;
            for record in records.iter() {
                let record = record.map_err(|error| self.unreadable(error))?;
                if record.offset >= self.requested {
                    owned.push(records.own(&record));
                }
            }
        }
        Ok(owned)
    }

    fn unreadable(&self, error: ProtocolError) -> Error {
        Error::unreadable(error).with_topic_partition(&self.tp)
    }
}

/// The visible batches of a [`Fetched`]; made by [`Fetched::visible`]. An item is an error when a control batch
/// cannot be read.
#[derive(Clone, Debug)]
pub struct VisibleBatches<'a> {
    fetched: &'a Fetched,
    filter: VisibleFilter,
    batches: std::slice::Iter<'a, RecordBatch>,
}

impl<'a> Iterator for VisibleBatches<'a> {
    type Item = Result<&'a RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let batch = self.batches.next()?;
            let head = match BatchHead::of(&batch.borrowed()) {
                Ok(head) => head,
                Err(error) => {
                    return Some(Err(Error::from(error).with_topic_partition(&self.fetched.tp)));
                }
            };
            if self.filter.handle_batch(&head) == Verdict::Show {
                return Some(Ok(batch));
            }
        }
    }
}
