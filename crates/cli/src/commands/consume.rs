//! `milena consume`.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use milena::{
    Client, Consumer, ConsumerConfig, Isolation, Offset, OffsetSpec, PartitionRecords, PartitionState,
    PartitionStatus, Start, TopicPartition,
};

use crate::args::{Consume, Global};
use crate::commands::offsets::{listed, partitions_of};
use crate::offset::OffsetArg;
use crate::output::{Usage, stdout_error};
use crate::render::{Printed, Renderer};
use crate::{connect, signals};

/// How long nothing comes before the partitions are looked at: whether they are at their ends, or fail.
const LOOK: Duration = Duration::from_millis(100);

/// Runs the command until its count, the end, or a signal.
pub(crate) async fn run(global: &Global, args: &Consume) -> anyhow::Result<()> {
    let renderer = match (&args.template, args.json || global.format == crate::args::Format::Json) {
        (Some(template), _) => Renderer::template(template, args.null),
        (None, true) => Ok(Renderer::Json),
        (None, false) => Renderer::values(&args.delimiter, args.null),
    }
    .map_err(Usage)?;
    if args.count == Some(0) {
        return Ok(());
    }
    let (config, consumer) =
        connect::consumer_config(global, &args.cluster, &[("isolation.level", "read_committed")])?;
    let client = Client::connect(config).await.context("cannot connect")?;
    let isolation = if args.read_uncommitted { Isolation::ReadUncommitted } else { consumer.isolation };
    let partitions = partitions_of(&client, &args.topic, args.partition).await?;
    let positions = start(&client, &partitions, &args.offset, isolation).await?;
    // The call says where to begin, and no group is told how far it came.
    let config = ConsumerConfig { isolation, group: None, ..consumer };
    let mut consumer = Consumer::new(&client, config)?;
    consumer.assign(positions.into_iter().map(|(partition, offset)| (partition, Start::At(offset.into()))));
    let mut reading = Reading {
        out: BufWriter::with_capacity(64 * 1024, std::io::stdout()),
        renderer,
        left: args.count,
        exit_at_end: args.exit_at_end,
        patience: global.timeout,
        failing: HashMap::new(),
    };
    let outcome = tokio::select! {
        outcome = reading.run(&client, &mut consumer) => outcome,
        () = signals::asked_to_end() => Ok(()),
    };
    reading.out.flush().map_err(stdout_error)?;
    outcome?;
    consumer.close(global.timeout).await?;
    client.close(global.timeout).await?;
    Ok(())
}

/// Turns the position asked for into an offset of each partition.
async fn start(
    client: &Client,
    partitions: &[TopicPartition],
    offset: &OffsetArg,
    isolation: Isolation,
) -> anyhow::Result<HashMap<TopicPartition, Offset>> {
    let all = |offset: Offset| partitions.iter().map(|partition| (partition.clone(), offset)).collect();
    Ok(match offset {
        OffsetArg::At(offset) => all(*offset),
        OffsetArg::Beginning => listed(client, partitions, OffsetSpec::Earliest, isolation).await?,
        OffsetArg::End => listed(client, partitions, OffsetSpec::Latest, isolation).await?,
        OffsetArg::Timestamp(time) => {
            // The end is asked first: a record that comes in between is then not skipped.
            let mut ends = listed(client, partitions, OffsetSpec::Latest, isolation).await?;
            ends.extend(listed(client, partitions, OffsetSpec::Timestamp(*time), isolation).await?);
            ends
        }
        OffsetArg::Last(count) => {
            let first = listed(client, partitions, OffsetSpec::Earliest, isolation).await?;
            let mut ends = listed(client, partitions, OffsetSpec::Latest, isolation).await?;
            for (partition, end) in &mut ends {
                let first = first.get(partition).copied().unwrap_or(Offset(0));
                *end = Offset(end.0.saturating_sub(*count)).max(first);
            }
            ends
        }
    })
}

/// Where the records go, and how long.
struct Reading {
    out: BufWriter<std::io::Stdout>,
    renderer: Renderer,
    /// How many records may still be printed.
    left: Option<u64>,
    exit_at_end: bool,
    /// How long a partition may fail before the command does.
    patience: Duration,
    /// Partitions that fail, and why.
    failing: HashMap<TopicPartition, String>,
}

impl Reading {
    /// Returns when nothing is left to read.
    async fn run(&mut self, client: &Client, consumer: &mut Consumer) -> anyhow::Result<()> {
        let mut looked = Instant::now();
        loop {
            let part = match consumer.poll(Duration::ZERO).await? {
                // A reader at a pipe sees what there is, as soon as there is nothing more at hand.
                None => {
                    self.out.flush().map_err(stdout_error)?;
                    consumer.poll(LOOK).await?
                }
                part => part,
            };
            if let Some(part) = &part {
                self.print(client, part)?;
                if self.left == Some(0) {
                    return Ok(());
                }
            }
            if part.is_some() && looked.elapsed() < LOOK {
                continue;
            }
            looked = Instant::now();
            let partitions = consumer.partitions();
            let ended: Vec<_> =
                partitions.iter().filter(|state| self.exit_at_end && is_at_end(state)).collect();
            consumer.unassign(ended.iter().map(|state| &state.tp));
            if ended.len() == partitions.len() {
                return Ok(());
            }
            self.bear(&partitions)?;
        }
    }

    fn print(&mut self, client: &Client, part: &PartitionRecords) -> anyhow::Result<()> {
        let broker = client.cluster().partition(part.tp()).and_then(|known| known.leader);
        let mut batches = part.batches();
        let mut batch = batches.next();
        for record in part {
            let record = record.with_context(|| format!("{}", part.tp()))?;
            if self.left == Some(0) {
                return Ok(());
            }
            while batch.is_some_and(|batch| batch.last_offset() < record.offset) {
                batch = batches.next();
            }
            let timestamp_type = batch.map(|batch| batch.timestamp_type()).unwrap_or_default();
            let printed = Printed { topic_partition: part.tp(), record, timestamp_type, broker };
            self.renderer.print(&mut self.out, &printed).map_err(stdout_error)?;
            self.left = self.left.map(|left| left - 1);
        }
        Ok(())
    }

    /// Bears partitions that cannot be read for a while.
    fn bear(&mut self, partitions: &[PartitionState]) -> anyhow::Result<()> {
        for state in partitions {
            let since = match state.status {
                PartitionStatus::WaitingForLeader => Some(state.failing_since.unwrap_or(state.since)),
                _ => state.failing_since,
            };
            let Some(since) = since else {
                if self.failing.remove(&state.tp).is_some() {
                    tracing::warn!(partition = %state.tp, "it can be read again");
                }
                continue;
            };
            let patience = self.patience;
            if !self.failing.contains_key(&state.tp) {
                tracing::warn!(partition = %state.tp, status = ?state.status, "a fetch failed; trying again for {patience:?}");
            }
            let why = self.failing.entry(state.tp.clone()).or_insert_with(|| "it has no leader".to_owned());
            if let PartitionStatus::BackOff { reason, .. } = &state.status {
                *why = reason.to_string();
            }
            anyhow::ensure!(
                since.elapsed() < patience,
                "{} could not be read for {patience:?}: {why}",
                state.tp
            );
        }
        Ok(())
    }
}

/// Whether all that can be read was taken, as the last answer said.
fn is_at_end(state: &PartitionState) -> bool {
    let end = state.last_stable_offset.or(state.high_watermark).min(state.high_watermark);
    state.position.zip(end).is_some_and(|(position, end)| position.offset >= end)
}
