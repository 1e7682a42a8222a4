//! `milena copy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use milena::{Client, ConsumerConfig};
use milena_connector::checkpoint::Storage;
use milena_connector::runtime::{CheckpointConfig, Job, JobConfig, JobControl, JobMetrics, JobReport};
use milena_connector::schema::{Emit, OwnedKafkaRecord, RecordDeserializer, SinkRecord, serialize_with};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::builder::FetchSettings;
use milena_connector::source::{KafkaSource, OffsetReset, Pattern, StartFrom, StopAt};

use crate::args::{Copy, DeliveryArg, Format, Global};
use crate::offset::StartArg;
use crate::output::Usage;
use crate::{connect, output, signals};

/// Time between two lines of numbers.
const METRICS_EVERY: Duration = Duration::from_secs(1);

/// Runs the command until the end, a signal, or an error.
pub(crate) async fn run(global: &Global, args: Copy) -> anyhow::Result<()> {
    let (client, producer, consumer) = connect::copy_config(global, &args.cluster)?;
    let topics = Topics::parse(&args.from)?;
    check(&Client::connect(client.clone()).await.context("cannot connect")?, &topics, &args.to, global)
        .await?;

    let prefix = args.transactional_id_prefix.clone().unwrap_or_else(|| format!("milena-copy-{}", args.to));
    // Without exactly-once a copy needs no directory: it then begins at --start each time.
    let default = || PathBuf::from(format!("milena-copy-{}", args.to));
    let directory =
        args.checkpoint_dir.clone().or_else(|| (args.delivery == DeliveryArg::ExactlyOnce).then(default));
    let mut source = KafkaSource::<OwnedKafkaRecord>::builder()
        .client(client.clone())
        .start(start(&args))
        .isolation(consumer.isolation)
        .fetch(fetching(&consumer))
        .discovery_interval(Some(args.discovery_interval))
        .deserializer(RecordDeserializer::new());
    source = match &topics {
        Topics::List(names) => source.topics(names),
        Topics::Matching(expression, _) => source.topic_pattern(expression),
    };
    if let Some(rack) = consumer.rack {
        source = source.rack(rack);
    }
    if let Some(group) = &args.group {
        source = source.group_id(group);
    }
    if args.until_end {
        source = source.bounded(StopAt::Latest);
    }
    let sink = KafkaSink::builder()
        .client(client)
        .producer(producer)
        .delivery(delivery(args.delivery))
        .transactional_id_prefix(prefix)
        .transaction_timeout(args.transaction_timeout)
        .serializer(copy_to(&args.to))
        .build()
        .map_err(|error| Usage(error.to_string()))?;
    let config = JobConfig {
        name: format!("copy to {}", args.to),
        parallelism: args.parallelism,
        checkpoint: CheckpointConfig {
            interval: args.checkpoint_interval,
            storage: directory.clone().map(Storage::from),
            ..CheckpointConfig::default()
        },
        stop_timeout: global.timeout,
        ..JobConfig::default()
    };
    config.validate(sink.settings()).map_err(|error| Usage(error.to_string()))?;
    let source = source.build().map_err(|error| Usage(error.to_string()))?;
    let report = drive(Job::from_source(source).to(sink), config, global).await?;
    if global.format == Format::Json {
        return output::json(&report);
    }
    eprintln!("{}", summary(&report, directory.as_deref()));
    Ok(())
}

/// What is copied.
enum Topics {
    List(Vec<String>),
    Matching(String, Pattern),
}

impl Topics {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(expression) = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            let pattern = Pattern::new(expression).map_err(|error| {
                // The library of expressions explains over several lines; the last one has the reason.
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Usage(format!("--from: /{expression}/ is not a regular expression: {reason}"))
            })?;
            return Ok(Self::Matching(expression.to_owned(), pattern));
        }
        let names: Vec<String> =
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect();
        if names.is_empty() {
            return Err(Usage("--from names no topic".into()).into());
        }
        Ok(Self::List(names))
    }
}

/// Refuses a copy that cannot work, before anything is written.
async fn check(client: &Client, topics: &Topics, to: &str, global: &Global) -> anyhow::Result<()> {
    let feeds_itself = match topics {
        Topics::List(names) => names.iter().any(|name| name == to),
        Topics::Matching(_, pattern) => pattern.matches(to),
    };
    if feeds_itself {
        let text = format!(
            "--from includes the output topic {to}: the copy would never end; leave it out of --from"
        );
        return Err(Usage(text).into());
    }
    let room = client
        .topic(to)
        .await
        .with_context(|| format!("topic {to} cannot be written; `milena topics create` makes it"))?
        .partitions
        .len();
    let names = match topics {
        Topics::List(names) => names.clone(),
        Topics::Matching(expression, pattern) => {
            let listed = client.admin().list_topics().await?;
            let names: Vec<String> = listed
                .into_iter()
                .filter(|topic| !topic.internal && pattern.matches(&topic.name))
                .map(|topic| topic.name)
                .collect();
            if names.is_empty() {
                eprintln!("milena: no topic matches /{expression}/ yet");
            }
            names
        }
    };
    for name in names {
        let partitions = client.topic(&name).await?.partitions.len();
        anyhow::ensure!(
            partitions <= room,
            "{name} has {partitions} partitions and {to} has {room}; records keep their partition, so {to} needs as many"
        );
    }
    client.close(global.timeout).await?;
    Ok(())
}

