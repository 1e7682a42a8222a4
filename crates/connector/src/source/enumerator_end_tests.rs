//! That a source ends, and does not end or wait where it must not.

use super::*;

/// Looks again and again, with the same partitions there, until the enumerator asks for nothing more.
fn look_on(enumerator: &mut Enumerator, mut now: Instant, listed: &[i32], missing: &[&str]) -> (u32, String) {
    let mut said = Vec::new();
    for looks in 0..50 {
        let commands = drain(enumerator);
        for command in &commands {
            match command {
                Command::Discover => {
                    let mut answer = found(listed.iter().copied()).unwrap();
                    answer.missing = missing.iter().map(|name| (*name).to_owned()).collect();
                    enumerator.handle_discovered(now, Ok(answer));
                }
                Command::ResolveOffsets(requests) => {
                    enumerator.handle_offsets_resolved(now, resolve(requests, Some(9)));
                }
                _ => said.push(short(std::slice::from_ref(command))),
            }
        }
        if commands.is_empty() {
            let Some(due) = enumerator.next_deadline() else { return (looks, said.join(" ")) };
            now = due;
            enumerator.tick(now);
        }
    }
    panic!("it looks for ever: {said:?}");
}

fn state(splits: Vec<Split>) -> EnumeratorState {
    EnumeratorState {
        initial_discovery_finished: true,
        start: "latest".to_owned(),
        splits,
        unresolved: Vec::new(),
    }
}

fn at(partition: i32, offset: i64, stop: Option<i64>) -> Split {
    Split::new(tp(partition), Offset(offset)).with_stop(stop.map(Offset))
}

#[test]
fn a_split_that_wants_a_new_stop_and_is_gone_is_not_looked_for_for_ever() {
    let mut enumerator = Enumerator::restore(bounded(), 1, state(vec![at(0, 9, Some(9))]), []).unwrap();
    enumerator.register_reader(0);
    let (_, said) = look_on(&mut enumerator, Instant::now(), &[], &[]);
    assert_eq!(said, "F(Topic)");
}

/// C8 in a bounded source: it looks only once, so a partition that is not there would be waited for without a word.
#[test]
fn a_bounded_source_does_not_read_a_partition_that_is_gone_for_ever() {
    let cases = [
        (RemovedAction::Fail, &[1][..], "A0(0@3,1@3) F(Topic)"),
        (RemovedAction::Drop, &[1], "A0(0@3,1@3) X0(1) N0"),
        (RemovedAction::Wait, &[1], "A0(0@3,1@3) N0"),
        (RemovedAction::Fail, &[0, 1], "A0(0@3,1@3) N0"),
    ];
    for (action, listed, expected) in cases {
        let removed = RemovedPartition { confirmations: 3, action };
        let config = EnumeratorConfig { removed, ..bounded() };
        let splits = vec![at(0, 3, Some(9)), at(1, 3, Some(9))];
        let mut enumerator = Enumerator::restore(config, 1, state(splits), []).unwrap();
        enumerator.register_reader(0);
        assert_eq!(look_on(&mut enumerator, Instant::now(), listed, &[]).1, expected, "{action:?}");
    }
}

#[test]
fn splits_given_back_do_not_go_to_a_reader_that_was_told_that_no_more_comes() {
    let config = EnumeratorConfig { assigner: Assigner::Balanced, ..bounded() };
    let mut enumerator = Enumerator::new(config, 2);
    enumerator.register_reader(0);
    enumerator.register_reader(1);
    let said = look_on(&mut enumerator, Instant::now(), &[0, 1, 2], &[]).1;
    assert_eq!(said, "A0(0@7,2@7) N0 A1(1@7) N1");
    enumerator.remove_reader(0);
    enumerator.add_splits_back(0, vec![at(0, 7, Some(9)), at(2, 8, Some(9))]);
    assert_eq!(short(&drain(&mut enumerator)), "");
    enumerator.register_reader(0);
    assert_eq!(short(&drain(&mut enumerator)), "A0(0@7,2@8) N0");
}

/// C6: a name that was added to the list and misspelt is an error, as it is at the first start.
#[test]
fn a_name_added_to_a_restored_source_is_not_left_out_in_silence() {
    let restored = |action| {
        let config = EnumeratorConfig {
            removed: RemovedPartition { confirmations: 3, action },
            discovery: Discovery::Once,
            ..config()
        };
        let mut enumerator = Enumerator::restore(config, 1, state(vec![at(0, 3, None)]), []).unwrap();
        enumerator.register_reader(0);
        look_on(&mut enumerator, Instant::now(), &[0], &["topic u"]).1
    };
    assert_eq!(restored(RemovedAction::Fail), "A0(0@3) F(Topic)");
    assert_eq!(restored(RemovedAction::Drop), "A0(0@3)", "it may have been dropped before");
}

