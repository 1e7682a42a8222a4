//! From `-b`, `-F` and `-X` to a connected client.

use anyhow::Context as _;

use milena::security::{is_known_property, nearest_property};
use milena::{Client, ClientConfig, ConsumerConfig, ProducerConfig};

use crate::args::{Cluster, Global};
use crate::output::Usage;

/// The settings of the client.
pub(crate) fn client_config(global: &Global, cluster: &Cluster) -> anyhow::Result<ClientConfig> {
    let (config, left) = parse_client(global, cluster)?;
    judge(left.iter().map(|(name, _)| name.as_str()), cluster)?;
    Ok(config)
}

/// The settings of a client and of its producer.
pub(crate) fn producer_config(
    global: &Global,
    cluster: &Cluster,
) -> anyhow::Result<(ClientConfig, ProducerConfig)> {
    let (client, left) = parse_client(global, cluster)?;
    let (producer, unknown) = ProducerConfig::from_properties(pairs(&left)).map_err(wrong)?;
    judge(unknown.iter().map(String::as_str), cluster)?;
    // What bounds a command bounds its records too, unless told otherwise.
    let own_limit = left.iter().any(|(key, _)| key == "delivery.timeout.ms");
    let delivery_timeout =
        if own_limit { producer.delivery_timeout } else { global.timeout.max(producer.linger * 2) };
    Ok((
        client.clone(),
        ProducerConfig { delivery_timeout, request_timeout: client.request_timeout, ..producer },
    ))
}

/// The settings of a client and of its consumer; those that are not set are as in `default`.
pub(crate) fn consumer_config(
    global: &Global,
    cluster: &Cluster,
    default: &[(&str, &str)],
) -> anyhow::Result<(ClientConfig, ConsumerConfig)> {
    let (client, left) = parse_client(global, cluster)?;
    let all = default.iter().copied().chain(pairs(&left));
    let (consumer, unknown) = ConsumerConfig::from_properties(all).map_err(wrong)?;
    judge(unknown.iter().map(String::as_str), cluster)?;
    Ok((client, consumer))
}

type Properties = Vec<(String, String)>;

fn pairs(properties: &Properties) -> impl Iterator<Item = (&str, &str)> {
    properties.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

fn wrong(error: milena::Error) -> Usage {
    Usage(error.to_string())
}

/// The settings of the client, and the properties that are not its own.
fn parse_client(global: &Global, cluster: &Cluster) -> anyhow::Result<(ClientConfig, Properties)> {
    let timeout = global.timeout.as_millis().to_string();
    let mut properties = vec![
        ("bootstrap.servers", cluster.bootstrap.as_str()),
        ("client.id", "milena-cli"),
        ("default.api.timeout.ms", timeout.as_str()),
    ];
    let mut all = all_properties(cluster)?;
    properties.extend(pairs(&all));
    let (config, unknown) = ClientConfig::from_properties(properties).map_err(wrong)?;
    all.retain(|(name, _)| unknown.contains(name));
    Ok((config, all))
}

/// What becomes of properties that this command has no use for. One file serves all programs of a cluster, as with Kafka's own tools: what
/// belongs to others is passed over, and what nobody knows is warned of. But a name that is nearly that of a setting is a mistake, and so is
/// whatever the call names in vain.
fn judge<'a>(unused: impl IntoIterator<Item = &'a str>, cluster: &Cluster) -> anyhow::Result<()> {
    let mut mistakes = Vec::new();
    for name in unused {
        let is_of_call = cluster.properties.iter().any(|(known, _)| known == name);
        match (is_known_property(name), nearest_property(name)) {
            (true, _) if is_of_call => {
                tracing::warn!(property = name, "this command has no use for this property");
            }
            (true, _) => {}
            (false, Some(near)) => mistakes.push(format!("{name} (did you mean {near}?)")),
            (false, None) if is_of_call => mistakes.push(name.to_owned()),
            (false, None) => tracing::warn!(property = name, "there is no such property; it is passed over"),
        }
    }
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(Usage(format!("no such property: {}", mistakes.join(", "))).into()),
    }
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
