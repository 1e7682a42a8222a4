//! The client against brokers: the embedded one as it is and with the versions of older brokers, and a real Kafka at
//! `MILENA_BOOTSTRAP=host:port`. Without that each real test says that it is skipped, and with `MILENA_REQUIRE_KAFKA=1`
//! (or `CI=true`) it fails instead.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

use std::sync::Arc;
use std::time::Duration;

use milena::protocol::StrBytes;
use milena::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use milena::protocol::messages::{ProduceRequest, TopicName};
use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header};
use milena::{
    CallOptions, Client, ClientConfig, CommittedOffset, EndTxnAnswer, ErrorCode, ErrorKind, FetchFrom,
    FetchOptions, Isolation, LeaderEpoch, ListFilter, NewTopic, Offset, OffsetSpec, PreparedTransaction,
    ProducerEpoch, ProducerId, Target, TopicPartition, TransactionState, TransactionVersion,
};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;

/// A client of the real broker, or `None` after saying why there is none.
async fn real(test: &str) -> Option<Client> {
    let Ok(bootstrap) = std::env::var("MILENA_BOOTSTRAP") else {
        let set = |name: &str| std::env::var(name).is_ok_and(|value| value == "1" || value == "true");
        assert!(!set("MILENA_REQUIRE_KAFKA") && !set("CI"), "{test} needs MILENA_BOOTSTRAP");
        eprintln!("SKIPPED {test}: MILENA_BOOTSTRAP is not set");
        return None;
    };
    Some(Client::connect(bootstrap).await.expect("a broker at MILENA_BOOTSTRAP"))
}

/// The highest versions of Produce, Fetch, ListOffsets, Metadata, OffsetCommit, OffsetFetch, FindCoordinator,
/// InitProducerId and EndTxn that brokers of a release offer, by their own ApiVersions.
type Offered = [i16; 9];

const RELEASE_0_11: Offered = [3, 5, 2, 4, 3, 3, 1, 0, 0];
const RELEASE_2_4: Offered = [8, 11, 5, 9, 8, 6, 3, 2, 1];
const RELEASE_3_3: Offered = [9, 13, 7, 12, 8, 8, 4, 4, 3];

/// An embedded broker with a release's versions (`None`: all of the newest), and a client of it.
async fn embedded(offered: Option<Offered>) -> (EmbeddedBroker, Client) {
    let mut config = BrokerConfig::default();
    for (key, max) in [0, 1, 2, 3, 8, 9, 10, 22, 26].into_iter().zip(offered.into_iter().flatten()) {
        config = config.with_version_limit(key, max);
    }
    if offered.is_some() {
        config = config.with_transaction_version(milena_testkit::broker::TransactionVersion::V1);
    }
    let broker = EmbeddedBroker::start(config).await.unwrap();
    let client = Client::connect(broker.bootstrap()).await.unwrap();
    (broker, client)
}

/// Makes each scenario a test on every broker.
macro_rules! everywhere {
    ($($name:ident)*) => {
        everywhere!(@embedded newest None; $($name)*);
        everywhere!(@embedded as_0_11 Some(super::RELEASE_0_11); $($name)*);
        everywhere!(@embedded as_2_4 Some(super::RELEASE_2_4); $($name)*);
        everywhere!(@embedded as_3_3 Some(super::RELEASE_3_3); $($name)*);
        mod real {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(client) = super::real(stringify!($name)).await {
                    super::$name(&client).await;
                }
            })*
        }
    };
    (@embedded $module:ident $offered:expr; $($name:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $name() {
                let (broker, client) = super::embedded($offered).await;
                super::$name(&client).await;
                broker.stop().await;
            })*
        }
    };
}

everywhere! {
    topics_are_created_listed_described_grown_and_deleted
    a_brokers_transaction_limit_can_be_read
    offsets_are_listed_by_place_and_time
    records_come_back_whole_from_any_offset
    fetches_that_wait_do_not_hold_up_each_other_or_commits
    offsets_are_committed_and_read_back
    a_prepared_transaction_is_ended_by_another_client
    a_closed_client_refuses_calls_and_an_absent_topic_ends_in_an_error
    dead_bootstrap_addresses_do_not_stop_a_live_one
}

/// Whether all brokers speak this version of an API.
async fn speaks(client: &Client, key: i16, version: i16) -> bool {
    let broker = client.cluster().brokers().next().unwrap().id;
    client.versions(broker).await.unwrap().range(key).is_some_and(|range| range.contains(version))
}

