//! `milena demo`: exactly-once shown, not claimed. A job copies a topic in a process of its own, which is killed with
//! SIGKILL at random moments; the output is then compared with the input, record by record.

mod data;
mod life;
mod verdict;
pub(crate) mod worker;

use std::io::{IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;

use milena::protocol::error_code::ErrorCode;
use milena::{
    Client, ClientConfig, Consumer, ConsumerConfig, Isolation, ListFilter, NewTopic, Offset, OffsetSpec,
    Producer, ProducerConfig, ProducerRecord, Start, TransactionState,
};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::listen::EmbeddedBroker;
use serde::Serialize;

use self::data::{Data, mix};
use self::life::{Event, Life, Work};
use self::verdict::{Judge, Verdict};
use crate::args::{Demo, Format, Global};
use crate::commands::offsets::{listed, partitions_of};
use crate::{output, signals};

/// A life is killed this long after its job began to run, at the latest.
const LONGEST_LIFE: Duration = Duration::from_millis(1500);
/// One life in so many is killed at a moment counted from the start of its process, so that some die in recovery.
const DIES_IN_RECOVERY: u64 = 4;
/// New records come in portions this far apart.
const PORTION_EVERY: Duration = Duration::from_millis(10);
/// A life that says nothing for the time of one request and this long hangs.
const SILENCE: Duration = Duration::from_secs(10);
/// How long transactions that a kill left behind may take to end after the job did.
const SETTLE: Duration = Duration::from_secs(30);
/// How long the removal of the demo's topics may take.
const CLEARING: Duration = Duration::from_secs(10);

/// What a demo did and found.
#[derive(Debug, Serialize)]
struct Summary {
    broker: String,
    seed: u64,
    records: u64,
    partitions: u32,
    crashes: u32,
    /// Kills that hit while a checkpoint was being taken.
    crashes_in_checkpoints: u32,
    parallelism: Vec<u32>,
    checkpoints: u64,
    restored: u64,
    recovered_commits: u64,
    aborted_transactions: u64,
    elapsed_ms: u128,
    records_per_second: u64,
    ok: bool,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Demo) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let (broker, bootstrap, name) = match &args.bootstrap {
        Some(bootstrap) => (None, bootstrap.clone(), bootstrap.clone()),
        None => {
            let broker = EmbeddedBroker::start(BrokerConfig::default()).await?;
            let bootstrap = broker.bootstrap();
            (Some(broker), bootstrap.clone(), format!("embedded, on {bootstrap}"))
        }
    };
    let config = ClientConfig { api_timeout: global.timeout, ..ClientConfig::new([bootstrap.clone()]) };
    let client = Client::connect(config).await.context("cannot connect")?;
    let mut stage = Stage::new(global, args, client, bootstrap, seed)?;
    let outcome = tokio::select! {
        outcome = stage.play(args, name) => outcome,
        () = signals::asked_to_end() => Err(anyhow::anyhow!("interrupted")),
    };
    stage.clear(args.keep).await;
    if let Some(broker) = broker {
        broker.stop().await;
    }
    let summary = outcome?;
    print(global, &summary)?;
    Ok(if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The topics, the directory and the client of one demo.
struct Stage {
    client: Client,
    work: Work,
    data: Data,
    /// Where checkpoints are; removed with this value, unless kept.
    directory: Option<tempfile::TempDir>,
    progress: Progress,
}

impl Stage {
    fn new(
        global: &Global,
        args: &Demo,
        client: Client,
        bootstrap: String,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let name = format!("milena-demo-{:08x}", mix(seed ^ u64::from(std::process::id())) as u32);
        let directory = tempfile::Builder::new().prefix("milena-demo-").tempdir()?;
        let work = Work {
            bootstrap,
            from: format!("{name}-in"),
            to: format!("{name}-out"),
            prefix: name.clone(),
            group: name,
            checkpoint_dir: directory.path().to_owned(),
            checkpoint_interval: args.checkpoint_interval,
            // A broker that dies is waited for by the job, then by the demo, then by the clearing: together within the limit.
            timeout: global.timeout * 3 / 5,
        };
        let progress = Progress::new(args.crashes);
        Ok(Self { client, work, data: Data::new(seed, args.records), directory: Some(directory), progress })
    }

    async fn create_topics(&self, partitions: u32) -> anyhow::Result<()> {
        let partitions = i32::try_from(partitions)?;
        let topic =
            |name: &String| NewTopic { name: name.clone(), partitions, replication: -1, configs: Vec::new() };
        let topics = [topic(&self.work.from), topic(&self.work.to)];
        for (topic, created) in self.client.admin().create_topics(&topics, self.work.timeout / 2).await? {
            created.with_context(|| format!("cannot create topic {topic}"))?;
        }
        Ok(())
    }

    async fn play(&mut self, args: &Demo, broker: String) -> anyhow::Result<Summary> {
        self.create_topics(args.partitions).await?;
        let began = Instant::now();
        let program = std::env::current_exe().context("cannot find my own program")?;
        let config = ProducerConfig { delivery_timeout: self.work.timeout, ..ProducerConfig::default() };
        let producer = Producer::new(&self.client, config)?;
        let mut history = History::default();
        let lives = args.crashes + 1;
        for life in 0..args.crashes {
            let parallelism = self.parallelism(args.parallelism, life);
            history.parallelism.push(parallelism);
            let share = self.share(life, lives);
            let child = Life::start(&program, &self.work, parallelism, false)?;
            let input = Input { producer: &producer, topic: &self.work.from, data: self.data };
            self.live_and_die(child, life, &mut history, input, share).await?;
        }
        let input = Input { producer: &producer, topic: &self.work.from, data: self.data };
        input.produce(self.share(args.crashes, lives), Duration::ZERO).await?;
        producer.close(self.work.timeout).await?;
        let parallelism = self.parallelism(args.parallelism, args.crashes);
        history.parallelism.push(parallelism);
        self.live_to_the_end(Life::start(&program, &self.work, parallelism, true)?, &mut history).await?;
        let elapsed = began.elapsed();

        self.progress.say("comparing the output with the input");
        let verdict = self.judge(&history).await?;
        self.progress.end();
        let per_second = u128::from(args.records) * 1000 / elapsed.as_millis().max(1);
        Ok(Summary {
            broker,
            seed: self.data.seed,
            records: args.records,
            partitions: args.partitions,
            crashes: args.crashes,
            crashes_in_checkpoints: history.killed_in_checkpoints,
            checkpoints: history.checkpoint,
            restored: history.restored,
            recovered_commits: history.recovered_commits,
            aborted_transactions: history.aborted,
            parallelism: history.parallelism,
            elapsed_ms: elapsed.as_millis(),
            records_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            ok: verdict.is_good(),
            verdict,
        })
    }

    /// The number of subtasks of a life: never the same twice in a row, if there is a choice.
    fn parallelism(&self, most: u32, life: u32) -> u32 {
        let first = mix(self.data.seed) % u64::from(most);
        let step = (first + u64::from(life)) % u64::from(most);
        u32::try_from(step).unwrap_or(0) + 1
    }

    /// The numbers of the records that are produced during a life.
    fn share(&self, life: u32, lives: u32) -> std::ops::Range<u64> {
        let part = |life: u32| u128::from(self.data.records) * u128::from(life) / u128::from(lives);
        let bound = |life: u32| u64::try_from(part(life)).unwrap_or(u64::MAX);
        bound(life)..bound(life + 1)
    }

    /// Lets a child live for a time that follows from the seed, while new records arrive over all of that time, and kills it.
    async fn live_and_die(
        &self,
        mut child: Life,
        life: u32,
        history: &mut History,
        input: Input<'_>,
        share: Range<u64>,
    ) -> anyhow::Result<()> {
        let random = mix(self.data.seed ^ mix(u64::from(life) ^ 0x006b_696c_6c73));
        let in_recovery = (random >> 32).is_multiple_of(DIES_IN_RECOVERY);
        let longest = u64::try_from(LONGEST_LIFE.as_millis()).unwrap_or(1);
        let span = Duration::from_millis((random % longest).max(20));
        if !in_recovery {
            self.wait_for_start(&mut child, life, history).await?;
        }
        let killed = async {
            let death = tokio::time::sleep(span);
            tokio::pin!(death);
            loop {
                tokio::select! {
                    () = &mut death => break,
                    event = child.event() => match event? {
                        Some(event) => self.note(history, event, life + 1),
                        // The reason is found by the kill, which looks at the exit status.
                        None => break,
                    },
                }
            }
            for event in child.kill().await? {
                self.note(history, event, life + 1);
            }
            let checkpoint = if history.in_checkpoint { ", while a checkpoint was taken" } else { "" };
            history.killed_in_checkpoints += u32::from(history.in_checkpoint);
            history.in_checkpoint = false;
            self.progress.say(&format!(
                "life {}: killed after {} ms{checkpoint}",
                life + 1,
                span.as_millis()
            ));
            anyhow::Ok(())
        };
        let (produced, killed) = tokio::join!(input.produce(share, span), killed);
        killed.and(produced)
    }

    /// Waits until the job of a child runs.
    async fn wait_for_start(&self, child: &mut Life, life: u32, history: &mut History) -> anyhow::Result<()> {
        loop {
            let silence = self.work.timeout + SILENCE;
            let event = tokio::time::timeout(silence, child.event()).await;
            let event = event.map_err(|_| {
                anyhow::anyhow!("the job did nothing for {silence:?}; it said last: {}", child.last_words())
            })??;
            // A child that has ended is found by its kill.
            let Some(event) = event else { return Ok(()) };
            let started = matches!(event, Event::Started { .. });
            self.note(history, event, life + 1);
            if started {
                return Ok(());
            }
        }
    }

    async fn live_to_the_end(&self, mut child: Life, history: &mut History) -> anyhow::Result<()> {
        loop {
            let silence = self.work.timeout + SILENCE;
            let event = tokio::time::timeout(silence, child.event()).await;
            let event = event.map_err(|_| {
                anyhow::anyhow!("the job did nothing for {silence:?}; it said last: {}", child.last_words())
            })??;
            let Some(event) = event else { break };
            self.note(history, event, u32::try_from(history.parallelism.len()).unwrap_or(u32::MAX));
        }
        child.wait().await
    }

    fn note(&self, history: &mut History, event: Event, life: u32) {
        history.in_checkpoint = matches!(event, Event::Barrier);
        match event {
            Event::Barrier => {}
            Event::Started { restored_checkpoint, committed, aborted } => {
                history.restored += u64::from(restored_checkpoint.is_some());
                history.recovered_commits += committed;
                history.aborted += aborted;
            }
            Event::Checkpoint { id, watermark, records } => {
                history.checkpoint = id;
                if let Some(watermark) = watermark {
                    history.watermarks.push((id, watermark));
                }
                self.progress.say(&format!("life {life}: checkpoint {id}, {records} records"));
            }
            Event::Done { records, checkpoints } => {
                self.progress
                    .say(&format!("life {life}: done after {records} records, {checkpoints} checkpoints"));
            }
        }
    }

    /// Reads the whole output as a read-committed consumer and compares.
    async fn judge(&self, history: &History) -> anyhow::Result<Verdict> {
        let mut judge = Judge::new(self.data);
        judge.look_at_watermarks(history.watermarks.iter().copied());
        for id in self.open_transactions().await? {
            judge.note_open_transaction(id);
        }
        let config = ConsumerConfig {
            isolation: Isolation::ReadCommitted,
            progress: true,
            ..ConsumerConfig::default()
        };
        let mut consumer = Consumer::new(&self.client, config)?;
        let partitions = partitions_of(&self.client, &self.work.to, None).await?;
        let ends = listed(&self.client, &partitions, OffsetSpec::Latest, Isolation::ReadUncommitted).await?;
        for partition in partitions {
            let end = ends.get(&partition).copied().unwrap_or(Offset(0));
            let mut position = Offset(0);
            consumer.assign([(partition.clone(), Start::At(position.into()))]);
            while position < end {
                let part = consumer.poll(self.work.timeout).await;
                let part = part.with_context(|| format!("reading the output, {partition}"))?;
                let Some(part) = part else {
                    anyhow::bail!(
                        "the output cannot be read: {partition} gives nothing at offset {position}"
                    );
                };
                for record in &part {
                    judge.look(partition.partition, &record?);
                }
                position = part.next_offset();
                if part.is_end() && position < end {
                    judge.note_open_transaction(format!("at {partition} offset {position}"));
                    break;
                }
            }
            consumer.unassign([&partition]);
        }
        Ok(judge.finish())
    }

    /// Transactions under our prefix that are not at an end, once the last markers had time to be written.
    async fn open_transactions(&self) -> anyhow::Result<Vec<String>> {
        let filter = ListFilter {
            states: vec![
                TransactionState::Ongoing,
                TransactionState::PrepareCommit,
                TransactionState::PrepareAbort,
            ],
            pattern: None,
            prefix: Some(format!("{}-", self.work.prefix)),
        };
        let began = Instant::now();
        loop {
            let listed = self.client.transactions().list(&filter).await?;
            let open: Vec<_> = listed.into_iter().map(|listing| listing.id).collect();
            if open.is_empty() || began.elapsed() > SETTLE {
                return Ok(open);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Removes what the demo made.
    async fn clear(&mut self, keep: bool) {
        self.progress.end();
        if keep {
            if let Some(directory) = self.directory.take() {
                let path: PathBuf = directory.keep();
                eprintln!(
                    "kept: topics {} and {}, checkpoints in {}",
                    self.work.from,
                    self.work.to,
                    path.display()
                );
            }
        } else {
            let admin = self.client.admin();
            let topics = [self.work.from.as_str(), self.work.to.as_str()];
            let left = match tokio::time::timeout(CLEARING, admin.delete_topics(&topics)).await {
                Ok(Ok(results)) => results.into_iter().find_map(|(_, result)| match result {
                    Err(error) if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => None,
                    Err(error) => Some(error.to_string()),
                    Ok(()) => None,
                }),
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("they could not be removed in {CLEARING:?}")),
            };
            if let Some(reason) = left {
                let [from, to] = topics;
                eprintln!("milena: topics {from} and {to} may be left behind: {reason}");
            }
        }
        // Whatever is left then ends with the process.
        let _ = self.client.close(Duration::from_secs(5)).await;
    }
}

/// What the lives told.
#[derive(Debug, Default)]
struct History {
    parallelism: Vec<u32>,
    /// The newest complete checkpoint.
    checkpoint: u64,
    watermarks: Vec<(u64, i64)>,
    restored: u64,
    recovered_commits: u64,
    aborted: u64,
    /// Whether the last thing that was told is that a checkpoint is being taken.
    in_checkpoint: bool,
    killed_in_checkpoints: u32,
}

/// Where the demo's records go.
#[derive(Clone, Copy)]
struct Input<'a> {
    producer: &'a Producer,
    topic: &'a str,
    data: Data,
}

impl Input<'_> {
    /// Produces these records evenly over a time.
    async fn produce(self, numbers: Range<u64>, over: Duration) -> anyhow::Result<()> {
        let portions = u64::try_from(over.as_millis() / PORTION_EVERY.as_millis()).unwrap_or(1).max(1);
        let size = (numbers.end - numbers.start).div_ceil(portions);
        let mut tick = tokio::time::interval(PORTION_EVERY);
        let mut next = numbers.start;
        while next < numbers.end {
            let end = next.saturating_add(size).min(numbers.end);
            for number in next..end {
                self.send(number).await?;
            }
            next = end;
            if next < numbers.end {
                tick.tick().await;
            }
        }
        self.producer.flush().await.context("cannot produce the input")
    }

    async fn send(self, number: u64) -> anyhow::Result<()> {
        let datum = self.data.datum(number);
        let record = ProducerRecord {
            topic: self.topic,
            partition: None,
            key: Some(datum.key.as_bytes()),
            value: Some(datum.value.as_bytes()),
            headers: &[],
            timestamp: Some(datum.event_ms),
        };
        // The flush tells whether it was delivered.
        let _ticket = self.producer.send(record).await.context("cannot produce the input")?;
        Ok(())
    }
}

fn random_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    mix(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0) ^ u64::from(std::process::id()))
}

