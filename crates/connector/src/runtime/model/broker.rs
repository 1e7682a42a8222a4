//! A broker small enough to be walked: transactional ids, two partitions, markers that come when they come. It follows Kafka 4.3.1 in what
//! EndTxn, InitProducerId and the time-out do (transaction versions 1 and 2), and asserts what no client may do.

use std::collections::{BTreeMap, BTreeSet};

use crate::sink::outcome::{Description, EndAnswer, Evidence};
use milena::protocol::error_code::ErrorCode;
use milena::{ProducerEpoch, ProducerId, TransactionState, TransactionVersion};

/// An entry of a log.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Data { pid: i64, epoch: i16, value: u32 },
    Marker { pid: i64, commit: bool },
}

#[derive(Clone, Debug)]
struct Id {
    pid: i64,
    epoch: i16,
    state: TransactionState,
    start: Option<i64>,
    partitions: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Marker {
    id: String,
    pid: i64,
    commit: bool,
    partition: usize,
}

/// The coordinator is busy with the id: ask again.
#[derive(Debug)]
pub(super) struct Busy;

#[derive(Clone, Debug, Default)]
pub(super) struct Broker {
    ids: BTreeMap<String, Id>,
    pub(super) logs: [Vec<Entry>; 2],
    markers: Vec<Marker>,
    next_pid: i64,
    clock: i64,
    /// Pairs under which a transaction was begun, with its start.
    begun: BTreeMap<(i64, i16), i64>,
    /// Retention took what is before it from who looks for a transaction's end.
    pub(super) retained_from: [usize; 2],
    /// What must never happen, if it did.
    pub(super) crime: Option<String>,
}

impl Broker {
    pub(super) fn init(&mut self, id: &str) -> Result<(i64, i16), Busy> {
        use TransactionState as S;
        let Some(entry) = self.ids.get_mut(id) else {
            let pid = self.next_pid;
            self.next_pid += 1;
            let entry = Id { pid, epoch: 0, state: S::Empty, start: None, partitions: BTreeSet::new() };
            self.ids.insert(id.to_owned(), entry);
            return Ok((pid, 0));
        };
        match entry.state {
            S::Ongoing => {
                self.abort(id);
                Err(Busy)
            }
            S::PrepareCommit | S::PrepareAbort => Err(Busy),
            _ => {
                entry.epoch += 1;
                entry.state = S::Empty;
                entry.start = None;
                Ok((entry.pid, entry.epoch))
            }
        }
    }

    /// The time is up, or another instance comes: the transaction is fenced and aborted.
    fn abort(&mut self, id: &str) {
        if let Some(entry) = self.ids.get_mut(id) {
            entry.epoch += 1;
            entry.state = TransactionState::PrepareAbort;
            let (pid, partitions) = (entry.pid, std::mem::take(&mut entry.partitions));
            self.send_markers(id, pid, false, partitions);
        }
    }

    fn send_markers(&mut self, id: &str, pid: i64, commit: bool, partitions: BTreeSet<usize>) {
        let all =
            partitions.into_iter().map(|partition| Marker { id: id.to_owned(), pid, commit, partition });
        self.markers.extend(all);
        self.settle(id);
    }

    pub(super) fn time_out(&mut self, id: &str) {
        if self.ids.get(id).is_some_and(|entry| entry.state == TransactionState::Ongoing) {
            self.abort(id);
        }
    }

    /// Appends one record. `None`: fenced.
    pub(super) fn produce(
        &mut self,
        id: &str,
        pid: i64,
        epoch: i16,
        partition: usize,
        value: u32,
    ) -> Option<usize> {
        use TransactionState as S;
        let entry = self.ids.get_mut(id)?;
        if (entry.pid, entry.epoch) != (pid, epoch) {
            return None;
        }
        match entry.state {
            S::Ongoing => {}
            S::Empty | S::CompleteCommit | S::CompleteAbort => {
                self.clock += 1;
                entry.state = S::Ongoing;
                entry.start = Some(self.clock);
                if let Some(before) = self.begun.insert((pid, epoch), self.clock) {
                    let text =
                        format!("{id}: transactions {before} and {} share ({pid}, {epoch})", self.clock);
                    self.crime.get_or_insert(text);
                }
            }
            _ => return None,
        }
        entry.partitions.insert(partition);
        self.logs[partition].push(Entry::Data { pid, epoch, value });
        Some(self.logs[partition].len() - 1)
    }

