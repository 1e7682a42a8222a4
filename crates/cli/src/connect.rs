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
    let (producer, unknown) = parse_producer(global, &client, &left)?;
    judge(unknown.iter().map(String::as_str), cluster)?;
    Ok((client, producer))
}

/// The settings of a client, of its producer, and of how records are fetched for it: read_committed unless a property says otherwise.
/// Only what concerns fetching is taken of a consumer's settings: where a copy begins and which group it tells is said by the call alone,
/// since a file that is shared with an application may name that one's group.
pub(crate) fn copy_config(
    global: &Global,
    cluster: &Cluster,
) -> anyhow::Result<(ClientConfig, ProducerConfig, ConsumerConfig)> {
    let (client, left) = parse_client(global, cluster)?;
    let (producer, mut unknown) = parse_producer(global, &client, &left)?;
    unknown.retain(|name| !OF_FETCHING.contains(&name.as_str()));
    judge(unknown.iter().map(String::as_str), cluster)?;
    let of_fetching = pairs(&left).filter(|(name, _)| OF_FETCHING.contains(name));
    let all = [("isolation.level", "read_committed")].into_iter().chain(of_fetching);
    let (consumer, _) = ConsumerConfig::from_properties(all).map_err(wrong)?;
    Ok((client, producer, consumer))
}

/// Properties of a consumer that say how records are fetched.
const OF_FETCHING: [&str; 9] = [
    "check.crcs",
    "client.rack",
    "fetch.buffer.bytes",
    "fetch.max.batch.bytes",
    "fetch.max.bytes",
    "fetch.max.wait.ms",
    "fetch.min.bytes",
    "isolation.level",
    "max.partition.fetch.bytes",
];

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

/// The settings of the producer, and the names that are not its own.
fn parse_producer(
    global: &Global,
    client: &ClientConfig,
    left: &Properties,
) -> anyhow::Result<(ProducerConfig, Vec<String>)> {
    let (producer, unknown) = ProducerConfig::from_properties(pairs(left)).map_err(wrong)?;
    // What bounds a command bounds its records too, unless told otherwise.
    let own_limit = left.iter().any(|(key, _)| key == "delivery.timeout.ms");
    let delivery_timeout =
        if own_limit { producer.delivery_timeout } else { global.timeout.max(producer.linger * 2) };
    let request_timeout = client.request_timeout;
    Ok((ProducerConfig { delivery_timeout, request_timeout, ..producer }, unknown))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use milena::{Compression, Isolation, OffsetReset};

    use super::*;
    use crate::args::{Cli, Command};

    /// What a copy with these properties is told.
    fn copy(properties: &[&str]) -> anyhow::Result<(ClientConfig, ProducerConfig, ConsumerConfig)> {
        let call = ["milena", "copy", "-b", "a:1", "--from", "in", "--to", "out"];
        let properties = properties.iter().flat_map(|property| ["-X", property]);
        let cli = Cli::parse_from(call.into_iter().chain(properties));
        let Command::Copy(args) = &cli.command else { panic!("{cli:?}") };
        copy_config(&cli.global, &args.cluster)
    }

    #[test]
    fn a_copy_hands_properties_to_those_whose_they_are() {
        assert_eq!(copy(&[]).unwrap().2.isolation, Isolation::ReadCommitted);
        let (client, producer, consumer) = copy(&[
            "request.timeout.ms=1500",
            "compression.type=zstd",
            "check.crcs=false",
            "client.rack=r",
            "fetch.buffer.bytes=300000",
            "fetch.max.batch.bytes=5000",
            "fetch.max.bytes=8192",
            "fetch.max.wait.ms=70",
            "fetch.min.bytes=2",
            "isolation.level=read_uncommitted",
            "max.partition.fetch.bytes=4096",
            "group.id=of-an-application",
            "auto.offset.reset=earliest",
        ])
        .unwrap();
        assert_eq!(client.request_timeout, Duration::from_millis(1500));
        assert_eq!(producer.compression, Compression::Zstd);
        let expected = ConsumerConfig {
            check_crcs: false,
            rack: Some("r".to_owned()),
            buffer_bytes: 300_000,
            max_batch_bytes: 5000,
            max_bytes: 8192,
            max_wait: Duration::from_millis(70),
            min_bytes: 2,
            isolation: Isolation::ReadUncommitted,
            partition_max_bytes: 4096,
            // Not of the file's: where a copy begins is for the call to say.
            group: None,
            reset: OffsetReset::Latest,
            ..ConsumerConfig::default()
        };
        assert_eq!(consumer, expected);
        let error = copy(&["fetch.max.byte=1"]).unwrap_err().to_string();
        assert!(error.contains("did you mean fetch.max.bytes?"), "{error}");
    }
}
