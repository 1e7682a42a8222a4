//! The enumerator's rules one by one, and over random histories.

use super::*;
use crate::source::policy::RemovedAction;
use milena::PartitionId;
use proptest::prelude::*;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn config() -> EnumeratorConfig {
    EnumeratorConfig {
        subscription: Subscription::Topics(["t", "u"].map(Arc::from).into()),
        start: StartFrom::Latest,
        stop: StopAt::Never,
        bounded: false,
        discovery: Discovery::Every(MINUTE),
        retry: DiscoveryRetry::default(),
        assigner: Assigner::FlinkHash,
        removed: RemovedPartition::default(),
        recreated: RecreatedTopic::Fail,
        unsubscribed: UnsubscribedPartition::Fail,
    }
}

fn bounded() -> EnumeratorConfig {
    EnumeratorConfig { bounded: true, stop: StopAt::Latest, discovery: Discovery::Once, ..config() }
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", PartitionId(partition))
}

fn found(partitions: impl IntoIterator<Item = i32>) -> Result<Discovered> {
    let partitions = partitions
        .into_iter()
        .map(|partition| DiscoveredPartition { topic_partition: tp(partition), topic_id: Some([1; 16]) })
        .collect();
    Ok(Discovered { partitions, missing: Vec::new() })
}

fn resolve(requests: &[ResolveRequest], stop: Option<i64>) -> Result<Vec<Resolved>> {
    let resolved = |request: &ResolveRequest| Resolved {
        topic_partition: request.topic_partition.clone(),
        start: Position { offset: Offset(7), leader_epoch: None },
        stop: stop.map(Offset),
    };
    Ok(requests.iter().map(resolved).collect())
}

fn drain(enumerator: &mut Enumerator) -> Vec<Command> {
    std::iter::from_fn(|| enumerator.poll_command()).collect()
}

