//! A real broker that lets clients in by Kerberos: every way of logging in, what is refused, and tickets that run out under load.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use milena::sasl::{Enctype, KerberosConfig, KerberosOptions, TicketOptions};
use milena::{Client, ClientConfig, ErrorKind, Isolation, ProducerConfig, ProducerRecord, TopicPartition};
use milena_connector::runtime::{Job, JobControl};
use milena_connector::schema::RecordDeserializer;
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{KafkaSource, StopAt};
use milena_testkit::kafka::{GuardedKafka, KafkaVersion};
use milena_tests::jobs::{copy, job_config, run};
use milena_tests::kerberos::{self, config, configured, keytab_of};
use milena_tests::load::goes_on;
use milena_tests::records::{read, values, within, write, write_values};
use milena_tests::{create_topic, unique};
use tokio::sync::OnceCell;

/// The broker that the tests of this file share.
async fn guarded() -> Option<&'static GuardedKafka> {
    static SHARED: OnceCell<Option<GuardedKafka>> = OnceCell::const_new();
    SHARED.get_or_init(kerberos::guarded).await.as_ref()
}

/// Produces and consumes with this configuration.
async fn round_trip(config: ClientConfig, what: &str) {
    let client =
        within(what, Client::connect(config)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let topic = unique("kerberos");
    create_topic(&client, &topic, 1).await;
    write_values(&client, &topic, 0, &["a", "b", "c"]).await;
    assert_eq!(values(&client, &topic, 0, Isolation::ReadUncommitted).await, ["a", "b", "c"], "{what}");
}

// scenario: D56
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keytab_ticket_cache_and_password_let_a_client_in() {
    let Some(guarded) = guarded().await else { return };
    round_trip(config(guarded, keytab_of(guarded, "alice")), "keytab").await;
    let cache = guarded.kdc().kinit(guarded.keytab(), "alice", &[], "alice.cache").await.unwrap();
    let cache = KerberosOptions::with_ticket_cache(Some(format!("FILE:{}", cache.display())));
    round_trip(config(guarded, configured(guarded.kdc(), cache)), "ticket cache").await;
    let password = KerberosOptions::with_password("alice", "secret");
    round_trip(config(guarded, configured(guarded.kdc(), password)), "password").await;
}

/// A job of large records, exactly once, with its credentials for source, sink and coordinator.
// scenario: 5.1.29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_copies_large_records_by_kerberos() {
    const LARGE: usize = 900_000;
    let Some(guarded) = guarded().await else { return };
    let config = config(guarded, keytab_of(guarded, "alice"));
    let client = within("connecting", Client::connect(config.clone())).await.unwrap();
    let (input, output) = (unique("large"), unique("large"));
    for topic in [&input, &output] {
        create_topic(&client, topic, 1).await;
    }
    let sent: Vec<Vec<u8>> = (0..12_u8).map(|number| vec![number; LARGE]).collect();
    let producer = ProducerConfig { max_request_size: 1_000_000, ..ProducerConfig::default() };
    let all = sent.iter().map(|value| ProducerRecord::to(&input).partition(0).value(value));
    write(&client, producer.clone(), all).await;
    let source = KafkaSource::builder().client(config.clone()).topics([&input]).bounded(StopAt::Latest);
    let source = source.deserializer(RecordDeserializer::new()).build().unwrap();
    let sink = KafkaSink::builder().client(config).producer(producer).delivery(Delivery::ExactlyOnce);
    let sink = sink.transactional_id_prefix(unique("kerberos")).serializer(copy(&output)).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let job = job_config(dir.path(), 1, Duration::from_millis(500));
    run(Job::from_source(source).to(sink), job, JobControl::new()).await.unwrap();
    let seen = read(&client, &TopicPartition::new(output.as_str(), 0), Isolation::ReadCommitted).await;
    let seen: Vec<&[u8]> = seen.iter().map(|record| record.value.as_deref().unwrap()).collect();
    assert!(seen == sent, "{} records", seen.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_encryption_type_is_spoken_with_the_broker() {
    let Some(guarded) = guarded().await else { return };
    for enctype in Enctype::DEFAULT {
        let mut realms = KerberosConfig::default();
        realms.default_realm = Some(guarded.kdc().realm().to_owned());
        realms.tickets = TicketOptions { enctypes: vec![enctype], ..TicketOptions::default() };
        realms.add_realm(guarded.kdc().realm(), &[&guarded.kdc().address()]).unwrap();
        let options = KerberosOptions { config: Some(realms), ..keytab_of(guarded, "alice") };
        round_trip(config(guarded, options), enctype.name()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_and_the_kdc_refuse_is_said_at_once() {
    let Some(guarded) = guarded().await else { return };
    let refused = async |options: KerberosOptions| {
        let began = Instant::now();
        let error = within("the refusal", Client::connect(config(guarded, options))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(began.elapsed() < Duration::from_secs(40), "{error}");
        error.to_string()
    };
    let text = refused(keytab_of(guarded, "nobody")).await;
    assert!(text.contains("no key of nobody@TEST.MILENA; it has alice@TEST.MILENA (kvno"), "{text}");
    let text = refused(configured(guarded.kdc(), KerberosOptions::with_password("alice", "wrong"))).await;
    assert!(
        text.contains("key or password of alice@TEST.MILENA is wrong") && !text.contains("secret"),
        "{text}"
    );
    let service = KerberosOptions { service_name: "bus".to_owned(), ..keytab_of(guarded, "alice") };
    let text = refused(service).await;
    assert!(text.contains("does not know the service bus/localhost@TEST.MILENA"), "{text}");
    // The KDC gives a ticket for another service of that host, with which the broker can do nothing.
    guarded.kdc().add_principal("other/localhost", None).await.unwrap();
    let service = KerberosOptions { service_name: "other".to_owned(), ..keytab_of(guarded, "alice") };
    refused(service).await;
}

/// The broker ends a session after 4 s (from 2.2 on), tickets end after 6 s and 10 s: the one is replaced by a new log-in, the other by a
/// renewal, twice at least.
// scenario: D56
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_of_seconds_are_replaced_under_load_and_no_request_fails() {
    const LASTS: Duration = Duration::from_secs(22);
    let Some(guarded) = guarded().await else { return };
    let logging_in = keytab_of(guarded, "brief");
    let cache = guarded.kdc().kinit(guarded.keytab(), "alice", &["-l", "10s", "-r", "1h"], "brief.cache");
    let cache = KerberosOptions::with_ticket_cache(Some(format!("FILE:{}", cache.await.unwrap().display())));
    let renewing = configured(guarded.kdc(), cache);
    let before = guarded.kdc().requests().len();
    tokio::join!(
        goes_on("log-ins", config(guarded, logging_in), LASTS),
        goes_on("renewals", config(guarded, renewing), LASTS),
    );
    let requests = &guarded.kdc().requests()[before..];
    // A connection that nobody ends asks for one ticket only.
    let ends = guarded.kafka().version().parse::<KafkaVersion>().unwrap() >= "2.2.0".parse().unwrap();
    for (kind, of, least) in [
        ("AS_REQ", "brief@TEST.MILENA for krbtgt/", 2),
        ("TGS_REQ", "brief@TEST.MILENA for kafka/localhost@", if ends { 2 } else { 1 }),
        ("TGS_REQ", "alice@TEST.MILENA for krbtgt/", 2),
        ("TGS_REQ", "alice@TEST.MILENA for kafka/localhost@", if ends { 2 } else { 1 }),
    ] {
        let count = requests.iter().filter(|line| line.contains(kind) && line.contains(of)).count();
        println!("{kind} of {of}: {count}");
        assert!(count >= least, "{kind} of {of}: {count} in {requests:#?}");
    }
}
