//! Writes at a fixed rate and reads the same records, with one client for both.
//!
//! The writer is a task beside the reader's (`ticket`), as in a service that answers what it reads, or a thread of its own (`thread`), whose
//! every record first wakes the runtime's. Tokio's timer counts whole milliseconds, so that a task which waits for one of 1,000 turns a second
//! would send two records every two milliseconds: a thread that sleeps tells the task when it is its turn.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use contract::{Args, Latencies, Values};
use milena::{Client, Producer, ProducerConfig, ProducerRecord};
use tokio::sync::mpsc;

pub(crate) async fn run(args: &Args) -> Result<()> {
    let epoch = Instant::now();
    let client = Client::connect(args.bootstrap.as_str()).await?;
    let producer =
        Producer::new(&client, ProducerConfig { linger: Duration::ZERO, ..crate::produce::config(args) })?;
    let writer = Writer { epoch, producer, values: Values::load(args)?, args: args.clone(), sent: 0 };
    let writer = match args.mode.as_str() {
        "" | "ticket" => tokio::spawn(writer.in_a_task()),
        "thread" => {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || writer.in_a_thread(&runtime))
        }
        other => bail!("no mode {other:?}"),
    };
    let total = args.warm + args.records;
    let mut latencies = Latencies::new(args, epoch);
    let mut consumer = crate::consume::consumer(args, &client)?;
    while latencies.seen() < total {
        let part = consumer.poll(Duration::from_secs(10)).await?.context("no more records")?;
        for record in &part {
            latencies.receive(record?.value.unwrap_or_default());
        }
    }
    writer.await??;
    latencies.finish("milena", args)
}

struct Writer {
    epoch: Instant,
    producer: Producer,
    values: Values,
    args: Args,
    sent: u64,
}

impl Writer {
    fn step(&self) -> Result<Duration> {
        Ok(Duration::from_secs(1) / u32::try_from(self.args.rate)?)
    }

    async fn send(&mut self) -> Result<()> {
        let mut value = self.values.next_value().to_vec();
        Latencies::stamp(self.epoch, &mut value);
        let partition = (self.sent % u64::from(self.args.partitions)) as i32;
        let record = ProducerRecord::to(&self.args.topic).partition(partition).value(&value);
        let _ticket = self.producer.send(record).await?;
        self.sent += 1;
        Ok(())
    }

    /// Calls `turn` when it is time for the next record, for each of them; ends early when `turn` returns `false`.
    fn clock(args: &Args, step: Duration, mut turn: impl FnMut() -> bool) {
        let start = Instant::now();
        for record in 0..(args.warm + args.records) as u32 {
            thread::sleep((start + step * record).saturating_duration_since(Instant::now()));
            if !turn() {
                return;
            }
        }
    }

    async fn in_a_task(mut self) -> Result<()> {
        let (clock, mut turns) = mpsc::channel(1 << 16);
        let (args, step) = (self.args.clone(), self.step()?);
        thread::spawn(move || Self::clock(&args, step, || clock.blocking_send(()).is_ok()));
        while turns.recv().await.is_some() {
            self.send().await?;
        }
        Ok(self.producer.close(Duration::from_secs(30)).await?)
    }

    fn in_a_thread(mut self, runtime: &tokio::runtime::Handle) -> Result<()> {
        let (args, mut sent) = (self.args.clone(), Ok(()));
        Self::clock(&args, self.step()?, || {
            sent = runtime.block_on(self.send());
            sent.is_ok()
        });
        sent?;
        Ok(runtime.block_on(self.producer.close(Duration::from_secs(30)))?)
    }
}
