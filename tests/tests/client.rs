//! Connecting, topology, offsets and fetches.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use milena::{
    Client, ClientConfig, ErrorCode, ErrorKind, FetchFrom, FetchOptions, Isolation, Offset, OffsetSpec,
    Producer, ProducerConfig, ProducerRecord, TopicPartition, TransactionConfig, TransactionalProducer,
};
use milena_testkit::hostile::{HostileBroker, Mode};
use milena_tests::records::{offset, read, text, values, within, write, write_values};
use milena_tests::{Env, unique};

/// An address of this machine where nobody listens.
fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

// scenario: 5.1.28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_live_bootstrap_address_is_enough() {
    for env in Env::each().await {
        for _ in 0..5 {
            let addresses =
                [dead_address(), "no.such.host.invalid:9092".to_owned(), env.bootstrap(), dead_address()];
            let client = within("connecting", Client::connect(ClientConfig::new(addresses))).await;
            let client = client.unwrap_or_else(|error| panic!("{}: {error}", env.describe()));
            assert!(client.cluster().brokers().count() >= 1);
        }
    }
}

// scenario: 5.1.1, 5.1.28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_do_not_work_are_each_named_with_their_reason() {
    let silent = HostileBroker::start(Mode::Silent, 1).await.unwrap();
    let (dead, unknown) = (dead_address(), "no.such.host.invalid:9092");
    let mut config = ClientConfig::new([dead.clone(), unknown.to_owned(), silent.bootstrap()]);
    config.connect_timeout = Duration::from_secs(1);
    config.api_timeout = Duration::from_secs(3);
    let begun = Instant::now();
    let error = within("the error", Client::connect(config)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let message = error.to_string();
    for address in [dead.as_str(), unknown, &silent.bootstrap()] {
        assert!(message.contains(address), "{message}");
    }
    assert_eq!(Client::connect("no port").await.unwrap_err().kind(), ErrorKind::Misuse);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_listed_by_place_and_by_time() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("listed", 2).await;
        // Ten batches of one record, the fourth the newest.
        for number in 0..10i64 {
            let timestamp = if number == 3 { 9_000 } else { 1_000 + number * 100 };
            let record = ProducerRecord::to(&topic).partition(0).value("x").timestamp(timestamp);
            write(&client, ProducerConfig::default(), [record]).await;
        }
        let tp = TopicPartition::new(topic.as_str(), 0);
        let cases = [
            (OffsetSpec::Earliest, Some(0)),
            (OffsetSpec::Latest, Some(10)),
            (OffsetSpec::Timestamp(0), Some(0)),
            (OffsetSpec::Timestamp(1_150), Some(2)),
            (OffsetSpec::Timestamp(1_200), Some(2)),
            (OffsetSpec::Timestamp(2_000), Some(3)),
            (OffsetSpec::Timestamp(9_001), None),
            (OffsetSpec::MaxTimestamp, Some(3)),
        ];
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            for (spec, expected) in cases {
                let found = offset(&client, &tp, spec, isolation).await;
                assert_eq!(found, expected, "{}: {spec:?} {isolation:?}", env.describe());
            }
        }
        let listed = client
            .list_offsets(
                &[
                    (TopicPartition::new(topic.as_str(), 1), OffsetSpec::Latest),
                    (TopicPartition::new(topic.as_str(), 9), OffsetSpec::Latest),
                    (tp.clone(), OffsetSpec::MaxTimestamp),
                ],
                Isolation::ReadUncommitted,
            )
            .await
            .unwrap();
        assert_eq!(listed[0].1.as_ref().unwrap().offset, Some(Offset(0)));
        let unknown = listed[1].1.as_ref().unwrap_err();
        assert_eq!(unknown.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{unknown}");
        assert_eq!(listed[2].1.as_ref().unwrap().timestamp, Some(9_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_ends_what_committed_readers_see() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("stable", 1).await;
        let tp = TopicPartition::new(topic.as_str(), 0);
        write_values(&client, &topic, 0, &["before"]).await;
        let mut producer =
            TransactionalProducer::new(&client, TransactionConfig::new(env.name("tx"))).unwrap();
        producer.init().await.unwrap();
        producer.begin().await.unwrap();
        drop(producer.send(ProducerRecord::to(&topic).value("open")).await.unwrap());
        producer.flush().await.unwrap();
        write_values(&client, &topic, 0, &["after"]).await;
        assert_eq!(offset(&client, &tp, OffsetSpec::Latest, Isolation::ReadUncommitted).await, Some(3));
        assert_eq!(offset(&client, &tp, OffsetSpec::Latest, Isolation::ReadCommitted).await, Some(1));
        let options = FetchOptions { isolation: Isolation::ReadCommitted, ..FetchOptions::default() };
        let fetched =
            client.fetcher().fetch(&[FetchFrom::new(tp.clone(), Offset(0))], &options).await.unwrap();
        assert_eq!((fetched[0].high_watermark, fetched[0].last_stable_offset), (Offset(3), Some(Offset(1))));
        assert_eq!(fetched[0].owned_records().unwrap().len(), 1);
        assert_eq!(values(&client, &topic, 0, Isolation::ReadUncommitted).await, ["before", "open", "after"]);
        producer.abort().await.unwrap();
        milena_tests::records::eventually(
            env.describe(),
            || values(&client, &topic, 0, Isolation::ReadCommitted),
            vec!["before".to_owned(), "after".to_owned()],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_keep_their_limits_and_report_errors_by_partition() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("fetch", 3).await;
        let value = "v".repeat(2000);
        for partition in 0..3 {
            for _ in 0..10 {
                write_values(&client, &topic, partition, &[&value]).await;
            }
        }
        let at = |partition, offset| {
            FetchFrom::new(TopicPartition::new(topic.as_str(), partition), Offset(offset))
        };
        let fetcher = client.fetcher();

        // One batch is more than the limit, and comes all the same.
        let mut limited = at(0, 4);
        limited.max_bytes = Some(100);
        let fetched = fetcher.fetch(&[limited], &FetchOptions::default()).await.unwrap();
        assert_eq!(fetched[0].batches.len(), 1);
        assert_eq!(fetched[0].next_offset(), Offset(5));

        let options = FetchOptions { partition_max_bytes: 7_000, ..FetchOptions::default() };
        let all = [at(2, 0), at(0, 10), at(1, 7), at(7, 0)];
        let fetched = within("a fetch", fetcher.fetch(&all, &options)).await.unwrap();
        assert_eq!(fetched.iter().map(|f| f.tp.partition.0).collect::<Vec<_>>(), [2, 0, 1, 7]);
        assert!((1..=3).contains(&fetched[0].batches.len()), "{} batches", fetched[0].batches.len());
        assert_eq!(fetched[1].next_offset(), Offset(10));
        assert!(fetched[1].error.is_none() && fetched[1].batches.is_empty());
        assert_eq!(fetched[2].next_offset(), Offset(10), "three records of 2 kB are below 7 kB");
        let unknown = fetched[3].error.as_ref().unwrap();
        assert_eq!(unknown.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{unknown}");

        let beyond = fetcher.fetch(&[at(0, 11)], &FetchOptions::default()).await.unwrap();
        let error = beyond[0].error.as_ref().unwrap();
        assert_eq!(error.code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE), "{}: {error}", env.describe());

        let total = FetchOptions { max_bytes: 5_000, ..FetchOptions::default() };
        let fetched = fetcher.fetch(&[at(0, 0), at(1, 0), at(2, 0)], &total).await.unwrap();
        let bytes: usize = fetched.iter().map(milena::Fetched::len_bytes).sum();
        assert!((2_000..=7_500).contains(&bytes), "{}: {bytes} bytes", env.describe());

        // Every record comes once, however small the steps.
        let mut next = 0;
        while next < 10 {
            let mut step = at(1, next);
            step.max_bytes = Some(3_000);
            let fetched = fetcher.fetch(&[step], &FetchOptions::default()).await.unwrap();
            for record in fetched[0].owned_records().unwrap() {
                assert_eq!(record.offset.0, next);
                next += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_at_the_end_waits_for_the_next_record() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("wait", 1).await;
        let tp = TopicPartition::new(topic.as_str(), 0);
        // A fetch is one try: a partition whose leader is just starting would be answered at once, with an error.
        write_values(&client, &topic, 0, &["early"]).await;
        assert_eq!(read(&client, &tp, Isolation::ReadUncommitted).await.len(), 1);
        let fetcher = client.fetcher();
        let waiting = tokio::spawn(async move {
            let options = FetchOptions { max_wait: Duration::from_secs(20), ..FetchOptions::default() };
            fetcher.fetch(&[FetchFrom::new(tp, Offset(1))], &options).await
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "{}: nothing was there to answer with", env.describe());
        let begun = Instant::now();
        write_values(&client, &topic, 0, &["late"]).await;
        let fetched = within("the late record", waiting).await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(15), "the fetch was woken by the record");
        assert_eq!(text(fetched[0].owned_records().unwrap()[0].value.as_deref()), "late");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_and_made_again_is_found_again() {
    for env in Env::each().await {
        let client = env.client().await;
        let topic = env.topic("again", 1).await;
        let tp = TopicPartition::new(topic.as_str(), 0);
        write_values(&client, &topic, 0, &["old"]).await;
        assert_eq!(read(&client, &tp, Isolation::ReadUncommitted).await.len(), 1);
        let admin = env.client().await;
        admin.admin().delete_topics(&[&topic]).await.unwrap()[0].1.as_ref().unwrap();
        milena_tests::create_topic(&admin, &topic, 1).await;
        // The first client has the old topic's id in its cache, and finds out by the broker's answers.
        write_values(&client, &topic, 0, &["new"]).await;
        let found = values(&client, &topic, 0, Isolation::ReadUncommitted).await;
        assert_eq!(found, ["new"], "{}", env.describe());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_topic_is_an_error_that_names_it() {
    for env in Env::each().await {
        let client = env.client().await;
        let absent = unique("absent");
        let producer = Producer::new(&client, ProducerConfig::default()).unwrap();
        let (looked_up, sent) = within("the errors", async {
            tokio::join!(client.topic(&absent), producer.send(ProducerRecord::to(&absent).value("x")))
        })
        .await;
        for error in [looked_up.unwrap_err(), sent.unwrap_err()] {
            assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION), "{error}");
            assert!(error.to_string().contains(&absent), "{error}");
        }
        // Asking made nothing.
        let topics = client.admin().list_topics().await.unwrap();
        assert!(topics.iter().all(|topic| topic.name != absent), "{}", env.describe());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_client_refuses_and_its_clones_too() {
    for env in Env::each().await {
        let client = env.client().await;
        let clone = client.clone();
        client.close(Duration::from_secs(10)).await.unwrap();
        let error = clone.metadata(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{}: {error}", env.describe());
    }
}
