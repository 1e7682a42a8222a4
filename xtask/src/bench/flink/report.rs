//! Tables for people, and the bars.

use std::fmt::Write as _;

use super::Results;
use super::jobs::{self, Job, Side};
use super::watch::Run;
use crate::bench::bars::{Bar, Limit, bar};
use crate::bench::report::{bars as bar_table, grouped};
use crate::bench::results::median;

/// A figure of a run of so many records.
type Figure = fn(u64, &Run) -> f64;

/// Records a second, over the whole life of the process and over the window.
const RATES: [Figure; 2] = [
    |records, run| records as f64 / run.wall_s,
    |_, run| run.window_records as f64 / run.window_wall_s.max(f64::MIN_POSITIVE),
];
/// Microseconds of CPU time a record, likewise. The kernel counts in hundredths of a second.
const COSTS: [Figure; 2] = [
    |records, run| run.cpu_s * 1e6 / records as f64,
    |_, run| run.window_cpu_s.max(0.01) * 1e6 / run.window_records as f64,
];

impl Results {
    fn figures(&self, job: &Job, figure: Figure) -> Vec<f64> {
        let runs = self.runs.get(&job.name()).map(Vec::as_slice).unwrap_or_default();
        runs.iter().map(|run| figure(self.records, run)).collect()
    }

    fn median(&self, job: &Job, figure: Figure) -> Option<f64> {
        median(&self.figures(job, figure))
    }

    /// The median of the rounds' own ratios.
    fn ratio(&self, above: &Job, below: &Job, figure: Figure) -> Option<f64> {
        let below = self.figures(below, figure);
        let ratios = self.figures(above, figure).into_iter().zip(below).map(|(above, below)| above / below);
        median(&ratios.collect::<Vec<_>>())
    }
}

fn of(side: Side) -> Vec<Job> {
    jobs::all().into_iter().filter(|job| job.side == side).collect()
}

/// One run in words.
pub(super) fn shown(records: u64, run: &Run) -> String {
    let [rate, window_rate] = RATES.map(|figure| figure(records, run) / 1e3);
    let [cost, window_cost] = COSTS.map(|figure| figure(records, run));
    format!(
        "{rate:6.0} k/s (window {window_rate:6.0}), {cost:5.2} us CPU a record (window {window_cost:5.3}), first after {:.2} s",
        run.first_s
    )
}

/// The bars, each held to the worst job; ratios to the worst pair of jobs with the same settings, over the whole life and in the window.
fn judge(results: &Results) -> Vec<Bar> {
    let milena = of(Side::Milena);
    let ratios = |figure: Figure, is_rate: bool| {
        let ratio = |job: &Job| match is_rate {
            true => results.ratio(job, &job.beside(), figure),
            false => results.ratio(&job.beside(), job, figure),
        };
        milena.iter().filter_map(ratio).reduce(f64::min)
    };
    let most = |figures: &[Figure]| {
        let medians = milena.iter().flat_map(|job| figures.iter().map(|figure| results.median(job, *figure)));
        medians.flatten().reduce(f64::max)
    };
    let mut bars = Vec::new();
    for (figure, way) in RATES.into_iter().zip(WAYS) {
        let text = format!("records a second by Flink's with the same settings, {way}");
        bars.push(bar(text, Limit::AtLeast(3.0), None, ratios(figure, true)));
    }
    for (figure, way) in COSTS.into_iter().zip(WAYS) {
        let text = format!("records per CPU second by Flink's with the same settings, {way}");
        bars.push(bar(text, Limit::AtLeast(8.0), None, ratios(figure, false)));
    }
    let text = "microseconds of CPU time a record, whichever way takes more";
    bars.push(bar(text, Limit::AtMost(0.35), None, most(&COSTS)));
    let text = "seconds from the start to the first record written";
    bars.push(bar(text, Limit::AtMost(0.5), None, most(&[|_, run| run.first_s])));
    bars
}

/// The two ways of [`RATES`] and [`COSTS`].
const WAYS: [&str; 2] = ["whole life", "in the window"];

/// What was measured, and what became of the bars.
pub(super) fn tables(results: &Results) -> String {
    let mut text = String::from(
        "| job | records/s, k | in the window | CPU us a record | in the window (least to most) | CPU s in all | first written, s | first \
         visible, s | peak MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for job in jobs::all() {
        let Some(cpu) = results.median(&job, |_, run| run.cpu_s) else { continue };
        let figure = |figure: Figure| results.median(&job, figure).unwrap_or_default();
        let [rate, window_rate] = RATES.map(|rate| figure(rate) / 1e3);
        let [cost, window_cost] = COSTS.map(figure);
        let [_, window] = COSTS;
        let all = results.figures(&job, window);
        let (least, most) =
            all.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), it| (least.min(*it), most.max(*it)));
        let peak =
            results.figures(&job, |_, run| run.rss_kib as f64 / 1024.0).into_iter().fold(0.0, f64::max);
        let (first, visible) = (figure(|_, run| run.first_s), figure(|_, run| run.visible_s));
        let _ = writeln!(
            text,
            "| {} | {rate:.0} | {window_rate:.0} | {cost:.2} | {window_cost:.2} ({least:.2} to {most:.2}) | {cpu:.1} | {first:.2} | \
             {visible:.2} | {peak:.0} |",
            worded(&job)
        );
    }
    let _ = writeln!(text, "\n{}", ratios(results));
    text + &bar_table(&judge(results))
}

