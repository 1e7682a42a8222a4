//! EndTxn, case by case: what Kafka 4.3 answers to either version of the request about either kind of transaction.
//!
//! Columns, in this order: EndTxn 5 about a new writer's transaction, 4 about a new writer's, 4 about an old writer's, 5
//! about an old writer's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use milena_protocol::ErrorCode;
use milena_protocol::messages;
use milena_protocol::records::{ControlRecord, RecordBatch};
use milena_testkit::broker::{BrokerConfig, TransactionVersion};
use support::txn::{Kind, Pair, Transactions};
use support::{Client, Driver, Writer, batch, transactional_id};

const ID: &str = "tx";
const NONE: ErrorCode = ErrorCode::NONE;
const FENCED: ErrorCode = ErrorCode::PRODUCER_FENCED;
const STATE: ErrorCode = ErrorCode::INVALID_TXN_STATE;
const MAPPING: ErrorCode = ErrorCode::INVALID_PRODUCER_ID_MAPPING;

/// A writer of one kind, with one transaction of two records at offset 0.
struct Case {
    driver: Driver,
    kind: Kind,
    version: i16,
    pair: Pair,
}

impl Case {
    fn bare((version, kind): (i16, Kind)) -> Self {
        let config = BrokerConfig::default().with_topic("t", 2);
        let mut driver = Driver::new(config);
        let pair = driver.init(ID);
        Self { driver, kind, version, pair }
    }

    fn written(column: (i16, Kind)) -> Self {
        let mut case = Self::bare(column);
        assert_eq!(case.write(case.pair, 0), (NONE, 0));
        case
    }

    fn write(&mut self, pair: Pair, sequence: i32) -> (ErrorCode, i64) {
        self.driver.write(self.kind, ID, pair, sequence, 0, 2)
    }

    /// The writer ends its transaction in its own version; gives the identity to go on with.
    fn own_end(&mut self, commit: bool) -> Pair {
        let (error, next) = self.driver.end(self.kind.end_version(), ID, self.pair, commit);
        assert_eq!(error, NONE);
        match self.kind {
            Kind::New => next,
            Kind::Old => self.pair,
        }
    }

    /// The request under test: about the first transaction, in the column's version.
    fn ask(&mut self, commit: bool) -> ErrorCode {
        self.ask_pair(commit).0
    }

    fn ask_pair(&mut self, commit: bool) -> (ErrorCode, Pair) {
        self.driver.end(self.version, ID, self.pair, commit)
    }

    fn state(&mut self) -> (String, i16) {
        let (state, pair, _) = self.driver.describe(ID);
        (state, pair.1 - self.pair.1)
    }
}

/// Runs a case in the four columns.
fn columns<T>(mut run: impl FnMut((i16, Kind)) -> T) -> [T; 4] {
    [(5, Kind::New), (4, Kind::New), (4, Kind::Old), (5, Kind::Old)].map(&mut run)
}

fn state(name: &str, bumps: i16) -> (String, i16) {
    (name.to_owned(), bumps)
}

#[test]
fn commit_again() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        let first = case.own_end(true);
        let (error, pair) = case.ask_pair(true);
        if column == (5, Kind::New) {
            assert_eq!(pair, first, "the repeat names the same identity");
            assert_eq!(pair, (case.pair.0, case.pair.1 + 1));
        }
        (error, case.state())
    });
    let new = state("CompleteCommit", 1);
    let old = state("CompleteCommit", 0);
    assert_eq!(told, [(NONE, new.clone()), (FENCED, new), (NONE, old.clone()), (STATE, old)]);
}

#[test]
fn abort_after_commit() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        case.own_end(true);
        let start = case.driver.describe(ID).2;
        case.driver.pass(Duration::from_millis(5));
        let error = case.ask(false);
        let moved = case.driver.describe(ID).2 != start;
        (error, case.state(), moved)
    });
    let committed = |bumps| state("CompleteCommit", bumps);
    assert_eq!(
        told,
        [
            (STATE, committed(1), false),
            (FENCED, committed(1), false),
            (STATE, committed(0), false),
            // The records stay committed in the log, and the coordinator says CompleteAbort.
            (NONE, state("CompleteAbort", 1), true),
        ]
    );
}

