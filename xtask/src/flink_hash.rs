//! Which subtask reads which partition: what Flink's own classes say, kept as vectors of the connector's test.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bench::flink::{compiled, java};
use crate::command::{Scratch, output, root};
use crate::jars;

/// Where the vectors are kept.
const VECTORS: &str = "crates/connector/src/source/flink_owners.tsv";

/// Topics whose hashes are of every kind: negative, the least, equal for different names, beyond ASCII, of long names.
const TOPICS: [&str; 24] = [
    "a",
    "A",
    "0",
    "_",
    "test-topic",
    "topic-1",
    "topic-2",
    "topic-3",
    "orders.v1",
    "orders.v2",
    "payments",
    "flink-kafka",
    "clicks_raw",
    "__consumer_offsets",
    "AaAa",
    "BBBB",
    "AaBB",
    "polygenelubricants",
    "GydZG_",
    "DESIGNING WORKHOUSES",
    "主题",
    "😀",
    "große-Wörter",
    "prod.eu-central-1.customer.orders.v3.created",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if the file is another.
    #[arg(long)]
    check: bool,
}

/// Asks both classes and writes what they agree on.
pub(crate) fn run(args: &Args) -> Result<()> {
    let scratch = Scratch::new("flink-hash")?;
    let topics = scratch.path().join("topics");
    let long = "long-".repeat(49);
    let text: String = TOPICS.iter().chain([&long.as_str()]).map(|topic| format!("{topic}\n")).collect();
    std::fs::write(&topics, text).with_context(|| topics.display().to_string())?;
    let mut path = compiled("Owners")?;
    let source = ask(java(&path, "Owners"), "source", &topics)?;
    path.push(":");
    path.push(jars::fetch_flink_classic()?.join("*"));
    let classic = ask(java(&path, "Owners"), "classic", &topics)?;
    ensure!(source == classic, "the two classes of Flink do not agree");
    let vectors = format!(
        "# Owners of the partitions named in the next line: KafkaSourceEnumerator of flink-connector-kafka {} and \
         KafkaTopicPartitionAssigner of {} say the same. Made by `cargo xtask flink-hash`.\n{source}",
        jars::FLINK_CONNECTOR,
        jars::FLINK_CLASSIC
    );
    let file = root().join(VECTORS);
    if args.check {
        let kept = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(kept == vectors, "{VECTORS} is not what Flink says: run `cargo xtask flink-hash`");
        println!("{VECTORS} is what Flink says");
        return Ok(());
    }
    std::fs::write(&file, vectors).with_context(|| file.display().to_string())?;
    println!("wrote {}", file.display());
    Ok(())
}

fn ask(mut command: Command, class: &str, topics: &Path) -> Result<String> {
    output(command.arg(class).arg(topics))
}
