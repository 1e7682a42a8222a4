//! The coordinator of one run, from the restore to the end: it moves data between the pure parts and the tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use milena::Client;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::commits::{Commits, Settled};
use super::config::JobConfig;
use super::control::{Halt, JobControl};
use super::cut::{Cut, Head};
use super::job::Pipeline;
use super::persist::{self, Written};
use super::recovery;
use super::registry::PrefixClaim;
use super::report::{Gauges, JobReport, job_watermark};
use super::states::States;
use super::subtask::{ABORT_WITHIN, Command, Event, Snapshot, SubtaskContext};
use super::time_left::TimeLeft;
use crate::checkpoint::coordinator::{Action, Coordinator};
use crate::checkpoint::{CheckpointId, CheckpointState, Checkpoints};
use crate::sink::committer::{Committer, age};
use crate::sink::naming::NamePool;
use crate::source::{Command as SourceCommand, Discovered, Enumerator, Resolved, SourceMetrics};
use crate::{Error, ErrorKind, Result};

/// How often numbers are published.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);
/// How long connections may take to close at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

enum Lookup {
    Discovered(Result<Discovered>),
    Resolved(Result<Vec<Resolved>>),
}

/// One run of a job: from a restore to an end, a failure, or a crash.
pub(super) struct Run<'a> {
    pipeline: &'a mut dyn Pipeline,
    config: &'a JobConfig,
    control: &'a JobControl,
    report: &'a mut JobReport,
    began: Instant,
    /// Records and bytes of the runs before this restart.
    before: (u64, u64, u64),
    before_late: u64,
    store: Option<Arc<Checkpoints>>,
    source_client: Client,
    sink_client: Client,
    names: NamePool,
    time_left: TimeLeft,
    enumerator: Enumerator,
    schedule: Coordinator<Snapshot>,
    /// What the checkpoints in flight hold besides the subtasks' answers.
    cuts: BTreeMap<CheckpointId, Cut>,
    states: States,
    commits: Commits,
    subtasks: JoinSet<Result<(), Halt>>,
    commands: Vec<UnboundedSender<Command>>,
    events: UnboundedReceiver<Event>,
    gauges: Vec<Arc<Gauges>>,
    lookups: JoinSet<Lookup>,
    writing: JoinSet<Result<Written, Halt>>,
    /// Whether a checkpoint may be on the disk that is not known to be: from the start of its write to its success.
    in_doubt: bool,
    /// When the checkpoint that is being written was triggered, and its watermark.
    in_writing: Option<(Instant, Option<i64>)>,
    finished: BTreeSet<u32>,
    told_never_read: bool,
    stop_by: Option<Instant>,
    claim: Option<Arc<PrefixClaim>>,
}

impl<'a> Run<'a> {
    /// Restores, recovers, runs and tidies up.
    pub(super) async fn once(
        pipeline: &'a mut dyn Pipeline,
        config: &'a JobConfig,
        control: &'a JobControl,
        began: Instant,
        report: &'a mut JobReport,
    ) -> Result<(), Halt> {
        let mut stopping = control.stopping();
        let stopped = async {
            let _ = stopping.wait_for(|&stop| stop).await;
            tokio::time::sleep(config.stop_timeout).await;
        };
        let mut cancelled = control.cancelled();
        let mut run = tokio::select! {
            _ = cancelled.wait_for(|&cancel| cancel) => {
                return Err(Error::new(ErrorKind::Closed, "the job was cancelled while it started").into());
            }
            started = Self::start(pipeline, config, control, began, report) => started?,
            () = stopped => {
                let text = format!("the job was stopped while it started, and did not get further within {:?}", config.stop_timeout);
                return Err(Error::new(ErrorKind::Timeout, text).into());
            }
        };
        let ended = run.drive().await;
        run.publish();
        match &ended {
            Ok(()) => {
                for client in [&run.sink_client, &run.source_client] {
                    // The job is done and its output committed; a connection that does not close in time changes nothing.
                    let _ = client.close(CLOSE_WITHIN).await;
                }
            }
            Err(Halt::Error(_)) => run.abort().await,
            Err(Halt::Crash(_)) => {}
        }
        run.subtasks.shutdown().await;
        run.lookups.shutdown().await;
        run.writing.shutdown().await;
        run.commits.shutdown().await;
        // A run that crashed on purpose leaves everything as it is; what it drops is given back all the same.
        if let (Some(store), false) =
            (run.store.take().and_then(Arc::into_inner), matches!(ended, Err(Halt::Crash(_))))
        {
            // A storage that can't be reached frees itself.
            let _ = tokio::time::timeout(CLOSE_WITHIN, store.release()).await;
        }
        ended
    }