#[test]
fn commit_after_abort() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        case.own_end(false);
        (case.ask(true), case.state())
    });
    let new = state("CompleteAbort", 1);
    let old = state("CompleteAbort", 0);
    assert_eq!(told, [(STATE, new.clone()), (FENCED, new), (STATE, old.clone()), (STATE, old)]);
}

#[test]
fn abort_again() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        case.own_end(false);
        let start = case.driver.describe(ID).2;
        case.driver.pass(Duration::from_millis(5));
        let (error, pair) = case.ask_pair(false);
        let next = (error == NONE && column.0 == 5).then(|| pair.1 - case.pair.1);
        (error, next, case.driver.describe(ID).2 != start)
    });
    assert_eq!(
        told,
        [(NONE, Some(1), false), (FENCED, None, false), (NONE, None, false), (NONE, Some(1), true)]
    );
}

#[test]
fn commit_after_the_timeout() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        case.driver.pass(Duration::from_secs(61));
        case.driver.pass(Duration::from_secs(10));
        let error = case.ask(true);
        (error, case.state())
    });
    let aborted = state("CompleteAbort", 1);
    assert_eq!(told.clone().map(|(error, _)| error), [STATE, FENCED, FENCED, STATE]);
    assert!(told.iter().all(|(_, state)| *state == aborted));
}

#[test]
fn a_commit_after_the_timeout_but_before_the_check_succeeds() {
    for column in [(5, Kind::New), (4, Kind::Old)] {
        let mut case = Case::written(column);
        case.driver.pass(Duration::from_secs(60));
        case.driver.pass(Duration::from_millis(9_999));
        assert_eq!(case.ask(true), NONE);
    }
}

#[test]
fn commit_after_a_new_instance_took_the_id() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        case.driver.init(ID);
        (case.ask(true), case.state())
    });
    let empty = state("Empty", 2);
    assert_eq!(
        told,
        [(FENCED, empty.clone()), (FENCED, empty.clone()), (FENCED, empty.clone()), (FENCED, empty)]
    );
}

#[test]
fn commit_between_the_abort_of_a_new_instance_and_its_second_try() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        let (error, _) = case.driver.init_once(ID, (-1, -1), 60_000);
        assert_eq!(error, ErrorCode::CONCURRENT_TRANSACTIONS);
        (case.ask(true), case.state())
    });
    assert_eq!(told.clone().map(|(error, _)| error), [STATE, FENCED, FENCED, STATE]);
    assert!(told.iter().all(|(_, told)| *told == state("CompleteAbort", 1)));
}

#[test]
fn committed_and_the_id_initialised_again() {
    for newer_is_open in [false, true] {
        let told = columns(|column| {
            let mut case = Case::written(column);
            case.own_end(true);
            let newer = case.driver.init(ID);
            if newer_is_open {
                assert_eq!(case.write(newer, 0).0, NONE);
            }
            let error = case.ask(true);
            let expected = if newer_is_open { "Ongoing" } else { "Empty" };
            assert_eq!(case.driver.describe(ID).0, expected, "the newer one stays as it is");
            error
        });
        assert_eq!(told, [FENCED; 4]);
    }
}

#[test]
fn committed_and_a_newer_one_committed_or_aborted() {
    for newer_commits in [true, false] {
        let told = columns(|column| {
            let mut case = Case::written(column);
            case.own_end(true);
            let newer = case.driver.init(ID);
            assert_eq!(case.write(newer, 0).0, NONE);
            let (error, _) = case.driver.end(case.kind.end_version(), ID, newer, newer_commits);
            assert_eq!(error, NONE);
            case.ask(true)
        });
        // Fact 4: mixed generations give a false success; an aborted newer one is no different from an abort of ours.
        let mixed = if newer_commits { NONE } else { STATE };
        assert_eq!(told, [FENCED, FENCED, FENCED, mixed]);
    }
}

#[test]
fn own_abort_then_a_late_commit_hits_the_next_transaction_of_the_same_epoch() {
    let told = columns(|column| {
        let mut case = Case::written(column);
        let next = case.own_end(false);
        let sequence = if case.kind == Kind::New { 0 } else { 2 };
        assert_eq!(case.write(next, sequence).0, NONE);
        (case.ask(true), case.driver.describe(ID).0)
    });
    let open = (FENCED, "Ongoing".to_owned());
    let hit = (NONE, "CompleteCommit".to_owned());
    assert_eq!(told, [open.clone(), open, hit.clone(), hit]);
}

