use super::*;

const PRODUCER: ProducerId = ProducerId(7);
const EPOCH: ProducerEpoch = ProducerEpoch(3);
const START: i64 = 1_000;

fn first(partition: i32) -> FirstOffset {
    (TopicPartition::new("out", partition), Offset(i64::from(partition) * 10))
}

fn transaction(start_time_ms: Option<i64>, partitions: i32) -> PreparedTransaction {
    PreparedTransaction {
        transactional_id: String::from("job-0-0"),
        producer_id: PRODUCER,
        producer_epoch: EPOCH,
        version: milena::TransactionVersion::V2,
        first_offsets: (0..partitions).map(first).collect(),
        start_time_ms,
        timeout: Duration::from_secs(60),
    }
}

fn entry(state: TransactionState, epoch: i16, start_time_ms: Option<i64>) -> Description {
    Description::Found { state, producer_id: PRODUCER, producer_epoch: ProducerEpoch(epoch), start_time_ms }
}

/// A cluster that always answers the same.
struct World {
    end: EndAnswer,
    /// The first end requests that are lost on the way back.
    silent: u32,
    description: Description,
    log: Vec<Evidence>,
}

impl World {
    fn settle(
        &self,
        transaction: &PreparedTransaction,
        limits: Limits,
    ) -> (Outcome, Vec<&'static str>, Duration) {
        let begun = Instant::now();
        let mut now = begun;
        let mut trace = Vec::new();
        let mut silent = self.silent;
        let mut procedure = Settlement::new(transaction, limits, Duration::ZERO, now, 42);
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            match procedure.poll_step(now) {
                Step::Done(outcome) => return (outcome, trace, now - begun),
                Step::Wait(until) => now = now.max(until),
                Step::End => {
                    trace.push("end");
                    let lost = silent > 0;
                    silent = silent.saturating_sub(1);
                    let answer = if lost {
                        EndAnswer::Silence(String::from("connection reset"))
                    } else {
                        self.end.clone()
                    };
                    procedure.handle_end(now, answer);
                }
                Step::Describe => {
                    trace.push("describe");
                    procedure.handle_description(now, self.description.clone());
                }
                Step::Read(firsts) => {
                    trace.push("read");
                    let evidence: Vec<_> = firsts
                        .iter()
                        .map(|(partition, _)| (partition.clone(), self.log[partition.partition.0 as usize]))
                        .collect();
                    procedure.handle_evidence(now, &evidence);
                }
            }
        }
        panic!("no outcome: {trace:?}");
    }

    fn answer(end: EndAnswer, description: Description, log: &[Evidence]) -> Outcome {
        let world = Self { end, silent: 0, description, log: log.to_vec() };
        world.settle(&transaction(Some(START), i32::try_from(log.len()).unwrap()), Limits::default()).0
    }
}

fn refused(code: ErrorCode) -> EndAnswer {
    EndAnswer::Refused(code)
}

const ABOUT: [ErrorCode; 4] = [
    ErrorCode::PRODUCER_FENCED,
    ErrorCode::INVALID_PRODUCER_EPOCH,
    ErrorCode::INVALID_TXN_STATE,
    ErrorCode::INVALID_PRODUCER_ID_MAPPING,
];

#[test]
fn success_is_verified_in_the_log() {
    let world = World {
        end: EndAnswer::Done,
        silent: 0,
        description: Description::NotFound,
        log: vec![Evidence::Commit, Evidence::Commit],
    };
    let (outcome, trace, _) = world.settle(&transaction(Some(START), 2), Limits::default());
    assert_eq!(outcome, Outcome::Committed { verified: true });
    assert_eq!(trace, ["end", "read"]);

    let quick = Limits { verify: false, ..Limits::default() };
    let (outcome, trace, _) = world.settle(&transaction(Some(START), 2), quick);
    assert_eq!(outcome, Outcome::Committed { verified: false });
    assert_eq!(trace, ["end"]);
}