/// In short: `D`iscover, `R`esolve with its rule, `A`ssign, `N`o more, remove `X`, `F`ail.
fn short(commands: &[Command]) -> String {
    let words = commands.iter().map(|command| match command {
        Command::Discover => "D".to_owned(),
        Command::ResolveOffsets(requests) => {
            let rules: Vec<_> =
                requests.iter().map(|r| format!("{}{:?}", r.topic_partition.partition, r.start)).collect();
            format!("R({})", rules.join(","))
        }
        Command::Assign { subtask, splits } => {
            let splits: Vec<_> =
                splits.iter().map(|s| format!("{}@{}", s.topic_partition.partition, s.next_offset)).collect();
            format!("A{subtask}({})", splits.join(","))
        }
        Command::Remove { subtask, partitions } => format!("X{subtask}({})", partitions.len()),
        Command::NoMoreSplits { subtask } => format!("N{subtask}"),
        Command::Fail(error) => format!("F({:?})", error.kind()),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Lets the enumerator discover these partitions and resolve what it asks for.
fn round(enumerator: &mut Enumerator, now: Instant, partitions: impl IntoIterator<Item = i32>) -> String {
    let mut said = drain(enumerator);
    enumerator.handle_discovered(now, found(partitions));
    let mut more = drain(enumerator);
    let asked = more.iter().find_map(|command| match command {
        Command::ResolveOffsets(requests) => Some(requests.clone()),
        _ => None,
    });
    said.append(&mut more);
    if let Some(requests) = asked {
        let stop = enumerator.config.bounded.then_some(9);
        enumerator.handle_offsets_resolved(now, resolve(&requests, stop));
        said.append(&mut drain(enumerator));
    }
    short(&said)
}

// scenario: 5.4.21, 5.4.22, 5.4.20
#[test]
fn partitions_are_found_resolved_and_dealt_in_either_order() {
    let now = Instant::now();
    let mut early = Enumerator::new(config(), 1);
    early.register_reader(0);
    assert_eq!(round(&mut early, now, [1, 0]), "D R(0Configured,1Configured) A0(0@7,1@7)");
    let mut late = Enumerator::new(config(), 1);
    assert_eq!(round(&mut late, now, [0, 1]), "D R(0Configured,1Configured)");
    late.register_reader(0);
    assert_eq!(short(&drain(&mut late)), "A0(0@7,1@7)");
}

/// D34, FLINK-32019: a partition found later must not start at the end.
// scenario: 5.4.24, D34
#[test]
fn a_partition_found_later_starts_at_its_first_offset() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(config(), 1);
    enumerator.register_reader(0);
    round(&mut enumerator, now, [0]);
    assert_eq!(enumerator.next_deadline(), Some(now + MINUTE));
    enumerator.tick(now + MINUTE - Duration::from_millis(1));
    assert_eq!(short(&drain(&mut enumerator)), "");
    enumerator.tick(now + MINUTE);
    assert_eq!(round(&mut enumerator, now + MINUTE, [0, 1]), "D R(1Earliest) A0(1@7)");
}

/// D42: answers that were not asked for, late ones and repeated ones, assign nothing.
// scenario: D42, 5.8.13
#[test]
fn racing_rounds_assign_nothing_twice() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(config(), 1);
    enumerator.register_reader(0);
    drain(&mut enumerator);
    enumerator.handle_discovered(now, found([0]));
    let commands = drain(&mut enumerator);
    let [Command::ResolveOffsets(requests)] = commands.as_slice() else { panic!("{commands:?}") };
    enumerator.handle_discovered(now, found([0]));
    enumerator.tick(now + MINUTE * 9);
    assert_eq!(short(&drain(&mut enumerator)), "");
    enumerator.handle_offsets_resolved(now, resolve(requests, None));
    enumerator.handle_offsets_resolved(now, resolve(requests, None));
    assert_eq!(short(&drain(&mut enumerator)), "A0(0@7)");
}

/// C29, D35: one failed look must not fail the job; too many in a row do.
// scenario: D35
#[test]
fn transient_failures_are_retried_and_others_are_not() {
    let mut now = Instant::now();
    let timeout = || Error::new(ErrorKind::Timeout, "slow");
    let retry = DiscoveryRetry { limit: 2, ..DiscoveryRetry::default() };
    let mut enumerator = Enumerator::new(EnumeratorConfig { retry, ..config() }, 1);
    for _ in 0..2 {
        assert_eq!(short(&drain(&mut enumerator)), "D");
        enumerator.handle_discovered(now, Err(timeout()));
        assert_eq!(short(&drain(&mut enumerator)), "");
        now = enumerator.next_deadline().unwrap();
        enumerator.tick(now);
    }
    drain(&mut enumerator);
    enumerator.handle_discovered(now, Err(timeout()));
    assert_eq!(short(&drain(&mut enumerator)), "F(Timeout)");
    let mut enumerator = Enumerator::new(config(), 1);
    enumerator.handle_discovered(now, Err(Error::new(ErrorKind::Misuse, "no")));
    assert_eq!(short(&drain(&mut enumerator)), "F(Misuse)");
    assert_eq!(enumerator.next_deadline(), None);
}

#[test]
fn a_resolution_that_fails_or_is_partial_is_asked_again_for_the_rest() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(config(), 1);
    enumerator.register_reader(0);
    drain(&mut enumerator);
    enumerator.handle_discovered(now, found([0, 1]));
    let commands = drain(&mut enumerator);
    let [Command::ResolveOffsets(requests)] = commands.as_slice() else { panic!("{commands:?}") };
    enumerator.handle_offsets_resolved(now, resolve(&requests[..1], None));
    assert!(!enumerator.is_resolved());
    assert_eq!(short(&drain(&mut enumerator)), "A0(0@7)");
    enumerator.tick(enumerator.next_deadline().unwrap());
    assert_eq!(short(&drain(&mut enumerator)), "D", "it may be gone");
    enumerator.handle_discovered(now, found([0, 1]));
    assert_eq!(short(&drain(&mut enumerator)), "R(1Configured)");
    enumerator.handle_offsets_resolved(now, resolve(requests, None));
    assert_eq!(short(&drain(&mut enumerator)), "A0(1@7)");
    assert!(enumerator.is_resolved());
}