fn start(args: &Copy) -> StartFrom {
    match &args.start {
        StartArg::Earliest => StartFrom::Earliest,
        StartArg::Latest => StartFrom::Latest,
        StartArg::Committed => StartFrom::Committed { or: OffsetReset::Earliest },
        StartArg::Timestamp(time) => StartFrom::Timestamp(*time),
        StartArg::Offsets(offsets) => StartFrom::Offsets {
            offsets: offsets.iter().cloned().collect::<BTreeMap<_, _>>(),
            or: OffsetReset::Earliest,
        },
    }
}

fn fetching(consumer: &ConsumerConfig) -> FetchSettings {
    FetchSettings {
        max_wait: consumer.max_wait,
        min_bytes: consumer.min_bytes,
        max_bytes: consumer.max_bytes,
        partition_max_bytes: consumer.partition_max_bytes,
        check_crcs: consumer.check_crcs,
        prefetch_bytes: consumer.buffer_bytes,
        max_batch_bytes: consumer.max_batch_bytes,
    }
}

fn delivery(arg: DeliveryArg) -> Delivery {
    match arg {
        DeliveryArg::ExactlyOnce => Delivery::ExactlyOnce,
        DeliveryArg::AtLeastOnce => Delivery::AtLeastOnce,
        DeliveryArg::None => Delivery::None,
    }
}

/// Writes each record to `topic` as it was: partition, key, value, headers, timestamp.
pub(crate) fn copy_to(
    topic: &str,
) -> impl milena_connector::schema::Serializer<OwnedKafkaRecord> + Clone + Sync + 'static {
    let topic: std::sync::Arc<str> = topic.into();
    serialize_with(move |record: &OwnedKafkaRecord, _timestamp: i64, out: &mut SinkRecord| {
        out.set_shared_topic(&topic).set_partition(record.partition);
        if let Some(key) = &record.key {
            out.set_key(key.as_ref());
        }
        if let Some(value) = &record.value {
            out.set_value(value.as_ref());
        }
        for (name, value) in &record.headers {
            out.add_header(name.as_str(), value.as_deref());
        }
        if record.timestamp >= 0 {
            out.set_timestamp(record.timestamp);
        }
        Ok(Emit::Write)
    })
}

/// Runs a job: a line of numbers each second; the first signal stops it with a last checkpoint, the second at once.
async fn drive(job: Job, config: JobConfig, global: &Global) -> anyhow::Result<JobReport> {
    let control = JobControl::new();
    let metrics = control.metrics();
    let running = job.run(config, control.clone());
    tokio::pin!(running);
    let mut tick = tokio::time::interval(METRICS_EVERY);
    tick.tick().await;
    let mut asked = Box::pin(signals::asked_to_end());
    let mut stopping = false;
    let mut before = 0;
    loop {
        tokio::select! {
            outcome = &mut running => return outcome.map_err(with_remedy),
            _ = tick.tick() => {
                let now = metrics.borrow().clone();
                report_progress(global, &now, now.records_out.saturating_sub(before))?;
                before = now.records_out;
            }
            () = &mut asked => {
                anyhow::ensure!(!stopping, "stopped at once; the last complete checkpoint holds");
                stopping = true;
                eprintln!("stopping after a last checkpoint; once more to stop at once");
                control.stop();
                asked = Box::pin(signals::asked_to_end());
            }
        }
    }
}

/// Says what a user of the command can do about an error that the connector leaves to its caller.
fn with_remedy(error: milena_connector::Error) -> anyhow::Error {
    let lost = error.kind() == milena_connector::ErrorKind::DataLoss && error.client().is_none();
    let error = anyhow::Error::from(error);
    if lost {
        let text = output::describe(&error);
        return anyhow::anyhow!(
            "{text}; if the checkpoint belongs to this cluster, look at the output first; to begin anew, give another --checkpoint-dir"
        );
    }
    error
}

fn report_progress(global: &Global, metrics: &JobMetrics, last_second: u64) -> anyhow::Result<()> {
    if global.format == Format::Json {
        eprintln!("{}", serde_json::to_string(metrics)?);
    } else {
        eprintln!("{}", line(metrics, last_second));
    }
    Ok(())
}

fn line(metrics: &JobMetrics, last_second: u64) -> String {
    let checkpoint = metrics.last_checkpoint.map_or_else(|| "none".to_owned(), |id| id.to_string());
    format!(
        "{} records in, {} out, {last_second}/s, checkpoint {checkpoint}, {} transactions committed",
        metrics.records_in, metrics.records_out, metrics.committed_transactions
    )
}

/// The report at the end, for people.
fn summary(report: &JobReport, directory: Option<&Path>) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let mut text = format!(
        "copied {} records in {seconds:.1} s, {} checkpoints, {} transactions committed",
        report.records_out, report.checkpoints, report.committed_transactions
    );
    if let Some(id) = report.restored_from {
        text.push_str(&format!("; went on from checkpoint {id}"));
    }
    if let (Some(directory), Some(id)) = (directory, report.last_checkpoint) {
        text.push_str(&format!("; the next run goes on from checkpoint {id} in {}", directory.display()));
    }
    for damaged in &report.damaged_checkpoints {
        text.push_str(&format!(
            "\ndamaged and not used: {damaged}; output after the restored checkpoint may be there twice"
        ));
    }
    text
}