#[test]
fn success_with_aborted_records_is_not_a_commit() {
    let outcome = World::answer(EndAnswer::Done, Description::NotFound, &[Evidence::Abort]);
    assert!(matches!(outcome, Outcome::Aborted { lost, .. } if lost == [first(0)]));
    let outcome = World::answer(EndAnswer::Done, Description::NotFound, &[Evidence::Commit, Evidence::Abort]);
    assert_eq!(outcome, Outcome::Partial { committed: vec![first(0)], lost: vec![first(1)] });
}

#[test]
fn fenced_after_our_own_commit_is_a_commit() {
    for code in ABOUT {
        let outcome =
            World::answer(refused(code), entry(TransactionState::Empty, 5, None), &[Evidence::Commit]);
        assert_eq!(outcome, Outcome::Committed { verified: true }, "{code}");
        let complete = entry(TransactionState::CompleteCommit, 4, Some(START));
        let outcome = World::answer(refused(code), complete, &[Evidence::Commit, Evidence::Gone]);
        assert_eq!(outcome, Outcome::Committed { verified: true }, "{code}");
    }
}

#[test]
fn a_timed_out_transaction_is_a_loss_with_its_place_and_cause() {
    for code in ABOUT {
        for epoch in [4, 5] {
            let timed_out = entry(TransactionState::CompleteAbort, epoch, Some(START));
            let outcome = World::answer(refused(code), timed_out, &[Evidence::Abort, Evidence::Abort]);
            let Outcome::Aborted { lost, cause } = outcome else { panic!("{outcome:?}") };
            assert_eq!(lost, [first(0), first(1)]);
            assert!(cause.contains("timed out"), "{cause}");
        }
    }
}

#[test]
fn an_abort_that_the_log_contradicts_is_not_believed() {
    let aborted = || entry(TransactionState::CompleteAbort, 4, Some(START));
    let answer = |log: &[Evidence]| World::answer(refused(ErrorCode::INVALID_TXN_STATE), aborted(), log);
    assert_eq!(answer(&[Evidence::Commit]), Outcome::Committed { verified: true }, "a marker was forced");
    let torn = Outcome::Partial { committed: vec![first(0)], lost: vec![first(1)] };
    assert_eq!(answer(&[Evidence::Commit, Evidence::Abort]), torn);
    for log in [Evidence::Gone, Evidence::Denied, Evidence::Open] {
        let outcome = answer(&[log]);
        assert!(matches!(&outcome, Outcome::Aborted { lost, .. } if *lost == [first(0)]), "{outcome:?}");
    }
}

/// Tries go on until shortly before the broker would abort the transaction, and for a minute at least.
// scenario: D9
#[test]
fn patience_lasts_as_long_as_the_transaction() {
    let patience =
        |timeout, age| Limits::default().patience(Duration::from_secs(timeout), Duration::from_secs(age));
    assert_eq!(patience(600, 0), Duration::from_secs(590));
    assert_eq!(patience(600, 300), Duration::from_secs(290));
    assert_eq!(patience(600, 9_999), TRIED_AT_LEAST);
    assert_eq!(patience(100, 0), Duration::from_secs(95));
    let fixed = Limits { decide: Some(Duration::from_secs(3)), ..Limits::default() };
    assert_eq!(fixed.patience(Duration::from_secs(600), Duration::ZERO), Duration::from_secs(3));
}

#[test]
fn an_abort_of_another_start_time_proves_nothing() {
    let other = entry(TransactionState::CompleteAbort, 4, Some(START + 1));
    let outcome = World::answer(refused(ErrorCode::INVALID_TXN_STATE), other, &[Evidence::Commit]);
    assert_eq!(outcome, Outcome::Committed { verified: true });
}

#[test]
fn without_a_start_time_the_log_decides() {
    for (log, committed) in [(Evidence::Commit, true), (Evidence::Abort, false)] {
        let world = World {
            end: refused(ErrorCode::PRODUCER_FENCED),
            silent: 0,
            description: entry(TransactionState::CompleteAbort, 4, None),
            log: vec![log],
        };
        let (outcome, ..) = world.settle(&transaction(None, 1), Limits::default());
        assert_eq!(matches!(outcome, Outcome::Committed { .. }), committed, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Aborted { .. }), !committed, "{outcome:?}");
    }
}

