//! Transactions, written both ways (transaction.version 1 and 2): their ends, their offsets, other processes, fencing, time-outs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use milena::{
    Client, CommittedOffset, EndTxnAnswer, ErrorCode, ErrorKind, GroupMetadata, Isolation, ListFilter,
    Offset, OffsetSpec, PreparedTransaction, ProducerRecord, ProducerState, TopicPartition,
    TransactionConfig, TransactionState, TransactionVersion, TransactionalProducer,
};
use milena_tests::Env;
use milena_tests::records::{eventually, offset, values, within};

/// Brokers, each with the ways of writing transactions it takes.
async fn places() -> Vec<(Env, Client, TransactionVersion)> {
    let mut places = Vec::new();
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for env in Env::each().await {
            let client = env.client().await;
            if version <= client.transaction_version().await.unwrap() {
                places.push((env, client, version));
            }
        }
    }
    places
}

async fn ready(client: &Client, id: &str, version: TransactionVersion) -> TransactionalProducer {
    let config = TransactionConfig { version: Some(version), ..TransactionConfig::new(id) };
    let mut producer = TransactionalProducer::new(client, config).unwrap();
    within("init", producer.init()).await.unwrap();
    producer
}

async fn send(producer: &TransactionalProducer, topic: &str, partition: i32, value: &str) {
    let record = ProducerRecord::to(topic).partition(partition).value(value);
    drop(within("sending", producer.send(record)).await.unwrap());
}

