//! One life of the demo's job, in a process of its own: it reads, marks each value, writes in transactions, and tells its
//! parent what it does.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use milena::Isolation;
use milena_connector::progress::WatermarkStrategy;
use milena_connector::runtime::{CheckpointConfig, Job, JobConfig, JobControl, JobMetrics, Step, Verdict};
use milena_connector::schema::{OwnedKafkaRecord, RecordDeserializer};
use milena_connector::sink::{Delivery, KafkaSink};
use milena_connector::source::{KafkaSource, StartFrom, StopAt};

use super::data::{DISORDER_MS, MARK};
use super::life::Event;
use crate::args::{DemoWorker, Global};
use crate::commands::copy::copy_to;
use crate::connect;
use crate::output::Usage;

/// How often new partitions are looked for.
const DISCOVERY: Duration = Duration::from_secs(1);

/// Runs the job until its end, or until the parent kills this process.
pub(crate) async fn run(global: &Global, args: &DemoWorker) -> anyhow::Result<()> {
    let (client, producer) = connect::producer_config(global, &args.cluster)?;
    let mut source = KafkaSource::<OwnedKafkaRecord>::builder()
        .client(client.clone())
        .topics([&args.from])
        .group_id(&args.group)
        .start(StartFrom::Earliest)
        .isolation(Isolation::ReadCommitted)
        .discovery_interval(Some(DISCOVERY))
        .watermarks(WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(
            DISORDER_MS.unsigned_abs(),
        )))
        .deserializer(RecordDeserializer::new());
    if args.until_end {
        source = source.bounded(StopAt::Latest);
    }
    let sink = KafkaSink::builder()
        .client(client)
        .producer(producer)
        .delivery(Delivery::ExactlyOnce)
        .transactional_id_prefix(&args.prefix)
        .transaction_timeout(Duration::from_secs(60))
        .serializer(copy_to(&args.to))
        .build()?;
    let config = JobConfig {
        name: "demo".to_owned(),
        parallelism: args.parallelism,
        checkpoint: CheckpointConfig {
            interval: args.checkpoint_interval,
            ..CheckpointConfig::new(&args.checkpoint_dir)
        },
        ..JobConfig::default()
    };
    let crash = args.crash_at.as_deref().map(CrashAt::parse).transpose()?;
    let control = JobControl::with_hooks(move |step, _subtask: Option<u32>| {
        if step == Step::BeforeFlush && say(&Event::Barrier).is_err() {
            return Verdict::Crash;
        }
        crash.as_ref().map_or(Verdict::Continue, |crash| crash.on_step(step))
    });
    let job = Job::from_source(source.build()?).map(mark).to(sink);
    let mut metrics = control.metrics();
    let running = job.run(config, control);
    tokio::pin!(running);
    let mut told = Told::default();
    let report = loop {
        tokio::select! {
            report = &mut running => break report?,
            changed = metrics.changed() => {
                if changed.is_ok() {
                    let now = metrics.borrow_and_update().clone();
                    told.tell(&now)?;
                }
            }
        }
    };
    told.tell(&report)?;
    say(&Event::Done { records: report.records_out, checkpoints: report.checkpoints })
}

/// The job's function: it puts a mark before each value.
fn mark(mut record: OwnedKafkaRecord) -> OwnedKafkaRecord {
    let value = record.value.unwrap_or_default();
    let mut marked = Vec::with_capacity(MARK.len() + value.len());
    marked.extend_from_slice(MARK);
    marked.extend_from_slice(&value);
    record.value = Some(Bytes::from(marked));
    record
}

/// What the parent knows already.
#[derive(Default)]
struct Told {
    started: bool,
    checkpoint: Option<u64>,
}

impl Told {
    fn tell(&mut self, metrics: &JobMetrics) -> anyhow::Result<()> {
        if !self.started {
            self.started = true;
            say(&Event::Started {
                restored_checkpoint: metrics.restored_from,
                committed: metrics.committed_transactions,
                aborted: metrics.aborted_lingering,
            })?;
        }
        let checkpoint = metrics.last_checkpoint;
        if let Some(id) = checkpoint.filter(|_| checkpoint != self.checkpoint) {
            self.checkpoint = checkpoint;
            say(&Event::Checkpoint {
                id,
                watermark: metrics.checkpoint_watermark,
                records: metrics.records_out,
            })?;
        }
        Ok(())
    }
}

fn say(event: &Event) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("my parent went away")
}

/// Kills this process at a step of the sink, as `kill -9` would.
struct CrashAt {
    step: Step,
    left: AtomicU32,
}

impl CrashAt {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        let step = Step::ALL.into_iter().find(|step| step_name(*step) == name).ok_or_else(|| {
            let names = Step::ALL.map(step_name).join(", ");
            Usage(format!("--crash-at: no step `{name}`; the steps are {names}"))
        })?;
        let left = times.parse::<u32>().ok().filter(|times| *times > 0);
        let left = left.ok_or_else(|| Usage(format!("--crash-at: `{times}` is no count")))?;
        Ok(Self { step, left: AtomicU32::new(left) })
    }

    fn on_step(&self, step: Step) -> Verdict {
        if step == self.step && self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            kill_myself();
        }
        Verdict::Continue
    }
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::BeforeFlush => "before-flush",
        Step::AfterFlush => "after-flush",
        Step::AfterPrepare => "after-prepare",
        Step::BeforeCheckpointWrite => "before-checkpoint-write",
        Step::AfterCheckpointWrite => "after-checkpoint-write",
        Step::BeforeCommit => "before-commit",
        Step::AfterCommitSent => "after-commit-sent",
        Step::AfterCommit => "after-commit",
    }
}

/// SIGKILL cannot be caught, so nothing of this process runs after it; the abort is for systems without signals.
fn kill_myself() -> ! {
    #[cfg(unix)]
    {
        let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
        std::thread::sleep(Duration::from_secs(5));
    }
    std::process::abort()
}
