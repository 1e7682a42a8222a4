//! Tables for people.

use std::fmt::Write as _;

use super::bars::{Bar, Limit, Verdict};
use super::cases::Role;
use super::profile::LEAST_PERCENT;
use super::results::{FLOOR, Line, Measured, Results, median};

/// A table for each case, and where time went if that was sampled.
pub(crate) fn tables(results: &Results) -> String {
    results.cases.values().map(|measured| table(measured) + &profiles(measured)).collect()
}

fn table(measured: &Measured) -> String {
    let mut text = String::new();
    let rounds = measured.rows.values().map(Vec::len).max().unwrap_or_default();
    let _ = writeln!(text, "### {}\n", measured.case.name);
    let _ = writeln!(
        text,
        "{}; {} records in the window, {rounds} rounds.\n",
        measured.case.text(),
        grouped(measured.window)
    );
    text += &match measured.case.role {
        Role::Latency => latencies(measured),
        _ => costs(measured),
    };
    text.push('\n');
    for (row, reason) in &measured.failed {
        let reason = reason.lines().next().unwrap_or_default();
        let _ = writeln!(text, "No result of {}: {reason}.\n", row.replace('/', " "));
    }
    text
}

fn costs(measured: &Measured) -> String {
    let has_received = measured.rows.values().flatten().any(|line| line.received_bytes.is_some());
    let mut text =
        "| | ns CPU a record (least to most) | by the floor's | M records/s | peak MiB |".to_owned();
    text += if has_received { " bytes received by bytes of batches |\n" } else { "\n" };
    text += "|---|--:|--:|--:|--:|";
    text += if has_received { "--:|\n" } else { "\n" };
    let mut rows: Vec<(&String, f64)> = measured
        .rows
        .keys()
        .filter_map(|row| Some((row, median(&measured.figures(row, Line::ns_per_record))?)))
        .collect();
    rows.sort_by(|(one, cost), (other, more)| {
        other.starts_with("floor/").cmp(&one.starts_with("floor/")).then(cost.total_cmp(more))
    });
    for (row, cost) in rows {
        let figures = measured.figures(row, Line::ns_per_record);
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(0.0, f64::max);
        let ratio = median(&measured.ratios(row)).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let rate = median(&measured.figures(row, Line::rate)).unwrap_or_default();
        let peak = measured.figures(row, |line| line.rss_kib as f64 / 1024.0).into_iter().fold(0.0, f64::max);
        let _ = write!(
            text,
            "| {} | {cost:.0} ({least:.0} to {most:.0}) | {ratio} | {rate:.2} | {peak:.0} |",
            emphasized(row)
        );
        if has_received {
            let by_batches = measured.topic_bytes.map_or(Vec::new(), |bytes| {
                let lines = measured.rows.get(row).map(Vec::as_slice).unwrap_or_default();
                let received = lines.iter().filter_map(|line| line.received_bytes);
                received.map(|received| received as f64 / bytes.max(1) as f64).collect()
            });
            let shown = median(&by_batches).map_or("-".to_owned(), |figure| format!("{figure:.3}"));
            let _ = write!(text, " {shown} |");
        }
        text.push('\n');
    }
    text
}

fn latencies(measured: &Measured) -> String {
    let mut text = "| microseconds | p50 | p99 | p99.9 | peak MiB |\n|---|--:|--:|--:|--:|\n".to_owned();
    for row in measured.rows.keys() {
        let at = |figure: fn(&Line) -> Option<f64>| {
            let figures = measured.figures(row, |line| figure(line).unwrap_or(f64::NAN));
            median(&figures).map_or("-".to_owned(), |figure| format!("{figure:.0}"))
        };
        let peak = measured.figures(row, |line| line.rss_kib as f64 / 1024.0).into_iter().fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {peak:.0} |",
            emphasized(row),
            at(|line| line.p50_us),
            at(|line| line.p99_us),
            at(|line| line.p999_us)
        );
    }
    text
}

/// The rows whose samples the document shows.
const SHOWN_PROFILES: [(&str, &str); 2] =
    [("consume-6-100", "milena/batches"), ("produce-6-100", "milena/ticket")];

/// Where the CPU time goes: the kernel as one line, and every function above the least part that is told.
fn remaining(results: &Results) -> String {
    let mut text = String::new();
    for (case, row) in SHOWN_PROFILES {
        let found = results.cases.get(case).and_then(|measured| measured.profiles.get(row));
        let Some(functions) = found else { continue };
        let is_kernel = |function: &str| function.starts_with("kernel: ");
        let kernel: f64 =
            functions.iter().filter(|(function, _)| is_kernel(function)).map(|(_, percent)| percent).sum();
        let told: f64 = functions.iter().map(|(_, percent)| percent).sum();
        let _ = writeln!(text, "| {case}, {} | % |\n|---|--:|", row.replace('/', " "));
        let _ = writeln!(text, "| the kernel: sockets, memory, waking | {kernel:.1} |");
        for (function, percent) in functions.iter().filter(|(function, _)| !is_kernel(function)) {
            let _ = writeln!(text, "| `{}` | {percent:.1} |", function.replace('|', "\\|"));
        }
        let _ =
            writeln!(text, "| all that is below {LEAST_PERCENT} each | {:.1} |\n", (100.0 - told).max(0.0));
    }
    if text.is_empty() {
        return text;
    }
    let head = "## Where the CPU time goes\n\n\
        Sampled by `perf` in one more run of the case (`--breakdown`), the client's whole process, in % of its samples.\n\n";
    head.to_owned() + &text
}