    async fn start(
        pipeline: &'a mut dyn Pipeline,
        config: &'a JobConfig,
        control: &'a JobControl,
        began: Instant,
        report: &'a mut JobReport,
    ) -> Result<Self, Halt> {
        let opened = persist::open(config).await?;
        report.damaged_checkpoints = opened.damaged;
        let restored = opened.restored;
        let sink = pipeline.sink().clone();
        let sink_client = Client::connect(sink.client.clone()).await.map_err(Error::from)?;
        let source_client = Client::connect(pipeline.source_client().clone()).await.map_err(Error::from)?;
        let claim = match &sink.prefix {
            Some(prefix) => Some(PrefixClaim::wait(&cluster_name(&sink_client), prefix).await?),
            None => None,
        };
        recovery::check_timeout(&sink_client, &sink).await?;
        let metrics = &mut report.metrics;
        let (from, parallelism) = (restored.as_ref(), config.parallelism);
        let recovered =
            recovery::recover(&sink_client, &sink, from, parallelism, control, &mut metrics.outcomes).await?;
        metrics.restored_from = restored.as_ref().map(|state| state.id);
        metrics.committed_transactions += recovered.committed;
        metrics.lost_transactions += recovered.lost;
        metrics.aborted_lingering += recovered.aborted;
        metrics.watermark = restored.as_ref().and_then(|state| state.watermark).max(metrics.watermark);
        metrics.checkpoint_watermark = restored.as_ref().and_then(|state| state.watermark);
        let before = (metrics.records_in, metrics.records_out, metrics.bytes_out);
        let before_late = metrics.late_records;
        let grammar = recovery::grammar(&sink, config.parallelism);
        let (enumerator, states) = persist::restore(pipeline, config, restored)?;
        let committer = Committer::new(sink_client.clone(), sink.commit);
        let checkpoint = &config.checkpoint;
        let schedule = Coordinator::new(
            config.parallelism,
            Some(checkpoint.interval),
            checkpoint.timeout,
            opened.next_id,
            Instant::now(),
        )
        .with_max_concurrent(checkpoint.max_concurrent);
        let (tell, events) = unbounded_channel();
        let mut run = Self {
            pipeline,
            config,
            control,
            report,
            began,
            before,
            before_late,
            store: opened.store,
            source_client,
            sink_client,
            names: NamePool::new(grammar, opened.next_id),
            time_left: TimeLeft::new(sink.transaction_timeout),
            enumerator,
            schedule,
            cuts: BTreeMap::new(),
            states,
            commits: Commits::new(committer, control.clone(), sink.on_loss),
            subtasks: JoinSet::new(),
            commands: Vec::new(),
            events,
            gauges: Vec::new(),
            lookups: JoinSet::new(),
            writing: JoinSet::new(),
            in_doubt: false,
            in_writing: None,
            finished: BTreeSet::new(),
            told_never_read: false,
            stop_by: None,
            claim,
        };
        for subtask in 0..config.parallelism {
            run.spawn_subtask(subtask, tell.clone());
        }
        Ok(run)
    }

    fn spawn_subtask(&mut self, subtask: u32, events: UnboundedSender<Event>) {
        let (tell, commands) = unbounded_channel();
        let gauges = Arc::new(Gauges::new());
        let context = SubtaskContext {
            subtask,
            parallelism: self.config.parallelism,
            source_client: self.source_client.clone(),
            sink_client: self.sink_client.clone(),
            names: self.names.clone(),
            control: self.control.clone(),
            gauges: Arc::clone(&gauges),
            commands,
            events,
            _claim: self.claim.clone(),
        };
        self.commands.push(tell);
        self.gauges.push(gauges);
        self.subtasks.spawn(self.pipeline.subtask(context));
        self.enumerator.register_reader(subtask);
    }

