//! What milena holds itself to, and whether the results show it.

use super::cases::{Role, TUNED};
use super::results::{FLOOR, Line, Measured, Results, median};

/// What was found about one bar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Also the goal, if there is one.
    Met {
        goal: bool,
    },
    Missed,
    NotMeasured,
}

/// One bar.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) text: String,
    pub(crate) limit: Limit,
    pub(crate) goal: Option<f64>,
    pub(crate) measured: Option<f64>,
    pub(crate) verdict: Verdict,
}

/// Which side of the number is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }
}

pub(super) fn bar(text: impl Into<String>, limit: Limit, goal: Option<f64>, measured: Option<f64>) -> Bar {
    let verdict = match measured {
        None => Verdict::NotMeasured,
        Some(figure) if limit.holds(figure) => Verdict::Met { goal: goal.is_none_or(|goal| figure <= goal) },
        Some(_) => Verdict::Missed,
    };
    Bar { text: text.into(), limit, goal, measured, verdict }
}

/// Cost by the floor's: case, way of milena (empty for its main one), bar, goal.
const BY_FLOOR: [(&str, &str, f64, f64); 18] = [
    ("consume-1-100", "batches", 1.4, 1.25),
    ("consume-6-100", "batches", 1.4, 1.25),
    ("consume-1-100", "next", 1.4, 1.25),
    ("consume-6-100", "next", 1.4, 1.25),
    ("consume-1-100", "recv", 1.8, 1.6),
    ("consume-6-100", "recv", 1.8, 1.6),
    ("consume-6-1k", "batches", 1.25, 1.15),
    ("consume-6-100-lz4", "batches", 1.5, 1.3),
    ("consume-6-100-zstd", "batches", 1.5, 1.3),
    ("consume-1000-100", "batches", 1.4, 1.2),
    ("produce-1-100", "ticket", 2.6, 2.2),
    ("produce-6-100", "ticket", 2.6, 2.2),
    ("produce-1-100", "ticket-mt", 2.9, 2.5),
    ("produce-6-100", "ticket-mt", 2.9, 2.5),
    ("produce-6-100", "many", 1.8, 1.5),
    ("produce-6-100", "awaited", 3.2, 2.7),
    ("produce-6-100-lz4", "ticket", 1.5, 1.35),
    ("produce-6-100-zstd", "ticket", 1.5, 1.35),
];

/// All bars of the design.
pub(crate) fn judge(results: &Results) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (case, mode, most, goal) in BY_FLOOR {
        let measured =
            results.cases.get(case).and_then(|case| median(&case.ratios(&format!("milena/{mode}"))));
        bars.push(bar(
            format!("{case}, {mode}: cost by the floor's"),
            Limit::AtMost(most),
            Some(goal),
            measured,
        ));
    }
    for (case, least) in
        [("consume-6-100", 3.5), ("produce-6-100", 4.0), ("consume-1000-100", 3.5), ("produce-1000-100", 3.5)]
    {
        let measured = results.cases.get(case).and_then(by_best_peer);
        let text = format!("{case}: cost of the best idempotent peer by milena's");
        bars.push(bar(text, Limit::AtLeast(least), None, measured));
    }
    bars.extend(defaults(results));
    bars.extend(threads(results));
    for case in ["consume-6-100", "produce-6-100"] {
        let measured = results.cases.get(case).and_then(|case| {
            let best = best_of(case, Line::rate, |one, other| one > other)?;
            Some(median(&case.figures(&main_row(case)?, Line::rate))? / best)
        });
        let text = format!("{case}: records a second by the best peer's");
        bars.push(bar(text, Limit::AtLeast(1.3), None, measured));
    }
    bars.extend(latency(results));
    for (case, most) in [
        ("consume-6-100-default", 32.0),
        ("consume-1000-100-default", 32.0),
        ("produce-6-100-default", 48.0),
        ("produce-1000-100-default", 48.0),
    ] {
        let measured = results.cases.get(case).and_then(|case| {
            let peak = |line: &Line| line.rss_kib as f64 / 1024.0;
            main_row(case).and_then(|row| case.figures(&row, peak).into_iter().reduce(f64::max))
        });
        bars.push(bar(format!("{case}: peak memory in MiB"), Limit::AtMost(most), None, measured));
    }
    bars
}

/// The row of milena that a case is about; each role has one.
fn main_row(case: &Measured) -> Option<String> {
    let wanted = match case.case.role {
        Role::Consume => ["milena/batches", "milena/batches-mt"],
        Role::Produce => ["milena/ticket", "milena/ticket-mt"],
        Role::Latency => ["milena/ticket", "milena/ticket-mt"],
    };
    wanted.into_iter().find(|row| case.rows.contains_key(*row)).map(str::to_owned)
}

/// The rows of other clients that write idempotently.
fn is_peer(row: &str) -> bool {
    !["floor/", "milena/", "rskafka/"].iter().any(|own| row.starts_with(own))
}

fn best_of(case: &Measured, figure: impl Fn(&Line) -> f64, better: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let rows = case.rows.keys().filter(|row| is_peer(row));
    let medians = rows.filter_map(|row| median(&case.figures(row, &figure)));
    medians.reduce(|one, other| if better(one, other) { one } else { other })
}

/// How many times cheaper milena is than the best peer, round by round.
fn by_best_peer(case: &Measured) -> Option<f64> {
    let own = case.ratios(&main_row(case)?);
    let rounds = own.iter().enumerate().filter_map(|(round, own)| {
        let peers = case.rows.keys().filter(|row| is_peer(row));
        let ratios = peers.filter_map(|row| case.ratios(row).get(round).copied());
        Some(ratios.reduce(f64::min)? / own)
    });
    median(&rounds.collect::<Vec<_>>())
}