/// A topic that lives for a moment only does not hold up the end.
#[test]
fn a_partition_that_is_gone_before_its_offsets_are_known_is_not_asked_for_again() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(bounded(), 1);
    enumerator.register_reader(0);
    drain(&mut enumerator);
    enumerator.handle_discovered(now, found([0, 1]));
    let commands = drain(&mut enumerator);
    let [Command::ResolveOffsets(requests)] = commands.as_slice() else { panic!("{commands:?}") };
    enumerator.handle_offsets_resolved(now, resolve(&requests[..1], Some(9)));
    assert_eq!(look_on(&mut enumerator, now, &[0], &[]).1, "A0(0@7) N0");
}

/// A run that was cut off keeps the stops it began with; one that was at its end gets new ones; without a stop there are none.
#[test]
fn stops_of_a_restored_source_follow_its_new_configuration() {
    let cut_off = vec![at(0, 9, Some(9)), at(1, 4, Some(6))];
    let done = vec![at(0, 5, Some(5)), at(1, 6, Some(6))];
    let stops = |config: EnumeratorConfig, splits: &[Split]| {
        let mut enumerator = Enumerator::restore(config, 1, state(splits.to_vec()), []).unwrap();
        look_on(&mut enumerator, Instant::now(), &[0, 1], &[]);
        let stops: Vec<_> = enumerator
            .snapshot()
            .splits
            .iter()
            .map(|split| (split.next_offset.0, split.stop.map(|stop| stop.0)))
            .collect();
        stops
    };
    let once = EnumeratorConfig { discovery: Discovery::Once, ..config() };
    assert_eq!(stops(bounded(), &cut_off), [(9, Some(9)), (4, Some(6))]);
    assert_eq!(stops(bounded(), &done), [(5, Some(9)), (6, Some(9))]);
    assert_eq!(stops(once.clone(), &cut_off), [(9, None), (4, None)]);
    assert_eq!(stops(once, &done), [(5, None), (6, None)]);
    assert_eq!(stops(bounded(), &[at(0, 5, None), at(1, 6, None)]), [(5, Some(9)), (6, Some(9))]);
}

/// C33: what ended before its stop is not read on after a restore in a bounded source that was cut off.
#[test]
fn a_partition_whose_stream_ended_is_not_read_on_after_a_restore() {
    let mut enumerator = Enumerator::new(bounded(), 1);
    enumerator.register_reader(0);
    look_on(&mut enumerator, Instant::now(), &[0, 1], &[]);
    enumerator.handle_finished(&at(0, 8, Some(9)));
    enumerator.handle_finished(&at(0, 9, Some(9)));
    let reading = at(1, 7, Some(9));
    let mut enumerator = Enumerator::restore(bounded(), 1, enumerator.snapshot(), [reading]).unwrap();
    enumerator.register_reader(0);
    assert_eq!(look_on(&mut enumerator, Instant::now(), &[0, 1], &[]).1, "A0(1@7) N0");
    assert_eq!(enumerator.snapshot().splits[0].next_offset, Offset(8));
}

#[derive(Clone, Debug)]
enum Event {
    /// One more partition exists.
    Grow,
    Discover,
    Fail,
    Resolve(usize),
    Register(u32),
    Crash(u32),
    /// The reader of this partition hands out one record more.
    Read(i32),
    Checkpoint,
    Restore(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => Just(Event::Grow),
        3 => Just(Event::Discover),
        1 => Just(Event::Fail),
        3 => (0..7_usize).prop_map(Event::Resolve),
        4 => (0..4_u32).prop_map(Event::Register),
        1 => (0..4_u32).prop_map(Event::Crash),
        8 => (0..6_i32).prop_map(Event::Read),
        2 => Just(Event::Checkpoint),
        1 => (1..5_u32).prop_map(Event::Restore),
    ];
    proptest::collection::vec(event, 0..120)
}

/// A bounded source as it runs: what exists, who reads what, what the last checkpoint has.
struct World {
    config: EnumeratorConfig,
    enumerator: Enumerator,
    now: Instant,
    parallelism: u32,
    exists: i32,
    readers: BTreeMap<u32, bool>,
    reading: BTreeMap<TopicPartition, (u32, Split)>,
    looking: bool,
    asked: Vec<ResolveRequest>,
    checkpoint: (EnumeratorState, BTreeMap<TopicPartition, (u32, Split)>),
}

type Checked = std::result::Result<(), TestCaseError>;

impl World {
    fn new() -> Self {
        let retry = DiscoveryRetry { limit: u32::MAX, ..DiscoveryRetry::default() };
        let config = EnumeratorConfig { retry, ..bounded() };
        Self {
            enumerator: Enumerator::new(config.clone(), 2),
            config,
            now: Instant::now(),
            parallelism: 2,
            exists: 1,
            readers: BTreeMap::new(),
            reading: BTreeMap::new(),
            looking: false,
            asked: Vec::new(),
            checkpoint: (EnumeratorState::default(), BTreeMap::new()),
        }
    }

