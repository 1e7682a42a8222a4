//! The broker properties that tests run with, and free ports for them.

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{KafkaError, KafkaErrorKind};

/// The cluster id that every test broker is formatted with.
pub(crate) const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qk";

/// Broker properties in order; a later entry for the same name wins.
pub(crate) type Properties = Vec<(String, String)>;

/// What every test broker gets: internal topics that fit `nodes` brokers and stay small, no wait for group members
/// that never come, quick discovery of dead brokers, quick deletion of dropped segments,
/// deletion of topics, which brokers before 1.0 refuse by default: they then let the request's time pass without a word,
/// and a retention that spares records of long ago, which brokers look for half a minute after their start and every five minutes.
pub(crate) fn common(nodes: usize) -> Properties {
    let replicas = nodes.min(3).to_string();
    let in_sync = if nodes >= 3 { "2" } else { "1" };
    let pairs = [
        ("offsets.topic.replication.factor", replicas.as_str()),
        ("transaction.state.log.replication.factor", &replicas),
        ("transaction.state.log.min.isr", in_sync),
        ("share.coordinator.state.topic.replication.factor", &replicas),
        ("share.coordinator.state.topic.min.isr", in_sync),
        ("default.replication.factor", &replicas),
        ("min.insync.replicas", in_sync),
        ("offsets.topic.num.partitions", "5"),
        ("transaction.state.log.num.partitions", "5"),
        ("num.partitions", "4"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("log.segment.delete.delay.ms", "1000"),
        // A century: not every release takes -1.
        ("log.retention.hours", "876000"),
        ("delete.topic.enable", "true"),
        ("broker.session.timeout.ms", "2000"),
        ("broker.heartbeat.interval.ms", "300"),
    ];
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The text of a properties file. Backslashes are the only character of values that the format would eat.
pub(crate) fn to_file(properties: &Properties) -> String {
    let lines = properties.iter().map(|(name, value)| format!("{name}={}\n", value.replace('\\', "\\\\")));
    lines.collect()
}

/// The name of the environment variable by which the container image takes a property.
#[cfg(feature = "containers")]
pub(crate) fn to_variable(property: &str) -> String {
    property.chars().fold(String::from("KAFKA_"), |mut name, character| {
        match character {
            '.' => name.push('_'),
            '_' => name.push_str("__"),
            '-' => name.push_str("___"),
            other => name.extend(other.to_uppercase()),
        }
        name
    })
}

/// A TCP port on 127.0.0.1 that nobody listens on.
///
/// It lies below the range from which the kernel serves outgoing connections: a port from that range may be taken by
/// any client while a killed broker is down, and the broker could not come back.
pub(crate) fn free_port() -> Result<u16, KafkaError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // One start for the process: a stride that is prime to the range then gives each port only once.
    static START: LazyLock<u32> = LazyLock::new(|| {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        clock.wrapping_mul(31).wrapping_add(std::process::id().wrapping_mul(7919)) % 10_000
    });
    for _ in 0..500 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        let offset = (*START + step * 617) % 10_000;
        let port = u16::try_from(22_000 + offset).unwrap_or(22_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(KafkaError::new(KafkaErrorKind::System, "no free TCP port between 22000 and 32000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_free() {
        let ports: Vec<u16> = (0..500).map(|_| free_port().unwrap()).collect();
        let mut unique = ports.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), ports.len());
        for port in ports {
            assert!((22_000..32_000).contains(&port));
            TcpListener::bind(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn one_node_never_waits_for_a_second_replica() {
        for (name, value) in common(1) {
            if name.ends_with("replication.factor")
                || name.ends_with("isr")
                || name.ends_with("insync.replicas")
            {
                assert_eq!(value, "1", "{name}");
            }
        }
    }

    #[cfg(feature = "containers")]
    #[test]
    fn variables_are_named_as_the_image_reads_them() {
        assert_eq!(to_variable("log.segment.delete.delay.ms"), "KAFKA_LOG_SEGMENT_DELETE_DELAY_MS");
        assert_eq!(to_variable("a_b-c.d"), "KAFKA_A__B___C_D");
    }
}
