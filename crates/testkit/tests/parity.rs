//! The same requests to the embedded broker and to a real Kafka, and the answers side by side.
//!
//! Producer ids are told by their order of appearance and times not at all; whatever else an answer decides is compared.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use milena_protocol::ErrorCode;
use milena_protocol::messages::{self, GroupId};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::kafka::{Kafka, or_skip};
use milena_testkit::listen::EmbeddedBroker;
use support::script::{PATIENCE, Script};
use support::txn::{Kind, Pair, Transactions};
use support::{Client, Writer, batch, batch_at, fetch_request, offsets, topic_name, transactional_id};

/// What happens before the EndTxn under test.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Written,
    Added,
    Ended { commit: bool },
    AbortedByInit,
    AbortedByHalfInit,
    EndedAndInit { commit: bool },
    EndedAndNewerOpen,
    EndedAndNewerEnded { commit: bool },
    OwnAbortAndNextOpen,
    RefusedBatch,
    EmptyAfterEnd,
}

const BEFORE: &[Before] = &[
    Before::Nothing,
    Before::Written,
    Before::Added,
    Before::Ended { commit: true },
    Before::Ended { commit: false },
    Before::AbortedByInit,
    Before::AbortedByHalfInit,
    Before::EndedAndInit { commit: true },
    Before::EndedAndInit { commit: false },
    Before::EndedAndNewerOpen,
    Before::EndedAndNewerEnded { commit: true },
    Before::EndedAndNewerEnded { commit: false },
    Before::OwnAbortAndNextOpen,
    Before::RefusedBatch,
    Before::EmptyAfterEnd,
];

