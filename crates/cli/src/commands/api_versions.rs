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
    apis: Vec<ApiLine>,
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
        output::print(format!("broker {} at {}:{}\n", broker.broker, broker.host, broker.port).as_bytes())?;
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
