//! A fetch session with one broker: what the broker remembers of the last requests (KIP-227).
//!
//! ```text
//! Fresh --answer names a session--> Open(id, 1) --answer--> Open(id, 2) ...
//!   ^                                 |  lost answer, wrong epoch, any doubt
//!   +--unknown to the broker--        v
//!                                  Replaced(id): the next request is full and ends the old session
//! ```
//!
//! An incremental request names what changed: partitions with another position, new ones, forgotten ones. So the entries
//! here must be what the broker holds. Whenever that is in doubt the next request is full.
//!
//! # References
//! KIP-227; `FetchSessionHandler` of the Java client says which errors start over.

use std::collections::HashMap;
use std::fmt;

use milena_protocol::error_code::ErrorCode;
use milena_protocol::types::{LeaderEpoch, Offset, PartitionId};
use uuid::Uuid;

/// What a request says of one partition. While it is the same, a session needs no word about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The first offset wanted.
    pub offset: Offset,
    /// The epoch of the record before it, if known: the broker tells when its log took another way.
    pub last_epoch: Option<LeaderEpoch>,
    /// The leader epoch the client knows.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A topic by the number that [`Cursors`](super::Cursors) gave it, and a partition.
pub(super) type Key = (u32, PartitionId);

#[derive(Clone, Debug)]
pub(super) struct Entry {
    key: Key,
    pub(super) asked: Asked,
    pub(super) slot: usize,
    pub(super) generation: u64,
    topic_id: Option<Uuid>,
    round: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Fresh,
    Open { id: i32, epoch: i32 },
    Replaced { id: i32 },
}

/// The two numbers of a request that name its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionHead {
    /// The session; 0 for none.
    pub id: i32,
    /// Which request of it this is; 0 asks for a new session, -1 for none.
    pub epoch: i32,
}

/// An answer that does not fit what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch(pub(super) String);