#[test]
fn the_answer_is_lost_and_the_coordinator_is_asked_after_a_second() {
    let world = World {
        end: refused(ErrorCode::CONCURRENT_TRANSACTIONS),
        silent: 3,
        description: entry(TransactionState::PrepareCommit, 3, Some(START)),
        log: vec![Evidence::Commit],
    };
    let (outcome, trace, took) = world.settle(&transaction(Some(START), 1), Limits::default());
    assert_eq!(outcome, Outcome::Committed { verified: true });
    assert_eq!(trace.last(), Some(&"read"));
    assert!(took >= ASK_AFTER && took < ASK_AFTER * 2, "{took:?}");
}

// scenario: D9
#[test]
fn silence_is_never_an_outcome() {
    let world = World {
        end: EndAnswer::Silence(String::from("no route")),
        silent: 0,
        description: Description::Silence(String::from("no route")),
        log: vec![Evidence::Unavailable],
    };
    let limits = Limits { decide: Some(Duration::from_secs(30)), ..Limits::default() };
    let (outcome, trace, took) = world.settle(&transaction(Some(START), 1), limits);
    assert!(matches!(&outcome, Outcome::Unanswered { cause } if cause.contains("no route")), "{outcome:?}");
    assert!(took >= Duration::from_secs(30));
    // Pauses grow to a fifth of a second; at random, half of one at least.
    let sent = trace.iter().filter(|&&step| step == "end").count();
    assert!((100..=320).contains(&sent), "{sent} requests in {took:?}");
}

#[test]
fn a_missing_permission_keeps_the_transaction() {
    let code = ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    let outcome = World::answer(refused(code), Description::NotFound, &[Evidence::Commit]);
    assert!(matches!(outcome, Outcome::Unanswered { .. }), "{outcome:?}");
}

#[test]
fn a_marker_that_never_comes_is_hanging_not_committed() {
    let world = World {
        end: EndAnswer::Done,
        silent: 0,
        description: Description::NotFound,
        log: vec![Evidence::Commit, Evidence::Open],
    };
    let (outcome, _, took) = world.settle(&transaction(Some(START), 2), Limits::default());
    assert_eq!(outcome, Outcome::Hanging { open: vec![first(1)], decided: true });
    assert!(took >= Limits::default().visible);
    let outcome = World::answer(
        refused(ErrorCode::INVALID_TXN_STATE),
        entry(TransactionState::Empty, 4, None),
        &[Evidence::Open],
    );
    assert_eq!(outcome, Outcome::Hanging { open: vec![first(0)], decided: false });
}

#[test]
fn missing_metadata_for_a_moment_is_not_a_deleted_topic() {
    let now = Instant::now();
    let mut procedure =
        Settlement::new(&transaction(Some(START), 1), Limits::default(), Duration::ZERO, now, 1);
    procedure.handle_end(now, EndAnswer::Done);
    procedure.handle_evidence(now, &[(first(0).0, Evidence::Gone)]);
    assert!(matches!(procedure.poll_step(now), Step::Wait(_)));
    procedure.handle_evidence(now + GONE_AFTER / 2, &[(first(0).0, Evidence::Commit)]);
    assert_eq!(procedure.poll_step(now + GONE_AFTER), Step::Done(Outcome::Committed { verified: true }));
}

