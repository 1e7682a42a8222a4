//! `milena topics`.

use milena::{NewTopic, TopicDescription};
use serde::Serialize;

use crate::args::{Format, Global, TopicsAction};
use crate::connect;
use crate::output::{self, Table};

/// Runs the command.
pub(crate) async fn run(global: &Global, action: TopicsAction) -> anyhow::Result<()> {
    match action {
        TopicsAction::List { cluster, internal } => {
            let admin = connect::client(global, &cluster).await?.admin();
            let mut topics = admin.list_topics().await?;
            topics.retain(|topic| internal || !topic.internal);
            topics.sort_by(|a, b| a.name.cmp(&b.name));
            match global.format {
                Format::Json => output::json(&topics.iter().map(|topic| &topic.name).collect::<Vec<_>>()),
                Format::Text => {
                    let lines: String = topics.iter().map(|topic| format!("{}\n", topic.name)).collect();
                    output::print(lines.as_bytes())
                }
            }
        }
        TopicsAction::Describe { cluster, topics } => {
            let admin = connect::client(global, &cluster).await?.admin();
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            describe(global, admin.describe_topics(&names).await?)
        }
        TopicsAction::Create { cluster, topics, partitions, replication, configs } => {
            let admin = connect::client(global, &cluster).await?.admin();
            let new: Vec<NewTopic> = topics
                .into_iter()
                .map(|name| NewTopic {
                    name,
                    partitions: partitions.unwrap_or(-1),
                    replication: replication.unwrap_or(-1),
                    configs: configs.clone(),
                })
                .collect();
            report(global, "created", admin.create_topics(&new, global.timeout / 2).await?)
        }
        TopicsAction::Delete { cluster, topics } => {
            let admin = connect::client(global, &cluster).await?.admin();
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            report(global, "deleted", admin.delete_topics(&names).await?)
        }
    }
}

#[derive(Serialize)]
struct Described {
    topic: String,
    id: Option<String>,
    internal: bool,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize)]
struct DescribedPartition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: Option<i32>,
    replicas: Vec<i32>,
    isr: Vec<i32>,
}

fn describe(global: &Global, topics: Vec<(String, milena::Result<TopicDescription>)>) -> anyhow::Result<()> {
    let mut described = Vec::new();
    let mut failed = Vec::new();
    for (topic, description) in topics {
        match description {
            Err(error) => failed.push(about(&topic, &error)),
            Ok(description) => described.push(Described {
                topic,
                id: description.id.map(|id| id.to_string()),
                internal: description.internal,
                partitions: description
                    .partitions
                    .iter()
                    .map(|partition| DescribedPartition {
                        partition: partition.id.0,
                        leader: partition.leader.map(|leader| leader.0),
                        leader_epoch: partition.leader_epoch.map(|epoch| epoch.0),
                        replicas: partition.replicas.iter().map(|id| id.0).collect(),
                        isr: partition.isr.iter().map(|id| id.0).collect(),
                    })
                    .collect(),
            }),
        }
    }
    match global.format {
        Format::Json => output::json(&described)?,
        Format::Text => {
            let mut table = Table::new(&["TOPIC", "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR"]);
            for topic in &described {
                for partition in &topic.partitions {
                    table.row([
                        topic.topic.clone(),
                        partition.partition.to_string(),
                        optional(partition.leader),
                        optional(partition.leader_epoch),
                        list(&partition.replicas),
                        list(&partition.isr),
                    ]);
                }
            }
            table.print()?;
        }
    }
    fail_if_any(&failed)
}

fn report(global: &Global, verb: &str, results: Vec<(String, milena::Result<()>)>) -> anyhow::Result<()> {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for (topic, result) in results {
        match result {
            Ok(()) => done.push(topic),
            Err(error) => failed.push(about(&topic, &error)),
        }
    }
    match global.format {
        Format::Json => output::json(&serde_json::json!({ verb: done }))?,
        Format::Text => {
            let lines: String = done.iter().map(|topic| format!("{verb} {topic}\n")).collect();
            output::print(lines.as_bytes())?;
        }
    }
    fail_if_any(&failed)
}

/// The error, with the topic's name if it does not have it already.
fn about(topic: &str, error: &milena::Error) -> String {
    if error.topic() == Some(topic) { error.to_string() } else { format!("{topic}: {error}") }
}

/// Fails with all of these messages, if there are any.
pub(crate) fn fail_if_any(failed: &[String]) -> anyhow::Result<()> {
    if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{}", failed.join("\n        "))) }
}

fn optional(id: Option<i32>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

fn list(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}
