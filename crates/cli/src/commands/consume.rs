//! `milena consume`.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use milena::{
    BrokerId, Client, FetchFrom, FetchOptions, Fetched, Isolation, Offset, OffsetSpec, TopicPartition,
};

use crate::args::{Consume, Global};
use crate::commands::offsets::{listed, partitions_of};
use crate::offset::OffsetArg;
use crate::output::{Usage, stdout_error};
use crate::render::{Printed, Renderer};
use crate::{connect, signals};

/// The pause after a failed fetch before the leader is looked up again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

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
    let client = connect::client(global, &args.cluster).await?;
    let isolation = if args.read_uncommitted { Isolation::ReadUncommitted } else { Isolation::ReadCommitted };
    let partitions = partitions_of(&client, &args.topic, args.partition).await?;
    let positions = start(&client, &partitions, &args.offset, isolation).await?;
    let mut reading = Reading {
        out: BufWriter::with_capacity(64 * 1024, std::io::stdout()),
        renderer,
        positions,
        left: args.count,
        exit_at_end: args.exit_at_end,
        patience: global.timeout,
        failing: HashMap::new(),
    };
    let outcome = tokio::select! {
        outcome = reading.run(&client, isolation) => outcome,
        () = signals::asked_to_end() => Ok(()),
    };
    reading.out.flush().map_err(stdout_error)?;
    outcome?;
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

type Answer = (BrokerId, Vec<TopicPartition>, milena::Result<Vec<Fetched>>);

/// The partitions that are being read, and where the records go.
struct Reading {
    out: BufWriter<std::io::Stdout>,
    renderer: Renderer,
    positions: HashMap<TopicPartition, Offset>,
    /// How many records may still be printed.
    left: Option<u64>,
    exit_at_end: bool,
    /// How long a partition may fail before the command does.
    patience: Duration,
    /// Since when a partition fails.
    failing: HashMap<TopicPartition, Instant>,
}

impl Reading {
    /// One fetch under way per leader; returns when nothing is left to read.
    async fn run(&mut self, client: &Client, isolation: Isolation) -> anyhow::Result<()> {
        let mut fetches: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let mut idle: Vec<TopicPartition> = self.positions.keys().cloned().collect();
        loop {
            for (leader, partitions) in self.by_leader(client, std::mem::take(&mut idle)).await? {
                fetches.push(self.fetch(client, leader, partitions, isolation));
            }
            let Some((leader, partitions, answer)) = fetches.next().await else { return Ok(()) };
            match answer {
                Ok(fetched) => {
                    for fetched in fetched {
                        self.take(leader, fetched)?;
                    }
                }
                Err(error) => self.tolerate(&partitions, error).await?,
            }
            if self.left == Some(0) {
                return Ok(());
            }
            // A reader at a pipe sees what there is, as soon as there is nothing more at hand.
            self.out.flush().map_err(stdout_error)?;
            idle.extend(partitions.into_iter().filter(|partition| self.positions.contains_key(partition)));
        }
    }

    async fn by_leader(
        &self,
        client: &Client,
        partitions: Vec<TopicPartition>,
    ) -> anyhow::Result<HashMap<BrokerId, Vec<TopicPartition>>> {
        let mut groups: HashMap<BrokerId, Vec<TopicPartition>> = HashMap::new();
        for partition in partitions {
            let leader = client.fetcher().leader(&partition).await?;
            groups.entry(leader).or_default().push(partition);
        }
        Ok(groups)
    }

    fn fetch(
        &self,
        client: &Client,
        leader: BrokerId,
        partitions: Vec<TopicPartition>,
        isolation: Isolation,
    ) -> BoxFuture<'static, Answer> {
        let from: Vec<FetchFrom> = partitions
            .iter()
            .filter_map(|partition| {
                let offset = *self.positions.get(partition)?;
                Some(FetchFrom::new(partition.clone(), offset))
            })
            .collect();
        let options = FetchOptions { isolation, ..FetchOptions::default() };
        let fetcher = client.fetcher();
        Box::pin(async move {
            let answer = fetcher.fetch_from_leader(leader, &from, &options).await;
            (leader, partitions, answer)
        })
    }

    /// Prints what came for one partition and moves its position.
    fn take(&mut self, leader: BrokerId, fetched: Fetched) -> anyhow::Result<()> {
        let partition = fetched.tp.clone();
        let Some(position) = self.positions.get(&partition).copied() else { return Ok(()) };
        if let Some(error) = &fetched.error {
            if !error.is_retriable() {
                return Err(error.clone()).with_context(|| format!("offset {position}"));
            }
            return self.note_failure(&partition, &error.to_string());
        }
        if self.failing.remove(&partition).is_some() {
            tracing::warn!(%partition, "it can be read again");
        }
        for batch in fetched.visible() {
            let batch = batch.with_context(|| format!("{partition}"))?;
            let timestamp_type = batch.timestamp_type();
            let records =
                batch.records().with_context(|| format!("{partition} at {}", batch.base_offset()))?;
            for record in records.iter() {
                let record = record.with_context(|| format!("{partition} at {}", batch.base_offset()))?;
                if record.offset < position {
                    continue;
                }
                if self.left == Some(0) {
                    return Ok(());
                }
                let printed =
                    Printed { topic_partition: &partition, record, timestamp_type, broker: Some(leader) };
                self.renderer.print(&mut self.out, &printed).map_err(stdout_error)?;
                self.left = self.left.map(|left| left - 1);
            }
        }
        let next = fetched.next_offset();
        let end = fetched.last_stable_offset.unwrap_or(fetched.high_watermark).min(fetched.high_watermark);
        if self.exit_at_end && next >= end {
            self.positions.remove(&partition);
        } else {
            self.positions.insert(partition, next);
        }
        Ok(())
    }

    /// Bears a failed fetch for a while.
    async fn tolerate(&mut self, partitions: &[TopicPartition], error: milena::Error) -> anyhow::Result<()> {
        if !error.is_retriable() {
            return Err(error.into());
        }
        for partition in partitions {
            self.note_failure(partition, &error.to_string())?;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }

    fn note_failure(&mut self, partition: &TopicPartition, error: &str) -> anyhow::Result<()> {
        let Some(since) = self.failing.get(partition) else {
            self.failing.insert(partition.clone(), Instant::now());
            let patience = self.patience;
            tracing::warn!(%partition, error, "a fetch failed; trying again for {patience:?}");
            return Ok(());
        };
        anyhow::ensure!(
            since.elapsed() < self.patience,
            "{partition} could not be read for {:?}: {error}",
            self.patience
        );
        Ok(())
    }
}
