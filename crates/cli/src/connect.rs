//! From `-b` and `-X` to a connected client.

use anyhow::Context as _;

use milena::{Client, ClientConfig, ProducerConfig};

use crate::args::{Cluster, Global};
use crate::output::Usage;

/// The settings of the client; a property that nobody knows is an error in the call.
pub(crate) fn client_config(global: &Global, cluster: &Cluster) -> anyhow::Result<ClientConfig> {
    let (config, unknown) = parse_client(global, cluster)?;
    refuse_unknown(&unknown)?;
    Ok(config)
}

/// The settings of a client and of its producer.
pub(crate) fn producer_config(
    global: &Global,
    cluster: &Cluster,
) -> anyhow::Result<(ClientConfig, ProducerConfig)> {
    let (client, unknown) = parse_client(global, cluster)?;
    let all = all_properties(cluster)?;
    let rest = all.iter().filter(|(key, _)| unknown.contains(key));
    let (producer, unknown) =
        ProducerConfig::from_properties(rest.map(|(key, value)| (key.as_str(), value.as_str())))
            .map_err(|error| Usage(format!("-X: {error}")))?;
    refuse_unknown(&unknown)?;
    // What bounds a command bounds its records too, unless told otherwise.
    let own_limit = all.iter().any(|(key, _)| key == "delivery.timeout.ms");
    let delivery_timeout =
        if own_limit { producer.delivery_timeout } else { global.timeout.max(producer.linger * 2) };
    Ok((
        client.clone(),
        ProducerConfig { delivery_timeout, request_timeout: client.request_timeout, ..producer },
    ))
}

fn parse_client(global: &Global, cluster: &Cluster) -> anyhow::Result<(ClientConfig, Vec<String>)> {
    let timeout = global.timeout.as_millis().to_string();
    let mut properties = vec![
        ("bootstrap.servers", cluster.bootstrap.as_str()),
        ("client.id", "milena-cli"),
        ("default.api.timeout.ms", timeout.as_str()),
    ];
    let all = all_properties(cluster)?;
    properties.extend(all.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let parsed = ClientConfig::from_properties(properties).map_err(|error| Usage(error.to_string()))?;
    Ok(parsed)
}

fn refuse_unknown(unknown: &[String]) -> anyhow::Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let told = unknown.iter().map(|name| match milena::security::nearest_property(name) {
        Some(near) => format!("{name} (did you mean {near}?)"),
        None => name.clone(),
    });
    Err(Usage(format!("-X: no such property: {}", told.collect::<Vec<_>>().join(", "))).into())
}

/// Those of the file, and those of the call after them.
fn all_properties(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = match &cluster.config {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Usage(format!("cannot read {}: {error}", path.display())))?;
            milena::security::parse_properties(&text)
        }
    };
    // The address of the call is the one that counts.
    all.retain(|(name, _)| name != "bootstrap.servers");
    all.extend(cluster.properties.iter().cloned());
    Ok(all)
}

/// Connects.
pub(crate) async fn client(global: &Global, cluster: &Cluster) -> anyhow::Result<Client> {
    let config = client_config(global, cluster)?;
    Client::connect(config).await.context("cannot connect")
}