#[test]
fn a_refused_batch_does_not_stop_the_commit() {
    for column in [(5, Kind::New), (4, Kind::Old), (5, Kind::Old)] {
        let mut case = Case::written(column);
        assert_eq!(case.write(case.pair, 7).0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert_eq!(case.ask(true), NONE);
        assert_eq!(support::offsets(&case.driver.fetch(12, "t", 0, 0, true)), [0, 1]);
    }
}

#[test]
fn nothing_ever_added() {
    for commit in [true, false] {
        let told = columns(|column| {
            let mut case = Case::bare(column);
            let (error, pair) = case.ask_pair(commit);
            (error, pair.1 == case.pair.1 + 1)
        });
        let bumped = if commit { (STATE, false) } else { (NONE, true) };
        assert_eq!(told, [bumped, (STATE, false), (STATE, false), bumped]);
    }
}

#[test]
fn a_second_empty_one_on_the_returned_pair() {
    for commit in [true, false] {
        let told = columns(|column| {
            let mut case = Case::written(column);
            case.pair = case.own_end(true);
            case.ask(commit)
        });
        let expected = if commit { [STATE, NONE, NONE, STATE] } else { [NONE, STATE, STATE, NONE] };
        assert_eq!(told, expected);
    }
}

#[test]
fn a_partition_without_records_gets_its_marker() {
    for version in [4, 5] {
        let mut case = Case::bare((version, Kind::Old));
        assert_eq!(case.driver.add(ID, case.pair, "t", 1), NONE);
        assert_eq!(case.ask(true), NONE);
        assert_eq!(case.driver.broker.log("t", 1).count(), 1);
    }
}

#[test]
fn an_exhausted_epoch_rotates_the_producer_id() {
    let exhausted = |column: (i16, Kind)| {
        let mut case = Case::bare(column);
        assert!(case.driver.broker.set_producer_epoch(ID, i16::MAX - 1));
        case.pair.1 = i16::MAX - 1;
        assert_eq!(case.write(case.pair, 0), (NONE, 0));
        case
    };
    let told = columns(|column| {
        let mut case = exhausted(column);
        let next = case.own_end(true);
        if case.kind == Kind::New {
            assert_ne!(next.0, case.pair.0);
            assert_eq!(next.1, 0);
        }
        let (error, pair) = case.ask_pair(true);
        (error, column.0 == 5 && error == NONE && pair == next)
    });
    assert_eq!(told, [(NONE, true), (MAPPING, false), (NONE, false), (STATE, false)]);
    let told = columns(|column| {
        let mut case = exhausted(column);
        case.own_end(true);
        case.driver.init(ID);
        case.ask(true)
    });
    assert_eq!(told, [MAPPING; 4]);
    // The marker of a new writer's commit carries the one epoch above the last.
    let mut case = exhausted((5, Kind::New));
    case.own_end(true);
    assert_eq!(markers(&case.driver, 0), [(i16::MAX, true)]);
}

#[test]
fn an_expired_id_is_no_longer_mapped() {
    for again in [false, true] {
        let told = columns(|column| {
            let mut case = Case::written(column);
            case.own_end(true);
            assert!(case.driver.broker.expire_transactional_id(ID));
            if again {
                case.driver.init(ID);
            }
            case.ask(true)
        });
        assert_eq!(told, [MAPPING; 4]);
    }
}

#[test]
fn a_topic_deleted_while_open_holds_nothing_up() {
    for column in [(5, Kind::New), (4, Kind::Old)] {
        let mut case = Case::written(column);
        let request =
            messages::DeleteTopicsRequest::default().with_topic_names(vec![support::topic_name("t")]);
        assert_eq!(case.driver.ask(5, &request).responses[0].error_code, 0);
        assert_eq!(case.ask(true), NONE);
        assert_eq!(case.state().0, "CompleteCommit");
    }
}

#[test]
fn version_0_and_1_say_invalid_producer_epoch_for_fenced() {
    for (version, expected) in
        [(0, ErrorCode::INVALID_PRODUCER_EPOCH), (1, ErrorCode::INVALID_PRODUCER_EPOCH), (2, FENCED)]
    {
        let mut case = Case::written((version, Kind::Old));
        case.driver.init(ID);
        assert_eq!(case.ask(true), expected);
    }
}

#[test]
fn markers_carry_the_epoch_of_their_generation() {
    let told = [(5, Kind::New), (4, Kind::Old)].map(|column| {
        let mut case = Case::written(column);
        case.own_end(true);
        markers(&case.driver, 0)[0].0 - case.pair.1
    });
    assert_eq!(told, [1, 0]);
    for kind in [Kind::New, Kind::Old] {
        let mut case = Case::written((4, kind));
        case.driver.pass(Duration::from_secs(71));
        assert_eq!(markers(&case.driver, 0), [(case.pair.1 + 1, false)], "a broker's own abort");
    }
}

#[test]
fn while_markers_are_missing_everything_waits() {
    for kind in [Kind::New, Kind::Old] {
        let config = BrokerConfig { marker_delay: Duration::from_millis(300), ..BrokerConfig::default() };
        let mut driver = Driver::new(config.with_topic("t", 2));
        let pair = driver.init(ID);
        assert_eq!(driver.write(kind, ID, pair, 0, 0, 2), (NONE, 0));
        let version = kind.end_version();
        let (error, next) = driver.end(version, ID, pair, true);
        assert_eq!(error, NONE);
        assert_eq!(driver.describe(ID).0, "PrepareCommit");
        assert_eq!(driver.end(version, ID, pair, true).0, ErrorCode::CONCURRENT_TRANSACTIONS);
        assert_eq!(driver.end(version, ID, pair, false).0, STATE);
        assert_eq!(driver.init_once(ID, (-1, -1), 60_000).0, ErrorCode::CONCURRENT_TRANSACTIONS);
        assert!(support::offsets(&driver.fetch(12, "t", 0, 0, true)).is_empty());
        match kind {
            Kind::Old => {
                assert_eq!(driver.add(ID, pair, "t", 1), ErrorCode::CONCURRENT_TRANSACTIONS);
            }
            Kind::New => {
                // The broker waits by itself for a while, then says so.
                let writer = Writer { id: next.0, epoch: next.1, sequence: 0, transactional: true };
                let request = produce_12("t", 0, writer);
                driver.send(1, 12, &request);
                assert!(driver.receive::<messages::ProduceRequest>(12).is_none());
                driver.pass(Duration::from_millis(100));
                let (_, _, answer) = driver.receive::<messages::ProduceRequest>(12).unwrap();
                let error = answer.responses[0].partition_responses[0].error_code;
                assert_eq!(ErrorCode(error), ErrorCode::CONCURRENT_TRANSACTIONS);
                driver.pass(Duration::from_millis(150));
                driver.send(1, 12, &request);
                driver.pass(Duration::from_millis(50));
                let (_, _, answer) = driver.receive::<messages::ProduceRequest>(12).unwrap();
                assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
            }
        }
        driver.pass(Duration::from_millis(300));
        let expected = if kind == Kind::New { "Ongoing" } else { "CompleteCommit" };
        assert_eq!(driver.describe(ID).0, expected);
        assert_eq!(support::offsets(&driver.fetch(12, "t", 0, 0, true)), [0, 1]);
    }
}

#[test]
fn the_writers_own_init_goes_on_after_an_abort_only_in_a_cluster_of_the_new_generation() {
    for (version, expected) in [(TransactionVersion::V2, NONE), (TransactionVersion::V1, FENCED)] {
        for kind in [Kind::New, Kind::Old] {
            let config = BrokerConfig::default().with_topic("t", 1).with_transaction_version(version);
            let mut driver = Driver::new(config);
            let pair = driver.init(ID);
            assert_eq!(driver.write(kind, ID, pair, 0, 0, 2), (NONE, 0));
            let (error, _) = driver.init_once(ID, pair, 60_000);
            assert_eq!(error, ErrorCode::CONCURRENT_TRANSACTIONS);
            let (error, next) = driver.init_once(ID, pair, 60_000);
            assert_eq!(error, expected);
            if error == NONE {
                assert_eq!(next, (pair.0, pair.1 + 1));
            }
        }
    }
}

#[test]
fn init_producer_id_bumps_fences_and_checks_the_timeout() {
    let mut driver = Driver::with_topic("t", 1);
    let first = driver.init(ID);
    assert_eq!(first.1, 0);
    assert_eq!(driver.init(ID), (first.0, 1));
    assert_eq!(driver.init_once(ID, (first.0, 1), 1000), (NONE, (first.0, 2)));
    // The answer was lost, the request comes again: no second bump.
    assert_eq!(driver.init_once(ID, (first.0, 1), 1000), (NONE, (first.0, 2)));
    assert_eq!(driver.init_once(ID, (first.0, 0), 1000).0, FENCED);
    assert_eq!(driver.init_once(ID, (first.0 + 1, 0), 1000).0, FENCED);
    for (timeout, expected) in [
        (900_000, NONE),
        (900_001, ErrorCode::INVALID_TRANSACTION_TIMEOUT),
        (0, ErrorCode::INVALID_TRANSACTION_TIMEOUT),
    ] {
        assert_eq!(driver.init_once(ID, (-1, -1), timeout).0, expected);
    }
    assert!(driver.broker.set_producer_epoch(ID, i16::MAX - 1));
    let rotated = driver.init(ID);
    assert_ne!(rotated.0, first.0);
    assert_eq!(rotated.1, 0);
    let plain = driver.ask(
        5,
        &messages::InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1),
    );
    assert_eq!((plain.error_code, plain.producer_epoch), (0, 0));
    assert!(plain.producer_id.0 > rotated.0);
}