fn unique(prefix: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{prefix}-{}-{}", std::process::id(), now.as_nanos() % 1_000_000_000_000)
}

async fn create(client: &Client, prefix: &str, partitions: i32) -> String {
    let name = unique(prefix);
    let outcomes = client
        .admin()
        .create_topics(&[NewTopic::new(&name, partitions)], Duration::from_secs(20))
        .await
        .unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes.into_iter().for_each(|(_, outcome)| outcome.unwrap());
    // The controller's word comes before the leaders have heard it: list_offsets waits for them.
    let ends: Vec<_> =
        (0..partitions).map(|at| (TopicPartition::new(name.as_str(), at), OffsetSpec::Latest)).collect();
    for (_, end) in client.list_offsets(&ends, Isolation::ReadUncommitted).await.unwrap() {
        end.unwrap();
    }
    name
}

/// Writes one batch with a raw Produce request; returns its base offset.
async fn produce(
    client: &Client,
    tp: &TopicPartition,
    first_time: i64,
    values: &[String],
    identity: BatchIdentity,
) -> Offset {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (at, value) in values.iter().enumerate() {
        let header = Header::new("at", Some(b"x"));
        builder.push(first_time + at as i64, Some(b"key"), Some(value.as_bytes()), [header]).unwrap();
    }
    let transactional = identity.transactional;
    let batch = builder.build(identity).unwrap();
    let leader = client.leader(tp).await.unwrap();
    let options = CallOptions { max_version: Some(12), ..CallOptions::default() };
    let answer = client
        .call_with::<ProduceRequest, _>(Target::Broker(leader), options, |_| {
            let data =
                PartitionProduceData::default().with_index(tp.partition.0).with_records(Some(batch.clone()));
            let topic = TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_string(tp.topic.to_string())))
                .with_partition_data(vec![data]);
            let mut request =
                ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![topic]);
            if let Some(id) = transactional.then(|| tp.topic.to_string()) {
                let id = StrBytes::from_string(format!("tx-{id}"));
                request =
                    request.with_transactional_id(Some(milena::protocol::messages::TransactionalId(id)));
            }
            request
        })
        .await
        .unwrap();
    let partition = &answer.response.responses[0].partition_responses[0];
    assert_eq!(ErrorCode(partition.error_code), ErrorCode::NONE, "{:?}", partition.error_message);
    Offset(partition.base_offset)
}

fn values(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("value {at}")).collect()
}

