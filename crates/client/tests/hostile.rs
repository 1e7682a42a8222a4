//! The client against brokers that are silent, slow, old, or lie. Time is Tokio's paused clock: it jumps when all wait.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // clippy knows only marked functions as tests

mod damage;
mod fake;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fake::{Fake, Reply, api_versions, framed, metadata, ordinary, text, topic_id};
use milena::protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use milena::protocol::messages::{MetadataRequest, RequestKind, ResponseKind};
use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions};
use milena::protocol::{RequestBody, RequestFrame};
use milena::{
    BrokerId, CallOptions, Client, ClientConfig, Error, ErrorCode, ErrorKind, FetchFrom, FetchOptions,
    Fetched, Offset, Purpose, Target, TopicPartition,
};
use tokio::time::Instant;

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;

fn quick(fake: &Fake) -> ClientConfig {
    let mut config = fake.config();
    config.connect_timeout = Duration::from_secs(3);
    config.request_timeout = Duration::from_secs(5);
    config.api_timeout = Duration::from_secs(20);
    config
}

/// The error of a connect that must fail, and how long it took.
async fn refused(fake: &Fake) -> (Error, Duration) {
    let since = Instant::now();
    let error = Client::connect(quick(fake)).await.expect_err("connected to a hostile broker");
    (error, since.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_a_timeout_that_names_the_address() {
    let (error, took) = refused(&Fake::new(|_, _| Some(Reply::Silence))).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("fake:1"), "{error}");
    assert!(took <= Duration::from_secs(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_closes_every_connection_is_an_io_error() {
    let (error, took) = refused(&Fake::new(|_, _| Some(Reply::Close))).await;
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("fake:1"), "{error}");
    assert!(took <= Duration::from_secs(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn garbage_is_a_peer_error_whatever_it_is() {
    let lies: [&'static [u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0x7f, 0xff, 0xff, 0xff, 0, 0],
        &[0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 2, 1, 1],
        &[0, 0, 0, 5, 0, 0, 0, 0, 9],
        &[0, 0, 0, 0],
    ];
    for when in [API_VERSIONS, METADATA] {
        for lie in lies {
            let fake = Fake::new(move |_, request| {
                (request.api_key == when).then(|| Reply::Raw(Bytes::from_static(lie)))
            });
            let (error, took) = refused(&fake).await;
            assert_eq!(error.kind(), ErrorKind::Peer, "{lie:?}: {error}");
            assert!(took < Duration::from_secs(20), "{took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_cut_at_any_byte_never_connects_or_hangs() {
    let mut out = bytes::BytesMut::new();
    milena::protocol::encode_response(
        &mut out,
        API_VERSIONS,
        4,
        0,
        &ResponseKind::ApiVersions(api_versions(0)),
    )
    .unwrap();
    let whole = out.freeze();
    for cut in (1..whole.len()).step_by(7) {
        let bytes = whole.slice(..cut);
        let fake =
            Fake::new(move |_, request| (request.api_key == API_VERSIONS).then(|| Reply::Raw(bytes.clone())));
        let (_, took) = refused(&fake).await;
        assert!(took <= Duration::from_secs(20), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_correlation_id_fails_all_that_wait_and_closes_the_connection() {
    let lie = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&lie);
    let fake = Fake::new(move |_, request| match &request.body {
        RequestBody::Known(RequestKind::Metadata(asked)) if switch.load(Ordering::SeqCst) => {
            Some(Reply::Correlated(
                request.correlation_id + 1,
                ResponseKind::Metadata(metadata(asked, request.version)),
            ))
        }
        _ => None,
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    let before = fake.connections();
    lie.store(true, Ordering::SeqCst);
    let request = MetadataRequest::default();
    let calls = (0..5).map(|_| client.call(Target::Broker(BrokerId(1)), &request));
    for result in futures_util::future::join_all(calls).await {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Peer);
    }
    lie.store(false, Ordering::SeqCst);
    client.call(Target::Broker(BrokerId(1)), &request).await.unwrap();
    assert!(fake.connections() > before, "the poisoned connection was used again");
}

#[tokio::test(start_paused = true)]
async fn an_answer_nobody_asked_for_ends_the_connection() {
    let fake = Fake::new(|_, request| {
        let RequestBody::Known(RequestKind::Metadata(asked)) = &request.body else { return None };
        let mut out = bytes::BytesMut::new();
        let response = ResponseKind::Metadata(metadata(asked, request.version));
        for id in [request.correlation_id, 77] {
            milena::protocol::encode_response(&mut out, METADATA, request.version, id, &response).unwrap();
        }
        Some(Reply::Raw(out.freeze()))
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = fake.connections();
    client.call(Target::Any, &MetadataRequest::default()).await.unwrap();
    assert_eq!(fake.connections(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn silence_after_a_good_start_is_a_timeout_of_the_call_and_the_next_call_works() {
    let silent = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&silent);
    let fake = Fake::new(move |_, request| {
        (request.api_key == METADATA && switch.load(Ordering::SeqCst)).then_some(Reply::Silence)
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    silent.store(true, Ordering::SeqCst);
    let since = Instant::now();
    let error = client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.maybe_applied() && error.is_retriable());
    let line = error.to_string();
    for part in ["Metadata", "broker 1 at fake:1", "no answer within 5s", "check that the broker"] {
        assert!(line.contains(part), "{line:?} lacks {part:?}");
    }
    assert_eq!(since.elapsed().as_secs(), 5);
    silent.store(false, Ordering::SeqCst);
    client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_with_retries_ends_in_its_time_when_the_broker_goes_silent() {
    let silent = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&silent);
    let fake = Fake::new(move |_, _| switch.load(Ordering::SeqCst).then_some(Reply::Silence));
    let client = Client::connect(quick(&fake)).await.unwrap();
    silent.store(true, Ordering::SeqCst);
    let since = Instant::now();
    assert!(client.metadata(None).await.is_err());
    assert!(since.elapsed() <= Duration::from_secs(21), "{:?}", since.elapsed());
    let since = Instant::now();
    assert!(client.group("g").fetch(None, false).await.is_err());
    assert!(since.elapsed() <= Duration::from_secs(21), "{:?}", since.elapsed());
    let since = Instant::now();
    assert!(client.transactions().fence("t", Duration::from_secs(1)).await.is_err());
    assert!(since.elapsed() <= Duration::from_secs(21), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn many_calls_share_a_connection_and_each_gets_its_own_answer() {
    let fake = Fake::new(|_, _| None);
    let client = Client::connect(quick(&fake)).await.unwrap();
    let before = fake.connections();
    let calls = (0..200).map(|at| {
        let client = client.clone();
        async move {
            let name = format!("topic-{at}");
            let wanted = milena::protocol::messages::metadata_request::MetadataRequestTopic::default()
                .with_name(Some(milena::protocol::TopicName(text(&name))));
            let request = MetadataRequest::default().with_topics(Some(vec![wanted]));
            let response = client.call(Target::Broker(BrokerId(1)), &request).await.unwrap();
            assert_eq!(response.topics[0].name.as_ref().unwrap().as_str(), name);
        }
    });
    futures_util::future::join_all(calls).await;
    assert!(fake.connections() <= before + 1);
}

/// Polls a future `polls` times, letting everything else run in between, then drops it.
async fn drop_after<F: Future>(future: F, polls: usize) -> bool {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        let done =
            std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        if done {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_await_leaves_the_connection_good() {
    let fake = Fake::new(|_, _| None);
    let client = Client::connect(quick(&fake)).await.unwrap();
    client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.unwrap();
    let before = fake.connections();
    let mut finished = 0;
    for polls in 1..20 {
        let request = MetadataRequest::default();
        finished += usize::from(drop_after(client.call(Target::Broker(BrokerId(1)), &request), polls).await);
        client.call(Target::Broker(BrokerId(1)), &request).await.unwrap();
        finished += usize::from(drop_after(client.metadata(Some(&["t"])), polls).await);
        client.metadata(Some(&["t"])).await.unwrap();
    }
    assert!(finished > 0, "the calls were never polled to their end");
    assert_eq!(fake.connections(), before, "a dropped call cost the connection");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_refuses_the_newest_api_versions_is_asked_in_its_own_version() {
    let versions = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&versions);
    let fake = Fake::new(move |_, request| {
        if request.api_key != API_VERSIONS {
            return None;
        }
        log.lock().unwrap().push(request.version);
        if request.version <= 1 {
            return None;
        }
        let mut refusal = api_versions(35);
        for api in &mut refusal.api_keys {
            if api.api_key == API_VERSIONS {
                api.max_version = 1;
            }
        }
        Some(Reply::Answer(ResponseKind::ApiVersions(refusal)))
    });
    Client::connect(quick(&fake)).await.unwrap();
    assert_eq!(versions.lock().unwrap()[..2], [4, 1]);
}

/// Old brokers in a fake: what they do with ApiVersions, how often they were asked it, and whether they became new ones.
#[derive(Clone, Default)]
struct Old {
    asked: Arc<AtomicUsize>,
    upgraded: Arc<AtomicBool>,
}

impl Old {
    fn fake(&self, silent: bool) -> Fake {
        let old = self.clone();
        Fake::new(move |_, request| {
            if old.upgraded.load(Ordering::SeqCst) {
                // As Kafka 4: it closes the connection on what it does not speak any more.
                return (request.api_key != API_VERSIONS && request.version == 0).then_some(Reply::Close);
            }
            match request.api_key {
                API_VERSIONS => {
                    old.asked.fetch_add(1, Ordering::SeqCst);
                    Some(if silent { Reply::Silence } else { Reply::Close })
                }
                _ => {
                    assert!([(METADATA, 0), (LIST_OFFSETS, 0)].contains(&(request.api_key, request.version)));
                    None
                }
            }
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn brokers_before_api_versions_are_assumed_by_how_they_fail() {
    for silent in [false, true] {
        let client = Client::connect(quick(&Old::default().fake(silent))).await.unwrap();
        let versions = client.versions(BrokerId(1)).await.unwrap();
        assert_eq!((versions.range(API_VERSIONS), versions.range(11).is_some()), (None, silent));
        let error = client.transactions().end(&prepared(), true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_broker_is_found_out_once_whatever_the_number_of_connections() {
    for silent in [false, true] {
        let old = Old::default();
        let fake = old.fake(silent);
        let client = Client::connect(quick(&fake)).await.unwrap();
        let asked = old.asked();
        assert_eq!(asked, if silent { 1 } else { 2 });
        let since = Instant::now();
        let purposes = [Purpose::Fetch, Purpose::Produce, Purpose::Coordination, Purpose::Other];
        let calls = purposes.map(|purpose| {
            let options = CallOptions { purpose: Some(purpose), ..CallOptions::default() };
            client.call_with(Target::Broker(BrokerId(1)), options, |_| MetadataRequest::default())
        });
        for call in futures_util::future::join_all(calls).await {
            assert_eq!(call.unwrap().version, 0);
        }
        assert_eq!(old.asked(), asked, "silent: {silent}");
        assert_eq!(since.elapsed(), Duration::ZERO, "the paused clock moves when somebody waits");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_broker_that_became_a_new_one_is_asked_again() {
    for silent in [false, true] {
        let old = Old::default();
        let mut config = quick(&old.fake(silent));
        config.idle = Duration::from_secs(60);
        let client = Client::connect(config).await.unwrap();
        old.upgraded.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(61)).await;
        client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.unwrap();
        assert!(client.versions(BrokerId(1)).await.unwrap().range(API_VERSIONS).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn what_closes_or_stays_silent_for_every_request_is_no_old_broker() {
    for silent in [false, true] {
        let legacy = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&legacy);
        let fake = Fake::new(move |_, request| {
            assert_ne!(request.api_key, METADATA, "taken for an old broker");
            seen.fetch_add(usize::from(request.api_key == LIST_OFFSETS), Ordering::SeqCst);
            Some(if silent { Reply::Silence } else { Reply::Close })
        });
        let (error, _) = refused(&fake).await;
        assert!(error.to_string().contains("the security protocol that is set"), "{error}");
        assert!(legacy.load(Ordering::SeqCst) > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_was_only_busy_is_not_taken_for_an_old_one() {
    // It answers nothing on the first connections, and everything on those that follow.
    for deaf_until in 1..4 {
        let fake = Fake::new(move |connection, request| {
            assert!(request.api_key != METADATA || request.version > 0, "taken for an old broker");
            (connection < deaf_until).then_some(Reply::Close)
        });
        Client::connect(quick(&fake)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pinned_broker_is_not_asked_and_a_wrong_pin_is_named() {
    let old = Old::default();
    let client = Client::connect(quick(&old.fake(true)).with_broker_version("0.9.0")).await.unwrap();
    assert!(client.versions(BrokerId(1)).await.unwrap().range(11).is_some());
    assert_eq!(old.asked(), 0);
    old.upgraded.store(true, Ordering::SeqCst);
    let error = Client::connect(quick(&old.fake(true)).with_broker_version("0.8.2")).await.unwrap_err();
    assert!(error.to_string().contains("broker_version"), "{error}");
}

fn prepared() -> milena::PreparedTransaction {
    milena::PreparedTransaction {
        transactional_id: "t".to_owned(),
        producer_id: milena::ProducerId(1),
        producer_epoch: milena::ProducerEpoch(1),
        version: milena::TransactionVersion::V2,
        first_offsets: Vec::new(),
        start_time_ms: None,
        timeout: Duration::from_secs(1),
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answered_once_is_never_taken_for_an_old_one() {
    let deaf = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&deaf);
    let fake = Fake::new(move |_, request| {
        assert!(request.api_key != METADATA || request.version > 0, "spoke to a new broker as to an old one");
        switch.load(Ordering::SeqCst).then_some(Reply::Close)
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.unwrap();
    deaf.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.is_err());
    }
    deaf.store(false, Ordering::SeqCst);
    client.call(Target::Broker(BrokerId(1)), &MetadataRequest::default()).await.unwrap();
}

#[tokio::test]
async fn every_dead_bootstrap_address_is_named_with_its_reason() {
    let mut config = ClientConfig::new(["127.0.0.1:1", "no-such-host.invalid:9092"]);
    config.connect_timeout = Duration::from_secs(1);
    let error = Client::connect(config).await.unwrap_err();
    let line = error.to_string();
    for part in ["127.0.0.1:1", "refused", "no-such-host.invalid:9092", "cannot resolve"] {
        assert!(line.contains(part), "{line:?} lacks {part:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_made_again_when_needed() {
    let fake = Fake::new(|_, _| None);
    let mut config = quick(&fake);
    config.idle = Duration::from_secs(60);
    let client = Client::connect(config).await.unwrap();
    let before = fake.connections();
    tokio::time::sleep(Duration::from_secs(61)).await;
    client.call(Target::Any, &MetadataRequest::default()).await.unwrap();
    assert_eq!(fake.connections(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_answers_but_not_for_ever() {
    let silent = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&silent);
    let fake = Fake::new(move |_, _| switch.load(Ordering::SeqCst).then_some(Reply::Silence));
    let client = Client::connect(quick(&fake)).await.unwrap();
    silent.store(true, Ordering::SeqCst);
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(Target::Any, &MetadataRequest::default()).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let since = Instant::now();
    assert_eq!(client.close(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(since.elapsed().as_secs(), 1);
    assert!(call.await.unwrap().is_err());
    assert_eq!(client.metadata(None).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn refreshes_wanted_at_the_same_time_are_one_request() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let fake = Fake::new(move |_, request| {
        count.fetch_add(usize::from(request.api_key == METADATA), Ordering::SeqCst);
        None
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    asked.store(0, Ordering::SeqCst);
    let names: Vec<String> = (0..100).map(|at| format!("t{at}")).collect();
    let topics = futures_util::future::join_all(names.iter().map(|name| client.topic(name))).await;
    assert!(topics.iter().all(|topic| topic.as_ref().unwrap().partition_count() == 2));
    assert!(asked.load(Ordering::SeqCst) <= 3, "{} requests", asked.load(Ordering::SeqCst));
}

fn batch(base: i64, count: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..count {
        builder.push(1, None, Some(b"v"), []).unwrap();
    }
    builder.build(BatchIdentity { base_offset: Offset(base), ..BatchIdentity::default() }).unwrap()
}

/// One fetch of `t`-0 at offset 5 from a broker that answers `response`.
async fn fetch_from(response: impl Fn(&RequestFrame) -> FetchResponse + Send + 'static) -> Fetched {
    let fake = Fake::new(move |_, request| match request.api_key {
        FETCH => Some(Reply::Answer(ResponseKind::Fetch(response(request)))),
        _ => Some(Reply::Answer(ordinary(request))),
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    let from = FetchFrom::new(TopicPartition::new("t", 0), Offset(5));
    client.fetcher().fetch(&[from], &FetchOptions::default()).await.unwrap().remove(0)
}

/// KIP-219: a broker whose quota is used up answers at once, and names no partition at all.
#[tokio::test(start_paused = true)]
async fn an_answer_held_back_by_a_quota_is_not_taken_for_a_broken_one() {
    let fetched = fetch_from(|_| FetchResponse::default().with_throttle_time_ms(700)).await;
    let error = fetched.error.as_ref().unwrap();
    assert!(error.is_retriable(), "{error}");
    assert!(error.to_string().contains("700 ms"), "{error}");
    assert_eq!((fetched.next_offset(), fetched.batches.len()), (Offset(5), 0));
}

fn topic_data(topic: &str, index: i32, records: Bytes) -> FetchResponse {
    let data = PartitionData::default()
        .with_partition_index(index)
        .with_high_watermark(100)
        .with_records(Some(records));
    let topic = FetchableTopicResponse::default().with_topic_id(topic_id(topic)).with_partitions(vec![data]);
    FetchResponse::default().with_responses(vec![topic])
}

#[tokio::test(start_paused = true)]
async fn records_of_the_question_are_taken() {
    let fetched = fetch_from(|_| topic_data("t", 0, [batch(3, 5), batch(8, 2)].concat().into())).await;
    assert!(fetched.error.is_none(), "{:?}", fetched.error);
    let offsets: Vec<i64> = fetched.owned_records().unwrap().iter().map(|record| record.offset.0).collect();
    assert_eq!(offsets, [5, 6, 7, 8, 9]);
    assert_eq!(fetched.next_offset(), Offset(10));
}

#[tokio::test(start_paused = true)]
async fn records_of_another_topic_or_partition_are_refused() {
    for (topic, index) in [("other", 0), ("t", 1)] {
        let fetched = fetch_from(move |_| topic_data(topic, index, batch(5, 1))).await;
        assert_eq!(fetched.error.unwrap().kind(), ErrorKind::Peer);
        assert!(fetched.batches.is_empty());
    }
    let missing = fetch_from(|_| FetchResponse::default()).await;
    assert_eq!(missing.error.unwrap().kind(), ErrorKind::Peer);
    let twice = fetch_from(|_| {
        let mut response = topic_data("t", 0, batch(5, 1));
        response.responses.push(response.responses[0].clone());
        response
    })
    .await;
    assert_eq!(twice.error.unwrap().kind(), ErrorKind::Peer);
}

#[tokio::test(start_paused = true)]
async fn batches_with_impossible_offsets_are_refused_and_what_came_before_is_kept() {
    let backwards = fetch_from(|_| topic_data("t", 0, [batch(5, 3), batch(6, 2)].concat().into())).await;
    assert!(backwards.error.is_none());
    assert_eq!((backwards.batches.len(), backwards.next_offset()), (1, Offset(8)));
    let before = fetch_from(|_| topic_data("t", 0, batch(1, 2))).await;
    assert_eq!(before.error.unwrap().kind(), ErrorKind::Peer);
    let part = fetch_from(|_| topic_data("t", 0, batch(5, 9).slice(..40))).await;
    assert!(part.error.unwrap().to_string().contains("less than one batch"));
    let corrupt = fetch_from(|_| {
        let mut bytes = batch(5, 2).to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        topic_data("t", 0, bytes.into())
    })
    .await;
    assert_eq!(corrupt.error.unwrap().kind(), ErrorKind::Peer);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_took_another_way_is_data_loss() {
    let fetched = fetch_from(|_| {
        let mut response = topic_data("t", 0, Bytes::new());
        response.responses[0].partitions[0].diverging_epoch.epoch = 2;
        response.responses[0].partitions[0].diverging_epoch.end_offset = 4;
        response
    })
    .await;
    assert_eq!(fetched.error.unwrap().kind(), ErrorKind::DataLoss);
}

#[tokio::test(start_paused = true)]
async fn a_leader_error_is_inside_and_refreshes_the_topology() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let fake = Fake::new(move |_, request| match request.api_key {
        FETCH => {
            let mut response = topic_data("t", 0, Bytes::new());
            response.responses[0].partitions[0].error_code = ErrorCode::NOT_LEADER_OR_FOLLOWER.0;
            Some(Reply::Answer(ResponseKind::Fetch(response)))
        }
        METADATA => {
            count.fetch_add(1, Ordering::SeqCst);
            None
        }
        _ => None,
    });
    let client = Client::connect(quick(&fake)).await.unwrap();
    let from = [FetchFrom::new(TopicPartition::new("t", 0), Offset(5))];
    let fetched = client.fetcher().fetch(&from, &FetchOptions::default()).await.unwrap().remove(0);
    assert_eq!(fetched.error.unwrap().code(), Some(ErrorCode::NOT_LEADER_OR_FOLLOWER));
    let before = asked.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_frame_above_the_limit_is_refused_before_it_is_read() {
    let fake = Fake::new(|_, request| {
        (request.api_key == METADATA && request.correlation_id > 1)
            .then(|| Reply::Raw(framed(&vec![0; 70_000])))
    });
    let mut config = quick(&fake);
    config.max_frame = 60_000;
    let client = Client::connect(config).await.unwrap();
    let error = client.call(Target::Any, &MetadataRequest::default()).await;
    let error = match error {
        Ok(_) => client.call(Target::Any, &MetadataRequest::default()).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Peer, "{error}");
    assert!(error.to_string().contains("above the limit"), "{error}");
}