    async fn drive(&mut self) -> Result<(), Halt> {
        let mut stopping = self.control.stopping();
        let mut cancelled = self.control.cancelled();
        let mut publish_at = Instant::now();
        loop {
            self.carry_out_source_commands()?;
            let wake = self.advance_checkpoints()?;
            if wake.is_none() && self.commits.len() == 0 {
                return self.end_subtasks().await;
            }
            let now = Instant::now();
            if now >= publish_at {
                self.publish();
                publish_at = now + PUBLISH_EVERY;
            }
            if self.stop_by.is_some_and(|by| now >= by) {
                return Err(self.stop_took_too_long().into());
            }
            let deadlines = [wake.flatten(), self.enumerator.next_deadline(), self.stop_by, Some(publish_at)];
            let until = deadlines.into_iter().flatten().min().unwrap_or(publish_at);
            let stop_asked = self.stop_by.is_some();
            tokio::select! {
                Some(event) = self.events.recv() => self.on_event(event),
                Some(ended) = self.subtasks.join_next() => return Err(early_end(ended)),
                settled = self.commits.next(&self.names), if self.commits.is_running() => {
                    self.on_settled(settled?);
                }
                Some(looked) = self.lookups.join_next() => self.on_lookup(looked),
                Some(written) = self.writing.join_next() => self.on_written(written)?,
                _ = stopping.wait_for(|&stop| stop), if !stop_asked => self.request_last(),
                () = self.control.savepoints().asked() => self.schedule.request_now(Instant::now()),
                _ = cancelled.wait_for(|&cancel| cancel) => {
                    return Err(Error::new(ErrorKind::Closed, "the job was cancelled").into());
                }
                () = tokio::time::sleep_until(until.into()) => self.enumerator.tick(Instant::now()),
            }
        }
    }

    fn request_last(&mut self) {
        if self.stop_by.is_none() {
            self.stop_by = Some(Instant::now() + self.config.stop_timeout);
        }
        self.schedule.request_last();
    }