// scenario: 5.4.36
#[test]
fn a_misspelt_topic_fails_soon_and_a_slow_one_is_waited_for() {
    let mut now = Instant::now();
    let missing = || Ok(Discovered { partitions: Vec::new(), missing: vec!["topic u".to_owned()] });
    let mut enumerator = Enumerator::new(config(), 1);
    let mut tries = 0;
    let error = loop {
        tries += 1;
        drain(&mut enumerator);
        enumerator.handle_discovered(now, missing());
        match enumerator.poll_command() {
            Some(Command::Fail(error)) => break error,
            Some(other) => panic!("{other:?}"),
            None => now = enumerator.next_deadline().unwrap(),
        }
        enumerator.tick(now);
    };
    assert_eq!((tries, error.kind()), (4, ErrorKind::Topic));
    assert!(error.to_string().contains("topic u"), "{error}");
}

/// C30, D38: one answer that lists less drops nothing.
// scenario: D36, D38, 5.8.4, 5.8.5, 5.4.30
#[test]
fn partitions_that_are_not_listed_once_stay_and_those_gone_follow_the_policy() {
    let cases =
        [(RemovedAction::Fail, "D F(Topic)"), (RemovedAction::Wait, "D"), (RemovedAction::Drop, "D X0(1)")];
    for (action, last) in cases {
        let mut now = Instant::now();
        let removed = RemovedPartition { confirmations: 2, action };
        let mut enumerator = Enumerator::new(EnumeratorConfig { removed, ..config() }, 1);
        enumerator.register_reader(0);
        round(&mut enumerator, now, [0, 1]);
        for listed in [vec![0], vec![0, 1], vec![0]] {
            now = enumerator.next_deadline().unwrap();
            enumerator.tick(now);
            assert_eq!(round(&mut enumerator, now, listed), "D", "{action:?}");
        }
        now = enumerator.next_deadline().unwrap();
        enumerator.tick(now);
        assert_eq!(round(&mut enumerator, now, [0]), last, "{action:?}");
        if action == RemovedAction::Drop {
            now = enumerator.next_deadline().unwrap();
            enumerator.tick(now);
            assert_eq!(round(&mut enumerator, now, [0, 1]), "D R(1Earliest) A0(1@7)");
        }
    }
}

/// C9, D40, FLINK-40128: the old offsets must not be applied to a new topic in silence.
// scenario: D40, 5.4.48
#[test]
fn a_topic_created_again_fails_unless_it_is_to_be_ignored() {
    for (policy, last) in [(RecreatedTopic::Fail, "F(Topic)"), (RecreatedTopic::Ignore, "")] {
        for restored in [false, true] {
            let now = Instant::now();
            let config = EnumeratorConfig { recreated: policy, ..config() };
            let mut enumerator = Enumerator::new(config.clone(), 1);
            round(&mut enumerator, now, [0]);
            if restored {
                enumerator = Enumerator::restore(config, 1, enumerator.snapshot(), []).unwrap();
            } else {
                enumerator.tick(now + MINUTE);
            }
            drain(&mut enumerator);
            let other = DiscoveredPartition { topic_partition: tp(0), topic_id: Some([2; 16]) };
            enumerator
                .handle_discovered(now, Ok(Discovered { partitions: vec![other], missing: Vec::new() }));
            assert_eq!(short(&drain(&mut enumerator)), last);
        }
    }
}

/// The same when the run before was at its end and its splits get new stops.
#[test]
fn a_topic_created_again_is_noticed_when_a_bounded_source_goes_on() {
    let done = Split::new(tp(0), Offset(9)).with_stop(Some(Offset(9))).with_topic_id(Some([2; 16]));
    let state = EnumeratorState {
        initial_discovery_finished: true,
        start: "latest".to_owned(),
        splits: vec![done],
        unresolved: Vec::new(),
    };
    let mut enumerator = Enumerator::restore(bounded(), 1, state, []).unwrap();
    assert_eq!(round(&mut enumerator, Instant::now(), [0]), "D F(Topic)");
}