    pub(super) fn end(&mut self, id: &str, pid: i64, epoch: i16, version: TransactionVersion) -> EndAnswer {
        use TransactionState as S;
        let refused = EndAnswer::Refused;
        let Some(entry) = self.ids.get_mut(id) else {
            return refused(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        };
        if entry.pid != pid {
            return refused(ErrorCode::INVALID_PRODUCER_ID_MAPPING);
        }
        let renewed = version == TransactionVersion::V2;
        let after = if renewed { epoch + 1 } else { epoch };
        match entry.state {
            S::Ongoing if entry.epoch == epoch => {
                entry.epoch = after;
                entry.state = S::PrepareCommit;
                let partitions = std::mem::take(&mut entry.partitions);
                self.send_markers(id, pid, true, partitions);
                EndAnswer::Done
            }
            S::PrepareCommit if entry.epoch == after => refused(ErrorCode::CONCURRENT_TRANSACTIONS),
            S::CompleteCommit if entry.epoch == after => EndAnswer::Done,
            S::CompleteAbort | S::Empty if entry.epoch == after => refused(ErrorCode::INVALID_TXN_STATE),
            S::Empty if entry.epoch == epoch => refused(ErrorCode::INVALID_TXN_STATE),
            _ => refused(ErrorCode::PRODUCER_FENCED),
        }
    }

    /// Writes a marker that is on its way; false if there is none.
    pub(super) fn deliver(&mut self, which: usize) -> bool {
        if self.markers.is_empty() {
            return false;
        }
        let marker = self.markers.remove(which % self.markers.len());
        self.logs[marker.partition].push(Entry::Marker { pid: marker.pid, commit: marker.commit });
        self.settle(&marker.id);
        true
    }

    fn settle(&mut self, id: &str) {
        use TransactionState as S;
        if self.markers.iter().any(|marker| marker.id == id) {
            return;
        }
        if let Some(entry) = self.ids.get_mut(id) {
            match entry.state {
                S::PrepareCommit => entry.state = S::CompleteCommit,
                S::PrepareAbort => entry.state = S::CompleteAbort,
                _ => {}
            }
        }
    }

    pub(super) fn describe(&self, id: &str) -> Description {
        match self.ids.get(id) {
            None => Description::NotFound,
            Some(entry) => Description::Found {
                state: entry.state.clone(),
                producer_id: ProducerId(entry.pid),
                producer_epoch: ProducerEpoch(entry.epoch),
                start_time_ms: entry.start,
            },
        }
    }

    pub(super) fn open(&self) -> Vec<(String, i64)> {
        let open = self.ids.iter().filter(|(_, entry)| entry.state == TransactionState::Ongoing);
        open.map(|(id, entry)| (id.clone(), entry.pid)).collect()
    }

    /// What a reader finds at a transaction's first offset.
    pub(super) fn evidence(&self, pid: i64, epoch: i16, partition: usize, first: usize) -> Evidence {
        let log = &self.logs[partition];
        match log.get(first) {
            _ if first < self.retained_from[partition] => return Evidence::Gone,
            Some(Entry::Data { pid: found, epoch: at, .. }) if (*found, *at) == (pid, epoch) => {}
            _ => return Evidence::Gone,
        }
        let marker = log[first..].iter().find_map(|entry| match entry {
            Entry::Marker { pid: found, commit } if *found == pid => Some(*commit),
            _ => None,
        });
        match marker {
            Some(true) => Evidence::Commit,
            Some(false) => Evidence::Abort,
            None => Evidence::Open,
        }
    }

    /// How a transaction ended in each partition that has its records, whoever can still see it.
    pub(super) fn ends(&self, pid: i64, epoch: i16) -> BTreeSet<Option<bool>> {
        let mut ends = BTreeSet::new();
        for log in &self.logs {
            let own = |entry: &Entry| matches!(entry, Entry::Data { pid: of, epoch: at, .. } if (*of, *at) == (pid, epoch));
            let Some(first) = log.iter().position(own) else { continue };
            ends.insert(log[first..].iter().find_map(|entry| match entry {
                Entry::Marker { pid: of, commit } if *of == pid => Some(*commit),
                _ => None,
            }));
        }
        ends
    }

    /// The values that readers of committed records see when everything has ended.
    pub(super) fn committed(&self) -> Vec<u32> {
        let mut seen = Vec::new();
        for log in &self.logs {
            for (at, entry) in log.iter().enumerate() {
                let Entry::Data { pid, value, .. } = entry else { continue };
                let marker = log[at..].iter().find_map(|entry| match entry {
                    Entry::Marker { pid: found, commit } if found == pid => Some(*commit),
                    _ => None,
                });
                if marker == Some(true) {
                    seen.push(*value);
                }
            }
        }
        seen.sort_unstable();
        seen
    }
}
