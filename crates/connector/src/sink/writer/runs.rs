//! Many elements at once: their records go to the producer together, which takes those of one partition under one lock, and their
//! acknowledgements are waited for together.

use futures_util::FutureExt as _;
use milena::protocol::records::Header;
use milena::{ProducerRecord, Tickets};

use super::{OnRecordError, Path, Sent, SinkRecord, Writer, without_topic};
use crate::Result;
use crate::contract::write_each;
use crate::schema::{Emit, Stamped};

/// How many records are sent together, at most: what is used again for each run stays small.
const LONGEST_RUN: usize = 64;
/// A run ends with the record that brings its keys and values to this many bytes.
const RUN_BYTES: usize = 256 << 10;

impl<T: Send + 'static> Writer<T> {
    /// Writes elements one after the other, as [`take`](Self::take) and [`send`](Self::send) do. Returns how many records were sent.
    ///
    /// # Errors
    /// As `take` and `send`.
    ///
    /// # Cancellation
    /// Elements up to some point were written.
    pub async fn write(&mut self, elements: Vec<Stamped<T>>) -> Result<u64> {
        if self.is_each_by_itself() {
            return write_each(self, elements).await;
        }
        let (mut sent, mut taken) = (0, 0);
        while taken < elements.len() {
            let filled = self.fill(&elements, &mut taken)?;
            if filled > 0 {
                self.send_run(filled).await?;
            }
            sent += filled as u64;
            self.take_confirmed()?;
        }
        Ok(sent)
    }

    /// Whether each record must be looked at by itself: it may be passed over, someone is told of it, or its partition is chosen here.
    fn is_each_by_itself(&self) -> bool {
        self.on_record_error != OnRecordError::Fail
            || self.written.0.is_some()
            || self.partitioning.needs_partitions()
    }

    /// Makes records of the elements from `taken` on, until a run is full. Returns how many there are to write.
    fn fill(&mut self, elements: &[Stamped<T>], taken: &mut usize) -> Result<usize> {
        let (mut filled, mut bytes) = (0, 0);
        while filled < LONGEST_RUN && bytes < RUN_BYTES {
            let Some(element) = elements.get(*taken) else { break };
            *taken += 1;
            if self.run.len() == filled {
                self.run.push(SinkRecord::new());
            }
            let Some(record) = self.run.get_mut(filled) else { break };
            record.clear();
            match self.serializer.serialize(&element.value, element.timestamp, record) {
                Ok(Emit::Write) => {
                    if record.timestamp().is_none() {
                        record.set_timestamp(element.timestamp);
                    }
                    bytes += record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len);
                    filled += 1;
                }
                Ok(Emit::Skip) => {}
                Err(error) => return Err(self.unserialized(error)),
            }
        }
        Ok(filled)
    }

    /// Sends the first records of the run.
    async fn send_run(&mut self, filled: usize) -> Result<()> {
        if let Path::Transactions(transactions) = &mut self.path {
            transactions.begin(&self.client).await?;
        }
        let records = self.run.get(..filled).unwrap_or_default();
        let bytes: u64 = records.iter().map(SinkRecord::len_bytes).sum();
        let headers = records.iter().flat_map(SinkRecord::headers);
        let headers: Vec<Header<'_>> =
            headers.map(|(name, value)| Header::new(name, value.as_deref())).collect();
        let mut rest = headers.as_slice();
        let mut run = Vec::with_capacity(filled);
        for record in records {
            let (own, behind) = rest.split_at_checked(record.headers().len()).unwrap_or_default();
            rest = behind;
            run.push(ProducerRecord {
                topic: record.topic().ok_or_else(without_topic)?,
                partition: record.partition(),
                key: record.key(),
                value: record.value(),
                headers: own,
                // A negative time is none, as in Flink.
                timestamp: record.timestamp().filter(|&timestamp| timestamp >= 0),
            });
        }
        let sent = match &self.path {
            Path::Plain { producer, .. } => producer.send_all(&run).await,
            Path::Transactions(transactions) => transactions.send_all(&run).await,
        };
        let tickets = sent.map_err(|error| self.explain(error))?;
        self.counts.bytes += bytes;
        self.turn = self.turn.wrapping_add(filled as u64);
        self.unconfirmed.push_back(Sent::Run(tickets));
        Ok(())
    }
}

/// The result of a run that is settled. It is not asked for otherwise: who asks takes the place of who waits.
pub(super) fn settled(tickets: &mut Tickets) -> Option<milena::Result<()>> {
    if tickets.is_settled() { tickets.now_or_never() } else { None }
}