/// D32, FLINK-31006, FLINK-33466: a bounded source with nothing (left) to assign must end.
// scenario: D32, 5.4.23
#[test]
fn a_bounded_source_always_says_that_no_more_comes() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(bounded(), 2);
    enumerator.register_reader(0);
    assert_eq!(round(&mut enumerator, now, []), "D A0() N0", "no partition at all");
    enumerator.register_reader(1);
    assert_eq!(short(&drain(&mut enumerator)), "A1() N1", "a reader that comes later");

    let mut first = Enumerator::new(bounded(), 1);
    first.register_reader(0);
    assert_eq!(round(&mut first, now, [0]), "D R(0Configured) A0(0@7) N0");
    let at = Split::new(tp(0), Offset(8)).with_stop(Some(Offset(9)));
    let mut again = Enumerator::restore(bounded(), 1, first.snapshot(), [at]).unwrap();
    again.register_reader(0);
    assert_eq!(
        round(&mut again, now, [0]),
        "A0(0@8) N0".replace("A0", "D A0"),
        "restored with everything known"
    );
}

/// D31: extra readers learn that they have nothing.
// scenario: D31, 5.4.16, 5.2.30
#[test]
fn readers_without_partitions_are_told_so() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(config(), 3);
    for subtask in 0..3 {
        enumerator.register_reader(subtask);
    }
    let said = round(&mut enumerator, now, [0]);
    assert_eq!(said.matches("()").count(), 2, "{said}");
    enumerator.tick(now + MINUTE);
    assert_eq!(round(&mut enumerator, now, [0]), "D", "once is enough");
}

/// C4, C6, C1: with a checkpoint the start mode isn't used; what it doesn't know starts at its first offset.
// scenario: 5.2.10, 5.4.27
#[test]
fn a_restored_source_goes_on_and_reads_what_is_new_from_its_first_offset() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(config(), 1);
    round(&mut enumerator, now, [0]);
    let other = EnumeratorConfig { start: StartFrom::Earliest, ..config() };
    let mut enumerator =
        Enumerator::restore(other, 1, enumerator.snapshot(), [Split::new(tp(0), Offset(50))]).unwrap();
    enumerator.register_reader(0);
    assert_eq!(round(&mut enumerator, now, [0, 1]), "D A0(0@50) R(1Earliest) A0(1@7)");
}

/// C2: nothing was resolved, so the user's mode counts.
// scenario: D33
#[test]
fn a_checkpoint_from_before_the_first_discovery_keeps_the_start_mode() {
    let enumerator = Enumerator::new(config(), 1);
    assert!(!enumerator.is_resolved());
    let mut enumerator = Enumerator::restore(config(), 1, enumerator.snapshot(), []).unwrap();
    assert_eq!(round(&mut enumerator, Instant::now(), [0]), "D R(0Configured)");
}

/// C5, D37: neither silently read nor silently dropped.
// scenario: D37, 5.2.8, 5.2.9, 5.2.11
#[test]
fn a_partition_not_subscribed_any_more_follows_the_policy() {
    let gone = TopicPartition::new("gone", PartitionId(0));
    let state = EnumeratorState {
        initial_discovery_finished: true,
        start: "latest".to_owned(),
        splits: Vec::new(),
        unresolved: Vec::new(),
    };
    let restore = |config: EnumeratorConfig, unsubscribed| {
        let config = EnumeratorConfig { unsubscribed, ..config };
        Enumerator::restore(config, 1, state.clone(), [Split::new(gone.clone(), Offset(3))])
    };
    let error = restore(config(), UnsubscribedPartition::Fail).unwrap_err();
    assert_eq!((error.kind(), error.topic_partition()), (ErrorKind::Topic, Some(&gone)));
    assert_eq!(restore(config(), UnsubscribedPartition::Drop).unwrap().owners().count(), 0);
    let mut kept = restore(config(), UnsubscribedPartition::Keep).unwrap();
    kept.register_reader(0);
    assert_eq!(round(&mut kept, Instant::now(), []), "D A0(0@3)");
    let mut kept = restore(bounded(), UnsubscribedPartition::Keep).unwrap();
    kept.register_reader(0);
    assert_eq!(round(&mut kept, Instant::now(), []), "D R(0Kept) A0(0@3) N0", "with the stop it lacked");
}

