//! Counts words by partition and minute of event time, exactly once, over a crash and a change of parallelism.
//!
//! `cargo run -p milena-connector --example windowed_count` brings its own broker.

use std::time::Duration;

use milena::{Client, ClientConfig, Producer, ProducerConfig, ProducerRecord};
use milena_connector::BoxError;
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{
    CheckpointConfig, Job, JobConfig, JobControl, Step, TumblingWindows, Verdict,
};
use milena_connector::schema::{StringDeserializer, StringSerializer};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{KafkaSource, StartFrom, StopAt};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;

const MINUTE: Duration = Duration::from_secs(60);

fn job(client: &ClientConfig) -> Result<Job, BoxError> {
    let source = KafkaSource::<String>::builder()
        .client(client.clone())
        .topics(["words"])
        .start(StartFrom::Earliest)
        .bounded(StopAt::Latest)
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(Duration::from_secs(5)))
        .deserializer(StringDeserializer)
        .build()?;
    let sink = KafkaSink::builder()
        .client(client.clone())
        .delivery(Delivery::ExactlyOnce)
        .transactional_id_prefix("counting")
        .serializer(StringSerializer::new("counts"))
        .build()?;
    let counts = TumblingWindows::new(
        MINUTE,
        |word: &String| word.clone().into_bytes(),
        |count, _| count + 1,
        |word, window, count| {
            format!("minute {}: {} {count}", window.start / 60_000, String::from_utf8_lossy(word))
        },
    );
    Ok(Job::from_source(source).process("counts", move |_| counts.clone()).to(sink))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let config = BrokerConfig::default().with_topic("words", 3).with_topic("counts", 3);
    let broker = EmbeddedBroker::start(config).await?;
    let client = ClientConfig::new([broker.bootstrap()]);
    let producer = Producer::new(&Client::connect(client.clone()).await?, ProducerConfig::default())?;
    for (second, word) in (0..300).zip(["tea", "milk", "sugar"].into_iter().cycle()) {
        let record = ProducerRecord::to("words").key(word).value(word).timestamp(second * 1000);
        drop(producer.send(record).await?);
    }
    producer.close(Duration::from_secs(5)).await?;

    let dir = std::env::temp_dir().join(format!("windowed-count-{}", std::process::id()));
    let config = |parallelism| JobConfig {
        parallelism,
        checkpoint: CheckpointConfig { interval: Duration::from_millis(50), ..CheckpointConfig::new(&dir) },
        ..JobConfig::new("counting")
    };
    let crash = JobControl::with_hooks(|step: Step, _| match step {
        Step::AfterCheckpointWrite => Verdict::Crash,
        _ => Verdict::Continue,
    });
    let crashed = job(&client)?.run(config(1), crash).await;
    println!("the first run: {}", crashed.err().map_or_else(String::new, |error| error.to_string()));
    let report = job(&client)?.run(config(3), JobControl::new()).await?;
    println!(
        "the second run, three times as wide, goes on from checkpoint {:?} and commits {} transactions",
        report.restored_from, report.committed_transactions
    );
    std::fs::remove_dir_all(&dir)?;
    broker.stop().await;
    Ok(())
}