#[test]
fn records_that_are_gone_leave_the_outcome_unknown() {
    for (end, decided) in [(EndAnswer::Done, true), (refused(ErrorCode::PRODUCER_FENCED), false)] {
        for evidence in [Evidence::Gone, Evidence::Denied] {
            let outcome = World::answer(end.clone(), Description::NotFound, &[evidence]);
            assert!(
                matches!(outcome, Outcome::Unknown { decided: said, .. } if said == decided),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn still_open_at_the_coordinator_is_sent_again() {
    let now = Instant::now();
    let mut procedure =
        Settlement::new(&transaction(Some(START), 1), Limits::default(), Duration::ZERO, now, 1);
    procedure.handle_end(now, refused(ErrorCode::PRODUCER_FENCED));
    assert_eq!(procedure.poll_step(now), Step::Describe);
    procedure.handle_description(now, entry(TransactionState::Ongoing, 3, Some(START)));
    assert_eq!(procedure.poll_step(now + LONGEST_PAUSE), Step::End);
}

/// Every combination of answers that a cluster telling the truth can give: the verdict agrees with the log, or says that it
/// does not know.
#[test]
fn every_verdict_is_right_or_unknown() {
    use Evidence::{Abort, Commit, Denied, Gone, Open, Unavailable};
    let evidence = [Commit, Abort, Open, Gone, Denied, Unavailable];
    let mut ends = vec![EndAnswer::Done, EndAnswer::Silence(String::from("reset"))];
    ends.extend(ABOUT.map(refused));
    ends.push(refused(ErrorCode::CONCURRENT_TRANSACTIONS));
    ends.push(refused(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED));
    let mut descriptions =
        vec![Description::NotFound, Description::Unavailable, Description::Silence(String::new())];
    for state in [
        TransactionState::Empty,
        TransactionState::Ongoing,
        TransactionState::PrepareCommit,
        TransactionState::PrepareAbort,
        TransactionState::CompleteCommit,
        TransactionState::CompleteAbort,
        TransactionState::Dead,
    ] {
        for start in [None, Some(START), Some(START + 5)] {
            for epoch in [2, 3, 5, 6] {
                descriptions.push(entry(state.clone(), epoch, start));
            }
        }
    }
    let limits =
        Limits { decide: Some(Duration::from_secs(3)), visible: Duration::from_secs(3), verify: true };
    let mut judged = [0_usize; 6];
    for description in &descriptions {
        for end in &ends {
            for (one, two) in evidence.iter().flat_map(|&one| evidence.map(|two| (one, two))) {
                let says_aborted = matches!(
                    description,
                    Description::Found { state: TransactionState::PrepareAbort | TransactionState::CompleteAbort,
                        start_time_ms: Some(START), producer_epoch, .. } if (3..=5).contains(&producer_epoch.0)
                );
                for silent in [0, 1] {
                    let world = World {
                        end: end.clone(),
                        silent,
                        description: description.clone(),
                        log: vec![one, two],
                    };
                    let (outcome, trace, _) = world.settle(&transaction(Some(START), 2), limits);
                    let log = [one, two];
                    let count = |wanted: Evidence| log.iter().filter(|&&found| found == wanted).count();
                    let right = match &outcome {
                        Outcome::Committed { verified } => {
                            judged[0] += 1;
                            *verified && count(Commit) > 0 && count(Commit) + count(Gone) + count(Denied) == 2
                        }
                        Outcome::Aborted { lost, .. } => {
                            judged[1] += 1;
                            // A marker that does not come in time is left to the coordinator.
                            (count(Commit) == 0 || (says_aborted && count(Open) + count(Unavailable) > 0))
                                && !lost.is_empty()
                                && (says_aborted || lost.len() == count(Abort))
                        }
                        Outcome::Partial { .. } => {
                            judged[2] += 1;
                            count(Commit) == 1 && count(Abort) == 1
                        }
                        Outcome::Hanging { open, .. } => {
                            judged[3] += 1;
                            open.len() == count(Open)
                        }
                        Outcome::Unknown { .. } => {
                            judged[4] += 1;
                            count(Gone) + count(Denied) == 2
                        }
                        Outcome::Unanswered { .. } => {
                            judged[5] += 1;
                            true
                        }
                    };
                    assert!(right, "{end:?} {description:?} {log:?}: {outcome:?} by {trace:?}");
                }
            }
        }
    }
    assert!(judged.iter().all(|&count| count > 0), "every verdict was met: {judged:?}");
}
