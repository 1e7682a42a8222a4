//! `milena api-versions`.

use milena::protocol::versions::{api_name, supported};
use serde::Serialize;

use crate::args::{ApiVersions, Format, Global};
use crate::commands::topics::fail_if_any;
use crate::connect;
use crate::output::{self, Table};

#[derive(Serialize)]
struct BrokerLine {
    broker: i32,
    host: String,
    port: u16,
    /// Whether the broker said so itself.
    source: Source,
    apis: Vec<ApiLine>,
}

/// Where versions come from.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// The broker was asked.
    Broker,
    /// The broker cannot be asked: it is older than 0.10.
    Assumed,
    /// The user said so, with `broker.version.fallback`.
    Pinned,
}

#[derive(Serialize)]
struct ApiLine {
    key: i16,
    name: &'static str,
    min: i16,
    max: i16,
    milena_min: Option<i16>,
    milena_max: Option<i16>,
}

/// The key of the API by which brokers tell.
const API_VERSIONS: i16 = 18;

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &ApiVersions) -> anyhow::Result<()> {
    let client = connect::client(global, &args.cluster).await?;
    let cluster = client.cluster();
    let mut brokers = Vec::new();
    let mut failed = Vec::new();
    for broker in cluster.brokers() {
        let versions = match client.versions(broker.id).await {
            Ok(versions) => versions,
            Err(error) => {
                failed.push(error.to_string());
                continue;
            }
        };
        let apis = versions
            .iter()
            .map(|(key, range)| ApiLine {
                key,
                name: api_name(key),
                min: range.min,
                max: range.max,
                milena_min: supported(key).map(|range| range.min),
                milena_max: supported(key).map(|range| range.max),
            })
            .collect();
        brokers.push(BrokerLine {
            broker: broker.id.0,
            host: broker.host.to_string(),
            port: broker.port,
            source: if client.config().broker_version.is_some() {
                Source::Pinned
            } else if versions.range(API_VERSIONS).is_none() {
                Source::Assumed
            } else {
                Source::Broker
            },
            apis,
        });
    }
    if global.format == Format::Json {
        output::json(&brokers)?;
    } else {
        print(&brokers)?;
    }
    fail_if_any(&failed)
}

fn print(brokers: &[BrokerLine]) -> anyhow::Result<()> {
    for broker in brokers {
        let note = match broker.source {
            Source::Broker => "",
            Source::Assumed => ": it cannot tell (Kafka before 0.10), so these versions are assumed",
            Source::Pinned => ": not asked, these versions are those of broker.version.fallback",
        };
        let (id, host, port) = (broker.broker, &broker.host, broker.port);
        output::print(format!("broker {id} at {host}:{port}{note}\n").as_bytes())?;
        let mut table = Table::new(&["KEY", "API", "BROKER", "MILENA"]);
        for api in &broker.apis {
            let ours = match (api.milena_min, api.milena_max) {
                (Some(min), Some(max)) => format!("{min}-{max}"),
                _ => "-".to_owned(),
            };
            table.row([api.key.to_string(), api.name.to_owned(), format!("{}-{}", api.min, api.max), ours]);
        }
        table.print()?;
    }
    Ok(())
}
