//! Talks to real brokers in every version of every API they share with milena, and keeps the frames as golden ones.
//!
//! `cargo xtask kafka capture [VERSION..]` runs it: `golden FOLDER VERSION..`. Requests are written, and answers read, by the
//! guard's table of shapes; no encoder or decoder of messages has a part in it.

#![allow(clippy::indexing_slicing, reason = "an index into JSON gives null where there is nothing")]

mod groups;
mod records;
mod session;
mod store;
mod topics;
mod transactions;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use milena_protocol::guard::shape::Message;
use milena_protocol::messages::ApiKey;
use milena_protocol::{BrokerVersions, guard};
use milena_testkit::kafka::{KafkaOptions, Route};
use serde_json::json;

use session::Session;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// What is not asked, and why.
const LEFT_OUT: [(ApiKey, &str); 2] = [
    (ApiKey::DescribeLogDirs, "the answer holds paths of the machine"),
    (ApiKey::UnregisterBroker, "the broker would obey"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("golden FOLDER VERSION..")?;
    let folder = Path::new(&folder);
    let mut store = store::Store::read(folder)?;
    for version in arguments {
        let options = KafkaOptions::from_env()?.version(&version)?.route(Route::Jvm);
        let kafka = options
            .property("num.partitions", topics::PARTITIONS)
            .property("delete.topic.enable", true)
            .property("log.message.timestamp.difference.max.ms", i64::MAX)
            // The records are older than the transactions' markers: no log must end at that gap.
            .property("log.roll.hours", 500_000)
            .start()
            .await?;
        let session = converse(kafka.bootstrap(), &version)?;
        report(&version, &session);
        store.brokers.insert(version.parse()?, session.kept);
    }
    store.write(folder)
}

/// What a person should look at: what was not answered, and what was refused.
fn report(version: &str, session: &Session) {
    let bytes: usize = session.kept.values().map(|kept| kept.request.len() + kept.response.len()).sum();
    println!("Kafka {version}: {} exchanges, {bytes} bytes", session.kept.len());
    println!("  no answer to {:?}", session.unanswered);
    let mut refused: BTreeMap<(String, &BTreeSet<i64>), Vec<i16>> = BTreeMap::new();
    for ((key, version), errors) in session.errors.iter().filter(|(_, errors)| !errors.is_empty()) {
        refused.entry((milena_protocol::api_name(*key).to_string(), errors)).or_default().push(*version);
    }
    for ((name, errors), versions) in refused {
        println!("  {name} {versions:?}: errors {errors:?}");
    }
}

fn converse(address: &str, version: &str) -> Result<Session, Failure> {
    let assumed = match version.split('.').collect::<Vec<_>>()[..] {
        ["0", "8", ..] => Some(BrokerVersions::assumed_without_groups()),
        ["0", "9", ..] => Some(BrokerVersions::assumed_pre_apiversions()),
        _ => None,
    };
    let has_api_versions = assumed.is_none();
    let mut session = Session::open(address, assumed)?;
    if has_api_versions {
        // Versions that the broker lacks as well: it refuses them in words.
        let (first, last) =
            guard::request_message(ApiKey::ApiVersions as i16).map(Message::versions).unwrap_or_default();
        for version in first..=last {
            let body = json!({"client_software_name": "golden", "client_software_version": "1"});
            session.say(ApiKey::ApiVersions as i16, version, &body)?;
        }
    }
    let topic = topics::prepare(&mut session)?;
    transactions::converse(&mut session, &topic)?;
    topics::produce(&mut session, &topic)?;
    groups::converse(&mut session, &topic)?;
    topics::read(&mut session, &topic)?;
    topics::administer(&mut session)?;
    the_rest(&mut session)?;
    Ok(session)
}

/// Asks for nothing, by every API and version that was not used.
fn the_rest(session: &mut Session) -> Result<(), Failure> {
    for key in ApiKey::iter().filter(|key| LEFT_OUT.iter().all(|(left_out, _)| left_out != key)) {
        for version in session.versions(key) {
            if !session.has(key, version) {
                session.say(key as i16, version, &json!({}))?;
            }
        }
    }
    Ok(())
}