impl Mismatch {
    /// The answer is about a topic that was never asked for.
    #[must_use]
    pub fn unknown_topic(partition: PartitionId) -> Self {
        Self(format!("the answer is about partition {partition} of a topic that was not asked for"))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

#[derive(Debug)]
pub(super) struct Session {
    phase: Phase,
    round: u64,
    entries: Vec<Entry>,
    /// How many entries are of this round.
    wanted: usize,
    /// Where the entry of a partition lies.
    places: HashMap<Key, usize>,
    /// Where that of a cursor lay last: the entry itself tells whether it still does. It spares a request the search for each partition.
    hints: Vec<usize>,
}

/// What an entry is about, for [`Session::want`].
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) topic_id: Option<Uuid>,
    pub(super) asked: Asked,
    pub(super) slot: usize,
    pub(super) generation: u64,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Fresh,
            round: 0,
            entries: Vec::new(),
            wanted: 0,
            places: HashMap::new(),
            hints: Vec::new(),
        }
    }

    /// Begins a request. `sessions`: whether the version has them (7 and later).
    pub(super) fn begin(&mut self, sessions: bool) {
        self.round += 1;
        self.wanted = 0;
        if !sessions {
            self.phase = Phase::Fresh;
        }
        if !self.is_incremental() {
            self.entries.clear();
            self.places.clear();
        }
    }

    /// Whether the next request names changes only.
    pub(super) fn is_incremental(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    pub(super) fn head(&self, sessions: bool) -> SessionHead {
        match self.phase {
            _ if !sessions => SessionHead { id: 0, epoch: -1 },
            Phase::Fresh => SessionHead { id: 0, epoch: 0 },
            Phase::Open { id, epoch } => SessionHead { id, epoch },
            Phase::Replaced { id } => SessionHead { id, epoch: 0 },
        }
    }

    /// This partition shall be read; whether the request has to say so. `Err` gives the topic id under which the broker
    /// holds it, if that is another one: it must be forgotten first.
    pub(super) fn want(&mut self, wanted: &Wanted) -> (bool, Option<Uuid>) {
        let new = Entry {
            key: wanted.key,
            asked: wanted.asked,
            slot: wanted.slot,
            generation: wanted.generation,
            topic_id: wanted.topic_id,
            round: self.round,
        };
        let place = self.place(wanted);
        let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) else {
            self.wanted += 1;
            self.add(new);
            return (true, None);
        };
        self.wanted += usize::from(entry.round != self.round);
        let old = std::mem::replace(entry, new);
        match old.topic_id == wanted.topic_id {
            true => (old.asked != wanted.asked, None),
            false => (true, old.topic_id),
        }
    }

    /// Where the entry of a partition lies, if there is one.
    fn place(&mut self, wanted: &Wanted) -> Option<usize> {
        let hint = self.hints.get(wanted.slot).copied();
        let holds = |place: usize| self.entries.get(place).is_some_and(|entry| entry.key == wanted.key);
        if let Some(place) = hint.filter(|&place| holds(place)) {
            return Some(place);
        }
        let place = self.places.get(&wanted.key).copied()?;
        self.hint(wanted.slot, place);
        Some(place)
    }

    fn add(&mut self, entry: Entry) {
        let place = self.entries.len();
        self.places.insert(entry.key, place);
        self.hint(entry.slot, place);
        self.entries.push(entry);
    }

    fn hint(&mut self, slot: usize, place: usize) {
        if self.hints.len() <= slot {
            self.hints.resize(slot + 1, usize::MAX);
        }
        if let Some(hint) = self.hints.get_mut(slot) {
            *hint = place;
        }
    }

    /// Ends a request: the partitions that were not wanted again, with the topic ids the broker knows them by.
    pub(super) fn forget(&mut self) -> Vec<(Key, Option<Uuid>)> {
        if self.wanted == self.entries.len() {
            return Vec::new();
        }
        let round = self.round;
        let (kept, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.round == round);
        self.places.clear();
        kept.into_iter().for_each(|entry| self.add(entry));
        let mut forgotten: Vec<_> = gone.into_iter().map(|entry| (entry.key, entry.topic_id)).collect();
        forgotten.sort_unstable_by_key(|&(key, _)| key);
        forgotten
    }

    pub(super) fn entry(&self, key: Key) -> Option<&Entry> {
        self.entries.get(*self.places.get(&key)?)
    }

    /// The answer's head. An error means that nothing in it can be used.
    pub(super) fn handle_answer(&mut self, code: ErrorCode, id: i32) -> Result<(), Mismatch> {
        if !code.is_ok() {
            self.phase = match (code, self.phase) {
                (ErrorCode::FETCH_SESSION_ID_NOT_FOUND, _) | (_, Phase::Fresh) => Phase::Fresh,
                (_, Phase::Open { id, .. } | Phase::Replaced { id }) => Phase::Replaced { id },
            };
            return Ok(());
        }
        match self.phase {
            Phase::Open { id: ours, epoch } if id == ours => {
                // The epoch after the largest is 1: 0 would ask for a new session.
                let epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
                self.phase = Phase::Open { id, epoch };
            }
            Phase::Open { id: ours, .. } if id != 0 => {
                self.phase = Phase::Replaced { id: ours };
                return Err(Mismatch(format!("the answer is of fetch session {id}, where {ours} was asked")));
            }
            // The broker has no room for a session, or closed this one: it is asked in full.
            _ if id == 0 => self.phase = Phase::Fresh,
            _ => self.phase = Phase::Open { id, epoch: 1 },
        }
        Ok(())
    }

    /// The request or its answer was lost: the broker may hold anything.
    pub(super) fn handle_loss(&mut self) {
        if let Phase::Open { id, .. } = self.phase {
            self.phase = Phase::Replaced { id };
        }
    }

    /// The session that the broker still holds, if any: what a goodbye would name.
    pub(super) fn held(&self) -> Option<i32> {
        match self.phase {
            Phase::Fresh => None,
            Phase::Open { id, .. } | Phase::Replaced { id } => Some(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn wanted(partition: i32, offset: i64) -> Wanted {
        let asked = Asked { offset: Offset(offset), last_epoch: None, leader_epoch: None };
        // Slots move from one partition to another over time.
        let slot = (partition + offset as i32) as usize % 4;
        Wanted { key: (0, PartitionId(partition)), topic_id: None, asked, slot, generation: 0 }
    }

    /// What a broker does with requests (KIP-227).
    #[derive(Default)]
    struct Broker {
        sessions: BTreeMap<i32, (i32, BTreeMap<i32, i64>)>,
        next: i32,
    }

    impl Broker {
        /// Serves a request; the partitions and offsets it would read.
        fn serve(
            &mut self,
            head: SessionHead,
            sent: &[(i32, i64)],
            forgotten: &[i32],
        ) -> (ErrorCode, i32, BTreeMap<i32, i64>) {
            if head.epoch <= 0 {
                self.sessions.remove(&head.id);
                assert!(forgotten.is_empty(), "a full request forgets nothing");
                let all: BTreeMap<i32, i64> = sent.iter().copied().collect();
                if head.epoch < 0 {
                    return (ErrorCode::NONE, 0, all);
                }
                self.next += 1;
                self.sessions.insert(self.next, (1, all.clone()));
                return (ErrorCode::NONE, self.next, all);
            }
            let Some((epoch, held)) = self.sessions.get_mut(&head.id) else {
                return (ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0, BTreeMap::new());
            };
            if *epoch != head.epoch {
                return (ErrorCode::INVALID_FETCH_SESSION_EPOCH, 0, BTreeMap::new());
            }
            *epoch += 1;
            held.extend(sent.iter().copied());
            for gone in forgotten {
                assert!(held.remove(gone).is_some(), "forgot what was not held");
            }
            (ErrorCode::NONE, head.id, held.clone())
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Answered,
        RequestLost,
        AnswerLost,
        Evicted,
    }

    proptest! {
        /// Whatever is lost, the broker reads exactly what is wanted, at the wanted offsets, or says that it cannot.
        #[test]
        fn the_broker_reads_what_is_wanted_whatever_is_lost(
            rounds in proptest::collection::vec((
                proptest::collection::btree_map(0i32..6, 0i64..4, 0..6),
                prop_oneof![
                    4 => Just(Fate::Answered), 1 => Just(Fate::RequestLost),
                    1 => Just(Fate::AnswerLost), 1 => Just(Fate::Evicted),
                ],
            ), 1..40)
        ) {
            let mut session = Session::new();
            let mut broker = Broker::default();
            let mut incremental = 0;
            for (round, (want, fate)) in rounds.iter().enumerate() {
                session.begin(true);
                let head = session.head(true);
                incremental += usize::from(head.epoch > 0);
                let sent: Vec<(i32, i64)> = want
                    .iter()
                    .filter(|&(&partition, &offset)| session.want(&wanted(partition, offset)).0)
                    .map(|(&partition, &offset)| (partition, offset))
                    .collect();
                let forgotten: Vec<i32> = session.forget().into_iter().map(|((_, id), _)| id.0).collect();
                if let Fate::Evicted = fate {
                    broker.sessions.clear();
                }
                if let Fate::RequestLost = fate {
                    session.handle_loss();
                    continue;
                }
                let (code, id, read) = broker.serve(head, &sent, &forgotten);
                if let Fate::AnswerLost = fate {
                    session.handle_loss();
                    continue;
                }
                session.handle_answer(code, id).unwrap();
                if code.is_ok() {
                    prop_assert_eq!(&read, want, "round {}", round);
                    let held: BTreeSet<i32> = session.entries.iter().map(|entry| entry.key.1.0).collect();
                    prop_assert_eq!(held, want.keys().copied().collect::<BTreeSet<i32>>());
                }
            }
            if rounds.iter().all(|(_, fate)| matches!(fate, Fate::Answered)) {
                prop_assert_eq!(incremental, rounds.len() - 1);
            }
        }
    }

    #[test]
    fn a_broker_without_room_for_a_session_is_asked_in_full() {
        let mut session = Session::new();
        for _ in 0..3 {
            session.begin(true);
            assert_eq!(session.head(true), SessionHead { id: 0, epoch: 0 });
            assert!(session.want(&wanted(0, 7)).0);
            session.handle_answer(ErrorCode::NONE, 0).unwrap();
        }
        assert_eq!(session.held(), None);
    }

    #[test]
    fn the_answer_of_another_session_is_refused_and_both_are_left() {
        let mut session = Session::new();
        session.begin(true);
        session.handle_answer(ErrorCode::NONE, 5).unwrap();
        assert!(session.handle_answer(ErrorCode::NONE, 6).is_err());
        assert_eq!(session.head(true), SessionHead { id: 5, epoch: 0 });
    }

    #[test]
    fn a_recreated_topic_is_forgotten_by_its_old_id() {
        let mut session = Session::new();
        let id = |id| Some(Uuid::from_u128(id));
        session.begin(true);
        session.want(&Wanted { topic_id: id(1), ..wanted(0, 7) });
        session.handle_answer(ErrorCode::NONE, 5).unwrap();
        session.begin(true);
        assert_eq!(session.want(&Wanted { topic_id: id(2), ..wanted(0, 7) }), (true, id(1)));
    }

    #[test]
    fn the_epoch_after_the_largest_is_one() {
        let mut session = Session { phase: Phase::Open { id: 5, epoch: i32::MAX }, ..Session::new() };
        session.handle_answer(ErrorCode::NONE, 5).unwrap();
        assert_eq!(session.head(true), SessionHead { id: 5, epoch: 1 });
    }
}