/// Where the time went, side by side.
fn profiles(measured: &Measured) -> String {
    let mut text = String::new();
    for (row, functions) in &measured.profiles {
        let _ = writeln!(
            text,
            "Where {} spends its time, % of samples of its CPU time:\n",
            row.replace('/', " ")
        );
        for (function, percent) in functions {
            let _ = writeln!(text, "- {percent:.1} `{function}`");
        }
        text.push('\n');
    }
    text
}

fn emphasized(row: &str) -> String {
    let shown = row.replace('/', " ").trim_end_matches(" best").to_owned();
    if row == FLOOR || row.starts_with("milena/") { format!("**{shown}**") } else { shown }
}

/// What became of each bar.
pub(crate) fn bars(bars: &[Bar]) -> String {
    let mut text = "| bar | wanted | goal | measured | |\n|---|--:|--:|--:|---|\n".to_owned();
    for bar in bars {
        let wanted = match bar.limit {
            Limit::AtMost(most) => format!("at most {most}"),
            Limit::AtLeast(least) => format!("at least {least}"),
        };
        let figure = |figure: Option<f64>| figure.map_or(String::new(), |figure| format!("{figure:.2}"));
        let verdict = match bar.verdict {
            Verdict::Met { goal: true } if bar.goal.is_some() => "met, the goal too",
            Verdict::Met { .. } => "met",
            Verdict::Missed => "**missed**",
            Verdict::NotMeasured => "not measured",
        };
        let _ = writeln!(
            text,
            "| {} | {wanted} | {} | {} | {verdict} |",
            bar.text,
            figure(bar.goal),
            figure(bar.measured)
        );
    }
    text
}

/// docs/performance.md.
pub(crate) fn document(results: &Results, bars_judged: &[Bar]) -> String {
    let mut text = String::from(
        "# What a record costs\n\n\
         Written by `cargo xtask bench peers --write-docs`; every figure below is from the runs that the command made. \
         What is compared and how the clients are set up: [benches/peers/README.md](../benches/peers/README.md).\n\n\
         The cost is the CPU time of the client's whole process, user and system, over a warm window, divided by the records of the \
         window. In each round all clients do the same work one after the other; figures are medians of the rounds, and *by the \
         floor's* is the median of each round's own ratio. The floor is no client: blocking sockets, one reused buffer, requests encoded by \
         hand; its stage raw moves the bytes, crc makes or verifies checksums too, full also encodes or walks (and compresses or \
         decompresses) every record. Every consumer's records were counted and their values' checksums compared with what was written; \
         what every producer wrote was read back and compared.\n\n",
    );
    let _ = writeln!(text, "- Machine: {}\n- Broker: {}", results.machine, results.broker);
    for (peer, version) in &results.versions {
        let _ = writeln!(text, "- {peer}: {version}");
    }
    for (peer, reason) in &results.not_run {
        let _ = writeln!(text, "- {peer}: not run ({})", reason.lines().next().unwrap_or_default());
    }
    let _ = writeln!(text, "\n## The bars\n\n{}", bars(bars_judged));
    text += &remaining(results);
    let tables: String = results.cases.values().map(table).collect();
    let _ = writeln!(text, "## The cases\n\n{}", tables.trim_end());
    text
}

pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cases;
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
    #[test]
    fn the_document_says_where_the_time_goes_if_it_was_sampled() {
        let mut results = Results::default();
        for case in cases::select(&["consume-6-100".to_owned(), "consume-1-100".to_owned()]).unwrap() {
            let measured = Measured {
                window: 1000,
                rows: BTreeMap::new(),
                topic_bytes: None,
                failed: BTreeMap::new(),
                profiles: BTreeMap::new(),
                case: case.clone(),
            };
            results.cases.insert(case.name.clone(), measured);
        }
        assert!(!document(&results, &[]).contains("Where the CPU time goes"));
        let samples = [("kernel: copy", 20.0), ("a|b", 30.5), ("kernel: wake", 5.0)];
        let samples = samples.map(|(function, percent)| (function.to_owned(), percent));
        for measured in results.cases.values_mut() {
            measured.profiles.insert("milena/batches".to_owned(), samples.to_vec());
        }
        let text = document(&results, &[]);
        let expected = "| consume-6-100, milena batches | % |\n|---|--:|\n| the kernel: sockets, memory, waking | 25.0 |\n\
            | `a\\|b` | 30.5 |\n| all that is below 1.5 each | 44.5 |\n\n## The cases\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.matches("the kernel").count(), 1, "{text}");
    }
}
