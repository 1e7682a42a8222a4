//! The conformance suite, on the crate's own runtime and on a minimal host that is written against the contract alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod minimal_host;

use std::time::Duration;

use milena::ClientConfig;
use milena_connector::conformance::{Embedded, Host, Life, Lived, Suite};
use milena_connector::contract::{Sink, Source};
use milena_connector::runtime::Chain;
use milena_connector::schema::OwnedKafkaRecord;
use milena_testkit::broker::BrokerConfig;
use milena_testkit::kafka::{Kafka, or_skip};
use milena_testkit::listen::EmbeddedBroker;
use minimal_host::{Flaw, Minimal};

const CASES: usize = 10;

async fn broker() -> EmbeddedBroker {
    let config = BrokerConfig { auto_create_topics: false, ..BrokerConfig::default() };
    EmbeddedBroker::start(config).await.unwrap()
}

fn suite(broker: &EmbeddedBroker, name: &str) -> Suite {
    let mut client = ClientConfig::new([broker.bootstrap()]);
    client.api_timeout = Duration::from_secs(20);
    Suite::new(client, name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_runtime_keeps_the_contract() {
    let broker = broker().await;
    assert_eq!(suite(&broker, "own").run(&Embedded).await.unwrap().len(), CASES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_written_against_the_contract_alone_keeps_it() {
    let broker = broker().await;
    assert_eq!(suite(&broker, "minimal").run(&Minimal::default()).await.unwrap().len(), CASES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_hosts_keep_it_on_a_real_broker() {
    let Some(kafka) = or_skip(Kafka::obtain().await) else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let name = format!("conformance{}x{}", std::process::id(), now.as_nanos() % 1_000_000_000);
    let suite =
        |host| Suite::new(ClientConfig::new([kafka.bootstrap()]), format!("{name}-{host}")).records(400);
    assert_eq!(suite("own").run(&Embedded).await.unwrap().len(), CASES);
    assert_eq!(suite("minimal").run(&Minimal::default()).await.unwrap().len(), CASES);
}

/// Hosts that break a rule of the contract each: the suite must notice every one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_rule_is_noticed() {
    let broker = broker().await;
    for (number, flaw) in Flaw::ALL.into_iter().enumerate() {
        let host = Minimal { flaw: Some(flaw) };
        let failure =
            suite(&broker, &format!("flaw-{number}")).patience(Duration::from_secs(5)).run(&host).await;
        let failure = failure.expect_err(&format!("{flaw:?} is not noticed"));
        println!("{flaw:?}: {failure}");
    }
}

/// A host that does nothing at all.
#[tokio::test]
async fn a_host_that_does_nothing_is_noticed() {
    struct Idle;
    impl Host for Idle {
        async fn live<S, C, K>(&self, _: Life<S, C, K>) -> milena_connector::Result<Lived>
        where
            S: Source<Element = OwnedKafkaRecord>,
            C: Chain<OwnedKafkaRecord, Out = OwnedKafkaRecord>,
            K: Sink<OwnedKafkaRecord>,
        {
            Ok(Lived::default())
        }
    }
    let broker = broker().await;
    assert_eq!(suite(&broker, "idle").run(&Idle).await.unwrap_err().case, "a bounded job");
}