    fn obey(&mut self) -> Checked {
        while let Some(command) = self.enumerator.poll_command() {
            match command {
                Command::Discover => self.looking = true,
                Command::ResolveOffsets(requests) => self.asked = requests,
                Command::Assign { subtask, splits } => {
                    prop_assert_eq!(
                        self.readers.get(&subtask),
                        Some(&false),
                        "told of no more, or not there"
                    );
                    for split in splits {
                        let at = split.topic_partition.clone();
                        let safe = self.checkpoint.1.get(&at).map(|(_, split)| split.next_offset);
                        prop_assert!(Some(split.next_offset) >= safe, "{} goes back", at);
                        prop_assert!(!split.is_finished());
                        prop_assert!(self.reading.insert(at, (subtask, split)).is_none(), "read twice");
                    }
                }
                Command::NoMoreSplits { subtask } => {
                    let before = self.readers.insert(subtask, true);
                    prop_assert_eq!(before, Some(false), "told twice, or not there");
                }
                other => prop_assert!(false, "unexpected {:?}", other),
            }
        }
        Ok(())
    }

    fn read(&mut self, at: &TopicPartition) {
        if let Some((_, split)) = self.reading.get_mut(at) {
            split.next_offset += 1;
            if split.is_finished() {
                self.enumerator.handle_finished(split);
                self.reading.remove(at);
            }
        }
    }

    fn happen(&mut self, event: &Event) -> Checked {
        match event {
            Event::Grow => self.exists = (self.exists + 1).min(6),
            Event::Discover if std::mem::take(&mut self.looking) => {
                self.enumerator.handle_discovered(self.now, found(0..self.exists));
            }
            Event::Fail => {
                let slow = || Error::new(ErrorKind::Timeout, "slow");
                if std::mem::take(&mut self.looking) {
                    self.enumerator.handle_discovered(self.now, Err(slow()));
                } else if !std::mem::take(&mut self.asked).is_empty() {
                    self.enumerator.handle_offsets_resolved(self.now, Err(slow()));
                }
            }
            Event::Resolve(count) if !self.asked.is_empty() => {
                let some: Vec<_> = std::mem::take(&mut self.asked).into_iter().take(*count).collect();
                self.enumerator.handle_offsets_resolved(self.now, resolve(&some, Some(9)));
            }
            Event::Register(subtask)
                if *subtask < self.parallelism && !self.readers.contains_key(subtask) =>
            {
                self.readers.insert(*subtask, false);
                self.enumerator.register_reader(*subtask);
            }
            Event::Crash(subtask) if self.readers.remove(subtask).is_some() => {
                // It comes back with what the checkpoint has of it; what it was given since starts again.
                self.enumerator.remove_reader(*subtask);
                let known = self.enumerator.snapshot().splits;
                let theirs = |of: &BTreeMap<TopicPartition, (u32, Split)>, at: &TopicPartition| {
                    of.get(at).is_some_and(|(owner, _)| owner == subtask)
                };
                let back: Vec<Split> = known
                    .into_iter()
                    .filter(|split| {
                        let at = &split.topic_partition;
                        theirs(&self.reading, at) || theirs(&self.checkpoint.1, at)
                    })
                    .map(|split| match self.checkpoint.1.get(&split.topic_partition) {
                        Some((_, split)) => split.clone(),
                        None => split,
                    })
                    .collect();
                self.reading.retain(|_, (owner, _)| owner != subtask);
                self.enumerator.add_splits_back(*subtask, back);
            }
            Event::Read(partition) => self.read(&tp(*partition)),
            Event::Checkpoint => self.checkpoint = (self.enumerator.snapshot(), self.reading.clone()),
            Event::Restore(parallelism) => {
                let (state, reading) = self.checkpoint.clone();
                let splits: Vec<Split> = reading.into_values().map(|(_, split)| split).collect();
                self.parallelism = *parallelism;
                self.enumerator =
                    Enumerator::restore(self.config.clone(), *parallelism, state, splits).unwrap();
                self.readers.clear();
                self.reading.clear();
                self.looking = false;
                self.asked.clear();
            }
            _ => {}
        }
        self.obey()?;
        if let Some(due) = self.enumerator.next_deadline() {
            self.now = due;
            self.enumerator.tick(due);
            self.obey()?;
        }
        Ok(())
    }
}

proptest! {
    /// Whatever fails, comes back and is restored: no partition is read twice at once, none is lost, no position goes back behind
    /// the last checkpoint, and when nothing fails any more every reader ends with every partition read to its stop.
    #[test]
    fn every_bounded_history_ends_with_everything_read(events in events()) {
        let mut world = World::new();
        world.obey()?;
        for event in &events {
            world.happen(event)?;
        }
        let mut steps = vec![Event::Discover, Event::Resolve(9)];
        steps.extend((0..4).map(Event::Register));
        for _ in 0..2 {
            for step in &steps {
                world.happen(step)?;
            }
        }
        for partition in 0..6 {
            for _ in 0..9 {
                world.happen(&Event::Read(partition))?;
            }
        }
        prop_assert!(world.reading.is_empty(), "{:?}", world.reading);
        prop_assert_eq!(world.readers.len(), world.parallelism as usize);
        prop_assert!(world.readers.values().all(|told| *told), "a reader waits for ever: {:?}", world.readers);
        let state = world.enumerator.snapshot();
        prop_assert!(!state.splits.is_empty() && state.splits.iter().all(Split::is_finished), "{:?}", state.splits);
        prop_assert_eq!(world.enumerator.owners().count(), 0);
    }
}