    fn stop_took_too_long(&self) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!(
                "the job did not come to its end within {} s ({} commits outstanding); what its last checkpoint promised is \
                 committed by the next start",
                self.config.stop_timeout.as_secs(),
                self.commits.len()
            ),
        )
    }

    fn carry_out_source_commands(&mut self) -> Result<(), Halt> {
        if !self.states.is_empty() {
            let (finished, open): (Vec<_>, Vec<_>) =
                (self.enumerator.finished().collect(), self.enumerator.open().collect());
            for (subtask, partition, states) in
                self.states.conclude(&finished, &open, self.config.parallelism)?
            {
                self.tell(subtask, Command::Conclude { partition, states });
            }
        }
        if !self.told_never_read && self.enumerator.is_resolved() && !self.enumerator.is_reopening() {
            self.told_never_read = true;
            let splits: Vec<_> = self.enumerator.never_read().cloned().collect();
            if !splits.is_empty() {
                self.tell(0, Command::NeverRead(splits));
            }
        }
        while let Some(command) = self.enumerator.poll_command() {
            match command {
                SourceCommand::Discover => {
                    let looking = self.pipeline.discover(self.source_client.clone());
                    self.lookups.spawn(async move { Lookup::Discovered(looking.await) });
                }
                SourceCommand::ResolveOffsets(requests) => {
                    let looking = self.pipeline.resolve(self.source_client.clone(), requests);
                    self.lookups.spawn(async move { Lookup::Resolved(looking.await) });
                }
                SourceCommand::Assign { subtask, splits } => {
                    let states = self.states.assign(subtask, &splits)?;
                    self.tell(subtask, Command::Assign { splits, states });
                }
                SourceCommand::Remove { subtask, partitions } => {
                    self.tell(subtask, Command::Remove(partitions));
                }
                SourceCommand::NoMoreSplits { subtask } => self.tell(subtask, Command::NoMoreSplits),
                SourceCommand::Fail(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Moves the schedule as far as it goes. Returns when to look again, or `None` after the last checkpoint.
    fn advance_checkpoints(&mut self) -> Result<Option<Option<Instant>>, Halt> {
        // A checkpoint before the first offsets are known would make a restored job apply its start mode again.
        if !self.enumerator.is_resolved() && !self.schedule.is_last_requested() {
            return Ok(Some(None));
        }
        loop {
            match self.schedule.poll_action(Instant::now()) {
                Action::Trigger { id, last } => self.trigger(id, last),
                Action::Write { id, snapshots } => self.write(id, snapshots),
                Action::Expired { id, missing, in_a_row } => {
                    self.cuts.remove(&id);
                    self.report.metrics.expired_checkpoints += 1;
                    self.tell_all(|| Command::Forget { checkpoint: id });
                    let text = format!(
                        "checkpoint {id} was not complete within {} s: no answer from subtasks {missing:?}",
                        self.config.checkpoint.timeout.as_secs_f64()
                    );
                    if in_a_row > self.config.checkpoint.tolerated_timeouts {
                        let text = format!("{text}; {in_a_row} in a row");
                        return Err(Error::new(ErrorKind::Timeout, text).into());
                    }
                    tracing::warn!("{text}; going on");
                }
                Action::Wait(until) => return Ok(Some(until)),
                Action::Ended => return Ok(None),
            }
        }
    }

    fn trigger(&mut self, id: CheckpointId, last: bool) {
        let drain = last && self.control.is_draining();
        let savepoints = self.control.savepoints().take(last);
        self.cuts.insert(
            id,
            Cut {
                savepoints,
                triggered: Instant::now(),
                enumerator: self.enumerator.snapshot(),
                // A drained job has no use for the state of partitions that nobody reads.
                held: if drain { Vec::new() } else { self.states.held() },
            },
        );
        self.tell_all(|| Command::Barrier { checkpoint: id, last, drain });
    }

    fn write(&mut self, id: CheckpointId, snapshots: Vec<Snapshot>) {
        // It was put there when the barriers went out.
        let Some(mut cut) = self.cuts.remove(&id) else { return };
        let savepoints = std::mem::take(&mut cut.savepoints);
        let at_barrier: Vec<_> = snapshots.iter().map(|snapshot| snapshot.metrics).collect();
        let watermark = job_watermark(self.report.metrics.checkpoint_watermark, &at_barrier);
        self.in_writing = Some((cut.triggered, watermark));
        let sink = self.pipeline.sink();
        let head = Head {
            job: self.config.name.clone(),
            id,
            delivery: sink.delivery,
            prefix: sink.prefix.clone(),
            watermark,
        };
        let state = cut.into_state(head, snapshots, self.commits.unsettled(id));
        let (store, client, control) = (self.store.clone(), self.sink_client.clone(), self.control.clone());
        self.in_doubt = true;
        self.writing.spawn(async move { persist::write(store, &client, &control, state, savepoints).await });
    }

    fn on_written(
        &mut self,
        written: Result<Result<Written, Halt>, tokio::task::JoinError>,
    ) -> Result<(), Halt> {
        let Written { id, committables, offsets } = written.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Closed, "writing a checkpoint ended unexpectedly")
                .with_source(error)
                .into())
        })?;
        self.in_doubt = false;
        for committable in committables {
            self.commits.update(committable);
        }
        let metrics = &mut self.report.metrics;
        metrics.checkpoints += 1;
        metrics.last_checkpoint = Some(id);
        if let Some((triggered, watermark)) = self.in_writing.take() {
            metrics.checkpoint_watermark = watermark;
            metrics.last_checkpoint_took = Some(triggered.elapsed());
        }
        metrics.offsets.extend(offsets);
        self.schedule.handle_written();
        self.commits.on_complete(id);
        self.tell_all(|| Command::Complete { checkpoint: id });
        self.publish();
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Snapshot { subtask, checkpoint, mut snapshot } => {
                // Even if its checkpoint was given up: the transaction then belongs to the next one.
                if let Some(committable) = snapshot.committable.take() {
                    self.commits.insert(committable);
                }
                if !self.schedule.handle_snapshot(subtask, checkpoint, snapshot) {
                    tracing::debug!(subtask, checkpoint, "a late answer to a checkpoint that was given up");
                }
            }
            Event::SplitFinished(split) => self.enumerator.handle_finished(&split),
            Event::Finished { subtask } => {
                self.finished.insert(subtask);
                if self.finished.len() == self.gauges.len() {
                    self.request_last();
                }
            }
        }
    }

    fn on_settled(&mut self, settled: Settled) {
        match settled {
            Settled::Committed => self.report.metrics.committed_transactions += 1,
            Settled::Lost => self.report.metrics.lost_transactions += 1,
        }
    }

    fn on_lookup(&mut self, looked: Result<Lookup, tokio::task::JoinError>) {
        let now = Instant::now();
        match looked {
            Ok(Lookup::Discovered(found)) => self.enumerator.handle_discovered(now, found),
            Ok(Lookup::Resolved(resolved)) => self.enumerator.handle_offsets_resolved(now, resolved),
            Err(error) => {
                // One of the two waits for this answer; the other ignores it.
                let failed = |error: &tokio::task::JoinError| {
                    Error::new(
                        ErrorKind::Closed,
                        format!("looking for partitions ended unexpectedly: {error}"),
                    )
                };
                self.enumerator.handle_discovered(now, Err(failed(&error)));
                self.enumerator.handle_offsets_resolved(now, Err(failed(&error)));
            }
        }
    }

    /// Everything is written and committed: the subtasks commit their last offsets and end.
    async fn end_subtasks(&mut self) -> Result<(), Halt> {
        self.tell_all(|| Command::End);
        let by = self.stop_by.unwrap_or_else(|| Instant::now() + self.config.stop_timeout);
        loop {
            match tokio::time::timeout_at(by.into(), self.subtasks.join_next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(Ok(())))) => {}
                Ok(Some(ended)) => return Err(early_end(ended)),
                Err(_) => return Err(self.stop_took_too_long().into()),
            }
        }
    }

    /// After a failure, for a bounded time: subtasks abort their open transactions, and prepared ones that no checkpoint can
    /// promise are aborted, so that readers need not wait for the next start.
    async fn abort(&mut self) {
        self.tell_all(|| Command::Abort);
        let unpromised = if self.in_doubt { Vec::new() } else { self.commits.unpromised() };
        let transactions = self.sink_client.transactions();
        let prepared = futures_util::future::join_all(unpromised.iter().map(|committable| async {
            if let Err(error) = transactions.end(&committable.transaction, false).await {
                tracing::warn!(transaction = %committable.identity(), %error, "could not be aborted");
            }
        }));
        let subtasks = async { while self.subtasks.join_next().await.is_some() {} };
        let all = async { tokio::join!(prepared, subtasks) };
        if tokio::time::timeout(ABORT_WITHIN, all).await.is_err() {
            tracing::warn!("not every open transaction could be aborted in time; the next start does it");
        }
    }

    fn update_watermark(&mut self) {
        let subtasks: Vec<_> = self.gauges.iter().map(|gauges| gauges.read()).collect();
        let enumerator = self.enumerator.metrics();
        let mut source = SourceMetrics {
            dropped_partitions: enumerator.dropped,
            waited_for_partitions: enumerator.waited_for,
            unsubscribed_partitions: enumerator.kept_unsubscribed,
            failed_discoveries: enumerator.failures,
            ..SourceMetrics::default()
        };
        let mut partitions = Vec::new();
        for live in self.gauges.iter().filter_map(|gauges| gauges.source.get()) {
            source.add(&live.read());
            partitions.extend(live.splits());
        }
        partitions.sort_by(|one, other| one.topic_partition.cmp(&other.topic_partition));
        self.report.metrics.partitions = partitions;
        self.report.metrics.source = source;
        self.report.metrics.watermark = job_watermark(self.report.metrics.watermark, &subtasks);
        self.report.metrics.subtasks = subtasks;
    }

    fn publish(&mut self) {
        self.update_watermark();
        let open = self.gauges.iter().filter_map(|gauges| gauges.open_for());
        let pending = self.commits.pending().map(|committable| age(&committable.transaction));
        let time_left = self.time_left.look(Instant::now(), open.chain(pending));
        let metrics = &mut self.report.metrics;
        metrics.outcomes.add(self.commits.take_counts());
        metrics.records_in =
            self.before.0 + metrics.subtasks.iter().map(|subtask| subtask.records_in).sum::<u64>();
        metrics.records_out =
            self.before.1 + metrics.subtasks.iter().map(|subtask| subtask.records_out).sum::<u64>();
        let bytes = self.gauges.iter().map(|gauges| gauges.bytes_out.load(Ordering::Relaxed));
        metrics.bytes_out = self.before.2 + bytes.sum::<u64>();
        metrics.late_records =
            self.before_late + metrics.subtasks.iter().map(|subtask| subtask.late_records).sum::<u64>();
        metrics.pending_commits = self.commits.len() as u64;
        metrics.transaction_time_left = time_left;
        metrics.elapsed = self.began.elapsed();
        self.control.publish(metrics.clone());
    }

    fn tell(&self, subtask: u32, command: Command) {
        // A subtask that is gone is noticed where its task is joined.
        if let Some(commands) = self.commands.get(subtask as usize) {
            let _ = commands.send(command);
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for commands in &self.commands {
            let _ = commands.send(command());
        }
    }
}

/// What makes two clients talk to the same cluster.
fn cluster_name(client: &Client) -> String {
    let cluster = client.cluster();
    match cluster.cluster_id() {
        Some(id) => id.to_owned(),
        None => client.config().bootstrap.join(","),
    }
}

fn early_end(ended: Result<Result<(), Halt>, tokio::task::JoinError>) -> Halt {
    match ended {
        Ok(Err(halt)) => halt,
        Ok(Ok(())) => Error::new(ErrorKind::Closed, "a subtask ended before the job did").into(),
        Err(error) if error.is_panic() => {
            let panic = error.into_panic();
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| String::from("no message"));
            Error::new(ErrorKind::Schema, format!("a function of the job panicked: {text}")).into()
        }
        Err(error) => Error::new(ErrorKind::Closed, "a subtask was ended").with_source(error).into(),
    }
}

/// The next offset of each partition, by name.
pub(super) fn offsets_by_name(
    state: &CheckpointState,
    known: &[crate::source::Split],
) -> BTreeMap<String, i64> {
    known
        .iter()
        .chain(&state.splits)
        .map(|split| (split.topic_partition.to_string(), split.next_offset.0))
        .collect()
}