fn end_txn_case(script: &mut Script, topic: &str, before: Before, version: i16, kind: Kind, commit: bool) {
    let (id, mut pair) = script.writer(60_000);
    if matches!(before, Before::Added) {
        assert_eq!(script.add(&id, pair, topic, 0), ErrorCode::NONE);
    } else if !matches!(before, Before::Nothing) {
        let written = script.write_in(topic, kind, &id, pair, 0);
        assert_eq!(written.0, ErrorCode::NONE);
    }
    let own_end = |script: &mut Script, pair: Pair, commit: bool| {
        let (error, next) = script.end(kind.end_version(), &id, pair, commit);
        assert_eq!(error, ErrorCode::NONE);
        script.settle(&id);
        if kind == Kind::New { next } else { pair }
    };
    match before {
        Before::Nothing | Before::Written | Before::Added => {}
        Before::Ended { commit } => drop(own_end(script, pair, commit)),
        Before::AbortedByInit => drop(script.init_patiently(&id)),
        Before::AbortedByHalfInit => {
            let (error, _) = script.init_once(&id, (-1, -1), 60_000);
            assert_eq!(error, ErrorCode::CONCURRENT_TRANSACTIONS);
            script.settle(&id);
        }
        Before::EndedAndInit { commit } => {
            own_end(script, pair, commit);
            script.init_patiently(&id);
        }
        Before::EndedAndNewerOpen => {
            own_end(script, pair, true);
            let newer = script.init_patiently(&id);
            assert_eq!(script.write_in(topic, kind, &id, newer, 0).0, ErrorCode::NONE);
        }
        Before::EndedAndNewerEnded { commit } => {
            own_end(script, pair, true);
            let newer = script.init_patiently(&id);
            assert_eq!(script.write_in(topic, kind, &id, newer, 0).0, ErrorCode::NONE);
            own_end(script, newer, commit);
        }
        Before::OwnAbortAndNextOpen => {
            let next = own_end(script, pair, false);
            let sequence = if kind == Kind::New { 0 } else { 2 };
            assert_eq!(script.write_in(topic, kind, &id, next, sequence).0, ErrorCode::NONE);
        }
        Before::RefusedBatch => {
            let refused = script.write_in(topic, kind, &id, pair, 9);
            assert_eq!(refused.0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        Before::EmptyAfterEnd => pair = own_end(script, pair, true),
    }
    let (error, next) = script.patient(|script| script.end(version, &id, pair, commit));
    let next = if version >= 5 { format!("{}:{}", script.producer(next.0), next.1) } else { String::new() };
    let state = script.tell_state(&id);
    script.say(format!("{before:?} {kind:?} v{version} commit={commit}: {error} {next} [{state}]"));
    // Nothing stays open in the shared topic.
    script.init_patiently(&id);
}

fn end_txn(script: &mut Script) {
    let topic = script.topic(1);
    for &before in BEFORE {
        for (version, kind) in
            [(5, Kind::New), (4, Kind::New), (4, Kind::Old), (5, Kind::Old), (0, Kind::Old)]
        {
            for commit in [true, false] {
                end_txn_case(script, &topic, before, version, kind, commit);
            }
        }
    }
    expired(script, &topic);
}

/// Transactions that the broker aborts because they took too long; its look at them comes every ten seconds.
fn expired(script: &mut Script, topic: &str) {
    let columns = [(5, Kind::New), (4, Kind::New), (4, Kind::Old), (5, Kind::Old)];
    let cases = columns.map(|(version, kind)| {
        let (id, pair) = script.writer(1000);
        assert_eq!(script.write_in(topic, kind, &id, pair, 0).0, ErrorCode::NONE);
        (version, kind, id, pair)
    });
    for (version, kind, id, pair) in cases {
        let start = Instant::now();
        while script.describe(&id).0 != "CompleteAbort" {
            assert!(start.elapsed() < PATIENCE, "no abort");
            std::thread::sleep(Duration::from_millis(100));
        }
        let (error, next) = script.end(version, &id, pair, true);
        let state = script.tell_state(&id);
        script.say(format!("expired {kind:?} v{version}: {error} {} [{state}]", next.1));
        let written = script.write_in(topic, kind, &id, pair, 2);
        let (error, next) = script.init_once(&id, pair, 1000);
        script.say(format!("expired {kind:?} writes {written:?}, inits: {error} {}", next.1));
    }
}

fn init(script: &mut Script) {
    let topic = script.topic(1);
    for kind in [Kind::New, Kind::Old] {
        let (id, first) = script.writer(60_000);
        let tries = [
            (first, 60_000),
            (first, 60_000),
            ((first.0, first.1 + 1), 60_000),
            (first, 60_000),
            ((first.0 + 1_000_000, 0), 60_000),
            ((-1, -1), 900_000),
            ((-1, -1), 900_001),
            ((-1, -1), 0),
            ((-1, 3), 1000),
        ];
        for (expected, timeout) in tries {
            let (error, pair) = script.patient(|script| script.init_once(&id, expected, timeout));
            let producer = script.producer(pair.0);
            script.say(format!("init {} {timeout}: {error} {producer}:{}", expected.1, pair.1));
        }
        let pair = script.init_patiently(&id);
        assert_eq!(script.write_in(&topic, kind, &id, pair, 0).0, ErrorCode::NONE);
        let (error, _) = script.init_once(&id, pair, 60_000);
        script.say(format!("own init while open, {kind:?}: {error}"));
        let (error, next) = script.patient(|script| script.init_once(&id, pair, 60_000));
        script.say(format!("again: {error} {}", next.1));
        script.init_patiently(&id);
    }
}

fn produce(script: &mut Script) {
    let topic = script.topic(1);
    let good = batch(3, None);
    let mut damaged = BytesMut::from(&good[..]);
    *damaged.last_mut().unwrap() ^= 1;
    let mut two = BytesMut::from(&good[..]);
    two.extend_from_slice(&good);
    let mut old = BytesMut::from(&good[..]);
    old[16] = 1;
    let cases: [(&str, Bytes); 8] = [
        ("good", good.clone()),
        ("damaged", damaged.freeze()),
        ("short", good.slice(..good.len() - 1)),
        ("nothing", Bytes::new()),
        ("a few bytes", good.slice(..20)),
        ("two", two.freeze()),
        ("magic 1", old.freeze()),
        ("large", batch(200_000, None)),
    ];
    for (name, bytes) in cases {
        let answer = script.produce(9, None, &topic, 0, bytes);
        let error = ErrorCode(answer.error_code);
        script.say(format!("produce {name}: {error} {} {}", answer.base_offset, answer.log_append_time_ms));
    }
    let answer = script.produce(9, None, &topic, 5, good.clone());
    script.say(format!("produce to no partition: {}", ErrorCode(answer.error_code)));
    let answer = script.produce(9, None, "no-such-topic-here", 0, good);
    script.say(format!("produce to no topic: {}", ErrorCode(answer.error_code)));

    let plain = |id: i64, epoch: i16, sequence: i32| Writer { id, epoch, sequence, transactional: false };
    let init = messages::InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    // A fresh broker has no producer ids at hand for a moment.
    let start = Instant::now();
    while script.ask(4, &init).error_code != 0 {
        assert!(start.elapsed() < PATIENCE, "no producer ids");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = script.ask(4, &init).producer_id.0;
    let unknown = script.ask(4, &init).producer_id.0;
    assert!(id >= 0 && unknown >= 0);
    let steps = [
        (id, 0, 0, 2),
        (id, 0, 2, 3),
        (id, 0, 0, 2),
        (id, 0, 2, 3),
        (id, 0, 2, 2),
        (id, 0, 7, 1),
        (id, 0, 5, 1),
        (id, 0, 6, 1),
        (id, 0, 7, 1),
        (id, 0, 8, 1),
        (id, 0, 9, 1),
        (id, 0, 0, 2),
        (id, 0, 5, 1),
        (id, 1, 3, 1),
        (id, 1, 0, 1),
        (id, 0, 10, 1),
        (unknown, 0, 5, 1),
    ];
    for (id, epoch, sequence, records) in steps {
        let answer = script.produce(9, None, &topic, 0, batch(records, Some(plain(id, epoch, sequence))));
        let error = ErrorCode(answer.error_code);
        script.say(format!("sequence {epoch}/{sequence}+{records}: {error} {}", answer.base_offset));
    }
    let stamp = script.produce(9, None, &topic, 0, batch(1, Some(plain(unknown, 0, 5)))).log_append_time_ms;
    script.say(format!("append time of a duplicate: {stamp}"));
}

fn transactional_produce(script: &mut Script) {
    let topic = script.topic(1);
    let (id, pair) = script.writer(60_000);
    let writer = Writer { id: pair.0, epoch: pair.1, sequence: 0, transactional: true };
    let other = script.name("x");
    let steps = [
        ("not added, v11", 11, Some(&id), writer),
        ("not added, v10", 10, Some(&id), writer),
        ("no id", 11, None, writer),
        ("unknown id", 12, Some(&other), writer),
        ("other epoch", 12, Some(&id), Writer { epoch: 5, ..writer }),
        ("sequence 3", 12, Some(&id), Writer { sequence: 3, ..writer }),
        ("right", 12, Some(&id), writer),
        ("the same", 12, Some(&id), writer),
        ("outside of the open one", 12, Some(&id), Writer { sequence: 1, transactional: false, ..writer }),
    ];
    for (name, version, id, writer) in steps {
        let answer = script.produce(version, id.map(String::as_str), &topic, 0, batch(1, Some(writer)));
        script.say(format!("{name}: {} {}", ErrorCode(answer.error_code), answer.base_offset));
    }
    script.init_patiently(&id);
    let answer = script.produce(12, Some(&id), &topic, 0, batch(1, Some(Writer { sequence: 1, ..writer })));
    script.say(format!("after an init: {}", ErrorCode(answer.error_code)));
}

fn fetch(script: &mut Script) {
    let topic = script.topic(2);
    let size = batch(10, None).len() as i32;
    for _ in 0..3 {
        script.append(&topic, 0, 10);
        script.append(&topic, 1, 10);
    }
    for (total, each) in [(1, 1), (1 << 20, 1), (1 << 20, size), (1 << 20, size + 9), (size * 2, size * 2)] {
        let mut request = fetch_request(12, &topic, uuid::Uuid::nil(), 0, 0, false, 0).with_max_bytes(total);
        let mut asked = request.topics[0].partitions[0].clone().with_partition_max_bytes(each);
        request.topics[0].partitions[0] = asked.clone();
        asked.partition = 1;
        request.topics[0].partitions.push(asked);
        let answer = script.ask(12, &request);
        let told: Vec<_> = answer.responses[0]
            .partitions
            .iter()
            .map(|data| (data.records.as_ref().map_or(0, Bytes::len), offsets(data).len()))
            .collect();
        script.say(format!("fetch {total} {each}: {told:?}"));
    }
    for offset in [-1, 5, 30, 31] {
        let data = script.fetch(12, &topic, 0, offset, false);
        script.say(format!(
            "fetch at {offset}: {} {} {} {} {:?} {:?}",
            ErrorCode(data.error_code),
            data.high_watermark,
            data.last_stable_offset,
            data.log_start_offset,
            data.records.as_ref().map(Bytes::is_empty),
            data.aborted_transactions.as_ref().map(Vec::len),
        ));
    }
    for (version, id) in [(12, uuid::Uuid::nil()), (13, uuid::Uuid::from_u128(77))] {
        let request = fetch_request(version, "no-such-topic-here", id, 0, 0, false, 0);
        let answer = script.ask(version, &request);
        let error = ErrorCode(answer.responses[0].partitions[0].error_code);
        script.say(format!("fetch v{version} of no topic: {} {error}", ErrorCode(answer.error_code)));
    }
    let mut request = fetch_request(12, &topic, uuid::Uuid::nil(), 0, 0, false, 0);
    request.topics[0].partitions[0].current_leader_epoch = 99;
    let error = ErrorCode(script.ask(12, &request).responses[0].partitions[0].error_code);
    script.say(format!("fetch with a leader epoch to come: {error}"));
    let request = fetch_request(12, &topic, uuid::Uuid::nil(), 0, 0, false, 0)
        .with_session_id(4711)
        .with_session_epoch(3);
    let error = ErrorCode(script.ask(12, &request).error_code);
    script.say(format!("fetch in a session that is unknown: {error}"));
}

fn read_committed(script: &mut Script) {
    let topic = script.topic(1);
    for (kind, commit) in [(Kind::New, false), (Kind::Old, true), (Kind::Old, false), (Kind::New, true)] {
        script.append(&topic, 0, 1);
        let (id, pair) = script.writer(60_000);
        assert_eq!(script.write_in(&topic, kind, &id, pair, 0).0, ErrorCode::NONE);
        script.append(&topic, 0, 1);
        tell_fetch(script, &topic, "open");
        assert_eq!(script.end(kind.end_version(), &id, pair, commit).0, ErrorCode::NONE);
        script.settle(&id);
        tell_fetch(script, &topic, "ended");
    }
    let request = messages::describe_producers_request::TopicRequest::default()
        .with_name(topic_name(&topic))
        .with_partition_indexes(vec![0]);
    let request = messages::DescribeProducersRequest::default().with_topics(vec![request]);
    let mut answer = script.ask(0, &request).topics.remove(0).partitions.remove(0);
    answer.active_producers.sort_by_key(|producer| producer.producer_id.0);
    for producer in answer.active_producers {
        let id = script.producer(producer.producer_id.0);
        script.say(format!(
            "producer {id}:{} sequence {} coordinator {} start {}",
            producer.producer_epoch,
            producer.last_sequence,
            producer.coordinator_epoch.signum(),
            producer.current_txn_start_offset,
        ));
    }
}

fn tell_fetch(script: &mut Script, topic: &str, when: &str) {
    let mut offset = 0;
    loop {
        let mut request = fetch_request(12, topic, uuid::Uuid::nil(), 0, offset, true, 0);
        request.topics[0].partitions[0].partition_max_bytes = 1;
        let data = script.ask(12, &request).responses.remove(0).partitions.remove(0);
        let batch = milena_protocol::records::batches(data.records.clone().unwrap()).next();
        let aborted: Vec<String> = data
            .aborted_transactions
            .iter()
            .flatten()
            // Kafka's list may go beyond the answer.
            .filter(|aborted| aborted.first_offset <= offset)
            .map(|aborted| format!("{}@{}", script.producer(aborted.producer_id.0), aborted.first_offset))
            .collect();
        let Some(batch) = batch.map(Result::unwrap) else {
            return script
                .say(format!("{when}: stable {} of {}", data.last_stable_offset, data.high_watermark));
        };
        script.say(format!("{when}: {offset} control {} aborted {aborted:?}", batch.is_control()));
        offset = batch.next_offset().0;
    }
}

fn list_offsets(script: &mut Script) {
    let topic = script.topic(1);
    let tell = |script: &mut Script| {
        for timestamp in [-1, -2, -3, 0, 11, 31, 40, 41] {
            for committed in [false, true] {
                let told = script.list_offset(&topic, 0, timestamp, committed);
                script.say(format!("offset of {timestamp} committed {committed}: {told:?}"));
            }
        }
    };
    tell(script);
    for times in [&[10, 30, 20][..], &[5][..], &[40, 25, 40][..]] {
        assert_eq!(script.produce(9, None, &topic, 0, batch_at(times, None)).error_code, 0);
    }
    tell(script);
    let (id, pair) = script.writer(60_000);
    assert_eq!(script.write_in(&topic, Kind::New, &id, pair, 0).0, ErrorCode::NONE);
    tell(script);
    script.init_patiently(&id);
}

fn admin(script: &mut Script) {
    let topic = script.topic(2);
    let create = |name: &str, partitions: i32, replication: i16| {
        let topic = messages::create_topics_request::CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(replication);
        messages::CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000)
    };
    let new = script.name("t");
    for (what, name, partitions, replication) in [
        ("existing", topic.as_str(), 1, 1),
        ("bad name", "a/b", 1, 1),
        ("empty name", "", 1, 1),
        ("dots", "..", 1, 1),
        ("no partitions", &new, 0, 1),
        ("replicas", &new, 1, 2),
    ] {
        let answer = script.ask(7, &create(name, partitions, replication)).topics.remove(0);
        let told = (answer.num_partitions, answer.replication_factor, answer.topic_id.is_nil());
        script.say(format!("create {what}: {} {told:?}", ErrorCode(answer.error_code)));
    }
    for count in [1, 2, 3] {
        let asked = messages::create_partitions_request::CreatePartitionsTopic::default()
            .with_name(topic_name(&topic))
            .with_count(count)
            .with_assignments(None);
        let request =
            messages::CreatePartitionsRequest::default().with_topics(vec![asked]).with_timeout_ms(5000);
        let error = ErrorCode(script.ask(3, &request).results[0].error_code);
        script.say(format!("partitions to {count}: {error}"));
    }
    let unknown = messages::DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name("no-such-topic-here")])
        .with_timeout_ms(5000);
    let error = ErrorCode(script.ask(5, &unknown).responses[0].error_code);
    script.say(format!("delete nothing: {error}"));
    for (version, name, id) in [(12, Some("a/b"), 0), (12, Some("no-such-topic-here"), 0), (12, None, 77)] {
        let asked = messages::metadata_request::MetadataRequestTopic::default()
            .with_name(name.map(topic_name))
            .with_topic_id(uuid::Uuid::from_u128(id));
        let request = messages::MetadataRequest::default()
            .with_topics(Some(vec![asked]))
            .with_allow_auto_topic_creation(false);
        let answer = script.ask(version, &request).topics.remove(0);
        let told = (answer.name.map(|name| name.0.to_string()), answer.topic_id);
        script.say(format!("metadata {name:?} {id}: {} {told:?}", ErrorCode(answer.error_code)));
    }
}

