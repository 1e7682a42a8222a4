//! `milena offsets`.

use std::collections::HashMap;

use anyhow::Context as _;

use milena::{Client, Isolation, Offset, OffsetSpec, PartitionId, TopicPartition};
use serde::Serialize;

use crate::args::{Format, Global, Offsets};
use crate::connect;
use crate::offset::timestamp;
use crate::output::{self, Table, Usage};

#[derive(Serialize)]
struct Line {
    topic: String,
    partition: i32,
    earliest: Option<i64>,
    latest: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<i64>,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Offsets) -> anyhow::Result<()> {
    let at = args.at.as_deref().map(timestamp).transpose().map_err(Usage)?;
    let client = connect::client(global, &args.cluster).await?;
    let partitions = partitions_of(&client, &args.topic, args.partition).await?;
    let isolation = if args.read_committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let earliest = listed(&client, &partitions, OffsetSpec::Earliest, isolation).await?;
    let latest = listed(&client, &partitions, OffsetSpec::Latest, isolation).await?;
    let at = match at {
        Some(time) => Some(listed(&client, &partitions, OffsetSpec::Timestamp(time), isolation).await?),
        None => None,
    };
    let committed = match &args.group {
        Some(group) => Some(committed(&client, group, &partitions).await?),
        None => None,
    };
    let lines: Vec<Line> = partitions
        .iter()
        .map(|partition| {
            let of =
                |offsets: &HashMap<TopicPartition, Offset>| offsets.get(partition).map(|offset| offset.0);
            let latest = of(&latest);
            let committed = committed.as_ref().and_then(of);
            Line {
                topic: partition.topic.to_string(),
                partition: partition.partition.0,
                earliest: of(&earliest),
                latest,
                at: at.as_ref().and_then(of),
                committed,
                lag: latest.zip(committed).map(|(latest, committed)| (latest - committed).max(0)),
            }
        })
        .collect();
    print(global, args, &lines)
}

fn print(global: &Global, args: &Offsets, lines: &[Line]) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return output::json(&lines);
    }
    let mut heads = vec!["TOPIC", "PARTITION", "EARLIEST", "LATEST"];
    heads.extend(args.at.is_some().then_some("AT"));
    heads.extend(args.group.iter().flat_map(|_| ["COMMITTED", "LAG"]));
    let mut table = Table::new(&heads);
    let cell = |offset: Option<i64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    for line in lines {
        let mut cells =
            vec![line.topic.clone(), line.partition.to_string(), cell(line.earliest), cell(line.latest)];
        cells.extend(args.at.is_some().then(|| cell(line.at)));
        cells.extend(args.group.iter().flat_map(|_| [cell(line.committed), cell(line.lag)]));
        table.row(cells);
    }
    table.print()
}

/// All partitions of a topic, or the one asked for.
pub(crate) async fn partitions_of(
    client: &Client,
    topic: &str,
    only: Option<i32>,
) -> anyhow::Result<Vec<TopicPartition>> {
    let info = client.topic(topic).await?;
    let mut ids: Vec<PartitionId> = info.partitions.keys().copied().collect();
    ids.sort_unstable();
    if let Some(only) = only {
        let count = ids.len();
        ids.retain(|id| id.0 == only);
        anyhow::ensure!(!ids.is_empty(), "topic {topic} has no partition {only}; it has {count}");
    }
    Ok(ids.into_iter().map(|id| TopicPartition::new(topic, id)).collect())
}

/// The offset of each partition at one point; a partition without a record at or after a time is left out.
pub(crate) async fn listed(
    client: &Client,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
    isolation: Isolation,
) -> anyhow::Result<HashMap<TopicPartition, Offset>> {
    let wanted: Vec<_> = partitions.iter().map(|partition| (partition.clone(), spec)).collect();
    let mut offsets = HashMap::new();
    for (partition, listed) in client.list_offsets(&wanted, isolation).await? {
        let listed = listed.with_context(|| format!("offsets of {partition}"))?;
        if let Some(offset) = listed.offset {
            offsets.insert(partition, offset);
        }
    }
    Ok(offsets)
}

async fn committed(
    client: &Client,
    group: &str,
    partitions: &[TopicPartition],
) -> anyhow::Result<HashMap<TopicPartition, Offset>> {
    let mut offsets = HashMap::new();
    for (partition, committed) in client.group(group).fetch(Some(partitions), false).await? {
        let committed = committed.with_context(|| format!("offset of group {group} in {partition}"))?;
        if let Some(committed) = committed {
            offsets.insert(partition, committed.offset);
        }
    }
    Ok(offsets)
}