/// C34: a reader gives back what it has, not what another one has.
// scenario: 5.4.26
#[test]
fn splits_given_back_are_dealt_again_and_foreign_ones_are_refused() {
    let now = Instant::now();
    let mut enumerator = Enumerator::new(config(), 2);
    enumerator.register_reader(0);
    enumerator.register_reader(1);
    round(&mut enumerator, now, [0, 1]);
    let (at, owner) = enumerator.owners().map(|(at, owner)| (at.clone(), owner)).next().unwrap();
    enumerator.add_splits_back(1 - owner, vec![Split::new(at.clone(), Offset(1))]);
    assert_eq!(short(&drain(&mut enumerator)), "");
    enumerator.remove_reader(owner);
    enumerator.add_splits_back(owner, vec![Split::new(at.clone(), Offset(20))]);
    assert_eq!(short(&drain(&mut enumerator)), "", "not before the reader is back");
    enumerator.register_reader(owner);
    assert_eq!(short(&drain(&mut enumerator)), format!("A{owner}({}@20)", at.partition));
}

#[derive(Clone, Debug)]
enum Step {
    Discover(BTreeSet<i32>),
    FailDiscovery,
    Resolve(usize),
    FailResolution,
    Register(u32),
    Crash(u32),
    Tick,
    Restore(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => proptest::collection::btree_set(0..6_i32, 0..6).prop_map(Step::Discover),
        1 => Just(Step::FailDiscovery),
        3 => (0..7_usize).prop_map(Step::Resolve),
        1 => Just(Step::FailResolution),
        3 => (0..4_u32).prop_map(Step::Register),
        1 => (0..4_u32).prop_map(Step::Crash),
        3 => Just(Step::Tick),
        1 => (1..5_u32).prop_map(Step::Restore),
    ];
    proptest::collection::vec(step, 0..80)
}

/// The readers as they would be, and the rules their assignments must keep.
#[derive(Default)]
struct Readers {
    have: BTreeMap<TopicPartition, (u32, Split)>,
    registered: BTreeSet<u32>,
    asked: Vec<ResolveRequest>,
    ever: BTreeSet<TopicPartition>,
}

impl Readers {
    fn take(
        &mut self,
        enumerator: &mut Enumerator,
        parallelism: u32,
    ) -> std::result::Result<(), TestCaseError> {
        while let Some(command) = enumerator.poll_command() {
            match command {
                Command::Assign { subtask, splits } => {
                    prop_assert!(
                        subtask < parallelism && self.registered.contains(&subtask),
                        "no reader {}",
                        subtask
                    );
                    for split in splits {
                        let at = split.topic_partition.clone();
                        self.ever.insert(at.clone());
                        let owner = super::super::assign::owner(&at.topic, at.partition.0, parallelism);
                        prop_assert_eq!(owner, subtask, "dealt to another reader");
                        let before = self.have.insert(at.clone(), (subtask, split));
                        prop_assert!(before.is_none(), "{} is assigned twice", at);
                    }
                }
                Command::ResolveOffsets(requests) => self.asked = requests,
                Command::Discover => {}
                other => prop_assert!(false, "unexpected {:?}", other),
            }
        }
        Ok(())
    }
}