fn groups(script: &mut Script) {
    use messages::txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
    let topic = script.topic(1);
    let (id, mut pair) = script.writer(60_000);
    let group = script.name("g");
    // The coordinator of the group exists once it is asked for.
    let find = messages::FindCoordinatorRequest::default().with_coordinator_keys(vec![group.clone().into()]);
    let start = Instant::now();
    while script.ask(4, &find).coordinators[0].error_code != 0 {
        assert!(start.elapsed() < PATIENCE, "no coordinator");
        std::thread::sleep(Duration::from_millis(50));
    }
    let fetch = |script: &mut Script, stable: bool| {
        use messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
        let asked =
            OffsetFetchRequestTopics::default().with_name(topic_name(&topic)).with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(group.clone().into()))
            .with_topics(Some(vec![asked]));
        let request =
            messages::OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(stable);
        let answer = script.ask(8, &request).groups.remove(0);
        let told = answer.topics.first().and_then(|topic| topic.partitions.first());
        let told = told.map(|t| (ErrorCode(t.error_code), t.committed_offset, t.metadata.clone()));
        (ErrorCode(answer.error_code), told)
    };
    let start = Instant::now();
    while !fetch(script, false).0.is_ok() {
        assert!(start.elapsed() < PATIENCE, "the group's coordinator does not load");
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = fetch(script, true);
    script.say(format!("offset before: {told:?}"));
    for (version, offset, commit) in [(5, 7, true), (5, 9, false), (4, 11, true)] {
        for (generation, member, topic) in [
            (3, "x", &topic),
            (0, "", &topic),
            (-1, "", &"no-such-topic".to_owned()),
            (-1, "x", &topic),
            (-1, "", &topic),
        ] {
            let asked =
                TxnOffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![
                    TxnOffsetCommitRequestPartition::default().with_committed_offset(offset),
                ]);
            let request = messages::TxnOffsetCommitRequest::default()
                .with_transactional_id(transactional_id(&id))
                .with_group_id(GroupId(group.clone().into()))
                .with_producer_id(pair.0.into())
                .with_producer_epoch(pair.1)
                .with_generation_id(generation)
                .with_member_id(member.to_owned().into())
                .with_topics(vec![asked]);
            let error = ErrorCode(script.ask(version, &request).topics[0].partitions[0].error_code);
            let known = topic != "no-such-topic";
            script.say(format!("txn offset v{version} {generation} {member:?} {known}: {error}"));
        }
        let told = (fetch(script, true), fetch(script, false));
        script.say(format!("offset within: {told:?}"));
        let (error, next) = script.end(5, &id, pair, commit);
        script.say(format!("end {commit}: {error}"));
        script.settle(&id);
        if error.is_ok() {
            pair = next;
        }
        let told = fetch(script, false);
        script.say(format!("offset after: {told:?}"));
    }
}