fn defaults(results: &Results) -> Vec<Bar> {
    let mut bars = Vec::new();
    for name in ["consume-6-100-default", "produce-6-100-default"] {
        let measured = results.cases.get(name).and_then(|case| {
            let tuned = case.figures(&format!("milena/{TUNED}"), Line::ns_per_record);
            let own = case.figures(&main_row(case)?, Line::ns_per_record);
            median(&own.iter().zip(tuned).map(|(own, tuned)| own / tuned).collect::<Vec<_>>())
        });
        let text = format!("{name}: cost by that of tuned settings, round by round");
        bars.push(bar(text, Limit::AtMost(1.15), None, measured));
    }
    let measured = results.cases.get("consume-6-100-default").and_then(|case| {
        let bytes = case.topic_bytes? as f64;
        let row = main_row(case)?;
        let lines = case.rows.get(&row)?.iter();
        let received: Vec<f64> = lines.filter_map(|line| Some(line.received_bytes? as f64 / bytes)).collect();
        median(&received)
    });
    bars.push(bar(
        "consume-6-100-default: bytes received by bytes of batches",
        Limit::AtMost(1.05),
        None,
        measured,
    ));
    bars
}

fn threads(results: &Results) -> Vec<Bar> {
    let figure = |name: &str, figure: fn(&Line) -> f64| {
        let case = results.cases.get(name)?;
        median(&case.figures(&main_row(case)?, figure))
    };
    let by_one = |what: fn(&Line) -> f64| {
        Some(figure("produce-6-100-threads-4", what)? / figure("produce-6-100-threads-1", what)?)
    };
    vec![
        bar(
            "four threads on one producer: cost by that of one thread",
            Limit::AtMost(1.5),
            None,
            by_one(Line::ns_per_record),
        ),
        bar(
            "four threads on one producer: records a second by those of one thread",
            Limit::AtLeast(1.0),
            None,
            by_one(Line::rate),
        ),
    ]
}

fn latency(results: &Results) -> Vec<Bar> {
    let case = results.cases.get("latency");
    let own = |figure: fn(&Line) -> f64| {
        let case = case?;
        median(&case.figures(&main_row(case)?, figure))
    };
    let p50 = |line: &Line| line.p50_us.unwrap_or(f64::NAN);
    let floor = case.and_then(|case| median(&case.figures(FLOOR, p50)));
    let by_floor = own(p50).and_then(|own| Some(own / floor?));
    let mut bars = vec![bar("latency: p50 by the floor's", Limit::AtMost(1.2), None, by_floor)];
    let p99 = |line: &Line| line.p99_us.unwrap_or(f64::NAN);
    let p999 = |line: &Line| line.p999_us.unwrap_or(f64::NAN);
    bars.push(tail("p99", p99, own(p99), case));
    bars.push(tail("p99.9", p999, own(p999), case));
    bars
}

fn tail(name: &str, figure: fn(&Line) -> f64, own: Option<f64>, case: Option<&Measured>) -> Bar {
    let best = case.and_then(|case| best_of(case, figure, |one, other| one < other));
    let measured = own.and_then(|own| Some(own / best?));
    bar(format!("latency: {name} by the best peer's"), Limit::AtMost(1.0), None, measured)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::cases;

    fn measured(name: &str, rows: &[(&str, u64)]) -> (String, Measured) {
        let case = cases::all().into_iter().find(|case| case.name == name).unwrap();
        let line = |ns: u64| Line { cpu_ns: ns * 1000, window_records: 1000, ..Line::default() };
        let rows = rows.iter().map(|(row, ns)| ((*row).to_owned(), vec![line(*ns)])).collect();
        (
            name.to_owned(),
            Measured {
                case,
                window: 1000,
                rows,
                topic_bytes: None,
                profiles: BTreeMap::new(),
                failed: BTreeMap::new(),
            },
        )
    }

    fn find<'a>(bars: &'a [Bar], text: &str) -> &'a Bar {
        bars.iter().find(|bar| bar.text.contains(text)).unwrap()
    }

    #[test]
    fn nothing_measured_is_never_met() {
        assert!(judge(&Results::default()).iter().all(|bar| bar.verdict == Verdict::NotMeasured));
    }

    #[test]
    fn bars_are_met_and_missed_by_their_numbers() {
        let rows = [("floor/full", 40), ("milena/batches", 48), ("milena/recv", 80), ("franz-go/best", 200)];
        let results = Results { cases: [measured("consume-6-100", &rows)].into(), ..Results::default() };
        let bars = judge(&results);
        assert_eq!(find(&bars, "consume-6-100, batches").verdict, Verdict::Met { goal: true });
        assert_eq!(find(&bars, "consume-6-100, recv").verdict, Verdict::Missed);
        assert_eq!(find(&bars, "consume-6-100: cost of the best").measured, Some(200.0 / 48.0));
        assert_eq!(find(&bars, "consume-1-100, batches").verdict, Verdict::NotMeasured);
    }

    #[test]
    fn defaults_are_held_against_tuned_settings_of_the_same_round() {
        let rows = [("floor/full", 40), ("milena/ticket", 120), ("milena/tuned", 100)];
        let results =
            Results { cases: [measured("produce-6-100-default", &rows)].into(), ..Results::default() };
        let bars = judge(&results);
        assert_eq!(find(&bars, "produce-6-100-default: cost by that").measured, Some(1.2));
    }

    #[test]
    fn a_peer_that_cannot_write_idempotently_is_no_measure() {
        assert!(!is_peer("rskafka/best") && !is_peer("floor/raw") && is_peer("java/best"));
    }
}