/// milena's jobs by Flink's.
fn ratios(results: &Results) -> String {
    let mut text = String::from(
        "| milena by Flink with the same settings, round by round | records/s | in the window | records per CPU s | in the window |\n\
         |---|--:|--:|--:|--:|\n",
    );
    for job in of(Side::Milena) {
        let flink = job.beside();
        let rates = RATES.map(|figure| results.ratio(&job, &flink, figure));
        let gains = COSTS.map(|figure| results.ratio(&flink, &job, figure));
        let ([Some(rate), Some(window_rate)], [Some(gain), Some(window_gain)]) = (rates, gains) else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {rate:.1} | {window_rate:.1} | {gain:.1} | {window_gain:.1} |",
            worded(&job)
        );
    }
    text
}

fn worded(job: &Job) -> String {
    let name = if job.side == Side::Flink { "Flink" } else { "**milena**" };
    format!("{name}, {}, parallelism {}", if job.tuned { "tuned" } else { "defaults" }, job.parallelism)
}

/// docs/flink.md.
pub(super) fn document(results: &Results) -> String {
    let rounds = results.runs.values().map(Vec::len).max().unwrap_or_default();
    let mut text = format!(
        "# Beside Flink\n\n\
         Written by `cargo xtask bench flink --write-docs`; every figure below is from the runs that the command made. The job: {} records \
         with values of 100 bytes, from one topic of 6 partitions to another without change, exactly once, a checkpoint each second into a \
         folder, until the end of the input. Flink runs its own KafkaSource and KafkaSink in a process of its own (a MiniCluster, \
         [CopyJob.java](../benches/peers/flink/CopyJob.java)); milena's side is `milena copy`. Tuned is `batch.size` 256 KiB and \
         `linger.ms` 10, and for Flink object reuse. Flink's job copies values, which is all that the records have; `milena copy` also keeps \
         keys, headers, partitions and timestamps.\n\n\
         In each of {rounds} rounds all jobs run one after the other on the same broker, and share the cores with it. CPU time is that of \
         the job's whole process, user and system, as the kernel counts it; figures are medians of the rounds. *In the window* is from a \
         quarter of the records in the output's log to all of them: without start-up and, for Flink, with compiled code. The other \
         figures are of the whole life of the process. First written is from the start of the process to the first record in the output's log, \
         so it was read before; first visible, to the first that a reader of committed records sees, for which a checkpoint must be complete. \
         Both were looked at each 10 ms, from outside. After each run the output was read committed: as many records with the same checksum as \
         the input, no open and no aborted transaction.\n\n\
         A bar is held to the worst job, and a ratio to the worst pair with the same settings. The whole life has Flink's start-up in it, which \
         flatters milena the more, the shorter the job; the window has none.\n\n",
        grouped(results.records)
    );
    let _ = writeln!(text, "- Machine: {}\n- Broker: {}", results.machine, results.broker);
    for (side, version) in &results.versions {
        let _ = writeln!(text, "- {side}: {version}");
    }
    text.push('\n');
    text += tables(results).trim_end();
    text += "\n\nThe layout of partitions over subtasks is Flink's too: `Assigner::FlinkHash` is held to what Flink's own classes \
             (`KafkaSourceEnumerator`, and `KafkaTopicPartitionAssigner` of the classic consumer) answer, by vectors that `cargo xtask \
             flink-hash` makes.\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::bars::Verdict;

    fn results(milena: Run, flink: Run) -> Results {
        let runs = jobs::all().into_iter().map(|job| {
            let run = if job.side == Side::Flink { flink } else { milena };
            (job.name(), vec![run; 3])
        });
        Results { records: 1000, runs: runs.collect(), ..Results::default() }
    }

    fn verdicts(results: &Results) -> Vec<bool> {
        judge(results).iter().map(|bar| matches!(bar.verdict, Verdict::Met { .. })).collect()
    }

    #[test]
    fn a_start_that_flatters_does_not_hide_what_the_window_shows() {
        let run = |cpu_s, wall_s, window_cpu_s, window_wall_s| Run {
            cpu_s,
            wall_s,
            window_records: 100_000_000,
            window_cpu_s,
            window_wall_s,
            first_s: 0.1,
            ..Run::default()
        };
        let flink = run(400.0, 40.0, 320.0, 32.0);
        let milena = run(1.0, 1.0, 32.0, 8.0);
        // A process that costs 1,000 microseconds for each of its 1,000 records, though 0.32 in the window.
        assert_eq!(verdicts(&results(milena, flink)), [true, true, true, true, false, true]);
        let slower = run(1.0, 1.0, 41.0, 16.0);
        assert_eq!(verdicts(&results(slower, flink)), [true, false, true, false, false, true]);
    }

    #[test]
    fn one_bad_pair_is_enough() {
        let run = Run {
            cpu_s: 1e-4,
            wall_s: 1.0,
            window_records: 1_000_000,
            window_cpu_s: 0.1,
            window_wall_s: 1.0,
            ..Run::default()
        };
        let flink = Run { cpu_s: 10.0, wall_s: 9.0, window_cpu_s: 10.0, window_wall_s: 9.0, ..run };
        let mut results = results(run, flink);
        assert_eq!(verdicts(&results), [true; 6]);
        results.runs.get_mut("milena-tuned-2").unwrap().fill(Run { first_s: 0.6, wall_s: 8.0, ..run });
        assert_eq!(verdicts(&results), [false, true, true, true, true, false]);
    }

    #[test]
    fn nothing_measured_is_never_met() {
        assert_eq!(verdicts(&Results::default()), [false; 6]);
    }
}