proptest! {
    /// Over random discoveries, failures, crashes of readers and restores with another parallelism: no partition is assigned twice,
    /// none that was ever assigned is lost, and in the end every one is read by its owner.
    // scenario: 5.4.29
    #[test]
    fn no_split_is_lost_or_assigned_twice(steps in steps()) {
        let removed = RemovedPartition { confirmations: 1, action: RemovedAction::Wait };
        let retry = DiscoveryRetry { limit: u32::MAX, ..DiscoveryRetry::default() };
        let config = EnumeratorConfig { removed, retry, ..config() };
        let mut now = Instant::now();
        let mut parallelism = 2;
        let mut enumerator = Enumerator::new(config.clone(), parallelism);
        let mut readers = Readers::default();
        for step in steps {
            match step {
                Step::Discover(partitions) => enumerator.handle_discovered(now, found(partitions)),
                Step::FailDiscovery => enumerator.handle_discovered(now, Err(Error::new(ErrorKind::Timeout, "slow"))),
                Step::Resolve(count) => {
                    let some: Vec<_> = readers.asked.iter().take(count).cloned().collect();
                    enumerator.handle_offsets_resolved(now, resolve(&some, None));
                }
                Step::FailResolution => {
                    enumerator.handle_offsets_resolved(now, Err(Error::new(ErrorKind::Timeout, "slow")));
                }
                Step::Register(subtask) if subtask < parallelism && readers.registered.insert(subtask) => {
                    enumerator.register_reader(subtask);
                }
                Step::Crash(subtask) => {
                    enumerator.remove_reader(subtask);
                    readers.registered.remove(&subtask);
                    let theirs: Vec<Split> =
                        readers.have.values().filter(|(owner, _)| *owner == subtask).map(|(_, split)| split.clone()).collect();
                    readers.have.retain(|_, (owner, _)| *owner != subtask);
                    enumerator.add_splits_back(subtask, theirs);
                }
                Step::Tick => {
                    now = enumerator.next_deadline().unwrap_or(now);
                    enumerator.tick(now);
                }
                Step::Restore(to) => {
                    readers.take(&mut enumerator, parallelism)?;
                    let splits: Vec<Split> = std::mem::take(&mut readers.have).into_values().map(|(_, split)| split).collect();
                    parallelism = to;
                    readers.registered.clear();
                    enumerator = Enumerator::restore(config.clone(), to, enumerator.snapshot(), splits).unwrap();
                }
                Step::Register(_) => {}
            }
            readers.take(&mut enumerator, parallelism)?;
        }
        for subtask in 0..parallelism {
            if readers.registered.insert(subtask) {
                enumerator.register_reader(subtask);
            }
        }
        readers.take(&mut enumerator, parallelism)?;
        for at in &readers.ever {
            prop_assert!(readers.have.contains_key(at), "{} is lost", at);
        }
        let known: Vec<_> = enumerator.owners().map(|(at, _)| at.clone()).collect();
        prop_assert_eq!(known, readers.have.keys().cloned().collect::<Vec<_>>());
    }
}

#[path = "enumerator_end_tests.rs"]
mod ends;

/// An imported state without offsets: each partition starts by its mark, once, and a checkpoint before keeps the mark.
// scenario: 5.4.25, 5.2.21, 5.4.29, 5.2.19
#[test]
fn partitions_of_an_imported_state_get_their_offsets_by_their_marks() {
    let now = Instant::now();
    let unresolved = |partition, start| UnresolvedSplit { topic_partition: tp(partition), start };
    let state = EnumeratorState {
        initial_discovery_finished: true,
        start: "imported".to_owned(),
        splits: vec![Split::new(tp(0), Offset(3))],
        unresolved: vec![unresolved(1, StoredStart::Committed), unresolved(2, StoredStart::Earliest)],
    };
    let restore = || {
        let mut enumerator = Enumerator::restore(config(), 1, state.clone(), []).unwrap();
        enumerator.register_reader(0);
        enumerator
    };
    let mut enumerator = restore();
    assert!(!enumerator.is_resolved());
    assert_eq!(enumerator.snapshot().unresolved, state.unresolved);
    let commands = round(&mut enumerator, now, [0, 1, 2, 3]);
    assert_eq!(commands, "D A0(0@3) R(1Stored(Committed),2Stored(Earliest),3Earliest) A0(1@7,2@7,3@7)");
    assert!(enumerator.is_resolved() && enumerator.snapshot().unresolved.is_empty());
    assert_eq!(enumerator.snapshot().splits.len(), 4);

    // One that is not there is not left out in silence.
    let mut enumerator = restore();
    round(&mut enumerator, now, [0, 1]);
    assert_eq!((enumerator.metrics().failures, enumerator.is_resolved()), (1, false));
    assert_eq!(enumerator.snapshot().unresolved, state.unresolved);
}