#[test]
fn what_was_not_added_is_refused() {
    let mut driver = Driver::with_topic("t", 2);
    let pair = driver.init(ID);
    let writer = Writer { id: pair.0, epoch: pair.1, sequence: 0, transactional: true };
    let mut produce = |version: i16, id: Option<&str>, writer: Writer| {
        ErrorCode(driver.produce(version, id, "t", 0, batch(1, Some(writer))).error_code)
    };
    assert_eq!(produce(11, Some(ID), writer), ErrorCode::TRANSACTION_ABORTABLE);
    assert_eq!(produce(10, Some(ID), writer), STATE);
    assert_eq!(produce(11, None, writer), ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    assert_eq!(produce(12, Some("other"), writer), MAPPING);
    assert_eq!(produce(12, Some(ID), Writer { epoch: 5, ..writer }), ErrorCode::INVALID_PRODUCER_EPOCH);
    assert_eq!(
        produce(12, Some(ID), Writer { sequence: 3, ..writer }),
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
    );
    assert_eq!(produce(12, Some(ID), writer), NONE);
    let plain = Writer { transactional: false, sequence: 1, ..writer };
    assert_eq!(produce(12, Some(ID), plain), STATE);
}

#[test]
fn the_feature_tells_the_generation() {
    for (version, level) in [(TransactionVersion::V1, 1), (TransactionVersion::V2, 2)] {
        let mut driver = Driver::new(BrokerConfig::default().with_transaction_version(version));
        let answer = driver.ask(4, &messages::ApiVersionsRequest::default());
        let feature = answer.finalized_features.iter().find(|f| &*f.name == "transaction.version").unwrap();
        assert_eq!(feature.max_version_level, level);
    }
}

#[test]
fn a_lost_marker_leaves_the_transaction_hanging_until_it_is_forced() {
    let mut case = Case::written((5, Kind::New));
    assert!(case.driver.broker.lose_next_marker("t", 0));
    case.own_end(true);
    assert_eq!(case.state().0, "CompleteCommit");
    assert_eq!(case.driver.broker.offsets("t", 0), Some((0, 0, 2)));
    let topic = messages::write_txn_markers_request::WritableTxnMarkerTopic::default()
        .with_name(support::topic_name("t"))
        .with_partition_indexes(vec![0]);
    let marker = messages::write_txn_markers_request::WritableTxnMarker::default()
        .with_producer_id(case.pair.0.into())
        .with_producer_epoch(case.pair.1 + 1)
        .with_transaction_result(true)
        .with_topics(vec![topic]);
    let answer = case.driver.ask(1, &messages::WriteTxnMarkersRequest::default().with_markers(vec![marker]));
    assert_eq!(answer.markers[0].topics[0].partitions[0].error_code, 0);
    assert_eq!(support::offsets(&case.driver.fetch(12, "t", 0, 0, true)), [0, 1]);
}

#[test]
fn markers_wait_for_a_leader() {
    let mut case = Case::written((5, Kind::New));
    assert!(case.driver.broker.set_leaderless("t", 0, true));
    assert_eq!(case.own_end(true).1, case.pair.1 + 1);
    assert_eq!(case.ask(true), ErrorCode::CONCURRENT_TRANSACTIONS);
    case.driver.pass(Duration::from_secs(1));
    assert_eq!(case.state().0, "PrepareCommit");
    assert!(case.driver.broker.set_leaderless("t", 0, false));
    case.driver.pass(Duration::from_secs(1));
    assert_eq!(case.state().0, "CompleteCommit");
    assert_eq!(case.ask(true), NONE);
}

#[test]
fn transactions_are_listed_by_state_pattern_and_duration() {
    let mut driver = Driver::with_topic("t", 1);
    let open = driver.init("s11-a");
    driver.init("s11-b");
    assert_eq!(driver.write(Kind::New, "s11-a", open, 0, 0, 1).0, NONE);
    driver.pass(Duration::from_secs(2));
    let list = |driver: &mut Driver, states: &[&str], pattern: Option<&str>, duration: i64| {
        let request = messages::ListTransactionsRequest::default()
            .with_state_filters(states.iter().map(|s| s.to_string().into()).collect())
            .with_duration_filter(duration)
            .with_transactional_id_pattern(pattern.map(|p| p.to_owned().into()));
        let answer = driver.ask(2, &request);
        let ids = answer.transaction_states.iter().map(|t| t.transactional_id.0.to_string());
        (ErrorCode(answer.error_code), ids.collect::<Vec<_>>(), answer.unknown_state_filters.len())
    };
    let both = vec!["s11-a".to_owned(), "s11-b".to_owned()];
    assert_eq!(list(&mut driver, &[], None, -1), (NONE, both.clone(), 0));
    assert_eq!(list(&mut driver, &["Ongoing", "Nonsense"], None, -1), (NONE, vec!["s11-a".into()], 1));
    assert_eq!(list(&mut driver, &[], Some("s11-"), -1), (NONE, vec![], 0));
    assert_eq!(list(&mut driver, &[], Some("s11-.*"), -1), (NONE, both.clone(), 0));
    assert_eq!(list(&mut driver, &[], Some(r"\Qs11-a\E"), -1), (NONE, vec!["s11-a".into()], 0));
    assert_eq!(list(&mut driver, &[], Some("("), -1).0, ErrorCode::INVALID_REGULAR_EXPRESSION);
    // An id that never began a transaction counts as very old.
    assert_eq!(list(&mut driver, &[], None, 1999), (NONE, both, 0));
    assert_eq!(list(&mut driver, &[], None, 2001), (NONE, vec!["s11-b".into()], 0));
    let missing =
        messages::DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional_id("?")]);
    let answer = driver.ask(0, &missing);
    assert_eq!(ErrorCode(answer.transaction_states[0].error_code), ErrorCode::TRANSACTIONAL_ID_NOT_FOUND);
}

/// Epoch and decision of the markers of a partition.
fn markers(driver: &Driver, partition: i32) -> Vec<(i16, bool)> {
    let marker = |bytes: bytes::Bytes| {
        let batch = RecordBatch::parse(&mut bytes.clone()).unwrap().unwrap();
        let commit = match batch.control().unwrap()? {
            ControlRecord::Commit { .. } => true,
            ControlRecord::Abort { .. } => false,
            ControlRecord::Other(_) => return None,
        };
        Some((batch.producer_epoch().unwrap().0, commit))
    };
    driver.broker.log("t", partition).filter_map(|batch| marker(batch.bytes)).collect()
}

fn produce_12(topic: &str, partition: i32, writer: Writer) -> messages::ProduceRequest {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    let data =
        PartitionProduceData::default().with_index(partition).with_records(Some(batch(1, Some(writer))));
    let data =
        TopicProduceData::default().with_name(support::topic_name(topic)).with_partition_data(vec![data]);
    messages::ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(1000)
        .with_transactional_id(Some(transactional_id(ID)))
        .with_topic_data(vec![data])
}
