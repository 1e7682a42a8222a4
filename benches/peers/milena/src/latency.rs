//! Writes at a fixed rate and reads the same records, with one client for both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use contract::{Args, Latencies, Values};
use milena::{Client, Producer, ProducerConfig, ProducerRecord};

pub(crate) async fn run(args: &Args) -> Result<()> {
    let epoch = Instant::now();
    let client = Client::connect(args.bootstrap.as_str()).await?;
    let producer =
        Producer::new(&client, ProducerConfig { linger: Duration::ZERO, ..crate::produce::config(args) })?;
    let total = args.warm + args.records;
    let mut values = Values::load(args)?;
    let (topic, partitions, rate) = (args.topic.clone(), args.partitions, args.rate);
    let writer = tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        for index in 0..total {
            clock.tick().await;
            let mut value = values.next_value().to_vec();
            Latencies::stamp(epoch, &mut value);
            let partition = (index % u64::from(partitions)) as i32;
            let _ticket =
                producer.send(ProducerRecord::to(&topic).partition(partition).value(&value)).await?;
        }
        producer.close(Duration::from_secs(30)).await?;
        anyhow::Ok(())
    });
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
