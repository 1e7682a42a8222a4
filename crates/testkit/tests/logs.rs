//! Produce, Fetch and the offsets of a log, over the protocol.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milena_protocol::ErrorCode;
use milena_protocol::messages::{self, ApiKey};
use milena_testkit::broker::{BrokerConfig, Fault};
use support::{Client, Driver, Writer, batch, batch_at, fetch_request, offsets};

#[test]
fn what_is_produced_is_fetched_in_every_version() {
    for produce in 3..=13 {
        for fetch in 4..=18 {
            let mut driver = Driver::with_topic("t", 2);
            let answer = driver.produce(produce, None, "t", 1, batch(3, None));
            assert_eq!((answer.error_code, answer.base_offset), (0, 0));
            let answer = driver.produce(produce, None, "t", 1, batch(2, None));
            assert_eq!((answer.error_code, answer.base_offset), (0, 3));
            let data = driver.fetch(fetch, "t", 1, 1, false);
            assert_eq!(offsets(&data), [0, 1, 2, 3, 4], "produce {produce}, fetch {fetch}");
            assert_eq!((data.high_watermark, data.last_stable_offset), (5, 5));
            assert_eq!(offsets(&driver.fetch(fetch, "t", 1, 3, true)), [3, 4]);
            assert!(offsets(&driver.fetch(fetch, "t", 1, 5, true)).is_empty());
            let beyond = driver.fetch(fetch, "t", 1, 6, false);
            assert_eq!(ErrorCode(beyond.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
            let unknown = driver.fetch(fetch, "t", 2, 0, false);
            assert_eq!(ErrorCode(unknown.error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
    }
}

#[test]
fn a_bad_batch_is_refused_and_leaves_no_trace() {
    let mut driver = Driver::new(BrokerConfig { max_message_bytes: 200, ..BrokerConfig::default() });
    assert!(driver.broker.create_topic("t", 1));
    let mut produce = |records: Bytes| ErrorCode(driver.produce(9, None, "t", 0, records).error_code);
    let good = batch(3, None);
    let mut damaged = BytesMut::from(&good[..]);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(produce(damaged.freeze()), ErrorCode::CORRUPT_MESSAGE);
    assert_eq!(produce(good.slice(..good.len() - 1)), ErrorCode::INVALID_RECORD);
    assert_eq!(produce(Bytes::new()), ErrorCode::INVALID_RECORD);
    assert_eq!(produce(batch(100, None)), ErrorCode::MESSAGE_TOO_LARGE);
    let mut two = BytesMut::from(&good[..]);
    two.extend_from_slice(&good);
    assert_eq!(produce(two.freeze()), ErrorCode::INVALID_RECORD);
    let mut old = BytesMut::from(&good[..]);
    old[16] = 1;
    assert_eq!(produce(old.freeze()), ErrorCode::INVALID_RECORD);
    assert_eq!(driver.broker.offsets("t", 0), Some((0, 0, 0)));
    let answer = driver.produce(9, None, "t", 1, good.clone());
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(driver.produce(9, None, "t", 0, good).error_code, 0);
}

#[test]
fn a_repeated_batch_is_answered_with_its_old_offset_and_a_gap_is_refused() {
    let mut driver = Driver::with_topic("t", 1);
    let mut produce = |epoch: i16, sequence: i32, records: usize| {
        let writer = Writer { id: 7, epoch, sequence, transactional: false };
        let answer = driver.produce(9, None, "t", 0, batch(records, Some(writer)));
        (ErrorCode(answer.error_code), answer.base_offset)
    };
    assert_eq!(produce(0, 0, 2), (ErrorCode::NONE, 0));
    assert_eq!(produce(0, 2, 3), (ErrorCode::NONE, 2));
    assert_eq!(produce(0, 0, 2), (ErrorCode::NONE, 0));
    assert_eq!(produce(0, 2, 3), (ErrorCode::NONE, 2));
    assert_eq!(produce(0, 6, 1), (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(produce(0, 2, 2), (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    for n in 0..5 {
        assert_eq!(produce(0, 5 + n, 1), (ErrorCode::NONE, i64::from(5 + n)));
    }
    // Five batches are remembered: the oldest of them, and the one before it.
    assert_eq!(produce(0, 5, 1), (ErrorCode::NONE, 5));
    assert_eq!(produce(0, 2, 3), (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(produce(1, 3, 1), (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, -1));
    assert_eq!(produce(1, 0, 1), (ErrorCode::NONE, 10));
    assert_eq!(produce(0, 10, 1), (ErrorCode::INVALID_PRODUCER_EPOCH, -1));
}

#[test]
fn an_unknown_producer_may_begin_anywhere_unless_the_broker_is_old() {
    let later = Writer { id: 7, epoch: 0, sequence: 5, transactional: false };
    let mut driver = Driver::with_topic("t", 1);
    assert_eq!(driver.produce(9, None, "t", 0, batch(1, Some(later))).error_code, 0);
    let config = BrokerConfig { strict_unknown_producer: true, ..BrokerConfig::default() };
    let mut driver = Driver::new(config.with_topic("t", 1));
    let answer = driver.produce(9, None, "t", 0, batch(1, Some(later)));
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNKNOWN_PRODUCER_ID);
    let first = Writer { sequence: 0, ..later };
    assert_eq!(driver.produce(9, None, "t", 0, batch(5, Some(first))).error_code, 0);
    driver.broker.forget_producer(7);
    let answer = driver.produce(9, None, "t", 0, batch(1, Some(later)));
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::UNKNOWN_PRODUCER_ID);
}

#[test]
fn byte_limits_hold_but_the_first_batch_always_comes() {
    let mut driver = Driver::with_topic("t", 2);
    let size = batch(10, None).len() as i32;
    for _ in 0..4 {
        driver.append("t", 0, 10);
        driver.append("t", 1, 10);
    }
    let mut fetch = |max_bytes: i32, partition_max: i32| {
        let mut request = fetch_request(12, "t", uuid::Uuid::nil(), 0, 0, false, 0).with_max_bytes(max_bytes);
        let mut first = request.topics[0].partitions[0].clone().with_partition_max_bytes(partition_max);
        request.topics[0].partitions[0] = first.clone();
        first.partition = 1;
        request.topics[0].partitions.push(first);
        let response = driver.ask(12, &request);
        let parts = &response.responses[0].partitions;
        let lens = parts.iter().map(|data| data.records.as_ref().unwrap().len() as i32).collect::<Vec<_>>();
        (lens, parts.iter().map(|data| offsets(data).len()).collect::<Vec<_>>())
    };
    assert_eq!(fetch(1, 1), (vec![size, 0], vec![10, 0]));
    assert_eq!(fetch(1 << 20, 1), (vec![size, 0], vec![10, 0]));
    assert_eq!(fetch(1 << 20, size * 2), (vec![size * 2, size * 2], vec![20, 20]));
    // The limit falls into the third batch: its beginning comes along, and readers drop it.
    assert_eq!(fetch(1 << 20, size * 2 + 5), (vec![size * 2 + 5, size * 2 + 5], vec![20, 20]));
    assert_eq!(fetch(size * 3, size * 2), (vec![size * 2, size], vec![20, 10]));
    assert_eq!(fetch(size * 2, size * 2), (vec![size * 2, 0], vec![20, 0]));
}

#[test]
fn a_long_poll_ends_with_data_or_with_its_time() {
    let mut driver = Driver::with_topic("t", 1);
    let poll = fetch_request(12, "t", uuid::Uuid::nil(), 0, 0, false, 500);
    driver.send(1, 12, &poll);
    driver.send(2, 12, &poll);
    assert!(driver.receive::<messages::FetchRequest>(12).is_none());
    assert_eq!(driver.broker.next_deadline(driver.now), Some(driver.now + Duration::from_millis(500)));
    // A request behind the poll waits for its turn on the same connection, and not on another.
    driver.send(1, 12, &messages::MetadataRequest::default());
    assert!(driver.receive::<messages::MetadataRequest>(12).is_none());
    driver.pass(Duration::from_millis(499));
    assert!(driver.receive::<messages::FetchRequest>(12).is_none());
    let request = produce_request("t", 0, batch(2, None));
    driver.send(3, 9, &request);
    assert_eq!(driver.receive::<messages::ProduceRequest>(9).unwrap().0, 3);
    let (connection, _, response) = driver.receive::<messages::FetchRequest>(12).unwrap();
    assert_eq!(connection, 1);
    assert_eq!(offsets(&response.responses[0].partitions[0]), [0, 1]);
    assert_eq!(driver.receive::<messages::MetadataRequest>(12).unwrap().0, 1);
    assert_eq!(driver.receive::<messages::FetchRequest>(12).unwrap().0, 2);

    let poll = fetch_request(12, "t", uuid::Uuid::nil(), 0, 2, false, 500);
    driver.send(1, 12, &poll);
    driver.pass(Duration::from_millis(500));
    let (_, _, response) = driver.receive::<messages::FetchRequest>(12).unwrap();
    assert!(offsets(&response.responses[0].partitions[0]).is_empty());
    assert_eq!(driver.broker.next_deadline(driver.now), None);
}

#[test]
fn a_long_poll_waits_for_as_many_bytes_as_it_asks_for() {
    let mut driver = Driver::with_topic("t", 1);
    let size = batch(1, None).len() as i32;
    let poll = fetch_request(12, "t", uuid::Uuid::nil(), 0, 0, false, 500).with_min_bytes(size * 2);
    driver.send(1, 12, &poll);
    driver.send(2, 9, &produce_request("t", 0, batch(1, None)));
    assert_eq!(driver.receive::<messages::ProduceRequest>(9).unwrap().0, 2);
    assert!(driver.receive::<messages::FetchRequest>(12).is_none());
    driver.send(2, 9, &produce_request("t", 0, batch(1, None)));
    assert_eq!(driver.receive::<messages::ProduceRequest>(9).unwrap().0, 2);
    assert!(driver.receive::<messages::FetchRequest>(12).is_some());
}

#[test]
fn list_offsets_finds_ends_times_and_the_largest_time() {
    let mut driver = Driver::with_topic("t", 1);
    assert_eq!(driver.list_offset("t", 0, -1, false), (0, -1));
    assert_eq!(driver.list_offset("t", 0, -3, false), (-1, -1));
    for times in [&[10, 30, 20][..], &[5][..], &[40, 25, 40][..]] {
        assert_eq!(driver.produce(9, None, "t", 0, batch_at(times, None)).error_code, 0);
    }
    assert_eq!(driver.list_offset("t", 0, -1, false), (7, -1));
    assert_eq!(driver.list_offset("t", 0, -2, false), (0, -1));
    assert_eq!(driver.list_offset("t", 0, -3, false), (4, 40));
    assert_eq!(driver.list_offset("t", 0, 0, false), (0, 10));
    assert_eq!(driver.list_offset("t", 0, 11, false), (1, 30));
    assert_eq!(driver.list_offset("t", 0, 31, false), (4, 40));
    assert_eq!(driver.list_offset("t", 0, 41, false), (-1, -1));
    assert!(driver.broker.lose_before("t", 0, 2));
    assert_eq!(driver.list_offset("t", 0, -2, false), (2, -1));
    assert_eq!(driver.list_offset("t", 0, 0, false), (2, 20));
    assert_eq!(driver.list_offset("t", 0, 21, false), (4, 40));
    let lost = driver.fetch(12, "t", 0, 1, false);
    assert_eq!(ErrorCode(lost.error_code), ErrorCode::OFFSET_OUT_OF_RANGE);
    // The batch that holds the new start is still there as a whole.
    assert_eq!(offsets(&driver.fetch(12, "t", 0, 2, false)), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_topic_of_append_time_gets_the_brokers_clock() {
    let mut driver = Driver::new(BrokerConfig { start_time_ms: 77_000, ..BrokerConfig::default() });
    let topic = messages::create_topics_request::CreatableTopic::default()
        .with_name(support::topic_name("t"))
        .with_num_partitions(1)
        .with_replication_factor(-1)
        .with_configs(vec![
            messages::create_topics_request::CreatableTopicConfig::default()
                .with_name("message.timestamp.type".into())
                .with_value(Some("LogAppendTime".into())),
        ]);
    let created = driver.ask(7, &messages::CreateTopicsRequest::default().with_topics(vec![topic]));
    assert_eq!(created.topics[0].error_code, 0);
    driver.pass(Duration::from_millis(23));
    let answer = driver.produce(9, None, "t", 0, batch(2, None));
    assert_eq!(answer.log_append_time_ms, 77_023);
    assert_eq!(driver.list_offset("t", 0, 77_000, false), (0, 77_023));
    assert_eq!(offsets(&driver.fetch(12, "t", 0, 0, false)), [0, 1]);
}

#[test]
fn leader_epochs_fence_and_truncation_shows_as_divergence() {
    let mut driver = Driver::with_topic("t", 1);
    driver.append("t", 0, 3);
    assert!(driver.broker.bump_leader_epoch("t", 0));
    driver.append("t", 0, 3);
    let fetch = |driver: &mut Driver, epoch: i32, offset: i64, last: i32| {
        let mut request = fetch_request(12, "t", uuid::Uuid::nil(), 0, offset, false, 0);
        let asked = &mut request.topics[0].partitions[0];
        (asked.current_leader_epoch, asked.last_fetched_epoch) = (epoch, last);
        driver.ask(12, &request).responses.remove(0).partitions.remove(0)
    };
    assert_eq!(ErrorCode(fetch(&mut driver, 0, 0, -1).error_code), ErrorCode::FENCED_LEADER_EPOCH);
    assert_eq!(ErrorCode(fetch(&mut driver, 2, 0, -1).error_code), ErrorCode::UNKNOWN_LEADER_EPOCH);
    assert_eq!(offsets(&fetch(&mut driver, 1, 3, 0)), [3, 4, 5]);
    assert!(driver.broker.truncate("t", 0, 4));
    assert_eq!(driver.broker.offsets("t", 0), Some((0, 3, 3)));
    driver.append("t", 0, 5);
    let data = fetch(&mut driver, 2, 6, 1);
    // Nothing is left of epoch 1, so it is forgotten.
    assert_eq!((data.diverging_epoch.epoch, data.diverging_epoch.end_offset), (0, 3));
    assert!(offsets(&data).is_empty());
    let answer = driver.ask(4, &epoch_request("t", 0, 1));
    let told = &answer.topics[0].partitions[0];
    assert_eq!((told.leader_epoch, told.end_offset), (0, 3));
    let answer = driver.ask(4, &epoch_request("t", 0, 0));
    let told = &answer.topics[0].partitions[0];
    assert_eq!((told.leader_epoch, told.end_offset), (0, 3));
}

#[test]
fn faults_hit_as_often_as_ordered_and_have_the_effect_they_say() {
    let mut driver = Driver::with_topic("t", 1);
    let key = ApiKey::Produce as i16;
    let faults = driver.broker.faults();
    let produce = |driver: &mut Driver, connection: u64| {
        driver.send(connection, 9, &produce_request("t", 0, batch(1, None)));
        driver
            .receive::<messages::ProduceRequest>(9)
            .map(|(_, _, response)| ErrorCode(response.responses[0].partition_responses[0].error_code))
    };
    let end = |driver: &Driver| driver.broker.offsets("t", 0).unwrap().2;
    faults.on(key, Fault::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER), 1);
    assert_eq!(produce(&mut driver, 1), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert_eq!(end(&driver), 0);

    faults.on(key, Fault::DropBefore, 1);
    assert_eq!(produce(&mut driver, 2), None);
    assert_eq!(driver.broker.poll_close().map(|id| id.0), Some(2));
    assert_eq!(end(&driver), 0);

    faults.on(key, Fault::DropAfter, 1);
    assert_eq!(produce(&mut driver, 3), None);
    assert_eq!(driver.broker.poll_close().map(|id| id.0), Some(3));
    assert_eq!(end(&driver), 1);

    faults.on(key, Fault::Delay(Duration::from_millis(50)), 1);
    assert_eq!(produce(&mut driver, 4), None);
    assert_eq!(end(&driver), 2);
    assert_eq!(produce(&mut driver, 4), None, "behind a delayed answer");
    assert_eq!(end(&driver), 2);
    driver.pass(Duration::from_millis(50));
    assert!(driver.receive::<messages::ProduceRequest>(9).is_some());
    assert!(driver.receive::<messages::ProduceRequest>(9).is_some());
    assert_eq!(end(&driver), 3);

    faults.on(key, Fault::Silence, 1);
    assert_eq!(produce(&mut driver, 5), None);
    assert_eq!(produce(&mut driver, 5), None, "behind a silence");
    driver.pass(Duration::from_secs(3600));
    assert!(driver.receive::<messages::ProduceRequest>(9).is_none());
    assert_eq!(end(&driver), 3);
    assert!(faults.unused().is_empty());
    assert_eq!(produce(&mut driver, 6), Some(ErrorCode::NONE));
    assert_eq!(driver.broker.requests(key), 7);
}

#[test]
fn a_produce_without_acks_is_not_answered_and_closes_if_it_fails() {
    let mut driver = Driver::with_topic("t", 1);
    driver.send(1, 9, &produce_request("t", 0, batch(1, None)).with_acks(0));
    assert!(driver.broker.poll_response(driver.now).is_none());
    assert!(driver.broker.poll_close().is_none());
    assert_eq!(driver.broker.offsets("t", 0), Some((0, 1, 1)));
    driver.send(1, 9, &produce_request("nope", 0, batch(1, None)).with_acks(0));
    assert!(driver.broker.poll_response(driver.now).is_none());
    assert_eq!(driver.broker.poll_close().map(|id| id.0), Some(1));
    let answer = driver.ask(9, &produce_request("t", 0, batch(1, None)).with_acks(2));
    let code = ErrorCode(answer.responses[0].partition_responses[0].error_code);
    assert_eq!(code, ErrorCode::INVALID_REQUIRED_ACKS);
}

fn produce_request(topic: &str, partition: i32, records: Bytes) -> messages::ProduceRequest {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let data =
        TopicProduceData::default().with_name(support::topic_name(topic)).with_partition_data(vec![data]);
    messages::ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![data])
}

fn epoch_request(topic: &str, partition: i32, epoch: i32) -> messages::OffsetForLeaderEpochRequest {
    use messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
    let asked = OffsetForLeaderPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_leader_epoch(epoch);
    let asked =
        OffsetForLeaderTopic::default().with_topic(support::topic_name(topic)).with_partitions(vec![asked]);
    messages::OffsetForLeaderEpochRequest::default().with_replica_id((-1).into()).with_topics(vec![asked])
}