async fn topics_are_created_listed_described_grown_and_deleted(client: &Client) {
    let admin = client.admin();
    let name = create(client, "admin", 3).await;
    assert!(admin.list_topics().await.unwrap().iter().any(|topic| topic.name == name && !topic.internal));
    let described = admin.describe_topics(&[&name, "no-such-topic"]).await.unwrap();
    let topic = described[0].1.as_ref().unwrap();
    assert_eq!(topic.partitions.len(), 3);
    assert!(topic.partitions.iter().all(|partition| partition.leader.is_some() && !partition.isr.is_empty()));
    assert_eq!(described[1].1.as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    let again = admin.create_topics(&[NewTopic::new(&name, 3)], Duration::from_secs(5)).await.unwrap();
    let error = again[0].1.as_ref().unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS));
    assert!(error.to_string().contains("the broker says"), "{error}");
    admin.add_partitions(&name, 5).await.unwrap();
    let mut count = 0;
    for _ in 0..50 {
        count = client.metadata(Some(&[&name])).await.unwrap().topic(&name).unwrap().partition_count();
        if count == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(count, 5);
    assert!(admin.add_partitions(&name, 5).await.is_err());
    admin.delete_topics(&[&name]).await.unwrap().into_iter().for_each(|(_, outcome)| outcome.unwrap());
    let gone = admin.delete_topics(&[&name]).await.unwrap();
    assert_eq!(gone[0].1.as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

async fn a_brokers_transaction_limit_can_be_read(client: &Client) {
    let broker = client.cluster().brokers().next().unwrap().id;
    let entries =
        client.admin().describe_broker_config(broker, &["transaction.max.timeout.ms"]).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert!(entries[0].value.as_ref().unwrap().parse::<i64>().unwrap() > 0);
    assert!(client.versions(broker).await.unwrap().range(18).is_some());
    assert!(client.cluster().cluster_id().is_some());
}

async fn offsets_are_listed_by_place_and_time(client: &Client) {
    let name = create(client, "offsets", 2).await;
    let (zero, one) = (TopicPartition::new(name.as_str(), 0), TopicPartition::new(name.as_str(), 1));
    produce(client, &zero, 1_000_000, &values(10), BatchIdentity::default()).await;
    produce(client, &zero, 2_000_000, &values(10), BatchIdentity::default()).await;
    let list = async |tp: &TopicPartition, spec| {
        let mut listed =
            client.list_offsets(&[(tp.clone(), spec)], Isolation::ReadUncommitted).await.unwrap();
        listed.remove(0).1
    };
    assert_eq!(list(&zero, OffsetSpec::Earliest).await.unwrap().offset, Some(Offset(0)));
    let end = list(&zero, OffsetSpec::Latest).await.unwrap();
    assert_eq!(end.offset, Some(Offset(20)));
    assert_eq!(end.leader_epoch, speaks(client, 2, 4).await.then_some(LeaderEpoch(0)));
    let found = list(&zero, OffsetSpec::Timestamp(1_000_005)).await.unwrap();
    assert_eq!((found.offset, found.timestamp), (Some(Offset(5)), Some(1_000_005)));
    assert_eq!(list(&zero, OffsetSpec::Timestamp(1_500_000)).await.unwrap().offset, Some(Offset(10)));
    assert_eq!(list(&zero, OffsetSpec::Timestamp(9_000_000)).await.unwrap().offset, None);
    if speaks(client, 2, 7).await {
        assert_eq!(list(&zero, OffsetSpec::MaxTimestamp).await.unwrap().offset, Some(Offset(19)));
    } else {
        assert_eq!(list(&zero, OffsetSpec::MaxTimestamp).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert_eq!(list(&one, OffsetSpec::Latest).await.unwrap().offset, Some(Offset(0)));
    let absent = TopicPartition::new(name.as_str(), 9);
    let both = [(zero.clone(), OffsetSpec::Latest), (absent.clone(), OffsetSpec::Latest)];
    let listed = client.list_offsets(&both, Isolation::ReadCommitted).await.unwrap();
    assert_eq!(listed[0].1.as_ref().unwrap().offset, Some(Offset(20)));
    assert_eq!(listed[1].1.as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert!(
        client.list_offsets(&[both[0].clone(), both[0].clone()], Isolation::ReadCommitted).await.is_err()
    );
}

async fn records_come_back_whole_from_any_offset(client: &Client) {
    let name = create(client, "fetch", 2).await;
    let tp = TopicPartition::new(name.as_str(), 0);
    let written = values(100);
    for chunk in written.chunks(10) {
        produce(client, &tp, 1_700_000_000_000, chunk, BatchIdentity::default()).await;
    }
    let fetcher = client.fetcher();
    let options = FetchOptions { partition_max_bytes: 400, ..FetchOptions::default() };
    for start in [0i64, 5, 37, 99] {
        let mut seen: Vec<(i64, String)> = Vec::new();
        let mut position = Offset(start);
        while position < Offset(100) {
            let fetched =
                fetcher.fetch(&[FetchFrom::new(tp.clone(), position)], &options).await.unwrap().remove(0);
            assert!(fetched.error.is_none(), "{:?}", fetched.error);
            assert_eq!(fetched.high_watermark, Offset(100));
            fetched
                .for_each_record(|record| {
                    assert_eq!(record.key, Some(&b"key"[..]));
                    assert_eq!(record.headers.len(), 1);
                    seen.push((record.offset.0, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
                })
                .unwrap();
            assert!(fetched.next_offset() > position, "no progress at {position}");
            assert_eq!(fetched.owned_records().unwrap().len() as i64, fetched.next_offset() - position);
            position = fetched.next_offset();
        }
        let expected: Vec<(i64, String)> =
            (start..100).map(|at| (at, written[at as usize].clone())).collect();
        assert_eq!(seen, expected);
    }
    let beyond = fetcher.fetch(&[FetchFrom::new(tp.clone(), Offset(500))], &options).await.unwrap().remove(0);
    assert_eq!(beyond.error.unwrap().code(), Some(ErrorCode::OFFSET_OUT_OF_RANGE));
    let with_epoch =
        FetchFrom { leader_epoch: Some(LeaderEpoch(0)), ..FetchFrom::new(tp.clone(), Offset(50)) };
    assert!(fetcher.fetch(&[with_epoch], &options).await.unwrap().remove(0).error.is_none());
    let absent = FetchFrom::new(TopicPartition::new("no-such-topic", 0), Offset(0));
    let mixed = fetcher.fetch(&[absent, FetchFrom::new(tp.clone(), Offset(0))], &options).await.unwrap();
    assert_eq!(mixed[0].error.as_ref().unwrap().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert!(mixed[1].error.is_none());
}

async fn fetches_that_wait_do_not_hold_up_each_other_or_commits(client: &Client) {
    let name = create(client, "parallel", 4).await;
    let group = client.group(&unique("g"));
    group.commit(&[(TopicPartition::new(name.as_str(), 0), Offset(0).into())]).await.unwrap();
    let options = Arc::new(FetchOptions { max_wait: Duration::from_secs(5), ..FetchOptions::default() });
    let since = std::time::Instant::now();
    let waits: Vec<_> = (0..4)
        .map(|partition| {
            let (fetcher, options) = (client.fetcher(), Arc::clone(&options));
            let from = FetchFrom::new(TopicPartition::new(name.as_str(), partition), Offset(0));
            tokio::spawn(async move { fetcher.fetch(&[from], &options).await.unwrap() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    group.commit(&[(TopicPartition::new(name.as_str(), 0), Offset(0).into())]).await.unwrap();
    assert!(since.elapsed() < Duration::from_millis(4500), "a commit waited for a fetch");
    for wait in waits {
        assert!(wait.await.unwrap()[0].error.is_none());
    }
    assert!(
        since.elapsed() < Duration::from_secs(14),
        "fetches waited for each other: {:?}",
        since.elapsed()
    );
}

async fn offsets_are_committed_and_read_back(client: &Client) {
    let name = create(client, "group", 3).await;
    let tp = |partition: i32| TopicPartition::new(name.as_str(), partition);
    let group = client.group(&unique("group"));
    // Brokers before 2.5 cannot tell whether an offset is still in an open transaction.
    let stable = speaks(client, 9, 7).await;
    if !stable {
        assert_eq!(group.fetch(None, true).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    let nothing = group.fetch(Some(&[tp(0), tp(1)]), stable).await.unwrap();
    assert!(nothing.iter().all(|(_, committed)| matches!(committed, Ok(None))), "{nothing:?}");
    let full = CommittedOffset {
        offset: Offset(7),
        leader_epoch: Some(LeaderEpoch(0)),
        metadata: Some("note".into()),
    };
    group.commit(&[(tp(0), full.clone()), (tp(2), Offset(9).into())]).await.unwrap();
    let some = group.fetch(Some(&[tp(2), tp(1), tp(0)]), stable).await.unwrap();
    assert_eq!(some[0].1.as_ref().unwrap().as_ref().unwrap().offset, Offset(9));
    assert_eq!(*some[1].1.as_ref().unwrap(), None);
    let epochs = speaks(client, 8, 6).await && speaks(client, 9, 5).await;
    let expected = CommittedOffset { leader_epoch: full.leader_epoch.filter(|_| epochs), ..full };
    assert_eq!(*some[2].1.as_ref().unwrap(), Some(expected));
    let mut all = group.fetch(None, false).await.unwrap();
    all.sort_by(|one, two| one.0.cmp(&two.0));
    assert_eq!(all.iter().map(|(tp, _)| tp.clone()).collect::<Vec<_>>(), [tp(0), tp(2)]);
    let refused =
        group.commit_each(&[(TopicPartition::new("no-such-topic", 0), Offset(1).into())]).await.unwrap();
    assert_eq!(refused[0].1.as_ref().unwrap_err().code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

async fn a_prepared_transaction_is_ended_by_another_client(client: &Client) {
    if client.transaction_version().await.unwrap() != TransactionVersion::V2 {
        eprintln!("SKIPPED the writing part: it uses implicit partitions, which need transaction.version 2");
        return;
    }
    let name = create(client, "transactions", 1).await;
    let tp = TopicPartition::new(name.as_str(), 0);
    let id = format!("tx-{name}");
    let transactions = client.transactions();
    assert_eq!(
        transactions.describe(std::slice::from_ref(&id)).await.unwrap()[0].state,
        TransactionState::NotFound
    );
    let mut visible = 0;
    for commit in [true, false] {
        let (producer_id, producer_epoch) = transactions.fence(&id, Duration::from_secs(60)).await.unwrap();
        let identity = BatchIdentity {
            producer_id,
            producer_epoch,
            transactional: true,
            base_sequence: milena::Sequence(0),
            ..BatchIdentity::default()
        };
        let first = produce(client, &tp, 1, &values(3), identity).await;
        let open = transactions.describe(std::slice::from_ref(&id)).await.unwrap().remove(0);
        assert_eq!((open.state, open.producer_id), (TransactionState::Ongoing, producer_id));
        assert_eq!(open.partitions, std::slice::from_ref(&tp));
        let producers =
            client.admin().describe_producers(std::slice::from_ref(&tp)).await.unwrap().remove(0).1.unwrap();
        assert!(producers.iter().any(|p| p.producer_id == producer_id && p.transaction_start == Some(first)));
        let prepared = PreparedTransaction {
            transactional_id: id.clone(),
            producer_id,
            producer_epoch,
            version: TransactionVersion::V2,
            first_offsets: vec![(tp.clone(), first)],
            start_time_ms: open.start_time_ms,
            timeout: Duration::from_secs(60),
        };
        let other = Client::connect(client.config().clone()).await.unwrap();
        for _ in 0..2 {
            // The second time finds it done, in the same version.
            let answer = other.transactions().end(&prepared, commit).await.unwrap();
            assert!(matches!(answer, EndTxnAnswer::Done { next: Some(_) }), "{answer:?}");
        }
        let opposite = other.transactions().end(&prepared, !commit).await.unwrap();
        assert_eq!(opposite, EndTxnAnswer::Refused(ErrorCode::INVALID_TXN_STATE));
        visible += if commit { 3 } else { 0 };
        let options = FetchOptions { isolation: Isolation::ReadCommitted, ..FetchOptions::default() };
        let mut position = Offset(0);
        let mut seen = 0;
        while position <= first + 3 {
            let fetched = client
                .fetcher()
                .fetch(&[FetchFrom::new(tp.clone(), position)], &options)
                .await
                .unwrap()
                .remove(0);
            assert!(fetched.error.is_none(), "{:?}", fetched.error);
            fetched.for_each_record(|_| seen += 1).unwrap();
            position = fetched.next_offset();
        }
        assert_eq!(seen, visible);
    }
    let filter = ListFilter { prefix: Some(id.clone()), ..ListFilter::default() };
    let listed = transactions.list(&filter).await.unwrap();
    assert_eq!(
        listed.iter().map(|listing| listing.id.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&id)
    );
    let ongoing = ListFilter { states: vec![TransactionState::Ongoing], ..filter };
    assert!(transactions.list(&ongoing).await.unwrap().is_empty());
    let stale = PreparedTransaction {
        transactional_id: id.clone(),
        producer_id: ProducerId(listed[0].producer_id.0),
        producer_epoch: ProducerEpoch(0),
        version: TransactionVersion::V2,
        first_offsets: Vec::new(),
        start_time_ms: None,
        timeout: Duration::from_secs(60),
    };
    let (new_id, new_epoch) = transactions.fence(&id, Duration::from_secs(60)).await.unwrap();
    assert!(new_id == stale.producer_id && new_epoch > stale.producer_epoch);
    assert_eq!(
        transactions.end(&stale, true).await.unwrap(),
        EndTxnAnswer::Refused(ErrorCode::PRODUCER_FENCED)
    );
    let error = transactions.fence(&id, Duration::from_secs(24 * 3600)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::INVALID_TRANSACTION_TIMEOUT));
}

async fn a_closed_client_refuses_calls_and_an_absent_topic_ends_in_an_error(client: &Client) {
    let since = std::time::Instant::now();
    let error = client.topic("no-such-topic").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert!(since.elapsed() < Duration::from_secs(30));
    client.clone().close(Duration::from_secs(5)).await.unwrap();
    let error = client.metadata(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

async fn dead_bootstrap_addresses_do_not_stop_a_live_one(client: &Client) {
    let live = client.config().bootstrap[0].clone();
    let since = std::time::Instant::now();
    let config = ClientConfig::new(["127.0.0.1:1", "no-such-host.invalid:9092", live.as_str()]);
    Client::connect(config).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}
