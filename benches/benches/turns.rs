//! All cases with their rows in turns, and the least time of each row.
//!
//! A machine that does other work disturbs one row more than the next, and means and medians with it. The least of many short
//! runs, taken in turns, is what the work costs when nothing disturbs it; so is its ratio to the last row's, which
//! does the least that is possible.
//!
//! `cargo bench -p milena-benches --bench turns [-- PART OF A NAME]`

use milena_benches::{Amount, Bar, Case, Most, codecs, records};
use std::time::{Duration, Instant};

/// A run that is shorter is repeated until it is as long, so that the clock does not matter.
const LEAST_RUN: Duration = Duration::from_micros(100);
/// For how long the rows of a case take turns.
const CASE: Duration = Duration::from_secs(3);

fn main() {
    // As a test, cargo passes nothing; as a bench, `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let smoke = !arguments.iter().any(|argument| argument == "--bench");
    let part = arguments.iter().find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let mut met = Vec::new();
    for case in records::cases().into_iter().chain(codecs::cases()) {
        if case.name.contains(&part) {
            met.extend(measure(case, if smoke { Duration::ZERO } else { CASE }));
        }
    }
    if !smoke {
        println!("{} of {} bars are met", met.iter().filter(|met| **met).count(), met.len());
    }
}

/// Measures the rows and prints them; which bars are met.
fn measure(mut case: Case, length: Duration) -> Vec<bool> {
    let mut repeats = vec![1u32; case.rows.len()];
    let mut least = vec![Duration::MAX; case.rows.len()];
    let start = Instant::now();
    loop {
        for (((_, run), repeat), least) in case.rows.iter_mut().zip(&mut repeats).zip(&mut least) {
            let start = Instant::now();
            for _ in 0..*repeat {
                run();
            }
            let took = start.elapsed();
            *least = (*least).min(took / *repeat);
            if took < LEAST_RUN {
                *repeat = repeat.saturating_mul(2);
            }
        }
        if start.elapsed() >= length {
            break;
        }
    }
    let last = least.last().copied().unwrap_or_default();
    println!("{}", case.name);
    for ((name, _), least) in case.rows.iter().zip(&least) {
        let nanoseconds = least.as_nanos() as f64;
        let each = match case.amount {
            Amount::Records(records) => format!("{:8.1} ns a record", nanoseconds / records as f64),
            Amount::Bytes(bytes) => format!("{:8.0} MB/s", bytes as f64 * 1000.0 / nanoseconds),
            Amount::Once => format!("{nanoseconds:8.0} ns"),
        };
        let ratio = nanoseconds / last.as_nanos().max(1) as f64;
        println!("    {name:24} {:10.2} us {each:>20} {ratio:6.2} x", nanoseconds / 1000.0);
    }
    let cost = |row| {
        let found = case.rows.iter().zip(&least).find(|((name, _), _)| *name == row);
        found.map_or(f64::NAN, |(_, least)| least.as_nanos() as f64)
    };
    case.bars.iter().map(|bar| judge(bar, cost(bar.row), cost(bar.against), case.amount)).collect()
}

fn judge(bar: &Bar, cost: f64, other: f64, amount: Amount) -> bool {
    let records = if let Amount::Records(records) = amount { records as f64 } else { 1.0 };
    let Bar { row, against, most } = bar;
    let (found, most, text) = match most {
        Most::Times(most) => (cost / other, most, format!("times {against}")),
        Most::Beyond(most) => ((cost - other) / records, most, format!("ns a record beyond {against}")),
        Most::Each(most) => (cost / records, most, "ns a record".to_owned()),
    };
    let met = found <= *most;
    println!("    {row}: {found:.2} {text}, at most {most:.2}: {}", if met { "met" } else { "MISSED" });
    met
}
