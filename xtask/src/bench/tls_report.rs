//! What TLS costs, for people.

use std::fmt::Write as _;

use super::peers::PLAIN;
use super::results::{Line, Measured, Results, median};

/// docs/security-performance.md.
pub(crate) fn document(results: &Results) -> String {
    let mut text = String::from(
        "# What TLS costs\n\n\
         Written by `cargo xtask bench peers --cases tls --write-docs`; every figure below is from the runs that the command made. How they are \
         made: [benches/peers/README.md](../benches/peers/README.md). The figures are CPU time of the client's whole process, user and system, \
         over a warm window, by the bytes of values in it: medians of the rounds, with the least and the most. In each round all rows do the \
         same work one after the other, and the ratios are medians of each round's own ratio: *by plaintext* is the cost by that of the same \
         client without TLS in the same round, *by librdkafka* the cost by that of librdkafka with OpenSSL. The broker is a JVM with an RSA \
         certificate; all speak TLS 1.3. milena's default is graviola, which is no C; the others stand in for it by \
         `TlsConfig::provider`.\n\n",
    );
    let _ = writeln!(text, "- Machine: {}\n- Broker: {}", results.machine, results.broker);
    for peer in ["milena", "rdkafka"] {
        if let Some(version) = results.versions.get(peer) {
            let _ = writeln!(text, "- {peer}: {version}");
        }
        if let Some(reason) = results.not_run.get(peer) {
            let _ = writeln!(text, "- {peer}: not run ({})", reason.lines().next().unwrap_or_default());
        }
    }
    text += &tables(results);
    text
}

/// A table for each case.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    for measured in results.cases.values() {
        let rounds = measured.rows.values().map(Vec::len).max().unwrap_or_default();
        let _ = writeln!(
            text,
            "\n## {}\n\n{}; {} records in the window, {rounds} rounds.\n",
            measured.case.name,
            measured.case.text(),
            measured.window
        );
        text += &table(measured);
        for (row, reason) in &measured.failed {
            let _ = writeln!(text, "\nNo result of {row}: {}.", reason.lines().next().unwrap_or_default());
        }
    }
    text
}

fn table(measured: &Measured) -> String {
    let mut text =
        "| | ns CPU a byte (least to most) | of which TLS | by plaintext | by librdkafka | MB/s |\n\
                    |---|--:|--:|--:|--:|--:|\n"
            .to_owned();
    let size = f64::from(measured.case.value_size);
    let cost = |line: &Line| line.ns_per_record() / size;
    let rows = measured.rows.keys().filter(|row| !row.starts_with("floor/"));
    let mut rows: Vec<(&String, f64)> =
        rows.filter_map(|row| Some((row, median(&measured.figures(row, cost))?))).collect();
    rows.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    for (row, middle) in rows {
        let figures = measured.figures(row, cost);
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let most = figures.iter().copied().fold(0.0, f64::max);
        let over = |other: &str, what: fn(f64, f64) -> f64| {
            let both = figures.iter().zip(measured.figures(other, cost));
            let by_round: Vec<f64> = both.map(|(own, other)| what(*own, other)).collect();
            if other == row.as_str() { None } else { median(&by_round) }
        };
        let plain = plaintext(row);
        let shown = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
        let other = if row.ends_with(PLAIN) { "rdkafka/best+plain" } else { "rdkafka/best" };
        let rate = median(&measured.figures(row, Line::rate)).unwrap_or_default() * size;
        let _ = writeln!(
            text,
            "| {} | {middle:.2} ({least:.2} to {most:.2}) | {} | {} | {} | {rate:.0} |",
            name(row),
            shown(over(&plain, |own, plain| own - plain)),
            shown(over(&plain, |own, plain| own / plain)),
            shown(over(other, |own, other| own / other)),
        );
    }
    text
}

/// The row of the same client without TLS.
fn plaintext(row: &str) -> String {
    format!("{}{PLAIN}", row.split('+').next().unwrap_or(row))
}

fn name(row: &str) -> String {
    let (peer, mode) = row.split_once('/').unwrap_or((row, ""));
    let way = match (peer, mode.split_once('+')) {
        (_, Some((_, "plain"))) => "plaintext",
        (_, Some((_, other))) => other,
        ("milena", None) => "graviola",
        _ => "OpenSSL",
    };
    match peer {
        "milena" => format!("**milena, {way}**"),
        peer => format!("{peer}, {way}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cases;

    #[test]
    fn costs_are_by_the_byte_and_beside_plaintext() {
        let case = cases::all().into_iter().find(|case| case.name == "consume-6-100-tls").unwrap();
        let line =
            |ns: u64| Line { cpu_ns: ns * 1000, window_records: 1000, wall_ns: 1_000_000, ..Line::default() };
        let rows = [("milena/batches", 150), ("milena/batches+plain", 50), ("rdkafka/best", 300)];
        let rows = rows.map(|(row, ns)| (row.to_owned(), vec![line(ns), line(ns * 2)])).into();
        let measured = Measured {
            case,
            window: 1000,
            rows,
            topic_bytes: None,
            profiles: Default::default(),
            failed: Default::default(),
        };
        let results =
            Results { cases: [("consume-6-100-tls".to_owned(), measured)].into(), ..Results::default() };
        let text = document(&results);
        assert!(
            text.contains("| **milena, graviola** | 2.25 (1.50 to 3.00) | 1.50 | 3.00 | 0.50 | 100 |"),
            "{text}"
        );
        assert!(text.contains("| **milena, plaintext** | 0.75 (0.50 to 1.00) | - | - | - | 100 |"), "{text}");
        assert!(text.contains("| rdkafka, OpenSSL | 4.50 (3.00 to 6.00) | - | - | - | 100 |"), "{text}");
    }
}