fn run(address: &str) -> Vec<String> {
    let mut script = Script::connect(address);
    for part in
        [produce, transactional_produce, fetch, read_committed, list_offsets, admin, groups, init, end_txn]
    {
        script.begin_part();
        part(&mut script);
    }
    script.lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_answers_as_kafka_does() {
    let Some(kafka) = or_skip(Kafka::obtain().await) else { return };
    if !kafka.version().starts_with("4.") {
        eprintln!(
            "nothing to compare: the embedded broker follows Kafka 4.x, and this is {}",
            kafka.version()
        );
        return;
    }
    let config = BrokerConfig {
        auto_create_topics: false,
        transaction_check_interval: Duration::from_millis(500),
        ..BrokerConfig::default()
    };
    let embedded = EmbeddedBroker::start(config).await.unwrap();
    let address = embedded.bootstrap();
    let ours = tokio::task::spawn_blocking(move || run(&address)).await.unwrap();
    let address = kafka.bootstrap().to_owned();
    let theirs = tokio::task::spawn_blocking(move || run(&address)).await.unwrap();
    let differences: Vec<String> = ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("  ours:  {ours}\n  kafka: {theirs}"))
        .collect();
    assert!(
        differences.is_empty(),
        "{} answers differ from {}:\n{}",
        differences.len(),
        kafka.how(),
        differences.join("\n")
    );
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 200, "the script has run");
}
