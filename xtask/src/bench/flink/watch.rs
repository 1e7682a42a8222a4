//! One run of a job, looked at from outside: how far its output has come, and what the kernel counts on its process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// How long one run may take.
const LONGEST_RUN: Duration = Duration::from_secs(600);

/// CPU time in /proc is in these parts of a second, on every Linux.
const TICKS: f64 = 100.0;

/// What a run cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// CPU time of the whole process, user and system, over its whole life.
    pub(super) cpu_s: f64,
    pub(super) wall_s: f64,
    /// Peak of resident memory.
    pub(super) rss_kib: u64,
    /// From the start of the process to the first record in the output's log.
    pub(super) first_s: f64,
    /// And to the first that a reader of committed records sees.
    pub(super) visible_s: f64,
    /// The window: from a quarter of the records in the output's log to all of them.
    pub(super) window_records: u64,
    pub(super) window_cpu_s: f64,
    pub(super) window_wall_s: f64,
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: f64,
    cpu_s: f64,
    written: u64,
    visible: u64,
}

/// Collects what a run came to from samples in their order.
#[derive(Debug, Default)]
struct Progress {
    records: u64,
    first: Option<f64>,
    visible: Option<f64>,
    begin: Option<Sample>,
    end: Option<Sample>,
}

impl Progress {
    fn handle(&mut self, sample: Sample) {
        if sample.written > 0 {
            self.first.get_or_insert(sample.at);
        }
        if sample.visible > 0 {
            self.visible.get_or_insert(sample.at);
        }
        if sample.written >= self.records / 4 {
            self.begin.get_or_insert(sample);
        }
        if sample.written >= self.records {
            self.end.get_or_insert(sample);
        }
    }

    fn finish(&self, last: Sample, rss_kib: u64) -> Result<Run> {
        let (Some(first), Some(visible)) = (self.first, self.visible) else { bail!("nothing was written") };
        let (Some(begin), Some(end)) = (self.begin, self.end) else { bail!("not all was written") };
        ensure!(end.at > begin.at, "all was written between two looks: too few records");
        Ok(Run {
            cpu_s: last.cpu_s,
            wall_s: last.at,
            rss_kib,
            first_s: first,
            visible_s: visible,
            window_records: end.written - begin.written,
            window_cpu_s: end.cpu_s - begin.cpu_s,
            window_wall_s: end.at - begin.at,
        })
    }
}

/// Runs a job while `ends` prints how far its output is.
pub(super) fn run(mut job: Command, mut ends: Command, records: u64, folder: &Path) -> Result<Run> {
    let mut ends = ends.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the floor")?;
    let mut lines = BufReader::new(ends.stdout.take().context("no stdout")?).lines();
    let watched = (|| {
        // It looks at the topic before the job starts.
        lines.next().context("the topic can't be asked for its ends")??;
        let log = folder.join("output");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        job.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let began = Instant::now();
        let mut child = job.spawn().with_context(|| format!("{:?}", job.get_program()))?;
        let watched = watch(&child, began, records, &mut lines);
        if watched.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(status.success() || watched.is_err(), "the job ended with {status}: {}", said());
        watched.with_context(said)
    })();
    let _ = ends.kill();
    let _ = ends.wait();
    watched
}

fn watch(
    child: &Child,
    began: Instant,
    records: u64,
    lines: &mut impl Iterator<Item = std::io::Result<String>>,
) -> Result<Run> {
    let process = Path::new("/proc").join(child.id().to_string());
    let mut progress = Progress { records, ..Progress::default() };
    let mut rss_kib = 0;
    loop {
        ensure!(began.elapsed() < LONGEST_RUN, "no end after {} s", LONGEST_RUN.as_secs());
        let line = lines.next().context("the ends are not told any more")??;
        let at = began.elapsed().as_secs_f64();
        let (written, visible) = line.split_once(' ').context("no ends")?;
        let (has_ended, cpu_s) = times(&process)?;
        let sample = Sample { at, cpu_s, written: written.parse()?, visible: visible.parse()? };
        progress.handle(sample);
        if has_ended {
            return progress.finish(sample, rss_kib);
        }
        // A process that ends between the two looks has no memory any more.
        rss_kib = rss_kib.max(peak_kib(&process).unwrap_or_default());
    }
}

/// Whether the process has ended, and its CPU time: nobody has waited for it yet, so the kernel still tells.
fn times(process: &Path) -> Result<(bool, f64)> {
    let text = fs::read_to_string(process.join("stat")).context("the process is gone")?;
    parse_times(&text).with_context(|| text.clone())
}

/// The state is the first field behind the name, which stands in parentheses; user and system time are the 12th and 13th.
fn parse_times(text: &str) -> Option<(bool, f64)> {
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((["Z", "X"].contains(fields.first()?), (ticks(11)? + ticks(12)?) / TICKS))
}

fn peak_kib(process: &Path) -> Option<u64> {
    let text = fs::read_to_string(process.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_process_are_read_whatever_its_name() {
        let text = "12 (a) b (c) S 1 12 12 0 -1 4194304 500 0 0 0 150 25 0 0 20 0 1 0 5 1 1";
        assert_eq!(parse_times(text), Some((false, 1.75)));
        assert_eq!(parse_times(&text.replace(") S", ") Z")), Some((true, 1.75)));
        assert_eq!(parse_times("12 (a) S 1"), None);
    }

    #[test]
    fn the_window_begins_at_a_quarter_and_ends_with_all() {
        let mut progress = Progress { records: 100, ..Progress::default() };
        let sample = |at, cpu_s, written, visible| Sample { at, cpu_s, written, visible };
        let samples = [
            (0.1, 0.0, 0, 0),
            (0.2, 0.5, 10, 0),
            (0.3, 1.0, 30, 20),
            (0.4, 2.0, 100, 20),
            (0.5, 2.5, 112, 112),
        ];
        for (at, cpu_s, written, visible) in samples {
            progress.handle(sample(at, cpu_s, written, visible));
        }
        let run = progress.finish(sample(0.5, 2.5, 112, 112), 7).unwrap();
        assert_eq!((run.first_s, run.visible_s, run.cpu_s, run.wall_s, run.rss_kib), (0.2, 0.3, 2.5, 0.5, 7));
        assert_eq!((run.window_records, run.window_cpu_s), (70, 1.0));
    }

    #[test]
    fn a_run_that_did_not_write_all_is_none() {
        let mut progress = Progress { records: 100, ..Progress::default() };
        progress.handle(Sample { at: 1.0, cpu_s: 1.0, written: 99, visible: 99 });
        assert!(progress.finish(Sample::default(), 0).is_err());
    }
}