/// One line on standard error that is written over, or a line per event where nobody watches.
struct Progress {
    lives: u32,
    live: bool,
}

impl Progress {
    fn new(crashes: u32) -> Self {
        Self { lives: crashes + 1, live: std::io::stderr().is_terminal() }
    }

    fn say(&self, text: &str) {
        let text = text.replacen(':', &format!("/{}:", self.lives), usize::from(text.starts_with("life")));
        let mut out = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.live { write!(out, "\r\x1b[2K{text}") } else { writeln!(out, "{text}") };
        let _ = out.flush();
    }

    fn end(&self) {
        if self.live {
            eprint!("\r\x1b[2K");
        }
    }
}

fn print(global: &Global, summary: &Summary) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return output::json(summary);
    }
    let verdict = &summary.verdict;
    let parallelism = summary.parallelism.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let rows = [
        ("broker", summary.broker.clone()),
        ("seed", summary.seed.to_string()),
        ("records in", format!("{} in {} partitions", summary.records, summary.partitions)),
        ("records out", verdict.seen.to_string()),
        ("kills (SIGKILL)", summary.crashes.to_string()),
        ("subtasks per life", parallelism),
        ("kills while a checkpoint was taken", summary.crashes_in_checkpoints.to_string()),
        ("checkpoints", summary.checkpoints.to_string()),
        ("lives from a checkpoint", summary.restored.to_string()),
        ("commits confirmed by a later life", summary.recovered_commits.to_string()),
        ("transactions aborted by a later life", summary.aborted_transactions.to_string()),
        ("missing", verdict.missing.to_string()),
        ("duplicated", verdict.duplicated.to_string()),
        ("out of order in their key", verdict.reordered.to_string()),
        ("foreign or changed", verdict.foreign.to_string()),
        ("transactions left open", verdict.open_transactions.len().to_string()),
        ("watermarks that went back", verdict.watermark_regressions.to_string()),
        ("time", format!("{:.1} s", summary.elapsed_ms as f64 / 1000.0)),
    ];
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:38}{value}\n")).collect();
    for difference in &verdict.differences {
        text.push_str(&format!("  {difference}\n"));
    }
    text.push_str(if summary.ok { "exactly once: yes\n" } else { "exactly once: NO\n" });
    output::print(text.as_bytes())
}