async fn sees(client: &Client, what: &str, topic: &str, partition: i32, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|&value| value.to_owned()).collect();
    eventually(what, || values(client, topic, partition, Isolation::ReadCommitted), expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_records_are_seen_in_all_partitions_and_aborted_ones_nowhere() {
    for (env, client, version) in places().await {
        let what = format!("{} {version:?}", env.describe());
        let (one, two) = (env.topic("one", 2).await, env.topic("two", 1).await);
        let mut producer = ready(&client, &env.name("tx"), version).await;
        for (round, commit) in [true, false, true, true, false, true].into_iter().enumerate() {
            producer.begin().await.unwrap();
            for (topic, partition) in [(&one, 0), (&two, 0), (&one, 1)] {
                send(&producer, topic, partition, &format!("{round}a")).await;
                send(&producer, topic, partition, &format!("{round}b")).await;
            }
            if commit {
                within("the commit", producer.commit()).await.unwrap();
            } else {
                producer.flush().await.unwrap();
                within("the abort", producer.abort()).await.unwrap();
            }
        }
        for (topic, partition) in [(&one, 0), (&two, 0), (&one, 1)] {
            sees(&client, &what, topic, partition, &["0a", "0b", "2a", "2b", "3a", "3b", "5a", "5b"]).await;
            assert_eq!(
                values(&client, topic, partition, Isolation::ReadUncommitted).await.len(),
                12,
                "{what}"
            );
        }
        assert_eq!(producer.state(), ProducerState::Ready);
        assert_eq!(producer.version(), Some(version));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_in_a_transaction_share_its_fate() {
    for (env, client, version) in places().await {
        let what = format!("{} {version:?}", env.describe());
        let topic = env.topic("offsets", 2).await;
        let group = env.name("group");
        let metadata = GroupMetadata::without_member(&group);
        let tp = TopicPartition::new(topic.as_str(), 1);
        let mut producer = ready(&client, &env.name("tx"), version).await;
        for (position, commit, expected) in [(3, true, 3), (8, false, 3), (9, true, 9)] {
            producer.begin().await.unwrap();
            send(&producer, &topic, 0, "x").await;
            let offsets = [(tp.clone(), CommittedOffset::from(Offset(position)))];
            within("the offsets", producer.send_offsets(&offsets, &metadata)).await.unwrap();
            if commit {
                producer.commit().await.unwrap();
            } else {
                producer.abort().await.unwrap();
            }
            // With require_stable the answer waits for the transaction's marker.
            let found = client.group(&group).fetch(Some(std::slice::from_ref(&tp)), true).await.unwrap();
            let found = found[0].1.as_ref().unwrap().as_ref().map(|found| found.offset.0);
            assert_eq!(found, Some(expected), "{what}: {position} {commit}");
        }
        // While it is open, others see the old offset.
        producer.begin().await.unwrap();
        let offsets = [(tp.clone(), CommittedOffset::from(Offset(20)))];
        producer.send_offsets(&offsets, &metadata).await.unwrap();
        let found = client.group(&group).fetch(Some(std::slice::from_ref(&tp)), false).await.unwrap();
        assert_eq!(found[0].1.as_ref().unwrap().as_ref().map(|found| found.offset.0), Some(9), "{what}");
        producer.abort().await.unwrap();
    }
}

// scenario: 5.3.14, 5.6.24, 5.6.27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_is_ended_by_another_process() {
    for (env, client, version) in places().await {
        let what = format!("{} {version:?}", env.describe());
        let topic = env.topic("prepared", 2).await;
        let id = env.name("tx");
        for (round, commit) in [true, false, true].into_iter().enumerate() {
            let tp = TopicPartition::new(topic.as_str(), 0);
            let end = offset(&client, &tp, OffsetSpec::Latest, Isolation::ReadUncommitted).await.unwrap();
            let mut producer = ready(&client, &id, version).await;
            producer.begin().await.unwrap();
            assert!(producer.prepare().await.unwrap().is_none(), "{what}: nothing was written");
            producer.begin().await.unwrap();
            for partition in 0..2 {
                send(&producer, &topic, partition, &round.to_string()).await;
            }
            let prepared = within("prepare", producer.prepare()).await.unwrap().unwrap();
            assert_eq!(producer.state(), ProducerState::Prepared);
            assert!(producer.send(ProducerRecord::to(&topic).value("late")).await.is_err(), "{what}");
            assert_eq!((prepared.transactional_id.as_str(), prepared.version), (id.as_str(), version));
            assert_eq!(prepared.first_offsets.len(), 2, "{prepared:?}");
            let first = prepared.first_offsets.iter().find(|(found, _)| *found == tp).unwrap().1;
            assert!(first.0 >= end, "{what}: {prepared:?}, the log ended at {end}");
            drop(producer);

            // Only what a checkpoint would hold goes to the other client.
            let carried = PreparedTransaction { ..prepared };
            let other = env.client().await;
            let answers = [
                within("the end", other.transactions().end(&carried, commit)).await.unwrap(),
                within("the end", other.transactions().end(&carried, commit)).await.unwrap(),
            ];
            for answer in answers {
                assert!(matches!(answer, EndTxnAnswer::Done { .. }), "{what}: {answer:?}");
            }
            let opposite =
                within("the other end", other.transactions().end(&carried, !commit)).await.unwrap();
            assert!(matches!(opposite, EndTxnAnswer::Refused(_)), "{what}: {opposite:?}");
        }
        for partition in 0..2 {
            sees(&client, &what, &topic, partition, &["0", "2"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_itself_commits_what_it_prepared_and_goes_on() {
    for (env, client, version) in places().await {
        let topic = env.topic("itself", 1).await;
        let mut producer = ready(&client, &env.name("tx"), version).await;
        for (value, commit) in [("a", true), ("b", false), ("c", true)] {
            producer.begin().await.unwrap();
            send(&producer, &topic, 0, value).await;
            producer.prepare().await.unwrap().unwrap();
            if commit {
                producer.commit().await.unwrap();
            } else {
                producer.abort().await.unwrap();
            }
        }
        sees(&client, env.describe(), &topic, 0, &["a", "c"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_with_the_same_id_fences_the_first() {
    for (env, client, version) in places().await {
        let what = format!("{} {version:?}", env.describe());
        let topic = env.topic("fenced", 1).await;
        let id = env.name("tx");
        let mut first = ready(&client, &id, version).await;
        first.begin().await.unwrap();
        send(&first, &topic, 0, "first").await;
        first.flush().await.unwrap();
        // Its open transaction is aborted by the second one's init.
        let mut second = ready(&client, &id, version).await;
        second.begin().await.unwrap();
        send(&second, &topic, 0, "second").await;
        second.commit().await.unwrap();

        let error = within("the refusal", first.commit()).await.unwrap_err();
        let fenced =
            [ErrorCode::PRODUCER_FENCED, ErrorCode::INVALID_PRODUCER_EPOCH, ErrorCode::INVALID_TXN_STATE];
        assert!(error.code().is_some_and(|code| fenced.contains(&code)), "{what}: {error}");
        assert!(error.to_string().contains(&id), "{what}: {error}");
        assert!(first.begin().await.is_err(), "{what}: a fenced writer stays fenced");
        sees(&client, &what, &topic, 0, &["second"]).await;
        // The one that was fenced may take the id back.
        first.init().await.unwrap();
        first.begin().await.unwrap();
        send(&first, &topic, 0, "third").await;
        first.commit().await.unwrap();
        sees(&client, &what, &topic, 0, &["second", "third"]).await;
    }
}

// scenario: 5.6.34
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fencing_by_id_aborts_what_is_open_and_lists_show_it() {
    for (env, client, version) in places().await {
        let what = format!("{} {version:?}", env.describe());
        let topic = env.topic("listed", 1).await;
        let id = env.name("tx");
        let mut producer = ready(&client, &id, version).await;
        producer.begin().await.unwrap();
        send(&producer, &topic, 0, "open").await;
        producer.flush().await.unwrap();
        let transactions = client.transactions();
        let filter = ListFilter {
            states: vec![TransactionState::Ongoing],
            prefix: Some(id.clone()),
            ..ListFilter::default()
        };
        let open = transactions.list(&filter).await.unwrap();
        assert_eq!(open.iter().map(|open| open.id.as_str()).collect::<Vec<_>>(), [id.as_str()], "{what}");
        let described = transactions.describe(&[id.clone(), env.name("absent")]).await.unwrap();
        assert_eq!(described[0].state, TransactionState::Ongoing, "{what}");
        assert_eq!(described[0].partitions, [TopicPartition::new(topic.as_str(), 0)]);
        assert!(described[0].start_time_ms.is_some());
        assert_eq!(described[1].state, TransactionState::NotFound);

        let (producer_id, epoch) = transactions.fence(&id, Duration::from_secs(60)).await.unwrap();
        assert_eq!(producer_id, described[0].producer_id);
        assert!(epoch > described[0].producer_epoch, "{what}");
        assert!(transactions.list(&filter).await.unwrap().is_empty(), "{what}");
        assert!(producer.commit().await.is_err(), "{what}");
        sees(&client, &what, &topic, 0, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_timed_out_cannot_be_committed() {
    // At the same time: brokers look for such transactions from time to time only, every 10 s by default.
    let late = places().await.into_iter().map(|(env, client, version)| async move {
        let what = format!("{} {version:?}", env.describe());
        let topic = env.topic("late", 1).await;
        let id = env.name("tx");
        let config = TransactionConfig {
            version: Some(version),
            timeout: Duration::from_secs(1),
            ..TransactionConfig::new(&id)
        };
        let mut producer = TransactionalProducer::new(&client, config).unwrap();
        producer.init().await.unwrap();
        producer.begin().await.unwrap();
        send(&producer, &topic, 0, "late").await;
        let prepared = producer.prepare().await.unwrap().unwrap();
        eventually(
            &what,
            || async {
                client.transactions().describe(std::slice::from_ref(&id)).await.unwrap()[0].state.clone()
            },
            TransactionState::CompleteAbort,
        )
        .await;
        let error = within("the refusal", producer.commit()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Broker(_)), "{what}: {error}");
        let answer = within("the refusal", client.transactions().end(&prepared, true)).await.unwrap();
        assert!(matches!(answer, EndTxnAnswer::Refused(_)), "{what}: {answer:?}");
        sees(&client, &what, &topic, 0, &[]).await;
    });
    futures_util::future::join_all(late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_over_the_brokers_limit_is_an_error_that_names_the_limit() {
    for (env, client, version) in places().await {
        let config = TransactionConfig {
            version: Some(version),
            timeout: Duration::from_millis(900_001),
            ..TransactionConfig::new(env.name("tx"))
        };
        let mut producer = TransactionalProducer::new(&client, config).unwrap();
        let error = within("the refusal", producer.init()).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::INVALID_TRANSACTION_TIMEOUT), "{error}");
        let text = error.to_string();
        assert!(text.contains("900000") || text.contains("900 s") || text.contains("15 min"), "{text}");
    }
}
